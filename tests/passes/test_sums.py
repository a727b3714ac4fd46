"""Sums on the device equal dense products, whatever the batches and whatever had to be read again."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grammar_lens.passes.readers import Seen
from grammar_lens.passes.sums import Product, SumAccumulator, halves, label_rows, weight_rows

CPU = torch.device("cpu")
N_LAYERS, N_UNITS, N_LABELS, N_REPLICATES = 2, 3, 4, 5


class Words:
    """Activations that drift through the text, `mean` sd from zero, and two kinds of rows."""

    def __init__(self, seed: int, n: int, mean: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        drift = np.arange(n)[:, None, None] * rng.normal(size=N_UNITS) / 20
        noise = rng.normal(size=(n, N_LAYERS, N_UNITS))
        # as float32, which is what the device gets
        self.values = (mean + drift + noise).astype(np.float32)
        self.codes = rng.integers(0, N_LABELS, (N_REPLICATES, n)).astype(np.int16)
        self.weight = rng.normal(size=(6, n))
        one_hot = np.eye(N_LABELS)[self.codes]  # replicate word label
        self.dense = np.moveaxis(one_hot, 2, 1).reshape(-1, n)

    def accumulator(self, kind: str) -> SumAccumulator:
        if kind == "labels":
            rows, n_rows = label_rows(self.codes, N_LABELS, CPU), N_REPLICATES * N_LABELS
        else:
            rows, n_rows = weight_rows(self.weight, CPU), 6
        return SumAccumulator(rows, n_rows, N_LAYERS, N_UNITS, CPU)

    def add(
        self, sums: SumAccumulator, words: np.ndarray, layers: tuple[int, ...] = (0, 1)
    ) -> None:
        numbers = torch.from_numpy(words)  # one tensor for all layers, as in a pass
        for layer in layers:
            x = torch.from_numpy(self.values[words, layer])
            assert bool(sums.add(layer, Seen(x), numbers))

    def of(self, kind: str) -> np.ndarray:
        return self.dense if kind == "labels" else self.weight

    def expected(self, kind: str) -> np.ndarray:
        """The reference: NumPy in float64."""
        return np.einsum("rw,wlu->rlu", self.of(kind), self.values.astype(np.float64))

    def check(self, sums: SumAccumulator, kind: str) -> None:
        """Errors are of float32 at the size of what differs between words, not of their mean."""
        got = sums.sums()
        size = np.abs(self.of(kind)) @ (np.abs(self.values - self.values.mean(0)).max((1, 2)) + 1)
        assert (np.abs(got - self.expected(kind)) <= 2e-6 * size[:, None, None]).all()


kinds = pytest.mark.parametrize("kind", ["labels", "weights"])


@kinds
@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=6), st.randoms())
@settings(max_examples=40, deadline=None)
def test_batches_in_any_split_and_order_give_the_dense_product(kind, seed, cuts, random) -> None:
    words = Words(seed, 60)
    numbers = np.random.default_rng(seed).permutation(60)
    batches = [b for b in np.split(numbers, sorted(cuts)) if len(b)]
    random.shuffle(batches)
    sums = words.accumulator(kind)
    for batch in batches:
        words.add(sums, batch)
        sums.commit()
    words.check(sums, kind)


@kinds
def test_what_differs_between_words_is_kept_at_a_large_mean(kind: str) -> None:
    """The bound of `check` does not grow with the mean: raw float32 sums would miss it widely."""
    words = Words(1, 2000, mean=1000.0)
    sums = words.accumulator(kind)
    for batch in np.array_split(np.arange(2000), 7):
        words.add(sums, batch)
        sums.commit()
    words.check(sums, kind)
    raw = words.of(kind).astype(np.float32) @ words.values.reshape(2000, -1)
    assert np.abs(raw.reshape(-1, N_LAYERS, N_UNITS) - words.expected(kind)).max() > 0.01


@kinds
@pytest.mark.parametrize("failed", [(), (0,), (0, 1)])
@pytest.mark.parametrize("first", [False, True])
def test_a_batch_that_is_read_again_in_halves_counts_once(
    kind: str, failed: tuple[int, ...], first: bool
) -> None:
    """Memory runs out after some layers; the pieces are cut once more; then it goes on."""
    words = Words(2, 60)
    sums, straight = words.accumulator(kind), words.accumulator(kind)
    parts = [np.arange(20, 40), np.arange(20), np.arange(40, 60)]
    troubled = parts[0] if first else parts[1]
    for part in parts:
        words.add(straight, part)
        straight.commit()
        if part is not troubled:
            words.add(sums, part)
            sums.commit()
            continue
        words.add(sums, part, failed)
        sums.discard()
        words.add(sums, part[:12], (0,))  # and again, in the first half
        sums.discard()
        for piece in (part[:6], part[6:12], part[12:]):
            words.add(sums, piece)
            sums.commit()
    words.check(sums, kind)
    np.testing.assert_allclose(sums.sums(), straight.sums(), rtol=1e-4, atol=1e-4)


@kinds
def test_nothing_and_single_words(kind: str) -> None:
    words = Words(3, 30)
    sums = words.accumulator(kind)
    np.testing.assert_array_equal(sums.sums(), 0)
    for number in range(30):
        words.add(sums, np.array([number]))
        sums.commit()
    words.check(sums, kind)


def test_words_of_one_label_alone() -> None:
    """Rows without a word stay zero, and those with all of them get everything."""
    words = Words(4, 25)
    words.codes[:] = 2
    words.dense = np.tile((np.arange(N_LABELS) == 2)[:, None], (N_REPLICATES, 25)).astype(float)
    sums = words.accumulator("labels")
    words.add(sums, np.arange(25))
    sums.commit()
    words.check(sums, "labels")
    got = sums.sums()
    np.testing.assert_array_equal(got[np.arange(len(got)) % N_LABELS != 2], 0)


def test_equal_labels_give_equal_sums_to_the_last_bit() -> None:
    """An exchange that does not move a label must not change its mean by rounding."""
    words = Words(5, 50)
    words.codes[:, :20] = 0
    words.codes[:, 20:] = np.random.default_rng(6).integers(1, N_LABELS, (N_REPLICATES, 30))
    sums = words.accumulator("labels")
    for batch in np.array_split(np.arange(50), 4):
        words.add(sums, batch)
        sums.commit()
    got = sums.sums()[::N_LABELS]
    np.testing.assert_array_equal(got, np.tile(got[:1], (N_REPLICATES, 1, 1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@kinds
def test_what_is_not_finite_is_flagged(kind: str, bad: float) -> None:
    words = Words(7, 10)
    sums = words.accumulator(kind)
    words.add(sums, np.arange(5))
    words.values[7, 1, 2] = bad
    x, numbers = torch.from_numpy(words.values[5:]), torch.arange(5, 10)
    assert bool(sums.add(0, Seen(x[:, 0]), numbers))
    assert not bool(sums.add(1, Seen(x[:, 1]), numbers))


def test_half_precision_is_summed_in_float_and_left_as_it_was() -> None:
    words = Words(8, 400, mean=30.0)
    x = torch.from_numpy(words.values[:, 0]).bfloat16()
    before = x.clone()
    sums = words.accumulator("labels")
    sums.add(0, Seen(x), torch.arange(400))
    want = np.einsum("rw,wu->ru", words.dense, x.double().numpy())
    np.testing.assert_allclose(sums.sums()[:, 0], want, rtol=1e-6)
    assert torch.equal(x, before)


def test_everything_is_made_on_the_given_device() -> None:
    """`meta` computes nothing, and refuses to be mixed with another device."""
    words, meta = Words(9, 10), torch.device("meta")
    numbers = torch.arange(4, device=meta)
    x = torch.zeros(4, N_UNITS, device=meta)
    assert weight_rows(words.weight, meta)(numbers)[0](x).device == meta
    sums = SumAccumulator(weight_rows(words.weight, meta), 6, 1, N_UNITS, meta)
    assert sums.add(0, Seen(x), numbers).device == meta


def test_two_halves_keep_sixteen_bits() -> None:
    x = torch.randn(200, 30, generator=torch.Generator().manual_seed(3)) * 100
    high, low = halves(x)
    assert high.dtype == low.dtype == torch.bfloat16
    gap = (high.double() + low.double() - x.double()).abs()
    assert float((gap / x.double().abs()).max()) < 2**-16
    assert float(((high.double() - x.double()).abs() / x.double().abs()).max()) > 2**-10


def test_a_product_is_the_sum_of_what_it_adds() -> None:
    """On a CPU without matrix units the product is float32's."""
    words = Words(11, 40)
    one_hot = torch.from_numpy(words.dense.astype(np.float32))
    x = torch.from_numpy(words.values[:, 0])
    want = words.dense @ words.values[:, 0].astype(float)
    np.testing.assert_allclose(Product(one_hot)(x), want, rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
@kinds
def test_a_gpu_gives_the_same_sums(kind: str) -> None:
    words, gpu = Words(10, 500, mean=1000.0), torch.device("cuda")
    rows = (
        label_rows(words.codes, N_LABELS, gpu)
        if kind == "labels"
        else weight_rows(words.weight, gpu)
    )
    sums = SumAccumulator(rows, len(words.of(kind)), N_LAYERS, N_UNITS, gpu)
    for batch in np.array_split(np.arange(500), 4):
        numbers = torch.from_numpy(batch).to(gpu)
        for layer in range(N_LAYERS):
            x = torch.from_numpy(words.values[batch, layer]).to(gpu)
            assert bool(sums.add(layer, Seen(x), numbers))
        sums.commit()
    words.check(sums, kind)
