"""Accuracy as a function of the number of neurons, for several rankings, and by layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.metrics import f1_score

from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.workers import each_of
from grammar_lens.probing.baselines import (
    ambiguous,
    control_labels,
    majority_accuracy,
    share_right,
    unseen,
    word_baseline_accuracy,
)
from grammar_lens.probing.fitting import Device, Fitter, Probe, fit, fit_svm, scale
from grammar_lens.probing.probe_words import ProbeWords, check_words
from grammar_lens.progress import track

RANDOM = "random"
"""The name of the rows for random neurons."""

Ranking = Sequence[Int[np.ndarray, " _"]]
"""For each k the feature columns that a ranking takes, without repetition."""

Classifier = Callable[[Float[np.ndarray, "word unit"], Int[np.ndarray, " word"]], Probe]
"""Fits standardised features to classes."""
CLASSIFIERS: dict[str, Classifier] = {"logistic": fit, "svm": fit_svm}


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy of one ranking at one k; None where there are no such words, draws or control.

    `n_neurons` is the number of distinct neurons, for random ones the draws' mean. `random_accuracy`
    is the random neurons' mean at the same k.
    """

    score: str
    k: int
    n_neurons: float
    accuracy: float
    control_accuracy: float | None
    random_accuracy: float | None
    unseen_accuracy: float | None
    ambiguous_accuracy: float | None
    macro_f1: float


@dataclass(frozen=True)
class ProbeCurve(Shown):
    """Accuracy on held-out words against k, for every ranking, with the baselines that need no k."""

    points: tuple[CurvePoint, ...]
    majority_accuracy: float
    word_baseline_accuracy: float
    n_train_words: int
    n_fresh_words: int

    def to_frame(self) -> pd.DataFrame:
        """A row per ranking and k, with the fields of `CurvePoint`; NaN where a field is None."""
        names = [f.name for f in fields(CurvePoint)]
        frame = pd.DataFrame([asdict(p) for p in self.points], columns=pd.Index(names))
        return frame.astype(dict.fromkeys(names[2:], float))

    def __repr__(self) -> str:
        scores = dict.fromkeys(p.score for p in self.points)
        ks = dict.fromkeys(p.k for p in self.points)
        return (
            f"ProbeCurve of {', '.join(scores)} at k = {', '.join(map(str, ks))} on "
            f"{self.n_fresh_words:,} held-out words (majority {self.majority_accuracy:.3f}, word alone "
            f"{self.word_baseline_accuracy:.3f})"
        )

    def _title(self) -> str:
        return f"{self!r}; accuracy by k"

    def _tables(self) -> list[pd.DataFrame]:
        return [self.to_frame().pivot_table("accuracy", "score", "k", sort=False)]


def curve(
    train: ProbeWords,
    fresh: ProbeWords,
    rankings: Mapping[str, Ranking],
    ks: Sequence[int],
    *,
    rng: np.random.Generator,
    random: Sequence[Ranking] = (),
    control: bool = True,
    device: Device = "cpu",
    show_progress: bool = False,
) -> ProbeCurve:
    """Accuracy of a probe on each ranking's columns at each k, all with the same control task.

    `rankings[name][i]` are the columns at `ks[i]`, and so are `random[draw][i]`; the draws' means
    become the rows "random". Without `control` no control task is fitted, which takes half the time.
    Probes are fitted on `device`.
    Raises GrammarLensError for words that cannot be probed and for rankings that do not fit `ks`.
    """
    check_words(train, fresh)
    for name, ranking in [*rankings.items(), *((RANDOM, draw) for draw in random)]:
        _check_ranking(name, ranking, ks)
    if RANDOM in rankings and random:
        raise GrammarLensError(
            f"a ranking is called {RANDOM!r}, which names the draws: call it otherwise"
        )
    every = [
        (name, k, columns)
        for name, ranking in [*((RANDOM, draw) for draw in random), *rankings.items()]
        for k, columns in zip(ks, ranking, strict=True)
    ]
    n_labelings = 2 if control else 1
    work = max(1, len(train.classes) * sum(len(columns) for *_, columns in every) * n_labelings)
    each = len(every) * n_labelings / work
    with track("fitting probes", work, unit="probes", each=each, show=show_progress) as advance:
        judge = _Judge(train, fresh, rng, control=control, device=device)
        done = each_of(
            lambda point: judge.point(*point),
            every,
            device,
            lambda point: advance(len(train.classes) * len(point[2]) * n_labelings),
            size=lambda point: len(point[2]),
        )
    n_drawn = len(random) * len(ks)
    levels = [_mean(done[i : n_drawn : len(ks)]) for i in range(len(ks))] if random else []
    points = [
        _beside(point, levels[i % len(ks)] if levels else None)
        for i, point in enumerate(done[n_drawn:])
    ]
    return ProbeCurve(
        points=(*points, *(_beside(level, level) for level in levels)),
        majority_accuracy=majority_accuracy(train.classes, fresh.classes),
        word_baseline_accuracy=word_baseline_accuracy(train, fresh),
        n_train_words=len(train.classes),
        n_fresh_words=len(fresh.classes),
    )


