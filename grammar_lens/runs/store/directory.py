"""Run directories: find, create and resume them, and keep their records."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from grammar_lens.errors import GrammarLensError
from grammar_lens.files import make_folder, write_sealed
from grammar_lens.runs.store.provenance import checkout_commit, library_versions
from grammar_lens.runs.store.stored import SHARDS, StoredRun

LOCK = ".lock"
"""The file that a writing process locks; it stays."""


def refuse_directory(path: Path, *, resume: bool) -> None:
    """Raises GrammarLensError for a directory that a run must not be written to."""
    if (path / "run.json").is_file():
        if not resume:
            raise GrammarLensError(
                f"{path} holds a run already: add --resume to complete it, or choose another --out"
            )
    elif path.exists() and (not path.is_dir() or any(map(_is_foreign, path.iterdir()))):
        raise GrammarLensError(f"{path} exists and is no run directory: choose another --out")
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise GrammarLensError(
            f"{path} cannot be made in {existing}, no folder to write to: choose another --out"
        )


@contextmanager
def writing(path: Path, name: str = LOCK) -> Iterator[None]:
    """While open, no other process can write to the directory; it is made if there is none.

    The lock is the operating system's, on a file of this `name`, so it ends with its holder, however
    that ends. A directory
    in which nothing was written is removed again. Raises GrammarLensError at once if another
    process holds it.
    """
    made = [p for p in (path, *path.absolute().parents) if not p.exists()]
    make_folder(path)
    lock = FileLock(path / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise GrammarLensError(
            f"another process is writing to {path}: wait until it is done, or choose another directory"
        ) from None
    except OSError as error:
        raise GrammarLensError(f"cannot write to {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        if made and [p.name for p in path.iterdir()] == [name]:
            (path / name).unlink(missing_ok=True)
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
        lock.release()


def require_unchanged(run: StoredRun) -> None:
    """Raises GrammarLensError where another process has changed the run since it was opened."""
    if StoredRun(run.path).record != run.record:
        raise GrammarLensError(
            f"another process has just changed {run.path}: run the same command again"
        )


def _is_foreign(path: Path) -> bool:
    """Whether a file is neither a job array's nor left half-written by a killed process."""
    return path.name not in (SHARDS, LOCK) and not (
        path.name.startswith(".") and path.suffix == ".tmp"
    )


def open_run(
    path: Path,
    config: Mapping[str, Any],
    *,
    resume: bool,
    usual: Mapping[str, Any] | None = None,
) -> StoredRun:
    """A new run directory, or with `resume` the old one if it was made with the same settings.

    `usual` are the defaults, which a run was made with whose record knows no such setting yet.
    Raises GrammarLensError for a directory that is in use already, or whose settings differ (naming them).
    """
    refuse_directory(path, resume=resume)
    if not (path / "run.json").is_file():
        record = {
            "schema": 1,
            "config": dict(config),
            "versions": library_versions(),
            "commit": checkout_commit(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "timings": {},
            "studies": {},
        }
        make_folder(path)
        write_sealed(path / "run.json", record)
        return StoredRun(path)
    run = StoredRun(path)
    old = {**(usual or {}), **run.config}
    changed = [
        f"{key}: it was {old.get(key)!r}, now {config[key]!r}"
        for key in config
        if old.get(key) != config[key]
    ]
    if changed:
        raise GrammarLensError(
            f"{path} was made with other settings and cannot be resumed with these "
            f"({'; '.join(changed)}): choose another --out or the old settings"
        )
    return run


def update_record(run: StoredRun, **entries: Any) -> None:
    """Adds entries to run.json; mappings are merged."""
    for key, value in entries.items():
        old = run.record.get(key)
        merged = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        run.record[key] = merged
    write_sealed(run.path / "run.json", run.record)
