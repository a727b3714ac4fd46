"""A run in a notebook: its main numbers, its lesion matrix, and its key neurons layer by layer."""

from html import escape
from typing import Any

import numpy as np
import pandas as pd

from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.runs.store.studies import STEPS

_CELL = "padding:1px 6px;text-align:right;font-variant-numeric:tabular-nums"
_CARD = "border:1px solid #d9dee4;border-radius:6px;padding:6px 10px;max-width:19em"
_BOX = "background:#fff;color:#1f2a37"
HIGH, LOW = "213,94,0", "0,114,178"
"""Red, green and blue of a rise and of a fall of the loss."""


def run_html(run: StoredRun) -> str:
    """Steps, main numbers beside their baselines, the lesion matrix, and key neurons by layer.

    All of it is read from small files: neither the model nor the scores are loaded.
    """
    title = f"{run.config['model']} on {run.config['train']}"
    marks = {True: "\N{CHECK MARK}", False: "\N{EN DASH}"}
    steps = " ".join(f"{marks[run.has(step)]} {step}" for step in STEPS)
    cards = "".join(
        f"<div style='{_CARD}'><small>{escape(name)}</small><br><b style='font-size:1.5em'>"
        f"{escape(value)}</b><br><small>{escape(compared)}</small></div>"
        for name, value, compared in _numbers(run.summary)
    )
    report = run.path / STEPS["report"]
    where = f"report: <code>{escape(str(report))}</code>" if report.is_file() else "no report yet"
    return (
        f"<div style='{_BOX}'><b>Run {escape(str(run.path))}</b>: {escape(title)}<br>"
        f"<small>{steps}</small>"
        f"<div style='display:flex;flex-wrap:wrap;gap:8px;margin:6px 0'>{cards}</div>"
        f"<div style='display:flex;flex-wrap:wrap;gap:24px'>{_matrix(run.summary)}{_layers(run)}"
        f"</div><small>{where}</small></div>"
    )


def _matrix(summary: dict[str, Any]) -> str:
    """The rise in tag loss, lesioned labels by predicted labels, as a coloured table."""
    if "lesion" not in summary:
        return ""
    lesion = summary["lesion"]
    matrix = np.array(lesion["matrix"], float)
    words = f"rise in tag loss (nats): {lesion['k']} neurons of the row's tag lesioned"
    return _coloured(words, lesion["labels"], lesion["labels"], matrix, "+.2f")


def _layers(run: StoredRun) -> str:
    """Number of key neurons of each label in each layer, at the position of the lesion study."""
    path = run.result("select", STEPS["select"]) if run.has("select") else None
    if path is None:
        return ""
    table = pd.read_csv(path, keep_default_na=False, usecols=["label", "layer", "position"])
    table = table.loc[table["position"] == run.main_position]
    model = run.record.get("model") or {}
    n_layers = int(model.get("n_layers", table["layer"].max() + 1 if len(table) else 1))
    labels = sorted({str(x) for x in table["label"]})
    counts = [
        np.bincount(table["layer"][table["label"].astype(str) == x], minlength=n_layers)
        for x in labels
    ]
    if not labels:
        return ""
    words = f"key neurons by layer, read at {run.main_position}"
    return _coloured(
        words, labels, [str(i) for i in range(n_layers)], np.array(counts, float), ".0f"
    )


def _coloured(
    caption: str, rows: list[str], columns: list[str], values: np.ndarray, form: str
) -> str:
    """A table whose cells are as deep in colour as their values are large beside the largest."""
    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    head = "".join(f"<th style='{_CELL}' scope='col'>{escape(x)}</th>" for x in ["", *columns])
    body = []
    for name, row in zip(rows, values.tolist(), strict=True):
        cells = [
            f"<td style='{_CELL};background:rgba({HIGH if x > 0 else LOW},"
            f"{0.6 * min(abs(x) / most, 1) if np.isfinite(x) else 0:.2f})'>{_number(x, form)}</td>"
            for x in row
        ]
        body.append(f"<tr><th style='{_CELL}' scope='row'>{escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f"<div><small>{escape(caption)}</small><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _numbers(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, number and its baselines, of what the summary has."""
    rows = []
    if "probe" in summary:
        probe = summary["probe"]
        rows.append(
            (
                f"accuracy of {probe['n_neurons']} key neurons on held-out words, read at {probe['position']}",
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
        deciding = lesion.get("damage_matched") or lesion
        kind = "damage-matched shams" if lesion.get("damage_matched") else "shams"
        rows += [
            (
                "rise of a tag's own loss when its key neurons, chosen at "
                f"{lesion['position']}, are lesioned",
                f"{_number(lesion['diagonal_mean'], '+.3f')} nats",
                f"other tags {_number(lesion['off_diagonal_mean'], '+.3f')}, its shams "
                f"{_number(sham, '+.3f')}",
            ),
            (
                "double dissociations",
                f"{len(deciding['crossed_pairs'])} of {lesion['n_possible_pairs']} pairs",
                f"selective damage p = {_number(deciding['p_value'], '.3f')} by "
                f"{deciding['n_shams']} {kind}",
            ),
        ]
    return rows


def _number(value: float | None, form: str) -> str:
    if value is None or np.isnan(value):
        return "\N{EN DASH}"
    return format(value, form).replace("-", "\N{MINUS SIGN}")
