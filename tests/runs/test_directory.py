"""One process writes to a run directory at a time, and a killed one leaves no lock behind."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import Running, start
from small_runs import call

from grammar_lens.errors import GrammarLensError
from grammar_lens.runs.store.directory import LOCK, writing


def hold(path: Path) -> None:
    """Writes to the directory until it is killed."""
    with writing(path):
        print("holds", flush=True)
        time.sleep(300)


@contextmanager
def holder(path: Path, folder: Path) -> Iterator[Running]:
    """Another process that writes to the directory."""
    running = start(hold, path, folder=folder)
    try:
        running.until(lambda: running.stdout == "holds\n")
        yield running
    finally:
        running.kill()


def test_a_second_writer_is_told_at_once_and_a_killed_one_leaves_no_lock(tmp_path: Path):
    path = tmp_path / "run"
    with holder(path, tmp_path) as other:
        begin = time.monotonic()
        with pytest.raises(GrammarLensError, match="another process is writing"), writing(path):
            pass
        assert time.monotonic() - begin < 1
        other.kill()
    assert (path / LOCK).exists()
    with writing(path):
        (path / "run.json").write_text("{}")
    assert (path / "run.json").exists()


def test_the_command_says_so_in_one_line(tmp_path: Path):
    path = tmp_path / "run"
    with holder(path, tmp_path):
        code, _, err = call("run", "--out", path, "--quiet")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "another process is writing" in err
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
