"""Grow sham sets until they do as much damage as the real lesions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, exp, log

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import isotonic_regression

from grammar_lens.dissociation.shams import growing_sham
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.lesions.prepared import Battery
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import massive_units

SENTENCES = 200
"""Sentences, of those the shams will be measured on, on which the sizes are found."""
GROUPS = 5
"""Parts of these sentences; every sham is tried on one of them, and all together on all."""
ROUNDS = 5
"""Times that a label's size is tried with one sham of each group."""
MORE_ROUNDS = 4
"""Times that it is then tried with all shams."""
GROWTH = 4
AIM = 1.1
"""Damage that is aimed at, as a share of the real set's: too little would not be a fair comparison."""
NEAR = 0.1
"""A size whose damage is this near to what is aimed at, as a share of it, is good enough."""
NEAR_WITH_FEW = 0.25
"""As good as one sham of each group can tell: shams of one size differ by a third in damage."""
POWER = 1.5
"""Damage is taken to grow with this power of size as long as one size alone was tried."""
LEAST = 1e-3
"""Damage, as a share of what is aimed at, that less counts as: a lesion may lower the loss."""
WHOLE = 1e-6
"""A size this little above a whole number is that number."""
Key = tuple[str, int]
"""Label and replicate of a sham."""


def grown_shams(
    battery: Battery,
    sets: KeyNeurons,
    ablation: Ablation,
    n_replicates: int,
    rng: np.random.Generator,
    *,
    real: Outcomes,
    words: Bool[np.ndarray, " word"] | None = None,
) -> list[Condition]:
    """Damage-matched shams of every label: random neurons added until the loss rises as much.

    The loss is the mean NLL of the words at which shams are scored, by default at all of them, else
    at some `words`; `real` has those of the real sets. All shams of a label have one size, at which they do on average a tenth more
    damage than the real set. It is found by trying sizes, and by interpolating between them, on at
    most `SENTENCES` sentences; each sham is tried on a part of these, so that the mean over shams is
    one over sentences, too, at the cost of a few of them. Where no real set has a unit of massive
    activations, the shams take none: a single one does more damage than thousands of others.
    """
    units = sets.units
    assert units is not None
    union, massive = sets.union(), massive_units(units)
    if not massive[union[:, 0], union[:, 1]].any():
        union = np.concatenate([union, np.argwhere(massive)])
    growing = {
        (label, r): growing_sham(sets[label], union, sets.n_layers, sets.n_units, units.mean, rng)
        for r in range(1, n_replicates + 1)
        for label in sets
    }
    groups = _groups(battery, words, n_replicates, rng)
    target = _target(real, sets, ablation, np.max(groups, axis=0) >= 0)
    search = _Search(battery, target, ablation, growing, groups)
    few, all_shams = range(1, len(groups) + 1), range(1, n_replicates + 1)
    size = {label: len(sets[label]) * GROWTH for label in sets}
    size = search.go(few, size, ROUNDS, NEAR_WITH_FEW if n_replicates > len(few) else NEAR)
    if n_replicates > len(few):
        size = search.go(all_shams, size, MORE_ROUNDS, NEAR)
    return [search.condition(key, size[key[0]]) for key in growing]


def _groups(
    battery: Battery,
    words: Bool[np.ndarray, " word"] | None,
    n_replicates: int,
    rng: np.random.Generator,
) -> list[Int[np.ndarray, " word"]]:
    """The classes of the words of each group of sentences, -1 for all other words."""
    some = battery.shared if words is None else battery.shared & words
    sample = replace(battery, shared=some)
    some = some & sample.sentences(SENTENCES, rng)
    row = battery.corpus.alignment.row
    rows = rng.permutation(np.unique(row[some]))
    n = max(1, min(GROUPS, n_replicates, len(rows)))
    parts = (np.isin(row, rows[g::n]) & some for g in range(n))
    return [np.where(part, battery.codes, -1) for part in parts]


def _target(
    real: Outcomes, sets: KeyNeurons, ablation: Ablation, words: Bool[np.ndarray, " word"]
) -> dict[str, float]:
    """Rise of the NLL (nats) that every label's shams shall do, at some words."""
    at = words[real.word]
    row = {
        c.label: row
        for row, c in enumerate(real.conditions, 1)
        if (c.replicate, c.ablation, c.kind) == (0, ablation, "set")
    }
    return {x: AIM * float((real.nll[row[x], at] - real.nll[0, at]).mean()) for x in sets}


class _Search:
    """Finds the size at which a label's shams do the damage of its real set."""

    def __init__(
        self,
        battery: Battery,
        target: Mapping[str, float],
        ablation: Ablation,
        growing: Mapping[Key, Neurons],
        groups: Sequence[Int[np.ndarray, " word"]],
    ) -> None:
        self._battery, self._target, self._ablation = battery, target, ablation
        self._growing, self._groups = growing, groups
        counts = np.array([(codes >= 0).sum() for codes in groups], float)
        self._weight = counts / counts.sum()

    def go(
        self, replicates: Sequence[int], first: Mapping[str, int], rounds: int, near: float
    ) -> dict[str, int]:
        """Tries sizes of some shams, from `first` on; the size of each label that came nearest.

        Damage need not rise with size, so that none is taken untried. A single neuron where the real
        set does no damage.
        """
        tried: dict[str, dict[int, float]] = {label: {} for label in self._target}
        for step in range(rounds):
            sizes = {x: self._next_size(x, tried[x], first[x], near) for x in tried}
            sizes = {label: size for label, size in sizes.items() if size}
            if not sizes:
                break
            for label, rise in self._measured(
                replicates, sizes, f"{step + 1} of at most {rounds}"
            ).items():
                tried[label][sizes[label]] = rise
        return {label: self._nearest(label, tried[label]) for label in tried}

    def condition(self, key: Key, size: int) -> Condition:
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
                self.condition((label, r), size) for r in own for label, size in sizes.items()
            ]
            rises = _rises(self._battery, conditions, codes, which)
            total += self._weight[g] * rises.reshape(len(own), len(sizes)).mean(0)
        return dict(zip(sizes, total.tolist(), strict=True))

    def _nearest(self, label: str, tried: Mapping[int, float]) -> int:
        target = self._target[label]
        return min(tried, key=lambda size: abs(tried[size] - target)) if target > 0 else 1

    def _next_size(self, label: str, tried: Mapping[int, float], first: int, near: float) -> int:
        most = min(len(sham) for (of, _), sham in self._growing.items() if of == label)
        return next_size(tried, self._target[label], min(first, most), most, near)


def next_size(tried: Mapping[int, float], target: float, first: int, most: int, near: float) -> int:
    """A size worth trying, from 1 to `most`; 0 where a tried one is near enough or none is left.

    `tried` has the damage of some sizes, which is made to rise with size (isotonic regression).
    Between two sizes, and a `GROWTH`-fold beyond them, damage is taken for a power of size.
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
