"""Agreement between two sets of words: what is planted in both is found, what place alone gives is not."""

from dataclasses import replace

import numpy as np
import pytest
from made_keys import keys_of, scores_of
from made_scores import ORIGIN, moments_of

from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.choice_agreement import (
    Choice,
    agreement,
    agreement_table,
    choices,
    cross_overlap,
    score_correlation,
)
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.permutation_null import Replicates
from grammar_lens.selectivity.scoring import score

TAGS = ("NOUN", "VERB")
N_LAYERS, N_UNITS, N_WORDS = 2, 60, 600


def language(seed: int, planted: dict[str, np.ndarray], place: float = 0.0) -> Evidence:
    """Words of two tags; the planted neurons (flat numbers) rise with their tag, twenty with place.

    NOUN stands early in its sentence and VERB late, in exchanged labels too.
    """
    rng = np.random.default_rng(seed)
    early = np.arange(N_WORDS) % 2 == 0
    p_noun = np.where(early, 0.9, 0.1) if place else np.full(N_WORDS, 0.5)
    values = rng.normal(size=(N_WORDS, N_LAYERS * N_UNITS))
    values[:, :20] += place * early[:, None]
    classes = (rng.random(N_WORDS) > p_noun).astype(int)
    for tag, neurons in planted.items():
        values[:, neurons] += 1.5 * (classes == TAGS.index(tag))[:, None]
    values = values.reshape(N_WORDS, N_LAYERS, N_UNITS)
    whole = moments_of(values, classes, TAGS)
    order = rng.permutation(N_WORDS)
    halves = tuple(moments_of(values[order[i::2]], classes[order[i::2]], TAGS) for i in (0, 1))
    means = []
    for _ in range(30):
        drawn = (rng.random(N_WORDS) > p_noun).astype(int)
        means.append([values[drawn == c].mean(0) for c in (0, 1)])
    replicates = Replicates(whole, np.array(means, np.float32), 0, 0)
    null = replicates.null("correlation", lambda m: score(m, "correlation").values, two_sided=True)
    return Evidence(whole, halves=(halves[0], halves[1]), nulls={"correlation": null})


def test_neurons_planted_in_both_are_shared() -> None:
    both = {"NOUN": np.arange(40, 50)}
    table = agreement_table(*(choices(language(seed, both), "correlation", 10) for seed in (1, 2)))
    noun = table.loc["NOUN"]
    assert noun.shared == 10
    assert noun.p_value < 1e-6
    assert noun.half_coefficient == noun.ceiling_coefficient == 1
    assert noun.half_correlation > 0.8
    assert noun.sham_coefficient < 0.3
    assert abs(noun.sham_correlation) < 0.15


def test_neurons_planted_in_one_each_are_not() -> None:
    one = choices(language(1, {"NOUN": np.arange(40, 50)}), "correlation", 10)
    other = choices(language(2, {"NOUN": np.arange(60, 70)}), "correlation", 10)
    noun = agreement_table(one, other).loc["NOUN"]
    assert noun.shared == 0
    assert noun.ceiling_coefficient == 1, "each half finds its own"
    assert noun.half_correlation < 0.2


def test_place_in_the_sentence_is_no_agreement() -> None:
    one, other = (language(seed, {}, place=2.0) for seed in (1, 2))
    plain = score_correlation(*(choices(e, "correlation", 20).scores for e in (one, other)))
    assert plain.min() > 0.9, "the scores themselves are alike"
    table = agreement_table(*(choices(e, "correlation", 20) for e in (one, other)))
    assert (table.correlation.abs() < 0.35).all()
    assert (table.half_correlation.abs() < 0.35).all()


def test_agreement_by_hand() -> None:
    first = keys_of({"A": {(0, 0), (0, 1), (1, 2)}, "B": {(2, 3)}})
    second = keys_of({"A": {(0, 0), (1, 2), (1, 3), (2, 5)}, "B": {(2, 4)}})
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 6))
    a, b = (scores_of(v) for v in values)
    table = agreement(Choice(a, first), Choice(b, second))
    assert table.shared.tolist() == [2, 0]
    assert table.jaccard.tolist() == [2 / 5, 0]
    assert table.coefficient.tolist() == [2 / 3, 0]
    # layer 0: 2 x 1 of 6, layer 1: 1 x 2, over the smaller set of 3
    assert table.expected_coefficient["A"] == pytest.approx((2 / 6 + 2 / 6) / 3)
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(*values, strict=True)]
    np.testing.assert_allclose(table.correlation, expected, rtol=1e-12)


def test_cross_overlap_by_hand() -> None:
    first = keys_of({"A": {(0, 0), (0, 1)}, "B": {(2, 3)}})
    second = keys_of({"A": {(0, 0), (2, 3), (1, 1)}, "B": set()})
    found = cross_overlap(first, second)
    np.testing.assert_array_equal(found, [[1 / 2, np.nan], [1, np.nan]])


def test_a_constant_score_has_no_correlation() -> None:
    scores = scores_of(np.ones((2, 3, 6)))
    assert score_correlation(scores, scores).tolist() == [0, 0]


def test_scores_that_cannot_be_compared() -> None:
    one, other = (scores_of(np.zeros((2, 3, n))) for n in (6, 7))
    with pytest.raises(GrammarLensError, match="differ in labels, units or method"):
        score_correlation(one, other)
    with pytest.raises(GrammarLensError, match="differ in labels, units or method"):
        score_correlation(one, replace(one, method="auroc"))


def test_choices_need_halves_and_a_null() -> None:
    evidence = language(1, {})
    with pytest.raises(GrammarLensError, match="some labels have too few words in a half"):
        choices(replace(evidence, halves=None), "correlation", 5)
    with pytest.raises(GrammarLensError, match=r"'cohens_d'.*20"):
        choices(evidence, "cohens_d", 5)
    assert evidence.moments.origin == ORIGIN
