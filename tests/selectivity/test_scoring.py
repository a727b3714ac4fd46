"""Scores of moments find a planted neuron and nothing else, and agree with scipy, sklearn and NumPy."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scores import LABELS, ORIGIN, PLANTED, moments_of, planted
from scipy import stats
from sklearn.feature_selection import f_classif
from typed import present

from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.moments import Moments, UnitStatistics
from grammar_lens.selectivity.evidence import Attribution, Evidence, Sample
from grammar_lens.selectivity.from_moments import LEAST_FIRING
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score

METHODS = ("correlation", "cohens_d", "welch_t")
"""Two-sided scores of label against rest."""
FROM_MOMENTS = tuple(name for name, method in SCORES.items() if method.needs == "moments")


@pytest.fixture(scope="module")
def words() -> tuple[np.ndarray, np.ndarray]:
    return planted(2.0)


@pytest.fixture(scope="module")
def moments(words: tuple[np.ndarray, np.ndarray]) -> Moments:
    return moments_of(*words, LABELS)


def as_z(scores: Scores) -> np.ndarray:
    """A score in its own standard errors when there is no difference."""
    n1, n = scores.count[:, None, None], scores.count.sum()
    size = {"correlation": np.sqrt(n), "cohens_d": np.sqrt(n1 * (n - n1) / n), "welch_t": 1.0}
    return scores.values * size[scores.method]


def bound(values: np.ndarray) -> float:
    """|z| that noise exceeds anywhere among all labels and units with probability 1 % (Bonferroni)."""
    return float(stats.norm.isf(0.01 / 2 / values.size))


@pytest.mark.parametrize("method", METHODS)
def test_the_planted_neuron_is_found(moments: Moments, method: str) -> None:
    scores = score(moments, method)
    assert np.unravel_index(scores["VERB"].argmax(), (4, 30)) == PLANTED
    z = np.abs(as_z(scores))
    others = np.ones((4, 30), bool)
    others[PLANTED] = False
    assert z[1][PLANTED] > bound(z) > z[:, others].max(), "and nothing else stands out"


@pytest.mark.parametrize("method", METHODS)
def test_the_effect_size_is_the_planted_one(moments: Moments, method: str) -> None:
    n1, n = moments.count[1], moments.count.sum()
    # Hedges & Olkin (1985), ch. 5: variance of d
    error = np.sqrt(n / (n1 * (n - n1)) + 2.0**2 / (2 * n))
    assert abs(score(moments, method).effect[1][PLANTED] - 2.0) < 4 * error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_planted_nothing_stands_out(method: str, seed: int) -> None:
    """Criterion: no |z| of any label and unit passes Bonferroni at 1 %."""
    scores = score(moments_of(*planted(0.0, seed), LABELS), method)
    assert np.abs(as_z(scores)).max() < bound(scores.values)


class TestSecondOpinion:
    def test_correlation_is_scipys_pointbiserialr(self, words, moments: Moments) -> None:
        values, classes = words
        got = score(moments, "correlation")
        for label in range(3):
            for unit in (0, 17):
                r = stats.pointbiserialr(classes == label, values[:, 2, unit])[0]
                assert got.values[label, 2, unit] == pytest.approx(r, rel=1e-9)
        assert got.p is None

    def test_welch_is_scipys_ttest_ind(self, words, moments: Moments) -> None:
        """The p agree, also far out, so the degrees of freedom do."""
        values, classes = words
        got = score(moments, "welch_t")
        for label in range(3):
            mine = classes == label
            expected: Any = stats.ttest_ind(values[mine], values[~mine], equal_var=False)
            np.testing.assert_allclose(got.values[label], expected.statistic, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(present(got.p)[label], expected.pvalue, rtol=1e-7)

    @pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 3, 5), (4, 2, 9)])
    def test_welch_with_few_words_is_scipys(self, sizes: tuple[int, ...]) -> None:
        """With so few words a wrong number of degrees of freedom changes p much."""
        rng = np.random.default_rng(sum(sizes))
        classes = np.repeat([0, 1, 2], sizes)
        values = rng.normal(size=(len(classes), 1, 8)) * (1 + classes[:, None, None])
        got = score(moments_of(values, classes, LABELS), "welch_t")
        for label in range(3):
            mine = classes == label
            expected: Any = stats.ttest_ind(values[mine], values[~mine], equal_var=False)
            assert expected.df.min() >= 1
            np.testing.assert_allclose(present(got.p)[label], expected.pvalue, rtol=1e-9)

    def test_cohens_d_is_the_textbook_formula(self, words, moments: Moments) -> None:
        values, classes = words
        got = score(moments, "cohens_d")
        for label in range(3):
            first, second = values[classes == label], values[classes != label]
            n1, n0 = len(first), len(second)
            squares = (n1 - 1) * first.var(0, ddof=1) + (n0 - 1) * second.var(0, ddof=1)
            expected = (first.mean(0) - second.mean(0)) / np.sqrt(squares / (n1 + n0 - 2))
            np.testing.assert_allclose(got.values[label], expected, rtol=1e-9)
            np.testing.assert_array_equal(got.effect, got.values)

    def test_eta_squared_is_the_analysis_of_variance(self, words, moments: Moments) -> None:
        """eta^2 = SS_between / SS_total, and sklearn's F = eta^2 / (1 - eta^2) * (n - k) / (k - 1)."""
        values, classes = words
        eta = moments.units().eta_squared
        grand = values.mean(0)
        groups = [values[classes == i] for i in range(3)]
        between = sum(len(g) * (g.mean(0) - grand) ** 2 for g in groups)
        np.testing.assert_allclose(eta, between / ((values - grand) ** 2).sum(0), rtol=1e-9)
        f, _ = f_classif(values.reshape(3000, -1), classes)
        np.testing.assert_allclose((eta / (1 - eta) * 2997 / 2).ravel(), f, rtol=1e-9)


