"""One forward pass over a corpus, with every activation handed to its reader on the device.

Nothing of the size of the corpus is kept here: a reader reduces what it gets and forgets the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grammar_lens.corpus.alignment import Alignment, TokenBatch
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, has_gate
from grammar_lens.model.edited_pass import Forward, edited_pass
from grammar_lens.passes.batches import Keeper, read_batches
from grammar_lens.passes.distributed import Shard
from grammar_lens.passes.readers import Reader, Seen

HEAD_INPUT = "head_input"
"""A tap's site beside those of `defaults.SITES`: what the head gets, after the last norm; layer 0."""


@dataclass(frozen=True)
class Tap:
    """One reader attached to one site and position of a pass, with the words it is given.

    What the reader gets as `words` is `codes` at those words: a class, or the word's number.
    """

    site: str
    position: str
    wanted: Bool[np.ndarray, " all_words"]
    codes: Int[np.ndarray, " all_words"]
    reader: Reader
    layers: Sequence[int] | None = None
    offset: int = 0
    """Tokens after the position, or before it, at which the words are read."""
    alignment: Alignment | None = None
    """Other words of the same rows of tokens, if the tap is not of the pass's own words."""

    @classmethod
    def of_rows(
        cls,
        site: str,
        position: str,
        words: Int[np.ndarray, " row"],
        n_words: int,
        reader: Reader,
        layers: Sequence[int] | None = None,
    ) -> "Tap":
        """A tap on some of a corpus's `n_words` words; the code of each is its row in `words`."""
        row = np.full(n_words, -1)
        row[words] = np.arange(len(words))
        return cls(site, position, row >= 0, row, reader, layers)


@dataclass
class _Place:
    """Positions of a batch's wanted words, on the device."""

    where: Tensor
    codes: Tensor

    def to(self, device: torch.device) -> "_Place":
        if self.where.device == device:
            return self
        return _Place(self.where.to(device), self.codes.to(device))


@dataclass
class _Pass:
    """The state that the hooks of one pass share."""

    places: dict[int, _Place] = field(default_factory=dict)
    gates: dict[int, Tensor] = field(default_factory=dict)
    finite: list[tuple[str, int, Tensor]] = field(default_factory=list)


def stream(
    model: Model,
    alignment: Alignment,
    batches: Sequence[TokenBatch],
    taps: Sequence[Tap],
    *,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    keeper: Keeper | None = None,
    about: Mapping[str, object] | None = None,
    shard: Shard | None = None,
) -> None:
    """Runs the model over all batches and hands every tapped activation to its reader.

    `progress` is called with the number of tokens done after each batch, `warn` of memory trouble. When a
    batch runs out of memory its rows are halved and so is the budget of all batches to come.
    `keeper`, `about` and `shard` are those of `passing.read_batches`.
    Raises GrammarLensError when an activation is NaN or infinite (naming site and layer), or when a
    single sentence does not fit.
    """
    state = _Pass()
    with torch.no_grad(), edited_pass(model, _looks(model, taps, state)) as forward:
        read_batches(
            batches,
            lambda batch: _read(model, forward, alignment, batch, taps, state),
            [tap.reader for tap in taps],
            progress=progress,
            warn=warn,
            keeper=keeper,
            about=about,
            shard=shard,
        )


def _read(
    model: Model,
    forward: Forward,
    alignment: Alignment,
    batch: TokenBatch,
    taps: Sequence[Tap],
    state: _Pass,
) -> None:
    device = device_of(model)
    state.gates.clear()
    state.finite.clear()
    for i, tap in enumerate(taps):
        words, where = batch.locate(
            tap.alignment or alignment, tap.position, tap.wanted, tap.offset
        )
        state.places[i] = _Place(
            torch.from_numpy(where).to(device), torch.from_numpy(tap.codes[words]).to(device)
        )
    hidden = forward(batch.token_ids.to(device))
    last = [i for i, tap in enumerate(taps) if tap.site == HEAD_INPUT]
    _hand_over(HEAD_INPUT, 0, last, taps, state)(hidden)
    _require_finite(state.finite)


def _require_finite(finite: Sequence[tuple[str, int, Tensor]]) -> None:
    """Raises GrammarLensError for the first site and layer that are not finite; asks the device once."""
    devices = {good.device for *_, good in finite}
    if all(bool(torch.stack([g for *_, g in finite if g.device == d]).all()) for d in devices):
        return
    for site, layer, good in finite:
        if not bool(good):
            raise GrammarLensError(
                f"NaN or infinite activations at site {site!r}, layer {layer}: load the model in "
                "a wider dtype (--dtype bfloat16 or float32), or check its weights"
            )


def _looks(
    model: Model, taps: Sequence[Tap], state: _Pass
) -> dict[tuple[str, int], Callable[[Tensor], Tensor]]:
    """The hook function for every place of the model that a tap needs."""
    looks: dict[tuple[str, int], Callable[[Tensor], Tensor]] = {}
    for layer in range(model.cfg.n_layers):
        in_layer = [i for i, t in enumerate(taps) if t.layers is None or layer in t.layers]
        in_layer = [i for i in in_layer if taps[i].site != HEAD_INPUT]
        if has_gate(model) and any(taps[i].site == "neuron" for i in in_layer):
            looks["gate", layer] = _keep_gate(layer, state)
        for site in dict.fromkeys(taps[i].site for i in in_layer):
            at_site = [i for i in in_layer if taps[i].site == site]
            looks[site, layer] = _hand_over(site, layer, at_site, taps, state)
    return looks


def _keep_gate(layer: int, state: _Pass) -> Callable[[Tensor], Tensor]:
    def look(activation: Tensor) -> Tensor:
        state.gates[layer] = activation
        return activation

    return look


def _hand_over(
    site: str, layer: int, chosen: Sequence[int], taps: Sequence[Tap], state: _Pass
) -> Callable[[Tensor], Tensor]:
    def look(activation: Tensor) -> Tensor:
        flat = activation.detach().reshape(-1, activation.shape[-1])
        gate = state.gates.pop(layer, None) if site == "neuron" else None
        gate = None if gate is None else gate.detach().reshape(-1, gate.shape[-1])
        for i in chosen:
            place = state.places[i] = state.places[i].to(flat.device)
            if len(place.where):
                seen = Seen(flat, gate, place.where)
                state.finite.append((site, layer, taps[i].reader.add(layer, seen, place.codes)))
        return activation

    return look
