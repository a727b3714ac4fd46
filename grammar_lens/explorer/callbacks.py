"""Callbacks of the page: each reads the controls, asks the session and shows the result."""

from collections.abc import Callable, Sequence
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, no_update

from grammar_lens.errors import GrammarLensError
from grammar_lens.explorer import pieces
from grammar_lens.explorer.controls import LESION, NOW, SEEN, SETTLING, clicked, cut_of
from grammar_lens.explorer.explored_run import ExploredRun
from grammar_lens.explorer.page import score_list
from grammar_lens.explorer.pictures import heatmap, profile
from grammar_lens.selectivity.registry import SCORES


def connect(app: Dash, session: ExploredRun) -> None:
    """Puts all callbacks on the page."""
    _connect_script(app)
    _connect_controls(app, session)
    _connect_state(app, session)
    _connect_views(app, session)
    _connect_lesion(app, session)


def _connect_script(app: Dash) -> None:
    """Callbacks that run in the browser alone (assets/explorer.js)."""
    for name in ("position", "tag", "which", "value"):
        app.clientside_callback(
            ClientsideFunction("explorer", "mark"), Input(name, "data"), State(name, "id")
        )
    for name in ("k", "dose"):
        app.clientside_callback(
            ClientsideFunction("explorer", "tell"),
            Output(f"{name}-told", "children"),
            Input(name, "value"),
        )
    for name in SETTLING:
        app.clientside_callback(
            ClientsideFunction("explorer", "settle"),
            Output(f"{name}-settled", "data"),
            Input(name, "value"),
            State(name, "id"),
            prevent_initial_call=True,
        )
    app.clientside_callback(
        ClientsideFunction("explorer", "press"),
        Input("chosen", "value"),
        Input("key-list", "children"),
    )


