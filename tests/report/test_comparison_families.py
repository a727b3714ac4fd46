"""Checkpoints, base and chat models side by side: who is related, and which neurons they share."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import MadeRun, Page, made_run
from small_runs import call, write_beginnings

from grammar_lens.neurons import families
from grammar_lens.report import comparison_families
from grammar_lens.report.comparison import render_comparison
from grammar_lens.report.comparison_families import (
    agreements,
    depth_table,
    layer_accuracy,
    mean_depths,
    relation_table,
    run_pairs,
    shared_table,
)
from grammar_lens.report.comparison_tables import damage_table, named
from grammar_lens.report.result_tables import DASH
from grammar_lens.runs.pipeline import run_step
from grammar_lens.runs.settings import Config

LABELS = ("NOUN", "VERB", "PRON", "DET")


def a_checkpoint(path: str, model: str, weights: str, noise: float = 0.0, seed: int = 0) -> MadeRun:
    """A made run; with noise, of units of other activation, from the same ones."""
    run = made_run(path=Path(path))
    run.record = {
        **run.record,
        "config": {**run.record["config"], "model": model},
        "model": {**run.record["model"], "weights": weights},
    }
    rng = np.random.default_rng(seed)
    for position, found in run.results.items():
        units = found.keys.units
        assert units is not None
        moved = replace(
            units, mean_abs=units.mean_abs * rng.lognormal(0, noise, units.mean_abs.shape)
        )
        run.results[position] = replace(found, keys=replace(found.keys, units=moved))
    return run


def test_families_are_found_by_weights_name_and_units() -> None:
    runs = named(
        [
            a_checkpoint("base", "m", "w1"),
            a_checkpoint("later", "m", "w2", noise=30.0, seed=1),
            a_checkpoint("chat", "chat", "w3", noise=0.05),
            a_checkpoint("apart", "other", "w4", noise=30.0, seed=2),
        ]
    )
    pairs = [p for p in run_pairs(runs) if p.position == "word"]
    assert {(p.first, p.second): p.relation.reason for p in pairs} == {
        ("base", "later"): families.SAME_NAME,
        ("base", "chat"): families.MEASURED,
        ("base", "apart"): families.APART,
        ("later", "chat"): families.APART,
        ("later", "apart"): families.APART,
        ("chat", "apart"): families.APART,
    }
    (group,) = agreements(pairs)
    assert group.names == ("base", "later", "chat")
    # related through the base alone
    assert np.isnan(group.share[1, 2])
    assert group.share[0, 1] == group.share[2, 0] == 1
    table = relation_table(pairs)
    assert [row[1][0] for row in table.rows] == ["yes", "yes", "no", "no", "no", "no"]
    assert len(shared_table(pairs).rows) == 2 * 3
    text = Page(render_comparison(list(runs.values()))).text
    assert "compared by depth alone: base and apart; later and chat" in text


def test_depths_are_those_of_the_layers() -> None:
    run = made_run(path=Path("one"))
    found = run.results["word"]
    label = found.keys.labels[0]
    neurons = found.keys[label]
    last = replace(neurons, layer=np.full_like(neurons.layer, found.keys.n_layers - 1))
    empty = found.keys.labels[1]
    sets = {**found.keys.sets, label: last, empty: neurons.top(0)}
    run.results["word"] = replace(found, keys=replace(found.keys, sets=sets))
    depths = mean_depths(run.results["word"])
    assert depths[label] == pytest.approx(2.5 / 3)
    assert np.isnan(depths[empty])
    table = depth_table(named([run, made_run(("A", "B", "C"), path=Path("two"))]), "word")
    assert table.columns == ("Tag", "one", "two")
    assert [cell[0] for cell in table.rows[0][1:]] == ["0.83", DASH]


def test_accuracies_of_layers_leave_out_the_embedding() -> None:
    run = made_run(path=Path("one"))
    table = run.layer_table
    assert table is not None
    found = layer_accuracy({"one": run, "bare": made_run(layer_table=None)}, "word")
    assert list(found) == ["one"]
    expected = table.set_index("layer").loc[[0, 1, 2], "resid_accuracy_word"]
    assert found["one"].tolist() == expected.tolist()


def test_damage_of_every_label_stands_side_by_side() -> None:
    study = made_run().study
    assert study is not None
    matrix = np.array([[0.4, 0.1, 0.1], [0.0, 0.2, 0.1], [0.0, 0.0, -0.1]])
    found = damage_table(
        {"one": replace(study, matrix=matrix), "two": replace(study, labels=("X", "Y", "Z"))}
    )
    first, second, third, *_ = ([text for text, _ in row] for row in found.rows)
    sham = f"{study.sham_mean[0, 0]:+.3f}"
    assert first == [study.labels[0], "+0.400", sham, "0.75", DASH, DASH, DASH]
    assert (second[1], second[3]) == ("+0.200", "0.75")
    assert (third[1][1:], third[3]) == ("0.100", DASH)
    assert len(found.rows) == 6


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """Runs of a model, of a copy after three steps of training, and of one of other random weights."""
    folder = tmp_path_factory.mktemp("family")
    base, tuned, other = (tiny_hf() for _ in range(3))
    text = torch.tensor([tiny_tokenizer("The old dog sleeps near the warm fire.")["input_ids"]])
    optimiser = torch.optim.SGD(tuned.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        tuned(text, labels=text).loss.backward()
        optimiser.step()
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=rng) * 0.2)
    write_beginnings(folder, train=45, test=5)
    for name, model in (("base", base), ("tuned", tuned), ("other", other)):
        model.save_pretrained(folder / "models" / name)
        tiny_tokenizer.save_pretrained(folder / "models" / name)
        config = Config(
            model=str(folder / "models" / name),
            train=f"{folder}:train",
            fresh=f"{folder}:test",
            labels=LABELS,
            positions=("word",),
            score="correlation",
            replicates=0,
            top_k=6,
            out=folder / name,
            show_progress=False,
        )
        run = None
        for step in ("collect", "score", "select"):
            run = run_step(step, config, run, lambda _text: None)
    return folder


def test_a_tuned_copy_shares_the_neurons_of_its_base_and_another_model_none_beyond_chance(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "compare.html"
    related: list[object] = []
    relation = families.relation

    def counted(*given: Any, **more: Any) -> families.Relation:
        related.append(given)
        return relation(*given, **more)

    monkeypatch.setattr(comparison_families, "relation", counted)
    runs = [trained / name for name in ("base", "tuned", "other")]
    code, output, _ = call("compare", *runs, "--out", page, "--json")
    assert code == 0
    # each two runs once, for the page and for --json
    assert len(related) == 3
    rows = json.loads(output)["shared_neurons"]
    assert {(row["first"], row["second"]) for row in rows} == {("base", "tuned")}
    assert [row["label"] for row in rows] == list(LABELS)
    assert sum(row["shared"] for row in rows) > 0.7 * sum(row["n_first"] for row in rows)
    assert sum(row["expected"] for row in rows) < 0.2 * sum(row["n_first"] for row in rows)
    assert min(row["rank_correlation"] for row in rows) > 0.8
    text = Page(page.read_text("utf-8")).text
    assert (
        "Not of one family, and so compared by depth alone: base and other; tuned and other."
        in text
    )
