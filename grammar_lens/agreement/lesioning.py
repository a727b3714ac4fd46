"""Effects of each label's lesion on number agreement, beside those of sham lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.agreement.pairs import MinimalPair
from grammar_lens.agreement.scoring import PairScores, Prepared
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.context import lesion
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.holm import holm
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.progress import track


@dataclass(frozen=True)
class AgreementStudy(Shown):
    """Agreement intact and under each label's lesion, by paradigm, with sham lesions beside.

    `change` is the mean change of log p(good) - log p(bad), in nats: below 0 the lesion harms
    agreement. `good_change` is that of log p(good) alone: below 0 it harms the sentence as such.
    """

    labels: tuple[str, ...]
    paradigms: tuple[str, ...]
    value: str
    dose: float
    intact: PairScores
    lesioned: dict[str, PairScores]
    accuracy: Float[np.ndarray, "label paradigm"]
    change: Float[np.ndarray, "label paradigm"]
    good_change: Float[np.ndarray, "label paradigm"]
    sham_accuracy: Float[np.ndarray, "sham label paradigm"]
    sham_change: Float[np.ndarray, "sham label paradigm"]

    @property
    def n_shams(self) -> int:
        return len(self.sham_change)

    @property
    def p_value(self) -> Float[np.ndarray, "label paradigm"]:
        """(1 + shams whose change is as low or lower) / (1 + shams), of each cell alone.

        One-sided: does the lesion harm agreement more than its shams do? NaN without shams.
        """
        if not self.n_shams:
            return np.full(self.change.shape, np.nan)
        return (1 + (self.sham_change <= self.change).sum(0)) / (1 + self.n_shams)

    @property
    def holm(self) -> Float[np.ndarray, "label paradigm"]:
        """`p_value` corrected for all labels and paradigms (Holm 1979).

        With n shams it is at least cells / (1 + n): 80 cells need 1,599 shams to reach .05.
        """
        p = self.p_value
        if not self.n_shams:
            return p
        return holm(p.ravel()).reshape(p.shape)

    @property
    def p_family(self) -> Float[np.ndarray, "label paradigm"]:
        """p of each cell against the most extreme cell of every sham replicate.

        (1 + replicates whose largest z over all cells is the cell's own z or more) / (1 + shams),
        with z in standard deviations of the cell over the real lesion and its shams together. So
        the chance of any cell at or below alpha is at most alpha, and few shams suffice (the
        maximum statistic of Westfall & Young 1993). NaN without shams.
        """
        if not self.n_shams:
            return np.full(self.change.shape, np.nan)
        every = np.concatenate([self.change[None], self.sham_change])
        sd = every.std(0)
        z = np.where(sd > 0, (every.mean(0) - every) / np.where(sd > 0, sd, 1), 0.0)
        most = z[1:].max((1, 2))
        return (1 + (most[:, None, None] >= z[0]).sum(0)) / (1 + self.n_shams)

    def to_frame(self) -> pd.DataFrame:
        """A row per lesioned label and paradigm, changes in nats, p of each cell and corrected."""
        p, p_family, holm = self.p_value, self.p_family, self.holm
        frames = []
        for i, label in enumerate(self.labels):
            frame = self.lesioned[label].to_frame()[
                ["paradigm", "n_pairs", "accuracy", "low", "high"]
            ]
            frame.insert(0, "lesion", label)
            frame["intact_accuracy"] = self.intact.by_paradigm(self.intact.right)
            frame["sham_accuracy"] = _sham_mean(self.sham_accuracy, i)
            frame["change"] = self.change[i]
            frame["sham_change"] = _sham_mean(self.sham_change, i)
            frame["good_change"] = self.good_change[i]
            frame["p"] = p[i]
            frame["p_family"] = p_family[i]
            frame["holm"] = holm[i]
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def pair_frame(self) -> pd.DataFrame:
        """A row per lesion ("" is none) and pair: its sentences and their log p."""
        frames = []
        for label, scores in {"": self.intact, **self.lesioned}.items():
            frame = pd.DataFrame(scores.pairs)
            frame.insert(0, "lesion", label)
            frames.append(frame.assign(log_p_good=scores.good, log_p_bad=scores.bad))
        return pd.concat(frames, ignore_index=True)

    def accuracy_table(self) -> pd.DataFrame:
        """Share of pairs right: a row per lesion, the last of the intact model, a column per paradigm."""
        table = pd.DataFrame(self.accuracy, list(self.labels), list(self.paradigms))  # pyright: ignore[reportArgumentType]
        table.loc["intact"] = self.intact.by_paradigm(self.intact.right)
        return table

    def verdict(self) -> str:
        """Number of cells that pass .05 corrected for the whole table, and the cell of the lowest p."""
        table = self.to_frame()
        if not self.n_shams:
            return "Without shams nothing is tested."
        lowest = table.loc[table.p_family.idxmin()]
        return (
            f"{int((table.p_family <= 0.05).sum())} of {len(table)} cells pass .05 for the whole "
            f"table; the lowest p, {lowest.p_family:.3f}, is {lowest.paradigm} without {lowest.lesion}"
        )

    def sham_frame(self) -> pd.DataFrame:
        """A row per sham replicate, label and paradigm: accuracy and change (nats)."""
        index = pd.MultiIndex.from_product(
            [range(1, self.n_shams + 1), self.labels, self.paradigms],
            names=["replicate", "lesion", "paradigm"],
        )
        columns = {"accuracy": self.sham_accuracy.ravel(), "change": self.sham_change.ravel()}
        return pd.DataFrame(columns, index=index).reset_index()

    def __repr__(self) -> str:
        means = ", ".join(
            f"{label} {change:+.2f}"
            for label, change in zip(self.labels, self.change.mean(1), strict=True)
        )
        return (
            f"AgreementStudy of {len(self.intact.pairs):,} pairs, {self.value}, dose {self.dose:g}, "
            f"{self.n_shams} shams: {self.intact.right.mean():.3f} right intact; mean change of the "
            f"log odds (nats): {means}"
        )


def agreement_study(
    model: Model,
    keys: KeyNeurons,
    pairs: Sequence[MinimalPair],
    *,
    shams: Sequence[KeyNeurons] | None = None,
    value: str = "mean",
    dose: float | int = 1.0,
    donors: Donors | None = None,
    token_budget: int | None = None,
    show_progress: bool = True,
    allow_other_model: bool = False,
) -> AgreementStudy:
    """Scores the pairs intact, under the lesion of every label's neurons, and under every sham's.

    `shams` are replicates of `keys`, each with sets for the same labels of the same sizes. `donors`
    (grammar_lens.lesions.donors.record_donors) are what the value "resample" draws from.
    Raises GrammarLensError for shams that are none, without labels, and for neurons of a model with
    other weights, unless `allow_other_model`.
    """
    replicates = tuple(shams or ())
    _check_shams(keys, replicates)
    prepared = Prepared(model, pairs, token_budget)
    sets = [keys, *replicates]
    total = prepared.n_tokens * (1 + len(sets) * len(keys))

    options: dict[str, Any] = {"value": value, "dose": float(dose), "donors": donors}
    options |= {"allow_other_model": allow_other_model}
    with track("scoring pairs", total, unit="tokens", show=show_progress) as step:

        def under(neurons: Neurons) -> PairScores:
            with lesion(model, neurons, **options):
                return prepared.score(model, step)

        intact = prepared.score(model, step)
        real = {label: under(keys[label]) for label in keys}
        sham = [[under(replicate[label]) for label in keys] for replicate in replicates]

    shape = (len(replicates), len(keys), len(intact.paradigms))
    damage = list(real.values())
    return AgreementStudy(
        labels=keys.labels,
        paradigms=intact.paradigms,
        value=value,
        dose=float(dose),
        intact=intact,
        lesioned=real,
        accuracy=_accuracy(damage),
        change=_change(damage, intact),
        good_change=np.stack([s.by_paradigm(s.good - intact.good) for s in damage]),
        sham_accuracy=np.array([_accuracy(row) for row in sham]).reshape(shape),
        sham_change=np.array([_change(row, intact) for row in sham]).reshape(shape),
    )


def _check_shams(keys: KeyNeurons, shams: Sequence[KeyNeurons]) -> None:
    if not len(keys):
        raise GrammarLensError("there is no label whose neurons could be cut")
    for i, sham in enumerate(shams, 1):
        sizes = {label: len(keys[label]) for label in keys}
        given = {label: len(sham[label]) for label in sham}
        if sizes != given:
            raise GrammarLensError(
                f"sham {i} has sets of {given}, expected as many neurons as the key neurons: {sizes}"
            )


def _accuracy(scores: Sequence[PairScores]) -> Float[np.ndarray, "label paradigm"]:
    return np.stack([s.by_paradigm(s.right) for s in scores])


def _change(
    scores: Sequence[PairScores], intact: PairScores
) -> Float[np.ndarray, "label paradigm"]:
    return np.stack([s.by_paradigm(s.log_odds - intact.log_odds) for s in scores])


def _sham_mean(
    values: Float[np.ndarray, "sham label paradigm"], label: int
) -> Float[np.ndarray, " paradigm"]:
    return values[:, label].mean(0) if len(values) else np.full(values.shape[2], np.nan)
