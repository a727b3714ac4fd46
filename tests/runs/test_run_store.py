"""Stored runs: results read back equal, and steps on a stored run keep it consistent."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from changed_runs import change_record, of_an_earlier_version
from made_batteries import LABELS as STUDIED
from made_batteries import battery, extended, planted, study_of, unshared
from made_figures import made_layer_lesions, made_layers, made_size_curves
from small_runs import call, write_beginnings

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.corpus.origin import Origin
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import read_tensors, save_tensors
from grammar_lens.lesions.outcomes import Ablation, Outcomes
from grammar_lens.model.about import Model
from grammar_lens.neurons.controls import SelectionControls, selection_controls, with_effects
from grammar_lens.neurons.examples import Examples, Passage
from grammar_lens.neurons.selection import select
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.probing.curves import CurvePoint, ProbeCurve
from grammar_lens.runs import steps
from grammar_lens.runs.pipeline import run_all, run_step
from grammar_lens.runs.run import load_run
from grammar_lens.runs.session import Session
from grammar_lens.runs.settings import Config
from grammar_lens.runs.store.arrays import (
    read_attributions,
    read_evidence,
    read_scores,
    save_attributions,
    save_collected,
    save_scores,
)
from grammar_lens.runs.store.examples import read_examples, save_examples
from grammar_lens.runs.store.results import (
    outcome_table,
    read_controls,
    read_course,
    read_curves,
    read_keys,
    read_layer_lesions,
    read_layers,
    read_size_curves,
    read_study,
    save_controls,
    save_course,
    save_curves,
    save_keys,
    save_layer_lesions,
    save_layers,
    save_size_curves,
    save_study,
)
from grammar_lens.runs.store.stored import ATTRIBUTIONS, StoredRun
from grammar_lens.selectivity.collecting import Collected
from grammar_lens.selectivity.evidence import Attribution, Evidence

pytestmark = pytest.mark.usefixtures("few_figures", "plain_reports")

QUIET: dict[str, Any] = {"show_progress": False}
LABELS = ("DET", "NOUN", "PRON", "VERB")
ORIGIN = Origin("a-model", "a-bank", "upos", "word", "neuron")


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal to the last bit, field by field: types, dtypes and NaN included."""
    assert type(one) is type(other), where
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            name = field.name
            assert_same(getattr(one, name), getattr(other, name), f"{where}.{name}")
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        np.testing.assert_array_equal(one, other, err_msg=where)
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, Mapping):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key}]")
    elif isinstance(one, tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


def test_what_is_different_is_seen():
    """The comparison itself: one bit in an array deep inside."""
    values = np.ones((1, 2))
    course = CourseSummary(("a", "b"), (0,), values, values[..., None], values[..., None], ORIGIN)
    assert_same(course, replace(course, strength=course.strength.copy()))
    for changed in (
        replace(course, strength=np.nextafter(course.strength, 2)),
        replace(course, key=course.key.astype(np.float32)),
        replace(course, origin=replace(ORIGIN, label="xpos")),
    ):
        with pytest.raises(AssertionError):
            assert_same(course, changed)


# Arrays ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank, labels=LABELS)


@pytest.fixture(scope="module")
def collected(tiny: Model, corpus: Corpus) -> Collected:
    """Everything that one pass can collect, at two positions and two sites."""
    return gl.collect(
        tiny,
        corpus,
        sites=("neuron", "resid_post"),
        position=("word", "next"),
        replicates=20,
        sample=3,
        controls=True,
        **QUIET,
    )


@pytest.fixture(scope="module")
def attributions(tiny: Model, corpus: Corpus) -> dict[str, Attribution]:
    integrated = gl.attribute(tiny, corpus, kind="integrated_gradients", steps=2, **QUIET)
    return {
        "attribution": gl.attribute(tiny, corpus, replicates=20, **QUIET),
        "relevance": gl.attribute(tiny, corpus, relevance=True, replicates=20, **QUIET),
        "integrated_gradients": integrated,
    }


def test_collected_evidence(collected: Collected, tmp_path: Path):
    save_collected(tmp_path / "moments.safetensors", collected)
    found = read_evidence(tmp_path / "moments.safetensors")
    assert_same(found, collected)
    word = found.evidence("neuron", "word")
    assert word.sample is not None
    assert len(word.sample.classes) == 3 * len(LABELS)
    assert word.adjusted is not None
    assert np.isnan(word.adjusted.within_type).any(), "DET shares no form"
    assert word.halves is not None
    assert {"correlation", "probeless"} <= set(word.nulls)
    assert_same(gl.score(word, "auroc"), gl.score(collected.evidence("neuron", "word"), "auroc"))


def test_collected_moments_alone(tiny: Model, corpus: Corpus, tmp_path: Path):
    bare = gl.collect(tiny, corpus, **QUIET)
    only = Collected({"next": {"neuron": Evidence(bare["neuron"])}}, bare.n_tokens)
    for found in (bare, only):
        save_collected(tmp_path / "moments.safetensors", found)
        assert_same(read_evidence(tmp_path / "moments.safetensors"), found)


def test_attributions_with_halves_and_nulls(
    tiny: Model, corpus: Corpus, attributions: dict[str, Attribution], tmp_path: Path
):
    path = tmp_path / "attributions.safetensors"
    save_attributions(path, attributions)
    found = read_attributions(path)
    assert_same(found, attributions)
    assert found["attribution"].halves is not None
    assert set(found["attribution"].nulls) == {"attribution", "attribution_contrast"}
    assert found["integrated_gradients"].frequency is not None
    assert found["integrated_gradients"].completeness is not None
    bare = {"attribution": replace(attributions["attribution"], halves=None, nulls={})}
    save_attributions(path, bare)
    assert_same(read_attributions(path), bare)


def test_scores_of_every_kind(
    collected: Collected, attributions: dict[str, Attribution], tmp_path: Path
):
    """Of each position one; those with a null, a p, another neutral value or another strong end."""
    path = tmp_path / "scores.safetensors"
    seen = set()
    for pair in (
        ("correlation", "attribution_contrast"),
        ("correlation", "relevance_contrast"),
        ("auroc", "frequency"),
        ("entropy", "integrated_gradients"),
        ("welch_t", "attribution"),
    ):
        scores = {
            position: gl.score(
                replace(collected.evidence("neuron", position), **attributions), method
            )
            for position, method in zip(("word", "next"), pair, strict=True)
        }
        save_scores(path, scores)
        found = read_scores(path, collected, attributions)
        assert_same(found, scores)
        for s in found.values():
            seen |= {("best", s.best), ("neutral", s.neutral), ("null", s.null is not None)}
            seen.add(("p", s.p is not None))
    assert seen == {
        *(("best", "far"), ("best", "low"), ("best", "high"), ("neutral", 0.0), ("neutral", 0.5)),
        *(("null", True), ("null", False), ("p", True), ("p", False)),
    }


# Tables ---------------------------------------------------------------------------------------


def test_key_neurons_with_q(collected: Collected, tmp_path: Path):
    path = tmp_path / "key_neurons.csv"
    evidence = {p: collected.evidence("neuron", p) for p in ("word", "next")}
    scores = {p: gl.score(e) for p, e in evidence.items()}
    scores["next"] = replace(scores["next"], null=None)
    keys = {p: select(s, k=7, alpha=1.0) for p, s in scores.items()}
    tables = {p: with_effects(keys[p], scores[p], evidence[p].adjusted) for p in keys}
    save_keys(path, tables)
    found = read_keys(path, scores, {p: k.rule for p, k in keys.items()})
    assert_same(found, keys)
    assert found["word"]["NOUN"].q is not None
    assert found["next"]["NOUN"].q is None
    assert read_keys(path, scores, {})["word"].rule == "unknown"
    table = pd.read_csv(path)
    assert list(table.columns) == [
        *("label", "layer", "index", "score", "q", "rank"),
        *("cohens_d", "within_type_d", "guarded_d", "n_labels", "position"),
    ]


def test_labels_without_key_neurons_stay(collected: Collected, tmp_path: Path):
    path = tmp_path / "key_neurons.csv"
    scores = {"word": gl.score(collected.evidence("neuron", "word"))}
    keys = select(scores["word"], k=3, alpha=1.0)
    for empty in (("NOUN",), LABELS):
        sets = {x: keys[x].top(0 if x in empty else 3) for x in keys}
        # which of no neurons has a q cannot be told
        sets = {x: replace(s, q=None) if x in empty else s for x, s in sets.items()}
        some = {"word": replace(keys, sets=sets)}
        save_keys(path, {"word": with_effects(some["word"], scores["word"], None)})
        assert_same(read_keys(path, scores, {"word": keys.rule}), some)


@pytest.mark.parametrize("names", [("NA", "nan", "null", "true"), ("1", "2", "3", "10")])
def test_labels_that_look_like_something_else(
    collected: Collected, tmp_path: Path, names: tuple[str, ...]
):
    moments = replace(collected.at("word")["neuron"], labels=names)
    scores = {"word": gl.score(moments)}
    keys = {"word": select(scores["word"], k=3, alpha=1.0)}
    save_keys(tmp_path / "k.csv", {"word": with_effects(keys["word"], scores["word"], None)})
    assert_same(read_keys(tmp_path / "k.csv", scores, {"word": keys["word"].rule}), keys)


def test_a_neuron_that_does_not_exist(collected: Collected, tmp_path: Path):
    path = tmp_path / "key_neurons.csv"
    scores = {"word": gl.score(collected.evidence("neuron", "word"))}
    save_keys(path, {"word": select(scores["word"], k=2, alpha=1.0).to_frame()})
    lines = path.read_text().splitlines()
    cells = lines[4].split(",")
    lines[4] = ",".join([cells[0], "7", *cells[2:]])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        GrammarLensError,
        match=rf"csv:5: neuron 7\.{cells[2]} does not exist: the model has 2 layers of 48",
    ):
        read_keys(path, scores, {})


