"""Results of a run as tables."""

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.neurons.controls import with_effects
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import layer_counts, layer_strength, overlap
from grammar_lens.probing.evaluation import ProbeResult
from grammar_lens.runs.interchange import schema
from grammar_lens.runs.interchange.schema import Field, Table
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.selectivity.result import Scores

BAND = (0.025, 0.975)
"""Quantiles of the replicates that bound the band of chance."""


def tables_of(run: StoredRun, top: int | None) -> list[Table]:
    """The tables of the run's results; of the scores the `top` strongest of each label, or all."""
    return [*_of_neurons(run, top), *_of_probes(run), *_of_lesions(run), *_of_words(run)]


def _table(
    name: str, about: str, fields: tuple[Field, ...], frame: Callable[[], pd.DataFrame]
) -> Table:
    """A table small enough to be made at once."""
    return Table(name, about, fields, lambda: iter([frame()]))


def _by_position(
    run: StoredRun, frame: Callable[[str], pd.DataFrame]
) -> Callable[[], pd.DataFrame]:
    return lambda: pd.concat([frame(p).assign(position=p) for p in run.positions])


def _of_neurons(run: StoredRun, top: int | None) -> Iterator[Table]:
    if run.has("score"):
        yield Table(
            "scores",
            f"Scores of {'all' if top is None else f'the {top:,} strongest'} neurons for each label",
            schema.SCORES,
            lambda: _scores(run, top),
        )
    if run.has("select"):
        about = "The neurons chosen for each label, with effect sizes"
        yield _table("key_neurons", about, schema.KEY_NEURONS, _by_position(run, _keys(run)))
        about = "How strongly each layer answers to each label, and its key neurons there"
        profile = _by_position(run, lambda p: _profile(run.scores_at(p), run.keys_at(p)))
        yield _table("layer_profile", about, schema.LAYER_PROFILE, profile)
        about = "Key neurons that two labels share, beside chance"
        shared = _by_position(run, lambda p: _overlap(run.keys_at(p)))
        yield _table("overlap", about, schema.OVERLAP, shared)


def _keys(run: StoredRun) -> Callable[[str], pd.DataFrame]:
    def frame(position: str) -> pd.DataFrame:
        keys, adjusted = run.keys_at(position), run.evidence(position).adjusted
        table = with_effects(keys, run.scores_at(position), adjusted)
        return table.assign(method=keys.method, rule=keys.rule)

    return frame


def _scores(run: StoredRun, top: int | None) -> Iterator[pd.DataFrame]:
    """A part for each position and label."""
    for position in run.positions:
        scores = run.scores_at(position)
        strength, n_units = scores.strength(), scores.values.shape[2]
        q = None if scores.null is None else scores.null.q()
        for i, label in enumerate(scores.labels):
            order = np.argsort(-strength[i].ravel(), kind="stable")[:top]
            columns = {"score": scores.values, "cohens_d": scores.effect, "p": scores.p, "q": q}
            yield pd.DataFrame(
                {
                    "position": position,
                    "label": label,
                    "rank": np.arange(1, len(order) + 1),
                    "layer": order // n_units,
                    "index": order % n_units,
                    "method": scores.method,
                    **{c: v[i].ravel()[order] for c, v in columns.items() if v is not None},
                }
            )


def _profile(scores: Scores, keys: KeyNeurons) -> pd.DataFrame:
    strength = layer_strength(scores)
    n_labels, n_layers = strength.shape
    band = np.full((2, *strength.shape), np.nan)
    if scores.null is not None:
        band = np.quantile(scores.null.strength, BAND, axis=0)
    return pd.DataFrame(
        {
            "label": np.repeat(np.array(scores.labels, object), n_layers),
            "layer": np.tile(np.arange(n_layers), n_labels),
            "strength": strength.ravel(),
            "null_low": band[0].ravel(),
            "null_high": band[1].ravel(),
            "key_neurons": layer_counts(keys.only(scores.labels)).ravel(),
        }
    )


def _overlap(keys: KeyNeurons) -> pd.DataFrame:
    shared = overlap(keys)
    pairs = np.array(list(combinations(range(len(keys)), 2)), np.int64).reshape(-1, 2)
    where = (pairs[:, 0], pairs[:, 1])
    names = ("shared", "jaccard", "coefficient")
    columns = {
        n: getattr(shared, n)[where] for n in (*names, *(f"expected_{n}" for n in names[1:]))
    }
    columns |= {"expected": shared.expected[where], "p": shared.p_value[where]}
    labels = np.array(shared.labels, object)
    return pd.DataFrame({"first": labels[where[0]], "second": labels[where[1]], **columns})


