"""Fit many linear probes quickly: multinomial logistic regression on standardised features.

The objective is that of scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression())`, mean
log loss plus |weight|^2 / (2 n). It is minimised by SciPy's L-BFGS, in coordinates in which the
features are uncorrelated and until the objective no longer falls, which takes half the steps, with
units in rows and words in columns, for which products with a few labels are faster. Starting from the
solution for fewer units saves no steps. `benchmarks/probes.py` measures what is gained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg, optimize, special
from sklearn.svm import LinearSVC

from grammar_lens.errors import GrammarLensError

STEPS_BACK, LEAST_DECREASE = 5, 0.003
"""Fitting ends when this many steps lower the objective by less than this share of it."""
MAX_STEPS = 500
SVM_TOLERANCE = 1e-2
DECORRELATED_UNITS = 500
"""Of more units the correlations cost more than the steps they save (measured)."""
DECORRELATED_WORDS = 4096
"""Words that the correlations are computed from: they shape the path, not where it ends."""


@dataclass(frozen=True)
class Standardised:
    """Features of training and fresh words in sd of the training words, a row per unit.

    A unit that is constant over the training words is 0 everywhere.
    """

    train: Float[np.ndarray, "unit train"]
    fresh: Float[np.ndarray, "unit fresh"]

    def units(self, which: Int[np.ndarray, " column"]) -> "Standardised":
        """Those of some units, in that order."""
        return Standardised(self.train[which], self.fresh[which])


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits are `weight @ features + bias`, of the labels in `classes`."""

    weight: Float[np.ndarray, "label unit"]
    bias: Float[np.ndarray, " label"]
    classes: Int[np.ndarray, " label"]

    def predict(self, features: Float[np.ndarray, "unit word"]) -> Int[np.ndarray, " word"]:
        """The most probable class of every word."""
        return self.classes[self._logits(features).argmax(0)]

    def log_probability(
        self, features: Float[np.ndarray, "unit word"]
    ) -> Float[np.ndarray, "label word"]:
        """Log probability (nats) of every class the probe knows."""
        return special.log_softmax(self._logits(features), axis=0)

    def _logits(self, features: Float[np.ndarray, "unit word"]) -> Float[np.ndarray, "label word"]:
        return self.weight @ features + self.bias[:, None]


def standardise(
    train: Float[np.ndarray, "train unit"], fresh: Float[np.ndarray, "fresh unit"]
) -> Standardised:
    """Both sets of features with mean 0 and sd 1 of the training words, in float32.

    Raises GrammarLensError for training features that are not finite.
    """
    done = Standardised(*(np.empty(x.shape[::-1], np.float32) for x in (train, fresh)))
    # some units at a time: the sums are float64, and a float64 copy of everything may not fit
    for start in range(0, train.shape[1], 256):
        block = slice(start, start + 256)
        mean, sd = mean_and_sd(train[:, block])
        done.train[block] = in_sd(train[:, block], mean, sd)
        done.fresh[block] = in_sd(fresh[:, block], mean, sd)
    return done


def mean_and_sd(
    features: Float[np.ndarray, "word unit"],
) -> tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]]:
    """Mean and standard deviation of every unit in float64; sd 0 for a unit that does not vary.

    Raises GrammarLensError for features that are not finite.
    """
    values = features.astype(np.float64)
    mean, sd = values.mean(0), values.std(0)
    if not np.isfinite(sd).all():
        raise GrammarLensError(
            "some activations are not finite: collect them in float32 or bfloat16 (--dtype)"
        )
    # below float32's resolution of the mean there is only rounding
    return mean, np.where(sd > np.finfo(np.float32).eps * np.abs(mean), sd, 0.0)


def in_sd(
    features: Float[np.ndarray, "word unit"],
    mean: Float[np.ndarray, " unit"],
    sd: Float[np.ndarray, " unit"],
) -> Float[np.ndarray, "unit word"]:
    """Features less `mean` in units of `sd`, a row per unit, in float32; 0 where sd is 0."""
    scale = np.where(sd > 0, 1 / np.where(sd > 0, sd, 1), 0)
    return ((features.astype(np.float64) - mean) * scale).T.astype(np.float32)


