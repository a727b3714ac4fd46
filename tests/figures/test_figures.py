"""Figures: what they draw equals the result, and text from outside stays text."""

from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from made_figures import (
    HOSTILE,
    LABELS,
    PLAIN_HOSTILE,
    every_figure,
    made_calibration,
    made_controls,
    made_course,
    made_curve,
    made_extended,
    made_moments,
    made_null,
    made_probe,
    made_redundancy,
    made_study,
    origin,
)
from traces import layout_of, traces_by_name, traces_of
from typed import present

from grammar_lens import figures
from grammar_lens.corpus.origin import Origin
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.style import SCORE_NAMES, STYLE, decimals, number
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_counts, layer_strength, overlap
from grammar_lens.neurons.selection import select
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


@pytest.fixture(scope="module")
def scores() -> Scores:
    return score(made_moments())


@pytest.fixture(scope="module")
def keys(scores: Scores) -> KeyNeurons:
    return select(scores, k=6)


def test_heatmap_draws_every_score(scores: Scores) -> None:
    figure = figures.layer_neuron_heatmap(scores, "VERB", scale="linear")
    drawn = traces_of(figure)[0]
    np.testing.assert_array_equal(drawn.z, scores["VERB"].astype(np.float32))
    assert drawn.zmin == -drawn.zmax == -np.abs(scores["VERB"]).max()
    assert layout_of(figure).xaxis.title.text == "neuron within its layer"
    assert layout_of(figure).yaxis.title.text == "layer"
    assert drawn.colorbar.title.text == "correlation r"


def test_heatmap_marks_the_planted_neuron_first(scores: Scores) -> None:
    marks = traces_of(figures.layer_neuron_heatmap(scores, "VERB", top=3))[1]
    assert (marks.y[0], marks.x[0]) == (1, 17)
    rank, value, effect, index = marks.customdata[0]
    assert index == 17
    assert rank == 1
    assert value == scores["VERB"][1, 17]
    assert effect == scores.effect[LABELS.index("VERB"), 1, 17]
    assert list(marks.customdata[:, 0]) == [1, 2, 3]


