"""The pipeline: all steps in order, or one at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from grammar_lens.errors import GrammarLensError
from grammar_lens.passes import distributed
from grammar_lens.passes.distributed import Shard, agreed
from grammar_lens.passes.memory import peak_memory
from grammar_lens.passes.shared import read_together
from grammar_lens.runs.forecast import of_session
from grammar_lens.runs.session import READING, Say, Session
from grammar_lens.runs.settings import Config, check_settings, check_top_k
from grammar_lens.runs.steps import READINGS, WORK, Save, imported
from grammar_lens.runs.store.directory import (
    open_run,
    refuse_directory,
    require_unchanged,
    update_record,
    writing,
)
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.runs.store.storing import begin, drop_damaged, is_of, store, take
from grammar_lens.runs.store.studies import STEPS
from grammar_lens.selectivity.registry import SCORES

_TO_DO = {
    "examples": "--example-neurons 10",
    "layers": "--layer-words 20000",
    "lesion": "--values mean",
    "phenomena": "--pairs embedded, or another source of minimal pairs",
}
"""Options that bring in the steps that settings can leave out."""


def run_all(config: Config, *, resume: bool, say: Say, config_file: str | None = None) -> StoredRun:
    """Run every step; steps whose results are there already are skipped.

    Everything that can be checked without a forward pass is checked before the directory is made.
    In a process group all processes compute and the main one stores. Raises GrammarLensError while
    another process writes to the directory. `config_file`, which settings were read from, is noted.
    """
    with distributed.started() as process, ExitStack() as held:
        config, say = _of_process(config, say, process)
        if process.is_main:
            refuse_directory(config.out, resume=resume)
            held.enter_context(writing(config.out))
        session = Session(config, say)
        session.check()
        run = _opened(session, resume, process)
        session.record_sources(run)
        _note(run, config_file, process)
        if process.is_main:
            for line in of_session(session).short():
                say(line)
            begin(run)
        for steps in _stages(session, run):
            do(steps, session, run)
    return run


def _stages(session: Session, run: StoredRun) -> Iterator[list[str]]:
    """The steps that are still to do, in order; those that share passes stand together."""
    together: list[str] = []
    for step in STEPS:
        if step != "report" and _is_done(step, session, run):
            _kept(step, session)
        elif step not in session.config.left_out:
            if step in READINGS:
                together.append(step)
                continue
            if together:
                yield together
                together = []
            yield [step]


def _is_done(step: str, session: Session, run: StoredRun, *, name: str | None = None) -> bool:
    """Whether there are whole results of a step with these settings; if so they are made current.

    Decided by one process: a fast one may have stored the next step while a slow one still looks.
    """
    config, done = session.config, False
    if distributed.world().is_main:
        done = (is_of(run, step, config) and name is None) or take(run, step, config, name=name)
    done = bool(agreed([done])[0])
    run.reload(step)
    return done


def run_step(
    step: str,
    config: Config,
    run: StoredRun | None,
    say: Say,
    *,
    resume: bool = False,
    config_file: str | None = None,
    name: str | None = None,
) -> StoredRun:
    """One step, in a new directory when `run` is None; its results stand beside earlier ones.

    Results with these settings that are stored already are made current again. Results of later
    steps that were made from others are shown no more; they stay in `studies/`. `name` is that of
    the new results, by default a digest. With `resume` a directory whose step was stopped is
    resumed. Raises as `run_all` does.
    """
    with distributed.started() as process, ExitStack() as held:
        config, say = _of_process(config, say, process)
        session = Session(config, say)
        if step in config.left_out:
            raise GrammarLensError(
                f"these settings leave out the step {step!r}: give {_TO_DO[step]}"
            )
        if run is not None and process.is_main:
            held.enter_context(writing(run.path))
            require_unchanged(run)
        if run is None:
            if process.is_main:
                refuse_directory(config.out, resume=resume)
                held.enter_context(writing(config.out))
            session.check()
            run = _opened(session, resume, process)
            session.record_sources(run)
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
        if process.is_main:
            begin(run)
        if step != "report" and _is_done(step, session, run, name=name):
            _kept(step, session)
        else:
            do([step], session, run, name=name)
        _note(run, config_file, process)
    return run


def _note(run: StoredRun, config_file: str | None, process: Shard) -> None:
    """Notes in run.json the file that settings were read from."""
    if config_file is not None and process.is_main:
        update_record(run, config_file=config_file)


def _of_process(config: Config, say: Say, process: Shard) -> tuple[Config, Say]:
    """Settings and voice of a process: one of several speaks."""
    if process.is_main:
        return config, say
    return replace(config, show_progress=False), lambda _text: None


def _opened(session: Session, resume: bool, process: Shard) -> StoredRun:
    """The run directory, made by the main process and found by the others."""
    config, usual = session.config, Config().stored()
    if process.is_main:
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


def do(steps: Sequence[str], session: Session, run: StoredRun, *, name: str | None = None) -> None:
    """Does one step, or several that share passes, in all processes and stores them in one."""
    for step in steps:
        if distributed.world().is_main:
            drop_damaged(run, step)
        distributed.barrier()
        run.reload(step)
    for step, compute in _computed(steps, session, run):
        with timed(run, step):
            save = compute()
            distributed.barrier()
            if distributed.world().is_main:
                store(run, step, session.config, save, name=name)
                session.clear(step)
        distributed.barrier()
        run.reload(step)
        session.say(f"{step}: {run.record['timings'][step]:,.1f} s")
    if steps[0] in READINGS and distributed.world().is_main:
        session.clear(READING)


def _computed(
    steps: Sequence[str], session: Session, run: StoredRun
) -> Iterator[tuple[str, Callable[[], Save]]]:
    """Each step with its computation, once the passes that the steps share are done."""
    if steps[0] not in READINGS:
        (step,) = steps
        yield step, lambda: WORK[step](session, run)
        return
    with timed(run, READING):
        readings = {step: READINGS[step](session, run) for step in steps}
        c = session.config
        read_together(
            session.model,
            list(readings.values()),
            f"reading for {', '.join(steps)}",
            token_budget=c.token_budget,
            show_progress=c.show_progress,
            keepers=session.keepers_of_reading(run, steps),
        )
    distributed.barrier()
    run.reload(READING)  # the main process has noted the time
    session.say(f"{READING}: {run.record['timings'][READING]:,.1f} s")
    for step in steps:
        yield step, readings.pop(step).finish


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
    started = time.perf_counter()
    yield
    if distributed.world().is_main:
        seconds = round(time.perf_counter() - started, 3)
        update_record(run, timings={step: seconds}, peak_memory_mib={step: peak_memory()})
