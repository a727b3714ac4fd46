"""Commands about the program itself: certification of its error rates, and system information."""

from typing import Annotated

import typer

from grammar_lens.cli.app import ITSELF, command
from grammar_lens.cli.console import Console
from grammar_lens.cli.errors import FAILED


@command(
    panel=ITSELF,
    examples=("grammar-lens certify --worlds 20",),
)
def certify(
    console: Console,
    worlds: Annotated[
        int, typer.Option(help="Planted models; 2 of 5 true, 2 null, 1 with decoys.")
    ] = 200,
    shams: Annotated[int, typer.Option(help="Sham replicates in each.")] = 19,
    processes: Annotated[int, typer.Option(help="Worlds at the same time, a thread each.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the planted models and of all draws.")] = 0,
) -> None:
    """Runs the whole chain on models whose tag neurons are known, and holds its error rates to limits.

    Ends with exit code 1 when a limit is not held. 200 worlds take about ten minutes on two cores.
    """
    from grammar_lens import certification

    result = certification.certify(
        worlds, shams=shams, seed=seed, processes=processes, show_progress=console.shows_progress
    )
    console.result(result.table(), data=result.to_json)
    if not result.passed:
        raise typer.Exit(FAILED)


@command(panel=ITSELF, examples=("grammar-lens info", "grammar-lens info --json"))
def info(console: Console) -> None:
    """Versions, devices, the embedded model and treebank."""
    from grammar_lens.corpus.sources import load_treebank

    bank = load_treebank()
    facts = {
        **versions_and_devices(),
        "float32 products": _products(),
        "embedded model": "reference-9m",
        "embedded treebank": repr(bank),
    }
    console.result(*(f"{name:18} {value}" for name, value in facts.items()), data=lambda: facts)


def _products() -> str:
    """The library that multiplies float32 matrices on this CPU, and the two compared."""
    from grammar_lens.model.onednn import is_onednn_faster, onednn_speed

    speed = onednn_speed()
    if speed is None:
        return "MKL (oneDNN is not there)"
    return f"{'oneDNN' if is_onednn_faster() else 'MKL'} (oneDNN {speed:.1f} times as fast as MKL)"


def versions_and_devices() -> dict[str, str]:
    """Versions of what decides the numbers, and the devices that are there."""
    import torch

    from grammar_lens.runs.store.provenance import library_versions

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices = f"{', '.join(gpus) or 'cpu only'}, {torch.get_num_threads()} threads"
    return {**library_versions(), "devices": devices}
