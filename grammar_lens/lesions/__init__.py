"""Lesions: chosen units held at another value during the forward pass, and batteries of them."""

from grammar_lens.lesions.battery import STACK, run_battery
from grammar_lens.lesions.context import lesion
from grammar_lens.lesions.donors import Donors, LesionError, record_donors
from grammar_lens.lesions.edits import Edit, edits_of

__all__ = [
    "STACK",
    "Donors",
    "Edit",
    "LesionError",
    "edits_of",
    "lesion",
    "record_donors",
    "run_battery",
]
