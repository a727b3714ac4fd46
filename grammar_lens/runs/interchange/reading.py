"""Neuron lists of other tools, and our own, as key neurons."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.errors import GrammarLensError, readable
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.runs.interchange.delimited import has_header, read_delimited, read_parquet
from grammar_lens.runs.interchange.listing import Like, Listing, Options, options_of
from grammar_lens.runs.interchange.lists import read_json, read_lines
from grammar_lens.runs.interchange.masks import read_npy, read_safetensors
from grammar_lens.selectivity.result import Scores

PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npz")


def read_neurons(
    path: str | Path,
    like: Like,
    *,
    name: str | None = None,
    one_based: bool = False,
    first_layer: int | None = None,
) -> KeyNeurons:
    """Key neurons from a file of another tool, or from one that `export_run` has written.

    - CSV, TSV, Parquet: columns layer, index (or neuron, unit, neuron_index, feature) and, where
      they are there, label, score (or value), rank and position (only rows of that of `like`).
    - JSON: a list, or {label: list}, of [layer, index] or of addresses ("5.123", "L5.123",
      "blocks.5.mlp.hook_post.123"), or {label: {layer: [index, ...]}}. Text: an address a line.
    - Flat ids (NeuroX) in JSON or text, once `first_layer` says in which layer id 0 stands: 0, or
      -1 where the embeddings come first.
    - .npy: a mask of 0 and 1, [layer, unit] or [label, layer, unit]; safetensors: one per label.

    `like` says of which units: scores, or other key neurons, of the same model, site and position.
    Without a label the neurons are those of `name`, by default the file's name. Layers and indices
    count from 0, or both from 1 if `one_based`. Neurons stand by rank, else as in the file; masks
    and lists by layer, which have no order, by their strength in `like`. Scores that the file lacks
    are those of `like`, or 0.
    Raises GrammarLensError, naming the line or place, for what is no neuron of the model, for a
    neuron twice, for a list without any, and for files that it cannot read or (pickles) will not.
    """
    path = Path(path)
    with readable(path, "save the list as CSV with the columns label, layer and index"):
        return _read(path, like, name, options_of(like, one_based, first_layer))


def _read(path: Path, like: Like, name: str | None, options: Options) -> KeyNeurons:
    listing = _listing(path, options)
    frame = _prepared(path, listing, like, name, options)
    has_scores = "score" in frame
    if not has_scores:
        frame = frame.assign(score=_scores(frame, like))
    keys = KeyNeurons.from_frame(
        frame,
        like,
        rule=_single(frame, "rule") or f"from {path.name}",
        method=(_single(frame, "method") or f"score in {path.name}") if has_scores else None,
        where=listing.where,
    )
    return keys if listing.ordered or "rank" in frame else _strongest_first(keys, like)


def _listing(path: Path, options: Options) -> Listing:
    """Contents of the file, by its first bytes and its suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise GrammarLensError(f"cannot read {path}: {error.strerror or error}") from error
    # before pickles: the length of a header may begin with the same byte
    if path.suffix.lower() == ".safetensors" or (head[8:9] == b"{" and head[4:8] == bytes(4)):
        return read_safetensors(path, options)
    if path.suffix.lower() in PICKLED or head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        raise GrammarLensError(
            f"{path} is pickled or an archive, which can run code when it is read: load it where you "
            "trust it and save a mask with numpy.save(), or layer and index as CSV"
        )
    if head[:6] == b"\x93NUMPY":
        return read_npy(path, options)
    return read_parquet(path) if head[:4] == b"PAR1" else _text(path, options)


def _text(path: Path, options: Options) -> Listing:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GrammarLensError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}), nor Parquet, .npy or "
            "safetensors: save it as one of these"
        ) from error
    if not text.strip():
        raise GrammarLensError(f"{path} is empty")
    if "\n" not in text:  # lines of old Macintosh programs end in a carriage return alone
        text = text.replace("\r", "\n")
    if text.lstrip()[0] in "{[":
        return read_json(path, text, options)
    if path.suffix.lower() in (".csv", ".tsv") or has_header(text):
        return read_delimited(path, text)
    return read_lines(path, text, options)


def _prepared(
    path: Path, listing: Listing, like: Like, name: str | None, options: Options
) -> pd.DataFrame:
    """The rows of the position studied, with labels, counted from 0 and in rank order."""
    frame = listing.frame
    if frame.empty:
        raise GrammarLensError(f"{path} has no neurons")
    if options.one_based:
        frame = frame.assign(layer=frame["layer"] - 1, index=frame["index"] - 1)
    position = like.origin.position
    if "position" in frame:
        positions = sorted({*map(str, frame["position"])})
        frame = frame.loc[frame["position"] == position]
        if frame.empty:
            raise GrammarLensError(
                f"{path} has no neurons at {position!r}, only at {', '.join(map(repr, positions))}: read it "
                "with scores of that position"
            )
    if "label" not in frame:
        frame = frame.assign(label=path.stem if name is None else name)
    elif name is not None:
        raise GrammarLensError(f"{path} has labels of its own, so it needs no name ({name!r})")
    return frame.sort_values("rank", kind="stable") if "rank" in frame else frame


def _single(frame: pd.DataFrame, column: str) -> str | None:
    """The common value of all rows in a column; None where they differ or it is absent."""
    values = {*map(str, frame[column])} if column in frame else set()
    return values.pop() if len(values) == 1 else None


def _scores(frame: pd.DataFrame, like: Like) -> Float[np.ndarray, " row"]:
    """The scores of `like` at the rows' addresses; 0 where it has none, as for labels it lacks."""
    scores = np.zeros(len(frame))
    if isinstance(like, Scores):
        n_layers, n_units = like.values.shape[1:]
        layer = _within(frame["layer"], n_layers)
        index = _within(frame["index"], n_units)
        for label in {*frame["label"]} & {*like.labels}:
            of_label = (frame["label"] == label).to_numpy(bool)
            scores[of_label] = like[label][layer[of_label], index[of_label]]
    return scores


def _within(numbers: pd.Series, size: int) -> Int[np.ndarray, " row"]:
    """The numbers, those outside moved to an end: they are refused when the key neurons are made."""
    return np.clip(numbers.to_numpy(np.float64), 0, size - 1).astype(np.int64)


def _strongest_first(keys: KeyNeurons, like: Like) -> KeyNeurons:
    """The same sets by strength in `like`, equal ones by address."""
    if not isinstance(like, Scores):
        return keys
    strength = dict(zip(like.labels, like.strength(), strict=True))
    sets = {}
    for label, neurons in keys.items():
        order = np.lexsort((neurons.index, neurons.layer))
        if label in strength:
            neurons = neurons.take(order)
            order = np.argsort(-strength[label][neurons.layer, neurons.index], kind="stable")
        sets[label] = neurons.take(order)
    return replace(keys, sets=sets)
