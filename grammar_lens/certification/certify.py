"""Run many planted worlds on several processes and collect their results."""

import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import active_children, get_context

import torch

from grammar_lens.certification.measures import Certification
from grammar_lens.certification.planted.design import KINDS
from grammar_lens.certification.planted.world import FRESH_WORDS, TRAIN_WORDS
from grammar_lens.certification.world_result import WorldResult, run_world
from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.progress import track

PATTERN = ("true", "null", "true", "null", "decoy")
"""The kinds of the worlds that are required to pass, in turn: 80, 80 and 40 of 200."""
LEAST_SHAMS = 19
"""With fewer shams no p is as small as .05."""


def certify(
    n_worlds: int = 200,
    *,
    shams: int = 19,
    seed: int = SEED,
    processes: int = 2,
    reported: bool = True,
    train_words: int = TRAIN_WORDS,
    fresh_words: int = FRESH_WORDS,
    show_progress: bool = True,
) -> Certification:
    """The error rates of the whole chain over planted worlds: 2 true, 2 null and 1 decoy of every 5.

    With `reported` a tenth as many worlds of weak effects, and of neurons that write elsewhere, are
    added to them, and null and decoy worlds are asked a second time, with the sets that attribution
    chooses there; nothing is required of these. Every world has its own seed and one thread, so the
    number of processes and of worlds changes none of them.
    Raises GrammarLensError for fewer than 5 worlds, too few shams, no process, or a negative seed.
    """
    _check(n_worlds, shams, seed, processes)
    extra = -(-n_worlds // 10) if reported else 0
    kinds = [PATTERN[i % len(PATTERN)] for i in range(n_worlds)]
    kinds += ["weak"] * extra + ["elsewhere"] * extra
    jobs = [
        partial(
            run_world,
            kind,
            kinds[:i].count(kind),
            seed=seed,
            shams=shams,
            reported=reported,
            train_words=train_words,
            fresh_words=fresh_words,
        )
        for i, kind in enumerate(kinds)
    ]
    begin = time.monotonic()
    worlds = []
    with (
        track("certifying", len(jobs), unit="worlds", show=show_progress) as step,
        closing(_results(jobs, min(processes, len(jobs)))) as results,
    ):
        for result in results:
            worlds.append(result)
            step(1)
    worlds.sort(key=lambda w: (KINDS.index(w.kind), w.number))
    return Certification(tuple(worlds), shams, seed, processes, time.monotonic() - begin)


def _check(n_worlds: int, shams: int, seed: int, processes: int) -> None:
    if n_worlds < len(PATTERN):
        raise GrammarLensError(
            f"worlds is {n_worlds}, expected at least {len(PATTERN)}: 2 true, 2 null, 1 decoy"
        )
    if shams < LEAST_SHAMS:
        raise GrammarLensError(
            f"shams is {shams}, expected at least {LEAST_SHAMS}: with fewer no p is as small as .05"
        )
    require_at_least("processes", processes, 1)
    require_at_least("seed", seed, 0)


def _results(
    jobs: list[Callable[[], WorldResult]], processes: int
) -> Generator[WorldResult, None, None]:
    """Results as they come; an interrupt ends the processes."""
    if processes == 1:
        with _one_thread():
            yield from (job() for job in jobs)
        return
    others = active_children()
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin_process)
    try:
        for done in as_completed([pool.submit(job) for job in jobs]):
            yield done.result()
    except (KeyboardInterrupt, GeneratorExit):
        for child in active_children():
            if child not in others:  # else the worlds that are under way would be finished first
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_process() -> None:
    """One thread each, so that sums are the same everywhere; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
