"""How time and memory grow with the corpus, the layers, the neurons of a layer, and the lesions.

    python benchmarks/growth.py
    python benchmarks/growth.py --treebank ../shared/data/treebanks/UD_English-EWT:train --sentences 1000

A model of the reference model's shape with random weights. One thing is doubled at a time, from

  sentences   gl.collect of every neuron and of resid_post over 1, 2, 4 and 8 times --sentences; a smaller
              treebank is repeated
  layers      the same over --sentences, with 2, 4 and 8 layers
  neurons     the same with 448, 896 and 1,792 neurons in a layer
  lesions     a battery of 2, 4, 8 and 16 lesions of neurons in all layers over --lesion-sentences

CPU seconds on one thread, all points in interleaved rounds, the fastest counts. Memory is measured in
a process of its own for every point: what the words themselves take (the treebank's objects and its
alignment), what the pass adds to that at most, and the table of exchanged labels, which a null needs,
here of 20 replicates. The exponent is the slope of a line through the logarithms; R2 is that of a
straight line through the numbers themselves. Draws docs/growth.png if kaleido finds a browser
(BROWSER_PATH), and the page growth.html beside the numbers in any case.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import measure
import numpy as np
import pandas as pd
import plotly.express as px
import torch
from scipy.stats import linregress
from typer import Option
from words import POSITION, random_lesions, readable

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, default_budget
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.defaults import MIN_REPLICATES
from grammar_lens.figures.style import COLOURS, finish
from grammar_lens.lesions.battery import run_battery
from grammar_lens.model.about import Model
from grammar_lens.model.loading import REFERENCE_MODEL, locate
from grammar_lens.passes.memory import peak_host
from grammar_lens.selectivity.permutation_null import permute_tags

DOCS = Path(__file__).parents[1] / "docs"
K = 100
"""Neurons of a lesion."""


@dataclass(frozen=True)
class Config(measure.OutFlag):
    """The flags."""

    treebank: Annotated[str, Option(help="As --train of grammar-lens.")] = "embedded:train"
    sentences: Annotated[int, Option(help="Sentences that are doubled.")] = 250
    lesion_sentences: Annotated[int, Option(help="Sentences lesioned.")] = 60
    token_budget: Annotated[int, Option(help="Tokens in one batch.")] = 2048
    rounds: Annotated[int, Option(help="Rounds; 3 or more to report.")] = 3
    png: Annotated[Path, Option(help="The figure.")] = DOCS / "growth.png"
    only: Annotated[str, Option(hidden=True)] = ""


@dataclass(frozen=True)
class Point:
    """What is measured: a pass that collects, or with `lesions` a battery."""

    times: int = 1
    layers: int = 8
    neurons: int = 896
    lesions: int = 0


SWEEPS: dict[str, dict[int, Point]] = {
    "sentences": {n: Point(times=n) for n in (1, 2, 4, 8)},
    "layers": {n: Point(layers=n) for n in (2, 4, 8)},
    "neurons": {n: Point(neurons=n) for n in (448, 896, 1792)},
    "lesions": {n: Point(lesions=n) for n in (2, 4, 8, 16)},
}
QUANTITIES = {
    "cpu_seconds": "CPU s",
    "pass_mib": "pass adds, MiB",
    "words_mib": "words, MiB",
    "exchange_table_mib": "permuted labels, MiB",
}
FITTED = ("cpu_seconds", "pass_mib")
"""Quantities that grow with everything; the others grow with the sentences alone."""
POINTS = tuple(dict.fromkeys(point for sweep in SWEEPS.values() for point in sweep.values()))


def make_model(point: Point) -> Model:
    """Random weights of the reference model's shape, but for what the point says."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = locate(REFERENCE_MODEL)
    shape = AutoConfig.from_pretrained(where, local_files_only=True)
    shape.num_hidden_layers, shape.intermediate_size = point.layers, point.neurons
    torch.manual_seed(0)
    inner = AutoModelForCausalLM.from_config(
        shape, dtype=torch.float32, attn_implementation="eager"
    )
    tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True)
    return gl.load_model(inner.eval(), tokenizer=tokenizer)


@cache
def source(treebank: str) -> gl.Treebank:
    return load_treebank(treebank, label="upos")


def make_corpus(config: Config, point: Point, model: Model) -> Corpus:
    """The point's sentences, aligned; repeated sentences are objects of their own."""
    bank = source(config.treebank)
    n = config.lesion_sentences if point.lesions else config.sentences * point.times
    sentences = tuple(copy.deepcopy(bank.sentences[i % len(bank)]) for i in range(n))
    return readable(model, gl.Treebank(f"{n} sentences of {bank.name}", sentences))


def make_pass(config: Config, point: Point, model: Model, corpus: Corpus) -> Callable[[], object]:
    """What is timed at a point."""
    if not point.lesions:
        return lambda: gl.collect(
            model,
            corpus,
            sites=("neuron", "resid_post"),
            position=POSITION,
            token_budget=config.token_budget,
            show_progress=False,
        )
    lexicon, codes = gl.fit_lexicon(model, corpus), corpus.read(POSITION)
    conditions = random_lesions(corpus.labels, point.lesions, K, point.layers, point.neurons)
    return lambda: run_battery(
        model, corpus.alignment, codes, lexicon, conditions, token_budget=default_budget(model)
    )


