"""Key neurons, controls, probes, time course and lesions as CSV, JSON and Parquet."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grammar_lens.corpus.origin import Origin
from grammar_lens.dissociation.calibration import Calibration
from grammar_lens.dissociation.damage_matched import DamageMatched
from grammar_lens.dissociation.dose_response import DoseResponse
from grammar_lens.dissociation.first_order import FirstOrder
from grammar_lens.dissociation.layer_lesions import LayerLesions
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.redundancy import Redundancy, Round
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.size_curves import SizeCurves
from grammar_lens.dissociation.sufficiency import Sufficiency
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import read_json, to_json, write_file, write_json, write_text
from grammar_lens.lesions.outcomes import Ablation, Outcomes
from grammar_lens.neurons.controls import SelectionControls
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.phenomena.effects import DamageMatchedFalls, PairEffects
from grammar_lens.phenomena.result import PhenomenaStudy
from grammar_lens.probing.curves import ProbeCurve
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.probing.layer_results import LayerProbe, LayerProbes
from grammar_lens.selectivity.result import Scores


def save_keys(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Writes the key neurons of every position: label, layer, index, score, q, rank, effects, position."""
    table = pd.concat(
        [t.assign(position=position) for position, t in tables.items()], ignore_index=True
    )
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_keys(
    path: Path, scores: Mapping[str, Scores], rules: Mapping[str, str]
) -> dict[str, KeyNeurons]:
    """The key neurons of every position, with the rules that chose them.

    Raises GrammarLensError for neurons that do not exist.
    """
    table = pd.read_csv(path, keep_default_na=False, na_values={"q": [""]}, dtype={"label": str})
    table.index += 2  # lines of the file, below its header
    return {
        position: KeyNeurons.from_frame(
            table.loc[table["position"] == position],
            s,
            rule=rules.get(position, "unknown"),
            labels=s.labels,
            where=f"{path}:",
        )
        for position, s in scores.items()
    }


def save_controls(path: Path, controls: Mapping[str, SelectionControls]) -> None:
    """Writes the controls of the choice at every position."""
    write_json(path, {p: _with_tables(c) for p, c in controls.items()})


def _with_tables(result: Any) -> dict[str, Any]:
    """A result whose tables are written column by column."""
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    return {
        name: value.to_dict("list") if isinstance(value, pd.DataFrame) else value
        for name, value in fields.items()
    }


def read_controls(path: Path) -> dict[str, SelectionControls]:
    """Read the file of `save_controls`."""
    tables = ("sham", "reliability", "within_type")
    controls = {}
    for position, data in read_json(path).items():
        frames = {
            name: None
            if data[name] is None
            else pd.DataFrame(data[name]).fillna(np.nan).infer_objects()
            for name in tables
        }
        controls[position] = SelectionControls(**{**data, **frames})
    return controls


def save_course(path: Path, course: CourseSummary) -> None:
    """Writes the time course by layer."""
    write_json(path, course)


def read_course(path: Path) -> CourseSummary:
    """Read the file of `save_course`."""
    data = read_json(path)
    return CourseSummary(
        labels=tuple(data["labels"]),
        offsets=tuple(data["offsets"]),
        count=np.array(data["count"], np.float64),
        strength=np.array(data["strength"], np.float64),
        key=np.array(data["key"], np.float64),
        origin=Origin(**data["origin"]),
    )


def save_layers(path: Path, probes: LayerProbes) -> None:
    """Writes the probes on every layer, of the model and of its untrained twin."""
    write_json(path, probes)


def read_layers(path: Path) -> LayerProbes:
    """Read the file of `save_layers`."""
    data = read_json(path)
    trained, untrained = (
        {position: _layer_probe(probe) for position, probe in data[name].items()}
        for name in ("trained", "untrained")
    )
    return LayerProbes(trained, untrained)


def _layer_probe(data: dict[str, Any]) -> LayerProbe:
    arrays = {
        name: np.array(value, np.int64 if name == "layers" else np.float64)
        for name, value in data.items()
        if isinstance(value, list) and name != "labels"
    }
    given = {**data, **arrays, "labels": tuple(data["labels"]), "origin": Origin(**data["origin"])}
    return LayerProbe(**given)


def save_layer_lesions(path: Path, lesions: LayerLesions) -> None:
    """Writes the lesions of each layer."""
    write_json(path, _with_tables(lesions))


def read_layer_lesions(path: Path) -> LayerLesions:
    """Read the file of `save_layer_lesions`."""
    data = read_json(path)
    table = pd.DataFrame(data["table"])
    numbers = ["own", "other", "sham_own", "sham_other"]
    table[numbers] = table[numbers].astype(float)
    made = {"labels": tuple(data["labels"]), "table": table, "origin": Origin(**data["origin"])}
    return LayerLesions(**{**data, **made})


def save_size_curves(path: Path, curves: SizeCurves) -> None:
    """Writes the curves over the number of neurons."""
    write_json(path, _with_tables(curves))


