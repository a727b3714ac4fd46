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
floor -.01). English, French, German and Chinese (400 dev sentences each), correlations averaged over 11
tags with reference-9m: en-fr .16, en-de .15, fr-de .28, any with Chinese -.01 to .00; ceilings .83 to
.91, floors .00. Shared are punctuation (.58 to .76), proper nouns (.41 to .58) and some of nouns (.13
to .34), between French and German also adjectives (.40) and verbs (.35); hardly anything of AUX,
CCONJ, PRON and ADV (.15 at most). The model was trained on English alone: this is what capitals,
commas and unknown spelling explain, a floor for claims about multilingual models, and says nothing of
how those work. stories260K (English stories): .27, .29 and .30, with Chinese .00 to .02. In either
model .42 or .43 of the key neurons stand in the last third of depth and .22 or .18 in the middle one;
per tag and language the fullest third is the same in .64 of cases (.48 expected).

Writes agreement.csv (model, pair and tag), depth.csv (model, treebank, tag and bin of depth),
models.csv (pairs of models), words.csv, across_languages.html and run.json.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import typer
from plotly.subplots import make_subplots

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.figures.style import COLOURS, DASHES, GREY, STYLE, plain
from grammar_lens.files import make_folder, write_file, write_json, write_text
from grammar_lens.model.about import Model, describe, model_name
from grammar_lens.neurons.choice_agreement import Choices, agreement_table, choices
from grammar_lens.neurons.depth import depth_bins, depth_profile, same_peak
from grammar_lens.runs.session import read_source
from grammar_lens.runs.store.provenance import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)

NAME = "across_languages"


@dataclass(frozen=True)
class Config:
    """The flags."""

    models: Annotated[str, typer.Option(help="Models, by commas.")] = "reference-9m"
    treebanks: Annotated[str, typer.Option(help="NAME=SOURCE, by commas; two or more.")] = (
        "one=embedded:train,other=embedded:test"
    )
    position: Annotated[str, typer.Option(help="Where words are read: word or next.")] = "word"
    score: Annotated[str, typer.Option(help="correlation, cohens_d or probeless.")] = "correlation"
    k: Annotated[int, typer.Option(help="Key neurons per tag.")] = 100
    min_words: Annotated[int, typer.Option(help="Words a tag needs in every treebank.")] = 100
    replicates: Annotated[int, typer.Option(help="Exchanges of labels, 20 or more.")] = 40
    bins: Annotated[int, typer.Option(help="Bins of relative depth.")] = 3
    max_sentences: Annotated[int, typer.Option(help="Sentences of a treebank, at most.")] = 400
    seed: Annotated[int, typer.Option(help="Seed of halves, exchanges and sentences.")] = 0
    device: Annotated[str, typer.Option(help="cpu, cuda; a GPU if there is one.")] = ""
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of agreement."""
    begin = time.perf_counter()
    banks = read_banks(config)
    tags = common_tags(banks, config)
    refuse_other_results(config.out, NAME)
    make_folder(config.out)
    print(f"tags that all treebanks have: {', '.join(tags)}")

    agreements, depths, words, models = [], [], [], []
    for source in listed(config.models):
        model = gl.load_model(source, device=config.device or None)
        depth_bins(model.cfg.n_layers, config.bins)  # too many bins end it here
        models.append(describe(model))
        found = {name: choose(model, bank, tags, config) for name, bank in banks.items()}
        agreements.append(compare(found, model_name(model)))
        depths.append(depth(found, model_name(model), config.bins))
        words += [
            {"model": model_name(model), "treebank": name}
            | dict(zip(tags, c.scores.count, strict=True))
            for name, c in found.items()
        ]
        print(_told(agreements[-1], depths[-1]))

    tables = {"agreement": pd.concat(agreements), "depth": pd.concat(depths)}
    tables |= {"words": pd.DataFrame(words), "models": same_depth(tables["depth"])}
    page = draw(tables["agreement"], tables["depth"], config)
    seconds = time.perf_counter() - begin
    record = provenance(config, models, banks, tags)
    record |= {"seconds": round(seconds, 1), "cpu_seconds": round(time.process_time(), 1)}
    write_json(config.out / "run.json", record)
    for name, table in tables.items():
        write_text(config.out / f"{name}.csv", table.to_csv(index=False))
    write_file(config.out / f"{NAME}.html", lambda path: page.write_html(path, div_id=NAME))
    if len(tables["models"]):
        print(_shown(tables["models"]))
    print(f"{seconds:.0f} s; figure and numbers in {config.out}")
    return tables["agreement"]


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
        name: read_source(source, "upos").head(config.max_sentences, seed=config.seed)
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


def compare(found: Mapping[str, Choices], model: str) -> pd.DataFrame:
    """A row per pair of treebanks and tag."""
    tables = []
    for first, second in combinations(found, 2):
        table = agreement_table(found[first], found[second]).reset_index(names="tag")
        _put_first(table, model=model, first=first, second=second)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def depth(found: Mapping[str, Choices], model: str, n_bins: int) -> pd.DataFrame:
    """A row per treebank, tag and bin of relative depth."""
    tables = []
    for name, c in found.items():
        table = depth_profile(c.scores, c.whole.keys, n_bins)
        _put_first(table, model=model, treebank=name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def same_depth(depths: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of models: how many treebanks and tags have most key neurons in the same bin."""
    by_model = {
        name: table.pivot_table(index=["treebank", "label"], columns="bin", values="share")
        for name, table in depths.groupby("model", sort=False)
    }
    rows = []
    for first, second in combinations(by_model, 2):
        same, expected = same_peak(by_model[first].to_numpy(), by_model[second].to_numpy())
        rows.append({"first": first, "second": second, "same_bin": same, "expected": expected})
    return pd.DataFrame(rows, columns=["first", "second", "same_bin", "expected"])


