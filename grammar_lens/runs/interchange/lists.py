"""Neuron lists as JSON and as lines of text: pairs, addresses, indices by layer, flat ids."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grammar_lens.defaults import SITES
from grammar_lens.errors import GrammarLensError
from grammar_lens.runs.interchange.listing import Listing, Options, listing

_SHORT = re.compile(r"L?([0-9]{1,18})\.([0-9]{1,18})", re.IGNORECASE)
_HOOK = re.compile(r"(blocks\.([0-9]{1,18})\.[\w.]*hook_\w+)\.([0-9]{1,18})")

Found = tuple[str, int, int]
"""The place of a neuron in its list, its layer and its index."""


def read_json(path: Path, text: str, options: Options) -> Listing:
    """A list of neurons, or one for each label. Raises GrammarLensError naming the place."""
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _object(path, pairs))
    except json.JSONDecodeError as error:
        raise GrammarLensError(f"{path}:{error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise GrammarLensError(f"{path} is no list of neurons: {error}") from error
    lists = data if isinstance(data, dict) else {None: data}
    rows, places, ordered = [], [], True
    for label, value in lists.items():
        before = len(rows)
        ordered &= isinstance(value, list)
        start = "" if label is None else json.dumps(label, ensure_ascii=False)
        for place, layer, index in _neurons(path, start, value, options):
            name = {} if label is None else {"label": label}
            rows.append({**name, "layer": layer, "index": index})
            places.append(place)
        if len(rows) == before and label is not None:
            raise GrammarLensError(f"{path}, {start} has no neurons: leave it out")
    return listing(rows, places, f"{path}, ", ordered=ordered)


def read_lines(path: Path, text: str, options: Options) -> Listing:
    """An address or a flat id on every line."""
    rows, lines = [], []
    for line, entry in enumerate(text.splitlines(), 1):
        if entry.strip():
            given = int(entry) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", entry) else entry.strip()
            layer, index = _one(f"{path}:{line}", given, options)
            rows.append({"layer": layer, "index": index})
            lines.append(line)
    return listing(rows, lines, f"{path}:")


def _object(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that stands twice, one list would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise GrammarLensError(f"{path}: {twice!r} stands twice: join its neurons in one list")
    return values


def _neurons(path: Path, start: str, value: Any, options: Options) -> Iterator[Found]:
    """The neurons of one list, or of one object of lists by layer."""
    if isinstance(value, dict):
        for layer, indices in value.items():
            place = f"{start}[{json.dumps(layer)}]"
            if not re.fullmatch("[0-9]{1,18}", layer) or not isinstance(indices, list):
                raise GrammarLensError(
                    f'{path}, {place}: expected lists of indices by layer, as {{"5": [123, 7]}}'
                )
            for i, index in enumerate(indices):
                yield f"{place}[{i}]", int(layer), _whole(f"{path}, {place}[{i}]", index)
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield f"{start}[{i}]", *_one(f"{path}, {start}[{i}]", entry, options)
    else:
        raise GrammarLensError(
            f"{path}, {start or 'the file'}: expected a list of neurons, got {json.dumps(value)}"
        )


def _one(place: str, entry: Any, options: Options) -> tuple[int, int]:
    """Layer and index of a pair, an address or a flat id."""
    if isinstance(entry, str):
        return _address(place, entry, options)
    if isinstance(entry, list):
        if len(entry) != 2:
            raise GrammarLensError(
                f"{place}: expected a pair [layer, index], got {len(entry)} values; lists of indices "
                'by layer are written {"VERB": {"0": [12, 40], "1": []}}'
            )
        return _whole(place, entry[0]), _whole(place, entry[1])
    flat = _whole(place, entry)
    if options.first_layer is None:
        raise GrammarLensError(
            f"{place}: {flat} alone is no address: write [layer, index] or '5.123', or, for flat ids, "
            "layer * width + index, say in which layer id 0 stands (first_layer=0; -1 where the "
            "embeddings come first)"
        )
    if flat < 0:
        raise GrammarLensError(f"{place}: the flat id is {flat}, expected 0 or more")
    if options.one_based:
        raise GrammarLensError(f"{place}: flat ids count from 0: leave one_based")
    return options.first_layer + flat // options.n_units, flat % options.n_units


def _address(place: str, entry: str, options: Options) -> tuple[int, int]:
    short, hook = _SHORT.fullmatch(entry.strip()), _HOOK.fullmatch(entry.strip())
    if short:
        return int(short[1]), int(short[2])
    if hook is None:
        raise GrammarLensError(
            f"{place}: {entry!r} is no address: expected 5.123, L5.123 or blocks.5.mlp.hook_post.123"
        )
    layer = int(hook[2])
    if hook[1] != SITES[options.site].format(layer=layer):
        raise GrammarLensError(
            f"{place}: {entry!r} is no unit of {options.site!r}, which is "
            f"{SITES[options.site].format(layer=layer)}: read it with scores of its own site"
        )
    return layer, int(hook[3])


def _whole(place: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 10**18:
        raise GrammarLensError(f"{place}: {json.dumps(value)[:60]} is no whole number of a neuron")
    return value
