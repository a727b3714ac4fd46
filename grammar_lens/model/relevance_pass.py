"""Relevance propagation: a pass with the model's own values, whose backward pass hands on relevance.

Every part of a layer is taken as linear with coefficients held constant at their values: the scale of
a norm, the attention pattern, and act(x)/x of the activation function; of the product gate * up each
factor gets half. What arrives at an activation a, times a, is its relevance, which the rules conserve:
a part's inputs get as much as its output had, but for what biases take.
Source: RelP, arXiv 2508.21258; the half rule is that of Arras et al. (2019).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, model_name, place_name, unwrapped
from grammar_lens.model.edited_pass import Forward, edited_pass
from grammar_lens.model.fast_path import Change
from grammar_lens.model.fast_path_check import SAME
from grammar_lens.model.weights import norm_gain

SUPPORTED = "Llama, Mistral, Qwen2, Qwen3, Gemma, OLMo 2"
"""Families with RMSNorm and a gated MLP whose gate and up projections are apart."""
_BLOCK_NORMS = ("ln1", "ln1_post", "ln2", "ln2_post")


@contextlib.contextmanager
def relevance_pass(
    model: Model, changes: Mapping[tuple[str, int], Change], *, through_attention: bool
) -> Iterator[Forward]:
    """Yields a forward pass without head, as `edited_pass`, with relevance for gradients.

    Without `through_attention` nothing flows back into attention, so a token's relevance stays at its
    position; with it relevance flows through the values, the pattern held constant.
    Raises GrammarLensError for models without RMSNorm or without a gated MLP.
    """
    require_relevance(model)
    rules = _Rules(model, through_attention)
    edits = dict(rules.changes)
    for at, change in changes.items():
        edits[at] = _in_turn(edits[at], change) if at in edits else change
    with contextlib.ExitStack() as stack:
        forward = stack.enter_context(edited_pass(model, edits))
        # the fast path shares its norms with the model
        for name, norm, passes_back in rules.norms:
            stack.enter_context(rules.watched(name, norm, passes_back))

        def checked(token_ids: Tensor) -> Tensor:
            hidden = forward(token_ids)
            rules.require_all_seen()
            return hidden

        yield checked


def require_relevance(model: Model) -> None:
    """Raises GrammarLensError for models that the rules are not made for."""
    lacking = None
    if not hasattr(model, "original_model"):
        lacking = "it is no TransformerBridge (load it with gl.load_model)"
    elif not str(model.cfg.normalization_type).startswith("RMS"):
        lacking = f"its norms are {model.cfg.normalization_type}, not RMSNorm"
    elif any(place_name(place, 0) not in model.hook_dict for place in ("gate", "up")):
        lacking = "its MLP has no gate and up projections of their own"
    elif not callable(getattr(unwrapped(model.blocks[0].mlp), "act_fn", None)):
        lacking = "its MLP names no activation function"
    if lacking:
        raise _unsupported(model, lacking)


def _unsupported(model: Model, why: str) -> GrammarLensError:
    return GrammarLensError(
        f"relevance has no rules for {model_name(model)}: {why}. Supported are models with RMSNorm and "
        f"a gated MLP: {SUPPORTED} and their like; for others use attribution"
    )


class _Rules:
    """The changes and norm hooks of the pass, and the parts not yet seen in it."""

    def __init__(self, model: Model, through_attention: bool) -> None:
        self._model = model
        self.changes: dict[tuple[str, int], Change] = {}
        self.norms: list[tuple[str, nn.Module, bool]] = [
            ("the last norm", unwrapped(model.ln_final), True)
        ]
        for layer in range(model.cfg.n_layers):
            block = model.blocks[layer]
            for place in ("query", "key") if through_attention else ("attn_out",):
                self.changes[place, layer] = Tensor.detach
            for name in _BLOCK_NORMS:
                norm = getattr(block, name, None)
                if norm is not None:
                    feeds_attention_alone = name == "ln1" and hasattr(block, "ln2")
                    passes_back = through_attention or not feeds_attention_alone
                    self.norms.append((f"{name} of layer {layer}", unwrapped(norm), passes_back))
            self._add_mlp(layer, unwrapped(block.mlp).act_fn)
        self._unseen = {name for name, *_ in self.norms}
        self._unseen |= {f"the MLP of layer {layer}" for layer in range(model.cfg.n_layers)}

    def require_all_seen(self) -> None:
        if self._unseen:
            raise _unsupported(
                self._model, f"{min(self._unseen)} is not run as a module of its own"
            )

    def _add_mlp(self, layer: int, act: Callable[[Tensor], Tensor]) -> None:
        factors: dict[str, Tensor] = {}

        def keep(name: str) -> Change:
            def change(x: Tensor) -> Tensor:
                factors[name] = x
                return x.detach()

            return change

        def product(neuron: Tensor) -> Tensor:
            gate, up = factors.pop("gate", None), factors.pop("up", None)
            if gate is None or up is None:
                return neuron
            with torch.no_grad():
                active = act(gate)
                self._seen(f"the MLP of layer {layer}", neuron, active * up)
                if not (gate.requires_grad or up.requires_grad):
                    return neuron
                # at 0 the limit of act(x)/x for SiLU and GELU
                share = torch.where(gate == 0, 0.5, active / gate)
                to_gate, to_up = up * share / 2, active / 2
            return _linear(neuron, (to_gate, to_up), gate, up)

        self.changes["gate", layer] = keep("gate")
        self.changes["up", layer] = keep("up")
        self.changes["neuron", layer] = product

    @contextlib.contextmanager
    def watched(self, name: str, norm: nn.Module, passes_back: bool) -> Iterator[None]:
        """While open, a norm hands gradients on with its scale held constant, or not at all."""
        gain = norm_gain(norm, torch.zeros(1, self._model.cfg.d_model))
        inputs: list[Tensor] = []

        def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            inputs[:] = [args[0]]
            return (args[0].detach(), *args[1:])

        def after(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
            x = inputs.pop()
            with torch.no_grad():
                if not (name in self._unseen or (passes_back and x.requires_grad)):
                    return out
                wide = x.double() if x.dtype == torch.float64 else x.float()
                scaled = wide * gain.to(wide)
                size = scaled.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
                scale = out.to(wide.dtype).norm(dim=-1, keepdim=True) / size
                self._seen(name, out, scaled * scale)
                if not (passes_back and x.requires_grad):
                    return out
                factor = (gain.to(wide) * scale).to(out.dtype)
            return _linear(out, (factor,), x)

        handles = [norm.register_forward_pre_hook(before), norm.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _seen(self, name: str, value: Tensor, expected: Tensor) -> None:
        """Notes a part when it is first run; raises GrammarLensError unless its rule's formula holds."""
        if name not in self._unseen:
            return
        self._unseen.discard(name)
        allowed = SAME.get(value.dtype, 1e-3) * float(value.abs().max())
        if not float((value - expected).abs().max()) <= allowed and bool(value.isfinite().all()):
            raise _unsupported(self._model, f"{name} does not compute what its rule says")


class _Linear(torch.autograd.Function):
    """A value whose gradient reaches each source times a constant factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: tuple[Tensor, ...], *_sources: Tensor) -> Tensor:
        ctx.factors = factors
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, None, *(gradients[0] * factor for factor in ctx.factors)


def _linear(
    value: Float[Tensor, "*place out"], factors: tuple[Tensor, ...], *sources: Tensor
) -> Float[Tensor, "*place out"]:
    return _Linear.apply(value, factors, *sources)  # pyright: ignore[reportReturnType]


def _in_turn(first: Change, second: Change) -> Change:
    return lambda x: second(first(x))
