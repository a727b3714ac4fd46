"""Predictions after a prompt, intact and lesioned: the next word's label, and the next token."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon
from grammar_lens.corpus.lexicon import DeviceLexicon, Lexicon, WordLosses, split_losses
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.defaults import SEED
from grammar_lens.display import Shown, page, probability_table
from grammar_lens.errors import GrammarLensError, counted
from grammar_lens.lesions.context import default_value, lesion, units_of
from grammar_lens.lesions.directions import Directions
from grammar_lens.lesions.donors import Donors
from grammar_lens.model.about import (
    Model,
    context_length,
    device_of,
    model_name,
    vocabulary_size,
)
from grammar_lens.model.forward import next_token_logits
from grammar_lens.neurons.address import Addresses
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.neurons.same_model import require_same_model

N_TOKENS = 10
"""Likeliest tokens that are shown."""
Doses = float | int | Sequence[float | int]
Units = Neurons | Directions | Addresses
"""Units to lesion: a set, or addresses such as "7.336" and [(7, 336), "6.12"]."""


@dataclass(frozen=True)
class LikelyToken:
    """A token that may come next. `label` is what words that begin with it mostly are; None if unseen."""

    text: str
    probability: float
    label: str | None


@dataclass(frozen=True)
class Prediction:
    """P(label | prompt), the likeliest tokens, and how far the lexicon knows what may come.

    `seen_mass` is the probability of the tokens that the lexicon has seen begin a word: of the rest
    it knows the label's overall frequency alone.
    """

    labels: tuple[str, ...]
    probability: Float[np.ndarray, " label"]
    seen_mass: float
    tokens: tuple[LikelyToken, ...]


@dataclass(frozen=True)
class Vocabulary:
    """A lexicon, and its tables where the model computes."""

    lexicon: Lexicon
    on_device: DeviceLexicon

    @classmethod
    def of(
        cls, model: Model, lexicon: Lexicon | Treebank | Corpus | None, label: str = "upos"
    ) -> "Vocabulary":
        """A lexicon on the model's device; of a treebank its words are counted now.

        Without one, those of the embedded treebank's train split are counted with the model's tokenizer.
        """
        if lexicon is None:
            lexicon = load_treebank()["train"]
        if not isinstance(lexicon, Lexicon):
            lexicon = fit_lexicon(model, lexicon, label=label)
        table = DeviceLexicon.of(lexicon, vocabulary_size(model), device_of(model))
        return cls(lexicon, table)

    def label_of(self, token: int) -> str | None:
        """The commonest label of words that begin with a token; None for a token that begins none."""
        if token >= len(self.lexicon.seen) or not self.lexicon.seen[token]:
            return None
        return self.lexicon.labels[int(self.lexicon.probability[token].argmax())]


@dataclass(frozen=True)
class NextWord(Shown):
    """Predictions after a prompt at every dose of a lesion; the first dose is 0, the intact model.

    `probability[dose, label]` is P(label | prompt), `seen_mass[dose]` the probability of tokens that
    the lexicon has seen begin a word. `tokens` are the likeliest at any dose, most likely first.
    """

    model: str
    prompt: str
    lesion: str
    """The name of the set that is lesioned; empty without a lesion."""
    n_units: int
    value: str
    doses: tuple[float, ...]
    labels: tuple[str, ...]
    probability: Float[np.ndarray, "dose label"]
    seen_mass: Float[np.ndarray, " dose"]
    tokens: tuple[str, ...]
    token_label: tuple[str | None, ...]
    token_probability: Float[np.ndarray, "dose token"]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the doses in tables and figures: intact, dose 0.5, ..."""
        return ("intact", *(f"dose {dose:g}" for dose in self.doses[1:]))

    def to_frame(self) -> pd.DataFrame:
        """A row per label, likeliest first: P(label | prompt) intact and at each dose, and the change.

        `change` is the last dose less intact.
        """
        frame = self._table({"label": self.labels}, self.probability)
        return frame.sort_values("intact", ascending=False, kind="stable", ignore_index=True)

    def tokens_frame(self) -> pd.DataFrame:
        """A row per likely token: its label (most of its words'), and its probability at each dose."""
        names = {"token": self.tokens, "label": [label or "" for label in self.token_label]}
        return self._table(names, self.token_probability)

    def _table(
        self, names: dict[str, Sequence[str]], probability: Float[np.ndarray, "dose row"]
    ) -> pd.DataFrame:
        columns = dict(zip(self.columns, probability, strict=True))
        change = {"change": probability[-1] - probability[0]} if len(self.doses) > 1 else {}
        return pd.DataFrame({**names, **columns, **change})

    @property
    def lesion_name(self) -> str:
        """The lesion in words; empty without one."""
        if not self.lesion:
            return ""
        return f"{self.lesion} ({counted(self.n_units, 'unit')} set to {self.value})"

    def __repr__(self) -> str:
        cut = f", lesion of {self.lesion_name}" if self.lesion else ""
        p, moved = (
            self.probability,
            int(np.abs(self.probability[-1] - self.probability[0]).argmax()),
        )
        likely = int(p[0].argmax())
        text = f"P({self.labels[likely]}) {p[0, likely]:.3f} intact"
        if self.lesion:
            text = (
                f"P({self.labels[moved]}) changes most, {p[0, moved]:.3f} intact and "
                f"{p[-1, moved]:.3f} at dose {self.doses[-1]:g}"
            )
        tokens = self.tokens_frame()
        first, last = (
            tokens["token"][tokens[c].idxmax()] for c in (self.columns[0], self.columns[-1])
        )
        then = f", then {last!r}" if last != first else ""
        return f"NextWord after {self.prompt!r} of {self.model}{cut}: {text}; likeliest {first!r}{then}"

    def _tables(self) -> list[pd.DataFrame]:
        return [self.to_frame(), self.tokens_frame()]

    def _repr_html_(self) -> str:
        tables = probability_table(self.to_frame(), 1) + probability_table(self.tokens_frame(), 2)
        return f"{page(repr(self))}<div style='display:flex;flex-wrap:wrap;gap:32px'>{tables}</div>"


