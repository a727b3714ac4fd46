"""The fast path computes the same as the bridge, or it is not taken."""

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers
from lesion_bench import SIZE, llama, n_hooks, units
from rounding import model_error
from torch import Tensor

from grammar_lens.lesions.context import lesion
from grammar_lens.model import fast_path_check, onednn
from grammar_lens.model.about import Model, hook_name
from grammar_lens.model.fast_path import FastPath, IntactPass
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.forward import final_hidden, hooked
from grammar_lens.model.kv_cache import can_continue
from grammar_lens.model.loading import load_model

IDS = torch.randint(3, 60, (3, 13), generator=torch.Generator().manual_seed(3))
IDS[:, 0] = 0
SITES = ("neuron", "resid_pre", "resid_post", "attn_out", "mlp_out")
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 0.25}
"""Of values near 1; the bridge works out norms and attention in float32 whatever the dtype."""


def activations(model: Model, ids: Tensor) -> dict[tuple[str, int], Tensor]:
    seen: dict[tuple[str, int], Tensor] = {}

    def look(at: tuple[str, int]) -> tuple[str, Callable[..., None]]:
        return hook_name(model, *at), lambda x, **_: seen.update({at: x.clone()})

    places = [(site, layer) for site in SITES for layer in range(model.cfg.n_layers)]
    with hooked(model, [look(at) for at in places]):
        final_hidden(model, ids)
    return seen


def run(fast: FastPath, ids: Tensor, begin: int, n_prefix: int, repeats: int) -> Tensor:
    """Logits of the last repeat of all rows, from layer `begin` on."""
    return rerun(fast, fast.read(ids, {"resid_pre": [begin]}, n_prefix), begin, n_prefix, repeats)


def rerun(fast: FastPath, intact: IntactPass, begin: int, n_prefix: int, repeats: int) -> Tensor:
    start = intact.activations["resid_pre", begin][:, n_prefix:]
    n = start.shape[0] * start.shape[1]
    with torch.no_grad():
        out = fast.run(
            start.repeat(repeats, 1, 1), begin, intact, torch.arange(n * repeats), repeats
        )
        return fast.logits(out[-n:]).reshape(*start.shape[:2], -1)


def assert_same(fast: FastPath, model: Model, ids: Tensor, tolerance: float) -> None:
    n_layers = model.cfg.n_layers
    with torch.no_grad():
        want = model(ids)
        intact = fast.read(ids, {site: range(n_layers) for site in SITES})
    for at, values in activations(model, ids).items():
        torch.testing.assert_close(intact.activations[at], values, atol=tolerance, rtol=tolerance)
    for begin in range(n_layers + 1):
        for n_prefix, repeats in ((0, 1), (1, 3)):
            if n_prefix < ids.shape[1]:
                got = run(fast, ids, begin, n_prefix, repeats)
                assert got.dtype == want.dtype
                torch.testing.assert_close(
                    got, want[:, n_prefix:], atol=5 * tolerance, rtol=tolerance
                )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_a_llama(
    tiny_tokenizer: Any, shaken: Callable[..., None], dtype: torch.dtype, kv_heads: int
):
    hf = llama(len(tiny_tokenizer), shaken, num_key_value_heads=kv_heads).to(dtype)
    model = load_model(hf, tokenizer=tiny_tokenizer, dtype=dtype)
    hooks = n_hooks(model)
    fast = fast_path(model)
    assert fast is not None
    assert fast.n_layers == 3
    for ids in (IDS, IDS[:1], IDS[:2, :1]):  # several rows, one row, sentences of one token
        assert_same(fast, model, ids, TOLERANCE[dtype])
    model(IDS)
    assert n_hooks(model) - hooks in (0, 6), "the bridge's own capture hooks come with a first pass"


def test_weights_are_shared_not_copied(make_tiny: Callable[[], Model]):
    model = make_tiny()
    fast = fast_path(model)
    assert fast is not None
    before = run(fast, IDS, 0, 1, 1)
    with torch.no_grad():
        for layer in range(2):
            model.blocks[layer].mlp.W_out.mul_(0.5)
    assert_same(fast, model, IDS, 1e-5)
    assert (run(fast, IDS, 0, 1, 1) - before).abs().max() > 0.1


def test_changes_are_made_where_they_are_told(tiny: Model):
    """At every site and layer, against the bridge's hook of that name."""
    fast = fast_path(tiny)
    assert fast is not None

    def halve(x: Tensor, **_: object) -> Tensor:
        return x / 2

    intact = fast.read(IDS, {"resid_pre": [0]})
    want = torch.empty(0)
    for site in SITES:
        for layer in range(2):
            with torch.no_grad():
                with hooked(tiny, [(hook_name(tiny, site, layer), halve)]):
                    want = tiny(IDS)
                with fast.changed({(site, layer): halve}):
                    got = rerun(fast, intact, 0, 0, 2)
            torch.testing.assert_close(got, want, atol=model_error(tiny, want), rtol=0)
    assert (run(fast, IDS, 0, 0, 1) - want).abs().max() > 0.01
    with pytest.raises(ZeroDivisionError), fast.changed({("neuron", 0): lambda x: x * (1 / 0)}):
        run(fast, IDS, 0, 1, 1)
    whole = tiny(IDS).detach()
    torch.testing.assert_close(
        run(fast, IDS, 0, 0, 1), whole, atol=model_error(tiny, whole), rtol=0
    )


