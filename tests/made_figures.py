"""Made results that figures and reports draw."""

from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from grammar_lens import figures
from grammar_lens.corpus.origin import Origin
from grammar_lens.dissociation.calibration import (
    Calibration,
    MethodCalibration,
    calibration,
    method_calibration,
)
from grammar_lens.dissociation.damage_budget import LEACE, MEANS, EqualDamage
from grammar_lens.dissociation.damage_budget import NEURONS as NEURONS_CUT
from grammar_lens.dissociation.damage_matched import DamageMatched
from grammar_lens.dissociation.dose_response import DoseResponse
from grammar_lens.dissociation.layer_lesions import DIRECTION, NEURONS, LayerLesions
from grammar_lens.dissociation.matrices import diagonal_score
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.redundancy import Redundancy, Round, redundancy
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.size_curves import CUT, KEEP, KEY, RANKINGS, SizeCurves
from grammar_lens.dissociation.sufficiency import Sufficiency
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.neurons.controls import SelectionControls, sham_localiser
from grammar_lens.neurons.examples import QUANTILES, Example, NeuronExamples, Passage, TokenEffect
from grammar_lens.neurons.selection import select
from grammar_lens.neurons.timecourse import CourseSummary
from grammar_lens.passes.moments import Moments
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.probing.layer_results import LayerProbe, LayerProbes
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.permutation_null import Null, Replicates
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score

LABELS = ("NOUN", "VERB", "ADJ")

HOSTILE = "<script>alert(1)</script> & %{x}"

PLAIN_HOSTILE = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; %{x}"


def origin(model: str, position: str) -> Origin:
    return Origin(model, "made:train", "upos", position, "neuron")


def made_moments(
    labels: tuple[str, ...] = LABELS,
    *,
    model: str = "m",
    position: str = "word",
    shape: tuple[int, int] = (3, 40),
) -> Moments:
    """Noise; neuron 1.17 is 2 sd higher for the second label."""
    rng = np.random.default_rng(0)
    count = np.array([100.0 + 10 * i for i in range(len(labels))])
    mean = rng.normal(0, 0.1, (len(labels), *shape))
    mean[1, 1, 17] += 2
    m2 = count[:, None, None] * rng.uniform(0.9, 1.1, mean.shape)
    fired = np.zeros_like(mean)
    return Moments(labels, count, mean, m2, fired, np.abs(mean).mean(0), origin(model, position))


def made_probe(
    labels: tuple[str, ...] = LABELS, *, model: str = "m", position: str = "word"
) -> ProbeResult:
    """A probe that is right for 90 and 80 of 100 words of two labels; the third has no words."""
    confusion = np.array([[90, 8, 2], [15, 80, 5], [0, 0, 0]])
    table = pd.DataFrame(
        {
            "precision": [0.857, 0.909, 0.0],
            "recall": [0.9, 0.8, 0.0],
            "f1": [0.878, 0.851, 0.0],
            "n_words": [100, 100, 0],
        },
        index=pd.Index(list(labels), name="label"),
    )
    return ProbeResult(
        labels=labels,
        k=6,
        n_neurons=18,
        n_train_words=330,
        n_fresh_words=200,
        accuracy=0.85,
        random_accuracy=0.6,
        random_accuracies=(0.58, 0.62),
        layer=2,
        layer_accuracy=0.8,
        majority_accuracy=0.4,
        word_baseline_accuracy=0.75,
        control_accuracy=0.3,
        unseen_accuracy=0.5,
        n_unseen_words=20,
        macro_f1=0.8645,
        per_label=table,
        confusion=confusion,
        dropped_duplicates=3,
        fresh="made:test",
        origin=origin(model, position),
    )


