"""Sentences as the model reads them: the text of every token, and activations at all of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.corpus.alignment import Alignment
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.examples import Passage, token_ends, token_texts, tokens_within
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap


@dataclass(frozen=True)
class Place:
    """A sentence's passage, and the place of its tokens in a row of the alignment."""

    passage: Passage
    row: int
    tokens: range


def places_of(model: Model, corpus: Corpus, sentences: Int[np.ndarray, " _"]) -> dict[int, Place]:
    """The place of each sentence; of one beyond the model's context, what the model reads of it.

    Raises GrammarLensError where sentences without words leave it open what the model reads.
    """
    alignment = corpus.alignment
    first_word = np.searchsorted(alignment.sentence, sentences)
    rows = alignment.row[first_word]
    read = {int(row): _Row.of(corpus, int(row)) for row in np.unique(rows)}
    coded = model.tokenizer(
        [row.text for row in read.values()],
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    ends = {}
    for (number, row), ids, offsets in zip(
        read.items(), coded["input_ids"], coded["offset_mapping"], strict=True
    ):
        known = alignment.token_ids[number]
        if list(ids[: len(known)]) != known.tolist():
            raise GrammarLensError(
                f"sentences without words stand beside {corpus.bank.sentences[row.first].source}, so "
                "the tokens around it are unknown: leave such sentences out"
            )
        cuts = token_ends(row.text, np.asarray(offsets, np.int64).reshape(-1, 2))
        ends[number] = cuts[: len(known)]
    return {
        int(s): _place(corpus, int(s), int(row), read[int(row)], ends[int(row)])
        for s, row in zip(sentences, rows, strict=True)
    }


@dataclass(frozen=True)
class _Row:
    """One row of tokens: a sentence, or a window of several from `first` on."""

    first: int
    text: str

    @classmethod
    def of(cls, corpus: Corpus, row: int) -> "_Row":
        of_row = corpus.alignment.sentences_of(np.array([row]))
        first, last = int(of_row[0]), int(of_row[-1])
        return cls(first, _joined(corpus, first, last) + corpus.bank.sentences[last].text)


def _joined(corpus: Corpus, first: int, last: int) -> str:
    """The text of some sentences up to the beginning of the last one."""
    return "".join(s.text + s.gap for s in corpus.bank.sentences[first:last])


def _place(
    corpus: Corpus, number: int, row: int, read: _Row, ends: Int[np.ndarray, " token"]
) -> Place:
    sentence = corpus.bank.sentences[number]
    begin = len(_joined(corpus, read.first, number))
    end = begin + len(sentence.text)
    tokens = tokens_within(ends, begin, end)
    texts = token_texts(read.text, ends, tokens, begin, end)
    return Place(Passage(texts, sentence.source), row, tokens)


@dataclass(frozen=True)
class TokenActivations:
    """Some neurons at every token of some rows: `values[start[row] + t]` are those at token t."""

    start: Int[np.ndarray, " row"]
    """-1 for rows that were not read."""
    values: Float[np.ndarray, "token neuron"]

    def at_words(
        self, alignment: Alignment, position: str, words: Int[np.ndarray, " word"]
    ) -> Float[np.ndarray, "word neuron"]:
        """Token positions at which some words are read."""
        time = alignment.time(position)[words]
        return self.values[self.start[alignment.row[words]] + time]

    def in_place(self, place: Place) -> Float[np.ndarray, "token neuron"]:
        """At the tokens of a sentence."""
        start = self.start[place.row]
        return self.values[start + place.tokens.start : start + place.tokens.stop]


class TokenReading:
    """Activations of the addresses at every token of some rows of a corpus, in a pass to come."""

    def __init__(
        self,
        corpus: Corpus,
        rows: Int[np.ndarray, " _"],
        addresses: Int[np.ndarray, "neuron two"],
        site: str,
    ) -> None:
        tokens = corpus.alignment.as_tokens(rows)
        self._start = np.full(len(tokens.token_ids), -1)
        self._start[rows] = tokens.row_start[rows]
        self._reader = FeatureReader(tokens.n_words, addresses)
        everything = np.ones(tokens.n_words, bool)
        self.tap = Tap(
            site,
            "word",
            everything,
            np.arange(tokens.n_words),
            self._reader,
            layers=self._reader.layers,
            alignment=tokens,
        )

    def activations(self) -> TokenActivations:
        """Those that the pass has read."""
        return TokenActivations(self._start, self._reader.values)