def test_controls(collected: Collected, tmp_path: Path):
    path = tmp_path / "controls.json"
    made = {}
    for position in ("word", "next"):
        evidence = collected.evidence("neuron", position)
        scores = gl.score(evidence)
        made[position] = selection_controls(select(scores, k=4), scores, evidence, 4)
    word = made["word"]
    assert word.sham is not None
    assert word.within_type is not None
    unknown = word.within_type.assign(effect=np.nan, within_type=np.nan)
    made["bare"] = SelectionControls(4, 0, 0, 0, None, None, unknown, "by hand")
    made["few"] = replace(word, sham=word.sham.iloc[:0], within_type=None)
    save_controls(path, made)
    found = read_controls(path)
    empty = found.pop("few").sham
    assert empty is not None
    assert (len(empty), list(empty.columns)) == (0, list(word.sham.columns))
    assert_same(found, {p: made[p] for p in found})
    assert found["word"].within_type is not None
    assert found["word"].within_type.isna().any(axis=None)
    assert "NaN" not in path.read_text(), "other programs can read it"


def test_time_course(tmp_path: Path):
    rng = np.random.default_rng(31)
    key = rng.normal(size=(3, 2, 4))
    key[1, 0, 2] = np.nan
    course = CourseSummary(
        ("A", "B"), (-2, 0, 5), np.array([[1.0, 2], [3, 4], [5, 6]]), np.abs(key), key, ORIGIN
    )
    save_course(tmp_path / "time_course.json", course)
    assert_same(read_course(tmp_path / "time_course.json"), course)


