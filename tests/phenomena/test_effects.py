"""Tables of what lesions do to phenomena, and their p-values."""

from dataclasses import replace

import numpy as np
import pytest

from grammar_lens.phenomena.effects import (
    DamageMatchedFalls,
    Falls,
    PairEffects,
    effects,
)


def made(fall: np.ndarray, sham: np.ndarray) -> PairEffects:
    """Effects with these falls; what the p-values do not read is left at zero."""
    n_lesions, n_phenomena = fall.shape
    zero = np.zeros(fall.shape)
    return PairEffects(
        lesions=tuple(f"L{i}" for i in range(n_lesions)),
        phenomena=tuple(f"p{j}" for j in range(n_phenomena)),
        n_neurons=np.full(n_lesions, 3.0),
        fall=fall,
        token_fall=zero,
        accuracy=zero,
        token_accuracy=zero,
        sampled=fall,
        sham=sham,
        output_ratio=np.ones(n_lesions),
    )


def test_a_planted_cell_is_found_and_no_other() -> None:
    rng = np.random.default_rng(0)
    sham = rng.normal(size=(99, 4, 5)) * np.arange(1, 6)
    fall = rng.normal(size=(4, 5)) * 0.1
    fall[2, 3] = 40
    found = made(fall, sham)
    assert found.p_value[2, 3] == 0.01
    assert found.p_family[2, 3] == 0.01
    assert np.delete(found.p_family.ravel(), 13).min() > 0.2
    table = found.to_frame()
    row = table[(table.lesion == "L2") & (table.phenomenon == "p3")].iloc[0]
    assert (row.p, row.p_family, row.fall) == (0.01, 0.01, 40)
    assert row.sham_fall == pytest.approx(sham[:, 2, 3].mean())
    shams = found.sham_frame()
    cell = shams[(shams.lesion == "L2") & (shams.phenomenon == "p3")]
    np.testing.assert_array_equal(cell.fall, sham[:, 2, 3])
    assert (
        "1 of 20 cells pass .05 for the whole table against 99 output-matched shams"
        in found.verdict()
    )
    assert found.verdict().endswith("0.010, is p3 without L2.")
    assert "L2 +8." in repr(found)
    assert "<table" in found._repr_html_()


def test_p_by_hand() -> None:
    sham = np.array([1.0, 2.0, -0.5]).reshape(3, 1, 1)
    assert made(np.array([[1.0]]), sham).p_value[0, 0] == 3 / 4
    assert made(np.array([[2.5]]), sham).p_value[0, 0] == 1 / 4


def test_where_nothing_is_planted_the_family_is_wrong_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    n, wrong = 400, 0
    for _ in range(n):
        # cells that depend on each other and differ in spread, as lesions' do
        worlds = rng.normal(size=(20, 3, 4)) * np.arange(1, 5) + rng.normal(size=(20, 1, 1))
        wrong += (made(worlds[0], worlds[1:]).p_family <= 0.05).any()
    # 20 of 400 expected; 34 is 3 binomial standard errors above
    assert 3 <= wrong <= 34


def test_without_shams_nothing_is_tested() -> None:
    found = made(np.ones((2, 3)), np.zeros((0, 2, 3)))
    assert np.isnan(found.p_value).all()
    assert np.isnan(found.p_family).all()
    assert np.isnan(found.sham_mean).all()
    assert found.verdict() == "Without shams nothing is tested."
    assert not found.is_weakly_matched


def test_damage_matched_shams_decide_where_there_are_any() -> None:
    rng = np.random.default_rng(4)
    sham = rng.normal(size=(19, 2, 3)) * 0.01
    fall = np.full((2, 3), 0.5)
    output = replace(made(fall, sham), output_ratio=np.array([0.3, 0.95]))
    assert (output.p_value == 1 / 20).all()
    assert output.is_weakly_matched
    assert "as little as 0.30 of the real sets' output" in output.verdict()
    larger = DamageMatchedFalls(sham + 0.6, np.array([1.1, np.nan]), np.array([40, 60]))
    found = replace(output, damage_matched=larger)
    assert (found.p_value == 1).all()
    assert not found.is_weakly_matched
    np.testing.assert_allclose(found.sham_mean, 0.6, atol=0.01)
    assert "19 damage-matched shams (of 50 neurons, changing 1.10 as much" in found.verdict()
    assert found.sham_frame().groupby("matched_for").size().to_dict() == {
        "damage": 19 * 6,
        "output": 19 * 6,
    }
    few = replace(found, damage_matched=replace(larger, damage_ratio=np.array([1.1, 0.8])))
    assert few.is_weakly_matched
    assert "as little as 0.80 of the real sets' damage" in few.verdict()
    # with no damage to match, shams are no evidence
    nothing = replace(found, damage_matched=replace(larger, damage_ratio=np.full(2, np.nan)))
    assert nothing.is_weakly_matched
    assert "change nothing" in nothing.verdict()
    assert "nan" not in nothing.verdict()


def test_means_are_over_the_pairs_of_each_phenomenon() -> None:
    column = np.array([0, 0, 1, 1, 1])
    fall = np.array([[1.0, 3, 0, 0, 6], [0, 0, 1, 1, 1]])
    shams = np.zeros((1, 2, 5))
    shams[0, :, [1, 4]] = 5
    falls = Falls(
        whole=fall,
        token=-fall,
        right=(fall > 2).astype(float),
        token_right=np.zeros((2, 5)),
        sampled=np.array([False, True, False, False, True]),
        shams=shams,
    )
    table = effects(("A", "B"), ("x", "y"), column, falls, np.ones(2), np.array([0.8, 1.0]))
    np.testing.assert_array_equal(table.fall, [[2, 2], [0, 1]])
    np.testing.assert_array_equal(table.token_fall, -table.fall)
    np.testing.assert_allclose(table.accuracy, [[0.5, 1 / 3], [0, 0]])
    np.testing.assert_array_equal(table.sampled, [[3, 6], [0, 1]])
    np.testing.assert_array_equal(table.sham, [[[5, 5], [5, 5]]])
    assert table.is_weakly_matched
