"""A run's results in a folder for other tools, with a description of every table and column."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv, parquet
from safetensors.numpy import save_file

from grammar_lens.display import latex
from grammar_lens.errors import GrammarLensError, expected_one_of
from grammar_lens.files import make_folder, write_file, write_json
from grammar_lens.runs.interchange.dataset_card import dataset_card
from grammar_lens.runs.interchange.export_tables import tables_of
from grammar_lens.runs.interchange.masks import masks_of
from grammar_lens.runs.interchange.neuronpedia import LINKS, LISTS, lists_of
from grammar_lens.runs.interchange.schema import Table
from grammar_lens.runs.store.stored import StoredRun

DESCRIPTION = "datapackage.json"
CARD = "README.md"
MADE_BY = "grammar_lens"
MEDIA = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "latex": "application/x-latex",
    "hub": "application/vnd.apache.parquet",
    "neuronpedia": "application/json",
}
ENDS = {"csv": "csv", "parquet": "parquet", "latex": "tex", "hub": "parquet"}
MOST = {"csv": 1000, "latex": 10, "neuronpedia": 10}
_ARROW = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}


def export_run(
    run: StoredRun,
    folder: Path | str,
    *,
    format: str = "csv",
    top: int | str | None = "auto",
    neuronpedia: str | None = None,
) -> list[Path]:
    """Writes the run's results as self-describing tables; returns their files.

    `format` is "csv", "parquet", "latex" or "hub": Parquet with masks of the key neurons as safetensors
    and a data set card, a folder to upload to the Hugging Face hub as it is; or "neuronpedia": the key neurons as
    lists for the model and source that `neuronpedia` names (see `interchange.neuronpedia`), and links to them, in place of tables.
    `top` is how many of each label's strongest neurons the table of scores, or a list, has: None for all, "auto" for 1,000 in CSV,
    10 in LaTeX and in lists, and all in Parquet. The file datapackage.json
    (Frictionless Data) gives the type, meaning and unit of every column. In CSV, text
    is quoted and what is missing is empty, so read it with `keep_default_na=False`. Tables of an
    earlier export are replaced.
    Raises GrammarLensError for another format, a `top` below 1, a folder that holds anything else, and for
    `neuronpedia` without its format, or not as it is expected.
    """
    if format not in MEDIA:
        raise GrammarLensError(f"format is {format!r}, {expected_one_of(format, MEDIA)}")
    most = MOST.get(format) if top == "auto" else top
    if most is not None and (not isinstance(most, int) or most < 1):
        raise GrammarLensError(f"top is {top!r}, expected 1 or more, None for all, or 'auto'")
    if neuronpedia is not None and format != "neuronpedia":
        raise GrammarLensError(
            f"neuronpedia is given with format {format!r}, expected 'neuronpedia'"
        )
    folder = Path(folder)
    earlier = _earlier(folder)
    tables, further = [], {}
    if format == "neuronpedia":
        lists = lists_of(run, neuronpedia, most)
        further = {LISTS: lists.write_bodies, LINKS: lists.write_links}
    else:
        tables = tables_of(run, most)
        further = _for_the_hub(run, tables) if format == "hub" else {}
    writers = {f"{table.name}.{ENDS[format]}": _writer(table, format) for table in tables}
    part = folder.absolute().with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    make_folder(part)
    try:
        for name, write in (writers | further).items():
            write_file(part / name, write)
        write_json(part / DESCRIPTION, _described(run, tables, format, list(further)))
        # nothing of an export that fails is left, and what was there before stays
        for old in earlier:
            old.unlink(missing_ok=True)
        make_folder(folder)
        names = [*writers, *further, DESCRIPTION]
        for name in names:
            os.replace(part / name, folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / name for name in names]


def _earlier(folder: Path) -> list[Path]:
    """The files of an earlier export. Raises GrammarLensError where the folder holds anything else."""
    if not folder.exists():
        return []
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    exported = {DESCRIPTION}
    try:
        package = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        if MADE_BY in package:
            exported |= {resource["path"] for resource in package["resources"]}
    except (OSError, ValueError, TypeError, KeyError):
        exported = set()
    if names - exported:
        raise GrammarLensError(
            f"{folder} holds something else ({min(names - exported)}): export to a new folder, or to one "
            "that holds an earlier export alone"
        )
    return [folder / name for name in names]


def _for_the_hub(run: StoredRun, tables: list[Table]) -> dict[str, Callable[[Path], object]]:
    """Writers of the masks of key neurons, by position, and of the card."""
    writers: dict[str, Callable[[Path], object]] = {}
    for position in run.positions if run.has("select") else ():
        masks = masks_of(run.keys_at(position))
        writers[f"key_neurons.{position}.safetensors"] = partial(save_file, masks)
    card = dataset_card(run, tables, list(writers))
    writers[CARD] = lambda path: path.write_text(card, "utf-8")
    return writers


def _writer(table: Table, format: str) -> Callable[[Path], None]:
    """A writer that takes a table part by part; in Parquet each part is a row group."""
    arrow = pa.schema(
        [pa.field(f.name, _ARROW[f.kind], metadata={"description": f.about}) for f in table.fields]
    )

    def write(path: Path) -> None:
        if format == "latex":
            names = pd.Index([f.name for f in table.fields])
            parts = [part.reindex(columns=names) for part in table.parts()]
            whole = pd.concat(parts) if parts else pd.DataFrame(columns=names)
            path.write_text(latex(whole.reset_index(drop=True)), "utf-8")
            return
        quoted = csv.WriteOptions(quoting_style="needed")
        with (
            csv.CSVWriter(path, arrow, write_options=quoted)
            if format == "csv"
            else parquet.ParquetWriter(path, arrow, compression="zstd")
        ) as file:
            for part in table.parts():
                file.write_table(_arrow_table(part, arrow))

    return write


def _arrow_table(part: pd.DataFrame, arrow: pa.Schema) -> pa.Table:
    """A part with every column of the schema; missing values and NaN are null."""
    return pa.Table.from_pandas(
        part.reindex(columns=pd.Index(arrow.names)), schema=arrow, preserve_index=False
    )


def _described(
    run: StoredRun, tables: list[Table], format: str, further: Sequence[str]
) -> Mapping[str, Any]:
    """The data package: every table with its columns, and where the numbers come from."""
    record = run.record
    words = {role: t["name"] for role, t in record.get("treebank", {}).items()}
    return {
        "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
        "name": "grammar-lens-run",
        "title": f"Lesion study of {run.config['model']}",
        "description": "What grammar_lens found, table by table. Words: "
        + ", ".join(f"{role} {name}" for role, name in words.items()),
        "resources": [
            *(_resource(table, format) for table in tables),
            *({"name": name.lower(), "path": name} for name in further),
        ],
        MADE_BY: {name: record.get(name) for name in ("config", "model", "versions", "commit")},
    }


def _resource(table: Table, format: str) -> Mapping[str, Any]:
    return {
        "name": table.name,
        "type": "table",
        "path": f"{table.name}.{ENDS[format]}",
        "description": table.about,
        "format": ENDS[format],
        "mediatype": MEDIA[format],
        **({"encoding": "utf-8"} if format in ("csv", "latex") else {}),
        "schema": {
            "fields": [
                {"name": f.name, "type": f.kind, "description": f.about} for f in table.fields
            ],
            "missingValues": [""],
        },
    }
