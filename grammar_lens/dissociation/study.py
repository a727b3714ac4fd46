"""The lesion study: cut each label's key neurons, measure all losses, compare with shams."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import OTHER_SHAMS, SEED, SHAM_SENTENCES, SHAMS
from grammar_lens.dissociation.first_order import first_order
from grammar_lens.dissociation.grown_shams import GrowingShams
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.shams import output_matched_shams
from grammar_lens.dissociation.statistics import dissociation
from grammar_lens.dissociation.sufficiency import EVERYTHING
from grammar_lens.dissociation.verdicts import ENOUGH
from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.lesions.prepared import Battery, ready
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons, Neurons, all_neurons
from grammar_lens.neurons.same_model import require_same_model
from grammar_lens.selectivity.evidence import Attribution


def lesion_study(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    lexicon: Treebank | Corpus | Lexicon,
    value: str = "mean",
    dose: float = 1.0,
    where: str = "every",
    shams: int = SHAMS,
    others: Sequence[Ablation] = (),
    other_shams: int = OTHER_SHAMS,
    sham_sentences: int | None = SHAM_SENTENCES,
    damage_matched: int | None = None,
    sufficiency: bool = False,
    attribution: Attribution | None = None,
    labels: Sequence[str] | None = None,
    max_sentences: int | None = None,
    seed: int = SEED,
    token_budget: int | None = None,
    folder: Path | None = None,
    show_progress: bool = True,
    allow_other_model: bool = False,
) -> LesionStudy:
    """Cuts each label's key neurons and measures the loss of every label's words, against shams.

    `lexicon` is the training data (or the lexicon made from it). `labels` are those whose neurons
    are cut, by default the eight large open and closed classes, or the most frequent values.
    At most `max_sentences` held-out sentences are read, drawn with a fixed seed. Shams, and everything
    but the main lesion, are measured on `sham_sentences` of them, where real and sham lesions are
    compared (None: on all). `others` are further ablations of the same lesions (values, doses), with
    the first `other_shams` of the shams. `damage_matched` is the number of shams that grow until they
    do as much damage; None makes as many as there are shams where those carry less than nine tenths of
    the real sets' output. `sufficiency` also cuts all neurons but a label's own. From an `attribution`
    the first-order p is computed, without further lesions.
    With a `folder`, an interrupted study is resumed.
    Raises GrammarLensError for labels without key neurons or without held-out words, when a layer has
    too few other neurons for a sham, and for key neurons of a model with other weights, unless
    `allow_other_model`.
    """
    require_same_model(model, keys, allow_other_model=allow_other_model)
    rng = np.random.default_rng(seed)
    _check(keys, shams, other_shams, sham_sentences, damage_matched)
    units = keys.units
    assert units is not None
    battery, cut, skipped = ready(
        model, fresh, keys, lexicon, labels, max_sentences, seed, token_budget, show_progress
    )
    sets = keys.only(cut)
    output = units.mean_abs * output_norms(model)
    drawn = output_matched_shams(sets, output, shams, rng, units)
    ablation = Ablation(value, float(dose), where)
    conditions = _conditions(sets, drawn, ablation)
    for other in dict.fromkeys(others):
        if other != ablation:
            conditions += _conditions(sets, drawn[:other_shams], other)
    real = [c for c in conditions if (c.replicate, c.ablation) == (0, ablation)]
    rest = [c for c in conditions if (c.replicate, c.ablation) != (0, ablation)]
    main = battery.run(real, folder=folder and folder / "main")
    sampled = battery.sham_words(sham_sentences)
    if damage_matched is None:
        damage_matched = shams if _least_output(sets, drawn, output) < ENOUGH else 0
    outcomes = _with(main, rest, battery, sampled, folder and folder / "sample")
    if damage_matched:
        growing = GrowingShams(
            battery, sets, ablation, damage_matched, rng, real=main, words=sampled
        )
        outcomes = outcomes.joined(growing.outcomes(folder and folder / "matched"))
    if sufficiency:
        rests = _rests(sets, drawn[:other_shams], ablation)
        outcomes = _with(outcomes, rests, battery, sampled, folder and folder / "rest")
    study = dissociation(
        outcomes,
        sets,
        output,
        tag_entropy=battery.lexicon.entropy,
        skipped=skipped,
        fresh=battery.corpus.bank.name,
        rng=rng,
    )
    if attribution is None or shams == 0:
        return study
    predicted = first_order(sets, attribution, output, drawn, study.s_star_sham, rng)
    return replace(study, first_order=predicted)


def _with(
    outcomes: Outcomes,
    more: list[Condition],
    battery: Battery,
    sampled: Bool[np.ndarray, " word"] | None,
    folder: Path | None,
) -> Outcomes:
    """These outcomes and those of more lesions, measured at the words of some sentences."""
    if not more:
        return outcomes
    codes = battery.codes_at(sampled)
    return outcomes.joined(battery.run(more, codes=codes, folder=folder, what="lesioning, shams"))


def _check(
    keys: KeyNeurons,
    shams: int,
    other_shams: int,
    sham_sentences: int | None,
    damage_matched: int | None,
) -> None:
    for name, n, least in (
        ("shams", shams, 0),
        ("other_shams", other_shams, 0),
        ("sham_sentences", 1 if sham_sentences is None else sham_sentences, 1),
        ("damage_matched", damage_matched or 0, 0),
    ):
        require_at_least(name, n, least)
    if keys.origin.site != "neuron":
        raise GrammarLensError(
            f"a lesion study cuts neurons, and these are units of {keys.origin.site!r}: shams are "
            "matched by ||w_out||, which only neurons have"
        )
    if keys.units is None:
        raise GrammarLensError(
            "these key neurons carry no unit statistics: choose them with gl.select"
        )


def _conditions(
    sets: KeyNeurons, drawn: Sequence[KeyNeurons], ablation: Ablation
) -> list[Condition]:
    """The lesions of every label in one ablation, and their shams."""
    return [
        Condition(label, replicate, keys[label], ablation)
        for replicate, keys in enumerate([sets, *drawn])
        for label in sets
    ]


def _rests(sets: KeyNeurons, drawn: Sequence[KeyNeurons], ablation: Ablation) -> list[Condition]:
    """Lesions of all neurons but one label's, of all but its shams, and of all."""
    everything = all_neurons(sets)
    conditions = [Condition(EVERYTHING, 0, everything, ablation, "rest")]
    for replicate, keys in enumerate([sets, *drawn]):
        conditions += [
            Condition(label, replicate, everything.without(keys[label]), ablation, "rest")
            for label in sets
        ]
    return conditions


def _least_output(
    sets: KeyNeurons, drawn: Sequence[KeyNeurons], output: Float[np.ndarray, "layer unit"]
) -> float:
    """The smallest share of a real set's expected output that its shams have, mean over them."""

    def total(neurons: Neurons) -> float:
        return float(output[neurons.layer, neurons.index].sum())

    shares = [
        np.mean([total(sham[label]) for sham in drawn]) / total(sets[label])
        for label in sets
        if drawn and total(sets[label]) > 0
    ]
    return float(min(shares, default=1.0))
