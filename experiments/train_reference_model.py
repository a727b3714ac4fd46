"""Train a small Llama-3-style language model on a folder of text, as the reference model was.

    python experiments/train_reference_model.py --text books --out models/mine
    python experiments/train_reference_model.py --text books --out models/mine --resume

Claim: the embedded reference model needs nothing but public text and this page.
Run time: 6 minutes on one H200 (9.2 M parameters, 854 M tokens at 2.4 M tokens/s). Two CPU cores
do 2,000 to 3,000 tokens/s; `--steps 200 --batch 16 --window 128 --warmup 20` is a first look.
Expected result: 3.35 nats per token on held-out books, from 457 MB of English (see the card beside
its weights, grammar_lens/embedded/reference-9m/README.md).

The output folder loads offline with AutoModelForCausalLM and AutoTokenizer. Ctrl-C saves
checkpoint.safetensors; --resume continues as if nothing had happened (on a CPU to the last bit).
"""

import hashlib
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import require_same
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer import Option

from grammar_lens.cli.scripts import start_page
from grammar_lens.errors import DamagedError, GrammarLensError, require_at_least, require_between
from grammar_lens.files import make_folder, read_tensors, save_tensors, to_json, write_json
from grammar_lens.model.loading import REFERENCE_MODEL, locate
from grammar_lens.runs.store.provenance import checkout_commit, library_versions

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
LEAST = {"vocab": 258, "learning_rate": 0, "warmup": 0, "weight_decay": 0, "seed": 0}
"""The least value of a number, where it is not 1; 258 are the bytes, BOS and EOS."""
FREE_ON_RESUME = {"text", "out", "tokenizer", "resume", "device", "micro_batch"}
CHECKPOINT, RECORD = "checkpoint.safetensors", "training.json"
Documents = list[list[str]]
"""The paragraphs of every document."""
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
    evaluate_every: Annotated[int, Option(help="Steps between validations and checkpoints.")] = 500
    validation_windows: Annotated[int, Option(help="Most windows per validation.")] = 640
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Option(help="Where to train.")] = "auto"
    resume: Annotated[bool, Option(help="Resume from the checkpoint in --out.")] = False

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


class Corpus(NamedTuple):
    """The packed text, one `BOS passage EOS` after the other, and its SHA-256."""

    train: np.ndarray
    validation: np.ndarray
    sha256: str


@dataclass
class Training:
    """A run under way. A checkpoint holds what changes: all but the corpus and the config.

    Losses are in nats per token; `losses` those of the steps since the last line of the history.
    """

    config: Config
    corpus: Corpus
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[torch.Tensor] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    def pieces(self, tokens: np.ndarray, starts: np.ndarray) -> list[torch.Tensor]:
        """Windows with the token after each, in pieces that fit in memory."""
        config, device = self.config, self.model.device
        usual = config.batch if device.type == "cuda" else math.gcd(config.batch, 8)
        windows = tokens[starts[:, None] + np.arange(config.window + 1)].astype(np.int64)
        return [p.to(device) for p in torch.from_numpy(windows).split(config.micro_batch or usual)]

    def record(self) -> dict[str, Any]:
        """Everything of the run that is no tensor."""
        return {
            "config": to_json(self.config),
            "provenance": {"commit": checkout_commit(), **library_versions()},
            "n_parameters": self.model.num_parameters(),
            "vocabulary": self.model.config.vocab_size,
            "train_tokens": len(self.corpus.train),
            "validation_tokens": len(self.corpus.validation),
            "corpus_sha256": self.corpus.sha256,
            "history": self.history,
        }


