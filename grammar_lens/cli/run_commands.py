"""Commands that make a run: the whole study, or one step at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from grammar_lens.cli.app import STEPS, STUDY, command
from grammar_lens.cli.console import Console
from grammar_lens.cli.options import (
    NameOption,
    NewRunArgument,
    OutArgument,
    ResumeOption,
    RunArgument,
    config_fields,
    config_of,
    in_panels,
    with_out,
)
from grammar_lens.runs.settings import EXAMPLES, LESIONS, OPTIONS, PHENOMENA, WORDS, Config

WHOLE = tuple(name for name in OPTIONS if name != "neurons_from")
PASS = ("device", "dtype", "token_budget", "device_map", "checkpoint_every")
SELECTION = ("rule", "alpha", "sign", "top_k", "massive")
DEVICE = ("device", "device_map")


@command(
    panel=STUDY,
    settings=WHOLE,
    kept="what was finished is kept: run again with --resume",
    examples=(
        "grammar-lens run runs/demo",
        "grammar-lens run --model meta-llama/Meta-Llama-3-8B --train UD_English-EWT:train "
        "--fresh UD_English-EWT:test --out runs/ewt",
        "grammar-lens run --train my.conllu --fresh other.conllu --score welch_t --top-k 50 --out "
        "runs/mine",
        "grammar-lens run --config study.toml --shams 100",
    ),
)
def run(
    console: Console,
    folder: OutArgument = None,
    resume: ResumeOption = False,
    **settings: Any,
) -> None:
    """The whole study: collect, score, select, examples, course, layers, probe, lesion, phenomena, report."""
    from grammar_lens.runs.pipeline import run_all

    config = config_of(with_out(settings, folder), show_progress=console.shows_progress)
    _begin(console, config)
    done = run_all(config, resume=resume, say=console.note, config_file=_file(console))
    _end(console, done)
    _show_summary(console, done)


@command(
    panel=STUDY,
    settings=WHOLE,
    examples=(
        "grammar-lens plan --train UD_English-EWT:train --fresh UD_English-EWT:test",
        "grammar-lens plan --model meta-llama/Meta-Llama-3-8B --meta --memory-gib 24",
    ),
)
def plan(
    console: Console,
    folder: OutArgument = None,
    meta: Annotated[
        bool,
        typer.Option(
            "--meta", help="Read config.json alone, no weights: nothing is timed.", metavar=""
        ),
    ] = False,
    memory_gib: Annotated[
        float, typer.Option(help="Compare with a device of so many GiB; 0: with the one there is.")
    ] = 0.0,
    **settings: Any,
) -> None:
    """Says how much memory and time `run` with the same options will need, before it starts."""
    from grammar_lens.runs.forecast import forecast

    config = config_of(with_out(settings, folder), show_progress=False)
    expected = forecast(config, console.note, meta=meta, memory_gib=memory_gib)
    console.result(*expected.lines(), data=lambda: expected)


@command(
    panel=STEPS,
    settings=(*in_panels(WORDS), "score", "replicates", "sample", "seed", *PASS),
    kept="what was finished is kept: run again with --resume, or with the same --shard",
    examples=(
        "grammar-lens collect runs/ewt --train UD_English-EWT:train --fresh UD_English-EWT:test",
        "grammar-lens collect runs/ewt --shard 2/8",
    ),
)
def collect(
    console: Console,
    run: NewRunArgument,
    shard: Annotated[
        str, typer.Option(help="I/N: only the I-th of N shares, for a job array; then `merge`.")
    ] = "",
    resume: ResumeOption = False,
    **settings: Any,
) -> None:
    """Makes a run directory and collects moments of all units in one pass over --train."""
    from grammar_lens.runs.pipeline import run_step
    from grammar_lens.runs.shards import collect_shard

    config = config_of(settings, out=run, show_progress=console.shows_progress)
    _begin(console, config)
    if shard:
        from grammar_lens.passes.distributed import Shard

        path = collect_shard(config, Shard.parse(shard), console.note)
        message = f"{path}: done; when all shards are, `grammar-lens merge {run}`"
        console.result(message, data=lambda: {"shard": path})
        return
    read_from = _file(console)
    made = run_step("collect", config, None, console.note, resume=resume, config_file=read_from)
    _end(console, made, "collect")
    _tell_parts(console, made, repr(made.moments), COLLECTED)


@command(panel=STEPS, examples=("grammar-lens merge runs/ewt",))
def merge(console: Console, run: NewRunArgument) -> None:
    """Puts together what the jobs of a job array have collected (`collect --shard`)."""
    from grammar_lens.runs.shards import merge_shards

    made = merge_shards(run, console.note)
    _tell_parts(console, made, repr(made.moments), COLLECTED)


@command(
    panel=STEPS,
    settings=("score", "attribution", "attribution_words", *DEVICE),
    of_a_run=True,
    kept="what was finished is kept: run the same command to resume",
    examples=(
        "grammar-lens score runs/demo",
        "grammar-lens score runs/demo --score welch_t",
    ),
)
def score(console: Console, run: RunArgument, name: NameOption = None, **settings: Any) -> None:
    """Scores every neuron for every label, from attributions too where the score needs them."""
    done = _step("score", run, console, {**settings, "name": name})
    by_position = {position: done.scores_at(position) for position in done.positions}
    console.result(
        *map(repr, by_position.values()),
        data=lambda: {
            position: {
                "score": scores.method,
                "words": dict(zip(scores.labels, scores.count, strict=True)),
                "strongest": scores.to_frame(top=10).to_dict("records"),
            }
            for position, scores in by_position.items()
        },
    )


@command(
    panel=STEPS,
    settings=(*SELECTION, "neurons_from"),
    of_a_run=True,
    examples=(
        "grammar-lens select runs/demo --top-k 50",
        "grammar-lens select runs/demo --rule fdr --alpha 0.01",
        "grammar-lens select runs/demo --from neurons.csv",
    ),
)
def select(console: Console, run: RunArgument, name: NameOption = None, **settings: Any) -> None:
    """Chooses the key neurons of every label, and measures how far the choice can be trusted."""
    if any(settings[name] is not None for name in SELECTION):
        # a rule is asked for, so neurons that were taken from a file before no longer stand
        settings["neurons_from"] = settings["neurons_from"] or ""
    done = _step("select", run, console, {**settings, "name": name})
    shown = "\n".join(repr(done.keys_at(position)) for position in done.positions)
    _tell_parts(console, done, shown, ("selection",))


@command(
    panel=STEPS,
    settings=(*in_panels(EXAMPLES), *DEVICE),
    of_a_run=True,
    examples=(
        "grammar-lens examples runs/demo",
        "grammar-lens examples runs/demo --example-neurons 20 --examples-each 10",
    ),
)
def examples(console: Console, run: RunArgument, name: NameOption = None, **settings: Any) -> None:
    """Collects the words at which the first key neurons are most and least active."""
    done = _step("examples", run, console, {**settings, "name": name})
    console.result(
        *map(repr, done.examples.values()),
        data=lambda: {p: table.to_frame().to_dict("records") for p, table in done.examples.items()},
    )


@command(
    panel=STEPS,
    settings=DEVICE,
    examples=("grammar-lens course runs/demo",),
)
def course(console: Console, run: RunArgument, name: NameOption = None, **settings: Any) -> None:
    """Measures selectivity at tokens around the word, on held-out words: its time course."""
    table = _step("course", run, console, {**settings, "name": name}).course.to_frame()
    console.result(table.to_string(), data=lambda: table.to_dict("records"))


@command(
    panel=STEPS,
    settings=("layer_words", "untrained", "seed", *DEVICE),
    of_a_run=True,
    examples=("grammar-lens layers runs/demo --no-untrained",),
)
def layers(console: Console, run: RunArgument, name: NameOption = None, **settings: Any) -> None:
    """Probes the residual stream of every layer, and that of an untrained twin."""
    done = _step("layers", run, console, {**settings, "name": name})
    _tell_parts(console, done, repr(done.layers), ("layers",))


@command(
    panel=STEPS,
    settings=("probe_k", "max_train_words", "seed", *DEVICE),
    of_a_run=True,
    examples=("grammar-lens probe runs/demo --probe-k 20",),
)
def probe(console: Console, run: RunArgument, name: NameOption = None, **settings: Any) -> None:
    """Fits a probe on the key neurons and tests it, with its baselines, on the held-out words."""
    done = _step("probe", run, console, {**settings, "name": name})
    shown = "\n".join(repr(done.probe_at(position)) for position in done.positions)
    _tell_parts(console, done, shown, ("probe", "probe_next"))


@command(
    panel=STEPS,
    settings=(*in_panels(LESIONS), "seed", *DEVICE),
    of_a_run=True,
    kept="what was finished is kept: run the same command to resume",
    examples=(
        "grammar-lens lesion runs/demo --shams 100",
        "grammar-lens lesion runs/demo --values zero --doses 0.5 --lesion-labels NOUN,VERB",
    ),
)
def lesion(console: Console, run: RunArgument, name: NameOption = None, **settings: Any) -> None:
    """Cuts each label's key neurons and measures every label's loss, against sham lesions."""
    done = _step("lesion", run, console, {**settings, "name": name})
    _tell_parts(console, done, repr(done.study), ("lesion",))


@command(
    panel=STEPS,
    settings=(*(x for x in in_panels(PHENOMENA) if x != "pair_shams"), "seed", *DEVICE),
    of_a_run=True,
    examples=(
        "grammar-lens phenomena runs/demo --pairs embedded",
        "grammar-lens phenomena runs/demo --pairs blimp:npi_present_1 --pairs mine.csv --max-pairs 150 "
        "--shams 20",
    ),
)
def phenomena(
    console: Console,
    run: RunArgument,
    shams: Annotated[
        int,
        typer.Option(
            help="Sham replicates; p cannot go below 1/(1+shams); -1: as the run has it.", min=-1
        ),
    ] = -1,
    name: NameOption = None,
    **settings: Any,
) -> None:
    """Finds and cuts the neurons of grammatical phenomena, and the tags', at minimal pairs."""
    settings |= {"pair_shams": None if shams < 0 else shams, "name": name}
    done = _step("phenomena", run, console, settings)
    study = done.phenomena
    tables = [x.matrix().round(2).to_string() for x in (study.own, study.tags) if x is not None]
    _tell_parts(console, done, "\n\n".join([*tables, study.verdict()]), ("phenomena",))


