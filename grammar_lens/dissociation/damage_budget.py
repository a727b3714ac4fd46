"""Neurons and directions at equal damage: which lesion spares the other labels most?"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import LAYER_WORDS, SEED, SHAM_SENTENCES
from grammar_lens.display import Shown
from grammar_lens.dissociation.calibration import t_interval
from grammar_lens.dissociation.changes import label_rises
from grammar_lens.dissociation.layer_lesions import (
    beside_training_words,
    stream_statistics,
    stream_sums,
)
from grammar_lens.errors import require_layer
from grammar_lens.lesions.directions import Directions, directions
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.same_model import require_same_model

NEURONS, MEANS, LEACE = "key neurons", "mean difference", "LEACE"
BUDGET = 0.5
"""The damage compared, as a share of what cutting all of a label's key neurons costs it."""
DOSES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class EqualDamage(Shown):
    """Rise of the tag loss (nats) under lesions of a label's neurons and of its directions, by dose.

    `table` has a row per label, `lesion`, `layer` (-1 for neurons, which are of all layers) and `dose`: the
    rise at the label's `own` words and the mean of its rises at the `other` labels'. The directions of a
    label are in the residual stream after a layer: "mean difference", from the mean of all words to the
    label's own, is projected out; "LEACE" is the least change after which no linear probe tells the label.
    """

    labels: tuple[str, ...]
    table: pd.DataFrame
    n_words: int
    n_sentences: int
    origin: Origin

    def to_frame(self) -> pd.DataFrame:
        """A row per label, lesion, layer and dose."""
        return self.table

    def at_budget(self, share: float = BUDGET) -> pd.DataFrame:
        """A row per label, lesion and layer: at the dose that costs the label its budget.

        The `budget` is `share` of what all its key neurons cost; `dose` and `other` are interpolated, and NaN
        where full dose costs less. `specificity` is 1 - other / budget.
        """
        rows = []
        for label in self.labels:
            full = self._points(label, NEURONS, -1)[-1]
            budget = share * float(full[1])
            for lesion, layer in self._lesions():
                dose, other = _reached(self._points(label, lesion, layer), budget)
                rows.append(
                    {
                        **{"label": label, "lesion": lesion, "layer": layer, "budget": budget},
                        **{"dose": dose, "other": other, "specificity": 1 - other / budget},
                    }
                )
        return pd.DataFrame(rows)

    def summary(self, share: float = BUDGET) -> pd.DataFrame:
        """A row per lesion and layer: means over the labels whose budget it reaches, with 95 % intervals."""
        found = self.at_budget(share)
        rows = []
        for lesion, layer in self._lesions():
            at = (found["lesion"] == lesion).to_numpy() & (found["layer"] == layer).to_numpy()
            specificity = found["specificity"].to_numpy(float)[at]
            known = np.isfinite(specificity)
            mean, low, high = t_interval(specificity)
            other = found["other"].to_numpy(float)[at][known]
            rows.append(
                {
                    **{"lesion": lesion, "layer": layer, "labels": int(known.sum())},
                    "other": float(other.mean()) if known.any() else np.nan,
                    **{"specificity": mean, "low": low, "high": high},
                }
            )
        return pd.DataFrame(rows)

    def verdict(self) -> str:
        """The outcome in one sentence."""
        parts = []
        for row in self.summary().to_dict("records"):
            where = "" if row["layer"] < 0 else f" after layer {row['layer']}"
            if row["labels"]:
                parts.append(
                    f"{row['lesion']}{where} {row['specificity']:.2f} ({row['labels']} tags)"
                )
        return f"Specificity at equal damage to the own tag: {', '.join(parts) or 'unknown'}."

    def __repr__(self) -> str:
        return f"EqualDamage of {self.origin.model}: {self.verdict()}"

    def _lesions(self) -> list[tuple[str, int]]:
        pairs = self.table[["lesion", "layer"]].itertuples(index=False, name=None)
        return [(str(lesion), int(layer)) for lesion, layer in dict.fromkeys(pairs)]

    def _points(self, label: str, lesion: str, layer: int) -> Float64[np.ndarray, "dose three"]:
        """Dose, own and other rise, from dose 0 on."""
        t = self.table
        at = np.logical_and.reduce(
            [t["label"] == label, t["lesion"] == lesion, t["layer"] == layer]
        )
        points = t.loc[at, ["dose", "own", "other"]].to_numpy(float)
        return np.concatenate([np.zeros((1, 3)), points[np.argsort(points[:, 0])]])


