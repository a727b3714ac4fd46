"""The run directory: what a study found, in files that open without grammar_lens.

Arrays are safetensors, tables CSV and Parquet, the rest JSON. Every file is written under a
temporary name and renamed, so a file that is there is whole.
"""

import dataclasses
import json
import os
import platform
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from grammar_lens.dissociation import CrossedPair, LesionStudy
from grammar_lens.moments import Moments, Origin, UnitStatistics
from grammar_lens.outcomes import Outcomes
from grammar_lens.probing import ProbeResult
from grammar_lens.selection import KeyNeurons, Neurons
from grammar_lens.selectivity import Scores
from grammar_lens.study import Collected

PACKAGES = ("grammar-lens", "torch", "transformer-lens", "transformers", "numpy", "scikit-learn")
STEPS = {
    "collect": "moments.safetensors",
    "score": "scores.safetensors",
    "select": "key_neurons.csv",
    "probe": "probe.json",
    "lesion": "lesion_matrix.json",
    "report": "report.html",
}
"""The steps in their order, each with the file that it writes last."""


class RunError(ValueError):
    """A run directory that cannot be used as asked."""


class DiskError(RunError):
    """A file that could not be written."""


@dataclass(frozen=True)
class Results:
    """What a run found at one position."""

    position: str
    moments: dict[str, Moments]
    scores: Scores
    keys: KeyNeurons
    probe: ProbeResult | None


class Run:
    """The stored results of a run directory, each loaded when it is first asked for.

    `at(position)` gives everything of one position; `scores`, `keys` are those of the lesion study
    ("next" when it was read), `probe` the one at the word when it was read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = _read_json(path / "run.json")

    @property
    def config(self) -> dict[str, Any]:
        return self.record["config"]

    @property
    def positions(self) -> tuple[str, ...]:
        return tuple(self.config["positions"])

    @property
    def main_position(self) -> str:
        return "next" if "next" in self.positions else self.positions[0]

    def has(self, step: str) -> bool:
        """Whether a step has been done."""
        return (self.path / STEPS[step]).is_file()

    def require(self, step: str) -> Path:
        """The file of a step; a RunError says which command makes it when it is not there."""
        path = self.path / STEPS[step]
        if not path.is_file():
            raise RunError(
                f"{self.path} has no {path.name} yet: first `grammar-lens {step} {self.path}`"
            )
        return path

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers of summary.json; empty before the report step."""
        path = self.path / "summary.json"
        return _read_json(path) if path.is_file() else {}

    @cached_property
    def moments(self) -> Collected:
        return _read_moments(self.require("collect"))

    @cached_property
    def _scores(self) -> dict[str, Scores]:
        return _read_scores(self.require("score"), self.moments)

    @cached_property
    def _keys(self) -> dict[str, KeyNeurons]:
        return _read_keys(self.require("select"), self._scores, self.config)

    @cached_property
    def _probes(self) -> dict[str, ProbeResult]:
        stored = _read_json(self.require("probe"))
        return {name: _probe_from_json(data) for name, data in stored.items()}

    def at(self, position: str) -> Results:
        """Everything found at "word" or at "next"."""
        if position not in self.positions:
            raise RunError(f"{self.path} did not read {position!r}: it has {self.positions}")
        probe = self._probes.get(position) if self.has("probe") else None
        return Results(
            position,
            self.moments.at(position),
            self._scores[position],
            self._keys[position],
            probe,
        )

    def scores_at(self, position: str) -> Scores:
        """The scores at one position."""
        return self._scores[position]

    def keys_at(self, position: str) -> KeyNeurons:
        """The key neurons at one position."""
        return self._keys[position]

    def probe_at(self, position: str) -> ProbeResult:
        """The probe at one position."""
        return self._probes[position]

    @property
    def scores(self) -> Scores:
        return self._scores[self.main_position]

    @property
    def keys(self) -> KeyNeurons:
        return self._keys[self.main_position]

    @property
    def probe(self) -> ProbeResult:
        return self._probes.get("word") or self._probes[self.main_position]

    @property
    def study(self) -> LesionStudy | None:
        """The lesion study, without its outcomes word by word (`lesions`); None if not done."""
        return self._study

    @cached_property
    def _study(self) -> LesionStudy | None:
        if not self.has("lesion"):
            return None
        return _study_from_json(_read_json(self.path / STEPS["lesion"]))

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """Losses of every scored word, intact and under every lesion and sham."""
        path = self.path / "lesions.parquet"
        if not path.is_file():
            raise RunError(f"{self.path} has no lesions.parquet: first `grammar-lens lesion`")
        return pd.read_parquet(path)

    def __repr__(self) -> str:
        done = [step for step in STEPS if self.has(step)]
        return f"Run {self.path}: {self.config['model']} on {self.config['train']}; done: {', '.join(done) or 'nothing yet'}"


