"""Multinomial logistic regression with an elastic-net penalty, for many more units than words."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_POWER_STEPS = 30
_FIRST_UNITS = 512
"""Units in the first of the smaller problems."""


@dataclass(frozen=True)
class ElasticNetFit:
    """Weights and intercepts, how many steps they took, and how far they are from optimal.

    `violation` is how far the gradient is, at worst, from one that the optimum allows: 0 at the
    optimum, and small when it is small beside l1.
    """

    weight: Float[Tensor, "unit label"]
    intercept: Float[Tensor, " label"]
    n_steps: int
    violation: float


@torch.no_grad()
def fit_elastic_net(
    x: Float[Tensor, "word unit"],
    classes: Int[Tensor, " word"],
    n_labels: int,
    *,
    l1: float,
    l2: float,
    tolerance: float = 0.02,
    max_steps: int = 5000,
) -> ElasticNetFit:
    """Minimises mean cross-entropy + l1 |W| + l2 |W|^2 over the weights W and free intercepts.

    Units must have mean 0. Ends when the violation is at most `tolerance` times l1, or after
    `max_steps`. Computes on the device and in the precision of `x`; l1 must be positive.
    Most units end without a weight, so the problem is solved for the units whose gradient exceeds l1
    most, then for twice as many, until none of the others exceeds it.
    Source: Beck & Teboulle (2009), FISTA; O'Donoghue & Candes (2015), the restart.
    """
    n_units = x.shape[1]
    target = torch.nn.functional.one_hot(classes, n_labels).to(x.dtype)
    # the intercepts are the last row
    point = x.new_zeros(n_units + 1, n_labels)
    working = torch.zeros(n_units, dtype=torch.bool, device=x.device)
    n_steps, left = 0, float("inf")
    while True:
        excess = _slope(x, target, point, l2)[:-1].abs().amax(1) - l1
        excess[working] = 0
        violation = max(left, float(excess.max()))
        if violation <= tolerance * l1 or n_steps >= max_steps:
            return ElasticNetFit(point[:-1], point[-1], n_steps, violation)
        more = min(n_units, max(_FIRST_UNITS, int(working.sum())))
        largest = excess.topk(more)
        working[largest.indices[largest.values > 0]] = True
        units = working.nonzero()[:, 0]
        rows = torch.cat([units, units.new_tensor([n_units])])
        small = x.index_select(1, units)
        point[rows], taken, left = _descend(
            small, target, point[rows], l1, l2, tolerance * l1, max_steps - n_steps
        )
        n_steps += taken


def _descend(
    x: Float[Tensor, "word unit"],
    target: Float[Tensor, "word label"],
    point: Float[Tensor, "unit_and_intercept label"],
    l1: float,
    l2: float,
    allowed: float,
    max_steps: int,
) -> tuple[Float[Tensor, "unit_and_intercept label"], int, float]:
    """FISTA from a point: the point reached, the steps taken, and the last step as a gradient."""
    # the Hessian of the cross-entropy in the logits is at most 1/2 (Bohning 1992), and since units
    # are centred the intercept is a direction of its own, of eigenvalue 1
    curvature = max(_largest_eigenvalue(x), 1.0) / 2 + 2 * l2
    ahead, momentum = point, 1.0
    violation, n_steps = float("inf"), 0
    while n_steps < max_steps and violation > allowed:
        n_steps += 1
        new = ahead - _slope(x, target, ahead, l2) / curvature
        new[:-1] = torch.nn.functional.softshrink(new[:-1], l1 / curvature)
        step, moved = new - ahead, new - point
        violation = float(step.abs().max()) * curvature
        # momentum that points uphill is dropped
        last = 1.0 if float((step * moved).sum()) < 0 else momentum
        momentum = (1 + (1 + 4 * last**2) ** 0.5) / 2
        ahead, point = new + (last - 1) / momentum * moved, new
    return point, n_steps, violation


def _slope(
    x: Float[Tensor, "word unit"],
    target: Float[Tensor, "word label"],
    point: Float[Tensor, "unit_and_intercept label"],
    l2: float,
) -> Float[Tensor, "unit_and_intercept label"]:
    """Gradient of all but the l1 penalty."""
    logits = torch.addmm(point[-1], x, point[:-1])
    error = (logits.softmax(1) - target) / len(x)
    slope = torch.empty_like(point)
    slope[:-1] = x.T @ error + 2 * l2 * point[:-1]
    slope[-1] = error.sum(0)
    return slope


def _largest_eigenvalue(x: Float[Tensor, "word unit"]) -> float:
    """The largest eigenvalue of x^T x / words by power steps, 2 % added for what they miss."""
    v = torch.randn(len(x), generator=torch.Generator().manual_seed(0)).to(x)
    value = 0.0
    for _ in range(_POWER_STEPS):
        v = x @ (x.T @ (v / v.norm().clamp(min=1e-30)))
        value = float(v.norm())
    return 1.02 * value / len(x)
