"""Moments, nulls, samples, attributions, scores and fitted probes as safetensors.

Every array of a result is stored under the result's path and the field's name; what is not an array
stands in the file's metadata.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import read_tensors, save_tensors
from grammar_lens.passes.moments import Moments
from grammar_lens.probing.fitted import FittedProbe
from grammar_lens.selectivity.collecting import Collected
from grammar_lens.selectivity.contrasts import Adjusted
from grammar_lens.selectivity.evidence import Attribution, Evidence, Sample
from grammar_lens.selectivity.permutation_null import Null
from grammar_lens.selectivity.result import Scores

Arrays = dict[str, np.ndarray]


def save_collected(path: Path, collected: Collected) -> None:
    """Writes everything a pass collected, by position and site."""
    arrays: Arrays = {}
    about: dict[str, Any] = {}
    for position, sites in collected.by_position.items():
        for site in sites:
            evidence = collected.evidence(site, position)
            _put(f"{position}/{site}", evidence, arrays, about)
    save_tensors(path, arrays, {"collected": about, "n_tokens": collected.n_tokens})


def _put(name: str, evidence: Evidence, arrays: Arrays, about: dict[str, Any]) -> None:
    about[name] = {"moments": _split(f"{name}/moments", evidence.moments, arrays)}
    for i, half in enumerate(evidence.halves or ()):
        about[name][f"half{i}"] = _split(f"{name}/half{i}", half, arrays)
    if evidence.sample is not None:
        about[name]["sample"] = _split(f"{name}/sample", evidence.sample, arrays)
    if evidence.adjusted is not None:
        about[name]["adjusted"] = _split(f"{name}/adjusted", evidence.adjusted, arrays)
    about[name]["nulls"] = _put_nulls(name, evidence.nulls, arrays)


def _put_nulls(name: str, nulls: Mapping[str, Null], arrays: Arrays) -> dict[str, Any]:
    return {m: _split(f"{name}/null/{m}", null, arrays) for m, null in nulls.items()}


def read_evidence(path: Path) -> Collected:
    """Read the files of `save_collected`."""
    arrays, metadata = read_tensors(path)
    by_position: dict[str, dict[str, Evidence]] = {}
    for name, about in metadata["collected"].items():
        position, site = name.split("/")
        halves = [_join(Moments, f"{name}/half{i}", about.get(f"half{i}"), arrays) for i in (0, 1)]
        by_position.setdefault(position, {})[site] = Evidence(
            moments=_join(Moments, f"{name}/moments", about["moments"], arrays),
            halves=None if None in halves else (halves[0], halves[1]),
            sample=_join(Sample, f"{name}/sample", about.get("sample"), arrays),
            adjusted=_join(Adjusted, f"{name}/adjusted", about.get("adjusted"), arrays),
            nulls=_nulls(name, about["nulls"], arrays),
        )
    return Collected(by_position, int(metadata["n_tokens"]))


def _nulls(name: str, about: Mapping[str, Any], arrays: Arrays) -> dict[str, Null]:
    for method in about:
        if arrays[f"{name}/null/{method}/tail"].ndim == 1:
            raise GrammarLensError(
                "this run's nulls were stored by an earlier version, over all labels together: make the "
                "run again with `grammar-lens run --out` another directory"
            )
    return {m: _join(Null, f"{name}/null/{m}", a, arrays) for m, a in about.items()}


def save_attributions(path: Path, attributions: Mapping[str, Attribution]) -> None:
    """Writes attributions by the evidence they are: "attribution", "relevance", "integrated_gradients"."""
    arrays: Arrays = {}
    about: dict[str, Any] = {}
    for name, attribution in attributions.items():
        about[name] = {"whole": _split(name, attribution, arrays)}
        about[name]["nulls"] = _put_nulls(name, attribution.nulls, arrays)
        for i, half in enumerate(attribution.halves or ()):
            about[name][f"half{i}"] = _split(f"{name}/half{i}", half, arrays)
    save_tensors(path, arrays, {"attributions": about})


def read_attributions(path: Path) -> dict[str, Attribution]:
    """Read the files of `save_attributions`."""
    arrays, metadata = read_tensors(path)
    by_position = {}
    for name, about in metadata["attributions"].items():
        halves = [
            _join(Attribution, f"{name}/half{i}", about.get(f"half{i}"), arrays) for i in (0, 1)
        ]
        by_position[name] = dataclasses.replace(
            _join(Attribution, name, about["whole"], arrays),
            halves=None if None in halves else (halves[0], halves[1]),
            nulls=_nulls(name, about["nulls"], arrays),
        )
    return by_position


def save_scores(path: Path, scores: Mapping[str, Scores]) -> None:
    """Writes the scores of every position: values, effect sizes and, where there are some, p-values."""
    arrays: Arrays = {}
    about = {p: _split(p, s, arrays, without=("units", "null")) for p, s in scores.items()}
    save_tensors(path, arrays, {"scores": about})


def read_scores(
    path: Path, collected: Collected, attributions: Mapping[str, Attribution]
) -> dict[str, Scores]:
    """Read the files of `save_scores`, with unit statistics and nulls from the evidence."""
    arrays, metadata = read_tensors(path)
    scores = {}
    for position, about in metadata["scores"].items():
        evidence = collected.evidence(about["origin"]["site"], position)
        known = dataclasses.replace(evidence, **attributions)
        units, null = evidence.moments.units(), known.null(about["method"])
        scores[position] = _join(Scores, position, {**about, "units": units, "null": null}, arrays)
    return scores


def save_fitted(path: Path, probes: Mapping[str, FittedProbe]) -> None:
    """Writes the fitted probes of every position, so that they can tag new words."""
    arrays: Arrays = {}
    about = {position: _split(position, probe, arrays) for position, probe in probes.items()}
    save_tensors(path, arrays, {"probes": about})


def read_fitted(path: Path) -> dict[str, FittedProbe]:
    """Read the files of `save_fitted`."""
    arrays, metadata = read_tensors(path)
    return {p: _join(FittedProbe, p, about, arrays) for p, about in metadata["probes"].items()}


def _split(
    name: str, result: Any, arrays: Arrays, without: tuple[str, ...] = ("halves", "nulls")
) -> dict[str, Any]:
    """Puts a result's arrays into `arrays` and returns its other fields."""
    plain = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if field.name in without:
            continue
        if isinstance(value, np.ndarray):
            arrays[f"{name}/{field.name}"] = value
        else:
            plain[field.name] = value
    return plain


def _join(kind: Any, name: str, plain: Mapping[str, Any] | None, arrays: Arrays) -> Any:
    """A result from its arrays and its other fields; None when there is none."""
    if plain is None:
        return None
    values = dict(plain)
    for field in dataclasses.fields(kind):
        if f"{name}/{field.name}" in arrays:
            values[field.name] = arrays[f"{name}/{field.name}"]
    values["labels"] = tuple(values["labels"])
    if "origin" in values:
        values["origin"] = Origin(**values["origin"])
    return kind(**values)
