"""Windows of consecutive sentences of a document, each one row of tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from grammar_lens.corpus.alignment import Alignment, Span, align, count_tokens


def align_windows(
    texts: Sequence[str],
    spans: Sequence[Sequence[Span | None]],
    gaps: Sequence[str],
    documents: Int[np.ndarray, " sentence"],
    tokenizer: Any,
    *,
    window: int,
    max_length: int | None = None,
) -> Alignment:
    """As `align`, with consecutive sentences of a document in windows of at most `window` tokens.

    `gaps` stand between each sentence and the next of its document, which `documents` numbers.
    Windows follow one another without overlap, so every word stands in one. A sentence longer than
    the window is a window by itself; as in `align`, only what exceeds `max_length` is cut off.
    """
    limit = window if max_length is None else min(window, max_length)
    windows = _windows(texts, gaps, documents, tokenizer, limit)
    alignment = align(
        [_joined(texts, gaps, each) for each in windows],
        [_shifted(texts, spans, gaps, each) for each in windows],
        tokenizer,
        max_length=max_length,
    )
    sentence = np.repeat(np.arange(len(texts)), [len(words) for words in spans])
    return replace(alignment, sentence=sentence)


def _windows(
    texts: Sequence[str],
    gaps: Sequence[str],
    documents: Int[np.ndarray, " sentence"],
    tokenizer: Any,
    limit: int,
) -> list[range]:
    """The sentences of every window, in order; one that came out too long is halved."""
    waiting, done = _packed(texts, gaps, documents, tokenizer, limit), []
    while waiting:
        lengths = count_tokens([_joined(texts, gaps, each) for each in waiting], tokenizer)
        halves = []
        for each, length in zip(waiting, lengths, strict=True):
            if length <= limit or len(each) == 1:
                done.append(each)
            else:
                middle = len(each) // 2
                halves += [each[:middle], each[middle:]]
        waiting = halves
    return sorted(done, key=lambda each: each.start)


def _packed(
    texts: Sequence[str],
    gaps: Sequence[str],
    documents: Int[np.ndarray, " sentence"],
    tokenizer: Any,
    limit: int,
) -> list[range]:
    """Sentences in windows that fill up to the limit, each estimated with the gap before it.

    In a window a sentence mostly has as many tokens as alone behind its gap, or one fewer.
    """
    special = int(count_tokens([""], tokenizer)[0])
    own = count_tokens(
        [gap + text for gap, text in zip(["", *gaps], texts, strict=False)], tokenizer
    )
    windows, begin, total = [], 0, special
    for i, length in enumerate((own - special).tolist()):
        if i > begin and (total + length > limit or documents[i] != documents[i - 1]):
            windows.append(range(begin, i))
            begin, total = i, special
        total += length
    return [*windows, range(begin, len(texts))] if len(texts) else []


def _joined(texts: Sequence[str], gaps: Sequence[str], window: range) -> str:
    """The text of a window; no gap follows its last sentence."""
    return "".join(texts[i] + gaps[i] for i in window[:-1]) + texts[window[-1]]


def _shifted(
    texts: Sequence[str],
    spans: Sequence[Sequence[Span | None]],
    gaps: Sequence[str],
    window: range,
) -> list[Span | None]:
    """The spans of a window's words in its text."""
    shifted: list[Span | None] = []
    start = 0
    for i in window:
        shifted += [None if s is None else (s[0] + start, s[1] + start) for s in spans[i]]
        start += len(texts[i]) + len(gaps[i])
    return shifted
