"""Erasure: remove directions from features and measure what a probe can still decode.

LEACE is the smallest affine change after which no linear probe predicts the labels: the floor that
removing the key neurons' own directions is held against.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import linalg

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare, sampled
from grammar_lens.defaults import SEED
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, random_neurons
from grammar_lens.neurons.subspaces import _require_neurons, _Weights, row_basis
from grammar_lens.probing.baselines import majority_accuracy
from grammar_lens.probing.fitting import accuracy
from grammar_lens.probing.probe_words import ProbeWords
from grammar_lens.probing.probes import probe_words


@dataclass(frozen=True)
class Eraser:
    """The affine map x - (x - mean) reads writes: calling it on features removes a concept.

    `reads` are the directions that predict the labels, `writes` the vector subtracted for each.
    """

    mean: Float[np.ndarray, " unit"]
    reads: Float[np.ndarray, "unit rank"]
    writes: Float[np.ndarray, "rank unit"]

    @property
    def rank(self) -> int:
        return len(self.writes)

    def __call__(self, features: Float[np.ndarray, "word unit"]) -> Float[np.ndarray, "word unit"]:
        """Features after erasure, in float64."""
        features = features.astype(float)
        return features - (features - self.mean) @ self.reads @ self.writes


@dataclass(frozen=True)
class ErasureResult(Shown):
    """Accuracy on held-out words of probes fitted again after directions were removed.

    `random_removed_accuracies` are for random directions that span as many dimensions as the key ones, `rank`;
    `leace_accuracy` is the floor, which only the sample's chance keeps from `majority_accuracy`.
    """

    rank: int
    leace_rank: int
    accuracy: float
    key_removed_accuracy: float
    random_removed_accuracies: tuple[float, ...]
    leace_accuracy: float
    majority_accuracy: float

    def to_frame(self) -> pd.DataFrame:
        """A row per way: what was removed, of how many dimensions, and the accuracy left."""
        drawn = [("random", self.rank, x) for x in self.random_removed_accuracies]
        rows = [
            ("nothing", 0, self.accuracy),
            ("key", self.rank, self.key_removed_accuracy),
            *drawn,
            ("leace", self.leace_rank, self.leace_accuracy),
        ]
        return pd.DataFrame(rows, columns=pd.Index(["removed", "rank", "accuracy"]))

    def _title(self) -> str:
        return "Accuracy of probes after directions were removed"


def leace(
    features: Float[np.ndarray, "word unit"], classes: Int[np.ndarray, " word"], n_labels: int
) -> Eraser:
    """The least-squares eraser of the classes: r(x) = x - W+ P W (x - mean).

    W = (Sigma_xx^1/2)+, P the orthogonal projection on the column space of W Sigma_xz, z the one-hot
    classes. Afterwards all classes have the same mean, and of all affine maps that reach this it
    changes the features least, in every norm.
    Raises GrammarLensError without two classes or more.
    Source: Belrose et al. (2023), LEACE: Perfect Linear Concept Erasure in Closed Form, theorem 4.3.
    """
    count = np.bincount(classes, minlength=n_labels)
    if (count > 0).sum() < 2:
        raise GrammarLensError("the words have fewer than 2 classes: there is nothing to erase")
    x = features.astype(float)
    mean = x.mean(0)
    x = x - mean
    z = np.eye(n_labels)[classes] - count / len(classes)
    values, vectors = linalg.eigh(x.T @ x / len(x))
    above = values > values[-1] * len(values) * np.finfo(float).eps
    root, vectors = np.sqrt(values[above]), vectors[:, above]
    # in the whitened coordinates of the kept eigenvectors W is a division by `root`
    columns, strength, _ = linalg.svd(vectors.T @ (x.T @ z) / len(x) / root[:, None])
    columns = columns[:, : len(strength)][:, strength > 1e-10]
    return Eraser(mean, vectors / root @ columns, columns.T * root @ vectors.T)


def remove_directions(
    features: Float[np.ndarray, "word unit"], directions: Float[np.ndarray, "direction unit"]
) -> Float[np.ndarray, "word unit"]:
    """Features projected on the orthogonal complement of the directions, in float64.

    The directions need be neither orthogonal nor independent.
    """
    basis = row_basis(directions)
    features = features.astype(float)
    left = features - features @ basis.T @ basis
    # of a unit within their span only rounding is left, which a probe would standardise and read
    left[:, (basis**2).sum(0) > 1 - 1e-12] = 0.0
    return left


def erasure_table(
    train: ProbeWords,
    fresh: ProbeWords,
    key_directions: Float[np.ndarray, "direction unit"],
    random_directions: Sequence[Float[np.ndarray, "_ unit"]] = (),
) -> ErasureResult:
    """Accuracy of probes on a residual stream with key directions, random ones, or all removed.

    `key_directions` are for example the key neurons' outgoing weights. The eraser is fitted on the
    training words.
    Raises GrammarLensError for random directions that span another number of dimensions.
    """
    rank = len(row_basis(key_directions))
    for directions in random_directions:
        other = len(row_basis(directions))
        if other != rank:
            raise GrammarLensError(
                f"random directions span {other} dimensions and the key directions {rank}: give as "
                "many independent ones"
            )
    eraser = leace(train.features, train.classes, int(train.classes.max()) + 1)

    def left(change: Callable[[np.ndarray], np.ndarray]) -> float:
        one, other = change(train.features), change(fresh.features)
        return accuracy(one, train.classes, other, fresh.classes)

    def without(directions: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda features: remove_directions(features, directions)

    return ErasureResult(
        rank=rank,
        leace_rank=eraser.rank,
        accuracy=left(lambda features: features),
        key_removed_accuracy=left(without(key_directions)),
        random_removed_accuracies=tuple(left(without(d)) for d in random_directions),
        leace_accuracy=left(eraser),
        majority_accuracy=majority_accuracy(train.classes, fresh.classes),
    )


def erasure(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    layer: int | None = None,
    position: str = "word",
    n_random: int = 5,
    max_train_words: int = 20_000,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> ErasureResult:
    """Probe accuracy after `layer` (the last) without the key neurons' directions.

    The probe reads the residual stream; taken out are the directions that the key neurons of this
    layer and those below write, as many random neurons' of the same layers, or, as the floor, all that
    predicts the labels linearly (LEACE).
    Raises GrammarLensError for key units that are not neurons, or with none up to that layer.
    """
    _require_neurons(keys)
    rng = np.random.default_rng(seed)
    last = model.cfg.n_layers - 1 if layer is None else layer
    chosen = keys.union()
    chosen = chosen[chosen[:, 0] <= last]
    if len(chosen) == 0:
        raise GrammarLensError(
            f"there is no key neuron in layers 0 to {last}: choose a higher layer"
        )
    corpus = prepare(model, train, label=keys.origin.label, labels=keys.labels)
    new, _ = fresh_corpus(model, fresh, corpus)
    addresses = np.stack([np.full(model.cfg.d_model, last), np.arange(model.cfg.d_model)], 1)
    drawn = sampled(corpus, corpus.read(position), max_train_words, rng, setting="max_train_words")
    words = [
        probe_words(model, c, codes, position, addresses, "resid_post", token_budget, show_progress)
        for c, codes in ((corpus, drawn), (new, new.read(position)))
    ]
    draws = [random_neurons(chosen, keys.n_units, rng) for _ in range(n_random)]
    weights = _Weights(model)
    return erasure_table(words[0], words[1], weights.of(chosen), [weights.of(d) for d in draws])
