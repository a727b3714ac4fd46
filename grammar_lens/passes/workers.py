"""Independent pieces of work on the cores of a CPU, several at once, each on one thread or a few.

PyTorch shares every single operation among its threads, which then wait for each other. Where operations
are small, as in batches of a thousand tokens and in the fits of probes, several pieces side by side keep
the cores busier.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

MOST = 8
"""Pieces of work at once, since each needs memory of its own."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Stopped(Exception):
    """Raised in a worker whose result nobody waits for any more."""


class Stop:
    """Tells workers that another one has failed, or that the user has pressed Ctrl-C."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def now(self) -> None:
        """Ends all work at its next `check`."""
        self._event.set()

    def check(self) -> None:
        """Raises Stopped if the work is to end. To be called now and then in long pieces."""
        if self._event.is_set():
            raise Stopped


def n_workers(device: torch.device | str) -> int:
    """Pieces of work that can be done at once there: on a CPU one for each of PyTorch's threads."""
    on_cpu = torch.device(device).type == "cpu"
    return min(torch.get_num_threads(), MOST) if on_cpu else 1


def side_by_side(
    workers: Sequence[Callable[[Piece], Result]],
    pieces: Sequence[Piece],
    done: Callable[[int, Result], None],
    stop: Stop | None = None,
) -> None:
    """Gives every piece to some worker, and `done`, in this thread, each one's number and result.

    A worker is called with one piece at a time, in a thread of its own that has its share of PyTorch's
    threads; a single worker is called in this thread, in order. The first error is raised once the
    pieces under way have ended, which those that look at `stop`, made for this call, do at once.
    """
    workers = workers[: max(1, len(pieces))]
    if len(workers) == 1:
        for number, piece in enumerate(pieces):
            done(number, workers[0](piece))
        return
    stop, threads = stop or Stop(), torch.get_num_threads()
    idle, left = list(workers), list(reversed(range(len(pieces))))
    running: dict[Future[Result], tuple[int, Callable[[Piece], Result]]] = {}
    share = max(1, threads // len(workers))
    with ThreadPoolExecutor(len(workers), "worker", torch.set_num_threads, (share,)) as pool:
        try:
            while left or running:
                while left and idle:
                    number, worker = left.pop(), idle.pop()
                    running[pool.submit(worker, pieces[number])] = number, worker
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number, worker = running.pop(future)
                    idle.append(worker)
                    done(number, future.result())
        finally:
            stop.now()
            # the count is each thread's own, but new threads take the one that was set last
            torch.set_num_threads(threads)


def each_of(
    work: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    device: torch.device | str,
    progress: Callable[[Piece], None] = lambda piece: None,
    *,
    size: Callable[[Piece], float] = lambda piece: 0,
) -> list[Result]:
    """The result of every piece, in order; `progress` is told, in this thread, of each that is done.

    Pieces of larger `size` are begun first, so that nobody waits for them in the end.
    """
    results: dict[int, Result] = {}
    order = sorted(range(len(pieces)), key=lambda i: -size(pieces[i]))

    def done(number: int, result: Result) -> None:
        results[order[number]] = result
        progress(pieces[order[number]])

    side_by_side([work] * n_workers(device), [pieces[i] for i in order], done)
    return [results[i] for i in range(len(pieces))]
