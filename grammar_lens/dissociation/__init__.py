"""The statistics of a lesion study: tag-by-tag losses against matched shams.

M[i, j] is the mean rise in tag loss (nats) of words with label j when label i's neurons are cut.
A study asks whether the damage is selective, and never against one control: every statistic has a
null distribution of sham lesions that are matched in layer and in expected output.
"""

from grammar_lens.dissociation.calibrating import Calibration, calibration
from grammar_lens.dissociation.changes import StudyError
from grammar_lens.dissociation.doses import DoseResponse
from grammar_lens.dissociation.keeping import EVERYTHING, Sufficiency
from grammar_lens.dissociation.ladders import dose_response, value_ladder
from grammar_lens.dissociation.matched import DamageMatched
from grammar_lens.dissociation.matrices import diagonal_score, margins, scaled
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.rounds import Redundancy, Round, redundancy
from grammar_lens.dissociation.shams import (
    N_NEAREST,
    growing_sham,
    matched_keys,
    sham_sets,
    size_for,
)
from grammar_lens.dissociation.statistics import dissociation

__all__ = [
    "EVERYTHING",
    "N_NEAREST",
    "Calibration",
    "CrossedPair",
    "DamageMatched",
    "DoseResponse",
    "LesionStudy",
    "Redundancy",
    "Round",
    "StudyError",
    "Sufficiency",
    "calibration",
    "diagonal_score",
    "dissociation",
    "dose_response",
    "growing_sham",
    "margins",
    "matched_keys",
    "redundancy",
    "scaled",
    "sham_sets",
    "size_for",
    "value_ladder",
]
