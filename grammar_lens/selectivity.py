"""Scores: how selectively every unit answers to every label, from moments alone.

Each score compares a label's words with all other words. `SCORES` is the registry; a new score is a
function from `Moments` to an array [label, layer, unit], added to it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special

from grammar_lens.moments import Moments, Origin, UnitStatistics, pool


class ScoreError(ValueError):
    """An unknown score, or too few words to compute one."""


@dataclass(frozen=True)
class Scores:
    """One number per label, layer and unit, with the effect size beside it.

    `effect` is Cohen's d of label against rest. `p` is the two-sided p-value where the score has
    one; it describes words as if they were independent, so it is for orientation only.
    """

    method: str
    labels: tuple[str, ...]
    count: Float[np.ndarray, " label"]
    values: Float[np.ndarray, "label layer unit"]
    effect: Float[np.ndarray, "label layer unit"]
    p: Float[np.ndarray, "label layer unit"] | None
    units: UnitStatistics
    origin: Origin

    def __getitem__(self, label: str) -> Float[np.ndarray, "layer unit"]:
        """The scores of one label."""
        if label not in self.labels:
            raise ScoreError(f"no scores of {label!r}: there are {', '.join(self.labels)}")
        return self.values[self.labels.index(label)]

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """A row per label and unit, the `top` largest by absolute score of each label if given."""
        n_units = self.values.shape[2]
        frames = []
        for i, label in enumerate(self.labels):
            flat = self.values[i].ravel()
            order = np.argsort(-np.abs(flat), kind="stable")[:top]
            columns = {
                "label": label,
                "layer": order // n_units,
                "index": order % n_units,
                "score": flat[order],
                "cohens_d": self.effect[i].ravel()[order],
            }
            if self.p is not None:
                columns["p"] = self.p[i].ravel()[order]
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        best = (f"{label} {np.abs(self[label]).max():.3f}" for label in self.labels)
        shape = " x ".join(map(str, self.values.shape))
        return (
            f"Scores ({self.method}) {shape} of {self.origin.model} on {self.origin.treebank}, "
            f"position {self.origin.position!r}; largest |score|: {', '.join(best)}"
        )

    def _repr_html_(self) -> str:
        return self.to_frame(top=5).to_html(index=False)


def score(moments: Moments, method: str = "correlation") -> Scores:
    """Scores of every unit for every label.

    Raises ScoreError for an unknown method and for labels with fewer than 2 words.
    """
    if method not in SCORES:
        raise ScoreError(f"unknown score {method!r}: expected one of {', '.join(SCORES)}")
    few = {x: int(n) for x, n in zip(moments.labels, moments.count, strict=True) if n < 2}
    if few:
        listed = ", ".join(f"{label!r} has {n}" for label, n in few.items())
        raise ScoreError(
            f"labels with fewer than 2 words cannot be scored: {listed}; "
            "use a larger treebank or leave these labels out (--labels)"
        )
    if len(moments.labels) < 2:
        raise ScoreError(
            f"only the label {', '.join(map(repr, moments.labels))} is there: a score compares a label with the rest"
        )
    values, p = SCORES[method](moments)
    effect = values if method == "cohens_d" else cohens_d(moments)[0]
    return Scores(
        method=method,
        labels=moments.labels,
        count=moments.count,
        values=values,
        effect=effect,
        p=p,
        units=moments.units(),
        origin=moments.origin,
    )


ScoreValues = tuple[
    Float[np.ndarray, "label layer unit"], Float[np.ndarray, "label layer unit"] | None
]


def correlation(moments: Moments) -> ScoreValues:
    """Point-biserial correlation of each unit with "the word has this label", in [-1, 1].

    r = (m1 - m0) / s * sqrt(p (1 - p)), s with ddof 0. A unit that never varies gets 0.
    Source: Lev (1949), The point biserial coefficient of correlation.
    """
    mean, m2 = moments.pooled()
    n = moments.n_words
    share = (moments.count / n)[:, None, None]
    # m1 - m0 = (m1 - m) / (1 - p)
    gap = (moments.mean - mean) / (1 - share)
    values = _ratio(gap * np.sqrt(share * (1 - share)), np.sqrt(m2 / n))
    return np.clip(values, -1, 1), None


def cohens_d(moments: Moments) -> ScoreValues:
    """Standardised mean difference, label minus rest, in pooled standard deviations.

    A unit that varies neither within the label nor within the rest gets 0.
    Source: Cohen (1988), Statistical Power Analysis, ch. 2.
    """
    n1, n0, mean0, m2_0 = _rest(moments)
    pooled = np.sqrt((moments.m2 + m2_0) / np.maximum(n1 + n0 - 2, 1))
    return _ratio(moments.mean - mean0, pooled), None


def welch_t(moments: Moments) -> ScoreValues:
    """Welch's t of label against rest, and its two-sided p with Welch-Satterthwaite df.

    The p treats words as independent, which words of one text are not: it is descriptive.
    A unit that varies neither within the label nor within the rest gets t 0 and p 1.
    Source: Welch (1947), Biometrika 34.
    """
    n1, n0, mean0, m2_0 = _rest(moments)
    error1, error0 = moments.m2 / (n1 - 1) / n1, m2_0 / (n0 - 1) / n0
    t = _ratio(moments.mean - mean0, np.sqrt(error1 + error0))
    df = _ratio((error1 + error0) ** 2, error1**2 / (n1 - 1) + error0**2 / (n0 - 1))
    return t, 2 * special.stdtr(np.maximum(df, 1.0), -np.abs(t))


SCORES: dict[str, Callable[[Moments], ScoreValues]] = {
    "correlation": correlation,
    "cohens_d": cohens_d,
    "welch_t": welch_t,
}


def _rest(
    moments: Moments,
) -> tuple[
    Float[np.ndarray, "label 1 1"],
    Float[np.ndarray, "label 1 1"],
    Float[np.ndarray, "label layer unit"],
    Float[np.ndarray, "label layer unit"],
]:
    """Words of the label, words of the rest, and the rest's mean and squared deviations."""
    mean0, m2_0 = np.empty_like(moments.mean), np.empty_like(moments.m2)
    for i in range(len(moments.labels)):
        others = np.arange(len(moments.labels)) != i
        mean0[i], m2_0[i] = pool(moments.count[others], moments.mean[others], moments.m2[others])
    n1 = moments.count[:, None, None]
    return n1, moments.n_words - n1, mean0, m2_0


def _ratio(
    above: Float[np.ndarray, "..."], below: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Quotient, 0 where the denominator is 0."""
    return np.divide(
        above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0
    )