def _connect_controls(app: Dash, session: ExploredRun) -> None:
    @app.callback(
        Output("score-box", "children"),
        Output("score", "data"),
        Input("position", "data"),
        prevent_initial_call=True,
    )
    def offer_scores(position: str) -> tuple[Any, str]:
        methods = session.methods(position)
        return score_list(methods), methods[0]

    @app.callback(
        Output("score-summary", "children"),
        Output("k", "max"),
        Output("k", "value"),
        inputs=SEEN,
        state={"k": State("k", "value")},
    )
    def limit_k(position: str, score: str, tag: str, k: str | int) -> tuple[Any, ...]:
        most = session.most(position, score, tag)
        summary = SCORES[score].summary.replace("`", "")
        return summary, most, no_update if int(k) <= most else most

    @app.callback(Output("picking", "hidden"), Input("which", "data"))
    def show_picking(which: str) -> bool:
        return which != "picked"

    # apart from each other: of one callback with several causes a page that loads slowly reports one
    @app.callback(Output("chosen", "value"), inputs=SEEN)
    def choose_first(position: str, score: str, tag: str) -> Any:
        try:
            ((layer, index),) = session.first(position, score, tag, 1)
        except GrammarLensError:  # the list of key neurons says so
            return no_update
        return f"{layer}.{index}"

    @app.callback(
        Output("chosen", "value", allow_duplicate=True),
        Input("heatmap", "clickData"),
        prevent_initial_call=True,
    )
    def choose_cell(click: Any) -> Any:
        return clicked(click) or no_update

    @app.callback(
        Output("chosen", "value", allow_duplicate=True),
        Input({"type": "choose", "neuron": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    def choose_listed(clicks: Sequence[int | None]) -> Any:
        # a new list of buttons calls this too, without a click
        return ctx.triggered_id["neuron"] if ctx.triggered_id and any(clicks) else no_update

    @app.callback(
        Output("picked", "value"),
        Input("add", "n_clicks"),
        State("chosen", "value"),
        State("picked", "value"),
        prevent_initial_call=True,
    )
    def add(_clicks: int, chosen: str, picked: str | None) -> str:
        tags = [x for x in (picked or "").replace(",", " ").split() if x != chosen]
        return ", ".join([*tags, chosen])


def _connect_state(app: Dash, session: ExploredRun) -> None:
    @app.callback(
        Output("state", "children"),
        Output("state", "hidden"),
        Output("write", "disabled"),
        Output("read", "disabled"),
        Output("clock", "disabled"),
        Output("ready", "data"),
        Input("clock", "n_intervals"),
        State("ready", "data"),
    )
    def look(_times: int, ready: bool) -> tuple[Any, ...]:
        now = session.can_tell_tags
        return (
            session.message,
            not session.message,
            not session.can_write,
            not now,
            session.is_settled,
            now if now != ready else no_update,
        )


def _connect_views(app: Dash, session: ExploredRun) -> None:
    @app.callback(
        Output("heatmap-title", "children"),
        Output("heatmap", "figure"),
        inputs={**SEEN, "chosen": Input("chosen", "value")},
    )
    def show_heatmap(position: str, score: str, tag: str, chosen: str) -> tuple[str, Any]:
        try:
            at = session.address(position, chosen or "")
        except GrammarLensError:
            at = None
        return f"Every neuron's score for {tag}", heatmap(session.scores(position, score), tag, at)

    @app.callback(Output("profile", "figure"), inputs=SEEN)
    def show_profile(position: str, score: str, tag: str) -> Any:
        return profile(session.scores(position, score), tag)

    @app.callback(
        Output("key-list", "children"),
        inputs={**SEEN, "k": LESION["k"]},
    )
    def show_keys(position: str, score: str, tag: str, k: str | int) -> Any:
        return _or_message(lambda: pieces.key_list(session.first(position, score, tag, int(k))))

    @app.callback(
        Output("neuron-scores", "children"),
        Output("chosen-note", "children"),
        Output("neuron-examples", "children"),
        Output("read", "hidden"),
        inputs={
            **SEEN,
            "chosen": Input("chosen", "value"),
            "_times": Input("times-read", "data"),
        },
    )
    def show_neuron(
        position: str, score: str, tag: str, chosen: str, _times: int
    ) -> tuple[Any, ...]:
        try:
            at = session.address(position, chosen or "")
        except GrammarLensError as error:
            return pieces.fault(str(error)), str(error), "", True
        neuron = session.neuron(position, score, at)
        rank = int(neuron.set_index("label").at[tag, "rank"])
        known = session.examples(position, at)
        return (
            pieces.neuron_scores(f"{at[0]}.{at[1]}", score, neuron, tag, known),
            f"no. {rank:,} of {tag}",
            pieces.no_examples() if known is None else pieces.examples(known),
            known is not None,
        )

    @app.callback(
        Output("times-read", "data"),
        Output("chosen-note", "children", allow_duplicate=True),
        Input("read", "n_clicks"),
        State("position", "data"),
        State("chosen", "value"),
        State("times-read", "data"),
        running=[(Output("read", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def read(_clicks: int, position: str, chosen: str, times: int) -> tuple[Any, Any]:
        try:
            session.read(position, session.address(position, chosen or ""))
        except GrammarLensError as error:
            return no_update, str(error)
        return times + 1, no_update


def _connect_lesion(app: Dash, session: ExploredRun) -> None:
    @app.callback(
        Output("headline", "children"),
        Output("distribution", "children"),
        Output("likely", "children"),
        inputs={
            "controls": {**SEEN, **LESION},
            "prompt": Input("prompt-settled", "data"),
            "ready": Input("ready", "data"),
        },
    )
    def tell_tags(controls: dict[str, Any], prompt: str | None, ready: bool) -> tuple[Any, ...]:
        if not ready:
            return "", "", ""
        try:
            cut = cut_of(session, controls)
            tags = session.tags(prompt or "", cut.neurons, **cut.ablation)
        except GrammarLensError as error:
            return pieces.fault(str(error)), "", ""
        tag = controls["tag"]
        return (
            pieces.headline(tag, cut.description, *tags),
            pieces.distribution(tag, *tags),
            pieces.likely(*tags),
        )

    @app.callback(
        Output("texts", "children"),
        inputs={"_clicks": Input("write", "n_clicks")},
        state={
            "controls": NOW,
            "prompt": State("prompt", "value"),
            "tokens": State("tokens", "value"),
            "temperature": State("temperature", "value"),
            "seed": State("seed", "value"),
        },
        running=[(Output("write", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def write(
        _clicks: int,
        controls: dict[str, Any],
        prompt: str | None,
        tokens: int | None,
        temperature: float | int | None,
        seed: int | None,
    ) -> Any:
        def work() -> Any:
            if tokens is None or temperature is None or seed is None:
                raise GrammarLensError("Tokens, temperature and seed must be numbers within range.")
            cut = cut_of(session, controls)
            settings = {
                "tokens": int(tokens),
                "temperature": float(temperature),
                "seed": int(seed),
            }
            comparison = session.text(prompt or "", cut.neurons, **cut.ablation, **settings)
            return pieces.texts(cut.description, *comparison)

        return _or_message(work)


def _or_message(work: Callable[[], Any]) -> Any:
    """The result of some work, or the reason why it failed."""
    try:
        return work()
    except GrammarLensError as error:
        return pieces.fault(str(error))
