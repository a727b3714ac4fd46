"""The same lesion in other ablations: other doses and other values."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots

from grammar_lens.dissociation.dose_response import DoseResponse
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError, NotMeasuredError
from grammar_lens.figures.style import (
    ACCENT,
    COLOURS,
    CONTRAST,
    GREY,
    PALE,
    SHAMS,
    SYMBOLS,
    about,
    finish,
    legend_height,
    line_style,
    plain,
)
from grammar_lens.lesions.outcomes import Ablation


def dose_response(study: LesionStudy, label: str | None = None) -> go.Figure:
    """Rise in tag loss (nats) against the dose: of the label's own words, and of other labels'.

    All labels have a panel for each of the two, on the same scale; a single `label` has both lines
    in one. Bands span the shams' own losses from the lowest to the highest. Doses below 0 and above
    1 are shaded: they are outside the trend test.
    Raises NotMeasuredError for a study of one dose, and GrammarLensError for a label that was not studied.
    """
    response = study.doses
    if response is None:
        raise NotMeasuredError(
            f"this study has lesions of dose {study.dose:g} alone: measure several doses "
            "(lesion_study(..., others=[Ablation(dose=0.25), ...]), or --doses 1,0.25,0.5,0.75)"
        )
    if label is not None and label not in response.labels:
        raise GrammarLensError(f"no doses of {label!r}: there are {', '.join(response.labels)}")
    figure = _all_labels(response) if label is None else _one_label(response, label)
    ablation = str(Ablation(response.value, 1.0, response.where)).replace(", dose 1", "")
    shams = f"; bands: {response.n_shams} shams" if response.n_shams else ""
    finish(
        figure,
        f"The dose of the lesion and the loss{'' if label is None else f': {plain(label)}'}",
        about(study.origin, f"{ablation} lesion of {study.k} neurons, {plain(study.fresh)}{shams}"),
        height=legend_height(len(response.labels), 640) if label is None else 420,
    )
    _shade_outside(figure, response)
    step = np.diff(response.dose).max()
    figure.update_xaxes(range=[response.dose[0] - 0.06 * step, response.dose[-1] + 0.06 * step])
    return figure.update_layout(
        hovermode="closest", legend={"y": 1, "yanchor": "top", "tracegroupgap": 0}
    )


def _all_labels(response: DoseResponse) -> go.Figure:
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for i, label in enumerate(response.labels):
        colour = COLOURS[i % len(COLOURS)]
        _add_band(figure, response, i, colour, row=1)
        style = {
            **line_style(i),
            "name": plain(label),
            "legendgroup": str(i),
        }
        _add_own(figure, response, i, style, row=1)
        _add_others(figure, response, i, {**style, "showlegend": False}, row=2)
    figure.update_yaxes(
        row=1, col=1, title_text="rise in tag loss (nats)<br>of the tag's own words"
    )
    figure.update_yaxes(row=2, col=1, title_text="of other tags' words<br>(mean over tags)")
    # one scale for both; plotly finds no range of axes that match under shaded spans
    drawn = np.concatenate([response.own, response.other, response.sham_low, response.sham_high])
    low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
    room = 0.06 * (high - low) or 1.0
    figure.update_yaxes(zeroline=True, zerolinecolor=SHAMS, range=[low - room, high + room])
    figure.update_xaxes(row=2, col=1, title_text="dose (0: intact, 1: the full lesion)")
    return figure


def _one_label(response: DoseResponse, label: str) -> go.Figure:
    figure = make_subplots(rows=1, cols=1)
    i = response.labels.index(label)
    _add_band(figure, response, i, SHAMS, row=1)
    if np.isfinite(response.sham_own[i]).sum() > 1:
        figure.add_scatter(
            x=response.dose,
            y=response.sham_own[i],
            mode="lines+markers",
            connectgaps=False,
            marker={"size": 5, "color": GREY},
            line={"color": GREY, "width": 1.5, "dash": "dash"},
            name="shams: own words, mean",
            hovertemplate="dose %{x:g}, shams: %{y:+.4f} nats<extra></extra>",
        )
    other = {
        "mode": "lines+markers",
        "marker": {"size": 6, "symbol": "diamond"},
        "line": {"color": CONTRAST, "width": 2, "dash": "dot"},
        "name": "other tags' words",
    }
    _add_others(figure, response, i, other, row=1)
    own = {
        "mode": "lines+markers",
        "marker": {"size": 8},
        "line": {"color": ACCENT, "width": 3},
        "name": f"words tagged {plain(label)}",
    }
    _add_own(figure, response, i, own, row=1)
    figure.update_yaxes(
        title_text="rise in tag loss (nats)", zeroline=True, zerolinecolor=SHAMS
    ).update_xaxes(title_text="dose (0: intact, 1: the full lesion)")
    return figure


def _add_own(figure: go.Figure, response: DoseResponse, i: int, style: dict, *, row: int) -> None:
    shams = np.stack([response.sham_own[i], response.sham_low[i], response.sham_high[i]], 1)
    hover = [
        "" if np.isnan(mean) else f"<br>shams {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        for mean, low, high in shams
    ]
    figure.add_scatter(
        row=row,
        col=1,
        x=response.dose,
        y=response.own[i],
        text=hover,
        hovertemplate="dose %{x:g}: %{y:+.4f} nats%{text}",
        **style,
    )


def _add_others(
    figure: go.Figure, response: DoseResponse, i: int, style: dict, *, row: int
) -> None:
    figure.add_scatter(
        row=row,
        col=1,
        x=response.dose,
        y=response.other[i],
        hovertemplate="dose %{x:g}, other tags: %{y:+.4f} nats",
        **style,
    )


def _add_band(figure: go.Figure, response: DoseResponse, i: int, colour: str, *, row: int) -> None:
    """The shams from the lowest to the highest; a dose between others without shams has a bar."""
    x: list[float | None] = []
    y: list[float | None] = []
    for run in _runs(np.isfinite(response.sham_low[i])):
        dose = response.dose[run]
        x += [*dose, *dose[::-1], None]
        y += [*response.sham_low[i, run], *response.sham_high[i, run][::-1], None]
    if response.n_shams == 0 or not x:
        return
    figure.add_scatter(
        row=row,
        col=1,
        x=x[:-1],
        y=y[:-1],
        fill="toself",
        fillcolor=colour,
        opacity=0.3,
        line={"width": 1.5, "color": colour},
        mode="lines",
        hoverinfo="skip",
        legendgroup=str(i),
        showlegend=False,
        name=f"{plain(response.labels[i])}, shams",
    )


def _runs(known: Bool[np.ndarray, " dose"]) -> list[np.ndarray]:
    """The numbers of the doses that are known, in runs without a gap."""
    at = np.flatnonzero(known)
    return [run for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(run)]


def _shade_outside(figure: go.Figure, response: DoseResponse) -> None:
    """Marks the doses that enter no test."""
    step = float(np.diff(response.dose).max())
    low, high = float(response.dose[0]), float(response.dose[-1])
    for x0, x1 in ((low - 0.06 * step, 0.0), (1.0, high + 0.06 * step)):
        if (x0 < 0 and low < 0) or (x1 > 1 and high > 1):
            figure.add_vrect(
                x0=x0,
                x1=x1,
                layer="below",
                line_width=0,
                fillcolor=PALE,
                opacity=0.5,
            )
            figure.add_annotation(
                x=(x0 + x1) / 2,
                y=0,
                yref="paper",
                yanchor="bottom",
                text="outside<br>the test",
                showarrow=False,
                font={"color": GREY, "size": 11},
            )


def value_ladder(study: LesionStudy) -> go.Figure:
    """Rise in each label's own tag loss (nats) under every value of the lesion.

    A line joins the values of a label: grey where they agree in sign, red where they do not.
    Small ticks are the shams' means.
    Raises NotMeasuredError for a study of one value.
    """
    rungs = study.ladder
    if len(rungs) < 2:
        raise NotMeasuredError(
            f"this study has lesions of the value {study.value!r} alone: measure others "
            "(lesion_study(..., others=[Ablation('zero'), Ablation('resample')]), or --values mean,zero,resample)"
        )
    own = np.stack([np.diag(rung.matrix) for rung in rungs])
    agree, names = np.array(study.sign_agreement), [plain(x) for x in study.labels]
    figure = go.Figure()
    for agrees, colour, legend in (
        (True, PALE, "same sign"),
        (False, "#e9a58b", "signs differ"),
    ):
        _add_spans(
            figure, own[:, agree == agrees], np.array(names)[agree == agrees], colour, legend
        )
    for n, rung in enumerate(rungs):
        _add_rung(figure, rung, names, n)
    figure.add_vline(x=0, line={"color": SHAMS, "width": 1.2}, layer="below")
    finish(
        figure,
        f"Do the values of the lesion agree? {agree.sum()} of {len(agree)} tags",
        about(study.origin, f"dose {study.dose:g}, {study.k} neurons, {plain(study.fresh)}"),
        height=210 + 24 * max(len(names), 4),
    )
    figure.update_xaxes(title_text="rise in the tag's own tag loss (nats; 0: intact)")
    figure.update_yaxes(
        type="category",
        autorange="reversed",
        showgrid=False,
        title_text="neurons cut of",
        categoryorder="array",
        categoryarray=names,
        dtick=1,
    )
    return figure.update_layout(
        hovermode="closest",
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 124},
    )


def _add_spans(
    figure: go.Figure,
    own: Float[np.ndarray, "value label"],
    names: np.ndarray,
    colour: str,
    legend: str,
) -> None:
    """A line from the lowest to the highest value of each label."""
    if not own.shape[1]:
        return
    x = [e for low, high in zip(own.min(0), own.max(0), strict=True) for e in (low, high, None)]
    y = [e for name in names.tolist() for e in (name, name, None)]
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": colour, "width": 5}, name=legend, hoverinfo="skip"
    )


def _add_rung(figure: go.Figure, rung: LesionStudy, names: list[str], n: int) -> None:
    """One value: the real lesions, and the shams' mean as small ticks."""
    colour = COLOURS[n % len(COLOURS)]
    if rung.n_shams:
        figure.add_scatter(
            x=np.diag(rung.sham_mean),
            y=names,
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 9, "color": colour, "line": {"width": 2}},
            legendgroup=rung.value,
            name=f"{rung.value}, shams' mean",
            hovertemplate=f"{rung.value}, mean of {rung.n_shams} shams: %{{x:+.4f}} nats<extra></extra>",
        )
    figure.add_scatter(
        x=np.diag(rung.matrix),
        y=names,
        mode="markers",
        marker={"symbol": SYMBOLS[n % len(SYMBOLS)], "size": 10, "color": colour},
        legendgroup=rung.value,
        name=rung.value.replace("_", " "),
        hovertemplate=f"{rung.value}: %{{x:+.4f}} nats<extra></extra>",
    )
