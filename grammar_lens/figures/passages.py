"""The words at which a neuron is most and least active, in their sentences."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.figures.one_neuron import called
from grammar_lens.figures.style import (
    DIVERGING,
    INK,
    about,
    colour_scale,
    finish,
    half_width,
    number,
    plain,
)
from grammar_lens.neurons.examples import Example, NeuronExamples

MOST_SIGNS = 9
"""A token of more characters is shortened in its cell."""
MOST_TOLD = 240
"""Characters of a token that are shown on hover."""
BLANK = "·"
_TURNS_TEXT = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Signs that change the direction of the text around them."""


@dataclass(frozen=True)
class _Row:
    """One example as a row of cells: activations, tokens in them, and the hover text of each."""

    values: list[float]
    cells: list[str]
    hover: list[str]


def concordance(of_neuron: NeuronExamples, *, width: int = 6) -> go.Figure:
    """The words at which one neuron is most and least active, in their sentences.

    A row is an example, with `width` tokens on either side of the one at which the neuron was read;
    colour is the activation at each token, on one scale centred on 0. The word itself is bold.
    Raises GrammarLensError for a width below 1, and without examples.
    """
    require_at_least("width", width, 1, "token")
    # a single end may be missing where a neuron was hardly read
    blocks = [block for block in (of_neuron.top, of_neuron.bottom) if block]
    if not blocks:
        raise GrammarLensError(
            f"there are no examples of {called(of_neuron)}: read some words first"
        )
    examples = [example for block in blocks for example in block]
    gap = len(of_neuron.top) - 0.5 if len(blocks) == 2 else None
    rows = [_row(example, width) for example in examples]
    place = [i + 0.6 * (gap is not None and i > gap) for i in range(len(rows))]
    values = np.array([row.values for row in rows], float)
    limit = half_width(values)
    figure = go.Figure()
    for block in ("most", "least"):
        chosen = [i for i in range(len(rows)) if (i < len(of_neuron.top)) == (block == "most")]
        if not chosen:
            continue
        figure.add_heatmap(
            z=values[chosen],
            x=np.arange(-width, width + 1),
            y=[place[i] for i in chosen],
            text=[rows[i].cells for i in chosen],
            texttemplate="%{text}",
            textfont={"size": 11},
            hovertext=[rows[i].hover for i in chosen],
            hoverinfo="text",
            colorscale=colour_scale(DIVERGING),
            zmin=-limit,
            zmax=limit,
            showscale=not figure.data,
            colorbar={"title": {"text": "activation"}},
            ygap=3,
            name=f"{block} active",
        )
        _mark_centre(figure, place[chosen[0]], place[chosen[-1]])
    finish(
        figure,
        f"Where {called(of_neuron)} is most and least active",
        about(
            of_neuron.origin,
            f"read at “{of_neuron.origin.position}”, each word form once; bold: the word",
        ),
        height=190 + round(28 * (place[-1] + 1)),
    )
    _axes(figure, examples, place, width)
    return figure.update_layout(hovermode="closest")


def _axes(figure: go.Figure, examples: list[Example], place: list[float], width: int) -> None:
    """Tokens below, and at the side what each row is an example of."""
    figure.update_xaxes(
        title_text="tokens from where the neuron was read (0)",
        tickvals=list(range(-width, width + 1)),
        ticktext=[number(x, 0, plus=x != 0) for x in range(-width, width + 1)],
        range=[-width - 0.5, width + 0.5],
        showgrid=False,
    )
    figure.update_yaxes(
        title_text="activation there, label of the word",
        tickvals=place,
        ticktext=[f"{number(e.value)}  {plain(_short(e.label, 14))}" for e in examples],
        range=[place[-1] + 0.6, -0.6],
        showgrid=False,
    )


def _mark_centre(figure: go.Figure, first: float, last: float) -> None:
    """A frame around the tokens at which the neuron was read."""
    figure.add_shape(
        type="rect",
        x0=-0.5,
        x1=0.5,
        y0=first - 0.5,
        y1=last + 0.5,
        line={"color": INK, "width": 1.8},
    )


def _row(example: Example, width: int) -> _Row:
    """The tokens around the one at which the neuron was read; empty beyond the passage."""
    row = _Row([], [], [])
    tokens = example.passage.tokens
    for at in range(example.token - width, example.token + width + 1):
        if not -1 <= at < len(tokens) or (at == -1 and example.token != -1):
            row.values.append(np.nan)
            row.cells.append("")
            row.hover.append("")
            continue
        # BOS has no text; its activation is known where the neuron was read there
        value = example.value if at == -1 else float(example.values[at])
        shown = "(start)" if at == -1 else visible(tokens[at])
        cell = plain(_short(shown, MOST_SIGNS))
        in_word = example.span[0] <= at < example.span[1]
        row.values.append(value)
        row.cells.append(f"<b>{cell}</b>" if in_word else cell)
        row.hover.append(
            f"“{_escaped(shown)}”: activation {value:+.4f}<br>"
            f"read for “{_escaped(visible(example.word, blanks=False))}” ({plain(example.label)}): "
            f"{example.value:+.4f}<br>{plain(example.passage.source)}"
        )
    return row


def visible(text: str, *, blanks: bool = True) -> str:
    """Text of a token with blanks as middle dots, and control characters as escapes.

    Signs that would turn the direction of what stands beside them are escaped as well.
    """
    return "".join(_sign(c, blanks) for c in text)


def _sign(c: str, blanks: bool) -> str:
    if c == " " and blanks:
        return BLANK
    if c in _TURNS_TEXT or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp"):
        return c.encode("unicode_escape").decode("ascii")
    return c


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _escaped(text: str) -> str:
    """Text on hover: in lines, and not without end."""
    short = text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}… ({len(text)} characters)"
    return "<br>".join(plain(short[i : i + 60]) for i in range(0, len(short), 60))
