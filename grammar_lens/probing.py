"""Probes: how well a linear classifier on chosen units tells the label of fresh words.

An accuracy alone says little, so every probe comes with its baselines: the majority label, the most
frequent label of the word itself, as many random neurons of the same layers, all neurons of one
layer, and a control task whose labels are random per word type (Hewitt & Liang 2019).
"""

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from grammar_lens.moments import Origin


class ProbeError(ValueError):
    """Data on which a probe cannot be fitted or judged."""


@dataclass(frozen=True)
class ProbeWords:
    """What a probe sees of some words: activations, classes and the words' forms.

    `key` is the form that a lookup would know at that position: the word itself, or, when the next
    word is to be predicted, the word before it.
    """

    features: Float[np.ndarray, "word unit"]
    classes: Int[np.ndarray, " word"]
    key: tuple[str, ...]

    def columns(self, which: Int[np.ndarray, " column"]) -> Float[np.ndarray, "word column"]:
        return self.features[:, which]


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy on fresh words, per label and overall, beside its baselines; all in [0, 1].

    `selectivity` is accuracy minus `control_accuracy`. `per_label` has precision, recall, f1 and
    n_words; `confusion[i, j]` counts words of label i called j.
    """

    labels: tuple[str, ...]
    k: int
    n_neurons: int
    n_train_words: int
    n_fresh_words: int
    accuracy: float
    random_accuracy: float
    random_accuracies: tuple[float, ...]
    layer: int
    layer_accuracy: float
    majority_accuracy: float
    word_baseline_accuracy: float
    control_accuracy: float
    unseen_accuracy: float | None
    """Accuracy on words whose `key` no training word had; None when there are none."""
    n_unseen_words: int
    macro_f1: float
    per_label: pd.DataFrame
    confusion: Int[np.ndarray, "label label"]
    dropped_duplicates: int
    fresh: str
    origin: Origin

    @property
    def position(self) -> str:
        return self.origin.position

    @property
    def selectivity(self) -> float:
        return self.accuracy - self.control_accuracy

    def to_frame(self) -> pd.DataFrame:
        """A row per label: precision, recall, f1, n_words."""
        return self.per_label

    def __repr__(self) -> str:
        return (
            f"ProbeResult on {self.fresh}, position {self.position!r}, {self.n_neurons} neurons: "
            f"accuracy {self.accuracy:.3f} (random neurons {self.random_accuracy:.3f}, word alone "
            f"{self.word_baseline_accuracy:.3f}, majority {self.majority_accuracy:.3f}, control "
            f"task {self.control_accuracy:.3f}), macro F1 {self.macro_f1:.3f}"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.per_label.to_html()}"


@dataclass(frozen=True)
class Columns:
    """Which feature columns belong to which question."""

    key: Int[np.ndarray, " key"]
    random: tuple[Int[np.ndarray, " key"], ...]
    layer: Int[np.ndarray, " layer_unit"]
    layer_number: int


def evaluate(
    train: ProbeWords,
    fresh: ProbeWords,
    columns: Columns,
    labels: Sequence[str],
    *,
    k: int,
    rng: np.random.Generator,
    dropped_duplicates: int,
    fresh_name: str,
    origin: Origin,
) -> ProbeResult:
    """Fits the probe and every baseline on `train` and judges them on `fresh`.

    Raises ProbeError without words, with a single label among the training words, or without key
    neurons.
    """
    _check(train, fresh)
    if len(columns.key) == 0:
        raise ProbeError("there are no key neurons to probe: no score differs from zero")
    predicted = predict(train.columns(columns.key), train.classes, fresh.columns(columns.key))
    right = predicted == fresh.classes
    random = tuple(
        accuracy(train.columns(draw), train.classes, fresh.columns(draw), fresh.classes)
        for draw in columns.random
    )
    known = set(train.key)
    unseen = np.array([key not in known for key in fresh.key])
    control = control_labels(train, fresh, len(labels), rng)
    scores = precision_recall_fscore_support(
        fresh.classes,
        predicted,
        labels=range(len(labels)),
        zero_division=0.0,  # pyright: ignore[reportArgumentType]
    )
    table = pd.DataFrame(
        dict(zip(("precision", "recall", "f1", "n_words"), scores, strict=True)), index=list(labels)
    ).rename_axis("label")
    return ProbeResult(
        labels=tuple(labels),
        k=k,
        n_neurons=len(columns.key),
        n_train_words=len(train.classes),
        n_fresh_words=len(fresh.classes),
        accuracy=float(right.mean()),
        random_accuracy=float(np.mean(random)),
        random_accuracies=random,
        layer=columns.layer_number,
        layer_accuracy=accuracy(
            train.columns(columns.layer), train.classes, fresh.columns(columns.layer), fresh.classes
        ),
        majority_accuracy=majority_accuracy(train.classes, fresh.classes),
        word_baseline_accuracy=word_baseline_accuracy(train, fresh),
        control_accuracy=accuracy(
            train.columns(columns.key), control[0], fresh.columns(columns.key), control[1]
        ),
        unseen_accuracy=float(right[unseen].mean()) if unseen.any() else None,
        n_unseen_words=int(unseen.sum()),
        # labels without fresh words have no F1 to average
        macro_f1=float(table.f1[table.n_words > 0].mean()),
        per_label=table,
        confusion=confusion_matrix(fresh.classes, predicted, labels=range(len(labels))),
        dropped_duplicates=dropped_duplicates,
        fresh=fresh_name,
        origin=origin,
    )


def predict(
    train_features: Float[np.ndarray, "train unit"],
    train_classes: Int[np.ndarray, " train"],
    fresh_features: Float[np.ndarray, "fresh unit"],
) -> Int[np.ndarray, " fresh"]:
    """Classes of fresh words by logistic regression on standardised features.

    Where all training words have one class, as a control task of few types may, it is the answer.
    """
    if (train_classes == train_classes[0]).all():
        return np.full(len(fresh_features), train_classes[0])
    # activations are noisy: beyond this tolerance the accuracy no longer changes
    probe = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-3, max_iter=300))
    probe.fit(train_features, train_classes)
    return probe.predict(fresh_features)


def accuracy(
    train_features: Float[np.ndarray, "train unit"],
    train_classes: Int[np.ndarray, " train"],
    fresh_features: Float[np.ndarray, "fresh unit"],
    fresh_classes: Int[np.ndarray, " fresh"],
) -> float:
    """Share of fresh words that a probe fitted on the training words gets right."""
    return float((predict(train_features, train_classes, fresh_features) == fresh_classes).mean())


def majority_accuracy(
    train_classes: Int[np.ndarray, " train"], fresh_classes: Int[np.ndarray, " fresh"]
) -> float:
    """Accuracy of always answering the most frequent training label."""
    return float((fresh_classes == np.bincount(train_classes).argmax()).mean())


def word_baseline_accuracy(train: ProbeWords, fresh: ProbeWords) -> float:
    """Accuracy of answering each form's most frequent training label, the majority if unseen."""
    counts: dict[str, Counter[int]] = {}
    for key, label in zip(train.key, train.classes.tolist(), strict=True):
        counts.setdefault(key, Counter())[label] += 1
    best = {key: c.most_common(1)[0][0] for key, c in counts.items()}
    majority = int(np.bincount(train.classes).argmax())
    answers = np.array([best.get(key, majority) for key in fresh.key])
    return float((answers == fresh.classes).mean())


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


def random_neurons(
    chosen: Int[np.ndarray, "neuron two"], n_units: int, rng: np.random.Generator
) -> Int[np.ndarray, "neuron two"]:
    """As many neurons per layer as `chosen` has, drawn at random from the others where they suffice.

    A layer of which more than half is chosen gives all its neurons a chance.
    """
    rows = [np.zeros((0, 2), np.int64)]
    for layer, count in zip(*np.unique(chosen[:, 0], return_counts=True), strict=True):
        others = np.setdiff1d(np.arange(n_units), chosen[chosen[:, 0] == layer, 1])
        pool = others if len(others) >= count else np.arange(n_units)
        index = np.sort(rng.choice(pool, count, replace=False))
        rows.append(np.stack([np.full(count, layer), index], 1))
    return np.concatenate(rows)


def _check(train: ProbeWords, fresh: ProbeWords) -> None:
    for name, words in (("training", train), ("fresh", fresh)):
        if len(words.classes) == 0:
            raise ProbeError(f"no {name} word could be read: the probe needs words of every label")
    if len(np.unique(train.classes)) < 2:
        raise ProbeError("all training words have one label: a probe needs two labels or more")
