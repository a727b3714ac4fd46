"""Number agreement, intact and under lesions."""

import numpy as np
import plotly.graph_objects as go

from grammar_lens.agreement.lesioning import AgreementStudy
from grammar_lens.figures.style import SEQUENTIAL, STYLE, plain


def agreement(study: AgreementStudy, model: str) -> go.Figure:
    """Accuracy of every paradigm, intact and under each lesion; change of the log odds on hover."""
    accuracy = np.vstack([study.intact.by_paradigm(study.intact.right), study.accuracy])
    change = np.vstack([np.zeros(len(study.paradigms)), study.change])
    page = go.Figure(
        go.Heatmap(
            z=accuracy,
            x=[plain(name.replace("_", " ")) for name in study.paradigms],
            y=["intact", *(f"no {plain(label)}" for label in study.labels)],
            colorscale=list(SEQUENTIAL),
            zmin=0.5,
            zmax=1,
            customdata=change,
            texttemplate="%{z:.2f}",
            hovertemplate="%{y}, %{x}: %{z:.3f} right, log odds %{customdata:+.2f} nats<extra></extra>",
        )
    )
    page.update_yaxes(autorange="reversed")
    return page.update_layout(
        template=STYLE,
        height=520,
        title=f"{plain(model)}: number agreement, share of pairs right, intact and with a tag's neurons cut",
    )