# Architectures ------------------------------------------------------------------------------

HEADS = {"head_dim": 8}
LIKE_LLAMA = {
    "Mistral": {"sliding_window": 4},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "Qwen3": HEADS,
    "Phi3": {},
    "SmolLM3": {},
    "StableLm": {},
    "Cohere": {"logit_scale": 1.0},
}
UNLIKE = {
    "Gemma2": HEADS | {"sliding_window": 4},
    "Gemma3": HEADS | {"sliding_window": 4},
    "Olmo2": {},
    "Granite": {"residual_multiplier": 0.5},
    "Glm4": HEADS,
}
"""Between their MLPs and the residual stream stands a norm or a factor, or logits are capped."""


def loaded(name: str, options: dict[str, Any], tokenizer: Any, shake: Callable[..., None]) -> Model:
    config = getattr(transformers, f"{name}TextConfig", None)
    config = config or getattr(transformers, f"{name}Config")
    hf = getattr(transformers, f"{name}ForCausalLM")(
        config(vocab_size=len(tokenizer), **SIZE, **options)
    ).eval()
    shake(hf)
    return load_model(hf, tokenizer=tokenizer)


@pytest.mark.parametrize("name", LIKE_LLAMA)
def test_architectures_whose_layers_are_taken(
    tiny_tokenizer: Any, shaken: Callable[..., None], name: str
):
    model = loaded(name, LIKE_LLAMA[name], tiny_tokenizer, shaken)
    fast = fast_path(model)
    assert fast is not None
    assert_same(fast, model, IDS, 1e-4 if name == "StableLm" else 2e-5)


@pytest.mark.parametrize("name", UNLIKE)
def test_architectures_whose_layers_are_not_taken(
    tiny_tokenizer: Any, shaken: Callable[..., None], name: str
):
    model = loaded(name, UNLIKE[name], tiny_tokenizer, shaken)
    hooks = n_hooks(model)
    assert fast_path(model) is None
    model(IDS)
    bridges_own = n_hooks(model) - hooks
    assert fast_path(model) is None
    assert n_hooks(model) - hooks == bridges_own
    assert can_continue(model) == (name != "Gemma3"), "whose layers rotate in two ways"


# When the fast path would be another model ------------------------------------------------


def test_none_for_other_models(tiny: Model, make_tiny: Callable[[], Model]):
    class Hooked:
        """Like a HookedTransformer: no Hugging Face model inside."""

        cfg, hook_dict, blocks = tiny.cfg, tiny.hook_dict, ()

    assert fast_path(Hooked()) is None
    parted = make_tiny()
    assert fast_path(parted) is not None
    parted.original_model.model.layers[1].mlp.to("meta")
    assert fast_path(parted) is None, "weights on two devices"


def test_none_where_the_bridge_computes_something_else(make_tiny: Callable[[], Model]):
    model = make_tiny()
    model.original_model.model.layers[1].mlp.forward = lambda x, *_, **__: 0 * x
    assert fast_path(model) is None


def test_none_where_neurons_do_not_write_by_their_weights(
    make_tiny: Callable[[], Model], monkeypatch: pytest.MonkeyPatch
):
    """A lesion of neurons is made in the residual stream, by their output weights."""
    tiny = make_tiny()
    weights = fast_path_check.output_weight
    monkeypatch.setattr(
        fast_path_check, "output_weight", lambda model, layer: 0.5 * weights(model, layer)
    )
    assert fast_path(tiny) is None


def test_an_error_on_the_way_is_not_passed_on(
    make_tiny: Callable[[], Model], monkeypatch: pytest.MonkeyPatch
):
    tiny = make_tiny()
    tiny(torch.tensor([[0, 5, 6]]))  # Hugging Face's recording hooks come with the first pass

    def fail(*_: object, **__: Any) -> None:
        raise KeyError("another make")

    monkeypatch.setattr(FastPath, "run", fail)
    hooks = n_hooks(tiny)
    assert fast_path(tiny) is None
    assert n_hooks(tiny) == hooks


def test_hidden_states_that_were_once_asked_for_do_not_matter(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any
):
    """Hugging Face leaves its recording hooks on the model."""
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer)
    model.original_model(torch.tensor([[0, 5, 6]]), output_hidden_states=True)
    modules = model.original_model.modules()
    owners = {hook.__module__ for m in modules for hook in m._forward_hooks.values()}
    assert any(owner.startswith("transformers.") for owner in owners)
    assert fast_path(model) is not None


