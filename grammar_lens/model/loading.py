"""Load a model: the embedded one, a folder, a GGUF file, a hub id, or one already in memory."""

import contextlib
import copy
import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError, nearest, require_one_of
from grammar_lens.model import gguf
from grammar_lens.model.about import (
    Model,
    count_parameters,
    is_hooked,
    supported_architectures,
    torch_module,
    vocabulary_size,
)
from grammar_lens.model.support import mlp_width, require_dense, require_vocabulary

REFERENCE_MODEL = "reference-9m"
_LOADING = threading.RLock()
"""Held while transformers loads: it exchanges methods of its classes meanwhile, and two threads that
load at once would leave them exchanged, so that no later model has its tied weights."""
UNTRAINED = "untrained:"
"""Before the name of any model: the same architecture and tokenizer with random weights."""


def load_model(
    source: str | os.PathLike[str] | nn.Module | None = None,
    *,
    tokenizer: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
) -> Model:
    """A hooked transformer: the embedded model, a folder, a GGUF file, a hub id or a loaded model.

    `smollm2-135m` is the name of a model in a Python package (see `gguf.PACKAGED`). A GGUF file needs
    the extra `gguf`; its weights are dequantised and its own tokenizer is used. `untrained:NAME` has
    the weights from which training would start (seed 0): what it shows takes no training. `revision` is the
    branch, tag or commit of a hub model, by default its main branch.
    `dtype` is by default float32 on CPU and the checkpoint's own on a GPU; `device` is a GPU when
    there is one. A loaded Hugging Face model needs its `tokenizer` and is wrapped in place: do not
    use it as a bare model afterwards. It keeps its dtype and device where none is given; a model
    that TransformerLens has hooked already is taken as it is. Only safetensors and GGUF weights are
    read and no remote code is run.
    Raises GrammarLensError when the folder lacks weights or a tokenizer, or when the architecture is not
    one that TransformerLens can hook.
    """
    if isinstance(source, nn.Module):
        if revision is not None:
            raise _not_from_the_hub("a loaded model", revision)
        if is_hooked(source):
            _check_taken_as_it_is(source, tokenizer, dtype, device, device_map)
            return _frozen(source)
        if device_map is not None:
            raise GrammarLensError(
                "device_map is for models loaded here, and this one is loaded already"
            )
        chosen = None if device is None else _pick_device(device)
        return wrap(_cast(source, dtype), tokenizer, chosen)
    name = str(source) if source is not None else REFERENCE_MODEL
    if name.startswith(UNTRAINED):
        if device_map is not None:
            raise GrammarLensError(
                f"{name} is drawn on one device, so device_map has no use: give device or leave both"
            )
        return _load_untrained(name, tokenizer, dtype, _pick_device(device), revision)
    location = locate(name)
    stored = _check_files(location, needs_tokenizer=tokenizer is None)
    device = _pick_device(device)
    hf_model, tokenizer = _load_hugging_face(
        location, tokenizer, dtype, device, device_map, revision
    )
    commit = getattr(hf_model.config, "_commit_hash", None)
    if stored is not None:
        gguf.forget_quantization(hf_model)
    with _explained_errors(location):
        model = wrap(hf_model, tokenizer, None if device_map else device)
    model.grammar_lens_name = _short_name(name, location)
    model.grammar_lens_gguf = stored
    model.grammar_lens_commit = commit
    return model


def _load_untrained(
    name: str,
    tokenizer: Any,
    dtype: str | torch.dtype | None,
    device: torch.device,
    revision: str | None,
) -> Model:
    """The model of a name without its prefix, with random weights; its own are not read."""
    location, config, tokenizer, chosen = _shape_of(name, tokenizer, dtype, device, revision)
    with _explained_errors(location):
        model = wrap(draw_weights(config, chosen, device), tokenizer, device)
    model.grammar_lens_name = UNTRAINED + _short_name(name.removeprefix(UNTRAINED), location)
    return model


