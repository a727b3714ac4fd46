"""A local HTTP server of files, for what is fetched in real life."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


class Server(http.server.ThreadingHTTPServer):
    """Pages by path; None is one that breaks off half-way. Remembers what was asked for."""

    daemon_threads = True
    pages: dict[str, bytes | None]
    requests: list[str]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast(Server, self.server)
        server.requests.append(self.path)
        if self.path not in server.pages:
            self.send_error(404)
            return
        page = server.pages[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(1000 if page is None else len(page)))
        self.end_headers()
        self.wfile.write(b"# half a file" if page is None else page)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(pages: dict[str, bytes | None]) -> Iterator[Server]:
    """While open, the pages are served on a free port of this machine."""
    with Server(("127.0.0.1", 0), _Handler) as made:
        made.requests, made.pages = [], pages
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()
