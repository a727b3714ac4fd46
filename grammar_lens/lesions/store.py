"""Storage for a battery's outcomes, batch by batch: in memory, or in files that survive a kill."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from grammar_lens.corpus.alignment import Alignment
from grammar_lens.corpus.lexicon import Lexicon, WordLosses
from grammar_lens.files import make_folder, write_file, write_text
from grammar_lens.lesions.outcomes import Condition
from grammar_lens.passes import distributed

_FLOATS = ("nll", "tag_loss", "lexical_loss")
_DONE = "done.json"
WRITTEN_AT_ONCE = 1 << 20
"""Numbers laid out on disk at once."""


class Store:
    """The losses of every word under every condition, row 0 intact; NaN where not scored.

    With a `folder` the arrays are files mapped into memory: what is finished there under the same
    `key` is kept, so an interrupted battery resumes where it stopped, and memory stays free. They
    take all their room on the disk at once. Raises GrammarLensError where there is not enough.
    """

    def __init__(
        self,
        rows: int,
        n_words: int,
        n_labels: int,
        probed: Sequence[int],
        *,
        folder: Path | None = None,
        key: str = "",
    ) -> None:
        self._folder, self._key = folder, key
        self._probed = {row: i for i, row in enumerate(probed)}
        self.finished: set[int] = set()
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            **dict.fromkeys(_FLOATS, ((rows, n_words), np.float64)),
            "top_label": ((rows, n_words), np.int16),
            "tag_probability": ((len(probed), n_words, n_labels), np.float32),
            "seen_mass": ((n_words,), np.float64),
        }
        resumed = folder is not None and self._resumes(folder, shapes)
        made = {n: self._array(n, shape, t, resumed) for n, (shape, t) in shapes.items()}
        self.nll, self.tag_loss, self.lexical_loss = (made[name] for name in _FLOATS)
        self.top_label = made["top_label"]
        self.tag_probability = made["tag_probability"]
        self.seen_mass = made["seen_mass"]

    def put(self, row: int, at: Int[np.ndarray, " word"], losses: WordLosses) -> None:
        """Writes the losses of some words under one condition."""
        probability = losses.tag_probability.cpu().numpy()
        for name in _FLOATS:
            getattr(self, name)[row, at] = getattr(losses, name).cpu().numpy()
        self.top_label[row, at] = probability.argmax(1)
        if row in self._probed:
            self.tag_probability[self._probed[row], at] = probability
        if row == 0:
            self.seen_mass[at] = losses.seen_mass.cpu().numpy()

    def finish(self, batch: int) -> None:
        """Notes that a batch has been read under all conditions."""
        self.finished.add(batch)
        if self._folder is None:
            return
        for name in (*_FLOATS, "top_label", "tag_probability", "seen_mass"):
            getattr(self, name).flush()
        text = json.dumps({"key": self._key, "batches": sorted(self.finished)})
        write_text(self._folder / _DONE, text)

    def add_up(self, own: Bool[np.ndarray, " word"]) -> None:
        """Adds the losses of the group's other processes; `own` are the words of this process."""
        for array in (*(getattr(self, name) for name in _FLOATS), self.top_label):
            distributed.add_up(array, own)
        distributed.add_up(self.tag_probability, own)
        distributed.add_up(self.seen_mass[None], own)

    def copy_intact(self, row: int, words: Bool[np.ndarray, " word"]) -> None:
        """Gives a condition that changes nothing the losses of the intact model, at some words."""
        for array in (self.nll, self.tag_loss, self.lexical_loss, self.top_label):
            array[row, words] = array[0, words]
        if row in self._probed:
            self.tag_probability[self._probed[row]] = self.tag_probability[0]

    def _resumes(self, folder: Path, shapes: dict[str, Any]) -> bool:
        """Whether the folder holds part of this battery; notes which batches are finished."""
        make_folder(folder)
        try:
            stored = json.loads((folder / _DONE).read_text("utf-8"))
            batches = {int(batch) for batch in stored["batches"]}
            same = stored["key"] == self._key and all(
                _is_whole(folder / f"{name}.npy", shape, dtype)
                for name, (shape, dtype) in shapes.items()
            )
        except (OSError, ValueError, TypeError, KeyError):  # missing, or damaged
            return False
        if same:
            self.finished = batches
        return same

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any, resumed: bool) -> Any:
        empty = np.nan if dtype == np.float64 else 0
        if self._folder is None or 0 in shape:
            return np.full(shape, empty, dtype)
        path = self._folder / f"{name}.npy"
        if resumed:
            return np.lib.format.open_memmap(path, mode="r+")
        (self._folder / _DONE).unlink(missing_ok=True)
        write_file(path, lambda part: _lay_out(part, shape, np.dtype(dtype), float(empty)))
        return np.lib.format.open_memmap(path, mode="r+")


def _lay_out(path: Path, shape: tuple[int, ...], dtype: Any, empty: float) -> None:
    """Writes a .npy file of one value, to the last byte and to the disk.

    A mapped file with holes kills the process without a word (SIGBUS) when the disk is full; a write
    raises OSError.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    left, some = math.prod(shape), np.full(WRITTEN_AT_ONCE, empty, dtype)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        while left > 0:
            file.write(some[:left].data)
            left -= len(some)
        file.flush()
        os.fsync(file.fileno())


def _is_whole(path: Path, shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether a file holds such an array to the last byte; opened for writing, a short one would grow."""
    array = np.lib.format.open_memmap(path, mode="r")
    return array.shape == shape and array.dtype == dtype


def battery_key(
    alignment: Alignment,
    classes: Int[np.ndarray, " word"],
    shared: Bool[np.ndarray, " scored"],
    lexicon: Lexicon,
    conditions: Sequence[Condition],
    donors: Int[np.ndarray, " donor"] | None,
    settings: Sequence[object],
) -> str:
    """A fingerprint of everything that decides a battery's outcomes, but for the model's weights."""
    lengths = [len(ids) for ids in alignment.token_ids]
    digest = hashlib.sha256(repr([*settings, lexicon.labels, lengths]).encode())
    for array in (
        *alignment.token_ids,
        alignment.sentence,
        alignment.row,
        alignment.first,
        classes,
        shared,
        lexicon.probability,
        lexicon.seen,
        np.zeros(0) if donors is None else donors,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    for condition in conditions:
        digest.update(
            repr(
                (condition.label, condition.replicate, condition.ablation, condition.kind)
            ).encode()
        )
        units = vars(condition.neurons)
        for value in units.values():
            is_array = isinstance(value, np.ndarray)
            digest.update(
                np.ascontiguousarray(value).tobytes() if is_array else repr(value).encode()
            )
    return digest.hexdigest()
