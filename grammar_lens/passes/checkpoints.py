"""Checkpoints of a pass, so that a run killed at any moment can be resumed.

A checkpoint is one safetensors file, written under another name and renamed: a killed process leaves
the one before. It holds the collectors' committed state, how far the pass was, and what it is of;
its checksum is over all of them. The share of a job array's job is such a file, of all its batches.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import make_folder, write_file
from grammar_lens.model.about import Model, fingerprint
from grammar_lens.passes import distributed
from grammar_lens.passes.distributed import Shard
from grammar_lens.passes.readers import Collector, State

SECONDS = 30.0
"""The least time between two checkpoints, unless another is given."""
SHARE = 20.0
"""Nor are they made more often than this many times as long as the last one took to write."""


@dataclass
class Checkpoints:
    """Keeps a pass in a file, every so many batches, or by default when it takes little of the time.

    The file is read when the pass begins. Raises GrammarLensError when it is damaged, or is of
    another model, other words or other options, naming them.
    """

    path: Path
    every: int | None = None
    whole: bool = False
    """Whether the last batch's checkpoint is always written."""
    _about: Mapping[str, object] | None = None
    _last: float = 0.0
    _took: float = 0.0

    def begin(
        self, about: Mapping[str, object], collectors: Sequence[Collector]
    ) -> tuple[int, int | None]:
        """Loads the checkpoint; returns how many batches it covers and the token budget then."""
        expected: dict[str, object] = json.loads(json.dumps(about))
        self._about = expected
        self._last = time.monotonic()
        if not self.path.is_file():
            return 0, None
        with open_checkpoint(self.path) as checkpoint:
            checkpoint.require(expected)
            checkpoint.verify()
            for i, collector in enumerate(collectors):
                collector.load(list(checkpoint.pieces(i)))
            return checkpoint.done, checkpoint.budget

    def after(
        self, done: int, budget: int | None, collectors: Sequence[Collector], last: bool
    ) -> None:
        """Counts a finished batch, and writes a checkpoint when one is due."""
        waited = time.monotonic() - self._last
        if self.every is not None:
            due = done % self.every == 0 or last
        else:
            due = waited >= max(SECONDS, SHARE * self._took)
        if due or (last and self.whole):
            begin = time.monotonic()
            assert self._about is not None, "`begin` comes before `after`"
            write_checkpoint(self.path, self._about, done, budget, collectors)
            self._last = time.monotonic()
            self._took = self._last - begin


def write_checkpoint(
    path: Path,
    about: Mapping[str, object],
    done: int,
    budget: int | None,
    collectors: Sequence[Collector],
) -> None:
    """Writes a checkpoint, whole or not at all. Raises GrammarLensError when the disk cannot take it."""
    tensors = {
        f"{i}.{j}.{name}": tensor.detach().cpu().contiguous()
        for i, collector in enumerate(collectors)
        for j, piece in enumerate(collector.state())
        for name, tensor in piece.items()
    }
    text = json.dumps({"about": about, "done": done, "budget": budget}, sort_keys=True)
    digest = xxhash.xxh3_128(text.encode())
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    make_folder(path.parent)
    metadata = {"pass": text, "checksum": digest.hexdigest()}
    write_file(path, lambda part: save_file(tensors, part, metadata))


class Kept:
    """An open checkpoint: the pass it belongs to, and its pieces one by one."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        metadata = file.metadata() or {}
        try:
            self._text, self._checksum = metadata["pass"], metadata["checksum"]
            stored = json.loads(self._text)
            self.about: dict[str, Any] = stored["about"]
            self.done: int = stored["done"]
            self.budget: int | None = stored["budget"]
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, f"no {error}") from error
        self._names = sorted(file.keys())

    def require(self, about: Mapping[str, object]) -> None:
        """Raises GrammarLensError naming what differs, if the checkpoint is another pass's."""
        names = [*about, *(name for name in self.about if name not in about)]
        changed = [
            f"{name.replace('_', ' ')}: it was {self.about.get(name)!r}, now {about.get(name)!r}"
            for name in names
            if self.about.get(name) != about.get(name)
        ]
        if changed:
            raise GrammarLensError(
                f"{self.path} belongs to a different pass and cannot be resumed "
                f"({'; '.join(changed)}): use the original settings, or delete it and start again"
            )

    def verify(self) -> None:
        """Raises GrammarLensError unless the checksum is that of the contents."""
        digest = xxhash.xxh3_128(self._text.encode())
        try:
            for name in self._names:
                _add(digest, name, self._file.get_tensor(name))
        except SafetensorError as error:
            raise _damaged(self.path, str(error)) from error
        if digest.hexdigest() != self._checksum:
            raise _damaged(self.path, f"checksum {digest.hexdigest()}, expected {self._checksum}")

    def pieces(self, collector: int) -> Iterator[State]:
        """The state of one collector, by its number, piece by piece."""
        names: dict[int, list[str]] = {}
        for name in self._names:
            i, j, _ = name.split(".", 2)
            if int(i) == collector:
                names.setdefault(int(j), []).append(name)
        for j in sorted(names):
            yield {name.split(".", 2)[2]: self._file.get_tensor(name) for name in names[j]}


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Kept]:
    """A checkpoint to read from. Raises GrammarLensError when it is damaged."""
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    with file as inside:
        yield Kept(path, inside)


def load_shards(paths: Sequence[Path], collectors: Sequence[Collector]) -> None:
    """Gives collectors what the shards of a job array have found together, in the shards' order."""
    with _open_all(paths) as shards:
        for i, collector in enumerate(collectors):
            columns = zip(*(shard.pieces(i) for shard in shards), strict=True)
            collector.load([distributed.merged(collector.merge, iter(piece)) for piece in columns])


@contextmanager
def _open_all(paths: Sequence[Path]) -> Iterator[list[Kept]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        shards = [stack.enter_context(open_checkpoint(path)) for path in paths]
        for shard in shards:
            shard.verify()
        yield shards


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy())


def _damaged(path: Path, why: str) -> GrammarLensError:
    return GrammarLensError(
        f"{path} is damaged ({why}): delete it and run again with --resume; only what it held is lost"
    )


def pass_identity(
    what: str,
    model: Model,
    corpus: Corpus,
    token_budget: int,
    batches: Sequence[TokenBatch],
    shard: Shard | None = None,
) -> dict[str, object]:
    """Model, words, tokens and share of a pass, by name and by fingerprint."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(f"{tuple(batch.token_ids.shape)}".encode())
        digest.update(batch.token_ids.numpy().tobytes())
    return {
        "pass": what,
        "model": corpus.model,
        "weights": fingerprint(model)[:16],
        "treebank": corpus.bank.name,
        "words": corpus.bank.fingerprint()[:16],
        "label": corpus.label,
        "context": corpus.context,
        "window": corpus.window,
        "token_budget": token_budget,
        "tokens": digest.hexdigest()[:16],
        "share": str(shard or distributed.world()),
    }
