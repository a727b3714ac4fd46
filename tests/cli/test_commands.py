"""The command line: what a user types, what comes back, and what bad input says."""

import gzip
import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from changed_runs import of_an_earlier_version
from processes import command, run_command, start
from small_runs import call
from typed import present

import grammar_lens as gl

pytestmark = pytest.mark.usefixtures("few_figures", "plain_reports")

SENTENCES = (
    "The/DET old/ADJ man/NOUN slowly/ADV walked/VERB home/ADV",
    "She/PRON can/AUX see/VERB a/DET small/ADJ dog/NOUN in/ADP the/DET garden/NOUN",
    "We/PRON often/ADV read/VERB good/ADJ books/NOUN at/ADP night/NOUN",
    "They/PRON will/AUX never/ADV find/VERB that/DET key/NOUN under/ADP the/DET stone/NOUN",
    "A/DET young/ADJ woman/NOUN has/AUX quickly/ADV opened/VERB the/DET door/NOUN",
    "I/PRON would/AUX gladly/ADV buy/VERB fresh/ADJ bread/NOUN from/ADP him/PRON",
    "The/DET boys/NOUN are/AUX playing/VERB with/ADP a/DET red/ADJ ball/NOUN today/ADV",
    "He/PRON quietly/ADV gave/VERB the/DET letter/NOUN to/ADP his/PRON tall/ADJ sister/NOUN",
)
FRESH = (
    "The/DET tired/ADJ girl/NOUN could/AUX hardly/ADV carry/VERB it/PRON to/ADP the/DET house/NOUN",
    "You/PRON should/AUX always/ADV wash/VERB green/ADJ apples/NOUN with/ADP water/NOUN",
    "My/PRON father/NOUN was/AUX calmly/ADV driving/VERB a/DET big/ADJ car/NOUN along/ADP the/DET road/NOUN",
)
N_WORDS = sum(len(s.split()) for s in SENTENCES)
SMALL = (
    *("--top-k", "8", "--alpha", "1", "--probe-k", "4", "--shams", "3", "--replicates", "20"),
    *("--damage-matched", "0", "--example-neurons", "1", "--quiet"),
)
"""With `--alpha 1` the eight of the highest rank, whatever their null: sentences are few."""


def conllu(sentences: tuple[str, ...]) -> str:
    lines = []
    for sentence in sentences:
        for i, word in enumerate(sentence.split(), 1):
            form, tag = word.split("/")
            lines.append("\t".join([str(i), form, "_", tag, *["_"] * 6]))
        lines.append("")
    return "\n".join(lines) + "\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train, fresh = tmp_path / "train.conllu", tmp_path / "fresh.conllu"
    train.write_text(conllu(SENTENCES), "utf-8")
    fresh.write_text(conllu(FRESH), "utf-8")
    return train, fresh


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on a few sentences."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "train.conllu").write_text(conllu(SENTENCES), "utf-8")
    (folder / "fresh.conllu").write_text(conllu(FRESH), "utf-8")
    code, out, err = call(
        "run", "--train", folder / "train.conllu", "--fresh", folder / "fresh.conllu",
        "--out", folder / "run", *SMALL,
    )  # fmt: skip
    assert code == 0, err
    assert "double dissociations" in out
    return folder / "run"


def test_run_writes_what_the_design_lists(made: Path) -> None:
    names = {p.name for p in made.iterdir()}
    assert names >= {
        *("run.json", "moments.safetensors", "scores.safetensors", "key_neurons.csv"),
        *("probe.json", "lesions.parquet", "lesion_matrix.json", "summary.json", "report.html"),
        "figures",
    }
    assert not [n for n in names if n.endswith(".tmp")]


