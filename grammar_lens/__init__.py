"""Lesion studies of language models: which neurons carry each part of speech, and do they matter.

Names load when they are first used, so `import grammar_lens` is quick and brings in no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from grammar_lens import figures
    from grammar_lens.dissociation import LesionStudy
    from grammar_lens.lesions import lesion
    from grammar_lens.lexicon import Lexicon
    from grammar_lens.model import load_model
    from grammar_lens.moments import Moments
    from grammar_lens.probing import ProbeResult
    from grammar_lens.run import load_run
    from grammar_lens.selection import KeyNeurons, Neurons, select
    from grammar_lens.selectivity import Scores, score
    from grammar_lens.study import collect, fit_lexicon, lesion_study, probe
    from grammar_lens.treebank import Treebank, load_treebank

_HOME = {
    "KeyNeurons": "selection",
    "LesionStudy": "dissociation",
    "Lexicon": "lexicon",
    "Moments": "moments",
    "Neurons": "selection",
    "ProbeResult": "probing",
    "Scores": "selectivity",
    "Treebank": "treebank",
    "collect": "study",
    "fit_lexicon": "study",
    "lesion": "lesions",
    "lesion_study": "study",
    "load_model": "model",
    "load_run": "run",
    "load_treebank": "treebank",
    "probe": "study",
    "score": "selectivity",
    "select": "selection",
}
_SUBMODULES = (
    "activations",
    "alignment",
    "dissociation",
    "figures",
    "lesions",
    "lexicon",
    "model",
    "moments",
    "outcomes",
    "probing",
    "report",
    "run",
    "selection",
    "selectivity",
    "study",
    "subspace",
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
