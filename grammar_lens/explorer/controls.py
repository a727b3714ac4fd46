"""The controls as callbacks read them, and their state in words."""

from dataclasses import dataclass
from typing import Any

from dash import Input, State

from grammar_lens.explorer.explored_run import ExploredRun
from grammar_lens.explorer.page import TOLD_VALUES
from grammar_lens.neurons.neurons import Neurons

SEEN = {name: Input(name, "data") for name in ("position", "score", "tag")}
SETTLING = ("text", "prompt", "k", "dose")
"""Text and slider controls, whose value counts once it has stopped changing."""
LESION = {
    **{name: Input(name, "data") for name in ("which", "value")},
    **{name: Input(name, "value") for name in ("chosen", "picked")},
    **{name: Input(f"{name}-settled", "data") for name in ("k", "dose")},
}
ADDRESS = {
    **{name: Input(name, "data") for name in SEEN},
    "neuron": Input("chosen", "value"),
    "k": Input("k", "value"),
    "which": Input("which", "data"),
    "picked": Input("picked", "value"),
    "value": Input("value", "data"),
    **{
        name: Input(name, "value")
        for name in ("dose", "text", "prompt", "tokens", "temperature", "seed")
    },
}
"""What the page's address holds: the fields of a View in their order."""
NOW = {
    **{name: State(name, "data") for name in (*SEEN, "which", "value")},
    **{name: State(name, "value") for name in ("chosen", "picked", "k", "dose")},
}


@dataclass(frozen=True)
class Cut:
    """A lesion as the controls say it, and in words."""

    neurons: Neurons
    value: str
    dose: float

    @property
    def ablation(self) -> dict[str, Any]:
        return {"value": self.value, "dose": self.dose}

    @property
    def description(self) -> str:
        n, name = len(self.neurons), self.neurons.name
        what = f"neuron {name}" if n == 1 and "." in name else f"{n} {name} neurons"
        at = "" if self.dose == 1 else f" at dose {self.dose:g}"
        return f"{what} set to {TOLD_VALUES[self.value]}{at}"


def cut_of(session: ExploredRun, controls: dict[str, Any]) -> Cut:
    """The lesion that the controls describe. Raises GrammarLensError where they name no neurons."""
    position, score = controls["position"], controls["score"]
    if controls["which"] == "first":
        neurons = session.first(position, score, controls["tag"], int(controls["k"]))
    else:
        text = controls[controls["which"]] or ""
        neurons = session.picked(position, score, text)
    return Cut(neurons, controls["value"], float(controls["dose"]))


def clicked(click: Any) -> str | None:
    """The neuron of a click on the heatmap, as layer.index; None where nothing was hit."""
    if not click or not click.get("points"):
        return None
    point = click["points"][0]
    index = point["x"]
    # a cell of several neurons has the strongest one's index with it
    if point["curveNumber"] == 0 and point.get("customdata") is not None:
        index = point["customdata"]
    return f"{round(point['y'])}.{round(index)}"
