"""Contents of summary.json, and the summary table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from rich.box import HORIZONTALS
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from grammar_lens.dissociation.damage_matched import DamageMatched
from grammar_lens.dissociation.dose_response import DoseResponse
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.size_curves import KEY, RANDOM, SizeCurves
from grammar_lens.dissociation.sufficiency import Sufficiency
from grammar_lens.dissociation.verdicts import nats
from grammar_lens.neurons.controls import selection_summary
from grammar_lens.phenomena.result import PhenomenaStudy
from grammar_lens.probing.layer_table import layer_rows
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.selectivity.collecting import Collected

NARROW = 110
"""Columns of a terminal in which a table of three columns would break every line."""


def summarise(run: StoredRun) -> dict[str, Any]:
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
        where = "word" if "word" in run.positions else run.main_position
        summary["probe"] = _probe_summary(run.probe_at(where))
        if len(run.positions) > 1:
            summary["probe_next"] = _probe_summary(run.probe_at("next"))
    if run.layer_table is not None:
        summary["layers"] = layer_rows(run.layer_table)
    if run.study is not None:
        summary["lesion"] = lesion_summary(run.study)
        if run.layer_lesions is not None:
            summary["lesion"]["by_layer"] = run.layer_lesions.by_layer().to_dict("records")
        if run.size_curves is not None:
            summary["lesion"]["curves"] = curve_summary(run.size_curves)
    if run.phenomena is not None:
        summary["phenomena"] = phenomena_summary(run.phenomena)
    return summary


def phenomena_summary(study: PhenomenaStudy) -> dict[str, Any]:
    """The numbers of a study of phenomena; what was not measured is None."""
    n, matched = len(study.phenomena), study.own.damage_matched
    return {
        "k": study.k,
        "value": study.ablation.value,
        "phenomena": list(study.phenomena),
        "terms": list(study.terms),
        "pairs": int(study.n_pairs.sum()),
        "accuracy": study.intact["accuracy"].to_numpy(float),
        "log_odds": study.intact["log_odds"].to_numpy(float),
        "known": study.known,
        "n_neurons": study.own.n_neurons,
        "matrix": study.own.fall,
        "accuracy_matrix": study.own.accuracy,
        "sham_mean": study.own.sham_mean,
        "n_shams": study.own.n_shams,
        "output_ratio": _least(study.own.output_ratio) if study.own.n_shams else None,
        "damage_ratio": matched and _least(matched.damage_ratio),
        "diagonal_mean": study.diagonal_mean,
        "off_diagonal_mean": study.off_diagonal_mean,
        "same_term_mean": study.same_term_mean,
        "specificity": study.specificity,
        "specificity_interval": study.specificity_interval,
        "dominance_interval": study.dominance_interval,
        "p_value": study.p_value,
        "is_selective": study.is_selective,
        "crossed_pairs": _pairs(study.crossed_pairs),
        "n_possible_pairs": n * (n - 1) // 2,
        "tags": study.tags and list(study.tags.lesions),
        "tag_matrix": study.tags and study.tags.fall,
        "verdict": study.verdict(),
    }


def curve_summary(curves: SizeCurves) -> dict[str, Any]:
    """The points of the curves over k, means over labels, and the areas of every label."""
    return {
        "points": curves.means().to_dict("records"),
        "areas": curves.areas().to_dict("records"),
        "everything": dict(zip(curves.labels, curves.everything.tolist(), strict=True)),
    }


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
        "specificity": study.specificity,
        "specificity_interval": study.specificity_interval,
        "dominance_interval": study.dominance_interval,
        "p_value": study.p_value,
        "p_first_order": study.first_order and study.first_order.p_value,
        "first_order_correlation": study.first_order and study.first_order.correlation,
        "is_selective": study.is_selective,
        "conclusion": study.conclusion(),
        "crossed_pairs": _pairs(study.crossed_pairs),
        "n_possible_pairs": len(labels) * (len(labels) - 1) // 2,
        "confirmed_pairs": sum(pair.confirmed for pair in study.crossed_pairs),
        "base_tag_loss": study.base_tag_loss,
        "tag_entropy": study.tag_entropy,
        "identity_error": study.identity_error,
        "words": int(study.n_words.sum()),
        "sentences": study.n_sentences,
        "sham_sentences": study.n_sham_sentences,
        "output_ratio": _least(study.output_ratio) if study.n_shams else None,
        "damage_ratio": _least(study.damage_ratio),
        "damage_matched": study.damage_matched and _matched_summary(study.damage_matched),
        "doses": study.doses and _dose_summary(study.doses),
        "values": values if further else None,
        "sign_agreement": [sum(study.sign_agreement), len(labels)] if further else None,
        "sufficiency": study.sufficiency and _sufficiency_summary(study.sufficiency),
        "verdict": study.verdict(),
    }


def _pairs(pairs: Sequence[CrossedPair]) -> list[list[Any]]:
    return [[pair.first, pair.second, pair.confirmed] for pair in pairs]


def _least(values: Float[np.ndarray, " label"]) -> float | None:
    """The smallest known value; None without any."""
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


def _sufficiency_summary(sufficiency: Sufficiency) -> dict[str, Any]:
    """Means over labels: the rise with the set kept, with a sham kept, and with all cut."""
    return {
        "own": float(sufficiency.own.mean()),
        "sham_own": float(sufficiency.sham_own.mean()) if sufficiency.n_shams else None,
        "everything": float(sufficiency.everything.mean()),
        "saved": float(sufficiency.saved.mean()),
        "n_shams": sufficiency.n_shams,
        "p_value": sufficiency.p_value,
    }


def _probe_summary(probe: Any) -> dict[str, Any]:
    names = (
        *("position", "k", "n_neurons", "accuracy", "random_accuracy", "majority_accuracy"),
        *("word_baseline_accuracy", "control_accuracy", "selectivity", "macro_f1"),
        *("layer", "layer_accuracy", "unseen_accuracy", "n_train_words", "n_fresh_words"),
        *("dropped_duplicates", "information_gained"),
    )
    return {name: getattr(probe, name) for name in names}


@dataclass(frozen=True)
class SummaryTable:
    """The results as a terminal shows them: in a narrow one a comparison stands below what was found."""

    title: str
    rows: list[tuple[str, str, str]]
    HEADS: ClassVar = ("", "found", "compared with")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        yield self._narrow() if options.max_width < NARROW else self._wide()

    def _wide(self) -> Table:
        table = Table(title=Text(self.title), title_justify="left")
        for i, head in enumerate(self.HEADS):
            table.add_column(head, no_wrap=i == 0)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def _narrow(self) -> Table:
        table = Table(title=Text(self.title), title_justify="left", box=HORIZONTALS)
        table.add_column("", max_width=24)
        table.add_column("found, and what to compare it with")
        for name, found, compared in self.rows:
            text = Text(found)
            if compared:
                text.append(f"\n{compared}", style="dim")
            table.add_row(Text(name), text)
        return table


def summary_table(summary: dict[str, Any]) -> SummaryTable:
    """The results, each number with the one it must be compared with."""
    rows: list[tuple[str, str, str]] = []

    def row(name: str, value: str, compared: str = "") -> None:
        rows.append((name, value, compared))

    if "collect" in summary:
        aligned, collected = summary["alignment"], summary["collect"]
        skipped = ", ".join(f"{n:,} {reason}" for reason, n in aligned["skipped"].items())
        row(
            "words aligned",
            f"{aligned['aligned']:,} of {aligned['words']:,}",
            skipped or "none skipped",
        )
        row("collected", f"{collected['tokens']:,} tokens in {collected['seconds']:.1f} s")
    for position, selection in summary.get("selection", {}).items():
        _selection_rows(row, position, selection, _n_neurons(summary))
    for key in ("probe", "probe_next"):
        if key in summary:
            _probe_rows(row, summary[key])
    _layer_rows(row, summary.get("layers", []))
    if "lesion" in summary:
        _lesion_rows(row, summary["lesion"])
    if "phenomena" in summary:
        _phenomena_rows(row, summary["phenomena"])
    return SummaryTable(_title(summary), rows)


def _phenomena_rows(row: Any, found: dict[str, Any]) -> None:
    low, high = found["specificity_interval"]
    # summaries of earlier versions do not say
    known = f"; above it at {sum(found['known'])} phenomena" if "known" in found else ""
    row(
        f"{len(found['phenomena'])} phenomena, intact",
        f"{np.mean(found['accuracy']):.3f} of {found['pairs']:,} minimal pairs right",
        f"chance 0.5{known}",
    )
    row(
        f"a phenomenon's top {found['k']} neurons cut ({found['value']})",
        f"its own log odds {-found['diagonal_mean']:+.3f} nats",
        f"other phenomena {-found['off_diagonal_mean']:+.3f}; specificity "
        f"{_number(found['specificity'], 2)} ({_number(low, 2)} to {_number(high, 2)})",
    )
    p, ratio = found["p_value"], found["output_ratio"]
    carry = f", which carry {ratio:.2f} of the output or more" if ratio is not None else ""
    if found.get("damage_ratio") is not None:
        carry = f", which do {found['damage_ratio']:.2f} of the damage or more"
    row(
        "phenomena: selective?",
        "yes" if found["is_selective"] else "not shown",
        f"p = {_number(p, 3)} by {found['n_shams']} shams{carry}; {len(found['crossed_pairs'])} of "
        f"{found['n_possible_pairs']} pairs dissociate doubly",
    )


def _title(summary: dict[str, Any]) -> str:
    model, bank = summary.get("model") or {}, summary.get("treebank") or {}
    return f"{model.get('name')} on {bank.get('train')}, tested on {bank.get('fresh')}"


def _n_neurons(summary: dict[str, Any]) -> int | None:
    """Number of neurons of the model, where the summary has it."""
    model = summary.get("model") or {}
    layers, width = model.get("n_layers"), model.get("d_mlp")
    return layers * width if layers and width else None


def _selection_rows(
    row: Any, position: str, selection: dict[str, Any], n_neurons: int | None
) -> None:
    of = f" of {n_neurons:,}" if n_neurons else ""
    compared = []
    if "reliability" in selection:
        halves = selection["reliability"]
        compared.append(
            f"halves agree {_number(halves['share'], 2)} (chance "
            f"{_number(halves['expected_share'], 2)})"
        )
    if "sham_localiser" in selection:
        sham = selection["sham_localiser"]
        compared.append(
            f"exchanged labels reach {sham['sham_strength']:.2g} of {sham['strength']:.2g}"
        )
    if "within_type" in selection:
        within = selection["within_type"]
        compared.append(
            f"within word forms d {_number(within['within_type'], 2)} of "
            f"{_number(within['effect'], 2)}"
        )
    row(
        f"key neurons ({position})",
        f"{selection['distinct_neurons']:,} distinct{of}; {selection['score'].replace('_', ' ')}, "
        f"{selection['rule']}",
        "; ".join(compared) or "no controls",
    )


def _number(value: float | None, digits: int) -> str:
    """A number, or a dash for one that is missing."""
    if value is None or value != value:  # noqa: PLR0124  # NaN
        return "\N{EN DASH}"
    return f"{value:.{digits}f}"


def _probe_rows(row: Any, probe: dict[str, Any]) -> None:
    random, gained = probe["random_accuracy"], probe.get("information_gained")
    beyond = (
        ""
        if gained is None
        else f", {gained:.0%} of what the model predicts beyond the word before"
    )
    row(
        f"probe accuracy at '{probe['position']}'",
        f"{probe['accuracy']:.3f} with {probe['n_neurons']} neurons (top {probe['k']} per label)",
        f"random neurons {_number(random, 3)}, word alone "
        f"{probe['word_baseline_accuracy']:.3f}, majority {probe['majority_accuracy']:.3f}, "
        f"control task {probe['control_accuracy']:.3f}{beyond}",
    )


def _layer_rows(row: Any, layers: Sequence[dict[str, Any]]) -> None:
    """The best layer at each position, and the untrained twin's there."""
    for position in ("word", "next"):
        name = f"resid_accuracy_{position}"
        known = [x for x in layers if x.get(name) is not None]
        if not known:
            continue
        best = max(known, key=lambda x: x[name])
        compared = [f"embedding {_number(known[0][name], 3)}"]
        floor = [x[f"untrained_accuracy_{position}"] for x in known if _has(x, position)]
        if floor:
            compared.append(f"untrained at best {_number(max(floor), 3)}")
        if position == "next" and best["resid_information_next"] is not None:
            compared.append(
                f"{best['resid_information_next']:.0%} of what the model predicts beyond the word before"
            )
        row(
            f"whole layers at '{position}'",
            f"{best[name]:.3f} at best, layer {best['layer']}",
            ", ".join(compared),
        )


