"""Relevance propagation: the model's values, a linear model's relevance, attribution's nulls."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from architectures import CONFIGS, GROUPED, IDS
from made_attributions import Words, own, words_of
from rounding import model_error
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.errors import GrammarLensError
from grammar_lens.model import edited_pass as edited_pass_module
from grammar_lens.model.about import Model
from grammar_lens.model.edited_pass import edited_pass
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.loading import load_model
from grammar_lens.model.relevance_pass import relevance_pass
from grammar_lens.selectivity.attribution.first_order import attribute_all
from grammar_lens.selectivity.evidence import Evidence

OLMO2 = {"olmo2": ("Olmo2Config", GROUPED)}
RULED = [name for name in CONFIGS if name not in ("gpt2", "pythia")] + ["olmo2"]


@pytest.fixture(scope="module")
def some(bank: Treebank, tiny: Model) -> Words:
    return words_of(bank["test"], tiny)


@pytest.fixture(params=["fast", "bridge"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Passes over the bare layers, or through the bridge's hooks."""
    if request.param == "bridge":
        monkeypatch.setattr(edited_pass_module, "fast_path", lambda _: None)
    return request.param


def all_of(model: Model, words: Words, **options: Any) -> np.ndarray:
    batches = words.batches()
    given = (words.alignment, batches, words.classes, words.n, words.lexicon, None)
    return attribute_all(model, *given, **options)[0]


def written_out(hf: Any, ids: Tensor, attention: bool) -> tuple[Tensor, list[Tensor]]:
    """A Llama by its formulas with everything held constant that the rules hold constant."""
    x = hf.model.embed_tokens(ids)[0].detach().requires_grad_()
    patterns = hf(ids, output_attentions=True).attentions
    neurons = []

    def norm(x: Tensor, module: Any) -> Tensor:
        mean_square = x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon
        return module.weight * x * mean_square.rsqrt().detach()

    for layer, pattern in zip(hf.model.layers, patterns, strict=True):
        values = layer.self_attn.v_proj(norm(x, layer.input_layernorm))
        heads = values.unflatten(1, (2, 8)).transpose(0, 1).repeat_interleave(2, 0)
        attended = layer.self_attn.o_proj((pattern[0].detach() @ heads).transpose(0, 1).flatten(1))
        x = x + (attended if attention else attended.detach())
        y = norm(x, layer.post_attention_layernorm)
        gate, up = layer.mlp.gate_proj(y), layer.mlp.up_proj(y)
        act = gate * (silu(gate) / gate).detach()
        neurons.append((act.detach() * up + act * up.detach()) / 2)
        neurons[-1].retain_grad()
        x = x + layer.mlp.down_proj(neurons[-1])
    return norm(x, hf.model.norm), neurons


def losses(hf: Any, hidden: Tensor, words: Words, mine: np.ndarray) -> Tensor:
    """The tag losses of some words, whose sentence's hidden states these are."""
    shares = torch.from_numpy(words.lexicon.probability[:, words.classes[mine]]).T
    p = torch.softmax(hf.lm_head(hidden[words.alignment.first[mine] - 1]), 1)
    return -(p * shares).sum(1).log()


