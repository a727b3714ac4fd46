"""Scores from the activations of a sample of words: AUROC and probe weights."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from grammar_lens.errors import GrammarLensError
from grammar_lens.selectivity.elastic_net import fit_elastic_net
from grammar_lens.selectivity.evidence import Evidence, Sample
from grammar_lens.selectivity.result import ScoreValues

_VALUES = 2**20
"""Activations sorted at a time: some sixty bytes each."""
L1 = L2 = 0.01
"""Penalties of `probe_weight`: no worse on words left out than smaller ones, and sooner done."""
TOLERANCE = 0.02
"""Tolerance of the probe's optimum: the remaining gradient as a share of l1."""


def auroc(evidence: Evidence) -> ScoreValues:
    """P(a word of the label has the larger activation than a word of the rest), ties half; in [0, 1].

    The mean of the AUROCs against every other label, weighted by how many words of it the corpus
    has: a balanced sample then speaks for the corpus's own rest. Exact on the sample. A unit that has
    one value at all sampled words gets 0.5.
    Source: Bamber (1975), The area above the ordinal dominance graph; Hand & Till (2001), for pairs.
    """
    assert evidence.sample is not None, "see `score`"
    sample = evidence.sample
    n_words, n_layers, n_units = sample.values.shape
    n_labels = len(sample.labels)
    flat = sample.values.reshape(n_words, -1)
    values = np.empty((n_labels, n_layers * n_units))
    sampled = np.bincount(sample.classes, minlength=n_labels).astype(float)
    weight = sample.count / sampled
    for some in _blocks(flat.shape[1], max(1, _VALUES // n_words)):
        # with every word weighing as much as the words it stands for, the weight below a word is
        # the sum of n_z P(z below it); half of its own label's lies below the label's words
        below = _weight_below(np.ascontiguousarray(flat[:, some].T), sample.classes, weight)
        above = below.T / sampled[:, None] - sample.count[:, None] / 2
        values[:, some] = above / (sample.count.sum() - sample.count)[:, None]
    np.clip(values, 0, 1, out=values)
    values[:, np.ptp(flat, axis=0) == 0] = 0.5
    return values.reshape(n_labels, n_layers, n_units), None


def probe_weight(evidence: Evidence) -> ScoreValues:
    """Weight of each unit for each label in one elastic-net classifier of all units of all layers.

    In log-odds per standard deviation; correlated units share the weight or leave it
    to one of them. A unit that has one value at all sampled words gets 0. The weights are those of
    `probe_weights` with its own penalties on the CPU.
    Source: Dalvi et al. (2019), What is one grain of sand in the desert?, section 3.1.
    """
    assert evidence.sample is not None, "see `score`"
    return probe_weights(evidence.sample), None


def probe_weights(
    sample: Sample,
    *,
    l1: float = L1,
    l2: float = L2,
    max_steps: int = 5000,
    device: str | torch.device = "cpu",
) -> Float[np.ndarray, "label layer unit"]:
    """Weights that minimise mean cross-entropy + l1 |W| + l2 |W|^2 on the standardised sample.

    In float32. Raises GrammarLensError when l1 is not positive, l2 is negative, or the fit does not converge.
    """
    if not (l1 > 0 and l2 >= 0):
        raise GrammarLensError(f"l1 is {l1} and l2 is {l2}, expected l1 above 0 and l2 not below 0")
    n_words, n_layers, n_units = sample.values.shape
    flat = sample.values.reshape(n_words, -1)
    x = torch.empty(flat.shape, dtype=torch.float32)
    for some in _blocks(flat.shape[1], max(1, _VALUES // n_words)):
        x[:, some] = torch.from_numpy(_standardised(flat[:, some]))
    fit = fit_elastic_net(
        x.to(device),
        torch.from_numpy(sample.classes.astype(np.int64)).to(device),
        len(sample.labels),
        l1=l1,
        l2=l2,
        tolerance=TOLERANCE,
        max_steps=max_steps,
    )
    if not fit.violation <= TOLERANCE * l1:
        raise GrammarLensError(
            f"the probe did not converge in {fit.n_steps} steps: its gradient is {fit.violation:.1e}, "
            f"expected at most {TOLERANCE * l1:.1e}; use larger penalties than l1 {l1:g} and l2 {l2:g}"
        )
    weight = fit.weight.T.double().cpu().numpy()
    return weight.reshape(len(sample.labels), n_layers, n_units)


def _standardised(values: Float[np.ndarray, "word unit"]) -> Float[np.ndarray, "word unit"]:
    """Mean 0 and standard deviation 1 (ddof 0); 0 for a unit that has one value."""
    centred = values - values.mean(0, dtype=np.float64)
    sd = np.sqrt((centred**2).mean(0))
    sd[np.ptp(values, axis=0) == 0] = np.inf
    return centred / sd


def _weight_below(
    values: Float[np.ndarray, "unit word"],
    classes: Int[np.ndarray, " word"],
    weight: Float[np.ndarray, " label"],
) -> Float[np.ndarray, "unit label"]:
    """For each label's words together, the weight of the words below them; equal ones count half."""
    order = values.argsort(axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    of_rank = classes[order]
    each = weight[of_rank]
    up_to = each.cumsum(axis=1)
    below = up_to - each / 2
    first = np.ones(ordered.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=first[:, 1:])
    tied = np.flatnonzero(~first.all(1))
    below[tied] = _half_of_ties(up_to[tied], each[tied], first[tied])
    cell = of_rank + len(weight) * np.arange(len(values))[:, None]
    sums = np.bincount(cell.ravel(), below.ravel(), minlength=len(values) * len(weight))
    return sums.reshape(len(values), -1)


def _half_of_ties(
    up_to: Float[np.ndarray, "unit word"],
    each: Float[np.ndarray, "unit word"],
    first: Bool[np.ndarray, "unit word"],
) -> Float[np.ndarray, "unit word"]:
    """Weight below each word in order of size, where `first` marks the first of equal ones."""
    rank = np.arange(first.shape[1])
    last = np.ones_like(first)
    last[:, :-1] = first[:, 1:]
    start = np.maximum.accumulate(np.where(first, rank, 0), axis=1)
    end = np.minimum.accumulate(np.where(last, rank, len(rank))[:, ::-1], axis=1)[:, ::-1]
    before = np.take_along_axis(up_to - each, start, axis=1)
    return (before + np.take_along_axis(up_to, end, axis=1)) / 2


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))
