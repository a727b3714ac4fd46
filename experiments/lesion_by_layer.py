"""Lesions layer by layer: where in the network do the neurons of a tag matter?

    python experiments/lesion_by_layer.py
    python experiments/lesion_by_layer.py --train UD_English-EWT:train --fresh UD_English-EWT:test

Every label's k key neurons are chosen over the whole network, and then, layer by layer and on the
same fresh words,
- those of one label that stand in the layer are cut, against shams of that layer;
- all neurons of the layer are cut, for comparison: a lesion that spares no label;
- the residual stream after the layer loses the subspace that the differences of the labels' means
  span (its part there is set to the mean), against random subspaces of the same dimension.

Claim: a tag's key neurons matter at both ends of the network, most in the last layer, while what the
residual stream carries of the tag is needed after every layer, and the more the later.
Run time: with the defaults 6.7 CPU minutes on one core of a busy machine.
Expected result, defaults (nats): cutting the key neurons of the layer costs a tag's own words +.155 in
layer 7 (other tags -.009), +.048 in 6 (-.002), +.025 in 0 (+.004), +.013 in 5 (+.001), .004 or less in
1 to 4; shams of the layer .006 or less either way; p = .048, the least that 20 shams can give, in all
but layer 1 (.095). All neurons of layer 0 cost +.77, of any other layer +.05 to +.08. Seven directions
cost +.22 after layer 0, +.29 after 1 and up to +.68 after 7, random ones .008 or less: these
carry less of the stream's variance, too, so that is no test.
Each p is of its layer alone, over the labels that have key neurons there; where output_ratio is below
.9 part of the cost may be damage as such.

Writes layers.csv (a row per layer), lesions.csv (per layer, lesion and label), lesion_by_layer.html
and run.json; running it again replaces them.
"""

import html
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
from grammar_lens import figures
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.dissociation.changes import changes
from grammar_lens.dissociation.matrices import LEAST_LABELS, chance, diagonal_score
from grammar_lens.dissociation.shams import matched_keys, output_ratio
from grammar_lens.dissociation.verdicts import least
from grammar_lens.figures import style
from grammar_lens.files import make_folder, write_file, write_json, write_text
from grammar_lens.lesions.directions import Directions, directions
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.lesions.prepared import Battery, ready
from grammar_lens.model.about import Model, describe
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.passes.moments import Moments
from grammar_lens.runs.session import read_source
from grammar_lens.runs.store.provenance import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)
from grammar_lens.selectivity.registry import SCORES

NAME = "lesion_by_layer"
WHOLE, SUBSPACE = "whole layer", "directions"
"""The lesions of a layer that belong to no label."""


