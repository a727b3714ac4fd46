"""Help texts of the command line: purposes, examples, exit codes, completion, one-line errors."""

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import shellingham
from typer.main import get_command
from typer.testing import CliRunner

import grammar_lens
from grammar_lens.cli.app import app

GROUP: Any = get_command(app)
HEAVY = ("torch", "numpy", "pandas", "scipy", "sklearn", "transformers", "plotly", "dash")


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="grammar-lens")
    return result.exit_code, result.stdout, result.stderr


def examples_of(name: str) -> list[str]:
    text = GROUP.commands[name].epilog.replace("\\[", "[")
    return re.findall(r"grammar-lens .*", text)


class TestHelp:
    @pytest.mark.parametrize("name", GROUP.commands)
    def test_a_purpose_and_examples(self, name: str) -> None:
        code, out, err = call(name, "--help")
        assert (code, err) == (0, "")
        purpose = GROUP.commands[name].help.partition("\n")[0]
        assert purpose.endswith((".", ":"))
        assert len(purpose) < 110
        assert " ".join(purpose.split()[:3]) in out
        assert "Examples:" in out
        assert examples_of(name)

    @pytest.mark.parametrize("name", GROUP.commands)
    def test_examples_are_valid(self, name: str) -> None:
        """Parsed as a shell and the command would, without running anything."""
        for example in examples_of(name):
            program, command, *arguments = shlex.split(example)
            assert (program, command) == ("grammar-lens", name)
            without_file = _without_config(arguments)
            with GROUP.make_context("grammar-lens", [], resilient_parsing=True) as root:
                GROUP.commands[name].make_context(name, without_file, parent=root)

    def test_exit_codes(self) -> None:
        code, out, _ = call("--help")
        assert code == 0
        flat = " ".join(out.split())
        assert "Exit codes: 0 done; 1 an unexpected error" in flat
        assert "130 stopped by Ctrl-C" in flat

    def test_version(self) -> None:
        assert call("--version") == (0, f"grammar-lens {grammar_lens.__version__}\n", "")

    def test_nothing_asked_is_help(self) -> None:
        assert call() == call("--help")