def made_study(
    labels: tuple[str, ...] = LABELS, *, model: str = "m", n_shams: int = 20
) -> LesionStudy:
    """Damage of 0.4 nats on the diagonal; the first two labels are a confirmed crossed pair."""
    rng = np.random.default_rng(0)
    matrix = 0.4 * np.eye(3) + rng.normal(0.02, 0.01, (3, 3))
    sham = rng.normal(0.01, 0.01, (n_shams, 3, 3))
    pairs = (
        CrossedPair(labels[0], labels[1], 0.001, 1.5, 0.9, True),
        CrossedPair(labels[1], labels[2], 0.02, 1.1, 0.9, False),
    )
    return LesionStudy(
        labels=labels,
        ablation=Ablation("mean", 1.0),
        k=6,
        matrix=matrix,
        nll_matrix=1.2 * matrix,
        sham=sham,
        auroc=np.full(3, 0.9),
        auroc_fall=matrix / 10,
        bias=matrix / 100,
        accuracy=np.array([0.6, 0.5, 0.55, 0.52]),
        n_words=np.array([2000, 1500, 800]),
        s_star=diagonal_score(matrix),
        s_star_sham=np.array([diagonal_score(m) for m in sham]),
        crossed_pairs=pairs if n_shams else (),
        output_ratio=np.array([0.95, 0.93, 0.97]),
        damage_ratio=np.array([0.9, 0.8, 0.7]),
        base_tag_loss=1.4,
        base_nll=4.1,
        tag_entropy=2.5,
        seen_mass=0.9,
        identity_error=1e-14,
        skipped={"first of its sentence": 77},
        fresh="made:test",
        outcomes=None,
        origin=origin(model, "next"),
    )


def made_extended(labels: tuple[str, ...] = LABELS, *, model: str = "m") -> LesionStudy:
    """A study with everything: the third label's loss falls under "resample".

    Doses -1 to 1.5, of which 0.25 has no shams; shams that do .95 of the damage; sets that save half
    of what cutting everything costs.
    """
    base = made_study(labels, model=model)
    rng = np.random.default_rng(3)
    n = len(labels)
    turned = base.matrix * np.array([1, 1, -1])[:, None]
    zero = replace(base, ablation=Ablation("zero"), matrix=base.matrix * 2)
    resample = replace(
        base,
        ablation=Ablation("resample"),
        matrix=turned,
        sham=base.sham[:0],
        s_star_sham=base.s_star_sham[:0],
        crossed_pairs=(),
    )
    return replace(
        base,
        others=(zero, resample),
        damage_matched=DamageMatched(
            labels=labels,
            sham=rng.normal(0.15, 0.02, (20, n, n)),
            damage_ratio=np.array([0.95, 1.02, np.nan]),
            size=np.full((20, n), 31),
            s_star=base.s_star,
            s_star_sham=rng.normal(0, 0.2, 20),
            crossed_pairs=(CrossedPair(labels[0], labels[2], 0.004, 1.2, 0.3, False),),
        ),
        sufficiency=Sufficiency(
            labels=labels,
            kept=np.full((n, n), 2.0),
            sham=rng.normal(3.5, 0.1, (19, n, n)),
            everything=np.array([4.0, 4.0, np.nan]),
        ),
        doses=made_doses(labels, base),
    )


def made_doses(labels: tuple[str, ...], base: LesionStudy) -> DoseResponse:
    """Own losses in proportion to the dose, others a tenth; the third label does not rise."""
    dose = np.array([-1.0, 0.0, 0.25, 0.5, 1.0, 1.5])
    slope = np.array([0.4, 0.3, 0.0])
    sham = np.where(dose == 0.25, np.nan, 0.02 * dose) * np.ones((len(labels), 1))
    return DoseResponse(
        labels=labels,
        value="mean",
        where="every",
        dose=dose,
        own=slope[:, None] * dose,
        other=0.1 * slope[:, None] * dose,
        sham_own=sham,
        sham_low=sham - 0.01 * (dose != 0),
        sham_high=sham + 0.01 * (dose != 0),
        slope=slope,
        slope_p=np.array([1e-6, 1e-4, 0.5]),
        sham_slope=np.full((base.n_shams, len(labels)), 0.02),
    )


def made_method_calibration(labels: tuple[str, ...] = LABELS) -> MethodCalibration:
    rng = np.random.default_rng(5)
    measured = rng.normal(size=(len(labels), 24))
    predicted = {"relevance": measured + rng.normal(size=measured.shape), "activation": -measured}
    kinds = {"1 random": np.arange(24) < 12, "10 random": np.arange(24) >= 12}
    return method_calibration(labels, predicted, measured, kinds, np.arange(24) % 3)


