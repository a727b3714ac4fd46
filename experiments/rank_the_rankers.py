"""Rank the rankers: which score finds the neurons that tell a word's tag best, and most reliably?

    python experiments/rank_the_rankers.py
    python experiments/rank_the_rankers.py --train UD_English-EWT:train --fresh UD_English-EWT:test \
        --sentences 2400

Every score chooses neurons from the same words, and a probe on them, as many for every score, is
judged on fresh words. This is done again on each of several disjoint samples of training sentences:
accuracies are means over samples with t-intervals, and reliability is how far the choices from two
disjoint samples agree, beside chance. Attributions are of the word to come, so scores made of them
stand only at `next`. At each k a score gives k times as many distinct neurons as there are labels,
the labels taking turns; the single-number scores (eta_squared) give their best.

Claim: for few neurons the score matters by a few points of accuracy, and much more for whether other
sentences give the same neurons; for many neurons it hardly matters.
Run time: 30 CPU minutes with the treebank above (and --integrated-words 1000).
Expected result, UD English EWT with the reference model (docs/leaderboard.md has all of it): at `word` with
10 per label probe_weight .855 (.853 to .858), probeless_sd and correlation .852 to .853, random neurons .723, but
two samples agree on .48 of probe_weight's neurons and on .88 of correlation's. At `next` probeless .411,
attributions and correlation .405 to .407 with overlapping intervals, random .346. With 100 per label
the best are .012 above random neurons at either position.

Writes leaderboard.csv (a row per position, score and k), rounds.csv (per sample), leaderboard.md and
run.json to results/rank_the_rankers/.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.files import make_folder, write_json, write_text
from grammar_lens.model.about import Model, describe
from grammar_lens.neurons.controls import mean_interval
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import reliability
from grammar_lens.runs.session import read_source
from grammar_lens.runs.store.provenance import experiment_record, treebank_record
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES

NAME = "rank_the_rankers"
AT_NEXT_ONLY = ("attribution", "integrated_gradients")
"""What attributions need: they are of the word to come."""


@dataclass(frozen=True)
class Config:
    """The flags."""

    model: Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")] = (
        "reference-9m"
    )
    train: Annotated[str, typer.Option(help="Words to choose neurons on.")] = "embedded:train"
    fresh: Annotated[str, typer.Option(help="Other words to test on.")] = "embedded:test"
    label: Annotated[str, typer.Option(help="upos, xpos, deprel or feats:NAME.")] = "upos"
    min_words: Annotated[int, typer.Option(help="Training words that a value needs.")] = 100
    scores: Annotated[str, typer.Option(help="Scores by commas; all by default.")] = ""
    ks: Annotated[str, typer.Option(help="Neurons per label, by commas.")] = "10,50,100"
    seeds: Annotated[int, typer.Option(help="Disjoint samples of training sentences.")] = 5
    sentences: Annotated[int, typer.Option(help="Sentences in each sample; 0: all, divided.")] = 0
    sample: Annotated[int, typer.Option(help="Words per label for auroc and probe_weight.")] = 100
    integrated_words: Annotated[int, typer.Option(help="Words for integrated gradients.")] = 1500
    probe_words: Annotated[int, typer.Option(help="Training words of a probe, at most.")] = 8000
    device: Annotated[str, typer.Option(help="cpu, cuda; a GPU if there is one.")] = ""
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the leaderboard."""
    begin = time.perf_counter()
    make_folder(config.out)
    ks, names = [int(k) for k in config.ks.split(",")], _scores(config)
    model = gl.load_model(config.model, device=config.device or None)
    bank = read_source(config.train, config.label)
    whole = prepare(model, bank, label=config.label, min_words=config.min_words)
    fresh, dropped = fresh_corpus(model, read_source(config.fresh, config.label), whole)

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
        print(f"sample {seed + 1} of {config.seeds}: {time.perf_counter() - begin:.0f} s")

    table = pd.concat(rounds, ignore_index=True)
    board = leaderboard(table, agreement(choices, ks))
    record = {
        **experiment_record(NAME, config),
        "model": describe(model),
        "train": treebank_record(bank),
        "fresh": treebank_record(fresh.bank),
        "dropped_duplicates": dropped,
        "labels": list(whole.labels),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_json(config.out / "run.json", record)
    write_text(config.out / "rounds.csv", table.to_csv(index=False))
    write_text(config.out / "leaderboard.csv", board.to_csv(index=False))
    write_text(config.out / "leaderboard.md", markdown(board))
    print(markdown(board))
    print(f"{record['seconds']:.0f} s; numbers in {config.out}")
    return board


def disjoint_samples(whole: Corpus, config: Config) -> Iterator[Corpus]:
    """Corpora of disjoint sentences, drawn with a fixed seed, of one size."""
    n = len(whole.bank)
    size = min(config.sentences or n, n // config.seeds)
    order = np.random.default_rng(0).permutation(n)
    sentence = whole.alignment.sentence
    for seed in range(config.seeds):
        mine = np.isin(sentence, order[seed * size : (seed + 1) * size])
        yield replace(whole, classes=np.where(mine, whole.classes, -1))


def gather(
    model: Model, corpus: Corpus, position: str, names: list[str], config: Config, seed: int
) -> Evidence:
    """Everything that the scores need of one sample of sentences at one position."""
    needs = {SCORES[name].needs for name in names}
    collected = gl.collect(
        model,
        corpus,
        position=position,
        sample=config.sample if "sample" in needs else 0,
        seed=seed,
    )
    evidence = collected.evidence()
    lexicon = gl.fit_lexicon(model, corpus)
    if "output_contrast" in needs:
        evidence = replace(evidence, output_contrast=gl.output_contrast(model, lexicon.count))
    if position != "next":
        return evidence
    if "attribution" in needs:
        found = gl.attribute(model, corpus, moments=evidence.moments, lexicon=lexicon, seed=seed)
        evidence = replace(evidence, attribution=found)
    if "integrated_gradients" in needs:
        found = gl.attribute(
            model, corpus, kind="integrated_gradients", max_words=config.integrated_words, seed=seed
        )
        evidence = replace(evidence, integrated_gradients=found)
    return evidence


def choose(
    evidence: Evidence, names: list[str], position: str, k: int
) -> tuple[dict[str, KeyNeurons], dict[str, float]]:
    """Each score's neurons, enough for k of every label, and the seconds that scoring took."""
    keys, seconds = {}, {}
    for name in names:
        if position != "next" and SCORES[name].needs in AT_NEXT_ONLY:
            continue
        begin = time.perf_counter()
        scores = gl.score(evidence, name)
        seconds[name] = time.perf_counter() - begin
        # labels take turns, so one may have to give the place of others whose neurons are taken
        most = min(scores.values[0].size, k * len(scores.labels))
        keys[name] = gl.select(scores, most)
    return keys, seconds


def agreement(
    choices: Mapping[tuple[int, str], Mapping[str, KeyNeurons]], ks: list[int]
) -> pd.DataFrame:
    """Share of a label's k neurons that two disjoint samples agree on, mean over labels and pairs."""
    rows = []
    for position in dict.fromkeys(p for _, p in choices):
        runs = [keys for (_, p), keys in choices.items() if p == position]
        for name in runs[0]:
            for k in ks:
                found = [
                    reliability(a[name].top(k), b[name].top(k)) for a, b in combinations(runs, 2)
                ]
                # a single sample agrees with no other
                share = [float(np.mean(r.shared / k)) for r in found] or [np.nan]
                chance = [float(np.mean(r.expected / k)) for r in found] or [np.nan]
                rows.append((position, name, k, np.mean(share), np.mean(chance)))
    columns = ["position", "score", "k", "agreement", "chance_agreement"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def leaderboard(rounds: pd.DataFrame, agreed: pd.DataFrame) -> pd.DataFrame:
    """A row per position, score and k, best first: means over samples, with an interval."""
    rows = []
    for key, group in rounds.groupby(["position", "score", "k"], sort=False):
        position, name, k = key if isinstance(key, tuple) else (key, "", 0)
        mean, low, high = mean_interval(group["accuracy"].to_numpy())
        row: dict[str, Any] = {"position": position, "score": name, "k": k}
        row |= {"n_neurons": group["n_neurons"].mean()}
        row |= {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}
        for column in ("ambiguous_accuracy", "unseen_accuracy", "macro_f1"):
            row[column] = group[column].mean()
        rows.append({**row, "seconds": group["seconds"].mean()})
    board = pd.DataFrame(rows).merge(agreed, on=["position", "score", "k"], how="left")
    order = board["position"].map({"word": 0, "next": 1})
    board = board.assign(order=order).sort_values(
        ["order", "k", "accuracy"], ascending=[True, True, False], ignore_index=True
    )
    return board.drop(columns="order")


def markdown(board: pd.DataFrame) -> str:
    """The leaderboard as tables, one per position and k."""
    parts: dict[str, list[str]] = {}
    for row in board.to_dict("records"):
        title = f"`{row['position']}`, {row['k']} neurons per label ({row['n_neurons']:.0f} in all)"
        agreed = f"{row['agreement']:.2f} ({row['chance_agreement']:.2f})"
        parts.setdefault(title, []).append(
            f"| {row['score']} | {row['accuracy']:.3f} ({row['accuracy_low']:.3f} to "
            f"{row['accuracy_high']:.3f}) | {row['ambiguous_accuracy']:.3f} | "
            f"{row['unseen_accuracy']:.3f} | {row['macro_f1']:.3f} | "
            f"{'' if np.isnan(row['agreement']) else agreed} |"
        )
    head = (
        "| score | accuracy (95 % interval) | ambiguous forms | unseen forms | macro F1 "
        "| agreement (chance) |\n|---|---|---|---|---|---|"
    )
    return "\n\n".join(f"### {t}\n\n{head}\n" + "\n".join(rows) for t, rows in parts.items()) + "\n"


def _scores(config: Config) -> list[str]:
    names = list(listed(config.scores) or SCORES)
    unknown = [x for x in names if x not in SCORES]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is not one of {', '.join(SCORES)}", param_hint="--scores"
        )
    return names


if __name__ == "__main__":
    start_page(main, Config, Config.__doc__)
