"""Display of results: a few lines that say what they are of, and tables that hold no markup."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import numpy as np
import pandas as pd
from made_batteries import battery, neurons, own_keys
from made_figures import (
    HOSTILE,
    LABELS,
    made_calibration,
    made_controls,
    made_course,
    made_curve,
    made_equal_damage,
    made_examples,
    made_extended,
    made_layer_lesions,
    made_layers,
    made_method_calibration,
    made_moments,
    made_null,
    made_probe,
    made_redundancy,
    made_size_curves,
)
from made_keys import ORIGIN
from made_phenomena import made_phenomena

import grammar_lens
from grammar_lens.certification.measures import Certification
from grammar_lens.certification.world_result import WorldResult
from grammar_lens.corpus.bank import Sentence, Treebank, Word
from grammar_lens.corpus.corpus import prepare
from grammar_lens.corpus.lexicon import build_lexicon
from grammar_lens.corpus.origin import Origin
from grammar_lens.display import listed, page
from grammar_lens.generation.comparison import Comparison
from grammar_lens.lesions.directions import directions
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.next_word import NextWord
from grammar_lens.lesions.read_text import TextReading
from grammar_lens.model.about import Model
from grammar_lens.neurons.examples import Examples
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.neurons.overlap import Reliability, overlap
from grammar_lens.neurons.own_text import TextActivations
from grammar_lens.neurons.selection import select
from grammar_lens.neurons.subspaces import Subspaces
from grammar_lens.neurons.timecourse import TimeCourse
from grammar_lens.neurons.word_activations import WordActivations
from grammar_lens.phenomena.pairs import MinimalPair, Pairs
from grammar_lens.phenomena.scoring import PairScores
from grammar_lens.probing.curves import CurvePoint, ProbeCurve
from grammar_lens.probing.erasure import ErasureResult
from grammar_lens.probing.fitted import FittedProbe
from grammar_lens.selectivity.collecting import Collected
from grammar_lens.selectivity.contrasts import Adjusted
from grammar_lens.selectivity.evidence import Attribution, Evidence, Sample
from grammar_lens.selectivity.permutation_null import Replicates
from grammar_lens.selectivity.scoring import score

HOSTILE_LABELS = (HOSTILE, *LABELS[1:])


def shape(labels: tuple[str, ...]) -> tuple[int, int, int]:
    return len(labels), 3, 40


def made_evidence(labels: tuple[str, ...], model: str) -> Evidence:
    """Evidence with every part."""
    moments = made_moments(labels, model=model)
    count, origin = moments.count, moments.origin
    null = made_null(score(moments), moments)
    sample = Sample(labels, np.array([0, 1, 1]), np.arange(3), np.zeros((3, 3, 40)), count, origin)
    attribution = Attribution("own", "mean", labels, count, moments.mean, origin)
    adjusted = Adjusted(labels, moments.mean, moments.mean, count, count, count, count)
    return Evidence(
        moments,
        (moments, moments),
        sample,
        {"correlation": null},
        adjusted,
        replace(attribution, nulls={"attribution": null}),
        replace(attribution, kind="integrated_gradients"),
        moments.mean,
    )


def of_neurons(labels: tuple[str, ...], model: str) -> Iterator[object]:
    """Results about neurons: statistics, and choices made from them."""
    evidence = made_evidence(labels, model)
    moments, scores = evidence.moments, score(evidence)
    keys = select(scores, k=6)
    null = evidence.nulls["correlation"]
    found = made_examples(labels, model=model)
    n, size = len(labels), np.ones(len(labels))
    yield from (evidence, moments, moments.units(), scores, keys, keys[labels[0]], null)
    yield from (evidence.sample, evidence.attribution, evidence.adjusted)
    yield Replicates(moments, np.zeros((2, *shape(labels)), np.float32), 3, 1)
    yield Collected({"word": {"neuron": evidence}}, 1234)
    yield made_controls(labels, null)
    yield from (found, Examples({(1, 17): found}, found.origin))
    yield overlap(keys)
    yield Reliability(labels, size, size, size, size, size, size)
    yield Subspaces(labels, size, size, np.eye(n), np.ones((2, n)), np.ones((2, n, n)))
    yield made_course(labels, model=model)
    layers = made_layers(labels, model=model)
    yield from (layers, layers["word"], made_layer_lesions(labels, model=model))
    yield made_size_curves(labels, model=model)
    yield made_equal_damage(labels, model=model)
    course = np.zeros((2, n, 3, 40))
    yield TimeCourse(labels, (-1, 0), np.ones((2, n)), course, moments.origin)
    yield directions(labels[0], np.eye(4)[:2], layer=1)


def of_probes(labels: tuple[str, ...], model: str) -> Iterator[object]:
    made = made_probe(labels, model=model)
    weight = np.arange(len(labels) * 2.0).reshape(-1, 2)
    zeros, addresses = np.zeros(2), np.array([[0, 1], [2, 3]])
    yield made
    yield FittedProbe(labels, addresses, zeros, zeros, weight, weight[:, 0], made.origin)
    rows = made_curve().replace("correlation", labels[0]).to_dict("records")
    yield ProbeCurve(tuple(CurvePoint(**row) for row in rows), 0.2, 0.7, 300, 200)
    yield ErasureResult(2, 3, 0.9, 0.7, (0.8,), 0.3, 0.3)


def of_lesions(labels: tuple[str, ...], model: str) -> Iterator[object]:
    study = made_extended(labels, model=model)
    assert study.damage_matched is not None
    yield from (study, study.damage_matched, study.sufficiency, study.doses)
    yield from (made_calibration(labels), made_redundancy(labels))
    yield made_method_calibration(labels)
    # a set of the label itself: "OTHER" stands first in a battery
    yield battery(np.zeros((2, len(labels), len(labels))), labels, n_sentences=3)
    here = {("neuron", 0): np.arange(3)}
    twice = np.full((2, len(labels)), 0.1)
    cut = ("m", f"a {labels[0]}", labels[0], 3, "mean", (0.0, 1.0), labels, twice)
    yield NextWord(*cut, np.ones(2), (labels[0], "run"), (labels[0], None), twice[:, :2])
    shown = (model, ("the", labels[0]), labels[0], 3, "mean", 1.0, labels)
    yield TextReading(*shown, np.ones((2, 2)), np.full((2, 2, len(labels)), 0.1))
    some = Neurons.at("0.1, 2.3")
    yield TextActivations(model, ("the", labels[0]), some, np.ones((2, 2), np.float32))
    origin = Origin(model, labels[0], "upos", "next", "neuron")
    yield WordActivations(0, 1, labels, np.array([0, 1]), np.ones(2, np.float32), origin)
    yield Donors(np.arange(5), np.zeros(5, int), 4, here, {("neuron", 0): np.zeros((5, 3))})
    yield build_lexicon(np.array([0, 1, 1]), np.array([0, 1, 2]), labels, 5)


def of_texts(labels: tuple[str, ...], model: str) -> Iterator[object]:
    word = Word("runs", (0, 4), {"upos": labels[0]})
    sentence = Sentence("1", f"runs {labels[0]}", (word,), None, f"{model}:1")
    yield from (sentence, Treebank(model, (sentence,), {"train": (0, 1)}, (labels[0],)))
    pairs = tuple(MinimalPair(labels[0], "they run", "they runs", model) for _ in range(2))
    log_p = np.array([-1.0, -3.0])
    scores = PairScores(pairs, log_p, log_p, log_p, log_p)
    yield from (Pairs(pairs), scores)
    study = made_phenomena(labels, origin=replace(ORIGIN, model=model))
    yield from (study.own, study)
    world = WorldResult(
        *(
            "true",
            0,
            1.0,
            "direct",
            labels[0],
            4,
            4,
            4,
            4,
            4,
            0,
            (0.5,),
            0.05,
            1,
            1,
            1,
            None,
            None,
            None,
            None,
        ),
        *(1000, 500, 1.0),
    )
    yield Certification((world,), 19, 0, 1, 1.0)
    tags = pd.DataFrame({"tag": list(labels), "n_intact": 3, "n_lesioned": 2})
    texts = ((f"a {labels[0]}",),)
    yield Comparison(
        *((f"a {labels[0]}",), texts, texts, labels[0], 5, "mean", 1.0, 0.0, 0, tags, 0),
        made_probe(labels, model=model),
    )


def every_result(labels: tuple[str, ...], model: str) -> list[object]:
    parts = (of_neurons, of_probes, of_lesions, of_texts)
    return [result for part in parts for result in part(labels, model)]


ELSEWHERE = {"Alignment", "Corpus", "Ablation", "NeuronView", "Origin", "Reading", "Results"}
"""Tested below or with their modules, or a few plain values that Python shows well."""


def public_results() -> set[type]:
    """Dataclasses of public modules that say what they are of, make a table, or stand in `gl`."""
    modules = [
        import_module(info.name)
        for info in walk_packages(grammar_lens.__path__, "grammar_lens.")
        if "__main__" not in info.name and "triton" not in info.name
    ]
    every = {
        x for m in modules for x in vars(m).values() if isinstance(x, type) and is_dataclass(x)
    }
    return {
        x
        for x in every
        if x.__module__.startswith("grammar_lens.")
        and not x.__name__.startswith("_")
        and (
            hasattr(x, "to_frame")
            or "origin" in {f.name for f in fields(x)}
            or x.__name__ in grammar_lens._HOME
        )
    }


def test_every_public_result_is_shown_here() -> None:
    shown = {type(result).__name__ for result in every_result(LABELS, "m")}
    assert {x.__name__ for x in public_results()} - ELSEWHERE - shown == set()


class Elements(HTMLParser):
    """The names of all elements of a page, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def html_of(result: Any) -> str:
    return result._repr_html_()


