"""First-order lesion effects: the change of tag loss if a neuron took its reference value.

Attribution patching, (reference - a) times the loss's gradient, from one forward pass and as few
backward passes as can be. Source: Kramar et al. (2024), AtP*, arXiv 2403.00745.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grammar_lens.corpus.alignment import Alignment, TokenBatch
from grammar_lens.corpus.lexicon import DeviceLexicon, Lexicon
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, site_width
from grammar_lens.model.edited_pass import Forward, edited_pass
from grammar_lens.model.forward import check_head
from grammar_lens.model.kv_cache import require_keys_values
from grammar_lens.model.relevance_pass import relevance_pass
from grammar_lens.model.weights import unembedding
from grammar_lens.passes.batches import Keeper, read_batches
from grammar_lens.passes.readers import State
from grammar_lens.selectivity.attribution.head import (
    Slope,
    Tap,
    choose,
    hand_over,
    require_finite,
    tag_loss,
    through_head,
)

Change = Callable[[Tensor], Tensor]
_Watch = Callable[[int, Tensor], Callable[[Tensor], None]]
"""A layer and its activations [row time unit] -> what takes the gradient there."""


def attribute_own(
    model: Model,
    alignment: Alignment,
    batches: Sequence[TokenBatch],
    classes: Int[np.ndarray, " all_words"],
    lexicon: Lexicon,
    reference: Float[np.ndarray, "layer unit"] | None,
    taps: Sequence[Tap],
    *,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    keeper: Keeper | None = None,
    about: Mapping[str, object] | None = None,
    relevance: bool = False,
) -> None:
    """Hands every scored word's contributions, (reference - a) dL_tag/da, to the taps' readers.

    Unit: nats of the word's own tag loss, which is read at the token before the word; the neurons
    are those at that token. Words are scored when their class is not negative, and a tap gets those
    of them whose code is not. A reference of None is zero. Gradients through keys and values are
    stopped, so that a word's loss depends on its own position alone and one backward pass serves
    all words of a batch; what a neuron does to later positions is left out. With `relevance` the
    gradient is what `relevance_pass` hands back in its place.
    `progress`, `warn`, `keeper` and `about` are those of `activations.stream`.
    Raises GrammarLensError for labels unknown to the lexicon, a reference of another shape and
    attributions that are not finite; GrammarLensError for models whose logits are scaled or capped.
    """
    job = _Job(model, alignment, classes, lexicon, reference)
    job.check(batches)
    if not relevance:
        require_keys_values(model)

    with job.own_pass(relevance) as forward:

        def read(batch: TokenBatch) -> None:
            words, where = job.locate(batch)
            if len(words) == 0:
                return
            chosen = choose(words, taps)
            finite: list[tuple[int, Bool[Tensor, ""]]] = []

            def watch(layer: int, activation: Tensor) -> Callable[[Tensor], None]:
                gap = job.gap(layer, _rows(activation, where))

                def take(gradient: Tensor) -> None:
                    finite.extend(hand_over(layer, gap * _rows(gradient, where), chosen))

                return take

            hidden = job.forward(forward, batch, where, watch)
            hidden.backward(job.slopes(words, hidden))
            require_finite(finite)

        read_batches(
            batches,
            read,
            [reader for _, reader in taps],
            progress=progress,
            warn=warn,
            keeper=keeper,
            about=about,
        )


def attribute_all(
    model: Model,
    alignment: Alignment,
    batches: Sequence[TokenBatch],
    classes: Int[np.ndarray, " all_words"],
    n_labels: int,
    lexicon: Lexicon,
    reference: Float[np.ndarray, "layer unit"] | None,
    *,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    relevance: bool = False,
) -> tuple[Float[np.ndarray, "label layer unit"], Float[np.ndarray, " label"]]:
    """Sums of (reference - a) dL_tag/da over the words of each label and all positions; their count.

    Unit: nats; divided by the count, the expected rise of the label's mean tag loss when the neuron
    is set to its reference everywhere but at BOS and padding. Gradients flow through everything, at
    the cost of one backward pass for each label that a batch has.
    Parameters and errors are those of `attribute_own`.
    """
    job = _Job(model, alignment, classes, lexicon, reference)
    n_layers, width = model.cfg.n_layers, site_width(model, "neuron")
    sums = _Sums(n_labels, n_layers, width, device_of(model))
    job.check(batches)

    with job.free_pass(relevance) as forward:

        def read(batch: TokenBatch) -> None:
            words, where = job.locate(batch)
            if len(words) == 0:
                return
            outside = _outside(batch, alignment.has_bos)
            now = torch.zeros(n_layers, width, dtype=torch.float64, device=sums.device)

            def watch(layer: int, activation: Tensor) -> Callable[[Tensor], None]:
                gap = job.gap(layer, activation)
                gap[outside.to(gap.device)] = 0

                def take(gradient: Tensor) -> None:
                    now[layer] = (gap * gradient).sum((0, 1)).to(now.device)

                return take

            hidden = job.forward(forward, batch, where, watch)
            slopes = job.slopes(words, hidden)
            label = torch.from_numpy(classes[words]).to(hidden.device)
            present = np.unique(classes[words])
            totals = torch.zeros(
                len(present), n_layers, width, dtype=torch.float64, device=sums.device
            )
            for i, c in enumerate(present.tolist()):
                hidden.backward(slopes * (label == c)[:, None], retain_graph=i + 1 < len(present))
                totals[i] = now
            require_finite(
                [(layer, totals[:, layer].isfinite().all()) for layer in range(n_layers)]
            )
            sums.add(present, totals, np.bincount(classes[words], minlength=n_labels))

        read_batches(batches, read, [sums], progress=progress, warn=warn)
    return sums.sums.cpu().numpy(), sums.count.numpy()


class _Sums:
    """Sums of contributions over the words of each label."""

    def __init__(self, n_labels: int, n_layers: int, width: int, device: torch.device) -> None:
        self.device = device
        self.sums = torch.zeros(n_labels, n_layers, width, dtype=torch.float64, device=device)
        self.count = torch.zeros(n_labels, dtype=torch.float64)
        self._waiting: list[tuple[np.ndarray, Tensor, np.ndarray]] = []

    def add(
        self,
        present: Int[np.ndarray, " present"],
        sums: Float[Tensor, "present layer unit"],
        count: Int[np.ndarray, " label"],
    ) -> None:
        self._waiting.append((present, sums, count))

    def commit(self) -> None:
        for present, sums, count in self._waiting:
            self.sums.index_add_(0, torch.from_numpy(present).to(self.device), sums)
            self.count += torch.from_numpy(count)
        self.discard()

    def discard(self) -> None:
        self._waiting.clear()

    def state(self) -> list[State]:
        return [{"sums": self.sums, "count": self.count}]

    def load(self, pieces: Sequence[State]) -> None:
        (piece,) = pieces
        self.sums, self.count = piece["sums"].to(self.device), piece["count"]

    def merge(self, first: State, second: State) -> State:
        return {name: first[name] + second[name] for name in ("sums", "count")}


class _Job:
    """Data that the batches of one call share."""

    def __init__(
        self,
        model: Model,
        alignment: Alignment,
        classes: Int[np.ndarray, " all_words"],
        lexicon: Lexicon,
        reference: Float[np.ndarray, "layer unit"] | None,
    ) -> None:
        self._model = model
        self._alignment = alignment
        self._classes = classes
        _check_labels(classes, lexicon)
        shape = (model.cfg.n_layers, site_width(model, "neuron"))
        if reference is not None and reference.shape != shape:
            raise GrammarLensError(
                f"the reference has {reference.shape[0]} x {reference.shape[1]} units and the "
                f"model {shape[0]} x {shape[1]} neurons: take it from this model's moments"
            )
        self._reference = None if reference is None else torch.from_numpy(reference).float()
        weight = unembedding(model)
        tables = DeviceLexicon.of(lexicon, len(weight), weight.device)
        self._shares = tables.probability.T.contiguous()
        self._watch: _Watch

    def locate(self, batch: TokenBatch) -> tuple[Int[np.ndarray, " word"], Int[Tensor, " word"]]:
        """Numbers of the batch's scored words, and where each is read in the flattened batch."""
        words, where = batch.locate(self._alignment, "next", self._classes >= 0)
        return words, torch.from_numpy(where).to(device_of(self._model))

    def gap(
        self, layer: int, activation: Float[Tensor, "*place unit"]
    ) -> Float[Tensor, "*place unit"]:
        """Reference minus activation, in float32 or better."""
        a = activation.detach()
        a = a if a.dtype == torch.float64 else a.float()
        if self._reference is None:
            return -a
        return self._reference[layer].to(a.device) - a

    def check(self, batches: Sequence[TokenBatch]) -> None:
        """Raises GrammarLensError where the logits are not those of the head alone."""
        for batch in batches:
            if len(self.locate(batch)[0]):
                check_head(self._model, batch.token_ids[:1].to(device_of(self._model)))
                return

    def own_pass(self, relevance: bool) -> AbstractContextManager[Forward]:
        """A forward pass in which every neuron starts a gradient that stays at its position."""
        if relevance:
            return relevance_pass(self._model, self._starts(), through_attention=False)
        layers = range(self._model.cfg.n_layers)
        stops = {(place, layer): Tensor.detach for layer in layers for place in ("key", "value")}
        return edited_pass(self._model, {**self._starts(), **stops})

    def free_pass(self, relevance: bool) -> AbstractContextManager[Forward]:
        """A forward pass in which every neuron starts a gradient that flows through everything."""
        if relevance:
            return relevance_pass(self._model, self._starts(), through_attention=True)
        return edited_pass(self._model, self._starts())

    def _starts(self) -> dict[tuple[str, int], Change]:
        """Changes by which every neuron starts a gradient."""

        def start(layer: int) -> Change:
            def change(activation: Tensor) -> Tensor:
                if not activation.requires_grad:
                    activation = activation.detach().requires_grad_()
                activation.register_hook(self._watch(layer, activation.detach()))
                return activation

            return change

        return {("neuron", layer): start(layer) for layer in range(self._model.cfg.n_layers)}

    def forward(
        self, forward: Forward, batch: TokenBatch, where: Int[Tensor, " word"], watch: _Watch
    ) -> Float[Tensor, "word d_model"]:
        """Input of the head at the scored words, with a graph back to every neuron."""
        device = device_of(self._model)
        self._watch = watch
        with torch.enable_grad():
            hidden = forward(batch.token_ids.to(device))
        return _rows(hidden, where)

    def slopes(
        self, words: Int[np.ndarray, " word"], hidden: Float[Tensor, "word d_model"]
    ) -> Float[Tensor, "word d_model"]:
        """The gradient of each word's tag loss at what the head reads."""
        label = torch.from_numpy(self._classes[words]).to(self._shares.device)
        slope: Slope = tag_loss(label, self._shares)
        return through_head(self._model, hidden.detach(), slope)[1]


def _rows(
    values: Float[Tensor, "row time unit"], where: Int[Tensor, " word"]
) -> Float[Tensor, "word unit"]:
    return values.flatten(0, 1).index_select(0, where.to(values.device))


def _outside(batch: TokenBatch, has_bos: bool) -> Bool[Tensor, "row time"]:
    """BOS and padding, which no lesion touches."""
    time = np.arange(batch.token_ids.shape[1])
    return torch.from_numpy((time < int(has_bos)) | (time >= batch.lengths[:, None]))


def _check_labels(classes: Int[np.ndarray, " all_words"], lexicon: Lexicon) -> None:
    present = np.unique(classes[classes >= 0])
    if len(present) and present[-1] >= len(lexicon.labels):
        raise GrammarLensError(
            f"class {present[-1]} has no label in the lexicon, which has {len(lexicon.labels)}"
        )
    unknown = present[lexicon.prior[present] == 0]
    if len(unknown):
        raise GrammarLensError(
            f"label {lexicon.labels[unknown[0]]!r} has no word in the lexicon's data, so its loss "
            "is infinite: give its words the class -1"
        )
