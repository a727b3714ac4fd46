"""Tables that compare several runs: settings, probes and lesions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.errors import GrammarLensError, counted
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.report.protocols import RunLike, results_of
from grammar_lens.report.result_tables import DASH, Cell, Table, flat, measured, small

Runs = Mapping[str, RunLike]


def named(runs: Sequence[RunLike]) -> dict[str, RunLike]:
    """Runs by the shortest end of their path that distinguishes them.

    Raises GrammarLensError for fewer than two, and for one that is given twice.
    """
    if len(runs) < 2:
        raise GrammarLensError(f"{counted(len(runs), 'run')} given, expected 2 or more to compare")
    paths = [getattr(run, "address", run.path) for run in runs]
    parts = [path.resolve().parts for path in paths]
    twice = [paths[i] for i in range(len(runs)) if parts[i] in parts[:i]]
    if twice:
        raise GrammarLensError(f"{twice[0]} is given twice: name every run once")
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    raise AssertionError("different paths have different names")


def settings(runs: Runs) -> tuple[Table, list[tuple[str, str]]]:
    """The settings in which the runs differ, a row each, and those that all share."""
    each = [dict(flat(run.record.get("config", {}))) for run in runs.values()]
    rows: list[list[Cell]] = []
    same: list[tuple[str, str]] = []
    for name in dict.fromkeys(key for one in each for key in one):
        values = [one.get(name, DASH) for one in each]
        if len(set(values)) == 1:
            same.append((name, values[0]))
        else:
            rows.append([(name, name), *((v, v) for v in values)])
    return Table(("Setting", *runs), rows), same


def cautions(runs: Runs, *, one_family: bool = False) -> list[str]:
    """Reasons why the numbers cannot be compared directly; models of one family have one vocabulary."""
    sentences = []
    for what, values, why in (
        (
            "label",
            _each(runs, "config", "label"),
            "accuracies and losses are of different questions",
        ),
        ("held-out words", _fresh(runs), "compare each accuracy with its own baselines"),
        (
            "vocabulary of the model",
            [] if one_family else _each(runs, "model", "name"),
            "words have other tokens there, so losses in nats differ for that reason alone; compare "
            "each with its shams and with the intact loss",
        ),
        ("score", _scores(runs), "strengths have different units; only their order compares"),
        ("number of key neurons", _each(runs, "config", "top_k"), "a larger set does more damage"),
        ("number of shams", _each(runs, "config", "shams"), "p cannot go below 1 / (1 + shams)"),
        (
            "value of the lesion",
            [run.record.get("config", {}).get("values", [DASH])[0] for run in runs.values()],
            "damage depends on it",
        ),
        ("context", _each(runs, "config", "context"), "predictions are better with more of it"),
    ):
        if len(set(values)) > 1:
            sentences.append(f"The {what} differs ({', '.join(dict.fromkeys(values))}): {why}.")
    return sentences


def _each(runs: Runs, part: str, name: str) -> list[str]:
    return [str(run.record.get(part, {}).get(name, DASH)) for run in runs.values()]


def _fresh(runs: Runs) -> list[str]:
    banks = [run.record.get("treebank", {}).get("fresh", {}) for run in runs.values()]
    return [str(bank.get("name", DASH)) for bank in banks]


def _scores(runs: Runs) -> list[str]:
    return [
        ", ".join(f"{r.scores.method} at {r.position}" for r in results_of(run)) or DASH
        for run in runs.values()
    ]


def probes_at(runs: Runs, position: str) -> dict[str, ProbeResult]:
    """The probes of one position, of the runs that have one."""
    return {
        name: r.probe
        for name, run in runs.items()
        for r in results_of(run)
        if r.position == position and r.probe is not None
    }


def probe_table(probes: Mapping[str, ProbeResult]) -> Table:
    """Accuracy of every run with all its baselines."""
    rows: list[list[Cell]] = [
        [
            (name, name),
            (f"{p.n_neurons:,}", p.n_neurons),
            *(
                measured(x, 3)
                for x in (
                    *(p.accuracy, p.random_accuracy, p.word_baseline_accuracy),
                    *(p.majority_accuracy, p.control_accuracy, p.macro_f1),
                )
            ),
            (f"{p.n_fresh_words:,}", p.n_fresh_words),
        ]
        for name, p in probes.items()
    ]
    baselines = ("Random neurons", "Word alone", "Majority", "Control task")
    return Table(("Run", "Neurons", "Accuracy", *baselines, "Macro F1", "Held-out words"), rows)


def label_table(probes: Mapping[str, ProbeResult]) -> Table:
    """F1 of every label in every run."""
    labels = dict.fromkeys(label for p in probes.values() for label in p.labels)
    rows: list[list[Cell]] = []
    for label in labels:
        row: list[Cell] = [(label, label)]
        for p in probes.values():
            known = label in p.per_label.index and p.per_label.loc[label, "n_words"]
            row.append(measured(float(p.per_label.loc[label, "f1"]), 3) if known else (DASH, None))  # pyright: ignore[reportArgumentType]
        rows.append(row)
    return Table(("Tag", *probes), rows)


def lesion_table(runs: Runs) -> Table:
    """The lesion study of every run that has one: damage, shams, p, crossed pairs."""
    rows: list[list[Cell]] = []
    for name, run in runs.items():
        s = run.study
        if s is None:
            continue
        sham = float(np.diag(s.sham_mean).mean()) if s.n_shams else None
        possible = len(s.labels) * (len(s.labels) - 1) // 2
        pairs = len(s.deciding.crossed_pairs)
        rows.append(
            [
                (name, name),
                (str(s.k), s.k),
                measured(s.diagonal_mean, 3, plus=True),
                measured(s.off_diagonal_mean, 3, plus=True),
                measured(sham, 3, plus=True),
                measured(s.specificity, 2),
                small(s.deciding.p_value),
                (f"{s.deciding.n_shams}", s.deciding.n_shams),
                (f"{pairs} of {possible}", pairs / max(possible, 1)),
                measured(s.base_tag_loss, 3),
                (f"{s.n_words.sum():,}", int(s.n_words.sum())),
            ]
        )
    return Table(
        (
            *("Run", "Neurons per tag", "Own words (nats)", "Other words (nats)"),
            *("Own words, shams (nats)", "Specificity", "p", "Shams", "Double dissociations"),
            *("Tag loss, intact (nats)", "Words"),
        ),
        rows,
    )


def damage_table(studies: Mapping[str, LesionStudy]) -> Table:
    """Every label in every study: damage to its own words, that of its shams, and its specificity.

    Specificity is 1 - mean damage to other labels' words / damage to its own; none where these do not suffer.
    """
    labels = dict.fromkeys(label for s in studies.values() for label in s.labels)
    rows: list[list[Cell]] = []
    for label in labels:
        row: list[Cell] = [(label, label)]
        for s in studies.values():
            if label not in s.labels:
                row += [(DASH, None)] * 3
                continue
            i = s.labels.index(label)
            own, others = float(s.matrix[i, i]), np.delete(s.matrix[i], i)
            sham = float(s.sham_mean[i, i]) if s.n_shams else None
            specific = 1 - float(others.mean()) / own if own > 0 and len(others) else None
            row += [
                measured(own, 3, plus=True),
                measured(sham, 3, plus=True),
                measured(specific, 2),
            ]
        rows.append(row)
    each = (
        f"{name}: {what}" for name in studies for what in ("own (nats)", "shams", "specificity")
    )
    return Table(("Tag", *each), rows)


def paths(runs: Runs) -> list[tuple[str, str]]:
    """The folder and date of each run."""
    return [
        (
            name,
            f"{Path(getattr(run, 'address', run.path))} · {run.record.get('started', 'no date')}",
        )
        for name, run in runs.items()
    ]
