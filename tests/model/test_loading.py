"""Models load from wherever they are, and their sites hold what the Hugging Face model computes."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import CONFIGS, GROUPED, IDS, SHAPE
from rounding import model_error
from torch import Tensor, nn

from grammar_lens.defaults import SITES
from grammar_lens.errors import GrammarLensError
from grammar_lens.model import about, forward, loading, weights
from grammar_lens.model.about import Model
from grammar_lens.model.loading import REFERENCE_MODEL, load_model

# Where a plain PyTorch hook finds each site: the module and whether its input or its output.
LLAMA = {
    "neuron": ("model.layers.{}.mlp.down_proj", "in"),
    "resid_pre": ("model.layers.{}", "in"),
    "resid_mid": ("model.layers.{}.post_attention_layernorm", "in"),
    "resid_post": ("model.layers.{}", "out"),
    "attn_out": ("model.layers.{}.self_attn", "out"),
    "mlp_out": ("model.layers.{}.mlp", "out"),
}
PLACES = {
    "gemma2": {
        **LLAMA,
        "resid_mid": ("model.layers.{}.pre_feedforward_layernorm", "in"),
        "attn_out": ("model.layers.{}.post_attention_layernorm", "out"),
        "mlp_out": ("model.layers.{}.post_feedforward_layernorm", "out"),
    },
    "gpt2": {
        "neuron": ("transformer.h.{}.mlp.c_proj", "in"),
        "resid_pre": ("transformer.h.{}", "in"),
        "resid_mid": ("transformer.h.{}.ln_2", "in"),
        "resid_post": ("transformer.h.{}", "out"),
        "attn_out": ("transformer.h.{}.attn", "out"),
        "mlp_out": ("transformer.h.{}.mlp", "out"),
    },
    "pythia": {
        "neuron": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", "in"),
        "resid_pre": ("gpt_neox.layers.{}", "in"),
        "resid_post": ("gpt_neox.layers.{}", "out"),
        "attn_out": ("gpt_neox.layers.{}.attention", "out"),
        "mlp_out": ("gpt_neox.layers.{}.mlp", "out"),
    },
}
Seen = dict[tuple[str, int], Tensor]


def plain(hf: Any, places: dict[str, tuple[str, str]], ids: Tensor) -> tuple[Seen, Tensor]:
    """Activations by (site, layer), and logits, by PyTorch hooks on the Hugging Face model."""
    seen: Seen = {}
    handles = []

    def read(key: tuple[str, int], value: Any) -> None:
        seen[key] = (value[0] if isinstance(value, tuple) else value).detach().clone()

    for site, (pattern, side) in places.items():
        for layer in range(hf.config.num_hidden_layers):
            module = hf.get_submodule(pattern.format(layer))
            key = (site, layer)
            handles.append(
                module.register_forward_pre_hook(partial(lambda key, _m, x: read(key, x), key))
                if side == "in"
                else module.register_forward_hook(partial(lambda key, _m, _x, y: read(key, y), key))
            )
    with torch.no_grad():
        logits = hf(ids).logits
    for handle in handles:
        handle.remove()
    return seen, logits


def through_hooks(model: Model, run: Callable[[], object]) -> Seen:
    """Activations by (site, layer) at every site the model has, by the package's hooks."""
    seen: Seen = {}
    hooks = []
    for site in SITES:
        for layer in range(model.cfg.n_layers):
            if SITES[site].format(layer=layer) in model.hook_dict:

                def keep(
                    activation: Tensor, key: tuple[str, int] = (site, layer), **_: Any
                ) -> None:
                    assert key not in seen, "a hook fires once"
                    seen[key] = activation.clone()

                hooks.append((about.hook_name(model, site, layer), keep))
    with forward.hooked(model, hooks):
        run()
    return seen


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def made(kind: str, shaken: Callable[[nn.Module], None]) -> nn.Module:
    """A tiny random Hugging Face model with eager attention."""
    name, options = CONFIGS[kind]
    config = getattr(transformers, name)(**options)
    hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    shaken(hf)
    return hf


@pytest.fixture
def folder(tiny_hf: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path) -> Path:
    """A tiny Llama as save_pretrained writes it."""
    tiny_hf().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    return tmp_path


