"""Callbacks of the page: each reads the controls, asks the session and shows the result."""

from collections.abc import Callable, Sequence
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, no_update

from grammar_lens.errors import GrammarLensError
from grammar_lens.explorer import pieces
from grammar_lens.explorer.controls import ADDRESS, LESION, NOW, SEEN, SETTLING, clicked, cut_of
from grammar_lens.explorer.explored_run import ExploredRun
from grammar_lens.explorer.page import layout, score_list
from grammar_lens.explorer.pictures import heatmap, profile
from grammar_lens.explorer.view import view_of
from grammar_lens.selectivity.registry import SCORES


def connect(app: Dash, session: ExploredRun) -> None:
    """Puts all callbacks on the page."""
    _connect_script(app)
    _connect_address(app, session)
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


def _connect_address(app: Dash, session: ExploredRun) -> None:
    """The address says what the page shows: a link opens that view, and so does the back button."""
    app.clientside_callback(
        ClientsideFunction("explorer", "arrive"), Output("link", "data"), Input("link", "id")
    )
    app.clientside_callback(
        ClientsideFunction("explorer", "remember"), *ADDRESS.values(), State("fields", "data")
    )
    app.clientside_callback(
        ClientsideFunction("explorer", "select"),
        # without an output it is not called when the page is put together
        Output("score-box", "className"),
        Input("score", "data"),
        Input("score-box", "children"),
    )

    @app.callback(
        Output("page", "children"),
        Input("link", "data"),
        running=[(Output("page", "className"), "opening", "")],
        prevent_initial_call=True,
    )
    def open_link(link: Any) -> Any:
        return layout(session, *view_of(session, (link or {}).get("hash")))


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
    @app.callback(Output("chosen", "value"), inputs=SEEN, prevent_initial_call=True)
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
        Output("loaded", "data"),
        Input("clock", "n_intervals"),
        State("ready", "data"),
        State("loaded", "data"),
    )
    def look(_times: int, ready: bool, loaded: bool) -> tuple[Any, ...]:
        now, there = session.can_tell_tags, session.can_write
        return (
            session.message,
            not session.message,
            not there,
            not now,
            session.is_settled,
            now if now != ready else no_update,
            there if there != loaded else no_update,
        )


def _connect_views(app: Dash, session: ExploredRun) -> None:
    @app.callback(
        Output("heatmap-title", "children"),
        Output("heatmap", "figure"),
        Output("heatmap", "style"),
        inputs={**SEEN, "chosen": Input("chosen", "value")},
    )
    def show_heatmap(position: str, score: str, tag: str, chosen: str) -> tuple[Any, ...]:
        try:
            at = session.address(position, chosen or "")
        except GrammarLensError:
            at = None
        figure = heatmap(session.scores(position, score), tag, at)
        return f"Every neuron's score for {tag}", figure, pieces.height_of(figure)

    @app.callback(Output("profile", "figure"), Output("profile", "style"), inputs=SEEN)
    def show_profile(position: str, score: str, tag: str) -> Any:
        figure = profile(session.scores(position, score), tag)
        return figure, pieces.height_of(figure)

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
        Output("density", "children"),
        Output("reading", "hidden"),
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
            return pieces.fault(str(error)), str(error), "", "", True
        neuron = session.neuron(position, score, at)
        rank = int(neuron.set_index("label").at[tag, "rank"])
        known, words = session.examples(position, at), session.words(position, at)
        return (
            pieces.neuron_scores(f"{at[0]}.{at[1]}", score, neuron, tag, known),
            f"no. {rank:,} of {tag}",
            "" if known is None else pieces.examples(known),
            "" if words is None else pieces.density(words, tag),
            words is not None,
        )

    @app.callback(
        Output("times-read", "data"),
        Output("read-note", "children"),
        Input("read", "n_clicks"),
        State("position", "data"),
        State("chosen", "value"),
        State("times-read", "data"),
        running=[
            (Output("read", "disabled"), True, False),
            (Output("read", "children"), "Reading …", "Read it now"),
        ],
        prevent_initial_call=True,
    )
    def read(_clicks: int, position: str, chosen: str, times: int) -> tuple[Any, Any]:
        try:
            session.read(position, session.address(position, chosen or ""))
        except GrammarLensError as error:
            return no_update, str(error)
        return times + 1, ""

    @app.callback(
        Output("own-text", "children"),
        inputs={
            "position": SEEN["position"],
            "score": SEEN["score"],
            "chosen": LESION["chosen"],
            "picked": LESION["picked"],
            "which": LESION["which"],
            "text": Input("text-settled", "data"),
            "loaded": Input("loaded", "data"),
        },
    )
    def read_own_text(
        position: str,
        score: str,
        chosen: str | None,
        picked: str | None,
        which: str,
        text: str | None,
        loaded: bool,
    ) -> Any:
        if not loaded:
            return pieces.waiting(session.message)
        if not (text or "").strip():
            return pieces.hint("Type some text: each token takes the colour of the activation.")
        names = f"{chosen or ''}, {(picked or '') if which == 'picked' else ''}"
        return _or_message(
            lambda: pieces.own_text(
                session.own_text(text or "", session.picked(position, score, names))
            )
        )


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
            return pieces.waiting(session.message), "", ""
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
        running=[
            (Output("write", "disabled"), True, False),
            (Output("write", "children"), "Writing …", "Write with and without"),
        ],
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
