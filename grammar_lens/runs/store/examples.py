"""Examples of neurons as JSON, every passage once, numbers with four significant digits."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import read_json, write_text
from grammar_lens.neurons.examples import (
    QUANTILES,
    Example,
    Examples,
    NeuronExamples,
    Passage,
    TokenEffect,
)


def save_examples(path: Path, examples: Mapping[str, Examples]) -> None:
    """Writes the examples of every position."""
    passages: dict[Passage, int] = {}
    positions = {
        position: {
            "origin": asdict(of_position.origin),
            "neurons": [_packed(neuron, passages) for neuron in of_position.by_neuron.values()],
        }
        for position, of_position in examples.items()
    }
    texts = [asdict(passage) for passage in passages]
    data = {"quantiles": QUANTILES, "positions": positions, "passages": texts}
    # not `write_json`, which gives every number a line
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    write_text(path, text + "\n")


def _packed(examples: NeuronExamples, passages: dict[Passage, int]) -> dict[str, Any]:
    """One neuron with its passages by number."""
    return {
        "layer": examples.layer,
        "index": examples.index,
        "labels": examples.labels,
        "count": examples.count.tolist(),
        "quantiles": _rounded(examples.quantiles),
        "contrast": _rounded(examples.contrast),
        **{
            name: [[effect.token, _rounded(effect.logit)] for effect in effects]
            for name, effects in (
                ("promoted", examples.promoted),
                ("suppressed", examples.suppressed),
            )
        },
        **{
            name: [_packed_example(example, passages) for example in end]
            for name, end in (("top", examples.top), ("bottom", examples.bottom))
        },
    }


def _packed_example(example: Example, passages: dict[Passage, int]) -> dict[str, Any]:
    return {
        "passage": passages.setdefault(example.passage, len(passages)),
        "token": example.token,
        "span": example.span,
        "word": example.word,
        "label": example.label,
        "value": _rounded(example.value),
        "values": _rounded(example.values),
    }


def _rounded(values: Any) -> Any:
    """Numbers with four significant digits, a missing one as None."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return None if math.isnan(values) else float(f"{values:.4g}")


def read_examples(path: Path) -> dict[str, Examples]:
    """Read the file of `save_examples`. Raises GrammarLensError for a file of other quantiles."""
    data = read_json(path)
    if tuple(data["quantiles"]) != QUANTILES:
        raise GrammarLensError(
            f"{path} has the quantiles {data['quantiles']}, expected {list(QUANTILES)}: make it again "
            f"with `grammar-lens examples {path.parent}`"
        )
    passages = [Passage(tuple(p["tokens"]), p["source"]) for p in data["passages"]]
    by_position = {}
    for position, stored in data["positions"].items():
        origin = Origin(**stored["origin"])
        neurons = [_unpacked(packed, passages, origin) for packed in stored["neurons"]]
        by_position[position] = Examples({(n.layer, n.index): n for n in neurons}, origin)
    return by_position


def _unpacked(
    packed: Mapping[str, Any], passages: Sequence[Passage], origin: Origin
) -> NeuronExamples:
    return NeuronExamples(
        layer=packed["layer"],
        index=packed["index"],
        labels=tuple(packed["labels"]),
        count=np.array(packed["count"], np.int64),
        quantiles=np.array(packed["quantiles"], np.float64),
        top=_unpacked_end(packed["top"], passages),
        bottom=_unpacked_end(packed["bottom"], passages),
        contrast=np.array(packed["contrast"], np.float64),
        promoted=tuple(TokenEffect(token, logit) for token, logit in packed["promoted"]),
        suppressed=tuple(TokenEffect(token, logit) for token, logit in packed["suppressed"]),
        origin=origin,
    )


def _unpacked_end(
    packed: Sequence[Mapping[str, Any]], passages: Sequence[Passage]
) -> tuple[Example, ...]:
    return tuple(
        Example(
            passage=passages[example["passage"]],
            token=example["token"],
            span=tuple(example["span"]),
            word=example["word"],
            label=example["label"],
            value=example["value"],
            values=np.array(example["values"], np.float64),
        )
        for example in packed
    )
