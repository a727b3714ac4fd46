"""The further lesions of a study: other ablations, damage-matched shams, everything but a set."""

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_bench import by_hand
from rounding import model_error
from typed import neurons_of, present

import grammar_lens.lesions.battery as lesion_battery
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, prepare
from grammar_lens.dissociation import grown_shams as damage
from grammar_lens.dissociation.changes import changes, total_damage
from grammar_lens.dissociation.grown_shams import GrowingShams, next_size
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.study import lesion_study
from grammar_lens.dissociation.sufficiency import EVERYTHING
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.lesions.prepared import Battery, scored_classes
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, all_neurons
from grammar_lens.neurons.selection import select
from grammar_lens.selectivity.collecting import collect
from grammar_lens.selectivity.evidence import Attribution
from grammar_lens.selectivity.scoring import score

QUIET: dict[str, Any] = {"show_progress": False}
ABLATION = Ablation()
TAGS = ("NOUN", "VERB", "PRON")
OTHERS = (
    Ablation("mean", 0.5),
    Ablation("zero"),
    Ablation(),  # the study's own: not measured twice
    Ablation("resample_within"),
    Ablation("zero"),
    Ablation("mean", 1.0, "scored"),
)


@pytest.fixture(scope="session")
def keys(many: KeyNeurons) -> KeyNeurons:
    return many.top(12)


@pytest.fixture(scope="session")
def many(reference: Model, bank: Treebank) -> KeyNeurons:
    """Enough neurons that cutting them does damage."""
    return select(score(collect(reference, bank["train"], **QUIET)["neuron"]), k=60)


@pytest.fixture(scope="session")
def fresh(reference: Model, bank: Treebank) -> Corpus:
    """Few sentences, with labels in another order than the lexicon's."""
    return prepare(reference, bank["test"], labels=("PRON", "VERB", "NOUN", "DET"))


@pytest.fixture(scope="session")
def run(
    reference: Model, bank: Treebank, keys: KeyNeurons, fresh: Corpus
) -> Callable[..., LesionStudy]:
    lexicon = fit_lexicon(reference, bank["train"])

    def made(**options: Any) -> LesionStudy:
        given: dict[str, Any] = {
            "shams": 2,
            "damage_matched": 0,
            "labels": TAGS,
            **QUIET,
            **options,
        }
        return lesion_study(reference, fresh, keys, lexicon=lexicon, **given)

    return made


@pytest.fixture(scope="session")
def plain(run: Callable[..., LesionStudy]) -> LesionStudy:
    return run()


@pytest.fixture(scope="session")
def full(run: Callable[..., LesionStudy]) -> LesionStudy:
    return run(others=OTHERS, other_shams=1, sufficiency=True)


def test_by_default_there_is_nothing_more(plain: LesionStudy):
    assert plain.ablation == Ablation("mean", 1.0, "every")
    assert (plain.others, plain.damage_matched, plain.sufficiency) == ((), None, None)
    assert plain.outcomes is not None
    assert {c.kind for c in plain.outcomes.conditions} == {"set"}
    assert len(plain.outcomes.conditions) == 3 * 3


def within(model: Model, study: LesionStudy) -> float:
    """Rounding of a mean over words of losses of a few nats."""
    return model_error(model, 5.0) / np.sqrt(study.n_words.min())


def test_further_lesions_leave_the_main_ones_as_they_are(
    reference: Model, plain: LesionStudy, full: LesionStudy
):
    error = within(reference, plain)
    np.testing.assert_allclose(full.matrix, plain.matrix, rtol=0, atol=error)
    np.testing.assert_allclose(full.sham, plain.sham, rtol=0, atol=error)
    assert full.n_shams == 2
    assert full.identity_error < 1e-6


