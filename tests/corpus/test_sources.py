"""Sources of treebanks: paths, the package, Universal Dependencies, Hugging Face datasets."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import config
from file_server import Server, serving

from grammar_lens.corpus import sources, universal_dependencies
from grammar_lens.corpus.downloads import blob_id
from grammar_lens.corpus.hugging_face import HubSpec
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.corpus.universal_dependencies import LANGUAGE_CODES, RELEASE, UDName
from grammar_lens.errors import GrammarLensError

FILES = {"train": "Go on", "dev": "Stay", "test": "Leave now"}


def conllu(text: str) -> str:
    lines = [f"{n}\t{form}\t_\tVERB\t_\t_\t_\t_\t_\t_\n" for n, form in enumerate(text.split(), 1)]
    return f"# text = {text}\n{''.join(lines)}\n"


def texts(source: Any, **options: Any) -> list[str]:
    return [sentence.text for sentence in load_treebank(source, **options)]


# Paths --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "UD_Test-Made"
    made.mkdir()
    for split, text in FILES.items():
        (made / f"xx_made-ud-{split}.conllu").write_text(conllu(text))
    (made / "README.md").touch()
    return made


def test_a_folder_has_the_splits_of_its_file_names(folder: Path) -> None:
    (folder / "extra.conllu").write_text(conllu("More") + conllu("Still more"))
    read = load_treebank(folder)
    assert read.name == "UD_Test-Made"
    assert read.splits == {"train": (0, 1), "dev": (1, 2), "test": (2, 3), "extra": (3, 5)}
    assert [s.text for s in read["extra"]] == ["More", "Still more"]


def test_a_split_of_a_folder_is_read_alone(folder: Path) -> None:
    (folder / "xx_made-ud-dev.conllu").write_text("not read")
    read = load_treebank(f"{folder}:test")
    assert (read.name, read.splits) == ("UD_Test-Made:test", {})
    assert [s.text for s in read] == ["Leave now"]


def test_a_file_has_no_splits_and_may_be_a_path_object(folder: Path) -> None:
    path = folder / "xx_made-ud-dev.conllu"
    assert load_treebank(path) == load_treebank(str(path))
    assert (load_treebank(path).name, load_treebank(path).splits) == ("xx_made-ud-dev", {})


def test_an_existing_path_wins_over_every_other_form(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("UD_English-EWT", "hf:made:train", "folder:train"):
        Path(name).mkdir()
        Path(name, "a-train.conllu").write_text(conllu(f"in {name}"))
        assert texts(name) == [f"in {name}"]
    assert texts("UD_English-EWT:train") == ["in UD_English-EWT"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.conllu", "no treebank at .*nowhere.conllu': expected the path of a .conllu file"),
        ("nowhere:train", r"no treebank at .*folder:split, a name such as UD_.*, hf:dataset\[@"),
        ("", "no .conllu file in the folder .*: give a folder that has some"),
        (":extra", "has no split 'extra'; its splits are train, dev, test"),
        ("xx_made-ud-dev.conllu:dev", "is one file and has no split 'dev': leave out :dev"),
    ],
)
def test_what_is_not_there_is_said(folder: Path, source: str, message: str) -> None:
    (folder.parent / "empty").mkdir()
    where = {"": str(folder.parent / "empty"), ":extra": f"{folder}:extra"}
    with pytest.raises(GrammarLensError, match=message):
        load_treebank(where.get(source, f"{folder}/{source}"))


def test_an_empty_source_is_not_the_current_folder() -> None:
    with pytest.raises(GrammarLensError, match="no treebank at ''"):
        load_treebank("")


def test_two_files_for_one_split_are_refused(folder: Path) -> None:
    (folder / "yy_made-ud-dev.conllu").write_text(conllu("Other"))
    with pytest.raises(
        GrammarLensError,
        match=r"'dev'.*xx_made-ud-dev.conllu.*yy_made-ud-dev.conllu",
    ):
        load_treebank(folder)


def test_columns_are_named_for_datasets_only(folder: Path) -> None:
    option: dict[str, Any]
    for option in ({"words_column": "w"}, {"label_column": "l"}):
        with pytest.raises(GrammarLensError, match=r"are for hf: datasets, not for .*UD_Test-Made"):
            load_treebank(folder, **option)


# The package --------------------------------------------------------------------------------


def test_without_a_source_the_embedded_treebank_is_read() -> None:
    package = Path(sources.__file__).parents[1]
    if not (package / "embedded" / "treebank").is_dir():
        pytest.skip("the embedded treebank is not written yet")
    read = load_treebank()
    assert read.name == "handmade"
    assert list(read.splits) == ["train", "test"]
    assert read["train"].without(read["test"])[1] == 0


def test_a_package_without_its_treebank_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "files", lambda package: tmp_path)
    with pytest.raises(GrammarLensError, match="embedded treebank is missing from"):
        load_treebank()


# Universal Dependencies ---------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch, tmp_path: Path) -> Iterator[Server]:
    """A UD mirror with UD_English-Made whole and UD_French-Made with a test split only."""
    pages: dict[str, bytes | None] = {
        f"/UD_English-Made/{RELEASE}/en_made-ud-{split}.conllu": conllu(text).encode()
        for split, text in FILES.items()
    }
    pages[f"/UD_French-Made/{RELEASE}/fr_made-ud-test.conllu"] = conllu("Va").encode()
    with serving(pages) as made:
        monkeypatch.setenv("GRAMMAR_LENS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("GRAMMAR_LENS_UD_URL", f"http://127.0.0.1:{made.server_port}")
        yield made


@pytest.fixture
def known(monkeypatch) -> None:
    """Makes the mirror's files known by their git blob ids."""
    ids = {
        f"en_made-ud-{split}.conllu": blob_id(conllu(text).encode())
        for split, text in FILES.items()
    }
    monkeypatch.setattr(
        universal_dependencies,
        "BLOB_IDS",
        {**ids, "fr_made-ud-test.conllu": blob_id(conllu("Va").encode())},
    )


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_named_treebank_is_fetched_once(server: Server, known: None, tmp_path: Path) -> None:
    read = load_treebank("UD_English-Made")
    assert {split: [s.text for s in read[split]] for split in read.splits} == {
        split: [text] for split, text in FILES.items()
    }
    assert (read.name, read.notes) == ("UD_English-Made", ())
    assert len(server.requests) == 3
    assert texts("UD_English-Made:dev") == ["Stay"]
    assert load_treebank("UD_English-Made:dev").name == "UD_English-Made:dev"
    assert len(server.requests) == 3
    assert cached(tmp_path) == [f"en_made-ud-{split}.conllu" for split in sorted(FILES)]


