"""Certification: hits and false findings of the whole chain on models with known tag neurons.

Planted worlds go through the functions that users call: `collect`, `attribute`, `score`, `select`,
`lesion_study`. Their errors are counted, with binomial bounds, and held against limits.
"""

from grammar_lens.certification.certify import certify
from grammar_lens.certification.measures import Certification, Measure

__all__ = ["Certification", "Measure", "certify"]
