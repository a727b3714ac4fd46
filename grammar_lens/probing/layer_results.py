"""Results of probes on the whole residual stream, layer by layer."""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.probing.prediction import information_gained

EMBEDDING = -1
"""The number of the layer before the first: what the first one reads."""


@dataclass(frozen=True)
class LayerProbe(Shown):
    """A linear probe on the residual stream after every layer, on held-out words at one position.

    Layer -1 is the embedding. Accuracies are in [0, 1]; `low` and `high` are ends of a 95 % bootstrap
    interval over sentences. Cross-entropies are means in nats: `cross_entropy` with one temperature
    per layer, taken from the other half of the held-out sentences, `raw_cross_entropy` without.
    `shrinkage` is the identity's share of the correlations within labels.
    """

    labels: tuple[str, ...]
    layers: Int[np.ndarray, " layer"]
    accuracy: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"]
    high: Float[np.ndarray, " layer"]
    control_accuracy: Float[np.ndarray, " layer"]
    """Accuracy at the control task: one random label for every word type (Hewitt & Liang 2019)."""
    cross_entropy: Float[np.ndarray, " layer"]
    raw_cross_entropy: Float[np.ndarray, " layer"]
    shrinkage: Float[np.ndarray, " layer"]
    majority_accuracy: float
    word_baseline_accuracy: float
    """Accuracy of each form's most frequent label; at `next` of the form of the word before."""
    word_cross_entropy: float
    """Mean loss of the label given that form alone."""
    model_cross_entropy: float | None
    """Mean loss of the label under the model's own prediction; None but at `next`."""
    n_train_words: int
    n_fresh_words: int
    n_fresh_sentences: int
    origin: Origin

    @property
    def information(self) -> Float[np.ndarray, " layer"]:
        """Information gained over the word before, as a share of what the model's prediction has.

        (CE of the word before - CE of the probe) / (CE of the word before - CE of the model); NaN
        where the model's prediction is not known, or is no better than the word before.
        """
        model, baseline = self.model_cross_entropy, self.word_cross_entropy
        if model is None:
            return np.full(len(self.layers), np.nan)
        shares = [information_gained(baseline, float(x), model) for x in self.cross_entropy]
        return np.array([np.nan if x is None else x for x in shares])

    @property
    def best_layer(self) -> int:
        """The layer with the highest accuracy, the lowest of equals."""
        return int(self.layers[self.accuracy.argmax()])

    def to_frame(self) -> pd.DataFrame:
        """A row per layer."""
        arrays = [f.name for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)]
        table = {name: getattr(self, name) for name in arrays}
        return pd.DataFrame({**table, "information": self.information}).rename(
            columns={"layers": "layer"}
        )

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"LayerProbe of {o.model} read at {o.position!r}: layer {self.best_layer} is best, accuracy "
            f"{self.accuracy.max():.3f} (word alone {self.word_baseline_accuracy:.3f}, majority "
            f"{self.majority_accuracy:.3f})"
        )


@dataclass(frozen=True)
class LayerProbes(Shown):
    """Probes on the residual stream of a model, and of its untrained twin, by position.

    `untrained` is empty where no twin was read.
    """

    trained: dict[str, LayerProbe]
    untrained: dict[str, LayerProbe]

    def __getitem__(self, position: str) -> LayerProbe:
        return self.trained[position]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.trained)

    def to_frame(self) -> pd.DataFrame:
        """A row per layer and position; columns of the twin begin with `untrained_`."""
        frames = []
        for position, probe in self.trained.items():
            frame = probe.to_frame()
            frame.insert(1, "position", position)
            if position in self.untrained:
                twin = self.untrained[position]
                frame["untrained_accuracy"] = twin.accuracy
                frame["untrained_control_accuracy"] = twin.control_accuracy
                frame["untrained_cross_entropy"] = twin.cross_entropy
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        lines = [repr(probe) for probe in self.trained.values()]
        lines += [f"untrained twin: {probe!r}" for probe in self.untrained.values()]
        return "\n".join(lines)
