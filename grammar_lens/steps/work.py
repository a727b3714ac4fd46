"""What each step does: it reads what earlier steps stored and returns what stores its own result.

Computing and storing are apart because in a process group all processes compute and one stores.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from grammar_lens.controls import (
    selection_controls,
    sham_keys,
    with_effects,
)
from grammar_lens.evidence import Attribution
from grammar_lens.model import (
    output_contrast,
)
from grammar_lens.probing import ProbeCurve
from grammar_lens.report import write_figures, write_report
from grammar_lens.run import (
    ATTRIBUTIONS,
    CONTROLS,
    CURVES,
    FITTED,
    STEPS,
    Run,
    outcome_table,
    save_attributions,
    save_collected,
    save_controls,
    save_course,
    save_curves,
    save_examples,
    save_fitted,
    save_keys,
    save_probes,
    save_scores,
    save_study,
    update_record,
    write_file,
    write_json,
)
from grammar_lens.selection import KeyNeurons, select
from grammar_lens.selectivity import SCORES, score
from grammar_lens.steps.bench import KEPT, Workbench
from grammar_lens.steps.importing import controls_of_imported, imported
from grammar_lens.steps.settings import Config
from grammar_lens.steps.summing import summarise
from grammar_lens.study import (
    Collection,
    Corpus,
    Wanted,
    attribute,
    examples_at,
    lesion_study,
    probe,
    probe_curve,
    time_course,
)

CURVE_KS = (1, 2, 5, 10, 20)
"""Key neurons per label at which the probe is fitted for the curve of accuracy."""
CURVE_WORDS = 20_000
Save = Callable[[], None]
"""Stores what a step has found."""


def collection(bench: Workbench) -> Collection:
    """The pass over the training words at every position and site, not yet read."""
    c = bench.config
    return Collection(bench.model, [bench.train], wanted_of(c), c.token_budget)


def wanted_of(c: Config) -> Wanted:
    """What the settings ask the collecting pass for."""
    needs = {SCORES[c.score_at(p)].needs for p in c.positions}
    return Wanted(
        sites=c.sites if "neuron" in c.sites else ("neuron", *c.sites),
        positions=c.positions,
        replicates=c.replicates,
        sample=c.sample if c.sample is not None else 100 * ("sample" in needs),
        controls=True,
        seed=c.seed,
        nulls=("correlation", *(c.score_at(p) for p in c.positions)),
    )


def run_collect(bench: Workbench, run: Run) -> Save:
    """Moments of all units at every position and site from one pass over the training words."""
    begin = time.perf_counter()
    job = collection(bench)
    job.read(bench.config.show_progress, bench.keeper("collect"))
    return save_collection(bench, run, job, time.perf_counter() - begin)


def save_collection(bench: Workbench, run: Run, job: Collection, seconds: float) -> Save:
    """Makes of a pass what its step stores."""
    c, corpus, (collected,) = bench.config, bench.train, job.found()

    def save() -> None:
        (run.path / ATTRIBUTIONS).unlink(missing_ok=True)
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
        save_collected(
            run.path / STEPS["collect"], collected
        )  # last: it says that the step is done
        bench.clear("collect")

    return save


def run_score(bench: Workbench, run: Run) -> Save:
    """Scores of every neuron for every label, at each position; attributions where they need them."""
    c = bench.config
    methods = {p: c.score_at(p) for p in run.positions}
    attributions, made = dict(run.attributions), {}
    for needs in dict.fromkeys(SCORES[method].needs for method in methods.values()):
        new = _attribute(bench, run, needs)
        if new is not None:
            made[needs], attributions[needs] = new
    evidence = {p: run.evidence(p, attributions) for p in methods}
    if any(SCORES[m].needs == "output_contrast" for m in methods.values()):
        contrast = output_contrast(bench.model, bench.lexicon.count)
        evidence = {p: replace(e, output_contrast=contrast) for p, e in evidence.items()}
    scores = {p: score(evidence[p], method) for p, method in methods.items()}

    def save() -> None:
        if made:
            save_attributions(run.path / ATTRIBUTIONS, attributions)
            update_record(run, attributions=made)
        save_scores(run.path / STEPS["score"], scores)
        bench.clear("score")

    return save


def _attribute(
    bench: Workbench, run: Run, needs: str
) -> tuple[dict[str, object], Attribution] | None:
    """The attributions that a score needs, and of what they are made; None if the run has them."""
    c = bench.config
    if needs not in ("attribution", "integrated_gradients"):
        return None
    kind = c.attribution if needs == "attribution" else needs
    made = {"kind": kind, "seed": c.seed}
    made |= (
        {"replicates": c.replicates} if needs == "attribution" else {"words": c.attribution_words}
    )
    if needs in run.attributions and run.record.get("attributions", {}).get(needs) == made:
        return None
    settings = {"seed": c.seed, "token_budget": c.token_budget, "show_progress": c.show_progress}
    if needs == "attribution":
        found = attribute(
            bench.model,
            bench.train,
            kind=kind,
            moments=run.moments.at("next")["neuron"],
            lexicon=bench.lexicon,
            replicates=c.replicates if kind == "own" else 0,
            keeper=bench.keeper("score"),
            **settings,
        )
    else:
        found = attribute(
            bench.model, bench.train, kind=kind, max_words=c.attribution_words, **settings
        )
    return made, found


def run_select(bench: Workbench, run: Run) -> Save:
    """The key neurons of every label at each position, and how far the choice can be trusted."""
    c = bench.config
    tables, controls = {}, {}
    for position in run.positions:
        scores, evidence = run.scores_at(position), run.evidence(position)
        if c.neurons_from is None:
            most = c.top_k if c.rule in ("top_k", "frequency") else None
            keys = select(scores, most, rule=c.rule, sign=c.sign, alpha=c.alpha)
            controls[position] = selection_controls(keys, scores, evidence, c.top_k, c.sign)
        else:
            keys = imported(c.neurons_from, run, position)
            controls[position] = controls_of_imported(keys, scores, evidence)
        empty = [label for label in keys if not len(keys[label])]
        if empty:
            bench.say(f"select: at {position!r} {keys.rule} chooses nothing for {', '.join(empty)}")
        tables[position] = with_effects(keys, scores, evidence.adjusted)

    def save() -> None:
        save_controls(run.path / CONTROLS, controls)
        save_keys(run.path / STEPS["select"], tables)

    return save


def run_examples(bench: Workbench, run: Run) -> Save:
    """Words at which the first key neurons of every label are most and least active."""
    c = bench.config
    found = examples_at(
        bench.model,
        bench.train,
        {p: run.keys_at(p).top(c.example_neurons) for p in run.positions},
        lexicon=bench.lexicon,
        **c.for_examples(),
    )
    return lambda: save_examples(run.path / STEPS["examples"], found)


def run_course(bench: Workbench, run: Run) -> Save:
    """Selectivity of all units and of the key neurons at tokens around fresh words."""
    position = run.positions[0]
    fresh, _ = bench.fresh
    c = bench.config
    course = time_course(
        bench.model,
        fresh,
        position=position,
        token_budget=c.token_budget,
        show_progress=c.show_progress,
    )
    summary = course.summary(run.keys_at(position))
    return lambda: save_course(run.path / STEPS["course"], summary)


def run_probe(bench: Workbench, run: Run) -> Save:
    """How well the key neurons tell the label of fresh words, with all baselines."""
    c = bench.config
    fresh, dropped = bench.fresh
    probes = {}
    for position in run.positions:
        probes[position] = probe(
            bench.model,
            bench.train,
            fresh,
            run.keys_at(position),
            position=position,
            k=min(c.probe_k, _most(c, run.keys_at(position))),
            max_train_words=c.max_train_words,
            seed=c.seed,
            token_budget=c.token_budget,
            show_progress=c.show_progress,
            dropped_duplicates=dropped,
        )
    curves = {p: _curve(bench, run, p, fresh) for p in run.positions}

    def save() -> None:
        save_curves(run.path / CURVES, curves)
        save_fitted(run.path / FITTED, {p: r.fitted for p, r in probes.items() if r.fitted})
        save_probes(run.path / STEPS["probe"], probes)

    return save


def _most(c: Config, keys: KeyNeurons) -> int:
    """As many key neurons as a label may have."""
    return c.top_k if c.neurons_from is None else keys.k


def _curve(bench: Workbench, run: Run, position: str, fresh: Corpus) -> ProbeCurve:
    """Accuracy against k of the key neurons, and of those found with exchanged labels."""
    c, scores, keys = bench.config, run.scores_at(position), run.keys_at(position)
    rankings = {scores.method if c.neurons_from is None else keys.rule: keys}
    sham = sham_keys(scores, c.top_k, sign=c.sign) if c.neurons_from is None else None
    if sham is not None:
        rankings["exchanged labels"] = sham
    return probe_curve(
        bench.model,
        bench.train,
        fresh,
        rankings,
        ks=[k for k in CURVE_KS if k <= _most(c, keys)],
        position=position,
        max_train_words=min(c.max_train_words, CURVE_WORDS),
        seed=c.seed,
        token_budget=c.token_budget,
        show_progress=False,
    )


def run_lesion(bench: Workbench, run: Run) -> Save:
    """The lesion study of the key neurons against matched shams."""
    c = bench.config
    corpus = bench.lesioned
    study = lesion_study(
        bench.model,
        corpus,
        run.keys_at(run.main_position),
        lexicon=bench.lexicon,
        value=c.lesion,
        dose=c.dose,
        where=c.lesion_at,
        shams=c.shams,
        others=c.other_manners(),
        other_shams=c.other_shams,
        damage_matched=c.damage_matched,
        sufficiency=c.sufficiency,
        labels=c.lesion_labels or None,
        seed=c.seed,
        token_budget=c.token_budget,
        folder=bench.unfinished / KEPT["lesion"],
        show_progress=c.show_progress,
    )
    outcomes = study.outcomes
    assert outcomes is not None

    def save() -> None:
        save_study(run.path, STEPS["lesion"], study, outcome_table(outcomes, corpus.forms))
        bench.clear("lesion")

    return save


def run_report(bench: Workbench, run: Run) -> Save:
    """summary.json, figures/ and report.html from what is there."""

    def save() -> None:
        write_json(run.path / "summary.json", summarise(run))
        write_figures(run, run.path / "figures")
        write_file(run.path / STEPS["report"], lambda path: write_report(run, path))

    return save


WORK: Mapping[str, Callable[[Workbench, Run], Save]] = {
    "collect": run_collect,
    "score": run_score,
    "select": run_select,
    "examples": run_examples,
    "course": run_course,
    "probe": run_probe,
    "lesion": run_lesion,
    "report": run_report,
}
