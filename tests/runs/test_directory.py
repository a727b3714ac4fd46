"""One process writes to a run directory at a time, and a killed one leaves no lock behind."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grammar_lens.errors import GrammarLensError
from grammar_lens.runs.store.directory import LOCK, writing

HOLD = """
import sys, time
from pathlib import Path
from grammar_lens.runs.store.directory import writing
with writing(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(300)
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the directory."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_told_at_once_and_a_killed_one_leaves_no_lock(tmp_path: Path):
    path = tmp_path / "run"
    with holder(path) as process:
        begin = time.monotonic()
        with pytest.raises(GrammarLensError, match="another process is writing"), writing(path):
            pass
        assert time.monotonic() - begin < 1
        process.kill()
        process.wait()
    assert (path / LOCK).exists()
    with writing(path):
        (path / "run.json").write_text("{}")
    assert (path / "run.json").exists()


def test_the_command_says_so_in_one_line(tmp_path: Path):
    path = tmp_path / "run"
    command = [sys.executable, "-m", "grammar_lens", "run", "--out", str(path), "--quiet"]
    with holder(path):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "another process is writing" in done.stderr
    assert not (path / "run.json").exists()


def test_threads_are_writers_too(tmp_path: Path):
    with writing(tmp_path), pytest.raises(GrammarLensError), writing(tmp_path):
        pass


def test_a_directory_in_which_nothing_was_written_is_removed(tmp_path: Path):
    with pytest.raises(RuntimeError), writing(tmp_path / "runs" / "new"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with writing(tmp_path / "runs" / "new"):
        (tmp_path / "runs" / "new" / "run.json").write_text("{}")
    assert (tmp_path / "runs" / "new" / "run.json").exists()
