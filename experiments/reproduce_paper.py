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
Expected result, UD English EWT with the 9M-parameter reference model (intervals below .02 unless given):
the last layer is read best, as in the paper, but at .64 (SVM; logistic .62), where random neurons of
the layer give .62, the form of the word before .61, the control task .61 and the majority .43; 100 of
896 neurons per layer are too many to matter which. With --k 6 --position word, the paper's .7 % of a layer, key
neurons give .70 (.68 to .71), random ones .52, the word's form .75. 33 % of all neurons are
chosen for some tag (the paper: 1.1 %; with --k 6 2.1 %). Two tags share .23 of their neurons (chance
.11), two halves of the words .28 for one tag and .20 for two different ones: the rule finds mostly
neurons that are kept whatever the tag. Of the summary's claims: neurons needed no (5 % of the last layer
at `next`, all of it at `word`); over 85 % no; shared 20 to 40 % yes by overlap coefficient, no by
Jaccard (.13); middle to late layers no (.61 of the kept stand there, an even spread gives .62:
layer 0 alone has .29). The embedded treebank (defaults) gives the same verdicts but the last (.63,
undecided), and .61 to .57 for random neurons. None of it says what Llama-3-8B would give.

Writes paper.csv, claims.csv, samples.csv (a row per sample), layers.csv (sample and layer),
curve.csv (accuracy against neurons of the last layer), key_neurons.csv, reproduce_paper.html, run.json.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from common import (
    FRESH,
    MODEL,
    TRAIN,
    DeviceFlag,
    Experiment,
    FreshFlag,
    ModelFlag,
    OutFlag,
    PositionFlag,
    TrainFlag,
    in_words,
    treebanks,
)

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.dissociation.tables import stacked
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.published_rule import published_rule
from grammar_lens.model.about import Model, describe
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
class Config:
    """The flags."""

    model: ModelFlag = MODEL
    train: TrainFlag = TRAIN
    fresh: FreshFlag = FRESH
    tags: Annotated[str, typer.Option(help="UPOS tags, separated by commas.")] = "NOUN,VERB,ADJ,ADV"
    samples: Annotated[int, typer.Option(help="Disjoint samples, for intervals.")] = 5
    max_words: Annotated[int, typer.Option(help="Words integrated per sample, at most.")] = 400
    steps: Annotated[int, typer.Option(help="Steps of the integral.")] = 20
    target: Annotated[str, typer.Option(help="probability or log_probability.")] = "probability"
    joint: Annotated[bool, typer.Option(help="Scale all layers at once.")] = False
    top_share: Annotated[float, typer.Option(help="Share of a word's neurons kept.")] = 0.05
    top_by: Annotated[str, typer.Option(help="Largest by value or by size.")] = "value"
    top_per_layer: Annotated[bool, typer.Option(help="Keep that share of every layer.")] = False
    chi_squared: Annotated[
        float, typer.Option(help="Only neurons kept unequally often under the tags, at this p.")
    ] = 1.0
    k: Annotated[int, typer.Option(help="Key neurons per tag.")] = 100
    per_layer: Annotated[bool, typer.Option(help="That many in every layer.")] = True
    position: PositionFlag = "next"
    max_train_words: Annotated[int, typer.Option(help="To fit on, per sample.")] = 2500
    max_sentences: Annotated[int, typer.Option(help="Sentences of either treebank.")] = 3000
    enough: Annotated[
        float, typer.Option(help="Gain over the majority that counts as enough neurons.")
    ] = 0.95
    seed: Annotated[int, typer.Option(help="Seed of samples and random neurons.")] = 0
    device: DeviceFlag = ""
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
    experiment = Experiment(NAME, config)
    model = gl.load_model(config.model, device=config.device or None)
    depth_bins(model.cfg.n_layers, len(THIRDS))  # too few layers end it here
    bank = load_treebank(config.train, label="upos").sample(config.max_sentences, seed=config.seed)
    corpus = prepare(model, bank, labels=listed(config.tags))
    new, dropped = fresh_corpus(
        model, load_treebank(config.fresh, label="upos"), corpus, config.max_sentences
    )
    moments = gl.collect(model, corpus, position="next")["neuron"]
    lexicon = gl.fit_lexicon(model, corpus)

    samples = []
    parts = zip(disjoint(corpus, config), disjoint(new, config), strict=True)
    for number, (train, fresh) in enumerate(parts):
        part = replace(config, seed=config.seed + number)
        samples.append(one_sample(model, train, fresh, moments, lexicon, part))
        print(in_words({"sample": number, **{x: samples[-1].numbers[x] for x in TOLD}}), flush=True)

    numbers = pd.DataFrame([s.numbers for s in samples])
    tables = {
        "paper": beside_the_paper(numbers),
        "claims": claims(
            numbers,
            enough=config.enough,
            kept_per_layer=config.top_per_layer,
            chosen_per_layer=config.per_layer,
        ),
        "samples": numbers.rename_axis("sample").reset_index(),
        "layers": stacked({i: s.layers for i, s in enumerate(samples)}, "sample"),
        "curve": stacked({i: s.curve for i, s in enumerate(samples)}, "sample"),
        "key_neurons": stacked({i: s.keys.to_frame() for i, s in enumerate(samples)}, "sample"),
    }
    for name in ("paper", "claims"):
        print(tables[name].to_string(index=False, float_format="{:,.3f}".format), end="\n\n")
    figure = published_rule(
        tables["layers"],
        np.stack([s.kept for s in samples]),
        tables["curve"],
        model=describe(model)["name"],
        position=config.position,
        top_share=config.top_share,
    )
    about = {
        "model": describe(model),
        "treebank": treebanks(train=corpus.bank, fresh=new.bank),
        "labels": list(corpus.labels),
        "dropped_duplicates": dropped,
    }
    experiment.finish(about, tables, figure)
    return tables["claims"]