@pytest.mark.parametrize("where", ["hook point", "lesion", "tiny lesion", "wrapper", "embedding"])
def test_none_while_hooks_are_on_the_model(tiny: Model, where: str):
    """The fast path bypasses them; a comparison of a few tokens would miss a small effect."""
    body = tiny.original_model.model

    def look(*_: object, **__: Any) -> None:
        """Changes nothing at all."""

    handles = []
    if where == "hook point":
        context: Any = tiny.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", look)])
    elif where == "lesion":
        context = lesion(tiny, units((0, 3), (1, 7)), value="zero")
    elif where == "tiny lesion":
        context = lesion(tiny, units((1, 7), mean=[1e-9]), value="mean", dose=1e-7)
    elif where == "wrapper":
        context = nullcontext()
        handles.append(body.layers[1].register_forward_pre_hook(look))
    else:
        context = nullcontext()
        handles.append(body.embed_tokens.register_forward_hook(look))
    try:
        with context:
            assert fast_path(tiny) is None
    finally:
        for handle in handles:
            handle.remove()
    assert fast_path(tiny) is not None


def test_the_configuration_is_left_alone(make_tiny: Callable[[], Model]):
    model = make_tiny()
    before = copy.deepcopy(model.original_model.config.to_dict())
    assert fast_path(model) is not None
    assert model.original_model.config.to_dict() == before
    assert model.original_model.config._attn_implementation == "eager"


def test_the_layers_are_compared_once(
    make_tiny: Callable[[], Model], monkeypatch: pytest.MonkeyPatch
):
    """And again when the model is made of other parts, or one of them is run in another way."""
    model, compared = make_tiny(), []
    agrees = fast_path_check._agrees
    monkeypatch.setattr(fast_path_check, "_agrees", lambda *a: (compared.append(1), agrees(*a))[1])
    first = fast_path(model)
    assert first is not None
    model.original_model.get_input_embeddings().weight.data[3] += 1  # the same weights, changed
    assert fast_path(model) is first
    assert len(compared) == 1
    mlp = model.original_model.model.layers[1].mlp
    down = mlp.down_proj.original_component
    forward = down.forward
    down.forward = lambda x: 2 * forward(x)
    assert fast_path(model) is None, "neurons no longer write by their weights"
    del down.forward
    assert fast_path(model) is not None
    model.original_model.to(torch.float64)
    assert fast_path(model) is not None
    assert len(compared) == 4


def test_products_are_those_of_the_layer(monkeypatch: pytest.MonkeyPatch):
    """By oneDNN where it is taken: values, gradients to the input, with a bias and in any shape."""
    monkeypatch.setattr(onednn, "is_onednn_faster", lambda: True)
    for bias in (False, True):
        plain = torch.nn.Linear(7, 5, bias=bias).requires_grad_(False)
        fast = onednn.with_onednn(plain)
        assert isinstance(fast, onednn.Linear)
        assert fast.weight is plain.weight
        for shape in ((7,), (3, 7), (2, 3, 7)):
            x = torch.randn(shape)
            torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-6)
            ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
            fast(ours).square().sum().backward()
            plain(theirs).square().sum().backward()
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("slower", "chosen"), [("linear", True), ("onednn", False)])
def test_the_faster_library_multiplies(
    monkeypatch: pytest.MonkeyPatch, slower: str, chosen: bool
) -> None:
    """Whichever it is: here one of them waits at each product."""

    def waiting(wait: bool) -> Callable[..., Tensor]:
        def product(x: Tensor, weight: Tensor, *_: object) -> Tensor:
            time.sleep(0.005 if wait else 0)
            return x @ weight.T

        return product

    monkeypatch.setattr(onednn, "MEASURED", 0.3)
    monkeypatch.setattr(onednn, "multiply", waiting(slower == "onednn"))
    monkeypatch.setattr(torch.nn.functional, "linear", waiting(slower == "linear"))
    measured = onednn.onednn_speed.__wrapped__()
    assert measured is not None
    assert (measured > 1) == chosen
    monkeypatch.setattr(onednn, "onednn_speed", lambda: measured)
    assert onednn.is_onednn_faster() == chosen


def test_wrong_products_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "multiply", lambda x, weight, _: x @ weight.T + 1)
    assert onednn.onednn_speed.__wrapped__() is None


def test_other_products_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onednn, "is_onednn_faster", lambda: True)
    patched: Any = torch.nn.Linear(3, 3)
    patched.forward = lambda x: x
    for module in (torch.nn.Linear(3, 3).double(), torch.nn.LayerNorm(3), patched):
        assert onednn.with_onednn(module) is module
    monkeypatch.setattr(onednn, "is_onednn_faster", lambda: False)
    plain = torch.nn.Linear(3, 3)
    assert onednn.with_onednn(plain) is plain


def test_a_deep_model_has_one(tiny_tokenizer: Any) -> None:
    """Its layers amplify rounding, so that the comparison must not shrink the residual stream to it."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=1.0,
    )
    config._attn_implementation = "eager"
    deep = transformers.LlamaForCausalLM(config).eval()
    assert fast_path(load_model(deep, tokenizer=tiny_tokenizer)) is not None
