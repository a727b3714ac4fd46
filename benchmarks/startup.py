"""How long `import grammar_lens` and `grammar-lens --help` take, beside Python and typer alone.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 20

Every round starts each program once, in turn. Files are warm: an untimed round goes before.
Goal: `grammar-lens --help` takes at most 5 times `python -c "import typer"`.
"""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from measure import TIMES, OutFlag, children_cpu, interleaved, positive, save, show, target

from grammar_lens.cli.scripts import start_page

MOST = 5.0


def programs() -> dict[str, list[str]]:
    """What is started, by name."""
    script = Path(sys.executable).with_name("grammar-lens")
    installed = [str(script)] if script.is_file() else [sys.executable, "-m", "grammar_lens"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        'python -c "import typer"': [sys.executable, "-c", "import typer"],
        'python -c "import grammar_lens"': [sys.executable, "-c", "import grammar_lens"],
        "grammar-lens --help": [*installed, "--help"],
    }


@dataclass(frozen=True)
class Config(OutFlag):
    """The flags."""

    rounds: Annotated[int, typer.Option(help="Starts of each program.")] = 10


def main(config: Config) -> None:
    """Times all programs, prints and writes."""
    positive(config, "rounds")
    ways = {
        name: partial(subprocess.run, arguments, check=True, stdout=subprocess.DEVNULL)
        for name, arguments in programs().items()
    }
    timings = interleaved(ways, config.rounds, cpu_clock=children_cpu)
    rows = {name: timing.row() for name, timing in timings.items()}
    nothing, typer_alone, package, command = (row["wall_seconds"] for row in rows.values())
    ratio = command / typer_alone
    show(f"start-up, fastest of {config.rounds} rounds", "program", rows, TIMES)
    beyond = package - nothing
    print(f"import grammar_lens beyond Python itself: {1000 * beyond:.1f} ms")
    print(target("grammar-lens --help / import typer", ratio, MOST))
    save(
        "startup", config, rows=rows, import_beyond_python_seconds=beyond, help_to_typer_ratio=ratio
    )


if __name__ == "__main__":
    start_page(main, Config, __doc__)
