"""The statistics of a lesion study: tag-by-tag losses against matched shams.

M[i, j] is the mean rise in tag loss (nats) of words with label j when label i's neurons are cut.
A study asks whether the damage is selective, and never against one control: every statistic has a
null distribution of sham lesions that are matched in layer and in expected output.
"""

import html
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats
from statsmodels.stats.multitest import multipletests

from grammar_lens.moments import Origin, UnitStatistics
from grammar_lens.outcomes import Condition, Outcomes
from grammar_lens.selection import KeyNeurons, Neurons

N_NEAREST = 10
"""A sham neuron is drawn among this many nearest in expected output."""
ROUNDING = 1e-9
"""Scores of the scaled matrix this close are equal: with two labels all are 1 or -1."""


class StudyError(ValueError):
    """A lesion study that cannot be carried out."""


@dataclass(frozen=True)
class CrossedPair:
    """Two labels whose lesions dissociate doubly, with both criteria and the AUROC check.

    `p` is the largest of the four one-sided bootstrap p-values, after Holm over all pairs. `margin`
    is the smallest of the four differences in the row-scaled matrix, `threshold` the 95th
    percentile, over sham replicates, of the shams' largest margin, taken so that (1 + shams that
    reach the margin) / (1 + shams) is at most .05. `confirmed` says that the same four inequalities
    hold for the fall in AUROC; otherwise the pair may be a shift of bias.
    """

    first: str
    second: str
    p: float
    margin: float
    threshold: float
    confirmed: bool


