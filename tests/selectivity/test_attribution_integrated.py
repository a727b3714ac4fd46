"""Integrated gradients add up, both ways of computing them agree, and the rule that counts them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_attributions import Kept, Words, words_of
from rounding import model_error
from torch import Tensor

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.forward import hooked
from grammar_lens.passes.readers import Seen
from grammar_lens.selectivity.attribution import integrated
from grammar_lens.selectivity.attribution.integrated import Completeness, integrated_gradients
from grammar_lens.selectivity.attribution.top_share import TopShareReader


def gradients(model: Model, words: Words, **options: Any) -> tuple[np.ndarray, Completeness]:
    """Contributions [all_words layer unit], NaN for words that are not scored."""
    n = words.alignment.n_words
    kept = Kept(n, model.cfg.n_layers, model.cfg.d_mlp)
    taps = [(np.arange(n), kept)]
    done = integrated_gradients(model, words.alignment, words.classes, taps, **options)
    return kept.values, done


def probabilities(
    model: Model, words: Words, alpha: float, layers: tuple[int, ...], shift: float = 0.0
) -> np.ndarray:
    """log p of every word's first token with neurons of `layers` scaled at the token before it.

    They are scaled to alpha times what they are in the intact model, one word and one forward pass
    of its prefix at a time. `shift` is added to the first neuron of the first layer.
    """
    found = words.alignment
    out = np.full(found.n_words, np.nan)
    for word in np.flatnonzero(words.classes >= 0):
        place = int(found.first[word]) - 1
        ids = torch.from_numpy(found.token_ids[found.sentence[word]][: place + 1])[None]
        clean: dict[int, Tensor] = {}

        def keep(layer: int, clean: dict[int, Tensor] = clean) -> Callable[..., None]:
            return lambda a, **_: clean.update({layer: a[:, -1].clone()})

        def scale(layer: int, clean: dict[int, Tensor] = clean) -> Callable[..., Tensor]:
            def hook(a: Tensor, **_: object) -> Tensor:
                a = a.clone()
                a[:, -1] = alpha * clean[layer]
                a[:, -1, 0] += shift if layer == layers[0] else 0.0
                return a

            return hook

        with torch.no_grad():
            with hooked(model, [(f"blocks.{n}.mlp.hook_post", keep(n)) for n in layers]):
                model(ids)
            with hooked(model, [(f"blocks.{n}.mlp.hook_post", scale(n)) for n in layers]):
                logits = model(ids)[0, -1].double()
        out[word] = torch.log_softmax(logits, 0)[int(found.first_token[word])]
    return out


@pytest.fixture(scope="module")
def few(bank: Treebank, tiny: Model) -> Words:
    """The scored words of two sentences of unlike length."""
    words = words_of(bank["test"], tiny)
    mine = np.isin(words.alignment.sentence, (0, 3))
    return replace(words, classes=np.where(mine, words.classes, -1))


def assert_close(model: Model, got: Any, want: Any, size: Any = None) -> None:
    """Equal but for the rounding of a forward and a backward pass."""
    within = model_error(model, want if size is None else size, passes=2)
    np.testing.assert_allclose(got, want, rtol=0, atol=within)


class TestIntegratedGradients:
    @pytest.mark.parametrize("joint", [False, True])
    @pytest.mark.parametrize("reuse", [False, True])
    @pytest.mark.parametrize("target", ["probability", "log_probability"])
    def test_one_step_is_the_slope_at_half(
        self,
        exact: Model,
        few: Words,
        joint: bool,
        reuse: bool,
        target: str,
    ) -> None:
        """Of the sum over units along alpha, and of one neuron by itself."""
        found, _ = gradients(exact, few, steps=1, joint=joint, reuse=reuse, target=target)
        scored = few.classes >= 0
        of = np.exp if target == "probability" else np.asarray
        step = 1e-4
        for layers in ((0, 1),) if joint else ((0,), (1,)):
            up, down = (
                of(probabilities(exact, few, 0.5 + sign * step, layers)) for sign in (1, -1)
            )
            total = found[:, list(layers)].sum((1, 2))
            # central differences err with the square of the step
            np.testing.assert_allclose(total[scored], (up - down)[scored] / (2 * step), rtol=1e-4)
            up, down = (of(probabilities(exact, few, 0.5, layers, sign * step)) for sign in (1, -1))
            activation = first_neuron(exact, few, layers[0])
            expected = activation * (up - down) / (2 * step)
            np.testing.assert_allclose(
                found[scored, layers[0], 0],
                expected[scored],
                rtol=1e-4,
                atol=1e-6 * np.nanmax(np.abs(expected)),
            )

    @pytest.mark.parametrize("joint", [False, True])
    def test_it_adds_up_to_the_difference_of_outputs(
        self,
        exact: Model,
        few: Words,
        joint: bool,
    ) -> None:
        """The error that is reported is the error there is, and it falls with the steps."""
        errors = []
        full = probabilities(exact, few, 1.0, (0, 1))
        for steps in (4, 16, 64):
            found, told = gradients(exact, few, steps=steps, joint=joint, target="log_probability")
            missed, differences = [], []
            for layers in ((0, 1),) if joint else ((0,), (1,)):
                difference = full - probabilities(exact, few, 0.0, layers)
                miss = np.abs(found[:, list(layers)].sum((1, 2)) - difference)
                missed.append(np.nanmean(miss))
                differences.append(np.nanmean(np.abs(difference)))
            each = np.full(2, np.nan) if joint else np.array(missed) / differences
            np.testing.assert_allclose(told.per_layer, each, rtol=1e-6)
            assert told.overall == pytest.approx(sum(missed) / sum(differences), rel=1e-6)
            errors.append(told.overall)
        # the midpoint rule errs with the square of the step, once steps are small
        assert errors[1] < errors[0] / 4
        assert errors[2] < min(errors[1] / 12, 1e-3)

    @pytest.mark.parametrize("joint", [False, True])
    @pytest.mark.parametrize("target", ["probability", "log_probability"])
    def test_both_ways_agree(self, tiny: Model, few: Words, joint: bool, target: str) -> None:
        same: dict[str, Any] = {"joint": joint, "target": target, "steps": 5}
        fast, told = gradients(tiny, few, **same)
        slow, also = gradients(tiny, few, reuse=False, **same)
        assert_close(tiny, fast, slow)
        # what is left of a difference, as a share of it
        assert_close(tiny, told.per_layer, also.per_layer, size=1)
        assert_close(tiny, told.overall, also.overall, size=1)

    @pytest.mark.parametrize("reuse", [False, True])
    def test_batches_do_not_matter(self, tiny: Model, few: Words, reuse: bool) -> None:
        whole, told = gradients(tiny, few, steps=3)
        for budget in (1, 50, 400):
            found, again = gradients(tiny, few, steps=3, token_budget=budget, reuse=reuse)
            assert_close(tiny, found, whole)
            assert_close(tiny, again.per_layer, told.per_layer, size=1)

    def test_a_neuron_that_writes_nothing_has_no_share(
        self, make_tiny: Callable[[], Model], few: Words
    ) -> None:
        model = make_tiny()
        with torch.no_grad():
            model.original_model.base_model.layers[0].mlp.down_proj.weight[:, 9] = 0
        scored = few.classes >= 0
        for options in ({}, {"joint": True}, {"reuse": False}):
            found, _ = gradients(model, few, steps=2, **options)
            assert not found[scored, 0, 9].any()
            assert found[scored, 0, 8].all()

    @pytest.mark.parametrize(("strength", "found"), [(3.0, True), (0.0, False)])
    @pytest.mark.parametrize("joint", [False, True])
    def test_a_planted_neuron_is_found(
        self,
        planted: Callable[[float], tuple[Model, Words, int]],
        strength: float,
        found: bool,
        joint: bool,
    ) -> None:
        model, words, _ = planted(strength)
        values, _ = gradients(model, words, joint=joint, steps=5, target="log_probability")
        mean = np.nanmean(values, 0)
        assert (np.unravel_index(mean.argmax(), mean.shape) == (1, 17)) == found

    def test_some_sentences_only(self, tiny: Model, few: Words) -> None:
        whole, _ = gradients(tiny, few, steps=2)
        done: list[int] = []
        one, _ = gradients(tiny, few, steps=2, rows=np.array([3]), progress=done.append)
        mine = few.alignment.sentence == 3
        assert_close(tiny, one[mine], whole[mine])
        assert np.isnan(one[~mine]).all()
        assert done == [len(few.alignment.token_ids[3])]

    def test_no_words(self, tiny: Model, few: Words) -> None:
        none = replace(few, classes=np.full_like(few.classes, -1))
        found, told = gradients(tiny, none)
        assert np.isnan(found).all()
        assert told.per_layer.tolist() == [0, 0]
        assert told.overall == 0

    def test_the_reference_model(self, reference: Model) -> None:
        """Eight layers and grouped keys: both ways, and completeness of the upper layers."""
        words = words_of(load_treebank()["test"].sample(2, seed=1), reference)
        there = np.flatnonzero(words.classes >= 0)[::4]
        words = replace(
            words,
            classes=np.where(np.isin(np.arange(len(words.classes)), there), words.classes, -1),
        )
        fast, told = gradients(reference, words, steps=4)
        slow, _ = gradients(reference, words, steps=4, reuse=False)
        assert_close(reference, fast, slow)
        assert told.per_layer[2:].max() < 0.05

    def test_a_batch_that_does_not_fit_is_halved(
        self, tiny: Model, few: Words, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, told = gradients(tiny, few, steps=2)
        warned: list[str] = []
        hand_over = integrated._hand_over
        record = integrated.record
        rows: list[int] = []

        def counted(path: Any, batch: TokenBatch, *rest: Any) -> Any:
            rows.append(len(batch.rows))
            return record(path, batch, *rest)

        def short(scaled: Any, *rest: Any) -> Any:
            out = hand_over(scaled, *rest)
            if rows[-1] > 1 and 1 in scaled[0]:
                raise MemoryError
            return out

        monkeypatch.setattr(integrated, "record", counted)
        monkeypatch.setattr(integrated, "_hand_over", short)
        found, again = gradients(tiny, few, steps=2, warn=warned.append)
        assert_close(tiny, found, whole)
        assert_close(tiny, again.per_layer, told.per_layer, size=1)
        assert warned
        assert all(w.startswith("out of memory: the token budget is now") for w in warned)


class TestErrors:
    def test_no_steps(self, tiny: Model, few: Words) -> None:
        with pytest.raises(GrammarLensError, match="steps is 0, expected 1 or more"):
            gradients(tiny, few, steps=0)

    def test_an_unknown_target(self, tiny: Model, few: Words) -> None:
        message = "target is 'logit', expected one of probability, log_probability"
        with pytest.raises(GrammarLensError, match=message):
            gradients(tiny, few, target="logit")

    @pytest.mark.parametrize("reuse", [False, True])
    @pytest.mark.parametrize("steps", [1, 2])
    def test_attributions_that_are_not_finite(
        self, tiny: Model, few: Words, reuse: bool, steps: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as of a neuron whose activation is infinite at one word."""
        plain = integrated.record

        def record(*arguments: Any) -> Any:
            out = plain(*arguments)
            out.activation[1][0, 7] = torch.inf
            return out

        monkeypatch.setattr(integrated, "record", record)
        with pytest.raises(GrammarLensError, match="NaN or infinite attributions in layer 1: load"):
            gradients(tiny, few, reuse=reuse, steps=steps)

    def test_scaled_logits(self, make_tiny: Callable[[], Model], few: Words) -> None:
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
            gradients(model, few)

    def test_layers_that_cannot_be_rerun(self, make_tiny: Callable[[], Model], few: Words) -> None:
        """A norm between the neurons and the residual stream, as in Gemma 3."""
        model = make_tiny()
        for layer in model.original_model.base_model.layers:
            layer.mlp.hook_out.add_hook(lambda x, **_: x / (0.3 + x.norm(dim=-1, keepdim=True)))
        for joint in (False, True):
            with pytest.raises(GrammarLensError, match="cannot be rerun"):
                gradients(model, few, joint=joint)
            found, told = gradients(model, few, joint=joint, reuse=False, steps=4)
            assert np.isfinite(found[few.classes >= 0]).all()
            assert told.overall < 1.5

    def test_a_model_without_keys_and_values_to_reuse(
        self, tiny: Model, few: Words, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(integrated, "can_continue", lambda _model: False)
        warned: list[str] = []
        found, _ = gradients(tiny, few, steps=2, warn=warned.append)
        assert warned == ["LlamaForCausalLM gives no keys and values to reuse: this will be slow"]
        np.testing.assert_array_equal(found, gradients(tiny, few, steps=2, reuse=False)[0])


def first_neuron(model: Model, words: Words, layer: int) -> np.ndarray:
    """Activation of the layer's neuron 0 at the token before each word."""
    out = np.full(words.alignment.n_words, np.nan)
    seen: list[Tensor] = []
    for number, ids in enumerate(words.alignment.token_ids):
        hook = (f"blocks.{layer}.mlp.hook_post", lambda a, **_: seen.append(a[0, :, 0].clone()))
        with torch.no_grad(), hooked(model, [hook]):
            model(torch.from_numpy(ids)[None])
        mine = np.flatnonzero((words.alignment.sentence == number) & (words.classes >= 0))
        out[mine] = seen[-1].numpy()[words.alignment.first[mine] - 1]
    return out


def counted(
    values: np.ndarray, classes: np.ndarray, sizes: tuple[int, ...], **options: Any
) -> np.ndarray:
    """Frequencies after words have come in pieces, each layer by layer."""
    reader = TopShareReader(3, values.shape[1], values.shape[2], **options)
    begin = 0
    for size in sizes:
        part = torch.from_numpy(values[begin : begin + size])
        codes = torch.from_numpy(classes[begin : begin + size])
        for layer in reversed(range(values.shape[1])):
            for rows in (slice(0, 2), slice(2, None)):
                if len(part[rows]):
                    x = part[rows, layer]
                    assert bool(reader.add(layer, Seen(x), codes[rows]))
        reader.commit()
        begin += size
    return reader.frequency()


class TestTopShare:
    values = np.random.default_rng(0).normal(size=(23, 4, 25)).astype(np.float32)
    classes = np.random.default_rng(1).integers(0, 3, 23)

    @pytest.mark.parametrize("per_layer", [False, True])
    @pytest.mark.parametrize("absolute", [False, True])
    @pytest.mark.parametrize("sizes", [(23,), (5, 1, 17)])
    def test_it_counts_as_numpy_does(self, per_layer, absolute, sizes) -> None:
        got = counted(
            self.values, self.classes, sizes, share=0.07, per_layer=per_layer, absolute=absolute
        )
        expected = np.zeros((3, 4, 25))
        for word, c in zip(self.values, self.classes, strict=True):
            x = np.abs(word) if absolute else word
            # .07 of 25 is 1.75, and .07 of 100 in floats a little more than 7
            least = np.sort(x, 1)[:, -2:-1] if per_layer else np.sort(x, None)[-7]
            expected[c] += x >= least
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.float64

    def test_of_equal_values_the_first_are_kept(self) -> None:
        got = counted(np.zeros((2, 4, 25), np.float32), np.array([0, 2]), (2,), share=0.26)
        np.testing.assert_array_equal(got[0].ravel(), [1.0] * 26 + [0] * 74)
        np.testing.assert_array_equal(got.sum((1, 2)), [26, 0, 26])

    def test_what_is_discarded_does_not_count(self) -> None:
        reader = TopShareReader(3, 1, 4, 0.25)
        x = torch.tensor([[1.0, 3, 2, 0]])
        reader.add(0, Seen(x), torch.tensor([1]))
        reader.discard()
        reader.commit()
        assert not reader.frequency().any()
        reader.add(0, Seen(x), torch.tensor([1]))
        reader.commit()
        assert reader.frequency()[1, 0].tolist() == [0, 1, 0, 0]

    def test_it_reads_integrated_gradients(self, tiny: Model, few: Words) -> None:
        reader = TopShareReader(len(few.lexicon.labels), 2, 48, 0.05)
        taps = [(few.classes, reader)]
        integrated_gradients(tiny, few.alignment, few.classes, taps, steps=2, token_budget=60)
        found, _ = gradients(tiny, few, steps=2)
        expected = np.zeros_like(reader.frequency())
        for word in np.flatnonzero(few.classes >= 0):
            kept = np.argsort(-found[word], axis=None)[: math.ceil(0.05 * 96)]
            expected[few.classes[word]].ravel()[kept] += 1
        np.testing.assert_array_equal(reader.frequency(), expected)

    @pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
    def test_a_share_that_is_none(self, share: float) -> None:
        with pytest.raises(GrammarLensError, match=rf"{share}.*than 0"):
            TopShareReader(3, 2, 4, share)

    def test_a_layer_that_was_not_read(self) -> None:
        reader = TopShareReader(3, 2, 4)
        x = torch.ones(1, 4)
        reader.add(0, Seen(x), torch.tensor([1]))
        with pytest.raises(GrammarLensError, match="layer 1 was not read"):
            reader.commit()
