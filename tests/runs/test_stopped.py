"""Whole runs that are killed, meet a full disk or another writer give the same results in the end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stopped_runs
from small_runs import write_beginnings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> list[str]:
    """A run of the tiny model through all steps."""
    folder = tmp_path_factory.mktemp("stopped")
    tiny_hf().save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    write_beginnings(folder, train=40, test=20)
    return [
        *("--model", str(folder / "tiny"), "--train", f"{folder}:train", "--fresh"),
        *(f"{folder}:test", "--labels", "DET,NOUN,PRON,VERB", "--replicates", "25"),
        *("--top-k", "4", "--alpha", "1", "--probe-k", "3", "--values", "mean", "--doses", "1"),
        *("--shams", "2", "--other-shams", "0", "--damage-matched", "0", "--example-neurons", "1"),
        *("--checkpoint-every", "1", "--layer-words", "200", "--no-untrained"),
    ]


def told(what: str, n: int, folder: Path, options: list[str]) -> list[dict[str, Any]]:
    script = str(Path(stopped_runs.__file__))
    command = [sys.executable, "-W", "ignore", script, what, str(n), "1", str(folder), *options]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("n", [5, 200])
def test_kills(tmp_path: Path, options: list[str], n: int):
    lines = told("kills", n, tmp_path, options)
    assert sum(line["kills"] for line in lines) >= n
    assert [line for line in lines if not line["same"]] == []


@pytest.mark.parametrize("n", [3, 50])
def test_full_disks(tmp_path: Path, options: list[str], n: int):
    lines = told("disks", n, tmp_path, options)
    assert len(lines) == n
    for line in lines:
        assert line["same"], line
        assert (line["code"], line["errors"]) in ((2, 1), (0, 0)), line


@pytest.mark.parametrize("n", [2, 20])
def test_two_writers(tmp_path: Path, options: list[str], n: int):
    for line in told("pairs", n, tmp_path, options):
        assert line["same"], line
        assert sorted(line["codes"]) == [0, 2], line
        assert len(line["errors"]) == 1, line
