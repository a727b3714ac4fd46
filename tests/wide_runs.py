"""A run as large as Llama 3 8B's, made of random numbers: what a report reads of one, and no model.

Every label has a few strong neurons in the middle layers; two positions, examples of the first key
neurons of every label. Its numbers mean nothing; their amount is what counts.

    python tests/wide_runs.py PAGE.html LAYERS UNITS    # writes its report
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from made_figures import made_probe, made_study
from made_runs import MadeRun, Results

from grammar_lens.corpus.origin import Origin
from grammar_lens.dissociation.matrices import diagonal_score
from grammar_lens.dissociation.result import LesionStudy
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
from grammar_lens.passes.moments import Moments, UnitStatistics
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.report.page import write_report
from grammar_lens.selectivity.result import Scores

UPOS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
LAYERS, UNITS = 32, 14_336
DIMENSIONS = 2 / 7
"""Of the residual stream, for each neuron of a layer: 4,096."""
N_SHAMS = 20
WITH_EXAMPLES = 10
"""Key neurons of each label that have examples."""


@dataclass
class WideRun(MadeRun):
    """A run with scores of the residual stream at every position."""

    streams: dict[str, Scores] = field(default_factory=dict)

    def residual_scores(self, position: str) -> Scores | None:
        return self.streams[position]


def wide_run(
    labels: tuple[str, ...] = UPOS,
    *,
    layers: int = LAYERS,
    units: int = UNITS,
    n_sentences: int = 100_000,
    model: str = "random-8b",
) -> WideRun:
    """Two positions of `layers` times `units` neurons, read in `n_sentences` sentences."""
    rng = np.random.default_rng(0)
    results, streams = {}, {}
    for position in ("word", "next"):
        origin = Origin(model, "made:train", "upos", position, "neuron")
        scores = _scores(rng, labels, layers, units, origin)
        mean = rng.standard_normal(scores.values.shape, dtype=np.float32).astype(np.float64)
        nothing = np.broadcast_to(np.zeros(()), mean.shape)
        moments = Moments(labels, scores.count, mean, nothing, nothing, np.abs(mean[0]), origin)
        stream, width = replace(origin, site="resid_post"), round(units * DIMENSIONS)
        streams[position] = _scores(rng, labels, layers, width, stream)
        sets, probe = {"neuron": moments}, _probe(rng, labels, origin)
        results[position] = Results(position, sets, scores, select(scores, k=100), None, probe)
    words, origin = 15 * n_sentences, results["next"].scores.origin
    read = {"words": words, "aligned": words - n_sentences}
    return WideRun(
        record={
            "config": {"model": model, "train": "made:train", "top_k": 100},
            "treebank": {"train": {"name": "made:train", "sentences": n_sentences, "words": words}},
        },
        summary={"alignment": {**read, "skipped": {"first of its sentence": n_sentences}}},
        results=results,
        study=_study(rng, labels, origin),
        course=_course(rng, labels, layers, results["word"].scores.origin),
        examples={p: _examples(rng, r.keys) for p, r in results.items()},
        path=Path("runs/wide"),
        streams=streams,
    )


def _scores(
    rng: np.random.Generator, labels: tuple[str, ...], layers: int, units: int, origin: Origin
) -> Scores:
    """Noise, and 150 strong units for every label."""
    shape = (len(labels), layers, units)
    values = rng.standard_normal(shape, dtype=np.float32).astype(np.float64) * 0.03
    strong = rng.integers(units, size=(len(labels), 150))
    depth = np.clip(rng.normal(0.5, 0.15, strong.shape) * layers, 0, layers - 1).astype(int)
    for i in range(len(labels)):
        values[i, depth[i], strong[i]] += rng.choice([-1, 1], 150) * rng.uniform(0.1, 0.6, 150)
    count = rng.integers(20_000, 100_000, len(labels)).astype(float)
    flat = np.ones((layers, units))
    return Scores(
        method="correlation",
        labels=labels,
        count=count,
        values=values,
        effect=values * 3,
        p=None,
        units=UnitStatistics(flat, flat, flat),
        origin=origin,
    )


def _probe(rng: np.random.Generator, labels: tuple[str, ...], origin: Origin) -> ProbeResult:
    n = len(labels)
    numbers = {x: rng.uniform(0.5, 0.9, n) for x in ("precision", "recall", "f1")}
    table = pd.DataFrame({**numbers, "n_words": 500}, index=pd.Index(labels, name="label"))
    confusion = rng.integers(0, 40, (n, n)) + 400 * np.eye(n, dtype=int)
    return replace(made_probe(), labels=labels, per_label=table, confusion=confusion, origin=origin)


def _study(rng: np.random.Generator, labels: tuple[str, ...], origin: Origin) -> LesionStudy:
    n = len(labels)
    matrix = 0.3 * np.eye(n) + rng.normal(0.01, 0.01, (n, n))
    sham = rng.normal(0.01, 0.01, (N_SHAMS, n, n))
    return replace(
        made_study(n_shams=0),
        labels=labels,
        k=100,
        matrix=matrix,
        nll_matrix=1.1 * matrix,
        sham=sham,
        auroc=np.full(n, 0.9),
        auroc_fall=matrix / 10,
        bias=matrix / 100,
        accuracy=np.full(n + 1, 0.5),
        n_words=np.full(n, 500),
        s_star=diagonal_score(matrix),
        s_star_sham=np.array([diagonal_score(m) for m in sham]),
        output_ratio=np.full(n, 0.95),
        damage_ratio=np.full(n, 0.5),
        origin=origin,
    )


def _course(
    rng: np.random.Generator, labels: tuple[str, ...], layers: int, origin: Origin
) -> CourseSummary:
    offsets = tuple(range(-4, 5))
    shape = (len(offsets), len(labels), layers)
    strength = rng.uniform(0.01, 0.3, shape)
    return CourseSummary(
        *(labels, offsets, np.full(shape[:2], 1000.0), strength, rng.normal(0, 0.1, shape)), origin
    )


def _examples(rng: np.random.Generator, keys: KeyNeurons) -> Examples:
    """Five top and five bottom sentences of 25 tokens for the first key neurons of every label."""
    first = dict.fromkeys(at for label in keys for at in keys[label].top(WITH_EXAMPLES))
    by_neuron = {at: _neuron(rng, *at, keys) for at in first}
    return Examples(by_neuron, keys.origin)


def _neuron(rng: np.random.Generator, layer: int, index: int, keys: KeyNeurons) -> NeuronExamples:
    n = len(keys.labels)
    quantiles = np.sort(rng.normal(0, 1, (n, len(QUANTILES))), axis=1)
    moved = [tuple(TokenEffect(t, float(x)) for t, x in _tokens(rng)) for _ in range(2)]
    examples = [_example(rng, keys.labels) for _ in range(10)]
    return NeuronExamples(
        layer=layer,
        index=index,
        labels=keys.labels,
        count=np.full(n, 1000),
        quantiles=quantiles,
        top=tuple(examples[:5]),
        bottom=tuple(examples[5:]),
        contrast=rng.normal(0, 0.1, n),
        promoted=moved[0],
        suppressed=moved[1],
        origin=keys.origin,
    )


def _tokens(rng: np.random.Generator) -> list[tuple[str, float]]:
    return [(word, x) for word, x in zip(_text(rng, 10), rng.normal(0, 1, 10), strict=True)]


def _example(rng: np.random.Generator, labels: tuple[str, ...]) -> Example:
    words = _text(rng, 25)
    values: Float[np.ndarray, " token"] = rng.normal(0, 1, 25)
    at = int(rng.integers(25))
    source = f"made-train.conllu:{rng.integers(10**6)}"
    return Example(
        passage=Passage(tuple(words), source),
        token=at,
        span=(at, at + 1),
        word=words[at].strip(),
        label=labels[rng.integers(len(labels))],
        value=float(values[at]),
        values=values,
    )


def _text(rng: np.random.Generator, n: int) -> list[str]:
    """Words of one to nine letters, each after a blank."""
    letters = "etaoinshrdlucm"
    return [
        " " + "".join(letters[i] for i in rng.integers(len(letters), size=rng.integers(1, 10)))
        for _ in range(n)
    ]


if __name__ == "__main__":
    page, n_layers, n_units = sys.argv[1:]
    write_report(wide_run(layers=int(n_layers), units=int(n_units)), Path(page))