def many_units(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """60 words of very unequal labels by 200 units: shifted, rounded to ties, and constant ones."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat([0, 1, 2], [40, 15, 5]))
    values = rng.normal(size=(60, 4, 50)) + rng.normal(size=(3, 4, 50))[classes]
    values[:, 1] = values[:, 1].round()
    values[:, 2, :10] = 0.5
    values[:, 2, 10:20] = -0.5
    return values, classes


def slow_eta_squared(x: np.ndarray, classes: np.ndarray) -> list[float]:
    total = ((x - x.mean()) ** 2).sum()
    within = sum(((x[classes == c] - x[classes == c].mean()) ** 2).sum() for c in range(3))
    return [0.0 if np.ptp(x) == 0 else 1 - within / total] * 3


def slow_probeless(x: np.ndarray, classes: np.ndarray) -> list[float]:
    means = [x[classes == c].mean() for c in range(3)]
    return [sum(abs(one - other) for other in means) for one in means]


def slow_probeless_sd(x: np.ndarray, classes: np.ndarray) -> list[float]:
    sd = x.std()
    return [0.0 if np.ptp(x) == 0 else total / sd for total in slow_probeless(x, classes)]


def slow_entropy(x: np.ndarray, classes: np.ndarray) -> list[float]:
    rates = [(x[classes == c] > 0).mean() for c in range(3)]
    if len(set(rates)) == 1 or np.ptp(x) == 0 or max(rates) < LEAST_FIRING:
        return [np.nan] * 3
    own = rates.index(max(rates))
    return [float(stats.entropy(rates)) if c == own else np.nan for c in range(3)]


def slow_correlation(x: np.ndarray, classes: np.ndarray) -> list[float]:
    if np.ptp(x) == 0:
        return [0.0] * 3
    return [float(np.corrcoef(x, classes == c)[0, 1]) for c in range(3)]


def slow_cohens_d(x: np.ndarray, classes: np.ndarray) -> list[float]:
    found = []
    for c in range(3):
        one, rest = x[classes == c], x[classes != c]
        squares = ((one - one.mean()) ** 2).sum() + ((rest - rest.mean()) ** 2).sum()
        pooled = np.sqrt(squares / (len(x) - 2))
        found.append(0.0 if np.ptp(x) == 0 else (one.mean() - rest.mean()) / pooled)
    return found


def slow_welch_t(x: np.ndarray, classes: np.ndarray) -> list[float]:
    found = []
    for c in range(3):
        one, rest = x[classes == c], x[classes != c]
        error = np.sqrt(one.var(ddof=1) / len(one) + rest.var(ddof=1) / len(rest))
        found.append(0.0 if np.ptp(x) == 0 else (one.mean() - rest.mean()) / error)
    return found


@pytest.mark.parametrize("method", FROM_MOMENTS)
def test_many_units_agree_with_the_slow_formula(method: str) -> None:
    values, classes = many_units()
    got = score(moments_of(values, classes, LABELS), method).values.reshape(3, -1).T
    slow = globals()[f"slow_{method}"]
    expected = np.array([slow(x, classes) for x in values.reshape(60, -1).T])
    # sums round in another order: 1e-15 of the means
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("method", FROM_MOMENTS)
def test_units_a_thousand_sd_from_zero_keep_their_precision(method: str) -> None:
    """Against the slow formula on values that were never moved."""
    values, classes = many_units(1)
    moved = moments_of(values + 1000.0, classes, LABELS)
    moved = replace(moved, fired=moments_of(values, classes, LABELS).fired)
    got = score(moved, method).values.reshape(3, -1).T
    slow = globals()[f"slow_{method}"]
    expected = np.array([slow(x, classes) for x in values.reshape(60, -1).T])
    # float64 eps times 1,000 sd in the means and in every word
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


def test_cohens_d_of_labels_far_apart_keeps_its_precision() -> None:
    """Label C lies a million sd away: its rest varies by 1, which the whole's variance would drown."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 20)
    values = rng.normal(size=(60, 1, 5))
    values[classes == 2] += 1e6
    got = score(moments_of(values, classes, LABELS), "cohens_d").values
    expected = np.array([slow_cohens_d(x, classes) for x in values[:, 0].T]).T
    # the values themselves are rounded to eps times 1e6
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-9)


