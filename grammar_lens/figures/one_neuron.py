"""One neuron: its scores for every label, and its activations over their words."""

import numpy as np
import plotly.graph_objects as go

from grammar_lens.errors import GrammarLensError, require_neuron
from grammar_lens.figures.style import (
    ACCENT,
    CONTRAST,
    GREY,
    INK,
    SHAMS,
    about,
    finish,
    label_rows,
    plain,
    score_name,
    unit_name,
)
from grammar_lens.neurons.examples import QUANTILES, NeuronExamples
from grammar_lens.neurons.word_activations import WordActivations
from grammar_lens.selectivity.result import Scores


def neuron_scores(scores: Scores, neuron: tuple[int, int]) -> go.Figure:
    """The score of the neuron (layer, index) for every label, and its rank among all.

    Where the scores have a null, marks and bars show mean and 1.96 standard deviations of the
    replicates on either side. A label without a score has no bar.
    Raises GrammarLensError for an address that does not exist.
    """
    layer, index = neuron
    n_layers, n_units = scores.values.shape[1:]
    require_neuron(layer, index, n_layers, n_units, model=scores.origin.model)
    values = scores.values[:, layer, index].astype(float)
    names, name = [plain(x) for x in scores.labels], score_name(scores.method)
    strength = scores.strength().reshape(len(names), -1)
    rank = 1 + (strength > strength[:, [layer * n_units + index]]).sum(1)
    figure = go.Figure(
        go.Bar(
            orientation="h",
            x=values - scores.neutral,
            base=scores.neutral,
            y=names,
            customdata=np.stack([values, rank, scores.effect[:, layer, index]], 1),
            marker={"color": ACCENT},
            name="true labels",
            hovertemplate=(
                f"%{{y}}: {name} %{{customdata[0]:+.3f}}<br>no. %{{customdata[1]:,}} of "
                f"{strength.shape[1]:,}, Cohen's d %{{customdata[2]:+.2f}}<extra></extra>"
            ),
        )
    )
    null = scores.null
    if null is not None:
        _add_chance(figure, null.mean[:, layer, index], null.sd[:, layer, index], null.labels)
    figure.add_vline(x=scores.neutral, line={"color": SHAMS, "width": 1.2})
    beside = "" if null is None else f"; {null.n_replicates} exchanges of labels"
    finish(
        figure,
        f"{unit_name(scores.origin.site).capitalize()} {layer}.{index}: {name}",
        about(scores.origin, f"read at “{scores.origin.position}”{beside}"),
        height=_height(len(names), 190 if null is None else 220),
    )
    figure.update_xaxes(title_text=name)
    return _by_label(figure, names)


def _add_chance(
    figure: go.Figure, mean: np.ndarray, sd: np.ndarray, labels: tuple[str, ...]
) -> None:
    """Add the range of scores with exchanged labels at one neuron."""
    figure.add_scatter(
        x=mean,
        y=[plain(x) for x in labels],
        error_x={"array": 1.96 * sd, "color": CONTRAST, "thickness": 1.8, "width": 4},
        customdata=1.96 * sd,
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 9, "color": CONTRAST, "line": {"width": 2}},
        name="exchanged labels (mean ± 1.96 sd)",
        hovertemplate="exchanged labels: %{x:+.3f} ± %{customdata:.3f}<extra></extra>",
    )


def activations_by_label(examples: NeuronExamples) -> go.Figure:
    """Box plots of one neuron's activation over the words of each label, highest median first.

    A box spans the middle half of the words with the median, its whiskers 90 % of them; dots are
    the lowest and the highest word. Labels without words have no row.
    Raises GrammarLensError where no label has any.
    """
    drawn = np.flatnonzero((examples.count > 0) & np.isfinite(examples.quantiles).all(1))
    if not len(drawn):
        raise GrammarLensError(
            f"no words of neuron {examples.layer}.{examples.index} were read: there is nothing to draw"
        )
    at = {q: examples.quantiles[:, i] for i, q in enumerate(QUANTILES)}
    order = drawn[np.argsort(-at[0.5][drawn], kind="stable")]
    names = [plain(examples.labels[i]) for i in order]
    low, left, first, median, third, right, high = (at[q][order] for q in QUANTILES)
    figure = go.Figure(
        go.Box(
            orientation="h",
            y=names,
            q1=first,
            median=median,
            q3=third,
            lowerfence=left,
            upperfence=right,
            fillcolor="#b9d3e8",
            line={"color": ACCENT, "width": 1.6},
            name="words",
            hoverinfo="skip",
        )
    )
    figure.add_scatter(
        x=np.concatenate([low, high]),
        y=names * 2,
        mode="markers",
        marker={"symbol": "circle-open", "size": 5, "color": GREY, "line": {"width": 1.4}},
        name="lowest and highest word",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=median,
        y=names,
        customdata=np.stack([examples.count[order], first, third, left, right, low, high], 1),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 14, "color": INK, "line": {"width": 2.6}},
        name="median",
        hovertemplate=(
            "<b>%{y}</b>, %{customdata[0]:,.0f} words: median %{x:.3f}<br>"
            "half of them %{customdata[1]:.3f} to %{customdata[2]:.3f}<br>"
            "90 % %{customdata[3]:.3f} to %{customdata[4]:.3f}<br>"
            "all %{customdata[5]:.3f} to %{customdata[6]:.3f}<extra></extra>"
        ),
    )
    finish(
        figure,
        f"When {called(examples)} is active",
        about(
            examples.origin, f"{examples.count.sum():,} words, read at “{examples.origin.position}”"
        ),
        height=_height(len(names), 190),
    )
    figure.add_vline(x=0, line={"color": SHAMS, "width": 1.2}, layer="below")
    figure.update_xaxes(title_text="activation (box: half of the words; whiskers: 90 %)")
    return _by_label(figure, names).update_layout(hovermode="y", showlegend=False)


def _height(n_labels: int, room: int) -> int:
    return room + 24 * max(n_labels, 4)


def _by_label(figure: go.Figure, names: list[str]) -> go.Figure:
    """A row for every label, the first on top, a legend below."""
    figure.update_yaxes(
        title_text="words of",
        **label_rows(names),
        showgrid=False,
    )
    return figure.update_layout(
        hovermode="closest",
        bargap=0.3,
        legend={"orientation": "h", "y": -0.02, "yref": "container", "yanchor": "bottom", "x": 0},
    )


def called(examples: NeuronExamples | WordActivations) -> str:
    """The name of the neuron in figures."""
    return f"{unit_name(examples.origin.site)} {examples.layer}.{examples.index}"
