"""The time course of selectivity: scores of units at the tokens before and after a word.

The event-related picture of neuroscience: the word is the event, tokens are time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int16

from grammar_lens.corpus.alignment import Alignment
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, fingerprint, site_width
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.passes.moments import MomentAccumulator, Moments, pool
from grammar_lens.passes.shared import Reading, Request, read_one
from grammar_lens.passes.stream import Tap
from grammar_lens.passes.sums import SumAccumulator, label_rows
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES


@dataclass(frozen=True)
class TimeCourse(Shown):
    """Correlation of every unit with each label, at tokens before and after the word is read.

    `values[i]` is at `offsets[i]` tokens from the position named in `origin`; `count` is how many
    words have such a token. NaN where a label has fewer than 2 such words, or all of them.
    """

    labels: tuple[str, ...]
    offsets: tuple[int, ...]
    count: Float[np.ndarray, "offset label"]
    values: Float[np.ndarray, "offset label layer unit"]
    origin: Origin

    def strength(self) -> Float[np.ndarray, "offset label layer"]:
        """Root mean square correlation over all units of a layer."""
        return np.sqrt((self.values.astype(np.float64) ** 2).mean(3))

    def of(self, keys: KeyNeurons) -> Float[np.ndarray, "offset label layer"]:
        """Mean correlation of each label's key neurons in each layer, in the direction they were chosen for.

        Negative where they indicate the opposite. NaN where a layer has none. The key neurons should
        come from other words than the time course, or the event itself is flattered.
        """
        shape = (len(self.offsets), len(self.labels), self.values.shape[2])
        total, number = np.zeros(shape), np.zeros(shape[1:])
        for i, label in enumerate(self.labels):
            key = keys[label]
            sign = np.where(key.score < 0, -1.0, 1.0)
            np.add.at(number[i], key.layer, 1.0)
            for j in range(len(self.offsets)):
                np.add.at(total[j, i], key.layer, self.values[j, i, key.layer, key.index] * sign)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)

    def summary(self, keys: KeyNeurons) -> "CourseSummary":
        """The small part of the result: one number per offset, label and layer."""
        return CourseSummary(
            self.labels, self.offsets, self.count, self.strength(), self.of(keys), self.origin
        )

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"TimeCourse of {o.label} in {o.model} on {o.treebank}: tokens {self.offsets[0]:+d} to "
            f"{self.offsets[-1]:+d} around {o.position!r}, {len(self.labels)} values"
        )

    def _tables(self) -> list[pd.DataFrame]:
        return [_peaks(self.labels, self.offsets, self.strength())]


@dataclass(frozen=True)
class CourseSummary(Shown):
    """A time course by layer: of all units (root mean square), and of the key neurons (signed mean)."""

    labels: tuple[str, ...]
    offsets: tuple[int, ...]
    count: Float[np.ndarray, "offset label"]
    strength: Float[np.ndarray, "offset label layer"]
    key: Float[np.ndarray, "offset label layer"]
    origin: Origin

    def to_frame(self) -> pd.DataFrame:
        """A row per offset, label and layer."""
        index = pd.MultiIndex.from_product(
            [self.offsets, self.labels, range(self.strength.shape[2])],
            names=["offset", "label", "layer"],
        )
        columns = {"strength": self.strength.ravel(), "key_neurons": self.key.ravel()}
        return pd.DataFrame(columns, index=index).reset_index()

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"CourseSummary of {o.label} in {o.model} on {o.treebank}: tokens {min(self.offsets):+d} "
            f"to {max(self.offsets):+d} around {o.position!r}, {len(self.labels)} values"
        )

    def _tables(self) -> list[pd.DataFrame]:
        return [_peaks(self.labels, self.offsets, self.strength)]


def _peaks(
    labels: tuple[str, ...],
    offsets: tuple[int, ...],
    strength: Float[np.ndarray, "offset label layer"],
) -> pd.DataFrame:
    """Offset and layer at which each label's score is highest."""
    known = np.nan_to_num(strength)
    rows = []
    for i, label in enumerate(labels):
        offset, layer = np.unravel_index(int(known[:, i].argmax()), known[:, i].shape)
        most = strength[offset, i, layer]
        rows.append((label, offsets[offset], int(layer), most))
    columns = ["label", "strongest at token", "layer", "root mean square r"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


OFFSETS = (-3, -2, -1, 0, 1, 2, 3)


def time_course(
    model: Model,
    bank: Treebank | Corpus,
    *,
    offsets: Sequence[int] = OFFSETS,
    position: str = "word",
    site: str = "neuron",
    label: str = "upos",
    labels: Sequence[str] | None = None,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> TimeCourse:
    """Correlation of every unit with each label of a word, `offsets` tokens from where it is read.

    BOS is no token of the sentence; words without a token there are left out at that offset.
    """
    corpus = prepare(model, bank, label=label, labels=labels)
    reading = course_reading(model, corpus, offsets=offsets, position=position, site=site)
    return read_one(
        model, reading, "time course", token_budget=token_budget, show_progress=show_progress
    )


def course_reading(
    model: Model,
    corpus: Corpus,
    *,
    offsets: Sequence[int] = OFFSETS,
    position: str = "word",
    site: str = "neuron",
) -> Reading[TimeCourse]:
    """`time_course` as part of a pass that others share.

    Every token is read once, whatever the number of offsets: class sums for all of them are one
    product. The overall variance at an offset is that of its tokens, which moments by the set of
    offsets that a token serves give exactly: the sets are few, and all but the ends are alike.
    """
    if not offsets or len(set(offsets)) != len(offsets):
        raise GrammarLensError(
            f"offsets are {list(offsets)}, expected one or more different whole numbers"
        )
    rows = np.unique(corpus.alignment.row)
    tokens = corpus.alignment.as_tokens(rows)
    codes = _codes_of_tokens(corpus, tokens, offsets, position)
    n_labels, shape = len(corpus.labels), (model.cfg.n_layers, site_width(model, site))
    serves = codes < n_labels
    served, group = np.unique(serves.T, axis=0, return_inverse=True)
    wanted, group = np.any(serves, axis=0), group.ravel()
    device = device_of(model)
    moments = MomentAccumulator([str(i) for i in range(len(served))], *shape, device)
    sums = SumAccumulator(
        label_rows(codes, n_labels + 1, device), len(offsets) * (n_labels + 1), *shape, device
    )
    numbers = np.arange(tokens.n_words)
    taps = [
        Tap(site, "word", wanted, of_token, reader, alignment=tokens)
        for of_token, reader in ((group, moments), (numbers, sums))
    ]

    def finish() -> TimeCourse:
        origin = corpus.origin(position, site, fingerprint(model))
        by_set, n = moments.moments(origin), len(offsets)
        total = sums.sums().reshape(n, n_labels + 1, *shape)[:, :n_labels]
        count = np.stack([np.bincount(c, minlength=n_labels)[:n_labels] for c in codes]).astype(
            float
        )
        values = np.stack(
            [
                _correlation(_at_offset(by_set, served[:, i], corpus.labels, count[i], total[i]))
                for i in range(n)
            ]
        )
        return TimeCourse(corpus.labels, tuple(offsets), count, values, origin)

    return Reading([Request(corpus, lambda: taps)], finish)


def _codes_of_tokens(
    corpus: Corpus, tokens: Alignment, offsets: Sequence[int], position: str
) -> Int16[np.ndarray, "offset token"]:
    """The class of the word that each token serves at each offset; the number of labels for none."""
    classes, alignment = corpus.read(position), corpus.alignment
    codes = np.full((len(offsets), tokens.n_words), len(corpus.labels), np.int16)
    start, time = tokens.row_start[alignment.row], alignment.time(position)
    for i, offset in enumerate(offsets):
        words = np.flatnonzero((classes >= 0) & alignment.readable_at(position, offset))
        codes[i, start[words] + time[words] + offset] = classes[words]
    return codes


def _at_offset(
    by_set: Moments,
    serving: Bool[np.ndarray, " set"],
    labels: tuple[str, ...],
    count: Float[np.ndarray, " label"],
    total: Float[np.ndarray, "label layer unit"],
) -> Moments:
    """Moments at one offset: its class means, and its overall squared deviations in the first `m2`."""
    mean = total / np.maximum(count, 1)[:, None, None]
    m2 = np.zeros_like(mean)
    if serving.any():
        _, overall = pool(by_set.count[serving], by_set.mean[serving], by_set.m2[serving])
        _, between = pool(count, mean, m2)
        m2[0] = np.maximum(overall - between, 0.0)
    zeros = np.zeros_like(mean)
    return Moments(labels, count, mean, m2, zeros, zeros[0], by_set.origin)


def _correlation(moments: Moments) -> Float32[np.ndarray, "label layer unit"]:
    """Correlation with every label; NaN for those with fewer than 2 words or without any others."""
    values = np.full(moments.mean.shape, np.nan, np.float32)
    known = (moments.count >= 2) & (moments.count < moments.n_words)
    if known.any():
        values[known] = SCORES["correlation"].compute(Evidence(moments))[0][known]
    return values
