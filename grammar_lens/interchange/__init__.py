"""Results as tables that any tool reads, and neuron lists of other tools as key neurons."""

from grammar_lens.interchange.errors import InterchangeError
from grammar_lens.interchange.reading import read_neurons
from grammar_lens.interchange.writing import export_run

__all__ = ["InterchangeError", "export_run", "read_neurons"]
