"""Activations of key neurons as a scikit-learn transformer."""

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from grammar_lens.corpus.alignment import Alignment, align, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.errors import GrammarLensError, require_neuron, require_one_of
from grammar_lens.model.about import Model, context_length, model_name, site_width
from grammar_lens.model.loading import load_model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.readers import FeatureReader, Seen
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.runs.run import load_run
from grammar_lens.runs.store.stored import StoredRun

POOLINGS = ("mean", "max", "last", "first")


class KeyNeuronFeatures(TransformerMixin, BaseEstimator):
    """Turns sentences (strings) into the activations of key neurons, [sentence, neuron] in float32.

    Of a sentence's tokens, BOS and other special ones left out, each neuron gives the mean, the
    largest, the last or the first activation (`pooling`).

    `model` is what `gl.load_model` takes, or a model that it has loaded; clones share a loaded model,
    so give one where many fits are made. `neurons` are `KeyNeurons`, `Neurons`, an array of (layer,
    index), or a run or its directory (its key neurons at the word, if words were read there); `k`
    takes the first k, of `KeyNeurons` of each label. `batch_tokens` is the number of tokens in one
    forward pass; `device` and `dtype` are those of `gl.load_model`.

    Fitting loads the model and checks the neurons; the sentences teach it nothing. After it there are
    `model_`, `neurons_` (an array [neuron, 2] of layer and index, each neuron once), `site_` and
    `n_features_out_`. A pickle holds no model: it is loaded anew by its name.
    """

    def __init__(
        self,
        model: Any = "reference-9m",
        neurons: Any = None,
        *,
        k: Any = None,
        pooling: Any = "mean",
        batch_tokens: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        # scikit-learn sets parameters of any kind and wants them judged in `fit`
        self.model = model
        self.neurons = neurons
        self.k = k
        self.pooling = pooling
        self.batch_tokens = batch_tokens
        self.device = device
        self.dtype = dtype

    def fit(self, X: Any, y: Any = None) -> "KeyNeuronFeatures":
        """Loads the model and finds the neurons in it.

        Raises GrammarLensError for anything but sentences, and for neurons or settings that do not go
        with the model.
        """
        _sentences(X)
        self._check_settings()
        model = self._load()
        keys = _sets(self.neurons)
        sets = list(keys.values()) if isinstance(keys, KeyNeurons) else [keys]
        named = _named([s if self.k is None else s.top(self.k) for s in sets])
        if not named:
            raise GrammarLensError("there are no neurons to read: the sets are empty")
        site = sets[0].site
        _check_there(list(named), model, site)
        if isinstance(keys, KeyNeurons):
            _check_model(keys.origin.model, model)
        self.model_ = model
        self.site_ = site
        self.neurons_ = np.array(list(named), np.int64)
        self.feature_names_ = np.array(list(named.values()), object)
        self.n_features_out_ = len(named)
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "sentence neuron"]:
        """The features of some sentences.

        Raises GrammarLensError for anything but sentences, and for one without tokens. Warns of
        sentences that are longer than the model's context, of which the rest is not read.
        """
        check_is_fitted(self, "neurons_")
        texts = _sentences(X)
        if not hasattr(self, "model_"):
            self.model_ = self._load()
        tokens = _tokens(self.model_, texts)
        wanted = _pooled_tokens(tokens, self.pooling)
        reader = _Pooled(len(texts), self.neurons_, "max" if self.pooling == "max" else "mean")
        tap = Tap(self.site_, "word", wanted, tokens.row, reader, layers=reader.layers)
        budget = self.batch_tokens or default_budget(self.model_)
        batches = token_batches(tokens, budget)
        stream(self.model_, tokens, batches, [tap], warn=_warn)
        return reader.values

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """A name for each column: "VERB:5.123", "NOUN+VERB:5.123" of a shared neuron, or "5.123"."""
        check_is_fitted(self, "neurons_")
        return self.feature_names_

    def _load(self) -> Model:
        return load_model(self.model, device=self.device, dtype=self.dtype)

    def _check_settings(self) -> None:
        require_one_of("pooling", self.pooling, POOLINGS)
        for name in ("k", "batch_tokens"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, int | np.integer) or given < 1):
                raise GrammarLensError(f"{name} is {given!r}, expected 1 or more, or None")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []  # float32, whatever comes in
        return tags

    def __sklearn_clone__(self) -> "KeyNeuronFeatures":
        """An unfitted one with the same model and neurons, not with copies of them."""
        twin = type(self)(**self.get_params(deep=False))
        for name in ("_metadata_request", "_sklearn_output_config"):
            if hasattr(self, name):
                setattr(twin, name, copy.deepcopy(getattr(self, name)))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("model_", None)
        return state


class _Pooled(FeatureReader):
    """Pools the activations of chosen units over the tokens of each sentence, on the device.

    The codes of its tap are the sentences' numbers; a batch has all tokens of its sentences.
    """

    def __init__(
        self, n_sentences: int, addresses: Int[np.ndarray, "column two"], pooling: str
    ) -> None:
        super().__init__(n_sentences, addresses)
        self._pooling = pooling

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        units, columns = self._units[layer]
        # units first: the copy has the size of the chosen ones
        chosen = seen.flat[:, units.to(seen.flat.device)]
        values = Seen(chosen, where=seen.where).values().float()
        sentences, lengths = torch.unique_consecutive(words, return_counts=True)
        pooled = torch.segment_reduce(values, self._pooling, lengths=lengths)
        self._rows = sentences.cpu().numpy()
        self.values[np.ix_(self._rows, columns)] = pooled.cpu().numpy()
        return torch.isfinite(values).all()


