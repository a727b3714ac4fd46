"""Results as plotly figures: each from a result object in one call, all in one style."""

from grammar_lens.figures.checks import bias_and_auroc, calibration, redundancy, sufficiency
from grammar_lens.figures.course import time_course
from grammar_lens.figures.damage import damage_matched, lesion_matrix, lesion_null
from grammar_lens.figures.doses import dose_response, value_ladder
from grammar_lens.figures.export import for_paper, write_image
from grammar_lens.figures.heatmaps import layer_neuron_heatmap, layer_neuron_heatmaps
from grammar_lens.figures.losses import loss_split
from grammar_lens.figures.neurons import layer_profile, overlap_matrix
from grammar_lens.figures.next_word import next_word
from grammar_lens.figures.one_neuron import activations_by_label, neuron_scores
from grammar_lens.figures.passages import concordance
from grammar_lens.figures.phenomena import phenomena_matrix
from grammar_lens.figures.probes import accuracy_against_k, confusion, probe_accuracy
from grammar_lens.figures.residual import layer_by_layer, layer_lesions
from grammar_lens.figures.several import (
    agreement_matrix,
    depth_profiles,
    lesion_matrices,
    own_damage,
    probe_accuracies,
    shared_neurons,
)
from grammar_lens.figures.sizes import lesion_curves
from grammar_lens.figures.trust import grammar_or_vocabulary, selection_controls

__all__ = [
    "accuracy_against_k",
    "activations_by_label",
    "agreement_matrix",
    "bias_and_auroc",
    "calibration",
    "concordance",
    "confusion",
    "damage_matched",
    "depth_profiles",
    "dose_response",
    "for_paper",
    "grammar_or_vocabulary",
    "layer_by_layer",
    "layer_lesions",
    "layer_neuron_heatmap",
    "layer_neuron_heatmaps",
    "layer_profile",
    "lesion_curves",
    "lesion_matrices",
    "lesion_matrix",
    "lesion_null",
    "loss_split",
    "neuron_scores",
    "next_word",
    "overlap_matrix",
    "own_damage",
    "phenomena_matrix",
    "probe_accuracies",
    "probe_accuracy",
    "redundancy",
    "selection_controls",
    "shared_neurons",
    "sufficiency",
    "time_course",
    "value_ladder",
    "write_image",
]
