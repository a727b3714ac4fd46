"""Words and readers for attributions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grammar_lens.corpus.alignment import Alignment, TokenBatch, align, token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.lexicon import Lexicon, build_lexicon
from grammar_lens.model.about import Model, vocabulary_size
from grammar_lens.passes.readers import Seen, State
from grammar_lens.selectivity.attribution.first_order import attribute_own


@dataclass(frozen=True)
class Words:
    """A treebank as attribution takes it."""

    alignment: Alignment
    classes: np.ndarray
    lexicon: Lexicon

    def batches(self, budget: int = 4096) -> list[TokenBatch]:
        return token_batches(self.alignment, budget)

    @property
    def n(self) -> int:
        return len(self.lexicon.labels)


def words_of(bank: Treebank, model: Model) -> Words:
    found = align(
        [s.text for s in bank], [[w.span for w in s.words] for s in bank], model.tokenizer
    )
    tags = [str(w.label("upos")) for s in bank for w in s.words]
    labels = tuple(sorted(set(tags)))
    classes = np.array([labels.index(tag) for tag in tags])
    usable = found.aligned("next")
    first = found.first_token[usable]
    lexicon = build_lexicon(first, classes[usable], labels, vocabulary_size(model))
    return Words(found, np.where(found.scorable(), classes, -1), lexicon)


class Kept:
    """A reader that keeps everything, in the precision it comes in; codes are word numbers."""

    def __init__(self, n_words: int, n_layers: int, n_units: int) -> None:
        self.values = np.full((n_words, n_layers, n_units), np.nan)
        self.fires = np.zeros((n_words, n_layers, n_units), bool)
        self.commits = 0
        self._waiting: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def add(self, layer: int, seen: Seen, words: Tensor) -> Tensor:
        values = seen.values()
        self._waiting.append((layer, values, seen.fires(), words))
        return torch.isfinite(values).all()

    def commit(self) -> None:
        self.commits += 1
        for layer, values, fires, words in self._waiting:
            assert np.isnan(self.values[words, layer]).all(), "a word was handed over twice"
            self.values[words, layer] = values.double().numpy()
            self.fires[words, layer] = fires.numpy()
        self._waiting.clear()

    def discard(self) -> None:
        self._waiting.clear()

    def state(self) -> list[State]:
        return []

    def load(self, pieces: Sequence[State]) -> None:
        raise AssertionError("nothing is kept here")

    def merge(self, first: State, second: State) -> State:
        raise AssertionError("nothing is kept here")


def own(
    model: Model,
    words: Words,
    batches: Sequence[TokenBatch] | None = None,
    reference: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """Contributions [all_words layer unit], NaN for words that are not scored."""
    n = words.alignment.n_words
    kept = Kept(n, model.cfg.n_layers, model.cfg.d_mlp)
    chosen = words.batches() if batches is None else batches
    taps = [(np.arange(n), kept)]
    attribute_own(
        model, words.alignment, chosen, words.classes, words.lexicon, reference, taps, **options
    )
    there = ~np.isnan(kept.values)
    np.testing.assert_array_equal(kept.fires[there], kept.values[there] > 0)
    return kept.values
