"""Integrated gradients of the gold token's probability, for every neuron at the scored position.

Sundararajan et al. (2017), Axiomatic attribution; Dai et al. (2022), Knowledge neurons, for neurons
of one layer scaled at one position.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.corpus.alignment import Alignment, TokenBatch, token_batches
from grammar_lens.errors import GrammarLensError, require_at_least, require_one_of
from grammar_lens.model.about import Model, device_of, model_name
from grammar_lens.model.forward import check_head
from grammar_lens.model.kv_cache import can_continue
from grammar_lens.passes.batches import read_batches
from grammar_lens.passes.readers import State
from grammar_lens.selectivity.attribution.head import Tap, choose, hand_over, require_finite
from grammar_lens.selectivity.attribution.scaled_path import (
    TARGETS,
    Recorded,
    Scaled,
    ScaledPath,
    plain,
    record,
    reused,
)


@dataclass(frozen=True)
class Completeness:
    """Error of completeness: integrated gradients should sum to F(a) - F(0).

    The mean over words of |sum over units - difference|, relative to the mean |difference|; `overall`
    pools the layers. Under `joint` the units of all layers make up one sum, and `per_layer` is NaN.
    """

    per_layer: Float[np.ndarray, " layer"]
    overall: float


def integrated_gradients(
    model: Model,
    alignment: Alignment,
    classes: Int[np.ndarray, " all_words"],
    taps: Sequence[Tap],
    *,
    steps: int = 20,
    target: str = "probability",
    joint: bool = False,
    reuse: bool = True,
    token_budget: int = 4096,
    rows: Int[np.ndarray, " chosen"] | None = None,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Completeness:
    """Hands each word's integrated gradients to the taps' readers; returns their completeness.

    Midpoint rule with m = `steps`: unit u with activation a at the token before the word gets
    (a/m) sum_k dF((k - 1/2)/m a)/da, where F is the probability of the word's first token, or its
    logarithm (nats). One layer's neurons are scaled at a time and later layers recomputed; under
    `joint` those of all layers together are held at their scaled recorded values.
    Words are those whose class is not negative (of `rows`, if given), and a tap gets those of
    them whose code is not. `reuse` recomputes the scored token alone, on the keys and values of its
    prefix; a model whose layers cannot be run so (a HookedTransformer) gets the plain way, a forward
    pass of the whole prefix for each step, and `warn` is told. `token_budget` limits tokens times
    steps in one pass, `progress` is called with the tokens done.
    Raises GrammarLensError for fewer than 1 step, an unknown target, attributions that are not
    finite, and where the two ways would differ; GrammarLensError for scaled or capped logits.
    """
    require_at_least("steps", steps, 1)
    require_one_of("target", target, TARGETS)
    if reuse and not can_continue(model):
        reuse = False
        if warn:
            warn(f"{model_name(model)} gives no keys and values to reuse: this will be slow")
    path = ScaledPath(model, target, steps, joint)
    tally = _Tally(model.cfg.n_layers)
    first = True

    def read(batch: TokenBatch) -> None:
        nonlocal first
        words, where = batch.locate(alignment, "next", classes >= 0)
        if len(words) == 0:
            return
        recorded = record(path, batch, words, where, alignment.first_token[words], reuse)
        if first:
            check_head(model, batch.token_ids[:1].to(device_of(model)))
            if reuse:
                _check_reuse(path, recorded)
            first = False
        sums = []
        for part in recorded.parts(steps + 1, token_budget):
            full = path.outputs(part.hidden[:, None], part.gold)[0][:, 0]
            for scaled in reused(path, part) if reuse else plain(path, part):
                sums.append(_hand_over(scaled, full, part.words, taps))
        tally.add(sums)

    budget = max(1, token_budget // (steps + 1))
    batches = token_batches(alignment, budget, rows=rows)
    collectors = [*(reader for _, reader in taps), tally]
    read_batches(batches, read, collectors, progress=progress, warn=warn)
    return tally.completeness(joint)


def _check_reuse(path: ScaledPath, recorded: Recorded) -> None:
    """Raises GrammarLensError unless both ways agree on the word with the longest prefix.

    They do where layers follow one another along one residual stream to which neurons write
    directly. The logarithm is compared: probabilities may be next to nothing.
    """
    half = ScaledPath(path.model, "log_probability", 1, path.joint)
    word = recorded.take(recorded.place.argmax()[None])
    (reused_values, _), (expected, _) = next(reused(half, word)), next(plain(half, word))
    precise = recorded.hidden.dtype in (torch.float32, torch.float64)
    relative, floor = (0.01, 1e-5) if precise else (0.3, 1e-2)
    require_finite([(layer, values.isfinite().all()) for layer, values in expected.items()])
    for layer, values in expected.items():
        gap = float((reused_values[layer] - values).abs().max())
        # also where only the rerun gives NaN
        if not gap <= relative * float(values.abs().max()) + floor:
            raise GrammarLensError(
                f"the layers of {model_name(path.model)} cannot be rerun on a prefix's keys and "
                f"values (attributions in layer {layer} differ by {gap:.2g}): use reuse=False"
            )


_Miss = tuple[list[int], Tensor, Tensor]
"""Layers scaled together, and per word the error of their sum and the difference of outputs."""


def _hand_over(
    scaled: Scaled,
    full: Float[Tensor, " word"],
    words: Int[np.ndarray, " word"],
    taps: Sequence[Tap],
) -> _Miss:
    """Hands contributions to the readers; returns how well they add up."""
    by_layer, zero = scaled
    finite = []
    total = torch.zeros_like(zero)
    chosen = choose(words, taps)
    for layer, contributions in by_layer.items():
        finite += hand_over(layer, contributions, chosen)
        finite.append((layer, contributions.isfinite().all()))
        total += contributions.sum(1, dtype=torch.float64).to(zero.device)
    require_finite(finite)
    difference = full - zero
    return list(by_layer), (total - difference).abs(), difference.abs()


class _Tally:
    """Sums what `Completeness` needs."""

    def __init__(self, n_layers: int) -> None:
        self._sums = torch.zeros(n_layers, 2, dtype=torch.float64)
        self._waiting: list[_Miss] = []

    def add(self, misses: Sequence[_Miss]) -> None:
        self._waiting += misses

    def commit(self) -> None:
        for layers, miss, difference in self._waiting:
            self._sums[layers[0]] += torch.tensor([float(miss.sum()), float(difference.sum())])
        self.discard()

    def discard(self) -> None:
        self._waiting.clear()

    def state(self) -> list[State]:
        return [{"sums": self._sums}]

    def load(self, pieces: Sequence[State]) -> None:
        (piece,) = pieces
        self._sums = piece["sums"]

    def merge(self, first: State, second: State) -> State:
        return {"sums": first["sums"] + second["sums"]}

    def completeness(self, joint: bool) -> Completeness:
        miss, difference = self._sums.numpy().T
        tiny = np.finfo(float).tiny
        each = np.full(len(miss), np.nan) if joint else miss / np.maximum(difference, tiny)
        return Completeness(each, float(miss.sum() / max(difference.sum(), tiny)))
