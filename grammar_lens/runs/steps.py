"""The steps of a run: each reads stored results and returns a function that stores its own.

Computing and storing are apart because in a process group all processes compute and one stores. A
step that reads activations of chosen units says what it reads (`READINGS`), so that one pass over
each corpus serves all such steps that are open.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grammar_lens.corpus.corpus import Corpus
from grammar_lens.dissociation.layer_lesions import LAYER_SHAMS, LayerLesions, lesions_by_layer
from grammar_lens.dissociation.size_curves import SizeCurves, lesion_curves
from grammar_lens.dissociation.study import lesion_study
from grammar_lens.errors import GrammarLensError
from grammar_lens.files import write_file, write_json, write_text
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import device_of
from grammar_lens.model.weights import output_contrast
from grammar_lens.neurons.controls import (
    SelectionControls,
    selection_controls,
    sham_keys,
    with_effects,
)
from grammar_lens.neurons.find_examples import examples_reading
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.selection import select
from grammar_lens.neurons.timecourse import course_reading
from grammar_lens.passes.shared import Reading
from grammar_lens.phenomena.study import phenomena_study
from grammar_lens.probing.curves import ProbeCurve
from grammar_lens.probing.layer_probes import layer_reading, untrained_probes
from grammar_lens.probing.layer_results import LayerProbes
from grammar_lens.probing.probes import curve_reading, probe_reading
from grammar_lens.progress import waiting
from grammar_lens.report.files import write_figures
from grammar_lens.report.page import write_report
from grammar_lens.runs.interchange.reading import read_neurons
from grammar_lens.runs.session import KEPT, Session
from grammar_lens.runs.settings import Config
from grammar_lens.runs.store.arrays import (
    save_attributions,
    save_collected,
    save_fitted,
    save_scores,
)
from grammar_lens.runs.store.directory import update_record
from grammar_lens.runs.store.examples import save_examples
from grammar_lens.runs.store.results import (
    outcome_table,
    save_controls,
    save_course,
    save_curves,
    save_keys,
    save_layer_lesions,
    save_layers,
    save_phenomena,
    save_probes,
    save_size_curves,
    save_study,
)
from grammar_lens.runs.store.stored import (
    ATTRIBUTIONS,
    CONTROLS,
    CURVES,
    FITTED,
    LAYER_LESIONS,
    LAYERS,
    SIZE_CURVES,
    SUMMARY,
    StoredRun,
)
from grammar_lens.runs.store.storing import FIGURES, Save, link, made_about
from grammar_lens.runs.store.studies import STEPS
from grammar_lens.runs.summary import summarise
from grammar_lens.selectivity.attribution.attribute import attribute
from grammar_lens.selectivity.collect_plan import CollectSpec
from grammar_lens.selectivity.collecting import Collection
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import Scores
from grammar_lens.selectivity.scoring import score

CURVE_KS = (1, 2, 5, 10, 20)
"""Key neurons per label at which the probe is fitted for the curve of accuracy."""
CURVE_WORDS = 20_000


def collection(session: Session) -> Collection:
    """The pass over the training words at every position and site, not yet read."""
    c = session.config
    return Collection(session.model, [session.train], wanted_of(c), c.token_budget)


def wanted_of(c: Config) -> CollectSpec:
    """The specification of the collecting pass, from the settings."""
    needs = {SCORES[c.score_at(p)].needs for p in c.positions}
    return CollectSpec(
        sites=c.sites if "neuron" in c.sites else ("neuron", *c.sites),
        positions=c.positions,
        replicates=c.replicates,
        sample=c.sample if c.sample is not None else 100 * ("sample" in needs),
        controls=True,
        seed=c.seed,
        nulls=("correlation", *(c.score_at(p) for p in c.positions)),
    )


def run_collect(session: Session, run: StoredRun) -> Save:
    """Moments of all units at every position and site from one pass over the training words."""
    begin = time.perf_counter()
    job = collection(session)
    job.read(session.config.show_progress, session.keeper("collect"))
    return save_collection(session, run, job, time.perf_counter() - begin)


def save_collection(session: Session, run: StoredRun, job: Collection, seconds: float) -> Save:
    """Makes of a pass what its step stores."""
    c, corpus, (collected,) = session.config, session.train, job.results()

    def save(folder: Path) -> None:
        main = run.main_position
        update_record(
            run,
            collect={
                "words": collected.at(main)["neuron"].n_words,
                "tokens": collected.n_tokens,
                "seconds": round(seconds, 3),
            },
            alignment={
                "words": corpus.alignment.n_words,
                "aligned": int(corpus.alignment.aligned(main).sum()),
                "skipped": corpus.alignment.skipped(main),
                "not_read": {p: corpus.skipped(p) for p in c.positions},
            },
        )
        save_collected(folder / STEPS["collect"], collected)

    return save


def run_score(session: Session, run: StoredRun) -> Save:
    """Scores of every neuron for every label, at each position; attributions where they need them."""
    c = session.config
    methods = {p: c.score_at(p) for p in run.positions}
    attributions, made = dict(run.attributions), {}
    for needs in dict.fromkeys(SCORES[method].needs for method in methods.values()):
        new = _attribute(session, run, needs)
        if new is not None:
            made[needs], attributions[needs] = new
    evidence = {p: run.evidence(p, attributions) for p in methods}
    if any(SCORES[m].needs == "output_contrast" for m in methods.values()):
        contrast = output_contrast(session.model, session.lexicon.count)
        evidence = {p: replace(e, output_contrast=contrast) for p, e in evidence.items()}
    scores = {p: score(evidence[p], method) for p, method in methods.items()}

    def save(folder: Path) -> dict[str, object]:
        stored = run.result("score", ATTRIBUTIONS) if attributions and not made else None
        if stored is not None:
            link(stored, folder / ATTRIBUTIONS)
        elif attributions:
            save_attributions(folder / ATTRIBUTIONS, attributions)
        save_scores(folder / STEPS["score"], scores)
        return {"attributions": {**_attributions_made(run), **made}}

    return save


def _attributions_made(run: StoredRun) -> Mapping[str, object]:
    """The settings of each attribution that the run has stored."""
    about = made_about(run, "score") if run.has("score") else {}
    return about.get("attributions") or {}


def _attribute(
    session: Session, run: StoredRun, needs: str
) -> tuple[dict[str, object], Attribution] | None:
    """The attributions that a score needs, and of what they are made; None if the run has them."""
    c = session.config
    if needs not in ("attribution", "relevance", "integrated_gradients"):
        return None
    first_order = needs != "integrated_gradients"
    kind = c.attribution if first_order else needs
    made = {"kind": kind, "seed": c.seed, "words": c.attribution_words}
    if first_order:
        made["replicates"] = c.replicates
    if needs in run.attributions and _attributions_made(run).get(needs) == made:
        return None
    settings: dict[str, Any] = {
        "max_words": c.attribution_words,
        "seed": c.seed,
        "token_budget": c.token_budget,
        "show_progress": c.show_progress,
    }
    readable = int((session.train.read("next") >= 0).sum())
    if readable > c.attribution_words:
        session.say(
            f"score: attributions of at most {c.attribution_words:,} of {readable:,} words, drawn by "
            f"sentence with seed {c.seed} (--attribution-words)"
        )
    if first_order:
        attributions = attribute(
            session.model,
            session.train,
            kind=kind,
            relevance=needs == "relevance",
            moments=run.moments.at("next")["neuron"],
            lexicon=session.lexicon,
            replicates=c.replicates if kind == "own" else 0,
            keeper=session.keeper("score"),
            **settings,
        )
    else:
        attributions = attribute(session.model, session.train, kind=kind, **settings)
    return made, attributions


def run_select(session: Session, run: StoredRun) -> Save:
    """The key neurons of every label at each position, and how far the choice can be trusted."""
    c = session.config
    tables, controls = {}, {}
    for position in run.positions:
        scores, evidence = run.scores_at(position), run.evidence(position)
        most = c.top_k if c.rule in ("top_k", "frequency") and c.neurons_from is None else None
        if c.neurons_from is None:
            keys = select(
                scores,
                most,
                rule=c.rule,
                sign=c.sign,
                alpha=c.alpha,
                massive=c.massive or None,
            )
            controls[position] = selection_controls(keys, scores, evidence, c.top_k, c.sign)
        else:
            keys = imported(c.neurons_from, run, position)
            controls[position] = controls_of_imported(keys, scores, evidence)
        fewer = [f"{x} {len(keys[x])}" for x in keys if len(keys[x]) < (most or 1)]
        if fewer:
            session.say(f"select: at {position!r} {keys.rule} chooses fewer for {', '.join(fewer)}")
        tables[position] = with_effects(keys, scores, evidence.adjusted)

    def save(folder: Path) -> None:
        save_controls(folder / CONTROLS, controls)
        save_keys(folder / STEPS["select"], tables)

    return save


def read_examples(session: Session, run: StoredRun) -> Reading[Save]:
    """Words at which the first key neurons of every label are most and least active."""
    c = session.config
    reading = examples_reading(
        session.model,
        session.train,
        {p: run.keys_at(p).top(c.example_neurons) for p in run.positions},
        lexicon=session.lexicon,
        **c.for_examples(),
    )

    def finish() -> Save:
        examples = reading.finish()
        return lambda folder: save_examples(folder / STEPS["examples"], examples)

    return Reading(reading.requests, finish)


def read_course(session: Session, run: StoredRun) -> Reading[Save]:
    """Selectivity of all units and of the key neurons at tokens around held-out words."""
    position = run.positions[0]
    fresh, _ = session.fresh
    reading = course_reading(session.model, fresh, position=position)

    def finish() -> Save:
        summary = reading.finish().summary(run.keys_at(position))
        return lambda folder: save_course(folder / STEPS["course"], summary)

    return Reading(reading.requests, finish)


def read_layers(session: Session, run: StoredRun) -> Reading[Save]:
    """Accuracy of a probe on the residual stream of every layer, and of an untrained twin's."""
    c = session.config
    fresh, _ = session.fresh
    shared: dict[str, Any] = {"max_words": c.layer_words, "seed": c.seed}
    reading = layer_reading(
        session.model, session.train, fresh, run.positions, lexicon=session.lexicon, **shared
    )

    def finish() -> Save:
        trained, untrained = reading.finish(), {}
        if session.has_twin:
            untrained = untrained_probes(
                session.model,
                session.train,
                fresh,
                run.positions,
                token_budget=c.token_budget,
                show_progress=c.show_progress,
                **shared,
            )
        probes = LayerProbes(trained, untrained)
        return lambda folder: save_layers(folder / STEPS["layers"], probes)

    return Reading(reading.requests, finish)


