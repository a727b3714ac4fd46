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
from grammar_lens.runs.store.stored import STEPS, StoredRun
from grammar_lens.selectivity.registry import SCORES

_TO_DO = {
    "examples": "--example-neurons 10",
    "layers": "--layer-words 20000",
    "lesion": "--values mean",
}
"""Options that bring in the steps that settings can leave out."""


def run_all(config: Config, *, resume: bool, say: Say, config_file: str | None = None) -> StoredRun:
    """The whole road; steps whose results are there already are passed over.

    Everything that can be checked without a forward pass is checked before the directory is made.
    In a process group all processes compute and the main one stores. Raises GrammarLensError while
    another process writes to the directory. `config_file`, which settings were read from, is noted.
    """
    with distributed.started() as here, ExitStack() as held:
        config, say = _of_process(config, say, here)
        if here.is_main:
            refuse_directory(config.out, resume=resume)
            held.enter_context(writing(config.out))
        session = Session(config, say)
        session.check()
        run = _opened(session, resume, here)
        session.record_sources(run)
        _note(run, config_file, here)
        if here.is_main:
            for line in of_session(session).short():
                say(line)
        # decided by one process: a fast one may have stored the next step while a slow one looks
        done = agreed([run.has(step) for step in STEPS])
        for steps in _stages(dict(zip(STEPS, map(bool, done), strict=True)), session):
            do(steps, session, run)
    return run


def _stages(done: dict[str, bool], session: Session) -> Iterator[list[str]]:
    """The steps that are still to do, in order; those that share passes stand together."""
    together: list[str] = []
    for step in STEPS:
        if done[step] and step != "report":
            _kept(step, session)
        elif step not in session.config.left_out:
            if step in READINGS:
                together.append(step)
                continue
            if together:
                yield together
                together = []
            yield [step]


def run_step(
    step: str,
    config: Config,
    run: StoredRun | None,
    say: Say,
    *,
    resume: bool = False,
    config_file: str | None = None,
) -> StoredRun:
    """One step, in a new directory when `run` is None; later steps' results are removed.

    They would no longer be of the results that the directory then has. With `resume` a directory
    whose step was stopped is gone on with. Raises as `run_all` does.
    """
    with distributed.started() as here, ExitStack() as held:
        config, say = _of_process(config, say, here)
        session = Session(config, say)
        if step in config.left_out:
            raise GrammarLensError(
                f"these settings leave out the step {step!r}: give {_TO_DO[step]}"
            )
        if run is not None and here.is_main:
            held.enter_context(writing(run.path))
            require_unchanged(run)
        if run is None:
            if here.is_main:
                refuse_directory(config.out, resume=resume)
                held.enter_context(writing(config.out))
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
        do([step], session, run, anew=True)
        _note(run, config_file, here)
    return run


def _note(run: StoredRun, config_file: str | None, here: Shard) -> None:
    """Notes in run.json the file that settings were read from."""
    if config_file is not None and here.is_main:
        update_record(run, config_file=config_file)


def outdate(run: StoredRun, step: str) -> None:
    """Removes the results that are no longer those of the directory when a step is done anew."""
    names = list(STEPS)
    # these read the key neurons and not each other
    alone = ("examples", "course", "layers", "probe", "lesion")
    for later in [step, "report"] if step in alone else names[names.index(step) :]:
        # probes of whole layers are of the words alone, whichever neurons are chosen
        if not (later == "layers" and step in ("score", "select")):
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


def do(steps: Sequence[str], session: Session, run: StoredRun, *, anew: bool = False) -> None:
    """Does one step, or several that share passes, in all processes and stores them in one.

    A step done `anew` replaces settings and results of the directory, once it has results of its own.
    """
    for step, compute in _computed(steps, session, run):
        with timed(run, step):
            save = compute()
            distributed.barrier()
            if distributed.world().is_main:
                if anew:
                    outdate(run, step)
                    update_record(run, config=session.config.stored())
                save()
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
    begin = time.perf_counter()
    yield
    if distributed.world().is_main:
        seconds = round(time.perf_counter() - begin, 3)
        update_record(run, timings={step: seconds}, peak_memory_mib={step: peak_memory()})
