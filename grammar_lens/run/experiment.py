"""What the scripts of an experiment or a benchmark keep of where their numbers come from."""

import dataclasses
from pathlib import Path
from typing import Any

from grammar_lens.run.files import RunError
from grammar_lens.run.provenance import checkout_commit, library_versions
from grammar_lens.treebank import Treebank


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
    """Which words these are."""
    return {"name": bank.name, "sentences": len(bank), "fingerprint": bank.fingerprint()}


def refuse_other_results(folder: Path, name: str) -> None:
    """Raises RunError for a folder that holds anything but results of the experiment `name`."""
    record = folder / "run.json"
    if record.is_file() and f'"experiment": "{name}"' in record.read_text("utf-8"):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} holds something else: choose another --out")
