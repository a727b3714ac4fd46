"""Probes: how well a linear classifier on chosen units tells the label of fresh words.

An accuracy alone says little, so every probe comes with its baselines: the majority label, the most
frequent label of the word itself, as many random neurons of the same layers, all neurons of one
layer, and a control task whose labels are random per word type (Hewitt & Liang 2019).
"""

from grammar_lens.probing.baselines import (
    ambiguous,
    bootstrap_interval,
    control_labels,
    majority_accuracy,
    word_answers,
    word_baseline_accuracy,
)
from grammar_lens.probing.code_length import online_code_length, uniform_code_length
from grammar_lens.probing.curves import (
    CLASSIFIERS,
    Classifier,
    CurvePoint,
    ProbeCurve,
    curve,
    fewest_enough,
    per_layer,
    round_robin,
)
from grammar_lens.probing.evaluation import ProbeResult, evaluate
from grammar_lens.probing.fitted import FittedProbe
from grammar_lens.probing.fitting import (
    Probe,
    Standardised,
    accuracy,
    fit,
    fit_svm,
    predict,
    standardise,
)
from grammar_lens.probing.words import Columns, ProbeError, ProbeWords, random_neurons

__all__ = [
    "CLASSIFIERS",
    "Classifier",
    "Columns",
    "CurvePoint",
    "FittedProbe",
    "Probe",
    "ProbeCurve",
    "ProbeError",
    "ProbeResult",
    "ProbeWords",
    "Standardised",
    "accuracy",
    "ambiguous",
    "bootstrap_interval",
    "control_labels",
    "curve",
    "evaluate",
    "fewest_enough",
    "fit",
    "fit_svm",
    "majority_accuracy",
    "online_code_length",
    "per_layer",
    "predict",
    "random_neurons",
    "round_robin",
    "standardise",
    "uniform_code_length",
    "word_answers",
    "word_baseline_accuracy",
]
