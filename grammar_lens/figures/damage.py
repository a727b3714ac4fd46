"""What lesions cost: the label by label matrix, and its null."""

import numpy as np
import plotly.graph_objects as go

from grammar_lens.dissociation import LesionStudy
from grammar_lens.figures.style import (
    CONTRAST,
    DIVERGING,
    GREY,
    INK,
    PALE,
    FigureError,
    about,
    finish,
    half_width,
    matrix,
    matrix_axes,
    number,
    plain,
)


def lesion_matrix(study: LesionStudy, *, corrected: bool = False) -> go.Figure:
    """Rise in tag loss (nats) of every label's words under every lesion.

    With `corrected`, minus the shams' mean. A full star marks crossed pairs that AUROC confirms, an
    open one those that may be a shift of bias.
    """
    rise = study.corrected if corrected else study.matrix
    names = [plain(x) for x in study.labels]
    stars = _stars(study)
    text, hover = [], []
    for i, cut in enumerate(names):
        text.append([number(rise[i, j]) + stars.get((i, j), "") for j in range(len(names))])
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
    finish(
        figure,
        f"What each lesion costs{against}",
        about(study.origin, f"{study.value} lesion of {study.k} neurons, {plain(study.fresh)}"),
        height=190 + (30 if len(names) > 10 else 42) * max(len(names), 4),
    )
    return matrix_axes(figure, "words tagged", "neurons cut of")


_CONFIRMED, _UNCONFIRMED = " ★", " ☆"
_STAR_MEANS = {
    _CONFIRMED: "crossed pair, confirmed by AUROC",
    _UNCONFIRMED: "crossed pair, possibly a bias shift",
}


def _stars(study: LesionStudy) -> dict[tuple[int, int], str]:
    """The cells of crossed pairs, both ways round."""
    stars = {}
    for pair in study.crossed_pairs:
        i, j = study.labels.index(pair.first), study.labels.index(pair.second)
        stars[i, j] = stars[j, i] = _CONFIRMED if pair.confirmed else _UNCONFIRMED
    return stars


def lesion_null(study: LesionStudy) -> go.Figure:
    """S* of every sham replicate, with that of the real lesions.

    Raises FigureError for a study without shams.
    """
    shams = study.s_star_sham
    if len(shams) == 0:
        raise FigureError("this study has no shams, so S* has no null distribution: use shams=20")
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
    p = study.p_value
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
