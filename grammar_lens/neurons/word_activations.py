"""One neuron's activations at words of a treebank, with the label of each word."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare, sampled_words
from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import EXAMPLE_WORDS, SEED
from grammar_lens.display import Shown
from grammar_lens.errors import require_neuron
from grammar_lens.model.about import Model, model_name
from grammar_lens.neurons.address import Address, parse_address
from grammar_lens.passes.shared import Reading, features, read_one

SITE = "neuron"


@dataclass(frozen=True)
class WordActivations(Shown):
    """One neuron's activation at every word that was read; `labels[classes[i]]` is word i's label."""

    layer: int
    index: int
    labels: tuple[str, ...]
    classes: Int[np.ndarray, " word"]
    values: Float[np.ndarray, " word"]
    origin: Origin

    def to_frame(self) -> pd.DataFrame:
        """A row per word: label, activation."""
        names = np.array(self.labels, object)
        return pd.DataFrame({"label": names[self.classes], "activation": self.values})

    def __repr__(self) -> str:
        return (
            f"WordActivations of neuron {self.layer}.{self.index} of {self.origin.model} at "
            f"{len(self.values):,} words of {self.origin.treebank}, position {self.origin.position!r}"
        )


def word_activations(
    model: Model,
    bank: Treebank | Corpus,
    neuron: str | Address,
    *,
    position: str = "word",
    label: str = "upos",
    max_words: int = EXAMPLE_WORDS,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> WordActivations:
    """A neuron's activations at up to `max_words` words, in whole sentences drawn at random.

    Raises GrammarLensError for a neuron that does not exist, and where no word can be read.
    """
    reading = word_activations_reading(
        model,
        prepare(model, bank, label=label, minimum=1),
        neuron,
        position=position,
        max_words=max_words,
        seed=seed,
    )
    return read_one(
        model, reading, "activations", token_budget=token_budget, show_progress=show_progress
    )


def word_activations_reading(
    model: Model,
    corpus: Corpus,
    neuron: str | Address,
    *,
    position: str = "word",
    max_words: int = EXAMPLE_WORDS,
    seed: int = SEED,
) -> Reading[WordActivations]:
    """`word_activations` as part of a pass that others share."""
    layer, index = parse_address(neuron) if isinstance(neuron, str) else neuron
    require_neuron(layer, index, model.cfg.n_layers, model.cfg.d_mlp, model=model_name(model))
    words = sampled_words(corpus, position, max_words, seed)
    reading = features(corpus, words, np.array([[layer, index]], np.int64), position, SITE)

    def finish() -> WordActivations:
        return WordActivations(
            layer=layer,
            index=index,
            labels=corpus.labels,
            classes=corpus.classes[words],
            values=reading.finish()[:, 0],
            origin=corpus.origin(position, SITE),
        )

    return Reading(reading.requests, finish)