# What the sites hold ------------------------------------------------------------------------


def test_sites_and_logits_equal_plain_hooks(kind: str, made: nn.Module, tiny_tokenizer: Any):
    want, logits = plain(made, PLACES.get(kind, LLAMA), IDS)
    model = load_model(made, tokenizer=tiny_tokenizer)
    got = through_hooks(model, lambda: forward.final_hidden(model, IDS))
    assert got.keys() == want.keys()
    for key, activation in want.items():
        within = model_error(model, activation)
        torch.testing.assert_close(got[key], activation, atol=within, rtol=0, msg=str(key))
    where = torch.tensor([0, 5, 13, 26])
    few = forward.next_token_logits(model, IDS, where)
    # the head multiplies fewer rows, so sums round in another order
    within = model_error(model, logits)
    torch.testing.assert_close(few, logits.reshape(-1, 400)[where], atol=within, rtol=0)
    if kind == "gemma2":
        assert 0.3 < few.abs().max() <= 0.5, "softcapping must be applied"


def test_reference_model_equals_hugging_face(reference: Model):
    folder = loading.locate(REFERENCE_MODEL)
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True
    )
    ids = reference.tokenizer(
        "The dog that chased the cats doesn't run.", return_tensors="pt"
    ).input_ids
    want, logits = plain(hf, LLAMA, ids)
    got = through_hooks(reference, lambda: forward.final_hidden(reference, ids))
    assert got.keys() == want.keys()
    assert len(got) == 6 * 8
    for key, activation in want.items():
        within = model_error(reference, activation)
        torch.testing.assert_close(got[key], activation, atol=within, rtol=0, msg=str(key))
    where = torch.arange(ids.shape[1])
    few = forward.next_token_logits(reference, ids, where)
    torch.testing.assert_close(few, logits[0], atol=model_error(reference, logits), rtol=0)


def test_pythia_has_no_resid_mid(shaken: Callable[[nn.Module], None], tiny_tokenizer: Any):
    hf = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SHAPE))
    model = load_model(hf, tokenizer=tiny_tokenizer)
    with pytest.raises(GrammarLensError, match=r"'resid_mid'.*GPT"):
        about.hook_name(model, "resid_mid", 0)
    assert about.hook_name(model, "resid_post", 1)


def test_the_head_is_whole_again_after_an_error(tiny: Model):
    before = tiny(IDS)
    with pytest.raises(IndexError):
        forward.next_token_logits(tiny, IDS, torch.tensor([10**6]))
    assert torch.equal(tiny(IDS), before)


def test_tokens_are_seen_before_the_first_layer(tiny: Model):
    seen: list[Tensor] = []
    with forward.watch_tokens(tiny, seen.append):
        forward.final_hidden(tiny, IDS)
    forward.final_hidden(tiny, IDS[:1])
    assert len(seen) == 1
    assert torch.equal(seen[0], IDS)


# What is known of a model -------------------------------------------------------------------


def test_numbers_of_the_embedded_model(reference: Model):
    assert about.model_name(reference) == "reference-9m"
    hf = reference.original_model
    assert about.n_parameters(reference) == 9_179_392
    assert about.context_length(reference) == 1024
    assert about.vocabulary_size(reference) == 8192
    assert about.site_width(reference, "neuron") == 896
    assert about.site_width(reference, "resid_mid") == 256
    assert about.device_of(reference) == torch.device("cpu")
    assert about.has_gate(reference)
    assert not any(p.requires_grad for p in hf.parameters())
    assert not hf.training


def test_tied_weights_count_once(tiny_tokenizer: Any, tiny_hf: Callable[[], Any]):
    config = transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True)
    tied = transformers.LlamaForCausalLM(config)
    want = sum(p.numel() for p in tied.parameters())
    assert about.n_parameters(load_model(tied, tokenizer=tiny_tokenizer)) == want


