"""Made runs for reports, and the text of a page."""

import base64
import json
import zlib
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from made_figures import (
    LABELS,
    made_controls,
    made_course,
    made_curve,
    made_extended,
    made_layer_lesions,
    made_layer_table,
    made_layers,
    made_moments,
    made_null,
    made_probe,
    made_size_curves,
)

from grammar_lens.dissociation.layer_lesions import LayerLesions
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.size_curves import SizeCurves
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.examples import (
    QUANTILES,
    Example,
    Examples,
    NeuronExamples,
    Passage,
    TokenEffect,
)
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.selection import select
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.passes.moments import Moments
from grammar_lens.phenomena.result import PhenomenaStudy
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.probing.layer_results import LayerProbes
from grammar_lens.selectivity.contrasts import Adjusted
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


@dataclass(frozen=True)
class Results:
    position: str
    moments: dict[str, Moments]
    scores: Scores
    keys: KeyNeurons
    controls: SelectionControls | None
    probe: ProbeResult | None
    adjusted: Adjusted | None = None


@dataclass
class MadeRun:
    """The parts of a run that a report needs."""

    record: dict[str, Any]
    summary: dict[str, Any]
    results: dict[str, Results]
    study: LesionStudy | None
    course: CourseSummary | None = None
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    examples: dict[str, Examples] = field(default_factory=dict)
    layers: LayerProbes | None = None
    layer_table: pd.DataFrame | None = None
    layer_lesions: LayerLesions | None = None
    size_curves: SizeCurves | None = None
    phenomena: PhenomenaStudy | None = None
    residual: Scores | None = None
    path: Path = Path("runs/made")

    @property
    def positions(self) -> tuple[str, ...]:
        return tuple(self.results) or ("word", "next")

    def has(self, step: str) -> bool:
        return bool(self.results)

    def at(self, position: str) -> Results:
        return self.results[position]

    def residual_scores(self, position: str) -> Scores | None:
        return self.residual if position == "word" else None

    def evidence(self, position: str) -> Evidence:
        found = self.results[position]
        return Evidence(found.moments["neuron"], adjusted=found.adjusted)


RECORD = {
    "schema": 1,
    "config": {"model": "m", "top_k": 6, "positions": ["word", "next"], "dtype": None},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "commit": "0123abc",
    "started": "2026-11-05T06:31:00+00:00",
    "model": {"name": "m", "fingerprint": "f1d2"},
}

SUMMARY = {
    "alignment": {
        "words": 1000,
        "aligned": 980,
        "skipped": {"shares a token with a neighbour": 20},
        "not_read": {"word": {"shares a token with a neighbour": 20}, "next": {"label missing": 7}},
    }
}


def made_run(labels: tuple[str, ...] = LABELS, model: str = "m", **changes: Any) -> MadeRun:
    results = {}
    for position in ("word", "next"):
        moments = made_moments(labels, model=model, position=position)
        scores = score(moments)
        scores = replace(scores, null=made_null(scores, moments))
        results[position] = Results(
            position,
            {"neuron": moments},
            scores,
            select(scores, k=12, alpha=1.0),
            made_controls(labels, scores.null),
            made_probe(labels, model=model, position=position),
            made_adjusted(scores),
        )
    run = MadeRun(
        *(RECORD, SUMMARY, results, made_extended(labels, model=model)),
        course=made_course(labels, model=model),
        curves={"word": made_curve()},
        layers=made_layers(labels, model=model),
        layer_table=made_layer_table(),
        layer_lesions=made_layer_lesions(labels, model=model),
        size_curves=made_size_curves(labels, model=model),
        residual=made_residual(labels, model),
        examples={p: made_examples(r.keys) for p, r in results.items()},
    )
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def made_residual(labels: tuple[str, ...], model: str) -> Scores:
    """Scores of the residual stream, in which dimension 1.17 tells the second label."""
    scores = score(made_moments(labels, model=model))
    return replace(scores, origin=replace(scores.origin, site="resid_post"))


