"""The scaled activations that integrated gradients run along, and two ways to run the model there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.model.about import Model, device_of, hook_name
from grammar_lens.model.fast_path import KeysValues
from grammar_lens.model.forward import final_hidden, hooked
from grammar_lens.model.kv_cache import Continuation, keys_and_values
from grammar_lens.model.weights import output_weight
from grammar_lens.selectivity.attribution.head import (
    Slope,
    gold_log_probability,
    gold_probability,
    through_head,
)

TARGETS: dict[str, Callable[[Tensor], Slope]] = {
    "probability": gold_probability,
    "log_probability": gold_log_probability,
}


class ScaledPath:
    """The points between no activation and the recorded one, and F along them.

    Their versions of a token are the m midpoints and, for completeness, zero.
    """

    def __init__(self, model: Model, target: str, steps: int, joint: bool) -> None:
        self.model = model
        self.joint = joint
        self.alpha = torch.cat([(torch.arange(steps) + 0.5) / steps, torch.zeros(1)])
        self.weight = torch.cat([torch.full((steps,), 1 / steps), torch.zeros(1)])
        self._slope = TARGETS[target]

    def scaled(self, values: Float[Tensor, "word unit"]) -> Float[Tensor, "word version unit"]:
        """The values at every point of the path."""
        alpha = self.alpha.to(values.device)
        return (alpha[:, None] * values.float()[:, None]).to(values.dtype)

    def outputs(
        self, hidden: Float[Tensor, "word version d_model"], gold: Int[Tensor, " word"]
    ) -> tuple[Float[Tensor, "word version"], Float[Tensor, "word version d_model"]]:
        """F of every version in float64, and its gradient at what the head reads."""
        n = hidden.shape[1]
        token = gold.to(hidden.device).repeat_interleave(n)
        flat = hidden.detach().flatten(0, 1)
        values, slopes = through_head(self.model, flat, self._slope(token))
        return values.reshape(-1, n), slopes.reshape(hidden.shape)

    def mean(self, gradient: Float[Tensor, "word version unit"]) -> Float[Tensor, "word unit"]:
        """The mean over the midpoints, in float32."""
        return einsum(
            self.weight.to(gradient.device),
            gradient.float(),
            "version, word version unit -> word unit",
        )


@dataclass(frozen=True)
class Recorded:
    """Some words as an ordinary forward pass of their sentences left them.

    `activation` and `residual` are, by layer, the neurons and the residual stream after the layer,
    `start` that before the first; `hidden` is what the head reads. All are at the token before the
    word, which is number `place` of its `row`.
    """

    words: Int[np.ndarray, " word"]
    row: Int[Tensor, " word"]
    place: Int[Tensor, " word"]
    gold: Int[Tensor, " word"]
    hidden: Float[Tensor, "word d_model"]
    activation: list[Tensor]
    residual: list[Tensor]
    start: Float[Tensor, "word d_model"]
    token_ids: Int[Tensor, "row time"]
    keys_values: KeysValues | None

    def take(self, index: Int[Tensor, " chosen"]) -> "Recorded":
        """Some of the words."""

        def pick(x: Tensor) -> Tensor:
            return x.index_select(0, index.to(x.device))

        return replace(
            self,
            words=self.words[index.cpu().numpy()],
            row=pick(self.row),
            place=pick(self.place),
            gold=pick(self.gold),
            hidden=pick(self.hidden),
            activation=[pick(a) for a in self.activation],
            residual=[pick(r) for r in self.residual],
            start=pick(self.start),
        )

    def parts(self, versions: int, token_budget: int) -> Iterator["Recorded"]:
        """Words with prefixes of like length, as many as fit into the budget with all versions."""
        order = self.place.argsort(descending=True, stable=True)
        while len(order):
            # with keys and values to reuse, one token of each prefix is run
            tokens = 1 if self.keys_values is not None else int(self.place[order[0]]) + 1
            n = max(1, token_budget // (versions * tokens))
            yield self.take(order[:n])
            order = order[n:]

    def prefix(self) -> KeysValues:
        """Keys and values of every word's own prefix."""
        assert self.keys_values is not None
        length = int(self.place.max())
        return [
            (
                k[:, :, :length].index_select(0, self.row.to(k.device)),
                v[:, :, :length].index_select(0, self.row.to(v.device)),
            )
            for k, v in self.keys_values
        ]


