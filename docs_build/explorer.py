"""Take the pictures of the explorer in the documents: `make gallery`.

Serves runs/demo, made by `make demo`, and writes docs/explorer.png and docs/explorer_neuron.png. Needs
playwright with a Chromium, or the path of one in GRAMMAR_LENS_CHROMIUM.
"""

import os
import sys
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

from grammar_lens.explorer.app import _listening, _server, make_app
from grammar_lens.runs.run import load_run

DOCS = Path(__file__).parents[1] / "docs"
VIEW = {"tag": "VERB", "prompt": "The old man", "text": "She has never seen the sea, but she will."}
SIZE: Any = {"width": 1400, "height": 900}


def main(run: Path) -> None:
    """Writes both pictures."""
    with _listening(0) as listener, sync_playwright() as playwright:
        server = _server(make_app(load_run(run)), listener)
        Thread(target=server.serve_forever, daemon=True).start()
        path = os.environ.get("GRAMMAR_LENS_CHROMIUM")
        browser = playwright.chromium.launch(executable_path=path)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{server.port}/#{urlencode(VIEW)}")
        page.wait_for_selector("#distribution table")
        page.get_by_role("button", name="Read it now").click()
        page.wait_for_selector("#density .main-svg")
        for target, name in (("#lesion", "explorer"), ("#own-text", "explorer_neuron")):
            page.evaluate(
                "target => scrollTo({top: document.querySelector(target).getBoundingClientRect().top "
                "+ scrollY - (target === '#lesion' ? 60 : 240), behavior: 'instant'})",
                target,
            )
            page.wait_for_timeout(1000)
            page.screenshot(path=DOCS / f"{name}.png")
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
