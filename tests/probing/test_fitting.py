"""The quick fit is scikit-learn's logistic regression on standardised features."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from grammar_lens.errors import GrammarLensError
from grammar_lens.probing import fitting
from grammar_lens.probing.fitting import accuracy, fit, fit_svm, predict, standardise


def data(seed: int, n: int, n_labels: int = 4, n_units: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Correlated units far from 0, of which a third tell the label; the last label is rare."""
    rng = np.random.default_rng(seed)
    share = np.array([0.4, 0.3, 0.25, 0.05][-n_labels:])
    classes = rng.choice(n_labels, n, p=share / share.sum())
    mixing = np.random.default_rng(7).normal(size=(n_units, n_units)) / np.sqrt(n_units)
    features = rng.normal(size=(n, n_units))
    features[np.arange(n), classes * 2] += 1.5
    return (features @ mixing * 4 + 30).astype(np.float32), classes


def reference(features: np.ndarray, classes: np.ndarray):
    return make_pipeline(StandardScaler(), LogisticRegression(tol=1e-6, max_iter=3000)).fit(
        features.astype(float), classes
    )


class TestStandardise:
    def test_it_is_scikit_learns(self) -> None:
        train, fresh = data(1, 500)[0], data(2, 100)[0]
        scaler = StandardScaler().fit(train.astype(float))
        got = standardise(train, fresh)
        assert got.train.dtype == np.float32
        np.testing.assert_allclose(got.train.T, np.asarray(scaler.transform(train)), atol=1e-5)
        np.testing.assert_allclose(got.fresh.T, np.asarray(scaler.transform(fresh)), atol=1e-5)

    def test_more_units_than_are_done_at_a_time(self) -> None:
        train = np.random.default_rng(0).normal(size=(50, 700)) * np.arange(1, 701)
        got = standardise(train, train[:5])
        np.testing.assert_allclose(got.train.std(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(got.fresh, got.train[:, :5])

    @pytest.mark.parametrize("constant", [0.0, 0.1, -7e4])
    def test_a_constant_unit_is_zero_also_where_fresh_words_vary(self, constant: float) -> None:
        train = np.full((9, 2), constant, np.float32)
        train[:, 1] = np.arange(9)
        fresh = np.arange(8, dtype=np.float32).reshape(4, 2)
        got = standardise(train, fresh)
        np.testing.assert_array_equal(got.train[0], 0)
        np.testing.assert_array_equal(got.fresh[0], 0)
        assert got.train[1].std() == pytest.approx(1)

    def test_a_mean_of_a_thousand_sd_is_no_harm(self) -> None:
        """float32 keeps 4 digits of such an sd; sums in float32 would not keep one."""
        rng = np.random.default_rng(3)
        train = (rng.normal(size=(20_000, 3)) + 1000).astype(np.float32)
        got = standardise(train, train[:1])
        np.testing.assert_allclose(got.train.mean(1), 0, atol=1e-4)
        np.testing.assert_allclose(got.train.std(1), 1, rtol=1e-4)

    def test_units_are_taken_in_the_order_given(self) -> None:
        both = standardise(data(1, 50)[0], data(2, 20)[0])
        got = both.units(np.array([5, 2]))
        np.testing.assert_array_equal(got.train, both.train[[5, 2]])
        np.testing.assert_array_equal(got.fresh, both.fresh[[5, 2]])

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
    def test_what_is_not_finite_is_refused(self) -> None:
        train = np.ones((4, 2))
        train[1, 1] = np.inf
        with pytest.raises(
            GrammarLensError, match="not finite: collect them in float32 or bfloat16"
        ):
            standardise(train, train)


class TestFit:
    @pytest.mark.parametrize("n_labels", [2, 3, 4])
    def test_pushed_to_the_end_the_weights_are_scikit_learns(self, monkeypatch, n_labels) -> None:
        """Of two labels scikit-learn fits one difference; of more, weights up to their mean."""
        monkeypatch.setattr(fitting, "LEAST_DECREASE", 1e-7)
        features, classes = data(1, 2000, n_labels)
        probe = fit(standardise(features, features[:1]).train, classes)
        expected: Any = reference(features, classes)[-1]
        ours, bias = probe.weight - probe.weight.mean(0), probe.bias - probe.bias.mean()
        weight, intercept = expected.coef_, expected.intercept_
        if n_labels == 2:
            ours, bias = np.diff(probe.weight, axis=0), np.diff(probe.bias)
        scale = np.abs(weight).max()
        np.testing.assert_allclose(
            ours, weight - (n_labels > 2) * weight.mean(0), atol=0.01 * scale
        )
        np.testing.assert_allclose(
            bias, intercept - (n_labels > 2) * intercept.mean(), atol=0.02 * scale
        )

    @pytest.mark.parametrize("n_units", [1, 4, 30])
    def test_accuracies_are_scikit_learns(self, n_units: int) -> None:
        """Within 0.003 on 20,000 fresh words, where one standard error is 0.0034."""
        (train, classes), (fresh, gold) = data(1, 3000), data(2, 20_000)
        expected = reference(train[:, :n_units], classes).score(fresh[:, :n_units], gold)
        got = accuracy(train[:, :n_units], classes, fresh[:, :n_units], gold)
        assert got == pytest.approx(expected, abs=0.003)

    def test_more_units_than_words(self) -> None:
        """Every training word is told, and fresh ones as scikit-learn tells them."""
        (train, classes), (fresh, gold) = data(1, 150, n_units=300), data(2, 4000, n_units=300)
        both = standardise(train, fresh)
        probe = fit(both.train, classes)
        assert (probe.predict(both.train) == classes).all()
        expected = reference(train, classes).score(fresh, gold)
        assert (probe.predict(both.fresh) == gold).mean() == pytest.approx(expected, abs=0.02)

    def test_correlations_shape_the_path_and_not_the_end(self, monkeypatch) -> None:
        (train, classes), (fresh, _) = data(1, 3000), data(2, 3000)
        first = predict(train, classes, fresh)
        monkeypatch.setattr(fitting, "DECORRELATED_UNITS", 10)
        assert (predict(train, classes, fresh) == first).mean() > 0.98

    def test_repeated_and_constant_units_are_no_harm(self) -> None:
        (train, classes), (fresh, gold) = data(1, 2000), data(2, 4000)
        more = [np.concatenate([x, x[:, :5], x[:, :1] * 0 + 3], 1) for x in (train, fresh)]
        expected = reference(more[0], classes).score(more[1], gold)
        assert accuracy(more[0], classes, more[1], gold) == pytest.approx(expected, abs=0.004)

    def test_probabilities_are_scikit_learns(self) -> None:
        (train, classes), (fresh, _) = data(1, 2000), data(2, 500)
        both = standardise(train, fresh)
        got = fit(both.train, classes).log_probability(both.fresh)
        np.testing.assert_allclose(np.exp(got).sum(0), 1, rtol=1e-5)
        expected = reference(train, classes).predict_proba(fresh.astype(float)).T
        assert np.abs(np.exp(got) - expected).mean() < 0.01

    def test_only_labels_that_occur_are_answered(self) -> None:
        train, classes = data(1, 400)
        answered = predict(train, classes * 10 + 3, train)
        assert set(answered.tolist()) == {3, 13, 23, 33}
        np.testing.assert_array_equal(answered, predict(train, classes, train) * 10 + 3)

    def test_one_label_is_the_answer(self) -> None:
        train, fresh = data(1, 40)[0], data(2, 7)[0]
        np.testing.assert_array_equal(predict(train, np.full(40, 6), fresh), 6)

    def test_without_units_the_majority_is_the_answer(self) -> None:
        train, classes = data(1, 400)
        got = predict(train[:, :0], classes, train[:, :0])
        np.testing.assert_array_equal(got, np.bincount(classes).argmax())


class TestSupportVectorMachine:
    @pytest.mark.parametrize("n_labels", [2, 4])
    def test_its_answers_are_scikit_learns(self, n_labels: int) -> None:
        (train, classes), (fresh, _) = data(1, 800, n_labels), data(2, 400, n_labels)
        both = standardise(train, fresh)
        probe = fit_svm(both.train, classes)
        assert probe.weight.shape == (n_labels, 30)
        reference = LinearSVC(dual=False).fit(both.train.T, classes)  # pyright: ignore
        same = probe.predict(both.fresh) == reference.predict(both.fresh.T)
        assert same.mean() > 0.99, "they stop at different tolerances"

    def test_classes_keep_their_numbers(self) -> None:
        train, classes = data(1, 300, 2)
        both = standardise(train, train)
        probe = fit_svm(both.train, classes * 3 + 1)
        np.testing.assert_array_equal(np.unique(probe.predict(both.fresh)), [1, 4])

    def test_one_class_and_no_units(self) -> None:
        features = np.ones((3, 5), np.float32)
        assert fit_svm(features, np.full(5, 2)).predict(features).tolist() == [2] * 5
        classes = np.array([0, 1, 1, 1, 0])
        assert fit_svm(features[:0], classes).predict(features[:0]).tolist() == [1] * 5
