"""The road from a model and a treebank to moments, attributions, probes and lesion studies.

These functions take a model and words, run forward passes, and hand arrays to the modules that do
the arithmetic.
"""

from grammar_lens.study.attributing import attribute
from grammar_lens.study.batteries import LESION_TAGS, donors
from grammar_lens.study.collecting import Collected, Collection, collect, collect_labels
from grammar_lens.study.corpus import (
    CONTEXTS,
    LEAST_WINDOW,
    TOKEN_BUDGET,
    WINDOW,
    Corpus,
    CorpusError,
    default_budget,
    fit_lexicon,
    fresh_corpus,
    prepare,
    require_fresh,
    some_sentences,
)
from grammar_lens.study.course import time_course
from grammar_lens.study.directions import erasure, key_subspaces
from grammar_lens.study.examples import examples_at, examples_of
from grammar_lens.study.lesion_checks import calibrate, find_again
from grammar_lens.study.lesioning import lesion_study
from grammar_lens.study.probes import probe, probe_curve, probe_layers
from grammar_lens.study.reading import Wanted

__all__ = [
    "CONTEXTS",
    "LEAST_WINDOW",
    "LESION_TAGS",
    "TOKEN_BUDGET",
    "WINDOW",
    "Collected",
    "Collection",
    "Corpus",
    "CorpusError",
    "Wanted",
    "attribute",
    "calibrate",
    "collect",
    "collect_labels",
    "default_budget",
    "donors",
    "erasure",
    "examples_at",
    "examples_of",
    "find_again",
    "fit_lexicon",
    "fresh_corpus",
    "key_subspaces",
    "lesion_study",
    "prepare",
    "probe",
    "probe_curve",
    "probe_layers",
    "require_fresh",
    "some_sentences",
    "time_course",
]
