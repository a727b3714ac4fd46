"""Addresses of neurons: layer and index, from 0, in every form that a caller may write them."""

import re
from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from grammar_lens.errors import GrammarLensError

Address = tuple[int, int]
"""A neuron's layer and index."""
Addresses = str | Iterable[object]
"""One neuron, "7.336" or (7, 336), or several: "7.336, 6.12", ["7.336", (6, 12)], an array of pairs."""
_ONE = re.compile(r"\s*(\d+)\s*[.:,]\s*(\d+)\s*", re.ASCII)
_BETWEEN = re.compile(r"[\s,;]+")


def parse_address(layer: SupportsIndex | str, index: SupportsIndex | None = None) -> Address:
    """Layer and index, given as two numbers or as "layer.index".

    Raises GrammarLensError for anything else.
    """
    if isinstance(layer, str) and index is None:
        match = _ONE.fullmatch(layer)
        if match:
            return int(match[1]), int(match[2])
    elif _is_number(layer) and _is_number(index):
        return int(layer), int(index)  # pyright: ignore[reportArgumentType]
    given = repr(layer) if index is None else f"{layer!r}, {index!r}"
    raise GrammarLensError(
        f"no neuron's address: {given}; give layer and index (5, 123) or '5.123'"
    )


def parse_addresses(given: Addresses | int) -> Int[np.ndarray, "neuron two"]:
    """Layer and index of each neuron once, in the order given.

    Raises GrammarLensError for what is no address.
    """
    pairs = dict.fromkeys(_pairs(given))
    return np.array(list(pairs), np.int64).reshape(-1, 2)


def _pairs(given: Addresses | int) -> list[Address]:
    if isinstance(given, str):
        parts = [part for part in _BETWEEN.split(given) if part]
        if _ONE.fullmatch(given) or not parts:
            parts = [given]
        return [parse_address(part) for part in parts]
    if isinstance(given, int):
        raise GrammarLensError(
            f"no neuron's address: {given!r}; give '5.123', (5, 123), or a list of these"
        )
    entries = list(given)
    if len(entries) == 2 and all(map(_is_number, entries)):
        return [parse_pair(tuple(entries))]
    return [parse_pair(entry) for entry in entries]


def parse_pair(entry: object) -> Address:
    """One address in any form. Raises GrammarLensError for anything else."""
    if isinstance(entry, str):
        return parse_address(entry)
    if isinstance(entry, tuple | list | np.ndarray) and len(entry) == 2:
        layer, index = entry
        if _is_number(layer) and _is_number(index):
            return int(layer), int(index)
    raise GrammarLensError(
        f"no neuron's address: {entry!r}; give layer and index (5, 123) or '5.123'"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
