"""Moments merge to the whole however words are split, on the host and on the device."""

from dataclasses import replace
from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.moments import MomentAccumulator, Moments, pool
from grammar_lens.passes.readers import Seen

ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")
LABELS = ("NOUN", "VERB", "ADJ")
CPU = torch.device("cpu")
N_LAYERS, N_UNITS = 2, 3


def two_pass(values: np.ndarray, classes: np.ndarray, labels: tuple[str, ...] = LABELS) -> Moments:
    """The reference: float64, first the means, then the squared deviations; no merging."""
    values = values.astype(float)
    count = np.bincount(classes, minlength=len(labels)).astype(float)
    mean, m2, fired = (np.zeros((len(labels), *values.shape[1:])) for _ in range(3))
    for i in np.flatnonzero(count):
        mine = values[classes == i]
        mean[i] = mine.mean(0)
        m2[i] = ((mine - mean[i]) ** 2).sum(0)
        fired[i] = (mine > 0).sum(0)
    mean_abs = np.abs(values).sum(0) / max(len(values), 1)
    return Moments(labels, count, mean, m2, fired, mean_abs, ORIGIN)


def drifting(rng: np.random.Generator, n: int, mean: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Words whose activations wander off and whose classes come in runs; noise of sd 1.

    Stationary noise would hide a merge that forgets the gap between the parts' means.
    """
    time = np.arange(n)[:, None, None]
    values = mean + rng.normal(size=(n, N_LAYERS, N_UNITS)) + time * rng.normal(size=N_UNITS) / 10
    classes = np.minimum(rng.integers(0, 3, n), time.ravel() * 4 // max(n, 1))
    return values, classes


def accumulated(batches: list[tuple[np.ndarray, np.ndarray]], dtype: type = np.float32) -> Moments:
    """The device's answer to batches [word, layer, unit]."""
    n_layers, n_units = batches[0][0].shape[1:]
    accumulator = MomentAccumulator(LABELS, n_layers, n_units, CPU)
    for values, classes in batches:
        _add(accumulator, values.astype(dtype), classes)
        accumulator.commit()
    return accumulator.moments(ORIGIN)


def _add(accumulator: MomentAccumulator, values: np.ndarray, classes: np.ndarray) -> bool:
    finite = []
    for layer in range(values.shape[1]):
        x = torch.from_numpy(values[:, layer].copy())
        finite.append(bool(accumulator.add(layer, Seen(x), torch.from_numpy(classes))))
    return all(finite)


def pieces(length: int, cuts: list[int]) -> list[slice]:
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    return [slice(a, b) for a, b in pairwise(edges)]


def assert_same(got: Moments, expected: Moments, rtol: float, atol: float) -> None:
    np.testing.assert_array_equal(got.count, expected.count)
    np.testing.assert_array_equal(got.fired, expected.fired)
    for name in ("mean", "m2", "mean_abs"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(expected, name), rtol=rtol, atol=atol, err_msg=name
        )


splits = st.lists(st.integers(0, 60), max_size=8)
"""Places to cut: equal ones make empty parts, neighbouring ones one-word parts."""


class TestHost:
    @given(
        st.integers(0, 10**6),
        st.integers(0, 60),
        splits,
        st.randoms(use_true_random=False),
        # relative to sd 1: rounding of float64 grows with |mean| / sd
        st.sampled_from([(0.0, 1e-12), (1e7, 1e-7)]),
    )
    @settings(max_examples=150, deadline=None)
    def test_any_split_in_any_order_merges_to_the_whole(self, seed, n, cuts, random, scale) -> None:
        mean, tolerance = scale
        values, classes = drifting(np.random.default_rng(seed), n, mean)
        parts = [two_pass(values[p], classes[p]) for p in pieces(n, cuts)]
        while len(parts) > 1:  # any order, and any tree
            random.shuffle(parts)
            parts.append(parts.pop() + parts.pop())
        # atol: a mean may be 0 by chance, and the M2 of one word is 0
        assert_same(parts[0], two_pass(values, classes), tolerance, tolerance)

    def test_some_labels_alone_are_those_labels_words(self) -> None:
        values, classes = drifting(np.random.default_rng(20), 50)
        whole = two_pass(values, classes)
        some = whole.only(["ADJ", "NOUN"])
        assert some.labels == ("ADJ", "NOUN")
        kept = classes != 1
        want = two_pass(values[kept], np.where(classes[kept] == 2, 0, 1), ("ADJ", "NOUN"))
        # the mean size is of all words, not of these labels' alone
        assert_same(some, replace(want, mean_abs=whole.mean_abs), 0, 0)
        assert some.origin == whole.origin

    def test_parts_that_were_told_apart_add_up(self) -> None:
        """Words of three parts of a corpus, read with a label of their own for every part."""
        values, classes = drifting(np.random.default_rng(21), 90)
        part = np.random.default_rng(22).integers(0, 3, 90)
        names = tuple(f"{i} {x}" for i in range(3) for x in LABELS)
        parts = two_pass(values, classes + 3 * part, names).parts(3)
        for i, got in enumerate(parts):
            assert got.labels == tuple(f"0 {x}" for x in LABELS)
            want = two_pass(values[part == i], classes[part == i])
            assert_same(got, replace(want, mean_abs=got.mean_abs), 0, 0)
        assert_same(reduce(add, parts), two_pass(values, classes), 1e-12, 1e-12)

    def test_words_one_by_one_merge_to_the_whole(self) -> None:
        values, classes = drifting(np.random.default_rng(1), 50)
        words = (two_pass(values[i : i + 1], classes[i : i + 1]) for i in range(50))
        assert_same(reduce(add, words), two_pass(values, classes), 1e-12, 1e-12)

    def test_an_empty_part_changes_nothing_at_all(self) -> None:
        values, classes = drifting(np.random.default_rng(2), 20)
        whole, nothing = two_pass(values, classes), two_pass(values[:0], classes[:0])
        for merged in (whole + nothing, nothing + whole):
            assert_same(merged, whole, 0, 0)
        assert (nothing + nothing).n_words == 0

    def test_different_labels_cannot_be_merged(self) -> None:
        one = two_pass(*drifting(np.random.default_rng(3), 9))
        other = replace(one, labels=("VERB", "NOUN", "ADJ"))
        with pytest.raises(
            GrammarLensError, match=r"different labels cannot be merged: .*NOUN.*VERB"
        ):
            _ = one + other

    @pytest.mark.parametrize("field", ["model", "label", "position", "site"])
    def test_different_origins_cannot_be_merged(self, field: str) -> None:
        one = two_pass(*drifting(np.random.default_rng(3), 9))
        other = replace(one, origin=replace(ORIGIN, **{field: "elsewhere"}))
        with pytest.raises(
            GrammarLensError, match=r"different origins cannot be merged: .*elsewhere"
        ):
            _ = one + other

    def test_parts_of_different_treebanks_can_be_merged(self) -> None:
        one = two_pass(*drifting(np.random.default_rng(3), 9))
        other = replace(one, origin=replace(ORIGIN, treebank="another"))
        assert (one + other).n_words == 18

    def test_pooled_is_the_moments_without_labels(self) -> None:
        values, classes = drifting(np.random.default_rng(4), 40)
        mean, m2 = two_pass(values, classes).pooled()
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(m2, ((values - values.mean(0)) ** 2).sum(0), rtol=1e-12)

    def test_pooling_a_unit_that_never_varies_gives_no_variance(self) -> None:
        """A weighted mean of equal means rounds: 3/10 * .3 + 7/10 * .3 is not .3."""
        mean = np.broadcast_to([0.3, 1000.1, -7.77], (3, 1, 3))
        grand, m2 = pool(np.array([3.0, 7.0, 11.0]), mean.copy(), np.zeros((3, 1, 3)))
        np.testing.assert_array_equal(grand, mean[0])
        np.testing.assert_array_equal(m2, 0)

    def test_firing_rate_and_words(self) -> None:
        values = np.array([[[1.0]], [[-1.0]], [[2.0]], [[-3.0]]])
        moments = two_pass(values, np.array([0, 0, 0, 1]))
        np.testing.assert_allclose(moments.firing_rate().ravel(), [2 / 3, 0, 0])
        assert (moments.n_words, moments.n_layers) == (4, 1)
        assert moments.mean_abs.item() == 7 / 4
        assert "1 x 1 units at 'neuron' of a-model, 4 words of a-bank" in repr(moments)


class TestDevice:
    @given(st.integers(0, 10**6), st.integers(1, 60), splits)
    @settings(max_examples=60, deadline=None)
    def test_any_batches_accumulate_to_the_whole(self, seed, n, cuts) -> None:
        values, classes = drifting(np.random.default_rng(seed), n)
        values = values.astype(np.float32)
        batches = [(values[p], classes[p]) for p in pieces(n, cuts) if p.start < p.stop]
        # a batch is reduced in float32: eps 6e-8 times a few sums of up to 60 values of sd 1 to 6
        assert_same(accumulated(batches), two_pass(values, classes), 1e-5, 1e-5)

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    @pytest.mark.parametrize("apart", [0, 10, 50, 1000])
    def test_means_of_a_thousand_sd_keep_their_variance(self, apart: int, device: str) -> None:
        """Also with labels `apart` sd from each other, which centring on the batch alone loses."""
        rng = np.random.default_rng(apart)
        classes = rng.integers(0, 3, 6000)
        values = rng.normal(size=(6000, 1, 32)) + 1000 + apart * classes[:, None, None]
        values = values.astype(np.float32)
        accumulator = MomentAccumulator(LABELS, 1, 32, torch.device(device))
        for x, c in zip(np.split(values, 6), np.split(classes, 6), strict=True):
            x = torch.from_numpy(x[:, 0]).to(device)
            assert accumulator.add(0, Seen(x), torch.from_numpy(c))
            accumulator.commit()
        got, expected = accumulator.moments(ORIGIN), two_pass(values, classes)
        # float32 eps is 6e-8: 1,000 words summed at a distance of `apart` sd err by some 1e-6 of it
        np.testing.assert_allclose(got.mean, expected.mean, rtol=0, atol=1e-6 * (1 + 3 * apart))
        # values up to 3,000 are themselves rounded to 1e-4 when they are centred
        np.testing.assert_allclose(got.m2, expected.m2, rtol=1e-6 if apart < 1000 else 1e-4)
        np.testing.assert_array_equal(got.fired, expected.fired)

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_drift_outliers_and_rare_classes_at_a_large_mean(self, device: str) -> None:
        """|mean| 1,000 sd, classes 50 sd apart, a drift of 20 sd, first words 30 sd off, a class of 2 words."""
        rng = np.random.default_rng(3)
        n = 5000
        classes = rng.integers(0, 2, n)
        classes[[10, 4000]] = 2
        values = rng.normal(size=(n, 1, 24)) + 1000 + 50 * classes[:, None, None]
        values += 20 * np.arange(n)[:, None, None] / n
        values[::500] += 30  # the first word of every batch, from which the others are subtracted
        values = values.astype(np.float32)
        accumulator = MomentAccumulator(LABELS, 1, 24, torch.device(device))
        for x, c in zip(np.split(values, 10), np.split(classes, 10), strict=True):
            seen = Seen(torch.from_numpy(x[:, 0]).to(device))
            assert accumulator.add(0, seen, torch.from_numpy(c))
            accumulator.commit()
        got, expected = accumulator.moments(ORIGIN), two_pass(values, classes)
        np.testing.assert_allclose(got.m2, expected.m2, rtol=1e-6)
        sd = np.sqrt(expected.m2 / expected.count[:, None, None])
        assert (np.abs(got.mean - expected.mean) < 1e-6 * sd).all()

    def test_device_and_host_merge_to_the_same(self) -> None:
        """Shards read apart and added on the host are the stream read at once."""
        values, classes = drifting(np.random.default_rng(5), 60)
        batches = [(values[p], classes[p]) for p in pieces(60, [7, 8, 30, 45])]
        shards = [accumulated([batch]) for batch in batches]
        assert_same(reduce(add, shards), accumulated(batches), 1e-12, 1e-12)

    def test_the_order_of_batches_does_not_matter(self) -> None:
        values, classes = drifting(np.random.default_rng(6), 60)
        batches = [(values[p], classes[p]) for p in pieces(60, [1, 20, 40])]
        assert_same(accumulated(batches[::-1]), accumulated(batches), 1e-12, 1e-12)

    def test_one_commit_of_many_batches_is_many_commits(self) -> None:
        values, classes = drifting(np.random.default_rng(7), 40)
        accumulator = MomentAccumulator(LABELS, N_LAYERS, N_UNITS, CPU)
        for p in pieces(40, [10, 20]):
            _add(accumulator, values[p].astype(np.float32), classes[p])
        accumulator.commit()
        accumulator.commit()  # nothing is left to merge
        one_by_one = accumulated([(values[p], classes[p]) for p in pieces(40, [10, 20])])
        assert_same(accumulator.moments(ORIGIN), one_by_one, 0, 0)

    def test_discard_forgets_and_the_batch_can_be_read_again(self) -> None:
        values, classes = drifting(np.random.default_rng(8), 40)
        values = values.astype(np.float32)
        accumulator = MomentAccumulator(LABELS, N_LAYERS, N_UNITS, CPU)
        _add(accumulator, values[:20], classes[:20])
        accumulator.commit()
        x = torch.from_numpy(values[20:, 0])  # memory runs out after the first layer
        accumulator.add(0, Seen(x * 1e6), torch.from_numpy(classes[20:]))
        accumulator.discard()
        for half in (slice(20, 30), slice(30, 40)):
            _add(accumulator, values[half], classes[half])
            accumulator.commit()
        batches = [(values[p], classes[p]) for p in pieces(40, [20, 30])]
        assert_same(accumulator.moments(ORIGIN), accumulated(batches), 0, 0)

    def test_nothing_counts_before_it_is_committed(self) -> None:
        accumulator = MomentAccumulator(LABELS, N_LAYERS, N_UNITS, CPU)
        _add(accumulator, *drifting(np.random.default_rng(9), 10))
        assert accumulator.moments(ORIGIN).n_words == 0
        assert not accumulator.moments(ORIGIN).mean_abs.any()

    def test_counts_and_whole_numbers_are_exact(self) -> None:
        """Small integers have exact sums in float32, so any deviation is a wrong formula."""
        rng = np.random.default_rng(10)
        values, classes = rng.integers(-4, 5, (64, 2, 3)), rng.integers(0, 3, 64)
        got = accumulated([(values[p], classes[p]) for p in pieces(64, [9, 32])])
        fired = [(values[classes == i] > 0).sum(0) for i in range(3)]
        np.testing.assert_array_equal(got.count, np.bincount(classes))
        np.testing.assert_array_equal(got.fired, fired)
        np.testing.assert_array_equal(got.mean_abs, np.abs(values).mean(0))

    def test_fired_is_what_the_caller_says(self) -> None:
        """At a gated neuron the gate's sign decides, not the activation's."""
        accumulator = MomentAccumulator(LABELS, 1, 2, CPU)
        gate = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
        seen = Seen(torch.tensor([[-1.0, 1.0]] * 2), gate)
        accumulator.add(0, seen, torch.tensor([0, 1]))
        accumulator.commit()
        np.testing.assert_array_equal(
            accumulator.moments(ORIGIN).fired[:, 0], [[1, 0], [1, 0], [0, 0]]
        )

    @pytest.mark.parametrize("value", [0.0, 1.0, 0.3, 1000.1, -7.77])
    def test_a_unit_that_never_varies_has_no_variance(self, value: float) -> None:
        """Exactly none, over batches of any size: rounding would look like a perfect neuron."""
        values = np.full((997, 1, 1), value, np.float32)
        classes = np.random.default_rng(11).integers(0, 3, 997)
        got = accumulated([(values[p], classes[p]) for p in pieces(997, [1, 130, 513])])
        np.testing.assert_array_equal(got.m2, 0)
        np.testing.assert_array_equal(got.mean, float(np.float32(value)))

    def test_half_precision_is_reduced_in_float(self) -> None:
        x = torch.randn(400, 5, generator=torch.Generator().manual_seed(1)).add(30).bfloat16()
        classes = torch.arange(400) % 3
        accumulator = MomentAccumulator(LABELS, 1, 5, CPU)
        accumulator.add(0, Seen(x), classes)
        accumulator.commit()
        expected = two_pass(x.double().numpy()[:, None], classes.numpy())
        assert_same(accumulator.moments(ORIGIN), expected, 1e-5, 0)

    def test_activations_are_left_as_they_were(self) -> None:
        x = torch.randn(10, 3)
        before = x.clone()
        MomentAccumulator(LABELS, 1, 3, CPU).add(0, Seen(x), torch.zeros(10, dtype=torch.int64))
        assert torch.equal(x, before)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("word", [0, 3])
    def test_what_is_not_finite_is_flagged(self, bad: float, word: int) -> None:
        values, classes = drifting(np.random.default_rng(12), 8)
        accumulator = MomentAccumulator(LABELS, N_LAYERS, N_UNITS, CPU)
        assert _add(accumulator, values.astype(np.float32), classes)
        values[word, 1, 2] = bad
        assert not _add(accumulator, values.astype(np.float32), classes)
        assert not _add(accumulator, values[word : word + 1].astype(np.float32), classes[:1])

    def test_layers_must_see_the_same_words(self) -> None:
        accumulator = MomentAccumulator(LABELS, 2, 3, CPU)
        x = torch.ones(4, 3)
        accumulator.add(1, Seen(x), torch.zeros(4, dtype=torch.int64))
        accumulator.commit()
        with pytest.raises(AssertionError, match="layers saw different words"):
            accumulator.moments(ORIGIN)
