"""The experiment pages and the benchmarks run at tiny sizes and say what is wrong with bad input."""

import importlib.util
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import layer_by_layer
import numpy as np
import pandas as pd
import pytest
import torch
from scripts import run_script
from small_runs import write_beginnings

import grammar_lens as gl
from grammar_lens.model.about import Model
from grammar_lens.runs.pipeline import run_all
from grammar_lens.runs.settings import Config

ROOT = Path(__file__).parents[2]
TAGS = ("NOUN", "VERB", "PRON", "DET")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread; benchmarks set one themselves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def import_page(folder: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"page_{name}", ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a benchmark as its command line would: with its folder on the path."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return lambda name: import_page("benchmarks", name)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the beginnings of the embedded treebank, as few-train and few-test."""
    folder = tmp_path_factory.mktemp("few")
    write_beginnings(folder, train=80, test=40)
    return folder


@pytest.fixture
def flags(words: Path, tiny_folder: Path) -> dict[str, Any]:
    """Settings of layer_by_layer that take a second or two."""
    return {
        "model": str(tiny_folder),
        "train": f"{words}:train",
        "fresh": f"{words}:test",
        "labels": ",".join(TAGS),
        "cut": ",".join(TAGS),
        "k": 3,
        "shams": 2,
        "max_sentences": 15,
    }


class TestLayerByLayer:
    def test_numbers_and_figure_are_written(
        self, flags: dict[str, Any], tmp_path: Path, capsys: Any
    ) -> None:
        out = tmp_path / "deep" / "results"
        layers = layer_by_layer.main(layer_by_layer.Config(**flags, out=out))
        told = capsys.readouterr()
        assert "layer 1: best" in told.out
        assert "same neurons" not in told.err
        assert list(layers.layer) == [0, 1]
        accuracies = layers[[c for c in layers.columns if c.endswith("accuracy")]]
        assert ((accuracies >= 0) & (accuracies <= 1)).all(axis=None)
        assert layers.best_score.abs().between(0, 1).all()
        assert layers.p.between(1 / 3 - 1e-9, 1).all()
        assert np.isfinite(layers.select_dtypes("number")).all(axis=None)
        assert (layers.n_neurons <= 3 * len(TAGS)).all()

        stored = pd.read_csv(out / "layers.csv")
        pd.testing.assert_frame_equal(stored, layers, check_dtype=False, rtol=1e-12)
        lesions = pd.read_csv(out / "lesions.csv")
        assert len(lesions) == 2 * len(TAGS) ** 2
        own = lesions[lesions.lesion == lesions.label].groupby("layer").tag_loss_change.mean()
        other = lesions[lesions.lesion != lesions.label].groupby("layer").sham_mean.mean()
        np.testing.assert_allclose(own, layers.diagonal, rtol=1e-9)
        np.testing.assert_allclose(other, layers.sham_off_diagonal, rtol=1e-9)
        selectivity = pd.read_csv(out / "selectivity.csv")
        assert len(selectivity) == 2 * len(TAGS)
        assert selectivity.rms_score.between(0, 1).all()
        assert (selectivity.rms_score <= selectivity.best_score.abs()).all()
        assert selectivity.best_neuron.between(0, 47).all()
        html = (out / "layer_by_layer.html").read_text("utf-8")
        assert "random neurons of the layer" in html
        assert not re.search(r"<script[^>]*src=", html), "the figure opens without a network"

    def test_two_labels_of_the_same_neurons_are_told(
        self, flags: dict[str, Any], tmp_path: Path, capsys: Any
    ) -> None:
        """The correlation with one of two labels is that with the other, but for its sign."""
        two = {**flags, "labels": "NOUN,VERB", "cut": "NOUN,VERB"}
        layer_by_layer.main(layer_by_layer.Config(**two, out=tmp_path))
        assert "NOUN and VERB have the same neurons" in capsys.readouterr().err

    def test_run_json_says_where_the_numbers_come_from(
        self, flags: dict[str, Any], tmp_path: Path
    ) -> None:
        layer_by_layer.main(layer_by_layer.Config(**flags, out=tmp_path, seed=3))
        record = json.loads((tmp_path / "run.json").read_text("utf-8"))
        assert record["experiment"] == "layer_by_layer"
        assert record["seed"] == record["config"]["seed"] == 3
        assert record["config"]["train"] == flags["train"]
        assert record["dirty"] in (True, False, None)
        assert record["model"]["name"] == "tiny"
        assert record["treebank"]["lesioned"]["sentences"] == 15
        assert record["treebank"]["train"]["fingerprint"]
        assert record["labels"] == list(TAGS)
        assert "torch" in record["versions"]

    def test_a_second_run_replaces_the_first(self, flags: dict[str, Any], tmp_path: Path) -> None:
        layer_by_layer.main(layer_by_layer.Config(**flags, out=tmp_path))
        first = (tmp_path / "layers.csv").read_text()
        layer_by_layer.main(layer_by_layer.Config(**flags, out=tmp_path))
        assert (tmp_path / "layers.csv").read_text() == first
        layer_by_layer.main(layer_by_layer.Config(**{**flags, "k": 2, "shams": 0}, out=tmp_path))
        layers = pd.read_csv(tmp_path / "layers.csv")
        assert layers.n_neurons.max() <= 2 * len(TAGS)
        assert layers.p.isna().all(), "no shams, no p"

    def test_a_folder_with_something_else_is_left_alone(
        self, flags: dict[str, Any], tmp_path: Path
    ) -> None:
        (tmp_path / "thesis.txt").write_text("precious")
        with pytest.raises(ValueError, match="holds something else: choose another --out"):
            layer_by_layer.main(layer_by_layer.Config(**flags, out=tmp_path))
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]

    def test_flags_of_the_command_line(
        self, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], tmp_path: Path
    ) -> None:
        given = {**flags, "out": tmp_path, "position": "word", "score": "cohens_d"}
        assert run_script(monkeypatch, "experiments/layer_by_layer.py", given) == 0
        config = json.loads((tmp_path / "run.json").read_text("utf-8"))["config"]
        assert config["position"] == "word"
        assert config["k"] == 3

    def test_ipython_run(
        self, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], tmp_path: Path
    ) -> None:
        shell_type = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
        monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        shell = shell_type()
        script = ROOT / "experiments" / "layer_by_layer.py"
        given = [f"--{k.replace('_', '-')} {v}" for k, v in flags.items()]
        shell.run_line_magic("run", f"{script} {' '.join(given)} --out {tmp_path / 'out'}")
        assert (tmp_path / "out" / "layers.csv").is_file()
        shell.run_line_magic("run", f"-n {script}")
        assert shell.user_ns["Config"](k=5).k == 5
        assert callable(shell.user_ns["main"])

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"train": "nowhere.conllu"}, "no treebank at 'nowhere.conllu'"),
            ({"score": "magic"}, "score is 'magic'"),
            ({"k": 0}, "k is 0, expected 1 to 48"),
            ({"k": 49}, "k is 49, expected 1 to 48"),
            ({"cut": "NOUN,ZZZ"}, "'ZZZ'"),
            ({"shams": -1}, "shams is -1, expected 0 or more"),
            ({"lesion": "maybe"}, "lesion value is 'maybe'"),
            ({"position": "before"}, "position is 'before'"),
            ({"max_sentences": 0}, "expected 1 sentence or more, got 0"),
            ({"k": "many"}, "--k"),
        ],
    )
    def test_bad_input_is_one_line_and_code_2(
        self,
        bad: dict[str, Any],
        message: str,
        flags: dict[str, Any],
        refusal: Callable[..., str],
    ) -> None:
        assert message in refusal("experiments/layer_by_layer.py", {**flags, **bad})

    def test_fresh_words_equal_to_the_training_words(
        self,
        flags: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        given = {**flags, "fresh": flags["train"], "out": tmp_path / "out"}
        assert run_script(monkeypatch, "experiments/layer_by_layer.py", given) == 2
        assert "also stands in the training data" in capsys.readouterr().err


class TestAblateInteractively:
    SCRIPT = ROOT / "experiments" / "ablate_interactively.py"

    @pytest.mark.usefixtures("few_figures")
    def test_the_walk(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        reference: Model,
        words: Path,
        tiny_folder: Path,
    ) -> None:
        self.make_run(tmp_path / "runs" / "demo", words, tiny_folder)
        whole = gl.load_treebank()
        rare = {"X", "SYM", "INTJ"}
        sentences = []
        for split, n in (("train", 90), ("test", 8)):
            usual = [s for s in whole[split] if not rare & {w.label("upos") for w in s.words}]
            sentences += usual[:n]
        few = replace(
            whole, sentences=tuple(sentences), splits={"train": (0, 90), "test": (90, 98)}
        )
        monkeypatch.setattr(gl, "load_treebank", lambda: few)
        monkeypatch.setattr(gl, "load_model", lambda: reference)
        monkeypatch.chdir(tmp_path)
        left = runpy.run_path(str(self.SCRIPT), run_name="__main__")
        out = capsys.readouterr().out
        written = dict(re.findall(r"^(intact|no VERB|healed) +(.+)$", out, re.MULTILINE))
        doses = dict(re.findall(r"^dose +(\S+) (.+)$", out, re.MULTILINE))
        assert written["intact"] == written["healed"] == doses["0.0"]
        assert written["no VERB"] == doses["1.0"]
        assert len(set(doses.values())) > 1
        assert np.isfinite(left["study"].matrix).all()
        assert left["study"].n_shams == 3
        assert (tmp_path / "results/ablate_interactively/verb_neurons.html").is_file()
        assert len(out.splitlines()) < 85
        assert len(left["best"].top) == 5
        assert all(f" {example.word} " in out for example in left["best"].top)
        assert "Run runs/demo: " in out
        assert re.search(r"^Neuron [01]\.\d+ of tiny", out, re.MULTILINE)
        assert re.search("^half a lesion The old man", out, re.MULTILINE)
        assert re.search("^amplified     The old man", out, re.MULTILINE)

    def make_run(self, out: Path, words: Path, model: Path) -> None:
        """A run without lesions, for the last cell."""
        config = Config(
            model=str(model),
            train=f"{words}:train",
            fresh=f"{words}:test",
            labels=TAGS,
            replicates=0,
            top_k=3,
            probe_k=2,
            values=("none",),
            out=out,
            show_progress=False,
        )
        run_all(config, resume=False, say=lambda _text: None)

    def test_cells_are_short(self) -> None:
        cells = self.SCRIPT.read_text("utf-8").split("\n# %% ")[1:]
        assert len(cells) >= 8
        assert max(len(cell.splitlines()) for cell in cells) <= 12


class TestBenchmarks:
    def test_startup(self, benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
        page = benchmark("startup")
        page.main(page.Config(rounds=1, out=tmp_path / "startup.json"))
        found = json.loads((tmp_path / "startup.json").read_text("utf-8"))
        assert found["help_to_typer_ratio"] > 0
        assert all(row["wall_seconds"] > 0 for row in found["rows"].values())

    def test_lesions(
        self,
        benchmark: Callable[[str], ModuleType],
        words: Path,
        tiny_folder: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        page = benchmark("lesions")
        page.main(
            page.Config(
                treebank=f"{words}:test",
                train=f"{words}:train",
                model=str(tiny_folder),
                k=2,
                shams=1,
                sentences=10,
                rounds=1,
                out=tmp_path / "lesions.json",
            )
        )
        assert "same losses" in capsys.readouterr().out
        found = json.loads((tmp_path / "lesions.json").read_text("utf-8"))
        assert found["rows"]["battery"]["conditions"] == 17
        assert 0 <= found["largest_difference_of_losses"] <= 1e-5
        assert set(found["times_faster_than"]) == {"naive", "lean"}

    def test_collecting(
        self,
        benchmark: Callable[[str], ModuleType],
        words: Path,
        tiny_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        page = benchmark("collecting")
        asked = []

        def remember(_script: str, _config: object, name: str) -> dict[str, float]:
            asked.append(name)
            return {"loaded_mib": 100.0, "peak_mib": 110.0}

        monkeypatch.setattr(page.measure, "in_own_process", remember)
        page.main(
            page.Config(
                treebank=f"{words}:train",
                model=str(tiny_folder),
                rounds=1,
                usual_sentences=8,
                usual_pairs=40,
                check_sentences=30,
                out=tmp_path / "collecting.json",
            )
        )
        out = capsys.readouterr().out
        assert "EXTRAPOLATED from 8 sentences (10.00%)" in out
        peers = ["copied", *(["nnsight"] if importlib.util.find_spec("nnsight") else [])]
        first = ["bare", "layers", "bridge", "collect", "neurons"]
        assert asked == [*first, *peers, "usual", "filtered"]
        found = json.loads((tmp_path / "collecting.json").read_text("utf-8"))
        assert set(found["rows"]) == {*asked, "align", "pass"}
        assert all(row["cpu_seconds"] > 0 for row in found["rows"].values())
        assert all(ratio["ratio"] > 0 for ratio in found["ratios"].values())
        assert found["largest_difference_of_correlations"] < 1e-4
        usual = found["rows"]["usual"]
        assert usual["peak_mib"] > usual["peak_mib_measured"] == 110.0
        scaled = usual["activations_cpu_seconds_measured"] / 0.1
        assert usual["cpu_seconds"] > scaled, "correlations come on top"

    @pytest.mark.slow
    def test_memory_of_one_way_in_its_own_process(
        self, benchmark: Callable[[str], ModuleType], words: Path, tiny_folder: Path
    ) -> None:
        page = benchmark("collecting")
        config = page.Config(treebank=f"{words}:test", model=str(tiny_folder))
        found = page.measure.in_own_process(page.__file__, config, "collect")
        assert 10 < found["loaded_mib"] <= found["peak_mib"] < 20_000

    @pytest.mark.parametrize(
        ("script", "bad", "message"),
        [
            ("collecting", {"treebank": "nowhere.conllu"}, "no treebank at"),
            ("collecting", {"rounds": 0}, "--rounds"),
            ("lesions", {"train": "nowhere.conllu"}, "no treebank at"),
            ("lesions", {"sentences": 0}, "--sentences"),
            ("startup", {"rounds": -1}, "--rounds"),
        ],
    )
    def test_bad_input_is_code_2(
        self,
        script: str,
        bad: dict[str, Any],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        tiny_folder: Path,
        refusal: Callable[..., str],
        tmp_path: Path,
    ) -> None:
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        given = {} if script == "startup" else {"model": tiny_folder}
        assert message in refusal(f"benchmarks/{script}.py", {**given, **bad})
        assert not (tmp_path / "out").exists()
