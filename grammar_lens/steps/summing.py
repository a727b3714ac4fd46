"""The numbers of summary.json."""

from typing import Any

from grammar_lens.controls import (
    selection_summary,
)
from grammar_lens.run import (
    Run,
)
from grammar_lens.study import (
    Collected,
)


def summarise(run: Run) -> dict[str, Any]:
    """The numbers of summary.json, schema 1; parts whose step is not done are left out."""
    record = run.record
    summary: dict[str, Any] = {"schema": 1, "model": record.get("model")}
    if "treebank" in record:
        summary["treebank"] = {role: t["name"] for role, t in record["treebank"].items()}
        summary["treebank"]["label"] = run.config["label"]
    if run.has("collect"):
        moments: Collected = run.moments
        labels = moments.at(run.main_position)["neuron"].labels
        summary["treebank"]["labels"] = list(labels)
        summary["alignment"] = record["alignment"]
        summary["collect"] = record["collect"]
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
    study = run.study
    if study is not None:
        summary["lesion"] = {
            "value": study.value,
            "dose": study.dose,
            "k": study.k,
            "position": study.origin.position,
            "labels": list(study.labels),
            "matrix": study.matrix,
            "sham_mean": study.sham_mean,
            "n_shams": study.n_shams,
            "diagonal_mean": study.diagonal_mean,
            "off_diagonal_mean": study.off_diagonal_mean,
            "p_value": study.p_value,
            "crossed_pairs": [[p.first, p.second, p.confirmed] for p in study.crossed_pairs],
            "base_tag_loss": study.base_tag_loss,
            "tag_entropy": study.tag_entropy,
            "identity_error": study.identity_error,
            "words": int(study.n_words.sum()),
            "verdict": study.verdict(),
        }
    return summary


def _probe_summary(probe: Any) -> dict[str, Any]:
    names = (
        *("position", "k", "n_neurons", "accuracy", "random_accuracy", "majority_accuracy"),
        *("word_baseline_accuracy", "control_accuracy", "selectivity", "macro_f1"),
        *("layer", "layer_accuracy", "unseen_accuracy", "n_train_words", "n_fresh_words"),
        "dropped_duplicates",
    )
    return {name: getattr(probe, name) for name in names}
