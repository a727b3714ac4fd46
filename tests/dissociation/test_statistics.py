"""The lesion matrix and its p by hand, on planted dissociations and on damage alone."""

from dataclasses import replace

import numpy as np
import pytest
from made_batteries import (
    LABELS,
    ORIGIN,
    battery,
    idiosyncratic,
    planted,
    study_of,
)
from scipy import stats
from sklearn.metrics import roc_auc_score
from typed import present

from grammar_lens.dissociation.matrices import diagonal_score
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Outcomes


class TestMatrix:
    def test_it_is_the_mean_by_hand(self, outcomes: Outcomes, study: LesionStudy) -> None:
        assert study.sham.shape == (40, 6, 6)
        for i, cut in enumerate(LABELS):
            for j, label in enumerate(LABELS):
                words = np.flatnonzero(outcomes.label == outcomes.labels.index(label))
                for replicate in (0, 1, 40):
                    row = 1 + 6 * replicate + i
                    assert outcomes.row(cut, replicate) == row
                    losses = [outcomes.tag_loss[row, w] - outcomes.tag_loss[0, w] for w in words]
                    got = study.matrix if replicate == 0 else study.sham[replicate - 1]
                    assert got[i, j] == pytest.approx(sum(losses) / len(losses), rel=1e-9)
                nll = outcomes.nll[1 + i, words] - outcomes.nll[0, words]
                assert study.nll_matrix[i, j] == pytest.approx(nll.mean(), rel=1e-9)

    def test_its_means_are_those_of_diagonal_and_rest(self, study: LesionStudy) -> None:
        own = [study.matrix[i, i] for i in range(6)]
        other = [study.matrix[i, j] for i in range(6) for j in range(6) if i != j]
        assert study.diagonal_mean == pytest.approx(np.mean(own))
        assert study.off_diagonal_mean == pytest.approx(np.mean(other))
        assert study.dominance == pytest.approx(np.mean(own) - np.mean(other))
        np.testing.assert_allclose(study.corrected, study.matrix - study.sham.mean(0))

    def test_the_rest_is_counted_by_hand(self, outcomes: Outcomes, study: LesionStudy) -> None:
        assert study.n_words.tolist() == [40] * 6
        right = [(outcomes.top_label[row] == outcomes.label).mean() for row in range(7)]
        np.testing.assert_allclose(study.accuracy, right)
        assert study.base_tag_loss == pytest.approx(outcomes.tag_loss[0].mean())
        assert study.base_nll == pytest.approx(outcomes.nll[0].mean())
        assert (study.seen_mass, study.tag_entropy) == (0.9, 2.0)
        assert (study.labels, study.k, study.n_shams) == (LABELS, 1, 40)
        assert study.origin == ORIGIN
        assert study.skipped == {"label missing": 3}

    def test_the_frame_has_a_row_per_cell(self, study: LesionStudy) -> None:
        frame = study.to_frame().set_index(["lesion", "label"])
        assert len(frame) == 36
        for i, cut in enumerate(LABELS):
            for j, label in enumerate(LABELS):
                row = frame.loc[(cut, label)]
                assert row.tag_loss_change == study.matrix[i, j]
                assert row.nll_change == study.nll_matrix[i, j]
                assert row.sham_mean == study.sham_mean[i, j]
                assert row.auroc_fall == study.auroc_fall[i, j]
                assert row.bias == study.bias[i, j]
                assert row.n_words == 40
        assert "lesion of / words of" in study._repr_html_()
        assert "LesionStudy on a-bank:test (mean, dose 1): Cutting" in repr(study)


class TestOutcomes:
    def test_an_unknown_lesion(self, outcomes: Outcomes) -> None:
        for label, replicate in (("X", 0), ("NOUN", 99)):
            with pytest.raises(GrammarLensError, match=rf"'{label}'.*{replicate}"):
                outcomes.row(label, replicate)

    def test_identity_error_is_the_largest_by_hand(self, outcomes: Outcomes) -> None:
        # losses up to 10 nats in float64
        assert outcomes.identity_error() < 1e-13
        wrong = outcomes.lexical_loss.copy()
        wrong[5, 7] += 0.25
        wrong[:, 9] += 1.0  # a term that no lesion changes is none
        assert replace(outcomes, lexical_loss=wrong).identity_error() == pytest.approx(0.25)
        assert replace(outcomes, conditions=()).identity_error() == 0


