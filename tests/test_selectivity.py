"""Scores find a planted neuron and nothing else, and agree with scipy, sklearn and NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.feature_selection import f_classif

from grammar_lens.moments import Moments, Origin
from grammar_lens.selectivity import SCORES, ScoreError, Scores, score

ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")
LABELS = ("NOUN", "VERB", "ADJ")
PLANTED = (2, 17)
METHODS = tuple(SCORES)


def moments_of(values: np.ndarray, classes: np.ndarray, labels: tuple[str, ...]) -> Moments:
    """Moments of words [word, layer, unit], by two passes."""
    groups = [values[classes == i] for i in range(len(labels))]
    mean = np.stack([g.mean(0) for g in groups])
    return Moments(
        labels=labels,
        count=np.array([float(len(g)) for g in groups]),
        mean=mean,
        m2=np.stack([((g - m) ** 2).sum(0) for g, m in zip(groups, mean, strict=True)]),
        fired=np.stack([(g > 0).sum(0).astype(float) for g in groups]),
        mean_abs=np.abs(values).mean(0),
        origin=ORIGIN,
    )


def planted(shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 3,000 words in 4 layers of 30, neuron (2, 17) raised by `shift` sd at verbs."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, 3000, p=[0.5, 0.2, 0.3])
    values = rng.normal(size=(3000, 4, 30)) * 3 + rng.normal(size=(4, 30)) * 10
    values[classes == 1, 2, 17] += shift * 3
    return values, classes


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
                r = stats.pointbiserialr(classes == label, values[:, 2, unit]).statistic
                assert got.values[label, 2, unit] == pytest.approx(r, rel=1e-9)
        assert got.p is None

    def test_welch_is_scipys_ttest_ind(self, words, moments: Moments) -> None:
        """The p agree, also far out, so the degrees of freedom do."""
        values, classes = words
        got = score(moments, "welch_t")
        for label in range(3):
            mine = classes == label
            expected = stats.ttest_ind(values[mine], values[~mine], equal_var=False)
            np.testing.assert_allclose(got.values[label], expected.statistic, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(got.p[label], expected.pvalue, rtol=1e-7)

    @pytest.mark.parametrize("sizes", [(2, 2, 2), (2, 3, 5), (4, 2, 9)])
    def test_welch_with_few_words_is_scipys(self, sizes: tuple[int, ...]) -> None:
        """With so few words a wrong number of degrees of freedom changes p much."""
        rng = np.random.default_rng(sum(sizes))
        classes = np.repeat([0, 1, 2], sizes)
        values = rng.normal(size=(len(classes), 1, 8)) * (1 + classes[:, None, None])
        got = score(moments_of(values, classes, LABELS), "welch_t")
        for label in range(3):
            mine = classes == label
            expected = stats.ttest_ind(values[mine], values[~mine], equal_var=False)
            assert expected.df.min() >= 1
            np.testing.assert_allclose(got.p[label], expected.pvalue, rtol=1e-9)

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


class TestEdges:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_unit_that_never_varies_gets_zero(self, words, method: str) -> None:
        classes = words[1]
        constants = np.broadcast_to([0.0, 1.0, 0.3, 1000.1, -7.77], (3000, 4, 5))
        moments = moments_of(constants, classes, LABELS)
        # what the moments of a constant are: its value, and no deviations
        moments.mean[:], moments.m2[:] = constants[0], 0
        got = score(moments, method)
        np.testing.assert_array_equal(got.values, 0)
        np.testing.assert_array_equal(got.effect, 0)
        assert got.p is None or (got.p == 1).all()
        np.testing.assert_array_equal(moments.units().eta_squared, 0)

    def test_a_unit_that_only_tells_the_label_has_no_effect_size(self) -> None:
        """There are no sd to count in: documented, and the correlation still shows it."""
        classes = np.array([0, 0, 1, 1, 1])
        moments = moments_of(classes[:, None, None].astype(float), classes, ("A", "B"))
        assert score(moments, "cohens_d").values.ravel().tolist() == [0, 0]
        assert score(moments, "welch_t").p.ravel().tolist() == [1, 1]
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


class TestErrors:
    def test_unknown_score(self, moments: Moments) -> None:
        with pytest.raises(
            ScoreError, match="unknown score 'auc': expected one of correlation, co"
        ):
            score(moments, "auc")

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_words(self, moments: Moments, n: int) -> None:
        few = replace(moments, count=np.array([5.0, n, 5.0]))
        message = f"fewer than 2 words cannot be scored: 'VERB' has {n}; use a larger treebank"
        with pytest.raises(ScoreError, match=message):
            score(few)

    def test_a_single_label(self) -> None:
        moments = moments_of(np.ones((3, 1, 1)), np.zeros(3, np.int64), ("A",))
        with pytest.raises(ScoreError, match="only the label 'A' is there"):
            score(moments)

    def test_scores_of_an_unknown_label(self, moments: Moments) -> None:
        with pytest.raises(ScoreError, match="no scores of 'X': there are NOUN, VERB, ADJ"):
            score(moments)["X"]


class TestResult:
    def test_it_knows_what_it_is_of(self, moments: Moments) -> None:
        got = score(moments)
        assert (got.method, got.labels, got.origin) == ("correlation", LABELS, ORIGIN)
        np.testing.assert_array_equal(got.count, moments.count)
        np.testing.assert_array_equal(got.units.mean_abs, moments.mean_abs)
        text = repr(got)
        assert "correlation" in text
        assert "a-model on a-bank" in text
        assert f"VERB {np.abs(got['VERB']).max():.3f}" in text

    def test_a_frame_has_a_row_per_label_and_unit(self, moments: Moments) -> None:
        got = score(moments, "welch_t")
        frame = got.to_frame()
        assert list(frame.columns) == ["label", "layer", "index", "score", "cohens_d", "p"]
        assert len(frame) == 3 * 4 * 30
        for row in frame.sample(20, random_state=0).itertuples():
            at = LABELS.index(row.label), row.layer, row[3]
            assert (row.score, row.cohens_d, row.p) == (got.values[at], got.effect[at], got.p[at])

    def test_a_frame_of_the_top_is_in_order_of_size(self, moments: Moments) -> None:
        frame = score(moments).to_frame(top=7)
        assert "p" not in frame
        for label, rows in frame.groupby("label"):
            expected = np.sort(np.abs(score(moments)[str(label)]).ravel())[::-1][:7]
            np.testing.assert_array_equal(np.abs(rows.score), expected)
        first = frame[frame.label == "VERB"].iloc[0]
        assert (first.layer, first["index"]) == PLANTED
        assert "VERB" in score(moments)._repr_html_()
