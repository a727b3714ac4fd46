"""The lesion study to first order: the matrices of many shams from attributions, without a lesion."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32

from grammar_lens.display import Shown
from grammar_lens.dissociation.matrices import (
    LEAST_LABELS,
    chance,
    diagonal_score,
    diagonal_scores,
)
from grammar_lens.dissociation.shams import key_numbers, sham_maps
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.selectivity.evidence import Attribution

FIRST_ORDER_SHAMS = 9999
"""Shams of the first-order p, none of which is lesioned."""
CHUNK = 1000
"""Shams that are drawn at once, for each of which there is a mask of one layer's neurons meanwhile."""


@dataclass(frozen=True)
class FirstOrder(Shown):
    """S* of the key sets and of many shams, as attributions predict it.

    `matrix[i, j]` is the sum over label i's neurons of their attribution for label j: the expected
    rise of the tag loss (nats per word) to first order. `correlation` is Pearson's between the
    predicted and the measured S* of the shams that were lesioned; NaN with fewer than three.
    """

    labels: tuple[str, ...]
    matrix: Float[np.ndarray, "label label"]
    s_star: float
    s_star_sham: Float[np.ndarray, " sham"]
    correlation: float

    @property
    def p_value(self) -> float | None:
        """(1 + shams with S* at least the real one) / (1 + shams), an approximation.

        None with two labels, whose S* is always 1 or -1.
        """
        return None if len(self.labels) < LEAST_LABELS else chance(self.s_star, self.s_star_sham)

    def verdict(self) -> str:
        """The added effect and how far it can be trusted, in a sentence."""
        if self.p_value is None:
            return ""
        trust = (
            ""
            if np.isnan(self.correlation)
            else f"; over the lesioned shams it correlates {self.correlation:.2f} with what was measured"
        )
        return (
            f"To first order, from attributions alone, p = {self.p_value:.4f} against "
            f"{len(self.s_star_sham):,} shams (an approximation{trust})."
        )

    def __repr__(self) -> str:
        return f"FirstOrder: {self.verdict()}"

    def _tables(self) -> list[pd.DataFrame]:
        table = pd.DataFrame(self.matrix, index=self.labels, columns=self.labels)  # pyright: ignore[reportArgumentType]
        return [table.rename_axis("lesion of / words of")]


def first_order(
    keys: KeyNeurons,
    attribution: Attribution,
    output: Float[np.ndarray, "layer unit"],
    lesioned: list[KeyNeurons],
    measured: Float[np.ndarray, " replicate"],
    rng: np.random.Generator,
    *,
    n_shams: int = FIRST_ORDER_SHAMS,
) -> FirstOrder:
    """The first-order study of key sets; `lesioned` are the shams that were cut, `measured` their S*.

    Shams are drawn as for lesions (`sham_maps`). Labels of the keys must be among the attribution's.
    """
    effect = attribution.mean[[attribution.labels.index(label) for label in keys.labels]]
    matrix = _matrix(keys, effect)
    sizes = [min(CHUNK, n_shams - i) for i in range(0, n_shams, CHUNK)]
    drawn = [_sham_matrices(keys, effect, sham_maps(keys, output, n, rng)) for n in sizes]
    shams = np.concatenate(drawn or [np.zeros((0, *matrix.shape))])
    predicted = np.array([diagonal_score(_matrix(sham, effect)) for sham in lesioned])
    varies = len(measured) > 2 and np.ptp(measured) > 0 and np.ptp(predicted) > 0
    return FirstOrder(
        labels=keys.labels,
        matrix=matrix,
        s_star=diagonal_score(matrix),
        s_star_sham=diagonal_scores(shams),
        correlation=float(np.corrcoef(predicted, measured)[0, 1]) if varies else float("nan"),
    )


def _matrix(
    keys: KeyNeurons, effect: Float[np.ndarray, "label layer unit"]
) -> Float[np.ndarray, "label label"]:
    return np.stack([effect[:, s.layer, s.index].sum(1) for s in keys.sets.values()])


def _sham_matrices(
    keys: KeyNeurons,
    effect: Float[np.ndarray, "label layer unit"],
    maps: Int32[np.ndarray, "replicate key"],
) -> Float[np.ndarray, "replicate label label"]:
    rows, key = [], key_numbers(keys)
    for real in keys.sets.values():
        index = maps[:, key[real.layer, real.index]]
        rows.append(effect[:, real.layer[None], index].sum(2).T)
    return np.stack(rows, 1)
