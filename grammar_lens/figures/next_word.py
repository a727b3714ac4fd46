"""The word after a prompt: how likely each label and the likeliest tokens are, intact and lesioned."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grammar_lens.figures.style import ACCENT, COLOURS, CONTRAST, SHAMS, finish, label_rows, plain
from grammar_lens.lesions.next_word import NextWord


def next_word(expected: NextWord) -> go.Figure:
    """P(label | prompt), and the probability of the likeliest tokens, as bars of every dose."""
    figure = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.2,
        subplot_titles=("label of the next word", "likeliest tokens"),
    )
    labels, tokens = expected.to_frame(), expected.tokens_frame()
    # tokens are told apart by their blanks, which an axis would not show
    tokens = tokens.assign(token=[repr(token) for token in tokens["token"]])
    for i, column in enumerate(expected.columns):
        colour = _colour(i, len(expected.columns))
        for panel, (table, name) in enumerate(((labels, "label"), (tokens, "token")), 1):
            _add_bars(figure, table, name, column, colour, panel)
    for panel, (table, name) in enumerate(((labels, "label"), (tokens, "token")), 1):
        figure.update_yaxes(row=1, col=panel, **label_rows([plain(x) for x in table[name]]))
        figure.update_xaxes(row=1, col=panel, title_text="probability", rangemode="tozero")
    cut = f"lesion: {plain(expected.lesion_name)}" if expected.lesion else "no lesion"
    finish(
        figure,
        f"The word after “{plain(_end(expected.prompt))}”",
        f"{plain(expected.model)} · {cut}",
        height=190 + 24 * max(len(labels), len(tokens)),
    )
    return figure.update_layout(
        barmode="group",
        bargap=0.25,
        hovermode="closest",
        margin_t=104,
        showlegend=len(expected.columns) > 1,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.06, "yanchor": "bottom"},
    )


def _add_bars(
    figure: go.Figure, table: pd.DataFrame, name: str, column: str, colour: str, panel: int
) -> None:
    figure.add_bar(
        row=1,
        col=panel,
        orientation="h",
        x=table[column],
        y=[plain(x) for x in table[name]],
        name=column,
        legendgroup=column,
        showlegend=panel == 1,
        marker={"color": colour},
        hovertemplate=f"%{{y}}, {column}: %{{x:.4f}}<extra></extra>",
    )


def _colour(i: int, n: int) -> str:
    """Grey for the intact model, orange for the last dose, others between them."""
    if i == 0:
        return SHAMS
    return CONTRAST if i == n - 1 else (ACCENT, *COLOURS[2:])[(i - 1) % 6]


def _end(prompt: str, most: int = 60) -> str:
    return prompt if len(prompt) <= most else f"…{prompt[-most:]}"
