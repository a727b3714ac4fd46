"""A stored run: every result in its directory, each loaded on first use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from grammar_lens.display import Shown
from grammar_lens.dissociation.layer_lesions import LayerLesions
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.size_curves import SizeCurves
from grammar_lens.errors import GrammarLensError, NotMeasuredError
from grammar_lens.files import read_json, read_sealed
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.examples import Examples
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.passes.moments import Moments
from grammar_lens.phenomena.result import PhenomenaStudy
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
    PAIRS,
    PHENOMENA_NEURONS,
    read_controls,
    read_course,
    read_curves,
    read_keys,
    read_layer_lesions,
    read_layers,
    read_phenomena,
    read_probe,
    read_size_curves,
    read_study,
)
from grammar_lens.runs.store.studies import (
    MADE_FROM,
    STEPS,
    STUDIES,
    Study,
    explained,
    remedy,
    studies_of,
)
from grammar_lens.runs.store.studies import (
    read_study as read_record,
)
from grammar_lens.selectivity.collecting import Collected
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score

_OF_STEP = {
    "collect": ("moments",),
    "score": ("attributions", "_scores", "scores"),
    "select": ("_keys", "keys", "_controls", "_layer_table"),
    "examples": ("_examples",),
    "layers": ("_layers", "_layer_table"),
    "probe": ("_probes",),
    "lesion": ("_layer_lesions", "_size_curves", "_study", "lesions"),
    "phenomena": ("_phenomena",),
}
"""Cached results that each step makes outdated, beside those of the steps made from it."""


def _outdated_by(step: str) -> set[str]:
    """Cached results of a step, and of all steps that are made from it."""
    later = (x for x, before in MADE_FROM.items() if step in before and x != "report")
    return set(_OF_STEP.get(step, ())).union(*map(_outdated_by, later))


ATTRIBUTIONS = "attributions.safetensors"
T = TypeVar("T")
SHARDS = "shards"
"""The folder of what jobs of a job array have collected, before there is a run."""
CONTROLS = "controls.json"
CURVES = "probe_curve.csv"
FITTED = "probe.safetensors"
LAYERS = "layers.csv"
SUMMARY = "summary.json"
OUTCOMES = "lesions.parquet"
LAYER_LESIONS = "layer_lesions.json"
SIZE_CURVES = "size_curves.json"


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
    """The stored results of a run directory, each loaded when it is first asked for.

    A file that is not as it was stored is a GrammarLensError, which names the command that makes it
    anew. `study` is the name, or the beginning of it, of a stored study (`grammar-lens runs RUN`):
    its results, and those of the steps it was made from, then take the place of the current ones.
    """

    def __init__(self, path: Path, study: str | None = None) -> None:
        self.path = path
        self._pinned = {} if study is None else _pins(path, study)
        self._known: dict[str, Study | None] = {}
        self._checked: set[Path] = set()
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
        self._known.clear()
        self._checked.clear()
        for name in _outdated_by(step):
            self.__dict__.pop(name, None)

    def _read_record(self) -> None:
        with explained(self.path / "run.json", "collect", self.path):
            self.record: dict[str, Any] = read_sealed(self.path / "run.json")
            self.record |= {"config": renamed(self.record.get("config", {}))}
            for study in self.record.get("studies", {}).values():
                _ = study["name"], study["key"]
            if self._pinned:
                for study in reversed(self._pinned.values()):  # the one asked for comes last
                    self.record["config"] |= study.settings

    @property
    def address(self) -> Path:
        """The directory, with the name of the stored study that was asked for."""
        first = next(iter(self._pinned.values()), None)
        return (
            self.path
            if first is None
            else self.path.with_name(f"{self.path.resolve().name}@{first.name}")
        )

    @property
    def has_studies(self) -> bool:
        """Whether results have records; runs of earlier versions, and copies without, have bare files."""
        return "studies" in self.record and (self.path / STUDIES).is_dir()

    def study_of(self, step: str) -> Study | None:
        """The current study of a step; None where there is none, and in runs of earlier versions."""
        if step in self._pinned:
            return self._pinned[step]
        if step not in self._known:
            name = self.record.get("studies", {}).get(step, {}).get("name")
            folder = self.path / STUDIES / step / str(name)
            there = name is not None and folder.is_dir()
            self._known[step] = read_record(folder) if there else None
        return self._known[step]

    def config_of(self, step: str) -> dict[str, Any]:
        """The settings of the run, with those that a step was last done with where they differ."""
        entry = self.record.get("studies", {}).get(step, {})
        own = {"seed": entry["seed"]} if "seed" in entry and not self._pinned else {}
        return {**self.config, **own}

    def has(self, step: str) -> bool:
        """Whether a step has been done, from the current results of the steps before it."""
        there = (self.path / STEPS[step]).is_file()
        if not self.has_studies:
            return there
        study = self.study_of(step)
        return (
            study is not None
            and (there or bool(self._pinned))
            and self.belongs(study)
            and all(map(self.has, study.made_from))
        )

    def belongs(self, study: Study) -> bool:
        """Whether a study was made from the current results."""
        for step, key in study.made_from.items():
            before = self.study_of(step)
            if before is None or before.key != key or not self.belongs(before):
                return False
        if study.step == "report":
            return all(
                before in study.made_from or not self.has(before) for before in MADE_FROM["report"]
            )
        return True

    def require(self, step: str) -> Path:
        """The file of a step, checked; a NotMeasuredError says which command makes it if there is none."""
        if not self.has(step):
            first = f"first {remedy(step, self.path)}"
            study = self.study_of(step)
            if study is not None and not self.belongs(study):
                raise NotMeasuredError(
                    f"the {step} results of {self.path} were not made from its current results: {first}"
                )
            raise NotMeasuredError(f"{self.path} has no {STEPS[step]} yet: {first}")
        path = self.result(step, STEPS[step])
        assert path is not None, "a step has the file that says it is done"
        return path

    def result(self, step: str, name: str) -> Path | None:
        """The path of a file of a step that is done, checked; None where it has no such file."""
        study = self.study_of(step)
        if study is None:
            path = self.path / name
            return path if path.is_file() else None
        if name not in study.files:
            return None
        path = study.path / name
        if path not in self._checked:
            study.verified(name, current=step not in self._pinned)
            self._checked.add(path)
        return path

    def _read(self, step: str, name: str, read: Callable[[Path], T]) -> T | None:
        """A stored result; None where the step is not done or has no such file."""
        path = self.result(step, name) if self.has(step) else None
        if path is None:
            return None
        with explained(path, step, self.path):
            return read(path)

    def _required(self, step: str, read: Callable[[Path], T]) -> T:
        path = self.require(step)
        with explained(path, step, self.path):
            return read(path)

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers of summary.json; empty before the report step."""
        return self._read("report", SUMMARY, read_json) or {}

    @cached_property
    def moments(self) -> Collected:
        return self._required("collect", read_evidence)

    @cached_property
    def attributions(self) -> Tables[Attribution]:
        """Attributions by name ("attribution", "relevance", "integrated_gradients"); those the scores needed."""
        stored = self._read("score", ATTRIBUTIONS, read_attributions)
        return Tables("attribution", stored or {})

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
        self.require("score")
        evidence, attributions = self.moments, self.attributions
        return self._required("score", lambda path: read_scores(path, evidence, attributions))

    @cached_property
    def _keys(self) -> dict[str, KeyNeurons]:
        self.require("select")
        rules, scores = {p: c.rule for p, c in self._controls.items()}, self._scores
        return self._required("select", lambda path: read_keys(path, scores, rules))

    @cached_property
    def _controls(self) -> dict[str, SelectionControls]:
        return self._read("select", CONTROLS, read_controls) or {}

    @cached_property
    def _probes(self) -> dict[str, ProbeResult]:
        def read(path: Path) -> dict[str, ProbeResult]:
            return {name: read_probe(data) for name, data in read_json(path).items()}

        return self._required("probe", read)

    def fitted_at(self, position: str) -> FittedProbe:
        """The fitted probe of one position, to read the labels of other words with.

        Raises NotMeasuredError where the run has none, naming the command that makes it.
        """
        self.require("probe")
        probes = self._read("probe", FITTED, read_fitted)
        if probes is None:
            raise NotMeasuredError(
                f"{self.path} has no {FITTED}, as it was made before probes were kept: first "
                f"`grammar-lens probe {self.path}`"
            )
        if position not in probes:
            raise NotMeasuredError(
                f"{self.path} has no probe at {position!r}, only at {', '.join(probes)}: make a run "
                "with `grammar-lens run --position both`"
            )
        return probes[position]

    @property
    def examples(self) -> Tables[Examples]:
        """Examples of the first key neurons by position; empty if not done."""
        return self._examples

    @cached_property
    def _examples(self) -> Tables[Examples]:
        stored = self._read("examples", STEPS["examples"], read_examples)
        return Tables("position", stored or {})

    @property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Accuracy against k by position, a row per ranking and k; empty if not done."""
        return self._read("probe", CURVES, read_curves) or {}

    @property
    def course(self) -> CourseSummary | None:
        """The time course on held-out words, by layer; None if not done."""
        return self._read("course", STEPS["course"], read_course)

    @property
    def layers(self) -> LayerProbes | None:
        """Probes on the residual stream of every layer; None if not done."""
        return self._layers

    @cached_property
    def _layers(self) -> LayerProbes | None:
        return self._read("layers", STEPS["layers"], read_layers)

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
        by_site = self.moments.at(position)
        return self.moments.evidence("resid_post", position) if "resid_post" in by_site else None

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
        return self._read("lesion", STEPS["lesion"], lambda path: read_study(read_json(path)))

    @property
    def layer_lesions(self) -> LayerLesions | None:
        """Lesions of each layer alone; None where they were not asked for (`--by-layer`)."""
        return self._layer_lesions

    @cached_property
    def _layer_lesions(self) -> LayerLesions | None:
        return self._read("lesion", LAYER_LESIONS, read_layer_lesions)

    @property
    def size_curves(self) -> SizeCurves | None:
        """Curves over the number of neurons cut or kept; None where not asked for (`--curves`)."""
        return self._size_curves

    @cached_property
    def _size_curves(self) -> SizeCurves | None:
        return self._read("lesion", SIZE_CURVES, read_size_curves)

    @property
    def phenomena(self) -> PhenomenaStudy | None:
        """The study of phenomena, without its pairs one by one (`minimal_pairs`); None if not done."""
        return self._phenomena

    @cached_property
    def _phenomena(self) -> PhenomenaStudy | None:
        neurons = self._read("phenomena", PHENOMENA_NEURONS, pd.read_csv)
        if neurons is None:
            return None
        like = self.keys
        return self._read(
            "phenomena",
            STEPS["phenomena"],
            lambda path: read_phenomena(read_json(path), neurons, like),
        )

    @property
    def minimal_pairs(self) -> pd.DataFrame:
        """A row per minimal pair: its fold, sentences, scores, and the fall of its log odds by lesion."""
        table = self._read("phenomena", PAIRS, pd.read_parquet)
        if table is None:
            raise NotMeasuredError(
                f"{self.path} has no {PAIRS}: first `grammar-lens phenomena {self.path} --pairs ...`"
            )
        return table

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """Losses of every scored word, intact and under every lesion and sham."""
        table = self._read("lesion", OUTCOMES, pd.read_parquet)
        if table is None:
            raise NotMeasuredError(
                f"{self.path} has no {OUTCOMES}: first `grammar-lens lesion {self.path}`"
            )
        return table


def _pins(run: Path, name: str) -> dict[str, Study]:
    """A stored study by the beginning of its name, and those that it was made from.

    Raises GrammarLensError where there is none, or more than one, and where one is gone.
    """
    every = {step: studies_of(run, step) for step in STEPS}
    found = [s for studies in every.values() for s in studies if s.name.startswith(name)]
    exact = [s for s in found if s.name == name]
    if len(exact or found) != 1:
        there = ", ".join(f"{s.step} {s.name}" for studies in every.values() for s in studies)
        what = "no stored study" if not found else f"{len(found)} stored studies"
        raise GrammarLensError(
            f"{run} has {what} by the name {name!r}: there are {there or 'none'}"
        )
    pinned, waiting = {}, [(exact or found)[0]]
    while waiting:
        study = waiting.pop()
        pinned[study.step] = study
        for step, key in study.made_from.items():
            before = [s for s in every[step] if s.key == key]
            if not before:
                raise GrammarLensError(
                    f"the {step} results that {study.step} {study.name} of {run} was made from are gone"
                )
            waiting.append(before[0])
    return pinned
