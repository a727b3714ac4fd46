"""Who imports whom: the middle is arithmetic, the edges touch the world, and nothing loads early."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import grammar_lens

PACKAGE = Path(grammar_lens.__file__).parent
MIDDLE = (
    *(
        "alignment",
        "windows",
        "readers",
        "reduction",
        "fused",
        "moments",
        "sums",
        "exchange",
        "contrasts",
        "display",
        "evidence",
    ),
    *(
        "examples",
        "inspection",
        "selectivity",
        "selection",
        "directions",
        "subspace",
        "controls",
        "timecourse",
    ),
    *("probing", "lexicon", "outcomes", "dissociation", "planning"),
)
EDGES = (
    *("treebank", "model", "passing", "activations", "attribution", "distributed", "checkpoints"),
    *("memory", "lesions", "study", "run", "steps", "interchange", "transformer"),
    *("agreement", "planted", "certification"),
    *("figures", "report", "explorer", "cli", "progress", "summary", "generation"),
)
HEAVY = ("torch", "numpy", "pandas", "jaxtyping", "scipy", "sklearn", "transformers", "plotly")
FILE_MODULES = {"os", "io", "pathlib", "shutil", "tempfile", "pickle", "safetensors", "pooch"}
FILE_CALLS = {
    *("open", "fdopen", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir"),
    *("load", "save", "savez", "loadtxt", "savetxt", "fromfile", "tofile", "memmap"),
    *("read_csv", "to_csv", "read_parquet", "to_parquet", "read_json", "to_json", "to_pickle"),
}


def module_of(path: Path) -> str:
    """The module a file belongs to; a module that outgrew its room is a folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield module_of(path), path.read_text()


def imported(source: str) -> set[str]:
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
    return names


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
            "from grammar_lens.run import load_run",
            "from grammar_lens import run",
            "from . import run",
            "from .run import load_run",
            "import grammar_lens.run as r",
        ],
    )
    def test_every_way_to_import_our_own_is_seen(self, source: str) -> None:
        assert brings_in(source, "grammar_lens.run")

    @pytest.mark.parametrize(
        "source", ["open('x')", "Path('x').read_text()", "import os", "np.save('x', y)"]
    )
    def test_every_way_to_files_is_seen(self, source: str) -> None:
        assert touches_files(source)

    def test_every_module_is_the_middle_or_an_edge(self) -> None:
        """So a new module is put on one side, and a renamed one does not slip through."""
        there = {name for name, _ in sources()} - {"__init__", "__main__"}
        assert there == {*MIDDLE, *EDGES}


@pytest.mark.parametrize(
    ("package", "owner"), [("transformer_lens", "model"), ("plotly", "figures")]
)
def test_one_module_owns_a_library(package: str, owner: str) -> None:
    assert {name for name, source in sources() if brings_in(source, package)} == {owner}


@pytest.mark.parametrize("module", MIDDLE)
def test_the_middle_imports_no_edge_and_opens_no_file(module: str) -> None:
    for name, source in sources():
        if name == module:
            assert {e for e in EDGES if brings_in(source, f"grammar_lens.{e}")} == set()
            assert touches_files(source) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import grammar_lens",
        "import grammar_lens; dir(grammar_lens)",
        "import grammar_lens.cli",
        "sys.argv = ['grammar-lens', '--help']\n"
        "from grammar_lens.cli import main\n"
        "try: main()\nexcept SystemExit as done: assert not done.code",
    ],
    ids=["import", "dir", "cli", "help"],
)
def test_nothing_heavy_is_loaded_early(code: str) -> None:
    assert loaded_by(code) == set()


def test_what_is_heavy_is_noticed() -> None:
    assert "torch" in loaded_by("import grammar_lens\ngrammar_lens.Moments")


def test_every_public_name_resolves() -> None:
    for name in dir(grammar_lens):
        assert getattr(grammar_lens, name) is not None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'grammar_lens' has no attribute 'leson'"):
        grammar_lens.leson  # noqa: B018


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing a submodule sets it on the package: it would replace the function of that name."""
    modules = {name for name, _ in sources()} - {"__init__", "__main__"}
    without = {"fused"} if find_spec("triton") is None else set()
    for name in modules - without:
        import_module(f"grammar_lens.{name}")
    hidden = {n for n in grammar_lens._HOME if isinstance(getattr(grammar_lens, n), ModuleType)}
    assert hidden == set()
    assert modules.isdisjoint(grammar_lens._HOME)
