"""Lists of what a run has stored, and deletion of what is not current."""

from typing import Any

from rich.table import Table

from grammar_lens.runs.store.directory import require_unchanged, writing
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.runs.store.storing import all_studies, begin, is_current, prune
from grammar_lens.runs.store.studies import STEPS


def listed_studies(run: StoredRun) -> list[dict[str, Any]]:
    """Step, name, settings, size and age of every stored study; `current` are those that are shown.

    A run of an earlier version has one of each step that is done, without a name.
    """
    if not run.has_studies:
        return [
            {
                "step": step,
                "name": None,
                "current": True,
                "settings": {},
                "stored": None,
                "bytes": None,
            }
            for step in STEPS
            if run.has(step)
        ]
    return [
        {
            "step": study.step,
            "name": study.name,
            "current": is_current(run, study),
            "settings": dict(study.settings),
            "stored": study.made.get("stored"),
            "bytes": sum((study.path / name).stat().st_size for name in study.files),
        }
        for study in all_studies(run)
    ]


def prune_studies(run: StoredRun) -> list[str]:
    """Deletes the studies that are not current; returns their steps and names.

    Raises GrammarLensError while another process writes to the run.
    """
    with writing(run.path):
        require_unchanged(run)
        begin(run)
        return [f"{study.step} {study.name}" for study in prune(run)]


def study_table(rows: list[dict[str, Any]]) -> Table:
    """The list as a table: settings in which the studies of a step differ."""
    table = Table("step", "name", "current", "MiB", "stored", "settings")
    for row in rows:
        alike = [other["settings"] for other in rows if other["step"] == row["step"]]
        told = [
            f"{name} {value}"
            for name, value in row["settings"].items()
            if any(other.get(name) != value for other in alike)
        ]
        size = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:,.1f}"
        table.add_row(
            row["step"],
            row["name"] or "",
            "yes" if row["current"] else "",
            size,
            (row["stored"] or "")[:16].replace("T", " "),
            ", ".join(told),
        )
    return table
