"""Shared style of all figures: colours, axes, names of scores, and escaped text.

Colours are safe for colour-blind readers. In grey print scales go from light to dark, and lines are
distinguished by their dashes and symbols. Labels and names are data: plotly reads a little HTML in its
texts, so they are escaped.
"""

import html
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.offline import get_plotlyjs

from grammar_lens.corpus.origin import Origin
from grammar_lens.selectivity.result import Scores

INK, GREY, PALE = "#1f2a37", "#6b7684", "#d9dee4"
ACCENT, CONTRAST = "#0b5c9e", "#c2410c"
SHAMS = "#8894a1"
"""Sham lesions, exchanged labels, and the line at no effect."""
# Okabe & Ito (2008), Color Universal Design, without the yellow that vanishes on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
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
    "title": {"standoff": 8, "font": {"size": 13}},
    "zeroline": False,
}
_COLOUR_BAR = {
    "colorbar": {
        "outlinewidth": 0,
        "thickness": 12,
        "title": {"side": "right", "font": {"size": 13}},
    }
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
    data={"heatmap": [_COLOUR_BAR]},
)

SCORE_NAMES = {
    "correlation": "correlation r",
    "cohens_d": "Cohen's d (pooled sd)",
    "welch_t": "Welch's t",
    "eta_squared": "η² (share of variance)",
    "probeless": "distance of means",
    "probeless_sd": "distance of means (sd)",
    "entropy": "entropy (nats)",
    "auroc": "AUROC",
    "probe_weight": "probe weight (log-odds per sd)",
    "logit_contrast": "logit contrast (logits per activation)",
    "attribution": "attribution (nats per word)",
    "attribution_contrast": "attribution contrast (nats per word)",
    "relevance": "relevance (nats per word)",
    "relevance_contrast": "relevance contrast (nats per word)",
    "integrated_gradients": "integrated gradient",
    "frequency": "share of words where among the largest",
}


@cache
def plotly_js() -> str:
    """The source of plotly.js, for a page that draws figures offline."""
    return get_plotlyjs()


def score_name(method: str) -> str:
    """A score's name with its unit, as on the axes."""
    return SCORE_NAMES.get(method, plain(method))


def strength_name(scores: Scores) -> str:
    """The name of `Scores.strength`: the size of a score, whichever way its values count."""
    name = score_name(scores.method)
    if scores.best == "low":
        return f"exp(\N{MINUS SIGN}{name})"
    far = scores.best == "far" and scores.neutral
    return f"{name}, distance from {scores.neutral:g}" if far else name


def unit_name(site: str) -> str:
    """The name of one unit of a site."""
    return "neuron" if site == "neuron" else "dimension" if "resid" in site else "unit"


def number(value: float | int, digits: int = 2, *, plus: bool = False) -> str:
    """A number with a true minus sign, and without one when it rounds to zero."""
    rounded = round(float(value), digits) + 0.0
    text = f"{rounded:+.{digits}f}" if plus else f"{rounded:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def decimals(values: Sequence[float] | Float[np.ndarray, "..."]) -> int:
    """Decimal places, 3 to 7, that show the largest of some values with three digits."""
    known = np.abs(np.asarray(values, float))
    most = float(known[np.isfinite(known)].max(initial=0))
    return 3 if most == 0 else int(np.clip(2 - np.floor(np.log10(most)), 3, 7))


def plain(text: str) -> str:
    """Text in which plotly finds no markup."""
    return html.escape(text, quote=False)


def about(origin: Origin | None, what: str) -> str:
    """A subtitle: the model, and what was measured."""
    if origin is None:
        return what
    model = origin.model if len(origin.model) <= 60 else f"{origin.model[:57]}…"
    return f"{plain(model)} · {what}"


def word_alone(position: str) -> str:
    """The word baseline's name."""
    return "the word alone" if position == "word" else "the word before alone"


def half_width(values: Float[np.ndarray, "row column"]) -> float:
    """The half-width of a colour scale centred on 0; missing values (NaN) do not count."""
    known = values[np.isfinite(values)]
    return float(np.abs(known).max(initial=0)) or 1.0


def colour_scale(colours: tuple[str, ...]) -> list[list[float | str]]:
    """Colours at equal steps."""
    return [[i / (len(colours) - 1), c] for i, c in enumerate(colours)]


def line_style(i: int) -> dict[str, Any]:
    """Colour, dash and symbol of the line of label `i`: no two of 42 labels have all alike."""
    return {
        "mode": "lines+markers",
        "marker": {"size": 6, "symbol": SYMBOLS[i % len(SYMBOLS)]},
        "line": {
            "color": COLOURS[i % len(COLOURS)],
            "dash": DASHES[i // len(COLOURS) % len(DASHES)],
            "width": 2,
        },
    }


def label_rows(names: list[str]) -> dict[str, Any]:
    """A y axis with a row for every label, the first on top; labels like numbers stay names."""
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": names,
        "range": [len(names) - 0.5, -0.5],
        "dtick": 1,
    }


def tick_step(n_layers: int) -> int:
    """Layers from one tick to the next."""
    return 1 if n_layers <= 16 else 4


def matrix(
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
            textfont={"size": _cell_font(text)},
            hovertext=hover,
            hoverinfo="text",
            hoverongaps=True,
            colorscale=colour_scale(colours),
            zmin=limits[0],
            zmax=limits[1],
            colorbar={"title": {"text": unit}},
            xgap=1,
            ygap=1,
        )
    )


def _cell_font(text: list[list[str]]) -> int:
    """The font size at which the cells of a matrix fit a page's column."""
    longest = max((len(cell) for row in text for cell in row), default=0)
    return 12 if len(text) <= 10 else 11 if longest <= 4 else 9


def legend_height(n: int, least: int) -> int:
    """A figure's height, `least` or more, at which a legend of `n` lines beside it is not cut."""
    return max(least, 140 + 20 * n)


def panel_title(figure: go.Figure, title: str, row: int, column: int, *, y: float = 1.02) -> None:
    """Writes the title of one panel above its left corner."""
    figure.add_annotation(
        row=row,
        col=column,
        text=f"<b>{title}</b>",
        x=0,
        xref="x domain",
        xanchor="left",
        y=y,
        yref="y domain",
        yanchor="bottom",
        showarrow=False,
    )


def finish(figure: go.Figure, title: str, subtitle: str, *, height: int) -> None:
    """Gives a figure the style, title and height."""
    figure.update_layout(
        template=STYLE, height=height, title={"text": title, "subtitle": {"text": subtitle}}
    )
    # make_subplots writes its titles larger than everything else
    figure.update_annotations(font_size=13)


def matrix_axes(figure: go.Figure, columns: str, rows: str) -> go.Figure:
    """A label by label heatmap with names at its axes; labels that look like numbers stay names."""
    figure.update_xaxes(title_text=columns, type="category", showgrid=False, tickangle=-45)
    figure.update_yaxes(title_text=rows, type="category", showgrid=False, autorange="reversed")
    return figure
