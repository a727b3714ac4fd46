"""Small models of many architectures, with random weights."""

from typing import Any

import torch

SHAPE: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

GROUPED: dict[str, Any] = {**SHAPE, "num_key_value_heads": 2}

GPT2 = {
    "vocab_size": 400,
    "n_embd": 32,
    "n_inner": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
}

GEMMA2 = {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 0.5}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "llama tied": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 4}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "gemma": ("GemmaConfig", {**GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**GROUPED, **GEMMA2, "sliding_window": 4}),
    "gpt2": ("GPT2Config", GPT2),
    "pythia": ("GPTNeoXConfig", SHAPE),
}

IDS = torch.randint(3, 400, (3, 9), generator=torch.Generator().manual_seed(1))


def shake(model: torch.nn.Module) -> None:
    """Random weights, large enough that every part of the model matters; norms stay near 1."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=rng) * 0.2
            weight.copy_(1 + noise if "norm" in name and weight.ndim == 1 else noise)
