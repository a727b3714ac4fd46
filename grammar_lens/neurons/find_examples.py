"""Find the words at which chosen neurons are most and least active, and the tokens they promote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, prepare, sampled_words
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import EXAMPLE_WORDS, EXAMPLES_EACH, SEED
from grammar_lens.errors import GrammarLensError, require_neuron
from grammar_lens.model.about import Model, model_name
from grammar_lens.model.weights import neuron_contrast, token_effects
from grammar_lens.neurons.address import Addresses, parse_addresses
from grammar_lens.neurons.examples import (
    Example,
    Examples,
    NeuronExamples,
    TokenEffect,
    quantiles_by_label,
    strongest,
)
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.passages import Place, TokenActivations, TokenReading, places_of
from grammar_lens.passes.shared import Reading, Request, read_one

SITE = "neuron"
N_TOKENS = 10
"""Tokens that are kept of those a neuron promotes, and of those it suppresses."""
_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""The character that SentencePiece writes for a blank."""
_Ends = tuple[list[int], list[int]]
Chosen = KeyNeurons | Neurons | Addresses


def examples_of(
    model: Model,
    bank: Treebank | Corpus,
    neurons: Chosen,
    *,
    position: str = "word",
    label: str = "upos",
    labels: Sequence[str] | None = None,
    lexicon: Lexicon | None = None,
    max_words: int = EXAMPLE_WORDS,
    each: int = EXAMPLES_EACH,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> Examples:
    """Each neuron's quantiles by label, its `each` top and bottom words, and its direct effects.

    Whole sentences are drawn at random up to `max_words` words; the neurons' activations at all
    their tokens are held at once, 4 bytes each. `lexicon` says which tokens begin words of each
    label; without one it is counted on all words of `bank`.
    Raises GrammarLensError for neurons that do not exist or are at another site than "neuron", for a
    lexicon of other labels, and where no word can be read.
    """
    corpus = prepare(model, bank, label=label, labels=labels, minimum=1)
    reading = examples_reading(
        model,
        corpus,
        {position: neurons},
        lexicon=lexicon or fit_lexicon(model, corpus),
        max_words=max_words,
        each=each,
        seed=seed,
    )
    by_position = read_one(
        model, reading, "examples", token_budget=token_budget, show_progress=show_progress
    )
    return by_position[position]


def examples_reading(
    model: Model,
    corpus: Corpus,
    neurons: Mapping[str, Chosen],
    *,
    lexicon: Lexicon,
    max_words: int = EXAMPLE_WORDS,
    each: int = EXAMPLES_EACH,
    seed: int = SEED,
) -> Reading[dict[str, Examples]]:
    """As `examples_of`, of the neurons chosen at each of several positions, in a pass to come."""
    if max_words < 1 or each < 1:
        raise GrammarLensError(
            f"max_words is {max_words} and each {each}, expected 1 or more of both"
        )
    if lexicon.labels != corpus.labels:
        raise GrammarLensError(
            f"the lexicon is of {', '.join(lexicon.labels)} and the words of "
            f"{', '.join(corpus.labels)}: give one of the same labels"
        )
    chosen = {p: addresses_of(model, some) for p, some in neurons.items()}
    every = np.unique(np.concatenate(list(chosen.values())), axis=0)
    if not len(every):
        return Reading((), lambda: {p: Examples({}, corpus.origin(p, SITE)) for p in chosen})
    drawn = {p: sampled_words(corpus, p, max_words, seed) for p in chosen}
    rows = np.unique(corpus.alignment.row[np.concatenate(list(drawn.values()))])
    tokens = TokenReading(corpus, rows, every, SITE)

    def finish() -> dict[str, Examples]:
        read, effects = tokens.activations(), _effects(model, lexicon, every)
        column = {tuple(address): i for i, address in enumerate(every.tolist())}
        return {
            p: _Words(model, corpus, p, words, read).examples(
                {(layer, i): column[layer, i] for layer, i in chosen[p].tolist()}, effects, each
            )
            for p, words in drawn.items()
        }

    return Reading([Request(corpus, lambda: [tokens.tap])], finish)


def addresses_of(model: Model, neurons: Chosen) -> Int[np.ndarray, "distinct two"]:
    """Layer and index of every neuron once, key neurons sorted by address, others in their order.

    Raises GrammarLensError for neurons that do not exist, and for units of another site.
    """
    site = SITE
    if isinstance(neurons, KeyNeurons):
        site, addresses = neurons.origin.site, neurons.union()
    elif isinstance(neurons, Neurons):
        site, addresses = neurons.site, np.stack([neurons.layer, neurons.index], 1)
    else:
        addresses = parse_addresses(neurons)
    if site != SITE:
        raise GrammarLensError(f"units of {site!r} were given, expected neurons (site {SITE!r})")
    n_layers, n_neurons = model.cfg.n_layers, model.cfg.d_mlp
    for layer, index in addresses.tolist():
        require_neuron(layer, index, n_layers, n_neurons, model=model_name(model))
    return np.array(list(dict.fromkeys(map(tuple, addresses.tolist()))), np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class _Effects:
    """Output of a neuron: the contrast of every label, tokens promoted, tokens suppressed."""

    contrast: Float[np.ndarray, " label"]
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]


@dataclass(frozen=True)
class _Words:
    """The words drawn at a position, by their number in the corpus, and what was read there."""

    model: Model
    corpus: Corpus
    position: str
    number: Int[np.ndarray, " word"]
    read: TokenActivations

    @property
    def origin(self) -> Origin:
        return self.corpus.origin(self.position, SITE)

    def examples(
        self, columns: dict[tuple[int, int], int], effects: list[_Effects], each: int
    ) -> Examples:
        """The neurons at some addresses, each with its column in `read` and its place in `effects`."""
        if not columns:
            return Examples({}, self.origin)
        n_labels, classes = len(self.corpus.labels), self.corpus.classes[self.number]
        values = self.read.at_words(self.corpus.alignment, self.position, self.number)
        count = np.bincount(classes, minlength=n_labels)
        quantiles = quantiles_by_label(values, classes, n_labels)
        ends = self._ends(values[:, list(columns.values())].astype(float), each)
        places = self._places(ends)
        by_neuron = {
            (layer, index): NeuronExamples(
                layer=layer,
                index=index,
                labels=self.corpus.labels,
                count=count,
                quantiles=quantiles[column],
                top=tuple(self._example(row, column, places) for row in top),
                bottom=tuple(self._example(row, column, places) for row in bottom),
                contrast=effects[column].contrast,
                promoted=effects[column].promoted,
                suppressed=effects[column].suppressed,
                origin=self.origin,
            )
            for ((layer, index), column), (top, bottom) in zip(columns.items(), ends, strict=True)
        }
        return Examples(by_neuron, self.origin)

    def _ends(self, values: Float[np.ndarray, "word neuron"], each: int) -> list[_Ends]:
        """Rows of the words at either end of every neuron."""
        numbers = self.number.tolist()
        sentence = self.corpus.alignment.sentence[self.number].tolist()
        keys = self.corpus.word_types(self.position)
        about = [self.corpus.folded[i] for i in numbers], [keys[i] for i in numbers], sentence
        return [(strongest(v, *about, each), strongest(-v, *about, each)) for v in values.T]

    def _places(self, ends: list[_Ends]) -> dict[int, Place]:
        """Positions of the sentences of some words."""
        rows = np.unique([row for both in ends for end in both for row in end])
        sentences = np.unique(self.corpus.alignment.sentence[self.number[rows]])
        return places_of(self.model, self.corpus, sentences)

    def _example(self, row: int, column: int, places: dict[int, Place]) -> Example:
        corpus, word = self.corpus, self.number[row]
        place = places[int(corpus.alignment.sentence[word])]
        begin, end = place.tokens.start, place.tokens.stop
        first, last = int(corpus.alignment.first[word]), int(corpus.alignment.last[word])
        value = self.read.at_words(corpus.alignment, self.position, self.number[[row]])[0, column]
        return Example(
            passage=place.passage,
            token=int(corpus.alignment.time(self.position)[word]) - begin,
            # a word whose end lies beyond the context is shown up to there
            span=(first - begin, (last + 1 if last >= 0 else end) - begin),
            word=corpus.forms[word],
            label=corpus.labels[corpus.classes[word]],
            value=float(value),
            values=self.read.in_place(place)[:, column].astype(float),
        )


def _effects(
    model: Model, lexicon: Lexicon, addresses: Int[np.ndarray, "neuron two"]
) -> list[_Effects]:
    contrast = _contrast(model, lexicon, addresses)
    ids, logits = token_effects(model, addresses, N_TOKENS)
    text = {i: token_text(model, i) for i in np.unique(ids).tolist()}
    effects = []
    for neuron, (row, values) in enumerate(zip(ids.tolist(), logits.tolist(), strict=True)):
        moved = tuple(TokenEffect(text[i], v) for i, v in zip(row, values, strict=True))
        half = len(moved) // 2
        effects.append(_Effects(contrast[:, neuron], moved[:half], moved[half:]))
    return effects


def _contrast(
    model: Model, lexicon: Lexicon, addresses: Int[np.ndarray, "neuron two"]
) -> Float[np.ndarray, "label neuron"]:
    """`neuron_contrast` with every label that the lexicon has words of, and of its rest."""
    count = lexicon.count.sum(0)
    known = (count > 0) & (count < count.sum())
    contrast = np.full((len(known), len(addresses)), np.nan)
    if known.any():
        contrast[known] = neuron_contrast(model, lexicon.count[:, known], addresses)
    return contrast


def token_text(model: Model, token: int) -> str:
    """The text of a token in running text; a token that is no whole character by its own name."""
    name = str(model.tokenizer.convert_ids_to_tokens(token))
    text = model.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if "\N{REPLACEMENT CHARACTER}" in text:
        return name
    if name.startswith(_BLANK) and not text.startswith(" "):
        return f" {text}"  # decoding drops the blank where a text begins
    return text or name
