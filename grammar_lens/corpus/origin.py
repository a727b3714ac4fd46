"""Origin of numbers: model, treebank, label, position and site."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """The model, words and place in the network that numbers belong to."""

    model: str
    treebank: str
    label: str
    position: str
    site: str