class TestP:
    def test_it_counts_the_shams_that_reach_the_real_one(self, study: LesionStudy) -> None:
        real = diagonal_score(study.matrix)
        reached = sum(diagonal_score(m) >= real for m in study.sham)
        assert study.s_star == real
        assert study.p_value == (1 + reached) / 41

    @pytest.mark.parametrize(
        ("shams", "p"), [([0.1, 0.2], 1 / 3), ([0.1, 0.9], 2 / 3), ([0.5, 0.9], 1.0)]
    )
    def test_by_hand_a_tie_counts(self, study: LesionStudy, shams: list[float], p: float) -> None:
        made = replace(study, s_star=0.5, s_star_sham=np.array(shams), sham=study.sham[:2])
        assert made.p_value == pytest.approx(p)

    def test_a_tie_but_for_rounding_counts(self, study: LesionStudy) -> None:
        lower = np.full(40, study.s_star - 1e-12)
        assert replace(study, s_star_sham=lower).p_value == 1

    def test_two_labels_have_no_p(self) -> None:
        """Their pattern is 1 or -1, in the real sets as in the shams."""
        damage = np.abs(np.random.default_rng(3).normal(size=(100, 2, 2))) / 10
        damage[:, [0, 1], [0, 1]] += 1
        got = study_of(battery(damage, LABELS[:2]), LABELS[:2])
        np.testing.assert_allclose([got.s_star, *got.s_star_sham], 1)
        assert got.p_value is None
        assert got.crossed_pairs == ()
        said = "ith 2 tags the pattern of damage can only be 1 or -1: at least 3 are needed"
        assert said in got.verdict()

    def test_without_shams_there_is_no_p_and_no_pair(self) -> None:
        got = study_of(battery(planted(n_shams=0), LABELS), LABELS)
        assert got.p_value is None
        assert got.n_shams == 0
        assert got.crossed_pairs == ()
        np.testing.assert_array_equal(got.corrected, got.matrix)
        np.testing.assert_array_equal(got.output_ratio, 1)

    def test_planted_selectivity_is_found(self) -> None:
        damage = planted()
        damage[0, range(6), range(6)] += 0.3
        assert study_of(battery(damage, LABELS), LABELS).p_value == 1 / 41

    def test_larger_damage_alone_is_not_selective(self) -> None:
        """Criterion: of 40 real sets that damage three times as much as their shams, without a
        pattern, no more reach p <= .05 than 5 % allow by a one-sided binomial bound of 1 %.

        S itself would be fooled: in a third of them or so it exceeds the shams' 95th percentile.
        """
        significant = fooled = crossed = 0
        for seed in range(40):
            damage = idiosyncratic(np.random.default_rng(seed), 41)
            damage[0] *= 3
            got = study_of(battery(damage, LABELS, seed=seed, noise=0.1), LABELS, n_bootstrap=100)
            significant += present(got.p_value) <= 0.05
            crossed += len(got.crossed_pairs) > 0
            off = ~np.eye(6, dtype=bool)
            s = [np.diag(m).mean() - m[off].mean() for m in got.sham]
            fooled += got.dominance > np.quantile(s, 0.95)
        limit = stats.binom.isf(0.01, 40, 0.05)
        assert significant <= limit
        assert crossed <= limit
        assert fooled > limit, "or the damage is not large enough to fool anyone"


class TestProbabilities:
    def test_auroc_is_sklearns(self, outcomes: Outcomes) -> None:
        """Rounded to two digits, so that many probabilities are tied."""
        tied = replace(outcomes, tag_probability=np.round(outcomes.tag_probability, 2))
        got = study_of(tied, LABELS)
        for j, label in enumerate(LABELS):
            column = tied.labels.index(label)
            gold = tied.label == column
            base = roc_auc_score(gold, tied.tag_probability[0, :, column])
            assert got.auroc[j] == pytest.approx(base, rel=1e-9)
            for i in range(6):
                after = roc_auc_score(gold, tied.tag_probability[i + 1, :, column])
                assert got.auroc_fall[i, j] == pytest.approx(base - after, abs=1e-9)

    def test_bias_by_hand(self, outcomes: Outcomes, study: LesionStudy) -> None:
        for i in range(6):
            for j, label in enumerate(LABELS):
                column = outcomes.labels.index(label)
                changes = [
                    float(outcomes.tag_probability[i + 1, w, column])
                    - float(outcomes.tag_probability[0, w, column])
                    for w in range(len(outcomes.word))
                    if outcomes.label[w] != column
                ]
                assert study.bias[i, j] == pytest.approx(sum(changes) / len(changes), abs=1e-12)

    def test_probed_rows_are_found_by_their_number(self, outcomes: Outcomes) -> None:
        """Real lesions may stand anywhere in the battery."""
        order = np.concatenate([np.arange(6, 246), np.arange(6)])
        rows = np.concatenate([[0], 1 + order])
        moved = replace(
            outcomes,
            conditions=tuple(outcomes.conditions[i] for i in order),
            probed=(0, *range(241, 247)),
            **{
                name: getattr(outcomes, name)[rows]
                for name in ("nll", "tag_loss", "lexical_loss", "top_label")
            },
        )
        before, after = study_of(outcomes, LABELS), study_of(moved, LABELS)
        for name in ("matrix", "sham", "auroc_fall", "bias", "accuracy"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert after.crossed_pairs == before.crossed_pairs


class TestErrors:
    @pytest.mark.parametrize("name", ["tag_loss", "nll"])
    @pytest.mark.parametrize(
        ("row", "where"), [(0, "in the intact model"), (8, "'VERB', replicate 1")]
    )
    def test_losses_must_be_finite(
        self, outcomes: Outcomes, name: str, row: int, where: str
    ) -> None:
        """A NaN would compare as "no sham reaches the real one": the smallest p there is."""
        broken = getattr(outcomes, name).copy()
        broken[row, 3] = np.nan if row else np.inf
        message = f"losses are NaN or infinite .*{where}: load the model in a wider dtype"
        with pytest.raises(GrammarLensError, match=message):
            study_of(replace(outcomes, **{name: broken}), LABELS)

    def test_a_label_without_words(self, outcomes: Outcomes) -> None:
        relabelled = outcomes.label.copy()
        relabelled[relabelled == outcomes.labels.index("ADJ")] = outcomes.labels.index("NOUN")
        with pytest.raises(GrammarLensError, match="no scored word is 'ADJ'"):
            study_of(replace(outcomes, label=relabelled), LABELS)