def read_probe(session: Session, run: StoredRun) -> Reading[Save]:
    """Accuracy of a probe on the key neurons for held-out words, with all baselines."""
    c = session.config
    fresh, dropped = session.fresh
    probes = {
        position: probe_reading(
            session.train,
            fresh,
            run.keys_at(position),
            position=position,
            k=min(c.probe_k, _most(c, run.keys_at(position))),
            max_train_words=c.max_train_words,
            seed=c.seed,
            dropped_duplicates=dropped,
            predicted_by=(session.model, session.lexicon),
            device=device_of(session.model),
            show_progress=c.show_progress,
        )
        for position in run.positions
    }
    curves = {p: _curve(session, run, p, fresh) for p in run.positions}

    def finish() -> Save:
        results = {p: reading.finish() for p, reading in probes.items()}
        points = {p: reading.finish() for p, reading in curves.items()}

        def save(folder: Path) -> None:
            save_curves(folder / CURVES, points)
            save_fitted(folder / FITTED, {p: r.fitted for p, r in results.items() if r.fitted})
            save_probes(folder / STEPS["probe"], results)

        return save

    every = (*probes.values(), *curves.values())
    return Reading([request for reading in every for request in reading.requests], finish)


def _most(c: Config, keys: KeyNeurons) -> int:
    """As many key neurons as a label may have."""
    return c.top_k if c.neurons_from is None else keys.k


