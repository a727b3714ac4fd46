"""Several runs on one page: named apart, differences told, the same neurons found again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_figures import HOSTILE, LABELS
from made_runs import MadeRun, Page, made_run
from typer.testing import CliRunner
from watched_pages import on_page

from grammar_lens.cli.app import app
from grammar_lens.errors import GrammarLensError
from grammar_lens.report import comparison_tables
from grammar_lens.report.comparison import render_comparison, write_comparison
from grammar_lens.report.comparison_families import agreements, run_pairs
from grammar_lens.report.result_tables import DASH


def made_record(run: MadeRun, weights: str = "w1", **config: Any) -> dict[str, Any]:
    record = dict(run.record)
    record["config"] = {**record["config"], **config}
    record["model"] = {**record["model"], "weights": weights}
    return record


def a_run(path: str, weights: str = "w1", **config: Any) -> MadeRun:
    run = made_run(path=Path(path))
    run.record = made_record(run, weights, **config)
    return run


@pytest.fixture(scope="module")
def runs() -> list[MadeRun]:
    return [a_run("runs/one"), a_run("runs/two", top_k=7, label="xpos")]


def test_runs_are_named_by_what_tells_them_apart(runs: list[MadeRun]) -> None:
    assert list(comparison_tables.named(runs)) == ["one", "two"]
    alike = [a_run("a/demo"), a_run("b/demo"), a_run("b/other")]
    assert list(comparison_tables.named(alike)) == ["a/demo", "b/demo", "b/other"]


def test_one_run_or_the_same_twice_is_refused(runs: list[MadeRun]) -> None:
    with pytest.raises(GrammarLensError, match="1 run given, expected 2 or more"):
        comparison_tables.named(runs[:1])
    with pytest.raises(GrammarLensError, match="runs/one is given twice"):
        comparison_tables.named([*runs, a_run("runs/one")])


def test_settings_that_differ_stand_apart_from_those_that_do_not(runs: list[MadeRun]) -> None:
    differing, same = comparison_tables.settings(comparison_tables.named(runs))
    assert differing.columns == ("Setting", "one", "two")
    texts = [[text for text, _ in row] for row in differing.rows]
    assert texts == [["top k", "6", "7"], ["label", DASH, "xpos"]]
    assert ("model", "m") in same


def test_what_stands_in_the_way_is_told(runs: list[MadeRun]) -> None:
    told = comparison_tables.cautions(comparison_tables.named(runs))
    assert told == [
        f"The label differs ({DASH}, xpos): accuracies and losses are of different questions.",
        "The number of key neurons differs (6, 7): a larger set does more damage.",
    ]
    assert comparison_tables.cautions(comparison_tables.named([a_run("x"), a_run("y")])) == []


def test_neurons_in_common_are_those_planted() -> None:
    first, second = a_run("one"), a_run("two")
    for position, found in second.results.items():
        label = found.keys.labels[0]
        # half of the first label's neurons are others now: those of the second label's set
        mine = found.keys[label]
        gone = set(mine.top(6))
        n_units = found.keys.n_units
        free = [
            (la, i)
            for la in range(found.keys.n_layers)
            for i in range(n_units)
            if (la, i) not in set(mine)
        ][:6]
        layer, index = mine.layer.copy(), mine.index.copy()
        layer[:6], index[:6] = zip(*free, strict=True)
        assert gone.isdisjoint(free)
        sets = {**found.keys.sets, label: replace(mine, layer=layer, index=index)}
        second.results[position] = replace(found, keys=replace(found.keys, sets=sets))
    found = agreements(run_pairs(comparison_tables.named([first, second])))
    assert [a.position for a in found] == ["word", "next"]
    share = found[0].share
    assert share[0, 0] == share[1, 1] == 1
    n = len(LABELS)
    assert share[0, 1] == share[1, 0] == pytest.approx((n - 1 + 0.5) / n)
    assert 0 < found[0].expected[0, 1] < share[0, 1]


def test_runs_of_other_labels_share_nothing() -> None:
    other = made_run(("A", "B", "C"), path=Path("two"))
    other.record = made_record(other)
    (word, _) = agreements(run_pairs(comparison_tables.named([a_run("one"), other])))
    assert np.isnan(word.share[0, 1])
    assert word.share[1, 1] == 1


def test_numbers_of_the_page_are_those_of_the_results(runs: list[MadeRun]) -> None:
    page = Page(render_comparison(runs))
    probe, study = runs[0].results["word"].probe, runs[0].study
    assert probe is not None
    assert study is not None
    assert f"{probe.accuracy:.3f}" in page.text
    assert f"{probe.word_baseline_accuracy:.3f}" in page.text
    assert f"{study.diagonal_mean:+.3f}" in page.text
    assert "2 runs side by side" in page.text
    assert "Read with care" in page.text


def test_runs_that_lack_steps_are_named() -> None:
    bare = made_run(path=Path("bare"), results={}, study=None, curves={}, course=None)
    text = Page(render_comparison([bare, a_run("full")])).text
    assert "No lesion study in bare" in text
    empty = made_run(path=Path("none"), results={}, study=None, curves={}, course=None)
    assert "2 runs side by side" in Page(render_comparison([bare, empty])).text


def hostile_runs() -> list[MadeRun]:
    labels = ("NOUN", "VERB", HOSTILE)
    found = [made_run(labels, model=HOSTILE, path=Path(f"{HOSTILE}-{i}")) for i in range(2)]
    for run in found:
        run.record = made_record(run)
    return found


def test_markup_from_outside_does_nothing() -> None:
    page = Page(render_comparison(hostile_runs()))
    kinds = [attributes.get("type") for attributes, _ in page.scripts]
    assert set(kinds) == {None, "text/plain"}
    assert kinds.count(None) == 2
    assert "img" not in {tag for tag, _ in page.tags}


@pytest.mark.browser
def test_browser_shows_it_without_network_or_error(browser: Any, tmp_path: Path) -> None:
    path = write_comparison(hostile_runs(), tmp_path / "compare.html")
    with on_page(browser, path, drawn=True) as page:
        assert page.locator(".plot .main-svg").count() >= 8
        table = page.locator("#labels-word")
        table.locator("thead button").first.click()
        first = table.locator("tbody tr td").first
        assert first.inner_text() == min("NOUN", "VERB", HOSTILE)


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "none"), str(tmp_path)])
    assert done.exit_code == 2
    assert "is no run directory" in done.output
