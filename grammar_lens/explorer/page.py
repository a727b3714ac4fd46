"""The page layout: controls and views, still without results."""

from dataclasses import fields
from typing import Any

from dash import dcc, html

from grammar_lens.explorer.explored_run import MOST_TOKENS, READ_WORDS, VALUES, ExploredRun
from grammar_lens.explorer.pieces import GRAPH, aria, data
from grammar_lens.explorer.view import (
    LARGEST_SEED,
    LONGEST,
    MOST_TEMPERATURE,
    WHICH,
    View,
    default_view,
)
from grammar_lens.figures.style import score_name

POSITIONS = {"word": "at the word", "next": "before the word"}
TOLD_VALUES = {"mean": "the mean", "zero": "zero"}
Number = float | int


def frame() -> html.Div:
    """The page before its address has been read: `layout` then goes into it."""
    return html.Div([dcc.Store(id="link"), html.Div("Opening the run …", id="page")])


def everything(session: ExploredRun) -> html.Div:
    """Frame and default view, with every element that a callback names."""
    return html.Div([frame(), layout(session, default_view(session), [])])


def layout(session: ExploredRun, view: View, faults: list[str]) -> html.Div:
    """Everything on the page, with the controls as a view says; `faults` are what a link got wrong."""
    note = [html.P(f"The link asks for what is not there: {'; '.join(faults)}.", id="link-note")]
    return html.Div(
        [
            html.A("Skip to the views", href="#where", className="skip"),
            _header(session),
            *(note if faults else []),
            html.Div([_controls(session, view), _views(view)], className="columns"),
            dcc.Store(id="ready", data=False),
            dcc.Store(id="loaded", data=False),
            dcc.Store(id="fields", data=[field.name for field in fields(View)]),
            dcc.Interval(id="clock", interval=700, disabled=session.is_settled),
        ]
    )


def _header(session: ExploredRun) -> html.Header:
    model = session.run.record.get("model", {}).get("name", session.config.model)
    train = str(session.config.train)
    views = (("where", "Where"), ("neuron", "Neuron"), ("lesion", "Lesion"))
    links = [html.A(name, href=f"#{target}") for target, name in views]
    return html.Header(
        [
            html.Div(
                [
                    html.H1([html.Span(str(model), className="model"), " under the lens"]),
                    html.P(
                        f"run {session.run.path.name}, key neurons from {_short(train)}",
                        title=train,
                    ),
                ]
            ),
            html.Nav(links, **aria(label="Views")),
            html.P(id="state", className="state", role="status"),
        ]
    )


def _short(source: str) -> str:
    """A data source without the folders that lead to it."""
    return source if len(source) <= 40 else f"…/{source.rpartition('/')[2]}"


def _controls(session: ExploredRun, view: View) -> html.Aside:
    return html.Aside(
        [
            html.H2("What to look at"),
            *_what(session, view),
            html.H2("How to lesion"),
            *_how(view),
        ],
        id="controls",
        **aria(label="Controls"),
    )


def _what(session: ExploredRun, view: View) -> list[Any]:
    positions = {p: POSITIONS[p] for p in session.positions}
    labels = session.labels(view.position)
    most = session.most(view.position, view.score, view.tag)
    return [
        _choice("position", "Position", positions, view.position),
        _choice("tag", "Tag", {label: label for label in labels}, view.tag, "chips"),
        html.Label("Score", htmlFor="score-list"),
        html.Div(score_list(session.methods(view.position)), id="score-box"),
        dcc.Store(id="score", data=view.score),
        html.P(id="score-summary", className="note"),
        _slider("k", "Key neurons, k", 1, most, 1, view.k),
        html.Label("Neuron chosen (layer.index)", htmlFor="chosen"),
        dcc.Input(id="chosen", value=view.neuron, debounce=0.4),
        html.P(id="chosen-note", className="note", role="status"),
    ]