def test_bins_keep_the_signed_maximum_of_every_bin(scores: Scores) -> None:
    values = scores["NOUN"]
    drawn = traces_of(figures.layer_neuron_heatmap(scores, "NOUN", bins=7))[0]
    width = drawn.dx
    assert width == -(-values.shape[1] // 7)
    for layer, row in enumerate(values):
        for b in range(drawn.z.shape[1]):
            part = row[b * width : (b + 1) * width]
            best = int(np.abs(part).argmax())
            assert drawn.z[layer, b] == np.float32(part[best])
            assert drawn.customdata[layer, b] == b * width + best
    assert drawn.z.shape[1] <= 7
    assert drawn.x0 == (width - 1) / 2


def test_wide_layers_are_binned_and_stay_small() -> None:
    wide = score(made_moments(LABELS[:2], shape=(32, 14_336)))
    wide.values[1, 30, 14_335] = -0.9
    figure = figures.layer_neuron_heatmap(wide, "VERB")
    drawn = traces_of(figure)[0]
    assert drawn.z.shape == (32, 448)
    assert drawn.z[30, -1] == np.float32(-0.9)
    assert drawn.customdata[30, -1] == 14_335
    assert (traces_of(figure)[1].y[0], traces_of(figure)[1].x[0]) == (30, 14_335)
    assert len(str(figure.to_json())) < 200_000
    every = traces_of(figures.layer_neuron_heatmap(wide, "VERB", bins=14_336))[0]
    assert every.z.shape == (32, 14_336)


def test_heatmap_refuses_an_unknown_label_and_no_bins(scores: Scores) -> None:
    with pytest.raises(GrammarLensError, match=r"'GERUND'.*NOUN, VERB"):
        figures.layer_neuron_heatmap(scores, "GERUND")
    with pytest.raises(GrammarLensError, match="bins is 0, expected 1 or more"):
        figures.layer_neuron_heatmap(scores, "VERB", bins=0)


def test_scores_that_are_all_zero_have_a_scale(scores: Scores) -> None:
    flat = replace(scores, values=np.zeros_like(scores.values))
    drawn = traces_of(figures.layer_neuron_heatmap(flat, "VERB"))[0]
    assert (drawn.zmin, drawn.zmax) == (-1, 1)


def test_layer_profile_draws_strength_and_counts(scores: Scores, keys: KeyNeurons) -> None:
    alone = figures.layer_profile(scores)
    assert [line.name for line in traces_of(alone)] == list(LABELS)
    np.testing.assert_array_equal([line.y for line in traces_of(alone)], layer_strength(scores))
    both = figures.layer_profile(scores, keys)
    np.testing.assert_array_equal(traces_of(both)[-1].z, layer_counts(keys))
    assert layout_of(both).yaxis2.title.text == "key neurons (top 6, absolute, no null)"


def test_layer_profile_has_a_band_of_the_null_and_none_without(scores: Scores) -> None:
    assert len(traces_of(figures.layer_profile(scores))) == len(LABELS)
    null = made_null(scores, made_moments())
    figure = figures.layer_profile(replace(scores, null=null))
    bands, lines = traces_of(figure)[:3], traces_of(figure)[3:]
    low, high = np.percentile(null.strength, [2.5, 97.5], axis=0)
    for i, (band, line) in enumerate(zip(bands, lines, strict=True)):
        np.testing.assert_array_equal(band.x, [0, 1, 2, 2, 1, 0])
        np.testing.assert_array_equal(band.y, [*low[i], *high[i][::-1]])
        np.testing.assert_array_equal(line.y, layer_strength(scores)[i])
        np.testing.assert_array_equal(line.customdata, np.stack([low[i], high[i]], 1))
        assert band.legendgroup == line.legendgroup
    # the planted neuron stands above the band in its layer
    assert lines[1].y[1] > high[1, 1]
    assert "30 exchanges" in layout_of(figure).title.subtitle.text


def test_strength_counts_from_neutral_and_missing_scores_stay_empty(scores: Scores) -> None:
    chance = replace(scores, method="auroc", values=scores.values * 0.1 + 0.5, neutral=0.5)
    np.testing.assert_allclose(layer_strength(chance), layer_strength(scores) * 0.1)
    drawn = figures.layer_neuron_heatmap(chance, "VERB")
    assert traces_of(drawn)[0].zmin + traces_of(drawn)[0].zmax == pytest.approx(1)
    assert (traces_of(drawn)[1].y[0], traces_of(drawn)[1].x[0]) == (1, 17)
    missing = scores.values.copy()
    missing[1] = np.nan
    missing[1, 0, 3], missing[1, 2, 5] = 0.2, 1.1
    low = replace(scores, method="entropy", values=missing, best="low")
    marks = traces_of(figures.layer_neuron_heatmap(low, "VERB"))[1]
    assert list(zip(marks.y, marks.x, strict=True)) == [(0, 3), (2, 5)]  # low is strong
    assert traces_of(figures.layer_neuron_heatmap(low, "VERB", bins=4))[0].z[0, 0] == np.float32(
        0.2
    )


def test_every_score_has_a_name() -> None:
    assert set(SCORES) == set(SCORE_NAMES)


def test_decimals_show_three_digits_of_the_largest() -> None:
    assert decimals([0.3, -0.1]) == 3
    assert decimals([0.0108, np.nan]) == 4
    assert decimals(np.array([1e-12])) == 7
    assert decimals([]) == decimals([0.0]) == 3


def test_time_course_draws_both_panels_of_the_label() -> None:
    course = made_course()
    figure = figures.time_course(course, "VERB")
    left, right = traces_of(figure)
    np.testing.assert_array_equal(left.z, course.strength[:, 1].T)
    np.testing.assert_array_equal(right.z, course.key[:, 1].T)  # NaN in layer 0 too
    assert list(left.x) == [-1, 0, 1]
    np.testing.assert_array_equal(left.customdata[0], course.count[:, 1])
    assert left.zmin == 0
    assert left.zmax == 0.3
    assert right.zmin == -right.zmax == -np.nanmax(np.abs(course.key[:, 1]))
    assert {(s.x0, s.x1) for s in layout_of(figure).shapes} == {(-0.5, 0.5)}
    assert {s.xref for s in layout_of(figure).shapes} == {"x", "x2"}
    assert layout_of(figure).xaxis.title.text == "tokens from the word's last token (0)"
    assert list(layout_of(figure).xaxis.ticktext) == ["\N{MINUS SIGN}1", "0", "+1"]
    assert not layout_of(figure).updatemenus


def test_time_course_sorts_offsets_and_bears_a_label_without_values() -> None:
    course = made_course()
    turned = replace(
        course,
        offsets=course.offsets[::-1],
        **{n: getattr(course, n)[::-1] for n in ("count", "strength", "key")},
    )
    first = traces_of(figures.time_course(turned, "NOUN"))[0]
    np.testing.assert_array_equal(first.z, course.strength[:, 0].T)
    empty = replace(course, strength=np.full_like(course.strength, np.nan))
    assert traces_of(figures.time_course(empty, "NOUN"))[0].zmax == 1


def test_time_course_menu_shows_one_label_at_a_time() -> None:
    course = made_course()
    figure = figures.time_course(course)
    buttons = layout_of(figure).updatemenus[0].buttons
    assert [b.label for b in buttons] == list(LABELS)
    assert [t.visible for t in traces_of(figure)] == [True, True, False, False, False, False]
    shown, title = buttons[2].args
    assert shown["visible"] == [False] * 4 + [True] * 2
    assert title["title.text"] == "When ADJ can be read"
    np.testing.assert_array_equal(traces_of(figure)[4].z, course.strength[:, 2].T)
    assert not layout_of(figures.time_course(made_course(("NOUN",)))).updatemenus


def test_time_course_refuses_an_unknown_label() -> None:
    with pytest.raises(GrammarLensError, match=r"'X'.*NOUN, VERB, ADJ"):
        figures.time_course(made_course(), "X")


def test_grammar_or_vocabulary_draws_all_three_effects() -> None:
    table = made_controls().within_type
    assert table is not None
    drawn = traces_by_name(figures.grammar_or_vocabulary(table))
    plain, guarded = drawn["all words"], drawn["at equal frequency and place"]
    within = drawn["within word forms (± standard error)"]
    np.testing.assert_array_equal(plain.x, table["effect"])
    np.testing.assert_array_equal(guarded.x, table["guarded"])
    np.testing.assert_array_equal(within.x, table["within_type"])
    np.testing.assert_array_equal(within.error_x.array, table["standard_error"])
    assert list(plain.marker.symbol) == ["circle", "circle", "circle-open"]
    assert plain.text[0] == "40 ambiguous forms"
    assert plain.text[2] == "no form occurs both with this label and without it"
    assert list(plain.y) == list(LABELS)


def test_grammar_or_vocabulary_at_next_and_of_one_label(keys: KeyNeurons) -> None:
    table = made_controls().within_type
    assert table is not None
    there = replace(keys, origin=origin("m", "next"))
    drawn = traces_by_name(figures.grammar_or_vocabulary(table.head(1), there))
    assert list(drawn["after the same word (± standard error)"].x) == [0.5]
    with pytest.raises(GrammarLensError, match="the table has no labels"):
        figures.grammar_or_vocabulary(table.head(0))


def test_selection_controls_draw_true_and_exchanged(scores: Scores, keys: KeyNeurons) -> None:
    controls = made_controls(null=made_null(scores, made_moments()))
    assert controls.sham is not None
    assert controls.reliability is not None
    figure = figures.selection_controls(controls, keys)
    drawn = traces_by_name(figure)
    real, sham = drawn["true labels"], drawn["exchanged labels (mean; bar to the largest)"]
    np.testing.assert_array_equal(real.x, controls.sham["strength"])
    np.testing.assert_array_equal(real.customdata[:, 0], controls.sham["by_fdr"])
    np.testing.assert_array_equal(sham.x, controls.sham["sham_strength"])
    np.testing.assert_allclose(
        sham.x + sham.error_x.array, controls.sham["sham_strongest"], rtol=1e-12
    )
    halves, chance = drawn["two halves"], drawn["chance"]
    np.testing.assert_array_equal(halves.x, controls.reliability["share"])
    np.testing.assert_array_equal(chance.x, controls.reliability["expected_share"])
    np.testing.assert_array_equal(halves.customdata[:, 4], controls.reliability["jaccard"])
    assert list(halves.y) == list(LABELS)
    assert layout_of(figure).xaxis.title.text == "mean strength: correlation r"
    assert "30 exchanges" in layout_of(figure).title.subtitle.text


def test_selection_controls_show_what_there_is() -> None:
    alone = figures.selection_controls(made_controls())
    assert set(traces_by_name(alone)) == {"difference", "chance", "two halves"}
    nothing = replace(made_controls(), reliability=None)
    with pytest.raises(GrammarLensError, match="neither a sham localiser nor a reliability"):
        figures.selection_controls(nothing)


def test_accuracy_against_k_draws_every_ranking() -> None:
    curve = made_curve()
    figure = figures.accuracy_against_k(curve, majority=0.2, word_baseline=0.75)
    first = {t.name: t for t in traces_of(figure) if t.xaxis == "x"}
    for name, score_ in (("correlation r", "correlation"), ("random neurons", "random")):
        rows = curve[curve["score"] == score_]
        np.testing.assert_array_equal(first[name].x, rows["k"])
        np.testing.assert_array_equal(first[name].y, rows["accuracy"])
        np.testing.assert_array_equal(first[name].customdata, rows[["n_neurons", "macro_f1"]])
    rows = curve[curve["score"] == "exchanged labels"]
    control = first["control task (exchanged labels)"]
    np.testing.assert_array_equal(control.y, rows["control_accuracy"])
    assert set(first["majority label"].y) == {0.2}
    assert set(first["the word alone"].y) == {0.75}
    # no word is unseen, so the second panel is of ambiguous words
    second = {t.name: t for t in traces_of(figure) if t.xaxis == "x2"}
    np.testing.assert_array_equal(second["exchanged labels"].y, rows["ambiguous_accuracy"])
    assert {t.xaxis for t in traces_of(figure)} == {"x", "x2"}
    assert layout_of(figure).xaxis.type == layout_of(figure).xaxis2.type == "log"
    assert list(layout_of(figure).xaxis.tickvals) == [1, 5, 20]


def test_accuracy_against_k_with_little() -> None:
    one = made_curve().head(1).assign(ambiguous_accuracy=np.nan)
    names = [t.name for t in traces_of(figures.accuracy_against_k(one))]
    assert names == ["correlation r", "control task (correlation r)"]
    before = figures.accuracy_against_k(one, word_baseline=0.5, origin=origin("m", "next"))
    assert traces_of(before)[-1].name == "the word before alone"
    with pytest.raises(GrammarLensError, match="the curve has no points"):
        figures.accuracy_against_k(one.head(0))


def test_probe_without_draws_and_with_an_interval() -> None:
    probe = replace(made_probe(), random_accuracy=None, random_accuracies=())
    figure = figures.probe_accuracy(probe)
    assert traces_of(figure)[0].x[1] is None
    assert traces_of(figure)[-1].text[1].strip() == "not drawn"
    probe = replace(made_probe(), accuracy_low=0.83, accuracy_high=0.87)
    _, interval, _, numbers = traces_of(figures.probe_accuracy(probe))
    assert interval.x == (0.83, 0.87)
    # numbers stand beyond the interval and the draws
    assert numbers.x[0] == 0.87
    assert numbers.text[0].strip() == "0.850"


def test_many_labels_stay_apart() -> None:
    labels = tuple(f"L{i}" for i in range(20))
    lines = traces_of(figures.layer_profile(score(made_moments(labels))))
    assert len({(line.line.color, line.line.dash) for line in lines}) == 20


def test_overlap_matrix_shows_jaccard_and_chance(keys: KeyNeurons) -> None:
    drawn, found = traces_of(figures.overlap_matrix(keys))[0], overlap(keys)
    apart = ~np.eye(len(keys), dtype=bool)
    np.testing.assert_array_equal(drawn.z[apart], found.jaccard[apart])
    assert np.isnan(np.diag(drawn.z)).all()
    assert f"{found.shared[0, 1]:.0f} shared" in drawn.hovertext[0][1]
    assert f"by chance {found.expected[0, 1]:.2g}" in drawn.hovertext[0][1]


def test_overlap_of_a_single_label(keys: KeyNeurons) -> None:
    assert traces_of(figures.overlap_matrix(keys.only(("VERB",))))[0].zmax == 0.01


def test_lesion_matrix_shows_nats_shams_and_stars() -> None:
    study = made_study()
    figure = figures.lesion_matrix(study)
    drawn = traces_of(figure)[0]
    np.testing.assert_array_equal(drawn.z, study.matrix)
    assert drawn.zmin == -drawn.zmax
    assert drawn.text[0][1].endswith(" ★")
    assert drawn.text[1][0].endswith(" ★")
    assert drawn.text[1][2].endswith(" ☆")
    assert "★" not in drawn.text[0][0]
    assert drawn.text[0][0] == f"{study.matrix[0, 0]:.2f}"
    hover = drawn.hovertext[0][1]
    assert "NOUN neurons cut, 1,500 words tagged VERB" in hover
    assert f"shams {study.sham_mean[0, 1]:+.4f}" in hover
    assert "possibly a bias shift" in drawn.hovertext[2][1]
    np.testing.assert_array_equal(
        traces_of(figures.lesion_matrix(study, corrected=True))[0].z,
        study.matrix - study.sham.mean(0),
    )
    assert len(layout_of(figure).shapes) == 3
    assert layout_of(figure).yaxis.title.text == "neurons cut of"


def test_stars_are_against_the_shams_that_decide() -> None:
    """A pair that beats shams of too little damage proves nothing."""
    plain, study = made_study(), made_extended()
    assert plain.deciding is plain
    assert study.deciding is study.damage_matched
    (pair,) = present(study.damage_matched).crossed_pairs
    assert len(study.crossed_pairs) == 2
    figure = figures.lesion_matrix(study)
    rows = traces_of(figure)[0].text
    starred = {
        (i, j) for i, row in enumerate(rows) for j, cell in enumerate(row) if cell[-1] in "★☆"
    }
    i, j = (study.labels.index(x) for x in (pair.first, pair.second))
    assert starred == {(i, j), (j, i)}
    assert "damage-matched shams" in layout_of(figure).title.subtitle.text


def test_numbers_are_signed_as_in_print() -> None:
    assert number(-0.126) == "\N{MINUS SIGN}0.13"
    assert number(-0.001) == "0.00"
    assert number(0.5, 3, plus=True) == "+0.500"


def test_lesion_null_shows_every_sham_and_the_real_one() -> None:
    study = made_study()
    bars, ticks, real = traces_of(figures.lesion_null(study))
    assert sum(bars.y) == study.n_shams
    np.testing.assert_array_equal(ticks.x, study.s_star_sham)
    assert set(real.x) == {study.s_star}


def test_lesion_null_needs_shams() -> None:
    with pytest.raises(GrammarLensError, match="no shams"):
        figures.lesion_null(made_study(n_shams=0))


def test_a_study_without_shams_has_a_matrix() -> None:
    study = made_study(n_shams=0)
    np.testing.assert_array_equal(
        traces_of(figures.lesion_matrix(study, corrected=True))[0].z, study.matrix
    )


def test_null_of_two_labels_is_refused() -> None:
    two = replace(made_extended(), labels=LABELS[:2])
    for draw in (figures.lesion_null, figures.damage_matched):
        study = replace(two, damage_matched=replace(present(two.damage_matched), labels=LABELS[:2]))
        with pytest.raises(
            GrammarLensError, match=r"S\* of 2 labels \(NOUN, VERB\) has no p-value"
        ):
            draw(study)


def test_what_was_not_measured_cannot_be_drawn() -> None:
    bare = made_study()
    for draw, told in (
        (figures.dose_response, "lesions of dose 1 alone.*--doses 1,0.25,0.5,0.75"),
        (figures.value_ladder, "lesions of the value 'mean' alone.*--values"),
        (figures.damage_matched, "no damage-matched shams.*--damage-matched 20"),
        (figures.sufficiency, "no lesions of everything but a set.*--sufficiency"),
    ):
        with pytest.raises(GrammarLensError, match=told):
            draw(bare)
    with pytest.raises(GrammarLensError, match=r"'X'.*NOUN, VERB, ADJ"):
        figures.dose_response(made_extended(), "X")


def shown_lines(figure: go.Figure, name: str) -> list[Any]:
    return [t for t in traces_of(figure) if t.name == name]


def test_dose_response_draws_own_and_others_and_the_shams() -> None:
    study = made_extended()
    found = study.doses
    assert found is not None
    figure = figures.dose_response(study)
    for i, label in enumerate(LABELS):
        own, other = shown_lines(figure, label)
        np.testing.assert_array_equal(own.x, found.dose)
        np.testing.assert_array_equal(own.y, found.own[i])
        np.testing.assert_array_equal(other.y, found.other[i])
        assert (own.yaxis, other.yaxis) == ("y", "y2")
        assert "nats" in own.hovertemplate
        assert own.text[2] == ""  # no shams at dose .25
        assert own.text[4] == "<br>shams +0.0200 (+0.0100 to +0.0300)"
        (band,) = shown_lines(figure, f"{label}, shams")
        # two runs, parted where there are no shams
        assert list(band.x) == [-1, 0, 0, -1, None, 0.5, 1, 1.5, 1.5, 1, 0.5]
        low, high = found.sham_low[i], found.sham_high[i]
        assert list(band.y[:4]) == [low[0], low[1], high[1], high[0]]
        assert band.legendgroup == own.legendgroup == other.legendgroup
    assert layout_of(figure).yaxis.range == layout_of(figure).yaxis2.range
    assert layout_of(figure).yaxis.range[0] < found.own.min()
    assert layout_of(figure).yaxis.range[1] > found.own.max()
    assert "(nats)" in layout_of(figure).yaxis.title.text
    assert "20 shams" in layout_of(figure).title.subtitle.text


def test_doses_outside_the_test_are_shaded_and_only_those() -> None:
    study = made_extended()
    assert study.doses is not None
    for figure in (figures.dose_response(study), figures.dose_response(study, "VERB")):
        spans = {(s.x0 < 0, s.x0, s.x1 > 1) for s in layout_of(figure).shapes}
        assert {(x0 >= 1, past) for _, x0, past in spans} == {(False, False), (True, True)}
        assert [a.text for a in layout_of(figure).annotations] == ["outside<br>the test"] * 2
    within = study.doses.tested
    cut = {
        n: getattr(study.doses, n)[:, within]
        for n in ("own", "other", "sham_own", "sham_low", "sham_high")
    }
    tested = replace(study, doses=replace(study.doses, dose=study.doses.dose[within], **cut))
    assert not layout_of(figures.dose_response(tested)).shapes


def test_dose_response_of_one_label_has_its_shams_mean() -> None:
    study = made_extended()
    assert study.doses is not None
    drawn = traces_by_name(figures.dose_response(study, "VERB"))
    np.testing.assert_array_equal(drawn["words tagged VERB"].y, study.doses.own[1])
    np.testing.assert_array_equal(drawn["other tags' words"].y, study.doses.other[1])
    np.testing.assert_array_equal(drawn["shams: own words, mean"].y, study.doses.sham_own[1])
    none = np.zeros((0, 3))
    unknown = np.full_like(study.doses.own, np.nan)
    shamless = replace(
        study.doses, sham_own=unknown, sham_low=unknown, sham_high=unknown, sham_slope=none
    )
    bare = traces_by_name(figures.dose_response(replace(study, doses=shamless), "VERB"))
    assert set(bare) == {"words tagged VERB", "other tags' words"}


def test_value_ladder_parts_those_whose_signs_differ() -> None:
    study = made_extended()
    assert study.sign_agreement == (True, True, False)
    figure = figures.value_ladder(study)
    drawn = traces_by_name(figure)
    for rung in study.ladder:
        np.testing.assert_array_equal(drawn[rung.value].x, np.diag(rung.matrix))
        assert list(drawn[rung.value].y) == list(LABELS)
    assert drawn["mean, shams' mean"].x[1] == pytest.approx(study.sham[:, 1, 1].mean())
    assert "resample, shams' mean" not in drawn
    assert set(drawn["same sign"].y) == {"NOUN", "VERB", None}
    own = [rung.matrix[2, 2] for rung in study.ladder]
    assert list(drawn["signs differ"].x) == [min(own), max(own), None]
    assert min(own) < 0 < max(own)
    assert layout_of(figure).title.text.endswith("2 of 3 tags")
    assert "nats" in layout_of(figure).xaxis.title.text
    alike = replace(study, others=study.others[:1])
    assert "signs differ" not in traces_by_name(figures.value_ladder(alike))


def test_damage_matched_shows_both_nulls_and_the_damage() -> None:
    study = made_extended()
    assert study.damage_matched is not None
    figure = figures.damage_matched(study)
    drawn = traces_by_name(figure)
    np.testing.assert_array_equal(drawn["20 ordinary"].x, study.s_star_sham)
    np.testing.assert_array_equal(drawn["20 damage-matched"].x, study.damage_matched.s_star_sham)
    np.testing.assert_array_equal(drawn["ordinary shams"].x, study.damage_ratio)
    np.testing.assert_array_equal(
        drawn["damage-matched shams"].x, study.damage_matched.damage_ratio
    )
    lines = [s.x0 for s in layout_of(figure).shapes]
    assert lines == [study.s_star, 1.0, 0.9]
    assert f"p = {study.damage_matched.p_value:.3f}" in layout_of(figure).title.text
    assert "shams of 31 neurons" in layout_of(figure).title.subtitle.text
    unknown = replace(study, sham=study.sham[:0], s_star_sham=study.s_star_sham[:0])
    unknown = replace(unknown, damage_ratio=np.full(3, np.nan))
    alone = traces_by_name(figures.damage_matched(unknown))
    assert not {"20 ordinary", "ordinary shams"} & set(alone)


def test_sufficiency_stands_between_all_cut_and_intact() -> None:
    study = made_extended()
    rest = study.sufficiency
    assert rest is not None
    figure = figures.sufficiency(study)
    drawn = traces_by_name(figure)
    np.testing.assert_array_equal(drawn["its own set kept"].x, np.diag(rest.kept))
    np.testing.assert_array_equal(drawn["all cut"].x, rest.everything)
    shams = drawn["a sham kept (mean; bar: range)"]
    np.testing.assert_allclose(shams.x + shams.error_x.array, rest.sham_own.max(0))
    np.testing.assert_allclose(shams.x - shams.error_x.arrayminus, rest.sham_own.min(0))
    assert layout_of(figure).title.text.endswith("p = 0.050")
    bare = replace(rest, sham=rest.sham[:0], everything=np.full(3, np.nan))
    alone = figures.sufficiency(replace(study, sufficiency=bare))
    assert set(traces_by_name(alone)) == {"its own set kept"}
    assert "no shams to compare with" in layout_of(alone).title.subtitle.text


def test_bias_and_auroc_show_own_beside_others() -> None:
    study = made_study()
    figure = figures.bias_and_auroc(study)
    own, others = (
        [t for t in traces_of(figure) if t.name.startswith(name)]
        for name in ("the lesion", "other tags")
    )
    for drawn, rest, values in zip(own, others, (study.auroc_fall, study.bias), strict=True):
        np.testing.assert_array_equal(drawn.x, np.diag(values))
        for i in range(3):
            there = [values[i, j] for j in range(3) if j != i]
            assert rest.x[i] == pytest.approx(np.mean(there))
            assert rest.x[i] + rest.error_x.array[i] == pytest.approx(max(there))
            assert rest.x[i] - rest.error_x.arrayminus[i] == pytest.approx(min(there))


def test_bias_of_a_single_label_has_no_others() -> None:
    study, one = made_study(), np.ones((1, 1))
    names = ("matrix", "nll_matrix", "auroc_fall", "bias")
    single = replace(
        study,
        labels=("NOUN",),
        sham=study.sham[:, :1, :1],
        auroc=study.auroc[:1],
        accuracy=study.accuracy[:2],
        n_words=study.n_words[:1],
        output_ratio=study.output_ratio[:1],
        damage_ratio=study.damage_ratio[:1],
        **dict.fromkeys(names, one),
    )
    assert np.isnan(traces_of(figures.bias_and_auroc(single))[0].x).all()


def test_calibration_shows_intervals_and_chance() -> None:
    found = made_calibration()
    figure = figures.calibration(found)
    ranks, recall = traces_of(figure)
    np.testing.assert_array_equal(ranks.x, found.correlation)
    assert ranks.x[0] == pytest.approx(1)
    np.testing.assert_allclose(ranks.x + ranks.error_x.array, found.high)
    np.testing.assert_allclose(ranks.x - ranks.error_x.arrayminus, found.low)
    np.testing.assert_array_equal(recall.x, found.recall)
    assert [s.x0 for s in layout_of(figure).shapes] == [0, found.chance]
    assert "60 neurons drawn at random" in layout_of(figure).title.subtitle.text


def test_redundancy_starts_from_the_intact_model() -> None:
    found = made_redundancy()
    figure = figures.redundancy(found)
    verb = traces_by_name(figure)["VERB"]
    assert list(verb.x) == [0, 6, 12]
    assert list(verb.y) == [0, *found.own[:, 1]]
    assert verb.text[1] == "adds +0.4000"
    assert verb.text[2] == "adds +0.0400, 50% stood next before"
    np.testing.assert_allclose(traces_by_name(figure)["<b>mean</b>"].y, [0, 0.4, 0.44])


def test_probe_accuracy_has_every_baseline() -> None:
    probe = made_probe()
    bars, draws, numbers = traces_of(figures.probe_accuracy(probe))
    assert dict(zip(bars.y, bars.x, strict=True)) == {
        "18 key neurons": probe.accuracy,
        "as many random neurons": 0.6,
        "all of layer 2": 0.8,
        "the word alone": 0.75,
        "majority label": 0.4,
        "control task": 0.3,
    }
    assert draws.x == (0.58, 0.62)
    assert numbers.x[1] == 0.62
    before = traces_of(figures.probe_accuracy(made_probe(position="next")))[0]
    assert "the word before alone" in before.y


def test_confusion_rows_sum_to_one_and_empty_rows_stay_empty() -> None:
    drawn = traces_of(figures.confusion(made_probe()))[0]
    np.testing.assert_allclose(drawn.z[:2].sum(1), 1)
    assert drawn.z[0, 0] == 0.9
    assert np.isnan(drawn.z[2]).all()  # ADJ has no held-out words
    assert "NOUN called VERB<br>8 of 100 words" in drawn.hovertext[0][1]
    assert list(drawn.text[2]) == ["", "", ""]


def strings(value: object) -> list[str]:
    """Every string of a figure."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [s for v in value.values() for s in strings(v)]
    if isinstance(value, list | tuple):
        return [s for v in value for s in strings(v)]
    return []


def test_markup_in_labels_and_names_is_escaped() -> None:
    for figure in every_figure((HOSTILE, "b", "c"), HOSTILE):
        found = strings(figure.to_plotly_json())
        assert not [s for s in found if "<script" in s]
        assert any(PLAIN_HOSTILE in s for s in found)


def test_markup_in_labels_of_the_checks_is_escaped() -> None:
    for figure in (
        figures.calibration(made_calibration((HOSTILE, "b", "c"))),
        figures.redundancy(made_redundancy((HOSTILE, "b", "c"))),
    ):
        found = strings(figure.to_plotly_json())
        assert not [s for s in found if "<script" in s]
        assert any(PLAIN_HOSTILE in s for s in found)
        assert layout_of(figure).template == STYLE


def test_no_label_reaches_a_template() -> None:
    # plotly replaces %{...} in templates, so a label there would not be shown as it is
    for figure in every_figure((HOSTILE, "b", "c"), "m"):
        for trace in traces_of(figure):
            for template in (trace.hovertemplate, getattr(trace, "texttemplate", None)):
                assert "script" not in (template or "")


def test_labels_that_look_like_numbers_stay_names() -> None:
    labels = ("1", "2.0", "1999-01-01")
    for figure in (
        figures.overlap_matrix(select(score(made_moments(labels)), k=3)),
        figures.confusion(made_probe(labels)),
        figures.lesion_matrix(made_study(labels)),
    ):
        assert layout_of(figure).xaxis.type == layout_of(figure).yaxis.type == "category"


def test_one_style_that_is_not_registered() -> None:
    assert "grammar_lens" not in " ".join(pio.templates)
    for figure in every_figure(LABELS, "m"):
        assert layout_of(figure).template == STYLE
        assert layout_of(figure).width is None
        assert layout_of(figure).title.subtitle.text.startswith("m")


def test_no_figure_offers_to_upload_its_data() -> None:
    assert "sendChartToCloud" in STYLE.to_plotly_json()["layout"]["modebar"]["remove"]


@pytest.mark.parametrize(("site", "unit"), [("resid_post", "dimension"), ("mlp_out", "unit")])
def test_other_sites_have_units_not_neurons(site: str, unit: str) -> None:
    moments: Moments = made_moments()
    there = replace(moments, origin=Origin("m", "t", "upos", "next", site))
    figure = figures.layer_neuron_heatmap(score(there, "welch_t"), "VERB")
    assert layout_of(figure).xaxis.title.text == f"{unit} within its layer"
    assert traces_of(figure)[0].colorbar.title.text == "Welch's t"


def test_a_study_knows_its_pairs_only() -> None:
    study: LesionStudy = replace(made_study(), crossed_pairs=())
    assert not [
        x for row in traces_of(figures.lesion_matrix(study))[0].text for x in row if "★" in x
    ]
