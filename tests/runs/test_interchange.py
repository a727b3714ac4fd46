"""Results that any tool reads, and neuron lists of other tools: what goes out comes back."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from safetensors import safe_open
from safetensors.numpy import save_file

import grammar_lens as gl
from grammar_lens import KeyNeurons, Scores
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.examples import Example, Examples, NeuronExamples, Passage
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.runs.interchange.reading import read_neurons
from grammar_lens.runs.interchange.schema import Field, Table
from grammar_lens.runs.interchange.writing import _writer, export_run
from grammar_lens.runs.pipeline import run_all, run_step
from grammar_lens.runs.run import Run, load_run
from grammar_lens.runs.settings import Config
from grammar_lens.runs.store.stored import Tables

pytestmark = pytest.mark.usefixtures("few_figures", "plain_reports")

# pandas 3 reads floats exactly unasked
EXACT: Any = {} if int(pd.__version__.split(".")[0]) >= 3 else {"float_precision": "round_trip"}
TAGS = ("DET", "NOUN", "PRON", "VERB", "ADJ", "ADP")
N_LAYERS, N_UNITS = 3, 10


def scores_of(labels: tuple[str, ...], seed: int = 0) -> Scores:
    """Scores of a small made-up model."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(labels), N_LAYERS, N_UNITS))
    units = UnitStatistics(*rng.normal(size=(3, N_LAYERS, N_UNITS)))
    origin = Origin("a-model", "a-bank", "upos", "word", "neuron")
    count = np.full(len(labels), 20.0)
    return Scores("correlation", labels, count, values, values * 2, None, units, origin)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return scores_of(("NOUN", "VERB"))


def addresses(keys: KeyNeurons) -> dict[str, list[tuple[int, int]]]:
    return {label: list(keys[label]) for label in keys}


def assert_equal(one: KeyNeurons, other: KeyNeurons) -> None:
    """The same to the last bit."""
    assert (one.labels, one.method, one.rule) == (other.labels, other.method, other.rule)
    assert (one.n_layers, one.n_units, one.origin) == (other.n_layers, other.n_units, other.origin)
    for label in one:
        a, b = one[label], other[label]
        assert (a.name, a.site) == (b.name, b.site)
        for name in ("layer", "index", "score", "mean", "q"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None), name
            if x is not None:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)


# A run --------------------------------------------------------------------------------------


