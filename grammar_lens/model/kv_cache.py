"""Single layers run on versions of one token, given the keys and values of its prefix."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, model_name, place_name
from grammar_lens.model.fast_path import FastPath, KeysValues, ReadOnlyCache


def require_keys_values(model: Model) -> None:
    """Raises GrammarLensError where an architecture's keys and values pass through no hook.

    Such as one with latent attention.
    """
    layers = range(model.cfg.n_layers)
    names = [place_name(place, layer) for layer in layers for place in ("key", "value")]
    missing = [name for name in names if name not in model.hook_dict]
    if missing:
        raise GrammarLensError(
            f"{model_name(model)} has no {missing[0]}, so gradients through keys and values cannot "
            "be stopped: use attribution of the kind 'all'"
        )


def can_continue(model: Model) -> bool:
    """Whether single layers can be run on a prefix's keys and values (see `Continuation`).

    False where layers rotate positions in different ways (Gemma 3).
    """
    body: Any = getattr(getattr(model, "original_model", None), "base_model", None)
    if not all(hasattr(body, part) for part in ("layers", "rotary_emb", "norm")):
        return False
    rotary = getattr(body.rotary_emb, "original_component", body.rotary_emb)
    return not hasattr(rotary, "layer_types")


@torch.no_grad()
def keys_and_values(
    model: Model, token_ids: Int[Tensor, "row time"]
) -> tuple[Float[Tensor, "row time d_model"], KeysValues]:
    """Input of the head, and every layer's keys and values. For models that `can_continue`."""
    from transformers import DynamicCache

    cache = DynamicCache()  # without a config: with one, sliding layers keep only their window
    out = _body(model)(token_ids, past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    return out.last_hidden_state, [(layer.keys, layer.values) for layer in layers]


class Continuation:
    """Runs single layers on several versions of one token of each row, given the row's prefix.

    A row's versions are laid out along time, each at its own position: it attends to the first
    `length` tokens of the row and itself, not to the other versions. So the prefix is run once.
    """

    def __init__(
        self, model: Model | FastPath, prefix: KeysValues, length: Int[Tensor, "row version"]
    ) -> None:
        self._body = _body(model)
        self._prefix = prefix
        self._length = length
        self._cache = ReadOnlyCache(prefix)

    def layer(
        self, layer: int, hidden: Float[Tensor, "row version d_model"]
    ) -> Float[Tensor, "row version d_model"]:
        """The residual stream after `layer`, given that before it."""
        n = hidden.shape[1]
        ids = self._length.to(hidden.device).expand(-1, n)
        out = self._body.layers[layer](
            hidden,
            attention_mask=self._mask(n, hidden, _window(self._body.config, layer)),
            position_ids=ids,
            position_embeddings=self._body.rotary_emb(hidden, position_ids=ids),
            past_key_values=self._cache,
            use_cache=True,
        )
        return out[0] if isinstance(out, tuple) else out

    def norm(
        self, hidden: Float[Tensor, "row version d_model"]
    ) -> Float[Tensor, "row version d_model"]:
        """Input of the head, given the residual stream after the last layer."""
        return self._body.norm(hidden)

    def _mask(
        self, n: int, hidden: Tensor, window: int | None
    ) -> Float[Tensor, "row one version key"]:
        length = self._length.to(hidden.device)
        width = self._prefix[0][0].shape[2]
        key = torch.arange(width, device=hidden.device)
        before = key < length[..., None]
        if window is not None:
            before &= key > length[..., None] - window
        own = torch.eye(n, dtype=torch.bool, device=hidden.device)
        sees = torch.cat([before.expand(-1, n, -1), own.expand(len(length), -1, -1)], dim=2)
        hidden_from = torch.finfo(hidden.dtype).min
        return torch.zeros(sees.shape, dtype=hidden.dtype, device=hidden.device).masked_fill_(
            ~sees, hidden_from
        )[:, None]


def _window(config: Any, layer: int) -> int | None:
    """Number of tokens that a layer attends to, its own included; None for all."""
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None


def _body(model: Model | FastPath) -> Any:
    return model.body if isinstance(model, FastPath) else model.original_model.base_model
