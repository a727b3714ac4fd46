"""TODO: grammar_lens/corpus/origin.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What numbers are of: which model read which words, and where."""

    model: str
    treebank: str
    label: str
    position: str
    site: str
