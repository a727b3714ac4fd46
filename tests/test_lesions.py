"""A lesion changes what it says and nothing else, and leaves nothing behind."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grammar_lens.activations import ActivationError
from grammar_lens.alignment import token_batches
from grammar_lens.lesions import LesionError, lesion, run_battery
from grammar_lens.lexicon import DeviceLexicon, split_losses
from grammar_lens.model import (
    Model,
    ModelError,
    device_of,
    forward_body,
    hook_name,
    hooked,
    load_model,
    next_token_logits,
)
from grammar_lens.outcomes import Condition, Manner, Outcomes
from grammar_lens.selection import Neurons
from grammar_lens.study import Corpus, fit_lexicon, prepare
from grammar_lens.treebank import Treebank

BOS, PAD = 0, 2
IDS = torch.randint(3, 60, (3, 10), generator=torch.Generator().manual_seed(3))
IDS[:, 0] = BOS
IDS[1, 7:] = PAD
DOSES = [0.5, 1.0, -1.0, 2.0]


def units(
    *addresses: tuple[int, int], site: str = "neuron", mean: Sequence[float] | None = None
) -> Neurons:
    rows = np.array(addresses, np.int64).reshape(-1, 2)
    means = np.linspace(-0.5, 0.7, len(rows)) if mean is None else np.array(mean)
    return Neurons("some", site, rows[:, 0], rows[:, 1], np.ones(len(rows)), means)


SOME = units((0, 3), (0, 40), (1, 7), (1, 0))


def logits(model: Model, ids: Tensor = IDS) -> Tensor:
    return next_token_logits(model, ids, torch.arange(ids.numel()))


def n_hooks(model: Model) -> int:
    """Hooks of every kind anywhere in the model."""
    ours = sum(len(point.fwd_hooks) for point in model.hook_dict.values())
    modules = list(model.original_model.modules())
    return ours + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def activations(model: Model, ids: Tensor, site: str = "neuron") -> list[Tensor]:
    """What the hooks at `site` see, layer by layer, after any lesion that is open."""
    seen: list[Tensor] = []
    hooks = [
        (hook_name(model, site, layer), lambda activation, **_: seen.append(activation.clone()))
        for layer in range(model.cfg.n_layers)
    ]
    with hooked(model, hooks):
        forward_body(model, ids)
    return seen


@contextmanager
def cut_by_hand(
    hf: nn.Module, ids: Tensor, neurons: Neurons, value: str, dose: float
) -> Iterator[None]:
    """The lesion as PyTorch hooks before down_proj of the bare Hugging Face model."""
    spare = (ids == BOS) | (ids == PAD)
    handles = []
    for layer, block in enumerate(hf.model.layers):
        rows = np.flatnonzero(neurons.layer == layer)

        def hook(_module: nn.Module, inputs: tuple[Tensor], rows: np.ndarray = rows) -> Tensor:
            out = inputs[0].clone()
            for row in rows:
                unit = int(neurons.index[row])
                target = float(neurons.mean[row]) if value == "mean" else 0.0
                old = out[..., unit]
                out[..., unit] = torch.where(spare, old, (1 - dose) * old + dose * target)
            return out

        handles.append(block.mlp.down_proj.register_forward_pre_hook(hook))
    yield
    for handle in handles:
        handle.remove()


# Lesion laws --------------------------------------------------------------------------------


@pytest.mark.parametrize("dose", DOSES)
@pytest.mark.parametrize("value", ["zero", "mean"])
def test_a_lesion_is_what_it_says(tiny: Model, tiny_hf: Callable[[], Any], value: str, dose: float):
    hf = tiny_hf()
    with torch.no_grad():
        intact = hf(IDS).logits.reshape(IDS.numel(), -1)
        with cut_by_hand(hf, IDS, SOME, value, dose):
            want = hf(IDS).logits.reshape(IDS.numel(), -1)
    with lesion(tiny, SOME, value=value, dose=dose) as same:
        assert same is tiny
        got = logits(tiny)
    assert (want - intact).abs().max() > 0.1, "the lesion matters"
    # the same arithmetic but for the head, which multiplies in another shape
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_nothing_remains(tiny: Model):
    before, hooks = logits(tiny), n_hooks(tiny)
    with lesion(tiny, SOME):
        assert n_hooks(tiny) > hooks
        assert not torch.equal(logits(tiny), before)
    assert n_hooks(tiny) == hooks
    assert torch.equal(logits(tiny), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_after_an_exception(tiny: Model, error: type[BaseException]):
    before, hooks = logits(tiny), n_hooks(tiny)

    def interrupted() -> None:
        with lesion(tiny, SOME, value="zero"):
            logits(tiny)
            raise error

    with pytest.raises(error):
        interrupted()
    assert n_hooks(tiny) == hooks
    assert torch.equal(logits(tiny), before)


def test_nothing_remains_after_an_exception_within_the_forward_pass(tiny: Model):
    before, hooks = logits(tiny), n_hooks(tiny)
    with pytest.raises(IndexError), lesion(tiny, SOME, value="zero"):
        tiny(torch.tensor([[0, 10**6]]))
    assert n_hooks(tiny) == hooks
    assert torch.equal(logits(tiny), before)


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_an_empty_lesion_and_dose_0_change_nothing(tiny: Model, value: str):
    before, hooks = logits(tiny), n_hooks(tiny)
    for neurons, dose in ((units(), 1.0), (SOME, 0.0), (SOME.top(0), 2.0)):
        with lesion(tiny, neurons, value=value, dose=dose):
            assert n_hooks(tiny) == hooks
            assert torch.equal(logits(tiny), before)


@pytest.mark.parametrize("dose", DOSES)
def test_a_neuron_without_outgoing_weight_changes_nothing(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, dose: float
):
    hf = tiny_hf()
    with torch.no_grad():
        for layer, unit in SOME:
            hf.model.layers[layer].mlp.down_proj.weight[:, unit] = 0
    model = load_model(hf, tokenizer=tiny_tokenizer)
    before = logits(model)
    for value in ("zero", "mean"):
        with lesion(model, SOME, value=value, dose=dose):
            assert torch.equal(logits(model), before)
    with lesion(model, units((0, 4)), value="zero", dose=dose):
        assert not torch.equal(logits(model), before), "and its twin with weight does"


def test_bos_and_padding_are_not_touched(tiny: Model):
    intact = activations(tiny, IDS)
    with lesion(tiny, SOME, value="mean", dose=2.0):
        cut = activations(tiny, IDS)
    for layer in range(2):
        assert torch.equal(cut[layer][:, 0], intact[layer][:, 0]), "nothing reaches BOS"
    special = (IDS == BOS) | (IDS == PAD)
    assert torch.equal(cut[0][special], intact[0][special])
    others = np.setdiff1d(np.arange(48), SOME.index[SOME.layer == 0])
    assert torch.equal(cut[0][..., others], intact[0][..., others]), "nor the other neurons"
    assert (cut[0][~special][:, [3, 40]] != intact[0][~special][:, [3, 40]]).all()


def test_dose_2_overshoots_and_dose_minus_1_amplifies(tiny: Model):
    one = units((0, 3), mean=[0.25])
    (intact, *_) = activations(tiny, IDS)
    inner = ~((IDS == BOS) | (IDS == PAD))
    for dose in DOSES:
        with lesion(tiny, one, dose=dose):
            (cut, *_) = activations(tiny, IDS)
        gap, old_gap = cut[inner][:, 3] - 0.25, intact[inner][:, 3] - 0.25
        torch.testing.assert_close(gap, (1 - dose) * old_gap, atol=1e-6, rtol=1e-5)


def test_lesions_nest(tiny: Model):
    parts = [SOME.in_layer(0), SOME.in_layer(1)]
    with lesion(tiny, SOME, value="zero"):
        together = logits(tiny)
    with lesion(tiny, parts[0], value="zero"):
        outer = logits(tiny)
        with lesion(tiny, parts[1], value="zero"):
            torch.testing.assert_close(logits(tiny), together, atol=1e-6, rtol=1e-6)
        assert torch.equal(logits(tiny), outer)
    # of two lesions of the same neurons the inner one has the last word
    with lesion(tiny, SOME, value="mean"):
        wanted = logits(tiny)
    with lesion(tiny, SOME, value="zero"), lesion(tiny, SOME, value="mean"):
        assert torch.equal(logits(tiny), wanted)


def test_lesions_left_in_another_order_than_they_were_entered(tiny: Model):
    before = logits(tiny)
    with lesion(tiny, SOME.in_layer(1), value="zero"):
        second = logits(tiny)
    first = ExitStack()
    first.enter_context(lesion(tiny, SOME.in_layer(0), value="zero"))
    with ExitStack() as stack:
        stack.enter_context(lesion(tiny, SOME.in_layer(1), value="zero"))
        first.close()
        assert torch.equal(logits(tiny), second)
    assert torch.equal(logits(tiny), before)


def test_what_others_have_read_is_not_changed(tiny: Model):
    """The residual stream between two layers is one tensor: the lesion works on a copy."""
    (want, _) = activations(tiny, IDS, "resid_post")
    kept: list[Tensor] = []
    hooks = [(hook_name(tiny, "resid_post", 0), lambda activation, **_: kept.append(activation))]
    with hooked(tiny, hooks), lesion(tiny, units((1, 4), site="resid_pre", mean=[9.0])):
        forward_body(tiny, IDS)
    assert torch.equal(kept[0], want)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
def test_residual_sites(tiny: Model, tiny_hf: Callable[[], Any], site: str):
    """Against PyTorch hooks that put the units' values in place."""
    hf, chosen = tiny_hf(), units((1, 4), (1, 30), site=site, mean=[0.3, -2.0])
    block = hf.model.layers[1]
    module = {"attn_out": block.self_attn, "mlp_out": block.mlp}.get(site, block)
    special = (IDS == BOS) | (IDS == PAD)

    def put(hidden: Tensor) -> Tensor:
        out = hidden.clone()
        for unit, mean in ((4, 0.3), (30, -2.0)):
            out[..., unit] = torch.where(special, hidden[..., unit], torch.tensor(mean))
        return out

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return (put(output[0]), *output[1:]) if isinstance(output, tuple) else put(output)

    if site == "resid_pre":
        module.register_forward_pre_hook(lambda _m, inputs: (put(inputs[0]), *inputs[1:]))
    else:
        module.register_forward_hook(after)
    with torch.no_grad():
        want = hf(IDS).logits.reshape(IDS.numel(), -1)
    intact = logits(tiny)
    with lesion(tiny, chosen):
        got = logits(tiny)
    assert (got - intact).abs().max() > 0.1
    torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)


