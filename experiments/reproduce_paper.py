"""Reproduce the paper: what does its rule find, and what is left of its figures beside controls?

    python experiments/reproduce_paper.py
    python experiments/reproduce_paper.py --train UD_English-EWT:train --fresh UD_English-EWT:test
    python experiments/reproduce_paper.py --model meta-llama/Meta-Llama-3-8B --train ... --fresh ...

The rule of Norouzi, Masjedi & Hitzler (2025), arXiv 2511.06519: integrated gradients of every MLP
neuron for the word to come; of every word the 5 % largest; of every tag (noun, verb, adjective,
adverb) the k = 100 neurons most often among them. The paper's data, steps, baseline, target and
whether k is per layer were not to be had, so each is a flag; the baseline is zero.

A sample is whole sentences with up to --max-words words of the four tags. --samples of them, of
disjoint training sentences, each judged on disjoint fresh sentences, give means with t-intervals.
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

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import typer
from plotly.subplots import make_subplots

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.style import COLOURS, GREY, STYLE, plain
from grammar_lens.files import make_folder, write_file, write_json, write_text
from grammar_lens.model.about import Model, describe
from grammar_lens.neurons.choice_agreement import cross_overlap
from grammar_lens.neurons.controls import mean_interval
from grammar_lens.neurons.depth import depth_bins, depth_share
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import overlap
from grammar_lens.passes.moments import Moments
from grammar_lens.probing.curves import ProbeCurve, fewest_enough
from grammar_lens.runs.session import read_source
from grammar_lens.runs.store.provenance import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.from_effects import frequency_depends
from grammar_lens.selectivity.result import Scores

NAME = "reproduce_paper"
CLASSIFIERS = ("logistic", "svm")
KEPT = "kept"
"""The name of the curve of the neurons most often kept."""
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
"""Shares of a layer's neurons at which accuracy is measured."""
THIRDS = ("first", "middle", "last")


@dataclass(frozen=True)
class Config:
    """The flags."""

    model: Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")] = (
        "reference-9m"
    )
    train: Annotated[str, typer.Option(help="Words to choose neurons on.")] = "embedded:train"
    fresh: Annotated[str, typer.Option(help="Other words to test on.")] = "embedded:test"
    tags: Annotated[str, typer.Option(help="UPOS tags, by commas.")] = "NOUN,VERB,ADJ,ADV"
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
    position: Annotated[str, typer.Option(help="Where classifiers read: word or next.")] = "next"
    max_train_words: Annotated[int, typer.Option(help="To fit on, per sample.")] = 2500
    max_sentences: Annotated[int, typer.Option(help="Sentences of either treebank.")] = 3000
    enough: Annotated[
        float, typer.Option(help="Gain over the majority that counts as enough neurons.")
    ] = 0.95
    seed: Annotated[int, typer.Option(help="Seed of samples and random neurons.")] = 0
    device: Annotated[str, typer.Option(help="cpu, cuda; a GPU if there is one.")] = ""
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results") / NAME


