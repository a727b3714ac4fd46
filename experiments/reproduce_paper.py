"""Reproduce the paper: what does its rule find, and what is left of its figures beside controls?

    python experiments/reproduce_paper.py
    python experiments/reproduce_paper.py --train UD_English-EWT:train --fresh UD_English-EWT:test
    python experiments/reproduce_paper.py --model meta-llama/Meta-Llama-3-8B --train ... --fresh ...

The rule of Norouzi, Masjedi & Hitzler (2025), arXiv 2511.06519: integrated gradients of every MLP
neuron for the word to come; of every word the 5 % largest; of every tag (noun, verb, adjective,
adverb) the k = 100 neurons most often among them. The paper's data, steps, baseline, target and
whether k is per layer were not to be had, so each is a flag; the baseline is zero.

A sample is whole sentences with up to --max-words words of the four tags. --samples of them, of
disjoint training sentences, each judged on disjoint held-out sentences, give means with t-intervals.
Classifiers (logistic regression, linear SVM) read the key neurons of one layer at a time.

Claims tested: the paper's figures, and four of a public summary of it (neurons needed, accuracy,
overlap between tags, layers), which are not known to be the paper's.
Run time: 5 to 6 CPU minutes, most of it integrated gradients (--joint takes a fifth of that).
Expected result: docs/paper.md. None of it says what Llama-3-8B would give.

Writes paper.csv, claims.csv, samples.csv (a row per sample), layers.csv (sample and layer),
curve.csv (accuracy against neurons of the last layer), key_neurons.csv, reproduce_paper.html, run.json.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from common import Experiment, Flags, OutFlag, PositionFlag, sources
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.dissociation.tables import stacked
from grammar_lens.errors import GrammarLensError, require_at_least
from grammar_lens.figures.published_rule import published_rule
from grammar_lens.model.about import Model
from grammar_lens.neurons.depth import depth_bins
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.passes.moments import Moments
from grammar_lens.probing.published_rule import (
    THIRDS,
    accuracy_numbers,
    beside_the_paper,
    claims,
    neuron_numbers,
)
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.from_effects import frequency_depends
from grammar_lens.selectivity.result import Scores

NAME = "reproduce_paper"
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
"""Shares of a layer's neurons at which accuracy is measured."""
TOLD = ("words", "union", "coefficient", "expected_coefficient", "best_svm", "best_random_svm")
"""The numbers of a sample that are printed."""


@dataclass(frozen=True)
class Config(Flags):
    """The flags."""

    tags: Annotated[str, Option(help="UPOS tags, separated by commas.")] = "NOUN,VERB,ADJ,ADV"
    samples: Annotated[int, Option(help="Disjoint samples, for intervals.")] = 5
    max_words: Annotated[int, Option(help="Words integrated per sample, at most.")] = 400
    steps: Annotated[int, Option(help="Steps of the integral.")] = 20
    target: Annotated[str, Option(help="probability or log_probability.")] = "probability"
    joint: Annotated[bool, Option(help="Scale all layers at once.")] = False
    top_share: Annotated[float, Option(help="Share of a word's neurons kept.")] = 0.05
    top_by: Annotated[str, Option(help="Largest by value or by size.")] = "value"
    top_per_layer: Annotated[bool, Option(help="Keep that share of every layer.")] = False
    chi_squared: Annotated[float, Option(help="Only neurons whose tags differ, at this p.")] = 1.0
    k: Annotated[int, Option(help="Key neurons per tag.")] = 100
    per_layer: Annotated[bool, Option(help="That many in every layer.")] = True
    position: PositionFlag = "next"
    max_train_words: Annotated[int, Option(help="To fit on, per sample.")] = 2500
    max_sentences: Annotated[int, Option(help="Sentences of either treebank.")] = 3000
    enough: Annotated[float, Option(help="Share of the gain that counts as enough.")] = 0.95
    out: OutFlag = Path("results") / NAME


