"""Fill templates to self-contained pages: style, script and plotly.js are included."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from grammar_lens.figures.style import plotly_js
from grammar_lens.report.lesions import signed
from grammar_lens.report.packing import deflated


def fill(template: str, *, scripts: Sequence[str] = ("page.js",), **contents: Any) -> str:
    """A page's HTML. Texts are escaped wherever they stand; only listed scripts may run.

    Half a surrogate pair, which is no text, becomes a question mark.
    """
    style, script = _asset("page.css"), "".join(map(_asset, scripts))
    can_unpack = _asset("can_unpack.js")
    page = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters["signed"] = signed
    page.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    html = page.get_template(template).render(
        **contents,
        style=Markup(style),
        script=Markup(script),
        can_unpack=Markup(can_unpack),
        plotly=_plotly(),
        script_hashes=[_hash(plotly_js()), _hash(script), _hash(can_unpack)],
    )
    return html.encode(errors="replace").decode()


@cache
def _plotly() -> Markup:
    """plotly.js, deflated: a third of its size."""
    return deflated(plotly_js().encode())


def _asset(name: str) -> str:
    return resources.files("grammar_lens").joinpath(f"report/templates/{name}").read_text("utf-8")


def _hash(script: str) -> str:
    """A script's source hash for the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