def disjoint(corpus: Corpus, config: Config) -> list[Corpus]:
    """The corpus once for every sample, with the tags of that sample's own sentences alone."""
    if config.samples < 2:
        raise GrammarLensError(
            f"--samples is {config.samples}, expected 2 or more: intervals need them"
        )
    rng = np.random.default_rng(config.seed)
    part = rng.permutation(len(corpus.bank)) % config.samples
    of_word = part[corpus.alignment.sentence]
    return [
        replace(corpus, classes=np.where(of_word == i, corpus.classes, -1))
        for i in range(config.samples)
    ]


def one_sample(
    model: Model,
    train: Corpus,
    fresh: Corpus,
    moments: Moments,
    lexicon: Lexicon,
    config: Config,
) -> Sample:
    """The paper's rule on one sample of training words, and its classifiers on held-out ones."""
    attribution = gl.attribute(
        model,
        train,
        kind="integrated_gradients",
        lexicon=lexicon,
        steps=config.steps,
        target=config.target,
        joint=config.joint,
        top_share=config.top_share,
        top_by=config.top_by,
        top_per_layer=config.top_per_layer,
        max_words=config.max_words,
        seed=config.seed,
    )
    missing = [x for x, n in zip(train.labels, attribution.count, strict=True) if n == 0]
    if missing:
        raise GrammarLensError(
            f"a sample has no word of {', '.join(missing)}: use a larger treebank, fewer "
            "--samples, or more --max-words"
        )
    scores, keys = chosen(attribution, moments, config)
    halves = [chosen(half, moments, config)[1] for half in attribution.halves or ()]
    per_layer = scores.values.mean(0).sum(1)

    # accuracy of each layer's key neurons, and of more and more neurons of the last layer
    words = {"position": config.position, "max_train_words": config.max_train_words}
    layers = gl.probe_layers(
        model,
        train,
        fresh,
        keys,
        classifiers=("logistic", "svm"),
        n_random=2,
        seed=config.seed,
        **words,
    )
    every = gl.select(scores, keys.n_units, rule="frequency", per_layer=True)
    curve = gl.probe_curve(
        model,
        train,
        fresh,
        {"kept": every.in_layer(keys.n_layers - 1)},
        ks=[max(1, round(share * keys.n_units / len(keys))) for share in SHARES],
        same_number=True,
        n_random=2,
        seed=config.seed,
        **words,
    )
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
    start_page(main, Config, Config.__doc__)
