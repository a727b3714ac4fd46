"""Neurons of another tool in place of a choice from the run's own scores."""

from dataclasses import replace
from pathlib import Path

from grammar_lens.controls import SelectionControls, selection_controls
from grammar_lens.evidence import Evidence
from grammar_lens.interchange import read_neurons
from grammar_lens.run import Run, RunError
from grammar_lens.selection import KeyNeurons
from grammar_lens.selectivity import Scores


def imported(file: str, run: Run, position: str) -> KeyNeurons:
    """The neurons of a file, ranked as there, with the run's own scores at one position.

    Labels that the file does not have get none.
    Raises RunError for labels that the run does not study, and InterchangeError as `read_neurons`.
    """
    scores = run.scores_at(position)
    found = read_neurons(file, scores)
    unknown = [label for label in found if label not in scores.labels]
    if unknown:
        raise RunError(
            f"{file} has neurons of {unknown[0]!r}, which {run.path} does not study: its labels are "
            f"{', '.join(scores.labels)}"
        )
    none = next(iter(found.values())).top(0)
    sets = {}
    for label in scores.labels:
        neurons = found[label] if label in found else replace(none, name=label)
        values = scores[label][neurons.layer, neurons.index]
        sets[label] = replace(neurons, score=values, q=None)
    return replace(found, sets=sets, method=scores.method, rule=f"from {Path(file).name}")


def controls_of_imported(keys: KeyNeurons, scores: Scores, evidence: Evidence) -> SelectionControls:
    """Effects within word forms; null and halves judge a choice, and none was made here."""
    there = keys.only([label for label in keys if len(keys[label])])
    return selection_controls(
        there, replace(scores, null=None), replace(evidence, halves=None), keys.k
    )
