"""Grow sham sets until they do as much damage as the real lesions."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.dissociation.shams import growing_sham, size_for
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.lesions.prepared import Battery
from grammar_lens.neurons.neurons import KeyNeurons, Neurons

SENTENCES = 40
"""Sentences on which the sizes are found; the damage achieved is measured on all."""
ROUNDS = 6
"""Times that the size of a label's first sham is tried, each nearer to the damage wanted."""
MORE_ROUNDS = 2
"""Times that the sizes of its other shams are tried, from the first one's on."""
GROWTH = 4
NEAR = 0.1
"""A sham whose damage on the sample is this near to the real one's (as a share of it) is not tried again."""
Key = tuple[str, int]
"""Label and replicate of a sham."""


def grown_shams(
    battery: Battery,
    sets: KeyNeurons,
    ablation: Ablation,
    n_replicates: int,
    rng: np.random.Generator,
) -> list[Condition]:
    """Damage-matched shams of every label: random neurons added until the loss rises as much.

    The loss is the mean NLL of the words at which shams are scored. Sizes are found on a sample of
    sentences by trying, and by interpolating between what was tried; the nearest of those is taken.
    The first replicate is tried from small to large, the others from the size it ended with.
    """
    union = sets.union()
    units = sets.units
    assert units is not None
    growing = {
        (label, r): growing_sham(sets[label], union, sets.n_layers, sets.n_units, units.mean, rng)
        for r in range(1, n_replicates + 1)
        for label in sets
    }
    # the words of the labels studied alone, in a few sentences
    codes = np.where(battery.sentences(SENTENCES, rng), battery.studied, -1)
    search = _Search(battery, sets, ablation, growing, codes)
    search.measure_targets()
    first = {label: len(sets[label]) * GROWTH for label in sets}
    search.go([key for key in growing if key[1] == 1], first, ROUNDS)
    later = {label: search.nearest((label, 1)) for label in sets}
    search.go([key for key in growing if key[1] > 1], later, MORE_ROUNDS)
    return [search.condition(key, search.nearest(key)) for key in growing]


class _Search:
    """Sizes that were tried, and the damage that each did."""

    def __init__(
        self,
        battery: Battery,
        sets: KeyNeurons,
        ablation: Ablation,
        growing: Mapping[Key, Neurons],
        codes: Int[np.ndarray, " word"],
    ) -> None:
        self._battery, self._sets, self._ablation = battery, sets, ablation
        self._growing, self._codes = growing, codes
        self._tried: dict[Key, dict[int, float]] = {key: {} for key in growing}
        self._target: dict[str, float] = {}

    def measure_targets(self) -> None:
        """Measures the damage of the real sets."""
        real = [Condition(label, 0, self._sets[label], self._ablation) for label in self._sets]
        rises = _rises(self._battery, real, self._codes, "real sets")
        self._target = dict(zip(self._sets, rises.tolist(), strict=True))

    def go(self, keys: Sequence[Key], first: Mapping[str, int], rounds: int) -> None:
        """Tries sizes of some shams, from `first` on, until each is near its label's damage."""
        for step in range(rounds):
            sizes = {key: self._next_size(key, first[key[0]]) for key in keys}
            conditions = [self.condition(key, size) for key, size in sizes.items() if size]
            if not conditions:
                return
            of = f"{step + 1} of at most {rounds}"
            rises = _rises(self._battery, conditions, self._codes, of)
            for condition, rise in zip(conditions, rises.tolist(), strict=True):
                tried = self._tried[condition.label, condition.replicate]
                tried[len(condition.neurons)] = rise

    def condition(self, key: Key, size: int) -> Condition:
        """The lesion of the first neurons of a sham."""
        return Condition(*key, self._growing[key].top(size), self._ablation, "matched")

    def nearest(self, key: Key) -> int:
        """The size that came nearest: damage need not rise with size, so none is taken untried.

        Where the real set does no damage, a single neuron.
        """
        tried, target = self._tried[key], self._target[key[0]]
        return min(tried, key=lambda size: abs(tried[size] - target)) if target > 0 else 1

    def _next_size(self, key: Key, first: int) -> int:
        most = len(self._growing[key])
        return next_size(self._tried[key], self._target[key[0]], min(first, most), most)


def next_size(tried: Mapping[int, float], target: float, first: int, most: int) -> int:
    """A size worth trying: larger until the damage is reached, then between; 0 for none.

    Damage is taken to grow in proportion to size beyond what was tried.
    """
    if target <= 0:
        return 0
    if not tried:
        return first
    if min(abs(rise / target - 1) for rise in tried.values()) <= NEAR:
        return 0
    largest, damage = max(tried), max(tried.values())
    if damage >= target:
        size = size_for(target, np.array(list(tried)), np.array(list(tried.values())))
    elif largest < most:
        growth = min(target / damage, GROWTH) if damage > 0 else GROWTH
        size = min(max(ceil(largest * growth), largest + 1), most)
    else:
        return 0
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
