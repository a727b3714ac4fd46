"""The page layout: controls and views, still without results."""

from typing import Any

from dash import dcc, html

from grammar_lens.explorer.explored_run import MOST_TOKENS, VALUES, ExploredRun
from grammar_lens.explorer.pieces import GRAPH, aria, data
from grammar_lens.figures.style import score_name

POSITIONS = {"word": "at the word", "next": "before the word"}
TOLD_VALUES = {"mean": "the mean", "zero": "zero"}
WHICH = {"first": "first k", "chosen": "the one chosen", "picked": "picked"}
PROMPT = "The old man"
Number = float | int
LONGEST = 20_000
"""Characters of a prompt."""


def layout(session: ExploredRun) -> html.Div:
    """Everything on the page."""
    return html.Div(
        [
            html.A("Skip to the views", href="#where", className="skip"),
            _header(session),
            html.Div([_controls(session), _views()], className="columns"),
            dcc.Store(id="ready", data=False),
            dcc.Interval(id="clock", interval=700, disabled=session.is_settled),
        ]
    )


def _header(session: ExploredRun) -> html.Header:
    model = session.run.record.get("model", {}).get("name", session.config.model)
    views = (("where", "Where"), ("neuron", "Neuron"), ("lesion", "Lesion"))
    links = [html.A(name, href=f"#{target}") for target, name in views]
    return html.Header(
        [
            html.Div(
                [
                    html.H1([html.Span(str(model), className="model"), " under the lens"]),
                    html.P(f"run {session.run.path.name}, key neurons from {session.config.train}"),
                ]
            ),
            html.Nav(links, **aria(label="Views")),
        ]
    )


def _controls(session: ExploredRun) -> html.Aside:
    return html.Aside(
        [
            html.H2("What to look at"),
            *_what(session),
            html.H2("How to lesion"),
            *_how(),
        ],
        id="controls",
        **aria(label="Controls"),
    )


def _what(session: ExploredRun) -> list[Any]:
    position = session.run.main_position
    labels = session.labels(position)
    tag = "VERB" if "VERB" in labels else labels[0]
    most = session.most(position, session.methods(position)[0], tag)
    return [
        _choice("position", "Position", {p: POSITIONS[p] for p in session.positions}, position),
        _choice("tag", "Tag", {label: label for label in labels}, tag, "chips"),
        html.Label("Score", htmlFor="score-list"),
        html.Div(score_list(session.methods(position)), id="score-box"),
        dcc.Store(id="score", data=session.methods(position)[0]),
        html.P(id="score-summary", className="note"),
        _slider("k", "Key neurons, k", 1, most, 1, most),
        html.Label("Neuron chosen (layer.index)", htmlFor="chosen"),
        dcc.Input(id="chosen", value="", debounce=0.4),
        html.P(id="chosen-note", className="note", role="status"),
    ]


def _how() -> list[Any]:
    return [
        _choice("which", "Neurons", WHICH, "first"),
        html.Div(
            [
                html.Label("Picked neurons (layer.index, …)", htmlFor="picked"),
                dcc.Input(id="picked", value="", debounce=0.4),
                html.Button("Add the neuron chosen", id="add", n_clicks=0),
            ],
            id="picking",
        ),
        _choice("value", "Set to", {v: TOLD_VALUES[v] for v in VALUES}, "mean"),
        _slider("dose", "Dose", -1, 2, 0.25, 1),
        html.P("0: intact, 1: cut; beyond either, amplified.", className="note"),
    ]


def score_list(methods: tuple[str, ...]) -> html.Select:
    """The scores to choose from; the first, which is chosen, is the run's own."""
    own = methods[0]
    names = {m: score_name(m) + (" (this run's)" if m == own else "") for m in methods}
    options = [html.Option(name, value=m) for m, name in names.items()]
    # a new key makes a new element, in which nothing else was chosen before
    key = " ".join(methods)
    return html.Select(options, id="score-list", key=key, **data(store="score"))


