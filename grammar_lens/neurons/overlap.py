"""Neurons that sets share, against sets drawn at random with as many neurons in every layer."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from grammar_lens.display import Shown, listed
from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.selectivity.result import Scores


@dataclass(frozen=True)
class Overlap(Shown):
    """Neurons shared by every pair of labels, with what chance alone would share.

    `shared[i, j]` is the number of neurons in both sets, `jaccard` shared / union, `coefficient`
    shared / smaller set; the `expected` ones are their means for sets drawn at random, each within
    its layers, and `p_value` the chance that such sets share as many or more. These four are NaN on
    the diagonal, where a set meets itself. p-values are of single pairs, not corrected for their number.
    """

    labels: tuple[str, ...]
    shared: Float[np.ndarray, "label label"]
    jaccard: Float[np.ndarray, "label label"]
    coefficient: Float[np.ndarray, "label label"]
    expected: Float[np.ndarray, "label label"]
    expected_jaccard: Float[np.ndarray, "label label"]
    expected_coefficient: Float[np.ndarray, "label label"]
    p_value: Float[np.ndarray, "label label"]

    def to_frame(self) -> pd.DataFrame:
        """Jaccard overlap as a table."""
        return pd.DataFrame(self.jaccard, index=self.labels, columns=self.labels)  # pyright: ignore[reportArgumentType]

    def __repr__(self) -> str:
        apart = ~np.eye(len(self.labels), dtype=bool)
        text = f"Overlap of the key neurons of {listed(self.labels)}"
        if not apart.any():
            return text
        shared, expected = self.shared[apart].mean(), self.expected[apart].mean()
        return f"{text}: two share {shared:.1f} in the mean, by chance {expected:.1f}"

    def _title(self) -> str:
        return f"{self!r}; Jaccard overlap"


def same_sets(keys: KeyNeurons) -> list[tuple[str, str]]:
    """Pairs of labels that have the same neurons in every layer, as two labels by correlation have."""
    sets = {label: set(neurons) for label, neurons in keys.items()}
    return [(a, b) for a, b in combinations(sets, 2) if sets[a] and sets[a] == sets[b]]


@dataclass(frozen=True)
class Reliability(Shown):
    """Agreement of two choices of key neurons, as from two halves of the data, for each label.

    `expected` is what sets drawn at random within their layers share, and `p_value` the chance that
    they share as many or more.
    """

    labels: tuple[str, ...]
    n_first: Float[np.ndarray, " label"]
    n_second: Float[np.ndarray, " label"]
    shared: Float[np.ndarray, " label"]
    jaccard: Float[np.ndarray, " label"]
    expected: Float[np.ndarray, " label"]
    p_value: Float[np.ndarray, " label"]

    def to_frame(self) -> pd.DataFrame:
        """A row per label with every field."""
        names = ("n_first", "n_second", "shared", "jaccard", "expected", "p_value")
        index = pd.Index(self.labels, name="label")
        return pd.DataFrame({name: getattr(self, name) for name in names}, index=index)

    def __repr__(self) -> str:
        return (
            f"Reliability of {len(self.labels)} labels: two choices share {self.shared.mean():.1f} "
            f"neurons in the mean, by chance {self.expected.mean():.1f}"
        )


def overlap(keys: KeyNeurons) -> Overlap:
    """Number of neurons that the labels share, observed and expected by chance."""
    sets = [set(keys[label]) for label in keys.labels]
    n = len(sets)
    size = np.array([len(s) for s in sets], float)
    shared = np.array([[len(a & b) for b in sets] for a in sets], float).reshape(n, n)
    union = size[:, None] + size[None] - shared
    smaller = np.minimum(size[:, None], size[None])
    counts = layer_counts(keys)
    chance = np.full((4, n, n), np.nan)
    for i in range(n):
        for j in range(i):
            by_chance = _by_chance(counts[i], counts[j], keys.n_units, shared[i, j])
            chance[:, i, j] = chance[:, j, i] = by_chance
    return Overlap(
        keys.labels, shared, shared / np.maximum(union, 1), shared / np.maximum(smaller, 1), *chance
    )


def reliability(first: KeyNeurons, second: KeyNeurons) -> Reliability:
    """Number of neurons that two choices share, label by label.

    Raises GrammarLensError when they are of different labels or of units that cannot be the same.
    """
    space = [(k.labels, k.n_layers, k.n_units, k.origin.site) for k in (first, second)]
    if space[0] != space[1]:
        raise GrammarLensError(
            f"the two choices differ in labels, layers, units or site: {space[0]} and {space[1]}; "
            "choose both on the same model with the same labels"
        )
    sizes = np.array([[len(keys[x]) for x in first] for keys in (first, second)], float)
    shared = np.array([len({*first[x]} & {*second[x]}) for x in first], float)
    chance = [
        _by_chance(a, b, first.n_units, float(s))
        for a, b, s in zip(layer_counts(first), layer_counts(second), shared, strict=True)
    ]
    expected, _, _, p_value = np.array(chance, float).reshape(len(first), 4).T
    return Reliability(
        labels=first.labels,
        n_first=sizes[0],
        n_second=sizes[1],
        shared=shared,
        jaccard=shared / np.maximum(sizes.sum(0) - shared, 1),
        expected=expected,
        p_value=p_value,
    )


def shared_by_chance(
    first: Float[np.ndarray, " layer"], second: Float[np.ndarray, " layer"], n_units: int
) -> Float[np.ndarray, " count"]:
    """Probability of 0, 1, 2, ... shared neurons of two sets drawn at random within their layers.

    In each layer the number is hypergeometric, and layers are independent: the distributions are
    convolved, without approximation.
    """
    total = np.ones(1)
    for a, b in zip(first.astype(int), second.astype(int), strict=True):
        if a and b:
            counts = np.arange(min(a, b) + 1)
            total = np.convolve(total, stats.hypergeom.pmf(counts, n_units, a, b))
    return total


def layer_counts(keys: KeyNeurons) -> Float[np.ndarray, "label layer"]:
    """Number of key neurons of each label in each layer."""
    rows = [np.bincount(keys[x].layer, minlength=keys.n_layers) for x in keys.labels]
    return np.array(rows, float).reshape(len(keys), keys.n_layers)


def layer_strength(scores: Scores) -> Float[np.ndarray, "label layer"]:
    """Root mean square strength (see `Scores.strength`) of each label in each layer."""
    return np.sqrt((scores.strength() ** 2).mean(2))


def _by_chance(
    first: Float[np.ndarray, " layer"],
    second: Float[np.ndarray, " layer"],
    n_units: int,
    shared: float,
) -> tuple[float, float, float, float]:
    """Expected number, Jaccard and coefficient, and the chance of `shared` or more."""
    probability = shared_by_chance(first, second, n_units)
    count = np.arange(len(probability))
    both, smaller = first.sum() + second.sum(), min(first.sum(), second.sum())
    expected = float(first @ second) / n_units
    jaccard = float(probability @ (count / np.maximum(both - count, 1)))
    # a sum from 0 is 1 only up to rounding
    p_value = min(float(probability[int(shared) :].sum()), 1.0)
    return expected, jaccard, expected / max(smaller, 1.0), p_value


def strength_by_layer(scores: Scores) -> pd.DataFrame:
    """A row per layer and label: root mean square score, and the best neuron with its score."""
    rms = layer_strength(scores)
    rows = []
    for i, label in enumerate(scores.labels):
        best = np.abs(scores[label]).argmax(1)
        for layer, index in enumerate(best):
            rows.append(
                {
                    "layer": layer,
                    "label": label,
                    "rms_score": rms[i, layer],
                    "best_neuron": index,
                    "best_score": scores[label][layer, index],
                }
            )
    return pd.DataFrame(rows).sort_values(["layer", "label"], ignore_index=True)