def _how(view: View) -> list[Any]:
    return [
        _choice("which", "Neurons", WHICH, view.which),
        html.Div(
            [
                html.Label("Picked neurons (layer.index, …)", htmlFor="picked"),
                dcc.Input(id="picked", value=view.picked, debounce=0.4),
                html.Button("Add the neuron chosen", id="add", n_clicks=0),
            ],
            id="picking",
        ),
        _choice("value", "Set to", {v: TOLD_VALUES[v] for v in VALUES}, view.value),
        _slider("dose", "Dose", -1, 2, 0.25, view.dose),
        html.P("0: intact, 1: cut; beyond either, amplified.", className="note"),
    ]


def score_list(methods: tuple[str, ...]) -> html.Select:
    """The scores to choose from, the run's own first; the page's script selects one."""
    own = methods[0]
    # first, as the end of a long name is cut off
    names = {m: ("this run's: " if m == own else "") + score_name(m) for m in methods}
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


def _slider(name: str, label: str, least: int, most: int, step: Number, value: Number) -> html.Div:
    return html.Div(
        [
            html.Label([label, ": ", html.Output(f"{value:g}", id=f"{name}-told")], htmlFor=name),
            dcc.Input(id=name, type="range", min=least, max=most, step=step, value=value),
            dcc.Store(id=f"{name}-settled", data=value),
        ]
    )


def _views(view: View) -> html.Main:
    return html.Main([_where(), _neuron(view), _lesion(view)])


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


def _neuron(view: View) -> html.Section:
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
            html.Div(
                [
                    html.H3("On a text of your own"),
                    html.Label("Text", htmlFor="text"),
                    dcc.Store(id="text-settled", data=view.text),
                    dcc.Textarea(
                        id="text", value=view.text, rows=2, maxLength=LONGEST, spellCheck=False
                    ),
                    html.Div(id="own-text", **aria(live="polite")),
                ],
                className="panel",
            ),
            html.Div(
                [
                    html.H3("Density of its activation, by tag", id="density-title"),
                    html.Div(id="density"),
                    html.Div(
                        [
                            html.P(
                                "The run stores quantiles of key neurons, not every word: the neuron "
                                f"is read at up to {READ_WORDS:,} training words.",
                                className="note",
                            ),
                            html.Button("Read it now", id="read", n_clicks=0, disabled=True),
                            html.Span(id="read-note", className="note", role="status"),
                        ],
                        id="reading",
                    ),
                ],
                className="panel",
            ),
            html.Div(id="neuron-examples"),
            dcc.Store(id="times-read", data=0),
        ],
        id="neuron",
        **aria(labelledby="neuron-title"),
    )


def _lesion(view: View) -> html.Section:
    return html.Section(
        [
            html.H2("Lesion", id="lesion-title"),
            html.Label("Prompt", htmlFor="prompt"),
            dcc.Store(id="prompt-settled", data=view.prompt),
            dcc.Textarea(
                id="prompt", value=view.prompt, rows=2, maxLength=LONGEST, spellCheck=False
            ),
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
                    _number("tokens", "Tokens", view.tokens, 1, MOST_TOKENS, 1),
                    _number(
                        "temperature", "Temperature", view.temperature, 0, MOST_TEMPERATURE, 0.1
                    ),
                    _number("seed", "Seed", view.seed, 0, LARGEST_SEED, 1),
                    html.Button("Write with and without", id="write", n_clicks=0),
                ],
                className="row",
            ),
            html.Div(id="texts", **aria(live="polite")),
        ],
        id="lesion",
        **aria(labelledby="lesion-title"),
    )


def _number(name: str, label: str, value: Number, least: int, most: int, step: Number) -> html.Div:
    return html.Div(
        [
            html.Label(label, htmlFor=name),
            dcc.Input(
                id=name, type="number", value=value, min=least, max=most, step=step, debounce=True
            ),
        ]
    )
