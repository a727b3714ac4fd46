"""Lesions layer by layer: of key neurons, of the whole layer, and of the labels' directions after it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from grammar_lens.dissociation.changes import changes
from grammar_lens.dissociation.matrices import LEAST_LABELS, chance, diagonal_score
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.shams import output_ratio
from grammar_lens.dissociation.verdicts import least
from grammar_lens.lesions.directions import Directions, directions
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.neurons.neurons import KeyNeurons, all_neurons
from grammar_lens.passes.moments import Moments
from grammar_lens.probing.evaluation import ProbeResult

WHOLE, SUBSPACE = "whole layer", "directions"
"""The lesions of a layer that belong to no label."""


def layer_row(
    layer: int, strongest: pd.Series, probe: ProbeResult, study: LesionStudy
) -> dict[str, Any]:
    """A layer's strongest neuron, its probe and its lesions, with the baselines of each beside it."""
    shams = replace(study, matrix=study.sham_mean)
    return {
        "layer": layer,
        "best_label": strongest.label,
        "best_neuron": strongest.best_neuron,
        "best_score": strongest.best_score,
        "n_neurons": probe.n_neurons,
        "accuracy": probe.accuracy,
        "random_accuracy": probe.random_accuracy,
        "majority_accuracy": probe.majority_accuracy,
        "word_baseline_accuracy": probe.word_baseline_accuracy,
        "control_accuracy": probe.control_accuracy,
        "diagonal": study.diagonal_mean,
        "off_diagonal": study.off_diagonal_mean,
        "sham_diagonal": shams.diagonal_mean,
        "sham_off_diagonal": shams.off_diagonal_mean,
        "sham_output_ratio": study.output_ratio.min(),
        "p": study.p_value,
    }


def stacked_by_layer(studies: Sequence[LesionStudy]) -> pd.DataFrame:
    """A row per layer, lesion and label."""
    frames = [study.to_frame() for study in studies]
    for layer, frame in enumerate(frames):
        frame.insert(0, "layer", layer)
    return pd.concat(frames, ignore_index=True)


def label_directions(
    stream: Moments, cut: Sequence[str], layer: int, n_random: int, rng: np.random.Generator
) -> list[Directions]:
    """The span of the differences of the labels' means after a layer, and random ones as large."""
    mean = stream.pooled()[0][layer]
    means = stream.only(cut).mean[:, layer]
    real = directions(SUBSPACE, means[1:] - means[0], layer=layer, mean=mean)
    draws = [rng.standard_normal(real.basis.shape) for _ in range(n_random)]
    return [real, *(directions(SUBSPACE, draw, layer=layer, mean=mean) for draw in draws)]


def lesions_of(
    layer: int, replicates: Sequence[KeyNeurons], spans: Sequence[Directions]
) -> list[Condition]:
    """The lesions of one layer: each label's neurons and their shams, the whole layer, directions."""
    real = replicates[0]
    return [
        *(
            Condition(label, number, keys[label].in_layer(layer), Ablation())
            for number, keys in enumerate(replicates)
            for label in real
        ),
        Condition(WHOLE, 0, all_neurons(real, [layer]), kind="rest"),
        *(Condition(SUBSPACE, number, span, kind="rest") for number, span in enumerate(spans)),
    ]


def lesions_of_layer(
    layer: int, outcomes: Outcomes, keys: KeyNeurons, n_directions: int
) -> pd.DataFrame:
    """A row per lesion of a layer and label: rise of the tag loss (nats), and the shams' mean."""
    labels = keys.labels
    change = changes(outcomes.only(Ablation()), labels)
    units = {label: len(keys[label]) for label in labels}
    costs = dict(zip(labels, change.matrix(), strict=True))
    shams = dict(zip(labels, _mean(change.sham_matrices()), strict=True))
    first = outcomes.row(SUBSPACE, 0)
    rest = [outcomes.row(WHOLE, 0), *range(first, len(outcomes.tag_loss))]
    rise = outcomes.tag_loss[rest] - outcomes.tag_loss[0]
    whole, real, *random = change.means(rise[:, change.place])
    costs |= {WHOLE: whole, SUBSPACE: real}
    units |= {WHOLE: keys.n_units, SUBSPACE: n_directions}
    nothing = np.full(len(labels), np.nan)
    shams |= {WHOLE: nothing, SUBSPACE: _mean(np.array(random).reshape(-1, len(labels)))}
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "layer": layer,
                    "lesion": lesion,
                    "units": units[lesion],
                    "label": labels,
                    "tag_loss_change": costs[lesion],
                    "sham_mean": shams[lesion],
                    "n_words": change.n_words,
                }
            )
            for lesion in costs
        ],
        ignore_index=True,
    )


def lesion_row(
    layer: int,
    outcomes: Outcomes,
    keys: KeyNeurons,
    output: np.ndarray,
    lesions: pd.DataFrame,
) -> dict[str, Any]:
    """The numbers of one layer, means over labels."""
    sets = lesions.query("lesion not in [@WHOLE, @SUBSPACE]")
    own, other = sets.query("lesion == label"), sets.query("lesion != label")
    whole, spans = lesions.query("lesion == @WHOLE"), lesions.query("lesion == @SUBSPACE")
    cut = outcomes.only(Ablation())
    return {
        "layer": layer,
        "key_neurons": int(own.units.sum()),
        "own": own.tag_loss_change.mean(),
        "other": other.tag_loss_change.mean(),
        "sham_own": own.sham_mean.mean(),
        "sham_other": other.sham_mean.mean(),
        "p": _p_of_layer(cut, keys),
        "output_ratio": least(output_ratio(cut, keys, output)),
        "whole": whole.tag_loss_change.mean(),
        "n_directions": int(spans.units.iloc[0]),
        "directions": spans.tag_loss_change.mean(),
        "random_directions": spans.sham_mean.mean(),
    }


def _mean(replicates: np.ndarray) -> np.ndarray:
    """The mean over replicates; NaN without any."""
    if len(replicates):
        return replicates.mean(0)
    return np.full(replicates.shape[1:], np.nan)


def _p_of_layer(outcomes: Outcomes, keys: KeyNeurons) -> float | None:
    """The p of S* over the labels with key neurons in the layer; None for fewer than three."""
    present = [i for i, label in enumerate(keys) if len(keys[label])]
    if len(present) < LEAST_LABELS:
        return None
    change = changes(outcomes, keys.labels)
    square = np.ix_(present, present)
    shams = np.array([diagonal_score(matrix[square]) for matrix in change.sham_matrices()])
    return chance(diagonal_score(change.matrix()[square]), shams)
