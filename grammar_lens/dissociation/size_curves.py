"""Curves over k: a label's first k neurons cut, and all neurons cut but these."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import CURVE_KS, SEED, SHAM_SENTENCES
from grammar_lens.display import Shown
from grammar_lens.dissociation.changes import label_rises
from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.lesions.prepared import ready
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons, Neurons, all_neurons
from grammar_lens.neurons.same_model import require_same_model

KEY, RANDOM, ACTIVATION = "key neurons", "random", "activation"
"""The rankings: the label's own, other neurons of the same layers, and mean |a| times ||w_out||."""
RANKINGS = (KEY, RANDOM, ACTIVATION)
CUT, KEEP = "lesion", "keep"
"""The first k neurons cut (completeness), and all neurons cut but these (faithfulness)."""


@dataclass(frozen=True)
class SizeCurves(Shown):
    """Rise of the tag loss (nats) when a label's first k neurons are cut, and when they alone are kept.

    `table` has a row per label, `ranking`, `lesion` ("lesion" or "keep") and `k`: the rise at the label's
    `own` words and the mean of its rises at the `other` labels'. Neurons are set to their mean. A label with
    fewer neurons has points up to their number. "random" are as many neurons of the same layers, "activation"
    those of the largest mean size times outgoing norm, the same for every label. `everything` is the rise at
    each label's words when every neuron is cut.
    """

    labels: tuple[str, ...]
    table: pd.DataFrame
    everything: Float[np.ndarray, " label"]
    n_words: int
    n_sentences: int
    origin: Origin

    def to_frame(self) -> pd.DataFrame:
        """A row per label, ranking, lesion and k."""
        return self.table

    def areas(self) -> pd.DataFrame:
        """A row per label and ranking: the mean height of both curves over log k.

        `completeness` is the part of the loss of cutting everything that cutting the neurons alone causes,
        `faithfulness` the part that keeping them saves: 1 is everything, 0 nothing. `lesion` and `keep` are
        the same in nats of rise. NaN where cutting everything costs a label nothing.
        """
        rows = []
        for label, all_cut in zip(self.labels, self.everything.tolist(), strict=True):
            for ranking in RANKINGS:
                heights = {lesion: self._height(label, ranking, lesion) for lesion in (CUT, KEEP)}
                share = np.nan if all_cut <= 0 else 1 / all_cut
                rows.append(
                    {
                        "label": label,
                        "ranking": ranking,
                        **heights,
                        "completeness": heights[CUT] * share,
                        "faithfulness": 1 - heights[KEEP] * share,
                    }
                )
        return pd.DataFrame(rows)

    def means(self) -> pd.DataFrame:
        """A row per ranking, lesion and k: means over labels, of those with fewer neurons at all they have."""
        points: dict[tuple[str, str, int], dict[str, tuple[float, float]]] = {}
        for row in self.table.itertuples(index=False):
            of_k = points.setdefault((row.ranking, row.lesion, int(row.k)), {})  # pyright: ignore
            of_k[row.label] = (row.own, row.other)  # pyright: ignore
        ks = sorted({k for ranking, _, k in points if ranking == ACTIVATION})
        rows = []
        for ranking in RANKINGS:
            for lesion in (CUT, KEEP):
                last: dict[str, tuple[float, float]] = {}
                for k in ks:
                    for smaller in sorted({n for r, _, n in points if r == ranking and n <= k}):
                        last |= points.get((ranking, lesion, smaller), {})
                    own, other = np.mean(list(last.values()), 0)
                    of = {"ranking": ranking, "lesion": lesion, "k": k}
                    rows.append({**of, "own": float(own), "other": float(other)})
        return pd.DataFrame(rows)

    def verdict(self) -> str:
        """The outcome in one or two sentences, of the labels that cutting everything costs something."""
        n_known = int((self.everything > 0).sum())
        if n_known == 0:
            return (
                "Cutting everything costs no tag anything, so there is nothing to take a share of."
            )
        cut, keep = (
            {
                ranking: float(areas.loc[areas["ranking"] == ranking, name].mean())
                for ranking in RANKINGS
            }
            for areas in [self.areas()]
            for name in ("completeness", "faithfulness")
        )
        of = "" if n_known == len(self.labels) else f", {n_known} of {len(self.labels)} tags"
        return (
            f"Mean over log k{of}: cutting a tag's first neurons causes {cut[KEY]:.0%} of what cutting "
            f"everything costs it, random neurons of the same layers {cut[RANDOM]:.0%}, the most active "
            f"{cut[ACTIVATION]:.0%}. Keeping them alone saves {keep[KEY]:.0%}, against {keep[RANDOM]:.0%} "
            f"and {keep[ACTIVATION]:.0%}."
        )

    def __repr__(self) -> str:
        return f"SizeCurves of {self.origin.model}: {self.verdict()}"

    def _height(self, label: str, ranking: str, lesion: str) -> float:
        """The mean height of one curve over log k, by trapezoids."""
        key = (label, ranking, lesion)
        names = self.table[["label", "ranking", "lesion"]].itertuples(index=False, name=None)
        chosen = [name == key for name in names]
        values = self.table["own"].to_numpy(float)[chosen]
        at = np.log(self.table["k"].to_numpy(float)[chosen])
        if len(values) < 2:
            return float(values.mean()) if len(values) else np.nan
        return float(np.diff(at) @ (values[1:] + values[:-1]) / 2 / (at[-1] - at[0]))


