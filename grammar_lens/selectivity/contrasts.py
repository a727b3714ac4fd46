"""Grammar or vocabulary: a label's difference from the rest with other variables held constant.

A regression coefficient is a weighted sum of the activations, with weights that the words alone
decide (Frisch & Waugh 1933; Lovell 1963): those of "the word has this label", after what is held
constant has been regressed out of it. So every such difference is one more row of sums in the same
pass, for all units at once.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.display import Shown
from grammar_lens.passes.moments import Moments


@dataclass(frozen=True)
class Contrast:
    """Weights of a difference between each label and the rest, and what they rest on.

    `sum_j weight[i, j] x[j]` is label i's coefficient; a label that allows none has zeros.
    `information` is the sum of squares of the residual indicator: 1/sqrt(information) is the
    standard error of the coefficient in standard deviations within label. `n_words` counts words
    with a weight, `n_forms` the word forms among them (0 where forms play no part).
    """

    weight: Float[np.ndarray, "label word"]
    information: Float[np.ndarray, " label"]
    n_words: Float[np.ndarray, " label"]
    n_forms: Float[np.ndarray, " label"]


def within_type(
    classes: Int[np.ndarray, " word"], forms: Int[np.ndarray, " word"], n_labels: int
) -> Contrast:
    """Each label against the rest among occurrences of the same word form.

    Only forms seen both with the label and without it have weight. Words of class -1 take no part.
    """
    weight = np.zeros((n_labels, len(classes)))
    n_forms = np.zeros(n_labels)
    read = np.flatnonzero(classes >= 0)
    _, form = np.unique(forms[read], return_inverse=True)
    size = np.bincount(form).astype(float)
    for label in range(n_labels):
        has = (classes[read] == label).astype(float)
        share = np.bincount(form, weights=has) / size
        weight[label, read] = has - share[form]
        n_forms[label] = int(((share > 0) & (share < 1)).sum())
    return _scaled(weight, n_forms)


def holding_constant(
    classes: Int[np.ndarray, " word"],
    covariates: Float[np.ndarray, "covariate word"],
    n_labels: int,
) -> Contrast:
    """Each label against the rest with covariates, such as log frequency, regressed out."""
    weight = np.zeros((n_labels, len(classes)))
    read = np.flatnonzero(classes >= 0)
    columns = covariates[:, read]
    columns = columns[np.ptp(columns, axis=1) > 0]
    design = np.stack([np.ones(len(read)), *(columns - columns.mean(1, keepdims=True))], 1)
    # not by QR: a covariate that others decide would leave a direction of rounding errors
    size = np.sqrt((design**2).sum(0))
    directions, spread, _ = np.linalg.svd(design / size, full_matrices=False)
    basis = directions[:, spread > 1e-7]
    for label in range(n_labels):
        has = (classes[read] == label).astype(float)
        weight[label, read] = has - basis @ (basis.T @ has)
    return _scaled(weight, np.zeros(n_labels))


def _scaled(
    weight: Float[np.ndarray, "label word"], n_forms: Float[np.ndarray, " label"]
) -> Contrast:
    weight[np.abs(weight) < 1e-12] = 0.0
    information = (weight**2).sum(1)
    weight /= np.where(information > 0, information, 1.0)[:, None]
    return Contrast(weight, information, (weight != 0).sum(1).astype(float), n_forms)


@dataclass(frozen=True)
class Adjusted(Shown):
    """Label minus rest, in standard deviations within label as Cohen's d is, other things constant.

    `within_type`: among occurrences of the same word form (at `next`: after the same word).
    `guarded`: at the same log frequency of the token read and the same place in the sentence.
    NaN where the words allow no such comparison. Standard errors hold for independent words and
    are for orientation.
    """

    labels: tuple[str, ...]
    within_type: Float[np.ndarray, "label layer unit"]
    guarded: Float[np.ndarray, "label layer unit"]
    within_type_error: Float[np.ndarray, " label"]
    guarded_error: Float[np.ndarray, " label"]
    n_words: Float[np.ndarray, " label"]
    """Words of ambiguous forms that the within-type contrast rests on."""
    n_forms: Float[np.ndarray, " label"]

    def to_frame(self) -> pd.DataFrame:
        """A row per label: what its within-type contrast rests on."""
        return pd.DataFrame(
            {
                "label": self.labels,
                "ambiguous_forms": self.n_forms.astype(int),
                "words": self.n_words.astype(int),
                "standard_error": self.within_type_error,
            }
        )

    def __repr__(self) -> str:
        return (
            f"Adjusted effects of {len(self.labels)} labels on {self.guarded.shape[1]} x "
            f"{self.guarded.shape[2]} units; {int((self.n_forms > 0).sum())} labels have ambiguous "
            "forms"
        )

    def _tables(self) -> list[pd.DataFrame]:
        table = {"label": self.labels, "ambiguous forms": self.n_forms.astype(np.int64)}
        table |= {"words of them": self.n_words.astype(np.int64)}
        table |= {"error within forms": self.within_type_error, "error": self.guarded_error}
        return [pd.DataFrame(table)]


def adjusted(
    moments: Moments,
    within: Contrast,
    guard: Contrast,
    sums: Float[np.ndarray, "two label layer unit"],
) -> Adjusted:
    """The contrasts' sums over all words, `sums[0]` within types and `sums[1]` guarded, in sd."""
    n = moments.n_words - 2
    count = moments.count[:, None, None]
    grand, total = moments.pooled()
    share = count / moments.n_words
    # sum of squares within label and within rest: the total less the part between the two
    between = count / np.maximum(1 - share, 1e-12) * (moments.mean - grand) ** 2
    sd = np.sqrt(np.maximum(total - between, 0.0) / max(n, 1))
    values = np.divide(sums, sd, out=np.zeros_like(sums), where=sd > 0)
    for contrast, array in ((within, values[0]), (guard, values[1])):
        array[contrast.information == 0] = np.nan
    return Adjusted(
        labels=moments.labels,
        within_type=values[0],
        guarded=values[1],
        within_type_error=_error(within),
        guarded_error=_error(guard),
        n_words=within.n_words,
        n_forms=within.n_forms,
    )


def _error(contrast: Contrast) -> Float[np.ndarray, " label"]:
    known = contrast.information > 0
    return np.where(known, 1 / np.sqrt(np.where(known, contrast.information, 1.0)), np.nan)
