"""Merge of the means and squared deviations of two groups of words."""

from typing import TypeVar

import numpy as np
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)


def chan(n: Array, m: Array, gap: Array) -> tuple[Array, Array]:
    """Terms that merge a second group of `m` words into a first of `n`: to be added to the first
    mean, and to the sum of both squared deviations.

    `gap` is the second mean minus the first. Nothing is subtracted that is nearly equal.
    Source: Chan, Golub & LeVeque (1983), The American Statistician 37, 242.
    """
    share = m / (n + m).clip(min=1)
    return gap * share, gap**2 * (n * share)
