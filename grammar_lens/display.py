"""Display of results in Jupyter: a line of text and a small table, all text escaped."""

import html
from collections.abc import Iterable

import pandas as pd

MOST_ROWS = 20
MOST_NAMES = 24


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


def listed(names: Iterable[str]) -> str:
    """Names in a row, of many the first 24."""
    every = list(names)
    more = len(every) - MOST_NAMES
    return ", ".join(every[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


class Shown:
    """A result that Jupyter shows as a line of text and its tables.

    The text is its repr and the table its `to_frame()`, unless a class says otherwise.
    """

    def _title(self) -> str:
        return repr(self)

    def _tables(self) -> list[pd.DataFrame]:
        to_frame = getattr(self, "to_frame", None)
        return [to_frame()] if to_frame else []

    def _repr_html_(self) -> str:
        return page(self._title(), *self._tables())
