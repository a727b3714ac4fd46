"""Atomic writes: files are written under a temporary name and renamed, so none is half there."""

import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from grammar_lens.errors import GrammarLensError


def make_folder(path: Path) -> None:
    """Makes a folder and its parents. Raises GrammarLensError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GrammarLensError(
            f"cannot make the folder {path}: {error.strerror or error}"
        ) from error


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make the file under a temporary name and then renames it.

    Raises GrammarLensError when the disk is full or the folder cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.touch()
        usual = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(usual)  # safetensors makes files that nobody else may read
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise GrammarLensError(
            f"cannot write {path}: {reason}. Make room or fix the permissions, then run again with "
            "--resume; what was finished is kept"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, data: object) -> None:
    """Writes JSON whole or not at all; arrays become lists, missing numbers null."""
    write_text(path, json.dumps(to_json(data), indent=1, allow_nan=False) + "\n")


def to_json(value: Any) -> Any:
    """Plain JSON of dataclasses, arrays, tables and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: to_json(getattr(value, f.name)) for f in fields}
    if isinstance(value, pd.DataFrame):
        return {"index": list(value.index), **{c: to_json(value[c].to_numpy()) for c in value}}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def save_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, object]
) -> None:
    """Writes a safetensors file with a JSON text for each entry of its metadata."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = {name: json.dumps(to_json(value)) for name, value in about.items()}
    write_file(path, lambda p: save_file(arrays, p, metadata))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a safetensors file. Raises GrammarLensError when it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
        return arrays, {name: json.loads(text) for name, text in about.items()}
    except (SafetensorError, OSError) as error:
        raise GrammarLensError(
            f"{path} is damaged ({error}): delete it and run again with --resume"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises GrammarLensError when the file is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GrammarLensError(
            f"{path} is damaged ({error}): delete it and run again with --resume"
        ) from error
