"""Curves over the number of neurons that are cut, or kept alone."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grammar_lens.dissociation.size_curves import ACTIVATION, CUT, KEEP, KEY, RANDOM, SizeCurves
from grammar_lens.figures.style import (
    ACCENT,
    CONTRAST,
    GREY,
    SHAMS,
    about,
    finish,
    panel_title,
    plain,
)

_PANELS = ((CUT, "The first k neurons cut"), (KEEP, "All cut but the first k neurons"))
_LINES = (
    (KEY, "own", "key neurons, own words", CONTRAST, "solid"),
    (KEY, "other", "key neurons, other words", CONTRAST, "dot"),
    (RANDOM, "own", "random, same layers, own words", SHAMS, "solid"),
    (ACTIVATION, "own", "most active, own words", ACCENT, "solid"),
)


def lesion_curves(curves: SizeCurves, label: str | None = None) -> go.Figure:
    """Rise of the tag loss (nats) against the number of a label's neurons cut, and kept alone.

    Means over the labels that have so many neurons, or one `label`. Grey: everything cut.
    """
    rows: Any = curves.means() if label is None else curves.table[curves.table["label"] == label]
    chosen = slice(None) if label is None else [curves.labels.index(label)]
    everything = float(curves.everything[chosen].mean())
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for column, (lesion, title) in enumerate(_PANELS, 1):
        at: dict[str, Any] = {"row": 1, "col": column}
        for ranking, whose, name, colour, dash in _LINES:
            some = rows[(rows["ranking"] == ranking) & (rows["lesion"] == lesion)]
            figure.add_scatter(
                x=np.asarray(some["k"]),
                y=np.asarray(some[whose], float),
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2},
                hovertemplate="%{x} neurons: %{y:+.3f} nats",
                **at,
            )
        ks = np.unique(rows["k"])
        figure.add_scatter(
            x=ks[[0, -1]],
            y=[everything, everything],
            name="everything cut",
            legendgroup="everything cut",
            showlegend=column == 1,
            mode="lines",
            line={"color": GREY, "dash": "dash", "width": 1.5},
            hovertemplate="everything cut: %{y:+.3f} nats",
            **at,
        )
        figure.update_xaxes(
            type="log", tickvals=ks, ticktext=[f"{k:,}" for k in ks], title_text="neurons (k)", **at
        )
        figure.update_yaxes(title_text="rise in tag loss (nats)", **at)
        panel_title(figure, title, 1, column)
    whose = "mean over tags" if label is None else plain(label)
    words = f"{whose}, {curves.n_words:,} words of {curves.n_sentences:,} sentences"
    finish(figure, "How many neurons does a tag need?", about(curves.origin, words), height=470)
    return figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        margin={"t": 110},
        hovermode="closest",
    )
