"""Batteries of lesions whose damage is known, for the tests of the lesion statistics."""

from dataclasses import replace

import numpy as np

from grammar_lens.corpus.origin import Origin
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.shams import output_matched_shams
from grammar_lens.dissociation.statistics import dissociation
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.moments import UnitStatistics

ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")
MAIN = Ablation()
LABELS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET")


def neurons(name: str, addresses: list[tuple[int, int]]) -> Neurons:
    rows = np.array(addresses, np.int64).reshape(-1, 2)
    return Neurons(name, "neuron", rows[:, 0], rows[:, 1], np.ones(len(rows)))


def keys_of(sets: dict[str, list[tuple[int, int]]], n_layers: int, n_units: int) -> KeyNeurons:
    named = {name: neurons(name, addresses) for name, addresses in sets.items()}
    return KeyNeurons(named, "correlation", "by hand", n_units, n_layers, None, ORIGIN)


def own_keys(labels: tuple[str, ...]) -> KeyNeurons:
    """One neuron for every label, in one layer."""
    return keys_of({x: [(0, i)] for i, x in enumerate(labels)}, 1, 100)


def statistics(n_layers: int, n_units: int) -> UnitStatistics:
    """A unit's mean is its number, so that it can be recognised."""
    mean = np.arange(n_layers * n_units, dtype=float).reshape(n_layers, n_units)
    return UnitStatistics(mean, np.abs(mean), np.zeros((n_layers, n_units)))


def sham_conditions(
    keys: KeyNeurons,
    output: np.ndarray,
    n_replicates: int,
    rng: np.random.Generator,
    units: UnitStatistics,
) -> list[Condition]:
    """Sham lesions of the usual ablation, one per replicate and label."""
    shams = output_matched_shams(keys, output, n_replicates, rng, units)
    return [Condition(x, n, sham[x]) for n, sham in enumerate(shams, 1) for x in keys]


def battery(
    damage: np.ndarray,
    labels: tuple[str, ...],
    *,
    seed: int = 0,
    n_sentences: int = 40,
    noise: float = 0.3,
) -> Outcomes:
    """Outcomes of lesions with the given damage [replicate, label, label]; replicate 0 is real.

    Every sentence has a word of each label and one of a label that is not studied. The lexicon
    numbers its labels in another order than the study. A loss rises by the damage and noise; the
    probability of the gold label falls with it.
    """
    rng = np.random.default_rng(seed)
    there = ("OTHER", *labels[::-1])
    columns = [there.index(x) for x in labels]
    n = n_sentences * len(there)
    label = np.tile(np.arange(len(there)), n_sentences)
    means = np.zeros((len(damage), len(labels), len(there)))
    means[:, :, columns] = damage
    rows = (
        means.reshape(-1, len(there))[:, label]
        + rng.normal(size=(len(labels) * len(damage), n)) * noise
    )
    tag_loss = rng.gamma(2.0, size=n) + np.concatenate([np.zeros((1, n)), rows])
    lexical_loss = 3 + rng.normal(size=tag_loss.shape)
    logits = rng.normal(size=(n, len(there)))
    gold = np.eye(len(there))[label]
    falls = np.concatenate([np.zeros((1, len(there))), means[0]])
    probability = np.stack(
        [_softmax(logits + gold * (2 - 3 * fall[label])[:, None]) for fall in falls]
    )
    top = np.zeros(tag_loss.shape, np.int8)
    top[: len(probability)] = probability.argmax(2)
    return Outcomes(
        shared=np.ones(len(label), bool),
        conditions=tuple(
            Condition(x, r, neurons(x, [(0, i + len(labels) * r)]))
            for r in range(len(damage))
            for i, x in enumerate(labels)
        ),
        labels=there,
        word=np.arange(n),
        sentence=np.repeat(np.arange(n_sentences), len(there)) * 3,
        label=label,
        nll=tag_loss + lexical_loss,
        tag_loss=tag_loss,
        lexical_loss=lexical_loss,
        top_label=top,
        tag_probability=probability.astype(np.float32),
        probed=tuple(range(len(labels) + 1)),
        seen_mass=0.9,
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits)
    return e / e.sum(-1, keepdims=True)


