"""Pieces of work side by side: all are done, each once, and nobody works on for nobody."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from grammar_lens.passes.workers import MOST, Stop, each_of, n_workers, side_by_side

WAIT = 30.0
"""Seconds after which a thread that does not come is lost."""


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of PyTorch's threads; afterwards it is as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n", "want"), [(1, 1), (3, 3), (64, MOST)])
def test_a_worker_for_every_thread_of_a_cpu(threads: Callable[[int], None], n: int, want: int):
    threads(n)
    assert n_workers("cpu") == want
    assert n_workers(torch.device("cuda")) == 1


def test_two_pieces_at_once_on_half_the_threads_each(threads: Callable[[int], None]):
    threads(4)
    both = threading.Barrier(2)
    seen: list[tuple[int, str]] = []

    def work(piece: int) -> int:
        both.wait(WAIT)  # one after the other would never meet here
        seen.append((torch.get_num_threads(), threading.current_thread().name))
        return piece * piece

    got: dict[int, int] = {}
    side_by_side([work, work], [1, 2, 3, 4], lambda number, result: got.update({number: result}))
    assert got == {0: 1, 1: 4, 2: 9, 3: 16}
    assert {n for n, _ in seen} == {2}
    assert len({name for _, name in seen}) == 2
    assert torch.get_num_threads() == 4


def test_a_worker_has_one_piece_at_a_time(threads: Callable[[int], None]):
    threads(2)
    busy = [threading.Lock(), threading.Lock()]

    def worker(i: int) -> Callable[[int], int]:
        def work(piece: int) -> int:
            assert busy[i].acquire(blocking=False)
            sum(range(20_000))
            busy[i].release()
            return i

        return work

    done: list[int] = []
    side_by_side([worker(0), worker(1)], range(50), lambda number, _: done.append(number))
    assert sorted(done) == list(range(50))


def test_a_single_worker_works_here_and_in_order():
    seen: list[threading.Thread] = []
    done: list[tuple[int, str]] = []

    def work(piece: str) -> str:
        seen.append(threading.current_thread())
        return piece.upper()

    side_by_side([work], ["a", "b"], lambda *x: done.append(x))
    assert done == [(0, "A"), (1, "B")]
    assert set(seen) == {threading.current_thread()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_ends_the_other_workers(
    threads: Callable[[int], None], error: type[BaseException]
):
    """Whether it comes from a worker, or as Ctrl-C in the thread that waits."""
    threads(2)
    stop, started = Stop(), threading.Event()
    begun: list[int] = []

    def work(piece: int) -> None:
        begun.append(piece)
        if piece == 0:
            assert started.wait(WAIT)
            if error is ValueError:
                raise error
            return
        started.set()
        for _ in range(int(WAIT * 100)):
            stop.check()
            threading.Event().wait(0.01)

    def done(number: int, _: None) -> None:
        raise error

    with pytest.raises(error):
        side_by_side([work, work], range(9), done, stop)
    assert sorted(begun) == [0, 1]
    assert torch.get_num_threads() == 2


def test_results_come_in_order_and_progress_in_this_thread(threads: Callable[[int], None]):
    threads(3)
    told: list[tuple[int, threading.Thread]] = []
    got = each_of(
        lambda x: -x, [5, 6, 7], "cpu", lambda x: told.append((x, threading.current_thread()))
    )
    assert got == [-5, -6, -7]
    assert sorted(x for x, _ in told) == [5, 6, 7]
    assert {thread for _, thread in told} == {threading.current_thread()}
    assert each_of(lambda x: x, [], "cpu") == []


@pytest.mark.parametrize("n", [1, 2])
def test_the_largest_pieces_are_begun_first(threads: Callable[[int], None], n: int):
    threads(n)
    begun: list[int] = []

    def work(x: int) -> int:
        begun.append(x)
        return -x

    told: list[int] = []
    got = each_of(work, [2, 9, 5, 9, 1], "cpu", told.append, size=lambda x: x)
    assert got == [-2, -9, -5, -9, -1]
    assert begun[:2] == [9, 9]
    assert sorted(told) == [1, 2, 5, 9, 9]
    if n == 1:
        assert begun == told == [9, 9, 5, 2, 1]
