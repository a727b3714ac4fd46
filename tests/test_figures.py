"""Figures: what they draw equals the result, and text from outside stays text."""

from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from grammar_lens import figures
from grammar_lens.dissociation import CrossedPair, LesionStudy, diagonal_score
from grammar_lens.figures import FigureError
from grammar_lens.moments import Moments, Origin
from grammar_lens.probing import ProbeResult
from grammar_lens.selection import KeyNeurons, select
from grammar_lens.selectivity import ScoreError, Scores, score
from grammar_lens.subspace import layer_counts, layer_strength, overlap

LABELS = ("NOUN", "VERB", "ADJ")
HOSTILE = "<script>alert(1)</script> & %{x}"
PLAIN_HOSTILE = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; %{x}"


def origin(model: str, position: str) -> Origin:
    return Origin(model, "made:train", "upos", position, "neuron")


def made_moments(
    labels: tuple[str, ...] = LABELS,
    *,
    model: str = "m",
    position: str = "word",
    shape: tuple[int, int] = (3, 40),
) -> Moments:
    """Noise; neuron 1.17 is 2 sd higher for the second label."""
    rng = np.random.default_rng(0)
    count = np.array([100.0 + 10 * i for i in range(len(labels))])
    mean = rng.normal(0, 0.1, (len(labels), *shape))
    mean[1, 1, 17] += 2
    m2 = count[:, None, None] * rng.uniform(0.9, 1.1, mean.shape)
    fired = np.zeros_like(mean)
    return Moments(labels, count, mean, m2, fired, np.abs(mean).mean(0), origin(model, position))


def made_probe(
    labels: tuple[str, ...] = LABELS, *, model: str = "m", position: str = "word"
) -> ProbeResult:
    """A probe that is right for 90 and 80 of 100 words of two labels; the third has no words."""
    confusion = np.array([[90, 8, 2], [15, 80, 5], [0, 0, 0]])
    table = pd.DataFrame(
        {
            "precision": [0.857, 0.909, 0.0],
            "recall": [0.9, 0.8, 0.0],
            "f1": [0.878, 0.851, 0.0],
            "n_words": [100, 100, 0],
        },
        index=pd.Index(list(labels), name="label"),
    )
    return ProbeResult(
        labels=labels,
        k=6,
        n_neurons=18,
        n_train_words=330,
        n_fresh_words=200,
        accuracy=0.85,
        random_accuracy=0.6,
        random_accuracies=(0.58, 0.62),
        layer=2,
        layer_accuracy=0.8,
        majority_accuracy=0.4,
        word_baseline_accuracy=0.75,
        control_accuracy=0.3,
        unseen_accuracy=0.5,
        n_unseen_words=20,
        macro_f1=0.8645,
        per_label=table,
        confusion=confusion,
        dropped_duplicates=3,
        fresh="made:test",
        origin=origin(model, position),
    )


def made_study(
    labels: tuple[str, ...] = LABELS, *, model: str = "m", n_shams: int = 20
) -> LesionStudy:
    """Damage of 0.4 nats on the diagonal; the first two labels are a confirmed crossed pair."""
    rng = np.random.default_rng(0)
    matrix = 0.4 * np.eye(3) + rng.normal(0.02, 0.01, (3, 3))
    sham = rng.normal(0.01, 0.01, (n_shams, 3, 3))
    pairs = (
        CrossedPair(labels[0], labels[1], 0.001, 1.5, 0.9, True),
        CrossedPair(labels[1], labels[2], 0.02, 1.1, 0.9, False),
    )
    return LesionStudy(
        labels=labels,
        value="mean",
        dose=1.0,
        k=6,
        matrix=matrix,
        nll_matrix=1.2 * matrix,
        sham=sham,
        auroc=np.full(3, 0.9),
        auroc_fall=matrix / 10,
        bias=matrix / 100,
        accuracy=np.array([0.6, 0.5, 0.55, 0.52]),
        n_words=np.array([2000, 1500, 800]),
        s_star=diagonal_score(matrix),
        s_star_sham=np.array([diagonal_score(m) for m in sham]),
        crossed_pairs=pairs if n_shams else (),
        output_ratio=np.array([0.95, 0.93, 0.97]),
        base_tag_loss=1.4,
        base_nll=4.1,
        tag_entropy=2.5,
        seen_mass=0.9,
        identity_error=1e-14,
        skipped={"first of its sentence": 77},
        fresh="made:test",
        outcomes=None,
        origin=origin(model, "next"),
    )


@pytest.fixture(scope="module")
def scores() -> Scores:
    return score(made_moments())


