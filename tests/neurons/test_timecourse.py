"""The time course of selectivity: arithmetic by hand, and against activations token by token."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rounding import model_error

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.neurons.timecourse import TimeCourse
from grammar_lens.selectivity.collecting import collect

ORIGIN = Origin("a-model", "a-bank", "upos", "word", "neuron")
QUIET: dict[str, Any] = {"show_progress": False}


def neurons(name: str, addresses: list[tuple[int, int]], score: list[float]) -> Neurons:
    layer, index = np.array(addresses, np.int64).reshape(-1, 2).T
    return Neurons(name, "neuron", layer, index, np.array(score, float))


def keys_of(**sets: tuple[list[tuple[int, int]], list[float]]) -> KeyNeurons:
    chosen = {name: neurons(name, *of) for name, of in sets.items()}
    return KeyNeurons(chosen, "correlation", "by hand", 4, 3, None, ORIGIN)


@pytest.fixture
def course() -> TimeCourse:
    """Two labels at three tokens, three layers of four units."""
    rng = np.random.default_rng(21)
    values = rng.uniform(-1, 1, (3, 2, 3, 4)).astype(np.float32)
    count = np.array([[5.0, 6.0], [8.0, 9.0], [7.0, 1.0]])
    values[2, 1] = np.nan
    return TimeCourse(("NOUN", "VERB"), (-1, 0, 2), count, values, ORIGIN)


def test_strength_is_the_root_mean_square_over_units(course: TimeCourse):
    strength = course.strength()
    assert strength.shape == (3, 2, 3)
    for i in range(3):
        want = [np.sqrt(np.mean([float(v) ** 2 for v in layer])) for layer in course.values[i, 0]]
        np.testing.assert_allclose(strength[i, 0], want)
    assert np.isnan(strength[2, 1]).all(), "one word tells no correlation"
    silent = TimeCourse(course.labels, (0,), course.count[:1], course.values[:1] * 0, ORIGIN)
    assert (silent.strength() == 0).all()


def test_key_neurons_count_in_the_direction_they_were_chosen_for(course: TimeCourse):
    keys = keys_of(
        NOUN=([(0, 1), (0, 3), (2, 2)], [0.5, -0.4, -0.3]), VERB=([(1, 0), (1, 1)], [0.2, 0.1])
    )
    found, v = course.of(keys), course.values.astype(float)
    np.testing.assert_allclose(found[:, 0, 0], (v[:, 0, 0, 1] - v[:, 0, 0, 3]) / 2)
    np.testing.assert_allclose(found[:, 0, 2], -v[:, 0, 2, 2])
    assert np.isnan(found[:, 0, 1]).all(), "no key neuron of NOUN is in layer 1"
    np.testing.assert_allclose(found[:2, 1, 1], v[:2, 1, 1, :2].mean(1))
    assert np.isnan(found[2, 1]).all()
    assert np.isnan(course.of(keys_of(NOUN=([], []), VERB=([], [])))).all()
    with pytest.raises(GrammarLensError, match=r"'VERB'.*NOUN"):
        course.of(keys_of(NOUN=([], [])))


def test_what_is_kept_of_it(course: TimeCourse):
    keys = keys_of(NOUN=([(0, 1)], [1.0]), VERB=([(2, 0)], [-1.0]))
    kept = course.summary(keys)
    assert (kept.labels, kept.offsets, kept.origin) == (course.labels, course.offsets, ORIGIN)
    np.testing.assert_array_equal(kept.count, course.count)
    table = kept.to_frame()
    assert len(table) == 3 * 2 * 3
    row = table[(table.offset == 2) & (table.label == "NOUN") & (table.layer == 0)]
    assert row.strength.item() == pytest.approx(course.strength()[2, 0, 0])
    assert row.key_neurons.item() == pytest.approx(course.values[2, 0, 0, 1])
    row = table[(table.offset == -1) & (table.label == "VERB") & (table.layer == 2)]
    assert row.key_neurons.item() == pytest.approx(-course.values[0, 1, 2, 0])
    assert repr(course) == (
        "TimeCourse of upos in a-model on a-bank: tokens -1 to +2 around 'word', 2 values"
    )


# Through the model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank["train"])


@pytest.fixture(scope="module")
def cached(tiny: Model, corpus: Corpus) -> list[np.ndarray]:
    """Every sentence's activations [token, layer, unit], one sentence at a time, cached whole."""
    found = []
    for ids in corpus.alignment.token_ids:
        with torch.no_grad():
            cache = tiny.run_with_cache(torch.from_numpy(ids)[None])[1]
        rows = [cache[f"blocks.{layer}.mlp.hook_post"][0] for layer in range(2)]
        found.append(torch.stack(rows, 1).double().numpy())
    return found


