"""Results as plotly figures: each from a result object in one call, all in one style.

Colours are safe for colour-blind readers and differ in lightness, so they survive grey print. Labels
and names are data: plotly reads a little HTML in its texts, so they are escaped.
"""

import html
from functools import cache

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from grammar_lens.dissociation import LesionStudy
from grammar_lens.moments import Origin
from grammar_lens.probing import ProbeResult
from grammar_lens.selection import KeyNeurons
from grammar_lens.selectivity import Scores
from grammar_lens.subspace import layer_counts, layer_strength, overlap

MOST_UNITS = 2048
"""A heatmap shows every unit up to this layer width; wider layers are shown in bins."""
MOST_BINS = 448

INK, GREY, PALE = "#1f2a37", "#6b7684", "#d9dee4"
ACCENT, CONTRAST = "#0b5c9e", "#c2410c"
# Okabe & Ito (2008), Color Universal Design, without the yellow that vanishes on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
DASHES = ("solid", "dash", "dot")
DIVERGING = ("#0a3a6b", "#2f79b5", "#9cc6e0", "#f7f6f3", "#f3b48b", "#cc5a2b", "#701c08")
SEQUENTIAL = ("#f7f6f3", "#c6dbe9", "#7fb2d3", "#3a84b8", "#0b4f8a", "#062f57")

_AXIS = {
    "automargin": True,
    "gridcolor": "#eceff2",
    "linecolor": "#9aa4af",
    "showline": True,
    "tickcolor": "#9aa4af",
    "ticks": "outside",
    "ticklen": 4,
    "title": {"standoff": 8},
    "zeroline": False,
}
STYLE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif",
            "size": 13,
            "color": INK,
        },
        "hoverlabel": {
            "align": "left",
            "namelength": -1,
            "bgcolor": "white",
            "font": {"color": INK},
        },
        "legend": {"bgcolor": "rgba(0,0,0,0)"},
        # its data stay here: newer plotly.js offers to upload a chart to Plotly's cloud
        "modebar": {"remove": ["sendChartToCloud", "select2d", "lasso2d"]},
        "margin": {"l": 64, "r": 24, "t": 78, "b": 56},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "title": {
            "font": {"size": 17, "weight": 600},
            "pad": {"t": 14},
            "subtitle": {"font": {"size": 13, "color": GREY}},
            "x": 0.01,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
        },
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    },
    data={
        "heatmap": [{"colorbar": {"outlinewidth": 0, "thickness": 12, "title": {"side": "right"}}}]
    },
)

SCORE_NAMES = {
    "correlation": "correlation r",
    "cohens_d": "Cohen's d (pooled sd)",
    "welch_t": "Welch's t",
}


class FigureError(ValueError):
    """A figure that cannot be drawn from what was given."""


def layer_neuron_heatmap(
    scores: Scores, label: str, *, bins: int | None = None, top: int = 10
) -> go.Figure:
    """The score of every unit of every layer for one label, the `top` strongest marked.

    With `bins`, neighbouring units of a layer share at most that many cells, each showing its
    score of largest magnitude; by default only layers wider than 2,048 are binned, into 448.
    Raises FigureError for fewer than 1 bin and ScoreError for a label without scores.
    """
    values = scores[label]
    n_layers, n_units = values.shape
    if bins is not None and bins < 1:
        raise FigureError(f"bins is {bins}, expected 1 or more")
    width = bin_width(n_units, bins)
    name, unit = score_name(scores.method), unit_name(scores.origin.site)
    cells = {"z": values.astype(np.float32)}
    hover = f"{unit} %{{y}}.%{{x}}<br>{name} %{{z:+.3f}}<extra></extra>"
    if width > 1:
        index = strongest(values, width)
        kind = np.int16 if n_units < 2**15 else np.int32
        cells = {
            "z": np.take_along_axis(values, index, 1).astype(np.float32),
            "customdata": index.astype(kind),
        }
        hover = (
            f"strongest of {width} {unit}s: %{{y}}.%{{customdata}}<br>"
            f"{name} %{{z:+.3f}}<extra></extra>"
        )
    limit = _limit(values)
    figure = go.Figure(
        go.Heatmap(
            **cells,
            x0=(width - 1) / 2,
            dx=width,
            y0=0,
            dy=1,
            zmin=-limit,
            zmax=limit,
            colorscale=_scale(DIVERGING),
            colorbar={"title": {"text": name}},
            hovertemplate=hover,
        )
    )
    _mark_strongest(figure, scores, label, top)
    cell = f"{unit}s" if width == 1 else f"strongest of each {width} {unit}s"
    _finish(
        figure,
        f"Where {_plain(label)} is: {name}",
        _about(scores.origin, f"{cell}, read at “{scores.origin.position}”"),
        height=min(max(170 + 26 * n_layers, 320), 640),
    )
    figure.update_xaxes(
        title_text=f"{unit} within its layer",
        range=[-0.5, n_units - 0.5],
        tickformat="d",
        showgrid=False,
    )
    figure.update_yaxes(
        title_text="layer", range=[-0.5, n_layers - 0.5], dtick=_step(n_layers), showgrid=False
    )
    return figure.update_layout(
        hovermode="closest",
        legend={"x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom", "orientation": "h"},
    )


