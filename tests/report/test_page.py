"""The report: right numbers, safe text, nothing loaded, and it works in a real browser."""

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_figures import (
    HOSTILE,
    LABELS,
    made_controls,
    made_curve,
    made_extended,
    made_layers,
    made_moments,
    made_probe,
    made_size_curves,
    made_study,
)
from made_runs import MadeRun, Page, made_adjusted, made_run
from traces import json_of
from typed import present
from typer.testing import CliRunner
from watched_pages import on_page

from grammar_lens import figures
from grammar_lens.cli.app import app
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.figures.style import number
from grammar_lens.neurons.selection import select
from grammar_lens.probing.layer_results import LayerProbes
from grammar_lens.report.files import write_figures
from grammar_lens.report.lesions import COMMAND, missing
from grammar_lens.report.lesions import sentences as sentences_of
from grammar_lens.report.packing import single_precision
from grammar_lens.report.page import render, write_report
from grammar_lens.report.result_tables import first_table
from grammar_lens.report.trust import Finding, findings, rule_in_words
from grammar_lens.selectivity.scoring import score


def report(run: MadeRun, folder: Path) -> str:
    return write_report(run, folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def made() -> MadeRun:
    """A run that no test changes."""
    return made_run()


@pytest.fixture(scope="module")
def html(made: MadeRun) -> str:
    """Its report."""
    return render(made)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_first_screen_has_question_verdict_and_numbers(made: MadeRun, page: Page) -> None:
    study = made.study
    assert study is not None
    text = page.text
    assert "Which neurons of m carry part of speech, and do they matter?" in text
    places = [text.index(sentence) for sentence in sentences_of(study.verdict())]
    assert places == sorted(places)
    assert f"6 neurons a tag, chosen at “{study.origin.position}”" in text
    assert "random neurons 0.600" in text
    assert "majority label 0.400" in text
    assert f"other words {number(study.off_diagonal_mean, 3, plus=True)}" in text
    sham = number(float(np.diag(study.sham_mean).mean()), 3, plus=True)
    assert f"own words, shams {sham}" in text
    assert f"p = {study.p_value:.3f} 20 shams" in text
    assert "the least it can be is 0.048" in text


def test_page_holds_methods_settings_provenance_and_citation(page: Page) -> None:
    for part in (
        "5 November 2026",
        "980 of 1,000 training words could be matched to tokens of the model (98.0 %)",
        "training, read at “next” label missing 7",
        "lesion study, held-out words first of its sentence 77",
        "Point-biserial correlation",
        "top k 6",
        "positions word, next",
        "versions / torch 2.13.0",
        "model / fingerprint f1d2",
        "NOUN and VERB 0.001 1.50 0.90 confirmed",
        "3 held-out sentences that also stand in the training data were dropped",
        "arXiv 2511.06519",
    ):
        assert part in page.text


def test_figures_of_the_page_are_those_of_the_results(made: MadeRun, page: Page) -> None:
    data = page.data()
    assert set(data) == {
        *(f"data-heatmap-{p}-{i}" for p in ("word", "next") for i in (1, 2, 3)),
        *(
            f"data-{n}-{p}"
            for n in (
                *("profile", "overlap", "accuracy", "confusion"),
                *("controls", "vocabulary"),
            )
            for p in ("word", "next")
        ),
        *("data-course-word-1", "data-course-word-2", "data-course-word-3", "data-curve-word"),
        *("data-lesion-matrix-1", "data-lesion-matrix-2", "data-lesion-null"),
        *("data-doses-1", "data-doses-2", "data-doses-3", "data-doses-4"),
        *("data-damage-matched", "data-values", "data-sufficiency", "data-bias"),
        "data-loss-split",
        *(f"data-curves-{i}" for i in (1, 2, 3, 4)),
        *(
            "data-layers",
            "data-layer-lesions",
            "data-resid-word-1",
            "data-resid-word-2",
            "data-resid-word-3",
        ),
    }
    results = made.at("next")
    expected = json_of(figures.layer_neuron_heatmap(results.scores, "VERB", keys=results.keys))
    drawn = data["data-heatmap-next-2"]
    z, exact = drawn["data"][0].pop("z"), expected["data"][0].pop("z")
    assert drawn == expected
    values = np.frombuffer(base64.b64decode(exact["bdata"]), "<f4").reshape(z.shape)
    # rounded to steps of 1/32,766 of the largest
    np.testing.assert_allclose(z, values, atol=np.abs(values).max() / 32766 / 2 * 1.001)


def test_key_table_has_every_label_with_score_and_effects(made: MadeRun, page: Page) -> None:
    text = page.text
    scores, keys = made.at("word").scores, made.at("word").keys
    effect = scores.effect[1, 1, 17]
    numbers = (scores["VERB"][1, 17], effect, effect * 0.5, effect * 0.9)
    shown = " ".join(number(x, 3, plus=True) for x in numbers)
    assert keys["VERB"].q is not None
    assert f"VERB 1 1.17 {shown} {keys['VERB'].q[0]:.3f}" in text
    layer, index = int(keys["ADJ"].layer[0]), int(keys["ADJ"].index[0])
    d = scores.effect[2, layer, index]
    score_, plain, guarded = (number(x, 3, plus=True) for x in (keys["ADJ"].score[0], d, d * 0.9))
    assert f"ADJ 1 {layer}.{index} {score_} {plain} – {guarded}" in text  # noqa: RUF001
    assert f"{len(made.at('word').keys.union())} of them are key to some tag" in text


def test_which_neurons_and_how_sure_in_words_and_tables(made: MadeRun, page: Page) -> None:
    text = page.text
    results = made.at("word")
    controls, n = results.controls, len(results.keys.union())
    assert controls is not None
    assert controls.sham is not None
    sham = controls.sham
    real, floor = sham["strength"].mean(), sham["sham_strength"].mean()
    for part in (
        "Score: correlation of the activation with “the word has this label” (r, -1 to 1). Key "
        f"neurons of a tag are the 12 strongest. {n} distinct neurons are key to some tag, "
        f"{round(100 * n / 120)} % of all 120.",
        f"gives the 6 strongest a mean strength of {floor:.3f}",
        f"with the true tags it is {real:.3f}, {real / floor:.1f} times as much",
        "30 exchanges of whole tag sequences",
        "12 words of 3 sentences have no partner",
        "Halves of the sentences agree on 70 % of the neurons; chance is 2.0 % (means over tags, "
        "top 6 of each). 2 of 3 tags agree more than chance does",
        "Least agreed on: NOUN, 60 %.",
        "What is left within word forms is 33 % of the effect (median over 2 tags): part of it is "
        "vocabulary. The comparison rests on forms that occur under several tags, 40 a tag "
        "(median). Too few such words to tell: ADJ.",
        "What is left after the same word is 33 % of the effect",
        "At equal frequency of the token and place in the sentence 84 % of the effect is left "
        "(median over 3 tags): they explain little of it.",
        "NOUN 1.50 0.50 0.07 33 % 1.20 84 % 40 300",
        "ADJ 1.70 – – – 1.20 84 % 0 0",  # noqa: RUF001
    ):
        assert part in text
    row = sham.set_index("label").loc["VERB"]
    counts = " ".join(
        f"{row[c]:,.0f}" if row[c] == round(row[c]) else f"{row[c]:,.1f}"
        for c in ("by_fdr", "sham_by_fdr", "by_permutation", "sham_by_permutation")
    )
    strengths = f"{row['strength']:.3f} {row['sham_strength']:.3f}"
    assert f"VERB 12 {strengths} {counts} 70 % 2.0 % 0.400" in text


def sentences(run: MadeRun, **changes: Any) -> dict[str, Finding]:
    """The findings at the word, by name, with other scores or controls."""
    r = run.at("word")
    controls = changes.pop("controls", r.controls)
    scores = replace(r.scores, **changes)
    return {f.name: f for f in findings(scores, r.keys, controls)}


def test_what_was_not_measured_says_why() -> None:
    run = made_run()
    controls = run.at("word").controls
    assert controls is not None
    assert controls.within_type is not None
    bare = replace(controls, sham=None, reliability=None, within_type=None)
    found = sentences(run, controls=bare)
    assert [f.measured for f in found.values()] == [True] + [False] * 5
    assert "no exchanged labels were collected with this score" in found["Floor"].text
    assert "no exchanged labels" in found["Error rates"].text
    assert "nothing was collected of halves" in found["Reliability"].text
    assert "contrasts within word forms were not collected" in found["Grammar or vocabulary"].text
    assert "contrasts at equal frequency were not collected" in found["Frequency and place"].text

    of_sample = sentences(run, controls=bare, method="auroc")
    assert "'auroc' cannot be had from class sums, so it has no null" in of_sample["Floor"].text
    assert "'auroc' rests on a sample of words" in of_sample["Reliability"].text
    of_weights = sentences(run, controls=bare, method="logit_contrast")
    assert "'logit_contrast' rests on weights" in of_weights["Reliability"].text

    none = replace(controls, sham=pd.DataFrame())
    assert "every tag has too few words" in sentences(run, controls=none)["Floor"].text
    assert "every tag has too few words" in sentences(run, controls=none)["Error rates"].text
    noisy = replace(controls, within_type=controls.within_type.assign(standard_error=9.0))
    vocabulary = sentences(run, controls=noisy)["Grammar or vocabulary"]
    assert "no tag has enough words of forms" in vocabulary.text
    older = sentences(run, controls=None)
    assert list(older) == ["Choice", "Controls"]
    assert "no controls of its choice" in older["Controls"].text


@pytest.mark.parametrize(
    ("left", "verdict"),
    [
        (-0.1, "\N{MINUS SIGN}10\N{NO-BREAK SPACE}% of the effect (median over 2 tags): there the"),
        (0.05, "5.0\N{NO-BREAK SPACE}% of the effect (median over 2 tags): most of it is vocab"),
        (
            0.41,
            "41\N{NO-BREAK SPACE}% of the effect (median over 2 tags): part of it is vocabulary",
        ),
        (0.95, "95\N{NO-BREAK SPACE}% of the effect (median over 2 tags): little of it is vocab"),
    ],
)
def test_vocabulary_verdict_follows_what_is_left(left: float, verdict: str) -> None:
    run = made_run()
    controls = run.at("word").controls
    assert controls is not None
    assert controls.within_type is not None
    table = controls.within_type.assign(within_type_retained=[left, left, np.nan])
    found = sentences(run, controls=replace(controls, within_type=table))
    assert verdict in found["Grammar or vocabulary"].text


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("top 100, absolute", "the 100 strongest"),
        ("top 1000 per layer, positive", "the 1,000 strongest in each layer, among positive"),
        ("fdr at 0.01, absolute", "a q-value of at most 0.01"),
        ("fdr", "a q-value of at most 0.1"),
        ("permutation", "in 90\N{NO-BREAK SPACE}% of the exchanges"),
        ("frequency", "most often among the largest integrated gradients"),
        ("by hand", "by hand"),
    ],
)
def test_rules_in_words(rule: str, words: str) -> None:
    assert words in rule_in_words(rule, 0.1)