@torch.no_grad()
def record(
    path: ScaledPath,
    batch: TokenBatch,
    words: Int[np.ndarray, " word"],
    flat: Int[np.ndarray, " word"],
    first_token: Int[np.ndarray, " word"],
    reuse: bool,
) -> Recorded:
    """Runs the sentences; the words are read at `flat` in the flattened batch."""
    model, device = path.model, device_of(path.model)
    where = torch.from_numpy(flat).to(device)
    recorded: dict[tuple[str, int], Tensor] = {}

    def keep(site: str, layer: int) -> tuple[str, Callable[..., None]]:
        def hook(activation: Tensor, **_: object) -> None:
            rows = activation.flatten(0, 1)
            recorded[site, layer] = rows.index_select(0, where.to(rows.device))

        return hook_name(model, site, layer), hook

    layers = range(model.cfg.n_layers)
    ids = batch.token_ids.to(device)
    hooks = [keep(site, layer) for site in ("neuron", "resid_post") for layer in layers]
    with hooked(model, [keep("resid_pre", 0), *hooks]):
        hidden, keys_values = (
            keys_and_values(model, ids) if reuse else (final_hidden(model, ids), None)
        )
    return Recorded(
        words=words,
        row=where // ids.shape[1],
        place=where % ids.shape[1],
        gold=torch.from_numpy(first_token).to(device),
        hidden=hidden.flatten(0, 1).index_select(0, where.to(hidden.device)),
        activation=[recorded["neuron", layer] for layer in layers],
        residual=[recorded["resid_post", layer] for layer in layers],
        start=recorded["resid_pre", 0],
        token_ids=ids,
        keys_values=keys_values,
    )


Scaled = tuple[dict[int, Tensor], Tensor]
"""Contributions [word unit] by layer of the neurons scaled together, and F [word] without them."""


def reused(path: ScaledPath, part: Recorded) -> Iterator[Scaled]:
    """Recomputes the scored token of each word, layer by layer, on its prefix's keys and values."""
    onward = Continuation(path.model, part.prefix(), part.place[:, None])
    if path.joint:
        yield _reused_jointly(path, part, onward)
        return
    n_layers = path.model.cfg.n_layers
    for layer in range(n_layers):
        written = part.activation[layer] @ output_weight(path.model, layer)
        rest = (part.residual[layer] - written)[:, None]
        start = (rest + path.scaled(written)).requires_grad_()
        with torch.enable_grad():
            hidden = start
            for later in range(layer + 1, n_layers):
                hidden = onward.layer(later, hidden)
            hidden = onward.norm(hidden)
        values, slopes = path.outputs(hidden, part.gold)
        (gradient,) = torch.autograd.grad(hidden, start, slopes)
        yield {layer: _to_neurons(path, part, layer, gradient)}, values[:, -1]


def _reused_jointly(path: ScaledPath, part: Recorded, onward: Continuation) -> Scaled:
    model, layers = path.model, range(path.model.cfg.n_layers)

    def held(layer: int) -> tuple[str, Callable[..., Tensor]]:
        value = path.scaled(part.activation[layer])
        return hook_name(model, "neuron", layer), lambda activation, **_: value

    after = []
    with torch.enable_grad(), hooked(model, [held(layer) for layer in layers]):
        hidden = part.start[:, None].expand(-1, len(path.alpha), -1)
        for layer in layers:
            hidden = onward.layer(layer, hidden)
            after.append(hidden if after else hidden.detach().requires_grad_())
            hidden = after[-1]
        hidden = onward.norm(hidden)
    values, slopes = path.outputs(hidden, part.gold)
    gradients = torch.autograd.grad(hidden, after, slopes)
    by_layer = {layer: _to_neurons(path, part, layer, gradients[layer]) for layer in layers}
    return by_layer, values[:, -1]


def _to_neurons(
    path: ScaledPath, part: Recorded, layer: int, gradient: Float[Tensor, "word version d_model"]
) -> Float[Tensor, "word unit"]:
    """Contributions of a layer's neurons, given the gradient at the residual stream they write to.

    Neurons write linearly, so the steps' gradients are averaged before they reach the neurons.
    """
    weight = output_weight(path.model, layer)
    slope = path.mean(gradient).to(weight.dtype) @ weight.T
    return part.activation[layer].float() * slope.float()


def plain(path: ScaledPath, part: Recorded) -> Iterator[Scaled]:
    """A forward pass of the whole prefix for every version of every word."""
    model, layers = path.model, range(path.model.cfg.n_layers)
    versions = len(path.alpha)
    width = int(part.place.max()) + 1
    ids = part.token_ids[part.row, :width].repeat_interleave(versions, 0)
    time = part.place.repeat_interleave(versions)
    rows = torch.arange(len(ids), device=ids.device)

    def put(layer: int, leaf: Tensor) -> tuple[str, Callable[..., Tensor]]:
        def hook(activation: Tensor, **_: object) -> Tensor:
            at = (rows.to(activation.device), time.to(activation.device))
            return activation.index_put(at, leaf.flatten(0, 1))

        return hook_name(model, "neuron", layer), hook

    for together in [layers] if path.joint else [[layer] for layer in layers]:
        leaves = {n: path.scaled(part.activation[n]).requires_grad_() for n in together}
        with torch.enable_grad(), hooked(model, [put(n, leaf) for n, leaf in leaves.items()]):
            hidden = final_hidden(model, ids)
            hidden = hidden[rows.to(hidden.device), time.to(hidden.device)]
            hidden = rearrange(hidden, "(word version) d -> word version d", version=versions)
        values, slopes = path.outputs(hidden, part.gold)
        gradients = torch.autograd.grad(hidden, list(leaves.values()), slopes)
        by_layer = {
            n: part.activation[n].float() * path.mean(gradient)
            for n, gradient in zip(together, gradients, strict=True)
        }
        yield by_layer, values[:, -1]