def whole_numbers(seed: int = 0) -> Moments:
    """Moments whose squared deviations are integers, so that their sum is the same in any order."""
    rng = np.random.default_rng(seed)
    moments = moments_of(*many_units(seed), LABELS)
    return replace(moments, m2=rng.integers(1, 1000, moments.m2.shape).astype(float))


@pytest.mark.parametrize("method", FROM_MOMENTS)
def test_what_class_means_suffice_for(method: str) -> None:
    """Squared deviations dealt out otherwise among the labels change nothing, or the flag is false."""
    first = whole_numbers()
    total = first.m2.sum(0)
    m2 = np.stack([np.floor(total / 7), np.floor(total / 3), total])
    m2[2] -= m2[0] + m2[1]
    second = replace(first, m2=m2, fired=first.fired[::-1], mean_abs=first.mean_abs + 1)
    one, other = (SCORES[method].compute(Evidence(m))[0] for m in (first, second))
    assert np.array_equal(one, other, equal_nan=True) == SCORES[method].class_means_suffice


def test_only_scores_of_moments_claim_that_class_means_suffice() -> None:
    assert {name for name, method in SCORES.items() if method.class_means_suffice} == {
        *("correlation", "cohens_d", "eta_squared", "probeless", "probeless_sd")
    }


THREE = np.repeat([0, 1, 2], 20)


