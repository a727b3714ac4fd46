"""Log probability of both sentences of every minimal pair: of the whole, and where they part."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from grammar_lens.corpus.alignment import Alignment, TokenBatch, align, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.defaults import HEAD_CHUNK
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError, counted
from grammar_lens.model.about import Model, context_length, device_of, model_name
from grammar_lens.model.forward import next_token_logits
from grammar_lens.phenomena.pairs import MinimalPair, phenomena_of


@dataclass(frozen=True)
class PairScores(Shown):
    """Log probability (nats) of the good and of the bad sentence of every pair.

    `good` and `bad` are of the whole sentence, given BOS; without BOS the first token, which both
    share, has none. `token_good` and `token_bad` are of the first token at which they differ.
    """

    pairs: tuple[MinimalPair, ...]
    good: Float[np.ndarray, " pair"]
    bad: Float[np.ndarray, " pair"]
    token_good: Float[np.ndarray, " pair"]
    token_bad: Float[np.ndarray, " pair"]
    left_out: tuple[str, ...] = ()
    """Pairs of the source that this model cannot score, and why."""

    @property
    def log_odds(self) -> Float[np.ndarray, " pair"]:
        """Log odds of the good against the bad sentence, in nats."""
        return self.good - self.bad

    @property
    def token_log_odds(self) -> Float[np.ndarray, " pair"]:
        """Log odds of the good against the bad token where the sentences part, in nats."""
        return self.token_good - self.token_bad

    @property
    def right(self) -> Bool[np.ndarray, " pair"]:
        """Whether the good sentence is the likelier one; a tie is not right."""
        return self.log_odds > 0

    @property
    def phenomena(self) -> tuple[str, ...]:
        """The phenomena in the order of the pairs."""
        return phenomena_of(self.pairs)

    def by_phenomenon(self, values: np.ndarray) -> Float[np.ndarray, " phenomenon"]:
        """The mean over the pairs of each phenomenon."""
        of = np.array([pair.phenomenon for pair in self.pairs], object)
        return np.array([values[of == name].mean() for name in self.phenomena])

    def to_frame(self) -> pd.DataFrame:
        """A row per phenomenon: accuracy with its 95 % interval low to high, at the differing token
        alone, and the mean log odds (nats) of both.

        Intervals are Wilson's (1927) for independent pairs; pairs of a phenomenon share words.
        """
        of = np.array([pair.phenomenon for pair in self.pairs], object)
        terms = {pair.phenomenon: pair.term for pair in self.pairs}
        rows = []
        for name in self.phenomena:
            here = of == name
            n, n_right = int(here.sum()), int(self.right[here].sum())
            low, high = proportion_confint(n_right, n, method="wilson")
            rows.append(
                {
                    "phenomenon": name,
                    "term": terms[name],
                    "n_pairs": n,
                    "accuracy": n_right / n,
                    "low": low,
                    "high": high,
                    "token_accuracy": (self.token_log_odds[here] > 0).mean(),
                    "log_odds": self.log_odds[here].mean(),
                    "token_log_odds": self.token_log_odds[here].mean(),
                }
            )
        return pd.DataFrame(rows)

    def pair_frame(self) -> pd.DataFrame:
        """A row per pair: its sentences, their log p, and that of the tokens where they part."""
        frame = pd.DataFrame(self.pairs)
        scores = ("good", "bad", "token_good", "token_bad")
        return frame.assign(**{f"log_p_{name}": getattr(self, name) for name in scores})

    def __repr__(self) -> str:
        means = zip(self.phenomena, self.by_phenomenon(self.right), strict=True)
        cells = ", ".join(f"{name} {accuracy:.2f}" for name, accuracy in means)
        return f"PairScores of {len(self.pairs):,} pairs: {self.right.mean():.3f} right; {cells}"


class PreparedPairs:
    """Minimal pairs in tokens, good and bad sentences in turn, to be scored as often as one likes.

    `part` is the first token at which the sentences of each pair differ: what stands before is the
    same. Pairs that part at the first token are left out where the model reads no BOS before it, as
    it gives that token no probability; `left_out` counts them.
    Raises GrammarLensError without pairs, for sentences longer than the context or with a control
    token, for a phenomenon none of whose pairs can be scored, for a pair whose two sentences are the
    same tokens, and for one that ends where the two would part.
    """

    def __init__(self, model: Model, pairs: Sequence[MinimalPair]) -> None:
        if not len(pairs):
            raise GrammarLensError("there are no minimal pairs to score")
        texts = [text for pair in pairs for text in (pair.good, pair.bad)]
        alignment = align(texts, [[] for _ in texts], model.tokenizer)
        _check_rows(alignment, texts, model)
        part = _parting(alignment, pairs, model)
        known = np.flatnonzero(part > 0)
        self.pairs = tuple(pairs[i] for i in known.tolist())
        self.left_out = _left_out(pairs, part, model)
        if len(known) < len(pairs):
            texts = [text for pair in self.pairs for text in (pair.good, pair.bad)]
            alignment = align(texts, [[] for _ in texts], model.tokenizer)
        self.alignment, self.part = alignment, part[known]
        """Row 2 i of the alignment is the good sentence of pair i, row 2 i + 1 the bad one."""

    @property
    def n_tokens(self) -> int:
        return self.alignment.n_tokens

    def n_read(self, at: str) -> int:
        """Tokens that are read to attribute the log odds of whole sentences, or where they part."""
        read = self.n_tokens - 2 * len(self.pairs) if at == "sentence" else self.part.sum()
        return int(read)

    @property
    def phenomena(self) -> tuple[str, ...]:
        return phenomena_of(self.pairs)

    @property
    def column(self) -> Int[np.ndarray, " pair"]:
        """Number of each pair's phenomenon."""
        number = {name: i for i, name in enumerate(self.phenomena)}
        return np.array([number[pair.phenomenon] for pair in self.pairs], np.int64)

    def differing(self) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
        """The good and the bad token where each pair parts."""
        ids = self.alignment.token_ids
        every = enumerate(self.part.tolist())
        tokens = np.array([(ids[2 * i][t], ids[2 * i + 1][t]) for i, t in every], np.int64)
        return tokens[:, 0], tokens[:, 1]

    def score(
        self,
        model: Model,
        token_budget: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> PairScores:
        """The pairs under the model as it is now, lesions included."""
        sums = PairSums(self, 1)
        shared = np.zeros(len(self.pairs))
        for batch in token_batches(self.alignment, token_budget or default_budget(model)):
            # what the bad sentence shares with the good one is only scored there
            even = batch.rows % 2 == 0
            row, time = places(batch, np.where(even, 1, self.part[batch.rows // 2]))
            if len(row):
                said = _scored(model, batch, row, time)
                before = time < self.part[batch.rows[row] // 2]
                np.add.at(shared, batch.rows[row[before]] // 2, said[before])
                sums.add(0, batch.rows[row[~before]], time[~before], said[~before])
            if progress:
                progress(batch.n_tokens)
        (good, bad), (token_good, token_bad) = sums.whole[0].T + shared, sums.token[0].T
        return PairScores(self.pairs, good, bad, token_good, token_bad, self.left_out)


class PairSums:
    """Log p of both sentences of every pair from where they part on, and of the token there.

    `whole[i, pair]` and `token[i, pair]` are of the good and the bad sentence under lesion i.
    """

    def __init__(self, prepared: PreparedPairs, n_lesions: int) -> None:
        self._part = prepared.part
        self.whole = np.zeros((n_lesions, len(prepared.pairs), 2))
        self.token = np.zeros_like(self.whole)

    def add(
        self,
        i: int,
        row: Int[np.ndarray, " token"],
        time: Int[np.ndarray, " token"],
        said: Float[np.ndarray, " token"],
    ) -> None:
        """Adds log p of tokens under lesion i, each at a time of a row of the alignment."""
        pair, side = row // 2, row % 2
        np.add.at(self.whole[i], (pair, side), said)
        first = time == self._part[pair]
        self.token[i, pair[first], side[first]] = said[first]


def places(
    batch: TokenBatch, begin: Int[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
    """Row of the batch and time of every token from `begin` of its row on."""
    times = [np.arange(b, n) for b, n in zip(begin.tolist(), batch.lengths.tolist(), strict=True)]
    rows = [np.full(len(t), i) for i, t in enumerate(times)]
    return np.concatenate(rows), np.concatenate(times)


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
    Raises GrammarLensError as `PreparedPairs` does.
    """
    return PreparedPairs(model, pairs).score(model, token_budget, progress)


def _scored(
    model: Model, batch: TokenBatch, row: Int[np.ndarray, " token"], time: Int[np.ndarray, " token"]
) -> Float[np.ndarray, " token"]:
    """log p of some of a batch's tokens."""
    where = torch.from_numpy(row * batch.token_ids.shape[1] + time - 1)
    device = device_of(model)
    logits = next_token_logits(model, batch.token_ids.to(device), where.to(device))
    return log_probability(logits, batch.token_ids[row, time])


def log_probability(
    logits: Float[Tensor, "token vocab"], gold: Int[Tensor, " token"]
) -> Float[np.ndarray, " token"]:
    """log p of the gold tokens, some rows at a time; the sum over the vocabulary is in float64."""
    gold = gold.to(logits.device)
    parts = [np.zeros(0)]
    step = max(1, HEAD_CHUNK[logits.device.type == "cuda"] // logits.shape[1])
    for begin in range(0, len(gold), step):
        x = logits[begin : begin + step]
        x = x.to(x.dtype if x.dtype == torch.float64 else torch.float32, copy=True)
        x -= x.amax(1, keepdim=True)
        chosen = x.gather(1, gold[begin : begin + step, None])[:, 0].double()
        # an exponential in float32 is off by 1e-7 of itself, and so is their sum
        parts.append((chosen - x.exp_().sum(1, dtype=torch.float64).log()).cpu().numpy())
    return np.concatenate(parts)


def _check_rows(alignment: Alignment, texts: Sequence[str], model: Model) -> None:
    most = context_length(model)
    for text, ids in zip(texts, alignment.token_ids, strict=True):
        if len(ids) == 0:
            raise GrammarLensError(
                f"{text[:60]!r} holds a control token of {model_name(model)}: leave the pair out"
            )
        if len(ids) > most:
            raise GrammarLensError(
                f"{text[:40]!r}... has {len(ids)} tokens, and {model_name(model)} reads {most}: use "
                "shorter sentences"
            )


def _parting(
    alignment: Alignment, pairs: Sequence[MinimalPair], model: Model
) -> Int[np.ndarray, " pair"]:
    """The first token at which the sentences of each pair differ."""
    ids = alignment.token_ids
    parts = []
    for pair, good, bad in zip(pairs, ids[::2], ids[1::2], strict=True):
        n = min(len(good), len(bad))
        differ = np.flatnonzero(good[:n] != bad[:n])
        if not len(differ) and len(good) == len(bad):
            raise GrammarLensError(
                f"{pair.phenomenon}: {pair.good!r} and {pair.bad!r} are the same tokens to "
                f"{model_name(model)}, whose tokenizer hides the difference: leave the pair out"
            )
        if not len(differ):
            raise GrammarLensError(
                f"{pair.phenomenon}: {pair.good!r} and {pair.bad!r} differ in that one goes on after "
                "the other's end, where there is no token to compare: end both alike, as with a full stop"
            )
        parts.append(int(differ[0]))
    return np.array(parts, np.int64)


def _left_out(
    pairs: Sequence[MinimalPair], part: Int[np.ndarray, " pair"], model: Model
) -> tuple[str, ...]:
    """Pairs that part at the first token, by phenomenon, in words."""
    every = Counter(pair.phenomenon for pair in pairs)
    gone = Counter(pairs[i].phenomenon for i in np.flatnonzero(part == 0).tolist())
    for name, n in gone.items():
        if n == every[name]:
            raise GrammarLensError(
                f"all pairs of {name} part at the first token, to which {model_name(model)} gives no "
                "probability as it reads no BOS: begin them alike, or leave the phenomenon out"
            )
    return tuple(
        f"{name}: {counted(n, 'pair')} left out, as they part at the first token and no BOS is read"
        for name, n in gone.items()
    )
