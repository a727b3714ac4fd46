"""The terminal's table: the numbers of summary.json beside what they are compared with."""

import io
from typing import Any

from rich.console import Console

from grammar_lens.summary import summary_table

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
