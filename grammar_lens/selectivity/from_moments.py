"""Scores from moments alone: differences of means, variance explained, firing.

Those that depend on counts, means and the summed squared deviations alone (`class_means_suffice` in
the registry) read `m2` through its sum over labels and in no other way: a null made of exchanged
labels then needs the class means of each replicate and nothing else.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from grammar_lens.passes.chan import chan
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.result import ScoreValues

LEAST_FIRING = 0.01
"""A unit that fires at a smaller share of every label's words has no `entropy`."""
_BLOCK = 2**12


def correlation(evidence: Evidence) -> ScoreValues:
    """Point-biserial correlation of each unit with "the word has this label", in [-1, 1].

    r = (m1 - m0) / s * sqrt(p (1 - p)), s with ddof 0. A unit that never varies gets 0.
    Source: Lev (1949), The point biserial coefficient of correlation.
    """
    moments = evidence.moments
    mean, m2 = moments.pooled()
    n = moments.n_words
    share = (moments.count / n)[:, None, None]
    # (m1 - m0) sqrt(p (1 - p)) = (m1 - m) sqrt(p / (1 - p))
    gap = (moments.mean - mean) * np.sqrt(share / (1 - share))
    return np.clip(_ratio(gap, np.sqrt(m2 / n)), -1, 1), None


def cohens_d(evidence: Evidence) -> ScoreValues:
    """Standardised mean difference, label minus rest, in pooled standard deviations.

    A unit that varies neither within the label nor within the rest gets 0.
    Source: Cohen (1988), Statistical Power Analysis, ch. 2.
    """
    moments = evidence.moments
    values = np.empty(moments.mean.shape)
    mean, within = _flat(moments.mean), moments.m2.sum(0)
    for some in _blocks(mean.shape[1]):
        rest, spread = _rest(moments.count, mean[:, some])
        # what varies within the label and within the rest: all labels, and the means in the rest
        squares = within.ravel()[some] + spread
        pooled = np.sqrt(squares / max(moments.n_words - 2, 1))
        _flat(values)[:, some] = _ratio(mean[:, some] - rest, pooled)
    return values, None


def welch_t(evidence: Evidence) -> ScoreValues:
    """Welch's t of label against rest, and its two-sided p with Welch-Satterthwaite df.

    The p treats words as independent, which words of one text are not: it is descriptive.
    A unit that varies neither within the label nor within the rest gets t 0 and p 1.
    Source: Welch (1947), Biometrika 34.
    """
    moments = evidence.moments
    n1 = moments.count[:, None]
    n0 = moments.n_words - n1
    mean, m2 = _flat(moments.mean), _flat(moments.m2)
    t, p = np.empty(moments.mean.shape), np.empty(moments.mean.shape)
    for some in _blocks(mean.shape[1]):
        rest, m2_rest = _rest(moments.count, mean[:, some], m2[:, some])
        error1, error0 = m2[:, some] / (n1 - 1) / n1, m2_rest / (n0 - 1) / n0
        squares = error1**2 / (n1 - 1) + error0**2 / (n0 - 1)
        df = np.maximum(_ratio((error1 + error0) ** 2, squares), 1.0)
        of_some = _ratio(mean[:, some] - rest, np.sqrt(error1 + error0))
        _flat(t)[:, some] = of_some
        _flat(p)[:, some] = 2 * special.stdtr(df, -np.abs(of_some))
    return t, p


def eta_squared(evidence: Evidence) -> ScoreValues:
    """Share of each unit's variance that lies between labels, in [0, 1]; the same for every label.

    A unit that never varies gets 0. Source: Fisher (1925), Statistical Methods, ch. 7.
    """
    moments = evidence.moments
    return np.repeat(moments.units().eta_squared[None], len(moments.labels), axis=0), None


