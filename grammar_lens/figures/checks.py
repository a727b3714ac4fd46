"""Figures of the checks of a lesion study: bias, sufficiency, calibration, redundancy."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from grammar_lens.dissociation.calibration import Calibration
from grammar_lens.dissociation.redundancy import Redundancy
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import NotMeasuredError
from grammar_lens.figures.style import (
    ACCENT,
    CONTRAST,
    GREY,
    INK,
    PALE,
    SHAMS,
    about,
    finish,
    label_rows,
    line_style,
    plain,
)


def bias_and_auroc(study: LesionStudy) -> go.Figure:
    """Effect of each lesion on P(tag): the fall in AUROC, and the shift at words of other labels.

    Filled: the lesion's own tag; open: the mean of the other tags, with a bar over their range. A
    rise in loss with a shift of P(tag) but no fall in AUROC is a bias, not a loss of knowledge.
    """
    names = [plain(x) for x in study.labels]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    panels = (
        (study.auroc_fall, "fall in AUROC", "%{x:+.4f}"),
        (study.bias, "shift of P(tag) at<br>other tags' words", "%{x:+.4f}"),
    )
    for column, (values, title, shown) in enumerate(panels, 1):
        own, (mean, low, high) = np.diag(values), _others(values)
        _add_range(figure, names, mean, low, high, column, shown)
        figure.add_scatter(
            row=1,
            col=column,
            x=own,
            y=names,
            mode="markers",
            marker={"size": 10, "color": ACCENT},
            name="the lesion's own tag",
            legendgroup="own",
            showlegend=column == 1,
            hovertemplate=f"own tag: {shown}<extra></extra>",
        )
        figure.update_xaxes(row=1, col=column, title_text=title, nticks=4, tickangle=0)
    figure.add_vline(x=0, line={"color": SHAMS, "width": 1.2}, layer="below")
    finish(
        figure,
        "Knowledge lost, or a shift of bias?",
        about(study.origin, f"{study.k} neurons cut ({study.ablation}), {plain(study.fresh)}"),
        height=250 + 24 * max(len(names), 4),
    )
    return _by_label(figure, names, "neurons cut of")


def _others(values: Float[np.ndarray, "label label"]) -> Float[np.ndarray, "three label"]:
    """Mean, lowest and highest of each row without its own label; NaN for a single label."""
    rest = [np.delete(row, i) for i, row in enumerate(values)]
    return np.array([[f(x) if len(x) else np.nan for x in rest] for f in (np.mean, np.min, np.max)])


def _add_range(
    figure: go.Figure,
    names: list[str],
    mean: Float[np.ndarray, " label"],
    low: Float[np.ndarray, " label"],
    high: Float[np.ndarray, " label"],
    column: int,
    shown: str,
) -> None:
    figure.add_scatter(
        row=1,
        col=column,
        x=mean,
        y=names,
        error_x={
            "array": high - mean,
            "arrayminus": mean - low,
            "color": SHAMS,
            "thickness": 1.4,
            "width": 4,
        },
        customdata=np.stack([low, high], 1),
        mode="markers",
        marker={"symbol": "circle-open", "size": 8, "color": SHAMS, "line": {"width": 2}},
        name="other tags (mean; bar: range)",
        legendgroup="others",
        showlegend=column == 1,
        hovertemplate=(
            f"other tags: mean {shown}, %{{customdata[0]:+.4f}} to %{{customdata[1]:+.4f}}"
            "<extra></extra>"
        ),
    )


def _by_label(figure: go.Figure, names: list[str], title: str) -> go.Figure:
    """A row for every label, the legend above."""
    figure.update_yaxes(
        **label_rows(names),
    )
    figure.update_yaxes(col=1, title_text=title)
    return figure.update_layout(
        hovermode="closest",
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 124},
    )


def sufficiency(study: LesionStudy) -> go.Figure:
    """Rise in each label's tag loss (nats) when all neurons are cut but its own set.

    Beside it: when a sham of the set is kept instead (mean and range), and when all are cut.
    Raises NotMeasuredError for a study without such lesions.
    """
    rest = study.sufficiency
    if rest is None:
        raise NotMeasuredError(
            "this study has no lesions of everything but a set: use sufficiency=True "
            "(--sufficiency)"
        )
    names = [plain(x) for x in rest.labels]
    figure = make_subplots(rows=1, cols=1)
    if np.isfinite(rest.everything).any():
        figure.add_scatter(
            x=rest.everything,
            y=names,
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 14, "color": INK, "line": {"width": 2.5}},
            name="all cut",
            hovertemplate="every neuron cut: %{x:+.3f} nats<extra></extra>",
        )
    if rest.n_shams:
        own = rest.sham_own
        figure.add_scatter(
            x=own.mean(0),
            y=names,
            error_x={
                "array": own.max(0) - own.mean(0),
                "arrayminus": own.mean(0) - own.min(0),
                "color": SHAMS,
                "thickness": 1.4,
                "width": 4,
            },
            mode="markers",
            marker={"symbol": "circle-open", "size": 9, "color": SHAMS, "line": {"width": 2}},
            name="a sham kept (mean; bar: range)",
            hovertemplate="a sham kept: mean %{x:+.3f} nats<extra></extra>",
        )
    figure.add_scatter(
        x=rest.own,
        y=names,
        mode="markers",
        marker={"size": 10, "color": ACCENT},
        name="its own set kept",
        hovertemplate="its own set kept: %{x:+.3f} nats<extra></extra>",
    )
    p = "" if rest.p_value is None else f" p = {rest.p_value:.3f}"
    against = f"{rest.n_shams} shams kept instead" if rest.n_shams else "no shams to compare with"
    figure.add_vline(x=0, line={"color": SHAMS, "width": 1.2}, layer="below")
    finish(
        figure,
        f"Does a tag's own set suffice?{p}",
        about(study.origin, f"all neurons cut but {study.k}, {plain(study.fresh)}; {against}"),
        height=220 + 24 * max(len(names), 4),
    )
    figure.update_xaxes(title_text="rise in the tag's own tag loss (nats; 0: intact)")
    return _by_label(figure, names, "neurons kept of")


def calibration(result: Calibration) -> go.Figure:
    """Attributions against the true effects of single neurons, label by label.

    Left, the rank correlation over neurons drawn at random, with its bootstrap interval, to compare
    with 0; right, the share of the largest effects among the largest attributions, to compare with
    chance. Labels whose predictions do not vary have no point.
    """
    names = [plain(x) for x in result.labels]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    figure.add_scatter(
        row=1,
        col=1,
        x=result.correlation,
        y=names,
        error_x={
            "array": result.high - result.correlation,
            "arrayminus": result.correlation - result.low,
            "color": ACCENT,
            "thickness": 1.4,
            "width": 4,
        },
        customdata=np.stack([result.low, result.high, result.slope], 1),
        mode="markers",
        marker={"size": 9, "color": ACCENT},
        name="rank correlation (bar: 95 % interval)",
        hovertemplate=(
            "%{x:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f}), slope "
            "%{customdata[2]:.3g}<extra></extra>"
        ),
    )
    figure.add_scatter(
        row=1,
        col=2,
        x=result.recall,
        y=names,
        mode="markers",
        marker={"size": 9, "symbol": "diamond", "color": CONTRAST},
        name=f"recall of the {result.k} largest effects",
        hovertemplate=f"%{{x:.3f}}, by chance {result.chance:.3f}<extra></extra>",
    )
    figure.add_vline(x=0, row=1, col=1, line={"color": SHAMS, "width": 1.2}, layer="below")  # pyright: ignore[reportArgumentType]
    figure.add_vline(
        x=result.chance,
        row=1,  # pyright: ignore[reportArgumentType]
        col=2,  # pyright: ignore[reportArgumentType]
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        annotation={"text": "chance", "font": {"color": GREY}, "yanchor": "bottom"},
        layer="below",
    )
    finish(
        figure,
        "Do attributions predict what a lesion does?",
        f"{result.n_random} neurons drawn at random, cut one at a time",
        height=230 + 24 * max(len(names), 4),
    )
    figure.update_xaxes(row=1, col=1, title_text="Spearman's rho (0: no relation)")
    figure.update_xaxes(row=1, col=2, title_text="share found (0 to 1)", range=[-0.03, 1.03])
    # above the panels stands what chance would find
    return _by_label(figure, names, "tag loss of").update_layout(
        legend={"y": -0.02, "yref": "container"}, margin={"t": 90}
    )


def redundancy(result: Redundancy) -> go.Figure:
    """Own tag loss (nats) after each round of cutting and finding neurons again, a line per label.

    Compare the damage of later rounds with that of the first; the thick line is the mean.
    """
    sizes = [r.k for r in result.rounds]
    again = np.stack([r.found_again for r in result.rounds])
    figure = go.Figure()
    for i, label in enumerate(result.labels):
        hover = [
            f"adds {gain:+.4f}" + ("" if np.isnan(part) else f", {part:.0%} stood next before")
            for gain, part in zip(result.gain[:, i], again[:, i], strict=True)
        ]
        figure.add_scatter(
            x=[0, *sizes],
            y=[0.0, *result.own[:, i]],
            text=["intact", *hover],
            **line_style(i),
            name=plain(label),
            hovertemplate="%{x:,} neurons cut: %{y:+.4f} nats, %{text}",
        )
    figure.add_scatter(
        x=[0, *sizes],
        y=[0.0, *result.own.mean(1)],
        mode="lines+markers",
        line={"color": INK, "width": 4},
        name="<b>mean</b>",
        hovertemplate="%{x:,} neurons cut: mean %{y:+.4f} nats<extra></extra>",
    )
    finish(
        figure,
        "Do other neurons take over? Cut, find again, cut more",
        f"{len(result.rounds)} rounds; a steep later step says that others had taken over",
        height=420,
    )
    figure.update_xaxes(title_text="neurons of the tag cut so far", rangemode="tozero")
    figure.update_yaxes(
        title_text="rise in the tag's own tag loss<br>(nats; 0: intact)",
        zeroline=True,
        zerolinecolor=PALE,
    )
    return figure.update_layout(hovermode="closest", legend={"y": 1, "yanchor": "top"})
