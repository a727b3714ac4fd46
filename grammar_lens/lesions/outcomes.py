"""Outcomes of a battery: predictions for every scored word under every lesion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.directions import Directions
from grammar_lens.neurons.neurons import Neurons

KINDS = ("set", "matched", "rest")


@dataclass(frozen=True, order=True)
class Ablation:
    """An ablation: a unit's activation a becomes (1 - dose) a + dose v.

    v is 0 ("zero"), the unit's mean over words ("mean"), or what the unit does at a random other
    word ("resample"), one of the same label ("resample_within"). `where` is "every" token, or for
    each word only the token before it, at which it is "scored".
    """

    value: str = "mean"
    dose: float = 1.0
    where: str = "every"

    def __str__(self) -> str:
        at = "" if self.where == "every" else ", at the scored token only"
        return f"{self.value}, dose {self.dose:g}{at}"


@dataclass(frozen=True)
class Condition:
    """One lesion of a battery: whose set it stands for, and which replicate (0 is the real one).

    `kind` is "set" (a label's units, or a sham of them matched unit by unit), "matched" (a sham that
    grew until it does as much damage), or "rest" (all units but the set, or but its sham).
    """

    label: str
    replicate: int
    neurons: Neurons | Directions
    ablation: Ablation = Ablation()
    kind: str = "set"


@dataclass(frozen=True)
class Outcomes(Shown):
    """Predictions for every scored word, intact (row 0) and under each condition.

    Losses are in nats. `tag_probability` is kept for the intact model and the real lesions only
    (`probed` numbers their rows): shams need no more than their losses. `shared` marks the words
    that are scored under every condition; at the others a row that is not probed is NaN.
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
    shared: Bool[np.ndarray, " word"]
    seen_mass: float
    """Mean probability that the intact model gives to tokens the lexicon has seen begin a word."""
    sampled: Bool[np.ndarray, " word"] | None = None
    """The words of the sentences at which every lesion was made; None for all. At the others only
    the intact model and the real lesions of the main ablation were."""

    def row(self, label: str, replicate: int) -> int:
        """The row of one lesion. Raises GrammarLensError if the battery had no such lesion."""
        for i, condition in enumerate(self.conditions):
            if condition.label == label and condition.replicate == replicate:
                return i + 1
        raise GrammarLensError(f"the battery has no lesion of {label!r}, replicate {replicate}")

    def only(self, ablation: Ablation, kind: str = "set") -> "Outcomes":
        """The intact model and the lesions of one ablation and kind."""
        wanted = (ablation, kind)
        return self.where([(c.ablation, c.kind) == wanted for c in self.conditions])

    def where(self, chosen: Sequence[bool]) -> "Outcomes":
        """The intact model and the lesions chosen."""
        rows = [0, *(row for row, is_chosen in enumerate(chosen, 1) if is_chosen)]
        probed = [i for i, row in enumerate(self.probed) if row in rows]
        return replace(
            self,
            conditions=tuple(self.conditions[row - 1] for row in rows[1:]),
            nll=self.nll[rows],
            tag_loss=self.tag_loss[rows],
            lexical_loss=self.lexical_loss[rows],
            top_label=self.top_label[rows],
            tag_probability=self.tag_probability[probed],
            probed=tuple(rows.index(self.probed[i]) for i in probed),
        )

    def real(self) -> "Outcomes":
        """The intact model and the real lesions, without shams."""
        return self.where([c.replicate == 0 for c in self.conditions])

    def sample(self) -> "Outcomes":
        """Everything at the sampled words alone."""
        if self.sampled is None:
            return self
        at = self.sampled
        return replace(
            self,
            word=self.word[at],
            sentence=self.sentence[at],
            label=self.label[at],
            nll=self.nll[:, at],
            tag_loss=self.tag_loss[:, at],
            lexical_loss=self.lexical_loss[:, at],
            top_label=self.top_label[:, at],
            tag_probability=self.tag_probability[:, at],
            shared=self.shared[at],
            sampled=None,
        )

    def joined(self, other: "Outcomes") -> "Outcomes":
        """These lesions at all their words, and others that were made at some of those words alone."""
        at = np.searchsorted(self.word, other.word)
        rows = len(self.conditions) + 1

        def put(
            own: Shaped[np.ndarray, "..."], others: Shaped[np.ndarray, "..."], empty: float | int
        ) -> Shaped[np.ndarray, "..."]:
            added = np.full((len(others) - 1, *own.shape[1:]), empty, own.dtype)
            added[:, at] = others[1:]
            return np.concatenate([own, added])

        sampled = np.zeros(len(self.word), bool)
        sampled[at] = True
        shared = np.zeros(len(self.word), bool)
        shared[at] = other.shared
        return replace(
            self,
            conditions=(*self.conditions, *other.conditions),
            nll=put(self.nll, other.nll, np.nan),
            tag_loss=put(self.tag_loss, other.tag_loss, np.nan),
            lexical_loss=put(self.lexical_loss, other.lexical_loss, np.nan),
            top_label=put(self.top_label, other.top_label, 0),
            tag_probability=put(self.tag_probability, other.tag_probability, np.nan),
            probed=(*self.probed, *(row - 1 + rows for row in other.probed if row)),
            shared=shared,
            sampled=sampled,
        )

    def identity_error(self) -> float:
        """Largest |dNLL - (dL_tag + dL_lex)| over words and conditions, nats; 0 but for rounding."""
        if len(self.conditions) == 0:
            return 0.0
        change = self.nll - self.tag_loss - self.lexical_loss
        return float(np.nanmax(np.abs(change[1:] - change[:1]), initial=0.0))

    def __repr__(self) -> str:
        return (
            f"Outcomes of {len(self.conditions)} lesions on {len(self.word):,} words, "
            f"{len(self.labels)} labels"
        )

    def _tables(self) -> list[pd.DataFrame]:
        kinds = pd.DataFrame(
            [(c.kind, str(c.ablation), c.label, c.replicate > 0) for c in self.conditions],
            columns=pd.Index(["kind", "ablation", "label", "sham"]),
        )
        return [kinds.value_counts(["kind", "ablation", "sham"], sort=False).reset_index()]
