"""Train a small Llama-3-style language model on a folder of text, as the reference model was.

    python experiments/train_reference_model.py --text books --out models/mine

Claim: the embedded reference model needs nothing but public text and this page.
Run time: 6 minutes on one H200 (9.2 M parameters, 854 M tokens at 2.4 M tokens/s). Two CPU cores
do 2,000 to 3,000 tokens/s; `--steps 200 --batch 16 --window 128 --warmup 20` is a first look.
Expected result: 3.35 nats per token on held-out books, from 457 MB of English (see the card beside
its weights, grammar_lens/embedded/reference-9m/README.md).

The output folder loads offline with AutoModelForCausalLM and AutoTokenizer.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from training_text import (
    BOS,
    EOS,
    PackedText,
    cut,
    make_tokenizer,
    pack,
    read_documents,
    split,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer import Option

from grammar_lens.cli.scripts import start_page
from grammar_lens.errors import GrammarLensError, require_at_least, require_between
from grammar_lens.files import make_folder, to_json, write_json
from grammar_lens.runs.store.provenance import checkout_commit, library_versions

LEAST = {"vocab": 258, "learning_rate": 0, "warmup": 0, "weight_decay": 0, "seed": 0}
"""The least value of a number, where it is not 1; 258 are the bytes, BOS and EOS."""
RECORD = "training.json"
say = partial(print, flush=True)


@dataclass(frozen=True)
class Config:
    """The flags; the defaults are the recipe of the reference model."""

    text: Annotated[Path, Option(help="Folder of .txt and .md files, a document each.")]
    out: Annotated[Path, Option(help="Folder for the model, new or empty.")]
    tokenizer: Annotated[Path | None, Option(help="A tokenizer.json; by default trained.")] = None
    vocab: Annotated[int, Option(help="Size of the vocabulary to train.")] = 8192
    n_layers: Annotated[int, Option(help="Layers.")] = 8
    d_model: Annotated[int, Option(help="Width of the residual stream.")] = 256
    d_mlp: Annotated[int, Option(help="Neurons per layer.")] = 896
    n_heads: Annotated[int, Option(help="Attention heads.")] = 8
    n_kv_heads: Annotated[int, Option(help="Heads of keys and values.")] = 4
    context: Annotated[int, Option(help="Longest input of the finished model, in tokens.")] = 1024
    window: Annotated[int, Option(help="Tokens per training window.")] = 512
    batch: Annotated[int, Option(help="Windows per step.")] = 128
    micro_batch: Annotated[int | None, Option(help="In memory; else all on a GPU, 8.")] = None
    steps: Annotated[int, Option(help="Steps of training.")] = 13_037
    learning_rate: Annotated[float, Option(help="Peak learning rate.")] = 3e-3
    warmup: Annotated[int, Option(help="Steps of warm-up.")] = 200
    weight_decay: Annotated[float, Option(help="Weight decay of the matrices.")] = 0.1
    evaluate_every: Annotated[int, Option(help="Steps between validations.")] = 500
    validation_windows: Annotated[int, Option(help="Most windows per validation.")] = 640
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Option(help="Where to train.")] = "auto"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) in (int, float):
                require_at_least(name, value, LEAST.get(name, 1))
        require_between("window", self.window, 1, self.context, "no more than the context")
        if self.d_model % (2 * self.n_heads) or self.n_heads % self.n_kv_heads:
            raise GrammarLensError(
                f"{self.n_heads} heads do not fit: --d-model {self.d_model} must be a multiple of "
                f"twice --n-heads, and --n-heads one of --n-kv-heads {self.n_kv_heads}"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise GrammarLensError("--device cuda: no GPU that torch can use; leave it out")


@dataclass
class Training:
    """A run under way. Losses are in nats per token; `losses` those since the last validation."""

    config: Config
    corpus: PackedText
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[torch.Tensor] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    def pieces(self, tokens: np.ndarray, starts: np.ndarray) -> list[torch.Tensor]:
        """Windows with the token after each, in pieces that fit in memory."""
        config, device = self.config, self.model.device
        usual = config.batch if device.type == "cuda" else math.gcd(config.batch, 8)
        windows = tokens[starts[:, None] + np.arange(config.window + 1)].astype(np.int64)
        return [p.to(device) for p in torch.from_numpy(windows).split(config.micro_batch or usual)]


def main(config: Config) -> list[dict[str, float]]:
    """Train, save the model in `config.out` and return the history of losses.

    Raises GrammarLensError on text or folders that cannot be used.
    """
    out = config.out
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise GrammarLensError(f"--out {out} is not an empty folder: choose another")
    rng = np.random.default_rng(config.seed)
    documents, held_out = split(read_documents(config.text), rng)
    passages, validation = cut(documents, rng), cut(held_out, rng)
    rng.shuffle(passages)
    tokenizer = make_tokenizer(config.tokenizer, passages, config.vocab, config.context)
    corpus = pack(tokenizer, passages, validation, config.window)
    say(f"{len(corpus.train):,} tokens to train on, {len(corpus.validation):,} to validate on")
    training = start(config, corpus, tokenizer)
    say(f"{training.model.num_parameters():,} parameters on {training.model.device}")
    train(training)
    make_folder(out)
    tokenizer.save_pretrained(out)
    training.model.bfloat16().save_pretrained(out)
    record = {
        "config": to_json(config),
        "provenance": {"commit": checkout_commit(), **library_versions()},
        "n_parameters": training.model.num_parameters(),
        "vocabulary": training.model.config.vocab_size,
        "train_tokens": len(corpus.train),
        "validation_tokens": len(corpus.validation),
        "corpus_sha256": corpus.sha256,
        "history": training.history,
    }
    write_json(out / RECORD, record)  # last: a folder that has it is complete
    say(f"saved in {out}")
    return training.history


def start(config: Config, corpus: PackedText, tokenizer: PreTrainedTokenizerFast) -> Training:
    """A new model and its optimiser; the weights depend on the seed and not on the device."""
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    known = tokenizer.backend_tokenizer
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        max_position_embeddings=config.context,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=known.token_to_id(BOS),
        eos_token_id=known.token_to_id(EOS),
        pad_token_id=known.token_to_id(EOS),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(shape)
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # as in GPT-2
                torch.nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.n_layers))
    model.train()  # without dropout, evaluation needs no other mode
    torch.nn.Module.to(model, device)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=device == "cuda"
    )
    return Training(config, corpus, model, optimizer)


def loss_of(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, nats per token. A GPU multiplies in bf16; the loss is always fp32."""
    kind = windows.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def learning_rate(step: int, config: Config) -> float:
    """Warm-up by steps; constant until 40 % is done; then linear to 2 % of the peak."""
    done = step / config.steps
    warmup = min(1.0, (step + 1) / max(config.warmup, 1))
    decay = 1.0 if done < 0.4 else max(0.02, (1 - done) / 0.6)
    return config.learning_rate * warmup * decay


