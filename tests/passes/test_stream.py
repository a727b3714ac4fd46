"""One pass over the words equals reading them one sentence at a time, whatever the batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grammar_lens.corpus.alignment import Alignment, align, token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import SITES
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, embedding, site_width
from grammar_lens.model.loading import load_model
from grammar_lens.passes.batches import is_out_of_memory
from grammar_lens.passes.moments import MomentAccumulator, Moments
from grammar_lens.passes.readers import FeatureReader, SampleReader, Seen
from grammar_lens.passes.stream import Tap, stream

PLACES = {
    "neuron": ("mlp.down_proj", "in"),
    "resid_pre": ("", "in"),
    "resid_mid": ("post_attention_layernorm", "in"),
    "resid_post": ("", "out"),
    "attn_out": ("self_attn", "out"),
    "mlp_out": ("mlp", "out"),
}
SHORT_OF_MEMORY = {
    "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}


def aligned(bank: Treebank, tokenizer: Any) -> Alignment:
    return align([s.text for s in bank], [[w.span for w in s.words] for s in bank], tokenizer)


def classes_of(bank: Treebank) -> tuple[tuple[str, ...], np.ndarray]:
    tags = [str(w.label("upos")) for s in bank for w in s.words]
    labels = tuple(sorted(set(tags)))
    return labels, np.array([labels.index(tag) for tag in tags])


def moments(
    model: Model,
    bank: Treebank,
    *,
    sites: Sequence[str] = ("neuron",),
    positions: Sequence[str] = ("word",),
    budget: int = 4096,
    **options: Any,
) -> dict[tuple[str, str], Moments]:
    """Moments by (position, site) from one call of `stream`."""
    found = aligned(bank, model.tokenizer)
    labels, classes = classes_of(bank)
    taps = []
    for position in positions:
        codes = np.where(found.readable(position), classes, -1)
        for site in sites:
            width = site_width(model, site)
            reader = MomentAccumulator(labels, model.cfg.n_layers, width, torch.device("cpu"))
            taps.append(Tap(site, position, codes >= 0, codes, reader))
    stream(model, found, token_batches(found, budget), taps, **options)
    return {
        (t.position, t.site): t.reader.moments(Origin("m", "b", "upos", t.position, t.site))
        for t in taps
        if isinstance(t.reader, MomentAccumulator)
    }


def assert_same(one: Moments, other: Moments, sd: float = 1e-6) -> None:
    """Equal counts, and means and squared deviations that differ by less than `sd` sd."""
    np.testing.assert_array_equal(one.count, other.count)
    np.testing.assert_array_equal(one.fired, other.fired)
    spread = np.sqrt(np.maximum(one.pooled()[1], 1e-300) / one.n_words)
    assert (np.abs(one.mean - other.mean) / spread).max() < sd
    assert (np.abs(one.m2 - other.m2) / (spread**2 * one.n_words)).max() < sd
    np.testing.assert_allclose(one.mean_abs, other.mean_abs, rtol=1e-6)


@contextmanager
def hooks_by_hand(hf: Any, seen: dict[tuple[str, int], Tensor]) -> Iterator[None]:
    handles = []
    for site, (path, side) in {**PLACES, "gate": ("mlp.gate_proj", "out")}.items():
        for layer, block in enumerate(hf.model.layers):

            def keep(value: Any, key: tuple[str, int] = (site, layer)) -> None:
                seen[key] = (value[0] if isinstance(value, tuple) else value)[0].double()

            module = block.get_submodule(path)
            handles.append(
                module.register_forward_pre_hook(lambda _m, x, keep=keep: keep(x))
                if side == "in"
                else module.register_forward_hook(lambda _m, _x, y, keep=keep: keep(y))
            )
    yield
    for handle in handles:
        handle.remove()


def test_one_pass_equals_sentences_read_by_hand(
    tiny: Model, tiny_hf: Callable[[], Any], bank: Treebank
):
    """Second opinion: the bare Hugging Face model, sentence by sentence, NumPy in float64."""
    got = moments(tiny, bank, sites=tuple(PLACES), positions=("word", "next"), budget=200)
    hf, found = tiny_hf(), aligned(bank, tiny.tokenizer)
    labels, classes = classes_of(bank)
    rows: dict[tuple[str, str, int], list[np.ndarray]] = {}
    kept: dict[str, list[int]] = {"word": [], "next": []}
    for sentence, ids in enumerate(found.token_ids):
        seen: dict[tuple[str, int], Tensor] = {}
        with torch.no_grad(), hooks_by_hand(hf, seen):
            hf(torch.from_numpy(ids)[None])
        numbers = np.flatnonzero(found.sentence == sentence)
        for position in ("word", "next"):
            for i in numbers[found.readable(position)[numbers]]:
                time = found.last[i] if position == "word" else found.first[i] - 1
                kept[position].append(int(i))
                for (site, layer), values in seen.items():
                    rows.setdefault((position, site, layer), []).append(values[time].numpy())
    for (position, site), found_moments in got.items():
        label = classes[kept[position]]
        for layer in range(2):
            x = np.array(rows[position, site, layer])
            gate = np.array(rows[position, "gate", layer]) if site == "neuron" else x
            for c in range(len(labels)):
                mine = x[label == c]
                assert found_moments.count[c] == len(mine) >= 2
                mean, m2 = mine.mean(0), ((mine - mine.mean(0)) ** 2).sum(0)
                # float32 activations of a batched product against a single one, near 1e-7 each
                np.testing.assert_allclose(
                    found_moments.mean[c, layer], mean, rtol=1e-5, atol=1e-5 * x.std()
                )
                np.testing.assert_allclose(
                    found_moments.m2[c, layer], m2, rtol=1e-5, atol=1e-5 * x.var()
                )
                fires = (gate[label == c] > 0).sum(0)
                np.testing.assert_array_equal(found_moments.fired[c, layer], fires)
            np.testing.assert_allclose(found_moments.mean_abs[layer], np.abs(x).mean(0), rtol=1e-5)


@pytest.mark.parametrize("budget", [1, 60, 300])
def test_batches_do_not_change_the_numbers(tiny: Model, bank: Treebank, budget: int):
    sites, positions = ("neuron", "resid_post"), ("word", "next")
    whole = moments(tiny, bank, sites=sites, positions=positions)
    parts = moments(tiny, bank, sites=sites, positions=positions, budget=budget)
    for key, want in whole.items():
        # products of other sizes round float32 in another order
        assert_same(want, parts[key], sd=3e-6)


def test_batches_do_not_change_the_embedded_model_either(reference: Model, bank: Treebank):
    whole = moments(reference, bank, sites=("neuron", "resid_post"))
    parts = moments(reference, bank, sites=("neuron", "resid_post"), budget=64)
    for key, want in whole.items():
        # a few residual units have means of many sd, and eight layers add up their roundings
        assert_same(want, parts[key], sd=1e-4)


def test_one_call_reads_several_positions_as_two_calls_do(tiny: Model, bank: Treebank):
    both = moments(tiny, bank, positions=("word", "next"))
    for position in ("word", "next"):
        alone = moments(tiny, bank, positions=(position,))[position, "neuron"]
        np.testing.assert_array_equal(both[position, "neuron"].mean, alone.mean)
        np.testing.assert_array_equal(both[position, "neuron"].m2, alone.m2)


def test_progress_counts_every_token(tiny: Model, bank: Treebank):
    done: list[int] = []
    moments(tiny, bank, budget=100, progress=done.append)
    assert len(done) > 2
    assert sum(done) == aligned(bank, tiny.tokenizer).n_tokens


def test_chosen_units_are_kept(tiny: Model, bank: Treebank):
    found = aligned(bank, tiny.tokenizer)
    addresses = np.array([[1, 5], [0, 47], [1, 0]])
    wanted = found.readable("word")
    row = np.full(found.n_words, -1)
    row[wanted] = np.arange(wanted.sum())[::-1]
    reader = FeatureReader(int(wanted.sum()), addresses)
    assert reader.layers == [0, 1]
    tap = Tap("neuron", "word", wanted, row, reader, layers=reader.layers)
    stream(tiny, found, token_batches(found, 100), [tap])
    labels, classes = classes_of(bank)
    want = moments(tiny, bank)["word", "neuron"]
    for c in range(len(labels)):
        mine = reader.values[row[wanted & (classes == c)]].astype(float)
        expected = want.mean[c, addresses[:, 0], addresses[:, 1]]
        np.testing.assert_allclose(mine.mean(0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", ["word", "next"])
@pytest.mark.parametrize("offset", [-2, 0, 3])
def test_all_units_are_kept_some_tokens_away(
    tiny: Model, bank: Treebank, position: str, offset: int
):
    """Reference: `run_with_cache`, sentence by sentence; half of the words, in reverse order."""
    found = aligned(bank, tiny.tokenizer)
    wanted = found.readable_at(position, offset) & (np.arange(found.n_words) % 2 == 0)
    row = np.full(found.n_words, -1)
    row[wanted] = np.arange(wanted.sum())[::-1]
    reader = SampleReader(int(wanted.sum()), 2, 48)
    tap = Tap("neuron", position, wanted, row, reader, offset=offset)
    stream(tiny, found, token_batches(found, 100), [tap])
    assert reader.values.dtype == np.float32
    for i, ids in enumerate(found.token_ids):
        with torch.no_grad():
            _, cache = tiny.run_with_cache(torch.from_numpy(ids)[None])
        for word in np.flatnonzero(wanted & (found.sentence == i)):
            time = int(found.time(position)[word]) + offset
            for layer in range(2):
                want = cache[f"blocks.{layer}.mlp.hook_post"][0, time].numpy()
                # a batched product in float32 against a single one
                np.testing.assert_allclose(
                    reader.values[row[word], layer], want, rtol=1e-4, atol=1e-5
                )


def test_layers_that_no_reader_wants_are_left_alone(tiny: Model, bank: Treebank):
    found = aligned(bank, tiny.tokenizer)
    asked: set[int] = set()

    class Note(FeatureReader):
        def add(self, layer: int, seen: Seen, words: Tensor) -> Tensor:
            asked.add(layer)
            return super().add(layer, seen, words)

    reader = Note(found.n_words, np.array([[1, 3]]))
    tap = Tap("neuron", "word", found.readable("word"), np.arange(found.n_words), reader, [1])
    stream(tiny, found, token_batches(found), [tap])
    assert asked == {1}


# Numbers that are not finite ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "bad", "site", "layer"),
    [
        ("model.layers.1.mlp.gate_proj", float("nan"), "neuron", 1),
        ("model.layers.0.mlp.up_proj", float("inf"), "neuron", 0),
        ("model.layers.1.mlp.down_proj", float("nan"), "resid_post", 1),
        ("model.layers.0.self_attn.o_proj", float("inf"), "attn_out", 0),
    ],
)
def test_activations_that_are_not_finite_are_named(
    tiny_hf: Callable[[], Any],
    tiny_tokenizer: Any,
    bank: Treebank,
    weight: str,
    bad: float,
    site: str,
    layer: int,
):
    hf = tiny_hf()
    with torch.no_grad():
        hf.get_submodule(weight).weight[3, 4] = bad
    model = load_model(hf, tokenizer=tiny_tokenizer)
    with pytest.raises(
        GrammarLensError,
        match=rf"'{site}'.*{layer}",
    ):
        moments(model, bank, sites=(site,))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_samples_that_are_not_finite_are_flagged():
    reader = SampleReader(2, 1, 3)
    x = torch.tensor([[1.0, 2, 3], [4, np.inf, 6]])
    numbers = torch.tensor([1, 0])
    assert bool(reader.add(0, Seen(x[:1]), numbers[:1]))
    assert not bool(reader.add(0, Seen(x), numbers))
    np.testing.assert_array_equal(reader.values[:, 0], x.flip(0))


def test_features_that_are_not_finite_are_named(make_tiny: Callable[[], Model], bank: Treebank):
    model = make_tiny()
    with torch.no_grad():
        next(embedding(model).parameters())[:] = float("nan")
    found = aligned(bank, model.tokenizer)
    reader = FeatureReader(found.n_words, np.array([[1, 3]]))
    tap = Tap("neuron", "word", found.readable("word"), np.arange(found.n_words), reader, [1])
    with pytest.raises(GrammarLensError, match="at site 'neuron', layer 1"):
        stream(model, found, token_batches(found), [tap])


# Memory -------------------------------------------------------------------------------------


@contextmanager
def failing(
    module: nn.Module, error: Exception, when: Callable[[Tensor], bool]
) -> Iterator[list[tuple[int, ...]]]:
    """`module` raises `error` at inputs for which `when` holds; yields the shapes it has met."""
    met: list[tuple[int, ...]] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        met.append(tuple(inputs[0].shape[:2]))
        if when(inputs[0]):
            raise error

    handle = module.register_forward_pre_hook(hook)
    try:
        yield met
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", SHORT_OF_MEMORY)
@pytest.mark.parametrize("layer", [0, 1])
def test_out_of_memory_halves_the_budget(tiny: Model, bank: Treebank, kind: str, layer: int):
    """In layer 1 the first layer has been handed over already: it must not count twice."""
    warnings: list[str] = []
    done: list[int] = []
    sites, positions = ("neuron", "resid_pre"), ("word", "next")
    want = moments(tiny, bank, sites=sites, positions=positions, budget=300)
    block = tiny.original_model.model.layers[layer]
    with failing(block, SHORT_OF_MEMORY[kind], lambda x: x.shape[0] * x.shape[1] > 100) as met:
        got = moments(
            tiny,
            bank,
            sites=sites,
            positions=positions,
            budget=300,
            warn=warnings.append,
            progress=done.append,
        )
    for key, expected in want.items():
        assert_same(expected, got[key])
    sizes = [rows * width for rows, width in met]
    assert sizes[0] > 100
    failed = sum(size > 100 for size in sizes)
    assert len(warnings) == failed
    assert all(w.startswith("out of memory: the token budget is now ") for w in warnings)
    budgets = [int(w.rsplit(" ", 1)[1]) for w in warnings]
    assert budgets == [size // 2 for size in sizes if size > 100]
    # what comes after has learned of it
    last = max(i for i, size in enumerate(sizes) if size > 100)
    assert all(size <= max(budgets[-1], 100) for size in sizes[last + 1 :])
    assert sum(done) == aligned(bank, tiny.tokenizer).n_tokens


def test_out_of_memory_once(tiny: Model, bank: Treebank):
    want = moments(tiny, bank, budget=300)
    calls: list[int] = []

    def first(_x: Tensor) -> bool:
        calls.append(1)
        return len(calls) == 1

    with failing(tiny.original_model.model.layers[1], SHORT_OF_MEMORY["cpu"], first) as met:
        got = moments(tiny, bank, budget=300)
    assert_same(want["word", "neuron"], got["word", "neuron"])
    limit = met[0][0] * met[0][1] // 2
    # an odd number of rows leaves one more than half in the upper part of the batch that failed
    assert all(rows * width <= limit for rows, width in met[3:])


def test_a_single_sentence_that_does_not_fit(tiny: Model, bank: Treebank):
    def never(_x: Tensor) -> bool:
        return True

    longest = max(len(ids) for ids in aligned(bank, tiny.tokenizer).token_ids)
    with (
        failing(embedding(tiny), SHORT_OF_MEMORY["cuda"], never),
        pytest.raises(
            GrammarLensError,
            match=f"one row of {longest} tokens does not fit in memory",
        ),
    ):
        moments(tiny, bank)
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_other_errors_pass_through(tiny: Model, bank: Treebank):
    with (
        failing(embedding(tiny), RuntimeError("mat1 and mat2 shapes"), lambda _x: True),
        pytest.raises(RuntimeError, match="mat1 and mat2"),
    ):
        moments(tiny, bank)


def test_a_merge_that_runs_out_of_memory_is_not_repeated(tiny: Model, bank: Treebank):
    """Half the layers may be merged: reading the batch again would count their words twice."""

    class Full(FeatureReader):
        def commit(self) -> None:
            raise RuntimeError("CUDA out of memory")

    found = aligned(bank, tiny.tokenizer)
    reader = Full(found.n_words, np.array([[1, 3]]))
    tap = Tap("neuron", "word", found.readable("word"), np.arange(found.n_words), reader, [1])
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        stream(tiny, found, token_batches(found), [tap])


def test_what_counts_as_out_of_memory():
    assert all(is_out_of_memory(error) for error in SHORT_OF_MEMORY.values())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("index out of range"))


def test_every_site_of_the_package_is_compared_by_hand():
    assert set(PLACES) == set(SITES)
