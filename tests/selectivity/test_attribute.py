"""Attributions over a corpus: what `gl.attribute` makes of contributions word by word."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rounding import model_error
from typed import present

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.passes.moments import Moments
from grammar_lens.passes.readers import SampleReader
from grammar_lens.selectivity.attribution.first_order import attribute_all, attribute_own
from grammar_lens.selectivity.attribution.integrated import integrated_gradients
from grammar_lens.selectivity.collecting import collect
from grammar_lens.selectivity.evidence import Attribution, Evidence

QUIET: dict[str, Any] = {"show_progress": False}
SHAPE = (2, 48)
LABELS = ("DET", "NOUN", "PRON", "VERB")
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-7}
"""Contributions are float32, and batches of another shape round in another way."""


@pytest.fixture(scope="module")
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank["train"], labels=LABELS)


@pytest.fixture(scope="module")
def lexicon(tiny: Model, corpus: Corpus) -> gl.Lexicon:
    return gl.fit_lexicon(tiny, corpus)


@pytest.fixture(scope="module")
def moments(tiny: Model, corpus: Corpus) -> Moments:
    return collect(tiny, corpus, **QUIET)["neuron"]


def contributions(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, reference: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Every word's contributions [word, layer, unit] and its class, one word's row after the other."""
    codes = corpus.read("next")
    words = np.flatnonzero(codes >= 0)
    row = np.full(len(codes), -1)
    row[words] = np.arange(len(words))
    reader = SampleReader(len(words), *SHAPE)
    attribute_own(
        tiny, corpus.alignment, corpus.batches(200), codes, lexicon, reference, [(row, reader)]
    )
    return reader.values.astype(float), codes[words]