def test_one_split_is_fetched_alone_and_the_address_may_be_given(
    server: Server, known: None, monkeypatch
) -> None:
    monkeypatch.delenv("GRAMMAR_LENS_UD_URL")
    address = f"http://127.0.0.1:{server.server_port}/"
    assert texts("UD_English-Made:test", ud_base_url=address) == ["Leave now"]
    assert server.requests == [f"/UD_English-Made/{RELEASE}/en_made-ud-test.conllu"]


def test_splits_that_a_treebank_lacks_are_skipped_and_remembered(
    server: Server, known: None
) -> None:
    assert list(load_treebank("UD_French-Made").splits) == ["test"]
    assert len(server.requests) == 3
    assert list(load_treebank("UD_French-Made").splits) == ["test"]
    assert len(server.requests) == 3
    for _ in range(2):
        with pytest.raises(GrammarLensError, match=rf"fr_made-ud-train.conllu.*{RELEASE}"):
            load_treebank("UD_French-Made:train")


def test_a_treebank_that_is_not_there_is_not_remembered(server: Server, tmp_path: Path) -> None:
    with pytest.raises(GrammarLensError, match=r"has no en_none-ud-train.conllu"):
        load_treebank("UD_English-None")
    assert cached(tmp_path) == []


def test_a_wrong_blob_is_refused_and_removed(server: Server, known: None, tmp_path: Path) -> None:
    page = f"/UD_English-Made/{RELEASE}/en_made-ud-dev.conllu"
    right, server.pages[page] = server.pages[page], conllu("Forged").encode()
    with pytest.raises(GrammarLensError, match=r"has git blob id .*, expected .*: it was removed"):
        load_treebank("UD_English-Made:dev")
    assert cached(tmp_path) == []
    server.pages[page] = right
    assert texts("UD_English-Made:dev") == ["Stay"]
    (path,) = (tmp_path / "cache").rglob("*-dev.conllu")
    path.write_text(conllu("Edited"))
    with pytest.raises(GrammarLensError, match=r"expected .* it was removed, run again"):
        load_treebank("UD_English-Made:dev")
    assert texts("UD_English-Made:dev") == ["Stay"]


