"""A fitted probe with everything needed to label new words."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.probing.fitting import Probe, in_sd, mean_and_sd


@dataclass(frozen=True)
class FittedProbe(Shown):
    """A linear probe on raw activations of the units at `addresses`, (layer, index).

    Activations less `mean` in units of `sd` are its features (0 where sd is 0), its logits
    `weight @ features + bias`, one for each of `labels`: those that training words had.
    """

    labels: tuple[str, ...]
    addresses: Int[np.ndarray, "unit two"]
    mean: Float[np.ndarray, " unit"]
    sd: Float[np.ndarray, " unit"]
    weight: Float[np.ndarray, "label unit"]
    bias: Float[np.ndarray, " label"]
    origin: Origin

    def predict(self, activations: Float[np.ndarray, "word unit"]) -> Int[np.ndarray, " word"]:
        """The number in `labels` of every word's most probable label."""
        probe = Probe(self.weight, self.bias, np.arange(len(self.labels)))
        return probe.predict(in_sd(activations, self.mean, self.sd))

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"FittedProbe of {len(self.labels)} labels on {len(self.addresses)} units of {o.model}, "
            f"read at {o.position!r}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        largest = self.addresses[np.abs(self.weight).argmax(1)]
        units = [f"{layer}.{index}" for layer, index in largest]
        weight = np.take_along_axis(self.weight, np.abs(self.weight).argmax(1)[:, None], 1)[:, 0]
        table = {"label": self.labels, "unit of the largest weight": units, "weight": weight}
        return [pd.DataFrame(table)]


def fitted_probe(
    probe: Probe,
    train: Float[np.ndarray, "word unit"],
    addresses: Int[np.ndarray, "unit two"],
    labels: tuple[str, ...],
    origin: Origin,
) -> FittedProbe:
    """The probe that was fitted on these training activations, in units of their sd."""
    mean, sd = mean_and_sd(train)
    known = tuple(labels[code] for code in probe.classes)
    return FittedProbe(known, addresses, mean, sd, probe.weight, probe.bias, origin)