@dataclass(frozen=True)
class Sample:
    """What one sample finds: its neurons, and tables of numbers."""

    keys: KeyNeurons
    numbers: dict[str, float]
    kept: np.ndarray
    layers: pd.DataFrame
    curve: pd.DataFrame


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of claims."""
    begin = time.perf_counter()
    refuse_other_results(config.out, NAME)
    make_folder(config.out)

    model = gl.load_model(config.model, device=config.device or None)
    depth_bins(model.cfg.n_layers, len(THIRDS))  # too few layers end it here
    bank = read_source(config.train, "upos").head(config.max_sentences, seed=config.seed)
    corpus = prepare(model, bank, labels=listed(config.tags))
    new, dropped = fresh_corpus(
        model, read_source(config.fresh, "upos"), corpus, config.max_sentences
    )
    moments = gl.collect(model, corpus, position="next")["neuron"]
    lexicon = gl.fit_lexicon(model, corpus)

    samples = []
    parts = zip(disjoint(corpus, config), disjoint(new, config), strict=True)
    for number, (train, fresh) in enumerate(parts):
        samples.append(one_sample(model, train, fresh, moments, lexicon, config, number))
        print(_told(number, samples[-1]))

    found = pd.DataFrame([s.numbers for s in samples]).rename_axis("sample")
    paper, claims = paper_table(found), claim_table(found, config)
    print(_shown(paper), _shown(claims), sep="\n\n")
    page = draw(samples, found, config, model)
    seconds = time.perf_counter() - begin
    record = provenance(config, model, corpus, new)
    record |= {"dropped_duplicates": dropped, "seconds": round(seconds, 1)}
    record |= {"cpu_seconds": round(time.process_time(), 1)}
    write_json(config.out / "run.json", record)
    tables = {
        "paper": paper,
        "claims": claims,
        "samples": found.reset_index(),
        "layers": _stacked([s.layers for s in samples]),
        "curve": _stacked([s.curve for s in samples]),
        "key_neurons": _stacked([s.keys.to_frame() for s in samples]),
    }
    for name, table in tables.items():
        write_text(config.out / f"{name}.csv", table.to_csv(index=False))
    write_file(config.out / f"{NAME}.html", lambda path: page.write_html(path, div_id=NAME))
    print(f"{seconds:.0f} s; figure and numbers in {config.out}")
    return claims


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
    number: int,
) -> Sample:
    """The paper's rule on one sample of training words, and its classifiers on fresh ones."""
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
        seed=config.seed + number,
    )
    missing = [x for x, n in zip(train.labels, attribution.count, strict=True) if n == 0]
    if missing:
        raise GrammarLensError(
            f"sample {number} has no word of {', '.join(missing)}: use a larger treebank, fewer "
            "--samples, or more --max-words"
        )
    scores, keys = chosen(attribution, moments, config)
    halves = [chosen(half, moments, config)[1] for half in attribution.halves or ()]
    layers, curve = classify(model, train, fresh, scores, keys, config, number)
    numbers = {"words": float(attribution.count.sum()), "completeness": attribution.completeness}
    kept = scores.values.mean(0).sum(1)
    numbers |= set_numbers(keys, halves, kept) | accuracy_numbers(
        layers, curve, keys.n_units, config
    )
    return Sample(keys, numbers, kept / kept.sum(), layers, curve.to_frame())


def chosen(attribution: Attribution, moments: Moments, config: Config) -> tuple[Scores, KeyNeurons]:
    """How often each neuron is kept, and the neurons kept most often."""
    scores = gl.score(Evidence(moments, integrated_gradients=attribution), "frequency")
    passed = frequency_depends(attribution) <= config.chi_squared
    filtered = replace(scores, values=np.where(passed, scores.values, 0.0))
    return scores, gl.select(filtered, config.k, rule="frequency", per_layer=config.per_layer)


def set_numbers(
    keys: KeyNeurons, halves: Sequence[KeyNeurons], kept: np.ndarray
) -> dict[str, float]:
    """How many neurons there are, how far the tags share them, and where they stand."""
    union, sharing = keys.union(), overlap(keys)
    pairs = np.triu_indices(len(keys), 1)
    between = cross_overlap(*halves)
    other = ~np.eye(len(keys), dtype=bool)
    counts = np.bincount(union[:, 0], minlength=keys.n_layers).astype(float)
    return {
        "union": float(len(union)),
        "union_share": len(union) / (keys.n_layers * keys.n_units),
        "distinct_share": len(union) / max(1, sum(len(keys[x]) for x in keys)),
        "coefficient": float(sharing.coefficient[pairs].mean()),
        "expected_coefficient": float(sharing.expected_coefficient[pairs].mean()),
        "jaccard": float(sharing.jaccard[pairs].mean()),
        "expected_jaccard": float(sharing.expected_jaccard[pairs].mean()),
        "halves_same_tag": float(between.diagonal().mean()),
        "halves_other_tag": float(between[other].mean()),
        **_thirds("kept", kept),
        **_thirds("keys", counts),
        **_thirds("even", np.ones(keys.n_layers)),
    }


