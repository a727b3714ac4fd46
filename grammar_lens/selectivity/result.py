"""`Scores`: one number per label, layer and unit, and which of them count as strong."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import SIGNS
from grammar_lens.display import Shown, listed
from grammar_lens.errors import GrammarLensError, expected_one_of, require_one_of
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.selectivity.permutation_null import Null

ScoreValues = tuple[
    Float[np.ndarray, "label layer unit"], Float[np.ndarray, "label layer unit"] | None
]
"""Values and, where the score has one, p."""


@dataclass(frozen=True)
class Scores(Shown):
    """One number per label, layer and unit, with the effect size beside it.

    `effect` is Cohen's d of label against rest. `p` is the two-sided p-value where the score has
    one; it describes words as if they were independent, so it is for orientation only.
    `best` says which values are strong: those "far" from `neutral` on either side, "high" or "low".
    """

    method: str
    labels: tuple[str, ...]
    count: Float[np.ndarray, " label"]
    values: Float[np.ndarray, "label layer unit"]
    effect: Float[np.ndarray, "label layer unit"]
    p: Float[np.ndarray, "label layer unit"] | None
    units: UnitStatistics
    origin: Origin
    best: str = "far"
    neutral: float = 0.0
    null: Null | None = None
    """The same score under exchanged labels; None where no replicates were collected for it."""

    def __getitem__(self, label: str) -> Float[np.ndarray, "layer unit"]:
        """The scores of one label."""
        if label not in self.labels:
            raise GrammarLensError(f"no scores of {label!r}: {expected_one_of(label, self.labels)}")
        return self.values[self.labels.index(label)]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.labels)

    def strength(self, sign: str = "absolute") -> Float[np.ndarray, "label layer unit"]:
        """The value to rank units by: larger is stronger; units at or below 0 are never chosen.

        Where `best` is "far", the distance from `neutral` ("absolute"), or how far the value lies
        above ("positive") or below it ("negative"). Where it is "high", the value; where it is
        "low", exp(-value), in (0, 1] for values from 0 up. A value that is missing (NaN) gives 0.
        Raises GrammarLensError for an unknown sign, and for "negative" where only one end is strong.
        """
        require_one_of("sign", sign, SIGNS)
        if self.best != "far" and sign == "negative":
            raise GrammarLensError(
                f"score {self.method!r} is strong where it is {self.best}, so sign 'negative' has no "
                "meaning: use 'absolute'"
            )
        return self._ranked(self.values, sign)

    def strength_of(self, label: str) -> Float[np.ndarray, "layer unit"]:
        """The absolute `strength` of one label, without that of the others."""
        return self._ranked(self[label], "absolute")

    def _ranked(self, values: Float[np.ndarray, "..."], sign: str) -> Float[np.ndarray, "..."]:
        if self.best == "low":
            ranked = np.exp(-values)
        elif self.best == "high":
            ranked = values.copy()
        else:
            above = values - self.neutral
            ranked = {"absolute": np.abs, "positive": np.positive, "negative": np.negative}[sign](
                above
            )
        ranked[np.isnan(ranked)] = 0
        return ranked

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """A row per label and unit, strongest first, the `top` strongest of each label if given."""
        n_units = self.values.shape[2]
        strength = self.strength()
        frames = []
        for i, label in enumerate(self.labels):
            order = np.argsort(-strength[i].ravel(), kind="stable")[:top]
            columns = {
                "label": label,
                "layer": order // n_units,
                "index": order % n_units,
                "score": self.values[i].ravel()[order],
                "cohens_d": self.effect[i].ravel()[order],
            }
            if self.p is not None:
                columns["p"] = self.p[i].ravel()[order]
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        strongest = self.strength().reshape(len(self.labels), -1).argmax(1)
        value = np.take_along_axis(
            self.values.reshape(len(self.labels), -1), strongest[:, None], axis=1
        )[:, 0]
        best = (f"{label} {v:+.3g}" for label, v in zip(self.labels, value, strict=True))
        shape = " x ".join(map(str, self.values.shape))
        return (
            f"Scores ({self.method}) {shape} of {self.origin.model} on {self.origin.treebank}, "
            f"position {self.origin.position!r}; strongest: {listed(best)}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        return [self.to_frame(top=1)]