def load_run(path: str | os.PathLike[str]) -> Run:
    """The results of a run directory. Raises RunError if there is none."""
    folder = Path(path)
    if not (folder / "run.json").is_file():
        raise RunError(
            f"{folder} is no run directory (it has no run.json): make one with "
            f"`grammar-lens run --out {folder}`"
        )
    return Run(folder)


def refuse_directory(path: Path, *, resume: bool) -> None:
    """Raises RunError for a directory that a run must not be written to."""
    if (path / "run.json").is_file():
        if not resume:
            raise RunError(
                f"{path} holds a run already: add --resume to complete it, or choose another --out"
            )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is no run directory: choose another --out")


def open_run(path: Path, config: Mapping[str, Any], *, resume: bool) -> Run:
    """A new run directory, or with `resume` the old one if it was made with the same settings.

    Raises RunError for a directory that is in use already, or whose settings differ (naming them).
    """
    refuse_directory(path, resume=resume)
    if not (path / "run.json").is_file():
        record = {
            "schema": 1,
            "config": dict(config),
            "versions": library_versions(),
            "commit": checkout_commit(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "timings": {},
        }
        make_folder(path)
        write_json(path / "run.json", record)
        return Run(path)
    run = Run(path)
    old = run.config
    changed = [
        f"{key}: it was {old.get(key)!r}, now {config[key]!r}"
        for key in config
        if old.get(key) != config[key]
    ]
    if changed:
        raise RunError(
            f"{path} was made with other settings and cannot be resumed with these "
            f"({'; '.join(changed)}): choose another --out or the old settings"
        )
    return run


def update_record(run: Run, **entries: Any) -> None:
    """Adds entries to run.json; mappings are merged."""
    for key, value in entries.items():
        old = run.record.get(key)
        merged = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        run.record[key] = merged
    write_json(run.path / "run.json", run.record)


def make_folder(path: Path) -> None:
    """Makes a folder and its parents. Raises DiskError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make the folder {path}: {error.strerror or error}") from error


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make the file under a temporary name and then renames it.

    Raises DiskError when the disk is full or the folder cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise DiskError(
            f"cannot write {path}: {reason}. Make room or fix the permissions, then run again with "
            "--resume; what was finished is kept"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, data: object) -> None:
    """Writes JSON whole or not at all; arrays become lists, missing numbers null."""
    write_text(path, json.dumps(to_json(data), indent=1, allow_nan=False) + "\n")


def to_json(value: Any) -> Any:
    """Plain JSON of dataclasses, arrays, tables and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: to_json(getattr(value, f.name)) for f in fields}
    if isinstance(value, pd.DataFrame):
        return {"index": list(value.index), **{c: to_json(value[c].to_numpy()) for c in value}}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def save_moments(run: Run, collected: Collected) -> None:
    """Writes moments.safetensors: for every position and site the arrays of `Moments`."""
    tensors, about = {}, {}
    for position, sites in collected.by_position.items():
        for site, m in sites.items():
            for name in ("count", "mean", "m2", "fired", "mean_abs"):
                tensors[f"{position}/{site}/{name}"] = np.ascontiguousarray(getattr(m, name))
            about[f"{position}/{site}"] = {"labels": m.labels, "origin": to_json(m.origin)}
    metadata = {"moments": json.dumps(about), "n_tokens": str(collected.n_tokens)}
    write_file(run.path / STEPS["collect"], lambda p: save_file(tensors, p, metadata))
    run.__dict__.pop("moments", None)


