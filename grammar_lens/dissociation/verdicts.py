"""Sentences that state the results of a lesion study."""

import numpy as np
from jaxtyping import Float

from grammar_lens.dissociation.matrices import LEAST_LABELS, LEAST_SHAMS
from grammar_lens.errors import counted

LEVEL = 0.05
"""p at which damage is called selective."""
ENOUGH = 0.9
"""Shams that carry less than this share of the real sets' output, or damage, are too weak."""

NEGLIGIBLE = 0.01
"""Damage below this share of what the intact model knows of the tags is too small to be a finding."""


def nats(loss: float, sign: str = "") -> str:
    """A loss to three decimals; a smaller one than these show, to six."""
    return f"{loss:{sign}.{6 if 0 < abs(loss) < 1e-3 else 3}f}"


def significance(p: float, n_shams: int, what: str, where: str = "") -> str:
    """Whether the real sets are more selective than shams: one sentence."""
    against = f"{n_shams} {what}{where}"
    if p <= LEVEL:
        return f"The damage is more selective than that of {against} (p = {p:.3f})."
    if n_shams < LEAST_SHAMS:
        return (
            f"{against} are too few: p = {p:.3f} cannot fall below {1 / (1 + n_shams):.3f}, and "
            f"{LEAST_SHAMS} are needed for 0.05."
        )
    return (
        f"The damage is not shown to be more selective than that of {against} (p = {p:.3f}): the "
        "evidence for selective damage is lacking."
    )


def describe_pairs(n_labels: int, confirmed: list[bool], *, doubtful: bool) -> str:
    """The number of pairs of labels that dissociate doubly; `doubtful` where the matrix is not selective."""
    n_pairs = n_labels * (n_labels - 1) // 2
    if not confirmed:
        return f"None of {counted(n_pairs, 'pair')} of tags dissociates doubly."
    text = (
        f"{len(confirmed)} of {counted(n_pairs, 'pair')} of tags "
        f"{'dissociates' if len(confirmed) == 1 else 'dissociate'} doubly, {sum(confirmed)} of them "
        "also by AUROC."
    )
    if doubtful:
        text += " The matrix as a whole is not shown to be selective, so pairs may be accidents."
    return text


def why_no_p(n_labels: int, n_shams: int) -> str:
    """The reason why there is no p-value."""
    if n_labels < LEAST_LABELS:
        return (
            f"With {n_labels} tags the pattern of damage can only be 1 or -1: at least "
            f"{LEAST_LABELS} are needed to say whether it is selective."
        )
    assert n_shams == 0
    return "Without sham lesions nothing can be said about chance."


def least(values: Float[np.ndarray, " label"]) -> float:
    """The smallest known value; NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.min()) if len(known) else float("nan")
