"""Key neurons: for every label, the neurons that a rule picks from the scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.moments import Origin, UnitStatistics
from grammar_lens.selectivity import Scores

SIGNS = ("absolute", "positive", "negative")


class SelectionError(ValueError):
    """A choice of neurons that cannot be made, or a key-neuron table that cannot be read."""


@dataclass(frozen=True)
class Neurons:
    """Units of one site by address (layer, index), best first, with their scores.

    `mean` is each unit's mean activation over all words at the study's position, which a mean
    lesion puts in its place; None when it is not known.
    """

    name: str
    site: str
    layer: Int[np.ndarray, " neuron"]
    index: Int[np.ndarray, " neuron"]
    score: Float[np.ndarray, " neuron"]
    mean: Float[np.ndarray, " neuron"] | None = None

    def __len__(self) -> int:
        return len(self.layer)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self.layer.tolist(), self.index.tolist(), strict=True))

    def top(self, k: int) -> "Neurons":
        """The first `k`."""
        return self.take(np.arange(min(k, len(self))))

    def in_layer(self, layer: int) -> "Neurons":
        """Those of one layer."""
        return self.take(np.flatnonzero(self.layer == layer))

    def take(self, rows: Int[np.ndarray, " row"]) -> "Neurons":
        """Those at the given ranks, in that order."""
        return replace(
            self,
            layer=self.layer[rows],
            index=self.index[rows],
            score=self.score[rows],
            mean=None if self.mean is None else self.mean[rows],
        )

    def to_frame(self) -> pd.DataFrame:
        """A row per neuron, in rank order."""
        return pd.DataFrame({"layer": self.layer, "index": self.index, "score": self.score})

    def __repr__(self) -> str:
        first = ", ".join(
            f"{la}.{i} ({s:+.3f})"
            for (la, i), s in zip(list(self)[:5], self.score[:5], strict=True)
        )
        more = ", ..." if len(self) > 5 else ""
        return f"Neurons {self.name}: {len(self)} at {self.site!r}: {first}{more}"


@dataclass(frozen=True)
class KeyNeurons(Mapping[str, Neurons]):
    """The key neurons of every label: `keys["VERB"]` is a `Neurons`."""

    sets: dict[str, Neurons]
    method: str
    rule: str
    n_units: int
    """Units in one layer."""
    n_layers: int
    units: UnitStatistics | None
    origin: Origin

    def __getitem__(self, label: str) -> Neurons:
        if label not in self.sets:
            raise SelectionError(f"no key neurons of {label!r}: there are {', '.join(self.sets)}")
        return self.sets[label]

    def __contains__(self, label: object) -> bool:
        return label in self.sets

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets)

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.sets)

    @property
    def k(self) -> int:
        """The size of the largest set."""
        return max((len(s) for s in self.sets.values()), default=0)

    def top(self, k: int) -> "KeyNeurons":
        """The first `k` of every label."""
        return replace(self, sets={name: s.top(k) for name, s in self.sets.items()})

    def only(self, labels: list[str] | tuple[str, ...]) -> "KeyNeurons":
        """The sets of some labels."""
        return replace(self, sets={label: self[label] for label in labels})

    def union(self) -> Int[np.ndarray, "neuron two"]:
        """Every neuron that stands in at least one set, once, sorted by (layer, index)."""
        rows = [np.stack([s.layer, s.index], 1) for s in self.sets.values()]
        return np.unique(np.concatenate([*rows, np.zeros((0, 2), np.int64)]), axis=0)

    def to_frame(self) -> pd.DataFrame:
        """A row per label and neuron: label, layer, index, score, q, rank (from 1).

        q is empty: ranking alone gives no error rate.
        """
        frames = [
            s.to_frame().assign(label=name, q=np.nan, rank=np.arange(1, len(s) + 1))
            for name, s in self.sets.items()
        ]
        frame = pd.concat(frames, ignore_index=True)
        return frame.reindex(columns=["label", "layer", "index", "score", "q", "rank"])

    def __repr__(self) -> str:
        o = self.origin
        sizes = ", ".join(f"{name} {len(s)}" for name, s in self.sets.items())
        return (
            f"KeyNeurons of {o.model} by {self.method} ({self.rule}) on {o.treebank}, "
            f"position {o.position!r}: {len(self.union())} neurons in all; {sizes}"
        )

    def _repr_html_(self) -> str:
        return self.top(5).to_frame().to_html(index=False)


def select(
    scores: Scores, k: int = 100, *, sign: str = "absolute", per_layer: bool = False
) -> KeyNeurons:
    """The `k` best neurons of every label, over all layers or in each layer.

    `sign` ranks by absolute score, or takes only the largest ("positive") or the smallest
    ("negative"). Equal scores are broken by address, the lowest first. Units that never vary
    (score 0) are never chosen, so a set may hold fewer than `k`.
    Raises SelectionError when `k` is not between 1 and the number of units there are.
    """
    n_layers, n_units = scores.values.shape[1:]
    there = n_units if per_layer else n_layers * n_units
    if not 1 <= k <= there:
        where = "in each layer" if per_layer else f"in {n_layers} layers of {n_units}"
        raise SelectionError(f"k is {k}, expected 1 to {there}: there are {there} units {where}")
    if sign not in SIGNS:
        raise SelectionError(f"sign is {sign!r}, expected one of {', '.join(SIGNS)}")
    sets = {}
    for label in scores.labels:
        values = scores[label]
        ranked = {"absolute": np.abs(values), "positive": values, "negative": -values}[sign]
        if per_layer:
            rows = [layer * n_units + _top(ranked[layer], k) for layer in range(n_layers)]
            flat = np.concatenate(rows)
            flat = flat[np.argsort(-ranked.ravel()[flat], kind="stable")]
        else:
            flat = _top(ranked.ravel(), k)
        sets[label] = Neurons(
            name=label,
            site=scores.origin.site,
            layer=flat // n_units,
            index=flat % n_units,
            score=values.ravel()[flat],
            mean=scores.units.mean.ravel()[flat],
        )
    return KeyNeurons(
        sets=sets,
        method=scores.method,
        rule=f"top {k}{' per layer' if per_layer else ''}, {sign}",
        n_units=n_units,
        n_layers=n_layers,
        units=scores.units,
        origin=scores.origin,
    )


def _top(values: Float[np.ndarray, " unit"], k: int) -> Int[np.ndarray, " chosen"]:
    """Positions of the k largest positive values, largest first, ties by position."""
    order = np.argsort(-values, kind="stable")[:k]
    return order[values[order] > 0]
