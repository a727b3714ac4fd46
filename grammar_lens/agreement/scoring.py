"""Log probability of both sentences of every minimal pair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from grammar_lens.agreement.pairs import MinimalPair
from grammar_lens.corpus.alignment import Alignment, TokenBatch, align, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, context_length, device_of, model_name
from grammar_lens.model.forward import next_token_logits


@dataclass(frozen=True)
class PairScores(Shown):
    """Log probability (nats) of the good and of the bad sentence of every pair.

    Of the whole sentence, given BOS; without BOS the first token, which both share, has none.
    """

    pairs: tuple[MinimalPair, ...]
    good: Float[np.ndarray, " pair"]
    bad: Float[np.ndarray, " pair"]

    @property
    def log_odds(self) -> Float[np.ndarray, " pair"]:
        """Log odds of the good against the bad sentence, in nats."""
        return self.good - self.bad

    @property
    def right(self) -> Bool[np.ndarray, " pair"]:
        """Whether the good sentence is the likelier one; a tie is not right."""
        return self.log_odds > 0

    @property
    def paradigms(self) -> tuple[str, ...]:
        """The paradigms in the order of the pairs."""
        return tuple(dict.fromkeys(pair.paradigm for pair in self.pairs))

    def by_paradigm(self, values: np.ndarray) -> Float[np.ndarray, " paradigm"]:
        """The mean over the pairs of each paradigm."""
        of = np.array([pair.paradigm for pair in self.pairs])
        return np.array([values[of == name].mean() for name in self.paradigms])

    def to_frame(self) -> pd.DataFrame:
        """A row per paradigm: n_pairs, accuracy, its 95 % interval low to high, singular and plural
        alone, and the mean log_odds (nats).

        Intervals are Wilson's (1927) for independent pairs; pairs of a paradigm share words.
        """
        of = np.array([pair.paradigm for pair in self.pairs])
        plural = np.array([pair.number == "plural" for pair in self.pairs])
        rows = []
        for name in self.paradigms:
            of_name = of == name
            n, n_right = int(of_name.sum()), int(self.right[of_name].sum())
            low, high = proportion_confint(n_right, n, method="wilson")
            rows.append(
                {
                    "paradigm": name,
                    "n_pairs": n,
                    "accuracy": n_right / n,
                    "low": low,
                    "high": high,
                    "singular": _mean(self.right[of_name & ~plural]),
                    "plural": _mean(self.right[of_name & plural]),
                    "log_odds": self.log_odds[of_name].mean(),
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        means = zip(self.paradigms, self.by_paradigm(self.right), strict=True)
        cells = ", ".join(f"{name} {accuracy:.2f}" for name, accuracy in means)
        return f"PairScores of {len(self.pairs):,} pairs: {self.right.mean():.3f} right; {cells}"


class Prepared:
    """Minimal pairs in tokens, sorted into batches, to be scored as often as one likes.

    The head is computed where it is needed: at every token of the good sentence, and of the bad one
    from where the two part, as what stands before is the same.
    Raises GrammarLensError without pairs, for sentences longer than the context, and for a pair that
    parts at its first token where the model reads no BOS before it.
    """

    def __init__(
        self, model: Model, pairs: Sequence[MinimalPair], token_budget: int | None = None
    ) -> None:
        if not pairs:
            raise GrammarLensError("there are no minimal pairs to score")
        self.pairs = tuple(pairs)
        texts = [text for pair in pairs for text in (pair.good, pair.bad)]
        self._alignment = align(texts, [[] for _ in texts], model.tokenizer)
        _check_length(self._alignment, texts, model)
        self._part = _parting(self._alignment)
        unscored = np.flatnonzero(self._part == 0)
        if len(unscored):
            raise GrammarLensError(
                f"{self.pairs[unscored[0]].good!r} and its twin part at the first token, to which "
                f"{model_name(model)} gives no probability as it reads no BOS: begin them alike"
            )
        self._batches = token_batches(self._alignment, token_budget or default_budget(model))

    @property
    def n_tokens(self) -> int:
        return self._alignment.n_tokens

    def score(self, model: Model, progress: Callable[[int], None] | None = None) -> PairScores:
        """The pairs under the model as it is now, lesions included."""
        total = np.zeros(2 * len(self.pairs))
        shared = np.zeros(2 * len(self.pairs))
        for batch in self._batches:
            self._score(model, batch, total, shared)
            if progress:
                progress(batch.n_tokens)
        # what the bad sentence shares with the good one was only scored there
        return PairScores(self.pairs, total[::2] + shared[::2], total[1::2] + shared[::2])

    def _score(
        self, model: Model, batch: TokenBatch, total: np.ndarray, shared: np.ndarray
    ) -> None:
        """Adds to `total` every sentence's log p from where the pair parts, to `shared` what is before."""
        width = batch.token_ids.shape[1]
        rows, times = [], []
        for row, sentence in enumerate(batch.rows.tolist()):
            begin = 1 if sentence % 2 == 0 else int(self._part[sentence // 2])
            times.append(np.arange(begin, batch.lengths[row]))
            rows.append(np.full(len(times[-1]), row))
        row, time = np.concatenate(rows), np.concatenate(times)
        if len(row) == 0:
            return
        ids = batch.token_ids.to(device_of(model))
        where = torch.from_numpy(row * width + time - 1)
        logits = next_token_logits(model, ids, where.to(ids.device))
        said = _log_probability(logits, batch.token_ids[row, time])
        sentence = batch.rows[row]
        parted = time >= self._part[sentence // 2]
        np.add.at(total, sentence[parted], said[parted])
        np.add.at(shared, sentence[~parted], said[~parted])


def score_pairs(
    model: Model,
    pairs: Sequence[MinimalPair],
    *,
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> PairScores:
    """Log probability of both sentences of every pair under the model as it is now.

    Inside `with lesion(model, ...)` that is the lesioned model. `progress` is
    called with the tokens done.
    Raises GrammarLensError as `Prepared` does.
    """
    return Prepared(model, pairs, token_budget).score(model, progress)


def _check_length(alignment: Alignment, texts: Sequence[str], model: Model) -> None:
    for text, ids in zip(texts, alignment.token_ids, strict=True):
        if len(ids) > context_length(model):
            raise GrammarLensError(
                f"{text[:40]!r}... has {len(ids)} tokens, and {model_name(model)} reads "
                f"{context_length(model)}: use shorter sentences"
            )


def _parting(alignment: Alignment) -> Int[np.ndarray, " pair"]:
    """The first token at which the sentences of each pair differ."""
    ids = alignment.token_ids
    parts = []
    for good, bad in zip(ids[::2], ids[1::2], strict=True):
        n = min(len(good), len(bad))
        differ = np.flatnonzero(good[:n] != bad[:n])
        parts.append(int(differ[0]) if len(differ) else n)
    return np.array(parts, np.int64)


def _log_probability(
    logits: Float[Tensor, "token vocab"], gold: Int[Tensor, " token"]
) -> Float[np.ndarray, " token"]:
    """log p of the gold tokens in float64, some rows at a time: a float64 copy of all may not fit."""
    gold = gold.to(logits.device)
    parts = [np.zeros(0)]
    for begin in range(0, len(gold), 512):
        rows = slice(begin, begin + 512)
        wide = logits[rows].double()
        chosen = wide.gather(1, gold[rows, None])[:, 0]
        parts.append((chosen - wide.logsumexp(1)).cpu().numpy())
    return np.concatenate(parts)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
