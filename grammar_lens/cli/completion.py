"""Shell completion: values for options and run directories, without heavy imports."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grammar_lens.runs.settings import UPOS

DEPTH = 3
"""Depth to which folders are searched for run directories."""

Complete = Callable[[Any, str], list[str]]


def one_of(known: tuple[str, ...]) -> Complete:
    """Offers one of some values."""

    def complete(ctx: Any, incomplete: str) -> list[str]:
        return [value for value in known if value.startswith(incomplete)]

    return complete


def some_of(known: tuple[str, ...]) -> Complete:
    """Offers the last of several values that are separated by commas."""

    def complete(ctx: Any, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        chosen = before.split(",")
        return [
            f"{before}{comma}{value}"
            for value in known
            if value.startswith(last) and value not in chosen
        ]

    return complete


def run_directories(ctx: Any, incomplete: str) -> list[str]:
    """Offers the run directories in and below the folder that is being typed, and this one."""
    typed = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    paths = [str(path) for path in _runs(typed, DEPTH)]
    return [path for path in paths if path.startswith(incomplete)]


def labels_of_run(ctx: Any, incomplete: str) -> list[str]:
    """Offers the labels that the run on the command line has key neurons of."""
    # an option without its value leaves the arguments before it where they stood
    run = ctx.params.get("run") or next(iter(ctx.args), "")
    table = Path(run) / "key_neurons.csv"
    if not table.is_file():
        return one_of(UPOS)(ctx, incomplete)
    with table.open(encoding="utf-8", newline="") as file:
        labels = {row["label"] for row in csv.DictReader(file)}
    return sorted(label for label in labels if label.startswith(incomplete))


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    """Run directories below a folder; unreadable folders have none."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return
    for path in inside:
        if path.name.startswith("."):
            continue
        if (path / "run.json").is_file():
            yield path
        elif depth > 1:
            yield from _runs(path, depth - 1)
