"""Statistics of a lesion study, from the outcomes of its battery."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from grammar_lens.dissociation.changes import Changes, changes, check
from grammar_lens.dissociation.damage_matched import damage_matched, damage_ratio
from grammar_lens.dissociation.dose_response import response
from grammar_lens.dissociation.matrices import diagonal_score, diagonal_scores
from grammar_lens.dissociation.pairs import crossed_pairs
from grammar_lens.dissociation.resampling import effect_intervals
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
    main = ablations[0]
    sampled = outcomes.sample()
    at_sample = {a: sampled.only(a) for a in ablations}
    by_ablation = {a: changes(rows, labels) for a, rows in at_sample.items()}
    whole = outcomes.only(main).real()
    everywhere = changes(whole, labels)
    dominance_interval, specificity_interval = effect_intervals(
        everywhere, rng.spawn(1)[0], n_bootstrap
    )
    base = LesionStudy(
        **_of_ablation(
            whole, everywhere, at_sample[main], by_ablation[main], keys, output, rng, n_bootstrap
        ),
        ablation=main,
        k=keys.k,
        base_tag_loss=float(outcomes.tag_loss[0].mean()),
        base_nll=float(outcomes.nll[0].mean()),
        tag_entropy=tag_entropy,
        seen_mass=outcomes.seen_mass,
        skipped=skipped,
        fresh=fresh,
        outcomes=None,
        origin=keys.origin,
        dominance_interval=dominance_interval,
        specificity_interval=specificity_interval,
        n_sentences=len(np.unique(outcomes.sentence)),
        n_sham_sentences=len(np.unique(sampled.sentence)),
    )
    others = tuple(
        replace(
            base,
            ablation=a,
            dominance_interval=None,
            specificity_interval=None,
            n_sentences=base.n_sham_sentences,
            **_of_ablation(
                at_sample[a].real(),
                by_ablation[a],
                at_sample[a],
                by_ablation[a],
                keys,
                output,
                rng,
                n_bootstrap,
            ),
        )
        for a in ablations[1:]
    )
    matched, rest = (sampled.only(main, kind) for kind in ("matched", "rest"))
    return replace(
        base,
        outcomes=outcomes,
        identity_error=outcomes.identity_error(),
        others=others,
        damage_matched=damage_matched(
            at_sample[main],
            matched,
            everywhere,
            by_ablation[main],
            base.auroc_fall,
            rng,
            n_bootstrap,
        )
        if matched.conditions
        else None,
        sufficiency=sufficiency(rest, labels) if rest.conditions else None,
        doses=response(by_ablation),
    )


def _of_ablation(
    whole: Outcomes,
    everywhere: Changes,
    sampled: Outcomes,
    change: Changes,
    keys: KeyNeurons,
    output: Float[np.ndarray, "layer unit"],
    rng: np.random.Generator,
    n_bootstrap: int,
) -> dict:
    """The fields of a lesion study that differ from ablation to ablation.

    `whole` and `everywhere` are the real lesions at all their words, `sampled` and `change` those and
    the shams at the sampled ones.
    """
    labels = keys.labels
    columns = np.array([whole.labels.index(label) for label in labels])
    real = [whole.row(label, 0) for label in labels]
    probed = [whole.probed.index(row) for row in real]
    falls, auroc = _auroc_falls(whole, probed, columns)
    sham = change.sham_matrices()
    nll = whole.nll[real][:, everywhere.place] - whole.nll[0, everywhere.place]
    return {
        "labels": labels,
        "matrix": everywhere.matrix(),
        "nll_matrix": everywhere.means(nll),
        "sham": sham,
        "auroc": auroc,
        "auroc_fall": falls,
        "bias": _bias(whole, probed, columns),
        "accuracy": (whole.top_label == whole.label)[[0, *real]].mean(1),
        "n_words": everywhere.n_words,
        "s_star": diagonal_score(change.matrix()),
        "s_star_sham": diagonal_scores(sham),
        "crossed_pairs": crossed_pairs(everywhere, change, falls, rng, n_bootstrap),
        "output_ratio": output_ratio(sampled, keys, output),
        "damage_ratio": damage_ratio(sampled, sampled, labels),
        "identity_error": sampled.identity_error(),
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
