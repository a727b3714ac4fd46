"""The report: right numbers, safe text, nothing loaded, and it works in a real browser."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_figures import HOSTILE, LABELS, made_moments, made_probe, made_study

from grammar_lens import figures
from grammar_lens import report as report_module
from grammar_lens.dissociation import LesionStudy
from grammar_lens.moments import Moments
from grammar_lens.probing import ProbeResult
from grammar_lens.report import write_figures, write_report
from grammar_lens.selection import KeyNeurons, select
from grammar_lens.selectivity import Scores, score


@dataclass(frozen=True)
class Results:
    position: str
    moments: dict[str, Moments]
    scores: Scores
    keys: KeyNeurons
    probe: ProbeResult | None


@dataclass
class MadeRun:
    """What a report needs of a run."""

    record: dict[str, Any]
    summary: dict[str, Any]
    results: dict[str, Results]
    study: LesionStudy | None
    path: Path = Path("runs/made")

    @property
    def positions(self) -> tuple[str, ...]:
        return tuple(self.results) or ("word", "next")

    def has(self, step: str) -> bool:
        return bool(self.results)

    def at(self, position: str) -> Results:
        return self.results[position]


RECORD = {
    "schema": 1,
    "config": {"model": "m", "top_k": 6, "positions": ["word", "next"], "dtype": None},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "commit": "0123abc",
    "started": "2026-11-05T06:31:00+00:00",
    "model": {"name": "m", "fingerprint": "f1d2"},
}
SUMMARY = {
    "alignment": {
        "words": 1000,
        "aligned": 980,
        "skipped": {"shares a token with a neighbour": 20},
        "not_read": {"word": {"shares a token with a neighbour": 20}, "next": {"label missing": 7}},
    }
}


def made_run(labels: tuple[str, ...] = LABELS, model: str = "m", **changes: Any) -> MadeRun:
    results = {}
    for position in ("word", "next"):
        moments = made_moments(labels, model=model, position=position)
        scores = score(moments)
        probe = made_probe(labels, model=model, position=position)
        results[position] = Results(
            position, {"neuron": moments}, scores, select(scores, k=12), probe
        )
    run = MadeRun(RECORD, SUMMARY, results, made_study(labels, model=model))
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def report(run: MadeRun, folder: Path) -> str:
    return write_report(run, folder / "report.html").read_text("utf-8")


class Page(HTMLParser):
    """Tags with their attributes, scripts, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag in ("td", "dt", "dd", "div"):
            self.text += " "
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, so_far = self.scripts[-1]
            self.scripts[-1] = (attributes, so_far + data)
        elif not self._inside:
            self.text += data

    def data(self) -> dict[str, dict[str, Any]]:
        """The figures' JSON by the id of their script."""
        return {
            str(a["id"]): json.loads(text)
            for a, text in self.scripts
            if "json" in str(a.get("type"))
        }

    def code(self) -> list[str]:
        return [text for a, text in self.scripts if "type" not in a]


def test_first_screen_has_question_verdict_and_numbers(tmp_path: Path) -> None:
    run = made_run()
    study = run.study
    assert study is not None
    text = Page(report(run, tmp_path)).text
    assert "Which neurons of m carry part of speech, and do they matter?" in text
    assert study.verdict() in text
    assert "random neurons 0.600" in text
    assert "majority label 0.400" in text
    assert f"other words {figures.number(study.off_diagonal_mean, 3, plus=True)}" in text
    sham = figures.number(float(np.diag(study.sham_mean).mean()), 3, plus=True)
    assert f"own words, shams {sham}" in text
    assert f"p = {study.p_value:.3f} 20 shams" in text
    assert "the least it can be is 0.048" in text


def test_page_holds_methods_settings_provenance_and_citation(tmp_path: Path) -> None:
    text = Page(report(made_run(), tmp_path)).text
    for part in (
        "5 November 2026",
        "980 of 1,000 training words could be matched to tokens of the model (98.0 %)",
        "training, read at “next” label missing 7",
        "lesion study, fresh words first of its sentence 77",
        "Point-biserial correlation",
        "top k 6",
        "positions word, next",
        "versions / torch 2.13.0",
        "model / fingerprint f1d2",
        "NOUN and VERB 0.001 1.50 0.90 confirmed",
        "3 fresh sentences that also stand in the training data were dropped",
        "arXiv 2511.06519",
    ):
        assert part in text


def test_figures_of_the_page_are_those_of_the_results(tmp_path: Path) -> None:
    run = made_run()
    data = Page(report(run, tmp_path)).data()
    assert set(data) == {
        *(f"data-heatmap-{p}-{i}" for p in ("word", "next") for i in (1, 2, 3)),
        *(
            f"data-{n}-{p}"
            for n in ("profile", "overlap", "accuracy", "confusion")
            for p in ("word", "next")
        ),
        *("data-lesion-matrix-1", "data-lesion-matrix-2", "data-lesion-null"),
    }
    expected = figures.layer_neuron_heatmap(run.at("next").scores, "VERB")
    assert data["data-heatmap-next-2"] == json.loads(expected.to_json())


