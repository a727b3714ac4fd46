"""Scores of what units do: attributions as they were given, and the contrast of outgoing weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from architectures import CONFIGS, IDS
from made_scores import LABELS, ORIGIN, PLANTED, moments_of, planted
from scipy import stats
from torch import Tensor, nn

from grammar_lens.corpus.lexicon import build_lexicon
from grammar_lens.errors import GrammarLensError
from grammar_lens.model import about, forward, weights
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.model.weights import output_contrast
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.from_effects import frequency_depends
from grammar_lens.selectivity.scoring import score

FINAL_NORM = {"gpt2": "transformer.ln_f", "pythia": "gpt_neox.final_layer_norm"}
CENTRED = ("gpt2", "pythia")
"""Kinds whose norms are LayerNorms."""


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Attributions of 4 layers of 30 neurons: noise about 0, and (2, 17) costs verbs 10 sd."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(3, 4, 30))
    mean[:, 0, 5] = 50  # needed by every label alike
    mean[1, 2, 17] += 10
    moments = moments_of(*planted(0.0), LABELS)
    own = Attribution("own", "mean", LABELS, moments.count, mean, ORIGIN)
    times = rng.uniform(0, 0.2, mean.shape)
    times[1, 2, 17] = 0.9
    integrated = replace(
        own, kind="integrated_gradients", reference="zero", frequency=times, top_share=0.05
    )
    contrast = mean.copy()
    return Evidence(
        moments,
        attribution=own,
        relevance=replace(own, relevance=True),
        integrated_gradients=integrated,
        output_contrast=contrast,
    )


class TestAttributions:
    @pytest.mark.parametrize(
        "method", ["attribution", "integrated_gradients", "logit_contrast", "frequency"]
    )
    def test_values_are_those_of_the_evidence(self, evidence: Evidence, method: str) -> None:
        assert evidence.integrated_gradients is not None
        frequency = evidence.integrated_gradients.frequency
        expected = frequency if method == "frequency" else evidence.output_contrast
        np.testing.assert_array_equal(score(evidence, method).values, expected)

    def test_the_contrast_is_the_label_minus_the_mean_of_the_others(
        self, evidence: Evidence
    ) -> None:
        assert evidence.attribution is not None
        mean = evidence.attribution.mean
        got = score(evidence, "attribution_contrast").values
        for label in range(3):
            others = [mean[z] for z in range(3) if z != label]
            expected = mean[label] - sum(others) / 2
            np.testing.assert_allclose(got[label], expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("method", ["attribution_contrast", "frequency"])
    def test_the_planted_neuron_is_the_strongest(self, evidence: Evidence, method: str) -> None:
        strength = score(evidence, method).strength()
        assert np.unravel_index(strength[1].argmax(), (4, 30)) == PLANTED

    def test_a_neuron_that_all_labels_need_has_no_contrast(self, evidence: Evidence) -> None:
        assert score(evidence, "attribution").strength()[:, 0, 5].min() == 50
        assert np.abs(score(evidence, "attribution_contrast").values[:, 0, 5]).max() < 1e-12

    def test_what_harms_the_label_is_not_strong(self, evidence: Evidence) -> None:
        assert evidence.attribution is not None
        mean = -np.abs(evidence.attribution.mean)
        harmful = replace(evidence, attribution=replace(evidence.attribution, mean=mean))
        assert (score(harmful, "attribution").strength() <= 0).all()
        assert (score(evidence, "logit_contrast").strength() > 0).all(), "either way is strong"

    @pytest.mark.parametrize(
        "method",
        [
            "attribution",
            "attribution_contrast",
            "relevance",
            "relevance_contrast",
            "integrated_gradients",
            "frequency",
            "logit_contrast",
        ],
    )
    def test_a_unit_that_never_varies_is_never_chosen(
        self, evidence: Evidence, method: str
    ) -> None:
        moments = replace(
            evidence.moments, mean=evidence.moments.mean.copy(), m2=evidence.moments.m2.copy()
        )
        moments.mean[:, 0, 5], moments.m2[:, 0, 5] = 3.0, 0.0
        # varies between labels only
        moments.mean[:, 0, 6], moments.m2[:, 0, 6] = [1.0, 1.0, 2.0], 0.0
        got = score(replace(evidence, moments=moments), method)
        np.testing.assert_array_equal(got.values[:, 0, 5], 0)
        assert (got.values[:, 0, 6] != 0).all()

    def test_integrated_gradients_that_were_not_counted(self, evidence: Evidence) -> None:
        assert evidence.integrated_gradients is not None
        bare = replace(evidence.integrated_gradients, frequency=None)
        message = (
            r"'frequency' needs how often .* not counted: .*gl.attribute\(..., top_share=0.05\)"
        )
        with pytest.raises(GrammarLensError, match=message):
            score(replace(evidence, integrated_gradients=bare), "frequency")


# The contrast of outgoing weights ------------------------------------------------------------


class TestFrequencyDepends:
    def test_it_is_scipys_test_of_every_table(self, evidence: Evidence) -> None:
        integrated = evidence.integrated_gradients
        assert integrated is not None
        assert integrated.frequency is not None
        kept = np.round(integrated.frequency * integrated.count[:, None, None])
        counted = replace(integrated, frequency=kept / integrated.count[:, None, None])
        p = frequency_depends(counted)
        for layer, unit in [(2, 17), (0, 0), (3, 29)]:
            times = kept[:, layer, unit]
            table = np.stack([times, integrated.count - times])
            expected = stats.chi2_contingency(table, correction=False)[1]
            assert p[layer, unit] == pytest.approx(expected, rel=1e-6, abs=1e-300)
        assert p[2, 17] < 1e-100

    def test_chance_alone_gives_even_p(self, evidence: Evidence) -> None:
        integrated = evidence.integrated_gradients
        assert integrated is not None
        count = integrated.count[:, None, None]
        drawn = np.random.default_rng(0).binomial(count.astype(int), 0.2, (3, 40, 50)) / count
        p = frequency_depends(replace(integrated, mean=drawn, frequency=drawn))
        assert stats.kstest(p.ravel(), "uniform").pvalue > 0.01

    def test_never_or_always_kept(self, evidence: Evidence) -> None:
        integrated = evidence.integrated_gradients
        assert integrated is not None
        for share in (0.0, 1.0):
            same = replace(integrated, frequency=np.full((3, 4, 30), share))
            np.testing.assert_array_equal(frequency_depends(same), 1)

    def test_nothing_was_counted(self, evidence: Evidence) -> None:
        assert evidence.integrated_gradients is not None
        with pytest.raises(GrammarLensError, match="was not counted"):
            frequency_depends(replace(evidence.integrated_gradients, frequency=None))


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def made(kind: str, shaken: Callable[[nn.Module], None]) -> nn.Module:
    """A tiny random Hugging Face model."""
    name, options = CONFIGS[kind]
    config = getattr(transformers, name)(**options)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    shaken(hf)
    return hf


def counts_of(vocabulary: int, seed: int = 0) -> np.ndarray:
    """Number of words of three labels that begin with each token; most tokens begin none."""
    rng = np.random.default_rng(seed)
    return rng.poisson([0.3, 0.1, 0.05], (vocabulary, 3)).astype(float)


def inputs_of(modules: list[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    """Inputs of some modules during a pass."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module] = inputs[0].detach().double()

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return [seen[module] for module in modules]