def memory(config: Config, point: Point) -> dict[str, float]:
    """MiB in this process: the words, the table of exchanged labels, and what one pass adds."""
    model = make_model(point)
    bank = source(config.treebank)
    measure.forget_peak()
    before = peak_host()
    corpus = make_corpus(config, point, model)
    measure.forget_peak()
    loaded = peak_host()
    codes, rng = corpus.read(POSITION), np.random.default_rng(0)
    table = permute_tags(codes, corpus.alignment.sentence, MIN_REPLICATES, rng).codes.nbytes
    # a few words first: what a first pass allocates once is no part of what grows
    little = readable(model, gl.Treebank(f"start of {bank.name}", corpus.bank.sentences[:20]))
    make_pass(config, replace(point, lesions=0), model, little)()
    one = make_pass(config, point, model, corpus)
    measure.forget_peak()
    ready = peak_host()
    one()
    return {
        "words_mib": loaded - before,
        "exchange_table_mib": table / 2**20,
        "pass_mib": peak_host() - ready,
    }


FRUGAL = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""What is freed goes back at once, or the peak would depend on what loading left behind."""


def fit(x: pd.Series, y: pd.Series) -> dict[str, float]:
    """The exponent of a power law, and how straight a line the numbers make."""
    line: Any = linregress(x, y)
    power: Any = linregress(np.log(x), np.log(np.maximum(y, 1e-9)))
    straight = {"slope": line.slope, "intercept": line.intercept, "r2": line.rvalue**2}
    return {name: float(number) for name, number in {"exponent": power.slope, **straight}.items()}


def main(config: Config) -> None:
    """Measures every point, fits, prints, draws and writes."""
    measure.positive(config, "sentences", "lesion_sentences", "rounds")
    measure.one_thread()
    if config.only:
        print(json.dumps(memory(config, Point(**json.loads(config.only)))))
        return
    mib = {
        point: measure.in_own_process(__file__, config, json.dumps(asdict(point)), **FRUGAL)
        for point in POINTS
    }
    seconds, tokens = time_all(config)
    table = pd.DataFrame(
        [
            {
                "sweep": sweep,
                "x": n * config.sentences if sweep == "sentences" else n,
                "tokens": tokens[point],
                "cpu_seconds": seconds[point],
                **mib[point],
            }
            for sweep, points in SWEEPS.items()
            for n, point in points.items()
        ]
    )
    fits = pd.DataFrame(
        [
            {"sweep": sweep, "quantity": quantity, **fit(rows["x"], rows[quantity])}
            for sweep, rows in table.groupby("sweep", sort=False)
            for quantity in (QUANTITIES if sweep == "sentences" else FITTED)
        ]
    )
    measure.show(
        f"growth on {config.treebank}; one thread, fastest of {config.rounds} rounds",
        "point",
        {f"{row['sweep']} {row['x']:,}": row for row in table.to_dict("records")},
        {"tokens": "{tokens:,}", **{title: f"{{{x}:.2f}}" for x, title in QUANTITIES.items()}},
    )
    for of in fits.to_dict("records"):
        print(
            "{quantity} by {sweep}: exponent {exponent:.2f}; straight line R2 {r2:.4f}, "
            "{slope:.3g} each and {intercept:.3g}".format_map(of)
        )
    rows, fitted = (t.to_dict("records") for t in (table, fits))
    measure.save("growth", config, points=rows, fits=fitted)
    draw(config, table, fits)


def time_all(config: Config) -> tuple[dict[Point, float], dict[Point, int]]:
    """CPU seconds of every point's fastest round, and its tokens."""
    ways, tokens = {}, {}
    for point in POINTS:
        model = make_model(point)
        corpus = make_corpus(config, point, model)
        ways[str(point)] = make_pass(config, point, model, corpus)
        tokens[point] = corpus.alignment.n_tokens
    timings = measure.interleaved(ways, config.rounds)
    return {point: min(timings[str(point)].cpu) for point in POINTS}, tokens


def draw(config: Config, table: pd.DataFrame, fits: pd.DataFrame) -> None:
    """The page beside the numbers, and the picture where there is a browser."""
    exponents = fits.pivot_table(index="sweep", columns="quantity", values="exponent")
    long = table.melt(["sweep", "x"], list(QUANTITIES), "quantity")
    long = long.merge(fits[["sweep", "quantity"]])
    long["unit"] = np.where(long["quantity"] == "cpu_seconds", "CPU seconds", "MiB")
    long["quantity"] = long["quantity"].map(QUANTITIES)
    titles = {
        x: f"{x}, exponents {of['cpu_seconds']:.2f} and {of['pass_mib']:.2f}"
        for x, of in exponents.iterrows()
    }
    figure = px.scatter(
        long.assign(sweep=long["sweep"].map(titles)),
        x="x",
        y="value",
        color="quantity",
        facet_col="sweep",
        facet_row="unit",
        facet_col_spacing=0.06,
        facet_row_spacing=0.12,
        trendline="ols",
        labels={"x": "", "value": "", "quantity": ""},
        color_discrete_sequence=list(COLOURS),
    )
    figure.for_each_annotation(lambda a: a.update(text=a.text.partition("=")[2]))
    figure.update_xaxes(matches=None, rangemode="tozero", showticklabels=True)
    figure.update_yaxes(matches=None, rangemode="tozero", showticklabels=True)
    finish(
        figure,
        "How time and memory grow",
        "collecting, and batteries of lesions, with a random model; one CPU thread; straight fits; "
        "exponents of time and of the memory that a pass adds",
        height=620,
    )
    figure.update_layout(margin={"t": 120})
    page = (config.out or measure.FOLDER / "growth.json").with_suffix(".html")
    figure.write_html(page, include_plotlyjs=True)
    try:
        figure.write_image(config.png, scale=2, width=1180)
    except Exception as error:  # kaleido's and choreographer's own, of many kinds
        print(f"no {config.png}: {error!r:.200} (set BROWSER_PATH to a Chromium)")


if __name__ == "__main__":
    start_page(main, Config, __doc__)
