"""The command `grammar-lens`: parses, calls, prints. Heavy imports wait until a command runs."""

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

BAD_INPUT = 2
INTERRUPTED = 130
SECONDS_TO_SPEAK = 2.0


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input becomes one line on stderr and exit code 2; errors of other kinds pass through."""
    try:
        yield
    except (ValueError, OSError) as error:
        # raised on purpose: by this package, or by the system about a file
        if isinstance(error, OSError) or type(error).__module__.startswith("grammar_lens."):
            if _is_other_process():
                # if all have it, the main process says so, and this one is stopped meanwhile
                time.sleep(SECONDS_TO_SPEAK)
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(BAD_INPUT) from None
        raise


def start_page(main: Callable[[Any], object], config_class: type, text: str | None) -> None:
    """Runs a script's `main` with a config whose fields are the flags; `text`, to its first line, is the help.

    Bad input is one line and exit code 2.
    """

    def command(**flags: Any) -> None:
        with one_line_errors():
            main(config_class(**flags))

    command.__signature__ = inspect.signature(config_class)  # pyright: ignore[reportFunctionMemberAccess]
    page = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    page.command(help=(text or "").partition("\n")[0])(command)
    page()


class _Commands(typer.core.TyperGroup):
    """Turns bad input into one line and exit code 2, and Ctrl-C into a word on how to go on."""

    def invoke(self, ctx: Any) -> Any:
        if os.environ.get("GRAMMAR_LENS_DEBUG"):
            return super().invoke(ctx)
        try:
            with one_line_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped; what was finished is kept: run again with --resume", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Lesion studies of language models: which neurons carry each part of speech, and do they "
    "matter.",
    epilog="Bad input ends with exit code 2 and one line that says what to do; Ctrl-C with 130.",
)

ModelOption = Annotated[
    str, typer.Option(help="reference-9m (embedded), a local folder, or a Hugging Face id.")
]
TrainOption = Annotated[
    str,
    typer.Option(
        help="Words to choose neurons on: FILE.conllu, FOLDER:split, UD_English-EWT:train, or "
        "hf:dataset@revision:config:split."
    ),
]
FreshOption = Annotated[str, typer.Option(help="Other words to test on; named like --train.")]
LabelOption = Annotated[str, typer.Option(help="upos, xpos, deprel or feats:NAME.")]
LabelsOption = Annotated[
    str, typer.Option(help="Values to study, by commas; by default all that occur.")
]
PositionOption = Annotated[
    str,
    typer.Option(
        help="Where words are read: word (at its last token), next (at the token before it), both."
    ),
]
SiteOption = Annotated[
    list[str],
    typer.Option(help="Sites to collect beside neuron: resid_pre, resid_mid, resid_post, ..."),
]
ScoreOption = Annotated[
    str,
    typer.Option(
        help="How neurons are scored (docs/scores.md lists all); by default correlation at word and "
        "attribution_contrast at next."
    ),
]
AttributionOption = Annotated[
    str,
    typer.Option(help="Attributions of the word to come alone (own) or of later words too (all)."),
]
AttributionWordsOption = Annotated[
    int, typer.Option(help="Training words that integrated gradients are made of, at most.")
]
RuleOption = Annotated[
    str, typer.Option(help="How neurons are chosen: top_k, fdr, permutation, frequency.")
]
AlphaOption = Annotated[float, typer.Option(help="Error rate of --rule fdr and permutation.")]
ReplicatesOption = Annotated[
    int, typer.Option(help="Exchanges of tags between sentences, for nulls; 0: none.")
]
SampleOption = Annotated[
    int,
    typer.Option(help="Words of each label kept whole, for auroc; 0: as the score needs."),
]
MinWordsOption = Annotated[
    int, typer.Option(help="Leave out values with fewer training words; 0: rare ones are an error.")
]
SignOption = Annotated[str, typer.Option(help="Rank by absolute, positive or negative score.")]
TopKOption = Annotated[int, typer.Option(help="Key neurons per label.")]
ProbeKOption = Annotated[int, typer.Option(help="Key neurons per label that the probe reads.")]
ContextOption = Annotated[
    str,
    typer.Option(
        help="What is read before a word: sentence (its own alone) or document (those before it too)."
    ),
]
WindowOption = Annotated[
    int, typer.Option(help="Tokens of a document that are read together; for --context document.")
]
LesionOption = Annotated[
    str,
    typer.Option(
        help="Value of a cut neuron: mean, zero, resample (another word's), resample_within (one of "
        "the same label's); none: skip."
    ),
]
LesionAtOption = Annotated[
    str,
    typer.Option(help="Cut at every token, or for each word at the one before it (scored)."),
]
ValuesOption = Annotated[
    str, typer.Option(help="Further values, by commas: do the lesions agree in sign?")
]
DosesOption = Annotated[str, typer.Option(help="Further doses, by commas: the dose-response.")]
OtherShamsOption = Annotated[
    int, typer.Option(help="Shams of the further values and doses, and of --sufficiency.")
]
DamageOption = Annotated[
    int,
    typer.Option(
        help="Shams that grow until they do as much damage; -1: as many as --shams, where those "
        "write less than the real sets."
    ),
]
SufficiencyOption = Annotated[
    bool, typer.Option("--sufficiency", help="Also cut all neurons but a label's own.")
]
CutOption = Annotated[
    str, typer.Option(help="Labels whose neurons are cut, by commas; by default eight.")
]
DoseOption = Annotated[float, typer.Option(help="1 cuts, 0 does nothing, below 0 amplifies.")]
ShamsOption = Annotated[int, typer.Option(help="Sham replicates; p cannot go below 1/(1+shams).")]
MostOption = Annotated[int, typer.Option(help="At most so many fresh sentences are lesioned.")]
SeedOption = Annotated[int, typer.Option(help="Seed of shams, random neurons and samples.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; by default a GPU if any.")]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")]
BudgetOption = Annotated[
    int, typer.Option(help="Tokens in one forward pass; 0: what suits the device.")
]
WordsColumn = Annotated[str, typer.Option(help="hf: column of words.")]
LabelColumn = Annotated[str, typer.Option(help="hf: column of labels.")]
DeviceMapOption = Annotated[
    str, typer.Option(help="auto: spread a model larger than one GPU over all there are.")
]
CheckpointOption = Annotated[
    int,
    typer.Option(
        help="Batches between checkpoints of a pass, for --resume; 0: as often as costs little."
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Complete an existing run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print summary.json, nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no notes.")]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")]


@app.command()
def run(
    model: ModelOption = "reference-9m",
    train: TrainOption = "embedded:train",
    fresh: FreshOption = "embedded:test",
    label: LabelOption = "upos",
    labels: LabelsOption = "",
    position: PositionOption = "both",
    site: SiteOption = ["neuron"],  # noqa: B006
    min_words: MinWordsOption = 0,
    score: ScoreOption = "",
    attribution: AttributionOption = "own",
    attribution_words: AttributionWordsOption = 20_000,
    replicates: ReplicatesOption = 100,
    sample: SampleOption = 0,
    rule: RuleOption = "top_k",
    alpha: AlphaOption = 0.05,
    sign: SignOption = "absolute",
    top_k: TopKOption = 100,
    probe_k: ProbeKOption = 10,
    lesion: LesionOption = "mean",
    lesion_labels: CutOption = "",
    dose: DoseOption = 1.0,
    lesion_at: LesionAtOption = "every",
    shams: ShamsOption = 20,
    values: ValuesOption = "zero,resample",
    doses: DosesOption = "0.25,0.5,0.75",
    other_shams: OtherShamsOption = 0,
    damage_matched: DamageOption = 0,
    sufficiency: SufficiencyOption = False,
    max_fresh_sentences: MostOption = 1000,
    max_train_words: Annotated[int, typer.Option(help="Words the probe is fitted on.")] = 50_000,
    seed: SeedOption = 0,
    device: DeviceOption = "",
    dtype: DtypeOption = "",
    token_budget: BudgetOption = 0,
    context: ContextOption = "sentence",
    window: WindowOption = 512,
    device_map: DeviceMapOption = "",
    checkpoint_every: CheckpointOption = 0,
    words_column: WordsColumn = "",
    label_column: LabelColumn = "",
    out: Annotated[Path, typer.Option(help="The run directory to make.")] = Path("runs/latest"),
    resume: ResumeOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The whole study: collect, score, select, probe, lesion, report.

    Example: grammar-lens run --train UD_English-EWT:train --fresh UD_English-EWT:test --out runs/ewt
    """
    from grammar_lens import steps

    config = steps.Config(
        model=model,
        train=train,
        fresh=fresh,
        label=label,
        labels=listed(labels),
        positions=_positions(position),
        sites=tuple(site),
        min_words=min_words or None,
        score=score,
        attribution=attribution,
        attribution_words=attribution_words,
        replicates=replicates,
        sample=sample or None,
        rule=rule,
        alpha=alpha,
        sign=sign,
        top_k=top_k,
        probe_k=probe_k,
        lesion=lesion,
        lesion_labels=listed(lesion_labels),
        dose=dose,
        lesion_at=lesion_at,
        shams=shams,
        values=listed(values),
        doses=_numbers("doses", doses),
        other_shams=other_shams,
        damage_matched=None if damage_matched == -1 else damage_matched,
        sufficiency=sufficiency,
        max_fresh_sentences=max_fresh_sentences,
        max_train_words=max_train_words,
        seed=seed,
        dtype=dtype or None,
        token_budget=token_budget or None,
        words_column=words_column or None,
        label_column=label_column or None,
        context=context,
        window=window,
        device_map=device_map or None,
        checkpoint_every=checkpoint_every or None,
        out=out,
        device=device or None,
        show_progress=not quiet and not as_json,
    )
    done = steps.run_all(config, resume=resume, say=_say(quiet or as_json))
    _show(done, as_json)


