"""Probe accuracy on held-out words beside the baselines."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.style import (
    ACCENT,
    COLOURS,
    DASHES,
    GREY,
    INK,
    SEQUENTIAL,
    SYMBOLS,
    about,
    finish,
    matrix,
    matrix_axes,
    plain,
    score_name,
    word_alone,
)
from grammar_lens.probing.curves import RANDOM
from grammar_lens.probing.evaluation import ProbeResult


def probe_accuracy(probe: ProbeResult) -> go.Figure:
    """Accuracy on held-out words: the key neurons, with their 95 % interval, beside every baseline."""
    bars = (
        (f"{probe.n_neurons:,} key neurons", probe.accuracy, ACCENT),
        ("as many random neurons", probe.random_accuracy, "#86b4d6"),
        (f"all of layer {probe.layer}", probe.layer_accuracy, "#86b4d6"),
        (word_alone(probe.position), probe.word_baseline_accuracy, "#aab3bd"),
        ("majority label", probe.majority_accuracy, "#aab3bd"),
        ("control task", probe.control_accuracy, "#e3b58f"),
    )
    names = [name for name, _, _ in bars]
    figure = go.Figure(
        go.Bar(
            orientation="h",
            y=names,
            x=[value for _, value, _ in bars],
            marker={
                "color": [colour for _, _, colour in bars],
                "line": {"color": INK, "width": 0.6},
            },
            name="accuracy",
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    )
    _add_interval(figure, probe, names[0])
    figure.add_scatter(
        x=probe.random_accuracies,
        y=[names[1]] * len(probe.random_accuracies),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 12, "color": INK, "line": {"width": 1.5}},
        name="each draw",
        hovertemplate="one draw of random neurons: %{x:.4f}<extra></extra>",
    )
    _add_numbers(figure, probe, [(name, value) for name, value, _ in bars])
    finish(
        figure,
        "Can the label be read from the neurons?",
        about(
            probe.origin,
            f"{probe.n_fresh_words:,} held-out words of {plain(probe.fresh)}, "
            f"read at “{probe.position}”",
        ),
        height=360,
    )
    figure.update_xaxes(
        title_text="accuracy (share of held-out words)", range=[0, 1.08], tickformat=".1f"
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, ticks="")
    return figure.update_layout(showlegend=False, bargap=0.28, hovermode="closest")


def _add_interval(figure: go.Figure, probe: ProbeResult, name: str) -> None:
    """The 95 % interval of the accuracy, across the end of its bar."""
    interval = probe.accuracy_interval
    if interval is None:
        return
    figure.add_scatter(
        x=interval,
        y=[name, name],
        mode="lines",
        line={"color": INK, "width": 2},
        name="95 % interval",
        hovertemplate=f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}<extra></extra>",
    )


def _add_numbers(
    figure: go.Figure, probe: ProbeResult, bars: list[tuple[str, float | None]]
) -> None:
    """The numbers, beyond everything that is drawn at the end of their bars."""
    ends = [value or 0.0 for _, value in bars]
    ends[0] = max(ends[0], *(probe.accuracy_interval or (0.0,)))
    ends[1] = max(ends[1], *probe.random_accuracies, 0.0)
    figure.add_scatter(
        x=ends,
        y=[name for name, _ in bars],
        text=["  not drawn" if value is None else f"  {value:.3f}" for _, value in bars],
        mode="text",
        textposition="middle right",
        cliponaxis=False,
        name="accuracy as a number",
        hoverinfo="skip",
    )


def confusion(probe: ProbeResult) -> go.Figure:
    """Share of each label's held-out words that the probe called each label."""
    counts = probe.confusion.astype(float)
    totals = counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    names = [plain(x) for x in probe.labels]
    hover = [
        [
            f"{a} called {b}<br>{counts[i, j]:,.0f} of {totals[i, 0]:,.0f} words"
            for j, b in enumerate(names)
        ]
        for i, a in enumerate(names)
    ]
    text = [[f"{100 * x:.0f}" if x >= 0.005 else "" for x in row] for row in share]
    figure = matrix(share, names, text, hover, SEQUENTIAL, (0.0, 1.0), "share of the label's words")
    finish(
        figure,
        "What the probe confuses (% of each row)",
        about(probe.origin, f"{plain(probe.fresh)}, read at “{probe.position}”"),
        height=190 + (30 if len(names) > 10 else 42) * max(len(names), 4),
    )
    return matrix_axes(figure, "called", "gold label")