def test_an_unknown_file_is_called_unverified_once_and_then_enforced(
    server: Server, tmp_path: Path
) -> None:
    page = f"/UD_English-Made/{RELEASE}/en_made-ud-dev.conllu"
    digest = hashlib.sha256(conllu("Stay").encode()).hexdigest()
    with pytest.warns(UserWarning, match=f"unverified download, .*; its sha256 {digest} is record"):
        read = load_treebank("UD_English-Made:dev")
    assert read.notes == (
        f"en_made-ud-dev.conllu: unverified download, no checksum is known for release {RELEASE}",
    )
    (record,) = (tmp_path / "cache").rglob("*.json")
    assert json.loads(record.read_text())["sha256"] == digest

    again = load_treebank("UD_English-Made:dev")  # no warning, which would be an error
    assert again.notes == ("en_made-ud-dev.conllu: equal to its first, unverified download",)
    assert len(server.requests) == 1

    (path,) = (tmp_path / "cache").rglob("*.conllu")
    path.write_text(conllu("Edited"))
    assert texts("UD_English-Made:dev") == ["Stay"]  # fetched again, and equal to the first

    path.unlink()
    server.pages[page] = conllu("Changed").encode()
    with pytest.raises(
        GrammarLensError, match=r"is not the file that was first .* delete .*\.json"
    ):
        load_treebank("UD_English-Made:dev")
    assert cached(tmp_path) == [record.name]


def test_a_download_that_breaks_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.pages[f"/UD_English-Made/{RELEASE}/en_made-ud-dev.conllu"] = None
    with pytest.raises(GrammarLensError, match=r"cannot fetch http.*-dev.conllu"):
        load_treebank("UD_English-Made:dev")
    assert cached(tmp_path) == []


def test_no_connection_is_said(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(GrammarLensError, match=r"cannot fetch http.*-dev.conllu"):
        load_treebank("UD_English-Made:dev")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("UD_Englsh-EWT", "unknown language 'Englsh' .* did you mean English"),
        ("UD_Q-EWT", "unknown language 'Q' in 'UD_Q-EWT': download the treebank and give"),
        ("UD_English", "cannot read 'UD_English': expected a name such as UD_English-EWT or"),
        ("UD_English-EWT:half", "asks for the split 'half': expected train, dev, test"),
    ],
)
def test_wrong_names_are_refused(source: str, message: str) -> None:
    with pytest.raises(GrammarLensError, match=message):
        load_treebank(source)


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(
        GrammarLensError, match="expected an address that begins with http:// or http"
    ):
        load_treebank("UD_English-EWT", ud_base_url="ftp://example.org")


def test_file_names_follow_the_language() -> None:
    assert UDName.parse("UD_English-EWT").file("dev") == "en_ewt-ud-dev.conllu"
    name = UDName.parse("UD_Old_Church_Slavonic-PROIEL:test")
    assert (name.repository, name.file("test")) == (
        "UD_Old_Church_Slavonic-PROIEL",
        "cu_proiel-ud-test.conllu",
    )
    assert len(LANGUAGE_CODES) == len(set(LANGUAGE_CODES.values()))
    assert all(code.isalpha() and len(code) in (2, 3) for code in LANGUAGE_CODES.values())


@pytest.mark.shared
@pytest.mark.parametrize("source", ["UD_English-EWT:dev", "UD_Chinese-GSDSimp:test"])
def test_real_files_have_the_known_blob_ids(server: Server, treebanks: Path, source: str) -> None:
    name = UDName.parse(source)
    assert name.split is not None
    path = treebanks / name.repository / name.file(name.split)
    server.pages[f"/{name.repository}/{RELEASE}/{path.name}"] = path.read_bytes()
    read = load_treebank(source)
    assert read.notes == ()
    assert read.fingerprint() == load_treebank(path).fingerprint()


def test_blob_ids_are_those_of_git() -> None:
    """`printf 'hello\\n' | git hash-object --stdin`; the empty blob is git's best known id."""
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


# Hugging Face datasets ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path: Path) -> None:
    """Keeps `datasets` off the network and out of the home folder."""
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def dataset(tmp_path: Path, rows: list[dict[str, Any]], name: str = "train") -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


ROW = {"tokens": ["Do", "n't", "go", "!"], "upos": ["AUX", "PART", "VERB", "_"]}


