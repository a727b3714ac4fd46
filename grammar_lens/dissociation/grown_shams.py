"""Grow sham sets until they do as much damage as the real lesions."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from math import ceil, exp, log
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import isotonic_regression

from grammar_lens.dissociation.changes import total_damage
from grammar_lens.dissociation.shams import growing_sham
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.lesions.prepared import Battery
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.selection import massive_units

SENTENCES = 200
"""Sentences, of those the shams will be measured on, on which the sizes are found."""
GROUPS = 5
"""Parts of these sentences; every sham is tried on one of them, and all together on all."""
ROUNDS = 5
"""Times that a label's size is tried with one sham of each group."""
MORE_ROUNDS = 4
"""Times that it is then tried with all shams."""
START = 4
"""Size that is tried first, as a multiple of the real set's."""
GROWTH = 8
"""How many times larger than any tried one a size may be."""
AIM = 1.1
"""Damage that is aimed at, as a share of the real set's: too little would not be a fair comparison."""
NEAR = 0.1
"""A size whose damage is this near to what is aimed at, as a share of it, is good enough."""
NEAR_WITH_FEW = 0.25
"""As good as one sham of each group can tell: shams of one size differ by a third in damage."""
NEAR_ENOUGH = 0.15
"""As near as the damage at all words must come."""
CORRECTIONS = 2
"""Times that shams which miss it are run again."""
POWER = 1.5
"""Damage is taken to grow with this power of size as long as one size alone was tried."""
LEAST = 1e-3
"""Damage, as a share of what is aimed at, that less counts as: a lesion may lower the loss."""
WHOLE = 1e-6
"""A size this little above a whole number is that number."""
Key = tuple[str, int]
"""Label and replicate of a sham."""


