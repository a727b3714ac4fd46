"""Controls of a choice of neurons: exchanged labels, halves of the data, vocabulary."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grammar_lens.errors import GrammarLensError, NotMeasuredError
from grammar_lens.figures.style import (
    ACCENT,
    COLOURS,
    CONTRAST,
    GREY,
    INK,
    SHAMS,
    about,
    finish,
    plain,
    score_name,
)
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.neurons import KeyNeurons


def selection_controls(controls: SelectionControls, keys: KeyNeurons | None = None) -> go.Figure:
    """Strength with true and with exchanged labels, and agreement of halves with chance, per label.

    What was not measured has no panel. `keys` name the score and the model.
    Raises NotMeasuredError when neither was measured.
    """
    panels = [
        (name, table)
        for name, table in (("sham", controls.sham), ("halves", controls.reliability))
        if table is not None and len(table)
    ]
    if not panels:
        raise NotMeasuredError(
            "neither a sham localiser nor a reliability was measured: collect with replicates "
            "and halves (collect(..., replicates=100, controls=True))"
        )
    titles = {
        "sham": f"strength of the top {controls.k}",
        "halves": "agreement of two halves of the sentences",
    }
    names = list(dict.fromkeys(str(x) for _, table in panels for x in table["label"]))
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.06,
        subplot_titles=[titles[name] for name, _ in panels],
    )
    for column, (name, table) in enumerate(panels, 1):
        (_add_strength if name == "sham" else _add_agreement)(figure, table, column)
        figure.update_xaxes(col=column, rangemode="tozero", title_text=_axis_title(name, keys))
    _label_axis(figure, names)
    finish(
        figure,
        "Would chance do as well?",
        about(
            None if keys is None else keys.origin,
            f"{controls.n_replicates} exchanges of labels between sentences"
            if controls.sham is not None
            else "two halves of the sentences",
        ),
        height=220 + 24 * max(len(names), 4),
    )
    return figure.update_layout(margin={"t": 104})


def _axis_title(panel: str, keys: KeyNeurons | None) -> str:
    if panel == "halves":
        return "share of the smaller choice (0 to 1)"
    return "mean strength" if keys is None else f"mean strength: {score_name(keys.method)}"


def _add_strength(figure: go.Figure, table: pd.DataFrame, column: int) -> None:
    names = [plain(str(x)) for x in table["label"]]
    _add_links(figure, names, table["sham_strength"], table["strength"], column)
    spread = (table["sham_strongest"] - table["sham_strength"]).to_numpy(float)
    figure.add_scatter(
        row=1,
        col=column,
        x=table["sham_strength"],
        y=names,
        error_x={
            "array": spread,
            "arrayminus": np.zeros(len(spread)),
            "color": SHAMS,
            "thickness": 1.4,
            "width": 4,
        },
        customdata=table["sham_strongest"],
        mode="markers",
        marker={"symbol": "circle-open", "size": 9, "color": SHAMS, "line": {"width": 2}},
        name="exchanged labels (mean; bar to the largest)",
        hovertemplate=("exchanged labels: mean %{x:.3g}, largest %{customdata:.3g}<extra></extra>"),
    )
    figure.add_scatter(
        row=1,
        col=column,
        x=table["strength"],
        y=names,
        customdata=table[["by_fdr", "sham_by_fdr", "by_permutation", "sham_by_permutation"]],
        mode="markers",
        marker={"size": 10, "color": ACCENT},
        name="true labels",
        hovertemplate=(
            "true labels: %{x:.3g}<br>q ≤ .05: %{customdata[0]:,} neurons, exchanged "
            "%{customdata[1]:,.1f}<br>permutation: %{customdata[2]:,}, exchanged "
            "%{customdata[3]:,.1f}<extra></extra>"
        ),
    )


def _add_agreement(figure: go.Figure, table: pd.DataFrame, column: int) -> None:
    names = [plain(str(x)) for x in table["label"]]
    _add_links(figure, names, table["expected_share"], table["share"], column)
    figure.add_scatter(
        row=1,
        col=column,
        x=table["expected_share"],
        y=names,
        mode="markers",
        marker={"symbol": "diamond-open", "size": 9, "color": SHAMS, "line": {"width": 2}},
        name="chance",
        hovertemplate="sets drawn at random in the same layers: %{x:.4f}<extra></extra>",
    )
    figure.add_scatter(
        row=1,
        col=column,
        x=table["share"],
        y=names,
        customdata=table[["shared", "n_first", "n_second", "p_value", "jaccard"]],
        mode="markers",
        marker={"symbol": "diamond", "size": 11, "color": CONTRAST},
        name="two halves",
        hovertemplate=(
            "share %{x:.3f}, Jaccard %{customdata[4]:.3f}<br>%{customdata[0]:,.0f} shared of "
            "%{customdata[1]:,.0f} and %{customdata[2]:,.0f}, p = %{customdata[3]:.2g}<extra></extra>"
        ),
    )


def _add_links(
    figure: go.Figure, names: list[str], start: pd.Series, end: pd.Series, column: int
) -> None:
    """A pale line from each label's first value to its second; none where one is missing."""
    x: list[float | None] = []
    y: list[str | None] = []
    for name, a, b in zip(names, start, end, strict=True):
        x += [a, b, None]
        y += [name, name, None]
    figure.add_scatter(
        row=1,
        col=column,
        x=x,
        y=y,
        mode="lines",
        line={"color": "#cfd6dd", "width": 3},
        hoverinfo="skip",
        showlegend=False,
        name="difference",
    )


