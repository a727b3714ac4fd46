"""The experiments on the paper's rule and on languages run at tiny sizes, and answer what is planted."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import across_languages
import numpy as np
import pandas as pd
import pytest
import reproduce_paper
import torch
from architectures import shake
from scripts import run_script
from small_runs import write_beginnings
from transformers import LlamaForCausalLM

import grammar_lens as gl
from grammar_lens.corpus.corpus import prepare
from grammar_lens.corpus.sources import load_treebank

ROOT = Path(__file__).parents[2]
TAGS = ("NOUN", "VERB", "PRON", "DET")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the beginnings of the embedded treebank, as few-train and few-test."""
    folder = tmp_path_factory.mktemp("few")
    write_beginnings(folder, train=100, test=60)
    return folder


@pytest.fixture(scope="module")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> Path:
    """A random model of three layers of 48 neurons, as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(tiny_hf, tiny_tokenizer, folder)
    return folder


def save(tiny_hf: Callable[[], Any], tiny_tokenizer: Any, folder: Path, n_layers: int = 3) -> None:
    config = tiny_hf().config
    config.num_hidden_layers = n_layers
    model = LlamaForCausalLM(config)
    shake(model)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)


class TestReproducePaper:
    @pytest.fixture
    def flags(self, words: Path, tiny_folder: Path) -> dict[str, Any]:
        return {
            "model": str(tiny_folder),
            "train": f"{words}:train",
            "fresh": f"{words}:test",
            "tags": ",".join(TAGS),
            "samples": 2,
            "max_words": 90,
            "steps": 2,
            "k": 5,
        }

    def test_numbers_and_figure_are_written(
        self, flags: dict[str, Any], tmp_path: Path, capsys: Any
    ) -> None:
        out = tmp_path / "deep" / "results"
        claims = reproduce_paper.main(reproduce_paper.Config(**flags, out=out))
        printed = capsys.readouterr().out
        assert "sample 1: " in printed
        assert "accuracy is over 85 %" in printed
        assert set(claims.holds) <= {"yes", "no", "undecided"}
        assert (claims.low <= claims.found).all()
        assert (claims.found <= claims.high).all()

        samples = pd.read_csv(out / "samples.csv")
        assert samples.words.between(40, 90).all()
        assert np.isfinite(samples).all(axis=None)
        keys = pd.read_csv(out / "key_neurons.csv")
        assert keys.groupby(["sample", "label", "layer"]).size().max() <= 5
        for number, mine in keys.groupby("sample"):
            distinct = len(mine[["layer", "index"]].drop_duplicates())
            assert samples.union[number] == distinct
            assert samples.union_share[number] == pytest.approx(distinct / 144)
            assert samples.distinct_share[number] == pytest.approx(distinct / len(mine))
        shares = samples[[f"kept_{x}" for x in ("first", "middle", "last")]]
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)

        beside = pd.read_csv(out / "paper.csv").set_index("quantity")
        assert beside.found["distinct key neurons"] == pytest.approx(samples.union.mean())
        assert "5,228" in beside.paper["distinct key neurons"]
        layers = pd.read_csv(out / "layers.csv")
        assert len(layers) == 2 * 2 * 3, "samples x classifiers x layers"
        curve = pd.read_csv(out / "curve.csv")
        assert set(curve.score) == {"kept", "random"}
        html = (out / "reproduce_paper.html").read_text("utf-8")
        assert "the paper" in html
        assert not re.search(r"<script[^>]*src=", html), "the figure opens without a network"
        record = json.loads((out / "run.json").read_text("utf-8"))
        assert record["experiment"] == "reproduce_paper"
        assert record["config"]["steps"] == 2
        assert record["labels"] == list(TAGS)

    def test_every_unknown_is_a_flag(
        self, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], tmp_path: Path
    ) -> None:
        given: dict[str, Any] = {
            **flags,
            "target": "log_probability",
            "joint": True,
            "top_by": "size",
            "top_per_layer": True,
            "per_layer": False,
            "chi_squared": 0.9,
            "position": "word",
            "out": tmp_path,
        }
        assert run_script(monkeypatch, "experiments/reproduce_paper.py", given) == 0
        keys = pd.read_csv(tmp_path / "key_neurons.csv")
        assert keys.groupby(["sample", "label"]).size().max() <= 5, "5 per tag, not per layer"
        config = json.loads((tmp_path / "run.json").read_text("utf-8"))["config"]
        assert {config[x] for x in ("joint", "top_per_layer")} == {True}
        samples = pd.read_csv(tmp_path / "samples.csv")
        # that share of every layer is kept, so the layers cannot differ
        np.testing.assert_allclose(samples.kept_first, 1 / 3, atol=0.05)

    def test_samples_share_no_sentence(self, flags: dict[str, Any]) -> None:
        model = gl.load_model(flags["model"])
        corpus = prepare(model, load_treebank(flags["train"], label="upos"), labels=TAGS)
        parts = reproduce_paper.disjoint(corpus, reproduce_paper.Config(samples=3))
        drawn = [set(corpus.alignment.sentence[part.classes >= 0].tolist()) for part in parts]
        assert all(drawn)
        assert sum(map(len, drawn)) == len(set.union(*drawn))
        together = np.max([part.classes for part in parts], axis=0)
        np.testing.assert_array_equal(together, corpus.classes)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"samples": 1}, "--samples is 1, expected 2 or more"),
            ({"tags": "NOUN,ZZZ"}, "'ZZZ'"),
            ({"samples": 60, "max_words": 8}, "has no word of"),
            ({"top_by": "luck"}, "top_by is 'luck', expected one of value, size"),
            ({"target": "logit"}, "target is 'logit'"),
            ({"k": 49}, "k is 49, expected 1 to 48"),
            ({"train": "nowhere.conllu"}, "no treebank at"),
        ],
    )
    def test_bad_input_is_one_line_and_code_2(
        self,
        bad: dict[str, Any],
        message: str,
        flags: dict[str, Any],
        refusal: Callable[..., str],
    ) -> None:
        assert message in refusal("experiments/reproduce_paper.py", {**flags, **bad})

    def test_other_results_are_left_alone(self, flags: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("precious")
        with pytest.raises(ValueError, match="holds something else: choose another --out"):
            reproduce_paper.main(reproduce_paper.Config(**flags, out=tmp_path))
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


class TestAcrossLanguages:
    @pytest.fixture
    def flags(self, words: Path, tiny_folder: Path) -> dict[str, Any]:
        return {
            "models": f"{tiny_folder}",
            "treebanks": f"one={words}:train,other={words}:test",
            "k": 8,
            "min_words": 20,
            "replicates": 20,
            "bins": 3,
        }

    def test_the_same_language_twice_agrees_up_to_its_ceiling(
        self, flags: dict[str, Any], tmp_path: Path, capsys: Any
    ) -> None:
        given: dict[str, Any] = {**flags, "models": "reference-9m", "k": 50, "min_words": 40}
        table = across_languages.main(across_languages.Config(**given, out=tmp_path))
        assert "means over tags" in capsys.readouterr().out
        stored = pd.read_csv(tmp_path / "agreement.csv")
        pd.testing.assert_frame_equal(stored, table, check_dtype=False, rtol=1e-12)
        assert list(table["first"].unique()) == ["one"]
        means = table.select_dtypes("number").mean()
        assert means.ceiling_correlation > 0.3
        # two samples of one language: as alike as two halves of either, far above exchanged labels
        assert means.half_correlation == pytest.approx(means.ceiling_correlation, abs=0.15)
        assert abs(means.sham_correlation) < 0.15
        assert means.half_coefficient > means.sham_coefficient

    def test_depth_and_provenance(self, flags: dict[str, Any], tmp_path: Path) -> None:
        across_languages.main(across_languages.Config(**flags, out=tmp_path))
        depths = pd.read_csv(tmp_path / "depth.csv")
        assert list(depths.bin.unique()) == [0, 1, 2]
        sums = depths.groupby(["treebank", "label"])["share"].sum()
        np.testing.assert_allclose(np.asarray(sums), 1, rtol=1e-12)
        assert (depths.null_low <= depths.null_high).all()
        np.testing.assert_allclose(depths.expected_share, 1 / 3, rtol=1e-12)
        assert pd.read_csv(tmp_path / "models.csv").empty, "one model has no pair"
        record = json.loads((tmp_path / "run.json").read_text("utf-8"))
        assert set(record["treebanks"]) == {"one", "other"}
        assert record["models"][0]["name"] == "tiny"
        html = (tmp_path / "across_languages.html").read_text("utf-8")
        assert "two halves of one" in html
        assert not re.search(r"<script[^>]*src=", html), "the figure opens without a network"

    def test_two_models(
        self,
        flags: dict[str, Any],
        tiny_folder: Path,
        tiny_hf: Callable[[], Any],
        tiny_tokenizer: Any,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        second = tmp_path / "second"
        save(tiny_hf, tiny_tokenizer, second, n_layers=4)
        given: dict[str, Any] = {
            **flags,
            "models": f"{tiny_folder},{second}",
            "out": tmp_path / "out",
        }
        assert run_script(monkeypatch, "experiments/across_languages.py", given) == 0
        models = pd.read_csv(tmp_path / "out" / "models.csv")
        assert (models["first"][0], models.second[0]) == ("tiny", "second")
        assert 0 <= models.same_bin[0] <= 1
        words = pd.read_csv(tmp_path / "out" / "words.csv")
        assert len(words) == 4

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"treebanks": "en=embedded:train"}, "expected NAME=SOURCE, two or more"),
            ({"treebanks": "embedded:train,embedded:test"}, "expected NAME=SOURCE, two or more"),
            ({"treebanks": "a=embedded:train,a=embedded:test"}, "with different names"),
            ({"min_words": 100_000}, "0 tags have 100000 words or more in each of one, other"),
            ({"replicates": 0}, "has no null: collect with replicates"),
            ({"bins": 4}, "4 bins of depth for 3 layers: expected 1 to 3"),
            ({"k": 145}, "k is 145, expected 1 to 144"),
        ],
    )
    def test_bad_input_is_one_line_and_code_2(
        self,
        bad: dict[str, Any],
        message: str,
        flags: dict[str, Any],
        refusal: Callable[..., str],
    ) -> None:
        assert message in refusal("experiments/across_languages.py", {**flags, **bad})

    def test_other_results_are_left_alone(self, flags: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("precious")
        with pytest.raises(ValueError, match="holds something else: choose another --out"):
            across_languages.main(across_languages.Config(**flags, out=tmp_path))
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