def test_half_precision_keeps_its_dtype(tiny_hf: Callable[[], Any], tiny_tokenizer: Any):
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer, dtype="bfloat16")
    for dose in (0.5, 1.0):
        with lesion(model, SOME, dose=dose):
            cut = activations(model, IDS)
        assert {a.dtype for a in cut} == {torch.bfloat16}
        assert logits(model).dtype == torch.bfloat16


# Writing ------------------------------------------------------------------------------------


def strong(model: Model) -> Neurons:
    """A tenth of the embedded model's neurons, enough to change what it writes."""
    rng = np.random.default_rng(0)
    rows = [(layer, int(i)) for layer in range(8) for i in rng.permutation(896)[:90]]
    return replace(units(*rows), mean=np.zeros(len(rows)))


@pytest.mark.parametrize("dose", [1.0, 3.0])
def test_generation_with_a_cache_equals_no_cache(reference: Model, dose: float):
    ids = reference.tokenizer("The old man went to the", return_tensors="pt").input_ids
    options = {"max_new_tokens": 12, "do_sample": False, "stop_at_eos": False, "verbose": False}
    intact = reference.generate(ids, return_type="tokens", **options)
    with lesion(reference, strong(reference), value="zero", dose=dose):
        written = reference.generate(ids, return_type="tokens", **options)
        uncached = reference.generate(ids, return_type="tokens", use_past_kv_cache=False, **options)
        row = ids
        for _ in range(12):
            last = next_token_logits(reference, row, torch.tensor([row.shape[1] - 1]))
            row = torch.cat([row, last.argmax(1)[None]], 1)
    assert written[0].tolist() == row[0].tolist()
    assert uncached[0].tolist() == row[0].tolist()
    assert written[0].tolist() != intact[0].tolist(), "the lesion matters"


