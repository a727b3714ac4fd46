"""Runs that are killed, fill the disk or meet another writer; one process with everything imported.

`python stopped_runs.py kills|disks|pairs N SEED FOLDER RUN_OPTIONS...` starts every run as a fork of
itself, which costs no second, and prints a line of JSON for each: what happened, and what the
finished directory holds.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from grammar_lens.cli.app import app
from grammar_lens.files import read_sealed, read_tensors
from grammar_lens.runs.store.studies import STEPS, STUDIES

torch.set_num_threads(1)
TIMES = ("seconds", "peak_memory_mib", "timings")


def child(arguments: list[str], prepare: Callable[[], None], log: Path) -> int:
    """Starts a command in a fork; returns its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        prepare()
        app(arguments, standalone_mode=True)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Exit code; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(run: Path) -> dict[str, str]:
    """A digest of every result of a finished run, without times; figures are of the same numbers."""
    found = {}
    for name in sorted(p.name for p in run.iterdir() if p.is_file()):
        path = run / name
        if path.suffix == ".safetensors":
            arrays, about = read_tensors(path)
            parts = [
                about,
                {n: (a.shape, hashlib.sha256(a.tobytes()).hexdigest()) for n, a in arrays.items()},
            ]
        elif path.suffix == ".parquet":
            parts = pd.read_parquet(path).to_csv(index=False)
        elif path.suffix == ".json":
            parts = without_times(read_sealed(path))
        elif path.suffix == ".csv":
            parts = path.read_text("utf-8")
        else:
            continue
        text = json.dumps(parts, sort_keys=True, default=str)
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    left = [p.name for p in (run / STUDIES).rglob("*") if p.name.startswith(".")]
    found["left"] = json.dumps([*left, *(["unfinished"] if (run / "unfinished").exists() else [])])
    found["steps"] = json.dumps([step for step in STEPS if (run / STEPS[step]).is_file()])
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        gone = (*TIMES, "started", "studies", "config_file")
        return {k: without_times(v) for k, v in value.items() if k not in gone}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def whole(options: list[str], folder: Path) -> tuple[dict[str, str], float]:
    begin = time.monotonic()
    pid = child(["run", "--out", str(folder / "whole"), *options], lambda: None, folder / "log")
    assert ended(pid) == 0, (folder / "log").read_text()
    return contents(folder / "whole"), time.monotonic() - begin


def kills(n: int, draw: random.Random, folder: Path, options: list[str]) -> None:
    """Kills at random moments; a run that gets through is compared, and the next one begins."""
    want, took = whole(options, folder)
    killed = turn = 0
    while killed < n:
        out, turn, here = folder / f"run{turn}", turn + 1, 0
        while True:
            resume = ["--resume"] if (out / "run.json").exists() else []
            pid = child(["run", "--out", str(out), *options, *resume], lambda: None, folder / "log")
            end = time.monotonic() + draw.uniform(0, took)
            while time.monotonic() < end or killed + here >= n:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    pid = 0
                    break
                time.sleep(0.002)
            if not pid:
                break
            os.kill(pid, signal.SIGKILL)
            assert ended(pid) == -signal.SIGKILL
            here += 1
        killed += here
        # that the last one ended well shows in what it left
        same = contents(out) == want
        tell(
            kills=here,
            same=same,
            differs=_differs(out, want),
            log=(folder / "log").read_text()[-300:] * (not same),
        )
        shutil.rmtree(out)


def _differs(out: Path, want: dict[str, str]) -> list[str]:
    got = contents(out)
    return sorted(name for name in {*got, *want} if got.get(name) != want.get(name))


def disks(n: int, draw: random.Random, folder: Path, options: list[str]) -> None:
    """A limit on the size of files, which a write meets as it meets a full disk; then one without."""
    want, _ = whole(options, folder)
    for turn in range(n):
        out, most = folder / f"run{turn}", int(10 ** draw.uniform(3, 6.8))

        def small(most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        pid = child(["run", "--out", str(out), "--quiet", *options], small, folder / "log")
        code, said = ended(pid), (folder / "log").read_text()
        resume = ["--resume"] if (out / "run.json").exists() else []
        again = ended(
            child(["run", "--out", str(out), *options, *resume], lambda: None, folder / "log2")
        )
        same = again == 0 and contents(out) == want
        lines = [line for line in said.splitlines() if line.startswith("error:")]
        tell(most=most, code=code, errors=len(lines), same=same, said=said[-300:] if code else "")
        shutil.rmtree(out)


def pairs(n: int, draw: random.Random, folder: Path, options: list[str]) -> None:
    """Two writers of one directory, the second a random moment later."""
    want, took = whole(options, folder)
    for turn in range(n):
        out = folder / f"run{turn}"
        command = ["run", "--out", str(out), "--quiet", *options]
        pids = [child(command, lambda: None, folder / "log0")]
        time.sleep(draw.choice((0, draw.uniform(0, took))))
        pids.append(child(command, lambda: None, folder / "log1"))
        codes = [ended(pid) for pid in pids]
        said = [(folder / f"log{i}").read_text() for i in (0, 1)]
        lines = [line for text in said for line in text.splitlines() if line.startswith("error:")]
        tell(codes=codes, errors=lines, same=contents(out) == want)
        shutil.rmtree(out)


if __name__ == "__main__":
    what, number, seed, place, *rest = sys.argv[1:]
    work = {"kills": kills, "disks": disks, "pairs": pairs}[what]
    work(int(number), random.Random(int(seed)), Path(place), rest)
