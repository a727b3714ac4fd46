"""The figure of layers draws what the probes found, with the panels that there are numbers for."""

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
from made_figures import made_layer_lesions, made_layer_table, made_layers
from traces import layout_of, traces_of

from grammar_lens import figures
from grammar_lens.probing.layer_results import LayerProbes


def titles(figure: go.Figure) -> list[str]:
    notes = [note.text for note in layout_of(figure).annotations]
    return [text for text in notes if text.startswith("<b>")]


def lines(figure: go.Figure, axis: str) -> dict[str, np.ndarray]:
    """Values by name of the lines of one panel."""
    found = [t for t in traces_of(figure) if (t.xaxis or "x") == axis]
    return {t.name: np.array(t.y, float) for t in found}


def test_every_line_is_its_numbers() -> None:
    probes, table = made_layers(), made_layer_table()
    figure = figures.layer_by_layer(probes, table)
    assert [t.split(":")[0] for t in titles(figure)] == [
        "<b>Read at the word",
        "<b>Read before the word",
        "<b>Information gained on the word to come</b>",
        "<b>Selectivity",
    ]
    for axis, position in (("x", "word"), ("x2", "next")):
        drawn, probe = lines(figure, axis), probes[position]
        np.testing.assert_array_equal(drawn["the layer"], probe.accuracy)
        np.testing.assert_array_equal(
            drawn["the layer, untrained"], probes.untrained[position].accuracy
        )
        np.testing.assert_array_equal(drawn["control task"], probe.control_accuracy)
        np.testing.assert_array_equal(drawn["95 % interval"], [*probe.high, *probe.low[::-1]])
        assert set(drawn["majority label"]) == {0.2}
    information = lines(figure, "x3")["information"]
    np.testing.assert_allclose(information[-1], (2.1 - 2.0) / (2.1 - 1.9))
    selectivity = lines(figure, "x4")
    np.testing.assert_array_equal(selectivity["neurons"], table.rms_neuron)
    np.testing.assert_array_equal(selectivity["dimensions of the stream"], table.rms_resid)


def test_the_embedding_has_its_name_on_every_axis() -> None:
    layout = layout_of(figures.layer_by_layer(made_layers(n_layers=30), made_layer_table(30)))
    for axis in (layout.xaxis, layout.xaxis2, layout.xaxis3, layout.xaxis4):
        # at every fourth layer, 0 would run into the name
        assert axis.ticktext[:3] == ("emb.", "4", "8")
        assert axis.tickvals[:3] == (-1, 4, 8)
    few = layout_of(figures.layer_by_layer(made_layers(n_layers=8), made_layer_table(8)))
    assert few.xaxis.ticktext[:3] == ("emb.", "0", "1")


def test_a_name_stands_once_in_the_legend() -> None:
    shown = [
        t.name
        for t in traces_of(figures.layer_by_layer(made_layers(), made_layer_table()))
        if t.showlegend is not False
    ]
    assert len(shown) == len(set(shown))


def test_lesions_are_drawn_as_means_over_labels() -> None:
    figure = figures.layer_lesions(made_layer_lesions())
    neurons, direction = lines(figure, "x"), lines(figure, "x2")
    np.testing.assert_allclose(neurons["own words"], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(direction["own words"], [0.2, 0.4, 0.6])
    np.testing.assert_allclose(direction["other words, shams"], 0.001)


def test_panels_without_numbers_are_left_out() -> None:
    whole = made_layers()
    at_word = LayerProbes({"word": whole["word"]}, {})
    figure = figures.layer_by_layer(at_word)
    assert len(titles(figure)) == 1
    assert "the layer, untrained" not in lines(figure, "x")
    unknown = replace(whole["next"], model_cross_entropy=2.5)  # worse than the word before
    assert len(titles(figures.layer_by_layer(LayerProbes({"next": unknown}, {})))) == 1
