"""A page of ours in a real browser, which nothing may upset."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def on_page(
    browser: Any, path: Path, link: str = "", *, drawn: bool = False, **size: int
) -> Iterator[Any]:
    """A report, opened and `drawn` to the end or not; any message, error, dialog or request fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 900, **size})
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.on("dialog", lambda d: (faults.append(d.message), d.dismiss()))
    page.on(
        "request", lambda r: re.split("[?#]", r.url)[0] == path.as_uri() or faults.append(r.url)
    )
    page.goto(f"{path.as_uri()}{'?open=all' if drawn else ''}{link}")
    if drawn:
        page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
    yield page
    page.close()
    assert faults == []