def conllu(bank: gl.Treebank) -> str:
    blocks = []
    for sentence in bank:
        lines = [f"# text = {sentence.text}"]
        for i, word in enumerate(sentence.words, 1):
            assert word.span is not None
            glued = sentence.text[word.span[1] : word.span[1] + 1] not in ("", " ")
            misc = "SpaceAfter=No" if glued else "_"
            lines.append(f"{i}\t{word.form}\t_\t{word.labels['upos']}\t_\t_\t_\t_\t_\t{misc}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n\n"


@pytest.fixture(scope="module")
def made(bank: gl.Treebank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on the small treebank, read at both positions."""
    folder = tmp_path_factory.mktemp("made")
    for split in ("train", "test"):
        (folder / f"{split}.conllu").write_text(conllu(bank[split]), "utf-8")
    config = Config(
        train=str(folder / "train.conllu"),
        fresh=str(folder / "test.conllu"),
        labels=TAGS,
        top_k=8,
        alpha=1.0,
        probe_k=4,
        replicates=20,
        shams=3,
        doses=(1.0, 0.5),
        values=("mean", "zero"),
        lesion_labels=("NOUN", "VERB", "DET"),
        damage_matched=2,
        sufficiency=True,
        example_neurons=2,
        example_words=60,
        out=folder / "run",
        show_progress=False,
    )
    run_all(config, resume=False, say=lambda _text: None)
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A copy of the run, to be changed."""
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in made.iterdir():
        if path.is_file():
            (copied / path.name).write_bytes(path.read_bytes())
    return load_run(copied)


ALL = {
    *("scores", "key_neurons", "layer_profile", "overlap", "probe", "probe_labels"),
    *("probe_confusion", "probe_curve", "lesion_matrix", "crossed_pairs", "dose_response"),
    *("dose_trend", "sufficiency", "time_course", "examples"),
}


def read(path: Path, fields: list[dict[str, str]]) -> pd.DataFrame:
    """A table as its description says that it is read."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pandas()
    text = [f["name"] for f in fields if f["type"] == "string"]
    numbers = [f["name"] for f in fields if f["type"] != "string"]
    return pd.read_csv(
        path,
        keep_default_na=False,
        na_values={name: [""] for name in numbers},
        dtype=dict.fromkeys(text, str),
        **EXACT,
    )


@pytest.fixture(scope="module", params=["csv", "parquet"])
def exported(
    request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pd.DataFrame]:
    """Every table of an export, found and read by its description alone."""
    folder = tmp_path_factory.mktemp(request.param)
    paths = export_run(load_run(made), folder, format=request.param, top=None)
    assert {p.name for p in paths} == {p.name for p in folder.iterdir()}
    package = json.loads((folder / "datapackage.json").read_text("utf-8"))
    found = {}
    for resource in package["resources"]:
        fields = resource["schema"]["fields"]
        table = read(folder / resource["path"], fields)
        assert [f["name"] for f in fields] == list(table.columns), resource["name"]
        for field in fields:
            _check_kind(table[field["name"]].dropna(), field)
        found[resource["name"]] = table
    assert package["grammar_lens"]["config"]["labels"] == list(TAGS)
    return found


def _check_kind(column: pd.Series, field: dict[str, str]) -> None:
    """The values are of the type that is said, and something is said of them."""
    assert len(field["description"]) > 3
    kinds = {"string": str, "integer": float, "number": float, "boolean": bool}
    for value in column.tolist():
        cast = float(value) if field["type"] in ("integer", "number") else value
        assert isinstance(cast, kinds[field["type"]]), (field, value)
        if field["type"] == "integer":
            assert float(value).is_integer()


def test_an_export_has_every_table_that_the_run_can_fill(
    exported: dict[str, pd.DataFrame],
) -> None:
    assert set(exported) == ALL
    assert not [name for name, table in exported.items() if not len(table) and name[0] != "c"]


def test_the_neurons_of_an_export(made: Path, exported: dict[str, pd.DataFrame]) -> None:
    run = load_run(made)
    for position in run.positions:
        scores, keys = run.scores_at(position), run.keys_at(position)
        table = exported["scores"].query(f"position == '{position}'")
        assert len(table) == scores.values.size
        assert set(table["method"]) == {scores.method}
        where = (
            np.array([scores.labels.index(x) for x in table["label"]]),
            table["layer"].to_numpy(),
            table["index"].to_numpy(),
        )
        np.testing.assert_array_equal(table["score"], scores.values[where])
        np.testing.assert_array_equal(table["cohens_d"], scores.effect[where])
        assert scores.null is not None
        np.testing.assert_array_equal(table["q"], scores.null.q()[where])
        assert table["p"].isna().all()
        strength = scores.strength()[where]
        for label in scores.labels:
            mine = (table["label"] == label).to_numpy()
            assert (np.diff(strength[mine]) <= 0).all()
            assert list(table["rank"][mine]) == list(range(1, mine.sum() + 1))
        chosen = exported["key_neurons"].query(f"position == '{position}'")
        assert len(chosen) == sum(len(keys[x]) for x in keys)
        assert set(chosen["rule"]) == {keys.rule}
        profile = exported["layer_profile"].query(f"position == '{position}'")
        assert profile["key_neurons"].sum() == len(chosen)
        assert (profile["null_low"] <= profile["null_high"]).all()
        assert len(exported["overlap"].query(f"position == '{position}'")) == 15


def test_the_probes_of_an_export(made: Path, exported: dict[str, pd.DataFrame]) -> None:
    run = load_run(made)
    for row in exported["probe"].to_dict("records"):
        probe = run.probe_at(str(row["position"]))
        assert row["accuracy"] == probe.accuracy
        assert row["best_layer"] == probe.layer
        mine = f"position == '{row['position']}'"
        labels = exported["probe_labels"].query(mine).set_index("label")
        np.testing.assert_array_equal(labels["f1"], probe.per_label["f1"])
        confusion = exported["probe_confusion"].query(mine)
        told = confusion["n_words"][confusion["label"] == confusion["called"]].sum()
        assert told / confusion["n_words"].sum() == pytest.approx(probe.accuracy)
        assert len(exported["probe_curve"].query(mine)) == len(run.curves[str(row["position"])])


def test_the_lesions_of_an_export(made: Path, exported: dict[str, pd.DataFrame]) -> None:
    run = load_run(made)
    study, table = run.study, exported["lesion_matrix"]
    assert study is not None
    assert study.damage_matched is not None
    n = len(study.labels)
    assert len(table) == n * n * (1 + len(study.others))
    for one in (study, *study.others):
        mine = table.loc[(table["value"] == one.value) & (table["dose"] == one.dose)]
        wide = mine.pivot(index="lesion", columns="words_of", values="tag_loss_change")
        labels = list(study.labels)
        np.testing.assert_array_equal(wide.loc[labels, labels], one.matrix)
        sham = mine["sham_sd"].to_numpy().reshape(n, n)
        assert set(mine["n_shams"]) == {one.n_shams}
        expected = one.sham.std(0, ddof=1) if one.n_shams > 1 else np.full((n, n), np.nan)
        np.testing.assert_array_equal(sham, expected)
        assert mine["matched_mean"].isna().all() == (one is not study)
    assert not table["sham_mean"].dropna().empty
    assert study.doses is not None
    assert len(exported["dose_response"]) == study.doses.own.size
    np.testing.assert_array_equal(exported["dose_trend"]["slope"], study.doses.slope)
    assert list(exported["sufficiency"]["label"]) == list(study.labels)
    assert set(exported["crossed_pairs"].columns) >= {"against", "confirmed", "value", "dose"}


def test_only_what_the_run_has(run: Run, tmp_path: Path) -> None:
    for name in ("lesion_matrix.json", "probe.json", "probe_curve.csv", "time_course.json"):
        (run.path / name).unlink()
    (run.path / "examples.json").unlink()
    names = {p.stem for p in export_run(load_run(run.path), tmp_path / "out")}
    assert names == {"scores", "key_neurons", "layer_profile", "overlap", "datapackage"}
    (run.path / "key_neurons.csv").unlink()
    names = {p.stem for p in export_run(load_run(run.path), tmp_path / "out")}
    assert names == {"scores", "datapackage"}
    assert {p.stem for p in (tmp_path / "out").iterdir()} == names, "the earlier export is gone"


def test_how_many_scores(made: Path, tmp_path: Path) -> None:
    run = load_run(made)
    export_run(run, tmp_path / "some", top=7)
    table = pd.read_csv(tmp_path / "some" / "scores.csv")
    assert (table.groupby(["position", "label"]).size() == 7).all()
    export_run(run, tmp_path / "usual")
    table = pd.read_csv(tmp_path / "usual" / "scores.csv")
    assert (table.groupby(["position", "label"]).size() == 1000).all()
    export_run(run, tmp_path / "parquet", format="parquet")
    stored = parquet.ParquetFile(tmp_path / "parquet" / "scores.parquet")
    assert stored.metadata.num_rows == 2 * len(TAGS) * 8 * 896
    assert stored.num_row_groups == 2 * len(TAGS), "a group for each position and label"
    described = stored.schema_arrow.field("cohens_d").metadata
    assert b"pooled sd" in described[b"description"]


def test_examples_with_hostile_text(run: Run, tmp_path: Path) -> None:
    """Words with quotes, line ends, formulas and code are written as they are."""
    hostile = [
        'a "b", c',
        "=1+1",
        "two\nlines\r",
        "<script>alert(1)</script>",
        "NA",
        "\u202e\U0001f600",
    ]
    origin = run.scores.origin
    examples = tuple(
        Example(Passage((word,), "file:1"), 0, (0, 1), word, "NOUN", 1.0, np.ones(1))
        for word in hostile
    )
    nothing = np.zeros((1, 7))
    found = NeuronExamples(
        *(0, 1, ("NOUN",), np.ones(1, np.int64), nothing, examples, ()),
        *(np.zeros(1), (), (), origin),
    )
    run.__dict__["_examples"] = Tables("position", {"word": Examples({(0, 1): found}, origin)})
    for format in ("csv", "parquet"):
        export_run(run, tmp_path / format, format=format)
        fields = [{"name": n, "type": "string"} for n in ("word", "text", "label", "end")]
        table = read(tmp_path / format / f"examples.{format}", fields)
        assert table["word"].tolist() == hostile


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "xlsx"}, "format is 'xlsx', expected one of csv"),
        ({"top": 0}, "top is 0, expected 1 or more, None for all, or 'auto'"),
        ({"top": "many"}, "top is 'many', expected 1 or more"),
    ],
)
def test_what_cannot_be_exported(
    made: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(GrammarLensError, match=message):
        export_run(load_run(made), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_nothing_else_is_overwritten(run: Run, tmp_path: Path) -> None:
    """A run's own directory, above all: it has a key_neurons.csv of its own."""
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    with pytest.raises(GrammarLensError, match="holds something else"):
        export_run(run, run.path)
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before
    out = tmp_path / "out"
    export_run(run, out, top=2)
    (out / "mine.txt").write_text("notes")
    with pytest.raises(GrammarLensError, match=r"\(mine.txt\)"):
        export_run(run, out, top=2)
    for text in ("{}", "[]", "{", '{"grammar_lens": 1, "resources": [{}]}'):
        (out / "mine.txt").unlink(missing_ok=True)
        (out / "datapackage.json").write_text(text)
        with pytest.raises(GrammarLensError, match="holds something else"):
            export_run(run, out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(GrammarLensError, match=r"holds something else \(file\)"):
        export_run(run, tmp_path / "file")


def test_a_folder_for_the_hub(made: Path, tmp_path: Path) -> None:
    """Its card names the tables that are there, its masks are the key neurons, and it is replaced."""
    run, out = load_run(made), tmp_path / "hub"
    export_run(run, out, format="hub", top=3)
    files = {path.name for path in export_run(run, out, format="hub", top=3)}
    assert {path.name for path in out.iterdir()} == files
    card = DatasetCard((out / "README.md").read_text("utf-8"))
    data = card.data.to_dict()
    assert "lesion-study" in data["tags"]
    tables = {config["data_files"] for config in data["configs"]}
    assert tables == {name for name in files if name.endswith(".parquet")}
    assert run.study is not None
    assert run.study.verdict() in card.text
    assert "| probe accuracy at 'next' |" in card.text
    for position in run.positions:
        keys = run.keys_at(position)
        with safe_open(out / f"key_neurons.{position}.safetensors", "numpy") as masks:
            assert set(masks.keys()) == {label for label in keys if len(keys[label])}
            for label in masks.keys():  # noqa: SIM118
                found = np.argwhere(masks.get_tensor(label))
                assert sorted(map(tuple, found.tolist())) == sorted(keys[label])
    scores = run.scores_at("next")
    back = read_neurons(out / "key_neurons.next.safetensors", like=scores)
    for label in back:
        assert set(back[label]) == set(run.keys_at("next")[label])


def test_lists_for_neuronpedia(made: Path, tmp_path: Path) -> None:
    """The key neurons in their order; a link has the same neurons as its list."""
    run, out = load_run(made), tmp_path / "lists"
    pages = "some-model/{layer}-mlp"
    paths = export_run(run, out, format="neuronpedia", neuronpedia=pages, top=2)
    assert {path.name for path in paths} == {path.name for path in out.iterdir()}
    lists = json.loads((out / "neuronpedia.json").read_text("utf-8"))
    links = pd.read_csv(out / "quick_lists.csv", keep_default_na=False)
    where = [(p, x) for p in run.positions for x, s in run.keys_at(p).items() if len(s)]
    assert list(zip(links["position"], links["label"], strict=True)) == where
    for (position, label), made_list, url in zip(where, lists, links["url"], strict=True):
        first = run.keys_at(position)[label].top(2)
        features = made_list["features"]
        assert [(f["layer"], f["index"]) for f in features] == [
            (f"{layer}-mlp", str(index)) for layer, index in first
        ]
        assert {f["modelId"] for f in features} == {"some-model"}
        assert label in made_list["name"]
        query = parse_qs(urlsplit(url).query)
        assert query["name"] == [made_list["name"]]
        assert json.loads(query["features"][0]) == [
            {k: f[k] for k in ("modelId", "layer", "index")} for f in features
        ]
    export_run(run, out, format="neuronpedia", neuronpedia=pages)
    again = json.loads((out / "neuronpedia.json").read_text("utf-8"))
    assert max(len(x["features"]) for x in again) > 2


@pytest.mark.parametrize("pages", [None, "model", "model/source", "a b/{layer}", "a/{layer}/b"])
def test_neuronpedia_needs_a_model_and_a_source(
    made: Path, tmp_path: Path, pages: str | None
) -> None:
    with pytest.raises(GrammarLensError, match=r"expected MODEL/SOURCE with \{layer\} in it"):
        export_run(load_run(made), tmp_path / "out", format="neuronpedia", neuronpedia=pages)
    with pytest.raises(GrammarLensError, match="given with format 'csv'"):
        export_run(load_run(made), tmp_path / "out", neuronpedia="a/{layer}")
    assert list(tmp_path.iterdir()) == []


# Out and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_exported_key_neurons_come_back(made: Path, tmp_path: Path, format: str) -> None:
    run = load_run(made)
    export_run(run, tmp_path / "out", format=format, top=1)
    for position in run.positions:
        path = tmp_path / "out" / f"key_neurons.{format}"
        expected = run.keys_at(position)
        assert_equal(read_neurons(path, run.scores_at(position)), expected)
        assert_equal(gl.read_neurons(path, expected), expected)
    there = read_neurons(run.path / "key_neurons.csv", run.scores_at("word"))
    assert addresses(there) == addresses(run.keys_at("word")), "the run's own file is read, too"


LABEL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(LABEL, min_size=2, max_size=4, unique=True),
    format=st.sampled_from(["csv", "parquet"]),
)
def test_any_label_survives(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], format: str
) -> None:
    scores = scores_of(tuple(names))
    keys = gl.select(scores, k=4)
    path = tmp_path_factory.mktemp("labels") / f"keys.{format}"
    write_keys(keys, path, format)
    assert_equal(read_neurons(path, scores), keys)


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_labels_that_look_like_something_else(tmp_path: Path, format: str) -> None:
    names = ("NA", "null", "", "nan", "=1+1", 'a"b', "a,b", "a\nb", "a\r\nb", "\r", " x ", "1", "#")
    names = tuple(name for name in names if name)
    scores = scores_of(names)
    keys = gl.select(scores, k=3)
    path = tmp_path / f"keys.{format}"
    write_keys(keys, path, format)
    assert_equal(read_neurons(path, scores), keys)
    table = read(path, [{"name": "label", "type": "string"}])
    assert tuple(dict.fromkeys(table["label"])) == names


def write_keys(keys: KeyNeurons, path: Path, format: str) -> None:
    """Key neurons as `export_run` writes them."""
    frame = keys.to_frame().assign(rule=keys.rule, method=keys.method)
    kinds = {"label": "string", "rule": "string", "method": "string", "score": "number"}
    kinds |= {"q": "number", "layer": "integer", "index": "integer", "rank": "integer"}
    fields = tuple(Field(name, kind, "") for name, kind in kinds.items())
    _writer(Table("keys", "", fields, lambda: iter([frame])), format)(path)


# What other tools write -----------------------------------------------------------------------


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TABLE = {"VERB": [(2, 4), (0, 9)], "NOUN": [(1, 1)]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "label,layer,index\nVERB,2,4\nVERB,0,9\nNOUN,1,1\n"),
        ("a.csv", "\ufeffLabel,Layer,Neuron\r\nVERB,2,4\r\nVERB,0,9\r\n\r\nNOUN,1,1"),
        ("a.csv", "neuron_index;layer;label\n4;2;VERB\n9;0;VERB\n1;1;NOUN\n"),
        ("a.tsv", "layer\tunit\tlabel\tnote\n2\t4\tVERB\tx\n0\t9\tVERB\ty\n1\t1\tNOUN\t\n"),
        ("a.txt", "label,layer,feature\nVERB,2.0,4\nVERB,0,9\nNOUN,1,1\n"),
        ("a.csv", "rank,label,layer,index\n2,VERB,0,9\n1,VERB,2,4\n1,NOUN,1,1\n"),
        ("a.json", '{"VERB": [[2, 4], [0, 9]], "NOUN": [[1, 1]]}'),
        ("a.json", '{"VERB": ["2.4", "L0.9"], "NOUN": ["blocks.1.mlp.hook_post.1"]}'),
        ("a", '{"VERB": ["l2.4", [0, 9]], "NOUN": ["1.1"]}'),
    ],
)
def test_lists_with_labels(scores: Scores, tmp_path: Path, name: str, content: str) -> None:
    found = read_neurons(put(tmp_path / name, content), scores)
    assert {label: list(found[label]) for label in found} == TABLE
    assert (found.rule, found.method) == (f"from {name}", "correlation")
    for label, neurons in found.items():
        np.testing.assert_array_equal(
            neurons.score, [scores[label][la, i] for la, i in TABLE[label]]
        )
        np.testing.assert_array_equal(
            neurons.mean, [scores.units.mean[la, i] for la, i in TABLE[label]]
        )
    keys = gl.select(scores, k=2)
    assert (read_neurons(tmp_path / name, keys)["VERB"].score == 0).all(), "none to be had"


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("VERB.csv", "layer,index\n2,4\n0,9\n", {}),
        ("a.csv", "layer,index\n2,4\n0,9\n", {"name": "VERB"}),
        ("a.csv", "layer,index\n3,5\n1,10\n", {"name": "VERB", "one_based": True}),
        ("VERB.json", "[[2, 4], [0, 9]]", {}),
        ("VERB.txt", "2.4\n\nL0.9\n", {}),
        ("VERB.txt", "24\n9\n", {"first_layer": 0}),
        ("VERB.json", "[34, 19]", {"first_layer": -1}),
        ("a.json", '{"VERB": [24, 9]}', {"first_layer": 0}),
    ],
)
def test_lists_of_one_label(
    scores: Scores, tmp_path: Path, name: str, content: str, settings: dict[str, Any]
) -> None:
    found = read_neurons(put(tmp_path / name, content), scores, **settings)
    assert addresses(found) == {"VERB": [(2, 4), (0, 9)]}


