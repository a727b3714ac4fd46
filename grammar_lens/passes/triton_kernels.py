"""Activations of a batch of words reduced to moments by two CUDA kernels, written in Triton.

Words are sorted by class and cut into chunks of one class each. The first kernel reads a chunk's
activations once and centres them while they are in registers; the second merges the chunks of each
class, in order, into running float64 moments. Neither adds up in an order that changes from run to
run. Import this module only where Triton is installed; nothing else of the package needs it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Float64, Int, Int32, Real
from torch import Tensor

from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.readers import Seen, State
from grammar_lens.passes.reduction import ClassMoments, Workspace

CHUNK = 32
"""Words that are centred together; a power of two."""
CHUNK_UNITS = 128
"""Units of one program: with 4 warps, 32 values a thread stay in registers between two sums."""
MERGE_UNITS = 128
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Chunks:
    """Words of a batch sorted by class and cut into chunks of one class each.

    `where` is the place of every word in the flattened (row, time), `start` and `size` are the
    chunks' first words and lengths. `group` holds the classes present, ascending, `words` how many
    words each has, and `group_start` its first chunk; the last entry is the number of chunks.
    """

    where: Int[Tensor, " word"]
    start: Int32[Tensor, " chunk"]
    size: Int32[Tensor, " chunk"]
    group: Int32[Tensor, " present"]
    group_start: Int32[Tensor, " present_plus_one"]
    words: Float64[Tensor, " present"]

    def to(self, device: torch.device) -> "Chunks":
        """The same chunks on another device, for a layer that lives there."""
        return Chunks(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class ChunkMoments:
    """Mean, squared deviations and firing count of every chunk, and sums of absolute values."""

    mean: Float64[Tensor, "chunk unit"]
    m2: Float[Tensor, "chunk unit"]
    fired: Real[Tensor, "chunk unit"]
    sum_abs: Float[Tensor, "part unit"]


class Fused:
    """The reduction by these kernels."""

    def batch(
        self, where: Int[Tensor, " word"], words: Int[Tensor, " word"], n_classes: int
    ) -> Chunks:
        return cut(where, words, n_classes)

    def moments(self, seen: Seen, batch: Chunks, space: Workspace) -> ClassMoments:
        """A layer's moments by class; activations are read once, and only chunks' moments again."""
        device, n_units = seen.flat.device, seen.flat.shape[1]

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        bad = torch.zeros((), dtype=torch.int32, device=device)
        chunks = chunk_moments(seen.flat, seen.gate, batch, bad)
        n, sum_abs = len(batch.group), zeros(n_units)
        mean, m2, fired = zeros(n, n_units), zeros(n, n_units), zeros(n, n_units)
        rows = torch.arange(n, dtype=torch.int32, device=device)
        of_batch = replace(batch, group=rows)
        merge_chunks(chunks, of_batch, zeros(n), mean, m2, fired, sum_abs)
        return ClassMoments(batch.group, batch.words, mean, m2, fired, sum_abs, bad == 0)

    def merge(self, moments: ClassMoments, state: State) -> None:
        """A batch's moments into the running ones, in place: one chunk for every class."""
        device, n = moments.mean.device, len(moments.present)
        steps = torch.arange(n + 1, dtype=torch.int32, device=device)
        size = moments.count.to(torch.int32)
        chunks = Chunks(steps[:0], steps[:n], size, moments.present, steps, moments.count)
        chunk = ChunkMoments(moments.mean, moments.m2, moments.fired, moments.sum_abs[None])
        names = ("count", "mean", "m2", "fired", "sum_abs")
        merge_chunks(chunk, chunks, *(state[name] for name in names))


