"""Results as HTML. Texts are data: React escapes them, so nothing in them is markup."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from dash import dcc, html
from jaxtyping import Float

from grammar_lens.explorer import pictures
from grammar_lens.figures.passages import visible
from grammar_lens.figures.style import decimals, number, score_name
from grammar_lens.generation.writing import Written
from grammar_lens.lesions.next_word import Prediction
from grammar_lens.neurons.examples import NeuronExamples, TokenEffect
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.neurons.own_text import TextActivations
from grammar_lens.neurons.view_html import HIGH, LOW
from grammar_lens.neurons.word_activations import WordActivations
from grammar_lens.selectivity.registry import SCORES

MOST_ROWS = 100
MOST_NUMBERS = 80
"""Tokens of a text that have their activation written below them; with more, it is shown on hover."""
MOST_COLOURED = 2000
"""Tokens of a text that are shown."""
GRAPH: Any = {"displaylogo": False, "responsive": True}


def aria(**named: str) -> Any:
    """Attributes for screen readers, such as `aria-label`."""
    return {f"aria-{name}": value for name, value in named.items()}


def data(**named: str) -> Any:
    """Attributes for the page's own script, such as `data-store`."""
    return {f"data-{name}": value for name, value in named.items()}


def key_list(key: Neurons) -> list[Any]:
    """A label's first neurons, each a button that chooses it."""
    digits = decimals(key.score)
    rows = []
    for rank, ((layer, index), value) in enumerate(zip(key, key.score, strict=True), 1):
        name = f"{layer}.{index}"
        button = html.Button(
            name,
            id={"type": "choose", "neuron": name},
            n_clicks=0,
            **data(neuron=name),
        )
        rows.append([str(rank), button, number(value, digits, plus=True)])
    shown = rows[:MOST_ROWS]
    more = f", the first {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else ""
    heads = ["no.", "neuron", "score"]
    return [
        html.H3(f"Key neurons of {key.name}{more}"),
        html.Div(_table(heads, shown, numbers=(0, 2)), className="scroll"),
    ]


def neuron_scores(
    name: str, method: str, scores: pd.DataFrame, tag: str, known: NeuronExamples | None
) -> list[Any]:
    """One neuron's numbers for every label; the label in view stands out."""
    digits, neutral = decimals(scores.score), SCORES[method].neutral
    most = float((scores.score - neutral).abs().max()) or 1.0
    activation = decimals([*scores["mean"], *scores["sd"]])
    records: Any = scores.itertuples()
    rows = [
        [
            row.label,
            _signed((row.score - neutral) / most, number(row.score, digits, plus=True)),
            number(row.cohens_d, 2, plus=True),
            f"{row.rank:,}",
            f"{number(row.mean, activation)} ± {number(row.sd, activation)}",
            f"{row.fires:.0%}",
            f"{row.words:,}",
        ]
        for row in records
    ]
    heads = ["tag", "score", "Cohen's d", "rank", "mean ± sd", "fires", "words"]
    if known is not None:
        heads.append("logits")
        of_label = dict(zip(known.labels, known.contrast, strict=True))
        lifts = [float(of_label.get(label, np.nan)) for label in scores.label]
        for row, lift in zip(rows, lifts, strict=True):
            row.append(number(lift, decimals(lifts), plus=True))
    mark = scores.label.tolist().index(tag)
    return [
        html.H3(f"Neuron {name}: {score_name(method)}"),
        html.Div(
            _table(heads, rows, numbers=range(1, len(heads)), mark=mark),
            className="scroll",
            tabIndex=0,
            role="region",
            **aria(label=f"Scores of neuron {name}"),
        ),
        html.P(
            "Rank 1 is the tag's strongest neuron. Mean, sd and how often it fires are of its activation "
            "at the tag's training words."
            + (
                ""
                if known is None
                else " Logits: how much a unit of activation raises the tag's words above others."
            ),
            className="note",
        ),
    ]


