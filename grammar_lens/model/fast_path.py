"""The layers of a bridged model without the bridge: the same weights, no hook points, fast attention.

A `TransformerBridge` passes every activation through a hook point and computes attention in steps.
A lesion needs a few places only, and many passes that differ from one layer on. So the Hugging Face
model inside is built once more around the same weight tensors, and its layers are run one by one.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

SITES = ("neuron", "resid_pre", "resid_post", "attn_out", "mlp_out")
"""The sites at which the fast path can be read and edited."""
WATCHED = ("gate", "up", "resid_mid", "query", "key", "value")
"""Further places, if the layers have them; `BareModel.places` says which."""

_CACHING = ("past_key_values", "use_cache")
Change = Callable[[Tensor], Tensor]
"""A function that edits an activation during the pass."""


@dataclass(frozen=True)
class IntactPass:
    """State of an intact pass from which later passes start between its layers.

    `activations` has those that were asked for, by (site, layer); `options` the arguments of every
    layer beside the residual stream; `prefix` the keys and values of the first tokens.
    """

    activations: dict[tuple[str, int], Tensor]
    options: tuple[Mapping[str, Any], ...]
    prefix: "KeysValues | None"


KeysValues = Sequence[tuple[Tensor, Tensor]]
"""Every layer's keys and values, [row head time d_head]."""


class ReadOnlyCache:
    """Puts the prefix's keys and values before the new ones, as a cache does, and stores nothing."""

    def __init__(self, prefix: KeysValues) -> None:
        self._prefix = prefix

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        old_keys, old_values = self._prefix[layer_idx]
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)


class FastPath:
    """Runs single layers of a model on any residual stream, changing activations on the way."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self.body: Any = model.base_model
        self.n_layers = len(self.body.layers)
        self.places = frozenset(SITES) | {s for s in WATCHED if self._all_have(s)}
        """Places where activations pass through a change; fewer if some differ from the bridge's."""
        self._others: list[FastPath] = []

    def for_workers(self, n: int) -> list["FastPath"]:
        """This path and others on the same weights, `n` that can be used at once in different threads."""
        while len(self._others) < n - 1:
            self._others.append(self._sharing_weights())
        return [self, *self._others[: n - 1]]

    def _sharing_weights(self) -> "FastPath":
        other = copy.copy(self)
        tensors = [*self._model.parameters(), *self._model.buffers()]
        other._model = copy.deepcopy(self._model, {id(t): t for t in tensors})
        other.body = other._model.base_model
        return other

    def _all_have(self, site: str) -> bool:
        try:
            return all(_module_at(block, site) is not None for block in self.body.layers)
        except AttributeError:
            return False

    def read(
        self,
        token_ids: Int[Tensor, "row time"],
        keep: Mapping[str, Sequence[int]],
        n_prefix: int = 0,
    ) -> IntactPass:
        """An intact pass over tokens that keeps activations of some layers, by site.

        "resid_pre" of layer `n_layers` is the output of the last. The first `n_prefix` tokens, which
        must be the same in every row, need not be run again.
        """
        from transformers import DynamicCache

        activations: dict[tuple[str, int], Tensor] = {}
        options_of: list[Mapping[str, Any]] = [{}] * self.n_layers

        def keeper(site: str, layer: int) -> Change:
            def change(x: Tensor) -> Tensor:
                activations[site, layer] = x
                return x

            return change

        def recorder(layer: int) -> Callable[..., None]:
            def hook(_module: nn.Module, _args: Any, options: dict[str, Any]) -> None:
                options_of[layer] = {k: v for k, v in options.items() if k not in _CACHING}

            return hook

        changes = {(s, la): keeper(s, la) for s, layers in keep.items() for la in layers}
        cache = DynamicCache()  # without a config: with one, sliding layers keep only their window
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.changed(changes))
            for layer, module in enumerate(self.body.layers):
                handle = module.register_forward_pre_hook(recorder(layer), with_kwargs=True)
                stack.callback(handle.remove)
            caching = {"past_key_values": cache, "use_cache": True} if n_prefix else {}
            self.body(token_ids, **{"use_cache": False, **caching})
        layers: Any = cache.layers
        prefix = [(x.keys[:1, :, :n_prefix], x.values[:1, :, :n_prefix]) for x in layers]
        return IntactPass(activations, tuple(options_of), prefix if n_prefix else None)

    def run(
        self,
        hidden: Float[Tensor, "row time d_model"],
        begin: int,
        intact: IntactPass,
        places: Int[Tensor, " word"],
        repeats: int = 1,
    ) -> Float[Tensor, "word d_model"]:
        """The residual stream after the last layer at some places, given that before layer `begin`.

        `places` indexes the flattened (row, time). The rows of the intact pass are repeated `repeats`
        times, without their prefix, and may end earlier.
        """
        n_rows, first = hidden.shape[0] // repeats, _width(intact.prefix)
        times = slice(first, first + hidden.shape[1])
        cached: dict[str, Any] = {"use_cache": False}
        if intact.prefix is not None:
            expanded = [
                (k.expand(len(hidden), -1, -1, -1), v.expand(len(hidden), -1, -1, -1))
                for k, v in intact.prefix
            ]
            cached = {"past_key_values": ReadOnlyCache(expanded), "use_cache": True}
        for layer in range(begin, self.n_layers):
            options = {
                name: _repeated(_between(name, value, times), n_rows, repeats)
                for name, value in intact.options[layer].items()
            }
            if first and options.get("attention_mask") is None:
                options["attention_mask"] = _causal(times, hidden.device)
            with self._last_at(places) if layer == self.n_layers - 1 else contextlib.nullcontext():
                out = self.body.layers[layer](hidden, **options, **cached)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden.flatten(0, 1).index_select(0, places)

    @contextlib.contextmanager
    def _last_at(self, places: Int[Tensor, " word"]) -> Iterator[None]:
        """While open, the last layer's MLP is computed at some places only and is 0 at the others."""
        mlp, inputs = self.body.layers[-1].mlp, []

        def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            inputs[:] = [args[0]]
            return (args[0].flatten(0, 1).index_select(0, places)[None], *args[1:])

        def after(_module: nn.Module, _args: Any, out: Any) -> Any:
            values = out[0] if isinstance(out, tuple) else out
            spread = torch.zeros_like(inputs[0])
            spread.flatten(0, 1)[places] = values[0]
            return (spread, *out[1:]) if isinstance(out, tuple) else spread

        handles = [mlp.register_forward_pre_hook(before), mlp.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, hidden: Float[Tensor, "word d_model"]) -> Float[Tensor, "word vocab"]:
        """The head on rows of the residual stream after the last layer."""
        return self._model.get_output_embeddings()(self.body.norm(hidden[None]))[0]

    @contextlib.contextmanager
    def changed(self, changes: Mapping[tuple[str, int], Change]) -> Iterator[None]:
        """While open, activations pass through their change; by site and layer."""
        handles = []
        try:
            for (site, layer), change in changes.items():
                handles.append(self._attach(site, layer, change))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _attach(self, site: str, layer: int, change: Change) -> Any:
        if site == "resid_pre" and layer == self.n_layers:
            site, layer = "resid_post", layer - 1
        module = _module_at(self.body.layers[layer], site)
        if site in ("neuron", "resid_pre", "resid_mid"):

            def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                return (change(args[0]), *args[1:])

            return module.register_forward_pre_hook(before)

        def after(_module: nn.Module, _args: Any, out: Any) -> Any:
            return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

        return module.register_forward_hook(after)