@dataclass(frozen=True)
class Sample:
    """What one sample finds: its neurons, each layer's share of those kept, and tables of numbers."""

    keys: KeyNeurons
    numbers: dict[str, float]
    kept: np.ndarray
    layers: pd.DataFrame
    curve: pd.DataFrame


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of claims."""
    experiment, model = Experiment(NAME, config), config.load_model()
    depth_bins(model.cfg.n_layers, len(THIRDS))  # too few layers end it here
    bank = load_treebank(config.train, label="upos").sample(config.max_sentences, seed=config.seed)
    corpus = prepare(model, bank, labels=listed(config.tags))
    held_out = load_treebank(config.fresh, label="upos")
    fresh, dropped = fresh_corpus(model, held_out, corpus, config.max_sentences)
    moments = gl.collect(model, corpus, position="next")["neuron"]
    lexicon = gl.fit_lexicon(model, corpus)

    samples = []
    parts = zip(disjoint(corpus, config), disjoint(fresh, config), strict=True)
    for number, (train, test) in enumerate(parts):
        seed = config.seed + number
        attribution = integrated(model, train, config, lexicon=lexicon, seed=seed)
        samples.append(one_sample(model, train, test, attribution, moments, config, seed))
        experiment.tell({"sample": number, **{x: samples[-1].numbers[x] for x in TOLD}})

    numbers = pd.DataFrame([s.numbers for s in samples])
    per_layer = {"kept_per_layer": config.top_per_layer, "chosen_per_layer": config.per_layer}
    tables = {
        "paper": beside_the_paper(numbers),
        "claims": claims(numbers, enough=config.enough, **per_layer),
        "samples": numbers.rename_axis("sample").reset_index(),
        "layers": stacked({i: s.layers for i, s in enumerate(samples)}, "sample"),
        "curve": stacked({i: s.curve for i, s in enumerate(samples)}, "sample"),
        "key_neurons": stacked({i: s.keys.to_frame() for i, s in enumerate(samples)}, "sample"),
    }
    for name in ("paper", "claims"):
        print(tables[name].to_string(index=False, float_format="{:,.3f}".format), end="\n\n")
    about = sources(model, train=corpus, fresh=fresh)
    figure = published_rule(
        tables["layers"],
        np.stack([s.kept for s in samples]),
        tables["curve"],
        model=about["model"]["name"],
        position=config.position,
        top_share=config.top_share,
    )
    experiment.finish(about | {"dropped_duplicates": dropped}, tables, figure)
    return tables["claims"]


def disjoint(corpus: Corpus, config: Config) -> list[Corpus]:
    """The corpus once for every sample, with the tags of that sample's own sentences alone."""
    require_at_least("--samples", config.samples, 2)  # intervals need them
    rng = np.random.default_rng(config.seed)
    part = rng.permutation(len(corpus.bank)) % config.samples
    of_word = part[corpus.alignment.sentence]
    return [
        replace(corpus, classes=np.where(of_word == i, corpus.classes, -1))
        for i in range(config.samples)
    ]


def integrated(model: Model, train: Corpus, config: Config, **more: Any) -> Attribution:
    """The integrated gradients of a sample, and how often each neuron is among the largest."""
    names = ("max_words", "steps", "target", "joint", "top_share", "top_by", "top_per_layer")
    flags: dict[str, Any] = {name: getattr(config, name) for name in names}
    attribution = gl.attribute(model, train, kind="integrated_gradients", **flags, **more)
    missing = [x for x, n in zip(train.labels, attribution.count, strict=True) if n == 0]
    if missing:
        raise GrammarLensError(
            f"a sample has no word of {', '.join(missing)}: use a larger treebank, fewer "
            "--samples, or more --max-words"
        )
    return attribution


def one_sample(
    model: Model,
    train: Corpus,
    fresh: Corpus,
    attribution: Attribution,
    moments: Moments,
    config: Config,
    seed: int,
) -> Sample:
    """The paper's rule on one sample of training words, and its classifiers on held-out ones."""
    scores, keys = chosen(attribution, moments, config)
    halves = [chosen(half, moments, config)[1] for half in attribution.halves or ()]
    per_layer = scores.values.mean(0).sum(1)

    # accuracy of each layer's key neurons, and of more and more neurons of the last layer
    words: dict[str, Any] = {"position": config.position, "n_random": 2, "seed": seed}
    words["max_train_words"] = config.max_train_words
    classifiers = ("logistic", "svm")
    layers = gl.probe_layers(model, train, fresh, keys, classifiers=classifiers, **words)
    every = gl.select(scores, keys.n_units, rule="frequency", per_layer=True)
    last = {"kept": every.in_layer(keys.n_layers - 1)}
    ks = [max(1, round(share * keys.n_units / len(keys))) for share in SHARES]
    curve = gl.probe_curve(model, train, fresh, last, ks=ks, same_number=True, **words)
    numbers = {
        "words": float(attribution.count.sum()),
        "completeness": attribution.completeness,
        **neuron_numbers(keys, halves, per_layer),
        **accuracy_numbers(layers, curve, keys.n_units, config.enough),
    }
    return Sample(keys, numbers, per_layer / per_layer.sum(), layers, curve.to_frame())


def chosen(attribution: Attribution, moments: Moments, config: Config) -> tuple[Scores, KeyNeurons]:
    """How often each neuron is kept, and the neurons kept most often."""
    scores = gl.score(Evidence(moments, integrated_gradients=attribution), "frequency")
    passed = frequency_depends(attribution) <= config.chi_squared
    filtered = replace(scores, values=np.where(passed, scores.values, 0.0))
    return scores, gl.select(filtered, config.k, rule="frequency", per_layer=config.per_layer)


if __name__ == "__main__":
    start_page(main, Config, __doc__)
