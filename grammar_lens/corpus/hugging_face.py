"""Hugging Face datasets with words and labels -> sentences; never runs a dataset's own code."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from grammar_lens.corpus.bank import Sentence, Treebank, Word
from grammar_lens.corpus.spacing import find_in_order, join
from grammar_lens.errors import GrammarLensError

WORD_COLUMNS = ("tokens", "words")
LABEL_COLUMNS = {
    "upos": ("upos", "upos_tags", "pos_tags", "pos"),
    "xpos": ("xpos", "xpos_tags"),
    "deprel": ("deprel",),
    "feats": ("feats",),
}
SPEC = re.compile(
    r"hf:(?P<dataset>[^:@]+)(@(?P<revision>[^:@]+))?(:(?P<config>[^:\[]*))?"
    r":(?P<split>[^:\[]+(\[[^\[\]]*\])?)"
)


@dataclass(frozen=True)
class HubSpec:
    """The parts of `hf:dataset[@revision][:config]:split`; the dataset may be a local folder."""

    dataset: str
    revision: str | None
    config: str | None
    split: str

    @classmethod
    def parse(cls, source: str) -> "HubSpec":
        """The parts of a source that begins with `hf:`.

        Raises GrammarLensError if there is no split or the parts are ambiguous.
        """
        match = SPEC.fullmatch(source)
        if match is None:
            raise GrammarLensError(
                f"cannot read {source!r}: expected hf:dataset[@revision][:config]:split, "
                "such as hf:owner/name:train"
            )
        if match["revision"] and os.path.isdir(match["dataset"]):
            raise GrammarLensError(
                f"{match['dataset']!r} is a local folder and has no revisions: leave out "
                f"@{match['revision']}"
            )
        return cls(match["dataset"], match["revision"], match["config"] or None, match["split"])


def read_dataset(
    source: str, *, label: str, words_column: str | None = None, label_column: str | None = None
) -> Treebank:
    """One split of a dataset as a treebank with one label (all features, for feats:Name).

    Spaces come from a `text` column where the words stand in it in order, else single spaces,
    and the notes say so. Raises GrammarLensError, with the row, for what cannot be read.
    """
    dataset = _load(source, HubSpec.parse(source))
    columns = dataset.column_names
    candidates = LABEL_COLUMNS[label.partition(":")[0]]
    words_column = _choose("words", columns, WORD_COLUMNS, words_column, source)
    label_column = _choose(label, columns, candidates, label_column, source)
    text_column = ["text"] if "text" in columns else []
    decode = _decoder(label, label_column, dataset.features[label_column])
    sentences: list[Sentence] = []
    shared: dict[tuple, Mapping[str, str]] = {}
    single = empty = 0
    rows = dataset.select_columns(list({words_column, label_column, *text_column}))
    for n, row in enumerate(rows):
        where = f"{source} row {n}"
        forms, values = _lists(row, words_column, label_column, where)
        if not forms:
            empty += 1
            continue
        text = (row.get("text") or "").strip()
        spans = find_in_order(forms, text)
        if spans is None:
            text, spans = join(forms, [True] * len(forms))
            single += 1
        words = []
        for form, span, value in zip(forms, spans, values, strict=True):
            try:
                labels = decode(value)
            except ValueError as error:
                raise GrammarLensError(f"{where}: {error}") from error
            key = tuple(labels.items())
            labels = shared.setdefault(key, MappingProxyType(labels))
            words.append(Word(sys.intern(form), span, labels))
        sentences.append(Sentence(str(n), text, tuple(words), None, where))
    if not sentences:
        raise GrammarLensError(f"{source} has no sentences: choose another split or dataset")
    return Treebank(source, tuple(sentences), notes=_notes(single, empty, len(sentences)))


def _load(source: str, spec: HubSpec) -> Any:
    import datasets  # slow to import, and not needed for CoNLL-U
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset(
            spec.dataset, spec.config, split=spec.split, revision=spec.revision
        )
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise GrammarLensError(
            f"{source} needs a loading script, which is not run ({error}): use a copy of it in "
            "Parquet or JSON"
        ) from error
    except (ValueError, OSError, DatasetsError) as error:
        raise GrammarLensError(
            f"cannot load {source}: {error}. Expected hf:dataset[@revision][:config]:split"
        ) from error


def _choose(
    what: str, columns: list[str], candidates: tuple[str, ...], wanted: str | None, source: str
) -> str:
    """The column asked for, else the first of the usual names that is there."""
    for name in (wanted,) if wanted else candidates:
        if name in columns:
            return name
    expected = repr(wanted) if wanted else " or ".join(candidates)
    option = "words_column" if what == "words" else "label_column"
    raise GrammarLensError(
        f"{source} has no column {expected} for {what}; its columns are {', '.join(columns)}: "
        f"name the right one with {option}"
    )


def _lists(
    row: dict[str, Any], words_column: str, label_column: str, where: str
) -> tuple[list[str], list[Any]]:
    forms, values = row[words_column], row[label_column]
    for column, cell in ((words_column, forms), (label_column, values)):
        if not isinstance(cell, list):
            raise GrammarLensError(
                f"{where}: expected a list in column {column!r}, found {type(cell).__name__}"
            )
    if len(forms) != len(values):
        raise GrammarLensError(
            f"{where}: {len(forms)} words in {words_column!r} but {len(values)} labels in "
            f"{label_column!r}: they must be as many"
        )
    for form in forms:
        if not isinstance(form, str) or not form:
            raise GrammarLensError(f"{where}: expected words in {words_column!r}, found {form!r}")
    return forms, values


def _decoder(label: str, column: str, feature: Any) -> Callable[[Any], dict[str, str]]:
    """A function from one cell's value to the labels it stands for; {} when it is missing."""
    import datasets

    item = getattr(feature, "feature", feature)
    kind = label.partition(":")[0]
    if kind == "feats":
        return _features

    def decode(value: Any) -> dict[str, str]:
        if isinstance(item, datasets.ClassLabel) and isinstance(value, int):
            value = None if value < 0 else item.int2str(value)
        if value is None or value in ("_", ""):
            return {}
        if not isinstance(value, str):
            raise GrammarLensError(
                f"expected names in column {column!r}, found {value!r}: use a ClassLabel or strings"
            )
        return {kind: value}

    return decode


def _features(value: Any) -> dict[str, str]:
    """Features of "Number=Sing|Case=Nom" or of a mapping, whose missing values are left out."""
    if value is None or value in ("_", ""):
        return {}
    if isinstance(value, dict):
        pairs = [(name, feature) for name, feature in value.items() if feature is not None]
    else:
        pairs = [pair.partition("=")[::2] for pair in str(value).split("|")]
    if not all(isinstance(feature, str) and name and feature for name, feature in pairs):
        raise GrammarLensError(f"expected features such as 'Number=Sing|Case=Nom', found {value!r}")
    return {f"feats:{name}": feature for name, feature in pairs if feature != "_"}


def _notes(single: int, empty: int, total: int) -> tuple[str, ...]:
    notes = []
    if single == total:
        notes.append("spacing: single spaces assumed")
    elif single:
        notes.append(f"spacing: single spaces assumed in {single} of {total} sentences")
    if empty:
        notes.append(f"{empty} rows without words left out")
    return tuple(notes)
