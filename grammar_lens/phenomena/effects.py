"""Fall of the log odds of each phenomenon's pairs under some lesions, with their shams."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from grammar_lens.display import Shown
from grammar_lens.dissociation.verdicts import ENOUGH


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
class PairEffects(Shown):
    """Effects of lesions (rows) on the pairs of each phenomenon (columns).

    `fall` is the mean fall of log p(good) - log p(bad), in nats: above 0 the lesion harms the
    phenomenon; `token_fall` the same where the sentences part. `accuracy` and `token_accuracy` are the
    shares of pairs still right. `sampled` is the fall at the pairs at which shams were made, `sham` that
    under each of them. `output_ratio` is the expected output of the shams over that of the real set.
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

    @property
    def n_shams(self) -> int:
        return len(self.sham)

    @property
    def sham_mean(self) -> Float[np.ndarray, "lesion phenomenon"]:
        """The shams' mean fall; NaN without shams."""
        return self.sham.mean(0) if self.n_shams else np.full(self.fall.shape, np.nan)

    @property
    def is_weakly_matched(self) -> bool:
        """Whether the shams of a set carry less than 0.9 of its output."""
        return bool(self.n_shams and (self.output_ratio < ENOUGH).any())

    @property
    def p_value(self) -> Float[np.ndarray, "lesion phenomenon"]:
        """(1 + shams whose fall is as large or larger) / (1 + shams), of each cell alone.

        One-sided: does the lesion harm the phenomenon more than its shams do? NaN without shams.
        """
        if not self.n_shams:
            return np.full(self.fall.shape, np.nan)
        return (1 + (self.sham >= self.sampled).sum(0)) / (1 + self.n_shams)

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
        every = np.concatenate([self.sampled[None], self.sham])
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
        """A row per sham replicate, lesion and phenomenon: the fall (nats)."""
        index = pd.MultiIndex.from_product(
            [range(1, self.n_shams + 1), self.lesions, self.phenomena],
            names=["replicate", "lesion", "phenomenon"],
        )
        return pd.DataFrame({"fall": self.sham.ravel()}, index=index).reset_index()

    def matrix(self) -> pd.DataFrame:
        """The falls (nats): a row per lesion, a column per phenomenon."""
        return pd.DataFrame(self.fall, list(self.lesions), list(self.phenomena))  # pyright: ignore[reportArgumentType]

    def verdict(self) -> str:
        """Number of cells that pass .05 corrected for the whole table, and the cell of the lowest p."""
        if not self.n_shams:
            return "Without shams nothing is tested."
        p = self.p_family
        i, j = np.unravel_index(p.argmin(), p.shape)
        return (
            f"{int((p <= 0.05).sum())} of {p.size} cells pass .05 for the whole table against "
            f"{self.n_shams} shams; the lowest p, {p[i, j]:.3f}, is {self.phenomena[j]} without "
            f"{self.lesions[i]}."
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
) -> PairEffects:
    """Means over the pairs of each phenomenon of what lesions did to every pair."""
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
    )
