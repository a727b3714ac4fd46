"""The lesion study and the lesions by layer run at tiny sizes, go on after Ctrl-C, and refuse bad files."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import lesion_study
import numpy as np
import pandas as pd
import pytest
import torch
from scripts import run_script

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.dissociation import grown_shams
from grammar_lens.lesions.store import Store

ROOT = Path(__file__).parents[2]
TAGS = ("NOUN", "VERB", "PRON")
TABLES = (
    "studies",
    "ablations",
    "matrix",
    "pairs",
    "values",
    "doses",
    "sufficiency",
    "calibration",
    "redundancy",
    "key_neurons",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def one_round() -> Iterator[None]:
    """Damage need not be matched well here, and trying sizes takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grown_shams, "ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with few-train, few-test, and few-dev, which has no pronouns."""
    folder = tmp_path_factory.mktemp("few")
    embedded = files("grammar_lens") / "embedded" / "treebank"
    train, test = (
        (embedded / f"handmade-{split}.conllu").read_text("utf-8").split("\n\n")
        for split in ("train", "test")
    )
    others = [block for block in test[20:] if "\tPRON\t" not in block]
    for split, blocks in (("train", train[:60]), ("test", test[:8]), ("dev", others[:5])):
        (folder / f"few-{split}.conllu").write_text("\n\n".join(blocks) + "\n\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def sources(words: Path, tiny_folder: Path) -> dict[str, Any]:
    """Model and words."""
    return {
        "model": str(tiny_folder),
        "train": f"{words}:train",
        "fresh": f"{words}:test",
        "cut": ",".join(TAGS),
    }


@pytest.fixture(scope="module")
def flags(words: Path, sources: dict[str, Any]) -> dict[str, Any]:
    """Settings of lesion_study that take seconds."""
    return {
        **sources,
        "domains": f"{words}:dev",
        "k": 3,
        "shams": 2,
        "values": "mean,zero,resample_within",
        "doses": "1,0.5,2",
        "other_shams": 1,
        "damage_matched": 1,
        "domain_shams": 1,
        "single_neurons": 5,
        "rounds": 2,
        "round_words": 100,
        "check_sentences": 5,
        "token_budget": 500,
    }


@pytest.fixture(scope="module")
def done(flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study that was not interrupted."""
    out = tmp_path_factory.mktemp("done") / "deep" / "results"
    lesion_study.main(lesion_study.Config(**flags, out=out))
    return out


class TestLesionStudy:
    def test_every_score_and_domain_has_its_row(self, done: Path) -> None:
        studies = pd.read_csv(done / "studies.csv")
        scores = ["attribution_contrast", "correlation"]
        assert studies.score.tolist() == [scores[0]] * 2 + [scores[1]] * 2
        assert studies.domain.tolist() == ["fresh", "domain-1"] * 2
        assert studies.labels[0] == "NOUN VERB PRON"
        assert studies.labels[1] == "NOUN VERB", "the domain has no pronouns"
        assert studies.shams.tolist() == [2, 1, 2, 1]
        assert studies.p[[0, 2]].between(1 / 3 - 1e-9, 1).all()
        assert studies.p[[1, 3]].isna().all(), "two labels have no pattern"
        np.testing.assert_allclose(studies.S, studies.diagonal - studies.off_diagonal, rtol=1e-9)
        assert (studies.identity_error < 1e-9).all()
        main = studies[studies.domain == "fresh"]
        assert (main.matched_shams == 1).all()
        assert (main.loc[:, ["matched_p", "slope_p", "sufficiency_p"]].to_numpy(float) >= 0).all()
        assert studies[studies.domain == "domain-1"].matched_p.isna().all()

    def test_tables_agree_with_each_other(self, done: Path) -> None:
        table = {name: pd.read_csv(done / f"{name}.csv") for name in TABLES}
        matrix = table["matrix"].query("value == 'mean' and dose == 1 and where == 'every'")
        own = matrix.query("lesion == label").groupby(["score", "domain"]).tag_loss_change.mean()
        found = table["studies"].set_index(["score", "domain"]).diagonal
        np.testing.assert_allclose(own[found.index], found, rtol=1e-9)
        ablations = table["ablations"].query("score == 'correlation' and domain == 'fresh'")
        assert list(zip(ablations.value, ablations.dose, ablations["where"], strict=True)) == [
            ("mean", 1.0, "every"),
            ("zero", 1.0, "every"),
            ("resample_within", 1.0, "every"),
            ("mean", 0.5, "every"),
            ("mean", 2.0, "every"),
            ("mean", 1.0, "scored"),
        ]
        assert ablations.shams.tolist() == [2, 1, 1, 1, 1, 1]
        n = 2 * len(TAGS)
        assert len(table["doses"]) == n * 4, "doses 0, .5, 1 and 2"
        assert table["doses"].query("dose == 0").own.eq(0).all()
        assert len(table["values"]) == n * 3
        assert len(table["sufficiency"]) == n
        assert len(table["calibration"]) == n
        assert len(table["redundancy"]) == n * 2
        assert set(table["key_neurons"][["by", "label"]].value_counts()) == {3}
        assert list(table["pairs"])[:5] == ["score", "domain", "shams", "first", "second"]

    def test_verdicts_stand_side_by_side(self, done: Path) -> None:
        lines = (done / "verdicts.md").read_text("utf-8").splitlines()
        assert lines[2] == "|  | attribution_contrast | correlation |"
        assert len(lines) == 8, "a heading, two studies, two checks"
        for line, told in zip(
            lines[4:], ("Cutting", "Cutting", "Over 5", "Cut again"), strict=True
        ):
            cells = line.split(" | ")
            assert len(cells) == 3
            assert all(cell.startswith(told) for cell in cells[1:])

    def test_the_page_opens_without_a_network(self, done: Path) -> None:
        page = (done / "lesion_study.html").read_text("utf-8")
        assert not re.search(r"<script[^>]*src=", page)
        for score in ("attribution_contrast", "correlation"):
            shown = re.findall(rf'<div id="{score}-([\w-]+)"', page)
            study = ["matrix", "null", "damage-matched", "doses", "values", "auroc", "sufficiency"]
            assert [f"fresh-{name}" for name in study] == [x for x in shown if "fresh" in x]
            assert [x for x in shown if "domain" in x] == [
                f"domain-1-{name}" for name in ("matrix", "auroc")
            ]
            assert shown[-2:] == ["calibration", "redundancy"]

    def test_run_json_and_the_words_of_real_lesions(self, done: Path) -> None:
        record = json.loads((done / "run.json").read_text("utf-8"))
        assert record["experiment"] == "lesion_study"
        assert record["finished"] is True
        assert record["model"]["name"] == "tiny"
        assert set(record["treebank"]) == {"train", "fresh", "check", "domain-1"}
        assert record["treebank"]["check"]["sentences"] == 5
        assert len(record["parts"]) == 8
        folder = done / "correlation" / "fresh"
        lesions = pd.read_parquet(folder / "lesions.parquet")
        assert lesions.replicate.eq(0).all()
        assert not (folder / "battery").exists()
        matrix = pd.read_csv(done / "matrix.csv").query(
            "score == 'correlation' and domain == 'fresh' and value == 'zero' and lesion == 'VERB'"
        )
        loss = lesions.query("label == 'PRON'")
        cut = loss.query("lesion == 'VERB' and value == 'zero'").tag_loss.mean()
        intact = loss.query("kind == ''").tag_loss.mean()
        stored = matrix.set_index("label").tag_loss_change["PRON"]
        np.testing.assert_allclose(cut - intact, stored, atol=1e-5)  # the words are float32

    def test_resumed_after_interruptions_it_gives_the_same_tables(
        self,
        flags: dict[str, Any],
        done: Path,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out"
        shutil.copytree(done, out)
        for part in ("fresh", "redundancy"):
            shutil.rmtree(out / "attribution_contrast" / part)
        for name in TABLES:
            (out / f"{name}.csv").unlink()
        config = lesion_study.Config(**flags, out=out, resume=True)
        battery = out / "attribution_contrast" / "fresh" / "battery" / "sample"
        finish, batches = Store.finish, []

        def counted(store: Store, batch: int) -> None:
            finish(store, batch)
            if store._folder == battery:
                batches.append(batch)
                if len(batches) == 2:
                    raise KeyboardInterrupt

        monkeypatch.setattr(Store, "finish", counted)
        monkeypatch.setattr(
            lesion_study, "page_of_studies", lambda *_: ""
        )  # drawing is tested above
        with pytest.raises(KeyboardInterrupt):
            lesion_study.main(config)
        assert (battery / "done.json").is_file()
        assert not (out / "studies.csv").exists()

        find_again = gl.find_again
        monkeypatch.setattr(gl, "find_again", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lesion_study.main(config)
        assert len(batches) == len(set(batches)) > 2, "no batch of the battery was read twice"
        monkeypatch.setattr(gl, "find_again", find_again)
        capsys.readouterr()

        lesion_study.main(config)
        told = capsys.readouterr().out
        assert "part 2 of 8: attribution_contrast, calibration (done before)" in told
        assert "part 3 of 8: attribution_contrast, redundancy\n" in told
        for name in TABLES:
            assert (out / f"{name}.csv").read_text() == (done / f"{name}.csv").read_text(), name
        assert (out / "verdicts.md").read_text() == (done / "verdicts.md").read_text()

    def test_ctrl_c_says_how_to_go_on(
        self,
        flags: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(gl, "lesion_study", interrupt)
        assert (
            run_script(monkeypatch, "experiments/lesion_study.py", {**flags, "out": tmp_path / "o"})
            == 130
        )
        assert "run again with --resume" in capsys.readouterr().err
        assert json.loads((tmp_path / "o" / "run.json").read_text())["finished"] is False

    def test_a_study_is_not_begun_over_another(
        self, flags: dict[str, Any], done: Path, tmp_path: Path, words: Path
    ) -> None:
        def again(**other: Any) -> None:
            lesion_study.main(lesion_study.Config(**{**flags, **other}, out=done))

        with pytest.raises(ValueError, match="holds a study already: add --resume to continue"):
            again()
        with pytest.raises(ValueError, match="was begun with k 3, not 4: repeat the settings"):
            again(resume=True, k=4)
        changed = tmp_path / "few-dev.conllu"
        changed.write_text((words / "few-test.conllu").read_text("utf-8"), "utf-8")
        before = (words / "few-dev.conllu").read_text("utf-8")
        try:
            (words / "few-dev.conllu").write_text(changed.read_text("utf-8"), "utf-8")
            with pytest.raises(ValueError, match="was begun with domain-1"):
                again(resume=True)
        finally:
            (words / "few-dev.conllu").write_text(before, "utf-8")
        (tmp_path / "thesis.txt").write_text("precious")
        with pytest.raises(ValueError, match="holds something else: choose another --out"):
            lesion_study.main(lesion_study.Config(**flags, out=tmp_path))

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"rounds": 1}, "rounds is 1, expected 2 or more"),
            ({"single_neurons": 2}, "single_neurons is 2, expected 3 or more"),
            ({"scores": "auroc"}, "scores is 'auroc', expected one of correlation"),
            ({"scores": ""}, "scores is '', expected one of correlation"),
            ({"values": "zero,nought"}, "values is 'nought', expected one of zero, mean"),
            ({"where": "nowhere"}, "where is 'nowhere', expected one of every, scored"),
            ({"doses": "half"}, "doses is 'half', expected numbers separated by commas"),
            ({"cut": "NOUN,ZZZ"}, "cut is 'ZZZ', expected one of"),
            ({"cut": "NOUN,PRON"}, "has words of is 1, expected 2 or more"),
            ({"fresh": "nowhere.conllu"}, "no treebank at"),
        ],
    )
    def test_bad_settings_are_told_before_the_work(
        self,
        bad: dict[str, Any],
        message: str,
        flags: dict[str, Any],
        refusal: Callable[..., str],
        tmp_path: Path,
    ) -> None:
        assert message in refusal("experiments/lesion_study.py", {**flags, **bad})
        assert not (tmp_path / "out").exists()


def interrupt(*_: object, **__: Any) -> None:
    raise KeyboardInterrupt


class TestConfigurationFile:
    def test_flags_beat_the_file_and_the_file_beats_the_defaults(
        self,
        sources: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        file = tmp_path / "study.toml"
        file.write_text(
            f'cut = {json.dumps(TAGS)}\ndoses = [2, 0.5]\nvalues = "zero"\nk = 4\nshams = 1\n'
            f'sufficiency = false\nscores = "correlation"\nout = "{tmp_path / "wrong"}"\n'
        )
        monkeypatch.setattr(gl, "lesion_study", interrupt)
        given: dict[str, Any] = {x: sources[x] for x in ("model", "train", "fresh")}
        given |= {"k": 3, "out": tmp_path / "right", "config": file}
        assert run_script(monkeypatch, "experiments/lesion_study.py", given) == 130
        assert not (tmp_path / "wrong").exists()
        config = json.loads((tmp_path / "right" / "run.json").read_text("utf-8"))["config"]
        assert config["k"] == 3, "the flag"
        assert (config["shams"], config["sufficiency"]) == (1, False)
        assert (config["cut"], config["doses"], config["values"]) == (
            ",".join(TAGS),
            "2,0.5",
            "zero",
        )
        assert config["rounds"] == 3, "the default"
        assert config["config"] == str(file)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("k = 3\nsham = 5\n", "study.toml: 'sham' is no setting: expected one of"),
            ("[lesion]\nk = 3\n", "study.toml: 'lesion' is no setting"),
            ("resume = true\n", "study.toml: 'resume' is no setting"),
            ('k = "ten"\n', "Invalid value for '--k'"),
            ("k = 3.5\n", "Invalid value for '--k'"),
            ("k = true\n", "Invalid value for '--k'"),
            ("round_words = true\n", "Invalid value for '--round-words'"),
            ('sufficiency = "half"\n', "Invalid value for '--sufficiency'"),
            ("k = 3\nshams =\n", "study.toml is no TOML: Invalid value (at line 2"),
        ],
    )
    def test_a_file_with_an_error_is_refused(
        self,
        text: str,
        message: str,
        refusal: Callable[..., str],
        tmp_path: Path,
    ) -> None:
        (tmp_path / "study.toml").write_text(text)
        given = {"config": tmp_path / "study.toml"}
        assert message in refusal("experiments/lesion_study.py", given)
        assert not (tmp_path / "out").exists()

    def test_a_missing_file_is_named(self, refusal: Callable[..., str], tmp_path: Path) -> None:
        given = {"config": tmp_path / "none.toml"}
        assert "none.toml" in refusal("experiments/lesion_study.py", given)

    @pytest.mark.parametrize("name", ["ewt", "quick"])
    def test_the_files_that_come_with_the_project_are_sound(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = ROOT / "experiments" / "configs" / f"{name}.toml"
        monkeypatch.setattr(sys, "argv", ["lesion_study.py", "--config", str(path)])
        read: list[Any] = []
        with pytest.raises(SystemExit):
            start_page(read.append, lesion_study.Config, "")
        (config,) = read
        config.check()
        if name == "ewt":
            assert (config.k, config.shams, config.domain_shams) == (100, 100, 19)
            assert config.cut == "NOUN,VERB,ADJ,ADV,PRON,DET,ADP,AUX"
            assert [m.dose for m in config.ablations[1:]] == [1, 1, 1, 0.25, 0.5, 0.75, -1, 2, 1]

    @pytest.mark.slow
    def test_the_quick_study(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = ROOT / "experiments" / "configs" / "quick.toml"
        given: dict[str, Any] = {"config": path, "out": tmp_path / "out"}
        assert run_script(monkeypatch, "experiments/lesion_study.py", given) == 0
        studies = pd.read_csv(tmp_path / "out" / "studies.csv").set_index("score")
        assert (studies.S > 0.05).all()
        assert studies.p["attribution_contrast"] == pytest.approx(0.05)
