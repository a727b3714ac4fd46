"""Number agreement: minimal pairs, and what lesions do to them."""

from grammar_lens.agreement.lesioning import AgreementStudy, agreement_study
from grammar_lens.agreement.pairs import MinimalPair, read_pairs
from grammar_lens.agreement.scoring import score_pairs

__all__ = ["AgreementStudy", "MinimalPair", "agreement_study", "read_pairs", "score_pairs"]
