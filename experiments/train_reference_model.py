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
import json
import math
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grammar_lens.cli.errors import INTERRUPTED
from grammar_lens.cli.scripts import start_page
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import make_folder, to_json, write_file, write_json
from grammar_lens.runs.store.provenance import checkout_commit, library_versions

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
COMPILE_STEPS = 5  # on a GPU the first steps of a session compile: the clock leaves them out
SUFFIXES = (".txt", ".md")
CHECKPOINT = "checkpoint.safetensors"
RECORD = "training.json"  # written last: a folder that has it is complete
MODEL_FILES = ("model.safetensors", "config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FREE_ON_RESUME = {"text", "out", "tokenizer", "resume", "overwrite", "device", "micro_batch"}


@dataclass(frozen=True)
class Config:
    """The flags. The defaults are the recipe of the reference model.

    Raises GrammarLensError on values that no run can use.
    """

    text: Annotated[
        Path,
        typer.Option(
            help="folder of .txt and .md files, UTF-8, read recursively: a file is a document, "
            "blank lines end paragraphs"
        ),
    ]
    out: Annotated[Path, typer.Option(help="folder for the model, new or empty")]
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json or its folder (default: train one)")
    ] = None
    vocab: Annotated[int, typer.Option(help="size of the vocabulary to train")] = 8192
    n_layers: Annotated[int, typer.Option(help="layers")] = 8
    d_model: Annotated[int, typer.Option(help="width of the residual stream")] = 256
    d_mlp: Annotated[int, typer.Option(help="neurons per layer")] = 896
    n_heads: Annotated[int, typer.Option(help="attention heads")] = 8
    n_kv_heads: Annotated[int, typer.Option(help="key/value heads")] = 4
    context: Annotated[int, typer.Option(help="longest input of the finished model, in tokens")] = (
        1024
    )
    window: Annotated[int, typer.Option(help="tokens per training window")] = 512
    batch: Annotated[int, typer.Option(help="windows per step")] = 128
    micro_batch: Annotated[
        int | None, typer.Option(help="windows in memory (default: all on a GPU, else 8)")
    ] = None
    steps: Annotated[int, typer.Option(help="steps of training")] = 13_037
    learning_rate: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3
    warmup: Annotated[int, typer.Option(help="steps of warm-up")] = 200
    weight_decay: Annotated[float, typer.Option(help="weight decay of the matrices")] = 0.1
    evaluate_every: Annotated[
        int, typer.Option(help="steps between validations, which also save a checkpoint")
    ] = 500
    validation_windows: Annotated[int, typer.Option(help="most windows per validation")] = 640
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="where to train")] = "auto"
    resume: Annotated[bool, typer.Option(help="resume from the checkpoint in --out")] = False
    overwrite: Annotated[bool, typer.Option(help="replace the earlier model in --out")] = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            is_allowed = value > 0 or (value == 0 and name in ("warmup", "weight_decay", "seed"))
            if not is_allowed or math.isinf(value):
                raise GrammarLensError(f"{flag(name)} is {value}: give a positive number")
        if self.resume and self.overwrite:
            raise GrammarLensError("--resume and --overwrite were both given: choose one")
        if self.window > self.context:
            raise GrammarLensError(
                f"--window {self.window} exceeds --context {self.context}: raise it"
            )
        if self.d_model % (2 * self.n_heads) or self.n_heads % self.n_kv_heads:
            raise GrammarLensError(
                f"{self.n_heads} heads do not fit --d-model {self.d_model} and --n-kv-heads "
                f"{self.n_kv_heads}: d_model must be a multiple of twice n_heads, and n_heads a "
                "multiple of n_kv_heads"
            )
        if self.batch % (self.micro_batch or 1):
            raise GrammarLensError(f"--micro-batch {self.micro_batch} does not divide --batch")
        if self.vocab < 258:
            raise GrammarLensError(
                f"--vocab is {self.vocab}, needs at least 258: 256 bytes, BOS and EOS"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise GrammarLensError(
                "--device cuda, but there is no GPU that torch can use: leave it out"
            )


@dataclass(frozen=True)
class Corpus:
    """The packed text, one `BOS passage EOS` after the other, and its SHA-256."""

    train: np.ndarray
    validation: np.ndarray
    sha256: str


@dataclass(frozen=True)
class Evaluation:
    """A line of the history. Losses in nats per token; training loss since the line before."""

    step: int
    tokens: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    seconds: float


@dataclass
class Training:
    """A run under way. A checkpoint holds what changes: all but the corpus and the config."""

    config: Config
    corpus: Corpus
    model: LlamaForCausalLM
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[torch.Tensor] = field(default_factory=list)  # since the last evaluation
    history: list[Evaluation] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.step * self.config.batch * self.config.window

    @property
    def done(self) -> float:
        """The share of the steps that is taken."""
        return self.step / self.config.steps

    @property
    def piece(self) -> int:
        """Windows in memory at once."""
        on_gpu = self.model.device.type == "cuda"
        batch = self.config.batch
        return self.config.micro_batch or (batch if on_gpu else math.gcd(batch, 8))


def main(config: Config) -> list[Evaluation]:
    """Train, save the model in `config.out` and return the history of losses.

    Raises GrammarLensError on text or folders that cannot be used, and KeyboardInterrupt on Ctrl-C, once
    the checkpoint is saved.
    """
    console = Console(soft_wrap=True, highlight=False)
    record = check_output(config)
    rng = np.random.default_rng(config.seed)
    with console.status("reading, tokenizing"):
        documents = read_documents(config, console)
        train_documents, validation_documents = split(documents, rng)
        train_passages = cut(train_documents, rng)
        validation_passages = cut(validation_documents, rng)
        rng.shuffle(train_passages)
        tokenizer = make_tokenizer(config, train_passages)
        corpus = pack(tokenizer, train_passages, validation_passages, config.window)
    console.print(
        f"{len(corpus.train):,} tokens to train on, {len(corpus.validation):,} to validate on"
    )
    training = start(config, corpus, tokenizer)
    console.print(f"{training.model.num_parameters():,} parameters on {training.model.device}")
    if record is None:
        claim_output(config, tokenizer)
    else:
        load_checkpoint(training, record)
        console.print(f"resuming after step {training.step:,}")
    train(training, console)
    save_model(training)
    console.print(f"saved in {config.out}")
    return training.history


# ---- text ----------------------------------------------------------------------------------------


def read_documents(config: Config, console: Console) -> list[list[str]]:
    """The paragraphs of every document, in the order of the paths, without hidden files.

    Raises GrammarLensError if there are no text files or one cannot be read.
    """
    if not config.text.is_dir():
        raise GrammarLensError(
            f"--text {config.text} is not a folder: name one with .txt or .md files"
        )
    paths = []
    for path in sorted(config.text.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(config.text).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not is_hidden:
            paths.append(path)
    if not paths:
        raise GrammarLensError(f"no .txt or .md files under {config.text}: check the path")
    documents = [paragraphs for path in paths if (paragraphs := paragraphs_of(path))]
    lengths = [len(paragraph) for document in documents for paragraph in document]
    console.print(
        f"{len(paths):,} files, {len(documents):,} documents, {sum(lengths):,} characters"
    )
    return documents


def paragraphs_of(path: Path) -> list[str]:
    """The paragraphs of a file, each in one line. Raises GrammarLensError if it is not UTF-8."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GrammarLensError(
            f"{path} is not UTF-8 (byte {error.start}): convert or remove it"
        ) from error
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]


def split(
    documents: list[list[str]], rng: np.random.Generator
) -> tuple[list[list[str]], list[list[str]]]:
    """Documents for training and for validation: one in 200, at least 8, at most a fifth.

    Raises GrammarLensError if there is only one document.
    """
    n = len(documents)
    if n < 2:
        raise GrammarLensError(
            f"found {n} documents with text, needs at least 2 because validation keeps whole ones: "
            "add or split files"
        )
    n_validation = min(max(8, n // 200), max(1, n // 5))
    shuffled = [documents[i] for i in rng.permutation(n)]
    return shuffled[n_validation:], shuffled[:n_validation]


def cut(documents: list[list[str]], rng: np.random.Generator) -> list[str]:
    """Passages of 1 to 15 paragraphs."""
    passages = []
    for document in documents:
        start = 0
        while start < len(document):
            stop = start + int(rng.integers(1, 16))
            passages.append("\n".join(document[start:stop]))
            start = stop
    return passages


# ---- tokens --------------------------------------------------------------------------------------


def make_tokenizer(config: Config, passages: list[str]) -> Tokenizer:
    """The tokenizer of the run that is resumed, else the one given, else a new one."""
    source = config.out if config.resume else config.tokenizer
    if source is not None:
        return load_tokenizer(source)
    return train_tokenizer(passages[:120_000], config.vocab)


def train_tokenizer(sample: list[str], vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer with Llama 3's pre-tokenisation that puts BOS first.

    Has fewer than `vocab` entries if the sample offers no more merges.
    """
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(f"{BOS} $A", special_tokens=[bos])
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """A Llama-3-style tokenizer from a file or folder. Raises GrammarLensError if it is not one."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise GrammarLensError(f"there is no tokenizer {file}: name a tokenizer.json or its folder")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # all that tokenizers raises
        raise GrammarLensError(
            f"{file} is not a tokenizer ({error}): name a tokenizer.json"
        ) from error
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    if bos is None or eos is None or tokenizer.encode("a").ids[0] != bos:
        raise GrammarLensError(
            f"{file} has no {EOS} or does not put {BOS} first: use one that does"
        )
    return tokenizer


def pack(tokenizer: Tokenizer, train: list[str], validation: list[str], window: int) -> Corpus:
    """The packed tokens. Raises GrammarLensError if a part does not fill one window."""
    parts = {"training": encode(tokenizer, train), "validation": encode(tokenizer, validation)}
    digest = hashlib.sha256()
    for name, tokens in parts.items():
        if len(tokens) <= window:
            raise GrammarLensError(
                f"too little text: the {name} part has {len(tokens):,} tokens, needs "
                f"{window + 1:,} (a window and the token after it): add text or lower --window"
            )
        digest.update(tokens.tobytes())
    return Corpus(parts["training"], parts["validation"], digest.hexdigest())


def encode(tokenizer: Tokenizer, texts: list[str], chunk: int = 20_000) -> np.ndarray:
    """The tokens of `BOS text EOS` for all texts in one row."""
    tokenizer.encode_special_tokens = True  # "<|end_of_text|>" written in a file stays text
    eos = tokenizer.token_to_id(EOS)
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    rows = []
    for start in range(0, len(texts), chunk):
        encodings = tokenizer.encode_batch_fast(texts[start : start + chunk])
        rows += [np.array([*encoding.ids, eos], dtype=kind) for encoding in encodings]
    tokenizer.encode_special_tokens = False
    return np.concatenate(rows)


def windows_at(tokens: np.ndarray, starts: np.ndarray, window: int) -> torch.Tensor:
    """One row per start: a window and the token after it."""
    return torch.from_numpy(tokens[starts[:, None] + np.arange(window + 1)].astype(np.int64))


# ---- model and training --------------------------------------------------------------------------


def start(config: Config, corpus: Corpus, tokenizer: Tokenizer) -> Training:
    """A new model and its optimiser; the weights depend on the seed and not on the device."""
    device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    shape = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
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
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(EOS),
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
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": gains, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=config.weight_decay,
        fused=device == "cuda",
    )
    return Training(config, corpus, model, optimizer)


def loss_of(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, nats per token. A GPU multiplies in bf16; the loss is always fp32."""
    kind = windows.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def learning_rate(step: int, done: float, config: Config) -> float:
    """Warm-up by steps; constant until 40 % is done; then linear to 2 % of the peak."""
    warmup = min(1.0, (step + 1) / max(config.warmup, 1))
    decay = 1.0 if done < 0.4 else max(0.02, (1 - done) / 0.6)
    return config.learning_rate * warmup * decay


def train(training: Training, console: Console) -> None:
    """Take the steps that are left.

    On Ctrl-C or SIGTERM saves a checkpoint and raises KeyboardInterrupt.
    """
    compiles = training.model.device.type == "cuda"
    if compiles:
        torch.set_float32_matmul_precision("high")  # torch.compile warns otherwise
    step_loss = torch.compile(loss_of) if compiles else loss_of
    first_step, seconds_before = training.step, training.seconds
    clock = time.monotonic()
    with stop_signal() as stop:
        while training.done < 1:
            if stop.is_set():
                save_checkpoint(training)
                console.print(
                    f"stopped after step {training.step:,}: run again with --resume to continue"
                )
                raise KeyboardInterrupt
            rate = learning_rate(training.step, training.done, training.config)
            take_step(training, rate, step_loss)
            now = time.monotonic()
            if compiles and training.step - first_step <= COMPILE_STEPS:
                clock = now
            training.seconds = seconds_before + now - clock
            if training.step % training.config.evaluate_every == 0 or training.done >= 1:
                evaluate(training, rate)
                console.print(describe(training.history[-1]))
                save_checkpoint(training)


def take_step(training: Training, rate: float, step_loss: Callable[..., torch.Tensor]) -> None:
    """One optimiser step on random windows, which the seed and the step number determine."""
    config, tokens = training.config, training.corpus.train
    rng = np.random.default_rng((config.seed, training.step))
    starts = rng.integers(0, len(tokens) - config.window, size=config.batch)
    pieces = windows_at(tokens, starts, config.window).split(training.piece)
    losses = []
    for piece in pieces:
        loss = step_loss(training.model, piece.to(training.model.device)) / len(pieces)
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
    """Add a line to the history, from windows spread evenly over the validation text.

    Raises GrammarLensError if the training has diverged.
    """
    config, tokens, model = training.config, training.corpus.validation, training.model
    n = (len(tokens) - 1) // config.window
    chosen = np.linspace(0, n - 1, min(n, config.validation_windows)).astype(np.int64)
    pieces = windows_at(tokens, chosen * config.window, config.window).split(training.piece)
    total = sum(loss_of(model, piece.to(model.device)).item() * len(piece) for piece in pieces)
    loss, train_loss = total / len(chosen), torch.stack(training.losses).double().mean().item()
    if not math.isfinite(loss + train_loss):
        raise GrammarLensError(
            f"the loss is no longer finite at step {training.step:,}: lower --learning-rate "
            f"(now {config.learning_rate}) or raise --warmup"
        )
    line = Evaluation(training.step, training.tokens, train_loss, loss, rate, training.seconds)
    training.history.append(line)
    training.losses.clear()


def describe(line: Evaluation) -> str:
    """A line of the history in words."""
    return (
        f"step {line.step:,}  {line.tokens:,} tokens  train {line.train_loss:.3f}  "
        f"validation {line.validation_loss:.3f}  rate {line.learning_rate:.5f}  "
        f"{line.seconds:.0f} s"
    )


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


# ---- files of a run ------------------------------------------------------------------------------


def check_output(config: Config) -> dict[str, Any] | None:
    """The checkpoint's record if the run resumes, else None. Writes nothing.

    Raises GrammarLensError if the folder cannot take this run.
    """
    if config.text.resolve() in (config.out.resolve(), *config.out.resolve().parents):
        raise GrammarLensError(
            f"--out {config.out} lies in --text {config.text}: choose another folder"
        )
    if config.resume:
        return read_record(config)
    if config.out.exists() and not config.out.is_dir():
        raise GrammarLensError(f"--out {config.out} is a file: name a folder")
    if config.out.exists() and any(config.out.iterdir()) and not config.overwrite:
        raise GrammarLensError(
            f"--out {config.out} is not empty: choose another folder, or add --resume to continue "
            "from a checkpoint in it, or --overwrite to replace the model in it"
        )
    return None


def read_record(config: Config) -> dict[str, Any]:
    """The checkpoint's record. Raises GrammarLensError if it is missing, damaged or of other flags."""
    path = config.out / CHECKPOINT
    if not path.exists():
        is_complete = (config.out / RECORD).exists()
        hint = "this training is complete" if is_complete else "leave --resume out"
        raise GrammarLensError(f"--resume finds no {CHECKPOINT} in {config.out}: {hint}")
    try:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["training"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise GrammarLensError(f"{path} is damaged: start again with --overwrite") from error
    for name, value in to_json(config).items():
        if name not in FREE_ON_RESUME and record["config"].get(name) != value:
            raise GrammarLensError(
                f"the checkpoint was made with {flag(name)} {record['config'].get(name)}, this run "
                f"has {value}: repeat the flags of the first run"
            )
    return record


def claim_output(config: Config, tokenizer: Tokenizer) -> None:
    """Remove the files of an earlier model, and no others; save the tokenizer."""
    make_folder(config.out)
    for name in (RECORD, CHECKPOINT, *MODEL_FILES, *TOKENIZER_FILES):
        (config.out / name).unlink(missing_ok=True)
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=config.context, **special
    ).save_pretrained(config.out)


def save_checkpoint(training: Training) -> None:
    """Save weights and optimiser state as tensors and all else as JSON in the header: one file."""
    parameters = training.model.named_parameters()
    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in parameters}
    for index, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in state.items()}
    record = {
        "config": to_json(training.config),
        "corpus_sha256": training.corpus.sha256,
        "step": training.step,
        "seconds": training.seconds,
        "losses": [loss.item() for loss in training.losses],
        "history": [asdict(line) for line in training.history],
    }
    metadata = {"training": json.dumps(record)}
    path = training.config.out / CHECKPOINT
    write_file(path, lambda unfinished: save_file(tensors, unfinished, metadata=metadata))