def made_calibration(labels: tuple[str, ...] = LABELS) -> Calibration:
    """Attributions that tell everything of the first label, nothing of the others."""
    rng = np.random.default_rng(4)
    measured = rng.normal(size=(len(labels), 60))
    predicted = rng.normal(size=measured.shape)
    predicted[0] = measured[0]
    every = np.ones(60, bool)
    return calibration(labels, predicted, measured, every, k=6, rng=rng, n_bootstrap=50)


def made_redundancy(labels: tuple[str, ...] = LABELS) -> Redundancy:
    """A second round that adds a tenth of the first."""
    own = np.array([0.5, 0.4, 0.3])
    none = np.full(len(labels), np.nan)
    return redundancy(
        labels, [Round(6, own, none), Round(12, 1.1 * own, np.full(len(labels), 0.5))]
    )


def made_null(scores: Scores, moments: Moments, n: int = 30) -> Null:
    """A null of class means that hold noise alone."""
    rng = np.random.default_rng(7)
    means = rng.normal(0, 0.1, (n, *moments.mean.shape)).astype(np.float32)
    compute = SCORES[scores.method].compute
    return Replicates(moments, means, 12, 3).null(
        scores.method, lambda m: compute(Evidence(m))[0], two_sided=True
    )


def made_controls(labels: tuple[str, ...] = LABELS, null: Null | None = None) -> SelectionControls:
    """Halves that share 6, 7, 8 of 10; a third of the effect left, and a label without forms."""
    n = np.minimum(np.arange(len(labels)), 3)
    size = np.full(len(labels), 10.0)
    halves = {"n_first": size, "n_second": size, "shared": 6.0 + n, "jaccard": (6 + n) / (14 - n)}
    halves |= {"expected": 0.2 + 0 * n, "p_value": np.where(n == 1, 0.4, 0.0001)}
    halves |= {"share": (6 + n) / 10, "expected_share": 0.02 + 0 * n}
    none = n == 2
    within = {
        "effect": 1.5 + 0.1 * n,
        "within_type": np.where(none, np.nan, 0.5),
        "within_type_retained": np.where(none, np.nan, 1 / 3),
        "guarded": 1.2 + 0.0 * n,
        "guarded_retained": 0.84 + 0.0 * n,
        "ambiguous_forms": np.where(none, 0, 40),
        "words": np.where(none, 0, 300),
        "standard_error": np.where(none, np.nan, 0.07),
    }
    return SelectionControls(
        k=6,
        n_replicates=0 if null is None else null.n_replicates,
        left_out_words=0 if null is None else null.n_left_out_words,
        left_out_sentences=0 if null is None else null.n_left_out_sentences,
        sham=None if null is None else sham_localiser(null, 6),
        reliability=pd.DataFrame({"label": list(labels), **halves}),
        within_type=pd.DataFrame({"label": list(labels), **within}),
    )


def made_course(
    labels: tuple[str, ...] = LABELS, *, model: str = "m", position: str = "word"
) -> CourseSummary:
    """Strongest at the word in layer 2; no key neurons in layer 0."""
    rng = np.random.default_rng(1)
    offsets, n_layers = (-1, 0, 1), 3
    shape = (len(offsets), len(labels), n_layers)
    strength = rng.uniform(0.02, 0.05, shape)
    strength[1, :, 2] = 0.3
    key = rng.normal(0, 0.1, shape)
    key[:, :, 0] = np.nan
    count = np.array([[90.0, 80.0, 70.0], [100.0, 95.0, 85.0], [60.0, 50.0, 40.0]])
    return CourseSummary(
        labels, offsets, count[:, : len(labels)], strength, key, origin(model, position)
    )


