"""Calibration: predicted effects of neurons against their true lesions."""

from collections.abc import Mapping
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


@dataclass(frozen=True)
class MethodCalibration(Shown):
    """Agreement of several methods' predictions with the true effects of the same lesions.

    `groups` are the kinds of lesions: so many random neurons at a time, or single neurons that some method
    ranks high among random ones. Values are of every sample of lesions, disjoint from the others, and means
    over labels: Spearman's and Pearson's correlation with the rise of the label's tag loss, and the share of
    the largest tenth of effects that is among the largest tenth of predictions (`chance` is .1). NaN where
    nothing varies.
    """

    labels: tuple[str, ...]
    methods: tuple[str, ...]
    groups: tuple[str, ...]
    n_lesions: Int[np.ndarray, "group sample"]
    rank: Float[np.ndarray, "method group sample"]
    linear: Float[np.ndarray, "method group sample"]
    recall: Float[np.ndarray, "method group sample"]

    def to_frame(self) -> pd.DataFrame:
        """A row per group and method: means over samples with 95 % intervals of Student's t."""
        rows = []
        for g, group in enumerate(self.groups):
            for m, method in enumerate(self.methods):
                row = {"lesions": group, "method": method, "n": int(self.n_lesions[g].sum())}
                for name in ("rank", "linear", "recall"):
                    mean, low, high = t_interval(getattr(self, name)[m, g])
                    row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
                rows.append(row)
        return pd.DataFrame(rows)

    def difference(self, first: str, second: str) -> pd.DataFrame:
        """A row per group: how much better one method is than another on the same lesions, with intervals."""
        a, b = (self.methods.index(method) for method in (first, second))
        rows = []
        for g, group in enumerate(self.groups):
            row: dict[str, object] = {"lesions": group}
            for name in ("rank", "linear", "recall"):
                values = getattr(self, name)
                mean, low, high = t_interval(values[a, g] - values[b, g])
                row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def verdict(self) -> str:
        """The outcome in one sentence."""
        best = []
        for g, group in enumerate(self.groups):
            mean = self.rank[:, g].mean(1)
            if np.isfinite(mean).any():
                m = int(np.nanargmax(mean))
                best.append(f"{self.methods[m]} for {group} ({mean[m]:.2f})")
        return (
            f"Of {len(self.methods)} methods, predictions agree best by rank with true lesions: "
            f"{', '.join(best) or 'none'}."
        )

    def __repr__(self) -> str:
        return f"MethodCalibration: {self.verdict()}"


TOP_SHARE = 0.1
"""Share of the largest effects that is looked for among the largest predictions."""


def method_calibration(
    labels: tuple[str, ...],
    predicted: Mapping[str, Float[np.ndarray, "label lesion"]],
    measured: Float[np.ndarray, "label lesion"],
    groups: Mapping[str, Bool[np.ndarray, " lesion"]],
    sample: Int[np.ndarray, " lesion"],
) -> MethodCalibration:
    """Predictions of several methods against the change of L_tag (nats) under the same lesions.

    `groups` marks the lesions of every kind, `sample` numbers the disjoint samples from 0.
    Raises GrammarLensError for a group with fewer than 3 lesions in a sample.
    """
    n_samples = int(sample.max(initial=-1)) + 1
    shape = (len(predicted), len(groups), n_samples)
    rank, linear, recall = (np.full(shape, np.nan) for _ in range(3))
    n_lesions = np.zeros(shape[1:], np.int64)
    for g, (group, members) in enumerate(groups.items()):
        for s in range(n_samples):
            at = np.flatnonzero(members & (sample == s))
            n_lesions[g, s] = len(at)
            if len(at) < 3:
                raise GrammarLensError(
                    f"{group} has {len(at)} lesions in sample {s}, expected 3 or more: cut more groups, "
                    "or make fewer samples"
                )
            true, k = measured[:, at], max(1, round(TOP_SHARE * len(at)))
            for m, values in enumerate(predicted.values()):
                some = values[:, at]
                rank[m, g, s] = _known_mean(_rank_correlation(some, true))
                linear[m, g, s] = _known_mean(_correlation(some, true))
                recall[m, g, s] = _recall(some, true, k).mean()
    return MethodCalibration(
        labels, tuple(predicted), tuple(groups), n_lesions, rank, linear, recall
    )


def t_interval(values: Float[np.ndarray, " sample"]) -> tuple[float, float, float]:
    """Mean and 95 % interval of Student's t; NaN without two values."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return (float(known.mean()) if len(known) else np.nan), np.nan, np.nan
    half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return float(known.mean()), float(known.mean() - half), float(known.mean() + half)


def _known_mean(values: Float[np.ndarray, " label"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _rank_correlation(
    predicted: Float[np.ndarray, "*row lesion"], measured: Float[np.ndarray, "*row lesion"]
) -> Float[np.ndarray, "*row"]:
    """Spearman's rank correlation along the last axis; NaN where one side does not vary."""
    x, y = (stats.rankdata(v, axis=-1) for v in (predicted, measured))
    return _correlation(x, y)


def _correlation(
    predicted: Float[np.ndarray, "*row lesion"], measured: Float[np.ndarray, "*row lesion"]
) -> Float[np.ndarray, "*row"]:
    """Pearson's correlation along the last axis; NaN where one side does not vary."""
    x = predicted - predicted.mean(-1, keepdims=True)
    y = measured - measured.mean(-1, keepdims=True)
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