def test_summary_has_every_agreed_key_and_sound_numbers(made: Path) -> None:
    summary = json.loads((made / "summary.json").read_text("utf-8"))
    assert summary["schema"] == 1
    assert summary["model"]["name"] == "reference-9m"
    assert (summary["model"]["n_layers"], summary["model"]["d_mlp"]) == (8, 896)
    assert summary["model"]["n_parameters"] == 9_179_392
    assert set(summary["treebank"]) >= {"train", "fresh", "label", "labels"}
    aligned = summary["alignment"]
    assert aligned["aligned"] + sum(aligned["skipped"].values()) == aligned["words"] == N_WORDS
    assert set(summary["collect"]) >= {"words", "tokens", "seconds"}
    assert summary["collect"]["words"] == N_WORDS - len(
        SENTENCES
    )  # first words are not read at next
    probe = summary["probe"]
    assert probe["position"] == "word"
    assert probe["k"] == 4
    for name in (
        *("accuracy", "random_accuracy", "majority_accuracy", "word_baseline_accuracy"),
        *("control_accuracy", "macro_f1"),
    ):
        assert 0 <= probe[name] <= 1, name
    assert probe["selectivity"] == pytest.approx(probe["accuracy"] - probe["control_accuracy"])
    lesion = summary["lesion"]
    n = len(lesion["labels"])
    assert n == 8
    assert [len(row) for row in lesion["matrix"]] == [n] * n
    diagonal = [lesion["matrix"][i][i] for i in range(n)]
    assert lesion["diagonal_mean"] == pytest.approx(sum(diagonal) / n)
    assert lesion["p_value"] in {0.25, 0.5, 0.75, 1.0}  # three shams
    assert lesion["identity_error"] < 1e-9


def test_a_stored_run_gives_back_what_was_found(made: Path) -> None:
    import numpy as np

    import grammar_lens as gl

    run = gl.load_run(made)
    words = gl.score(run.at("word").moments["neuron"], "correlation")
    assert np.array_equal(words.values, run.scores_at("word").values)
    again = gl.score(run.evidence("next"), "attribution_contrast")
    assert np.array_equal(again.values, run.scores.values)
    chosen = gl.select(again, k=8, alpha=1)
    for label in chosen:
        assert list(chosen[label]) == list(run.keys[label])
        np.testing.assert_allclose(present(run.keys[label].mean), present(chosen[label].mean))
    assert run.study is not None
    assert run.study.n_shams == 3
    assert run.probe.position == run.keys.origin.position == "next"
    assert run.probe_at("word").position == "word"
    table = run.lesions
    assert set(table["replicate"]) == {0, 1, 2, 3}
    base = table[table.lesion == ""].set_index("word")
    main = (table.kind == "set") & (table.value == "mean") & (table.dose == 1)
    verbs = table[main & (table.lesion == "VERB") & (table.replicate == 0)].set_index("word")
    change = (verbs.tag_loss - base.tag_loss)[verbs.label == "NOUN"].mean()
    i, j = run.study.labels.index("VERB"), run.study.labels.index("NOUN")
    assert run.study.matrix[i, j] == pytest.approx(change, abs=1e-5)