def bin_width(n_units: int, bins: int | None = None) -> int:
    """How many units of a layer share a heatmap's cell."""
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
    order = np.argsort(-np.abs(values).ravel(), kind="stable")[:top]
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
    """Root mean square score of every label in every layer; with `keys`, its key neurons there."""
    strength = layer_strength(scores)
    n_layers = strength.shape[1]
    rows = 1 if keys is None else 2
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for i, label in enumerate(scores.labels):
        figure.add_scatter(
            row=1,
            col=1,
            x=np.arange(n_layers),
            y=strength[i],
            name=_plain(label),
            mode="lines+markers",
            marker={"size": 5},
            line={
                "color": COLOURS[i % len(COLOURS)],
                "dash": DASHES[i // len(COLOURS) % len(DASHES)],
                "width": 2,
            },
            hovertemplate="layer %{x}: %{y:.4f}",
        )
    height = 400
    if keys is not None:
        _add_counts(figure, keys)
        height += 90 + 22 * len(keys)
        figure.update_yaxes(row=1, col=1, domain=[1 - 250 / (height - 132), 1])
        figure.update_yaxes(row=2, col=1, domain=[0, 1 - 300 / (height - 132)])
    _finish(
        figure,
        "How strongly each layer answers",
        _about(scores.origin, f"read at “{scores.origin.position}”"),
        height=height,
    )
    figure.update_yaxes(
        row=1,
        col=1,
        title_text=f"root mean square<br>{score_name(scores.method)}",
        rangemode="tozero",
    )
    figure.update_xaxes(dtick=_step(n_layers), range=[-0.5, n_layers - 0.5])
    figure.update_xaxes(row=rows, col=1, title_text="layer")
    return figure.update_layout(
        hovermode="closest", legend={"y": 1, "yanchor": "top", "tracegroupgap": 0}
    )


def _add_counts(figure: go.Figure, keys: KeyNeurons) -> None:
    """Key neurons of each label in each layer, as a second row of panels."""
    counts = layer_counts(keys)
    figure.add_heatmap(
        z=counts,
        x=np.arange(keys.n_layers),
        y=[_plain(x) for x in keys.labels],
        texttemplate="%{z:d}" if keys.n_layers <= 16 else None,
        colorscale=_scale(SEQUENTIAL),
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
        title_text=f"key {unit_name(keys.origin.site)}s ({_plain(keys.rule)})",
        showgrid=False,
    )


def overlap_matrix(keys: KeyNeurons) -> go.Figure:
    """Shared key neurons of every two labels as Jaccard overlap, with what chance would share."""
    found = overlap(keys)
    apart = ~np.eye(len(keys), dtype=bool)
    jaccard = np.where(apart, found.jaccard, np.nan)
    names = [_plain(x) for x in found.labels]
    hover = [
        [
            f"{a} and {b}<br>{found.shared[i, j]:.0f} shared, by chance {found.expected[i, j]:.2g}"
            f"<br>Jaccard {found.jaccard[i, j]:.3f}"
            if i != j
            else f"{a}: {found.shared[i, i]:.0f} neurons"
            for j, b in enumerate(names)
        ]
        for i, a in enumerate(names)
    ]
    text = [[f"{x:.2f}".lstrip("0") if x >= 0.005 else "" for x in row] for row in jaccard]
    most = max(float(found.jaccard[apart].max(initial=0)), 0.01)
    figure = _matrix(
        jaccard, names, text, hover, SEQUENTIAL, (0.0, most), "Jaccard overlap (shared / union)"
    )
    _finish(
        figure,
        f"Key {unit_name(keys.origin.site)}s that labels share",
        _about(keys.origin, f"{_plain(keys.rule)}, read at “{keys.origin.position}”"),
        height=190 + (30 if len(names) > 10 else 42) * max(len(names), 4),
    )
    return _matrix_axes(figure, "key neurons of", "key neurons of")


def lesion_matrix(study: LesionStudy, *, corrected: bool = False) -> go.Figure:
    """Rise in tag loss (nats) of every label's words under every lesion.

    With `corrected`, minus the shams' mean. A full star marks crossed pairs that AUROC confirms, an
    open one those that may be a shift of bias.
    """
    matrix = study.corrected if corrected else study.matrix
    names = [_plain(x) for x in study.labels]
    stars = _stars(study)
    text, hover = [], []
    for i, cut in enumerate(names):
        text.append([number(matrix[i, j]) + stars.get((i, j), "") for j in range(len(names))])
        hover.append(
            [
                f"{cut} neurons cut, {study.n_words[j]:,} words tagged {label}<br>"
                f"tag loss {study.matrix[i, j]:+.4f} nats, shams {study.sham_mean[i, j]:+.4f}"
                + (f"<br>{_STAR_MEANS[stars[i, j]]}" if (i, j) in stars else "")
                for j, label in enumerate(names)
            ]
        )
    limit = _limit(matrix)
    figure = _matrix(
        matrix, names, text, hover, DIVERGING, (-limit, limit), "rise in tag loss (nats)"
    )
    for i in range(len(names)):
        figure.add_shape(
            type="rect",
            x0=i - 0.5,
            x1=i + 0.5,
            y0=i - 0.5,
            y1=i + 0.5,
            line={"color": INK, "width": 1.5},
        )
    against = ", minus the shams' mean" if corrected else ""
    _finish(
        figure,
        f"What each lesion costs{against}",
        _about(study.origin, f"{study.value} lesion of {study.k} neurons, {_plain(study.fresh)}"),
        height=190 + (30 if len(names) > 10 else 42) * max(len(names), 4),
    )
    return _matrix_axes(figure, "words tagged", "neurons cut of")


_CONFIRMED, _UNCONFIRMED = " ★", " ☆"
_STAR_MEANS = {
    _CONFIRMED: "crossed pair, confirmed by AUROC",
    _UNCONFIRMED: "crossed pair, possibly a bias shift",
}


def _stars(study: LesionStudy) -> dict[tuple[int, int], str]:
    """The cells of crossed pairs, both ways round."""
    stars = {}
    for pair in study.crossed_pairs:
        i, j = study.labels.index(pair.first), study.labels.index(pair.second)
        stars[i, j] = stars[j, i] = _CONFIRMED if pair.confirmed else _UNCONFIRMED
    return stars


def lesion_null(study: LesionStudy) -> go.Figure:
    """S* of every sham replicate, with that of the real lesions.

    Raises FigureError for a study without shams.
    """
    shams = study.s_star_sham
    if len(shams) == 0:
        raise FigureError("this study has no shams, so S* has no null distribution: use shams=20")
    counts, edges = np.histogram(shams, bins=min(max(5, round(len(shams) ** 0.5) * 2), 40))
    figure = go.Figure()
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": PALE, "line": {"color": "#9aa4af", "width": 1}},
        name=f"{len(shams)} shams",
        customdata=np.stack([edges[:-1], edges[1:]], 1),
        hovertemplate="%{y} shams, S* %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=shams,
        y=np.full(len(shams), -0.04 * counts.max()),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 9, "color": GREY, "line": {"width": 1.5}},
        name="each sham",
        hovertemplate="sham: S* %{x:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=[study.s_star, study.s_star],
        y=[0, counts.max() * 1.08],
        mode="lines+text",
        text=["", f"<b>real {study.s_star:.2f}</b>"],
        textposition="top center",
        cliponaxis=False,
        textfont={"color": CONTRAST},
        line={"color": CONTRAST, "width": 3},
        name="real lesions",
        hovertemplate="real lesions: S* %{x:.3f}<extra></extra>",
    )
    p = study.p_value
    _finish(
        figure,
        f"Is the damage selective? p = {p:.3f}",
        _about(study.origin, f"{len(shams)} matched shams, {_plain(study.fresh)}"),
        height=360,
    )
    figure.update_xaxes(title_text="S*, scaled diagonal of the lesion matrix (no unit)")
    figure.update_yaxes(title_text="sham replicates", dtick=max(1, -(-int(counts.max()) // 6)))
    return figure.update_layout(
        showlegend=False,
        bargap=0,
        hovermode="closest",
        yaxis_range=[-0.1 * counts.max(), counts.max() * 1.25],
    )


def probe_accuracy(probe: ProbeResult) -> go.Figure:
    """Accuracy on fresh words: the key neurons beside every baseline."""
    bars = (
        (f"{probe.n_neurons:,} key neurons", probe.accuracy, ACCENT),
        ("as many random neurons", probe.random_accuracy, "#86b4d6"),
        (f"all of layer {probe.layer}", probe.layer_accuracy, "#86b4d6"),
        (_word_alone(probe.position), probe.word_baseline_accuracy, "#aab3bd"),
        ("majority label", probe.majority_accuracy, "#aab3bd"),
        ("control task", probe.control_accuracy, "#e3b58f"),
    )
    names = [name for name, _, _ in bars]
    figure = go.Figure(
        go.Bar(
            orientation="h",
            y=names,
            x=[value for _, value, _ in bars],
            text=[f"{value:.3f}" for _, value, _ in bars],
            textposition="outside",
            cliponaxis=False,
            marker={
                "color": [colour for _, _, colour in bars],
                "line": {"color": INK, "width": 0.6},
            },
            name="accuracy",
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    )
    figure.add_scatter(
        x=probe.random_accuracies,
        y=[names[1]] * len(probe.random_accuracies),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 12, "color": INK, "line": {"width": 1.5}},
        name="each draw",
        hovertemplate="one draw of random neurons: %{x:.4f}<extra></extra>",
    )
    _finish(
        figure,
        "Can the label be read from the neurons?",
        _about(
            probe.origin,
            f"{probe.n_fresh_words:,} fresh words of {_plain(probe.fresh)}, "
            f"read at “{probe.position}”",
        ),
        height=360,
    )
    figure.update_xaxes(
        title_text="accuracy (share of fresh words)", range=[0, 1.08], tickformat=".1f"
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, ticks="")
    return figure.update_layout(showlegend=False, bargap=0.28, hovermode="closest")


def confusion(probe: ProbeResult) -> go.Figure:
    """Share of each label's fresh words that the probe called each label."""
    counts = probe.confusion.astype(float)
    totals = counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    names = [_plain(x) for x in probe.labels]
    hover = [
        [
            f"{a} called {b}<br>{counts[i, j]:,.0f} of {totals[i, 0]:,.0f} words"
            for j, b in enumerate(names)
        ]
        for i, a in enumerate(names)
    ]
    text = [[f"{100 * x:.0f}" if x >= 0.005 else "" for x in row] for row in share]
    figure = _matrix(
        share, names, text, hover, SEQUENTIAL, (0.0, 1.0), "share of the label's words"
    )
    _finish(
        figure,
        "What the probe confuses (% of each row)",
        _about(probe.origin, f"{_plain(probe.fresh)}, read at “{probe.position}”"),
        height=190 + (30 if len(names) > 10 else 42) * max(len(names), 4),
    )
    return _matrix_axes(figure, "called", "gold label")


@cache
def plotly_js() -> str:
    """The source of plotly.js, for a page that draws figures offline."""
    return get_plotlyjs()


def score_name(method: str) -> str:
    """A score's name with its unit, as on the axes."""
    return SCORE_NAMES.get(method, _plain(method))


def unit_name(site: str) -> str:
    """What one unit of a site is called."""
    return "neuron" if site == "neuron" else "unit"


def number(value: float, digits: int = 2, *, plus: bool = False) -> str:
    """A number with a true minus sign, and without one when it rounds to zero."""
    rounded = round(float(value), digits) + 0.0
    text = f"{rounded:+.{digits}f}" if plus else f"{rounded:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _plain(text: str) -> str:
    """Text in which plotly finds no markup."""
    return html.escape(text, quote=False)


def _about(origin: Origin, what: str) -> str:
    model = origin.model if len(origin.model) <= 60 else f"{origin.model[:57]}…"
    return f"{_plain(model)} · {what}"


def _word_alone(position: str) -> str:
    return "the word alone" if position == "word" else "the word before alone"


def _limit(values: Float[np.ndarray, "row column"]) -> float:
    """The half-width of a colour scale centred on 0."""
    return float(np.abs(values).max(initial=0)) or 1.0


def _scale(colours: tuple[str, ...]) -> list[list[float | str]]:
    return [[i / (len(colours) - 1), c] for i, c in enumerate(colours)]


def _step(n_layers: int) -> int:
    return 1 if n_layers <= 16 else 4


def _matrix(
    z: Float[np.ndarray, "row column"],
    names: list[str],
    text: list[list[str]],
    hover: list[list[str]],
    colours: tuple[str, ...],
    limits: tuple[float, float],
    unit: str,
) -> go.Figure:
    """A label by label heatmap with a text in every cell."""
    return go.Figure(
        go.Heatmap(
            z=z,
            x=names,
            y=names,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 12 if len(names) <= 10 else 9},
            hovertext=hover,
            hoverinfo="text",
            hoverongaps=True,
            colorscale=_scale(colours),
            zmin=limits[0],
            zmax=limits[1],
            colorbar={"title": {"text": unit}},
            xgap=1,
            ygap=1,
        )
    )


def _finish(figure: go.Figure, title: str, subtitle: str, *, height: int) -> None:
    figure.update_layout(
        template=STYLE, height=height, title={"text": title, "subtitle": {"text": subtitle}}
    )


def _matrix_axes(figure: go.Figure, columns: str, rows: str) -> go.Figure:
    figure.update_xaxes(title_text=columns, type="category", showgrid=False, tickangle=-45)
    figure.update_yaxes(title_text=rows, type="category", showgrid=False, autorange="reversed")
    return figure
