"""P(label | token) from training words, and the split of a word's loss into tag and lexical parts.

lambda(t|v) is the share of label t among training words whose first token is v. With it a model's
P(v|context) becomes P(t|context), and the loss of a word splits exactly:

    NLL = L_tag + L_lex + log lambda(t*|v*)

The last term does not depend on the model, so under any lesion dNLL = dL_tag + dL_lex.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError

_CHUNK = {False: 2**19, True: 2**25}
"""Probabilities (words x vocabulary) held at a time, on CPU and on a GPU."""


@dataclass(frozen=True)
class Lexicon(Shown):
    """P(label | first token), from training words only.

    `probability[v, t]` is smoothed with the prior, (n(v,t) + b prior_t) / (n(v) + b), so a token
    never seen gives the prior. `count[v, t]` is n(v,t). `seen` marks tokens that begin some training
    word.
    """

    labels: tuple[str, ...]
    probability: Float[np.ndarray, "vocab label"]
    count: Float[np.ndarray, "vocab label"]
    prior: Float[np.ndarray, " label"]
    seen: np.ndarray
    n_words: int
    smoothing: float

    def __repr__(self) -> str:
        return (
            f"Lexicon of {len(self.labels)} labels from {self.n_words:,} words; "
            f"{int(self.seen.sum()):,} of {len(self.seen):,} tokens begin a word"
        )

    @property
    def entropy(self) -> float:
        """Entropy of the prior in nats: the tag loss of a model that ignores the context."""
        p = self.prior[self.prior > 0]
        return float(-(p * np.log(p)).sum())

    def _tables(self) -> list[pd.DataFrame]:
        words = self.count.sum(0).astype(np.int64)
        alone = (self.count > 0) & (self.count == self.count.sum(1, keepdims=True))
        table = {"label": self.labels, "words": words, "tokens": (self.count > 0).sum(0)}
        return [pd.DataFrame({**table, "tokens of no other": alone.sum(0)})]


def build_lexicon(
    first_token: Int[np.ndarray, " word"],
    classes: Int[np.ndarray, " word"],
    labels: Sequence[str],
    vocab_size: int,
    *,
    smoothing: float = 1.0,
) -> Lexicon:
    """The lexicon of words given by their first token and class.

    Raises GrammarLensError without words, for tokens outside the vocabulary, or if smoothing is not positive.
    """
    if len(first_token) == 0:
        raise GrammarLensError("no aligned words to build a lexicon from: use a larger treebank")
    outside = first_token[(first_token < 0) | (first_token >= vocab_size)]
    if len(outside):
        raise GrammarLensError(
            f"token {int(outside[0])} is outside the model's vocabulary of {vocab_size}: "
            "the lexicon was made with another model's tokenizer"
        )
    if smoothing <= 0:
        raise GrammarLensError(f"smoothing is {smoothing}, expected a positive number")
    counts = np.zeros((vocab_size, len(labels)))
    np.add.at(counts, (first_token, classes), 1.0)
    totals = counts.sum(1, keepdims=True)
    prior = counts.sum(0) / counts.sum()
    return Lexicon(
        labels=tuple(labels),
        probability=(counts + smoothing * prior) / (totals + smoothing),
        count=counts,
        prior=prior,
        seen=totals[:, 0] > 0,
        n_words=len(first_token),
        smoothing=smoothing,
    )


@dataclass(frozen=True)
class WordLosses:
    """Losses in nats and P(label | context) of some words, float64."""

    nll: Float[Tensor, " word"]
    tag_loss: Float[Tensor, " word"]
    lexical_loss: Float[Tensor, " word"]
    tag_probability: Float[Tensor, "word label"]
    seen_mass: Float[Tensor, " word"]
    """Probability that the model gives to tokens the lexicon has seen begin a word."""


@dataclass(frozen=True)
class DeviceLexicon:
    """A lexicon's tables on the device, for a whole vocabulary.

    `known` are the tokens seen to begin a training word; all others have the prior.
    """

    probability: Float[Tensor, "vocab label"]
    prior: Float[Tensor, " label"]
    known: Int[Tensor, " known"]
    of_known: Float[Tensor, "known label"]

    @classmethod
    def of(cls, lexicon: Lexicon, vocab_size: int, device: torch.device) -> "DeviceLexicon":
        """Raises GrammarLensError if the model's vocabulary is smaller than the lexicon's.

        Models may pad their vocabulary: tokens beyond the lexicon's get the prior.
        """
        extra = vocab_size - len(lexicon.probability)
        if extra < 0:
            raise GrammarLensError(
                f"the lexicon knows {len(lexicon.probability)} tokens and the model predicts "
                f"{vocab_size}: it was made with another model's tokenizer"
            )
        padded = np.concatenate([lexicon.probability, np.tile(lexicon.prior, (extra, 1))])
        known = np.flatnonzero(lexicon.seen)
        return cls(
            torch.from_numpy(padded).to(device),
            torch.from_numpy(lexicon.prior).to(device),
            torch.from_numpy(known).to(device),
            torch.from_numpy(padded[known]).to(device),
        )


def split_losses(
    logits: Float[Tensor, "word vocab"],
    token: Int[Tensor, " word"],
    label: Int[Tensor, " word"],
    lexicon: DeviceLexicon,
) -> WordLosses:
    """Loss of the gold token split into its label's and its lexical part, in float64.

    L_tag = -log P(t*|c), L_lex = -log [p(v*|c) lambda(t*|v*) / P(t*|c)], P(t|c) = sum_v p(v|c)
    lambda(t|v) over the whole vocabulary. Source: Heilbron et al. (2022), PNAS 119, for the marginal.
    """
    chunk = max(1, _CHUNK[logits.device.type == "cuda"] // logits.shape[1])
    parts = [
        _split_chunk(logits[i : i + chunk], token[i : i + chunk], label[i : i + chunk], lexicon)
        for i in range(0, max(len(token), 1), chunk)
    ]
    return WordLosses(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _split_chunk(
    logits: Float[Tensor, "word vocab"],
    token: Int[Tensor, " word"],
    label: Int[Tensor, " word"],
    lexicon: DeviceLexicon,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `WordLosses`, for words few enough that their weights stay in cache."""
    x = logits if logits.dtype == torch.float64 else logits.float()
    top = x.amax(1, keepdim=True)
    # float32 numbers, summed in float64: relative error of the sums below 1e-7
    weights = (x - top).exp_()
    total = weights.sum(1, dtype=torch.float64)
    of_known = weights.index_select(1, lexicon.known).double()
    known = of_known.sum(1)
    unknown = (total - known).clamp_(min=0)
    marginal = of_known @ lexicon.of_known + unknown[:, None] * lexicon.prior
    marginal /= total[:, None]
    nll = total.log() - (x.gather(1, token[:, None]).double() - top.double())[:, 0]
    rows = torch.arange(len(token), device=token.device)
    tag_loss = -marginal[rows, label].log()
    lexical = nll - tag_loss - lexicon.probability[token, label].log()
    return nll, tag_loss, lexical, marginal, known / total
