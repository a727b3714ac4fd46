"""Several runs side by side: each function takes results keyed by the name of their run."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.style import (
    ACCENT,
    COLOURS,
    CONTRAST,
    DIVERGING,
    GREY,
    INK,
    SEQUENTIAL,
    SYMBOLS,
    colour_scale,
    finish,
    half_width,
    line_style,
    matrix,
    matrix_axes,
    number,
    plain,
)
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_counts, layer_strength
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.selectivity.result import Scores

_BASELINES = (
    ("random neurons", "random_accuracy", "circle-open", ACCENT),
    ("word alone", "word_baseline_accuracy", "diamond-open", INK),
    ("control task", "control_accuracy", "x-thin-open", CONTRAST),
    ("majority label", "majority_accuracy", "line-ns-open", GREY),
)
MATRICES_IN_A_ROW = 3


def probe_accuracies(probes: Mapping[str, ProbeResult]) -> go.Figure:
    """Accuracy on held-out words of every run, with its 95 % interval, beside its own baselines."""
    _require(probes)
    names = [plain(name) for name in probes]
    figure = go.Figure()
    for label, field, symbol, colour in _BASELINES:
        figure.add_scatter(
            x=[getattr(p, field) for p in probes.values()],
            y=names,
            mode="markers",
            name=label,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 1.8}},
            hovertemplate=f"%{{y}}: {label} %{{x:.3f}}<extra></extra>",
        )
    ends = [p.accuracy_interval or (p.accuracy, p.accuracy) for p in probes.values()]
    accuracy = [p.accuracy for p in probes.values()]
    figure.add_scatter(
        x=accuracy,
        y=names,
        customdata=[
            f"{p.n_neurons:,} key neurons, {p.n_fresh_words:,} words of {plain(p.fresh)}"
            for p in probes.values()
        ],
        mode="markers",
        name="key neurons",
        marker={"symbol": "circle", "size": 11, "color": ACCENT},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - a for (_, high), a in zip(ends, accuracy, strict=True)],
            "arrayminus": [a - low for (low, _), a in zip(ends, accuracy, strict=True)],
            "color": ACCENT,
            "thickness": 2,
        },
        hovertemplate="%{y}: %{x:.3f}<br>%{customdata}<extra></extra>",
    )
    where = {p.position for p in probes.values()}
    finish(
        figure,
        "Can the label be read from the neurons?",
        f"held-out words of each run, read at “{'” or “'.join(sorted(where))}”",
        height=230 + 34 * len(probes),
    )
    figure.update_xaxes(title_text="accuracy (share of held-out words)", range=[0, 1.02])
    _runs_as_rows(figure)
    return figure.update_layout(hovermode="closest", legend={"traceorder": "reversed"})


def _runs_as_rows(figure: go.Figure) -> None:
    figure.update_yaxes(
        type="category", autorange="reversed", title_text="run", showgrid=True, ticks=""
    )


def depth_profiles(
    scores: Mapping[str, Scores],
    keys: Mapping[str, KeyNeurons] | None = None,
    accuracy: Mapping[str, Float[np.ndarray, " layer"]] | None = None,
) -> go.Figure:
    """Strength, key neurons and layer probes over relative depth, a line per run.

    Strength is the root mean square score of a layer, the mean over labels, relative to the run's
    strongest layer, since scores differ in unit; key neurons are counted against as many spread evenly over
    all layers (1). `accuracy` is that of each layer's probe, of the runs that have it. Layer l of n
    is at (l + 1/2)/n.
    """
    _require(scores)
    rows = 1 + (keys is not None) + bool(accuracy)
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for i, (name, s) in enumerate(scores.items()):
        strength = layer_strength(s).mean(0)
        _depth_line(figure, i, name, strength / (strength.max() or 1.0), row=1)
        if keys is not None:
            counts = layer_counts(keys[name]).sum(0)
            density = counts * len(counts) / max(counts.sum(), 1.0)
            _depth_line(figure, i, name, density, row=2)
        if accuracy and name in accuracy:
            _depth_line(figure, i, name, accuracy[name], row=rows)
    finish(
        figure,
        "At which depth",
        "mean over labels; depth 0 is the first layer, 1 the last",
        height=140 + 220 * rows,
    )
    figure.update_yaxes(
        title_text="strength, relative<br>to the largest", row=1, rangemode="tozero"
    )
    if keys is not None:
        figure.update_yaxes(
            title_text="key neurons, relative<br>to an even spread", row=2, rangemode="tozero"
        )
        figure.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "dot"}, row=2, col=1)  # pyright: ignore[reportArgumentType]
    if accuracy:
        figure.update_yaxes(title_text="accuracy of the<br>layer's probe", row=rows)
    figure.update_xaxes(range=[0, 1])
    figure.update_xaxes(row=rows, title_text="relative depth (layer / number of layers)")
    return figure.update_layout(hovermode="closest")


def _depth_line(
    figure: go.Figure, i: int, name: str, values: Float[np.ndarray, " layer"], *, row: int
) -> None:
    n = len(values)
    figure.add_scatter(
        row=row,
        col=1,
        x=(np.arange(n) + 0.5) / n,
        y=values,
        customdata=np.arange(n),
        name=plain(name),
        legendgroup=str(i),
        showlegend=row == 1,
        **line_style(i),
        hovertemplate="layer %{customdata}: %{y:.3f}",
    )


def own_damage(studies: Mapping[str, LesionStudy]) -> go.Figure:
    """Damage of each label's lesion to its own words (filled) and of shams (open)."""
    _require(studies)
    labels = sorted({label for s in studies.values() for label in s.labels})
    figure = go.Figure()
    for i, (name, study) in enumerate(studies.items()):
        own_labels = [plain(x) for x in study.labels]
        shams = np.diag(study.sham_mean)
        for values, what, marker in (
            (np.diag(study.matrix), "its own key neurons", _marker(i)),
            (shams, "sham lesions", _marker(i, hollow=True)),
        ):
            if what == "sham lesions" and not study.n_shams:
                continue
            figure.add_scatter(
                x=own_labels,
                y=values,
                name=plain(name),
                legendgroup=str(i),
                offsetgroup=str(i),
                showlegend=what != "sham lesions",
                mode="markers",
                marker=marker,
                hovertemplate=f"%{{x}}: {what} %{{y:+.3f}} nats",
            )
    finish(
        figure,
        "What its own lesion costs a label",
        "filled: the label's key neurons; open: the mean of matched sham lesions",
        height=430,
    )
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    figure.update_xaxes(
        title_text="label",
        type="category",
        categoryorder="array",
        categoryarray=[plain(x) for x in labels],
    )
    figure.update_yaxes(title_text="rise in the label's own tag loss (nats)")
    return figure.update_layout(hovermode="closest", scattermode="group", scattergap=0.5)


