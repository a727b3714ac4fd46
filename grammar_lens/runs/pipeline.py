"""The pipeline: all steps in order, or one at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from grammar_lens.errors import GrammarLensError
from grammar_lens.passes import distributed
from grammar_lens.passes.distributed import Shard, agreed
from grammar_lens.passes.memory import peak_memory
from grammar_lens.runs.forecast import of_session
from grammar_lens.runs.session import Say, Session
from grammar_lens.runs.settings import Config, check_settings, check_top_k
from grammar_lens.runs.steps import WORK, imported
from grammar_lens.runs.store.directory import open_run, refuse_directory, update_record
from grammar_lens.runs.store.stored import STEPS, StoredRun
from grammar_lens.selectivity.registry import SCORES


def run_all(config: Config, *, resume: bool, say: Say) -> StoredRun:
    """The whole road; steps whose results are there already are passed over.

    Everything that can be checked without a forward pass is checked before the directory is made.
    In a process group all processes compute and the main one stores.
    """
    with distributed.started() as here:
        config, say = _of_process(config, say, here)
        if here.is_main:
            refuse_directory(config.out, resume=resume)
        session = Session(config, say)
        session.check()
        run = _opened(session, resume, here)
        session.record_sources(run)
        if here.is_main:
            for line in of_session(session).short():
                say(line)
        # told by one process: a fast one may have stored the next step while a slow one still looks
        there = agreed([run.has(step) for step in WORK])
        for step, done in zip(WORK, there, strict=True):
            if done and step != "report":
                _kept(step, session)
            elif step not in config.left_out:
                _do(step, session, run)
    return run


def run_step(
    step: str, config: Config, run: StoredRun | None, say: Say, *, resume: bool = False
) -> StoredRun:
    """One step, in a new directory when `run` is None; later steps' results are removed.

    They would no longer be of the results that the directory then has. With `resume` a directory
    whose step was stopped is gone on with.
    """
    with distributed.started() as here:
        config, say = _of_process(config, say, here)
        session = Session(config, say)
        if step in config.left_out:
            option = "--values mean" if step == "lesion" else "--example-neurons 10"
            raise GrammarLensError(f"these settings leave out the step {step!r}: give {option}")
        if run is None:
            if here.is_main:
                refuse_directory(config.out, resume=resume)
            session.check()
            run = _opened(session, resume, here)
            session.record_sources(run)
            if agreed([run.has(step)])[0]:
                _kept(step, session)
                return run
        elif step == "select":
            # it needs neither model nor words, but bad settings must not cost later steps' results
            check_settings(config)
            check_top_k(config, run.record["model"])
            if config.neurons_from is not None:
                _ = [imported(config.neurons_from, run, position) for position in run.positions]
        elif step != "report":
            session.check()
            session.record_sources(run)
            if step == "score":
                _check_sample(config, run)
        _do(step, session, run, anew=True)
    return run


def outdate(run: StoredRun, step: str) -> None:
    """Removes the results that are no longer those of the directory when a step is done anew."""
    names = list(STEPS)
    # these read the key neurons and not each other
    alone = ("examples", "course", "probe", "lesion")
    for later in [step, "report"] if step in alone else names[names.index(step) :]:
        (run.path / STEPS[later]).unlink(missing_ok=True)


def _of_process(config: Config, say: Say, here: Shard) -> tuple[Config, Say]:
    """Settings and voice of a process: one of several speaks."""
    if here.is_main:
        return config, say
    return replace(config, show_progress=False), lambda _text: None


def _opened(session: Session, resume: bool, here: Shard) -> StoredRun:
    """The run directory, made by the main process and found by the others."""
    config, usual = session.config, Config().stored()
    if here.is_main:
        run = open_run(config.out, config.stored(), resume=resume, usual=usual)
        distributed.barrier()
        return run
    distributed.barrier()
    return open_run(config.out, config.stored(), resume=True, usual=usual)


def _kept(step: str, session: Session) -> None:
    """Passes over a step that was done; a kill may have left what it needs no more."""
    session.say(f"{step}: done before, kept")
    if distributed.world().is_main:
        session.clear(step)


def _do(step: str, session: Session, run: StoredRun, *, anew: bool = False) -> None:
    """Does a step in all processes and stores it in one.

    A step done `anew` replaces settings and results of the directory, once it has results of its own.
    """
    with timed(run, step):
        save = WORK[step](session, run)
        distributed.barrier()
        if distributed.world().is_main:
            if anew:
                outdate(run, step)
                update_record(run, config=session.config.stored())
            save()
    distributed.barrier()
    run.reload(step)
    session.say(f"{step}: {run.record['timings'][step]:,.1f} s")


def _check_sample(config: Config, run: StoredRun) -> None:
    """Raises GrammarLensError for a score that needs activations which the run has not kept."""
    for position in run.positions:
        method = config.score_at(position)
        if SCORES[method].needs == "sample" and run.evidence(position).sample is None:
            raise GrammarLensError(
                f"score {method!r} needs the activations of some words of each label, and {run.path} "
                f"kept none: collect again with --score {method} or --sample 100"
            )


@contextmanager
def timed(run: StoredRun, step: str) -> Iterator[None]:
    """Notes in run.json how long a step took and how much memory the process needed at most so far."""
    begin = time.perf_counter()
    yield
    if distributed.world().is_main:
        seconds = round(time.perf_counter() - begin, 3)
        update_record(run, timings={step: seconds}, peak_memory_mib={step: peak_memory()})
