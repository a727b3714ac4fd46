"""Models whose neurons cannot be told apart are refused, and widths are those of the weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import grammar_lens as gl
from grammar_lens.corpus.corpus import prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.model import about, weights
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model

BASE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FEW = {**BASE, "num_key_value_heads": 2, "num_experts_per_tok": 2}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {**FEW, "num_local_experts": 4}),
    "mixtral, as wide as the residual stream": (
        "MixtralConfig",
        {**FEW, "intermediate_size": 32, "num_local_experts": 4},
    ),
    "qwen2": ("Qwen2MoeConfig", {**FEW, "num_experts": 4, "moe_intermediate_size": 16}),
    "qwen3": ("Qwen3MoeConfig", {**FEW, "num_experts": 4, "moe_intermediate_size": 16}),
    "olmoe": ("OlmoeConfig", {**FEW, "num_experts": 4}),
    "gpt-oss": ("GptOssConfig", {**FEW, "num_local_experts": 4, "head_dim": 8}),
    "deepseek": (
        "DeepseekV3Config",
        {**BASE, **LATENT, "n_routed_experts": 4, "num_experts_per_tok": 2},
    ),
}


def made(config: str, options: dict[str, Any]) -> Any:
    """A tiny random model."""
    chosen = getattr(transformers, config)(**options)
    return transformers.AutoModelForCausalLM.from_config(chosen, attn_implementation="eager")


@pytest.mark.parametrize("kind", EXPERTS)
def test_mixtures_of_experts_are_refused(kind: str, tiny_tokenizer: Any):
    with pytest.raises(
        GrammarLensError, match=r"is a mixture of experts.*one dense MLP a layer: Llama,"
    ):
        load_model(made(*EXPERTS[kind]), tokenizer=tiny_tokenizer)


def test_a_folder_with_experts_is_refused_before_its_weights_are_read(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
):
    tiny_hf().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    changed = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(GrammarLensError, match="MixtralForCausalLM is a mixture of experts"):
        load_model(tmp_path)


def test_experts_without_a_telling_name_are_refused_by_shape(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("grammar_lens.model.loading.require_dense", lambda _config: None)
    with pytest.raises(GrammarLensError, match=r"layer 0 of .* has no MLP with one weight"):
        load_model(made(*EXPERTS["mixtral"]), tokenizer=tiny_tokenizer)


WIDE: dict[str, dict[str, Any]] = {
    "OPTConfig": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "FalconConfig": {"ffn_hidden_size": 48},
}


@pytest.mark.parametrize("config", WIDE)
def test_the_width_is_that_of_the_weights(config: str, tiny_tokenizer: Any, bank: gl.Treebank):
    """TransformerLens' config says 4 x 32 for both."""
    base = {name: size for name, size in BASE.items() if name != "intermediate_size"}
    model = load_model(made(config, {**base, **WIDE[config]}), tokenizer=tiny_tokenizer)
    assert about.site_width(model, "neuron") == model.cfg.d_mlp == 48
    moments = gl.collect(model, bank["train"], position="next")
    assert moments["neuron"].mean.shape[-2:] == (2, 48)


def test_layers_of_different_width_are_refused(tiny_hf: Callable[[], Any], tiny_tokenizer: Any):
    hf = tiny_hf()
    mlp = hf.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Linear(32, 40, bias=False), nn.Linear(32, 40, bias=False)
    mlp.down_proj = nn.Linear(40, 32, bias=False)
    with pytest.raises(
        GrammarLensError, match="have 40 to 48 neurons, expected the same number in every"
    ):
        load_model(hf, tokenizer=tiny_tokenizer)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_packed_weights_are_refused(
    dtype: torch.dtype, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
):
    hf = tiny_hf()
    for layer in hf.model.layers:
        packed = layer.mlp.down_proj.weight.detach().to(dtype)
        layer.mlp.down_proj.weight = nn.Parameter(packed, requires_grad=False)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        GrammarLensError, match=f"MLP of layer 0 of .* is stored as {name}.*16 or 32 bits"
    ):
        load_model(hf, tokenizer=tiny_tokenizer)


def test_a_packed_head_is_refused_where_it_is_read(make_tiny: Callable[[], Model]):
    model = make_tiny()
    head = model.original_model.get_output_embeddings()
    head = getattr(head, "original_component", head)
    head.weight = nn.Parameter(head.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(GrammarLensError, match=r"the head of .* is stored as int8"):
        weights.unembedding(model)


# Vocabularies -------------------------------------------------------------------------------


def test_an_embedding_smaller_than_the_tokenizer_is_one_line(tiny_tokenizer: Any):
    hf = made("LlamaConfig", {**FEW, "vocab_size": 300})
    size = tiny_tokenizer.vocab_size
    with pytest.raises(
        GrammarLensError, match=f"tokenizer has {size} tokens and .* embedding 300 rows"
    ):
        load_model(hf, tokenizer=tiny_tokenizer)


def test_an_added_token_matters_only_where_it_is_read(
    tiny_tokenizer: Any, write: Callable[..., gl.Treebank]
):
    size = tiny_tokenizer.vocab_size
    model = load_model(made("LlamaConfig", {**FEW, "vocab_size": size}), tokenizer=tiny_tokenizer)
    model.tokenizer.add_tokens(["zebra"])
    assert len(model.tokenizer) == size + 1
    plain = write("The DET|dog NOUN|sleeps VERB\nThe DET|cat NOUN|runs VERB")
    assert prepare(model, plain).alignment.n_words == 6
    with pytest.raises(
        GrammarLensError, match=f"token {size} of these words, and .* embeds {size}"
    ):
        prepare(model, write("The DET|zebra NOUN|sleeps VERB\nThe DET|cat NOUN|runs VERB"))
