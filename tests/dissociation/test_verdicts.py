"""Verdicts of a lesion study, branch by branch."""

from dataclasses import replace

import numpy as np
import pytest
from made_batteries import (
    LABELS,
)

from grammar_lens.dissociation.damage_matched import DamageMatched
from grammar_lens.dissociation.dose_response import DoseResponse
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.sufficiency import Sufficiency
from grammar_lens.lesions.outcomes import Ablation


class TestVerdict:
    def test_selective_damage(self, study: LesionStudy) -> None:
        made = replace(study, s_star=2.0, output_ratio=np.full(6, 0.95))
        assert made.is_selective
        assert made.specificity == 1 - study.off_diagonal_mean / study.diagonal_mean
        text = made.verdict()
        assert f"{study.diagonal_mean:.3f} nats" in text
        assert f"specificity {made.specificity:.2f} (95 % interval" in text
        assert "The damage is selective" in text
        assert "40 output-matched shams (p = 0.024)" in text
        assert "1 of 15 pairs" in text
        assert "Not measured: the dose-response, other values of the lesion, sufficiency." in text

    def test_the_first_study_of_smollm2_is_not_called_selective(self, study: LesionStudy) -> None:
        """Own tag +0.840 nats, others +0.716, shams with 0.14 of the output, p = 1/21 against them."""
        n = len(LABELS)
        made = replace(
            study,
            matrix=np.where(np.eye(n, dtype=bool), 0.840, 0.716),
            sham=study.sham[:20],
            s_star=2.0,
            s_star_sham=np.zeros(20),
            output_ratio=np.full(n, 0.14),
            dominance_interval=(0.08, 0.17),
            specificity_interval=(0.10, 0.20),
            crossed_pairs=(),
        )
        assert made.p_value == 1 / 21
        assert made.decisive_p is None
        assert not made.is_selective
        text = made.verdict()
        assert "Selective damage is not shown" in text
        assert "specificity 0.15 (95 % interval 0.10 to 0.20)" in text
        assert "0.14 of the real sets' output" in text
        assert "is no evidence of selectivity" in text
        assert "The damage is selective" not in text
        grown = replace(made, damage_matched=matched(study, 2.0))
        assert grown.is_selective, "damage-matched shams can settle it"
        assert not replace(grown, dominance_interval=(-0.01, 0.2)).is_selective
        assert not replace(grown, damage_matched=matched(study, -2.0)).is_selective
        assert not replace(grown, damage_matched=matched(study, 2.0, ratio=0.85)).is_selective

    def test_an_untrained_models_study_is_not_called_selective(self, study: LesionStudy) -> None:
        """An untrained twin of SmolLM2: p = 1/21 against well matched shams, specificity 1.10, and
        0.0001 nats of damage to a model whose tag loss is above the tags' entropy."""
        own = np.eye(len(LABELS), dtype=bool)
        made = replace(
            study,
            matrix=np.where(own, 9.5e-5, -9.1e-6),
            sham=study.sham[:20],
            s_star=2.0,
            s_star_sham=np.zeros(20),
            output_ratio=np.full(len(LABELS), 0.92),
            dominance_interval=(9e-5, 1.2e-4),
            base_tag_loss=2.490,
            tag_entropy=2.481,
        )
        assert made.decisive_p == 1 / 21
        assert not made.is_selective
        text = made.verdict()
        assert "by 0.000095 nats and that of other tags by -0.000009" in text
        assert "does not predict the tags: its tag loss is 2.490 nats" in text
        knowing = replace(made, base_tag_loss=1.481)
        assert "less than a hundredth of the 1.000 nats" in knowing.verdict()
        larger = replace(knowing, matrix=np.where(own, 0.011, 0.001))
        assert larger.is_selective
        assert not replace(larger, matrix=np.where(own, 0.009, 0.001)).is_selective

    def test_lacking_evidence_is_said(self, study: LesionStudy) -> None:
        made = replace(study, s_star=-2.0, crossed_pairs=(), output_ratio=np.ones(6))
        text = made.verdict()
        assert not made.is_selective
        assert "not shown: p = 1.000 against 40 output-matched shams" in text
        assert "None of 15 pairs of tags dissociates doubly." in text
        low = replace(made, s_star=2.0, dominance_interval=(-0.1, 0.3))
        assert "own minus other tags is -0.100 to +0.300 nats" in low.verdict()

    def test_without_shams_nothing_is_said_of_chance(self, study: LesionStudy) -> None:
        text = replace(study, sham=np.zeros((0, 6, 6)), s_star_sham=np.zeros(0)).verdict()
        assert "without sham lesions" in text
        assert "The damage is selective" not in text
        assert "pairs" not in text

    def test_too_few_shams_are_named(self, study: LesionStudy) -> None:
        few = replace(
            study,
            sham=study.sham[:5],
            s_star_sham=np.full(5, -1.0),
            crossed_pairs=(),
            output_ratio=np.ones(6),
        )
        assert "p = 0.167 against 5 output-matched shams, and so few cannot go below 0.167" in (
            few.verdict()
        )

    @pytest.mark.parametrize(("ratio", "said"), [(0.89, True), (0.91, False)])
    def test_weak_shams_are_no_evidence(self, study: LesionStudy, ratio: float, said: bool) -> None:
        output = np.array([1.0, ratio, 1.0, 1.0, 1.0, 1.0])
        made = replace(study, s_star=2.0, output_ratio=output, damage_ratio=output / 2)
        assert made.is_selective != said
        text = made.verdict()
        assert ("no evidence of selectivity" in text) == said
        assert ("0.89 of the real sets' output and do as little as 0.45 of their" in text) == said

    def test_pairs_of_a_matrix_that_is_not_selective_are_doubtful(self, study: LesionStudy) -> None:
        doubt = "The matrix as a whole is not shown to be selective, so pairs may be accidents."
        assert doubt in replace(study, s_star=-2.0).verdict()
        assert doubt not in replace(study, s_star=2.0).verdict()
        assert doubt in replace(study, s_star=2.0, base_tag_loss=study.tag_entropy).verdict()
        assert doubt not in replace(study, s_star=-2.0, crossed_pairs=()).verdict()


