"""The picture that stands in a page until plotly.js has started."""

import re

import numpy as np
import plotly.graph_objects as go

from grammar_lens.figures.stills import matrix_still
from grammar_lens.figures.style import DIVERGING, matrix


def drawn(z: np.ndarray, names: list[str], text: list[list[str]]) -> go.Figure:
    return matrix(z, names, text, text, DIVERGING, (-1.0, 1.0), "nats")


def test_cells_have_their_colours_and_texts() -> None:
    """The ends of the scale, its middle, and a cell that was not measured."""
    z = np.array([[1.0, 0.0], [-3.0, np.nan]])
    still = str(matrix_still(drawn(z, ["NOUN", "VERB"], [["a", "b"], ["c", "d"]]), 300))
    fills = re.findall(r'<rect [^>]*fill="rgb\(([^)]*)\)"', still)
    ends = [tuple(bytes.fromhex(DIVERGING[i][1:])) for i in (-1, 3, 0)]
    assert [tuple(map(float, fill.split(","))) for fill in fills] == ends
    texts = re.findall(r'fill="([^"]*)" text-anchor="middle"[^>]*>([^<]*)</text>', still)
    coloured = {text: colour for colour, text in texts}
    assert set(coloured) == {"NOUN", "VERB", "a", "b", "c"}
    assert coloured["a"] == coloured["c"] == "white" != coloured["b"]
    assert 'height="300"' in still


def test_labels_cannot_be_markup() -> None:
    hostile = ["<script>x</script>", '"&']
    still = str(matrix_still(drawn(np.eye(2), hostile, [["<b>", "&"]] * 2), 100))
    assert "<script" not in still
    assert "<b>" not in still
    assert "&lt;script&gt;" in still
