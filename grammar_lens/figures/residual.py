"""The residual stream layer by layer: probes beside their floors, information, selectivity."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from grammar_lens.dissociation.layer_lesions import DIRECTION, NEURONS, LayerLesions
from grammar_lens.figures.style import (
    ACCENT,
    COLOURS,
    CONTRAST,
    GREY,
    INK,
    about,
    finish,
    panel_title,
    tick_step,
    word_alone,
)
from grammar_lens.probing.layer_results import LayerProbe, LayerProbes

_POSITIONS = {"word": "Read at the word", "next": "Read before the word"}
_PALE = "rgba(11,92,158,0.15)"


def layer_by_layer(probes: LayerProbes, table: pd.DataFrame | None = None) -> go.Figure:
    """Accuracy of each layer, at each position, beside what needs no training.

    Where the model's own prediction is known, a panel has the information gained before the word;
    with the `table` of layers (`StoredRun.layer_table`), another the selectivity of its units.
    """
    panels = _panels(probes, table)
    rows = -(-len(panels) // 2)
    columns = min(len(panels), 2)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        vertical_spacing=0.17 if rows > 1 else 0,
        horizontal_spacing=0.1,
    )
    first = next(iter(probes.trained.values()))
    for i, (title, draw) in enumerate(panels):
        row, column = i // 2 + 1, i % 2 + 1
        draw(figure, row, column)
        _layer_axis(figure, first, row, column)
        panel_title(figure, title, row, column)
    words = f"{first.n_fresh_words:,} held-out words, a linear probe on all dimensions of a layer"
    finish(figure, "What each layer tells", about(first.origin, words), height=210 + 280 * rows)
    return figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": -0.2 / rows, "yanchor": "top"},
        margin={"t": 110},
        hovermode="x unified",
    )


def layer_lesions(lesions: LayerLesions) -> go.Figure:
    """Cost of each layer's lesions to a label's own words and to others', means over labels."""
    kinds = ((NEURONS, "Key neurons of the layer"), (DIRECTION, "The label's direction after it"))
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    means = lesions.by_layer()
    lines = (
        ("own", "own words", CONTRAST, "solid"),
        ("other", "other words", ACCENT, "solid"),
        ("sham_own", "own words, shams", CONTRAST, "dot"),
        ("sham_other", "other words, shams", ACCENT, "dot"),
    )
    for column, (kind, title) in enumerate(kinds, 1):
        rows = means[means.lesion == kind]
        at = {"row": 1, "col": column}
        for name, text, colour, dash in lines:
            layers, values = np.asarray(rows["layer"]), np.asarray(rows[name], float)
            _line(figure, layers, values, text, colour, dash, 2.0, column == 1, at)
        figure.update_yaxes(title_text="rise in tag loss (nats)", row=1, col=column)
        n = int(rows.layer.max()) + 1
        figure.update_xaxes(title_text="layer", dtick=tick_step(n), row=1, col=column)
        panel_title(figure, title, 1, column)
    about_words = f"mean lesions at {lesions.n_words:,} words of {lesions.n_sentences:,} sentences"
    finish(
        figure,
        "What each layer's lesions cost",
        about(lesions.origin, f"{about_words}, mean of {lesions.n_shams} shams"),
        height=470,
    )
    return figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        margin={"t": 110},
        hovermode="x unified",
    )


_Draw = Callable[[go.Figure, int, int], None]


def _panels(probes: LayerProbes, table: pd.DataFrame | None) -> list[tuple[str, _Draw]]:
    """Titles of the panels and the functions that fill them."""
    panels: list[tuple[str, _Draw]] = []
    for i, (position, probe) in enumerate(probes.trained.items()):
        twin = probes.untrained.get(position)
        panels.append(
            (
                f"{_POSITIONS.get(position, position)}: accuracy",
                lambda figure, row, column, probe=probe, twin=twin, i=i: _accuracy(
                    figure, row, column, probe, twin, legend=i == 0
                ),
            )
        )
    informed = [probe for probe in probes.trained.values() if np.isfinite(probe.information).any()]
    for probe in informed:
        panels.append(
            (
                "Information gained on the word to come",
                lambda figure, row, column, probe=probe: _information(figure, row, column, probe),
            )
        )
    if table is not None and table.get("rms_neuron") is not None:
        panels.append(
            (
                "Selectivity: root mean square correlation",
                lambda figure, row, column, table=table: _selectivity(figure, row, column, table),
            )
        )
    return panels


