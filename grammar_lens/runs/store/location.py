"""Run directories by their path; nothing heavy is imported, so that a wrong path is told at once."""

import os
from pathlib import Path

from grammar_lens.errors import GrammarLensError


def find_run(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The run directory that a path names, and with "RUN@NAME" the name of a stored study.

    Raises GrammarLensError if there is none.
    """
    folder, study = Path(path), None
    if not (folder / "run.json").is_file() and "@" in folder.name:
        name, _, study = folder.name.rpartition("@")
        folder = folder.with_name(name) if name else folder
    if not (folder / "run.json").is_file():
        raise GrammarLensError(
            f"{folder} is no run directory (it has no run.json): make one with "
            f"`grammar-lens run --out {folder}`"
        )
    return folder, study