@command(panel=STEPS, examples=("grammar-lens report runs/demo",))
def report(console: Console, run: RunArgument) -> None:
    """Writes summary.json, figures/ and report.html from the stored results."""
    _show_summary(console, _step("report", run, console, {}))


COLLECTED = ("model", "treebank", "alignment", "collect")
"""The parts of summary.json that collecting makes."""


def _step(step: str, path: Path, console: Console, settings: dict[str, Any]) -> Any:
    """One step on a stored run with some settings changed."""
    from grammar_lens.runs.pipeline import run_step
    from grammar_lens.runs.run import load_run

    stored = load_run(path)
    name = settings.pop("name", None)
    changes = config_fields(settings)
    config = Config.of(stored, step, show_progress=console.shows_progress, **changes)
    _begin(console, config)
    done = run_step(step, config, stored, console.note, config_file=_file(console), name=name)
    _end(console, done, step)
    return done


def _begin(console: Console, config: Any) -> None:
    """With --verbose: what the numbers come from."""
    if console.verbose:
        from grammar_lens.cli.system_commands import versions_and_devices

        console.detail(
            ", ".join(f"{name} {version}" for name, version in versions_and_devices().items())
        )
        console.detail(", ".join(f"{name}={value!r}" for name, value in config.stored().items()))


def _file(console: Console) -> str | None:
    """The file that settings were read from."""
    return None if console.config_file is None else str(console.config_file)


def _end(console: Console, done: Any, step: str | None = None) -> None:
    """With --verbose: what a step, or all, took."""
    for name, seconds in done.record["timings"].items():
        if step in (None, name):
            # runs of earlier versions have no peaks
            peak = done.record.get("peak_memory_mib", {}).get(name, {})
            peaks = [f", at most {mib:,} MiB ({where}) until then" for where, mib in peak.items()]
            console.detail(f"{name}: {seconds:,.1f} s{''.join(peaks)}")


def _tell_parts(console: Console, done: Any, shown: str, parts: Sequence[str]) -> None:
    """Prints a step's result; as JSON its parts of summary.json."""
    from grammar_lens.runs.summary import summarise

    def data() -> dict[str, Any]:
        summary = summarise(done)
        return {part: summary[part] for part in parts if part in summary}

    console.result(shown, data=data)


def _show_summary(console: Console, done: Any) -> None:
    from grammar_lens.runs.summary import summary_table

    where = f"report: {done.path / 'report.html'}"
    console.result(summary_table(done.summary), where, data=lambda: done.summary)
