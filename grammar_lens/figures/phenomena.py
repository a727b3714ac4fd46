"""Lesions of phenomena and tags, measured on minimal pairs."""

import numpy as np
import plotly.graph_objects as go

from grammar_lens.errors import require_one_of
from grammar_lens.figures.style import (
    DIVERGING,
    INK,
    SEQUENTIAL,
    about,
    finish,
    half_width,
    label_rows,
    matrix,
    number,
    plain,
)
from grammar_lens.phenomena.result import PhenomenaStudy

CELLS = ("fall", "accuracy")


def phenomena_matrix(study: PhenomenaStudy, *, cells: str = "fall") -> go.Figure:
    """Fall of the log odds (nats) of every phenomenon's pairs under every lesion, or their accuracy.

    A row for each phenomenon's neurons, then one for each tag's. A star marks cells that pass .05 for
    the whole table against the shams. The accuracy of the intact model stands in a first row.
    Raises GrammarLensError for unknown cells.
    """
    require_one_of("cells", cells, CELLS)
    tables = [study.own] if study.tags is None else [study.own, study.tags]
    values = np.concatenate([t.fall if cells == "fall" else t.accuracy for t in tables])
    p = np.concatenate([t.p_family for t in tables])
    rows = [plain(name) for table in tables for name in table.lesions]
    fall, sham = (np.concatenate([getattr(t, x) for t in tables]) for x in ("fall", "sham_mean"))
    right = np.concatenate([t.accuracy for t in tables])
    intact = study.intact["accuracy"].to_numpy(float)
    columns = [plain(name) for name in study.phenomena]
    text = [
        [f"{number(x)}{'*' if p[i, j] <= 0.05 else ''}" for j, x in enumerate(row)]
        for i, row in enumerate(values)
    ]
    hover = [
        [
            f"{row} neurons cut, {study.n_pairs[j]:,} pairs of {column}<br>log odds fall by "
            f"{number(fall[i, j], 3)} nats, shams {number(sham[i, j], 3)}<br>right {number(right[i, j], 3)}, "
            f"intact {number(intact[j], 3)}"
            for j, column in enumerate(columns)
        ]
        for i, row in enumerate(rows)
    ]
    if cells == "accuracy":
        values, rows = np.concatenate([intact[None], values]), ["intact", *rows]
        text = [[number(x) for x in intact], *text]
        hover = [
            [f"intact, {c}: {number(x, 3)} right" for c, x in zip(columns, intact, strict=True)],
            *hover,
        ]
    limit = half_width(values)
    colours, limits, unit = (
        (DIVERGING, (-limit, limit), "fall of the log odds (nats)")
        if cells == "fall"
        else (SEQUENTIAL, (0.0, 1.0), "share of pairs right")
    )
    figure = matrix(values, rows, text, hover, colours, limits, unit)
    figure.update_traces(x=columns)
    first = int(cells == "accuracy")
    for i in range(len(columns)):
        x, y = (i - 0.5, i + 0.5), (i + first - 0.5, i + first + 0.5)
        figure.add_shape(
            type="rect", x0=x[0], x1=x[1], y0=y[0], y1=y[1], line={"color": INK, "width": 1.5}
        )
    what = f"{study.ablation} lesion of {study.k} neurons, {study.own.n_shams} shams"
    finish(
        figure,
        "What each lesion costs the preference for good sentences",
        about(study.origin, what),
        height=260 + round(30 * max(len(rows), 4)),
    )
    figure.update_xaxes(
        title_text="pairs of", type="category", showgrid=False, tickangle=-45, categoryarray=columns
    )
    return figure.update_yaxes(**label_rows(rows), title_text="neurons cut of", showgrid=False)