def test_scores_of_another_tool(scores: Scores, tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "label,layer,index,value\nVERB,2,4,1e3\nVERB,0,9,\n")
    found = read_neurons(path, scores)
    np.testing.assert_array_equal(found["VERB"].score, [1000, np.nan])
    assert found.method == "score in a.csv"


def test_labels_that_the_scores_do_not_have(scores: Scores, tmp_path: Path) -> None:
    """As of languages; nothing is known of them but where they are."""
    found = read_neurons(put(tmp_path / "a.json", '{"French": [[0, 3]], "VERB": [[1, 2]]}'), scores)
    assert addresses(found) == {"French": [(0, 3)], "VERB": [(1, 2)]}
    assert found["French"].score == [0]


def by_strength(scores: Scores, label: str, chosen: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted(chosen, key=lambda at: -abs(scores[label][at]))


CHOSEN = [(0, 1), (0, 8), (1, 5), (2, 0), (2, 9)]


def masks(n: int, dtype: Any = bool) -> np.ndarray:
    made = np.zeros((n, N_LAYERS, N_UNITS), dtype)
    made[0][tuple(np.array(CHOSEN).T)] = 1
    made[1:, 1, 2] = 1
    return made


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32])
def test_masks_of_all_labels(scores: Scores, tmp_path: Path, dtype: Any) -> None:
    """They come in no order, so the strongest by our scores stand first."""
    np.save(tmp_path / "a.npy", masks(2, dtype))
    found = read_neurons(tmp_path / "a.npy", scores)
    assert addresses(found) == {"NOUN": by_strength(scores, "NOUN", CHOSEN), "VERB": [(1, 2)]}
    keys = gl.select(scores, k=2)
    assert addresses(read_neurons(tmp_path / "a.npy", keys))["NOUN"] == CHOSEN, "by address"
    save_file({"VERB": masks(1, dtype)[0], "x": masks(2, dtype)[1]}, tmp_path / "b.safetensors")
    found = read_neurons(tmp_path / "b.safetensors", scores)
    assert addresses(found) == {"VERB": by_strength(scores, "VERB", CHOSEN), "x": [(1, 2)]}