def test_output_norms_are_those_of_the_outgoing_weights(
    kind: str, made: nn.Module, tiny_tokenizer: Any
):
    places = PLACES.get(kind, LLAMA)["neuron"][0]
    outgoing = [
        next(made.get_submodule(places.format(layer)).parameters()).detach() for layer in range(2)
    ]
    # a linear layer stores [out, in], GPT-2's Conv1D [in, out]
    want = torch.stack([w.double().norm(dim=1 if kind == "gpt2" else 0) for w in outgoing])
    got = torch.from_numpy(weights.output_norms(load_model(made, tokenizer=tiny_tokenizer)))
    assert got.shape == (2, about.site_width(load_model(made, tokenizer=tiny_tokenizer), "neuron"))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


# Loading ------------------------------------------------------------------------------------


def test_a_folder_and_a_loaded_model_are_the_same(
    folder: Path, tiny: Model, tiny_hf: Callable[[], Any]
):
    with torch.no_grad():
        want = tiny_hf()(IDS).logits
    for source in (folder, str(folder)):
        model = load_model(source)
        torch.testing.assert_close(model(IDS), want, atol=1e-6, rtol=1e-6)
        assert about.model_name(model) == folder.name
    torch.testing.assert_close(tiny(IDS), want, atol=1e-6, rtol=1e-6)
    assert about.model_name(tiny) == "LlamaForCausalLM"


def test_the_embedded_model_by_its_name(reference: Model):
    named = load_model("reference-9m")
    ids = IDS[:1]
    assert torch.equal(named(ids), reference(ids))


def test_a_hooked_model_is_taken_as_it_is(make_tiny: Callable[[], Model]):
    model = make_tiny()
    assert load_model(model) is model
    with pytest.raises(
        GrammarLensError, match="hooked already, so its tokenizer, dtype and device are kept"
    ):
        load_model(model, dtype="bfloat16")
    model.tokenizer = None
    with pytest.raises(GrammarLensError, match="the hooked model has no tokenizer"):
        load_model(model)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"])
def test_dtype(folder: Path, tiny_hf: Callable[[], Any], tiny_tokenizer: Any, dtype: Any):
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    for model in (
        load_model(folder, dtype=dtype),
        load_model(tiny_hf(), tokenizer=tiny_tokenizer, dtype=dtype),
    ):
        seen = through_hooks(model, lambda model=model: forward.final_hidden(model, IDS))
        assert {a.dtype for a in seen.values()} == {wanted}


def test_dtype_is_float32_on_cpu_and_the_checkpoints_own_if_asked(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
):
    tiny_hf().to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    for dtype, wanted in ((None, torch.float32), ("auto", torch.bfloat16)):
        assert (
            about.embedding(load_model(tmp_path, dtype=dtype, device="cpu")).weight.dtype == wanted
        )


def test_a_tokenizer_can_be_given_beside_a_folder(folder: Path, tiny_tokenizer: Any):
    without_tokenizer(folder)
    assert load_model(folder, tokenizer=tiny_tokenizer).tokenizer is not None


# What cannot be loaded ----------------------------------------------------------------------


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (
        lambda f: (f / "config.json").unlink(),
        r"has no config.json: expected a folder as Hugging Face save_pretrained",
    ),
    "config is not JSON": (
        lambda f: (f / "config.json").write_text("{"),
        r"config.json is not a JSON object",
    ),
    "config is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        r"config.json is not a JSON object",
    ),
    "pickled": (
        pickled,
        r"only pickled weights \(pytorch_model.bin\): grammar_lens reads safetensors only",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no weights: grammar_lens"),
    "no tokenizer": (without_tokenizer, r"has no tokenizer: put tokenizer.json beside config.json"),
    "unsupported": (
        lambda f: rewrite(f, architectures=["SegformerModel"]),
        r"is a SegformerModel, which TransformerLens cannot hook. Supported: .*LlamaForCausalLM",
    ),
    "unknown type": (
        lambda f: rewrite(f, architectures=[], model_type="no-such-model"),
        r"could not load .* \(check the files in the folder\)",
    ),
    "cut off": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 20),
        r"could not load .* \(check the files in the folder\)",
    ),
    "weights missing": (
        lambda f: rewrite(f, num_hidden_layers=3),
        r"lacks weights that the model needs, among them model\.layers\.2\.",
    ),
}


