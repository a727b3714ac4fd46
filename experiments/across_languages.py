"""Across languages and models: do the same neurons serve the same tag, at the same relative depth?

    python experiments/across_languages.py
    python experiments/across_languages.py --models reference-9m,HuggingFaceTB/SmolLM2-135M \
        --treebanks en=UD_English-EWT:dev,fr=UD_French-Sequoia:dev,de=UD_German-GSD:dev,zh=UD_Chinese-GSDSimp:dev

Treebanks are NAME=SOURCE, SOURCE as for --train of `grammar-lens run`: a UD name is fetched, a folder
or file is read. Without the flag two halves of the embedded English treebank stand for two languages,
a control in which agreement should reach its ceiling.

For every model and treebank the neurons are scored for the tags that all treebanks have, and the
top --k chosen, by how far a score lies from its mean under exchanged labels: what place in the
sentence gives is alike in all languages. For every tag and pair of languages: shared neurons beside
sets drawn at random within their layers, and the correlation of the scores over all neurons; each
beside its ceiling, two halves of one language, and its floor, exchanged labels. Halves are compared with
halves: half_* against ceiling_* and sham_*. For every model: strength and key neurons over relative
depth, beside exchanged labels and neurons drawn at random.

Claim: a model of one language has no neurons for a tag as such. What it shares between languages is
what looks alike in writing.
Run time: 20 s; the four treebanks with two models 1 CPU minute.
Expected result, defaults: two samples of English correlate as two halves of one do (.89, ceiling .88,
floor -.01). English, French, German and Chinese (400 dev sentences each), averaged over 11 tags with
reference-9m: en-fr .16, en-de .15, fr-de .28, any with Chinese -.01 to .00; ceilings .83 to .91, floors
.00. Shared are punctuation (.58 to .76), proper nouns (.41 to .58) and some of nouns (.13 to .34); hardly
anything of AUX, CCONJ, PRON and ADV (.15 at most). The model was trained on English alone: this is what
capitals, commas and unknown spelling explain, a floor for claims about multilingual models.

Writes agreement.csv (model, pair and tag), depth.csv (model, treebank, tag and bin of depth),
models.csv (pairs of models), words.csv, across_languages.html and run.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from common import DeviceFlag, Experiment, OutFlag, PositionFlag, SeedFlag, treebanks
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import prepare
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.languages import across_languages
from grammar_lens.model.about import Model, describe, model_name
from grammar_lens.neurons.choice_agreement import Choices, choices, pairwise_agreement
from grammar_lens.neurons.depth import depth_bins, depth_profile, same_depth

NAME = "across_languages"
SHOWN = (
    *("coefficient", "expected_coefficient", "half_coefficient", "ceiling_coefficient"),
    *("sham_coefficient", "half_correlation", "ceiling_correlation", "sham_correlation"),
)


@dataclass(frozen=True)
class Config:
    """The flags."""

    models: Annotated[str, Option(help="Models, separated by commas.")] = "reference-9m"
    treebanks: Annotated[str, Option(help="NAME=SOURCE, separated by commas; two or more.")] = (
        "one=embedded:train,other=embedded:test"
    )
    position: PositionFlag = "word"
    score: Annotated[str, Option(help="correlation, cohens_d or probeless.")] = "correlation"
    k: Annotated[int, Option(help="Key neurons per tag.")] = 100
    min_words: Annotated[int, Option(help="Words a tag needs in every treebank.")] = 100
    replicates: Annotated[int, Option(help="Exchanges of labels, 20 or more.")] = 40
    bins: Annotated[int, Option(help="Bins of relative depth.")] = 3
    max_sentences: Annotated[int, Option(help="Sentences of a treebank, at most.")] = 400
    seed: SeedFlag = 0
    device: DeviceFlag = ""
    out: OutFlag = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of agreement."""
    banks = read_banks(config)
    tags = common_tags(banks, config)
    experiment = Experiment(NAME, config)
    print(f"tags that all treebanks have: {', '.join(tags)}")

    agreements, depths, words, models = [], [], [], []
    for source in listed(config.models):
        model = gl.load_model(source, device=config.device or None)
        name = model_name(model)
        depth_bins(model.cfg.n_layers, config.bins)  # too many bins end it here
        models.append(describe(model))
        choices = {bank: choose(model, banks[bank], tags, config) for bank in banks}
        agreements.append(named(pairwise_agreement(choices), model=name))
        for bank, c in choices.items():
            depth = depth_profile(c.scores, c.whole.keys, config.bins)
            depths.append(named(depth, model=name, treebank=bank))
            counts = pd.DataFrame([c.scores.count], columns=pd.Index(tags))
            words.append(named(counts, model=name, treebank=bank))
        means = agreements[-1].pivot_table(index=["first", "second"], values=SHOWN, sort=False)
        print(f"\n{name}: means over tags\n{means[list(SHOWN)].round(2).to_string()}")

    agreement, depth = pd.concat(agreements), pd.concat(depths)
    shares = depth.pivot_table(index=["model", "treebank"], columns="bin", values="share")
    print(f"share of key neurons by bin of depth\n{shares.round(2).to_string()}")
    about = {"models": models, "treebanks": treebanks(**banks), "labels": list(tags)}
    tables = {
        "agreement": agreement,
        "depth": depth,
        "words": pd.concat(words),
        "models": same_depth(depth),
    }
    figure = across_languages(agreement, depth, position=config.position, method=config.score)
    experiment.finish(about, tables, figure)
    return agreement


def read_banks(config: Config) -> dict[str, Treebank]:
    """The treebanks by name, each cut to the same number of sentences."""
    given = [entry.partition("=") for entry in listed(config.treebanks)]
    names = [name for name, _, _ in given]
    if len(set(names)) < 2 or len(set(names)) < len(names) or not all(s for _, _, s in given):
        raise GrammarLensError(
            f"--treebanks is {config.treebanks!r}, expected NAME=SOURCE, two or more with different "
            "names: en=UD_English-EWT:dev,fr=UD_French-Sequoia:dev"
        )
    return {
        name: load_treebank(source, label="upos").sample(config.max_sentences, seed=config.seed)
        for name, _, source in given
    }


def common_tags(banks: Mapping[str, Treebank], config: Config) -> tuple[str, ...]:
    """The tags that every treebank has often enough, in alphabetical order."""
    counts = [bank.label_counts("upos") for bank in banks.values()]
    tags = sorted(x for x in counts[0] if all(c.get(x, 0) >= config.min_words for c in counts))
    if len(tags) < 2:
        raise GrammarLensError(
            f"{len(tags)} tags have {config.min_words} words or more in each of {', '.join(banks)}, "
            "expected 2 or more: use larger treebanks, or lower --min-words"
        )
    return tuple(tags)


def choose(model: Model, bank: Treebank, tags: tuple[str, ...], config: Config) -> Choices:
    """Scores and key neurons of one model in one treebank, of its halves, and of exchanged labels."""
    collected = gl.collect(
        model,
        prepare(model, bank, labels=tags),
        position=config.position,
        replicates=config.replicates,
        nulls=(config.score,),
        seed=config.seed,
    )
    return choices(collected.evidence(), config.score, config.k)


def named(table: pd.DataFrame, **columns: str) -> pd.DataFrame:
    """A table with the same value in every row of some first columns."""
    return pd.concat([pd.DataFrame(columns, index=table.index), table], axis=1)


if __name__ == "__main__":
    start_page(main, Config, __doc__)