def test_other_ablations(full: LesionStudy, keys: KeyNeurons):
    ablations = [study.ablation for study in full.others]
    assert ablations == [OTHERS[0], OTHERS[1], OTHERS[3], OTHERS[5]]
    outcomes = full.outcomes
    assert outcomes is not None
    for study in full.others:
        rows = outcomes.only(study.ablation)
        assert study.n_shams == 1
        first = [c for c in rows.conditions if c.replicate == 1]
        main = [c for c in outcomes.only(Ablation()).conditions if c.replicate == 1]
        assert [list(neurons_of(c)) for c in first] == [list(neurons_of(c)) for c in main]
        for i, tag in enumerate(TAGS):
            change = rows.tag_loss[rows.row(tag, 0)] - rows.tag_loss[0]
            mine = [rows.label == rows.labels.index(other) for other in TAGS]
            np.testing.assert_allclose(study.matrix[i], [change[m].mean() for m in mine])
            assert list(neurons_of(rows.conditions[i])) == list(keys[tag])
        assert np.abs(study.matrix - full.matrix).max() > 1e-4


def test_a_resampled_word_takes_the_place_of_one_of_its_label(
    run: Callable[..., LesionStudy], monkeypatch: pytest.MonkeyPatch
):
    """Also where the held-out words number their labels in another way than the lexicon."""
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    assigned = lesion_battery._assigned

    def spying(alignment: Any, classes: Any, donors: Any, value: str, seed: int) -> Any:
        chosen = assigned(alignment, classes, donors, value, seed)
        read = np.flatnonzero(alignment.scorable() & (classes >= 0))
        place = alignment.token_start[alignment.sentence[read]] + alignment.time("next")[read]
        drawn.append(
            (classes[read], np.where(classes >= 0, classes, -1)[donors.word[chosen[place]]])
        )
        return chosen

    monkeypatch.setattr(lesion_battery, "_assigned", spying)
    run(value="resample_within", shams=0)
    ((words, donors),) = drawn
    assert len(np.unique(words)) == 4
    assert (np.bincount(words)[words] > 1).all()
    np.testing.assert_array_equal(donors, words)


def test_everything_but_a_set(full: LesionStudy, keys: KeyNeurons):
    outcomes, rest = full.outcomes, full.sufficiency
    assert outcomes is not None
    assert rest is not None
    rows = outcomes.only(Ablation(), "rest")
    assert rows.conditions[0].label == EVERYTHING
    assert len(rows.conditions[0].neurons) == 8 * 896
    assert rest.n_shams == 1
    for condition in rows.conditions[1:]:
        kept = (
            keys[condition.label]
            if condition.replicate == 0
            else neurons_of(outcomes.conditions[outcomes.row(condition.label, 1) - 1])
        )
        assert len(condition.neurons) == 8 * 896 - 12
        assert not set(kept) & set(neurons_of(condition))
    for i, tag in enumerate(TAGS):
        for row, want in ((rows.row(tag, 0), rest.kept[i]), (rows.row(tag, 1), rest.sham[0, i])):
            change = rows.tag_loss[row] - rows.tag_loss[0]
            means = [change[rows.label == rows.labels.index(other)].mean() for other in TAGS]
            np.testing.assert_allclose(want, means)
    assert (rest.everything > 0.1).any()


def test_everything_but_a_set_by_hand(full: LesionStudy, reference: Model, fresh: Corpus):
    """The largest lesion of all, one sentence at a time."""
    outcomes = full.outcomes
    assert outcomes is not None
    condition = outcomes.only(Ablation(), "rest").conditions[1]
    row = outcomes.conditions.index(condition) + 1
    want = by_hand(reference, fresh, condition)
    there = np.isfinite(outcomes.nll[row])
    np.testing.assert_array_equal(there, outcomes.shared)
    np.testing.assert_allclose(
        outcomes.nll[row, there], want[there], rtol=0, atol=model_error(reference, 5.0)
    )


def test_lesions_at_the_scored_token_are_a_manner_like_others(
    reference: Model, run: Callable[..., LesionStudy], full: LesionStudy
):
    study = run(where="scored")
    assert study.ablation.where == "scored"
    error = within(reference, study)
    np.testing.assert_allclose(study.matrix, full.others[-1].matrix, rtol=0, atol=error)
    np.testing.assert_allclose(study.sham[0], full.others[-1].sham[0], rtol=0, atol=error)


