"""The traces of a figure; plotly gives their properties no types."""

from typing import Any

import plotly.graph_objects as go


def traces_of(figure: go.Figure) -> tuple[Any, ...]:
    return tuple(figure["data"])
