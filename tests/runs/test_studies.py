"""Results of a step stand beside earlier ones; what was changed, or does not belong, is not shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from changed_runs import of_an_earlier_version
from small_runs import call, write_beginnings, write_pairs
from typer.testing import CliRunner

import grammar_lens as gl
from grammar_lens.cli.app import app
from grammar_lens.errors import GrammarLensError, NotMeasuredError
from grammar_lens.files import read_sealed
from grammar_lens.runs.settings import Config
from grammar_lens.runs.store.studies import MADE_FROM, OWN, STEPS

pytestmark = pytest.mark.usefixtures("few_figures", "plain_reports")

LABELS = "DET,NOUN,PRON,VERB"


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """A small whole run of the tiny model, with lesions."""
    folder = tmp_path_factory.mktemp("studies")
    tiny_hf().save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    write_beginnings(folder, train=70, test=30)
    write_pairs(folder / "pairs.csv")
    code, _, err = call(
        "run", "--model", folder / "tiny", "--train", f"{folder}:train", "--fresh",
        f"{folder}:test", "--labels", LABELS, "--replicates", 25, "--top-k", 6, "--alpha", 1,
        "--probe-k", 3, "--values", "mean", "--doses", "1", "--shams", 3, "--other-shams", 0,
        "--damage-matched", 0, "--max-fresh-sentences", 20, "--pairs",
        folder / "pairs.csv", "--pair-shams", 2, "--sham-pairs", 5, "--out", folder / "run", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def shown(path: Path) -> dict[str, bytes]:
    """Every file at its place in the run directory, but for what is stored beside."""
    names = (p for p in path.rglob("*") if p.is_file() and "studies" not in p.parts)
    return {str(p.relative_to(path)): p.read_bytes() for p in names if p.name != "run.json"}


def made_json(path: Path, step: str) -> list[dict[str, Any]]:
    return [
        json.loads((folder / "made.json").read_text("utf-8"))
        for folder in sorted((path / "studies" / step).iterdir())
    ]


def test_every_step_says_what_decides_it():
    assert set(OWN) == set(MADE_FROM) == set(STEPS)
    decided = {name for names in OWN.values() for name in names}
    assert decided == set(Config().stored()), "a setting that decides no step is in no name"


def test_the_record_of_a_result(made: Path):
    (record,) = made_json(made, "lesion")
    (before,) = made_json(made, "select")
    assert record["made_from"] == {"select": before["key"]}
    assert record["settings"]["shams"] == 3
    assert record["seed"] == 0
    assert record["versions"]["torch"]
    assert set(record["files"]) == {"lesions.parquet", "lesion_matrix.json"}
    assert set(record["inputs"]) == {"train", "fresh", "model"}
    for step, name in STEPS.items():
        (folder,) = (made / "studies" / step).iterdir()
        assert (folder / name).samefile(made / name), "no second copy"


def test_another_choice_hides_what_rests_on_the_old_and_the_old_brings_it_back(run: Path):
    before = shown(run)
    assert call("select", run, "--top-k", 3, "--quiet")[0] == 0
    hidden = {"probe.json", "lesions.parquet", "lesion_matrix.json", "report.html", "summary.json"}
    hidden |= {"phenomena.json", "phenomena.parquet", "phenomena_neurons.csv"}
    assert not hidden & set(shown(run))
    assert not (run / "figures").exists()
    again = gl.load_run(run)
    assert again.study is None
    assert again.summary == {}
    with pytest.raises(NotMeasuredError, match="not made from its current results"):
        _ = again.probe
    code, _, err = call("export", run, "--to", run.parent / "tables", "--quiet")
    assert code == 0, err
    assert not list((run.parent / "tables").glob("lesion*"))
    assert call("select", run, "--top-k", 6, "--quiet")[0] == 0
    assert shown(run) == before


def test_a_step_of_another_seed_stands_beside(run: Path):
    old = gl.load_run(run)
    assert old.study is not None
    code, _, err = call("lesion", run, "--seed", 9, "--name", "nine", "--quiet")
    assert code == 0, err
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["config"]["seed"] == 0
    assert record["studies"]["lesion"]["seed"] == 9
    assert record["studies"]["probe"]["seed"] == 0
    assert {r["seed"] for r in made_json(run, "lesion")} == {0, 9}
    code, out, _ = call("runs", run, "--json")
    rows = json.loads(out)["studies"]
    assert code == 0
    lesions = {row["name"]: row["current"] for row in rows if row["step"] == "lesion"}
    first = next(name for name in lesions if name != "nine")
    assert lesions == {"nine": True, first: False}
    for name, seed in (("nine", 9), (first, 0), (first[:5], 0)):
        study = gl.load_run(f"{run}@{name}")
        assert study.study is not None
        assert study.config["seed"] == seed
    seen = gl.load_run(f"{run}@{first}").study
    assert seen is not None
    assert (seen.matrix == old.study.matrix).all()
    page = run.parent / "compare.html"
    assert call("compare", f"{run}@nine", f"{run}@{first}", "--out", page)[0] == 0
    assert f"run@{first}" in page.read_text("utf-8")
    code, _, err = call("lesion", run, "--seed", 8, "--name", "nine", "--quiet")
    assert (code, "another --name" in err) == (2, True)
    code, _, err = call("compare", f"{run}@none", run, "--out", page)
    assert (code, "no stored study" in err) == (2, True)


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        ("lesion", ("--lesion-labels", "NUON,VERB")),
        ("lesion", ("--doses", "1e300")),
        ("lesion", ("--seed", "-1")),
        ("probe", ("--max-train-words", "5")),
        ("probe", ("--seed", "-1")),
        ("select", ("--alpha", "2")),
        ("select", ("--rule", "fdr", "--alpha", "1")),
        ("select", ("--sign", "negative")),
        ("score", ("--score", "auroc")),
        ("score", ("--score", "no_such")),
    ],
)
def test_a_step_that_fails_changes_nothing(run: Path, step: str, arguments: tuple[str, ...]):
    def results() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in (run / "studies").rglob("*") if p.is_file()}

    before, places, record = results(), shown(run), read_sealed(run / "run.json")
    code, _, err = call(step, run, *arguments, "--quiet")
    assert (code, err.count("\n")) == (2, 1), err
    assert results() == before
    assert {n: b for n, b in shown(run).items() if not n.startswith("unfinished")} == places
    after = read_sealed(run / "run.json")
    for name in ("config", "studies"):
        assert after[name] == record[name]


def look(path: Path) -> None:
    """Reads everything that a run has."""
    run = gl.load_run(path)
    for position in run.positions:
        _ = run.at(position), run.fitted_at(position)
    _ = run.examples, run.course, run.curves, run.study, run.lesions, run.summary


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("scores.safetensors", "score"),
        ("attributions.safetensors", "score"),
        ("controls.json", "select"),
        ("key_neurons.csv", "select"),
        ("examples.json", "examples"),
        ("time_course.json", "course"),
        ("probe_curve.csv", "probe"),
        ("probe.safetensors", "probe"),
        ("probe.json", "probe"),
        ("lesions.parquet", "lesion"),
        ("lesion_matrix.json", "lesion"),
        ("summary.json", "report"),
    ],
)
@pytest.mark.parametrize("stored", [False, True], ids=["shown", "stored"])
def test_one_changed_byte_is_a_line_that_says_what_makes_it_anew(
    run: Path, name: str, step: str, stored: bool
):
    before = shown(run)
    path = next((run / "studies" / step).glob(f"*/{name}")) if stored else run / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(GrammarLensError) as told:
        look(run)
    assert f"{path} is damaged" in str(told.value)
    assert f"`grammar-lens {step} {run}`" in str(told.value)
    if step in ("select", "report", "score"):
        code, _, err = call(step, run, "--quiet")
        assert code == 0, err
        if step != "report":
            assert shown(run) == before


def test_a_record_that_was_changed(run: Path):
    text = (run / "run.json").read_text("utf-8")
    (run / "run.json").write_text(text.replace('"top_k": 6', '"top_k": 7'), "utf-8")
    code, _, err = call("report", run, "--quiet")
    assert (code, "run.json is damaged" in err, err.count("\n")) == (2, True, 1)


@pytest.mark.parametrize("change", ["key", "files", "settings", "cut", "gone"])
def test_a_damaged_record_of_a_step(run: Path, change: str):
    (path,) = (run / "studies" / "probe").glob("*/made.json")
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        record = json.loads(path.read_text("utf-8"))
        record[change] = {} if change != "key" else "0" * 64
        path.write_text(json.dumps(record), "utf-8")
    with pytest.raises(GrammarLensError, match=r"made\.json is damaged.*`grammar-lens probe"):
        look(run)
    code, _, err = call("probe", run, "--quiet")
    assert code == 0, err
    assert gl.load_run(run).has("probe")


def test_the_file_of_another_run_is_seen(run: Path):
    """It is whole in itself; only the record knows that it was not stored here."""
    table = pd.read_csv(run / "key_neurons.csv")
    table.iloc[::-1].to_csv(run / "key_neurons.csv", index=False)
    with pytest.raises(GrammarLensError, match=r"key_neurons\.csv is damaged"):
        _ = gl.load_run(run).keys


def test_a_run_of_an_earlier_version_is_read_and_gets_records(run: Path):
    want = gl.load_run(run).study
    before = shown(run)
    of_an_earlier_version(run)
    read = gl.load_run(run)
    assert want is not None
    assert read.study is not None
    assert (read.study.matrix == want.matrix).all()
    look(run)
    code, out, _ = call("runs", run, "--json")
    assert (code, len(json.loads(out)["studies"])) == (0, len(STEPS))
    assert call("select", run, "--top-k", 3, "--quiet")[0] == 0
    assert gl.load_run(run).study is None
    assert call("select", run, "--top-k", 6, "--quiet")[0] == 0
    assert shown(run) == before


def test_prune_deletes_what_is_not_current_and_nothing_else(run: Path):
    before = shown(run)
    assert call("select", run, "--top-k", 3, "--quiet")[0] == 0
    assert call("select", run, "--top-k", 6, "--quiet")[0] == 0
    kept = CliRunner().invoke(app, ["runs", str(run), "--prune"], input="n\n")
    assert (kept.exit_code, len(made_json(run, "select"))) == (0, 2)
    assert CliRunner().invoke(app, ["runs", str(run), "--prune"], input="").exit_code == 2
    code, out, _ = call("runs", run, "--prune", "--yes", "--json")
    assert (code, len(json.loads(out)["deleted"])) == (0, 1)
    assert len(made_json(run, "select")) == 1
    assert shown(run) == before
    look(run)
