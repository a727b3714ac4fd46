"""The figure of what comes after a prompt draws the numbers of the result."""

import numpy as np
from traces import traces_of

from grammar_lens import figures
from grammar_lens.lesions.next_word import NextWord


def expected(doses: tuple[float, ...] = (0.0, 0.5, 1.0)) -> NextWord:
    n = len(doses)
    labels = np.linspace(0.1, 0.4, 2 * n).reshape(n, 2)
    return NextWord(
        *("m", "the <b>", "VERB", 3, "mean", doses, ("NOUN", "VERB"), labels, np.ones(n)),
        *((" a", "a"), ("NOUN", None), labels / 2),
    )


def test_bars_are_the_probabilities_of_every_dose() -> None:
    result = expected()
    bars = traces_of(figures.next_word(result))
    assert [bar["name"] for bar in bars] == [c for c in result.columns for _ in range(2)]
    table, tokens = result.to_frame(), result.tokens_frame()
    for i, column in enumerate(result.columns):
        assert list(bars[2 * i]["x"]) == list(table[column])
        assert list(bars[2 * i]["y"]) == list(table["label"])
        assert list(bars[2 * i + 1]["x"]) == list(tokens[column])
    assert len(set(bars[1]["y"])) == 2, "tokens that differ by a blank have bars of their own"


def test_the_prompt_is_text() -> None:
    figure = figures.next_word(expected((0.0,)))
    assert "the &lt;b&gt;" in figure.layout.title.text
    assert not figure.layout.showlegend
