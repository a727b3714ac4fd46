"""The pattern of a lesion matrix, without severity of lesions and fragility of labels."""

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-9
"""Scores of the scaled matrix this close are equal: with two labels all are 1 or -1."""
LEAST_LABELS = 3
"""With two labels the scaled matrix is always 1 and -1, so that it is uninformative."""
LEAST_SHAMS = 19
"""Fewer sham replicates cannot reach p = .05."""


def scaled(matrix: Float[np.ndarray, "*draw row label"]) -> Float[np.ndarray, "*draw row label"]:
    """The matrix centred by rows and columns, each row divided by its root mean square.

    What is left is the pattern of damage: how severe a lesion is, and how fragile a label, is gone.
    """
    rows, columns = matrix.mean(-1, keepdims=True), matrix.mean(-2, keepdims=True)
    centred = matrix - columns - rows + matrix.mean((-2, -1), keepdims=True)
    size = np.sqrt((centred**2).mean(-1, keepdims=True))
    return np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)


def diagonal_score(matrix: Float[np.ndarray, "label label"]) -> float:
    """S*, the mean diagonal of the scaled matrix; its null distribution is that of the shams."""
    return float(np.diag(scaled(matrix)).mean())


def diagonal_scores(matrices: Float[np.ndarray, "draw row label"]) -> Float[np.ndarray, " draw"]:
    """S* of every matrix."""
    return np.diagonal(scaled(matrices), axis1=1, axis2=2).mean(1)


def margins(matrix: Float[np.ndarray, "*draw row label"]) -> Float[np.ndarray, "*draw row label"]:
    """For every pair the smallest of the four differences of a double dissociation.

    M_ii - M_ij, M_jj - M_ji (within lesions), M_ii - M_ji, M_jj - M_ij (within labels).
    """
    own = np.diagonal(matrix, axis1=-2, axis2=-1)
    within_lesion = own[..., :, None] - matrix
    within_label = own[..., None, :] - matrix
    smallest = np.minimum(within_lesion, within_label)
    return np.minimum(smallest, np.swapaxes(smallest, -2, -1))


def shares(matrix: Float[np.ndarray, "*draw row label"]) -> Float[np.ndarray, "*draw row label"]:
    """The matrix with each row divided by its summed absolute damage, then centred by columns.

    Where a lesion's damage falls, whatever its size; what every lesion does to a fragile label is
    taken out.
    """
    size = np.abs(matrix).sum(-1, keepdims=True)
    share = np.divide(matrix, size, out=np.zeros_like(matrix), where=size > 0)
    return share - share.mean(-2, keepdims=True)


def leads(matrix: Float[np.ndarray, "*draw row label"]) -> Float[np.ndarray, "*draw row label"]:
    """Each entry minus the largest other one of its row: by how much it is the largest."""
    ordered = np.sort(matrix, axis=-1)
    first, second = ordered[..., -1:], ordered[..., -2:-1]
    return np.where(matrix == first, matrix - second, matrix - first)


def chance(real: float, shams: Float[np.ndarray, " replicate"]) -> float | None:
    """(1 + shams at least as large) / (1 + shams); None without shams."""
    if len(shams) == 0:
        return None
    return float((1 + (shams >= real - ROUNDING).sum()) / (1 + len(shams)))