ALLOWED = {"p", "table", "thead", "tbody", "tr", "th", "td", "small", "div", "style"}
ALLOWED |= {"span", "b", "br"}  # coloured text


def test_a_result_says_what_it_is_in_a_few_lines() -> None:
    for result in every_result(LABELS, "a-model"):
        told, drawn = repr(result), html_of(result)
        name = type(result).__name__
        assert len(told) < 1_000, name
        assert told.count("\n") < 5, name
        assert drawn.startswith("<p>"), name
        assert len(drawn) < 20_000, name
        for text in (told, drawn):
            assert "array(" not in text, name
            assert "dtype" not in text, name


def test_names_from_outside_are_text_in_html() -> None:
    for result in every_result(HOSTILE_LABELS, HOSTILE):
        assert Elements(html_of(result)).names <= ALLOWED, type(result).__name__


def test_the_hostile_label_is_shown_as_it_is() -> None:
    """The test above would pass if labels were left out."""
    shown = [
        type(r).__name__
        for r in every_result(HOSTILE_LABELS, HOSTILE)
        if HOSTILE in Elements(html_of(r)).text
    ]
    assert len(set(shown)) > 30


def test_a_corpus_is_shown(tiny: Model, bank: Treebank) -> None:
    corpus = prepare(tiny, bank)
    assert repr(corpus).startswith("Corpus of small for ")
    assert len(repr(corpus)) < 300
    drawn = Elements(corpus._repr_html_())
    assert drawn.names <= ALLOWED
    assert "NOUN" in drawn.text
    assert "read at 'next'" in drawn.text


