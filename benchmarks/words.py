"""The words that the benchmarks read."""

import numpy as np

import grammar_lens as gl
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.model.about import Model

POSITION = "next"


def readable(model: Model, bank: gl.Treebank) -> Corpus:
    """The corpus with those tags that at least 2 of its words can be read for."""
    corpus = prepare(model, bank, labels=bank.require_label("upos")[0])
    codes = corpus.read(POSITION)
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    frequent = [label for label, n in zip(corpus.labels, counts, strict=True) if n >= 2]
    return prepare(model, bank, labels=frequent)
