"""The same lesion in other manners: its doses and its values."""

import numpy as np
import pandas as pd

from grammar_lens.dissociation.changes import StudyError
from grammar_lens.dissociation.doses import DoseResponse
from grammar_lens.dissociation.result import LesionStudy


def dose_response(study: LesionStudy) -> DoseResponse:
    """How the losses grow with the dose, from the study's main manner and those of other doses.

    Raises StudyError when the study has no other dose.
    """
    if study.doses is None:
        raise StudyError(
            f"this study has lesions of dose {study.dose:g} alone: measure several doses "
            "(0.25, 0.5, 0.75 and 1)"
        )
    return study.doses


def value_ladder(study: LesionStudy) -> pd.DataFrame:
    """A row per label and value of the lesion: do zero, mean and resample agree in sign?

    `own` is the rise of the label's own tag loss (nats), `other` the mean rise of other labels',
    `sham_own` the shams' mean own rise (NaN without shams); `agrees` says that the label's own loss
    changes in the same direction under every value. The study's own value comes first.
    """
    n = len(study.labels)
    frames = []
    for rung in study.ladder:
        own = np.diag(rung.matrix)
        frames.append(
            pd.DataFrame(
                {
                    "label": study.labels,
                    "value": rung.value,
                    "own": own,
                    "other": (rung.matrix.sum(1) - own) / max(n - 1, 1),
                    "sham_own": np.diag(rung.sham_mean) if rung.n_shams else np.full(n, np.nan),
                    "agrees": study.sign_agreement,
                }
            )
        )
    order = [i + n * j for i in range(n) for j in range(len(frames))]
    return pd.concat(frames, ignore_index=True).iloc[order].reset_index(drop=True)
