"""Words read in their documents: windows of sentences, in which every word keeps its place."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lesion_bench import CLOSE, WAYS, battery, by_hand, draw, go, llama, units
from rounding import model_error

import grammar_lens.lesions.battery as lesion_battery
from grammar_lens.corpus import windows
from grammar_lens.corpus.alignment import Alignment, align, token_batches
from grammar_lens.corpus.bank import Sentence, Treebank, Word
from grammar_lens.corpus.corpus import (
    Corpus,
    fewer,
    fit_lexicon,
    fresh_corpus,
    prepare,
    relabelled,
    sampled,
)
from grammar_lens.corpus.windows import align_windows
from grammar_lens.defaults import POSITIONS
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.donors import record_donors
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.model.about import Model, hook_name
from grammar_lens.model.forward import hooked
from grammar_lens.model.loading import load_model
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.selectivity.attribution.attribute import attribute
from grammar_lens.selectivity.collect_plan import CollectPlan, CollectSpec
from grammar_lens.selectivity.collecting import collect

QUICK = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
QUIET: dict[str, Any] = {"show_progress": False}


def windowed(bank: Treebank, tokenizer: Any, window: int, most: int | None = None) -> Alignment:
    return align_windows(
        [s.text for s in bank],
        [[w.span for w in s.words] for s in bank],
        [s.gap for s in bank],
        bank.documents(),
        tokenizer,
        window=window,
        max_length=most,
    )


def alone(bank: Treebank, tokenizer: Any, most: int | None = None) -> Alignment:
    spans = [[w.span for w in s.words] for s in bank]
    return align([s.text for s in bank], spans, tokenizer, max_length=most)


def in_documents(bank: Treebank, every: int) -> Treebank:
    """The same sentences in documents of so many."""
    sentences = tuple(replace(s, document=str(i // every)) for i, s in enumerate(bank))
    return replace(bank, sentences=sentences)


def assert_same_alignment(one: Alignment, other: Alignment) -> None:
    assert one.has_bos == other.has_bos
    for mine, theirs in zip(one.token_ids, other.token_ids, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name in ("sentence", "row", "first", "last"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for position in POSITIONS:
        np.testing.assert_array_equal(one.reason[position], other.reason[position])


# Windows ------------------------------------------------------------------------------------

FORMS = st.one_of(
    st.sampled_from(
        ["The", "dog", "runs", "n't", ".", '."', "...", "naïve", "東京", "👩‍👩‍👧", "(", "a"]
    ),
    st.text(  # without the sign that the names of control tokens begin with
        st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"], exclude_characters="<"),
        min_size=1,
        max_size=4,
    ),
)
SENTENCE = st.tuples(
    st.lists(st.tuples(FORMS, st.sampled_from([" ", ""])), min_size=1, max_size=7),
    st.sampled_from(["", " ", "\n"]),
    st.booleans(),
)


def made(parts: list[Any]) -> Treebank:
    """Sentences of forms, each with the gap after it and whether it begins a document."""
    sentences, document = [], 0
    for number, (forms, gap, begins) in enumerate(parts):
        text, words = "", []
        for form, space in forms:
            words.append(Word(form, (len(text), len(text) + len(form)), {"upos": "X"}))
            text += form + space
        document += begins
        made = Sentence(str(number), text.rstrip(" "), tuple(words), str(document), "f:1", gap)
        sentences.append(made)
    return Treebank("made", tuple(sentences))


def texts_by_row(bank: Treebank, found: Alignment) -> list[tuple[str, list[int]]]:
    """The text that every row was made from, put together by hand, and its sentences."""
    rows: list[tuple[str, list[int]]] = []
    row_of = dict(zip(found.sentence.tolist(), found.row.tolist(), strict=True))
    for row in range(len(found.token_ids)):
        mine = [i for i in range(len(bank)) if row_of[i] == row]
        gaps = [bank.sentences[i].gap for i in mine[:-1]] + [""]
        rows.append(
            ("".join(bank.sentences[i].text + g for i, g in zip(mine, gaps, strict=True)), mine)
        )
    return rows


@pytest.mark.parametrize("name", ["reference-9m", "tiny"])
@QUICK
@given(parts=st.lists(SENTENCE, min_size=1, max_size=8), window=st.integers(4, 40))
def test_windows_hold_every_sentence_once_and_never_two_documents(
    tokenizers: dict[str, Any], name: str, parts: list[Any], window: int
):
    bank, tokenizer = made(parts), tokenizers[name]
    found = windowed(bank, tokenizer, window)
    own = [len(w) for w in (s.words for s in bank)]
    np.testing.assert_array_equal(found.sentence, np.repeat(np.arange(len(bank)), own))
    seen: list[int] = []
    for ids, (text, mine) in zip(found.token_ids, texts_by_row(bank, found), strict=True):
        assert ids.tolist() == tokenizer(text)["input_ids"], "tokenised once, as a whole"
        assert len(ids) <= window or len(mine) == 1
        assert len({bank.documents()[i] for i in mine}) == 1
        seen += mine
    assert seen == list(range(len(bank)))
    assert found.has_bos


@pytest.mark.parametrize("name", ["reference-9m", "tiny"])
@QUICK
@given(parts=st.lists(SENTENCE, min_size=1, max_size=8), window=st.integers(4, 40))
def test_a_window_is_aligned_as_one_long_sentence(
    tokenizers: dict[str, Any], name: str, parts: list[Any], window: int
):
    """`align` on the window's text, which has its own tests against set arithmetic."""
    bank, tokenizer = made(parts), tokenizers[name]
    found = windowed(bank, tokenizer, window)
    texts, spans = [], []
    for text, mine in texts_by_row(bank, found):
        shift, here = 0, []
        for i in mine:
            sentence = bank.sentences[i]
            assert text[shift:].startswith(sentence.text)
            here += [(w.span[0] + shift, w.span[1] + shift) for w in sentence.words if w.span]
            shift += len(sentence.text) + len(sentence.gap)
        texts.append(text)
        spans.append(here)
    want = align(texts, spans, tokenizer)
    assert_same_alignment(replace(found, sentence=want.sentence), want)


