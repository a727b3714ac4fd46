"""Which prediction of a lesion's effect comes true: relevance, gradient, integrated gradients, activation?

    python experiments/calibrate_methods.py
    python experiments/calibrate_methods.py --model smollm2-135m --train UD_English-EWT:train \
        --fresh UD_English-EWT:test --sentences 20

Single neurons and random groups of 10 and 100 are cut (mean lesions at every token), and so are the
neurons that each method ranks first. The rise of each of eight tags' loss is compared with what each
method predicts from the same words: relevance and attribution, each of the word to come alone (own)
and of later words too (all), integrated gradients of log p, and the activation alone (mean size times
the norm of the outgoing weight). Lesions are dealt to five disjoint samples; intervals are over these.

Claim: mean lesions are predicted best by the gradient, later words included; relevance predicts them
less well, integrated gradients and the activation hardly.
Run time: with the defaults 1.2 CPU minutes.
Expected result: docs/lesions.md ("Which prediction comes true").

Writes methods.csv (a row per kind of lesion and method), relevance_gain.csv (relevance minus
attribution on the same lesions) and run.json; running it again replaces them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from common import Experiment, Flags, LesionFlag, OutFlag, sources
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import fit_lexicon, prepare
from grammar_lens.lesions.prepared import LESION_TAGS
from grammar_lens.selectivity.attribution.attribute import drawn_words

NAME = "calibrate_methods"


@dataclass(frozen=True)
class Config(Flags):
    """The flags."""

    value: LesionFlag = "mean"
    mean_words: Annotated[int, Option(help="Training words of the means, at most.")] = 5_000
    sentences: Annotated[int, Option(help="Held-out sentences lesioned, at most.")] = 40
    sizes: Annotated[str, Option(help="Neurons in a random group, with commas.")] = "1,10,100"
    groups: Annotated[int, Option(help="Random groups of each size.")] = 150
    top: Annotated[int, Option(help="Neurons cut that a method ranks first for a tag.")] = 5
    samples: Annotated[int, Option(help="Disjoint samples of the lesions.")] = 5
    steps: Annotated[int, Option(help="Steps of integrated gradients; 0: without.")] = 20
    integrated_words: Annotated[int, Option(help="Words integrated, at most.")] = 2_000
    later_words: Annotated[bool, Option(help="Attributions of later words too.")] = True
    out: OutFlag = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of methods."""
    experiment = Experiment(NAME, config)
    model = config.load_model()
    train, fresh, _ = config.words(model, config.sentences, min_words=2)
    lexicon = fit_lexicon(model, train)
    tags = tuple(tag for tag in LESION_TAGS if tag in train.labels)

    # the means that neurons are set to, from some training words
    few = drawn_words(prepare(model, train.bank, labels=tags), config.mean_words, config.seed)
    moments = gl.collect(model, few, position="next")["neuron"]
    keys = gl.select(gl.score(moments), 1)

    # every method's predictions, from the words that are lesioned
    kinds = ("own", "all") if config.later_words else ("own",)
    predictions = {}
    for kind in kinds:
        for name in ("relevance", "attribution"):
            predictions[f"{name}, {kind}"] = gl.attribute(
                model,
                fresh,
                kind=kind,
                relevance=name == "relevance",
                reference=config.value,
                lexicon=lexicon,
                moments=moments,
            )
    if config.steps:
        predictions["integrated gradients"] = gl.attribute(
            model,
            fresh,
            kind="integrated_gradients",
            target="log_probability",
            steps=config.steps,
            max_words=config.integrated_words,
        )
    found = gl.calibrate_methods(
        model,
        fresh,
        keys,
        predictions,
        lexicon=lexicon,
        value=config.value,
        sizes=[int(size) for size in listed(config.sizes)],
        n_groups=config.groups,
        n_top=config.top,
        samples=config.samples,
        seed=config.seed,
    )

    table = found.to_frame()
    gain = pd.concat(
        found.difference(f"relevance, {kind}", f"attribution, {kind}").assign(kind=kind)
        for kind in kinds
    )
    print(table.round(3).to_string(index=False))
    print(gain.round(3).to_string(index=False))
    about = {
        **sources(model, train=train, lesioned=fresh),
        "labels": list(found.labels),
        "words": int((fresh.read("next") >= 0).sum()),
        "verdict": found.verdict(),
    }
    experiment.finish(about, {"methods": table, "relevance_gain": gain})
    return table


if __name__ == "__main__":
    start_page(main, Config, __doc__)
