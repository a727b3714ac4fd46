"""Agreement of languages on a model's neurons, between its floor and its ceiling, and depth."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grammar_lens.figures.style import COLOURS, DASHES, GREY, STYLE, plain


def across_languages(
    agreements: pd.DataFrame, depths: pd.DataFrame, *, position: str, method: str
) -> go.Figure:
    """Agreement of the languages between floor and ceiling, and strength over relative depth.

    A panel of each for every model; tables as `neurons.choice_agreement.pairwise_agreement` and
    `neurons.depth.depth_profiles` make them, with a column `model`.
    """
    models = list(dict.fromkeys(agreements.model))
    page = make_subplots(
        rows=2 * len(models),
        cols=1,
        vertical_spacing=0.16 / len(models),
        subplot_titles=[
            f"{plain(model)}: {title}"
            for model in models
            for title in (
                "correlation of scores between languages",
                "strength over depth, mean of the tags; bands: 95 % of exchanged labels",
            )
        ],
    )
    for i, (_, table) in enumerate(agreements.groupby("model", sort=False)):
        _add_agreement(page, 2 * i + 1, table, first=i == 0)
    for i, (_, table) in enumerate(depths.groupby("model", sort=False)):
        _add_depth(page, 2 * i + 2, table, first=i == 0)
    return page.update_layout(
        template=STYLE,
        height=160 + 620 * len(models),
        margin={"t": 120},
        title={
            "text": "The same neurons in different languages?",
            "subtitle": {"text": f"words read at “{plain(position)}”, score {plain(method)}"},
        },
    )


def _add_agreement(page: go.Figure, row: int, table: pd.DataFrame, *, first: bool) -> None:
    kinds = (
        ("half_correlation", "two languages", COLOURS[0], "circle"),
        ("ceiling_correlation", "two halves of one", COLOURS[2], "line-ew-open"),
        ("sham_correlation", "exchanged labels", GREY, "line-ew-open"),
    )
    for column, name, colour, symbol in kinds:
        page.add_scatter(
            row=row,
            col=1,
            x=table.tag,
            y=table[column],
            name=name,
            legendgroup=name,
            showlegend=first,
            mode="markers",
            marker={
                "color": colour,
                "symbol": symbol,
                "size": 9,
                "line": {"width": 2, "color": colour},
            },
            customdata=[
                f"{plain(a)} and {plain(b)}"
                for a, b in zip(table["first"], table.second, strict=True)
            ],
            hovertemplate="%{x}, %{customdata}: %{y:.2f}",
        )
    page.update_yaxes(row=row, col=1, title_text="correlation", range=[-0.6, 1.05])


def _add_depth(page: go.Figure, row: int, table: pd.DataFrame, *, first: bool) -> None:
    table = table.assign(depth=(table.from_depth + table.to_depth) / 2)
    columns = ["strength", "null_low", "null_high"]
    for i, (name, group) in enumerate(table.groupby("treebank", sort=False)):
        mean = group.pivot_table(index="depth", values=columns).reset_index()
        colour = COLOURS[i % len(COLOURS)]
        page.add_scatter(
            row=row,
            col=1,
            x=[*mean.depth, *mean.depth[::-1]],
            y=[*mean.null_low, *mean.null_high[::-1]],
            fill="toself",
            fillcolor=colour,
            opacity=0.2,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        )
        page.add_scatter(
            row=row,
            col=1,
            x=mean.depth,
            y=mean.strength,
            name=plain(str(name)),
            legendgroup=str(name),
            showlegend=first,
            line={"color": colour, "dash": DASHES[i // len(COLOURS) % 3]},
            hovertemplate="depth %{x:.2f}: %{y:.3f}",
        )
    page.update_xaxes(row=row, col=1, title_text="relative depth", range=[0, 1])
    page.update_yaxes(row=row, col=1, title_text="root mean square score", rangemode="tozero")
