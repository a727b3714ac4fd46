"""First-order attribution equals small lesions, whatever the batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_attributions import Words, own, words_of
from rounding import model_error
from torch import Tensor

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.context import lesion
from grammar_lens.model.about import Model
from grammar_lens.model.forward import hooked, watch_tokens
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.passes.moments import MomentAccumulator
from grammar_lens.selectivity.attribution import first_order
from grammar_lens.selectivity.attribution.first_order import attribute_all, attribute_own


def everything(
    model: Model,
    words: Words,
    batches: Sequence[TokenBatch] | None = None,
    reference: np.ndarray | None = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    chosen = words.batches() if batches is None else batches
    return attribute_all(
        model, words.alignment, chosen, words.classes, words.n, words.lexicon, reference, **options
    )


def tag_losses(model: Model, words: Words) -> np.ndarray:
    """-log P(t|c) of every word from the model's own logits, a sentence at a time."""
    table = torch.from_numpy(words.lexicon.probability)
    losses = np.full(words.alignment.n_words, np.nan)
    for number, ids in enumerate(words.alignment.token_ids):
        mine = np.flatnonzero((words.alignment.sentence == number) & (words.classes >= 0))
        with torch.no_grad():
            logits = model(torch.from_numpy(ids)[None])[0].double()
        p = torch.softmax(logits[words.alignment.first[mine] - 1], 1) @ table
        losses[mine] = -p[torch.arange(len(mine)), words.classes[mine]].log().numpy()
    return losses


def slope(model: Model, words: Words, layer: int, unit: int, to: float, dose: float) -> np.ndarray:
    """The change of every word's tag loss per dose, by central differences of true lesions."""
    one = Neurons("one", "neuron", np.array([layer]), np.array([unit]), np.zeros(1), np.array([to]))
    with lesion(model, one, dose=dose):
        up = tag_losses(model, words)
    with lesion(model, one, dose=-dose):
        down = tag_losses(model, words)
    return (up - down) / (2 * dose)


@pytest.fixture(scope="module")
def some(bank: Treebank, tiny: Model) -> Words:
    """Five sentences, 54 scored words or so."""
    return words_of(bank["test"], tiny)


@pytest.fixture(scope="module")
def reference_values() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(2, 48))


UNITS = ((0, 3), (0, 11), (0, 47), (1, 0), (1, 20), (1, 33))


class TestAll:
    # the error of a central difference falls with the square of the dose (here about 10 dose^2 of
    # the slope); in float64 rounding adds nothing to speak of
    @pytest.mark.parametrize(("dose", "error"), [(1e-2, 2e-3), (1e-3, 2e-5)])
    @pytest.mark.parametrize("to", ["zero", "mean"])
    def test_it_is_the_slope_of_small_lesions(
        self, exact: Model, some: Words, reference_values: np.ndarray, to: str, dose, error
    ) -> None:
        reference = reference_values if to == "mean" else None
        sums, counts = everything(exact, some, reference=reference)
        scored = some.classes >= 0
        np.testing.assert_array_equal(counts, np.bincount(some.classes[scored], minlength=some.n))
        target = np.zeros((2, 48)) if reference is None else reference
        for layer, unit in UNITS:
            per_word = slope(exact, some, layer, unit, float(target[layer, unit]), dose)[scored]
            expected = np.bincount(some.classes[scored], per_word, minlength=some.n)
            np.testing.assert_allclose(
                sums[:, layer, unit], expected, atol=error * np.abs(expected).max()
            )

    def test_batches_do_not_matter_nor_which_labels_they_have(
        self, tiny: Model, some: Words, reference_values: np.ndarray
    ) -> None:
        whole, counts = everything(tiny, some, reference=reference_values)
        for budget in (1, 40, 100):
            batches = some.batches(budget)
            sums, again = everything(tiny, some, batches, reference_values)
            np.testing.assert_array_equal(again, counts)
            within = model_error(tiny, whole, passes=2)
            np.testing.assert_allclose(sums, whole, rtol=0, atol=within)

    def test_in_the_last_layer_a_neuron_reaches_its_own_position_only(
        self, exact: Model, some: Words
    ) -> None:
        sums, _ = everything(exact, some)
        each = own(exact, some)
        for label in range(some.n):
            mine = each[some.classes == label].sum(0)
            np.testing.assert_allclose(mine[1], sums[label, 1], rtol=1e-9, atol=1e-12)
            assert np.abs(mine[0] - sums[label, 0]).max() > 1e-3  # and not so before it

    def test_bos_counts_for_nothing(self, make_tiny: Callable[[], Model], some: Words) -> None:
        """A neuron that is 0 at all other tokens: only BOS could give it a share."""
        model = make_tiny()
        body = model.original_model.base_model
        with torch.no_grad():
            # the last dimension is 1 at BOS and nowhere else, and the neuron reads nothing but it
            body.embed_tokens.weight[:, -1] = 0
            body.embed_tokens.weight[0, -1] = 3
            for layer in body.layers:
                layer.self_attn.o_proj.weight[-1] = 0
                layer.mlp.down_proj.weight[-1] = 0
            for part in ("gate_proj", "up_proj"):
                weight = getattr(body.layers[0].mlp, part).weight
                weight[5] = 0
                weight[5, -1] = 3
        sums, _ = everything(model, some)
        assert np.abs(sums[:, 0, 5]).max() == 0
        assert np.abs(sums[:, 0, 6]).max() > 0.01


