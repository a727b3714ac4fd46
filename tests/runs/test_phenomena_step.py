"""The step of a run that studies phenomena: stored, shown again, in the report, and its bad input."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_runs import call, write_beginnings, write_pairs

import grammar_lens as gl
from grammar_lens.errors import NotMeasuredError
from grammar_lens.runs.pipeline import run_step
from grammar_lens.runs.settings import Config


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """A small run of the tiny model with key neurons alone."""
    folder = tmp_path_factory.mktemp("phenomena")
    tiny_hf().save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    write_beginnings(folder, train=70, test=30)
    write_pairs(folder / "pairs.csv")
    code, _, err = call(
        "run", "--model", folder / "tiny", "--train", f"{folder}:train", "--fresh", f"{folder}:test",
        "--labels", "DET,NOUN,PRON,VERB", "--replicates", 0, "--top-k", 6, "--probe-k", 3, "--values",
        "none", "--layer-words", 0, "--example-neurons", 0, "--out", folder / "run", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert not (folder / "run" / "phenomena.json").exists()
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def study(run: Path, *more: object) -> tuple[int, str, str]:
    pairs = run.parent / "pairs.csv"
    if not pairs.exists():
        write_pairs(pairs)
    return call(
        "phenomena", run, "--pairs", pairs, "--shams", 2, "--sham-pairs", 5, "--quiet", *more
    )


def test_the_study_is_stored_shown_and_reported(run: Path) -> None:
    with pytest.raises(NotMeasuredError, match="first `grammar-lens phenomena"):
        _ = gl.load_run(run).minimal_pairs
    code, out, err = study(run, "--json")
    assert code == 0, err
    found = json.loads(out)["phenomena"]
    assert found["phenomena"] == ["subject_verb", "determiner_noun"]
    assert found["n_shams"] == 2
    loaded = gl.load_run(run)
    stored = loaded.phenomena
    assert stored is not None
    assert stored.n_pairs.tolist() == [24, 24]
    assert stored.n_sham_pairs.tolist() == [5, 5]
    assert stored.own.sham.shape == (2, 2, 2)
    assert stored.tags is not None
    assert stored.tags.lesions == ("NOUN", "VERB", "PRON", "DET")
    np.testing.assert_allclose(stored.own.fall, found["matrix"])
    assert stored.verdict() == found["verdict"]
    assert set(stored.keys) == set(stored.phenomena)
    assert stored.keys.units is not None
    # what is stored pair by pair gives the matrix again
    pairs = loaded.minimal_pairs
    falls = [pairs.loc[pairs.phenomenon == name, "fall_subject_verb"] for name in stored.phenomena]
    np.testing.assert_allclose([float(x.mean()) for x in falls], stored.own.fall[0])
    assert sorted(pairs.fold.unique()) == [0, 1]

    code, _, err = call("report", run, "--quiet")
    assert code == 0, err
    page = (run / "report.html").read_text("utf-8")
    assert "Phenomena of grammar" in page
    assert (run / "figures" / "phenomena-fall.html").is_file()
    assert gl.load_run(run).summary["phenomena"]["pairs"] == 48
    code, out, _ = call("report", run)
    assert "phenomena: selective?" in out


def test_the_same_study_is_kept_and_a_changed_file_studied_anew(run: Path) -> None:
    assert study(run)[0] == 0
    first = (run / "phenomena.json").read_bytes()
    name = next((run / "studies" / "phenomena").iterdir()).name
    assert study(run)[0] == 0
    assert [p.name for p in (run / "studies" / "phenomena").iterdir()] == [name]
    pairs = run.parent / "pairs.csv"
    table = pd.read_csv(pairs)
    table.iloc[:-1].to_csv(pairs, index=False)
    assert study(run)[0] == 0
    assert len(list((run / "studies" / "phenomena").iterdir())) == 2
    assert (run / "phenomena.json").read_bytes() != first
    read = gl.load_run(run).phenomena
    assert read is not None
    assert read.n_pairs.tolist() == [24, 23]


def test_the_settings_of_the_lesion_study_stay(run: Path) -> None:
    before = gl.load_run(run).config
    assert study(run, "--pair-tags", "none", "--pairs-at", "sentence")[0] == 0
    loaded = gl.load_run(run)
    assert loaded.config["shams"] == before["shams"]
    assert loaded.phenomena is not None
    assert loaded.phenomena.tags is None
    assert len(loaded.phenomena.overlap) == 0
    assert loaded.phenomena.keys.rule.endswith("sentence")


@pytest.mark.parametrize(
    ("pairs", "more", "message"),
    [
        (
            "blimp:pasive_1",
            (),
            "BLiMP has no paradigm 'pasive_1': did you mean passive_1 or passive_2",
        ),
        ("none.csv", (), "no minimal pairs at 'none.csv'"),
        ("good,bad\nHe is.,He is.\n", (), "x.csv:2: the two sentences are the same, 'He is.'"),
        ("good,bad\nHe is,He is in\n", (), "differ in that one goes on after the other's end"),
        ("good,bad\nHe is.,He are.\nI am.,I is.\n", ("--folds", 3), "x has 2 pairs in 2 groups"),
        ("embedded", ("--pair-tags", "ADJ"), "'ADJ' has no key neurons: there are DET, NOUN"),
        ("embedded", ("--folds", 1), "--folds is 1, expected 2"),
        (
            "",
            (),
            "these settings leave out the step 'phenomena': give --pairs embedded, or another",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Path, tmp_path: Path, pairs: str, more: tuple[object, ...], message: str
) -> None:
    if "\n" in pairs:
        (tmp_path / "x.csv").write_text(pairs, "utf-8")
        pairs = str(tmp_path / "x.csv")
    code, out, err = call("phenomena", run, "--pairs", pairs, *more, "--quiet")
    assert (code, out) == (2, ""), err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (run / "phenomena.json").exists()


def test_a_hub_that_cannot_be_reached_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAMMAR_LENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAMMAR_LENS_BLIMP_URL", "http://127.0.0.1:9")
    code, _, err = call("phenomena", run, "--pairs", "blimp:passive_1", "--quiet")
    assert code == 2
    assert "cannot fetch http://127.0.0.1:9" in err
    assert len(err.strip().splitlines()) == 1


def test_curves_of_a_model_with_fewer_neurons_than_they_ask_for(run: Path) -> None:
    """The tiny model has 96 neurons, the default goes to 300; cutting all of them helps some tags."""
    code, out, err = call(
        "lesion", run, "--values", "mean", "--doses", 1, "--shams", 0, "--curves", "--json", "--quiet"
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)["lesion"]["curves"]
    curves = gl.load_run(run).size_curves
    assert curves is not None
    assert curves.table["k"].max() <= 96
    assert (curves.everything <= 0).any()
    nothing = [x for x in told["areas"] if told["everything"][x["label"]] <= 0]
    assert [x["completeness"] for x in nothing] == [None] * len(nothing)
    code, out, err = call("report", run)
    assert code == 0, err
    areas: Any = curves.areas()
    mean = areas[areas["ranking"] == "key neurons"]["completeness"].mean()
    assert f"cut {mean:.0%}" in out
    assert "nan%" not in (run / "report.html").read_text("utf-8")
    assert (run / "figures" / "curves-over-k.html").is_file()
    # other key neurons: curves and lesions of the earlier ones are not shown by a run that is open
    loaded = gl.load_run(run)
    assert loaded.size_curves is not None
    assert loaded.study is not None
    run_step("select", Config.of(loaded, "select", top_k=3), loaded, lambda _text: None)
    assert loaded.study is None
    assert loaded.size_curves is None