def test_a_dataset_of_strings_is_read_with_single_spaces_and_says_so(tmp_path: Path) -> None:
    read = load_treebank(f"hf:{dataset(tmp_path, [ROW])}:train")
    (sentence,) = read
    assert sentence.text == "Do n't go !"
    assert [sentence.text[slice(*w.span)] for w in sentence.words if w.span] == ROW["tokens"]
    assert [w.label("upos") for w in sentence.words] == ["AUX", "PART", "VERB", None]
    assert read.notes == ("spacing: single spaces assumed",)
    assert sentence.source == f"hf:{tmp_path}/dataset:train row 0"


def test_spacing_comes_from_a_text_that_has_the_words(tmp_path: Path) -> None:
    rows = [{**ROW, "text": " Don't  go! "}, {**ROW, "text": "Another text"}, {**ROW, "text": None}]
    read = load_treebank(f"hf:{dataset(tmp_path, rows)}::train")
    assert [s.text for s in read] == ["Don't  go!", "Do n't go !", "Do n't go !"]
    assert read.notes == ("spacing: single spaces assumed in 2 of 3 sentences",)
    whole = load_treebank(f"hf:{dataset(tmp_path, rows[:1])}:default:train")
    assert whole.notes == ()


def test_class_labels_of_parquet_become_names(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["_", "NOUN", "VERB"])
    features = datasets.Features(
        {
            "words": datasets.Sequence(datasets.Value("string")),
            "pos_tags": datasets.Sequence(names),
        }
    )
    rows = {"words": [["a", "b", "c", "d", "e"]], "pos_tags": [[2, 0, 1, -1, None]]}
    (tmp_path / "dataset").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(
        tmp_path / "dataset" / "test.parquet"
    )
    (sentence,) = load_treebank(f"hf:{tmp_path / 'dataset'}:test")
    assert [w.label("upos") for w in sentence.words] == ["VERB", None, "NOUN", None, None]


@pytest.mark.parametrize(
    "feats",
    [
        ["Number=Sing|Case=Nom", "_", None, "Number=_"],
        [{"Number": "Sing", "Case": "Nom"}, {}, None, {"Number": None, "Case": "_"}],
    ],
)
def test_features_are_strings_or_mappings(tmp_path: Path, feats: list[Any]) -> None:
    rows = [{"tokens": list("abcd"), "feats": feats}]
    read = load_treebank(f"hf:{dataset(tmp_path, rows)}:train", label="feats:Number")
    assert [dict(w.labels) for w in read.sentences[0].words] == [
        {"feats:Number": "Sing", "feats:Case": "Nom"},
        {},
        {},
        {},
    ]


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [{"w": ["a"], "l": ["X"], "tokens": ["b", "c"], "xpos": ["Y", "Z"]}]
    source = f"hf:{dataset(tmp_path, rows)}:train"
    read = load_treebank(source, words_column="w", label_column="l")
    assert read.sentences[0].words[0].label("upos") == "X"
    assert load_treebank(source, label="xpos").label_counts("xpos") == {"Y": 1, "Z": 1}
    with pytest.raises(
        GrammarLensError,
        match=r"no column upos or .* for upos; its columns are w, l, tokens, xpos: .*label_column",
    ):
        load_treebank(source)
    with pytest.raises(GrammarLensError, match=r"'v'.*words_column"):
        load_treebank(source, words_column="v")


def test_a_dataset_without_words_is_refused(tmp_path: Path) -> None:
    source = f"hf:{dataset(tmp_path, [{'text': 'Hi', 'upos': ['X']}])}:train"
    with pytest.raises(
        GrammarLensError, match="no column tokens or words for words; its columns are text, upos"
    ):
        load_treebank(source)


def test_rows_without_words_are_left_out_and_counted(tmp_path: Path) -> None:
    empty = {"tokens": [], "upos": []}
    read = load_treebank(f"hf:{dataset(tmp_path, [ROW, empty, ROW])}:train")
    assert [s.id for s in read] == ["0", "2"]
    assert read.notes[1] == "1 rows without words left out"
    dataset(tmp_path, [{"tokens": [], "upos": [], "text": "x"}], name="test")
    dataset(tmp_path, [{**ROW, "text": "x"}])
    with pytest.raises(GrammarLensError, match="has no sentences"):
        load_treebank(f"hf:{tmp_path / 'dataset'}:test")


