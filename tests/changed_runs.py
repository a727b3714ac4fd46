"""Changes of stored runs that a test makes by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grammar_lens.files import read_sealed, write_sealed


def of_an_earlier_version(path: Path) -> None:
    """Makes of a run one of a version that stored results without records, which nobody checks."""
    shutil.rmtree(path / "studies")
    record = read_sealed(path / "run.json")
    del record["studies"]
    (path / "run.json").write_text(json.dumps(record), "utf-8")


def change_record(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes run.json as a program would that knows how it is stored."""
    record = read_sealed(path / "run.json")
    change(record)
    write_sealed(path / "run.json", record)
