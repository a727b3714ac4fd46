"""Phenomena of grammar: which neurons does each need, and which of them do the tags' neurons carry?

    python experiments/phenomena.py
    python experiments/phenomena.py --model smollm2-135m --pairs blimp:npi_present_1,blimp:passive_1,...
    python experiments/phenomena.py --pairs my_pairs.csv --max-pairs 200 --shams 100

`grammar-lens phenomena` without a run, with the pairs and the shams of every replicate as tables.

Claim: phenomena of one kind share neurons and those of other kinds do not, so that each lesion harms its own
kind alone; the lesion of a tag harms the phenomena whose words have that tag.

Writes phenomena.csv (a row per lesion and phenomenon), intact.csv, shams.csv (per replicate), overlap.csv
(of phenomena's and tags' neurons against chance), pairs.csv (per pair), phenomena.html and run.json.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from common import CutFlag, Experiment, ModelFlags, OutFlag, sources
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import prepare
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.figures.phenomena import phenomena_matrix

NAME = "phenomena"


@dataclass(frozen=True)
class Config(ModelFlags):
    """The flags."""

    pairs: Annotated[str, Option(help="Files, folders, blimp:UID, embedded; commas.")] = "embedded"
    max_pairs: Annotated[int, Option(help="Pairs of each phenomenon, at most.")] = 80
    cut: CutFlag = "NOUN,VERB,ADJ,ADV,PRON,DET,ADP,AUX"
    k: Annotated[int, Option(help="Neurons of each phenomenon and tag.")] = 100
    folds: Annotated[int, Option(help="Folds; those outside choose, that inside tests.")] = 2
    shams: Annotated[int, Option(help="Sham replicates; p cannot go below 1/(1+shams).")] = 20
    sham_pairs: Annotated[int, Option(help="Pairs of each phenomenon for shams.")] = 20
    out: OutFlag = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of lesions and phenomena."""
    experiment = Experiment(NAME, config)
    pairs = gl.load_pairs(listed(config.pairs), max_pairs=config.max_pairs, seed=config.seed)
    model = config.load_model()
    train = prepare(model, load_treebank(config.train, label="upos"), min_words=2)
    # the tags' neurons, chosen at the token before the word
    evidence = gl.collect(model, train, position="next").evidence()
    made = gl.attribute(model, train, moments=evidence.moments)
    scores = gl.score(replace(evidence, attribution=made), "attribution_contrast")
    study = gl.phenomena_study(
        model,
        pairs,
        gl.select(scores, config.k),
        tags=listed(config.cut),
        k=config.k,
        folds=config.folds,
        shams=config.shams,
        sham_pairs=config.sham_pairs,
        seed=config.seed,
    )
    assert study.pairs is not None
    effects = [study.own] + ([] if study.tags is None else [study.tags])
    tables = {
        "phenomena": study.to_frame(),
        "intact": study.intact,
        "shams": pd.concat([e.sham_frame() for e in effects]),
        "overlap": study.overlap,
        "pairs": study.pairs,
    }
    about = {"source": config.pairs, "n": len(pairs), "notes": list(study.notes)}
    print(study.verdict())
    experiment.finish(
        {**sources(model, train=train), "pairs": about}, tables, phenomena_matrix(study)
    )
    return tables["phenomena"]


if __name__ == "__main__":
    start_page(main, Config, __doc__)
