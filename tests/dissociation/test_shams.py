"""Sham sets: the laws of the map, growing sets, and the size that does a given damage."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_batteries import (
    LABELS,
    battery,
    keys_of,
    neurons,
    own_keys,
    sham_conditions,
    statistics,
    study_of,
)
from scipy import stats
from typed import neurons_of, present

from grammar_lens.dissociation.shams import (
    N_NEAREST,
    growing_sham,
    output_matched_shams,
)
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Condition

sets_of_neurons = st.dictionaries(
    st.sampled_from(["NOUN", "VERB", "ADJ"]),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39)), min_size=1, max_size=8, unique=True),
    min_size=1,
)


class TestShams:
    @given(sets_of_neurons, st.integers(0, 10**6))
    @settings(max_examples=80, deadline=None)
    def test_laws_of_the_map(self, sets, seed) -> None:
        """40 units in each of 3 layers, a third of them without output, at most 24 of them key."""
        rng = np.random.default_rng(seed)
        output = rng.lognormal(sigma=2, size=(3, 40)) * (rng.random((3, 40)) > 1 / 3)
        keys = keys_of(sets, 3, 40)
        union = {tuple(row) for row in keys.union().tolist()}
        for layer in range(3):
            for silent in (True, False):
                mine = [u for u in union if u[0] == layer and (output[u] == 0) == silent]
                if 2 * len(mine) > ((output[layer] == 0) == silent).sum():
                    return  # too few others: the error has its own test
        units = statistics(3, 40)
        conditions = sham_conditions(keys, output, 4, rng, units)
        assert [(c.label, c.replicate) for c in conditions] == [
            (label, r) for r in range(1, 5) for label in keys.labels
        ]
        for replicate in range(1, 5):
            image: dict[tuple[int, int], tuple[int, int]] = {}
            for c in conditions:
                if c.replicate == replicate:
                    for real, sham in zip(keys[c.label], neurons_of(c), strict=True):
                        # one map for all sets: shared neurons stay shared
                        assert image.setdefault(real, sham) == sham
            assert len(set(image.values())) == len(image) == len(union), "injective"
            assert union.isdisjoint(image.values())
            for real, sham in image.items():
                assert real[0] == sham[0]
                assert (output[real] == 0) == (output[sham] == 0)
                if output[real] > 0:
                    # whatever the order of drawing, units that no one took were free throughout
                    gap = abs(np.log(output[sham] / output[real]))
                    nearer = sum(
                        output[real[0], i] > 0
                        and abs(np.log(output[real[0], i] / output[real])) < gap - 1e-12
                        for i in range(40)
                        if (real[0], i) not in union and (real[0], i) not in image.values()
                    )
                    assert nearer < N_NEAREST
        for c in conditions:
            drawn = neurons_of(c)
            np.testing.assert_array_equal(present(drawn.mean), units.mean[drawn.layer, drawn.index])
            assert (drawn.site, len(drawn)) == ("neuron", len(keys[c.label]))
            assert drawn.name == f"{c.label} sham {c.replicate}"

    def test_one_neuron_goes_to_each_of_the_forty_nearest(self) -> None:
        output = np.exp(np.arange(100.0) / 4)[None] / 1e8
        keys = keys_of({"NOUN": [(0, 50)]}, 1, 100)
        rng = np.random.default_rng(1)
        conditions = sham_conditions(keys, output, 1600, rng, statistics(1, 100))
        drawn = [int(neurons_of(c).index[0]) for c in conditions]
        assert set(drawn) == {*range(30, 50), *range(51, 71)}
        counts = np.unique(drawn, return_counts=True)[1]
        assert stats.chisquare(counts).pvalue > 0.01

    def test_replicates_differ_and_the_seed_decides(self) -> None:
        keys = keys_of({"NOUN": [(0, i) for i in range(5)]}, 1, 40)
        output = np.ones((1, 40))

        def draw(seed: int) -> list[list[int]]:
            rng = np.random.default_rng(seed)
            sets = sham_conditions(keys, output, 3, rng, statistics(1, 40))
            return [neurons_of(c).index.tolist() for c in sets]

        assert draw(1) == draw(1) != draw(2)
        assert len({tuple(x) for x in draw(1)}) == 3

    def test_no_shams(self) -> None:
        keys = own_keys(LABELS)
        assert (
            sham_conditions(keys, np.ones((1, 100)), 0, np.random.default_rng(), statistics(1, 100))
            == []
        )

    def test_a_layer_with_too_few_others_is_named(self) -> None:
        keys = keys_of({"NOUN": [(0, 0), (1, 0), (1, 1)], "VERB": [(1, 2)]}, 2, 5)
        message = "layer 1 has too few other neurons to match 3 key neurons of 5: use a smaller k"
        with pytest.raises(GrammarLensError, match=message):
            sham_conditions(keys, np.ones((2, 5)), 1, np.random.default_rng(), statistics(2, 5))

    def test_a_neuron_without_output_needs_others_without_output(self) -> None:
        output = np.ones((1, 9))
        output[0, 4] = 0
        with pytest.raises(
            GrammarLensError, match="layer 0 has too few other neurons to match 1 key"
        ):
            sham_conditions(
                keys_of({"NOUN": [(0, 4)]}, 1, 9),
                output,
                1,
                np.random.default_rng(),
                statistics(1, 9),
            )

    def test_output_ratio_by_hand(self) -> None:
        """NOUN 0.0 and 0.1 put out 3, its shams 2 + 3 and 4 + 5; VERB has none, and so its shams."""
        output = np.array([[1.0, 2, 2, 3, 4, 5, 0, 0, 0]])
        real = {"NOUN": [(0, 0), (0, 1)], "VERB": [(0, 6)]}
        shams = [{"NOUN": [(0, 2), (0, 3)]}, {"NOUN": [(0, 4), (0, 5)]}]
        labels = ("NOUN", "VERB")
        outcomes = battery(np.zeros((3, 2, 2)), labels)
        conditions = [Condition(x, 0, neurons(x, real[x])) for x in labels]
        for r, sets in enumerate(shams, 1):
            conditions += [Condition(x, r, neurons(x, sets.get(x, [(0, 6 + r)]))) for x in labels]
        got = study_of(
            replace(outcomes, conditions=tuple(conditions)),
            labels,
            keys=keys_of(real, 1, 9),
            output=output,
        )
        np.testing.assert_allclose(got.output_ratio, [(5 / 3 + 9 / 3) / 2, 1])


class TestMatchedKeys:
    def test_one_replicate_is_one_map_for_all_sets(self) -> None:
        keys = keys_of({"NOUN": [(0, 3), (1, 7)], "VERB": [(1, 7), (0, 5)]}, 2, 40)
        units = statistics(2, 40)
        shams = output_matched_shams(keys, np.ones((2, 40)), 3, np.random.default_rng(0), units)
        assert [s.labels for s in shams] == [keys.labels] * 3
        for number, sham in enumerate(shams, 1):
            assert list(sham["NOUN"])[1] == next(iter(sham["VERB"]))
            assert sham["VERB"].name == f"VERB sham {number}"
            assert sham["NOUN"].mean is not None
            np.testing.assert_array_equal(
                sham["NOUN"].mean, units.mean[sham["NOUN"].layer, sham["NOUN"].index]
            )

    def test_neurons_to_avoid_are_never_drawn(self) -> None:
        """12 free units besides 20 of labels that are not studied: only those 12 are drawn."""
        keys = keys_of({"NOUN": [(0, i) for i in range(4)]}, 1, 36)
        others = keys_of({"X": [(0, i) for i in range(4, 24)], "NOUN": [(0, 0)]}, 1, 36)
        rng = np.random.default_rng(0)
        shams = output_matched_shams(
            keys, np.ones((1, 36)), 50, rng, statistics(1, 36), avoid=others
        )
        drawn = {index for sham in shams for _, index in sham["NOUN"]}
        assert drawn == set(range(24, 36))
        free = output_matched_shams(keys, np.ones((1, 36)), 50, rng, statistics(1, 36))
        assert not drawn.issuperset({index for sham in free for _, index in sham["NOUN"]})

    def test_the_largest_is_matched_first(self) -> None:
        """Nine smaller key neurons would take what comes near the largest, were they first."""
        output = np.ones((1, 90))
        output[0, :10] = [5, 5, 5, 5, 9, 5, 5, 5, 5, 5]
        output[0, 30:70] = 8
        keys = keys_of({"NOUN": [(0, i) for i in range(10)]}, 1, 90)
        shams = output_matched_shams(keys, output, 20, np.random.default_rng(0), statistics(1, 90))
        found = np.array([output[0, sham["NOUN"].index] for sham in shams])
        assert (found[:, 4] == 8).all()
        assert (found.min(1) == 1).any()


class TestGrowingSham:
    @given(sets_of_neurons, st.integers(0, 10**6))
    @settings(max_examples=50, deadline=None)
    def test_its_laws(self, sets, seed) -> None:
        keys = keys_of(sets, 4, 40)
        union = keys.union()
        real = next(iter(keys.values()))
        mean = statistics(4, 40).mean
        rng = np.random.default_rng(seed)
        sham = growing_sham(real, union, 4, 40, mean, rng)
        assert len(sham) == len(set(sham)) == 160 - len(union)
        assert not set(sham) & {tuple(row) for row in union.tolist()}
        there = np.bincount(real.layer, minlength=4)
        first = np.bincount(sham.layer[: len(real)], minlength=4)
        np.testing.assert_array_equal(first, there)
        assert sham.mean is not None
        np.testing.assert_array_equal(sham.mean, mean[sham.layer, sham.index])
        left = 40 - np.bincount(union[:, 0], minlength=4)
        for n in range(1, len(sham) + 1):
            drawn = np.bincount(sham.layer[:n], minlength=4)
            full = drawn == left
            if not (full & (there > 0)).any():
                # Webster's order keeps every layer within one unit of its share, and half a unit
                # for each other layer that is rounded against it
                assert (np.abs(drawn - n * there / len(real)) < 2).all()
            if not full[there > 0].all():
                assert drawn[there == 0].sum() == 0, "other layers come last"

    def test_seeds_differ_and_the_order_is_random(self) -> None:
        real = neurons("NOUN", [(0, 0), (0, 1), (1, 0)])
        union = np.array([[0, 0], [0, 1], [1, 0]])
        mean = np.zeros((2, 12))

        def draw(seed: int) -> list[tuple[int, int]]:
            return list(growing_sham(real, union, 2, 12, mean, np.random.default_rng(seed)))

        assert draw(1) == draw(1) != draw(2)
        first = [draw(seed)[0] for seed in range(600)]
        layers = np.bincount([layer for layer, _ in first], minlength=2)
        assert layers.tolist() == [600, 0], "the layer with the larger share begins"
        counts = np.bincount([index for _, index in first], minlength=12)[2:]
        assert stats.chisquare(counts).pvalue > 0.001

    def test_a_layer_without_room_is_named(self) -> None:
        real = neurons("NOUN", [(1, 0), (1, 1), (1, 2)])
        union = np.array([[1, 0], [1, 1], [1, 2]])
        message = "layer 1 has 2 neurons that are key to no label, needs at least 3: use a smaller"
        with pytest.raises(GrammarLensError, match=message):
            growing_sham(real, union, 2, 5, np.zeros((2, 5)), np.random.default_rng(0))
