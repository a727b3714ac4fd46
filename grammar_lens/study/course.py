"""The time course of selectivity, from one pass that reads every word at several tokens."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from grammar_lens.activations import Tap, stream
from grammar_lens.evidence import Evidence
from grammar_lens.model import Model, device_of, site_width
from grammar_lens.moments import MomentAccumulator, Moments
from grammar_lens.progress import track
from grammar_lens.selectivity import SCORES
from grammar_lens.study.corpus import Corpus, CorpusError, default_budget, prepare, warned
from grammar_lens.timecourse import TimeCourse
from grammar_lens.treebank import Treebank

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
        raise CorpusError(
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