def read_size_curves(path: Path) -> SizeCurves:
    """Read the file of `save_size_curves`."""
    data = read_json(path)
    table = pd.DataFrame(data["table"])
    table[["own", "other"]] = table[["own", "other"]].astype(float)
    made = {
        "labels": tuple(data["labels"]),
        "table": table,
        "everything": np.array(data["everything"], float),
        "origin": Origin(**data["origin"]),
    }
    return SizeCurves(**{**data, **made})


def save_curves(path: Path, curves: Mapping[str, ProbeCurve]) -> None:
    """Writes accuracy against k, with the position as the first column."""
    frames = [c.to_frame().assign(position=p) for p, c in curves.items()]
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "position", table.pop("position"))
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_curves(path: Path) -> dict[str, pd.DataFrame]:
    """Read the file of `save_curves`."""
    table = pd.read_csv(path)
    return {
        str(p): rows.drop(columns="position").reset_index(drop=True)
        for p, rows in table.groupby("position", sort=False)
    }


def save_probes(path: Path, probes: Mapping[str, ProbeResult]) -> None:
    """Writes all numbers of the probes, by position; the fitted probes go to `save_fitted`."""
    written = to_json(probes)
    for probe in written.values():
        del probe["fitted"]
    write_json(path, written)


def read_probe(data: dict[str, Any]) -> ProbeResult:
    """One probe of what `save_probes` wrote."""
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


def save_study(folder: Path, name: str, study: LesionStudy, words: pd.DataFrame) -> None:
    """Writes lesions.parquet, the losses word by word, and then the statistics."""
    write_file(
        folder / "lesions.parquet",
        lambda p: words.to_parquet(p, index=False, compression="zstd"),
    )
    data = to_json(dataclasses.replace(study, outcomes=None))
    data |= {"value": study.value, "dose": study.dose, "p_value": study.p_value}
    data |= {"dominance": study.dominance, "specificity": study.specificity}
    data |= {"is_selective": study.is_selective, "verdict": study.verdict()}
    write_json(folder / name, data)


def read_study(data: dict[str, Any]) -> LesionStudy:
    """The lesion study, without its outcomes word by word.

    Raises GrammarLensError for the file of a version that did not write the ablation of the lesion.
    """
    if "n_sham_sentences" not in data:
        raise GrammarLensError(
            "this lesion study was stored by an older version: repeat it with `grammar-lens lesion`"
        )
    data = {_RENAMED.get(name, name): value for name, value in data.items()}
    n = len(data["labels"])
    matched, sufficiency, doses = (data[x] for x in ("damage_matched", "sufficiency", "doses"))
    predicted = data["first_order"]
    intervals = {
        name: None if data[name] is None else _interval(data[name])
        for name in ("dominance_interval", "specificity_interval")
    }
    return _from_json(
        LesionStudy,
        data,
        n,
        ablation=Ablation(**data["ablation"]),
        crossed_pairs=_pairs(data),
        origin=Origin(**data["origin"]),
        others=tuple(read_study(other) for other in data["others"]),
        damage_matched=matched
        and _from_json(DamageMatched, matched, n, crossed_pairs=_pairs(matched)),
        sufficiency=sufficiency and _from_json(Sufficiency, sufficiency, n),
        doses=doses and _from_json(DoseResponse, doses, n),
        first_order=predicted and _from_json(FirstOrder, predicted, n),
        **intervals,
    )


PAIRS = "phenomena.parquet"
"""The file of the pairs of a study of phenomena, one by one."""
PHENOMENA_NEURONS = "phenomena_neurons.csv"


def save_phenomena(folder: Path, name: str, study: PhenomenaStudy) -> None:
    """Writes the pairs one by one, the neurons of every phenomenon, and then the statistics."""
    pairs = study.pairs
    if pairs is not None:
        write_file(folder / PAIRS, lambda p: pairs.to_parquet(p, index=False, compression="zstd"))
    text = study.keys.to_frame().to_csv(index=False, lineterminator="\n")
    write_text(folder / PHENOMENA_NEURONS, text)
    data = _with_tables(dataclasses.replace(study, pairs=None))
    data |= {"keys": {"method": study.keys.method, "rule": study.keys.rule}}
    data |= {"p_value": study.p_value, "specificity": study.specificity}
    data |= {"is_selective": study.is_selective, "verdict": study.verdict()}
    write_json(folder / name, data)


