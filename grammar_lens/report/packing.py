"""Arrays and texts inside the page: base64 of little-endian numbers, JSON in a script element."""

import base64
import json
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num
from markupsafe import Markup

LARGEST_HALF = 2.0**15
STEPS = 32766
"""Steps from 0 to the largest value of `steps`."""
MISSING = -32768

Packed = dict[str, Any]
"""As plotly.js writes typed arrays: dtype, bdata, shape; here also scale, by which to multiply."""


def packed(values: Num[np.ndarray, "..."], dtype: str) -> Packed:
    """Numbers as they are, in "u1", "u2", "u4" or "f4"."""
    array = np.ascontiguousarray(values, np.dtype(f"<{dtype}"))
    return {
        "dtype": dtype,
        "bdata": base64.b64encode(array.tobytes()).decode(),
        "shape": ", ".join(map(str, array.shape)),
    }


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
    return {**packed(half, "f2"), "scale": float(scale)}


def steps(values: Float[np.ndarray, "..."]) -> Packed:
    """Numbers in equal steps of 1/32,766 of the largest, in two bytes each; -32768 is missing."""
    scale = (_largest(values) or 1.0) / STEPS
    rounded = np.where(np.isfinite(values), np.rint(values / scale), MISSING)
    return {**packed(rounded, "i2"), "scale": scale}


def single_precision(spec: Any) -> Any:
    """A figure whose arrays of 8-byte numbers take 4."""
    if isinstance(spec, list):
        return [single_precision(x) for x in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.get("dtype") == "f8" and "bdata" in spec:
        values = np.frombuffer(base64.b64decode(spec["bdata"]), "<f8")
        return {**spec, "dtype": "f4", "bdata": packed(values, "f4")["bdata"]}
    return {key: single_precision(x) for key, x in spec.items()}


def _largest(values: Float[np.ndarray, "..."]) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(known.max(initial=0))


def json_text(data: object) -> Markup:
    """Data as JSON that cannot end or open a script element."""
    return script_json(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def script_json(text: str) -> Markup:
    """The same of a JSON text."""
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