class TestScoresWithoutASign:
    """eta squared, probeless and entropy: the planted neuron, and its twin with nothing planted."""

    def test_eta_squared_finds_the_planted_neuron(self, moments: Moments) -> None:
        got = score(moments, "eta_squared")
        np.testing.assert_array_equal(got.values, np.tile(got.values[:1], (3, 1, 1)))
        assert np.unravel_index(got["VERB"].argmax(), (4, 30)) == PLANTED
        assert sorted(got["VERB"].ravel())[-2] < self.chance(120) < got["VERB"][PLANTED]

    @pytest.mark.parametrize("seed", range(5))
    def test_eta_squared_of_noise_is_small(self, seed: int) -> None:
        got = score(moments_of(*planted(0.0, seed), LABELS), "eta_squared")
        assert got.values.max() < self.chance(120)

    @staticmethod
    def chance(units: int) -> float:
        """eta^2 that the largest of so many units of noise exceeds with probability 1 %."""
        f = float(stats.f.isf(0.01 / units, 2, 2997))
        return f * 2 / (f * 2 + 2997)

    @pytest.mark.parametrize("method", ["probeless", "probeless_sd"])
    @pytest.mark.parametrize("label", range(3))
    def test_probeless_finds_the_planted_neuron(self, method: str, label: int) -> None:
        moments = moments_of(*planted(2.0), LABELS)
        values = score(moments, method).values[label]
        assert np.unravel_index(values.argmax(), (4, 30)) == PLANTED
        # 2 sd of 3: verbs lie that far from both other labels, each of these from verbs alone
        expected = 12.0 if label == 1 else 6.0
        if method == "probeless_sd":
            expected /= np.sqrt(moments.pooled()[1][PLANTED] / 3000)
        assert values[PLANTED] == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize("seed", range(5))
    def test_probeless_of_noise_is_small(self, seed: int) -> None:
        """No larger than three distances of standard errors at 1 % over all of them (Bonferroni)."""
        moments = moments_of(*planted(0.0, seed), LABELS)
        got = score(moments, "probeless_sd").values
        error = np.sqrt(1 / moments.count[:, None] + 1 / moments.count)
        most = bound(np.empty(3 * 120)) * (error.sum(1) - np.diag(error))
        assert (got.reshape(3, -1).max(1) < most).all()

    def test_entropy_finds_the_planted_neuron(self) -> None:
        """It fires at verbs and hardly elsewhere; all others fire at all labels alike."""
        values, classes = planted(0.0)
        values -= values.mean(0)
        values[..., 2, 17] = np.where(classes == 1, 1.0, -1.0)
        values[classes == 0, 2, 17] = np.where(np.arange((classes == 0).sum()) % 20, -1.0, 1.0)
        got = score(moments_of(values, classes, LABELS), "entropy")
        strength = got.strength()
        assert np.unravel_index(strength[1].argmax(), (4, 30)) == PLANTED
        rates = [(values[classes == c, 2, 17] > 0).mean() for c in range(3)]
        assert got["VERB"][PLANTED] == pytest.approx(stats.entropy(rates))
        others = np.delete(np.nanmin(got.values, axis=0).ravel(), 2 * 30 + 17)
        assert others.min() > 0.99 * np.log(3) > got["VERB"][PLANTED]

    @pytest.mark.parametrize("method", ["correlation", "eta_squared", "entropy"])
    def test_strength_of_one_label_is_that_label_s(self, method: str) -> None:
        got = score(moments_of(*planted(0.0), LABELS), method)
        for row, label in zip(got.strength(), LABELS, strict=True):
            np.testing.assert_array_equal(got.strength_of(label), row)

    def test_entropy_from_a_single_label_to_all(self) -> None:
        fired = np.array([[10, 10, 3, 0, 0], [0, 10, 0, 0, 20], [0, 5, 0, 1, 20.0]])
        rng = np.random.default_rng(0)
        moments = moments_of(rng.normal(size=(60, 1, 5)), THREE, LABELS)
        moments = replace(moments, count=np.array([20.0, 20.0, 200.0]), fired=fired[:, None])
        got = score(moments, "entropy")
        nan = np.nan
        assert got["NOUN"][0] == pytest.approx(
            [0, stats.entropy([20, 20, 1]), 0, nan, nan], nan_ok=True
        )
        # fires at 0.5 % of the adjectives and nowhere else: too seldom
        assert np.isnan(got.values[:, 0, 3]).all()
        alone = stats.entropy([10, 1])
        assert got["VERB"][0] == pytest.approx([nan, nan, nan, nan, alone], nan_ok=True)
        assert (got.strength()[np.isnan(got.values)] == 0).all()
        assert (got.strength()[~np.isnan(got.values)] > 0).all()

    def test_a_unit_that_fires_everywhere_alike_has_no_label(self) -> None:
        rng = np.random.default_rng(0)
        moments = moments_of(rng.normal(size=(60, 1, 2)), THREE, LABELS)
        moments = replace(moments, fired=np.tile([20.0, 10.0], (3, 1, 1)))
        got = score(moments, "entropy")
        assert np.isnan(got.values).all()
        assert (got.strength() == 0).all()