def test_a_study_goes_on_where_it_stopped(
    run: Callable[..., LesionStudy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Stop(BaseException):
        pass

    monkeypatch.setattr(damage, "ROUNDS", 1)
    options: dict[str, Any] = {
        "shams": 1,
        "labels": TAGS[:2],
        "others": OTHERS[:1],
        "damage_matched": 1,
        "token_budget": 100,
        "folder": tmp_path / "battery",
    }
    whole = lesion_battery._Worker._whole
    seen: list[tuple[str, int]] = []
    """Folder of the battery and first row of the batch."""

    def interrupted(self: Any, batch: Any, *lesions: Any) -> None:
        if self.battery.store._folder is not None:
            seen.append((self.battery.store._folder.name, int(batch.rows[0])))
            if len(seen) == 3:
                raise Stop
        whole(self, batch, *lesions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lesion_battery._Worker, "_whole", interrupted)
        with pytest.raises(Stop):
            run(**options)
        again = run(**options)
    assert seen[2] == seen[3], "the batch that was interrupted is the first to be run"
    assert sorted(set(seen)) == sorted({*seen[:2], *seen[3:]})
    assert len(seen) == len(set(seen)) + 1
    straight = run(**options | {"folder": None})
    assert again.outcomes is not None
    assert straight.outcomes is not None
    np.testing.assert_array_equal(again.outcomes.nll, straight.outcomes.nll)
    np.testing.assert_array_equal(again.matrix, straight.matrix)
    assert again.s_star == straight.s_star
    assert again.damage_matched is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shams": -1}, GrammarLensError, "shams is -1, expected 0 or more"),
        ({"other_shams": -2}, GrammarLensError, "other_shams is -2, expected 0 or more"),
        ({"damage_matched": -3}, GrammarLensError, "damage_matched is -3, expected 0 or more"),
        ({"value": "half"}, GrammarLensError, "lesion value is 'half', expected one of zero"),
        (
            {"where": "there"},
            GrammarLensError,
            "lesion where is 'there', expected one of every, sc",
        ),
        ({"others": [Ablation("nought")]}, GrammarLensError, "lesion value is 'nought'"),
        ({"others": [Ablation("zero", float("nan"))]}, GrammarLensError, "lesion dose is nan"),
    ],
)
def test_studies_that_cannot_be_made(
    run: Callable[..., LesionStudy], options: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        run(**options)


# Shams that grow ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ready(reference: Model, bank: Treebank, keys: KeyNeurons) -> Battery:
    corpus = prepare(reference, bank)
    lexicon = fit_lexicon(reference, corpus)
    codes, _ = scored_classes(corpus, lexicon)
    shared = np.isin(codes, [lexicon.labels.index(tag) for tag in TAGS])
    return Battery(reference, corpus, codes, shared, lexicon, "next", 0, 1024, False)


def rises(battery: Battery, conditions: list[Condition]) -> np.ndarray:
    nll = battery.run(conditions, codes=np.where(battery.shared, battery.codes, -1)).nll
    return (nll[1:] - nll[:1]).mean(1)


def measured(battery: Battery, sets: KeyNeurons, ablation: Ablation = ABLATION) -> Outcomes:
    """The losses under the real sets."""
    real = [Condition(label, 0, sets[label], ablation) for label in sets]
    return battery.run(real, codes=battery.studied)


def grown(
    battery: Battery, sets: KeyNeurons, ablation: Ablation, n: int, real: Outcomes
) -> list[Condition]:
    shams = GrowingShams(battery, sets, ablation, n, np.random.default_rng(0), real=real)
    return shams.conditions(shams.sizes())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Outcomes]:
    seen: list[Outcomes] = []
    whole = Battery.run

    def counting(self: Battery, *args: Any, **options: Any) -> Outcomes:
        seen.append(whole(self, *args, **options))
        return seen[-1]

    monkeypatch.setattr(Battery, "run", counting)
    return seen