def mean_difference(logits: Tensor, counts: np.ndarray) -> np.ndarray:
    """Mean logit of each label's words minus that of all other words, word by word."""
    found = []
    for label in range(counts.shape[1]):
        mine, rest = counts[:, label], np.delete(counts, label, axis=1).sum(1)
        found.append(np.average(logits, weights=mine) - np.average(logits, weights=rest))
    return np.array(found)


class TestOutputContrast:
    def test_it_is_what_raising_the_neuron_does(
        self, kind: str, made: Any, tiny_tokenizer: Any
    ) -> None:
        """At the last layer, with the scale of the final norm held: checked in every architecture."""
        model = load_model(made, tokenizer=tiny_tokenizer)
        counts = counts_of(400)
        got = output_contrast(model, counts)
        assert got.shape == (3, 2, 48)
        norm, head = (
            made.get_submodule(FINAL_NORM.get(kind, "model.norm")),
            made.get_output_embeddings(),
        )
        before, head_in = inputs_of([norm, head], lambda: made(IDS[:1]))
        unembed = head.weight.detach().double()
        centre = kind in CENTRED

        def scale(hidden: Tensor) -> Tensor:
            return (
                (hidden - hidden.mean(-1, keepdim=True) if centre else hidden)
                .square()
                .mean(-1)
                .sqrt()[0, -1]
            )

        weight, bias = affine(norm)
        at = scale(before)
        normed = (before - before.mean(-1, keepdim=True) if centre else before)[0, -1] / at
        torch.testing.assert_close(normed * weight + bias, head_in[0, -1], rtol=1e-3, atol=1e-3)
        for neuron in (0, 7, 47):
            hook = raising(model, 1, neuron, 1.0)
            after, _ = inputs_of([norm, head], lambda hook=hook: run_hooked(model, hook))
            step = (after - before)[0, -1]
            if centre:
                step = step - step.mean()
            if kind == "gemma2":
                step = held_scale_of_the_mlp(made, model, neuron)
            change = unembed @ (weight * step / at)
            want = mean_difference(change, counts) * float(at)
            # float32 activations of up to 100, whose difference is taken
            np.testing.assert_allclose(got[:, 1, neuron], want, rtol=2e-3, atol=2e-4)

    def test_the_plain_formula(self, kind: str, made: Any, tiny_tokenizer: Any) -> None:
        """Every layer, in float64 and with the whole vocabulary at once."""
        model = load_model(made, tokenizer=tiny_tokenizer)
        counts = counts_of(400, 1)
        unembed = made.get_output_embeddings().weight.detach().double().numpy()
        weight = affine(made.get_submodule(FINAL_NORM.get(kind, "model.norm")))[0].numpy()
        for layer in range(2):
            w_out = weights.output_weight(model, layer).double().numpy()
            if kind == "gemma2":
                post = made.get_submodule(f"model.layers.{layer}.post_feedforward_layernorm")
                w_out = w_out * affine(post)[0].numpy()
            if kind in CENTRED:
                w_out = w_out - w_out.mean(1, keepdims=True)
            logits = (w_out * weight) @ unembed.T
            want = np.array([mean_difference(row, counts) for row in logits]).T
            got = output_contrast(model, counts)[:, layer]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)

    def test_some_neurons_alone(self, kind: str, made: Any, tiny_tokenizer: Any) -> None:
        """In any order, with every token's logit: the plain formula, centred over the vocabulary."""
        model = load_model(made, tokenizer=tiny_tokenizer)
        counts = counts_of(400, 1)
        some = np.array([(1, 7), (0, 0), (1, 47), (0, 31)])
        whole = output_contrast(model, counts)[:, some[:, 0], some[:, 1]]
        got = weights.neuron_contrast(model, counts, some)
        np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-6)

        n = len(tiny_tokenizer)
        unembed = made.get_output_embeddings().weight.detach().double().numpy()[:n]
        weight = affine(made.get_submodule(FINAL_NORM.get(kind, "model.norm")))[0].numpy()
        ids, logits = weights.token_effects(model, some, 5)
        for row, (layer, neuron) in enumerate(some.tolist()):
            written = weights.output_weight(model, layer)[neuron].double().numpy()
            if kind == "gemma2":
                post = made.get_submodule(f"model.layers.{layer}.post_feedforward_layernorm")
                written = written * affine(post)[0].numpy()
            if kind in CENTRED:
                written = written - written.mean()
            want = unembed @ (written * weight)
            want -= want.mean()
            order = np.argsort(want, kind="stable")
            np.testing.assert_array_equal(ids[row], [*order[::-1][:5], *order[:5]])
            np.testing.assert_allclose(logits[row], want[ids[row]], rtol=1e-4, atol=1e-5)

    def test_tokens_that_move_alike_stand_in_the_order_of_their_ids(
        self, make_tiny: Callable[[], Model]
    ) -> None:
        model = make_tiny()
        weights.output_weight(model, 1)[3] = 0
        ids, logits = weights.token_effects(model, np.array([(1, 3)]), 3)
        assert ids.tolist() == [[0, 1, 2, 0, 1, 2]]
        assert (logits == 0).all()

    def test_a_constant_added_to_all_logits_changes_no_tokens_effect(
        self, make_tiny: Callable[[], Model]
    ) -> None:
        model, some = make_tiny(), np.array([(0, 3), (1, 3)])
        ids, logits = weights.token_effects(model, some, 5)
        weights.unembedding(model).add_(torch.linspace(-3, 3, 32))
        after = weights.token_effects(model, some, 5)
        np.testing.assert_array_equal(after[0], ids)
        np.testing.assert_allclose(after[1], logits, atol=1e-4)

    def test_a_constant_added_to_all_logits_changes_nothing(
        self, make_tiny: Callable[[], Model]
    ) -> None:
        model, counts = make_tiny(), counts_of(300)
        before = output_contrast(model, counts)
        weights.unembedding(model).add_(torch.linspace(-3, 3, 32))
        np.testing.assert_allclose(output_contrast(model, counts), before, atol=1e-4)
        weights.unembedding(model)[counts.sum(1).argmax(), 0] += 100
        assert np.abs(output_contrast(model, counts) - before).max() > 1e-2, "a token's own does"

    def test_a_neuron_that_writes_a_labels_words_is_found(
        self, make_tiny: Callable[[], Model], tiny_tokenizer: Any
    ) -> None:
        """And its twin, whose outgoing weight is 0, has nothing."""
        model = make_tiny()
        counts = counts_of(len(tiny_tokenizer), 2)
        head, w_out = weights.unembedding(model), weights.output_weight(model, 1)
        verbs = (
            counts[:, 1] / counts[:, 1].sum() - counts[:, [0, 2]].sum(1) / counts[:, [0, 2]].sum()
        )
        w_out[17] = torch.from_numpy(verbs).float() @ head * 10
        w_out[18] = 0
        got = output_contrast(model, counts)
        assert np.unravel_index(got[1].argmax(), (2, 48)) == (1, 17)
        assert (got[:, 1, 18] == 0).all()

    def test_a_lexicons_counts_serve_and_larger_vocabularies_are_padding(self, tiny: Model) -> None:
        rng = np.random.default_rng(0)
        token, classes = rng.integers(0, 200, 500), rng.integers(0, 3, 500)
        lexicon = build_lexicon(token, classes, LABELS, 200)
        assert lexicon.count.sum() == 500
        for v, t in ((int(token[0]), int(classes[0])), (3, 1)):
            assert lexicon.count[v, t] == ((token == v) & (classes == t)).sum()
        padded = np.concatenate([lexicon.count, np.zeros((200, 3))])
        vocabulary = about.vocabulary_size(tiny)
        np.testing.assert_array_equal(
            output_contrast(tiny, lexicon.count), output_contrast(tiny, padded[:vocabulary])
        )

    def test_half_precision(self, make_tiny: Callable[[], Model]) -> None:
        """Weights rounded to bfloat16 give the contrast of the rounded weights."""
        model, counts = make_tiny(), counts_of(300)
        model.original_model.to(torch.bfloat16)
        half = output_contrast(model, counts)
        model.original_model.to(torch.float32)
        np.testing.assert_allclose(half, output_contrast(model, counts), rtol=1e-5, atol=1e-6)

    def test_counts_of_another_vocabulary(self, tiny: Model) -> None:
        size = about.vocabulary_size(tiny)
        message = f"the counts are of {size + 1} tokens and .* predicts {size}: they were made with"
        with pytest.raises(GrammarLensError, match=message):
            output_contrast(tiny, counts_of(size + 1))

    def test_a_label_without_words(self, tiny: Model) -> None:
        counts = counts_of(300)
        total = int(counts[:, [0, 2]].sum())
        counts[:, 1] = 0
        with pytest.raises(GrammarLensError, match=rf"number 1.*has 0.*{total}"):
            output_contrast(tiny, counts)
        counts[:, 0] = 0
        with pytest.raises(GrammarLensError, match="label number 0 has 0 of"):
            output_contrast(tiny, counts)


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and offset of a norm, as its architecture defines them."""
    norm = getattr(norm, "original_component", norm)
    weight = norm.weight.detach().double()
    if "Gemma" in type(norm).__name__:
        weight = weight + 1
    bias = getattr(norm, "bias", None)
    return weight, torch.zeros_like(weight) if bias is None else bias.detach().double()


def raising(model: Model, layer: int, neuron: int, by: float) -> list:
    """Hooks that raise a neuron at every position."""

    def hook(activation: Tensor, **_: Any) -> Tensor:
        activation = activation.clone()
        activation[..., neuron] += by
        return activation

    return [(about.hook_name(model, "neuron", layer), hook)]


def run_hooked(model: Model, hooks: list) -> None:
    with forward.hooked(model, hooks):
        model.original_model(IDS[:1])


def held_scale_of_the_mlp(hf: nn.Module, model: Model, neuron: int) -> Tensor:
    """Gemma 2 norms the MLP's output again: the neuron's share of it at scale 1."""
    post = hf.get_submodule("model.layers.1.post_feedforward_layernorm")
    return affine(post)[0] * weights.output_weight(model, 1)[neuron].double()