def label_means(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.stack([values[classes == i].mean(0) for i in range(len(LABELS))])


def assert_halves_are_the_whole(found: Attribution) -> None:
    assert found.halves is not None
    first, second = found.halves
    assert min(first.count.sum(), second.count.sum()) > 0.2 * found.count.sum()
    np.testing.assert_array_equal(first.count + second.count, found.count)
    weights = np.stack([first.count, second.count]) / found.count
    merged = sum(w[:, None, None] * h.mean for w, h in zip(weights, found.halves, strict=True))
    np.testing.assert_allclose(merged, found.mean, rtol=1e-9, atol=1e-12)
    assert not np.allclose(first.mean, second.mean, rtol=0.1)
    assert first.origin == found.origin


# Own ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, moments: Moments) -> Attribution:
    return gl.attribute(tiny, corpus, lexicon=lexicon, moments=moments, **QUIET)


def test_own_is_the_mean_contribution_of_a_labels_words(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, moments: Moments, own: Attribution
):
    values, classes = contributions(tiny, corpus, lexicon, moments.pooled()[0])
    np.testing.assert_array_equal(own.count, np.bincount(classes))
    np.testing.assert_allclose(own.mean, label_means(values, classes), **CLOSE)
    assert (own.kind, own.reference, own.labels) == ("own", "mean", LABELS)
    assert own.origin == moments.origin
    assert (own.frequency, own.completeness, own.top_share) == (None, None, None)
    assert dict(own.nulls) == {}
    assert_halves_are_the_whole(own)


def test_moments_and_lexicon_are_made_when_not_given(tiny: Model, bank: Treebank, own: Attribution):
    found = gl.attribute(tiny, bank["train"], labels=LABELS, token_budget=90, **QUIET)
    np.testing.assert_allclose(found.mean, own.mean, **CLOSE)


def test_contributions_are_linear_in_the_reference(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, moments: Moments, own: Attribution
):
    """(r - a) g: from zero to the mean it changes by mean times g, and to twice the mean by twice that."""
    given: dict[str, Any] = {"lexicon": lexicon, **QUIET}
    zero = gl.attribute(tiny, corpus, reference="zero", **given)
    assert zero.reference == "zero"
    twice = gl.attribute(tiny, corpus, moments=replace(moments, mean=2 * moments.mean), **given)
    within = model_error(tiny, twice.mean, passes=2)
    np.testing.assert_allclose(
        twice.mean - zero.mean, 2 * (own.mean - zero.mean), rtol=0, atol=within
    )
    values, classes = contributions(tiny, corpus, lexicon, None)
    np.testing.assert_allclose(zero.mean, label_means(values, classes), **CLOSE)
    unit_moves = np.abs(moments.pooled()[0]) > 1e-3
    assert (np.abs(zero.mean - own.mean).max(0)[unit_moves] > 1e-6).mean() > 0.9


def test_nulls_are_of_the_words_that_were_exchanged(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, moments: Moments
):
    found = gl.attribute(
        tiny, corpus, lexicon=lexicon, moments=moments, replicates=20, seed=4, **QUIET
    )
    assert set(found.nulls) == {"attribution", "attribution_contrast"}
    codes, sentence = corpus.read("next"), corpus.alignment.sentence
    length = np.bincount(sentence[codes >= 0], minlength=len(corpus.bank))
    alone = np.isin(length, [n for n in np.unique(length) if (length == n).sum() == 1])
    words = np.flatnonzero(codes >= 0)
    taking_part = ~alone[sentence[words]]
    assert 0 < taking_part.sum() < len(words), "some sentences have no partner"
    values, classes = contributions(tiny, corpus, lexicon, moments.pooled()[0])
    means = label_means(values[taking_part], classes[taking_part])
    null = found.nulls["attribution"]
    np.testing.assert_array_equal(null.count, np.bincount(classes[taking_part], minlength=4))
    np.testing.assert_allclose(null.observed, means, **CLOSE)
    assert null.n_left_out_words == (~taking_part).sum()
    assert (null.n_replicates, null.labels, null.two_sided) == (20, LABELS, False)
    # an exchange moves words between labels and loses none
    weights = null.count / null.count.sum()
    for exchanged in (null.mean, *null.shams.astype(float)):
        np.testing.assert_allclose(
            np.tensordot(weights, exchanged, 1),
            np.tensordot(weights, means, 1),
            rtol=0,
            atol=model_error(tiny, values, passes=2),
        )
    assert (null.sd > 0).mean() > 0.9
    contrast = found.nulls["attribution_contrast"]
    others = [(means.sum(0) - row) / (len(LABELS) - 1) for row in means]
    np.testing.assert_allclose(contrast.observed, means - others, **CLOSE)
    # and every word counts for the attribution itself
    np.testing.assert_allclose(found.mean, label_means(values, classes), **CLOSE)
    np.testing.assert_array_equal(found.count, np.bincount(classes))
    assert_halves_are_the_whole(found)
    scores = gl.score(Evidence(moments, attribution=found), "attribution_contrast")
    assert scores.null is contrast


def test_the_lexicon_may_number_labels_in_another_way(
    tiny: Model, corpus: Corpus, bank: Treebank, moments: Moments
):
    other = gl.fit_lexicon(tiny, bank["train"], labels=("VERB", "PRON", "NOUN", "DET"))
    for kind in ("own", "all"):
        turned, plain = (
            gl.attribute(tiny, corpus, kind=kind, lexicon=x, moments=moments, **QUIET)
            for x in (other, None)
        )
        np.testing.assert_array_equal(turned.count, plain.count)
        np.testing.assert_allclose(turned.mean, plain.mean, rtol=1e-4, atol=1e-6)
        assert turned.labels == LABELS


# All ------------------------------------------------------------------------------------------


def test_all_is_the_whole_corpus_and_its_halves(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, moments: Moments, own: Attribution
):
    found = gl.attribute(
        tiny, corpus, kind="all", lexicon=lexicon, moments=moments, token_budget=150, **QUIET
    )
    codes = corpus.read("next")
    total, count = attribute_all(
        tiny, corpus.alignment, corpus.batches(200), codes, 4, lexicon, moments.pooled()[0]
    )
    np.testing.assert_array_equal(found.count, count)
    np.testing.assert_allclose(found.mean, total / count[:, None, None], rtol=1e-4, atol=1e-6)
    assert_halves_are_the_whole(found)
    assert (found.kind, found.reference, found.origin) == ("all", "mean", own.origin)
    np.testing.assert_array_equal(found.count, own.count)
    # what the last layer does reaches no later position, what the first does is counted there too
    np.testing.assert_allclose(found.mean[:, 1], own.mean[:, 1], **CLOSE)
    apart = np.abs(found.mean[:, 0] - own.mean[:, 0])
    assert np.median(apart) > 0.2 * np.median(np.abs(own.mean[:, 0]))


def test_the_halves_of_own_and_all_are_the_same_sentences(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, own: Attribution
):
    options: dict[str, Any] = {"lexicon": lexicon, "reference": "zero", **QUIET}
    all_ = gl.attribute(tiny, corpus, kind="all", **options)
    assert own.halves is not None
    assert all_.halves is not None
    for mine, theirs in zip(own.halves, all_.halves, strict=True):
        np.testing.assert_array_equal(mine.count, theirs.count)
    other = gl.attribute(tiny, corpus, seed=1, **options)
    assert other.halves is not None
    assert (other.halves[0].count != own.halves[0].count).any(), "halves are drawn with the seed"


# Integrated gradients -------------------------------------------------------------------------

FEW = {"steps": 3, **QUIET}


@pytest.fixture(scope="module")
def integrated(tiny: Model, corpus: Corpus) -> Attribution:
    return gl.attribute(tiny, corpus, kind="integrated_gradients", top_share=0.07, **FEW)


@pytest.fixture(scope="module")
def word_by_word(tiny: Model, corpus: Corpus) -> tuple[np.ndarray, np.ndarray, float]:
    """Every word's integrated gradients [word, layer, unit], its class, and the completeness."""
    codes = corpus.read("next")
    words = np.flatnonzero(codes >= 0)
    row = np.full(len(codes), -1)
    row[words] = np.arange(len(words))
    reader = SampleReader(len(words), *SHAPE)
    found = integrated_gradients(tiny, corpus.alignment, codes, [(row, reader)], steps=3)
    return reader.values.astype(float), codes[words], found.overall


def kept_share(values: np.ndarray, classes: np.ndarray, kept: int) -> np.ndarray:
    """Share of each label's words at which a unit is among the `kept` largest on the last axis."""
    threshold = np.sort(values, -1)[..., -kept]
    return label_means(values >= threshold[..., None], classes)


def test_integrated_gradients_are_label_means_with_frequencies(
    word_by_word: tuple[np.ndarray, np.ndarray, float], integrated: Attribution
):
    values, classes, completeness = word_by_word
    np.testing.assert_allclose(integrated.mean, label_means(values, classes), rtol=1e-3, atol=1e-8)
    assert integrated.completeness == pytest.approx(completeness, rel=1e-3)
    assert (integrated.kind, integrated.reference) == ("integrated_gradients", "zero")
    assert integrated.top_share == 0.07
    often = kept_share(values.reshape(-1, 96), classes, math.ceil(0.07 * 96))
    assert integrated.frequency is not None
    np.testing.assert_allclose(integrated.frequency.reshape(4, 96), often, atol=1e-12)
    assert_halves_are_the_whole(integrated)


def test_every_word_keeps_its_share(integrated: Attribution):
    assert integrated.halves is not None
    for found in (integrated, *integrated.halves):
        often = found.frequency
        assert often is not None
        assert ((often >= 0) & (often <= 1)).all()
        np.testing.assert_allclose(often.sum((1, 2)), math.ceil(0.07 * 96))
        whole_numbers = often * found.count[:, None, None]
        np.testing.assert_allclose(whole_numbers, whole_numbers.round(), atol=1e-9)
    assert integrated.frequency is not None
    times = [
        x.frequency * x.count[:, None, None] for x in integrated.halves if x.frequency is not None
    ]
    whole = integrated.frequency * integrated.count[:, None, None]
    np.testing.assert_allclose(times[0] + times[1], whole)


def test_ways_of_ranking(
    tiny: Model,
    corpus: Corpus,
    integrated: Attribution,
    word_by_word: tuple[np.ndarray, np.ndarray, float],
):
    values, classes, _ = word_by_word

    def ranked(**options: Any) -> np.ndarray:
        found = gl.attribute(tiny, corpus, kind="integrated_gradients", **FEW, **options)
        np.testing.assert_allclose(found.mean, integrated.mean, rtol=1e-4, atol=1e-9)
        assert found.frequency is not None
        return found.frequency

    each = ranked(top_share=0.07, top_per_layer=True)
    np.testing.assert_allclose(each, kept_share(values, classes, math.ceil(0.07 * 48)), atol=1e-12)
    size = ranked(top_share=0.07, top_by="size")
    often = kept_share(np.abs(values).reshape(-1, 96), classes, math.ceil(0.07 * 96))
    np.testing.assert_allclose(size.reshape(4, 96), often, atol=1e-12)
    assert not np.allclose(size, present(integrated.frequency))
    assert (ranked(top_share=1.0) == 1).all()


def test_targets_steps_and_joint_paths_differ(tiny: Model, corpus: Corpus, integrated: Attribution):
    kind = {"kind": "integrated_gradients", **QUIET}
    fine = gl.attribute(tiny, corpus, steps=12, **kind)
    assert integrated.completeness is not None
    assert fine.completeness is not None
    assert 0 <= fine.completeness < integrated.completeness < np.inf
    logs = gl.attribute(tiny, corpus, steps=3, target="log_probability", **kind)
    assert np.abs(logs.mean).max() > 2 * np.abs(integrated.mean).max(), "probabilities are small"
    joint = gl.attribute(tiny, corpus, steps=3, joint=True, **kind)
    assert np.isfinite(joint.completeness or np.nan)
    assert not np.allclose(joint.mean, integrated.mean, rtol=0.01)


# Fewer words ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "all", "integrated_gradients"])
def test_at_most_so_many_words(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, moments: Moments, kind: str
):
    options: dict[str, Any] = {"kind": kind, "lexicon": lexicon, "moments": moments, "steps": 2}
    few, again, other = (
        gl.attribute(tiny, corpus, max_words=25, seed=seed, **options, **QUIET)
        for seed in (2, 2, 3)
    )
    assert 10 < few.count.sum() <= 25
    np.testing.assert_array_equal(few.mean, again.mean)
    assert not np.array_equal(few.mean, other.mean), "other sentences"
    read = corpus.read("next")
    table = np.zeros((13, 4))
    np.add.at(table, (corpus.alignment.sentence[read >= 0], read[read >= 0]), 1)
    subsets = (np.arange(2**13)[:, None] >> np.arange(13)) & 1
    assert (subsets @ table == few.count).all(1).any(), "whole sentences"
    whole = gl.attribute(tiny, corpus, max_words=1000, **options, **QUIET)
    assert whole.count.sum() == (read >= 0).sum()


def test_labels_without_words_among_the_few_count_0(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon, moments: Moments
):
    for kind in ("own", "all", "integrated_gradients"):
        found = gl.attribute(
            tiny, corpus, kind=kind, lexicon=lexicon, moments=moments, max_words=6, steps=2, **QUIET
        )
        none = found.count == 0
        assert none.any()
        assert (found.mean[none] == 0).all()
        assert found.frequency is None or (found.frequency[none] == 0).all()


def test_the_mean_of_few_words_needs_no_two_of_each_label(
    tiny: Model, corpus: Corpus, lexicon: gl.Lexicon
):
    found = gl.attribute(tiny, corpus, lexicon=lexicon, max_words=6, **QUIET)
    assert 0 < found.count.sum() <= 6


# What cannot be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kind": "some"}, "kind is 'some', expected one of own, all, integrated_gradients"),
        ({"reference": "median"}, "reference is 'median', expected one of mean, zero"),
        ({"top_by": "rank"}, "top_by is 'rank', expected one of value, size"),
        (
            {"kind": "all", "replicates": 20},
            "word by word, which 'all' does not give: use kind 'own', or replicates=0",
        ),
        (
            {"kind": "integrated_gradients", "replicates": 20},
            "word by word, which 'integrated_gradients' does not give",
        ),
    ],
)
def test_options_that_do_not_go(tiny: Model, corpus: Corpus, bad: dict[str, Any], message: str):
    with pytest.raises(GrammarLensError, match=message):
        gl.attribute(tiny, corpus, **bad, **QUIET)


@pytest.mark.parametrize("kind", ["own", "all"])
def test_a_lexicon_without_a_label(tiny: Model, corpus: Corpus, bank: Treebank, kind: str):
    poor = gl.fit_lexicon(tiny, bank["train"], labels=("NOUN", "VERB"))
    with pytest.raises(GrammarLensError, match=r"DET, PRON.*gl\.fit_lexi"):
        gl.attribute(tiny, corpus, kind=kind, lexicon=poor, reference="zero", **QUIET)


def test_shares_targets_and_steps_are_checked(tiny: Model, corpus: Corpus):
    for bad, message in (
        ({"top_share": 0.0}, "share is 0.0, expected more than 0 and at most 1"),
        ({"steps": 0}, "steps is 0, expected 1 or more"),
        ({"target": "logit"}, "target is 'logit', expected one of"),
    ):
        with pytest.raises(GrammarLensError, match=message):
            gl.attribute(tiny, corpus, kind="integrated_gradients", **bad, **QUIET)
