"""The neuron pages, hostile text and large runs in a real browser, which nothing may upset."""

import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import MadeRun, made_examples, made_run
from watched_pages import on_page, serious
from wide_runs import wide_run

import grammar_lens as gl
from grammar_lens.figures.style import number
from grammar_lens.report.files import write_figures
from grammar_lens.report.page import write_report
from grammar_lens.runs.pipeline import run_all
from grammar_lens.runs.settings import Config

pytestmark = pytest.mark.browser

SCRIPT = "<script>alert(1)</script>"
ARABIC = "\u0643\u062a\u0627\u0628"
TURNED = "\u202eabc"
LONG = "W" * 500
HOSTILE_WORDS = (
    *(" The", f" {SCRIPT}", " \"><img src=x onerror='alert(2)'>", " \U0001f600", f" {ARABIC}"),
    *(f" {TURNED}", "\n", "\x00", f" {LONG}", "</p>", " %{x} &amp;", "."),
)
HOSTILE_LABELS = ("NOUN", f'V"{SCRIPT}', "\U0001f600 & \u05e2\u05d1\u05e8")


@pytest.fixture(scope="module")
def run() -> MadeRun:
    return made_run()


@pytest.fixture(scope="module")
def path(run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(run, tmp_path_factory.mktemp("report") / "r.html")


def wait_for_answer(page: Any) -> None:
    """Waits until a neuron that was asked for is announced: the panel may have shown it before, unasked."""
    page.wait_for_function(
        "() => document.querySelector('#neuron-said').textContent.startsWith('Shown: ')"
    )


def shown(page: Any) -> str:
    return str(page.locator("#neuron").inner_text())


class TestNeuronPages:
    def test_search_by_keyboard_alone(self, browser: Any, path: Path, run: MadeRun) -> None:
        with on_page(browser, path, "?open=neurons") as page:
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            for _ in range(400):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.id") == "neuron-address":
                    break
            page.wait_for_selector("#neuron-panel[data-shown]")  # the first, unasked
            page.keyboard.type("1.17")
            page.keyboard.press("Enter")
            wait_for_answer(page)
            page.wait_for_selector("#neuron-panel[data-shown='next-1.17']")
            score = number(run.at("next").scores["VERB"][1, 17], 3, plus=True)
            said = page.locator("#neuron-said")
            assert said.get_attribute("role") == "status"
            words = said.text_content()
            assert words.startswith("Shown: neuron 1.17. No. 1 of ")
            assert "Key for NOUN, VERB, ADJ." in words
            assert page.url.endswith("#neuron-next-1.17")
            # the field keeps the focus for the next address
            assert page.evaluate("document.activeElement.id") == "neuron-address"
            assert score in shown(page)

    def test_what_is_no_address_and_no_neuron_is_said(self, browser: Any, path: Path) -> None:
        with on_page(browser, path, "?open=all") as page:
            field, said = page.locator("#neuron-address"), page.locator("#neuron-said")
            for asked, answer in (
                ("five", "A layer and a number within it are expected, such as 5.123."),
                ("3.1", "There is no neuron 3.1: layers are 0 to 2, neurons 0 to 39."),
                ("1.40", "There is no neuron 1.40: layers are 0 to 2, neurons 0 to 39."),
            ):
                field.fill(asked)
                field.press("Enter")
                page.wait_for_function(
                    "w => document.querySelector('#neuron-said').textContent === w", arg=answer
                )
                assert field.get_attribute("aria-invalid") == "true"
            field.fill(" 1 , 17 ")
            field.press("Enter")
            wait_for_answer(page)
            page.wait_for_selector("#neuron-panel[data-shown='next-1.17']")
            assert field.get_attribute("aria-invalid") is None
            assert "Shown" in said.text_content()

    def test_a_link_opens_the_neuron_with_everything(
        self,
        browser: Any,
        path: Path,
        run: MadeRun,
    ) -> None:
        with on_page(browser, path, "#neuron-word-1.17") as page:
            assert page.locator("#neuron-name").inner_text() == "Neuron 1.17 read at “word”"
            assert page.evaluate("document.activeElement.id") == "neuron-name"
            top = "() => document.querySelector('#neuron-panel').getBoundingClientRect().top"
            assert -5 < page.evaluate(top) < 300
            page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
            assert page.locator(".still").count() == 0
            assert page.locator("#plot-lesion-matrix .heatmaplayer").count() == 1
            assert -5 < page.evaluate(top) < 300  # figures above it do not push it away
            result = run.at("word")
            rows = page.locator("#neuron-tags tbody tr").evaluate_all(
                "all => all.map(r => [...r.cells].map(c => c.dataset.key))"
            )
            assert [row[0] for row in rows] == ["NOUN", "VERB", "ADJ"]
            means = result.moments["neuron"].mean[:, 1, 17]
            for row, label, mean, contrast in zip(
                rows, ("NOUN", "VERB", "ADJ"), means, (-1, 0, 1), strict=True
            ):
                c = result.scores.labels.index(label)
                # exact to single precision; means and contrasts to 11 bits
                assert float(row[1]) == np.float32(result.scores.values[c, 1, 17])
                assert float(row[2]) == np.float32(result.scores.effect[c, 1, 17])
                assert float(row[3]) == pytest.approx(mean, rel=2**-11)
                assert float(row[4]) == pytest.approx(contrast, abs=1e-3)
            assert rows[1][5] == "1"
            # sorts as every table does
            page.locator("#neuron-tags thead button").nth(1).click()
            order = page.locator("#neuron-tags tbody tr").evaluate_all(
                "all => all.map(r => +r.cells[1].dataset.key)"
            )
            assert order == sorted(order)
            boxes = page.locator("svg.boxes")
            assert boxes.get_attribute("role") == "img"
            words = boxes.get_attribute("aria-label")
            assert words.endswith("Medians: VERB 1.30, NOUN 0.300.")
            assert page.locator("svg.boxes g").count() == 2  # the third label has no words
            pieces = page.locator(".piece").all_text_contents()
            assert pieces == ["·to", "⏎", "·of"]
            top_, bottom = page.locator(".passages").all()
            assert "+3.00 at “dog”, NOUN made.conllu:7" in " ".join(top_.inner_text().split())
            read = top_.locator(".token.read")
            assert read.text_content() == "dog"
            assert read.get_attribute("title") == "+3.00"
            assert top_.locator(".token").last.get_attribute("title") == "+5.00"
            warm = top_.locator(".token").last.evaluate("e => e.style.backgroundColor")
            cool = bottom.locator(".token").last.evaluate("e => e.style.backgroundColor")
            assert (warm, cool) == ("rgb(238, 150, 98)", "rgb(125, 180, 222)")
            page.locator("#neuron-values").check()
            after = read.evaluate("e => getComputedStyle(e, '::after').content")
            assert "+3.00" in after

    def test_at_next_the_word_is_underlined_and_the_token_before_outlined(
        self,
        browser: Any,
        path: Path,
    ) -> None:
        with on_page(browser, path, "#neuron-next-1.17") as page:
            first = page.locator(".passages").first
            assert first.locator(".token.read").text_content() == "old"
            assert first.locator(".token.word").text_content() == "dog"
            assert "before “dog”" in first.inner_text()

    def test_a_neuron_without_sentences_says_how_to_get_them(
        self, browser: Any, path: Path
    ) -> None:
        with on_page(browser, path, "#neuron-word-0.3") as page:
            text = " ".join(shown(page).split())
            assert 'run.neuron(0, 3, position="word")' in text
            assert "grammar-lens neuron RUN 0.3" in text
            page.select_option("#neuron-position", "next")
            page.wait_for_selector("#neuron-panel[data-shown='next-0.3']")
            assert "run.neuron(0, 3)" in shown(page)

    def test_table_cells_and_marks_lead_to_neurons(self, browser: Any, path: Path) -> None:
        with on_page(browser, path, drawn=True) as page:
            page.fill("#keys-word-search", "VERB 1.17")
            page.locator("#keys-word tbody tr:not([hidden]) a").first.click()
            page.wait_for_selector("#neuron-panel[data-shown='word-1.17']")
            page.fill("#neuron-address", "0.0")
            page.locator("#neuron-form button").click()
            page.wait_for_selector("#neuron-panel[data-shown='word-0.0']")
            page.select_option("#choose-heatmap-next", label="VERB")
            page.wait_for_function(
                "() => document.querySelector('#plot-heatmap-next .gtitle').textContent.includes('VERB')"
            )
            mark = page.locator("#plot-heatmap-next .scatterlayer .point").first
            mark.scroll_into_view_if_needed()
            box = mark.bounding_box()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.wait_for_selector("#plot-heatmap-next.leading")
            page.mouse.down()
            page.mouse.up()
            page.wait_for_selector("#neuron-panel[data-shown='next-1.17']")
            page.go_back()
            page.wait_for_selector("#neuron-panel[data-shown='word-0.0']")

    def test_the_list_sorts_filters_and_pages(self, browser: Any, path: Path, run: MadeRun) -> None:
        def column(n: int) -> list[str]:
            return page.locator("#neuron-list tbody tr").evaluate_all(
                f"all => all.map(r => r.cells[{n}].textContent)"
            )

        with on_page(browser, path, "?open=neurons") as page:
            said = page.locator("#neuron-rows")
            page.locator("#neuron-tag").scroll_into_view_if_needed()
            page.wait_for_function("() => document.querySelector('#neuron-rows').textContent")
            page.select_option("#neuron-tag", "VERB")
            assert said.text_content() == "Rows 1 to 100 of 120"
            assert column(1)[0] == "1.17"
            assert len(column(0)) == 100
            page.locator("#neuron-on").click()
            assert said.text_content() == "Rows 101 to 120 of 120"
            assert column(0)[-1] == "120"
            assert page.locator("#neuron-on").is_disabled()
            page.locator("#neuron-back").click()
            assert column(0)[0] == "1"
            head = page.locator("#neuron-list thead button").nth(2)
            head.focus()
            page.keyboard.press("Enter")
            values = [float(x.replace("\N{MINUS SIGN}", "-")) for x in column(2)]
            assert values == sorted(values)
            assert page.evaluate("document.activeElement.textContent") == "correlation r"
            page.keyboard.press("Enter")
            largest = number(run.at("next").scores["VERB"].max(), 3, plus=True)
            assert column(2)[0] == largest
            assert page.locator("#neuron-list th[aria-sort=descending]").count() == 1
            page.fill("#neuron-filter", "1.17")
            assert column(1) == ["1.17"]
            assert said.text_content() == "Rows 1 to 1 of 1, found among 120"
            page.fill("#neuron-filter", "2.9 noun adj")
            assert "No row of 120 fits" in said.text_content() or set(column(1)) <= {"2.9"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose every text is hostile."""
    run = made_run(HOSTILE_LABELS, model=f"{SCRIPT}{TURNED}")
    for position, found in run.results.items():
        run.examples[position] = made_examples(found.keys, HOSTILE_WORDS, f"{SCRIPT}:{ARABIC}")
    return write_report(run, tmp_path_factory.mktemp("hostile") / "r.html")


class TestHostileText:
    def test_words_labels_and_names_are_shown_and_do_nothing(
        self,
        browser: Any,
        hostile: Path,
    ) -> None:
        with on_page(browser, hostile, "#neuron-word-1.17") as page:
            tokens = page.locator(".passages .token").all_text_contents()
            n = len(HOSTILE_WORDS)
            want = [w.strip(" ") for w in HOSTILE_WORDS]
            want[5], want[6], want[7] = "\\u202eabc", "\u23ce", "\\u0000"
            assert tokens[:n] == want
            assert page.locator("img").count() == 0
            assert not page.locator("#lacking").is_visible()
            assert page.locator(".passage").first.get_attribute("dir") == "auto"
            labels = page.locator("#neuron-tags bdi").all_text_contents()
            assert labels == list(HOSTILE_LABELS)
            options = page.locator("#neuron-tag option").all_text_contents()
            assert options == list(HOSTILE_LABELS)
            page.select_option("#neuron-tag", index=1)
            assert page.locator("#neuron-list tbody tr").count() == 100
            # nothing runs over the page's edge, however long a token is
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280

    def test_drawn_it_has_no_serious_fault_and_fits_a_telephone(
        self, browser: Any, hostile: Path
    ) -> None:
        with on_page(browser, hostile, "#neuron-word-1.17", drawn=True) as page:
            assert serious(page) == []
            page.set_viewport_size({"width": 390, "height": 900})
            # figures are drawn anew at the new width
            page.wait_for_function("() => document.documentElement.scrollWidth <= 390")


@pytest.fixture(scope="module")
def drawn(browser: Any, path: Path) -> Iterator[Any]:
    """The report with a neuron open and all figures drawn; tests that change the page come last."""
    with on_page(browser, path, "#neuron-next-1.17", drawn=True) as page:
        page.locator("#lesions details").evaluate_all("all => all.forEach(d => d.open = true)")
        yield page


class TestAccess:
    def test_axe_finds_no_serious_fault(self, drawn: Any) -> None:
        assert serious(drawn) == []

    def test_headings_are_in_order_and_figures_have_words(self, drawn: Any) -> None:
        levels = drawn.locator("h1, h2, h3, h4").evaluate_all("all => all.map(h => +h.tagName[1])")
        assert all(b <= a + 1 for a, b in pairwise(levels))
        assert levels.count(1) == 1
        images = drawn.locator("[role=img]").evaluate_all(
            "all => all.map(i => i.getAttribute('aria-label'))"
        )
        assert len(images) > 20
        assert all(len(words) > 20 for words in images)

    def test_every_figure_has_a_caption_and_long_tables_a_search(self, drawn: Any) -> None:
        assert drawn.locator("figure:not(:has(figcaption))").count() == 0
        assert drawn.locator("table:not(.sortable):not(#neuron-list)").count() == 0
        bare = drawn.locator("table.sortable").evaluate_all(
            """all => all.filter(t => t.tBodies[0].rows.length > 10
            && !document.querySelector(`input[data-table='${t.id}']`)).map(t => t.id)"""
        )
        assert bare == []

    def test_reduced_motion_is_honoured(self, drawn: Any) -> None:
        motion = "getComputedStyle(document.documentElement).scrollBehavior"
        assert drawn.evaluate(motion) == "smooth"
        drawn.emulate_media(reduced_motion="reduce")
        assert drawn.evaluate(motion) == "auto"

    def test_nor_on_a_telephone(self, drawn: Any) -> None:
        drawn.set_viewport_size({"width": 390, "height": 900})
        assert serious(drawn) == []

    def test_nor_in_an_empty_run(self, browser: Any, tmp_path: Path) -> None:
        run = made_run(results={}, study=None, summary={}, record={}, examples={}, course=None)
        with on_page(browser, write_report(run, tmp_path / "r.html")) as page:
            assert serious(page) == []


def test_printed_with_the_neuron_and_within_the_paper(browser: Any, path: Path) -> None:
    with on_page(browser, path) as page:
        assert page.pdf(format="A4").startswith(b"%PDF")
        assert page.locator("#neuron-name").count() == 1  # printing asks for the first
        # also figures that were not drawn yet are wider again than on paper, 640 pixels
        page.wait_for_function(
            "() => [...document.querySelectorAll('.plot')].every(plot => "
            "plot.querySelector('svg.main-svg')?.getBoundingClientRect().width > 660)"
        )


def test_panels_side_by_side_keep_a_width_on_a_telephone(browser: Any, path: Path) -> None:
    with on_page(browser, path, drawn=True, width=420) as page:
        titles = page.locator("#plot-controls-next .annotation-text").evaluate_all(
            "all => all.map(a => a.getBoundingClientRect()).map(b => [b.left, b.right])"
        )
        (_, end), (start, _) = sorted(titles)[:2]
        assert end < start, "titles of panels do not overlap"
        plot = page.locator("#plot-controls-next")
        assert plot.evaluate("p => p.scrollWidth > p.clientWidth")
        assert plot.get_attribute("tabindex") == "0"  # scrolled by keyboard too
        assert page.locator("#plot-overlap-next").get_attribute("tabindex") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= 420


@pytest.mark.parametrize("scripts", [False, True], ids=["no scripts", "no unpacking"])
def test_a_browser_that_cannot_draw_gets_tables_and_words(
    browser: Any, path: Path, scripts: bool
) -> None:
    page = browser.new_page(java_script_enabled=scripts)
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.add_init_script("delete window.DecompressionStream")
    page.goto(f"{path.as_uri()}?open=all")
    assert page.locator("#lacking").is_visible()
    page.locator("details.fold").evaluate_all("all => all.forEach(d => d.open = true)")
    plot = page.locator("#plot-confusion-next")
    words = plot.evaluate("p => getComputedStyle(p, '::before').content")
    assert words.strip('"') == plot.get_attribute("aria-label")
    assert plot.bounding_box()["height"] < 120  # no hole where the figure would stand
    assert page.locator("#tags-next tbody tr").count() == 3
    assert page.locator("#tags-next").is_visible()
    assert not page.locator("#neuron-panel").is_visible()
    assert not page.locator("figure .chooser").first.is_visible()
    page.close()
    assert faults == []


def test_headings_open_and_the_address_remembers_them(browser: Any, path: Path) -> None:
    with on_page(browser, path) as page:
        page.wait_for_selector("html[data-drawn=yes]")
        assert page.locator("#plot-lesion-matrix svg.main-svg").count(), "the first screen is drawn"
        assert not page.locator("#plot-confusion-next svg").count(), "what is folded is not"
        page.click("nav a[href='#probe']")
        page.wait_for_selector("#plot-confusion-next svg.main-svg")
        assert page.url.endswith("?open=probe#probe")
        page.click("details[data-fold=methods] > summary")
        page.wait_for_function("() => location.search === '?open=probe,methods'")
        page.reload()
        page.wait_for_selector("#plot-confusion-next svg.main-svg")
        assert page.locator("details.fold[open]").count() == 2
        page.evaluate("location.hash = '#neuron-next-1.17'")
        page.wait_for_selector("#neuron-panel[data-shown='next-1.17']")


def opened_in(browser: Any, path: Path) -> float:
    """Seconds until a neuron page is shown, counted from before the page was asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    start = time.perf_counter()
    page.goto(f"{path.as_uri()}#neuron-next-3.7")
    page.wait_for_selector("#neuron-panel[data-shown='next-3.7']", timeout=60_000)
    seconds = time.perf_counter() - start
    page.close()
    return seconds


class TestSize:
    def test_the_page_does_not_grow_with_the_corpus(self, tmp_path: Path) -> None:
        few, many = (
            write_report(
                wide_run(("A", "B", "C"), layers=4, units=64, n_sentences=n),
                tmp_path / f"{n}.html",
            )
            for n in (100, 100_000)
        )
        assert abs(many.stat().st_size - few.stat().st_size) < 200
        assert "1,400,000 of 1,500,000 training words" in many.read_text("utf-8")

    def test_wide_layers_are_binned_and_right(self, browser: Any, tmp_path: Path) -> None:
        """17 tags, 3 layers of 4,096: a marked cell tells its neuron, and its page the score."""
        run = wide_run(layers=3, units=4096)
        path = write_report(run, tmp_path / "r.html")
        assert path.stat().st_size < 8e6
        with on_page(browser, path, drawn=True) as page:
            label = "VERB"
            page.select_option("#choose-heatmap-word", label=label)
            page.wait_for_function(
                "() => document.querySelector('#plot-heatmap-word .gtitle').textContent.includes('VERB')"
            )
            z, where = page.locator("#plot-heatmap-word").evaluate(
                "p => [p.data[0].z.map(r => [...r]), p.data[0].customdata]"
            )
            scores = run.at("word").scores[label]
            chosen = np.take_along_axis(scores, np.array(where), 1)
            # rounded to steps of 1/32,766 of the largest
            np.testing.assert_allclose(z, chosen, atol=np.abs(scores).max() / 32766 / 2 * 1.01)
            padded = np.pad(scores, ((0, 0), (0, -scores.shape[1] % 10)))
            bins = np.abs(padded).reshape(3, -1, 10)
            np.testing.assert_allclose(np.abs(chosen), bins.max(2))
            page.select_option("#neuron-position", "word")
            page.select_option("#neuron-tag", label)
            assert page.locator("#neuron-list tbody tr").count() == 100
            first = page.locator("#neuron-list tbody tr").first.locator("td").all_text_contents()
            layer, index = next(iter(run.at("word").keys[label]))
            want = number(scores[layer, index], 3, plus=True)
            assert first[:3] == ["1", f"{layer}.{index}", want]

    @pytest.mark.slow
    def test_a_run_of_llama_3_8b_size(self, browser: Any, tmp_path: Path) -> None:
        """458,752 neurons, 17 tags, two positions: under 12 MB and 5 s; half a minute to make."""
        run = wide_run()
        start = time.perf_counter()
        path = write_report(run, tmp_path / "r.html")
        seconds, size = time.perf_counter() - start, path.stat().st_size
        shown_after = opened_in(browser, path)
        print(f"{size / 1e6:.1f} MB in {seconds:.1f} s, a neuron page after {shown_after:.2f} s")
        assert size < 12e6
        assert shown_after < 5
        with on_page(browser, path, "#neuron-next-3.7", drawn=True) as page:
            assert "Neuron 3.7" in shown(page)
        start = time.perf_counter()
        files = write_figures(run, tmp_path / "figures")
        print(f"{len(files)} figures in {time.perf_counter() - start:.1f} s")
        assert max(f.stat().st_size for f in files) < 6e6


def test_it_loads_quickly(browser: Any, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    start = time.perf_counter()
    page.goto(path.as_uri())
    loaded = time.perf_counter() - start
    page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
    print(f"loaded after {loaded:.2f} s, all drawn after {time.perf_counter() - start:.2f} s")
    page.close()
    assert loaded < 3 * max(1.0, os.getloadavg()[0])  # tests beside it share two cores


def conllu(words: list[tuple[str, str]]) -> str:
    rows = [f"{i}\t{w}\t_\t{tag}" + "\t_" * 6 for i, (w, tag) in enumerate(words, 1)]
    return "\n".join(rows) + "\n"


@pytest.mark.slow
def test_a_hostile_treebank_through_the_whole_road(browser: Any, tmp_path: Path) -> None:
    """Words and tags of a file, read by the embedded model; a minute."""
    bank = gl.load_treebank()
    forms = [w.strip() for w in HOSTILE_WORDS if w.strip()]
    # held-out sentences that stand in the training data would be dropped
    for name, first in (("train", "The"), ("test", "A")):
        bad = [[(first, "DET"), (w, SCRIPT), ("sleeps", "VERB"), (".", "PUNCT")] for w in forms] * 6
        plain = [[(w.form, w.labels["upos"]) for w in s.words] for s in bank[name].sentences[:100]]
        text = "\n".join(map(conllu, plain + bad))
        (tmp_path / f"<{name}>.conllu").write_text(text, encoding="utf-8")
    out = tmp_path / "run"
    config = Config(
        train=str(tmp_path / "<train>.conllu"),
        fresh=str(tmp_path / "<test>.conllu"),
        min_words=20,
        replicates=0,
        shams=2,
        values=("mean",),
        doses=(1.0,),
        max_fresh_sentences=60,
        lesion_labels=(SCRIPT, "VERB", "DET"),
        probe_k=2,
        top_k=20,
        example_neurons=3,
        out=out,
        show_progress=False,
    )
    run_all(config, resume=False, say=lambda line: None)
    run = gl.load_run(out)
    assert SCRIPT in run.keys.labels
    layer, index = next(iter(run.keys_at("word")[SCRIPT]))
    with on_page(browser, out / "report.html", f"#neuron-word-{layer}.{index}", drawn=True) as page:
        assert page.locator("img").count() == 0
        assert SCRIPT in page.locator("#neuron-tags bdi").all_text_contents()
        assert page.locator(".passages li").count() == 10
        assert serious(page) == []
        said = page.locator(".passages .about").all_text_contents()
        assert any(SCRIPT in words for words in said)
    for file in (out / "figures").glob("*.html"):
        assert "<script>alert" not in file.read_text("utf-8")
