"""The result of a lesion study and its verdict."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.dissociation.damage_matched import DamageMatched
from grammar_lens.dissociation.dose_response import DoseResponse
from grammar_lens.dissociation.first_order import FirstOrder
from grammar_lens.dissociation.matrices import LEAST_LABELS, LEAST_SHAMS, chance, margins
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.sufficiency import Sufficiency
from grammar_lens.dissociation.verdicts import (
    ENOUGH,
    LEVEL,
    NEGLIGIBLE,
    describe_pairs,
    least,
    nats,
    why_no_p,
)
from grammar_lens.errors import NotMeasuredError
from grammar_lens.lesions.outcomes import Ablation, Outcomes


@dataclass(frozen=True)
class LesionStudy(Shown):
    """The tag-by-tag lesion matrix with its shams, its p-value and its crossed pairs.

    Row i is the lesion of label i, column j the words of label j; nats. `sham` has one matrix per
    replicate; `auroc_fall` is the intact minus the lesioned one-vs-rest AUROC of P(j | context);
    `bias` the mean change of P(j | context) over words of other labels.
    `n_words` counts the scored words of each column's label.
    `others` are the same statistics for further ablations of the lesion, `matched` those against
    damage-matched shams, `rest` those of cutting everything but the sets, `doses` the dose-response;
    empty or None where the battery holds no such lesions.
    """

    labels: tuple[str, ...]
    ablation: Ablation
    k: int
    matrix: Float[np.ndarray, "label label"]
    nll_matrix: Float[np.ndarray, "label label"]
    sham: Float[np.ndarray, "replicate label label"]
    auroc: Float[np.ndarray, " label"]
    auroc_fall: Float[np.ndarray, "label label"]
    bias: Float[np.ndarray, "label label"]
    accuracy: Float[np.ndarray, " row"]
    """Top-1 tag accuracy: intact, then under each lesion."""
    n_words: Int[np.ndarray, " label"]
    s_star: float
    s_star_sham: Float[np.ndarray, " replicate"]
    crossed_pairs: tuple[CrossedPair, ...]
    output_ratio: Float[np.ndarray, " label"]
    """Expected output of the shams over that of the real set; 1 is a perfect match."""
    damage_ratio: Float[np.ndarray, " label"]
    """Rise of the loss over all words under the shams over that under the real set; NaN without
    shams, and where the real set does no damage."""
    base_tag_loss: float
    base_nll: float
    tag_entropy: float
    seen_mass: float
    identity_error: float
    skipped: dict[str, int]
    fresh: str
    outcomes: Outcomes | None
    """The losses word by word, of the whole battery; None in a study loaded from its files and in
    `others`."""
    origin: Origin
    others: tuple["LesionStudy", ...] = ()
    damage_matched: DamageMatched | None = None
    sufficiency: Sufficiency | None = None
    doses: DoseResponse | None = None
    first_order: FirstOrder | None = None
    dominance_interval: tuple[float, float] | None = None
    """95 % interval of diagonal minus off-diagonal (nats), by a bootstrap over sentences."""
    specificity_interval: tuple[float, float] | None = None
    n_sentences: int = 0
    """Sentences at which the real lesions were measured."""
    n_sham_sentences: int = 0
    """Those among them at which real and sham lesions are compared: S* and all shams are of these."""

    @property
    def value(self) -> str:
        return self.ablation.value

    @property
    def dose(self) -> float:
        return self.ablation.dose

    @property
    def n_shams(self) -> int:
        return len(self.sham)

    @property
    def sham_mean(self) -> Float[np.ndarray, "label label"]:
        """The shams' mean matrix; zeros without shams."""
        return self.sham.mean(0) if len(self.sham) else np.zeros_like(self.matrix)

    @property
    def corrected(self) -> Float[np.ndarray, "label label"]:
        """The matrix minus the shams' mean."""
        return self.matrix - self.sham_mean

    @property
    def weakest(self) -> Float[np.ndarray, "label label"]:
        """For every pair the smallest of the four differences of a double dissociation (nats).

        Own damage less other damage, within both lesions and within both labels, shams subtracted;
        0 on the diagonal.
        """
        return margins(self.corrected)

    @property
    def diagonal_mean(self) -> float:
        return float(np.diag(self.matrix).mean())

    @property
    def off_diagonal_mean(self) -> float:
        return float(self.matrix[~np.eye(len(self.labels), dtype=bool)].mean())

    @property
    def dominance(self) -> float:
        """S, the mean diagonal minus the mean off-diagonal (nats): the effect size.

        Its size alone does not tell selective from merely larger damage; `p_value` does.
        """
        return self.diagonal_mean - self.off_diagonal_mean

    @property
    def specificity(self) -> float | None:
        """1 - off-diagonal / diagonal mean: 1 where only the own label suffers, 0 where all do alike.

        None where the own label's loss does not rise.
        """
        own = self.diagonal_mean
        return 1 - self.off_diagonal_mean / own if own > 0 else None

    @property
    def information(self) -> float:
        """The intact model's knowledge of the coming word's tag (nats): the entropy of the tags in the
        training words less its tag loss; 0 or less where it predicts no better than their frequencies."""
        return self.tag_entropy - self.base_tag_loss

    @property
    def is_negligible(self) -> bool:
        """Whether the own tag's damage is too small a part of `information` to be a finding, whatever its
        p: an untrained model has neurons whose lesion costs one tag a ten-thousandth of a nat."""
        return self.information <= 0 or self.diagonal_mean < NEGLIGIBLE * self.information

    @property
    def decisive_p(self) -> float | None:
        """p against shams of like damage or, where those are well matched, of like output; else None."""
        if self.damage_matched is not None and least(self.damage_matched.damage_ratio) >= ENOUGH:
            return self.damage_matched.p_value
        return None if self.is_weakly_matched else self.p_value

    @property
    def is_selective(self) -> bool:
        """Whether the damage is shown to be selective: by `decisive_p`, and by the interval of
        diagonal minus off-diagonal; never if it is negligible."""
        p, interval = self.decisive_p, self.dominance_interval
        passes = p is not None and p <= LEVEL and interval is not None and interval[0] > 0
        return passes and not self.is_negligible

    @property
    def p_value(self) -> float | None:
        """(1 + shams with S* at least the real one) / (1 + shams).

        None without shams, and with two labels, whose S* is always 1 or -1.
        """
        return None if len(self.labels) < LEAST_LABELS else chance(self.s_star, self.s_star_sham)

    @property
    def is_weakly_matched(self) -> bool:
        """Whether a set's shams carry less than 0.9 of its output, so that p needs damage-matched shams."""
        return bool(self.n_shams and (self.output_ratio < ENOUGH).any())

    @property
    def ladder(self) -> tuple["LesionStudy", ...]:
        """The studies that differ from this one in the lesion's value alone, itself first."""
        same = (self.ablation.dose, self.ablation.where)
        return (self, *(s for s in self.others if (s.ablation.dose, s.ablation.where) == same))

    @property
    def sign_agreement(self) -> tuple[bool, ...]:
        """Per label, whether its own loss changes in the same direction under every value."""
        signs = np.sign([np.diag(s.matrix) for s in self.ladder])
        return tuple(((signs == signs[0]) & (signs != 0)).all(0).tolist())

    def at(
        self, *, value: str | None = None, dose: float | int | None = None, where: str | None = None
    ) -> "LesionStudy":
        """The statistics for another ablation; what is left out is that of the main ablation.

        Raises NotMeasuredError naming the ablations that were measured.
        """
        main = self.ablation
        wanted = Ablation(
            main.value if value is None else value,
            main.dose if dose is None else float(dose),
            main.where if where is None else where,
        )
        for study in (self, *self.others):
            if study.ablation == wanted:
                return study
        measured = "; ".join(str(study.ablation) for study in (self, *self.others))
        raise NotMeasuredError(
            f"no lesion of the ablation {wanted} was measured: there are {measured}"
        )

    def verdict(self) -> str:
        """The conclusions in a few sentences, and the parts that were not measured."""
        parts = [
            self._size(),
            *self._against_chance(),
            *self._of_further_lesions(),
            self._lacking(),
        ]
        return " ".join(part for part in parts if part)

    def _size(self) -> str:
        return (
            f"Cutting a tag's {self.k} key neurons raises its own tag loss by "
            f"{nats(self.diagonal_mean)} nats and that of other tags by {nats(self.off_diagonal_mean)}"
            f"{self._specificity()}."
        )

    def _specificity(self) -> str:
        if self.specificity is None:
            return ""
        text = f": specificity {self.specificity:.2f}"
        if self.specificity_interval is None:
            return text
        low, high = self.specificity_interval
        return f"{text} (95 % interval {low:.2f} to {high:.2f})"

    def conclusion(self) -> str:
        """Whether the lesions are selective, or what is lacking to say so: one sentence."""
        if self.is_selective:
            return (
                f"The damage is selective: its pattern is not that of {self._decisive_shams()} "
                f"(p = {self.decisive_p:.3f}), and the own tag suffers more than others."
            )
        return f"Selective damage is not shown: {'; '.join(self._shortcomings())}."

    def _decisive_shams(self) -> str:
        return (
            f"{self.n_shams} output-matched shams"
            if self.damage_matched is None
            else f"{self.damage_matched.n_shams} damage-matched shams"
        )

    def _shortcomings(self) -> list[str]:
        """Reasons why the damage cannot be called selective."""
        reasons, p, interval = [], self.decisive_p, self.dominance_interval
        if len(self.labels) < LEAST_LABELS or not (self.n_shams or self.damage_matched):
            reason = why_no_p(len(self.labels), self.n_shams)
            return [f"{reason[0].lower()}{reason[1:].rstrip('.')}"]
        if p is None and self.damage_matched is None:
            reasons.append(
                f"the shams carry as little as {self.output_ratio.min():.2f} of the real sets' output "
                "and no damage-matched shams were measured"
            )
        elif p is None:
            reasons.append("the damage-matched shams do too little damage to compare")
        elif p > LEVEL:
            n = self.n_shams if self.damage_matched is None else self.damage_matched.n_shams
            few = f", and so few cannot go below {1 / (1 + n):.3f}" if n < LEAST_SHAMS else ""
            reasons.append(f"p = {p:.3f} against {self._decisive_shams()}{few}")
        if interval is None:
            reasons.append("the difference between own and other tags has no interval")
        elif interval[0] <= 0:
            reasons.append(
                f"own minus other tags is {interval[0]:+.3f} to {interval[1]:+.3f} nats, which "
                "includes 0"
            )
        if self.information <= 0:
            reasons.append(
                f"the intact model does not predict the tags: its tag loss is {self.base_tag_loss:.3f} "
                f"nats, and their frequencies alone give {self.tag_entropy:.3f}"
            )
        elif self.is_negligible:
            reasons.append(
                f"the damage is less than a hundredth of the {self.information:.3f} nats that the intact "
                "model knows of the tags"
            )
        return reasons

    @property
    def deciding(self) -> "LesionStudy | DamageMatched":
        """The comparison with the shams that decide: with damage-matched ones where there are some.

        It has `n_shams`, `s_star`, `s_star_sham`, `p_value` and `crossed_pairs`.
        """
        return self.damage_matched or self

    def _against_chance(self) -> list[str]:
        sentences = [self.conclusion()]
        if self.p_value is None:
            return sentences
        if self.is_weakly_matched:
            damage = least(self.damage_ratio)
            done = "" if np.isnan(damage) else f" and do as little as {damage:.2f} of their damage"
            sentences.append(
                f"The {self.n_shams} output-matched shams carry as little as "
                f"{self.output_ratio.min():.2f} of the real sets' output{done}, so p = "
                f"{self.p_value:.3f} against them is no evidence of selectivity."
            )
        pairs = [pair.confirmed for pair in self.crossed_pairs]
        doubtful = self.p_value > LEVEL or self.is_negligible
        sentences.append(describe_pairs(len(self.labels), pairs, doubtful=doubtful))
        if self.damage_matched:
            sentences.append(self.damage_matched.verdict())
        if self.first_order:
            sentences.append(self.first_order.verdict())
        return sentences

    def _of_further_lesions(self) -> list[str]:
        sentences = [part.verdict() for part in (self.doses, self.sufficiency) if part]
        if len(self.ladder) > 1:
            values = ", ".join(study.value for study in self.ladder)
            sentences.insert(
                1 if self.doses else 0,
                f"The own tag loss of {sum(self.sign_agreement)} of {len(self.labels)} tags changes "
                f"in the same direction under every value ({values}).",
            )
        return sentences

    def _lacking(self) -> str:
        missing = [
            name
            for name, measured in (
                ("the dose-response", self.doses),
                ("other values of the lesion", len(self.ladder) > 1),
                ("sufficiency", self.sufficiency),
            )
            if not measured
        ]
        return f"Not measured: {', '.join(missing)}." if missing else ""

    def to_frame(self) -> pd.DataFrame:
        """A row per lesion and label: change of losses, shams, AUROC fall and bias.

        With damage-matched shams also their mean.
        """
        n = len(self.labels)
        table = {
            "lesion": np.repeat(np.array(self.labels, object), n),
            "label": np.tile(np.array(self.labels, object), n),
            "tag_loss_change": self.matrix.ravel(),
            "nll_change": self.nll_matrix.ravel(),
            "sham_mean": self.sham_mean.ravel(),
            "auroc_fall": self.auroc_fall.ravel(),
            "bias": self.bias.ravel(),
            "n_words": np.tile(self.n_words, n),
        }
        if self.damage_matched:
            table["matched_mean"] = self.damage_matched.sham_mean.ravel()
        return pd.DataFrame(table)

    def __repr__(self) -> str:
        return f"LesionStudy on {self.fresh} ({self.ablation}): {self._size()} {self.conclusion()}"

    def _title(self) -> str:
        on = f"LesionStudy on {self.fresh} ({self.ablation})"
        return f"{on}: {self.verdict()} Rise in tag loss (nats):"

    def _tables(self) -> list[pd.DataFrame]:
        table = pd.DataFrame(self.matrix, index=self.labels, columns=self.labels)  # pyright: ignore[reportArgumentType]
        tables = [table.rename_axis("lesion of / words of")]
        tables += [self.doses.trend_frame()] if self.doses else []
        tables += [self.sufficiency.to_frame()] if self.sufficiency else []
        return tables


