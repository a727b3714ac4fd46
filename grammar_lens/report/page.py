"""Build the report page: the context of the template, and the HTML made from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from grammar_lens import __version__
from grammar_lens.figures.heatmaps import bin_width
from grammar_lens.figures.style import score_name, unit_name
from grammar_lens.files import write_text
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.report import pictures
from grammar_lens.report import result_tables as tables
from grammar_lens.report.html import fill
from grammar_lens.report.layers import layer_section
from grammar_lens.report.lesions import Bar, lesion_contents
from grammar_lens.report.neurons import neuron_pages
from grammar_lens.report.phenomena import phenomena_section
from grammar_lens.report.pictures import Picture
from grammar_lens.report.protocols import ResultsLike, RunLike, results_of
from grammar_lens.report.result_tables import TOP, Table
from grammar_lens.report.trust import Finding, findings, rule_in_words
from grammar_lens.selectivity.evidence import Attribution
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores

LABEL_NAMES = {
    "upos": "part of speech",
    "xpos": "part of speech",
    "deprel": "grammatical relation",
}
PERCEPTION = {
    "word": "at the word: the model has just read it",
    "next": "before the word: the model is about to say it",
}


@dataclass(frozen=True)
class Section:
    """Results shown for one position."""

    position: str
    scores: Scores
    keys: KeyNeurons
    attribution: Attribution | None
    n_key: int
    n_shared: int
    """Neurons that are key to more than one label."""
    bin_width: int
    findings: list[Finding]
    trust_table: Table | None
    controls: Picture | None
    vocabulary: Picture | None
    vocabulary_table: Table | None
    heatmaps: list[Picture]
    profile: Picture
    course: list[Picture]
    overlap: Picture
    key_table: Table
    first_table: Table
    probe: ProbeResult | None
    accuracy: Picture | None
    curve: Picture | None
    confusion: Picture | None
    probe_table: Table | None


def write_report(run: RunLike, path: str | Path) -> Path:
    """The run as one HTML file that needs no network; steps not yet done are named as missing."""
    target = Path(path)
    write_text(target, render(run))
    return target


def render(run: RunLike) -> str:
    """The report's HTML."""
    return fill("page.html.jinja", scripts=("page.js", "neurons.js"), **_contents(run))


def _contents(run: RunLike) -> dict[str, Any]:
    """Everything the template shows."""
    by_position = results_of(run)
    study, probe = run.study, _main_probe(by_position)
    config = run.record.get("config", {})
    label = by_position[0].scores.origin.label if by_position else str(config.get("label", "upos"))
    model = (
        by_position[0].scores.origin.model if by_position else str(config.get("model", "the model"))
    )
    alignment = run.summary.get("alignment", run.record.get("alignment", {}))
    return {
        "version": __version__,
        "run_name": run.path.name,
        "model": model,
        "model_line": model_line(run.record.get("model") or {}),
        "label": label,
        "label_name": LABEL_NAMES.get(label, label.removeprefix("feats:").lower()),
        "started": _day(run.record.get("started")),
        "found": by_position,
        "sections": [_section(run, results) for results in by_position],
        "pages": [
            neuron_pages(
                r.scores, r.keys, run.evidence(r.position).moments, run.examples.get(r.position)
            )
            for r in by_position
        ],
        "perception": PERCEPTION,
        "course": run.course,
        "layers": layer_section(run),
        "phenomena": phenomena_section(run.phenomena),
        "probe": probe,
        "probe_bars": _probe_bars(probe) if probe else [],
        "alignment": alignment,
        "skipped_table": tables.skipped_table(alignment, study),
        "config": config,
        "settings": tables.flat(config),
        "rule_in_words": rule_in_words,
        "n_examples": sum(map(len, run.examples.values())),
        "provenance": tables.flat({k: v for k, v in run.record.items() if k != "config"}),
        "score_name": score_name,
        "score_methods": SCORES,
        "unit_name": unit_name,
        "top": TOP,
        **lesion_contents(study, run.size_curves),
    }


def model_line(about: Mapping[str, Any]) -> str:
    """Size of a model as run.json records it, and how its weights were stored if quantised."""
    parts = []
    if {"n_layers", "d_mlp", "n_parameters"} <= about.keys():
        parts.append(
            f"{about['n_layers']} layers of {about['d_mlp']:,} neurons, "
            f"{about['n_parameters']:,} parameters"
        )
    if "gguf" in about:
        stored = ", ".join(f"{n} {name}" for name, n in about["gguf"]["tensors"].items())
        parts.append(
            f"weights dequantised from the GGUF file {about['gguf']['file']} (tensors: {stored})"
        )
    return "; ".join(parts)


def _main_probe(results: Sequence[ResultsLike]) -> ProbeResult | None:
    """The probe at the word where there is one."""
    probes = [r.probe for r in results if r.probe is not None]
    return next((p for p in probes if p.position == "word"), probes[0] if probes else None)


def _section(run: RunLike, results: ResultsLike) -> Section:
    """The pictures and tables of one position."""
    where, scores, keys, probe = results.position, results.scores, results.keys, results.probe
    controls, owners = results.controls, tables.owners(keys)
    evidence = run.evidence(where)
    alpha = run.record.get("config", {}).get("alpha", 0.05)
    course: CourseSummary | None = run.course
    curve: pd.DataFrame | None = run.curves.get(where)
    return Section(
        position=where,
        scores=scores,
        keys=keys,
        attribution=evidence.relevance
        if SCORES[scores.method].needs == "relevance"
        else evidence.attribution,
        n_key=len(owners),
        n_shared=sum(len(labels) > 1 for labels in owners.values()),
        bin_width=bin_width(keys.n_units),
        findings=findings(scores, keys, controls, alpha),
        trust_table=tables.trust_table(keys, controls),
        controls=pictures.controls_picture(controls, keys),
        vocabulary=pictures.vocabulary_picture(controls, keys),
        vocabulary_table=tables.vocabulary_table(controls),
        heatmaps=[pictures.heatmap_picture(scores, x, where, keys) for x in scores.labels],
        profile=pictures.profile_picture(scores, keys, where),
        course=pictures.course_pictures(course, where),
        overlap=pictures.overlap_picture(keys, where),
        first_table=tables.first_table(scores, keys, run.examples.get(where)),
        key_table=tables.key_table(scores, keys, evidence.adjusted),
        probe=probe,
        accuracy=pictures.accuracy_picture(probe) if probe else None,
        curve=pictures.curve_picture(results, curve),
        confusion=pictures.confusion_picture(probe) if probe else None,
        probe_table=tables.probe_table(probe) if probe else None,
    )


def _probe_bars(probe: ProbeResult) -> list[Bar]:
    numbers = (
        ("key neurons", probe.accuracy),
        ("random neurons", probe.random_accuracy),
        (
            "the word alone" if probe.position == "word" else "the word before",
            probe.word_baseline_accuracy,
        ),
        ("control task", probe.control_accuracy),
        ("majority label", probe.majority_accuracy),
    )
    return [Bar(name, f"{x:.3f}", x) for name, x in numbers if x is not None]


def _day(started: object) -> str:
    """An ISO time stamp as a date; other text as it is."""
    try:
        return f"{datetime.fromisoformat(str(started)):%d %B %Y}".lstrip("0")
    except ValueError:
        return str(started or "")
