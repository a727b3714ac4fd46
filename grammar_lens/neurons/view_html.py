"""One neuron as HTML for a notebook; texts are escaped, and no information is in colour alone."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.neurons.examples import Example, NeuronExamples, TokenEffect

HIGH, LOW = "213,94,0", "0,114,178"
"""Red, green and blue of what is above 0 and below it; safe for colour-blind readers."""
MOST_SIGNS = 40
"""Characters of a token or word that are shown."""
AROUND = 15
"""Tokens that are shown on either side of a word."""
_BOX = "background:#fff;color:#1f2a37;font:13px/1.6 system-ui,sans-serif;padding:8px;max-width:60em"
_CELL = "padding:1px 8px;text-align:right;font-variant-numeric:tabular-nums"
_TOKEN = "background:#eceff2;white-space:pre;unicode-bidi:isolate"


def shortened(text: str) -> str:
    """A text of at most `MOST_SIGNS` characters and an ellipsis."""
    return text if len(text) <= MOST_SIGNS else f"{text[:MOST_SIGNS]}…"


def neuron_html(
    title: str,
    methods: Mapping[str, str],
    tables: Mapping[str, pd.DataFrame],
    examples: Mapping[str, NeuronExamples],
) -> str:
    """Scores with bars, words in their sentences, and tokens promoted and suppressed."""
    parts = [f"<div style='{_BOX}'><b>{escape(title)}</b>"]
    for position, table in tables.items():
        parts.append(f"<h4>read at “{escape(position)}”</h4>{_scores(table, methods[position])}")
        if position in examples:
            parts.append(_examples(examples[position]))
    for of_position in list(examples.values())[:1]:
        parts.append(
            "<small>Bold: the word. Framed: the token at which the neuron was read. Orange: above 0, "
            f"blue: below.</small><p>promotes {_tokens(of_position.promoted)}<br>"
            f"suppresses {_tokens(of_position.suppressed)}<br>"
            "<small>Logits per unit of activation, on the direct path.</small></p>"
        )
    return "".join([*parts, "</div>"])


def _scores(table: pd.DataFrame, method: str) -> str:
    """A row per label, with a bar as long as the score."""
    most = float(table["score"].abs().max())
    most = most if most > 0 else 1.0  # where no score is known too
    names = ("label", "words", method, "", "key rank", "Cohen's d", "mean", "sd", "fires")
    head = "".join(f"<th style='{_CELL}' scope='col'>{escape(name)}</th>" for name in names)
    rows = []
    for row in table.to_dict("records"):
        cells = [
            f"{row['count']:,}",
            _number(row["score"], "+.3g"),
            _bar(row["score"], most),
            _number(row["rank"], ".0f"),
            *(_number(row[name], "+.2f") for name in ("cohens_d", "mean")),
            _number(row["sd"], ".2f"),
            _number(row["fires"], ".0%"),
        ]
        label = f"<th style='{_CELL}' scope='row'>{escape(str(row['label']))}</th>"
        body = "".join(f"<td style='{_CELL}'>{cell}</td>" for cell in cells)
        rows.append(f"<tr>{label}{body}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form).replace("-", "\N{MINUS SIGN}")


def _bar(value: float, most: float) -> str:
    """A bar to the right of the middle for a value above 0, to the left for one below."""
    if np.isnan(value):
        return ""
    width, colour = abs(value) / most * 60, HIGH if value > 0 else LOW
    left = 60 if value > 0 else 60 - width
    return (
        "<div style='width:120px;height:10px;background:linear-gradient(#9aa4af,#9aa4af) 60px 0/1px "
        f"100% no-repeat'><div style='margin-left:{left:.1f}px;width:{width:.1f}px;height:10px;"
        f"background:rgb({colour})'></div></div>"
    )


def _examples(of_position: NeuronExamples) -> str:
    every = [value for e in (*of_position.top, *of_position.bottom) for value in np.abs(e.values)]
    most = max(every, default=0.0) or 1.0
    lines = []
    for name, examples in (("most", of_position.top), ("least", of_position.bottom)):
        lines.append(f"<div><b>{name} active at</b></div>")
        lines += [_line(example, most) for example in examples]
    return "".join(lines)


def _line(example: Example, most: float) -> str:
    """The word's value and label, and its sentence with every token in the colour of its value."""
    first, last = example.span
    begin = max(min(first, example.token) - AROUND, 0)
    end = last + AROUND
    shown = []
    for i, token in list(enumerate(example.passage.tokens))[begin:end]:
        value = float(example.values[i])
        colour = HIGH if value > 0 else LOW
        style = f"background:rgba({colour},{min(abs(value) / most, 1) * 0.55:.2f});"
        style += "unicode-bidi:isolate;white-space:pre-wrap;"
        style += "font-weight:700;" * (first <= i < last)
        style += "outline:1.5px solid #1f2a37;" * (i == example.token)
        shown.append(
            f"<span style='{style}' title='{value:+.3g}'>{escape(shortened(token))}</span>"
        )
    cut = ("…" * (begin > 0), "…" * (end < len(example.passage.tokens)))
    return (
        f"<div title='{escape(example.passage.source)}'><code>{_number(example.value, '+.3g')}</code> "
        f"{escape(example.label)} <span dir='auto'>{cut[0]}{''.join(shown)}{cut[1]}</span></div>"
    )


def coloured_text(
    title: str,
    tokens: Sequence[str],
    values: Float[np.ndarray, " token"],
    notes: Sequence[str],
    most: float | None = None,
) -> str:
    """A text whose tokens have the colours of their values; each shows its note when pointed at.

    Colours are as deep as the value is large beside `most`, by default the largest; NaN has none.
    """
    if most is None:
        most = float(np.nanmax(np.abs(values), initial=0.0))
    most = most or 1.0
    spans = []
    for token, value, note in zip(tokens, values.tolist(), notes, strict=True):
        depth = 0.0 if np.isnan(value) else min(abs(value) / most, 1) * 0.55
        style = f"background:rgba({HIGH if value > 0 else LOW},{depth:.2f});"
        style += "unicode-bidi:isolate;white-space:pre-wrap"
        spans.append(
            f"<span style='{style}' title='{escape(note, quote=True)}'>{escape(token)}</span>"
        )
    head = f"<b>{escape(title)}</b> <small>largest {most:.3g}</small><br>" if title else ""
    return f"<div style='{_BOX}' dir='auto'>{head}{''.join(spans)}</div>"


def _tokens(effects: tuple[TokenEffect, ...]) -> str:
    return ", ".join(
        f"<code style='{_TOKEN}'>{escape(shortened(e.token))}</code> {_number(e.logit, '+.2f')}"
        for e in effects
    )
