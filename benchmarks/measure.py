"""What the benchmarks share: interleaved rounds, memory, a table, a JSON file.

Ways to do one thing are compared within one process and one run, a round of each after the other,
so that a busy machine slows all of them; the minimum over the rounds is what counts. CPU seconds
stand beside wall seconds because other work on the machine does not enter them.
"""

import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits
from typer import Option

from grammar_lens.files import make_folder, write_json
from grammar_lens.runs.store.provenance import library_versions

FOLDER = Path("results") / "benchmarks"
TIMES = {
    "CPU s": "{cpu_seconds:.3f}",
    "slowest": "{cpu_seconds_slowest:.3f}",
    "wall s": "{wall_seconds:.3f}",
}
"""Columns of a timing."""


@dataclass(frozen=True)
class OutFlag:
    """The flag of every benchmark."""

    out: Annotated[Path | None, Option(help="JSON file; by default named as the benchmark.")] = None


@dataclass(frozen=True)
class Flags(OutFlag):
    """Flags of the benchmarks that time one model."""

    model: Annotated[str, Option(help="reference-9m, a folder, or a hub id.")] = "reference-9m"
    rounds: Annotated[int, Option(help="Rounds; 3 or more to report.")] = 3


@dataclass(frozen=True)
class Timing:
    """Seconds of every round of one way."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]

    def row(self) -> dict[str, float]:
        """The fastest round and the slowest, which shows how busy the machine was."""
        clocks = {"cpu": self.cpu, "wall": self.wall}
        fastest = {f"{name}_seconds": min(taken) for name, taken in clocks.items()}
        return fastest | {f"{name}_seconds_slowest": max(taken) for name, taken in clocks.items()}


def compare(above: Timing, below: Timing, clock: str = "cpu") -> dict[str, float]:
    """How many times as long one way takes: of the fastest rounds, which counts, and round by round."""
    one, other = getattr(above, clock), getattr(below, clock)
    each = [a / b for a, b in zip(one, other, strict=True)]
    return {
        "ratio": min(one) / min(other),
        "median": statistics.median(each),
        "lowest": min(each),
        "highest": max(each),
    }


def require_same(what: str, difference: float, allowed: float) -> None:
    """Ends the program where two ways give different answers; NaN is different."""
    if not difference <= allowed:
        raise SystemExit(f"error: {what} differ by {difference:.1e}, allowed {allowed:g}")


def one_thread() -> None:
    """Keeps torch and NumPy to one thread each, so that CPU seconds of all ways mean the same."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    cpu_clock: Callable[[], float] = time.process_time,
    until: float = math.inf,
) -> dict[str, Timing]:
    """Times every way once per round, in turn; an untimed round goes before.

    No round begins that would end after `until`, in seconds of time.monotonic; where there is time for
    one alone, the untimed round counts.
    """
    assert rounds >= 1, "see `positive`"
    taken: list[dict[str, tuple[float, float]]] = []
    while len(taken) <= rounds:
        begin = time.monotonic()
        taken.append({name: _clocked(way, cpu_clock) for name, way in ways.items()})
        if 2 * time.monotonic() - begin > until:
            break
    counted = taken[1:] or taken
    each = {name: zip(*(seconds[name] for seconds in counted), strict=True) for name in ways}
    return {name: Timing(*clocks) for name, clocks in each.items()}


def _clocked(way: Callable[[], object], cpu_clock: Callable[[], float]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = cpu_clock(), time.perf_counter()
    way()
    return cpu_clock() - cpu, time.perf_counter() - wall


def children_cpu() -> float:
    """CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def forget_peak() -> None:
    """Lets `peak_host` begin anew, where the system can: loading a model has peaks of its own."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def machine() -> dict[str, Any]:
    """Where the numbers come from, with the load that other work put on it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def show(
    title: str, first: str, rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]
) -> None:
    """Prints a table of the rows' names and numbers, each column by its format.

    A cell is empty where the row lacks the number.
    """
    # a Text: "handmade:train:" in a plain title would become a picture of a train
    table = Table(title=Text(title), title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    for name, row in rows.items():
        present = {key: value for key, value in row.items() if value is not None}
        table.add_row(name, *(_cell(layout, present) for layout in columns.values()))
    width = max(110, Console().width)
    Console(width=width).print(table, markup=False, emoji=False)


def _cell(layout: str, row: Mapping[str, Any]) -> str:
    try:
        return layout.format_map(row)
    except KeyError:
        return ""


def save(name: str, config: Any, **results: object) -> None:
    """Writes the JSON file of a benchmark: its flags and results, the machine, and library versions."""
    path = config.out or FOLDER / f"{name}.json"
    make_folder(path.parent)
    origin = {"machine": machine(), "versions": library_versions()}
    write_json(path, {"benchmark": name, "config": asdict(config), **origin, **results})


def in_own_process(script: str, config: Any, only: str, **environment: str) -> dict[str, float]:
    """What the script prints last for `--only`, in a process that has done nothing else."""
    flags = {k: v for k, v in asdict(config).items() if v is not None} | {"only": only}
    done = subprocess.run(
        [sys.executable, script, *(f"--{k.replace('_', '-')}={v}" for k, v in flags.items())],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout.splitlines()[-1])


def target(what: str, value: float, limit: float, *, at_least: bool = False) -> str:
    """One line that says whether a goal was reached in this run."""
    reached = value >= limit if at_least else value <= limit
    words = "at least" if at_least else "at most"
    return f"{what}: {value:.2f} (goal: {words} {limit:g}; {'reached' if reached else 'MISSED'})"


def spread(name: str, of: Mapping[str, float], limit: float | None = None) -> str:
    """One line of a ratio by `compare`, with its goal if it has one."""
    line = f"{name}: {of['ratio']:.3f}" if limit is None else target(name, of["ratio"], limit)
    return f"{line}; round by round {of['median']:.2f} ({of['lowest']:.2f} to {of['highest']:.2f})"


def positive(config: Any, *names: str) -> None:
    """Raises BadParameter for a flag below 1."""
    for name in names:
        if getattr(config, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(
                f"{getattr(config, name)}, expected 1 or more", param_hint=flag
            )