def test_neurons_of_a_file_are_no_choice_of_this_run() -> None:
    run = made_run()
    keys = replace(run.at("word").keys, rule="from others.csv")
    run.results["word"] = replace(run.at("word"), keys=keys)
    told = sentences(run)
    assert "those of the file others.csv" in told["Choice"].text
    for name in ("Floor", "Error rates", "Reliability"):
        assert not told[name].measured
        assert "the neurons come from a file" in told[name].text
    assert told["Grammar or vocabulary"].measured


def test_unequal_and_empty_sets_are_told() -> None:
    run = made_run()
    keys = run.at("word").keys
    sets = {**keys.sets, "NOUN": keys["NOUN"].top(0), "VERB": keys["VERB"].top(3)}
    run.results["word"] = replace(run.at("word"), keys=replace(keys, sets=sets))
    text = sentences(run)["Choice"].text
    assert "Tags have 0 to 12 of them. Nothing is chosen for NOUN." in text


def test_time_course_and_curve_stand_where_they_were_read(made: MadeRun, page: Page) -> None:
    data = page.data()
    assert made.course is not None
    assert data["data-course-word-2"] == single_precision(
        json_of(figures.time_course(made.course, "VERB"))
    )
    probe = made.at("word").probe
    assert probe is not None
    expected = figures.accuracy_against_k(
        made_curve(), majority=0.4, word_baseline=0.75, origin=probe.origin
    )
    assert data["data-curve-word"] == json_of(expected)
    assert not {"data-course-next-1", "data-curve-next"} & set(data)
    assert "on held-out words of made:train that no neuron was chosen on" in page.text
    described = {a["id"]: a["data-description"] for a, _ in page.scripts if "data-description" in a}
    assert "peaks +0 tokens from where the word is read, in layer 2, at 0.300" in str(
        described["data-course-word-1"]
    )
    assert "highest is 0.740 at k = 20 by correlation" in str(described["data-curve-word"])


