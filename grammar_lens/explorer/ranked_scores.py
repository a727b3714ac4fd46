"""Scores of a stored run, by any method its stored data allow; no model is needed."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.errors import GrammarLensError, require_neuron
from grammar_lens.neurons.address import Address, parse_address
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.runs.run import Run
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score

KEPT = 4
"""Scores that are kept at a time: those of a large model take hundreds of megabytes."""


@dataclass(frozen=True)
class Ranked:
    """Scores at one position, how strong they are, and the neurons chosen by them."""

    scores: Scores
    strength: Float[np.ndarray, "label layer unit"]
    keys: KeyNeurons


class Findings:
    """A run's scores by any method, its key neurons and single neurons; for many threads at once.

    Raises GrammarLensError for a run without key neurons.
    """

    def __init__(self, run: Run) -> None:
        run.require("select")
        self.run = run
        self.positions = run.positions
        self._evidence: dict[str, Evidence] = {p: run.evidence(p) for p in run.positions}
        self._own = {p: run.scores_at(p).method for p in run.positions}
        self._ranked: OrderedDict[tuple[str, str], Ranked] = OrderedDict()
        self._ranking = Lock()

    def labels(self, position: str) -> tuple[str, ...]:
        """The labels that have scores."""
        return self._of_position(position).moments.labels

    def methods(self, position: str) -> tuple[str, ...]:
        """Scores that can be computed from what the run stored, its own first."""
        known = self._of_position(position)
        own = self._own[position]
        others = [
            m.name
            for m in SCORES.values()
            if m.name != own and (m.needs == "moments" or getattr(known, m.needs) is not None)
        ]
        return (own, *others)

    def _of_position(self, position: str) -> Evidence:
        if position not in self._evidence:
            raise GrammarLensError(
                f"the run did not read {position!r}: it has {', '.join(self.positions)}"
            )
        return self._evidence[position]

    def scores(self, position: str, method: str) -> Scores:
        """Every neuron's score for every label; kept for the next time.

        Raises GrammarLensError for a position or a score that the run does not allow.
        """
        return self._at(position, method).scores

    def keys(self, position: str, method: str) -> KeyNeurons:
        """The run's own key neurons, or by another score as many of the strongest."""
        return self._at(position, method).keys

    def _at(self, position: str, method: str) -> Ranked:
        if method not in self.methods(position):
            raise GrammarLensError(
                f"{method!r} cannot be computed from what the run stored at {position!r}: there are "
                f"{', '.join(self.methods(position))}"
            )
        with self._ranking:
            ranked = self._ranked.pop((position, method), None) or self._rank(position, method)
            self._ranked[position, method] = ranked
            while len(self._ranked) > KEPT:
                self._ranked.popitem(last=False)
        return ranked

    def _rank(self, position: str, method: str) -> Ranked:
        if method == self._own[position]:
            scores, keys = self.run.scores_at(position), self.run.keys_at(position)
        else:
            scores = score(self._evidence[position], method)
            sign = self.run.config.get("sign", "absolute") if scores.best == "far" else "absolute"
            keys = select(scores, max(self.run.keys_at(position).k, 1), sign=sign)
        return Ranked(scores, scores.strength(), keys)

    def first(self, position: str, method: str, label: str, k: int) -> Neurons:
        """A label's first `k` key neurons. Raises GrammarLensError where it has none."""
        keys = self.keys(position, method)
        if label not in keys or not len(keys[label]):
            raise GrammarLensError(
                f"{label} has no key neurons by {method} ({keys.rule}): choose another tag or score"
            )
        return keys[label].top(k)

    def most(self, position: str, method: str, label: str) -> int:
        """Number of key neurons of a label, at least 1."""
        keys = self.keys(position, method)
        return max(len(keys[label]) if label in keys else 0, 1)

    def picked(self, position: str, method: str, text: str) -> Neurons:
        """The neurons named in a text such as "5.123, 7.20", each once.

        Raises GrammarLensError for anything else, and for neurons that do not exist.
        """
        if not text.replace(",", " ").replace(";", " ").split():
            raise GrammarLensError("No neuron is picked: write some as layer.index, such as 0.12")
        found = self.keys(position, method).pick(text)
        return replace(found, name="picked") if len(found) > 1 else found

    def address(self, position: str, text: str) -> Address:
        """A neuron's layer and index from "layer.index". Raises GrammarLensError if there is none such."""
        n_layers, n_units = self._of_position(position).moments.mean.shape[1:]
        at = parse_address(text)
        require_neuron(*at, n_layers, n_units)
        return at

    def neuron(self, position: str, method: str, at: Address) -> pd.DataFrame:
        """A row per label: score, cohens_d, rank (1 is its strongest neuron), mean, sd, fires, words.

        Mean and standard deviation are of the activation at the label's words; `fires` is the share of
        them at which the neuron fires.
        """
        ranked, moments = self._at(position, method), self._evidence[position].moments
        neuron = (slice(None), *at)
        strength = ranked.strength.reshape(len(moments.labels), -1)
        strengths = ranked.strength[neuron]
        spread = moments.m2[neuron] / np.maximum(moments.count - 1, 1)
        return pd.DataFrame(
            {
                "label": moments.labels,
                "score": ranked.scores.values[neuron],
                "cohens_d": ranked.scores.effect[neuron],
                "rank": 1 + (strength > strengths[:, None]).sum(1),
                "mean": moments.mean[neuron],
                "sd": np.sqrt(spread),
                "fires": moments.fired[neuron] / np.maximum(moments.count, 1),
                "words": moments.count.astype(int),
            }
        )
