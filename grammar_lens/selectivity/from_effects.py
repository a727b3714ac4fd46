"""Scores of a unit's effects rather than its activations: attributions and outgoing weights.

A unit that never varies gets 0 in all of them: it may do something, but nothing that depends on the
word.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

from grammar_lens.errors import GrammarLensError
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.from_moments import varies
from grammar_lens.selectivity.result import ScoreValues

COMPARED_WORDS = 100
"""Words that a label needs for others to be compared with it by `attribution_contrast`."""
COMPARED_LABELS = 3
"""With fewer labels of so many words, every other label is compared."""


def logit_contrast(evidence: Evidence) -> ScoreValues:
    """Rise of the logits of the label's words over the rest's through a unit's outgoing weight.

    Logits per unit of activation, at a final norm of scale 1; sign as the logits move when the
    activation rises. No data enter it beyond the lexicon's counts.
    Source: Geva et al. (2022), Transformer feed-forward layers build predictions, section 3.
    """
    assert evidence.output_contrast is not None, "see `score`"
    return _moving(evidence, evidence.output_contrast), None


def attribution(evidence: Evidence) -> ScoreValues:
    """Expected rise of the label's tag loss, in nats per word, when the unit is set to its reference.

    To first order; positive where the label needs the unit.
    Source: Nanda (2023), Attribution patching; Kramar et al. (2024), AtP*.
    """
    assert evidence.attribution is not None, "see `score`"
    return _moving(evidence, evidence.attribution.mean), None


def attribution_contrast(evidence: Evidence) -> ScoreValues:
    """`attribution` of the label minus the unweighted mean of the other labels', in nats per word.

    A unit that every label needs equally gets 0. The other labels are those with 100 words or more,
    since the mean of a rare label is the noise of a few words (all others where fewer than three
    have so many).
    """
    assert evidence.attribution is not None, "see `score`"
    return _moving(evidence, _contrast(evidence.attribution)), None


def relevance(evidence: Evidence) -> ScoreValues:
    """`attribution` in nats per word, with relevance propagation in place of the gradient.

    Source: RelP, arXiv 2508.21258; the rules are those of `model.relevance_pass`.
    """
    assert evidence.relevance is not None, "see `score`"
    return _moving(evidence, evidence.relevance.mean), None


def relevance_contrast(evidence: Evidence) -> ScoreValues:
    """`relevance` of the label minus that of other labels, as `attribution_contrast` has it."""
    assert evidence.relevance is not None, "see `score`"
    return _moving(evidence, _contrast(evidence.relevance)), None


def _contrast(attribution: Attribution) -> Float[np.ndarray, "label layer unit"]:
    """Each label's mean minus the mean of the labels it is compared with."""
    others = np.einsum("lo,oiu->liu", _compared(attribution.count), attribution.mean)
    return attribution.mean - others


def _compared(count: Float[np.ndarray, " label"]) -> Float[np.ndarray, "label other"]:
    """The weights of the mean over other labels that each label is compared with."""
    apart = ~np.eye(len(count), dtype=bool)
    frequent = apart & (count >= COMPARED_WORDS)
    others = np.where(frequent.sum(1, keepdims=True) >= COMPARED_LABELS, frequent, apart)
    return others / others.sum(1, keepdims=True)


def integrated_gradients(evidence: Evidence) -> ScoreValues:
    """Mean share of the unit in the probability (or its logarithm) of the label's gold tokens.

    Source: Sundararajan et al. (2017), Axiomatic attribution; Dai et al. (2022) for neurons.
    """
    assert evidence.integrated_gradients is not None, "see `score`"
    return _moving(evidence, evidence.integrated_gradients.mean), None


def frequency(evidence: Evidence) -> ScoreValues:
    """Share of the label's words at which the unit is among the word's top integrated gradients.

    From 0 to 1. Source: Norouzi et al. (2025), arXiv 2511.06519.
    """
    assert evidence.integrated_gradients is not None, "see `score`"
    counted: Attribution = evidence.integrated_gradients
    if counted.frequency is None:
        raise GrammarLensError(
            "score 'frequency' needs how often each unit is among a word's largest integrated "
            "gradients, which was not counted: attribute again with a top share, such as "
            "gl.attribute(..., top_share=0.05)"
        )
    return _moving(evidence, counted.frequency), None


def frequency_depends(attribution: Attribution) -> Float[np.ndarray, "layer unit"]:
    """p that a unit is among the top integrated gradients as often under every label.

    Pearson's chi-squared test of the table label x (kept, not kept), as if words were independent;
    1 for units that are never or always kept.
    Raises GrammarLensError when it was not counted how often units are kept.
    """
    if attribution.frequency is None:
        raise GrammarLensError(
            "how often units are among a word's largest integrated gradients was not counted: "
            "attribute again with a top share, such as gl.attribute(..., top_share=0.05)"
        )
    count = attribution.count[:, None, None]
    share = (count * attribution.frequency).sum(0) / count.sum()
    variance = share * (1 - share)
    squares = (count * (attribution.frequency - share) ** 2).sum(0)
    # kept and not kept deviate alike: d^2/(n share) + d^2/(n (1 - share)) = d^2/(n variance)
    statistic = np.divide(squares, variance, out=np.zeros_like(squares), where=variance > 1e-12)
    return stats.chi2.sf(statistic, len(attribution.labels) - 1)


def _moving(
    evidence: Evidence, values: Float[np.ndarray, "label layer unit"]
) -> Float[np.ndarray, "label layer unit"]:
    """The values, 0 for units that never vary."""
    return np.where(varies(evidence.moments), values, 0.0)