def test_first_neurons_are_shown_with_words_in_the_direction_of_the_tag(made: MadeRun) -> None:
    results, examples = made.at("word"), made.examples["word"]
    (at, of_neuron), *_ = [(x, examples[x]) for x in examples]
    top, bottom = ([e.word for e in ends] for ends in (of_neuron.top, of_neuron.bottom))
    scores = results.scores
    for sign, name, words in ((1, "most", top), (-1, "least", bottom)):
        signed = replace(scores, effect=sign * np.abs(scores.effect))
        told = {row[2][0]: row[4][0] for row in first_table(signed, results.keys, examples).rows}
        assert told["{}.{}".format(*at)] == f"{name}: {', '.join(words)}"
    assert "not read" in told.values()


def test_layers_are_told_drawn_and_listed(made: MadeRun, page: Page) -> None:
    data = page.data()
    assert made.layers is not None
    assert data["data-layers"] == json_of(figures.layer_by_layer(made.layers, made.layer_table))
    assert (
        "The tag of a word just read is predicted best by layer 1: accuracy 0.950 (95 % interval 0.930 to "
        "0.970). The word form alone gives 0.700, the best layer of an untrained twin of the model 0.500 "
        "(the embedding)."
    ) in page.text
    assert "predicted best by layer 2: accuracy 0.500" in page.text
    assert (
        "At its best layer the probe has 50 % of what the model's own prediction knows" in page.text
    )
    assert " embedding 0.800 0.500 0.300 0.500 \N{MINUS SIGN}0.50 \N{EN DASH}" in page.text
    assert " 2 0.900 0.500 0.500 0.500 0.50 12 0.050 0.070" in page.text
    assert " 0 key neurons 8 +0.1000 +0.0100 +0.0020 +0.0010" in page.text
    assert " 2 direction 3 +0.6000 " in page.text
    assert {"data-resid-word-1", "data-resid-word-3"} <= set(data)
    assert "data-resid-next-1" not in data
    described = {a["id"]: a["data-description"] for a, _ in page.scripts if "data-description" in a}
    assert "The strongest is dimension 1.17" in str(described["data-resid-word-2"])


