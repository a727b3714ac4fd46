"""A battery: many lesions over one corpus, which reads the intact model once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grammar_lens.corpus.alignment import Alignment, TokenBatch, token_batches
from grammar_lens.corpus.lexicon import DeviceLexicon, Lexicon, split_losses
from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.edits import edits_of
from grammar_lens.lesions.effect_check import require_effects
from grammar_lens.lesions.outcomes import Condition, Outcomes
from grammar_lens.lesions.passes import FastPasses, HookedPasses, Lesion, Scored
from grammar_lens.lesions.store import Store, battery_key
from grammar_lens.model.about import Model, device_of, model_name
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.passes import distributed
from grammar_lens.passes.batches import is_out_of_memory
from grammar_lens.passes.memory import keep_freed
from grammar_lens.passes.workers import Stop, n_workers, side_by_side

STACK = 8
"""Lesions that a full batch leaves room for in one forward pass: sentences of like length are few."""
PIECES_EACH = 4
"""Pieces of work for every worker, at least: the fewer, the longer the others wait for the last."""


def run_battery(
    model: Model,
    alignment: Alignment,
    classes: Int[np.ndarray, " all_words"],
    lexicon: Lexicon,
    conditions: Sequence[Condition],
    *,
    shared: Bool[np.ndarray, " all_words"] | None = None,
    donors: Donors | None = None,
    seed: int = SEED,
    token_budget: int = 4096,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcomes:
    """Losses of every scored word, intact and under each condition.

    A word is scored when its class is not negative; the caller leaves out what cannot be scored.
    Shams are scored at the `shared` words only (by default at all), and are NaN elsewhere.
    Lesions stand as rows of one forward pass, as many as fit into `token_budget`, which is halved
    whenever memory runs out; they begin at the first layer they touch. With a `folder`, what is
    finished survives there, and the same call resumes it. `seed` draws the donors. In a process
    group of torch.distributed every process reads its share of the batches and gets all outcomes.
    `progress` is called with the tokens of the rows with scored words, times conditions, as they are done.
    Raises GrammarLensError where neurons write and editing them changes no logit.
    """
    numbers = np.flatnonzero(classes >= 0)
    common = np.ones(len(numbers), bool) if shared is None else shared[numbers]
    rows = len(conditions) + 1
    probed = (0, *(i + 1 for i, c in enumerate(conditions) if _is_probed(c)))
    lesions = _lesions(model, alignment, classes, conditions, donors, seed)
    key = battery_key(
        alignment,
        classes,
        common,
        lexicon,
        conditions,
        None if donors is None else donors.word,
        (model_name(model), seed, token_budget),
    )
    process = distributed.world()
    if folder is not None and process.of > 1:
        folder = folder / str(process)
    store = Store(rows, len(numbers), len(lexicon.labels), probed, folder=folder, key=key)
    battery = _Battery(
        model, alignment, classes, lexicon, lesions, probed, common, store, token_budget, progress
    )
    battery.run()
    require_effects(model, conditions, store.nll, alignment.token_ids)
    return Outcomes(
        conditions=tuple(conditions),
        labels=lexicon.labels,
        word=numbers,
        sentence=alignment.sentence[numbers],
        label=classes[numbers],
        nll=store.nll,
        tag_loss=store.tag_loss,
        lexical_loss=store.lexical_loss,
        top_label=store.top_label,
        tag_probability=store.tag_probability,
        probed=probed,
        shared=common,
        seen_mass=float(store.seen_mass.mean()) if len(numbers) else 0.0,
    )


def _is_probed(condition: Condition) -> bool:
    return condition.replicate == 0 and condition.kind == "set"


def _lesions(
    model: Model,
    alignment: Alignment,
    classes: Int[np.ndarray, " all_words"],
    conditions: Sequence[Condition],
    donors: Donors | None,
    seed: int,
) -> list[Lesion]:
    """The intact model and the conditions, as edits; every resampling lesion has the same donors."""
    assigned: dict[str, Int[np.ndarray, " token"]] = {}
    lesions = [Lesion((), "every", None)]
    for condition in conditions:
        ablation = condition.ablation
        edits = edits_of(model, condition.neurons, ablation, donors)
        if edits and ablation.value.startswith("resample") and ablation.value not in assigned:
            assert donors is not None
            assigned[ablation.value] = _assigned(alignment, classes, donors, ablation.value, seed)
        lesions.append(Lesion(edits, ablation.where, assigned.get(ablation.value)))
    return lesions


def _assigned(
    alignment: Alignment,
    classes: Int[np.ndarray, " all_words"],
    donors: Donors,
    value: str,
    seed: int,
) -> Int[np.ndarray, " token"]:
    """A donor for every token of the corpus."""
    n_tokens, start = alignment.n_tokens, alignment.token_start
    word, label = np.full(n_tokens, -1), np.full(n_tokens, -1)
    read = np.flatnonzero(alignment.readable(donors.position) & (classes >= 0))
    place = start[alignment.row[read]] + alignment.time(donors.position)[read]
    word[place], label[place] = read, classes[read]
    rng = np.random.default_rng([seed, 0 if value == "resample" else 1])
    return donors.choose(word, label, rng, within=value == "resample_within")


@dataclass
class _Battery:
    """Shares the batches among workers, and stores what they find."""

    model: Model
    alignment: Alignment
    classes: Int[np.ndarray, " all_words"]
    lexicon: Lexicon
    lesions: list[Lesion]
    probed: tuple[int, ...]
    shared: Bool[np.ndarray, " word"]
    store: Store
    token_budget: int
    progress: Callable[[int], None] | None

    def run(self) -> None:
        keep_freed()
        self.numbers = np.flatnonzero(self.classes >= 0)
        self.start = self.alignment.token_start
        self.length = np.array([len(ids) for ids in self.alignment.token_ids], np.int64)
        self.stop = Stop()
        workers = [_Worker(self, passes, self.token_budget) for passes in self._passes()]
        group = workers[0].passes.group
        active = [i for i, lesion in enumerate(self.lesions) if i > 0 and lesion.edits]
        active.sort(key=lambda i: (str(group(self.lesions[i])), i))
        batches, self.process = self._batches(), distributed.world()
        own = np.zeros(len(self.numbers), bool)
        mine = range(self.process.index, len(batches), self.process.of)
        for number in mine:
            own |= np.isin(self.alignment.row[self.numbers], batches[number].rows)
        unread = [number for number in mine if number not in self.store.finished]
        for number in range(self.process.index, len(batches) + self.process.index, self.process.of):
            if number not in unread:
                self._advance(batches, number)
        # few batches are cut by their lesions too, or workers would wait for the last ones; not by
        # how many are unread, since a resumed battery must stack the same lesions in one pass
        n_parts = -(-PIECES_EACH * len(workers) // max(1, len(mine)))
        parts = _parts(active, 1 if len(workers) == 1 else n_parts)
        pieces = [(number, part) for number in unread for part in range(len(parts))]
        left = dict.fromkeys(unread, len(parts))

        def done(piece: int, _: None) -> None:
            number = pieces[piece][0]
            left[number] -= 1
            if not left[number]:
                self.store.finish(number)
                self._advance(batches, number)

        def work(worker: _Worker) -> Callable[[tuple[int, int]], None]:
            return lambda piece: worker.batch(batches[piece[0]], parts[piece[1]], piece[1] == 0)

        side_by_side([work(worker) for worker in workers], pieces, done, self.stop)
        self.store.add_up(own)
        for i in set(range(1, len(self.lesions))) - set(active):
            words = np.ones(len(self.numbers), bool) if i in self.probed else self.shared
            self.store.copy_intact(i, words)

    def _passes(self) -> Sequence[FastPasses | HookedPasses]:
        """Ways to run lesions that can be used at the same time."""
        first = 1 if self.alignment.has_bos else 0
        fast = fast_path(self.model)
        if fast is None:
            return [HookedPasses(self.model, first)]
        paths = fast.for_workers(n_workers(device_of(self.model)))
        return [FastPasses(self.model, path, first) for path in paths]

    def _advance(self, batches: Sequence[TokenBatch], number: int) -> None:
        """Tells of a batch of this process, and of those that the others read at the same time."""
        if self.progress:
            first = number - self.process.index
            together = batches[first : first + self.process.of]
            n_tokens = sum(int(self.length[batch.rows].sum()) for batch in together)
            self.progress(n_tokens * len(self.lesions))

    def _batches(self) -> list[TokenBatch]:
        """Rows with scored words, without the tokens after the last scored one."""
        times = self.alignment.time("next")[self.numbers]
        until = np.zeros(len(self.length), np.int64)
        np.maximum.at(until, self.alignment.row[self.numbers], times + 1)
        chosen = np.flatnonzero(until)
        width = max(1, self.token_budget // STACK)
        return token_batches(self.alignment, width, rows=chosen, until=until)


def _parts(active: list[int], n: int) -> list[list[int]]:
    """The lesions in at most `n` parts of like size, in their order; one empty part for none."""
    size = max(1, -(-len(active) // n))
    return [active[i : i + size] for i in range(0, len(active), size)] or [[]]


@dataclass
class _Worker:
    """Scores batches one by one; remembers how many tokens fit."""

    battery: _Battery
    passes: FastPasses | HookedPasses
    token_budget: int
    tables: DeviceLexicon | None = None

    def batch(self, batch: TokenBatch, active: Sequence[int], intact: bool) -> None:
        """Scores one batch under some lesions, and `intact` if asked, in halves if it does not fit."""
        try:
            self._whole(batch, active, intact)
            return
        except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch.rows) < 2:
                raise GrammarLensError(
                    f"one sentence of {batch.token_ids.shape[1]} tokens does not fit in memory"
                ) from error
        # not in `except`: the traceback would hold what the failed pass has made
        self._spare(batch.token_ids.numel() // 2)
        for half in batch.halves():
            self.batch(half, active, intact)

    def _whole(self, batch: TokenBatch, active: Sequence[int], intact: bool) -> None:
        if batch.token_ids.numel() > self.token_budget and len(batch.rows) > 1:
            for half in batch.halves():
                self.batch(half, active, intact)
            return
        of = self.battery
        words, where = batch.locate(of.alignment, "next", of.classes >= 0)
        token = of.start[batch.rows][:, None] + np.arange(batch.token_ids.shape[1])
        token = np.minimum(token, of.alignment.n_tokens - 1)
        scored = Scored(batch, where, token)
        logits = self.passes.intact(scored, [of.lesions[i] for i in active])
        every = np.arange(len(words))
        if intact:
            self._put([0], words, every, logits)
        some = every[of.shared[np.searchsorted(of.numbers, words)]]
        for key, rows in groupby(active, key=self._stack):
            which = every if key[0] else some
            if len(which):
                self._rows(batch, words, list(rows), which)

    def _stack(self, i: int) -> tuple[object, ...]:
        """Rows of equal value can share one forward pass, scored at the same words."""
        return (i in self.battery.probed, *self.passes.group(self.battery.lesions[i]))

    def _rows(
        self,
        batch: TokenBatch,
        words: Int[np.ndarray, " word"],
        waiting: list[int],
        which: Int[np.ndarray, " chosen"],
    ) -> None:
        """Scores conditions that can share one pass, as many at once as fit."""
        while waiting:
            self.battery.stop.check()
            rows = waiting[: max(1, self.token_budget // batch.token_ids.numel())]
            try:
                logits = self.passes.lesioned([self.battery.lesions[i] for i in rows], which)
                self._put(rows, words, which, logits)
            except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or len(rows) == 1:
                    raise
                self._spare(batch.token_ids.numel() * len(rows) // 2)
                continue
            waiting = waiting[len(rows) :]

    def _put(
        self,
        rows: Sequence[int],
        words: Int[np.ndarray, " word"],
        which: Int[np.ndarray, " chosen"],
        logits: Tensor,
    ) -> None:
        of = self.battery
        if self.tables is None:
            self.tables = DeviceLexicon.of(of.lexicon, logits.shape[1], logits.device)
        chosen = words[which]
        gold = torch.from_numpy(of.alignment.first_token[chosen]).to(logits.device)
        label = torch.from_numpy(of.classes[chosen]).to(logits.device)
        at = np.searchsorted(of.numbers, chosen)
        for i, row in enumerate(rows):
            of_lesion = logits[i * len(chosen) : (i + 1) * len(chosen)]
            of.store.put(row, at, split_losses(of_lesion, gold, label, self.tables))

    def _spare(self, budget: int) -> None:
        self.token_budget = max(1, budget)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
