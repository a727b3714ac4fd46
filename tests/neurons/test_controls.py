"""Controls of a choice: floors, agreement and adjusted effects, planted and not."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typed import named_rows

from grammar_lens.corpus.origin import Origin
from grammar_lens.neurons.controls import (
    SelectionControls,
    mean_interval,
    selection_controls,
    selection_summary,
    sham_keys,
    sham_localiser,
    with_effects,
    within_type_table,
)
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.contrasts import Adjusted, adjusted, holding_constant, within_type
from grammar_lens.selectivity.evidence import Evidence, Sample
from grammar_lens.selectivity.permutation_null import Null, Replicates, permute_tags
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.scoring import score

ORIGIN = Origin("a-model", "a-bank", "upos", "word", "neuron")
LABELS = ("ADJ", "NOUN", "PART", "VERB")
N_LAYERS, N_UNITS = 2, 60
PLANTED = {"ADJ": (1, 3), "NOUN": (0, 7), "VERB": (1, 41)}


@dataclass(frozen=True)
class Words:
    """Classes and sentences of words; PART has 8, too few for a null."""

    classes: np.ndarray
    sentence: np.ndarray

    def noise(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(len(self.classes), N_LAYERS, N_UNITS))

    def planted(self, seed: int, sd: float) -> np.ndarray:
        """Noise in which one unit of each label is shifted by `sd`, VERB's downwards."""
        x = self.noise(seed)
        for label, (layer, unit) in PLANTED.items():
            mine = self.classes == LABELS.index(label)
            x[mine, layer, unit] += -sd if label == "VERB" else sd
        return x


def moments_of(x: np.ndarray, classes: np.ndarray) -> Moments:
    """Moments of [word, layer, unit] by the definition, label by label."""
    groups = [x[classes == i] for i in range(len(LABELS))]
    mean = np.stack([g.mean(0) if len(g) else np.zeros(g.shape[1:]) for g in groups])
    return Moments(
        labels=LABELS,
        count=np.array([len(g) for g in groups], float),
        mean=mean,
        m2=np.stack([((g - m) ** 2).sum(0) for g, m in zip(groups, mean, strict=True)]),
        fired=np.stack([(g > 0).sum(0).astype(float) for g in groups]),
        mean_abs=np.abs(x).mean(0),
        origin=ORIGIN,
    )


@pytest.fixture(scope="module")
def words() -> Words:
    """240 sentences of 5 words."""
    rng = np.random.default_rng(11)
    classes = rng.choice([0, 1, 3], 1200)
    classes[rng.choice(1200, 8, replace=False)] = 2
    return Words(classes, np.repeat(np.arange(240), 5))


def evidence_of(words: Words, x: np.ndarray) -> Evidence:
    half = words.sentence % 2
    parts = [moments_of(x[half == i], words.classes[half == i]) for i in (0, 1)]
    codes = permute_tags(words.classes, words.sentence, 25, np.random.default_rng(12)).codes
    means = np.stack([moments_of(x, row).mean for row in codes])
    found = Replicates(moments_of(x, words.classes), means, 0, 0)
    null = found.null(
        "correlation", lambda m: SCORES["correlation"].compute(Evidence(m))[0], two_sided=True
    )
    return Evidence(found.observed, (parts[0], parts[1]), nulls={"correlation": null})


@pytest.fixture(scope="module")
def planted(words: Words) -> Evidence:
    return evidence_of(words, words.planted(13, 1.5))


@pytest.fixture(scope="module")
def nothing(words: Words) -> Evidence:
    return evidence_of(words, words.noise(14))


def null_of(evidence: Evidence) -> Null:
    null = evidence.null("correlation")
    assert null is not None
    return null


# The sham localiser ---------------------------------------------------------------------------


