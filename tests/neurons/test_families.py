"""Families of models: planted relations are recognised, and what two runs share is counted."""

from dataclasses import replace

import numpy as np
import pytest
from made_keys import keys_of, scores_of
from scipy import stats

from grammar_lens.neurons import families
from grammar_lens.neurons.choice_agreement import Choice
from grammar_lens.neurons.families import relation, shared_neurons
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.passes.moments import UnitStatistics

SHAPE = (4, 50)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """As scipy has it."""
    return float(np.asarray(stats.spearmanr(first.ravel(), second.ravel()))[0])


def with_units(mean_abs: np.ndarray) -> KeyNeurons:
    keys = replace(keys_of({"A": {(0, 1)}}), n_layers=mean_abs.shape[0], n_units=mean_abs.shape[1])
    return replace(keys, units=UnitStatistics(mean_abs, mean_abs, np.zeros_like(mean_abs)))


def related(first: np.ndarray, second: np.ndarray, **known: bool) -> families.Relation:
    options = {"same_weights": False, "same_name": False, **known}
    return relation(with_units(first), with_units(second), **options)


def test_a_tuned_copy_is_related_and_another_model_or_order_is_not() -> None:
    rng = np.random.default_rng(0)
    base, other = rng.lognormal(size=SHAPE), rng.lognormal(size=SHAPE)
    tuned = related(base, 2 * base * rng.lognormal(0, 0.1, SHAPE))
    assert (tuned.reason, tuned.is_family) == (families.MEASURED, True)
    assert tuned.correlation > 0.9
    assert tuned.p_value < 1e-30
    for unrelated in (other, base[:, rng.permutation(SHAPE[1])]):
        found = related(base, unrelated)
        assert (found.reason, found.is_family) == (families.APART, False)
        assert abs(found.correlation) < 0.2


def test_the_correlation_is_within_layers() -> None:
    """Layers of other sizes of activation alone would correlate over the whole model."""
    rng = np.random.default_rng(1)
    scale = np.array([1.0, 10.0, 100.0, 1000.0])[:, None]
    first, second = (scale * rng.lognormal(0, 0.1, SHAPE) for _ in range(2))
    assert spearman(first, second) > 0.8
    found = related(first, second)
    by_layer = [spearman(a, b) for a, b in zip(first, second, strict=True)]
    assert found.correlation == pytest.approx(np.mean(by_layer), rel=1e-12)
    assert not found.is_family


def test_p_is_uniform_for_models_without_relation() -> None:
    rng = np.random.default_rng(2)
    p = np.array([related(*rng.lognormal(size=(2, 3, 30))).p_value for _ in range(1000)])
    # four standard errors of a share of .05 in 1,000 are .028
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.028)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_weights_and_names_count_without_a_correlation() -> None:
    rng = np.random.default_rng(3)
    pair = rng.lognormal(size=(2, *SHAPE))
    assert related(*pair, same_weights=True).reason == families.EQUAL
    assert related(*pair, same_name=True).reason == families.SAME_NAME
    assert related(*pair, same_name=True).correlation == related(*pair).correlation
    without = replace(with_units(pair[0]), units=None)
    known = relation(without, with_units(pair[1]), same_weights=False, same_name=True)
    assert known.is_family
    assert np.isnan(known.correlation)


def test_models_of_other_sizes_are_no_family_whatever_their_name() -> None:
    found = related(np.ones((4, 50)), np.ones((5, 50)), same_name=True)
    assert (found.reason, found.is_family) == (families.OTHER_SIZES, False)


def test_units_that_never_vary_are_no_relation() -> None:
    found = related(np.ones(SHAPE), np.ones(SHAPE))
    assert (found.correlation, found.reason) == (0, families.APART)


def test_shared_neurons_are_those_planted() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(3, 3, 6))
    changed = values + rng.normal(size=values.shape)
    changed[2] = 1  # says nothing of C
    first = keys_of({"A": {(0, 0), (0, 1), (1, 2)}, "B": {(2, 3)}, "C": set()})
    second = keys_of({"C": {(0, 0)}, "A": {(0, 1), (1, 2), (2, 0), (2, 1)}, "B": {(2, 4)}})
    table = shared_neurons(Choice(scores_of(values), first), Choice(scores_of(changed), second))
    assert list(table.index) == ["A", "B", "C"]
    assert table["shared"].tolist() == [2, 0, 0]
    assert table["n_first"].tolist() == [3, 1, 0]
    assert table["n_second"].tolist() == [4, 1, 1]
    # 2 of 6 with 1 of 6 in layer 0, 1 with 1 in layer 1; layer 2 is empty in the first
    assert table["expected"].tolist() == pytest.approx([2 / 6 + 1 / 6, 1 / 6, 0])
    by_scipy = [spearman(values[i], changed[i]) for i in range(2)]
    assert table["rank_correlation"].tolist()[:2] == pytest.approx(by_scipy, rel=1e-12)
    assert np.isnan(table.loc["C", "rank_correlation"])  # pyright: ignore[reportArgumentType]


def test_scores_of_two_methods_are_not_correlated() -> None:
    values = np.random.default_rng(5).normal(size=(1, 3, 6))
    keys = keys_of({"A": {(0, 0)}})
    other = replace(scores_of(values), method="probeless")
    table = shared_neurons(Choice(scores_of(values), keys), Choice(other, keys))
    assert table["shared"].tolist() == [1]
    assert table["rank_correlation"].isna().all()
