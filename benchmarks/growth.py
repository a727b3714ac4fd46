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
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import plotly.graph_objects as go
import torch
import typer
from measure import (
    FOLDER,
    forget_peak,
    interleaved,
    machine,
    one_thread,
    peak_memory,
    positive,
    show,
)
from plotly.subplots import make_subplots
from words import POSITION, readable

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, default_budget
from grammar_lens.defaults import MIN_REPLICATES
from grammar_lens.figures.style import ACCENT, CONTRAST, GREY, finish
from grammar_lens.files import make_folder, write_json
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.outcomes import Condition
from grammar_lens.model.about import Model
from grammar_lens.model.loading import REFERENCE_MODEL, locate
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.runs.session import read_source
from grammar_lens.runs.store.provenance import library_versions
from grammar_lens.selectivity.permutation_null import permute_tags

DOCS = Path(__file__).parents[1] / "docs"
K = 100
"""Neurons of a lesion."""


@dataclass(frozen=True)
class Config:
    """The flags."""

    treebank: Annotated[str, typer.Option(help="As --train of grammar-lens.")] = "embedded:train"
    sentences: Annotated[int, typer.Option(help="Sentences that are doubled.")] = 250
    lesion_sentences: Annotated[int, typer.Option(help="Sentences lesioned.")] = 60
    token_budget: Annotated[int, typer.Option(help="Tokens in one batch.")] = 2048
    rounds: Annotated[int, typer.Option(help="Rounds; 3 or more to report.")] = 3
    out: Annotated[Path, typer.Option(help="JSON file.")] = FOLDER / "growth.json"
    png: Annotated[Path, typer.Option(help="The figure.")] = DOCS / "growth.png"
    only: Annotated[str, typer.Option(hidden=True)] = ""


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
    return read_source(treebank, "upos")


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
    rng, zeros, labels = np.random.default_rng(0), np.zeros(K), corpus.labels
    conditions = []
    for i in range(point.lesions):
        index = rng.permutation(point.neurons)[:K]
        neurons = Neurons(f"set {i}", "neuron", np.arange(K) % point.layers, index, zeros, zeros)
        conditions.append(Condition(labels[i % len(labels)], 1 + i // len(labels), neurons))
    return lambda: run_battery(
        model, corpus.alignment, codes, lexicon, conditions, token_budget=default_budget(model)
    )


def memory(config: Config, point: Point) -> dict[str, float]:
    """MiB in this process: the words, the table of exchanged labels, and what one pass adds."""
    model = make_model(point)
    bank = source(config.treebank)
    forget_peak()
    before = peak_memory()
    corpus = make_corpus(config, point, model)
    forget_peak()
    loaded = peak_memory()
    codes, rng = corpus.read(POSITION), np.random.default_rng(0)
    table = permute_tags(codes, corpus.alignment.sentence, MIN_REPLICATES, rng).codes.nbytes
    make_pass(config, replace(point, lesions=0), model, _little(corpus, model, bank))()  # warm
    one = make_pass(config, point, model, corpus)
    forget_peak()
    ready = peak_memory()
    one()
    return {
        "words": loaded - before,
        "exchange_table": table / 2**20,
        "pass": peak_memory() - ready,
    }


def _little(corpus: Corpus, model: Model, bank: gl.Treebank) -> Corpus:
    """A few words: what a first pass allocates once is no part of what grows."""
    return readable(model, gl.Treebank(f"start of {bank.name}", corpus.bank.sentences[:20]))


def memory_alone(config: Config, point: Point) -> dict[str, float]:
    """`memory` in a process of its own."""
    flags = (
        f"--treebank={config.treebank}",
        f"--sentences={config.sentences}",
        f"--lesion-sentences={config.lesion_sentences}",
        f"--token-budget={config.token_budget}",
        f"--only={json.dumps(asdict(point))}",
    )
    # what is freed goes back at once, or the peak would depend on what loading left behind
    frugal = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, __file__, *flags],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **frugal},
    )
    return json.loads(done.stdout.splitlines()[-1])


def fit(x: list[int], y: list[float]) -> dict[str, float]:
    """The exponent of a power law, and how straight a line the numbers make."""
    slope, start = np.polyfit(x, y, 1)
    rest = np.sum((np.array(y) - slope * np.array(x) - start) ** 2)
    spread = np.sum((np.array(y) - np.mean(y)) ** 2)
    logs = np.log(np.maximum(y, 1e-9))
    return {
        "exponent": float(np.polyfit(np.log(x), logs, 1)[0]),
        "slope": float(slope),
        "intercept": float(start),
        "r2": float(1 - rest / spread) if spread else 1.0,
    }