def test_generation_from_text(reference: Model):
    with lesion(reference, strong(reference), value="zero"):
        text = reference.generate("The old man", max_new_tokens=4, do_sample=False, verbose=False)
    assert text.startswith("The old man")


# Bad requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("neurons", "value", "error", "message"),
    [
        (SOME, "nothing", LesionError, "lesion value is 'nothing', expected one of zero, mean"),
        (units(), "nothing", LesionError, "lesion value is 'nothing'"),
        (replace(SOME, mean=None), "mean", LesionError, "mean activation of 'some' is not known"),
        (units((0, 48)), "zero", LesionError, "neuron 0.48 does not exist: .* units 0 to 47"),
        (units((0, 1), (1, -1)), "zero", LesionError, "neuron 1.-1 does not exist"),
        (units((0, 32), site="resid_pre"), "zero", LesionError, "neuron 0.32 does not exist"),
        (units((2, 0)), "zero", ModelError, "layer 2 does not exist"),
        (units((0, 1), site="brain"), "zero", ModelError, "unknown site 'brain'"),
        (
            units((0, 1), site="resid_mid"),
            "zero",
            LesionError,
            "'resid_mid' would reach the MLP bu",
        ),
    ],
)
def test_lesions_that_cannot_be_made(
    tiny: Model, neurons: Neurons, value: str, error: type[Exception], message: str
):
    hooks = n_hooks(tiny)
    with pytest.raises(error, match=message), lesion(tiny, neurons, value=value):
        pytest.fail("the lesion opened")
    assert n_hooks(tiny) == hooks


