"""Evaluate one probe on key neurons: accuracy on held-out words beside all baselines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.passes.workers import each_of
from grammar_lens.probing.baselines import (
    ambiguous,
    bootstrap_interval,
    control_labels,
    majority_accuracy,
    share_right,
    unseen,
    word_answers,
)
from grammar_lens.probing.code_length import PORTIONS, online_code_length, uniform_code_length
from grammar_lens.probing.fitted import FittedProbe, fitted_probe
from grammar_lens.probing.fitting import Device, Fitter, Probe, Standardised, fit, scale
from grammar_lens.probing.prediction import (
    calibrated_losses,
    halves,
    information_gained,
    lookup_losses,
)
from grammar_lens.probing.probe_words import Columns, ProbeWords, check_words
from grammar_lens.progress import track

Fit = tuple[Int[np.ndarray, " column"], list[Int[np.ndarray, " train"]]]
"""Feature columns, and the labelings of the training words that probes on them are fitted to."""


@dataclass(frozen=True)
class ProbeResult(Shown):
    """Accuracy on held-out words, per label and overall, beside its baselines; all in [0, 1].

    `selectivity` is accuracy minus `control_accuracy`. `per_label` has precision, recall, f1 and
    n_words; `confusion[i, j]` counts words of label i called j. What stands at the end is None in a
    result stored before it was measured.
    """

    labels: tuple[str, ...]
    k: int
    n_neurons: int
    n_train_words: int
    n_fresh_words: int
    accuracy: float
    random_accuracy: float | None
    """Mean of `random_accuracies`; None when none was drawn."""
    random_accuracies: tuple[float, ...]
    layer: int
    layer_accuracy: float
    majority_accuracy: float
    word_baseline_accuracy: float
    control_accuracy: float
    unseen_accuracy: float | None
    """Accuracy on words whose `key` no training word had; None when there are none."""
    n_unseen_words: int
    macro_f1: float
    per_label: pd.DataFrame
    confusion: Int[np.ndarray, "label label"]
    dropped_duplicates: int
    fresh: str
    origin: Origin
    ambiguous_accuracy: float | None = None
    """Accuracy on words whose `key` training words had under two labels or more, each twice or
    more; None when there are none."""
    ambiguous_word_baseline_accuracy: float | None = None
    """The word baseline's accuracy on the same words."""
    n_ambiguous_words: int | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    code_length: float | None = None
    """Bits to send the training words' labels online (Voita & Titov 2020)."""
    uniform_code_length: float | None = None
    cross_entropy: float | None = None
    """Mean loss (nats) of the label under the probe, its logits divided by a temperature that is
    taken from the other half of the held-out sentences."""
    word_cross_entropy: float | None = None
    """Mean loss given the word type that `word_baseline_accuracy` knows."""
    model_cross_entropy: float | None = None
    """Mean loss under the model's own prediction, where the label of the next word is predicted."""
    fitted: FittedProbe | None = None
    """The probe itself, where the addresses of its units were given; kept apart from the numbers."""

    @property
    def position(self) -> str:
        return self.origin.position

    @property
    def selectivity(self) -> float:
        return self.accuracy - self.control_accuracy

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """95 % percentile bootstrap interval of `accuracy`, over sentences where they are known."""
        if self.accuracy_low is None or self.accuracy_high is None:
            return None
        return self.accuracy_low, self.accuracy_high

    @property
    def compression(self) -> float | None:
        """Uniform over online code length: 1 or less where the units are uninformative."""
        if self.code_length is None or self.uniform_code_length is None:
            return None
        return self.uniform_code_length / self.code_length

    @property
    def information_gained(self) -> float | None:
        """The part of what the model's own prediction knows beyond the word before that the probe has.

        (CE of the word before - CE of the probe) / (CE of the word before - CE of the model); None at
        `word`, and where the model predicts the label no better than the word before.
        """
        losses = (self.word_cross_entropy, self.cross_entropy, self.model_cross_entropy)
        baseline, probe, model = losses
        if baseline is None or probe is None or model is None:
            return None
        return information_gained(baseline, probe, model)

    def to_frame(self) -> pd.DataFrame:
        """A row per label: precision, recall, f1, n_words."""
        return self.per_label

    def __repr__(self) -> str:
        random = "none" if self.random_accuracy is None else f"{self.random_accuracy:.3f}"
        return (
            f"ProbeResult on {self.fresh}, position {self.position!r}, {self.n_neurons} neurons: "
            f"accuracy {self.accuracy:.3f} (random neurons {random}, word alone "
            f"{self.word_baseline_accuracy:.3f}, majority {self.majority_accuracy:.3f}, control "
            f"task {self.control_accuracy:.3f}), macro F1 {self.macro_f1:.3f}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        return [self.per_label]


def evaluate(
    train: ProbeWords,
    fresh: ProbeWords,
    columns: Columns,
    labels: Sequence[str],
    *,
    k: int,
    rng: np.random.Generator,
    dropped_duplicates: int,
    fresh_name: str,
    origin: Origin,
    addresses: Int[np.ndarray, "column two"] | None = None,
    model_losses: Float[np.ndarray, " fresh"] | None = None,
    device: Device = "cpu",
    show_progress: bool = False,
) -> ProbeResult:
    """Fits the probe and every baseline on `train` and judges them on `fresh`.

    `addresses` are the (layer, index) of the features; with them the result keeps the fitted probe.
    `model_losses` are those of the held-out words' labels under the model's own prediction, in nats.
    Probes are fitted on `device`.
    Raises GrammarLensError without words, with a single label among the training words, or without key
    neurons.
    """
    check_words(train, fresh)
    if len(columns.key) == 0:
        raise GrammarLensError(
            "there are no key neurons to probe: the rule chose none (--alpha 1 takes the strongest whatever their null), or "
            "no score differs from zero"
        )
    features = scale(train.features, fresh.features)
    control = control_labels(train, fresh, len(labels), rng)
    answered = word_answers(train, fresh) == fresh.classes
    new, several = unseen(train, fresh), ambiguous(train, fresh)
    n_words, n_units = train.features.shape[0], len(columns.key)
    layers = columns.layers or {columns.layer_number: columns.layer}
    # real and control labels, all portions together about once more, random draws, and the layer
    work = n_words * (n_units * (3 + len(columns.random)) + sum(map(len, layers.values())))
    n_fits = len(PORTIONS) + 1 + len(columns.random) + len(layers)
    with track(
        "fitting probes", work, unit="probes", each=n_fits / work, show=show_progress
    ) as advance:
        fitter = Fitter(features, device)
        layer_number, layer = _best_layer(
            fitter, columns, train, rng, lambda units: advance(n_words * units)
        )

        def answers(piece: Fit) -> tuple[list[Probe], list[Int[np.ndarray, " fresh"]]]:
            units, probes = fitter.fit(*piece)
            return probes, [probe.predict(units.fresh) for probe in probes]

        real = [train.classes]
        fits: list[Fit] = [(layer, real), (columns.key, [*real, control[0]])]
        fits += [(draw, real) for draw in columns.random]
        # where several layers were tried, the fit of the best one is not counted beside these
        counted = fits[1:] if columns.layers else fits
        (_, (by_layer,)), ((probe, _), (predicted, controlled)), *draws = each_of(
            answers,
            fits,
            device,
            lambda piece: advance(
                n_words * len(piece[0]) * len(piece[1]) * any(piece is x for x in counted)
            ),
            size=lambda piece: len(piece[0]),
        )
        right = predicted == fresh.classes
        random = [float((by_draw == fresh.classes).mean()) for _, (by_draw,) in draws]
        key = features.units(columns.key)
        low, high = bootstrap_interval(right, fresh.groups, rng)
        code_length = online_code_length(
            key.train,
            train.classes,
            train.groups,
            len(labels),
            rng,
            device=device,
            progress=lambda words: advance(words * n_units),
        )
    table = _per_label(fresh.classes, predicted, labels)
    return ProbeResult(
        labels=tuple(labels),
        k=k,
        n_neurons=len(columns.key),
        n_train_words=len(train.classes),
        n_fresh_words=len(fresh.classes),
        accuracy=float(right.mean()),
        random_accuracy=float(np.mean(random)) if random else None,
        random_accuracies=tuple(random),
        layer=layer_number,
        layer_accuracy=float((by_layer == fresh.classes).mean()),
        majority_accuracy=majority_accuracy(train.classes, fresh.classes),
        word_baseline_accuracy=float(answered.mean()),
        control_accuracy=float((controlled == control[1]).mean()),
        unseen_accuracy=share_right(right, new),
        n_unseen_words=int(new.sum()),
        # labels without held-out words have no F1 to average
        macro_f1=float(table.f1[table.n_words > 0].mean()),
        per_label=table,
        confusion=confusion_matrix(fresh.classes, predicted, labels=range(len(labels))),
        dropped_duplicates=dropped_duplicates,
        fresh=fresh_name,
        origin=origin,
        ambiguous_accuracy=share_right(right, several),
        ambiguous_word_baseline_accuracy=share_right(answered, several),
        n_ambiguous_words=int(several.sum()),
        accuracy_low=low,
        accuracy_high=high,
        code_length=code_length,
        uniform_code_length=uniform_code_length(len(train.classes), len(labels)),
        cross_entropy=_cross_entropy(probe, key, fresh, len(labels)),
        word_cross_entropy=float(
            lookup_losses(train.key, train.classes, fresh.key, fresh.classes, len(labels)).mean()
        ),
        model_cross_entropy=None if model_losses is None else float(model_losses.mean()),
        fitted=None
        if addresses is None
        else fitted_probe(
            probe, train.columns(columns.key), addresses[columns.key], tuple(labels), origin
        ),
    )


def _cross_entropy(probe: Probe, key: Standardised, fresh: ProbeWords, n_labels: int) -> float:
    """Mean calibrated loss on the held-out words; a label without training words counts as half a word."""
    known = probe.log_probability(key.fresh)
    logits = np.full((len(fresh.classes), n_labels), np.log(0.5 / len(key.train)))
    logits[:, probe.classes] = known.T
    fold = halves(fresh.groups, np.random.default_rng(0))
    return float(calibrated_losses(logits, fresh.classes, fold).mean())


def _per_label(
    classes: Int[np.ndarray, " word"], predicted: Int[np.ndarray, " word"], labels: Sequence[str]
) -> pd.DataFrame:
    scores = precision_recall_fscore_support(
        classes,
        predicted,
        labels=range(len(labels)),
        zero_division=0.0,  # pyright: ignore[reportArgumentType]
    )
    return pd.DataFrame(
        dict(zip(("precision", "recall", "f1", "n_words"), scores, strict=True)), index=list(labels)
    ).rename_axis("label")


def _best_layer(
    fitter: Fitter,
    columns: Columns,
    train: ProbeWords,
    rng: np.random.Generator,
    progress: Callable[[int], None],
) -> tuple[int, Int[np.ndarray, " _"]]:
    """The layer with the best accuracy on held-out training words, the lowest of equals.

    `progress` is told of the units of every layer tried; a single layer is not.
    """
    if not columns.layers:
        return columns.layer_number, columns.layer
    groups = np.unique(train.groups)
    drawn = rng.choice(groups, max(1, len(groups) // 5), replace=False)
    held = np.isin(train.groups, drawn)

    def accuracy_of(layer: int) -> float:
        units = fitter.features.units(columns.layers[layer]).train
        probe = fit(units[~held], train.classes[~held], device=fitter.device)
        return float((probe.predict(units[held]) == train.classes[held]).mean())

    numbers = sorted(columns.layers)
    accuracies = each_of(
        accuracy_of, numbers, fitter.device, lambda layer: progress(len(columns.layers[layer]))
    )
    best = numbers[int(np.argmax(accuracies))]
    return best, columns.layers[best]
