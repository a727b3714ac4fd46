"""The subspaces that labels' key neurons write to: how many directions, and how far apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import linalg

from grammar_lens.defaults import SEED
from grammar_lens.display import Shown, listed
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_weight
from grammar_lens.neurons.neurons import KeyNeurons, Neurons, random_neurons


@dataclass(frozen=True)
class Subspaces(Shown):
    """Spans of the labels' outgoing weights, beside those of as many random neurons.

    `cosine[i, j]` is the mean cosine of the principal angles between two spans, 1 where one holds
    the other and 0 where they are orthogonal. NaN where a label has no neurons.
    """

    labels: tuple[str, ...]
    n_neurons: Float[np.ndarray, " label"]
    effective_rank: Float[np.ndarray, " label"]
    cosine: Float[np.ndarray, "label label"]
    random_effective_rank: Float[np.ndarray, "draw label"]
    random_cosine: Float[np.ndarray, "draw label label"]

    def to_frame(self) -> pd.DataFrame:
        """A row per label: n_neurons, effective_rank, random_effective_rank (the draws' mean)."""
        columns = {
            "n_neurons": self.n_neurons,
            "effective_rank": self.effective_rank,
            "random_effective_rank": _mean(self.random_effective_rank),
        }
        return pd.DataFrame(columns, index=pd.Index(self.labels, name="label"))

    def pairs(self) -> pd.DataFrame:
        """A row per pair of labels: cosine, random_cosine (the draws' mean) and p_value.

        `p_value` is (1 + draws with a cosine as large) / (1 + draws), of single pairs.
        """
        random = _mean(self.random_cosine)
        as_large = 1 + (self.random_cosine >= self.cosine).sum(0)
        rows = [
            (
                first,
                second,
                self.cosine[i, j],
                random[i, j],
                as_large[i, j] / (1 + len(self.random_cosine)),
            )
            for i, first in enumerate(self.labels)
            for j, second in enumerate(self.labels)
            if i < j
        ]
        names = ["first", "second", "cosine", "random_cosine", "p_value"]
        return pd.DataFrame(rows, columns=pd.Index(names))

    def __repr__(self) -> str:
        rank, random = self.effective_rank.mean(), self.random_effective_rank
        beside = f", of as many random ones {random.mean():.1f}" if len(random) else ""
        return (
            f"Subspaces of {listed(self.labels)}: outgoing weights of effective rank {rank:.1f} in the "
            f"mean{beside}"
        )


def subspaces(
    weights: Mapping[str, Float[np.ndarray, "_ d_model"]],
    random: Sequence[Mapping[str, Float[np.ndarray, "_ d_model"]]] = (),
) -> Subspaces:
    """Effective rank and mutual angles of each label's outgoing weights [neuron, d_model].

    `random` are draws of as many neurons for every label, from the same layers.
    Raises GrammarLensError when a draw has other labels or other numbers of neurons.
    """
    sizes = {label: len(w) for label, w in weights.items()}
    for draw in random:
        drawn = {label: len(w) for label, w in draw.items()}
        if list(drawn.items()) != list(sizes.items()):
            raise GrammarLensError(
                f"a random draw has {drawn} neurons, expected {sizes}: draw as many for every label"
            )
    n = len(weights)
    drawn = [_measure(draw) for draw in random]
    rank, cosine = _measure(weights)
    return Subspaces(
        labels=tuple(weights),
        n_neurons=np.array(list(sizes.values()), float),
        effective_rank=rank,
        cosine=cosine,
        random_effective_rank=np.array([r for r, _ in drawn]).reshape(-1, n),
        random_cosine=np.array([c for _, c in drawn]).reshape(-1, n, n),
    )


def effective_rank(matrix: Float[np.ndarray, "row column"]) -> float:
    """Exponential of the entropy of the normalised singular values; 0.0 of a matrix of zeros.

    Between 1 and the rank; the rank where all singular values are equal.
    Source: Roy & Vetterli (2007), The Effective Rank: A Measure of Effective Dimensionality.
    """
    values = np.linalg.svd(matrix.astype(float), compute_uv=False) if matrix.size else np.zeros(0)
    values = values[values > 0]
    if len(values) == 0:
        return 0.0
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def row_basis(matrix: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "rank column"]:
    """Orthonormal rows that span the rows, as many as the rank at the input's precision."""
    if not matrix.size:
        return np.zeros((0, matrix.shape[1]))
    _, values, rows = linalg.svd(matrix.astype(float), full_matrices=False)
    return rows[values > values[0] * max(matrix.shape) * np.finfo(matrix.dtype).eps]


def _measure(
    weights: Mapping[str, Float[np.ndarray, "_ d_model"]],
) -> tuple[Float[np.ndarray, " label"], Float[np.ndarray, "label label"]]:
    bases = [row_basis(w) for w in weights.values()]
    rank = np.array([effective_rank(w) if len(w) else np.nan for w in weights.values()], float)
    cosine = np.full((len(bases), len(bases)), np.nan)
    for i, one in enumerate(bases):
        for j, other in enumerate(bases[: i + 1]):
            if len(one) and len(other):
                # singular values of the product are the cosines (Björck & Golub 1973)
                cosines = np.linalg.svd(one @ other.T, compute_uv=False)
                cosine[i, j] = cosine[j, i] = cosines.clip(0, 1).mean()
    return rank, cosine


def _mean(draws: Float[np.ndarray, "draw ..."]) -> Float[np.ndarray, "..."]:
    """Mean over draws, NaN without any."""
    return draws.mean(0) if len(draws) else np.full(draws.shape[1:], np.nan)


def key_subspaces(
    model: Model, keys: KeyNeurons, *, n_random: int = 10, seed: int = SEED
) -> Subspaces:
    """The spans of each label's key neurons' outgoing weights, beside random neurons of the same layers."""
    _require_neurons(keys)
    rng = np.random.default_rng(seed)
    real = {label: _addresses(keys[label]) for label in keys}
    draws = [
        {label: random_neurons(a, keys.n_units, rng) for label, a in real.items()}
        for _ in range(n_random)
    ]
    weights = _Weights(model)
    return subspaces(weights.of_all(real), [weights.of_all(draw) for draw in draws])


class _Weights:
    """Outgoing weights of neurons, each layer fetched once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.layers: dict[int, Float[np.ndarray, "d_mlp d_model"]] = {}

    def of(self, addresses: Int[np.ndarray, "neuron two"]) -> Float[np.ndarray, "neuron d_model"]:
        for layer in np.unique(addresses[:, 0]).tolist():
            if layer not in self.layers:
                weight = output_weight(self.model, layer).detach().float()
                self.layers[layer] = weight.cpu().numpy()
        return np.stack([self.layers[la][i] for la, i in addresses.tolist()]).astype(np.float32)

    def of_all(
        self, sets: Mapping[str, Int[np.ndarray, "_ two"]]
    ) -> dict[str, Float[np.ndarray, "_ d_model"]]:
        none = np.zeros((0, self.model.cfg.d_model), np.float32)
        return {label: self.of(a) if len(a) else none for label, a in sets.items()}


def _addresses(neurons: Neurons) -> Int[np.ndarray, "neuron two"]:
    return np.stack([neurons.layer, neurons.index], 1)


def _require_neurons(keys: KeyNeurons) -> None:
    if keys.origin.site != "neuron":
        raise GrammarLensError(
            f"these are units of {keys.origin.site!r}, and only neurons have outgoing weights: choose "
            "key neurons"
        )
