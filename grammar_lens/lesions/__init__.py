"""Lesions: chosen units held at another value during the forward pass, and batteries of them."""

from grammar_lens.lesions.battery import LesionError, lesion, run_battery

__all__ = ["LesionError", "lesion", "run_battery"]