def _thirds(name: str, amount: np.ndarray) -> dict[str, float]:
    shares = depth_share(amount, 3).tolist()
    return {f"{name}_{third}": share for third, share in zip(THIRDS, shares, strict=True)}


def classify(
    model: Model,
    train: Corpus,
    fresh: Corpus,
    scores: Scores,
    keys: KeyNeurons,
    config: Config,
    number: int,
) -> tuple[pd.DataFrame, ProbeCurve]:
    """Accuracy of each layer's key neurons, and of more and more neurons of the last layer."""
    shared: dict[str, Any] = {
        "position": config.position,
        "max_train_words": config.max_train_words,
        "seed": config.seed + number,
    }
    layers = gl.probe_layers(
        model, train, fresh, keys, classifiers=CLASSIFIERS, n_random=2, **shared
    )
    every = gl.select(scores, keys.n_units, rule="frequency", per_layer=True)
    last = {label: every[label].in_layer(keys.n_layers - 1) for label in every}
    ks = [max(1, round(share * keys.n_units / len(keys))) for share in SHARES]
    curve = gl.probe_curve(
        model,
        train,
        fresh,
        {KEPT: replace(every, sets=last)},
        ks=ks,
        same_number=True,
        n_random=2,
        **shared,
    )
    return layers, curve


def accuracy_numbers(
    layers: pd.DataFrame, curve: ProbeCurve, n_units: int, config: Config
) -> dict[str, float]:
    """The best and the last layer's accuracy, and how many neurons of the last layer are enough."""
    numbers = {
        "majority": curve.majority_accuracy,
        "word_baseline": curve.word_baseline_accuracy,
    }
    for name, table in layers.groupby("classifier"):
        best, last = table.loc[table.accuracy.idxmax()], table.iloc[-1]
        numbers |= {
            f"best_{name}": float(best.accuracy),
            f"best_random_{name}": float(best.random_accuracy),
            f"best_control_{name}": float(best.control_accuracy),
            f"best_layer_{name}": float(best.layer),
            f"last_{name}": float(last.accuracy),
            f"last_random_{name}": float(last.random_accuracy),
        }
    for name, points in curve.to_frame().groupby("score"):
        sizes, reached = points.n_neurons.astype(int).tolist(), points.accuracy.tolist()
        fewest = fewest_enough(sizes, reached, curve.majority_accuracy, config.enough)
        numbers[f"needed_share_{name}"] = fewest / n_units
    return numbers


def paper_table(found: pd.DataFrame) -> pd.DataFrame:
    """What is found beside what the paper is known to say, with 95 % t-intervals over samples."""
    rows: Sequence[tuple[str, str, str]] = (
        ("distinct key neurons", "about 5,228", "union"),
        ("share of all neurons", "0.0114", "union_share"),
        ("distinct of all places (tags x k x layers)", "0.41 if k is per layer", "distinct_share"),
        ("overlap coefficient between tags", "", "coefficient"),
        ("  by chance", "", "expected_coefficient"),
        ("Jaccard overlap between tags", "", "jaccard"),
        ("  by chance", "", "expected_jaccard"),
        ("half against half, same tag", "", "halves_same_tag"),
        ("half against half, other tag", "", "halves_other_tag"),
        *((f"kept in the {x} third of layers", "", f"kept_{x}") for x in THIRDS),
        *((f"key neurons in the {x} third", "", f"keys_{x}") for x in THIRDS),
        *((f"all neurons in the {x} third", "", f"even_{x}") for x in THIRDS),
        ("accuracy, logistic, last layer", "up to 0.91 in the last layer", "last_logistic"),
        ("accuracy, SVM, last layer", "", "last_svm"),
        ("  random neurons of it, SVM", "", "last_random_svm"),
        ("accuracy, logistic, best layer", "", "best_logistic"),
        ("accuracy, SVM, best layer", "", "best_svm"),
        ("  random neurons of it, SVM", "", "best_random_svm"),
        ("  control task, SVM", "", "best_control_svm"),
        ("best layer, SVM", "last", "best_layer_svm"),
        ("majority tag", "", "majority"),
        ("form alone", "", "word_baseline"),
    )
    return pd.DataFrame(
        [
            dict(
                zip(
                    ("quantity", "paper", "found", "low", "high"),
                    (quantity, said, *mean_interval(found[column].to_numpy(float))),
                    strict=True,
                )
            )
            for quantity, said, column in rows
        ]
    )


