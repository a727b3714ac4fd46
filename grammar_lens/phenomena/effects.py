"""Fall of the log odds of each phenomenon's pairs under some lesions, with their shams."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from grammar_lens.display import Shown
from grammar_lens.dissociation.verdicts import ENOUGH, LEVEL, least


@dataclass(frozen=True)
class Falls:
    """Effects of lesions on every pair: fall of the log odds (nats), and whether it is still right.

    `sampled` marks the pairs at which shams were made; `shams` is 0 at the others.
    """

    whole: Float[np.ndarray, "lesion pair"]
    token: Float[np.ndarray, "lesion pair"]
    right: Float[np.ndarray, "lesion pair"]
    token_right: Float[np.ndarray, "lesion pair"]
    sampled: Bool[np.ndarray, " pair"]
    shams: Float[np.ndarray, "replicate lesion pair"]


@dataclass(frozen=True)
class GrownFalls:
    """Falls of the log odds (nats) under damage-matched shams; 0 at pairs that are not sampled.

    `size` counts each sham's neurons. `damage_ratio` is the mean |change of the log odds| over all sampled
    pairs under the shams over that under the real lesions; NaN where these change nothing.
    """

    shams: Float[np.ndarray, "replicate lesion pair"]
    damage_ratio: Float[np.ndarray, " lesion"]
    size: Int[np.ndarray, " lesion"]


@dataclass(frozen=True)
class DamageMatchedFalls:
    """Falls (nats) under random sets that change the log odds of all pairs as much as the real ones.

    `damage_ratio` is what they change over what the real set does, as mean |change| at the shams' pairs; NaN
    where it changes nothing. `size` counts the neurons of each sham.
    """

    sham: Float[np.ndarray, "replicate lesion phenomenon"]
    damage_ratio: Float[np.ndarray, " lesion"]
    size: Int[np.ndarray, " lesion"]


@dataclass(frozen=True)
class PairEffects(Shown):
    """Effects of lesions (rows) on the pairs of each phenomenon (columns).

    `fall` is the mean fall of log p(good) - log p(bad), in nats: above 0 the lesion harms the
    phenomenon; `token_fall` the same where the sentences part. `accuracy` and `token_accuracy` are the
    shares of pairs still right. `sampled` is the fall at the pairs at which shams were made, `sham` that
    under each output-matched one, whose expected output over that of the real set is `output_ratio`. Where
    they carry too little, `damage_matched` shams decide instead: p and `sham_mean` are of `deciding`.
    """

    lesions: tuple[str, ...]
    phenomena: tuple[str, ...]
    n_neurons: Float[np.ndarray, " lesion"]
    fall: Float[np.ndarray, "lesion phenomenon"]
    token_fall: Float[np.ndarray, "lesion phenomenon"]
    accuracy: Float[np.ndarray, "lesion phenomenon"]
    token_accuracy: Float[np.ndarray, "lesion phenomenon"]
    sampled: Float[np.ndarray, "lesion phenomenon"]
    sham: Float[np.ndarray, "replicate lesion phenomenon"]
    output_ratio: Float[np.ndarray, " lesion"]
    damage_matched: DamageMatchedFalls | None = None

    @property
    def deciding(self) -> Float[np.ndarray, "replicate lesion phenomenon"]:
        """The falls under the shams that lesions are tested against."""
        return self.sham if self.damage_matched is None else self.damage_matched.sham

    @property
    def n_shams(self) -> int:
        return len(self.deciding)

    @property
    def sham_mean(self) -> Float[np.ndarray, "lesion phenomenon"]:
        """The deciding shams' mean fall; NaN without shams."""
        return self.deciding.mean(0) if self.n_shams else np.full(self.fall.shape, np.nan)

    @property
    def is_weakly_matched(self) -> bool:
        """Whether the deciding shams carry less than 0.9 of a set's output, or do less of its damage, or the
        real sets do none that shams could match."""
        return bool(self.n_shams and not self.least_ratio >= ENOUGH)

    @property
    def least_ratio(self) -> float:
        """The smallest share of a real set's output, or damage, that its deciding shams have; NaN where no
        real set changes anything."""
        matched = self.damage_matched
        return least(self.output_ratio if matched is None else matched.damage_ratio)

    def describe_shams(self) -> str:
        """The deciding shams in a few words."""
        matched = self.damage_matched
        if matched is None:
            return f"{self.n_shams} output-matched shams"
        much = (
            ""
            if np.isnan(self.least_ratio)
            else f", changing {self.least_ratio:.2f} as much or more"
        )
        return f"{self.n_shams} damage-matched shams (of {matched.size.mean():.0f} neurons{much})"

    def why_weak(self) -> str:
        """The shortcoming of the deciding shams in a few words; empty where they are well matched."""
        if not self.is_weakly_matched:
            return ""
        if np.isnan(self.least_ratio):
            return "the real sets change nothing that shams could match"
        does, of = ("carry", "output") if self.damage_matched is None else ("do", "damage")
        return f"the shams {does} as little as {self.least_ratio:.2f} of the real sets' {of}"

    @property
    def p_value(self) -> Float[np.ndarray, "lesion phenomenon"]:
        """(1 + shams whose fall is as large or larger) / (1 + shams), of each cell alone.

        One-sided: does the lesion harm the phenomenon more than its shams do? NaN without shams.
        """
        if not self.n_shams:
            return np.full(self.fall.shape, np.nan)
        return (1 + (self.deciding >= self.sampled).sum(0)) / (1 + self.n_shams)

    @property
    def p_family(self) -> Float[np.ndarray, "lesion phenomenon"]:
        """p of each cell against the most extreme cell of every sham replicate.

        (1 + replicates whose largest z over all cells is the cell's own z or more) / (1 + shams),
        with z in standard deviations of the cell over the real lesion and its shams together. So
        the chance of any cell at or below alpha is at most alpha, and few shams suffice (the
        maximum statistic of Westfall & Young 1993). NaN without shams.
        """
        if not self.n_shams:
            return np.full(self.fall.shape, np.nan)
        every = np.concatenate([self.sampled[None], self.deciding])
        sd = every.std(0)
        z = np.where(sd > 0, (every - every.mean(0)) / np.where(sd > 0, sd, 1), 0.0)
        most = z[1:].max((1, 2))
        return (1 + (most[:, None, None] >= z[0]).sum(0)) / (1 + self.n_shams)

    def to_frame(self) -> pd.DataFrame:
        """A row per lesion and phenomenon: falls in nats, accuracies, shams, p of each cell and corrected."""
        n, m = self.fall.shape
        return pd.DataFrame(
            {
                "lesion": np.repeat(np.array(self.lesions, object), m),
                "phenomenon": np.tile(np.array(self.phenomena, object), n),
                "neurons": np.repeat(self.n_neurons, m),
                "fall": self.fall.ravel(),
                "token_fall": self.token_fall.ravel(),
                "accuracy": self.accuracy.ravel(),
                "token_accuracy": self.token_accuracy.ravel(),
                "sham_fall": self.sham_mean.ravel(),
                "p": self.p_value.ravel(),
                "p_family": self.p_family.ravel(),
            }
        )

    def sham_frame(self) -> pd.DataFrame:
        """A row per sham replicate, lesion and phenomenon: the fall (nats), and what it was matched for."""
        matched = {"output": self.sham}
        if self.damage_matched is not None:
            matched["damage"] = self.damage_matched.sham
        tables = []
        for what, falls in matched.items():
            index = pd.MultiIndex.from_product(
                [range(1, len(falls) + 1), self.lesions, self.phenomena],
                names=["replicate", "lesion", "phenomenon"],
            )
            table = pd.DataFrame({"fall": falls.ravel()}, index=index).reset_index()
            tables.append(table.assign(matched_for=what))
        return pd.concat(tables, ignore_index=True)

    def matrix(self) -> pd.DataFrame:
        """The falls (nats): a row per lesion, a column per phenomenon."""
        return pd.DataFrame(self.fall, list(self.lesions), list(self.phenomena))  # pyright: ignore[reportArgumentType]

    def verdict(self) -> str:
        """Number of cells that pass .05 corrected for the whole table, and the cell of the lowest p."""
        if not self.n_shams:
            return "Without shams nothing is tested."
        p = self.p_family
        i, j = np.unravel_index(p.argmin(), p.shape)
        why = self.why_weak()
        weak = f" As {why}, this is no evidence of selective damage." if why else ""
        return (
            f"{int((p <= LEVEL).sum())} of {p.size} cells pass .05 for the whole table against "
            f"{self.describe_shams()}; the lowest p, {p[i, j]:.3f}, is {self.phenomena[j]} without "
            f"{self.lesions[i]}.{weak}"
        )

    def __repr__(self) -> str:
        means = ", ".join(
            f"{name} {fall:+.2f}"
            for name, fall in zip(self.lesions, self.fall.mean(1), strict=True)
        )
        return f"PairEffects: mean fall of the log odds (nats) without {means}"


