"""Data inside the page: JSON and arrays, deflated and in base64.

A block is the length of a JSON text (4 bytes, little-endian), the text, and the bytes of the arrays,
to which the JSON points. Base64 has no sign that could end a script element.
"""

import base64
import json
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num
from markupsafe import Markup

LARGEST_HALF = 2.0**15
STEPS = 32766
"""Steps from 0 to the largest value of `steps`."""
MISSING = -32768


@dataclass(frozen=True)
class Packed:
    """An array's bytes, little-endian.

    The first bytes of all numbers come first, then all second ones: signs and exponents, which
    are much alike, then stand together and deflate well.
    """

    dtype: str
    data: bytes
    shape: tuple[int, ...]
    scale: float | None = None
    """By which the page multiplies."""
    bin_width: int | None = None
    """Of indices within bins of so many units."""

    def pointer(self, at: int) -> dict[str, Any]:
        """The array in the JSON, its bytes beginning at `at`."""
        fields = {"dtype": self.dtype, "at": at, "shape": self.shape}
        more = {"scale": self.scale, "width": self.bin_width}
        return fields | {name: value for name, value in more.items() if value is not None}


def packed(values: Num[np.ndarray, "..."], dtype: str) -> Packed:
    """Numbers as they are, in "u1", "u2", "u4" or "f4"."""
    array = np.ascontiguousarray(values, np.dtype(f"<{dtype}"))
    planes = array.reshape(-1).view(np.uint8).reshape(array.size, array.itemsize).T
    return Packed(dtype, planes.tobytes(), values.shape)


def unsigned(values: Integer[np.ndarray, "..."]) -> Packed:
    """Whole numbers from 0 in as few bytes as hold the largest."""
    most = int(values.max(initial=0))
    return packed(values, "u1" if most < 2**8 else "u2" if most < 2**16 else "u4")


def halves(values: Float[np.ndarray, "..."]) -> Packed:
    """Half-precision numbers: right to 1 part in 2,048 each, missing ones (NaN) stay missing.

    They share a scale, a power of two, under which the largest nearly fills the range; what is
    smaller than it by more than 2**29 loses digits.
    """
    most = _largest(values)
    scale = 2.0 ** np.ceil(np.log2(most / LARGEST_HALF)) if most else 1.0
    with np.errstate(over="ignore"):  # infinite scores stay infinite
        half = (values / scale).astype("<f2")
    return replace(packed(half, "f2"), scale=float(scale))


def steps(values: Float[np.ndarray, "..."]) -> Packed:
    """Numbers in equal steps of 1/32,766 of the largest, in two bytes each; -32768 is missing."""
    scale = (_largest(values) or 1.0) / STEPS
    rounded = np.where(np.isfinite(values), np.rint(values / scale), MISSING)
    return replace(packed(rounded, "i2"), scale=scale)


def single_precision(spec: Any) -> Any:
    """A figure whose arrays of 8-byte numbers take 4."""
    if isinstance(spec, list):
        return [single_precision(x) for x in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.get("dtype") == "f8" and "bdata" in spec:
        values = np.frombuffer(base64.b64decode(spec["bdata"]), "<f8")
        text = base64.b64encode(values.astype("<f4").tobytes()).decode()
        return {**spec, "dtype": "f4", "bdata": text}
    return {key: single_precision(x) for key, x in spec.items()}


def _largest(values: Float[np.ndarray, "..."]) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(known.max(initial=0))


def block(data: object) -> Markup:
    """Lists, dicts, texts, numbers and `Packed` arrays, for a script element of the page.

    Half a surrogate pair, which is no text, becomes a question mark.
    """
    numbers = bytearray()

    def place(value: object) -> dict[str, Any]:
        assert isinstance(value, Packed), f"{type(value).__name__} in a block"
        at = len(numbers)
        numbers.extend(value.data)
        return value.pointer(at)

    text = json.dumps(data, default=place, ensure_ascii=False, separators=(",", ":"))
    encoded = text.encode(errors="replace")
    return deflated(len(encoded).to_bytes(4, "little") + encoded + numbers)


def deflated(data: bytes) -> Markup:
    """Bytes in the zlib format ("deflate" in browsers), as base64."""
    return Markup(base64.b64encode(zlib.compress(data, 9)).decode())
