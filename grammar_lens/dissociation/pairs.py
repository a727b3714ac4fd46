"""Crossed pairs: two labels whose lesions dissociate doubly."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from grammar_lens.dissociation.changes import Changes
from grammar_lens.dissociation.matrices import (
    LEAST_LABELS,
    LEAST_SHAMS,
    ROUNDING,
    leads,
    margins,
    shares,
)
from grammar_lens.dissociation.resampling import Resampling
from grammar_lens.lesions.holm import holm

LUCKY = 0.2
"""Expected number of lesions, over all labels, that lead at their label by chance."""


@dataclass(frozen=True)
class CrossedPair:
    """Two labels whose lesions dissociate doubly, with both criteria and the AUROC check.

    `p` is the largest of the four one-sided bootstrap p-values, after Holm over all pairs. `margin`
    says how clearly both lesions point at their own label: the share of the damage that falls on it
    minus the largest other share, of the two lesions the smaller. `threshold` is the margin that sham
    lesions too seldom reach by chance. `confirmed` says that the four inequalities also hold for the
    fall in AUROC; otherwise the pair may be a shift of bias.
    """

    first: str
    second: str
    p: float
    margin: float
    threshold: float
    confirmed: bool


def crossed_pairs(
    changes: Changes,
    sample: Changes,
    auroc_falls: Float[np.ndarray, "label label"],
    rng: np.random.Generator,
    n_bootstrap: int,
) -> tuple[CrossedPair, ...]:
    """Pairs of labels that pass both criteria; none without shams, nor with two labels.

    `changes` are the real lesions at all words, `sample` those and the shams at the sampled ones.
    (a) the largest of four one-sided p, z = difference / bootstrap standard error over sentences,
    shams subtracted on the same resampled sentences, passes Holm over all pairs at 5 %;
    (b) its pattern of damage is not chance's (`patterned`), which takes 19 shams or more.
    """
    labels = changes.labels
    passes, lead, threshold = patterned(sample.matrix(), sample.sham_matrices())
    if not passes.any():
        return ()
    pairs = list(combinations(range(len(labels)), 2))
    p = _bootstrap_p(changes, sample, rng, n_bootstrap)[np.triu_indices(len(labels), 1)]
    corrected = holm(p)
    by_auroc = margins(auroc_falls)
    return tuple(
        CrossedPair(
            labels[i],
            labels[j],
            float(corrected[n]),
            float(min(lead[i], lead[j])),
            threshold,
            bool(by_auroc[i, j] > 0),
        )
        for n, (i, j) in enumerate(pairs)
        if corrected[n] <= 0.05 and passes[i, j]
    )


def patterned(
    matrix: Float[np.ndarray, "label label"], shams: Float[np.ndarray, "replicate label label"]
) -> tuple[Bool[np.ndarray, "label label"], Float[np.ndarray, " label"], float]:
    """Pairs whose pattern of damage chance does not explain, each label's lead, and the threshold.

    A pair passes when the four inequalities hold in the shares of damage, and the lesions of both
    labels lead by more than the threshold: the lead that, of all sham lesions, each tried against
    every label, a share of min(.05, .2 / labels) reach. Rows of shams are many, so the null is
    fine-grained even with few replicates; shares tell larger from selective damage. Simulated, 4
    labels, 19 shams: any false pair in 1 to 3 % of studies whose real damage is 3 or 10 times larger
    but falls at random; of pairs of a clean diagonal 52 to 99 % are found where differences in the
    row-scaled matrix against the shams' largest over pairs found 12 to 28 %.
    """
    n_labels = len(matrix)
    nothing = np.zeros((n_labels, n_labels), bool)
    if n_labels < LEAST_LABELS:
        return nothing, np.zeros(n_labels), np.inf
    share = shares(matrix)
    lead = np.diag(leads(share))
    null = np.sort(leads(shares(shams)).ravel())
    allowed = int(min(0.05, LUCKY / n_labels) * (1 + len(null)))
    threshold = float(null[-allowed]) if len(shams) >= LEAST_SHAMS else np.inf
    clear = lead > threshold + ROUNDING
    return (margins(share) > ROUNDING) & clear[:, None] & clear, lead, threshold


def _bootstrap_p(
    changes: Changes, sample: Changes, rng: np.random.Generator, n_bootstrap: int
) -> Float[np.ndarray, "label label"]:
    """For every pair the largest of its four one-sided p-values."""
    sham = sample.sham.mean(0)
    point = changes.matrix() - sample.means(sham)
    resampled = Resampling.of(changes, rng, n_bootstrap)
    draws = resampled.means(changes.real, changes) - resampled.means(sham, sample)

    def p(difference: np.ndarray, spread: np.ndarray) -> np.ndarray:
        z = np.divide(difference, spread, out=np.full_like(spread, -np.inf), where=spread > 0)
        return stats.norm.sf(z)

    own, own_draws = np.diag(point), np.diagonal(draws, axis1=1, axis2=2)
    lesion = p(own[:, None] - point, (own_draws[:, :, None] - draws).std(0, ddof=1))
    label = p(own[None] - point, (own_draws[:, None] - draws).std(0, ddof=1))
    worst = np.maximum(lesion, label)
    return np.maximum(worst, worst.T)
