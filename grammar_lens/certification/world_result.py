"""Run the public functions on one planted world and count hits and errors."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from grammar_lens.certification.planted.chain import TAGS
from grammar_lens.certification.planted.design import KINDS
from grammar_lens.certification.planted.world import FRESH_WORDS, TRAIN_WORDS, World, plant
from grammar_lens.defaults import SEED
from grammar_lens.dissociation.matrices import LEAST_LABELS
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.study import lesion_study
from grammar_lens.model.about import n_parameters
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.attribution.attribute import attribute
from grammar_lens.selectivity.collecting import collect
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.scoring import score

TOKEN_BUDGET = 4096
"""Tokens of one forward pass, lesions stacked as rows."""
REPLICATES = 100
"""Exchanges of tags for the null of a choice by the default rule."""
STUDIED = {
    "true": "attribution_contrast",
    "weak": "attribution_contrast",
    "null": "random",
    "decoy": "correlation",
    "elsewhere": "correlation",
}
"""Ways to choose the sets whose lesions are judged: by a score, or at random."""

Sets = Mapping[str, Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class WorldResult:
    """The results for one world, counted against the truth.

    `n_planted` counts every neuron once for each tag it belongs to; as many are chosen for every
    tag, `n_chosen` in all, and `n_found` of them are planted. `costs` are the rise in tag loss of
    every tag when its planted set is cut, nats, and `n_true_pairs` the pairs of tags that these
    lesions dissociate doubly; both empty where nothing is planted. `p` and the crossed pairs are those of the
    sets that `studied` says; `p_chosen` and `n_crossed_chosen` of as many neurons as were planted,
    by `attribution_contrast`, None where these are the same or nothing was asked. `by_default` is
    the study that a user would make, of neurons chosen by the default rule, and `by_relevance` the same
    with `relevance_contrast` for the score; None where not asked.
    """

    kind: str
    number: int
    strength: float
    path: str
    studied: str
    n_planted: int
    n_chosen: int
    n_found: int
    n_found_by_correlation: int
    n_found_by_relevance: int | None
    """None where not asked."""
    n_decoys_by_correlation: int
    costs: tuple[float, ...]
    p: float
    n_crossed: int
    n_true_pairs: int
    n_true_crossed: int
    p_chosen: float | None
    n_crossed_chosen: int | None
    by_default: "DefaultStudy | None"
    by_relevance: "DefaultStudy | None"
    n_parameters: int
    n_words: int
    """Held-out words."""
    seconds: float


@dataclass(frozen=True)
class DefaultStudy:
    """A study of the tags that have neurons by the default rule: the first k with q at most .05.

    k is the largest planted set's: these models have few neurons.
    """

    n_labels: int
    """Tags with such neurons; with fewer than 3 nothing can be tested, and the rest is empty."""
    p: float | None
    n_crossed: int
    is_selective: bool
    """Whether the verdict is that the damage is selective."""


def run_world(
    kind: str,
    number: int,
    *,
    seed: int = SEED,
    shams: int = 19,
    reported: bool = True,
    train_words: int = TRAIN_WORDS,
    fresh_words: int = FRESH_WORDS,
) -> WorldResult:
    """World `number` of a kind, made and judged; the same for the same arguments.

    Without `reported` only what certification requires is measured.
    """
    begin = time.monotonic()
    world = plant(kind, number, seed=seed, train_words=train_words, fresh_words=fresh_words)
    state = np.random.SeedSequence([seed, KINDS.index(kind), number]).generate_state(1)
    result = judge(world, shams=shams, seed=int(state[0]), reported=reported)
    return replace(result, seconds=time.monotonic() - begin)


def judge(world: World, *, shams: int, seed: int, reported: bool = True) -> WorldResult:
    """Run the public functions on a world; `seed` draws its shams."""
    moments = collect(world.model, world.train, position="next", show_progress=False)["neuron"]
    chosen = choose(world, moments, "attribution_contrast")
    correlated = choose(world, moments, "correlation")
    sets = {
        "attribution_contrast": chosen,
        "correlation": correlated,
        "random": with_sets(chosen, world.sets),
    }[STUDIED[world.kind]]
    study = _study(world, sets, shams, seed)
    is_planted = world.kind in ("true", "weak")
    again = by_default = by_relevance = relevant = None
    if reported and is_planted:
        relevant = _common(choose(world, moments, "relevance_contrast"), world.sets)
    if reported and world.kind in ("null", "decoy"):
        again = _study(world, chosen, shams, seed)
    if reported and world.kind in ("true", "null", "decoy"):
        by_default, by_relevance = (
            study_by_default(world, moments, shams, seed, method)
            for method in ("attribution_contrast", "relevance_contrast")
        )
    truth = _study(world, with_sets(chosen, world.sets), 0, seed) if is_planted else None
    true_pairs = set() if truth is None else _dissociating(truth)
    crossed = {frozenset((c.first, c.second)) for c in study.crossed_pairs}
    return WorldResult(
        kind=world.kind,
        number=world.number,
        strength=world.strength,
        path=world.path,
        studied=STUDIED[world.kind],
        n_planted=sum(len(s) for s in world.sets.values()) if is_planted else 0,
        n_chosen=sum(len(s) for s in chosen.values()) if is_planted else 0,
        n_found=_common(chosen, world.sets) if is_planted else 0,
        n_found_by_correlation=_common(correlated, world.sets) if is_planted else 0,
        n_found_by_relevance=relevant,
        n_decoys_by_correlation=_common(correlated, world.decoys),
        costs=() if truth is None else tuple(np.diag(truth.matrix).tolist()),
        p=_p(study),
        n_crossed=len(crossed),
        n_true_pairs=len(true_pairs),
        n_true_crossed=len(crossed & true_pairs),
        p_chosen=None if again is None else _p(again),
        n_crossed_chosen=None if again is None else len(again.crossed_pairs),
        by_default=by_default,
        by_relevance=by_relevance,
        n_parameters=n_parameters(world.model),
        n_words=world.fresh.n_words,
        seconds=0.0,
    )


def choose(world: World, moments: Moments, method: str) -> KeyNeurons:
    """The neurons that a score ranks first, for every tag as many as its set has."""
    evidence = Evidence(moments) if method == "correlation" else _evidence(world, moments, method)
    most = max(len(s) for s in world.sets.values())
    keys = select(score(evidence, method), k=most)
    return replace(keys, sets={tag: keys[tag].top(len(world.sets[tag])) for tag in keys})


def _evidence(
    world: World, moments: Moments, method: str, *, replicates: int = 0, seed: int = SEED
) -> Evidence:
    """The moments with what a first-order score needs, and its null where there are `replicates`."""
    relevance = SCORES[method].needs == "relevance"
    made = attribute(
        world.model,
        world.train,
        kind="own",
        relevance=relevance,
        moments=moments,
        replicates=replicates,
        seed=seed,
        show_progress=False,
    )
    return Evidence(moments, relevance=made) if relevance else Evidence(moments, attribution=made)


def study_by_default(
    world: World, moments: Moments, shams: int, seed: int, method: str = "attribution_contrast"
) -> DefaultStudy:
    """The lesion study with everything at its default but the number of shams, and perhaps the score."""
    most = max(len(s) for s in world.sets.values())
    evidence = _evidence(world, moments, method, replicates=REPLICATES, seed=seed)
    keys = select(score(evidence, method), k=most)
    labels = [tag for tag in TAGS if len(keys[tag])]
    if len(labels) < LEAST_LABELS:
        return DefaultStudy(len(labels), None, 0, False)
    study = _study(world, keys.only(labels), shams, seed, damage_matched=None)
    return DefaultStudy(len(labels), _p(study), len(study.crossed_pairs), study.is_selective)


def with_sets(keys: KeyNeurons, sets: Sets) -> KeyNeurons:
    """The same as if these neurons had been chosen."""
    assert keys.units is not None, "chosen by gl.select"
    named = {}
    for tag, addresses in sets.items():
        layer, index = np.array(addresses, np.int64).reshape(-1, 2).T
        mean = keys.units.mean[layer, index]
        named[tag] = Neurons(tag, "neuron", layer, index, np.zeros(len(layer)), mean)
    return replace(keys, sets=named, method="known", rule="by construction")


def _study(
    world: World, keys: KeyNeurons, shams: int, seed: int, damage_matched: int | None = 0
) -> LesionStudy:
    """Without damage-matched shams by default: planted neurons write as much as any."""
    return lesion_study(
        world.model,
        world.fresh,
        keys,
        lexicon=world.train,
        shams=shams,
        damage_matched=damage_matched,
        labels=[tag for tag in TAGS if tag in keys],
        seed=seed,
        token_budget=TOKEN_BUDGET,
        show_progress=False,
    )


def _dissociating(study: LesionStudy) -> set[frozenset[str]]:
    """Pairs of labels whose lesions dissociate doubly in the raw matrix, all four inequalities."""
    m: Float[np.ndarray, "label label"] = study.matrix
    return {
        frozenset((study.labels[i], study.labels[j]))
        for i, j in combinations(range(len(m)), 2)
        if min(m[i, i], m[j, j]) > max(m[i, j], m[j, i])
    }


def _common(keys: KeyNeurons, sets: Sets) -> int:
    return sum(len(set(keys[tag]) & set(sets[tag])) for tag in keys)


def _p(study: LesionStudy) -> float:
    assert study.p_value is not None, "a study with shams"
    return float(study.p_value)
