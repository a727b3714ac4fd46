"""Check that a lesion which changed no loss could have changed one."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Condition
from grammar_lens.model.about import Model, device_of, hook_name, model_name
from grammar_lens.model.forward import hooked, next_token_logits
from grammar_lens.model.weights import output_weight
from grammar_lens.neurons.neurons import Neurons

PUSH = 1000.0
"""Added to activations; far beyond what neurons do, so that no rounding hides it."""


def require_effects(
    model: Model,
    conditions: Sequence[Condition],
    losses: Float[np.ndarray, "row word"],
    token_ids: Sequence[Int[np.ndarray, "..."]],
) -> None:
    """Raises GrammarLensError where neurons write and yet no change of theirs reaches the logits.

    Only lesions whose every loss is that of the intact model (row 0) are looked at: neurons that are
    the same at all words, or silent, are rightly changed to what they are.
    """
    unchanged = [
        condition.neurons
        for row, condition in zip(losses[1:], conditions, strict=True)
        if condition.ablation.dose != 0
        and isinstance(condition.neurons, Neurons)
        and condition.neurons.site == "neuron"
        and len(condition.neurons) > 0
        and bool(((row == losses[0]) | np.isnan(row)).all())
    ]
    ids = next((ids for ids in token_ids if len(ids) > 1), None)
    if ids is None or losses.shape[1] == 0:
        return
    for neurons in unchanged:
        if _writes(model, neurons) and not _reaches_logits(model, neurons, ids):
            raise GrammarLensError(
                f"a lesion of {len(neurons)} neurons of {model_name(model)} changes no logit, though "
                "their outgoing weights are not zero: this model's neurons cannot be edited, so its "
                "lesions would mean nothing"
            )


def _writes(model: Model, neurons: Neurons) -> bool:
    """Whether one of the neurons has an outgoing weight other than zero."""
    for layer in np.unique(neurons.layer).tolist():
        weight = output_weight(model, layer)
        index = torch.from_numpy(neurons.in_layer(layer).index.copy()).to(weight.device)
        if bool((weight[index] != 0).any()):
            return True
    return False


def _reaches_logits(model: Model, neurons: Neurons, ids: Int[np.ndarray, "..."]) -> bool:
    """Whether pushing the neurons' activations far changes a logit of one row of tokens."""
    row = torch.from_numpy(ids[None, :8].copy()).to(device_of(model))
    last = torch.tensor([row.shape[1] - 1])
    intact = next_token_logits(model, row, last)
    hooks = []
    for layer in np.unique(neurons.layer).tolist():
        index = torch.from_numpy(neurons.in_layer(layer).index.copy())

        def push(activation: Tensor, index: Tensor = index, **_: object) -> Tensor:
            pushed = activation.clone()
            pushed[..., index.to(pushed.device)] += PUSH
            return pushed

        hooks.append((hook_name(model, "neuron", layer), push))
    with hooked(model, hooks):
        edited = next_token_logits(model, row, last)
    return not torch.equal(edited, intact)