def test_layers_and_their_lesions(tmp_path: Path):
    save_layers(tmp_path / "layers.json", made_layers())
    assert_same(read_layers(tmp_path / "layers.json"), made_layers())
    save_layer_lesions(tmp_path / "layer_lesions.json", made_layer_lesions())
    assert_same(read_layer_lesions(tmp_path / "layer_lesions.json"), made_layer_lesions())
    save_size_curves(tmp_path / "size_curves.json", made_size_curves())
    assert_same(read_size_curves(tmp_path / "size_curves.json"), made_size_curves())


def test_curves(tmp_path: Path):
    points = (
        CurvePoint("correlation", 1, 4.0, 1 / 3, 0.1, 0.2, None, 0.123456789012345678, 0.3),
        CurvePoint("random", 1, 3.5, 2 / 7, None, 0.2, None, 0.7, 0.1),
    )
    curves = {
        "word": ProbeCurve(points, 0.2, 0.5, 10, 20),
        "next": ProbeCurve(points[:1], 0.2, 0.5, 10, 20),
    }
    save_curves(tmp_path / "probe_curve.csv", curves)
    found = read_curves(tmp_path / "probe_curve.csv")
    assert_same(found, {p: c.to_frame() for p, c in curves.items()})


def test_examples(tiny: Model, corpus: Corpus, tmp_path: Path):
    """Numbers come back with four digits, everything else as it was, and then nothing changes."""
    path = tmp_path / "examples.json"
    made = {
        p: gl.examples_of(tiny, corpus, [(0, 1), (1, 40)], position=p, max_words=n, **QUIET)
        for p, n in (("word", 20_000), ("next", 25))
    }
    neuron = made["word"][0, 1]
    hostile = Passage(("</script><script>", "\u202e \U0001f642", '"\\', "\n"), "x'<b>:1")
    shown = replace(neuron.top[0], passage=hostile, values=np.arange(4.0), word="\u05e9")
    top = (shown, *neuron.top[1:], shown)
    contrast = np.where(np.arange(4) == 1, np.nan, neuron.contrast)
    quantiles = np.where(np.arange(4)[:, None] == 2, np.nan, neuron.quantiles)
    made["word"].by_neuron[0, 1] = replace(neuron, top=top, contrast=contrast, quantiles=quantiles)
    save_examples(path, made)
    found = read_examples(path)
    assert list(found) == ["word", "next"]
    for position, examples in made.items():
        assert found[position].origin == examples.origin
        assert_same(found[position], _of_four_digits(examples))
    stored = json.loads(path.read_text())
    passages = [tuple(p["tokens"]) for p in stored["passages"]]
    assert len(passages) == len(set(passages)) < 2 * 2 * 10
    assert tuple(hostile.tokens) in passages
    before = path.read_bytes()
    save_examples(path, found)
    assert path.read_bytes() == before