class TestOwn:
    @pytest.mark.parametrize(("dose", "error"), [(1e-2, 2e-3), (1e-3, 2e-5)])
    def test_it_is_the_slope_with_keys_and_values_frozen(
        self, exact: Model, some: Words, reference_values: np.ndarray, dose, error
    ) -> None:
        each = own(exact, some, reference=reference_values)
        scored = some.classes >= 0
        assert np.isnan(each[~scored]).all()
        for layer, unit in UNITS:
            to = float(reference_values[layer, unit])
            with frozen_keys_and_values(exact, some):
                expected = slope(exact, some, layer, unit, to, dose)[scored]
            found = each[scored, layer, unit]
            np.testing.assert_allclose(found, expected, atol=error * np.abs(expected).max())
            if layer == 0 and dose == 1e-3:
                free = slope(exact, some, layer, unit, to, dose)[scored]
                assert np.abs(free - found).max() > 10 * error * np.abs(expected).max()

    def test_batches_do_not_matter(
        self, tiny: Model, some: Words, reference_values: np.ndarray
    ) -> None:
        whole = own(tiny, some, reference=reference_values)
        for budget in (1, 40, 100):
            each = own(tiny, some, some.batches(budget), reference_values)
            within = model_error(tiny, whole, passes=2)
            np.testing.assert_allclose(each, whole, rtol=0, atol=within)

    def test_a_neuron_that_writes_nothing_has_no_share(
        self, make_tiny: Callable[[], Model], some: Words
    ) -> None:
        model = make_tiny()
        with torch.no_grad():
            model.original_model.base_model.layers[0].mlp.down_proj.weight[:, 9] = 0
        scored = some.classes >= 0
        assert not own(model, some)[scored, 0, 9].any()
        assert own(model, some)[scored, 0, 8].all()
        assert not everything(model, some)[0][:, 0, 9].any()

    def test_every_reader_gets_the_words_with_its_codes(self, tiny: Model, some: Words) -> None:
        """Moments of one tap over all words and of another over every second word."""
        each = own(tiny, some)
        half = np.where(np.arange(len(some.classes)) % 2 == 0, some.classes, -1)
        readers = [
            MomentAccumulator(some.lexicon.labels, 2, 48, torch.device("cpu")) for _ in range(2)
        ]
        attribute_own(
            tiny,
            some.alignment,
            some.batches(60),
            some.classes,
            some.lexicon,
            None,
            [(some.classes, readers[0]), (half, readers[1])],
        )
        for codes, reader in zip((some.classes, half), readers, strict=True):
            got = reader.moments(Origin("m", "b", "upos", "next", "neuron"))
            for label in np.unique(codes[codes >= 0]):
                mine = each[codes == label]
                assert got.count[label] == len(mine)
                within = model_error(tiny, mine, passes=2)
                np.testing.assert_allclose(got.mean[label], mine.mean(0), rtol=0, atol=within)
                np.testing.assert_array_equal(got.fired[label], (mine > 0).sum(0))


