"""Commands that inspect finished runs, export them, or let their models write text."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from grammar_lens.cli.app import LOOKING, command
from grammar_lens.cli.completion import labels_of_run, one_of, run_directories
from grammar_lens.cli.console import Console
from grammar_lens.cli.options import LabelOfRun, RunArgument, config_fields, listed
from grammar_lens.defaults import VALUES


@command(
    panel=LOOKING,
    settings=("seed", "device"),
    examples=(
        'grammar-lens generate runs/demo --lesion VERB --prompt "In the morning we"',
        "grammar-lens generate runs/demo --lesion NOUN --dose 0.5 --samples 20 --temperature 0.7",
    ),
)
def generate(
    console: Console,
    run: RunArgument,
    prompt: Annotated[
        list[str], typer.Option(help="The text to continue; may be given several times.")
    ] = ["In the morning we"],  # noqa: B006
    lesion: LabelOfRun = "NOUN",
    value: Annotated[
        str, typer.Option(help=f"{', '.join(VALUES[:3])}.", autocompletion=one_of(VALUES[:3]))
    ] = "mean",
    dose: Annotated[float, typer.Option(help="1 cuts, 0 does nothing, below 0 amplifies.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Cut only the first k; 0: all.")] = 0,
    tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 40,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    samples: Annotated[int, typer.Option(help="Texts for each prompt, of which 3 are shown.")] = 1,
    **settings: Any,
) -> None:
    """Writes text with and without a lesion, side by side, and counts the tags of its words."""
    from grammar_lens.generation.text_tables import describe, side_by_side, tag_table
    from grammar_lens.runs.texts import with_and_without

    comparison = with_and_without(
        run,
        lesion,
        prompts=prompt,
        value=value,
        dose=dose,
        top_k=top_k or None,
        tokens=tokens,
        temperature=temperature,
        samples=samples,
        **config_fields(settings),
    )
    shown = (side_by_side(comparison), tag_table(comparison), describe(comparison))
    console.result(*shown, data=comparison.to_dict)


@command(
    panel=LOOKING,
    examples=(
        'grammar-lens next-word runs/demo "The old man" --lesion VERB --doses 0.5,1',
        'grammar-lens next-word runs/demo "The old man" --lesion 7.336,6.12 --value zero',
    ),
)
def next_word(
    console: Console,
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(help="The text before the word.")],
    lesion: Annotated[
        str,
        typer.Option(
            help="Cut the key neurons of a label, or neurons such as 7.336,6.12; by default nothing.",
            autocompletion=labels_of_run,
        ),
    ] = "",
    doses: Annotated[
        list[str], typer.Option(help="Doses, by commas; 1 cuts, below 0 amplifies.")
    ] = ["1"],  # noqa: B006, typer copies it
    value: Annotated[
        str, typer.Option(help=f"{', '.join(VALUES[:3])}.", autocompletion=one_of(VALUES[:3]))
    ] = "mean",
    top_k: Annotated[int, typer.Option(help="Cut only the first k; 0: all.")] = 0,
    tokens: Annotated[int, typer.Option(help="Likeliest tokens to show.")] = 10,
) -> None:
    """Shows how likely each tag is for the word after a prompt, and the likeliest tokens."""
    from grammar_lens.cli.tables import table_of
    from grammar_lens.runs.run import load_run

    try:
        amounts = [float(dose) for some in doses for dose in listed(some)]
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers separated by commas, got {','.join(doses)!r}", param_hint="--doses"
        ) from None
    expected = load_run(run).next_word(
        prompt, lesion or None, doses=amounts, value=value, k=top_k or None, n_tokens=tokens
    )
    cut = f"; lesion: {expected.lesion_name}" if lesion else ""
    console.result(
        f"The next word's tag after {prompt!r}{cut}",
        table_of(expected.to_frame()),
        "The likeliest tokens",
        table_of(expected.tokens_frame()),
        data=lambda: {
            "prompt": expected.prompt,
            "lesion": expected.lesion,
            "value": expected.value,
            "doses": expected.doses,
            "tags": expected.to_frame().to_dict("records"),
            "tokens": expected.tokens_frame().to_dict("records"),
        },
    )


@command(
    panel=LOOKING,
    settings=("positions",),
    examples=(
        "grammar-lens neuron runs/demo 5.123",
        "grammar-lens neuron runs/demo 5.123 --position next --stored --json",
    ),
)
def neuron(
    console: Console,
    run: RunArgument,
    address: Annotated[
        str, typer.Argument(help="Layer and index, both from 0.", metavar="LAYER.INDEX")
    ],
    read: Annotated[
        bool | None,
        typer.Option(
            "--read/--stored",
            help="Read its examples again, with the model; or show only those that the run has. By "
            "default these, or read where the run has none.",
            metavar="",
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Shows one neuron: its scores, the words where it is most and least active, and its tokens."""
    from grammar_lens.cli.neuron_page import neuron_data, neuron_page
    from grammar_lens.runs.run import load_run

    positions = config_fields(settings)["positions"]
    position = positions[0] if len(positions) == 1 else None
    view = load_run(run).neuron(address, position=position, read=read)
    console.result(neuron_page(view), data=lambda: neuron_data(view))


