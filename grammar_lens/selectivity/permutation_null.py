"""The null of a selectivity score: the same scores after tags are exchanged between sentences.

Words of a text depend on each other, so a null that shuffles words finds significance in noise.
Here whole tag sequences are exchanged among sentences with the same number of words read; the tag at
place i stays at place i, so that grammar within the sequence, and what goes with a word's place in
its sentence, are kept. Sentences whose number of words occurs once have no partner: they are left
out of the statistic and of its null, and counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Int16

from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import ALPHA, MIN_REPLICATES
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.moments import Moments

MIN_WORDS = 10
"""A label with fewer words has a null too far from the normal shape that `z` assumes."""
N_STEPS = 10_000
"""Steps of the grid on which the `z` of all replicates are counted."""

Scorer = Callable[[Moments], Float[np.ndarray, "label layer unit"]]


@dataclass(frozen=True)
class Permutation:
    """Labels of every word in every replicate, -1 for words that take no part."""

    codes: Int16[np.ndarray, "replicate word"]
    n_left_out_words: int
    n_left_out_sentences: int

    @property
    def taking_part(self) -> Bool[np.ndarray, " word"]:
        """The words that the statistic and its null are computed on."""
        return self.codes[0] >= 0


def permute_tags(
    classes: Int[np.ndarray, " word"],
    sentence: Int[np.ndarray, " word"],
    n_replicates: int,
    rng: np.random.Generator,
) -> Permutation:
    """Replicates of the labels of all words that are read (class 0 or more).

    Raises GrammarLensError for fewer replicates than a null needs, when no two sentences have the same
    number of words read, and when those that do have the same tags.
    """
    if n_replicates < MIN_REPLICATES:
        raise GrammarLensError(
            f"replicates is {n_replicates}, expected at least {MIN_REPLICATES} for a null"
        )
    words = np.flatnonzero(classes >= 0)
    order = words[np.argsort(sentence[words], kind="stable")]
    _, start, length = np.unique(sentence[order], return_index=True, return_counts=True)
    codes = np.full((n_replicates, len(classes)), -1, np.int16)
    lonely = 0
    for n in np.unique(length):
        same = np.flatnonzero(length == n)
        if len(same) < 2:
            lonely += 1
            continue
        places = order[start[same][:, None] + np.arange(n)]
        tags = classes[places].astype(np.int16)
        for replicate in range(n_replicates):
            codes[replicate, places.ravel()] = tags[rng.permutation(len(same))].ravel()
    left_out = len(words) - int((codes[0] >= 0).sum())
    if left_out == len(words):
        raise GrammarLensError(
            "no two sentences have the same number of words read, so their tags cannot be "
            "exchanged: use a larger treebank, or no replicates (--replicates 0)"
        )
    if (codes[:, codes[0] >= 0] == classes[codes[0] >= 0]).all():
        raise GrammarLensError(
            "all sentences with the same number of words read have the same sequence of tags, so "
            "exchanging them changes nothing: use a larger treebank, or no replicates "
            "(--replicates 0)"
        )
    return Permutation(codes, left_out, lonely)


@dataclass(frozen=True)
class Null(Shown):
    """Null distribution of a score under exchanged tags, and the score observed on the same words.

    `observed` is the score on the words that take part. `mean` and `sd` are over the replicates,
    `maximum` is each replicate's largest `z` over all labels and units, `tail` counts each label's `z`
    in all replicates at or above each step of a grid, `strength` is a replicate's root mean square strength
    in each layer. `shams` are the scores of the first few replicates, for the sham
    localiser. Strength is the distance from the score's neutral value where both directions count,
    else the score itself.
    """

    method: str
    labels: tuple[str, ...]
    count: Float[np.ndarray, " label"]
    observed: Float[np.ndarray, "label layer unit"]
    mean: Float[np.ndarray, "label layer unit"]
    sd: Float[np.ndarray, "label layer unit"]
    maximum: Float[np.ndarray, " replicate"]
    tail: Int[np.ndarray, "label step"]
    strength: Float[np.ndarray, "replicate label layer"]
    shams: Float[np.ndarray, "sham label layer unit"]
    two_sided: bool
    neutral: float
    n_left_out_words: int
    n_left_out_sentences: int
    origin: Origin

    @property
    def n_replicates(self) -> int:
        return len(self.maximum)

    def require_words(self) -> None:
        """Raises GrammarLensError for labels with too few words for a null."""
        few = [
            f"{x!r} has {int(n)}"
            for x, n in zip(self.labels, self.count, strict=True)
            if n < MIN_WORDS
        ]
        if few:
            raise GrammarLensError(
                f"labels with too few words for an exchange null (at least {MIN_WORDS} in sentences "
                f"that have a partner of the same length): {', '.join(few)}; use a larger treebank, "
                "leave them out (--labels), or choose by rank (--rule top_k)"
            )

    def p(
        self, scores: Float[np.ndarray, "label layer unit"] | None = None
    ) -> Float[np.ndarray, "label layer unit"]:
        """p of every label and unit: the share of the label's replicate `z` that are as large as its own.

        p = (1 + larger ones)/(1 + all), over all units of the label: one unit's replicates alone
        cannot show a tail, and a t distribution is not theirs where a score is skewed or activations
        have outliers. Labels are not pooled, since the tail of a rare label is heavier. `scores` are by default the observed ones. Labels with too few words get NaN,
        units that never vary 1.
        Source: Tusher, Tibshirani & Chu (2001), the pooled permutation null of SAM.
        """
        values = self.observed if scores is None else scores
        step = _step(self.z(values), self.n_replicates)
        p = np.stack([(1 + t[s]) / (1 + t[0]) for t, s in zip(self.tail, step, strict=True)])
        p[self.count < MIN_WORDS] = np.nan
        return p

    def q(
        self, scores: Float[np.ndarray, "label layer unit"] | None = None
    ) -> Float[np.ndarray, "label layer unit"]:
        """q-values over all units within each label, by Benjamini and Hochberg (1995).

        Over all labels together, a label of 10 words alone had a false discovery rate of .09 to .20
        at a nominal .05 (simulated).
        """
        p = self.p(scores)
        q = np.full(p.shape, np.nan)
        for i in np.flatnonzero(self.count >= MIN_WORDS):
            q[i] = benjamini_hochberg(p[i].ravel()).reshape(p[i].shape)
        return q

    def z(
        self, scores: Float[np.ndarray, "label layer unit"]
    ) -> Float[np.ndarray, "label layer unit"]:
        """Scores in standard deviations from the mean of the replicates and the observed together.

        Observed and exchanged labels enter alike, so that a rank among all of them is exact. Without
        the standardisation a label that the exchange hardly moves, as punctuation at the end of
        every sentence, would set the maximum. Labels with too few words get 0. Two-sided scores
        give absolute values.
        """
        n = self.n_replicates
        return _standardised(
            scores, *_pooled(n, self.mean, self.sd, self.observed), self.count, self.two_sided
        )

    def threshold(self, alpha: float = ALPHA) -> float:
        """The `z` that a replicate's largest one exceeds with probability `alpha` at most.

        The (1 - alpha)(n + 1)-th smallest maximum; infinite when there are too few replicates.
        Source: Westfall & Young (1993), Resampling-Based Multiple Testing, with maximal z.
        """
        # 0.56 * 100 is above 56 in floating point
        rank = int(np.ceil((1 - alpha) * (self.n_replicates + 1) - 1e-9))
        return float("inf") if rank > self.n_replicates else float(np.sort(self.maximum)[rank - 1])

    def strengths(
        self, scores: Float[np.ndarray, "label layer unit"]
    ) -> Float[np.ndarray, "label layer unit"]:
        """Strength of scores: their distance from neutral, or themselves when one-sided."""
        return np.abs(scores - self.neutral) if self.two_sided else scores

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"Null of {self.method} from {self.n_replicates} exchanges of labels, {o.model} on "
            f"{o.treebank}, position {o.position!r}: {len(self.labels)} labels, "
            f"{int(self.count.sum()):,} words take part"
        )

    def _tables(self) -> list[pd.DataFrame]:
        table = {"label": self.labels, "words": self.count.astype(np.int64)}
        observed = self.strengths(self.observed)
        table["strength (root mean square)"] = np.sqrt((observed**2).mean((1, 2)))
        table["exchanged (mean)"] = np.sqrt((self.strength**2).mean((0, 2)))
        return [pd.DataFrame(table)]


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """q-values: the least false discovery rate at which each test would pass."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


