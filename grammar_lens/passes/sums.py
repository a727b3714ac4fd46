"""Weighted sums of every unit's activations, many rows of weights at once, in one pass.

What a null or a contrast needs of a corpus is sum_j w[row, j] x[j, unit] with weights known before
the pass: exchanged labels, or residual indicators.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int16
from torch import Tensor

from grammar_lens.passes.readers import AddOnce, Seen, State

Sum = Callable[[Tensor], Tensor]
"""Activations [word unit] of a batch -> its sums [row unit]."""
Rows = Callable[[Tensor], tuple[Sum, Float[Tensor, " row"]]]
"""Numbers of a batch's words -> how their activations are summed, and each row's sum of weights."""


def label_rows(
    codes: Int16[np.ndarray, "replicate word"], n_labels: int, device: torch.device
) -> Rows:
    """Rows that add up the words of each label in each replicate: replicate-major, label inside.

    A word counts for one label of each replicate. On a CPU its activation is added, not multiplied by
    a row of zeros: a quarter of the time of a dense product. A GPU would have to read activations
    once per replicate for that, and multiplies.
    """
    table = torch.from_numpy(codes).to(device)
    first_row = torch.arange(len(codes), device=device)[:, None] * n_labels

    def prepare(words: Tensor) -> tuple[Sum, Tensor]:
        row = (table[:, words.to(device)].long() + first_row).ravel().to(words.device)
        if row.is_cuda:
            one_hot = torch.zeros(len(codes) * n_labels, len(words), device=row.device)
            one_hot[row, torch.arange(len(words), device=row.device).repeat(len(codes))] = 1
            size = one_hot.sum(1, dtype=torch.float64)
            return Product(one_hot), size
        order = row.argsort(stable=True) % max(len(words), 1)
        size = torch.bincount(row, minlength=len(codes) * n_labels)
        start = size.cumsum(0) - size
        bag = torch.nn.functional.embedding_bag
        return lambda x: bag(order, x, start, mode="sum"), size.double()

    return prepare


class Product:
    """Sums as a product with rows of zeros and ones, on a GPU by its matrix units.

    These multiply in bfloat16, which has ones exactly; activations go in two parts, whose sum has 16
    bits: an error of 8e-6 of an activation's distance from the centre, in either direction.
    """

    def __init__(self, one_hot: Float[Tensor, "row word"]) -> None:
        mixed = one_hot.is_cuda and mixes(one_hot.device)
        self._rows = one_hot.bfloat16() if mixed else one_hot
        self._multiply = _mixed if mixed else torch.mm

    def __call__(self, x: Float[Tensor, "word unit"]) -> Float[Tensor, "row unit"]:
        if self._rows.dtype == torch.float32:
            return self._multiply(self._rows, x)
        high, low = halves(x)
        return self._multiply(self._rows, high).add_(self._multiply(self._rows, low))


def halves(
    x: Float[Tensor, "word unit"],
) -> tuple[Float[Tensor, "word unit"], Float[Tensor, "word unit"]]:
    """Two bfloat16 numbers that add up to nearly each float32."""
    high = x.bfloat16()
    return high, (x - high.float()).bfloat16()


def _mixed(rows: Tensor, x: Tensor) -> Tensor:
    """A product of bfloat16 that is summed and given in float32."""
    return torch.mm(rows, x, out_dtype=torch.float32)


@cache
def mixes(device: torch.device) -> bool:
    """Whether this device gives such products, and right ones."""
    rows = (torch.arange(64 * 512).reshape(64, 512) % 3 == 0).to(device)
    x = torch.arange(512 * 32).reshape(512, 32).remainder(251).to(device)
    try:
        got = _mixed(rows.bfloat16(), x.bfloat16())
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    # sums of small whole numbers are exact in float32 and in nothing smaller
    return got.dtype == torch.float32 and torch.equal(got.double(), rows.double() @ x.double())


def weight_rows(weight: Float[np.ndarray, "row word"], device: torch.device) -> Rows:
    """Rows of given weights."""
    table = torch.from_numpy(weight).to(device)

    def prepare(words: Tensor) -> tuple[Sum, Tensor]:
        exact = table[:, words.to(device)].to(words.device)
        rows = exact.float()
        return lambda x: rows @ x, exact.double().sum(1)

    return prepare


class SumAccumulator(AddOnce):
    """Weighted sums of every unit in every layer, on the device; its tap's codes are word numbers.

    Activations are taken from the mean of the first batch, so that float32 keeps what differs
    between words.
    """

    def __init__(
        self, rows: Rows, n_rows: int, n_layers: int, n_units: int, device: torch.device
    ) -> None:
        self._rows = rows
        layers = [
            {
                "sums": torch.zeros(n_rows, n_units, device=device),
                "centre": torch.zeros(n_units, device=device),
                "total": torch.zeros(n_rows, dtype=torch.float64, device=device),
                "begun": torch.zeros((), dtype=torch.bool),
                "added": torch.zeros(0, dtype=torch.int64, device=device),
            }
            for _ in range(n_layers)
        ]
        super().__init__(layers, on_host=("begun",))
        self._batch: tuple[Tensor, Sum, Tensor] | None = None

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        """Takes one batch's activations in one layer; returns whether all of them were finite."""
        x = seen.values()
        x = x.float() if x.dtype != torch.float32 else x
        state = self._state_of(layer, x.device)
        if not state["begun"]:
            state["centre"].copy_(x.mean(0))
            state["begun"].fill_(True)
        x = x - state["centre"]
        words = words.to(x.device)
        if len(state["added"]) == 0:
            summed, total = self._sum(words)
        else:
            new = ~torch.isin(words, state["added"])
            summed, total = self._rows(words[new])
            x = x[new]
        state["sums"] += summed(x)
        state["total"] += total
        self._note_added(layer, words)
        return torch.isfinite(x.sum())

    def _sum(self, words: Tensor) -> tuple[Sum, Tensor]:
        """The summing function for this batch, reused by later layers."""
        known = self._batch
        if known is None or known[0] is not words:
            known = self._batch = (words, *self._rows(words))
        return known[1], known[2]

    def commit(self) -> None:
        """Ends a batch."""
        super().commit()
        self._batch = None

    def merge(self, first: State, second: State) -> State:
        """One layer's sums over the words of both, from the centre of the first that has one."""
        if not first["begun"]:
            return second
        gap = second["centre"].double() - first["centre"].double()
        moved = second["sums"].double() + second["total"][:, None] * gap
        return {
            **first,
            "sums": (first["sums"].double() + moved).float(),
            "total": first["total"] + second["total"],
            "added": torch.cat([first["added"], second["added"]]),
        }

    def sums(self, rows: slice = slice(None)) -> Float[np.ndarray, "row layer unit"]:
        """The sums over all words; of some rows only, since all of them at once are large."""
        n_rows = len(range(*rows.indices(len(self._layers[0]["sums"]))))
        whole = np.empty((n_rows, len(self._layers), self._layers[0]["sums"].shape[1]))
        for layer, state in enumerate(self._layers):
            centre = state["total"][rows, None] * state["centre"].double()
            whole[:, layer] = (state["sums"][rows].double() + centre).cpu().numpy()
        return whole
