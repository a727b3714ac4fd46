"""Measures of every layer, one panel above the other."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grammar_lens.figures.style import (
    COLOURS,
    GREY,
    SEQUENTIAL,
    STYLE,
    panel_title,
    plain,
    score_name,
    tick_step,
)
from grammar_lens.neurons.overlap import layer_strength
from grammar_lens.selectivity.result import Scores

_BLUE, _RED = COLOURS[0], COLOURS[1]
_Line = tuple[int, str, str, str, str]
"""Panel, column, name, colour and dash."""


def neurons_by_layer(
    layers: pd.DataFrame, scores: Scores, *, k: int, cut: Sequence[str], value: str
) -> go.Figure:
    """Selectivity, probe and lesions over the layers.

    `layers` has a row per layer from `dissociation.tables.layer_row`; `k`, `cut` and `value` say
    which neurons were lesioned, and how.
    """
    strength = layer_strength(scores)
    labels = ", ".join(cut) or "the usual labels"
    page = _panels(
        f"Selectivity: root mean square {score_name(scores.method)}",
        f"Probe: accuracy on held-out words, {k} key neurons per label",
        f"Lesion ({value}): rise in tag loss of {plain(labels)}",
    )
    page.add_heatmap(
        row=1,
        col=1,
        z=strength,
        x=layers.layer,
        y=[plain(label) for label in scores.labels],
        colorscale=list(SEQUENTIAL),
        zmin=0,
        zmax=strength.max(),
        colorbar={"len": 0.3, "y": 0.86, "thickness": 12, "outlinewidth": 0},
        hovertemplate="%{y}, layer %{x}: %{z:.3f}<extra></extra>",
    )
    lines: tuple[_Line, ...] = (
        (2, "accuracy", "key neurons", _BLUE, "solid"),
        (2, "random_accuracy", "random neurons of the layer", _BLUE, "dot"),
        (2, "word_baseline_accuracy", "form alone", GREY, "solid"),
        (2, "majority_accuracy", "majority label", GREY, "dash"),
        (3, "diagonal", "own words", _RED, "solid"),
        (3, "off_diagonal", "other words", _BLUE, "solid"),
        (3, "sham_diagonal", "own words, shams", _RED, "dot"),
        (3, "sham_off_diagonal", "other words, shams", _BLUE, "dot"),
    )
    for line in lines:
        hover = "layer %{x}: %{y:.4f}" + (", p %{customdata:.3f}" if line[0] == 3 else "")
        legend = "legend" if line[0] == 2 else "legend2"
        _add_line(page, layers, line, layers.p, hover, legend)
    page.update_yaxes(row=1, col=1, type="category", autorange="reversed", dtick=1, showgrid=False)
    page.update_yaxes(row=2, col=1, title_text="accuracy (share of words)", range=[0, 1])
    page.update_yaxes(row=3, col=1, title_text="nats")
    o = scores.origin
    title = f"{plain(o.model)} layer by layer, words read at “{o.position}”"
    return page.update_layout(
        title=title,
        legend={"y": 0.63, "yanchor": "top"},
        legend2={"y": 0.27, "yanchor": "top"},
    )


def _panels(*titles: str) -> go.Figure:
    page = make_subplots(rows=len(titles), cols=1, shared_xaxes=True, vertical_spacing=0.085)
    for row, title in enumerate(titles, 1):
        panel_title(page, title, row, 1, y=1)
    return page.update_layout(template=STYLE, height=1000)


def _add_line(
    page: go.Figure, layers: pd.DataFrame, line: _Line, beside: object, hover: str, legend: str
) -> None:
    row, column, name, colour, dash = line
    page.add_scatter(
        row=row,
        col=1,
        x=layers.layer,
        y=layers[column],
        name=name,
        legend=legend,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        customdata=beside,
        hovertemplate=hover,
    )
    page.update_xaxes(row=3, col=1, title_text="layer", dtick=tick_step(len(layers)))