def _choice(
    name: str, legend: str, options: dict[str, str], value: str, style: str = "segments"
) -> html.Div:
    """A radio group of buttons, and the store that has what is chosen (assets/explorer.js)."""
    buttons = [
        html.Button(
            shown,
            value=key,
            type="button",
            role="radio",
            tabIndex=0 if key == value else -1,
            **data(store=name),
            **aria(checked=str(key == value).lower()),
        )
        for key, shown in options.items()
    ]
    return html.Div(
        [
            html.Div(legend, id=f"{name}-legend", className="legend"),
            html.Div(
                buttons,
                id=f"{name}-choices",
                role="radiogroup",
                className=style,
                **aria(labelledby=f"{name}-legend"),
            ),
            dcc.Store(id=name, data=value),
        ],
        className="choice",
    )


def _slider(name: str, label: str, least: int, most: int, step: Number, value: int) -> html.Div:
    return html.Div(
        [
            html.Label([label, ": ", html.Output(str(value), id=f"{name}-told")], htmlFor=name),
            dcc.Input(id=name, type="range", min=least, max=most, step=step, value=value),
            dcc.Store(id=f"{name}-settled", data=value),
        ]
    )


def _views() -> html.Main:
    return html.Main([_where(), _neuron(), _lesion()])


def _where() -> html.Section:
    return html.Section(
        [
            html.H2("Where", id="where-title"),
            html.P("Click a cell or a circle to choose its neuron, or type its layer.index."),
            html.Figure(
                [
                    html.H3("Every neuron's score", id="heatmap-title"),
                    dcc.Graph(id="heatmap", config=GRAPH),
                ],
                className="panel",
            ),
            html.Figure(
                [
                    html.H3("How strongly each layer answers", id="profile-title"),
                    dcc.Graph(id="profile", config=GRAPH),
                    html.Figcaption(
                        "Root mean square over a layer's neurons; the other tags are faint. A band spans 95 % of the exchanges of labels."
                    ),
                ],
                className="panel",
            ),
        ],
        id="where",
        **aria(labelledby="where-title"),
    )


def _neuron() -> html.Section:
    return html.Section(
        [
            html.H2("Neuron", id="neuron-title"),
            html.Div(
                [
                    html.Div(id="key-list", className="panel"),
                    html.Div(id="neuron-scores", className="panel"),
                ],
                className="beside",
            ),
            html.Div(id="neuron-examples"),
            dcc.Store(id="times-read", data=0),
            html.Button("Read it now", id="read", n_clicks=0, hidden=True, disabled=True),
        ],
        id="neuron",
        **aria(labelledby="neuron-title"),
    )


def _lesion() -> html.Section:
    return html.Section(
        [
            html.H2("Lesion", id="lesion-title"),
            html.P(id="state", className="state", role="status"),
            html.Label("Prompt", htmlFor="prompt"),
            dcc.Store(id="prompt-settled", data=PROMPT),
            dcc.Textarea(id="prompt", value=PROMPT, rows=2, maxLength=LONGEST, spellCheck=False),
            html.P(id="headline", className="headline", role="status"),
            html.Div(
                [
                    html.Div(id="distribution", className="panel"),
                    html.Div(id="likely", className="panel"),
                ],
                className="beside",
            ),
            html.H3("What it writes"),
            html.Div(
                [
                    _number("tokens", "Tokens", 40, 1, MOST_TOKENS, 1),
                    _number("temperature", "Temperature", 0, 0, 5, 0.1),
                    _number("seed", "Seed", 0, 0, 2**31 - 1, 1),
                    html.Button("Write with and without", id="write", n_clicks=0),
                ],
                className="row",
            ),
            html.Div(id="texts", **aria(live="polite")),
        ],
        id="lesion",
        **aria(labelledby="lesion-title"),
    )


def _number(name: str, label: str, value: int, least: int, most: int, step: Number) -> html.Div:
    return html.Div(
        [
            html.Label(label, htmlFor=name),
            dcc.Input(
                id=name, type="number", value=value, min=least, max=most, step=step, debounce=True
            ),
        ]
    )
