"""Minimal pairs: two sentences that differ in one word, of which only one is grammatical."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path

from grammar_lens.errors import GrammarLensError, require_one_of

EMBEDDED = "minimal_pairs.csv"
NUMBERS = ("singular", "plural")
ATTRACTORS = ("none", "other", "same")


@dataclass(frozen=True)
class MinimalPair:
    """A grammatical sentence and its twin that breaks number agreement in one word.

    `number` is that of the noun that decides the agreement. `attractor` is the number of a noun
    between it and the verb, beside its own: "other", "same", or "none" where there is no such noun.
    """

    paradigm: str
    number: str
    attractor: str
    good: str
    bad: str
    good_word: str
    bad_word: str


COLUMNS = tuple(field.name for field in fields(MinimalPair))


def read_pairs(path: str | Path | None = None) -> tuple[MinimalPair, ...]:
    """The minimal pairs of a CSV file, by default those of the package, in the file's order.

    The columns are paradigm, number, attractor, good, bad, good_word, bad_word.
    Raises GrammarLensError naming the file and the line that cannot be used.
    """
    if path is None:
        text = (files("grammar_lens") / "embedded" / EMBEDDED).read_text("utf-8")
        return pairs_from_csv(text, EMBEDDED)
    source = Path(path)
    try:
        return pairs_from_csv(source.read_text("utf-8"), str(source))
    except UnicodeDecodeError as error:
        raise GrammarLensError(
            f"{source} is not UTF-8 ({error.reason}): save it as UTF-8"
        ) from error


def pairs_from_csv(text: str, source: str) -> tuple[MinimalPair, ...]:
    """The minimal pairs of a CSV text; `source` is what errors call it."""
    rows = csv.reader(io.StringIO(text))
    header = tuple(next(rows, ()))
    if header != COLUMNS:
        raise GrammarLensError(
            f"{source}:1: the columns are {', '.join(header) or 'none'}, expected {', '.join(COLUMNS)}"
        )
    pairs = []
    for row in rows:
        where = f"{source}:{rows.line_num}"
        if len(row) != len(COLUMNS):
            raise GrammarLensError(f"{where}: {len(row)} columns, expected {len(COLUMNS)}")
        pairs.append(_checked(MinimalPair(*row), where))
    if not pairs:
        raise GrammarLensError(f"{source}: no pair stands after the header")
    return tuple(pairs)


def pairs_to_csv(pairs: Iterable[MinimalPair]) -> str:
    """The pairs as a CSV text with a header."""
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(pair) for pair in pairs)
    return out.getvalue()


def _checked(pair: MinimalPair, where: str) -> MinimalPair:
    """The pair itself. Raises GrammarLensError where it is no minimal pair."""
    empty = [name for name, value in asdict(pair).items() if not value.strip()]
    if empty:
        raise GrammarLensError(f"{where}: {empty[0]} is empty")
    for name, known in (("number", NUMBERS), ("attractor", ATTRACTORS)):
        require_one_of(f"{where}: {name}", getattr(pair, name), known)
    good, bad = pair.good.split(), pair.bad.split()
    differ = [(g, b) for g, b in zip(good, bad, strict=False) if g != b]
    if len(good) != len(bad) or len(differ) != 1:
        raise GrammarLensError(
            f"{where}: {pair.good!r} and {pair.bad!r} must differ in exactly one word"
        )
    words = tuple(word.strip(".,;:!?") for word in differ[0])
    if words != (pair.good_word, pair.bad_word):
        raise GrammarLensError(
            f"{where}: the sentences differ in {words[0]!r} and {words[1]!r}, and the columns say "
            f"{pair.good_word!r} and {pair.bad_word!r}"
        )
    return pair
