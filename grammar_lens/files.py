"""Atomic writes: files are written under a temporary name and renamed, so none is half there."""

import dataclasses
import hashlib
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

from grammar_lens.errors import DamagedError, GrammarLensError

SEAL = "sha256"


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


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON object with the SHA-256 of its other entries, for `read_sealed`."""
    plain = {name: value for name, value in to_json(data).items() if name != SEAL}
    write_json(path, {**plain, SEAL: _seal(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON object without its seal; one of an earlier version may have none.

    Raises GrammarLensError where the seal is not that of the contents.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DamagedError(path, "it is no JSON object")
    seal = data.pop(SEAL, None)
    if seal is not None and seal != _seal(data):
        raise DamagedError(path, "it was changed after it was stored")
    return data


def _seal(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


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
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise DamagedError(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises GrammarLensError when the file is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise DamagedError(path, error) from error