def test_layers_without_twin_or_prediction_are_told_without(tmp_path: Path) -> None:
    whole = made_layers()
    run = made_run(layers=LayerProbes({"word": whole["word"]}, {}), layer_table=None)
    text = Page(report(run, tmp_path)).text
    assert "The word form alone gives 0.700." in text
    assert "untrained twin of the model" not in text


def test_a_run_without_the_newer_results_has_a_page(tmp_path: Path) -> None:
    run = made_run(
        course=None,
        curves={},
        layers=None,
        layer_table=None,
        layer_lesions=None,
        size_curves=None,
        residual=None,
        study=made_study(),
    )
    for position, r in run.results.items():
        probe = made_probe(position=position)
        run.results[position] = replace(
            r,
            scores=replace(r.scores, null=None),
            keys=select(replace(r.scores, null=None), k=12),
            controls=None,
            adjusted=None,
            probe=replace(probe, random_accuracy=None, random_accuracies=()),
        )
    page = Page(report(run, tmp_path))
    assert "Not measured: this run has no controls of its choice" in page.text
    assert "right for 85.0 % of 200 held-out words. Selectivity" in page.text
    assert "Whole layers have not been probed yet" in page.text
    kinds = {name.split("-")[1] for name in page.data()}
    assert kinds.isdisjoint({"course", "curve", "controls", "vocabulary", "layers", "resid"})
    columns = [a for t, a in page.tags if t == "table" and a.get("id") == "keys-word"]
    assert columns
    assert "d within forms" not in page.text
    names = {f.name for f in write_figures(run, tmp_path / "figures")}
    assert not [n for n in names if re.match("time|accuracy|selection|grammar", n)]


