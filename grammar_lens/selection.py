"""Key neurons: for every label, the neurons that a rule picks from the scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from grammar_lens.display import listed, page
from grammar_lens.exchange import Null
from grammar_lens.moments import Origin, UnitStatistics
from grammar_lens.selectivity import SIGNS, Scores

RULES = ("top_k", "fdr", "permutation", "frequency")


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
    q: Float[np.ndarray, " neuron"] | None = None
    """False discovery rate at which each would just be chosen; None without a null."""

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

    def without(self, others: "Neurons") -> "Neurons":
        """Those that are not among `others`."""
        gone = set(others)
        return self.take(np.array([i for i, at in enumerate(self) if at not in gone], np.int64))

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

    def _repr_html_(self) -> str:
        return page(repr(self), self.to_frame())


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

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.sets)

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
        Raises SelectionError for a table without these columns, and for an address that is not of
        whole numbers, that the model does not have, or that a label has twice; the row is named by
        the frame's index, after `where`.
        """
        n_layers, n_units = _sizes(like)
        address = _addresses(frame, n_layers, n_units, where)
        sets = {}
        for label in dict.fromkeys([*labels, *frame["label"]]):
            mine = (frame["label"] == label).to_numpy(bool)
            rows, (layer, index) = frame.loc[mine], address[mine].T
            has_q = "q" in rows and not rows["q"].isna().all()
            sets[label] = Neurons(
                name=label,
                site=like.origin.site,
                layer=layer,
                index=index,
                score=rows["score"].to_numpy(np.float64),
                mean=None if like.units is None else like.units.mean[layer, index],
                q=rows["q"].to_numpy(np.float64) if has_q else None,
            )
        return cls(sets, method or like.method, rule, n_units, n_layers, like.units, like.origin)

    def __repr__(self) -> str:
        o = self.origin
        sizes = listed(f"{name} {len(s)}" for name, s in self.sets.items())
        return (
            f"KeyNeurons of {o.model} by {self.method} ({self.rule}) on {o.treebank}, "
            f"position {o.position!r}: {len(self.union())} neurons in all; {sizes}"
        )

    def _repr_html_(self) -> str:
        first = [
            ", ".join(f"{layer}.{index}" for layer, index in s.top(5)) for s in self.sets.values()
        ]
        sizes = [len(s) for s in self.sets.values()]
        table = pd.DataFrame({"label": self.labels, "neurons": sizes, "first": first})
        return page(repr(self), table)


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
        raise SelectionError(
            f"a table of key neurons has the columns label, layer, index and score, and this one has "
            f"no {missing[0]!r}: there are {', '.join(map(str, frame.columns))}"
        )
    names = ["layer", "index"]
    given = frame[names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    whole = (given == np.floor(given)).all(1)  # what is missing or no number is not, either
    inside = ((given >= 0) & (given < [n_layers, n_units])).all(1)
    again = frame.duplicated(["label", "layer", "index"]).to_numpy(bool)
    for wrong, what in (
        (~whole, "is no layer and index in whole numbers"),
        (~inside, f"does not exist: the model has {n_layers} layers of {n_units} units"),
        (again, "stands there twice for the same label: leave it once"),
    ):
        if wrong.any():
            n = int(np.flatnonzero(wrong)[0])
            values = map(int, given[n]) if whole[n] else (frame[c].iloc[n] for c in names)
            neuron = ".".join(map(str, values))
            raise SelectionError(f"{where}{frame.index[n]}: neuron {neuron} {what}")
    return given.astype(np.int64)


def all_neurons(keys: KeyNeurons, layers: Sequence[int] | None = None) -> Neurons:
    """Every unit of some layers (by default all), as a set to lesion; scores are 0.

    Raises SelectionError for a layer that does not exist.
    """
    chosen = range(keys.n_layers) if layers is None else sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < keys.n_layers]
    if outside:
        raise SelectionError(
            f"layer {outside[0]} does not exist: there are layers 0 to {keys.n_layers - 1}"
        )
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
    )


