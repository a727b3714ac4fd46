"""Contrasts are regression coefficients, and tell what follows the tag from what follows the word."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import statsmodels.api as sm

from grammar_lens.corpus.origin import Origin
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.contrasts import (
    Adjusted,
    Contrast,
    adjusted,
    holding_constant,
    within_type,
)
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES

LABELS = ("NOUN", "VERB", "ADJ")
ORIGIN = Origin("a-model", "a-bank", "upos", "word", "neuron")
TAG, FORM, FREQUENCY, NOISE = range(4)
"""The four units of `Words`, and what each answers to."""


@dataclass(frozen=True)
class Words:
    """Words of 3 labels whose forms are partly ambiguous, and units that answer to one thing each.

    Forms 0 to 9 are only nouns, 10 to 19 only verbs, 20 to 29 nouns or verbs, 30 and more only
    adjectives. Frequent forms are more often nouns. A tenth is not read.
    """

    classes: np.ndarray
    forms: np.ndarray
    covariates: np.ndarray
    values: np.ndarray

    @property
    def read(self) -> np.ndarray:
        return self.classes >= 0

    def moments(self) -> Moments:
        classes, x = self.classes[self.read], self.values[self.read][:, None]
        count = np.bincount(classes, minlength=3).astype(float)
        mean = np.stack([x[classes == i].mean(0) for i in range(3)])
        m2 = np.stack([((x[classes == i] - mean[i]) ** 2).sum(0) for i in range(3)])
        nothing = np.zeros_like(mean)
        return Moments(LABELS, count, mean, m2, nothing, np.abs(x).mean(0), ORIGIN)

    def sums(self, *contrasts: Contrast) -> np.ndarray:
        return np.stack([np.einsum("cw,wu->cu", c.weight, self.values)[:, None] for c in contrasts])

    def adjusted(self) -> Adjusted:
        within = within_type(self.classes, self.forms, 3)
        guard = holding_constant(self.classes, self.covariates, 3)
        return adjusted(self.moments(), within, guard, self.sums(within, guard))


def words(seed: int = 0, n: int = 4000, mean: float = 0.0) -> Words:
    rng = np.random.default_rng(seed)
    forms = rng.integers(0, 36, n)
    either = np.where(rng.random(n) < (forms - 15) / 20, 0, 1)
    classes = np.select([forms < 10, forms < 20, forms < 30], [0, 1, either], 2)
    frequency = 3.0 * (classes == 0) + rng.normal(size=n)
    place = rng.integers(1, 30, n).astype(float)
    values = mean + rng.normal(size=(n, 4))
    values[:, TAG] += classes == 0
    # the forms that are mostly nouns have larger values, whatever the tag
    values[:, FORM] += np.select(
        [forms < 10, forms < 20, forms < 30], [2.0, -2.0, (forms - 25) / 5]
    )
    values[:, FREQUENCY] += frequency
    classes = np.where(rng.random(n) < 0.1, -1, classes)
    return Words(classes, forms, np.stack([frequency, place]), values)


# Second opinion -------------------------------------------------------------------------------


@pytest.mark.parametrize("label", range(3))
def test_weights_give_the_coefficients_of_a_regression(label: int):
    """Reference: statsmodels OLS, with an indicator of every form, and with the covariates."""
    data = words(1, 600, mean=3.0)
    read = data.read
    has = (data.classes[read] == label).astype(float)
    dummies = np.eye(36)[data.forms[read]]
    covariates = sm.add_constant(data.covariates[:, read].T)
    for contrast, others in (
        (within_type(data.classes, data.forms, 3), dummies),
        (holding_constant(data.classes, data.covariates, 3), covariates),
    ):
        got = contrast.weight[label] @ data.values
        if contrast.information[label] == 0:
            assert label == 2, "adjectives share no form with other labels"
            continue
        for unit in range(4):
            fit = sm.OLS(data.values[read, unit], np.column_stack([has, others])).fit()
            np.testing.assert_allclose(got[unit], fit.params[0], rtol=1e-9, atol=1e-10)
            # the standard error is that of the regression, in its residual sd
            error = np.sqrt(fit.scale / contrast.information[label])
            np.testing.assert_allclose(error, fit.bse[0], rtol=1e-9)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_nothing_held_constant_is_cohens_d(mean: float):
    """Same numerator, and the same pooled standard deviation."""
    data = words(2, mean=mean)
    within = within_type(data.classes, np.zeros_like(data.forms), 3)
    guard = holding_constant(data.classes, np.zeros((0, 4000)), 3)
    found = adjusted(data.moments(), within, guard, data.sums(within, guard))
    d = SCORES["cohens_d"].compute(Evidence(data.moments()))[0]
    assert np.abs(d).max() > 1
    np.testing.assert_allclose(found.guarded, d, rtol=1e-6, atol=1e-9)
    # one form for all words holds nothing constant either
    np.testing.assert_allclose(found.within_type, d, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found.n_forms, 1)
    n = data.moments().count
    np.testing.assert_allclose(found.guarded_error, np.sqrt(1 / n + 1 / (n.sum() - n)), rtol=1e-9)


# What is planted ------------------------------------------------------------------------------


def test_what_follows_the_tag_stays_and_what_follows_the_word_goes():
    data = words(3)
    d = SCORES["cohens_d"].compute(Evidence(data.moments()))[0][:, 0]
    found = data.adjusted()
    within, guarded = found.within_type[:, 0], found.guarded[:, 0]
    error, guarded_error = found.within_type_error[0], found.guarded_error[0]
    assert error < 0.1
    assert guarded_error < 0.1
    # the tag's unit: 1 sd of noise, at any form and frequency
    assert abs(within[0, TAG] - 1) < 4 * error
    assert abs(guarded[0, TAG] - 1) < 4 * guarded_error
    assert d[0, FORM] > 1
    assert abs(within[0, FORM]) < 4 * error
    assert guarded[0, FORM] > 0.5, "at equal frequency the form is still another"
    assert d[0, FREQUENCY] > 1
    assert abs(guarded[0, FREQUENCY]) < 4 * guarded_error
    assert within[0, FREQUENCY] > 1, "frequency is of the token here, not of the form"
    for values, its_error in ((within, error), (guarded, guarded_error)):
        assert abs(values[0, NOISE]) < 4 * its_error


def test_nothing_planted_nothing_stands_out():
    """Twin: on noise alone both contrasts are within what their standard errors say."""
    data = words(4)
    noise = np.random.default_rng(5).normal(size=(4000, 50))
    found = replace(data, values=noise).adjusted()
    for values, error in (
        (found.within_type[:2], found.within_type_error[:2]),
        (found.guarded, found.guarded_error),
    ):
        z = values[:, 0] / error[:, None]
        assert np.abs(z).max() < 4.5  # of 150, 4.5 sd once in 1,000 repetitions
        assert 0.7 < z.std() < 1.3


# Edges ----------------------------------------------------------------------------------------


def test_forms_of_one_label_and_words_that_are_not_read_have_no_weight():
    data = words(6)
    contrast = within_type(data.classes, data.forms, 3)
    ambiguous = (data.forms >= 20) & (data.forms < 30) & data.read
    both = np.isin(data.forms, [f for f in range(20, 30) if _is_both(data, f)])
    np.testing.assert_array_equal(contrast.weight[0] != 0, ambiguous & both)
    np.testing.assert_array_equal(contrast.weight[1] != 0, ambiguous & both)
    assert not contrast.weight[2].any()
    assert contrast.n_words.tolist() == [(ambiguous & both).sum()] * 2 + [0]
    assert contrast.n_forms.tolist() == [len(set(data.forms[ambiguous & both]))] * 2 + [0]
    guard = holding_constant(data.classes, data.covariates, 3)
    assert not guard.weight[:, ~data.read].any()
    np.testing.assert_array_equal(guard.n_forms, 0)


def _is_both(data: Words, form: int) -> bool:
    return len(set(data.classes[(data.forms == form) & data.read])) == 2


def test_weights_add_up_to_nothing_in_every_form():
    """So that neither a unit's mean nor a form's has any part in the difference."""
    data = words(7, 500)
    weight = within_type(data.classes, data.forms, 3).weight
    for form in np.unique(data.forms):
        assert np.abs(weight[:, data.forms == form].sum(1)).max() < 1e-14
    guard = holding_constant(data.classes, data.covariates, 3).weight
    assert np.abs(guard.sum(1)).max() < 1e-14
    # in units of the weights, which are near 1/500, times a covariate of at most 30
    assert np.abs(guard @ data.covariates.T).max() < 1e-13


def test_a_label_without_ambiguous_forms_has_no_contrast():
    found = words(8).adjusted()
    assert np.isnan(found.within_type[2]).all()
    assert np.isnan(found.within_type_error[2])
    assert np.isfinite(found.within_type[:2]).all()
    assert np.isfinite(found.guarded).all()
    assert (found.n_forms == 0).tolist() == [label == "ADJ" for label in LABELS]
    frame = found.to_frame()
    assert frame.label.tolist() == list(LABELS)
    assert frame.ambiguous_forms.tolist() == found.n_forms.tolist()
    assert frame.words.tolist() == found.n_words.tolist()
    assert frame.words[2] == 0
    assert np.isnan(frame.standard_error[2])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])
def test_a_covariate_that_says_nothing_more_changes_nothing(value: float):
    """One that never varies, and one that is another's multiple."""
    data = words(9, 500)
    want = holding_constant(data.classes, data.covariates, 3)
    for more in (np.full(500, value), 3 * data.covariates[0] + value):
        got = holding_constant(data.classes, np.stack([*data.covariates, more]), 3)
        np.testing.assert_allclose(got.weight, want.weight, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(got.information, want.information, rtol=1e-9)
    alone = holding_constant(data.classes, np.full((1, 500), value), 3)
    nothing = holding_constant(data.classes, np.zeros((0, 500)), 3)
    np.testing.assert_allclose(alone.weight, nothing.weight, rtol=1e-9)


def test_a_label_that_a_covariate_decides_has_no_contrast():
    """No word of the label stands at the same frequency as a word of another."""
    data = words(10, 500)
    decides = (data.classes == 1).astype(float)[None]
    guard = holding_constant(data.classes, decides, 3)
    within = within_type(data.classes, data.forms, 3)
    assert guard.information[1] == 0
    found = adjusted(data.moments(), within, guard, data.sums(within, guard))
    assert np.isnan(found.guarded[1]).all()
    assert np.isnan(found.guarded_error[1])
    assert np.isfinite(found.guarded[[0, 2]]).all()


def test_a_unit_that_never_varies_has_no_difference():
    data = words(11, 500)
    # a value whose sums are exact, as the moments of the device are for any that never varies
    constant = replace(data, values=np.full((500, 2), 1000.5))
    found = constant.adjusted()
    np.testing.assert_array_equal(found.guarded, 0)
    np.testing.assert_array_equal(found.within_type[:2], 0)
