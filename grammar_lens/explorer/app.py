"""The explorer's dash app, and a server that accepts connections from this machine only."""

import logging
import socket
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from grammar_lens.errors import GrammarLensError
from grammar_lens.explorer.explored_run import ExploredRun
from grammar_lens.runs.run import Run

if TYPE_CHECKING:
    from dash import Dash

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
"""Names of this machine under which the page is served: any other came by way of a foreign page."""
LARGEST_REQUEST = 1 << 20
"""Bytes; a callback of the page sends a few thousand."""
HEADERS = {
    # the browser itself refuses whatever is not of this page
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def make_app(run: Run) -> "Dash":
    """The explorer of a run as a dash app; its model begins to load.

    Raises GrammarLensError without dash, and for a run without key neurons.
    """
    if find_spec("dash") is None:
        raise GrammarLensError(
            'the explorer needs dash, which is not installed: pip install "grammar-lens[explorer]"'
        )
    from dash import Dash

    from grammar_lens.explorer.callbacks import connect
    from grammar_lens.explorer.page import everything, frame

    session = ExploredRun(run)
    app = Dash(
        "grammar_lens.explorer",
        assets_folder=str(Path(__file__).parent / "assets"),
        index_string=INDEX,
        title=f"{run.path.name} · grammar_lens",
        update_title="",
        enable_mcp=False,
        use_pages=False,
        on_error=_unexpected,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    _guard(app.server)
    app.layout = frame
    app.validation_layout = everything(session)
    connect(app, session)
    session.load()
    return app


def serve(run: Run, *, port: int = 8050, open_browser: bool = True) -> None:
    """Serves the explorer of a run on this machine alone until Ctrl-C; port 0 takes a free one.

    Raises GrammarLensError where the port is in use, without dash, and without key neurons.
    """
    app = make_app(run)
    with _listening(port) as listener:
        server = _server(app, listener)
        url = f"http://{HOST}:{server.port}/"
        print(f"The explorer of {run.path} is at {url} (Ctrl-C ends it)", flush=True)
        if open_browser:
            # a browser in the terminal would wait for the page before it is served
            Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.serve_forever()


def _listening(port: int) -> socket.socket:
    """A socket that only this machine reaches."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise GrammarLensError(
            f"port {port} cannot be used ({error}): choose another with --port, or --port 0 for any "
            "that is free"
        ) from error
    return listener


def _server(app: "Dash", listener: socket.socket) -> Any:
    """A server of the app that answers several requests at a time and does not log them."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

        def make_environ(self) -> Any:
            try:
                return super().make_environ()
            except ValueError as error:  # an address that is none
                self.send_error(400, str(error))
                raise ConnectionAbortedError from error

    port = listener.getsockname()[1]
    return make_server(
        HOST, port, app.server, threaded=True, request_handler=Quiet, fd=listener.fileno()
    )


def _guard(server: Any) -> None:
    """Refuses requests that a foreign page sends here, by its name for this machine or its origin."""
    from flask import Response, request

    server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST

    @server.before_request
    def check() -> Response | None:
        origin = request.headers.get("Origin")
        foreign = origin is not None and origin != f"http://{request.host}"
        if _name(request.host) in NAMES and not foreign:
            return None
        return Response(
            f"The explorer answers only to {' and '.join(NAMES)}.\n", 403, mimetype="text/plain"
        )

    @server.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        """An answer to a request that no page of ours makes: dash raises whatever comes of it."""
        code = getattr(error, "code", None)
        if not isinstance(code, int) or not 400 <= code < 500:
            code = 404 if request.path.startswith("/_dash-component-suites/") else 400
            logging.getLogger(__name__).debug("refused %s", request.path, exc_info=error)
        return Response(f"{request.path[:200]}: refused.\n", code, mimetype="text/plain")

    @server.after_request
    def protect(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response


def _name(host: str) -> str:
    """A host without its port."""
    return host.rpartition(":")[0] or host


def _unexpected(error: Exception) -> None:
    """Tells of an error that is our own fault: on the page in short, in the terminal in full."""
    from dash import set_props

    logging.getLogger(__name__).exception("the explorer failed", exc_info=error)
    set_props(
        "state",
        {"children": f"Something failed, see the terminal: {error}", "hidden": False},
    )
