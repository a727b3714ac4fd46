"""The embedded model in both classes of TransformerLens 3.9, and results to work on."""

import warnings
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grammar_lens.corpus.bank import Treebank
from grammar_lens.model.about import Model
from grammar_lens.model.loading import REFERENCE_MODEL, load_model, locate
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.selection import select
from grammar_lens.selectivity.collecting import Collected, collect
from grammar_lens.selectivity.scoring import score


@pytest.fixture(scope="session")
def ours() -> Model:
    """The embedded model as a HookedTransformer, from its shape and weights."""

    # typed loosely: the type checker sees TransformerLens 4, which has neither class nor conversion
    lens: Any = import_module("transformer_lens")
    conversions: Any = import_module("transformer_lens.pretrained.weight_conversions")
    folder = locate(REFERENCE_MODEL)
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    shape = hf.config
    with warnings.catch_warnings():
        # TransformerLens 3 announces that this class will go
        warnings.simplefilter("ignore")
        config = lens.HookedTransformerConfig(
            n_layers=shape.num_hidden_layers,
            d_model=shape.hidden_size,
            n_ctx=shape.max_position_embeddings,
            d_head=shape.head_dim,
            n_heads=shape.num_attention_heads,
            n_key_value_heads=shape.num_key_value_heads,
            d_mlp=shape.intermediate_size,
            d_vocab=shape.vocab_size,
            act_fn="silu",
            gated_mlp=True,
            final_rms=True,
            eps=shape.rms_norm_eps,
            normalization_type="RMS",
            positional_embedding_type="rotary",
            rotary_adjacent_pairs=False,
            rotary_dim=shape.head_dim,
            rotary_base=int(shape.rope_parameters["rope_theta"]),
            original_architecture="LlamaForCausalLM",
            model_name=REFERENCE_MODEL,
            dtype=torch.float32,
            device="cpu",
        )
        model = lens.HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(folder))
        model.load_and_process_state_dict(
            conversions.convert_llama_weights(hf, config),
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
    return load_model(model)


@pytest.fixture(scope="session")
def theirs(reference: Model) -> Model:
    """The same model as a TransformerBridge."""
    return reference


@pytest.fixture(scope="session")
def collected(ours: Model, theirs: Model, bank: Treebank) -> tuple[Collected, Collected]:
    """Every site at both positions, in each class."""
    options: dict[str, Any] = {
        "sites": ("neuron", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"),
        "position": ("word", "next"),
        "show_progress": False,
    }
    one, other = (collect(model, bank["train"], **options) for model in (ours, theirs))
    return one, other


@pytest.fixture(scope="session")
def keys(collected: tuple[Collected, Collected]) -> KeyNeurons:
    """Key neurons at "next", chosen in the bridge and of any model.

    The two classes hold the same weights in other shapes, so their fingerprints differ.
    """
    found = select(score(collected[1].at("next")["neuron"]), k=20)
    sets = {label: replace(neurons, weights="") for label, neurons in found.items()}
    return replace(found, sets=sets, origin=replace(found.origin, weights=""))