def study_of(
    outcomes: Outcomes,
    labels: tuple[str, ...],
    *,
    keys: KeyNeurons | None = None,
    output: np.ndarray | None = None,
    n_bootstrap: int = 200,
) -> LesionStudy:
    return dissociation(
        outcomes,
        own_keys(labels) if keys is None else keys,
        np.ones((1, 2000)) if output is None else output,
        tag_entropy=2.0,
        skipped={"label missing": 3},
        fresh="a-bank:test",
        rng=np.random.default_rng(1),
        n_bootstrap=n_bootstrap,
    )


def idiosyncratic(rng: np.random.Generator, n: int, n_labels: int = 6) -> np.ndarray:
    """Damage of random neurons: a severity for every lesion, and a pattern of its own."""
    severity = rng.gamma(3.0, size=(n, n_labels, 1)) / 30
    return severity * (1 + rng.normal(size=(n, n_labels, n_labels)))


def planted(seed: int = 0, n_shams: int = 40) -> np.ndarray:
    """Nouns and verbs lose a nat by their own lesion; all else is as under shams."""
    damage = idiosyncratic(np.random.default_rng(seed), n_shams + 1)
    damage[0, 0, 0] += 1
    damage[0, 1, 1] += 1
    return damage


def extended(
    base: Outcomes,
    damage: np.ndarray,
    labels: tuple[str, ...],
    *,
    ablation: Ablation = MAIN,
    kind: str = "set",
    first: int = 0,
    size: int = 1,
    seed: int = 0,
    noise: float = 0.3,
) -> Outcomes:
    """The battery and further lesions with the damage [replicate, label, label] of one ablation.

    `first` is the number of the first replicate; sets have `size` neurons. Probabilities of real
    lesions are those of the intact model.
    """
    rng = np.random.default_rng(seed + 1000)
    columns = [base.labels.index(x) for x in labels]
    means = np.zeros((len(damage), len(labels), len(base.labels)))
    means[:, :, columns] = damage
    rises = means.reshape(-1, len(base.labels))[:, base.label]
    tag_loss = base.tag_loss[:1] + rises + rng.normal(size=rises.shape) * noise
    lexical_loss = np.repeat(base.lexical_loss[:1], len(rises), 0)
    n_rows = len(base.conditions) + 1
    conditions = tuple(
        Condition(x, first + r, neurons(x, [(0, 500 + n) for n in range(size)]), ablation, kind)
        for r in range(len(damage))
        for x in labels
    )
    real = [n_rows + n for n, c in enumerate(conditions) if c.replicate == 0]
    return replace(
        base,
        conditions=(*base.conditions, *conditions),
        nll=np.concatenate([base.nll, tag_loss + lexical_loss]),
        tag_loss=np.concatenate([base.tag_loss, tag_loss]),
        lexical_loss=np.concatenate([base.lexical_loss, lexical_loss]),
        top_label=np.concatenate([base.top_label, np.repeat(base.top_label[:1], len(rises), 0)]),
        tag_probability=np.concatenate(
            [base.tag_probability, np.repeat(base.tag_probability[:1], len(real), 0)]
        ),
        probed=(*base.probed, *real),
    )


def unshared(outcomes: Outcomes) -> Outcomes:
    """The same battery where shams were scored at words of the studied labels alone."""
    shared = outcomes.label != outcomes.labels.index("OTHER")
    shams = [row for row in range(len(outcomes.nll)) if row not in outcomes.probed]
    parts = {}
    for name in ("nll", "tag_loss", "lexical_loss"):
        values = getattr(outcomes, name).copy()
        values[np.ix_(np.array(shams), np.flatnonzero(~shared))] = np.nan
        parts[name] = values
    return replace(outcomes, shared=shared, **parts)
