"""Key neurons: for every label, the neurons that a rule picks from the scores."""
