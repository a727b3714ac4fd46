"""What the benchmarks share: interleaved rounds, the machine's name, memory, a table, a JSON file.

Ways to do one thing are compared within one process and one run, a round of each after the other,
so that a busy machine slows all of them; the minimum over the rounds is what counts. CPU seconds
stand beside wall seconds because other work on the machine does not enter them.
"""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from grammar_lens.passes.memory import peak_host

FOLDER = Path("results") / "benchmarks"


@dataclass(frozen=True)
class Timing:
    """Seconds of every round of one way."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]

    def row(self) -> dict[str, float]:
        """The fastest round and the slowest, which shows how busy the machine was."""
        return {
            "cpu_seconds": min(self.cpu),
            "cpu_seconds_slowest": max(self.cpu),
            "wall_seconds": min(self.wall),
            "wall_seconds_slowest": max(self.wall),
        }


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


def one_thread() -> None:
    """Keeps torch and NumPy to one thread each, so that CPU seconds of all ways mean the same."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    cpu_clock: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Times every way once per round, in turn; an untimed round goes before."""
    assert rounds >= 1, "see `positive`"
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            cpu, wall = cpu_clock(), time.perf_counter()
            way()
            if number:
                seconds[name].append((cpu_clock() - cpu, time.perf_counter() - wall))
    return {
        name: Timing(tuple(c for c, _ in taken), tuple(w for _, w in taken))
        for name, taken in seconds.items()
    }


def children_cpu() -> float:
    """CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def forget_peak() -> None:
    """Lets `peak_memory` begin anew, where the system can: loading a model has peaks of its own."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return peak_host()


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


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the first column is text, the others are numbers."""
    # a Text: "handmade:train:" in a plain title would become a picture of a train
    table = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = max(110, Console().width)
    Console(width=width).print(table, markup=False, emoji=False)


def target(what: str, value: float, limit: float, *, at_least: bool = False) -> str:
    """One line that says whether a goal was reached in this run."""
    reached = value >= limit if at_least else value <= limit
    words = "at least" if at_least else "at most"
    return f"{what}: {value:.2f} (goal: {words} {limit:g}; {'reached' if reached else 'MISSED'})"


def positive(config: Any, *names: str) -> None:
    """Raises BadParameter for a flag below 1."""
    for name in names:
        if getattr(config, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(
                f"{getattr(config, name)}, expected 1 or more", param_hint=flag
            )