def probeless(evidence: Evidence) -> ScoreValues:
    """Sum of the distances of the label's mean from every other label's mean, in the unit's scale.

    A unit whose mean is the same at every label gets 0.
    Source: Antverg & Belinkov (2022), On the pitfalls of analyzing individual neurons, section 3.
    """
    values = np.zeros(evidence.moments.mean.shape)
    mean = _flat(evidence.moments.mean)
    for some in _blocks(mean.shape[1]):
        block, sums = mean[:, some], _flat(values)[:, some]
        for i in range(1, len(mean)):
            distance = np.abs(block[:i] - block[i])
            sums[:i] += distance
            sums[i] += distance.sum(0)
    return values, None


def probeless_sd(evidence: Evidence) -> ScoreValues:
    """`probeless` in standard deviations of the unit over all words (ddof 0).

    A unit that never varies gets 0.
    """
    _, m2 = evidence.moments.pooled()
    return _ratio(probeless(evidence)[0], np.sqrt(m2 / evidence.moments.n_words)[None]), None


def entropy(evidence: Evidence) -> ScoreValues:
    """Entropy in nats of the labels at which a unit fires, given only for the unit's own label.

    p'(c) = P(fires | c) / sum over labels; the own label is its argmax, ties going to the first
    label. From 0 (fires at that label only) to log(labels). All other labels of the unit are NaN, as
    are units that fire at less than `LEAST_FIRING` of every label's words, units that fire equally
    often at all labels, and units that never vary.
    Source: Tang et al. (2024), Language-specific neurons, with labels in the place of languages.
    """
    rate = evidence.moments.firing_rate()
    most = rate.max(0)
    counted = (most >= LEAST_FIRING) & (rate.min(0) < most) & varies(evidence.moments)
    share = _ratio(rate, rate.sum(0)[None])
    of_unit = special.entr(share).sum(0)
    own = np.arange(len(rate))[:, None, None] == rate.argmax(0)
    return np.where(own & counted, of_unit, np.nan), None


def varies(moments: Moments) -> Bool[np.ndarray, "layer unit"]:
    """Whether a unit has not the same value at all words."""
    return (moments.m2.sum(0) > 0) | (np.ptp(moments.mean, axis=0) > 0)


def _rest(
    count: Float[np.ndarray, " label"],
    mean: Float[np.ndarray, "label unit"],
    m2: Float[np.ndarray, "label unit"] | None = None,
) -> tuple[Float[np.ndarray, "label unit"], Float[np.ndarray, "label unit"]]:
    """Mean and squared deviations of all words but each label's; without `m2`, those of the means.

    The labels before and the labels after are merged from either end, so every label
    takes two merges more and nothing is subtracted: the difference between the whole and the label
    would lose a small variance in the rounding of large ones.
    """
    own = np.zeros_like(mean) if m2 is None else m2
    before = _running(count, mean, own)
    after = [x[::-1] for x in _running(count[::-1], mean[::-1], own[::-1])]
    step, spread = chan(before[0], after[0], after[1] - before[1])
    return before[1] + step, before[2] + after[2] + spread


def _running(
    count: Float[np.ndarray, " label"],
    mean: Float[np.ndarray, "label unit"],
    m2: Float[np.ndarray, "label unit"],
) -> tuple[
    Float[np.ndarray, "label 1"],
    Float[np.ndarray, "label unit"],
    Float[np.ndarray, "label unit"],
]:
    """Count, mean and squared deviations of the labels that stand before each label."""
    n = np.cumsum(count) - count
    means, squares = np.zeros_like(mean), np.zeros_like(mean)
    for i in range(len(count) - 1):
        step, spread = chan(n[i : i + 1], count[i : i + 1], mean[i] - means[i])
        means[i + 1] = means[i] + step
        squares[i + 1] = squares[i] + m2[i] + spread
    return n[:, None], means, squares


def _flat(values: Float[np.ndarray, "label layer unit"]) -> Float[np.ndarray, "label all"]:
    """All units of all layers in a row; a view where the array is contiguous."""
    return values.reshape(len(values), -1)


def _blocks(n: int) -> Iterator[slice]:
    """Slices of so many units that a few arrays of theirs for every label stay in the cache."""
    return (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK))


def _ratio(
    above: Float[np.ndarray, "..."], below: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Quotient, 0 where the denominator is 0."""
    return np.divide(
        above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0
    )
