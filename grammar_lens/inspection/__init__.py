"""One neuron of a run, looked at from all sides: scores, words, and the tokens it promotes."""

from grammar_lens.inspection.view import (
    InspectionError,
    NeuronView,
    Whole,
    parse_address,
    require_neuron,
    scores_of,
)

__all__ = [
    "InspectionError",
    "NeuronView",
    "Whole",
    "parse_address",
    "require_neuron",
    "scores_of",
]
