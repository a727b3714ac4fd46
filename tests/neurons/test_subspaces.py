"""Ranks and angles of planted subspaces, and those of random ones beside them."""

import numpy as np
import pytest
from scipy import linalg, stats

from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.subspaces import effective_rank, row_basis, subspaces

RNG = np.random.default_rng(0)


class TestEffectiveRank:
    def test_it_is_the_rank_where_singular_values_are_equal(self) -> None:
        rows = stats.ortho_group.rvs(8, random_state=1)[:5]
        assert effective_rank(3 * rows) == pytest.approx(5)
        assert effective_rank(np.tile(rows[:1], (4, 1))) == pytest.approx(1)

    def test_by_hand(self) -> None:
        """Singular values 3 and 1: entropy of (3/4, 1/4)."""
        entropy = stats.entropy([0.75, 0.25])
        assert effective_rank(np.array([[3.0, 0, 0], [0, 1, 0]])) == pytest.approx(np.exp(entropy))

    def test_nothing_has_no_rank(self) -> None:
        assert effective_rank(np.zeros((3, 4))) == 0
        assert effective_rank(np.zeros((0, 4))) == 0


class TestSubspaces:
    def test_dependent_rows_add_no_dimension(self) -> None:
        """Float32 rows, a sum of the others among them: rank 2."""
        a = RNG.normal(size=(2, 9)).astype(np.float32)
        more = np.concatenate([a, a[:1] + a[1:], 2 * a[:1]])
        assert len(row_basis(more)) == 2

    def test_shared_directions_stand_out_against_random_neurons(self) -> None:
        """A and B write to the same two dimensions of 40, C to others; 19 draws of random weights."""
        plane = RNG.normal(size=(2, 40))

        def draw() -> dict[str, np.ndarray]:
            return {name: RNG.normal(size=(4, 40)) for name in "ABC"}

        weights = draw() | {name: RNG.normal(size=(4, 2)) @ plane for name in "AB"}
        got = subspaces(weights, [draw() for _ in range(19)])
        frame, pairs = got.to_frame(), got.pairs().set_index(["first", "second"])
        assert frame.effective_rank["A"] <= 2
        assert frame.effective_rank["C"] > 3
        assert (frame.random_effective_rank > 3).all()
        assert pairs.cosine["A", "B"] == pytest.approx(1)
        assert pairs.p_value["A", "B"] == 1 / 20
        assert pairs.random_cosine["A", "B"] < 0.5
        assert pairs.p_value["A", "C"] > 1 / 20
        assert frame.n_neurons.tolist() == [4, 4, 4]

    def test_the_cosine_is_the_mean_over_principal_angles(self) -> None:
        a, b = RNG.normal(size=(3, 10)), RNG.normal(size=(5, 10))
        got = subspaces({"A": a, "B": b})
        assert got.cosine[0, 1] == pytest.approx(np.cos(linalg.subspace_angles(a.T, b.T)).mean())
        np.testing.assert_allclose(np.diag(got.cosine), 1)
        np.testing.assert_array_equal(got.cosine, got.cosine.T)

    def test_without_neurons_or_draws_there_is_no_number(self) -> None:
        got = subspaces({"A": RNG.normal(size=(3, 10)), "B": np.zeros((0, 10))})
        assert np.isnan(got.effective_rank[1])
        assert np.isnan(got.cosine[0, 1])
        assert got.to_frame().random_effective_rank.isna().all()
        assert got.pairs().random_cosine.isna().all()

    def test_other_draws_are_refused(self) -> None:
        weights = {"A": np.ones((3, 10))}
        with pytest.raises(GrammarLensError, match=r"\{'A': 2\}.*\{'A': 3\}"):
            subspaces(weights, [{"A": np.ones((2, 10))}])
