"""Time course of selectivity: tokens before and after a word."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.style import (
    DIVERGING,
    INK,
    SEQUENTIAL,
    about,
    colour_scale,
    finish,
    half_width,
    number,
    plain,
    tick_step,
    unit_name,
)
from grammar_lens.neurons.timecourse import CourseSummary

ABSENT = "#e4e7eb"
"""The ground of a panel, seen where a cell has no value."""
PLACES = {"word": "the word's last token", "next": "the token before the word"}


def time_course(course: CourseSummary, label: str | None = None) -> go.Figure:
    """Selectivity by layer at tokens around the word: all units, and beside them the key neurons.

    Without `label` a menu in the figure chooses among all labels. Cells without a value (a layer
    without key neurons, a label without words there) are grey.
    Raises GrammarLensError for a label that the course does not have, and for a course without labels.
    """
    labels = course.labels if label is None else (label,)
    unknown = [x for x in labels if x not in course.labels]
    if unknown or not labels:
        known = ", ".join(course.labels) or "none"
        raise GrammarLensError(f"no time course of {label!r}: there are {known}")
    units = f"{unit_name(course.origin.site)}s"
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.17,
        subplot_titles=[f"all {units}, root mean square", f"key {units}, signed mean"],
    )
    for i, name in enumerate(labels):
        _add_panels(figure, course, course.labels.index(name), visible=i == 0)
    n_layers = course.strength.shape[2]
    finish(
        figure,
        _title(labels[0]),
        about(course.origin, f"correlation with the label, {plain(course.origin.treebank)}"),
        height=min(max(220 + 24 * n_layers, 380), 640),
    )
    _axes(figure, course, n_layers)
    if len(labels) > 1:
        figure.update_layout(updatemenus=[_menu(labels)])
    return figure


def _title(label: str) -> str:
    return f"When {plain(label)} can be read"


def _add_panels(figure: go.Figure, course: CourseSummary, i: int, *, visible: bool) -> None:
    """The two heatmaps of one label."""
    order = np.argsort(course.offsets, kind="stable")
    offsets = np.array(course.offsets)[order]
    strength, key = (x[order, i].T for x in (course.strength, course.key))
    words = np.broadcast_to(course.count[order, i], strength.shape)
    place = "token %{x:+d}, layer %{y}<br>"
    limit = half_width(key)
    panels: list[dict[str, Any]] = [
        {
            "z": strength,
            "zmin": 0.0,
            "zmax": half_width(strength),
            "colorscale": colour_scale(SEQUENTIAL),
            "hovertemplate": f"{place}root mean square r %{{z:.3f}}",
        },
        {
            "z": key,
            "zmin": -limit,
            "zmax": limit,
            "colorscale": colour_scale(DIVERGING),
            "hovertemplate": f"{place}mean r of the key neurons %{{z:+.3f}}",
        },
    ]
    for column, panel in enumerate(panels, 1):
        panel["hovertemplate"] += "<br>%{customdata:,.0f} words<extra></extra>"
        figure.add_heatmap(
            row=1,
            col=column,
            x=offsets,
            y=np.arange(len(strength)),
            customdata=words,
            visible=visible,
            colorbar={"x": (0.425, 1.01)[column - 1], "title": {"text": "correlation r"}},
            **panel,
        )


def _axes(figure: go.Figure, course: CourseSummary, n_layers: int) -> None:
    """Tokens below, layers at the side, and a frame where the word is read."""
    offsets = sorted(course.offsets)
    place = PLACES.get(course.origin.position, plain(course.origin.position))
    figure.update_xaxes(
        title_text=f"tokens from {place} (0)",
        tickvals=offsets,
        ticktext=[number(x, 0, plus=x != 0) for x in offsets],
        showgrid=False,
    )
    figure.update_yaxes(range=[-0.5, n_layers - 0.5], dtick=tick_step(n_layers), showgrid=False)
    figure.update_yaxes(col=1, title_text="layer")
    figure.update_layout(plot_bgcolor=ABSENT, margin={"t": 104})
    for axis in ("", "2"):
        figure.add_shape(
            type="rect",
            x0=-0.5,
            x1=0.5,
            xref=f"x{axis}",
            y0=0,
            y1=1,
            yref=f"y{axis} domain",
            line={"color": INK, "width": 1.6},
        )


def _menu(labels: tuple[str, ...]) -> dict[str, Any]:
    """Buttons that show one label's two heatmaps."""
    buttons = [
        {
            "label": plain(label),
            "method": "update",
            "args": [
                {"visible": [i == j for j in range(len(labels)) for _ in range(2)]},
                {"title.text": _title(label)},
            ],
        }
        for i, label in enumerate(labels)
    ]
    return {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.3, "yanchor": "top"}