def test_key_table_has_every_label_with_score_and_effect(tmp_path: Path) -> None:
    run = made_run()
    text = Page(report(run, tmp_path)).text
    scores = run.at("word").scores
    value = figures.number(scores["VERB"][1, 17], 3, plus=True)
    effect = figures.number(scores.effect[1, 1, 17], 3, plus=True)
    assert f"VERB 1 1.17 {value} {effect}" in text
    assert f"{len(run.at('word').keys.union())} of them are key to some tag" in text


def test_markup_from_outside_does_nothing(tmp_path: Path) -> None:
    run = made_run(
        (HOSTILE, "</script><b>", "'\"><img src=x>"),
        model=f"{HOSTILE}<!--",
        record={"config": {"train": HOSTILE}, HOSTILE: [HOSTILE]},
        summary={"alignment": {"not_read": {"word": {HOSTILE: 1}}}},
    )
    html = report(run, tmp_path)
    page = Page(html)
    assert html.count("<script>") == 2  # plotly.js and the page's own
    assert "alert(1)</script>" not in html
    assert "img" not in {tag for tag, _ in page.tags}
    assert f"Which neurons of {HOSTILE}<!-- carry" in page.text
    assert len(page.data()) == 17
    chosen = [a for tag, a in page.tags if tag == "div" and "heatmap" in str(a.get("id"))]
    assert HOSTILE in str(chosen[0]["aria-label"])


def test_json_in_a_script_cannot_end_it() -> None:
    text = json.dumps("</script><!--&\u2028", ensure_ascii=False)
    safe = report_module._script_json(text)
    assert not set("<>&\u2028") & set(safe)
    assert json.loads(safe) == json.loads(text)


def test_nothing_is_loaded(tmp_path: Path) -> None:
    html = report(made_run(), tmp_path)
    page = Page(html)
    assert sum("plotly.js v" in code for code in page.code()) == 1
    loaded = [
        value
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action", "poster")
        or (tag == "link" and name == "href")
    ]
    assert loaded == ["data:,"]
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert not re.search(r"url\(|@import", "".join(style))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert str(policy).startswith("default-src 'none'")


def test_page_is_accessible_by_structure(tmp_path: Path) -> None:
    page = Page(report(made_run(), tmp_path))
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for name in ("for", "aria-labelledby", "data-plot", "data-table", "data-count"):
            if name in attributes and tag != "script":
                assert attributes[name] in ids
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
    assert [t for t, _ in page.tags].count("h1") == 1
    assert ("html", {"lang": "en"}) in page.tags


def test_steps_not_yet_run_are_named(tmp_path: Path) -> None:
    nothing = Page(report(made_run(results={}, study=None, summary={}, record={}), tmp_path))
    for part in (
        "Nothing can be said yet",
        "The probe has not been run yet",
        "The lesion study has not been run yet",
        "The neurons have not been scored and chosen yet",
        "No words have been read yet",
        "This run has no record of how it was made",
    ):
        assert part in nothing.text
    assert nothing.data() == {}

    run = made_run(study=None)
    probed = Page(report(run, tmp_path)).text
    assert "with accuracy 0.850, as many random neurons with 0.600" in probed
    assert "no lesion study has been run" in probed

    run = made_run()
    run.results = {p: replace(r, probe=None) for p, r in run.results.items()}
    unprobed = Page(report(run, tmp_path))
    assert "The probe has not been run yet" in unprobed.text
    assert "data-confusion-word" not in unprobed.data()

    no_shams = Page(report(made_run(study=made_study(n_shams=0)), tmp_path))
    assert "The lesion study has no shams" in no_shams.text
    assert "data-lesion-null" not in no_shams.data()
    assert "data-lesion-matrix-2" not in no_shams.data()


def test_other_labels_name_the_question(tmp_path: Path) -> None:
    run = made_run()
    for position, r in run.results.items():
        origin = replace(r.scores.origin, label="feats:Number")
        run.results[position] = replace(r, scores=replace(r.scores, origin=origin))
    assert "carry number, and do they matter?" in Page(report(run, tmp_path)).text


def test_report_of_17_tags_stays_small(tmp_path: Path) -> None:
    labels = tuple(f"TAG{i}" for i in range(17))
    run = made_run()
    for position, r in run.results.items():
        scores = score(made_moments(labels, position=position, shape=(8, 896)))
        run.results[position] = replace(r, scores=scores, keys=select(scores, k=100))
    assert write_report(run, tmp_path / "r.html").stat().st_size < 12e6


