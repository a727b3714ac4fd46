"""Further lesions of one study: other doses and values, damage-matched shams, and sufficiency."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_batteries import (
    LABELS,
    battery,
    extended,
    neurons,
    own_keys,
    planted,
    study_of,
    unshared,
)
from scipy import stats
from typed import present

from grammar_lens.dissociation.damage_matched import DamageMatched
from grammar_lens.dissociation.dose_response import DoseResponse
from grammar_lens.dissociation.matrices import diagonal_score
from grammar_lens.dissociation.result import LesionStudy, dose_response, value_ladder
from grammar_lens.dissociation.sufficiency import EVERYTHING, Sufficiency
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes

N_SHAMS = 20
DOSES = (-1.0, 0.25, 0.5, 0.75, 1.0, 2.0)


def whole_battery() -> Outcomes:
    """Damage in proportion to the dose; half as much by zero, none but to nouns by resample.

    Damage-matched shams cost what the real sets cost, spread over all words. Keeping a set saves
    half of what cutting everything costs, a sham nothing. Sham words of other labels are not scored.
    """
    damage = planted(3, N_SHAMS) + 0.3 * np.eye(6) * (np.arange(N_SHAMS + 1) == 0)[:, None, None]
    made = without_lexical_changes(battery(damage, LABELS))
    for dose in DOSES:
        if dose != 1:
            made = extended(made, dose * damage, LABELS, ablation=Ablation("mean", dose))
    made = extended(made, damage / 2, LABELS, ablation=Ablation("zero"), seed=1)
    small = 0.2 * damage[:1] * np.array([1, -1, 1, 1, 1, 1])[:, None]
    made = extended(made, small, LABELS, ablation=Ablation("resample"), seed=2, noise=0.01)
    made = extended(made, damage, LABELS, ablation=Ablation("mean", 1.0, "scored"), seed=3)
    rng = np.random.default_rng(4)
    spread = rng.gamma(2.0, size=(N_SHAMS, 6, 6))
    spread *= damage[0].sum(1)[:, None] / spread.sum(2, keepdims=True)
    made = extended(made, spread, LABELS, kind="matched", first=1, size=7, seed=5, noise=0.05)
    keeping = np.concatenate([2 - np.eye(6)[None], 2 + rng.normal(size=(N_SHAMS, 6, 6)) / 20])
    made = extended(made, keeping, LABELS, kind="rest", size=90, seed=6)
    return unshared(made)


def without_lexical_changes(outcomes: Outcomes) -> Outcomes:
    lexical_loss = np.repeat(outcomes.lexical_loss[:1], len(outcomes.nll), 0)
    return replace(outcomes, lexical_loss=lexical_loss, nll=outcomes.tag_loss + lexical_loss)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return whole_battery()


@pytest.fixture(scope="module")
def study(outcomes: Outcomes) -> LesionStudy:
    return study_of(outcomes, LABELS)


def mean_rise(outcomes: Outcomes, row: int, label: str) -> float:
    words = np.flatnonzero(outcomes.label == outcomes.labels.index(label))
    return float(np.mean([outcomes.tag_loss[row, w] - outcomes.tag_loss[0, w] for w in words]))


def rows_of(outcomes: Outcomes, ablation: Ablation, kind: str) -> dict[tuple[str, int], int]:
    return {
        (c.label, c.replicate): row
        for row, c in enumerate(outcomes.conditions, 1)
        if (c.ablation, c.kind) == (ablation, kind)
    }


def total(outcomes: Outcomes, row: int) -> float:
    words = np.flatnonzero(outcomes.shared)
    return float(np.mean([outcomes.nll[row, w] - outcomes.nll[0, w] for w in words]))


class TestManners:
    def test_every_manner_has_its_matrix(self, outcomes: Outcomes, study: LesionStudy) -> None:
        assert study.ablation == Ablation("mean", 1.0, "every")
        assert (study.value, study.dose) == ("mean", 1.0)
        assert len(study.others) == len(DOSES) - 1 + 3
        for other in (study, *study.others):
            rows = rows_of(outcomes, other.ablation, "set")
            for i, cut in enumerate(LABELS):
                for j, label in enumerate(LABELS):
                    expected = mean_rise(outcomes, rows[cut, 0], label)
                    assert other.matrix[i, j] == pytest.approx(expected, rel=1e-9)
                    if other.n_shams:
                        expected = mean_rise(outcomes, rows[cut, N_SHAMS], label)
                        assert other.sham[-1, i, j] == pytest.approx(expected, rel=1e-9)
        assert study.outcomes is outcomes
        assert all(other.outcomes is None for other in study.others)

    def test_a_manner_alone_gives_the_same(self, outcomes: Outcomes, study: LesionStudy) -> None:
        alone = study_of(outcomes.only(Ablation("zero")), LABELS)
        found = study.at(value="zero")
        for name in ("matrix", "nll_matrix", "sham", "s_star_sham", "output_ratio", "accuracy"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(found, name))
        assert [(p.first, p.second) for p in alone.crossed_pairs] == [
            (p.first, p.second) for p in found.crossed_pairs
        ]
        assert (alone.others, alone.damage_matched, alone.sufficiency, alone.doses) == (
            (),
            None,
            None,
            None,
        )

    def test_at_finds_a_ablation(self, study: LesionStudy) -> None:
        assert study.at() is study
        assert study.at(dose=1) is study
        assert study.at(dose=2).ablation == Ablation("mean", 2.0)
        assert study.at(where="scored").ablation == Ablation("mean", 1.0, "scored")
        message = (
            "no lesion of the ablation zero, dose 0.5 was measured: there are mean, dose 1; mean"
        )
        with pytest.raises(GrammarLensError, match=message):
            study.at(value="zero", dose=0.5)

    def test_a_battery_without_key_sets(self, outcomes: Outcomes) -> None:
        for kind in ("matched", "rest"):
            with pytest.raises(GrammarLensError, match="the battery holds no lesion of a key set"):
                study_of(outcomes.only(Ablation(), kind), LABELS)

    def test_words_not_shared_may_be_missing_under_shams_alone(self, outcomes: Outcomes) -> None:
        """The error of a loss that must be there names the lesion with its ablation and kind."""
        other = int(np.flatnonzero(~outcomes.shared)[0])
        studied = int(np.flatnonzero(outcomes.shared)[0])
        rows = rows_of(outcomes, Ablation(), "rest")
        for row, word in ((rows["VERB", 0], other), (rows["VERB", 3], studied)):
            broken = outcomes.nll.copy()
            broken[row, word] = np.nan
            replicate = outcomes.conditions[row - 1].replicate
            message = rf"'VERB', replicate {replicate} \(mean, dose 1, rest\): load the model in"
            with pytest.raises(GrammarLensError, match=message):
                study_of(replace(outcomes, nll=broken), LABELS)

    def test_statistics_do_not_see_words_that_are_not_shared(self, outcomes: Outcomes) -> None:
        """All shams scored everywhere, or at studied words alone: the same matrices and p."""
        full = replace(
            outcomes,
            **{
                name: np.where(np.isnan(getattr(outcomes, name)), 99.0, getattr(outcomes, name))
                for name in ("nll", "tag_loss", "lexical_loss")
            },
        )
        one, other = study_of(outcomes, LABELS), study_of(full, LABELS)
        np.testing.assert_array_equal(one.sham, other.sham)
        np.testing.assert_array_equal(one.damage_ratio, other.damage_ratio)
        assert one.crossed_pairs == other.crossed_pairs
        assert one.damage_matched is not None
        assert other.damage_matched is not None
        np.testing.assert_array_equal(
            one.damage_matched.damage_ratio, other.damage_matched.damage_ratio
        )


class TestDamage:
    def test_ordinary_shams_by_hand(self, outcomes: Outcomes, study: LesionStudy) -> None:
        rows = rows_of(outcomes, Ablation(), "set")
        for i, label in enumerate(LABELS):
            shams = np.mean([total(outcomes, rows[label, r]) for r in range(1, N_SHAMS + 1)])
            ratio = shams / total(outcomes, rows[label, 0])
            assert study.damage_ratio[i] == pytest.approx(ratio, rel=1e-9)

    def test_it_is_unknown_without_shams_and_without_damage(self) -> None:
        damage = np.full((3, 6, 6), 0.1)
        damage[0, 2] = -0.1
        made = without_lexical_changes(battery(damage, LABELS, noise=0.001))
        got = study_of(made, LABELS).damage_ratio
        assert np.isnan(got).tolist() == [i == 2 for i in range(6)]
        alone = study_of(battery(damage[:1], LABELS), LABELS)
        assert np.isnan(alone.damage_ratio).all()


class TestDamageMatched:
    def test_by_hand(self, outcomes: Outcomes, study: LesionStudy) -> None:
        matched = study.damage_matched
        assert isinstance(matched, DamageMatched)
        rows = rows_of(outcomes, Ablation(), "matched")
        for i, cut in enumerate(LABELS):
            for j, label in enumerate(LABELS):
                expected = mean_rise(outcomes, rows[cut, 3], label)
                assert matched.sham[2, i, j] == pytest.approx(expected, rel=1e-9)
        assert (matched.n_shams, matched.size.tolist()) == (N_SHAMS, [[7] * 6] * N_SHAMS)
        assert matched.s_star == study.s_star
        np.testing.assert_allclose(
            matched.s_star_sham, [diagonal_score(m) for m in matched.sham], rtol=1e-12
        )
        reached = sum(s >= study.s_star for s in matched.s_star_sham)
        assert matched.p_value == (1 + reached) / (1 + N_SHAMS) == 1 / 21
        real = rows_of(outcomes, Ablation(), "set")
        for i, label in enumerate(LABELS):
            shams = [total(outcomes, rows[label, r]) for r in range(1, N_SHAMS + 1)]
            ratio = np.mean(shams) / total(outcomes, real[label, 0])
            assert matched.damage_ratio[i] == pytest.approx(ratio, rel=1e-9)
            # built to cost what the real set costs; 240 words with noise of .3 nats
            assert ratio == pytest.approx(1, abs=0.3)
        assert "matched_mean" in study.to_frame()

    def test_pairs_have_a_threshold_of_their_own(self, study: LesionStudy) -> None:
        assert study.damage_matched is not None
        mine, ordinary = study.damage_matched.crossed_pairs, study.crossed_pairs
        names = [(p.first, p.second) for p in mine]
        assert ("NOUN", "VERB") in names
        assert mine[0].threshold != ordinary[0].threshold

    def test_two_labels_have_no_p(self, study: LesionStudy) -> None:
        assert study.damage_matched is not None
        assert replace(study.damage_matched, labels=LABELS[:2]).p_value is None

    def test_damage_of_their_size_that_falls_as_theirs_is_not_selective(self) -> None:
        """The twin: the real sets are drawn as the damage-matched shams are."""
        rng = np.random.default_rng(0)
        spread = rng.gamma(2.0, size=(41, 6, 6))
        made = battery(spread[:1], LABELS)
        got = study_of(extended(made, spread[1:], LABELS, kind="matched", first=1), LABELS)
        assert got.damage_matched is not None
        assert present(got.damage_matched.p_value) > 0.05
        assert got.damage_matched.crossed_pairs == ()
        assert got.p_value is None


class TestSufficiency:
    def test_by_hand(self, outcomes: Outcomes, study: LesionStudy) -> None:
        rest = study.sufficiency
        assert isinstance(rest, Sufficiency)
        rows = rows_of(outcomes, Ablation(), "rest")
        for i, label in enumerate(LABELS):
            assert rest.own[i] == pytest.approx(mean_rise(outcomes, rows[label, 0], label))
            for r in (1, N_SHAMS):
                expected = mean_rise(outcomes, rows[label, r], label)
                assert rest.sham_own[r - 1, i] == pytest.approx(expected)
        # real 1 nat, shams about 2: no sham saves as much
        np.testing.assert_allclose(rest.p_values, 1 / 21)
        assert rest.p_value == 1 / 21
        assert np.isnan(rest.saved).all()

    def test_the_share_of_what_cutting_everything_costs(self, outcomes: Outcomes) -> None:
        row = np.full((1, 1, 6), 4.0)
        everything = replace(
            extended(outcomes, np.repeat(row, 6, 1), LABELS, kind="rest"),
        )
        n = len(outcomes.conditions)
        one = Condition(EVERYTHING, 0, neurons("all", [(0, 1)]), Ablation(), "rest")
        keep = [*range(n + 1), n + 1]
        made = replace(
            everything,
            conditions=(*outcomes.conditions, one),
            probed=(*outcomes.probed, n + 1),
            tag_probability=everything.tag_probability[: len(outcomes.probed) + 1],
            **{
                name: getattr(everything, name)[keep]
                for name in ("nll", "tag_loss", "lexical_loss", "top_label")
            },
        )
        rest = study_of(made, LABELS).sufficiency
        assert rest is not None
        # 4 nats for everything, 1 with the set: 3/4 saved; 40 words with noise of .3 nats
        np.testing.assert_allclose(rest.everything, 4, atol=0.2)
        np.testing.assert_allclose(rest.saved, (rest.everything - rest.own) / rest.everything)
        assert rest.to_frame()["share_saved"].between(0.7, 0.8).all()

    def test_sets_that_save_no_more_than_shams(self) -> None:
        rng = np.random.default_rng(1)
        keeping = 2 + rng.normal(size=(41, 6, 6)) / 20
        made = extended(battery(planted(n_shams=0), LABELS), keeping, LABELS, kind="rest", size=9)
        rest = study_of(made, LABELS).sufficiency
        assert rest is not None
        assert present(rest.p_value) > 0.05
        assert "It is not shown that the sets suffice for more" in rest.verdict()

    def test_without_shams(self, outcomes: Outcomes) -> None:
        rows = rows_of(outcomes, Ablation(), "rest")
        keep = [0, *rows_of(outcomes, Ablation(), "set").values(), *(rows[x, 0] for x in LABELS)]
        made = replace(
            outcomes,
            conditions=tuple(outcomes.conditions[row - 1] for row in keep[1:]),
            probed=tuple(keep.index(row) for row in outcomes.probed if row in keep),
            tag_probability=outcomes.tag_probability[
                [i for i, row in enumerate(outcomes.probed) if row in keep]
            ],
            **{
                name: getattr(outcomes, name)[keep]
                for name in ("nll", "tag_loss", "lexical_loss", "top_label")
            },
        )
        rest = study_of(made, LABELS).sufficiency
        assert rest is not None
        assert rest.p_value is None
        assert np.isnan(rest.p_values).all()
        assert rest.verdict().endswith("Without shams kept in its place that says little.")


class TestDoses:
    def test_by_hand(self, outcomes: Outcomes, study: LesionStudy) -> None:
        got = dose_response(study)
        assert isinstance(got, DoseResponse)
        assert got.dose.tolist() == [-1, 0, 0.25, 0.5, 0.75, 1, 2]
        for d, dose in enumerate(got.dose):
            rows = rows_of(outcomes, Ablation("mean", dose), "set")
            for i, label in enumerate(LABELS):
                if dose == 0:
                    parts = [got.own, got.other, got.sham_own, got.sham_low, got.sham_high]
                    assert [part[i, d] for part in parts] == [0] * 5
                    continue
                assert got.own[i, d] == pytest.approx(mean_rise(outcomes, rows[label, 0], label))
                others = [mean_rise(outcomes, rows[label, 0], x) for x in LABELS if x != label]
                assert got.other[i, d] == pytest.approx(np.mean(others))
                shams = [mean_rise(outcomes, rows[label, r], label) for r in range(1, N_SHAMS + 1)]
                assert got.sham_own[i, d] == pytest.approx(np.mean(shams))
                assert (got.sham_low[i, d], got.sham_high[i, d]) == pytest.approx(
                    (min(shams), max(shams))
                )

    def test_the_slope_is_numpys_and_its_p_a_t_test(self, outcomes: Outcomes, study) -> None:
        """One word of a label per sentence: the p is scipy's t-test of the sentences' slopes."""
        got = dose_response(study)
        dose = [0.0, 0.25, 0.5, 0.75, 1.0]
        for i, label in enumerate(LABELS):
            expected = np.polyfit(dose, got.own[i, 1:6], 1)[0]
            assert got.slope[i] == pytest.approx(expected, rel=1e-9)
            mine = outcomes.label == outcomes.labels.index(label)
            rises = np.zeros((5, mine.sum()))
            for d in range(1, 5):
                row = rows_of(outcomes, Ablation("mean", dose[d]), "set")[label, 0]
                rises[d] = (outcomes.tag_loss[row] - outcomes.tag_loss[0])[mine]
            slopes = np.polyfit(dose, rises, 1)[0]
            test: Any = stats.ttest_1samp(slopes, 0, alternative="greater")
            assert got.slope_p[i] == pytest.approx(test.pvalue, rel=1e-6)
        shams = np.polyfit(dose, _sham_own(outcomes, dose, 7), 1)[0]
        np.testing.assert_allclose(got.sham_slope[6], shams, rtol=1e-9)
        assert got.sham_p == 1 / 21

    def test_the_planted_response_is_seen_and_told(self, study: LesionStudy) -> None:
        got = dose_response(study)
        assert got.rising.all()
        assert got.monotone[:2].all(), "a nat over four steps of a quarter; noise .05"
        text = got.verdict()
        assert "Over doses 0, 0.25, 0.5, 0.75, 1 the own tag loss grows with the dose" in text
        assert f"for 6 of 6 tags (Holm), at every step for {got.monotone.sum()}." in text
        assert "It grows faster than under the shams (" in text
        assert "p = 0.048" in text

    def test_no_effect_is_no_trend(self) -> None:
        """The twin: effects in proportion to the dose, of either sign, 0 in the mean.

        Page's L would see a trend in 18 % of such studies. Criterion: the p of 25 studies of 6
        labels are uniform by a Kolmogorov-Smirnov test at .1 %.
        """
        found = []
        for seed in range(25):
            rng = np.random.default_rng(900 + seed)
            made = battery(np.zeros((1, 6, 6)), LABELS, seed=seed)
            effect = rng.normal(size=made.tag_loss.shape[1])
            losses = made.tag_loss[0] + effect * np.repeat([0, 1.0], [1, 6])[:, None]
            made = replace(made, tag_loss=losses)
            for dose in (0.25, 0.5, 0.75):
                made = extended(made, np.zeros((1, 6, 6)), LABELS, ablation=Ablation("mean", dose))
                losses = made.tag_loss.copy()
                losses[-6:] = losses[0] + dose * effect
                made = replace(made, tag_loss=losses)
            doses = study_of(made, LABELS, n_bootstrap=2).doses
            assert doses is not None
            found += doses.slope_p.tolist()
            assert doses.sham_p is None
        assert stats.kstest(found, "uniform").pvalue > 0.001

    def test_words_of_one_sentence_are_not_independent(self, outcomes: Outcomes) -> None:
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
        once, again = study_of(outcomes, LABELS).doses, study_of(doubled, LABELS).doses
        assert once is not None
        assert again is not None
        np.testing.assert_allclose(again.slope_p, once.slope_p, rtol=1e-6)

    def test_frames(self, study: LesionStudy) -> None:
        got = dose_response(study)
        frame = got.to_frame().set_index(["label", "dose"])
        assert len(frame) == 6 * 7
        assert frame.loc[("VERB", 0.5), "own"] == got.own[1, 3]
        assert frame.loc[("ADJ", 2.0), "sham_high"] == got.sham_high[2, 6]
        trend = got.trend_frame().set_index("label")
        assert trend.loc["VERB", "slope"] == got.slope[1]
        assert trend.loc["VERB", "sham_slope"] == pytest.approx(got.sham_slope[:, 1].mean())
        assert trend.loc["VERB", "sham_p"] == got.sham_p_values[1] == 1 / 21

    def test_shams_may_be_fewer_at_other_doses(self) -> None:
        damage = planted(n_shams=5)
        made = battery(damage, LABELS)
        made = extended(made, damage[:1] / 2, LABELS, ablation=Ablation("mean", 0.5))
        doses = study_of(made, LABELS).doses
        assert doses is not None
        assert doses.sham_p is None
        assert np.isnan(doses.sham_p_values).all()
        assert np.isnan(doses.sham_own[:, 1]).all()
        assert not np.isnan(doses.sham_own[:, 2]).any()
        few = extended(made, damage[1:3] / 2, LABELS, ablation=Ablation("mean", 0.5), first=1)
        doses = study_of(few, LABELS).doses
        assert doses is not None
        assert doses.n_shams == 2
        assert "2 shams are too few to compare slopes" in doses.verdict()

    def test_a_single_word_has_no_p(self) -> None:
        made = battery(planted(n_shams=0), LABELS, n_sentences=1)
        made = extended(made, planted(n_shams=0) / 2, LABELS, ablation=Ablation("mean", 0.5))
        doses = study_of(made, LABELS).doses
        assert doses is not None
        assert (doses.slope_p == 1).all()

    @pytest.mark.parametrize(
        "further", [None, Ablation("zero", 0.5), Ablation("mean", 0.5, "scored")]
    )
    def test_a_study_of_one_dose_has_none(self, further: Ablation | None) -> None:
        made = battery(planted(n_shams=0), LABELS)
        if further:
            made = extended(made, planted(n_shams=0), LABELS, ablation=further)
        with pytest.raises(GrammarLensError, match="lesions of dose 1 alone"):
            dose_response(study_of(made, LABELS))

    def test_amplification_alone_has_none(self) -> None:
        made = battery(planted(n_shams=0), LABELS)
        made = replace(
            made,
            conditions=tuple(replace(c, ablation=Ablation("mean", 2.0)) for c in made.conditions),
        )
        made = extended(made, planted(n_shams=0), LABELS, ablation=Ablation("mean", -1.0))
        assert study_of(made, LABELS).doses is None


def _sham_own(outcomes: Outcomes, doses: list[float], replicate: int) -> np.ndarray:
    own = np.zeros((len(doses), len(LABELS)))
    for d, dose in enumerate(doses):
        for i, label in enumerate(LABELS):
            if dose:
                row = rows_of(outcomes, Ablation("mean", dose), "set")[label, replicate]
                own[d, i] = mean_rise(outcomes, row, label)
    return own


class TestValues:
    def test_by_hand(self, study: LesionStudy) -> None:
        assert [s.value for s in study.ladder] == ["mean", "zero", "resample"]
        frame = value_ladder(study)
        assert frame.columns.tolist() == ["label", "value", "own", "other", "sham_own", "agrees"]
        assert frame["value"].tolist() == ["mean", "zero", "resample"] * 6
        table = frame.set_index(["label", "value"])
        for rung in study.ladder:
            for i, label in enumerate(LABELS):
                row = table.loc[(label, rung.value)]
                assert row["own"] == rung.matrix[i, i]
                rest = [rung.matrix[i, j] for j in range(6) if j != i]
                assert row["other"] == pytest.approx(np.mean(rest))
                if rung.n_shams:
                    assert row["sham_own"] == pytest.approx(rung.sham[:, i, i].mean())
                else:
                    assert np.isnan(row["sham_own"])

    def test_signs(self, study: LesionStudy) -> None:
        """Under resample the verbs' loss falls: all but the verbs agree."""
        assert study.sign_agreement == (True, False, True, True, True, True)
        agrees = value_ladder(study).groupby("label", sort=False)["agrees"]
        assert agrees.first().tolist() == agrees.last().tolist() == list(study.sign_agreement)
        assert (
            "The own tag loss of 5 of 6 tags changes in the same direction under every value "
            "(mean, zero, resample)." in study.verdict()
        )

    def test_no_change_agrees_with_nothing(self, study: LesionStudy) -> None:
        still = tuple(replace(s, matrix=0 * s.matrix) for s in study.others)
        assert not any(replace(study, others=still).sign_agreement)
        nothing = replace(study, matrix=0 * study.matrix, others=still)
        assert not any(nothing.sign_agreement)


def test_the_battery_is_the_one_described(outcomes: Outcomes) -> None:
    assert own_keys(LABELS).labels == LABELS
    assert not outcomes.shared.all()
    assert np.isnan(outcomes.nll).any()
    assert np.isfinite(outcomes.nll[list(outcomes.probed)]).all()
