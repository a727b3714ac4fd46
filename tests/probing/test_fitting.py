"""The quick fit is scikit-learn's logistic regression on standardised features."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from grammar_lens.errors import GrammarLensError
from grammar_lens.probing import logistic
from grammar_lens.probing.fitting import (
    Fitter,
    Probe,
    accuracy,
    fit,
    fit_each,
    fit_svm,
    predict,
    scale,
    standardise,
)
from grammar_lens.probing.logistic import minimise


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


def objective(probe: Probe, features: np.ndarray, classes: np.ndarray) -> float:
    """Mean log loss plus |weight|^2 / (2 n) in float64; of two labels the difference is penalised."""
    logits = features.astype(float) @ probe.weight.T.astype(float) + probe.bias
    loss = special.logsumexp(logits, axis=1) - logits[np.arange(len(classes)), classes]
    difference = np.diff(probe.weight.astype(float), axis=0)
    weight = difference if len(probe.weight) == 2 else probe.weight.astype(float)
    return loss.mean() + (weight**2).sum() / (2 * len(classes))


class TestStandardise:
    def test_it_is_scikit_learns(self) -> None:
        train, fresh = data(1, 500)[0], data(2, 100)[0]
        scaler = StandardScaler().fit(train.astype(float))
        got = standardise(train, fresh)
        assert got.train.dtype == np.float32
        np.testing.assert_allclose(got.train, np.asarray(scaler.transform(train)), atol=1e-5)
        np.testing.assert_allclose(got.fresh, np.asarray(scaler.transform(fresh)), atol=1e-5)

    def test_more_units_than_are_done_at_a_time(self) -> None:
        train = np.random.default_rng(0).normal(size=(50, 700)) * np.arange(1, 701)
        got = standardise(train, train[:5])
        np.testing.assert_allclose(got.train.std(0), 1, rtol=1e-5)
        np.testing.assert_array_equal(got.fresh, got.train[:5])

    @pytest.mark.parametrize("constant", [0.0, 0.1, -7e4])
    def test_a_constant_unit_is_zero_also_where_fresh_words_vary(self, constant: float) -> None:
        train = np.full((9, 2), constant, np.float32)
        train[:, 1] = np.arange(9)
        fresh = np.arange(8, dtype=np.float32).reshape(4, 2)
        got = standardise(train, fresh)
        np.testing.assert_array_equal(got.train[:, 0], 0)
        np.testing.assert_array_equal(got.fresh[:, 0], 0)
        assert got.train[:, 1].std() == pytest.approx(1)

    def test_a_mean_of_a_thousand_sd_is_no_harm(self) -> None:
        """float32 keeps 4 digits of such an sd; sums in float32 would not keep one."""
        rng = np.random.default_rng(3)
        train = (rng.normal(size=(20_000, 3)) + 1000).astype(np.float32)
        got = standardise(train, train[:1])
        np.testing.assert_allclose(got.train.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(got.train.std(0), 1, rtol=1e-4)

    def test_units_are_taken_in_the_order_given(self) -> None:
        both = scale(data(1, 50)[0], data(2, 20)[0])
        got, expected = both.units(np.array([5, 2])), standardise(both.train, both.fresh)
        np.testing.assert_array_equal(got.train, expected.train[:, [5, 2]])
        np.testing.assert_array_equal(got.fresh, expected.fresh[:, [5, 2]])

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
        monkeypatch.setattr(logistic, "TOLERANCE", 1e-9)
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

    @pytest.mark.parametrize("n_labels", [2, 4])
    @pytest.mark.parametrize(("n", "n_units"), [(3000, 30), (150, 300), (1500, 200)])
    def test_the_minimum_is_scikit_learns(self, n_labels: int, n: int, n_units: int) -> None:
        """To 1e-4 of the objective, also with a few activations of many sd and all but separable."""
        train, classes = data(1, n, n_labels, n_units)
        train[::97] *= 20
        x = standardise(train, train[:1]).train
        best: Any = LogisticRegression(tol=1e-8, max_iter=5000).fit(x.astype(float), classes)
        weight, bias = best.coef_, best.intercept_
        if n_labels == 2:
            weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.array([-bias[0], bias[0]]) / 2
        expected = objective(Probe(weight, bias, best.classes_), x, classes)
        assert objective(fit(x, classes), x, classes) == pytest.approx(expected, rel=1e-4)

    def test_together_is_as_alone(self) -> None:
        """Labelings of other numbers of labels, of which one ends sooner and one has one label."""
        train, classes = data(1, 3000)
        x = standardise(train, train[:1]).train
        labelings = [classes, np.random.default_rng(0).integers(0, 3, 3000), classes * 0 + 2]
        for probe, labels in zip(fit_each(x, labelings), labelings, strict=True):
            alone = fit(x, labels)
            np.testing.assert_array_equal(probe.classes, alone.classes)
            expected = objective(alone, x, np.searchsorted(alone.classes, labels))
            got = objective(probe, x, np.searchsorted(alone.classes, labels))
            assert got == pytest.approx(expected, rel=1e-4, abs=1e-12)

    def test_a_start_saves_steps_and_moves_no_end(self) -> None:
        """Also from a probe that knows fewer classes and a class that no word has."""
        train, classes = data(1, 3000)
        x = standardise(train, train[:1]).train
        probe = fit(x, classes)
        again = fit(x, classes, start=probe)
        expected = objective(probe, x, classes)
        assert objective(again, x, classes) == pytest.approx(expected, rel=1e-4)
        near = np.abs(again.weight - probe.weight).max()
        assert near < 0.02 * np.abs(probe.weight).max()
        other = Probe(probe.weight[:3], probe.bias[:3], np.array([0, 2, 9]))
        assert objective(fit(x, classes, start=other), x, classes) == pytest.approx(
            expected, rel=1e-4
        )

    def test_a_fitter_fits_some_of_the_units(self) -> None:
        train, classes = data(1, 200)
        columns = np.array([4, 0, 6])
        fitter = Fitter(scale(train, train[:5]))
        units, probes = fitter.fit(columns, [classes, classes[::-1]])
        assert (units.train.shape, units.fresh.shape) == ((200, 3), (5, 3))
        want = standardise(train[:, columns], train[:5, columns])
        np.testing.assert_allclose(units.fresh, want.fresh, rtol=1e-5)
        for probe, labels in zip(probes, [classes, classes[::-1]], strict=True):
            np.testing.assert_allclose(
                probe.predict(units.fresh), fit(want.train, labels).predict(want.fresh)
            )

    @pytest.mark.parametrize("n_units", [1, 4, 30])
    def test_accuracies_are_scikit_learns(self, n_units: int) -> None:
        """Within 0.003 on 20,000 held-out words, where one standard error is 0.0034."""
        (train, classes), (fresh, gold) = data(1, 3000), data(2, 20_000)
        expected = reference(train[:, :n_units], classes).score(fresh[:, :n_units], gold)
        got = accuracy(train[:, :n_units], classes, fresh[:, :n_units], gold)
        assert got == pytest.approx(expected, abs=0.003)

    def test_more_units_than_words(self) -> None:
        """Every training word is told, and held-out ones as scikit-learn tells them."""
        (train, classes), (fresh, gold) = data(1, 150, n_units=300), data(2, 4000, n_units=300)
        both = standardise(train, fresh)
        probe = fit(both.train, classes)
        assert (probe.predict(both.train) == classes).all()
        expected = reference(train, classes).score(fresh, gold)
        assert (probe.predict(both.fresh) == gold).mean() == pytest.approx(expected, abs=0.02)

    @pytest.mark.parametrize("worth", [0, 1e9])
    @pytest.mark.parametrize("uncertain", [0.0, 0.2])
    def test_curvature_shapes_the_path_and_not_the_end(self, monkeypatch, worth, uncertain) -> None:
        """Without any Gram matrix, with all words in them, and with few."""
        train, classes = data(1, 3000)
        x, y = torch.from_numpy(standardise(train, train[:1]).train), torch.from_numpy(classes)
        (expected,) = minimise(x, [y])
        monkeypatch.setattr(logistic, "WORTH_EVALUATIONS", worth)
        monkeypatch.setattr(logistic, "WORTH_OPERATIONS", worth)
        monkeypatch.setattr(logistic, "UNCERTAIN", uncertain)
        (got,) = minimise(x, [y])
        assert not torch.equal(got.parameters, expected.parameters), "the path was another"
        assert got.objective == pytest.approx(expected.objective, rel=1e-4)

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
        reference = LinearSVC(dual=False).fit(both.train, classes)  # pyright: ignore
        same = probe.predict(both.fresh) == reference.predict(both.fresh)
        assert same.mean() > 0.99, "they stop at different tolerances"

    def test_classes_keep_their_numbers(self) -> None:
        train, classes = data(1, 300, 2)
        both = standardise(train, train)
        probe = fit_svm(both.train, classes * 3 + 1)
        np.testing.assert_array_equal(np.unique(probe.predict(both.fresh)), [1, 4])

    def test_one_class_and_no_units(self) -> None:
        features = np.ones((5, 3), np.float32)
        assert fit_svm(features, np.full(5, 2)).predict(features).tolist() == [2] * 5
        classes = np.array([0, 1, 1, 1, 0])
        assert fit_svm(features[:, :0], classes).predict(features[:, :0]).tolist() == [1] * 5
