"""Damaged and hostile files: a right result, or one line that says what is wrong; nothing else.

Every case is drawn from a seed of its own, so that a case that fails can be drawn again. The short
forms are part of the everyday suite, the long ones of `make test-slow`.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from small_runs import write_beginnings
from typer.testing import CliRunner

import grammar_lens as gl
from grammar_lens.cli.app import app
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import prepare
from grammar_lens.errors import GrammarLensError, unprintable
from grammar_lens.model.about import Model
from grammar_lens.model.forward import next_token_logits
from grammar_lens.model.loading import load_model
from grammar_lens.selectivity.result import Scores

QUIET: dict[str, Any] = {"show_progress": False}
SHORT_AND_LONG = {
    "treebanks": (60, 2000),
    "runs": (14, 500),
    "lists": (28, 200),
    "models": (8, 100),
}


def cases(what: str) -> Any:
    short, long = SHORT_AND_LONG[what]
    return pytest.mark.parametrize(
        "n",
        [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.slow)],
    )


STRANGE = (
    b"9" * 4400, b"\r", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\t\t", b"\n\n", b"-1", b"1e999",
    b"NaN", b"\xe2\x80\xa8", b"\\ud800", b"{", b"[" * 3000, b"null", b'"', b",", b" ", b"_",
)  # fmt: skip


def spoiled(data: bytes, draw: random.Random) -> bytes:
    """A file with one to three slips: bits, spans, lines, and texts that programs stumble over."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 2, 8, 64, 1000)))
        match draw.randrange(8):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[to:]
            case 2:
                data = data[:to] + data[at:to] + data[to:]
            case 3:
                data = data[:at]
            case 4:
                data = data[:at] + draw.randbytes(draw.choice((1, 4, 40))) + data[at:]
            case 5:
                data = data[:at] + draw.choice(STRANGE) + data[to:]
            case 6:
                lines = data.split(b"\n")
                draw.shuffle(lines)
                data = b"\n".join(lines)
            case _:
                data = data.replace(*draw.choice(((b"\n", b"\r"), (b"\t", b" "), (b"1", b"2"))))
    return data


def told(error: GrammarLensError) -> str:
    """The kind of an error; its message must fit a line that can be printed."""
    text = str(error)
    assert text
    assert len(text) < 3000, text[:300]
    return "refused"


# Treebanks ------------------------------------------------------------------------------------


def conllu() -> bytes:
    embedded = files("grammar_lens") / "embedded" / "treebank"
    blocks = (embedded / "handmade-train.conllu").read_text("utf-8").split("\n\n")
    return ("\n\n".join(blocks[:8]) + "\n\n").encode()


@cases("treebanks")
def test_treebanks(tmp_path: Path, tiny: Model, n: int):
    whole, path, seen = conllu(), tmp_path / "some.conllu", Counter[str]()
    for seed in range(n):
        path.write_bytes(spoiled(whole, random.Random(seed)))
        try:
            bank = gl.load_treebank(path)
            corpus = prepare(tiny, bank, minimum=1)
        except GrammarLensError as error:
            seen[told(error)] += 1
            continue
        seen["read"] += 1
        again = gl.load_treebank(path)
        assert again.fingerprint() == bank.fingerprint(), seed
        for sentence in bank:
            for word in sentence.words:
                assert word.span is None or 0 <= word.span[0] <= word.span[1] <= len(sentence.text)
                assert not any(map(unprintable, word.labels.values())), seed
        assert corpus.labels == tuple(sorted(set(bank.label_counts("upos"))))
        assert len(corpus.classes) == bank.n_words
    assert min(seen["read"], seen["refused"]) > n / 20, seen
    print(f"{n} treebanks: {dict(seen)}")


