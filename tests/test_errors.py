"""The one class of errors: its checkers, their wording, and every `raise` of the package."""

import ast
import math
from pathlib import Path

import pytest

from grammar_lens import errors
from grammar_lens.errors import (
    GrammarLensError,
    counted,
    expected_one_of,
    nearest,
    require_at_least,
    require_between,
    require_layer,
    require_neuron,
    require_one_of,
)


class TestOneOf:
    def test_a_known_name_passes(self) -> None:
        require_one_of("sign", "positive", ("absolute", "positive"))
        require_one_of("score", "", ("", "correlation"))
        require_one_of("site", "neuron", {"neuron": 1})

    def test_the_nearest_known_name_is_suggested(self) -> None:
        with pytest.raises(GrammarLensError) as told:
            require_one_of("sign", "postive", ("absolute", "positive", "negative"))
        assert str(told.value) == (
            "sign is 'postive', expected one of absolute, positive, negative; "
            "did you mean 'positive'?"
        )

    def test_nothing_near_is_not_suggested(self) -> None:
        with pytest.raises(GrammarLensError) as told:
            require_one_of("sign", "up", ("", "absolute", "positive"))
        assert str(told.value) == "sign is 'up', expected one of absolute, positive"

    def test_what_is_no_text_is_refused(self) -> None:
        with pytest.raises(GrammarLensError, match=r"sign is None, expected one of absolute$"):
            require_one_of("sign", None, iter(["absolute"]))

    def test_nothing_is_known(self) -> None:
        assert expected_one_of("VERB", ()) == "there are none"

    @pytest.mark.parametrize(
        ("given", "found"), [("verb", "VERB"), ("NUON", "NOUN"), ("x", None), (3, None)]
    )
    def test_nearest(self, given: object, found: str | None) -> None:
        assert nearest(given, ("NOUN", "VERB", "")) == found


class TestNumbers:
    @pytest.mark.parametrize("given", [1, 2, 1.0, math.inf])
    def test_enough(self, given: float) -> None:
        require_at_least("k", given, 1)

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (0, "k is 0, expected 1 or more"),
            (-2000, "k is -2,000, expected 1 or more"),
            (0.5, "k is 0.5, expected 1 or more"),
            (math.nan, "k is nan, expected 1 or more"),
        ],
    )
    def test_too_little(self, given: float, told: str) -> None:
        with pytest.raises(GrammarLensError) as error:
            require_at_least("k", given, 1)
        assert str(error.value) == told

    def test_the_noun_of_the_least_number(self) -> None:
        with pytest.raises(GrammarLensError) as error:
            require_at_least("window", 7, 8, "tokens")
        assert str(error.value) == "window is 7, expected 8 tokens or more"

    @pytest.mark.parametrize("given", [0, 0.5, 1])
    def test_within(self, given: float) -> None:
        require_between("alpha", given, 0, 1)

    @pytest.mark.parametrize("given", [-1, 513, math.nan])
    def test_without(self, given: float) -> None:
        with pytest.raises(GrammarLensError) as error:
            require_between("k", given, 1, 512, "there are 512 neurons")
        assert str(error.value) == f"k is {given}, expected 1 to 512: there are 512 neurons"

    def test_without_a_reason(self) -> None:
        with pytest.raises(GrammarLensError, match=r"^alpha is 2, expected 0 to 0.5$"):
            require_between("alpha", 2, 0, 0.5)