WORDS = (" The", " old", " dog", " sleeps", ".")


def made_examples(
    keys: KeyNeurons, words: tuple[str, ...] = WORDS, source: str = "made.conllu:7"
) -> Examples:
    """Of every label's first key neuron; activations are 1, 2, 3 ... in `words`, the third is read.

    The label at place c has the quantiles c, c + .1, c + .2 ...; the last has no words.
    """
    labels, origin = keys.labels, keys.origin
    quantiles = np.arange(len(labels))[:, None] + 0.1 * np.arange(len(QUANTILES))
    quantiles[-1] = np.nan
    count = np.array([*([100] * (len(labels) - 1)), 0])
    place, read = 2, 2 if origin.position == "word" else 1
    values = np.arange(1.0, len(words) + 1)
    word, passage = words[place].strip(), Passage(words, source)
    span = (place, place + 1)
    top, bottom = (
        (Example(passage, read, span, word, labels[0], float(sign * values[read]), sign * values),)
        for sign in (1, -1)
    )
    moved = TokenEffect(" to", 0.5), TokenEffect("\n", 0.25)
    against = (TokenEffect(" of", -0.5),)
    contrast = np.linspace(-1, 1, len(labels))
    found = {
        at: NeuronExamples(
            *at, labels, count, quantiles, top, bottom, contrast, moved, against, origin
        )
        for at in (next(iter(keys[label])) for label in labels)
    }
    return Examples(found, origin)


def made_adjusted(scores: Scores) -> Adjusted:
    """Half of every effect is left within word forms, of the third label's nothing is known."""
    n = len(scores.labels)
    within = scores.effect * 0.5
    within[2:] = np.nan
    return Adjusted(
        labels=scores.labels,
        within_type=within,
        guarded=scores.effect * 0.9,
        within_type_error=np.full(n, 0.07),
        guarded_error=np.full(n, 0.05),
        n_words=np.full(n, 300.0),
        n_forms=np.full(n, 40.0),
    )


def read_block(text: str) -> dict[str, Any]:
    """A block of a page as page.js reads it, with the values of its arrays."""
    data = zlib.decompress(base64.b64decode(text))
    start = 4 + int.from_bytes(data[:4], "little")
    numbers = data[start:]

    def unpacked(block: dict[str, Any]) -> Any:
        if "at" not in block:
            return block
        dtype, count = np.dtype(f"<{block['dtype']}"), int(np.prod(block["shape"]))
        planes = np.frombuffer(numbers, np.uint8, count * dtype.itemsize, block["at"])
        # of each number its bytes together again
        values = planes.reshape(dtype.itemsize, count).T.copy().view(dtype)
        values = values.reshape(block["shape"])
        if block["dtype"] == "i2":
            values = np.where(values == -32768, np.nan, values)
        return values.astype(float) * block["scale"] if "scale" in block else values

    return json.loads(data[4:start], object_hook=unpacked)


class Page(HTMLParser):
    """Tags with their attributes, scripts, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag in ("td", "dt", "dd", "div"):
            self.text += " "
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, so_far = self.scripts[-1]
            self.scripts[-1] = (attributes, so_far + data)
        elif not self._inside:
            self.text += data

    def blocks(self) -> dict[str, dict[str, Any]]:
        """All data by the id of its script."""
        return {
            str(a["id"]): read_block(text)
            for a, text in self.scripts
            if a.get("type") == "text/plain" and a["id"] != "plotly"
        }

    def data(self) -> dict[str, dict[str, Any]]:
        """The figures' JSON."""
        return {name: block for name, block in self.blocks().items() if name.startswith("data-")}

    def plotly(self) -> str:
        """The source of plotly.js."""
        (text,) = (text for a, text in self.scripts if a.get("id") == "plotly")
        return zlib.decompress(base64.b64decode(text)).decode()

    def code(self) -> list[str]:
        return [text for a, text in self.scripts if "type" not in a]
