"""The kernels give the moments of every class as numpy gives them in two passes.

On the CPU the kernels run in Triton's interpreter, which knows no races, and are compiled for a GPU
without being run there.
"""

import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import grammar_lens
from grammar_lens.passes import moments, reduction
from grammar_lens.passes.readers import Seen

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")

N_CLASSES = 5


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def fused(device: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module under test, interpreted on the CPU and compiled for the GPU.

    Triton decides when a function is defined whether to interpret it, and by now torch has imported
    Triton, so `tl.sum` is to be compiled: it is replaced by the Python function below it. (Defined
    again, it would be interpreted too, but would leave Triton unable to compile.)
    """
    if device == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(tl, "sum", tl.sum.fn)
    elif not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return imported(monkeypatch)


def imported(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`grammar_lens.passes.triton_kernels`, with kernels that are defined anew; the test's alone."""
    # first set, so that what was there before comes back after the test
    monkeypatch.setattr(grammar_lens, "fused", None, raising=False)
    monkeypatch.setitem(sys.modules, "grammar_lens.passes.triton_kernels", None)
    del sys.modules["grammar_lens.passes.triton_kernels"]
    return importlib.import_module("grammar_lens.passes.triton_kernels")


@dataclass(frozen=True)
class Batch:
    """Activations [token, unit], the gates of the same tokens, and where words are."""

    flat: torch.Tensor
    gate: torch.Tensor | None
    where: torch.Tensor
    codes: torch.Tensor


@dataclass(frozen=True)
class Running:
    """Running moments of every class and the flag, as one layer of larger tensors."""

    count: torch.Tensor
    mean: torch.Tensor
    m2: torch.Tensor
    fired: torch.Tensor
    sum_abs: torch.Tensor
    bad: torch.Tensor


def batch_of(
    rng: np.random.Generator,
    codes: Sequence[int] | np.ndarray,
    n_units: int = 7,
    mean: float | np.ndarray = 0.0,
    gated: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Words of sd 1 around `mean`, scattered among twice as many tokens that would spoil it all."""
    n = len(codes)
    flat = np.full((2 * n, n_units), 1e6)
    where = rng.permutation(2 * n)[:n]
    flat[where] = rng.normal(size=(n, n_units)) + np.reshape(mean, (-1, 1))
    gate = torch.from_numpy(rng.normal(size=flat.shape)).to(dtype) if gated else None
    return Batch(
        torch.from_numpy(flat).to(dtype), gate, torch.from_numpy(where), torch.tensor(codes)
    )


def reduced(fused: ModuleType, batches: Sequence[Batch], device: str) -> Running:
    """Result of the kernels for the batches, one after the other."""
    n_units = batches[0].flat.shape[1]
    # a layer in the middle, as in `MomentAccumulator`
    big = [torch.zeros(N_CLASSES, 3, n_units, dtype=torch.float64, device=device) for _ in range(3)]
    running = Running(
        torch.zeros(N_CLASSES, 3, dtype=torch.float64, device=device)[:, 1],
        big[0][:, 1],
        big[1][:, 1],
        big[2][:, 1],
        torch.zeros(3, n_units, dtype=torch.float64, device=device)[1],
        torch.zeros((), dtype=torch.int32, device=device),
    )
    for batch in batches:
        add(fused, running, batch)
    for x in big:
        assert not x[:, [0, 2]].any(), "another layer was written to"
    return running


def add(fused: ModuleType, running: Running, batch: Batch) -> None:
    device = running.mean.device
    flat = batch.flat.to(device)
    gate = None if batch.gate is None else batch.gate.to(device)
    chunks = fused.cut(batch.where.to(device), batch.codes.to(device), N_CLASSES)
    found = fused.chunk_moments(flat, gate, chunks, running.bad)
    *moments, _ = (getattr(running, f) for f in running.__dataclass_fields__)
    fused.merge_chunks(found, chunks, *moments)


def two_pass(batches: Sequence[Batch]) -> Running:
    """The reference: all words at once in float64, first the means, then the deviations."""
    x = np.concatenate([b.flat.double()[b.where].numpy() for b in batches])
    gates = [(b.flat if b.gate is None else b.gate)[b.where] for b in batches]
    gate = np.concatenate([g.double().numpy() for g in gates])
    codes = np.concatenate([b.codes.numpy() for b in batches])
    count = np.bincount(codes, minlength=N_CLASSES).astype(float)
    mean, m2, fired = np.zeros((3, N_CLASSES, x.shape[1]))
    for i in np.flatnonzero(count):
        mine = x[codes == i]
        mean[i] = mine.mean(0)
        m2[i] = ((mine - mean[i]) ** 2).sum(0)
        fired[i] = (gate[codes == i] > 0).sum(0)
    parts = (count, mean, m2, fired, np.abs(x).sum(0), np.zeros((), np.int32))
    return Running(*(torch.from_numpy(np.asarray(p)) for p in parts))


def assert_same(
    got: Running, expected: Running, rtol: float = 1e-5, atol: float = 1e-6, sums: float = 1e-6
) -> None:
    """Counts exactly, M2 to `rtol`, means to `atol`, sums of absolute values to `sums`.

    Float32 has an eps of 6e-8; up to 32 values are added up, and noise of sd 1 is some units from a
    chunk's first word. Chunks are merged in float64.
    """
    want = expected
    np.testing.assert_array_equal(got.count.cpu(), want.count, err_msg="count")
    np.testing.assert_array_equal(got.fired.cpu(), want.fired, err_msg="fired")
    np.testing.assert_allclose(got.mean.cpu(), want.mean, rtol=0, atol=atol, err_msg="mean")
    # a class of two nearly equal words has an M2 near 0
    np.testing.assert_allclose(got.m2.cpu(), want.m2, rtol=rtol, atol=1e-6, err_msg="m2")
    np.testing.assert_allclose(got.sum_abs.cpu(), want.sum_abs, rtol=sums, err_msg="sum_abs")
    assert got.bad.item() == want.bad.item()


class TestCut:
    def test_chunks_hold_words_of_one_class_in_their_order(self, fused: ModuleType) -> None:
        size = fused.CHUNK
        lengths = {1: size, 2: size + 1, 4: 1}  # classes 0 and 3 have no words
        codes = np.random.default_rng(0).permutation(
            np.repeat(list(lengths), list(lengths.values()))
        )
        where = torch.arange(100, 100 + len(codes))
        chunks = fused.cut(where, torch.from_numpy(codes), N_CLASSES)
        assert chunks.group.tolist() == [1, 2, 4]
        assert chunks.words.tolist() == [size, size + 1, 1]
        assert chunks.group_start.tolist() == [0, 1, 3, 4]
        assert chunks.size.tolist() == [size, size, 1, 1]
        assert chunks.start.tolist() == [0, size, 2 * size, 2 * size + 1]
        expected = np.concatenate([100 + np.flatnonzero(codes == c) for c in lengths])
        np.testing.assert_array_equal(chunks.where, expected)

    def test_no_words_make_no_chunks(self, fused: ModuleType) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        chunks = fused.cut(none, none, N_CLASSES)
        assert [len(x) for x in vars(chunks).values()] == [0, 0, 0, 0, 1, 0]

    @pytest.mark.parametrize("code", [-1, N_CLASSES])
    def test_a_class_that_is_not_counted_is_refused(self, fused: ModuleType, code: int) -> None:
        codes = torch.tensor([0, code])
        with pytest.raises(ValueError, match=r"must be in 0 \.\. 4, got"):
            fused.cut(torch.arange(2), codes, N_CLASSES)

    def test_chunks_move_to_another_device(self, fused: ModuleType) -> None:
        chunks = fused.cut(torch.arange(3), torch.tensor([2, 0, 2]), N_CLASSES)
        assert all(x.is_meta for x in vars(chunks.to(torch.device("meta"))).values())


class TestMoments:
    @pytest.mark.parametrize("gated", [False, True])
    def test_moments_are_those_of_two_passes(
        self, fused: ModuleType, device: str, gated: bool
    ) -> None:
        rng = np.random.default_rng(1)
        batch = batch_of(rng, rng.integers(0, N_CLASSES, 300), gated=gated)
        assert_same(reduced(fused, [batch], device), two_pass([batch]))

    @pytest.mark.parametrize("n_units", [1, 3, 48, 256, 300, 896, 14336])
    def test_any_number_of_units(self, fused: ModuleType, device: str, n_units: int) -> None:
        """Also those that no block of units divides."""
        rng = np.random.default_rng(2)
        batch = batch_of(rng, rng.integers(0, 2, 50), n_units, gated=True)
        assert_same(reduced(fused, [batch], device), two_pass([batch]))

    @pytest.mark.parametrize("extra", [-1, 0, 1, 33])
    def test_classes_around_the_size_of_a_chunk(
        self, fused: ModuleType, device: str, extra: int
    ) -> None:
        rng = np.random.default_rng(3)
        codes = rng.permutation([0] * (fused.CHUNK + extra) + [3] * 5 + [4])
        batch = batch_of(rng, codes, mean=10.0 * codes)
        got = reduced(fused, [batch], device)
        assert_same(got, two_pass([batch]))
        np.testing.assert_array_equal(got.m2[4].cpu(), 0)  # the one-word class

    @pytest.mark.parametrize("apart", [0, 50])
    def test_means_of_a_thousand_sd_keep_their_variance(
        self, fused: ModuleType, device: str, apart: int
    ) -> None:
        rng = np.random.default_rng(4)
        codes = rng.integers(0, N_CLASSES, 400)
        batch = batch_of(rng, codes, mean=1000.0 + apart * codes)
        assert_same(reduced(fused, [batch], device), two_pass([batch]))

    def test_batches_that_drift_merge_to_the_whole(self, fused: ModuleType, device: str) -> None:
        """Classes come and go, and their means wander off by 1,000 sd; some batches are one word."""
        rng = np.random.default_rng(5)
        batches = []
        for time, n in enumerate([40, 1, 70, 3, 1, 90, 40]):
            codes = np.minimum(rng.integers(0, N_CLASSES, n), time)
            mean = 30 * time * (codes - 2) + 1000 * (time % 2)
            batches.append(batch_of(rng, codes, mean=mean, gated=True))
        assert_same(reduced(fused, batches, device), two_pass(batches))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_half_precision_is_reduced_in_float(
        self, fused: ModuleType, device: str, dtype: torch.dtype
    ) -> None:
        rng = np.random.default_rng(6)
        codes = rng.integers(0, 3, 200)
        batch = batch_of(rng, codes, mean=30.0 * codes, gated=True, dtype=dtype)
        batch.flat[batch.flat > 1e5] = 6e4  # the tokens that are no words, in float16
        assert_same(reduced(fused, [batch], device), two_pass([batch]))

    def test_rows_may_be_part_of_a_wider_tensor(self, fused: ModuleType, device: str) -> None:
        rng = np.random.default_rng(7)
        wide = batch_of(rng, rng.integers(0, 3, 60), 20, gated=True)
        assert wide.gate is not None
        part = Batch(wide.flat[:, 3:8], wide.gate[:, :5].clone(), wide.where, wide.codes)
        assert_same(reduced(fused, [part], device), two_pass([part]))

    def test_classes_without_words_are_left_alone(self, fused: ModuleType, device: str) -> None:
        rng = np.random.default_rng(8)
        running = reduced(fused, [batch_of(rng, [0, 1, 2, 3, 4] * 9)], device)
        running.mean[3] = 0.1  # numbers that arithmetic would round
        running.m2[3] = torch.nan
        before = [x.clone() for x in vars(running).values()]
        add(fused, running, batch_of(rng, [0, 2, 4] * 20))
        for name, was, now in zip(vars(running), before, vars(running).values(), strict=True):
            if now.ndim and name != "sum_abs":
                assert torch.equal(now[[1, 3]].nan_to_num(7), was[[1, 3]].nan_to_num(7)), name
                assert not torch.equal(now[[0, 2, 4]], was[[0, 2, 4]]), name

    def test_a_batch_without_words_changes_nothing(self, fused: ModuleType, device: str) -> None:
        rng = np.random.default_rng(9)
        running = reduced(fused, [batch_of(rng, [0, 1] * 9)], device)
        before = [x.clone() for x in vars(running).values()]
        none = torch.zeros(0, dtype=torch.int64)
        add(fused, running, Batch(torch.ones(4, 7), None, none, none))
        assert all(map(torch.equal, before, vars(running).values()))

    @pytest.mark.parametrize("value", [0.0, 1.0, 0.3, 1000.1, -7.77])
    def test_a_unit_that_never_varies_has_no_variance(
        self, fused: ModuleType, device: str, value: float
    ) -> None:
        """Exactly none: rounding would look like a perfect neuron."""
        codes = torch.from_numpy(np.random.default_rng(10).integers(0, N_CLASSES, 199))
        same = Batch(torch.full((199, 2), value), None, torch.arange(199), codes)
        got = reduced(fused, [same, same], device)
        np.testing.assert_array_equal(got.m2.cpu(), 0)
        np.testing.assert_array_equal(got.mean.cpu(), float(np.float32(value)))

    def test_classes_may_alternate_in_any_way(self, fused: ModuleType, device: str) -> None:
        """As long as each class keeps the order of its words, not a bit changes."""
        rng = np.random.default_rng(11)
        batch = batch_of(rng, rng.integers(0, N_CLASSES, 150), mean=100.0)
        order = torch.argsort(batch.codes, stable=True)
        ordered = Batch(batch.flat, None, batch.where[order], batch.codes[order])
        one, two = (reduced(fused, [b], device) for b in (batch, ordered))
        assert all(map(torch.equal, vars(one).values(), vars(two).values()))

    def test_the_order_of_words_does_not_matter(self, fused: ModuleType, device: str) -> None:
        """Of words whose chunks have exact sums in float32: small integers, 32 or 8 of them."""
        rng = np.random.default_rng(12)
        codes = rng.permutation([0] * 2 * fused.CHUNK + [1] * 3 * fused.CHUNK + [3] * 8)
        n = len(codes)
        flat = torch.from_numpy(rng.integers(-9, 10, (n, 6))).float()
        flat += 5 * torch.from_numpy(codes)[:, None]
        results = []
        for order in (np.arange(n), rng.permutation(n), rng.permutation(n)):
            where = torch.from_numpy(order)
            results.append(
                reduced(fused, [Batch(flat, None, where, torch.tensor(codes)[where])], device)
            )
        expected = two_pass([Batch(flat, None, torch.arange(n), torch.tensor(codes))])
        for got in results:
            for a, b in zip(vars(got).values(), vars(expected).values(), strict=True):
                np.testing.assert_allclose(a.cpu(), b, rtol=1e-12, atol=1e-12)

    def test_activations_are_left_as_they_were(self, fused: ModuleType, device: str) -> None:
        batch = batch_of(np.random.default_rng(13), [0, 1, 2] * 5, gated=True)
        before = [x.clone() for x in astuple(batch)]
        reduced(fused, [batch], device)
        assert all(map(torch.equal, before, astuple(batch)))

    @pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, interpreting
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("word", [0, 1, 33, 39])  # first and later in a chunk; alone; last
    def test_what_is_not_finite_is_flagged(
        self, fused: ModuleType, device: str, value: float, word: int
    ) -> None:
        batch = batch_of(np.random.default_rng(14), [0] * 33 + [1] + [2] * 6)
        assert reduced(fused, [batch], device).bad.item() == 0
        batch.flat[batch.where[word], 4] = value
        assert reduced(fused, [batch], device).bad.item() == 1

    def test_tokens_that_are_no_words_may_be_anything(self, fused: ModuleType, device: str) -> None:
        batch = batch_of(np.random.default_rng(15), [0, 1] * 20)
        elsewhere = torch.ones(len(batch.flat), dtype=torch.bool)
        elsewhere[batch.where] = False
        batch.flat[elsewhere] = torch.nan
        assert_same(reduced(fused, [batch], device), two_pass([batch]))

    @pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy, interpreting
    @pytest.mark.parametrize("values", [[3e38, 3e38], [1e20, -1e20]])
    def test_sums_too_large_for_float32_are_flagged(
        self, fused: ModuleType, device: str, values: list[float]
    ) -> None:
        """Of absolute values, and of squared deviations."""
        words = torch.arange(2)
        batch = Batch(torch.tensor(values)[:, None], None, words, torch.zeros_like(words))
        assert reduced(fused, [batch], device).bad.item() == 1


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"])
def test_places_beyond_two_billion_numbers_are_reached(fused: ModuleType, device: str) -> None:
    """In 32 bits the place of the last tokens overflows."""
    n_tokens, n_units = 160_000, 14336
    rng = np.random.default_rng(20)
    small = batch_of(rng, rng.integers(0, N_CLASSES, 50), n_units, dtype=torch.bfloat16)
    flat = torch.empty(n_tokens, n_units, dtype=torch.bfloat16, device=device)
    flat[-100:] = small.flat.to(device)
    large = Batch(flat, None, small.where + n_tokens - 100, small.codes)
    assert_same(reduced(fused, [large], device), two_pass([small]))


class TestRefusals:
    def test_float64_is_refused(self, fused: ModuleType, device: str) -> None:
        batch = batch_of(np.random.default_rng(16), [0, 1], dtype=torch.float64)
        with pytest.raises(ValueError, match=r"got torch.float64: .* use MomentAccumulator.add"):
            reduced(fused, [batch], device)

    def test_units_that_do_not_lie_side_by_side_are_refused(
        self, fused: ModuleType, device: str
    ) -> None:
        batch = batch_of(np.random.default_rng(17), [0, 1, 1])
        batch = Batch(batch.flat.T.contiguous().T, None, batch.where, batch.codes)
        with pytest.raises(ValueError, match="lie side by side in the activations"):
            reduced(fused, [batch], device)

    def test_gates_of_another_shape_are_refused(self, fused: ModuleType) -> None:
        batch = batch_of(np.random.default_rng(18), [0, 1], gated=True)
        assert batch.gate is not None
        chunks = fused.cut(batch.where, batch.codes, N_CLASSES)
        # without the decorators of jaxtyping's import hook, which notices first
        plain = inspect.unwrap(fused.chunk_moments)
        with pytest.raises(ValueError, match=r"shape \(4, 7\), got \(4, 6\): hand over"):
            plain(batch.flat, batch.gate[:, 1:], chunks, torch.zeros((), dtype=torch.int32))


def test_torch_compiles_after_triton_was_interpreted(fused: ModuleType, device: str) -> None:
    """Other tests run in this process."""
    import torch._dynamo

    reduced(fused, [batch_of(np.random.default_rng(19), [0, 1])], device)
    double = torch.compile(lambda x: x + x, backend="eager")
    assert double(torch.ones(1)).item() == 2


def test_kernels_look_names_up_in_their_own_module(fused: ModuleType) -> None:
    """Not in jaxtyping's, whose import hook decorates what Triton is to compile."""
    for kernel in (fused._chunk_kernel, fused._merge_kernel):
        assert kernel.fn.__globals__ is vars(fused)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_kernels_compile_for_a_gpu(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter takes what the compiler refuses, and does not read 16 bytes at once."""
    if not isinstance(tl.sum, triton.JITFunction):
        pytest.skip("TRITON_INTERPRET was set before Triton was imported")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    fused = imported(monkeypatch)
    types = dict.fromkeys(["flat", "gate"], f"*{dtype}") | {"where": "*i64", "n_units": "i32"}
    types |= dict.fromkeys(["start", "size", "group", "group_start", "bad"], "*i32")
    types |= dict.fromkeys(["m2", "sum_abs", "chunk_m2"], "*fp32")
    types |= {"fired": "*i32", "chunk_fired": "*i32", "chunk_mean": "*fp64", "mean": "*fp64"}
    chunk = compiled(fused._chunk_kernel, types, ROWS=fused.CHUNK, UNITS=fused.CHUNK_UNITS)
    assert "ld.global.v4" in chunk
    assert "ld.global.v4" in compiled(
        fused._chunk_kernel, types, ROWS=fused.CHUNK, UNITS=fused.CHUNK_UNITS, gate=None
    )
    types |= dict.fromkeys(["count", "m2", "fired"], "*fp64")
    merge = compiled(fused._merge_kernel, types, UNITS=fused.MERGE_UNITS)
    assert "div.rn.f64" in merge


def compiled(kernel: Any, types: dict[str, str], **constants: int | None) -> str:
    """A kernel's PTX for an H100, when addresses and sizes are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {x: "constexpr" if x in constants else types.get(x, "i32") for x in names}
    even = {(i,): [["tt.divisibility", 16]] for i, x in enumerate(names) if x not in constants}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=even)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": 4}).asm["ptx"]


@pytest.mark.parametrize("gated", [False, True])
def test_an_accumulator_has_the_same_moments_by_either_reduction(
    fused: ModuleType, device: str, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several batches, a class that some of them lack, one that is discarded, and rows at places."""
    rng = np.random.default_rng(8)
    found = []
    for reduce in (reduction.PLAIN, fused.Fused()):
        rng = np.random.default_rng(8)
        monkeypatch.setattr(moments, "reduction_for", lambda _, reduce=reduce: reduce)
        labels = tuple("abcd")
        accumulator = moments.MomentAccumulator(labels, 2, 37, torch.device(device))
        for batch in range(4):
            flat = (rng.normal(size=(2, 90, 37)) + 300 + batch).astype(np.float32)
            gate = rng.normal(size=(2, 90, 37)).astype(np.float32)
            where = torch.from_numpy(rng.permutation(90)[:70]).to(device)
            words = torch.from_numpy(rng.integers(0, 3 + (batch == 2), 70)).to(device)
            for layer in range(2):
                x, g = (torch.from_numpy(v[layer]).to(device) for v in (flat, gate))
                seen = Seen(x, g if gated else None, where)
                assert bool(accumulator.add(layer, seen, words))
            accumulator.discard() if batch == 1 else accumulator.commit()
        found.append(accumulator.moments(moments.Origin("m", "b", "upos", "next", "neuron")))
    plain, ours = found
    np.testing.assert_array_equal(ours.count, plain.count)
    np.testing.assert_array_equal(ours.fired, plain.fired)
    np.testing.assert_allclose(ours.mean, plain.mean, rtol=1e-9)
    np.testing.assert_allclose(ours.m2, plain.m2, rtol=1e-5)
    np.testing.assert_allclose(ours.mean_abs, plain.mean_abs, rtol=1e-6)


def test_the_accumulator_is_told_of_what_is_not_finite(
    fused: ModuleType, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "reduction_for", lambda _: fused.Fused())
    accumulator = moments.MomentAccumulator(("a", "b"), 1, 5, torch.device(device))
    x = torch.ones(6, 5, device=device)
    words = torch.tensor([0, 0, 1, 1, 1, 0], device=device)
    assert bool(accumulator.add(0, Seen(x), words))
    accumulator.commit()
    x[3, 2] = torch.inf
    with np.errstate(invalid="ignore"):
        assert not bool(accumulator.add(0, Seen(x), words.clone()))
