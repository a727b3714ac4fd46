"""Examples of neurons: the arithmetic on planted numbers, and words read from real models."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import grammar_lens as gl
from grammar_lens.corpus.alignment import align
from grammar_lens.corpus.bank import Sentence, Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.model.weights import output_contrast
from grammar_lens.neurons.examples import (
    QUANTILES,
    Example,
    Examples,
    quantiles_by_label,
    strongest,
    token_ends,
    token_texts,
    tokens_within,
)
from grammar_lens.neurons.find_examples import examples_reading, token_text
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.passes.shared import read_one

QUIET: dict[str, Any] = {"show_progress": False}

HARD_TEXTS = (
    "The old dog sleeps.",
    "  two  blanks,\ttabs\nand lines \n",
    "👩‍👩‍👧‍👦 and 🇩🇪 went to the caf\u00e9 🙂🙂",
    "שלום עולם, مرحبا بالعالم!",
    "中文没有空格。",
    "<script>alert('&amp;')</script> \"quoted\"",
    "\u202eturned\u202c \u0301 \ufffd",
    "x" * 500,
    " ",
    "",
)


# The arithmetic --------------------------------------------------------------------------------


def test_quantiles_are_those_of_each_labels_words():
    values = np.stack([np.arange(101.0), np.arange(101.0) ** 2], 1)
    classes = np.zeros(101, int)
    classes[50] = 2
    found = quantiles_by_label(values, classes, 3)
    assert found.shape == (2, 3, 7)
    assert np.isnan(found[:, 1]).all(), "no word has it"
    np.testing.assert_array_equal(found[:, 2], [[50.0] * 7, [2500.0] * 7])
    for neuron in (0, 1):
        want = np.quantile(values[classes == 0, neuron], QUANTILES)
        np.testing.assert_allclose(found[neuron, 0], want, rtol=1e-12)


class TestStrongest:
    def choose(
        self,
        values: Sequence[float],
        forms: str,
        most: int,
        *,
        before: str | None = None,
        sentences: Sequence[int] | None = None,
    ) -> list[int]:
        n = len(values)
        return strongest(
            np.array(values, float),
            forms,
            before or [str(i) for i in range(n)],
            list(range(n)) if sentences is None else sentences,
            most,
        )

    def test_the_largest_first(self) -> None:
        assert self.choose([1, 5, 3, 4], "abcd", 3) == [1, 3, 2]

    def test_ties_stand_in_the_order_of_the_words(self) -> None:
        assert self.choose([2, 1, 2, 2], "abcd", 3) == [0, 2, 3]

    def test_a_form_stands_once(self) -> None:
        assert self.choose([9, 8, 7, 6], "aaba", 3) == [0, 2]

    def test_sentences_differ_where_there_are_enough(self) -> None:
        assert self.choose([9, 8, 7, 6], "abcd", 2, sentences=[0, 0, 0, 1]) == [0, 3]
        assert self.choose([9, 8, 7, 6], "abcd", 3, sentences=[0, 0, 0, 1]) == [0, 1, 3]

    def test_what_stands_before_differs_where_it_can(self) -> None:
        assert self.choose([9, 9, 8, 7], "abcd", 2, before="xxyz") == [0, 2]
        assert self.choose([9, 9, 8, 7], "abcd", 4, before="xxyz") == [0, 1, 2, 3]

    def test_fewer_words_than_asked_for(self) -> None:
        assert self.choose([1.0], "a", 5) == [0]
        assert self.choose([], "", 5) == []


class TestTokenTexts:
    def texts(
        self, text: str, offsets: Sequence[tuple[int, int]], begin: int = 0, end: int | None = None
    ) -> list[str]:
        ends = token_ends(text, np.array(offsets, int).reshape(-1, 2))
        end = len(text) if end is None else end
        return list(token_texts(text, ends, tokens_within(ends, begin, end), begin, end))

    def test_blanks_belong_to_the_token_after_them(self) -> None:
        assert self.texts("a  b ", [(0, 0), (0, 1), (3, 4)]) == ["a", "  b "]
        assert self.texts(" a b", [(0, 0), (0, 2), (2, 4)]) == [" a", " b"]

    def test_a_shared_character_belongs_to_the_first(self) -> None:
        offsets = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
        assert self.texts("a🙂b", offsets) == ["a", "🙂", "", "", "b"]
        assert self.texts("a🙂", offsets[:4]) == ["a", "🙂", "", ""], "also at the end"

    def test_a_sentence_among_others(self) -> None:
        """A token that runs into the next sentence, and bytes that are not its own."""
        text, offsets = "🙂 Hi. Oh🙂 So", [(0, 1), (0, 1), (1, 4), (4, 7), (7, 8), (8, 9), (8, 9)]
        offsets += [(9, 12)]
        assert self.texts(text, offsets, 2, 5) == ["Hi", "."]
        assert self.texts(text, offsets, 6, 9) == ["O", "h", "🙂", ""]
        assert self.texts(text, offsets, 0, 1) == ["🙂", ""]


def parts_of(tokenizer: Any, texts: Sequence[str]) -> list[list[str]]:
    coded = tokenizer(list(texts), return_offsets_mapping=True)
    found = []
    for text, offsets in zip(texts, coded["offset_mapping"], strict=True):
        ends = token_ends(text, np.array(offsets, int).reshape(-1, 2))
        found.append(list(token_texts(text, ends, range(len(ends)), 0, len(text))))
    return found


class TestRealTokenizers:
    @pytest.fixture(params=["reference", "llama3", "tiny"])
    def tokenizer(self, request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
        if request.param == "reference":
            return request.getfixturevalue("reference").tokenizer
        if request.param == "tiny":
            return request.getfixturevalue("tiny_tokenizer")
        return AutoTokenizer.from_pretrained(
            request.getfixturevalue("shared_data") / "tokenizers" / "llama3"
        )

    def test_tokens_join_to_the_text(self, tokenizer: PreTrainedTokenizerFast) -> None:
        for text, parts in zip(HARD_TEXTS, parts_of(tokenizer, HARD_TEXTS), strict=True):
            assert "".join(parts) == text

    def test_tokens_are_what_the_tokenizer_says(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Tokens made of whole characters have the text that decoding gives."""
        text = "She reads two old books."
        ids = tokenizer(text)["input_ids"]
        decoded = tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True)
        assert parts_of(tokenizer, [text])[0] == decoded

    def test_words_are_found_in_them(self, tokenizer: PreTrainedTokenizerFast) -> None:
        text = "Ein 🙂 lacht über שלום hier"
        words = [(i, i + len(w)) for w in text.split() for i in [text.index(w)]]
        placed = align([text], [words], tokenizer)
        (parts,) = parts_of(tokenizer, [text])
        for word, first, last in zip(text.split(), placed.first, placed.last, strict=True):
            assert "".join(parts[first : last + 1]).strip() == word


