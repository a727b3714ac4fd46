"""Losses of predictions: a temperature that was planted is found, and a table is its counts."""

import numpy as np
import pytest
from scipy import optimize, special

from grammar_lens.probing.baselines import bootstrap_interval
from grammar_lens.probing.prediction import (
    SMOOTHING,
    bootstrap_intervals,
    calibrated_losses,
    information_gained,
    inverse_temperature,
    lookup_losses,
    losses_of,
)


def drawn(seed: int, n: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits `factor` times too large, and the classes drawn from the right ones."""
    rng = np.random.default_rng(seed)
    right = rng.normal(size=(n, 5)) * 2
    share = special.softmax(right, axis=1)
    classes = (share.cumsum(1) > rng.random((n, 1))).argmax(1)
    return right * factor, classes


@pytest.mark.parametrize("factor", [0.1, 1.0, 8.0, 30.0])
def test_a_planted_temperature_is_found(factor: float) -> None:
    logits, classes = drawn(0, 5000, factor)
    got = inverse_temperature(logits, classes)
    assert got * factor == pytest.approx(1, abs=0.05)
    best = optimize.minimize_scalar(
        lambda b: losses_of(logits * b, classes).mean(), bounds=(1e-3, 20), method="bounded"
    )
    assert losses_of(logits * got, classes).mean() == pytest.approx(best.fun, abs=1e-6)


def test_each_half_is_calibrated_by_the_other() -> None:
    logits, classes = drawn(1, 4000, 6.0)
    fold = np.arange(4000) % 2
    logits[fold == 1] *= 2  # so the halves need other temperatures, and get each other's
    got = calibrated_losses(logits, classes, fold)
    for part in (0, 1):
        scale = inverse_temperature(logits[fold != part], classes[fold != part])
        expected = losses_of(logits * scale, classes)[fold == part]
        np.testing.assert_allclose(got[fold == part], expected)


def test_without_another_half_logits_stay() -> None:
    logits, classes = drawn(2, 50, 3.0)
    got = calibrated_losses(logits, classes, np.zeros(50, int))
    np.testing.assert_allclose(got, losses_of(logits, classes))


def test_logits_without_a_best_temperature_give_one_within_bounds() -> None:
    """All words told apart: the colder the better. None told apart: all the same."""
    told = inverse_temperature(np.eye(3) * 5, np.arange(3))
    assert 1 < told <= 64
    assert losses_of(np.eye(3) * 5 * told, np.arange(3)).max() < 1e-9
    assert inverse_temperature(-np.eye(3), np.arange(3)) == pytest.approx(1 / 64)
    assert inverse_temperature(np.zeros((3, 3)), np.arange(3)) == 1


def test_losses_are_those_of_the_softmax() -> None:
    logits, classes = drawn(3, 20, 1.0)
    share = special.softmax(logits, axis=1)[np.arange(20), classes]
    np.testing.assert_allclose(losses_of(logits, classes), -np.log(share))


class TestLookup:
    keys = (*("a" * 60), *("b" * 60), "c")
    classes = np.array([0] * 60 + [0] * 30 + [1] * 30 + [1])

    def test_the_smoothing_is_the_best_of_words_left_out(self) -> None:
        counts = {"a": [60, 0, 0], "b": [30, 30, 0], "c": [0, 1, 0]}
        prior = np.array([90, 31, 0.5]) / 121.5

        def mean_loss(b: float) -> float:
            """One word after the other."""
            losses = []
            for key, label in zip(self.keys, self.classes, strict=True):
                others = np.array(counts[key], float)
                others[label] -= 1
                losses.append(-np.log((others[label] + b * prior[label]) / (others.sum() + b)))
            return float(np.mean(losses))

        b = min(SMOOTHING, key=mean_loss)
        got = lookup_losses(self.keys, self.classes, ["a", "b", "new"], np.array([0, 1, 2]), 3)
        expected = [
            (60 + b * prior[0]) / (60 + b),
            (30 + b * prior[1]) / (60 + b),
            prior[2],
        ]
        np.testing.assert_allclose(np.exp(-got), expected)

    def test_a_key_that_tells_nothing_gives_the_entropy(self) -> None:
        rng = np.random.default_rng(0)
        classes = rng.integers(0, 4, 2000)
        keys = [str(x) for x in rng.integers(0, 5, 2000)]
        got = lookup_losses(keys[:1000], classes[:1000], keys[1000:], classes[1000:], 4)
        assert got.mean() == pytest.approx(np.log(4), abs=0.02)


def test_information_is_a_share_of_what_the_model_knows() -> None:
    assert information_gained(2.0, 1.0, 1.0) == 1.0
    assert information_gained(2.0, 2.0, 1.0) == 0.0
    assert information_gained(2.0, 1.5, 1.0) == 0.5
    assert information_gained(2.0, 2.5, 1.0) == -0.5
    assert information_gained(2.0, 1.0, 2.0) is None


def test_intervals_of_columns_are_those_of_one() -> None:
    """The same bootstrap with other draws: ends agree up to the noise of 4,000 draws."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    right = rng.random((200, 3)) < [0.2, 0.5, 0.9]
    low, high = bootstrap_intervals(right.astype(float), groups, rng, n_draws=4000)
    for i in range(3):
        expected = bootstrap_interval(right[:, i], groups, rng, n_draws=4000)
        assert (low[i], high[i]) == pytest.approx(expected, abs=0.012)