WEAK = np.array([1.0, 0.7, 1.0, 1.0, 1.0, 1.0])


def matched(study: LesionStudy, s_star: float, ratio: float = 1.0, n: int = 40) -> DamageMatched:
    return DamageMatched(
        labels=study.labels,
        sham=study.sham[:n],
        damage_ratio=np.array([np.nan, ratio, 2.0, 2.0, 2.0, 2.0]),
        size=np.full((n, 6), 12),
        s_star=s_star,
        s_star_sham=study.s_star_sham[:n],
        crossed_pairs=study.crossed_pairs,
    )


class TestDamageMatchedVerdict:
    def test_it_carries_the_conclusion(self, study: LesionStudy) -> None:
        made = replace(study, s_star=2.0, output_ratio=WEAK, damage_matched=matched(study, 2.0))
        assert made.is_selective
        text = made.verdict()
        assert "not that of 40 damage-matched shams (p = 0.024)" in text
        assert "(of 12 neurons, doing 1.00 of the damage or more) (p = 0.024)" in text
        assert "Against them, 1 of 15 pairs" in text

    def test_it_may_refute(self, study: LesionStudy) -> None:
        made = replace(study, s_star=2.0, output_ratio=WEAK, damage_matched=matched(study, -2.0))
        told = "The damage is not shown to be more selective than that of 40 damage-matched shams"
        assert told in made.verdict()

    @pytest.mark.parametrize(("ratio", "said"), [(0.85, True), (0.95, False)])
    def test_shams_that_did_too_little(self, study: LesionStudy, ratio: float, said: bool) -> None:
        made = replace(study, damage_matched=matched(study, 2.0, ratio))
        weak = "These shams still do too little damage, so the comparison is not settled."
        assert (weak in made.verdict()) == said

    def test_too_few(self, study: LesionStudy) -> None:
        text = replace(study, damage_matched=matched(study, 2.0, n=5)).verdict()
        assert (
            "5 damage-matched shams (of 12 neurons, doing 1.00 of the damage or more) are too"
            in text
        )

    def test_two_tags(self, study: LesionStudy) -> None:
        pair = replace(matched(study, 1.0), labels=LABELS[:2])
        assert pair.verdict().endswith("cannot tell two tags apart.")