@dataclass(frozen=True)
class Config:
    """The flags."""

    model: Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")] = (
        "reference-9m"
    )
    train: Annotated[str, typer.Option(help="Words to choose neurons on.")] = "embedded:train"
    fresh: Annotated[str, typer.Option(help="Other words to test on.")] = "embedded:test"
    label: Annotated[str, typer.Option(help="upos, xpos, deprel or feats:NAME.")] = "upos"
    min_words: Annotated[int, typer.Option(help="Leave out values with fewer words.")] = 2
    cut: Annotated[
        str, typer.Option(help="Values whose neurons are cut, by commas; by default eight.")
    ] = ""
    score: Annotated[str, typer.Option(help="attribution_contrast, correlation, cohens_d, ...")] = (
        "attribution_contrast"
    )
    k: Annotated[int, typer.Option(help="Key neurons per value, over all layers.")] = 100
    shams: Annotated[int, typer.Option(help="Shams, and random subspaces, per layer.")] = 20
    max_sentences: Annotated[int, typer.Option(help="Fresh sentences lesioned, at most.")] = 100
    seed: Annotated[int, typer.Option(help="Seed of shams and random subspaces.")] = 0
    device: Annotated[str, typer.Option(help="cpu, cuda; a GPU if there is one.")] = ""
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of layers."""
    begin = time.perf_counter()
    refuse_other_results(config.out, NAME)
    make_folder(config.out)

    model = gl.load_model(config.model, device=config.device or None)
    bank = read_source(config.train, config.label)
    train = prepare(model, bank, label=config.label, min_words=config.min_words)
    fresh, dropped = fresh_corpus(
        model, read_source(config.fresh, config.label), train, config.max_sentences
    )
    lexicon = gl.fit_lexicon(model, train)
    found, stream = key_neurons(model, train, lexicon, config)

    battery, cut = made_ready(model, fresh, found, lexicon, config)
    keys = found.only(cut)
    rng = np.random.default_rng(config.seed)
    assert keys.units is not None
    output = keys.units.mean_abs * output_norms(model)
    shams = matched_keys(keys, output, config.shams, rng, keys.units)

    rows, lesions = [], []
    for layer in range(keys.n_layers):
        spans = subspaces(stream, cut, layer, config.shams, rng)
        conditions = lesions_of(layer, [keys, *shams], spans)
        outcomes = battery.run(conditions, what=f"layer {layer} of {keys.n_layers}")
        here = in_layer(keys, layer)
        lesions.append(lesion_table(layer, outcomes, here, len(spans[0])))
        rows.append(layer_row(layer, outcomes, here, output, lesions[-1]))
        print(told(rows[-1]), flush=True)

    layers = pd.DataFrame(rows)
    page = draw(layers, describe(model)["name"], config)
    seconds = time.perf_counter() - begin
    record = {
        **experiment_record(NAME, config),
        "model": describe(model),
        "treebank": {
            role: treebank_record(corpus.bank)
            for role, corpus in (("train", train), ("lesioned", fresh))
        },
        "labels": list(cut),
        "dropped_duplicates": dropped,
        "seed": config.seed,
        "seconds": round(seconds, 1),
    }
    write_json(config.out / "run.json", record)
    write_text(config.out / "layers.csv", layers.to_csv(index=False))
    write_text(config.out / "lesions.csv", pd.concat(lesions).to_csv(index=False))
    write_file(config.out / f"{NAME}.html", lambda path: page.write_html(path, div_id=NAME))
    print(f"{seconds:.0f} s; figure and numbers in {config.out}")
    return layers


def key_neurons(
    model: Model, train: Corpus, lexicon: Lexicon, config: Config
) -> tuple[KeyNeurons, Moments]:
    """The key neurons over all layers, and the moments of the residual stream from the same pass."""
    collected = gl.collect(model, train, sites=("neuron", "resid_post"), position="next")
    evidence = collected.evidence()
    if config.score in SCORES and SCORES[config.score].needs == "attribution":
        made = gl.attribute(model, train, moments=evidence.moments, lexicon=lexicon)
        evidence = replace(evidence, attribution=made)
    return gl.select(gl.score(evidence, config.score), config.k), collected["resid_post"]


def made_ready(
    model: Model, fresh: Corpus, keys: KeyNeurons, lexicon: Lexicon, config: Config
) -> tuple[Battery, tuple[str, ...]]:
    """The battery of the words of the labels studied, and those labels."""
    labels = listed(config.cut) or None
    battery, cut, _ = ready(model, fresh, keys, lexicon, labels, None, config.seed, None, True)
    return replace(battery, codes=battery.studied), cut


def in_layer(keys: KeyNeurons, layer: int) -> KeyNeurons:
    """The key neurons of one layer; a label may have none there."""
    return replace(keys, sets={label: keys[label].in_layer(layer) for label in keys})


def subspaces(
    stream: Moments, cut: Sequence[str], layer: int, n_random: int, rng: np.random.Generator
) -> list[Directions]:
    """The span of the differences of the labels' means after a layer, and random ones as large."""
    mean = stream.pooled()[0][layer]
    means = stream.only(cut).mean[:, layer]
    real = directions(SUBSPACE, means[1:] - means[0], layer=layer, mean=mean)
    draws = [rng.standard_normal(real.basis.shape) for _ in range(n_random)]
    return [real, *(directions(SUBSPACE, draw, layer=layer, mean=mean) for draw in draws)]


def lesions_of(
    layer: int, replicates: Sequence[KeyNeurons], spans: Sequence[Directions]
) -> list[Condition]:
    """The lesions of one layer: each label's neurons and their shams, the whole layer, directions."""
    real = replicates[0]
    return [
        *(
            Condition(label, number, keys[label].in_layer(layer), Ablation())
            for number, keys in enumerate(replicates)
            for label in real
        ),
        Condition(WHOLE, 0, gl.all_neurons(real, [layer]), kind="rest"),
        *(Condition(SUBSPACE, number, span, kind="rest") for number, span in enumerate(spans)),
    ]


def lesion_table(
    layer: int, outcomes: Outcomes, here: KeyNeurons, n_directions: int
) -> pd.DataFrame:
    """A row per lesion of a layer and label: rise of the tag loss (nats), and the shams' mean."""
    labels = here.labels
    found = changes(outcomes.only(Ablation()), labels)
    units = {label: len(here[label]) for label in labels}
    costs = dict(zip(labels, found.matrix(), strict=True))
    shams = dict(zip(labels, mean_or_none(found.sham_matrices()), strict=True))
    first = outcomes.row(SUBSPACE, 0)
    rest = [outcomes.row(WHOLE, 0), *range(first, len(outcomes.tag_loss))]
    rise = outcomes.tag_loss[rest] - outcomes.tag_loss[0]
    whole, real, *random = found.means(rise[:, found.place])
    costs |= {WHOLE: whole, SUBSPACE: real}
    units |= {WHOLE: here.n_units, SUBSPACE: n_directions}
    nothing = np.full(len(labels), np.nan)
    shams |= {WHOLE: nothing, SUBSPACE: mean_or_none(np.array(random).reshape(-1, len(labels)))}
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "layer": layer,
                    "lesion": lesion,
                    "units": units[lesion],
                    "label": labels,
                    "tag_loss_change": costs[lesion],
                    "sham_mean": shams[lesion],
                    "n_words": found.n_words,
                }
            )
            for lesion in costs
        ],
        ignore_index=True,
    )


