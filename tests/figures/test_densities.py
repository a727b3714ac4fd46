"""Densities of a neuron's activation: what is drawn equals a second opinion, and hostile names are text."""

import numpy as np
import pytest
from made_figures import HOSTILE, PLAIN_HOSTILE
from scipy.stats import gaussian_kde
from traces import layout_of, traces_by_name, traces_of

from grammar_lens.corpus.origin import Origin
from grammar_lens.figures.densities import activation_density, kernel_density
from grammar_lens.neurons.word_activations import WordActivations


def made_words(*values: np.ndarray, labels: tuple[str, ...]) -> WordActivations:
    return WordActivations(
        layer=1,
        index=2,
        labels=labels,
        classes=np.repeat(np.arange(len(values)), [len(v) for v in values]),
        values=np.concatenate(values).astype(np.float32),
        origin=Origin("model", "bank", "upos", "next", "neuron"),
    )


def test_a_kernel_density_is_scipy_s() -> None:
    values, grid = np.random.default_rng(0).normal(3, 2, 400), np.linspace(-5, 11, 101)
    first, third = np.quantile(values, [0.25, 0.75])
    sd = values.std(ddof=1)
    width = 0.5 * min(sd, (third - first) / 1.34) * 400**-0.2
    expected = gaussian_kde(values, bw_method=width / sd)(grid)
    np.testing.assert_allclose(kernel_density(values, grid), expected, rtol=1e-9)


def test_values_that_are_all_the_same_have_a_narrow_peak() -> None:
    grid = np.linspace(-1, 1, 201)
    density = kernel_density(np.zeros(50), grid)
    assert grid[density.argmax()] == pytest.approx(0, abs=1e-12)
    assert density.sum() * 0.01 == pytest.approx(1, rel=1e-6)


def test_a_curve_for_each_label_with_enough_words_highest_median_first() -> None:
    rng = np.random.default_rng(1)
    low, high, few = rng.normal(-2, 1, 200), rng.normal(4, 1, 100), rng.normal(0, 1, 9)
    words = made_words(low, few, high, labels=("LOW", "FEW", HOSTILE))
    figure = activation_density(words, HOSTILE)
    assert list(layout_of(figure).yaxis.ticktext) == [PLAIN_HOSTILE, "LOW"]
    curves = traces_by_name(figure)
    peak = curves["LOW"].x[np.argmin(curves["LOW"].y)]
    assert peak == pytest.approx(-2, abs=0.5)  # the mode of 200 words, half of Scott's bandwidth
    assert curves[PLAIN_HOSTILE].line.color != curves["LOW"].line.color
    median = next(t for t in traces_of(figure) if t.name == "median")
    assert median.x[0] == pytest.approx(float(np.median(words.values[words.classes == 2])))


def test_a_few_far_words_do_not_stretch_the_axis() -> None:
    values = np.concatenate([np.random.default_rng(2).normal(0, 1, 2000), [500.0]])
    low, high = layout_of(activation_density(made_words(values, labels=("X",)))).xaxis.range
    assert -5 < low < 0
    assert 0 < high < 5
