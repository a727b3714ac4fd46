"""Heatmaps of layers by units: one label large, or every label small, with the chosen neurons ringed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from grammar_lens.errors import GrammarLensError, require_at_least, require_one_of
from grammar_lens.figures.style import (
    DIVERGING,
    INK,
    about,
    colour_scale,
    finish,
    plain,
    score_name,
    tick_step,
    unit_name,
)
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.selectivity.result import Scores

MOST_UNITS = 2048
"""A heatmap shows every unit up to this layer width; wider layers are shown in bins."""
MOST_BINS = 448
RANK_CELLS = 240
"""Cells of a row in which units stand by strength."""
ORDERS = ("index", "strength")
SCALES = ("robust", "linear", "symlog")
ROBUST = 99.5
"""Percentile of the distances from neutral at which a robust colour scale ends."""


def layer_neuron_heatmap(
    scores: Scores,
    label: str,
    *,
    bins: int | None = None,
    top: int = 10,
    keys: KeyNeurons | None = None,
    order: str = "index",
    scale: str = "robust",
    alpha: float | None = None,
) -> go.Figure:
    """The score of every unit of every layer for one label; the chosen or the strongest are ringed.

    Rings mark the label's neurons in `keys`, or else the `top` strongest. Units stand by `order`:
    "index", or "strength", the strongest of each layer first, on a logarithmic axis of ranks on which
    a cell that holds several shows the strongest. Colours end by `scale`:
    "robust", at the 99.5th percentile of the scores' distance from neutral, so that one outlier does
    not blank the rest; "linear", at the largest; "symlog", at the largest, but linear only up to the
    median distance and logarithmic beyond it. With `alpha`, units of a larger q-value stay empty.
    With `bins`, neighbouring units of a layer share at most that many cells, each showing its
    score furthest from neutral; by default only layers wider than 2,048 are binned, into 448.
    Scores that are missing (NaN) stay empty.
    Raises GrammarLensError for fewer than 1 bin, for a label without scores, for an unknown order or
    scale, and for an `alpha` where the scores have no null.
    """
    cells = cells_of(scores, label, bins=bins, order=order, alpha=alpha)
    n_layers = scores.values.shape[1]
    name, unit = score_name(scores.method), unit_name(scores.origin.site)
    colours = ColourScale.of([cells.z], scores.neutral, scale)
    figure = go.Figure(
        go.Heatmap(
            **cells.trace(unit, name, colours),
            **colours.trace(),
            colorbar={"title": {"text": name}, **colours.ticks()},
        )
    )
    if keys is None:
        _mark_strongest(figure, scores, label, top, cells)
    else:
        _ring_keys(figure, keys, label, cells)
    which = f"{unit}s" if cells.width == 1 else f"strongest of each {cells.width} {unit}s"
    shown = f"{'' if alpha is None else f', q at most {alpha:g}'}{colours.note}"
    finish(
        figure,
        f"Where {plain(label)} is: {name}",
        about(scores.origin, f"{which}{shown}, read at “{scores.origin.position}”"),
        height=min(max(170 + 26 * n_layers, 320), 640),
    )
    figure.update_xaxes(**cells.axis(f"{unit} within its layer"), showgrid=False)
    figure.update_yaxes(
        title_text="layer", range=[-0.5, n_layers - 0.5], dtick=tick_step(n_layers), showgrid=False
    )
    return figure.update_layout(
        hovermode="closest",
        legend={"x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom", "orientation": "h"},
    )


def layer_neuron_heatmaps(
    scores: Scores,
    labels: Sequence[str] | None = None,
    *,
    keys: KeyNeurons | None = None,
    order: str = "strength",
    scale: str = "robust",
    alpha: float | None = None,
    bins: int = 100,
    columns: int = 3,
) -> go.Figure:
    """A small heatmap of every label, all in the same colours: layers by units, as `layer_neuron_heatmap`.

    With `keys`, each label's chosen neurons are ringed.
    Raises GrammarLensError as `layer_neuron_heatmap` does, and without labels.
    """
    chosen = tuple(scores.labels if labels is None else labels)
    require_at_least("labels", len(chosen), 1)
    n_layers = scores.values.shape[1]
    name, unit = score_name(scores.method), unit_name(scores.origin.site)
    every = {x: cells_of(scores, x, bins=bins, order=order, alpha=alpha) for x in chosen}
    colours = ColourScale.of([cells.z for cells in every.values()], scores.neutral, scale)
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    each = min(max(60 + 9 * n_layers, 110), 260)
    height = 150 + rows * each
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=min(30 / (height - 150), 1 / rows),
        subplot_titles=[plain(x) for x in chosen],
    )
    for i, (label, cells) in enumerate(every.items()):
        row, col = divmod(i, columns)
        figure.add_heatmap(
            **cells.trace(unit, name, colours), coloraxis="coloraxis", row=row + 1, col=col + 1
        )
        if keys is not None:
            _ring_keys(figure, keys, label, cells, row + 1, col + 1, size=4)
    shown = f"{'' if alpha is None else f', q at most {alpha:g}'}{colours.note}"
    finish(
        figure,
        f"Where each label is: {name}",
        about(scores.origin, f"{unit}s{shown}, read at “{scores.origin.position}”"),
        height=height,
    )
    figure.update_layout(
        coloraxis={
            **colours.trace(axis=True),
            "colorbar": {
                "title": {"text": name, "side": "right"},
                "thickness": 12,
                "outlinewidth": 0,
                **colours.ticks(),
            },
        },
        hovermode="closest",
        showlegend=False,
        margin_t=104,
    )
    axis = every[chosen[0]].axis(unit)
    title = axis.pop("title_text")
    figure.update_xaxes(**axis, showgrid=False, nticks=4)
    figure.update_yaxes(
        range=[-0.5, n_layers - 0.5], dtick=max(1, -(-n_layers // 4)), showgrid=False
    )
    for col in range(1, columns + 1):
        last = rows if (rows - 1) * columns + col <= len(chosen) else rows - 1
        figure.update_xaxes(row=last, col=col, title_text=title, showticklabels=True)
    for row in range(1, rows + 1):
        figure.update_yaxes(row=row, col=1, title_text="layer")
    return figure


@dataclass(frozen=True)
class Cells:
    """Cells of a heatmap: each the score of one unit, of `width` neighbours the furthest from neutral.

    `order[layer, place]` is the index of the unit that stands at each place; `index[layer, cell]`
    that of the unit shown. Where units stand by strength, cell c holds ranks `edges[c]` up to, and
    without, `edges[c + 1]`, counted from 1.
    """

    z: Float[np.ndarray, "layer cell"]
    index: Int[np.ndarray, "layer cell"]
    order: Int[np.ndarray, "layer unit"]
    width: int
    edges: Int[np.ndarray, " edge"] | None = None

    def trace(self, unit: str, name: str, colours: "ColourScale") -> dict[str, Any]:
        """The arrays of a heatmap, and a hover that tells the address and the score."""
        kind = np.int16 if self.order.shape[1] < 2**15 else np.int32
        each = f"{unit}" if self.width == 1 else f"strongest of {self.width} {unit}s:"
        data: dict[str, Any] = {"z": colours.drawn(self.z).astype(np.float32)}
        index, value = "%{x}", "%{z:+.3f}"
        if colours.is_log:
            data["customdata"] = np.stack([self.index, self.z], 2).astype(np.float32)
            index, value = "%{customdata[0]:d}", "%{customdata[1]:+.3f}"
        elif self.width > 1 or self.edges is not None:
            data["customdata"] = self.index.astype(kind)
            index = "%{customdata}"
        if self.edges is not None:
            data["x"] = self.edges
        else:
            data |= {"x0": (self.width - 1) / 2, "dx": self.width}
        return {
            **data,
            "y0": 0,
            "dy": 1,
            "hovertemplate": f"{each} %{{y}}.{index}<br>{name} {value}<extra></extra>",
        }

    def place(
        self, layer: Int[np.ndarray, " unit"], index: Int[np.ndarray, " unit"]
    ) -> Float[np.ndarray, " unit"]:
        """Places of some units in their layers, on the axis."""
        place = np.argsort(self.order, axis=1)[layer, index].astype(float)
        # the middle, on the logarithmic axis, of rank r, which spans r to r + 1
        return place if self.edges is None else np.sqrt((place + 1) * (place + 2))

    def axis(self, unit: str) -> dict[str, Any]:
        """The axis of the units."""
        n_units = self.order.shape[1]
        if self.edges is None:
            return {"range": [-0.5, n_units - 0.5], "title_text": unit, "tickformat": "d"}
        span = {"type": "log", "range": [0, float(np.log10(n_units + 1))], "dtick": 1}
        return {**span, "title_text": f"rank of the {unit}"}


def cells_of(
    scores: Scores,
    label: str,
    *,
    bins: int | None = None,
    order: str = "index",
    alpha: float | None = None,
) -> Cells:
    """The cells of `layer_neuron_heatmap`."""
    require_one_of("order", order, ORDERS)
    if bins is not None:
        require_at_least("bins", bins, 1)
    values = scores[label]
    n_units = values.shape[1]
    distance = scores.strength_of(label) if scores.best == "low" else values - scores.neutral
    distance = np.nan_to_num(distance)
    if alpha is not None:
        if scores.null is None:
            raise GrammarLensError(
                f"{scores.method!r} has no null here, so units have no q-values: leave alpha out, or "
                "collect with replicates"
            )
        # a q-value that is missing is no reason to show a unit
        hidden = ~(scores.null.q()[scores.labels.index(label)] <= alpha)
        values, distance = np.where(hidden, np.nan, values), np.where(hidden, 0.0, distance)
    if order == "strength":
        strength = np.where(np.isnan(values), -1.0, scores.strength_of(label))
        places = np.argsort(-strength, axis=1, kind="stable")
        most = RANK_CELLS if bins is None else bins
        edges = np.unique(np.rint(np.geomspace(1, n_units + 1, most + 1)).astype(np.int64))
        index = places[:, edges[:-1] - 1]
        return Cells(np.take_along_axis(values, index, 1), index, places, 1, edges)
    width = bin_width(n_units, bins)
    places = np.tile(np.arange(n_units), (len(values), 1))
    index = np.take_along_axis(places, strongest(distance, width), 1) if width > 1 else places
    return Cells(np.take_along_axis(values, index, 1), index, places, width)


@dataclass(frozen=True)
class ColourScale:
    """A diverging colour scale around neutral, and where it ends."""

    neutral: float
    limit: float
    linear: float
    """Distance from neutral up to which a symmetric-log scale is linear; 0 for the other scales."""
    note: str

    @classmethod
    def of(
        cls, values: Sequence[Float[np.ndarray, "layer cell"]], neutral: float, scale: str
    ) -> "ColourScale":
        """The scale of some heatmaps together. Raises GrammarLensError for an unknown one."""
        require_one_of("scale", scale, SCALES)
        distance = np.concatenate([np.abs(z - neutral).ravel() for z in values])
        distance = distance[np.isfinite(distance)]
        most = float(distance.max(initial=0.0)) or 1.0
        if scale == "symlog":
            middle = float(np.median(distance)) if len(distance) else 0.0
            return cls(neutral, most, middle or most, "; symmetric-log colours")
        end = float(np.percentile(distance, ROBUST)) if len(distance) else 0.0
        if scale == "linear" or end <= 0 or end >= most:
            return cls(neutral, most, 0.0, "")
        return cls(neutral, end, 0.0, f"; colours end at {ROBUST:g} % of cells")

    @property
    def is_log(self) -> bool:
        return self.linear > 0

    def drawn(self, z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The values that are coloured: scores, or on a symmetric-log scale their logarithms."""
        if not self.is_log:
            return z
        away = z - self.neutral
        return np.sign(away) * np.log1p(np.abs(away) / self.linear)

    def trace(self, *, axis: bool = False) -> dict[str, Any]:
        """Limits and colours, of a trace or of a colour axis."""
        middle = 0.0 if self.is_log else self.neutral
        reach = float(np.log1p(self.limit / self.linear)) if self.is_log else self.limit
        low, high = ("cmin", "cmax") if axis else ("zmin", "zmax")
        return {low: middle - reach, high: middle + reach, "colorscale": colour_scale(DIVERGING)}

    def ticks(self) -> dict[str, Any]:
        """Ticks of the colour bar: on a symmetric-log scale powers of ten, as scores."""
        if not self.is_log:
            return {}
        first, last = np.log10(self.linear), np.log10(self.limit)
        sizes = 10.0 ** np.arange(np.ceil(first), np.floor(last) + 1)
        sizes = sizes[:: max(1, len(sizes) // 4)] if len(sizes) else np.array([self.limit])
        scores = np.concatenate([-sizes[::-1], [0.0], sizes]) + self.neutral
        text = [f"{x:.3g}".replace("-", "\N{MINUS SIGN}") for x in scores]
        return {"tickvals": self.drawn(scores).tolist(), "ticktext": text}


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


def _mark_strongest(figure: go.Figure, scores: Scores, label: str, top: int, cells: Cells) -> None:
    values = scores[label]
    effect = scores.effect[scores.labels.index(label)].ravel()
    strength = scores.strength_of(label).ravel()
    order = np.argsort(-strength, kind="stable")[:top]
    order = order[strength[order] > 0]
    layer, index = np.divmod(order, values.shape[1])
    figure.add_scatter(
        x=cells.place(layer, index),
        y=layer,
        customdata=np.stack(
            [np.arange(1, len(order) + 1), values.ravel()[order], effect[order], index], 1
        ),
        mode="markers",
        marker={"symbol": "circle-open", "size": 11, "color": INK, "line": {"width": 1.6}},
        cliponaxis=False,
        name=f"{len(order)} strongest",
        showlegend=True,
        hovertemplate=(
            f"no. %{{customdata[0]}}: {unit_name(scores.origin.site)} %{{y}}.%{{customdata[3]}}<br>"
            f"{score_name(scores.method)} %{{customdata[1]:+.3f}}<br>"
            "Cohen's d %{customdata[2]:+.2f}<extra></extra>"
        ),
    )


def _ring_keys(
    figure: go.Figure,
    keys: KeyNeurons,
    label: str,
    cells: Cells,
    row: int | None = None,
    col: int | None = None,
    size: int = 7,
) -> None:
    """A ring around each chosen neuron of the label."""
    chosen = keys.get(label)
    if chosen is None or not len(chosen):
        return
    data = np.stack([np.arange(1, len(chosen) + 1), chosen.score, chosen.index], 1)
    figure.add_scatter(
        x=cells.place(chosen.layer, chosen.index),
        y=chosen.layer,
        customdata=data,
        mode="markers",
        marker={"symbol": "circle-open", "size": size, "color": INK, "line": {"width": 1.1}},
        cliponaxis=False,
        name=f"{len(chosen)} chosen",
        showlegend=True,
        hovertemplate=(
            f"no. %{{customdata[0]}}: {unit_name(keys.origin.site)} %{{y}}.%{{customdata[2]}}<br>"
            f"{score_name(keys.method)} %{{customdata[1]:+.3f}}<extra></extra>"
        ),
        row=row,
        col=col,
    )