def main(config: Config) -> list[dict[str, float]]:
    """Train, save the model in `config.out` and return the history of losses.

    Raises GrammarLensError on text or folders that cannot be used, and KeyboardInterrupt on Ctrl-C,
    once the checkpoint is saved.
    """
    checkpoint = check_output(config)
    rng = np.random.default_rng(config.seed)
    documents, held_out = split(read_documents(config.text), rng)
    passages, validation = cut(documents, rng), cut(held_out, rng)
    rng.shuffle(passages)
    tokenizer = make_tokenizer(config, passages)
    corpus = pack(tokenizer, passages, validation, config.window)
    say(f"{len(corpus.train):,} tokens to train on, {len(corpus.validation):,} to validate on")
    training = start(config, corpus, tokenizer)
    say(f"{training.model.num_parameters():,} parameters on {training.model.device}")
    if checkpoint is None:
        make_folder(config.out)
        tokenizer.save_pretrained(config.out)
    else:
        take_up(training, *checkpoint)
        say(f"resuming after step {training.step:,}")
    train(training)
    training.model.bfloat16().save_pretrained(config.out)
    write_json(config.out / RECORD, training.record())  # last: a folder that has it is complete
    (config.out / CHECKPOINT).unlink(missing_ok=True)
    say(f"saved in {config.out}")
    return training.history


# ---- text and tokens -----------------------------------------------------------------------------


def read_documents(folder: Path) -> Documents:
    """The paragraphs of every text file, each in one line; blank lines end them.

    Hidden files are left out. Raises GrammarLensError if there are not two, or one is not UTF-8.
    """
    documents = []
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_hidden or path.suffix.lower() not in (".txt", ".md"):
            continue
        try:
            blocks = re.split(r"\n\s*\n", path.read_text("utf-8-sig"))
        except UnicodeDecodeError as error:
            place = f"{path} is not UTF-8 (byte {error.start})"
            raise GrammarLensError(f"{place}: convert or remove it") from error
        documents.append([" ".join(block.split()) for block in blocks if block.strip()])
    documents = [document for document in documents if document]
    require_at_least(
        f"the number of .txt and .md files with text in --text {folder}", len(documents), 2
    )
    return documents


