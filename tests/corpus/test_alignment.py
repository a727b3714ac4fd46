"""Words find their tokens, whatever the text, and batches hold every sentence once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grammar_lens.corpus.alignment import POSITIONS, REASONS, Alignment, align, token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model

Span = tuple[int, int]
Spans = list[Span | None]

TOKENIZERS = ["reference-9m", "tiny"]
QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Random sentences ---------------------------------------------------------------------------

FORMS = st.one_of(
    st.sampled_from(
        [
            *(
                "The",
                "dogs",
                "don",
                "n't",
                "gonna",
                "naïve",
                "Zug",
                "1,234.5",
                "a",
                "I'm",
                "--",
                ").",
            ),
            *(
                "👍🏽",
                "👩‍👩‍👧",
                "🇫🇷",
                "😀😀",
                "你好",
                "東京",
                "ですか",
                "한국",
                "ไทย",
                "مرحبا",
                "नमस्ते",
            ),
            *(
                "e\u0301te\u0301",
                "n\u0303",
                "Z\u0351\u0336algo",
                "\u200b",
                "\ufe0f",
                "…",
                "“",
                "”",
                "¿",
            ),
            *(".", ",", "...", "?!", "(", "&", "$", "@user", "http://x.y/z?a=1", "#1"),
        ]
    ),
    st.text(  # without the sign that the names of control tokens begin with
        st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"], exclude_characters="<"),
        min_size=1,
        max_size=6,
    ),
)
# A surface token: its words' forms if they concatenate to it, or how many words share it.
SURFACE = st.one_of(
    FORMS.map(lambda form: [form]),
    st.lists(FORMS, min_size=2, max_size=3),
    st.tuples(FORMS, st.integers(2, 3)),
)
GAPS = st.sampled_from([" ", " ", "", "", "  ", "\u00a0"])
PARTS = st.lists(st.tuples(SURFACE, GAPS), min_size=0, max_size=8)
Parts = list[tuple[Any, str]]


def sentence(parts: Parts) -> tuple[str, Spans]:
    """The text and the words' spans, None for words that share a surface token."""
    text, spans = "", []
    for surface, gap in parts:
        if isinstance(surface, tuple):
            form, count = surface
            text += form
            spans += [None] * count
        else:
            for form in surface:
                spans.append((len(text), len(text) + len(form)))
                text += form
        text += gap
    return text, spans


def token_characters(text: str, tokenizer: Any) -> list[set[int]]:
    """Characters of every token, white space at its ends left off, one character at a time."""
    characters = []
    for begin, end in tokenizer(text, return_offsets_mapping=True).offset_mapping:
        mine = set(range(begin, end))
        while mine and text[min(mine)].isspace():
            mine.remove(min(mine))
        while mine and text[max(mine)].isspace():
            mine.remove(max(mine))
        characters.append(mine)
    return characters


