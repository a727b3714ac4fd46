"""Class means and the covariance within classes of all units of a layer, gathered in one pass.

They are all that a linear discriminant needs. Both merge by the formula of Chan, Golub & LeVeque
(1983), whose outer product of two means adds to the sum of squares and products.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grammar_lens.passes.chan import chan
from grammar_lens.passes.readers import AddOnce, Seen, State


class CovarianceAccumulator(AddOnce):
    """Class means of every layer, and squares and products of deviations from them, on the device.

    The codes of its tap are word numbers; `classes` has each word's class, under one labelling or
    more. Means are kept of the classes of all labellings, one after the other; `within` holds the
    deviations from the class means of the first, summed over its classes. Batches are centred on
    their own class means, so that float32 keeps what differs between words.
    """

    def __init__(
        self,
        classes: Int[np.ndarray, "labelling word"],
        n_classes: int,
        n_layers: int,
        n_units: int,
        device: torch.device,
    ) -> None:
        first_class = n_classes * np.arange(len(classes))[:, None]
        self._classes = torch.from_numpy(classes + first_class)
        self._n_classes = n_classes
        n = n_classes * len(classes)
        layers = [
            {
                "count": torch.zeros(n, dtype=torch.float64, device=device),
                "mean": torch.zeros(n, n_units, dtype=torch.float64, device=device),
                "within": torch.zeros(n_units, n_units, device=device),
                "added": torch.zeros(0, dtype=torch.int64, device=device),
            }
            for _ in range(n_layers)
        ]
        super().__init__(layers)

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        """Takes one batch's activations in one layer; returns whether all of them were finite."""
        x = seen.values().float()
        state = self._state_of(layer, x.device)
        every = words
        if len(state["added"]):
            new = ~torch.isin(words, state["added"])
            x, words = x[new], words[new]
        if not len(x):
            return torch.ones((), dtype=torch.bool, device=x.device)
        count, mean, deviation = self._of_batch(x, words)
        gaps = _gaps(state, count, mean)
        rows = torch.cat([deviation, gaps[: self._n_classes].float()])
        # nothing is changed before all is computed, so a batch that fails here is not half added
        state["within"].addmm_(rows.T, rows)
        _merge_means(state, count, mean)
        self._note_added(layer, every)
        return mean.isfinite().all()

    def _of_batch(
        self, x: Float[Tensor, "word unit"], words: Int[Tensor, " word"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count and mean of every class, and each word's deviation from its first class's mean."""
        self._classes = self._classes.to(words.device)
        row = self._classes[:, words].to(x.device)
        # a product with ones gives the same sums every time, which adding by index does not on a GPU
        member = torch.zeros(len(self._layers[0]["count"]), len(x), device=x.device)
        member[row, torch.arange(len(x), device=x.device)[None]] = 1
        size = member.sum(1)
        share = member / size.clamp(min=1)[:, None]
        shift = x[0].clone()
        x = x - shift
        mean = share @ x
        x -= mean[row[0]]
        rest = share[: self._n_classes] @ x  # what rounding of the first mean has left
        x -= rest[row[0]]
        exact = shift.double() + mean.double()
        exact[: self._n_classes] += rest.double()
        return size.double(), exact, x

    def merge(self, first: State, second: State) -> State:
        """One layer's statistics over the words of both."""
        gaps = _gaps(first, second["count"], second["mean"])[: self._n_classes].float()
        within = first["within"] + second["within"]
        whole = {
            "count": first["count"].clone(),
            "mean": first["mean"].clone(),
            "within": within.addmm_(gaps.T, gaps),
            "added": torch.cat([first["added"], second["added"]]),
        }
        _merge_means(whole, second["count"], second["mean"])
        return whole


def _gaps(
    state: State, count: Float[Tensor, " class_"], mean: Float[Tensor, "class_ unit"]
) -> Float[Tensor, "class_ unit"]:
    """Rows whose squares and products a merge adds: gaps of class means times sqrt(n m / (n + m))."""
    total = (state["count"] + count).clamp(min=1)
    weight = (state["count"] * count / total).sqrt()
    return (mean - state["mean"]) * weight[:, None]


def _merge_means(
    state: State, count: Float[Tensor, " class_"], mean: Float[Tensor, "class_ unit"]
) -> None:
    """Merges class means into running ones, in place."""
    step, _ = chan(state["count"][:, None], count[:, None], mean - state["mean"])
    state["mean"].add_(step)
    state["count"].add_(count)
