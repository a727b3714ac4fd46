"""The rules that pick the neurons of every label from the scores."""

import numpy as np
from jaxtyping import Bool, Float, Int

from grammar_lens.defaults import ALPHA, MASSIVE, RULES, SIGNS, TOP_K
from grammar_lens.errors import GrammarLensError, counted, require_between, require_one_of
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.selectivity.permutation_null import Null
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores

UNTESTED = "no null"
"""The words of a rule by rank where the scores have no null to test units against."""


def select(
    scores: Scores,
    k: int | None = None,
    *,
    rule: str = "top_k",
    sign: str = "absolute",
    per_layer: bool = False,
    alpha: float | int = ALPHA,
    null: Null | None = None,
    massive: float | None = MASSIVE,
) -> KeyNeurons:
    """The key neurons of every label by a rule.

    - "top_k": the `k` (100) strongest of those with a q-value of at most `alpha` within the label,
      over all layers or in each layer. An alpha of 1 lets all through, and so do scores without a
      null, whose rule says so.
    - "fdr": all with a q-value of at most `alpha` within the label.
    - "permutation": those that stand out from their own null further than any unit of any label does
      in all but `alpha` of the replicates, so the chance of choosing anything at all by accident is
      at most `alpha`.
    - "frequency": the `k` (100) neurons most often among the largest attributions of a label's
      words, from the score of that name (the rule of arXiv 2511.06519).

    q-values and thresholds come from the scores' null, from replicates with exchanged labels, which
    "fdr" and "permutation" need; these choose at most `k` if it is given. Where a score counts both ways, `sign` ranks by its size, or takes only
    the largest ("positive") or the smallest ("negative"). Equal scores are broken by address, the
    lowest first. Units of no strength are never chosen, so a set may hold fewer than `k`.
    By attributions and relevance, units of massive activations are not chosen: those whose mean absolute activation is over
    `massive` times the median of their layer (None takes them). What attributions predict to first
    order fails for them: cut, such a unit damages every label, and no sham is like it.
    Raises GrammarLensError for an unknown rule or sign, when `k` is not between 1 and the number of units, and
    when a rule lacks the null or the score that it needs.
    """
    n_layers, n_units = scores.values.shape[1:]
    _check(scores, k, rule, sign, n_units if per_layer else n_layers * n_units, per_layer)
    null = scores.null if null is None else null
    q = _q_values(scores, null)
    strength = scores.strength(sign)
    allowed = _allowed(scores, rule, alpha, null, q)
    left_out = np.zeros(strength.shape[1:], bool)
    method = SCORES.get(scores.method)
    if massive is not None and method is not None and method.is_first_order:
        left_out = massive_units(scores.units, massive)
    strength = np.where(allowed & ~left_out, strength, 0.0)
    most = k or (TOP_K if rule in ("top_k", "frequency") else n_layers * n_units)
    sets = {}
    for i, label in enumerate(scores.labels):
        if per_layer:
            rows = [la * n_units + _top(strength[i, la], most) for la in range(n_layers)]
            flat = np.concatenate(rows)
            flat = flat[np.argsort(-strength[i].ravel()[flat], kind="stable")]
        else:
            flat = _top(strength[i].ravel(), most)
        sets[label] = Neurons(
            name=label,
            site=scores.origin.site,
            layer=flat // n_units,
            index=flat % n_units,
            score=scores[label].ravel()[flat],
            mean=scores.units.mean.ravel()[flat],
            q=None if q is None else q[i].ravel()[flat],
            weights=scores.origin.weights,
        )
    return KeyNeurons(
        sets=sets,
        method=scores.method,
        rule=_described(
            rule,
            k,
            per_layer,
            sign if scores.best == "far" else "",
            _level(rule, alpha, q),
            int(left_out.sum()),
        ),
        n_units=n_units,
        n_layers=n_layers,
        units=scores.units,
        origin=scores.origin,
    )


