"""Import rules: the middle is arithmetic, the edges touch the world, and nothing loads early."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from layers import LAYERS

import grammar_lens

PACKAGE = Path(grammar_lens.__file__).parent
ARITHMETIC = ("passes", "selectivity", "neurons", "probing", "lesions", "dissociation")
RUN_A_MODEL = {
    *("lesions.context", "lesions.donors", "lesions.effect_check", "lesions.passes"),
    *("neurons.passages", "neurons.timecourse", "passes.shared", "probing.probes"),
    *("probing.layer_probes", "probing.layer_probing", "probing.tag_losses"),
    "dissociation.layer_lesions",
    *("lesions.next_word", "lesions.read_text", "neurons.own_text"),
    *("selectivity.collecting", "selectivity.collect_plan"),
    *(f"selectivity.attribution.{x}" for x in ("attribute", "first_order", "head", "integrated")),
    "selectivity.attribution.scaled_path",
}
OPEN_A_FILE = {"lesions.store", "passes.checkpoints", "passes.distributed", "passes.memory"}
HEAVY = ("torch", "numpy", "pandas", "jaxtyping", "scipy", "sklearn", "transformers", "plotly")
FILE_MODULES = {"os", "io", "shutil", "tempfile", "pickle", "safetensors", "pooch"}
FILE_CALLS = {
    *("open", "fdopen", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir"),
    *("load", "save", "savez", "loadtxt", "savetxt", "fromfile", "tofile", "memmap"),
    *("read_csv", "to_csv", "read_parquet", "to_parquet", "read_json", "to_json", "to_pickle"),
}


FILES = {
    path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""The source of every file of the package by its dotted name."""


def room_of(name: str) -> str:
    """The room a file stands in: the first part of its name below the package."""
    return name.split(".")[1]