def next_word(
    model: Model,
    prompt: str,
    lesion: Units | None = None,
    *,
    doses: Doses = (1.0,),
    value: str | None = None,
    donors: Donors | None = None,
    lexicon: Lexicon | Treebank | Corpus | None = None,
    label: str = "upos",
    n_tokens: int = N_TOKENS,
    seed: int = SEED,
    allow_other_model: bool = False,
) -> NextWord:
    """P(label) of the word after a prompt and the likeliest tokens, intact and at each dose of a lesion.

    P(t|c) = sum_v p(v|c) lambda(t|v), with P(label | first token) from `lexicon`: a `Lexicon`, or a
    treebank whose words are counted, by default the embedded English one. `lesion`, `value`, `donors`,
    `seed` and `allow_other_model` are those of `gl.lesion`. Blanks at the prompt's end are not read.
    Raises GrammarLensError for a prompt that is empty or too long, and as `gl.lesion` does.
    """
    vocabulary = Vocabulary.of(model, lexicon, label)
    token_ids = encode(model, prompt)
    lesions = Lesions.of(model, lesion, doses, value, donors, seed, allow_other_model)
    labels, seen, likely = [], [], []
    for dose in lesions.doses:
        with lesions.at(model, dose):
            logits = _last_logits(model, vocabulary, token_ids)
        losses = _split(logits, vocabulary)
        labels.append(losses.tag_probability[0].cpu().numpy())
        seen.append(float(losses.seen_mass[0]))
        likely.append(logits[0].double().softmax(0).cpu())
    n_tokens = min(n_tokens, len(likely[0]))
    every = torch.stack(likely)
    top = dict.fromkeys(every.topk(n_tokens, dim=1).indices.flatten().tolist())
    ids = sorted(top, key=lambda i: -float(every[:, i].max()))
    return NextWord(
        model=model_name(model),
        prompt=prompt.rstrip(),
        lesion=lesions.name,
        n_units=lesions.n_units,
        value=lesions.value,
        doses=lesions.doses,
        labels=vocabulary.lexicon.labels,
        probability=np.stack(labels),
        seen_mass=np.array(seen),
        tokens=tuple(model.tokenizer.decode([i]) for i in ids),
        token_label=tuple(vocabulary.label_of(i) for i in ids),
        token_probability=every[:, ids].numpy(),
    )