def by_hand(text: str, spans: Spans, tokenizer: Any) -> list[tuple[int, int, str, str]]:
    """First and last token of every word and its reasons at `word` and `next`, by set arithmetic."""
    tokens = token_characters(text, tokenizer)
    rows = []
    for span in spans:
        own = set(range(*span)) if span else set()
        touching = [t for t, characters in enumerate(tokens) if characters & own]
        if not touching:
            rows.append((-1, -1, REASONS[1], REASONS[1]))
            continue
        first, last = touching[0], touching[-1]
        word = REASONS[2] if max(tokens[last]) > max(own) else REASONS[0]
        begins_before = min(tokens[first]) < min(own)
        nothing_before = REASONS[4] if first == 0 else REASONS[0]
        rows.append((first, last, word, REASONS[2] if begins_before else nothing_before))
    return rows


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(corpus=st.lists(PARTS, min_size=1, max_size=3))
def test_every_word_is_placed_as_by_hand(
    tokenizers: dict[str, Any], name: str, corpus: list[Parts]
):
    tokenizer = tokenizers[name]
    texts, spans = zip(*(sentence(parts) for parts in corpus), strict=True)
    found = align(texts, spans, tokenizer)
    want = [row for t, s in zip(texts, spans, strict=True) for row in by_hand(t, s, tokenizer)]
    got = [
        (int(first), int(last), REASONS[word], REASONS[following])
        for first, last, word, following in zip(
            found.first, found.last, found.reason["word"], found.reason["next"], strict=True
        )
    ]
    assert got == want
    for position in POSITIONS:
        skipped = sum(found.skipped(position).values())
        assert int(found.aligned(position).sum()) + skipped == found.n_words == len(want)


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(parts=PARTS)
def test_tokens_cover_their_word(tokenizers: dict[str, Any], name: str, parts: Parts):
    tokenizer = tokenizers[name]
    text, spans = sentence(parts)
    found = align([text], [spans], tokenizer)
    tokens = token_characters(text, tokenizer)
    for i, span in enumerate(spans):
        if span is None:
            assert found.reason["word"][i] == found.reason["next"][i] == 1
            continue
        first, last = int(found.first[i]), int(found.last[i])
        own = set(range(*span))
        assert own <= set().union(*tokens[first : last + 1]), "both tokenizers keep every byte"
        if found.aligned("word")[i]:
            assert max(tokens[last]) < span[1], "the last token ends within the word"
        if found.aligned("next")[i]:
            assert min(tokens[first]) >= span[0], "the first token begins within the word"
            assert not any(own & t for t in tokens[:first]), "nothing of it has been read before"


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(parts=PARTS, limit=st.integers(1, 12))
def test_what_is_beyond_the_context_is_counted(
    tokenizers: dict[str, Any], name: str, parts: Parts, limit: int
):
    text, spans = sentence(parts)
    whole = align([text], [spans], tokenizers[name])
    cut = align([text], [spans], tokenizers[name], max_length=limit)
    assert len(cut.token_ids[0]) == min(limit, len(whole.token_ids[0]))
    assert cut.has_bos
    for position, edge in (("word", whole.last), ("next", whole.first)):
        beyond = whole.aligned(position) & (edge >= limit)
        want = np.where(beyond, REASONS.index("beyond the context"), whole.reason[position])
        np.testing.assert_array_equal(cut.reason[position], want)
        assert (cut.time(position)[cut.aligned(position)] < limit).all()
    seen = cut.first >= 0
    np.testing.assert_array_equal(cut.first_token[seen], whole.first_token[seen])
    assert (cut.first_token[~seen] == -1).all()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_padding_side_of_the_tokenizer_does_not_matter(
    tokenizers: dict[str, Any], name: str, bank: Treebank
):
    tokenizer = tokenizers[name]
    before = tokenizer.padding_side
    texts, spans = [s.text for s in bank], [[w.span for w in s.words] for s in bank]
    made = []
    try:
        for side in ("left", "right"):
            tokenizer.padding_side = side
            made.append(align(texts, spans, tokenizer))
    finally:
        tokenizer.padding_side = before
    left, right = made
    assert all(np.array_equal(a, b) for a, b in zip(left.token_ids, right.token_ids, strict=True))
    for field in ("sentence", "first", "last"):
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
    for position in POSITIONS:
        np.testing.assert_array_equal(left.reason[position], right.reason[position])


# By example ---------------------------------------------------------------------------------


def test_a_sentence_by_hand(tiny: Model):
    """Single characters are tokens of their own: the tiny tokenizer has seen none of these words."""
    text = "Zq'x (W)."
    spans: Spans = [(0, 2), (2, 4), None, (5, 6), (6, 7), (7, 8), (8, 9)]
    found = align([text], [spans], tiny.tokenizer)
    pieces = tiny.tokenizer.convert_ids_to_tokens(found.token_ids[0].tolist())
    assert pieces == ["<s>", "Z", "q", "'", "x", "Ġ", "(", "W", ")", "."]
    assert found.first.tolist() == [1, 3, -1, 6, 7, 8, 9]
    assert found.last.tolist() == [2, 4, -1, 6, 7, 8, 9]
    assert found.time("next").tolist()[0] == 0
    assert found.skipped("word") == {"no span of its own": 1}
    assert found.scorable().tolist() == [False, True, False, True, True, True, True]
    assert found.readable("next").tolist() == found.scorable().tolist()
    assert found.readable("word").tolist() == found.aligned("word").tolist()


