"""A stored run: every result in its directory, each loaded on first use."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from grammar_lens.display import Shown
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import NotMeasuredError
from grammar_lens.files import read_json
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.examples import Examples
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.passes.moments import Moments
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.probing.fitted import FittedProbe
from grammar_lens.probing.layer_results import LayerProbes
from grammar_lens.probing.layer_table import layer_table
from grammar_lens.runs.settings import renamed
from grammar_lens.runs.store.arrays import (
    read_attributions,
    read_evidence,
    read_fitted,
    read_scores,
)
from grammar_lens.runs.store.examples import read_examples
from grammar_lens.runs.store.results import (
    read_controls,
    read_course,
    read_curves,
    read_keys,
    read_layers,
    read_probe,
    read_study,
)
from grammar_lens.selectivity.collecting import Collected
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score

STEPS = {
    "collect": "moments.safetensors",
    "score": "scores.safetensors",
    "select": "key_neurons.csv",
    "examples": "examples.json",
    "course": "time_course.json",
    "layers": "layers.json",
    "probe": "probe.json",
    "lesion": "lesion_matrix.json",
    "report": "report.html",
}
"""The steps in their order, each with the file that it writes last."""
_OF_STEP = {
    "collect": ("moments", "attributions", "_layer_table"),
    "score": ("attributions", "_scores", "scores", "_keys", "keys"),
    "select": ("_keys", "keys", "_controls", "examples", "_layer_table"),
    "examples": ("examples",),
    "layers": ("_layers", "_layer_table"),
    "probe": ("_probes",),
    "lesion": ("_study",),
}
"""Cached results that each step makes outdated."""
ATTRIBUTIONS = "attributions.safetensors"
SHARDS = "shards"
"""The folder of what jobs of a job array have collected, before there is a run."""
CONTROLS = "controls.json"
CURVES = "probe_curve.csv"
FITTED = "probe.safetensors"
LAYERS = "layers.csv"


Part = TypeVar("Part", bound=Shown)


class Tables(dict[str, Part], Shown):
    """Results by name that are shown, and put into one table, together."""

    def __init__(self, by: str, parts: Mapping[str, Part]) -> None:
        super().__init__(parts)
        self.by = by

    def to_frame(self) -> pd.DataFrame:
        """The rows of every result, with its name as the first column."""
        frames = {name: part.to_frame() for name, part in self.items()}  # pyright: ignore[reportAttributeAccessIssue]
        named = [frame.assign(**{self.by: name}) for name, frame in frames.items()]
        if not named:
            return pd.DataFrame({self.by: []})
        table = pd.concat(named, ignore_index=True)
        table.insert(0, self.by, table.pop(self.by))
        return table

    def _title(self) -> str:
        return "; ".join(map(repr, self.values())) or "none"

    def _tables(self) -> list[pd.DataFrame]:
        return [self.to_frame()] if self else []


@dataclass(frozen=True)
class Results:
    """Results of a run at one position."""

    position: str
    moments: dict[str, Moments]
    scores: Scores
    keys: KeyNeurons
    controls: SelectionControls | None
    probe: ProbeResult | None

    def __repr__(self) -> str:
        return f"Results at {self.position!r}: {self.scores!r}"

    def _repr_html_(self) -> str:
        parts = (self.scores, self.keys, self.controls, self.probe)
        return "".join(part._repr_html_() for part in parts if part is not None)


class StoredRun:
    """The stored results of a run directory, each loaded when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_record()

    @property
    def config(self) -> dict[str, Any]:
        return self.record["config"]

    @property
    def positions(self) -> tuple[str, ...]:
        return tuple(self.config["positions"])

    @property
    def main_position(self) -> str:
        return "next" if "next" in self.positions else self.positions[0]

    def reload(self, step: str) -> None:
        """Reads the record again; results of a step that was just done are read on demand."""
        self._read_record()
        for name in _OF_STEP.get(step, ()):
            self.__dict__.pop(name, None)

    def _read_record(self) -> None:
        self.record: dict[str, Any] = read_json(self.path / "run.json")
        self.record |= {"config": renamed(self.record.get("config", {}))}

    def has(self, step: str) -> bool:
        """Whether a step has been done."""
        return (self.path / STEPS[step]).is_file()

    def require(self, step: str) -> Path:
        """The file of a step; a NotMeasuredError says which command makes it when it is not there."""
        path = self.path / STEPS[step]
        if not path.is_file():
            raise NotMeasuredError(
                f"{self.path} has no {path.name} yet: first `grammar-lens {step} {self.path}`"
            )
        return path

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers of summary.json; empty before the report step."""
        path = self.path / "summary.json"
        return read_json(path) if path.is_file() else {}

    @cached_property
    def moments(self) -> Collected:
        return read_evidence(self.require("collect"))

    @cached_property
    def attributions(self) -> Tables[Attribution]:
        """Attributions by name ("attribution", "integrated_gradients"); those the scores needed."""
        path = self.path / ATTRIBUTIONS
        return Tables("attribution", read_attributions(path) if path.is_file() else {})

    def evidence(
        self, position: str | None = None, attributions: Mapping[str, Attribution] | None = None
    ) -> Evidence:
        """Everything known of the neurons at one position, by default that of the lesion study.

        `attributions` are by default those that the run has stored.
        """
        where = position or self.main_position
        evidence = self.moments.evidence("neuron", where)
        if where != "next":  # attributions are of the word to come
            return evidence
        return replace(evidence, **(self.attributions if attributions is None else attributions))

    @cached_property
    def _scores(self) -> dict[str, Scores]:
        return read_scores(self.require("score"), self.moments, self.attributions)

    @cached_property
    def _keys(self) -> dict[str, KeyNeurons]:
        rules = {p: c.rule for p, c in self._controls.items()}
        return read_keys(self.require("select"), self._scores, rules)

    @cached_property
    def _controls(self) -> dict[str, SelectionControls]:
        path = self.path / CONTROLS
        return read_controls(path) if path.is_file() else {}

    @cached_property
    def _probes(self) -> dict[str, ProbeResult]:
        stored = read_json(self.require("probe"))
        return {name: read_probe(data) for name, data in stored.items()}

    def fitted_at(self, position: str) -> FittedProbe:
        """The fitted probe of one position, to read the labels of other words with.

        Raises NotMeasuredError where the run has none, naming the command that makes it.
        """
        self.require("probe")
        path = self.path / FITTED
        if not path.is_file():
            raise NotMeasuredError(
                f"{self.path} has no {FITTED}, as it was made before probes were kept: first "
                f"`grammar-lens probe {self.path}`"
            )
        probes = read_fitted(path)
        if position not in probes:
            raise NotMeasuredError(
                f"{self.path} has no probe at {position!r}, only at {', '.join(probes)}: make a run "
                "with `grammar-lens run --position both`"
            )
        return probes[position]

    @cached_property
    def examples(self) -> Tables[Examples]:
        """Examples of the first key neurons by position; empty if not done."""
        path = self.path / STEPS["examples"]
        return Tables("position", read_examples(path) if path.is_file() else {})

    @property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Accuracy against k by position, a row per ranking and k; empty if not done."""
        path = self.path / CURVES
        return read_curves(path) if path.is_file() else {}

    @property
    def course(self) -> CourseSummary | None:
        """The time course on fresh words, by layer; None if not done."""
        return read_course(self.path / STEPS["course"]) if self.has("course") else None

    @property
    def layers(self) -> LayerProbes | None:
        """Probes on the residual stream of every layer; None if not done."""
        return self._layers

    @cached_property
    def _layers(self) -> LayerProbes | None:
        return read_layers(self.path / STEPS["layers"]) if self.has("layers") else None

    @property
    def layer_table(self) -> pd.DataFrame | None:
        """A row per layer: its probes, its key neurons, and how selective its units are.

        Key neurons and selectivity are those of the lesion study's position. None before the layers
        have been probed and the neurons chosen.
        """
        return self._layer_table

    @cached_property
    def _layer_table(self) -> pd.DataFrame | None:
        if self.layers is None or not self.has("select"):
            return None
        where, collected = self.main_position, self.moments
        return layer_table(
            self.layers,
            self.keys_at(where),
            collected.evidence("neuron", where),
            self.residual_evidence(where),
            self.config.get("alpha", 0.05),
        )

    def residual_evidence(self, position: str) -> Evidence | None:
        """Everything collected of the residual stream at a position; None if it was not read."""
        if not self.has("collect"):
            return None
        there = self.moments.at(position)
        return self.moments.evidence("resid_post", position) if "resid_post" in there else None

    def residual_scores(self, position: str) -> Scores | None:
        """Correlation of every dimension of the residual stream with every label, with its null."""
        evidence = self.residual_evidence(position)
        return None if evidence is None else score(evidence, "correlation")

    def at(self, position: str) -> Results:
        """Everything found at "word" or at "next"."""
        if position not in self.positions:
            raise NotMeasuredError(
                f"{self.path} did not read {position!r}: it has {self.positions}"
            )
        probe = self._probes.get(position) if self.has("probe") else None
        return Results(
            position,
            self.moments.at(position),
            self._scores[position],
            self._keys[position],
            self._controls.get(position),
            probe,
        )

    def scores_at(self, position: str) -> Scores:
        """The scores at one position."""
        return self._scores[position]

    def keys_at(self, position: str) -> KeyNeurons:
        """The key neurons at one position."""
        return self._keys[position]

    def controls_at(self, position: str) -> SelectionControls | None:
        """Controls of the choice at one position; None if they were not measured."""
        return self._controls.get(position)

    def probe_at(self, position: str) -> ProbeResult:
        """The probe at one position."""
        return self._probes[position]

    # IPython completes `run.keys["` where `keys` is no property
    @cached_property
    def scores(self) -> Scores:
        """The scores at the position of the lesion study; `scores_at` has those of the other."""
        return self._scores[self.main_position]

    @cached_property
    def keys(self) -> KeyNeurons:
        """The key neurons at the position of the lesion study; `keys_at` has those of the other."""
        return self._keys[self.main_position]

    @property
    def probe(self) -> ProbeResult:
        """The probe at the position of the lesion study, as `keys` are; `probe_at` has the other."""
        return self._probes[self.main_position]

    @property
    def study(self) -> LesionStudy | None:
        """The lesion study, without its outcomes word by word (`lesions`); None if not done."""
        return self._study

    @cached_property
    def _study(self) -> LesionStudy | None:
        if not self.has("lesion"):
            return None
        return read_study(read_json(self.path / STEPS["lesion"]))

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """Losses of every scored word, intact and under every lesion and sham."""
        path = self.path / "lesions.parquet"
        if not path.is_file():
            raise NotMeasuredError(
                f"{self.path} has no lesions.parquet: first `grammar-lens lesion`"
            )
        return pd.read_parquet(path)
