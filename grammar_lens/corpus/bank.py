"""Treebanks: words in sentences, and sentences in splits."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Int

from grammar_lens.display import Shown, listed, page
from grammar_lens.errors import GrammarLensError, expected_one_of, nearest, unprintable

LABEL_NAME = re.compile(r"upos|xpos|deprel|feats:[^\s:=|]+")


def check_label(name: str) -> str:
    """The name itself if words can carry such a label.

    Raises GrammarLensError for anything but upos, xpos, deprel and feats:Name.
    """
    if LABEL_NAME.fullmatch(name):
        return name
    near = nearest(name, ("upos", "xpos", "deprel"))
    raise GrammarLensError(
        f"unknown label {name!r}: expected upos, xpos, deprel, or a feature such as feats:Number"
        + ("" if near is None else f"; did you mean {near!r}?")
    )


@dataclass(frozen=True, slots=True)
class Word:
    """A syntactic word: its form, the characters of the sentence that are its own, its labels.

    `span` is [start, end) in `Sentence.text`, None where the word has no characters of its own
    (French au = à + le). A label that is `_` or absent in the source is not in `labels`.
    """

    form: str
    span: tuple[int, int] | None
    labels: Mapping[str, str]

    def __reduce__(self) -> tuple[Callable[..., "Word"], tuple]:
        # Words share read-only label mappings, which pickle and copy refuse to handle.
        return _rebuild_word, (self.form, self.span, dict(self.labels))

    def label(self, name: str) -> str | None:
        """The word's value of one label, such as "NOUN" for upos; None if it has none."""
        return self.labels.get(name)


def _rebuild_word(form: str, span: tuple[int, int] | None, labels: dict[str, str]) -> Word:
    return Word(form, span, MappingProxyType(labels))


@dataclass(frozen=True)
class Sentence(Shown):
    """A text and its words in order. `source` is where it was read: "file.conllu:123".

    `gap` stands between it and the next sentence of its document: a space, nothing where the last
    token has SpaceAfter=No, a line end where the next sentence begins a paragraph.
    """

    id: str
    text: str
    words: tuple[Word, ...]
    document: str | None
    source: str
    gap: str = " "

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 200 else f"{self.text[:200]}…"
        return f"<Sentence {self.source}: {text!r}, {len(self.words)} words>"

    def _tables(self) -> list[pd.DataFrame]:
        names = list(dict.fromkeys(name for word in self.words for name in word.labels))
        first = [name for name in ("upos", "xpos", "deprel") if name in names]
        names = [*first, *sorted(set(names) - set(first))]
        rows = [[word.form, *(word.label(name) for name in names)] for word in self.words]
        return [pd.DataFrame(rows, columns=pd.Index(["form", *names]))]


