"""Lesions: chosen units held at another value during the forward pass, and batteries of them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.activations import ActivationError, is_out_of_memory
from grammar_lens.alignment import Alignment, TokenBatch
from grammar_lens.lexicon import DeviceLexicon, Lexicon, split_losses
from grammar_lens.model import (
    Model,
    device_of,
    hook_name,
    hooked,
    mid_reaches_residual,
    next_token_logits,
    site_width,
    watch_tokens,
)
from grammar_lens.outcomes import VALUES, Condition, Manner, Outcomes
from grammar_lens.selection import Neurons


class LesionError(ValueError):
    """A lesion that cannot be made."""


@dataclass(frozen=True)
class _Edit:
    """The units of one layer, the value they are moved towards, and how far."""

    index: Int[Tensor, " unit"]
    target: Float[Tensor, " unit"]
    dose: float


@contextlib.contextmanager
def lesion(
    model: Model, neurons: Neurons, *, value: str = "mean", dose: float = 1.0
) -> Iterator[Model]:
    """While open, the neurons of `model` are lesioned; afterwards nothing of the lesion remains.

    A unit's activation a becomes (1 - dose) a + dose v at every token except BOS and padding, with
    v = 0 ("zero") or the unit's mean over words at the study's position ("mean"). A dose of 0 or an
    empty set changes nothing at all; a negative dose amplifies what sets the unit apart from v.
    Works under generation and nests. Yields the model.
    Raises LesionError for an unknown value, a mean lesion of neurons whose mean is not known, units
    that do not exist, and `resid_mid` where editing it would not reach the residual stream.
    """
    edits = _edits(model, neurons, Manner(value, float(dose)))
    if not edits:
        yield model
        return
    special = _special_tokens(model)
    seen: list[Tensor] = []

    def see(token_ids: Tensor) -> None:
        seen[:] = [torch.isin(token_ids, special.to(token_ids.device))]

    def cut(edit: _Edit) -> Callable[..., Tensor]:
        def hook(activation: Tensor, **_: object) -> Tensor:
            part = activation[..., edit.index.to(activation.device)]
            target = edit.target.to(activation.device, activation.dtype)
            moved = (1 - dose) * part + dose * target
            if seen and seen[0].shape == activation.shape[:2]:
                moved = torch.where(seen[0].to(activation.device)[..., None], part, moved)
            out = activation.clone()
            out[..., edit.index.to(activation.device)] = moved
            return out

        return hook

    hooks = [(name, cut(edit)) for name, edit in edits.items()]
    with watch_tokens(model, see), hooked(model, hooks):
        yield model


def run_battery(
    model: Model,
    alignment: Alignment,
    batches: Sequence[TokenBatch],
    classes: Int[np.ndarray, " all_words"],
    lexicon: Lexicon,
    conditions: Sequence[Condition],
    *,
    token_budget: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> Outcomes:
    """Losses of every scored word, intact and under each condition.

    A word is scored when its class is not negative; the caller leaves out what cannot be scored.
    Conditions stand as rows of one forward pass, as many as fit into `token_budget`, which is halved
    whenever memory runs out.
    `progress` is told the tokens times conditions done. Batches must be padded on the right.
    """
    wanted = classes >= 0
    numbers = np.flatnonzero(wanted)
    rows = len(conditions) + 1
    probed = (0, *(i + 1 for i, c in enumerate(conditions) if c.replicate == 0))
    store = _Store(rows, len(numbers), len(lexicon.labels), probed)
    place = np.full(len(classes), -1)
    place[numbers] = np.arange(len(numbers))
    edits = [{}, *(_edits(model, c.neurons, c.manner) for c in conditions)]
    active = [i for i in range(rows) if i == 0 or edits[i]]
    battery = _Battery(
        model, alignment, classes, lexicon, edits, place, store, token_budget, progress
    )
    for batch in batches:
        battery.run(batch, active)
        if progress:
            progress(batch.n_tokens * (rows - len(active)))
    for i in set(range(rows)) - set(active):
        store.copy_intact(i)
    return Outcomes(
        conditions=tuple(conditions),
        labels=lexicon.labels,
        word=numbers,
        sentence=alignment.sentence[numbers],
        label=classes[numbers],
        nll=store.nll,
        tag_loss=store.tag_loss,
        lexical_loss=store.lexical_loss,
        top_label=store.top_label,
        tag_probability=store.tag_probability,
        probed=probed,
        shared=np.ones(len(numbers), bool),
        seen_mass=float(store.seen_mass.mean()) if len(numbers) else 0.0,
    )


class _Store:
    """The outcome arrays, filled batch by batch."""

    def __init__(self, rows: int, n_words: int, n_labels: int, probed: Sequence[int]) -> None:
        self.nll = np.zeros((rows, n_words))
        self.tag_loss = np.zeros((rows, n_words))
        self.lexical_loss = np.zeros((rows, n_words))
        self.top_label = np.zeros((rows, n_words), np.int16)
        self.tag_probability = np.zeros((len(probed), n_words, n_labels), np.float32)
        self.seen_mass = np.zeros(n_words)
        self._probed = {row: i for i, row in enumerate(probed)}

    def put(self, row: int, at: np.ndarray, losses: dict[str, np.ndarray]) -> None:
        self.nll[row, at] = losses["nll"]
        self.tag_loss[row, at] = losses["tag_loss"]
        self.lexical_loss[row, at] = losses["lexical_loss"]
        self.top_label[row, at] = losses["tag_probability"].argmax(1)
        if row in self._probed:
            self.tag_probability[self._probed[row], at] = losses["tag_probability"]
        if row == 0:
            self.seen_mass[at] = losses["seen_mass"]

    def copy_intact(self, row: int) -> None:
        for array in (self.nll, self.tag_loss, self.lexical_loss, self.top_label):
            array[row] = array[0]
        if row in self._probed:
            self.tag_probability[self._probed[row]] = self.tag_probability[0]


@dataclass
class _Battery:
    """Runs groups of conditions as stacked rows; remembers how many rows fit."""

    model: Model
    alignment: Alignment
    classes: Int[np.ndarray, " all_words"]
    lexicon: Lexicon
    edits: list[dict[str, _Edit]]
    place: Int[np.ndarray, " all_words"]
    store: _Store
    token_budget: int
    progress: Callable[[int], None] | None
    tables: DeviceLexicon | None = None

    def run(self, batch: TokenBatch, rows: Sequence[int]) -> None:
        """Scores one batch under all conditions, in groups that fit into the token budget."""
        assert batch.mask is None, "lesion batteries read right-padded batches"
        waiting = list(rows)
        while waiting:
            if batch.token_ids.numel() > self.token_budget and len(batch.sentences) > 1:
                for half in batch.halves():
                    self.run(half, waiting)
                return
            size = max(1, self.token_budget // batch.token_ids.numel())
            group = waiting[:size]
            try:
                self._run_group(batch, group)
            except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(batch, len(group), error)
                continue
            waiting = waiting[size:]
            if self.progress:
                self.progress(batch.n_tokens * len(group))

    def _shrink(self, batch: TokenBatch, n_conditions: int, error: BaseException) -> None:
        if n_conditions == 1 and len(batch.sentences) < 2:
            raise ActivationError(
                f"one sentence of {batch.token_ids.shape[1]} tokens does not fit in memory"
            ) from error
        self.token_budget = max(1, batch.token_ids.numel() * n_conditions // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run_group(self, batch: TokenBatch, group: Sequence[int]) -> None:
        device = device_of(self.model)
        words, where = batch.locate(self.alignment, "next", self.classes >= 0)
        if len(words) == 0:
            return
        n_rows, width = batch.token_ids.shape
        ids = batch.token_ids.to(device).repeat(len(group), 1)
        offsets = np.arange(len(group)) * n_rows * width
        flat = torch.from_numpy((offsets[:, None] + where[None]).ravel()).to(device)
        with hooked(self.model, self._hooks(group, n_rows)):
            logits = next_token_logits(self.model, ids, flat)
        gold = torch.from_numpy(self.alignment.first_token[words]).to(logits.device)
        label = torch.from_numpy(self.classes[words]).to(logits.device)
        if self.tables is None:
            self.tables = DeviceLexicon.of(self.lexicon, logits.shape[1], logits.device)
        for i, row in enumerate(group):
            mine = logits[i * len(words) : (i + 1) * len(words)]
            losses = split_losses(mine, gold, label, self.tables)
            self.store.put(
                row,
                self.place[words],
                {name: tensor.cpu().numpy() for name, tensor in vars(losses).items()},
            )

    def _hooks(self, group: Sequence[int], n_rows: int) -> list[tuple[str, Callable[..., Tensor]]]:
        first = 1 if self.alignment.has_bos else 0
        hooks = []
        for name in sorted({name for row in group for name in self.edits[row]}):
            blocks = [
                (slice(i * n_rows, (i + 1) * n_rows), self.edits[row][name])
                for i, row in enumerate(group)
                if name in self.edits[row]
            ]
            hooks.append((name, _cut_blocks(blocks, first)))
        return hooks


def _cut_blocks(blocks: Sequence[tuple[slice, _Edit]], first: int) -> Callable[..., Tensor]:
    """A hook that lesions each block of rows in its own way, from the position `first` on."""

    def hook(activation: Tensor, **_: object) -> Tensor:
        for rows, edit in blocks:
            block = activation[rows, first:]
            index = edit.index.to(activation.device)
            target = edit.target.to(activation.device, activation.dtype)
            if edit.dose == 1:
                block[..., index] = target
            else:
                block[..., index] = (1 - edit.dose) * block[..., index] + edit.dose * target
        return activation

    return hook


def _edits(model: Model, neurons: Neurons, manner: Manner) -> dict[str, _Edit]:
    """The edit at every hook that holds some of the neurons; none where nothing would change."""
    value, dose = manner.value, manner.dose
    if value not in VALUES:
        raise LesionError(f"lesion value is {value!r}, expected one of {', '.join(VALUES)}")
    if dose == 0 or len(neurons) == 0:
        return {}
    if value == "mean" and neurons.mean is None:
        raise LesionError(
            f"the mean activation of {neurons.name!r} is not known: choose the neurons from scores "
            "(gl.select), or use value='zero'"
        )
    if neurons.site == "resid_mid" and not mid_reaches_residual(model):
        raise LesionError(
            "a lesion at 'resid_mid' would reach the MLP but not the residual stream in a "
            "TransformerBridge: lesion 'resid_pre', 'attn_out' or 'resid_post'"
        )
    width = site_width(model, neurons.site)
    outside = np.flatnonzero((neurons.index < 0) | (neurons.index >= width))
    if len(outside):
        layer, index = neurons.layer[outside[0]], neurons.index[outside[0]]
        raise LesionError(
            f"neuron {layer}.{index} does not exist: a layer has units 0 to {width - 1}"
        )
    edits = {}
    for layer in np.unique(neurons.layer):
        rows = neurons.layer == layer
        mean = neurons.mean[rows] if value == "mean" and neurons.mean is not None else None
        target = np.zeros(int(rows.sum())) if mean is None else mean
        edits[hook_name(model, neurons.site, int(layer))] = _Edit(
            torch.from_numpy(neurons.index[rows].copy()),
            torch.from_numpy(target.astype(np.float32)),
            dose,
        )
    return edits


def _special_tokens(model: Model) -> Int[Tensor, " token"]:
    """Ids of BOS and padding, which no lesion touches."""
    names = ("bos_token_id", "pad_token_id")
    ids = [getattr(model.tokenizer, name, None) for name in names]
    return torch.tensor([i for i in ids if i is not None], dtype=torch.int64)
