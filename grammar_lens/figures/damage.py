"""Damage by lesions: the label-by-label matrix, and its null distributions."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from grammar_lens.dissociation.intervals import cell_intervals
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.verdicts import ENOUGH
from grammar_lens.errors import NotMeasuredError, require_one_of
from grammar_lens.figures.style import (
    ACCENT,
    CONTRAST,
    DIVERGING,
    GREY,
    INK,
    PALE,
    about,
    finish,
    half_width,
    label_rows,
    matrix,
    matrix_axes,
    number,
    plain,
)

CELLS = ("rise", "weakest", "interval")


def lesion_matrix(
    study: LesionStudy,
    *,
    corrected: bool = False,
    cells: str = "rise",
    words: pd.DataFrame | None = None,
) -> go.Figure:
    """Rise in tag loss (nats) of every label's words under every lesion.

    With `corrected`, minus the shams' mean. A full star marks crossed pairs that AUROC confirms, an
    open one those that may be a shift of bias; against damage-matched shams where the study has some. Colours are always the rise; `cells` says what is
    written in them: the "rise"; off the diagonal the "weakest" of the four differences that make a pair
    a double dissociation, which is what a star stands for; or the rise and its 95 % "interval",
    from `words`, the losses of a stored run (`run.lesions`).
    Raises GrammarLensError for unknown cells, and NotMeasuredError for intervals without words.
    """
    require_one_of("cells", cells, CELLS)
    rise = study.corrected if corrected else study.matrix
    names = [plain(x) for x in study.labels]
    stars = _stars(study)
    written = _written(study, rise, cells, words)
    text, hover = [], []
    for i, cut in enumerate(names):
        # the star stands behind the number, above an interval
        text.append(
            [
                "<br>".join([first + stars.get((i, j), ""), *rest])
                for j in range(len(names))
                for first, *rest in [written[i][j].split("<br>")]
            ]
        )
        hover.append(
            [
                f"{cut} neurons cut, {study.n_words[j]:,} words tagged {label}<br>"
                f"tag loss {study.matrix[i, j]:+.4f} nats, shams {study.sham_mean[i, j]:+.4f}"
                + (f"<br>{_STAR_MEANS[stars[i, j]]}" if (i, j) in stars else "")
                for j, label in enumerate(names)
            ]
        )
    limit = half_width(rise)
    figure = matrix(rise, names, text, hover, DIVERGING, (-limit, limit), "rise in tag loss (nats)")
    for i in range(len(names)):
        figure.add_shape(
            type="rect",
            x0=i - 0.5,
            x1=i + 0.5,
            y0=i - 0.5,
            y1=i + 0.5,
            line={"color": INK, "width": 1.5},
        )
    against = ", minus the shams' mean" if corrected else ""
    told = {
        "rise": "",
        "weakest": "; off the diagonal: weakest of the pair's four differences",
        "interval": "; with 95 % intervals over sentences",
    }
    shams = "; stars: against damage-matched shams" if stars and study.damage_matched else ""
    tall = 1.3 if cells == "interval" else 1.0
    finish(
        figure,
        f"What each lesion costs{against}",
        about(
            study.origin,
            f"{study.value} lesion of {study.k} neurons, {plain(study.fresh)}{told[cells]}{shams}",
        ),
        height=190 + round(tall * (30 if len(names) > 10 else 42) * max(len(names), 4)),
    )
    return matrix_axes(figure, "words tagged", "neurons cut of")


def _written(
    study: LesionStudy,
    rise: Float[np.ndarray, "label label"],
    cells: str,
    words: pd.DataFrame | None,
) -> list[list[str]]:
    """The text of every cell."""
    n = len(study.labels)
    shown = [[number(rise[i, j]) for j in range(n)] for i in range(n)]
    if cells == "weakest":
        weakest = study.weakest
        return [
            [shown[i][j] if i == j else number(weakest[i, j], plus=True) for j in range(n)]
            for i in range(n)
        ]
    if cells == "interval":
        ends = cell_intervals(study, words)
        return [
            [
                f"{shown[i][j]}<br>[{_short(ends[i, j, 0])}, {_short(ends[i, j, 1])}]"
                for j in range(n)
            ]
            for i in range(n)
        ]
    return shown


def _short(value: float) -> str:
    """A number without the 0 before its point."""
    text = number(value)
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


_CONFIRMED, _UNCONFIRMED = " ★", " ☆"
_STAR_MEANS = {
    _CONFIRMED: "crossed pair, confirmed by AUROC",
    _UNCONFIRMED: "crossed pair, possibly a bias shift",
}


def _stars(study: LesionStudy) -> dict[tuple[int, int], str]:
    """The cells of crossed pairs, both ways round."""
    stars = {}
    for pair in study.deciding.crossed_pairs:
        i, j = study.labels.index(pair.first), study.labels.index(pair.second)
        stars[i, j] = stars[j, i] = _CONFIRMED if pair.confirmed else _UNCONFIRMED
    return stars


def lesion_null(study: LesionStudy) -> go.Figure:
    """S* of every sham replicate, with that of the real lesions.

    Raises NotMeasuredError for a study without shams, and for one of two labels.
    """
    shams, p = study.s_star_sham, study.p_value
    if len(shams) == 0:
        raise NotMeasuredError(
            "this study has no shams, so S* has no null distribution: use shams=20"
        )
    _check_labels(study.labels, p)
    counts, edges = np.histogram(shams, bins=min(max(5, round(len(shams) ** 0.5) * 2), 40))
    figure = go.Figure()
    figure.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": PALE, "line": {"color": "#9aa4af", "width": 1}},
        name=f"{len(shams)} shams",
        customdata=np.stack([edges[:-1], edges[1:]], 1),
        hovertemplate="%{y} shams, S* %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=shams,
        y=np.full(len(shams), -0.04 * counts.max()),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 9, "color": GREY, "line": {"width": 1.5}},
        name="each sham",
        hovertemplate="sham: S* %{x:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=[study.s_star, study.s_star],
        y=[0, counts.max() * 1.08],
        mode="lines+text",
        text=["", f"<b>real {study.s_star:.2f}</b>"],
        textposition="top center",
        cliponaxis=False,
        textfont={"color": CONTRAST},
        line={"color": CONTRAST, "width": 3},
        name="real lesions",
        hovertemplate="real lesions: S* %{x:.3f}<extra></extra>",
    )
    finish(
        figure,
        f"Is the damage selective? p = {p:.3f}",
        about(study.origin, f"{len(shams)} matched shams, {plain(study.fresh)}"),
        height=360,
    )
    figure.update_xaxes(title_text="S*, scaled diagonal of the lesion matrix (no unit)")
    figure.update_yaxes(title_text="sham replicates", dtick=max(1, -(-int(counts.max()) // 6)))
    return figure.update_layout(
        showlegend=False,
        bargap=0,
        hovermode="closest",
        yaxis_range=[-0.1 * counts.max(), counts.max() * 1.25],
    )


def _check_labels(labels: tuple[str, ...], p: float | None) -> None:
    """Raises NotMeasuredError where S* is uninformative."""
    if p is None:
        raise NotMeasuredError(
            f"S* of {len(labels)} labels ({', '.join(labels)}) has no p-value, as it is 1 or -1 "
            "whatever the damage: study 3 labels or more"
        )


def damage_matched(study: LesionStudy) -> go.Figure:
    """S* of ordinary and of damage-matched shams with the real one, and how much damage they do.

    Below, each label's shams: their damage in all as a share of that of the real set, to compare
    with 1 (as much) and 0.9 (the least that counts as matched).
    Raises NotMeasuredError for a study without damage-matched shams, and for one of two labels.
    """
    matched = study.damage_matched
    if matched is None:
        raise NotMeasuredError(
            "this study has no damage-matched shams: use damage_matched=20 (--damage-matched 20)"
        )
    _check_labels(study.labels, matched.p_value)
    height = 340 + 24 * max(len(study.labels), 4)
    figure = make_subplots(rows=2, cols=1, vertical_spacing=150 / (height - 130))
    ordinary = (f"{study.n_shams} ordinary", study.s_star_sham, GREY)
    grown = (f"{matched.n_shams} damage-<br>matched", matched.s_star_sham, ACCENT)
    rows = [row for row in (ordinary, grown) if len(row[1])]
    for name, s_star, colour in rows:
        _add_ticks(figure, name, s_star, colour)
    figure.add_annotation(
        x=matched.s_star,
        y=1,
        xref="x",
        yref="y domain",
        yanchor="bottom",
        text=f"<b>real {number(matched.s_star)}</b>",
        font={"color": CONTRAST},
        showarrow=False,
    )
    figure.add_vline(x=matched.s_star, row=1, col=1, line={"color": CONTRAST, "width": 3})  # pyright: ignore[reportArgumentType]
    _add_damage(figure, study)
    figure.update_xaxes(row=1, col=1, title_text="S* (no unit)")
    figure.update_yaxes(
        row=1, col=1, range=[len(rows) - 0.5, -0.5], domain=[1 - 100 / (height - 130), 1]
    )
    figure.update_yaxes(row=2, col=1, domain=[0, 1 - 215 / (height - 130)])
    finish(
        figure,
        f"Selective, or only more damage? p = {matched.p_value:.3f}",
        about(
            study.origin,
            f"shams of {matched.size.mean():,.0f} neurons in the mean, {plain(study.fresh)}",
        ),
        height=height,
    )
    return figure.update_layout(
        hovermode="closest",
        legend={"orientation": "h", "y": 1 - 205 / (height - 130), "yanchor": "bottom", "x": 0},
    )


def _add_ticks(
    figure: go.Figure, name: str, s_star: Float[np.ndarray, " replicate"], colour: str
) -> None:
    """S* of every sham of one kind."""
    figure.add_scatter(
        row=1,
        col=1,
        x=s_star,
        y=[name] * len(s_star),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 18, "color": colour, "line": {"width": 1.5}},
        name=name.replace("<br>", ""),
        showlegend=False,
        hovertemplate="sham: S* %{x:.3f}<extra></extra>",
    )


def _add_damage(figure: go.Figure, study: LesionStudy) -> None:
    """Each label's shams: their damage as a share of the real set's."""
    matched, names = study.damage_matched, [plain(x) for x in study.labels]
    assert matched is not None
    kinds = (
        ("ordinary shams", study.damage_ratio, "circle-open", GREY),
        ("damage-matched shams", matched.damage_ratio, "circle", ACCENT),
    )
    for name, ratio, symbol, colour in kinds:
        if np.isnan(ratio).all():
            continue
        figure.add_scatter(
            row=2,
            col=1,
            x=ratio,
            y=names,
            mode="markers",
            marker={"symbol": symbol, "size": 9, "color": colour, "line": {"width": 2}},
            name=name,
            hovertemplate=f"{name}: %{{x:.2f}} of the damage<extra></extra>",
        )
    for x, dash in ((1.0, "solid"), (ENOUGH, "dot")):
        figure.add_vline(
            x=x,
            row=2,  # pyright: ignore[reportArgumentType]
            col=1,  # pyright: ignore[reportArgumentType]
            layer="below",
            line={"color": GREY, "width": 1.2, "dash": dash},
        )
    figure.update_xaxes(row=2, col=1, title_text="shams' damage / real damage (dotted: 0.9)")
    figure.update_yaxes(
        row=2,
        col=1,
        **label_rows(names),
        title_text="neurons cut of",
    )