@cache
def imported(source: str) -> frozenset[str]:
    """Dotted names of everything a module imports, wherever in it and however."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "grammar_lens." * (node.level > 0) + (node.module or "")
            names |= {base, *(f"{base.rstrip('.')}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return frozenset(names)


def brings_in(source: str, package: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for name in imported(source))


def touches_files(source: str) -> set[str]:
    """Modules and calls by which a module reaches files."""
    calls = {
        _name(n.func)
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Call) and not _is_of(n.func, "tl")  # Triton loads from memory
    }
    return {m for m in FILE_MODULES if brings_in(source, m)} | (calls & FILE_CALLS)


def _is_of(node: ast.expr, module: str) -> bool:
    return isinstance(node, ast.Attribute) and _name(node.value) == module


def _name(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def loaded_by(code: str) -> set[str]:
    """Heavy packages that a fresh Python has loaded after running some code."""
    script = f"import json, sys\n{code}\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return {name.split(".")[0] for name in json.loads(done.stderr)} & set(HEAVY)


class TestTheCheckItself:
    @pytest.mark.parametrize(
        "source",
        [
            "import plotly",
            "import plotly.graph_objects as go",
            "from plotly import io",
            "def f():\n    from plotly.subplots import make_subplots",
            "if TYPE_CHECKING:\n    import plotly",
            "import_module('plotly.io')",
        ],
    )
    def test_every_way_to_import_is_seen(self, source: str) -> None:
        assert brings_in(source, "plotly")
        assert not brings_in(source, "plot")

    @pytest.mark.parametrize(
        "source",
        [
            "from grammar_lens.runs import load_run",
            "from grammar_lens import runs",
            "from . import runs",
            "from .runs import load_run",
            "import grammar_lens.runs as r",
        ],
    )
    def test_every_way_to_import_our_own_is_seen(self, source: str) -> None:
        assert brings_in(source, "grammar_lens.runs")

    @pytest.mark.parametrize(
        "source", ["open('x')", "Path('x').read_text()", "import os", "np.save('x', y)"]
    )
    def test_every_way_to_files_is_seen(self, source: str) -> None:
        assert touches_files(source)

    def test_a_circle_is_seen(self) -> None:
        assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) in (["a", "b", "c"], ["b", "c", "a"])
        assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@cache
def ours(name: str) -> set[str]:
    """The files of the package that a file imports; a room's face where it takes a name from that."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name])):
        if isinstance(node, ast.ImportFrom):
            found |= {_file_of(f"{node.module}.{a.name}", f"{node.module}") for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {_file_of(a.name, a.name) for a in node.names}
    return (found & FILES.keys()) - {name, "grammar_lens.__init__"}


def _file_of(name: str, module: str) -> str:
    return next((n for n in (name, module) if n in FILES), f"{module}.__init__")


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """One circle of imports, or nothing."""
    sorter = TopologicalSorter(arrows)
    try:
        sorter.prepare()
    except CycleError as error:
        return error.args[1][:0:-1]
    return []


def test_docstrings_begin_with_a_noun_or_a_verb() -> None:
    """A docstring that begins with a question word names neither a result nor an action."""
    question = re.compile(r"(What|Who|Whose|Whom|Which|Where|How|When|Why)\b")
    sources = {str(path): path.read_text() for path in Path(__file__).parent.rglob("*.py")} | FILES
    begun = [
        (name, line)
        for name, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and question.match(line := (ast.get_docstring(node) or "").partition("\n")[0])
    ]
    assert begun == []


def test_every_room_has_its_layer() -> None:
    assert {room_of(name) for name in FILES} - {"__init__", "__main__"} == {*LAYERS}


def test_imports_only_go_down() -> None:
    upward = [
        (name, other)
        for name in FILES
        if room_of(name) in LAYERS
        for other in ours(name)
        if LAYERS.index(room_of(other)) > LAYERS.index(room_of(name))
    ]
    assert upward == []


def test_no_circle_of_files() -> None:
    assert circle({name: ours(name) for name in FILES}) == []


@pytest.mark.parametrize(
    ("library", "owner"), [("transformer_lens", "model"), ("plotly", "figures")]
)
def test_one_room_owns_a_library(library: str, owner: str) -> None:
    assert {room_of(name) for name, text in FILES.items() if brings_in(text, library)} == {owner}


def test_no_model_in_the_arithmetic() -> None:
    """Modules that run a model are named here; everything else in these rooms takes arrays."""
    runs_model = ("grammar_lens.passes.stream", "grammar_lens.model.forward")
    found = {
        name.removeprefix("grammar_lens.")
        for name, text in FILES.items()
        if room_of(name) in ARITHMETIC and any(brings_in(text, m) for m in runs_model)
    }
    assert found == RUN_A_MODEL


def test_no_file_is_opened_in_the_arithmetic() -> None:
    found = {
        name.removeprefix("grammar_lens.")
        for name, text in FILES.items()
        if room_of(name) in ARITHMETIC and touches_files(text)
    }
    assert found == OPEN_A_FILE


@pytest.mark.parametrize(
    "code",
    [
        "import grammar_lens",
        "import grammar_lens; dir(grammar_lens)",
        "import grammar_lens.cli",
        "import grammar_lens.runs.settings",
        "sys.argv = ['grammar-lens', '--help']\n"
        "from grammar_lens.cli import main\n"
        "try: main()\nexcept SystemExit as done: assert not done.code",
    ],
    ids=["import", "dir", "cli", "settings", "help"],
)
def test_nothing_heavy_is_loaded_early(code: str) -> None:
    assert loaded_by(code) == set()


def test_what_is_heavy_is_noticed() -> None:
    assert "torch" in loaded_by("import grammar_lens\ngrammar_lens.Moments")


def test_every_public_name_resolves() -> None:
    for name in dir(grammar_lens):
        assert getattr(grammar_lens, name) is not None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"'grammar_lens'.*'leson'"):
        grammar_lens.leson  # noqa: B018


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing a submodule sets it on the package: it would replace the function of that name."""
    rooms = {room_of(name) for name in FILES} - {"__init__", "__main__"}
    for room in rooms:
        import_module(f"grammar_lens.{room}")
    hidden = {n for n in grammar_lens._HOME if isinstance(getattr(grammar_lens, n), ModuleType)}
    assert hidden == set()
    assert rooms.isdisjoint(grammar_lens._HOME)
