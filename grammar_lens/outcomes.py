"""What a battery of lesions did to every scored word."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.selection import Neurons


@dataclass(frozen=True)
class Condition:
    """One lesion of a battery: whose set it stands for, and which replicate (0 is the real one)."""

    label: str
    replicate: int
    neurons: Neurons


@dataclass(frozen=True)
class Outcomes:
    """What the model predicted for every scored word, intact (row 0) and under each condition.

    Losses are in nats. `tag_probability` is kept for the intact model and the real lesions only
    (`probed` numbers their rows): shams need no more than their losses.
    """

    conditions: tuple[Condition, ...]
    labels: tuple[str, ...]
    word: Int[np.ndarray, " word"]
    sentence: Int[np.ndarray, " word"]
    label: Int[np.ndarray, " word"]
    nll: Float[np.ndarray, "row word"]
    tag_loss: Float[np.ndarray, "row word"]
    lexical_loss: Float[np.ndarray, "row word"]
    top_label: Int[np.ndarray, "row word"]
    tag_probability: Float[np.ndarray, "probed word label"]
    probed: tuple[int, ...]
    seen_mass: float
    """Mean probability that the intact model gives to tokens the lexicon has seen begin a word."""

    def row(self, label: str, replicate: int) -> int:
        """The row of one lesion. Raises KeyError if the battery had no such lesion."""
        for i, condition in enumerate(self.conditions):
            if condition.label == label and condition.replicate == replicate:
                return i + 1
        raise KeyError(f"the battery has no lesion of {label!r}, replicate {replicate}")

    def identity_error(self) -> float:
        """Largest |dNLL - (dL_tag + dL_lex)| over words and conditions, nats; 0 but for rounding."""
        if len(self.conditions) == 0:
            return 0.0
        change = self.nll - self.tag_loss - self.lexical_loss
        return float(np.abs(change[1:] - change[:1]).max(initial=0.0))