@pytest.fixture(scope="module")
def keys(scores: Scores) -> KeyNeurons:
    return select(scores, k=6)


def test_heatmap_draws_every_score(scores: Scores) -> None:
    figure = figures.layer_neuron_heatmap(scores, "VERB")
    drawn = figure.data[0]
    np.testing.assert_array_equal(drawn.z, scores["VERB"].astype(np.float32))
    assert drawn.zmin == -drawn.zmax == -np.abs(scores["VERB"]).max()
    assert figure.layout.xaxis.title.text == "neuron within its layer"
    assert figure.layout.yaxis.title.text == "layer"
    assert drawn.colorbar.title.text == "correlation r"


def test_heatmap_marks_the_planted_neuron_first(scores: Scores) -> None:
    marks = figures.layer_neuron_heatmap(scores, "VERB", top=3).data[1]
    assert (marks.y[0], marks.x[0]) == (1, 17)
    rank, value, effect = marks.customdata[0]
    assert rank == 1
    assert value == scores["VERB"][1, 17]
    assert effect == scores.effect[LABELS.index("VERB"), 1, 17]
    assert list(marks.customdata[:, 0]) == [1, 2, 3]


def test_bins_keep_the_signed_maximum_of_every_bin(scores: Scores) -> None:
    values = scores["NOUN"]
    drawn = figures.layer_neuron_heatmap(scores, "NOUN", bins=7).data[0]
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
    drawn = figure.data[0]
    assert drawn.z.shape == (32, 448)
    assert drawn.z[30, -1] == np.float32(-0.9)
    assert drawn.customdata[30, -1] == 14_335
    assert (figure.data[1].y[0], figure.data[1].x[0]) == (30, 14_335)
    assert len(figure.to_json()) < 200_000
    every = figures.layer_neuron_heatmap(wide, "VERB", bins=14_336).data[0]
    assert every.z.shape == (32, 14_336)


def test_heatmap_refuses_an_unknown_label_and_no_bins(scores: Scores) -> None:
    with pytest.raises(ScoreError, match="no scores of 'GERUND': there are NOUN, VERB"):
        figures.layer_neuron_heatmap(scores, "GERUND")
    with pytest.raises(FigureError, match="bins is 0, expected 1 or more"):
        figures.layer_neuron_heatmap(scores, "VERB", bins=0)


def test_scores_that_are_all_zero_have_a_scale(scores: Scores) -> None:
    flat = replace(scores, values=np.zeros_like(scores.values))
    drawn = figures.layer_neuron_heatmap(flat, "VERB").data[0]
    assert (drawn.zmin, drawn.zmax) == (-1, 1)


def test_layer_profile_draws_strength_and_counts(scores: Scores, keys: KeyNeurons) -> None:
    alone = figures.layer_profile(scores)
    assert [line.name for line in alone.data] == list(LABELS)
    np.testing.assert_array_equal([line.y for line in alone.data], layer_strength(scores))
    both = figures.layer_profile(scores, keys)
    np.testing.assert_array_equal(both.data[-1].z, layer_counts(keys))
    assert both.layout.yaxis2.title.text == "key neurons (top 6, absolute)"


def test_many_labels_stay_apart() -> None:
    labels = tuple(f"L{i}" for i in range(20))
    lines = figures.layer_profile(score(made_moments(labels))).data
    assert len({(line.line.color, line.line.dash) for line in lines}) == 20


def test_overlap_matrix_shows_jaccard_and_chance(keys: KeyNeurons) -> None:
    drawn, found = figures.overlap_matrix(keys).data[0], overlap(keys)
    apart = ~np.eye(len(keys), dtype=bool)
    np.testing.assert_array_equal(drawn.z[apart], found.jaccard[apart])
    assert np.isnan(np.diag(drawn.z)).all()
    assert f"{found.shared[0, 1]:.0f} shared" in drawn.hovertext[0][1]
    assert f"by chance {found.expected[0, 1]:.2g}" in drawn.hovertext[0][1]


def test_overlap_of_a_single_label(keys: KeyNeurons) -> None:
    assert figures.overlap_matrix(keys.only(("VERB",))).data[0].zmax == 0.01


def test_lesion_matrix_shows_nats_shams_and_stars() -> None:
    study = made_study()
    figure = figures.lesion_matrix(study)
    drawn = figure.data[0]
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
        figures.lesion_matrix(study, corrected=True).data[0].z, study.matrix - study.sham.mean(0)
    )
    assert len(figure.layout.shapes) == 3
    assert figure.layout.yaxis.title.text == "neurons cut of"