def cut(where: Int[Tensor, " word"], codes: Int[Tensor, " word"], n_classes: int) -> Chunks:
    """The chunks of a batch whose words are at `where` and of the classes `codes`.

    Words of one class keep their order. The chunks are on the device of `where`; the classes are
    sorted on the host, because the host must know how many chunks there are: that waits for the
    device once.
    Raises GrammarLensError if a class is not in 0 .. n_classes - 1.
    """
    classes = codes.cpu().numpy()
    if len(classes) and not 0 <= classes.min() <= classes.max() < n_classes:
        raise GrammarLensError(
            f"classes must be in 0 .. {n_classes - 1}, got {classes.min()} .. {classes.max()}: "
            "leave out words without a class, or count more classes"
        )
    by_class = np.argsort(classes, kind="stable")
    count = np.bincount(classes, minlength=n_classes)
    group = np.flatnonzero(count)
    count = count[group]
    chunks = -(-count // CHUNK)  # rounded up
    group_start = np.append(0, chunks.cumsum())
    nth = np.arange(group_start[-1]) - group_start[:-1].repeat(chunks)  # chunk of its class
    start = (count.cumsum() - count).repeat(chunks) + CHUNK * nth
    size = np.minimum(count.repeat(chunks) - CHUNK * nth, CHUNK)
    parts = (by_class, start, size, group, group_start, count)
    packed = torch.from_numpy(np.concatenate(parts).astype(np.int32))
    sent = packed.to(where.device).split([len(x) for x in parts])
    return Chunks(
        where=where.index_select(0, sent[0]),
        start=sent[1],
        size=sent[2],
        group=sent[3],
        group_start=sent[4],
        words=sent[5].double(),
    )


def chunk_moments(
    flat: Float[Tensor, "token unit"],
    gate: Float[Tensor, "token unit"] | None,
    chunks: Chunks,
    bad: Int32[Tensor, "..."],
) -> ChunkMoments:
    """Moments of every chunk of words; reads each activation once.

    A unit fires where `gate` is positive, or without gate where it is positive itself. `bad` is one
    number; it becomes 1 if a word's activation is not finite, or a sum overflows, and is left as it
    was otherwise. Look at it before merging: the running moments would not recover.
    Raises GrammarLensError if the activations are of a dtype or layout that the kernel does not read.
    """
    _check_readable("activations", flat)
    if gate is not None:
        _check_readable("gates", gate)
        if gate.shape != flat.shape:
            raise GrammarLensError(
                f"gates must be of the activations' shape {tuple(flat.shape)}, "
                f"got {tuple(gate.shape)}: hand over those of the same layer and batch"
            )
    shape = (len(chunks.start), flat.shape[1])
    moments = ChunkMoments(
        mean=torch.empty(shape, dtype=torch.float64, device=flat.device),
        m2=torch.empty(shape, dtype=torch.float32, device=flat.device),
        fired=torch.empty(shape, dtype=torch.int32, device=flat.device),
        sum_abs=torch.empty(shape, dtype=torch.float32, device=flat.device),
    )
    # kernels start on the current device, and layers may be on several
    with torch.cuda.device_of(flat):
        _chunk_kernel[shape[0], triton.cdiv(shape[1], CHUNK_UNITS)](
            flat,
            gate,
            chunks.where,
            chunks.start,
            chunks.size,
            moments.mean,
            moments.m2,
            moments.fired,
            moments.sum_abs,
            bad,
            shape[1],
            flat.stride(0),
            0 if gate is None else gate.stride(0),
            ROWS=CHUNK,
            UNITS=CHUNK_UNITS,
            num_warps=4,
        )
    return moments


def merge_chunks(
    moments: ChunkMoments,
    chunks: Chunks,
    count: Float64[Tensor, " label"],
    mean: Float64[Tensor, "label unit"],
    m2: Float64[Tensor, "label unit"],
    fired: Float64[Tensor, "label unit"],
    sum_abs: Float64[Tensor, " unit"],
) -> None:
    """Merges the chunks' moments, in order, into the running ones of their classes, in place.

    The running moments may be one layer of larger tensors; their units must lie side by side.
    A class without words in the batch is not touched.
    """
    n_units = moments.mean.shape[1]
    assert mean.stride(1) == m2.stride(1) == fired.stride(1) == 1, "units must lie side by side"
    with torch.cuda.device_of(mean):
        _merge_kernel[len(chunks.group), triton.cdiv(n_units, MERGE_UNITS)](
            moments.mean,
            moments.m2,
            moments.fired,
            chunks.size,
            chunks.group,
            chunks.group_start,
            count,
            mean,
            m2,
            fired,
            n_units,
            count.stride(0),
            mean.stride(0),
            m2.stride(0),
            fired.stride(0),
            UNITS=MERGE_UNITS,
            num_warps=4,
        )
    # after the kernel, whose programs all read the old count; a class is in `group` once, so the
    # sum does not depend on the order
    count.index_add_(0, chunks.group, chunks.words)
    sum_abs += moments.sum_abs.sum(0, dtype=torch.float64)


def _check_readable(name: str, values: Tensor) -> None:
    if values.dtype not in DTYPES:
        raise GrammarLensError(
            f"{name} must be bfloat16, float16 or float32, got {values.dtype}: chunks are centred "
            "in float32, so convert them with .float(), or use MomentAccumulator.add"
        )
    if values.shape[1] > 1 and values.stride(1) != 1:
        raise GrammarLensError(
            f"units must lie side by side in the {name}, got strides {values.stride()}: "
            "hand over values.contiguous()"
        )


def _kernel(function: Callable[..., None]) -> Any:
    """The Triton kernel that a function describes."""
    # Triton looks the names of a kernel's source up in the globals of the function that it is given.
    # In tests jaxtyping's import hook has wrapped the function by then, and the globals of the
    # wrapper are those of another module.
    return triton.jit(inspect.unwrap(function))


@_kernel
def _chunk_kernel(
    flat,
    gate,
    where,
    start,
    size,
    mean,
    m2,
    fired,
    sum_abs,
    bad,
    n_units,
    flat_stride,
    gate_stride,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """One chunk of words at one block of units; rows and units past the end are masked."""
    chunk = tl.program_id(0)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    is_unit = unit < n_units
    row = tl.arange(0, ROWS)
    first = tl.load(start + chunk)
    n = tl.load(size + chunk)
    is_word = row < n
    # 64 bits: a place times the number of units may exceed 2**31
    token = tl.load(where + first + row, mask=is_word, other=0).to(tl.int64)
    head = tl.load(where + first).to(tl.int64)
    inside = is_word[:, None] & is_unit[None, :]
    x = tl.load(flat + token[:, None] * flat_stride + unit[None, :], mask=inside, other=0.0)
    x = x.to(tl.float32)
    shift = tl.load(flat + head * flat_stride + unit, mask=is_unit, other=0.0).to(tl.float32)
    if gate is None:
        fires = x > 0
    else:
        at = gate + token[:, None] * gate_stride + unit[None, :]
        fires = tl.load(at, mask=inside, other=0.0).to(tl.float32) > 0
    # seen from its first word a chunk is small numbers in float32, however large its mean
    z = tl.where(inside, x - shift[None, :], 0.0)
    rest = tl.sum(z, axis=0) / n.to(tl.float32)
    z = tl.where(inside, z - rest[None, :], 0.0)
    squares = tl.sum(z * z, axis=0)
    absolute = tl.sum(tl.abs(x), axis=0)
    out = chunk.to(tl.int64) * n_units + unit
    tl.store(mean + out, shift.to(tl.float64) + rest.to(tl.float64), mask=is_unit)
    tl.store(m2 + out, squares, mask=is_unit)
    tl.store(fired + out, tl.sum(fires.to(tl.int32), axis=0), mask=is_unit)
    tl.store(sum_abs + out, absolute, mask=is_unit)
    # NaN is not below infinity either
    is_finite = (squares < float("inf")) & (absolute < float("inf"))
    tl.store(bad + 0 * unit, 1, mask=is_unit & (is_finite == 0))


@_kernel
def _merge_kernel(
    chunk_mean,
    chunk_m2,
    chunk_fired,
    size,
    group,
    group_start,
    count,
    mean,
    m2,
    fired,
    n_units,
    count_stride,
    mean_stride,
    m2_stride,
    fired_stride,
    UNITS: tl.constexpr,
):
    """All chunks of one class at one block of units: Chan, Golub & LeVeque (1983)."""
    present = tl.program_id(0)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    is_unit = unit < n_units
    label = tl.load(group + present).to(tl.int64)
    mean_at = mean + label * mean_stride + unit
    m2_at = m2 + label * m2_stride + unit
    fired_at = fired + label * fired_stride + unit
    a = tl.load(count + label * count_stride)
    a_mean = tl.load(mean_at, mask=is_unit, other=0.0)
    a_m2 = tl.load(m2_at, mask=is_unit, other=0.0)
    a_fired = tl.load(fired_at, mask=is_unit, other=0.0)
    begin = tl.load(group_start + present).to(tl.int64)
    end = tl.load(group_start + present + 1).to(tl.int64)
    for chunk in range(begin, end):
        at = chunk * n_units + unit
        b = tl.load(size + chunk).to(tl.float64)
        b_mean = tl.load(chunk_mean + at, mask=is_unit, other=0.0)
        b_m2 = tl.load(chunk_m2 + at, mask=is_unit, other=0.0).to(tl.float64)
        b_fired = tl.load(chunk_fired + at, mask=is_unit, other=0).to(tl.float64)
        share = b / (a + b)
        gap = b_mean - a_mean
        a_mean += gap * share
        a_m2 += b_m2 + gap * gap * (a * share)
        a_fired += b_fired
        a += b
    tl.store(mean_at, a_mean, mask=is_unit)
    tl.store(m2_at, a_m2, mask=is_unit)
    tl.store(fired_at, a_fired, mask=is_unit)