@runtime_checkable
class ReplicateMeans(Protocol):
    """Class means [label layer unit] of every replicate, as an array or as something that makes them."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Float[np.ndarray, "label layer unit"]: ...


@dataclass(frozen=True)
class Replicates(Shown):
    """Class means of every replicate, with the moments of the true labels over the same words."""

    observed: Moments
    means: ReplicateMeans
    n_left_out_words: int
    n_left_out_sentences: int

    def null(
        self,
        method: str,
        scorer: Scorer,
        *,
        two_sided: bool,
        neutral: float = 0.0,
        n_shams: int = 5,
    ) -> Null:
        """The null of a score that depends on class means, counts and the total variance alone."""
        total = self.observed.pooled()[1]
        values = scorer(self.observed)
        mean, m2 = np.zeros_like(values), np.zeros_like(values)
        strength, shams = [], []
        for i in range(len(self.means)):
            first = scorer(self._moments(i, total))
            gap = first - mean
            mean += gap / (i + 1)
            m2 += gap * (first - mean)
            size = np.abs(first - neutral) if two_sided else first
            strength.append(np.sqrt((size**2).mean(2)))
            if i < n_shams:
                shams.append(first.astype(np.float32))
        sd = np.sqrt(m2 / (len(self.means) - 1))
        centre = _pooled(len(self.means), mean, sd, values)
        # scored again rather than kept: all replicates of a large model do not fit in memory
        again = (scorer(self._moments(i, total)) for i in range(len(self.means)))
        counted = self.observed.count >= MIN_WORDS
        maximum, steps = [], np.zeros((len(counted), N_STEPS), np.int64)
        for first in again:
            z = _standardised(first, *centre, self.observed.count, two_sided)
            maximum.append(z.max())
            for i in np.flatnonzero(counted):
                steps[i] += np.bincount(_step(z[i], len(self.means)).ravel(), minlength=N_STEPS)
        return Null(
            method=method,
            labels=self.observed.labels,
            count=self.observed.count,
            observed=values,
            mean=mean,
            sd=sd,
            maximum=np.array(maximum, np.float64),
            tail=steps[:, ::-1].cumsum(1)[:, ::-1],
            strength=np.array(strength),
            shams=np.array(shams, np.float32),
            two_sided=two_sided,
            neutral=neutral,
            n_left_out_words=self.n_left_out_words,
            n_left_out_sentences=self.n_left_out_sentences,
            origin=self.observed.origin,
        )

    def _moments(self, i: int, total: Float[np.ndarray, "layer unit"]) -> Moments:
        """Moments with a replicate's class means; the variance within is spread evenly."""
        count = self.observed.count
        means = self.means[i].astype(np.float64)
        share = (count / count.sum())[:, None, None]
        grand = (share * means).sum(0)
        within = np.maximum(total - (count[:, None, None] * (means - grand) ** 2).sum(0), 0.0)
        return Moments(
            labels=self.observed.labels,
            count=count,
            mean=means,
            m2=within * share,
            fired=self.observed.fired,
            mean_abs=self.observed.mean_abs,
            origin=self.observed.origin,
        )

    def __repr__(self) -> str:
        return (
            f"Replicates: {len(self.means)} exchanges of labels, {self.n_left_out_words:,} words of "
            f"{self.n_left_out_sentences:,} sentences left out; {self.observed!r}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        words = self.observed.count.astype(np.int64)
        return [pd.DataFrame({"label": self.observed.labels, "words": words})]


def _pooled(
    n: int,
    mean: Float[np.ndarray, "label layer unit"],
    sd: Float[np.ndarray, "label layer unit"],
    observed: Float[np.ndarray, "label layer unit"],
) -> tuple[Float[np.ndarray, "label layer unit"], Float[np.ndarray, "label layer unit"]]:
    """Mean and standard deviation over n replicates and the observed scores together."""
    gap = observed - mean
    return mean + gap / (n + 1), np.sqrt(((n - 1) * sd**2 + gap**2 * n / (n + 1)) / n)


def _standardised(
    scores: Float[np.ndarray, "label layer unit"],
    mean: Float[np.ndarray, "label layer unit"],
    sd: Float[np.ndarray, "label layer unit"],
    count: Float[np.ndarray, " label"],
    two_sided: bool,
) -> Float[np.ndarray, "label layer unit"]:
    # a label that the exchange cannot move varies by rounding alone, far less than the others do
    moves = sd > np.maximum(1e-4 * sd.max(0), 1e-12)
    z = np.divide(scores - mean, sd, out=np.zeros_like(mean), where=moves)
    # the null of a handful of words has tails that would set the maximum by themselves
    z[count < MIN_WORDS] = 0.0
    return np.abs(z) if two_sided else z


def _step(z: Float[np.ndarray, "*shape"], n: int) -> Int[np.ndarray, "*shape"]:
    """The step of the grid that each z stands on; none of n + 1 values can be above n/sqrt(n + 1)."""
    place = z * (N_STEPS * np.sqrt(n + 1) / n)
    return np.clip(place, 0, N_STEPS - 1).astype(np.int64)
