"""Overlap and layer profiles against counting by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_keys import N_LAYERS, N_UNITS, ORIGIN, keys_of, scores_of
from scipy import stats

from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.overlap import (
    layer_counts,
    layer_strength,
    overlap,
    reliability,
    same_sets,
    shared_by_chance,
)
from grammar_lens.neurons.selection import select

addresses = st.sets(st.tuples(st.integers(0, N_LAYERS - 1), st.integers(0, N_UNITS - 1)))


def count_by_chance(a: set, b: set, n_draws: int = 4000) -> np.ndarray:
    """Neurons shared by sets drawn at random with as many in every layer."""
    rng = np.random.default_rng(0)

    def draw(chosen: set) -> set:
        return {
            (layer, int(i))
            for layer in range(N_LAYERS)
            for i in rng.choice(N_UNITS, sum(la == layer for la, _ in chosen), replace=False)
        }

    return np.array([len(draw(a) & draw(b)) for _ in range(n_draws)])


class TestOverlap:
    @given(st.lists(addresses, min_size=1, max_size=4))
    @settings(max_examples=50, deadline=None)
    def test_it_is_what_python_sets_share(self, sets) -> None:
        named = dict(zip("ABCD", sets, strict=False))
        got = overlap(keys_of(named))
        for i, a in enumerate(sets):
            for j, b in enumerate(sets):
                assert got.shared[i, j] == len(a & b)
                assert got.jaccard[i, j] == (len(a & b) / len(a | b) if a | b else 0)
                smaller = min(len(a), len(b))
                assert got.coefficient[i, j] == (len(a & b) / smaller if smaller else 0)
                if i == j:
                    continue
                per_layer = [
                    sum(la == x for la, _ in a) * sum(la == x for la, _ in b) for x in range(3)
                ]
                assert got.expected[i, j] == pytest.approx(sum(per_layer) / N_UNITS)
                assert 0 < got.p_value[i, j] <= 1
                if not a & b:
                    assert got.p_value[i, j] == pytest.approx(1)
        for chance in (got.expected, got.expected_jaccard, got.expected_coefficient, got.p_value):
            assert np.isnan(np.diag(chance)).all()
            np.testing.assert_array_equal(chance, chance.T)

    def test_chance_is_what_sets_drawn_within_layers_share(self) -> None:
        """Second opinion: 4,000 draws; four standard errors."""
        a = {(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 5)}
        b = {(0, 0), (0, 1), (0, 2), (1, 3), (1, 4)}
        got = overlap(keys_of({"A": a, "B": b}))
        drawn = count_by_chance(a, b)
        for found, draws in (
            (got.expected, drawn),
            (got.expected_jaccard, drawn / (11 - drawn)),
            (got.expected_coefficient, drawn / 5),
            (got.p_value, drawn >= 3),
        ):
            error = draws.std(ddof=1) / np.sqrt(len(draws))
            assert abs(draws.mean() - found[0, 1]) < 4 * error

    def test_one_layer_is_the_hypergeometric(self) -> None:
        """Against scipy.stats.hypergeom, also in a tail that a sum from 0 would round away."""
        a, b = {(0, i) for i in range(40)}, {(0, i) for i in range(10, 45)}
        found = overlap(replace(keys_of({"A": a, "B": b}), n_units=400, n_layers=1))
        assert found.shared[0, 1] == 30
        exact = stats.hypergeom.sf(29, 400, 40, 35)
        assert exact < 1e-25
        assert found.p_value[0, 1] == pytest.approx(exact, rel=1e-9)
        np.testing.assert_allclose(
            shared_by_chance(np.array([40.0]), np.array([35.0]), 400),
            stats.hypergeom.pmf(np.arange(36), 400, 40, 35),
        )

    def test_labels_that_lie_in_the_same_layer_share_more_by_chance(self) -> None:
        """20 of 25 units of layer 1 each: independent sets of it share 16, and that is no finding."""
        rng = np.random.default_rng(0)
        p_values = []
        for _ in range(200):
            values = rng.normal(size=(2, 4, 25))
            values[:, 1] += 9
            got = overlap(select(scores_of(values), k=20))
            assert got.expected[0, 1] == 16
            p_values.append(got.p_value[0, 1])
        # of a discrete null, P(p <= alpha) is at most alpha: at most 19 of 200 at four errors
        assert sum(p <= 0.05 for p in p_values) < 200 * 0.05 + 4 * np.sqrt(200 * 0.05 * 0.95)

    def test_planted_sharing_exceeds_what_is_expected(self) -> None:
        values = np.random.default_rng(1).normal(size=(2, 4, 25))
        values[:, :, :4] += 9
        got = overlap(select(scores_of(values), k=20))
        assert got.shared[0, 1] >= 16 > 3 * got.expected[0, 1]
        assert got.p_value[0, 1] < 1e-6

    def test_no_labels_no_overlap(self) -> None:
        assert overlap(keys_of({})).shared.shape == (0, 0)

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


class TestReliability:
    def test_two_choices_of_planted_neurons_agree(self) -> None:
        """15 of the 20 neurons of A are planted in both halves, none of B's."""
        rng = np.random.default_rng(2)
        halves = []
        for _ in range(2):
            values = rng.normal(size=(2, 4, 100))
            values[0, 1, :15] += 9
            halves.append(select(scores_of(values), k=20))
        got = reliability(*halves)
        frame = got.to_frame()
        assert frame.shared["A"] >= 15
        assert frame.p_value["A"] < 1e-6
        assert frame.p_value["B"] > 0.01
        assert frame.index.tolist() == ["A", "B"]
        assert list(frame) == ["n_first", "n_second", "shared", "jaccard", "expected", "p_value"]

    def test_by_hand(self) -> None:
        """One layer holds 3 and 2 neurons, of 6 units: 1 is expected, 1 is shared, p = 4/5."""
        one, two = {(0, 0), (0, 1), (0, 2), (1, 1)}, {(0, 2), (0, 3), (2, 2)}
        got = reliability(keys_of({"A": one, "B": set()}), keys_of({"A": two, "B": set()}))
        assert (got.n_first[0], got.n_second[0], got.shared[0]) == (4, 3, 1)
        assert got.jaccard[0] == 1 / 6
        assert got.expected[0] == 1
        assert got.p_value[0] == pytest.approx(0.8)
        assert (got.jaccard[1], got.expected[1], got.p_value[1]) == (0, 0, 1)

    def test_no_labels(self) -> None:
        assert len(reliability(keys_of({}), keys_of({})).to_frame()) == 0

    @pytest.mark.parametrize(
        "change", [{"n_units": 7}, {"n_layers": 4}, {"origin": replace(ORIGIN, site="mlp_out")}]
    )
    def test_other_units_are_refused(self, change: dict) -> None:
        keys = keys_of({"A": {(0, 0)}})
        with pytest.raises(
            GrammarLensError, match="the two choices differ in labels, layers, units"
        ):
            reliability(keys, replace(keys, **change))

    def test_other_labels_are_refused(self) -> None:
        with pytest.raises(
            GrammarLensError, match="choose both on the same model with the same labels"
        ):
            reliability(keys_of({"A": {(0, 0)}}), keys_of({"B": {(0, 0)}}))


def test_labels_of_the_same_neurons_are_found_and_others_are_not() -> None:
    keys = keys_of({"A": {(0, 1), (1, 2)}, "B": {(1, 2), (0, 1)}, "C": {(0, 1)}, "D": set()})
    assert same_sets(keys) == [("A", "B")]
    assert same_sets(keys.only(["A", "C", "D"])) == []
