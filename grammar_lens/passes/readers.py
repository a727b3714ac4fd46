"""Readers of a pass: the protocols by which they receive activations and merge results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

State = dict[str, Tensor]
"""Part of a reader's committed state, by name: stored in checkpoints and exchanged by processes."""


@dataclass(frozen=True)
class Seen:
    """Activations of one layer and batch, and where the wanted words stand in them.

    `gate` has the pre-activations whose sign says that a unit fires; without it the activations' own
    sign does. `where` indexes the rows of `flat`; None when every row is a word.
    """

    flat: Float[Tensor, "token unit"]
    gate: Float[Tensor, "token unit"] | None = None
    where: Int[Tensor, " word"] | None = None

    def values(self) -> Float[Tensor, "word unit"]:
        """The words' activations."""
        return self.flat if self.where is None else self.flat.index_select(0, self.where)

    def fires(self) -> Bool[Tensor, "word unit"]:
        """Whether each unit fires at each word."""
        signal = self.flat if self.gate is None else self.gate
        return (signal if self.where is None else signal.index_select(0, self.where)) > 0


@runtime_checkable
class Collector(Protocol):
    """Protocol for statistics gathered over batches, in pieces that can be stored and merged.

    `commit` or `discard` ends a batch; a discarded batch is read again in halves. `state` gives what
    was committed, as references, in pieces small enough to be sent one by one; `load` takes such
    pieces; `merge` gives the piece that two processes' pieces make together.
    """

    def commit(self) -> None: ...

    def discard(self) -> None: ...

    def state(self) -> list[State]: ...

    def load(self, pieces: Sequence[State]) -> None: ...

    def merge(self, first: State, second: State) -> State: ...


@runtime_checkable
class Reader(Collector, Protocol):
    """Receives one batch's activations layer by layer; says whether all of them were finite.

    `words` is the same tensor for all layers of a batch, so what is made of it can be kept.
    """

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]: ...


class AddOnce:
    """Statistics of every layer that are changed as activations come, each word added once.

    A batch that is read again after it ran out of memory may have been added in some layers already:
    the words that were are remembered in each layer's `added`, and passed over there.
    """

    def __init__(self, layers: Sequence[State], on_host: Sequence[str] = ()) -> None:
        """`layers` have the word numbers `added` beside their statistics, each none at first."""
        self._layers, self._on_host = list(layers), frozenset(on_host)
        self._pending: list[Tensor | None] = [None] * len(self._layers)

    def _state_of(self, layer: int, device: torch.device) -> State:
        """A layer's statistics, on the device that computes it."""
        state = self._layers[layer]
        if state["added"].device != device:
            state = self._layers[layer] = self._moved(state, device)
        return state

    def _note_added(self, layer: int, words: Int[Tensor, " word"]) -> None:
        """To be called once a batch's words are in the layer's statistics, and not before."""
        self._pending[layer] = words

    def _moved(self, state: State, device: torch.device) -> State:
        return {name: t if name in self._on_host else t.to(device) for name, t in state.items()}

    def commit(self) -> None:
        """Ends a batch."""
        self._pending = [None] * len(self._pending)

    def discard(self) -> None:
        """Ends a batch that will be read again in pieces; what was added of it stays."""
        for layer, words in enumerate(self._pending):
            if words is not None:
                state = self._layers[layer]
                state["added"] = torch.cat([state["added"], words.to(state["added"].device)])
        self.commit()

    def state(self) -> list[State]:
        """The statistics of every layer, one piece per layer."""
        return self._layers

    def load(self, pieces: Sequence[State]) -> None:
        """Takes the place of what was added."""
        devices = [layer["added"].device for layer in self._layers]
        self._layers = [self._moved(p, d) for p, d in zip(pieces, devices, strict=True)]


class RowReader:
    """Rows of activations kept on the host, one per word; which have been read is remembered."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.values = np.zeros(shape, np.float32)
        self.read = np.zeros(shape[0], bool)
        self._rows: np.ndarray = np.zeros(0, np.int64)

    def commit(self) -> None:
        """Rows are overwritten when a batch is read again, so there is nothing to merge."""
        self.read[self._rows] = True

    def discard(self) -> None:
        """See `commit`."""

    def state(self) -> list[State]:
        return [{"values": torch.from_numpy(self.values), "read": torch.from_numpy(self.read)}]

    def load(self, pieces: Sequence[State]) -> None:
        (piece,) = pieces
        self.values = piece["values"].cpu().numpy()
        self.read = piece["read"].cpu().numpy()

    def merge(self, first: State, second: State) -> State:
        from_second = second["read"].reshape(-1, *[1] * (second["values"].dim() - 1))
        return {
            "values": torch.where(from_second, second["values"], first["values"]),
            "read": first["read"] | second["read"],
        }


class FeatureReader(RowReader):
    """Keeps the activations of chosen units at chosen words: [word, column] in float32.

    `columns[layer]` gives the units to keep and where they go. The codes of its tap are row numbers.
    """

    def __init__(self, n_words: int, addresses: Int[np.ndarray, "column two"]) -> None:
        super().__init__((n_words, len(addresses)))
        self._units: dict[int, tuple[Tensor, np.ndarray]] = {}
        for layer in np.unique(addresses[:, 0]):
            columns = np.flatnonzero(addresses[:, 0] == layer)
            self._units[int(layer)] = (torch.from_numpy(addresses[columns, 1]), columns)

    @property
    def layers(self) -> list[int]:
        return list(self._units)

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        units, columns = self._units[layer]
        values = seen.values()[:, units.to(seen.flat.device)].float()
        self._rows = words.cpu().numpy()
        self.values[np.ix_(self._rows, columns)] = values.cpu().numpy()
        return torch.isfinite(values).all()


class SampleReader(RowReader):
    """Keeps the activations of all units at chosen words: [word, layer, unit] in float32."""

    def __init__(self, n_words: int, n_layers: int, n_units: int) -> None:
        super().__init__((n_words, n_layers, n_units))

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        values = seen.values()
        self._rows = words.cpu().numpy()
        self.values[self._rows, layer] = values.float().cpu().numpy()
        return torch.isfinite(values).all()


class LinearReader(RowReader):
    """Keeps linear functions of all units, weights @ (activations - centre) + bias: [word, layer, output].

    `functions` has (centre, weights, bias) of every layer. Computed in float32 on the device; the
    codes of its tap are row numbers.
    """

    def __init__(
        self,
        n_words: int,
        functions: Sequence[
            tuple[Float[Tensor, " unit"], Float[Tensor, "output unit"], Float[Tensor, " output"]]
        ],
    ) -> None:
        super().__init__((n_words, len(functions), len(functions[0][2])))
        self._functions = [tuple(t.float() for t in parts) for parts in functions]

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        centre, weights, bias = (t.to(seen.flat.device) for t in self._functions[layer])
        values = torch.addmm(bias, seen.values().float() - centre, weights.T)
        self._rows = words.cpu().numpy()
        self.values[self._rows, layer] = values.cpu().numpy()
        return torch.isfinite(values).all()