def test_newer_probe_numbers_are_told(tmp_path: Path) -> None:
    run = made_run()
    probe = replace(
        made_probe(),
        **{"ambiguous_accuracy": 0.7, "ambiguous_word_baseline_accuracy": 0.6},
        **{"n_ambiguous_words": 50, "accuracy_low": 0.83, "accuracy_high": 0.87},
        **{"code_length": 100.0, "uniform_code_length": 250.0},
    )
    run.results["word"] = replace(run.at("word"), probe=probe)
    text = Page(report(run, tmp_path)).text
    for part in (
        "right for 85.0 % of 200 held-out words (95 % interval 83.0 to 87.0), as many random neurons of the same layers for 60.0 %",
        "On the 50 words whose form had several tags in training it is 0.700, the word alone 0.600.",
        "shorten an online code of the training tags 2.50 times",
    ):
        assert part in text


def test_markup_from_outside_does_nothing(tmp_path: Path) -> None:
    run = made_run(
        (HOSTILE, "</script><b>", "'\"><img src=x>"),
        model=f"{HOSTILE}<!--",
        record={"config": {"train": HOSTILE}, HOSTILE: [HOSTILE]},
        summary={"alignment": {"not_read": {"word": {HOSTILE: 1}}}},
    )
    html = report(run, tmp_path)
    page = Page(html)
    assert html.count("<script>") == 2  # the page's own
    assert "alert(1)</script>" not in html
    assert "img" not in {tag for tag, _ in page.tags}
    assert f"Which neurons of {HOSTILE}<!-- carry" in page.text
    assert len(page.data()) == 43
    chosen = [a for tag, a in page.tags if tag == "div" and "heatmap" in str(a.get("id"))]
    assert HOSTILE in str(chosen[0]["aria-label"])


def test_nothing_is_loaded(html: str, page: Page) -> None:
    assert "plotly.js v" in page.plotly()
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


def test_page_is_accessible_by_structure(page: Page) -> None:
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for name in ("for", "aria-labelledby", "data-plot", "data-table", "data-count"):
            if name in attributes and tag != "script":
                assert attributes[name] in ids
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
    assert [t for t, _ in page.tags].count("h1") == 1
    assert ("html", {"lang": "en", "class": "plain"}) in page.tags