def test_an_unknown_value_is_an_error_at_dose_0_too(tiny: Model):
    with (
        pytest.raises(LesionError, match="'nothing'"),
        lesion(tiny, SOME, value="nothing", dose=0.0),
    ):
        pytest.fail("the lesion opened")


# The battery --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank)


def conditions() -> list[Condition]:
    rng = np.random.default_rng(1)

    def draw(n: int, layers: Sequence[int]) -> Neurons:
        rows = [(int(rng.choice(layers)), int(i)) for i in rng.permutation(48)[:n]]
        return units(*rows, mean=rng.normal(size=n).tolist())

    return [
        Condition("NOUN", 0, draw(6, [0, 1])),
        Condition("VERB", 0, draw(3, [0])),
        Condition("NOUN", 1, draw(6, [1])),
        Condition("VERB", 1, units()),
        Condition("ADJ", 0, draw(9, [0, 1])),
    ]


def battery(
    model: Model,
    corpus: Corpus,
    chosen: Sequence[Condition],
    *,
    width: int = 200,
    value: str = "mean",
    dose: float = 1.0,
    **options: Any,
) -> Outcomes:
    manner = Manner(value, dose)
    chosen = [replace(c, manner=manner) for c in chosen]
    return run_battery(
        model,
        corpus.alignment,
        corpus.batches(width),
        corpus.read("next"),
        fit_lexicon(model, corpus),
        chosen,
        **options,
    )


ARRAYS = ("nll", "tag_loss", "lexical_loss", "tag_probability")


def assert_same_outcomes(got: Outcomes, want: Outcomes, tolerance: float = 1e-5) -> None:
    np.testing.assert_array_equal(got.word, want.word)
    np.testing.assert_array_equal(got.label, want.label)
    np.testing.assert_array_equal(got.sentence, want.sentence)
    np.testing.assert_array_equal(got.top_label, want.top_label)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=0, atol=tolerance)
    assert got.seen_mass == pytest.approx(want.seen_mass, abs=tolerance)


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("dose", [1.0, 0.5, -1.0])
def test_stacked_rows_equal_lesions_one_by_one(
    tiny: Model, corpus: Corpus, value: str, dose: float
):
    """One sentence and one lesion at a time, through the context manager."""
    chosen = conditions()
    got = battery(tiny, corpus, chosen, value=value, dose=dose)
    assert got.conditions == tuple(replace(c, manner=Manner(value, dose)) for c in chosen)
    lexicon = fit_lexicon(tiny, corpus)
    tables = DeviceLexicon.of(lexicon, 400, device_of(tiny))
    codes, found = corpus.read("next"), corpus.alignment
    assert got.word.tolist() == np.flatnonzero(codes >= 0).tolist()
    everything = [Condition("", 0, units()), *chosen]
    for row, condition in enumerate(everything):
        with lesion(tiny, condition.neurons, value=value, dose=dose):
            for sentence, ids in enumerate(found.token_ids):
                words = np.flatnonzero((found.sentence == sentence) & (codes >= 0))
                times = torch.from_numpy(found.time("next")[words])
                out = next_token_logits(tiny, torch.from_numpy(ids)[None], times)
                losses = split_losses(
                    out,
                    torch.from_numpy(found.first_token[words]),
                    torch.from_numpy(codes[words]),
                    tables,
                )
                place = np.searchsorted(got.word, words)
                for name in ("nll", "tag_loss", "lexical_loss"):
                    # float32 logits near 5, from products of another shape
                    np.testing.assert_allclose(
                        getattr(got, name)[row, place], getattr(losses, name).numpy(), atol=1e-5
                    )
                chances = losses.tag_probability.numpy()
                np.testing.assert_array_equal(got.top_label[row, place], chances.argmax(1))
                if row in got.probed:
                    probed = got.probed.index(row)
                    np.testing.assert_allclose(
                        got.tag_probability[probed, place], chances, atol=1e-5
                    )
    assert got.probed == (0, 1, 2, 5)
    change = np.abs(got.nll[1:] - got.nll[:1]).max(1)
    assert (change[[0, 1, 2, 4]] > 0.01).all(), "lesions matter"


