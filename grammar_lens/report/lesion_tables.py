"""Tables of the lesion study; each is None where its lesions were not measured."""

from collections.abc import Sequence

import numpy as np

from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.result import LesionStudy, value_ladder
from grammar_lens.dissociation.size_curves import SizeCurves
from grammar_lens.figures.style import number
from grammar_lens.report.result_tables import DASH, Cell, Table, measured, small


def pair_table(study: LesionStudy) -> Table:
    """The crossed pairs, by ordinary shams or by damage-matched ones."""
    ordinary = _by_pair(study.crossed_pairs)
    grown = _by_pair(study.damage_matched.crossed_pairs) if study.damage_matched else {}
    rows: list[list[Cell]] = []
    for names in [*ordinary, *(x for x in grown if x not in ordinary)]:
        known, other = ordinary.get(names), grown.get(names)
        pair = known or other
        assert pair is not None
        row: list[Cell] = [
            (" and ".join(names), " ".join(names)),
            small(known.p) if known else (DASH, None),
            (f"{pair.margin:.2f}", pair.margin),
            (f"{known.threshold:.2f}", known.threshold) if known else (DASH, None),
            ("confirmed" if pair.confirmed else "possibly a bias shift", str(pair.confirmed)),
        ]
        if study.damage_matched:
            row.append(small(other.p) if other else (DASH, None))
            row.append((f"{other.threshold:.2f}", other.threshold) if other else (DASH, None))
        rows.append(row)
    columns = ("Pair", "p (Holm)", "Lead (share of damage)", "Lead chance reaches", "By AUROC")
    more = ("p, damage-matched shams", "Lead those reach") if study.damage_matched else ()
    return Table((*columns, *more), rows)


def _by_pair(pairs: Sequence[CrossedPair]) -> dict[tuple[str, str], CrossedPair]:
    return {(pair.first, pair.second): pair for pair in pairs}


def curve_table(curves: SizeCurves) -> Table:
    """The areas under each label's curves over k."""
    rows: list[list[Cell]] = [
        [
            (str(area["label"]), str(area["label"])),
            (str(area["ranking"]), str(area["ranking"])),
            measured(area["lesion"], 3, plus=True),
            measured(area["completeness"], 2),
            measured(area["keep"], 3, plus=True),
            measured(area["faithfulness"], 2),
        ]
        for area in curves.areas().to_dict("records")
    ]
    columns = ("Tag", "Neurons", "Cut (nats)", "Completeness", "Kept alone (nats)", "Faithfulness")
    return Table(columns, rows)


def match_table(study: LesionStudy) -> Table | None:
    """Match of each label's shams with its set, in output and in damage."""
    if not study.n_shams and not study.damage_matched:
        return None
    matched = study.damage_matched
    rows: list[list[Cell]] = []
    for i, label in enumerate(study.labels):
        row: list[Cell] = [(label, label)]
        if study.n_shams:
            row += [_ratio(study.output_ratio[i]), _ratio(study.damage_ratio[i])]
        if matched:
            size = float(matched.size[:, i].mean())
            row += [_ratio(matched.damage_ratio[i]), (f"{size:,.0f}", size)]
        rows.append(row)
    columns = ["Neurons cut of"]
    if study.n_shams:
        columns += ["Shams' output / real", "Shams' damage / real"]
    if matched:
        columns += ["Damage-matched shams' damage / real", "Their neurons (mean)"]
    return Table(tuple(columns), rows)


def dose_table(study: LesionStudy) -> Table | None:
    """Each label's slope over the doses, tested over sentences and against shams."""
    if study.doses is None:
        return None
    rising = study.doses.rising
    rows: list[list[Cell]] = [
        [
            (str(record["label"]), str(record["label"])),
            measured(record["slope"], 3, plus=True),
            small(record["p"]),
            ("yes" if rising[i] else "no", str(rising[i])),
            ("yes" if record["monotone"] else "no", str(record["monotone"])),
            measured(record["sham_slope"], 3, plus=True),
            small(record["sham_p"]),
        ]
        for i, record in enumerate(study.doses.trend_frame().to_dict("records"))
    ]
    return Table(
        (
            *("Neurons cut of", "Slope (nats per unit of dose)", "p", "Rises (Holm)"),
            *("At every step", "Shams' slope", "p against shams"),
        ),
        rows,
    )


def value_table(study: LesionStudy) -> Table | None:
    """Each label's own change under every value."""
    if len(study.ladder) < 2:
        return None
    ladder = value_ladder(study)
    rows: list[list[Cell]] = []
    for label, part in ladder.groupby("label", sort=False):
        cells = [measured(x, 3, plus=True) for x in part["own"]]
        agrees = bool(part["agrees"].iloc[0])
        rows.append([(str(label), str(label)), *cells, ("yes" if agrees else "no", str(agrees))])
    names = [f"{rung.value.replace('_', ' ').capitalize()} (nats)" for rung in study.ladder]
    return Table(("Neurons cut of", *names, "Same sign"), rows)


def rest_table(study: LesionStudy) -> Table | None:
    """Sufficiency of each label's set alone."""
    if study.sufficiency is None:
        return None
    rows: list[list[Cell]] = [
        [
            (str(record["label"]), str(record["label"])),
            *(
                measured(record[name], 3, plus=True)
                for name in ("kept", "sham_kept", "everything_cut")
            ),
            measured(record["share_saved"], 2),
            small(record["p"]),
        ]
        for record in study.sufficiency.to_frame().to_dict("records")
    ]
    return Table(
        (
            *("Neurons kept of", "Its set kept (nats)", "A sham kept (nats)", "All cut (nats)"),
            *("Share saved", "p"),
        ),
        rows,
    )


def lesion_table(study: LesionStudy) -> Table:
    """All numbers of the lesion matrix."""
    names = ["tag_loss_change", "sham_mean", "nll_change", "auroc_fall", "bias"]
    if study.damage_matched:
        names.insert(2, "matched_mean")
    rows: list[list[Cell]] = []
    for record in study.to_frame().to_dict("records"):
        cut, label, n_words = str(record["lesion"]), str(record["label"]), int(record["n_words"])
        rows.append(
            [
                (cut, cut),
                (label, label),
                (f"{n_words:,}", n_words),
                *((number(float(record[x]), 3, plus=True), record[x]) for x in names),
            ]
        )
    columns = ["Neurons cut of", "Words tagged", "Words", *(_COLUMNS[name] for name in names)]
    return Table(tuple(columns), rows)


_COLUMNS = {
    "tag_loss_change": "Tag loss (nats)",
    "sham_mean": "Shams (nats)",
    "matched_mean": "Damage-matched shams (nats)",
    "nll_change": "NLL (nats)",
    "auroc_fall": "Fall in AUROC",
    "bias": "Bias",
}


def _ratio(value: float) -> Cell:
    """A ratio; a dash where it is not defined."""
    return (DASH, None) if np.isnan(value) else (number(value), float(value))
