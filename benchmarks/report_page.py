"""How large report.html is, and how soon it can be used, in headless Chromium.

    python benchmarks/report_page.py
    python benchmarks/report_page.py --run runs/demo

Pages: a run of the size of Llama 3 8B made of random numbers (17 tags, two positions, 32 layers of
14,336 neurons), and with --run a real one. Every round opens each page in a fresh tab, in turn, from
a file; an untimed round goes before. Seconds are from the request: until the lesion matrix on the
first screen is seen (first), until plotly.js has drawn it (matrix); in a second visit with all headings open, until the page is parsed and
its scripts have run (loaded), until a neuron looked up is shown, until all figures are drawn.
Goals: under 12 MB, first screen and loaded within 1 s, a neuron within 5 s. Needs Chromium (GRAMMAR_LENS_CHROMIUM)
and playwright.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from measure import OutFlag, positive, save, show, target

from grammar_lens.cli.scripts import start_page
from grammar_lens.report.page import write_report
from grammar_lens.runs.run import load_run

MADE = Path(__file__).parents[1] / "tests" / "wide_runs.py"
"""Writes the page of a made run, as the tests have it."""
MOST_MEGABYTES, MOST_FIRST, MOST_SHOWN = 12.0, 1.0, 5.0
_NOW = "() => performance.now() / 1000"
_LOADED = "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd / 1000"
_TIMES = ("first", "matrix", "loaded", "neuron", "drawn")


@dataclass(frozen=True)
class Config(OutFlag):
    """The flags."""

    run: Annotated[Path | None, typer.Option(help="A run directory, opened too.")] = None
    layers: Annotated[int, typer.Option(help="Layers of the made run.")] = 32
    units: Annotated[int, typer.Option(help="Neurons in each of its layers.")] = 14_336
    rounds: Annotated[int, typer.Option(help="Times that each page is opened.")] = 5


def main(config: Config) -> None:
    """Writes the pages, opens them, prints and writes what was measured."""
    positive(config, "layers", "units", "rounds")
    with tempfile.TemporaryDirectory() as folder:
        pages = _write(config, Path(folder))
        rows = _open(pages, config.rounds)
        for name, path in pages.items():
            rows[name]["megabytes"] = path.stat().st_size / 1e6
    columns = {"MB": "megabytes", **{f"{name} s": name for name in _TIMES}}
    columns["drawn, slowest"] = "drawn_slowest"
    layouts = {title: f"{{{key}:.2f}}" for title, key in columns.items()}
    show(f"report.html, medians of {config.rounds} rounds", "page", rows, layouts)
    for name, row in rows.items():
        print(target(f"{name}: MB", row["megabytes"], MOST_MEGABYTES))
        print(target(f"{name}: first screen, s", row["first"], MOST_FIRST))
        print(target(f"{name}: a neuron shown, s", row["neuron"], MOST_SHOWN))
    save("report_page", config, rows=rows)


def _write(config: Config, folder: Path) -> dict[str, Path]:
    """The pages by the name of their run."""
    made = folder / "made.html"
    sizes = (str(config.layers), str(config.units))
    subprocess.run([sys.executable, str(MADE), str(made), *sizes], check=True)
    pages = {f"made, {config.layers} x {config.units:,}": made}
    if config.run is not None:
        pages[str(config.run)] = write_report(load_run(config.run), folder / "run.html")
    return pages


def _open(pages: Mapping[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of every page, median over the rounds."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("GRAMMAR_LENS_CHROMIUM") or shutil.which("chromium")
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(rounds + 1):
            for name, path in pages.items():
                taken[name].append(_visit(browser, path))
        browser.close()
    return {
        name: {x: statistics.median(s[x] for s in seconds[1:]) for x in _TIMES}
        | {"drawn_slowest": max(s["drawn"] for s in seconds[1:])}
        for name, seconds in taken.items()
    }


def _visit(browser: Any, path: Path) -> dict[str, float]:
    """Two visits: the first screen; a neuron looked up as soon as the page takes input."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector("#plot-lesion-matrix svg", timeout=120_000)
    first = page.evaluate(_NOW)
    page.wait_for_selector("#plot-lesion-matrix svg.main-svg", timeout=120_000)
    matrix = page.evaluate(_NOW)
    page.close()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{path.as_uri()}?open=all", wait_until="domcontentloaded")
    page.fill("#neuron-address", "0.0")
    page.press("#neuron-address", "Enter")
    page.wait_for_selector("#neuron-panel[data-shown$='-0.0']", timeout=120_000)
    neuron = page.evaluate(_NOW)
    page.wait_for_selector("html[data-drawn=yes]", timeout=120_000)
    seconds = (first, matrix, page.evaluate(_LOADED), neuron, page.evaluate(_NOW))
    page.close()
    return dict(zip(_TIMES, seconds, strict=True))


if __name__ == "__main__":
    start_page(main, Config, __doc__)