def test_a_planted_unit_stands_out_from_the_floor(planted: Evidence):
    table = sham_localiser(null_of(planted), k=1).set_index("label")
    assert list(table.index) == ["ADJ", "NOUN", "VERB"], "PART has too few words for a null"
    values = score(planted).values
    for label, (layer, unit) in PLANTED.items():
        row, i = table.loc[label], LABELS.index(label)
        assert row.strength == pytest.approx(abs(values[i, layer, unit]))
        assert row.strength > 0.4
        assert row.sham_strength <= row.sham_strongest < 0.2
        # each label's unit tells the other labels apart from it too
        assert row.by_permutation == 3
        assert row.by_fdr >= 3
        assert row.sham_by_fdr < 1
        assert row.sham_by_permutation < 1


def test_in_noise_nothing_stands_out(nothing: Evidence):
    table = sham_localiser(null_of(nothing), k=5)
    assert (table.strength < 1.2 * table.sham_strongest).all()
    assert (table.strength > 0.8 * table.sham_strength).all()
    assert table.by_permutation.sum() == 0
    assert table.by_fdr.sum() == 0


def test_the_floor_is_the_mean_strength_of_the_strongest_exchanged_scores(planted: Evidence):
    null = null_of(planted)
    table = sham_localiser(null, k=4).set_index("label")
    tops = [np.sort(np.abs(sham[1]).ravel())[::-1][:4].mean() for sham in null.shams]
    assert table.loc["NOUN", "sham_strength"] == pytest.approx(np.mean(tops), rel=1e-6)
    assert table.loc["NOUN", "sham_strongest"] == pytest.approx(np.max(tops), rel=1e-6)
    q = null.q(null.shams[2].astype(float))
    strict = sham_localiser(replace(null, shams=null.shams[2:3]), k=4, alpha=0.5)
    assert strict.set_index("label").loc["VERB", "sham_by_fdr"] == (q[3] <= 0.5).sum()
    whole = sham_localiser(null, k=10_000).set_index("label")
    assert whole.loc["ADJ", "strength"] == pytest.approx(np.abs(null.observed[0]).mean())


def test_true_labels_find_the_planted_unit_and_exchanged_ones_never(planted: Evidence):
    scores = score(planted)
    keys = select(scores, k=3)
    for i in range(len(null_of(planted).shams)):
        found = sham_keys(scores, 3, sham=i)
        assert found is not None
        assert {len(found[x]) for x in LABELS} == {3}
        for label, address in PLANTED.items():
            assert next(iter(keys[label])) == address
            assert address not in set(found[label])
        sham = null_of(planted).shams[i]
        np.testing.assert_allclose(
            found["NOUN"].score, sham[1][found["NOUN"].layer, found["NOUN"].index]
        )
        assert np.abs(found["NOUN"].score).min() == pytest.approx(
            np.sort(np.abs(sham[1]).ravel())[-3]
        )
    assert sham_keys(replace(scores, null=None), 3) is None


def test_the_sham_choice_takes_the_same_sign(planted: Evidence):
    found = sham_keys(score(planted), 4, sign="negative")
    assert found is not None
    assert (found["ADJ"].score < 0).all()
    assert found.rule == "top 4, negative, no null"


# Reliability ----------------------------------------------------------------------------------


def test_halves_agree_on_what_is_planted_and_by_chance_on_noise(words: Words):
    """Three units of each label without noise among 120, and noise alone."""
    x = np.zeros((len(words.classes), N_LAYERS, N_UNITS))
    for i in range(len(LABELS)):
        x[words.classes == i, i % 2, 10 * i : 10 * i + 3] = 1.0
    evidence = evidence_of(words, x)
    scores = score(evidence)
    table = selection_controls(select(scores, k=3), scores, evidence, 3).reliability
    assert table is not None
    assert (table["share"] == 1).all()
    assert (table["shared"] == 3).all()

    noise = evidence_of(words, words.noise(15))
    scores = score(noise)
    table = selection_controls(select(scores, k=12), scores, noise, 12).reliability
    assert table is not None
    np.testing.assert_allclose(table["share"], table["shared"] / 12)
    np.testing.assert_allclose(table["expected_share"], table["expected"] / 12)
    # 12 of 120 each: 1.2 shared by chance, sd 1
    assert table["expected_share"].mean() == pytest.approx(0.1, abs=0.02)
    assert table["share"].mean() < 0.25


