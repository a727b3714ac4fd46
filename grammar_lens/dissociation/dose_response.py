"""Dose-response: the loss at growing doses of one lesion, and its trend."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from grammar_lens.display import Shown
from grammar_lens.dissociation.changes import Changes
from grammar_lens.dissociation.matrices import LEAST_SHAMS, chance
from grammar_lens.lesions.holm import holm
from grammar_lens.lesions.outcomes import Ablation


@dataclass(frozen=True)
class DoseResponse(Shown):
    """Rise of each label's loss (nats) with the dose of the lesion of its neurons.

    `own` is the rise of the label's own tag loss, `other` the mean rise of the other labels'; dose 0
    costs exactly 0. Shams have the mean, the lowest and the highest own loss over replicates, NaN at
    doses without shams. `slope` is the least-squares slope of `own` over the doses from 0 to 1, in
    nats per unit of dose; `slope_p` its one-sided p over sentences; `sham_slope` that of every
    replicate that has all these doses. Doses below 0 and above 1 amplify and enter no test.
    """

    labels: tuple[str, ...]
    value: str
    where: str
    dose: Float[np.ndarray, " dose"]
    own: Float[np.ndarray, "label dose"]
    other: Float[np.ndarray, "label dose"]
    sham_own: Float[np.ndarray, "label dose"]
    sham_low: Float[np.ndarray, "label dose"]
    sham_high: Float[np.ndarray, "label dose"]
    slope: Float[np.ndarray, " label"]
    slope_p: Float[np.ndarray, " label"]
    sham_slope: Float[np.ndarray, "replicate label"]

    @property
    def n_shams(self) -> int:
        return len(self.sham_slope)

    @property
    def tested(self) -> Bool[np.ndarray, " dose"]:
        """The doses of the trend: those from 0 to 1."""
        return np.asarray((self.dose >= 0) & (self.dose <= 1))

    @property
    def monotone(self) -> Bool[np.ndarray, " label"]:
        """Whether a label's own loss rises at every step from dose 0 to 1."""
        return np.asarray((np.diff(self.own[:, self.tested], axis=1) > 0).all(1))

    @property
    def rising(self) -> Bool[np.ndarray, " label"]:
        """Labels whose slope is above 0 at 5 %, after Holm over the labels."""
        return holm(self.slope_p) <= 0.05

    @property
    def sham_p(self) -> float | None:
        """(1 + shams with at least the real slope) / (1 + shams), slopes averaged over labels.

        None without shams. A set that does more damage overall is steeper, too: the matrix shows
        whether the damage is selective.
        """
        return chance(float(self.slope.mean()), self.sham_slope.mean(1))

    @property
    def sham_p_values(self) -> Float[np.ndarray, " label"]:
        """The same label by label; NaN without shams."""
        pairs = zip(self.slope, self.sham_slope.T, strict=True)
        return np.array([np.nan if (p := chance(*pair)) is None else p for pair in pairs])

    def to_frame(self) -> pd.DataFrame:
        """A row per label and dose."""
        n_labels, n_doses = self.own.shape
        return pd.DataFrame(
            {
                "label": np.repeat(np.array(self.labels, object), n_doses),
                "dose": np.tile(self.dose, n_labels),
                "own": self.own.ravel(),
                "other": self.other.ravel(),
                "sham_own": self.sham_own.ravel(),
                "sham_low": self.sham_low.ravel(),
                "sham_high": self.sham_high.ravel(),
            }
        )

    def trend_frame(self) -> pd.DataFrame:
        """A row per label: slope, its p over sentences and against shams, and whether monotone."""
        shams = self.sham_slope.mean(0) if self.n_shams else np.full(len(self.labels), np.nan)
        return pd.DataFrame(
            {
                "label": self.labels,
                "slope": self.slope,
                "p": self.slope_p,
                "monotone": self.monotone,
                "sham_slope": shams,
                "sham_p": self.sham_p_values,
            }
        )

    def verdict(self) -> str:
        """The outcome in one or two sentences."""
        n = len(self.labels)
        doses = ", ".join(f"{dose:g}" for dose in self.dose[self.tested])
        text = (
            f"Over doses {doses} the own tag loss grows with the dose for {self.rising.sum()} of {n} "
            f"tags (Holm), at every step for {self.monotone.sum()}."
        )
        if self.sham_p is None:
            return text
        slopes = (
            f"{self.slope.mean():.3f} against {self.sham_slope.mean():.3f} nats per unit of dose, "
            f"p = {self.sham_p:.3f}"
        )
        if self.sham_p <= 0.05:
            return f"{text} It grows faster than under the shams ({slopes})."
        if self.n_shams < LEAST_SHAMS:
            return f"{text} {self.n_shams} shams are too few to compare slopes ({slopes})."
        return f"{text} That is not shown to be faster than under the shams ({slopes})."

    def __repr__(self) -> str:
        return f"DoseResponse: {self.verdict()}"

    def _tables(self) -> list[pd.DataFrame]:
        return [self.trend_frame()]


