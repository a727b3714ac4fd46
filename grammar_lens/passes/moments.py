"""Streaming moments: per label and unit the count, mean and squared deviations of an activation.

`Moments` is the float64 result on the host, `MomentAccumulator` the running state on the device.
Both merge by `chan` and by nothing else, so streaming,
resuming and sharding give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.chan import chan
from grammar_lens.passes.readers import Seen, State
from grammar_lens.passes.reduction import PLAIN, Reduction, Workspace


@dataclass(frozen=True)
class UnitStatistics(Shown):
    """Label-independent statistics: one number per unit, over all words.

    `eta_squared` is the share of its variance that lies between labels, in [0, 1], 0 for a unit
    that never varies (Fisher 1925, Statistical Methods, ch. 7).
    """

    mean: Float[np.ndarray, "layer unit"]
    mean_abs: Float[np.ndarray, "layer unit"]
    eta_squared: Float[np.ndarray, "layer unit"]

    def __repr__(self) -> str:
        return f"UnitStatistics of {self.mean.shape[0]} x {self.mean.shape[1]} units"

    def _title(self) -> str:
        return f"{self!r}; means of every layer"

    def _tables(self) -> list[pd.DataFrame]:
        names = ("mean", "mean_abs", "eta_squared")
        layers = pd.DataFrame({name: getattr(self, name).mean(1) for name in names})
        return [layers.rename_axis("layer").reset_index()]


@dataclass(frozen=True)
class Moments(Shown):
    """Count, mean, squared deviations and firing count per label and unit; add two to merge them.

    `m2` is the sum of squared deviations from the label's mean. `fired` counts the words at which a
    unit fires: its gate's pre-activation is positive (at residual sites, the unit itself).
    `mean_abs` is over all words together. `count` and `fired` are exact integers in float64.
    """

    labels: tuple[str, ...]
    count: Float[np.ndarray, " label"]
    mean: Float[np.ndarray, "label layer unit"]
    m2: Float[np.ndarray, "label layer unit"]
    fired: Float[np.ndarray, "label layer unit"]
    mean_abs: Float[np.ndarray, "layer unit"]
    origin: Origin

    def __add__(self, other: "Moments") -> "Moments":
        if self.labels != other.labels:
            raise GrammarLensError(
                f"moments of different labels cannot be merged: {self.labels} and {other.labels}"
            )
        if replace(self.origin, treebank="") != replace(other.origin, treebank=""):
            raise GrammarLensError(
                f"moments of different origins cannot be merged: {self.origin} and {other.origin}"
            )
        counts = (self.count[:, None, None], other.count[:, None, None])
        step, spread = chan(*counts, other.mean - self.mean)
        n, m = self.n_words, other.n_words
        return Moments(
            labels=self.labels,
            count=self.count + other.count,
            mean=self.mean + step,
            m2=self.m2 + other.m2 + spread,
            fired=self.fired + other.fired,
            mean_abs=self.mean_abs + (other.mean_abs - self.mean_abs) * (m / max(n + m, 1)),
            origin=self.origin,
        )

    @property
    def n_words(self) -> int:
        return int(self.count.sum())

    @property
    def n_layers(self) -> int:
        return self.mean.shape[1]

    def pooled(self) -> tuple[Float[np.ndarray, "layer unit"], Float[np.ndarray, "layer unit"]]:
        """Mean and squared deviations over all words together."""
        return pool(self.count, self.mean, self.m2)

    def units(self) -> UnitStatistics:
        """Unit statistics for lesions, shams and layer comparisons."""
        mean, total = self.pooled()
        between = np.maximum(total - self.m2.sum(0), 0.0)
        eta = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
        return UnitStatistics(mean=mean, mean_abs=self.mean_abs, eta_squared=eta)

    def only(self, labels: Sequence[str]) -> "Moments":
        """The moments of some labels' words."""
        rows = [self.labels.index(x) for x in labels]
        return self._rows(rows, tuple(labels))

    def parts(self, n: int) -> tuple["Moments", ...]:
        """`n` parts of a corpus that were collected as separate labels, part by part."""
        size = len(self.labels) // n
        labels = self.labels[:size]
        return tuple(self._rows(list(range(i * size, (i + 1) * size)), labels) for i in range(n))

    def _rows(self, rows: list[int], labels: tuple[str, ...]) -> "Moments":
        return replace(
            self,
            labels=labels,
            count=self.count[rows],
            mean=self.mean[rows],
            m2=self.m2[rows],
            fired=self.fired[rows],
        )

    def to_frame(self) -> pd.DataFrame:
        """A row per label, layer and unit: words of the label, mean, sd, and fires (share of words)."""
        n_labels, n_layers, n_units = self.mean.shape
        sd = np.sqrt(self.m2 / np.maximum(self.count - 1, 1)[:, None, None])
        return pd.DataFrame(
            {
                "label": np.repeat(np.array(self.labels, object), n_layers * n_units),
                "layer": np.tile(np.repeat(np.arange(n_layers), n_units), n_labels),
                "index": np.tile(np.arange(n_units), n_labels * n_layers),
                "words": np.repeat(self.count.astype(np.int64), n_layers * n_units),
                "mean": self.mean.ravel(),
                "sd": sd.ravel(),
                "fires": self.firing_rate().ravel(),
            }
        )

    def firing_rate(self) -> Float[np.ndarray, "label layer unit"]:
        """Share of each label's words at which a unit fires."""
        return self.fired / np.maximum(self.count, 1)[:, None, None]

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"Moments of {self.mean.shape[1]} x {self.mean.shape[2]} units at {o.site!r} of {o.model}, "
            f"{self.n_words:,} words of {o.treebank} read at {o.position!r}, "
            f"{len(self.labels)} values of {o.label}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        table = {"label": self.labels, "words": self.count.astype(np.int64)}
        fires = self.firing_rate().mean((1, 2))
        return [pd.DataFrame({**table, "fires at (share, mean over units)": fires})]


