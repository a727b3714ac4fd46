"""Build a set of neurons by layer and index, with their mean activations where a treebank is given."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare, sampled_words
from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError, counted, require_layer, require_neuron
from grammar_lens.model.about import Model, model_name, site_width
from grammar_lens.neurons.address import Addresses, parse_addresses
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.passes.shared import features, read_one

MEAN_WORDS = 2000
"""Words over which the mean activations of a set are taken."""


def neuron_set(
    model: Model,
    addresses: Addresses | None = None,
    *,
    layer: int | Iterable[int] | None = None,
    indices: slice | Iterable[int] | None = None,
    name: str | None = None,
    site: str = "neuron",
    bank: Treebank | Corpus | None = None,
    position: str = "next",
    label: str = "upos",
    max_words: int = MEAN_WORDS,
    seed: int = SEED,
) -> Neurons:
    """A set of units: at addresses ("7.336", [(6, 12), "7.40"]), of layers, or both, each once.

    `layer` is one layer or several, of which `indices` takes some units (`slice(0, 50)`), by default
    all. With a treebank as `bank`, their mean activations are measured at `position` over up to
    `max_words` of its words, so that a lesion can set them to their means; without one it sets them
    to zero.
    Raises GrammarLensError for units that do not exist, and where nothing is asked for.
    """
    width = site_width(model, site)
    parts = [np.zeros((0, 2), np.int64) if addresses is None else parse_addresses(addresses)]
    if layer is None and (addresses is None or indices is not None):
        raise GrammarLensError(
            "say which units: addresses such as '7.336', or layer=6, or layer=6, indices=slice(0, 50)"
        )
    layers = [] if layer is None else _layers(layer)
    for number in layers:
        require_layer(number, model.cfg.n_layers, model_name(model))
        units = _units(indices, width)
        parts.append(np.stack([np.full(len(units), number), units], 1))
    pairs = list(dict.fromkeys(map(tuple, np.concatenate(parts).tolist())))
    for number, index in pairs:
        require_neuron(number, index, model.cfg.n_layers, width, model=model_name(model))
    if addresses is None and name is None:
        each = "" if indices is None else f", {counted(len(pairs), 'unit')}"
        name = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}{each}"
    made = Neurons.at(np.array(pairs, np.int64).reshape(-1, 2), name=name, site=site)
    if bank is None or not len(made):
        return made
    corpus = prepare(model, bank, label=label, minimum=1)
    mean = _means(model, corpus, made, position, max_words, seed)
    return replace(made, mean=mean)


def _layers(layer: int | Iterable[int]) -> Sequence[int]:
    return [int(layer)] if isinstance(layer, int | np.integer) else list(layer)


def _units(indices: slice | Iterable[int] | None, width: int) -> Int[np.ndarray, " unit"]:
    if indices is None or isinstance(indices, slice):
        return np.arange(width)[indices or slice(None)]
    return np.array(list(indices), np.int64)


def _means(
    model: Model, corpus: Corpus, units: Neurons, position: str, max_words: int, seed: int
) -> Float[np.ndarray, " neuron"]:
    """Mean activations at some words, in whole sentences drawn at random."""
    words = sampled_words(corpus, position, max_words, seed)
    reading = features(corpus, words, np.stack([units.layer, units.index], 1), position, units.site)
    return read_one(model, reading, "means", show_progress=False).mean(0, dtype=np.float64)
