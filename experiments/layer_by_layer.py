"""Layer by layer: how selective are a layer's neurons, what can be read from them, do they matter?

    python experiments/layer_by_layer.py
    python experiments/layer_by_layer.py --train UD_English-EWT:train --fresh UD_English-EWT:test

In IPython `%run experiments/layer_by_layer.py --k 10` does the same, and `%run -n` brings in `main`
and `Config` to call: `layers = main(Config(k=10))` is the table as a DataFrame.

Claim: what can be read from a layer is not what the model relies on. The tag of the coming word is
read best from the last layer, where cutting a tag's neurons does not hurt it; it hurts in others.
Run time: with the defaults 6.6 CPU minutes on one core of a busy machine.
Expected result, defaults: probe accuracy from .37 (layer 1) to .49 (layer 7), .02 to .06 above as many
random neurons of the layer, majority .18. Cutting 20 neurons per tag costs the tag's own words +.050
nats in layer 0 (other tags +.010), +.030 in 6 (+.001), +.016 in 1, +.014 in 5, each with p = .048, the
least that 20 shams can give; next to nothing in 2 to 4; -.007 in layer 7 (p = .76). Each p is of its
layer alone, and where sham_output_ratio is below .9 part of the cost may be damage as such.

Writes layers.csv (a row per layer), selectivity.csv (per layer and label), lesions.csv (per layer,
lesion and label), layer_by_layer.html and run.json; running it again replaces them.
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
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.figures import style
from grammar_lens.files import make_folder, write_file, write_json, write_text
from grammar_lens.model.about import Model, describe
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_strength
from grammar_lens.runs.session import read_source
from grammar_lens.runs.store.provenance import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)
from grammar_lens.selectivity.result import Scores

NAME = "layer_by_layer"


@dataclass(frozen=True)
class Config:
    """The flags."""

    model: Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")] = (
        "reference-9m"
    )
    train: Annotated[str, typer.Option(help="Words to choose neurons on.")] = "embedded:train"
    fresh: Annotated[str, typer.Option(help="Other words to test on.")] = "embedded:test"
    label: Annotated[str, typer.Option(help="upos, xpos, deprel or feats:NAME.")] = "upos"
    labels: Annotated[str, typer.Option(help="Values studied, by commas; all by default.")] = ""
    cut: Annotated[str, typer.Option(help="Values whose neurons are cut, by commas.")] = (
        "NOUN,VERB,ADJ,ADV"
    )
    position: Annotated[str, typer.Option(help="Where words are read: word or next.")] = "next"
    score: Annotated[str, typer.Option(help="correlation, cohens_d or welch_t.")] = "correlation"
    k: Annotated[int, typer.Option(help="Key neurons per value in each layer.")] = 20
    lesion: Annotated[str, typer.Option(help="Value of a cut neuron: mean or zero.")] = "mean"
    shams: Annotated[int, typer.Option(help="Sham lesions per layer.")] = 20
    max_sentences: Annotated[int, typer.Option(help="Fresh sentences lesioned, at most.")] = 80
    seed: Annotated[int, typer.Option(help="Seed of shams and random neurons.")] = 0
    device: Annotated[str, typer.Option(help="cpu, cuda; a GPU if there is one.")] = ""
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of layers."""
    begin = time.perf_counter()
    refuse_other_results(config.out, NAME)
    make_folder(config.out)

    model = gl.load_model(config.model, device=config.device or None)
    bank = read_source(config.train, config.label)
    train = prepare(model, bank, label=config.label, labels=listed(config.labels) or None)
    fresh, dropped = fresh_corpus(model, read_source(config.fresh, config.label), train)
    few, _ = fresh_corpus(model, fresh.bank, train, config.max_sentences)

    moments = gl.collect(model, train, position=config.position)
    scores = gl.score(moments["neuron"], config.score)
    keys = gl.select(scores, config.k, per_layer=True)
    selectivity = selectivity_table(scores)
    lexicon = gl.fit_lexicon(model, train)

    rows, studies = [], []
    for layer in range(keys.n_layers):
        here = in_layer(keys, layer)
        probe = gl.probe(model, train, fresh, here, position=config.position, seed=config.seed)
        study = gl.lesion_study(
            model,
            few,
            here,
            lexicon=lexicon,
            labels=listed(config.cut) or None,
            value=config.lesion,
            shams=config.shams,
            seed=config.seed,
        )
        rows.append(layer_row(layer, selectivity, probe, study))
        studies.append(study)
        print(_told(rows[-1]))

    layers = pd.DataFrame(rows)
    page = draw(layers, scores, config)
    seconds = time.perf_counter() - begin
    record = provenance(config, model, train, fresh, few)
    record |= {"dropped_duplicates": dropped, "seconds": round(seconds, 1)}
    write_json(config.out / "run.json", record)
    write_text(config.out / "layers.csv", layers.to_csv(index=False))
    write_text(config.out / "selectivity.csv", selectivity.to_csv(index=False))
    write_text(config.out / "lesions.csv", lesion_table(studies).to_csv(index=False))
    write_file(config.out / f"{NAME}.html", lambda path: page.write_html(path, div_id=NAME))
    print(f"{seconds:.0f} s; figure and numbers in {config.out}")
    return layers


def in_layer(keys: KeyNeurons, layer: int) -> KeyNeurons:
    """The key neurons of one layer."""
    return replace(keys, sets={label: keys[label].in_layer(layer) for label in keys})