def claim_table(found: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The summary's four claims: what is found, its interval, and whether the claim holds."""
    deep = 1 - found["even_first"].iloc[0]
    made = config.per_layer if config.top_per_layer else False
    kind = "keys" if config.top_per_layer else "kept"
    best = found[["best_logistic", "best_svm"]].max(axis=1)
    rows: Sequence[tuple[str, str, pd.Series, float, float]] = (
        (
            "1,000 to 2,000 of 4,096 neurons of a layer are needed",
            f"share of the last layer for {config.enough:.0%} of its gain over the majority",
            found.needed_share_kept,
            1000 / 4096,
            2000 / 4096,
        ),
        ("accuracy is over 85 %", "best layer, better classifier", best, 0.85, 1.0),
        (
            "tags share 20 to 40 %",
            "overlap coefficient, mean of pairs",
            found.coefficient,
            0.2,
            0.4,
        ),
        ("tags share 20 to 40 %", "Jaccard, mean of pairs", found.jaccard, 0.2, 0.4),
        (
            "they stand in middle to late layers",
            f"share in the last two thirds (evenly spread {deep:.2f})",
            1 - found[f"{kind}_first"],
            np.nan if made else deep,
            1.0,
        ),
    )
    table = []
    for claim, measured, values, least, most in rows:
        mean, low, high = mean_interval(values.to_numpy(float))
        row = {"claim": claim, "measured": measured, "found": mean, "low": low, "high": high}
        table.append({**row, "holds": holds(low, high, least, most)})
    return pd.DataFrame(table)


def holds(low: float, high: float, least: float, most: float) -> str:
    """Whether an interval lies within what is claimed; layers chosen evenly can claim nothing."""
    if np.isnan(least):
        return "by construction"
    if high < least or low > most:
        return "no"
    return "yes" if low >= least and high <= most else "undecided"


def draw(samples: Sequence[Sample], found: pd.DataFrame, config: Config, model: Model) -> go.Figure:
    """Accuracy per layer, where the kept neurons stand, and accuracy against the number of neurons."""
    page = make_subplots(
        rows=3,
        cols=1,
        vertical_spacing=0.11,
        subplot_titles=(
            f"Accuracy of each layer's key neurons on fresh words, read at “{config.position}”",
            f"Where the largest {config.top_share:.0%} of every word's neurons stand",
            "Accuracy of more and more neurons of the last layer",
        ),
    )
    layers, curve = (_stacked([getattr(s, name) for s in samples]) for name in ("layers", "curve"))
    lines = (
        ("logistic", "accuracy", "logistic regression", COLOURS[0], "solid"),
        ("logistic", "random_accuracy", "logistic, random neurons", COLOURS[0], "dot"),
        ("svm", "accuracy", "linear SVM", COLOURS[1], "solid"),
        ("svm", "random_accuracy", "SVM, random neurons", COLOURS[1], "dot"),
        ("svm", "control_accuracy", "SVM, control task", GREY, "dot"),
        ("svm", "majority_accuracy", "majority tag", GREY, "dash"),
    )
    of_classifier = dict(iter(layers.groupby("classifier")))
    for classifier, column, name, colour, dash in lines:
        table = _intervals(of_classifier[classifier], "layer", column)
        _add_line(page, 1, table, name, colour, dash, "legend")
    page.add_scatter(
        row=1,
        col=1,
        x=[layers.layer.max()],
        y=[0.91],
        mode="markers",
        marker={"symbol": "star", "size": 11, "color": COLOURS[2]},
        name="the paper's, on Llama-3-8B",
    )
    kept = pd.DataFrame([{"layer": la, "share": x} for s in samples for la, x in enumerate(s.kept)])
    _add_line(page, 2, _intervals(kept, "layer", "share"), "kept", COLOURS[0], "solid", "legend2")
    even = kept.assign(share=1 / kept.layer.nunique())
    _add_line(page, 2, _intervals(even, "layer", "share"), "even", GREY, "dash", "legend2")
    for i, (name, points) in enumerate(curve.groupby("score")):
        table = _intervals(points, "n_neurons", "accuracy")
        _add_line(page, 3, table, str(name), COLOURS[i], "solid", "legend3")
    page.update_yaxes(row=1, col=1, title_text="accuracy", range=[0, 1])
    page.update_yaxes(row=2, col=1, title_text="share", rangemode="tozero")
    page.update_yaxes(row=3, col=1, title_text="accuracy", range=[0, 1])
    for row in (1, 2):
        page.update_xaxes(row=row, col=1, title_text="layer")
    sizes = sorted(curve.n_neurons.unique())
    page.update_xaxes(row=3, col=1, title_text="neurons", type="log", tickvals=sizes)
    return page.update_layout(
        template=STYLE,
        height=1180,
        margin={"t": 120},
        title={
            "text": f"The rule of arXiv 2511.06519 on {plain(describe(model)['name'])}",
            "subtitle": {"text": f"means of {len(found)} disjoint samples, bars: 95 % t-intervals"},
        },
        legend={"y": 1, "yanchor": "top"},
        legend2={"y": 0.6, "yanchor": "top"},
        legend3={"y": 0.24, "yanchor": "top"},
    )


def _intervals(table: pd.DataFrame, by: str, column: str) -> pd.DataFrame:
    """Mean over samples with the half-width of its interval at every layer or size."""
    rows = []
    for at, group in table.groupby(by):
        mean, low, _ = mean_interval(group[column].to_numpy(float))
        rows.append({"at": at, "mean": mean, "half": mean - low})
    return pd.DataFrame(rows)


def _add_line(
    page: go.Figure, row: int, table: pd.DataFrame, name: str, colour: str, dash: str, legend: str
) -> None:
    page.add_scatter(
        row=row,
        col=1,
        x=table["at"],
        y=table["mean"],
        error_y={"array": table["half"], "thickness": 1, "width": 2},
        name=name,
        legend=legend,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        hovertemplate="%{x}: %{y:.3f}",
    )


def provenance(config: Config, model: Model, train: Corpus, fresh: Corpus) -> dict[str, Any]:
    """What is needed to make the same numbers again."""
    return {
        **experiment_record(NAME, config),
        "model": describe(model),
        "treebank": {
            role: treebank_record(corpus.bank)
            for role, corpus in (("train", train), ("fresh", fresh))
        },
        "labels": list(train.labels),
        "seed": config.seed,
    }


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables below one another, with the number of the sample first."""
    numbered = [table.copy() for table in tables]
    for number, table in enumerate(numbered):
        table.insert(0, "sample", number)
    return pd.concat(numbered, ignore_index=True)


def _shown(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=lambda x: f"{x:,.3f}", justify="left")


def _told(number: int, sample: Sample) -> str:
    n = sample.numbers
    return (
        f"sample {number}: {n['words']:.0f} words, {n['union']:.0f} neurons, overlap "
        f"{n['coefficient']:.2f} (chance {n['expected_coefficient']:.2f}); SVM {n['best_svm']:.3f} in "
        f"layer {n['best_layer_svm']:.0f} (random {n['best_random_svm']:.3f}, majority "
        f"{n['majority']:.3f})"
    )


if __name__ == "__main__":
    start_page(main, Config, Config.__doc__)