def main(config: Config) -> None:
    """Measures every point, fits, prints, draws and writes."""
    positive(config, "sentences", "lesion_sentences", "rounds")
    one_thread()
    if config.only:
        print(json.dumps(memory(config, Point(**json.loads(config.only)))))
        return
    mib = {point: memory_alone(config, point) for point in POINTS}
    seconds, tokens = time_all(config)
    sweeps: dict[str, Any] = {}
    for name, sweep in SWEEPS.items():
        x = [config.sentences * n if name == "sentences" else n for n in sweep]
        points = list(sweep.values())
        columns: dict[str, list[float]] = {
            "cpu_seconds": [seconds[p] for p in points],
            "pass_mib": [mib[p]["pass"] for p in points],
            "words_mib": [mib[p]["words"] for p in points],
            "exchange_table_mib": [mib[p]["exchange_table"] for p in points],
        }
        fits = {key: fit(x, y) for key, y in columns.items() if key in ("cpu_seconds", "pass_mib")}
        if name == "sentences":
            fits |= {key: fit(x, columns[key]) for key in ("words_mib", "exchange_table_mib")}
        sweeps[name] = {"x": x, "tokens": [tokens[p] for p in points], **columns, "fits": fits}
    report(config, sweeps)
    make_folder(config.out.parent)
    write_json(
        config.out,
        {
            "benchmark": "growth",
            "config": asdict(config),
            "machine": machine(),
            "versions": library_versions(),
            "sweeps": sweeps,
        },
    )
    draw(config, sweeps)


def time_all(config: Config) -> tuple[dict[Point, float], dict[Point, int]]:
    """CPU seconds of every point's fastest round, and its tokens."""
    ways, tokens = {}, {}
    for point in POINTS:
        model = make_model(point)
        corpus = make_corpus(config, point, model)
        ways[str(point)] = make_pass(config, point, model, corpus)
        tokens[point] = corpus.alignment.n_tokens
    timings = interleaved(ways, config.rounds)
    return {point: min(timings[str(point)].cpu) for point in POINTS}, tokens


def report(config: Config, sweeps: dict[str, Any]) -> None:
    rows = [
        (
            f"{name} {x:,}",
            f"{s['tokens'][i]:,}",
            f"{s['cpu_seconds'][i]:.2f}",
            f"{s['pass_mib'][i]:.1f}",
            f"{s['words_mib'][i]:.1f}",
            f"{s['exchange_table_mib'][i]:.2f}",
        )
        for name, s in sweeps.items()
        for i, x in enumerate(s["x"])
    ]
    show(
        f"growth on {config.treebank}; one thread, fastest of {config.rounds} rounds; memory in MiB",
        ("point", "tokens", "CPU s", "pass adds", "words", "exchange table"),
        rows,
    )
    for name, s in sweeps.items():
        for key, of in s["fits"].items():
            print(
                f"{key} by {name}: exponent {of['exponent']:.2f}; straight line R2 {of['r2']:.4f}, "
                f"{of['slope']:.3g} each and {of['intercept']:.3g}"
            )


def draw(config: Config, sweeps: dict[str, Any]) -> None:
    """The page beside the numbers, and the picture where there is a browser."""
    figure = make_subplots(
        rows=2,
        cols=len(sweeps),
        vertical_spacing=0.14,
        horizontal_spacing=0.06,
        subplot_titles=[
            f"{name}, exponent {s['fits'][key]['exponent']:.2f}"
            for key, name in (("cpu_seconds", "time"), ("pass_mib", "memory"))
            for s in sweeps.values()
        ],
    )
    for column, (name, s) in enumerate(sweeps.items(), 1):
        _panel(figure, 1, column, s, "cpu_seconds", "CPU seconds", ACCENT)
        _panel(figure, 2, column, s, "pass_mib", "memory a pass adds", ACCENT)
        if name == "sentences":
            _panel(figure, 2, column, s, "words_mib", "words themselves", CONTRAST)
            _panel(figure, 2, column, s, "exchange_table_mib", "exchanged labels (20)", GREY)
        title = "neurons of a layer" if name == "neurons" else name
        ticks = s["x"][1:] if name == "sentences" else s["x"]  # the first two stand too close
        figure.update_xaxes(tickvals=ticks, rangemode="tozero", row=1, col=column)
        figure.update_xaxes(tickvals=ticks, rangemode="tozero", title_text=title, row=2, col=column)
    finish(
        figure,
        "How time and memory grow",
        "collecting with a random model of the reference model's shape, and batteries of lesions; one "
        "CPU thread; lines are straight fits",
        height=620,
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="CPU seconds", row=1, col=1)
    figure.update_yaxes(title_text="MiB", row=2, col=1)
    figure.update_layout(
        width=1180,
        legend={"orientation": "h", "x": 0, "y": -0.16},
        margin={"t": 110, "b": 100},
    )
    figure.write_html(config.out.with_suffix(".html"), include_plotlyjs=True)
    try:
        figure.write_image(config.png, scale=2)
    except Exception as error:  # kaleido's and choreographer's own, of many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(f"no {config.png}: {reason[0]} (set BROWSER_PATH to a Chromium)")


def _panel(
    figure: go.Figure, row: int, column: int, s: dict[str, Any], key: str, name: str, colour: str
) -> None:
    """One quantity's points and its straight line."""
    of, x = s["fits"][key], np.array([0, s["x"][-1]])
    first = column == 1 and row == 2
    figure.add_trace(
        go.Scatter(
            x=x,
            y=of["slope"] * x + of["intercept"],
            mode="lines",
            line={"color": colour, "width": 1.2, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        ),
        row=row,
        col=column,
    )
    figure.add_trace(
        go.Scatter(
            x=s["x"],
            y=s[key],
            mode="markers",
            marker={"color": colour, "size": 9},
            name=name,
            showlegend=first,
        ),
        row=row,
        col=column,
    )


if __name__ == "__main__":
    start_page(main, Config, __doc__)
