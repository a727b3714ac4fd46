"""Shams of sets that were chosen anew in every fold of the pairs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from grammar_lens.dissociation.shams import output_matched_shams
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.passes.moments import UnitStatistics


def of_all_folds(sets: Sequence[KeyNeurons]) -> KeyNeurons:
    """The sets of all folds together, each under its name and the number of its fold."""
    every = {_key(f, name): s for f, keys in enumerate(sets) for name, s in keys.items()}
    return replace(sets[0], sets=every)


def shams_of_folds(
    sets: Sequence[KeyNeurons],
    output: Float[np.ndarray, "layer unit"],
    n_replicates: int,
    rng: np.random.Generator,
    units: UnitStatistics,
) -> list[list[KeyNeurons]]:
    """Output-matched shams of every fold's sets, once per replicate.

    In a replicate one map serves all folds: as many neurons as a set has in common in two folds, its
    shams have in common, too. With a map for each fold, a sham's mean over the folds would be that of
    unrelated sets, and vary less than that of the real ones.
    Raises GrammarLensError naming the layer that has too few other neurons.
    """
    made = output_matched_shams(of_all_folds(sets), output, n_replicates, rng, units)
    return [
        [replace(keys, sets={x: sham[_key(f, x)] for x in keys}) for sham in made]
        for f, keys in enumerate(sets)
    ]


def _key(fold: int, name: str) -> str:
    return f"{name} of fold {fold}"
