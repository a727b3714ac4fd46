"""The terminal's table: the numbers of summary.json beside what they are compared with."""

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_figures import LABELS, made_extended, made_study
from rich.console import Console
from typed import present

from grammar_lens.files import to_json
from grammar_lens.runs.summary import lesion_summary, summary_table

SELECTION = {
    "score": "attribution_contrast",
    "rule": "top 100",
    "neurons": {"NOUN": 100, "VERB": 100},
    "distinct_neurons": 167,
    "replicates": 100,
    "left_out_words": 3,
    "sham_localiser": {"strength": 0.312, "sham_strength": 0.0061},
    "reliability": {"share": 0.62, "expected_share": 0.014},
    "within_type": {"effect": 1.5, "within_type": 0.4, "guarded": 1.2},
}
PROBE = {
    "position": "word",
    "accuracy": 0.9,
    "n_neurons": 20,
    "k": 10,
    "random_accuracy": None,
    "word_baseline_accuracy": 0.8,
    "majority_accuracy": 0.2,
    "control_accuracy": 0.5,
}


def shown(summary: dict[str, Any]) -> str:
    console = Console(width=240, record=True, file=io.StringIO())
    console.print(summary_table(summary))
    return " ".join(console.export_text().split())


def test_in_a_narrow_terminal_the_comparison_stands_below() -> None:
    lesion = summary_of(made_extended())
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table({"probe": PROBE, "lesion": lesion}))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    at = next(i for i, line in enumerate(lines) if "0.900 with 20 neurons" in line)
    assert lines[at].split("   ")[0].strip() == "probe accuracy at 'word'"
    assert (
        lines[at + 1].strip().startswith("random neurons \N{EN DASH}, word alone 0.800, majority")
    )
    at = next(i for i, line in enumerate(lines) if line.strip().startswith("selective?"))
    below = " ".join(line.strip() for line in lines[at + 1 : at + 5])
    assert below.startswith(lesion["conclusion"])  # in at most 4 lines, broken at blanks


def test_selection_has_its_size_and_its_controls() -> None:
    model = {"name": "m", "n_layers": 8, "d_mlp": 896}
    text = shown({"model": model, "selection": {"word": SELECTION}})
    assert "key neurons (word)" in text
    assert "167 distinct of 7,168; attribution contrast, top 100" in text
    assert (
        "halves agree 0.62 (chance 0.01); exchanged labels reach 0.0061 of 0.31; within word "
        "forms d 0.40 of 1.50" in text
    )


def test_controls_that_were_not_made_are_left_out() -> None:
    bare = {k: SELECTION[k] for k in ("score", "rule", "neurons", "distinct_neurons")}
    text = shown({"selection": {"next": bare}})
    assert "key neurons (next)" in text
    assert "167 distinct; attribution contrast" in text
    assert "no controls" in text
    missing = {**SELECTION, "within_type": {"effect": 1.5, "within_type": None}}
    assert "within word forms d \N{EN DASH} of 1.50" in shown({"selection": {"word": missing}})


def test_a_probe_without_random_neurons_has_a_row() -> None:
    text = shown({"probe": PROBE})
    assert "0.900 with 20 neurons (top 10 per label)" in text
    assert "random neurons \N{EN DASH}, word alone 0.800" in text


def summary_of(study: Any) -> dict[str, Any]:
    return to_json(lesion_summary(study))


