"""Lesion studies of language models: which neurons carry each part of speech, and do they matter.

Names load when they are first used, so `import grammar_lens` is quick and brings in no torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

__version__ = "0.1.0"

if _TYPE_CHECKING:
    from grammar_lens import figures
    from grammar_lens.corpus.bank import Treebank
    from grammar_lens.corpus.corpus import fit_lexicon
    from grammar_lens.corpus.lexicon import Lexicon
    from grammar_lens.corpus.sources import load_treebank
    from grammar_lens.dissociation.checks import calibrate, find_again
    from grammar_lens.dissociation.damage_budget import equal_damage
    from grammar_lens.dissociation.method_checks import calibrate_methods
    from grammar_lens.dissociation.result import LesionStudy
    from grammar_lens.dissociation.size_curves import lesion_curves
    from grammar_lens.dissociation.study import lesion_study
    from grammar_lens.errors import GrammarLensError, NotMeasuredError
    from grammar_lens.lesions.context import lesion
    from grammar_lens.lesions.directions import Directions
    from grammar_lens.lesions.next_word import next_word
    from grammar_lens.lesions.outcomes import Ablation
    from grammar_lens.lesions.prepared import donors
    from grammar_lens.lesions.read_text import read_text
    from grammar_lens.model.loading import load_model
    from grammar_lens.model.untrained import untrained_twin
    from grammar_lens.model.weights import output_contrast
    from grammar_lens.neurons.examples import Examples
    from grammar_lens.neurons.find_examples import examples_of
    from grammar_lens.neurons.neurons import KeyNeurons, Neurons, all_neurons
    from grammar_lens.neurons.own_text import activations
    from grammar_lens.neurons.selection import select
    from grammar_lens.neurons.sets import neuron_set
    from grammar_lens.neurons.subspaces import key_subspaces
    from grammar_lens.neurons.timecourse import TimeCourse, time_course
    from grammar_lens.neurons.view import NeuronView
    from grammar_lens.passes.moments import Moments
    from grammar_lens.phenomena.pairs import Pairs, load_pairs
    from grammar_lens.phenomena.result import PhenomenaStudy
    from grammar_lens.phenomena.scoring import score_pairs
    from grammar_lens.phenomena.study import phenomena_study
    from grammar_lens.probing.erasure import erasure
    from grammar_lens.probing.evaluation import ProbeResult
    from grammar_lens.probing.layer_probes import layer_probes
    from grammar_lens.probing.layer_results import LayerProbes
    from grammar_lens.probing.probes import probe, probe_curve, probe_layers
    from grammar_lens.runs.features import KeyNeuronFeatures
    from grammar_lens.runs.interchange.reading import read_neurons
    from grammar_lens.runs.interchange.writing import export_run
    from grammar_lens.runs.run import load_run
    from grammar_lens.selectivity.attribution.attribute import attribute
    from grammar_lens.selectivity.collecting import collect, collect_labels
    from grammar_lens.selectivity.evidence import Attribution, Evidence
    from grammar_lens.selectivity.result import Scores
    from grammar_lens.selectivity.scoring import score

_HOME = {
    "neuron_set": "neurons.sets",
    "activations": "neurons.own_text",
    "read_text": "lesions.read_text",
    "next_word": "lesions.next_word",
    "Attribution": "selectivity.evidence",
    "Directions": "lesions.directions",
    "Evidence": "selectivity.evidence",
    "Examples": "neurons.examples",
    "GrammarLensError": "errors",
    "KeyNeuronFeatures": "runs.features",
    "KeyNeurons": "neurons.neurons",
    "LayerProbes": "probing.layer_results",
    "LesionStudy": "dissociation.result",
    "Lexicon": "corpus.lexicon",
    "Ablation": "lesions.outcomes",
    "Moments": "passes.moments",
    "NeuronView": "neurons.view",
    "Neurons": "neurons.neurons",
    "NotMeasuredError": "errors",
    "Pairs": "phenomena.pairs",
    "PhenomenaStudy": "phenomena.result",
    "ProbeResult": "probing.evaluation",
    "Scores": "selectivity.result",
    "TimeCourse": "neurons.timecourse",
    "Treebank": "corpus.bank",
    "all_neurons": "neurons.neurons",
    "attribute": "selectivity.attribution.attribute",
    "calibrate": "dissociation.checks",
    "calibrate_methods": "dissociation.method_checks",
    "collect": "selectivity.collecting",
    "collect_labels": "selectivity.collecting",
    "donors": "lesions.prepared",
    "equal_damage": "dissociation.damage_budget",
    "erasure": "probing.erasure",
    "examples_of": "neurons.find_examples",
    "export_run": "runs.interchange.writing",
    "find_again": "dissociation.checks",
    "fit_lexicon": "corpus.corpus",
    "key_subspaces": "neurons.subspaces",
    "layer_probes": "probing.layer_probes",
    "lesion": "lesions.context",
    "lesion_curves": "dissociation.size_curves",
    "lesion_study": "dissociation.study",
    "load_model": "model.loading",
    "load_pairs": "phenomena.pairs",
    "load_run": "runs.run",
    "load_treebank": "corpus.sources",
    "output_contrast": "model.weights",
    "phenomena_study": "phenomena.study",
    "probe": "probing.probes",
    "probe_curve": "probing.probes",
    "probe_layers": "probing.probes",
    "read_neurons": "runs.interchange.reading",
    "score": "selectivity.scoring",
    "score_pairs": "phenomena.scoring",
    "select": "neurons.selection",
    "time_course": "neurons.timecourse",
    "untrained_twin": "model.untrained",
}
_SUBMODULES = (
    "certification",
    "cli",
    "corpus",
    "dissociation",
    "explorer",
    "figures",
    "generation",
    "lesions",
    "model",
    "neurons",
    "passes",
    "phenomena",
    "probing",
    "report",
    "runs",
    "selectivity",
)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(_import_module(f"grammar_lens.{_HOME[name]}"), name)
    if name in _SUBMODULES:
        return _import_module(f"grammar_lens.{name}")
    raise AttributeError(f"module 'grammar_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_HOME, *_SUBMODULES})
