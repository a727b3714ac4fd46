"""CoNLL-U files -> sentences. Lines are split here for their numbers and parsed by `conllu`.

Source: https://universaldependencies.org/format.html
"""

import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NoReturn

import conllu
from conllu.exceptions import ParseException

from grammar_lens.corpus.bank import Sentence, Word
from grammar_lens.corpus.spacing import Span, divide, find_in_order, join
from grammar_lens.errors import GrammarLensError, readable, unprintable

LONGEST = 600
"""Characters of a message; a damaged line may be quoted in it."""
GZIP_MAGIC = b"\x1f\x8b"
# Heads and enhanced dependencies are not read, so that a slip in them stops nobody.
UNREAD = {"head": lambda line, i: line[i], "deps": lambda line, i: line[i]}

UnicodeForm = Literal["NFC", "NFD"]
UNICODE_FORMS: tuple[UnicodeForm, ...] = ("NFC", "NFD")

Row = dict[str, Any]  # what `conllu` makes of a line
Labels = Mapping[str, str]


class _Token(NamedTuple):
    """A surface token of a sentence: one word, or the words of a multiword token."""

    form: str
    space_after: bool
    words: list[Row]


class _Block:
    """The lines of one sentence, where they stand, and errors that name the line."""

    def __init__(self, path: Path, first_line: int, lines: list[str]) -> None:
        self.path = path
        self.first_line = first_line
        self.lines = lines
        self.token_lines = [n for n, line in enumerate(lines) if not line.startswith("#")]

    def fail(self, problem: str, token: int | None = None) -> NoReturn:
        offset = 0 if token is None else self.token_lines[token]
        if len(problem) > LONGEST:
            problem = f"{problem[: LONGEST - 60]} ... {problem[-50:]}"
        raise GrammarLensError(f"{self.path}:{self.first_line + offset}: {problem}")

    def parse(self) -> tuple[dict[str, Any], list[Row]]:
        """Comments and lines as `conllu` reads them; a bad line is a GrammarLensError with number."""
        self._check_columns()
        try:
            parsed = conllu.parse_token_and_metadata("\n".join(self.lines), field_parsers=UNREAD)
        except (ParseException, ValueError) as whole:  # int() refuses more than 4,300 digits
            for token, n in enumerate(self.token_lines):
                try:
                    conllu.parse_token_and_metadata(self.lines[n], field_parsers=UNREAD)
                except (ParseException, ValueError) as error:
                    self.fail(f"{error} Correct this line", token)
            self.fail(str(whole))
        return dict(parsed.metadata), list(parsed)

    def begins_document(self) -> str | None:
        """The name of the document that begins here, if one does; a bad sentence can begin one too."""
        for line in self.lines:
            name, _, value = line.removeprefix("#").partition("=")
            if line.startswith("#") and name.strip() in ("newdoc", "newdoc id"):
                given = value.strip() if name.strip() == "newdoc id" else ""
                return given or f"{self.path.stem}:{self.first_line}"
        return None

    def _check_columns(self) -> None:
        for token, n in enumerate(self.token_lines):
            line = self.lines[n]
            columns = line.split("\t")
            if len(columns) != 10:
                self.fail(
                    f"expected 10 columns separated by tabs, found {len(columns)} in "
                    f"{line[:60]!r}: is this a CoNLL-U file?",
                    token,
                )
            if "" in columns:
                self.fail("a column is empty: write _ for a value that is missing", token)
            if "  " in line:
                # UD forbids it, and `conllu` would take it for the end of a column.
                self.fail("two spaces in a row inside a column: write a single space", token)


def read_conllu(
    path: Path, *, skip_bad_sentences: bool = False
) -> tuple[list[Sentence], tuple[str, ...]]:
    """The file's sentences, and notes on where their spaces come from if not from SpaceAfter.

    With `skip_bad_sentences` a sentence that is not CoNLL-U is left out, and a note counts them.
    Raises GrammarLensError, with file and line, for anything that is not CoNLL-U.
    """
    sentences: list[Sentence] = []
    respaced, marked, withheld = 0, False, 0
    document = None
    bad: list[str] = []
    shared: dict[tuple, Labels] = {}
    for block in _blocks(path, read_text(path)):
        document = block.begins_document() or document
        try:
            with readable(f"{path}:{block.first_line}", "correct this sentence"):
                read = _sentence(block, document, len(sentences) + 1, shared)
        except GrammarLensError as error:
            if not skip_bad_sentences:
                raise
            bad.append(str(error))
            continue
        if read is None:
            continue
        if sentences and read.begins_paragraph:
            sentences[-1] = replace(sentences[-1], gap="\n")
        respaced += read.from_text
        marked |= read.marked
        withheld += sum(word.form == "_" for word in read.sentence.words)
        sentences.append(read.sentence)
    n_words = sum(len(sentence.words) for sentence in sentences)
    if withheld > n_words / 2:
        raise GrammarLensError(
            f"{path} has _ for {withheld:,} of {n_words:,} words: this treebank is given out without "
            "its text. Its README says where to get the text and how to put it in"
        )
    if not sentences:
        why = f". All {len(bad)} were skipped, the first for: {bad[0]}" if bad else ""
        raise GrammarLensError(
            f"{path} has no sentences: expected a CoNLL-U file with words in it{why}"
        )
    notes = _notes(path.name, respaced, len(sentences), marked)
    if bad:
        notes += (f"{len(bad):,} sentences of {path.name} skipped, the first for: {bad[0]}",)
    return sentences, notes


class _Read(NamedTuple):
    """A sentence, and what is asked of the file as a whole."""

    sentence: Sentence
    from_text: bool
    marked: bool
    begins_paragraph: bool


