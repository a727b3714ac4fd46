"""Neurons of each phenomenon, by the first-order effect of their lesion on its minimal pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from grammar_lens.corpus.alignment import TokenBatch, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, site_width
from grammar_lens.model.edited_pass import edited_pass
from grammar_lens.model.forward import check_head
from grammar_lens.model.weights import unembedding
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import massive_units
from grammar_lens.phenomena.pairs import MinimalPair
from grammar_lens.phenomena.scoring import PreparedPairs, places
from grammar_lens.selectivity.attribution.head import gold_log_probability, through_head
from grammar_lens.selectivity.permutation_null import benjamini_hochberg

N_FLIPS = 100
"""Replicates in which the good and the bad sentence of every pair change places or not, at random."""
METHOD = "attribution of minimal pairs"


@dataclass(frozen=True)
class Choice:
    """The rule that chooses neurons: at most `k` of those with q of at most `alpha`, none of them massive.

    `at` says whose log odds they are to carry: of the whole "sentence", or at the differing "token".
    """

    k: int
    alpha: float
    massive: float | None
    at: str

    def __str__(self) -> str:
        level = f"q at most {self.alpha:g}" if self.alpha < 1 else "any q"
        return f"top {self.k}, positive, {level}, {self.at}"


def localise(
    model: Model,
    prepared: PreparedPairs,
    groups: Int[np.ndarray, " pair"],
    fold: Int[np.ndarray, " pair"],
    like: KeyNeurons,
    choice: Choice,
    *,
    seed: int,
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[KeyNeurons], KeyNeurons]:
    """The key neurons of every phenomenon chosen outside each fold, and those chosen on all pairs.

    A unit's score is the mean fall of the log odds (nats) when it is set to its mean, to first order
    and at every token, less the mean over the phenomena of other terms. Only units whose own effect
    lowers the log odds with q of at most `alpha` are ranked, by `flipped_q`. `like` are key neurons of
    the same model: their unit statistics are the means and tell massive units.
    """
    units = like.units
    if units is None:
        raise GrammarLensError(
            "these key neurons carry no unit statistics: choose them with gl.select"
        )
    n_folds = int(fold.max()) + 1
    n_phenomena, column = len(prepared.phenomena), prepared.column
    shape = (model.cfg.n_layers, site_width(model, "neuron"))
    mean = np.zeros((n_folds + 1, n_phenomena, *shape), np.float32)
    q = np.ones_like(mean)
    reference = torch.from_numpy(units.mean).float()
    for i in range(n_phenomena):
        here = np.flatnonzero(column == i)
        effect = pair_effects(model, prepared, here, reference, choice.at, token_budget, progress)
        for f in range(n_folds + 1):
            # the last is of all pairs
            chosen = fold[here] != f
            mean[f, i] = effect[chosen].mean(0)
            if choice.alpha < 1:
                rng = np.random.default_rng([seed, 17, i, f])
                q[f, i] = flipped_q(effect[chosen], groups[here][chosen], rng)
    allowed = mean > 0
    if choice.alpha < 1:
        allowed &= q <= choice.alpha
    if choice.massive is not None:
        allowed &= ~massive_units(units, choice.massive)
    terms = terms_of(prepared.pairs)
    origin = replace(like.origin, label="phenomenon", position="next", treebank="minimal pairs")
    made = [
        KeyNeurons(
            sets={
                name: _best(
                    name, _contrast(mean[f], i, terms), allowed[f, i], q[f, i], like, choice
                )
                for i, name in enumerate(prepared.phenomena)
            },
            method=METHOD,
            rule=str(choice),
            n_units=shape[1],
            n_layers=shape[0],
            units=units,
            origin=origin,
        )
        for f in range(n_folds + 1)
    ]
    return made[:-1], made[-1]


def pair_effects(
    model: Model,
    prepared: PreparedPairs,
    chosen: Int[np.ndarray, " chosen"],
    reference: Float[Tensor, "layer unit"],
    at: str = "token",
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float32[np.ndarray, "chosen layer unit"]:
    """First-order fall of each pair's log odds (nats) if a unit took its reference at every token.

    (reference - a) d(-log odds)/da, summed over all tokens but BOS, which no lesion touches. Gradients
    run through everything, keys and values too: every sentence is a row of its own, so one backward
    pass serves all of a batch (attribution of the kind "all"). With `at` "sentence" the log odds are
    those of the whole sentences, from one pass of each; with "token" those of the first token at which
    they differ, a difference of two logits after one beginning, from one pass of that.
    Raises GrammarLensError for models whose logits are scaled or capped, and for effects that are not finite.
    """
    until = np.zeros(2 * len(prepared.pairs), np.int64)
    if at == "sentence":
        # the last token is only predicted
        length = np.array([len(ids) for ids in prepared.alignment.token_ids])
        for side in (0, 1):
            until[2 * chosen + side] = length[2 * chosen + side] - 1
    else:
        until[2 * chosen] = prepared.part[chosen]
    rank = np.zeros(len(prepared.pairs), np.int64)
    rank[chosen] = np.arange(len(chosen))
    batches = token_batches(prepared.alignment, token_budget or default_budget(model), until=until)
    check_head(model, batches[0].token_ids[:1].to(device_of(model)))
    slopes = _sentences(model, prepared) if at == "sentence" else _tokens(model, prepared)
    effect = np.zeros((len(chosen), *reference.shape), np.float32)
    for batch in batches:
        spared = torch.from_numpy(_spared(batch, prepared.alignment.has_bos))
        of_pair = rank[batch.rows // 2]
        for layer, gradient in _gradients(model, batch, slopes, reference, spared).items():
            np.add.at(effect[:, layer], of_pair, gradient)
        if progress:
            progress(batch.n_tokens)
    if not np.isfinite(effect).all():
        raise GrammarLensError(
            "NaN or infinite attributions: load the model in a wider dtype (--dtype bfloat16 or "
            "float32), or check its weights"
        )
    return effect


Slopes = Callable[[TokenBatch, Tensor], tuple[Tensor, Tensor]]
"""A batch and the input of the head [row time d_model] -> that at some places, and the gradient there
of minus the log odds."""


def _tokens(model: Model, prepared: PreparedPairs) -> Slopes:
    """The log odds where the sentences part: the difference of the good and the bad token's logits."""
    good, bad = prepared.differing()
    weight = unembedding(model).detach()

    def slopes(batch: TokenBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        pair = batch.rows // 2
        rows, last = np.arange(len(pair)), batch.lengths - 1
        change = weight[torch.from_numpy(bad[pair])] - weight[torch.from_numpy(good[pair])]
        return hidden[rows, last], change

    return slopes


def _sentences(model: Model, prepared: PreparedPairs) -> Slopes:
    """The log odds of the whole sentences, to which the tokens contribute from where they part on."""
    ids = prepared.alignment.token_ids

    def slopes(batch: TokenBatch, hidden: Tensor) -> tuple[Tensor, Tensor]:
        row, time = places(batch, prepared.part[batch.rows // 2] - 1)
        gold = torch.from_numpy(
            np.concatenate([ids[r][prepared.part[r // 2] :] for r in batch.rows])
        )
        read = hidden[row, time]
        sign = torch.from_numpy(np.where(batch.rows[row] % 2 == 0, -1.0, 1.0)).to(read.device)
        slope = gold_log_probability(gold.to(read.device))
        gradient = through_head(model, read.detach(), slope)[1]
        return read, gradient * sign[:, None].to(gradient.dtype)

    return slopes


def _gradients(
    model: Model,
    batch: TokenBatch,
    slopes: Slopes,
    reference: Float[Tensor, "layer unit"],
    spared: Bool[Tensor, "row time"],
) -> dict[int, Float32[np.ndarray, "row unit"]]:
    """By layer (reference - a) times the gradient, summed over the times that are not spared."""
    found: dict[int, np.ndarray] = {}

    def start(layer: int) -> Callable[[Tensor], Tensor]:
        def change(activation: Tensor) -> Tensor:
            if not activation.requires_grad:
                activation = activation.detach().requires_grad_()
            a = activation.detach()

            def take(gradient: Tensor) -> None:
                gap = reference[layer].to(a.device) - a.float()
                gap[spared.to(a.device)] = 0
                found[layer] = (gap * gradient.float()).sum(1).cpu().numpy()

            activation.register_hook(take)
            return activation

        return change

    starts = {("neuron", layer): start(layer) for layer in range(len(reference))}
    with edited_pass(model, starts) as forward:
        with torch.enable_grad():
            read, gradient = slopes(batch, forward(batch.token_ids.to(device_of(model))))
        read.backward(gradient.to(read.device, read.dtype))
    return found


def _spared(batch: TokenBatch, has_bos: bool) -> Bool[np.ndarray, "row time"]:
    """BOS and padding."""
    time = np.arange(batch.token_ids.shape[1])
    return (time < int(has_bos)) | (time >= batch.lengths[:, None])


def flipped_q(
    effect: Float[np.ndarray, "pair layer unit"],
    groups: Int[np.ndarray, " pair"],
    rng: np.random.Generator,
    n_flips: int = N_FLIPS,
) -> Float[np.ndarray, "layer unit"]:
    """q of every unit under the null that good and bad sentences of its pairs are exchangeable.

    Exchanging them turns the sign of a pair's effect, so that flipping signs at random, those of a
    group of like pairs together, is an exact null of "no difference", for every unit. z is the sum over
    its root of squares, which no flip changes; p compares it with the z of all units in all replicates
    (Tusher et al. 2001), one-sided; q by Benjamini and Hochberg (1995). A unit without any effect has 1.
    """
    flat = effect.reshape(len(effect), -1)
    _, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(group.max()) + 1, flat.shape[1]), np.float32)
    np.add.at(sums, group, flat)
    size = np.sqrt((sums.astype(np.float64) ** 2).sum(0)).astype(np.float32)
    sums = np.divide(sums, size, out=np.zeros_like(sums), where=size > 0)
    signs = rng.choice(np.array([-1, 1], np.float32), (n_flips, len(sums)))
    null = np.sort((signs @ sums)[:, size > 0].ravel())
    z = sums.sum(0)
    p = (1 + len(null) - np.searchsorted(null, z, side="left")) / (1 + len(null))
    q = np.ones(len(p))
    q[size > 0] = benjamini_hochberg(p[size > 0])
    return q.reshape(effect.shape[1:])


def terms_of(pairs: Sequence[MinimalPair]) -> tuple[str, ...]:
    """The term of each phenomenon, or the phenomenon itself where it has none."""
    return tuple({pair.phenomenon: pair.term or pair.phenomenon for pair in pairs}.values())


def _contrast(
    mean: Float32[np.ndarray, "phenomenon layer unit"], i: int, terms: Sequence[str]
) -> Float32[np.ndarray, "layer unit"]:
    """The effect on one phenomenon less the mean effect on those of other terms, or on all others.

    Phenomena of the same term, such as two paradigms of agreement, are not held against each other.
    """
    others = [j for j, term in enumerate(terms) if term != terms[i]]
    others = others or [j for j in range(len(terms)) if j != i]
    return mean[i] - mean[others].mean(0) if others else mean[i]


def _best(
    name: str,
    score: Float32[np.ndarray, "layer unit"],
    allowed: Bool[np.ndarray, "layer unit"],
    q: Float32[np.ndarray, "layer unit"],
    like: KeyNeurons,
    choice: Choice,
) -> Neurons:
    """The units of the largest scores above 0 among those allowed, ties by address."""
    assert like.units is not None
    strength = np.where(allowed, score, 0.0).ravel()
    order = np.argsort(-strength, kind="stable")[: choice.k]
    flat = order[strength[order] > 0]
    return Neurons(
        name=name,
        site="neuron",
        layer=flat // score.shape[1],
        index=flat % score.shape[1],
        score=score.ravel()[flat].astype(np.float64),
        mean=like.units.mean.ravel()[flat],
        q=q.ravel()[flat].astype(np.float64) if choice.alpha < 1 else None,
        weights=like.origin.weights,
    )