def test_they_do_as_much_damage(ready: Battery, many: KeyNeurons, monkeypatch: pytest.MonkeyPatch):
    ablation = Ablation("mean", 2.0)
    sets = many.top(40).only(TAGS)
    main = measured(ready, sets, ablation)
    batteries = counted(monkeypatch)
    shams = grown(ready, sets, ablation, 2, main)
    assert 2 <= len(batteries) <= 2 * damage.ROUNDS, "two groups of sentences"
    assert [(c.label, c.replicate) for c in shams] == [(t, r) for r in (1, 2) for t in TAGS]
    union = {tuple(row) for row in sets.union().tolist()}
    for condition in shams:
        assert (condition.kind, condition.ablation) == ("matched", ablation)
        assert not union & set(neurons_of(condition))
        assert len(set(neurons_of(condition))) == len(condition.neurons)
        assert many.units is not None
        drawn = neurons_of(condition)
        there = many.units.mean[drawn.layer, drawn.index]
        np.testing.assert_array_equal(present(drawn.mean), there)
    real = rises(ready, [Condition(tag, 0, sets[tag], ablation) for tag in TAGS])
    ratio = rises(ready, shams).reshape(2, 3) / real
    reachable = real > 0.1  # on so few words, a single neuron may do a tenth of a nat
    assert reachable.any()
    assert (np.abs(ratio.mean(0)[reachable] - damage.AIM) < 0.3).all()
    sizes = [len(c.neurons) for c in shams]
    assert sizes[:3] == sizes[3:], "a size for every label"
    assert len(set(sizes)) > 1


def test_shams_that_miss_the_damage_are_grown_and_run_again(
    ready: Battery, many: KeyNeurons, monkeypatch: pytest.MonkeyPatch
):
    """The sizes come from parts of the sentences; what counts is the damage at all of them."""
    ablation, n = Ablation("mean", 2.0), 4
    sets = many.top(40).only(TAGS)
    main = measured(ready, sets, ablation)
    monkeypatch.setattr(GrowingShams, "sizes", lambda *_: {"NOUN": 5, "VERB": 400, "PRON": 5})
    batteries = counted(monkeypatch)
    shams = GrowingShams(ready, sets, ablation, n, np.random.default_rng(0), real=main)
    got = shams.outcomes()
    assert 1 < len(batteries) <= 1 + damage.CORRECTIONS
    assert len(batteries[0].conditions) == n * 3
    assert {(c.label, c.replicate) for c in got.conditions} == {
        (tag, r) for tag in TAGS for r in range(1, n + 1)
    }
    assert len(got.conditions) == n * 3
    real = (main.nll[1:] - main.nll[0]).mean(1)
    for tag, rise in zip(TAGS, real.tolist(), strict=True):
        before, after = (
            abs(np.mean([total_damage(o, (tag,), r) for r in range(1, n + 1)]) / rise - damage.AIM)
            for o in (batteries[0], got)
        )
        assert after <= before
    assert {len(c.neurons) for c in got.conditions if c.label != "VERB"}.isdisjoint({5})


def test_sets_that_do_no_damage_get_one_neuron(
    ready: Battery, keys: KeyNeurons, monkeypatch: pytest.MonkeyPatch
):
    """Lesions that lower the loss, by being the other way round."""
    sets, ablation = keys.only(TAGS), Ablation("mean", -0.3)
    real = rises(ready, [Condition(tag, 0, sets[tag], ablation) for tag in TAGS])
    assert (real < 0).any()
    only = sets.only([tag for tag, rise in zip(TAGS, real, strict=True) if rise < 0])
    main = measured(ready, only, ablation)
    batteries = counted(monkeypatch)
    shams = grown(ready, only, ablation, 3, main)
    assert {len(c.neurons) for c in shams} == {1}
    assert not batteries, "the real sets alone say that there is nothing to match"


def test_damage_that_no_sham_can_do(
    ready: Battery, keys: KeyNeurons, monkeypatch: pytest.MonkeyPatch
):
    """Rises that never reach the target end the search at the largest size, or after the rounds."""
    main = measured(ready, keys.only(TAGS))
    tried: list[list[int]] = []

    def little(_battery: Battery, conditions: list[Condition], *_: Any) -> np.ndarray:
        tried.append([len(c.neurons) for c in conditions])
        return np.array([1e-9 * len(c.neurons) for c in conditions])

    monkeypatch.setattr(damage, "_rises", little)
    monkeypatch.setattr(GrowingShams, "_target", lambda *_: dict.fromkeys(TAGS, 5.0))
    sets = keys.only(TAGS)
    shams = grown(ready, sets, Ablation(), 1, main)
    free = 8 * 896 - len(sets.union())
    assert [len(c.neurons) for c in shams] == [free] * 3
    assert len(tried) <= damage.ROUNDS
    assert tried[0] == [12 * damage.START] * 3
    small = replace(sets, sets={tag: sets[tag].top(1) for tag in TAGS})
    monkeypatch.setattr(damage, "GROWTH", 4)
    most = damage.START * damage.GROWTH ** (damage.ROUNDS - 1)
    tried.clear()
    shams = grown(ready, small, Ablation(), 1, main)
    assert len(tried) == damage.ROUNDS
    assert [len(c.neurons) for c in shams] == [most] * 3