class TestAddresses:
    @pytest.mark.parametrize("address", [(0, 0), (3, 511)])
    def test_there(self, address: tuple[int, int]) -> None:
        require_neuron(*address, 4, 512)
        require_layer(address[0], 4)

    @pytest.mark.parametrize("address", [(4, 0), (0, 512), (-1, 0), (0, -1)])
    def test_a_neuron_that_is_not_there(self, address: tuple[int, int]) -> None:
        with pytest.raises(GrammarLensError) as error:
            require_neuron(*address, 4, 512, model="tiny")
        assert str(error.value) == (
            f"neuron {address[0]}.{address[1]} does not exist: "
            "tiny has 4 layers of 512 neurons, numbered from 0"
        )

    def test_a_unit_of_one_layer(self) -> None:
        with pytest.raises(GrammarLensError, match=r"unit 1.0 .*the model has 1 layer of 1 unit,"):
            require_neuron(1, 0, 1, 1, noun="unit")

    @pytest.mark.parametrize(("layer", "n", "told"), [(4, 4, "4 layers"), (-1, 1, "1 layer")])
    def test_a_layer_that_is_not_there(self, layer: int, n: int, told: str) -> None:
        with pytest.raises(GrammarLensError) as error:
            require_layer(layer, n, "tiny")
        assert str(error.value) == (
            f"layer {layer} does not exist: tiny has {told}, numbered from 0"
        )


@pytest.mark.parametrize(
    ("n", "told"), [(0, "0 words"), (1, "1 word"), (2, "2 words"), (1049, "1,049 words")]
)
def test_a_number_with_its_noun(n: int, told: str) -> None:
    assert counted(n, "word") == told


@pytest.mark.parametrize(
    ("n", "told"), [(1, "1 word shares a token"), (149, "149 words share a token")]
)
def test_a_number_with_its_verb(n: int, told: str) -> None:
    assert counted(n, "word shares a token", "words share a token") == told


OTHERS = {
    ("grammar_lens/explorer/app.py", "ConnectionAbortedError"): "ends a request that is none",
    ("grammar_lens/__init__.py", "AttributeError"): "Python asks modules for it",
    ("grammar_lens/cli/app.py", "Exit"): "Typer ends a command with it",
    ("grammar_lens/cli/errors.py", "Exit"): "Typer ends a command with it",
    ("grammar_lens/cli/scripts.py", "Exit"): "Typer ends a command with it",
    ("grammar_lens/cli/system_commands.py", "Exit"): "Typer ends a command with it",
    ("grammar_lens/cli/config_file.py", "BadParameter"): "Typer names the option",
    ("grammar_lens/cli/inspect_commands.py", "BadParameter"): "Typer names the option",
    ("grammar_lens/cli/options.py", "BadParameter"): "Typer names the option",
    ("grammar_lens/model/fast_path.py", "AssertionError"): "a mistake of the package itself",
    ("grammar_lens/model/onednn.py", "MemoryError"): "caught by what makes batches smaller",
    ("grammar_lens/passes/workers.py", "Stopped"): "ends a worker whose result nobody waits for",
    (
        "grammar_lens/report/comparison_tables.py",
        "AssertionError",
    ): "a mistake of the package itself",
}
"""Errors of other classes that the package raises, and why."""


def raised(source: str) -> set[str]:
    """Names of the classes that a module raises; errors made or caught elsewhere are left out.

    A bare `raise`, `raise error` and `raise _made(...)` pass on an error that another line makes.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")
            if name[:1].isupper():
                found.add(name)
    return found


def test_every_way_to_raise_is_seen() -> None:
    source = (
        "raise ValueError\nraise KeyError(1)\nraise typer.Exit(2) from None\nraise\nraise error"
    )
    assert raised(source) == {"ValueError", "KeyError", "Exit"}


def test_input_raises_one_class_of_error() -> None:
    package = Path(errors.__file__).parent
    ours = {name for name, value in vars(errors).items() if _is_ours(value)}
    others = {
        (path.relative_to(package.parent).as_posix(), name)
        for path in package.rglob("*.py")
        for name in raised(path.read_text("utf-8")) - ours
    }
    assert others == OTHERS.keys()
    assert ours == {"DamagedError", "GrammarLensError", "NotMeasuredError"}


def test_no_other_class_of_error_is_made() -> None:
    package = Path(errors.__file__).parent
    made = {
        node.name
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Exception"))
    }
    assert made == {"DamagedError", "GrammarLensError", "NotMeasuredError"}


def _is_ours(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, GrammarLensError)
