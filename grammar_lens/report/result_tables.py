"""Tables of the report on selection, probes and alignment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.figures.style import decimals, number, score_name, unit_name
from grammar_lens.neurons.controls import SelectionControls, with_effects
from grammar_lens.neurons.examples import Examples
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.report.trust import share
from grammar_lens.selectivity.contrasts import Adjusted
from grammar_lens.selectivity.result import Scores

TOP = 10
"""Key neurons of each label in the table."""
DASH = "\N{EN DASH}"

Cell = tuple[str, str | float | int | None]
"""Text of a cell and its sort key; None where a number is missing."""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    columns: tuple[str, ...]
    rows: list[list[Cell]]
    neurons: tuple[int, str] | None = None
    """The column of neurons' addresses that lead to their pages, and the position of these."""

    def link(self, column: int, text: str) -> str:
        """Target of a cell's link; None for no link."""
        if self.neurons is None or self.neurons[0] != column:
            return ""
        return f"#neuron-{self.neurons[1]}-{text}"

    def is_number(self, column: int) -> bool:
        """Whether a column is sorted by size."""
        return not any(isinstance(row[column][1], str) for row in self.rows)


def key_table(scores: Scores, keys: KeyNeurons, adjusted: Adjusted | None) -> Table:
    """The first key neurons of every label, with effect sizes and the labels that share them."""
    shared = owners(keys)
    digits = decimals([float(np.abs(s.score).max(initial=0)) for s in keys.values()])
    rows: list[list[Cell]] = []
    table = with_effects(keys.top(TOP), scores, adjusted)
    effects = [c for c in _EFFECTS if c in table and (c == "cohens_d" or table[c].notna().any())]
    for record in table.to_dict("records"):
        label, layer, index = str(record["label"]), int(record["layer"]), int(record["index"])
        others = [x for x in shared[layer, index] if x != label]
        more = f" + {len(others) - 3} more" if others[3:] else ""
        also = ", ".join(others[:3]) + more
        rows.append(
            [
                (label, label),
                (str(record["rank"]), int(record["rank"])),
                (f"{layer}.{index}", layer * keys.n_units + index),
                measured(record["score"], digits, plus=True),
                *(
                    small(record[c]) if c == "q" else measured(record[c], 3, plus=True)
                    for c in effects
                ),
                (also, also),
            ]
        )
    unit = unit_name(keys.origin.site).title()
    name = score_name(scores.method)
    names = ("Tag", "Rank", f"{unit} (layer.index)", name, *(_EFFECTS[c] for c in effects))
    return Table((*names, "Also key for"), rows, neurons=(2, keys.origin.position))


SHOWN_FIRST = 3
"""Neurons of each tag in the table of the strongest."""


def first_table(scores: Scores, keys: KeyNeurons, examples: Examples | None) -> Table:
    """Each tag's first key neurons, with words where those are known.

    The words at which a neuron is most active, or least active if it is less active for the tag.
    """
    rows: list[list[Cell]] = []
    digits = decimals(scores.values)
    for label in keys.labels:
        first = keys[label].top(SHOWN_FIRST)
        for rank, ((layer, index), value) in enumerate(zip(first, first.score, strict=True), 1):
            at = (layer, index)
            known = examples is not None and at in examples
            told = "not read"
            if known:
                of_neuron = examples[at]  # pyright: ignore[reportOptionalSubscript]
                is_less = scores.effect[scores.labels.index(label), layer, index] < 0
                words = ", ".join(e.word for e in (of_neuron.bottom if is_less else of_neuron.top))
                told = f"{'least' if is_less else 'most'}: {words}" if words else told
            rows.append(
                [
                    (label, label),
                    (str(rank), rank),
                    (f"{layer}.{index}", layer * keys.n_units + index),
                    measured(value, digits, plus=True),
                    (told, told),
                ]
            )
    unit = unit_name(keys.origin.site).title()
    names = ("Tag", "Rank", f"{unit} (layer.index)", score_name(scores.method), "Active at")
    return Table(names, rows, neurons=(2, keys.origin.position))


_EFFECTS = {
    "cohens_d": "Cohen's d",
    "within_type_d": "d within forms",
    "guarded_d": "d at equal frequency",
    "q": "q",
}


def owners(keys: KeyNeurons) -> dict[tuple[int, int], list[str]]:
    """The labels that every key neuron is key to."""
    owners: dict[tuple[int, int], list[str]] = {}
    for label in keys.labels:
        for address in keys[label]:
            owners.setdefault(address, []).append(label)
    return owners