_PANELS = {
    "accuracy": "all held-out words",
    "unseen_accuracy": "words not seen in training",
    "ambiguous_accuracy": "words with several labels",
}


def accuracy_against_k(
    frame: pd.DataFrame,
    *,
    majority: float | None = None,
    word_baseline: float | None = None,
    origin: Origin | None = None,
) -> go.Figure:
    """Accuracy on held-out words against neurons per label, for every ranking and for random neurons.

    `frame` is a `ProbeCurve.to_frame()`. Kinds of words that there are none of have no panel.
    Raises GrammarLensError for a frame without rows.
    """
    if frame.empty:
        raise GrammarLensError("the curve has no points: probe at least one k")
    panels = {c: t for c, t in _PANELS.items() if c == "accuracy" or frame[c].notna().any()}
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=list(panels.values())
    )
    scores = list(dict.fromkeys(frame["score"]))
    for column, name in enumerate(panels, 1):
        for i, score in enumerate(scores):
            _add_curve(figure, frame.loc[frame["score"] == score], score, i, name, column)
    for y, name in ((majority, "majority label"), (word_baseline, "the word alone")):
        if y is not None:
            _add_level(figure, y, _before(name, origin), np.unique(frame["k"]))
    ks = sorted(set(frame["k"].astype(int)))
    finish(
        figure,
        "How many neurons does it take?",
        about(origin, "probe on the first k key neurons of every label, held-out words"),
        height=430,
    )
    figure.update_xaxes(
        type="log", tickmode="array", tickvals=ks, ticktext=[f"{k:,}" for k in ks], title_text="k"
    )
    figure.update_xaxes(col=1, title_text="k, neurons per label (log scale)")
    figure.update_yaxes(range=[0, 1.02], tickformat=".1f")
    figure.update_yaxes(col=1, title_text="accuracy (share of words)")
    return figure.update_layout(
        hovermode="closest",
        margin={"t": 96},
        legend={"orientation": "h", "y": -0.24, "yanchor": "top", "x": 0},
    )


def _add_curve(
    figure: go.Figure, rows: pd.DataFrame, score: str, i: int, column: str, panel: int
) -> None:
    """One ranking's line in one panel; in the first, its control task too."""
    random = score == RANDOM
    colour = GREY if random else COLOURS[i % len(COLOURS)]
    name = "random neurons" if random else score_name(score)
    style = {
        "row": 1,
        "col": panel,
        "x": rows["k"],
        "legendgroup": str(i),
        "customdata": np.stack([rows["n_neurons"], rows["macro_f1"]], 1).astype(float),
    }
    figure.add_scatter(
        **style,
        y=rows[column],
        name=name,
        showlegend=panel == 1,
        mode="lines+markers",
        marker={"size": 6, "color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)]},
        line={"color": colour, "width": 2.4, "dash": "dash" if random else "solid"},
        hovertemplate=(
            "k = %{x}: accuracy %{y:.3f}<br>%{customdata[0]:,.0f} neurons, "
            "macro F1 %{customdata[1]:.3f}"
        ),
    )
    if panel == 1 and not random:
        figure.add_scatter(
            **style,
            y=rows["control_accuracy"],
            name=f"control task ({name})",
            mode="lines",
            line={"color": colour, "width": 1.6, "dash": DASHES[2]},
            hovertemplate="k = %{x}: control task %{y:.3f}",
        )


def _add_level(figure: go.Figure, y: float, name: str, ks: np.ndarray) -> None:
    """A baseline that no k changes, as a line over the first panel."""
    figure.add_scatter(
        row=1,
        col=1,
        x=[ks.min() * 0.9, ks.max() * 1.1],
        y=[y, y],
        name=name,
        mode="lines",
        line={"color": "#9aa4af" if name == "majority label" else INK, "width": 1.4},
        hovertemplate="%{y:.3f}",
    )


def _before(name: str, origin: Origin | None) -> str:
    return name if name == "majority label" or origin is None else word_alone(origin.position)
