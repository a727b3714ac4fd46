"""Several processes on one pass: sharing out batches and merging results.

A process group is torch's (`torchrun`, gloo on CPUs and nccl on GPUs); a job array has none, and its
jobs know their share by `--shard`. Batches are made from the whole corpus before they are shared
out, so their composition, and with it every number, is that of one process.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from signal import SIGTERM, signal

import numpy as np
import torch
import torch.distributed as dist

from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.readers import Collector, State

PATIENCE = timedelta(hours=1)
"""Timeout for waiting on other processes; passes over different batches end at different times."""


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of a corpus, by number from 0."""

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise GrammarLensError(
                f"shard {self.index + 1} of {self.of} does not exist: expected I/N with I from 1 to N"
            )

    def __str__(self) -> str:
        return f"{self.index + 1}of{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """A shard from "2/8", counted from 1 as job arrays do."""
        index, slash, of = text.partition("/")
        if not (slash and index.strip().isdigit() and of.strip().isdigit()):
            raise GrammarLensError(f"shard is {text!r}, expected I/N such as 2/8")
        return cls(int(index) - 1, int(of))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.index == 0


def world() -> Shard:
    """This process among those of torch.distributed; alone where there is no process group."""
    if dist.is_available() and dist.is_initialized():
        return Shard(dist.get_rank(), dist.get_world_size())
    return Shard()


@contextmanager
def started() -> Iterator[Shard]:
    """Joins the processes that torchrun has started, if it has, and leaves them at the end.

    Raises GrammarLensError when another process is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield world()
        return
    with_gpus = torch.cuda.is_available()
    if with_gpus:
        torch.cuda.set_device(local_device())
    signal(SIGTERM, _stopped)
    with _lost_others():
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo", timeout=PATIENCE)
        yield world()
        # not after an error: the others may be waiting elsewhere, and torchrun stops them
        dist.barrier()
        dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU of this process on its machine."""
    rank, n_devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= n_devices:
        raise GrammarLensError(
            f"process {rank} of this machine has no GPU of its own, as there are {n_devices}: start "
            f"{n_devices} processes (torchrun --nproc-per-node {n_devices})"
        )
    return torch.device("cuda", rank)


def barrier() -> None:
    """Waits for all processes."""
    if world().of > 1:
        dist.barrier()


def agreed(value: list[int]) -> list[int]:
    """The main process's numbers, in every process; a list of the same length everywhere."""
    if world().of == 1 or not value:
        return value
    numbers = torch.tensor(value)
    dist.broadcast(numbers, 0)
    return numbers.tolist()


def merge(collectors: Sequence[Collector]) -> None:
    """Gives every process the merged state of all processes' collectors.

    Piece by piece, and in the order of the processes, so that all get the same to the last bit.
    """
    process = world()
    if process.of == 1:
        return
    for collector in collectors:
        pieces = [
            merged(collector.merge, (_of_process(piece, rank) for rank in range(process.of)))
            for piece in collector.state()
        ]
        collector.load(pieces)


def merged(merge: Callable[[State, State], State], pieces: Iterator[State]) -> State:
    """All pieces as one, from the first to the last."""
    whole = next(pieces)
    for piece in pieces:
        whole = merge(whole, piece)
    return whole


def add_up(array: np.ndarray, own: np.ndarray) -> None:
    """Fills an array [row, word] of which every process has the columns `own`, in place."""
    if world().of == 1:
        return
    kind = array.dtype
    for row in array:
        # in float64 every int16, float32 and NaN survives; what is not mine must add nothing
        values = np.where(own.reshape(-1, *[1] * (row.ndim - 1)), row, 0).astype(np.float64)
        whole = torch.from_numpy(values)
        dist.all_reduce(whole)
        row[...] = whole.numpy().astype(kind)


def _of_process(piece: State, rank: int) -> State:
    """One process's piece, sent to all."""
    is_sender = world().index == rank
    got = {}
    for name in sorted(piece):
        own = piece[name]
        shape = torch.tensor(own.shape, dtype=torch.int64)
        if own.dim():
            dist.broadcast(shape, rank)
        sent = own.to(torch.uint8) if own.dtype == torch.bool else own.contiguous()
        if not is_sender:
            sent = torch.empty(shape.tolist(), dtype=sent.dtype, device=sent.device)
        if sent.numel():
            dist.broadcast(sent, rank)
        got[name] = sent.to(own.dtype)
    return got


def _stopped(*_: object) -> None:
    raise GrammarLensError(
        "stopped from outside, as torchrun does when another process of the run has ended (what "
        "it says names that process): what was finished is kept, run again with --resume"
    )


@contextmanager
def _lost_others() -> Iterator[None]:
    """Turns what torch raises when another process is gone into a GrammarLensError."""
    try:
        yield
    except dist.DistError as error:
        raise _gone(error) from error
    except RuntimeError as error:
        text = str(error).lower()
        if any(x in text for x in ("gloo", "nccl", "connection closed", "connection reset")):
            raise _gone(error) from error
        raise


def _gone(error: Exception) -> GrammarLensError:
    reason = str(error).strip().splitlines()[0][:200]
    return GrammarLensError(
        f"process {world().index} lost the others ({reason}): one of them has ended; what was "
        "finished is kept, run again with --resume"
    )
