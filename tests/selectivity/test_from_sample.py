"""AUROC and probe weights find a planted neuron, and are those of scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import LABELS, ORIGIN, PLANTED, moments_of, planted
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from grammar_lens.errors import GrammarLensError
from grammar_lens.selectivity import elastic_net, from_sample
from grammar_lens.selectivity.elastic_net import fit_elastic_net
from grammar_lens.selectivity.evidence import Evidence, Sample
from grammar_lens.selectivity.from_sample import probe_weights
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


def evidence_of(
    values: np.ndarray, classes: np.ndarray, count: tuple[float, ...] | None = None
) -> Evidence:
    """A sample of words of a corpus that has so many of each label, by default just these."""
    labels = LABELS[: classes.max() + 1]
    moments = moments_of(values, classes, labels)
    counts = moments.count if count is None else np.array(count)
    sample = Sample(labels, classes, np.arange(len(classes)), values, counts, ORIGIN)
    return Evidence(moments, sample=sample)


def sample_of(values: np.ndarray, classes: np.ndarray) -> Sample:
    sample = evidence_of(values, classes).sample
    assert sample is not None
    return sample


def slow_auroc(x: np.ndarray, classes: np.ndarray, count: tuple[float, ...]) -> list[float]:
    """scikit-learn's AUROC of every pair of labels, averaged by the corpus's counts."""
    found = []
    for label in range(len(count)):
        others = [z for z in range(len(count)) if z != label]
        pairs = []
        for z in others:
            both = (classes == label) | (classes == z)
            pairs.append(roc_auc_score(classes[both] == label, x[both]))
        found.append(np.average(pairs, weights=[count[z] for z in others]))
    return found


def unequal(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """60 words of unequal labels by 200 units in float32: continuous, tied, binary and constant."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat([0, 1, 2], [40, 15, 5]))
    values = rng.normal(size=(60, 4, 50)) + rng.normal(size=(3, 4, 50))[classes]
    values[:, 1] = values[:, 1].round()
    values[:, 2] = values[:, 2] > 1
    values[:, 2, :10] = [0, 1, -1, 0.3, 1000, -1e4, 7, 8, 9, 10]
    return values.astype(np.float32), classes


class TestAuroc:
    @pytest.mark.parametrize("count", [(40.0, 15.0, 5.0), (7.0, 1000.0, 31.0)])
    def test_it_is_scikit_learns_on_200_units(self, count: tuple[float, ...]) -> None:
        values, classes = unequal(0)
        got = score(evidence_of(values, classes, count), "auroc").values.reshape(3, -1)
        slow = [slow_auroc(x, classes, count) for x in values.reshape(60, -1).T]
        # exact but for the rounding of sums
        np.testing.assert_allclose(got, np.array(slow).T, rtol=1e-12)

    @given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([1, 3, 1000]))
    @settings(max_examples=60, deadline=None)
    def test_any_ties_and_any_block_agree_with_counting(
        self, seed: int, levels: int, block: int
    ) -> None:
        """Against a comparison of every word with every other, in blocks of one unit up."""
        rng = np.random.default_rng(seed)
        classes = np.concatenate([[0, 0, 1, 1, 2, 2], rng.integers(0, 3, 9)])
        values = rng.integers(0, levels + 1, (15, 2, 3)).astype(float)
        count = rng.integers(2, 50, 3).astype(float)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(from_sample, "_VALUES", 15 * block)
            got = score(evidence_of(values, classes, tuple(count)), "auroc").values
        above = (values[:, None] > values) + (values[:, None] == values) / 2
        for label in range(3):
            pairs = {
                z: above[np.ix_(classes == label, classes == z)].mean((0, 1))
                for z in range(3)
                if z != label
            }
            expected = sum(count[z] * a for z, a in pairs.items()) / sum(count[z] for z in pairs)
            np.testing.assert_allclose(got[label], expected, rtol=1e-12, atol=1e-14)

    def test_with_two_labels_it_is_the_one_auroc_and_its_mirror(self) -> None:
        values, classes = unequal(1)
        values, classes = values[classes < 2], classes[classes < 2]
        got = score(evidence_of(values, classes), "auroc")
        for index in range(50):
            expected = roc_auc_score(classes == 0, values[:, 0, index])
            assert got["NOUN"][0, index] == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(got["NOUN"] + got["VERB"], 1, rtol=1e-12)

    def test_a_balanced_sample_stands_for_the_whole_corpus(self) -> None:
        """100 words of each label say what all 3,000 say, to sampling error; equal weights do not."""
        values, classes = planted(2.0)
        values[classes == 2, 2, 17] += 4  # so that the rest's composition matters
        whole = score(evidence_of(values, classes), "auroc")["VERB"][PLANTED]
        rng = np.random.default_rng(0)
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(classes == c), 100, replace=False) for c in range(3)]
        )
        counts = tuple(np.bincount(classes).astype(float))
        few = values[chosen], classes[chosen]
        weighted = score(evidence_of(*few, counts), "auroc")["VERB"][PLANTED]
        plain = score(evidence_of(*few), "auroc")["VERB"][PLANTED]
        # Hanley & McNeil (1982): the standard error of an AUROC is at most sqrt(a (1 - a) / 100)
        error = np.sqrt(whole * (1 - whole) / 100)
        assert abs(weighted - whole) < 3 * error
        assert abs(weighted - plain) > 1e-3

    def test_a_unit_that_has_one_value_is_neutral(self) -> None:
        values, classes = unequal(0)
        got = score(evidence_of(values, classes, (1.0, 3.0, 1e5)), "auroc")
        np.testing.assert_array_equal(got.values[:, 2, :10], 0.5)
        np.testing.assert_array_equal(got.strength()[:, 2, :10], 0)

    def test_perfect_separation_is_one_and_zero(self) -> None:
        classes = np.repeat([0, 1, 2], 7)
        got = score(evidence_of(classes[:, None, None].astype(float), classes), "auroc").values
        np.testing.assert_allclose(got.ravel(), [0, 0.5, 1], atol=1e-15)
        assert got.max() <= 1
        assert got.min() >= 0

    def test_the_planted_neuron_is_found(self) -> None:
        got = score(evidence_of(*planted(2.0)), "auroc")
        assert np.unravel_index(got.strength()[1].argmax(), (4, 30)) == PLANTED
        # P(N(2, 1) > N(0, 1)); 600 verbs
        expected = stats.norm.cdf(np.sqrt(2))
        error = np.sqrt(expected * (1 - expected) / 600)
        assert abs(got["VERB"][PLANTED] - expected) < 4 * error
        others = np.ones((4, 30), bool)
        others[PLANTED] = False
        assert np.abs(z_of(got))[:, others].max() < bound(got) < z_of(got)[1][PLANTED]

    @pytest.mark.parametrize("seed", range(5))
    def test_nothing_planted_nothing_stands_out(self, seed: int) -> None:
        got = score(evidence_of(*planted(0.0, seed)), "auroc")
        assert np.abs(z_of(got)).max() < bound(got)


