"""A comparison of texts as tables for the terminal."""

from rich.table import Table
from rich.text import Text

from grammar_lens.generation.comparison import Comparison

SHOWN = 3
"""Samples of a prompt that are shown."""


def side_by_side(comparison: Comparison) -> Table:
    """The texts with and without the lesion in two columns, the first few samples of each prompt."""
    n = comparison.n_samples
    title = f"the first {SHOWN} of {n} samples" if n > SHOWN else None
    table = Table("intact", comparison.lesion_name, expand=True, show_lines=True, title=title)
    for intact, lesioned in zip(comparison.intact, comparison.lesioned, strict=True):
        for texts in zip(intact[:SHOWN], lesioned[:SHOWN], strict=True):
            table.add_row(*(Text(text) for text in texts))
    return table


def tag_table(comparison: Comparison) -> Table:
    """Tag, share of the words intact and lesioned, difference, and its interval where there is one."""
    tags = comparison.tags[(comparison.tags.n_intact > 0) | (comparison.tags.n_lesioned > 0)]
    with_interval = bool(tags.low.notna().any())
    n_intact, n_lesioned = tags.n_intact.sum(), tags.n_lesioned.sum()
    table = Table(title="tags of the words written", title_justify="left")
    table.add_column("tag")
    names = [f"intact ({n_intact} words)", f"lesioned ({n_lesioned} words)", "difference"]
    for name in names + ["95 % interval"] * with_interval:
        table.add_column(name, justify="right")
    for _, row in tags.iterrows():
        cells = [f"{row['intact']:.1%}", f"{row['lesioned']:.1%}", f"{row['difference']:+.1%}"]
        cells += [f"{row['low']:+.1%} to {row['high']:+.1%}"] * with_interval
        table.add_row(
            Text(row["tag"], style="bold" if row["tag"] == comparison.label else ""), *cells
        )
    return table


def describe(comparison: Comparison) -> str:
    """The data that the table rests on."""
    probe = comparison.probe
    interval = probe.accuracy_interval
    between = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    unread = f"; {comparison.unread} words could not be read" if comparison.unread else ""
    return (
        f"tagged by the probe at 'word' on the intact model, accuracy {probe.accuracy:.3f}{between} "
        f"on {probe.fresh}{unread}"
    )
