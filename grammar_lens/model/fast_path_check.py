"""Check that a bridged model's fast path computes the same as the bridge, before it is used."""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grammar_lens.defaults import SITES as HOOKED_SITES
from grammar_lens.model.about import Model, context_length, hook_name, place_name, unwrapped
from grammar_lens.model.fast_path import SITES, Change, FastPath, IntactPass
from grammar_lens.model.forward import hooked
from grammar_lens.model.onednn import with_onednn
from grammar_lens.model.weights import output_weight

_KNOWN = "grammar_lens_fast_path"
"""Attribute of a model that caches its fast path, since comparing takes several forward passes."""
_COMPARED = ("gate", "up", "resid_mid")
"""Places beside the sites whose values are used, and so must be the bridge's."""
SAME = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
"""Largest difference between activations of the bridge and the fast path, as a share of their size;
Hugging Face computes norms and attention weights in float32 whatever the dtype."""


@torch.no_grad()
def fast_path(model: Model) -> FastPath | None:
    """The model's layers without the bridge, or None where that is not the same model.

    It is used only if all activations of a few tokens agree with the bridge's, edited and not, so
    that an unknown architecture is slower but never wrong. None for a `HookedTransformer`, for
    weights on several devices, for layers not named as Llama's are, and while hooks are on the model
    (as within a lesion), which the fast path would bypass.
    """
    if not hasattr(model, "original_model") or _has_hooks(model):
        return None
    parts = _parts(model)
    known = getattr(model, _KNOWN, None)
    if known is None or known[0] != parts:
        rebuilt = _rebuilt(model)
        known = (parts, rebuilt if rebuilt is not None and _agrees(model, rebuilt) else None)
        setattr(model, _KNOWN, known)
    return known[1]


def _parts(model: Model) -> list[tuple[object, ...]]:
    """Identity of the model's parts and modes, to notice changes since the comparison.

    Weights that change in place do not matter: the fast path shares them.
    """
    modules = [
        (id(m), id(m.__dict__.get("forward")), id(type(m).forward))
        for m in model.original_model.modules()
    ]
    weights = [(w.data_ptr(), w.dtype, w.device) for w in model.original_model.parameters()]
    return [*modules, *weights]


