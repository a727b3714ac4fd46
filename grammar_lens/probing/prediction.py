"""Cross-entropies of predicted labels, beside what a lookup table and the model itself reach.

All are losses in nats of single held-out words, so that they compare on the same words.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import special

SMOOTHING = np.geomspace(0.1, 100, 31)
"""Weights of the prior among which `lookup_losses` chooses, in words."""


def lookup_losses(
    train_keys: Sequence[str],
    train_classes: Int[np.ndarray, " train"],
    fresh_keys: Sequence[str],
    fresh_classes: Int[np.ndarray, " fresh"],
    n_labels: int,
) -> Float[np.ndarray, " fresh"]:
    """Losses of each held-out word's label, given its key alone.

    P(label | key) is the share of the label among training words with that key, with the prior
    added as `b` words, so that a key never seen gives the prior. `b` is the one of `SMOOTHING` that
    predicts training words best when each is left out of the counts. A label without training words
    has the prior of half a word.
    """
    _, number = np.unique([*train_keys, *fresh_keys], return_inverse=True)
    train, fresh = number[: len(train_keys)], number[len(train_keys) :]
    counts = np.zeros((number.max() + 1, n_labels))
    np.add.at(counts, (train, train_classes), 1.0)
    prior = np.maximum(counts.sum(0), 0.5)
    prior /= prior.sum()

    def losses(
        key: Int[np.ndarray, " word"], label: Int[np.ndarray, " word"], b: float, left_out: int
    ) -> Float[np.ndarray, " word"]:
        own = counts[key, label] - left_out + b * prior[label]
        return -np.log(own / (counts[key].sum(1) - left_out + b))

    best = min(SMOOTHING, key=lambda b: losses(train, train_classes, b, 1).mean())
    return losses(fresh, fresh_classes, best, 0)


def calibrated_losses(
    logits: Float[np.ndarray, "word label"],
    classes: Int[np.ndarray, " word"],
    fold: Int[np.ndarray, " word"],
) -> Float[np.ndarray, " word"]:
    """Losses of each word's label when logits are divided by the temperature of the other fold.

    `fold` is 0 or 1. The temperature is the one that the other fold's words are predicted best with;
    1 where there are no others. Source: Guo et al. (2017), On Calibration of Modern Neural Networks.
    """
    scale = np.ones(2)
    for part in (0, 1):
        others = fold != part
        if others.any():
            scale[part] = inverse_temperature(logits[others], classes[others])
    return losses_of(logits * scale[fold][:, None], classes)


def halves(groups: Int[np.ndarray, " word"], rng: np.random.Generator) -> Int[np.ndarray, " word"]:
    """Every word's half, 0 or 1, at random; the words of a group are in the same."""
    _, group = np.unique(groups, return_inverse=True)
    return (rng.permutation(int(group.max()) + 1) % 2)[group]


def losses_of(
    logits: Float[np.ndarray, "word label"], classes: Int[np.ndarray, " word"]
) -> Float[np.ndarray, " word"]:
    """Losses of each word's label under the softmax of its logits."""
    own = np.take_along_axis(logits, classes[:, None], 1)[:, 0]
    return special.logsumexp(logits, axis=1) - own


def inverse_temperature(
    logits: Float[np.ndarray, "word label"], classes: Int[np.ndarray, " word"]
) -> float:
    """The factor of the logits that makes the mean loss least, by Newton's method; 1/64 to 64."""
    own = np.take_along_axis(logits, classes[:, None], 1)[:, 0].mean()
    scale = 1.0
    for _ in range(40):
        share = special.softmax(scale * logits, axis=1)
        mean = (share * logits).sum(1)
        slope = mean.mean() - own
        bend = ((share * logits**2).sum(1) - mean**2).mean()
        # the loss is convex; steps within a factor of 2 keep its flat ends from being overshot
        new = np.clip(scale - slope / max(bend, 1e-12), scale / 2, scale * 2)
        new = float(np.clip(new, 1 / 64, 64))
        if abs(new - scale) < 1e-4 * scale:
            return new
        scale = new
    return scale


def information_gained(baseline: float, probe: float, model: float) -> float | None:
    """The part of what the model knows beyond a baseline that a probe gives back, from mean losses.

    1 where the probe predicts as well as the model itself, 0 as well as the baseline; None where the
    model is no better than the baseline.
    """
    return (baseline - probe) / (baseline - model) if model < baseline else None


def bootstrap_intervals(
    right: Float[np.ndarray, "word column"],
    groups: Int[np.ndarray, " word"],
    rng: np.random.Generator,
    *,
    n_draws: int = 1000,
    level: float = 0.95,
) -> Float[np.ndarray, "two column"]:
    """Percentile bootstrap intervals of the columns' means, with the same draws of whole groups.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    _, group = np.unique(groups, return_inverse=True)
    n = int(group.max()) + 1
    total = np.zeros((n, right.shape[1]))
    np.add.at(total, group, right)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_draws)
    means = (drawn @ total) / (drawn @ np.bincount(group))[:, None]
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
