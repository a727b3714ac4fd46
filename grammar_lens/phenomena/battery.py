"""Many lesions over minimal pairs, whose intact sentences are read once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grammar_lens.corpus.alignment import TokenBatch, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.lesions.battery import STACK
from grammar_lens.lesions.edits import edits_of
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.lesions.passes import FastPasses, HookedPasses, Lesion, Scored
from grammar_lens.model.about import Model
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.passes.batches import is_out_of_memory
from grammar_lens.phenomena.scoring import PairSums, PreparedPairs, log_probability, places


@dataclass(frozen=True)
class PairLesion:
    """A lesion of one set of neurons, and the pairs that are scored under it."""

    neurons: Neurons
    pairs: Bool[np.ndarray, " pair"]


@dataclass(frozen=True)
class LogOdds:
    """Log odds (nats) of every pair in every row: of the whole sentences, and where they part.

    NaN at pairs that were not scored.
    """

    whole: Float[np.ndarray, "row pair"]
    token: Float[np.ndarray, "row pair"]


def lesioned_log_odds(
    model: Model,
    prepared: PreparedPairs,
    lesions: Sequence[PairLesion],
    ablation: Ablation,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LogOdds:
    """Log odds of the pairs, intact in row 0 and then under each lesion.

    What two sentences share before they part has the same log p in both, under a lesion too, so only
    the tokens from there on are scored. Lesions stand as rows of one forward pass, as many as fit into
    the token budget. `progress` is called with tokens times lesions.
    """
    alignment = prepared.alignment
    budget = token_budget or default_budget(model)
    fast = fast_path(model)
    first = 1 if alignment.has_bos else 0
    passes = HookedPasses(model, first) if fast is None else FastPasses(model, fast, first)
    edited = [
        Lesion(edits_of(model, lesion.neurons, ablation), ablation.where, None)
        for lesion in lesions
    ]
    wanted = np.array([lesion.pairs for lesion in lesions], bool)
    wanted = wanted.reshape(len(lesions), len(prepared.pairs))
    sums = PairSums(prepared, len(lesions) + 1)
    rows = np.flatnonzero(np.repeat(wanted.any(0), 2))
    for batch in token_batches(alignment, max(1, budget // STACK), rows=rows):
        row, time = places(batch, prepared.part[batch.rows // 2])
        of_batch = _Batch(batch, row, time)
        active = [i for i, x in enumerate(edited) if x.edits]
        logits = passes.intact(of_batch.scored, [edited[i] for i in active])
        of_batch.add(sums, 0, np.arange(len(row)), logits)
        stacks: dict[tuple[tuple[object, ...], bytes], list[int]] = {}
        for i in active:
            which = np.flatnonzero(wanted[i, batch.rows[row] // 2])
            if len(which):
                stacks.setdefault((passes.group(edited[i]), which.tobytes()), []).append(i)
        for (_, places_of), members in stacks.items():
            which = np.frombuffer(places_of, np.int64).copy()
            _stacked(passes, edited, members, which, budget, of_batch, sums)
        if progress:
            progress(batch.n_tokens * (len(lesions) + 1))
    for i, lesion in enumerate(edited, 1):
        if not lesion.edits:
            sums.whole[i], sums.token[i] = sums.whole[0], sums.token[0]
    scored = np.concatenate([wanted.any(0, keepdims=True), wanted])
    whole, token = (
        np.where(scored, np.subtract(x[..., 0], x[..., 1]), np.nan)
        for x in (sums.whole, sums.token)
    )
    return LogOdds(whole, token)


class _Batch:
    """A batch of sentences and its scored tokens: row in the batch and time of each."""

    def __init__(
        self, batch: TokenBatch, row: Int[np.ndarray, " token"], time: Int[np.ndarray, " token"]
    ) -> None:
        self.size = batch.token_ids.numel()
        self._row, self._time, self._gold = batch.rows[row], time, batch.token_ids[row, time]
        where = row * batch.token_ids.shape[1] + time - 1
        self.scored = Scored(batch, where, np.zeros(batch.token_ids.shape, np.int64))

    def add(
        self,
        sums: PairSums,
        i: int,
        which: Int[np.ndarray, " chosen"],
        logits: Float[Tensor, "chosen vocab"],
    ) -> None:
        """Adds log p of the chosen tokens under lesion i."""
        said = log_probability(logits, self._gold[which])
        sums.add(i, self._row[which], self._time[which], said)


def _stacked(
    passes: HookedPasses | FastPasses,
    edited: Sequence[Lesion],
    members: list[int],
    which: Int[np.ndarray, " chosen"],
    budget: int,
    batch: _Batch,
    sums: PairSums,
) -> None:
    """Scores lesions that can share forward passes, as many at once as fit."""
    size, waiting = max(1, budget // batch.size), members
    while waiting:
        some = waiting[:size]
        try:
            logits = passes.lesioned([edited[i] for i in some], which)
        except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            size = max(1, size // 2)
            continue
        for n, i in enumerate(some):
            batch.add(sums, i + 1, which, logits[n * len(which) : (n + 1) * len(which)])
        waiting = waiting[len(some) :]
