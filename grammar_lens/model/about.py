"""Identity of a model: its name, its sizes, and the names of its hooks."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grammar_lens.defaults import SITES
from grammar_lens.errors import GrammarLensError, require_layer, require_one_of

GATE = "blocks.{layer}.mlp.hook_pre"
"""The gate's pre-activation; its sign says whether a neuron fires."""
_PLACES = {
    **SITES,
    "gate": GATE,
    "key": "blocks.{layer}.attn.hook_k",
    "value": "blocks.{layer}.attn.hook_v",
}

Model = Any
"""A `TransformerBridge` or a `HookedTransformer`; typed loosely because either may be absent."""


def is_hooked(model: object) -> bool:
    """Whether this is a TransformerLens model (and not, say, a bare Hugging Face model)."""
    return hasattr(model, "run_with_hooks") and hasattr(model, "cfg")


def model_name(model: Model) -> str:
    """The name the model was loaded by, for results and reports."""
    name = getattr(model, "grammar_lens_name", None)
    return str(name or Path(str(model.cfg.model_name)).name)


def n_parameters(model: Model) -> int:
    """Number of weights; tied weights count once."""
    known = getattr(model, "grammar_lens_n_parameters", None)
    return count_parameters(torch_module(model)) if known is None else int(known)


def fingerprint(model: Model) -> str:
    """A digest of all weights, the same on every device: exact sums of their bits, and some of them.

    It tells checkpoints of one training apart; it is no protection against deliberate forgery.
    """
    digest = hashlib.sha256(b"grammar-lens weights 1\n")
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, weight in sorted(torch_module(model).named_parameters()):
        bits = weight.detach().reshape(-1)
        bits = bits.view(integers[bits.element_size()])
        sums = [int(part.sum(dtype=torch.int64)) for part in (bits, bits[::2], bits[::3])]
        some = bits[:: max(1, len(bits) // 64)].tolist()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} {sums} {some}\n".encode())
    return digest.hexdigest()


def describe(model: Model) -> dict[str, Any]:
    """Name and size of a model, as summary.json has them.

    With them, where known, the formats of a GGUF file's weights and the commit of a hub model.
    """
    stored = getattr(model, "grammar_lens_gguf", None)
    commit = getattr(model, "grammar_lens_commit", None)
    return {
        "name": model_name(model),
        "n_layers": int(model.cfg.n_layers),
        "d_model": int(model.cfg.d_model),
        "d_mlp": int(model.cfg.d_mlp),
        "n_parameters": n_parameters(model),
        **({} if stored is None else {"gguf": stored.record()}),
        **({} if commit is None else {"commit": str(commit)}),
    }


def sizes_of(model: Model) -> dict[str, int]:
    """Sizes that the memory of a pass depends on besides `describe`: heads, and bytes."""
    parameters = list(_different(torch_module(model)))
    n_heads = int(model.cfg.n_heads)
    return {
        "n_heads": n_heads,
        "n_key_heads": int(getattr(model.cfg, "n_key_value_heads", None) or n_heads),
        "d_head": int(model.cfg.d_head),
        "vocabulary": vocabulary_size(model),
        "itemsize": next(embedding(model).parameters()).element_size(),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in parameters),
    }


def device_of(model: Model) -> torch.device:
    """The device on which token ids must be placed."""
    return next(embedding(model).parameters()).device


def context_length(model: Model) -> int:
    """Length of the longest input, in tokens."""
    return int(getattr(model.cfg, "n_ctx", 0) or 2**31 - 1)


def vocabulary_size(model: Model) -> int:
    """Number of tokens in the model's vocabulary."""
    if hasattr(model, "original_model"):
        return next(embedding(model).parameters()).shape[0]
    return int(model.cfg.d_vocab)


def has_gate(model: Model) -> bool:
    """Whether the layers expose the pre-activation whose sign says that a neuron fires."""
    return GATE.format(layer=0) in model.hook_dict


def hook_name(model: Model, site: str, layer: int) -> str:
    """The TransformerLens name of `site` in `layer`.

    Raises GrammarLensError for an unknown site, an absent layer, or a site this architecture lacks.
    """
    require_one_of("site", site, SITES)
    require_layer(layer, model.cfg.n_layers, model_name(model))
    name = SITES[site].format(layer=layer)
    if name not in model.hook_dict:
        have = [s for s, pattern in SITES.items() if pattern.format(layer=layer) in model.hook_dict]
        raise GrammarLensError(
            f"site {site!r} does not exist in {model_name(model)} "
            f"({getattr(model.cfg, 'architecture', None) or 'this architecture'}): use one of {', '.join(have)}"
        )
    return name


def place_name(place: str, layer: int) -> str:
    """The TransformerLens name of a site, of the gate, or of a layer's keys or values."""
    return _PLACES[place].format(layer=layer)


def site_width(model: Model, site: str) -> int:
    """Number of units in one layer at `site`."""
    hook_name(model, site, 0)
    return int(model.cfg.d_mlp if site == "neuron" else model.cfg.d_model)


def mid_reaches_residual(model: Model) -> bool:
    """Whether an edit at `resid_mid` also reaches the skip path: not in a TransformerBridge."""
    return not hasattr(model, "original_model")


def embedding(model: Model) -> nn.Module:
    """The module that receives the token ids."""
    if hasattr(model, "original_model"):
        return model.original_model.get_input_embeddings()
    return model.embed


def supported_architectures() -> list[str]:
    """The Hugging Face architectures that the installed TransformerLens can hook."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return sorted(SUPPORTED_ARCHITECTURES)


def torch_module(model: Model) -> nn.Module:
    return getattr(model, "original_model", model)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in _different(module))


def _different(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters, tied ones once; without weights (on the meta device) all addresses are 0."""
    return iter({p.data_ptr() or id(p): p for p in module.parameters()}.values())
