"""Figures of the report: JSON for the page, with a text alternative."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from grammar_lens import figures
from grammar_lens.figures.heatmaps import bin_width
from grammar_lens.figures.style import decimals, number, score_name, unit_name
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_strength
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.report.files import accuracy_curve
from grammar_lens.report.packing import block, single_precision, steps, unsigned
from grammar_lens.report.protocols import ResultsLike
from grammar_lens.selectivity.result import Scores


@dataclass(frozen=True)
class Picture:
    """A figure for the page, and what it shows in words for those who do not see it."""

    name: str
    choice: str
    block: Markup
    height: int
    description: str


def heatmap_picture(
    scores: Scores, label: str, where: str, keys: KeyNeurons | None = None
) -> Picture:
    """Every unit's score for one label, rounded to 1/32,766 of the largest but for the strongest."""
    # a tag without any has its strongest marked
    chosen = keys if keys is not None and len(keys.get(label, ())) else None
    site, unit = scores.origin.site, unit_name(scores.origin.site)
    values, strength = scores[label], scores.strength_of(label)
    layer, index = np.unravel_index(int(strength.argmax()), values.shape)
    value = number(values[layer, index], decimals(values), plus=True)
    words = (
        f"Heatmap of the {score_name(scores.method)} of every {unit} with {label}. The "
        f"strongest is {unit} {layer}.{index} at {value}."
    )
    figure: Any = figures.layer_neuron_heatmap(scores, label, keys=chosen)
    spec = json.loads(figure.to_json())
    drawn, cells = figure.data[0], spec["data"][0]
    cells["z"] = steps(drawn.z.astype(float))
    if drawn.customdata is not None:  # the address of each bin's strongest
        first = bin_width(values.shape[1]) * np.arange(drawn.z.shape[1])
        within = unsigned(drawn.customdata - first)
        cells["customdata"] = replace(within, bin_width=int(first[1]))
    kind = "heatmap" if site == "neuron" else "resid"
    return picture(f"{kind}-{where}", figure, words, choice=label, spec=spec)


def profile_picture(scores: Scores, keys: KeyNeurons, where: str) -> Picture:
    """Strength by layer, with the band of chance where there is a null."""
    peaks = ", ".join(
        f"{label} in layer {row.argmax()}"
        for label, row in zip(scores.labels, layer_strength(scores), strict=True)
    )
    band = "" if scores.null is None else " Bands show what exchanged labels give."
    words = (
        "Lines of the root mean square strength in every layer, one for each label. Peaks: "
        f"{peaks}.{band}"
    )
    return picture(f"profile-{where}", figures.layer_profile(scores, keys), words)


def overlap_picture(keys: KeyNeurons, where: str) -> Picture:
    """Shared key neurons."""
    words = "Matrix of the Jaccard overlap of the key neurons of every two labels."
    return picture(f"overlap-{where}", figures.overlap_matrix(keys), words)


def controls_picture(controls: SelectionControls | None, keys: KeyNeurons) -> Picture | None:
    """True against exchanged labels, and halves against chance; None if neither was measured."""
    if controls is None:
        return None
    sham, halves = (
        t if t is not None and len(t) else None for t in (controls.sham, controls.reliability)
    )
    if sham is None and halves is None:
        return None
    words = "Dots for every label."
    if sham is not None:
        words += (
            f" Mean strength {sham['strength'].mean():.3g} with true labels, "
            f"{sham['sham_strength'].mean():.3g} with exchanged ones."
        )
    if halves is not None:
        words += (
            f" Two halves share {halves['share'].mean():.3f} of the neurons, by chance "
            f"{halves['expected_share'].mean():.3f}."
        )
    figure = figures.selection_controls(controls, keys)
    return picture(f"controls-{keys.origin.position}", figure, words)


def vocabulary_picture(controls: SelectionControls | None, keys: KeyNeurons) -> Picture | None:
    """Effect, within word forms and at equal frequency; None if not measured."""
    if controls is None or controls.within_type is None or controls.within_type.empty:
        return None
    table: pd.DataFrame = controls.within_type
    words = (
        f"Dots for every label: the key neurons' effect, on average {table['effect'].mean():.2f} "
        f"standard deviations, within word forms {table['within_type'].mean():.2f}, at equal "
        f"frequency and place {table['guarded'].mean():.2f}."
    )
    figure = figures.grammar_or_vocabulary(table, keys)
    return picture(f"vocabulary-{keys.origin.position}", figure, words)


def course_pictures(course: CourseSummary | None, where: str) -> list[Picture]:
    """The time course of every label, if it was read at this position."""
    if course is None or course.origin.position != where:
        return []
    pictures = []
    for i, label in enumerate(course.labels):
        strength = np.nan_to_num(course.strength[:, i])
        offset, layer = np.unravel_index(int(strength.argmax()), strength.shape)
        words = (
            f"Two heatmaps of the correlation with {label} at tokens before and after the word, by "
            f"layer. Over all neurons it peaks {course.offsets[offset]:+d} tokens from where the "
            f"word is read, in layer {layer}, at {strength[offset, layer]:.3f}."
        )
        figure: Any = figures.time_course(course, label)
        spec = single_precision(json.loads(figure.to_json()))
        pictures.append(picture(f"course-{where}", figure, words, choice=label, spec=spec))
    return pictures


def accuracy_picture(probe: ProbeResult) -> Picture:
    """The probe beside its baselines."""
    random = "not drawn" if probe.random_accuracy is None else f"{probe.random_accuracy:.3f}"
    words = (
        f"Bars of accuracy: key neurons {probe.accuracy:.3f}, random neurons {random}, all of "
        f"layer {probe.layer} {probe.layer_accuracy:.3f}, word alone "
        f"{probe.word_baseline_accuracy:.3f}, majority {probe.majority_accuracy:.3f}, control task "
        f"{probe.control_accuracy:.3f}."
    )
    return picture(f"accuracy-{probe.position}", figures.probe_accuracy(probe), words)


def curve_picture(results: ResultsLike, curve: pd.DataFrame | None) -> Picture | None:
    """Accuracy against the number of neurons; None if not measured."""
    if curve is None or curve.empty:
        return None
    best = curve.loc[curve["accuracy"].idxmax()]
    words = (
        f"Lines of accuracy against neurons per label. The highest is {best['accuracy']:.3f} at "
        f"k = {best['k']} by {best['score']}."
    )
    return picture(f"curve-{results.position}", accuracy_curve(results, curve), words)


def confusion_picture(probe: ProbeResult) -> Picture:
    """Confusion matrix of the probe."""
    wrong = probe.confusion - np.diag(np.diag(probe.confusion))
    i, j = np.unravel_index(int(wrong.argmax()), wrong.shape)
    words = "Confusion matrix of the probe, each row as shares of that label's words."
    if wrong[i, j]:
        words += (
            f" The most frequent confusion: {wrong[i, j]:,} words of {probe.labels[i]} called "
            f"{probe.labels[j]}."
        )
    return picture(f"confusion-{probe.position}", figures.confusion(probe), words)


def picture(
    name: str,
    figure: Any,
    description: str,
    *,
    choice: str = "",
    spec: dict[str, Any] | None = None,
) -> Picture:
    """A figure as the page needs it; `spec` is its JSON where arrays in it were packed."""
    return Picture(
        name=name,
        choice=choice,
        block=block(json.loads(figure.to_json()) if spec is None else spec),
        height=int(figure.layout.height),
        description=description,
    )
