"""Lesion studies of several scores side by side: their verdicts as a table, their figures on a page."""

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from grammar_lens import figures
from grammar_lens.display import markdown
from grammar_lens.dissociation.calibration import Calibration
from grammar_lens.dissociation.redundancy import Redundancy
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import NotMeasuredError
from grammar_lens.figures.style import plotly_js, score_name

Found = LesionStudy | Calibration | Redundancy
_OF_STUDY: Mapping[str, Callable[[LesionStudy], Any]] = {
    "matrix": figures.lesion_matrix,
    "null": figures.lesion_null,
    "damage-matched": figures.damage_matched,
    "doses": figures.dose_response,
    "values": figures.value_ladder,
    "auroc": figures.bias_and_auroc,
    "sufficiency": figures.sufficiency,
}
_STYLE = "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;line-height:1.5}"


def verdict_table(results: Mapping[str, Mapping[str, Found]]) -> str:
    """The verdicts of the parts of every score, a column per score, as a table in Markdown."""
    first, *_ = results.values()
    lines = [["", *results]]
    for part, result in _studies_first(first):
        name = f"{result.fresh} ({part})" if isinstance(result, LesionStudy) else part
        lines.append([name, *(parts[part].verdict() for parts in results.values())])
    return f"# What the lesion studies say\n\n{markdown(lines)}\n"


def page_of_studies(title: str, results: Mapping[str, Mapping[str, Found]]) -> str:
    """A page of HTML with the verdicts and figures of every score; opens without a network."""
    body = Markup("")
    for score, parts in results.items():
        body += Markup("<h1>{}</h1>").format(score_name(score))
        for part, result in _studies_first(parts):
            if isinstance(result, LesionStudy):
                body += Markup("<h2>{}</h2>").format(result.fresh)
            body += Markup("<p>{}</p>").format(result.verdict())
            for name, figure in _drawn(result).items():
                shown = figure.to_html(
                    full_html=False, include_plotlyjs=False, div_id=f"{score}-{part}{name}"
                )
                body += Markup(shown)
    head = Markup("<meta charset='utf-8'><title>{}</title><style>{}</style>").format(title, _STYLE)
    script = f"<script>{plotly_js()}</script>"
    return f"<!doctype html><html lang='en'><head>{head}{script}</head><body>{body}</body></html>"


def _studies_first(parts: Mapping[str, Found]) -> list[tuple[str, Found]]:
    return sorted(parts.items(), key=lambda part: not isinstance(part[1], LesionStudy))


def _drawn(result: Found) -> dict[str, Any]:
    """The figures of what was measured, by the ends of their names."""
    if isinstance(result, Calibration):
        return {"": figures.calibration(result)}
    if isinstance(result, Redundancy):
        return {"": figures.redundancy(result)}
    pictures = {}
    for name, draw in _OF_STUDY.items():
        try:
            pictures[f"-{name}"] = draw(result)
        except NotMeasuredError:
            continue
    return pictures
