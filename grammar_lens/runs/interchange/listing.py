"""The common form of neuron lists from all formats: rows, each with its place in the file."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.selectivity.result import Scores

Like = Scores | KeyNeurons


@dataclass(frozen=True)
class Listing:
    """Neurons as a file has them.

    A row has at least `layer` and `index`; `label` is missing where the file names none. `where` and
    the row's place in the frame's index, one after the other, say where it stands.
    """

    frame: pd.DataFrame
    where: str
    ordered: bool = True
    """Whether the order of a label's rows is a ranking."""


@dataclass(frozen=True)
class Options:
    """Choices for reading numbers that are ambiguous."""

    n_layers: int
    n_units: int
    site: str
    labels: tuple[str, ...]
    one_based: bool
    first_layer: int | None


def options_of(like: Like, one_based: bool, first_layer: int | None) -> Options:
    """The shape and name of the model that the neurons belong to."""
    if isinstance(like, Scores):
        n_layers, n_units = like.values.shape[1:]
    else:
        n_layers, n_units = like.n_layers, like.n_units
    return Options(n_layers, n_units, like.origin.site, like.labels, one_based, first_layer)


def listing(
    rows: list[dict[str, Any]], places: list[Any], where: str, *, ordered: bool = True
) -> Listing:
    """Rows that were read one by one, with their places."""
    return Listing(pd.DataFrame(rows, index=pd.Index(places, dtype=object)), where, ordered)