def effects(
    lesions: Sequence[str],
    phenomena: Sequence[str],
    column: Int[np.ndarray, " pair"],
    falls: Falls,
    n_neurons: Float[np.ndarray, " lesion"],
    output_ratio: Float[np.ndarray, " lesion"],
    grown: GrownFalls | None = None,
) -> PairEffects:
    """Means over the pairs of each phenomenon of what lesions, and their shams, did to every pair."""
    own = (column[:, None] == np.arange(len(phenomena))).astype(float)
    at_shams = own * falls.sampled[:, None]

    def mean(values: Float[np.ndarray, "*row pair"]) -> Float[np.ndarray, "*row phenomenon"]:
        return values @ own / own.sum(0)

    def mean_at_shams(
        values: Float[np.ndarray, "*row pair"],
    ) -> Float[np.ndarray, "*row phenomenon"]:
        return values @ at_shams / np.maximum(at_shams.sum(0), 1)

    return PairEffects(
        lesions=tuple(lesions),
        phenomena=tuple(phenomena),
        n_neurons=n_neurons,
        fall=mean(falls.whole),
        token_fall=mean(falls.token),
        accuracy=mean(falls.right),
        token_accuracy=mean(falls.token_right),
        sampled=mean_at_shams(falls.whole),
        sham=mean_at_shams(falls.shams),
        output_ratio=output_ratio,
        damage_matched=None
        if grown is None
        else DamageMatchedFalls(mean_at_shams(grown.shams), grown.damage_ratio, grown.size),
    )
