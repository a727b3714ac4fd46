"""Controls of a choice of neurons: sham localiser on exchanged labels, split-half reliability.

The sham localiser runs score and choice on exchanged labels, where nothing but chance and what the
exchange keeps can be found: whatever it finds is the floor. Reliability chooses anew from each half
of the sentences and counts what both agree on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from grammar_lens.defaults import ALPHA
from grammar_lens.display import Shown
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import reliability
from grammar_lens.neurons.selection import select
from grammar_lens.selectivity.contrasts import Adjusted
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.permutation_null import MIN_WORDS, Null
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


@dataclass(frozen=True)
class SelectionControls(Shown):
    """The controls of one choice of key neurons, a row per label in each table; None if not made.

    `sham`: mean strength of the `k` strongest neurons with the true labels (`strength`) and in each
    exchange (`sham_strength`, mean over exchanges; `sham_strongest`, the largest), with how many
    pass each error-rate rule at .05 in both. `reliability`: neurons that both halves of the
    sentences choose, with chance. `within_type`: the key neurons' median effect and what is left of
    it among occurrences of the same word form, and at equal frequency and place.
    """

    k: int
    n_replicates: int
    left_out_words: int
    left_out_sentences: int
    sham: pd.DataFrame | None
    reliability: pd.DataFrame | None
    within_type: pd.DataFrame | None
    rule: str = ""
    """The rule of the choice in words."""

    def __repr__(self) -> str:
        lines = [f"SelectionControls of the top {self.k}"]
        if self.sham is not None and len(self.sham):
            lines.append(
                f"mean strength {self.sham['strength'].mean():.3g}, with exchanged labels "
                f"{self.sham['sham_strength'].mean():.3g} ({self.n_replicates} exchanges)"
            )
        if self.reliability is not None and len(self.reliability):
            lines.append(
                f"two halves share {self.reliability['share'].mean():.3f}, by chance "
                f"{self.reliability['expected_share'].mean():.3f}"
            )
        if self.within_type is not None and len(self.within_type):
            lines.append(
                f"effect {self.within_type['effect'].mean():.2f} sd, within word forms "
                f"{self.within_type['within_type'].mean():.2f}"
            )
        return "; ".join(lines)

    def _tables(self) -> list[pd.DataFrame]:
        tables = (self.sham, self.reliability, self.within_type)
        return [table for table in tables if table is not None]


_SHAM_COLUMNS = (
    *("label", "strength", "sham_strength", "sham_strongest"),
    *("by_fdr", "sham_by_fdr", "by_permutation", "sham_by_permutation"),
)


def sham_localiser(null: Null, k: int, alpha: float = ALPHA) -> pd.DataFrame:
    """Strength of the top `k` units of every label with true and with exchanged labels.

    Labels with fewer words than a null needs are left out; without any other the table is empty.
    """
    threshold = null.threshold(alpha)
    real = null.strengths(null.observed)
    exchanged = [s.astype(np.float64) for s in null.shams]
    shams = [null.strengths(s) for s in exchanged]
    real_z, sham_z = null.z(null.observed), [null.z(s) for s in exchanged]
    real_q, sham_q = null.q(), [null.q(s) for s in exchanged]
    rows = []
    for i, label in enumerate(null.labels):
        if null.count[i] < MIN_WORDS:
            continue
        floors = [_top_mean(s[i], k) for s in shams]
        rows.append(
            {
                "label": label,
                "strength": _top_mean(real[i], k),
                "sham_strength": float(np.mean(floors)),
                "sham_strongest": float(np.max(floors)),
                "by_fdr": int((real_q[i] <= alpha).sum()),
                "sham_by_fdr": float(np.mean([(q[i] <= alpha).sum() for q in sham_q])),
                "by_permutation": int((real_z[i] > threshold).sum()),
                "sham_by_permutation": float(np.mean([(z[i] > threshold).sum() for z in sham_z])),
            }
        )
    return pd.DataFrame(rows, columns=pd.Index(_SHAM_COLUMNS))


def sham_keys(
    scores: Scores, k: int, *, sign: str = "absolute", sham: int = 0
) -> KeyNeurons | None:
    """The neurons that the same choice finds with exchanged labels; None for scores without a null."""
    if scores.null is None:
        return None
    values = scores.null.shams[sham].astype(np.float64)
    return select(replace(scores, values=values, null=None), k, sign=sign)


def _top_mean(strength: Float[np.ndarray, "layer unit"], k: int) -> float:
    flat = strength.ravel()
    return float(np.sort(flat)[-min(k, len(flat)) :].mean())


def within_type_table(
    keys: KeyNeurons, effect: Callable[[str], Float[np.ndarray, "layer unit"]], adjusted: Adjusted
) -> pd.DataFrame:
    """Each label's key neurons: median effect, within word forms, and at equal frequency and place.

    All in standard deviations and in the direction of the neuron's effect, so that a share `retained`
    near 1 says that the effect is not the words', near 0 that it is, below 0 that it turns round.
    """
    rows = []
    for label in keys.labels:
        i, key = adjusted.labels.index(label), keys[label]
        plain = effect(label)[key.layer, key.index]
        sign = np.where(plain < 0, -1.0, 1.0)
        within = adjusted.within_type[i][key.layer, key.index] * sign
        guarded = adjusted.guarded[i][key.layer, key.index] * sign
        rows.append(
            {
                "label": label,
                "effect": _median(np.abs(plain)),
                "within_type": _median(within),
                "within_type_retained": _median(
                    within / np.where(plain == 0, np.nan, np.abs(plain))
                ),
                "guarded": _median(guarded),
                "guarded_retained": _median(guarded / np.where(plain == 0, np.nan, np.abs(plain))),
                "ambiguous_forms": int(adjusted.n_forms[i]),
                "words": int(adjusted.n_words[i]),
                "standard_error": float(adjusted.within_type_error[i]),
            }
        )
    return pd.DataFrame(rows)


def _median(values: Float[np.ndarray, " neuron"]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def selection_controls(
    keys: KeyNeurons, scores: Scores, evidence: Evidence, k: int, sign: str = "absolute"
) -> SelectionControls:
    """All controls of a choice that the evidence allows; reliability and floor at the top `k`."""
    null = scores.null
    halves = _halves(evidence, scores.method, k, sign)
    effects = dict(zip(scores.labels, scores.effect, strict=True))
    adjusted = evidence.adjusted
    return SelectionControls(
        k=k,
        n_replicates=0 if null is None else null.n_replicates,
        left_out_words=0 if null is None else null.n_left_out_words,
        left_out_sentences=0 if null is None else null.n_left_out_sentences,
        sham=None if null is None else sham_localiser(null, k),
        reliability=None if halves is None else _agreement(*halves),
        within_type=None
        if adjusted is None
        else within_type_table(keys, effects.__getitem__, adjusted),
        rule=keys.rule,
    )


def _halves(
    evidence: Evidence, method: str, k: int, sign: str
) -> tuple[KeyNeurons, KeyNeurons] | None:
    """The choice from each half of the sentences; None where the score cannot be had of halves."""
    halves = evidence.split()
    needs = SCORES[method].needs
    if halves is None or any(getattr(half, needs) is None for half in halves):
        return None
    first, second = (select(score(half, method), k, sign=sign) for half in halves)
    return first, second


def _agreement(first: KeyNeurons, second: KeyNeurons) -> pd.DataFrame:
    """Reliability with shares of the smaller choice: `share` agreed on, `expected_share` by chance."""
    table = reliability(first, second).to_frame().reset_index()
    size = np.maximum(np.minimum(table["n_first"], table["n_second"]), 1)
    return table.assign(share=table["shared"] / size, expected_share=table["expected"] / size)


def with_effects(keys: KeyNeurons, scores: Scores, adjusted: Adjusted | None) -> pd.DataFrame:
    """The key neurons with their effect sizes: Cohen's d, within word forms, at equal frequency."""
    table = keys.to_frame()
    columns = {"cohens_d": scores.effect}
    if adjusted is not None:
        columns |= {"within_type_d": adjusted.within_type, "guarded_d": adjusted.guarded}
    where = (
        np.array([scores.labels.index(x) for x in table["label"]], np.int64),
        table["layer"].to_numpy(np.int64),
        table["index"].to_numpy(np.int64),
    )
    effects = {name: values[where] for name, values in columns.items()}
    return table.assign(**effects, n_labels=keys.n_labels()[where[1:]])