def _has(row: dict[str, Any], position: str) -> bool:
    return row.get(f"untrained_accuracy_{position}") is not None


def _lesion_rows(row: Any, lesion: dict[str, Any]) -> None:
    n = len(lesion["labels"])
    sham = lesion["sham_mean"]
    own = sum(sham[i][i] for i in range(n)) / n
    p = lesion["p_value"]
    row(
        "tag loss, intact",
        f"{lesion['base_tag_loss']:.3f} nats",
        f"tag entropy {lesion['tag_entropy']:.3f}",
    )
    row(
        f"a tag's top {lesion['k']} neurons cut ({lesion['value']})",
        f"its own tag loss {nats(lesion['diagonal_mean'], '+')} nats",
        f"other tags {nats(lesion['off_diagonal_mean'], '+')}, its shams {nats(own, '+')}",
    )
    specificity, interval = lesion.get("specificity"), lesion.get("specificity_interval")
    if specificity is not None:
        low, high = interval or (None, None)
        row(
            "specificity",
            f"{specificity:.2f}",
            f"95 % interval {_number(low, 2)} to {_number(high, 2)}; 1 is the own tag alone, 0 all alike",
        )
    if "is_selective" in lesion:
        row("selective?", "yes" if lesion["is_selective"] else "not shown", lesion["conclusion"])
    ratio = lesion.get("output_ratio")
    carry = "" if ratio is None else f" of {ratio:.2f} of the output or more"
    row(
        "against output-matched shams",
        f"p = {p:.3f}" if p is not None else "no p: two tags" if lesion["n_shams"] else "no shams",
        f"{lesion['n_shams']} replicates{carry}, {lesion['words']:,} held-out words",
    )
    if lesion.get("damage_matched"):
        _matched_row(row, lesion["damage_matched"])
    if lesion.get("p_first_order") is not None:
        trust = _number(lesion["first_order_correlation"], 2)
        row(
            "to first order, no lesion",
            f"p = {lesion['p_first_order']:.4f}",
            f"an approximation; correlates {trust} with the S* of the lesioned shams",
        )
    pairs, matched = lesion["crossed_pairs"], lesion.get("damage_matched")
    if matched:
        unmatched = f"against damage-matched shams; {len(pairs)} against output-matched ones; "
        pairs = matched["crossed_pairs"]
    else:
        unmatched = ""
    row(
        "double dissociations",
        f"{len(pairs)} of {n * (n - 1) // 2} pairs",
        f"{unmatched}{sum(bool(confirmed) for *_, confirmed in pairs)} confirmed by AUROC",
    )
    _further_rows(row, lesion)
    if "curves" in lesion:
        _curve_row(row, lesion["curves"]["areas"])
    for kind in dict.fromkeys(x["lesion"] for x in lesion.get("by_layer", [])):
        _by_layer_row(row, kind, [x for x in lesion["by_layer"] if x["lesion"] == kind])


