"""A study of phenomena made by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
from made_keys import N_LAYERS, N_UNITS, ORIGIN

from grammar_lens.corpus.origin import Origin
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.phenomena.effects import DamageMatchedFalls, PairEffects
from grammar_lens.phenomena.result import PhenomenaStudy

PHENOMENA = ("agreement", "binding", "islands")


def made_effects(
    lesions: tuple[str, ...],
    phenomena: tuple[str, ...],
    n_shams: int = 19,
    *,
    damage_matched: bool = False,
) -> PairEffects:
    """Each lesion costs the phenomenon of its own number 2 nats and others .1; shams cost .05.

    Damage-matched shams of 40 neurons cost .6.
    """
    shape = len(lesions), len(phenomena)
    fall = np.where(np.eye(*shape, dtype=bool), 2.0, 0.1)
    rng = np.random.default_rng(0)
    return PairEffects(
        lesions=lesions,
        phenomena=phenomena,
        n_neurons=np.full(len(lesions), 2.0),
        fall=fall,
        token_fall=fall / 2,
        accuracy=np.where(fall > 1, 0.5, 0.9),
        token_accuracy=np.where(fall > 1, 0.4, 0.8),
        sampled=fall,
        sham=0.05 + 0.01 * rng.normal(size=(n_shams, *shape)),
        output_ratio=np.full(len(lesions), 0.5 if damage_matched else 0.95),
        damage_matched=DamageMatchedFalls(
            0.6 + 0.01 * rng.normal(size=(n_shams, *shape)),
            np.array([1.05, *[np.nan] * (len(lesions) - 1)]),
            np.full(len(lesions), 40),
        )
        if damage_matched
        else None,
    )


def made_phenomena(
    phenomena: tuple[str, ...] = PHENOMENA,
    tags: tuple[str, ...] | None = ("NOUN", "VERB"),
    origin: Origin = ORIGIN,
) -> PhenomenaStudy:
    """A selective study of three phenomena."""
    n = len(phenomena)
    sets = {
        name: Neurons(
            name,
            "neuron",
            np.array([0, i % N_LAYERS]),
            np.array([1, 2]),
            np.array([0.5, 0.25]),
            np.zeros(2),
            np.array([0.01, 0.02]),
        )
        for i, name in enumerate(phenomena)
    }
    scores = np.linspace(0.6, 0.95, n)
    overlap = [
        {
            "phenomenon": p,
            "tag": t,
            "n": 2,
            "n_tag": 3,
            "shared": 1,
            "expected": 0.5,
            "p": 0.2,
            "holm": 1.0,
        }
        for p in phenomena
        for t in tags or ()
    ]
    table = {"n_first": 2.0, "n_second": 2.0, "shared": 1.0, "jaccard": 0.3, "expected": 0.1}
    return PhenomenaStudy(
        phenomena=phenomena,
        terms=phenomena,
        n_pairs=np.full(n, 40),
        n_sham_pairs=np.full(n, 20),
        folds=2,
        k=2,
        ablation=Ablation(),
        intact=pd.DataFrame(
            {
                "phenomenon": phenomena,
                "term": phenomena,
                "n_pairs": 40,
                "accuracy": scores,
                "low": scores - 0.05,
                "high": scores + 0.05,
                "token_accuracy": scores - 0.1,
                "log_odds": 3 * scores,
                "token_log_odds": 2 * scores,
            }
        ),
        own=made_effects(phenomena, phenomena),
        tags=None if tags is None else made_effects(tags, phenomena, damage_matched=True),
        s_star=1.4,
        s_star_sham=np.linspace(-0.5, 0.5, 19),
        crossed_pairs=(CrossedPair(phenomena[0], phenomena[1], 0.01, 0.5, 0.2, True),),
        dominance_interval=(1.8, 2.0),
        specificity_interval=(0.9, 0.97),
        keys=KeyNeurons(
            sets, "attribution of minimal pairs", "by hand", N_UNITS, N_LAYERS, None, origin
        ),
        overlap=pd.DataFrame(overlap),
        reliability=pd.DataFrame([{"label": p, **table, "p_value": 0.01} for p in phenomena]),
        notes=("BLiMP (Warstadt et al. 2020), CC BY 4.0",),
        origin=replace(origin, label="phenomenon"),
    )
