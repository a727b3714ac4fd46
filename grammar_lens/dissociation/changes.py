"""Changes of loss under lesions at words of the studied labels, the input of every statistic."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Ablation, Outcomes


@dataclass(frozen=True)
class Changes:
    """Rise of the tag loss (nats) of every word of a studied label, real lesions and shams apart.

    Lesions stand in the order of `labels`; `column` is the number of a word's own label in it.
    """

    labels: tuple[str, ...]
    place: Int[np.ndarray, " word"]
    """Positions of the words among all scored ones."""
    column: Int[np.ndarray, " word"]
    sentence: Int[np.ndarray, " word"]
    real: Float[np.ndarray, "label word"]
    sham: Float[np.ndarray, "replicate label word"]

    def matrix(self) -> Float[np.ndarray, "label label"]:
        """Mean rise by lesion (row) and by the words' label (column)."""
        return self.means(self.real)

    def sham_matrices(self) -> Float[np.ndarray, "replicate label label"]:
        return self.means(self.sham)

    def means(self, change: Float[np.ndarray, "*row word"]) -> Float[np.ndarray, "*row column"]:
        """Means over the words of each label."""
        own = (self.column[:, None] == np.arange(len(self.labels))).astype(float)
        return change @ (own / own.sum(0))

    def against(self, shams: Outcomes) -> "Changes":
        """The same real lesions, against other shams."""
        return replace(self, sham=_sham_rises(shams, self.labels, self.place))

    @property
    def n_words(self) -> Int[np.ndarray, " label"]:
        return np.bincount(self.column, minlength=len(self.labels))


def replicates(outcomes: Outcomes) -> list[int]:
    """The numbers of the shams, in order."""
    return sorted({c.replicate for c in outcomes.conditions} - {0})


def changes(outcomes: Outcomes, labels: tuple[str, ...]) -> Changes:
    """The changes under the lesions of one ablation and kind.

    Raises GrammarLensError when a lesion is missing or no word has one of the labels.
    """
    number = [outcomes.labels.index(label) for label in labels]
    words = np.flatnonzero(np.isin(outcomes.label, number))
    column = np.array([number.index(x) for x in outcomes.label[words].tolist()], np.int64)
    for n, label in enumerate(labels):
        if not (column == n).any():
            raise GrammarLensError(
                f"no scored word is {label!r}: leave it out or use other held-out data"
            )
    return Changes(
        labels=labels,
        place=words,
        column=column,
        sentence=outcomes.sentence[words],
        real=_rises(outcomes, labels, 0, words),
        sham=_sham_rises(outcomes, labels, words),
    )


def _rises(
    outcomes: Outcomes, labels: tuple[str, ...], replicate: int, words: Int[np.ndarray, " word"]
) -> Float[np.ndarray, "label word"]:
    rows = [outcomes.row(label, replicate) for label in labels]
    return outcomes.tag_loss[rows][:, words] - outcomes.tag_loss[0, words]


def _sham_rises(
    outcomes: Outcomes, labels: tuple[str, ...], words: Int[np.ndarray, " word"]
) -> Float[np.ndarray, "replicate label word"]:
    rises = [_rises(outcomes, labels, r, words) for r in replicates(outcomes)]
    return np.array(rises, np.float64).reshape(-1, len(labels), len(words))


def total_damage(
    outcomes: Outcomes, labels: tuple[str, ...], replicate: int
) -> Float[np.ndarray, " label"]:
    """Mean rise of the loss (nats) over all words that every condition scored, by lesion."""
    rows = [outcomes.row(label, replicate) for label in labels]
    return (outcomes.nll[rows] - outcomes.nll[0])[:, outcomes.shared].mean(1)


def label_rises(
    outcomes: Outcomes, labels: Sequence[str], rows: Sequence[int] | None = None
) -> Float[np.ndarray, "row label"]:
    """Mean rise of the tag loss (nats) at the words of each label, under every lesion or some `rows`.

    NaN for a label without words.
    """
    lesioned = outcomes.tag_loss[1:] if rows is None else outcomes.tag_loss[list(rows)]
    number = [outcomes.labels.index(label) for label in labels]
    own = (outcomes.label[:, None] == np.array(number)).astype(float)
    count = own.sum(0)
    rise = lesioned - outcomes.tag_loss[0]
    return np.where(count > 0, rise @ own / np.maximum(count, 1), np.nan)


def check(outcomes: Outcomes, labels: tuple[str, ...]) -> None:
    """Raises GrammarLensError for losses that are not finite where they must be.

    A sham may be NaN at words that are neither shared nor of a studied label, and every lesion but
    the real ones of the first ablation at words that are not sampled.
    """
    studied = np.isin(outcomes.label, [outcomes.labels.index(x) for x in labels])
    sampled = np.ones(len(studied), bool) if outcomes.sampled is None else outcomes.sampled
    measured = np.isfinite(outcomes.tag_loss) & np.isfinite(outcomes.nll)
    shams = np.ones(len(measured), bool)
    shams[list(outcomes.probed)] = False
    main = outcomes.conditions[0].ablation
    everywhere = [
        c.replicate == 0 and (c.ablation, c.kind) == (main, "set") for c in outcomes.conditions
    ]
    partial = ~np.array([True, *everywhere])
    missing = (shams[:, None] & ~(outcomes.shared | studied)) | (partial[:, None] & ~sampled)
    finite = (measured | missing).all(1)
    if finite.all():
        return
    row = int(finite.argmin())
    where = "in the intact model"
    if row:
        c = outcomes.conditions[row - 1]
        where = f"under the lesion of {c.label!r}, replicate {c.replicate}"
        where += "" if (c.ablation, c.kind) == (Ablation(), "set") else f" ({c.ablation}, {c.kind})"
    raise GrammarLensError(
        f"losses are NaN or infinite {where}: load the model in a wider dtype (--dtype bfloat16 or "
        "float32), or leave out labels the lexicon lacks"
    )
