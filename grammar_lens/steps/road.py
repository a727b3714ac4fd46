"""The steps one after the other, or one by one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from grammar_lens.run import (
    STEPS,
    Run,
    RunError,
    open_run,
    refuse_directory,
    update_record,
)
from grammar_lens.selectivity import SCORES
from grammar_lens.steps.bench import Say, Workbench
from grammar_lens.steps.settings import Config, check_settings, check_top_k
from grammar_lens.steps.work import WORK


def run_all(config: Config, *, resume: bool, say: Say) -> Run:
    """The whole road; steps whose results are there already are passed over.

    Everything that can be checked without a forward pass is checked before the directory is made.
    """
    refuse_directory(config.out, resume=resume)
    bench = Workbench(config, say)
    bench.check()
    run = open_run(config.out, config.stored(), resume=resume)
    bench.record_sources(run)
    for step, work in WORK.items():
        if run.has(step) and step != "report":
            say(f"{step}: done before, kept")
        elif step != "lesion" or config.lesion != "none":
            with _timed(run, step):
                work(bench, run)
    return run


def run_step(step: str, config: Config, run: Run | None, say: Say) -> Run:
    """One step, in a new directory when `run` is None; later steps' results are removed.

    They would no longer be of the results that the directory then has.
    """
    bench = Workbench(config, say)
    if run is None:
        refuse_directory(config.out, resume=False)
        bench.check()
        run = open_run(config.out, config.stored(), resume=False)
        bench.record_sources(run)
    elif step == "select":
        # it needs neither model nor words, but bad settings must not cost later steps' results
        check_settings(config)
        check_top_k(config, run.record["model"])
    elif step != "report":
        bench.check()
        bench.record_sources(run)
        if step == "score":
            _check_sample(config, run)
    names = list(STEPS)
    # these read the key neurons and not each other
    alone = ("course", "probe", "lesion")
    outdated = [step, "report"] if step in alone else names[names.index(step) :]
    for later in outdated:
        (run.path / STEPS[later]).unlink(missing_ok=True)
    update_record(run, config=config.stored())
    with _timed(run, step):
        WORK[step](bench, run)
    return run


def _check_sample(config: Config, run: Run) -> None:
    """Raises RunError for a score that needs activations which the run has not kept."""
    for position in run.positions:
        method = config.score_at(position)
        if SCORES[method].needs == "sample" and run.evidence(position).sample is None:
            raise RunError(
                f"score {method!r} needs the activations of some words of each label, and {run.path} "
                f"kept none: collect again with --score {method} or --sample 100"
            )


@contextmanager
def _timed(run: Run, step: str) -> Iterator[None]:
    """Notes in run.json how long a step took."""
    begin = time.perf_counter()
    yield
    update_record(run, timings={step: round(time.perf_counter() - begin, 3)})