class GrowingShams:
    """Random sets of neurons for every label that grow until they do the damage of its real set.

    Damage is the rise of the mean NLL at the words at which shams are scored, by default all of
    them, else some `words`; `real` has the losses of the real sets. All shams of a label have one
    size, at which they do on average a tenth more damage than the real set. Where no real set has a
    unit of massive activations, the shams take none: a single one does more damage than thousands of
    others.
    """

    def __init__(
        self,
        battery: Battery,
        sets: KeyNeurons,
        ablation: Ablation,
        n_replicates: int,
        rng: np.random.Generator,
        *,
        real: Outcomes,
        words: Bool[np.ndarray, " word"] | None = None,
    ) -> None:
        self._battery, self._sets, self._ablation, self._real = battery, sets, ablation, real
        self._words = battery.shared if words is None else battery.shared & words
        self._sampled = battery.codes_at(words)
        units = sets.units
        assert units is not None
        taken = units_taken(sets)
        self._growing = {
            (label, r): growing_sham(
                sets[label], taken, sets.n_layers, sets.n_units, units.mean, rng
            )
            for r in range(1, n_replicates + 1)
            for label in sets
        }
        self._n = n_replicates
        self._groups = self._grouped(rng)
        counts = np.array([(codes >= 0).sum() for codes in self._groups], float)
        self._weight = counts / counts.sum()

    def conditions(self, sizes: Mapping[str, int]) -> list[Condition]:
        """The lesions of all shams of some labels, by replicate, at some size."""
        return [self._condition((x, r), sizes[x]) for r in range(1, self._n + 1) for x in sizes]

    def sizes(self) -> dict[str, int]:
        """The size of each label's shams, found by trying some on at most `SENTENCES` sentences.

        Each sham is tried on a part of these, so that the mean over shams is one over sentences, too,
        at the cost of a few of them.
        """
        target = self._target(np.max(self._groups, axis=0) >= 0)
        few, all_shams = range(1, len(self._groups) + 1), range(1, self._n + 1)
        size = {label: len(self._sets[label]) * START for label in self._sets}
        near = NEAR_WITH_FEW if self._n > len(few) else NEAR
        size = self._search(target, few, size, ROUNDS, near)
        if self._n > len(few):
            size = self._search(target, all_shams, size, MORE_ROUNDS, NEAR)
        return size

    def outcomes(self, folder: Path | None = None) -> Outcomes:
        """The losses under all shams; those of a label that miss its damage are grown and run again."""
        sizes, target = self.sizes(), self._target(self._words)
        tried: dict[str, dict[int, float]] = {label: {} for label in sizes}
        done = None
        for time in range(1 + CORRECTIONS):
            made = self._run(sizes, folder and folder / str(time))
            for label, rise in self._mean_rises(made, sizes).items():
                tried[label][sizes[label]] = rise
            better = {x for x in sizes if nearest_size(tried[x], target[x]) == sizes[x]}
            done = made if done is None else _replaced(done, made, better)
            next_sizes = {x: self._next_size(target, x, tried[x], 1, NEAR_ENOUGH) for x in tried}
            sizes = {x: size for x, size in next_sizes.items() if size}
            if not sizes:
                break
        assert done is not None
        return done

    def _grouped(self, rng: np.random.Generator) -> list[Int[np.ndarray, " word"]]:
        """The classes of the words of each group of sentences, -1 for all other words."""
        sample = replace(self._battery, shared=self._words)
        some = self._words & sample.sentences(SENTENCES, rng)
        row = self._battery.corpus.alignment.row
        rows = rng.permutation(np.unique(row[some]))
        n = max(1, min(GROUPS, self._n, len(rows)))
        parts = (np.isin(row, rows[g::n]) & some for g in range(n))
        return [self._battery.codes_at(part) for part in parts]

    def _target(self, words: Bool[np.ndarray, " word"]) -> dict[str, float]:
        """Rise of the NLL (nats) at some words that every label's shams shall do."""
        real, at = self._real, words[self._real.word]
        row = {
            c.label: row
            for row, c in enumerate(real.conditions, 1)
            if (c.replicate, c.ablation, c.kind) == (0, self._ablation, "set")
        }
        return {x: AIM * float((real.nll[row[x], at] - real.nll[0, at]).mean()) for x in self._sets}

    def _run(self, sizes: Mapping[str, int], folder: Path | None) -> Outcomes:
        return self._battery.run(
            self.conditions(sizes),
            codes=self._sampled,
            folder=folder,
            what="lesioning, damage-matched shams",
        )

    def _mean_rises(self, made: Outcomes, sizes: Mapping[str, int]) -> dict[str, float]:
        """Mean rise of the NLL over all shams of each label."""
        each = [total_damage(made, tuple(sizes), r) for r in range(1, self._n + 1)]
        return dict(zip(sizes, np.mean(each, axis=0).tolist(), strict=True))

    def _search(
        self,
        target: Mapping[str, float],
        replicates: Sequence[int],
        first: Mapping[str, int],
        rounds: int,
        near: float,
    ) -> dict[str, int]:
        """Tries sizes of some shams, from `first` on; the size of each label that came nearest."""
        return search_sizes(
            lambda sizes, which: self._measured(replicates, sizes, which),
            target,
            first,
            {label: self._most(label) for label in target},
            rounds,
            near,
        )

    def _most(self, label: str) -> int:
        return min(len(sham) for (of, _), sham in self._growing.items() if of == label)

    def _condition(self, key: Key, size: int) -> Condition:
        """The lesion of the first neurons of a sham."""
        return Condition(*key, self._growing[key].top(size), self._ablation, "matched")

    def _measured(
        self, replicates: Sequence[int], sizes: Mapping[str, int], which: str
    ) -> dict[str, float]:
        """Mean rise of the loss over shams of these sizes, each on the sentences of its group."""
        total = np.zeros(len(sizes))
        for g, codes in enumerate(self._groups):
            own = [r for r in replicates if (r - 1) % len(self._groups) == g]
            conditions = [
                self._condition((label, r), size) for r in own for label, size in sizes.items()
            ]
            rises = _rises(self._battery, conditions, codes, which)
            total += self._weight[g] * rises.reshape(len(own), len(sizes)).mean(0)
        return dict(zip(sizes, total.tolist(), strict=True))

    def _next_size(
        self,
        target: Mapping[str, float],
        label: str,
        tried: Mapping[int, float],
        first: int,
        near: float,
    ) -> int:
        most = self._most(label)
        return next_size(tried, target[label], min(first, most), most, near)