def fit(features: Float[np.ndarray, "unit word"], classes: Int[np.ndarray, " word"]) -> Probe:
    """The logistic regression (C = 1) of the classes that occur on standardised features.

    Where all words have one class, as a control task of few types may, it is the answer.
    """
    present, codes = np.unique(classes, return_inverse=True)
    shape = len(present), len(features) + 1
    if len(present) == 1:
        return Probe(np.zeros((1, len(features))), np.zeros(1), present)
    basis = _decorrelating(features)
    start = np.zeros(shape)
    start[:, -1] = np.log(np.bincount(codes) / len(codes))
    seen = []

    def is_done(intermediate_result: optimize.OptimizeResult) -> None:
        seen.append(intermediate_result.fun)
        if len(seen) > STEPS_BACK and seen[-1 - STEPS_BACK] - seen[-1] < LEAST_DECREASE * seen[-1]:
            raise StopIteration

    found = optimize.minimize(
        _objective(features.astype(np.float32, copy=False), codes, len(present), basis),
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=is_done,
        options={"gtol": 1e-6, "ftol": 0.0, "maxiter": MAX_STEPS, "maxcor": 20},
    )
    solution = found.x.reshape(shape)
    weight = solution[:, :-1] if basis is None else solution[:, :-1] @ basis
    return Probe(weight.astype(np.float32), solution[:, -1].astype(np.float32), present)


def fit_svm(features: Float[np.ndarray, "unit word"], classes: Int[np.ndarray, " word"]) -> Probe:
    """A linear support vector machine (C = 1, one class against the rest) on standardised features.

    Its answers are those of scikit-learn's `LinearSVC` with that tolerance; as a `Probe` it has no
    meaningful probabilities.
    """
    present = np.unique(classes)
    if len(present) == 1 or len(features) == 0:
        return fit(features, classes)
    # the default tolerance takes up to 30 times as long where classes are all but separable
    primal: Any = False
    machine = LinearSVC(dual=primal, tol=SVM_TOLERANCE, max_iter=10_000).fit(features.T, classes)
    weight, bias = np.asarray(machine.coef_), np.asarray(machine.intercept_)
    if len(present) == 2:
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return Probe(weight.astype(np.float32), bias.astype(np.float32), present)


def predict(
    train_features: Float[np.ndarray, "train unit"],
    train_classes: Int[np.ndarray, " train"],
    fresh_features: Float[np.ndarray, "fresh unit"],
) -> Int[np.ndarray, " fresh"]:
    """Classes of fresh words by logistic regression on standardised features."""
    both = standardise(train_features, fresh_features)
    return fit(both.train, train_classes).predict(both.fresh)


def accuracy(
    train_features: Float[np.ndarray, "train unit"],
    train_classes: Int[np.ndarray, " train"],
    fresh_features: Float[np.ndarray, "fresh unit"],
    fresh_classes: Int[np.ndarray, " fresh"],
) -> float:
    """Share of fresh words that a probe fitted on the training words gets right."""
    return float((predict(train_features, train_classes, fresh_features) == fresh_classes).mean())


def _decorrelating(
    features: Float[np.ndarray, "unit word"],
) -> Float[np.ndarray, "unit unit"] | None:
    """B such that B @ features are nearly uncorrelated; None where that would cost too much."""
    n_units, n_words = features.shape
    if not 0 < n_units <= DECORRELATED_UNITS:
        return None
    some = features[:, :: -(-n_words // DECORRELATED_WORDS)]
    correlation = some @ some.T / some.shape[1]
    # some units are all but sums of others; stretching their difference is of no use
    correlation[np.diag_indices(n_units)] += 0.01
    factor = linalg.cholesky(correlation, lower=True)
    return linalg.solve_triangular(factor, np.eye(n_units, dtype=np.float32), lower=True)


def _objective(
    z: Float[np.ndarray, "unit word"],
    codes: Int[np.ndarray, " word"],
    n_labels: int,
    basis: Float[np.ndarray, "unit unit"] | None,
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Loss and gradient at flat float64 parameters [label, unit + bias] in the basis."""
    n = len(codes)
    # with two labels scikit-learn penalises one weight vector, their difference
    penalty = (2 if n_labels == 2 else 1) / n
    gold = np.zeros((n_labels, n), np.float32)
    gold[codes, np.arange(n)] = 1 / n
    share, mean = gold.sum(1), gold @ z.T
    # the gold words' logits sum to <weight, mean> + <bias, share>: no lookup word by word
    p = gold

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        now = flat.reshape(n_labels, -1).astype(np.float32)
        weight, bias = now[:, :-1], now[:, -1]
        if basis is not None:
            weight = weight @ basis
        np.matmul(weight, z, out=p)
        np.add(p, bias[:, None], out=p)
        top = p.max(0)
        np.exp(np.subtract(p, top, out=p), out=p)
        total = p.sum(0)
        np.divide(p, total, out=p)
        loss = (np.log(total) + top).mean(dtype=np.float64) - bias @ share
        loss += (weight * (penalty / 2 * weight - mean)).sum(dtype=np.float64)
        gradient = p @ z.T / n - mean + penalty * weight
        if basis is not None:
            gradient = gradient @ basis.T
        full = np.concatenate([gradient, (p.mean(1) - share)[:, None]], 1)
        return float(loss), full.astype(np.float64).ravel()

    return evaluate
