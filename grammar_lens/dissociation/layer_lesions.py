"""Lesions layer by layer: a label's key neurons in the layer, and its direction after the layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, fresh_corpus, prepare, sampled
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.origin import Origin
from grammar_lens.defaults import LAYER_WORDS, SEED, SHAM_SENTENCES
from grammar_lens.display import Shown
from grammar_lens.dissociation.changes import label_rises
from grammar_lens.dissociation.shams import output_matched_shams
from grammar_lens.lesions.directions import Directions, directions
from grammar_lens.lesions.outcomes import Condition, Outcomes
from grammar_lens.lesions.prepared import Battery, ready
from grammar_lens.model.about import Model, device_of
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.same_model import require_same_model
from grammar_lens.passes.covariance import CovarianceAccumulator
from grammar_lens.passes.readers import State
from grammar_lens.passes.shared import Reading, Request, read_one
from grammar_lens.passes.stream import Tap

NEURONS, DIRECTION = "key neurons", "direction"
"""The two lesions of a label in each layer."""
LAYER_SHAMS = 5


@dataclass(frozen=True)
class LayerLesions(Shown):
    """Rise of the tag loss (nats) under lesions of one layer, set to the mean, beside shams.

    `table` has a row per layer, lesion and label: `units` lesioned, `own` and `other`, the rise at
    the label's own words and the mean of its rises at the others', and the same for the mean of
    `n_shams` shams. Shams of "key neurons" are matched in output; those of "direction", the
    difference of the label's mean from that of all other words, are random directions along which
    the stream varies as much. NaN where the layer has no key neurons of the label.
    """

    labels: tuple[str, ...]
    table: pd.DataFrame
    n_shams: int
    n_words: int
    n_sentences: int
    origin: Origin

    def to_frame(self) -> pd.DataFrame:
        """A row per layer, lesion and label."""
        return self.table

    def by_layer(self) -> pd.DataFrame:
        """A row per layer and lesion: means over the labels that have one there."""
        numbers = ["own", "other", "sham_own", "sham_other"]
        how = {**dict.fromkeys(numbers, "mean"), "units": "sum"}
        return self.table.groupby(["layer", "lesion"], sort=False).agg(how).reset_index()

    def __repr__(self) -> str:
        means = self.by_layer()
        told = []
        for lesion in (NEURONS, DIRECTION):
            rows = means[(means.lesion == lesion) & means.own.notna()]
            if len(rows):
                worst = rows.loc[rows.own.idxmax()]
                told.append(
                    f"{lesion} cost most in layer {worst.layer} ({worst.own:+.3f} nats, other labels "
                    f"{worst.other:+.3f}, shams {worst.sham_own:+.3f})"
                )
        return f"LayerLesions of {self.origin.model}: {'; '.join(told)}"


def lesions_by_layer(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    lexicon: Lexicon | None = None,
    shams: int = LAYER_SHAMS,
    sentences: int | None = SHAM_SENTENCES,
    labels: Sequence[str] | None = None,
    max_words: int = LAYER_WORDS,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    allow_other_model: bool = False,
) -> LayerLesions:
    """Lesions each label's key neurons in one layer at a time, and its direction after the layer.

    Directions, and how much the stream varies along them, come from `max_words` words of `train`;
    losses from `sentences` held-out sentences (None: all), drawn as those of `lesion_study`'s shams.
    Two times `1 + shams` lesions for every layer and label.
    Raises GrammarLensError as `lesion_study`.
    """
    require_same_model(model, keys, allow_other_model=allow_other_model)
    corpus, battery, cut = beside_training_words(
        model, train, fresh, keys, lexicon, labels, seed, token_budget, show_progress
    )
    codes = battery.sham_codes(sentences)
    units = keys.units
    assert units is not None, "key neurons of a run carry unit statistics"
    rng = np.random.default_rng([seed, 12])
    sets = keys.only(cut)
    output = units.mean_abs * output_norms(model)
    replicates = [sets, *output_matched_shams(sets, output, shams, rng, units)]
    sums = stream_sums(
        model, corpus, keys.origin.position, max_words, seed, token_budget, show_progress
    )
    rows = []
    for layer in range(keys.n_layers):
        spans = _directions(sums[layer], keys.labels, cut, layer, shams, rng)
        conditions = [
            *(
                Condition(f"{NEURONS} {x}", i, replicate[x].in_layer(layer))
                for i, replicate in enumerate(replicates)
                for x in cut
                if len(sets[x].in_layer(layer))
            ),
            *(Condition(f"{DIRECTION} {x}", i, d) for x in cut for i, d in enumerate(spans[x])),
        ]
        what = f"lesioning, layer {layer} of {keys.n_layers}"
        outcomes = battery.run(conditions, codes=codes, what=what)
        rows += [
            {"layer": layer, "lesion": kind, "label": x, "units": n}
            | _costs(outcomes, f"{kind} {x}", x, cut, shams)
            for kind in (NEURONS, DIRECTION)
            for x in cut
            for n in [len(sets[x].in_layer(layer)) if kind == NEURONS else 1]
        ]
    return LayerLesions(
        labels=cut,
        table=pd.DataFrame(rows),
        n_shams=shams,
        n_words=int((codes >= 0).sum()),
        n_sentences=len(np.unique(battery.corpus.alignment.sentence[codes >= 0])),
        origin=corpus.origin(keys.origin.position, "resid_post"),
    )


def beside_training_words(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    lexicon: Lexicon | None,
    labels: Sequence[str] | None,
    seed: int,
    token_budget: int | None,
    show_progress: bool,
) -> tuple[Corpus, Battery, tuple[str, ...]]:
    """The training words that directions come from, a battery on the held-out ones, the labels cut."""
    corpus = prepare(model, train, label=keys.origin.label, labels=keys.labels)
    new, _ = fresh_corpus(model, fresh, corpus)
    tables = lexicon or fit_lexicon(model, corpus)
    battery, cut, _ = ready(
        model, new, keys, tables, labels, None, seed, token_budget, show_progress
    )
    return corpus, battery, cut


def stream_sums(
    model: Model,
    corpus: Corpus,
    position: str,
    max_words: int,
    seed: int,
    token_budget: int | None,
    show_progress: bool,
) -> list[State]:
    """Class means and the covariance within classes of the residual stream after every layer."""
    codes = sampled(corpus, corpus.read(position), max_words, np.random.default_rng([seed, 8]))
    shape = (len(corpus.labels), model.cfg.n_layers, model.cfg.d_model)
    reader = CovarianceAccumulator(np.maximum(codes, 0)[None], *shape, device_of(model))
    tap = Tap("resid_post", position, codes >= 0, np.arange(len(codes)), reader)
    reading = Reading([Request(corpus, lambda: [tap])], reader.state)
    return read_one(
        model, reading, "directions", token_budget=token_budget, show_progress=show_progress
    )


def stream_statistics(
    state: State,
) -> tuple[
    Float64[np.ndarray, "label unit"],
    Float64[np.ndarray, " unit"],
    Float64[np.ndarray, "unit unit"],
]:
    """The labels' means, the mean and the covariance of all words, after a layer."""
    count, mean, within = (state[x].double().cpu() for x in ("count", "mean", "within"))
    n = count.sum()
    centre = (count @ mean) / n
    gaps = (mean - centre) * count.sqrt()[:, None]
    return mean.numpy(), centre.numpy(), ((within + gaps.T @ gaps) / n).numpy()