def test_a_token_over_two_words_belongs_to_both(reference: Model):
    text = "He said (no)."
    spans: Spans = [(0, 2), (3, 7), (8, 9), (9, 11), (11, 12), (12, 13)]
    found = align([text], [spans], reference.tokenizer)
    pieces = reference.tokenizer.convert_ids_to_tokens(found.token_ids[0].tolist())
    assert pieces[-1] == ").", "the case that this test is about"
    assert found.first[4] == found.first[5] == found.last[4] == found.last[5]
    # the bracket can be predicted and not read alone, the full stop the other way round
    assert [REASONS[r] for r in found.reason["word"][-2:]] == [REASONS[2], REASONS[0]]
    assert [REASONS[r] for r in found.reason["next"][-2:]] == [REASONS[0], REASONS[2]]


def test_without_bos_the_first_word_has_no_token_before_it(tiny_tokenizer: Any):
    class WithoutBos:
        is_fast = True
        bos_token_id = 0

        def __call__(self, texts: list[str], **options: Any) -> Any:
            return tiny_tokenizer(texts, add_special_tokens=False, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_tokenizer, name)

    found = align(["Zq x", ""], [[(0, 2), (3, 4)], []], WithoutBos())
    assert not found.has_bos
    assert found.skipped("next") == {"no token before it": 1}
    assert found.scorable().tolist() == [False, True]
    assert len(found.token_ids[1]) == 0
    assert [b.rows.tolist() for b in token_batches(found)] == [[0]], "nothing to run"


def test_nothing_to_align(tiny: Model):
    found = align([], [], tiny.tokenizer)
    assert found.n_words == found.n_tokens == 0
    assert token_batches(found) == []
    assert found.first_token.tolist() == []


def test_bad_requests(tiny: Model, bank: Treebank):
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(
        GrammarLensError, match="SimpleNamespace gives no character offsets: load a fa"
    ):
        align(["a"], [[(0, 1)]], slow)
    with pytest.raises(GrammarLensError, match="NoneType gives no character offsets"):
        align(["a"], [[(0, 1)]], None)
    found = align(["a"], [[(0, 1)]], tiny.tokenizer)
    with pytest.raises(GrammarLensError, match=r"'before'.*word, next"):
        found.aligned("before")
    with pytest.raises(GrammarLensError, match="token budget is 0, expected 1 or more"):
        token_batches(found, 0)


# Batches ------------------------------------------------------------------------------------


def of_lengths(lengths: list[int]) -> Alignment:
    """An alignment of sentences with one word each, whose token ids tell the sentence."""
    n = len(lengths)
    return Alignment(
        token_ids=tuple(np.full(length, 7 + i) for i, length in enumerate(lengths)),
        sentence=np.arange(n),
        row=np.arange(n),
        first=np.array(lengths, np.int64) - 1,
        last=np.array(lengths, np.int64) - 1,
        reason={p: np.zeros(n, np.int8) for p in POSITIONS},
        has_bos=False,
    )


