"""Features of words for probes, and the feature columns of each baseline."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.errors import GrammarLensError


@dataclass(frozen=True)
class ProbeWords:
    """Activations, classes and forms of some words.

    `key` is the form that a lookup would know at that position: the word itself, or, when the next
    word is to be predicted, the word before it. `sentence` numbers the sentence of every word; with
    it intervals are over sentences, whose words are not independent, and not over words.
    """

    features: Float[np.ndarray, "word unit"]
    classes: Int[np.ndarray, " word"]
    key: tuple[str, ...]
    sentence: Int[np.ndarray, " word"] | None = None

    def columns(self, which: Int[np.ndarray, " column"]) -> Float[np.ndarray, "word column"]:
        return self.features[:, which]

    @property
    def groups(self) -> Int[np.ndarray, " word"]:
        """Units of the bootstrap: the sentence of every word, or the word itself."""
        return np.arange(len(self.classes)) if self.sentence is None else self.sentence


@dataclass(frozen=True)
class Columns:
    """The feature columns of the probe and of each baseline.

    `layer` are all units of one layer, number `layer_number`, that the caller takes for the best.
    Where `layers` holds the units of several by their numbers, the best is chosen instead by its
    accuracy on a fifth of the training words that is held out for that choice.
    """

    key: Int[np.ndarray, " key"]
    random: tuple[Int[np.ndarray, " key"], ...]
    layer: Int[np.ndarray, " layer_unit"]
    layer_number: int
    layers: dict[int, Int[np.ndarray, " _"]] = field(default_factory=dict)


def check_words(train: ProbeWords, fresh: ProbeWords) -> None:
    """Raises GrammarLensError without words, with a single label, or with different units."""
    for name, words in (("training", train), ("fresh", fresh)):
        if len(words.classes) == 0:
            raise GrammarLensError(
                f"no {name} word could be read: the probe needs words of every label"
            )
    if len(np.unique(train.classes)) < 2:
        raise GrammarLensError(
            "all training words have one label: a probe needs two labels or more"
        )
    if train.features.shape[1] != fresh.features.shape[1]:
        raise GrammarLensError(
            f"training words have {train.features.shape[1]} units and held-out words "
            f"{fresh.features.shape[1]}: read the same addresses of both"
        )
