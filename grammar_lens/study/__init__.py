"""The road from a model and a treebank to moments, attributions, probes and lesion studies.

These functions take a model and words, run forward passes, and hand arrays to the modules that do
the arithmetic.
"""

from grammar_lens.study.attributing import attribute
from grammar_lens.study.batteries import LESION_TAGS, donors
from grammar_lens.study.collecting import Collected, collect, collect_labels
from grammar_lens.study.corpus import (
    TOKEN_BUDGET,
    Corpus,
    CorpusError,
    default_budget,
    fit_lexicon,
    fresh_corpus,
    prepare,
    require_fresh,
)
from grammar_lens.study.course import time_course
from grammar_lens.study.directions import erasure, key_subspaces
from grammar_lens.study.lesion_checks import calibrate, find_again
from grammar_lens.study.lesioning import lesion_study
from grammar_lens.study.probes import probe, probe_curve, probe_layers

__all__ = [
    "LESION_TAGS",
    "TOKEN_BUDGET",
    "Collected",
    "Corpus",
    "CorpusError",
    "attribute",
    "calibrate",
    "collect",
    "collect_labels",
    "default_budget",
    "donors",
    "erasure",
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
    "time_course",
]
