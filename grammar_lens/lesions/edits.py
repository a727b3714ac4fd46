"""Edits of one layer's activations by a lesion."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.defaults import VALUES, WHERE
from grammar_lens.errors import GrammarLensError, require_neuron, require_one_of
from grammar_lens.lesions.directions import Directions
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model, hook_names, mid_reaches_residual, model_name, site_width
from grammar_lens.neurons.neurons import Neurons


@dataclass(frozen=True)
class Edit:
    """Units of one layer, the values they are moved towards, and how far.

    A coordinate is a unit's activation or, given a `basis`, the extent along a direction. `target`
    has one value per coordinate, or a row per donor.
    """

    site: str
    layer: int
    index: Int[Tensor, " unit"]
    target: Float[Tensor, "*donor coordinate"]
    dose: float
    basis: Float[Tensor, "d_model coordinate"] | None = None
    writes: Float[Tensor, "coordinate d_model"] | None = None
    """What the stream is moved along for each direction; None for the basis itself."""

    def to(self, like: Tensor) -> "Edit":
        """The same on the device and in the precision of an activation."""
        return replace(
            self,
            index=self.index.to(like.device),
            target=self.target.to(like.device, like.dtype),
            basis=None if self.basis is None else self.basis.to(like.device, like.dtype),
            writes=None if self.writes is None else self.writes.to(like.device, like.dtype),
        )

    def change(
        self, activation: Float[Tensor, "*place unit"], donor: Int[Tensor, "*place"] | None
    ) -> None:
        """Moves the coordinates in place; `donor` numbers the row of `target` at every place."""
        target = self.target if donor is None else self.target[donor]
        if self.basis is not None:
            now = activation @ self.basis
            writes = self.basis.T if self.writes is None else self.writes
            activation += self.dose * (target - now) @ writes
        elif self.dose == 1:
            activation[..., self.index] = target.expand(*activation.shape[:-1], -1)
        else:
            part = activation[..., self.index]
            activation[..., self.index] = (1 - self.dose) * part + self.dose * target


def edits_of(
    model: Model, units: Neurons | Directions, ablation: Ablation, donors: Donors | None = None
) -> tuple[Edit, ...]:
    """The edit of every layer that holds some of the units, lowest first; none where nothing would change.

    Raises GrammarLensError for an unknown ablation, values that are not known, and units that do not exist.
    """
    _check(model, units, ablation, donors)
    if ablation.dose == 0 or len(units) == 0:
        return ()
    dose = float(ablation.dose)
    if isinstance(units, Directions):
        basis = torch.from_numpy(units.basis.T.astype(np.float32))
        target = torch.from_numpy(_towards_directions(units, ablation, donors).astype(np.float32))
        everything = torch.arange(basis.shape[0])
        writes = None
        if units.writes is not None:
            writes = torch.from_numpy(units.writes.astype(np.float32))
        return (Edit(units.site, units.layer, everything, target, dose, basis, writes),)
    edits = []
    for layer in np.unique(units.layer).tolist():
        some = units.in_layer(layer)
        target = torch.from_numpy(_towards(some, layer, ablation, donors).astype(np.float32))
        edits.append(Edit(units.site, layer, torch.from_numpy(some.index.copy()), target, dose))
    return tuple(edits)


def _towards(
    units: Neurons, layer: int, ablation: Ablation, donors: Donors | None
) -> Float[np.ndarray, "..."]:
    if ablation.value == "zero":
        return np.zeros(len(units))
    if ablation.value == "mean":
        assert units.mean is not None
        return units.mean
    assert donors is not None
    return donors.of(units.site, layer, units.index)


def _towards_directions(
    units: Directions, ablation: Ablation, donors: Donors | None
) -> Float[np.ndarray, "..."]:
    if ablation.value == "zero":
        return np.zeros(len(units))
    if ablation.value == "mean":
        assert units.mean is not None
        return units.basis @ units.mean
    assert donors is not None
    whole = donors.of(units.site, units.layer, np.arange(units.basis.shape[1]))
    return whole @ units.basis.T


def _check(
    model: Model, units: Neurons | Directions, ablation: Ablation, donors: Donors | None
) -> None:
    require_one_of("lesion value", ablation.value, VALUES)
    require_one_of("lesion where", ablation.where, WHERE)
    if ablation.dose == 0 or len(units) == 0:
        return
    if not np.isfinite(ablation.dose):
        raise GrammarLensError(f"lesion dose is {ablation.dose}, expected a finite number")
    if ablation.value == "mean" and units.mean is None:
        raise GrammarLensError(
            f"the mean activation of {units.name!r} is not known: choose the neurons from scores "
            "(gl.select), or use value='zero'"
        )
    if ablation.value.startswith("resample") and donors is None:
        raise GrammarLensError(
            f"a lesion of value {ablation.value!r} needs the activations of other words: record them "
            "with gl.donors(model, treebank, units)"
        )
    if units.site == "resid_mid" and not mid_reaches_residual(model):
        raise GrammarLensError(
            "a lesion at 'resid_mid' would reach the MLP but not the residual stream in a "
            "TransformerBridge: lesion 'resid_pre', 'attn_out' or 'resid_post'"
        )
    _exist(model, units)


def _exist(model: Model, units: Neurons | Directions) -> None:
    width = site_width(model, units.site)
    layers = [units.layer] if isinstance(units, Directions) else np.unique(units.layer).tolist()
    hook_names(model, units.site, layers)
    if isinstance(units, Directions):
        if units.site == "neuron":
            raise GrammarLensError(
                f"{units.name!r} has directions of neurons, and only the residual stream's can be "
                "lesioned: choose the site 'resid_pre', 'attn_out', 'mlp_out' or 'resid_post'"
            )
        if units.basis.shape[1] != width:
            raise GrammarLensError(
                f"{units.name!r} has directions of {units.basis.shape[1]} dimensions and "
                f"{units.site!r} of {model_name(model)} has {width}: make them for this model"
            )
        return
    outside = np.flatnonzero((units.index < 0) | (units.index >= width))
    if len(outside):
        layer, index = int(units.layer[outside[0]]), int(units.index[outside[0]])
        require_neuron(layer, index, model.cfg.n_layers, width, model=model_name(model))
