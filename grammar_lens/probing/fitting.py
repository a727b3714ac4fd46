"""Linear probes on standardised features: multinomial logistic regression and support vectors.

The objective is that of scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression())`, mean
log loss plus |weight|^2 / (2 n), and the minimum is its minimum to 1e-4 of the objective; `logistic`
holds the solver and `benchmarks/probes.py` measures what is gained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import special
from sklearn.svm import LinearSVC

from grammar_lens.errors import GrammarLensError
from grammar_lens.probing.logistic import minimise

SVM_TOLERANCE = 1e-2
VALUES_AT_A_TIME = 2**20
"""Values that sums in float64 take at a time: a float64 copy of everything may not fit."""

Device = torch.device | str


@dataclass(frozen=True)
class Standardised:
    """Features of training and held-out words in sd of the training words.

    A unit that is constant over the training words is 0 everywhere.
    """

    train: Float[np.ndarray, "train unit"]
    fresh: Float[np.ndarray, "fresh unit"]


@dataclass(frozen=True)
class Scaled:
    """Activations of training and held-out words, and the scale that all probes of them share.

    Only the units that are asked for are copied.
    """

    train: Float[np.ndarray, "train unit"]
    fresh: Float[np.ndarray, "fresh unit"]
    mean: Float[np.ndarray, " unit"]
    sd: Float[np.ndarray, " unit"]

    def units(self, which: Int[np.ndarray, " column"]) -> Standardised:
        """Standardised features of some units, in that order."""
        mean, sd = self.mean[which], self.sd[which]
        return Standardised(*(in_sd(x[:, which], mean, sd) for x in (self.train, self.fresh)))


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits are `weight @ features + bias`, of the labels in `classes`."""

    weight: Float[np.ndarray, "label unit"]
    bias: Float[np.ndarray, " label"]
    classes: Int[np.ndarray, " label"]

    def predict(self, features: Float[np.ndarray, "word unit"]) -> Int[np.ndarray, " word"]:
        """The most probable class of every word."""
        return self.classes[self._logits(features).argmax(0)]

    def log_probability(
        self, features: Float[np.ndarray, "word unit"]
    ) -> Float[np.ndarray, "label word"]:
        """Log probability (nats) of every class the probe knows."""
        return special.log_softmax(self._logits(features), axis=0)

    def _logits(self, features: Float[np.ndarray, "word unit"]) -> Float[np.ndarray, "label word"]:
        return self.weight @ features.T + self.bias[:, None]


def scale(train: Float[np.ndarray, "train unit"], fresh: Float[np.ndarray, "fresh unit"]) -> Scaled:
    """Both sets of activations with the mean and sd of the training words; nothing is copied.

    Raises GrammarLensError for training features that are not finite.
    """
    return Scaled(train, fresh, *mean_and_sd(train))


def standardise(
    train: Float[np.ndarray, "train unit"], fresh: Float[np.ndarray, "fresh unit"]
) -> Standardised:
    """Both sets of features with mean 0 and sd 1 of the training words, in float32.

    Raises GrammarLensError for training features that are not finite.
    """
    return scale(train, fresh).units(np.arange(train.shape[1]))


def mean_and_sd(
    features: Float[np.ndarray, "word unit"],
) -> tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]]:
    """Mean and standard deviation of every unit in float64; sd 0 for a unit that does not vary.

    Raises GrammarLensError for features that are not finite.
    """
    n_words, n_units = features.shape
    at_a_time = max(1, VALUES_AT_A_TIME // max(n_units, 1))
    parts = [features[i : i + at_a_time] for i in range(0, n_words, at_a_time)]
    total, squares = np.zeros(n_units), np.zeros(n_units)
    for part in parts:
        total += part.sum(0, dtype=np.float64)
    mean = total / n_words
    for part in parts:
        deviations = part - mean
        squares += np.einsum("wu,wu->u", deviations, deviations)
    sd = np.sqrt(squares / n_words)
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
) -> Float[np.ndarray, "word unit"]:
    """Features less `mean` in units of `sd`, in float32; 0 where sd is 0."""
    factor = np.where(sd > 0, 1 / np.where(sd > 0, sd, 1), 0)
    # float32 less float32 is exact near the mean: only the mean is rounded, which the bias takes up
    kept = np.subtract(features, mean.astype(features.dtype))
    kept *= factor.astype(features.dtype)
    return kept.astype(np.float32, copy=False)