def grammar_or_vocabulary(table: pd.DataFrame, keys: KeyNeurons | None = None) -> go.Figure:
    """Each label's effect, what is left of it within word forms, and at equal frequency and place.

    `table` is `SelectionControls.within_type`; all in standard deviations, medians over the key
    neurons. Labels that no ambiguous form carries have an open circle and no mark within forms.
    Raises GrammarLensError for a table without rows.
    """
    if table.empty:
        raise GrammarLensError("the table has no labels: there is nothing to compare")
    names = [plain(str(x)) for x in table["label"]]
    before = keys is not None and keys.origin.position == "next"
    figure = make_subplots(rows=1, cols=1)
    _add_links(figure, names, table["within_type"], table["effect"], 1)
    _add_effects(figure, table, names)
    _add_within(figure, table, names, "after the same word" if before else "within word forms")
    where = "" if keys is None else f", read at “{keys.origin.position}”"
    finish(
        figure,
        "Grammar or vocabulary?",
        about(None if keys is None else keys.origin, f"median of each label's key neurons{where}"),
        height=220 + 26 * max(len(names), 4),
    )
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(
        title_text="label minus rest, in the direction of the neuron's effect (pooled sd)"
    )
    _label_axis(figure, list(map(str, table["label"])))
    return figure


def _add_effects(figure: go.Figure, table: pd.DataFrame, names: list[str]) -> None:
    """The effect over all words, and at equal frequency and place."""
    forms = table["ambiguous_forms"].to_numpy(int)
    figure.add_scatter(
        x=table["effect"],
        y=names,
        text=[
            f"{n:,} ambiguous forms" if n else "no form occurs both with this label and without it"
            for n in forms
        ],
        mode="markers",
        marker={
            "symbol": ["circle" if n else "circle-open" for n in forms],
            "size": 11,
            "color": COLOURS[0],
            "line": {"width": 2, "color": COLOURS[0]},
        },
        name="all words",
        hovertemplate="all words: d = %{x:.2f}<br>%{text}<extra></extra>",
    )
    figure.add_scatter(
        x=table["guarded"],
        y=names,
        mode="markers",
        marker={"symbol": "square-open", "size": 9, "color": GREY, "line": {"width": 2}},
        name="at equal frequency and place",
        hovertemplate="at equal frequency and place: %{x:.2f}<extra></extra>",
    )


def _add_within(figure: go.Figure, table: pd.DataFrame, names: list[str], held: str) -> None:
    """Add the part of the effect that remains with the word held constant; `held` says how."""
    figure.add_scatter(
        x=table["within_type"],
        y=names,
        error_x={"array": table["standard_error"], "color": COLOURS[1], "thickness": 1.6},
        customdata=table[["ambiguous_forms", "words", "standard_error"]],
        mode="markers",
        marker={"symbol": "diamond", "size": 11, "color": COLOURS[1]},
        name=f"{held} (± standard error)",
        hovertemplate=held
        + ": %{x:.2f} ± %{customdata[2]:.2f}<br>%{customdata[1]:,} words of "
        + "%{customdata[0]:,} forms<extra></extra>",
    )


def _label_axis(figure: go.Figure, labels: list[str]) -> None:
    """Labels down the side in their order, and a legend below."""
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=[plain(x) for x in labels],
        range=[len(labels) - 0.5, -0.5],
    )
    figure.update_yaxes(col=1, title_text="key neurons of")
    figure.update_layout(
        hovermode="closest",
        legend={"orientation": "h", "y": -0.02, "yref": "container", "yanchor": "bottom", "x": 0},
    )