def units_taken(sets: KeyNeurons) -> Int[np.ndarray, "unit two"]:
    """Units (layer, index) that no sham may have: all key neurons, and units of massive activations if no
    set has one."""
    union = sets.union()
    assert sets.units is not None
    massive = massive_units(sets.units)
    if massive[union[:, 0], union[:, 1]].any():
        return union
    return np.concatenate([union, np.argwhere(massive)])


def search_sizes(
    measure: Callable[[dict[str, int], str], Mapping[str, float]],
    target: Mapping[str, float],
    first: Mapping[str, int],
    most: Mapping[str, int],
    rounds: int,
    near: float,
) -> dict[str, int]:
    """The size of each label's shams whose damage came nearest to its target, of those tried.

    `measure` gives the damage of some labels' shams at some sizes; it is told which round this is. Damage
    need not rise with size, so none is taken untried. A single neuron where the target is not above 0.
    """
    tried: dict[str, dict[int, float]] = {label: {} for label in target}
    for step in range(rounds):
        wanted = {
            x: next_size(tried[x], target[x], min(first[x], most[x]), most[x], near) for x in tried
        }
        sizes = {x: size for x, size in wanted.items() if size}
        if not sizes:
            break
        for label, rise in measure(sizes, f"{step + 1} of at most {rounds}").items():
            tried[label][sizes[label]] = rise
    return {label: nearest_size(tried[label], target[label]) for label in tried}


def nearest_size(tried: Mapping[int, float], target: float) -> int:
    """The tried size whose damage is nearest to the target; 1 for a target that is not above 0."""
    return min(tried, key=lambda size: abs(tried[size] - target)) if target > 0 else 1


def _replaced(old: Outcomes, new: Outcomes, labels: Container[str]) -> Outcomes:
    """The old outcomes, with the new ones of some labels in place of their own."""
    kept = old.where([c.label not in labels for c in old.conditions])
    return kept.joined(new.where([c.label in labels for c in new.conditions]))


def next_size(tried: Mapping[int, float], target: float, first: int, most: int, near: float) -> int:
    """A size worth trying, from 1 to `most`; 0 where a tried one is near enough or none is left.

    `tried` has the damage of some sizes, which is made to rise with size (isotonic regression).
    Between two sizes, and up to `GROWTH` times beyond them, damage is taken for a power of size.
    """
    if target <= 0:
        return 0
    if not tried:
        return first
    if min(abs(damage / target - 1) for damage in tried.values()) <= near:
        return 0
    sizes = np.array(sorted(tried))
    shares = isotonic_regression([tried[size] / target for size in sizes.tolist()]).x
    x, y = np.log(sizes), np.log(np.maximum(shares, LEAST))
    if y[0] < 0 <= y[-1]:
        above = int(np.argmax(y >= 0))
        at = float(np.interp(0, y[above - 1 : above + 1], x[above - 1 : above + 1]))
    else:
        end = 0 if y[0] >= 0 else -1
        at = float(x[end] + np.clip(-y[end] / POWER, -log(GROWTH), log(GROWTH)))
    size = min(max(ceil(exp(at) - WHOLE), 1), most)
    return 0 if size in tried else size


def _rises(
    battery: Battery,
    conditions: Sequence[Condition],
    codes: Int[np.ndarray, " word"],
    which: str,
) -> Float[np.ndarray, " condition"]:
    """Mean rise of the NLL (nats) under each lesion."""
    nll = battery.run(conditions, codes=codes, what=f"matching damage ({which})").nll
    return (nll[1:] - nll[:1]).mean(1)