def _directions(
    state: State,
    every: Sequence[str],
    cut: Sequence[str],
    layer: int,
    n_random: int,
    rng: np.random.Generator,
) -> dict[str, list[Directions]]:
    """The direction of each label after a layer, and random ones of the same variance."""
    means, centre, covariance = stream_statistics(state)
    eigen = np.linalg.eigh(covariance)
    found = {}
    for label in cut:
        # from the mean of the rest to the label's own: a multiple of its distance from all
        vector = means[every.index(label)] - centre
        others = like_variance(vector, covariance, eigen, n_random, rng)
        found[label] = [
            directions(label, each[None], layer=layer, mean=centre) for each in (vector, *others)
        ]
    return found


def like_variance(
    vector: Float64[np.ndarray, " unit"],
    covariance: Float64[np.ndarray, "unit unit"],
    eigen: tuple[Float64[np.ndarray, " unit"], Float64[np.ndarray, "unit unit"]],
    n: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "n unit"]:
    """Random unit vectors along which data of this covariance vary as much as along `vector`.

    Normal draws in the coordinates of the eigenvectors are multiplied by a power of the eigenvalues:
    at 0 all directions are alike, above it those of large variance stand out, below those of small.
    The power that gives the variance is found by halving; it grows with the power.
    """
    unit = vector / max(float(np.linalg.norm(vector)), 1e-300)
    target = float(unit @ covariance @ unit)
    values, vectors = eigen
    values = np.maximum(values, values.max() * 1e-12)
    log = np.log(values / values.max())
    drawn = []
    for z in rng.standard_normal((n, len(values))):
        low, high = -8.0, 8.0
        share = z**2
        for _ in range(60):
            power = (low + high) / 2
            weight = 2 * power * log
            share = z**2 * np.exp(weight - weight.max())
            share /= share.sum()
            low, high = (power, high) if share @ values < target else (low, power)
        drawn.append(vectors @ (np.sqrt(share) * np.sign(z)))
    return np.array(drawn).reshape(n, len(values))


def _costs(
    outcomes: Outcomes, name: str, label: str, cut: Sequence[str], n_shams: int
) -> dict[str, Any]:
    """The rise at a label's own words and the mean at the others', real and mean over shams."""
    if name not in {c.label for c in outcomes.conditions}:
        return dict.fromkeys(("own", "other", "sham_own", "sham_other"), np.nan)
    rows = [outcomes.row(name, i) for i in range(1 + n_shams)]
    means = label_rises(outcomes, cut, rows)
    own = cut.index(label)
    others = np.delete(means, own, axis=1).mean(1)
    none = n_shams == 0
    return {
        "own": means[0, own],
        "other": others[0],
        "sham_own": np.nan if none else means[1:, own].mean(),
        "sham_other": np.nan if none else others[1:].mean(),
    }
