"""Data of the neuron pages: every tag's strongest neurons, and all their scores.

They travel packed and are read when the first neuron is asked for, so that a model with 458,752
neurons has a page that opens at once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from markupsafe import Markup

from grammar_lens.figures.style import SCORE_NAMES, decimals, unit_name
from grammar_lens.neurons.examples import Examples
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.passes.moments import Moments
from grammar_lens.report.packing import block, halves, packed, unsigned
from grammar_lens.report.passages import examples_data
from grammar_lens.report.result_tables import TOP
from grammar_lens.selectivity.result import Scores

LISTED = 1000
"""Neurons of each tag that are listed with exact values."""
MOST_NUMBERS = LISTED * 17 * 17
"""Numbers of one kind at one position: with more than 17 tags fewer neurons of each are listed."""

Addresses = Int[np.ndarray, " row"]
"""Neurons as layer * n_units + index."""


@dataclass(frozen=True)
class NeuronPages:
    """The neuron pages of one position."""

    position: str
    unit: str
    labels: tuple[str, ...]
    n_listed: int
    """Neurons in the longest list."""
    n_neurons: int
    """Distinct neurons that have a page."""
    n_examples: int
    """Number of them that have example sentences."""
    block: Markup
    examples: Markup | None


def neuron_pages(
    scores: Scores, keys: KeyNeurons, moments: Moments, examples: Examples | None
) -> NeuronPages:
    """Every label's strongest neurons, its first key neurons and those with examples."""
    n = min(LISTED, max(MOST_NUMBERS // len(scores.labels) ** 2, TOP))
    strength = scores.strength().reshape(len(scores.labels), -1)
    lists = [ranked(row, n) for row in strength]
    n_units = scores.values.shape[2]
    others = [s.layer * n_units + s.index for s in keys.top(TOP).values()]
    shown = [] if examples is None else [layer * n_units + index for layer, index in examples]
    listed = np.unique(np.concatenate([*lists, *others, np.array(shown, np.int64)]))
    unit = unit_name(scores.origin.site)
    return NeuronPages(
        position=scores.origin.position,
        unit=unit,
        labels=scores.labels,
        n_listed=max(map(len, lists), default=0),
        n_neurons=len(listed),
        n_examples=len(shown),
        block=block(
            {
                "position": scores.origin.position,
                "labels": scores.labels,
                "unit": unit,
                "score": _plain_name(scores.method),
                "neutral": scores.neutral,
                "digits": decimals(scores.values),
                "layers": scores.values.shape[1],
                "units": n_units,
                "listed": n,
                "address": unsigned(np.diff(listed, prepend=0)),
                "scores": halves(_of(scores.values, listed)),
                "effects": halves(_of(scores.effect, listed)),
                "means": halves(_of(_means(scores, moments), listed)),
                "key": packed(np.packbits(_is_key(keys, scores.labels, listed), axis=1), "u1"),
                "lists": [
                    {
                        "row": unsigned(np.searchsorted(listed, at)),
                        "score": packed(scores.values[i].ravel()[at], "f4"),
                        "effect": packed(scores.effect[i].ravel()[at], "f4"),
                    }
                    for i, at in enumerate(lists)
                ],
            }
        ),
        examples=None if not shown or examples is None else block(examples_data(examples)),
    )


def ranked(strength: Float[np.ndarray, " neuron"], n: int) -> Addresses:
    """The up to `n` strongest, best first, of equals the first; those not above 0 are none."""
    least = np.partition(strength, -n)[-n] if n < len(strength) else 0.0
    candidates = np.flatnonzero((strength >= least) & (strength > 0))
    return candidates[np.argsort(-strength[candidates], kind="stable")][:n]


def _of(
    values: Float[np.ndarray, "label layer unit"], listed: Addresses
) -> Float[np.ndarray, "row label"]:
    """The values of some neurons for all labels."""
    return values.reshape(len(values), -1)[:, listed].T


def _means(scores: Scores, moments: Moments) -> Float[np.ndarray, "label layer unit"]:
    """Mean activation over each label's words, in the scores' order of labels."""
    if moments.labels == scores.labels:
        return moments.mean
    return moments.mean[[moments.labels.index(x) for x in scores.labels]]


def _is_key(
    keys: KeyNeurons, labels: tuple[str, ...], listed: Addresses
) -> Bool[np.ndarray, "row label"]:
    is_key = np.zeros((len(listed), len(labels)), bool)
    for i, label in enumerate(labels):
        if label in keys:
            chosen = keys[label].layer * keys.n_units + keys[label].index
            is_key[:, i] = np.isin(listed, chosen)
    return is_key


def _plain_name(method: str) -> str:
    """A score's name for the page, which escapes it itself."""
    return SCORE_NAMES.get(method, method)
