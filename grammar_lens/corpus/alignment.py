"""Alignment of words and tokens: the last token of a word, the token before it, and token batches.

A text is tokenised once, as a whole, and a word owns the tokens that overlap its characters
(white space at a token's ends does not count). What cannot be aligned is counted by its reason.
A text is a sentence or, where sentences are read in their documents, a window of several
(`windows.py`); either way its tokens are a row of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor

from grammar_lens.corpus.tokenizer_check import (
    METASPACE,
    blank_tokens,
    control_tokens,
    require_faithful,
)
from grammar_lens.defaults import POSITIONS
from grammar_lens.errors import GrammarLensError, require_at_least, require_one_of

Span = tuple[int, int]

REASONS = (
    "aligned",
    "no span of its own",
    "shares a token with a neighbour",
    "beyond the context",
    "no token before it",
    "a control token in its text",
)
"""Index 0 is success; the others say why a word was skipped."""


@dataclass(frozen=True)
class Alignment:
    """Positions of a treebank's words in the model's tokens.

    Words are numbered through the treebank in reading order. `row` numbers the `token_ids` that a
    word stands in: what the model reads at once. `sentence`, the unit of statistics, is the same
    where sentences are read alone. `first` and `last` are token positions within the row, -1 where
    the word has none; `reason[position]` indexes `REASONS`.
    """

    token_ids: tuple[Int[np.ndarray, "..."], ...]
    sentence: Int[np.ndarray, " word"]
    row: Int[np.ndarray, " word"]
    first: Int[np.ndarray, " word"]
    last: Int[np.ndarray, " word"]
    reason: dict[str, Int8[np.ndarray, " word"]]
    has_bos: bool
    lead: Int[np.ndarray, " row"] | None = None
    """Tokens of each row before its text: BOS, and a blank that is a token. None: BOS alone."""

    @property
    def n_words(self) -> int:
        return len(self.sentence)

    @property
    def n_tokens(self) -> int:
        return sum(len(ids) for ids in self.token_ids)

    @property
    def words_per_token(self) -> float:
        """Words per token, to show progress in words."""
        return self.n_words / max(self.n_tokens, 1)

    def aligned(self, position: str) -> Bool[np.ndarray, " word"]:
        """Whether each word can be read at `position`."""
        return self.reason[_known(position)] == 0

    def time(self, position: str) -> Int[np.ndarray, " word"]:
        """The token position at which each word is read; meaningless where it is not aligned."""
        return self.last if _known(position) == "word" else self.first - 1

    def place(self, position: str) -> Int[np.ndarray, " word"]:
        """As `time`, counted within the sentence, as if it were read alone."""
        return self.time(position) - self._begin[self.sentence]

    def scorable(self) -> Bool[np.ndarray, " word"]:
        """Words whose prediction can be scored: aligned at `next` with a real token before them.

        A row's first word has only BOS before it, and perhaps a blank that is a token. Every row gives
        the same vector there, so it says nothing about the word and is neither collected nor scored.
        """
        begin = int(self.has_bos) if self.lead is None else self.lead[self.row]
        return self.aligned("next") & (self.first > begin)

    def readable(self, position: str) -> Bool[np.ndarray, " word"]:
        """Words that are read at `position`: the aligned ones, for `next` the scorable ones."""
        return self.scorable() if _known(position) == "next" else self.aligned("word")

    def readable_at(self, position: str, offset: int) -> Bool[np.ndarray, " word"]:
        """Readable words that have a token `offset` tokens from where they are read; BOS is none."""
        length = np.array([len(ids) for ids in self.token_ids], np.int64)
        read_at = self.time(position) + offset
        begin = 1 if self.has_bos else 0
        return self.readable(position) & (read_at >= begin) & (read_at < length[self.row])

    def skipped(self, position: str) -> dict[str, int]:
        """Number of words skipped at `position`, by reason; reasons without words are left out."""
        counts = np.bincount(self.reason[_known(position)], minlength=len(REASONS))
        return {REASONS[i]: int(counts[i]) for i in range(1, len(REASONS)) if counts[i]}

    @cached_property
    def first_token(self) -> Int[np.ndarray, " word"]:
        """Vocabulary id of each word's first token, -1 where it has none."""
        flat = np.concatenate([*self.token_ids, np.zeros(0, np.int64)])
        where = np.where(self.first >= 0, self.token_start[self.row] + self.first, 0)
        return np.where(self.first >= 0, flat[where] if len(flat) else -1, -1)

    @cached_property
    def token_start(self) -> Int[np.ndarray, " row"]:
        """Number of each row's first token, through all rows."""
        return np.cumsum([0, *(len(ids) for ids in self.token_ids)])[:-1]

    @cached_property
    def row_start(self) -> Int[np.ndarray, " row_plus_one"]:
        """Number of each row's first word; the last entry is the number of words."""
        return np.searchsorted(self.row, np.arange(len(self.token_ids) + 1))

    def sentences_of(self, rows: Int[np.ndarray, " row"]) -> Int[np.ndarray, " sentence"]:
        """The sentences of some rows, row after row; those without words are left out."""
        words = [self.sentence[self.row_start[r] : self.row_start[r + 1]] for r in rows]
        return np.concatenate([*map(np.unique, words), np.zeros(0, np.int64)])

    def as_tokens(self, rows: Int[np.ndarray, " row"]) -> "Alignment":
        """The same rows of tokens with every token of some of them as a word, read at itself."""
        lengths = [len(self.token_ids[row]) for row in rows]
        row = np.repeat(rows, lengths)
        place = np.concatenate([*(np.arange(n) for n in lengths), np.zeros(0, np.int64)])
        reason = np.zeros(len(row), np.int8)
        return Alignment(
            self.token_ids, row, row, place, place, {"word": reason, "next": reason}, self.has_bos
        )

    @cached_property
    def _begin(self) -> Int[np.ndarray, " sentence"]:
        """Number of tokens in its row before each sentence, BOS not counted."""
        begin = np.full(int(self.sentence.max(initial=-1)) + 1, 2**62)
        aligned = self.first >= 0
        np.minimum.at(begin, self.sentence[aligned], self.first[aligned] - int(self.has_bos))
        # a row's first sentence begins with it, even if its first word has no token of its own
        begin[self.sentence[self.row_start[:-1][np.diff(self.row_start) > 0]]] = 0
        return begin