def _sentences(X: Any) -> list[str]:
    """The sentences as a list. Raises GrammarLensError for anything else."""
    shape = getattr(X, "shape", None)
    is_list = isinstance(X, Sequence) if shape is None else len(shape) == 1
    if isinstance(X, str) or not is_list:
        given = "one string" if isinstance(X, str) else f"{type(X).__name__}"
        raise GrammarLensError(
            f"expected a list of sentences, got {given}"
            f"{'' if shape is None else f' of shape {tuple(shape)}'}: give strings, as "
            '["She sleeps.", "They run."]'
        )
    texts = list(X)
    if not texts:
        raise GrammarLensError("expected sentences, got 0 sample(s): a minimum of 1 is required")
    for i, sentence in enumerate(texts):
        if not isinstance(sentence, str):
            raise GrammarLensError(
                f"sentence {i} is {type(sentence).__name__}, expected a string: join words to their "
                "sentence, and give the sentences as a list"
            )
    return [str(sentence) for sentence in texts]


def _sets(neurons: Any) -> KeyNeurons | Neurons:
    """The neurons that a parameter names."""
    if isinstance(neurons, str | os.PathLike):
        neurons = load_run(Path(neurons))
    if isinstance(neurons, StoredRun):
        read = neurons.positions
        return neurons.keys_at("word" if "word" in read else neurons.main_position)
    if isinstance(neurons, KeyNeurons | Neurons):
        return neurons
    address = np.asarray(neurons)
    if address.ndim != 2 or address.shape[1] != 2 or address.dtype.kind not in "iu":
        raise GrammarLensError(
            f"neurons are {type(neurons).__name__}, expected key neurons, a run or its directory, or "
            "whole numbers [[layer, index], ...]"
        )
    layer, index = address.astype(np.int64).T
    if len(np.unique(address, axis=0)) < len(address):
        raise GrammarLensError("a neuron stands twice among the neurons: leave it once")
    return Neurons("", "neuron", layer, index, np.zeros(len(layer)))


def _named(sets: Sequence[Neurons]) -> dict[tuple[int, int], str]:
    """Every neuron once, with the names of the sets that it is in; sets without a name are silent."""
    owners: dict[tuple[int, int], list[str]] = {}
    for neurons in sets:
        for address in neurons:
            owners.setdefault(address, []).append(neurons.name)
    return {
        (layer, index): f"{'+'.join(names)}:{layer}.{index}".removeprefix(":")
        for (layer, index), names in owners.items()
    }


def _check_there(addresses: list[tuple[int, int]], model: Model, site: str) -> None:
    n_layers, n_units = model.cfg.n_layers, site_width(model, site)
    for layer, index in addresses:
        require_neuron(layer, index, n_layers, n_units, model=model_name(model))


def _check_model(of: str, model: Model) -> None:
    """Neurons of another model are other neurons; the folder of a model has the name of its id."""
    if of.rsplit("/", 1)[-1] != model_name(model).rsplit("/", 1)[-1]:
        raise GrammarLensError(
            f"the neurons are of {of} and the model is {model_name(model)}: give the model they were "
            f"chosen in (model={of!r})"
        )


def _tokens(model: Model, texts: list[str]) -> Alignment:
    """The sentences' tokens, each as a word of its own, without the special ones.

    Raises GrammarLensError for a sentence that has none.
    """
    alignment = align(texts, [[] for _ in texts], model.tokenizer)
    most = context_length(model)
    longer = [i for i, ids in enumerate(alignment.token_ids) if len(ids) > most]
    if longer:
        _warn(
            f"{len(longer)} of {len(texts)} sentences are longer than the context of {most} tokens, so "
            f"the rest of them is not read, as of sentence {longer[0]}"
        )
    ids = tuple(ids[:most] for ids in alignment.token_ids)
    special = getattr(model.tokenizer, "all_special_ids", [])
    places = [np.flatnonzero(~np.isin(row, special)) for row in ids]
    empty = [i for i, row in enumerate(places) if not len(row)]
    if empty:
        raise GrammarLensError(
            f"sentence {empty[0]} has no tokens ({texts[empty[0]]!r}): leave it out"
        )
    row, place = np.repeat(np.arange(len(ids)), [len(p) for p in places]), np.concatenate(places)
    reason = {position: np.zeros(len(row), np.int8) for position in alignment.reason}
    return replace(
        alignment, token_ids=ids, sentence=row, row=row, first=place, last=place, reason=reason
    )


def _pooled_tokens(tokens: Alignment, pooling: str) -> Bool[np.ndarray, " token"]:
    """The tokens that count."""
    change = np.diff(tokens.row) != 0
    if pooling == "first":
        return np.array([True, *change])
    if pooling == "last":
        return np.array([*change, True])
    return np.ones(len(tokens.row), bool)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)
