"""Progress of long work on the terminal: how much is done, how fast, and how long is left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int], None]
SECONDS_BETWEEN_LINES = 15.0


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {task.fields['unit']}/s" if speed else "", style="dim")


@contextmanager
def track(what: str, total: int, *, unit: str, show: bool = True) -> Iterator[Advance]:
    """Yields a function to be told of units done.

    On a terminal it moves a bar with speed and time left; elsewhere (a log file) it writes a line
    now and then, so that short work says nothing.
    """
    console = Console(stderr=True)
    if not show or console.quiet:
        yield lambda _done: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            _Speed(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total, unit=unit)
            yield lambda done: bar.advance(task, done)
    else:
        yield _lines(console, what, total, unit)


def _lines(console: Console, what: str, total: int, unit: str) -> Advance:
    begin = last = time.monotonic()
    done = 0

    def advance(more: int) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES or done == 0:
            return
        last = now
        speed = done / (now - begin)
        left = max(total - done, 0) / speed
        console.print(
            f"{what}: {done / max(total, 1):.0%}, {speed:,.0f} {unit}/s, {left:.0f} s left",
            highlight=False,
        )

    return advance
