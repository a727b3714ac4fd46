"""Hooks of the site: formulas as MathML, the command line's help as a page, a notebook's links.

All are made while the site is built, so that a page needs no script and nothing from elsewhere.
"""

import html
import logging
import posixpath
import re
from typing import Any

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
_NAME = re.compile(r"<code>((?:grammar_lens|gl)\.([\w.]+))</code>")
_FOREIGN = re.compile(r"<(script|style|clipboard-copy)\b.*?</\1>", re.DOTALL)
_DOUBLE = re.compile(
    r'<div class="clipboard-copy-txt" id="[^"]*">.*?</div>|<span class="cell-tag">.*?</span>',
    re.DOTALL,
)
_CELL = re.compile(
    r'<div class="highlight-ipynb hl-\w+"><pre>(<span></span>)?(.*?)</pre></div>', re.DOTALL
)
_RELATIVE_LINK = re.compile(r'(?<=\shref=")(?!#|[a-z]+:)([^"#]+)')
_LOG = logging.getLogger("mkdocs.hooks")  # a warning there fails a strict build
COMMANDS = "<!-- every command and its options -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Writes the commands in the place that a page keeps for them."""
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def on_page_content(content: str, *, page: Any, files: Any, **_: Any) -> str:
    """Turns TeX, as pymdownx.arithmatex leaves it, into MathML, and names of ours into links.

    A name that no reference page documents stays plain code.
    """
    if page.file.src_uri.endswith(".ipynb"):
        content = _linked_notebook(_plain_notebook(content), page.file, files)
    content = _NAME.sub(
        r'<autoref optional identifier="grammar_lens.\2"><code>\1</code></autoref>', content
    )
    content = _INLINE.sub(lambda m: _mathml(m[1], "inline"), content)
    return _BLOCK.sub(
        lambda m: f'<div class="formula" tabindex="0">{_mathml(m[1], "block")}</div>', content
    )


def _plain_notebook(content: str) -> str:
    """A notebook in the style of all pages.

    Its own scripts would fetch a renderer of formulas and one of diagrams, and its own colours are
    too pale to read on a dark page.
    """
    content = _DOUBLE.sub("", _FOREIGN.sub("", content))
    content = _CELL.sub(r'<div class="highlight"><pre><code>\2</code></pre></div>', content)
    content = content.replace(
        'class="anchor-link"', 'class="headerlink" title="Link to this section"'
    )
    return content.replace('<table border="1" class="dataframe">', "<table>")


def _linked_notebook(content: str, source: Any, files: Any) -> str:
    """A notebook whose links to other documents lead to their pages.

    MkDocs rewrites and checks the links of Markdown files only; mkdocs-jupyter hands a notebook's
    over as they are written (`concepts.md`), which is right on GitHub and dead on the site.
    """

    def address(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source.src_uri), link[1]))
        target = files.get_file_from_path(path)
        if target is None:
            _LOG.warning("%s links to '%s', which does not exist", source.src_uri, link[1])
            return link[1]
        return target.url_relative_to(source)

    return _RELATIVE_LINK.sub(address, content)


def _mathml(tex: str, display: str) -> str:
    return convert(html.unescape(tex).strip(), display=display)


def commands() -> str:
    """A section for every command: its help text and a table of its options, as Markdown."""
    return "\n\n".join(_section(name, command) for name, command in all_commands())


def all_commands() -> list[tuple[str, Any]]:
    """The commands by name, in the order of `grammar-lens --help`."""
    from typer.main import get_command

    from grammar_lens.cli.app import app

    group: Any = get_command(app)
    context = group.make_context("grammar-lens", [], resilient_parsing=True)
    return [(name, group.get_command(context, name)) for name in group.list_commands(context)]


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    usage = " ".join(["grammar-lens", name, "[OPTIONS]", *(_argument(p) for p in arguments)])
    rows = [_row(p) for p in command.params if p.opts[0].startswith("-") or getattr(p, "help", "")]
    table = ["| option | what it does | default |", "|---|---|---|", *rows]
    told = f"{command.help}\n\n{command.epilog or ''}".replace("\\[", "[")
    text = "\n\n".join(_paragraph(part) for part in told.split("\n\n"))
    return f"## {name}\n\n    {usage}\n\n{text}\n\n" + "\n".join(table)


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name or "").upper()
    return f"{name}..." if parameter.nargs == -1 else name


def _paragraph(text: str) -> str:
    """A paragraph of a help text: unwrapped, and in a block of code where it is a command line."""
    text = text.replace("\b", "").strip("\n")
    lines = text.splitlines()
    if lines and all(line.strip().startswith(("grammar-lens", "$ ")) for line in lines):
        return "\n".join(f"    {line.strip()}" for line in lines)
    return html.escape(" ".join(line.strip() for line in lines), quote=False)


def _row(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    shown = (
        ", ".join(f"`{name}`" for name in names)
        if names[0].startswith("-")
        else (f"`{_argument(parameter)}`")
    )
    told = html.escape(" ".join((getattr(parameter, "help", "") or "").split()), quote=False)
    told = told.replace("|", "\\|")
    return f"| {shown} | {told} | {_default(parameter)} |"


def _default(parameter: Any) -> str:
    """What an option is when it is not given, as code; nothing where that says nothing."""
    value = getattr(parameter, "default", None)
    if isinstance(value, list | tuple):
        value = ", ".join(str(x) for x in value)
    told = isinstance(value, str | int | float) and value != "" and not isinstance(value, bool)
    return f"`{value}`" if told else ""
