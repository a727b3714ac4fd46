"""Damage-matched shams: random sets that raise the loss as much in total as the real ones."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.display import Shown
from grammar_lens.dissociation.changes import Changes, replicates, total_damage
from grammar_lens.dissociation.matrices import LEAST_LABELS, chance, diagonal_score
from grammar_lens.dissociation.pairs import CrossedPair, crossed_pairs
from grammar_lens.dissociation.verdicts import (
    ENOUGH,
    LEVEL,
    describe_pairs,
    least,
    significance,
)
from grammar_lens.lesions.outcomes import Outcomes


@dataclass(frozen=True)
class DamageMatched(Shown):
    """The real lesions against random sets that grew until the loss rose as much in all.

    `sham` has one matrix of tag-loss changes (nats) per replicate. `damage_ratio` is the rise of the
    loss (NLL, over the words every lesion scored) under the shams over that under the real set,
    mean over replicates; NaN where the real set does no damage. `size` counts each sham's neurons.
    """

    labels: tuple[str, ...]
    sham: Float[np.ndarray, "replicate label label"]
    damage_ratio: Float[np.ndarray, " label"]
    size: Int[np.ndarray, "replicate label"]
    s_star: float
    s_star_sham: Float[np.ndarray, " replicate"]
    crossed_pairs: tuple[CrossedPair, ...]

    @property
    def n_shams(self) -> int:
        return len(self.sham)

    @property
    def sham_mean(self) -> Float[np.ndarray, "label label"]:
        return self.sham.mean(0)

    @property
    def p_value(self) -> float | None:
        """(1 + shams with S* at least the real one) / (1 + shams); None with two labels."""
        return None if len(self.labels) < LEAST_LABELS else chance(self.s_star, self.s_star_sham)

    def verdict(self) -> str:
        """The outcome in two or three sentences."""
        low = least(self.damage_ratio)
        size = f" (of {self.size.mean():.0f} neurons, doing {low:.2f} of the damage or more)"
        if self.p_value is None:
            return f"{self.n_shams} damage-matched shams{size} cannot tell two tags apart."
        sentence = significance(self.p_value, self.n_shams, "damage-matched shams", size)
        confirmed = [pair.confirmed for pair in self.crossed_pairs]
        pairs = describe_pairs(len(self.labels), confirmed, doubtful=self.p_value > LEVEL)
        weak = (
            " These shams still do too little damage, so the comparison is not settled."
            if low < ENOUGH
            else ""
        )
        return f"{sentence} Against them, {pairs[0].lower()}{pairs[1:]}{weak}"

    def __repr__(self) -> str:
        return f"DamageMatched: {self.verdict()}"

    def _tables(self) -> list[pd.DataFrame]:
        table = {"label": self.labels, "neurons of a sham (mean)": self.size.mean(0)}
        table["shams' damage / real damage"] = self.damage_ratio
        return [pd.DataFrame(table)]


def damage_matched(
    outcomes: Outcomes,
    matched: Outcomes,
    changes: Changes,
    sample: Changes,
    auroc_falls: Float[np.ndarray, "label label"],
    rng: np.random.Generator,
    n_bootstrap: int,
) -> DamageMatched:
    """The statistics of `matched` shams against the real lesions in `outcomes`, at the sampled words.

    `changes` are those of the real lesions at all words, `sample` at the sampled ones.
    """
    labels = changes.labels
    shams = sample.against(matched)
    matrices = shams.sham_matrices()
    conditions = {(c.label, c.replicate): len(c.neurons) for c in matched.conditions}
    numbers = replicates(matched)
    return DamageMatched(
        labels=labels,
        sham=matrices,
        damage_ratio=damage_ratio(outcomes, matched, labels),
        size=np.array([[conditions[x, r] for x in labels] for r in numbers], np.int64),
        s_star=diagonal_score(shams.matrix()),
        s_star_sham=np.array([diagonal_score(m) for m in matrices]),
        crossed_pairs=crossed_pairs(changes, shams, auroc_falls, rng, n_bootstrap),
    )


def damage_ratio(
    real: Outcomes, shams: Outcomes, labels: tuple[str, ...]
) -> Float[np.ndarray, " label"]:
    """Total damage of the shams over that of the real set; NaN without shams, or without damage."""
    numbers = replicates(shams)
    ratio = np.full(len(labels), np.nan)
    if not numbers:
        return ratio
    whole = total_damage(real, labels, 0)
    mean = np.mean([total_damage(shams, labels, r) for r in numbers], axis=0)
    return np.divide(mean, whole, out=ratio, where=whole > 0)
