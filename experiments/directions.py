"""Neurons or directions: which lesion of a tag spares the others, at equal damage to the tag?

    python experiments/directions.py
    python experiments/directions.py --model smollm2-135m --train UD_English-EWT:train \
        --fresh UD_English-EWT:test --dtype bfloat16 --choose-words 10000 --sentences 60

Every tag's k key neurons are cut at several doses, and so are two of its directions in the residual
stream after some layers: the difference of the tag's mean from that of all words, projected out, and
its LEACE direction, the least change after which no linear probe tells the tag. For each the dose is
found that costs the tag's own words half of what all its key neurons cost, and what the other tags lose
at that dose is compared.

Claim: at equal damage a tag's neurons spare the other tags at least as well as its directions, which
spare them the better the later the layer.
Expected result: docs/lesions.md ("Neurons or directions").

Writes doses.csv (a row per tag, lesion, layer and dose), budget.csv (a row per tag, lesion and layer),
summary.csv (means over tags with 95 % intervals) and run.json; running it again replaces them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from common import CutFlag, Experiment, Flags, OutFlag, sources
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import fit_lexicon
from grammar_lens.selectivity.attribution.attribute import drawn_words

NAME = "directions"


@dataclass(frozen=True)
class Config(Flags):
    """The flags."""

    cut: CutFlag = ""
    k: Annotated[int, Option(help="Key neurons per tag.")] = 100
    choose_words: Annotated[int, Option(help="Training words to choose from, at most.")] = 20_000
    replicates: Annotated[int, Option(help="Exchanges of tags for the null; 0: none.")] = 100
    layers: Annotated[str, Option(help="Layers of the directions; by default three.")] = ""
    doses: Annotated[str, Option(help="Doses, with commas.")] = "0.25,0.5,0.75,1"
    sentences: Annotated[int, Option(help="Held-out sentences lesioned.")] = 100
    out: OutFlag = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the means over tags."""
    experiment = Experiment(NAME, config)
    model = config.load_model()
    train, fresh, _ = config.words(model, min_words=2)
    lexicon = fit_lexicon(model, train)

    # the key neurons, chosen at the token before the word
    few = drawn_words(train, config.choose_words, config.seed)
    evidence = gl.collect(model, few, position="next").evidence()
    made = gl.attribute(
        model, few, moments=evidence.moments, lexicon=lexicon, replicates=config.replicates
    )
    scores = gl.score(replace(evidence, attribution=made), "attribution_contrast")

    found = gl.equal_damage(
        model,
        train,
        fresh,
        gl.select(scores, config.k),
        lexicon=lexicon,
        layers=[int(layer) for layer in listed(config.layers)] or None,
        doses=[float(dose) for dose in listed(config.doses)],
        sentences=config.sentences,
        labels=listed(config.cut) or None,
        max_words=config.choose_words,
        seed=config.seed,
    )
    summary = found.summary()
    print(summary.round(3).to_string(index=False))
    about = {
        **sources(model, train=train, lesioned=fresh),
        "labels": list(found.labels),
        "words": found.n_words,
        "verdict": found.verdict(),
    }
    tables = {"doses": found.to_frame(), "budget": found.at_budget(), "summary": summary}
    experiment.finish(about, tables)
    return summary


if __name__ == "__main__":
    start_page(main, Config, __doc__)
