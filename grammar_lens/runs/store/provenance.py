"""Provenance of results: package versions, the commit of the code, and data fingerprints."""

import dataclasses
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grammar_lens.corpus.bank import Treebank
from grammar_lens.errors import GrammarLensError

PACKAGES = ("grammar-lens", "torch", "transformer-lens", "transformers", "numpy", "scikit-learn")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    return versions


def checkout_commit() -> str | None:
    """The commit of a checkout of grammar_lens, with "+changes" when it has uncommitted ones."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def experiment_record(name: str, config: Any) -> dict[str, Any]:
    """The beginning of an experiment's run.json: its name, settings, commit and versions."""
    commit = checkout_commit()
    return {
        "experiment": name,
        "config": dataclasses.asdict(config),
        "commit": commit,
        "dirty": None if commit is None else commit.endswith("+changes"),
        "versions": library_versions(),
    }


def treebank_record(bank: Treebank) -> dict[str, Any]:
    """Name and fingerprint of the words used."""
    return {"name": bank.name, "sentences": len(bank), "fingerprint": bank.fingerprint()}


def refuse_other_results(folder: Path, name: str) -> None:
    """Raises GrammarLensError for a folder that holds anything but results of the experiment `name`."""
    record = folder / "run.json"
    if record.is_file() and f'"experiment": "{name}"' in record.read_text("utf-8"):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GrammarLensError(f"{folder} holds something else: choose another --out")
