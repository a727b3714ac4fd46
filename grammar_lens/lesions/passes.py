"""Logits of scored words under several lesions at once, from one batch of sentences.

`BarePasses` reads the batch once intact and starts every lesion at the first layer it touches;
`HookedPasses` runs the whole model for every lesion and works with any hooked model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.edits import Edit
from grammar_lens.model.about import Model, device_of, hook_name, model_name
from grammar_lens.model.fast_path import FastPath
from grammar_lens.model.forward import hooked, next_token_logits
from grammar_lens.model.kv_cache import Continuation, can_continue, keys_and_values
from grammar_lens.model.weights import output_weight


@dataclass(frozen=True)
class Lesion:
    """One condition as the passes see it: its edits, lowest layer first, and where they apply."""

    edits: tuple[Edit, ...]
    where: str
    donor: Int[np.ndarray, " token"] | None
    """The donor of every token of the corpus, flattened, for resampling."""


@dataclass(frozen=True)
class Scored:
    """A batch and its scored words: their places in the flattened (row, time), and all tokens' numbers."""

    batch: TokenBatch
    where: Int[np.ndarray, " word"]
    token: Int[np.ndarray, "row time"]
    """Number of every token in the corpus, flattened; 0 for padding."""


class Passes(Protocol):
    """Protocol of a way to run lesions for a battery."""

    def intact(self, scored: Scored, lesions: Sequence[Lesion]) -> Float[Tensor, "word vocab"]:
        """Logits of the intact model; the lesions to come say what is worth keeping."""
        ...

    def lesioned(
        self, lesions: Sequence[Lesion], which: Int[np.ndarray, " chosen"]
    ) -> Float[Tensor, "lesion_word vocab"]:
        """Logits of the chosen scored words under each lesion, one lesion after the other."""
        ...

    def group(self, lesion: Lesion) -> tuple[object, ...]:
        """Lesions of equal groups can stand in one forward pass."""
        ...


class HookedPasses:
    """Lesions as stacked rows of whole forward passes through the model's hooks."""

    def __init__(self, model: Model, first: int) -> None:
        self._model, self._first = model, first

    def group(self, lesion: Lesion) -> tuple[object, ...]:
        if lesion.where == "scored":
            raise _no_single_layers(self._model)
        return ()

    def intact(self, scored: Scored, lesions: Sequence[Lesion]) -> Float[Tensor, "word vocab"]:
        self._scored = scored
        return self._logits([()], scored.where, [None])

    def lesioned(
        self, lesions: Sequence[Lesion], which: Int[np.ndarray, " chosen"]
    ) -> Float[Tensor, "lesion_word vocab"]:
        donors = [_donors(lesion, self._scored) for lesion in lesions]
        return self._logits([x.edits for x in lesions], self._scored.where[which], donors)

    def _logits(
        self,
        edits: Sequence[tuple[Edit, ...]],
        where: Int[np.ndarray, " word"],
        donors: Sequence[Tensor | None],
    ) -> Float[Tensor, "lesion_word vocab"]:
        device, ids = device_of(self._model), self._scored.batch.token_ids
        places = _stacked(where, len(edits), ids.numel())
        changes = _by_place(edits)
        hooks = [
            (hook_name(self._model, site, layer), _hook(blocks, len(ids), self._first, donors))
            for (site, layer), blocks in changes.items()
        ]
        with hooked(self._model, hooks):
            return next_token_logits(
                self._model, ids.to(device).repeat(len(edits), 1), places.to(device)
            )


