"""Several runs on one page: models, languages or scores side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grammar_lens import __version__, figures
from grammar_lens.figures.style import number
from grammar_lens.files import write_text
from grammar_lens.report import comparison_families as families
from grammar_lens.report import comparison_tables as comparing
from grammar_lens.report.html import fill
from grammar_lens.report.pictures import Picture, picture
from grammar_lens.report.protocols import RunLike, results_of
from grammar_lens.report.result_tables import Table

POSITIONS = ("word", "next")


@dataclass(frozen=True)
class Place:
    """The runs' results at one position."""

    position: str
    accuracy: Picture | None
    probe_table: Table | None
    label_table: Table | None
    depth: Picture | None
    depth_table: Table
    relation_table: Table
    agreements: list[Picture]
    shared: Picture | None
    shared_table: Table
    apart: list[str]
    """Pairs of runs that are not of one family."""


MOST_PAIRS = 15
"""Pairs of runs in the figure of shared neurons; the table has all."""


def write_comparison(
    runs: Sequence[RunLike],
    path: str | Path,
    *,
    pairs: Sequence[families.RunPair] | None = None,
) -> Path:
    """Two or more runs on one HTML page that needs no network.

    Runs of one family of models, such as checkpoints of one training or a base and a chat model, are
    compared neuron by neuron, others by depth (see `neurons.families.relation`).
    `pairs` are those of `run_pairs`, where they are known already.

    Raises GrammarLensError for fewer than two, and for a run given twice.
    """
    target = Path(path)
    write_text(target, render_comparison(runs, pairs))
    return target


def render_comparison(
    runs: Sequence[RunLike], pairs: Sequence[families.RunPair] | None = None
) -> str:
    """The page's HTML."""
    by_name = comparing.named(runs)
    differing, same = comparing.settings(by_name)
    pairs = families.run_pairs(by_name) if pairs is None else pairs
    studies = {name: run.study for name, run in by_name.items() if run.study is not None}
    return fill(
        "compare.html.jinja",
        version=__version__,
        names=list(by_name),
        paths=comparing.paths(by_name),
        differing=differing,
        same=same,
        cautions=comparing.cautions(
            by_name, one_family=bool(pairs) and all(pair.relation.is_family for pair in pairs)
        ),
        places=[
            _place(by_name, position, [pair for pair in pairs if pair.position == position])
            for position in POSITIONS
            if _has(by_name, position)
        ],
        damage=_damage(studies),
        matrices=_matrices(studies),
        lesion_table=comparing.lesion_table(by_name) if studies else None,
        damage_table=comparing.damage_table(studies) if studies else None,
        without_study=[name for name in by_name if name not in studies],
    )


def _has(runs: comparing.Runs, position: str) -> bool:
    return any(r.position == position for run in runs.values() for r in results_of(run))


def _place(runs: comparing.Runs, position: str, pairs: Sequence[families.RunPair]) -> Place:
    at = {name: r for name, run in runs.items() for r in results_of(run) if r.position == position}
    probes = comparing.probes_at(runs, position)
    scores = {name: r.scores for name, r in at.items()}
    keys = {name: r.keys for name, r in at.items()}
    return Place(
        position=position,
        accuracy=_accuracy(probes, position),
        probe_table=comparing.probe_table(probes) if probes else None,
        label_table=comparing.label_table(probes) if probes else None,
        depth=picture(
            f"depth-{position}",
            figures.depth_profiles(scores, keys, families.layer_accuracy(runs, position)),
            "Lines of strength, of key neurons and of the accuracy of layer probes over relative "
            "depth, one for each run.",
        ),
        depth_table=families.depth_table(runs, position),
        relation_table=families.relation_table(pairs),
        agreements=[_agreement(a, i) for i, a in enumerate(families.agreements(pairs))],
        shared=_shared(pairs, position),
        shared_table=families.shared_table(pairs),
        apart=[pair.name for pair in pairs if not pair.relation.is_family],
    )


def _shared(pairs: Sequence[families.RunPair], position: str) -> Picture | None:
    tables = {p.name: p.shared for p in pairs if p.shared is not None and len(p.shared)}
    if not tables:
        return None
    shown = dict(list(tables.items())[:MOST_PAIRS])
    words = (
        "Matrix of the key neurons of every label that two runs share. Means of shares: "
        + ", ".join(
            f"{name} {number(families.shares(table)['share'].mean(), 2)}"
            for name, table in shown.items()
        )
    )
    return picture(f"shared-{position}", figures.shared_neurons(shown), f"{words}.")


def _accuracy(probes: Any, position: str) -> Picture | None:
    if not probes:
        return None
    text = ", ".join(f"{name} {p.accuracy:.3f}" for name, p in probes.items())
    words = f"Dots of accuracy beside baselines, a row for each run: {text}."
    return picture(f"accuracies-{position}", figures.probe_accuracies(probes), words)


def _agreement(agreement: families.Agreement, i: int) -> Picture:
    words = (
        "Matrix of the share of key neurons that every two runs of one family have in common: "
        f"{', '.join(agreement.names)}."
    )
    figure = figures.agreement_matrix(agreement.names, agreement.share, agreement.expected)
    return picture(f"agreement-{agreement.position}-{i}", figure, words)


def _damage(studies: Any) -> Picture | None:
    if not studies:
        return None
    text = ", ".join(f"{name} {s.diagonal_mean:+.3f}" for name, s in studies.items())
    words = f"Dots of the rise in each label's own tag loss. Means in nats: {text}."
    return picture("damage", figures.own_damage(studies), words)


def _matrices(studies: Any) -> Picture | None:
    if not studies:
        return None
    words = "The lesion matrices of all runs, on one colour scale."
    return picture("matrices", figures.lesion_matrices(studies), words)