def read_phenomena(data: dict[str, Any], neurons: pd.DataFrame, like: KeyNeurons) -> PhenomenaStudy:
    """The study of phenomena without its pairs one by one; `like` are the run's key neurons."""
    names = tuple(data["phenomena"])
    keys = KeyNeurons.from_frame(
        neurons, like, rule=data["keys"]["rule"], method=data["keys"]["method"], labels=names
    )
    origin = Origin(**data["origin"])
    tables = {
        name: pd.DataFrame(data[name]).fillna(np.nan).infer_objects()
        for name in ("intact", "overlap", "reliability")
    }
    fields = {field.name for field in dataclasses.fields(PhenomenaStudy)}
    given = {
        **{name: value for name, value in data.items() if name in fields},
        **tables,
        "phenomena": names,
        "terms": tuple(data["terms"]),
        "n_pairs": np.array(data["n_pairs"], np.int64),
        "n_sham_pairs": np.array(data["n_sham_pairs"], np.int64),
        "ablation": Ablation(**data["ablation"]),
        "own": _effects(data["own"]),
        "tags": data["tags"] and _effects(data["tags"]),
        "s_star_sham": np.array(data["s_star_sham"], np.float64),
        "crossed_pairs": _pairs(data),
        "dominance_interval": _interval(data["dominance_interval"]),
        "specificity_interval": _interval(data["specificity_interval"]),
        "keys": dataclasses.replace(keys, origin=origin),
        "notes": tuple(data["notes"]),
        "origin": origin,
    }
    return PhenomenaStudy(**given)


def _effects(data: dict[str, Any]) -> PairEffects:
    shape = len(data["lesions"]), len(data["phenomena"])
    given: dict[str, Any] = {name: tuple(data[name]) for name in ("lesions", "phenomena")}
    # files of earlier versions have no damage-matched shams of pairs
    matched = data.get("damage_matched")
    names = given.keys() | {"damage_matched"}
    arrays = {k: np.array(v, np.float64) for k, v in data.items() if k not in names}
    given["damage_matched"] = matched and DamageMatchedFalls(
        np.array(matched["sham"], np.float64).reshape(-1, *shape),
        np.array(matched["damage_ratio"], np.float64),
        np.array(matched["size"], np.int64),
    )
    return PairEffects(**{**given, **arrays, "sham": arrays["sham"].reshape(-1, *shape)})


def read_calibration(data: dict[str, Any]) -> Calibration:
    """The calibration of attributions that `write_json` wrote."""
    return _from_json(Calibration, data, len(data["labels"]))


def read_redundancy(data: dict[str, Any]) -> Redundancy:
    """The rounds of cutting and finding again that `write_json` wrote."""
    labels = tuple(data["labels"])
    return Redundancy(labels, tuple(_from_json(Round, r, len(labels)) for r in data["rounds"]))


def _interval(ends: list[float | None]) -> tuple[float, float]:
    """The ends of an interval; JSON has no infinity, so an end that is missing is one."""
    low, high = ends
    return -np.inf if low is None else low, np.inf if high is None else high


def _pairs(data: dict[str, Any]) -> tuple[CrossedPair, ...]:
    return tuple(CrossedPair(**pair) for pair in data["crossed_pairs"])


_RENAMED = {"matched": "damage_matched", "rest": "sufficiency"}
"""Names of fields of a lesion study in files stored before they were renamed."""
_COUNTS = ("n_words", "size")
_MATRICES = ("sham",)


def _from_json(kind: type, data: dict[str, Any], n_labels: int, **made: Any) -> Any:
    """A dataclass of arrays and plain values; missing numbers were null."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        name, value = field.name, data[field.name]
        if name in made:
            values[name] = made[name]
        elif name == "labels":
            values[name] = tuple(value)
        elif isinstance(value, list):
            array = np.array(value, np.int64 if name in _COUNTS else np.float64)
            if name in _MATRICES:
                array = array.reshape(-1, n_labels, n_labels)
            elif name in ("sham_slope", "size"):
                array = array.reshape(-1, n_labels)
            values[name] = array
        elif value is None and field.type is float:
            values[name] = np.nan
        else:
            values[name] = value
    return kind(**values)


def outcome_table(outcomes: Outcomes, forms: tuple[str, ...]) -> pd.DataFrame:
    """A row per word and condition: the losses (nats) of every word scored under it.

    `lesion`, `kind`, `value` and `where` are empty and `dose` is 0 for the intact model; `replicate`
    is 0 for the real set and numbers the shams.
    Losses are float32 here; the identity dNLL = dL_tag + dL_lex was checked in float64.
    """
    n_rows, n_words = outcomes.nll.shape
    conditions = outcomes.conditions
    replicate = np.array([0, *(c.replicate for c in conditions)], np.int16)
    dose = np.array([0.0, *(c.ablation.dose for c in conditions)], np.float32)
    words = np.array([forms[w] for w in outcomes.word], object)

    def per_word(values: np.ndarray) -> np.ndarray:
        return np.tile(values, n_rows)

    def per_row(names: list[str]) -> pd.Categorical:
        categories = sorted({"", *names})
        codes = np.array([categories.index(name) for name in ["", *names]])
        return pd.Categorical.from_codes(np.repeat(codes, n_words), pd.Index(categories))

    table = pd.DataFrame(
        {
            "lesion": per_row([c.label for c in conditions]),
            "replicate": np.repeat(replicate, n_words),
            "kind": per_row([c.kind for c in conditions]),
            "value": per_row([c.ablation.value for c in conditions]),
            "dose": np.repeat(dose, n_words),
            "where": per_row([c.ablation.where for c in conditions]),
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
    scored = np.isfinite(outcomes.nll).ravel()
    return table if scored.all() else table.loc[scored].reset_index(drop=True)