def made_layers(
    labels: tuple[str, ...] = LABELS, *, model: str = "m", n_layers: int = 3
) -> LayerProbes:
    """Accuracy rises to layer 1 at the word and to the last before it; the twin falls from the start."""
    layers = np.arange(-1, n_layers)
    depth = np.linspace(0, 1, len(layers))

    def probe(position: str, accuracy: np.ndarray, own: float | None) -> LayerProbe:
        return LayerProbe(
            labels=labels,
            layers=layers,
            accuracy=accuracy,
            low=accuracy - 0.02,
            high=accuracy + 0.02,
            control_accuracy=0.6 - 0.1 * depth,
            cross_entropy=2.5 - accuracy,
            raw_cross_entropy=3.5 - accuracy,
            shrinkage=np.full(len(layers), 0.1),
            majority_accuracy=0.2,
            word_baseline_accuracy=0.7 if position == "word" else 0.3,
            word_cross_entropy=2.1,
            model_cross_entropy=own,
            n_train_words=900,
            n_fresh_words=800,
            n_fresh_sentences=70,
            origin=origin(model, position),
        )

    at_word = 0.8 + 0.1 * depth
    at_word[2] = 0.95
    trained = {"word": probe("word", at_word, None), "next": probe("next", 0.3 + 0.2 * depth, 1.9)}
    twin = f"{model}, untrained"
    untrained = {
        p: replace(t, accuracy=0.5 - 0.2 * depth, origin=replace(t.origin, model=twin))
        for p, t in trained.items()
    }
    return LayerProbes(trained, untrained)


def made_layer_table(n_layers: int = 3) -> pd.DataFrame:
    """Layers of 10, 11 ... key neurons and dimensions more selective than neurons."""
    table = pd.DataFrame({"layer": np.arange(-1, n_layers)})
    for position, probe in made_layers(n_layers=n_layers).trained.items():
        table[f"resid_accuracy_{position}"] = probe.accuracy
        table[f"untrained_accuracy_{position}"] = 0.5
    table["resid_information_next"] = made_layers(n_layers=n_layers)["next"].information
    for i, name in enumerate(("n_key_neurons", "rms_neuron", "rms_resid")):
        start = (10, 0.03, 0.05)[i]
        table[name] = [np.nan, *(start + j * (1, 0.01, 0.01)[i] for j in range(n_layers))]
    return table


def made_equal_damage(labels: tuple[str, ...] = LABELS, *, model: str = "m") -> EqualDamage:
    """Neurons cost .4 dose, others .04 dose; means .8 dose^2, others .2 dose; LEACE a tenth of that."""
    rows = [
        {"label": label, "lesion": lesion, "layer": layer, "dose": d, "own": own, "other": other}
        for label in labels
        for d in (0.5, 1.0)
        for lesion, layer, own, other in (
            (NEURONS_CUT, -1, 0.4 * d, 0.04 * d),
            (MEANS, 2, 0.8 * d**2, 0.2 * d),
            (LEACE, 2, 0.08 * d**2, 0.02 * d),
        )
    ]
    there = replace(origin(model, "next"), site="resid_post")
    return EqualDamage(labels, pd.DataFrame(rows), 700, 60, there)


def made_size_curves(labels: tuple[str, ...] = LABELS, *, model: str = "m") -> SizeCurves:
    """Everything cut costs 2 nats; k key neurons cost k / 200 and save as much, others nothing."""
    rows = [
        {
            "label": label,
            "ranking": ranking,
            "lesion": lesion,
            "k": k,
            "own": (0.0 if lesion == CUT else 2.0) + (-1 if lesion == KEEP else 1) * share,
            "other": 0.01,
        }
        for label in labels
        for ranking in RANKINGS
        for lesion in (CUT, KEEP)
        for k in (10, 30, 100)
        for share in [k / 200 if ranking == KEY else 0.0]
    ]
    everything = np.full(len(labels), 2.0)
    return SizeCurves(labels, pd.DataFrame(rows), everything, 700, 60, origin(model, "next"))


def made_layer_lesions(
    labels: tuple[str, ...] = LABELS, *, model: str = "m", n_layers: int = 3
) -> LayerLesions:
    """Neurons cost .1 nats more in each layer, directions twice that; none of the first label in 0."""
    rows = [
        {
            "layer": layer,
            "lesion": kind,
            "label": label,
            "units": 0 if nothing else 4 if kind == NEURONS else 1,
            "own": np.nan if nothing else factor * 0.1 * (layer + 1),
            "other": np.nan if nothing else 0.01,
            "sham_own": np.nan if nothing else 0.002,
            "sham_other": np.nan if nothing else 0.001,
        }
        for layer in range(n_layers)
        for kind, factor in ((NEURONS, 1), (DIRECTION, 2))
        for label in labels
        for nothing in [layer == 0 and kind == NEURONS and label == labels[0]]
    ]
    there = replace(origin(model, "next"), site="resid_post")
    return LayerLesions(labels, pd.DataFrame(rows), 5, 700, 60, there)