def test_damage_that_jumps_is_searched_for_so_long_and_no_longer(
    ready: Battery, keys: KeyNeurons, monkeypatch: pytest.MonkeyPatch
):
    """Damage that does not rise with size: the size that came nearest is taken, none untried."""
    rng = np.random.default_rng(2)
    tried: dict[int, float] = {}

    def noise(_battery: Battery, conditions: list[Condition], *_: Any) -> np.ndarray:
        out = rng.uniform(0, 3, len(conditions))
        tried.update(zip((len(c.neurons) for c in conditions), out.tolist(), strict=True))
        return out

    sets = keys.only(["NOUN"])
    main = measured(ready, sets)
    monkeypatch.setattr(damage, "_rises", noise)
    monkeypatch.setattr(GrowingShams, "_target", lambda *_: {"NOUN": damage.AIM})
    (sham,) = grown(ready, sets, Ablation(), 1, main)
    assert len(tried) <= damage.ROUNDS
    assert len(sham.neurons) == min(tried, key=lambda size: abs(tried[size] - damage.AIM))


class TestNextSize:
    def test_between_two_sizes_damage_is_a_power_of_size(self) -> None:
        """From 1 to 16 between 100 and 400, by the square: 4 at 200."""
        assert next_size({100: 1.0, 400: 16.0}, 4.0, 1, 1000, 0.1) == 200
        assert next_size({400: 16.0, 100: 1.0, 1000: 20.0}, 4.0, 1, 1000, 0.1) == 200

    def test_beyond_the_sizes_by_the_usual_power_and_fourfold_at_most(self) -> None:
        assert next_size({100: 1.0}, 2.0**1.5, 1, 1000, 0.1) == 200
        assert next_size({100: 1.0}, 1e6, 1, 1000, 0.1) == 100 * damage.GROWTH
        assert next_size({100: 1.0}, 1e6, 1, 250, 0.1) == 250
        assert next_size({100: 8.0, 200: 9.0}, 1.0, 1, 1000, 0.1) == 25
        assert next_size({1: 8.0}, 1.0, 1, 1000, 0.1) == 0, "no set is smaller than one neuron"

    def test_lesions_that_lower_the_loss_count_for_little(self) -> None:
        assert next_size({100: -0.5}, 1.0, 1, 1000, 0.1) == 100 * damage.GROWTH
        assert 100 < next_size({100: -0.5, 400: 2.0}, 1.0, 1, 1000, 0.1) < 400

    def test_damage_that_falls_is_made_to_rise(self) -> None:
        """3 and 1 become 2 and 2, as isotonic regression (pool adjacent violators) does."""
        got = next_size({100: 3.0, 200: 1.0, 400: 8.0}, 4.0, 1, 1000, 0.1)
        assert got == 283, "halfway from 200 to 400 on both logarithmic scales"

    def test_what_is_near_enough_is_not_tried_again(self) -> None:
        assert next_size({100: 1.09}, 1.0, 1, 1000, 0.1) == 0
        assert next_size({100: 1.12}, 1.0, 1, 1000, 0.1) == 93
        assert next_size({}, 1.0, 7, 1000, 0.1) == 7
        assert next_size({}, -1.0, 7, 1000, 0.1) == 0

    @given(st.lists(st.floats(-1, 5), min_size=1, max_size=8), st.floats(0.01, 6))
    @settings(max_examples=80, deadline=None)
    def test_a_larger_target_never_takes_fewer(self, damages: list[float], target: float) -> None:
        tried = {7 * i: x for i, x in enumerate(damages, 1)}
        sizes = [next_size(tried, x, 1, 1000, -1.0) for x in (target, 2 * target)]
        assert all(0 <= size <= 1000 for size in sizes)
        assert 0 in sizes or sizes[0] <= sizes[1], "0: the size was tried"


