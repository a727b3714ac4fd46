"""A shared pass reads every sentence once for all, and gives each the numbers of a pass of its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.model.about import Model
from grammar_lens.neurons.passages import TokenReading
from grammar_lens.neurons.timecourse import course_reading
from grammar_lens.passes.checkpoints import Checkpoints
from grammar_lens.passes.shared import Reading, Request, read_one, read_together
from grammar_lens.probing.probes import WordReading

ADDRESSES = np.array([(0, 3), (1, 0), (1, 7)])
EXACT = 1e-6
"""Of activations of about 1: batches of other widths round otherwise."""


@pytest.fixture
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank["train"])


@pytest.fixture
def fresh(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank["test"], minimum=1)


@pytest.fixture
def passes(tiny: Model) -> Iterator[list[int]]:
    """The number of rows of every batch that the model reads."""
    seen: list[int] = []
    embedding = tiny.original_model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    yield seen
    handle.remove()


def words(corpus: Corpus, position: str = "word") -> WordReading:
    return WordReading(corpus, corpus.read(position), position, ADDRESSES, "neuron")


def reading(*parts: WordReading) -> Reading[list[np.ndarray]]:
    return Reading(
        [part.request for part in parts], lambda: [part.read().features for part in parts]
    )


def test_each_sentence_is_read_once_for_all(
    tiny: Model, corpus: Corpus, fresh: Corpus, passes: list[int]
) -> None:
    readings = [
        reading(words(corpus), words(fresh)),
        reading(words(corpus, "next"), words(fresh, "next")),
        course_reading(tiny, fresh, offsets=(-1, 0, 1)),
    ]
    read_together(tiny, readings, "reading", show_progress=False)
    assert sum(passes) == len(corpus.bank) + len(fresh.bank)
    shared = [r.finish() for r in readings]
    alone = [
        read_one(tiny, reading(words(c, p)), "reading", show_progress=False)[0]
        for c, p in ((corpus, "word"), (fresh, "word"), (corpus, "next"), (fresh, "next"))
    ]
    for one, other in zip([*shared[0], *shared[1]], alone, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=EXACT)
    course = read_one(
        tiny, course_reading(tiny, fresh, offsets=(-1, 0, 1)), "x", show_progress=False
    )
    np.testing.assert_allclose(shared[2].values, course.values, rtol=0, atol=1e-5)


def test_sentences_that_nobody_wants_are_not_read(
    tiny: Model, corpus: Corpus, passes: list[int]
) -> None:
    codes = np.where(corpus.alignment.sentence == 4, corpus.read("word"), -1)
    part = WordReading(corpus, codes, "word", ADDRESSES, "neuron")
    read_one(tiny, Reading([part.request], part.read), "reading", show_progress=False)
    assert passes == [1]
    nothing = WordReading(corpus, np.full(len(codes), -1), "word", ADDRESSES, "neuron")
    read_one(tiny, Reading([nothing.request], nothing.read), "reading", show_progress=False)
    assert passes == [1]


def test_every_token_of_some_rows(tiny: Model, corpus: Corpus) -> None:
    rows = np.array([1, 6])
    tokens, at_words = TokenReading(corpus, rows, ADDRESSES, "neuron"), words(corpus)
    both = [
        Reading([Request(corpus, lambda: [tokens.tap])], tokens.activations),
        reading(at_words),
    ]
    read_together(tiny, both, "reading", show_progress=False)
    found, (want,) = both[0].finish(), both[1].finish()
    assert len(found.values) == sum(len(corpus.alignment.token_ids[row]) for row in rows)
    read = np.flatnonzero(corpus.read("word") >= 0)
    inside = np.isin(corpus.alignment.row[read], rows)
    got = found.at_words(corpus.alignment, "word", read[inside])
    np.testing.assert_array_equal(got, want[inside])


def test_taps_may_depend_on_the_pass_before(tiny: Model, corpus: Corpus, fresh: Corpus) -> None:
    first, order = words(corpus), []

    def later() -> list:
        order.append(float(first.read().features.sum()))
        return []

    read_together(
        tiny,
        [Reading([first.request, Request(fresh, later)], lambda: None)],
        "reading",
        show_progress=False,
    )
    assert order == [float(first.read().features.sum())]
    assert order[0] != 0


def test_a_corpus_that_some_reading_needs_first_is_read_first(
    tiny: Model, corpus: Corpus, fresh: Corpus
) -> None:
    """The first reading names the held-out words alone, the second the training words before them."""
    order: list[str] = []

    def asked(name: str) -> list:
        order.append(name)
        return []

    early = Reading([Request(fresh, lambda: asked("early"))], lambda: None)
    late = Reading(
        [Request(corpus, lambda: asked("train")), Request(fresh, lambda: asked("late"))],
        lambda: None,
    )
    read_together(tiny, [early, late], "reading", show_progress=False)
    assert order == ["train", "early", "late"]


def test_a_stopped_pass_is_resumed(
    tiny: Model, corpus: Corpus, fresh: Corpus, tmp_path: Path, passes: list[int]
) -> None:
    def keeper(number: int) -> Checkpoints:
        return Checkpoints(tmp_path / f"{number}.safetensors", every=1)

    def go() -> list[np.ndarray]:
        both = reading(words(corpus), words(fresh))
        read_together(tiny, [both], "reading", token_budget=60, show_progress=False, keepers=keeper)
        return both.finish()

    want = go()
    once = sum(passes)
    (tmp_path / "1.safetensors").unlink()
    passes.clear()
    got = go()
    assert 0 < sum(passes) == once - len(corpus.bank)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
