"""A run as a piece of HTML for a notebook: what is done, what was found, and where the report is."""

from html import escape
from typing import Any

from grammar_lens.run.stored import STEPS, StoredRun

_CELL = "padding:1px 10px;text-align:left"


def run_html(run: StoredRun) -> str:
    """Steps done and to do, the main numbers with what they are compared with, and the report's path."""
    title = f"{run.config['model']} on {run.config['train']}"
    marks = {True: "\N{CHECK MARK}", False: "\N{EN DASH}"}
    steps = " ".join(f"{marks[run.has(step)]} {step}" for step in STEPS)
    rows = "".join(
        f"<tr><th style='{_CELL}' scope='row'>{escape(name)}</th>"
        f"<td style='{_CELL}'><b>{escape(found)}</b></td>"
        f"<td style='{_CELL}'>{escape(compared)}</td></tr>"
        for name, found, compared in _numbers(run.summary)
    )
    report = run.path / STEPS["report"]
    where = f"report: <code>{escape(str(report))}</code>" if report.is_file() else "no report yet"
    return (
        f"<div><b>Run {escape(str(run.path))}</b>: {escape(title)}<br><small>{steps}</small>"
        f"<table><tbody>{rows}</tbody></table><small>{where}</small></div>"
    )


def _numbers(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, number and its baselines, of what the summary has."""
    found = []
    if "probe" in summary:
        probe = summary["probe"]
        found.append(
            (
                f"accuracy of {probe['n_neurons']} key neurons on fresh words",
                _number(probe["accuracy"], ".3f"),
                f"random neurons {_number(probe['random_accuracy'], '.3f')}, word alone "
                f"{_number(probe['word_baseline_accuracy'], '.3f')}, majority "
                f"{_number(probe['majority_accuracy'], '.3f')}",
            )
        )
    if "lesion" in summary:
        lesion = summary["lesion"]
        labels = lesion["labels"]
        shams = [lesion["sham_mean"][i][i] for i in range(len(labels))]
        sham = None if None in shams else sum(shams) / len(shams)
        found += [
            (
                "rise of a tag's own loss when its key neurons are cut",
                f"{_number(lesion['diagonal_mean'], '+.3f')} nats",
                f"other tags {_number(lesion['off_diagonal_mean'], '+.3f')}, its shams "
                f"{_number(sham, '+.3f')}",
            ),
            (
                "double dissociations",
                f"{len(lesion['crossed_pairs'])} of {lesion['n_possible_pairs']} pairs",
                f"selective damage p = {_number(lesion['p_value'], '.3f')} by "
                f"{lesion['n_shams']} shams",
            ),
        ]
    return found


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "\N{EN DASH}"
    return format(value, form).replace("-", "\N{MINUS SIGN}")
