"""Correction of p-values of lesions for several tests."""

import numpy as np
from jaxtyping import Float


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values corrected for all tests: rejecting those up to alpha makes any false rejection at most alpha likely.

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    stepwise = p[order] * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepwise), 1)
    return corrected
