"""Agreement of two sets of words, as of two languages, on the neurons of one model.

Agreement is bounded from above by that of two halves of the same words, and from below by that of
exchanged labels, where neurons that vary more than others may still meet. Halves are compared with
halves, so that all of it rests on equal numbers of words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import reliability
from grammar_lens.neurons.selection import select
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


@dataclass(frozen=True)
class Choice:
    """Scores, and the key neurons chosen from them."""

    scores: Scores
    keys: KeyNeurons


@dataclass(frozen=True)
class Choices:
    """Neurons chosen from one set of words: all of it, its halves, and with exchanged labels.

    `scores` are as scored, with their null; those of the choices are what lies beyond it.
    """

    scores: Scores
    whole: Choice
    halves: tuple[Choice, Choice]
    shams: tuple[Choice, ...]


def choices(evidence: Evidence, method: str, k: int, *, sign: str = "absolute") -> Choices:
    """The `k` strongest neurons of every label, chosen from all words, from halves, and from shams.

    Scores are taken from their mean under exchanged labels, which is what a word's place in its
    sentence gives: languages share it, so it would pass for agreement.
    Raises GrammarLensError for evidence without halves, or whose halves lack a label, and for a score
    without a null.
    """
    whole, halves = score(evidence, method), evidence.split()
    if halves is None or halves[0].moments.labels != whole.labels:
        raise GrammarLensError(
            f"{evidence.moments.origin.treebank}: some labels have too few words in a half to be "
            "scored there: use more words, or fewer labels"
        )
    null = whole.null
    if null is None:
        raise GrammarLensError(
            f"the score {method!r} has no null: collect with replicates=20 or more"
        )

    def choice(values: Float[np.ndarray, "label layer unit"]) -> Choice:
        beyond = replace(whole, values=values - null.mean, neutral=0.0, null=None)
        return Choice(beyond, select(beyond, k, sign=sign))

    first, second = (choice(score(half, method).values) for half in halves)
    shams = tuple(choice(values.astype(np.float64)) for values in null.shams)
    return Choices(whole, choice(whole.values), (first, second), shams)


def score_correlation(first: Scores, second: Scores) -> Float[np.ndarray, " label"]:
    """Pearson correlation of two scores over all neurons, label by label; 0 where one is constant.

    Raises GrammarLensError for scores of other labels or units.
    """
    spaces = [(s.labels, s.values.shape, s.method) for s in (first, second)]
    if spaces[0] != spaces[1]:
        raise GrammarLensError(
            f"the two scores differ in labels, units or method: {spaces[0]} and {spaces[1]}; "
            "score both on the same model with the same labels"
        )
    flat = [s.values.reshape(len(s.labels), -1) for s in (first, second)]
    a, b = (x - x.mean(1, keepdims=True) for x in flat)
    length = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), length, out=np.zeros(len(a)), where=length > 0)


def cross_overlap(first: KeyNeurons, second: KeyNeurons) -> Float[np.ndarray, "label label"]:
    """Shared neurons over the smaller set, of every label of one choice with every label of another.

    The diagonal is one label chosen twice, as from two halves of the words; where what stands beside
    it is as large, the choice is of words at large and not of the label. NaN for empty sets.
    """
    one, other = ([set(keys[x]) for x in keys] for keys in (first, second))
    shared = np.array([[len(a & b) for b in other] for a in one], float)
    smaller = np.array([[min(len(a), len(b)) for b in other] for a in one], float)
    return np.divide(shared, smaller, out=np.full_like(shared, np.nan), where=smaller > 0)


def agreement(first: Choice, second: Choice) -> pd.DataFrame:
    """Agreement of two choices, a row per label.

    `shared` neurons, `jaccard` and `coefficient` (shared / smaller set); `expected_coefficient` and
    `p_value` are of sets drawn at random within their layers. `correlation` is of the scores.
    """
    halves = reliability(first.keys, second.keys)
    smaller = np.maximum(np.minimum(halves.n_first, halves.n_second), 1)
    columns = {
        "shared": halves.shared,
        "jaccard": halves.jaccard,
        "coefficient": halves.shared / smaller,
        "expected_coefficient": halves.expected / smaller,
        "p_value": halves.p_value,
        "correlation": score_correlation(first.scores, second.scores),
    }
    return pd.DataFrame(columns, index=pd.Index(halves.labels, name="label"))


def agreement_table(first: Choices, second: Choices) -> pd.DataFrame:
    """Agreement of two sets of words beside what chance and halves give, a row per label.

    The columns of `agreement`, of all words; and of the coefficient and the correlation: between
    halves of the two (`half_`, the mean of four pairs), between the halves of each (`ceiling_`, the
    mean of both), and between exchanged labels (`sham_`, the mean over pairs).
    """
    table = agreement(first.whole, second.whole)
    beside = {
        "half": list(product(first.halves, second.halves)),
        "ceiling": [first.halves, second.halves],
        "sham": list(product(first.shams, second.shams)),
    }
    for name, pairs in beside.items():
        agreements = [agreement(a, b) for a, b in pairs]
        for column in ("coefficient", "correlation"):
            table[f"{name}_{column}"] = np.mean([f[column] for f in agreements], axis=0)
    return table


def pairwise_agreement(choices: Mapping[str, Choices]) -> pd.DataFrame:
    """`agreement_table` of every two sets of words, a row per pair and tag."""
    tables = []
    for first, second in combinations(choices, 2):
        table = agreement_table(choices[first], choices[second]).reset_index(names="tag")
        table.insert(0, "first", first)
        table.insert(1, "second", second)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
