"""A lesion changes what it says and nothing else, and leaves nothing behind."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from lesion_bench import n_hooks, units
from rounding import float32_error, model_error
from torch import Tensor, nn
from typed import present

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.context import lesion
from grammar_lens.lesions.directions import Directions, directions
from grammar_lens.lesions.donors import Donors, record_donors
from grammar_lens.lesions.edits import edits_of
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.lesions.prepared import donors
from grammar_lens.model.about import Model, hook_name
from grammar_lens.model.forward import final_hidden, hooked, next_token_logits
from grammar_lens.model.loading import load_model
from grammar_lens.neurons.neurons import Neurons

BOS, PAD = 0, 2
IDS = torch.randint(3, 60, (3, 10), generator=torch.Generator().manual_seed(3))
IDS[:, 0] = BOS
IDS[1, 7:] = PAD
DOSES = [0.5, 1.0, -1.0, 2.0]


SOME = units((0, 3), (0, 40), (1, 7), (1, 0))


def logits(model: Model, ids: Tensor = IDS) -> Tensor:
    return next_token_logits(model, ids, torch.arange(ids.numel()))


def activations(model: Model, ids: Tensor, site: str = "neuron") -> list[Tensor]:
    """Activations at `site`, layer by layer, after any lesion that is open."""
    seen: list[Tensor] = []
    hooks = [
        (hook_name(model, site, layer), lambda activation, **_: seen.append(activation.clone()))
        for layer in range(model.cfg.n_layers)
    ]
    with hooked(model, hooks):
        final_hidden(model, ids)
    return seen


@contextmanager
def cut_by_hand(hf: Any, ids: Tensor, neurons: Neurons, value: str, dose: float) -> Iterator[None]:
    """The lesion as PyTorch hooks before down_proj of the bare Hugging Face model."""
    spare = (ids == BOS) | (ids == PAD)
    handles = []
    for layer, block in enumerate(hf.model.layers):
        rows = np.flatnonzero(neurons.layer == layer)

        def hook(_module: nn.Module, inputs: tuple[Tensor], rows: np.ndarray = rows) -> Tensor:
            out = inputs[0].clone()
            for row in rows:
                unit = int(neurons.index[row])
                target = float(present(neurons.mean)[row]) if value == "mean" else 0.0
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
    torch.testing.assert_close(got, want, atol=model_error(tiny, want), rtol=0)


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
        final_hidden(tiny, IDS)
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
    torch.testing.assert_close(got, want, atol=model_error(tiny, want), rtol=0)


def test_half_precision_keeps_its_dtype(tiny_hf: Callable[[], Any], tiny_tokenizer: Any):
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer, dtype="bfloat16")
    for dose in (0.5, 1.0):
        with lesion(model, SOME, dose=dose):
            cut = activations(model, IDS)
        assert {a.dtype for a in cut} == {torch.bfloat16}
        assert logits(model).dtype == torch.bfloat16


# Directions ---------------------------------------------------------------------------------


def plane(site: str = "resid_post", layer: int = 0) -> Directions:
    rng = np.random.default_rng(9)
    return directions(
        "a plane", rng.normal(size=(2, 32)), layer=layer, site=site, mean=rng.normal(size=32)
    )


@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("dose", [0.5, 1.0, -1.0])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out"])
def test_directions_are_cut_by_a_projector(tiny: Model, site: str, value: str, dose: float):
    """x + dose P (v - x) with the projector P onto the plane, at every token but BOS and padding."""
    cut = plane(site)
    assert cut.mean is not None
    projector = torch.from_numpy(cut.basis.T @ cut.basis).float()
    towards = torch.from_numpy(cut.mean).float() * (value == "mean")
    special = ((IDS == BOS) | (IDS == PAD))[..., None]
    intact = activations(tiny, IDS, site)[0]
    want = torch.where(special, intact, intact + dose * (towards - intact) @ projector)
    with lesion(tiny, cut, value=value, dose=dose):
        got = activations(tiny, IDS, site)
        last = logits(tiny)
    # two products with as many terms as the stream is wide
    within = float32_error(float(intact.abs().max()), 2 * 32)
    torch.testing.assert_close(got[0], want, atol=within, rtol=0)
    assert (last - logits(tiny)).abs().max() > 0.01, "the lesion matters"


def test_a_plane_of_single_dimensions_is_those_units(tiny: Model):
    """Two roads to one lesion: the coordinates themselves, or directions along them."""
    mean = np.zeros(32)
    mean[[4, 30]] = [0.3, -2.0]
    along = directions("axes", np.eye(32)[[30, 4]], layer=1, site="resid_pre", mean=mean)
    of_units = units((1, 4), (1, 30), site="resid_pre", mean=[0.3, -2.0])
    for dose in DOSES:
        with lesion(tiny, of_units, dose=dose):
            want = logits(tiny)
        with lesion(tiny, along, dose=dose):
            torch.testing.assert_close(logits(tiny), want, atol=model_error(tiny, want), rtol=0)


def test_directions_of_nothing_change_nothing(tiny: Model):
    before = logits(tiny)
    for cut in (directions("none", np.zeros((3, 32)), layer=1), plane()):
        with lesion(tiny, cut, value="zero", dose=0.0 if len(cut) else 1.0):
            assert torch.equal(logits(tiny), before)


# Resampling ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def words(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank)


def recorded(model: Model, words: Corpus, *sets: Neurons | Directions) -> Donors:
    return record_donors(
        model,
        words.alignment,
        words.read("next"),
        sets,
        position="next",
        seed=0,
        n_words=25,
        per_label=2,
    )


def test_resampled_units_do_what_they_do_at_one_other_word(tiny: Model, words: Corpus):
    """All units of a token come from the same donor, and every token has its own."""
    found = recorded(tiny, words, SOME)
    rows = found.of("neuron", 0, np.array([3, 40]))[: found.n_any]
    special = (IDS == BOS) | (IDS == PAD)
    intact = activations(tiny, IDS)
    with lesion(tiny, SOME, value="resample", donors=found, seed=4):
        first, second = activations(tiny, IDS), activations(tiny, IDS)
    with lesion(tiny, SOME, value="resample", donors=found, seed=4):
        again = activations(tiny, IDS)
    with lesion(tiny, SOME, value="resample", donors=found, seed=5):
        other = activations(tiny, IDS)
    drawn = first[0][~special][:, [3, 40]].numpy()
    donor = np.array([np.flatnonzero((rows == pair).all(1))[0] for pair in drawn])
    assert len(np.unique(donor)) > 5
    upper = found.of("neuron", 1, np.array([7, 0]))[donor]
    np.testing.assert_array_equal(first[1][~special][:, [7, 0]].numpy(), upper)
    assert torch.equal(first[0][special], intact[0][special])
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], second[0]), "drawn independently for every token"


def test_half_a_dose_of_resampling(tiny: Model, words: Corpus):
    found = recorded(tiny, words, SOME)
    inner = ~((IDS == BOS) | (IDS == PAD))
    (intact, _) = activations(tiny, IDS)
    seen = []
    for dose in (1.0, 0.5):
        with lesion(tiny, SOME, value="resample", dose=dose, donors=found):
            seen.append(activations(tiny, IDS)[0][inner][:, [3, 40]])
    want = (intact[inner][:, [3, 40]] + seen[0]) / 2
    torch.testing.assert_close(seen[1], want, atol=1e-6, rtol=1e-5)


def test_directions_are_resampled_too(tiny: Model, words: Corpus):
    cut = plane()
    found = recorded(tiny, words, cut)
    inner = ~((IDS == BOS) | (IDS == PAD))
    intact = activations(tiny, IDS, "resid_post")[0][inner].numpy()
    with lesion(tiny, cut, value="resample", donors=found):
        after = activations(tiny, IDS, "resid_post")[0][inner].numpy()
    there = found.of("resid_post", 0, np.arange(32))[: found.n_any] @ cut.basis.T
    now = after @ cut.basis.T
    gaps = np.abs(now[:, None] - there[None]).max(2).min(1)
    assert gaps.max() < 1e-5, "the part in the plane is a donor's"
    rest = np.eye(32) - cut.basis.T @ cut.basis
    within = float32_error(max(np.abs(after).max(), np.abs(intact).max()), 2 * 32)
    np.testing.assert_allclose(after @ rest, intact @ rest, rtol=0, atol=within)


def test_resampling_that_cannot_be_made(tiny: Model, words: Corpus):
    found = recorded(tiny, words, SOME)
    for value, given, neurons, message in (
        ("resample", None, SOME, r"'resample' needs .* other words: record them with gl.donors\("),
        ("resample_within", found, SOME, "'resample_within' must know each word's label: run it"),
        ("resample", found, units((0, 4)), r"unit 0.4 at 'neuron' was not recorded at other words"),
        ("resample", found, plane(), "unit 0.0 at 'resid_post' was not recorded at other words"),
    ):
        with (
            pytest.raises(GrammarLensError, match=message),
            lesion(tiny, neurons, value=value, donors=given),
        ):
            pytest.fail("the lesion opened")
    before = logits(tiny)
    with lesion(tiny, SOME, value="resample", dose=0.0), lesion(tiny, units(), value="resample"):
        assert torch.equal(logits(tiny), before), "nothing to resample, so no donors are needed"


# Edits --------------------------------------------------------------------------------------


def test_one_edit_for_every_layer_lowest_first(tiny: Model):
    edits = edits_of(tiny, SOME, Ablation("mean", 0.5))
    assert [(e.site, e.layer, e.dose) for e in edits] == [("neuron", 0, 0.5), ("neuron", 1, 0.5)]
    assert [e.index.tolist() for e in edits] == [[3, 40], [7, 0]]
    assert SOME.mean is not None
    np.testing.assert_allclose(np.concatenate([e.target for e in edits]), SOME.mean, rtol=1e-6)
    assert edits_of(tiny, SOME, Ablation("mean", 0.0)) == ()
    assert edits_of(tiny, units(), Ablation()) == ()


# Writing ------------------------------------------------------------------------------------


def strong(model: Model) -> Neurons:
    """A tenth of the embedded model's neurons, enough to change what it writes."""
    rng = np.random.default_rng(0)
    rows = [(layer, int(i)) for layer in range(8) for i in rng.permutation(896)[:90]]
    return replace(units(*rows), mean=np.zeros(len(rows)))


