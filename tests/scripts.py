"""Scripts of experiments/ and benchmarks/, run as their command line would."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def run_script(
    monkeypatch: pytest.MonkeyPatch, script: str, flags: dict[str, Any]
) -> int | str | None:
    """Runs a script as `python script --flag value` would, and gives its exit code."""
    given = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{option}" if value else f"--no-{option}")
        else:
            given += [f"--{option}", str(value)]
    monkeypatch.setattr(sys, "argv", [script, *given])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return ended.value.code
