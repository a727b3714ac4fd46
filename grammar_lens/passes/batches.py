"""Loop over batches: resumable, in halves where memory runs out, shared among ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.errors import GrammarLensError
from grammar_lens.passes import distributed
from grammar_lens.passes.distributed import Shard
from grammar_lens.passes.memory import keep_freed
from grammar_lens.passes.readers import Collector


@runtime_checkable
class Keeper(Protocol):
    """Keeps what a pass has collected, so that the same pass can be resumed.

    `about` says what the pass is of, by name. `begin` loads what was kept and returns how many
    batches that covers and the token budget then; `after` is called when a batch is done.
    """

    def begin(
        self, about: Mapping[str, object], collectors: Sequence[Collector]
    ) -> tuple[int, int | None]: ...

    def after(
        self, done: int, budget: int | None, collectors: Sequence[Collector], last: bool
    ) -> None: ...


def read_batches(
    batches: Sequence[TokenBatch],
    read: Callable[[TokenBatch], None],
    collectors: Sequence[Collector],
    *,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    keeper: Keeper | None = None,
    about: Mapping[str, object] | None = None,
    shard: Shard | None = None,
) -> None:
    """Calls `read` on every batch, in halves where one does not fit in memory.

    `read` adds to the collectors; they commit after each piece and discard what a failed one added.
    Once a batch did not fit, those to come are cut to what does. In a process group every process
    reads its share and gets what all have collected; with a `shard` only that share is read.
    Raises GrammarLensError when a single sentence does not fit.
    """
    keep_freed()
    process = shard or distributed.world()
    numbers = range(process.index, len(batches), process.of)
    done, budget = (0, None) if keeper is None else keeper.begin(about or {}, collectors)
    for i, number in enumerate(numbers):
        if i >= done:
            for batch in _within(batches[number], budget):
                budget = _read_piecewise(batch, read, collectors, budget, warn)
            if keeper is not None:
                keeper.after(i + 1, budget, collectors, i + 1 == len(numbers))
        if progress:
            together = batches[number : number + process.of] if shard is None else [batches[number]]
            progress(sum(batch.n_tokens for batch in together))
    if shard is None:
        distributed.merge(collectors)


def _read_piecewise(
    batch: TokenBatch,
    read: Callable[[TokenBatch], None],
    collectors: Sequence[Collector],
    budget: int | None,
    warn: Callable[[str], None] | None,
) -> int | None:
    """Reads one batch, in halves if it does not fit; returns the budget for what follows."""
    pieces = [batch]
    while pieces:
        piece = pieces.pop(0)
        failed = None
        try:
            read(piece)
        except Exception as error:
            for collector in collectors:
                collector.discard()
            if not is_out_of_memory(error):
                raise
            if len(piece.lengths) < 2:
                raise GrammarLensError(
                    f"one row of {piece.token_ids.shape[1]} tokens does not fit in memory: "
                    "use a smaller dtype, fewer sites, or a device with more memory"
                ) from error
            failed = piece
        if failed is not None:
            # not in `except`: the traceback would hold what the failed pass has made
            budget = failed.token_ids.numel() // 2
            pieces[:0] = failed.halves()
            if warn:
                warn(f"out of memory: the token budget is now {budget}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        # not in `try`: a batch that is merged in part must not be read again
        for collector in collectors:
            collector.commit()
    return budget


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or on the host."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def _within(batch: TokenBatch, budget: int | None) -> Iterator[TokenBatch]:
    """The batch, in pieces no larger than the budget."""
    if budget is None or batch.token_ids.numel() <= budget or len(batch.lengths) < 2:
        yield batch
    else:
        for half in batch.halves():
            yield from _within(half, budget)