def _read_moments(path: Path) -> Collected:
    tensors, metadata = _read_tensors(path)
    by_position: dict[str, dict[str, Moments]] = {}
    for key, about in json.loads(metadata["moments"]).items():
        position, site = key.split("/")
        arrays = {
            name: tensors[f"{key}/{name}"] for name in ("count", "mean", "m2", "fired", "mean_abs")
        }
        by_position.setdefault(position, {})[site] = Moments(
            labels=tuple(about["labels"]), origin=Origin(**about["origin"]), **arrays
        )
    return Collected(by_position, int(metadata["n_tokens"]))


def save_scores(run: Run, scores: Mapping[str, Scores]) -> None:
    """Writes scores.safetensors: values, effect sizes and, where there are some, p-values."""
    tensors, about = {}, {}
    for position, s in scores.items():
        for name in ("count", "values", "effect", "p"):
            array = getattr(s, name)
            if array is not None:
                tensors[f"{position}/{name}"] = np.ascontiguousarray(array)
        about[position] = {
            "labels": s.labels,
            "method": s.method,
            "origin": to_json(s.origin),
        }
    metadata = {"scores": json.dumps(about)}
    write_file(run.path / STEPS["score"], lambda p: save_file(tensors, p, metadata))
    run.__dict__.pop("_scores", None)


def _read_scores(path: Path, moments: Collected) -> dict[str, Scores]:
    tensors, metadata = _read_tensors(path)
    scores = {}
    for position, about in json.loads(metadata["scores"]).items():
        origin = Origin(**about["origin"])
        scores[position] = Scores(
            method=about["method"],
            labels=tuple(about["labels"]),
            count=tensors[f"{position}/count"],
            values=tensors[f"{position}/values"],
            effect=tensors[f"{position}/effect"],
            p=tensors.get(f"{position}/p"),
            units=moments.at(position)[origin.site].units(),
            origin=origin,
        )
    return scores


def save_keys(run: Run, keys: Mapping[str, KeyNeurons]) -> None:
    """Writes key_neurons.csv: label, layer, index, score, q, rank and the position."""
    table = pd.concat(
        [k.to_frame().assign(position=position) for position, k in keys.items()], ignore_index=True
    )
    text = table.to_csv(index=False, lineterminator="\n")
    write_text(run.path / STEPS["select"], text)
    run.__dict__.pop("_keys", None)


def _read_keys(
    path: Path, scores: Mapping[str, Scores], config: Mapping[str, Any]
) -> dict[str, KeyNeurons]:
    table = pd.read_csv(path, keep_default_na=False)
    keys = {}
    for position, s in scores.items():
        rows = table.loc[table["position"] == position]
        keys[position] = keys_from_table(rows, s, rule=f"top {config['top_k']}", source=str(path))
    return keys


def keys_from_table(table: pd.DataFrame, scores: Scores, *, rule: str, source: str) -> KeyNeurons:
    """Key neurons from a table with the columns label, layer, index and score.

    Raises RunError naming the line of an address that the model does not have.
    """
    n_layers, n_units = scores.values.shape[1:]
    units: UnitStatistics = scores.units
    sets = {}
    for label, rows in table.groupby("label", sort=False):
        layer, index = rows["layer"].to_numpy(np.int64), rows["index"].to_numpy(np.int64)
        outside = (layer < 0) | (layer >= n_layers) | (index < 0) | (index >= n_units)
        if outside.any():
            line = int(np.asarray(rows.index)[outside][0]) + 2
            raise RunError(
                f"{source}:{line}: neuron {layer[outside][0]}.{index[outside][0]} does not exist: "
                f"the model has {n_layers} layers of {n_units} units"
            )
        sets[str(label)] = Neurons(
            name=str(label),
            site=scores.origin.site,
            layer=layer,
            index=index,
            score=rows["score"].to_numpy(np.float64),
            mean=units.mean[layer, index],
        )
    return KeyNeurons(sets, scores.method, rule, n_units, n_layers, units, scores.origin)


