"""Check attributions against true single-neuron lesions, and test for redundant neurons."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import SEED
from grammar_lens.dissociation.calibration import Calibration, calibration
from grammar_lens.dissociation.redundancy import Redundancy, Round, redundancy
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.context import lesion
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.lesions.prepared import ready
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons, all_neurons
from grammar_lens.neurons.selection import select
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.attribution.attribute import attribute
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score


def calibrate(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    attribution: Attribution,
    *,
    lexicon: Treebank | Corpus | Lexicon,
    value: str = "mean",
    where: str = "every",
    n_random: int = 200,
    n_top: int = 20,
    k: int = 20,
    labels: Sequence[str] | None = None,
    max_sentences: int | None = 200,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> Calibration:
    """Attributions against true lesions of single neurons, on held-out words.

    Cuts `n_random` neurons drawn from all, and each label's first `n_top` key neurons, one at a time.
    Raises GrammarLensError where `attribution` is of other labels or of another number of neurons.
    """
    rng = np.random.default_rng([seed, 11])
    battery, cut, _ = ready(
        model, fresh, keys, lexicon, labels, max_sentences, seed, token_budget, show_progress
    )
    everything = all_neurons(keys)
    effects = effects_of(attribution, keys, cut)
    drawn = rng.permutation(len(everything))[:n_random]
    best = [keys[label].top(n_top) for label in cut]
    chosen = np.concatenate([drawn, *(s.layer * keys.n_units + s.index for s in best)])
    _, first = np.unique(chosen, return_index=True)
    chosen = chosen[np.sort(first)]
    ablation = Ablation(value, 1.0, where)
    conditions = [
        Condition(f"{n}", 1, everything.take(np.array([n])), ablation) for n in chosen.tolist()
    ]
    outcomes = battery.run(conditions, codes=battery.studied, what="single neurons")
    return calibration(
        cut,
        effects[:, chosen],
        own_rises(outcomes, cut),
        np.arange(len(chosen)) < len(drawn),
        k=k,
        rng=rng,
    )


def effects_of(
    attribution: Attribution, keys: KeyNeurons, cut: Sequence[str]
) -> Float[np.ndarray, "label unit"]:
    """Attributions of the labels that are cut, a row per label.

    Raises GrammarLensError where they are of other labels or of another number of neurons.
    """
    n_layers, n_units = attribution.mean.shape[1:]
    missing = [label for label in cut if label not in attribution.labels]
    if missing or (n_layers, n_units) != (keys.n_layers, keys.n_units):
        raise GrammarLensError(
            f"the attributions are of {', '.join(attribution.labels)} in {n_layers} layers of {n_units} "
            f"and the key neurons of {', '.join(cut)} in {keys.n_layers} layers of {keys.n_units}: "
            "make them from the same words and model"
        )
    rows = [attribution.labels.index(label) for label in cut]
    return attribution.mean[rows].reshape(len(cut), -1)


def find_again(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    moments: Moments,
    rounds: int = 3,
    value: str = "mean",
    labels: Sequence[str] | None = None,
    max_train_words: int = 10_000,
    max_sentences: int | None = 200,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> Redundancy:
    """Cuts each label's key neurons, finds the next by attribution in the lesioned model, cuts more.

    The neurons are looked for by `attribution_contrast` on training words (`moments` has their means
    at "next"), the losses are those of held-out words. Raises GrammarLensError for fewer than two rounds.
    """
    if rounds < 2:
        raise GrammarLensError(
            f"rounds is {rounds}, expected 2 or more: redundancy compares rounds"
        )
    corpus = prepare(model, train, label=keys.origin.label)
    battery, cut, _ = ready(
        model, fresh, keys, corpus, labels, max_sentences, seed, token_budget, show_progress
    )

    def scores_under(under: Neurons | None) -> Scores:
        with lesion(model, under or all_neurons(keys).top(0), value=value):
            made = attribute(
                model,
                corpus,
                moments=moments,
                lexicon=battery.lexicon,
                max_words=max_train_words,
                seed=seed,
                token_budget=token_budget,
                show_progress=show_progress,
            )
        return score(Evidence(moments, attribution=made), "attribution_contrast")

    intact = scores_under(None)
    sets = {label: [keys[label]] for label in cut}
    again = [np.full(len(cut), np.nan)]
    for _ in range(1, rounds):
        shares = []
        for label in cut:
            k, gone = len(keys[label]), _joined(sets[label])
            best = _best(scores_under(gone), label, gone, k)
            expected = set(_best(intact, label, gone, k))
            shares.append(len(expected.intersection(best)) / max(len(best), 1))
            sets[label].append(best)
        again.append(np.array(shares))
    conditions = [
        Condition(label, r + 1, _joined(sets[label][: r + 1]), Ablation(value))
        for r in range(rounds)
        for label in cut
    ]
    outcomes = battery.run(conditions, codes=battery.studied, what="rounds of lesions")
    rises = own_rises(outcomes, cut).reshape(len(cut), rounds, len(cut))
    own = np.einsum("lrl->rl", rises)
    return redundancy(cut, [Round(keys.k * (r + 1), own[r], again[r]) for r in range(rounds)])


def own_rises(outcomes: Outcomes, labels: tuple[str, ...]) -> Float[np.ndarray, "label lesion"]:
    """Mean rise of the tag loss (nats) of each label's words under each lesion."""
    change = outcomes.tag_loss[1:] - outcomes.tag_loss[:1]
    columns = [outcomes.labels.index(label) for label in labels]
    return np.stack([change[:, outcomes.label == column].mean(1) for column in columns])


def _best(scores: Scores, label: str, gone: Neurons, k: int) -> Neurons:
    """The first `k` neurons of a label that are not cut yet."""
    return select(scores, k + len(gone))[label].without(gone).top(k)


def _joined(sets: Sequence[Neurons]) -> Neurons:
    """Disjoint sets of one label as one."""
    first = sets[0]
    means = [s.mean for s in sets if s.mean is not None]
    return replace(
        first,
        layer=np.concatenate([s.layer for s in sets]),
        index=np.concatenate([s.index for s in sets]),
        score=np.concatenate([s.score for s in sets]),
        mean=np.concatenate(means) if len(means) == len(sets) else None,
        q=None,
    )