def mean_or_none(replicates: np.ndarray) -> np.ndarray:
    """The mean over replicates; NaN without any."""
    if len(replicates):
        return replicates.mean(0)
    return np.full(replicates.shape[1:], np.nan)


def layer_row(
    layer: int,
    outcomes: Outcomes,
    here: KeyNeurons,
    output: np.ndarray,
    lesions: pd.DataFrame,
) -> dict[str, Any]:
    """The numbers of one layer, means over labels."""
    sets = lesions.query("lesion not in [@WHOLE, @SUBSPACE]")
    own, other = sets.query("lesion == label"), sets.query("lesion != label")
    whole, spans = lesions.query("lesion == @WHOLE"), lesions.query("lesion == @SUBSPACE")
    cut = outcomes.only(Ablation())
    return {
        "layer": layer,
        "key_neurons": int(own.units.sum()),
        "own": own.tag_loss_change.mean(),
        "other": other.tag_loss_change.mean(),
        "sham_own": own.sham_mean.mean(),
        "sham_other": other.sham_mean.mean(),
        "p": selectivity(cut, here),
        "output_ratio": least(output_ratio(cut, here, output)),
        "whole": whole.tag_loss_change.mean(),
        "n_directions": int(spans.units.iloc[0]),
        "directions": spans.tag_loss_change.mean(),
        "random_directions": spans.sham_mean.mean(),
    }


def selectivity(outcomes: Outcomes, here: KeyNeurons) -> float | None:
    """The p of S* over the labels with key neurons in the layer; None for fewer than three."""
    there = [i for i, label in enumerate(here) if len(here[label])]
    if len(there) < LEAST_LABELS:
        return None
    found = changes(outcomes, here.labels)
    square = np.ix_(there, there)
    shams = np.array([diagonal_score(matrix[square]) for matrix in found.sham_matrices()])
    return chance(diagonal_score(found.matrix()[square]), shams)


def draw(layers: pd.DataFrame, model: str, config: Config) -> go.Figure:
    """The costs of each layer's lesions: key neurons, whole layer, directions."""
    titles = (
        f"Key neurons of a label in the layer ({config.k} per label over all layers)",
        "All neurons of the layer",
        "The subspace of the labels' means after the layer",
    )
    page = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    blue, red, grey = style.COLOURS[0], style.COLOURS[1], style.GREY
    lines = (
        (1, "own", "own words", red, "solid"),
        (1, "other", "other words", blue, "solid"),
        (1, "sham_own", "own words, shams", red, "dot"),
        (1, "sham_other", "other words, shams", blue, "dot"),
        (2, "whole", "all words, whole layer", grey, "solid"),
        (3, "directions", "all words, directions", blue, "solid"),
        (3, "random_directions", "all words, random directions", blue, "dot"),
    )
    for row, column, name, colour, dash in lines:
        page.add_scatter(
            row=row,
            col=1,
            x=layers.layer,
            y=layers[column],
            name=name,
            legend="legend" if row == 1 else f"legend{row}",
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            customdata=np.stack([layers.key_neurons, layers.p.astype(float)], 1),
            hovertemplate="layer %{x}: %{y:+.4f} nats"
            + ("<br>%{customdata[0]} key neurons, p %{customdata[1]:.3f}" if row == 1 else ""),
        )
    for row, title in enumerate(titles, 1):
        page.add_annotation(
            row=row,
            col=1,
            text=f"<b>{title}</b>",
            x=0,
            xref="x domain",
            xanchor="left",
            y=1,
            yref="y domain",
            yanchor="bottom",
            showarrow=False,
        )
    page.update_yaxes(title_text="rise in tag loss (nats)")
    page.update_xaxes(row=3, col=1, title_text="layer", dtick=max(1, len(layers) // 16))
    return page.update_layout(
        template=figures.STYLE,
        height=1000,
        title=f"{html.escape(model)}: what lesions of one layer cost",
        legend={"y": 1, "yanchor": "top"},
        legend2={"y": 0.62, "yanchor": "top"},
        legend3={"y": 0.27, "yanchor": "top"},
    )


def told(row: dict[str, Any]) -> str:
    p = "" if row["p"] is None else f", p = {row['p']:.3f}"
    return (
        f"layer {row['layer']}: {row['key_neurons']} key neurons, {row['own']:+.3f} own, "
        f"{row['other']:+.3f} other (shams {row['sham_own']:+.3f}, {row['sham_other']:+.3f}{p}); "
        f"whole layer {row['whole']:+.3f}; {row['n_directions']} directions "
        f"{row['directions']:+.3f} (random {row['random_directions']:+.3f})"
    )


if __name__ == "__main__":
    start_page(main, Config, Config.__doc__)
