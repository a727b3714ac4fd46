"""One forward pass over a corpus, with every activation handed to its reader on the device.

Nothing of the size of the corpus is kept here: a reader reduces what it gets and forgets the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grammar_lens.alignment import Alignment, TokenBatch
from grammar_lens.model import (
    GATE,
    Model,
    device_of,
    forward_body,
    has_gate,
    hook_name,
    hooked,
)


class ActivationError(ValueError):
    """Activations that are not finite, or a batch that does not fit in memory."""


@runtime_checkable
class Reader(Protocol):
    """Receives one batch's activations, layer by layer; `commit` or `discard` ends the batch."""

    def add(
        self,
        layer: int,
        values: Float[Tensor, "word unit"],
        fires: Bool[Tensor, "word unit"],
        words: Int[Tensor, " word"],
    ) -> Bool[Tensor, ""]: ...

    def commit(self) -> None: ...

    def discard(self) -> None: ...


@dataclass(frozen=True)
class Tap:
    """A reader of one site at one position, for the wanted words.

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


@dataclass
class _Place:
    """Where a batch's wanted words are, on the device."""

    where: Tensor
    codes: Tensor


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
) -> None:
    """Runs the model over all batches and hands every tapped activation to its reader.

    `progress` is told the number of tokens done after each batch, `warn` of memory trouble. When a
    batch runs out of memory its rows are halved and so is the budget of all batches to come.
    Raises ActivationError when an activation is NaN or infinite (naming site and layer), or when a
    single sentence does not fit.
    """
    state = _Pass()
    with hooked(model, _hooks(model, taps, state)):
        read_batches(
            batches,
            lambda batch: _forward(model, alignment, batch, taps, state),
            [tap.reader for tap in taps],
            progress=progress,
            warn=warn,
        )