def trust_table(keys: KeyNeurons, controls: SelectionControls | None) -> Table | None:
    """Each label's choice against exchanged labels and against chance; None if not measured."""
    if controls is None or (controls.sham is None and controls.reliability is None):
        return None
    parts = [
        (controls.sham, _SHAM, decimals(_column(controls.sham, "strength"))),
        (controls.reliability, _HALVES, 3),
    ]
    rows: list[list[Cell]] = []
    tables = [(_by_label(t), names, digits) for t, names, digits in parts if t is not None]
    for label in keys.labels:
        row: list[Cell] = [(label, label), (f"{len(keys[label]):,}", len(keys[label]))]
        for table, names, digits in tables:
            row += [_cell(c, table.get(label, {}).get(c), digits) for c in names]
        rows.append(row)
    return Table(
        ("Tag", "Key neurons", *(n for _, names, _ in tables for n in names.values())), rows
    )


_SHAM = {
    "strength": "Strength",
    "sham_strength": "Strength, exchanged",
    "by_fdr": "q ≤ .05",
    "sham_by_fdr": "q ≤ .05, exchanged",
    "by_permutation": "By permutation",
    "sham_by_permutation": "By permutation, exchanged",
}
_HALVES = {"share": "Halves agree", "expected_share": "By chance", "p_value": "p"}
_WITHIN = {
    "effect": "Effect (d)",
    "within_type": "Within forms (d)",
    "standard_error": "Standard error",
    "within_type_retained": "Left within forms",
    "guarded": "At equal frequency (d)",
    "guarded_retained": "Left at equal frequency",
    "ambiguous_forms": "Ambiguous forms",
    "words": "Their words",
}


def vocabulary_table(controls: SelectionControls | None) -> Table | None:
    """The part of each label's effect that remains within word forms and at equal frequency."""
    if controls is None or controls.within_type is None:
        return None
    rows: list[list[Cell]] = [
        [(label, label), *(_cell(c, record.get(c), 2) for c in _WITHIN)]
        for label, record in _by_label(controls.within_type).items()
    ]
    return Table(("Tag", *_WITHIN.values()), rows)


def _by_label(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {str(record["label"]): record for record in table.to_dict("records")}


def _column(table: pd.DataFrame | None, name: str) -> list[float]:
    return [] if table is None or name not in table else [float(x) for x in table[name]]


def _cell(column: str, value: Any, digits: int) -> Cell:
    """A control's number as its kind is written."""
    if value is None or np.isnan(value):
        return (DASH, None)
    if column in ("share", "expected_share") or column.endswith("_retained"):
        return (share(float(value)), float(value))
    if column == "p_value":
        return small(value)
    if column in ("ambiguous_forms", "words") or "by_" in column:
        return (f"{value:,.0f}" if value == round(value) else f"{value:,.1f}", float(value))
    return measured(float(value), digits)


def small(value: Any) -> Cell:
    """A p or q value, or a dash where it is missing."""
    if value is None or np.isnan(value):
        return (DASH, None)
    return ("<\N{NO-BREAK SPACE}.001" if value < 0.001 else f"{value:.3f}", float(value))


def measured(value: Any, digits: int, *, plus: bool = False) -> Cell:
    """A number, or a dash where it is missing."""
    if value is None or np.isnan(value):
        return (DASH, None)
    return (number(float(value), digits, plus=plus), float(value))


def probe_table(probe: ProbeResult) -> Table:
    """Precision, recall and F1 of every label."""
    rows = []
    for label in probe.labels:
        row = probe.per_label.loc[label]
        numbers = [float(row[x]) for x in ("precision", "recall", "f1")]
        n_words = int(row["n_words"])
        # without words there is no recall to speak of
        shown = [f"{x:.3f}" if n_words else DASH for x in numbers]
        rows.append(
            [
                (label, label),
                (f"{n_words:,}", n_words),
                *zip(shown, numbers, strict=True),
            ]
        )
    return Table(("Tag", "Held-out words", "Precision", "Recall", "F1"), rows)


def skipped_table(alignment: Mapping[str, Any], study: LesionStudy | None) -> Table:
    """Words left out and why: in alignment, at each position, and in the lesion study."""
    read = alignment.get("not_read")
    parts = (
        {f"training, read at “{position}”": counts for position, counts in read.items()}
        if read
        else {"training": alignment.get("skipped", {})}
    )
    if study is not None:
        parts["lesion study, held-out words"] = study.skipped
    rows = [
        [(part, part), (str(reason), str(reason)), (f"{n:,}", n)]
        for part, counts in parts.items()
        for reason, n in counts.items()
    ]
    return Table(("Where", "Reason", "Words"), rows)


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as rows of name and text."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{name} / ")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(str, value)) or DASH))
        else:
            rows.append((name, DASH if value is None or value in ("", {}) else str(value)))
    return rows