def test_conditions_without_neurons_change_nothing_at_all(tiny: Model, corpus: Corpus):
    outcomes = battery(tiny, corpus, conditions())
    empty = battery(tiny, corpus, conditions(), dose=0.0)
    for result, rows in ((outcomes, [4]), (empty, [1, 2, 3, 4, 5])):
        for name in ("nll", "tag_loss", "lexical_loss", "top_label"):
            values = getattr(result, name)
            for row in rows:
                np.testing.assert_array_equal(values[row], values[0])
    np.testing.assert_array_equal(empty.tag_probability[1:], empty.tag_probability[[0, 0, 0]])


def test_neurons_without_outgoing_weight_cost_nothing(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, bank: Treebank
):
    hf = tiny_hf()
    chosen = conditions()
    with torch.no_grad():
        for layer, unit in chosen[0].neurons:
            hf.model.layers[layer].mlp.down_proj.weight[:, unit] = 0
    model = load_model(hf, tokenizer=tiny_tokenizer)
    outcomes = battery(model, prepare(model, bank), chosen[:2], dose=2.0)
    np.testing.assert_allclose(outcomes.nll[1], outcomes.nll[0], atol=1e-6)
    assert np.abs(outcomes.nll[2] - outcomes.nll[0]).max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_change_of_nll_is_the_sum_of_its_parts(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, bank: Treebank, dtype: torch.dtype
):
    """Exact whatever the model's precision, because the split itself is made in float64."""
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer, dtype=dtype)
    corpus = prepare(model, bank)
    outcomes = battery(model, corpus, conditions())
    assert outcomes.identity_error() < 1e-10
    gold = corpus.alignment.first_token[outcomes.word]
    share = np.log(fit_lexicon(model, corpus).probability[gold, outcomes.label])
    whole = outcomes.tag_loss + outcomes.lexical_loss + share
    np.testing.assert_allclose(outcomes.nll, whole, atol=1e-10, rtol=0)
    change = outcomes.nll - outcomes.nll[:1]
    parts = outcomes.tag_loss + outcomes.lexical_loss
    np.testing.assert_allclose(change, parts - parts[:1], atol=1e-10, rtol=0)
    assert np.abs(change[1]).max() > 0.01


@pytest.mark.parametrize(("width", "budget"), [(200, 4096), (200, 1), (64, 300), (1, 40)])
def test_budgets_do_not_change_the_outcomes(tiny: Model, corpus: Corpus, width: int, budget: int):
    done: list[int] = []
    want = battery(tiny, corpus, conditions())
    got = battery(
        tiny, corpus, conditions(), width=width, token_budget=budget, progress=done.append
    )
    assert_same_outcomes(got, want)
    assert sum(done) == corpus.alignment.n_tokens * (len(conditions()) + 1)


def test_the_order_of_conditions_does_not_matter(tiny: Model, corpus: Corpus):
    chosen = conditions()
    want = battery(tiny, corpus, chosen, token_budget=900)
    got = battery(tiny, corpus, chosen[::-1], token_budget=900)
    back = [0, *range(len(chosen), 0, -1)]
    probed = [got.probed.index(back[row]) for row in want.probed]
    restored = replace(
        got,
        **{name: getattr(got, name)[back] for name in (*ARRAYS[:3], "top_label")},
        tag_probability=got.tag_probability[probed],
    )
    assert_same_outcomes(restored, want)
    for condition in chosen:
        row = want.row(condition.label, condition.replicate)
        assert back[row] == got.row(condition.label, condition.replicate)


