"""Relative depth of key neurons, comparable between models with different numbers of layers."""

from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_counts, layer_strength
from grammar_lens.selectivity.result import Scores

ALL = "all"
"""The row of `depth_table` for the union of all labels' neurons."""


def depth_bins(n_layers: int, n_bins: int) -> Int[np.ndarray, " layer"]:
    """The bin of each layer when depth, from 0 to 1, is cut into equal bins.

    Layer l of n stands in the bin of its middle, (l + 1/2)/n, so that bins from both ends are alike.
    Raises GrammarLensError unless there are 1 to `n_layers` bins: others would stay empty.
    """
    if not 1 <= n_bins <= n_layers:
        raise GrammarLensError(
            f"{n_bins} bins of depth for {n_layers} layers: expected 1 to {n_layers}"
        )
    return (2 * np.arange(n_layers) + 1) * n_bins // (2 * n_layers)


def depth_strength(
    strength: Float[np.ndarray, "... layer"], n_bins: int
) -> Float[np.ndarray, "... bin"]:
    """Root mean square over the layers of each bin of depth, of root mean squares of single layers.

    Takes what `layer_strength` gives, and a null's `strength` of every replicate alike.
    """
    bins = depth_bins(strength.shape[-1], n_bins)
    squares = [(strength[..., bins == b] ** 2).mean(-1) for b in range(n_bins)]
    return np.sqrt(np.stack(squares, -1))


def depth_share(
    amount: Float[np.ndarray, "... layer"], n_bins: int
) -> Float[np.ndarray, "... bin"]:
    """Share of an amount, as of neurons, in each bin of depth; NaN where there is nothing to share."""
    bins = depth_bins(amount.shape[-1], n_bins)
    total = np.stack([amount[..., bins == b].sum(-1) for b in range(n_bins)], -1)
    whole = total.sum(-1, keepdims=True)
    return np.divide(total, whole, out=np.full_like(total, np.nan), where=whole > 0)


def depth_table(keys: KeyNeurons, n_bins: int = 3, confidence: float = 0.95) -> pd.DataFrame:
    """Key neurons in each bin of depth, a row per label and bin, and for the union ("all").

    `share` is of the label's neurons, `expected_share` the bin's share of all neurons; as many
    neurons drawn at random from all layers lie between `low` and `high` with that `confidence`
    (hypergeometric). Neurons that were chosen layer by layer stand where they were made to.
    """
    bins = depth_bins(keys.n_layers, n_bins)
    in_bin = np.bincount(bins) * keys.n_units
    union = np.bincount(keys.union()[:, 0], minlength=keys.n_layers)
    rows = []
    for label, by_layer in zip((*keys, ALL), (*layer_counts(keys), union), strict=True):
        counts = np.bincount(bins, weights=by_layer).astype(int)
        n = int(counts.sum())
        for b in range(n_bins):
            chance = stats.hypergeom(int(in_bin.sum()), int(in_bin[b]), n)
            low, high = chance.interval(confidence)
            rows.append(
                {
                    "label": label,
                    "bin": b,
                    "from_depth": b / n_bins,
                    "to_depth": (b + 1) / n_bins,
                    "neurons": int(counts[b]),
                    "share": counts[b] / n if n else np.nan,
                    "expected_share": in_bin[b] / in_bin.sum(),
                    "low": low / n if n else np.nan,
                    "high": high / n if n else np.nan,
                }
            )
    return pd.DataFrame(rows)


def depth_profile(
    scores: Scores, keys: KeyNeurons, n_bins: int = 3, confidence: float = 0.95
) -> pd.DataFrame:
    """Strength and key neurons of every label in each bin of depth: `depth_table` with strengths.

    `strength` is the root mean square score; `confidence` of the exchanged labels' lie between
    `null_low` and `null_high`, which are NaN without a null.
    """
    table = depth_table(keys, n_bins, confidence)
    table = table[table.label != ALL].reset_index(drop=True)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    strength = depth_strength(layer_strength(scores), n_bins)
    band = np.full((2, *strength.shape), np.nan)
    if scores.null is not None:
        band = np.quantile(depth_strength(scores.null.strength, n_bins), tails, axis=0)
    return table.assign(
        strength=strength.ravel(), null_low=band[0].ravel(), null_high=band[1].ravel()
    )


def same_peak(
    first: Float[np.ndarray, "case bin"], second: Float[np.ndarray, "case bin"]
) -> tuple[float, float]:
    """Share of cases with the largest value in the same bin, and the share expected by chance.

    Expected from how often either side has its largest value in each bin, as in Cohen's kappa.
    Source: Cohen (1960), A coefficient of agreement for nominal scales.
    """
    n_bins = first.shape[1]
    one, other = first.argmax(1), second.argmax(1)
    shares = [np.bincount(x, minlength=n_bins) / len(x) for x in (one, other)]
    return float((one == other).mean()), float(shares[0] @ shares[1])


def same_depth(depths: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of models: how many treebanks and tags have most key neurons in the same bin.

    `depths` are `depth_profile` of every model and treebank, with columns of these names.
    """
    by_model = {
        name: table.pivot_table(index=["treebank", "label"], columns="bin", values="share")
        for name, table in depths.groupby("model", sort=False)
    }
    rows = []
    for first, second in combinations(by_model, 2):
        same, expected = same_peak(by_model[first].to_numpy(), by_model[second].to_numpy())
        rows.append({"first": first, "second": second, "same_bin": same, "expected": expected})
    return pd.DataFrame(rows, columns=["first", "second", "same_bin", "expected"])
