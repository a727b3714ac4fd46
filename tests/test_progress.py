"""Progress of long work: on a terminal, in a notebook, in a log file."""

import io
import logging
import os
import pty
import signal
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from grammar_lens import progress
from grammar_lens.progress import left, speed, track, waiting

WORK = """
import sys, time
from grammar_lens.progress import track
with track("reading", 400, unit="words", each=0.5) as step:
    for _ in range(int(sys.argv[1])):
        time.sleep(0.01)
        step(2)
print("after")
"""


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0:00:00 left"), (59.6, "0:01:00 left"), (3725.0, "1:02:05 left")],
)
def test_time_left(seconds: float, told: str) -> None:
    assert left(seconds) == told


@pytest.mark.parametrize(
    ("per_second", "told"), [(12345.6, "12,346 words/s"), (9.96, "10.0 words/s"), (0.25, "0.2 words/s")]
)  # fmt: skip
def test_speed(per_second: float, told: str) -> None:
    assert speed(per_second, "words") == told


class Clock:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_a_log_file_gets_a_line_now_and_then(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with track("reading", 1000, unit="words", each=0.5) as step:
        for _ in range(5):
            clock.now += 10
            step(100)
    # every 15 s, so not at 10, 30 and 50; tokens are counted and words are shown
    told = ["reading: 20%, 5.0 words/s, 0:01:20 left", "reading: 40%, 5.0 words/s, 0:01:00 left"]
    assert capsys.readouterr().err.splitlines() == told


def test_short_work_and_quiet_work_say_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with track("reading", 10, unit="words") as step:
        step(10)
    with track("reading", 10, unit="words", show=False) as step:
        clock.now += 100
        step(10)
    assert capsys.readouterr() == ("", "")


def test_what_was_done_is_logged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "grammar_lens")
    with track("reading", 1000, unit="words", each=0.5, show=False) as step:
        clock.now += 2.5
        step(600)
        step(400)
    assert caplog.messages == ["reading: 500 words in 2 batches, 2.5 s"]


def test_a_notebook_gets_a_bar_that_goes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown: list[Any] = []

    class Handle:
        def update(self, bar: Any) -> None:
            shown.append(bar.data)

    def display(bar: Any, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(bar.data)
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=io.StringIO(), force_jupyter=True)
    )
    with track("reading", 100, unit="words") as step:
        step(10)
        assert shown == []
        for _ in range(2):
            clock.now += 1
            step(20)
    assert shown == [
        '<progress value="0.3000"></progress> reading: 30%, 30 words/s, 0:00:02 left',
        '<progress value="0.5000"></progress> reading: 50%, 25 words/s, 0:00:02 left',
        "",
    ]


def terminal(steps: int, stop_after: float | None = None, **environment: str) -> tuple[str, int]:
    """Output of a process on a terminal, and its end; Ctrl-C after some seconds if asked for."""
    pid, screen = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job ignores it
        os.environ.update({"TERM": "xterm", "COLUMNS": "80", **environment})
        os.execv(sys.executable, [sys.executable, "-c", WORK, str(steps)])
    written, begin = b"", None
    while True:
        try:
            some = os.read(screen, 4096)
        except OSError:  # the process has ended
            break
        if not some:
            break
        written += some
        if b"reading" in written:
            begin = begin or time.monotonic()
            if stop_after is not None and time.monotonic() - begin > stop_after:
                os.write(screen, b"\x03")
                stop_after = None
    os.close(screen)
    return written.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class TestATerminal:
    def test_a_bar_shows_words_per_second_and_goes(self) -> None:
        written, code = terminal(200)
        assert code == 0
        assert "words/s" in written
        assert " left" in written
        bar, _, after = written.rpartition("\x1b[?25h")  # the cursor is back
        assert "reading" in bar
        assert after == "\r\x1b[1A\x1b[2Kafter\r\n"  # and the bar's line is empty

    def test_work_that_is_done_at_once_shows_no_bar(self) -> None:
        assert terminal(3) == ("after\r\n", 0)

    def test_ctrl_c_leaves_nothing_of_a_bar(self) -> None:
        written, code = terminal(2000, stop_after=0.5)
        assert code != 0
        _, _, after = written.rpartition("\x1b[?25h")
        assert after.startswith("\r\x1b[1A\x1b[2KTraceback")

    def test_a_dumb_terminal_gets_no_control_characters(self) -> None:
        assert terminal(200, TERM="dumb") == ("after\r\n", 0)


def test_a_notebook_is_told_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown: list[str] = []

    class Handle:
        def update(self, note: Any) -> None:
            shown.append(note.data)

    def display(note: Any, *, display_id: bool) -> Handle:
        assert display_id
        shown.append(note.data)
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(progress, "SECONDS_BEFORE_A_BAR", 0.01)
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=io.StringIO(), force_jupyter=True)
    )
    with waiting("Loading <m>"):
        time.sleep(0.3)
    assert shown == ["<small>Loading &lt;m&gt; …</small>", ""]
    monkeypatch.setattr(progress, "SECONDS_BEFORE_A_BAR", 60)
    with waiting("Loading <m>"):
        pass
    assert len(shown) == 2


def test_a_terminal_is_told_what_is_waited_for_and_a_file_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BEFORE_A_BAR", 0.01)
    for is_terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal)
        monkeypatch.setattr(progress, "Console", lambda console=console, **_: console)
        with waiting("Loading m"):
            time.sleep(0.3)
        assert ("Loading m" in file.getvalue()) == is_terminal
