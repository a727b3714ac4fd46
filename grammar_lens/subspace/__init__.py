"""How the key neurons of different labels lie to each other: shared neurons, layers, directions."""

from grammar_lens.subspace.agreement import (
    Choice,
    Choices,
    agreement,
    agreement_table,
    choices,
    cross_overlap,
    score_correlation,
)
from grammar_lens.subspace.depth import (
    depth_bins,
    depth_profile,
    depth_share,
    depth_strength,
    depth_table,
    same_peak,
)
from grammar_lens.subspace.erasure import (
    Eraser,
    ErasureResult,
    erasure_table,
    leace,
    remove_directions,
)
from grammar_lens.subspace.geometry import (
    Subspaces,
    effective_rank,
    principal_angles,
    row_basis,
    subspaces,
)
from grammar_lens.subspace.overlaps import (
    Overlap,
    Reliability,
    SubspaceError,
    layer_counts,
    layer_strength,
    overlap,
    reliability,
    shared_by_chance,
)

__all__ = [
    "Choice",
    "Choices",
    "Eraser",
    "ErasureResult",
    "Overlap",
    "Reliability",
    "SubspaceError",
    "Subspaces",
    "agreement",
    "agreement_table",
    "choices",
    "cross_overlap",
    "depth_bins",
    "depth_profile",
    "depth_share",
    "depth_strength",
    "depth_table",
    "effective_rank",
    "erasure_table",
    "layer_counts",
    "layer_strength",
    "leace",
    "overlap",
    "principal_angles",
    "reliability",
    "remove_directions",
    "row_basis",
    "same_peak",
    "score_correlation",
    "shared_by_chance",
    "subspaces",
]
