"""Linear discriminants from class means and the covariance within classes, shrunk.

The classes are taken for Gaussians of one covariance (Fisher 1936; Hastie, Tibshirani & Friedman
2009, ch. 4.3). Every unit is first given unit variance within classes, and the matrix that is
shrunk towards the identity is that of correlations: massive activations of a few units would
otherwise set the scale of the identity and swamp all others.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True)
class Discriminant:
    """Log posteriors of classes up to a constant: `weight @ (activations - centre) + bias`.

    `shrinkage`, in [0, 1], is the identity's share of the correlation matrix.
    """

    centre: Float64[Tensor, " unit"]
    weight: Float64[Tensor, "class_ unit"]
    bias: Float64[Tensor, " class_"]
    shrinkage: float


def oas_shrinkage(correlation: Float64[Tensor, "unit unit"], n_words: int) -> float:
    """The share of the identity that estimates a Gaussian's covariance best; 1 at most.

    The oracle approximating shrinkage needs two traces only, so it can be had from sums.
    Source: Chen, Wiesel, Eldar & Hero (2010), IEEE Trans. Signal Processing 58, eq. 23, without the
    term of order 1/d that scikit-learn's `oas` leaves out too.
    """
    d = len(correlation)
    if d == 0:
        return 1.0
    mean = float(correlation.trace()) / d
    mean_square = float((correlation**2).mean())
    excess = (n_words + 1) * (mean_square - mean**2 / d)
    return 1.0 if excess <= 0 else min((mean_square + mean**2) / excess, 1.0)


def discriminant(
    count: Float64[Tensor, " class_"],
    mean: Float64[Tensor, "class_ unit"],
    within: Float64[Tensor, "unit unit"],
    *,
    shrinkage: float | None = None,
) -> Discriminant:
    """The discriminant of words whose squares and products within classes sum to `within`.

    `shrinkage` is by default that of `oas_shrinkage`. A unit that does not vary within classes, or no
    more than float32 rounds, counts nothing. A class without words has the mean of all and the prior
    of half a word.
    """
    n = float(count.sum())
    centre = (count @ mean) / n
    present = (count > 0)[:, None]
    between = torch.where(present, mean - centre, 0.0)
    sd = (within.diagonal().clamp(min=0) / n).sqrt()
    varies = sd > torch.finfo(torch.float32).eps * centre.abs()
    scale = torch.where(varies, 1 / torch.where(varies, sd, 1), 0.0)
    varying = varies.nonzero()[:, 0]
    correlation = (within / n * scale * scale[:, None])[varying][:, varying]
    rho = shrinkage if shrinkage is not None else oas_shrinkage(correlation, int(n))
    means = (between * scale)[:, varying]
    solved = _solved((1 - rho) * correlation, rho, means)
    weight = torch.zeros_like(mean)
    weight[:, varying] = solved * scale[varying]
    prior = count.clamp(min=0.5)
    bias = (prior / prior.sum()).log() - (solved * means).sum(1) / 2
    return Discriminant(centre, weight, bias, rho)


def within_classes(
    within: Float64[Tensor, "unit unit"],
    count: Float64[Tensor, " class_"],
    mean: Float64[Tensor, "class_ unit"],
    other_count: Float64[Tensor, " other"],
    other_mean: Float64[Tensor, "other unit"],
) -> Float64[Tensor, "unit unit"]:
    """Squares and products within other classes of the same words, whose total is the same."""
    centre = (count @ mean) / count.sum()
    between, other = (
        (m - centre) * n.sqrt()[:, None] for n, m in ((count, mean), (other_count, other_mean))
    )
    return within + between.T @ between - other.T @ other


def _solved(
    shrunk: Float64[Tensor, "unit unit"], rho: float, means: Float64[Tensor, "class_ unit"]
) -> Float64[Tensor, "class_ unit"]:
    """The means times the inverse of `shrunk` with `rho` added to its diagonal; `shrunk` is changed."""
    shrunk.diagonal().add_(rho)
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    if not bool(failed):
        return torch.cholesky_solve(means.T, factor).T
    # rounding of the sums has made an eigenvalue smaller than the identity's share
    values, vectors = torch.linalg.eigh(shrunk)
    return (means @ vectors / values.clamp(min=max(rho, 1e-12))) @ vectors.T
