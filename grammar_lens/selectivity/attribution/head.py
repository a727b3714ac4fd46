"""Functions of the logits and their gradients at the final hidden state, in closed form.

The head stays out of the autograd graph, and its logits are made a few words at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grammar_lens.defaults import HEAD_CHUNK
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.forward import head_blocks
from grammar_lens.model.onednn import product
from grammar_lens.model.weights import unembedding
from grammar_lens.passes.readers import Reader, Seen

Slope = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""Logits [word vocab] of some of the words, which it may overwrite -> values, dvalue/dlogits."""
Tap = tuple[Int[np.ndarray, " all_words"], Reader]
"""Codes of all words of the corpus, and the reader of the contributions of those with a code."""


def through_head(
    model: Model, hidden: Float[Tensor, "word d_model"], slope: Slope
) -> tuple[Float[Tensor, " word"], Float[Tensor, "word d_model"]]:
    """A function of each word's logits in float64, and its gradient at what the head reads."""
    weight = unembedding(model)
    few = max(1, HEAD_CHUNK[hidden.device.type == "cuda"] // len(weight))
    values = torch.zeros(len(hidden), dtype=torch.float64, device=weight.device)
    gradient = torch.zeros_like(hidden)
    for block, logits in head_blocks(model, hidden):
        for start in range(0, len(logits), few):
            rows = logits[start : start + few]
            part = slice(block.start + start, block.start + start + len(rows))
            values[part], slopes = slope(rows.to(torch.float64, copy=True), part)
            rows.copy_(slopes)
        gradient[block] = product(logits.to(weight.dtype), weight.T)
    return values, gradient


def tag_loss(label: Int[Tensor, " word"], shares: Float[Tensor, "label vocab"]) -> Slope:
    """L_tag = -log P(t|c), P(t|c) = sum_v p_v lambda(t|v); dL/dlogit_v = p_v (1 - lambda(t|v)/P)."""

    def slope(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        p = _softmax_(logits)
        share = shares.index_select(0, label[part])
        marginal = torch.linalg.vecdot(p, share)
        share.div_(-marginal[:, None]).add_(1)
        return -marginal.log(), p.mul_(share)

    return slope


def gold_log_probability(token: Int[Tensor, " word"]) -> Slope:
    """log p of each word's token; dF/dlogit_v = [v is the token] - p_v."""

    def slope(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        tokens = token[part, None]
        gold = logits.gather(1, tokens)[:, 0] - torch.logsumexp(logits, 1)
        p = _softmax_(logits).neg_()
        return gold, p.scatter_add_(1, tokens, torch.ones_like(gold)[:, None])

    return slope


def gold_probability(token: Int[Tensor, " word"]) -> Slope:
    """p of each word's token; dF/dlogit_v = p ([v is the token] - p_v)."""
    logarithm = gold_log_probability(token)

    def slope(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        value, slopes = logarithm(logits, part)
        p = value.exp()
        return p, slopes.mul_(p[:, None])

    return slope


def _softmax_(logits: Float[Tensor, "word vocab"]) -> Float[Tensor, "word vocab"]:
    """Probabilities in the place of the logits."""
    logits.sub_(logits.amax(1, keepdim=True)).exp_()
    return logits.div_(logits.sum(1, keepdim=True))


@dataclass
class Chosen:
    """The words of a batch that a tap wants: their rows (None for all) and codes."""

    reader: Reader
    rows: Int[Tensor, " chosen"] | None
    codes: Int[Tensor, " chosen"]


def choose(words: Int[np.ndarray, " word"], taps: Sequence[Tap]) -> list[Chosen]:
    """Target of each tap for a batch's words, made once for all layers."""
    chosen = []
    for codes, reader in taps:
        labelled = np.flatnonzero(codes[words] >= 0)
        if len(labelled):
            rows = None if len(labelled) == len(words) else torch.from_numpy(labelled)
            chosen_codes = torch.from_numpy(codes[words[labelled]].astype(np.int64))
            chosen.append(Chosen(reader, rows, chosen_codes))
    return chosen


def hand_over(
    layer: int, contributions: Float[Tensor, "word unit"], chosen: Sequence[Chosen]
) -> list[tuple[int, Bool[Tensor, ""]]]:
    """Adds a layer's contributions to each tap's reader; what comes back says which were finite."""
    device, finite = contributions.device, []
    for tap in chosen:
        if tap.codes.device != device:
            tap.codes = tap.codes.to(device)
            tap.rows = None if tap.rows is None else tap.rows.to(device)
        seen = Seen(contributions, where=tap.rows)
        finite.append((layer, tap.reader.add(layer, seen, tap.codes)))
    return finite


def require_finite(finite: Sequence[tuple[int, Bool[Tensor, ""]]]) -> None:
    """Raises GrammarLensError for the first layer whose attributions are not finite."""
    for layer, good in finite:
        if not bool(good):
            raise GrammarLensError(
                f"NaN or infinite attributions in layer {layer}: load the model in a wider dtype "
                "(--dtype bfloat16 or float32), or check its weights"
            )
