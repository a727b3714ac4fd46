"""Lesion studies of language models: which neurons carry each part of speech, and do they matter.

Names load when they are first used, so `import grammar_lens` is quick and brings in no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from grammar_lens import figures
    from grammar_lens.directions import Directions
    from grammar_lens.dissociation import LesionStudy
    from grammar_lens.evidence import Attribution, Evidence
    from grammar_lens.examples import Examples
    from grammar_lens.inspection import NeuronView
    from grammar_lens.interchange import export_run, read_neurons
    from grammar_lens.lesions import lesion
    from grammar_lens.lexicon import Lexicon
    from grammar_lens.model import load_model, output_contrast
    from grammar_lens.moments import Moments
    from grammar_lens.outcomes import Manner
    from grammar_lens.probing import ProbeResult
    from grammar_lens.run import load_run
    from grammar_lens.selection import KeyNeurons, Neurons, all_neurons, select
    from grammar_lens.selectivity import Scores, score
    from grammar_lens.study import (
        attribute,
        calibrate,
        collect,
        collect_labels,
        donors,
        erasure,
        examples_of,
        find_again,
        fit_lexicon,
        key_subspaces,
        lesion_study,
        probe,
        probe_curve,
        probe_layers,
        time_course,
    )
    from grammar_lens.timecourse import TimeCourse
    from grammar_lens.transformer import KeyNeuronFeatures
    from grammar_lens.treebank import Treebank, load_treebank

_HOME = {
    "Attribution": "evidence",
    "Directions": "directions",
    "Evidence": "evidence",
    "Examples": "examples",
    "KeyNeuronFeatures": "transformer",
    "KeyNeurons": "selection",
    "LesionStudy": "dissociation",
    "Lexicon": "lexicon",
    "Manner": "outcomes",
    "Moments": "moments",
    "NeuronView": "inspection",
    "Neurons": "selection",
    "ProbeResult": "probing",
    "Scores": "selectivity",
    "TimeCourse": "timecourse",
    "Treebank": "treebank",
    "all_neurons": "selection",
    "attribute": "study",
    "calibrate": "study",
    "collect": "study",
    "collect_labels": "study",
    "donors": "study",
    "erasure": "study",
    "examples_of": "study",
    "export_run": "interchange",
    "find_again": "study",
    "fit_lexicon": "study",
    "key_subspaces": "study",
    "lesion": "lesions",
    "lesion_study": "study",
    "load_model": "model",
    "load_run": "run",
    "load_treebank": "treebank",
    "output_contrast": "model",
    "probe": "study",
    "probe_curve": "study",
    "probe_layers": "study",
    "read_neurons": "interchange",
    "score": "selectivity",
    "select": "selection",
    "time_course": "study",
}
_SUBMODULES = (
    "activations",
    "agreement",
    "alignment",
    "attribution",
    "certification",
    "contrasts",
    "controls",
    "directions",
    "dissociation",
    "evidence",
    "examples",
    "exchange",
    "explorer",
    "figures",
    "generation",
    "inspection",
    "interchange",
    "lesions",
    "lexicon",
    "model",
    "moments",
    "outcomes",
    "planted",
    "probing",
    "report",
    "run",
    "selection",
    "selectivity",
    "study",
    "subspace",
    "sums",
    "timecourse",
    "transformer",
    "treebank",
)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"grammar_lens.{_HOME[name]}"), name)
    if name in _SUBMODULES:
        return import_module(f"grammar_lens.{name}")
    raise AttributeError(f"module 'grammar_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_SUBMODULES})