def massive_units(
    units: UnitStatistics, massive: float = MASSIVE
) -> Bool[np.ndarray, "layer unit"]:
    """Units whose mean absolute activation is over so many times the median of their layer.

    Source of the term: Sun et al. (2024), Massive Activations in Large Language Models, arXiv 2402.17762.
    """
    median = np.median(units.mean_abs, axis=1, keepdims=True)
    return units.mean_abs > massive * median


def _check(
    scores: Scores, k: int | None, rule: str, sign: str, n_available: int, per_layer: bool
) -> None:
    require_one_of("rule", rule, RULES)
    require_one_of("sign", sign, SIGNS)
    if k is not None:
        n_layers, n_units = scores.values.shape[1:]
        units = counted(n_units, "unit")
        layers = "each layer has" if per_layer else f"{counted(n_layers, 'layer')} of"
        require_between("k", k, 1, n_available, f"{layers} {units}")
    if rule == "frequency" and scores.method != "frequency":
        raise GrammarLensError(
            f"the rule 'frequency' counts how often a neuron is among the largest attributions, and "
            f"these scores are {scores.method!r}: use the score 'frequency'"
        )


def _allowed(
    scores: Scores,
    rule: str,
    alpha: float | int,
    null: Null | None,
    q: Float[np.ndarray, "label layer unit"] | None,
) -> Bool[np.ndarray, "label layer unit"]:
    """The units that a rule lets through."""
    everything = np.ones(scores.values.shape, bool)
    if rule == "frequency":
        return everything
    if rule == "top_k":
        if not 0 < alpha <= 1:
            raise GrammarLensError(f"alpha is {alpha}, expected a number above 0 and at most 1")
        return everything if q is None or alpha == 1 else q <= alpha
    if not 0 < alpha < 1:
        raise GrammarLensError(f"alpha is {alpha}, expected a number between 0 and 1")
    if null is None or q is None:
        raise GrammarLensError(
            f"the rule {rule!r} needs a null for {scores.method!r}, and there is none: collect with "
            "replicates (replicates=100), and use a score that class means decide (correlation, "
            "cohens_d, eta_squared, probeless), or choose by rank (rule 'top_k')"
        )
    null.require_words()
    if rule == "fdr":
        return q <= alpha
    threshold = null.threshold(alpha)
    if np.isinf(threshold):
        raise GrammarLensError(
            f"{counted(null.n_replicates, 'replicate')} cannot resolve a p of {alpha:g}: at least "
            f"{int(np.ceil(1 / alpha)) - 1} are needed"
        )
    return null.z(null.observed) > threshold


def _q_values(scores: Scores, null: Null | None) -> Float[np.ndarray, "label layer unit"] | None:
    if null is None:
        return None
    if (null.method, null.labels) != (scores.method, scores.labels):
        raise GrammarLensError(
            f"the null is of {null.method!r} for {', '.join(null.labels)} and the scores are "
            f"{scores.method!r} for {', '.join(scores.labels)}: use the null of these scores"
        )
    return null.q()


def _level(rule: str, alpha: float | int, q: Float[np.ndarray, "label layer unit"] | None) -> str:
    """The error rate that a rule holds."""
    if rule == "frequency":
        return ""
    if rule == "top_k":
        return UNTESTED if q is None else f"q at most {alpha:g}" if alpha < 1 else "any q"
    return f"at {alpha:g}"


def _described(
    rule: str, k: int | None, per_layer: bool, sign: str, level: str, n_massive: int
) -> str:
    """The rule in words, for results and reports: "top 100, absolute, q at most 0.05".

    Without a sign, the largest values alone count.
    """
    if n_massive:
        level = ", ".join(part for part in (level, f"{n_massive} massive left out") if part)
    where = " per layer" if per_layer else ""
    sign = sign or "largest"
    if rule in ("top_k", "frequency"):
        return ", ".join(part for part in (f"top {k or TOP_K}{where}", sign, level) if part)
    most = f", top {k}{where}" if k else ""
    return f"{rule} {level}{most}, {sign}"


def _top(values: Float[np.ndarray, " unit"], k: int) -> Int[np.ndarray, " chosen"]:
    """Positions of the k largest positive values, largest first, ties by position."""
    order = np.argsort(-values, kind="stable")[:k]
    return order[values[order] > 0]
