"""Sets of neurons by address, and one set for every label."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown, listed
from grammar_lens.errors import (
    GrammarLensError,
    counted,
    expected_one_of,
    require_layer,
    require_neuron,
)
from grammar_lens.neurons.address import Addresses, parse_addresses, parse_pair
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.selectivity.result import Scores


@dataclass(frozen=True)
class Neurons(Shown):
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
    q: Float[np.ndarray, " neuron"] | None = None
    """False discovery rate at which each would just be chosen; None without a null."""
    weights: str = ""
    """Fingerprint of the model they were chosen in; empty where it is not known."""

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
            q=None if self.q is None else self.q[rows],
        )

    def without(self, others: "Neurons | Addresses") -> "Neurons":
        """Those that are not among `others`: neurons, "7.336", (7, 336), or a list of addresses.

        Raises GrammarLensError for what is no address, and for units of another site.
        """
        others = self._same_site(others)
        return self.take(np.flatnonzero(~self._is_in(others)))

    def __sub__(self, others: "Neurons | Addresses") -> "Neurons":
        """Those that are not among `others`."""
        others = self._same_site(others)
        return replace(self.without(others), name=f"{self.name} - {others.name}")

    def __and__(self, others: "Neurons | Addresses") -> "Neurons":
        """Those that are among `others` too, in this set's order and with its scores."""
        others = self._same_site(others)
        shared = self.take(np.flatnonzero(self._is_in(others)))
        return replace(shared, name=f"{self.name} & {others.name}")

    def __or__(self, others: "Neurons | Addresses") -> "Neurons":
        """This set, then those of `others` that it lacks, each with the score of its own set.

        Raises GrammarLensError where one set knows its means and the other does not.
        """
        others = self._same_site(others)
        if len(self) and len(others) and (self.mean is None) != (others.mean is None):
            raise GrammarLensError(
                f"the mean activations of {self.name!r} are {_known(self.mean)} and those of "
                f"{others.name!r} {_known(others.mean)}, so a lesion could not treat them alike: take "
                "the latter from key neurons, keys.pick('7.336'), or measure means with "
                "gl.neuron_set(model, '7.336', bank=treebank)"
            )
        name = f"{self.name} | {others.name}"
        more = others.take(np.flatnonzero(~others._is_in(self)))
        if not len(self) or not len(more):
            return replace(self if len(self) else more, name=name)
        return Neurons(
            name=name,
            site=self.site,
            layer=np.concatenate([self.layer, more.layer]),
            index=np.concatenate([self.index, more.index]),
            score=np.concatenate([self.score, more.score]),
            mean=_joined(self.mean, more.mean),
            q=_joined(self.q, more.q),
            weights=self.weights or more.weights,
        )

    def _is_in(self, others: "Neurons") -> Bool[np.ndarray, " neuron"]:
        known = set(others)
        return np.array([at in known for at in self], bool)

    def _same_site(self, others: "Neurons | Addresses") -> "Neurons":
        other = as_neurons(others, site=self.site)
        if other.site != self.site:
            raise GrammarLensError(
                f"{self.name!r} has units of {self.site!r} and {other.name!r} of {other.site!r}: sets "
                "of one site can be combined"
            )
        if self.weights and other.weights and self.weights != other.weights:
            raise GrammarLensError(
                f"{self.name!r} and {other.name!r} were chosen in models of different weights: sets of "
                "one model can be combined"
            )
        return other

    def __contains__(self, address: object) -> bool:
        """Whether a unit, "7.336" or (7, 336), is in the set."""
        return parse_pair(address) in list(self)

    @classmethod
    def at(
        cls, addresses: Addresses, *, name: str | None = None, site: str = "neuron"
    ) -> "Neurons":
        """A set from addresses alone, "7.336", (7, 336) or a list of these: no means, scores 0.

        Raises GrammarLensError for invalid addresses; whether units exist is checked with a model.
        """
        layer, index = parse_addresses(addresses).T
        return cls(name or _named(layer, index), site, layer, index, np.zeros(len(layer)))

    def to_frame(self) -> pd.DataFrame:
        """A row per neuron, in rank order."""
        return pd.DataFrame({"layer": self.layer, "index": self.index, "score": self.score})

    def __repr__(self) -> str:
        scored = bool(np.any(self.score))  # addresses alone have none
        first = ", ".join(
            f"{la}.{i} ({s:+.3f})" if scored else f"{la}.{i}"
            for (la, i), s in zip(list(self)[:5], self.score[:5], strict=True)
        )
        more = ", ..." if len(self) > 5 else ""
        return f"Neurons {self.name}: {len(self)} at {self.site!r}: {first}{more}"