@pytest.mark.parametrize(
    ("row", "label", "message"),
    [
        (
            {"tokens": ["a", "b"], "upos": ["X"]},
            "upos",
            "row 1: 2 words in 'tokens' but 1 labels in 'upos': they must be as many",
        ),
        ({"tokens": ["a", ""], "upos": ["X", "X"]}, "upos", "row 1: expected words .* found ''"),
        ({"tokens": ["a", None], "upos": ["X", "X"]}, "upos", "row 1: .* found None"),
        ({"tokens": ["a"], "upos": None}, "upos", "row 1: expected a list in column 'upos', found"),
        (
            {"tokens": ["a"], "xpos": [3]},
            "xpos",
            "row 1: expected names in column 'xpos', found 3: use a ClassLabel or strings",
        ),
        (
            {"tokens": ["a"], "feats": ["Number"]},
            "feats:Number",
            "row 1: expected features such as 'Number=Sing|Case=Nom', found 'Number'",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named(
    tmp_path: Path, row: dict[str, Any], label: str, message: str
) -> None:
    column = label.partition(":")[0]
    rows = [{"tokens": ["a"], column: [None]}, row]
    with pytest.raises(GrammarLensError, match=message):
        load_treebank(f"hf:{dataset(tmp_path, rows)}:train", label=label)


def test_a_column_of_plain_text_is_refused(tmp_path: Path) -> None:
    rows = [{"tokens": "a b", "upos": "X X"}]
    with pytest.raises(GrammarLensError, match=r"row 0.*'tokens'"):
        load_treebank(f"hf:{dataset(tmp_path, rows)}:train")


def test_a_dataset_with_a_script_is_refused_and_the_script_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(GrammarLensError, match=r"needs a loading script, which is not run \("):
        load_treebank(f"hf:{folder}:train")
    assert not (tmp_path / "ran").exists()


def test_what_datasets_cannot_load_is_said(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [ROW])
    expected = r"Expected hf:dataset\[@revision\]\[:config\]:split"
    for source, problem in (
        (f"hf:{folder}:test", "Unknown split"),
        (f"hf:{folder}:other:train", "BuilderConfig 'other' not found"),
        (f"hf:{tmp_path}/none:train", "Couldn't find any data file"),
        ("hf:nobody/nothing:train", "Couldn't reach 'nobody/nothing' on the Hub"),
    ):
        with pytest.raises(
            GrammarLensError, match=f"cannot load {source}: .*{problem}.*{expected}"
        ):
            load_treebank(source)


def test_other_faults_of_datasets_pass_unchanged(monkeypatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        load_treebank("hf:a/b:train")


def test_revision_and_configuration_reach_datasets_and_nothing_else(monkeypatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> datasets.Dataset:
        asked.append((args, options))
        return datasets.Dataset.from_list([ROW])

    monkeypatch.setattr(datasets, "load_dataset", load)
    load_treebank("hf:owner/name@v1.0:config:train[:10%]")
    load_treebank("hf:owner/name:test")
    assert asked == [
        (("owner/name", "config"), {"split": "train[:10%]", "revision": "v1.0"}),
        (("owner/name", None), {"split": "test", "revision": None}),
    ]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hf:a/b:train", ("a/b", None, None, "train")),
        ("hf:a/b::train", ("a/b", None, None, "train")),
        ("hf:a/b@main:c:train", ("a/b", "main", "c", "train")),
        ("hf:/data/x@1:train[5:]", ("/data/x", "1", None, "train[5:]")),
    ],
)
def test_sources_are_taken_apart(source: str, parts: tuple[str | None, ...]) -> None:
    spec = HubSpec.parse(source)
    assert (spec.dataset, spec.revision, spec.config, spec.split) == parts


@pytest.mark.parametrize("source", ["hf:a/b", "hf:", "hf:a:b:c:d", "hf:a/b:", "hf:@r:train"])
def test_sources_that_cannot_be_taken_apart_are_refused(source: str) -> None:
    with pytest.raises(
        GrammarLensError, match=r"cannot read 'hf:.*: expected hf:dataset\[@revision"
    ):
        HubSpec.parse(source)


def test_a_local_dataset_has_no_revisions(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [ROW])
    with pytest.raises(
        GrammarLensError, match="is a local folder and has no revisions: leave out @1"
    ):
        load_treebank(f"hf:{folder}@1:train")