def examples(of_neuron: NeuronExamples) -> list[Any]:
    """Words at which one neuron is most and least active, and the tokens that it promotes."""
    about = f"over {int(of_neuron.count.sum()):,} training words"
    return [
        html.Figure(
            [html.H3(f"When it is active, {about}"), _graph(pictures.activations(of_neuron))],
            className="panel",
        ),
        html.Figure(
            [
                html.H3("Where it is most and least active"),
                html.Div(
                    html.Div(_graph(pictures.concordance(of_neuron)), className="wide"),
                    className="scroll",
                    tabIndex=0,
                    role="region",
                    **aria(label="Sentences"),
                ),
            ],
            className="panel",
        ),
        html.Div(
            [
                html.H3("What it writes, straight to the logits"),
                html.H4("Tokens it promotes"),
                _effects(of_neuron.promoted),
                html.H4("Tokens it suppresses"),
                _effects(of_neuron.suppressed),
                html.P("Numbers are logits per unit of its activation.", className="note"),
            ],
            className="panel",
        ),
    ]


def density(words: WordActivations, tag: str) -> list[Any]:
    """The distribution of one neuron's activation over each tag's words."""
    return [
        _graph(pictures.density(words, tag)),
        html.P(
            f"Kernel densities over {len(words.values):,} training words, each scaled to its own peak; "
            "ticks: medians. The axis spans 99 % of the words.",
            className="note",
        ),
    ]


def own_text(read: TextActivations) -> list[Any]:
    """A text with each token in the colour of a neuron's activation there, one neuron after the other."""
    lines = []
    columns = read.values.T.astype(float)
    for name, values, peak in zip(read.names, columns, read.peaks.tolist(), strict=True):
        most, digits = float(abs(values[peak])), decimals(values)
        lines.append(
            html.Div(
                [
                    html.P(
                        [
                            html.B(f"Neuron {name}"),
                            f": largest {number(values[peak], digits, plus=True)} at ",
                            html.Code(visible(read.tokens[peak])),
                        ]
                    ),
                    html.P(
                        _coloured(read.tokens, values, most, digits), className="own", dir="auto"
                    ),
                ]
            )
        )
    more = len(read.tokens) - MOST_COLOURED
    note = "Orange: above 0, blue: below; the deepest colour is the neuron's largest on this text."
    if len(read.tokens) > MOST_NUMBERS:
        note += " Point at a token for its activation."
    if read.alone:
        note += " The first token has nothing before it and is left out of the scale."
    if more > 0:
        note += f" The last {more:,} tokens are not shown."
    return [*lines, html.P(note, className="note")]


def _coloured(
    tokens: Sequence[str], values: Float[np.ndarray, " token"], most: float, digits: int
) -> list[html.Span]:
    numbers = len(tokens) <= MOST_NUMBERS
    spans = []
    for token, value in list(zip(tokens, values.tolist(), strict=True))[:MOST_COLOURED]:
        depth = 0.55 * min(abs(value) / (most or 1.0), 1)
        colour = {"backgroundColor": f"rgba({HIGH if value > 0 else LOW},{depth:.2f})"}
        shown, told = visible(token, blanks=False), number(value, digits, plus=True)
        if numbers:
            parts = [html.Span(shown, style=colour), html.Small(number(value, 2, plus=True))]
            spans.append(html.Span(parts, className="token", title=told))
        else:
            spans.append(html.Span(shown, style=colour, title=told))
    return spans


def hint(message: str) -> html.P:
    """Advice where nothing is wrong."""
    return html.P(message, className="note")


def waiting(message: str) -> html.P:
    """A note on what has to load before there is something to show."""
    return html.P(message, className="waiting")


def headline(tag: str, lesion: str, intact: Prediction, lesioned: Prediction) -> list[Any]:
    """The effect of the lesion on the tag in view, in one sentence."""
    if tag not in intact.labels:
        return [f"The lexicon knows no {tag}."]
    row = intact.labels.index(tag)
    before, after = intact.probability[row], lesioned.probability[row]
    return [
        f"P({tag}) is ",
        html.B(f"{before:.1%}"),
        " intact and ",
        html.B(f"{after:.1%}"),
        f" with {lesion}.",
    ]


def distribution(tag: str, intact: Prediction, lesioned: Prediction) -> list[Any]:
    """P(label | prompt) with and without the lesion as paired bars."""
    most = max(intact.probability.max(), lesioned.probability.max())
    rows = []
    for label, a, b in zip(intact.labels, intact.probability, lesioned.probability, strict=True):
        rows.append(
            [
                label,
                _pair(a / most, b / most),
                f"{a:.1%}",
                f"{b:.1%}",
                number(100 * (b - a), 1, plus=True),
            ]
        )
    mark = intact.labels.index(tag) if tag in intact.labels else None
    heads = ["tag", "P(tag | prompt)", "intact", "lesioned", "points"]
    return [
        html.H3("The next word's tag"),
        _legend(),
        _table(heads, rows, numbers=(2, 3, 4), mark=mark, style="bars"),
        html.P(
            f"Of what may come next, {intact.seen_mass:.0%} intact and {lesioned.seen_mass:.0%} "
            "lesioned begins some training word; the rest counts with the tags' overall shares.",
            className="note",
        ),
    ]