def z_of(scores: Scores) -> np.ndarray:
    """AUROC in its standard errors when there is no difference (Mann & Whitney 1947)."""
    n1, n = scores.count[:, None, None], scores.count.sum()
    return (scores.values - 0.5) / np.sqrt((n + 1) / (12 * n1 * (n - n1)))


def bound(scores: Scores) -> float:
    """|z| that noise exceeds anywhere with probability 1 % (Bonferroni)."""
    return float(stats.norm.isf(0.01 / 2 / scores.values.size))


class TestElasticNet:
    @pytest.mark.parametrize(("l1", "l2"), [(0.01, 0.01), (0.02, 0.001), (0.003, 0.0)])
    def test_it_is_scikit_learns(self, l1: float, l2: float) -> None:
        """Ours: mean CE + l1 |W| + l2 |W|^2. Theirs: C sum CE + ratio |W| + (1 - ratio) |W|^2 / 2."""
        rng = np.random.default_rng(0)
        classes = rng.integers(0, 3, 80)
        x = rng.normal(size=(80, 12)) + rng.normal(size=(3, 12))[classes]
        x -= x.mean(0)
        theirs = LogisticRegression(
            solver="saga",
            C=1 / (80 * (l1 + 2 * l2)),
            l1_ratio=l1 / (l1 + 2 * l2),
            tol=1e-10,
            max_iter=100_000,
            random_state=0,
        ).fit(x, classes)
        ours = fit_elastic_net(
            torch.from_numpy(x), torch.from_numpy(classes), 3, l1=l1, l2=l2, tolerance=1e-8
        )
        np.testing.assert_allclose(ours.weight.T.numpy(), theirs.coef_, rtol=1e-5, atol=1e-7)
        # without a penalty only differences of intercepts are defined
        gap = ours.intercept.numpy() - theirs.intercept_
        np.testing.assert_allclose(gap - gap.mean(), 0, atol=1e-6)
        assert (ours.weight == 0).any()
        np.testing.assert_array_equal(ours.weight.T.numpy() == 0, theirs.coef_ == 0)

    def test_it_satisfies_the_conditions_of_the_optimum_with_more_units_than_words(self) -> None:
        """In float32; the subgradient of the objective contains 0."""
        rng = np.random.default_rng(1)
        classes = rng.integers(0, 4, 60)
        x = torch.from_numpy(rng.normal(size=(60, 400)).astype(np.float32))
        x -= x.mean(0)
        l1, l2 = 0.02, 0.01
        fit = fit_elastic_net(x, torch.from_numpy(classes), 4, l1=l1, l2=l2)
        p = torch.softmax(x @ fit.weight + fit.intercept, 1)
        error = p - torch.nn.functional.one_hot(torch.from_numpy(classes), 4)
        slope = x.T @ error / 60 + 2 * l2 * fit.weight
        active = fit.weight != 0
        assert 0 < active.float().mean() < 0.5
        torch.testing.assert_close(
            slope[active], -l1 * fit.weight[active].sign(), rtol=0, atol=1e-3
        )
        assert slope[~active].abs().max() <= l1 * 1.05
        assert fit.violation <= 0.02 * l1
        assert error.mean(0).abs().max() < 1e-3

    def test_it_does_not_matter_how_many_units_are_tried_first(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Solved for 3 units, then 6, and so on, it is what is solved for all 400 at once."""
        rng = np.random.default_rng(3)
        classes = torch.from_numpy(rng.integers(0, 4, 60))
        x = torch.from_numpy(rng.normal(size=(60, 400)))
        x -= x.mean(0)
        fits = []
        for first in (3, 400):
            monkeypatch.setattr(elastic_net, "_FIRST_UNITS", first)
            fits.append(fit_elastic_net(x, classes, 4, l1=0.02, l2=0.01, tolerance=1e-7))
        torch.testing.assert_close(fits[0].weight, fits[1].weight, rtol=1e-5, atol=1e-7)
        assert 3 < (fits[0].weight != 0).any(1).sum() < 400

    def test_a_penalty_above_every_slope_gives_no_weights(self) -> None:
        rng = np.random.default_rng(2)
        classes = np.repeat([0, 1, 1], 20)
        x = torch.from_numpy(rng.normal(size=(60, 5)))
        x -= x.mean(0)
        fit = fit_elastic_net(x, torch.from_numpy(classes), 2, l1=1.0, l2=0.0, tolerance=1e-9)
        assert (fit.weight == 0).all()
        shares = torch.softmax(fit.intercept, 0)
        torch.testing.assert_close(shares, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))


class TestProbeWeight:
    def test_the_planted_neuron_has_the_largest_weight(self) -> None:
        got = score(evidence_of(*planted(2.0)), "probe_weight")
        assert np.unravel_index(got.strength()[1].argmax(), (4, 30)) == PLANTED
        others = np.delete(np.abs(got.values).reshape(3, -1), 2 * 30 + 17, axis=1)
        assert got["VERB"][PLANTED] > 5 * others.max()

    def test_where_noise_is_penalised_away_the_planted_neuron_stays(self) -> None:
        """The largest slope of 360 weights in noise is about 3.6 sqrt(p (1 - p) / 3000) < 0.04."""
        found = probe_weights(sample_of(*planted(2.0)), l1=0.04)
        assert np.argwhere(found.any(0)).tolist() == [list(PLANTED)]

    @pytest.mark.parametrize("seed", range(3))
    def test_nothing_planted_no_weights(self, seed: int) -> None:
        assert not probe_weights(sample_of(*planted(0.0, seed)), l1=0.04).any()

    def test_scale_and_offset_of_a_unit_do_not_matter(self) -> None:
        values, classes = planted(1.0)
        values, classes = values[:300], classes[:300]
        moved = values * np.linspace(0.01, 50, 30) + 1e4
        one, other = (probe_weights(sample_of(x, classes)) for x in (values, moved))
        # the fit ends within 2 % of l1, as a gradient, of the optimum
        np.testing.assert_allclose(one, other, atol=1e-4)

    def test_a_unit_that_has_one_value_gets_no_weight(self) -> None:
        values, classes = unequal(0)
        got = score(evidence_of(values, classes), "probe_weight")
        np.testing.assert_array_equal(got.values[:, 2, :10], 0)
        np.testing.assert_array_equal(got.strength()[:, 2, :10], 0)
        assert np.isfinite(got.values).all()

    def test_small_codes_are_taken(self) -> None:
        sample = sample_of(*planted(2.0))
        narrow = replace(sample, classes=sample.classes.astype(np.int16))
        np.testing.assert_array_equal(probe_weights(narrow, l1=0.1), probe_weights(sample, l1=0.1))

    @pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.1), (-1.0, 0.1), (0.1, -0.1), (np.nan, 0.1)])
    def test_penalties_that_cannot_be(self, l1: float, l2: float) -> None:
        with pytest.raises(GrammarLensError, match=rf"{l1}.*{l2}.*above 0"):
            probe_weights(sample_of(*planted(0.0)), l1=l1, l2=l2)

    def test_a_fit_that_does_not_converge(self) -> None:
        message = r"did not converge in 3 steps: .* expected at most 2.0e-06; use larger penalties"
        with pytest.raises(GrammarLensError, match=message):
            probe_weights(sample_of(*planted(2.0)), l1=1e-4, max_steps=3)
