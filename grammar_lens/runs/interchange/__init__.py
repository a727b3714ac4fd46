"""Results as tables for other tools, and neuron lists of other tools as key neurons."""
