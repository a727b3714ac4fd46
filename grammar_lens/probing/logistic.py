"""Multinomial logistic regressions of several labelings of the same words, fitted side by side.

Each is a limited-memory BFGS in float64 whose losses and gradients come in float32 from one product
of the features with the weights of all that still run. Its inverse Hessian starts from the features'
Gram matrix and, once probabilities mean something, from that of each label's uncertain words: with
heavy-tailed activations this takes a third to a half of the steps (`benchmarks/probes.py`).
Source: Nocedal & Wright (2006), Numerical Optimization, ch. 7; Byrd, Nocedal & Schnabel (1994) for the
products of the memory.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grammar_lens.model.onednn import product

TOLERANCE = 4e-5
"""Fitting ends when what is left to gain, as a share of the objective, is estimated to be smaller."""
STEPS_BACK = 5
"""Steps whose decreases are compared for that estimate."""
MAX_STEPS = 1000
MEMORY = 30
CURVATURE_STEPS = 10, 30
"""Steps at which the curvature is taken from the probabilities found so far."""
DAMPING = 3.0
"""Weight of the penalty in that curvature: the probabilities will still change."""
GRAM_WORDS = 4096
UNCERTAIN = 0.01
"""Words with a smaller p (1 - p) add little to a label's curvature."""
WORDS_PER_UNIT = 8, 4
"""Words that a label's curvature is computed from for each unit, at most and at least."""
WORTH_EVALUATIONS, WORTH_OPERATIONS = 25, 2e8
"""A preconditioner may cost as much arithmetic as this many evaluations, or this much at least."""
LEAST_FAST_SIZE = 100_000
"""Of smaller matrices the choice of the library makes no difference."""

LEAST_SHARED_SIZE = 2**25
"""Products of smaller matrices are not shared between threads."""


@dataclass(frozen=True)
class Minimum:
    """Weights and, in the last column, biases at which the objective no longer falls."""

    parameters: Float[Tensor, "label unit_and_bias"]
    objective: float
    n_evaluations: int


@dataclass(frozen=True)
class _Evaluation:
    """Objective, gradient, and probability less truth of every word."""

    objective: float
    gradient: Float[Tensor, "label unit_and_bias"]
    residual: Float[Tensor, "label word"]


def minimise(
    features: Float[Tensor, "word unit"],
    labelings: Sequence[Int[Tensor, " word"]],
    starts: Sequence[Float[Tensor, "_ unit_and_bias"] | None] | None = None,
) -> list[Minimum]:
    """The minimum for each labeling of the words: mean log loss plus |weight|^2 / (2 n).

    Every labeling uses the codes 0 to its largest, each at least once. `starts` are parameters to
    start from, None for the labels' frequencies.
    """
    with _threads(features):
        return _minimise(features, labelings, starts)


@contextmanager
def _threads(features: Float[Tensor, "word unit"]) -> Iterator[None]:
    """One thread for small products on a CPU: several wait for each other wherever a core is busy."""
    usual = torch.get_num_threads()
    if features.device.type == "cpu" and features.numel() < LEAST_SHARED_SIZE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _minimise(
    features: Float[Tensor, "word unit"],
    labelings: Sequence[Int[Tensor, " word"]],
    starts: Sequence[Float[Tensor, "_ unit_and_bias"] | None] | None,
) -> list[Minimum]:
    words = _Words(features)
    problems = [_Problem(words, codes) for codes in labelings]
    runs = [
        problem.descend(start)
        for problem, start in zip(problems, starts or [None] * len(problems), strict=True)
    ]
    points = {i: next(run) for i, run in enumerate(runs)}
    minima: dict[int, Minimum] = {}
    while points:
        found = _evaluate(words, [problems[i] for i in points], list(points.values()))
        for i, evaluation in zip(list(points), found, strict=True):
            try:
                points[i] = runs[i].send(evaluation)
            except StopIteration as end:
                minima[i] = end.value
                del points[i]
    return [minima[i] for i in range(len(runs))]


