"""How the key neurons of different labels lie to each other: shared neurons, and layers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.selection import KeyNeurons
from grammar_lens.selectivity import Scores


@dataclass(frozen=True)
class Overlap:
    """Neurons shared by every pair of labels, with what chance alone would share.

    `shared[i, j]` is the number of neurons in both sets, `jaccard` shared / union, `coefficient`
    shared / smaller set, `expected` the hypergeometric mean of `shared` for sets drawn at random.
    """

    labels: tuple[str, ...]
    shared: Float[np.ndarray, "label label"]
    jaccard: Float[np.ndarray, "label label"]
    coefficient: Float[np.ndarray, "label label"]
    expected: Float[np.ndarray, "label label"]

    def to_frame(self) -> pd.DataFrame:
        """Jaccard overlap as a table."""
        return pd.DataFrame(self.jaccard, index=self.labels, columns=self.labels)  # pyright: ignore[reportArgumentType]


def overlap(keys: KeyNeurons) -> Overlap:
    """How many neurons the labels share."""
    sets = [set(keys[label]) for label in keys.labels]
    size = np.array([len(s) for s in sets], float)
    shared = np.array([[len(a & b) for b in sets] for a in sets], float)
    union = size[:, None] + size[None] - shared
    smaller = np.minimum(size[:, None], size[None])
    return Overlap(
        labels=keys.labels,
        shared=shared,
        jaccard=shared / np.maximum(union, 1),
        coefficient=shared / np.maximum(smaller, 1),
        expected=size[:, None] * size[None] / max(keys.n_layers * keys.n_units, 1),
    )


def layer_counts(keys: KeyNeurons) -> Float[np.ndarray, "label layer"]:
    """Number of key neurons of each label in each layer."""
    rows = [np.bincount(keys[x].layer, minlength=keys.n_layers) for x in keys.labels]
    return np.array(rows, float).reshape(len(keys), keys.n_layers)


def layer_strength(scores: Scores) -> Float[np.ndarray, "label layer"]:
    """Root mean square score of each label in each layer."""
    return np.sqrt((scores.values**2).mean(2))