def read_batches(
    batches: Sequence[TokenBatch],
    read: Callable[[TokenBatch], None],
    readers: Sequence[Reader],
    *,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> None:
    """Calls `read` on every batch, in halves where one does not fit in memory.

    `read` adds to the readers; they commit after each piece and discard what a failed one added.
    Once a batch did not fit, those to come are cut to what does.
    Raises ActivationError when a single sentence does not fit.
    """
    budget = None
    for whole in batches:
        for batch in _within(whole, budget):
            budget = _read_piecewise(batch, read, readers, budget, warn)
        if progress:
            progress(whole.n_tokens)


def _read_piecewise(
    batch: TokenBatch,
    read: Callable[[TokenBatch], None],
    readers: Sequence[Reader],
    budget: int | None,
    warn: Callable[[str], None] | None,
) -> int | None:
    """Reads one batch, in halves if it does not fit; returns the budget for what follows."""
    pieces = [batch]
    while pieces:
        piece = pieces.pop(0)
        try:
            read(piece)
        except Exception as error:
            for reader in readers:
                reader.discard()
            if not is_out_of_memory(error):
                raise
            if len(piece.sentences) < 2:
                raise ActivationError(
                    f"one sentence of {piece.token_ids.shape[1]} tokens does not fit in memory: "
                    "use a smaller dtype, fewer sites, or a device with more memory"
                ) from error
            budget = piece.token_ids.numel() // 2
            pieces[:0] = piece.halves()
            if warn:
                warn(f"out of memory: the token budget is now {budget}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            # not in `try`: a batch that is merged in part must not be read again
            for reader in readers:
                reader.commit()
    return budget


def _forward(
    model: Model,
    alignment: Alignment,
    batch: TokenBatch,
    taps: Sequence[Tap],
    state: _Pass,
) -> None:
    device = device_of(model)
    state.gates.clear()
    state.finite.clear()
    for i, tap in enumerate(taps):
        words, where = batch.locate(alignment, tap.position, tap.wanted, tap.offset)
        state.places[i] = _Place(
            torch.from_numpy(where).to(device), torch.from_numpy(tap.codes[words]).to(device)
        )
    mask = None if batch.mask is None else batch.mask.to(device)
    forward_body(model, batch.token_ids.to(device), mask)
    for site, layer, finite in state.finite:
        if not bool(finite):
            raise ActivationError(
                f"NaN or infinite activations at site {site!r}, layer {layer}: load the model in "
                "a wider dtype (--dtype bfloat16 or float32), or check its weights"
            )


def _hooks(
    model: Model, taps: Sequence[Tap], state: _Pass
) -> list[tuple[str, Callable[..., None]]]:
    hooks: list[tuple[str, Callable[..., None]]] = []
    for layer in range(model.cfg.n_layers):
        here = [i for i, t in enumerate(taps) if t.layers is None or layer in t.layers]
        if has_gate(model) and any(taps[i].site == "neuron" for i in here):
            hooks.append((GATE.format(layer=layer), _keep_gate(layer, state)))
        for site in dict.fromkeys(taps[i].site for i in here):
            mine = [i for i in here if taps[i].site == site]
            name = hook_name(model, site, layer)
            hooks.append((name, _hand_over(site, layer, mine, taps, state)))
    return hooks


def _keep_gate(layer: int, state: _Pass) -> Callable[..., None]:
    def hook(activation: Tensor, **_: object) -> None:
        state.gates[layer] = activation.detach()

    return hook


def _hand_over(
    site: str, layer: int, mine: Sequence[int], taps: Sequence[Tap], state: _Pass
) -> Callable[..., None]:
    def hook(activation: Tensor, **_: object) -> None:
        flat = activation.detach().reshape(-1, activation.shape[-1])
        gate = state.gates.pop(layer, None) if site == "neuron" else None
        gate = None if gate is None else gate.reshape(-1, gate.shape[-1])
        for i in mine:
            place = state.places[i]
            where = place.where.to(flat.device)
            if len(where) == 0:
                continue
            values = flat.index_select(0, where)
            fires = (values if gate is None else gate.index_select(0, where)) > 0
            finite = taps[i].reader.add(layer, values, fires, place.codes.to(flat.device))
            state.finite.append((site, layer, finite))

    return hook


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or on the host."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def _within(batch: TokenBatch, budget: int | None) -> Iterator[TokenBatch]:
    """The batch, in pieces no larger than the budget."""
    if budget is None or batch.token_ids.numel() <= budget or len(batch.sentences) < 2:
        yield batch
    else:
        for half in batch.halves():
            yield from _within(half, budget)


class FeatureReader:
    """Keeps the activations of chosen units at chosen words: [word, column] in float32.

    `columns[layer]` gives the units to keep and where they go. The codes of its tap are row numbers.
    """

    def __init__(self, n_words: int, addresses: Int[np.ndarray, "column two"]) -> None:
        self.values = np.zeros((n_words, len(addresses)), np.float32)
        self._units: dict[int, tuple[Tensor, np.ndarray]] = {}
        for layer in np.unique(addresses[:, 0]):
            columns = np.flatnonzero(addresses[:, 0] == layer)
            self._units[int(layer)] = (torch.from_numpy(addresses[columns, 1]), columns)

    @property
    def layers(self) -> list[int]:
        return list(self._units)

    def add(
        self,
        layer: int,
        values: Float[Tensor, "word unit"],
        fires: Bool[Tensor, "word unit"],
        words: Int[Tensor, " word"],
    ) -> Bool[Tensor, ""]:
        units, columns = self._units[layer]
        kept = values[:, units.to(values.device)].float()
        self.values[np.ix_(words.cpu().numpy(), columns)] = kept.cpu().numpy()
        return torch.isfinite(kept).all()

    def commit(self) -> None:
        """Rows are overwritten when a batch is read again, so there is nothing to merge."""

    def discard(self) -> None:
        """See `commit`."""


class SampleReader:
    """Keeps the activations of all units at chosen words: [word, layer, unit] in float32."""

    def __init__(self, n_words: int, n_layers: int, n_units: int) -> None:
        self.values = np.zeros((n_words, n_layers, n_units), np.float32)

    def add(
        self,
        layer: int,
        values: Float[Tensor, "word unit"],
        fires: Bool[Tensor, "word unit"],
        words: Int[Tensor, " word"],
    ) -> Bool[Tensor, ""]:
        self.values[words.cpu().numpy(), layer] = values.float().cpu().numpy()
        return torch.isfinite(values).all()

    def commit(self) -> None:
        """Rows are overwritten when a batch is read again, so there is nothing to merge."""

    def discard(self) -> None:
        """See `commit`."""