@dataclass(frozen=True)
class KeyNeurons(Mapping[str, Neurons], Shown):
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
            raise GrammarLensError(
                f"no key neurons of {label!r}: {expected_one_of(label, self.sets)}"
            )
        return self.sets[label]

    def __contains__(self, label: object) -> bool:
        return label in self.sets

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets)

    def __len__(self) -> int:
        return len(self.sets)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.sets)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.sets)

    @property
    def k(self) -> int:
        """The size of the largest set."""
        return max((len(s) for s in self.sets.values()), default=0)

    def in_layer(self, layer: int) -> "KeyNeurons":
        """Those of one layer; a label may have none there."""
        return replace(self, sets={name: s.in_layer(layer) for name, s in self.sets.items()})

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

    def pick(self, addresses: Addresses, *, name: str | None = None) -> Neurons:
        """Any units, key or not, "7.336", (7, 336) or a list of these, with their means; scores are 0.

        Raises GrammarLensError for what is no address, and for units that do not exist.
        """
        layer, index = parse_addresses(addresses).T
        for at in zip(layer.tolist(), index.tolist(), strict=True):
            require_neuron(*at, self.n_layers, self.n_units, model=self.origin.model)
        return Neurons(
            name=name or _named(layer, index),
            site=self.origin.site,
            layer=layer,
            index=index,
            score=np.zeros(len(layer)),
            mean=None if self.units is None else self.units.mean[layer, index],
            weights=self.origin.weights,
        )

    def n_labels(self) -> Int[np.ndarray, "layer unit"]:
        """Number of labels each unit is key to."""
        count = np.zeros((self.n_layers, self.n_units), np.int64)
        for neurons in self.sets.values():
            count[neurons.layer, neurons.index] += 1
        return count

    def unspecific(self) -> Int[np.ndarray, "neuron two"]:
        """The units, as (layer, index), that are key to more than half of the labels."""
        return np.argwhere(self.n_labels() > len(self.sets) / 2)

    def to_frame(self) -> pd.DataFrame:
        """A row per label and neuron: label, layer, index, score, q, rank (from 1).

        q is empty where the scores came without a null: ranking alone gives no error rate.
        """
        frames = [
            s.to_frame().assign(
                label=name, q=np.nan if s.q is None else s.q, rank=np.arange(1, len(s) + 1)
            )
            for name, s in self.sets.items()
        ]
        frame = pd.concat(frames, ignore_index=True)
        return frame.reindex(columns=["label", "layer", "index", "score", "q", "rank"])

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        like: "Scores | KeyNeurons",
        *,
        rule: str,
        method: str | None = None,
        labels: Sequence[str] = (),
        where: str = "row ",
    ) -> "KeyNeurons":
        """Key neurons from a table with the columns label, layer, index and score (and q), best first.

        They are units of `like`, and their scores of the same method if no other is named. Of
        `labels`, one without rows has no key neurons, as where a rule chooses nothing.
        Raises GrammarLensError for a table without these columns, and for an address that is not of
        whole numbers, that the model does not have, or that a label has twice; the row is named by
        the frame's index, after `where`.
        """
        n_layers, n_units = _sizes(like)
        address = _addresses(frame, n_layers, n_units, where)
        sets = {}
        for label in dict.fromkeys([*labels, *frame["label"]]):
            of_label = (frame["label"] == label).to_numpy(bool)
            rows, (layer, index) = frame.loc[of_label], address[of_label].T
            has_q = "q" in rows and not rows["q"].isna().all()
            sets[label] = Neurons(
                name=label,
                site=like.origin.site,
                layer=layer,
                index=index,
                score=rows["score"].to_numpy(np.float64),
                mean=None if like.units is None else like.units.mean[layer, index],
                q=rows["q"].to_numpy(np.float64) if has_q else None,
                weights=like.origin.weights,
            )
        return cls(sets, method or like.method, rule, n_units, n_layers, like.units, like.origin)

    def __repr__(self) -> str:
        o = self.origin
        sizes = listed(f"{name} {len(s)}" for name, s in self.sets.items())
        return (
            f"KeyNeurons of {o.model} by {self.method} ({self.rule}) on {o.treebank}, "
            f"position {o.position!r}: {len(self.union())} neurons in all; {sizes}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        first = [
            ", ".join(f"{layer}.{index}" for layer, index in s.top(5)) for s in self.sets.values()
        ]
        sizes = [len(s) for s in self.sets.values()]
        return [pd.DataFrame({"label": self.labels, "neurons": sizes, "first": first})]


