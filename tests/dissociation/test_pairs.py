"""Crossed pairs: planted ones are found, larger damage that falls at random is not one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from made_batteries import (
    LABELS,
    battery,
    idiosyncratic,
    keys_of,
    planted,
    sham_conditions,
    statistics,
    study_of,
)
from scipy import stats
from typed import neurons_of, present

from grammar_lens.dissociation.pairs import patterned
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.lesions.outcomes import Outcomes


class TestCrossedPairs:
    def test_the_planted_pair_is_found_and_no_other(self, study: LesionStudy) -> None:
        (pair,) = study.crossed_pairs
        assert (pair.first, pair.second) == ("NOUN", "VERB")
        assert pair.p < 1e-3
        assert pair.margin > pair.threshold
        assert pair.confirmed

    def test_its_margin_and_threshold_by_hand(self, study: LesionStudy) -> None:
        def lead(matrix: np.ndarray, row: int, label: int) -> float:
            share = np.zeros((6, 6))
            for i in range(6):
                for j in range(6):
                    share[i, j] = matrix[i, j] / sum(abs(matrix[i]))
            for j in range(6):
                share[:, j] -= sum(share[:, j]) / 6
            return share[row, label] - max(share[row, j] for j in range(6) if j != label)

        (pair,) = study.crossed_pairs
        mine = [lead(study.matrix, 0, 0), lead(study.matrix, 1, 1)]
        assert pair.margin == pytest.approx(min(mine))
        every = [lead(m, i, j) for m in study.sham for i in range(6) for j in range(6)]
        # of 1,440 tries .2/6 may lead as far: (1 + 47) / 1441 < .0333 < (1 + 48) / 1441
        assert pair.threshold == pytest.approx(sorted(every)[-48])

    @pytest.mark.parametrize("n_shams", [1, 10, 18])
    def test_too_few_shams_cannot_show_a_pair(self, n_shams: int) -> None:
        """As for p: fewer than 19 replicates never reach 5 %."""
        assert study_of(battery(planted(n_shams=n_shams), LABELS), LABELS).crossed_pairs == ()

    def test_nineteen_shams_can(self) -> None:
        damage = planted(n_shams=19)
        damage[0, [0, 1], [0, 1]] += 1
        (pair,) = study_of(battery(damage, LABELS), LABELS).crossed_pairs
        assert (pair.first, pair.second) == ("NOUN", "VERB")

    def test_the_reverse_pattern_is_no_dissociation(self) -> None:
        """Each lesion spares its own label and harms the other."""
        damage = idiosyncratic(np.random.default_rng(0), 41)
        damage[0, 0, 1] += 1
        damage[0, 1, 0] += 1
        assert study_of(battery(damage, LABELS), LABELS).crossed_pairs == ()

    def test_a_single_dissociation_is_not_crossed(self) -> None:
        """Both lesions harm nouns, the second a little more than verbs."""
        damage = idiosyncratic(np.random.default_rng(0), 41)
        damage[0, 0, 0] += 1
        damage[0, 1, :2] += 1
        pairs = {
            (p.first, p.second) for p in study_of(battery(damage, LABELS), LABELS).crossed_pairs
        }
        assert ("NOUN", "VERB") not in pairs

    def test_what_the_shams_do_as_well_is_subtracted(self) -> None:
        """Every lesion, sham or real, harms its own label: nothing is special in the real ones."""
        damage = planted()
        damage[1:] += damage[0]
        assert study_of(battery(damage, LABELS), LABELS).crossed_pairs == ()

    def test_p_is_that_of_a_z_test_over_sentences(self) -> None:
        """One word of a label per sentence: the standard error of a difference is sqrt(2/n) sd."""
        n = 100
        damage = np.zeros((40, 6, 6))
        damage[0, [0, 1], [0, 1]] = 0.35
        damage[1:, :, 0] = 0.2  # harm to nouns by any lesion: subtracted before the test
        outcomes = battery(damage, LABELS, n_sentences=n)
        got = study_of(outcomes, LABELS, n_bootstrap=2000)
        (pair,) = got.crossed_pairs
        change = outcomes.tag_loss[1:] - outcomes.tag_loss[0]
        shams = change[6:].reshape(39, 6, -1).mean(0)
        cell = {
            (i, j): (change[i] - shams[i])[outcomes.label == outcomes.labels.index(LABELS[j])]
            for i in (0, 1)
            for j in (0, 1)
        }
        z = [
            (cell[i, i] - cell[at]).mean() / (cell[i, i] - cell[at]).std() * math.sqrt(n)
            for i in (0, 1)
            for at in ((0, 1), (1, 0))
        ]
        # Holm takes the smallest p times the 15 pairs; a bootstrap of 2,000 gives an SE to 2 %
        assert stats.norm.isf(pair.p / 15) == pytest.approx(min(z), rel=0.06)

    def test_words_of_one_sentence_are_not_independent(self, outcomes: Outcomes) -> None:
        """Every word twice in its sentence is no more evidence than once."""
        twice = np.repeat(np.arange(len(outcomes.word)), 2)
        doubled = replace(
            outcomes,
            word=np.arange(len(twice)),
            **{name: getattr(outcomes, name)[twice] for name in ("sentence", "label", "shared")},
            **{
                name: getattr(outcomes, name)[:, twice]
                for name in ("nll", "tag_loss", "lexical_loss", "top_label", "tag_probability")
            },
        )
        (once,) = study_of(outcomes, LABELS).crossed_pairs
        (again,) = study_of(doubled, LABELS).crossed_pairs
        assert stats.norm.isf(again.p) == pytest.approx(stats.norm.isf(once.p), rel=1e-6)

    def test_a_shift_of_bias_is_not_confirmed(self, outcomes: Outcomes) -> None:
        """The loss says the same, but P(noun) falls wherever nouns are cut, so ranks stay."""
        logits = np.log(outcomes.tag_probability[0].astype(float))
        shifted = [logits]
        for label in LABELS:
            lower = np.where(np.arange(7) == outcomes.labels.index(label), 2.0, 0.0)
            shifted.append(logits - lower)
        # without renormalising, which alone would move ranks a little
        biased = replace(outcomes, tag_probability=np.exp(shifted).astype(np.float32))
        got = study_of(biased, LABELS)
        (pair,) = got.crossed_pairs
        assert not pair.confirmed
        assert "1 of 15 pairs of tags dissociates doubly, 0 of them also by AUROC" in got.verdict()
        np.testing.assert_allclose(got.auroc_fall, 0, atol=1e-9)
        assert (np.diag(got.bias) < 0).all(), "and the bias gives it away"


def random_damage(rng: np.random.Generator, kind: str, n: int, n_labels: int) -> np.ndarray:
    """`n` matrices of sets that know nothing of their label."""
    shape = (n, n_labels, n_labels)
    severity = rng.gamma(3.0, size=(n, n_labels, 1)) / 30
    noise = rng.normal(size=shape) * 0.005
    if kind == "noise":
        return noise
    if kind == "normal":
        return severity * (1 + rng.normal(size=shape)) + noise
    if kind == "heavy":
        return severity * np.abs(rng.standard_t(2, size=shape)) + noise
    if kind == "one label":
        hit = rng.integers(0, n_labels, (n, n_labels, 1)) == np.arange(n_labels)
        return severity * (0.2 + 3 * hit * rng.gamma(1.0, size=(n, n_labels, 1))) + 2 * noise
    fragile = np.exp(rng.normal(size=n_labels))
    return severity * fragile * (1 + rng.normal(size=shape) / 2) + noise


NULLS = [
    ("noise", 1),
    *((k, x) for k in ("normal", "heavy", "one label", "column") for x in (3, 10)),
]


def false_pairs(kind: str, factor: float, n_labels: int, n_shams: int, n_studies: int) -> int:
    """Studies with any pair, where the real sets are drawn as shams and damage `factor` times more."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(n_studies):
        damage = random_damage(rng, kind, n_shams + 1, n_labels)
        passes, _, _ = patterned(factor * damage[0], damage[1:])
        found += int(passes.any())
    return found


