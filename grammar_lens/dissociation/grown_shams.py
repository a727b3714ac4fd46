"""Grow sham sets until they do as much damage as the real lesions."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.dissociation.shams import growing_sham, size_for
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.lesions.prepared import Battery
from grammar_lens.neurons.neurons import KeyNeurons, Neurons

SENTENCES = 100
"""Sentences on which the sizes are found; the damage achieved is measured on all."""
ROUNDS = 6
"""Times that sizes are tried, each nearer to the damage wanted."""
GROWTH = 4
NEAR = 0.1
"""A sham whose damage on the sample is this near to the real one's (as a share of it) is not tried again."""


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
    """
    units = sets.units
    assert units is not None
    union = sets.union()
    growing = {
        (label, r): growing_sham(sets[label], union, sets.n_layers, sets.n_units, units.mean, rng)
        for r in range(1, n_replicates + 1)
        for label in sets
    }
    # the words of the labels studied alone, in a few sentences
    codes = np.where(battery.sentences(SENTENCES, rng), battery.studied, -1)
    tried: dict[tuple[str, int], dict[int, float]] = {key: {} for key in growing}
    target: dict[str, float] = {}
    for step in range(ROUNDS):
        conditions = [
            Condition(label, r, growing[label, r].top(size), ablation, "matched")
            for (label, r), damages in tried.items()
            if (size := _next_size(damages, target.get(label), len(sets[label]), growing[label, r]))
        ]
        if step == 0:
            conditions += [Condition(label, 0, sets[label], ablation) for label in sets]
        if not conditions:
            break
        for condition, rise in zip(
            conditions, _rises(battery, conditions, codes, step), strict=True
        ):
            if condition.kind == "set":
                target[condition.label] = rise
            else:
                sizes = tried[condition.label, condition.replicate]
                sizes[len(condition.neurons)] = rise
    return [
        Condition(
            label, r, growing[label, r].top(_nearest(damages, target[label])), ablation, "matched"
        )
        for (label, r), damages in tried.items()
    ]


def _next_size(tried: dict[int, float], target: float | None, first: int, growing: Neurons) -> int:
    """A size worth trying: ever larger until the damage is reached, then between; 0 for none."""
    if not tried or target is None:
        return min(first * GROWTH, len(growing))
    if target <= 0:
        return 0
    largest = max(tried)
    if max(tried.values()) < target:
        return min(largest * GROWTH, len(growing)) if largest < len(growing) else 0
    if min(abs(rise / target - 1) for rise in tried.values()) <= NEAR:
        return 0
    size = _interpolated(tried, target)
    return 0 if size in tried else size


def _nearest(tried: dict[int, float], target: float) -> int:
    """The size that came nearest: damage need not rise with size, so none is taken untried.

    Where the real set does no damage, a single neuron.
    """
    return min(tried, key=lambda size: abs(tried[size] - target)) if target > 0 else 1


def _interpolated(tried: dict[int, float], target: float) -> int:
    return size_for(target, np.array(list(tried)), np.array(list(tried.values())))


def _rises(
    battery: Battery,
    conditions: Sequence[Condition],
    codes: Int[np.ndarray, " word"],
    step: int,
) -> Float[np.ndarray, " condition"]:
    """Mean rise of the NLL (nats) under each lesion."""
    what = f"matching damage ({step + 1} of at most {ROUNDS})"
    nll = battery.run(conditions, codes=codes, what=what).nll
    return (nll[1:] - nll[:1]).mean(1)
