"""The bootstrap over sentences: matrices and effect sizes of sentences drawn with replacement."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.dissociation.changes import Changes


@dataclass(frozen=True)
class Resampling:
    """Count of each sentence in each draw; `sentence` are the sentences' numbers, sorted."""

    sentence: Int[np.ndarray, " sentence"]
    weight: Float[np.ndarray, "draw sentence"]

    @classmethod
    def of(cls, changes: Changes, rng: np.random.Generator, n_draws: int) -> "Resampling":
        """As many sentences as there are, drawn with replacement, `n_draws` times."""
        sentence = np.unique(changes.sentence)
        n = len(sentence)
        weight = rng.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(float)
        return cls(sentence, weight)

    def means(
        self, change: Float[np.ndarray, "lesion word"], changes: Changes
    ) -> Float[np.ndarray, "draw lesion label"]:
        """Mean change over each label's words in every draw; `changes` says which words these are.

        Words may be those of some of the sentences; 0 where a draw has no word of a label.
        """
        n, n_labels = len(self.sentence), len(changes.labels)
        number = np.searchsorted(self.sentence, changes.sentence)
        cell = number * n_labels + changes.column
        words = np.bincount(cell, minlength=n * n_labels).reshape(n, n_labels)
        sums = np.stack(
            [
                np.bincount(cell, weights=row, minlength=n * n_labels).reshape(n, -1)
                for row in change
            ],
            1,
        )
        counted = np.maximum(self.weight @ words, 1)
        totals = (self.weight @ sums.reshape(n, -1)).reshape(-1, len(change), n_labels)
        return totals / counted[:, None]


def effect_intervals(
    changes: Changes, rng: np.random.Generator, n_draws: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of diagonal minus off-diagonal (nats) and of the specificity.

    Percentiles of a bootstrap over sentences. Where a draw's diagonal is not above 0 its
    specificity is minus infinity.
    """
    draws = Resampling.of(changes, rng, n_draws).means(changes.real, changes)
    n = len(changes.labels)
    own = np.diagonal(draws, axis1=1, axis2=2).mean(1)
    other = (draws.sum((1, 2)) - n * own) / max(n * (n - 1), 1)
    ratio = np.divide(other, own, out=np.full(len(own), np.inf), where=own > 0)
    return _interval(own - other), _interval(1 - ratio)


def _interval(draws: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)