def lesion_matrices(studies: Mapping[str, LesionStudy]) -> go.Figure:
    """The lesion matrices of all runs on one colour scale."""
    _require(studies)
    n = len(studies)
    rows = -(-n // MATRICES_IN_A_ROW)
    columns = -(-n // rows)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[plain(name) for name in studies],
        horizontal_spacing=0.09,
        vertical_spacing=0.28 / rows,
    )
    limit = max(half_width(s.matrix) for s in studies.values())
    for i, study in enumerate(studies.values()):
        names = [plain(x) for x in study.labels]
        figure.add_heatmap(
            z=study.matrix,
            x=names,
            y=names,
            zmin=-limit,
            zmax=limit,
            colorscale=colour_scale(DIVERGING),
            showscale=i == 0,
            colorbar={"title": {"text": "rise in tag loss (nats)"}},
            xgap=1,
            ygap=1,
            hovertemplate="%{y} cut, words of %{x}: %{z:+.3f} nats<extra></extra>",
            row=i // columns + 1,
            col=i % columns + 1,
        )
    finish(
        figure,
        "What each lesion costs",
        "rows: whose key neurons are cut; columns: whose words are predicted",
        height=180 + 340 * rows,
    )
    figure.update_layout(margin_t=108)  # room for the names of the runs
    figure.update_xaxes(type="category", showgrid=False, tickangle=-45)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    figure.update_xaxes(row=rows, title_text="words tagged")
    figure.update_yaxes(col=1, title_text="neurons cut of")
    return figure


def agreement_matrix(
    names: Sequence[str],
    share: Float[np.ndarray, "run run"],
    expected: Float[np.ndarray, "run run"],
) -> go.Figure:
    """Key neurons that every two runs of one family share, the mean over labels; NaN where unknown."""
    ticks = [plain(name) for name in names]
    apart = np.where(np.eye(len(ticks), dtype=bool), np.nan, share)
    hover = [
        [
            f"{a} and {b}<br>shared {number(share[i, j], 3)}, by chance {number(expected[i, j], 3)}"
            for j, b in enumerate(ticks)
        ]
        for i, a in enumerate(ticks)
    ]
    text = [["" if np.isnan(x) else number(x) for x in row] for row in apart]
    figure = matrix(apart, ticks, text, hover, SEQUENTIAL, (0.0, 1.0), "shared / smaller set")
    finish(
        figure,
        "Key neurons that runs share",
        "mean over the labels both have; point at a cell for chance",
        height=230 + 42 * max(len(ticks), 3),
    )
    return matrix_axes(figure, "run", "run")


def shared_neurons(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Key neurons that two runs of one family share, a row per label and a column per pair of runs.

    Each table is what `neurons.families.shared_neurons` gives, by the name of its pair.
    """
    _require(tables)
    labels = list(dict.fromkeys(str(x) for table in tables.values() for x in table.index))
    z = np.full((len(labels), len(tables)), np.nan)
    text, hover = ([["" for _ in tables] for _ in labels] for _ in range(2))
    for j, (name, table) in enumerate(tables.items()):
        for label, record in zip(table.index, table.to_dict("records"), strict=True):
            i, smaller = labels.index(str(label)), min(record["n_first"], record["n_second"])
            z[i, j] = record["shared"] / smaller if smaller else np.nan
            text[i][j] = f"{record['shared']:.0f}" if smaller else ""
            hover[i][j] = (
                f"{plain(str(label))}, {plain(name)}<br>{record['shared']:.0f} of {smaller:.0f} shared, "
                f"by chance {number(record['expected'], 2)}<br>rank correlation of the scores "
                f"{number(record['rank_correlation'], 3)}"
            )
    rows, columns = [plain(x) for x in labels], [plain(x) for x in tables]
    figure = matrix(z, rows, text, hover, SEQUENTIAL, (0.0, 1.0), "shared / smaller set")
    figure.update_traces(x=columns)
    finish(
        figure,
        "Key neurons that two runs share",
        "numbers of neurons; point at a cell for chance and the correlation of all scores",
        height=260 + 26 * max(len(labels), 3),
    )
    return matrix_axes(figure, "runs", "label")


def _require(results: Mapping[str, object]) -> None:
    if not results:
        raise GrammarLensError("there is no run to show: give results by the names of their runs")


def _marker(i: int, *, hollow: bool = False) -> dict[str, object]:
    symbol = SYMBOLS[i % len(SYMBOLS)]
    return {
        "symbol": f"{symbol}-open" if hollow else symbol,
        "color": COLOURS[i % len(COLOURS)],
        "size": 9 if not hollow else 8,
        "line": {"width": 1.4},
    }