def test_without_conditions_the_intact_model_is_scored(tiny: Model, corpus: Corpus):
    outcomes = battery(tiny, corpus, [])
    assert outcomes.nll.shape == (1, len(outcomes.word))
    assert outcomes.identity_error() == 0.0
    assert 0 < outcomes.seen_mass < 1


def test_conditions_at_a_residual_site(tiny: Model, corpus: Corpus):
    """Units of the residual stream are cut there, not the neurons of the same number."""
    chosen = units((0, 4), (1, 30), site="resid_post", mean=[0.3, -2.0])
    outcomes = battery(tiny, corpus, [Condition("NOUN", 0, chosen)])
    found, codes = corpus.alignment, corpus.read("next")
    (batch,) = token_batches(found, 10_000)
    words, where = batch.locate(found, "next", codes >= 0)
    with lesion(tiny, chosen):
        out = next_token_logits(tiny, batch.token_ids, torch.from_numpy(where))
    gold = torch.from_numpy(found.first_token[words])
    nll = -out.double().log_softmax(1).gather(1, gold[:, None])[:, 0].numpy()
    place = np.searchsorted(outcomes.word, words)
    np.testing.assert_allclose(outcomes.nll[1, place], nll, atol=1e-5)


@contextmanager
def at_most(model: Model, tokens: int) -> Iterator[list[int]]:
    """The model runs out of memory on more tokens than these; yields how many it was given."""
    given: list[int] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].shape[0] * inputs[0].shape[1])
        if given[-1] > tokens:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    handle = model.original_model.model.layers[1].register_forward_pre_hook(hook)
    try:
        yield given
    finally:
        handle.remove()


@pytest.mark.parametrize("tokens", [400, 120, 30])
def test_out_of_memory_splits_conditions_then_sentences(tiny: Model, corpus: Corpus, tokens: int):
    done: list[int] = []
    want = battery(tiny, corpus, conditions())
    with at_most(tiny, tokens) as given:
        got = battery(tiny, corpus, conditions(), progress=done.append)
    assert max(given) > tokens
    assert sum(n > tokens for n in given) < 12, "it learns how much fits"
    assert_same_outcomes(got, want)
    assert sum(done) == corpus.alignment.n_tokens * (len(conditions()) + 1)


def test_a_single_sentence_that_does_not_fit(tiny: Model, corpus: Corpus):
    with (
        at_most(tiny, 3),
        pytest.raises(ActivationError, match=r"one sentence of \d+ tokens does not fit in memory"),
    ):
        battery(tiny, corpus, conditions())
    assert not any(point.fwd_hooks for point in tiny.hook_dict.values())


def test_other_errors_of_a_battery_pass_through(tiny: Model, corpus: Corpus):
    bad = [Condition("NOUN", 0, replace(SOME, mean=None))]
    with pytest.raises(LesionError, match="is not known: choose the neurons from scores"):
        battery(tiny, corpus, bad)

    def hook(_module: nn.Module, _inputs: Any) -> None:
        raise RuntimeError("something else")

    handle = tiny.original_model.model.layers[1].register_forward_pre_hook(hook)
    try:
        with pytest.raises(RuntimeError, match="something else"):
            battery(tiny, corpus, conditions())
    finally:
        handle.remove()


def test_batteries_skip_bos_as_lesions_do(tiny: Model, corpus: Corpus):
    """Cutting BOS would change every word: activations there are unlike all others."""
    assert corpus.alignment.has_bos
    ids = torch.from_numpy(corpus.alignment.token_ids[0])[None]
    intact = activations(tiny, ids)[1][0, 0, 5]
    seen: list[Tensor] = []

    def spy(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0][..., 5].clone())

    # within the bridge's own module, so that it sees what the lesion has left
    down = tiny.original_model.model.layers[1].mlp.down_proj.original_component
    handle = down.register_forward_pre_hook(spy)
    try:
        battery(tiny, corpus, [Condition("NOUN", 0, units((1, 5), mean=[9.0]))])
    finally:
        handle.remove()
    for values in seen:
        half = len(values) // 2
        torch.testing.assert_close(values[:, 0], intact.expand(len(values)), atol=1e-6, rtol=1e-5)
        assert (values[half:, 1:] == 9).all()
        assert (values[:half] != 9).all()
    assert seen