@given(
    lengths=st.lists(st.integers(0, 30), max_size=40),
    budget=st.integers(1, 100),
)
def test_batches_hold_every_sentence_once(lengths: list[int], budget: int):
    found = of_lengths(lengths)
    batches = token_batches(found, budget)
    rows = [(int(s), b, row) for b in batches for row, s in enumerate(b.rows)]
    assert sorted(s for s, _, _ in rows) == [i for i, n in enumerate(lengths) if n]
    assert [lengths[s] for s, _, _ in rows] == sorted((n for n in lengths if n), reverse=True)
    assert sum(b.n_tokens for b in batches) == sum(lengths)
    for s, batch, row in rows:
        ids = batch.token_ids[row].numpy()
        np.testing.assert_array_equal(ids[: lengths[s]], found.token_ids[s])
        assert not ids[lengths[s] :].any()
    for batch in batches:
        assert batch.token_ids.numel() <= budget or len(batch.rows) == 1
        assert batch.token_ids.shape[1] == max(lengths[s] for s in batch.rows)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    budget=st.integers(1, 100),
    data=st.data(),
)
def test_batches_of_sentence_beginnings(lengths: list[int], budget: int, data: st.DataObject):
    """Some sentences up to some token are as sentences of that length are; 0 leaves one out."""
    n = len(lengths)
    until = np.array(data.draw(st.lists(st.integers(0, 35), min_size=n, max_size=n)), np.int64)
    chosen = np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True)), np.int64)
    found, short = of_lengths(lengths), of_lengths(np.minimum(lengths, until).tolist())
    got = token_batches(found, budget, until=until, rows=chosen)
    want = token_batches(short, budget, rows=chosen)
    assert len(got) == len(want)
    for mine, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine.token_ids.numpy(), other.token_ids.numpy())
        for name in ("rows", "lengths"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))


@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=9), data=st.data())
def test_halves_and_chosen_sentences(lengths: list[int], data: st.DataObject):
    found = of_lengths(lengths)
    chosen = np.array(
        data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=2, unique=True)), np.int64
    )
    everything = np.ones(len(lengths), bool)
    (batch,) = token_batches(found, 1000, rows=chosen)
    assert sorted(batch.rows.tolist()) == sorted(chosen.tolist())
    halves = batch.halves()
    assert sum(h.n_tokens for h in halves) == batch.n_tokens == sum(lengths[i] for i in chosen)
    for part in (batch, *halves):
        words, where = part.locate(found, "word", everything)
        np.testing.assert_array_equal(words, part.rows)
        # the token read is the word's own, and it is the sentence's last
        width = part.token_ids.shape[1]
        np.testing.assert_array_equal(part.token_ids.flatten().numpy()[where], 7 + words)
        np.testing.assert_array_equal(where, width * np.arange(len(words)) + part.lengths - 1)


def test_only_wanted_words_are_located():
    found = of_lengths([3, 5, 4])
    (batch,) = token_batches(found, 100)
    words, where = batch.locate(found, "next", np.array([True, False, True]))
    assert words.tolist() == [2, 0]
    assert where.tolist() == [5 + 2, 10 + 1]


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    position=st.sampled_from(POSITIONS),
    offset=st.integers(-1, 1),
    data=st.data(),
)
def test_words_are_located_as_row_by_row(
    sizes: list[int], position: str, offset: int, data: st.DataObject
):
    """Reference: a loop over the rows of the batch, in its order. Rows may have no words at all."""
    row, n = np.repeat(np.arange(len(sizes)), sizes), sum(sizes)
    first = np.concatenate([*(2 * np.arange(size) for size in sizes), np.zeros(0, np.int64)])
    found = replace(
        of_lengths([2 * size + 1 for size in sizes]),
        sentence=np.arange(n),
        row=row,
        first=first,
        last=first + 1,
        reason={p: np.zeros(n, np.int8) for p in POSITIONS},
    )
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    for batch in token_batches(found, 30):
        words, where = [], []
        for i, r in enumerate(batch.rows):
            for word in np.flatnonzero((row == r) & wanted):
                words.append(word)
                time = first[word] + 1 if position == "word" else first[word] - 1
                where.append(i * batch.token_ids.shape[1] + time + offset)
        got = batch.locate(found, position, wanted, offset)
        assert (got[0].tolist(), got[1].tolist()) == (words, where)
        assert got[0].dtype == got[1].dtype == np.int64


