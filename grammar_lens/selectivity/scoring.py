"""`score`: the one function that computes every score of the registry."""

from dataclasses import replace

import numpy as np

from grammar_lens.errors import GrammarLensError, require_one_of
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity import from_moments
from grammar_lens.selectivity.evidence import Attribution, Evidence, Sample
from grammar_lens.selectivity.registry import SCORES, Method
from grammar_lens.selectivity.result import Scores

_HOW_TO_GET = {
    "sample": "a sample of activations: gl.collect(..., sample=100)",
    "attribution": "attributions: gl.attribute(...)",
    "relevance": "relevance: gl.attribute(..., relevance=True)",
    "integrated_gradients": 'integrated gradients: gl.attribute(..., kind="integrated_gradients")',
    "output_contrast": "the contrast of outgoing weights: gl.output_contrast(model, lexicon.count)",
}


def score(evidence: Moments | Evidence, method: str = "correlation") -> Scores:
    """Scores of every unit for every label.

    Raises GrammarLensError for an unknown method, for labels with fewer than 2 words, when the evidence
    lacks what the method needs, and when its parts are of different labels or units.
    """
    require_one_of("score", method, SCORES)
    if isinstance(evidence, Moments):
        evidence = Evidence(evidence)
    moments, chosen = evidence.moments, SCORES[method]
    _require_words(moments)
    _require_evidence(evidence, chosen)
    values, p = chosen.compute(evidence)
    effect = values if method == "cohens_d" else from_moments.cohens_d(evidence)[0]
    return Scores(
        method=method,
        labels=moments.labels,
        count=moments.count,
        values=values,
        effect=effect,
        p=p,
        units=moments.units(),
        origin=moments.origin,
        best=chosen.best,
        neutral=chosen.neutral,
        null=evidence.null(method),
    )


def _require_words(moments: Moments) -> None:
    few = {x: int(n) for x, n in zip(moments.labels, moments.count, strict=True) if n < 2}
    if few:
        listed = ", ".join(f"{label!r} has {n}" for label, n in few.items())
        raise GrammarLensError(
            f"labels with fewer than 2 words cannot be scored: {listed}; "
            "use a larger treebank or leave these labels out (--labels)"
        )
    if len(moments.labels) < 2:
        raise GrammarLensError(
            f"only the label {', '.join(map(repr, moments.labels))} is there: a score compares a label with the rest"
        )


def _require_evidence(evidence: Evidence, method: Method) -> None:
    """Raises GrammarLensError unless the method's evidence is there and fits the moments."""
    if method.needs == "moments":
        return
    part = getattr(evidence, method.needs)
    if part is None:
        raise GrammarLensError(f"score {method.name!r} needs {_HOW_TO_GET[method.needs]}")
    moments, what = evidence.moments, method.needs.replace("_", " ")
    if isinstance(part, Sample | Attribution) and part.labels != moments.labels:
        raise GrammarLensError(
            f"the {what} has the labels {', '.join(part.labels)} and the moments have "
            f"{', '.join(moments.labels)}: collect both with the same labels, in the same order"
        )
    if isinstance(part, Attribution) and part.relevance != (method.needs == "relevance"):
        raise GrammarLensError(
            f"the {what} was made by {'relevance propagation' if part.relevance else 'gradients'}: "
            f"score {method.name!r} needs {_HOW_TO_GET[method.needs]}"
        )
    if isinstance(part, Sample):
        _require_sample(part, moments)
        shape = (len(part.labels), *part.values.shape[1:])
    else:
        shape = part.mean.shape if isinstance(part, Attribution) else part.shape
    if shape != moments.mean.shape:
        raise GrammarLensError(
            f"the {what} is of labels x layers x units {shape} and the moments are of "
            f"{moments.mean.shape}: collect both at the same site of the same model"
        )


def _require_sample(sample: Sample, moments: Moments) -> None:
    """Raises GrammarLensError for a sample read elsewhere, or without words of some label."""
    expected, actual = (replace(x.origin, treebank="") for x in (moments, sample))
    if expected != actual:
        raise GrammarLensError(
            f"the sample is of {actual} and the moments are of {expected}: collect both in one pass"
        )
    sampled = np.bincount(sample.classes, minlength=len(sample.labels))
    none = [x for x, n in zip(sample.labels, sampled, strict=True) if n == 0]
    if none:
        raise GrammarLensError(
            f"the sample has no words of {', '.join(none)}: collect a sample from all labels that "
            "are to be scored, or leave these labels out (--labels)"
        )
