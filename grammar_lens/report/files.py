"""Every figure of a run as a file of its own."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from grammar_lens import figures
from grammar_lens.defaults import ALPHA
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.figures.style import plotly_js
from grammar_lens.files import write_text
from grammar_lens.neurons.examples import Examples
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.report.protocols import ResultsLike, RunLike, results_of
from grammar_lens.selectivity.result import Scores

DRAWN = 3
"""Key neurons of each label whose examples are drawn to files."""
_CONFIG = {"displaylogo": False, "plotlyServerURL": "", "responsive": True}


def write_figures(run: RunLike, folder: str | Path) -> list[Path]:
    """Every figure as its own HTML file, heatmaps with every neuron, and one plotly.min.js.

    Returns the files that were written. Needs no network to open.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / "plotly.min.js", plotly_js())
    written = [target / "plotly.min.js"]
    for name, figure in _all_figures(run):
        html = figure.to_html(include_plotlyjs="directory", config=_CONFIG)
        write_text(target / f"{name}.html", html)
        written.append(target / f"{name}.html")
    return written


def _all_figures(run: RunLike) -> Iterator[tuple[str, Any]]:
    for results in results_of(run):
        yield from _figures_at(results)
        where, probe = results.position, results.probe
        curve = run.curves.get(where)
        if curve is not None and len(curve):
            yield f"accuracy-against-k-{where}", accuracy_curve(results, curve)
        if probe is not None:
            yield f"probe-{where}", figures.probe_accuracy(probe)
            yield f"confusion-{where}", figures.confusion(probe)
        if where in run.examples:
            yield from _neuron_figures(results.keys, run.examples[where])
    if run.layers is not None:
        yield "layer-by-layer", figures.layer_by_layer(run.layers, run.layer_table)
    if run.layer_lesions is not None:
        yield "lesions-by-layer", figures.layer_lesions(run.layer_lesions)
    if run.size_curves is not None:
        yield "curves-over-k", figures.lesion_curves(run.size_curves)
    for position in run.positions:
        yield from _residual_heatmaps(run.residual_scores(position), position)
    if run.course is not None and run.course.labels:
        yield f"time-course-{run.course.origin.position}", figures.time_course(run.course)
    if run.study is not None:
        yield from _lesion_figures(run.study)
    if run.phenomena is not None:
        for cells in ("fall", "accuracy"):
            yield f"phenomena-{cells}", figures.phenomena_matrix(run.phenomena, cells=cells)


def _residual_heatmaps(scores: Scores | None, where: str) -> Iterator[tuple[str, Any]]:
    """Every dimension of the residual stream, for each label; nothing where it was not read."""
    if scores is None:
        return
    for i, label in enumerate(scores.labels):
        figure = figures.layer_neuron_heatmap(scores, label, bins=scores.values.shape[2])
        yield f"residual-heatmap-{where}-{i + 1:02d}-{_slug(label)}", figure


def _neuron_figures(keys: KeyNeurons, examples: Examples) -> Iterator[tuple[str, Any]]:
    """Example figures of each label's first key neurons, each neuron once."""
    first = [at for label in keys for at in keys[label].top(DRAWN) if at in examples]
    for layer, index in dict.fromkeys(first):
        of_neuron = examples[layer, index]
        name = f"{examples.origin.position}-{layer}.{index}"
        if np.isfinite(of_neuron.quantiles).all(1).any():
            yield f"activations-{name}", figures.activations_by_label(of_neuron)
        if of_neuron.top or of_neuron.bottom:
            yield f"examples-{name}", figures.concordance(of_neuron)


def _lesion_figures(study: LesionStudy) -> Iterator[tuple[str, Any]]:
    """Every part of the lesion study that was measured."""
    yield "lesion-matrix", figures.lesion_matrix(study)
    if study.n_shams:
        yield "lesion-matrix-minus-shams", figures.lesion_matrix(study, corrected=True)
    if study.p_value is not None:
        yield "lesion-null", figures.lesion_null(study)
    if study.damage_matched is not None and study.damage_matched.p_value is not None:
        yield "damage-matched", figures.damage_matched(study)
    if study.doses is not None:
        yield "dose-response", figures.dose_response(study)
        for i, label in enumerate(study.doses.labels):
            name = f"dose-response-{i + 1:02d}-{_slug(label)}"
            yield name, figures.dose_response(study, label)
    if len(study.ladder) > 1:
        yield "value-ladder", figures.value_ladder(study)
    if study.sufficiency is not None:
        yield "sufficiency", figures.sufficiency(study)
    yield "bias-and-auroc", figures.bias_and_auroc(study)
    yield "loss-split", figures.loss_split(study)


def _figures_at(results: ResultsLike) -> Iterator[tuple[str, Any]]:
    """Figures of the neurons and of the controls of their choice at one position."""
    where, scores, keys, controls = (
        *(results.position, results.scores),
        *(results.keys, results.controls),
    )
    for i, label in enumerate(scores.labels):
        n_units = scores.values.shape[2]
        figure = figures.layer_neuron_heatmap(scores, label, bins=n_units, keys=keys)
        yield f"heatmap-{where}-{i + 1:02d}-{_slug(label)}", figure
    alpha = None if scores.null is None else ALPHA
    every = figures.layer_neuron_heatmaps(scores, keys=keys, alpha=alpha, scale="symlog")
    yield f"heatmaps-{where}", every
    yield f"layer-profile-{where}", figures.layer_profile(scores, keys)
    yield f"overlap-{where}", figures.overlap_matrix(keys)
    if controls is None:
        return
    if any(t is not None and len(t) for t in (controls.sham, controls.reliability)):
        yield f"selection-controls-{where}", figures.selection_controls(controls, keys)
    if controls.within_type is not None and len(controls.within_type):
        figure = figures.grammar_or_vocabulary(controls.within_type, keys)
        yield f"grammar-or-vocabulary-{where}", figure


def accuracy_curve(results: ResultsLike, curve: Any) -> Any:
    """Accuracy against k, with the baselines of the position's probe where there is one."""
    probe = results.probe
    return figures.accuracy_against_k(
        curve,
        majority=None if probe is None else probe.majority_accuracy,
        word_baseline=None if probe is None else probe.word_baseline_accuracy,
        origin=results.keys.origin if probe is None else probe.origin,
    )


def _slug(label: str) -> str:
    """A label as part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")[:40] or "label"