def power(kind: str, gain: float, n_labels: int, n_shams: int, n_studies: int) -> float:
    """Mean share of all pairs found when every lesion costs its own label `gain` nats more."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(n_studies):
        damage = random_damage(rng, kind, n_shams + 1, n_labels)
        damage[0] += gain * np.eye(n_labels)
        passes, _, _ = patterned(damage[0], damage[1:])
        shares.append(passes[np.triu_indices(n_labels, 1)].mean())
    return float(np.mean(shares))


class TestPatterned:
    @pytest.mark.parametrize(("kind", "factor"), NULLS)
    def test_larger_damage_that_falls_at_random_makes_no_pair(self, kind: str, factor: int) -> None:
        """Criterion: the one-sided binomial bound of 5 % at 1 % on 200 studies."""
        assert false_pairs(kind, factor, 4, 19, 200) <= stats.binom.isf(0.01, 200, 0.05)

    def test_a_clean_diagonal_of_four_labels_is_found(self) -> None:
        """Shams cost .1 nats or so, real ones .3 or 1 more: half of the pairs, or nearly all."""
        assert power("normal", 0.3, 4, 19, 100) > 0.4
        assert power("normal", 1.0, 4, 19, 100) > 0.9
        assert power("normal", 0.0, 4, 19, 100) < 0.02, "and nothing where nothing is"

    def test_pairs_are_symmetric_and_need_both_labels(self) -> None:
        rng = np.random.default_rng(2)
        damage = random_damage(rng, "normal", 41, 5)
        damage[0] = 0.01
        damage[0, [1, 3], [1, 3]] = 1
        damage[0, 0] = 0  # a lesion without any damage leads nowhere
        passes, lead, threshold = patterned(damage[0], damage[1:])
        assert [tuple(x) for x in np.argwhere(passes).tolist()] == [(1, 3), (3, 1)]
        assert (np.flatnonzero(lead > threshold) == [1, 3]).all()

    def test_equal_damage_everywhere_makes_no_pair(self) -> None:
        """Also where every sham is the same: rounding must not decide."""
        same = np.full((40, 4, 4), 0.1)
        assert not patterned(same[0], same[1:])[0].any()
        shams = np.repeat(np.eye(4)[None] / 3, 39, 0)
        assert not patterned(np.eye(4), shams)[0].any()

    def test_two_labels_or_few_shams_have_none(self) -> None:
        clean = np.eye(4)
        shams = random_damage(np.random.default_rng(0), "normal", 19, 4)
        assert patterned(clean, shams)[0].sum() == 12
        assert not patterned(clean, shams[:18])[0].any()
        assert not patterned(clean[:2, :2], shams[:, :2, :2])[0].any()


@pytest.mark.slow
@pytest.mark.parametrize("n_labels", [3, 4, 8])
@pytest.mark.parametrize("n_shams", [19, 100])
def test_false_pairs_and_power(n_labels: int, n_shams: int) -> None:
    """1,000 studies each: false pairs within 5 %, power as the docstring of `patterned` says."""
    limit = stats.binom.isf(0.01, 1000, 0.05)
    for kind, factor in NULLS:
        assert false_pairs(kind, factor, n_labels, n_shams, 1000) <= limit, (kind, factor)
    assert power("normal", 0.3, n_labels, n_shams, 300) > 0.35
    assert power("normal", 1.0, n_labels, n_shams, 300) > 0.93
    assert power("heavy", 1.0, n_labels, n_shams, 300) > 0.6


@pytest.mark.slow
def test_real_sets_drawn_as_shams_are_rarely_significant() -> None:
    """200 studies whose real sets are a replicate of the shams: p and pairs keep to 5 %.

    Every neuron has a pattern of damage of its own, and key sets overlap. Criterion: no more than
    the one-sided binomial bound of 5 % on 200 studies at 5 %.
    """
    labels = LABELS[:5]
    significant = crossed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        output = rng.lognormal(size=(2, 200))
        pattern = output[..., None] * (0.5 + rng.normal(size=(2, 200, 5))) / 50
        drawn = rng.permutation(40)[:30].reshape(5, 6)
        sets = {x: [(int(i % 2), int(i)) for i in (*drawn[n], 41)] for n, x in enumerate(labels)}
        keys = keys_of(sets, 2, 200)
        conditions = sham_conditions(keys, output, 21, rng, statistics(2, 200))
        damage = [pattern[n.layer, n.index].sum(0) for n in map(neurons_of, conditions)]
        damage = np.reshape(damage, (21, 5, 5))
        got = study_of(battery(damage, labels, seed=seed, noise=0.1), labels, n_bootstrap=200)
        significant += present(got.p_value) <= 0.05
        crossed += len(got.crossed_pairs) > 0
    limit = stats.binom.isf(0.05, 200, 0.05)
    assert significant <= limit
    assert crossed <= limit