def test_what_an_evidence_has_is_said() -> None:
    told = repr(made_evidence(LABELS, "m"))
    for part in ("two halves", "nulls of correlation, attribution", "output contrasts"):
        assert part in told
    assert repr(Evidence(made_moments())).endswith("with nothing else")


def test_many_labels_and_rows_stay_short() -> None:
    labels = tuple(f"L{i}" for i in range(400))
    keys = own_keys(labels)
    assert "and 376 more" in repr(keys)
    assert len(repr(keys)) < 1_000
    drawn = keys._repr_html_()
    assert drawn.count("<tr") == 21
    assert "and 380 more rows" in drawn
    assert "L19" in drawn
    many = neurons("many", [(0, i) for i in range(50)])
    assert "and 30 more rows" in many._repr_html_()


def test_tables_of_a_page() -> None:
    frame = pd.DataFrame({"a<b": [0.123456, np.nan]}, index=pd.Index(["<i>", "y"], name="l"))
    drawn = page("x < y", frame)
    assert drawn.startswith("<p>x &lt; y</p>")
    assert "a&lt;b" in drawn
    assert "&lt;i&gt;" in drawn
    assert "0.1235" in drawn
    assert "nan" not in drawn.lower()
    assert listed("abc") == "a, b, c"


def test_the_origin_is_plain() -> None:
    told = repr(Origin("m", "t", "upos", "word", "neuron"))
    assert told == ("Origin(model='m', treebank='t', label='upos', position='word', site='neuron')")