def doses(study: LesionStudy, slope: float, n: int = 40) -> DoseResponse:
    """Own loss in proportion to the dose, but for the last label, whose loss falls at first."""
    own = slope * np.tile([0.0, 0.5, 1.0], (6, 1))
    own[5, 1] = -0.1
    return DoseResponse(
        labels=study.labels,
        value="mean",
        where="every",
        dose=np.array([0.0, 0.5, 1.0]),
        own=own,
        other=own / 10,
        sham_own=own / 5,
        sham_low=own / 6,
        sham_high=own / 4,
        slope=np.full(6, slope),
        slope_p=np.array([0.001, 0.001, 0.001, 0.03, 0.03, 0.5]),
        sham_slope=np.linspace(0, 1, n)[:, None] * np.ones(6),
    )


class TestFurtherLesions:
    @pytest.mark.parametrize(
        ("slope", "n", "told"),
        [
            (2.0, 40, "It grows faster than under the shams (2.000 against 0.500 nats per unit"),
            (0.5, 40, "That is not shown to be faster than under the shams (0.500 against 0.500"),
            (2.0, 5, "5 shams are too few to compare slopes (2.000 against 0.500 nats per unit"),
        ],
    )
    def test_doses(self, study: LesionStudy, slope: float, n: int, told: str) -> None:
        made = replace(study, doses=doses(study, slope, n))
        text = made.verdict()
        assert (
            "Over doses 0, 0.5, 1 the own tag loss grows with the dose for 3 of 6 tags (Holm), at "
            f"every step for 5. {told}" in text
        )
        assert text.endswith("Not measured: other values of the lesion, sufficiency.")

    def test_doses_without_shams(self, study: LesionStudy) -> None:
        text = doses(study, 1.0, 0).verdict()
        assert text.endswith("at every step for 5.")

    def test_values(self, study: LesionStudy) -> None:
        other = replace(study, ablation=Ablation("zero"), matrix=-study.matrix)
        text = replace(study, others=(other,)).verdict()
        assert (
            "The own tag loss of 0 of 6 tags changes in the same direction under every value "
            "(mean, zero)." in text
        )
        assert text.endswith("Not measured: the dose-response, sufficiency.")

    @pytest.mark.parametrize(
        ("own", "n", "everything", "told"),
        [
            (1.0, 40, np.nan, "(p = 0.024, 40 shams). The sets suffice for more than others of"),
            (1.0, 40, 4.0, "40 shams), so the set saves 75% of what cutting everything costs. The"),
            (2.0, 40, np.nan, "shams). It is not shown that the sets suffice for more than others"),
            (1.0, 5, np.nan, "(p = 0.167, 5 shams). So few shams cannot show more."),
        ],
    )
    def test_sufficiency(
        self, study: LesionStudy, own: float, n: int, everything: float, told: str
    ) -> None:
        rest = Sufficiency(
            labels=study.labels,
            kept=own * np.eye(6),
            sham=np.full((n, 6, 6), 2.0),
            everything=np.full(6, everything),
        )
        text = replace(study, sufficiency=rest).verdict()
        begins = (
            f"but a tag's own set, its loss rises by {own:.3f} nats, and by 2.000 when a sham is"
        )
        assert begins in text
        assert told in text
        assert text.endswith("Not measured: the dose-response, other values of the lesion.")

    def test_nothing_is_missing_where_all_was_measured(self, study: LesionStudy) -> None:
        rest = Sufficiency(study.labels, np.eye(6), np.full((40, 6, 6), 2.0), np.full(6, np.nan))
        other = replace(study, ablation=Ablation("zero"))
        made = replace(study, sufficiency=rest, doses=doses(study, 1.0), others=(other,))
        text = made.verdict()
        assert "Not measured" not in text
        order = [
            "Cutting a tag's",
            "elective",
            "dissociate",
            "Over doses",
            "direction",
            "With",
        ]
        places = [text.index(part) for part in order]
        assert places == sorted(places)
        page = made._repr_html_()
        assert "share_saved" in page
        assert "sham_slope" in page