@dataclass(frozen=True)
class LesionStudy:
    """The tag-by-tag lesion matrix with its shams, its p-value and its crossed pairs.

    Row i is the lesion of label i, column j the words of label j; nats. `sham` has one matrix per
    replicate; `auroc_fall` is the intact minus the lesioned one-vs-rest AUROC of P(j | context);
    `bias` the mean change of P(j | context) over words of other labels.
    `n_words` counts the scored words of each column's label.
    """

    labels: tuple[str, ...]
    value: str
    dose: float
    k: int
    matrix: Float[np.ndarray, "label label"]
    nll_matrix: Float[np.ndarray, "label label"]
    sham: Float[np.ndarray, "replicate label label"]
    auroc: Float[np.ndarray, " label"]
    auroc_fall: Float[np.ndarray, "label label"]
    bias: Float[np.ndarray, "label label"]
    accuracy: Float[np.ndarray, " row"]
    """Top-1 tag accuracy: intact, then under each lesion."""
    n_words: Int[np.ndarray, " label"]
    s_star: float
    s_star_sham: Float[np.ndarray, " replicate"]
    crossed_pairs: tuple[CrossedPair, ...]
    output_ratio: Float[np.ndarray, " label"]
    """Expected output of the shams over that of the real set; 1 is a perfect match."""
    base_tag_loss: float
    base_nll: float
    tag_entropy: float
    seen_mass: float
    identity_error: float
    skipped: dict[str, int]
    fresh: str
    outcomes: Outcomes | None
    """The losses word by word; None in a study loaded from its files."""
    origin: Origin

    @property
    def n_shams(self) -> int:
        return len(self.sham)

    @property
    def sham_mean(self) -> Float[np.ndarray, "label label"]:
        """The shams' mean matrix; zeros without shams."""
        return self.sham.mean(0) if len(self.sham) else np.zeros_like(self.matrix)

    @property
    def corrected(self) -> Float[np.ndarray, "label label"]:
        """The matrix minus the shams' mean."""
        return self.matrix - self.sham_mean

    @property
    def diagonal_mean(self) -> float:
        return float(np.diag(self.matrix).mean())

    @property
    def off_diagonal_mean(self) -> float:
        return float(self.matrix[~np.eye(len(self.labels), dtype=bool)].mean())

    @property
    def dominance(self) -> float:
        """S, the mean diagonal minus the mean off-diagonal (nats): the effect size.

        Its size alone does not tell selective from merely larger damage; `p_value` does.
        """
        return self.diagonal_mean - self.off_diagonal_mean

    @property
    def p_value(self) -> float | None:
        """(1 + shams with S* at least the real one) / (1 + shams); None without shams."""
        if not len(self.s_star_sham):
            return None
        reached = (self.s_star_sham >= self.s_star - ROUNDING).sum()
        return float((1 + reached) / (1 + len(self.s_star_sham)))

    def verdict(self) -> str:
        """What the numbers say, in one or two sentences."""
        size = (
            f"Cutting a tag's {self.k} key neurons raises its own tag loss by "
            f"{self.diagonal_mean:.3f} nats and that of other tags by {self.off_diagonal_mean:.3f}"
        )
        if self.p_value is None:
            return f"{size}. Without sham lesions nothing can be said about chance."
        n_confirmed = sum(pair.confirmed for pair in self.crossed_pairs)
        n_pairs = len(self.labels) * (len(self.labels) - 1) // 2
        pairs = (
            f"{len(self.crossed_pairs)} of {n_pairs} pairs of tags dissociate doubly, "
            f"{n_confirmed} of them also by AUROC"
            if self.crossed_pairs
            else f"none of {n_pairs} pairs of tags dissociates doubly"
        )
        if self.p_value <= 0.05:
            told = f"more selective than {self.n_shams} matched shams (p = {self.p_value:.3f})"
        else:
            told = (
                f"not shown to be more selective than {self.n_shams} matched shams "
                f"(p = {self.p_value:.3f}): the evidence for selective damage is lacking"
            )
        weak = float(self.output_ratio.min()) if len(self.output_ratio) else 1.0
        caveat = (
            f" The shams carry as little as {weak:.2f} of the real sets' output, so part of the "
            "difference may be damage as such."
            if weak < 0.9
            else ""
        )
        return f"{size}; {told}; {pairs}.{caveat}"

    def to_frame(self) -> pd.DataFrame:
        """A row per lesion and label: change of losses, shams, AUROC fall and bias."""
        rows = []
        for i, cut in enumerate(self.labels):
            for j, label in enumerate(self.labels):
                rows.append(
                    {
                        "lesion": cut,
                        "label": label,
                        "tag_loss_change": self.matrix[i, j],
                        "nll_change": self.nll_matrix[i, j],
                        "sham_mean": self.sham_mean[i, j],
                        "auroc_fall": self.auroc_fall[i, j],
                        "bias": self.bias[i, j],
                        "n_words": self.n_words[j],
                    }
                )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"LesionStudy on {self.fresh} ({self.value}, dose {self.dose:g}): {self.verdict()}"

    def _repr_html_(self) -> str:
        table = pd.DataFrame(self.matrix, index=self.labels, columns=self.labels)  # pyright: ignore[reportArgumentType]
        table = table.rename_axis("lesion of / words of")
        return f"<p>{html.escape(repr(self))}</p>{table.round(3).to_html()}"