def _shape_of(
    name: str,
    tokenizer: Any,
    dtype: str | torch.dtype | None,
    device: torch.device,
    revision: str | None,
) -> tuple[Path | str, Any, Any, torch.dtype]:
    """Location, configuration, tokenizer and dtype of a model whose weights are not read."""
    location = locate(name.removeprefix(UNTRAINED))
    _check_files(location, needs_tokenizer=tokenizer is None, needs_weights=False)
    chosen = _pick_dtype(dtype, device)
    with _explained_errors(location):
        config, tokenizer = _load_config(location, tokenizer, revision)
    if not isinstance(chosen, torch.dtype):
        chosen = getattr(config, "dtype", None) or torch.float32
    return location, config, tokenizer, chosen


def draw_weights(
    config: Any, dtype: torch.dtype, device: torch.device, seed: int = SEED
) -> nn.Module:
    """A model of the configuration with weights drawn by the architecture's own initialiser."""
    from transformers import AutoModelForCausalLM

    gpus = [device] if device.type == "cuda" else []
    with _LOADING, torch.random.fork_rng(gpus), torch.device(device):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="eager", trust_remote_code=False
        )


def load_shape(
    source: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str = "cuda",
    revision: str | None = None,
) -> Model:
    """The model without its weights, from config.json and the tokenizer alone: for its sizes.

    It cannot run. `dtype` is by default the one `load_model` would choose on `device`.
    Raises GrammarLensError as `load_model` does.
    """
    from transformers import AutoModelForCausalLM

    kind = torch.device("cpu" if device == "cpu" else "cuda")
    location, config, tokenizer, chosen = _shape_of(str(source), None, dtype, kind, revision)
    with _explained_errors(location), torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(
            config, dtype=chosen, attn_implementation="eager", trust_remote_code=False
        )
    model = wrap(shape, tokenizer, None)
    model.grammar_lens_name = _short_name(str(source), location)
    return model


def has_weights(source: str | os.PathLike[str]) -> bool:
    """Whether weights may be available; False only for a local folder that has none."""
    location = locate(str(source).removeprefix(UNTRAINED))
    if not isinstance(location, Path) or gguf.is_gguf(location):
        return True
    return any(location.glob("*.safetensors"))


def _frozen(model: Model) -> Model:
    torch_module(model).requires_grad_(False)
    model.eval()
    # the config's number can be a default that the weights do not follow (OPT, Falcon)
    model.cfg.d_mlp = mlp_width(model)
    require_vocabulary(model.tokenizer, vocabulary_size(model))
    return model


def _check_taken_as_it_is(model: Model, tokenizer: Any, *settings: object) -> None:
    if tokenizer is not None or any(setting is not None for setting in settings):
        raise GrammarLensError(
            "the model is hooked already, so its tokenizer, dtype and device are kept: "
            "set them when it is made, or give load_model the Hugging Face model itself"
        )
    if getattr(model, "tokenizer", None) is None:
        raise GrammarLensError(
            "the hooked model has no tokenizer: make it with tokenizer=tokenizer"
        )


