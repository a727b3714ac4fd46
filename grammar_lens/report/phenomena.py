"""The section of the report on phenomena: a verdict, the matrix of lesions, and tables."""

from dataclasses import dataclass

from grammar_lens import figures
from grammar_lens.figures.style import number
from grammar_lens.phenomena.result import PhenomenaStudy
from grammar_lens.report.lesions import sentences
from grammar_lens.report.pictures import Picture, picture
from grammar_lens.report.result_tables import Cell, Table, measured, small


@dataclass(frozen=True)
class PhenomenaSection:
    """The contents of the section."""

    study: PhenomenaStudy
    sentences: list[str]
    pictures: list[Picture]
    intact_table: Table
    pair_table: Table
    overlap_table: Table


def phenomena_section(study: PhenomenaStudy | None) -> PhenomenaSection | None:
    """The contents of the section; None where phenomena were not studied."""
    if study is None:
        return None
    return PhenomenaSection(
        study=study,
        sentences=sentences(study.verdict()),
        pictures=[_picture(study, "fall"), _picture(study, "accuracy")],
        intact_table=_intact_table(study),
        pair_table=_pair_table(study),
        overlap_table=_overlap_table(study),
    )


def _picture(study: PhenomenaStudy, cells: str) -> Picture:
    own, other = study.diagonal_mean, study.off_diagonal_mean
    words = (
        "Matrix of every phenomenon's pairs under every lesion. Mean fall of the log odds on the "
        f"diagonal {number(own, 3)} nats, off it {number(other, 3)}."
    )
    names = {"fall": "fall of the log odds", "accuracy": "share of pairs right"}
    figure = figures.phenomena_matrix(study, cells=cells)
    return picture("phenomena", figure, words, choice=names[cells])


def _intact_table(study: PhenomenaStudy) -> Table:
    """Every phenomenon: pairs, accuracy and log odds intact, and under its own lesion."""
    rows: list[list[Cell]] = []
    for i, record in enumerate(study.intact.to_dict("records")):
        name, term = str(record["phenomenon"]), str(record["term"])
        low, high = number(record["low"]), number(record["high"])
        rows.append(
            [
                (name, name),
                (term, term),
                (f"{record['n_pairs']:,}", int(record["n_pairs"])),
                (f"{number(record['accuracy'], 3)} ({low} to {high})", float(record["accuracy"])),
                measured(record["token_accuracy"], 3),
                measured(record["log_odds"], 2, plus=True),
                (f"{study.own.n_neurons[i]:g}", float(study.own.n_neurons[i])),
                measured(study.own.accuracy[i, i], 3),
                measured(study.own.fall[i, i], 2, plus=True),
                measured(study.own.sham_mean[i, i], 2, plus=True),
            ]
        )
    columns = (
        *("Phenomenon", "Term", "Pairs", "Right, intact (95 %)", "Right at the token"),
        *("Log odds (nats)", "Neurons", "Right without them", "Fall (nats)", "Fall, shams"),
    )
    return Table(columns, rows)


def _pair_table(study: PhenomenaStudy) -> Table:
    rows: list[list[Cell]] = [
        [
            (f"{pair.first} and {pair.second}", f"{pair.first} {pair.second}"),
            small(pair.p),
            (f"{pair.margin:.2f}", pair.margin),
            (f"{pair.threshold:.2f}", pair.threshold),
            ("confirmed" if pair.confirmed else "log odds alone", str(pair.confirmed)),
        ]
        for pair in study.crossed_pairs
    ]
    columns = ("Pair", "p (Holm)", "Lead (share of damage)", "Lead chance reaches", "By accuracy")
    return Table(columns, rows)


def _overlap_table(study: PhenomenaStudy) -> Table:
    rows: list[list[Cell]] = [
        [
            (str(record["phenomenon"]), str(record["phenomenon"])),
            (str(record["tag"]), str(record["tag"])),
            (f"{record['shared']:g}", float(record["shared"])),
            measured(record["expected"], 2),
            small(record["p"]),
            small(record["holm"]),
        ]
        for record in study.overlap.to_dict("records")
    ]
    return Table(("Phenomenon", "Tag", "Shared", "By chance", "p", "p (Holm)"), rows)
