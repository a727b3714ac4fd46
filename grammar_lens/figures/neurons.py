"""Location of the neurons layer by layer, and overlap of labels."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from grammar_lens.figures.style import (
    COLOURS,
    SEQUENTIAL,
    about,
    colour_scale,
    finish,
    legend_height,
    line_style,
    matrix,
    matrix_axes,
    plain,
    strength_name,
    tick_step,
    unit_name,
)
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_counts, layer_strength, overlap
from grammar_lens.selectivity.result import Scores

BAND = (2.5, 97.5)
"""Percentiles of the replicates that a band of chance spans."""


def layer_profile(scores: Scores, keys: KeyNeurons | None = None) -> go.Figure:
    """Root mean square strength of every label in every layer; with `keys`, its key neurons there.

    Where the scores have a null, a band of each label's colour spans 95 % of its replicates.
    """
    strength = layer_strength(scores)
    n_layers = strength.shape[1]
    rows = 1 if keys is None else 2
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    band = null_band(scores)
    if band is not None:
        for i in range(len(scores.labels)):
            _add_band(figure, scores, band, i)
    for i in range(len(scores.labels)):
        _add_line(figure, scores, strength, band, i)
    height = legend_height(len(scores.labels), 400)
    if keys is not None:
        _add_counts(figure, keys)
        height = 490 + 22 * len(keys)
        figure.update_yaxes(row=1, col=1, domain=[1 - 250 / (height - 132), 1])
        figure.update_yaxes(row=2, col=1, domain=[0, 1 - 300 / (height - 132)])
    null = scores.null
    about_band = "" if null is None else f"; bands: 95 % of {null.n_replicates} exchanges of labels"
    finish(
        figure,
        "How strongly each layer answers",
        about(scores.origin, f"read at “{scores.origin.position}”{about_band}"),
        height=height,
    )
    figure.update_yaxes(
        row=1,
        col=1,
        title_text=f"root mean square<br>{strength_name(scores).replace(' (', '<br>(')}",
        rangemode="tozero",
    )
    figure.update_xaxes(dtick=tick_step(n_layers), range=[-0.5, n_layers - 0.5])
    figure.update_xaxes(row=rows, col=1, title_text="layer")
    return figure.update_layout(
        hovermode="closest", legend={"y": 1, "yanchor": "top", "tracegroupgap": 0}
    )


def null_band(scores: Scores) -> Float[np.ndarray, "two label layer"] | None:
    """The range of 95 % of the replicates' strengths in each layer; None without a null."""
    return None if scores.null is None else np.percentile(scores.null.strength, BAND, axis=0)


def _add_band(
    figure: go.Figure, scores: Scores, band: Float[np.ndarray, "two label layer"], i: int
) -> None:
    """Add the null's band for one label."""
    layers = np.arange(band.shape[2])
    colour = COLOURS[i % len(COLOURS)]
    figure.add_scatter(
        row=1,
        col=1,
        x=np.concatenate([layers, layers[::-1]]),
        y=np.concatenate([band[0, i], band[1, i, ::-1]]),
        fill="toself",
        fillcolor=colour,
        opacity=0.3,
        line={"width": 0.7, "color": colour},
        mode="lines",
        hoverinfo="skip",
        legendgroup=str(i),
        showlegend=False,
        name=f"{plain(scores.labels[i])}, exchanged labels",
    )


def _add_line(
    figure: go.Figure,
    scores: Scores,
    strength: Float[np.ndarray, "label layer"],
    band: Float[np.ndarray, "two label layer"] | None,
    i: int,
) -> None:
    """One label's strength in every layer; pointed at, with its band."""
    beside, hover = {}, "layer %{x}: %{y:.3g}"
    if band is not None:
        beside = {"customdata": band[:, i].T}
        hover += "<br>exchanged labels %{customdata[0]:.3g} to %{customdata[1]:.3g}"
    figure.add_scatter(
        row=1,
        col=1,
        x=np.arange(strength.shape[1]),
        y=strength[i],
        **beside,
        name=plain(scores.labels[i]),
        legendgroup=str(i),
        **line_style(i),
        hovertemplate=hover,
    )


def _add_counts(figure: go.Figure, keys: KeyNeurons) -> None:
    """Key neurons of each label in each layer, as a second row of panels."""
    counts = layer_counts(keys)
    figure.add_heatmap(
        z=counts,
        x=np.arange(keys.n_layers),
        y=[plain(x) for x in keys.labels],
        texttemplate="%{z:d}" if keys.n_layers <= 16 else None,
        colorscale=colour_scale(SEQUENTIAL),
        showscale=keys.n_layers > 16,
        colorbar={"title": {"text": "key neurons"}, "y": 0, "yanchor": "bottom", "len": 0.4},
        xgap=1,
        ygap=1,
        name="key neurons",
        hovertemplate="%{y}, layer %{x}: %{z:d} key neurons<extra></extra>",
        row=2,
        col=1,
    )
    figure.update_yaxes(
        row=2,
        col=1,
        type="category",
        autorange="reversed",
        title_text=f"key {unit_name(keys.origin.site)}s ({plain(keys.rule)})",
        showgrid=False,
    )


def overlap_matrix(keys: KeyNeurons) -> go.Figure:
    """Shared key neurons of every two labels as Jaccard overlap, with what chance would share."""
    shared = overlap(keys)
    apart = ~np.eye(len(keys), dtype=bool)
    jaccard = np.where(apart, shared.jaccard, np.nan)
    names = [plain(x) for x in shared.labels]
    hover = [
        [
            f"{a} and {b}<br>{shared.shared[i, j]:.0f} shared, by chance {shared.expected[i, j]:.2g}"
            f"<br>Jaccard {shared.jaccard[i, j]:.3f}"
            if i != j
            else f"{a}: {shared.shared[i, i]:.0f} neurons"
            for j, b in enumerate(names)
        ]
        for i, a in enumerate(names)
    ]
    text = [[f"{x:.2f}".lstrip("0") if x >= 0.005 else "" for x in row] for row in jaccard]
    most = max(float(shared.jaccard[apart].max(initial=0)), 0.01)
    figure = matrix(
        jaccard, names, text, hover, SEQUENTIAL, (0.0, most), "Jaccard overlap (shared / union)"
    )
    finish(
        figure,
        f"Key {unit_name(keys.origin.site)}s that labels share",
        about(keys.origin, f"{plain(keys.rule)}, read at “{keys.origin.position}”"),
        height=190 + (30 if len(names) > 10 else 42) * max(len(names), 4),
    )
    return matrix_axes(figure, "key neurons of", "key neurons of")
