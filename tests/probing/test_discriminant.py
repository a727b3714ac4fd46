"""The discriminant is scikit-learn's, on words in sd within classes and with its own shrinkage."""

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from grammar_lens.probing.discriminant import (
    Discriminant,
    discriminant,
    oas_shrinkage,
    within_classes,
)

N_CLASSES, N_UNITS = 4, 12


def data(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Correlated units far from 0, one of them massive, of which some tell the class."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(N_CLASSES, n, p=[0.4, 0.3, 0.2, 0.1])
    mixing = np.random.default_rng(7).normal(size=(N_UNITS, N_UNITS))
    x = rng.normal(size=(n, N_UNITS)) @ mixing
    x[np.arange(n), classes] += 3
    x[:, -1] *= 1000
    return x + 30, classes


def sums(x: np.ndarray, classes: np.ndarray, n_classes: int = N_CLASSES) -> list[torch.Tensor]:
    """Count, mean and squares and products within classes."""
    one_hot = np.eye(n_classes)[classes]
    count = one_hot.sum(0)
    mean = one_hot.T @ x / np.maximum(count, 1)[:, None]
    rest = x - mean[classes]
    return [torch.from_numpy(a) for a in (count, mean, rest.T @ rest)]


def logits(found: Discriminant, x: np.ndarray) -> np.ndarray:
    values = (torch.from_numpy(x) - found.centre) @ found.weight.T + found.bias
    return values.numpy()


def in_sd(x: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words in sd within classes, and their deviations from the class means."""
    _, mean, within = (t.numpy() for t in sums(x, classes))
    sd = np.sqrt(np.diag(within) / len(x))
    return x / sd, (x - mean[classes]) / sd


@pytest.mark.parametrize("n", [30, 400])
def test_the_shrinkage_is_scikit_learns(n: int) -> None:
    x, classes = data(0, n)
    _, deviations = in_sd(x, classes)
    _, expected = oas(deviations, assume_centered=True)
    assert discriminant(*sums(x, classes)).shrinkage == pytest.approx(expected, rel=1e-9)
    assert 0 < expected < 1


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.3, 1.0])
def test_the_posteriors_are_scikit_learns(shrinkage: float | None) -> None:
    (x, classes), (fresh, _) = data(1), data(2)
    found = discriminant(*sums(x, classes), shrinkage=shrinkage)
    scaled, _ = in_sd(x, classes)
    sd = x[0] / scaled[0]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=found.shrinkage)
    theirs.fit(scaled, classes)
    ours = logits(found, fresh)
    expected = theirs.predict_log_proba(fresh / sd)
    ours -= np.logaddexp.reduce(ours, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=1e-7)


def test_a_massive_unit_does_not_set_the_scale() -> None:
    """Units in other measures give the same posteriors, as shrinking the covariance would not."""
    x, classes = data(3)
    measures = np.geomspace(1e-3, 1e3, N_UNITS)
    first, second = (discriminant(*sums(y, classes)) for y in (x, x * measures))
    np.testing.assert_allclose(logits(first, x), logits(second, x * measures), atol=1e-7)


def test_a_constant_unit_counts_nothing() -> None:
    x, classes = data(4)
    with_constant = np.concatenate([x, np.full((len(x), 2), 0.1)], 1)
    with_constant[:, -1] = classes  # varies between classes alone: its correlations are not known
    got = discriminant(*sums(with_constant, classes))
    np.testing.assert_array_equal(got.weight[:, -2:].numpy(), 0)
    np.testing.assert_allclose(
        logits(got, with_constant), logits(discriminant(*sums(x, classes)), x), atol=1e-9
    )


def test_without_a_unit_that_varies_the_prior_decides() -> None:
    classes = np.array([0, 0, 0, 1])
    got = logits(discriminant(*sums(np.ones((4, 2)), classes, 2)), np.ones((1, 2)))
    np.testing.assert_allclose(np.exp(got[0]), [0.75, 0.25])
    assert oas_shrinkage(torch.zeros(0, 0, dtype=torch.float64), 4) == 1.0


def test_a_class_without_words_is_almost_never_told() -> None:
    x, classes = data(5)
    got = logits(discriminant(*sums(x, classes, N_CLASSES + 1)), x)
    assert np.isfinite(got).all()
    known = logits(discriminant(*sums(x, classes)), x)
    np.testing.assert_array_equal(got.argmax(1), known.argmax(1))


def test_a_matrix_that_rounding_made_indefinite_is_mended() -> None:
    """Two units that are one but for float32: an eigenvalue is 0 but for rounding, here below it."""
    x, classes = data(6)
    x = np.concatenate([x, x[:, :1]], 1)
    count, mean, within = sums(x, classes)
    scale = within[0, 0]
    within[0, -1] = within[-1, 0] = scale * (1 + 1e-4)
    got = discriminant(count, mean, within, shrinkage=1e-6)
    right = (logits(got, x).argmax(1) == classes).mean()
    assert right > 0.5 > (classes == 0).mean()


def test_squares_within_other_classes_of_the_same_words() -> None:
    x, classes = data(7)
    others = np.random.default_rng(0).integers(0, 6, len(x))
    count, mean, within = sums(x, classes)
    other_count, other_mean, expected = sums(x, others, 6)
    got = within_classes(within, count, mean, other_count, other_mean)
    size = expected.diagonal().sqrt()
    assert bool(((got - expected).abs() <= 1e-9 * size * size[:, None]).all())