def _accuracy(
    figure: go.Figure,
    row: int,
    column: int,
    probe: LayerProbe,
    twin: LayerProbe | None,
    *,
    legend: bool,
) -> None:
    at = {"row": row, "col": column}
    figure.add_scatter(
        x=[*probe.layers, *probe.layers[::-1]],
        y=[*probe.high, *probe.low[::-1]],
        fill="toself",
        fillcolor=_PALE,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name="95 % interval",
        legendgroup="interval",
        showlegend=legend,
        row=row,
        col=column,
    )
    lines = [("the layer", probe.accuracy, ACCENT, "solid", 2.5)]
    if twin is not None:
        lines.append(("the layer, untrained", twin.accuracy, GREY, "dash", 2.0))
    lines.append(("control task", probe.control_accuracy, CONTRAST, "dot", 1.5))
    levels = (
        (f"{word_alone('word')} (or the one before)", probe.word_baseline_accuracy, "dashdot"),
        ("majority label", probe.majority_accuracy, "dot"),
    )
    for name, values, colour, dash, width in lines:
        _line(figure, probe.layers, values, name, colour, dash, width, legend, at)
    for name, value, dash in levels:
        level = np.full(len(probe.layers), value)
        _line(figure, probe.layers, level, name, INK, dash, 1.0, legend, at, marks=False)
    figure.update_yaxes(
        range=[0, 1.02],
        tickformat=".1f",
        title_text="accuracy (share of words)",
        row=row,
        col=column,
    )


def _information(figure: go.Figure, row: int, column: int, probe: LayerProbe) -> None:
    at = {"row": row, "col": column}
    _line(figure, probe.layers, probe.information, "information", ACCENT, "solid", 2.5, False, at)
    for level, text in ((1, "the model's own prediction"), (0, "the word before")):
        figure.add_hline(
            y=level,
            line={"color": INK, "width": 1, "dash": "dot"},
            annotation_text=text,
            annotation_position="top right" if level else "bottom right",
            **at,  # pyright: ignore[reportArgumentType]
        )
    lowest = float(np.nanmin(probe.information))
    figure.update_yaxes(
        range=[min(-0.25, max(lowest, -1.5)) - 0.05, 1.2],
        title_text="information gained (share)",
        row=row,
        col=column,
    )


def _selectivity(figure: go.Figure, row: int, column: int, table: pd.DataFrame) -> None:
    at = {"row": row, "col": column}
    for name, plural, colour, dash in (
        ("resid", "dimensions of the stream", ACCENT, "solid"),
        ("neuron", "neurons", COLOURS[2], "dash"),
    ):
        if f"rms_{name}" in table:
            values = table[f"rms_{name}"].to_numpy(float)
            _line(figure, table.layer.to_numpy(), values, plural, colour, dash, 2.0, True, at)
    figure.update_yaxes(rangemode="tozero", title_text="correlation r", row=row, col=column)


def _line(
    figure: go.Figure,
    layers: np.ndarray,
    values: Float[np.ndarray, " layer"],
    name: str,
    colour: str,
    dash: str,
    width: float,
    legend: bool,
    at: dict[str, int],
    *,
    marks: bool = True,
) -> None:
    figure.add_scatter(
        x=layers,
        y=values,
        name=name,
        legendgroup=name,
        showlegend=legend,
        mode="lines+markers" if marks else "lines",
        marker={"size": 5},
        line={"color": colour, "dash": dash, "width": width},
        hovertemplate="%{y:.3f}",
        **at,
    )


def _layer_axis(figure: go.Figure, probe: LayerProbe, row: int, column: int) -> None:
    """Layers by number, the embedding by its name."""
    n = len(probe.layers) - 1
    step = tick_step(n)
    # beside the embedding's name there is no room for 0 where layers stand close
    ticks = [-1, *range(0 if step == 1 else step, n, step)]
    figure.update_xaxes(
        row=row,
        col=column,
        title_text="layer",
        tickvals=ticks,
        ticktext=["emb.", *map(str, ticks[1:])],
        tickangle=0,
        range=[-1.3, n - 0.7],
    )