def dose_response(study: LesionStudy) -> DoseResponse:
    """Rise of the losses with the dose, from the study's main ablation and those of other doses.

    Raises NotMeasuredError when the study has no other dose.
    """
    if study.doses is None:
        raise NotMeasuredError(
            f"this study has lesions of dose {study.dose:g} alone: measure several doses "
            "(0.25, 0.5, 0.75 and 1)"
        )
    return study.doses


def value_ladder(study: LesionStudy) -> pd.DataFrame:
    """A row per label and value of the lesion: do zero, mean and resample agree in sign?

    `own` is the rise of the label's own tag loss (nats), `other` the mean rise of other labels',
    `sham_own` the shams' mean own rise (NaN without shams); `agrees` says that the label's own loss
    changes in the same direction under every value. The study's own value comes first.
    """
    n = len(study.labels)
    frames = []
    for rung in study.ladder:
        own = np.diag(rung.matrix)
        frames.append(
            pd.DataFrame(
                {
                    "label": study.labels,
                    "value": rung.value,
                    "own": own,
                    "other": (rung.matrix.sum(1) - own) / max(n - 1, 1),
                    "sham_own": np.diag(rung.sham_mean) if rung.n_shams else np.full(n, np.nan),
                    "agrees": study.sign_agreement,
                }
            )
        )
    order = [i + n * j for i in range(n) for j in range(len(frames))]
    return pd.concat(frames, ignore_index=True).iloc[order].reset_index(drop=True)