def dissociation(
    outcomes: Outcomes,
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    *,
    value: str,
    dose: float,
    tag_entropy: float,
    skipped: dict[str, int],
    fresh: str,
    rng: np.random.Generator,
    n_bootstrap: int = 1000,
) -> LesionStudy:
    """The statistics of a battery's outcomes.

    `output` is the expected output of every unit, mean |a| times ||w_out||, that shams were matched
    on. Raises StudyError for labels without scored words and for losses that are not finite.
    """
    labels = keys.labels
    columns = np.array([outcomes.labels.index(label) for label in labels])
    _check(outcomes, labels, columns)
    real = [outcomes.row(label, 0) for label in labels]
    replicates = sorted({c.replicate for c in outcomes.conditions} - {0})
    shams = [[outcomes.row(label, r) for label in labels] for r in replicates]
    change = outcomes.tag_loss - outcomes.tag_loss[:1]
    matrix = _label_means(change[real], outcomes.label, columns)
    sham = np.array([_label_means(change[rows], outcomes.label, columns) for rows in shams])
    sham = sham.reshape(len(replicates), len(labels), len(labels))
    falls, auroc = _auroc_falls(outcomes, real, columns)
    probed = [outcomes.probed.index(row) for row in real]
    return LesionStudy(
        labels=labels,
        value=value,
        dose=dose,
        k=keys.k,
        matrix=matrix,
        nll_matrix=_label_means((outcomes.nll - outcomes.nll[:1])[real], outcomes.label, columns),
        sham=sham,
        auroc=auroc,
        auroc_fall=falls,
        bias=_bias(outcomes, probed, columns),
        accuracy=(outcomes.top_label == outcomes.label)[[0, *real]].mean(1),
        n_words=np.bincount(outcomes.label, minlength=len(outcomes.labels))[columns],
        s_star=diagonal_score(matrix),
        s_star_sham=np.array([diagonal_score(m) for m in sham]),
        crossed_pairs=crossed_pairs(
            labels, change, real, shams, outcomes, columns, falls, rng, n_bootstrap
        ),
        output_ratio=_output_ratio(outcomes, keys, output, replicates),
        base_tag_loss=float(outcomes.tag_loss[0].mean()),
        base_nll=float(outcomes.nll[0].mean()),
        tag_entropy=tag_entropy,
        seen_mass=outcomes.seen_mass,
        identity_error=outcomes.identity_error(),
        skipped=skipped,
        fresh=fresh,
        outcomes=outcomes,
        origin=keys.origin,
    )


def scaled(matrix: Float[np.ndarray, "label label"]) -> Float[np.ndarray, "label label"]:
    """The matrix centred by rows and columns, each row divided by its root mean square.

    What is left is the pattern of damage: how severe a lesion is, and how fragile a label, is gone.
    """
    centred = matrix - matrix.mean(0, keepdims=True) - matrix.mean(1, keepdims=True) + matrix.mean()
    size = np.sqrt((centred**2).mean(1, keepdims=True))
    return np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)


def diagonal_score(matrix: Float[np.ndarray, "label label"]) -> float:
    """S*, the mean diagonal of the scaled matrix; its null distribution is that of the shams."""
    return float(np.diag(scaled(matrix)).mean())


def margins(matrix: Float[np.ndarray, "label label"]) -> Float[np.ndarray, "label label"]:
    """For every pair the smallest of the four differences of a double dissociation.

    M_ii - M_ij, M_jj - M_ji (within lesions), M_ii - M_ji, M_jj - M_ij (within labels).
    """
    own = np.diag(matrix)
    within_lesion = own[:, None] - matrix
    within_label = own[None] - matrix
    smallest = np.minimum(within_lesion, within_label)
    return np.minimum(smallest, smallest.T)


