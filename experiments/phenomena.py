"""Phenomena of grammar: which neurons does each need, and which of them do the tags' neurons carry?

    python experiments/phenomena.py
    python experiments/phenomena.py --model smollm2-135m --pairs blimp:npi_present_1,blimp:passive_1,...
    python experiments/phenomena.py --pairs my_pairs.csv --max-pairs 200 --shams 100

Sentences come in pairs of which only one is grammatical ("The letter from the friends gives / give me much
pleasure."). The model is right when the grammatical one is the likelier. Half of the pairs choose each
phenomenon's neurons, by the first-order fall of the log odds when they are cut, beyond that of phenomena of
other terms; the other half are read with these cut, and the other way round. The tags' key neurons are cut too.

Claim: phenomena of one kind share neurons and those of other kinds do not, so that each lesion harms its own
kind alone; the lesion of a tag harms the phenomena whose words have that tag.

Writes phenomena.csv (a row per lesion and phenomenon), intact.csv, shams.csv (per replicate), overlap.csv
(of phenomena's and tags' neurons against chance), pairs.csv (per pair), phenomena.html and run.json.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from common import CutFlag, Experiment, LesionFlag, ModelFlags, OutFlag, sources
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import prepare
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.figures.phenomena import phenomena_matrix
from grammar_lens.selectivity.registry import SCORES

NAME = "phenomena"


@dataclass(frozen=True)
class Config(ModelFlags):
    """The flags."""

    pairs: Annotated[str, Option(help="Files, folders, blimp:UID, embedded; commas.")] = "embedded"
    max_pairs: Annotated[int, Option(help="Pairs of each phenomenon, at most.")] = 80
    cut: CutFlag = "NOUN,VERB,ADJ,ADV,PRON,DET,ADP,AUX"
    score: Annotated[str, Option(help="Score that chooses tags' neurons.")] = "attribution_contrast"
    k: Annotated[int, Option(help="Neurons of each phenomenon and tag.")] = 100
    at: Annotated[str, Option(help="Log odds attributed at: token or sentence.")] = "token"
    folds: Annotated[int, Option(help="Folds; those outside choose, that inside tests.")] = 2
    lesion: LesionFlag = "mean"
    dose: Annotated[float, Option(help="1 cuts, 0 does nothing, below 0 amplifies.")] = 1.0
    shams: Annotated[int, Option(help="Sham replicates; p cannot go below 1/(1+shams).")] = 5
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
    needs = SCORES[config.score].needs
    if SCORES[config.score].is_first_order:
        relevance = needs == "relevance"
        made = gl.attribute(model, train, relevance=relevance, moments=evidence.moments)
        evidence = replace(evidence, **{needs: made})
    keys = gl.select(gl.score(evidence, config.score), config.k)

    study = gl.phenomena_study(
        model,
        pairs,
        keys,
        tags=listed(config.cut),
        k=config.k,
        at=config.at,
        folds=config.folds,
        shams=config.shams,
        sham_pairs=config.sham_pairs,
        value=config.lesion,
        dose=config.dose,
        seed=config.seed,
    )
    assert study.pairs is not None
    shams = [study.own.sham_frame()] + ([] if study.tags is None else [study.tags.sham_frame()])
    tables = {
        "phenomena": study.to_frame(),
        "intact": study.intact,
        "shams": pd.concat(shams),
        "overlap": study.overlap,
        "pairs": study.pairs,
    }
    about = {
        **sources(model, train=train),
        "pairs": {"source": config.pairs, "n": len(pairs), "notes": list(study.notes)},
    }
    for effects in (study.own, study.tags):
        if effects is not None:
            print(effects.matrix().round(2).to_string())
    print(study.verdict())
    experiment.finish(about, tables, phenomena_matrix(study))
    return tables["phenomena"]


if __name__ == "__main__":
    start_page(main, Config, __doc__)
