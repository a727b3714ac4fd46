"""Streaming moments: per label and unit the count, mean and squared deviations of an activation.

`Moments` is the float64 result on the host, `MomentAccumulator` the running state on the device.
Both merge by the formula of Chan, Golub & LeVeque (1983) and by nothing else, so streaming,
resuming and sharding give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor


class MomentsError(ValueError):
    """Moments that do not belong together, or activations that are not finite."""


@dataclass(frozen=True)
class Origin:
    """What numbers are of: which model read which words, and where."""

    model: str
    treebank: str
    label: str
    position: str
    site: str


@dataclass(frozen=True)
class UnitStatistics:
    """What is known of every unit whatever the label: one number per unit, over all words.

    `eta_squared` is the share of its variance that lies between labels, in [0, 1], 0 for a unit
    that never varies (Fisher 1925, Statistical Methods, ch. 7).
    """

    mean: Float[np.ndarray, "layer unit"]
    mean_abs: Float[np.ndarray, "layer unit"]
    eta_squared: Float[np.ndarray, "layer unit"]


@dataclass(frozen=True)
class Moments:
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
            raise MomentsError(
                f"moments of different labels cannot be merged: {self.labels} and {other.labels}"
            )
        if replace(self.origin, treebank="") != replace(other.origin, treebank=""):
            raise MomentsError(
                f"moments of different origins cannot be merged: {self.origin} and {other.origin}"
            )
        ours, theirs = self.count[:, None, None], other.count[:, None, None]
        total = np.maximum(ours + theirs, 1)
        gap = other.mean - self.mean
        n, m = self.n_words, other.n_words
        return Moments(
            labels=self.labels,
            count=self.count + other.count,
            mean=self.mean + gap * (theirs / total),
            m2=self.m2 + other.m2 + gap**2 * (ours * theirs / total),
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
        """What lesions, shams and layer comparisons need of every unit."""
        mean, total = self.pooled()
        between = np.maximum(total - self.m2.sum(0), 0.0)
        eta = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
        return UnitStatistics(mean=mean, mean_abs=self.mean_abs, eta_squared=eta)

    def only(self, labels: Sequence[str]) -> "Moments":
        """The moments of some labels' words."""
        rows = [self.labels.index(x) for x in labels]
        return self._rows(rows, tuple(labels))

    def parts(self, n: int) -> tuple["Moments", ...]:
        """`n` parts of a corpus whose words were told apart as separate labels, part by part."""
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


class MomentAccumulator:
    """Running moments of every layer at one site, on the device.

    A batch is centred in float32, on its mean and then on its labels' means, and merged in float64:
    sums of squares of raw values would lose the variance of units whose mean, or whose labels'
    means, are many standard deviations from zero.
    What a batch adds waits until `commit`, so that a batch that ran out of memory half-way can be
    read again after `discard`.
    """

    def __init__(
        self, labels: Sequence[str], n_layers: int, n_units: int, device: torch.device
    ) -> None:
        shape = (len(labels), n_layers, n_units)
        self.labels = tuple(labels)
        self.count = torch.zeros(len(labels), n_layers, dtype=torch.float64, device=device)
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self.m2 = torch.zeros(shape, dtype=torch.float64, device=device)
        self.fired = torch.zeros(shape, dtype=torch.float64, device=device)
        self.sum_abs = torch.zeros(shape[1:], dtype=torch.float64, device=device)
        self._waiting: list[tuple[int, Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def add(
        self,
        layer: int,
        values: Float[Tensor, "word unit"],
        fires: Bool[Tensor, "word unit"],
        words: Int[Tensor, " word"],
    ) -> Bool[Tensor, ""]:
        """Takes one batch's activations in one layer; returns whether all of them were finite.

        A batch holds one word or more.
        """
        x = values.float()
        classes = words.to(x.device)
        one_hot = torch.nn.functional.one_hot(classes, len(self.labels)).T.float()
        n = one_hot.sum(1)
        centre = x.mean(0)
        sum_abs = x.abs().sum(0)
        z = x - centre
        shift = (one_hot @ z) / n.clamp(min=1)[:, None]
        z -= shift.index_select(0, classes)
        m2 = one_hot @ z.square_()
        fired = one_hot @ fires.to(x.dtype)
        mean = centre.double() + shift.double()
        self._waiting.append((layer, n.double(), mean, m2.double(), fired, sum_abs))
        return torch.isfinite(centre).all() & torch.isfinite(m2).all()

    def commit(self) -> None:
        """Merges what has been added since the last commit."""
        for layer, n, mean, m2, fired, sum_abs in self._waiting:
            ours, theirs = self.count[:, layer, None], n[:, None]
            total = (ours + theirs).clamp(min=1)
            gap = torch.where(theirs > 0, mean - self.mean[:, layer], 0.0)
            self.mean[:, layer] += gap * (theirs / total)
            self.m2[:, layer] += m2 + gap**2 * (ours * theirs / total)
            self.count[:, layer] += n
            self.fired[:, layer] += fired
            self.sum_abs[layer] += sum_abs
        self._waiting.clear()

    def discard(self) -> None:
        """Forgets what has been added since the last commit."""
        self._waiting.clear()

    def moments(self, origin: Origin) -> Moments:
        """The moments of everything committed, on the host."""
        count = self.count[:, 0].cpu().numpy()
        assert bool((self.count == self.count[:, :1]).all()), "layers saw different words"
        return Moments(
            labels=self.labels,
            count=count,
            mean=self.mean.cpu().numpy(),
            m2=self.m2.cpu().numpy(),
            fired=self.fired.cpu().numpy(),
            mean_abs=(self.sum_abs / max(count.sum(), 1)).cpu().numpy(),
            origin=origin,
        )