def _cast(hf_model: nn.Module, dtype: str | torch.dtype | None) -> nn.Module:
    """A loaded model in the dtype asked for, by default its own."""
    chosen = _pick_dtype(dtype or "auto", torch.device("cpu"))
    return hf_model.to(chosen) if isinstance(chosen, torch.dtype) else hf_model


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise GrammarLensError(
            f"device {device!r} is not one that torch knows: use cpu, cuda or cuda:0"
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise GrammarLensError(
            f"device {device!r} was asked for, but torch sees no CUDA GPU: use --device cpu"
        )
    return chosen


def locate(name: str) -> Path | str:
    """A folder or a GGUF file when there is one, a model known by its name, else a hub id."""
    path = Path(name)
    if path.is_dir():
        return gguf.file_in(path) or path
    if gguf.is_gguf(path):
        if not path.is_file():
            raise GrammarLensError(f"no GGUF file at {name!r}: check the path")
        return path
    if name == REFERENCE_MODEL:
        return Path(str(files("grammar_lens") / "embedded" / REFERENCE_MODEL))
    if name in gguf.PACKAGED:
        return gguf.packaged_file(name)
    if (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or (os.sep != "/" and os.sep in name)
    ):
        raise GrammarLensError(
            f"no model folder at {name!r}: expected a folder with config.json, a GGUF file, or a hub id such as meta-llama/Meta-Llama-3-8B"
        )
    return name


def _short_name(name: str, location: Path | str) -> str:
    """The name that results have: that of the folder or file, without the path to it."""
    return Path(name).name.removesuffix(gguf.SUFFIX) if isinstance(location, Path) else name


def _check_files(
    location: Path | str, *, needs_tokenizer: bool, needs_weights: bool = True
) -> gguf.StoredWeights | None:
    """Storage of a GGUF file's weights; raises GrammarLensError for files known to be unreadable."""
    if gguf.is_gguf(location):
        gguf.require_reader()
        return gguf.stored_weights(Path(location))
    if isinstance(location, Path):
        _check_folder(location, needs_tokenizer=needs_tokenizer, needs_weights=needs_weights)
    return None


def _check_folder(folder: Path, *, needs_tokenizer: bool, needs_weights: bool = True) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise GrammarLensError(
            f"{folder} has no config.json: expected a folder as Hugging Face save_pretrained writes it"
        )
    try:
        architectures = json.loads(config.read_text("utf-8")).get("architectures") or []
        architectures = [name.strip() for name in architectures]  # names, and not just anything
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise GrammarLensError(
            f"{config} is not a JSON object ({error}): save the model again"
        ) from error
    _check_architectures(architectures, str(folder))
    if needs_weights and not any(folder.glob("*.safetensors")):
        pickled = sorted(
            p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)
        )
        contents = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise GrammarLensError(
            f"{folder} has {contents}: grammar_lens reads safetensors only, because a pickle can run code. "
            "Save it again with model.save_pretrained(folder, safe_serialization=True)"
        )
    if needs_tokenizer and not any(
        (folder / name).is_file()
        for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    ):
        raise GrammarLensError(
            f"{folder} has no tokenizer: put tokenizer.json beside config.json (tokenizer.save_pretrained(folder))"
        )


def _check_architectures(architectures: Sequence[str], where: str) -> None:
    supported = supported_architectures()
    unknown = [name for name in architectures if name not in supported]
    if unknown:
        raise GrammarLensError(
            f"{where} is a {unknown[0]}, which TransformerLens cannot hook. Supported: {', '.join(supported)}"
        )