def _reached(points: Float64[np.ndarray, "dose three"], budget: float) -> tuple[float, float]:
    """Dose and other rise where the own rise first reaches the budget, by straight lines; NaN if never."""
    if budget <= 0:
        return np.nan, np.nan
    for before, after in itertools.pairwise(points):
        if after[1] >= budget:
            part = (budget - before[1]) / (after[1] - before[1])
            dose, _, other = before + part * (after - before)
            return float(dose), float(other)
    return np.nan, np.nan


def equal_damage(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    lexicon: Lexicon | None = None,
    layers: Sequence[int] | None = None,
    doses: Sequence[float] = DOSES,
    sentences: int | None = SHAM_SENTENCES,
    labels: Sequence[str] | None = None,
    max_words: int = LAYER_WORDS,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    allow_other_model: bool = False,
) -> EqualDamage:
    """Lesions each label's key neurons and its directions after some layers, at several doses.

    `layers` are by default the one after a third of the model, after two thirds, and the last. Directions come
    from `max_words` words of `train`, losses from `sentences` held-out sentences (None: all), drawn as those of
    `lesion_study`'s shams. For every label and dose one lesion, and two for every layer.
    Raises GrammarLensError for a layer that does not exist and as `lesion_study`.
    """
    require_same_model(model, keys, allow_other_model=allow_other_model)
    n = keys.n_layers
    chosen = sorted({n // 3, 2 * n // 3, n - 1}) if layers is None else list(layers)
    for layer in chosen:
        require_layer(layer, n, keys.origin.model)
    corpus, battery, cut = beside_training_words(
        model, train, fresh, keys, lexicon, labels, seed, token_budget, show_progress
    )
    codes = battery.sham_codes(sentences)
    position = keys.origin.position
    sums = stream_sums(model, corpus, position, max_words, seed, token_budget, show_progress)
    sets: list[tuple[str, str, int, Neurons | Directions]] = [
        (label, NEURONS, -1, keys[label]) for label in cut
    ]
    for layer in chosen:
        means, centre, covariance = stream_statistics(sums[layer])
        for label in cut:
            gap = means[keys.labels.index(label)] - centre
            one = directions(label, gap[None], layer=layer, mean=centre)
            sets += [(label, MEANS, layer, one)]
            sets += [(label, LEACE, layer, eraser(label, gap, centre, covariance, layer))]
    points = [(*of, dose) for of in sets for dose in doses]
    conditions = [
        Condition(f"{i}", 1, units, Ablation("mean", dose))
        for i, (*_, units, dose) in enumerate(points)
    ]
    outcomes = battery.run(conditions, codes=codes, what="lesioning, neurons and directions")
    rows = []
    for (label, lesion, layer, _, dose), rise in zip(
        points, label_rises(outcomes, cut), strict=True
    ):
        i = cut.index(label)
        of = {"label": label, "lesion": lesion, "layer": layer, "dose": dose}
        rows.append({**of, "own": float(rise[i]), "other": float(np.delete(rise, i).mean())})
    return EqualDamage(
        labels=cut,
        table=pd.DataFrame(rows),
        n_words=int((codes >= 0).sum()),
        n_sentences=len(np.unique(battery.corpus.alignment.sentence[codes >= 0])),
        origin=corpus.origin(position, "resid_post"),
    )


ROUNDING = 1e-6
"""Share of the largest eigenvalue under which others are rounding of activations in float32."""


def eraser(
    label: str,
    gap: Float64[np.ndarray, " unit"],
    centre: Float64[np.ndarray, " unit"],
    covariance: Float64[np.ndarray, "unit unit"],
    layer: int,
) -> Directions:
    """LEACE of one label against the rest, as a lesion: reads S+ gap / (gap' S+ gap), writes gap.

    Source: Belrose et al. (2023), theorem 4.3, with one class beside the rest, whose cross-covariance with
    the stream is a multiple of `gap`, the label's mean less the mean of all. The inverse is that of the
    correlations, so that a dimension of massive activations does not push others under the rounding
    of activations in float32; what varies less than that, as where words are few, is left alone.
    """
    sd = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    inverse = np.linalg.pinv(covariance / np.outer(sd, sd), rcond=ROUNDING, hermitian=True)
    reads = inverse @ (gap / sd) / sd
    size = float(gap @ reads)
    reads = reads / size if size > 0 else np.zeros_like(gap)
    return Directions(label, "resid_post", layer, reads[None], centre, gap[None].copy())
