"""Models whose attributions are known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_attributions import Words, words_of
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from grammar_lens.corpus.bank import Treebank
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model


@pytest.fixture
def exact(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> Model:
    """The tiny model in float64 throughout: the norms and the softmax would round to float32.

    So that differences of losses are right to 1e-13 and a dose can be small.
    """

    def norm(self: Any, x: Tensor) -> Tensor:
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(
        AttentionBridge, "_masked_softmax", lambda _self, scores, **_: torch.softmax(scores, -1)
    )
    return load_model(tiny_hf(), tokenizer=tiny_tokenizer, dtype=torch.float64)


@pytest.fixture
def planted(
    make_tiny: Callable[[], Model], bank: Treebank
) -> Callable[[float], tuple[Model, Words, int]]:
    """A model whose neuron (1, 17) alone raises the logit of one noun's first token.

    It does so through a dimension that nothing else writes to or reads. Only that token's words,
    and their label, are left to score.
    """

    def make(strength: float) -> tuple[Model, Words, int]:
        model = make_tiny()
        words = words_of(bank, model)
        label = words.lexicon.labels.index("NOUN")
        first = words.alignment.first_token
        tokens, counts = np.unique(first[words.classes == label], return_counts=True)
        token = int(tokens[counts.argmax()])
        body = model.original_model.base_model
        with torch.no_grad():
            body.embed_tokens.weight[:, 0] = 0
            head = model.original_model.get_output_embeddings().original_component.weight
            head[:, 0] = 0
            head[token, 0] = 1
            for layer in body.layers:
                layer.self_attn.o_proj.weight[0] = 0
                layer.mlp.down_proj.weight[0] = 0
            mlp = body.layers[1].mlp
            # silu(x) x is never negative
            mlp.up_proj.weight[17] = mlp.gate_proj.weight[17]
            mlp.down_proj.weight[:, 17] = 0
            mlp.down_proj.weight[0, 17] = strength
        return model, replace(words, classes=np.where(first == token, words.classes, -1)), label

    return make
