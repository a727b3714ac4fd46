"""A lesion as a context manager, for interactive use and for generation."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError, counted
from grammar_lens.lesions.directions import Directions
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.edits import Edit, edits_of
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model, hook_name, model_name
from grammar_lens.model.forward import hooked, watch_tokens
from grammar_lens.neurons.address import Addresses
from grammar_lens.neurons.neurons import Neurons, as_neurons
from grammar_lens.neurons.same_model import require_same_model

_Opened = contextlib.AbstractContextManager[Model]


class Lesion(contextlib.AbstractContextManager[Model]):
    """A lesion that is in force while it is open: `with gl.lesion(model, units): ...`."""

    def __init__(self, name: str, dose: float, begin: Callable[[], _Opened]) -> None:
        self._name, self._dose, self._begin = name, dose, begin
        self._opened: list[_Opened] = []

    def __enter__(self) -> Model:
        opened = self._begin()
        model = opened.__enter__()
        self._opened.append(opened)
        return model

    def __exit__(self, *error: Any) -> bool | None:
        return self._opened.pop().__exit__(*error)

    def __repr__(self) -> str:
        state = "in force" if self._opened else "not in force: open it, `with gl.lesion(...):`"
        return f"Lesion of {self._name} at dose {self._dose:g}, {state}"


def lesion(
    model: Model,
    units: Neurons | Directions | Addresses,
    *,
    value: str | None = None,
    dose: float = 1.0,
    donors: Donors | None = None,
    seed: int = SEED,
    allow_other_model: bool = False,
) -> Lesion:
    """While open, the units of `model` are lesioned; afterwards nothing of the lesion remains.

    `units` are a set such as `keys["VERB"]`, or addresses: "7.336", ["7.336", (6, 12)].
    A unit's activation a becomes (1 - dose) a + dose v at every token except BOS and padding, with
    v = 0 ("zero"), the unit's mean over words at the study's position ("mean"), or what all the units
    do at one other word, drawn for every token with `seed` ("resample", from `donors`). By
    default it is the mean, and 0 for neurons whose means are not known, such as addresses alone. A dose
    of 0 or an empty set changes nothing at all; a negative dose amplifies what sets the unit apart from v.
    Works under generation and nests. Yields the model. While it is open the model belongs to the thread
    that opened it: other threads can open no lesion of it, and running it there is an error.
    Raises GrammarLensError for an unknown value, a mean lesion of neurons whose mean is not known, units
    that do not exist, `resid_mid` where editing it would not reach the residual stream, neurons that
    were chosen in a model with other weights (unless `allow_other_model`), and a model that another
    thread has lesioned.
    """
    if isinstance(units, Neurons):
        require_same_model(model, units, allow_other_model=allow_other_model)
    if value == "resample_within":
        raise GrammarLensError(
            "a lesion of value 'resample_within' must know each word's label: run it over a "
            "treebank (gl.lesion_study), or use value='resample'"
        )
    units = units_of(units)
    value = value or default_value(units)
    edits = edits_of(model, units, Ablation(value, float(dose)), donors)
    given = donors if value == "resample" else None
    what = f"{counted(len(units), 'unit')} of {model_name(model)} ({value})"
    return Lesion(what, float(dose), lambda: _in_force(model, edits, given, seed))


@contextlib.contextmanager
def _in_force(
    model: Model, edits: Sequence[Edit], donors: Donors | None, seed: int
) -> Iterator[Model]:
    if not edits:
        yield model
        return
    seen = _Seen(_special_tokens(model), donors, seed)
    hooks = [(hook_name(model, e.site, e.layer), _cut(e, seen)) for e in edits]
    with _owned(model), watch_tokens(model, seen.look), hooked(model, hooks):
        yield model


def units_of(units: Neurons | Directions | Addresses) -> Neurons | Directions:
    """Units that a lesion edits; addresses become neurons whose means are not known."""
    return units if isinstance(units, Directions) else as_neurons(units)


def default_value(units: Neurons | Directions) -> str:
    """The value that a lesion puts in when none is named."""
    return "zero" if isinstance(units, Neurons) and units.mean is None else "mean"


_CHANGING_OWNER = threading.Lock()


@contextlib.contextmanager
def _owned(model: Model) -> Iterator[None]:
    """While open, the model's lesions are this thread's. Raises GrammarLensError if another has some."""
    me = threading.get_ident()
    with _CHANGING_OWNER:
        owner, n_open = getattr(model, "grammar_lens_lesions", (me, 0))
        if n_open and owner != me:
            raise GrammarLensError(
                "another thread has a lesion of this model open: wait until it is closed, or load a "
                "model of its own for each thread"
            )
        model.grammar_lens_lesions = (me, n_open + 1 if owner == me else 1)
    try:
        yield
    finally:
        with _CHANGING_OWNER:
            owner, n_open = model.grammar_lens_lesions
            model.grammar_lens_lesions = (owner, n_open - 1)


class _Seen:
    """Tokens of the current forward pass that the lesion spares, and their donors."""

    def __init__(self, special: Int[Tensor, " token"], donors: Donors | None, seed: int) -> None:
        self._special = special
        self._thread = threading.get_ident()
        self._donors = donors
        self._rng = np.random.default_rng(seed)
        self.spared: Tensor | None = None
        self.donor: Tensor | None = None

    def look(self, token_ids: Int[Tensor, "row time"]) -> None:
        if threading.get_ident() != self._thread:
            raise GrammarLensError(
                "this model has a lesion that another thread opened: open the lesion in the thread "
                "that runs the model, or load a model of its own for each thread"
            )
        self.spared = torch.isin(token_ids, self._special.to(token_ids.device))
        if self._donors is not None:
            drawn = self._rng.integers(self._donors.n_any, size=tuple(token_ids.shape))
            self.donor = torch.from_numpy(drawn).to(token_ids.device)


def _cut(edit: Edit, seen: _Seen) -> Callable[..., Tensor]:
    def hook(activation: Tensor, **_: object) -> Tensor:
        out = activation.clone()
        donor = None if seen.donor is None else seen.donor.to(out.device)
        edit.to(out).change(out, donor)
        spared = seen.spared
        if spared is not None and spared.shape == out.shape[:2]:
            out = torch.where(spared.to(out.device)[..., None], activation, out)
        return out

    return hook


def _special_tokens(model: Model) -> Int[Tensor, " token"]:
    """Ids of BOS and padding, which no lesion touches."""
    names = ("bos_token_id", "pad_token_id")
    ids = [getattr(model.tokenizer, name, None) for name in names]
    return torch.tensor([i for i in ids if i is not None], dtype=torch.int64)
