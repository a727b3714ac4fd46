"""Calibration: predicted effects of single neurons against their true lesions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError


@dataclass(frozen=True)
class Calibration(Shown):
    """Agreement of attributions with true single-neuron lesion effects on each label's tag loss.

    Lesions are single neurons; some were drawn at random from all, the others for their attribution.
    Rank correlation (with a bootstrap interval), slope and `recall` are over the random draw alone,
    where choosing by attribution cannot flatter them; `..._all` over every lesion. `recall` is the
    share of the `k` truly largest that are among the `k` of the largest attribution, which is also
    the precision, as both lists have `k`; `chance` is what a random ranking would share. `slope` is
    that of the true effect on the predicted one: 1 when sizes are right. `sign` is the share of the
    `k` of the largest attribution whose true lesion raises the loss, over all lesions.
    NaN where a label's predictions or effects do not vary.
    """

    labels: tuple[str, ...]
    k: int
    n_random: int
    n_all: int
    correlation: Float[np.ndarray, " label"]
    low: Float[np.ndarray, " label"]
    high: Float[np.ndarray, " label"]
    correlation_all: Float[np.ndarray, " label"]
    slope: Float[np.ndarray, " label"]
    slope_all: Float[np.ndarray, " label"]
    recall: Float[np.ndarray, " label"]
    recall_all: Float[np.ndarray, " label"]
    sign: Float[np.ndarray, " label"]

    @property
    def chance(self) -> float:
        """Expected recall of a random ranking in the random draw."""
        return self.k / self.n_random

    def to_frame(self) -> pd.DataFrame:
        """A row per label."""
        names = ("correlation", "low", "high", "correlation_all", "slope", "slope_all")
        columns = {name: getattr(self, name) for name in (*names, "recall", "recall_all", "sign")}
        return pd.DataFrame({"label": self.labels, **columns, "chance": self.chance})

    def verdict(self) -> str:
        """The outcome in one sentence."""
        return (
            f"Over {self.n_random} neurons drawn at random, attribution and true lesion correlate by "
            f"rank at {np.nanmean(self.correlation):.2f} in the mean over {len(self.labels)} tags, "
            f"and {np.nanmean(self.recall):.0%} of the {self.k} largest effects are among the "
            f"{self.k} largest attributions ({self.chance:.0%} by chance)."
        )

    def __repr__(self) -> str:
        return f"Calibration: {self.verdict()}"


def calibration(
    labels: tuple[str, ...],
    predicted: Float[np.ndarray, "label lesion"],
    measured: Float[np.ndarray, "label lesion"],
    random: Bool[np.ndarray, " lesion"],
    *,
    k: int,
    rng: np.random.Generator,
    n_bootstrap: int = 1000,
) -> Calibration:
    """Attributions of single neurons against the change of L_tag (nats) when each is cut.

    `random` marks the neurons drawn at random from all neurons, whatever their attribution.
    Raises GrammarLensError with fewer than 3 of those, for `k` out of their range, and for values that
    are not finite.
    """
    drawn = np.flatnonzero(random)
    if len(drawn) < 3:
        raise GrammarLensError(
            f"{len(drawn)} of {len(random)} neurons were drawn at random, needs at least 3: neurons "
            "chosen by attribution alone cannot tell how good it is"
        )
    if not 1 <= k <= len(drawn):
        raise GrammarLensError(f"k is {k}, expected 1 to {len(drawn)}, the neurons drawn at random")
    if not (np.isfinite(predicted).all() and np.isfinite(measured).all()):
        raise GrammarLensError(
            "attributions or lesion effects are not finite: leave those neurons out"
        )
    draws = drawn[rng.integers(0, len(drawn), (n_bootstrap, len(drawn)))]
    some, true = predicted[:, drawn], measured[:, drawn]
    low, high = _interval(predicted, measured, draws)
    return Calibration(
        labels=labels,
        k=k,
        n_random=len(drawn),
        n_all=len(random),
        correlation=_rank_correlation(some, true),
        low=low,
        high=high,
        correlation_all=_rank_correlation(predicted, measured),
        slope=_slope(some, true),
        slope_all=_slope(predicted, measured),
        recall=_recall(some, true, k),
        recall_all=_recall(predicted, measured, k),
        sign=np.array(
            [(m[_largest(p, k)] > 0).mean() for p, m in zip(predicted, measured, strict=True)]
        ),
    )


def _rank_correlation(
    predicted: Float[np.ndarray, "*row lesion"], measured: Float[np.ndarray, "*row lesion"]
) -> Float[np.ndarray, "*row"]:
    """Spearman's rank correlation along the last axis; NaN where one side does not vary."""
    x, y = (stats.rankdata(v, axis=-1) for v in (predicted, measured))
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), size, out=np.full(size.shape, np.nan), where=size > 0)


def _interval(
    predicted: Float[np.ndarray, "label lesion"],
    measured: Float[np.ndarray, "label lesion"],
    draws: Int[np.ndarray, "draw drawn"],
) -> tuple[Float[np.ndarray, " label"], Float[np.ndarray, " label"]]:
    """The 2.5th and 97.5th percentile over bootstrap draws of neurons."""
    low, high = np.full(len(predicted), np.nan), np.full(len(predicted), np.nan)
    for i in range(len(predicted)):
        correlations = _rank_correlation(predicted[i][draws], measured[i][draws])
        known = correlations[np.isfinite(correlations)]
        if len(known):
            low[i], high[i] = np.quantile(known, [0.025, 0.975])
    return low, high


def _slope(
    predicted: Float[np.ndarray, "label lesion"], measured: Float[np.ndarray, "label lesion"]
) -> Float[np.ndarray, " label"]:
    """Least-squares slope of the measured on the predicted effect."""
    x = predicted - predicted.mean(1, keepdims=True)
    size = (x**2).sum(1)
    return np.divide((x * measured).sum(1), size, out=np.full(size.shape, np.nan), where=size > 0)


def _largest(values: Float[np.ndarray, " lesion"], k: int) -> Int[np.ndarray, " k"]:
    return np.argsort(-values, kind="stable")[:k]


def _recall(
    predicted: Float[np.ndarray, "label lesion"],
    measured: Float[np.ndarray, "label lesion"],
    k: int,
) -> Float[np.ndarray, " label"]:
    return np.array(
        [
            len(np.intersect1d(_largest(p, k), _largest(m, k))) / k
            for p, m in zip(predicted, measured, strict=True)
        ]
    )