def _curve(session: Session, run: StoredRun, position: str, fresh: Corpus) -> Reading[ProbeCurve]:
    """Accuracy against k of the key neurons, and of those found with exchanged labels."""
    c, scores, keys = session.config, run.scores_at(position), run.keys_at(position)
    rankings = {scores.method if c.neurons_from is None else keys.rule: keys}
    sham = sham_keys(scores, c.top_k, sign=c.sign) if c.neurons_from is None else None
    if sham is not None:
        rankings["exchanged labels"] = sham
    return curve_reading(
        session.train,
        fresh,
        rankings,
        ks=[k for k in CURVE_KS if k <= _most(c, keys)],
        position=position,
        max_train_words=min(c.max_train_words, CURVE_WORDS),
        seed=c.seed,
        device=device_of(session.model),
        show_progress=c.show_progress,
    )


def other_ablations(c: Config) -> list[Ablation]:
    """The further lesions of the same neurons: other doses, other values."""
    doses = [Ablation(c.value, dose, c.lesion_at) for dose in c.doses[1:]]
    return doses + [Ablation(value, c.dose, c.lesion_at) for value in c.values[1:]]


def run_lesion(session: Session, run: StoredRun) -> Save:
    """The lesion study of the key neurons against matched shams."""
    c = session.config
    corpus = session.lesioned
    study = lesion_study(
        session.model,
        corpus,
        run.keys_at(run.main_position),
        lexicon=session.lexicon,
        value=c.value,
        dose=c.dose,
        where=c.lesion_at,
        shams=c.shams,
        others=other_ablations(c),
        other_shams=c.other_shams,
        damage_matched=c.damage_matched,
        sham_sentences=c.sham_sentences,
        sufficiency=c.sufficiency,
        attribution=run.attributions.get("attribution") or run.attributions.get("relevance"),
        labels=c.lesion_labels or None,
        seed=c.seed,
        token_budget=c.token_budget,
        folder=session.unfinished / KEPT["lesion"],
        show_progress=c.show_progress,
    )
    outcomes = study.outcomes
    assert outcomes is not None
    by_layer = _lesions_by_layer(session, run) if c.by_layer else None
    curves = _size_curves(session, run) if c.curves else None

    def save(folder: Path) -> None:
        if curves is not None:
            save_size_curves(folder / SIZE_CURVES, curves)
        if by_layer is not None:
            save_layer_lesions(folder / LAYER_LESIONS, by_layer)
        save_study(folder, STEPS["lesion"], study, outcome_table(outcomes, corpus.forms))

    return save


