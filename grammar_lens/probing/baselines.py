"""Baselines of a probe: answers that need no neuron, and random labels."""

from collections import Counter

import numpy as np
from jaxtyping import Bool, Int

from grammar_lens.probing.probe_words import ProbeWords

AMBIGUOUS_COUNT = 2
"""A form is ambiguous when training words have it under two labels or more, each this often."""


def majority_accuracy(
    train_classes: Int[np.ndarray, " train"], fresh_classes: Int[np.ndarray, " fresh"]
) -> float:
    """Accuracy of always answering the most frequent training label."""
    return float((fresh_classes == np.bincount(train_classes).argmax()).mean())


def word_baseline_accuracy(train: ProbeWords, fresh: ProbeWords) -> float:
    """Accuracy of answering each form's most frequent training label, the majority if unseen."""
    return float((word_answers(train, fresh) == fresh.classes).mean())


def word_answers(train: ProbeWords, fresh: ProbeWords) -> Int[np.ndarray, " fresh"]:
    """Each form's most frequent training label, the first seen of equals, the majority if unseen."""
    best = {key: c.most_common(1)[0][0] for key, c in _labels_of_forms(train).items()}
    majority = int(np.bincount(train.classes).argmax())
    return np.array([best.get(key, majority) for key in fresh.key], np.int64)


def unseen(train: ProbeWords, fresh: ProbeWords) -> Bool[np.ndarray, " fresh"]:
    """Mask of the held-out words whose form no training word has."""
    known = set(train.key)
    return np.array([key not in known for key in fresh.key], bool)


def ambiguous(train: ProbeWords, fresh: ProbeWords) -> Bool[np.ndarray, " fresh"]:
    """Mask of the held-out words whose form has several labels in training.

    Two labels or more must each have it `AMBIGUOUS_COUNT` times: a single one may be an error of
    annotation.
    """
    forms = {
        key
        for key, counts in _labels_of_forms(train).items()
        if sum(n >= AMBIGUOUS_COUNT for n in counts.values()) > 1
    }
    return np.array([key in forms for key in fresh.key], bool)


def share_right(right: Bool[np.ndarray, " word"], among: Bool[np.ndarray, " word"]) -> float | None:
    """Accuracy on some of the words, None if there are none."""
    return float(right[among].mean()) if among.any() else None


def control_labels(
    train: ProbeWords, fresh: ProbeWords, n_labels: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " fresh"]]:
    """A random label for every word type, drawn from the training labels' distribution.

    Source: Hewitt & Liang (2019), Designing and Interpreting Probes with Control Tasks.
    """
    share = np.bincount(train.classes, minlength=n_labels) / len(train.classes)
    types = sorted({*train.key, *fresh.key})
    drawn = dict(zip(types, rng.choice(n_labels, len(types), p=share).tolist(), strict=True))
    return np.array([drawn[key] for key in train.key]), np.array([drawn[key] for key in fresh.key])


def bootstrap_interval(
    right: Bool[np.ndarray, " word"],
    groups: Int[np.ndarray, " word"],
    rng: np.random.Generator,
    *,
    n_draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy, drawing whole groups with replacement.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    _, group = np.unique(groups, return_inverse=True)
    n_words = np.bincount(group)
    n_right = np.bincount(group, weights=right)
    draws = np.zeros(n_draws)
    for i in range(n_draws):
        drawn = rng.integers(0, len(n_words), len(n_words))
        draws[i] = n_right[drawn].sum() / n_words[drawn].sum()
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _labels_of_forms(words: ProbeWords) -> dict[str, Counter[int]]:
    counts: dict[str, Counter[int]] = {}
    for key, label in zip(words.key, words.classes.tolist(), strict=True):
        counts.setdefault(key, Counter())[label] += 1
    return counts