def fit(
    features: Float[np.ndarray, "word unit"],
    classes: Int[np.ndarray, " word"],
    *,
    start: Probe | None = None,
    device: Device = "cpu",
) -> Probe:
    """The logistic regression (C = 1) of the classes that occur on standardised features.

    Where all words have one class, as a control task of few types may, it is the answer. Fitting
    starts from another probe on the same units, where one is given.
    """
    return fit_each(features, [classes], starts=[start], device=device)[0]


def fit_each(
    features: Float[np.ndarray, "word unit"],
    labelings: Sequence[Int[np.ndarray, " word"]],
    *,
    starts: Sequence[Probe | None] | None = None,
    device: Device = "cpu",
) -> list[Probe]:
    """`fit` for several classes of the same words, side by side on the device."""
    kinds = [np.unique(classes, return_inverse=True) for classes in labelings]
    given = starts or [None] * len(labelings)
    several = [i for i, (present, _) in enumerate(kinds) if len(present) > 1]
    device = torch.device(device)
    # float64 is what the solver sums in, which only these have
    device = device if device.type in ("cpu", "cuda") else torch.device("cpu")
    minima = minimise(
        torch.from_numpy(features.astype(np.float32, copy=False)).to(device),
        [torch.from_numpy(kinds[i][1].ravel()).to(device) for i in several],
        [_start(given[i], kinds[i][0], device) for i in several],
    )
    parameters = {
        i: minimum.parameters.cpu().numpy().astype(np.float32)
        for i, minimum in zip(several, minima, strict=True)
    }
    one_class = np.zeros((1, features.shape[1] + 1), np.float32)
    return [
        Probe(values[:, :-1], values[:, -1], present)
        for i, (present, _) in enumerate(kinds)
        for values in (parameters.get(i, one_class),)
    ]


def _start(
    probe: Probe | None, present: Int[np.ndarray, " label"], device: torch.device
) -> Float[torch.Tensor, "label unit_and_bias"] | None:
    """The probe's parameters for the classes present; those of new ones are 0 and its least bias."""
    if probe is None or len(probe.classes) < 2:
        return None
    start = np.zeros((len(present), probe.weight.shape[1] + 1))
    start[:, -1] = probe.bias.min()
    known, of_start, of_probe = np.intersect1d(present, probe.classes, return_indices=True)
    start[of_start, :-1], start[of_start, -1] = probe.weight[of_probe], probe.bias[of_probe]
    return torch.from_numpy(start).to(device) if len(known) else None


@dataclass(frozen=True)
class Fitter:
    """Fits probes on some of the units of one set of words; fits can run side by side."""

    features: Scaled
    device: Device = "cpu"

    def fit(
        self, columns: Int[np.ndarray, " column"], labelings: Sequence[Int[np.ndarray, " train"]]
    ) -> tuple[Standardised, list[Probe]]:
        """The units' features, and a logistic regression for each labeling of the training words."""
        units = self.features.units(columns)
        return units, fit_each(units.train, labelings, device=self.device)


def fit_svm(features: Float[np.ndarray, "word unit"], classes: Int[np.ndarray, " word"]) -> Probe:
    """A linear support vector machine (C = 1, one class against the rest) on standardised features.

    Its answers are those of scikit-learn's `LinearSVC` with that tolerance; as a `Probe` it has no
    meaningful probabilities.
    """
    present = np.unique(classes)
    if len(present) == 1 or features.shape[1] == 0:
        return fit(features, classes)
    # the default tolerance takes up to 30 times as long where classes are all but separable
    primal: Any = False
    machine = LinearSVC(dual=primal, tol=SVM_TOLERANCE, max_iter=10_000).fit(features, classes)
    weight, bias = np.asarray(machine.coef_), np.asarray(machine.intercept_)
    if len(present) == 2:
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return Probe(weight.astype(np.float32), bias.astype(np.float32), present)


def predict(
    train_features: Float[np.ndarray, "train unit"],
    train_classes: Int[np.ndarray, " train"],
    fresh_features: Float[np.ndarray, "fresh unit"],
) -> Int[np.ndarray, " fresh"]:
    """Classes of held-out words by logistic regression on standardised features."""
    both = standardise(train_features, fresh_features)
    return fit(both.train, train_classes).predict(both.fresh)


def accuracy(
    train_features: Float[np.ndarray, "train unit"],
    train_classes: Int[np.ndarray, " train"],
    fresh_features: Float[np.ndarray, "fresh unit"],
    fresh_classes: Int[np.ndarray, " fresh"],
) -> float:
    """Share of held-out words that a probe fitted on the training words gets right."""
    return float((predict(train_features, train_classes, fresh_features) == fresh_classes).mean())