def crossed_pairs(
    labels: tuple[str, ...],
    change: Float[np.ndarray, "row word"],
    real: list[int],
    shams: list[list[int]],
    outcomes: Outcomes,
    columns: Int[np.ndarray, " label"],
    auroc_falls: Float[np.ndarray, "label label"],
    rng: np.random.Generator,
    n_bootstrap: int,
) -> tuple[CrossedPair, ...]:
    """Pairs of labels that pass both criteria; none without shams.

    (a) the largest of four one-sided p, z = difference / bootstrap standard error over sentences,
    shams subtracted on the same resampled sentences, passes Holm over all pairs at 5 %;
    (b) the smallest difference in the scaled matrix exceeds the shams' 95th percentile. Fewer than
    19 shams have none, so no pair passes.
    """
    if not shams or len(labels) < 2:
        return ()
    sentence, label = outcomes.sentence, outcomes.label
    sham_mean = np.mean([change[rows] for rows in shams], axis=0)
    corrected = change[real] - sham_mean
    draws = _bootstrap(corrected, sentence, label, columns, rng, n_bootstrap)
    point = _label_means(corrected, label, columns)
    pairs = list(combinations(range(len(labels)), 2))
    worst = []
    for i, j in pairs:
        p = []
        for a, b in (((i, i), (i, j)), ((j, j), (j, i)), ((i, i), (j, i)), ((j, j), (i, j))):
            error = float((draws[:, a[0], a[1]] - draws[:, b[0], b[1]]).std(ddof=1))
            p.append(float(stats.norm.sf((point[a] - point[b]) / error)) if error > 0 else 1.0)
        worst.append(max(p))
    holm = np.asarray(multipletests(worst, alpha=0.05, method="holm")[1])
    passed = holm <= 0.05
    margin = margins(scaled(_label_means(change[real], label, columns)))
    upper = np.triu_indices(len(labels), 1)
    null = [margins(scaled(_label_means(change[r], label, columns)))[upper].max() for r in shams]
    # an interpolated percentile of 20 shams would let twice 5 % pass
    allowed = (len(null) + 1) // 20
    threshold = float(np.sort(null)[-allowed]) if allowed else np.inf
    by_auroc = margins(auroc_falls)
    return tuple(
        CrossedPair(
            labels[i],
            labels[j],
            float(holm[n]),
            float(margin[i, j]),
            threshold,
            bool(by_auroc[i, j] > 0),
        )
        for n, (i, j) in enumerate(pairs)
        if passed[n] and margin[i, j] > threshold + ROUNDING
    )


def sham_sets(
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    n_replicates: int,
    rng: np.random.Generator,
    units: UnitStatistics,
) -> list[Condition]:
    """Sham lesions: every replicate is one map from the key neurons to others, applied to all sets.

    Each key neuron of the union goes to another neuron of its layer that is key to no label, drawn
    among the 10 nearest in log expected output that are still free; neurons without output go to
    neurons without output. The map is injective, so shared neurons stay shared.
    Raises StudyError naming the layer that has too few other neurons.
    """
    union = keys.union()
    conditions = []
    for replicate in range(1, n_replicates + 1):
        mapped = {}
        for layer in np.unique(union[:, 0]):
            chosen = union[union[:, 0] == layer, 1]
            mapped |= _map_layer(int(layer), chosen, output[layer], rng)
        for label in keys.labels:
            real = keys[label]
            layer = real.layer
            index = np.array([mapped[address] for address in real], np.int64)
            sham = Neurons(
                f"{label} sham {replicate}",
                real.site,
                layer,
                index,
                real.score,
                units.mean[layer, index],
            )
            conditions.append(Condition(label, replicate, sham))
    return conditions


def _map_layer(
    layer: int,
    chosen: Int[np.ndarray, " key"],
    output: Float[np.ndarray, " unit"],
    rng: np.random.Generator,
) -> dict[tuple[int, int], int]:
    """A random injective map of one layer's key neurons to its other neurons."""
    free = np.ones(len(output), bool)
    free[chosen] = False
    log_output = np.log(np.where(output > 0, output, 1.0))
    mapped = {}
    for unit in rng.permutation(chosen):
        candidates = np.flatnonzero(free & ((output > 0) == (output[unit] > 0)))
        if len(candidates) == 0:
            raise StudyError(
                f"layer {layer} has too few other neurons to match {len(chosen)} key neurons of "
                f"{len(output)}: use a smaller k"
            )
        distance = np.abs(log_output[candidates] - log_output[unit])
        nearest = candidates[np.argsort(distance, kind="stable")[:N_NEAREST]]
        drawn = int(rng.choice(nearest))
        free[drawn] = False
        mapped[(layer, int(unit))] = drawn
    return mapped


