"""Several runs of one family of models: the neurons they share; of others, the depth of their neurons."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.lesions.holm import holm
from grammar_lens.neurons.choice_agreement import Choice
from grammar_lens.neurons.families import Relation, relation, shared_neurons
from grammar_lens.neurons.overlap import layer_counts
from grammar_lens.report.comparison_tables import Runs
from grammar_lens.report.protocols import ResultsLike, RunLike, results_of
from grammar_lens.report.result_tables import DASH, Cell, Table, measured, small


@dataclass(frozen=True)
class RunPair:
    """Two runs at one position: the relation of their models, and what they share label by label.

    `shared` is None unless the models are of one family.
    """

    position: str
    first: str
    second: str
    relation: Relation
    shared: pd.DataFrame | None

    @property
    def name(self) -> str:
        return f"{self.first} and {self.second}"


@dataclass(frozen=True)
class Agreement:
    """Key neurons that runs of one family share at one position, the mean over common labels.

    Shared neurons over the smaller set; `expected` is what sets drawn at random within their layers
    share. NaN for runs that have no label in common, or none with key neurons, and for two models that are
    related only through others.
    """

    position: str
    names: tuple[str, ...]
    share: Float[np.ndarray, "run run"]
    expected: Float[np.ndarray, "run run"]


def run_pairs(runs: Runs) -> list[RunPair]:
    """Every two runs at every position where both have key neurons."""
    found = {name: {r.position: r for r in results_of(run)} for name, run in runs.items()}
    positions = dict.fromkeys(position for at in found.values() for position in at)
    pairs = []
    for position in positions:
        for a, b in combinations([name for name in runs if position in found[name]], 2):
            first, second = found[a][position], found[b][position]
            of = relation(
                first.keys,
                second.keys,
                same_weights=_same(runs[a], runs[b], "model", "weights"),
                same_name=_same(runs[a], runs[b], "config", "model"),
            )
            shared = shared_neurons(_choice(first), _choice(second)) if of.is_family else None
            pairs.append(RunPair(position, a, b, of, shared))
    return pairs


def _same(first: RunLike, second: RunLike, part: str, name: str) -> bool:
    values = [run.record.get(part, {}).get(name) for run in (first, second)]
    return values[0] is not None and values[0] == values[1]


def _choice(results: ResultsLike) -> Choice:
    return Choice(results.scores, results.keys)


def agreements(pairs: Sequence[RunPair]) -> list[Agreement]:
    """The runs of each position in families of two or more."""
    groups: list[tuple[str, set[str]]] = []
    family = [pair for pair in pairs if pair.shared is not None]
    for pair in family:
        names = {pair.first, pair.second}
        touching = [g for g in groups if g[0] == pair.position and g[1] & names]
        groups = [g for g in groups if g not in touching]
        groups.append((pair.position, names.union(*(g[1] for g in touching))))
    order = list(dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second)))
    return [
        _agreement(
            position,
            tuple(sorted(names, key=order.index)),
            [p for p in family if p.position == position],
        )
        for position, names in groups
    ]


def _agreement(position: str, names: tuple[str, ...], pairs: Sequence[RunPair]) -> Agreement:
    n = len(names)
    share, expected = np.full((2, n, n), np.nan)
    np.fill_diagonal(share, 1)
    for pair in pairs:
        if pair.first not in names or pair.shared is None:
            continue
        i, j = names.index(pair.first), names.index(pair.second)
        values = shares(pair.shared).dropna()
        if len(values):
            share[i, j] = share[j, i] = values["share"].mean()
            expected[i, j] = expected[j, i] = values["expected"].mean()
    return Agreement(position, names, share, expected)


def shares(shared: pd.DataFrame) -> pd.DataFrame:
    """Shared neurons over the smaller set, and the share expected by chance; NaN for empty sets."""
    smaller = shared[["n_first", "n_second"]].min(axis=1).replace(0, np.nan)
    return pd.DataFrame(
        {"share": shared["shared"] / smaller, "expected": shared["expected"] / smaller}
    )


def relation_table(pairs: Sequence[RunPair]) -> Table:
    """Every two runs: whether their models are of one family, and why."""
    rows: list[list[Cell]] = [
        [
            (pair.name, pair.name),
            ("yes" if pair.relation.is_family else "no", str(pair.relation.is_family)),
            (pair.relation.reason, pair.relation.reason),
            measured(pair.relation.correlation, 3, plus=True),
            small(pair.relation.p_value),
        ]
        for pair in pairs
    ]
    return Table(("Runs", "One family", "Why", "Correlation of mean |activation|", "p"), rows)


def shared_table(pairs: Sequence[RunPair]) -> Table:
    """Every label of every two runs of one family: key neurons, shared, by chance, p, and scores.

    p is corrected for all rows of the table (Holm).
    """
    family = [(pair, pair.shared) for pair in pairs if pair.shared is not None]
    corrected = iter(holm(np.concatenate([s["p"].to_numpy() for _, s in family])) if family else ())
    rows: list[list[Cell]] = []
    for pair, shared in family:
        for label, record in zip(shared.index, shared.to_dict("records"), strict=True):
            rows.append(
                [
                    (pair.name, pair.name),
                    (str(label), str(label)),
                    *(_count(record[x]) for x in ("n_first", "n_second", "shared")),
                    measured(record["expected"], 2),
                    small(next(corrected)),
                    measured(record["rank_correlation"], 3, plus=True),
                ]
            )
    names = ("Neurons of the first", "Of the second", "Shared", "By chance", "p (Holm)")
    return Table(("Runs", "Tag", *names, "Rank correlation of scores"), rows)


def _count(value: float) -> Cell:
    return (f"{value:.0f}", float(value))


def depth_table(runs: Runs, position: str) -> Table:
    """Mean relative depth of every label's key neurons in every run: 0 is the first layer, 1 the last."""
    at = {
        name: mean_depths(r)
        for name, run in runs.items()
        for r in results_of(run)
        if r.position == position
    }
    labels = dict.fromkeys(label for depths in at.values() for label in depths)
    rows: list[list[Cell]] = [
        [
            (label, label),
            *(measured(d[label], 2) if label in d else (DASH, None) for d in at.values()),
        ]
        for label in labels
    ]
    return Table(("Tag", *at), rows)


def mean_depths(results: ResultsLike) -> dict[str, float]:
    """Mean relative depth of each label's key neurons, layer l of n at (l + 1/2)/n; NaN without any."""
    counts = layer_counts(results.keys)
    depth = (np.arange(results.keys.n_layers) + 0.5) / results.keys.n_layers
    n = counts.sum(1)
    mean = np.divide(counts @ depth, n, out=np.full(len(n), np.nan), where=n > 0)
    return dict(zip(results.keys.labels, mean.tolist(), strict=True))


def shared_rows(pairs: Sequence[RunPair]) -> list[dict[str, object]]:
    """The shared neurons as rows for a program: runs, position, label, and the columns of `shared_neurons`."""
    return [
        {"first": p.first, "second": p.second, "position": p.position, "label": label, **record}
        for p in pairs
        if p.shared is not None
        for label, record in zip(p.shared.index, p.shared.to_dict("records"), strict=True)
    ]


def layer_accuracy(runs: Runs, position: str) -> dict[str, Float[np.ndarray, " layer"]]:
    """Accuracy of the probe on the residual stream after every layer, of the runs that have it."""
    found = {}
    for name, run in runs.items():
        table, column = run.layer_table, f"resid_accuracy_{position}"
        if table is not None and column in table:
            found[name] = table.loc[table["layer"] >= 0, column].to_numpy(float)
    return found