def test_figures_lie_beside_one_plotly_js(tmp_path: Path) -> None:
    run = made_run(("a/b", "..", HOSTILE))
    files = write_figures(run, tmp_path / "figures")
    names = sorted(f.name for f in files)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == names
    assert "heatmap-word-01-a-b.html" in names
    assert "heatmap-next-02-label.html" in names
    assert {"plotly.min.js", "layer-profile-word.html", "overlap-next.html"} <= set(names)
    assert {"probe-word.html", "confusion-next.html"} <= set(names)
    assert {"lesion-matrix.html", "lesion-matrix-minus-shams.html", "lesion-null.html"} <= set(
        names
    )
    for file in files:
        if file.suffix == ".html":
            html = file.read_text("utf-8")
            assert re.findall(r"<script[^>]* src=\"([^\"]*)\"", html) == ["plotly.min.js"]
            assert "<script>alert" not in html
            assert len(html) < 1e6


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium that is already installed; nothing is downloaded."""
    found = os.environ.get("GRAMMAR_LENS_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if not found:
        pytest.skip("no Chromium: install it or set GRAMMAR_LENS_CHROMIUM to its path")
    sync_api = pytest.importorskip("playwright.sync_api")
    arguments = (
        *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update"),
    )
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=list(arguments))
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The report of a run with hostile names, drawn; any error or request fails the test."""
    path = write_report(made_run(("NOUN", "VERB", HOSTILE), model=HOSTILE), tmp_path / "r.html")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.on("dialog", lambda d: (faults.append(d.message), d.dismiss()))
    page.on("request", lambda r: r.url == path.as_uri() or faults.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
    yield page
    page.close()
    assert faults == []


@pytest.mark.browser
def test_browser_draws_all_figures_and_hostile_names(opened: Any) -> None:
    assert opened.locator(".plot").count() == 12
    assert opened.locator(".plot .main-svg .xy, .plot .main-svg .subplot").count() >= 12
    assert HOSTILE in opened.locator("h1").inner_text()
    # the label stands in the matrix as it was written
    ticks = opened.locator("#plot-lesion-matrix .ytick text").all_text_contents()
    assert HOSTILE in ticks
    buttons = opened.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title)")
    assert buttons
    assert not [b for b in buttons if re.search("share|cloud|studio", b, re.IGNORECASE)]


@pytest.mark.browser
def test_browser_tag_selector_by_keyboard(opened: Any) -> None:
    plot = opened.locator("#plot-heatmap-word")
    assert "Where NOUN is" in plot.locator(".gtitle").first.text_content()
    opened.locator("#choose-heatmap-word").focus()
    opened.keyboard.press("ArrowDown")
    opened.wait_for_function(
        "document.querySelector('#plot-heatmap-word .gtitle').textContent.includes('VERB')"
    )
    assert "strongest is neuron 1.17" in plot.get_attribute("aria-label")
    opened.select_option("#choose-heatmap-word", index=2)
    opened.wait_for_function(
        "document.querySelector('#plot-heatmap-word .gtitle').textContent.includes('<script>')"
    )
    # the other position keeps its tag
    assert "NOUN" in opened.locator("#plot-heatmap-next .gtitle").first.text_content()


@pytest.mark.browser
def test_browser_hover_names_the_marked_neuron(opened: Any) -> None:
    opened.select_option("#choose-heatmap-word", label="VERB")
    opened.wait_for_function(
        "document.querySelector('#plot-heatmap-word .gtitle').textContent.includes('VERB')"
    )
    # scatter points are drawn strongest first
    opened.locator("#plot-heatmap-word .scatterlayer .point").first.hover(force=True)
    opened.wait_for_selector("#plot-heatmap-word .hovertext")
    assert "no. 1: neuron 1.17" in opened.locator("#plot-heatmap-word .hovertext").text_content()


@pytest.mark.browser
def test_browser_sorts_and_filters_the_table(opened: Any) -> None:
    def column(n: int) -> list[str]:
        rows = opened.locator("#keys-word tbody tr:not([hidden])")
        return rows.evaluate_all(f"all => all.map(r => r.cells[{n}].textContent)")

    button = opened.locator("#keys-word thead button").nth(3)
    button.focus()
    opened.keyboard.press("Enter")
    values = [float(x.replace("\N{MINUS SIGN}", "-")) for x in column(3)]
    assert len(values) == 30
    assert values == sorted(values)
    assert button.locator("..").get_attribute("aria-sort") == "ascending"
    opened.keyboard.press("Enter")
    assert float(column(3)[0].replace("\N{MINUS SIGN}", "-")) == max(values)
    assert button.locator("..").get_attribute("aria-sort") == "descending"
    opened.locator("#keys-word thead button").nth(0).click()
    assert column(0) == [HOSTILE] * 10 + ["NOUN"] * 10 + ["VERB"] * 10
    assert button.locator("..").get_attribute("aria-sort") is None
    opened.fill("#keys-word-search", "verb 1.17")
    assert "1.17" in column(2)
    assert set(column(2)) == {"1.17"}
    assert opened.locator("#keys-word-count").text_content() == f"{len(column(2))} of 30 rows"


@pytest.mark.browser
def test_browser_prints_within_the_page(opened: Any) -> None:
    assert opened.pdf(format="A4").startswith(b"%PDF")
    widths = opened.locator("main svg.main-svg").evaluate_all(
        "all => all.map(s => s.getBoundingClientRect().width)"
    )
    assert min(widths) > 700  # back to the window's width afterwards