def selectivity_table(scores: Scores) -> pd.DataFrame:
    """A row per layer and label: root mean square score, and the best neuron with its score."""
    rms = layer_strength(scores)
    rows = []
    for i, label in enumerate(scores.labels):
        best = np.abs(scores[label]).argmax(1)
        for layer, index in enumerate(best):
            rows.append(
                {
                    "layer": layer,
                    "label": label,
                    "rms_score": rms[i, layer],
                    "best_neuron": index,
                    "best_score": scores[label][layer, index],
                }
            )
    return pd.DataFrame(rows).sort_values(["layer", "label"], ignore_index=True)


def layer_row(
    layer: int, selectivity: pd.DataFrame, probe: gl.ProbeResult, study: LesionStudy
) -> dict[str, Any]:
    """The numbers of one layer, its baselines beside them."""
    mine = selectivity[selectivity.layer == layer]
    best = mine.loc[mine.best_score.abs().idxmax()]
    shams = replace(study, matrix=study.sham_mean)
    return {
        "layer": layer,
        "best_label": best.label,
        "best_neuron": best.best_neuron,
        "best_score": best.best_score,
        "n_neurons": probe.n_neurons,
        "accuracy": probe.accuracy,
        "random_accuracy": probe.random_accuracy,
        "majority_accuracy": probe.majority_accuracy,
        "word_baseline_accuracy": probe.word_baseline_accuracy,
        "control_accuracy": probe.control_accuracy,
        "diagonal": study.diagonal_mean,
        "off_diagonal": study.off_diagonal_mean,
        "sham_diagonal": shams.diagonal_mean,
        "sham_off_diagonal": shams.off_diagonal_mean,
        "sham_output_ratio": study.output_ratio.min(),
        "p": study.p_value,
    }


def lesion_table(studies: Sequence[LesionStudy]) -> pd.DataFrame:
    """A row per layer, lesion and label."""
    frames = [study.to_frame() for study in studies]
    for layer, frame in enumerate(frames):
        frame.insert(0, "layer", layer)
    return pd.concat(frames, ignore_index=True)


def draw(layers: pd.DataFrame, scores: Scores, config: Config) -> go.Figure:
    """Selectivity, probe and lesions over the layers, one panel above the other."""
    cut = ", ".join(listed(config.cut)) or "the usual labels"
    titles = (
        f"Selectivity: root mean square {figures.score_name(config.score)}",
        f"Probe: accuracy on fresh words, {config.k} key neurons per label",
        f"Lesion ({config.lesion}): rise in tag loss of {html.escape(cut)}",
    )
    page = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    page.add_heatmap(
        row=1,
        col=1,
        z=layer_strength(scores),
        x=layers.layer,
        y=[html.escape(label) for label in scores.labels],
        colorscale=list(style.SEQUENTIAL),
        zmin=0,
        zmax=layer_strength(scores).max(),
        colorbar={"len": 0.3, "y": 0.86, "thickness": 12, "outlinewidth": 0},
        hovertemplate="%{y}, layer %{x}: %{z:.3f}<extra></extra>",
    )
    blue, red, grey = style.COLOURS[0], style.COLOURS[1], style.GREY
    lines = (
        (2, "accuracy", "key neurons", blue, "solid"),
        (2, "random_accuracy", "random neurons of the layer", blue, "dot"),
        (2, "word_baseline_accuracy", "form alone", grey, "solid"),
        (2, "majority_accuracy", "majority label", grey, "dash"),
        (3, "diagonal", "own words", red, "solid"),
        (3, "off_diagonal", "other words", blue, "solid"),
        (3, "sham_diagonal", "own words, shams", red, "dot"),
        (3, "sham_off_diagonal", "other words, shams", blue, "dot"),
    )
    for row, column, name, colour, dash in lines:
        page.add_scatter(
            row=row,
            col=1,
            x=layers.layer,
            y=layers[column],
            name=name,
            legend="legend" if row == 2 else "legend2",
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            customdata=layers.p,
            hovertemplate="layer %{x}: %{y:.4f}" + (", p %{customdata:.3f}" if row == 3 else ""),
        )
    page.update_yaxes(row=1, col=1, type="category", autorange="reversed", dtick=1, showgrid=False)
    page.update_yaxes(row=2, col=1, title_text="accuracy", range=[0, 1])
    page.update_yaxes(row=3, col=1, title_text="nats")
    page.update_xaxes(row=3, col=1, title_text="layer", dtick=max(1, len(layers) // 16))
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
    return page.update_layout(
        template=figures.STYLE,
        height=1000,
        title=f"{html.escape(scores.origin.model)} layer by layer, words read at “{config.position}”",
        legend={"y": 0.63, "yanchor": "top"},
        legend2={"y": 0.27, "yanchor": "top"},
    )


def provenance(
    config: Config, model: Model, train: Corpus, fresh: Corpus, few: Corpus
) -> dict[str, Any]:
    """What is needed to make the same numbers again."""
    return {
        **experiment_record(NAME, config),
        "model": describe(model),
        "treebank": {
            role: treebank_record(corpus.bank)
            for role, corpus in (("train", train), ("fresh", fresh), ("lesioned", few))
        },
        "labels": list(train.labels),
        "seed": config.seed,
    }


def _told(row: dict[str, Any]) -> str:
    p = "" if row["p"] is None else f", p = {row['p']:.3f}"
    return (
        f"layer {row['layer']}: best {row['best_label']} {row['best_score']:+.2f}; "
        f"accuracy {row['accuracy']:.3f} (random {row['random_accuracy']:.3f}, majority "
        f"{row['majority_accuracy']:.3f}); lesion {row['diagonal']:+.3f} own, "
        f"{row['off_diagonal']:+.3f} other (shams {row['sham_diagonal']:+.3f}, "
        f"{row['sham_off_diagonal']:+.3f}{p})"
    )


if __name__ == "__main__":
    start_page(main, Config, Config.__doc__)
