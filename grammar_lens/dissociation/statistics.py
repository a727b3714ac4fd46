"""Statistics of a lesion study, from the outcomes of its battery."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from grammar_lens.dissociation.changes import Changes, changes, check
from grammar_lens.dissociation.damage_matched import damage_matched, damage_ratio
from grammar_lens.dissociation.dose_response import response
from grammar_lens.dissociation.matrices import diagonal_score
from grammar_lens.dissociation.pairs import crossed_pairs
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.shams import output_ratio
from grammar_lens.dissociation.sufficiency import sufficiency
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Outcomes
from grammar_lens.neurons.neurons import KeyNeurons


def dissociation(
    outcomes: Outcomes,
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    *,
    tag_entropy: float,
    skipped: dict[str, int],
    fresh: str,
    rng: np.random.Generator,
    n_bootstrap: int = 1000,
) -> LesionStudy:
    """The statistics of a battery's outcomes; its first lesion has the main ablation.

    `output` is the expected output of every unit, mean |a| times ||w_out||, that shams were matched
    on. Lesions of kind "matched" and "rest" count under the main ablation alone.
    Raises GrammarLensError for labels without scored words, losses that are not finite, and a battery
    without lesions.
    """
    labels = keys.labels
    ablations = list(dict.fromkeys(c.ablation for c in outcomes.conditions if c.kind == "set"))
    if not ablations:
        raise GrammarLensError(
            "the battery holds no lesion of a key set: there is nothing to compare"
        )
    check(outcomes, labels)
    by_ablation = {m: outcomes.only(m) for m in ablations}
    found = {m: changes(rows, labels) for m, rows in by_ablation.items()}
    base = LesionStudy(
        **_of_ablation(
            by_ablation[ablations[0]], found[ablations[0]], keys, output, rng, n_bootstrap
        ),
        ablation=ablations[0],
        k=keys.k,
        base_tag_loss=float(outcomes.tag_loss[0].mean()),
        base_nll=float(outcomes.nll[0].mean()),
        tag_entropy=tag_entropy,
        seen_mass=outcomes.seen_mass,
        skipped=skipped,
        fresh=fresh,
        outcomes=None,
        origin=keys.origin,
    )
    others = tuple(
        replace(
            base,
            ablation=m,
            **_of_ablation(by_ablation[m], found[m], keys, output, rng, n_bootstrap),
        )
        for m in ablations[1:]
    )
    main = by_ablation[ablations[0]]
    matched, rest = (outcomes.only(ablations[0], kind) for kind in ("matched", "rest"))
    return replace(
        base,
        outcomes=outcomes,
        identity_error=outcomes.identity_error(),
        others=others,
        matched=damage_matched(
            main, matched, found[ablations[0]], base.auroc_fall, rng, n_bootstrap
        )
        if matched.conditions
        else None,
        rest=sufficiency(rest, labels) if rest.conditions else None,
        doses=response(found),
    )


def _of_ablation(
    outcomes: Outcomes,
    found: Changes,
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    rng: np.random.Generator,
    n_bootstrap: int,
) -> dict:
    """The fields of a lesion study that differ from ablation to ablation."""
    labels = keys.labels
    columns = np.array([outcomes.labels.index(label) for label in labels])
    real = [outcomes.row(label, 0) for label in labels]
    probed = [outcomes.probed.index(row) for row in real]
    falls, auroc = _auroc_falls(outcomes, probed, columns)
    matrix, sham = found.matrix(), found.sham_matrices()
    nll = outcomes.nll[real][:, found.place] - outcomes.nll[0, found.place]
    return {
        "labels": labels,
        "matrix": matrix,
        "nll_matrix": found.means(nll),
        "sham": sham,
        "auroc": auroc,
        "auroc_fall": falls,
        "bias": _bias(outcomes, probed, columns),
        "accuracy": (outcomes.top_label == outcomes.label)[[0, *real]].mean(1),
        "n_words": found.n_words,
        "s_star": diagonal_score(matrix),
        "s_star_sham": np.array([diagonal_score(m) for m in sham]),
        "crossed_pairs": crossed_pairs(found, falls, rng, n_bootstrap),
        "output_ratio": output_ratio(outcomes, keys, output),
        "damage_ratio": damage_ratio(outcomes, outcomes, labels),
        "identity_error": outcomes.identity_error(),
    }


def _auroc_falls(
    outcomes: Outcomes, probed: list[int], columns: Int[np.ndarray, " label"]
) -> tuple[Float[np.ndarray, "label label"], Float[np.ndarray, " label"]]:
    def auroc(row: int, column: int) -> float:
        positive = outcomes.label == column
        n1, n0 = int(positive.sum()), int((~positive).sum())
        if n0 == 0:
            return 0.5
        ranks = stats.rankdata(outcomes.tag_probability[row, :, column])
        return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))

    base = np.array([auroc(0, int(c)) for c in columns])
    after = np.array([[auroc(row, int(c)) for c in columns] for row in probed])
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
