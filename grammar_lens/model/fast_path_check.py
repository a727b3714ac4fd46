"""Check that a bridged model's fast path computes the same as the bridge, before it is used."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grammar_lens.model.about import SITES as HOOKED_SITES
from grammar_lens.model.about import Model, context_length, hook_name, place_name
from grammar_lens.model.fast_path import SITES, BareModel, Reading
from grammar_lens.model.forward import hooked
from grammar_lens.model.onednn import fast
from grammar_lens.model.weights import output_weight

_KNOWN = "grammar_lens_bare"
"""Attribute of a model that caches its fast path, since comparing takes several forward passes."""
_SAME = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
"""Largest difference between activations of the bridge and the bare layers, as a share of their size;
Hugging Face computes norms and attention weights in float32 whatever the dtype."""


@torch.no_grad()
def bare_model(model: Model) -> BareModel | None:
    """The model's layers without the bridge, or None where that is not the same model.

    It is taken only if all activations of a few tokens agree with the bridge's, edited and not, so a
    new architecture is slower there, never wrong. None for a `HookedTransformer`, for weights on several
    devices, for layers that are not named as Llama's are, and while hooks are on the model (as
    within a lesion), which the bare layers would not see.
    """
    if not hasattr(model, "original_model") or _has_hooks(model):
        return None
    parts = _parts(model)
    known = getattr(model, _KNOWN, None)
    if known is None or known[0] != parts:
        found = _twin(model)
        known = (parts, found if found is not None and _agrees(model, found) else None)
        setattr(model, _KNOWN, known)
    return known[1]


def _parts(model: Model) -> list[tuple[object, ...]]:
    """Identity of the model's parts and modes, to notice changes since the comparison.

    Weights that change in place do not matter: the bare layers have the same.
    """
    modules = [
        (id(m), id(m.__dict__.get("forward")), id(type(m).forward))
        for m in model.original_model.modules()
    ]
    weights = [(w.data_ptr(), w.dtype, w.device) for w in model.original_model.parameters()]
    return [*modules, *weights]


def _has_hooks(model: Model) -> bool:
    """Whether anyone's hooks are on the model.

    The bridge's own do not count, nor those with which Hugging Face records hidden states, which stay
    on a model once it has been asked for them.
    """
    if any(point.fwd_hooks for point in model.hook_dict.values()):
        return True
    modules = list(model.original_model.modules())
    hooks = [
        h for m in modules for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    owners = [getattr(hook, "__module__", None) or "" for hook in hooks]
    return any(not owner.startswith(("transformer_lens.", "transformers.")) for owner in owners)


def _twin(model: Model) -> BareModel | None:
    original = model.original_model
    if len({p.device for p in original.parameters()}) > 1:
        return None
    config = copy.deepcopy(original.config)
    config._attn_implementation = "sdpa"
    try:
        with torch.device("meta"):
            twin = type(original)(config).eval()
        for name, module in list(twin.named_modules()):
            if name and not list(module.children()):
                parent, _, leaf = name.rpartition(".")
                setattr(twin.get_submodule(parent), leaf, fast(_inside(original, name)))
        bare = BareModel(twin)
        complete = all(
            hasattr(layer, "self_attn") and hasattr(layer.mlp, "down_proj")
            for layer in bare.body.layers
        )
    except (AttributeError, ValueError, TypeError, IndexError):
        return None
    there = [*twin.parameters(), *twin.buffers()]
    return bare if complete and not any(t.is_meta for t in there) else None


def _inside(model: nn.Module, name: str) -> nn.Module:
    """The Hugging Face module of that name, whatever the bridge wrapped around it on the way."""

    def unwrapped(module: Any) -> Any:
        while getattr(module, "original_component", None) is not None:
            module = module.original_component
        return module

    here = unwrapped(model)
    for part in name.split("."):
        here = unwrapped(here[int(part)] if part.isdigit() else getattr(here, part))
    return here


def _agrees(model: Model, bare: BareModel) -> bool:
    """Whether bridge and bare layers compute the same, also when edited and when run one by one."""
    vocabulary = next(model.original_model.get_input_embeddings().parameters())
    n = min(12, context_length(model))
    ids = torch.arange(2 * n, device=vocabulary.device).reshape(2, n) * 7919 % len(vocabulary)
    ids[:, 0] = 0  # the prefix
    layers = range(bare.n_layers)
    sites = [s for s in SITES if HOOKED_SITES[s].format(layer=0) in model.hook_dict]
    places = [(site, layer) for site in sites for layer in layers]
    extra = [
        s for s in ("gate", "resid_mid") if s in bare.places and place_name(s, 0) in model.hook_dict
    ]
    seen: dict[tuple[str, int], Tensor] = {}

    def look(at: tuple[str, int]) -> Callable[..., None]:
        def hook(x: Tensor, **_: object) -> None:
            seen[at] = x.clone()

        return hook

    def halve(x: Tensor, **_: object) -> Tensor:
        return torch.cat([x[:, :1], x[:, 1:] / 2], 1)

    try:
        watched = [(site, layer) for site in (*sites, *extra) for layer in layers]
        with hooked(model, [(place_name(*at), look(at)) for at in watched]):
            want = model(ids)
        with hooked(model, [(hook_name(model, *at), halve) for at in places]):
            want_halved = model(ids)
        keep = dict.fromkeys((*sites, *extra), layers) | {"resid_pre": range(bare.n_layers + 1)}
        reading = bare.read(ids, keep, n_prefix=1)
        got = _one_by_one(bare, reading)
        with bare.changed({at: lambda x: x / 2 for at in places}):
            got_halved = _one_by_one(bare, reading)
        pairs = [(want[:, 1:], got), (want_halved[:, 1:], got_halved)]
        pairs += [(seen[at], reading.kept[at]) for at in places]
        pairs += [_written_both_ways(model, bare, reading, layer) for layer in layers]
    except Exception:  # whatever layers of another make do not have or do not take
        return False
    share = _SAME.get(vocabulary.dtype, 1e-3)

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and bool((a - b).abs().max() <= share * a.abs().max())

    differ = {s for s in extra if not all(same(seen[s, la], reading.kept[s, la]) for la in layers)}
    bare.places -= differ | ({"gate", "resid_mid"} - set(extra))
    return all(same(a, b) for a, b in pairs)


def _one_by_one(bare: BareModel, reading: Reading) -> Float[Tensor, "row time vocab"]:
    """Logits after the prefix, the rows of the reading run twice over as a battery does."""
    start = reading.kept["resid_pre", 0][:, 1:]
    n_rows, n_times, _ = start.shape
    where = torch.arange(2 * n_rows * n_times, device=start.device)
    out = bare.run(start.repeat(2, 1, 1), 0, reading, where, repeats=2)
    return bare.logits(out[n_rows * n_times :]).reshape(n_rows, n_times, -1)


def _written_both_ways(
    model: Model, bare: BareModel, reading: Reading, layer: int
) -> tuple[Tensor, Tensor]:
    """Output of amplified neurons to the residual stream: by their weights, and as measured.

    They differ where a norm or a factor stands between the MLP and the stream. Amplified so that
    rounding of the stream does not hide it.
    """
    before, after = reading.kept["resid_pre", layer], reading.kept["resid_pre", layer + 1]
    written = reading.kept["neuron", layer] @ output_weight(model, layer)
    size = float(written.abs().max())
    factor = 8 * float(after.abs().max()) / size if size else 1.0
    with bare.changed({("neuron", layer): lambda x: x * (1 + factor)}):
        out = bare.body.layers[layer](before, **reading.told[layer], use_cache=False)
    return factor * written, (out[0] if isinstance(out, tuple) else out) - after