@dataclass(frozen=True, repr=False)
class Treebank:
    """Sentences in corpus order; `splits` maps a name to its [start, end) in sentences.

    `len` and iteration are over sentences, `bank["train"]` is one split. `notes` are things a
    reader of the results should know, such as assumed spacing or an unverified download.
    """

    name: str
    sentences: tuple[Sentence, ...]
    splits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sentences)

    def __iter__(self) -> Iterator[Sentence]:
        return iter(self.sentences)

    def __getitem__(self, split: str) -> "Treebank":
        if split not in self.splits:
            there_are = ", ".join(self.splits) if self.splits else "none: use it whole"
            raise GrammarLensError(
                f"{self.name} has no split {split!r}; its splits are {there_are}"
            )
        start, end = self.splits[split]
        return Treebank(f"{self.name}:{split}", self.sentences[start:end], notes=self.notes)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.splits)

    @property
    def n_words(self) -> int:
        """Number of syntactic words, including those without characters of their own."""
        return sum(len(sentence.words) for sentence in self.sentences)

    def label_counts(self, name: str) -> dict[str, int]:
        """Words of each value of a label, the commonest first, ties in alphabetical order.

        Raises GrammarLensError if the name is not one of upos, xpos, deprel, feats:Name.
        """
        check_label(name)
        counts = Counter(word.labels.get(name) for word in self._words())
        pairs = [(value, n) for value, n in counts.items() if value is not None]
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))

    def label_names(self) -> tuple[str, ...]:
        """Names of all labels that at least one word has: upos, xpos, deprel, then features."""
        distinct = {id(word.labels): word.labels for word in self._words()}
        names = {name for labels in distinct.values() for name in labels}
        first = [name for name in ("upos", "xpos", "deprel") if name in names]
        return (*first, *sorted(names - set(first)))

    def require_label(self, name: str, minimum: int = 2) -> tuple[tuple[str, ...], dict[str, int]]:
        """The label's values with at least `minimum` words, sorted; the rarer ones with counts.

        Raises GrammarLensError if no word has the label, or if no value has `minimum` words.
        """
        counts = self.label_counts(name)
        if not counts:
            raise GrammarLensError(
                f"no word of {self.name} has the label {name!r}: "
                f"{expected_one_of(name, self.label_names())}"
            )
        strange = [value for value in counts if unprintable(value)]
        if strange:
            raise GrammarLensError(
                f"{name} has the value {strange[0]!r} in {self.name}, with a control character: "
                "correct it in the data"
            )
        frequent = tuple(sorted(value for value, n in counts.items() if n >= minimum))
        dropped = {value: n for value, n in sorted(counts.items()) if n < minimum}
        if not frequent:
            counted = ", ".join(f"{value} ({n})" for value, n in dropped.items())
            raise GrammarLensError(
                f"no value of {name!r} has {minimum} words in {self.name}, found {counted}: "
                "use a larger treebank"
            )
        return frequent, dropped

    def fingerprint(self) -> str:
        """SHA-256, in hex, over texts, spans and labels in order; equal on every platform.

        Name, splits, notes, sentence ids, documents and gaps do not enter it.
        """
        digest = hashlib.sha256(b"grammar-lens treebank 1\n")
        known: dict[int, str] = {}
        for sentence in self.sentences:
            parts = [json.dumps(sentence.text)]
            for word in sentence.words:
                key = id(word.labels)
                if key not in known:
                    known[key] = json.dumps(sorted(word.labels.items()))
                span = "-" if word.span is None else f"{word.span[0]}:{word.span[1]}"
                parts.append(f"{span} {known[key]}")
            digest.update(("\n".join(parts) + "\n\n").encode("ascii"))
        return digest.hexdigest()

    def head(self, n_sentences: int) -> "Treebank":
        """The first `n_sentences`; the whole if there are fewer.

        Raises GrammarLensError if `n_sentences` is below 1.
        """
        if n_sentences < 1:
            raise GrammarLensError(f"expected 1 sentence or more, got {n_sentences}")
        if n_sentences >= len(self):
            return self
        return self._only([i < n_sentences for i in range(len(self))])

    def sample(self, n_sentences: int, *, seed: int) -> "Treebank":
        """A random subset of `n_sentences` in corpus order; the whole if there are fewer.

        Raises GrammarLensError if `n_sentences` is below 1.
        """
        if n_sentences < 1:
            raise GrammarLensError(f"expected 1 sentence or more, got {n_sentences}")
        if n_sentences >= len(self):
            return self
        chosen = np.random.default_rng(seed).permutation(len(self))[:n_sentences]
        keep = np.zeros(len(self), dtype=bool)
        keep[chosen] = True
        return self._only(keep.tolist())

    def sample_documents(self, n_sentences: int, *, seed: int) -> "Treebank":
        """`n_sentences` in corpus order, in whole documents drawn at random, the last cut at its end.

        So sentences keep those before them, which `sample` would take away. Of a single document
        these are its first sentences, whatever the seed.
        Raises GrammarLensError if `n_sentences` is below 1.
        """
        if n_sentences < 1:
            raise GrammarLensError(f"expected 1 sentence or more, got {n_sentences}")
        if n_sentences >= len(self):
            return self
        documents = self.documents()
        rank = np.random.default_rng(seed).permutation(int(documents.max()) + 1)
        keep = np.zeros(len(self), dtype=bool)
        keep[np.argsort(rank[documents], kind="stable")[:n_sentences]] = True
        return self._only(keep.tolist())

    def documents(self) -> Int[np.ndarray, " sentence"]:
        """Number of each sentence's document; a file without document marks is one document.

        A document is a run of sentences from one file with the same `document`.
        """
        marks = [(s.source.rpartition(":")[0], s.document) for s in self.sentences]
        begins = [i > 0 and mark != marks[i - 1] for i, mark in enumerate(marks)]
        return np.cumsum(np.array(begins, np.int64))

    def without(self, other: "Treebank") -> tuple["Treebank", int]:
        """This treebank less the sentences whose exact text also stands in `other`, and how many.

        They are missing from their documents, whose other sentences then follow one another. The
        result may have no sentences at all.
        """
        known = {sentence.text for sentence in other.sentences}
        keep = [sentence.text not in known for sentence in self.sentences]
        return self._only(keep), keep.count(False)

    def _only(self, keep: list[bool]) -> "Treebank":
        sentences: list[Sentence] = []
        for sentence, is_kept in zip(self.sentences, keep, strict=True):
            if is_kept:
                sentences.append(sentence)
            elif sentences and _width(sentence.gap) > _width(sentences[-1].gap):
                sentences[-1] = replace(sentences[-1], gap=sentence.gap)
        splits = {
            name: (sum(keep[:start]), sum(keep[:end])) for name, (start, end) in self.splits.items()
        }
        return replace(self, sentences=tuple(sentences), splits=splits)

    def _words(self) -> Iterator[Word]:
        return (word for sentence in self.sentences for word in sentence.words)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {end - start:,}" for name, (start, end) in self.splits.items())
        splits = f" ({sizes})" if sizes else ""
        return f"<Treebank {self.name}: {len(self):,} sentences{splits}, {self.n_words:,} words>"

    def _repr_html_(self) -> str:
        parts = [self, *(self[name] for name in self.splits)]
        table = pd.DataFrame(
            {
                "treebank": [part.name for part in parts],
                "sentences": [len(part) for part in parts],
                "words": [part.n_words for part in parts],
            }
        )
        beside = [f"labels: {listed(self.label_names()) or 'none'}", *self.notes]
        return page(repr(self), table) + "".join(map(page, beside))


def _width(gap: str) -> tuple[bool, int]:
    """By which the wider of two gaps stays where the sentence between them is dropped."""
    return "\n" in gap, len(gap)
