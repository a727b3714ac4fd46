"""Folds of minimal pairs, so that no pair is used both to choose neurons and to test them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.phenomena.pairs import MinimalPair, phenomena_of

LEAST_PAIRS = 10
"""Groups of pairs that a phenomenon needs outside each fold: with fewer, flipping signs shows no tail."""
LONG = 3
"""Words that a shared beginning needs to tie two pairs together; shorter ones, "The", tie half a file."""


def groups_of(pairs: Sequence[MinimalPair]) -> Int[np.ndarray, " pair"]:
    """Number of the group of each pair; pairs of a group depend on each other and are never separated.

    Two pairs are of one group when they have a sentence in common, or when what stands before the
    difference is the same and has three words or more, whatever their phenomena.
    """
    leader = list(range(len(pairs)))

    def root(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, pair in enumerate(pairs):
        begin = _shared_beginning(pair)
        keys = [("sentence", pair.good), ("sentence", pair.bad)]
        keys += [("beginning", begin)] if begin.count(" ") + 1 >= LONG else []
        for key in keys:
            leader[root(i)] = root(first.setdefault(key, i))
    return np.unique([root(i) for i in range(len(pairs))], return_inverse=True)[1]


def _shared_beginning(pair: MinimalPair) -> str:
    """The words that stand alike before the difference."""
    words: list[str] = []
    for good, bad in zip(pair.good.split(), pair.bad.split(), strict=False):
        if good != bad:
            break
        words.append(good)
    return " ".join(words)


def folds_of(
    pairs: Sequence[MinimalPair],
    groups: Int[np.ndarray, " pair"],
    n_folds: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " pair"]:
    """The fold of each pair: groups in random order, each to the fold that has fewest of its phenomenon.

    Raises GrammarLensError for fewer than two folds, and for a phenomenon with fewer groups of pairs
    than folds, or fewer than 10 outside one of them.
    """
    require_at_least("folds", n_folds, 2)
    names = phenomena_of(pairs)
    number = {name: i for i, name in enumerate(names)}
    column = np.array([number[pair.phenomenon] for pair in pairs], np.int64)
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(i)
    fold = np.zeros(len(pairs), np.int64)
    taken = np.zeros((n_folds, len(names)), np.int64)
    for group in rng.permutation(len(members)).tolist():
        inside = np.array(members[group])
        of = np.bincount(column[inside], minlength=len(names))
        chosen = int(((taken + of) * (of > 0)).sum(1).argmin())
        fold[inside] = chosen
        taken[chosen] += of
    for i, name in enumerate(names):
        here = column == i
        n_groups = len(np.unique(groups[here]))
        if n_groups < n_folds or not taken[:, i].all():
            raise GrammarLensError(
                f"{name} has {here.sum()} pairs in {n_groups} groups of like sentences, needs one for each "
                f"of {n_folds} folds: give more pairs, or fewer --folds"
            )
        least = min(len(np.unique(groups[here & (fold != f)])) for f in range(n_folds))
        if least < LEAST_PAIRS:
            raise GrammarLensError(
                f"{name} has {here.sum()} pairs, which leaves {least} to choose neurons on, needs at "
                f"least {LEAST_PAIRS}: give more pairs of it (--max-pairs)"
            )
    return fold