def likely(intact: Prediction, lesioned: Prediction) -> list[Any]:
    """The likeliest next tokens before and after."""
    rows = [
        [x for t in both for x in (visible(t.text), t.label or "new", f"{t.probability:.1%}")]
        for both in zip(intact.tokens, lesioned.tokens, strict=True)
    ]
    return [
        html.H3("The likeliest next tokens"),
        html.Div(
            _table(
                ["intact", "tag", "P", "lesioned", "tag", "P"], rows, numbers=(2, 5), style="tokens"
            ),
            className="scroll",
            tabIndex=0,
            role="region",
            **aria(label="What may come next"),
        ),
        html.P(
            "Tag: of most training words that begin with the token; new: of none.", className="note"
        ),
    ]


def texts(lesion: str, intact: Written, lesioned: Written) -> html.Div:
    """Both texts side by side, what was written standing out from the prompt."""
    return html.Div(
        [_text("Intact", intact, "intact"), _text(f"With {lesion}", lesioned, "lesioned")],
        className="beside",
    )


def fault(message: str) -> html.P:
    """The reason why there is nothing to show."""
    return html.P(message, className="missing")


def _text(title: str, written: Written, style: str) -> html.Div:
    parts = [
        html.Span(written.text[: written.begin], className="prompt"),
        html.Span(written.text[written.begin :], className="written"),
        html.Span(" ■ end", className="prompt") if written.ended else "",
    ]
    return html.Div(
        [html.H4(title), html.P(parts, className="text", dir="auto")], className=f"panel {style}"
    )


def _graph(figure: Any) -> dcc.Graph:
    # without a height of its own it shrinks to nothing where the window becomes narrower
    return dcc.Graph(figure=figure, config=GRAPH, style=height_of(figure))


def height_of(figure: Any) -> dict[str, str]:
    """Style of an element that holds a figure."""
    return {"height": f"{figure.layout.height:.0f}px"}


def _effects(effects: Sequence[TokenEffect]) -> html.Ul:
    digits = decimals([e.logit for e in effects])
    items = [
        html.Li([html.Code(visible(e.token)), " ", html.Small(number(e.logit, digits, plus=True))])
        for e in effects
    ]
    return html.Ul(items, className="tokens")


def _pair(intact: float, lesioned: float) -> html.Td:
    """Two bars. They are a background, as the browser is slow to make many elements while one types."""
    widths = {"--intact": f"{100 * intact:.2f}%", "--lesioned": f"{100 * lesioned:.2f}%"}
    return html.Td(className="pair", style=widths)


def _signed(share: float, text: str) -> html.Td:
    """A number beside a bar from the middle, to the right for what is positive."""
    start = 50 + 50 * min(share, 0)
    place = {"--start": f"{start:.2f}%", "--end": f"{start + 50 * abs(share):.2f}%"}
    return html.Td(text, className="number signed", style=place)


def _legend() -> html.P:
    keys = [
        html.Span([html.I(className=f"bar {style}"), style]) for style in ("intact", "lesioned")
    ]
    return html.P(keys, className="colours")


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numbers: Sequence[int] = (),
    mark: int | None = None,
    style: str = "",
) -> html.Table:
    """A table whose first column names the rows; row `mark` stands out."""
    kind = ["number" if i in numbers else "" for i in range(len(heads))]
    head = [html.Th(h, scope="col", className=k) for h, k in zip(heads, kind, strict=True)]
    body = [
        html.Tr(
            [
                html.Th(row[0], scope="row", className=kind[0]),
                *(
                    c if isinstance(c, html.Td) else html.Td(c, className=k)
                    for c, k in zip(row[1:], kind[1:], strict=True)
                ),
            ],
            className="marked" if i == mark else "",
        )
        for i, row in enumerate(rows)
    ]
    return html.Table([html.Thead(html.Tr(head)), html.Tbody(body)], className=style)