# Words of a model ------------------------------------------------------------------------------

THE = " the"


@pytest.fixture(scope="module")
def planted(
    tiny_hf: Callable[[], Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> tuple[Model, int]:
    """A tiny model whose neuron 0.7 fires at the token " the" more than at any other, and that token.

    Neuron 1.9 writes what the head reads as that token.
    """
    hf = tiny_hf()
    (token,) = tiny_tokenizer(THE, add_special_tokens=False)["input_ids"]
    layer = hf.model.layers[0]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()  # so that the MLP sees the token alone
        seen = layer.post_attention_layernorm(hf.model.embed_tokens.weight[token])
        for proj in (layer.mlp.gate_proj, layer.mlp.up_proj):
            proj.weight[7] = seen
        head = hf.get_output_embeddings().weight[token] - hf.get_output_embeddings().weight.mean(0)
        hf.model.layers[1].mlp.down_proj.weight[:, 9] = head / hf.model.norm.weight
    return load_model(hf, tokenizer=tiny_tokenizer), token


def check_consistent(found: Examples, corpus: Corpus, position: str) -> None:
    """Properties of all examples whatever the model."""
    places = {s.source: s for s in corpus.bank}
    for neuron in found.by_neuron.values():
        for end, sign in ((neuron.top, -1), (neuron.bottom, 1)):
            values = [sign * e.value for e in end]
            assert values == sorted(values)
            forms = [e.word.lower() for e in end]
            assert len(set(forms)) == len(forms)
            for e in end:
                sentence = places[e.passage.source]
                assert "".join(e.passage.tokens) == sentence.text
                assert e.values.shape == (len(e.passage.tokens),)
                assert np.isfinite(e.values).all()
                # a token may begin in the word before: isn + 't
                assert e.word in "".join(e.passage.tokens[slice(*e.span)])
                assert any(w.form == e.word and w.label("upos") == e.label for w in sentence.words)
                assert e.token == e.span[position == "word"] - 1
                if e.token >= 0:
                    assert e.values[e.token] == e.value
        low, high = np.nanmin(neuron.quantiles), np.nanmax(neuron.quantiles)
        assert (neuron.bottom[0].value, neuron.top[0].value) == (low, high)


class TestPlanted:
    def test_the_word_at_which_it_fires(self, planted: tuple[Model, int], bank: Treebank) -> None:
        model, _ = planted
        corpus = prepare(model, bank)
        found = gl.examples_of(model, corpus, [(0, 7)], **QUIET)
        assert list(found) == [(0, 7)]
        neuron = found[0, 7]
        the = neuron.top[0]
        assert (the.word, the.label) == ("the", "DET")
        assert "".join(the.passage.tokens) == bank.sentences[0].text, "the first of equals"
        at = [text == THE for text in the.passage.tokens]
        assert np.flatnonzero(at).tolist() == [the.token]
        assert the.values[at] == the.value > 2 * np.abs(the.values[~np.array(at)]).max()
        det = neuron.labels.index("DET")
        assert neuron.quantiles[det, -1] == the.value
        assert neuron.quantiles[det, 3] < the.value, "not every determiner is one"
        check_consistent(found, corpus, "word")

    def test_its_twin_that_never_fires(
        self, planted: tuple[Model, int], bank: Treebank, tiny_hf: Any, tiny_tokenizer: Any
    ) -> None:
        """Words then stand in their order, each form once, each sentence once."""
        hf = tiny_hf()
        with torch.no_grad():
            hf.model.layers[0].mlp.up_proj.weight[7] = 0
        found = gl.examples_of(
            load_model(hf, tokenizer=tiny_tokenizer), bank, [(0, 7)], each=3, **QUIET
        )[0, 7]
        assert [e.word for e in found.top] == ["The", "She", "My"]
        assert [e.word for e in found.bottom] == ["The", "She", "My"]
        assert (found.quantiles == 0).all()

    def test_the_token_it_writes(self, planted: tuple[Model, int], bank: Treebank) -> None:
        model, _ = planted
        neuron = gl.examples_of(model, bank, [(1, 9)], **QUIET)[1, 9]
        assert neuron.promoted[0].token == THE
        assert neuron.promoted[0].logit > 1.5 * neuron.promoted[1].logit
        assert THE not in {e.token for e in neuron.suppressed}
        assert len(neuron.promoted) == len(neuron.suppressed) == 10
        assert [e.logit for e in neuron.promoted] == sorted(
            (e.logit for e in neuron.promoted), reverse=True
        )
        assert [e.logit for e in neuron.suppressed] == sorted(e.logit for e in neuron.suppressed)
        assert neuron.labels[np.nanargmax(neuron.contrast)] == "DET"


@pytest.fixture(scope="module")
def corpus(reference: Model, bank: Treebank) -> Corpus:
    return prepare(reference, bank)


@pytest.fixture(scope="module")
def lexicon(reference: Model, corpus: Corpus) -> Lexicon:
    return fit_lexicon(reference, corpus)


@pytest.mark.parametrize("position", ["word", "next"])
def test_against_the_models_own_cache(
    reference: Model, corpus: Corpus, lexicon: Lexicon, position: str
):
    """Every number from a pass of TransformerLens over each sentence alone."""
    some = np.array([(2, 31), (7, 5), (0, 800)])
    found = gl.examples_of(
        reference, corpus, some, position=position, lexicon=lexicon, each=4, **QUIET
    )
    alignment, codes = corpus.alignment, corpus.read(position)
    values = np.full((alignment.n_words, len(some)), np.nan)
    tokens = {}
    for row, sentence in enumerate(corpus.bank):
        _, cache = reference.run_with_cache(torch.from_numpy(alignment.token_ids[row])[None])
        here = np.stack([cache["post", la][0, :, i].numpy() for la, i in some.tolist()], 1)
        words = np.flatnonzero((alignment.row == row) & (codes >= 0))
        values[words] = here[alignment.time(position)[words]]
        tokens[sentence.source] = here[1:]
    check_consistent(found, corpus, position)
    contrast = output_contrast(reference, lexicon.count)
    for column, at in enumerate(map(tuple, some.tolist())):
        neuron = found[at]
        assert (neuron.layer, neuron.index) == at
        assert (neuron.labels, neuron.origin) == (corpus.labels, found.origin)
        np.testing.assert_array_equal(neuron.count, np.bincount(codes[codes >= 0]))
        assert neuron.top[0].value == pytest.approx(np.nanmax(values[:, column]), rel=1e-4)
        assert neuron.bottom[0].value == pytest.approx(np.nanmin(values[:, column]), rel=1e-4)
        noun = values[codes == corpus.labels.index("NOUN"), column]
        np.testing.assert_allclose(
            neuron.quantiles[corpus.labels.index("NOUN")],
            np.quantile(noun, QUANTILES),
            rtol=1e-3,
            atol=1e-5,
        )
        for e in (*neuron.top, *neuron.bottom):
            want = tokens[e.passage.source][:, column]
            np.testing.assert_allclose(e.values, want, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(neuron.contrast, contrast[:, at[0], at[1]], rtol=1e-4, atol=1e-6)


def test_sentences_and_forms_differ(reference: Model, corpus: Corpus):
    found = gl.examples_of(reference, corpus, [(3, 3), (4, 4)], each=5, **QUIET)
    for neuron in found.by_neuron.values():
        for end in (neuron.top, neuron.bottom):
            assert len(end) == len({e.passage.source for e in end}) == 5


def test_two_positions_at_once_are_as_each_alone(
    reference: Model, corpus: Corpus, lexicon: Lexicon
):
    wanted = {"word": [(1, 1), (2, 2)], "next": [(2, 2), (5, 600)]}
    settings: dict[str, Any] = {"lexicon": lexicon, "max_words": 60, "seed": 3}
    reading = examples_reading(reference, corpus, wanted, **settings)
    both = read_one(reference, reading, "examples", **QUIET)
    for position, some in wanted.items():
        alone = gl.examples_of(reference, corpus, some, position=position, **settings, **QUIET)
        assert both[position].origin == alone.origin
        assert alone.origin.position == position
        for at in some:
            one, other = both[position][at], alone[at]
            assert [e.word for e in one.top] == [e.word for e in other.top]
            np.testing.assert_array_equal(one.count, other.count)
            np.testing.assert_allclose(one.quantiles, other.quantiles, rtol=1e-4, atol=1e-5)


def test_a_part_of_the_words(reference: Model, corpus: Corpus):
    some = gl.examples_of(reference, corpus, [(0, 0)], max_words=25, seed=1, **QUIET)[0, 0]
    again = gl.examples_of(reference, corpus, [(0, 0)], max_words=25, seed=1, **QUIET)[0, 0]
    other = gl.examples_of(reference, corpus, [(0, 0)], max_words=25, seed=2, **QUIET)[0, 0]
    assert 10 < some.count.sum() <= 25
    np.testing.assert_array_equal(some.quantiles, again.quantiles)
    assert [e.word for e in some.top] != [e.word for e in other.top]
    missing = some.count == 0
    assert missing.any()
    np.testing.assert_array_equal(np.isnan(some.quantiles).all(1), missing)
    assert np.isfinite(some.contrast).all(), "what begins a word is counted on all words"


def in_documents(bank: Treebank, gap: str = " ") -> Treebank:
    return replace(
        bank, sentences=tuple(replace(s, document="d", gap=gap) for s in bank.sentences), splits={}
    )


@pytest.mark.parametrize("gap", [" ", "\n\n", ""])
@pytest.mark.parametrize("position", ["word", "next"])
def test_sentences_in_their_documents(reference: Model, bank: Treebank, gap: str, position: str):
    """The sentence alone is shown, though its document was read before it."""
    corpus = prepare(reference, in_documents(bank, gap), context="document", window=64)
    assert len(corpus.alignment.token_ids) < len(bank)
    found = gl.examples_of(reference, corpus, [(5, 50), (6, 60)], position=position, **QUIET)
    check_consistent(found, corpus, position)
    row = corpus.alignment.row
    _, cache = reference.run_with_cache(torch.from_numpy(corpus.alignment.token_ids[0])[None])
    whole = cache["post", 5][0, 1:, 50].numpy()
    sentences = {s.source: i for i, s in enumerate(corpus.bank)}
    inside = [
        e
        for e in (*found[5, 50].top, *found[5, 50].bottom)
        if row[corpus.alignment.sentence == sentences[e.passage.source]][0] == 0
    ]
    for e in inside:
        n = len(e.values)
        nearest = min(np.abs(whole[i : i + n] - e.values).max() for i in range(len(whole) - n + 1))
        assert nearest < 1e-3, "a stretch of the window's activations"


def test_before_a_sentence_in_its_document(reference: Model, bank: Treebank):
    """At `next` a sentence's first word is read at the last token of the sentence before."""
    corpus = prepare(reference, in_documents(bank), context="document", window=64)
    found = gl.examples_of(
        reference, corpus, [(5, 50)], position="next", each=len(bank) * 9, **QUIET
    )[5, 50]
    first = [e for e in found.top if e.token == -1]
    assert first
    assert all(e.span[0] == 0 for e in first)


def test_a_sentence_beyond_the_context(reference: Model, write: Callable[..., Treebank]):
    """Of a sentence that is too long, what the model reads of it is shown."""
    words = "|".join(["a DET", *(f"word{i} NOUN" for i in range(900))])
    bank = write(f"{words}\nThe DET|dog NOUN|sleeps VERB")
    corpus = prepare(reference, bank, minimum=1)
    found = gl.examples_of(reference, corpus, [(0, 0)], each=500, **QUIET)[0, 0]
    long = [e for e in found.top if len(e.passage.tokens) > 5]
    limit = len(corpus.alignment.token_ids[0])
    assert {len(e.passage.tokens) for e in long} == {limit - 1}
    assert {len(e.values) for e in long} == {limit - 1}
    assert bank.sentences[0].text.startswith("".join(long[0].passage.tokens))


class TestAddresses:
    def words_of(self, found: Examples) -> list[tuple[int, int]]:
        return list(found)

    def test_every_way_to_name_neurons(self, reference: Model, corpus: Corpus) -> None:
        rows = np.array([(3, 9), (1, 2), (3, 9)])
        neurons = Neurons("some", "neuron", rows[:, 0], rows[:, 1], np.ones(3))
        for given in (rows, neurons, [(3, 9), (1, 2)]):
            found = gl.examples_of(reference, corpus, given, max_words=30, **QUIET)
            assert list(found) == [(3, 9), (1, 2)]
            assert len(found) == 2
        scores = gl.score(gl.collect(reference, corpus, **QUIET)["neuron"])
        keys = select(scores, k=2)
        found = gl.examples_of(reference, corpus, keys, position="next", max_words=30, **QUIET)
        assert set(found) == set(map(tuple, keys.union().tolist()))

    def test_no_neurons_at_all(self, reference: Model, corpus: Corpus) -> None:
        found = gl.examples_of(reference, corpus, [], **QUIET)
        assert len(found) == 0
        assert found.to_frame().empty

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([(8, 0)], r"neuron 8\.0 does not exist: reference-9m has 8 layers of 896 neurons"),
            ([(0, 896)], r"neuron 0\.896 does not exist"),
            ([(-1, 0)], r"neuron -1\.0 does not exist"),
            (
                Neurons("r", "resid_post", np.array([0]), np.array([0]), np.ones(1)),
                r"units of 'resid_post' were given, expected neurons \(site 'neuron'\)",
            ),
        ],
    )
    def test_neurons_that_do_not_exist(
        self, reference: Model, corpus: Corpus, given: Any, message: str
    ) -> None:
        with pytest.raises(GrammarLensError, match=message):
            gl.examples_of(reference, corpus, given, **QUIET)

    def test_a_neuron_without_examples(self, reference: Model, corpus: Corpus) -> None:
        found = gl.examples_of(reference, corpus, [(1, 2)], max_words=30, **QUIET)
        assert (1, 2) in found
        assert (1, 3) not in found
        with pytest.raises(
            GrammarLensError, match=r"no examples of neuron 1\.3: there are some of 1 "
        ):
            found[1, 3]


def test_what_cannot_be_read(
    reference: Model, corpus: Corpus, lexicon: Lexicon, write: Callable[..., Treebank]
):
    with pytest.raises(
        GrammarLensError, match="max_words is 2, but the first sentence drawn from small has"
    ):
        gl.examples_of(reference, corpus, [(0, 0)], max_words=2, **QUIET)
    for bad in ({"max_words": 0}, {"each": 0}):
        with pytest.raises(GrammarLensError, match="expected 1 or more of both"):
            gl.examples_of(reference, corpus, [(0, 0)], **bad, **QUIET)
    other = replace(lexicon, labels=lexicon.labels[::-1])
    with pytest.raises(GrammarLensError, match=r"VERB.*ADJ"):
        gl.examples_of(reference, corpus, [(0, 0)], lexicon=other, **QUIET)


def test_sentences_without_words_in_a_document(reference: Model, bank: Treebank):
    sentences = (Sentence("x", "Chapter one", (), None, "written:x"), *bank.sentences)
    loose = in_documents(replace(bank, sentences=sentences))
    corpus = prepare(reference, loose, context="document", window=64)
    with pytest.raises(GrammarLensError, match="sentences without words stand beside written:0"):
        gl.examples_of(reference, corpus, [(0, 0)], each=200, **QUIET)
    alone = prepare(reference, replace(bank, sentences=sentences, splits={}))
    found = gl.examples_of(reference, alone, [(0, 0)], **QUIET)
    check_consistent(found, alone, "word")


def test_a_label_without_a_contrast(reference: Model, corpus: Corpus, lexicon: Lexicon):
    """A label none of whose words begins with a token of its own has no contrast."""
    without = lexicon.count.copy()
    without[:, corpus.labels.index("PART")] = 0
    found = gl.examples_of(
        reference, corpus, [(0, 0)], lexicon=replace(lexicon, count=without), **QUIET
    )[0, 0]
    missing = np.isnan(found.contrast)
    assert [x for x, gone in zip(found.labels, missing, strict=True) if gone] == ["PART"]


def test_tokens_as_they_stand_in_text(reference: Model, shared_data: Path):
    ids = reference.tokenizer(" the 🙂", add_special_tokens=False)["input_ids"]
    assert token_text(reference, ids[0]) == " the"
    assert "\ufffd" not in token_text(reference, ids[-1]), "a byte has its own name"
    stories = load_model(shared_data / "models" / "stories260K")
    (first, *_) = stories.tokenizer(" the", add_special_tokens=False)["input_ids"]
    assert token_text(stories, first)[0] == " ", "SentencePiece hides the blank of a first word"


def test_as_a_table(reference: Model, corpus: Corpus):
    found = gl.examples_of(reference, corpus, [(3, 9), (1, 2)], each=2, max_words=60, **QUIET)
    table = found.to_frame()
    assert list(table.columns) == [
        *("layer", "index", "end", "rank", "value", "word", "label", "text")
    ]
    assert len(table) == 8
    first: Example = found[3, 9].top[0]
    assert table.iloc[0].to_list() == [
        *(3, 9, "top", 1, first.value, first.word, first.label),
        "".join(first.passage.tokens),
    ]
    assert repr(found) == "Examples of 2 neurons of reference-9m on small, position 'word'"