def _sentence(
    block: _Block, document: str | None, number: int, shared: dict[tuple, Labels]
) -> _Read | None:
    """The sentence of a block; None where it has no words."""
    comments, rows = block.parse()
    tokens = _surface_tokens(block, rows)
    if not tokens:
        return None
    given = comments.get("text")
    text, spans, from_text, form = _text_and_spans(block, tokens, given)
    sentence = Sentence(
        id=comments.get("sent_id") or f"{block.path.stem}-{number}",
        text=text,
        words=tuple(_words(block, tokens, spans, shared, form)),
        document=document,
        source=f"{block.path.name}:{block.first_line}",
        gap=" " if tokens[-1].space_after else "",
    )
    return _Read(
        sentence,
        from_text,
        given is not None or not all(token.space_after for token in tokens),
        "newpar" in comments or "newpar id" in comments,
    )


def _notes(name: str, respaced: int, total: int, marked: bool) -> tuple[str, ...]:
    if not marked:
        return (f"spacing: single spaces assumed in {name}",)
    if respaced:
        return (
            f"spacing: taken from # text, which differs from SpaceAfter, in {respaced} of "
            f"{total:,} sentences of {name}",
        )
    return ()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises GrammarLensError, with the line, for anything else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GrammarLensError(f"cannot read {path}: {error.strerror}") from error
    if data.startswith(GZIP_MAGIC):
        raise GrammarLensError(f"{path} is a gzip file: unpack it first, with gunzip")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise GrammarLensError(
            f"{path}:{line}: not UTF-8, byte 0x{data[error.start]:02x} at offset {error.start}: "
            "save the file as UTF-8"
        ) from error


def _blocks(path: Path, text: str) -> Iterator[_Block]:
    lines: list[str] = []
    # Not splitlines: forms may hold characters that it takes for line ends, such as U+2028.
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if line.strip():
            lines.append(line.removesuffix("\r"))
        elif lines:
            yield _Block(path, number - len(lines), lines)
            lines = []


def _surface_tokens(block: _Block, rows: list[Row]) -> list[_Token]:
    tokens: list[_Token] = []
    last, open_until = 0, 0  # last word id, last word id of the multiword token we are in
    for n, row in enumerate(rows):
        space_after = (row.get("misc") or {}).get("SpaceAfter") != "No"
        match row["id"]:
            case (int(), ".", int()):
                continue  # empty node
            case (int(start), "-", int(end)):
                if start != last + 1 or end <= start or last < open_until:
                    block.fail(
                        f"multiword token {start}-{end} cannot follow word {last}: its line comes "
                        "just before the first of its two or more words, and none overlap",
                        n,
                    )
                open_until = end
                tokens.append(_Token(row["form"], space_after, []))
            case int(number):
                if number != last + 1:
                    block.fail(
                        f"expected word id {last + 1}, found {number}: number words 1, 2, 3 ...",
                        n,
                    )
                last = number
                if number > open_until:
                    tokens.append(_Token(row["form"], space_after, []))
                tokens[-1].words.append(row)
            case _:
                block.fail("a line without an id: number the words 1, 2, 3 ...", n)
    if last < open_until:
        block.fail(f"the multiword token that ends at {open_until} has words up to {last} only")
    return tokens


def _text_and_spans(
    block: _Block, tokens: list[_Token], given: str | None
) -> tuple[str, list[Span], bool, UnicodeForm | None]:
    """Text, the tokens' spans in it, whether its spaces differ from the SpaceAfter marks.

    Last comes the Unicode form of the text where the words are written in another.
    """
    forms = [token.form for token in tokens]
    text, spans = join(forms, [token.space_after for token in tokens])
    if given is None or text.strip() == given.strip():
        return text, spans, False, None
    given = given.strip()
    located = find_in_order(forms, given)
    for form in UNICODE_FORMS if located is None else ():
        if unicodedata.is_normalized(form, given):
            located = find_in_order([unicodedata.normalize(form, f) for f in forms], given)
            if located is not None:
                return given, located, True, form
    if located is None:
        block.fail(
            f"the words make {text!r}, but # text is {given!r}: correct the forms, SpaceAfter=No "
            "or # text"
        )
    return given, located, True, None


def _words(
    block: _Block,
    tokens: list[_Token],
    spans: list[Span],
    shared: dict[tuple, Labels],
    form: UnicodeForm | None,
) -> Iterator[Word]:
    def written(text: str) -> str:
        return text if form is None else unicodedata.normalize(form, text)

    for token, span in zip(tokens, spans, strict=True):
        parts: list[Span | None] = [span]
        if len(token.words) > 1:
            forms = [written(row["form"]) for row in token.words]
            parts = divide(written(token.form), forms, span)
        for row, part in zip(token.words, parts, strict=True):
            yield Word(sys.intern(row["form"]), part, _labels(block, row, shared))


def _labels(block: _Block, row: Row, shared: dict[tuple, Labels]) -> Labels:
    """The word's labels; one mapping, read-only, for all words that have the same."""
    feats: dict[str, Any] = row["feats"] or {}
    key = (row["upos"], row["xpos"], row["deprel"], *feats.items())
    if key not in shared:
        labels = {name: row[name] for name in ("upos", "xpos", "deprel")}
        labels |= {f"feats:{name}": value for name, value in feats.items()}
        strange = [value for value in labels.values() if value and unprintable(value)]
        if strange:
            block.fail(f"the label {strange[0]!r} has a control character: correct it", None)
        if "" in labels.values():
            block.fail(f"a feature without a value in {feats}: write Name=Value")
        present = {name: value for name, value in labels.items() if value not in (None, "_")}
        shared[key] = MappingProxyType(present)
    return shared[key]
