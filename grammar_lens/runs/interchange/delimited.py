"""Neuron lists as tables: CSV, TSV and Parquet."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from grammar_lens.errors import GrammarLensError
from grammar_lens.runs.interchange.listing import Listing, listing

NAMES = {
    "label": ("label",),
    "layer": ("layer",),
    "index": ("index", "neuron", "unit", "neuron_index", "feature"),
    "score": ("score", "value"),
    "rank": ("rank",),
    "q": ("q",),
    "position": ("position",),
    "method": ("method",),
    "rule": ("rule",),
}
"""Our name of a column, and the names other tools use."""
WHOLE = ("layer", "index", "rank")
REAL = ("score", "q")
DELIMITERS = (",", "\t", ";")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


def read_delimited(path: Path, text: str) -> Listing:
    """A CSV or TSV file; a row's place is its line. Raises GrammarLensError naming the line."""
    delimiter, columns = _header(path, text)
    rows, lines = [], []
    for line, cells in _records(path, text, delimiter):
        if line == 1 or not any(cells):
            continue
        if len(cells) != len(columns):
            raise GrammarLensError(
                f"{path}:{line}: {len(cells)} cells, expected {len(columns)} as in the first line"
            )
        pairs = zip(columns, cells, strict=True)
        rows.append({name: _value(name, cell, path, line) for name, cell in pairs if name})
        lines.append(line)
    return listing(rows, lines, f"{path}:")


def has_header(text: str) -> bool:
    """Whether a text begins with the names of columns."""
    first = text.split("\n", 1)[0].rstrip("\r")
    return any({*NAMES["index"]} & {*_cells(first, d)} for d in DELIMITERS)


def read_parquet(path: Path) -> Listing:
    """A Parquet file; a row's place is its number, from 1."""
    try:
        frame = parquet.read_table(path).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise GrammarLensError(f"{path} is no whole Parquet file: {error}") from error
    names = _ours(path, list(map(str, frame.columns)))
    frame.columns = pd.Index([name or f"({i})" for i, name in enumerate(names)])
    frame = frame[[name for name in names if name]]
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    for name in frame.columns:
        column = frame[name]
        lists = column.map(lambda cell: isinstance(cell, list | dict | np.ndarray))
        if lists.any():
            raise GrammarLensError(
                f"{path}, row {int(lists.to_numpy(bool).argmax()) + 1}: {name} is a list, expected a "
                "single value: write one neuron a row"
            )
    for name in {*frame.columns} & {"label", *WHOLE}:
        column = frame[name]
        wrong = column.isna() if name == "label" else ~_is_whole(column)
        if wrong.any():
            row, expected = int(wrong.to_numpy(bool).argmax()), "whole number"
            raise GrammarLensError(
                f"{path}, row {row + 1}: {name} is {column.iloc[row]!r}, expected a "
                f"{'label' if name == 'label' else expected}"
            )
    for name in {*frame.columns} & {*REAL}:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise GrammarLensError(f"{path}: column {name!r} does not hold numbers")
    return Listing(frame, f"{path}, row ")


def _is_whole(column: pd.Series) -> pd.Series:
    numbers = pd.Series(pd.to_numeric(column, errors="coerce"))
    return numbers.notna() & (numbers % 1 == 0)


def _header(path: Path, text: str) -> tuple[str, list[str | None]]:
    """The delimiter, and what each column is to us."""
    first = text.split("\n", 1)[0].rstrip("\r")
    # a header in which every delimiter would do has one column, which is too few in any case
    delimiter = max(DELIMITERS, key=lambda d: len(_cells(first, d)))
    return delimiter, _ours(path, _cells(first, delimiter))


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _ours(path: Path, columns: Sequence[str]) -> list[str | None]:
    """Our name of each column, None for those not read."""
    known = {synonym: usual_name for usual_name, names in NAMES.items() for synonym in names}
    names = [known.get(column.strip().lower()) for column in columns]
    for usual_name, usual in NAMES.items():
        same = [c for c, name in zip(columns, names, strict=True) if name == usual_name]
        if len(same) > 1:
            raise GrammarLensError(
                f"{path}: the columns {' and '.join(map(repr, same))} both give the {usual_name}: leave one"
            )
        if not same and usual_name in ("layer", "index"):
            raise GrammarLensError(
                f"{path}:1: no column gives the {usual_name} ({' or '.join(usual)}): there are "
                f"{', '.join(map(repr, columns)) or 'none'}"
            )
    return names


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every record with its first line; a quoted cell may run over several."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise GrammarLensError(f"{path}:{line}: {error}") from error


def _value(name: str, cell: str, path: Path, line: int) -> str | int | float:
    if name in WHOLE:
        if not _WHOLE_NUMBER.fullmatch(cell.strip()):
            raise GrammarLensError(
                f"{path}:{line}: {name} is {cell!r}, expected a whole number of at most 18 digits"
            )
        return int(cell.strip().split(".")[0])
    if name in REAL:
        try:
            return float(cell) if cell.strip() else float("nan")
        except ValueError:
            raise GrammarLensError(
                f"{path}:{line}: {name} is {cell!r}, expected a number"
            ) from None
    if name == "label" and not cell:
        raise GrammarLensError(f"{path}:{line}: the label is missing")
    return cell
