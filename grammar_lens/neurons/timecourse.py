"""The time course of selectivity: scores of units at the tokens before and after a word.

The event-related picture of neuroscience: the word is the event, tokens are time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, default_budget, prepare, warned
from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, site_width
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.passes.moments import MomentAccumulator, Moments
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.progress import track
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

        Negative where they tell the opposite. NaN where a layer has none. The key neurons should
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
    if not offsets or len(set(offsets)) != len(offsets):
        raise GrammarLensError(
            f"offsets are {list(offsets)}, expected one or more different whole numbers"
        )
    corpus = prepare(model, bank, label=label, labels=labels)
    codes, alignment = corpus.read(position), corpus.alignment
    shape = (model.cfg.n_layers, site_width(model, site))
    readers = [MomentAccumulator(corpus.labels, *shape, device_of(model)) for _ in offsets]
    taps = [
        Tap(
            site,
            position,
            (codes >= 0) & alignment.readable_at(position, offset),
            codes,
            reader,
            offset=offset,
        )
        for offset, reader in zip(offsets, readers, strict=True)
    ]
    batches = corpus.batches(token_budget or default_budget(model))
    each = alignment.words_per_token
    with track(
        "time course", alignment.n_tokens, unit="words", each=each, show=show_progress
    ) as step:
        stream(model, alignment, batches, taps, progress=step, warn=warned)
    moments = [reader.moments(corpus.origin(position, site)) for reader in readers]
    counts = np.stack([m.count for m in moments])
    values = np.stack([_correlation(m) for m in moments])
    return TimeCourse(corpus.labels, tuple(offsets), counts, values, corpus.origin(position, site))


def _correlation(moments: Moments) -> Float32[np.ndarray, "label layer unit"]:
    """Correlation with every label; NaN for those with fewer than 2 words or without any others."""
    values = np.full(moments.mean.shape, np.nan, np.float32)
    known = (moments.count >= 2) & (moments.count < moments.n_words)
    if known.any():
        values[known] = SCORES["correlation"].compute(Evidence(moments))[0][known]
    return values
