"""Parts that the experiments share: flags, the folder of results with run.json, and TOML."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import typer

from grammar_lens.cli.config_file import read_toml
from grammar_lens.cli.errors import one_line_errors
from grammar_lens.corpus.bank import Treebank
from grammar_lens.errors import GrammarLensError, expected_one_of
from grammar_lens.files import make_folder, write_file, write_json, write_text
from grammar_lens.runs.store.provenance import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)

ModelFlag = Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")]
TrainFlag = Annotated[str, typer.Option(help="Words to choose neurons on.")]
FreshFlag = Annotated[str, typer.Option(help="Other words to test on.")]
LabelFlag = Annotated[str, typer.Option(help="upos, xpos, deprel or feats:NAME.")]
CutFlag = Annotated[str, typer.Option(help="Values whose neurons are cut, separated by commas.")]
PositionFlag = Annotated[str, typer.Option(help="Where words are read: word or next.")]
DtypeFlag = Annotated[str, typer.Option(help="float32, bfloat16; by default the usual one.")]
DeviceFlag = Annotated[str, typer.Option(help="cpu, cuda; a GPU if there is one.")]
OutFlag = Annotated[Path, typer.Option(help="Folder for the results.")]
MODEL, TRAIN, FRESH = "reference-9m", "embedded:train", "embedded:test"


class Experiment:
    """A running experiment: its folder, which holds nothing else, and its clock.

    Raises GrammarLensError for a folder that holds results of another experiment, or other files.
    """

    def __init__(self, name: str, config: Any) -> None:
        refuse_other_results(config.out, name)
        make_folder(config.out)
        self.name, self.config, self._begin = name, config, time.perf_counter()

    def finish(
        self,
        about: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
        figure: go.Figure | None = None,
    ) -> None:
        """Writes run.json, a CSV file for every table, and the figure as NAME.html."""
        out, seconds = self.config.out, round(time.perf_counter() - self._begin, 1)
        record = {**experiment_record(self.name, self.config), **about}
        record |= {"seconds": seconds, "cpu_seconds": round(time.process_time(), 1)}
        if hasattr(self.config, "seed"):
            record["seed"] = self.config.seed
        write_json(out / "run.json", record)
        for name, table in tables.items():
            write_text(out / f"{name}.csv", table.to_csv(index=False))
        if figure is not None:
            page = out / f"{self.name}.html"
            write_file(page, lambda path: figure.write_html(path, div_id=self.name))
        print(f"{seconds:.0f} s; results in {out}")


def in_words(row: Mapping[str, Any]) -> str:
    """A row of a table as a line of text: "layer 1: own +0.012, other -0.003"."""
    (first, number), *rest = row.items()
    numbers = [f"{name} {x:+.3f}" if isinstance(x, float) else f"{name} {x}" for name, x in rest]
    return f"{first} {number}: {', '.join(numbers).replace('_', ' ')}"


def treebanks(**banks: Treebank) -> dict[str, Any]:
    """Names and fingerprints of treebanks, by their role."""
    return {role: treebank_record(bank) for role, bank in banks.items()}


def from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the settings of a TOML file the defaults of the other flags, lists by commas."""
    if path is None:
        return None
    known = {p.name for p in context.command.params if p.name} - {"config", "resume", "help"}
    with one_line_errors():
        settings = read_toml(path)
        for name in settings:
            if name not in known:
                raise GrammarLensError(
                    f"{path}: {name!r} is no setting: {expected_one_of(name, sorted(known))}"
                )
    # as text, so that a value of the wrong type is refused as it is on the command line
    context.default_map = {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in settings.items()
    }
    return path


ConfigFlag = Annotated[
    Path | None,
    typer.Option(help="A TOML file with these settings.", is_eager=True, callback=from_file),
]
