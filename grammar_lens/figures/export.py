"""Figures as images for a paper: so many millimetres wide, in a font of so many points, without title."""

import os
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from grammar_lens.errors import GrammarLensError, require_one_of

FORMATS = ("png", "svg", "pdf", "jpg", "webp")
_PER_INCH = 96
"""Pixels of an SVG or PDF page to the inch."""
_FONT = 13
"""Pixels of the ordinary text of a figure."""
_TITLE = 60
"""Pixels above the axes that title and subtitle take."""
_MANY = 7
"""Names of a legend that goes below the axes."""
_LEGEND_ROW, _LEGEND_KEY = 19, 40
"""Pixels that plotly takes for a row of a legend, however small its font, and for a line's sample."""
_LENGTHS = {
    *("thickness", "standoff", "ticklen", "tickwidth", "gridwidth", "linewidth", "zerolinewidth"),
    *("outlinewidth", "borderwidth", "xgap", "ygap", "xshift", "yshift", "ax", "ay", "itemwidth"),
    *("tracegroupgap", "indentation"),
}
"""Settings of a figure that are lengths in pixels wherever they stand."""
_LENGTHS_OF = {
    "margin": {"l", "r", "t", "b", "pad"},
    "pad": {"l", "r", "t", "b"},
    "line": {"width"},
    "marker": {"size"},
}
"""Settings that are lengths in these parts of a figure."""


def write_image(
    figure: go.Figure,
    path: str | os.PathLike[str],
    *,
    width_mm: float | int = 85,
    height_mm: float | int | None = None,
    font_pt: float | int = 7,
    title: bool = False,
    dpi: int = 300,
) -> Path:
    """Writes a figure as PNG (of `dpi`), SVG or PDF for a column of a paper, and returns the path.

    Text, lines and marks are drawn to the scale at which the figure's ordinary text is `font_pt` points;
    the height, where it is not given, follows. Needs kaleido and a Chromium browser.
    Raises GrammarLensError for a width, height or font that is not above 0, and an unknown format.
    """
    target = Path(path)
    kind = target.suffix.lstrip(".").lower()
    require_one_of("format", kind, FORMATS)
    sized = for_paper(figure, width_mm=width_mm, height_mm=height_mm, font_pt=font_pt, title=title)
    vector = kind in ("svg", "pdf")
    sized.write_image(target, format=kind, scale=1 if vector else dpi / _PER_INCH)
    return target


def for_paper(
    figure: go.Figure,
    *,
    width_mm: float | int = 85,
    height_mm: float | int | None = None,
    font_pt: float | int = 7,
    title: bool = False,
) -> go.Figure:
    """A copy of a figure in the size of `write_image`, 96 pixels to the inch."""
    for name, value in (("width_mm", width_mm), ("height_mm", height_mm), ("font_pt", font_pt)):
        if value is not None and not value > 0:
            raise GrammarLensError(f"{name} is {value}, expected a number above 0")
    scale = font_pt / 72 * _PER_INCH / _FONT
    spec: dict[str, Any] = go.Figure(figure).to_dict()
    layout = spec["layout"]
    height = layout.get("height") or 450
    if not title:
        layout["title"] = None
        margin = layout.setdefault("margin", {})
        usual = layout.get("template", {}).get("layout", {}).get("margin", {}).get("t", 100)
        top = margin.get("t", usual)
        margin["t"] = max(top - _TITLE, 16)
        height -= top - margin["t"]
    layout.pop("updatemenus", None)
    sized = _scaled(spec, scale)
    width = width_mm / 25.4 * _PER_INCH
    below = _legend_below(sized, width, font_pt / 72 * _PER_INCH)
    tall = height * scale + below if height_mm is None else height_mm / 25.4 * _PER_INCH
    sized["layout"] |= {"width": round(width), "height": round(tall)}
    return go.Figure(sized)


def _legend_below(spec: dict[str, Any], width: float, font: float) -> float:
    """Puts a long legend below the axes, where no name is cut; returns the height that it takes."""
    layout = spec["layout"]
    legend = layout.setdefault("legend", {})
    names = [
        trace["name"]
        for trace in spec["data"]
        if trace.get("name") and trace.get("showlegend") is not False
    ]
    if layout.get("showlegend") is False or legend.get("orientation") == "h" or len(names) < _MANY:
        return 0.0
    entry = 0.62 * font * max(map(len, names)) + 6
    # plotly gives such a legend the width of the axes, less what stands left of them
    columns = max(1, int((width - 9 * font) // (entry + _LEGEND_KEY)))
    taken = -(-len(names) // columns) * _LEGEND_ROW + 8.0
    layout["legend"] = {
        **{key: value for key, value in legend.items() if key in ("bgcolor", "font")},
        **{"orientation": "h", "x": 0, "xref": "container", "y": 0, "yref": "container"},
        **{"yanchor": "bottom", "entrywidth": entry, "entrywidthmode": "pixels"},
    }
    for trace in spec["data"]:
        trace.pop("legendgroup", None)  # each group would begin a row
    margin = layout.setdefault("margin", {})
    margin["b"] = taken + 4 * font
    margin["r"] = 2 * font
    return taken


def _scaled(node: Any, scale: float, inside: str = "") -> Any:
    """A part of a figure with every length in pixels multiplied."""
    if isinstance(node, list | tuple):
        return [_scaled(x, scale, inside) for x in node]
    if not isinstance(node, dict):
        return node
    lengths = _LENGTHS_OF.get(inside, set()) | ({"size"} if inside.endswith("font") else set())
    return {
        key: _times(value, scale)
        if key in lengths or key in _LENGTHS
        else _scaled(value, scale, key)
        for key, value in node.items()
    }


def _times(value: Any, scale: float) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value * scale
    if isinstance(value, list | tuple):
        return [_times(x, scale) for x in value]
    return value