def load_checkpoint(training: Training, record: dict[str, Any]) -> None:
    """Take up the checkpoint. Raises GrammarLensError if it was made with another text."""
    if record["corpus_sha256"] != training.corpus.sha256:
        raise GrammarLensError(
            "--text is not the text of the checkpoint: give the same, or --overwrite"
        )
    parameters = dict(training.model.named_parameters())
    optimizer = training.optimizer.state_dict()
    with safe_open(training.config.out / CHECKPOINT, "pt") as file, torch.no_grad():
        for key in file.keys():  # noqa: SIM118 (the file is no dict)
            kind, name = key.split(".", 1)
            if kind == "parameter":
                parameters[name].copy_(file.get_tensor(key))
            else:
                index, name = name.split(".")
                optimizer["state"].setdefault(int(index), {})[name] = file.get_tensor(key)
    training.optimizer.load_state_dict(optimizer)
    training.step, training.seconds = record["step"], record["seconds"]
    training.losses = list(torch.tensor(record["losses"], device=training.model.device))
    training.history = [Evaluation(**line) for line in record["history"]]


def save_model(training: Training) -> None:
    """Save bfloat16 weights and the record, then remove the checkpoint."""
    out, model = training.config.out, training.model.bfloat16()
    with tempfile.TemporaryDirectory(dir=out) as folder:
        model.save_pretrained(folder, max_shard_size="1TB")
        for path in Path(folder).iterdir():
            os.replace(path, out / path.name)
    record = {
        "config": to_json(training.config),
        "provenance": {"commit": checkout_commit(), **library_versions()},
        "n_parameters": model.num_parameters(),
        "vocabulary": model.config.vocab_size,
        "train_tokens": len(training.corpus.train),
        "validation_tokens": len(training.corpus.validation),
        "corpus_sha256": training.corpus.sha256,
        "history": [asdict(line) for line in training.history],
    }
    write_json(out / RECORD, record)
    (out / CHECKPOINT).unlink(missing_ok=True)


def flag(name: str) -> str:
    """The flag of a field of Config."""
    return "--" + name.replace("_", "-")


def to_the_end(config: Config) -> None:
    """Runs the training; Ctrl-C, once the checkpoint is saved, ends it with its exit code."""
    try:
        main(config)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


if __name__ == "__main__":
    start_page(to_the_end, Config, __doc__)
