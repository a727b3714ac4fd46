"""Sentences, activations and tokens of the neurons that have examples, packed for the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from grammar_lens.neurons.examples import QUANTILES, Example, Examples, NeuronExamples, TokenEffect
from grammar_lens.report.packing import halves, unsigned

AROUND = 40
"""Tokens shown on either side of the one at which a neuron was read."""
MOST_SIGNS = 600
"""Characters of a token that are shown; no word of a language is as long."""


def examples_data(examples: Examples) -> dict[str, Any]:
    """Data of the page: every stretch of text once, and each neuron by its address "layer.index".

    A neuron's activations are in one row, example after example.
    """
    places: dict[tuple[str, ...], int] = {}
    neurons = {f"{la}.{i}": _neuron(examples[la, i], places) for la, i in examples}
    passages = [[_short(token) for token in tokens] for tokens in places]
    return {"steps": QUANTILES, "passages": passages, "neurons": neurons}


def _neuron(examples: NeuronExamples, places: dict[tuple[str, ...], int]) -> dict[str, Any]:
    ends = (*examples.top, *examples.bottom)
    values = [e.values[_first(e) : _last(e)] for e in ends]
    return {
        "labels": examples.labels,
        "count": unsigned(examples.count),
        "quantiles": halves(examples.quantiles),
        "contrast": halves(examples.contrast),
        "promoted": _effects(examples.promoted),
        "suppressed": _effects(examples.suppressed),
        "top": len(examples.top),
        "examples": [_example(e, places) for e in ends],
        "values": halves(np.concatenate([*values, np.zeros(0)]).astype(float)),
    }


def _example(example: Example, places: dict[tuple[str, ...], int]) -> list[Any]:
    """Word, label, activation, where it is from, the text around it and its place in the sentence.

    The text is a number in `places`; its first token's place in the sentence, the place of the token
    at which the neuron was read, the word's, and whether the sentence continues follow.
    """
    tokens = example.passage.tokens[_first(example) : _last(example)]
    return [
        _short(example.word),
        example.label,
        _rounded(example.value),
        example.passage.source,
        places.setdefault(tokens, len(places)),
        _first(example),
        example.token,
        *example.span,
        _last(example) < len(example.passage.tokens),
    ]


def _first(example: Example) -> int:
    return max(example.token - AROUND, 0)


def _last(example: Example) -> int:
    return max(example.token, example.span[0]) + AROUND + 1


def _short(text: str) -> str:
    if len(text) <= MOST_SIGNS:
        return text
    return f"{text[:MOST_SIGNS]}… ({len(text):,} characters)"


def _effects(listed: Sequence[TokenEffect]) -> list[tuple[str, float | None]]:
    return [(_short(e.token), _rounded(e.logit)) for e in listed]


def _rounded(value: float) -> float | None:
    """Four digits, None where it is missing."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
