"""Examples of neurons: words at which they are most and least active, and tokens they promote."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown, listed
from grammar_lens.errors import GrammarLensError, counted

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Quantiles of a neuron's activation that are kept for every label."""


@dataclass(frozen=True)
class Passage:
    """A sentence as the model reads it: the text of its tokens, blanks included, without BOS.

    Together they are the sentence's text. A character that several tokens share stands in the first
    of them, and a token without characters of its own is empty.
    """

    tokens: tuple[str, ...]
    source: str
    """File and line, or whatever else finds the sentence."""


@dataclass(frozen=True)
class Example:
    """A word at which a neuron was read, in its sentence."""

    passage: Passage
    token: int
    """Place of the token at which the neuron was read among the passage's; -1 stands before it."""
    span: tuple[int, int]
    """The word's first token, and one past its last."""
    word: str
    label: str
    value: float
    """The activation there."""
    values: Float[np.ndarray, " token"]
    """The activation at every token of the passage."""


@dataclass(frozen=True)
class TokenEffect:
    """A token, and how much a neuron moves its logit per unit of its activation (direct path)."""

    token: str
    logit: float


@dataclass(frozen=True)
class NeuronExamples(Shown):
    """One neuron on real text.

    `quantiles[c]` are those of `QUANTILES` over the words of label c, NaN where there are none;
    `top` has the words where it is most active, `bottom` those where it is least, each word form once.
    `contrast[c]` is how much it raises the mean logit of label c's words above that of the others, in
    logits per unit of activation, NaN where one of both has no words; `promoted` and `suppressed` are
    the tokens it moves most.
    """

    layer: int
    index: int
    labels: tuple[str, ...]
    count: Int[np.ndarray, " label"]
    """Words of each label that were read."""
    quantiles: Float[np.ndarray, "label quantile"]
    top: tuple[Example, ...]
    bottom: tuple[Example, ...]
    contrast: Float[np.ndarray, " label"]
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]
    origin: Origin

    def __repr__(self) -> str:
        o, most = self.origin, [example.word for example in self.top]
        return (
            f"NeuronExamples of neuron {self.layer}.{self.index} of {o.model}, "
            f"{int(self.count.sum()):,} words of {o.treebank} read at {o.position!r}; most active "
            f"for {listed(map(repr, most)) or 'none'}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        median = self.quantiles[:, QUANTILES.index(0.5)]
        examples = Examples({(self.layer, self.index): self}, self.origin).to_frame()
        labels = {"label": self.labels, "words": self.count, "median activation": median}
        labels |= {"logit contrast": self.contrast}
        return [examples.drop(columns=["layer", "index"]), pd.DataFrame(labels)]


@dataclass(frozen=True)
class Examples(Shown):
    """Several neurons read at one position on the same words: `examples[5, 123]` is one of them."""

    by_neuron: dict[tuple[int, int], NeuronExamples]
    origin: Origin

    def __getitem__(self, neuron: tuple[int, int]) -> NeuronExamples:
        if neuron not in self.by_neuron:
            raise GrammarLensError(
                f"no examples of neuron {neuron[0]}.{neuron[1]}: there are some of "
                f"{counted(len(self.by_neuron), 'neuron')}"
            )
        return self.by_neuron[neuron]

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.by_neuron

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.by_neuron)

    def __len__(self) -> int:
        return len(self.by_neuron)

    def _ipython_key_completions_(self) -> list[tuple[int, int]]:
        return list(self)

    def to_frame(self) -> pd.DataFrame:
        """A row per neuron, end and example: layer, index, end, rank, value, word, label, text."""
        rows = [
            {
                "layer": of_neuron.layer,
                "index": of_neuron.index,
                "end": end,
                "rank": rank,
                "value": example.value,
                "word": example.word,
                "label": example.label,
                "text": "".join(example.passage.tokens).strip(),
            }
            for of_neuron in self.by_neuron.values()
            for end, examples in (("top", of_neuron.top), ("bottom", of_neuron.bottom))
            for rank, example in enumerate(examples, 1)
        ]
        columns = ["layer", "index", "end", "rank", "value", "word", "label", "text"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"Examples of {len(self)} neurons of {o.model} on {o.treebank}, position {o.position!r}"
        )


def quantiles_by_label(
    values: Float[np.ndarray, "word neuron"], classes: Int[np.ndarray, " word"], n_labels: int
) -> Float[np.ndarray, "neuron label quantile"]:
    """The `QUANTILES` of every neuron over each label's words, NaN for a label without words."""
    quantiles = np.full((values.shape[1], n_labels, len(QUANTILES)), np.nan)
    for label in np.unique(classes).tolist():
        quantiles[:, label] = np.quantile(
            values[classes == label].astype(float), QUANTILES, axis=0
        ).T
    return quantiles


def strongest(
    values: Float[np.ndarray, " word"],
    forms: Sequence[str],
    before: Sequence[str],
    sentences: Sequence[int],
    most: int,
) -> list[int]:
    """Numbers of up to `most` words with the largest values, the largest first, ties by number.

    Every form stands once. So does every sentence, and every entry of `before`, what was last read
    there, where there are enough of them; where there are not, further words are taken by their value.
    """
    order: list[int] = np.argsort(-values, kind="stable").tolist()
    chosen: list[int] = []
    seen: tuple[set[str], set[str], set[int]] = set(), set(), set()
    for again in (False, True):
        for word in order:
            if len(chosen) == most:
                break
            new = forms[word] not in seen[0]
            if new and (again or (before[word] not in seen[1] and sentences[word] not in seen[2])):
                chosen.append(word)
                seen[0].add(forms[word])
                seen[1].add(before[word])
                seen[2].add(sentences[word])
    return sorted(chosen, key=lambda word: (-values[word], word))


def token_ends(text: str, offsets: Int[np.ndarray, "token two"]) -> Int[np.ndarray, " token"]:
    """End of each token in characters, where every character belongs to one token.

    `offsets` are the tokenizer's [start, end) of every token. Blanks between two tokens belong to
    the later one, a character of several tokens to the first, what follows the last token to it.
    """
    ends = np.maximum.accumulate(offsets[:, 1])
    ends[ends == ends[-1:]] = len(text)
    return ends


def tokens_within(ends: Int[np.ndarray, " token"], begin: int, end: int) -> range:
    """The tokens that have some of the characters [begin, end), with those that share the last one."""
    first = int(np.searchsorted(ends, begin, side="right"))
    past = max(np.searchsorted(ends, end, side="right"), np.searchsorted(ends, end) + 1)
    return range(first, min(int(past), len(ends)))


def token_texts(
    text: str, ends: Int[np.ndarray, " token"], tokens: range, begin: int, end: int
) -> tuple[str, ...]:
    """The part of the characters [begin, end) that each of some tokens covers."""
    starts = np.concatenate([[0], ends[:-1]])
    return tuple(text[max(int(starts[i]), begin) : min(int(ends[i]), end)] for i in tokens)