def _lesions_by_layer(session: Session, run: StoredRun) -> LayerLesions:
    """The lesions of each layer alone, at the sentences of the shams."""
    c = session.config
    return lesions_by_layer(
        session.model,
        session.train,
        session.lesioned,
        run.keys_at(run.main_position),
        lexicon=session.lexicon,
        shams=min(c.shams, LAYER_SHAMS),
        sentences=c.sham_sentences,
        labels=c.lesion_labels or None,
        seed=c.seed,
        token_budget=c.token_budget,
        show_progress=c.show_progress,
    )


def _size_curves(session: Session, run: StoredRun) -> SizeCurves:
    """The curves over the number of neurons, chosen by the run's rule but as many as the largest k."""
    c, position = session.config, run.main_position
    keys = run.keys_at(position)
    if c.neurons_from is None and c.rule in ("top_k", "frequency"):
        keys = select(
            run.scores_at(position),
            min(max(c.curve_ks), keys.n_layers * keys.n_units),
            rule=c.rule,
            sign=c.sign,
            alpha=c.alpha,
            massive=c.massive or None,
        )
    return lesion_curves(
        session.model,
        session.lesioned,
        keys,
        lexicon=session.lexicon,
        ks=c.curve_ks,
        where=c.lesion_at,
        sentences=c.sham_sentences,
        labels=c.lesion_labels or None,
        seed=c.seed,
        token_budget=c.token_budget,
        show_progress=c.show_progress,
    )