def test_as_many_as_shams_where_those_carry_too_little(
    run: Callable[..., LesionStudy], plain: LesionStudy, monkeypatch: pytest.MonkeyPatch
):
    """None decides by the share of output that the shams carry."""
    path = "grammar_lens.dissociation.study.ENOUGH"
    monkeypatch.setattr(damage, "ROUNDS", 1)
    weakest = float(plain.output_ratio.min())
    monkeypatch.setattr(path, weakest - 0.01)
    assert run(damage_matched=None).damage_matched is None
    monkeypatch.setattr(path, weakest + 0.01)
    study = run(damage_matched=None)
    assert study.damage_matched is not None
    assert study.damage_matched.n_shams == study.n_shams == 2
    assert run(damage_matched=None, shams=0).damage_matched is None


def test_shams_are_compared_on_some_sentences_and_the_matrix_is_of_all(
    run: Callable[..., LesionStudy], full: LesionStudy
):
    study = run(sham_sentences=3, others=OTHERS, other_shams=1, sufficiency=True)
    assert (study.n_sentences, study.n_sham_sentences) == (full.n_sentences, 3)
    assert full.n_sham_sentences == full.n_sentences > 3
    # batches of other rows: float32 sums in another order
    np.testing.assert_allclose(study.matrix, full.matrix, atol=3e-5)
    outcomes, whole = study.outcomes, full.outcomes
    assert outcomes is not None
    assert whole is not None
    at = outcomes.sampled
    assert at is not None
    assert len(np.unique(outcomes.sentence[at])) == 3
    name = attrgetter("label", "replicate", "ablation", "kind")
    row = {name(c): i for i, c in enumerate(whole.conditions, 1)}
    expected = whole.tag_loss[[0, *(row[name(c)] for c in outcomes.conditions)]]
    there = np.isfinite(outcomes.tag_loss)
    # which word a token is resampled from is drawn among the words that are scored
    drawn = [False, *(c.ablation.value.startswith("resample") for c in outcomes.conditions)]
    alike = there & ~np.array(drawn)[:, None]
    np.testing.assert_allclose(outcomes.tag_loss[alike], expected[alike], atol=3e-5)
    real = [
        c.replicate == 0 and c.ablation == Ablation() and c.kind == "set"
        for c in outcomes.conditions
    ]
    assert there[[True, *real]].all()
    assert not there[1:][~np.array(real)][:, ~at].any()
    sampled = outcomes.sample()
    assert len(sampled.word) == at.sum()
    shams = changes(sampled.only(Ablation()), TAGS).sham_matrices()
    np.testing.assert_array_equal(study.sham, shams)


def test_the_first_order_study_follows_the_attributions(
    run: Callable[..., LesionStudy], keys: KeyNeurons, plain: LesionStudy
):
    """Attributions that favour each tag's own neurons are selective, those without a pattern not."""
    rng = np.random.default_rng(0)
    shape = (3, keys.n_layers, keys.n_units)
    effect = rng.normal(size=shape)
    for i, tag in enumerate(TAGS):
        effect[i, keys[tag].layer, keys[tag].index] += 3
    made = Attribution("own", "mean", TAGS, np.full(3, 50.0), effect, keys.origin)
    study = run(attribution=made)
    assert study.first_order is not None
    expected = [[effect[j, keys[i].layer, keys[i].index].sum() for j in range(3)] for i in TAGS]
    np.testing.assert_allclose(study.first_order.matrix, expected, rtol=1e-12)
    assert len(study.first_order.s_star_sham) == 9999
    assert present(study.first_order.p_value) <= 5e-4
    np.testing.assert_array_equal(study.sham, plain.sham)
    noise = replace(made, mean=rng.normal(size=shape))
    found = run(attribution=noise).first_order
    assert found is not None
    assert found.p_value is not None
    assert found.p_value > 0.01


def test_all_neurons_are_those_of_the_model(keys: KeyNeurons):
    whole = all_neurons(keys)
    assert keys.units is not None
    np.testing.assert_array_equal(whole.mean, keys.units.mean.ravel())
