"""Key neurons: for every label, the neurons that a rule picks from the scores."""

from grammar_lens.selection.choosing import RULES, select
from grammar_lens.selection.neurons import KeyNeurons, Neurons, SelectionError, all_neurons

__all__ = [
    "RULES",
    "KeyNeurons",
    "Neurons",
    "SelectionError",
    "all_neurons",
    "select",
]