def split(documents: Documents, rng: np.random.Generator) -> tuple[Documents, Documents]:
    """Documents for training and for validation: one in 200, at least 8, at most a fifth."""
    n = len(documents)
    n_validation = min(max(8, n // 200), max(1, n // 5))
    shuffled = [documents[i] for i in rng.permutation(n)]
    return shuffled[n_validation:], shuffled[:n_validation]


def cut(documents: Documents, rng: np.random.Generator) -> list[str]:
    """Passages of 1 to 15 paragraphs."""
    passages = []
    for document in documents:
        start = 0
        while start < len(document):
            stop = start + int(rng.integers(1, 16))
            passages.append("\n".join(document[start:stop]))
            start = stop
    return passages


def make_tokenizer(config: Config, passages: list[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of the run that is resumed, else the one given, else the reference model's,
    trained anew: byte-level BPE after Llama 3's pre-tokenisation.

    Has fewer than `vocab` entries if the text offers no more merges.
    """
    given = config.out if config.resume else config.tokenizer
    tokenizer = load_tokenizer(given or Path(locate(REFERENCE_MODEL)))
    if given is None:
        tokenizer = tokenizer.train_new_from_iterator(
            passages[:120_000], config.vocab, show_progress=False
        )
    tokenizer.model_max_length = config.context
    return tokenizer


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """A Llama-3-style tokenizer from a file or folder. Raises GrammarLensError if it is not one."""
    file = path / "tokenizer.json" if path.is_dir() else path
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), **special)
    except Exception as error:  # all that tokenizers raises
        raise GrammarLensError(f"{file} is not a tokenizer.json: {error}") from error
    backend = tokenizer.backend_tokenizer
    if backend.token_to_id(EOS) is None or backend.encode("a").tokens[0] != BOS:
        raise GrammarLensError(f"{file} has no {EOS} or does not put {BOS} first: use another")
    return tokenizer


def pack(
    tokenizer: PreTrainedTokenizerFast, train: list[str], validation: list[str], window: int
) -> Corpus:
    """The packed tokens. Raises GrammarLensError if a part does not fill one window."""
    parts = {"training": encode(tokenizer, train), "validation": encode(tokenizer, validation)}
    for name, tokens in parts.items():
        least = window + 1  # and the token after it
        require_at_least(f"too little text: the {name} part", len(tokens), least, "tokens")
    digest = hashlib.sha256(b"".join(tokens.tobytes() for tokens in parts.values()))
    return Corpus(parts["training"], parts["validation"], digest.hexdigest())


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], chunk: int = 20_000) -> np.ndarray:
    """The tokens of `BOS text EOS` for all texts in one row."""
    quick, eos = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    kind = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    quick.encode_special_tokens = True  # "<|end_of_text|>" written in a file stays text
    rows = []
    for start in range(0, len(texts), chunk):
        encodings = quick.encode_batch_fast(texts[start : start + chunk])
        rows += [np.array([*encoding.ids, eos], dtype=kind) for encoding in encodings]
    quick.encode_special_tokens = False
    return np.concatenate(rows)


# ---- model and training --------------------------------------------------------------------------


def start(config: Config, corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> Training:
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
    """Take the steps that are left; on Ctrl-C or SIGTERM save a checkpoint, raise KeyboardInterrupt."""
    config, step_loss = training.config, loss_of
    if training.model.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # torch.compile warns otherwise
        step_loss = torch.compile(loss_of)
    begin = time.monotonic() - training.seconds
    with stop_signal() as stop:
        while training.step < config.steps:
            if stop.is_set():
                save_checkpoint(training)
                say(f"checkpoint saved after step {training.step:,}")
                raise KeyboardInterrupt
            rate = learning_rate(training.step, config)
            take_step(training, rate, step_loss)
            training.seconds = time.monotonic() - begin
            if training.step % config.evaluate_every == 0 or training.step == config.steps:
                evaluate(training, rate)
                save_checkpoint(training)


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
def evaluate(training: Training, rate: float) -> None:
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
        "seconds": training.seconds,
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


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event set by Ctrl-C or SIGTERM, so that no step is cut in two; a second one interrupts."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- checkpoints ---------------------------------------------------------------------------------


def check_output(config: Config) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Tensors and record of the checkpoint to resume from; None for a new run. Writes nothing.

    Raises GrammarLensError if the folder cannot take this run, or its checkpoint is of another.
    """
    out, path = config.out, config.out / CHECKPOINT
    if not config.resume:
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise GrammarLensError(
                f"--out {out} is not an empty folder: choose another, or add --resume to continue "
                "from a checkpoint in it"
            )
        return None
    if not path.exists():
        hint = "this training is complete" if (out / RECORD).exists() else "leave --resume out"
        raise GrammarLensError(f"--resume finds no {CHECKPOINT} in {out}: {hint}")
    try:
        tensors, about = read_tensors(path)
    except DamagedError as error:
        raise GrammarLensError(f"{path} is damaged ({error.why}): choose another --out") from error
    require_same(path, about["training"]["config"], to_json(config), FREE_ON_RESUME)
    return tensors, about["training"]


def save_checkpoint(training: Training) -> None:
    """Save weights and optimiser state as tensors and all else as JSON in the header: one file."""
    tensors = {f"parameter.{name}": p.detach() for name, p in training.model.named_parameters()}
    for index, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"{key}.{index}": state[key] for key in ("exp_avg", "exp_avg_sq")}
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    losses = [loss.item() for loss in training.losses]
    record = training.record() | {"losses": losses}
    record |= {"step": training.step, "seconds": training.seconds}
    save_tensors(training.config.out / CHECKPOINT, arrays, {"training": record})


def take_up(training: Training, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    """Set the run to where the checkpoint stands. Raises GrammarLensError for one of another text."""
    if record["corpus_sha256"] != training.corpus.sha256:
        raise GrammarLensError("--text is not the text of the checkpoint: give the same")
    parts: dict[str, dict[str, torch.Tensor]] = {"parameter": {}, "exp_avg": {}, "exp_avg_sq": {}}
    for key, array in arrays.items():
        kind, _, name = key.partition(".")
        parts[kind][name] = torch.from_numpy(array)
    training.model.load_state_dict(parts.pop("parameter"), strict=False)  # the head is tied
    state = {
        int(index): {"step": torch.tensor(float(record["step"]))}
        | {k: parts[k][index] for k in parts}
        for index in parts["exp_avg"]
    }
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": state, "param_groups": groups})
    training.step, training.seconds = record["step"], record["seconds"]
    training.losses = list(torch.tensor(record["losses"], device=training.model.device))
    training.history = record["history"]


if __name__ == "__main__":
    start_page(main, Config, __doc__)