@dataclass(frozen=True)
class TokenBatch:
    """Some rows of tokens as one rectangle, and where their words are read."""

    token_ids: Int[Tensor, "row time"]
    rows: Int[np.ndarray, " row"]
    """Their numbers in the alignment."""
    lengths: Int[np.ndarray, " row"]

    @property
    def n_tokens(self) -> int:
        """Number of tokens in the rows, padding not counted."""
        return int(self.lengths.sum())

    def locate(
        self,
        alignment: Alignment,
        position: str,
        wanted: Bool[np.ndarray, " all_words"],
        offset: int = 0,
    ) -> tuple[Int[np.ndarray, " word"], Int[np.ndarray, " word"]]:
        """Numbers of this batch's `wanted` words, and where each is read in the flattened (row, time).

        `offset` reads so many tokens after that; the caller sees to it that they are there.
        """
        begin, end = alignment.row_start[self.rows], alignment.row_start[self.rows + 1]
        count = end - begin
        row = np.repeat(np.arange(len(count)), count)
        words = np.arange(len(row)) + np.repeat(begin - np.cumsum(count) + count, count)
        chosen = wanted[words]
        words, row = words[chosen], row[chosen]
        place = row * self.token_ids.shape[1]
        # not `time`, which would go through all words of the corpus for every batch
        if _known(position) == "word":
            return words, place + alignment.last[words] + offset
        return words, place + alignment.first[words] - 1 + offset

    def halves(self) -> tuple["TokenBatch", "TokenBatch"]:
        """The upper and the lower rows as two batches, for when memory runs out."""
        middle = (len(self.rows) + 1) // 2
        return self._part(slice(0, middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> "TokenBatch":
        return TokenBatch(self.token_ids[part], self.rows[part], self.lengths[part])


def align(
    texts: Sequence[str],
    spans: Sequence[Sequence[Span | None]],
    tokenizer: Any,
    *,
    max_length: int | None = None,
) -> Alignment:
    """Token positions of every word, given each text and its words' character spans.

    A text is taken for a sentence, and is a row. A word without characters of its own has the span
    None. `tokenizer` is a fast Hugging Face tokenizer; its own BOS is added when it adds one. Tokens
    beyond `max_length` are cut off and words that need them are counted as beyond the context. A text
    that holds the name of a control token ("</s>") is not read, and its words are counted.
    Raises GrammarLensError if the tokenizer cannot give character offsets, or not those of the text
    (see `tokenizer_check`).
    """
    if not getattr(tokenizer, "is_fast", False):
        raise GrammarLensError(
            f"{type(tokenizer).__name__} gives no character offsets: load a fast tokenizer "
            "(AutoTokenizer.from_pretrained(folder, use_fast=True), from a tokenizer.json)"
        )
    token_ids, token_spans, control = _tokenise(texts, tokenizer)
    limit = max_length if max_length is not None else 2**31 - 1
    placed = [_place(words, tokens) for words, tokens in zip(spans, token_spans, strict=True)]
    sentence = np.repeat(np.arange(len(texts)), [len(words) for words in spans])
    first, last, before, after, spanless = (
        np.concatenate([*(p[i] for p in placed), np.zeros(0, np.int64)]) for i in range(5)
    )
    unread = control[sentence]
    first, last = np.where(unread, -1, first), np.where(unread, -1, last)
    common = [(unread, 5), ((spanless == 1) | (first < 0), 1)]
    return Alignment(
        token_ids=tuple(
            ids[: 0 if skipped else limit] for ids, skipped in zip(token_ids, control, strict=True)
        ),
        sentence=sentence,
        row=sentence,
        first=np.where(first < limit, first, -1),
        last=np.where(last < limit, last, -1),
        reason={
            "word": _reasons([*common, (after == 1, 2), (last >= limit, 3)], len(sentence)),
            "next": _reasons(
                [*common, (before == 1, 2), (first >= limit, 3), (first == 0, 4)], len(sentence)
            ),
        },
        has_bos=_has_bos(token_ids, tokenizer),
        lead=np.array([_lead(spans) for spans in token_spans], np.int64),
    )


def token_batches(
    alignment: Alignment,
    token_budget: int = 4096,
    *,
    rows: Int[np.ndarray, " chosen"] | None = None,
    until: Int[np.ndarray, " row"] | None = None,
) -> list[TokenBatch]:
    """Rows in batches of at most `token_budget` tokens, padding counted, longest first.

    Rows of like length stand together, so little is padding; one longer than the budget is a batch
    by itself. `rows` restricts to some of them, `until` each to so many of its first tokens. Padding
    follows the tokens, where causal attention never looks, so there is no mask.
    """
    require_at_least("token budget", token_budget, 1)
    lengths = np.array([len(ids) for ids in alignment.token_ids], np.int64)
    lengths = lengths if until is None else np.minimum(lengths, until)
    chosen = np.arange(len(lengths)) if rows is None else np.sort(rows)
    chosen = chosen[lengths[chosen] > 0]
    order = chosen[np.argsort(-lengths[chosen], kind="stable")]
    batches, begin = [], 0
    while begin < len(order):
        width = int(lengths[order[begin]])
        some = order[begin : begin + max(1, token_budget // width)]
        batches.append(_pad(alignment, some, lengths[some]))
        begin += len(some)
    return batches


def _pad(
    alignment: Alignment, rows: Int[np.ndarray, " row"], lengths: Int[np.ndarray, " row"]
) -> TokenBatch:
    ids = np.zeros((len(rows), int(lengths[0])), np.int64)
    for i, row in enumerate(rows):
        ids[i, : lengths[i]] = alignment.token_ids[row][: lengths[i]]
    return TokenBatch(torch.from_numpy(ids), rows, lengths)


def count_tokens(texts: Sequence[str], tokenizer: Any) -> Int[np.ndarray, " text"]:
    """Number of tokens of each text, including BOS and other special tokens."""
    if not texts:
        return np.zeros(0, np.int64)
    coded = tokenizer(list(texts), return_attention_mask=False, verbose=False)
    return np.array([len(ids) for ids in coded["input_ids"]], np.int64)


def _tokenise(
    texts: Sequence[str], tokenizer: Any
) -> tuple[
    list[Int[np.ndarray, "..."]], list[Int[np.ndarray, "token two"]], Bool[np.ndarray, " text"]
]:
    """Ids and spans, white space trimmed, of every text's tokens; whether it has a control token."""
    if not texts:
        return [], [], np.zeros(0, bool)
    coded = tokenizer(
        list(texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    ids = [np.asarray(row, np.int64) for row in coded["input_ids"]]
    offsets = [np.asarray(row, np.int64).reshape(-1, 2) for row in coded["offset_mapping"]]
    control = control_tokens(texts, ids, offsets, tokenizer)
    plain = [i for i, has_control in enumerate(control) if not has_control]
    require_faithful(
        [str(texts[i]) for i in plain],
        [ids[i] for i in plain],
        [offsets[i] for i in plain],
        tokenizer,
    )
    blank = blank_tokens(tokenizer)
    spans = [
        _trimmed(text, _without_metaspaces(text, own, span, blank))
        for text, own, span in zip(texts, ids, offsets, strict=True)
    ]
    return ids, spans, control


def _without_metaspaces(
    text: str,
    ids: Int[np.ndarray, "..."],
    offsets: Int[np.ndarray, "token two"],
    blank: Int[np.ndarray, " blank"],
) -> Int[np.ndarray, "token two"]:
    """Offsets in which a token that is a blank alone is empty, unless the text has the sign itself."""
    alone = np.isin(ids, blank)
    if not alone.any() or METASPACE in text:
        return offsets
    return np.where(alone[:, None], offsets[:, :1], offsets)


def _trimmed(text: str, offsets: Int[np.ndarray, "token two"]) -> Int[np.ndarray, "token two"]:
    """Spans without the white space at their ends; a token of white space alone becomes empty."""
    begin, end = offsets[:, 0].copy(), offsets[:, 1].copy()
    blank = np.fromiter((c.isspace() for c in text), bool, len(text))
    for edge in np.flatnonzero(begin < end):
        while begin[edge] < end[edge] and blank[begin[edge]]:
            begin[edge] += 1
        while begin[edge] < end[edge] and blank[end[edge] - 1]:
            end[edge] -= 1
    return np.stack([begin, end], 1)


def _place(
    words: Sequence[Span | None], tokens: Int[np.ndarray, "token two"]
) -> tuple[Int[np.ndarray, " word"], ...]:
    """First and last token of each word, whether they run out of it before or after, and spanless."""
    n = len(words)
    first, last = np.full(n, -1), np.full(n, -1)
    before, after, spanless = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    real = np.flatnonzero(tokens[:, 0] < tokens[:, 1])
    begins, ends = tokens[real, 0], tokens[real, 1]
    for i, span in enumerate(words):
        if span is None:
            spanless[i] = 1
            continue
        lo = int(np.searchsorted(ends, span[0], side="right"))
        hi = int(np.searchsorted(begins, span[1], side="left"))
        if lo >= hi:
            continue
        first[i], last[i] = real[lo], real[hi - 1]
        before[i] = begins[lo] < span[0]
        after[i] = ends[hi - 1] > span[1]
    return first, last, before, after, spanless


def _reasons(
    rules: Sequence[tuple[Bool[np.ndarray, " word"], int]], n: int
) -> Int8[np.ndarray, " word"]:
    """The code of the first rule that holds for each word, 0 where none does."""
    reason = np.zeros(n, np.int8)
    for holds, code in reversed(rules):
        reason[holds] = code
    return reason


def _lead(spans: Int[np.ndarray, "token two"]) -> int:
    """Number of tokens before the first that has characters of the text."""
    return int(np.argmax(spans[:, 0] < spans[:, 1])) if len(spans) else 0


def _has_bos(token_ids: Sequence[Int[np.ndarray, "..."]], tokenizer: Any) -> bool:
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and all(len(ids) > 0 and ids[0] == bos for ids in token_ids)


def _known(position: str) -> str:
    require_one_of("position", position, POSITIONS)
    return position
