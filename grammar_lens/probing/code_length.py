"""Online code length: bits needed to send the labels while the probe is learned from them."""

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.passes.workers import each_of
from grammar_lens.probing.fitting import Device, fit

PORTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Shares of the words after which the probe is fitted again, as in the source."""


def online_code_length(
    features: Float[np.ndarray, "word unit"],
    classes: Int[np.ndarray, " word"],
    groups: Int[np.ndarray, " word"],
    n_labels: int,
    rng: np.random.Generator,
    *,
    device: Device = "cpu",
    progress: Callable[[int], None] = lambda n_words: None,
) -> float:
    """Bits to send the labels of all words to someone who has their (standardised) features.

    Groups, as sentences, come in random order and whole. The first portion is sent at log2 n_labels
    bits a word; every other by a probe fitted on the portions before it. As that may know no word of
    some label, its distribution is mixed with the uniform one as in Laplace's rule: of weight
    n_labels / (n + n_labels) after n words. Compare with `uniform_code_length`. `progress` is told of
    the words of every fit.
    Source: Voita & Titov (2020), Information-Theoretic Probing with Minimum Description Length.
    """
    _, group = np.unique(groups, return_inverse=True)
    place = rng.permutation(group.max() + 1)[group]
    order = np.argsort(place, kind="stable")
    ends = portion_ends(place[order])
    features, classes = features[order], classes[order]

    def bits_of(portion: tuple[int, int]) -> float:
        start, end = portion
        probe = fit(features[:start], classes[:start], device=device)
        p = np.zeros((n_labels, end - start))
        p[probe.classes] = np.exp(probe.log_probability(features[start:end]))
        mixed = (start * p[classes[start:end], np.arange(end - start)] + 1) / (start + n_labels)
        return -float(np.log2(mixed).sum())

    portions = list(itertools.pairwise(ends.tolist()))
    later = each_of(
        bits_of,
        portions,
        device,
        lambda portion: progress(portion[0]),
        size=lambda portion: portion[0],
    )
    return float(ends[0] * np.log2(n_labels)) + sum(later)


def uniform_code_length(n_words: int, n_labels: int) -> float:
    """Bits to send the labels of the words when every label is held equally likely."""
    return float(n_words * np.log2(n_labels))


def portion_ends(groups: Int[np.ndarray, " word"]) -> Int[np.ndarray, " portion"]:
    """Numbers of words after which the probe is fitted again; portions end where a group ends."""
    closes = np.flatnonzero(np.append(groups[1:] != groups[:-1], True)) + 1
    wanted = np.array(PORTIONS) * len(groups)
    return np.unique(closes[np.searchsorted(closes, wanted.clip(max=len(groups)))])