# Runs -----------------------------------------------------------------------------------------


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def made(
    few_figures: None,
    plain_reports: None,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_hf: Callable[[], Any],
    tiny_tokenizer: Any,
) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    tiny_hf().save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    write_beginnings(folder, train=40, test=20)
    code, _, err = call(
        "run", "--model", folder / "tiny", "--train", f"{folder}:train", "--fresh",
        f"{folder}:test", "--labels", "DET,NOUN,PRON,VERB", "--replicates", 25, "--top-k", 4,
        "--alpha", 1, "--probe-k", 3, "--values", "mean", "--doses", "1", "--shams", 2,
        "--other-shams", 0, "--damage-matched", 0, "--out", folder / "run", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    return folder / "run"


def exported(run: Path, to: Path) -> tuple[int, str, dict[str, bytes]]:
    """Exit code, message and tables of everything that a run has found."""
    shutil.rmtree(to, ignore_errors=True)
    code, _, err = call("export", run, "--to", to, "--quiet")
    return code, err, {p.name: p.read_bytes() for p in to.iterdir()} if to.is_dir() else {}


@cases("runs")
def test_runs(made: Path, tmp_path: Path, n: int):
    """One file of a stored run is damaged, at its place or where it is stored."""
    code, err, want = exported(made, tmp_path / "tables")
    assert code == 0, err
    names = [
        p.relative_to(made)
        for p in sorted(made.rglob("*"))
        if p.is_file() and "figures" not in p.parts and p.name != ".lock"
    ]
    seen, run = Counter[str](), tmp_path / "run"
    for seed in range(n):
        draw = random.Random(seed)
        shutil.copytree(made, run, copy_function=_linked)
        name = draw.choice(names)
        data = spoiled((run / name).read_bytes(), draw)
        (run / name).unlink()  # the copy shares its files
        (run / name).write_bytes(data)
        code, err, got = exported(run, tmp_path / "tables")
        assert code in (0, 2), (seed, name, err)
        if code == 0:
            assert got == want, (seed, name)
        else:
            assert err.startswith("error: "), (seed, name, err)
            assert err.count("\n") == 1, (seed, name, err)
            assert not got, (seed, name, "half a folder of tables")
        seen["refused" if code else "right"] += 1
        shutil.rmtree(run)
    print(f"{n} damaged run files: {dict(seen)}")
    assert seen["refused"] > n / 4, seen


def _linked(source: str, target: str) -> str:
    Path(target).hardlink_to(source)
    return target


# Lists of neurons ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(tiny: Model, bank: Treebank) -> Scores:
    moments = gl.collect(tiny, bank["train"], labels=("DET", "NOUN", "VERB"), **QUIET)
    return gl.score(moments["neuron"], "correlation")


def lists(folder: Path, scores: Scores) -> Iterator[Path]:
    """The same choice in every format that is read."""
    table = gl.select(scores, k=4).to_frame()
    table.to_csv(folder / "n.csv", index=False)
    table.to_csv(folder / "n.tsv", index=False, sep="\t")
    table.to_parquet(folder / "n.parquet")
    pairs = {x: rows[["layer", "index"]].values.tolist() for x, rows in table.groupby("label")}
    (folder / "n.json").write_text(json.dumps(pairs))
    (folder / "n.txt").write_text("".join(f"{la}.{i}\n" for la, i in pairs["NOUN"]))
    mask = np.zeros(scores.values.shape[1:], np.float32)
    mask[tuple(np.array(pairs["NOUN"]).T)] = 1
    np.save(folder / "n.npy", mask)
    save_file({"NOUN": mask}, folder / "n.safetensors")
    yield from sorted(folder.glob("n.*"))


@cases("lists")
def test_lists(tmp_path: Path, scores: Scores, n: int):
    every, seen = list(lists(tmp_path, scores)), Counter[str]()
    whole = {path: path.read_bytes() for path in every}
    for seed in range(n):
        draw = random.Random(seed)
        path = every[seed % len(every)]
        path.write_bytes(spoiled(whole[path], draw))
        try:
            keys = gl.read_neurons(path, scores)
        except GrammarLensError as error:
            seen[told(error)] += 1
            continue
        seen["read"] += 1
        for neurons in keys.values():
            assert len(neurons), seed
            assert len(set(neurons)) == len(neurons), seed
            n_layers, n_units = scores.values.shape[1:]
            assert all(0 <= la < n_layers and 0 <= i < n_units for la, i in neurons), seed
    print(f"{n} lists of neurons: {dict(seen)}")
    assert min(seen["read"], seen["refused"]) > n / 20, seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16])