class TestFormula:
    @pytest.mark.parametrize("kind", ["own", "all"])
    def test_it_is_that_of_a_llama_written_out(
        self, exact: Model, tiny_hf: Callable[[], Any], some: Words, path: str, kind: str
    ) -> None:
        """Float64, but for the softmax of the eager patterns: hence 1e-5 of the largest."""
        assert (fast_path(exact) is not None) or path == "bridge"
        hf = tiny_hf().double()
        hf.set_attn_implementation("eager")
        each = np.zeros((some.alignment.n_words, 2, 48))
        sums = np.zeros((some.n, 2, 48))
        for number, ids in enumerate(some.alignment.token_ids):
            of_sentence = (some.alignment.sentence == number) & (some.classes >= 0)
            hidden, neurons = written_out(hf, torch.from_numpy(ids)[None], kind == "all")
            for word in np.flatnonzero(of_sentence):
                at = some.alignment.first[word] - 1
                loss = losses(hf, hidden, some, np.array([word]))
                gradients = torch.autograd.grad(loss.sum(), neurons, retain_graph=True)
                for layer, (a, g) in enumerate(zip(neurons, gradients, strict=True)):
                    parts = (-a * g).detach().numpy()
                    each[word, layer] = parts[at]
                    sums[some.classes[word], layer] += parts[1:].sum(0)  # BOS is not touched
        if kind == "all":
            found, expected = all_of(exact, some, relevance=True), sums
        else:
            scored = some.classes >= 0
            found, expected = own(exact, some, relevance=True)[scored], each[scored]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    @pytest.mark.parametrize("attention", [False, True])
    def test_the_values_are_the_models_own(self, tiny: Model, path: str, attention: bool) -> None:
        ids = IDS % 300
        with edited_pass(tiny, {}) as plain, torch.no_grad():
            expected = plain(ids)
        with relevance_pass(tiny, {}, through_attention=attention) as forward:
            got = forward(ids)
        within = model_error(tiny, expected)
        torch.testing.assert_close(got.detach(), expected, rtol=0, atol=within)
        with edited_pass(tiny, {}) as plain, torch.no_grad():
            assert torch.equal(plain(ids), expected), "nothing remains on the model"

    def test_both_paths_agree(
        self, tiny: Model, some: Words, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fast = own(tiny, some, relevance=True), all_of(tiny, some, relevance=True)
        monkeypatch.setattr(edited_pass_module, "fast_path", lambda _: None)
        bridge = own(tiny, some, relevance=True), all_of(tiny, some, relevance=True)
        for a, b in zip(fast, bridge, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=model_error(tiny, a, passes=2))

    def test_it_differs_from_the_gradient(self, tiny: Model, some: Words) -> None:
        scored = some.classes >= 0
        relevance, gradient = own(tiny, some, relevance=True)[scored], own(tiny, some)[scored]
        assert np.abs(relevance - gradient).max() > 0.05 * np.abs(gradient).max()

    def test_it_is_the_gradient_where_the_rules_change_nothing(
        self, make_tiny: Callable[[], Model], some: Words
    ) -> None:
        """A constant of 1e4 beside values near 1 fixes every norm's scale, and what MLPs read is so
        small that what goes through them is a ten-thousandth of what goes past them."""
        model = make_tiny()
        body = model.original_model.base_model
        with torch.no_grad():
            body.embed_tokens.weight[:, -1] = 1e4
            for layer in body.layers:
                for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                    weight[-1] = 0
                for part in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.self_attn.v_proj):
                    part.weight[:, -1] = 0
            model.original_model.get_output_embeddings().original_component.weight[:, -1] = 0
        scored = some.classes >= 0
        relevance, gradient = own(model, some, relevance=True)[scored], own(model, some)[scored]
        np.testing.assert_allclose(relevance, gradient, atol=2e-3 * np.abs(gradient).max(), rtol=0)
        assert np.abs(gradient).min(axis=(0, 2)).max() > 0


