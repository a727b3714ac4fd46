"""A page of ours in a real browser, which nothing may upset."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

_FREE: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()
"""The tabs of a browser that show nothing now."""


@contextmanager
def watched_tab(
    browser: Any, address: str, *, height: int = 900, width: int = 1280
) -> Iterator[Any]:
    """A tab of the browser, before it goes to `address`; what upsets it fails the test.

    That is a message on the console, an error, a dialog, or a request to another place than
    `address`, which ends with / where everything below it may be asked for. A tab is emptied and used
    again: it has the scripts of the page before compiled, so that the next one costs a third.
    """
    free = _FREE.setdefault(browser, [])
    tab = free.pop() if free else browser.new_page()
    faults: list[str] = []

    def request(asked: Any) -> None:
        place = re.split("[?#]", asked.url)[0]
        below = address.endswith("/") and place.startswith((address, "data:", "blob:"))
        if place != address and not below:
            faults.append(asked.url)

    watched = {
        "console": lambda m: faults.append(m.text) if m.type in ("error", "warning") else None,
        "pageerror": lambda e: faults.append(str(e)),
        "dialog": lambda d: (faults.append(d.message), d.dismiss()),
        "requestfailed": lambda r: faults.append(r.url),
        "request": request,
    }
    for event, heard in watched.items():
        tab.on(event, heard)
    try:
        tab.set_viewport_size({"width": width, "height": height})
        yield tab
    except BaseException:
        tab.close()
        raise
    for event, heard in watched.items():
        tab.remove_listener(event, heard)
    tab.emulate_media(reduced_motion="null")
    tab.goto("about:blank")
    free.append(tab)
    assert faults == []


@contextmanager
def on_page(
    browser: Any, path: Path, link: str = "", *, drawn: bool = False, **size: int
) -> Iterator[Any]:
    """A report, opened and `drawn` to the end or not; any message, error, dialog or request fails the test."""
    with watched_tab(browser, path.as_uri(), **size) as page:
        page.goto(f"{path.as_uri()}{'?open=all' if drawn else ''}{link}")
        if drawn:
            page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
        yield page


def serious(page: Any) -> list[str]:
    """Serious accessibility violations found by axe-core: the rule and the elements."""
    from axe_playwright_python.sync_playwright import Axe

    # the elements that violate nothing are not described, which would take most of the time
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{v['id']}: {[n['html'][:200] for n in v['nodes'][:3]]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