def run_phenomena(session: Session, run: StoredRun) -> Save:
    """The lesions of phenomena's and tags' neurons, at minimal pairs."""
    c = session.config
    study = phenomena_study(
        session.model,
        session.pairs,
        run.keys_at(run.main_position),
        tags=() if c.pair_tags == ("none",) else c.pair_tags or None,
        k=c.top_k,
        alpha=c.alpha,
        massive=c.massive or None,
        at=c.pairs_at,
        folds=c.folds,
        shams=c.pair_shams,
        sham_pairs=c.sham_pairs,
        seed=c.seed,
        token_budget=c.token_budget,
        show_progress=c.show_progress,
    )
    return lambda folder: save_phenomena(folder, STEPS["phenomena"], study)


def run_report(session: Session, run: StoredRun) -> Save:
    """summary.json, figures/ and report.html from what is there."""

    def save(folder: Path) -> None:
        write_json(folder / SUMMARY, summarise(run))
        if run.layer_table is not None:
            text = run.layer_table.to_csv(index=False, lineterminator="\n")
            write_text(folder / LAYERS, text)
        with waiting("Drawing figures and report", show=session.config.show_progress):
            write_figures(run, folder / FIGURES)
            write_file(folder / STEPS["report"], lambda path: write_report(run, path))

    return save


WORK: Mapping[str, Callable[[Session, StoredRun], Save]] = {
    "collect": run_collect,
    "score": run_score,
    "select": run_select,
    "lesion": run_lesion,
    "phenomena": run_phenomena,
    "report": run_report,
}
READINGS: Mapping[str, Callable[[Session, StoredRun], Reading[Save]]] = {
    "examples": read_examples,
    "course": read_course,
    "layers": read_layers,
    "probe": read_probe,
}
"""The steps that share passes."""


def imported(file: str, run: StoredRun, position: str) -> KeyNeurons:
    """The neurons of a file, ranked as there, with the run's own scores at one position.

    Labels that the file does not have get none.
    Raises GrammarLensError for labels that the run does not study, and as `read_neurons`.
    """
    scores = run.scores_at(position)
    listing = read_neurons(file, scores)
    unknown = [label for label in listing if label not in scores.labels]
    if unknown:
        raise GrammarLensError(
            f"{file} has neurons of {unknown[0]!r}, which {run.path} does not study: its labels are "
            f"{', '.join(scores.labels)}"
        )
    none = next(iter(listing.values())).top(0)
    sets = {}
    for label in scores.labels:
        neurons = listing[label] if label in listing else replace(none, name=label)
        values = scores[label][neurons.layer, neurons.index]
        sets[label] = replace(neurons, score=values, q=None)
    return replace(listing, sets=sets, method=scores.method, rule=f"from {Path(file).name}")


def controls_of_imported(keys: KeyNeurons, scores: Scores, evidence: Evidence) -> SelectionControls:
    """Effects within word forms; null and halves judge a choice, and none was made here."""
    present = keys.only([label for label in keys if len(keys[label])])
    return selection_controls(
        present, replace(scores, null=None), replace(evidence, halves=None), keys.k
    )