def test_masks_in_types_that_numpy_lacks(tmp_path: Path, scores: Scores, dtype: torch.dtype):
    from safetensors.torch import save_file as save

    mask = torch.zeros(scores.values.shape[1:])
    mask[1, 7] = 1
    save({"NOUN": mask.to(dtype)}, tmp_path / "mask.safetensors")
    assert list(gl.read_neurons(tmp_path / "mask.safetensors", scores)["NOUN"]) == [(1, 7)]


def test_a_huge_mask_is_refused_without_being_read(tmp_path: Path, scores: Scores):
    """4 TB by its header, a file with a hole on the disk."""
    path = tmp_path / "huge.npy"
    header = {"descr": "<f8", "fortran_order": False, "shape": (2, 250_000_000_000)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(4_000_000_000_128)
    with pytest.raises(GrammarLensError, match="has the shape"):
        gl.read_neurons(path, scores)


def test_a_table_whose_lines_end_in_carriage_returns(tmp_path: Path, scores: Scores):
    path = tmp_path / "mac.csv"
    path.write_bytes(b"label,layer,index\rNOUN,1,7\rNOUN,0,3\r")
    assert list(gl.read_neurons(path, scores)["NOUN"]) == [(1, 7), (0, 3)]


@pytest.mark.parametrize("column", ["label", "layer", "score"])
def test_a_table_with_lists_in_it(tmp_path: Path, scores: Scores, column: str):
    table = pd.DataFrame({"label": ["NOUN"], "layer": [1], "index": [7], "score": [0.5]})
    table[column] = [[1, 2]]
    table.to_parquet(tmp_path / "lists.parquet")
    with pytest.raises(GrammarLensError, match=f"row 1: {column} is a list"):
        gl.read_neurons(tmp_path / "lists.parquet", scores)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"NOUN": [[{"9" * 4400}, 1]]}}',
        f'{{"NOUN": [[{"9" * 400}, 1]]}}',
        f'{{"NOUN": ["{"9" * 4400}.1"]}}',
        f'{{"NOUN": {{"{"9" * 4400}": [1]}}}}',
        f"{'9' * 4400}.1\n",
        f"label,layer,index\nNOUN,{'9' * 4400},1\n",
        "[" * 100_000,
        '{"NO\\ud800UN": [[1, 1]], "x": 3}',
        "label,layer,index\nNO\rUN,1,2\n",
    ],
    ids=["digits", "large", "address", "layer", "line", "cell", "brackets", "surrogate", "return"],
)
def test_lists_that_programs_stumble_over(tmp_path: Path, scores: Scores, text: str):
    path = tmp_path / f"n.{'json' if text[0] in '{[' else 'csv' if ',' in text else 'txt'}"
    path.write_text(text, "utf-8")
    with pytest.raises(GrammarLensError):
        gl.read_neurons(path, scores)


# Models ----------------------------------------------------------------------------------------


@cases("models")
def test_model_folders(
    tmp_path: Path, tiny_hf: Callable[[], Any], tiny_tokenizer: Any, tiny: Model, n: int
):
    """One file of a model folder is damaged: weights, configuration or tokenizer."""
    whole, seen = tmp_path / "whole", Counter[str]()
    tiny_hf().save_pretrained(whole)
    tiny_tokenizer.save_pretrained(whole)
    names = sorted(p.name for p in whole.iterdir())
    ids = torch.tensor([[0, 5, 6, 7]])
    want = next_token_logits(tiny, ids, torch.arange(4))
    for seed in range(n):
        draw = random.Random(seed)
        folder = Path(shutil.copytree(whole, tmp_path / "model"))
        name = draw.choice(names)
        (folder / name).write_bytes(spoiled((whole / name).read_bytes(), draw))
        try:
            model = load_model(folder)
            logits = next_token_logits(model, ids, torch.arange(4))
        except GrammarLensError as error:
            seen[told(error)] += 1
        else:
            seen["loaded"] += 1
            if name.startswith("tokenizer") or name == "generation_config.json":
                torch.testing.assert_close(logits, want)
        shutil.rmtree(folder)
    print(f"{n} model folders: {dict(seen)}")
    assert seen["refused"] > n / 5, seen


def test_an_option_that_is_no_text(made: Path):
    code, _, err = call("select", made, "--from", "\udcff.csv", "--quiet")
    assert (code, "no UTF-8 text" in err, err.count("\n")) == (2, True, 1)
