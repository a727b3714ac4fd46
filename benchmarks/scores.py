"""What every selectivity score costs, beside the pass that collects what it is computed from.

    python benchmarks/scores.py
    python benchmarks/scores.py --treebank ../shared/data/treebanks/UD_English-EWT:train --rounds 1
    python benchmarks/scores.py --large

One thread, interleaved rounds, the fastest counts. `collect` is gl.collect of all neurons' moments;
`collect +sample` also keeps the activations of some words of each label, which the scores of a sample
need. A score's row is gl.score as it is called, with effect sizes. Attributions and integrated
gradients are random numbers of the right shape here: their scores take no time, and the passes that
make them are none of this benchmark. With --large the scores of moments are also timed on
as many moments as Llama-3-8B has, 17 x 32 x 14,336: these, repeated.
Goal, in CPU seconds: all scores of moments together at most 2 % of collect.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import measure
import numpy as np
from typer import Option
from words import about, with_every_tag

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.model.about import Model, model_name
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.registry import SCORES

MOST_PERCENT = 2.0
LARGE = (17, 32, 14_336)
FROM_MOMENTS = tuple(name for name, method in SCORES.items() if method.needs == "moments")


@dataclass(frozen=True)
class Config(measure.Flags):
    """The flags."""

    treebank: Annotated[str, Option(help="As --train of grammar-lens.")] = "embedded:train"
    sample: Annotated[int, Option(help="Words of each label in the sample.")] = 100
    large: Annotated[bool, Option(help="Also 17 x 32 x 14,336 moments.")] = False


def everything(model: Model, corpus: Corpus, sample: int) -> Evidence:
    """Moments, a sample and the contrast of outgoing weights as they are; random attributions."""
    collected = gl.collect(model, corpus, sample=sample, show_progress=False)
    evidence = collected.evidence("neuron")
    moments = evidence.moments
    noise = np.random.default_rng(0).normal(size=moments.mean.shape)
    own = Attribution("own", "mean", moments.labels, moments.count, noise, moments.origin)
    return replace(
        evidence,
        attribution=own,
        relevance=replace(own, relevance=True),
        integrated_gradients=replace(own, kind="integrated_gradients", frequency=np.abs(noise)),
        output_contrast=gl.output_contrast(model, gl.fit_lexicon(model, corpus).count),
    )


def enlarged(moments: Moments, shape: tuple[int, int, int]) -> Moments:
    """Moments repeated up to a shape."""
    arrays = {name: np.resize(getattr(moments, name), shape) for name in ("mean", "m2", "fired")}
    labels, count = tuple(f"L{i}" for i in range(shape[0])), np.resize(moments.count, shape[0])
    mean_abs = np.resize(moments.mean_abs, shape[1:])
    return replace(moments, labels=labels, count=count, mean_abs=mean_abs, **arrays)


def ways(model: Model, corpus: Corpus, config: Config) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by name."""
    evidence = everything(model, corpus, config.sample)
    lexicon = gl.fit_lexicon(model, corpus)
    collect = partial(gl.collect, model, corpus, show_progress=False)
    timed: dict[str, Callable[[], object]] = {
        "collect": collect,
        "collect +sample": partial(collect, sample=config.sample),
        "output_contrast": partial(gl.output_contrast, model, lexicon.count),
    }
    timed |= {name: partial(gl.score, evidence, name) for name in SCORES}
    if config.large:
        large = enlarged(evidence.moments, LARGE)
        timed |= {f"large {name}": partial(gl.score, large, name) for name in FROM_MOMENTS}
    return timed


def main(config: Config) -> None:
    """Times, prints and writes."""
    measure.positive(config, "sample", "rounds")
    measure.one_thread()
    model = gl.load_model(config.model, device="cpu")
    corpus = with_every_tag(model, config.treebank)
    timings = measure.interleaved(ways(model, corpus, config), config.rounds)
    rows = {name: timing.row() for name, timing in timings.items()}
    collect = rows["collect"]["cpu_seconds"]
    for row in rows.values():
        row["percent_of_collect"] = 100 * row["cpu_seconds"] / collect
    percent = sum(rows[name]["percent_of_collect"] for name in FROM_MOMENTS)
    measure.show(
        f"{model_name(model)} on {len(corpus.bank)} sentences of {corpus.bank.name}, "
        f"{len(corpus.labels)} labels; one thread, fastest of {config.rounds} rounds",
        "what",
        rows,
        {**measure.TIMES, "% of collect": "{percent_of_collect:.2f}"},
    )
    print(measure.target("all scores of moments, % of collect", percent, MOST_PERCENT))
    measure.save(
        "scores",
        config,
        **about(model, corpus),
        rows=rows,
        scores_of_moments_percent_of_collect=percent,
    )


if __name__ == "__main__":
    start_page(main, Config, __doc__)