class FastPasses:
    """Lesions from the first layer they touch on, on what the intact model computed below it."""

    def __init__(self, model: Model, fast: FastPath, first: int) -> None:
        self._model, self._fast, self._first = model, fast, first
        self._written: dict[int, Tensor] = {}

    def group(self, lesion: Lesion) -> tuple[object, ...]:
        if lesion.where == "scored" and not can_continue(self._model):
            raise _no_single_layers(self._model)
        return (lesion.where, self._entry(lesion))

    def _entry(self, lesion: Lesion) -> int:
        """The first layer that must be run: after an edited neuron only what it wrote changes."""
        lowest = lesion.edits[0]
        return lowest.layer + (lowest.site in ("neuron", "resid_post"))

    @torch.no_grad()
    def intact(self, scored: Scored, lesions: Sequence[Lesion]) -> Float[Tensor, "word vocab"]:
        self._scored = scored
        device = device_of(self._model)
        ids = scored.batch.token_ids.to(device)
        entries = {self._entry(lesion) for lesion in lesions}
        lowest = [lesion.edits[0] for lesion in lesions]
        neurons = sorted({e.layer for e in lowest if e.site == "neuron"})
        keep = {"neuron": neurons, "resid_pre": sorted(entries | {self._fast.n_layers})}
        self._intact = self._fast.read(ids, keep, n_prefix=self._first)
        self._activations = self._intact.activations
        self._prefix = None
        if any(lesion.where == "scored" for lesion in lesions):
            _, self._prefix = keys_and_values(self._fast, ids)
        last = self._activations["resid_pre", self._fast.n_layers].flatten(0, 1)
        where = torch.from_numpy(scored.where).to(last.device)
        return self._fast.logits(last.index_select(0, where))

    @torch.no_grad()
    def lesioned(
        self, lesions: Sequence[Lesion], which: Int[np.ndarray, " chosen"]
    ) -> Float[Tensor, "lesion_word vocab"]:
        if lesions[0].where == "scored":
            return self._at_scored(lesions, which)
        entry, n = self._entry(lesions[0]), len(lesions)
        n_rows, full = self._scored.batch.token_ids.shape
        row, time = self._scored.where[which] // full, self._scored.where[which] % full
        inner = slice(self._first, int(time.max()) + 1)  # what comes later is not scored
        width = inner.stop - inner.start
        donors = [_donors(lesion, self._scored) for lesion in lesions]
        start = self._activations["resid_pre", entry][:, inner].repeat(n, 1, 1)
        for i, lesion in enumerate(lesions):
            block, donor = start[i * n_rows : (i + 1) * n_rows], donors[i]
            own = None if donor is None else donor[:, inner]
            self._enter(lesion.edits[0], block, own, (slice(None), inner))
        later = [self._later(lesion) for lesion in lesions]
        places = _stacked(row * width + time - self._first, n, n_rows * width).to(start.device)
        changes = {}
        for at, blocks in _by_place(later).items():
            if self._is_sparse(at):
                own = [None if d is None else d[row, time] for d in donors]
                changes[at] = _change_places(blocks, len(which), own)
            else:
                own = [None if d is None else d[:, inner] for d in donors]
                changes[at] = _change(blocks, n_rows, 0, own)
        with self._fast.changed(changes):
            out = self._fast.run(start, entry, self._intact, places, n)
        return self._fast.logits(out)

    def _is_sparse(self, at: tuple[str, int]) -> bool:
        """Whether activations there are computed at the scored places only: in the last MLP."""
        return at[1] == self._fast.n_layers - 1 and at[0] in ("neuron", "mlp_out")

    def _later(self, lesion: Lesion) -> tuple[Edit, ...]:
        """The edits that are still to be made on the way from the entry."""
        done = lesion.edits[0].site in ("neuron", "resid_pre", "resid_post")
        return lesion.edits[1:] if done else lesion.edits

    def _enter(self, edit: Edit, block: Tensor, donor: Tensor | None, at: tuple[Any, Any]) -> None:
        """Makes the lowest edit in the residual stream at the entry, in place.

        `at` indexes the rows and times of the batch that the block has.
        """
        edit = edit.to(block)
        if edit.site != "neuron":
            if edit.site in ("resid_pre", "resid_post"):
                edit.change(block, donor)
            return
        before = self._activations["neuron", edit.layer][at][..., edit.index]
        target = edit.target if donor is None else edit.target[donor]
        block += (edit.dose * (target - before)) @ self._writes(edit.layer)[edit.index]

    def _writes(self, layer: int) -> Float[Tensor, "neuron d_model"]:
        if layer not in self._written:
            self._written[layer] = output_weight(self._model, layer)
        return self._written[layer]

    def _at_scored(
        self, lesions: Sequence[Lesion], which: Int[np.ndarray, " chosen"]
    ) -> Float[Tensor, "lesion_word vocab"]:
        """Each word's own token lesioned, the tokens before it as they are in the intact model."""
        assert self._prefix is not None
        entry, n = self._entry(lesions[0]), len(lesions)
        n_rows, width = self._scored.batch.token_ids.shape
        row, version, time = _as_versions(self._scored.where[which], n_rows, width)
        device = self._activations["resid_pre", entry].device
        times = torch.from_numpy(time).to(device)
        pick = torch.arange(n_rows, device=device)[:, None]
        start = self._activations["resid_pre", entry][pick, times].repeat(n, 1, 1)
        donors = []
        for i, lesion in enumerate(lesions):
            every = _donors(lesion, self._scored)
            donors.append(None if every is None else every.to(device)[pick, times])
            block = start[i * n_rows : (i + 1) * n_rows]
            self._enter(lesion.edits[0], block, donors[i], (pick, times))
        later = _by_place([self._later(lesion) for lesion in lesions])
        changes = {at: _change(blocks, n_rows, 0, donors) for at, blocks in later.items()}
        prefix = [(k.repeat(n, 1, 1, 1), v.repeat(n, 1, 1, 1)) for k, v in self._prefix]
        onward = Continuation(self._fast, prefix, times.repeat(n, 1))
        with self._fast.changed(changes):
            for layer in range(entry, self._fast.n_layers):
                start = onward.layer(layer, start)
        places = _stacked(row * times.shape[1] + version, n, n_rows * times.shape[1])
        return self._fast.logits(start.flatten(0, 1).index_select(0, places.to(device)))


