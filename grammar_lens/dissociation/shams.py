"""Sham sets: other neurons for key neurons, matched one by one or in growing numbers."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Outcomes
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.moments import UnitStatistics

N_NEAREST = 40
"""A sham neuron is drawn among this many nearest in expected output.

Simulated level of p at a nominal .05: .059 to .067 with 10, .043 to .058 with 40.
"""


def output_matched_shams(
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    n_replicates: int,
    rng: np.random.Generator,
    units: UnitStatistics,
    *,
    avoid: KeyNeurons | None = None,
) -> list[KeyNeurons]:
    """Sham sets of every label, once per replicate: a map from the key neurons to others.

    Each key neuron of the union goes to another neuron of its layer that is key to no label (nor
    stands in `avoid`), drawn among the 40 nearest in log expected output that are still free;
    neurons without output go to neurons without output. The map is injective and the same for all
    sets, so shared neurons stay shared. `output` is mean |a| times ||w_out||.
    Raises GrammarLensError naming the layer that has too few other neurons.
    """
    maps = sham_maps(keys, output, n_replicates, rng, avoid=avoid)
    key = key_numbers(keys)
    return [
        replace(
            keys,
            sets={
                label: _renamed(
                    real, f"{label} sham {replicate}", mapped[key[real.layer, real.index]], units
                )
                for label, real in keys.items()
            },
        )
        for replicate, mapped in enumerate(maps, 1)
    ]


def sham_maps(
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    n_replicates: int,
    rng: np.random.Generator,
    *,
    avoid: KeyNeurons | None = None,
) -> Int32[np.ndarray, "replicate key"]:
    """Unit that replaces each key neuron, as `keys.union()` has them, in its layer in each replicate."""
    union = keys.union()
    barred = union if avoid is None else np.concatenate([union, avoid.union()])
    maps = []
    for layer in np.unique(union[:, 0]).tolist():
        chosen = union[union[:, 0] == layer, 1]
        free = np.ones(keys.n_units, bool)
        free[barred[barred[:, 0] == layer, 1]] = False
        maps.append(_map_layer(layer, chosen, free, output[layer], n_replicates, rng))
    return np.concatenate([np.zeros((n_replicates, 0), np.int32), *maps], 1)


def key_numbers(keys: KeyNeurons) -> Int[np.ndarray, "layer unit"]:
    """Number of each key neuron in `keys.union()`; -1 for all other units."""
    union = keys.union()
    numbers = np.full((keys.n_layers, keys.n_units), -1)
    numbers[union[:, 0], union[:, 1]] = np.arange(len(union))
    return numbers


def _renamed(
    real: Neurons, name: str, index: Int32[np.ndarray, " unit"], units: UnitStatistics
) -> Neurons:
    index = index.astype(np.int64)
    mean = units.mean[real.layer, index]
    return replace(real, name=name, index=index, mean=mean, q=None)


def _map_layer(
    layer: int,
    chosen: Int[np.ndarray, " key"],
    free: Bool[np.ndarray, " unit"],
    output: Float[np.ndarray, " unit"],
    n_replicates: int,
    rng: np.random.Generator,
) -> Int32[np.ndarray, "replicate key"]:
    """Random injective maps of one layer's key neurons to its free neurons."""
    log_output = np.log(np.where(output > 0, output, 1.0))
    taken = np.zeros((n_replicates, len(output)), bool)
    drawn = np.full((n_replicates, len(chosen)), -1, np.int32)
    every = np.arange(n_replicates)
    # the largest first: large neurons are rare, and few others come near them
    for n, i in enumerate(np.argsort(-output[chosen], kind="stable")):
        unit = chosen[i]
        candidates = np.flatnonzero(free & ((output > 0) == (output[unit] > 0)))
        distance = np.abs(log_output[candidates] - log_output[unit])
        # each replicate has taken at most n of them, so its nearest free ones are among these
        nearest = candidates[np.argsort(distance, kind="stable")[: N_NEAREST + n]]
        rank = (~taken[:, nearest]).cumsum(1)
        n_free = np.minimum(rank[:, -1] if len(nearest) else 0, N_NEAREST)
        if np.min(n_free, initial=N_NEAREST) == 0:
            raise GrammarLensError(
                f"layer {layer} has too few other neurons to match {len(chosen)} key neurons of "
                f"{len(output)}: use a smaller k"
            )
        picked = nearest[(rank == rng.integers(1, n_free + 1)[:, None]).argmax(1)]
        drawn[:, i] = picked
        taken[every, picked] = True
    return drawn


def growing_sham(
    real: Neurons,
    union: Int[np.ndarray, "key two"],
    n_layers: int,
    n_units: int,
    mean: Float[np.ndarray, "layer unit"],
    rng: np.random.Generator,
) -> Neurons:
    """All units outside `union` in a random order whose every beginning has the layers of `real`.

    The first `len(real)` have exactly as many in each layer as `real`, later ones as nearly as
    whole units allow; a layer without units left drops out, and the layers that `real` does not use
    come last. `mean` is every unit's mean activation. Scores are 0: the order is random.
    Raises GrammarLensError naming a layer with fewer free units than `real` has there.
    """
    free = np.ones((n_layers, n_units), bool)
    free[union[:, 0], union[:, 1]] = False
    in_layer = np.bincount(real.layer, minlength=n_layers)
    short = np.flatnonzero(free.sum(1) < in_layer)
    if len(short):
        raise GrammarLensError(
            f"layer {short[0]} has {free[short[0]].sum()} neurons that are key to no label, "
            f"needs at least {in_layer[short[0]]}: use a smaller k"
        )
    layer, index = np.nonzero(free)
    # unit j of a layer comes at (j + 1/2) / share, the order of Webster's apportionment
    turn = np.concatenate([rng.permutation(n) for n in free.sum(1)]) + 0.5
    due = np.divide(
        turn, in_layer[layer], out=np.full(len(turn), np.inf), where=in_layer[layer] > 0
    )
    order = np.lexsort((rng.random(len(due)), due))
    layer, index = layer[order], index[order]
    name = f"{real.name} growing sham"
    none, at = np.zeros(len(layer)), mean[layer, index]
    return Neurons(name, real.site, layer, index, none, at, weights=real.weights)


def output_ratio(
    outcomes: Outcomes, keys: KeyNeurons, output: Float[np.ndarray, "layer unit"]
) -> Float[np.ndarray, " label"]:
    """Summed expected output of the shams over that of the real set, mean over replicates.

    Sets without output have shams without output: a ratio of 1, as without shams.
    """

    def total(neurons: Neurons) -> float:
        return float(output[neurons.layer, neurons.index].sum())

    ratios = np.ones(len(keys))
    for i, (label, real) in enumerate(keys.items()):
        shams = [
            total(c.neurons)
            for c in outcomes.conditions
            if c.label == label and c.replicate > 0 and isinstance(c.neurons, Neurons)
        ]
        if shams and total(real) > 0:
            ratios[i] = np.mean(shams) / total(real)
    return ratios
