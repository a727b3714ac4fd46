"""The rule of Norouzi, Masjedi & Hitzler (2025) in numbers: its neurons, its accuracy, its claims.

Tables have a row per quantity or claim, with the mean over samples and its 95 % t-interval.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.neurons.choice_agreement import cross_overlap
from grammar_lens.neurons.controls import mean_interval
from grammar_lens.neurons.depth import depth_share
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import overlap
from grammar_lens.probing.curves import ProbeCurve, fewest_enough

THIRDS = ("first", "middle", "last")
_QUANTITIES = (
    ("distinct key neurons", "about 5,228", "union"),
    ("share of all neurons", "0.0114", "union_share"),
    ("distinct of all places (tags x k x layers)", "0.41 if k is per layer", "distinct_share"),
    ("overlap coefficient between tags", "", "coefficient"),
    ("  by chance", "", "expected_coefficient"),
    ("Jaccard overlap between tags", "", "jaccard"),
    ("  by chance", "", "expected_jaccard"),
    ("half against half, same tag", "", "halves_same_tag"),
    ("half against half, other tag", "", "halves_other_tag"),
    *((f"kept in the {x} third of layers", "", f"kept_{x}") for x in THIRDS),
    *((f"key neurons in the {x} third", "", f"keys_{x}") for x in THIRDS),
    *((f"all neurons in the {x} third", "", f"even_{x}") for x in THIRDS),
    ("accuracy, logistic, last layer", "up to 0.91 in the last layer", "last_logistic"),
    ("accuracy, SVM, last layer", "", "last_svm"),
    ("  random neurons of it, SVM", "", "last_random_svm"),
    ("accuracy, logistic, best layer", "", "best_logistic"),
    ("accuracy, SVM, best layer", "", "best_svm"),
    ("  random neurons of it, SVM", "", "best_random_svm"),
    ("  control task, SVM", "", "best_control_svm"),
    ("best layer, SVM", "last", "best_layer_svm"),
    ("majority tag", "", "majority"),
    ("form alone", "", "word_baseline"),
)
"""What is compared: its name, the paper's figure where it is known, and the column of a sample."""


def neuron_numbers(
    keys: KeyNeurons, halves: Sequence[KeyNeurons], per_layer: Float[np.ndarray, " layer"]
) -> dict[str, float]:
    """The number of neurons, the share that tags have in common, and their layers.

    `halves` are the choices on two halves of the words, `per_layer` how often a layer's neurons were kept.
    """
    union, sharing = keys.union(), overlap(keys)
    pairs = np.triu_indices(len(keys), 1)
    shares = ("coefficient", "expected_coefficient", "jaccard", "expected_jaccard")
    between = cross_overlap(*halves)
    counts = np.bincount(union[:, 0], minlength=keys.n_layers).astype(float)
    numbers = {
        "union": float(len(union)),
        "union_share": len(union) / (keys.n_layers * keys.n_units),
        "distinct_share": len(union) / max(1, sum(len(keys[x]) for x in keys)),
        **{name: float(getattr(sharing, name)[pairs].mean()) for name in shares},
        "halves_same_tag": float(between.diagonal().mean()),
        "halves_other_tag": float(between[~np.eye(len(keys), dtype=bool)].mean()),
    }
    for name, amount in (("kept", per_layer), ("keys", counts), ("even", np.ones(keys.n_layers))):
        thirds = depth_share(amount, len(THIRDS)).tolist()
        numbers |= {f"{name}_{x}": share for x, share in zip(THIRDS, thirds, strict=True)}
    return numbers


def accuracy_numbers(
    layers: pd.DataFrame, curve: ProbeCurve, n_units: int, enough: float
) -> dict[str, float]:
    """The best and the last layer's accuracy, and what share of the last layer is needed.

    `enough` is the share of the gain over the majority that counts as all of it.
    """
    numbers = {
        "majority": curve.majority_accuracy,
        "word_baseline": curve.word_baseline_accuracy,
    }
    for name, table in layers.groupby("classifier"):
        best, last = table.loc[table.accuracy.idxmax()], table.iloc[-1]
        numbers |= {
            f"best_{name}": float(best.accuracy),
            f"best_random_{name}": float(best.random_accuracy),
            f"best_control_{name}": float(best.control_accuracy),
            f"best_layer_{name}": float(best.layer),
            f"last_{name}": float(last.accuracy),
            f"last_random_{name}": float(last.random_accuracy),
        }
    for name, points in curve.to_frame().groupby("score"):
        sizes, reached = points.n_neurons.astype(int).tolist(), points.accuracy.tolist()
        fewest = fewest_enough(sizes, reached, curve.majority_accuracy, enough)
        numbers[f"needed_share_{name}"] = fewest / n_units
    return numbers


def beside_the_paper(samples: pd.DataFrame) -> pd.DataFrame:
    """Results beside what the paper is known to say; `samples` has a row per sample."""
    rows = [
        {"quantity": quantity, "paper": said, **_interval(samples[column])}
        for quantity, said, column in _QUANTITIES
    ]
    return pd.DataFrame(rows)


def claims(
    samples: pd.DataFrame, *, enough: float, kept_per_layer: bool, chosen_per_layer: bool
) -> pd.DataFrame:
    """Four claims of a summary of the paper: what is found, and whether the claim holds.

    Where neurons were kept and chosen layer by layer, nothing can be claimed about their layers.
    """
    even = 1 - samples["even_first"].iloc[0]
    deep = 1 - samples["keys_first" if kept_per_layer else "kept_first"]
    best = samples[["best_logistic", "best_svm"]].max(axis=1)
    needed = f"share of the last layer for {enough:.0%} of its gain over the majority"
    rows = (
        (
            "1,000 to 2,000 of 4,096 neurons of a layer are needed",
            needed,
            samples["needed_share_kept"],
            (1000 / 4096, 2000 / 4096),
        ),
        ("accuracy is over 85 %", "best layer, better classifier", best, (0.85, 1.0)),
        (
            "tags share 20 to 40 %",
            "overlap coefficient, mean of pairs",
            samples["coefficient"],
            (0.2, 0.4),
        ),
        ("tags share 20 to 40 %", "Jaccard, mean of pairs", samples["jaccard"], (0.2, 0.4)),
        (
            "they are in middle to late layers",
            f"share in the last two thirds (evenly spread {even:.2f})",
            deep,
            None if kept_per_layer and chosen_per_layer else (even, 1.0),
        ),
    )
    table = []
    for claim, measured, values, claimed in rows:
        interval = _interval(values)
        said = holds(interval["low"], interval["high"], claimed)
        table.append({"claim": claim, "measured": measured, **interval, "holds": said})
    return pd.DataFrame(table)


def holds(low: float, high: float, claimed: tuple[float, float] | None) -> str:
    """Says whether an interval lies within the range claimed: yes, no, or undecided."""
    if claimed is None:
        return "by construction"
    least, most = claimed
    if high < least or low > most:
        return "no"
    return "yes" if low >= least and high <= most else "undecided"


def _interval(values: pd.Series) -> dict[str, float]:
    return dict(zip(("found", "low", "high"), mean_interval(values.to_numpy(float)), strict=True))