def _of_probes(run: StoredRun) -> Iterator[Table]:
    if run.curves:
        frames = [table.assign(position=p) for p, table in run.curves.items()]
        about = "Accuracy on held-out words against the number of neurons"
        yield _table("probe_curve", about, schema.PROBE_CURVE, lambda: pd.concat(frames))
    if not run.has("probe"):
        return

    def each(frame: Callable[[ProbeResult], pd.DataFrame]) -> Callable[[], pd.DataFrame]:
        return _by_position(run, lambda p: frame(run.probe_at(p)))

    about = "How well the key neurons predict the label of held-out words, with every baseline"
    yield _table("probe", about, schema.PROBE, each(_probe))
    about = "The same label by label"
    yield _table("probe_labels", about, schema.PROBE_LABELS, each(_labels))
    about = "Which labels the probe takes for which"
    yield _table("probe_confusion", about, schema.PROBE_CONFUSION, each(_confusion))


def _probe(probe: ProbeResult) -> pd.DataFrame:
    names = {f.name for f in schema.PROBE} - {"position", "best_layer"}
    return pd.DataFrame([{n: getattr(probe, n) for n in names} | {"best_layer": probe.layer}])


def _labels(probe: ProbeResult) -> pd.DataFrame:
    return probe.per_label.rename_axis("label").reset_index()


def _confusion(probe: ProbeResult) -> pd.DataFrame:
    labels, n = np.array(probe.labels, object), len(probe.labels)
    columns = {"label": np.repeat(labels, n), "called": np.tile(labels, n)}
    return pd.DataFrame({**columns, "n_words": probe.confusion.ravel()})


def _of_lesions(run: StoredRun) -> Iterator[Table]:
    study = run.study
    if study is None:
        return
    studies = (study, *study.others)
    about = "What cutting one label's key neurons does to the words of every label"
    matrix = pd.concat([_matrix(s) for s in studies])
    yield _table("lesion_matrix", about, schema.LESION_MATRIX, lambda: matrix)
    about = "Pairs of labels whose lesions dissociate doubly; without rows where there are none"
    rows = [row for s in studies for row in _pairs(s)]
    names = pd.Index([f.name for f in schema.CROSSED_PAIRS])
    yield _table(
        "crossed_pairs",
        about,
        schema.CROSSED_PAIRS,
        lambda: pd.DataFrame(rows, columns=names),
    )
    if (doses := study.doses) is not None:
        frame = doses.to_frame().assign(value=doses.value, where=doses.where)
        about = "How the loss grows with the dose of the lesion"
        yield _table("dose_response", about, schema.DOSE_RESPONSE, lambda: frame)
        about = "The trend of the dose-response"
        yield _table("dose_trend", about, schema.DOSE_TREND, doses.trend_frame)
    if study.sufficiency is not None:
        about = "What keeping a label's key neurons saves when all others are cut"
        yield _table("sufficiency", about, schema.SUFFICIENCY, study.sufficiency.to_frame)


def _matrix(study: LesionStudy) -> pd.DataFrame:
    labels, n = np.array(study.labels, object), len(study.labels)
    columns = {
        "tag_loss_change": study.matrix,
        "nll_change": study.nll_matrix,
        "auroc_fall": study.auroc_fall,
        "bias": study.bias,
        "n_words": np.tile(study.n_words, (n, 1)),
        **dict(zip(("sham_mean", "sham_sd"), _mean_and_sd(study.sham), strict=True)),
    }
    if study.damage_matched:
        matched = _mean_and_sd(study.damage_matched.sham)
        columns |= dict(zip(("matched_mean", "matched_sd"), matched, strict=True))
    return pd.DataFrame(
        {
            "lesion": np.repeat(labels, n),
            "words_of": np.tile(labels, n),
            **{name: values.ravel() for name, values in columns.items()},
        }
    ).assign(**_ablation(study), k=study.k, n_shams=study.n_shams)


def _mean_and_sd(
    shams: Float[np.ndarray, "replicate label label"],
) -> tuple[Float[np.ndarray, "label label"], Float[np.ndarray, "label label"]]:
    """Over replicates; NaN where there are too few."""
    unknown = np.full(shams.shape[1:], np.nan)
    mean = shams.mean(0) if len(shams) else unknown
    return mean, shams.std(0, ddof=1) if len(shams) > 1 else unknown


def _ablation(study: LesionStudy) -> dict[str, str | float]:
    return {"value": study.value, "dose": study.dose, "where": study.ablation.where}


def _pairs(study: LesionStudy) -> Iterator[dict[str, object]]:
    by_shams = {"shams": study.crossed_pairs}
    if study.damage_matched:
        by_shams["damage-matched shams"] = study.damage_matched.crossed_pairs
    for against, pairs in by_shams.items():
        for pair in pairs:
            yield {**_ablation(study), "against": against, **vars(pair)}


def _of_words(run: StoredRun) -> Iterator[Table]:
    course = run.course
    if course is not None:
        about = "Selectivity at tokens around the word, by layer, on held-out words"
        yield _table("time_course", about, schema.TIME_COURSE, course.to_frame)
    examples = run.examples
    if examples:
        frames = [of_position.to_frame().assign(position=p) for p, of_position in examples.items()]
        about = "Words at which key neurons are most and least active"
        yield _table("examples", about, schema.EXAMPLES, lambda: pd.concat(frames))
