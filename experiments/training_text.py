"""The text that `train_reference_model.py` trains on: documents, passages, tokenizer, packed tokens."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.model.loading import REFERENCE_MODEL, locate

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
Documents = list[list[str]]
"""The paragraphs of every document."""


class PackedText(NamedTuple):
    """Tokens, one `BOS passage EOS` after the other, and their SHA-256."""

    train: np.ndarray
    validation: np.ndarray
    sha256: str


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


def make_tokenizer(
    given: Path | None, passages: Sequence[str], vocab: int, context: int
) -> PreTrainedTokenizerFast:
    """The tokenizer given, else the reference model's trained anew: byte-level BPE after Llama 3's
    pre-tokenisation.

    Has fewer than `vocab` entries if the text offers no more merges.
    """
    tokenizer = load_tokenizer(given or Path(locate(REFERENCE_MODEL)))
    if given is None:
        tokenizer = tokenizer.train_new_from_iterator(
            passages[:120_000], vocab, show_progress=False
        )
    tokenizer.model_max_length = context
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
) -> PackedText:
    """The packed tokens. Raises GrammarLensError if a part does not fill one window."""
    parts = {"training": encode(tokenizer, train), "validation": encode(tokenizer, validation)}
    for name, tokens in parts.items():
        least = window + 1  # and the token after it
        require_at_least(f"too little text: the {name} part", len(tokens), least, "tokens")
    digest = hashlib.sha256(b"".join(tokens.tobytes() for tokens in parts.values()))
    return PackedText(parts["training"], parts["validation"], digest.hexdigest())


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