@app.command()
def plan(
    model: ModelOption = "reference-9m",
    train: TrainOption = "embedded:train",
    fresh: FreshOption = "embedded:test",
    label: LabelOption = "upos",
    labels: LabelsOption = "",
    position: PositionOption = "both",
    site: SiteOption = ["neuron"],  # noqa: B006
    min_words: MinWordsOption = 0,
    score: ScoreOption = "",
    attribution: AttributionOption = "own",
    replicates: ReplicatesOption = 100,
    sample: SampleOption = 0,
    lesion: LesionOption = "mean",
    lesion_labels: CutOption = "",
    lesion_at: LesionAtOption = "every",
    shams: ShamsOption = 20,
    values: ValuesOption = "zero,resample",
    doses: DosesOption = "0.25,0.5,0.75",
    other_shams: OtherShamsOption = 0,
    damage_matched: DamageOption = 0,
    sufficiency: SufficiencyOption = False,
    max_fresh_sentences: MostOption = 1000,
    device: DeviceOption = "",
    dtype: DtypeOption = "",
    token_budget: BudgetOption = 0,
    context: ContextOption = "sentence",
    window: WindowOption = 512,
    device_map: DeviceMapOption = "",
    words_column: WordsColumn = "",
    label_column: LabelColumn = "",
    meta: Annotated[
        bool, typer.Option("--meta", help="Read config.json alone, no weights: nothing is timed.")
    ] = False,
    memory_gib: Annotated[
        float, typer.Option(help="Compare with a device of so many GiB; 0: with the one there is.")
    ] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print bytes and seconds as JSON.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Says how much memory and time a run with these options will need, before it starts.

    Example: grammar-lens plan --model meta-llama/Meta-Llama-3-8B --meta --train UD_English-EWT:train
    """
    import json

    from grammar_lens import steps
    from grammar_lens.run import to_json

    config = steps.Config(
        model=model,
        train=train,
        fresh=fresh,
        label=label,
        labels=listed(labels),
        positions=_positions(position),
        sites=tuple(site),
        min_words=min_words or None,
        score=score,
        attribution=attribution,
        replicates=replicates,
        sample=sample or None,
        lesion=lesion,
        lesion_labels=listed(lesion_labels),
        lesion_at=lesion_at,
        shams=shams,
        values=listed(values),
        doses=_numbers("doses", doses),
        other_shams=other_shams,
        damage_matched=None if damage_matched == -1 else damage_matched,
        sufficiency=sufficiency,
        max_fresh_sentences=max_fresh_sentences,
        dtype=dtype or None,
        token_budget=token_budget or None,
        words_column=words_column or None,
        label_column=label_column or None,
        context=context,
        window=window,
        device_map=device_map or None,
        device=device or None,
        show_progress=False,
    )
    found = steps.forecast(config, _say(quiet or as_json), meta=meta, memory_gib=memory_gib)
    _tell(json.dumps(to_json(found), indent=1) if as_json else "\n".join(found.lines()))


@app.command()
def collect(
    out: RunArgument,
    model: ModelOption = "reference-9m",
    train: TrainOption = "embedded:train",
    fresh: FreshOption = "embedded:test",
    label: LabelOption = "upos",
    labels: LabelsOption = "",
    position: PositionOption = "both",
    site: SiteOption = ["neuron"],  # noqa: B006
    min_words: MinWordsOption = 0,
    score: ScoreOption = "",
    replicates: ReplicatesOption = 100,
    sample: SampleOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "",
    dtype: DtypeOption = "",
    token_budget: BudgetOption = 0,
    context: ContextOption = "sentence",
    window: WindowOption = 512,
    device_map: DeviceMapOption = "",
    checkpoint_every: CheckpointOption = 0,
    words_column: WordsColumn = "",
    label_column: LabelColumn = "",
    shard: Annotated[
        str, typer.Option(help="I/N: only the I-th of N shares, for a job array; then `merge`.")
    ] = "",
    resume: ResumeOption = False,
    quiet: QuietOption = False,
) -> None:
    """Makes a run directory and collects moments of all units in one pass over --train.

    Job arrays: grammar-lens collect RUN --shard 2/8, and when all are done grammar-lens merge RUN
    """
    from grammar_lens import steps

    config = steps.Config(
        model=model,
        train=train,
        fresh=fresh,
        label=label,
        labels=listed(labels),
        positions=_positions(position),
        sites=tuple(site),
        min_words=min_words or None,
        score=score,
        replicates=replicates,
        sample=sample or None,
        seed=seed,
        dtype=dtype or None,
        token_budget=token_budget or None,
        words_column=words_column or None,
        label_column=label_column or None,
        context=context,
        window=window,
        device_map=device_map or None,
        checkpoint_every=checkpoint_every or None,
        out=out,
        device=device or None,
        show_progress=not quiet,
    )
    if shard:
        from grammar_lens.distributed import Shard

        path = steps.collect_shard(config, Shard.parse(shard), _say(quiet))
        typer.echo(f"{path}: done; when all shards are, `grammar-lens merge {out}`")
        return
    made = steps.run_step("collect", config, None, _say(quiet), resume=resume)
    _tell(repr(made.moments))


@app.command()
def merge(run: RunArgument, quiet: QuietOption = False) -> None:
    """Puts together what the jobs of a job array have collected (`collect --shard`)."""
    from grammar_lens import steps

    typer.echo(repr(steps.merge_shards(run, _say(quiet)).moments))


@app.command()
def score(
    run: RunArgument,
    score: ScoreOption = "",
    attribution: AttributionOption = "own",
    attribution_words: AttributionWordsOption = 20_000,
    device: DeviceOption = "",
    device_map: DeviceMapOption = "",
    quiet: QuietOption = False,
) -> None:
    """Scores every neuron for every label, from attributions too where the score needs them."""
    done = _step(
        "score",
        run,
        quiet,
        score=score,
        attribution=attribution,
        attribution_words=attribution_words,
        device=device or None,
        device_map=device_map or None,
    )
    for position in done.positions:
        _tell(repr(done.scores_at(position)))


@app.command()
def select(
    run: RunArgument,
    rule: RuleOption = "top_k",
    top_k: TopKOption = 100,
    alpha: AlphaOption = 0.05,
    sign: SignOption = "absolute",
    quiet: QuietOption = False,
) -> None:
    """Chooses the key neurons of every label, and measures how far the choice can be trusted."""
    done = _step("select", run, quiet, rule=rule, top_k=top_k, alpha=alpha, sign=sign)
    for position in done.positions:
        _tell(repr(done.keys_at(position)))


@app.command()
def course(
    run: RunArgument,
    device: DeviceOption = "",
    device_map: DeviceMapOption = "",
    quiet: QuietOption = False,
) -> None:
    """Measures selectivity at tokens around the word, on fresh words: its time course."""
    _tell(
        _step("course", run, quiet, device=device or None, device_map=device_map or None)
        .course.to_frame()
        .to_string()
    )


@app.command()
def probe(
    run: RunArgument,
    probe_k: ProbeKOption = 10,
    max_train_words: Annotated[int, typer.Option(help="Words the probe is fitted on.")] = 50_000,
    seed: SeedOption = 0,
    device: DeviceOption = "",
    device_map: DeviceMapOption = "",
    quiet: QuietOption = False,
) -> None:
    """Fits a probe on the key neurons and tests it, with its baselines, on the fresh words."""
    done = _step(
        "probe",
        run,
        quiet,
        probe_k=probe_k,
        max_train_words=max_train_words,
        seed=seed,
        device=device or None,
        device_map=device_map or None,
    )
    for position in done.positions:
        _tell(repr(done.probe_at(position)))


@app.command()
def lesion(
    run: RunArgument,
    lesion: LesionOption = "mean",
    lesion_labels: CutOption = "",
    dose: DoseOption = 1.0,
    lesion_at: LesionAtOption = "every",
    shams: ShamsOption = 20,
    values: ValuesOption = "zero,resample",
    doses: DosesOption = "0.25,0.5,0.75",
    other_shams: OtherShamsOption = 0,
    damage_matched: DamageOption = 0,
    sufficiency: SufficiencyOption = False,
    max_fresh_sentences: MostOption = 1000,
    seed: SeedOption = 0,
    device: DeviceOption = "",
    device_map: DeviceMapOption = "",
    quiet: QuietOption = False,
) -> None:
    """Cuts each label's key neurons and measures every label's loss, against sham lesions."""
    done = _step(
        "lesion",
        run,
        quiet,
        lesion=lesion,
        lesion_labels=listed(lesion_labels),
        dose=dose,
        lesion_at=lesion_at,
        shams=shams,
        values=listed(values),
        doses=_numbers("doses", doses),
        other_shams=other_shams,
        damage_matched=None if damage_matched == -1 else damage_matched,
        sufficiency=sufficiency,
        max_fresh_sentences=max_fresh_sentences,
        seed=seed,
        device=device or None,
        device_map=device_map or None,
    )
    _tell(repr(done.study))


@app.command()
def report(run: RunArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Writes summary.json, figures/ and report.html from what the run has."""
    _show(_step("report", run, quiet), as_json)


@app.command()
def generate(
    prompt: Annotated[
        list[str], typer.Option(help="The text to go on with; may be given several times.")
    ] = ["In the morning we"],  # noqa: B006
    lesion: Annotated[str, typer.Option(help="The label whose neurons are cut.")] = "NOUN",
    dose: DoseOption = 1.0,
    value: Annotated[str, typer.Option(help="mean, zero or resample.")] = "mean",
    run: Annotated[Path, typer.Option(help="The run with the key neurons.")] = Path("runs/demo"),
    top_k: Annotated[int, typer.Option(help="Cut only the first k; 0: all.")] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 40,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    samples: Annotated[int, typer.Option(help="Texts for each prompt, of which 3 are shown.")] = 1,
    seed: SeedOption = 0,
    device: DeviceOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Writes text with and without a lesion, side by side, and counts the tags of its words.

    Example: grammar-lens generate --lesion VERB --dose 1 --prompt "In the morning we"
    """
    import json

    from rich.console import Console

    from grammar_lens import generation
    from grammar_lens.run import to_json

    found = generation.with_and_without(
        run,
        lesion,
        prompts=prompt,
        dose=dose,
        value=value,
        top_k=top_k or None,
        tokens=tokens,
        temperature=temperature,
        samples=samples,
        seed=seed,
        device=device or None,
    )
    if as_json:
        typer.echo(json.dumps(to_json(found.to_dict()), indent=1, ensure_ascii=False))
        return
    console = Console()
    console.print(generation.side_by_side(found))
    console.print(generation.tag_table(found))
    typer.echo(generation.told(found))


@app.command()
def certify(
    worlds: Annotated[
        int, typer.Option(help="Planted models; 2 of 5 true, 2 null, 1 with decoys.")
    ] = 200,
    shams: Annotated[int, typer.Option(help="Sham replicates in each.")] = 19,
    seed: SeedOption = 0,
    processes: Annotated[int, typer.Option(help="Worlds at the same time, a thread each.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rates as JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Runs the whole chain on models whose tag neurons are known, and holds its error rates to limits.

    Ends with exit code 1 when a limit is not held. 200 worlds take about ten minutes on two cores.
    """
    import json

    from rich.console import Console

    from grammar_lens import certification
    from grammar_lens.run import to_json

    try:
        found = certification.certify(
            worlds, shams=shams, seed=seed, processes=processes, show_progress=not quiet
        )
    except KeyboardInterrupt:
        typer.echo("stopped: nothing of a certification is kept", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(to_json(found.to_json()), indent=1))
    else:
        Console().print(found.table())
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def info() -> None:
    """Versions, devices, the embedded model and treebank."""
    import torch

    from grammar_lens.run import library_versions
    from grammar_lens.treebank import load_treebank

    for package, found in library_versions().items():
        typer.echo(f"{package:18} {found}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    typer.echo(f"{'devices':18} {', '.join(gpus) or 'cpu only'}, {torch.get_num_threads()} threads")
    typer.echo(f"{'embedded model':18} reference-9m")
    typer.echo(f"{'embedded treebank':18} {load_treebank()!r}")


def _step(step: str, path: Path, quiet: bool, **changes: Any) -> Any:
    """One step on a stored run with some settings changed."""
    from grammar_lens import run as runs
    from grammar_lens import steps

    stored = runs.load_run(path)
    config = steps.Config.of(stored, show_progress=not quiet, **changes)
    return steps.run_step(step, config, stored, _say(quiet))


def _tell(text: str) -> None:
    """Prints a result, once where several processes have it."""
    if not _is_other_process():
        typer.echo(text)


def _is_other_process() -> bool:
    """Whether torchrun has started this process beside a main one, which speaks."""
    return os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1"


def _show(run: Any, as_json: bool) -> None:
    if _is_other_process():
        return
    if as_json:
        typer.echo((run.path / "summary.json").read_text("utf-8"), nl=False)
        return
    from rich.console import Console

    from grammar_lens.summary import summary_table

    Console().print(summary_table(run.summary))
    typer.echo(f"report: {run.path / 'report.html'}")


def _say(quiet: bool) -> Any:
    return (lambda _text: None) if quiet else (lambda text: typer.echo(text, err=True))


def listed(text: str) -> tuple[str, ...]:
    """The entries of an option that takes several, by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(float(part) for part in listed(text))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}, expected numbers separated by commas", param_hint=f"--{name}"
        ) from None


def _positions(text: str) -> tuple[str, ...]:
    known = {"word": ("word",), "next": ("next",), "both": ("word", "next")}
    if text not in known:
        raise typer.BadParameter(
            f"{text!r} is not one of word, next, both", param_hint="--position"
        )
    return known[text]


def main() -> None:
    """The entry point of the console script."""
    app(prog_name="grammar-lens")
    sys.exit(0)