def test_windows_of_one_sentence_are_sentences(bank: Treebank, tokenizers: dict[str, Any]):
    for tokenizer in tokenizers.values():
        assert_same_alignment(windowed(bank, tokenizer, 1, 16), alone(bank, tokenizer, 16))
        each = in_documents(bank, 1)
        assert_same_alignment(windowed(each, tokenizer, 500), alone(bank, tokenizer))
        np.testing.assert_array_equal(alone(bank, tokenizer).row, alone(bank, tokenizer).sentence)


def test_nothing_to_window(tiny: Model):
    found = align_windows([], [], [], np.zeros(0, np.int64), tiny.tokenizer, window=16)
    assert found.n_words == found.n_tokens == 0
    assert token_batches(found) == []


def test_a_window_that_came_out_too_long_is_halved(
    bank: Treebank, tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """As if the estimate had taken no sentence for longer than nothing."""
    tokenizer = tokenizers["tiny"]
    monkeypatch.setattr(windows, "_packed", lambda texts, *_: [range(len(texts))])
    found = windowed(bank, tokenizer, 60)
    lengths = [len(ids) for ids in found.token_ids]
    assert max(lengths) <= 60
    assert len(lengths) > 3
    assert found.n_words == bank.n_words
    assert (np.diff(found.row) >= 0).all()
    assert (found.first >= 0).all()


def test_a_sentence_longer_than_the_window_stands_alone(
    tiny: Model, write: Callable[..., Treebank]
):
    long = "|".join(["dog NOUN"] * 60)
    bank = write(f"The DET|dog NOUN\n{long}\nA DET|dog NOUN\nThe DET|dog NOUN")
    found = windowed(bank, tiny.tokenizer, 20)
    assert np.unique(found.row[found.sentence == 1]).tolist() == [1]
    assert len(found.token_ids) == 3
    assert len(found.token_ids[1]) > 60
    assert found.skipped("word") == {}
    cut = windowed(bank, tiny.tokenizer, 20, 30)
    reference = alone(bank, tiny.tokenizer, 30)
    assert cut.skipped("word") == reference.skipped("word")
    assert set(cut.skipped("word")) == {"beyond the context"}
    # a window is no longer than the model's context, so that nothing is lost to one
    packed = windowed(bank, tiny.tokenizer, 1000, 30)
    assert packed.skipped("word") == reference.skipped("word")
    assert max(len(ids) for ids in packed.token_ids) == 30


# Real words ---------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("name", ["llama3", "reference-9m", "stories260K"])
def test_every_word_of_ewt_dev_is_its_tokens(
    ewt_dev: Treebank, real_tokenizers: Callable[[str], Any], name: str
):
    bank, tokenizer = ewt_dev, real_tokenizers(name)
    found, single = windowed(bank, tokenizer, 512), alone(bank, tokenizer)
    assert found.n_words == single.n_words == bank.n_words
    assert max(map(len, found.token_ids)) <= 512
    documents = bank.documents()
    assert len(set(documents.tolist())) == 318
    of_row = {}
    for row, sentence in zip(found.row.tolist(), found.sentence.tolist(), strict=True):
        assert of_row.setdefault(row, documents[sentence]) == documents[sentence]
    text = [s.text[slice(*w.span)] for s in bank for w in s.words if w.span is not None]
    both = found.aligned("word") & found.aligned("next")

    @cache
    def decoded(*ids: int) -> str:
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    for word, (row, first, last) in enumerate(
        zip(found.row.tolist(), found.first.tolist(), found.last.tolist(), strict=True)
    ):
        form = decoded(*found.token_ids[row][first : last + 1].tolist())
        if both[word]:
            assert form.strip() == text[word]
        else:
            assert text[word] in form
    # what shares a token is another only where the text around it is: at a sentence's ends
    edge = np.zeros(bank.n_words, bool)
    start = np.flatnonzero(np.diff(single.sentence, prepend=-1))
    edge[start[:, None] + np.array([0, 1])] = True
    edge[np.append(start[1:], bank.n_words)[:, None] - np.array([1, 2, 3])] = True
    for position in POSITIONS:
        assert (found.aligned(position) == single.aligned(position))[~edge].all()
    gained = found.scorable() & ~single.scorable()
    assert gained.sum() > 0.9 * (len(bank) - len(found.token_ids))


# Corpora ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def documents(bank: Treebank) -> Treebank:
    """The eighteen sentences in documents of five, the last of three."""
    return in_documents(bank, 5)


@pytest.fixture(scope="session")
def corpus(tiny: Model, documents: Treebank) -> Corpus:
    return prepare(tiny, documents, minimum=1, context="document", window=60)


def test_sentence_context_is_the_default_and_ignores_documents(tiny: Model, documents: Treebank):
    made = prepare(tiny, documents, minimum=1)
    assert (made.context, made.window) == ("sentence", 512)
    assert_same_alignment(made.alignment, alone(documents, tiny.tokenizer, 128))


def test_only_the_first_word_of_a_window_is_not_read_at_next(corpus: Corpus, documents: Treebank):
    found = corpus.alignment
    assert 4 < len(found.token_ids) < len(documents)
    firsts = np.flatnonzero(np.diff(found.row, prepend=-1))
    assert (corpus.read("next")[firsts] == -1).all()
    assert corpus.skipped("next")["first of its window"] == len(firsts) == len(found.token_ids)
    inside = np.setdiff1d(np.flatnonzero(np.diff(found.sentence, prepend=-1)), firsts)
    assert (corpus.read("next")[inside] >= 0).all()
    # what stands before it is the last token of the sentence before, or a blank after it
    gap = found.time("next")[inside] - found.last[inside - 1]
    assert ((gap == 0) | (gap == 1)).all()
    read = int((corpus.read("next") >= 0).sum())
    assert read + sum(corpus.skipped("next").values()) == documents.n_words


def test_places_are_counted_within_the_sentence(tiny: Model, corpus: Corpus, documents: Treebank):
    single = prepare(tiny, documents, minimum=1)
    for position in POSITIONS:
        both = corpus.alignment.aligned(position) & single.alignment.aligned(position)
        # a sentence's first token has a blank before it inside a window, which may split it otherwise
        gap = np.abs(corpus.alignment.place(position) - single.alignment.time(position))[both]
        assert np.median(gap) == 0
        assert gap.max() <= 3
        np.testing.assert_array_equal(
            single.alignment.place(position), single.alignment.time(position)
        )
    read = corpus.alignment.readable("next")
    place = corpus.covariates("next")[1]
    np.testing.assert_array_equal(place[read], corpus.alignment.place("next")[read])
    assert place.max() < 30 < corpus.alignment.time("next").max()


def test_activations_are_those_of_the_window(tiny: Model, corpus: Corpus):
    """Against one plain forward pass per window; and of a window of one sentence, as read alone."""
    found = corpus.alignment
    addresses = np.stack([np.repeat([0, 1], 48), np.tile(np.arange(48), 2)], 1)
    for position in POSITIONS:
        wanted = found.readable(position)
        reader = FeatureReader(found.n_words, addresses)
        tap = Tap("neuron", position, wanted, np.arange(found.n_words), reader)
        stream(tiny, found, token_batches(found, 200), [tap])
        for row in range(len(found.token_ids)):
            kept: dict[int, np.ndarray] = {}

            def hook(layer: int, kept: dict[int, np.ndarray] = kept) -> Callable[..., None]:
                def keep(x: Any, **_: object) -> None:
                    kept[layer] = x[0].detach().numpy().copy()

                return keep

            with hooked(tiny, [(hook_name(tiny, "neuron", i), hook(i)) for i in (0, 1)]):
                tiny(windows_ids(found, row))
            mine = np.flatnonzero((found.row == row) & wanted)
            want = np.concatenate([kept[0], kept[1]], 1)[found.time(position)[mine]]
            within = model_error(tiny, want)
            np.testing.assert_allclose(reader.values[mine], want, atol=within, rtol=0)


def windows_ids(found: Alignment, row: int) -> Any:
    import torch

    return torch.from_numpy(found.token_ids[row])[None]


def test_windows_of_one_sentence_give_the_same_moments(tiny: Model, bank: Treebank):
    each = prepare(tiny, in_documents(bank, 1), context="document", labels=("NOUN", "VERB"))
    single = prepare(tiny, bank, labels=("NOUN", "VERB"))
    for position in POSITIONS:
        options: dict[str, Any] = {"position": position, "controls": True, **QUIET}
        got, want = collect(tiny, each, **options), collect(tiny, single, **options)
        np.testing.assert_array_equal(got["neuron"].mean, want["neuron"].mean)
        np.testing.assert_array_equal(got["neuron"].m2, want["neuron"].m2)
    got, want = (attribute(tiny, c, lexicon=fit_lexicon(tiny, c), **QUIET) for c in (each, single))
    np.testing.assert_array_equal(got.mean, want.mean)


def test_halves_and_the_exchange_go_by_sentences(corpus: Corpus, documents: Treebank):
    plan = CollectPlan(
        corpus, "word", CollectSpec(("neuron",), ("word",), 20, 0, False, 0, min_words=0)
    )
    found, half = corpus.alignment, plan.part % 2
    for sentence in range(len(documents)):
        assert len(set(half[found.sentence == sentence].tolist())) == 1
    assert any(
        len(set(half[found.row == row].tolist())) == 2 for row in range(len(found.token_ids))
    ), "a window may be in both halves"
    # a partner is a sentence with as many words read
    n_read = np.bincount(found.sentence[plan.codes >= 0], minlength=len(documents))
    partnered = np.array([(n_read == n).sum() > 1 for n in n_read])
    exchange = plan.permutation
    assert exchange is not None
    taking_part = partnered[found.sentence] & (plan.codes >= 0)
    np.testing.assert_array_equal(exchange.taking_part, taking_part)


def test_words_drawn_for_a_probe_stand_in_few_windows(corpus: Corpus):
    codes = corpus.read("word")
    drawn = sampled(corpus, codes, 60, np.random.default_rng(0))
    n = int((drawn >= 0).sum())
    assert 40 < n <= 60
    sentences = np.unique(corpus.alignment.sentence[drawn >= 0])
    assert ((codes >= 0) <= (drawn >= 0))[np.isin(corpus.alignment.sentence, sentences)].all()
    assert len(np.unique(corpus.alignment.row[drawn >= 0])) <= 3 < len(sentences)


def test_a_limit_below_the_first_sentence_is_named(tiny: Model, documents: Treebank):
    corpus = prepare(tiny, documents["train"], minimum=1)
    codes, rng = corpus.read("word"), np.random.default_rng(0)
    with pytest.raises(GrammarLensError, match=r"^limit is 1, .* has \d+ words.*raise limit$"):
        sampled(corpus, codes, 1, rng, setting="limit")
    none = np.full_like(codes, -1)
    assert sampled(corpus, none, 0, rng) is none


def test_fresh_words_are_read_as_the_training_words_are(tiny: Model, documents: Treebank):
    train = prepare(tiny, documents["train"], minimum=1, context="document", window=40)
    fresh, dropped = fresh_corpus(tiny, documents["test"], train)
    assert (fresh.context, fresh.window, dropped) == ("document", 40, 0)
    assert len(fresh.alignment.token_ids) < len(fresh.bank)
    assert relabelled(train, "upos").context == "document"
    assert prepare(tiny, train) is train
    assert prepare(tiny, train, context="document", window=40) is train
    some = fewer(tiny, train, 7)
    assert (some.context, some.window, len(some.bank)) == ("document", 40, 7)
    # five of one document, and the first two of another
    runs = np.unique(some.bank.documents(), return_counts=True)[1]
    assert sorted(runs.tolist()) in ([2, 5], [3, 4])


def test_contexts_that_cannot_be(tiny: Model, documents: Treebank):
    with pytest.raises(GrammarLensError, match=r"'book'.*sentence, document"):
        prepare(tiny, documents, minimum=1, context="book")
    with pytest.raises(GrammarLensError, match="window is 15, expected 16 tokens or more"):
        prepare(tiny, documents, minimum=1, context="document", window=15)
    single = prepare(tiny, documents, minimum=1)
    with pytest.raises(GrammarLensError, match=r"'sentence'.*windows of 512"):
        prepare(tiny, single, context="document")


# Lesions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_battery_in_windows_equals_lesions_one_by_one(
    way: str,
    tiny_tokenizer: Any,
    shaken: Callable[..., None],
    documents: Treebank,
    monkeypatch: pytest.MonkeyPatch,
):
    go(way, monkeypatch)
    deep = load_model(llama(len(tiny_tokenizer), shaken), tokenizer=tiny_tokenizer)
    few = Treebank("seven", documents.sentences[:7])
    corpus = prepare(deep, few, minimum=1, context="document", window=70)
    assert len(corpus.alignment.token_ids) < 6
    codes, rng = corpus.read("next"), np.random.default_rng(5)
    sets = [draw(rng, 6, [0, 1]), draw(rng, 4, [2]), units()]
    donors = record_donors(
        deep, corpus.alignment, codes, sets, position="next", seed=5, n_words=20, per_label=2
    )
    ablations = [Ablation("mean", 1.0), Ablation("zero", 0.5), Ablation("resample", 1.0)]
    if way == "fast":
        ablations += [replace(m, where="scored") for m in ablations[::2]]
    chosen = [Condition("NOUN", i, s, m) for i, s in enumerate(sets) for m in ablations]
    for budget in (4096, 150):
        got = battery(deep, corpus, chosen, donors=donors, token_budget=budget)
        np.testing.assert_array_equal(got.sentence, corpus.alignment.sentence[codes >= 0])
        for row, condition in enumerate(chosen, 1):
            resamples = condition.ablation.value == "resample"
            places = lesion_battery._assigned(corpus.alignment, codes, donors, "resample", 0)
            want = by_hand(deep, corpus, condition, donors, places if resamples else None)
            np.testing.assert_allclose(got.nll[row], want, atol=CLOSE, rtol=0)
        assert (np.abs(got.nll[1] - got.nll[0]) > 1e-3).any(), "lesions matter"
