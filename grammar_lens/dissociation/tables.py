"""Tables of lesion studies, stacked over scores and treebanks."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import pandas as pd

from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.result import LesionStudy, value_ladder
from grammar_lens.dissociation.verdicts import least
from grammar_lens.probing.evaluation import ProbeResult

BY = ("score", "domain")
"""The first columns of the tables of several studies: the score that chose, and the treebank."""


def study_tables(
    studies: Mapping[tuple[str, str], LesionStudy], main: str
) -> dict[str, pd.DataFrame]:
    """Every table of studies by score and domain; values, doses and sufficiency for domain `main`."""
    whole = {key: study for key, study in studies.items() if key[1] == main}
    doses = {key: s.doses for key, s in whole.items() if s.doses is not None}
    tables = {
        "studies": {key: pd.DataFrame([study_row(s)]) for key, s in studies.items()},
        "ablations": {key: ablation_table(s) for key, s in studies.items()},
        "matrix": {key: matrix_table(s) for key, s in studies.items()},
        "pairs": {key: pair_table(s) for key, s in studies.items()},
        "values": {key: value_ladder(s) for key, s in whole.items()},
        "doses": {key: d.to_frame().merge(d.trend_frame(), on="label") for key, d in doses.items()},
        "sufficiency": {key: s.sufficiency.to_frame() for key, s in whole.items() if s.sufficiency},
    }
    return {name: stacked(by_key, *BY) for name, by_key in tables.items()}


def stacked(tables: Mapping[Any, pd.DataFrame], *names: str) -> pd.DataFrame:
    """Tables below one another, with their keys as the first columns; empty ones add nothing."""
    full = {key: table for key, table in tables.items() if len(table)}
    if not full:
        columns = next(iter(tables.values())).columns if tables else []
        return pd.DataFrame(columns=[*names, *columns])
    table = pd.concat(full, names=list(names))
    return table.reset_index(level=list(names)).reset_index(drop=True)


def layer_row(
    layer: int, strongest: pd.Series, probe: ProbeResult, study: LesionStudy
) -> dict[str, Any]:
    """A layer's strongest neuron, its probe and its lesions, with the baselines of each beside it."""
    shams = replace(study, matrix=study.sham_mean)
    return {
        "layer": layer,
        "best_label": strongest.label,
        "best_neuron": strongest.best_neuron,
        "best_score": strongest.best_score,
        "n_neurons": probe.n_neurons,
        "accuracy": probe.accuracy,
        "random_accuracy": probe.random_accuracy,
        "majority_accuracy": probe.majority_accuracy,
        "word_baseline_accuracy": probe.word_baseline_accuracy,
        "control_accuracy": probe.control_accuracy,
        "diagonal": study.diagonal_mean,
        "off_diagonal": study.off_diagonal_mean,
        "sham_diagonal": shams.diagonal_mean,
        "sham_off_diagonal": shams.off_diagonal_mean,
        "sham_output_ratio": study.output_ratio.min(),
        "p": study.p_value,
    }


def study_row(study: LesionStudy) -> dict[str, Any]:
    """The numbers of one study, losses in nats; those that were not measured are None."""
    matched, doses, rest = study.damage_matched, study.doses, study.sufficiency
    agree = study.sign_agreement if len(study.ladder) > 1 else None

    def named(marks: Any) -> str | None:
        """The labels that are marked."""
        if marks is None:
            return None
        return " ".join(x for x, marked in zip(study.labels, marks, strict=True) if marked)

    return {
        "fresh": study.fresh,
        "labels": " ".join(study.labels),
        "words": int(study.n_words.sum()),
        "k": study.k,
        **_numbers(study),
        "base_tag_loss": study.base_tag_loss,
        "tag_entropy": study.tag_entropy,
        "matched_shams": matched and matched.n_shams,
        "matched_p": matched and matched.p_value,
        "matched_damage_ratio": matched and least(matched.damage_ratio),
        "matched_pairs": matched and len(matched.crossed_pairs),
        "matched_confirmed": matched and sum(pair.confirmed for pair in matched.crossed_pairs),
        "rising": doses and named(doses.rising),
        "monotone": doses and named(doses.monotone),
        "slope_p": doses and doses.sham_p,
        "same_sign": named(agree),
        "sufficiency_p": rest and rest.p_value,
        "identity_error": study.identity_error,
    }


def ablation_table(study: LesionStudy) -> pd.DataFrame:
    """A row per ablation of the lesion, the main one first."""
    every = (study, *study.others)
    return pd.DataFrame([{**asdict(one.ablation), **_numbers(one)} for one in every])


def matrix_table(study: LesionStudy) -> pd.DataFrame:
    """A row per ablation, lesion and label."""
    frames = [
        pd.DataFrame({**asdict(one.ablation), **dict(one.to_frame().items())})
        for one in (study, *study.others)
    ]
    return pd.concat(frames, ignore_index=True)


def pair_table(study: LesionStudy) -> pd.DataFrame:
    """A row per crossed pair of the main lesion, against either kind of shams."""
    kinds = {"matched": study.crossed_pairs}
    if study.damage_matched:
        kinds["damage_matched"] = study.damage_matched.crossed_pairs
    rows = [{"shams": kind, **asdict(pair)} for kind, pairs in kinds.items() for pair in pairs]
    return pd.DataFrame(rows, columns=["shams", *(field.name for field in fields(CrossedPair))])


def _numbers(study: LesionStudy) -> dict[str, Any]:
    """Numbers that every ablation of a lesion has."""
    shams = replace(study, matrix=study.sham_mean)
    return {
        "diagonal": study.diagonal_mean,
        "off_diagonal": study.off_diagonal_mean,
        "sham_diagonal": shams.diagonal_mean,
        "sham_off_diagonal": shams.off_diagonal_mean,
        "S": study.dominance,
        "S_star": study.s_star,
        "shams": study.n_shams,
        "p": study.p_value,
        "pairs": len(study.crossed_pairs),
        "confirmed": sum(pair.confirmed for pair in study.crossed_pairs),
        "output_ratio": least(study.output_ratio),
        "damage_ratio": least(study.damage_ratio),
    }
