"""Tables of results on the terminal."""

import pandas as pd
from rich.table import Table
from rich.text import Text

from grammar_lens.cli.neuron_page import safe


def table_of(frame: pd.DataFrame, digits: int = 3) -> Table:
    """A table with a row per row of `frame`; changes have their sign, texts are shown as they are."""
    table = Table(box=None)
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name]) for name in frame}
    for name in frame:
        table.add_column(str(name), justify="right" if numeric[name] else "left", no_wrap=True)
    for row in frame.to_dict("records"):
        cells = []
        for name, value in row.items():
            sign = "+" if name == "change" else ""
            shown = f"{value:{sign}.{digits}f}" if numeric[name] else repr_if_blank(str(value))
            cells.append(Text(shown))
        table.add_row(*cells)
    return table


def repr_if_blank(text: str) -> str:
    """A text without control characters, in quotes where blanks at its ends would not be seen."""
    shown = safe(text)
    return repr(shown) if shown != shown.strip() else shown