class TestEdges:
    @pytest.mark.parametrize("method", FROM_MOMENTS)
    def test_a_unit_that_never_varies_is_neutral(self, words, method: str) -> None:
        classes = words[1]
        constants = np.broadcast_to([0.0, 1.0, 0.3, 1000.1, -7.77], (3000, 4, 5))
        moments = moments_of(constants, classes, LABELS)
        # what the moments of a constant are: its value, and no deviations
        moments.mean[:], moments.m2[:] = constants[0], 0
        got = score(moments, method)
        np.testing.assert_array_equal(got.values, np.nan if method == "entropy" else 0)
        np.testing.assert_array_equal(got.strength(), 0)
        np.testing.assert_array_equal(got.effect, 0)
        assert got.p is None or (got.p == 1).all()
        np.testing.assert_array_equal(moments.units().eta_squared, 0)

    def test_a_unit_that_only_tells_the_label_has_no_effect_size(self) -> None:
        """There are no sd to count in: documented, and the correlation still shows it."""
        classes = np.array([0, 0, 1, 1, 1])
        moments = moments_of(classes[:, None, None].astype(float), classes, ("A", "B"))
        assert score(moments, "cohens_d").values.ravel().tolist() == [0, 0]
        assert present(score(moments, "welch_t").p).ravel().tolist() == [1, 1]
        np.testing.assert_allclose(score(moments, "correlation").values.ravel(), [-1, 1])
        np.testing.assert_allclose(moments.units().eta_squared, 1)

    @pytest.mark.parametrize("method", METHODS)
    def test_two_labels_mirror_each_other(self, words, method: str) -> None:
        values, classes = words
        got = score(moments_of(values, np.minimum(classes, 1), ("A", "B")), method)
        np.testing.assert_allclose(got["A"], -got["B"], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS)
    @given(
        seed=st.integers(0, 1000),
        scale=st.sampled_from([-1e3, -1.0, 0.01, 5.0]),
        offset=st.sampled_from([0.0, -3.0, 1e4]),
    )
    @settings(max_examples=20, deadline=None)
    def test_units_of_measurement_do_not_matter(self, method, seed, scale, offset) -> None:
        """A score of a x + b is that of x, with the sign of a."""
        rng = np.random.default_rng(seed)
        classes = np.concatenate([[0, 0, 1, 1, 2, 2], rng.integers(0, 3, 30)])
        values = rng.normal(size=(36, 2, 4))
        plain = score(moments_of(values, classes, LABELS), method).values
        moved = score(moments_of(values * scale + offset, classes, LABELS), method).values
        # offset / scale is at most 1e6 sd: float64 eps times that
        np.testing.assert_allclose(moved, np.sign(scale) * plain, rtol=1e-6, atol=1e-8)


