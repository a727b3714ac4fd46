"""Redundancy: cut the key neurons, find new ones in the lesioned model, cut those too."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError, counted


@dataclass(frozen=True)
class Round:
    """One round of lesion and search: what was cut so far, and what it costs.

    `k` counts the neurons of one label cut up to and with this round. `own` is the rise of each
    label's own tag loss (nats) under all of them, against the intact model. `found_again` is the
    share of this round's neurons that already stood among the next best in the intact model; NaN in
    the first round, which has nothing to compare with.
    """

    k: int
    own: Float[np.ndarray, " label"]
    found_again: Float[np.ndarray, " label"]

    def __repr__(self) -> str:
        return f"Round: {self.k} neurons of a tag cut, its own loss {self.own.mean():+.3f} nats"


@dataclass(frozen=True)
class Redundancy(Shown):
    """Own-tag loss after each round of cutting the key neurons and finding new ones.

    Neurons found after a lesion that cost little more hold little of the tag; a gain as large as the
    first round's says that others had stood by and taken over.
    """

    labels: tuple[str, ...]
    rounds: tuple[Round, ...]

    @property
    def own(self) -> Float[np.ndarray, "round label"]:
        return np.stack([r.own for r in self.rounds])

    @property
    def gain(self) -> Float[np.ndarray, "round label"]:
        """Rise of the loss that each round adds (nats)."""
        return np.diff(self.own, axis=0, prepend=0.0)

    def to_frame(self) -> pd.DataFrame:
        """A row per label and round, rounds from 1."""
        n = len(self.rounds)
        return pd.DataFrame(
            {
                "label": np.repeat(np.array(self.labels, object), n),
                "round": np.tile(np.arange(1, n + 1), len(self.labels)),
                "k": np.tile([r.k for r in self.rounds], len(self.labels)),
                "own": self.own.T.ravel(),
                "gain": self.gain.T.ravel(),
                "found_again": np.stack([r.found_again for r in self.rounds]).T.ravel(),
            }
        )

    def verdict(self) -> str:
        """The outcome in one sentence."""
        steps = ", ".join(
            f"{own.mean():.3f} (k = {r.k})" for own, r in zip(self.own, self.rounds, strict=True)
        )
        later = self.gain[1:].mean()
        return (
            f"Cut again and again, a tag's neurons cost its own loss {steps} nats; a later round adds "
            f"{later:.3f} in the mean, the first cost {self.gain[0].mean():.3f}."
        )

    def __repr__(self) -> str:
        return f"Redundancy: {self.verdict()}"


def redundancy(labels: tuple[str, ...], rounds: Sequence[Round]) -> Redundancy:
    """The rounds as one result.

    Raises GrammarLensError for fewer than two rounds, for rounds that do not cut ever more neurons, and
    for losses that are not finite.
    """
    if len(rounds) < 2:
        raise GrammarLensError(
            f"{counted(len(rounds), 'round')} of lesions given, expected 2 or more: redundancy compares rounds"
        )
    sizes = [r.k for r in rounds]
    if sizes != sorted(set(sizes)):
        raise GrammarLensError(f"rounds cut {sizes} neurons, expected ever more: lesions add up")
    for number, r in enumerate(rounds, 1):
        if r.own.shape != (len(labels),) or not np.isfinite(r.own).all():
            raise GrammarLensError(
                f"round {number} has the losses {r.own.tolist()}, expected {len(labels)} finite ones"
            )
    return Redundancy(labels, tuple(rounds))
