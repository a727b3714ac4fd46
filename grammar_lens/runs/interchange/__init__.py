"""Results as tables that any tool reads, and neuron lists of other tools as key neurons."""