class TestPlanted:
    def test_the_neuron_that_raises_a_labels_token_is_found(
        self, planted: Callable[[float], tuple[Model, Words, int]]
    ) -> None:
        model, words, label = planted(3.0)
        each = own(model, words)[words.classes == label].mean(0)
        sums, _ = everything(model, words)
        for found in (each, sums[label]):
            assert np.unravel_index(found.argmax(), found.shape) == (1, 17)

    def test_and_not_where_it_writes_nothing(
        self, planted: Callable[[float], tuple[Model, Words, int]]
    ) -> None:
        model, words, label = planted(0.0)
        each = own(model, words)[words.classes == label].mean(0)
        assert each[1, 17] == 0
        assert each.max() > 0


class TestNothingToDo:
    @pytest.mark.parametrize("budget", [4096, 40])
    def test_no_words(self, tiny: Model, some: Words, budget: int) -> None:
        none = replace(some, classes=np.full_like(some.classes, -1))
        batches = some.batches(budget)
        assert np.isnan(own(tiny, none, batches)).all()
        sums, counts = everything(tiny, none, batches)
        assert not sums.any()
        assert not counts.any()

    def test_no_batches(self, tiny: Model, some: Words) -> None:
        assert np.isnan(own(tiny, some, [])).all()
        assert not everything(tiny, some, [])[1].any()

    def test_a_batch_without_words_among_others(self, tiny: Model, some: Words) -> None:
        done: list[int] = []
        first = some.alignment.sentence == 1
        fewer = replace(some, classes=np.where(first, some.classes, -1))
        each = own(tiny, fewer, some.batches(1), progress=done.append)
        expected = own(tiny, some)
        scored = fewer.classes >= 0
        within = model_error(tiny, expected, passes=2)
        np.testing.assert_allclose(each[scored], expected[scored], rtol=0, atol=within)
        assert sum(done) == some.alignment.n_tokens


