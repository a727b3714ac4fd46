"""The result of a study of phenomena and its verdict."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown, listed
from grammar_lens.dissociation.matrices import LEAST_LABELS, chance
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.verdicts import LEVEL, NEGLIGIBLE, why_no_p
from grammar_lens.errors import counted
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.phenomena.effects import PairEffects

CHANCE = 0.5
"""Accuracy of a model that tosses a coin."""


@dataclass(frozen=True)
class PhenomenaStudy(Shown):
    """Lesions of each phenomenon's and each tag's neurons, measured on minimal pairs.

    `own` are the lesions of each phenomenon's neurons, chosen on the pairs of other folds than those
    they are tested on; `tags` those of the tags' key neurons, None without tags. `intact` has a row per
    phenomenon (see `PairScores.to_frame`). `keys` are the neurons chosen on all pairs, for lists and
    overlaps alone. `overlap` has a row per phenomenon and tag, `reliability` one per phenomenon for the
    choices of two folds. `s_star_sham` and `crossed_pairs` are against the deciding shams of `own`. `crossed_pairs` are pairs of phenomena that dissociate doubly, `confirmed` where
    the fall in accuracy says so too. Intervals are those of a bootstrap over groups of like pairs.
    """

    phenomena: tuple[str, ...]
    terms: tuple[str, ...]
    n_pairs: Int[np.ndarray, " phenomenon"]
    n_sham_pairs: Int[np.ndarray, " phenomenon"]
    folds: int
    k: int
    ablation: Ablation
    intact: pd.DataFrame
    own: PairEffects
    tags: PairEffects | None
    s_star: float
    s_star_sham: np.ndarray
    crossed_pairs: tuple[CrossedPair, ...]
    dominance_interval: tuple[float, float]
    """95 % interval of own minus other fall of the log odds (nats)."""
    specificity_interval: tuple[float, float]
    keys: KeyNeurons
    overlap: pd.DataFrame
    reliability: pd.DataFrame
    notes: tuple[str, ...]
    origin: Origin
    pairs: pd.DataFrame | None = None
    """A row per pair: fold, sentences, log odds intact and under every real lesion (nats). None in a
    study loaded from its files, where it has a file of its own."""

    @property
    def diagonal_mean(self) -> float:
        return float(np.diag(self.own.fall).mean())

    @property
    def off_diagonal_mean(self) -> float:
        return float(self.own.fall[~np.eye(len(self.phenomena), dtype=bool)].mean())

    @property
    def same_term_mean(self) -> float:
        """Mean fall of other phenomena of the same term; NaN where each has a term of its own."""
        term = np.array(self.terms, object)
        same = (term[:, None] == term) & ~np.eye(len(term), dtype=bool)
        return float(self.own.fall[same].mean()) if same.any() else float("nan")

    @property
    def dominance(self) -> float:
        """The mean diagonal minus the mean off-diagonal (nats)."""
        return self.diagonal_mean - self.off_diagonal_mean

    @property
    def specificity(self) -> float | None:
        """1 - off-diagonal / diagonal mean; None where the own pairs do not suffer."""
        own = self.diagonal_mean
        return 1 - self.off_diagonal_mean / own if own > 0 else None

    @property
    def p_value(self) -> float | None:
        """(1 + shams with S* at least the real one) / (1 + shams); None with fewer than three phenomena."""
        if len(self.phenomena) < LEAST_LABELS:
            return None
        return chance(self.s_star, self.s_star_sham)

    @property
    def known(self) -> Bool[np.ndarray, " phenomenon"]:
        """Phenomena that the intact model masters better than chance: the 95 % interval of its accuracy lies
        above one half."""
        return self.intact["low"].to_numpy(float) > CHANCE

    @property
    def is_negligible(self) -> bool:
        """Whether there is too little to lose for a finding, whatever its p: the intact model masters no
        more than half of the phenomena better than chance, or their own pairs lose less than a hundredth of
        its log odds. An untrained model masters one in six, by the length of the sentences or the words they
        differ in, and has neurons that its preference for these words needs."""
        least_fall = NEGLIGIBLE * float(self.intact["log_odds"].mean())
        return bool(self.known.mean() <= 0.5 or self.diagonal_mean < least_fall)

    @property
    def is_selective(self) -> bool:
        """Whether the lesions of phenomena are shown to be selective, against shams of like output or damage;
        never if what they cost is negligible."""
        p, matched = self.p_value, not self.own.is_weakly_matched
        passes = p is not None and p <= LEVEL and matched and self.dominance_interval[0] > 0
        return passes and not self.is_negligible

    def verdict(self) -> str:
        """The conclusions in a few sentences."""
        parts = [
            self._size(),
            self._selectivity(),
            self._pairs(),
            f"Phenomena: {self.own.verdict()}",
        ]
        if self.tags is not None:
            parts.append(f"Tags: {self.tags.verdict()}")
        return " ".join(parts)

    def _size(self) -> str:
        text = (
            f"Cutting a phenomenon's {self.k} neurons lowers the log odds of its own held-out pairs by "
            f"{self.diagonal_mean:.3f} nats and those of other phenomena by {self.off_diagonal_mean:.3f}"
        )
        if self.specificity is not None:
            low, high = self.specificity_interval
            text += f": specificity {self.specificity:.2f} (95 % interval {low:.2f} to {high:.2f})"
        if np.isfinite(self.same_term_mean):
            text += f"; others of the same term fall by {self.same_term_mean:.3f}"
        return f"{text}.{self._reservations()}"

    def _reservations(self) -> str:
        """Phenomena without neurons, and those that the intact model does not master."""
        masks = {
            " No neuron was chosen for {}.": self.own.n_neurons == 0,
            " The intact model does not master {} better than chance.": ~self.known,
        }
        names = np.array(self.phenomena, object)
        return "".join(text.format(listed(names[of])) for text, of in masks.items() if of.any())

    def _selectivity(self) -> str:
        p, shams = self.p_value, self.own.describe_shams()
        if p is None:
            return why_no_p(len(self.phenomena), self.own.n_shams).replace("tags", "phenomena")
        if self.is_selective:
            return f"The damage is selective: its pattern is not that of {shams} (p = {p:.3f})."
        reasons = [f"p = {p:.3f} against {shams}"]
        if why := self.own.why_weak():
            reasons.append(why)
        if self.dominance_interval[0] <= 0:
            low, high = self.dominance_interval
            reasons.append(f"own minus other is {low:+.3f} to {high:+.3f} nats, which includes 0")
        if self.known.mean() <= 0.5:
            n, every = int(self.known.sum()), len(self.phenomena)
            reasons.append(f"the intact model masters {n} of {every} better than chance")
        elif self.is_negligible:
            reasons.append("the fall is less than a hundredth of the intact log odds")
        return f"Selective damage is not shown: {'; '.join(reasons)}."

    def _pairs(self) -> str:
        n = len(self.phenomena) * (len(self.phenomena) - 1) // 2
        confirmed = sum(pair.confirmed for pair in self.crossed_pairs)
        return (
            f"{len(self.crossed_pairs)} of {counted(n, 'pair')} of phenomena dissociate doubly, "
            f"{confirmed} of them by accuracy too."
        )

    def to_frame(self) -> pd.DataFrame:
        """A row per lesion and phenomenon; `of` says whether it is a phenomenon's or a tag's lesion."""
        tables = [self.own.to_frame().assign(of="phenomenon")]
        if self.tags is not None:
            tables.append(self.tags.to_frame().assign(of="tag"))
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, "of", table.pop("of"))
        return table

    def __repr__(self) -> str:
        return (
            f"PhenomenaStudy of {counted(len(self.phenomena), 'phenomenon', 'phenomena')}, "
            f"{int(self.n_pairs.sum()):,} pairs, {self.ablation}: {self._size()} {self._selectivity()}"
        )

    def _title(self) -> str:
        return f"{self!r} Fall of the log odds (nats):"

    def _tables(self) -> list[pd.DataFrame]:
        tables = [self.own.matrix()]
        tables += [self.tags.matrix()] if self.tags is not None else []
        return [*tables, self.intact]
