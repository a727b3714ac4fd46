"""Layer by layer: how selective are a layer's neurons, what can be read from them, do they matter?

    python experiments/layer_by_layer.py
    python experiments/layer_by_layer.py --train UD_English-EWT:train --fresh UD_English-EWT:test

In IPython `%run experiments/layer_by_layer.py --k 10` does the same, and `%run -n` brings in `main`
and `Config` to call: `layers = main(Config(k=10))` is the table as a DataFrame.

Claim: what can be read from a layer is not what the model relies on. The tag of the coming word is
read best from the last layer, where cutting a tag's neurons does not hurt it; it hurts in others.
Run time: with the defaults 6.6 CPU minutes on one core of a busy machine.
Expected result: in README.md. Each p is of its layer alone, and where sham_output_ratio is below .9
part of the cost may be damage as such.

Writes layers.csv (a row per layer), selectivity.csv (per layer and label), lesions.csv (per layer,
lesion and label), layer_by_layer.html and run.json; running it again replaces them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from common import CutFlag, Experiment, Flags, LabelFlag, LesionFlag, OutFlag, PositionFlag, sources
from typer import Option, echo

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import fresh_corpus
from grammar_lens.dissociation.tables import layer_row, stacked
from grammar_lens.figures.layers import neurons_by_layer
from grammar_lens.neurons.overlap import same_sets, strength_by_layer

NAME = "layer_by_layer"


@dataclass(frozen=True)
class Config(Flags):
    """The flags."""

    label: LabelFlag = "upos"
    labels: Annotated[str, Option(help="Values studied, with commas; all by default.")] = ""
    cut: CutFlag = "NOUN,VERB,ADJ,ADV"
    position: PositionFlag = "next"
    score: Annotated[str, Option(help="correlation, cohens_d or welch_t.")] = "correlation"
    k: Annotated[int, Option(help="Key neurons per value in each layer.")] = 20
    lesion: LesionFlag = "mean"
    shams: Annotated[int, Option(help="Sham lesions per layer.")] = 20
    max_sentences: Annotated[int, Option(help="Held-out sentences lesioned, at most.")] = 80
    out: OutFlag = Path("results") / NAME


def main(config: Config) -> pd.DataFrame:
    """Runs the experiment, writes its folder, and gives the table of layers."""
    experiment = Experiment(NAME, config)
    model = config.load_model()
    labels = listed(config.labels) or None
    train, fresh, dropped = config.words(model, label=config.label, labels=labels)
    few, _ = fresh_corpus(model, fresh.bank, train, config.max_sentences)

    moments = gl.collect(model, train, position=config.position)
    scores = gl.score(moments["neuron"], config.score)
    keys = gl.select(scores, config.k, per_layer=True)
    for a, b in same_sets(keys):
        echo(
            f"warning: {a} and {b} have the same neurons by {config.score}, so their lesions are the "
            "same: study more labels (--labels), or choose another score",
            err=True,
        )
    selectivity = strength_by_layer(scores)
    lexicon = gl.fit_lexicon(model, train)

    rows, studies = [], []
    for layer in range(keys.n_layers):
        in_layer = keys.in_layer(layer)
        probe = gl.probe(model, train, fresh, in_layer, position=config.position, seed=config.seed)
        study = gl.lesion_study(
            model,
            few,
            in_layer,
            lexicon=lexicon,
            labels=listed(config.cut) or None,
            value=config.lesion,
            shams=config.shams,
            seed=config.seed,
        )
        of_layer = selectivity[selectivity.layer == layer]
        best = of_layer.loc[of_layer.best_score.abs().idxmax()]
        rows.append(layer_row(layer, best, probe, study))
        studies.append(study)
        experiment.tell(rows[-1])

    layers = pd.DataFrame(rows)
    cut = listed(config.cut)
    figure = neurons_by_layer(layers, scores, k=config.k, cut=cut, value=config.lesion)
    about = sources(model, train=train, fresh=fresh, lesioned=few)
    lesions = stacked({i: study.to_frame() for i, study in enumerate(studies)}, "layer")
    tables = {"layers": layers, "selectivity": selectivity, "lesions": lesions}
    experiment.finish(about | {"dropped_duplicates": dropped}, tables, figure)
    return layers


if __name__ == "__main__":
    start_page(main, Config, __doc__)