def _module_at(block: Any, site: str) -> Any:
    """The module whose input ("neuron", "resid_pre", "resid_mid") or output a site is."""
    match site:
        case "resid_pre" | "resid_post":
            return block
        case "neuron":
            return block.mlp.down_proj
        case "gate":
            return block.mlp.gate_proj
        case "up":
            return block.mlp.up_proj
        case "mlp_out":
            return block.mlp
        case "attn_out":
            return block.self_attn
        case "resid_mid":
            return block.post_attention_layernorm
        case "query":
            return block.self_attn.q_proj
        case "key":
            return block.self_attn.k_proj
        case "value":
            return block.self_attn.v_proj
    raise AssertionError(f"unknown place {site!r}")


def _width(prefix: KeysValues | None) -> int:
    return 0 if prefix is None else prefix[0][0].shape[2]


def _causal(times: slice, device: torch.device) -> Bool[Tensor, "one one time key"]:
    """Boolean mask of the keys that each of some times attends to."""
    n = times.stop - times.start
    sees = torch.ones(n, times.stop, dtype=torch.bool, device=device)
    return sees.tril(times.start)[None, None]


def _between(name: str, value: Any, times: slice) -> Any:
    """A layer's per-time arguments, for some of the times."""
    if name == "position_embeddings":
        return tuple(v[..., times, :] for v in value)
    if not isinstance(value, Tensor):
        return value
    if name == "attention_mask":
        return value[..., times, : times.stop]
    return value[..., times] if name in ("position_ids", "cache_position") else value


def _repeated(value: Any, n_rows: int, repeats: int) -> Any:
    """A layer's per-row arguments, repeated for several copies of the rows."""
    if isinstance(value, tuple):
        return tuple(_repeated(v, n_rows, repeats) for v in value)
    if isinstance(value, Tensor) and value.dim() > 1 and 1 < n_rows == value.shape[0]:
        return value.repeat(repeats, *[1] * (value.dim() - 1))
    return value