def small_evidence() -> Evidence:
    """Everything that a score may need, of 6 words, 2 layers and 4 units."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], 2)
    values = rng.normal(size=(6, 2, 4))
    moments = moments_of(values, classes, LABELS)
    sample = Sample(LABELS, classes, np.arange(6), values, moments.count, ORIGIN)
    mean = rng.normal(size=(3, 2, 4))
    own = Attribution("own", "mean", LABELS, moments.count, mean, ORIGIN)
    integrated = replace(own, kind="integrated_gradients", frequency=np.abs(mean))
    return Evidence(
        moments,
        sample=sample,
        attribution=own,
        relevance=replace(own, relevance=True),
        integrated_gradients=integrated,
        output_contrast=mean + 1,
    )


class TestErrors:
    def test_unknown_score(self, moments: Moments) -> None:
        with pytest.raises(GrammarLensError, match=r"'auc'.*correlation, co"):
            score(moments, "auc")

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_words(self, moments: Moments, n: int) -> None:
        few = replace(moments, count=np.array([5.0, n, 5.0]))
        message = f"fewer than 2 words cannot be scored: 'VERB' has {n}; use a larger treebank"
        with pytest.raises(GrammarLensError, match=message):
            score(few)

    def test_a_single_label(self) -> None:
        moments = moments_of(np.ones((3, 1, 1)), np.zeros(3, np.int64), ("A",))
        with pytest.raises(GrammarLensError, match="only the label 'A' is there"):
            score(moments)

    @pytest.mark.parametrize(
        ("method", "message"),
        [
            ("auroc", "score 'auroc' needs a sample of activations: gl.collect(..., sample=100)"),
            ("probe_weight", "score 'probe_weight' needs a sample of activations: gl.collect("),
            ("attribution", "score 'attribution' needs attributions: gl.attribute(...)"),
            ("attribution_contrast", "'attribution_contrast' needs attributions: gl.attribute("),
            ("integrated_gradients", 'gl.attribute(..., kind="integrated_gradients")'),
            ("frequency", "score 'frequency' needs integrated gradients: gl.attribute("),
            (
                "logit_contrast",
                "score 'logit_contrast' needs the contrast of outgoing weights: gl.output_contrast(model, lexicon.count)",
            ),
        ],
    )
    def test_evidence_that_is_missing_is_named(
        self, moments: Moments, method: str, message: str
    ) -> None:
        with pytest.raises(GrammarLensError, match=re.escape(message)):
            score(Evidence(moments), method)

    @pytest.mark.parametrize(
        ("part", "method", "what"),
        [
            ("sample", "auroc", "sample"),
            ("attribution", "attribution", "attribution"),
            ("integrated_gradients", "frequency", "integrated gradients"),
        ],
    )
    def test_other_labels(self, part: str, method: str, what: str) -> None:
        evidence = small_evidence()
        other = replace(getattr(evidence, part), labels=("NOUN", "ADJ", "VERB"))
        message = (
            f"the {what} has the labels NOUN, ADJ, VERB and the moments have NOUN, VERB, ADJ: co"
        )
        with pytest.raises(GrammarLensError, match=message):
            score(replace(evidence, **{part: other}), method)

    @pytest.mark.parametrize("method", ["auroc", "attribution", "logit_contrast"])
    def test_other_units(self, method: str) -> None:
        evidence = small_evidence()
        m = evidence.moments
        short = replace(
            m, **{x: getattr(m, x)[..., :3] for x in ("mean", "m2", "fired", "mean_abs")}
        )
        message = (
            r"is of labels x layers x units \(3, 2, 4\) and the moments are of \(3, 2, 3\): co"
        )
        with pytest.raises(GrammarLensError, match=message):
            score(replace(evidence, moments=short), method)

    def test_a_sample_read_elsewhere(self) -> None:
        evidence = small_evidence()
        assert evidence.sample is not None
        sample = replace(evidence.sample, origin=replace(ORIGIN, position="word"))
        with pytest.raises(GrammarLensError, match=r"'word'.*'next'"):
            score(replace(evidence, sample=sample), "auroc")
        elsewhere = replace(evidence.sample, origin=replace(ORIGIN, treebank="part of a-bank"))
        score(replace(evidence, sample=elsewhere), "auroc")

    @pytest.mark.parametrize("method", ["auroc", "probe_weight"])
    def test_a_sample_without_words_of_a_label(self, method: str) -> None:
        evidence = small_evidence()
        assert evidence.sample is not None
        sample = replace(evidence.sample, classes=np.array([0, 0, 0, 2, 2, 2]))
        with pytest.raises(GrammarLensError, match="the sample has no words of VERB"):
            score(replace(evidence, sample=sample), method)

    def test_unknown_signs(self, moments: Moments) -> None:
        message = "sign is 'up', expected one of absolute, positive, negative"
        with pytest.raises(GrammarLensError, match=message):
            score(moments).strength("up")
        message = "'entropy' is strong where it is low, so sign 'negative' has no meaning: use"
        with pytest.raises(GrammarLensError, match=message):
            score(moments, "entropy").strength("negative")

    def test_scores_of_an_unknown_label(self, moments: Moments) -> None:
        with pytest.raises(GrammarLensError, match=r"'X'.*NOUN, VERB, ADJ"):
            score(moments)["X"]


class TestRegistry:
    @pytest.mark.parametrize("method", SCORES)
    def test_every_score_can_be_had_with_all_evidence(self, method: str) -> None:
        evidence = small_evidence()
        got = score(evidence, method)
        assert got.values.shape == got.effect.shape == (3, 2, 4)
        assert (got.best, got.neutral) == (SCORES[method].best, SCORES[method].neutral)
        np.testing.assert_array_equal(got.effect, score(evidence.moments, "cohens_d").values)
        assert (got.p is not None) == (method == "welch_t")
        assert "strongest: NOUN" in repr(got)

    def test_methods_know_their_names_and_what_they_need(self) -> None:
        assert [method.name for method in SCORES.values()] == list(SCORES)
        needs = ("moments", "sample", "attribution", "relevance", "integrated_gradients")
        needs += ("output_contrast",)
        assert {method.needs for method in SCORES.values()} == set(needs)
        assert {method.best for method in SCORES.values()} == {"far", "high", "low"}

    def test_the_table_of_the_documentation_lists_exactly_the_registry(self) -> None:
        text = (Path(__file__).parents[2] / "docs" / "scores.md").read_text("utf-8")
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in text.splitlines()
            if line.startswith("| `")
        ]
        assert [row[0].strip("`") for row in rows] == list(SCORES)
        for row, method in zip(rows, SCORES.values(), strict=True):
            assert row[1] == method.summary
            assert row[2] == method.needs.replace("_", " ")
            assert row[3] == f"{method.unit}; {method.best}"
            assert row[5:] == [method.source, method.reference_test]


class TestStrength:
    values = np.array([[[0.2, 0.5, 0.9, np.nan]], [[-0.1, 0.0, 3.0, 0.5]]])

    def of(self, best: str, neutral: float, sign: str) -> list:
        units = UnitStatistics(*np.ones((3, 1, 4)))
        shown = (self.values, self.values, None, units, ORIGIN, best, neutral)
        scores = Scores("m", ("A", "B"), np.ones(2), *shown)
        return np.round(scores.strength(sign)[:, 0], 12).tolist()

    @pytest.mark.parametrize(
        ("best", "neutral", "sign", "expected"),
        [
            ("far", 0.0, "absolute", [[0.2, 0.5, 0.9, 0], [0.1, 0, 3, 0.5]]),
            ("far", 0.5, "absolute", [[0.3, 0, 0.4, 0], [0.6, 0.5, 2.5, 0]]),
            ("far", 0.5, "positive", [[-0.3, 0, 0.4, 0], [-0.6, -0.5, 2.5, 0]]),
            ("far", 0.5, "negative", [[0.3, 0, -0.4, 0], [0.6, 0.5, -2.5, 0]]),
            ("high", 0.0, "absolute", [[0.2, 0.5, 0.9, 0], [-0.1, 0, 3, 0.5]]),
            ("high", 0.0, "positive", [[0.2, 0.5, 0.9, 0], [-0.1, 0, 3, 0.5]]),
        ],
    )
    def test_by_hand(self, best: str, neutral: float, sign: str, expected: list) -> None:
        assert self.of(best, neutral, sign) == expected

    def test_where_low_is_strong_the_order_is_turned_round(self) -> None:
        strength = np.array(self.of("low", 0.0, "absolute"))
        assert strength[0].argsort().tolist() == [3, 2, 1, 0]
        assert strength[0, 3] == 0
        np.testing.assert_allclose(strength[1], np.exp([0.1, 0, -3, -0.5]))

    def test_a_frame_is_in_order_of_strength(self, moments: Moments) -> None:
        """Also where the sign or the direction is another than that of the values."""
        frame = score(moments, "entropy").to_frame(top=20)
        for _, rows in frame.groupby("label"):
            assert (np.diff(rows.score.dropna()) >= 0).all()
            assert rows.score.notna().iloc[0]
            assert not rows.score.isna().to_numpy()[: rows.score.notna().sum()].any()


class TestResult:
    def test_it_knows_what_it_is_of(self, moments: Moments) -> None:
        got = score(moments)
        assert (got.method, got.labels, got.origin) == ("correlation", LABELS, ORIGIN)
        np.testing.assert_array_equal(got.count, moments.count)
        np.testing.assert_array_equal(got.units.mean_abs, moments.mean_abs)
        text = repr(got)
        assert "correlation" in text
        assert "a-model on a-bank" in text
        assert f"VERB {got['VERB'].max():+.3g}" in text

    def test_a_frame_has_a_row_per_label_and_unit(self, moments: Moments) -> None:
        got = score(moments, "welch_t")
        frame = got.to_frame()
        assert list(frame.columns) == ["label", "layer", "index", "score", "cohens_d", "p"]
        assert len(frame) == 3 * 4 * 30
        for row in frame.sample(20, random_state=0).itertuples():
            at = LABELS.index(row.label), row.layer, row[3]
            assert (row.score, row.cohens_d, row.p) == (
                got.values[at],
                got.effect[at],
                present(got.p)[at],
            )

    def test_a_frame_of_the_top_is_in_order_of_size(self, moments: Moments) -> None:
        frame = score(moments).to_frame(top=7)
        assert "p" not in frame
        for label, rows in frame.groupby("label"):
            expected = np.sort(np.abs(score(moments)[str(label)]).ravel())[::-1][:7]
            np.testing.assert_array_equal(np.abs(rows.score), expected)
        first = frame[frame.label == "VERB"].iloc[0]
        assert (first.layer, first["index"]) == PLANTED
        assert "VERB" in score(moments)._repr_html_()
