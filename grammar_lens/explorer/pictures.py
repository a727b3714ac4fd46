"""Figures adapted to a page that has its own headings."""

from typing import Any

from grammar_lens import figures
from grammar_lens.figures.densities import activation_density
from grammar_lens.neurons.address import Address
from grammar_lens.neurons.examples import NeuronExamples
from grammar_lens.neurons.word_activations import WordActivations
from grammar_lens.selectivity.result import Scores

CHOSEN = "#0b5c9e"
FAINT = 0.15


def heatmap(scores: Scores, label: str, chosen: Address | None) -> Any:
    """Every neuron's score for one label, with the chosen neuron marked."""
    figure = figures.layer_neuron_heatmap(scores, label)
    if chosen is not None:
        figure.add_scatter(
            x=[chosen[1]],
            y=[chosen[0]],
            mode="markers",
            marker={
                "symbol": "diamond-open",
                "size": 16,
                "color": CHOSEN,
                "line": {"width": 3},
            },
            cliponaxis=False,
            name="chosen",
            hoverinfo="skip",
        )
    return _without_title(figure)


def profile(scores: Scores, label: str) -> Any:
    """Every layer's strength for each label, all but one faint; the band of chance is its own."""
    figure: Any = figures.layer_profile(scores)
    column = str(scores.labels.index(label))
    highest = 0.0
    for trace in figure.data:
        if trace.legendgroup == column:
            highest = max(highest, *trace.y)
        else:
            trace.opacity = 0.0 if trace.fill else FAINT
    # others may leave the frame: the label in view is what must be seen
    figure.update_yaxes(range=[0, 1.15 * highest or 1.0])
    return _without_title(figure).update_layout(showlegend=False)


def activations(examples: NeuronExamples) -> Any:
    """One neuron's activation over the words of every label."""
    return _without_title(figures.activations_by_label(examples))


def density(words: WordActivations, label: str) -> Any:
    """The distribution of one neuron's activation over each label's words."""
    return _without_title(activation_density(words, label))


def concordance(examples: NeuronExamples) -> Any:
    """The words at which one neuron is most and least active, in their sentences."""
    return _without_title(figures.concordance(examples))


def _without_title(figure: Any) -> Any:
    """A figure without its title, which a narrow window would cut off."""
    height = figure.layout.height - 40
    return figure.update_layout(title=None, margin_t=38, height=height, uirevision="same")