def save_probes(run: Run, probes: Mapping[str, ProbeResult]) -> None:
    """Writes probe.json: by position, everything of `ProbeResult`."""
    write_json(run.path / STEPS["probe"], probes)
    run.__dict__.pop("_probes", None)


def _probe_from_json(data: dict[str, Any]) -> ProbeResult:
    table = dict(data["per_label"])
    index = pd.Index(table.pop("index"), name="label")
    return ProbeResult(
        **{
            **data,
            "labels": tuple(data["labels"]),
            "random_accuracies": tuple(data["random_accuracies"]),
            "per_label": pd.DataFrame(table, index=index),
            "confusion": np.array(data["confusion"]),
            "origin": Origin(**data["origin"]),
        }
    )


_STUDY_ARRAYS = (
    *("matrix", "nll_matrix", "sham", "auroc", "auroc_fall", "bias", "accuracy", "n_words"),
    *("s_star_sham", "output_ratio"),
)


def save_study(run: Run, study: LesionStudy, words: pd.DataFrame) -> None:
    """Writes lesions.parquet, the losses word by word, and then lesion_matrix.json, the statistics."""
    write_file(
        run.path / "lesions.parquet",
        lambda p: words.to_parquet(p, index=False, compression="zstd"),
    )
    data = to_json(dataclasses.replace(study, outcomes=None))
    data |= {"p_value": study.p_value, "dominance": study.dominance, "verdict": study.verdict()}
    write_json(run.path / STEPS["lesion"], data)
    run.__dict__.pop("_study", None)


def _study_from_json(data: dict[str, Any]) -> LesionStudy:
    n = len(data["labels"])
    arrays = {name: np.array(data[name]) for name in _STUDY_ARRAYS}
    arrays["sham"] = arrays["sham"].astype(float).reshape(-1, n, n)
    arrays["s_star_sham"] = arrays["s_star_sham"].astype(float)
    fields = {f.name for f in dataclasses.fields(LesionStudy)}
    return LesionStudy(
        **{
            **{k: v for k, v in data.items() if k in fields},
            **arrays,
            "labels": tuple(data["labels"]),
            "crossed_pairs": tuple(CrossedPair(**p) for p in data["crossed_pairs"]),
            "origin": Origin(**data["origin"]),
        }
    )


def outcome_table(outcomes: Outcomes, forms: tuple[str, ...]) -> pd.DataFrame:
    """A row per word and condition: the losses (nats) of every scored word.

    `lesion` is empty for the intact model; `replicate` is 0 for the real set and numbers the shams.
    Losses are float32 here; the identity dNLL = dL_tag + dL_lex was checked in float64.
    """
    n_rows, n_words = outcomes.nll.shape
    cut = ["", *(c.label for c in outcomes.conditions)]
    replicate = np.array([0, *(c.replicate for c in outcomes.conditions)], np.int16)
    names = sorted(set(cut))
    codes = np.array([names.index(x) for x in cut])
    words = np.array([forms[w] for w in outcomes.word], object)

    def per_word(values: np.ndarray) -> np.ndarray:
        return np.tile(values, n_rows)

    return pd.DataFrame(
        {
            "lesion": pd.Categorical.from_codes(np.repeat(codes, n_words), pd.Index(names)),
            "replicate": np.repeat(replicate, n_words),
            "sentence": per_word(outcomes.sentence).astype(np.int32),
            "word": per_word(outcomes.word).astype(np.int32),
            "form": pd.Categorical(per_word(words)),
            "label": pd.Categorical.from_codes(per_word(outcomes.label), pd.Index(outcomes.labels)),
            "nll": outcomes.nll.ravel().astype(np.float32),
            "tag_loss": outcomes.tag_loss.ravel().astype(np.float32),
            "lexical_loss": outcomes.lexical_loss.ravel().astype(np.float32),
            "top_label": pd.Categorical.from_codes(
                outcomes.top_label.ravel(), pd.Index(outcomes.labels)
            ),
        }
    )


def _read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{path} is damaged ({error}): delete it and run again with --resume"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} is damaged ({error}): delete it and run again with --resume"
        ) from error


def library_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def checkout_commit() -> str | None:
    """The commit of a checkout of grammar_lens, with "+changes" when it has uncommitted ones."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
