"""Sources of treebanks, and `load_treebank`, which reads any of them."""

import os
import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

from grammar_lens.corpus import hugging_face, universal_dependencies
from grammar_lens.corpus.bank import Sentence, Treebank, check_label
from grammar_lens.corpus.conllu import read_conllu
from grammar_lens.corpus.tagged_text import PREFIX, read_tagged
from grammar_lens.errors import GrammarLensError

SPLIT_ORDER = ("train", "dev", "test")
FORMS = (
    "expected the path of a .conllu file or of a folder of them, folder:split, a name such as "
    "UD_English-EWT or UD_English-EWT:train, tags:file, hf:dataset[@revision][:config]:split, or "
    "embedded[:split] for the treebank in the package"
)


def load_treebank(
    source: str | os.PathLike[str] | None = None,
    *,
    label: str = "upos",
    words_column: str | None = None,
    label_column: str | None = None,
    ud_base_url: str | None = None,
    skip_bad_sentences: bool = False,
) -> Treebank:
    """The treebank at `source`; without one, the handmade English treebank in the package, "embedded".

    A path that exists wins over the other forms: a CoNLL-U file; a folder of `*.conllu`, whose
    splits are named by the ends -train, -dev and -test of the file names, else by the whole name;
    `folder:split`; `UD_English-EWT[:split]`, fetched once and cached, from `ud_base_url` if given;
    `hf:dataset[@revision][:config]:split`, a Hugging Face dataset or a folder with one;
    `tags:file`, lines of a word and its tag or running text of word/TAG (see `tagged_text`).

    CoNLL-U files bring all labels there are. From a dataset `label` is read, from the column of
    that name unless `label_column` says otherwise; `words_column` likewise. With
    `skip_bad_sentences` sentences of a CoNLL-U file that are wrong are left out and counted in `notes`.
    Raises GrammarLensError for what cannot be found or read: the message has file and line.
    """
    check_label(label)
    if source is None:
        return _load_embedded()
    source = os.fspath(source)
    path = Path(source)
    exists = bool(source) and path.exists()
    name, _, split = source.partition(":")
    if name == "embedded" and not exists:
        bank = _load_embedded()
        return bank[split] if split else bank
    if source.startswith("hf:") and not exists:
        return hugging_face.read_dataset(
            source, label=label, words_column=words_column, label_column=label_column
        )
    if words_column or label_column:
        raise GrammarLensError(
            f"words_column and label_column are for hf: datasets, not for {source!r}: leave them out"
        )
    skip = skip_bad_sentences
    if exists:
        if path.is_dir():
            return _read_folder(path, skip=skip)
        return _read_files(path.stem, {"": path}, skip=skip)
    if source.startswith(PREFIX):
        return read_tagged(Path(source.removeprefix(PREFIX)), label)
    folder, colon, split = source.rpartition(":")
    if colon and Path(folder).is_dir():
        return _read_folder(Path(folder), split, skip=skip)
    if colon and Path(folder).is_file():
        raise GrammarLensError(
            f"{folder} is one file and has no split {split!r}: leave out :{split}"
        )
    if source.startswith("UD_"):
        name = universal_dependencies.UDName.parse(source)
        files, notes = universal_dependencies.fetch(name, base_url=ud_base_url)
        return _read_split_or_all(name.repository, files, name.split, notes, skip=skip)
    raise GrammarLensError(f"no treebank at {source!r}: {FORMS}")


def _load_embedded() -> Treebank:
    with as_file(files("grammar_lens") / "embedded" / "treebank") as folder:
        if not folder.is_dir():
            raise GrammarLensError(
                f"the embedded treebank is missing from {folder}: install grammar_lens again"
            )
        return _read_files("handmade", _split_files(folder))


def _read_folder(folder: Path, split: str | None = None, *, skip: bool = False) -> Treebank:
    return _read_split_or_all(folder.resolve().name, _split_files(folder), split, skip=skip)


def _read_split_or_all(
    name: str,
    files: Mapping[str, Path],
    split: str | None,
    notes: tuple[str, ...] = (),
    *,
    skip: bool = False,
) -> Treebank:
    if split is None:
        return _read_files(name, files, notes, skip=skip)
    if split not in files:
        raise GrammarLensError(f"{name} has no split {split!r}; its splits are {', '.join(files)}")
    return _read_files(f"{name}:{split}", {"": files[split]}, notes, skip=skip)


def _split_files(folder: Path) -> dict[str, Path]:
    """Split name -> file: train, dev, test first, then the others by name.

    Raises GrammarLensError if there is no .conllu file or if two have the same split name.
    """
    files: dict[str, Path] = {}
    paths = [path for path in sorted(folder.glob("*.conllu")) if path.is_file()]
    if not paths:
        raise GrammarLensError(
            f"no .conllu file in the folder {folder}: give a folder that has some, not in "
            "folders inside it"
        )
    for path in paths:
        match = re.search(r"-(train|dev|test)$", path.stem)
        split = match[1] if match else path.stem
        if split in files:
            raise GrammarLensError(
                f"{folder} has two files for the split {split!r}, {files[split].name} and "
                f"{path.name}: keep one treebank per folder, or give the path of one file"
            )
        files[split] = path
    first = [split for split in SPLIT_ORDER if split in files]
    return {split: files[split] for split in [*first, *(s for s in files if s not in first)]}


def _read_files(
    name: str, files: Mapping[str, Path], notes: tuple[str, ...] = (), *, skip: bool = False
) -> Treebank:
    """All files as one treebank; the split named "" is the treebank itself and no split."""
    sentences: list[Sentence] = []
    splits: dict[str, tuple[int, int]] = {}
    for split, path in files.items():
        start = len(sentences)
        read, spacing = read_conllu(path, skip_bad_sentences=skip)
        sentences += read
        notes += spacing
        if split:
            splits[split] = (start, len(sentences))
    return Treebank(name, tuple(sentences), splits, notes)
