"""Bounds on the difference of two float32 evaluations of one formula."""

from typing import Any

import numpy as np

EPS = float(np.finfo(np.float32).eps)
PRODUCTS_OF_A_LAYER = 6
"""Sums that follow one another: queries and keys, their products, what attention reads, what it
writes, the neurons, what they write."""


def float32_error(scale: float, n_terms: int) -> float:
    """The largest difference to allow where `n_terms` numbers are summed, or products are, in float32.

    Processors, libraries and shapes of a product differ in the order of a sum. A rounding is off by at
    most eps / 2 of the value, evenly: eps / sqrt(12) is its standard deviation. n of them, in random
    directions, are off by sqrt(n) times that (Higham and Mary 2019, doi:10.1137/18M1226312), and two
    evaluations differ by sqrt(2) times that again. 2 sqrt(n) eps is five standard deviations, for the
    largest of thousands of values is looked at. `scale` is the largest size of the values.
    """
    return 2 * np.sqrt(n_terms) * EPS * float(scale)


def model_error(model: Any, values: Any, *, passes: int = 1) -> float:
    """The same for what a model computes: activations and losses, or gradients with `passes` 2.

    The sums of all layers and of the head follow one another, each as long as a layer is wide.
    `values` are those compared, or one number of their size; NaN counts for nothing.
    """
    depth = passes * (PRODUCTS_OF_A_LAYER * model.cfg.n_layers + 1)
    n_terms = depth * max(model.cfg.d_model, model.cfg.d_mlp)
    array = values.detach().float().numpy() if hasattr(values, "detach") else np.asarray(values)
    return float32_error(np.nanmax(np.abs(array)), n_terms)
