"""Options: the table that all commands share, and settings from a file."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from grammar_lens.cli import options
from grammar_lens.cli.app import app
from grammar_lens.cli.config_file import KINDS, _options
from grammar_lens.cli.options import SETTINGS, config_fields
from grammar_lens.corpus.corpus import CONTEXTS
from grammar_lens.lesions.outcomes import VALUES, WHERE
from grammar_lens.model.about import SITES
from grammar_lens.neurons.selection import RULES
from grammar_lens.runs import forecast, pipeline
from grammar_lens.runs.settings import Config
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import SIGNS

COMMANDS: dict[str, Any] = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="grammar-lens")
    return result.exit_code, result.stdout, result.stderr


class TestTheTable:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_every_default_is_that_of_a_run(self, name: str) -> None:
        setting = SETTINGS[name]
        field = setting.field or name
        assert config_fields({name: setting.default}) == {field: getattr(Config(), field)}

    def test_every_setting_of_a_run_has_an_option(self) -> None:
        fields = {setting.field or name for name, setting in SETTINGS.items()}
        assert fields == set(Config.__dataclass_fields__) - {"show_progress"}

    def test_known_values_are_those_of_the_package(self) -> None:
        assert tuple(SCORES) == options.SCORES
        assert tuple(SITES) == options.SITES
        assert (RULES, SIGNS, VALUES) == (options.RULES, options.SIGNS, options.VALUES)
        assert (WHERE, CONTEXTS) == (options.WHERE, options.CONTEXTS)

    def test_what_is_not_given_is_left_to_the_run(self) -> None:
        assert config_fields({"shams": None, "dose": 0.0}) == {"dose": 0.0}

    def test_run_and_plan_take_the_same_settings(self) -> None:
        names = {c: {p.name for p in COMMANDS[c].params} for c in ("run", "plan")}
        assert names["plan"] - names["run"] == {"meta", "memory_gib"}
        assert names["run"] - names["plan"] == {"resume"}

    def test_an_option_has_one_type_wherever_it_is(self) -> None:
        """So that a key at the top of a file means the same for all commands."""
        kinds: dict[str, set[Any]] = {}
        for command in COMMANDS.values():
            parameters = inspect.signature(command.callback).parameters
            for param in command.params:
                kind = get_args(parameters[param.name].annotation)[0]
                kinds.setdefault(param.opts[0], set()).add(kind)
        assert {name: k for name, k in kinds.items() if len(k) > 1} == {}

    @pytest.mark.parametrize(
        ("option", "value", "told"),
        [
            ("doses", "1,x", "--doses: expected numbers separated by commas, got '1,x'"),
            ("position", "last", "--position: expected one of word, next, both, got 'last'"),
        ],
    )
    def test_values_that_are_none(self, option: str, value: str, told: str) -> None:
        code, _, err = call("run", f"--{option}", value)
        assert code == 2
        assert err == f"error: Invalid value for {told} (see `grammar-lens run --help`)\n"


@pytest.fixture
def config_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """The settings that a command would work with."""

    class StoppedError(ValueError):
        pass

    def stop(config: Config, *_args: object, **_options: Any) -> None:
        seen.append(config)
        raise StoppedError

    seen: list[Config] = []
    monkeypatch.setattr(pipeline, "run_all", stop)
    monkeypatch.setattr(forecast, "forecast", stop)

    def found(*arguments: object) -> Config:
        seen.clear()
        code, _, err = call(*arguments)
        assert seen, (code, err)
        return seen[0]

    return found


class TestAFile:
    def test_its_values_are_those_of_the_options(
        self, config_of: Callable[..., Config], tmp_path: Path
    ) -> None:
        path = tmp_path / "study.toml"
        path.write_text(
            'train = "a.conllu"\ntop-k = 7\ndoses = [0.5, -1, 2]\nsite = ["neuron", "resid_post"]\n'
            'labels = ["NOUN", "VERB"]\nalpha = 1\nsufficiency = true\nmin_words = 0\n'
            'position = "next"\nout = "there"\n',
            "utf-8",
        )
        config = config_of("run", "--config", path)
        assert (config.train, config.top_k, config.out) == ("a.conllu", 7, Path("there"))
        assert config.doses == (0.5, -1.0, 2.0)
        assert config.sites == ("neuron", "resid_post")
        assert config.labels == ("NOUN", "VERB")
        assert (config.alpha, config.sufficiency, config.min_words) == (1.0, True, None)
        assert config.positions == ("next",)
        assert config.shams == Config().shams

    def test_the_command_line_beats_the_table_and_the_table_the_top(
        self, config_of: Callable[..., Config], tmp_path: Path
    ) -> None:
        path = tmp_path / "study.toml"
        path.write_text("seed = 1\nshams = 1\ntop_k = 1\n[run]\nseed = 2\nshams = 2\n", "utf-8")
        config = config_of("run", "--config", path, "--seed", 3)
        assert (config.seed, config.shams, config.top_k) == (3, 2, 1)
        config = config_of("plan", "--config", path, "--top-k", 3)
        assert (config.seed, config.shams, config.top_k) == (1, 1, 3)

    def test_a_key_at_the_top_may_be_of_another_command(
        self, config_of: Callable[..., Config], tmp_path: Path
    ) -> None:
        path = tmp_path / "study.toml"
        path.write_text('tokens = 5\nseed = 4\n[generate]\nprompt = "One"\n', "utf-8")
        assert config_of("run", "--config", path).seed == 4

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("seed = 1\nshmas = 3\n", ":2: 'shmas' is no option of any command: expected one of alpha,"),
            ("[run]\n\ntokens = 3\n", ":3: 'tokens' is no option of `grammar-lens run`: expected one of alpha,"),
            ("seed = 1\n[run]\nseed = 2\nzzz = 1", ":4: 'zzz' is no option of `grammar-lens run`: expected one of alpha,"),
            ("[lesoin]\nseed = 2\n", ":1: [lesoin] is no command: expected one of certify,"),
            ('seed = "x"', ":1: seed is 'x', expected a whole number"),
            ("seed = 1.5", ":1: seed is 1.5, expected a whole number"),
            ("seed = true", ":1: seed is True, expected a whole number"),
            ("alpha = [1]", ":1: alpha is [1], expected a number"),
            ("[lesion]\nsufficiency = 1", ":2: sufficiency is 1, expected true or false"),
            ("model = 3", ":1: model is 3, expected text"),
            ("out = 3", ":1: out is 3, expected text"),
            ("values = [true]", ":1: values is [True], expected a list of texts or numbers"),
            ("site = [3]", ":1: site is [3], expected text or a list of texts"),
            ('config = "x"', ":1: 'config' is no option of any command"),
            ("seed = ", " is no TOML: Invalid value"),
            ("seed = 1\nseed = 2", " is no TOML: Cannot overwrite a value (at end of document)"),
        ],
    )  # fmt: skip
    def test_what_it_must_not_say(self, tmp_path: Path, text: str, told: str) -> None:
        path = tmp_path / "study.toml"
        path.write_text(text, "utf-8")
        code, out, err = call("run", "--config", path)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: Invalid value for --config: {path}{told}")
        assert err.count("\n") == 1

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        code, _, err = call("run", "--config", tmp_path / "none.toml")
        assert code == 2
        assert "none.toml: No such file or directory" in err
        (tmp_path / "latin.toml").write_bytes("model = 'é'".encode("latin-1"))
        code, _, err = call("run", "--config", tmp_path / "latin.toml")
        assert code == 2
        assert "latin.toml is not UTF-8 text" in err

    def test_every_option_has_a_type_that_a_file_can_give(self) -> None:
        for command in COMMANDS.values():
            for name, (_, kind) in _options(command):
                assert kind in KINDS or kind == list[str], name

    def test_a_switch_may_be_off(self, tmp_path: Path) -> None:
        path = tmp_path / "study.toml"
        path.write_text("[neuron]\nread = false\n[serve]\nbrowser = false\n", "utf-8")
        for command, arguments in (("neuron", ("nowhere", "1.2")), ("serve", ("nowhere",))):
            code, _, err = call(command, *arguments, "--config", path)
            assert (code, "nowhere is no run directory" in err) == (2, True)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_takes_one(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "study.toml"
        path.write_text(f"[{name}]\nnothing = 1\n", "utf-8")
        code, _, err = call(name, "--config", path)
        assert code == 2
        assert f"{path}:2: 'nothing' is no option of `grammar-lens {name}`" in err


def test_options_are_not_mixed_up_with_arguments() -> None:
    """A run directory is told on the command line, not in a file."""
    with pytest.raises(KeyError, match="run"):
        config_fields({"run": "x"})
