"""A text of one's own, token by token: its loss and the label of what comes next, intact and lesioned."""

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.corpus.lexicon import Lexicon, split_losses
from grammar_lens.defaults import SEED
from grammar_lens.display import Shown, page
from grammar_lens.errors import counted
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.next_word import Lesions, Units, Vocabulary
from grammar_lens.model.about import Model, model_name
from grammar_lens.model.forward import next_token_logits
from grammar_lens.neurons.own_text import ReadText
from grammar_lens.neurons.view_html import coloured_text

_PLACES = 256
"""Tokens whose logits are held at once."""


@dataclass(frozen=True)
class TextReading(Shown):
    """Losses of the tokens of a text, and labels expected next, intact and lesioned.

    Row 0 is the intact model, row 1 the lesioned one where there is a lesion. `nll[row, token]` is
    the loss of the token given those before it, in nats, NaN for a first token without BOS before
    it. `probability[row, token, label]` is P(label of the word that begins next | all up to here):
    it says little where the next token continues the same word.
    """

    model: str
    tokens: tuple[str, ...]
    lesion: str
    n_units: int
    value: str
    dose: float
    labels: tuple[str, ...]
    nll: Float[np.ndarray, "row token"]
    probability: Float[np.ndarray, "row token label"]

    @property
    def is_lesioned(self) -> bool:
        return len(self.nll) > 1

    @property
    def nll_change(self) -> Float[np.ndarray, " token"]:
        """The rise of each token's loss under the lesion; 0 without one."""
        return self.nll[-1] - self.nll[0]

    def to_frame(self) -> pd.DataFrame:
        """A row per token: token, nll, and for each label P(it comes next); changes under the lesion.

        `nll_lesioned`, `nll_change` and `LABEL_change` are there where there is a lesion.
        """
        columns: dict[str, object] = {"token": self.tokens, "nll": self.nll[0]}
        if self.is_lesioned:
            columns |= {"nll_lesioned": self.nll[1], "nll_change": self.nll_change}
        columns |= dict(zip(self.labels, self.probability[0].T, strict=True))
        if self.is_lesioned:
            change = self.probability[1] - self.probability[0]
            columns |= {f"{x}_change": c for x, c in zip(self.labels, change.T, strict=True)}
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        intact = f"mean loss {np.nanmean(self.nll[0]):.3f} nats per token"
        cut = ""
        if self.is_lesioned:
            worst = int(np.nanargmax(self.nll_change))
            cut = (
                f" intact and {np.nanmean(self.nll[1]):.3f} with {self.lesion} "
                f"({counted(self.n_units, 'unit')} set to {self.value}, dose {self.dose:g}); "
                f"largest rise {self.nll_change[worst]:+.3f} at {self.tokens[worst]!r}"
            )
        return f"TextReading of {self.model}, {counted(len(self.tokens), 'token')}: {intact}{cut}"

    def _repr_html_(self) -> str:
        values = self.nll_change if self.is_lesioned else self.nll[0]
        name = "rise of the loss under the lesion" if self.is_lesioned else "loss"
        notes = [self._note(i) for i in range(len(self.tokens))]
        caption = f"Colour: {name} (nats); point at a token for its numbers."
        text = coloured_text("", self.tokens, values, notes)
        return f"{page(repr(self))}{text}<small>{escape(caption)}</small>"

    def _note(self, token: int) -> str:
        """The token's loss, and the three labels most expected after it."""
        loss = " → ".join(f"{x:.2f}" for x in self.nll[:, token])
        first = np.argsort(-self.probability[0, token], kind="stable")[:3]
        then = ", ".join(
            f"{self.labels[c]} {' → '.join(f'{p:.2f}' for p in self.probability[:, token, c])}"
            for c in first
        )
        return f"loss {loss}; next: {then}"


def read_text(
    model: Model,
    text: str,
    lesion: Units | None = None,
    *,
    dose: float | int = 1.0,
    value: str | None = None,
    donors: Donors | None = None,
    lexicon: Lexicon | Treebank | Corpus | None = None,
    label: str = "upos",
    seed: int = SEED,
    allow_other_model: bool = False,
) -> TextReading:
    """The loss of every token of a text and P(label) of the word after it, intact and lesioned.

    `lesion`, `dose`, `value`, `donors`, `seed` and `allow_other_model` are those of `gl.lesion`; `lexicon` is that of
    `gl.next_word`, by default counted on the embedded English treebank.
    Raises GrammarLensError for a text that is empty or too long, and as `gl.lesion` does.
    """
    vocabulary = Vocabulary.of(model, lexicon, label)
    read = ReadText.of(model, text)
    lesions = Lesions.of(model, lesion, dose, value, donors, seed, allow_other_model)
    readings = []
    for each in lesions.doses[:1] if lesion is None else (0.0, float(dose)):
        with lesions.at(model, each):
            readings.append(_read(model, read, vocabulary))
    nll, probability = zip(*readings, strict=True)
    return TextReading(
        model=model_name(model),
        tokens=read.tokens,
        lesion=lesions.name,
        n_units=lesions.n_units,
        value=lesions.value,
        dose=0.0 if lesion is None else float(dose),
        labels=vocabulary.lexicon.labels,
        nll=np.stack(nll),
        probability=np.stack(probability),
    )


def _read(
    model: Model, read: ReadText, vocabulary: Vocabulary
) -> tuple[Float[np.ndarray, " token"], Float[np.ndarray, "token label"]]:
    """Loss of every token, and P(label) after it."""
    table = vocabulary.on_device
    ids = read.ids[0]
    n = len(ids)
    # the token after the last is not known, and its loss is not used
    gold = torch.cat([ids[1:], ids[:1]])
    losses, probability = [], []
    for begin in range(0, n, _PLACES):
        places = torch.arange(begin, min(begin + _PLACES, n), device=ids.device)
        logits = next_token_logits(model, read.ids, places).to(table.prior.device)
        token = gold[places].to(logits.device)
        any_label = torch.zeros_like(token)
        found = split_losses(logits, token, any_label, table)
        losses.append(found.nll.cpu().numpy())
        probability.append(found.tag_probability.cpu().numpy())
    after = np.concatenate(losses)
    nll = np.concatenate([[np.nan], after[:-1]])[read.first :]
    return nll, np.concatenate(probability)[read.first :]