def test_lesion_summary_has_every_key_and_keeps_the_old_ones() -> None:
    study = made_extended()
    lesion = summary_of(study)
    assert study.doses is not None
    old = (
        *("value", "k", "labels", "matrix", "sham_mean", "diagonal_mean", "off_diagonal_mean"),
        *("p_value", "crossed_pairs", "base_tag_loss", "tag_entropy", "n_shams", "words"),
        *("dose", "position", "identity_error", "verdict"),
    )
    assert set(old) <= set(lesion)
    assert lesion["output_ratio"] == 0.93
    assert lesion["damage_ratio"] == 0.7
    assert lesion["damage_matched"] == {
        "n_shams": 20,
        "p_value": present(study.damage_matched).p_value,
        "crossed_pairs": [["NOUN", "ADJ", False]],
        "damage_ratio": 0.95,
    }
    doses = lesion["doses"]
    assert doses["doses"] == [-1, 0, 0.25, 0.5, 1, 1.5]
    np.testing.assert_allclose(doses["own"], 0.7 / 3 * np.array(doses["doses"]))
    np.testing.assert_allclose(doses["others"], 0.07 / 3 * np.array(doses["doses"]))
    assert doses["trend"] == 2
    mean = study.diagonal_mean
    third = study.matrix[2, 2]
    assert lesion["values"] == pytest.approx(
        {"mean": mean, "zero": 2 * mean, "resample": mean - 2 * third / 3}
    )
    assert lesion["sign_agreement"] == [2, 3]
    rest = lesion["sufficiency"]
    assert rest["own"] == 2
    assert rest["sham_own"] == pytest.approx(present(study.sufficiency).sham_own.mean())
    assert rest["p_value"] == 0.05
    assert rest["everything"] is rest["saved"] is None  # unknown for one label
    assert (lesion["n_possible_pairs"], lesion["confirmed_pairs"]) == (3, 1)
    json.dumps(lesion, allow_nan=False)


def test_lesion_summary_of_what_was_not_measured_is_null() -> None:
    lesion = summary_of(replace(made_study(n_shams=0), damage_ratio=np.full(3, np.nan)))
    missing = (
        *("damage_matched", "doses", "values", "sign_agreement", "sufficiency"),
        *("damage_ratio", "output_ratio", "p_value"),
    )
    assert [lesion[name] for name in missing] == [None] * len(missing)
    assert lesion["confirmed_pairs"] == 0


def test_lesion_rows_stand_beside_what_they_are_compared_with() -> None:
    study = made_extended()
    text = shown({"lesion": summary_of(study)})
    p = present(study.damage_matched).p_value
    for part in (
        "20 replicates of 0.93 of the output or more, 4,300 held-out words",
        f"against damage-matched shams \N{BOX DRAWINGS LIGHT VERTICAL} p = {p:.3f}",
        "replicates doing 0.95 of the damage or more",
        "1 of 3 pairs",
        "against damage-matched shams; 2 against output-matched ones; 0 confirmed by AUROC",
        "own tag loss rises for 2 of 3 tags",
        "at dose 1 +0.233 nats, other tags +0.023",
        "2 of 3 tags agree in sign",
        f"zero {2 * study.diagonal_mean:+.3f}",
        "+2.000 nats (p = 0.050)",
        f"a sham kept {present(study.sufficiency).sham_own.mean():+.3f}",
    ):
        assert part in text


def test_lesion_rows_of_older_summaries_and_of_two_tags() -> None:
    lesion = summary_of(made_study())
    new = ("output_ratio", "damage_matched", "doses", "values", "sign_agreement", "sufficiency")
    older = shown({"lesion": {k: v for k, v in lesion.items() if k not in new}})
    assert "20 replicates, 4,300 held-out words" in older
    for part in (
        "against damage-matched shams",
        "doses",
        "values of the lesion",
        "only its own set",
    ):
        assert part not in older
    two = {**lesion, "p_value": None, "labels": list(LABELS[:2])}
    assert "no p: two tags" in shown({"lesion": two})
    assert "no shams" in shown({"lesion": {**two, "n_shams": 0}})
    matched = {"n_shams": 5, "p_value": None, "crossed_pairs": [], "damage_ratio": None}
    shown_matched = shown({"lesion": {**two, "damage_matched": matched}})
    assert "5 replicates" in shown_matched
    assert "0 of 1 pairs" in shown_matched
