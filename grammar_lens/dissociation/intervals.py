"""Intervals of the cells of a lesion matrix, from the losses word by word."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.defaults import SEED
from grammar_lens.dissociation.changes import changes
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError, NotMeasuredError
from grammar_lens.lesions.outcomes import Ablation

LEVEL = (2.5, 97.5)


def cell_intervals(
    study: LesionStudy,
    words: pd.DataFrame | None = None,
    *,
    n_draws: int = 1000,
    seed: int = SEED,
) -> Float[np.ndarray, "label label two"]:
    """The 95 % interval of every cell of `study.matrix`: nats, low and high, each cell by itself.

    Percentiles of a bootstrap over sentences (Efron & Tibshirani 1993, ch. 13). `words` are the losses
    word by word that a run keeps (`run.lesions`), by default those of the study; shams are not
    subtracted.
    Raises NotMeasuredError without them, and GrammarLensError where they are of another study.
    """
    rise, column, sentence = _of_study(study) if words is None else _of_table(study, words)
    n_labels = len(study.labels)
    names, number = np.unique(sentence, return_inverse=True)
    cell, n_cells = number * n_labels + column, len(names) * n_labels
    count = np.bincount(cell, minlength=n_cells).reshape(len(names), n_labels)
    sums = np.stack(
        [np.bincount(cell, row, minlength=n_cells).reshape(len(names), n_labels) for row in rise]
    )
    rng = np.random.default_rng(seed)
    n = len(names)
    weight = rng.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(float)
    drawn = np.einsum("ds,lsc->dlc", weight, sums) / np.maximum(weight @ count, 1)[:, None]
    return np.moveaxis(np.percentile(drawn, LEVEL, axis=0), 0, -1)


_Words = tuple[Float[np.ndarray, "label word"], Int[np.ndarray, " word"], Int[np.ndarray, " word"]]
"""Rise of the tag loss under every lesion, number of each word's label, and its sentence."""


def _of_study(study: LesionStudy) -> _Words:
    if study.outcomes is None:
        raise NotMeasuredError(
            "a stored study has no losses word by word: give those of its run, words=run.lesions"
        )
    found = changes(study.outcomes.only(study.ablation), study.labels)
    return found.real, found.column, found.sentence


def _of_table(study: LesionStudy, words: pd.DataFrame) -> _Words:
    ablation: Ablation = study.ablation
    main = words.loc[
        (words["kind"] == "set")
        & (words["replicate"] == 0)
        & (words["value"] == ablation.value)
        & np.isclose(words["dose"].to_numpy(float), ablation.dose)
        & (words["where"] == ablation.where)
    ]
    intact = words.loc[words["lesion"] == ""].set_index("word")
    intact = intact[intact["label"].isin(study.labels)]
    number = {label: i for i, label in enumerate(study.labels)}
    column = np.array([number[x] for x in intact["label"]], np.int64)
    rows = []
    for label in study.labels:
        loss = main.loc[main["lesion"] == label].set_index("word")["tag_loss"].reindex(intact.index)
        if loss.isna().any():
            raise GrammarLensError(
                f"words has no {ablation} lesion of {label!r} at every word: give run.lesions of the "
                "run that the study is of"
            )
        rows.append(loss.to_numpy(float) - intact["tag_loss"].to_numpy(float))
    return np.stack(rows), column, intact["sentence"].to_numpy(np.int64)
