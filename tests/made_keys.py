"""Scores and key neurons made by hand."""

import numpy as np

from grammar_lens.corpus.origin import Origin
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.selectivity.result import Scores

ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")

N_LAYERS, N_UNITS = 3, 6


def keys_of(sets: dict[str, set[tuple[int, int]]]) -> KeyNeurons:
    neurons = {}
    for name, chosen in sets.items():
        rows = np.array(sorted(chosen), np.int64).reshape(-1, 2)
        neurons[name] = Neurons(name, "neuron", rows[:, 0], rows[:, 1], np.ones(len(rows)))
    return KeyNeurons(neurons, "correlation", "by hand", N_UNITS, N_LAYERS, None, ORIGIN)


def scores_of(values: np.ndarray) -> Scores:
    nothing = np.zeros(values.shape[1:])
    labels = tuple("ABCDEFG"[: len(values)])
    units = UnitStatistics(nothing, nothing, nothing)
    return Scores("correlation", labels, np.ones(len(values)), values, values, None, units, ORIGIN)
