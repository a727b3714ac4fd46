"""The parts of a figure; plotly gives their properties no types."""

import json
from typing import Any

import plotly.graph_objects as go


def traces_of(figure: go.Figure) -> tuple[Any, ...]:
    return tuple(figure["data"])


def traces_by_name(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in traces_of(figure)}


def layout_of(figure: go.Figure) -> Any:
    return figure["layout"]


def json_of(figure: go.Figure) -> dict[str, Any]:
    """The figure as a page has it."""
    return json.loads(str(figure.to_json()))
