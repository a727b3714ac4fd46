"""Stills of matrices, which a browser shows at once, before plotly.js has started."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.colors import sample_colorscale

from grammar_lens.figures.style import INK

CELL, MARGIN, TOP = 70, 90, 70
"""Height of a cell, and the room for names and titles, in units of the drawing."""
DARK = 0.3
"""Cells this far from the middle of the colour scale have white text."""


def matrix_still(figure: go.Figure, height: int) -> Markup:
    """A label by label heatmap with the text of its cells as SVG, `height` pixels tall."""
    drawn: Any = figure.data[0]
    z, names = np.asarray(drawn.z, float), list(drawn.x)
    share = np.clip((z - drawn.zmin) / (drawn.zmax - drawn.zmin), 0, 1)
    known = np.isfinite(share)
    scale = [list(step) for step in drawn.colorscale]
    colours = sample_colorscale(scale, np.where(known, share, 0.5).ravel().tolist())
    wide, n = 1.5 * CELL, len(names)
    parts = []
    for i, name in enumerate(names):
        y = TOP + (i + 0.5) * CELL
        parts.append(_text(MARGIN - 8, y, name, INK, "end"))
        parts.append(_text(MARGIN + (i + 0.5) * wide, TOP + n * CELL + 24, name, INK))
        for j in range(n):
            if known[i, j]:
                x = MARGIN + j * wide
                white = abs(share[i, j] - 0.5) > DARK
                parts += [
                    Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}"/>').format(
                        x, y - CELL / 2, wide - 2, CELL - 2, colours[i * n + j]
                    ),
                    _text(x + wide / 2, y, drawn.text[i][j], "white" if white else INK),
                ]
    return Markup(
        '<svg class="still" aria-hidden="true" viewBox="0 0 {} {}" height="{}" width="100%">{}</svg>'
    ).format(MARGIN + n * wide + 110, TOP + n * CELL + 80, height, Markup("").join(parts))


def _text(x: float, y: float, text: str, colour: str, anchor: str = "middle") -> Markup:
    made = '<text x="{}" y="{}" fill="{}" text-anchor="{}" dominant-baseline="central">{}</text>'
    return Markup(made).format(x, y, colour, anchor, text)