class TestMemory:
    @pytest.mark.parametrize("run", [own, everything], ids=["own", "all"])
    def test_a_batch_that_does_not_fit_is_halved(
        self, tiny: Model, some: Words, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Memory runs out after the backward pass has begun: in the layer that is read last."""
        whole = run(tiny, some)
        rows: list[int] = []
        warned: list[str] = []
        _short_of_memory_above(monkeypatch, 2, rows)
        again = run(tiny, some, warn=warned.append)
        assert max(rows) == 5
        assert rows[-1] <= 2
        assert warned[0].startswith("out of memory: the token budget is now ")
        for a, b in zip(*([x] if run is own else x for x in (whole, again)), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=model_error(tiny, a, passes=2))

    def test_a_sentence_that_does_not_fit(
        self, tiny: Model, some: Words, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _short_of_memory_above(monkeypatch, 0, [])
        with pytest.raises(GrammarLensError, match=r"one row of \d+ tokens does not fit"):
            own(tiny, some)


class TestErrors:
    def test_a_label_that_the_lexicon_has_no_word_of(self, tiny: Model, some: Words) -> None:
        prior = some.lexicon.prior.copy()
        prior[2] = 0
        without = replace(some, lexicon=replace(some.lexicon, prior=prior))
        name = some.lexicon.labels[2]
        message = f"label '{name}' has no word in the lexicon's data.*give its words the class -1"
        for run in (own, everything):
            with pytest.raises(GrammarLensError, match=message):
                run(tiny, without)

    def test_a_class_without_a_label(self, tiny: Model, some: Words) -> None:
        strange = replace(some, classes=np.where(some.classes == 0, 99, some.classes))
        message = f"class 99 has no label in the lexicon, which has {some.n}"
        with pytest.raises(GrammarLensError, match=message):
            own(tiny, strange)

    def test_a_reference_of_another_model(self, tiny: Model, some: Words) -> None:
        message = "the reference has 2 x 47 units and the model 2 x 48 neurons: take it from this"
        for run in (own, everything):
            with pytest.raises(GrammarLensError, match=message):
                run(tiny, some, reference=np.zeros((2, 47)))

    @pytest.mark.parametrize("run", [own, everything], ids=["own", "all"])
    def test_attributions_that_are_not_finite(self, tiny: Model, some: Words, run: Any) -> None:
        reference = np.zeros((2, 48))
        reference[1, 4] = np.inf
        with pytest.raises(GrammarLensError, match="NaN or infinite attributions in layer 1: load"):
            run(tiny, some, reference=reference)

    @pytest.mark.parametrize("run", [own, everything], ids=["own", "all"])
    def test_scaled_logits(self, make_tiny: Callable[[], Model], some: Words, run: Any) -> None:
        model = make_tiny()
        whole = model.original_model
        forward = whole.forward

        def scaled(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            out.logits = out.logits * 0.5
            return out

        whole.forward = scaled
        with pytest.raises(
            GrammarLensError, match=r"are not those of its head \(they differ by .*capped"
        ):
            run(model, some)

    def test_logits_that_are_not_finite(self, make_tiny: Callable[[], Model], some: Words) -> None:
        model = make_tiny()
        with torch.no_grad():
            model.original_model.base_model.layers[1].mlp.down_proj.weight[3, 3] = torch.inf
        for run in (own, everything):
            with pytest.raises(
                GrammarLensError, match="NaN or infinite logits from LlamaForCausalLM: lo"
            ):
                run(model, some)

    def test_keys_that_have_no_hook(
        self, make_tiny: Callable[[], Model], some: Words, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = make_tiny()
        fewer = {n: h for n, h in model.hook_dict.items() if not n.endswith("hook_k")}
        monkeypatch.setattr(type(model), "hook_dict", property(lambda _: fewer))
        message = "has no blocks.0.attn.hook_k, so gradients through keys and values cannot be"
        with pytest.raises(GrammarLensError, match=message):
            own(model, some)


def test_nothing_remains_in_the_model(tiny: Model, some: Words) -> None:
    ids = torch.from_numpy(some.alignment.token_ids[0])[None]
    before = tiny(ids)
    own(tiny, some)
    everything(tiny, some)
    assert torch.equal(tiny(ids), before)
    assert not any(p.requires_grad or p.grad is not None for p in tiny.original_model.parameters())


@contextmanager
def frozen_keys_and_values(model: Model, words: Words) -> Iterator[None]:
    """Keys and values of every sentence stay what they are in the intact model."""
    clean: dict[tuple[str, bytes], Tensor] = {}
    now: list[bytes] = []

    def hold(name: str) -> tuple[str, Callable[..., Tensor]]:
        return name, lambda activation, **_: clean.setdefault((name, now[-1]), activation)

    names = [f"blocks.{layer}.attn.hook_{x}" for layer in range(2) for x in "kv"]
    see = lambda ids: now.append(ids.numpy().tobytes())  # noqa: E731
    with watch_tokens(model, see), hooked(model, [hold(name) for name in names]):
        tag_losses(model, words)
        yield


def _short_of_memory_above(monkeypatch: pytest.MonkeyPatch, most: int, rows: list[int]) -> None:
    """Batches of more than `most` rows fail once their losses' gradients are known."""
    plain = first_order._Job.slopes
    forward = first_order._Job.forward

    def counted(self: Any, run: Any, batch: TokenBatch, *rest: Any) -> Any:
        rows.append(len(batch.lengths))
        return forward(self, run, batch, *rest)

    def slopes(self: Any, words: Any, hidden: Tensor) -> Tensor:
        out = plain(self, words, hidden)
        if rows[-1] > most:
            hidden.backward(out, retain_graph=True)  # readers have been given all layers
            raise MemoryError
        return out

    monkeypatch.setattr(first_order._Job, "forward", counted)
    monkeypatch.setattr(first_order._Job, "slopes", slopes)