class TestConservation:
    @pytest.mark.parametrize("name", RULED)
    def test_a_position_keeps_its_relevance_but_for_what_attention_brought(
        self, shaken: Callable[..., None], tiny_tokenizer: Any, name: str
    ) -> None:
        """x . R of the last hidden state is that of the embedding and of what every layer attends to."""
        model, slope = made(name, shaken, tiny_tokenizer)
        found: dict[tuple[str, int], Tensor] = {}
        places = [("resid_pre", 0), *(("attn_out", layer) for layer in range(2))]
        with relevance_pass(model, starting(places, found), through_attention=False) as forward:
            hidden = forward(IDS)
            hidden.backward(slope)
        brought = sum(relevance_of(found[at]) for at in places)
        expected = (hidden.detach() * slope).sum(-1)
        # norms and activation functions are in float32
        torch.testing.assert_close(
            brought, expected, rtol=0, atol=1e-4 * float(expected.abs().max())
        )

    @pytest.mark.parametrize("name", RULED)
    def test_through_attention_the_embeddings_get_it_all(
        self, shaken: Callable[..., None], tiny_tokenizer: Any, name: str
    ) -> None:
        model, slope = made(name, shaken, tiny_tokenizer)
        found: dict[tuple[str, int], Tensor] = {}
        with relevance_pass(
            model, starting([("resid_pre", 0)], found), through_attention=True
        ) as forward:
            hidden = forward(IDS)
            hidden.backward(slope)
        got = relevance_of(found["resid_pre", 0]).sum(1)
        expected = (hidden.detach() * slope).sum((1, 2))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))

    def test_a_gradient_does_not_keep_it(
        self, shaken: Callable[..., None], tiny_tokenizer: Any
    ) -> None:
        model, slope = made("llama", shaken, tiny_tokenizer)
        found: dict[tuple[str, int], Tensor] = {}
        with edited_pass(model, starting([("resid_pre", 0)], found)) as forward:
            hidden = forward(IDS)
            hidden.backward(slope)
        got, expected = relevance_of(found["resid_pre", 0]).sum(1), (hidden * slope).sum((1, 2))
        assert (got - expected).abs().max() > 0.1 * expected.abs().max()


def made(name: str, shaken: Callable[..., None], tokenizer: Any) -> tuple[Model, Tensor]:
    """A random model without biases in float64, and a gradient at its last hidden state."""
    kind, sizes = {**CONFIGS, **OLMO2}[name]
    config = getattr(transformers, kind)(**sizes, attn_implementation="eager")
    hf = transformers.AutoModelForCausalLM.from_config(config).double()
    shaken(hf)
    with torch.no_grad():
        for parameter, weight in hf.named_parameters():
            if parameter.endswith("bias"):
                weight.zero_()
    rng = torch.Generator().manual_seed(2)
    slope = torch.randn((*IDS.shape, 32), generator=rng, dtype=torch.float64)
    return load_model(hf, tokenizer=tokenizer, dtype=torch.float64), slope


def starting(
    places: list[tuple[str, int]], found: dict[tuple[str, int], Tensor]
) -> dict[tuple[str, int], Callable[[Tensor], Tensor]]:
    """Changes by which gradients start at some places."""

    def start(at: tuple[str, int]) -> Callable[[Tensor], Tensor]:
        def change(x: Tensor) -> Tensor:
            found[at] = x.detach().requires_grad_()
            return found[at]

        return change

    return {at: start(at) for at in places}


def relevance_of(x: Tensor) -> Tensor:
    assert x.grad is not None
    return (x.detach() * x.grad).sum(-1)


class TestPlanted:
    @pytest.mark.parametrize("strength", [3.0, 0.0])
    def test_the_neuron_that_raises_a_labels_token_is_found(
        self, planted: Callable[[float], tuple[Model, Words, int]], strength: float
    ) -> None:
        model, words, label = planted(strength)
        each = own(model, words, relevance=True)[words.classes == label].mean(0)
        is_first = np.unravel_index(each.argmax(), each.shape) == (1, 17)
        assert is_first == (strength > 0)
        assert (each[1, 17] == 0) == (strength == 0)


QUIET: dict[str, Any] = {"show_progress": False, "labels": ("DET", "NOUN", "PRON", "VERB")}