def _without_config(arguments: list[str]) -> list[str]:
    """The file that an example names is the reader's."""
    if "--config" not in arguments:
        return arguments
    at = arguments.index("--config")
    return arguments[:at] + arguments[at + 2 :]


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["rnu"], "No such command 'rnu'. Did you mean 'run'? (see `grammar-lens --help`)"),
            (["run", "--modle", "x"], "No such option: --modle (Possible options: --model"),
            (["run", "--top-k", "x"], "'--top-k': Input should be a valid integer, unable to parse string as an integer, got 'x' (see `grammar-lens run --help`)"),
            (["score"], "Missing argument 'RUN' (see `grammar-lens score --help`)"),
            (["score", "a", "b"], "unexpected extra argument(s) (b): score takes RUN (see"),
            (["generate", "a", "The"], "generate takes RUN; a text is given with --prompt"),
            (["run", "a", "--out", "b"], "RUN is a and --out is b: give one of the two"),
            (["plan", "a", "b"], "plan takes [RUN] (see"),
            (["export", "a"], "Missing option '--to'"),
            (["score", "nowhere"], "nowhere is no run directory (it has no run.json)"),
            (["report", "nowhere", "--json"], "nowhere is no run directory (it has no run.json)"),
        ],
    )  # fmt: skip
    def test_one_line_and_code_2(self, arguments: list[str], told: str) -> None:
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert told in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize("before", [[], ["--out"]])
    def test_the_run_directory_is_an_argument_or_an_option(
        self, before: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "run.json").write_text("{}")
        code, out, err = call("run", *before, str(tmp_path))
        assert (code, out) == (2, "")
        assert f"{tmp_path} holds a run already" in err

    def test_what_nobody_expected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from grammar_lens.corpus import sources

        def broken(*_args: object, **_options: Any) -> None:
            raise KeyError("a\nb")

        monkeypatch.setattr(sources, "load_treebank", broken)
        code, out, err = call("info")
        assert (code, out) == (1, "")
        assert err.startswith("error: unexpected KeyError: ")
        assert "run again with --verbose" in err
        assert err.count("\n") == 1
        result = CliRunner().invoke(app, ["info", "--verbose"])
        assert isinstance(result.exception, KeyError)

    def test_stopping_says_what_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from grammar_lens import certification
        from grammar_lens.runs import pipeline

        def stopped(*_args: object, **_options: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(pipeline, "run_all", stopped)
        monkeypatch.setattr(certification, "certify", stopped)
        code, _, err = call("run")
        assert (code, err) == (130, "stopped; what was finished is kept: run again with --resume\n")
        code, _, err = call("certify")
        assert (code, err) == (130, "stopped; nothing of it is kept\n")


class TestTalk:
    @pytest.fixture
    def _warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from grammar_lens.corpus import sources

        real = sources.load_treebank

        def noisy(*args: Any, **options: Any) -> Any:
            filters = list(warnings.filters)  # a run of the tests makes errors of them
            warnings.simplefilter("always")
            warnings.warn_explicit("ours", RuntimeWarning, sources.__file__, 1)
            warnings.warn_explicit("theirs", RuntimeWarning, "/lib/other.py", 7)
            warnings.filters = filters
            return real(*args, **options)

        monkeypatch.setattr(sources, "load_treebank", noisy)

    @pytest.mark.usefixtures("_warning")
    def test_warnings_are_a_line_each(self) -> None:
        code, _, err = call("info")
        assert (code, err) == (0, "warning: ours\n")
        code, out, err = call("info", "--json", "--quiet")
        assert (code, err) == (0, "warning: ours\n")
        assert json.loads(out)["embedded model"] == "reference-9m"

    @pytest.mark.usefixtures("_warning")
    def test_verbose_lets_libraries_speak(self) -> None:
        code, _, err = call("info", "--verbose")
        assert code == 0
        assert err == "warning: ours\nwarning: /lib/other.py:7: RuntimeWarning: theirs\n"


def complete(words: str, folder: Path | None = None) -> list[str]:
    """Completions that bash would offer for the last of some words; "" is an empty word."""
    script = (
        "import sys\nfrom grammar_lens.cli import main\n"
        "try: main()\nexcept SystemExit as done: assert not done.code\n"
        f"early = sorted({{n.split('.')[0] for n in sys.modules}} & set({HEAVY!r}))\n"
        "assert not early, early"
    )
    line = f"grammar-lens {words}"
    environment = {
        **os.environ,
        "_GRAMMAR_LENS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - (not line.endswith(" "))),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=folder,
        timeout=120,
    )
    return done.stdout.split()


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "offered"),
        [
            ("ge", ["generate"]),
            ("run --rule f", ["fdr", "frequency"]),
            ("run --score att", ["attribution", "attribution_contrast"]),
            ("lesion x --values res", ["resample", "resample_within"]),
            ("run --position n", ["next"]),
            ("run --label x", ["xpos"]),
            ("run --labels NOUN,PRO", ["NOUN,PRON", "NOUN,PROPN"]),
            ("run --values zero,res", ["zero,resample", "zero,resample_within"]),
            ("export x --format p", ["parquet"]),
            ("run --shar", []),
            ("collect x --shar", ["--shard"]),
        ],
    )
    def test_values(self, words: str, offered: list[str]) -> None:
        assert complete(words) == offered

    def test_run_directories(self, tmp_path: Path) -> None:
        for name in ("runs/one", "runs/two", "other/deep/three", "runs/none", ".hidden/four"):
            (tmp_path / name).mkdir(parents=True)
            if name != "runs/none":
                (tmp_path / name / "run.json").write_text("{}", "utf-8")
        assert complete("score ", tmp_path) == ["other/deep/three", "runs/one", "runs/two"]
        assert complete("compare runs/one runs/t", tmp_path) == ["runs/two"]
        (tmp_path / "runs/one/key_neurons.csv").write_text("label,layer\nVERB,1\nX,2\n", "utf-8")
        assert complete("generate runs/one --lesion ", tmp_path) == ["VERB", "X"]
        assert complete("generate runs/two --lesion NO", tmp_path) == ["NOUN"]
        assert complete("next-word runs/one prompt --lesion ", tmp_path) == ["VERB", "X"]

    def test_the_script_for_the_shell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shellingham, "detect_shell", lambda: ("bash", "/bin/bash"))
        code, out, _ = call("--show-completion")
        assert code == 0
        assert "complete_bash" in out
