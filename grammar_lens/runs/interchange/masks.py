"""Neuron lists as masks of zeros and ones: NumPy and safetensors files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open

from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.runs.interchange.listing import Listing, Options


def masks_of(keys: KeyNeurons) -> dict[str, UInt8[np.ndarray, "layer unit"]]:
    """A mask of ones for the key neurons of each label that has any; `read_safetensors` reads them."""
    masks = {}
    for label, neurons in keys.items():
        if len(neurons):
            masks[label] = np.zeros((keys.n_layers, keys.n_units), np.uint8)
            masks[label][neurons.layer, neurons.index] = 1
    return masks


def read_npy(path: Path, options: Options) -> Listing:
    """A mask [layer, unit], or [label, layer, unit] in the order of the labels."""
    try:
        # mapped: a mask of the wrong shape is refused without being read
        mask = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise GrammarLensError(f"{path} cannot be read as an array of numbers: {error}") from error
    if mask.ndim != 3:
        return _listing(path, {None: mask}, options)
    if len(mask) != len(options.labels):
        raise GrammarLensError(
            f"{path} has masks of {len(mask)} labels, expected {len(options.labels)} "
            f"({', '.join(options.labels)}): name each in a safetensors file"
        )
    return _listing(path, dict(zip(options.labels, mask, strict=True)), options)


def read_safetensors(path: Path, options: Options) -> Listing:
    """A mask [layer, unit] under the name of each label."""
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                _require_shape(
                    f"{path}: the mask of {name!r}",
                    tuple(file.get_slice(name).get_shape()),
                    options,
                )
            # NumPy knows no bfloat16 and no 8-bit floats
            masks = {name: _numbers(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError) as error:
        raise GrammarLensError(f"{path} is no whole safetensors file: {error}") from error
    return _listing(path, masks, options)


def _numbers(mask: torch.Tensor) -> np.ndarray:
    return (mask.float() if mask.is_floating_point() else mask).numpy()


def _listing(
    path: Path, masks: Mapping[str | None, np.ndarray] | Mapping[str, np.ndarray], options: Options
) -> Listing:
    """The neurons of each mask, which come in no order."""
    if options.one_based or options.first_layer is not None:
        given = "one_based" if options.one_based else "first_layer"
        raise GrammarLensError(
            f"{path}: a mask has no use for {given}, which is for numbers: leave it"
        )
    frames = []
    for label, mask in masks.items():
        whose = "the mask" if label is None else f"the mask of {label!r}"
        layer, index = np.nonzero(_checked(f"{path}: {whose}", mask, options))
        if not len(layer):
            raise GrammarLensError(f"{path}: {whose} chooses no neuron: leave it out")
        name = {} if label is None else {"label": label}
        places = [f"{whose} at [{la}, {i}]" for la, i in zip(layer, index, strict=True)]
        frames.append(pd.DataFrame({"layer": layer, "index": index, **name}, index=places))
    frame = pd.concat(frames) if frames else pd.DataFrame()
    return Listing(frame, f"{path}, ", ordered=False)


def _require_shape(what: str, shape: tuple[int, ...], options: Options) -> None:
    expected = (options.n_layers, options.n_units)
    if shape != expected:
        hint = (
            "; a mask of block outputs is read with scores of the site 'resid_post'"
            if options.site == "neuron"
            else ""
        )
        raise GrammarLensError(
            f"{what} has the shape {shape}, expected {expected}, layers and units at "
            f"{options.site!r}{hint}"
        )


def _checked(what: str, mask: np.ndarray, options: Options) -> np.ndarray:
    _require_shape(what, mask.shape, options)
    # numbers of other tools are 0 and 1 in any type
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise GrammarLensError(
            f"{what} holds other numbers than 0 and 1: choose from scores first, and save the choice"
        )
    return mask