class TestAttribute:
    def test_scores_and_their_nulls(self, tiny: Model, bank: Treebank) -> None:
        moments = gl.collect(tiny, bank["train"], **QUIET)["neuron"]
        given: dict[str, Any] = {"moments": moments, "replicates": 20, **QUIET}
        found = gl.attribute(tiny, bank["train"], relevance=True, **given)
        plain = gl.attribute(tiny, bank["train"], **given)
        assert set(found.nulls) == {"relevance", "relevance_contrast"}
        assert (found.relevance, found.kind) == (True, "own")
        assert "own, relevance" in repr(found)
        evidence = Evidence(moments, attribution=plain, relevance=found)
        for name in ("relevance", "attribution"):
            scores = gl.score(evidence, f"{name}_contrast")
            values = getattr(evidence, name).mean
            others = (values.sum(0) - values) / 3
            np.testing.assert_allclose(scores.values, values - others, atol=1e-12)
            assert scores.null is getattr(evidence, name).nulls[f"{name}_contrast"]
        keys = gl.select(gl.score(evidence, "relevance"), k=5, alpha=1, massive=1.0)
        size = moments.units().mean_abs
        layer, index = keys.union().T
        assert (size[layer, index] <= np.median(size, 1)[layer]).all(), "no massive unit is chosen"

    def test_halves_are_of_relevance(self, tiny: Model, bank: Treebank) -> None:
        for kind in ("own", "all"):
            found = gl.attribute(tiny, bank["train"], kind=kind, relevance=True, **QUIET)
            assert found.halves is not None
            count = np.stack([half.count for half in found.halves])[:, :, None, None]
            means = np.stack([half.mean for half in found.halves])
            np.testing.assert_allclose(
                (count * means).sum(0) / count.sum(0), found.mean, rtol=1e-6, atol=1e-12
            )
            assert all(half.relevance for half in found.halves)

    def test_one_is_not_taken_for_the_other(self, tiny: Model, bank: Treebank) -> None:
        moments = gl.collect(tiny, bank["train"], **QUIET)["neuron"]
        found = gl.attribute(tiny, bank["train"], relevance=True, moments=moments, **QUIET)
        with pytest.raises(GrammarLensError, match=r"made by relevance.*'attribution' needs"):
            gl.score(Evidence(moments, attribution=found), "attribution")
        with pytest.raises(GrammarLensError, match=r"'relevance' needs relevance: gl\.attribute"):
            gl.score(Evidence(moments, attribution=found), "relevance")


class TestErrors:
    def test_integrated_gradients_have_no_relevance(self, tiny: Model, bank: Treebank) -> None:
        with pytest.raises(GrammarLensError, match="relevance takes the place of a gradient"):
            gl.attribute(tiny, bank["test"], kind="integrated_gradients", relevance=True)

    @pytest.mark.parametrize("name", ["gpt2", "pythia"])
    def test_other_architectures(self, tiny_tokenizer: Any, name: str) -> None:
        kind, sizes = CONFIGS[name]
        hf = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes))
        model = load_model(hf, tokenizer=tiny_tokenizer)
        message = "no rules for .*not RMSNorm. Supported are .*Llama"
        with pytest.raises(GrammarLensError, match=message):
            gl.attribute(model, gl.load_treebank()["test"], relevance=True)

    def test_a_norm_that_is_none(
        self, make_tiny: Callable[[], Model], monkeypatch: pytest.MonkeyPatch, some: Words
    ) -> None:
        def centred(self: Any, x: Tensor) -> Tensor:
            y = x - x.mean(-1, keepdim=True)
            return self.weight * y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)

        monkeypatch.setattr(LlamaRMSNorm, "forward", centred)
        with pytest.raises(GrammarLensError, match="ln1 of layer 0 does not compute what its rule"):
            own(make_tiny(), some, relevance=True)

    def test_an_mlp_that_is_no_product(self, make_tiny: Callable[[], Model], some: Words) -> None:
        model = make_tiny()
        mlp = model.original_model.base_model.layers[1].mlp.original_component
        mlp.forward = lambda x: mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) + mlp.up_proj(x))
        with pytest.raises(GrammarLensError, match="the MLP of layer 1 does not compute what its"):
            own(model, some, relevance=True)