def test_steps_not_yet_run_are_named(tmp_path: Path) -> None:
    without: dict[str, Any] = {
        **{"layers": None, "layer_table": None, "layer_lesions": None, "residual": None},
        "size_curves": None,
    }
    run = made_run(results={}, study=None, summary={}, record={}, **without)
    nothing = Page(report(run, tmp_path))
    for part in (
        "Whole layers have not been probed yet",
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


def test_lesions_of_two_tags_have_a_page_without_chance(tmp_path: Path) -> None:
    three = made_study()
    squares = ("matrix", "nll_matrix", "auroc_fall", "bias")
    rows = ("auroc", "n_words", "output_ratio", "damage_ratio")
    two = replace(
        three,
        labels=LABELS[:2],
        crossed_pairs=(),
        sham=three.sham[:, :2, :2],
        accuracy=three.accuracy[:3],
        **{name: getattr(three, name)[:2, :2] for name in squares},
        **{name: getattr(three, name)[:2] for name in rows},
    )
    page = Page(report(made_run(study=two, results={}), tmp_path))
    assert "Two tags cannot tell" in page.text
    assert "so there is no picture of chance: study three tags or more" in page.text
    assert "data-lesion-null" not in page.data()
    names = {
        f.name
        for f in write_figures(made_run(study=two, results={}, course=None), tmp_path / "figures")
    }
    assert "lesion-matrix-minus-shams.html" in names
    assert "lesion-null.html" not in names


def test_every_part_of_the_lesion_study_is_shown(made: MadeRun, page: Page) -> None:
    study, data = made.study, page.data()
    assert study is not None
    assert study.damage_matched is not None
    for name, figure in (
        ("damage-matched", figures.damage_matched(study)),
        ("doses-1", figures.dose_response(study)),
        ("doses-3", figures.dose_response(study, "VERB")),
        ("values", figures.value_ladder(study)),
        ("sufficiency", figures.sufficiency(study)),
        ("loss-split", figures.loss_split(study)),
        ("bias", figures.bias_and_auroc(study)),
    ):
        assert data[f"data-{name}"] == json_of(figure)
    own = number(study.matrix[2, 2], 3, plus=True)
    turned = number(-study.matrix[2, 2], 3, plus=True)
    twice = number(2 * study.matrix[2, 2], 3, plus=True)
    for part in (
        f"ADJ {own} {twice} {turned} no",
        "VERB +0.300 < .001 yes yes +0.020 0.048",
        "ADJ +0.000 0.500 no no",
        f"NOUN +2.000 {number(present(study.sufficiency).sham_own[:, 0].mean(), 3, plus=True)} +4.000 0.50",
        "ADJ 0.97 0.70 \N{EN DASH} 31",
        # by ordinary shams alone, and by damage-matched ones alone
        "NOUN and VERB 0.001 1.50 0.90 confirmed \N{EN DASH} \N{EN DASH}",
        "NOUN and ADJ \N{EN DASH} 1.20 \N{EN DASH} possibly a bias shift 0.004 0.30",
        "Damage-matched shams (nats)",
    ):
        assert part in page.text
    described = {a["id"]: a["data-description"] for a, _ in page.scripts if "data-description" in a}
    assert "2 of 3 tags agree in sign" in str(described["data-values"])
    assert study.damage_matched.verdict() in str(described["data-damage-matched"])


def test_verdict_is_a_list_of_sentences(made: MadeRun, html: str) -> None:
    assert made.study is not None
    found = sentences_of(made.study.verdict())
    assert " ".join(found) == made.study.verdict()
    assert found[0].startswith("Cutting a tag's 6 key neurons raises its own tag loss by 0.4")
    assert found[0].endswith(".")
    assert [s for s in found if s.startswith("Over doses") and "It grows faster" in s]
    shown = re.search(r'id="verdict">(.*?)</div>', html, re.DOTALL)
    assert shown
    assert shown[1].count("<li>") == len(found) - 1


def test_a_point_in_a_number_ends_no_sentence() -> None:
    assert sentences_of("A loss of 0.5 nats (p = 0.048). 2 of 3 agree. Not so.") == [
        "A loss of 0.5 nats (p = 0.048).",
        "2 of 3 agree.",
        "Not so.",
    ]


def test_lesions_not_measured_are_told_with_their_options(made: MadeRun, tmp_path: Path) -> None:
    bare, whole = made_study(), made_extended()

    def options(study: LesionStudy) -> list[str]:
        return [m.option.split()[0] for m in missing(study, made_size_curves())]

    without = ["--damage-matched", "--doses", "--values", "--sufficiency"]
    assert options(bare) == without
    assert [m.option.split()[0] for m in missing(bare, None)] == [*without, "--curves"]
    assert options(made_study(n_shams=0))[0] == "--shams"
    assert "--damage-matched" not in options(made_study(n_shams=0))
    assert options(whole) == ["--other-shams"]  # "resample" has no shams
    assert options(replace(whole, others=whole.others[:1])) == []
    assert "so they may do" in missing(bare, None)[0].why
    weak = replace(bare, output_ratio=np.array([0.95, 0.6, 0.97]))
    assert "so they may do" not in missing(weak, None)[0].why

    page = Page(report(made_run(study=bare, results={}), tmp_path))
    assert "grammar-lens lesion RUN --damage-matched 20 --values mean,zero,resample" in page.text
    kinds = {name.removeprefix("data-") for name in page.data()}
    assert kinds.isdisjoint({"damage-matched", "doses-1", "values", "sufficiency"})
    assert "bias" in kinds
    assert "Does it hang on the ablation" not in page.text
    complete = made_run(study=replace(whole, others=whole.others[:1]), results={})
    assert "What was not measured" not in Page(report(complete, tmp_path)).text


def test_the_command_for_what_is_missing_is_one_that_exists(tmp_path: Path) -> None:
    words = COMMAND.replace("RUN", str(tmp_path)).split()
    assert words[0] == "grammar-lens"
    result = CliRunner().invoke(app, words[1:])
    assert "it has no run.json" in result.output  # the options were understood


def test_the_model_line_says_size_and_how_the_weights_were_stored(tmp_path: Path) -> None:
    size = {"n_layers": 30, "d_mlp": 1536, "n_parameters": 134_515_008}
    stored = {"file": "a.Q4_1.gguf", "tensors": {"Q4_1": 210, "F32": 61}, "dequantized": True}
    page = Page(report(made_run(record={"model": {**size, "gguf": stored}}), tmp_path))
    line = page.text
    assert "30 layers of 1,536 neurons, 134,515,008 parameters" in line
    assert "dequantised from the GGUF file a.Q4_1.gguf (tensors: 210 Q4_1, 61 F32)" in line
    plain = Page(report(made_run(record={"model": size}), tmp_path))
    assert "GGUF" not in plain.text


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
        moments = made_moments(labels, position=position, shape=(8, 896))
        scores = score(moments)
        run.results[position] = replace(
            r,
            moments={"neuron": moments},
            scores=scores,
            keys=select(scores, k=100, alpha=1.0),
            controls=made_controls(labels),
            adjusted=made_adjusted(scores),
        )
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
    assert {"time-course-word.html", "accuracy-against-k-word.html"} <= set(names)
    assert {"selection-controls-next.html", "grammar-or-vocabulary-word.html"} <= set(names)
    assert {"lesion-matrix.html", "lesion-matrix-minus-shams.html", "lesion-null.html"} <= set(
        names
    )
    assert {"damage-matched.html", "dose-response.html", "dose-response-01-a-b.html"} <= set(names)
    assert {"value-ladder.html", "sufficiency.html", "bias-and-auroc.html"} <= set(names)
    assert "loss-split.html" in names
    first = "{}.{}".format(*next(iter(run.at("next").keys[".."])))
    assert {f"activations-next-{first}.html", f"examples-next-{first}.html"} <= set(names)
    for file in files:
        if file.suffix == ".html":
            html = file.read_text("utf-8")
            assert re.findall(r"<script[^>]* src=\"([^\"]*)\"", html) == ["plotly.min.js"]
            assert "<script>alert" not in html
            assert len(html) < 1e6


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with hostile names."""
    run = made_run(("NOUN", "VERB", HOSTILE), model=HOSTILE)
    return write_report(run, tmp_path_factory.mktemp("hostile") / "r.html")


@pytest.fixture(scope="module")
def opened(browser: Any, hostile: Path) -> Iterator[Any]:
    """That report, drawn once for all tests; an error or request on the way fails the last."""
    with on_page(browser, hostile, drawn=True) as page:
        yield page


@pytest.mark.browser
def test_browser_draws_all_figures_and_hostile_names(opened: Any) -> None:
    assert opened.locator(".plot").count() == 28
    assert opened.locator(".plot .main-svg .xy, .plot .main-svg .subplot").count() >= 24
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
        "() => document.querySelector('#plot-heatmap-word .gtitle').textContent.includes('VERB')"
    )
    picture = plot.locator("svg[role=img]")
    assert "strongest is neuron 1.17" in picture.get_attribute("aria-label")
    opened.select_option("#choose-heatmap-word", index=2)
    opened.wait_for_function(
        "() => document.querySelector('#plot-heatmap-word .gtitle').textContent.includes('<script>')"
    )
    # the other position keeps its tag
    assert "NOUN" in opened.locator("#plot-heatmap-next .gtitle").first.text_content()


@pytest.mark.browser
def test_browser_hover_names_the_marked_neuron(opened: Any) -> None:
    opened.select_option("#choose-heatmap-word", label="VERB")
    opened.wait_for_function(
        "() => document.querySelector('#plot-heatmap-word .gtitle').textContent.includes('VERB')"
    )
    # scatter points are drawn strongest first, and anew some time after the title
    shown: list[str] = []
    for _ in range(100):
        opened.mouse.move(0, 0)
        opened.locator("#plot-heatmap-word .scatterlayer .point").first.hover(force=True)
        opened.wait_for_timeout(100)
        shown = opened.locator("#plot-heatmap-word .hovertext").all_text_contents()
        if any("no. 1" in text for text in shown):
            break
    assert any("no. 1: neuron 1.17" in text for text in shown), shown


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
    # what is missing comes first, in both orders numbers stay in order
    opened.locator("#keys-word thead button").nth(5).click()
    within = column(5)
    assert within[:10] == ["\N{EN DASH}"] * 10
    sizes = [float(x.replace("\N{MINUS SIGN}", "-")) for x in within[10:]]
    assert sizes == sorted(sizes)
    opened.locator("#keys-word thead button").nth(0).click()
    opened.fill("#keys-word-search", "verb 1.17")
    assert "1.17" in column(2)
    assert set(column(2)) == {"1.17"}
    assert opened.locator("#keys-word-count").text_content() == f"{len(column(2))} of 30 rows"


@pytest.mark.browser
def test_browser_shows_the_doses_of_one_tag(opened: Any) -> None:
    plot = opened.locator("#plot-doses")
    assert "all tags" in opened.locator("#choose-doses option").first.text_content()
    opened.select_option("#choose-doses", index=3)
    opened.wait_for_function(
        "() => document.querySelector('#plot-doses .gtitle').textContent.includes('<script>')"
    )
    assert plot.locator(".scatterlayer .trace").count() == 4


@pytest.mark.browser
def test_browser_cuts_no_title_off_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    """From a wide window to a narrow one: titles are broken into lines anew."""
    run = made_run(results={}, study=made_extended(model="a-model-of-some-length"))
    path = write_report(run, tmp_path / "r.html")
    with on_page(browser, path, drawn=True) as page:
        titles = "document.querySelector('#plot-doses .g-gtitle').querySelectorAll('.line').length"
        before = page.evaluate(titles)
        page.set_viewport_size({"width": 390, "height": 900})
        # the window settles, then figures are drawn anew
        page.wait_for_function(f"() => {titles} > {before}")
        page.wait_for_function("() => document.documentElement.scrollWidth <= 390")
        beyond = page.locator(".plot").evaluate_all(
            """all => all.filter(plot => [...plot.querySelectorAll('.g-gtitle, .g-xtitle')].some(
            t => t.getBoundingClientRect().right > plot.getBoundingClientRect().right + 1)
            ).map(plot => plot.id)"""
        )
        assert beyond == []


@pytest.mark.browser
def test_browser_prints_within_the_page(opened: Any) -> None:
    assert opened.pdf(format="A4").startswith(b"%PDF")
    widths = opened.locator("main svg.main-svg").evaluate_all(
        "all => all.map(s => s.getBoundingClientRect().width)"
    )
    assert min(widths) > 700  # back to the window's width afterwards
