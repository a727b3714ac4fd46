"""One pass over a corpus: its batches, the activations it hands out, and their mergeable moments."""