def pool(
    count: Float[np.ndarray, " label"],
    mean: Float[np.ndarray, "label layer unit"],
    m2: Float[np.ndarray, "label layer unit"],
) -> tuple[Float[np.ndarray, "layer unit"], Float[np.ndarray, "layer unit"]]:
    """Mean and squared deviations of several labels' words taken together."""
    total = max(float(count.sum()), 1.0)
    # a weighted mean of equal means is off by rounding, which would read as variance
    start = mean[count.argmax()]
    grand = start + einsum(count / total, mean - start, "label, label layer unit -> layer unit")
    spread = einsum(count, (mean - grand) ** 2, "label, label layer unit -> layer unit")
    return grand, m2.sum(0) + spread


def reduction_for(flat: Float[Tensor, "token unit"]) -> Reduction:
    """The fastest way to reduce these activations: Triton kernels on a CUDA GPU, where it is installed."""
    fits = flat.is_cuda and flat.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return _on_gpu() if fits else PLAIN


@cache
def _on_gpu() -> Reduction:
    if find_spec("triton") is None:
        return PLAIN
    from grammar_lens.passes.triton_kernels import Fused

    return Fused()


class MomentAccumulator:
    """Running moments of every layer at one site, each layer's on the device that computes it.

    A batch's moments by class (`reduction`, on a CUDA GPU the kernels of `fused`) are merged in
    float64. What a batch adds waits until `commit`, so that a batch that ran out of memory half-way
    can be read again after `discard`.
    """

    def __init__(
        self, labels: Sequence[str], n_layers: int, n_units: int, device: torch.device
    ) -> None:
        self.labels = tuple(labels)
        self._n_units = n_units
        self._layers = [self._empty(device) for _ in range(n_layers)]
        self._waiting: list[tuple[int, Any, Any]] = []
        self._known: tuple[Tensor, Tensor | None, Any] | None = None
        self._space = Workspace()

    def _empty(self, device: torch.device) -> State:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        n, n_units = len(self.labels), self._n_units
        by_class = {name: zeros(n, n_units) for name in ("mean", "m2", "fired")}
        return {"count": zeros(n), **by_class, "sum_abs": zeros(n_units)}

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        """Takes one batch's activations in one layer; returns whether all of them were finite.

        A batch holds one word or more; `words` are their classes.
        """
        reduce = reduction_for(seen.flat)
        batch = self._batch(seen, words, reduce)
        moments = reduce.moments(seen, batch, self._space)
        self._waiting.append((layer, reduce, moments))
        return moments.good

    def _batch(self, seen: Seen, words: Tensor, reduce: Any) -> Any:
        """The batch's words by class, kept for the layers to come."""
        device, known = seen.flat.device, self._known
        if (
            known is None
            or known[0] is not words
            or known[1] is not seen.where
            or known[2].where.device != device
        ):
            where = torch.arange(len(words)) if seen.where is None else seen.where
            batch = reduce.batch(where.to(device), words.to(device), len(self.labels))
            known = self._known = (words, seen.where, batch)
        return known[2]

    def commit(self) -> None:
        """Merges what has been added since the last commit."""
        for layer, reduce, moments in self._waiting:
            state = self._layers[layer]
            if state["mean"].device != moments.mean.device:
                state = {name: t.to(moments.mean.device) for name, t in state.items()}
                self._layers[layer] = state
            reduce.merge(moments, state)
        self.discard()

    def discard(self) -> None:
        """Forgets what has been added since the last commit."""
        self._waiting.clear()
        self._known = None

    def state(self) -> list[State]:
        """The committed moments, one piece per layer."""
        return self._layers

    def load(self, pieces: Sequence[State]) -> None:
        """Takes the place of what was committed."""
        devices = [layer["mean"].device for layer in self._layers]
        self._layers = [
            {name: t.to(device) for name, t in piece.items()}
            for piece, device in zip(pieces, devices, strict=True)
        ]

    def merge(self, first: State, second: State) -> State:
        """One layer's moments over the words of both."""
        n, m = first["count"][:, None], second["count"][:, None]
        step, spread = chan(n, m, torch.where(m > 0, second["mean"] - first["mean"], 0.0))
        return {
            "count": first["count"] + second["count"],
            "mean": first["mean"] + step,
            "m2": first["m2"] + second["m2"] + spread,
            "fired": first["fired"] + second["fired"],
            "sum_abs": first["sum_abs"] + second["sum_abs"],
        }

    def moments(self, origin: Origin) -> Moments:
        """The moments of everything committed, on the host."""
        counts = [layer["count"].cpu().numpy() for layer in self._layers]
        assert all((n == counts[0]).all() for n in counts), "layers saw different words"
        return Moments(
            labels=self.labels,
            count=counts[0],
            mean=self._stacked("mean", 1),
            m2=self._stacked("m2", 1),
            fired=self._stacked("fired", 1),
            mean_abs=self._stacked("sum_abs", 0) / max(counts[0].sum(), 1),
            origin=origin,
        )

    def _stacked(self, name: str, axis: int) -> Float[np.ndarray, "..."]:
        return np.stack([layer[name].cpu().numpy() for layer in self._layers], axis)