def _has_hooks(model: Model) -> bool:
    """Whether a caller's hooks are on the model.

    The bridge's own do not count, nor those with which Hugging Face records hidden states, which
    stay on a model once hidden states have been requested.
    """
    if any(point.fwd_hooks for point in model.hook_dict.values()):
        return True
    modules = list(model.original_model.modules())
    hooks = [
        h for m in modules for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    owners = [getattr(hook, "__module__", None) or "" for hook in hooks]
    return any(not owner.startswith(("transformer_lens.", "transformers.")) for owner in owners)


def _rebuilt(model: Model) -> FastPath | None:
    original = model.original_model
    if len({p.device for p in original.parameters()}) > 1:
        return None
    config = copy.deepcopy(original.config)
    config._attn_implementation = "sdpa"
    try:
        with torch.device("meta"):
            rebuilt = type(original)(config).eval()
        for name, module in list(rebuilt.named_modules()):
            if name and not list(module.children()):
                parent, _, leaf = name.rpartition(".")
                setattr(rebuilt.get_submodule(parent), leaf, with_onednn(_inside(original, name)))
        fast = FastPath(rebuilt)
        complete = all(
            hasattr(layer, "self_attn") and hasattr(layer.mlp, "down_proj")
            for layer in fast.body.layers
        )
    except (AttributeError, ValueError, TypeError, IndexError):
        return None
    tensors = [*rebuilt.parameters(), *rebuilt.buffers()]
    return fast if complete and not any(t.is_meta for t in tensors) else None


def _inside(model: nn.Module, name: str) -> nn.Module:
    """The Hugging Face module of that name, whatever the bridge wrapped around it on the way."""
    module = unwrapped(model)
    for part in name.split("."):
        module = unwrapped(module[int(part)] if part.isdigit() else getattr(module, part))
    return module


def _agrees(model: Model, fast: FastPath) -> bool:
    """Whether bridge and fast path compute the same, also when edited and when run layer by layer."""
    vocabulary = next(model.original_model.get_input_embeddings().parameters())
    n = min(12, context_length(model))
    ids = torch.arange(2 * n, device=vocabulary.device).reshape(2, n) * 7919 % len(vocabulary)
    ids[:, 0] = 0  # the prefix
    layers = range(fast.n_layers)
    sites = [s for s in SITES if HOOKED_SITES[s].format(layer=0) in model.hook_dict]
    places = [(site, layer) for site in sites for layer in layers]
    extra = [s for s in _COMPARED if s in fast.places and place_name(s, 0) in model.hook_dict]
    hooked_activations: dict[tuple[str, int], Tensor] = {}

    def look(at: tuple[str, int]) -> Callable[..., None]:
        def hook(x: Tensor, **_: object) -> None:
            hooked_activations[at] = x.clone()

        return hook

    # the stream itself by a little in each layer: halved so often it would end in rounding
    little = 1 - 0.5 / fast.n_layers
    factors = {at: little if at[0] in ("resid_pre", "resid_post") else 0.75 for at in places}

    def scaled(factor: float) -> Callable[..., Tensor]:
        def hook(x: Tensor, **_: object) -> Tensor:
            return torch.cat([x[:, :1], x[:, 1:] * factor], 1)

        return hook

    def scaled_later(factor: float) -> Change:
        return lambda x: x * factor

    try:
        watched = [(site, layer) for site in (*sites, *extra) for layer in layers]
        with hooked(model, [(place_name(*at), look(at)) for at in watched]):
            want = model(ids)
        with hooked(model, [(hook_name(model, *at), scaled(f)) for at, f in factors.items()]):
            want_edited = model(ids)
        keep = dict.fromkeys((*sites, *extra), layers) | {"resid_pre": range(fast.n_layers + 1)}
        intact = fast.read(ids, keep, n_prefix=1)
        got = _one_by_one(fast, intact)
        with fast.changed({at: scaled_later(f) for at, f in factors.items()}):
            got_edited = _one_by_one(fast, intact)
        pairs = [(want[:, 1:], got), (want_edited[:, 1:], got_edited)]
        pairs += [(hooked_activations[at], intact.activations[at]) for at in places]
        pairs += [_written_both_ways(model, fast, intact, layer) for layer in layers]
    except Exception:  # layers of another architecture may lack any part or argument
        return False
    share = SAME.get(vocabulary.dtype, 1e-3)

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and bool((a - b).abs().max() <= share * a.abs().max())

    differ = {
        s
        for s in extra
        if not all(same(hooked_activations[s, la], intact.activations[s, la]) for la in layers)
    }
    fast.places -= differ | (set(_COMPARED) - set(extra))
    return all(same(a, b) for a, b in pairs)


def _one_by_one(fast: FastPath, intact: IntactPass) -> Float[Tensor, "row time vocab"]:
    """Logits after the prefix, the rows of the reading run twice over as a battery does."""
    start = intact.activations["resid_pre", 0][:, 1:]
    n_rows, n_times, _ = start.shape
    places = torch.arange(2 * n_rows * n_times, device=start.device)
    out = fast.run(start.repeat(2, 1, 1), 0, intact, places, repeats=2)
    return fast.logits(out[n_rows * n_times :]).reshape(n_rows, n_times, -1)


def _written_both_ways(
    model: Model, fast: FastPath, intact: IntactPass, layer: int
) -> tuple[Tensor, Tensor]:
    """Output of amplified neurons to the residual stream: by their weights, and as measured.

    They differ where a norm or a factor stands between the MLP and the stream. Amplified so that
    rounding of the stream does not hide it.
    """
    before, after = (
        intact.activations["resid_pre", layer],
        intact.activations["resid_pre", layer + 1],
    )
    written = intact.activations["neuron", layer] @ output_weight(model, layer)
    size = float(written.abs().max())
    factor = 8 * float(after.abs().max()) / size if size else 1.0
    with fast.changed({("neuron", layer): lambda x: x * (1 + factor)}):
        out = fast.body.layers[layer](before, **intact.options[layer], use_cache=False)
    return factor * written, (out[0] if isinstance(out, tuple) else out) - after