def lesion_curves(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    lexicon: Treebank | Corpus | Lexicon,
    ks: Sequence[int] = CURVE_KS,
    where: str = "every",
    sentences: int | None = SHAM_SENTENCES,
    labels: Sequence[str] | None = None,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    allow_other_model: bool = False,
) -> SizeCurves:
    """Cuts each label's first k key neurons, then all neurons but these, for several k.

    The neurons are cut in the order of `keys`, which should hold as many as the largest k, and set to their
    mean. Beside them stand random neurons of the same layers and the most active ones. Losses are those of
    `sentences` held-out sentences (None: all), drawn as those of `lesion_study`'s shams. Cost: 4 lesions for
    every label and k, 2 for every k, and one.
    Raises GrammarLensError for a k below 1 and as `lesion_study`.
    """
    require_same_model(model, keys, allow_other_model=allow_other_model)
    sizes = sorted(set(ks))
    if not sizes:
        raise GrammarLensError("ks is empty, expected one number of neurons or more, such as 10")
    require_at_least("the smallest of ks", sizes[0], 1)
    battery, cut, _ = ready(
        model, fresh, keys, lexicon, labels, None, seed, token_budget, show_progress
    )
    codes = battery.sham_codes(sentences)
    rankings = _rankings(model, keys.only(cut), np.random.default_rng([seed, 14]))
    everything = all_neurons(keys)
    ablation = Ablation("mean", 1.0, where)
    conditions = [Condition("everything", 1, everything, ablation)]
    points = []
    for (owner, ranking), neurons in rankings.items():
        for k in sorted({min(k, len(neurons)) for k in sizes}):
            some = neurons.top(k)
            for lesion, units in ((CUT, some), (KEEP, everything.without(some))):
                points.append((owner, ranking, lesion, k))
                conditions.append(Condition(f"{len(points)}", 1, units, ablation))
    outcomes = battery.run(conditions, codes=codes, what="lesioning, curves over k")
    rises = label_rises(outcomes, cut)
    rows = []
    for (owner, ranking, lesion, k), rise in zip(points, rises[1:], strict=True):
        for i, label in enumerate(cut):
            if owner in (label, None):
                other = float(np.delete(rise, i).mean())
                of = {"label": label, "ranking": ranking, "lesion": lesion, "k": k}
                rows.append({**of, "own": float(rise[i]), "other": other})
    return SizeCurves(
        labels=cut,
        table=pd.DataFrame(rows),
        everything=rises[0],
        n_words=int((codes >= 0).sum()),
        n_sentences=len(np.unique(battery.corpus.alignment.sentence[codes >= 0])),
        origin=battery.corpus.origin(keys.origin.position, "neuron"),
    )


def _rankings(
    model: Model, sets: KeyNeurons, rng: np.random.Generator
) -> dict[tuple[str | None, str], Neurons]:
    """The neurons of each label and ranking, first to last; the most active are no label's own."""
    everything = all_neurons(sets)
    units = sets.units
    assert units is not None, "key neurons chosen by gl.select carry unit statistics"
    output = (units.mean_abs * output_norms(model)).ravel()
    longest = max(len(sets[label]) for label in sets)
    active = np.argsort(-output, kind="stable")[:longest]
    rankings: dict[tuple[str | None, str], Neurons] = {}
    for label in sets:
        rankings[label, KEY] = sets[label]
        rankings[label, RANDOM] = everything.take(_like(sets[label], sets.n_units, rng))
    rankings[None, ACTIVATION] = everything.take(active)
    return rankings


def _like(chosen: Neurons, n_units: int, rng: np.random.Generator) -> Int[np.ndarray, " neuron"]:
    """For every neuron in turn a random one of its layer, none of them chosen where others suffice."""
    drawn = np.zeros(len(chosen), np.int64)
    for layer in np.unique(chosen.layer).tolist():
        at = np.flatnonzero(chosen.layer == layer)
        others = np.setdiff1d(np.arange(n_units), chosen.index[at])
        pool = others if len(others) >= len(at) else np.arange(n_units)
        drawn[at] = layer * n_units + rng.choice(pool, len(at), replace=False)
    return drawn
