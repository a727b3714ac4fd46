"""Reduce a batch's activations to the moments of each class, on the device.

The words of a class are taken together, and what they are subtracted from is decided by the batch
alone: first one of its words, then their own mean. So the numbers stay small where a unit's mean is
1,000 standard deviations, and a batch gives the same whoever reads it and whatever came before.
`Plain` is made of PyTorch's operations; `Fused` of the Triton kernels in `fused`, on a CUDA GPU.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from grammar_lens.passes.chan import chan
from grammar_lens.passes.readers import Seen, State


@runtime_checkable
class Reduction(Protocol):
    """A way to reduce: words by class once per batch, moments per layer, and their merging."""

    def batch(self, where: Tensor, words: Tensor, n_classes: int) -> Any: ...

    def moments(self, seen: Seen, batch: Any, space: "Workspace") -> "ClassMoments": ...

    def merge(self, moments: "ClassMoments", state: State) -> None: ...


@dataclass(frozen=True)
class ClassMoments:
    """Moments of the classes that a batch has, one row each.

    `sum_abs` is over all words; `good` says whether everything was finite.
    """

    present: Int[Tensor, " present"]
    count: Float64[Tensor, " present"]
    mean: Float64[Tensor, "present unit"]
    m2: Float[Tensor, "present unit"]
    fired: Float[Tensor, "present unit"]
    sum_abs: Float[Tensor, " unit"]
    good: Bool[Tensor, ""]


class Workspace:
    """Two buffers that serve every batch: making new ones would cost more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, int], Tensor] = {}

    def __call__(self, slot: int, like: Tensor, n: int) -> Float[Tensor, "word unit"]:
        size, key = n * like.shape[1], (like.device, slot)
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, dtype=torch.float32, device=like.device)
        return self._buffers[key][:size].view(n, like.shape[1])


@dataclass(frozen=True)
class Segments:
    """The words of a batch, sorted by class: where they are, and where each class begins."""

    where: Int[Tensor, " word"]
    present: Int[Tensor, " present"]
    size: Int[Tensor, " present"]
    start: Int[Tensor, " present"]
    row: Int[Tensor, " word"]
    """Index of each word's class among the classes present."""
    every: Int[Tensor, " word"]


class Plain:
    """The reduction by PyTorch's own operations, on any device."""

    def batch(self, where: Tensor, words: Tensor, n_classes: int) -> Segments:
        order = words.argsort(stable=True)
        present, row, size = torch.unique_consecutive(
            words[order], return_inverse=True, return_counts=True
        )
        every = torch.arange(len(words), device=words.device)
        return Segments(where[order], present, size, size.cumsum(0) - size, row, every)

    def moments(self, seen: Seen, batch: Segments, space: Workspace) -> ClassMoments:
        """Sums are in float32 of numbers within a few standard deviations, the mean's parts added in
        float64."""
        n, size = len(batch.where), batch.size[:, None]
        x, y = space(0, seen.flat, n), space(1, seen.flat, n)

        def total(values: Tensor) -> Tensor:
            return torch.nn.functional.embedding_bag(batch.every, values, batch.start, mode="sum")

        _gather(seen.flat, batch.where, x)
        if seen.gate is None:
            fired = total(torch.gt(x, 0, out=y))
        else:
            _gather(seen.gate, batch.where, y)
            fired = total(torch.gt(y, 0, out=y))
        sum_abs = torch.abs(x, out=y).sum(0)
        shift = x[0].clone()
        x.sub_(shift)
        mean = total(x) / size
        x.sub_(torch.index_select(mean, 0, batch.row, out=y))
        rest = total(x) / size  # what rounding of the first mean has left
        m2 = (total(x.square_()) - size * rest.square()).clamp_(min=0)
        return ClassMoments(
            present=batch.present,
            count=batch.size.double(),
            mean=shift.double() + mean.double() + rest.double(),
            m2=m2,
            fired=fired,
            sum_abs=sum_abs,
            good=m2.sum().isfinite(),
        )

    def merge(self, moments: ClassMoments, state: State) -> None:
        """Merges into running float64 moments, in place; nothing is written before all is computed."""
        n = state["count"][moments.present]
        gap = moments.mean - state["mean"].index_select(0, moments.present)
        step, spread = chan(n[:, None], moments.count[:, None], gap)
        state["count"].index_add_(0, moments.present, moments.count)
        state["mean"].index_add_(0, moments.present, step)
        state["m2"].index_add_(0, moments.present, spread.add_(moments.m2))
        state["fired"].index_add_(0, moments.present, moments.fired.double())
        state["sum_abs"].add_(moments.sum_abs)


PLAIN = Plain()


def _gather(flat: Tensor, where: Tensor, out: Tensor) -> None:
    if flat.dtype == out.dtype:
        torch.index_select(flat, 0, where, out=out)
    else:
        out.copy_(flat.index_select(0, where))