@pytest.mark.parametrize("position", ["word", "next"])
def test_correlations_are_those_of_the_tokens_around_the_word(
    tiny: Model, corpus: Corpus, cached: list[np.ndarray], position: str
):
    offsets = (-2, 0, 1)
    course = gl.time_course(tiny, corpus, offsets=offsets, position=position, **QUIET)
    alignment, codes = corpus.alignment, corpus.read(position)
    assert course.values.shape == (3, len(corpus.labels), 2, 48)
    for i, offset in enumerate(offsets):
        rows, classes = [], []
        for w in np.flatnonzero(codes >= 0):
            tokens = cached[alignment.sentence[w]]
            read = alignment.last[w] if position == "word" else alignment.first[w] - 1
            if 1 <= read + offset < len(tokens):
                rows.append(tokens[read + offset])
                classes.append(codes[w])
        x, given = np.array(rows), np.array(classes)
        np.testing.assert_array_equal(
            course.count[i], np.bincount(given, minlength=len(corpus.labels))
        )
        for label, unit in ((0, 3), (4, 17), (6, 40)):
            for layer in (0, 1):
                want = np.corrcoef(x[:, layer, unit], given == label)[0, 1]
                within = model_error(tiny, 1.0)  # correlations are at most 1
                assert course.values[i, label, layer, unit] == pytest.approx(want, abs=within)


def test_at_no_distance_it_is_the_score(tiny: Model, corpus: Corpus):
    course = gl.time_course(tiny, corpus, offsets=[0], position="next", **QUIET)
    moments = collect(tiny, corpus, **QUIET)["neuron"]
    np.testing.assert_allclose(
        course.values[0], gl.score(moments).values, rtol=0, atol=model_error(tiny, 1)
    )
    np.testing.assert_array_equal(course.count[0], moments.count)
    assert course.origin == moments.origin


def test_the_token_before_a_word_is_where_the_next_word_is_predicted(tiny: Model, corpus: Corpus):
    """One token back from `word` is `next` where every word has one token."""
    alignment = corpus.alignment
    single = (alignment.first == alignment.last) & (alignment.first >= 0)
    assert single.sum() > 20
    few = replace(corpus, classes=np.where(single & (corpus.classes == 5), 1, 0) - ~single)
    few = replace(few, labels=("other", "some"))
    back = gl.time_course(tiny, few, offsets=[-1], position="word", **QUIET)
    there = gl.time_course(tiny, few, offsets=[0], position="next", **QUIET)
    np.testing.assert_array_equal(back.count, there.count)
    np.testing.assert_allclose(back.values, there.values, rtol=0, atol=model_error(tiny, 1))


def test_before_a_random_word_nothing_is_known_of_it(
    tiny: Model, corpus: Corpus, cached: list[np.ndarray]
):
    """Labels drawn anew say nothing: correlations are as large as chance makes them."""
    rng = np.random.default_rng(22)
    coins = replace(corpus, classes=rng.integers(0, 2, len(corpus.classes)), labels=("a", "b"))
    course = gl.time_course(tiny, coins, offsets=[-1, 0], **QUIET)
    # independent words: root mean square correlation 1/sqrt(n)
    chance = 1 / np.sqrt(course.count.sum(1))
    assert (course.strength() < 2 * chance[:, None, None]).all()


def test_too_few_words_at_a_distance(tiny: Model, corpus: Corpus):
    course = gl.time_course(tiny, corpus, offsets=(12, 500), **QUIET)
    few = course.count[0] < 2
    assert few.any()
    assert np.isnan(course.values[0, few]).all()
    assert np.isfinite(course.values[0, ~few]).all()
    assert (course.count[1] == 0).all()
    assert np.isnan(course.values[1]).all()
    keys = select(gl.score(collect(tiny, corpus, position="word", **QUIET)["neuron"]), k=2)
    assert np.isnan(course.summary(keys).key[1]).all()


def test_where_only_one_label_has_words(tiny: Model, corpus: Corpus):
    """The last token but one of a sentence that ends with PUNCT, read one token on."""
    point = corpus.labels.index("PUNCT")
    ends = np.diff(corpus.alignment.sentence, append=-1) != 0
    before = np.roll(ends, -1)
    assert (corpus.classes[ends] == point).all()
    few = replace(corpus, classes=np.where(ends, 1, np.where(before, 0, -1)), labels=("a", "b"))
    course = gl.time_course(tiny, few, offsets=[0, 1], **QUIET)
    assert (course.count[1] == [before.sum(), 0]).all()
    assert np.isnan(course.values[1]).all()
    assert np.isfinite(course.values[0]).all()


def test_offsets_that_make_no_course(tiny: Model, corpus: Corpus):
    for bad in ([], [0, 1, 0]):
        with pytest.raises(
            GrammarLensError, match=r"offsets are \[.*\], expected one or more differ"
        ):
            gl.time_course(tiny, corpus, offsets=bad, **QUIET)
