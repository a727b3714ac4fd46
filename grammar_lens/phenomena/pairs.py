"""Minimal pairs: two sentences that differ in one place, of which only one is grammatical."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd

from grammar_lens.defaults import SEED
from grammar_lens.display import Shown, listed
from grammar_lens.errors import GrammarLensError, counted, require_at_least
from grammar_lens.phenomena.blimp import UIDS, fetch

EMBEDDED = "minimal_pairs.csv"
NAME = "embedded"
FORMS = (
    "expected FILE.jsonl in BLiMP's form, FILE.csv with the columns good and bad, a folder of such "
    f"files, blimp:UID, blimp:all, or {NAME} for the project's pairs of number agreement"
)


@dataclass(frozen=True)
class MinimalPair:
    """A grammatical sentence and its ungrammatical twin, as an instance of a phenomenon.

    `term` groups related phenomena, such as "island_effects" (BLiMP's `linguistics_term`); it may be
    empty.
    """

    phenomenon: str
    good: str
    bad: str
    term: str = ""


@dataclass(frozen=True)
class Pairs(Shown, Sequence[MinimalPair]):
    """Minimal pairs of one or several phenomena, in the order of their files.

    `notes` say how files were checked, and what was left out.
    """

    pairs: tuple[MinimalPair, ...]
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> MinimalPair: ...
    @overload
    def __getitem__(self, index: slice) -> "Pairs": ...
    def __getitem__(self, index: int | slice) -> "MinimalPair | Pairs":
        if isinstance(index, slice):
            return Pairs(self.pairs[index], self.notes)
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[MinimalPair]:
        return iter(self.pairs)

    @property
    def phenomena(self) -> tuple[str, ...]:
        """The phenomena in the order of the pairs."""
        return phenomena_of(self.pairs)

    def sample(self, most: int, seed: int = SEED) -> "Pairs":
        """At most so many pairs of each phenomenon, drawn at random, in their order."""
        require_at_least("max_pairs", most, 1)
        of = np.array([pair.phenomenon for pair in self.pairs], object)
        chosen = []
        for name in self.phenomena:
            rows = np.flatnonzero(of == name)
            # a generator for each: the draw does not depend on the phenomena beside it
            rng = np.random.default_rng([seed, 13, *name.encode()])
            chosen.append(np.sort(rng.permutation(rows)[:most]))
        return Pairs(tuple(self.pairs[i] for i in np.concatenate(chosen)), self.notes)

    def to_frame(self) -> pd.DataFrame:
        """A row per pair: phenomenon, good, bad, term."""
        columns = pd.Index(["phenomenon", "good", "bad", "term"])
        rows = [(p.phenomenon, p.good, p.bad, p.term) for p in self.pairs]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        of = [pair.phenomenon for pair in self.pairs]
        sizes = listed(f"{name} {of.count(name):,}" for name in self.phenomena)
        return f"Pairs: {len(self):,} of {counted(len(self.phenomena), 'phenomenon', 'phenomena')}; {sizes}"

    def _tables(self) -> list[pd.DataFrame]:
        return [self.to_frame()]


def phenomena_of(pairs: Iterable[MinimalPair]) -> tuple[str, ...]:
    """The phenomena of some pairs in the order in which they come."""
    return tuple(dict.fromkeys(pair.phenomenon for pair in pairs))


def load_pairs(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = NAME,
    *,
    max_pairs: int | None = None,
    seed: int = SEED,
) -> Pairs:
    """The minimal pairs of one source or several; without one, the project's of number agreement.

    A path that exists wins over the other forms: a file with a JSON object a line in BLiMP's form
    (`sentence_good`, `sentence_bad`, and `UID` and `linguistics_term` where given); a CSV file with the
    columns good and bad, and phenomenon and term where given, others not being read; a folder of such
    files. `blimp:UID` is fetched once and cached, `blimp:all` all 67. A phenomenon without a name has
    that of its file. Of each phenomenon at most `max_pairs`, drawn with `seed`.
    Raises GrammarLensError for what cannot be found or read: the message has file and line.
    """
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not sources:
        raise GrammarLensError(f"no source of minimal pairs was given: {FORMS}")
    pairs: list[MinimalPair] = []
    notes: dict[str, None] = {}
    origin: dict[str, str] = {}
    for one in [str(os.fspath(x)) for x in sources]:
        for read in _read_source(one):
            for name in read.phenomena:
                if name in origin:
                    raise GrammarLensError(
                        f"{name!r} comes from both {origin[name]} and {one}: give each phenomenon once"
                    )
            origin |= dict.fromkeys(read.phenomena, one)
            pairs += read.pairs
            notes |= dict.fromkeys(read.notes)
    found = Pairs(tuple(pairs), tuple(notes))
    return found if max_pairs is None else found.sample(max_pairs, seed)


def _read_source(source: str) -> Iterator[Pairs]:
    path = Path(source)
    if source and path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".csv"))
        if not inside:
            raise GrammarLensError(f"the folder {source} has no .jsonl and no .csv file")
        yield from map(_read_file, inside)
    elif source and path.is_file():
        yield _read_file(path)
    elif source == NAME:
        yield _from_csv(
            (files("grammar_lens") / "embedded" / EMBEDDED).read_text("utf-8"), EMBEDDED
        )
    elif source.startswith("blimp:"):
        uid = source.removeprefix("blimp:")
        for name in UIDS if uid == "all" else (uid,):
            file, notes = fetch(name)
            read = _read_file(file)
            yield Pairs(read.pairs, (*notes, *read.notes))
    else:
        raise GrammarLensError(f"no minimal pairs at {source!r}: {FORMS}")


def _read_file(path: Path) -> Pairs:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GrammarLensError(f"{path} is not UTF-8 ({error.reason}): save it as UTF-8") from error
    except OSError as error:
        raise GrammarLensError(f"cannot read {path}: {error.strerror or error}") from error
    return _from_csv(text, str(path)) if path.suffix == ".csv" else _from_json(text, str(path))


def _from_json(text: str, source: str) -> Pairs:
    """Pairs of a text with a JSON object a line; `source` is what errors call it."""
    pairs: list[MinimalPair] = []
    identical: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{source}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise GrammarLensError(f"{where}: this line is no JSON ({error})") from error
        names = ("sentence_good", "sentence_bad")
        if not (isinstance(row, dict) and all(isinstance(row.get(x), str) for x in names)):
            raise GrammarLensError(
                f"{where}: expected a JSON object with texts {' and '.join(names)}"
            )
        good, bad = (row[x] for x in names)
        uid = str(row.get("UID") or Path(source).stem)
        if uid in UIDS and good == bad:
            # BLiMP was published with a few, which its users cannot mend
            identical[uid] = identical.get(uid, 0) + 1
            continue
        pairs.append(
            _checked(MinimalPair(uid, good, bad, str(row.get("linguistics_term") or "")), where)
        )
    notes = (
        f"{uid}: {counted(n, 'pair')} of identical sentences left out"
        for uid, n in identical.items()
    )
    return _some(pairs, tuple(notes), source)


def _from_csv(text: str, source: str) -> Pairs:
    """Pairs of a CSV text; `source` is what errors call it."""
    rows = csv.reader(io.StringIO(text), strict=True)
    pairs: list[MinimalPair] = []
    try:
        header = next(rows, [])
        if missing := [name for name in ("good", "bad") if name not in header]:
            raise GrammarLensError(
                f"{source}:1: there is no column {missing[0]!r}, expected the columns good and bad: "
                f"there are {', '.join(header) or 'none'}"
            )
        for row in rows:
            if not row:
                continue
            where = f"{source}:{rows.line_num}"
            if len(row) != len(header):
                raise GrammarLensError(f"{where}: {len(row)} columns, expected {len(header)}")
            cell = dict(zip(header, row, strict=True))
            name = cell.get("phenomenon") or Path(source).stem
            pair = MinimalPair(name, cell["good"], cell["bad"], cell.get("term", ""))
            pairs.append(_checked(pair, where))
    except csv.Error as error:
        raise GrammarLensError(
            f"{source}:{rows.line_num}: this line is no CSV ({error})"
        ) from error
    return _some(pairs, (), source)


def _some(pairs: list[MinimalPair], notes: tuple[str, ...], source: str) -> Pairs:
    if not pairs:
        raise GrammarLensError(f"{source}: there is no pair in it")
    return Pairs(tuple(pairs), notes)


def _checked(pair: MinimalPair, where: str) -> MinimalPair:
    """The pair itself. Raises GrammarLensError where it is no minimal pair."""
    for side in ("good", "bad"):
        if not getattr(pair, side).strip():
            raise GrammarLensError(f"{where}: the {side} sentence is empty")
    if pair.good == pair.bad:
        raise GrammarLensError(f"{where}: the two sentences are the same, {pair.good!r}")
    return pair
