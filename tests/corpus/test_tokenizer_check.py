"""Tokenizers that lose a text, misplace its tokens or begin it twice are errors."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import grammar_lens as gl
from grammar_lens.corpus.alignment import align
from grammar_lens.corpus.corpus import prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model

TEXT = "The old dog sleeps near the warm fire."
SPANS = [(0, 3), (4, 7), (8, 11), (12, 18), (19, 23), (24, 27), (28, 32), (33, 37), (37, 38)]


class Changed:
    """A tokenizer whose answers a test changes on their way."""

    is_fast = True

    def __init__(self, inner: Any, change: Callable[[Any], None]) -> None:
        self._inner, self._change = inner, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, texts: list[str], **options: Any) -> Any:
        coded = self._inner(texts, **options)
        self._change(coded)
        return coded


def test_a_tokenizer_that_loses_its_blanks_is_named(tiny_tokenizer: Any):
    """As transformers 5.16 to 5.21 did: encoded and decoded without a blank between words."""

    class Fused(Changed):
        def __call__(self, texts: list[str], **options: Any) -> Any:
            return self._inner([text.replace(" ", "") for text in texts], **options)

    fused = Fused(tiny_tokenizer, lambda _coded: None)
    with pytest.raises(GrammarLensError, match="loses the blanks between words") as caught:
        align([TEXT], [SPANS], fused)
    assert f"transformers {version('transformers')}" in str(caught.value)
    assert "Theolddog" in str(caught.value)


def test_a_tokenizer_that_gives_another_text_back_is_named(tiny_tokenizer: Any):
    def reverse(coded: Any) -> None:
        coded["input_ids"] = [[row[0], *row[:0:-1]] for row in coded["input_ids"]]

    with pytest.raises(GrammarLensError, match=r"are not those of the text\. Load the model's own"):
        align([TEXT], [SPANS], Changed(tiny_tokenizer, reverse))


OFFSETS: dict[str, tuple[Callable[[list], list], str]] = {
    "empty": (lambda row: [(0, 0)] * len(row), "its offsets are empty"),
    "backwards": (lambda row: [row[0], *row[:0:-1]], "run backwards or beyond"),
    "ends before it begins": (lambda row: [(b, a) for a, b in row], "run backwards or beyond"),
    "beyond the text": (lambda row: [(a + 40, b + 40) for a, b in row], "run backwards or beyond"),
}


@pytest.mark.parametrize("way", OFFSETS)
def test_offsets_that_cannot_be(way: str, tiny_tokenizer: Any):
    change, message = OFFSETS[way]

    def misplace(coded: Any) -> None:
        coded["offset_mapping"] = [change(row) for row in coded["offset_mapping"]]

    with pytest.raises(GrammarLensError, match=message):
        align([TEXT], [SPANS], Changed(tiny_tokenizer, misplace))


def test_two_bos_in_a_row(tiny_tokenizer: Any):
    def double(coded: Any) -> None:
        coded["input_ids"] = [[row[0], *row] for row in coded["input_ids"]]
        coded["offset_mapping"] = [[(0, 0), *row] for row in coded["offset_mapping"]]

    with pytest.raises(GrammarLensError, match="begins a text with two '<s>'"):
        align([TEXT], [SPANS], Changed(tiny_tokenizer, double))


# Control tokens -----------------------------------------------------------------------------


def test_a_sentence_with_a_control_token_is_skipped_and_counted(
    tiny: Model, write: Callable[..., gl.Treebank]
):
    plain = "The DET|dog NOUN|sleeps VERB"
    bank = write(f"{plain}\nAn DET|old ADJ|</s> NOUN|walks VERB\n{plain}")
    corpus = prepare(tiny, bank, min_words=2)
    assert corpus.skipped("word")["a control token in its text"] == 4
    assert corpus.alignment.aligned("word").tolist() == [True] * 3 + [False] * 4 + [True] * 3
    assert len(corpus.alignment.token_ids[1]) == 0, "the model does not read it"
    assert corpus.alignment.has_bos
    moments = gl.collect(tiny, corpus, position="word")
    assert int(moments["neuron"].count.sum()) == 6


def test_the_name_of_a_control_token_in_pieces_is_a_text(tiny: Model):
    """Only where the tokenizer reads it as the control token is anything wrong."""
    found = align(["a </ s> b"], [[(0, 1), (2, 4), (5, 7), (8, 9)]], tiny.tokenizer)
    assert found.aligned("word").all()


# Metaspaces ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metaspace() -> Any:
    """A SentencePiece-like tokenizer: its metaspace before a rare word is a token of its own."""
    pieces = ["<s>", "<unk>", "▁", "▁the", "▁dog", "x", "q", "."]
    raw = Tokenizer(
        models.Unigram([(piece, -float(len("the")) + len(piece)) for piece in pieces], unk_id=1)
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>")


def test_a_bare_metaspace_is_no_words_first_token(metaspace: Any):
    text = "xq the dog"
    coded = metaspace(text, return_offsets_mapping=True)
    tokens = metaspace.convert_ids_to_tokens(coded["input_ids"])
    assert tokens[1:4] == ["▁", "x", "q"], "the case that this test is about"
    spans = [(0, 2), (3, 6), (7, 10)]

    def overlap(coded: Any) -> None:
        # as slow tokenizers converted to fast ones place it: on the word's first character
        coded["offset_mapping"][0][1] = (0, 1)

    for tokenizer in (metaspace, Changed(metaspace, overlap)):
        found = align([text], [spans], tokenizer)
        assert found.first.tolist() == [2, 4, 5]
        assert found.last.tolist() == [3, 4, 5]
        # before the first word stand BOS and a blank, as in every text
        assert found.scorable().tolist() == [False, True, True]


def test_a_metaspace_that_the_text_has_is_a_token(metaspace: Any):
    found = align(["▁ the"], [[(0, 1), (2, 5)]], metaspace)
    assert np.all(found.first > 0)
