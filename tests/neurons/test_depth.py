"""Bins of relative depth against counting by hand."""

import numpy as np
import pytest
from made_keys import keys_of, scores_of
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.depth import (
    depth_bins,
    depth_profile,
    depth_share,
    depth_strength,
    depth_table,
    same_peak,
)
from grammar_lens.neurons.neurons import KeyNeurons


class TestBins:
    @pytest.mark.parametrize(
        ("n_layers", "n_bins", "expected"),
        [
            (8, 3, [0, 0, 0, 1, 1, 2, 2, 2]),
            (5, 3, [0, 0, 1, 2, 2]),
            (4, 4, [0, 1, 2, 3]),
            (3, 1, [0, 0, 0]),
        ],
    )
    def test_by_hand(self, n_layers: int, n_bins: int, expected: list[int]) -> None:
        assert depth_bins(n_layers, n_bins).tolist() == expected

    def test_none_is_empty_and_both_ends_are_alike(self) -> None:
        for n_layers in range(1, 40):
            for n_bins in range(1, n_layers + 1):
                bins = depth_bins(n_layers, n_bins)
                assert set(bins) == set(range(n_bins))
                middles = (np.arange(n_layers) + 0.5) / n_layers
                edges = np.arange(1, n_bins) / n_bins
                inner = ~np.isclose(middles[:, None], edges).any(1)
                np.testing.assert_array_equal(bins[inner], np.digitize(middles, edges)[inner])

    @pytest.mark.parametrize("n_bins", [0, 4])
    def test_bins_that_would_stay_empty(self, n_bins: int) -> None:
        with pytest.raises(GrammarLensError, match=rf"{n_bins}.*for 3.*expected 1"):
            depth_bins(3, n_bins)


class TestShareAndStrength:
    def test_share(self) -> None:
        np.testing.assert_allclose(
            depth_share(np.array([[1.0, 2.0, 5.0]]), 3), [[1 / 8, 1 / 4, 5 / 8]]
        )
        assert np.isnan(depth_share(np.zeros(3), 3)).all()

    def test_strength_is_the_root_mean_square_over_all_neurons_of_the_bin(self) -> None:
        values = np.random.default_rng(0).normal(size=(2, 4, 10))
        by_layer = np.sqrt((values**2).mean(2))
        expected = np.sqrt((values.reshape(2, 2, 2 * 10) ** 2).mean(2))
        np.testing.assert_allclose(depth_strength(by_layer, 2), expected, rtol=1e-12)


class TestTable:
    @pytest.fixture
    def keys(self) -> KeyNeurons:
        return keys_of({"A": {(0, 0), (0, 1), (2, 3)}, "B": {(2, 3), (2, 4)}, "C": set()})

    def test_counts_and_shares(self, keys: KeyNeurons) -> None:
        table = depth_table(keys).set_index(["label", "bin"])
        assert table.neurons.unstack().loc["A"].tolist() == [2, 0, 1]
        assert table.neurons.unstack().loc["all"].tolist() == [2, 0, 2], "a shared neuron once"
        assert table["share"].loc[("B", 2)] == 1
        np.testing.assert_allclose(table.expected_share, 1 / 3)
        assert table["share"].loc["C"].isna().all()

    def test_the_band_is_where_random_sets_lie(self) -> None:
        rng = np.random.default_rng(1)
        everywhere = [(la, i) for la in range(3) for i in range(6)]
        chosen = {everywhere[i] for i in rng.choice(18, 8, replace=False)}
        row = depth_table(keys_of({"A": chosen}), confidence=0.9).iloc[0]
        drawn = [(rng.choice(18, 8, replace=False) < 6).sum() / 8 for _ in range(4000)]
        inside = np.mean((np.array(drawn) >= row.low) & (np.array(drawn) <= row.high))
        exact = stats.hypergeom(18, 6, 8)
        expected = exact.cdf(row.high * 8) - exact.cdf(row.low * 8 - 1)
        assert inside == pytest.approx(expected, abs=0.03)
        assert inside >= 0.9 - 0.02

    def test_profile_without_a_null(self, keys: KeyNeurons) -> None:
        scores = scores_of(np.random.default_rng(2).normal(size=(3, 3, 6)))
        table = depth_profile(scores, keys)
        assert len(table) == 9
        assert set(table.label) == {"A", "B", "C"}
        expected = np.sqrt((scores.values**2).mean(2))
        np.testing.assert_allclose(table.strength, expected.ravel(), rtol=1e-12)
        assert table.null_low.isna().all()


class TestSamePeak:
    def test_expected_is_that_of_cohens_kappa(self) -> None:
        rng = np.random.default_rng(3)
        first, second = rng.uniform(size=(2, 60, 3))
        second[:30] = first[:30]
        same, expected = same_peak(first, second)
        kappa = cohen_kappa_score(first.argmax(1), second.argmax(1))
        assert (same - expected) / (1 - expected) == pytest.approx(kappa)

    def test_nothing_planted(self) -> None:
        first, second = np.random.default_rng(4).uniform(size=(2, 2000, 3))
        same, expected = same_peak(first, second)
        assert same == pytest.approx(expected, abs=0.04)