class _Words:
    """Products with the features, by the faster library."""

    def __init__(self, features: Float[Tensor, "word unit"]) -> None:
        self.x = features
        self.n_words, self.n_units = features.shape
        self._is_large = features.numel() >= LEAST_FAST_SIZE and min(features.shape) > 1
        self._gram: Tensor | None = None

    def logits(self, weight: Float[Tensor, "label unit"]) -> Float[Tensor, "label word"]:
        return product(weight, self.x) if self._is_large else weight @ self.x.T

    def sums(self, of_words: Float[Tensor, "label word"]) -> Float[Tensor, "label unit"]:
        return product(of_words, self.x.T) if self._is_large else of_words @ self.x

    def gram(self) -> Float[Tensor, "unit_and_one unit_and_one"]:
        """Mean product of every two units over some words, all of the same weight."""
        if self._gram is None:
            some = self.x[:: -(-self.n_words // GRAM_WORDS)]
            self._gram = _gram(some, some.new_ones(len(some))) / len(some)
        return self._gram


def _evaluate(
    words: _Words, problems: Sequence["_Problem"], points: Sequence[Float[Tensor, "_ _"]]
) -> list[_Evaluation]:
    """Evaluate each problem at its point, by two products for all."""
    every = torch.cat(list(points)).float()
    weight = every[:, :-1].contiguous()
    values = words.logits(weight).add_(every[:, -1:])
    ends = [len(point) for point in points]
    losses = [p.to_residuals(v) for p, v in zip(problems, values.split(ends), strict=True)]
    sums = words.sums(values).div_(words.n_words).double()
    sums = torch.cat([sums, values.mean(1, dtype=torch.float64)[:, None]], 1)
    evaluations = []
    for problem, point, loss, gradient, residual in zip(
        problems, points, losses, sums.split(ends), values.split(ends), strict=True
    ):
        weights = point[:, :-1]
        gradient[:, :-1] += problem.penalty * weights
        objective = loss + problem.penalty / 2 * weights.square().sum()
        evaluations.append(_Evaluation(float(objective), gradient, residual))
    return evaluations


class _Problem:
    """One labeling: its loss, curvature, and descent."""

    def __init__(self, words: _Words, codes: Int[Tensor, " word"]) -> None:
        self.words, self.codes = words, codes[None]
        self.count = torch.bincount(codes)
        self.n_labels = len(self.count)
        # with two labels scikit-learn penalises one weight vector, their difference
        self.penalty = (2 if self.n_labels == 2 else 1) / words.n_words

    def to_residuals(self, values: Float[Tensor, "label word"]) -> Float[Tensor, ""]:
        """Mean log loss at these logits, which become probability less truth in place."""
        values -= values.amax(0)
        gold = values.gather(0, self.codes)[0]
        total = values.exp_().sum(0)
        loss = total.log().sub_(gold).mean(dtype=torch.float64)
        values /= total
        values.scatter_add_(0, self.codes, torch.full_like(gold[None], -1.0))
        return loss

    def descend(
        self, start: Float[Tensor, "label unit_and_bias"] | None
    ) -> Generator[Float[Tensor, "label unit_and_bias"], _Evaluation, Minimum]:
        """Yields the parameters to evaluate next."""
        words = self.words
        if start is None:
            at = torch.zeros(
                (self.n_labels, words.n_units + 1), dtype=torch.float64, device=words.x.device
            )
            at[:, -1] = (self.count / words.n_words).log()
        else:
            # the same weights added to all labels change no probability, and steps do not add any
            at = start.double() - start.double().mean(0)
        now = yield at
        memory = _Memory(self._curvature(now.residual) if start is not None else self._gram())
        objectives = [now.objective]
        n_evaluations = 1
        for step in range(MAX_STEPS):
            if step in CURVATURE_STEPS:
                memory.inverse = self._curvature(now.residual)
            direction = memory.times(now.gradient)
            slope = float((direction * now.gradient).sum())
            size, new, moved = 1.0, now, at
            while size > 1e-6 and slope > 0:
                moved = at - size * direction
                new = yield moved
                n_evaluations += 1
                rise = new.objective - now.objective
                if rise <= -1e-4 * size * slope:
                    break
                # the minimum of the parabola through both objectives and the slope
                best = slope * size / (2 * (rise + slope * size))
                size *= min(max(best, 0.1), 0.5) if math.isfinite(best) else 0.1
            if not new.objective < now.objective:
                break
            memory.add(moved - at, new.gradient - now.gradient)
            at, now = moved, new
            objectives.append(now.objective)
            if _left_to_gain(objectives, memory.least_rate) < TOLERANCE * now.objective:
                break
        return Minimum(at, now.objective, n_evaluations)

    def _gram(self) -> Float[Tensor, "_ unit_and_one unit_and_one"] | float:
        """Inverse Hessian, alike for all labels, before anything is known of the words."""
        share = self.count / self.words.n_words
        weight = float((share * (1 - share)).mean())
        if self._affordable_words(1) < min(self.words.n_words, GRAM_WORDS):
            return 1 / (weight * (self.words.n_units + 1))
        return _inverse(self.words.gram()[None] * weight, self.penalty)

    def _curvature(
        self, residual: Float[Tensor, "label word"]
    ) -> Float[Tensor, "_ unit_and_one unit_and_one"] | float:
        """Inverse Hessian of every label by itself, or of their mean where that costs too much."""
        size = residual.abs()
        weights = size * (1 - size)
        n, n_columns = self.words.n_words, self.words.n_units + 1
        most, least = (c * n_columns for c in WORDS_PER_UNIT)
        affordable = self._affordable_words(self.n_labels)
        if affordable >= min(least, n):
            most = min(most, affordable)
            grams = [self._weighted_gram(weight, UNCERTAIN, most) for weight in weights]
        else:
            weight, uncertain = weights.mean(0), UNCERTAIN / self.n_labels
            if self._affordable_words(1) < int((weight > uncertain).sum()):
                return 1 / (float(weight.mean()) * n_columns)
            grams = [self._weighted_gram(weight, uncertain, n)]
        return _inverse(torch.stack(grams), DAMPING * self.penalty)

    def _weighted_gram(
        self, weight: Float[Tensor, " word"], least: float, most: int
    ) -> Float[Tensor, "unit_and_one unit_and_one"]:
        """Gram matrix over the words of more weight than `least`, or every so many of them."""
        which = (weight > least).nonzero()[:, 0]
        some = which[:: max(1, -(-len(which) // most))]
        share = len(which) / max(len(some), 1)
        return _gram(self.words.x[some], weight[some]) * (share / self.words.n_words)

    def _affordable_words(self, n_matrices: int) -> int:
        """Words of which as many Gram matrices and their inverses cost little enough."""
        size = self.words.n_units + 1
        evaluation = 4 * self.n_labels * self.words.n_words * size
        budget = max(WORTH_EVALUATIONS * evaluation, WORTH_OPERATIONS)
        return int(budget / (2 * n_matrices * size**2)) - size


def _left_to_gain(objectives: Sequence[float], least_rate: float) -> float:
    """The sum of all decreases to come if they go on to shrink as they did in the last steps.

    They shrink by `least_rate` every `STEPS_BACK` steps at best.
    """
    if len(objectives) <= 2 * STEPS_BACK:
        return math.inf
    before, between, now = objectives[-1 - 2 * STEPS_BACK :: STEPS_BACK]
    rate = min(max((between - now) / (before - between), least_rate), 0.95)
    return (between - now) * rate / (1 - rate)


class _Memory:
    """Approximate inverse Hessian from the last steps and the gradients' changes."""

    def __init__(self, inverse: Float[Tensor, "_ unit_and_one unit_and_one"] | float) -> None:
        self.inverse = inverse
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []

    @property
    def least_rate(self) -> float:
        """The rate of shrinking to trust at most: less without each label's own curvature."""
        by_label = isinstance(self.inverse, Tensor) and len(self.inverse) > 1
        return 0.4 if by_label else 0.85

    def add(self, step: Float[Tensor, "label _"], change: Float[Tensor, "label _"]) -> None:
        """Keeps a pair if the objective curves upwards along it."""
        if (step * change).sum() > 1e-10 * step.norm() * change.norm():
            self.steps = [*self.steps[1 - MEMORY :], step.ravel()]
            self.changes = [*self.changes[1 - MEMORY :], change.ravel()]

    def times(self, gradient: Float[Tensor, "label _"]) -> Float[Tensor, "label _"]:
        if not self.steps:
            return self._precondition(gradient)[0]
        steps, changes = torch.stack(self.steps), torch.stack(self.changes)
        products = steps @ changes.T
        upper = products.triu()
        first = torch.linalg.solve_triangular(upper, steps @ gradient.reshape(-1, 1), upper=True)
        last = self.changes[-1].reshape(gradient.shape)
        q = gradient - (changes.T @ first).reshape(gradient.shape)
        z, of_last = self._precondition(q, last)
        z *= products[-1, -1] / (last * of_last).sum()
        right = products.diagonal()[:, None] * first - changes @ z.reshape(-1, 1)
        second = torch.linalg.solve_triangular(upper.T, right, upper=False)
        return z + (steps.T @ second).reshape(gradient.shape)

    def _precondition(self, *vectors: Float[Tensor, "label _"]) -> tuple[Tensor, ...]:
        """The first inverse Hessian times each vector."""
        if not isinstance(self.inverse, Tensor):
            return tuple(vector * self.inverse for vector in vectors)
        narrow = torch.stack(vectors, 2).to(self.inverse.dtype)
        if len(self.inverse) == 1:
            product = torch.einsum("ij,ljv->liv", self.inverse[0], narrow)
        else:
            product = self.inverse @ narrow
        # adding the same weights to all labels changes no probability
        return (product - product.mean(0)).double().unbind(2)


def _gram(
    x: Float[Tensor, "word unit"], weight: Float[Tensor, " word"]
) -> Float[Tensor, "unit_and_one unit_and_one"]:
    """Weighted sums of the products of every two units and of each unit with 1."""
    root = weight.sqrt()
    scaled = torch.cat([x * root[:, None], root[:, None]], 1)
    return scaled.T @ scaled


def _inverse(grams: Float[Tensor, "_ size size"], ridge: float) -> Float[Tensor, "_ size size"]:
    """Inverses of the matrices plus a ridge, in float32."""
    wide = grams.double()
    diagonal = wide.diagonal(dim1=1, dim2=2)
    # the second part is what rounding in float32 may take from the smallest eigenvalue
    diagonal += ridge + 1e-4 * diagonal.mean(1, keepdim=True)
    return torch.cholesky_inverse(torch.linalg.cholesky(wide)).float()
