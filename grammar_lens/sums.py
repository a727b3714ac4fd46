"""Weighted sums of every unit's activations, many rows of weights at once, in one pass.

What a null or a contrast needs of a corpus is sum_j w[row, j] x[j, unit] with weights known before
the pass: exchanged labels, or residual indicators.
"""

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Int16
from torch import Tensor

Sum = Callable[[Tensor], Tensor]
"""Activations [word unit] of a batch -> its sums [row unit]."""
Rows = Callable[[Tensor], Sum]
"""Numbers of a batch's words -> how their activations are summed; made once per batch."""


def label_rows(
    codes: Int16[np.ndarray, "replicate word"], n_labels: int, device: torch.device
) -> Rows:
    """Rows that add up the words of each label in each replicate: replicate-major, label inside.

    A word counts for one label of each replicate, so its activation is added, not multiplied by a
    row of zeros: a quarter of the time of a dense product on a CPU.
    """
    table = torch.from_numpy(codes).to(device)
    first_row = torch.arange(len(codes), device=device)[:, None] * n_labels

    def prepare(words: Tensor) -> Sum:
        row = (table[:, words].long() + first_row).ravel()
        order = row.argsort(stable=True) % max(len(words), 1)
        size = torch.bincount(row, minlength=len(codes) * n_labels)
        start = size.cumsum(0) - size
        return lambda x: torch.nn.functional.embedding_bag(order, x, start, mode="sum")

    return prepare


def weight_rows(weight: Float[np.ndarray, "row word"], device: torch.device) -> Rows:
    """Rows of given weights."""
    table = torch.from_numpy(weight.astype(np.float32)).to(device)

    def prepare(words: Tensor) -> Sum:
        rows = table[:, words]
        return lambda x: rows @ x

    return prepare


class SumAccumulator:
    """Weighted sums of every unit in every layer, on the device; its tap's codes are word numbers.

    Activations are taken from the mean of the first batch, so that float32 keeps what differs
    between words. A batch that is read again after it ran out of memory may have been added in some
    layers already: words that were are passed over there.
    """

    def __init__(
        self, rows: Rows, n_rows: int, n_layers: int, n_units: int, device: torch.device
    ) -> None:
        self._rows = rows
        self._sums = torch.zeros(n_layers, n_rows, n_units, device=device)
        self._centre = torch.zeros(n_layers, n_units, device=device)
        self._begun = [False] * n_layers
        self._pending: list[Tensor | None] = [None] * n_layers
        self._added: list[Tensor | None] = [None] * n_layers
        self._batch: tuple[Tensor, Sum] | None = None

    def add(
        self,
        layer: int,
        values: Float[Tensor, "word unit"],
        fires: Bool[Tensor, "word unit"],
        words: Int[Tensor, " word"],
    ) -> Bool[Tensor, ""]:
        """Takes one batch's activations in one layer; returns whether all of them were finite."""
        x = values.float()
        if not self._begun[layer]:
            self._centre[layer] = x.mean(0)
            self._begun[layer] = True
        x = x - self._centre[layer]
        added = self._added[layer]
        if added is None:
            self._sums[layer] += self._sum(words)(x)
        else:
            new = ~torch.isin(words, added)
            self._sums[layer] += self._rows(words[new])(x[new])
        self._pending[layer] = words
        return torch.isfinite(x).all()

    def _sum(self, words: Tensor) -> Sum:
        """How this batch is summed, kept for the layers to come."""
        known = self._batch
        if known is None or not (known[0] is words or torch.equal(known[0], words)):
            known = self._batch = (words, self._rows(words))
        return known[1]

    def commit(self) -> None:
        """Ends a batch."""
        self._pending = [None] * len(self._pending)
        self._batch = None

    def discard(self) -> None:
        """Ends a batch that will be read again in pieces; what was added of it stays."""
        for layer, words in enumerate(self._pending):
            if words is not None:
                added = self._added[layer]
                self._added[layer] = words if added is None else torch.cat([added, words])
        self.commit()

    def sums(self, totals: Float[np.ndarray, " row"]) -> Float[np.ndarray, "row layer unit"]:
        """The sums of all words; `totals` are the sums of each row's weights."""
        centred = rearrange(self._sums, "layer row unit -> row layer unit").double().cpu().numpy()
        return centred + totals[:, None, None] * self._centre.double().cpu().numpy()
