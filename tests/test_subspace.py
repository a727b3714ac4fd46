"""Overlap and layer profiles against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grammar_lens.moments import Origin, UnitStatistics
from grammar_lens.selection import KeyNeurons, Neurons, select
from grammar_lens.selectivity import Scores
from grammar_lens.subspace import layer_counts, layer_strength, overlap

ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")
N_LAYERS, N_UNITS = 3, 6

addresses = st.sets(st.tuples(st.integers(0, N_LAYERS - 1), st.integers(0, N_UNITS - 1)))


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


class TestOverlap:
    @given(st.lists(addresses, min_size=1, max_size=4))
    @settings(max_examples=100, deadline=None)
    def test_it_is_what_python_sets_share(self, sets) -> None:
        named = dict(zip("ABCD", sets, strict=False))
        got = overlap(keys_of(named))
        for i, a in enumerate(sets):
            for j, b in enumerate(sets):
                assert got.shared[i, j] == len(a & b)
                assert got.jaccard[i, j] == (len(a & b) / len(a | b) if a | b else 0)
                smaller = min(len(a), len(b))
                assert got.coefficient[i, j] == (len(a & b) / smaller if smaller else 0)
                assert got.expected[i, j] == pytest.approx(len(a) * len(b) / 18)

    def test_expected_is_what_random_sets_share(self) -> None:
        rng = np.random.default_rng(0)
        shared = []
        for _ in range(300):
            got = overlap(select(scores_of(rng.normal(size=(2, 4, 25))), k=30))
            shared.append(got.shared[0, 1])
        error = np.std(shared, ddof=1) / np.sqrt(300)
        assert got.expected[0, 1] == 9.0
        assert abs(np.mean(shared) - 9.0) < 4 * error

    def test_planted_sharing_exceeds_what_is_expected(self) -> None:
        rng = np.random.default_rng(1)
        values = rng.normal(size=(2, 4, 25))
        values[:, 1, :15] += 9
        got = overlap(select(scores_of(values), k=20))
        assert got.shared[0, 1] >= 15 > 3 * got.expected[0, 1]

    def test_the_frame_names_the_labels(self) -> None:
        frame = overlap(keys_of({"A": {(0, 1), (0, 2)}, "B": {(0, 2)}})).to_frame()
        assert frame.loc["A", "B"] == 0.5
        assert frame.loc["B", "B"] == 1


class TestLayers:
    @given(addresses, addresses)
    @settings(max_examples=50, deadline=None)
    def test_counts_are_counted(self, a, b) -> None:
        counts = layer_counts(keys_of({"A": a, "B": b}))
        expected = [[sum(la == layer for la, _ in s) for layer in range(3)] for s in (a, b)]
        np.testing.assert_array_equal(counts, expected)

    def test_no_labels_no_counts(self) -> None:
        assert layer_counts(keys_of({})).shape == (0, N_LAYERS)

    def test_strength_is_the_root_mean_square(self) -> None:
        values = np.array([[[3.0, -4.0], [0.0, 0.0]]])
        np.testing.assert_allclose(layer_strength(scores_of(values)), [[np.sqrt(12.5), 0]])
