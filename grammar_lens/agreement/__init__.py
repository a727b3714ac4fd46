"""Number agreement: minimal pairs, and what lesions do to them."""

from grammar_lens.agreement.lesioning import AgreementStudy, agreement_study
from grammar_lens.agreement.pairs import MinimalPair, pairs_to_csv, read_pairs
from grammar_lens.agreement.scoring import PairScores, score_pairs

__all__ = [
    "AgreementStudy",
    "MinimalPair",
    "PairScores",
    "agreement_study",
    "pairs_to_csv",
    "read_pairs",
    "score_pairs",
]
