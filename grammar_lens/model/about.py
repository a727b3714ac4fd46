"""Identity of a model: its name, its sizes, and the names of its hooks."""

import hashlib
from collections.abc import Iterator, Sequence
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
    "up": "blocks.{layer}.mlp.hook_pre_linear",
    "query": "blocks.{layer}.attn.hook_q",
    "key": "blocks.{layer}.attn.hook_k",
    "value": "blocks.{layer}.attn.hook_v",
}

LOOKED_AT = 8
"""Elements of each weight by which every use checks that the fingerprint still holds."""
PART = 6 << 22
"""Elements of a weight taken at once; a multiple of 6, so that every second and third stay the same."""
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

    Half-precision weights are taken as float32, which holds them exactly, so it is also the same
    where they were loaded as that. It distinguishes checkpoints of one training; it is no protection
    against deliberate forgery. It is remembered on the model, and computed anew when a weight was
    replaced, changed in place by torch, or differs at one of the few places looked at each time; a
    change of single elements through `.data` can go unnoticed.
    """
    weights = sorted(torch_module(model).named_parameters())
    state = _state(weights)
    known = getattr(model, "grammar_lens_weights", None)
    if known is None or known[0] != state:
        known = model.grammar_lens_weights = (state, _digest(weights))
    return known[1]


def _state(weights: Sequence[tuple[str, nn.Parameter]]) -> tuple[object, ...]:
    """A state that changes when a weight does, at the cost of a few elements of each."""
    versions = tuple(
        (name, w.data_ptr(), w.dtype, 0 if w.is_inference() else w._version) for name, w in weights
    )
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for _, w in weights:
        flat = w.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // LOOKED_AT)][:LOOKED_AT]
        by_device.setdefault(w.device, []).append(some.float())
    looked = tuple(torch.cat(some).cpu().numpy().tobytes() for some in by_device.values())
    return versions, looked


def _digest(weights: Sequence[tuple[str, nn.Parameter]]) -> str:
    digest = hashlib.sha256(b"grammar-lens weights 1\n")
    for name, weight in weights:
        flat, sums = weight.detach().reshape(-1), [0, 0, 0]
        half = flat.dtype in (torch.bfloat16, torch.float16)
        for part in flat.split(PART):
            bits = _bits(part.float() if half else part)
            for i in range(3):
                sums[i] += int(bits[:: i + 1].sum(dtype=torch.int64))
        some = flat[:: max(1, len(flat) // 64)]
        kept = _bits(some.float() if half else some.contiguous()).tolist()
        dtype = torch.float32 if half else weight.dtype
        digest.update(f"{name} {dtype} {tuple(weight.shape)} {sums} {kept}\n".encode())
    return digest.hexdigest()


def _bits(values: torch.Tensor) -> torch.Tensor:
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.view(integers[values.element_size()])


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
    return hook_names(model, site, [layer])[0]


def hook_names(model: Model, site: str, layers: Sequence[int]) -> list[str]:
    """`hook_name` of several layers: a bridge makes the table of its hooks anew whenever it is asked."""
    require_one_of("site", site, SITES)
    for layer in layers:
        require_layer(layer, model.cfg.n_layers, model_name(model))
    hooks, names = model.hook_dict, [SITES[site].format(layer=layer) for layer in layers]
    for name, layer in zip(names, layers, strict=True):
        if name not in hooks:
            have = [s for s, pattern in SITES.items() if pattern.format(layer=layer) in hooks]
            raise GrammarLensError(
                f"site {site!r} does not exist in {model_name(model)} "
                f"({getattr(model.cfg, 'architecture', None) or 'this architecture'}): use one of {', '.join(have)}"
            )
    return names


def place_name(place: str, layer: int) -> str:
    """The TransformerLens name of a site, or of a place beside the sites, such as a layer's keys."""
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


def unwrapped(module: Any) -> Any:
    """The Hugging Face module, whatever the bridge has wrapped around it."""
    while getattr(module, "original_component", None) is not None:
        module = module.original_component
    return module


def torch_module(model: Model) -> nn.Module:
    return getattr(model, "original_model", model)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in _different(module))


def _different(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters, tied ones once; without weights (on the meta device) all addresses are 0."""
    return iter({p.data_ptr() or id(p): p for p in module.parameters()}.values())
