"""Curves over the number of neurons cut or kept: areas by hand, points by single lesions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_figures import made_size_curves

import grammar_lens as gl
from grammar_lens.certification.planted.world import plant
from grammar_lens.certification.world_result import with_sets
from grammar_lens.corpus.bank import Treebank
from grammar_lens.dissociation.size_curves import (
    ACTIVATION,
    CUT,
    KEEP,
    KEY,
    RANDOM,
    label_rises,
    lesion_curves,
)
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Condition
from grammar_lens.lesions.prepared import ready
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons, all_neurons

LABELS = ("DET", "NOUN", "PRON", "VERB")
QUIET: dict[str, Any] = {"show_progress": False}


class TestAreas:
    def test_by_hand(self) -> None:
        """k / 200 at 10, 30, 100: over log k the trapezoids' mean height."""
        areas: Any = made_size_curves().areas()
        x = np.log([10, 30, 100])
        height = np.trapezoid([0.05, 0.15, 0.5], x) / (x[-1] - x[0])
        key = areas[areas["ranking"] == KEY]
        np.testing.assert_allclose(key["lesion"], height)
        np.testing.assert_allclose(key["completeness"], height / 2)
        np.testing.assert_allclose(key["keep"], 2 - height)
        np.testing.assert_allclose(key["faithfulness"], height / 2)
        others = areas[areas["ranking"] != KEY]
        np.testing.assert_allclose(others[["completeness", "faithfulness"]], 0, atol=1e-12)

    def test_nothing_to_lose_is_unknown(self) -> None:
        curves = made_size_curves()
        curves.everything[0] = -0.1
        areas: Any = curves.areas().set_index("label")
        assert areas.loc[curves.labels[0], ["completeness", "faithfulness"]].isna().all(axis=None)
        assert areas.loc[curves.labels[1], "completeness"].notna().all()
        n = len(curves.labels)
        assert f"{n - 1} of {n} tags" in curves.verdict()
        curves.everything[:] = 0
        assert "costs no tag anything" in curves.verdict()
        assert "nan" not in curves.verdict()

    def test_the_mean_takes_a_label_with_fewer_neurons_at_all_it_has(self) -> None:
        curves = made_size_curves()
        first = curves.labels[0]
        table = curves.table
        fewer = (table["label"] == first) & (table["k"] == 100) & (table["ranking"] == KEY)
        short = replace(curves, table=table[~fewer])
        means: Any = short.means()
        at = (means["ranking"] == KEY) & (means["lesion"] == CUT)
        n = len(curves.labels)
        np.testing.assert_allclose(
            means[at]["own"], [0.05, 0.15, (0.15 + (n - 1) * 0.5) / n], rtol=1e-9
        )

    def test_one_point_has_its_own_height(self) -> None:
        curves = made_size_curves()
        table: Any = curves.table[curves.table["k"] == 30]
        one = type(curves)(curves.labels, table, curves.everything, 1, 1, curves.origin)
        areas: Any = one.areas()
        np.testing.assert_allclose(areas[areas["ranking"] == KEY]["lesion"], 0.15)


@pytest.fixture(scope="module")
def keys(tiny: Model, bank: Treebank) -> KeyNeurons:
    moments = gl.collect(tiny, bank["train"], labels=LABELS, **QUIET)["neuron"]
    return gl.select(gl.score(moments), k=12)


@pytest.fixture(scope="module")
def given(tiny: Model, bank: Treebank, keys: KeyNeurons) -> dict[str, Any]:
    return {
        **{"model": tiny, "fresh": bank["test"], "keys": keys, "lexicon": bank["train"]},
        **{"labels": LABELS, "sentences": None, **QUIET},
    }


def points(table: Any, ranking: str, lesion: str, k: int) -> np.ndarray:
    chosen = (table["ranking"] == ranking) & (table["lesion"] == lesion) & (table["k"] == k)
    return table[chosen][["own", "other"]].to_numpy()


class TestPoints:
    def test_they_are_those_of_single_lesions(self, given: dict[str, Any]) -> None:
        got = lesion_curves(**given, ks=(3, 8))
        model, keys = given["model"], given["keys"]
        battery, cut, _ = ready(
            model, given["fresh"], keys, given["lexicon"], LABELS, None, 0, None, False
        )
        every = all_neurons(keys)
        output = keys.units.mean_abs * output_norms(model)
        active = every.take(np.argsort(-output.ravel(), kind="stable")[:3])
        sets = {(KEY, CUT): keys["VERB"].top(8), (ACTIVATION, CUT): active}
        sets |= {(KEY, KEEP): every.without(keys["VERB"].top(8))}
        conditions = [Condition("x", 1, units) for units in (every, *sets.values())]
        rises = label_rises(battery.run(conditions, codes=battery.studied), cut)
        np.testing.assert_allclose(got.everything, rises[0], atol=1e-5)
        verb = cut.index("VERB")
        for (ranking, lesion), rise in zip(sets, rises[1:], strict=True):
            expected = [rise[verb], np.delete(rise, verb).mean()]
            k = 3 if ranking == ACTIVATION else 8
            np.testing.assert_allclose(
                points(got.table, ranking, lesion, k)[verb], expected, atol=1e-5
            )
        assert len(got.table) == 4 * 3 * 2 * 2

    def test_a_label_with_few_neurons_has_points_up_to_their_number(
        self, given: dict[str, Any]
    ) -> None:
        got = lesion_curves(**given, ks=(5, 40))
        assert got.means()["k"].unique().tolist() == [5, 12]
        ks: Any = got.table[got.table["ranking"].isin([KEY, RANDOM])]["k"]
        assert sorted(ks.unique()) == [5, 12]

    def test_keeping_everything_costs_nothing(self, given: dict[str, Any]) -> None:
        keys: KeyNeurons = given["keys"]
        every = all_neurons(keys)
        whole = replace(keys, sets=dict.fromkeys(LABELS, every))
        got = lesion_curves(**{**given, "keys": whole}, ks=(96,))
        assert np.abs(points(got.table, KEY, KEEP, 96)).max() == 0
        np.testing.assert_allclose(
            points(got.table, KEY, CUT, 96)[:, 0], got.everything, rtol=1e-5, atol=1e-6
        )

    def test_errors(self, given: dict[str, Any]) -> None:
        with pytest.raises(GrammarLensError, match="ks is empty, expected"):
            lesion_curves(**given, ks=())
        with pytest.raises(GrammarLensError, match="smallest of ks is 0, expected 1"):
            lesion_curves(**given, ks=(0, 3))


def test_planted_neurons_cost_more_than_random_and_active_ones() -> None:
    world = plant("true", 0, seed=0)
    moments = gl.collect(world.model, world.train, position="next", **QUIET)["neuron"]
    known = with_sets(gl.select(gl.score(moments), k=5), world.sets)
    got = gl.lesion_curves(
        world.model,
        world.fresh,
        known,
        lexicon=world.train,
        ks=(1, 2, 4),
        labels=[tag for tag in world.sets if len(world.sets[tag])],
        **QUIET,
    )
    areas: Any = got.areas().groupby("ranking")["completeness"].mean()
    assert areas[KEY] > 5 * max(areas[RANDOM], 0.01)
    means: Any = got.means()
    key = means[(means["ranking"] == KEY) & (means["lesion"] == CUT)]
    assert (key["own"] > 0.1).all()
    assert key["own"].is_monotonic_increasing
