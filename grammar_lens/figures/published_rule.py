"""The rule of Norouzi, Masjedi & Hitzler (2025) by layer and by number of neurons, over samples."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from grammar_lens.figures.style import COLOURS, GREY, STYLE, plain
from grammar_lens.neurons.controls import mean_interval

_BLUE, _RED = COLOURS[:2]


def published_rule(
    layers: pd.DataFrame,
    selected: Float[np.ndarray, "sample layer"],
    curve: pd.DataFrame,
    *,
    model: str,
    position: str,
    top_share: float,
) -> go.Figure:
    """Accuracy per layer, where the kept neurons stand, and accuracy against the number of neurons.

    `layers` has the probes of every sample, layer and classifier, `selected` each layer's share of the
    neurons kept, `curve` the accuracy of more and more neurons of the last layer.
    """
    page = make_subplots(
        rows=3,
        cols=1,
        vertical_spacing=0.11,
        subplot_titles=(
            f"Accuracy of each layer's key neurons on held-out words, read at “{position}”",
            f"Where the largest {top_share:.0%} of every word's neurons stand",
            "Accuracy of more and more neurons of the last layer",
        ),
    )
    lines = (
        ("logistic", "accuracy", "logistic regression", _BLUE, "solid"),
        ("logistic", "random_accuracy", "logistic, random neurons", _BLUE, "dot"),
        ("svm", "accuracy", "linear SVM", _RED, "solid"),
        ("svm", "random_accuracy", "SVM, random neurons", _RED, "dot"),
        ("svm", "control_accuracy", "SVM, control task", GREY, "dot"),
        ("svm", "majority_accuracy", "majority tag", GREY, "dash"),
    )
    of_classifier = dict(iter(layers.groupby("classifier")))
    for classifier, column, *look in lines:
        table = of_classifier[classifier]
        _add_line(page, 1, table["layer"], table[column], *look)
    page.add_scatter(
        row=1,
        col=1,
        x=[layers.layer.max()],
        y=[0.91],
        mode="markers",
        marker={"symbol": "star", "size": 11, "color": COLOURS[2]},
        name="the paper's, on Llama-3-8B",
    )
    share = pd.DataFrame(selected).melt(var_name="layer")
    _add_line(page, 2, share["layer"], share["value"], "kept", _BLUE, "solid")
    even = share["value"] * 0 + 1 / selected.shape[1]
    _add_line(page, 2, share["layer"], even, "even", GREY, "dash")
    for colour, (name, points) in zip(COLOURS, curve.groupby("score"), strict=False):
        _add_line(page, 3, points["n_neurons"], points["accuracy"], str(name), colour, "solid")
    page.update_yaxes(title_text="accuracy", range=[0, 1])
    page.update_yaxes(row=2, col=1, title_text="share", range=None, rangemode="tozero")
    page.update_xaxes(title_text="layer")
    sizes = sorted(curve.n_neurons.unique())
    page.update_xaxes(row=3, col=1, title_text="neurons", type="log", tickvals=sizes)
    return page.update_layout(
        template=STYLE,
        height=1180,
        margin={"t": 120},
        title={
            "text": f"The rule of arXiv 2511.06519 on {plain(model)}",
            "subtitle": {
                "text": f"means of {len(selected)} disjoint samples, bars: 95 % t-intervals"
            },
        },
        legend={"y": 1, "yanchor": "top"},
        legend2={"y": 0.6, "yanchor": "top"},
        legend3={"y": 0.24, "yanchor": "top"},
    )


def _add_line(
    page: go.Figure, row: int, at: pd.Series, values: pd.Series, name: str, colour: str, dash: str
) -> None:
    """The mean over samples at every layer or size, with its interval."""
    intervals = {x: mean_interval(group.to_numpy(float)) for x, group in values.groupby(at)}
    page.add_scatter(
        row=row,
        col=1,
        x=list(intervals),
        y=[mean for mean, _, _ in intervals.values()],
        error_y={
            "array": [mean - low for mean, low, _ in intervals.values()],
            "thickness": 1,
            "width": 2,
        },
        name=name,
        legend="legend" if row == 1 else f"legend{row}",
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        hovertemplate="%{x}: %{y:.3f}",
    )
