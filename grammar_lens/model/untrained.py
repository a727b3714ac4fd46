"""An untrained twin of a model: the same architecture and tokenizer, with random weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, embedding, model_name, torch_module
from grammar_lens.model.loading import draw_weights, wrap


def untrained_twin(
    model: Model, seed: int = SEED, device: str | torch.device | None = None
) -> Model:
    """A model of the same configuration with the weights that its training would start from.

    They are drawn by the architecture's own initialiser in the model's dtype, on the `device`, by
    default the model's own; another kind of device draws others. Nothing is downloaded. What such a
    model's activations say about words takes no training (Zhang & Bowman 2018).
    Raises GrammarLensError for a model that is spread over several devices, and for a
    HookedTransformer.
    """
    require_twin(model)
    weight = next(embedding(model).parameters())
    config = copy.deepcopy(model.original_model.config)
    device = weight.device if device is None else torch.device(device)
    drawn = draw_weights(config, weight.dtype, device, seed)
    twin = wrap(drawn, model.tokenizer, device)
    twin.grammar_lens_name = f"{model_name(model)}, untrained"
    return twin


@contextmanager
def twin_in_place(model: Model, seed: int = SEED) -> Iterator[Model]:
    """The untrained twin, while open; a model on a GPU waits on the host meanwhile.

    So the GPU needs room for one of them only. Raises as `untrained_twin`.
    """
    require_twin(model)
    module, device = torch_module(model), device_of(model)
    if device.type == "cpu":
        yield untrained_twin(model, seed)
        return
    try:
        module.to("cpu")
        twin = untrained_twin(model, seed, device)
        yield twin
        torch_module(twin).to("meta")  # whoever still holds it holds no memory
    finally:
        module.to(device)


def require_twin(model: Model) -> None:
    """Raises GrammarLensError for a model that can have no untrained twin, saying why."""
    if not hasattr(model, "original_model"):
        raise GrammarLensError(
            f"{model_name(model)} is a HookedTransformer, whose initial weights are not known: load "
            "the Hugging Face model (gl.load_model), or go without the untrained twin"
        )
    devices = {str(p.device) for p in torch_module(model).parameters()}
    if len(devices) > 1:
        raise GrammarLensError(
            f"{model_name(model)} is spread over {', '.join(sorted(devices))}, and its untrained twin "
            "needs one device: go without the twin"
        )