def _check(outcomes: Outcomes, labels: tuple[str, ...], columns: Int[np.ndarray, " label"]) -> None:
    for label, column in zip(labels, columns, strict=True):
        if not (outcomes.label == column).any():
            raise StudyError(f"no scored word is {label!r}: leave it out or use other fresh data")
    finite = np.isfinite(outcomes.tag_loss).all(1) & np.isfinite(outcomes.nll).all(1)
    if not finite.all():
        row = int(finite.argmin())
        condition = outcomes.conditions[row - 1]
        what = f"under the lesion of {condition.label!r}, replicate {condition.replicate}"
        raise StudyError(
            f"losses are NaN or infinite {what if row else 'in the intact model'}: load the model in "
            "a wider dtype (--dtype bfloat16 or float32), or leave out labels the lexicon lacks"
        )


def _label_means(
    change: Float[np.ndarray, "lesion word"],
    label: Int[np.ndarray, " word"],
    columns: Int[np.ndarray, " label"],
) -> Float[np.ndarray, "lesion label"]:
    return np.stack([change[:, label == column].mean(1) for column in columns], 1)


def _bootstrap(
    change: Float[np.ndarray, "lesion word"],
    sentence: Int[np.ndarray, " word"],
    label: Int[np.ndarray, " word"],
    columns: Int[np.ndarray, " label"],
    rng: np.random.Generator,
    n_bootstrap: int,
) -> Float[np.ndarray, "draw lesion label"]:
    """Matrices of sentences drawn with replacement."""
    _, number = np.unique(sentence, return_inverse=True)
    n = int(number.max()) + 1
    weights = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(float)
    draws = np.empty((n_bootstrap, len(change), len(columns)))
    for j, column in enumerate(columns):
        mine = label == column
        words = weights @ np.bincount(number[mine], minlength=n)
        for i in range(len(change)):
            sums = weights @ np.bincount(number[mine], weights=change[i, mine], minlength=n)
            draws[:, i, j] = sums / np.maximum(words, 1)
    return draws


def _auroc_falls(
    outcomes: Outcomes, real: list[int], columns: Int[np.ndarray, " label"]
) -> tuple[Float[np.ndarray, "label label"], Float[np.ndarray, " label"]]:
    def auroc(probed: int, column: int) -> float:
        positive = outcomes.label == column
        n1, n0 = int(positive.sum()), int((~positive).sum())
        if n0 == 0:
            return 0.5
        ranks = stats.rankdata(outcomes.tag_probability[probed, :, column])
        return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))

    base = np.array([auroc(0, int(c)) for c in columns])
    rows = [outcomes.probed.index(row) for row in real]
    after = np.array([[auroc(row, int(c)) for c in columns] for row in rows])
    return base[None] - after, base


def _bias(
    outcomes: Outcomes, probed: list[int], columns: Int[np.ndarray, " label"]
) -> Float[np.ndarray, "label label"]:
    """Mean change of P(j | context) over words whose label is not j."""
    base = outcomes.tag_probability[0].astype(float)
    bias = np.zeros((len(probed), len(columns)))
    for i, row in enumerate(probed):
        change = outcomes.tag_probability[row].astype(float) - base
        for j, column in enumerate(columns):
            others = outcomes.label != column
            bias[i, j] = change[others, column].mean() if others.any() else 0.0
    return bias


def _output_ratio(
    outcomes: Outcomes,
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    replicates: list[int],
) -> Float[np.ndarray, " label"]:
    """Summed expected output of the shams over that of the real set, mean over replicates.

    Sets without output have shams without output: a ratio of 1.
    """

    def total(neurons: Neurons) -> float:
        return float(output[neurons.layer, neurons.index].sum())

    if not replicates:
        return np.ones(len(keys))
    ratios = []
    for label in keys.labels:
        shams = [
            total(c.neurons) for c in outcomes.conditions if c.label == label and c.replicate > 0
        ]
        real = total(keys[label])
        ratios.append(float(np.mean(shams)) / real if real > 0 else 1.0)
    return np.array(ratios)
