"""Display of results in Jupyter: a line of text and a small table, all text escaped."""

import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from grammar_lens.errors import GrammarLensError
from grammar_lens.files import write_text

MOST_ROWS = 20
MOST_NAMES = 24
_CELL = "text-align:left;padding:1px 8px;white-space:pre;font-variant-numeric:tabular-nums"


def page(title: str, *tables: pd.DataFrame) -> str:
    """HTML of a line of text and some tables, each cut to its first 20 rows."""
    return "".join([f"<p>{html.escape(title)}</p>", *map(_table, tables)])


def _table(frame: pd.DataFrame) -> str:
    more = len(frame) - MOST_ROWS
    shown = frame.head(MOST_ROWS).to_html(
        index=not isinstance(frame.index, pd.RangeIndex),
        float_format="{:.4g}".format,
        na_rep="",
        border=0,
    )
    return f"{shown}<small>and {more:,} more rows: to_frame()</small>" if more > 0 else shown


def probability_table(frame: pd.DataFrame, n_names: int) -> str:
    """HTML of probabilities: after `n_names` columns of names, one of bars, the first and the last.

    A column "change" stands apart: with its sign, and no bar.
    """
    numbers = frame.columns[n_names:]
    shown = [name for name in numbers if name != "change"]
    most = float(frame[shown].to_numpy().max(initial=0.0)) or 1.0
    ends = list(dict.fromkeys([shown[0], shown[-1]]))
    heads = [*frame.columns[:n_names], " / ".join(ends), *numbers]
    head = "".join(f"<th style='{_CELL}' scope='col'>{html.escape(str(x))}</th>" for x in heads)
    rows = []
    for row in frame.to_dict("records"):
        bars = "".join(
            f"<div style='height:6px;width:{110 * row[name] / most:.1f}px;background:{colour}'></div>"
            for name, colour in zip(ends, ("#8894a1", "#d55e00"), strict=False)
        )
        cells = [html.escape(str(row[name])) for name in frame.columns[:n_names]]
        cells += [f"<div style='width:110px'>{bars}</div>"]
        # without the sign of what rounds to 0
        known = {name: round(row[name], 3) + 0.0 for name in numbers}
        cells += [f"{x:{'+' if name == 'change' else ''}.3f}" for name, x in known.items()]
        rows.append("".join(f"<td style='{_CELL}'>{cell}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def listed(names: Iterable[str]) -> str:
    """Names in a row, of many the first 24."""
    every = list(names)
    more = len(every) - MOST_NAMES
    return ", ".join(every[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def latex(frame: pd.DataFrame, digits: int = 3) -> str:
    """A table in LaTeX, for the package booktabs; texts are escaped, what is missing is empty."""
    return frame.to_latex(
        index=_has_names(frame), escape=True, float_format=f"%.{digits}f", na_rep=""
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, whose first row names the columns; line breaks in cells become spaces."""
    first, *others = (
        "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", r"\|") for cell in row) + " |"
        for row in rows
    )
    return "\n".join([first, "|" + " --- |" * len(rows[0]), *others])


def _has_names(frame: pd.DataFrame) -> bool:
    """Whether the rows have names, and are not just numbered."""
    return not isinstance(frame.index, pd.RangeIndex)


def _first(frames: list[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        raise GrammarLensError("this result has no table")
    return frames[0]


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        write_text(Path(path), text)
    return text


class Shown:
    """A result that Jupyter shows as a line of text and its tables.

    The text is its repr and the table its `to_frame()`, unless a class says otherwise.
    """

    def _title(self) -> str:
        return repr(self)

    def _tables(self) -> list[pd.DataFrame]:
        to_frame = getattr(self, "to_frame", None)
        return [to_frame()] if to_frame else []

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result's table as CSV, also written to `path` where one is given."""
        frame = _first(self._frames())
        text = frame.to_csv(index=_has_names(frame), lineterminator="\n")
        return _written(text, path)

    def to_latex(self, path: str | os.PathLike[str] | None = None, *, digits: int = 3) -> str:
        """The result's table in LaTeX (booktabs), also written to `path` where one is given."""
        return _written(latex(_first(self._frames()), digits), path)

    def _frames(self) -> list[pd.DataFrame]:
        to_frame = getattr(self, "to_frame", None)
        return [to_frame()] if to_frame else self._tables()

    def _repr_html_(self) -> str:
        return page(self._title(), *self._tables())