def test_a_mask_of_one_label(scores: Scores, tmp_path: Path) -> None:
    np.save(tmp_path / "NOUN.npy", masks(1)[0])
    found = read_neurons(tmp_path / "NOUN.npy", scores)
    assert addresses(found) == {"NOUN": by_strength(scores, "NOUN", CHOSEN)}
    assert read_neurons(tmp_path / "NOUN.npy", scores, name="z").labels == ("z",)


def test_indices_by_layer(scores: Scores, tmp_path: Path) -> None:
    text = '{"NOUN": {"0": [1, 8], "1": [5], "2": [0, 9]}, "VERB": {"1": [2]}}'
    found = read_neurons(put(tmp_path / "a.json", text), scores)
    assert addresses(found) == {"NOUN": by_strength(scores, "NOUN", CHOSEN), "VERB": [(1, 2)]}


def test_rows_of_the_position_alone(scores: Scores, tmp_path: Path) -> None:
    text = "layer,index,label,position\n0,1,VERB,next\n0,2,VERB,word\n"
    path = put(tmp_path / "a.csv", text)
    assert addresses(read_neurons(path, scores)) == {"VERB": [(0, 2)]}
    elsewhere = replace(scores, origin=replace(scores.origin, position="last"))
    with pytest.raises(GrammarLensError, match=r"'last'.*'next'.*'word'"):
        read_neurons(path, elsewhere)


