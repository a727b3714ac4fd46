"""Figures of one neuron, and the split of the loss: what they draw equals the result."""

from dataclasses import replace

import numpy as np
import pytest
from made_figures import (
    HOSTILE,
    LABELS,
    PLAIN_HOSTILE,
    made_example,
    made_examples,
    made_moments,
    made_null,
    made_study,
)
from traces import layout_of, traces_by_name, traces_of

from grammar_lens import figures
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.passages import visible
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


@pytest.fixture(scope="module")
def scores() -> Scores:
    return score(made_moments())


def test_scores_of_a_neuron_with_ranks_and_chance(scores: Scores) -> None:
    figure = figures.neuron_scores(scores, (1, 17))
    (bars,) = traces_of(figure)
    np.testing.assert_array_equal(bars.x, scores.values[:, 1, 17])
    np.testing.assert_array_equal(bars.customdata[:, 2], scores.effect[:, 1, 17])
    assert bars.customdata[1, 1] == 1  # the planted neuron of the second label
    strength = np.abs(scores.values[0]).ravel()
    assert bars.customdata[0, 1] == 1 + (strength > strength[40 + 17]).sum()
    assert layout_of(figure).title.text == "Neuron 1.17: correlation r"
    null = made_null(scores, made_moments())
    chance = traces_by_name(figures.neuron_scores(replace(scores, null=null), (1, 17)))[
        "exchanged labels (mean ± 1.96 sd)"
    ]
    np.testing.assert_array_equal(chance.x, null.mean[:, 1, 17])
    np.testing.assert_allclose(chance.error_x.array, 1.96 * null.sd[:, 1, 17])


def test_scores_of_a_neuron_count_from_neutral(scores: Scores) -> None:
    auroc = replace(scores, method="auroc", values=0.5 + scores.values / 10, neutral=0.5)
    (bars,) = traces_of(figures.neuron_scores(auroc, (1, 17)))
    np.testing.assert_allclose(bars.x + bars.base, auroc.values[:, 1, 17])
    np.testing.assert_array_equal(bars.customdata[:, 0], auroc.values[:, 1, 17])


@pytest.mark.parametrize("address", [(3, 0), (0, 40), (-1, 0), (0, -1)])
def test_a_neuron_that_does_not_exist_is_refused(scores: Scores, address: tuple[int, int]) -> None:
    with pytest.raises(GrammarLensError, match="has 3 layers of 40 neurons, numbered from 0"):
        figures.neuron_scores(scores, address)


def test_activations_are_the_quantiles_highest_median_first() -> None:
    found = made_examples()
    figure = figures.activations_by_label(found)
    drawn = traces_by_name(figure)
    box, median = drawn["words"], drawn["median"]
    assert list(box.y) == list(median.y) == ["VERB", "NOUN"]  # ADJ has no words
    rows = found.quantiles[[1, 0]]
    for name, column in zip(
        ("lowerfence", "q1", "median", "q3", "upperfence"), range(1, 6), strict=True
    ):
        np.testing.assert_array_equal(box[name], rows[:, column])
    ends = drawn["lowest and highest word"]
    np.testing.assert_array_equal(ends.x, [*rows[:, 0], *rows[:, 6]])
    assert list(median.customdata[:, 0]) == [50, 100]
    assert "150 words" in layout_of(figure).title.subtitle.text
    nothing = replace(found, count=np.zeros(3, int))
    with pytest.raises(GrammarLensError, match=r"no words of neuron 1\.17 were read"):
        figures.activations_by_label(nothing)


def test_concordance_centres_the_token_that_was_read() -> None:
    figure = figures.concordance(made_examples(), width=2)
    most, least = traces_of(figure)
    assert list(most.x) == [-2, -1, 0, 1, 2]
    assert [list(row) for row in most.text] == [
        ["", "The", "<b>·dog</b>", "·bark", "s"],
        ["·dog", "·bark", "<b>s</b>", "·.", ""],
    ]
    np.testing.assert_allclose(
        most.z, [[np.nan, 0.4, 4, 0.4, 0.4], [0.3, 0.3, 3, 0.3, np.nan]], atol=1e-12
    )
    # read at BOS, which has no text
    assert list(least.text[0]) == ["", "", "(start)", "<b>The</b>", "·dog"]
    np.testing.assert_allclose(least.z[0], [np.nan, np.nan, -2, -0.2, -0.2])
    assert most.zmin == least.zmin == -4
    assert most.zmax == least.zmax == 4
    assert "activation +4.0000" in most.hovertext[0][2]
    assert "read for “w” (NOUN): +4.0000<br>made:7" in most.hovertext[0][3]
    frames = [(s.x0, s.x1, s.y0, s.y1) for s in layout_of(figure).shapes]
    assert [f[:2] for f in frames] == [(-0.5, 0.5)] * 2
    # a gap between both ends
    assert frames[0][3] < frames[1][2]
    assert layout_of(figure).yaxis.ticktext[0] == "4.00  NOUN"


def test_concordance_of_one_end_and_of_none() -> None:
    found = made_examples()
    (only,) = traces_of(figures.concordance(replace(found, top=())))
    assert only.name == "least active"
    assert only.showscale
    with pytest.raises(GrammarLensError, match=r"no examples of neuron 1\.17"):
        figures.concordance(replace(found, top=(), bottom=()))
    with pytest.raises(GrammarLensError, match="width is 0, expected 1 token or more"):
        figures.concordance(found, width=0)


def test_tokens_of_any_kind_are_shown_as_text() -> None:
    tokens = ("<b>x</b>", "\n\t", " \u202eevil", "ab" * 250, "👩\u200d🚀", "%{x}")
    end = made_example(tokens, 2, 1.0, word=HOSTILE, label=HOSTILE)
    figure = figures.concordance(replace(made_examples(), top=(end,), bottom=()), width=3)
    cells, hover = traces_of(figure)[0].text[0], traces_of(figure)[0].hovertext[0]
    assert list(cells[1:]) == [
        "&lt;b&gt;x&lt;/b&gt;",
        "\\n\\t",
        "<b>·\\u202ee…</b>",
        "abababab…",
        "👩\u200d🚀",
        "%{x}",
    ]
    assert "(500 characters)" in hover[4]
    assert hover[4].startswith(f"“{'ab' * 30}<br>{'ab' * 30}<br>")
    assert PLAIN_HOSTILE in hover[1]
    assert not [s for s in hover if "<script" in s]


def test_visible_leaves_letters_of_every_script() -> None:
    assert visible(" كتاب 本\u00a0é") == "·كتاب·本\u00a0é"
    assert visible(" a", blanks=False) == " a"
    assert visible("\ud800\x00\u2028") == "\\ud800\\x00\\u2028"


def test_the_split_of_the_loss_adds_up() -> None:
    study = made_study()
    figure = figures.loss_split(study)
    drawn = traces_by_name(figure)
    tag, word = drawn["which tag comes"], drawn["which word of the tag"]
    np.testing.assert_array_equal(tag.x, np.diag(study.matrix))
    np.testing.assert_allclose(tag.x + word.x, np.diag(study.nll_matrix))
    np.testing.assert_array_equal(drawn["the whole word (sum)"].x, np.diag(study.nll_matrix))
    shams = drawn["shams: which tag comes (mean)"]
    np.testing.assert_array_equal(shams.x, np.diag(study.sham_mean))
    assert list(tag.y) == list(LABELS)
    assert list(tag.customdata) == list(study.n_words)
    assert "the split is exact" in layout_of(figure).title.subtitle.text
    assert len(traces_of(figures.loss_split(made_study(n_shams=0)))) == 3