def test_a_label_that_one_half_hardly_has_gets_no_reliability(words: Words):
    few = np.flatnonzero(words.classes == 2)
    even = Words(words.classes, words.sentence.copy())
    even.sentence[few] = 2 * np.arange(len(few))
    x = words.planted(13, 1.5)
    evidence = evidence_of(even, x)
    assert evidence.halves is not None
    assert evidence.halves[1].count[2] == 0
    scores = score(evidence)
    table = selection_controls(select(scores, k=5), scores, evidence, 5).reliability
    assert table is not None
    assert list(table["label"]) == ["ADJ", "NOUN", "VERB"]


# Grammar or vocabulary ------------------------------------------------------------------------

FORM_UNIT, TAG_UNIT, DOWN_UNIT, PLACE_UNIT, MUTE_UNIT = 0, 1, 2, 3, 4


def keys_of(addresses: dict[str, list[tuple[int, int]]], scores: np.ndarray) -> KeyNeurons:
    """Key neurons that were chosen by hand."""
    sets = {}
    for label, chosen in addresses.items():
        layer, index = np.array(chosen, np.int64).reshape(-1, 2).T
        values = scores[LABELS.index(label), layer, index]
        sets[label] = Neurons(label, "neuron", layer, index, values)
    return KeyNeurons(sets, "cohens_d", "by hand", N_UNITS, N_LAYERS, None, ORIGIN)


@pytest.fixture(scope="module")
def contrasted() -> tuple[Moments, Adjusted]:
    """Forms that lean to NOUN or to VERB, and units that know the form, the tag or the place."""
    rng = np.random.default_rng(16)
    n = 6000
    form = rng.integers(0, 40, n)
    classes = np.where(rng.random(n) < np.where(form < 20, 0.85, 0.15), 1, 3)
    place = rng.normal(size=n) + 2.0 * (classes == 1)
    x = rng.normal(size=(n, N_LAYERS, N_UNITS))
    x[:, 0, FORM_UNIT] += 1.5 * (form < 20)
    x[:, 0, TAG_UNIT] += 1.5 * (classes == 1)
    x[:, 1, DOWN_UNIT] -= 1.5 * (classes == 1)
    x[:, 1, PLACE_UNIT] += 2.0 * place
    x[:, 1, MUTE_UNIT] = 0.0
    # a tag that no other shares a form with
    classes[:30], form[:30] = 0, 99
    within = within_type(classes, form, len(LABELS))
    guard = holding_constant(classes, place[None], len(LABELS))
    flat = x.reshape(n, -1)
    sums = np.stack([within.weight @ flat, guard.weight @ flat])
    moments = moments_of(x, classes)
    return moments, adjusted(moments, within, guard, sums.reshape(2, len(LABELS), N_LAYERS, -1))


def rows(contrasted: tuple[Moments, Adjusted], **addresses: list[tuple[int, int]]) -> pd.DataFrame:
    moments, left = contrasted
    effects = SCORES["cohens_d"].compute(Evidence(moments))[0]
    table = within_type_table(keys_of(addresses, effects), lambda x: effects[LABELS.index(x)], left)
    return table.set_index("label")