def per_layer(
    train: ProbeWords,
    fresh: ProbeWords,
    columns_by_layer: Mapping[int, Int[np.ndarray, " _"]],
    *,
    rng: np.random.Generator,
    classifier: Classifier = fit,
) -> pd.DataFrame:
    """Accuracy of a probe, or of another classifier, on each layer's columns alone.

    Columns: layer, n_neurons, accuracy, control_accuracy, majority_accuracy. A layer without columns
    is answered with the majority.
    """
    check_words(train, fresh)
    judge = _Judge(train, fresh, rng, classifier)
    layers = list(columns_by_layer.items())
    done = each_of(lambda layer: judge.point("", len(layer[1]), layer[1]), layers, "cpu")
    return pd.DataFrame(
        {
            "layer": [layer for layer, _ in layers],
            "n_neurons": [p.k for p in done],
            "accuracy": [p.accuracy for p in done],
            "control_accuracy": [p.control_accuracy for p in done],
            "majority_accuracy": majority_accuracy(train.classes, fresh.classes),
        }
    )


def round_robin(ranked_sets: Sequence[Int[np.ndarray, " _"]], n: int) -> Int[np.ndarray, " chosen"]:
    """The first `n` distinct neurons when each label in turn gives the best it has left.

    So rankings whose labels share many neurons are compared with others at the same number of them.
    There are fewer when all sets together hold fewer.
    """
    chosen: dict[int, None] = {}
    left = [iter(ranked.tolist()) for ranked in ranked_sets]
    while left and len(chosen) < n:
        for ranked in list(left):
            new = next((neuron for neuron in ranked if neuron not in chosen), None)
            if new is None:
                left.remove(ranked)
            elif len(chosen) < n:
                chosen[new] = None
    return np.array(list(chosen), np.int64)


def fewest_enough(
    sizes: Sequence[int], accuracies: Sequence[float], floor: float, part: float = 0.95
) -> int:
    """The smallest of `sizes` that gains `part` of what the best of them gains over `floor`.

    Raises GrammarLensError for no sizes, or for other numbers of sizes and accuracies.
    """
    if not sizes or len(sizes) != len(accuracies):
        raise GrammarLensError(
            f"{len(sizes)} sizes and {len(accuracies)} accuracies: expected one accuracy for each "
            "size, and at least one"
        )
    enough = floor + part * (max(accuracies) - floor)
    # where nothing gains anything, part of a negative gain lies above the best
    enough = min(enough, max(accuracies))
    return min(n for n, reached in zip(sizes, accuracies, strict=True) if reached >= enough)


class _Judge:
    """Scaled features, control labels and kinds of held-out words that all probes share."""

    def __init__(
        self,
        train: ProbeWords,
        fresh: ProbeWords,
        rng: np.random.Generator,
        classifier: Classifier = fit,
        control: bool = True,
        device: Device = "cpu",
    ) -> None:
        self.classifier = classifier
        self.fitter = Fitter(scale(train.features, fresh.features), device)
        n_labels = int(train.classes.max()) + 1
        self.tasks = [(train.classes, fresh.classes)]
        if control:
            self.tasks.append(control_labels(train, fresh, n_labels, rng))
        self.unseen, self.ambiguous = unseen(train, fresh), ambiguous(train, fresh)

    def point(self, score: str, k: int, columns: Int[np.ndarray, " _"]) -> CurvePoint:
        answers = self._answers(columns)
        (predicted, gold), *controlled = zip(answers, (f for _, f in self.tasks), strict=True)
        right = predicted == gold
        f1 = f1_score(
            gold,
            predicted,
            labels=np.unique(gold),
            average="macro",
            zero_division=0.0,  # pyright: ignore[reportArgumentType]
        )
        return CurvePoint(
            score=score,
            k=k,
            n_neurons=float(len(columns)),
            accuracy=float(right.mean()),
            control_accuracy=float(np.equal(*controlled[0]).mean()) if controlled else None,
            random_accuracy=None,
            unseen_accuracy=share_right(right, self.unseen),
            ambiguous_accuracy=share_right(right, self.ambiguous),
            macro_f1=float(f1),
        )

    def _answers(self, columns: Int[np.ndarray, " _"]) -> list[Int[np.ndarray, " fresh"]]:
        """Classes of the held-out words by a probe for each task."""
        labelings = [labels for labels, _ in self.tasks]
        if self.classifier is fit:
            units, probes = self.fitter.fit(columns, labelings)
        else:
            units = self.fitter.features.units(columns)
            probes = [self.classifier(units.train, labels) for labels in labelings]
        return [probe.predict(units.fresh) for probe in probes]


def _mean(points: Sequence[CurvePoint]) -> CurvePoint:
    """The mean of several draws at one k."""
    first = points[0]
    means = {
        name: None if value is None else float(np.mean([getattr(p, name) for p in points]))
        for name, value in asdict(first).items()
        if name not in ("score", "k")
    }
    return replace(first, **means)


def _beside(point: CurvePoint, level: CurvePoint | None) -> CurvePoint:
    """With what random neurons reach at the same k."""
    return replace(point, random_accuracy=None if level is None else level.accuracy)


def _check_ranking(name: str, ranking: Ranking, ks: Sequence[int]) -> None:
    if len(ranking) != len(ks):
        raise GrammarLensError(
            f"ranking {name!r} has {len(ranking)} sets of columns for {len(ks)} values of k: give one "
            "for each"
        )
    for k, columns in zip(ks, ranking, strict=True):
        repeated = len(columns) - len(np.unique(columns))
        if repeated:
            raise GrammarLensError(
                f"ranking {name!r} at k = {k} repeats {repeated} columns: give each once"
            )
