"""Forward passes: hooks, layers without the head, the head at chosen positions."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grammar_lens.defaults import HEAD_BLOCK
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, embedding, model_name, vocabulary_size
from grammar_lens.model.onednn import with_onednn


def hooked(model: Model, hooks: Sequence[tuple[str, Callable[..., Any]]]) -> Any:
    """Context manager that puts forward hooks, `(name, function(activation, hook=))`, on the model."""
    return model.hooks(fwd_hooks=list(hooks))


@torch.no_grad()
def next_token_logits(
    model: Model,
    token_ids: Int[Tensor, "row time"],
    places: Int[Tensor, " word"],
) -> Float[Tensor, "word vocab"]:
    """Logits of the token after each of `places`, which index the flattened (row, time).

    The head sees only these positions, so the cost of a large vocabulary is paid for them alone.
    """

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[places.to(hidden.device)][None], *inputs[1:])

    if hasattr(model, "original_model"):
        head = model.original_model.get_output_embeddings()
    else:
        head = model.unembed
    handle = head.register_forward_pre_hook(keep)
    try:
        if hasattr(model, "original_model"):
            logits = model.original_model(token_ids, use_cache=False).logits
        else:
            logits = model(token_ids, **_no_mask(token_ids))
    finally:
        handle.remove()
    return logits[0]


def final_hidden(
    model: Model,
    token_ids: Int[Tensor, "row time"],
) -> Float[Tensor, "row time d_model"]:
    """Input of the head after a pass through all layers; gradients flow where a hook starts them."""
    if hasattr(model, "original_model"):
        body = model.original_model.base_model
        return body(token_ids, use_cache=False).last_hidden_state
    options = _no_mask(token_ids)
    return model.ln_final(model(token_ids, stop_at_layer=model.cfg.n_layers, **options))


@torch.no_grad()
def head_logits(model: Model, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """The head alone, without later scaling or capping of its logits (see `check_head`)."""
    if hasattr(model, "original_model"):
        return with_onednn(model.original_model.get_output_embeddings())(hidden)
    return model.unembed(hidden[None])[0]


def head_blocks(
    model: Model, hidden: Float[Tensor, "row d_model"]
) -> Iterator[tuple[slice, Float[Tensor, "some vocab"]]]:
    """Logits of some rows at a time, so many that the head's weights are seldom read again."""
    n_tokens = vocabulary_size(model)
    step = max(1, HEAD_BLOCK[hidden.device.type == "cuda"] // n_tokens)
    for begin in range(0, len(hidden), step):
        part = slice(begin, min(begin + step, len(hidden)))
        yield part, head_logits(model, hidden[part])


def check_head(model: Model, token_ids: Int[Tensor, "row time"]) -> None:
    """Raises GrammarLensError unless the logits are finite, the head's product and nothing else.

    Models that scale or cap their logits (Cohere, Granite, Gemma 2) have another gradient there.
    """
    places = torch.arange(min(4, token_ids.numel()), device=token_ids.device)
    with torch.no_grad():
        hidden = final_hidden(model, token_ids).flatten(0, 1)
        plain = head_logits(model, hidden.index_select(0, places.to(hidden.device))).float()
    logits = next_token_logits(model, token_ids, places).float().to(plain.device)
    if not bool(logits.isfinite().all()):
        raise GrammarLensError(
            f"NaN or infinite logits from {model_name(model)}: load it in a wider dtype "
            "(--dtype bfloat16 or float32), or check its weights"
        )
    allowed = 1e-4 if hidden.dtype in (torch.float32, torch.float64) else 0.03
    gap, size = float((logits - plain).abs().max()), float(logits.abs().max())
    if gap > allowed * max(size, 1e-3):
        raise GrammarLensError(
            f"the logits of {model_name(model)} are not those of its head (they differ by {gap:.2g} "
            f"of {size:.2g}): attribution cannot take the gradient of scaled or capped logits"
        )


@contextlib.contextmanager
def watch_tokens(model: Model, see: Callable[[Int[Tensor, "row time"]], None]) -> Iterator[None]:
    """While open, `see` gets the token ids of every forward pass before the first layer."""

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(inputs[0])

    handle = embedding(model).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _no_mask(token_ids: Tensor) -> dict[str, Tensor]:
    """A mask of ones: a HookedTransformer would guess one by padding_side and pad token."""
    return {"attention_mask": torch.ones_like(token_ids)}
