"""Refuse models whose neurons cannot be told apart: mixtures of experts, packed weights, no MLP."""

import re
from typing import Any

from torch import Tensor

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, model_name, torch_module

DENSE = "Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma 2, OLMo 2, Phi, GPT-2, GPT-NeoX, OPT, Falcon"
"""Families with one dense MLP a layer."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERT_NAMES = re.compile(r"moe|mixtral|deepseek|gptoss|minimax|jamba|switch", re.IGNORECASE)


def require_dense(config: Any) -> None:
    """Raises GrammarLensError for the config of a mixture of experts, by its entries or architecture."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    experts = [int(getattr(text, name, None) or 0) for name in EXPERTS]
    names = [name for name in (config.architectures or []) if _EXPERT_NAMES.search(name)]
    if max(experts) > 1 or names:
        what = (config.architectures or [type(config).__name__])[0]
        raise GrammarLensError(
            f"{what} is a mixture of experts: an expert's neurons are computed only at the tokens "
            "routed to it, so they have no activation to compare over words. Supported are models "
            f"with one dense MLP a layer: {DENSE} and their like"
        )


def mlp_width(model: Model) -> int:
    """Neurons in every layer, from the weights that the neurons write with.

    Raises GrammarLensError where a layer has no such weight, a packed one, or another number of neurons.
    """
    widths = []
    for layer in range(model.cfg.n_layers):
        mlp = getattr(model.blocks[layer], "mlp", None)
        weight = _outgoing(mlp)
        if not isinstance(weight, Tensor):
            raise GrammarLensError(
                f"layer {layer} of {model_name(model)} has no MLP with one weight from its neurons "
                f"to the residual stream (found {type(mlp).__name__}). Supported are models with one "
                f"dense MLP a layer: {DENSE} and their like"
            )
        require_plain(model, weight, f"the MLP of layer {layer}")
        if weight.ndim != 2 or weight.shape[1] != model.cfg.d_model:
            raise GrammarLensError(
                f"the MLP of layer {layer} of {model_name(model)} writes with a weight of shape "
                f"{tuple(weight.shape)}, expected (neurons, {model.cfg.d_model})"
            )
        widths.append(int(weight.shape[0]))
    if len(set(widths)) != 1:
        raise GrammarLensError(
            f"the layers of {model_name(model)} have {min(widths)} to {max(widths)} neurons, expected "
            "the same number in every layer"
        )
    return widths[0]


def _outgoing(mlp: Any) -> Tensor | None:
    """The weight that neurons write with, [neuron, d_model]; its values may be absent or packed."""
    module: Any = getattr(mlp, "out", None)
    while hasattr(module, "original_component"):  # a model may be wrapped more than once
        module = module.original_component
    weight = getattr(module, "weight", None)
    if weight is None:
        # a HookedTransformer, or a layer that keeps its weight under another name
        try:
            return getattr(mlp, "W_out", None)
        except NotImplementedError:
            return None
    # GPT-2's Conv1D stores [in, out], a linear layer [out, in]
    return weight if type(module).__name__ == "Conv1D" else weight.T


def require_plain(model: Model, weight: Tensor, what: str) -> None:
    """Raises GrammarLensError for weights that are stored in 4 or 8 bits and so are not their values."""
    if not weight.is_floating_point() or weight.element_size() < 2:
        kind = type(torch_module(model)).__name__
        raise GrammarLensError(
            f"{what} of {kind} is stored as {str(weight.dtype).removeprefix('torch.')}, and its "
            "values are needed: load the model in 16 or 32 bits, without quantization_config"
        )


def require_vocabulary(tokenizer: Any, rows: int) -> None:
    """Raises GrammarLensError where a tokenizer's own vocabulary is larger than the embedding."""
    size = int(tokenizer.vocab_size)
    if size > rows:
        raise GrammarLensError(
            f"the tokenizer has {size} tokens and the model's embedding {rows} rows: they do not "
            "belong together. Give the model's own tokenizer, or resize_token_embeddings"
        )