def test_steps_one_by_one_equal_the_whole_run(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "steps"
    train, fresh = made.parent / "train.conllu", made.parent / "fresh.conllu"
    options = ("--train", train, "--fresh", fresh, "--replicates", "20", "--quiet")
    assert call("collect", run, *options)[0] == 0
    code, _, err = call("probe", run, "--quiet")
    assert (code, "first `grammar-lens select" in err) == (2, True)
    for step in (
        ("score", run),
        ("select", run, "--top-k", "8", "--alpha", "1"),
        ("probe", run, "--probe-k", "4"),
        ("lesion", run, "--shams", "3", "--damage-matched", "0"),
        ("report", run),
    ):
        code, _, err = call(*step, "--quiet")
        assert code == 0, err
    ours = json.loads((run / "summary.json").read_text("utf-8"))
    whole = json.loads((made / "summary.json").read_text("utf-8"))
    for part in ("probe", "lesion", "alignment"):
        assert ours[part] == whole[part]


def test_resume_redoes_only_what_is_missing(made: Path, files: tuple[Path, Path]) -> None:
    train, fresh = made.parent / "train.conllu", made.parent / "fresh.conllu"
    options = ("--train", train, "--fresh", fresh, "--out", made, *SMALL)
    stamp = (made / "moments.safetensors").stat().st_mtime_ns
    before = json.loads((made / "lesion_matrix.json").read_text("utf-8"))
    (made / "lesion_matrix.json").unlink()
    code, _, err = call("run", *options, "--resume")
    assert code == 0, err
    assert (made / "moments.safetensors").stat().st_mtime_ns == stamp
    assert json.loads((made / "lesion_matrix.json").read_text("utf-8")) == before

    code, _, err = call("run", *options, "--resume", "--score", "welch_t")
    assert code == 2
    assert "score: it was '', now 'welch_t'" in err
    assert call("run", *options)[0] == 2

    code, _, err = call("run", "--resume", "--out", made)
    assert code == 0, "settings that are not given are the run's"
    assert "lesion: done before, kept" in err
    code, _, err = call("run", "--resume", "--out", made, "--shams", "9")
    assert code == 2
    assert err.count(": it was") == 1
    assert "now 9" in err


def test_a_run_of_earlier_settings_goes_on(made: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(made, old)
    of_an_earlier_version(old)
    record = json.loads((old / "run.json").read_text("utf-8"))
    for name in ("context", "window"):
        del record["config"][name]
    for old_name, name in (("lesion", "values"), ("dose", "doses")):
        main, *others = record["config"][name]
        record["config"] |= {old_name: main, name: others}
    (old / "run.json").write_text(json.dumps(record), "utf-8")
    train, fresh = made.parent / "train.conllu", made.parent / "fresh.conllu"
    options = ("--train", train, "--fresh", fresh, "--out", old, *SMALL, "--resume")
    assert call("run", *options)[0] == 0
    code, _, err = call("run", *options, "--context", "document")
    assert code == 2
    assert "context: it was 'sentence', now 'document'" in err
    assert call("select", old, "--top-k", "8", "--quiet")[0] == 0
    config = json.loads((old / "run.json").read_text("utf-8"))["config"]
    assert (config["context"], config["values"]) == ("sentence", ["mean", "zero", "resample"])
    assert not {"lesion", "dose"} & set(config)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("lesion", "--lesion-labels", "NUON,VERB"), "did you mean 'NOUN'?"),
        (("lesion", "--values", "none"), "--values mean"),
        (("lesion", "--doses", "nan"), "--doses is nan"),
        (("probe", "--probe-k", 0), "--probe-k is 0"),
        (("select", "--rule", "fdr", "--alpha", 2), "--alpha is 2"),
        (("select", "--top-k", 7169), "expected 1 to 7,168"),
        (("score", "--score", "auroc"), "collect again with --score auroc"),
    ],
)
def test_what_a_step_refuses_changes_nothing(
    copied: Path, options: tuple[object, ...], told: str
) -> None:
    def contents() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(copied.rglob("*")) if p.is_file()}

    before = contents()
    step, *rest = options
    code, out, err = call(step, copied, *rest)
    assert (code, out, told in err) == (2, "", True), err
    assert contents() == before