@pytest.mark.parametrize("position", ["word", "next"])
def test_words_are_read_some_tokens_away(tiny: Model, bank: Treebank, position: str):
    """Reference: the token ids of each sentence, one word at a time."""
    spans = [[w.span for w in s.words] for s in bank]
    found = align([s.text for s in bank], spans, tiny.tokenizer)
    batches = token_batches(found, 100)
    for offset in (-3, -1, 0, 1, 4):
        there = found.readable_at(position, offset)
        for word in range(found.n_words):
            time = int(found.time(position)[word]) + offset
            inside = 1 <= time < len(found.token_ids[found.sentence[word]])
            assert there[word] == (found.readable(position)[word] and inside)
        if offset == 0:
            np.testing.assert_array_equal(there, found.readable(position))
        seen = []
        for batch in batches:
            words, where = batch.locate(found, position, there, offset)
            tokens = batch.token_ids.flatten()[torch.from_numpy(where)].tolist()
            for word, token in zip(words.tolist(), tokens, strict=True):
                time = int(found.time(position)[word]) + offset
                assert token == found.token_ids[found.sentence[word]][time]
            seen += words.tolist()
        assert sorted(seen) == np.flatnonzero(there).tolist()


def test_without_bos_the_first_token_can_be_read(tiny: Model, bank: Treebank):
    found = align([s.text for s in bank], [[w.span for w in s.words] for s in bank], tiny.tokenizer)
    second = found.row_start[:-1] + 1
    back = found.first[second] - found.first[second - 1]
    one = second[back == 1]
    assert len(one) > 3
    bare = replace(found, has_bos=False, token_ids=tuple(ids[1:] for ids in found.token_ids))
    bare = replace(bare, first=found.first - 1, last=found.last - 1, lead=None)
    # two tokens before the second word is BOS, or nothing where there is none
    assert not found.readable_at("next", -1)[one].any()
    assert not bare.readable_at("next", -1)[one].any()
    assert found.readable_at("next", 0)[one].all()
    assert bare.readable_at("next", 0)[one].all()


# Real treebanks -----------------------------------------------------------------------------


def aligned(bank: Treebank, tokenizer: Any) -> Alignment:
    return align([s.text for s in bank], [[w.span for w in s.words] for s in bank], tokenizer)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "percent"), [("llama3", 98.4), ("reference-9m", 98.8), ("stories260K", 99.7)]
)
def test_ewt_dev_as_measured_independently(
    ewt_dev: Treebank, real_tokenizers: Callable[[str], Any], name: str, percent: float
):
    """The numbers come from a measurement by the same rules with other code."""
    assert ewt_dev.n_words == 25_147
    found = aligned(ewt_dev, real_tokenizers(name))
    check_accounted_for(ewt_dev, found)
    for position in POSITIONS:
        assert round(100 * found.aligned(position).mean(), 1) == percent
        assert set(found.skipped(position)) == {"shares a token with a neighbour"}


@pytest.mark.shared
@pytest.mark.parametrize("files", ["some", pytest.param("all", marks=pytest.mark.slow)], ids=str)
def test_all_words_of_all_treebanks_are_accounted_for(
    treebanks: Path, real_tokenizers: Callable[[str], Any], files: str
):
    folders = [p for p in sorted(treebanks.iterdir()) if p.is_dir()]
    assert folders
    for folder in folders:
        paths = sorted(folder.glob("*.conllu"), key=lambda p: p.stat().st_size)
        # everyday the smallest file of each, but for EWT, of which the test above reads one
        few = [] if folder.name == "UD_English-EWT" else paths[:1]
        for path in paths if files == "all" else few:
            bank = load_treebank(path)
            for name in ("llama3", "reference-9m", "stories260K"):
                check_accounted_for(bank, aligned(bank, real_tokenizers(name)))


def check_accounted_for(bank: Treebank, found: Alignment) -> None:
    spanless = sum(w.span is None for s in bank for w in s.words)
    for position in POSITIONS:
        skipped = found.skipped(position)
        assert int(found.aligned(position).sum()) + sum(skipped.values()) == bank.n_words
        assert skipped.get("no span of its own", 0) == spanless
    where = found.aligned("word")
    lengths = np.array([len(ids) for ids in found.token_ids])[found.sentence]
    assert (found.last[where] < lengths[where]).all()
    assert (found.first[where] <= found.last[where]).all()
