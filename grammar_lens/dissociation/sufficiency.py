"""Sufficiency: cut every neuron except a label's own set."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.display import Shown
from grammar_lens.dissociation.changes import Changes, changes, replicates
from grammar_lens.dissociation.matrices import LEAST_SHAMS, chance
from grammar_lens.lesions.outcomes import Outcomes

EVERYTHING = "(all)"
"""The label of a "rest" lesion that keeps no set: it cuts every unit."""


@dataclass(frozen=True)
class Sufficiency(Shown):
    """Loss of each label when all units but one label's set are cut.

    Row i keeps the set of label i, column j holds the words of label j; rise of the tag loss, nats.
    `sham` keeps a sham of the set instead, once per replicate. `everything` is the rise when every
    unit is cut and none kept; NaN where the battery has no such lesion.
    """

    labels: tuple[str, ...]
    kept: Float[np.ndarray, "label label"]
    sham: Float[np.ndarray, "replicate label label"]
    everything: Float[np.ndarray, " label"]

    @property
    def n_shams(self) -> int:
        return len(self.sham)

    @property
    def own(self) -> Float[np.ndarray, " label"]:
        """Rise of each label's own loss when only its set is kept."""
        return np.diag(self.kept)

    @property
    def sham_own(self) -> Float[np.ndarray, "replicate label"]:
        """The same when a sham is kept."""
        return np.diagonal(self.sham, axis1=1, axis2=2)

    @property
    def saved(self) -> Float[np.ndarray, " label"]:
        """Share of the loss of cutting everything that keeping the set saves; NaN where unknown."""
        missing = np.full(len(self.labels), np.nan)
        rise = self.everything
        return np.divide(rise - self.own, rise, out=missing, where=rise > 0)

    @property
    def p_values(self) -> Float[np.ndarray, " label"]:
        """(1 + shams that save their label at least as much) / (1 + shams); NaN without shams."""
        return np.array(
            [
                np.nan if (p := chance(-own, -sham)) is None else p
                for own, sham in zip(self.own, self.sham_own.T, strict=True)
            ]
        )

    @property
    def p_value(self) -> float | None:
        """The same for the mean over labels; None without shams."""
        return chance(-float(self.own.mean()), -self.sham_own.mean(1))

    def to_frame(self) -> pd.DataFrame:
        """A row per label."""
        shams = self.sham_own.mean(0) if self.n_shams else np.full(len(self.labels), np.nan)
        return pd.DataFrame(
            {
                "label": self.labels,
                "kept": self.own,
                "sham_kept": shams,
                "everything_cut": self.everything,
                "share_saved": self.saved,
                "p": self.p_values,
            }
        )

    def verdict(self) -> str:
        """The outcome in one or two sentences."""
        size = (
            "With every neuron cut but a tag's own set, its loss rises by "
            f"{self.own.mean():.3f} nats"
        )
        share = ""
        if np.isfinite(self.saved).all():
            saved = float(self.saved.mean())
            share = (
                f", so the set saves {saved:.0%} of what cutting everything costs"
                if saved > 0
                else ", no less than when everything is cut"
            )
        if self.p_value is None:
            return f"{size}{share}. Without shams kept in its place that says little."
        against = (
            f"{size}, and by {self.sham_own.mean():.3f} when a sham is kept instead "
            f"(p = {self.p_value:.3f}, {self.n_shams} shams){share}."
        )
        if self.p_value <= 0.05:
            return f"{against} The sets suffice for more than others of their kind."
        if self.n_shams < LEAST_SHAMS:
            return f"{against} So few shams cannot show more."
        return f"{against} It is not shown that the sets suffice for more than others do."

    def __repr__(self) -> str:
        return f"Sufficiency: {self.verdict()}"


def sufficiency(rest: Outcomes, labels: tuple[str, ...]) -> Sufficiency:
    """The statistics of the lesions of everything but a set."""
    change: Changes = changes(rest, labels)
    everything = np.full(len(labels), np.nan)
    if any(c.label == EVERYTHING for c in rest.conditions):
        row = rest.row(EVERYTHING, 0)
        for i, label in enumerate(labels):
            of_label = rest.label == rest.labels.index(label)
            everything[i] = (rest.tag_loss[row] - rest.tag_loss[0])[of_label].mean()
    assert len(change.sham) == len(replicates(rest))
    return Sufficiency(labels, change.matrix(), change.sham_matrices(), everything)