def selection_summary(keys: KeyNeurons, controls: SelectionControls) -> dict[str, Any]:
    """The numbers of a choice and its controls for summary.json, averaged over labels."""
    summary: dict[str, Any] = {
        "score": keys.method,
        "rule": keys.rule,
        "neurons": {label: len(keys[label]) for label in keys},
        "distinct_neurons": len(keys.union()),
        "unspecific_neurons": len(keys.unspecific()),
        "replicates": controls.n_replicates,
        "left_out_words": controls.left_out_words,
    }
    if controls.sham is not None:
        names = ("strength", "sham_strength", "by_fdr", "sham_by_fdr")
        names = (*names, "by_permutation", "sham_by_permutation")
        summary["sham_localiser"] = {name: float(controls.sham[name].mean()) for name in names}
    if controls.reliability is not None:
        names = ("share", "expected_share")
        summary["reliability"] = {name: float(controls.reliability[name].mean()) for name in names}
    if controls.within_type is not None:
        names = ("effect", "within_type", "guarded")
        summary["within_type"] = {name: float(controls.within_type[name].mean()) for name in names}
    return summary


def mean_interval(
    values: Float[np.ndarray, " repetition"], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of independent repetitions with its t-interval; infinitely wide for a single one."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, float("-inf"), float("inf")
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half