def test_a_run_on_documents(files: tuple[Path, Path], tmp_path: Path) -> None:
    train, fresh = files
    document = conllu(SENTENCES[:3])
    train.write_text(f"# newdoc\n{conllu(SENTENCES[3:])}# newdoc\n{document}", "utf-8")
    code, _, err = call(
        "run", "--train", train, "--fresh", fresh, "--out", tmp_path / "run", *SMALL[:-1],
        "--context", "document", "--window", 200, "--max-fresh-sentences", 2, "--values", "mean",
        "--doses", 1, "--replicates", 0,
    )  # fmt: skip
    assert code == 0, err
    assert "fresh: no document boundaries, so all sentences are read as one" in err
    assert "train: no documents" not in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert (summary["treebank"]["context"], summary["treebank"]["window"]) == ("document", 200)
    # the first words of two documents, as each fits into a window
    assert summary["alignment"]["not_read"]["next"] == {"first of its window": 2}
    assert summary["collect"]["words"] == N_WORDS - 2
    # the first two sentences of the only fresh document
    assert summary["lesion"]["words"] == sum(len(s.split()) for s in FRESH[:2]) - 1


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A run that a test may change."""
    shutil.copytree(made, tmp_path / "copied")
    return tmp_path / "copied"


def test_what_is_not_given_stays_as_the_run_has_it(copied: Path) -> None:
    assert _stored(copied)["config"]["top_k"] == 8
    code, out, err = call("select", copied, "--sign", "positive", "--json")
    assert code == 0, err
    config = _stored(copied)["config"]
    assert (config["top_k"], config["sign"], config["shams"]) == (8, "positive", 3)
    assert set(json.loads(out)["selection"]["next"]["neurons"].values()) == {8}
    # what was on can be set off, and back to nothing
    code, _, err = call(
        "lesion", copied, "--no-sufficiency", "--values", "mean", "--doses", "1", "--quiet"
    )
    assert code == 0, err
    config = _stored(copied)["config"]
    assert (config["values"], config["doses"], config["shams"]) == (["mean"], [1.0], 3)


def test_settings_of_a_file_are_stored_with_the_run(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    path, run = tmp_path / "study.toml", tmp_path / "run"
    path.write_text(
        f"train = '{files[0]}'\nfresh = '{files[1]}'\nseed = 3\nshams = 7\n[collect]\nreplicates = 0\n"
        "position = 'next'\n[run]\nseed = 4\n",
        "utf-8",
    )
    code, _, err = call("collect", run, "--config", path, "--seed", 5, "--quiet")
    assert code == 0, err
    record = _stored(run)
    config = record["config"]
    # from the command line, its table, the top, and a key that is none of this command's
    assert (config["seed"], config["replicates"], config["train"]) == (5, 0, str(files[0]))
    assert (config["positions"], config["shams"]) == (["next"], 20)
    assert record["config_file"] == str(path)
    path.write_text("top_k = 3", "utf-8")
    for step in ("score", "select"):
        code, _, err = call(step, run, "--config", path, "--quiet")
        assert code == 0, err
    assert _stored(run)["config"]["top_k"] == 3


def test_every_step_prints_json_alone(copied: Path) -> None:
    found = {}
    for step in ("score", "select", "examples", "course", "probe", "report"):
        code, out, err = call(step, copied, "--json")
        assert code == 0, err
        assert err == ""
        found[step] = json.loads(out)
    assert found["score"]["next"]["score"] == "attribution_contrast"
    assert {"label", "layer", "index", "score"} <= set(found["score"]["word"]["strongest"][0])
    assert found["select"]["selection"]["word"]["neurons"]["NOUN"] == 8
    assert {row["label"] for row in found["examples"]["next"]} <= {
        *["ADJ", "ADP", "ADV", "AUX", "DET", "NOUN", "PRON", "VERB"]
    }
    assert {row["end"] for row in found["examples"]["next"]} == {"top", "bottom"}
    assert "offset" in found["course"][0]
    assert found["probe"]["probe"]["k"] == 4
    assert found["report"]["schema"] == 1


def test_one_neuron(made: Path) -> None:
    code, out, err = call("neuron", made, "3.43")
    assert code == 0, err
    for part in ("Neuron 3.43 of reference-9m", "read at word", "read at next", "most active at"):
        assert part in out
    assert "«" in out
    code, out, _ = call("neuron", made, "3.43", "--position", "next", "--stored", "--json")
    assert code == 0
    view = json.loads(out)
    assert (view["layer"], view["index"], list(view["positions"])) == (3, 43, ["next"])
    assert {row["label"] for row in view["positions"]["next"]["labels"]} >= {"NOUN", "VERB"}
    for address, told in (("99.1", "does not exist"), ("x", "layer and index")):
        code, _, err = call("neuron", made, address)
        assert (code, told in err) == (2, True)


def test_neurons_of_another_tool(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("label,layer,index\nVERB,1,2\nVERB,0,5\n", "utf-8")
    code, out, err = call("select", copied, "--from", tmp_path / "other.csv", "--quiet")
    assert code == 0, err
    assert "VERB 2" in out
    assert _stored(copied)["config"]["neurons_from"] == str(tmp_path / "other.csv")
    code, out, err = call("select", copied, "--from", "", "--quiet")
    assert code == 0, err
    assert "VERB 8" in out
    code, _, err = call("select", copied, "--from", tmp_path / "none.csv")
    assert (code, err.count("\n"), "none.csv" in err) == (2, 1, True)


def test_export_and_compare(made: Path, copied: Path, tmp_path: Path) -> None:
    code, out, err = call("export", made, "--to", tmp_path / "tables", "--json")
    assert code == 0, err
    names = {Path(path).name for path in json.loads(out)["files"]}
    assert names >= {"key_neurons.csv", "scores.csv"}
    assert all(Path(path).is_file() for path in json.loads(out)["files"])
    code, _, err = call("export", made, "--to", tmp_path / "tables", "--format", "xls")
    assert (code, "expected one of csv, parquet, latex" in err) == (2, True), err
    code, out, err = call("export", made, "--to", tmp_path / "tex", "--format", "latex", "--quiet")
    assert code == 0, err
    keys = (tmp_path / "tex" / "key_neurons.tex").read_text("utf-8")
    assert r"\begin{tabular}" in keys
    assert "VERB" in keys
    page = tmp_path / "compare.html"
    code, out, err = call("compare", made, copied, "--out", page)
    assert code == 0, err
    assert (out, page.stat().st_size > 100_000) == (f"comparison: {page}\n", True)
    code, _, err = call("compare", made)
    assert (code, "2 or more" in err) == (2, True)


def test_serve_ends_well_with_ctrl_c(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("dash")
    server = command("serve", made, "--port", 0, "--no-browser", folder=tmp_path)
    server.until(lambda: "http://127.0.0.1:" in server.stdout)
    server.interrupt()
    assert server.ended(60) == 0
    assert "Traceback" not in server.stderr


def test_serve_without_dash_says_what_to_install(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dash", None)
    code, _, err = call("serve", made, "--no-browser")
    assert code == 2
    assert 'pip install "grammar-lens[explorer]"' in err
    assert err.count("\n") == 1


def test_verbose_says_what_the_numbers_come_from(copied: Path) -> None:
    shutil.rmtree(copied / "studies" / "course")
    code, _, err = call("course", copied, "--verbose", "--quiet")
    assert code == 0
    versions, settings, *passes, spent = err.splitlines()
    assert "torch 2" in versions
    assert versions.endswith(" threads")
    assert "model='reference-9m'" in settings
    (told,) = [
        line for line in passes if line.startswith("grammar_lens.progress: reading for course: ")
    ]
    assert "words in 1 batches" in told
    assert spent.startswith("course: ")
    assert "MiB (host)" in spent


def test_generate_writes_with_and_without(made: Path) -> None:
    code, out, err = call("generate", made, "--lesion", "VERB", "--tokens", "5")
    assert code == 0, err
    assert "8 VERB neurons" in out
    assert out.count("In the morning we") == 2
    code, _, err = call("generate", made, "--lesion", "ZZZ")
    assert (code, "no key neurons of 'ZZZ'" in err) == (2, True)
    code, _, err = call("generate", "--run", made)
    assert (code, "the run directory is the first argument" in err) == (2, True)


def test_the_next_word_with_and_without(made: Path) -> None:
    command = ("next-word", made, "The old man", "--lesion", "VERB", "--doses", "0.5,1")
    code, out, err = call(*command, "--json")
    assert code == 0, err
    told = json.loads(out)
    expected = gl.load_run(made).next_word("The old man", "VERB", doses=(0.5, 1))
    assert told["doses"] == [0, 0.5, 1]
    assert told["tags"][0]["label"] == expected.to_frame()["label"][0]
    assert told["tags"][0]["dose 1"] == pytest.approx(expected.to_frame()["dose 1"][0])
    code, out, _ = call("next-word", made, "The old man", "--lesion", "7.336", "--value", "zero")
    assert code == 0
    assert "set to zero" in out
    code, _, err = call("next-word", made, "The old man", "--lesion", "VREB")
    assert (code, "did you mean 'VERB'" in err) == (2, True)
    code, _, err = call("next-word", made, "The old man", "--doses", "half")
    assert (code, "expected numbers separated by commas" in err) == (2, True)


def test_plan_tells_memory_and_times_before_a_run(made: Path) -> None:
    train, fresh = made.parent / "train.conllu", made.parent / "fresh.conllu"
    options = ("--train", train, "--fresh", fresh, "--shams", "3")
    code, out, err = call("plan", *options)
    assert code == 0, err
    for part in ("parameters", "statistics, moments", "expected peak", "it fits", "measured"):
        assert part in out
    code, out, _ = call("plan", *options, "--json", "--device", "cpu")
    assert code == 0
    plan = json.loads(out)
    assert plan["model"]["n_parameters"] == 9_179_392
    assert plan["fits"] is True
    assert plan["memory"]["peak"] < plan["free"]
    assert plan["passes"]["collect"]["tokens"] == _stored(made)["collect"]["tokens"]
    assert plan["times"]["lesion"]["measured"] is True
    # as many as the run has made, beside the intact model
    import pandas as pd

    lesions = pd.read_parquet(made / "lesions.parquet")
    names = ["lesion", "replicate", "kind", "value", "dose"]
    there = lesions.loc[lesions.lesion != "", names].drop_duplicates()
    assert plan["lesions"] == len(there)


def test_plan_without_weights_or_room(files: tuple[Path, Path]) -> None:
    options = ("plan", "--train", files[0], "--fresh", files[1], "--meta")
    code, out, err = call(*options, "--device", "cpu", "--memory-gib", "0.01")
    assert code == 0, err
    assert "WARNING: it does not fit" in out
    assert "not measured" in out
    code, out, _ = call(*options, "--json", "--dtype", "bfloat16")
    assert json.loads(out)["memory"]["parameters"] == 2 * 9_179_392
    assert (json.loads(out)["free"], json.loads(out)["times"]) == (None, {})
    code, _, err = call("plan", "--train", files[0], "--fresh", files[1], "--score", "chi")
    assert (code, err.count("\n")) == (2, 1)


def test_a_run_begins_with_its_plan(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grammar_lens.runs import forecast, pipeline

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "do", stop)  # the plan is told before the first step
    options = ("--train", files[0], "--fresh", files[1], *SMALL[:-1])
    code, _, err = call("run", *options, "--out", tmp_path / "first")
    assert code == 130, err
    assert err.count("plan: ") == 2
    assert "WARNING" not in err
    monkeypatch.setattr(forecast, "free_memory", lambda _devices: 2**20)
    _, _, err = call("run", *options, "--out", tmp_path / "second")
    assert "plan: WARNING, this does not fit: " in err
    assert "plan: " not in call("run", *options, "--out", tmp_path / "third", "--quiet")[2]


def _stored(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text("utf-8"))


def test_info_names_versions_and_embedded_data() -> None:
    code, out, _ = call("info")
    assert code == 0
    assert "transformer-lens" in out
    assert "handmade" in out


def _bad(files: tuple[Path, Path], tmp_path: Path, *options: object) -> str:
    """The message of a run that must fail without leaving a directory."""
    given = {"--train": files[0], "--fresh": files[1], "--out": tmp_path / "out"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    code, _, err = call("run", *(x for pair in given.items() for x in pair), "--quiet")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return err


def test_missing_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert "nowhere.conllu" in _bad(files, tmp_path, "--train", tmp_path / "nowhere.conllu")


def test_directory_without_conllu(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert ".conllu" in _bad(files, tmp_path, "--train", tmp_path / "empty")


def test_line_with_nine_columns(files: tuple[Path, Path], tmp_path: Path) -> None:
    text = conllu(SENTENCES).splitlines()
    text[2] = text[2].rsplit("\t", 1)[0]
    files[0].write_text("\n".join(text) + "\n\n", "utf-8")
    message = _bad(files, tmp_path)
    assert "train.conllu:3" in message
    assert "9" in message


def test_label_no_word_has(files: tuple[Path, Path], tmp_path: Path) -> None:
    message = _bad(files, tmp_path, "--label", "feats:Number")
    assert "feats:Number" in message
    assert "upos" in message


def test_labels_with_fewer_than_two_words(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_text(conllu((*SENTENCES, "Oh/INTJ the/DET man/NOUN walked/VERB")), "utf-8")
    message = _bad(files, tmp_path)
    assert "'INTJ' has 1 word" in message
    assert "--labels ADJ,ADP" in message


def test_empty_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_text("", "utf-8")
    assert "train.conllu" in _bad(files, tmp_path)


def test_not_utf8(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_bytes(conllu(SENTENCES).replace("garden", "jardín").encode("latin-1"))
    assert "UTF-8" in _bad(files, tmp_path)


def test_gzip_named_conllu(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_bytes(gzip.compress(conllu(SENTENCES).encode()))
    assert "gzip" in _bad(files, tmp_path)


def test_train_equal_to_fresh(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert "must be other sentences" in _bad(files, tmp_path, "--fresh", files[0])


def test_more_key_neurons_than_there_are(files: tuple[Path, Path], tmp_path: Path) -> None:
    message = _bad(files, tmp_path, "--top-k", 7169)
    assert "expected 1 to 7,168" in message
    assert "expected 1 or more" in _bad(files, tmp_path, "--top-k", 0)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--score", "chi", "correlation, cohens_d, welch_t"),
        ("--sign", "both", "absolute, positive, negative"),
        ("--values", "cut", "zero, mean, resample, resample_within, none"),
        ("--lesion-labels", "NUON,VERB", "did you mean 'NOUN'?"),
        ("--labels", "NUON,VERB", "did you mean 'NOUN'?"),
        ("--site", "resid", "resid_pre"),
        ("--device", "warp", "cuda:0"),
        ("--dtype", "float8", "bfloat16"),
        ("--model", "./nowhere", "config.json"),
        ("--shams", -1, "0 or more"),
        ("--labels", "NOUN,ZZZ", "ZZZ"),
        ("--context", "book", "sentence, document"),
        ("--window", 15, "16 or more"),
    ],
)
def test_unknown_settings(
    files: tuple[Path, Path], tmp_path: Path, option: str, value: object, told: str
) -> None:
    assert told in _bad(files, tmp_path, option, value)


def test_existing_run_without_resume(made: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    code, _, err = call("run", "--train", files[0], "--fresh", files[1], "--out", made, "--quiet")
    assert code == 2
    assert "--resume" in err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep", "utf-8")
    code, _, err = call("run", "--out", tmp_path / "notes", "--quiet")
    assert code == 2
    assert "no run directory" in err
    code, _, err = call("run", "--out", files[0] / "run", "--quiet")
    assert (code, f"cannot be made in {files[0]}" in err) == (2, True)


def with_small_files(arguments: list[str]) -> None:
    """Runs a command that fails on writing past a limit as on a full disk, with an OSError."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    run_command(arguments)


def test_full_disk_keeps_what_was_done(files: tuple[Path, Path], tmp_path: Path) -> None:
    options = (
        "run", "--train", str(files[0]), "--fresh", str(files[1]), "--out", str(tmp_path / "out"),
        *SMALL, "--values", "none", "--replicates", "0",
    )  # fmt: skip
    done = start(with_small_files, options, folder=tmp_path)
    assert done.ended() == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert "--resume" in done.stderr
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert left == [".lock", "run.json", "studies"]
    assert [p for p in (tmp_path / "out" / "studies").rglob("*") if p.is_file()] == []
    code, _, err = call(*options, "--resume")
    assert code == 0, err
    assert (tmp_path / "out" / "report.html").is_file()


def test_ctrl_c_stops_with_a_word_on_how_to_go_on(files: tuple[Path, Path], tmp_path: Path) -> None:
    options = ("--train", files[0], "--fresh", files[1], "--out", tmp_path / "out", "--quiet")
    running = command("run", *options, folder=tmp_path)
    running.until((tmp_path / "out" / "moments.safetensors").exists)
    running.interrupt()
    assert running.ended(60) == 130
    assert "--resume" in running.stderr
    assert "Traceback" not in running.stderr
