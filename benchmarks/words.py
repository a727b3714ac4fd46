"""The words that the benchmarks read, and passes over them that several time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import grammar_lens as gl
from grammar_lens.corpus.alignment import Alignment, TokenBatch
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.origin import Origin
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.lesions.outcomes import Condition
from grammar_lens.model.about import Model, device_of, model_name
from grammar_lens.model.loading import locate
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.passes.moments import MomentAccumulator, Moments
from grammar_lens.selectivity.attribution.first_order import attribute_own

POSITION = "next"


def hugging_face(name: str) -> Any:
    """The model as users of Hugging Face load it, in float32 with sdpa."""
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(
        locate(name), dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True
    ).eval()


def about(model: Model, corpus: Corpus) -> dict[str, Any]:
    """What was read, for the JSON file."""
    size = {"sentences": len(corpus.bank), "tokens": corpus.alignment.n_tokens}
    return {"model": model_name(model), "treebank": corpus.bank.name, **size}


def load(config: Any, treebank: str, most: int | None = None) -> tuple[Model, Corpus, Corpus]:
    """The model, the words to choose on, and up to `most` sentences of the others, by the flags."""
    model = gl.load_model(config.model, device="cpu")
    train = with_every_tag(model, config.train)
    return model, train, fresh_corpus(model, load_treebank(treebank, label="upos"), train, most)[0]


def with_every_tag(model: Model, source: str) -> Corpus:
    """The words of a treebank, named as for `--train`, with all its tags."""
    bank = load_treebank(source, label="upos")
    return prepare(model, bank, labels=bank.require_label("upos")[0])


def random_lesions(
    labels: Sequence[str], n: int, k: int, n_layers: int, n_units: int
) -> list[Condition]:
    """Lesions of `k` random neurons in all layers: the battery begins at the first one, as a study's does."""
    rng, k = np.random.default_rng(0), min(k, n_units)
    layers, zeros = np.arange(k) % n_layers, np.zeros(k)
    conditions = []
    for i in range(n):
        index = rng.permutation(n_units)[:k]
        neurons = Neurons(f"set {i}", "neuron", layers, index, zeros, mean=zeros)
        conditions.append(Condition(labels[i % len(labels)], i // len(labels), neurons))
    return conditions


def readable(model: Model, bank: gl.Treebank) -> Corpus:
    """The corpus with those tags that at least 2 of its words can be read for."""
    corpus = prepare(model, bank, labels=bank.require_label("upos")[0])
    codes = corpus.read(POSITION)
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    frequent = [label for label, n in zip(corpus.labels, counts, strict=True) if n >= 2]
    return prepare(model, bank, labels=frequent)


@torch.no_grad()
def run_body(body: Any, batches: Sequence[TokenBatch]) -> None:
    """A forward pass without the head."""
    device = next(body.parameters()).device
    for batch in batches:
        body(batch.token_ids.to(device), use_cache=False)


@torch.no_grad()
def run_with_head(
    model: Any, alignment: Alignment, batches: Sequence[TokenBatch], wanted: np.ndarray
) -> None:
    """A forward pass of a Hugging Face model with the head at the wanted words."""
    for batch in batches:
        _, where = batch.locate(alignment, POSITION, wanted)
        hidden = model.model(batch.token_ids.to(model.device), use_cache=False).last_hidden_state
        model.lm_head(hidden.flatten(0, 1)[torch.from_numpy(where).to(model.device)])


def own_attribution(
    model: Model,
    alignment: Alignment,
    batches: Sequence[TokenBatch],
    codes: np.ndarray,
    lexicon: Lexicon,
) -> Moments:
    """Moments of what each neuron contributes to every word's own loss."""
    words, zeros = (model, alignment, batches, codes), np.zeros(_neurons(model))
    return read_attribution(
        model, lexicon, lambda reader: attribute_own(*words, lexicon, zeros, [(codes, reader)])
    )


def read_attribution(
    model: Model, lexicon: Lexicon, read: Callable[[MomentAccumulator], object]
) -> Moments:
    """Moments of the attributions that `read` hands to a reader."""
    reader = MomentAccumulator(lexicon.labels, *_neurons(model), device_of(model))
    read(reader)
    return reader.moments(Origin("", "", "upos", POSITION, "neuron"))


def _neurons(model: Model) -> tuple[int, int]:
    return model.cfg.n_layers, model.cfg.d_mlp
