"""Every public function that takes a model gives the same for a HookedTransformer as for a bridge.

`CALLS` must name them all: `test_none_is_left_out` reads the package and fails for a new one.
Results are compared number by number, whatever they are made of.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.errors import GrammarLensError
from grammar_lens.generation.tagging import Tagger
from grammar_lens.generation.writing import write_on
from grammar_lens.lesions.directions import directions
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model
from grammar_lens.model.forward import next_token_logits
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.probing.fitted import FittedProbe
from grammar_lens.selectivity.collecting import Collected

TOLERANCE = 1e-4
"""Activations of the two classes differ by about 1e-5 in float32. Absolute, and relative for what is
larger than 1: sums over words, and ratios."""
LOOSER = {
    # least-squares slopes of effects of about 0.01 nats: an error of 1e-5 is 1e-3 of them
    "calibrate.slope": 2e-3,
    # correlations of such effects
    "calibrate_methods.linear": 2e-3,
    # a fit that stops early, as the weights below
    "probe.cross_entropy": 1e-3,
    "calibrate.slope_all": 2e-3,
    # a matrix of correlations is inverted whose smallest eigenvalues are about 1e-3
    "layer_probes.raw_cross_entropy": 0.01,
    "layer_probes.cross_entropy": 0.01,
    # the solver stops where the gradient is small, at other places of a flat bottom
    "probe.weight": 0.05,
    "probe.bias": 0.05,
    # S* is made of differences of losses, divided by their own size
    "lesion_study.s_star": 1e-3,
    "lesion_study.s_star_sham": 1e-3,
}
QUIET: dict[str, Any] = {"show_progress": False}
LABELS = ("NOUN", "VERB", "PRON")
PAIRS = gl.load_pairs()[:160]
TEXTS = ["The old man never saw the sea again.", "They do not like the cold rain."]


@dataclass(frozen=True)
class Given:
    """Inputs of the calls besides the model, found in the bridge and given to both."""

    train: Treebank
    fresh: Treebank
    keys: KeyNeurons
    moments: gl.Moments
    lexicon: gl.Lexicon
    attribution: gl.Attribution

    @property
    def addresses(self) -> list[tuple[int, int]]:
        return list(self.keys["NOUN"].top(4))


@pytest.fixture(scope="session")
def given(
    theirs: Model, bank: Treebank, keys: KeyNeurons, collected: tuple[Collected, Collected]
) -> Given:
    moments = collected[1].at("next")["neuron"]
    train, fresh = bank["train"], bank["test"]
    lexicon = gl.fit_lexicon(theirs, train)
    attribution = gl.attribute(theirs, train, moments=moments, lexicon=lexicon, **QUIET)
    return Given(train, fresh, keys.only(LABELS), moments, lexicon, attribution)


# One call for each function -----------------------------------------------------------------


def collect(model: Model, g: Given) -> object:
    found = gl.collect(
        model,
        g.train,
        sites=("neuron", "resid_post"),
        replicates=20,
        sample=4,
        controls=True,
        **QUIET,
    )
    return {**found.at("next"), "evidence": found.evidence("neuron", "next")}


def collect_labels(model: Model, g: Given) -> object:
    found = gl.collect_labels(model, g.train, ["upos"], position=("word", "next"), **QUIET)
    return {name: both.at("word") for name, both in found.items()}


def attribute(model: Model, g: Given) -> object:
    found = {}
    for kind in ("own", "all", "integrated_gradients"):
        options: dict[str, Any] = {
            "lexicon": g.lexicon,
            "moments": g.moments,
            "max_words": 40,
            "steps": 4,
        }
        found[kind] = gl.attribute(model, g.train, kind=kind, **options, **QUIET)
    found["null"] = gl.attribute(model, g.train, replicates=20, reference="zero", **QUIET)
    return found


def key_neuron_features(model: Model, g: Given) -> object:
    made = gl.KeyNeuronFeatures(model, g.keys, k=5, pooling="max")
    return made.fit(TEXTS).transform(TEXTS)


def probe(model: Model, g: Given) -> object:
    return gl.probe(model, g.train, g.fresh, g.keys, n_random=1, **QUIET)


def probe_curve(model: Model, g: Given) -> object:
    return gl.probe_curve(
        model, g.train, g.fresh, {"all": g.keys}, ks=(2, 5), n_random=1, position="next", **QUIET
    )


def probe_layers(model: Model, g: Given) -> object:
    return gl.probe_layers(model, g.train, g.fresh, g.keys, n_random=1, **QUIET)


def layer_probes(model: Model, g: Given) -> object:
    return gl.layer_probes(model, g.train, g.fresh, untrained=False, **QUIET)


def untrained_twin(model: Model, g: Given) -> object:
    """A HookedTransformer has none, and says so."""
    if hasattr(model, "original_model"):
        return gl.untrained_twin(model).cfg.n_layers
    with pytest.raises(GrammarLensError, match="HookedTransformer"):
        gl.untrained_twin(model)
    return model.cfg.n_layers


def erasure(model: Model, g: Given) -> object:
    return gl.erasure(model, g.train, g.fresh, g.keys, layer=7, n_random=1, **QUIET)


def lesion(model: Model, g: Given) -> object:
    """The logits under every kind of lesion, and those of the intact model afterwards."""
    ids = model.tokenizer(TEXTS[0], return_tensors="pt").input_ids
    where = torch.arange(ids.shape[1])
    rng = np.random.default_rng(0)
    stream = directions("some", rng.normal(size=(3, 256)), layer=3, mean=rng.normal(size=256))
    drawn = gl.donors(model, g.fresh, [g.keys["NOUN"], stream], n_words=30)
    found = {}
    for units in (g.keys["NOUN"], stream):
        for value in ("zero", "mean", "resample"):
            for dose in (0.5, 1.0, -1.0):
                with gl.lesion(model, units, value=value, dose=dose, donors=drawn, seed=3):
                    found[units.name, value, dose] = next_token_logits(model, ids, where).numpy()
    found["after"] = next_token_logits(model, ids, where).numpy()
    for key, logits in found.items():
        assert key == "after" or np.abs(logits - found["after"]).max() > 0.01, key
    return found


def donors(model: Model, g: Given) -> object:
    return gl.donors(model, g.fresh, [g.keys["NOUN"], g.keys["VERB"]], position="word", n_words=20)


def lesion_study(model: Model, g: Given) -> object:
    others = [
        Ablation("zero"),
        Ablation("resample"),
        Ablation("resample_within"),
        Ablation("mean", 0.5),
    ]
    return gl.lesion_study(
        model,
        g.fresh,
        g.keys,
        lexicon=g.train,
        shams=2,
        others=others,
        other_shams=1,
        damage_matched=1,
        sufficiency=True,
        labels=LABELS,
        **QUIET,
    )


def calibrate(model: Model, g: Given) -> object:
    return gl.calibrate(
        model, g.fresh, g.keys, g.attribution, lexicon=g.lexicon, n_random=12, n_top=3, k=5, **QUIET
    )


def calibrate_methods(model: Model, g: Given) -> object:
    given: dict[str, Any] = {"sizes": (1, 4), "n_groups": 9, "n_top": 1, "samples": 3, **QUIET}
    methods = {"attribution": g.attribution}
    return gl.calibrate_methods(model, g.fresh, g.keys, methods, lexicon=g.lexicon, **given)


def lesion_curves(model: Model, g: Given) -> object:
    given: dict[str, Any] = {"ks": (2, 4), "sentences": 4, **QUIET}
    return gl.lesion_curves(model, g.fresh, g.keys, lexicon=g.lexicon, **given)


def equal_damage(model: Model, g: Given) -> object:
    given: dict[str, Any] = {"lexicon": g.lexicon, "layers": [1], "sentences": 4, **QUIET}
    return gl.equal_damage(model, g.train, g.fresh, g.keys, **given)


def find_again(model: Model, g: Given) -> object:
    keys = g.keys.top(6)
    return gl.find_again(model, g.train, g.fresh, keys, moments=g.moments, rounds=2, **QUIET)


def examples_of(model: Model, g: Given) -> object:
    return gl.examples_of(model, g.train, g.addresses, lexicon=g.lexicon, each=3, **QUIET)


def key_subspaces(model: Model, g: Given) -> object:
    return gl.key_subspaces(model, g.keys, n_random=3)


def time_course(model: Model, g: Given) -> object:
    return gl.time_course(model, g.train, offsets=(-1, 0, 1), **QUIET)


def output_contrast(model: Model, g: Given) -> object:
    return gl.output_contrast(model, g.lexicon.count)


def fit_lexicon(model: Model, g: Given) -> object:
    return gl.fit_lexicon(model, g.train)


def phenomena_study(model: Model, g: Given) -> object:
    study = gl.phenomena_study(
        model, PAIRS, g.keys, tags=g.keys.labels, shams=2, k=10, alpha=1.0, **QUIET
    )
    return study.to_frame(), study.intact, study.keys.to_frame()


def score_pairs(model: Model, g: Given) -> object:
    return gl.score_pairs(model, PAIRS)


def written(model: Model, g: Given) -> object:
    prompts = ["The old man", "She"]
    with gl.lesion(model, g.keys["NOUN"], dose=2.0):
        lesioned = write_on(model, prompts, tokens=8)
    return write_on(model, prompts, tokens=8), lesioned


def tagger(model: Model, g: Given) -> object:
    addresses = g.keys.top(5).union()
    rng = np.random.default_rng(0)
    probe = FittedProbe(
        labels=LABELS,
        addresses=addresses,
        mean=np.zeros(len(addresses)),
        sd=np.ones(len(addresses)),
        weight=rng.normal(size=(3, len(addresses))),
        bias=np.zeros(3),
        origin=g.keys.origin,
    )
    return Tagger(model, probe).tag(TEXTS)


def activations(model: Model, g: Given) -> object:
    return gl.activations(model, TEXTS[0], g.addresses)


def neuron_set(model: Model, g: Given) -> object:
    return gl.neuron_set(model, layer=1, indices=range(5), bank=g.train, max_words=60)


def next_word(model: Model, g: Given) -> object:
    return gl.next_word(model, "The old man", g.keys["VERB"], doses=(0.5, 1.0), lexicon=g.lexicon)


def read_text(model: Model, g: Given) -> object:
    return gl.read_text(model, TEXTS[0], g.keys["NOUN"], lexicon=g.lexicon)


CALLS: dict[str, Callable[[Model, Given], object]] = {
    "KeyNeuronFeatures": key_neuron_features,
    "activations": activations,
    "attribute": attribute,
    "calibrate": calibrate,
    "calibrate_methods": calibrate_methods,
    "collect": collect,
    "collect_labels": collect_labels,
    "donors": donors,
    "equal_damage": equal_damage,
    "erasure": erasure,
    "examples_of": examples_of,
    "find_again": find_again,
    "fit_lexicon": fit_lexicon,
    "phenomena_study": phenomena_study,
    "score_pairs": score_pairs,
    "generation.Tagger": tagger,
    "generation.write_on": written,
    "key_subspaces": key_subspaces,
    "layer_probes": layer_probes,
    "lesion": lesion,
    "lesion_curves": lesion_curves,
    "lesion_study": lesion_study,
    "neuron_set": neuron_set,
    "next_word": next_word,
    "output_contrast": output_contrast,
    "probe": probe,
    "probe_curve": probe_curve,
    "probe_layers": probe_layers,
    "read_text": read_text,
    "time_course": time_course,
    "untrained_twin": untrained_twin,
}


def taking_a_model() -> Iterator[str]:
    """The public functions and classes with a parameter `model` that is not a name."""
    rooms = {name: import_module(f"grammar_lens.{name}") for name in ("generation",)}
    public = {name: getattr(gl, name) for name in dir(gl) if not name.startswith("_")}
    for room, module in rooms.items():
        public |= {f"{room}.{name}": getattr(module, name) for name in module.__all__}
    for name, thing in public.items():
        is_class = inspect.isclass(thing) and not issubclass(thing, Exception)
        if inspect.isfunction(thing) or is_class:
            model = inspect.signature(thing).parameters.get("model")
            if model is not None and model.annotation is not str:
                yield name


def test_none_is_left_out():
    assert sorted(taking_a_model()) == sorted(CALLS)


# The comparison -----------------------------------------------------------------------------


def leaves(result: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, array and string of a result, with the way to it."""
    if is_dataclass(result) and not isinstance(result, type):
        for field in fields(result):
            if field.name == "weights" and isinstance(getattr(result, field.name), str):
                continue  # the fingerprint of one class's weights
            yield from leaves(getattr(result, field.name), f"{path}.{field.name}")
    elif isinstance(result, pd.DataFrame):
        for column in result:
            yield from leaves(result[column].to_numpy(), f"{path}.{column}")
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from leaves(value, f"{path}[{key}]")
    elif isinstance(result, Sequence) and not isinstance(result, str):
        for i, value in enumerate(result):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, result


