"""Rank the rankers: which score finds the neurons that predict a word's tag, and how reliably?

    python experiments/rank_the_rankers.py
    python experiments/rank_the_rankers.py --train UD_English-EWT:train --fresh UD_English-EWT:test \
        --sentences 2400

Every score chooses neurons from the same words, and a probe on them, as many for every score, is
judged on held-out words. This is done again on each of several disjoint samples of training sentences:
accuracies are means over samples with t-intervals, and reliability is how far the choices from two
disjoint samples agree, beside chance. Attributions are of the word to come, so scores made of them
stand only at `next`. At each k a score gives k times as many distinct neurons as there are labels,
the labels taking turns; the single-number scores (eta_squared) give their best.

Claim: for few neurons the score matters by a few points of accuracy, and much more for whether other
sentences give the same neurons; for many neurons it hardly matters.
Run time: 30 CPU minutes with the treebank above (and --integrated-words 1000).
Expected result: docs/leaderboard.md.

Writes leaderboard.csv (a row per position, score and k), rounds.csv (per sample), leaderboard.md and
run.json to results/rank_the_rankers/.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from common import Experiment, Flags, LabelFlag, OutFlag, sources
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.errors import require_one_of
from grammar_lens.files import write_text
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.probing.leaderboard import (
    agreement_of_samples,
    leaderboard,
    leaderboard_markdown,
)
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES

NAME = "rank_the_rankers"


@dataclass(frozen=True)
class Config(Flags):
    """The flags."""

    label: LabelFlag = "upos"
    min_words: Annotated[int, Option(help="Training words that a value needs.")] = 100
    scores: Annotated[str, Option(help="Scores separated by commas; all by default.")] = ""
    ks: Annotated[str, Option(help="Neurons per label, separated by commas.")] = "10,50,100"
    seeds: Annotated[int, Option(help="Disjoint samples of training sentences.")] = 5
    sentences: Annotated[int, Option(help="Sentences in each sample; 0: all, divided.")] = 0
    sample: Annotated[int, Option(help="Words per label for auroc and probe_weight.")] = 100
    integrated_words: Annotated[int, Option(help="Words for integrated gradients.")] = 1500
    probe_words: Annotated[int, Option(help="Training words of a probe, at most.")] = 8000
    out: OutFlag = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the leaderboard."""
    ks, names = [int(k) for k in listed(config.ks)], listed(config.scores) or tuple(SCORES)
    for name in names:
        require_one_of("--scores", name, SCORES)
    experiment, model = Experiment(NAME, config), config.load_model()
    whole, fresh, dropped = config.words(model, label=config.label, min_words=config.min_words)

    rounds, choices = [], {}
    for seed, corpus in enumerate(disjoint_samples(whole, config)):
        for position in ("word", "next"):
            evidence = gather(model, corpus, position, names, config, seed)
            keys, seconds = choose(evidence, names, position, max(ks))
            curve = gl.probe_curve(
                model,
                corpus,
                fresh,
                keys,
                ks=ks,
                position=position,
                same_number=True,
                control=False,
                max_train_words=config.probe_words,
                seed=seed,
            ).to_frame()
            curve["seconds"] = curve["score"].map(seconds)
            rounds.append(curve.assign(position=position, seed=seed))
            choices[seed, position] = keys
        print(f"sample {seed + 1} of {config.seeds}", flush=True)

    table = pd.concat(rounds, ignore_index=True)
    board = leaderboard(table, agreement_of_samples(choices, ks))
    write_text(config.out / "leaderboard.md", leaderboard_markdown(board))
    print(leaderboard_markdown(board))
    about = sources(model, train=whole, fresh=fresh) | {"dropped_duplicates": dropped}
    experiment.finish(about, {"rounds": table, "leaderboard": board})
    return board


def disjoint_samples(whole: Corpus, config: Config) -> Iterator[Corpus]:
    """Corpora of disjoint sentences, drawn at random, of one size."""
    n = len(whole.bank)
    size = min(config.sentences or n, n // config.seeds)
    order = np.random.default_rng(config.seed).permutation(n)
    sentence = whole.alignment.sentence
    for seed in range(config.seeds):
        chosen = np.isin(sentence, order[seed * size : (seed + 1) * size])
        yield replace(whole, classes=np.where(chosen, whole.classes, -1))


def gather(
    model: Model, corpus: Corpus, position: str, names: Sequence[str], config: Config, seed: int
) -> Evidence:
    """Everything that the scores need of one sample of sentences at one position."""
    needs = {SCORES[name].needs for name in names}
    sample = config.sample if "sample" in needs else 0
    collected = gl.collect(model, corpus, position=position, sample=sample, seed=seed)
    evidence, lexicon = collected.evidence(), gl.fit_lexicon(model, corpus)
    found: dict[str, Any] = {}
    if "output_contrast" in needs:
        found["output_contrast"] = gl.output_contrast(model, lexicon.count)
    if position == "next":
        words: dict[str, Any] = {"moments": evidence.moments, "lexicon": lexicon, "seed": seed}
        for name in needs & {"attribution", "relevance"}:
            found[name] = gl.attribute(model, corpus, relevance=name == "relevance", **words)
        if "integrated_gradients" in needs:
            few: dict[str, Any] = {"max_words": config.integrated_words, "seed": seed}
            integrated = gl.attribute(model, corpus, kind="integrated_gradients", **few)
            found["integrated_gradients"] = integrated
    return replace(evidence, **found)


def choose(
    evidence: Evidence, names: Sequence[str], position: str, k: int
) -> tuple[dict[str, KeyNeurons], dict[str, float]]:
    """Each score's neurons, enough for k of every label, and the seconds that scoring took."""
    keys, seconds = {}, {}
    for name in names:
        if position == "next" or not SCORES[name].at_next_only:
            begin = time.perf_counter()
            scores = gl.score(evidence, name)
            seconds[name] = time.perf_counter() - begin
            # labels take turns, so one may have to give the place of others whose neurons are taken
            keys[name] = gl.select(scores, min(scores.values[0].size, k * len(scores.labels)))
    return keys, seconds


if __name__ == "__main__":
    start_page(main, Config, __doc__)
