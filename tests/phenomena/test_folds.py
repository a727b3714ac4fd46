"""Folds of minimal pairs: like sentences stay together, and each phenomenon is spread evenly."""

import numpy as np
import pytest

from grammar_lens.errors import GrammarLensError
from grammar_lens.phenomena.folds import folds_of, groups_of
from grammar_lens.phenomena.pairs import MinimalPair, load_pairs


def numbered(phenomenon: str, n: int) -> list[MinimalPair]:
    return [
        MinimalPair(phenomenon, f"He{i} is {phenomenon}.", f"He{i} are {phenomenon}.")
        for i in range(n)
    ]


def test_pairs_with_a_sentence_or_a_long_beginning_in_common_are_one_group() -> None:
    pairs = [
        MinimalPair("a", "The old man walks.", "The old man walk."),
        MinimalPair("b", "The old man sees.", "The old man see."),  # the same three words
        MinimalPair("a", "The men walk.", "The men walks."),
        MinimalPair("a", "The dogs walk.", "The men walks."),  # the same bad sentence
        MinimalPair("a", "The cats walk.", "The cat walk."),  # "The" alone ties nothing
        MinimalPair("b", "Dogs walk.", "The dogs walk."),  # what is good there is bad here
    ]
    assert groups_of(pairs).tolist() == [0, 0, 1, 1, 2, 1]


def test_no_group_is_separated_and_folds_are_even() -> None:
    pairs = load_pairs().pairs
    groups = groups_of(pairs)
    fold = folds_of(pairs, groups, 4, np.random.default_rng(0))
    for group in np.unique(groups):
        assert len(set(fold[groups == group])) == 1
    of = np.array([p.phenomenon for p in pairs])
    for name in set(of.tolist()):
        assert np.ptp(np.bincount(fold[of == name], minlength=4)) <= 4
    sentences = [
        {t for i in np.flatnonzero(fold == f) for t in (pairs[i].good, pairs[i].bad)}
        for f in range(4)
    ]
    assert not any(sentences[i] & sentences[j] for i in range(4) for j in range(i))
    other = folds_of(pairs, groups, 4, np.random.default_rng(1))
    assert not np.array_equal(fold, other)


def test_too_few_pairs() -> None:
    rng = np.random.default_rng(0)
    enough = numbered("many", 30)
    for few, message in (
        (
            numbered("few", 2),
            "few has 2 pairs in 2 groups of like sentences, needs one for each of 3 folds",
        ),
        (
            [enough[0], *numbered("few", 14)],
            "few has 14 pairs, which leaves 9 to choose neurons on",
        ),
        (
            [MinimalPair("few", "Here he is now.", f"Here he is{i}.") for i in range(40)],
            "in 1 groups",
        ),
    ):
        pairs = [*enough, *few]
        with pytest.raises(GrammarLensError, match=message):
            folds_of(pairs, groups_of(pairs), 3, rng)
    with pytest.raises(GrammarLensError, match="folds is 1, expected 2"):
        folds_of(enough, groups_of(enough), 1, rng)
