"""Parts that the experiments share: flags, words, the folder of results with run.json, and TOML."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import typer
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.config_file import read_toml
from grammar_lens.cli.errors import one_line_errors
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.errors import GrammarLensError, expected_one_of
from grammar_lens.files import make_folder, read_json, to_json, write_file, write_json, write_text
from grammar_lens.model.about import Model, describe
from grammar_lens.runs.store.provenance import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)

LabelFlag = Annotated[str, Option(help="upos, xpos, deprel or feats:NAME.")]
CutFlag = Annotated[str, Option(help="Values whose neurons are cut, separated by commas.")]
PositionFlag = Annotated[str, Option(help="Where words are read: word or next.")]
LesionFlag = Annotated[str, Option(help="Value of a cut neuron: mean or zero.")]
DeviceFlag = Annotated[str, Option(help="cpu, cuda; a GPU if there is one.")]
SeedFlag = Annotated[int, Option(help="Seed of everything random.")]
OutFlag = Annotated[Path, Option(help="Folder for the results.")]


MAY_DIFFER = ("config", "resume", "device", "out")
"""Flags that an experiment may be resumed with another value of."""


@dataclass(frozen=True)
class ModelFlags:
    """Flags of an experiment on one model and training words."""

    model: Annotated[str, Option(help="reference-9m, a folder, or a hub id.")] = "reference-9m"
    train: Annotated[str, Option(help="Words to choose neurons on.")] = "embedded:train"
    dtype: Annotated[str, Option(help="float32, bfloat16; by default the usual one.")] = ""
    device: DeviceFlag = ""
    seed: SeedFlag = 0

    def load_model(self) -> Model:
        return gl.load_model(self.model, dtype=self.dtype or None, device=self.device or None)


@dataclass(frozen=True)
class Flags(ModelFlags):
    """Flags of an experiment that also reads held-out words."""

    fresh: Annotated[str, Option(help="Other words to test on.")] = "embedded:test"

    def words(
        self, model: Model, most: int | None = None, *, label: str = "upos", **labels: Any
    ) -> tuple[Corpus, Corpus, int]:
        """Training words; held-out words of at most `most` sentences; duplicates dropped of these."""
        train = prepare(model, load_treebank(self.train, label=label), label=label, **labels)
        return train, *fresh_corpus(model, load_treebank(self.fresh, label=label), train, most)


class Experiment:
    """A running experiment: its folder, which holds nothing else, and its clock.

    Raises GrammarLensError for a folder that holds results of another experiment, or other files.
    """

    def __init__(self, name: str, config: Any) -> None:
        refuse_other_results(config.out, name)
        make_folder(config.out)
        self.name, self.config, self._begin = name, config, time.perf_counter()
        self._parts: dict[str, float] = {}

    def begin(self, about: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the record of an experiment in parts, unfinished, or takes up the one to resume.

        Raises GrammarLensError for one begun before, unless it is to be resumed with the same settings,
        model and words.
        """
        path = self.config.out / "run.json"
        if path.is_file():
            if not self.config.resume:
                raise GrammarLensError(
                    f"{path.parent} holds a study already: add --resume to continue it, or choose "
                    "another --out"
                )
            stored = read_json(path)
            before, now = (
                {name: x for key in ("config", *about) for name, x in to_json(record[key]).items()}
                for record in (stored, {"config": asdict(self.config), **about})
            )
            for name, value in now.items():
                if name not in MAY_DIFFER and before.get(name) != value:
                    raise GrammarLensError(
                        f"{path.parent} was begun with {name} {before.get(name)!r}, not {value!r}: "
                        "repeat the settings, or choose another --out"
                    )
            self._parts = stored["parts"]
        self._write({**about, "finished": False})

    def part(self, name: str, result: str, work: Callable[[Path], object]) -> Path:
        """The folder of a part, worked out unless its result is there; ends the line that names it."""
        folder, begin = self.config.out / name, time.perf_counter()
        if (folder / result).is_file():
            print(" (done before)")
            return folder
        print()
        make_folder(folder)
        work(folder)
        self._parts[name] = round(time.perf_counter() - begin, 1)
        path = self.config.out / "run.json"
        write_json(path, read_json(path) | {"parts": self._parts})
        return folder

    def tell(self, row: Mapping[str, Any]) -> None:
        """Prints a row of a table as a line of text: "layer 1: own +0.012, other -0.003"."""
        (first, number), *rest = row.items()
        shown = (f"{name} {x:+.3f}" if isinstance(x, float) else f"{name} {x}" for name, x in rest)
        print(f"{first} {number}: {', '.join(shown).replace('_', ' ')}", flush=True)

    def finish(
        self,
        about: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
        figure: go.Figure | None = None,
    ) -> None:
        """Writes run.json, a CSV file for every table, and the figure as NAME.html."""
        out, seconds = self.config.out, round(time.perf_counter() - self._begin, 1)
        self._write({**about, "finished": True, "seconds": seconds})
        for name, table in tables.items():
            write_text(out / f"{name}.csv", table.to_csv(index=False))
        if figure is not None:
            page = out / f"{self.name}.html"
            write_file(page, lambda path: figure.write_html(path, div_id=self.name))
        print(f"{seconds:.0f} s; results in {out}")

    def _write(self, about: Mapping[str, Any]) -> None:
        record = experiment_record(self.name, self.config) | dict(about)
        record |= {"cpu_seconds": round(time.process_time(), 1), "parts": self._parts}
        write_json(self.config.out / "run.json", record | {"seed": self.config.seed})


def sources(model: Model, **words: Corpus) -> dict[str, Any]:
    """The model, the treebanks by their role, and the labels of the first, for run.json."""
    banks = treebanks(**{role: corpus.bank for role, corpus in words.items()})
    labels = list(next(iter(words.values())).labels)
    return {"model": describe(model), "treebank": banks, "labels": labels}


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
                expected = expected_one_of(name, sorted(known))
                raise GrammarLensError(f"{path}: {name!r} is no setting: {expected}")
    # as text, so that a value of the wrong type is refused as it is on the command line
    context.default_map = {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in settings.items()
    }
    return path


ConfigFlag = Annotated[
    Path | None, Option(help="A TOML file with these settings.", is_eager=True, callback=from_file)
]
