"""Heatmaps draw every unit, in the order and colours they say, and ring the neurons chosen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_figures import LABELS, made_moments, made_null
from traces import layout_of, traces_of

from grammar_lens import figures
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.heatmaps import ROBUST
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.selection import select
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


@pytest.fixture
def scores() -> Scores:
    return score(made_moments())


@pytest.fixture
def keys(scores: Scores) -> KeyNeurons:
    return select(scores, k=6)


def with_an_outlier(scores: Scores) -> Scores:
    values = scores.values.copy()
    values[1, 0, 5] = 1000.0
    return replace(scores, values=values)


def test_one_outlier_does_not_blank_the_rest(scores: Scores) -> None:
    values = np.random.default_rng(0).normal(size=(3, 3, 40))
    values[1, 0, 5] = 1000.0
    wild = replace(scores, values=values)
    drawn = traces_of(figures.layer_neuron_heatmap(wild, "VERB"))[0]
    assert drawn.zmax == pytest.approx(np.percentile(np.abs(values[1]), ROBUST))
    figure = figures.layer_neuron_heatmap(wild, "VERB")
    assert f"{ROBUST:g} %" in layout_of(figure).title.subtitle.text
    linear = traces_of(figures.layer_neuron_heatmap(wild, "VERB", scale="linear"))[0]
    assert linear.zmax == 1000


def test_symlog_colours_are_logarithms_and_ticks_are_scores(scores: Scores) -> None:
    wild = with_an_outlier(scores)
    drawn = traces_of(figures.layer_neuron_heatmap(wild, "VERB", scale="symlog"))[0]
    linear = np.median(np.abs(wild["VERB"]))
    assert drawn.z[0, 5] == pytest.approx(np.log1p(1000 / linear), rel=1e-6)
    assert drawn.zmax == pytest.approx(np.log1p(1000 / linear))
    assert drawn.customdata[0, 5].tolist() == [5, 1000]
    ticks = dict(zip(drawn.colorbar.ticktext, drawn.colorbar.tickvals, strict=True))
    assert ticks["0"] == 0
    some = max(float(t) for t in ticks if t[0].isdigit())
    assert ticks[f"{some:.3g}"] == pytest.approx(np.log1p(some / linear))


def test_units_sorted_by_strength_keep_their_addresses(scores: Scores) -> None:
    figure = figures.layer_neuron_heatmap(scores, "VERB", order="strength")
    drawn, marks = traces_of(figure)[:2]
    for layer, row in enumerate(drawn.z):
        assert (np.diff(np.abs(row)) <= 0).all()
        np.testing.assert_array_equal(
            row, scores["VERB"][layer, drawn.customdata[layer]].astype(np.float32)
        )
    assert (marks.y[0], marks.customdata[0, 3]) == (1, 17), "the planted neuron"
    assert drawn.x[0] == 1
    assert 1 < marks.x[0] < 2, "the first rank"
    assert layout_of(figure).xaxis.type == "log"
    assert "rank" in layout_of(figure).xaxis.title.text


def test_ranks_of_a_wide_layer_share_cells_that_show_the_strongest() -> None:
    wide = score(made_moments(LABELS[:2], shape=(4, 14_336)))
    drawn = traces_of(figures.layer_neuron_heatmap(wide, "VERB", order="strength"))[0]
    assert drawn.z.shape[1] <= 240
    assert (drawn.x[0], drawn.x[-1]) == (1, 14_337)
    ranked = np.sort(np.abs(wide["VERB"]), axis=1)[:, ::-1]
    np.testing.assert_allclose(np.abs(drawn.z), ranked[:, drawn.x[:-1] - 1], rtol=1e-6)


def test_chosen_neurons_are_ringed_where_they_stand(scores: Scores, keys: KeyNeurons) -> None:
    for order in ("index", "strength"):
        figure = figures.layer_neuron_heatmap(scores, "VERB", keys=keys, order=order)
        drawn, rings = traces_of(figure)
        assert rings.name == "6 chosen"
        for x, layer, (_, _, index) in zip(rings.x, rings.y, rings.customdata, strict=True):
            cell = x if order == "index" else np.searchsorted(drawn.x, x) - 1
            assert order == "index" or drawn.customdata[layer, cell] == index
            assert order == "strength" or x == index
            assert (int(layer), int(index)) in keys["VERB"]


def test_units_that_pass_no_test_are_left_out(scores: Scores) -> None:
    tested = replace(scores, null=made_null(scores, made_moments()))
    assert tested.null is not None
    passes = tested.null.q()[LABELS.index("VERB")] <= 0.05
    assert 0 < passes.sum() < passes.size
    drawn = traces_of(figures.layer_neuron_heatmap(tested, "VERB", alpha=0.05))[0]
    np.testing.assert_array_equal(np.isfinite(drawn.z), passes)
    with pytest.raises(GrammarLensError, match="has no null"):
        figures.layer_neuron_heatmap(scores, "VERB", alpha=0.05)


def test_every_label_has_a_small_heatmap_in_the_same_colours(
    scores: Scores, keys: KeyNeurons
) -> None:
    figure = figures.layer_neuron_heatmaps(scores, keys=keys, bins=40, order="index")
    maps = [t for t in traces_of(figure) if t.type == "heatmap"]
    rings = [t for t in traces_of(figure) if t.type == "scatter"]
    for label, drawn, ring in zip(LABELS, maps, rings, strict=True):
        np.testing.assert_array_equal(drawn.z, scores[label].astype(np.float32))
        assert drawn.coloraxis == "coloraxis"
        assert list(ring.x) == keys[label].index.tolist()
        assert (ring.xaxis, ring.yaxis) == (drawn.xaxis, drawn.yaxis)
    distance = np.abs(scores.values)
    assert layout_of(figure).coloraxis.cmax == pytest.approx(np.percentile(distance, ROBUST))
    titles = [note.text for note in layout_of(figure).annotations]
    assert titles == list(LABELS)


@pytest.mark.parametrize("options", [{"order": "size"}, {"scale": "log"}])
def test_what_a_heatmap_does_not_know(scores: Scores, options: dict[str, Any]) -> None:
    with pytest.raises(GrammarLensError, match="expected one of"):
        figures.layer_neuron_heatmap(scores, "VERB", **options)


def test_the_legend_of_many_labels_has_room() -> None:
    many = score(made_moments(tuple(f"L{i}" for i in range(17))))
    assert layout_of(figures.layer_profile(many)).height >= 140 + 20 * 17