def draw(agreements: pd.DataFrame, depths: pd.DataFrame, config: Config) -> go.Figure:
    """Agreement of the languages between floor and ceiling, and strength over relative depth."""
    models = list(dict.fromkeys(agreements.model))
    page = make_subplots(
        rows=2 * len(models),
        cols=1,
        vertical_spacing=0.16 / len(models),
        subplot_titles=[
            f"{plain(model)}: {title}"
            for model in models
            for title in (
                "correlation of scores between languages",
                "strength over depth, mean of the tags; bands: 95 % of exchanged labels",
            )
        ],
    )
    for i, (_, table) in enumerate(agreements.groupby("model", sort=False)):
        _add_agreement(page, 2 * i + 1, table, first=i == 0)
    for i, (_, table) in enumerate(depths.groupby("model", sort=False)):
        _add_depth(page, 2 * i + 2, table, first=i == 0)
    return page.update_layout(
        template=STYLE,
        height=160 + 620 * len(models),
        margin={"t": 120},
        title={
            "text": "The same neurons in different languages?",
            "subtitle": {"text": f"words read at “{config.position}”, score {config.score}"},
        },
    )


def _add_agreement(page: go.Figure, row: int, table: pd.DataFrame, *, first: bool) -> None:
    kinds = (
        ("half_correlation", "two languages", COLOURS[0], "circle"),
        ("ceiling_correlation", "two halves of one", COLOURS[2], "line-ew-open"),
        ("sham_correlation", "exchanged labels", GREY, "line-ew-open"),
    )
    for column, name, colour, symbol in kinds:
        page.add_scatter(
            row=row,
            col=1,
            x=table.tag,
            y=table[column],
            name=name,
            legendgroup=name,
            showlegend=first,
            mode="markers",
            marker={
                "color": colour,
                "symbol": symbol,
                "size": 9,
                "line": {"width": 2, "color": colour},
            },
            customdata=[
                f"{plain(a)} and {plain(b)}"
                for a, b in zip(table["first"], table.second, strict=True)
            ],
            hovertemplate="%{x}, %{customdata}: %{y:.2f}",
        )
    page.update_yaxes(row=row, col=1, title_text="correlation", range=[-0.6, 1.05])


def _add_depth(page: go.Figure, row: int, table: pd.DataFrame, *, first: bool) -> None:
    table = table.assign(depth=(table.from_depth + table.to_depth) / 2)
    columns = ["strength", "null_low", "null_high"]
    for i, (name, group) in enumerate(table.groupby("treebank", sort=False)):
        mean = group.pivot_table(index="depth", values=columns).reset_index()
        colour = COLOURS[i % len(COLOURS)]
        page.add_scatter(
            row=row,
            col=1,
            x=[*mean.depth, *mean.depth[::-1]],
            y=[*mean.null_low, *mean.null_high[::-1]],
            fill="toself",
            fillcolor=colour,
            opacity=0.2,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        )
        page.add_scatter(
            row=row,
            col=1,
            x=mean.depth,
            y=mean.strength,
            name=plain(str(name)),
            legendgroup=str(name),
            showlegend=first,
            line={"color": colour, "dash": DASHES[i // len(COLOURS) % 3]},
            hovertemplate="depth %{x:.2f}: %{y:.3f}",
        )
    page.update_xaxes(row=row, col=1, title_text="relative depth", range=[0, 1])
    page.update_yaxes(row=row, col=1, title_text="root mean square score", rangemode="tozero")


def provenance(
    config: Config,
    models: list[dict[str, Any]],
    banks: Mapping[str, Treebank],
    tags: tuple[str, ...],
) -> dict[str, Any]:
    """What is needed to make the same numbers again."""
    return {
        **experiment_record(NAME, config),
        "models": models,
        "treebanks": {name: treebank_record(bank) for name, bank in banks.items()},
        "labels": list(tags),
        "seed": config.seed,
    }


def _put_first(table: pd.DataFrame, **columns: str) -> None:
    for i, (name, value) in enumerate(columns.items()):
        table.insert(i, name, value)


def _told(agreements: pd.DataFrame, depths: pd.DataFrame) -> str:
    """Means over tags of every pair of languages, and where the key neurons stand."""
    columns = ["coefficient", "expected_coefficient", "half_coefficient", "ceiling_coefficient"]
    columns += ["sham_coefficient", "half_correlation", "ceiling_correlation", "sham_correlation"]
    means = agreements.pivot_table(index=["first", "second"], values=columns, sort=False)
    shares = depths.pivot_table(index="treebank", columns="bin", values="share", sort=False)
    return (
        f"\n{agreements.model.iloc[0]}: means over tags\n{_shown(means.reindex(columns=columns))}\n"
        f"share of key neurons by bin of depth\n{_shown(shares)}"
    )


def _shown(table: pd.DataFrame) -> str:
    return table.to_string(float_format=lambda x: f"{x:.2f}")


if __name__ == "__main__":
    start_page(main, Config, Config.__doc__)
