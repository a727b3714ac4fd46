"""Protocols: the parts of a run that a report reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from grammar_lens.dissociation.layer_lesions import LayerLesions
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.size_curves import SizeCurves
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.examples import Examples
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.phenomena.result import PhenomenaStudy
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.probing.layer_results import LayerProbes
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.result import Scores


@runtime_checkable
class ResultsLike(Protocol):
    """Results at one position, such as `grammar_lens.runs.store.stored.Results`."""

    @property
    def position(self) -> str: ...
    @property
    def scores(self) -> Scores: ...
    @property
    def keys(self) -> KeyNeurons: ...
    @property
    def controls(self) -> SelectionControls | None: ...
    @property
    def probe(self) -> ProbeResult | None: ...


@runtime_checkable
class RunLike(Protocol):
    """A run, such as `grammar_lens.runs.store.stored.StoredRun`."""

    @property
    def path(self) -> Path: ...
    @property
    def record(self) -> dict[str, Any]: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    @property
    def positions(self) -> tuple[str, ...]: ...
    @property
    def study(self) -> LesionStudy | None: ...
    @property
    def phenomena(self) -> PhenomenaStudy | None: ...
    @property
    def course(self) -> CourseSummary | None: ...
    @property
    def layers(self) -> LayerProbes | None: ...
    @property
    def layer_table(self) -> pd.DataFrame | None: ...
    @property
    def layer_lesions(self) -> LayerLesions | None: ...
    @property
    def size_curves(self) -> SizeCurves | None: ...
    @property
    def curves(self) -> Mapping[str, pd.DataFrame]: ...
    @property
    def examples(self) -> Mapping[str, Examples]: ...
    def has(self, step: str) -> bool: ...
    def at(self, position: str) -> ResultsLike: ...
    def evidence(self, position: str) -> Evidence: ...
    def residual_scores(self, position: str) -> Scores | None: ...


def results_of(run: RunLike) -> list[ResultsLike]:
    """Results at each position; empty before the neurons have been chosen."""
    if not (run.has("collect") and run.has("score") and run.has("select")):
        return []
    return [run.at(position) for position in run.positions]
