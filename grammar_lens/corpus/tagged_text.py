"""Read tagged text: a word and its tag on every line, or running text of word/TAG."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from grammar_lens.corpus.bank import Sentence, Treebank, Word
from grammar_lens.corpus.conllu import read_text
from grammar_lens.corpus.spacing import join
from grammar_lens.errors import GrammarLensError

PREFIX = "tags:"
LABELS = ("upos", "xpos")

Pair = tuple[str, str]


def read_tagged(path: Path, label: str) -> Treebank:
    """The sentences of a file of tagged words, their tags as `label`.

    Either each line has a word and its tag, apart by white space, and a blank line ends a sentence;
    or each line is a sentence of word/TAG, in which a slash of a word may be written \\\\/.
    Words are joined by single spaces, since such files do not record spacing.
    Raises GrammarLensError for a label other than upos and xpos, and, with file and line, for a line
    that is neither.
    """
    if label not in LABELS:
        raise GrammarLensError(
            f"label is {label!r}, and {path} has one tag for each word: use upos or xpos"
        )
    lines = [line.strip() for line in read_text(path).split("\n")]
    first = next((line for line in lines if line), None)
    if first is None:
        raise GrammarLensError(f"{path} has no words: expected lines of 'word TAG' or of word/TAG")
    running = all("/" in piece for piece in first.split())
    labels: dict[str, MappingProxyType[str, str]] = {}
    sentences = []
    for number, pairs in (_running if running else _columns)(path, lines):
        forms = [form for form, _ in pairs]
        text, spans = join(forms, [True] * len(forms))
        words = (
            Word(
                sys.intern(form),
                span,
                labels.setdefault(tag, MappingProxyType({label: sys.intern(tag)})),
            )
            for (form, tag), span in zip(pairs, spans, strict=True)
        )
        sentence = Sentence(
            f"{path.stem}-{len(sentences) + 1}",
            text,
            tuple(words),
            document=None,
            source=f"{path.name}:{number}",
        )
        sentences.append(sentence)
    note = f"spacing: single spaces assumed in {path.name}"
    return Treebank(path.stem, tuple(sentences), notes=(note,))


def _columns(path: Path, lines: list[str]) -> Iterator[tuple[int, list[Pair]]]:
    """Sentences of lines 'word TAG', with the number of their first line."""
    pairs: list[Pair] = []
    begin = 0
    for number, line in enumerate([*lines, ""], start=1):
        if not line:
            if pairs:
                yield begin, pairs
            pairs = []
            continue
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) != 2 or not all(map(str.strip, columns)):
            raise GrammarLensError(
                f"{path}:{number}: expected a word and its tag, found {len(columns)} columns in "
                f"{line[:60]!r}"
            )
        begin = begin if pairs else number
        pairs.append((columns[0].strip(), columns[1].strip()))


def _running(path: Path, lines: list[str]) -> Iterator[tuple[int, list[Pair]]]:
    """Sentences of running text, a line each, with its number."""
    for number, line in enumerate(lines, start=1):
        pairs = []
        for piece in line.split():
            form, slash, tag = piece.rpartition("/")
            if not (form and slash and tag):
                raise GrammarLensError(
                    f"{path}:{number}: expected word/TAG, found {piece[:60]!r}: write the tag after "
                    "the last slash"
                )
            pairs.append((form.replace("\\/", "/"), tag))
        if pairs:
            yield number, pairs
