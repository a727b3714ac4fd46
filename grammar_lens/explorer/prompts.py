"""Predictions after a prompt: the next word's label, and the next token."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.corpus.lexicon import DeviceLexicon, Lexicon, split_losses
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, context_length, device_of, model_name
from grammar_lens.model.forward import next_token_logits

N_TOKENS = 10
"""Likeliest tokens that are shown."""


@dataclass(frozen=True)
class LikelyToken:
    """A token that may come next. `label` is what words that begin with it mostly are; None if unseen."""

    text: str
    probability: float
    label: str | None


@dataclass(frozen=True)
class NextWord:
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


def next_word(
    model: Model, vocabulary: Vocabulary, token_ids: Int[Tensor, "one token"]
) -> NextWord:
    """The model's prediction after the last token, with any open lesion.

    P(t|c) = sum_v p(v|c) lambda(t|v), by the function that the lesion study's tag losses come from.
    """
    last = torch.tensor([token_ids.shape[1] - 1], device=token_ids.device)
    logits = next_token_logits(model, token_ids, last)
    table = vocabulary.on_device
    logits = logits.to(table.table.device)
    any_word = torch.zeros(1, dtype=torch.int64, device=logits.device)
    losses = split_losses(logits, any_word, any_word, table)
    return NextWord(
        labels=vocabulary.lexicon.labels,
        probability=losses.tag_probability[0].cpu().numpy(),
        seen_mass=float(losses.seen_mass[0]),
        tokens=_likeliest(model, vocabulary.lexicon, logits[0]),
    )


def _likeliest(
    model: Model, lexicon: Lexicon, logits: Float[Tensor, " vocab"]
) -> tuple[LikelyToken, ...]:
    p, ids = logits.double().softmax(0).topk(min(N_TOKENS, len(logits)))
    return tuple(
        LikelyToken(model.tokenizer.decode([i]), x, _label_of(lexicon, i))
        for i, x in zip(ids.tolist(), p.tolist(), strict=True)
    )


def _label_of(lexicon: Lexicon, token: int) -> str | None:
    if token >= len(lexicon.seen) or not lexicon.seen[token]:
        return None
    return lexicon.labels[int(lexicon.probability[token].argmax())]