@pytest.mark.filterwarnings("ignore:reference-9m gives no keys and values to reuse")
@pytest.mark.parametrize("name", CALLS)
def test_the_same_numbers(name: str, ours: Model, theirs: Model, given: Given):
    one, other = (list(leaves(CALLS[name](model, given))) for model in (ours, theirs))
    assert [path for path, _ in one] == [path for path, _ in other]
    assert one
    for (path, mine), (_, want) in zip(one, other, strict=True):
        if isinstance(want, float) or (isinstance(want, np.ndarray) and want.dtype.kind == "f"):
            allowed = LOOSER.get(f"{name}.{path.rpartition('.')[2]}", TOLERANCE)
            mine, want = np.asarray(mine), np.asarray(want)
            known = np.isfinite(want)
            np.testing.assert_array_equal(mine[~known], want[~known], err_msg=path)
            gap = np.abs(mine[known] - want[known]) / np.maximum(np.abs(want[known]), 1)
            assert gap.max(initial=0) <= allowed, path
        elif path.endswith(".tail"):
            # counts of null values beyond thresholds, some of them at the very edge
            assert np.abs(mine - want).max() <= TOLERANCE * want.max(), path
        else:
            np.testing.assert_array_equal(mine, want, err_msg=path)


def test_lesions_at_the_scored_token_need_a_bridge(ours: Model, given: Given):
    with pytest.raises(GrammarLensError, match="use every token"):
        gl.lesion_study(
            ours, given.fresh, given.keys, lexicon=given.lexicon, where="scored", shams=1, **QUIET
        )
