"""The distribution of one neuron's activation over the words of each label."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from sklearn.neighbors import KernelDensity

from grammar_lens.figures.one_neuron import called
from grammar_lens.figures.style import ACCENT, GREY, INK, SHAMS, about, finish, label_rows, plain
from grammar_lens.neurons.word_activations import WordActivations

SHOWN = 0.99
"""Share of the words that the axis spans: a few far ones would leave the rest a single spike."""
FEWEST = 10
"""Words of a label that has a curve."""
_POINTS = 240
_TALLEST = 0.92


def activation_density(words: WordActivations, label: str | None = None) -> go.Figure:
    """Density of one neuron's activation over each label's words, highest median first.

    Each curve is a Gaussian kernel density scaled to its own peak; a tick marks the median. The axis spans 99 % of all words. `label` stands out. Labels of fewer than 10 words
    have no curve.
    """
    grid = _grid(words.values)
    of_label = {x: words.values[words.classes == i] for i, x in enumerate(words.labels)}
    drawn = {x: v.astype(float) for x, v in of_label.items() if len(v) >= FEWEST}
    order = sorted(drawn, key=lambda x: -float(np.median(drawn[x])))
    figure = go.Figure()
    for row, name in enumerate(order):
        _add_curve(figure, row, name, drawn[name], grid, marked=name == label)
    names = [plain(x) for x in order]
    finish(
        figure,
        f"How active {called(words)} is",
        about(words.origin, f"{len(words.values):,} words, read at “{words.origin.position}”"),
        height=150 + 34 * max(len(names), 4),
    )
    figure.add_vline(x=0, line={"color": SHAMS, "width": 1.2}, layer="below")
    figure.update_xaxes(title_text="activation (99 % of the words)", range=[grid[0], grid[-1]])
    rows = label_rows(names)
    figure.update_yaxes(
        title_text="words of",
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[rows["range"][0], -1.0],
        showgrid=False,
        zeroline=False,
    )
    return figure.update_layout(hovermode="closest", showlegend=False)


def _grid(values: Float[np.ndarray, " word"]) -> Float[np.ndarray, " point"]:
    """Activations at which densities are drawn."""
    beyond = (1 - SHOWN) / 2
    low, high = np.quantile(values.astype(float), [beyond, 1 - beyond])
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.03 * (high - low) or 1.0
    return np.linspace(low - room, high + room, _POINTS)


def _add_curve(
    figure: go.Figure,
    row: int,
    name: str,
    values: Float[np.ndarray, " word"],
    grid: Float[np.ndarray, " point"],
    *,
    marked: bool,
) -> None:
    """A label's curve above its row, filled, with a tick at the median."""
    height = kernel_density(values, grid)
    height *= _TALLEST / (height.max() or 1.0)
    median = float(np.median(values))
    colour, fill = (ACCENT, "rgba(11,92,158,.45)") if marked else (GREY, "rgba(143,163,184,.30)")
    text = (
        f"<b>{plain(name)}</b>, {len(values):,} words: median {median:+.3f}, mean "
        f"{values.mean():+.3f}<br>sd {values.std(ddof=1):.3f}, above 0 at {(values > 0).mean():.0%}"
    )
    figure.add_scatter(
        x=np.concatenate([grid, grid[::-1]]),
        y=np.concatenate([row - height, np.full(len(grid), float(row))]),
        fill="toself",
        fillcolor=fill,
        line={"color": colour, "width": 1.4},
        mode="lines",
        name=plain(name),
        hoveron="fills",
        text=text,
        hoverinfo="text",
    )
    figure.add_scatter(
        x=[median, median],
        y=[row, row - 0.3],
        mode="lines",
        line={"color": INK, "width": 2},
        hoverinfo="skip",
        name="median",
    )


def kernel_density(
    values: Float[np.ndarray, " word"], grid: Float[np.ndarray, " point"]
) -> Float[np.ndarray, " point"]:
    """Gaussian kernel density of some values at the points of a grid.

    The bandwidth is half of Scott's, sd n^(-1/5), which smooths two peaks into one; the interquartile
    range / 1.34 stands for the sd where it is smaller, and a step of the grid is the least.
    Source: Scott (1992), Multivariate Density Estimation, ch. 6; Silverman (1986), Density
    Estimation, section 3.4.2.
    """
    first, third = np.quantile(values, [0.25, 0.75])
    spreads = [s for s in (values.std(ddof=1), (third - first) / 1.34) if s > 0]
    width = 0.5 * min(spreads, default=0.0) * len(values) ** -0.2
    width = max(width, grid[1] - grid[0])
    density = KernelDensity(bandwidth=width).fit(values[:, None])
    return np.exp(density.score_samples(grid[:, None]))
