"""What key neurons write to the residual stream: the subspaces they span, and what is left without them."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from grammar_lens import probing
from grammar_lens.model import Model, output_weight
from grammar_lens.selection import KeyNeurons, Neurons
from grammar_lens.study.corpus import Corpus, CorpusError, fresh_corpus, prepare, sampled
from grammar_lens.study.probes import probe_words
from grammar_lens.subspace import ErasureResult, Subspaces, erasure_table, subspaces
from grammar_lens.treebank import Treebank


def key_subspaces(
    model: Model, keys: KeyNeurons, *, n_random: int = 10, seed: int = 0
) -> Subspaces:
    """The spans of each label's key neurons' outgoing weights, beside random neurons of the same layers."""
    _require_neurons(keys)
    rng = np.random.default_rng(seed)
    real = {label: _addresses(keys[label]) for label in keys}
    draws = [
        {label: probing.random_neurons(a, keys.n_units, rng) for label, a in real.items()}
        for _ in range(n_random)
    ]
    weights = _Weights(model)
    return subspaces(weights.of_all(real), [weights.of_all(draw) for draw in draws])


def erasure(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    layer: int | None = None,
    position: str = "word",
    n_random: int = 5,
    max_train_words: int = 20_000,
    seed: int = 0,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> ErasureResult:
    """How much of the labels can still be read after `layer` (the last) without the key neurons' directions.

    The probe reads the residual stream; taken out are the directions that the key neurons of this
    layer and those below write, as many random neurons' of the same layers, or, as the floor, all that
    tells the labels linearly (LEACE).
    Raises CorpusError for key units that are not neurons, or with none up to that layer.
    """
    _require_neurons(keys)
    rng = np.random.default_rng(seed)
    last = model.cfg.n_layers - 1 if layer is None else layer
    chosen = keys.union()
    chosen = chosen[chosen[:, 0] <= last]
    if len(chosen) == 0:
        raise CorpusError(f"no key neuron stands in layers 0 to {last}: choose a higher layer")
    corpus = prepare(model, train, label=keys.origin.label, labels=keys.labels)
    new, _ = fresh_corpus(model, fresh, corpus)
    addresses = np.stack([np.full(model.cfg.d_model, last), np.arange(model.cfg.d_model)], 1)
    drawn = sampled(corpus, corpus.read(position), max_train_words, rng)
    words = [
        probe_words(model, c, codes, position, addresses, "resid_post", token_budget, show_progress)
        for c, codes in ((corpus, drawn), (new, new.read(position)))
    ]
    draws = [probing.random_neurons(chosen, keys.n_units, rng) for _ in range(n_random)]
    weights = _Weights(model)
    return erasure_table(words[0], words[1], weights.of(chosen), [weights.of(d) for d in draws])


class _Weights:
    """Outgoing weights of neurons, each layer fetched once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.layers: dict[int, Float[np.ndarray, "d_mlp d_model"]] = {}

    def of(self, addresses: Int[np.ndarray, "neuron two"]) -> Float[np.ndarray, "neuron d_model"]:
        for layer in np.unique(addresses[:, 0]).tolist():
            if layer not in self.layers:
                weight = output_weight(self.model, layer).detach().float()
                self.layers[layer] = weight.cpu().numpy()
        return np.stack([self.layers[la][i] for la, i in addresses.tolist()]).astype(np.float32)

    def of_all(
        self, sets: Mapping[str, Int[np.ndarray, "_ two"]]
    ) -> dict[str, Float[np.ndarray, "_ d_model"]]:
        none = np.zeros((0, self.model.cfg.d_model), np.float32)
        return {label: self.of(a) if len(a) else none for label, a in sets.items()}


def _addresses(neurons: Neurons) -> Int[np.ndarray, "neuron two"]:
    return np.stack([neurons.layer, neurons.index], 1)


def _require_neurons(keys: KeyNeurons) -> None:
    if keys.origin.site != "neuron":
        raise CorpusError(
            f"these are units of {keys.origin.site!r}, and only neurons have outgoing weights: choose "
            "key neurons"
        )
