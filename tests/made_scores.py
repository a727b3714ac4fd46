"""Activations with planted neurons, and their moments."""

import numpy as np

from grammar_lens.corpus.origin import Origin
from grammar_lens.passes.moments import Moments

ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")

LABELS = ("NOUN", "VERB", "ADJ")

PLANTED = (2, 17)


def moments_of(values: np.ndarray, classes: np.ndarray, labels: tuple[str, ...]) -> Moments:
    """Moments of words [word, layer, unit], by two passes."""
    groups = [values[classes == i] for i in range(len(labels))]
    mean = np.stack([g.mean(0) for g in groups])
    return Moments(
        labels=labels,
        count=np.array([float(len(g)) for g in groups]),
        mean=mean,
        m2=np.stack([((g - m) ** 2).sum(0) for g, m in zip(groups, mean, strict=True)]),
        fired=np.stack([(g > 0).sum(0).astype(float) for g in groups]),
        mean_abs=np.abs(values).mean(0),
        origin=ORIGIN,
    )


def planted(shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 3,000 words in 4 layers of 30, neuron (2, 17) raised by `shift` sd at verbs."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, 3000, p=[0.5, 0.2, 0.3])
    values = rng.normal(size=(3000, 4, 30)) * 3 + rng.normal(size=(4, 30)) * 10
    values[classes == 1, 2, 17] += shift * 3
    return values, classes