def test_a_units_tag_is_retained_and_a_units_form_is_not(contrasted: tuple[Moments, Adjusted]):
    kept = rows(contrasted, NOUN=[(0, TAG_UNIT)]).loc["NOUN"]
    assert kept.effect == pytest.approx(1.5, abs=0.1)
    assert kept.within_type_retained == pytest.approx(1, abs=0.1)
    lost = rows(contrasted, NOUN=[(0, FORM_UNIT)]).loc["NOUN"]
    assert lost.effect > 0.8
    # the form's share of the effect is gone but for 4 standard errors
    assert abs(lost.within_type) < 4 * lost.standard_error
    assert lost.within_type_retained == pytest.approx(0, abs=0.15)
    assert lost.within_type_retained == pytest.approx(lost.within_type / lost.effect)
    assert (kept.ambiguous_forms, lost.words) == (40, 5970)


def test_a_units_place_is_not_retained_at_equal_place(contrasted: tuple[Moments, Adjusted]):
    lost = rows(contrasted, NOUN=[(1, PLACE_UNIT)]).loc["NOUN"]
    assert lost.effect > 1
    assert lost.guarded_retained == pytest.approx(0, abs=0.1)
    assert lost.within_type_retained > 0.8
    kept = rows(contrasted, NOUN=[(0, TAG_UNIT)]).loc["NOUN"]
    assert kept.guarded == pytest.approx(1.5, abs=0.2)
    assert kept.guarded_retained == pytest.approx(kept.guarded / kept.effect)


def test_units_that_fall_with_the_label_count_in_their_direction(
    contrasted: tuple[Moments, Adjusted],
):
    table = rows(contrasted, NOUN=[(1, DOWN_UNIT)], VERB=[(1, DOWN_UNIT), (0, TAG_UNIT)])
    assert (table.effect > 1.3).all()
    assert (table.within_type > 1.3).all()
    np.testing.assert_allclose(table.within_type_retained, 1, atol=0.1)


def test_medians_over_neurons_and_what_cannot_be_known(contrasted: tuple[Moments, Adjusted]):
    three = [(0, FORM_UNIT), (0, TAG_UNIT), (1, DOWN_UNIT)]
    alone = [rows(contrasted, NOUN=[a]).loc["NOUN"] for a in three]
    together = rows(contrasted, NOUN=three).loc["NOUN"]
    for name in ("effect", "within_type", "guarded", "within_type_retained"):
        assert together[name] == np.median([row[name] for row in alone])
    table = rows(contrasted, ADJ=[(0, 9)], NOUN=[(1, MUTE_UNIT)], VERB=[])
    assert np.isnan(table.loc["ADJ", "within_type"]), "no form of ADJ is another label's"
    assert table.loc["ADJ", "ambiguous_forms"] == 0
    assert table.loc["NOUN", "effect"] == 0
    assert np.isnan(table.loc["NOUN", "within_type_retained"]), "a share of no effect"
    assert table.loc["VERB", ["effect", "within_type", "guarded"]].isna().all()


def test_key_neurons_with_their_effects(contrasted: tuple[Moments, Adjusted]):
    moments, left = contrasted
    scores = score(moments.only(["ADJ", "NOUN", "VERB"]))
    keys = select(scores, k=4)
    plain = with_effects(keys, scores, None)
    assert list(plain.columns) == [*keys.to_frame().columns, "cohens_d", "n_labels"]
    rows3 = [0, 1, 3]
    three = replace(
        left,
        labels=scores.labels,
        **{
            name: getattr(left, name)[rows3]
            for name in (
                *("within_type", "guarded", "within_type_error", "guarded_error"),
                *("n_words", "n_forms"),
            )
        },
    )
    table = with_effects(keys, scores, three)
    pd.testing.assert_frame_equal(table.loc[:, list(plain.columns)], plain)
    shared = keys.n_labels()[table["layer"], table["index"]]
    assert table["n_labels"].tolist() == shared.tolist()
    for row in named_rows(table):
        i = scores.labels.index(str(row.label))
        assert row.cohens_d == scores.effect[i, row.layer, row.index]
        np.testing.assert_equal(row.within_type_d, three.within_type[i, row.layer, row.index])
        np.testing.assert_equal(row.guarded_d, three.guarded[i, row.layer, row.index])


