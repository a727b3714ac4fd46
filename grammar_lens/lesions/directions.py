"""Directions of the residual stream, which a lesion can remove as it removes neurons."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError


@dataclass(frozen=True)
class Directions(Shown):
    """A subspace of the residual stream in one layer, with an orthonormal basis.

    `mean` is the mean of the stream there, which a mean lesion puts in the subspace's place; None
    when it is not known. With `writes` the basis is only read, and need not be orthonormal: a lesion
    moves the stream along these vectors instead, one for each direction, as an affine eraser does.
    """

    name: str
    site: str
    layer: int
    basis: Float[np.ndarray, "direction d_model"]
    mean: Float[np.ndarray, " d_model"] | None = None
    writes: Float[np.ndarray, "direction d_model"] | None = None

    def __len__(self) -> int:
        return len(self.basis)

    def __repr__(self) -> str:
        return f"Directions {self.name}: {len(self)} at {self.site!r} of layer {self.layer}"

    def _title(self) -> str:
        return f"{self!r}, of {self.basis.shape[1]} dimensions"


def directions(
    name: str,
    vectors: Float[np.ndarray, "vector d_model"],
    *,
    layer: int,
    site: str = "resid_post",
    mean: Float[np.ndarray, " d_model"] | None = None,
) -> Directions:
    """The directions that some vectors span, such as a probe's weights or differences of means.

    Vectors that depend on others add nothing; without any vector the set is empty.
    Raises GrammarLensError for vectors that are not finite.
    """
    if not np.isfinite(vectors).all():
        raise GrammarLensError(f"the vectors of {name!r} are not all finite: leave those out")
    _, size, basis = np.linalg.svd(np.asarray(vectors, np.float64), full_matrices=False)
    rank = int((size > 1e-10 * max(size.max(initial=0.0), 1e-300)).sum())
    return Directions(name, site, layer, basis[:rank], mean)