def made_curve() -> pd.DataFrame:
    """Two rankings and random neurons at k = 1, 5 and 20; no word is unseen."""
    rows = [
        {
            "score": score,
            "k": k,
            "n_neurons": 3.0 * k,
            "accuracy": base + 0.02 * i,
            "control_accuracy": 0.3 + 0.01 * i,
            "random_accuracy": 0.5 + 0.02 * i,
            "unseen_accuracy": np.nan,
            "ambiguous_accuracy": base - 0.1 + 0.02 * i,
            "macro_f1": base - 0.05,
        }
        for score, base in (("correlation", 0.7), ("exchanged labels", 0.6), ("random", 0.5))
        for i, k in enumerate((1, 5, 20))
    ]
    return pd.DataFrame(rows)


def made_example(
    tokens: tuple[str, ...], token: int, value: float, *, word: str = "w", label: str = "NOUN"
) -> Example:
    """A neuron that is `value` at one token, where the word itself stands, and a tenth elsewhere."""
    values = np.where(np.arange(len(tokens)) == token, value, value / 10)
    span = (max(token, 0), max(token, 0) + 1)
    return Example(Passage(tokens, "made:7"), token, span, word, label, value, values)


def made_examples(labels: tuple[str, ...] = LABELS, *, model: str = "m") -> NeuronExamples:
    """Neuron 1.17: the second label is the highest and the third has no words; two ends of two."""
    centre = np.array([0.0, 2.0, 1.0])[:, None]
    quantiles = centre + np.linspace(-1, 1, len(QUANTILES))
    quantiles[2] = np.nan
    tokens = ("The", " dog", " bark", "s", " .")
    return NeuronExamples(
        layer=1,
        index=17,
        labels=labels,
        count=np.array([100, 50, 0]),
        quantiles=quantiles,
        top=(
            made_example(tokens, 1, 4.0, label=labels[0]),
            made_example(tokens, 3, 3.0, label=labels[1]),
        ),
        bottom=(
            made_example(tokens, -1, -2.0, label=labels[0]),
            made_example(tokens, 4, -1.0, label=labels[1]),
        ),
        contrast=np.array([0.1, -0.1, np.nan]),
        promoted=(TokenEffect(" cat", 0.4),),
        suppressed=(TokenEffect(" runs", -0.3),),
        origin=origin(model, "word"),
    )


def every_figure(labels: tuple[str, ...], model: str) -> list[go.Figure]:
    scores = score(made_moments(labels, model=model))
    keys = select(scores, k=6)
    study, probe = made_study(labels, model=model), made_probe(labels, model=model)
    controls = made_controls(labels, made_null(scores, made_moments(labels, model=model)))
    assert controls.within_type is not None
    curve = made_curve().replace("correlation", labels[0])
    course = made_course(labels, model=model)
    whole = made_extended(labels, model=model)
    nulled = replace(scores, null=made_null(scores, made_moments(labels, model=model)))
    found = made_examples(labels, model=model)
    return [
        figures.neuron_scores(scores, (1, 17)),
        figures.neuron_scores(nulled, (1, 17)),
        figures.activations_by_label(found),
        figures.concordance(found),
        figures.loss_split(whole),
        figures.dose_response(whole),
        figures.dose_response(whole, labels[0]),
        figures.value_ladder(whole),
        figures.damage_matched(whole),
        figures.sufficiency(whole),
        figures.bias_and_auroc(whole),
        figures.layer_lesions(made_layer_lesions(labels, model=model)),
        figures.lesion_curves(made_size_curves(labels, model=model)),
        figures.layer_by_layer(made_layers(labels, model=model), made_layer_table()),
        figures.time_course(course),
        figures.time_course(course, labels[1]),
        figures.selection_controls(controls, keys),
        figures.grammar_or_vocabulary(controls.within_type, keys),
        figures.accuracy_against_k(curve, majority=0.2, word_baseline=0.8, origin=probe.origin),
        figures.layer_neuron_heatmap(scores, labels[0]),
        figures.layer_profile(scores, keys),
        figures.overlap_matrix(keys),
        figures.lesion_matrix(study),
        figures.lesion_null(study),
        figures.probe_accuracy(probe),
        figures.confusion(probe),
    ]
