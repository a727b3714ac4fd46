"""Lesion matrices with severity and fragility removed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grammar_lens.dissociation.matrices import diagonal_score, leads, margins, scaled, shares


class TestScaled:
    def test_s_star_by_hand(self) -> None:
        """Centred by rows and columns this is 4/3 -2/3 -2/3 | -2/3 1/3 1/3 | -2/3 1/3 1/3."""
        matrix = np.array([[3.0, 0, 0], [0, 0, 0], [0, 0, 0]])
        a, b = math.sqrt(2), math.sqrt(0.5)
        expected = [[a, -b, -b], [-a, b, b], [-a, b, b]]
        np.testing.assert_allclose(scaled(matrix), expected, rtol=1e-12)
        assert diagonal_score(matrix) == pytest.approx((a + 2 * b) / 3, rel=1e-12)

    def test_a_perfect_diagonal_by_hand(self) -> None:
        matrix = np.array([[4.0, 1, 1], [1, 4, 1], [1, 1, 4]])
        assert diagonal_score(matrix) == pytest.approx(math.sqrt(2), rel=1e-12)
        assert diagonal_score(-matrix) == pytest.approx(-math.sqrt(2), rel=1e-12)

    def test_equal_damage_everywhere_has_no_pattern(self) -> None:
        np.testing.assert_array_equal(scaled(np.full((4, 4), 0.5)), 0)
        assert diagonal_score(np.zeros((3, 3))) == 0

    @given(st.integers(0, 10**6), st.integers(2, 8))
    @settings(max_examples=50, deadline=None)
    def test_severe_lesions_and_fragile_labels_do_not_count(self, seed, n) -> None:
        """Adding to a row or a column, or multiplying all damage, leaves the pattern."""
        rng = np.random.default_rng(seed)
        matrix = rng.normal(size=(n, n))
        moved = 3 * (matrix + rng.normal(size=(n, 1)) + rng.normal(size=(1, n)))
        np.testing.assert_allclose(scaled(moved), scaled(matrix), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose((scaled(matrix) ** 2).mean(1), 1)
        np.testing.assert_allclose(scaled(matrix).mean(1), 0, atol=1e-9)

    def test_margins_by_hand(self) -> None:
        matrix = np.array([[5.0, 1, 2], [3, 4, 0], [0, 6, 3]])
        got = margins(matrix)
        # M_00 - M_01 = 4, M_11 - M_10 = 1, M_00 - M_10 = 2, M_11 - M_01 = 3
        assert got[0, 1] == got[1, 0] == 1
        # M_00 - M_02 = 3, M_22 - M_20 = 3, M_00 - M_20 = 5, M_22 - M_02 = 1
        assert got[0, 2] == got[2, 0] == 1
        # M_11 - M_12 = 4, M_22 - M_21 = -3, M_11 - M_21 = -2, M_22 - M_12 = 3
        assert got[1, 2] == got[2, 1] == -3
        np.testing.assert_array_equal(np.diag(got), 0)


class TestShares:
    def test_by_hand(self) -> None:
        """Rows of summed absolute damage 4, 2 and 0; the columns' means are then taken away."""
        matrix = np.array([[3.0, -1, 0], [1, 1, 0], [0, 0, 0]])
        rows = np.array([[0.75, -0.25, 0], [0.5, 0.5, 0], [0, 0, 0]])
        columns = [1.25 / 3, 0.25 / 3, 0]
        np.testing.assert_allclose(shares(matrix), rows - columns, rtol=1e-12)

    @given(st.integers(0, 10**6), st.integers(2, 8))
    @settings(max_examples=50, deadline=None)
    def test_how_severe_a_lesion_is_does_not_count(self, seed, n) -> None:
        rng = np.random.default_rng(seed)
        matrix = rng.normal(size=(n, n))
        severe = matrix * rng.gamma(1.0, size=(n, 1))
        np.testing.assert_allclose(shares(severe), shares(matrix), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(shares(matrix).mean(0), 0, atol=1e-12)

    def test_leads_by_hand(self) -> None:
        got = leads(np.array([[5.0, 1, 2], [3, 3, 0]]))
        np.testing.assert_array_equal(got, [[3, -4, -3], [0, 0, -3]])

    def test_a_stack_is_done_matrix_by_matrix(self) -> None:
        stack = np.random.default_rng(0).normal(size=(5, 4, 4))
        for function in (scaled, margins, shares, leads):
            each = [function(matrix) for matrix in stack]
            np.testing.assert_allclose(function(stack), each, rtol=1e-12, atol=1e-15)
