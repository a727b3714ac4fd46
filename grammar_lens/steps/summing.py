"""The numbers of summary.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from grammar_lens.controls import selection_summary
from grammar_lens.dissociation import (
    CrossedPair,
    DamageMatched,
    DoseResponse,
    LesionStudy,
    Sufficiency,
)
from grammar_lens.run import Run
from grammar_lens.study import Collected


def summarise(run: Run) -> dict[str, Any]:
    """The numbers of summary.json, schema 1; parts whose step is not done are left out."""
    record = run.record
    summary: dict[str, Any] = {"schema": 1, "model": record.get("model")}
    if "treebank" in record:
        summary["treebank"] = {role: t["name"] for role, t in record["treebank"].items()}
        summary["treebank"]["label"] = run.config["label"]
        if run.config.get("context", "sentence") != "sentence":
            summary["treebank"] |= {name: run.config[name] for name in ("context", "window")}
    if run.has("collect"):
        moments: Collected = run.moments
        labels = moments.at(run.main_position)["neuron"].labels
        summary["treebank"]["labels"] = list(labels)
        summary["alignment"] = record["alignment"]
        summary["collect"] = record["collect"]
        if "peak_memory_mib" in record:
            summary["peak_memory_mib"] = record["peak_memory_mib"]
    if run.has("select"):
        summary["selection"] = {
            p: selection_summary(run.keys_at(p), controls)
            for p in run.positions
            if (controls := run.controls_at(p)) is not None
        }
    if run.has("probe"):
        summary["probe"] = _probe_summary(run.probe)
        if len(run.positions) > 1:
            summary["probe_next"] = _probe_summary(run.probe_at("next"))
    if run.study is not None:
        summary["lesion"] = lesion_summary(run.study)
    return summary


def lesion_summary(study: LesionStudy) -> dict[str, Any]:
    """The numbers of a lesion study; what was not measured is None."""
    labels = study.labels
    values = {rung.value: rung.diagonal_mean for rung in study.ladder}
    further = len(values) > 1
    return {
        "value": study.value,
        "dose": study.dose,
        "k": study.k,
        "position": study.origin.position,
        "labels": list(labels),
        "matrix": study.matrix,
        "sham_mean": study.sham_mean,
        "n_shams": study.n_shams,
        "diagonal_mean": study.diagonal_mean,
        "off_diagonal_mean": study.off_diagonal_mean,
        "p_value": study.p_value,
        "crossed_pairs": _pairs(study.crossed_pairs),
        "n_possible_pairs": len(labels) * (len(labels) - 1) // 2,
        "confirmed_pairs": sum(pair.confirmed for pair in study.crossed_pairs),
        "base_tag_loss": study.base_tag_loss,
        "tag_entropy": study.tag_entropy,
        "identity_error": study.identity_error,
        "words": int(study.n_words.sum()),
        "output_ratio": _least(study.output_ratio) if study.n_shams else None,
        "damage_ratio": _least(study.damage_ratio),
        "damage_matched": study.matched and _matched_summary(study.matched),
        "doses": study.doses and _dose_summary(study.doses),
        "values": values if further else None,
        "sign_agreement": [sum(study.sign_agreement), len(labels)] if further else None,
        "sufficiency": study.rest and _rest_summary(study.rest),
        "verdict": study.verdict(),
    }


def _pairs(pairs: Sequence[CrossedPair]) -> list[list[Any]]:
    return [[pair.first, pair.second, pair.confirmed] for pair in pairs]


def _least(values: Float[np.ndarray, " label"]) -> float | None:
    """The smallest of what is known; None if nothing is."""
    known = values[np.isfinite(values)]
    return float(known.min()) if len(known) else None


def _matched_summary(matched: DamageMatched) -> dict[str, Any]:
    return {
        "n_shams": matched.n_shams,
        "p_value": matched.p_value,
        "crossed_pairs": _pairs(matched.crossed_pairs),
        "damage_ratio": _least(matched.damage_ratio),
    }


def _dose_summary(doses: DoseResponse) -> dict[str, Any]:
    """Means over labels at every dose; `trend` counts the labels whose slope passes Holm."""
    return {
        "doses": doses.dose,
        "own": doses.own.mean(0),
        "others": doses.other.mean(0),
        "trend": int(doses.rising.sum()),
        "n_shams": doses.n_shams,
        "sham_p_value": doses.sham_p,
    }


def _rest_summary(rest: Sufficiency) -> dict[str, Any]:
    """Means over labels: the rise with the set kept, with a sham kept, and with all cut."""
    return {
        "own": float(rest.own.mean()),
        "sham_own": float(rest.sham_own.mean()) if rest.n_shams else None,
        "everything": float(rest.everything.mean()),
        "saved": float(rest.saved.mean()),
        "n_shams": rest.n_shams,
        "p_value": rest.p_value,
    }


def _probe_summary(probe: Any) -> dict[str, Any]:
    names = (
        *("position", "k", "n_neurons", "accuracy", "random_accuracy", "majority_accuracy"),
        *("word_baseline_accuracy", "control_accuracy", "selectivity", "macro_f1"),
        *("layer", "layer_accuracy", "unseen_accuracy", "n_train_words", "n_fresh_words"),
        "dropped_duplicates",
    )
    return {name: getattr(probe, name) for name in names}