def test_numbers_are_signed_as_in_print() -> None:
    assert figures.number(-0.126) == "\N{MINUS SIGN}0.13"
    assert figures.number(-0.001) == "0.00"
    assert figures.number(0.5, 3, plus=True) == "+0.500"


def test_lesion_null_shows_every_sham_and_the_real_one() -> None:
    study = made_study()
    bars, ticks, real = figures.lesion_null(study).data
    assert sum(bars.y) == study.n_shams
    np.testing.assert_array_equal(ticks.x, study.s_star_sham)
    assert set(real.x) == {study.s_star}


def test_lesion_null_needs_shams() -> None:
    with pytest.raises(FigureError, match="no shams"):
        figures.lesion_null(made_study(n_shams=0))


def test_a_study_without_shams_has_a_matrix() -> None:
    study = made_study(n_shams=0)
    np.testing.assert_array_equal(
        figures.lesion_matrix(study, corrected=True).data[0].z, study.matrix
    )


def test_probe_accuracy_has_every_baseline() -> None:
    probe = made_probe()
    bars, draws = figures.probe_accuracy(probe).data
    assert dict(zip(bars.y, bars.x, strict=True)) == {
        "18 key neurons": probe.accuracy,
        "as many random neurons": 0.6,
        "all of layer 2": 0.8,
        "the word alone": 0.75,
        "majority label": 0.4,
        "control task": 0.3,
    }
    assert draws.x == (0.58, 0.62)
    before = figures.probe_accuracy(made_probe(position="next")).data[0]
    assert "the word before alone" in before.y


def test_confusion_rows_sum_to_one_and_empty_rows_stay_empty() -> None:
    drawn = figures.confusion(made_probe()).data[0]
    np.testing.assert_allclose(drawn.z[:2].sum(1), 1)
    assert drawn.z[0, 0] == 0.9
    assert np.isnan(drawn.z[2]).all()  # ADJ has no fresh words
    assert "NOUN called VERB<br>8 of 100 words" in drawn.hovertext[0][1]
    assert list(drawn.text[2]) == ["", "", ""]


def every_figure(labels: tuple[str, ...], model: str) -> list[go.Figure]:
    scores = score(made_moments(labels, model=model))
    keys = select(scores, k=6)
    study, probe = made_study(labels, model=model), made_probe(labels, model=model)
    return [
        figures.layer_neuron_heatmap(scores, labels[0]),
        figures.layer_profile(scores, keys),
        figures.overlap_matrix(keys),
        figures.lesion_matrix(study),
        figures.lesion_null(study),
        figures.probe_accuracy(probe),
        figures.confusion(probe),
    ]


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


def test_no_label_reaches_a_template() -> None:
    # plotly replaces %{...} in templates, so a label there would not be shown as it is
    for figure in every_figure((HOSTILE, "b", "c"), "m"):
        for trace in figure.data:
            for template in (trace.hovertemplate, getattr(trace, "texttemplate", None)):
                assert "script" not in (template or "")


def test_labels_that_look_like_numbers_stay_names() -> None:
    labels = ("1", "2.0", "1999-01-01")
    for figure in (
        figures.overlap_matrix(select(score(made_moments(labels)), k=3)),
        figures.confusion(made_probe(labels)),
        figures.lesion_matrix(made_study(labels)),
    ):
        assert figure.layout.xaxis.type == figure.layout.yaxis.type == "category"


def test_one_style_that_is_not_registered() -> None:
    assert "grammar_lens" not in " ".join(pio.templates)
    for figure in every_figure(LABELS, "m"):
        assert figure.layout.template == figures.STYLE
        assert figure.layout.width is None
        assert figure.layout.title.subtitle.text.startswith("m")


def test_no_figure_offers_to_upload_its_data() -> None:
    assert "sendChartToCloud" in figures.STYLE.layout.modebar.remove


def test_other_sites_have_units_not_neurons() -> None:
    moments: Moments = made_moments()
    there = replace(moments, origin=Origin("m", "t", "upos", "next", "resid_post"))
    figure = figures.layer_neuron_heatmap(score(there, "welch_t"), "VERB")
    assert figure.layout.xaxis.title.text == "unit within its layer"
    assert figure.data[0].colorbar.title.text == "Welch's t"


def test_a_study_knows_its_pairs_only() -> None:
    study: LesionStudy = replace(made_study(), crossed_pairs=())
    assert not [x for row in figures.lesion_matrix(study).data[0].text for x in row if "★" in x]