def response(by_ablation: dict[Ablation, Changes]) -> DoseResponse | None:
    """The dose-response of the first ablation and those that differ from it in dose alone.

    None when there is no other dose, or none above 0 and up to 1. Replicates are numbered alike.

    The trend is tested by the slope, not by ranks: a lesion's effect on one sentence is nearly
    proportional to the dose, so the ranks within a sentence are not exchangeable and Page's L has
    18 % false positives at 5 % (simulated); with its variance taken over sentences it holds its level
    but sees nothing where few sentences bear the whole rise.
    """
    main = next(iter(by_ablation))
    same = {
        m.dose: changes
        for m, changes in by_ablation.items()
        if (m.value, m.where) == (main.value, main.where) and m.dose != 0
    }
    dose = np.array(sorted({0.0, *same}))
    tested = dose[(dose >= 0) & (dose <= 1)]
    if len(dose) < 3 or len(tested) < 2:
        return None
    means = {d: changes.matrix() for d, changes in same.items()}
    shams = {d: _own(changes.sham_matrices()) for d, changes in same.items()}
    first = by_ablation[main]
    n_labels = len(first.labels)
    nothing = np.zeros((n_labels, n_labels))
    own = np.stack([np.diag(means.get(d, nothing)) for d in dose], 1)
    whole = np.stack([means.get(d, nothing).sum(1) for d in dose], 1)
    other = (whole - own) / max(n_labels - 1, 1)
    spread = np.stack([_spread(shams.get(d, np.zeros((1, n_labels)))) for d in dose], 2)
    weight = dict(zip(tested, _slope_weights(tested), strict=True))
    slope, p = _trend(same, weight, first)
    fewest = min(len(shams[d]) for d in tested if d != 0)
    by_sham = sum((weight[d] * shams[d][:fewest] for d in tested if d != 0), np.zeros(n_labels))
    return DoseResponse(
        labels=first.labels,
        value=main.value,
        where=main.where,
        dose=dose,
        own=own,
        other=other,
        sham_own=spread[0],
        sham_low=spread[1],
        sham_high=spread[2],
        slope=slope,
        slope_p=p,
        sham_slope=np.reshape(by_sham, (-1, n_labels)) if fewest else np.zeros((0, n_labels)),
    )


def _own(
    matrices: Float[np.ndarray, "replicate label label"],
) -> Float[np.ndarray, "replicate label"]:
    return np.diagonal(matrices, axis1=1, axis2=2)


def _spread(own: Float[np.ndarray, "replicate label"]) -> Float[np.ndarray, "three label"]:
    if not len(own):
        return np.full((3, own.shape[1]), np.nan)
    return np.stack([own.mean(0), own.min(0), own.max(0)])


def _slope_weights(dose: Float[np.ndarray, " dose"]) -> Float[np.ndarray, " dose"]:
    """Weight of each dose's loss in the least-squares slope."""
    centred = dose - dose.mean()
    return centred / (centred**2).sum()


def _trend(
    changes: dict[float, Changes], weight: dict[float, float], first: Changes
) -> tuple[Float[np.ndarray, " label"], Float[np.ndarray, " label"]]:
    """Slope of each label's own loss, and its one-sided p by a t-test over sentences.

    The standard error is that of a ratio of sums over sentences (words of a sentence are not
    independent; Cochran 1977, Sampling Techniques, ch. 6). p is 1 where the slope does not vary.
    """
    every = np.arange(len(first.column))
    word_slope = np.zeros(len(every))
    for dose, w in weight.items():
        if dose != 0:
            word_slope += w * changes[dose].real[first.column, every]
    slope, p = np.zeros(len(first.labels)), np.ones(len(first.labels))
    for i in range(len(slope)):
        of_label = first.column == i
        slope[i] = word_slope[of_label].mean()
        _, sentence = np.unique(first.sentence[of_label], return_inverse=True)
        residual = np.bincount(sentence, weights=word_slope[of_label] - slope[i])
        n = len(residual)
        error = np.sqrt(n / (n - 1) * (residual**2).sum()) / of_label.sum() if n > 1 else 0.0
        if error > 0:
            p[i] = float(stats.t.sf(slope[i] / error, n - 1))
    return slope, p
