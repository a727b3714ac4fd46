"""Class means and the covariance within classes are NumPy's, whatever the batches and re-readings."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grammar_lens.passes.covariance import CovarianceAccumulator
from grammar_lens.passes.distributed import merged
from grammar_lens.passes.readers import Seen

CPU = torch.device("cpu")
N_LAYERS, N_UNITS, N_CLASSES = 2, 5, 4


class Words:
    """Correlated activations that drift through the text, `mean` sd from zero; two labellings."""

    def __init__(self, seed: int, n: int, mean: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        drift = np.arange(n)[:, None, None] * rng.normal(size=N_UNITS) / 20
        noise = rng.normal(size=(n, N_LAYERS, N_UNITS)) @ rng.normal(size=(N_UNITS, N_UNITS))
        # as float32, which is what the device gets
        self.values = (mean + drift + noise).astype(np.float32)
        self.classes = rng.integers(0, N_CLASSES, (2, n))
        self.classes[:, : n // 4] = 2  # so that some batches have one class

    def accumulator(self) -> CovarianceAccumulator:
        return CovarianceAccumulator(self.classes, N_CLASSES, N_LAYERS, N_UNITS, CPU)

    def add(self, sums: CovarianceAccumulator, words: np.ndarray, *layers: int) -> None:
        numbers = torch.from_numpy(words)
        for layer in layers or range(N_LAYERS):
            assert bool(sums.add(layer, Seen(torch.from_numpy(self.values[words, layer])), numbers))

    def expected(self, layer: int) -> dict[str, np.ndarray]:
        """NumPy in float64."""
        x = self.values[:, layer].astype(np.float64)
        one_hot = np.concatenate([np.eye(N_CLASSES)[c] for c in self.classes], 1)
        count = one_hot.sum(0)
        mean = (one_hot.T @ x) / np.maximum(count, 1)[:, None]
        rest = x - mean[self.classes[0]]
        return {"count": count, "mean": mean, "within": rest.T @ rest}

    def check(self, sums: CovarianceAccumulator) -> None:
        """Errors are of float32 at the size of what differs between words, not of their mean."""
        for layer, state in enumerate(sums.state()):
            expected = self.expected(layer)
            np.testing.assert_array_equal(state["count"].numpy(), expected["count"])
            size = np.sqrt(np.diag(expected["within"]))
            there = expected["count"] > 0
            gap = (state["mean"].numpy() - expected["mean"])[there]
            assert (np.abs(gap) <= 3e-7 * size).all()
            wrong = np.abs(state["within"].numpy() - expected["within"])
            assert (wrong <= 3e-6 * size * size[:, None]).all()


@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=6), st.randoms())
@settings(max_examples=40, deadline=None)
def test_any_split_and_order_gives_the_whole(seed: int, cuts: list[int], random: Any) -> None:
    words = Words(seed, 60)
    numbers = np.random.default_rng(seed).permutation(60)
    batches = [b for b in np.split(numbers, sorted(cuts)) if len(b)]
    random.shuffle(batches)
    sums = words.accumulator()
    for batch in batches:
        words.add(sums, batch)
        sums.commit()
    words.check(sums)


def test_what_differs_between_words_is_kept_at_a_large_mean() -> None:
    words = Words(1, 2000, mean=1000.0)
    sums = words.accumulator()
    for batch in np.array_split(np.arange(2000), 7):
        words.add(sums, batch)
        sums.commit()
    words.check(sums)
    raw = words.values[:, 0]
    uncentred = raw.T @ raw - 2000 * np.outer(raw.mean(0), raw.mean(0))
    assert np.abs(uncentred - np.cov(raw.T.astype(float)) * 1999).max() > 10


@pytest.mark.parametrize("cuts", [(30, 60), (0, 30), (89,)])
def test_shares_merge_to_the_whole_and_can_be_loaded(cuts: tuple[int, ...]) -> None:
    """Also a process's that has read nothing."""
    words = Words(2, 90)
    shares = []
    for part in np.split(np.arange(90), cuts):
        sums = words.accumulator()
        if len(part):
            words.add(sums, part)
            sums.commit()
        shares.append(sums)
    whole = words.accumulator()
    pieces = zip(*(s.state() for s in shares), strict=True)
    whole.load([merged(whole.merge, iter(piece)) for piece in pieces])
    words.check(whole)


def test_words_added_before_memory_ran_out_are_passed_over() -> None:
    words, sums = Words(3, 40), Words(3, 40).accumulator()
    words.add(sums, np.arange(20))
    sums.commit()
    words.add(sums, np.arange(20, 40), 0)  # the second layer fails
    sums.discard()
    for half in (np.arange(20, 30), np.arange(30, 40)):
        words.add(sums, half)
        sums.commit()
    words.check(sums)


def test_a_batch_that_fails_while_it_is_added_loses_no_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory may also run out in the statistics' own computation."""
    words, sums = Words(3, 40), Words(3, 40).accumulator()
    words.add(sums, np.arange(20))
    sums.commit()

    def fail(*_: Any) -> None:
        raise MemoryError

    words.add(sums, np.arange(20, 40), 0)
    with monkeypatch.context() as patch:
        patch.setattr(sums, "_of_batch", fail)
        with pytest.raises(MemoryError):
            words.add(sums, np.arange(20, 40), 1)
    sums.discard()
    for half in (np.arange(20, 30), np.arange(30, 40)):
        words.add(sums, half)
        sums.commit()
    words.check(sums)


def test_a_value_that_is_not_finite_is_told() -> None:
    words, sums = Words(4, 8), Words(4, 8).accumulator()
    words.values[5, 1, 2] = np.nan
    numbers = torch.arange(8)
    good = [sums.add(i, Seen(torch.from_numpy(words.values[:, i])), numbers) for i in (0, 1)]
    assert [bool(x) for x in good] == [True, False]