# What is wrong in a file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "layer,index\n0,1\n3,1\n",
            r"a\.csv:3: neuron 3\.1 does not exist: the model has 3",
        ),
        ("a.csv", "layer,index\n0,1\n0,10\n", r"a\.csv:3: neuron 0\.10 does not exist"),
        ("a.csv", "layer,index\n-1,0\n", r"a\.csv:2: neuron -1\.0 does not exist"),
        ("a.csv", 'label,layer,index\n"a\nb",0,1\nc,0,-2\n', r"a\.csv:4: neuron 0\.-2 does not"),
        ("a.csv", "layer,index\n0,1\n1,1\n0,1\n", r"a\.csv:4: neuron 0\.1 stands there twice"),
        ("a.csv", "layer,index\n0,1.5\n", r"a\.csv:2: index is '1\.5', expected a whole number"),
        ("a.csv", "layer,index\n\n0,x\n", r"a\.csv:3: index is 'x', expected a whole number"),
        ("a.csv", "layer,index\n0,\n", r"a\.csv:2: index is '', expected"),
        ("a.csv", "layer,index\n0,1\n0\n", r"a\.csv:3: 1 cells, expected 2 as in the first line"),
        ("a.csv", "layer,index,score\n0,1,big\n", r"a\.csv:2: score is 'big', expected a number"),
        ("a.csv", "layer,index,label\n0,1,\n", r"a\.csv:2: the label is missing"),
        ("a.csv", "layer,index\n", r"a\.csv has no neurons"),
        ("a.csv", "", r"a\.csv is empty"),
        (
            "a.csv",
            "0,1\n0,2\n",
            r"a\.csv:1: no column gives the layer \(layer\): there are '0', '1'",
        ),
        ("a.csv", "layer,x\n0,2\n", r"no column gives the index \(index or neuron or unit or"),
        ("a.csv", "layer,index,neuron\n0,1,1\n", "the columns 'index' and 'neuron' both give"),
        ("a.csv", 'layer,index\n0,"1\n', r"a\.csv:2: unexpected end of data"),
        (
            "a.csv",
            "layer,index\n99999999999999999999999,1\n",
            r"a\.csv:2: layer is '9+', expected a whole number of at most 18 digits",
        ),
        ("a.csv", b"layer,index\n0,\xff\n", r"a\.csv is no text in UTF-8 \(invalid start byte at"),
        (
            "a.json",
            '{"VERB": [[0, 1], [3, 0]]}',
            r'a\.json, "VERB"\[1\]: neuron 3\.0 does not exist',
        ),
        ("a.json", '{"VERB": [[0, 1],]}', r"a\.json:1: "),
        ("a.json", '{"VERB": [[0, 1.5]]}', r'"VERB"\[0\]: 1\.5 is no whole number'),
        ("a.json", '{"VERB": [[0, true]]}', r'"VERB"\[0\]: true is no whole number'),
        (
            "a.json",
            '{"VERB": [[0, 1, 2]]}',
            "expected a pair .*, got 3 values; lists of indices by",
        ),
        ("a.json", '{"VERB": [5]}', r'"VERB"\[0\]: 5 alone is no address: .*first_layer=0'),
        ("a.json", '{"VERB": ["x5"]}', r"'x5' is no address: expected 5\.123, L5\.123 or blocks\."),
        (
            "a.json",
            '["blocks.1.hook_resid_post.2"]',
            "is no unit of 'neuron', which is blocks.1.mlp",
        ),
        ("a.json", '{"VERB": []}', r'"VERB" has no neurons: leave it out'),
        ("a.json", '{"VERB": {"0": []}}', r'"VERB" has no neurons: leave it out'),
        ("a.json", '{"VERB": {"x": [1]}}', r'"VERB"\["x"\]: expected lists of indices by layer'),
        ("a.json", '{"VERB": 3}', r'"VERB": expected a list of neurons, got 3'),
        ("a.json", '{"A": [[0, 1]], "A": [[0, 2]]}', "'A' stands twice: join its neurons in one"),
        ("a.json", "{}", r"a\.json has no neurons"),
        ("a.txt", "0.1\nhello\n", r"a\.txt:2: 'hello' is no address"),
        ("a.txt", "7\n", r"a\.txt:1: 7 alone is no address"),
        ("a.pt", "x", "pickled or an archive, which can run code when it is read"),
        ("a.dat", b"\x80\x04x", "pickled or an archive"),
        ("a.dat", b"PK\x03\x04", "pickled or an archive"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet is no whole Parquet file"),
        ("a.npy", b"\x93NUMPY\x01", r"a\.npy cannot be read as an array of numbers"),
        ("a.safetensors", b"no", r"a\.safetensors is no whole safetensors file"),
    ],
)
def test_faults_are_named_with_their_place(
    scores: Scores, tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(GrammarLensError, match=message):
        read_neurons(put(tmp_path / name, content), scores)


def test_faults_of_settings(scores: Scores, tmp_path: Path) -> None:
    flat = put(tmp_path / "a.json", "[-1]")
    with pytest.raises(GrammarLensError, match="the flat id is -1, expected 0 or more"):
        read_neurons(flat, scores, first_layer=0)
    with pytest.raises(GrammarLensError, match=r"\[0\]: neuron -1\.3 does not exist"):
        read_neurons(put(tmp_path / "b.json", "[3]"), scores, first_layer=-1)
    with pytest.raises(GrammarLensError, match=r"c\.csv:2: neuron -1\.0 does not exist"):
        read_neurons(put(tmp_path / "c.csv", "layer,index\n0,1\n"), scores, one_based=True)
    with pytest.raises(GrammarLensError, match=r"labels of its own, so it needs no name \('x'\)"):
        read_neurons(put(tmp_path / "d.json", '{"A": [[0, 1]]}'), scores, name="x")
    with pytest.raises(GrammarLensError, match=r"cannot read .*none: No such file"):
        read_neurons(tmp_path / "none", scores)
    with pytest.raises(GrammarLensError, match=r"\[0\].*from 0.*one_based"):
        read_neurons(tmp_path / "b.json", scores, first_layer=0, one_based=True)
    np.save(tmp_path / "VERB.npy", masks(1)[0])
    with pytest.raises(GrammarLensError, match="a mask has no use for one_based"):
        read_neurons(tmp_path / "VERB.npy", scores, one_based=True)
    with pytest.raises(GrammarLensError, match="a mask has no use for first_layer"):
        read_neurons(tmp_path / "VERB.npy", scores, first_layer=0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 4), bool), r"shape \(2, 4\), expected \(3, 10\), .*'resid_post'"),
        (np.ones((5, 3, 10), bool), r"masks of 5 labels, expected 2 \(NOUN, VERB\)"),
        (np.full((3, 10), 2), "holds other numbers than 0 and 1"),
        (np.full((3, 10), np.nan), "holds other numbers than 0 and 1"),
        (np.full((3, 10), "1"), "holds other numbers than 0 and 1"),
        (np.zeros((2, 3, 10)), "the mask of 'NOUN' chooses no neuron: leave it out"),
        (np.zeros((3, 10)), "the mask chooses no neuron"),
    ],
)
def test_faults_of_masks(scores: Scores, tmp_path: Path, mask: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", mask)
    with pytest.raises(GrammarLensError, match=message):
        read_neurons(tmp_path / "a.npy", scores)


def test_no_pickle_is_run(scores: Scores, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (str(tmp_path / "sprung"),))  # pyright: ignore[reportReturnType]

    np.save(tmp_path / "a.npy", np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(GrammarLensError, match="cannot be read as an array of numbers"):
        read_neurons(tmp_path / "a.npy", scores)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"layer": [0, 1.5], "index": [1, 1]},
            r"row 2: layer is .*1\.5.*, expected a whole number",
        ),
        (
            {"layer": [0, None], "index": [1, 1]},
            r"row 2: layer is .*nan.*, expected a whole number",
        ),
        ({"layer": ["0", "x"], "index": [1, 1]}, r"row 2: layer is 'x', expected a whole number"),
        ({"layer": [0, 7], "index": [1, 1]}, r"row 2: neuron 7\.1 does not exist"),
        ({"layer": [0, 0], "index": [1, 1]}, r"row 2: neuron 0\.1 stands there twice"),
        ({"layer": [0], "index": [1], "label": [None]}, r"row 1: label is .*, expected a label"),
        ({"layer": [0], "index": [1], "score": ["x"]}, "column 'score' does not hold numbers"),
        ({"layer": [0], "x": [1]}, "no column gives the index"),
        ({"layer": [], "index": []}, r"a\.parquet has no neurons"),
    ],
)
def test_faults_of_parquet(
    scores: Scores, tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(GrammarLensError, match=message):
        read_neurons(tmp_path / "a.parquet", scores)


# Tables in memory -----------------------------------------------------------------------------


def test_a_frame_makes_the_key_neurons_that_made_it(scores: Scores) -> None:
    keys = gl.select(scores, k=5)
    for like in (scores, keys):
        assert_equal(KeyNeurons.from_frame(keys.to_frame(), like, rule=keys.rule), keys)
    found = KeyNeurons.from_frame(keys.to_frame(), scores, rule="x", labels=("PRON", "VERB"))
    assert found.labels == ("PRON", "VERB", "NOUN")
    assert len(found["PRON"]) == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"layer": [9, 3]}, r"row 8: neuron 9\.0 does not exist: the model has 3 layers of 10"),
        ({"index": [0, -1]}, r"row 9: neuron 0\.-1 does not exist"),
        ({"index": [0.5, 0]}, r"row 8: neuron 0\.0\.5 is no layer and index in whole numbers"),
        ({"index": ["x", 0]}, r"row 8: neuron 0\.x is no layer and index in whole numbers"),
        ({"index": [np.nan, 0]}, r"row 8: neuron .*nan is no layer and index"),
        ({"index": [4, 4]}, r"row 9: neuron 0\.4 stands there twice for the same label"),
    ],
)
def test_faults_of_frames(scores: Scores, columns: dict[str, list[Any]], message: str) -> None:
    usual = {"label": ["A", "A"], "layer": [0, 0], "index": [0, 1], "score": [0.0, 1.0]}
    frame = pd.DataFrame({**usual, **columns}, index=[8, 9])
    with pytest.raises(GrammarLensError, match=message):
        KeyNeurons.from_frame(frame, scores, rule="x")


