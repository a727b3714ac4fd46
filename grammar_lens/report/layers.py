"""The section of the report on whole layers: a sentence, a figure, a table, and heatmaps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from grammar_lens import figures
from grammar_lens.dissociation.layer_lesions import LayerLesions
from grammar_lens.figures.style import unit_name
from grammar_lens.probing.layer_results import EMBEDDING, LayerProbe, LayerProbes
from grammar_lens.report.pictures import Picture, heatmap_picture, picture
from grammar_lens.report.protocols import RunLike
from grammar_lens.report.result_tables import Cell, Table, measured


@dataclass(frozen=True)
class LayerSection:
    """The contents of the section; None stands for what was not measured."""

    sentences: list[str]
    picture: Picture | None
    table: Table | None
    heatmaps: dict[str, list[Picture]]
    """Of the residual stream's dimensions, a picture per label, by position."""
    lesions: Picture | None
    lesion_table: Table | None
    n_train_words: int
    n_fresh_words: int
    unit: str = unit_name("resid_post")


def layer_section(run: RunLike) -> LayerSection:
    """The contents of the section for a run."""
    probes, table, lesions = run.layers, run.layer_table, run.layer_lesions
    scores = {position: run.residual_scores(position) for position in run.positions}
    first = None if probes is None else next(iter(probes.trained.values()))
    return LayerSection(
        sentences=[] if probes is None else layer_sentences(probes),
        picture=None if probes is None else _picture(probes, table),
        table=None if table is None else _table(table),
        heatmaps={
            position: [heatmap_picture(of_position, x, position) for x in of_position.labels]
            for position, of_position in scores.items()
            if of_position is not None
        },
        lesions=None if lesions is None else _lesion_picture(lesions),
        lesion_table=None if lesions is None else _lesion_table(lesions),
        n_train_words=0 if first is None else first.n_train_words,
        n_fresh_words=0 if first is None else first.n_fresh_words,
    )


def layer_sentences(probes: LayerProbes) -> list[str]:
    """The best layer of each position in a sentence, with the floors it stands on."""
    return [
        _sentence(probe, probes.untrained.get(where)) for where, probe in probes.trained.items()
    ]


def _sentence(probe: LayerProbe, twin: LayerProbe | None) -> str:
    at_word = probe.origin.position == "word"
    best = int(probe.accuracy.argmax())
    floor = (
        f"{'The word form alone' if at_word else 'The word before alone'} gives "
        f"{probe.word_baseline_accuracy:.3f}"
    )
    if twin is not None:
        layer = int(twin.accuracy.argmax())
        floor += (
            f", the best layer of an untrained twin of the model {twin.accuracy[layer]:.3f} "
            f"({_layer_name(int(twin.layers[layer]))})"
        )
    what = "The tag of a word just read" if at_word else "The tag of the word to come"
    text = (
        f"{what} is predicted best by {_layer_name(int(probe.layers[best]))}: accuracy "
        f"{probe.accuracy[best]:.3f} (95 % interval {probe.low[best]:.3f} to {probe.high[best]:.3f}). "
        f"{floor}."
    )
    gained = probe.information[best]
    if np.isfinite(gained):
        text += (
            f" At its best layer the probe has {100 * gained:.0f} % of what the model's own prediction knows of "
            "the tag beyond the word before."
        )
    return text


def _layer_name(layer: int) -> str:
    return "the embedding" if layer == EMBEDDING else f"layer {layer}"


def _picture(probes: LayerProbes, table: pd.DataFrame | None) -> Picture:
    parts = []
    for where, probe in probes.trained.items():
        numbers = ", ".join(
            f"{_layer_name(int(layer))} {x:.3f}"
            for layer, x in zip(probe.layers, probe.accuracy, strict=True)
        )
        parts.append(f"Accuracy of a probe on each whole layer, read at “{where}”: {numbers}.")
    return picture("layers", figures.layer_by_layer(probes, table), " ".join(parts))


def _lesion_picture(lesions: LayerLesions) -> Picture:
    return picture("layer-lesions", figures.layer_lesions(lesions), f"{lesions!r}.")


def _lesion_table(lesions: LayerLesions) -> Table:
    """A row per layer and lesion, means over labels."""
    rows: list[list[Cell]] = [
        [
            (str(record["layer"]), int(record["layer"])),
            (str(record["lesion"]), str(record["lesion"])),
            (f"{record['units']:,.0f}", float(record["units"])),
            *(
                measured(record[x], 4, plus=True)
                for x in ("own", "other", "sham_own", "sham_other")
            ),
        ]
        for record in lesions.by_layer().to_dict("records")
    ]
    columns = ("Layer", "Lesion", "Units", "Own words", "Other words", "Own, shams", "Other, shams")
    return Table(columns, rows)


_COLUMNS: dict[str, tuple[str, int]] = {
    "resid_accuracy_word": ("Accuracy, at the word", 3),
    "untrained_accuracy_word": ("Untrained, at the word", 3),
    "resid_control_word": ("Control task, at the word", 3),
    "resid_accuracy_next": ("Accuracy, before it", 3),
    "untrained_accuracy_next": ("Untrained, before it", 3),
    "resid_control_next": ("Control task, before it", 3),
    "resid_information_next": ("Information gained, before it", 2),
    "n_key_neurons": ("Key neurons", 0),
    "rms_neuron": ("r of neurons", 3),
    "rms_resid": ("r of dimensions", 3),
    "n_selective_neurons": ("Selective neurons", 0),
    "n_selective_resid": ("Selective dimensions", 0),
}


def _table(layers: pd.DataFrame) -> Table:
    """A row per layer; the embedding has no neurons."""
    shown = {name: names for name, names in _COLUMNS.items() if name in layers}
    rows: list[list[Cell]] = []
    for record in layers.to_dict("records"):
        layer = int(record["layer"])
        row: list[Cell] = [("embedding" if layer == EMBEDDING else str(layer), layer)]
        rows.append(row + [_cell(record[name], digits) for name, (_, digits) in shown.items()])
    return Table(("Layer", *(name for name, _ in shown.values())), rows)


def _cell(value: Any, digits: int) -> Cell:
    if digits == 0 and np.isfinite(value):
        return (f"{value:,.0f}", float(value))
    return measured(value, digits)
