"""The words that the benchmarks read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import grammar_lens as gl
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.lesions.outcomes import Condition
from grammar_lens.model.about import Model, model_name
from grammar_lens.model.loading import locate
from grammar_lens.neurons.neurons import Neurons

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
        conditions.append(Condition(labels[i % len(labels)], 1 + i // len(labels), neurons))
    return conditions


def readable(model: Model, bank: gl.Treebank) -> Corpus:
    """The corpus with those tags that at least 2 of its words can be read for."""
    corpus = prepare(model, bank, labels=bank.require_label("upos")[0])
    codes = corpus.read(POSITION)
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    frequent = [label for label, n in zip(corpus.labels, counts, strict=True) if n >= 2]
    return prepare(model, bank, labels=frequent)
