"""The training script learns what a text has to teach, and says what is wrong."""

import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_reference_model
import training_text
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from grammar_lens.cli.scripts import start_page
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.loading import REFERENCE_MODEL, locate

script: Any = train_reference_model
SCRIPT = Path(__file__).parents[2] / "experiments" / "train_reference_model.py"
CHOICES = (
    ("The old man", "A small dog", "Her sister", "The captain", "No one"),
    ("walked to", "looked at", "spoke of", "ran from", "found"),
    ("the river.", "a house.", "the city.", "his friend.", "the door."),
)
NATS_PER_SENTENCE = 3 * math.log(5)


def sentences(rng: random.Random, n: int) -> str:
    return " ".join(rng.choice(part) for _ in range(n) for part in CHOICES)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread, for minutes if the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files of forty paragraphs of five sentences: every sentence is worth 3 ln 5 nats."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    for i in range(12):
        paragraphs = [sentences(rng, 5) for _ in range(40)]
        (folder / f"{i}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    return folder


def tiny(text: Path, out: Path, **changes: Any) -> Any:
    config = script.Config(
        text=text,
        out=out,
        vocab=400,
        n_layers=2,
        d_model=32,
        d_mlp=64,
        n_heads=4,
        n_kv_heads=2,
        context=128,
        window=64,
        batch=8,
        steps=30,
        warmup=5,
        evaluate_every=10,
        learning_rate=1e-2,
        device="cpu",
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 30 steps."""
    out = tmp_path_factory.mktemp("finished") / "model"
    script.main(tiny(text, out))
    return out


def record_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


def losses_of(out: Path) -> list[tuple[int, float, float]]:
    history = record_of(out)["history"]
    return [(line["step"], line["train_loss"], line["validation_loss"]) for line in history]


# ---- what is learned -----------------------------------------------------------------------------


def test_loss_falls_in_thirty_steps(finished: Path):
    losses = losses_of(finished)
    assert [step for step, _, _ in losses] == [10, 20, 30]
    uniform = math.log(record_of(finished)["vocabulary"])
    assert losses[0][1] < uniform
    assert losses[2][1] < losses[1][1] < losses[0][1]
    assert losses[2][2] < 0.6 * uniform


def test_training_ends_at_the_entropy_of_the_text(text: Path, tmp_path: Path):
    """Planted: the loss comes down to the entropy of the sentences and cannot pass below it."""
    last = script.main(tiny(text, tmp_path / "model", steps=200, evaluate_every=100))[-1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    n = 400
    tokens = len(tokenizer(sentences(random.Random(1), n), add_special_tokens=False).input_ids)
    entropy = n * NATS_PER_SENTENCE / tokens
    # 3 % below: the validation text is a sample of 400 sentences; 20 % above: ends of paragraphs,
    # windows that begin inside a sentence, and 200 steps of a tiny model
    assert 0.97 * entropy < last["validation_loss"] < 1.2 * entropy


def test_nothing_is_learned_from_noise(tmp_path: Path):
    """The twin: letters drawn at random. Below ln 16 the model would see what it has to predict."""
    text = tmp_path / "text"
    text.mkdir()
    rng = random.Random(0)
    for i in range(10):
        (text / f"{i}.txt").write_text("".join(rng.choices("abcdefghijklmnop", k=3000)))
    config = tiny(text, tmp_path / "model", vocab=258, steps=100, evaluate_every=50)
    last = script.main(config)[-1]
    assert math.log(16) * 0.995 < last["validation_loss"] < math.log(16) * 1.1


def test_output_loads_offline_and_generates(finished: Path, text: Path):
    model: Any = AutoModelForCausalLM.from_pretrained(finished, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(finished, local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 128
    inputs = tokenizer("The old man", return_tensors="pt")
    assert inputs.input_ids[0, 0] == tokenizer.bos_token_id == model.config.bos_token_id == 0
    words = model.generate(inputs.input_ids, max_new_tokens=8, do_sample=False, pad_token_id=1)
    assert tokenizer.decode(words[0], skip_special_tokens=True).startswith("The old man")
    # second opinion: the loss of transformers on text of the same kind; 0.3 nats for bf16
    # weights, a sample of at most 120 tokens and a longer window
    fresh = tokenizer(sentences(random.Random(2), 12), return_tensors="pt").input_ids[:, :120]
    assert model(fresh, labels=fresh).loss.item() == pytest.approx(
        losses_of(finished)[-1][2], abs=0.3
    )


def test_output_holds_what_it_should(finished: Path):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    record = record_of(finished)
    assert record["config"]["seed"] == 0
    assert record["provenance"]["torch"] == torch.__version__
    assert record["history"][-1]["tokens"] == 30 * 8 * 64
    assert record["n_parameters"] > record["vocabulary"]


def test_defaults_are_the_reference_model():
    config = script.Config(text=Path("text"), out=Path("out"), device="cpu")
    tokenizer = training_text.load_tokenizer(Path(locate(REFERENCE_MODEL)))
    training = script.start(config, None, tokenizer)
    assert training.model.num_parameters() == 9_179_392  # the embedded model's
    assert config.steps * config.batch * config.window == pytest.approx(854e6, rel=1e-3)
    layer = training.model.model.layers[0]
    # 1 %: the standard error of a standard deviation of 65,536 weights is 0.3 %
    assert layer.self_attn.o_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.01)
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.01)


def test_learning_rate_follows_the_recipe():
    config = script.Config(text=Path("text"), out=Path("out"))
    shares = {0: 1 / 200, 199: 1, 5000: 1, 9125.9: 1 / 2, 13_036: 0.02}
    for step, share in shares.items():
        assert script.learning_rate(step, config) == pytest.approx(3e-3 * share)


def fresh_training(finished: Path, **changes: Any) -> Any:
    """A new model and 700 random tokens, to train on and to validate on."""
    tokens = np.random.default_rng(0).integers(0, 258, 700, dtype=np.uint16)
    config = tiny(Path("text"), Path("out"), **changes)
    corpus = training_text.PackedText(tokens, tokens, "")
    return script.start(config, corpus, training_text.load_tokenizer(finished))


def test_validation_is_the_mean_over_whole_windows(finished: Path):
    training = fresh_training(finished, batch=4)  # ten windows in pieces of four
    training.losses.append(torch.tensor(1.0))
    script.evaluate(training, 0.0, 0.0)
    inputs, targets = (
        torch.from_numpy(training.corpus.validation[start:][:640].astype(np.int64)).view(10, 64)
        for start in (0, 1)
    )
    logits = training.model(inputs).logits
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean().item()
    # 1e-5: float32 sums in another order; other windows differ by 1e-3 and more
    assert training.history[0]["validation_loss"] == pytest.approx(expected, abs=1e-5)


def test_step_moves_weights_by_its_rate(finished: Path):
    training = fresh_training(finished)
    before = training.model.lm_head.weight.detach().clone()
    script.take_step(training, 0.0, script.loss_of)
    assert torch.equal(training.model.lm_head.weight, before)
    script.take_step(training, 1e-3, script.loss_of)
    moved = (training.model.lm_head.weight - before).abs().max().item()
    assert 0.5e-3 < moved < 2e-3  # the first steps of Adam are about the rate


# ---- the same run, another way -------------------------------------------------------------------


def test_pieces_of_a_batch_add_up_to_the_batch(finished: Path, text: Path, tmp_path: Path):
    script.main(tiny(text, tmp_path / "model", micro_batch=2))
    # 1e-3: float32 sums in another order, carried through 30 steps
    assert np.allclose(losses_of(tmp_path / "model"), losses_of(finished), atol=1e-3)


def test_seed_decides_everything(finished: Path, text: Path, tmp_path: Path):
    outs = [tmp_path / name for name in ("first", "again", "other")]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        script.main(tiny(text, out, seed=seed, tokenizer=finished, steps=2))
    first, again, other = [load_file(out / "model.safetensors") for out in outs]
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.embed_tokens.weight"
    assert not torch.equal(first[name], other[name])
    digests = [record_of(out)["corpus_sha256"] for out in outs]
    assert digests[0] == digests[1] != digests[2]  # the order of the passages, too
    tokenizer = training_text.load_tokenizer(finished)
    starts = [script.start(tiny(text, tmp_path, seed=seed), None, tokenizer) for seed in (1, 2)]
    assert not torch.equal(*(training.model.lm_head.weight for training in starts))


# ---- text ----------------------------------------------------------------------------------------


def test_reads_all_kinds_of_text_files(tmp_path: Path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffOne\r\ntwo.\r\n\r\nThree.\r\n".encode())
    (tmp_path / "b.MD").write_text("# Four\n")
    (tmp_path / "deep" / "er" / "c.txt").write_text("Fünf.\n", "utf-8")
    (tmp_path / ".hidden" / "d.txt").write_text("never")
    (tmp_path / "e.csv").write_text("never")
    (tmp_path / "f.txt").write_text("\n \n")
    assert training_text.read_documents(tmp_path) == [["One two.", "Three."], ["# Four"], ["Fünf."]]


@pytest.mark.parametrize(("n", "expected"), [(2, 1), (12, 2), (100, 8), (1498, 8), (4000, 20)])
def test_validation_keeps_whole_documents(n: int, expected: int):
    documents = [[f"{i} first", f"{i} second"] for i in range(n)]
    train, validation = training_text.split(documents, np.random.default_rng(0))
    assert len(validation) == expected
    assert sorted(train + validation) == sorted(documents)


def test_passages_are_the_document_in_order():
    documents = [[f"{d}.{i}" for i in range(40)] for d in range(5)]
    passages = training_text.cut(documents, np.random.default_rng(0))
    assert "\n".join(passages).split("\n") == [p for document in documents for p in document]
    assert {len(passage.split("\n")) for passage in passages} <= set(range(1, 16))


def test_tokenizer_keeps_every_character_and_packs_passages(finished: Path):
    tokenizer = training_text.load_tokenizer(finished)
    odd = "  It's 12345 o'clock,\n\n\tnaïve 🦙 日本語 <|end_of_text|> ..."
    tokens = training_text.encode(tokenizer, [odd, "The river."], chunk=1)
    assert tokens.dtype == np.uint16
    ends = np.flatnonzero(tokens == 1)
    assert len(ends) == 2  # written in the text, the special token is text
    assert ends[1] == len(tokens) - 1
    assert np.flatnonzero(tokens == 0).tolist() == [0, ends[0] + 1]
    assert tokenizer.decode(tokens[1 : ends[0]].tolist(), skip_special_tokens=False) == odd
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("We'll see 12345 times")
    words = [word for word, _ in cut]
    assert words == ["We", "'ll", "Ġsee", "Ġ", "123", "45", "Ġtimes"]  # as Llama 3 splits


# ---- errors --------------------------------------------------------------------------------------

BAD_FLAGS = {
    "steps is 0, expected 1 or more": {"steps": 0},
    "learning_rate is nan": {"learning_rate": math.nan},
    "seed is -1": {"seed": -1},
    "window is 64, expected 1 to 32": {"context": 32},
    "5 heads do not fit: --d-model 32": {"n_heads": 5},
    "--n-heads one of --n-kv-heads 3": {"n_kv_heads": 3},
    "micro_batch is 0, expected 1 or more": {"micro_batch": 0},
    "vocab is 257, expected 258 or more": {"vocab": 257},
}


@pytest.mark.parametrize(("message", "changes"), BAD_FLAGS.items(), ids=str)
def test_bad_flags(message: str, changes: dict[str, Any]):
    with pytest.raises(GrammarLensError) as error:
        tiny(Path("text"), Path("out"), **changes)
    assert message in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu():
    with pytest.raises(GrammarLensError, match="no GPU that torch can use"):
        tiny(Path("text"), Path("out"), device="cuda")


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder


BAD_TEXT = {
    "is 0, expected 2 or more": {"a_csv": b"1,2"},
    "a.txt is not UTF-8 (byte 3)": {"a_txt": "naïve caf\xe9".encode("latin-1")[:2] + b"x\xe9 "},
    "is 1, expected 2 or more": {"a_txt": b"text " * 999, "b_txt": b" \n"},
    "too little text: the training part is": {"a_txt": b"text", "b_txt": b"text"},
    "too little text: the validation part is": {f"{i}_txt": b"x" * 30 for i in range(9)},
}


@pytest.mark.parametrize(("message", "files"), BAD_TEXT.items(), ids=str)
def test_bad_text(message: str, files: dict[str, bytes], tmp_path: Path):
    config = tiny(write(tmp_path / "text", **files), tmp_path / "out", vocab=258)
    with pytest.raises(GrammarLensError) as error:
        script.main(config)
    assert message in str(error.value)
    assert not config.out.exists()


def test_bad_output_folders(text: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GrammarLensError, match="is not an empty folder"):
        script.main(tiny(text, tmp_path / "file"))
    with pytest.raises(GrammarLensError, match="is not an empty folder"):
        script.main(tiny(text, tmp_path))


def test_bad_tokenizers(finished: Path, tmp_path: Path):
    with pytest.raises(GrammarLensError, match="is not a tokenizer"):
        training_text.load_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(GrammarLensError, match="is not a tokenizer"):
        training_text.load_tokenizer(tmp_path)
    good = json.loads((finished / "tokenizer.json").read_text(encoding="utf-8"))
    file.write_text(json.dumps(good | {"post_processor": None}))
    with pytest.raises(GrammarLensError, match=r"does not put <\|begin_of_text\|> first"):
        training_text.load_tokenizer(file)


def test_divergence(finished: Path, text: Path, tmp_path: Path):
    config = tiny(text, tmp_path / "model", learning_rate=1e30, warmup=0, tokenizer=finished)
    with pytest.raises(GrammarLensError, match=r"no longer finite at step 10: lower --learning"):
        script.main(config)


# ---- command line --------------------------------------------------------------------------------


def run_script(*words: object) -> int | str | None:
    """Runs the script as `python train_reference_model.py ...` would, and gives its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            start_page(script.main, script.Config, script.__doc__)
    return stop.value.code


def test_every_field_is_a_flag(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    monkeypatch.setattr(script, "main", seen.append)
    assert run_script("--text", "a", "--out", "b") == 0
    words = "--text a --out b --tokenizer c --warmup 0 --micro-batch 4"
    assert run_script(*words.split()) == 0
    plain, config = seen
    assert plain == script.Config(text=Path("a"), out=Path("b"))
    assert (config.tokenizer, config.warmup) == (Path("c"), 0)
    assert (config.micro_batch, config.steps) == (4, 13_037)


def test_bad_input_exits_2_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_script("--text", tmp_path / "nowhere", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the number of .txt and .md files")
    assert "Traceback" not in error
    assert run_script("--text") == 2


def test_success_exits_0(finished: Path, text: Path, tmp_path: Path):
    out = tmp_path / "model"
    small = "--window 32 --batch 4 --steps 3 --n-layers 1 --d-model 8 --d-mlp 8 --n-heads 1 "
    small += f"--n-kv-heads 1 --device cpu --tokenizer {finished}"
    assert run_script("--text", text, "--out", out, *small.split()) == 0
    assert losses_of(out)[-1][0] == 3
