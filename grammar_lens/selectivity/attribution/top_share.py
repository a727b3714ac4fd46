"""Share of words at which each unit is among the largest: the rule of arXiv 2511.06519."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.readers import Seen, State


class TopShareReader:
    """Counts per class the words at which a unit's value is among the `share` largest of the word.

    The word's units of all layers are ranked together, by default, and exactly ceil(share x units)
    are kept; of equal ones, those of the lower layer and index. `per_layer` ranks every layer by
    itself. Values are ranked with their sign unless `absolute`.
    Ranking needs all layers of a word, so what one batch adds is held until `commit`.
    Raises GrammarLensError if the share is not in (0, 1], and on commit if a layer is missing.
    """

    def __init__(
        self,
        n_classes: int,
        n_layers: int,
        n_units: int,
        share: float = 0.05,
        device: torch.device | None = None,
        *,
        per_layer: bool = False,
        absolute: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise GrammarLensError(f"share is {share}, expected more than 0 and at most 1")
        self._shape = (n_layers, n_units)
        self._share = share
        self._per_layer = per_layer
        self._absolute = absolute
        self._count = torch.zeros(n_classes, n_layers, n_units, dtype=torch.float64, device=device)
        self._waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def add(self, layer: int, seen: Seen, words: Int[Tensor, " word"]) -> Bool[Tensor, ""]:
        """Holds one layer's values; returns whether all of them were finite."""
        device, values = self._count.device, seen.values()
        held = (values.float().to(device), words.to(device))
        self._waiting.setdefault(layer, []).append(held)
        return torch.isfinite(values).all()

    def commit(self) -> None:
        """Ranks the words added since the last commit."""
        if not self._waiting:
            return
        missing = set(range(self._shape[0])) - set(self._waiting)
        if missing:
            raise GrammarLensError(
                f"layer {min(missing)} was not read: ranking a word's units needs all layers"
            )
        parts = [self._waiting[layer] for layer in range(self._shape[0])]
        values = torch.stack([torch.cat([v for v, _ in part]) for part in parts], 1)
        classes = torch.cat([words for _, words in parts[0]])
        self._waiting.clear()
        one_hot = torch.nn.functional.one_hot(classes, len(self._count)).T.float()
        top = self._kept(values).flatten(1).float()
        self._count += (one_hot @ top).reshape(self._count.shape)

    def discard(self) -> None:
        """Forgets what has been added since the last commit."""
        self._waiting.clear()

    def state(self) -> list[State]:
        return [{"count": self._count}]

    def load(self, pieces: Sequence[State]) -> None:
        (piece,) = pieces
        self._count = piece["count"].to(self._count.device)

    def merge(self, first: State, second: State) -> State:
        return {"count": first["count"] + second["count"]}

    def frequency(self) -> Float[np.ndarray, "label layer unit"]:
        """At how many words of each class each unit was kept."""
        return self._count.cpu().numpy().copy()

    def _kept(self, values: Float[Tensor, "word layer unit"]) -> Bool[Tensor, "word layer unit"]:
        ranked = values.abs() if self._absolute else values
        if not self._per_layer:
            ranked = ranked.flatten(1)
        n = ranked.shape[-1]
        k = math.ceil(round(self._share * n, 6))  # .07 * 100 is a little more than 7
        order = ranked.argsort(dim=-1, descending=True, stable=True)[..., :k]
        top = torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, order, True)
        return top.reshape(values.shape)