@dataclass(frozen=True)
class Lesions:
    """A lesion at several doses, the first of them 0; no units where there is none."""

    units: Neurons | Directions | None
    doses: tuple[float, ...]
    value: str
    donors: Donors | None
    seed: int

    @classmethod
    def of(
        cls,
        model: Model,
        units: Units | None,
        doses: Doses,
        value: str | None,
        donors: Donors | None,
        seed: int,
        allow_other_model: bool = False,
    ) -> "Lesions":
        """Doses in the order given, each once, after the intact model."""
        if units is None:
            return cls(None, (0.0,), "", None, seed)
        chosen = units_of(units)
        if isinstance(chosen, Neurons):
            require_same_model(model, chosen, allow_other_model=allow_other_model)
        given = [doses] if isinstance(doses, int | float) else doses
        every = tuple(dict.fromkeys([0.0, *map(float, given)]))
        return cls(chosen, every, value or default_value(chosen), donors, seed)

    @property
    def name(self) -> str:
        return "" if self.units is None else self.units.name

    @property
    def n_units(self) -> int:
        return 0 if self.units is None else len(self.units)

    @contextmanager
    def at(self, model: Model, dose: float) -> Iterator[Model]:
        """While open, the model is lesioned at a dose."""
        if self.units is None:
            yield model
            return
        how = {"value": self.value, "donors": self.donors, "seed": self.seed}
        # checked once, when the lesions were made
        with lesion(model, self.units, dose=dose, allow_other_model=True, **how):
            yield model


def encode(model: Model, prompt: str, more: int = 0) -> Int[Tensor, "one token"]:
    """The prompt's token ids, with BOS where the tokenizer adds it; blanks at the end are not read.

    They would be a token of their own, which no training text ends with.
    Raises GrammarLensError for an empty prompt, and where `more` tokens after it would not fit into the
    model's context.
    """
    text = prompt.rstrip()
    if not text:
        raise GrammarLensError("The prompt is empty: type a few words.")
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    allowed = context_length(model) - more
    if ids.shape[1] > allowed:
        then = f" when {more} are to be written" if more else ""
        raise GrammarLensError(
            f"The prompt has {ids.shape[1]:,} tokens, and at most {max(allowed, 0):,} are allowed{then}: "
            f"{model_name(model)} reads {context_length(model):,}. Shorten it."
        )
    return ids.to(device_of(model))


def predict(
    model: Model, vocabulary: Vocabulary, token_ids: Int[Tensor, "one token"]
) -> Prediction:
    """The model's prediction after the last token, with any open lesion.

    P(t|c) = sum_v p(v|c) lambda(t|v), by the function that the lesion study's tag losses come from.
    """
    logits = _last_logits(model, vocabulary, token_ids)
    losses = _split(logits, vocabulary)
    p, ids = logits[0].double().softmax(0).topk(min(N_TOKENS, logits.shape[1]))
    return Prediction(
        labels=vocabulary.lexicon.labels,
        probability=losses.tag_probability[0].cpu().numpy(),
        seen_mass=float(losses.seen_mass[0]),
        tokens=tuple(
            LikelyToken(model.tokenizer.decode([i]), x, vocabulary.label_of(i))
            for i, x in zip(ids.tolist(), p.tolist(), strict=True)
        ),
    )


def _last_logits(
    model: Model, vocabulary: Vocabulary, token_ids: Int[Tensor, "one token"]
) -> Float[Tensor, "one vocab"]:
    last = torch.tensor([token_ids.shape[1] - 1], device=token_ids.device)
    return next_token_logits(model, token_ids, last).to(vocabulary.on_device.prior.device)


def _split(logits: Float[Tensor, "one vocab"], vocabulary: Vocabulary) -> WordLosses:
    any_word = torch.zeros(1, dtype=torch.int64, device=logits.device)
    return split_losses(logits, any_word, any_word, vocabulary.on_device)
