"""Tags of the words of free text, read by a run's probe from the intact model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grammar_lens.corpus.alignment import Alignment, align, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.generation.find_words import find_words
from grammar_lens.model.about import Model, context_length
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.probing.fitted import FittedProbe

POSITION = "word"


@dataclass(frozen=True)
class TaggedWord:
    """A word of a text, [start, end) of its characters, and its tag.

    The tag is None where the word cannot be read: one of its tokens runs beyond it, or it stands
    beyond the model's context.
    """

    form: str
    start: int
    end: int
    tag: str | None


@dataclass(frozen=True)
class Tagger:
    """Reads the tags of words from a model's activations with a fitted probe."""

    model: Model
    probe: FittedProbe

    def tag(self, texts: Sequence[str]) -> list[tuple[TaggedWord, ...]]:
        """The words of every text with their tags (`find_words` says what a word is).

        The model reads as it is now, so no lesion may be open. A text is one sentence to it.
        """
        spans = [find_words(text) for text in texts]
        placed = align(texts, spans, self.model.tokenizer, max_length=context_length(self.model))
        tags = iter(self._tags(placed))
        return [
            tuple(TaggedWord(text[a:b], a, b, next(tags)) for a, b in words)
            for text, words in zip(texts, spans, strict=True)
        ]

    def _tags(self, placed: Alignment) -> list[str | None]:
        """The tag of every word, None where it cannot be read."""
        numbers = np.flatnonzero(placed.readable(POSITION))
        tags: list[str | None] = [None] * placed.n_words
        if not len(numbers):
            return tags
        reader = FeatureReader(len(numbers), self.probe.addresses)
        site = self.probe.origin.site
        tap = Tap.of_rows(site, POSITION, numbers, placed.n_words, reader, reader.layers)
        rows = np.unique(placed.row[numbers])
        batches = token_batches(placed, default_budget(self.model), rows=rows)
        stream(self.model, placed, batches, [tap])
        for number, code in zip(numbers, self.probe.predict(reader.values), strict=True):
            tags[number] = self.probe.labels[code]
        return tags