# All of them together -------------------------------------------------------------------------


def test_what_the_evidence_does_not_allow_is_not_made(planted: Evidence, words: Words):
    bare = Evidence(planted.moments)
    scores = score(bare)
    keys = select(scores, k=3)
    none = selection_controls(keys, scores, bare, 3)
    assert (none.sham, none.reliability, none.within_type) == (None, None, None)
    assert (none.n_replicates, none.left_out_words, none.left_out_sentences) == (0, 0, 0)
    assert none.rule == keys.rule == "top 3, absolute, no null"
    assert set(selection_summary(keys, none)) == {
        *("score", "rule", "neurons", "distinct_neurons", "unspecific_neurons"),
        *("replicates", "left_out_words"),
    }
    x = words.planted(13, 1.5).astype(np.float32)
    chosen = np.arange(300)
    sample = Sample(LABELS, words.classes[:300], chosen, x[:300], planted.moments.count, ORIGIN)
    halved = replace(planted, sample=sample)
    scores = score(halved, "auroc")
    assert selection_controls(keys, scores, halved, 3).reliability is None, "no sample of halves"


def test_controls_and_their_summary(planted: Evidence, words: Words):
    x = words.planted(13, 1.5)
    form = np.random.default_rng(17).integers(0, 20, len(words.classes))
    within = within_type(words.classes, form, len(LABELS))
    sums = (within.weight @ x.reshape(len(x), -1)).reshape(len(LABELS), N_LAYERS, N_UNITS)
    left = adjusted(planted.moments, within, within, np.stack([sums, sums]))
    null = replace(null_of(planted), n_left_out_words=5, n_left_out_sentences=1)
    evidence = replace(planted, adjusted=left, nulls={"correlation": null})
    scores = score(evidence)
    keys = select(scores, k=2, alpha=1.0)
    controls = selection_controls(keys, scores, evidence, 2)
    assert controls.sham is not None
    assert controls.reliability is not None
    assert controls.within_type is not None
    pd.testing.assert_frame_equal(controls.sham, sham_localiser(null, 2))
    noun = controls.within_type.set_index("label").loc["NOUN"]
    of_keys = scores.effect[1, keys["NOUN"].layer, keys["NOUN"].index]
    assert noun.effect == np.median(np.abs(of_keys))
    told = selection_summary(keys, controls)
    assert told["neurons"] == dict.fromkeys(LABELS, 2)
    assert told["distinct_neurons"] == len(keys.union())
    assert (told["replicates"], told["left_out_words"]) == (25, 5)
    assert told["sham_localiser"]["by_fdr"] == controls.sham["by_fdr"].mean()
    assert told["reliability"]["share"] == controls.reliability["share"].mean()
    assert told["within_type"]["within_type"] == controls.within_type["within_type"].mean()


def test_a_summary_where_every_label_has_too_few_words_for_a_null(words: Words):
    few = Words(words.classes[:20], words.sentence[:20])
    evidence = evidence_of(few, few.noise(18))
    scores = score(replace(evidence, moments=evidence.moments.only(["ADJ", "NOUN", "VERB"])))
    assert scores.null is not None
    table = sham_localiser(scores.null, 3)
    assert len(table) == 0
    keys = select(replace(scores, null=None), k=3)
    controls = SelectionControls(3, 25, 0, 0, table, None, None)
    assert np.isnan(selection_summary(keys, controls)["sham_localiser"]["strength"])


# Repetitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_mean_interval_is_scipys(confidence: float):
    values = np.array([0.71, 0.74, 0.69, 0.70, 0.78])
    mean, low, high = mean_interval(values, confidence)
    want = stats.t.interval(confidence, 4, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(want)


def test_one_repetition_has_no_interval():
    assert mean_interval(np.array([0.7])) == (0.7, -np.inf, np.inf)