def select(
    scores: Scores,
    k: int | None = None,
    *,
    rule: str = "top_k",
    sign: str = "absolute",
    per_layer: bool = False,
    alpha: float = 0.05,
    null: Null | None = None,
) -> KeyNeurons:
    """The key neurons of every label by a rule.

    - "top_k": the `k` (100) strongest, over all layers or in each layer.
    - "fdr": those with a q-value of at most `alpha`, over all labels and units together.
    - "permutation": those that stand out from their own null further than any unit of any label does
      in all but `alpha` of the replicates, so the chance of choosing anything at all by accident is
      at most `alpha`.
    - "frequency": the `k` (100) neurons most often among the largest attributions of a label's
      words, from the score of that name (the rule of arXiv 2511.06519).

    "fdr" and "permutation" need the scores' null, from replicates with exchanged labels, and choose
    at most `k` if it is given. Where a score counts both ways, `sign` ranks by its size, or takes only
    the largest ("positive") or the smallest ("negative"). Equal scores are broken by address, the
    lowest first. Units of no strength are never chosen, so a set may hold fewer than `k`.
    Raises SelectionError for an unknown rule or sign, when `k` is not between 1 and the number of units, and
    when a rule lacks the null or the score that it needs.
    """
    n_layers, n_units = scores.values.shape[1:]
    _check(scores, k, rule, sign, n_units if per_layer else n_layers * n_units, per_layer)
    null = scores.null if null is None else null
    q = _q_values(scores, null)
    strength = scores.strength(sign)
    strength = np.where(_allowed(scores, rule, alpha, null, q), strength, 0.0)
    most = k or (100 if rule in ("top_k", "frequency") else n_layers * n_units)
    sets = {}
    for i, label in enumerate(scores.labels):
        if per_layer:
            rows = [la * n_units + _top(strength[i, la], most) for la in range(n_layers)]
            flat = np.concatenate(rows)
            flat = flat[np.argsort(-strength[i].ravel()[flat], kind="stable")]
        else:
            flat = _top(strength[i].ravel(), most)
        sets[label] = Neurons(
            name=label,
            site=scores.origin.site,
            layer=flat // n_units,
            index=flat % n_units,
            score=scores[label].ravel()[flat],
            mean=scores.units.mean.ravel()[flat],
            q=None if q is None else q[i].ravel()[flat],
        )
    return KeyNeurons(
        sets=sets,
        method=scores.method,
        rule=_told(rule, k, per_layer, sign, alpha),
        n_units=n_units,
        n_layers=n_layers,
        units=scores.units,
        origin=scores.origin,
    )


def _check(
    scores: Scores, k: int | None, rule: str, sign: str, there: int, per_layer: bool
) -> None:
    if rule not in RULES:
        raise SelectionError(f"rule is {rule!r}, expected one of {', '.join(RULES)}")
    if sign not in SIGNS:
        raise SelectionError(f"sign is {sign!r}, expected one of {', '.join(SIGNS)}")
    if k is not None and not 1 <= k <= there:
        n_layers, n_units = scores.values.shape[1:]
        where = "in each layer" if per_layer else f"in {n_layers} layers of {n_units}"
        raise SelectionError(f"k is {k}, expected 1 to {there}: there are {there} units {where}")
    if rule == "frequency" and scores.method != "frequency":
        raise SelectionError(
            f"the rule 'frequency' counts how often a neuron is among the largest attributions, and "
            f"these scores are {scores.method!r}: use the score 'frequency'"
        )


def _allowed(
    scores: Scores,
    rule: str,
    alpha: float,
    null: Null | None,
    q: Float[np.ndarray, "label layer unit"] | None,
) -> Bool[np.ndarray, "label layer unit"]:
    """The units that a rule lets through."""
    if rule in ("top_k", "frequency"):
        return np.ones(scores.values.shape, bool)
    if not 0 < alpha < 1:
        raise SelectionError(f"alpha is {alpha}, expected a number between 0 and 1")
    if null is None or q is None:
        raise SelectionError(
            f"the rule {rule!r} needs a null for {scores.method!r}, and there is none: collect with "
            "replicates (replicates=100), and use a score that class means decide (correlation, "
            "cohens_d, eta_squared, probeless), or choose by rank (rule 'top_k')"
        )
    null.require_words()
    if rule == "fdr":
        return q <= alpha
    threshold = null.threshold(alpha)
    if np.isinf(threshold):
        raise SelectionError(
            f"{null.n_replicates} replicates cannot tell a chance of {alpha:g}: at least "
            f"{int(np.ceil(1 / alpha)) - 1} are needed"
        )
    return null.z(null.observed) > threshold


def _q_values(scores: Scores, null: Null | None) -> Float[np.ndarray, "label layer unit"] | None:
    if null is None:
        return None
    if (null.method, null.labels) != (scores.method, scores.labels):
        raise SelectionError(
            f"the null is of {null.method!r} for {', '.join(null.labels)} and the scores are "
            f"{scores.method!r} for {', '.join(scores.labels)}: use the null of these scores"
        )
    return null.q()


def _told(rule: str, k: int | None, per_layer: bool, sign: str, alpha: float) -> str:
    """The rule in words, for results and reports."""
    where = " per layer" if per_layer else ""
    if rule in ("top_k", "frequency"):
        return f"top {k or 100}{where}, {sign}"
    most = f", top {k}{where}" if k else ""
    return f"{rule} at {alpha:g}{most}, {sign}"


def _top(values: Float[np.ndarray, " unit"], k: int) -> Int[np.ndarray, " chosen"]:
    """Positions of the k largest positive values, largest first, ties by position."""
    order = np.argsort(-values, kind="stable")[:k]
    return order[values[order] > 0]