@command(
    panel=LOOKING,
    kept="what was not deleted yet is kept",
    examples=("grammar-lens runs runs/demo", "grammar-lens runs runs/demo --prune"),
)
def runs(
    console: Console,
    run: RunArgument,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete those that are not current, after asking.", metavar=""
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.", metavar="")] = False,
) -> None:
    """Lists the stored results of every step, with their settings and which are current."""
    from grammar_lens.runs.run import load_run
    from grammar_lens.runs.studies import listed_studies, prune_studies, study_table

    stored = load_run(run)
    rows = listed_studies(stored)
    if not prune:
        console.result(study_table(rows), data=lambda: {"studies": rows})
        return
    others = [row for row in rows if not row["current"]]
    sure = yes or not others or console.ask(study_table(others), "Delete these for good?")
    gone = prune_studies(stored) if others and sure else []
    console.result(f"{run}: {len(gone)} deleted", data=lambda: {"deleted": gone})


@command(
    panel=LOOKING,
    kept="nothing was written",
    examples=(
        "grammar-lens compare runs/llama runs/gemma --out compare.html",
        "grammar-lens compare runs/demo@seed-0 runs/demo@seed-9",
        "grammar-lens compare runs/step1000 runs/step143000 --json",
    ),
)
def compare(
    console: Console,
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two run directories or more; RUN@NAME for stored results that are not current.",
            metavar="RUN...",
            autocompletion=run_directories,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
) -> None:
    """Writes one page that holds several runs side by side: models, checkpoints, languages or scores."""
    from grammar_lens.report.comparison import write_comparison
    from grammar_lens.report.comparison_families import run_pairs, shared_rows
    from grammar_lens.report.comparison_tables import named
    from grammar_lens.runs.run import load_run

    loaded = [load_run(run) for run in runs]
    pairs = run_pairs(named(loaded))
    path = write_comparison(loaded, out, pairs=pairs)
    console.result(
        f"comparison: {path}",
        data=lambda: {"comparison": path, "shared_neurons": shared_rows(pairs)},
    )


@command(
    panel=LOOKING,
    prints_json=False,
    examples=(
        "grammar-lens serve runs/demo",
        "grammar-lens serve runs/demo --port 9000 --no-browser",
    ),
)
def serve(
    console: Console,
    run: RunArgument,
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any that is free.")] = 8050,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page.", metavar="")
    ] = True,
) -> None:
    """Opens a page on this machine to look at neurons and to try lesions, until Ctrl-C."""
    from grammar_lens import explorer
    from grammar_lens.runs.run import load_run

    try:
        explorer.serve(load_run(run), port=port, open_browser=browser)
    except KeyboardInterrupt:  # how it is meant to end
        sys.stdout.flush()
        os._exit(0)  # at once: threads may still load the model or write a text


@command(
    panel=LOOKING,
    examples=(
        "grammar-lens export runs/demo --to tables",
        "grammar-lens export runs/demo --to tables --format parquet",
        "grammar-lens export runs/llama3 --to lists --format neuronpedia --neuronpedia MODEL/{layer}-SOURCE",
    ),
)
def export(
    console: Console,
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="The folder to write to.")],
    format: Annotated[
        str,
        typer.Option(
            help="csv, parquet, latex; hub: Parquet with masks and a card, to upload to the hub; "
            "neuronpedia: lists of key neurons.",
            autocompletion=one_of(("csv", "parquet", "latex", "hub", "neuronpedia")),
        ),
    ] = "csv",
    top: Annotated[
        int,
        typer.Option(
            help="Scores of each label's strongest neurons; 0: of all; by default 1,000 in CSV, 10 in "
            "LaTeX and lists, and all in Parquet."
        ),
    ] = -1,
    neuronpedia: Annotated[
        str | None,
        typer.Option(
            help="With --format neuronpedia: the model and the source of its MLP neurons there, with "
            "{layer} for the layer's number."
        ),
    ] = None,
) -> None:
    """Writes key neurons, scores and the other results as tables that any tool reads."""
    from grammar_lens.runs.interchange.writing import export_run
    from grammar_lens.runs.run import load_run

    most = "auto" if top == -1 else top or None
    paths = export_run(load_run(run), to, format=format, top=most, neuronpedia=neuronpedia)
    console.result(*map(str, paths), data=lambda: {"files": paths})
