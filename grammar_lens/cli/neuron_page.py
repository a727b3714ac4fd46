"""One neuron on the terminal: scores, words where it is most and least active, and tokens."""

import re
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grammar_lens.neurons.examples import Example, NeuronExamples
from grammar_lens.neurons.view import NeuronView

AROUND = 8
"""Tokens that are shown on either side of a word."""
MOST_SIGNS = 40
"""Characters of a token that are shown."""
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, which a terminal would execute instead of showing."""


def neuron_page(view: NeuronView) -> RenderableType:
    """All that `view` has, position after position."""
    parts: list[RenderableType] = [
        Text(f"Neuron {view.name} of {view.model} on {view.treebank}", style="bold")
    ]
    for position, table in view.tables.items():
        parts += [Text(), _scores(position, view.methods[position], table)]
        if position in view.examples:
            parts += _examples(view.examples[position])
    for examples in list(view.examples.values())[:1]:
        parts += [Text(), _tokens("promotes", examples.promoted)]
        parts += [_tokens("suppresses", examples.suppressed)]
        parts.append(Text("(logits per unit of activation, on the direct path)", style="dim"))
    return Group(*parts)


def neuron_data(view: NeuronView) -> dict[str, Any]:
    """All that `view` has, for JSON."""
    plain = {name: getattr(view, name) for name in ("model", "treebank", "site", "layer", "index")}
    positions = {
        position: {
            "score": view.methods[position],
            "labels": table.to_dict("records"),
            "examples": view.examples.get(position),
        }
        for position, table in view.tables.items()
    }
    return {**plain, "positions": positions}


def _scores(position: str, method: str, scores: Any) -> Table:
    """A row per label, the largest score first."""
    table = Table(title=f"read at {position}", title_justify="left", box=None)
    for name in ("label", "words", method, "key rank", "Cohen's d", "mean", "sd", "fires"):
        table.add_column(name, justify="left" if name == "label" else "right")
    order = scores["score"].sort_values(ascending=False, kind="stable").index
    for row in scores.loc[order].to_dict("records"):
        table.add_row(
            Text(safe(str(row["label"]))),
            f"{row['count']:,}",
            _number(row["score"], "+.3g"),
            _number(row["rank"], ".0f"),
            _number(row["cohens_d"], "+.2f"),
            _number(row["mean"], "+.2f"),
            _number(row["sd"], ".2f"),
            _number(row["fires"], ".0%"),
            style="" if np.isnan(row["rank"]) else "bold",
        )
    return table


def _number(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)


def _examples(of_position: NeuronExamples) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for name, examples in (("most", of_position.top), ("least", of_position.bottom)):
        table = Table(title=f"{name} active at", title_justify="left", box=None, show_header=False)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column()
        for example in examples:
            label = Text(safe(example.label), style="dim")
            table.add_row(f"{example.value:+.3g}", label, _sentence(example))
        parts += [Text(), table]
    return parts


def _sentence(example: Example) -> Text:
    """«The word» among its neighbours; underlined the token at which the neuron was read."""
    first, last = example.span
    begin, end = max(min(first, example.token) - AROUND, 0), last + AROUND
    tokens = example.passage.tokens
    line = Text("…" if begin else "")
    for i, token in enumerate(tokens[begin:end], begin):
        shown = _short(token)
        if i == first:
            # the blank before a word is no part of it
            line.append(shown[: len(shown) - len(shown.lstrip())] + "«")
            shown = shown.lstrip()
        word = "bold" if first <= i < last else ""
        line.append(shown, style=f"{word} underline" if i == example.token else word)
        line.append("»" * (i == last - 1))
    line.append("…" if end < len(tokens) else "")
    return line


def _tokens(name: str, effects: tuple[Any, ...]) -> Text:
    listed = ", ".join(f"{_short(e.token)!r} {e.logit:+.2f}" for e in effects)
    return Text(f"{name} {listed}")


def _short(token: str) -> str:
    shown = safe(token)
    return shown if len(shown) <= MOST_SIGNS else f"{shown[:MOST_SIGNS]}…"


def safe(text: str) -> str:
    """A text without what would move the cursor or turn the reading direction."""
    return UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)