@pytest.mark.parametrize("dose", [1.0, 3.0])
def test_generation_with_a_cache_equals_no_cache(reference: Model, dose: float):
    ids = reference.tokenizer("The old man went to the", return_tensors="pt").input_ids
    options: dict[str, Any] = {
        "max_new_tokens": 12,
        "do_sample": False,
        "stop_at_eos": False,
        "verbose": False,
    }
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


def test_generation_under_resampling(reference: Model, bank: Treebank):
    """Donors are drawn for every token as it is read; the same seed writes the same text."""
    cut = strong(reference)
    found = donors(reference, bank, cut, n_words=30)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "verbose": False}
    texts = []
    for seed in (0, 0, 1):
        with lesion(reference, cut, value="resample", dose=3.0, donors=found, seed=seed):
            texts.append(reference.generate("The old man went", **options))
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] != reference.generate("The old man went", **options), "the lesion matters"


def test_generation_from_text(reference: Model):
    with lesion(reference, strong(reference), value="zero"):
        text = reference.generate("The old man", max_new_tokens=4, do_sample=False, verbose=False)
    assert text.startswith("The old man")


# Bad requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("neurons", "value", "error", "message"),
    [
        (
            SOME,
            "nothing",
            GrammarLensError,
            "lesion value is 'nothing', expected one of zero, mean",
        ),
        (units(), "nothing", GrammarLensError, "lesion value is 'nothing'"),
        (
            replace(SOME, mean=None),
            "mean",
            GrammarLensError,
            "mean activation of 'some' is not known",
        ),
        (units((0, 48)), "zero", GrammarLensError, "neuron 0.48 does not exist: .* of 48 neurons"),
        (units((0, 1), (1, -1)), "zero", GrammarLensError, "neuron 1.-1 does not exist"),
        (units((0, 32), site="resid_pre"), "zero", GrammarLensError, "neuron 0.32 does not exist"),
        (units((2, 0)), "zero", GrammarLensError, "layer 2 does not exist"),
        (units((0, 1), site="brain"), "zero", GrammarLensError, "site is 'brain'"),
        (
            units((0, 1), site="resid_mid"),
            "zero",
            GrammarLensError,
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


@pytest.mark.parametrize(
    ("cut", "options", "message"),
    [
        (replace(plane(), mean=None), {}, "mean activation of 'a plane' is not known"),
        (plane("resid_mid"), {}, "'resid_mid' would reach the MLP bu"),
        (
            plane("neuron"),
            {},
            "'a plane' has directions of neurons, and only the residual stream's",
        ),
        (
            directions("wide", np.eye(40)[:1], layer=0),
            {"value": "zero"},
            "'wide' has directions of 40 dimensions and 'resid_post' of .* has 32: make them for",
        ),
        (plane(), {"dose": float("nan")}, "lesion dose is nan, expected a finite number"),
        (SOME, {"dose": float("inf")}, "lesion dose is inf, expected a finite number"),
    ],
)
def test_more_lesions_that_cannot_be_made(
    tiny: Model, cut: Neurons | Directions, options: dict[str, Any], message: str
):
    with pytest.raises(GrammarLensError, match=message), lesion(tiny, cut, **options):
        pytest.fail("the lesion opened")


def test_directions_of_a_layer_that_is_not_there(tiny: Model):
    with (
        pytest.raises(GrammarLensError, match="layer 7 does not exist"),
        lesion(tiny, plane(layer=7)),
    ):
        pytest.fail("the lesion opened")


def test_an_unknown_place_is_an_error(tiny: Model):
    with pytest.raises(GrammarLensError, match=r"'here'.*every, scored"):
        edits_of(tiny, SOME, Ablation(where="here"))


def test_an_unknown_value_is_an_error_at_dose_0_too(tiny: Model):
    with (
        pytest.raises(GrammarLensError, match="'nothing'"),
        lesion(tiny, SOME, value="nothing", dose=0.0),
    ):
        pytest.fail("the lesion opened")


# Threads ------------------------------------------------------------------------------------


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Return value of work done in a thread, or its error."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


def test_a_lesion_belongs_to_the_thread_that_opened_it(tiny: Model):
    before = logits(tiny)

    def open_one() -> None:
        with lesion(tiny, SOME, value="zero"):
            pass

    with lesion(tiny, SOME):
        mine = logits(tiny)
        with pytest.raises(GrammarLensError, match="another thread has a lesion"):
            in_a_thread(open_one)
        with pytest.raises(GrammarLensError, match="another thread opened"):
            in_a_thread(lambda: logits(tiny))
        with lesion(tiny, SOME, dose=0.5):
            pass
        assert torch.equal(logits(tiny), mine), "the other thread's attempts changed nothing"
    assert torch.equal(in_a_thread(lambda: logits(tiny)), before)
    in_a_thread(open_one)
    assert torch.equal(logits(tiny), before)


def test_threads_have_lesions_of_their_own_models(make_tiny: Callable[[], Model]):
    models = [make_tiny(), make_tiny()]
    with lesion(models[0], SOME, value="zero"):
        alone = logits(models[0])
    both = Barrier(2, timeout=60)

    def cut(model: Model) -> Tensor:
        with lesion(model, SOME, value="zero"):
            both.wait()
            return logits(model)

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(cut, models):
            assert torch.equal(found, alone)


def test_a_lesion_that_is_not_opened_says_so(tiny: Model):
    cut = lesion(tiny, ["1.7", (0, 3)])
    assert "2 units" in repr(cut)
    assert "not in force" in repr(cut)
    with cut as model:
        assert model is tiny
        assert "not in force" not in repr(cut)
    with cut, cut:  # it can be opened again
        pass
    assert "not in force" in repr(cut)


def test_a_lesion_of_what_does_not_exist_fails_where_it_is_written(tiny: Model):
    with pytest.raises(GrammarLensError, match="layer 9 does not exist"):
        lesion(tiny, "9.9")