def as_neurons(given: "Neurons | KeyNeurons | Addresses", *, site: str = "neuron") -> Neurons:
    """The set itself, or a set of the units at some addresses, whose means are not known.

    Raises GrammarLensError for the key neurons of several labels, and for what is no address.
    """
    if isinstance(given, Neurons):
        return given
    if isinstance(given, KeyNeurons):
        raise GrammarLensError(
            f"the key neurons of {counted(len(given), 'label')} were given, expected one set: "
            "keys['VERB'], or keys['VERB'] | keys['NOUN']"
        )
    return Neurons.at(given, site=site)


def _named(layer: Int[np.ndarray, " neuron"], index: Int[np.ndarray, " neuron"]) -> str:
    """The addresses of a few neurons, or how many there are."""
    if len(layer) > 3:
        return counted(len(layer), "neuron")
    return ", ".join(f"{la}.{i}" for la, i in zip(layer.tolist(), index.tolist(), strict=True))


def _known(mean: object) -> str:
    return "not known" if mean is None else "known"


def _joined(
    first: Float[np.ndarray, " first"] | None, more: Float[np.ndarray, " more"] | None
) -> Float[np.ndarray, " both"] | None:
    return None if first is None or more is None else np.concatenate([first, more])


def _sizes(like: Scores | KeyNeurons) -> tuple[int, int]:
    """Layers, and units in each."""
    if isinstance(like, KeyNeurons):
        return like.n_layers, like.n_units
    return like.values.shape[1], like.values.shape[2]


def _addresses(
    frame: pd.DataFrame, n_layers: int, n_units: int, where: str
) -> Int[np.ndarray, "row two"]:
    """Layer and index of every row of a table of key neurons; raises as `KeyNeurons.from_frame`."""
    missing = [c for c in ("label", "layer", "index", "score") if c not in frame]
    if missing:
        raise GrammarLensError(
            f"a table of key neurons has the columns label, layer, index and score, and this one has "
            f"no {missing[0]!r}: there are {', '.join(map(str, frame.columns))}"
        )
    names = ["layer", "index"]
    given = frame[names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    whole = (given == np.floor(given)).all(1)  # NaN is not whole, either
    inside = ((given >= 0) & (given < [n_layers, n_units])).all(1)
    again = frame.duplicated(["label", "layer", "index"]).to_numpy(bool)
    for wrong, what in (
        (~whole, "is no layer and index in whole numbers"),
        (
            ~inside,
            f"does not exist: the model has {counted(n_layers, 'layer')} of {counted(n_units, 'unit')}",
        ),
        (again, "stands there twice for the same label: leave it once"),
    ):
        if wrong.any():
            n = int(np.flatnonzero(wrong)[0])
            values = map(int, given[n]) if whole[n] else (frame[c].iloc[n] for c in names)
            neuron = ".".join(map(str, values))
            raise GrammarLensError(f"{where}{frame.index[n]}: neuron {neuron} {what}")
    return given.astype(np.int64)


def all_neurons(keys: KeyNeurons, layers: Sequence[int] | None = None) -> Neurons:
    """Every unit of some layers (by default all), as a set to lesion; scores are 0.

    Raises GrammarLensError for a layer that does not exist.
    """
    chosen = range(keys.n_layers) if layers is None else sorted(set(layers))
    for layer in chosen:
        require_layer(layer, keys.n_layers, keys.origin.model)
    layer, index = (
        np.concatenate([*part, np.zeros(0, np.int64)])
        for part in (
            [np.full(keys.n_units, la) for la in chosen],
            [np.arange(keys.n_units) for _ in chosen],
        )
    )
    return Neurons(
        name="all" if layers is None else f"layers {', '.join(map(str, chosen))}",
        site=keys.origin.site,
        layer=layer,
        index=index,
        score=np.zeros(len(layer)),
        mean=None if keys.units is None else keys.units.mean[layer, index],
        weights=keys.origin.weights,
    )


def random_neurons(
    chosen: Int[np.ndarray, "neuron two"], n_units: int, rng: np.random.Generator
) -> Int[np.ndarray, "neuron two"]:
    """As many neurons per layer as `chosen` has, drawn at random from the others where they suffice.

    A layer of which more than half is chosen gives all its neurons a chance.
    """
    rows = [np.zeros((0, 2), np.int64)]
    for layer, count in zip(*np.unique(chosen[:, 0], return_counts=True), strict=True):
        others = np.setdiff1d(np.arange(n_units), chosen[chosen[:, 0] == layer, 1])
        pool = others if len(others) >= count else np.arange(n_units)
        index = np.sort(rng.choice(pool, count, replace=False))
        rows.append(np.stack([np.full(count, layer), index], 1))
    return np.concatenate(rows)