@pytest.mark.parametrize("way", BROKEN)
def test_broken_folders(folder: Path, way: str):
    breaks, message = BROKEN[way]
    breaks(folder)
    with pytest.raises(GrammarLensError, match=message):
        load_model(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere", "a/b/c"])
def test_missing_folder(name: str):
    with pytest.raises(GrammarLensError, match="no model folder at"):
        load_model(name)


def test_a_hub_id_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: Any) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nmore lines")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(GrammarLensError, match=r"'some/model'.*`hf auth login`"):
        load_model("some/model")


def test_a_revision_is_asked_of_the_hub_and_its_commit_noted(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, object] = {}

    def config_of(_name: str, **options: object) -> Any:
        asked["config"] = options.get("revision")
        return tiny_hf().config

    def model_of(_name: str, **options: object) -> Any:
        asked["model"] = options.get("revision")
        hf = tiny_hf()
        hf.config._commit_hash = "0" * 40
        return hf, {"missing_keys": []}

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", config_of)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", model_of)
    model = load_model("some/model", tokenizer=tiny_tokenizer, revision="v2", device="cpu")
    assert asked == {"config": "v2", "model": "v2"}
    assert about.describe(model)["commit"] == "0" * 40
    load_model("some/model", tokenizer=tiny_tokenizer, device="cpu")
    assert asked == {"config": None, "model": None}


def test_a_revision_of_what_is_not_on_the_hub(
    folder: Path, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
):
    for source, options in ((folder, {}), (tiny_hf(), {"tokenizer": tiny_tokenizer})):
        with pytest.raises(GrammarLensError, match=r"revision is 'v2', and .* has none: it is for"):
            load_model(source, revision="v2", **options)


def test_unknown_dtype_and_device(folder: Path, tiny_hf: Callable[[], Any], tiny_tokenizer: Any):
    hf = tiny_hf()
    for source, options in ((folder, {}), (hf, {"tokenizer": tiny_tokenizer})):
        with pytest.raises(GrammarLensError, match="dtype is 'float8'"):
            load_model(source, dtype="float8", **options)
        with pytest.raises(GrammarLensError, match="device 'toaster' is not one that torch knows"):
            load_model(source, device="toaster", **options)
        if not torch.cuda.is_available():
            with pytest.raises(GrammarLensError, match=r"'cuda:0'.*CUDA"):
                load_model(source, device="cuda:0", **options)
    with pytest.raises(GrammarLensError, match="device_map is for models loaded here"):
        load_model(hf, tokenizer=tiny_tokenizer, device_map="auto")


def test_loaded_models_that_cannot_be_used(tiny_hf: Callable[[], Any], tiny_tokenizer: Any):
    with pytest.raises(
        GrammarLensError, match=r"needs its tokenizer: load_model\(model, tokenizer="
    ):
        load_model(tiny_hf())
    with pytest.raises(
        GrammarLensError, match="expected a Hugging Face causal language model, got Linear"
    ):
        load_model(nn.Linear(2, 2), tokenizer=tiny_tokenizer)
    config = transformers.SegformerConfig()
    with pytest.raises(
        GrammarLensError, match=r"SegformerModel, which TransformerLens cannot hook. Supp"
    ):
        load_model(transformers.SegformerModel(config), tokenizer=tiny_tokenizer)


def test_unknown_site_and_layer(tiny: Model):
    with pytest.raises(GrammarLensError, match=r"'brain'.*neuron, resid_pre"):
        about.hook_name(tiny, "brain", 0)
    for layer in (2, -1):
        with pytest.raises(
            GrammarLensError,
            match=rf"{layer}.*has 2.*layers, numbered.*from 0",
        ):
            about.hook_name(tiny, "neuron", layer)
    with pytest.raises(GrammarLensError, match="site is "):
        about.site_width(tiny, "brain")


def test_supported_architectures_name_the_families_we_test():
    wanted = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM"}
    assert wanted <= set(about.supported_architectures())


def test_threads_load_one_after_the_other() -> None:
    """transformers would leave its classes changed, and no later model would have its tied weights."""
    tie = transformers.PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_model(), range(8)))
    assert transformers.PreTrainedModel.tie_weights is tie
    assert len({about.fingerprint(model) for model in loaded}) == 1