def _of_four_digits(value: Any) -> Any:
    """A result with all its numbers rounded."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.array([_of_four_digits(x) for x in value.ravel().tolist()]).reshape(value.shape)
    if isinstance(value, tuple):
        return tuple(_of_four_digits(x) for x in value)
    if isinstance(value, dict):
        return {k: _of_four_digits(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: _of_four_digits(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
        return type(value)(**fields)
    return value


def test_examples_of_another_version(tmp_path: Path):
    path = tmp_path / "examples.json"
    save_examples(path, {"word": Examples({}, ORIGIN)})
    assert read_examples(path) == {"word": Examples({}, ORIGIN)}
    path.write_text(path.read_text().replace("0.05", "0.1"))
    with pytest.raises(
        GrammarLensError, match=r"has the quantiles \[0.0, 0.1, .*: make it again with `gramm"
    ):
        read_examples(path)


# The settings ---------------------------------------------------------------------------------


def test_the_score_of_each_position():
    both = ("word", "next")
    assert [Config().score_at(p) for p in both] == ["correlation", "attribution_contrast"]
    assert [Config(score="auroc").score_at(p) for p in both] == ["auroc", "auroc"]
    for name in ("attribution", "attribution_contrast", "integrated_gradients", "frequency"):
        assert [Config(score=name).score_at(p) for p in both] == ["correlation", name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "frequency"}, "--rule frequency goes with --score frequency --position next"),
        (
            {"rule": "frequency", "score": "frequency"},
            "--rule frequency goes with --score frequency --position next",
        ),
        (
            {"rule": "fdr", "score": "welch_t"},
            "--rule fdr needs a null, and 'welch_t' has none: use --rule top_k, or a score that has "
            r"one \(attribution, attribution_contrast, cohens_d, correlation, ",
        ),
        (
            {"rule": "permutation", "attribution": "all"},
            "--rule permutation needs a null, and 'attribution_contrast' has none",
        ),
        ({"rule": "fdr", "replicates": 0}, r"--rule fdr .*needs a null: give --replicates 100"),
        ({"replicates": 19}, "--replicates is 19, expected 0 for no null or at least 20"),
        ({"rule": "best"}, "--rule is 'best', expected one of top_k, fdr, permutation, frequency"),
        ({"attribution": "ig"}, "--attribution is 'ig', expected one of own, all"),
        ({"sample": 0}, "--sample is 0, expected 1 or more"),
        ({"attribution_words": 0}, "--attribution-words is 0, expected 1 or more"),
        ({"example_neurons": -1}, "--example-neurons is -1, expected 0 or more"),
        ({"example_words": 0}, "--example-words is 0, expected 1 or more"),
        ({"examples_each": 0}, "--examples-each is 0, expected 1 or more"),
    ],
)
def test_settings_that_cannot_be_followed(settings: dict[str, Any], message: str, tmp_path: Path):
    """Told before a model is loaded, and without making the directory."""
    config = Config(model="./nowhere", out=tmp_path / "out", **settings)
    with pytest.raises(GrammarLensError, match=message):
        run_all(config, resume=False, say=print)
    assert not (tmp_path / "out").exists()


# Steps on a stored run ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """A run of the tiny model on the beginning of the embedded treebank, without its lesions."""
    folder = tmp_path_factory.mktemp("stored")
    tiny_hf().save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    write_beginnings(folder, train=70, test=30)
    code, _, err = call(
        "run", "--model", folder / "tiny", "--train", f"{folder}:train", "--fresh",
        f"{folder}:test", "--labels", ",".join(LABELS), "--replicates", 25, "--top-k", 6,
        "--probe-k", 3, "--values", "none", "--out", folder / "run", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    return folder / "run"


@pytest.fixture
def stored(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def step_again(step: str, path: Path, **changes: Any) -> StoredRun:
    run = load_run(path)
    config = Config.of(run, show_progress=False, **changes)
    return run_step(step, config, run, print)


def test_the_stored_examples_are_of_the_first_key_neurons(made: Path):
    run = load_run(made)
    config = Config.of(run, show_progress=False)
    session = Session(config, print)
    assert list(run.examples) == ["word", "next"]
    for position, examples in run.examples.items():
        keys = run.keys_at(position).top(config.example_neurons)
        want = gl.examples_of(
            session.model, session.train, keys, position=position, lexicon=session.lexicon, **QUIET
        )
        assert list(examples) == list(map(tuple, keys.union().tolist()))
        for at in examples:
            assert [e.word for e in examples[at].top] == [e.word for e in want[at].top]
            np.testing.assert_allclose(
                examples[at].quantiles, want[at].quantiles, rtol=1e-3, atol=1e-6
            )


def test_examples_are_made_again_alone(stored: Path):
    before, probe = (stored / "examples.json").read_bytes(), (stored / "probe.json").read_bytes()
    run = step_again("examples", stored)
    assert (stored / "examples.json").read_bytes() == before, "the same to the last byte"
    assert (stored / "probe.json").read_bytes() == probe
    assert (stored / "report.html").exists(), "nothing has changed"
    assert run.record["timings"]["examples"] > 0
    run = step_again("examples", stored, example_neurons=1, examples_each=2, example_words=60)
    assert run.config["example_neurons"] == 1
    assert (stored / "probe.json").read_bytes() == probe
    assert (stored / "time_course.json").is_file()
    assert not (stored / "report.html").exists(), "the report is of the examples that were"
    for position, examples in run.examples.items():
        assert 0 < len(examples) <= len(LABELS)
        for neuron in examples.by_neuron.values():
            assert len(neuron.top) == len(neuron.bottom) == 2
            assert neuron.count.sum() <= 60
            assert (neuron.layer, neuron.index) in {
                next(iter(run.keys_at(position)[label]), None) for label in LABELS
            }


def test_a_new_choice_removes_the_examples_of_the_old(stored: Path):
    run = load_run(stored)
    assert run.examples, "what was loaded before must not stay either"
    config = Config.of(run, show_progress=False, top_k=3)
    run_step("select", config, run, print)
    assert run.examples == load_run(stored).examples == {}
    for step in ("course", "probe"):
        step_again(step, stored)
    step_again("examples", stored)
    step_again("course", stored)
    assert (stored / "examples.json").is_file(), "other readers of the key neurons leave them alone"


def test_a_run_of_a_version_without_examples(stored: Path):
    """It loads and reports as it is; to resume it makes them."""
    before = (stored / "examples.json").read_bytes()
    of_an_earlier_version(stored)
    (stored / "examples.json").unlink()
    record = json.loads((stored / "run.json").read_text())
    for name in ("example_neurons", "example_words", "examples_each"):
        del record["config"][name]
    (stored / "run.json").write_text(json.dumps(record))
    run = step_again("report", stored)
    assert run.examples == {}
    assert (stored / "report.html").is_file()
    said: list[str] = []
    config = Config.of(load_run(stored), show_progress=False)
    run_all(config, resume=True, say=said.append)
    assert (stored / "examples.json").read_bytes() == before
    assert "probe: done before, kept" in said
    assert not any(line.startswith("examples: done") for line in said)


def test_a_run_without_examples(stored: Path):
    (stored / "examples.json").unlink()
    change_record(stored, lambda record: record["config"].update(example_neurons=0))
    config = Config.of(load_run(stored), show_progress=False)
    assert config.left_out == ("examples", "lesion", "phenomena")
    run = run_all(config, resume=True, say=print)
    assert run.examples == {}
    assert run.has("report")


def test_course_is_made_again_alone(stored: Path):
    before = load_run(stored).course
    assert before is not None
    probe = (stored / "probe.json").read_bytes()
    code, out, err = call("course", stored, "--quiet")
    assert code == 0, err
    assert_same(load_run(stored).course, before)
    assert (stored / "probe.json").read_bytes() == probe, "it does not rest on the time course"
    assert (stored / "report.html").exists(), "nothing has changed"
    lines = out.splitlines()
    assert lines[0].split() == ["offset", "label", "layer", "strength", "key_neurons"]
    assert len(lines) == 1 + len(before.offsets) * len(LABELS) * 2
    assert lines[1].split()[1:4] == ["-3", "DET", "0"]


def test_the_stored_course_is_of_the_stored_key_neurons(made: Path):
    run = load_run(made)
    config = Config.of(run, show_progress=False)
    session = Session(config, print)
    course = gl.time_course(session.model, session.fresh[0], position="word", **QUIET)
    assert_same(run.course, course.summary(run.keys_at("word")))


def test_fdr_on_a_stored_run(stored: Path):
    code, out, err = call("select", stored, "--rule", "fdr", "--alpha", "0.3", "--top-k", 6)
    assert code == 0, err
    run = load_run(stored)
    assert run.config["rule"] == "fdr"
    for position in ("word", "next"):
        scores, keys = run.scores_at(position), run.keys_at(position)
        assert_same(keys, _with_q_where_known(select(scores, rule="fdr", alpha=0.3)))
        assert keys.rule.startswith("fdr at 0.3, ")
        assert repr(keys) in out
        for label in keys:
            q = keys[label].q
            assert q is None or (q <= 0.3).all()
    assert not (stored / "probe.json").exists()
    assert not (stored / "time_course.json").exists()
    for step in ("course", "probe", "report"):
        code, _, err = call(step, stored, "--quiet")
        assert code == 0, (step, err)


def test_a_rule_that_chooses_nothing_at_all(stored: Path):
    """The choice and its report stand; what needs key neurons says so in a line."""
    code, _, err = call("select", stored, "--rule", "fdr", "--alpha", "1e-9", "--top-k", 6)
    assert code == 0
    assert "select: at 'word' fdr at 1e-09, absolute chooses fewer for DET 0, NOUN 0, PRON 0" in err
    run = load_run(stored)
    assert run.keys_at("word").labels == LABELS
    assert len(run.keys_at("word").union()) == 0
    for step in ("course", "report"):
        code, _, err = call(step, stored, "--quiet")
        assert code == 0, (step, err)
    found = load_run(stored).course
    assert found is not None
    assert np.isnan(found.key).all()
    for step, told in (
        (("probe",), "no key neurons to probe: the rule chose none"),
        (("lesion", "--values", "mean"), "a lesion study compares two labels or more, got []"),
    ):
        code, _, err = call(step[0], stored, *step[1:], "--quiet")
        assert (code, told in err, err.count("\n")) == (2, True, 1), err


def _with_q_where_known(keys: gl.KeyNeurons) -> gl.KeyNeurons:
    sets = {x: replace(s, q=s.q if len(s) else None) for x, s in keys.items()}
    return replace(keys, sets=sets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rule", "magic"), "--rule is 'magic'"),
        (("--rule", "frequency"), "--rule frequency goes with --score frequency"),
        (("--sign", "up"), "--sign is 'up'"),
        (("--top-k", "0"), "--top-k is 0, expected 1 or more"),
        (("--top-k", "97"), "--top-k is 97, expected 1 to 96"),
    ],
)
def test_bad_settings_of_a_step_leave_the_run_as_it_was(
    stored: Path, arguments: tuple[str, ...], message: str
):
    before = {p.name: p.read_bytes() for p in stored.iterdir() if p.is_file()}
    code, _, err = call("select", stored, *arguments, "--quiet")
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert {p.name: p.read_bytes() for p in stored.iterdir() if p.is_file()} == before


def test_a_step_before_its_time(stored: Path):
    (stored / "key_neurons.csv").unlink()
    code, _, err = call("course", stored, "--quiet")
    assert code == 2
    assert "has no key_neurons.csv yet: first `grammar-lens select" in err
    code, _, err = call("course", stored / "nowhere", "--quiet")
    assert (code, "is no run directory" in err) == (2, True)


def test_attributions_are_made_once(stored: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def counted(*given: Any, **options: Any) -> Attribution:
        asked.append(options["kind"])
        return gl.attribute(*given, **options)

    monkeypatch.setattr(steps, "attribute", counted)
    stamp = (stored / ATTRIBUTIONS).stat().st_mtime_ns
    for name in ("attribution", "attribution_contrast"):
        assert call("score", stored, "--score", name, "--quiet")[0] == 0
    assert asked == []
    assert (stored / ATTRIBUTIONS).stat().st_mtime_ns == stamp
    code, _, err = call(
        "score", stored, "--score", "frequency", "--attribution-words", 40, "--quiet"
    )
    assert code == 0, err
    assert asked == ["integrated_gradients"]
    run = load_run(stored)
    assert run.attributions["integrated_gradients"].count.sum() <= 40
    assert run.scores_at("next").method == "frequency"
    assert run.scores_at("word").method == "correlation"
    assert set(run.attributions) == {"attribution", "integrated_gradients"}, "the old ones stay"
    again = ("--score", "attribution_contrast", "--attribution", "all", "--quiet")
    assert call("score", stored, *again)[0] == 0
    assert asked == ["integrated_gradients", "all"], "another kind is made anew"
    assert load_run(stored).attributions["attribution"].kind == "all"
    config = Config.of(load_run(stored), show_progress=False, sample=4)
    run_step("collect", config, load_run(stored), print)
    assert not (stored / ATTRIBUTIONS).exists(), "they rest on the moments"


def test_the_summary_has_the_choice(made: Path):
    told = json.loads((made / "summary.json").read_text("utf-8"))["selection"]
    run = load_run(made)
    for position in ("word", "next"):
        controls = run.controls_at(position)
        assert controls is not None
        assert told[position]["replicates"] == controls.n_replicates == 25
        assert told[position]["rule"] == run.keys_at(position).rule
        assert told[position]["rule"].startswith("top 6, ")
        assert controls.sham is not None
        assert told[position]["sham_localiser"]["strength"] == controls.sham["strength"].mean()


def test_a_score_that_lacks_its_sample_costs_nothing(stored: Path):
    run = load_run(stored)
    before = {p.name: p.read_bytes() for p in stored.iterdir() if p.is_file()}
    with pytest.raises(GrammarLensError, match=r"'auroc' needs the activations .* --sample 100"):
        run_step("score", Config.of(run, score="auroc", show_progress=False), run, print)
    after = {p.name: p.read_bytes() for p in stored.iterdir() if p.is_file()}
    assert after == before


def whole_study() -> tuple[Outcomes, LesionStudy]:
    """A lesion study with every part: doses, a value, damage-matched shams, and sufficiency."""
    damage = planted(n_shams=20) + 0.3 * np.eye(6) * (np.arange(21) == 0)[:, None, None]
    made = battery(damage, STUDIED, n_sentences=8)
    made = extended(made, damage[:1] / 2, STUDIED, ablation=Ablation("mean", 0.5))
    made = extended(made, -damage / 2, STUDIED, ablation=Ablation("zero"))
    made = extended(made, damage[1:] * 3, STUDIED, kind="matched", first=1, size=4)
    made = unshared(extended(made, damage, STUDIED, kind="rest"))
    return made, study_of(made, STUDIED)


def test_a_lesion_study_is_read_back_equal(tmp_path: Path):
    outcomes, study = whole_study()
    assert study.damage_matched is not None
    assert study.sufficiency is not None
    assert study.doses is not None
    assert len(study.others) == 2
    assert study.crossed_pairs
    assert np.isnan(study.doses.sham_own).any()
    words = outcome_table(outcomes, tuple("abcdefg" * 8))
    save_study(tmp_path, "lesion_matrix.json", study, words)
    data = json.loads((tmp_path / "lesion_matrix.json").read_text())
    assert (data["value"], data["dose"], data["verdict"]) == ("mean", 1.0, study.verdict())
    assert data["p_value"] == study.p_value
    again = read_study(data)
    assert_same(again, replace(study, outcomes=None))
    assert again.verdict() == study.verdict()
    for part in (data, *data["others"]):  # the names of files stored before
        part["matched"], part["rest"] = part.pop("damage_matched"), part.pop("sufficiency")
    assert_same(read_study(data), again)
    plain = study_of(outcomes.only(Ablation()), STUDIED)
    save_study(tmp_path, "lesion_matrix.json", plain, words)
    again = read_study(json.loads((tmp_path / "lesion_matrix.json").read_text()))
    assert_same(again, replace(plain, outcomes=None))


def test_a_study_without_shams_is_read_back_equal(tmp_path: Path):
    made = battery(planted(n_shams=0), STUDIED, n_sentences=8)
    rest = extended(made, planted(n_shams=0), STUDIED, kind="rest")
    made = extended(rest, planted(n_shams=0), STUDIED, ablation=Ablation("mean", 0.5))
    study = study_of(made, STUDIED)
    assert study.n_shams == 0
    save_study(tmp_path, "lesion_matrix.json", study, pd.DataFrame())
    again = read_study(json.loads((tmp_path / "lesion_matrix.json").read_text()))
    assert_same(again, replace(study, outcomes=None))


def test_a_lesion_study_of_an_older_version_is_named():
    with pytest.raises(GrammarLensError, match=r"older version.*grammar-lens lesion"):
        read_study({"labels": ["NOUN"], "value": "mean", "dose": 1.0})


def test_the_outcome_table_has_a_row_for_what_was_scored():
    outcomes, _ = whole_study()
    forms = tuple("abcdefg" * 8)
    table = outcome_table(outcomes, forms)
    assert len(table) == np.isfinite(outcomes.nll).sum() < outcomes.nll.size
    intact = table.loc[table["lesion"] == ""]
    assert len(intact) == 56
    assert intact[["kind", "value", "where"]].eq("").to_numpy().all()
    assert (intact["dose"] == 0).all()
    assert "".join(intact["form"]) == "abcdefg" * 8
    row = next(
        i
        for i, c in enumerate(outcomes.conditions, 1)
        if (c.label, c.replicate, c.kind) == ("VERB", 3, "rest")
    )
    mine = table[
        (table["lesion"] == "VERB") & (table["replicate"] == 3) & (table["kind"] == "rest")
    ]
    assert len(mine) == outcomes.shared.sum() == 48
    np.testing.assert_array_equal(mine["word"], np.flatnonzero(outcomes.shared))
    losses = outcomes.tag_loss[row, outcomes.shared].astype(np.float32)
    np.testing.assert_array_equal(mine["tag_loss"], losses)
    assert set(zip(table["value"], table["dose"], table["kind"], strict=True)) == {
        ("", 0.0, ""),
        ("mean", 1.0, "set"),
        ("mean", 0.5, "set"),
        ("zero", 1.0, "set"),
        ("mean", 1.0, "matched"),
        ("mean", 1.0, "rest"),
    }


def test_nulls_of_an_earlier_version_are_refused_in_a_line(stored: Path):
    """They had one tail for all labels together."""
    of_an_earlier_version(stored)
    path = stored / "moments.safetensors"
    arrays, metadata = read_tensors(path)
    tails = [name for name in arrays if name.endswith("/tail")]
    assert tails
    older = {n: a.sum(0) if n in tails else a for n, a in arrays.items()}
    save_tensors(path, older, metadata)
    code, out, err = call("select", stored, "--quiet")
    assert (code, out) == (2, "")
    assert "earlier version" in err
    assert "grammar-lens run --out" in err
    assert err.count("\n") == 1
