"""Options: the table that all commands share, and settings from a file."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from grammar_lens.cli.app import app
from grammar_lens.cli.config_file import KINDS, _options
from grammar_lens.cli.options import config_fields, parameter
from grammar_lens.errors import GrammarLensError
from grammar_lens.runs import forecast, pipeline
from grammar_lens.runs.settings import OPTIONS, Config, check_settings, renamed

COMMANDS: dict[str, Any] = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]


def call(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="grammar-lens")
    return result.exit_code, result.stdout, result.stderr


class TestTheTable:
    @pytest.mark.parametrize("name", OPTIONS)
    def test_every_default_is_that_of_a_run(self, name: str) -> None:
        given = parameter(name, as_the_run=False).default
        assert config_fields({name: given}) == {name: getattr(Config(), name)}

    def test_every_setting_of_a_run_has_an_option(self) -> None:
        assert set(OPTIONS) == set(Config.__dataclass_fields__) - {"show_progress"}

    def test_what_is_not_given_is_left_to_the_run(self) -> None:
        assert config_fields({"shams": None, "doses": ["0"]}) == {"doses": (0.0,)}

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
        ("name", "given", "field"),
        [
            ("values", ["mean, zero"], ("mean", "zero")),
            ("values", ["mean", "zero,mean"], ("mean", "zero")),
            ("values", [""], ()),
            ("doses", ["1,-0.5"], (1.0, -0.5)),
            ("positions", ["both"], ("word", "next")),
            ("min_words", 0, None),
            ("damage_matched", 0, 0),
            ("damage_matched", -1, None),
            ("dtype", "", None),
            ("score", "", ""),
        ],
    )
    def test_what_is_written_becomes_a_field(self, name: str, given: Any, field: Any) -> None:
        assert config_fields({name: given}) == {name: field}

    def test_entries_that_are_no_numbers(self) -> None:
        code, _, err = call("run", "--doses", "1,x")
        assert (code, "--doses: expected numbers separated by commas, got '1,x'" in err) == (
            2,
            True,
        )

    @pytest.mark.parametrize("command", ["run", "plan", "lesion"])
    @pytest.mark.parametrize(("old", "new"), [("--lesion", "--values"), ("--dose", "--doses")])
    def test_an_old_option_names_the_new_one(self, command: str, old: str, new: str) -> None:
        code, out, err = call(command, old, "1")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{old} is now {new}," in err

    def test_generate_keeps_its_own(self) -> None:
        names = {p.opts[0] for p in COMMANDS["generate"].params}
        assert names >= {"--lesion", "--value", "--dose"}


class TestChecks:
    def test_the_defaults_pass(self) -> None:
        check_settings(Config())

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"rule": "fdrr"}, "--rule is 'fdrr'.*did you mean 'fdr'"),
            ({"score": "correlations"}, "--score is .*did you mean 'correlation'"),
            ({"values": ("mean", "zeros")}, "--values is 'zeros'.*did you mean 'zero'"),
            ({"values": ()}, "--values is empty"),
            ({"values": ("none", "mean")}, "none goes with no other"),
            ({"doses": ()}, "--doses is empty"),
            ({"doses": (1.0, float("nan"))}, "--doses is nan, expected -100 to 100"),
            ({"doses": (101.0,)}, "--doses is 101, expected -100 to 100"),
            ({"positions": ("last",)}, "--position is 'last'"),
            ({"sites": ("resid_pree",)}, "--site is .*did you mean 'resid_pre'"),
            ({"window": 15}, "--window is 15, expected 16 or more"),
            ({"alpha": 0.0}, "--alpha is 0, "),
            ({"alpha": 1.0, "rule": "fdr"}, "--alpha is 1, "),
            ({"alpha": 1.5}, "--alpha is 1.5, "),
            ({"seed": -1}, "--seed is -1, expected 0 or more"),
            ({"token_budget": 0}, "--token-budget is 0, expected 1 or more"),
            ({"damage_matched": -2}, "--damage-matched is -2"),
            ({"other_shams": 21}, "--other-shams is 21 and --shams 20"),
            ({"replicates": 19}, "--replicates is 19, expected 0 for no null or at least 20"),
            ({"rule": "fdr", "replicates": 0}, "give --replicates 100"),
            ({"rule": "fdr", "score": "welch_t"}, "'welch_t' has none"),
            ({"rule": "permutation", "alpha": 0.001}, "give --replicates 999"),
            ({"rule": "frequency"}, "--score frequency --position next"),
            ({"sign": "negative"}, "no meaning for the score 'attribution_contrast'"),
            ({"lesion_labels": ("NOUN",)}, "two labels or more"),
            ({"model": "./nowhere"}, "--model is './nowhere'"),
            ({"train": "nowhere.conllu"}, "--train is 'nowhere.conllu'"),
            ({"fresh": "nowhere:test"}, "--fresh is 'nowhere:test'"),
        ],
    )
    def test_what_is_refused(self, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(GrammarLensError, match=told):
            check_settings(replace(Config(), **changes))

    @pytest.mark.parametrize(
        "changes",
        [
            {"rule": "permutation", "alpha": 0.01, "replicates": 99},
            {"rule": "permutation", "alpha": 0.1, "replicates": 20},
            {"values": ("none",)},
            {"alpha": 1.0},
            {"sign": "negative", "positions": ("word",)},
            {"fresh": "UD_English-EWT:test", "train": "hf:some/set:train"},
        ],
    )
    def test_what_is_not(self, changes: dict[str, Any]) -> None:
        check_settings(replace(Config(), **changes))


@pytest.mark.parametrize(
    ("stored", "values", "doses"),
    [
        ({"lesion": "zero", "values": ["mean"], "dose": 0.5, "doses": [2.0]}, ["zero", "mean"], [0.5, 2.0]),
        ({"lesion": "zero", "dose": 1.0}, ["zero"], [1.0]),
        ({"lesion": "none", "values": ["zero"], "dose": 1.0, "doses": []}, ["none"], [1.0]),
        ({"values": ["mean"], "doses": [1.0]}, ["mean"], [1.0]),
    ],
)  # fmt: skip
def test_settings_of_earlier_versions(
    stored: dict[str, Any], values: list[str], doses: list[float]
) -> None:
    assert renamed(stored) == {"values": values, "doses": doses}
    assert Config.parse(stored).value == values[0]
    assert Config.parse(stored).dose == doses[0]


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
            'train = "embedded:dev"\ntop-k = 7\ndoses = [0.5, -1, 2]\nsite = ["neuron", "resid_post"]\n'
            'labels = ["NOUN", "VERB"]\nalpha = 0.5\nsufficiency = true\nmin_words = 0\n'
            'position = "next"\nout = "there"\n',
            "utf-8",
        )
        config = config_of("run", "--config", path)
        assert (config.train, config.top_k, config.out) == ("embedded:dev", 7, Path("there"))
        assert config.doses == (0.5, -1.0, 2.0)
        assert config.sites == ("neuron", "resid_post")
        assert config.labels == ("NOUN", "VERB")
        assert (config.alpha, config.sufficiency, config.min_words) == (0.5, True, None)
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
        ("text", "told", "also"),
        [
            ("seed = 1\nshmas = 3\n", ":2: 'shmas' is no option of any command: expected one of", "did you mean 'shams'?"),
            ("[run]\n\ntokens = 3\n", ":3: 'tokens' is no option of `grammar-lens run`: expected one of alpha,", ""),
            ("seed = 1\n[run]\nseed = 2\nzzz = 1", ":4: 'zzz' is no option of `grammar-lens run`: expected one of", ""),
            ("[lesoin]\nseed = 2\n", ":1: [lesoin] is no command: expected one of certify,", "did you mean 'lesion'?"),
            ('seed = "x"', ":1: seed is 'x', expected a whole number", ""),
            ("seed = 1.5", ":1: seed is 1.5, expected a whole number", ""),
            ("seed = true", ":1: seed is True, expected a whole number", ""),
            ("alpha = [1]", ":1: alpha is [1], expected a number", ""),
            ("[lesion]\nsufficiency = 1", ":2: sufficiency is 1, expected true or false", ""),
            ("model = 3", ":1: model is 3, expected text", ""),
            ("out = 3", ":1: out is 3, expected text", ""),
            ("values = [true]", ":1: values is [True], expected a list of texts or numbers", ""),
            ('lesion = "zero"', ":1: 'lesion' is now 'values', whose first entry", "[generate]"),
            ("[run]\ndose = 2", ":2: 'dose' is now 'doses', whose first entry", ""),
            ('config = "x"', ":1: 'config' is no option of any command", ""),
            ("seed = ", " is no TOML: Invalid value", ""),
            ("seed = 1\nseed = 2", " is no TOML: Cannot overwrite a value (at end of document)", ""),
        ],
    )  # fmt: skip
    def test_what_it_must_not_say(self, tmp_path: Path, text: str, told: str, also: str) -> None:
        path = tmp_path / "study.toml"
        path.write_text(text, "utf-8")
        code, out, err = call("run", "--config", path)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: Invalid value for --config: {path}{told}")
        assert also in err
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
