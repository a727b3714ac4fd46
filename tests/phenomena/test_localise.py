"""Attributions of minimal pairs against true lesions, and the null of flipped signs."""

import numpy as np
import pytest
import torch

from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.phenomena.battery import PairLesion, lesioned_log_odds
from grammar_lens.phenomena.localise import flipped_q, pair_effects
from grammar_lens.phenomena.pairs import load_pairs
from grammar_lens.phenomena.scoring import PreparedPairs, score_pairs

PAIRS = load_pairs().pairs[::67]
WIDTH = 48


@pytest.mark.parametrize("at", ["token", "sentence"])
@pytest.mark.parametrize("budget", [None, 1])
def test_effects_are_the_slopes_of_true_lesions(tiny: Model, at: str, budget: int | None) -> None:
    """A lesion of dose .01 moves the log odds by a hundredth of the first-order effect."""
    prepared = PreparedPairs(tiny, PAIRS)
    n = len(PAIRS)
    mean = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
    effect = pair_effects(tiny, prepared, np.arange(n), torch.from_numpy(mean), at, budget)
    assert effect.shape == (n, 2, WIDTH)
    strong = np.argsort(-np.abs(effect).max(0).ravel())[:6]
    lesions = [
        PairLesion(
            Neurons(
                "x", "neuron", i // WIDTH, i % WIDTH, np.zeros(1), mean.ravel()[i].astype(float)
            ),
            np.ones(n, bool),
        )
        for i in strong[:, None]
    ]
    dose = 0.01
    found = lesioned_log_odds(tiny, prepared, lesions, Ablation("mean", dose))
    odds = found.token if at == "token" else found.whole
    slope = (odds[0] - odds[1:]) / dose
    expected = effect.reshape(n, -1)[:, strong].T
    # float32 log odds of size 10 are off by some 1e-6, so their slopes by 1e-4 and the curvature
    np.testing.assert_allclose(slope, expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.02, "nothing to compare"


def test_only_the_pairs_asked_for(tiny: Model) -> None:
    prepared = PreparedPairs(tiny, PAIRS)
    reference = torch.zeros(2, WIDTH)
    whole = pair_effects(tiny, prepared, np.arange(len(PAIRS)), reference, "token")
    some = pair_effects(tiny, prepared, np.array([1, 4]), reference, "token")
    np.testing.assert_allclose(some, whole[[1, 4]], atol=1e-5)


def test_lesioned_odds_are_those_of_the_context_manager(tiny: Model) -> None:
    """Stacked rows, halves of pairs and empty sets give what one lesion at a time gives."""
    from grammar_lens.lesions.context import lesion

    prepared, rng = PreparedPairs(tiny, PAIRS), np.random.default_rng(1)
    n = len(PAIRS)
    sets = [
        Neurons("a", "neuron", np.array([0, 1]), np.array([3, 7]), np.zeros(2), rng.normal(size=2)),
        Neurons("b", "neuron", np.array([1]), np.array([9]), np.zeros(1), rng.normal(size=1)),
        Neurons("none", "neuron", np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0)),
    ]
    half = np.arange(n) % 2 == 0
    wanted = [np.ones(n, bool), half, ~half]
    lesions = [PairLesion(s, at) for s, at in zip(sets, wanted, strict=True)]
    for budget in (None, 40):
        found = lesioned_log_odds(tiny, prepared, lesions, Ablation(), token_budget=budget)
        np.testing.assert_allclose(found.whole[0], score_pairs(tiny, PAIRS).log_odds, atol=1e-4)
        for i, (neurons, at) in enumerate(zip(sets, wanted, strict=True), 1):
            with lesion(tiny, neurons, value="mean"):
                one = score_pairs(tiny, PAIRS)
            np.testing.assert_allclose(found.whole[i, at], one.log_odds[at], atol=1e-4)
            np.testing.assert_allclose(found.token[i, at], one.token_log_odds[at], atol=1e-4)
            assert np.isnan(found.whole[i, ~at]).all()


class TestFlips:
    def test_planted_units_are_found(self) -> None:
        rng = np.random.default_rng(0)
        effect = rng.normal(size=(40, 2, 300)).astype(np.float32)
        effect[:, 1, 17] += 1.5
        effect[:, 0, 5] -= 1.5  # harmful, not needed
        q = flipped_q(effect, np.arange(40), rng)
        assert np.argwhere(q <= 0.05).tolist() == [[1, 17]]

    def test_null_units_are_found_as_seldom_as_it_says(self) -> None:
        """Heavy tails, units that depend on each other, and a scale of their own for every pair."""
        wrong = 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            common = rng.standard_t(3, size=(30, 1, 1))
            effect = rng.standard_t(3, size=(30, 1, 60)) + common
            effect = (effect * rng.exponential(size=(30, 1, 1))).astype(np.float32)
            wrong += bool((flipped_q(effect, np.arange(30), rng) <= 0.05).any())
        # 5 of 100 expected; 12 is 3 binomial standard errors above
        assert wrong <= 12

    def test_like_pairs_are_flipped_together(self) -> None:
        """Four copies of twelve pairs say no more than twelve: counted as 48 they find what is not there."""
        wrong = np.zeros(2, int)
        for seed in range(60):
            rng = np.random.default_rng(seed)
            effect = np.repeat(rng.normal(size=(12, 1, 60)), 4, 0).astype(np.float32)
            for i, groups in enumerate((np.repeat(np.arange(12), 4), np.arange(48))):
                wrong[i] += bool((flipped_q(effect, groups, rng) <= 0.05).any())
        # 3 of 60 expected; 8 is 3 binomial standard errors above
        assert wrong[0] <= 8
        assert wrong[1] >= 30

    def test_units_without_effect_have_q_1(self) -> None:
        effect = np.zeros((20, 1, 3), np.float32)
        effect[:, 0, 1] = 1
        q = flipped_q(effect, np.arange(20), np.random.default_rng(0))
        assert q[0, 0] == q[0, 2] == 1
        assert q[0, 1] <= 0.05