def train(training: Training) -> None:
    """Take all steps; validate at times."""
    config, step_loss, begin = training.config, loss_of, time.monotonic()
    if training.model.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # torch.compile warns otherwise
        step_loss = torch.compile(loss_of)
    while training.step < config.steps:
        rate = learning_rate(training.step, config)
        take_step(training, rate, step_loss)
        if training.step % config.evaluate_every == 0 or training.step == config.steps:
            evaluate(training, rate, time.monotonic() - begin)


def take_step(training: Training, rate: float, step_loss: Callable[..., torch.Tensor]) -> None:
    """One optimiser step on random windows, which the seed and the step number determine."""
    config, tokens = training.config, training.corpus.train
    rng = np.random.default_rng((config.seed, training.step))
    starts = rng.integers(0, len(tokens) - config.window, size=config.batch)
    losses = []
    for piece in training.pieces(tokens, starts):
        loss = step_loss(training.model, piece) * (len(piece) / config.batch)
        loss.backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    training.losses.append(torch.stack(losses).sum())
    training.step += 1


@torch.no_grad()
def evaluate(training: Training, rate: float, seconds: float) -> None:
    """Add a line to the history, from windows spread evenly over the validation text; print it.

    Raises GrammarLensError if the training has diverged.
    """
    config, tokens = training.config, training.corpus.validation
    n = (len(tokens) - 1) // config.window
    chosen = np.linspace(0, n - 1, min(n, config.validation_windows)).astype(np.int64)
    pieces = training.pieces(tokens, chosen * config.window)
    total = sum(loss_of(training.model, piece).item() * len(piece) for piece in pieces)
    line = {
        "step": training.step,
        "tokens": training.step * config.batch * config.window,
        "train_loss": torch.stack(training.losses).double().mean().item(),
        "validation_loss": total / len(chosen),
        "learning_rate": rate,
        "seconds": seconds,
    }
    if not math.isfinite(line["train_loss"] + line["validation_loss"]):
        raise GrammarLensError(
            f"the loss is no longer finite at step {training.step:,}: lower --learning-rate "
            f"(now {config.learning_rate}) or raise --warmup"
        )
    training.history.append(line)
    training.losses.clear()
    losses = "train {train_loss:.3f}  validation {validation_loss:.3f}  rate {learning_rate:.5f}"
    say(("step {step:,}  {tokens:,} tokens  " + losses + "  {seconds:.0f} s").format_map(line))


if __name__ == "__main__":
    start_page(main, Config, __doc__)