def _load_hugging_face(
    location: Path | str,
    tokenizer: Any,
    dtype: str | torch.dtype | None,
    device: torch.device,
    device_map: str | dict[str, Any] | None,
    revision: str | None = None,
) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForCausalLM

    root, options = _where(location, revision)
    if gguf.is_gguf(location):
        options |= _unpacked()
    with _explained_errors(location):
        config, tokenizer = _load_config(location, tokenizer, revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            root,
            config=config,
            dtype=_pick_dtype(dtype, device),
            device_map=device_map,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        # transformers would fill them with random numbers and continue
        raise GrammarLensError(
            f"{location} lacks weights that the model needs, among them {missing[0]}: the checkpoint "
            "is incomplete or is not that of a causal language model"
        )
    return model, tokenizer


def _load_config(
    location: Path | str, tokenizer: Any, revision: str | None = None
) -> tuple[Any, Any]:
    """The contents of config.json or of the GGUF file, and the tokenizer where none is given."""
    from transformers import AutoConfig, AutoTokenizer

    root, options = _where(location, revision)
    config = AutoConfig.from_pretrained(root, trust_remote_code=False, **options)
    _check_architectures(config.architectures or [], str(location))
    require_dense(config)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(root, trust_remote_code=False, **options)
    return config, tokenizer


def _where(location: Path | str, revision: str | None) -> tuple[Path | str, dict[str, Any]]:
    """Arguments of transformers' from_pretrained for a location: the first one and the options."""
    if not isinstance(location, Path):
        return location, {} if revision is None else {"revision": revision}
    if revision is not None:
        raise _not_from_the_hub(str(location), revision)
    if gguf.is_gguf(location):
        return location.parent, {"local_files_only": True, "gguf_file": location.name}
    return location, {"local_files_only": True}


def _not_from_the_hub(what: str, revision: str) -> GrammarLensError:
    return GrammarLensError(
        f"revision is {revision!r}, and {what} has none: it is for models of the hub, so leave it out"
    )


def _unpacked() -> dict[str, Any]:
    """The option by which transformers dequantises a GGUF file; before 5.23 it always did."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


@contextlib.contextmanager
def _explained_errors(location: Path | str) -> Iterator[None]:
    """Turns what goes wrong in Hugging Face's loading into a GrammarLensError that says what to do.

    One thread at a time is inside.
    """
    from transformers.utils import logging

    with _LOADING:
        logging.disable_progress_bar()
        # transformers draws a bar of its own over a GGUF file's tensors
        quiet = contextlib.redirect_stderr(io.StringIO()) if gguf.is_gguf(location) else None
        try:
            with quiet or contextlib.nullcontext():
                yield
        except (GrammarLensError, torch.cuda.OutOfMemoryError):
            raise
        # damaged files make the libraries that read them fail in any way
        except Exception as error:
            said = str(error).strip()
            reason = said.splitlines()[0] if said else type(error).__name__
            hint = (
                "check the file, and that transformers knows the architecture in GGUF"
                if gguf.is_gguf(location)
                else "check the files in the folder"
                if isinstance(location, Path)
                else "check the id, the network and, for gated models, `hf auth login`; or give a local folder"
            )
            raise GrammarLensError(
                f"could not load {str(location)!r}: {reason} ({hint}){_near(location)}"
            ) from error
        finally:
            logging.enable_progress_bar()


def _pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> str | torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype):
        return dtype
    known = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "auto": "auto",
    }
    require_one_of("dtype", dtype, known)
    return known[dtype]


def wrap(hf_model: nn.Module, tokenizer: Any, device: str | torch.device | None) -> Model:
    from transformer_lens.model_bridge import TransformerBridge

    if tokenizer is None:
        raise GrammarLensError(
            "a loaded model needs its tokenizer: load_model(model, tokenizer=tokenizer)"
        )
    if not hasattr(tokenizer, "init_kwargs"):
        raise GrammarLensError(f"expected a Hugging Face tokenizer, got {type(tokenizer).__name__}")
    config = getattr(hf_model, "config", None)
    if config is None:
        raise GrammarLensError(
            f"expected a Hugging Face causal language model, got {type(hf_model).__name__}"
        )
    if not getattr(config, "architectures", None):
        config.architectures = [type(hf_model).__name__]
    _check_architectures(config.architectures, type(hf_model).__name__)
    require_dense(config)
    if device is not None:
        hf_model = hf_model.to(device)
    n_weights = count_parameters(hf_model)  # TransformerLens 3 adds biases of its own
    name = str(getattr(config, "name_or_path", "") or type(hf_model).__name__)
    # Without this TransformerLens loads the tokenizer again, from wherever it came, so that it adds
    # BOS. Words are read with the tokenizer's own BOS; the copy spares the caller's pad token.
    tokenizer = copy.deepcopy(tokenizer)
    settings = tokenizer.init_kwargs
    tokenizer.init_kwargs = {"name_or_path": "", **settings, "add_bos_token": True}
    model = TransformerBridge.boot_transformers(
        name, hf_model=hf_model, tokenizer=tokenizer, device=device and str(device)
    )
    tokenizer.init_kwargs = settings
    model.grammar_lens_n_parameters = n_weights
    return _frozen(model)


def _near(location: object) -> str:
    """The model that comes with a package and was probably meant."""
    near = nearest(location, (REFERENCE_MODEL, *gguf.PACKAGED))
    return f"; did you mean {near!r}?" if near else ""
