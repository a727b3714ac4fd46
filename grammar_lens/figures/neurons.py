"""Location of the neurons: heatmaps over layers, layer profiles, and overlap of labels."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from grammar_lens.errors import require_at_least
from grammar_lens.figures.style import (
    COLOURS,
    DIVERGING,
    INK,
    SEQUENTIAL,
    about,
    colour_scale,
    finish,
    half_width,
    line_style,
    matrix,
    matrix_axes,
    plain,
    score_name,
    strength_name,
    tick_step,
    unit_name,
)
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_counts, layer_strength, overlap
from grammar_lens.selectivity.result import Scores

MOST_UNITS = 2048
"""A heatmap shows every unit up to this layer width; wider layers are shown in bins."""
MOST_BINS = 448
BAND = (2.5, 97.5)
"""Percentiles of the replicates that a band of chance spans."""


def layer_neuron_heatmap(
    scores: Scores, label: str, *, bins: int | None = None, top: int = 10
) -> go.Figure:
    """The score of every unit of every layer for one label, the `top` strongest marked.

    With `bins`, neighbouring units of a layer share at most that many cells, each showing its
    score furthest from neutral; by default only layers wider than 2,048 are binned, into 448.
    Scores that are missing (NaN) stay empty.
    Raises GrammarLensError for fewer than 1 bin and for a label without scores.
    """
    values = scores[label]
    n_layers, n_units = values.shape
    if bins is not None:
        require_at_least("bins", bins, 1)
    width = bin_width(n_units, bins)
    name, unit = score_name(scores.method), unit_name(scores.origin.site)
    cells = {"z": values.astype(np.float32)}
    hover = f"{unit} %{{y}}.%{{x}}<br>{name} %{{z:+.3f}}<extra></extra>"
    if width > 1:
        distance = scores.strength_of(label) if scores.best == "low" else values - scores.neutral
        index = strongest(np.nan_to_num(distance), width)
        kind = np.int16 if n_units < 2**15 else np.int32
        cells = {
            "z": np.take_along_axis(values, index, 1).astype(np.float32),
            "customdata": index.astype(kind),
        }
        hover = (
            f"strongest of {width} {unit}s: %{{y}}.%{{customdata}}<br>"
            f"{name} %{{z:+.3f}}<extra></extra>"
        )
    limit = half_width(values - scores.neutral)
    figure = go.Figure(
        go.Heatmap(
            **cells,
            x0=(width - 1) / 2,
            dx=width,
            y0=0,
            dy=1,
            zmin=scores.neutral - limit,
            zmax=scores.neutral + limit,
            colorscale=colour_scale(DIVERGING),
            colorbar={"title": {"text": name}},
            hovertemplate=hover,
        )
    )
    _mark_strongest(figure, scores, label, top)
    cell = f"{unit}s" if width == 1 else f"strongest of each {width} {unit}s"
    finish(
        figure,
        f"Where {plain(label)} is: {name}",
        about(scores.origin, f"{cell}, read at “{scores.origin.position}”"),
        height=min(max(170 + 26 * n_layers, 320), 640),
    )
    figure.update_xaxes(
        title_text=f"{unit} within its layer",
        range=[-0.5, n_units - 0.5],
        tickformat="d",
        showgrid=False,
    )
    figure.update_yaxes(
        title_text="layer", range=[-0.5, n_layers - 0.5], dtick=tick_step(n_layers), showgrid=False
    )
    return figure.update_layout(
        hovermode="closest",
        legend={"x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom", "orientation": "h"},
    )


def bin_width(n_units: int, bins: int | None = None) -> int:
    """Number of units of a layer that share a heatmap cell."""
    most = bins or (n_units if n_units <= MOST_UNITS else MOST_BINS)
    return -(-n_units // most)


def strongest(values: Float[np.ndarray, "layer unit"], width: int) -> Int[np.ndarray, "layer bin"]:
    """In every bin of `width` neighbouring units, the one whose value is largest in magnitude."""
    n_layers, n_units = values.shape
    n_bins = -(-n_units // width)
    size = np.full((n_layers, n_bins * width), -1.0)
    size[:, :n_units] = np.abs(values)
    return size.reshape(n_layers, n_bins, width).argmax(2) + np.arange(n_bins) * width


def _mark_strongest(figure: go.Figure, scores: Scores, label: str, top: int) -> None:
    values = scores[label]
    effect = scores.effect[scores.labels.index(label)].ravel()
    strength = scores.strength_of(label).ravel()
    order = np.argsort(-strength, kind="stable")[:top]
    order = order[strength[order] > 0]
    layer, index = np.divmod(order, values.shape[1])
    figure.add_scatter(
        x=index,
        y=layer,
        customdata=np.stack(
            [np.arange(1, len(order) + 1), values.ravel()[order], effect[order]], 1
        ),
        mode="markers",
        marker={"symbol": "circle-open", "size": 11, "color": INK, "line": {"width": 1.6}},
        cliponaxis=False,
        name=f"{len(order)} strongest",
        showlegend=True,
        hovertemplate=(
            f"no. %{{customdata[0]}}: {unit_name(scores.origin.site)} %{{y}}.%{{x}}<br>"
            f"{score_name(scores.method)} %{{customdata[1]:+.3f}}<br>"
            "Cohen's d %{customdata[2]:+.2f}<extra></extra>"
        ),
    )


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
    height = 400
    if keys is not None:
        _add_counts(figure, keys)
        height += 90 + 22 * len(keys)
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
