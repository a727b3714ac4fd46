"""The loss of whole words under a lesion: the tag part and the lexical part."""

import numpy as np
import plotly.graph_objects as go

from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.figures.style import ACCENT, INK, SHAMS, about, finish, label_rows, plain

LEXICAL = "#f0a35e"


def loss_split(study: LesionStudy) -> go.Figure:
    """Rise in the loss (nats) of each label's own words under its lesion, in its two parts.

    The tag part says how much worse the label is predicted, the lexical part how much worse the word
    is among those of its label; diamonds are their sum, ticks the shams' mean of the tag part.
    """
    names = [plain(x) for x in study.labels]
    tag, whole = np.diag(study.matrix), np.diag(study.nll_matrix)
    figure = go.Figure()
    for name, part, colour, pattern in (
        ("which tag comes", tag, ACCENT, ""),
        ("which word of the tag", whole - tag, LEXICAL, "/"),
    ):
        figure.add_bar(
            orientation="h",
            x=part,
            y=names,
            customdata=study.n_words,
            marker={
                "color": colour,
                "line": {"color": INK, "width": 0.6},
                "pattern": {
                    "shape": pattern,
                    "fillmode": "overlay",
                    "fgcolor": INK,
                    "size": 6,
                    "solidity": 0.15,
                },
            },
            name=name,
            hovertemplate=f"{name}: %{{x:+.4f}} nats (%{{customdata:,}} words)<extra></extra>",
        )
    if study.n_shams:
        figure.add_scatter(
            x=np.diag(study.sham_mean),
            y=names,
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 20, "color": INK, "line": {"width": 2.4}},
            name="shams: which tag comes (mean)",
            hovertemplate="shams, which tag comes: %{x:+.4f} nats<extra></extra>",
        )
    figure.add_scatter(
        x=whole,
        y=names,
        mode="markers",
        marker={
            "symbol": "diamond",
            "size": 9,
            "color": "white",
            "line": {"color": INK, "width": 1.8},
        },
        name="the whole word (sum)",
        hovertemplate="the whole word: %{x:+.4f} nats<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": SHAMS, "width": 1.2})
    finish(
        figure,
        "What is lost: the tag, or the word?",
        about(
            study.origin,
            f"{study.k} neurons cut ({study.ablation}), {plain(study.fresh)}; the split is exact",
        ),
        height=230 + 26 * max(len(names), 4),
    )
    figure.update_xaxes(title_text="rise in the loss of the tag's own words (nats; 0: intact)")
    figure.update_yaxes(
        title_text="neurons cut of",
        **label_rows(names),
        showgrid=False,
    )
    return figure.update_layout(
        barmode="relative",
        bargap=0.35,
        hovermode="closest",
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 124},
    )