def test_a_frame_without_a_column(scores: Scores) -> None:
    frame = pd.DataFrame({"label": ["A"], "layer": [0], "index": [0]})
    with pytest.raises(GrammarLensError, match=r"'score'.*label, layer, index"):
        KeyNeurons.from_frame(frame, scores, rule="x")


# In the pipeline ------------------------------------------------------------------------------


def test_a_run_studies_the_neurons_of_a_file(run: Run, tmp_path: Path) -> None:
    text = '{"VERB": [[0, 5], [3, 700], [7, 1]], "NOUN": [[1, 2], [2, 3]]}'
    path = put(tmp_path / "other.json", text)
    few = {"lesion_labels": (), "doses": (1.0,), "values": ("mean",), "damage_matched": 0}
    few |= {"shams": 2, "sufficiency": False, "show_progress": False}
    config = Config.of(run, neurons_from=str(path), **few)
    run_step("select", config, run, lambda _text: None)
    path.unlink()  # later steps read what was stored
    for step in ("course", "probe", "lesion", "report"):
        run_step(step, config, run, lambda _text: None)
    again = load_run(run.path)
    assert again.config["neurons_from"] == str(path)
    for position in again.positions:
        keys, scores = again.keys_at(position), again.scores_at(position)
        assert list(keys["VERB"]) == [(0, 5), (3, 700), (7, 1)], "in the order of the file"
        assert keys.labels == scores.labels
        assert len(keys["DET"]) == 0
        assert keys.rule == "from other.json"
        assert keys["NOUN"].q is None
        assert keys["NOUN"].score[0] == scores["NOUN"][1, 2], "the run's own score"
        controls = again.controls_at(position)
        assert controls is not None
        assert (controls.sham, controls.reliability) == (None, None)
        assert controls.within_type is not None
        assert list(controls.within_type["label"]) == [x for x in TAGS if x in ("NOUN", "VERB")]
        assert "exchanged labels" not in set(again.curves[position]["score"])
        assert again.probe_at(position).n_neurons == 5
    assert again.study is not None
    assert set(again.study.labels) == {"NOUN", "VERB"}
    assert again.summary["selection"]["word"]["rule"] == "from other.json"