def _no_single_layers(model: Model) -> GrammarLensError:
    return GrammarLensError(
        f"lesions at the scored token only need the layers of {model_name(model)} one by one, which "
        "only Llama-like models in a TransformerBridge without hooks give: use every token"
    )


Blocks = Sequence[tuple[int, Edit]]
"""Edits of one site and layer, with the number of the lesion each belongs to."""


def _by_place(edits: Sequence[tuple[Edit, ...]]) -> dict[tuple[str, int], list[tuple[int, Edit]]]:
    by_place: dict[tuple[str, int], list[tuple[int, Edit]]] = {}
    for i, version in enumerate(edits):
        for edit in version:
            by_place.setdefault((edit.site, edit.layer), []).append((i, edit))
    return dict(sorted(by_place.items(), key=lambda item: item[0][1]))


def _change(
    blocks: Blocks, n_rows: int, first: int, donors: Sequence[Tensor | None]
) -> Callable[[Tensor], Tensor]:
    """Lesions each block of rows in its own way, in place, from the time `first` on."""

    def change(activation: Tensor) -> Tensor:
        for i, edit in blocks:
            block = activation[i * n_rows : (i + 1) * n_rows, first:]
            donor = donors[i]
            at = None if donor is None else donor[:, first:].to(block.device)
            edit.to(block).change(block, at)
        return activation

    return change


def _change_places(
    blocks: Blocks, n_words: int, donors: Sequence[Tensor | None]
) -> Callable[[Tensor], Tensor]:
    """As `_change`, where every lesion's scored words stand along time, one lesion after the other."""

    def change(activation: Tensor) -> Tensor:
        for i, edit in blocks:
            block = activation[0, i * n_words : (i + 1) * n_words]
            donor = donors[i]
            edit.to(block).change(block, None if donor is None else donor.to(block.device))
        return activation

    return change


def _hook(
    blocks: Blocks, n_rows: int, first: int, donors: Sequence[Tensor | None]
) -> Callable[..., Tensor]:
    change = _change(blocks, n_rows, first, donors)

    def hook(activation: Tensor, **_: object) -> Tensor:
        return change(activation)

    return hook


def _donors(lesion: Lesion, scored: Scored) -> Tensor | None:
    """The donor of every token of the batch."""
    return None if lesion.donor is None else torch.from_numpy(lesion.donor[scored.token])


def _stacked(
    where: Int[np.ndarray, " word"], n_lesions: int, size: int
) -> Int[Tensor, " lesion_word"]:
    """The same places in every lesion's rows."""
    return torch.from_numpy((np.arange(n_lesions)[:, None] * size + where[None]).ravel())


def _as_versions(
    where: Int[np.ndarray, " word"], n_rows: int, width: int
) -> tuple[Int[np.ndarray, " word"], Int[np.ndarray, " word"], Int[np.ndarray, "row version"]]:
    """Row and version of every word, and the time of every row's versions (0 where there is none)."""
    row, time = where // width, where % width
    version = np.zeros(len(where), np.int64)
    for r in np.unique(row):
        chosen = np.flatnonzero(row == r)
        version[chosen] = np.arange(len(chosen))
    times = np.zeros((n_rows, int(version.max(initial=0)) + 1), np.int64)
    times[row, version] = time
    return row, version, times
