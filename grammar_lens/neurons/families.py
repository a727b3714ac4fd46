"""Runs of related models: whether a unit of one can be taken for the same unit of the other.

Checkpoints of one training, and base and chat models, keep their units: 3.17 of one is 3.17 of the other,
so key neurons can be compared one by one. Models trained apart do not, even with the same shape.
"""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from grammar_lens.neurons.choice_agreement import Choice
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import reliability

RELATED = 0.2
"""Rank correlation of unit statistics from which two models are of one family."""
SURE = 1e-3
"""p that this correlation must also have, which matters in small models."""
EQUAL, SAME_NAME, MEASURED = "equal weights", "same model name", "related units"
APART, OTHER_SIZES = "unrelated units", "other sizes"


@dataclass(frozen=True)
class Relation:
    """Relation of two runs: can their units be taken for the same units, and why.

    `correlation` is the mean over layers of the rank correlation of the units' mean |activation|, `p_value`
    the chance of as much or more in models whose units have no relation; NaN for other sizes.
    """

    reason: str
    correlation: float = nan
    p_value: float = nan

    @property
    def is_family(self) -> bool:
        return self.reason in (EQUAL, SAME_NAME, MEASURED)


def relation(
    first: KeyNeurons, second: KeyNeurons, *, same_weights: bool, same_name: bool
) -> Relation:
    """The relation of two runs' models, from what a run directory holds: it has no weights.

    Runs of models with as many layers and units are of one family when their weights are equal, when they
    were loaded by the same name (other revisions), or when the units are measurably the same: within
    layers, mean |activation| of a unit in one run predicts that in the other, with a rank correlation
    of `RELATED` or more and p of at most `SURE`. Where no unit is related to its namesake, every
    pairing within a layer is as likely, and the correlation has mean 0 and variance 1 / (units - 1) in
    each layer. Fine-tuning keeps this correlation near 1 and so do other words; models trained apart have 0
    in the mean. A model whose units were reordered counts as unrelated, although its weights are equal
    but for the order. A name alone may mislead where a folder was overwritten with another model: the
    correlation stands beside it.
    """
    sizes = [(k.n_layers, k.n_units, k.origin.site) for k in (first, second)]
    if sizes[0] != sizes[1]:
        return Relation(OTHER_SIZES)
    correlation, p = _unit_correlation(first, second)
    if same_weights:
        return Relation(EQUAL, correlation, p)
    if same_name:
        return Relation(SAME_NAME, correlation, p)
    related = correlation >= RELATED and p <= SURE
    return Relation(MEASURED if related else APART, correlation, p)


def _unit_correlation(first: KeyNeurons, second: KeyNeurons) -> tuple[float, float]:
    """Mean over layers of the Spearman correlation of mean |activation|, and its one-sided p."""
    if first.units is None or second.units is None:
        return nan, nan
    by_layer = _rank_correlation(first.units.mean_abs, second.units.mean_abs)
    correlation = float(by_layer.mean())
    n_layers, n_units = first.n_layers, first.n_units
    return correlation, float(stats.norm.sf(correlation * sqrt(n_layers * max(n_units - 1, 1))))


def shared_neurons(first: Choice, second: Choice) -> pd.DataFrame:
    """Neurons that two runs of one family share, a row per label that both have.

    `n_first` and `n_second` key neurons, `shared` ones, `expected` of sets drawn at random within their
    layers, `p` of as many or more, of each label alone. `rank_correlation` is that of the scores over
    all units; NaN for scores of two methods, and where one is constant.
    Raises GrammarLensError for choices of units that cannot be the same.
    """
    labels = [x for x in first.keys.labels if x in second.keys]
    both = reliability(first.keys.only(labels), second.keys.only(labels))
    correlation = np.full(len(labels), nan)
    if first.scores.method == second.scores.method and labels:
        values = [np.stack([c.scores[x].ravel() for x in labels]) for c in (first, second)]
        correlation = _rank_correlation(*values, constant=nan)
    columns = {
        "n_first": both.n_first,
        "n_second": both.n_second,
        "shared": both.shared,
        "expected": both.expected,
        "p": both.p_value,
        "rank_correlation": correlation,
    }
    return pd.DataFrame(columns, index=pd.Index(labels, name="label"))


def _rank_correlation(
    first: Float[np.ndarray, "row unit"],
    second: Float[np.ndarray, "row unit"],
    *,
    constant: float = 0.0,
) -> Float[np.ndarray, " row"]:
    """Spearman correlation of every row; `constant` where one side does not vary. Missing values rank last."""
    ranks = (stats.rankdata(np.nan_to_num(x, nan=-np.inf), axis=1) for x in (first, second))
    a, b = (x - x.mean(1, keepdims=True) for x in ranks)
    length = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), length, out=np.full(len(a), constant), where=length > 0)