def test_a_file_that_does_not_fit_costs_no_results(run: Run, tmp_path: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    cases = {
        '{"VRB": [[0, 5]]}': "has neurons of 'VRB', which .* does not study: its labels are",
        '{"VERB": [[8, 5]]}': r"neuron 8\.5 does not exist",
    }
    for text, message in cases.items():
        path = put(tmp_path / "other.json", text)
        config = Config.of(run, neurons_from=str(path), show_progress=False)
        with pytest.raises(ValueError, match=message):
            run_step("select", config, run, print)
    config = Config.of(run, neurons_from=str(tmp_path / "none.csv"), show_progress=False)
    with pytest.raises(GrammarLensError, match=r"cannot read .*none\.csv: No such file"):
        run_step("select", config, run, print)
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before


# Without grammar_lens -------------------------------------------------------------------------

READ_ALONE = """
import csv, json, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
from safetensors import safe_open
from safetensors.numpy import load_file

folder, seen = Path(sys.argv[1]), set()

def path(name):
    seen.add(name)
    return folder / name

record = json.loads(path("run.json").read_text("utf-8"))
labels = record["config"]["labels"]
moments = load_file(path("moments.safetensors"))
with safe_open(folder / "moments.safetensors", framework="np") as file:
    about = json.loads(file.metadata()["collected"])
assert about["word/neuron"]["moments"]["labels"] == labels

# the point-biserial correlation of one neuron with one tag, from counts, means and deviations
keys = pd.read_csv(path("key_neurons.csv"), keep_default_na=False, na_values={"q": [""]})
best = keys[(keys.position == "word") & (keys.label == "VERB")].iloc[0]
part = {n: moments[f"word/neuron/moments/{n}"] for n in ("count", "mean", "m2")}
count, at = part["count"], (slice(None), best["layer"], best["index"])
mean, m2, n = part["mean"][at], part["m2"][at], count.sum()
grand = (count * mean).sum() / n
total = m2.sum() + (count * (mean - grand) ** 2).sum()
verb = labels.index("VERB")
rest = (n * grand - count[verb] * mean[verb]) / (n - count[verb])
share = count[verb] / n
r = (mean[verb] - rest) * np.sqrt(share * (1 - share)) / np.sqrt(total / n)
stored = load_file(path("scores.safetensors"))["word/values"][verb, best["layer"], best["index"]]
assert abs(r) > 0.1 and np.isclose(r, stored, rtol=1e-9) and best["score"] == stored, (r, stored)

probes = json.loads(path("probe.json").read_text("utf-8"))
assert 0 <= probes["word"]["accuracy"] <= 1
fitted = load_file(path("probe.safetensors"))
assert fitted["word/weight"].shape == (len(labels), len(fitted["word/addresses"]))
curve = pd.read_csv(path("probe_curve.csv"))
assert set(curve.position) == {"word", "next"}

# the lesion matrix from the losses word by word
study = json.loads(path("lesion_matrix.json").read_text("utf-8"))
words = pyarrow.parquet.read_table(path("lesions.parquet")).to_pandas()
cut = words[(words.kind == "set") & (words.value == "mean") & (words.dose == 1)]
first, second = study["labels"][:2]
cut = cut[(cut.lesion == first) & (cut.replicate == 0) & (cut.label == second)].set_index("word")
intact = words[words.lesion == ""].set_index("word").loc[cut.index]
change = (cut.tag_loss - intact.tag_loss).mean()
assert np.isclose(change, study["matrix"][0][1], atol=1e-5), (change, study["matrix"][0][1])

assert load_file(path("attributions.safetensors"))["attribution/mean"].ndim == 3
course = json.loads(path("time_course.json").read_text("utf-8"))
assert np.array(course["strength"]).shape == (len(course["offsets"]), len(labels), 8)
assert set(json.loads(path("controls.json").read_text("utf-8"))) == {"word", "next"}
assert json.loads(path("summary.json").read_text("utf-8"))["schema"] == 1
layers = json.loads(path("layers.json").read_text("utf-8"))
assert len(layers["trained"]["word"]["accuracy"]) == len(pd.read_csv(path("layers.csv")))
assert json.loads(path("examples.json").read_text("utf-8"))
assert path("report.html").read_text("utf-8").lstrip().lower().startswith("<!doctype html")

left = {p.name for p in folder.iterdir() if p.is_file() and p.name != ".lock"} - seen
assert not left, left
assert not {"grammar_lens", "torch"} & {name.split(".")[0] for name in sys.modules}
print("read")
"""


def test_every_file_of_a_run_opens_without_grammar_lens(made: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ_ALONE, str(made)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "read"), done.stderr


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def test_an_exported_csv_opens_with_the_standard_library(made: Path, tmp_path: Path) -> None:
    run = load_run(made)
    export_run(run, tmp_path / "out", top=3)
    found = [row for row in rows_of(tmp_path / "out" / "scores.csv") if row["position"] == "next"]
    assert len(found) == 3 * len(TAGS)
    best = found[0]
    value = run.scores[best["label"]][int(best["layer"]), int(best["index"])]
    assert float(best["score"]) == value