def _curve_row(row: Any, areas: Sequence[dict[str, Any]]) -> None:
    """The row of the curves over k: the areas of the key neurons beside those of random ones.

    Means over the labels that cutting everything costs something; the others have no area.
    """

    def mean(name: str, ranking: str) -> str:
        known = [x[name] for x in areas if x["ranking"] == ranking and x[name] is not None]
        return f"{np.nanmean(known):.0%}" if np.isfinite(known).any() else "unknown"

    row(
        "a tag's first k neurons, mean over log k",
        f"cut {mean('completeness', KEY)}, kept alone {mean('faithfulness', KEY)}",
        f"of what cutting everything costs; random neurons of the same layers "
        f"{mean('completeness', RANDOM)} and {mean('faithfulness', RANDOM)}",
    )


def _by_layer_row(row: Any, kind: str, layers: Sequence[dict[str, Any]]) -> None:
    """The layer in which a lesion costs a label's own words most."""
    known = [x for x in layers if x["own"] is not None and np.isfinite(x["own"])]
    if known:
        most = max(known, key=lambda x: x["own"])
        row(
            f"{kind} of one layer cut",
            f"{most['own']:+.3f} nats at most, layer {most['layer']}",
            f"other tags {most['other']:+.3f}, its shams {_number(most['sham_own'], 3)}",
        )


