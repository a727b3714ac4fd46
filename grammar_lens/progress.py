"""Progress of long work: the share done, the speed, and the time left."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

Advance = Callable[[int], None]
SECONDS_BEFORE_A_BAR = 0.5
"""Shorter work shows nothing: bars that come and go at once are a flicker."""
SECONDS_BETWEEN_UPDATES = 0.5
SECONDS_BETWEEN_LINES = 15.0
LOG = logging.getLogger(__name__)


@dataclass
class _Work:
    """Progress of one piece of work; `each` converts what is counted into the unit shown."""

    what: str
    total: int
    unit: str
    each: float
    begin: float
    done: int = 0
    times: int = 0

    def add(self, more: int) -> None:
        self.done += more
        self.times += 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    @property
    def share(self) -> float:
        return self.done / max(self.total, 1)

    def speed(self) -> str:
        """As "1,234 words/s"; nothing before anything is done."""
        return speed(self.done * self.each / self.seconds, self.unit) if self.done else ""

    def left(self) -> str:
        """As "0:01:23 left"; nothing before anything is done."""
        if not self.done:
            return ""
        return left(self.seconds * max(self.total - self.done, 0) / self.done)

    def __str__(self) -> str:
        parts = (f"{self.what}: {self.share:.0%}", self.speed(), self.left())
        return ", ".join(part for part in parts if part)


def speed(per_second: float, unit: str) -> str:
    """Units per second, whole from 10 on."""
    return f"{per_second:,.{0 if per_second >= 10 else 1}f} {unit}/s"


def left(seconds: float) -> str:
    """A time to wait as hours, minutes and seconds."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02} left"


@contextmanager
def track(
    what: str, total: int, *, unit: str, each: float = 1.0, show: bool = True
) -> Iterator[Advance]:
    """Yields a function to call with the amount done, out of `total`.

    Speed is shown in `unit`, of which there are `each` in one of what is counted. A terminal and a
    notebook get a bar that goes when the work ends, a log file a line now and then; short work says
    nothing.
    """
    console = Console(stderr=True)
    work = _Work(what, total, unit, each, time.monotonic())
    if not show or console.quiet:
        follow = _in_silence
    elif console.is_jupyter:
        follow = _in_notebook
    elif console.is_terminal and not console.is_dumb_terminal:
        follow = _in_terminal
    else:
        follow = _in_lines
    with follow(work, console) as advance:
        yield advance
    shown = f"{work.done * each:,.0f} {unit}"
    LOG.debug("%s: %s in %d batches, %.1f s", what, shown, work.times, work.seconds)


@contextmanager
def waiting(what: str, *, show: bool = True) -> Iterator[None]:
    """Says `what` is under way while it lasts, for work whose length is not known.

    A terminal and a notebook show it after half a second and take it away again; a log file has none.
    """
    console = Console(stderr=True)
    if not show or console.quiet or not (console.is_jupyter or console.is_terminal):
        yield
        return
    note = _note_in_notebook if console.is_jupyter else _note_in_terminal
    with ExitStack() as shown:
        later = threading.Timer(
            SECONDS_BEFORE_A_BAR, lambda: shown.enter_context(note(what, console))
        )
        later.daemon = True
        later.start()
        try:
            yield
        finally:
            later.cancel()
            later.join()


@contextmanager
def _note_in_terminal(what: str, console: Console) -> Iterator[None]:
    with console.status(f"{what} …"):
        yield


@contextmanager
def _note_in_notebook(what: str, _console: Console) -> Iterator[None]:
    from IPython.display import HTML, display

    shown = display(HTML(f"<small>{escape(what)} …</small>"), display_id=True)
    yield
    if shown is not None:
        shown.update(HTML(""))


@contextmanager
def _in_silence(work: _Work, _console: Console) -> Iterator[Advance]:
    yield work.add


@contextmanager
def _in_terminal(work: _Work, console: Console) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        _Speed(work),
        _Left(),
    )
    bar = Progress(*columns, console=console, transient=True, expand=console.width < 100)
    task = bar.add_task(work.what, total=work.total)
    later = threading.Timer(SECONDS_BEFORE_A_BAR, bar.start)
    later.daemon = True
    later.start()

    def advance(more: int) -> None:
        work.add(more)
        bar.advance(task, more)

    try:
        yield advance
    finally:
        later.cancel()
        later.join()
        bar.stop()


class _Speed(ProgressColumn):
    def __init__(self, work: _Work) -> None:
        super().__init__()
        self.work = work

    def render(self, task: Task) -> Text:
        """The speed of late, as rich measures it."""
        rate = speed(task.speed * self.work.each, self.work.unit) if task.speed else ""
        return Text(rate, style="dim")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The time that the rest takes at the speed of late."""
        seconds = task.time_remaining
        return Text("" if seconds is None else left(float(seconds)), style="progress.remaining")


@contextmanager
def _in_notebook(work: _Work, _console: Console) -> Iterator[Advance]:
    """A bar of HTML, as rich's own needs ipywidgets."""
    from IPython.display import HTML, display

    shown: Any = None
    last = work.begin

    def advance(more: int) -> None:
        nonlocal shown, last
        work.add(more)
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_UPDATES:
            return
        last = now
        bar = HTML(f'<progress value="{work.share:.4f}"></progress> {work}')
        if shown is None:
            shown = display(bar, display_id=True)
        else:
            shown.update(bar)

    try:
        yield advance
    finally:
        if shown is not None:
            shown.update(HTML(""))


@contextmanager
def _in_lines(work: _Work, console: Console) -> Iterator[Advance]:
    last = work.begin

    def advance(more: int) -> None:
        nonlocal last
        work.add(more)
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and work.done:
            last = now
            console.print(str(work), highlight=False, soft_wrap=True)

    yield advance
