"""Origin of numbers: model, treebank, label, position and site."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Origin:
    """The model, words and place in the network that numbers belong to."""

    model: str
    treebank: str
    label: str
    position: str
    site: str
    weights: str = field(default="", repr=False)
    """Fingerprint of the model's weights; empty where it is not known, as in older files."""