def _matched_row(row: Any, matched: dict[str, Any]) -> None:
    p, damage = matched["p_value"], matched["damage_ratio"]
    does = "" if damage is None else f" doing {damage:.2f} of the damage or more"
    row(
        "against damage-matched shams",
        "no p: two tags" if p is None else f"p = {p:.3f}",
        f"{matched['n_shams']} replicates{does}",
    )


def _further_rows(row: Any, lesion: dict[str, Any]) -> None:
    """Doses, values and sufficiency, where they were measured."""
    n, doses = len(lesion["labels"]), lesion.get("doses")
    if doses:
        main = doses["doses"].index(lesion["dose"])
        row(
            f"doses {doses['doses'][0]:g} to {doses['doses'][-1]:g}",
            f"own tag loss rises for {doses['trend']} of {n} tags",
            f"at dose {lesion['dose']:g} {doses['own'][main]:+.3f} nats, other tags "
            f"{doses['others'][main]:+.3f}",
        )
    if lesion.get("values"):
        agree, of = lesion["sign_agreement"]
        means = ", ".join(f"{name} {mean:+.3f}" for name, mean in lesion["values"].items())
        row("values of the lesion", f"{agree} of {of} tags agree in sign", f"{means} nats")
    if sufficiency := lesion.get("sufficiency"):
        against = (
            "no shams"
            if sufficiency["sham_own"] is None
            else f"a sham kept {sufficiency['sham_own']:+.3f}"
        )
        p = "" if sufficiency["p_value"] is None else f" (p = {sufficiency['p_value']:.3f})"
        cut = (
            ""
            if sufficiency["everything"] is None
            else f", all cut {sufficiency['everything']:+.3f}"
        )
        row("only its own set kept", f"{sufficiency['own']:+.3f} nats{p}", f"{against}{cut}")
