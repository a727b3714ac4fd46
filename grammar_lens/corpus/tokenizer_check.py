"""Checks that a tokenizer gives a text back, places its tokens in order, and begins with one BOS."""

import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from grammar_lens.errors import GrammarLensError

N_TEXTS = 20
"""Texts that are decoded again."""
METASPACE = "▁"


def control_tokens(
    texts: Sequence[str],
    token_ids: Sequence[Int[np.ndarray, "..."]],
    offsets: Sequence[Int[np.ndarray, "_ two"]],
    tokenizer: Any,
) -> Bool[np.ndarray, " text"]:
    """Whether each text has the name of a control token, such as "</s>", read as that token."""
    special = {
        int(i): token
        for i, token in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    }
    known = np.array(sorted(special), np.int64)
    is_control = np.zeros(len(texts), bool)
    for number, (text, ids, spans) in enumerate(zip(texts, token_ids, offsets, strict=True)):
        for place in np.flatnonzero(np.isin(ids, known)):
            begin, end = spans[place]
            is_control[number] |= (
                begin < end and text[begin:end].strip() == special[int(ids[place])]
            )
    return is_control


def blank_tokens(tokenizer: Any) -> Int[np.ndarray, " blank"]:
    """Ids of tokens that are the metaspace alone: blanks, wherever their offsets say they stand."""
    runs = [METASPACE * n for n in range(1, 17)]
    ids = [tokenizer.convert_tokens_to_ids(run) for run in runs]
    unknown = getattr(tokenizer, "unk_token_id", None)
    return np.array(sorted({i for i in ids if i is not None and i != unknown}), np.int64)


def require_faithful(
    texts: Sequence[str],
    token_ids: Sequence[Int[np.ndarray, "..."]],
    offsets: Sequence[Int[np.ndarray, "_ two"]],
    tokenizer: Any,
) -> None:
    """Raises GrammarLensError for a tokenizer whose tokens are not those of the texts.

    Offsets are looked at in all texts, decoding in the first `N_TEXTS` without an unknown token.
    """
    for text, ids, spans in zip(texts, token_ids, offsets, strict=True):
        _check_offsets(text, spans, tokenizer)
        _check_bos(ids, tokenizer)
    unknown = getattr(tokenizer, "unk_token_id", None)
    first = [i for i, ids in enumerate(token_ids) if not np.any(ids == unknown)][:N_TEXTS]
    decoded = [
        tokenizer.decode(
            token_ids[i].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        for i in first
    ]
    for i, back in zip(first, decoded, strict=True):
        if _without_blanks(back) != _without_blanks(texts[i]):
            raise GrammarLensError(
                f"{_name(tokenizer)} reads {texts[i][:60]!r} and gives back {back[:60]!r}: its tokens "
                "are not those of the text. Load the model's own tokenizer, or another transformers"
            )
    pieces = sum(len(texts[i].split()) for i in first)
    if sum(len(back.split()) for back in decoded) < pieces / 2:
        i = max(first, key=lambda i: len(texts[i].split()))
        raise GrammarLensError(
            f"{_name(tokenizer)} loses the blanks between words: it gives back "
            f"{decoded[first.index(i)][:60]!r} for {texts[i][:60]!r}. transformers 5.16 to 5.21 do so "
            "with some Llama tokenizers: install 5.22 or later"
        )


def _check_offsets(text: str, spans: Int[np.ndarray, "token two"], tokenizer: Any) -> None:
    begin, end = spans[:, 0], spans[:, 1]
    placed = np.flatnonzero(begin != end)
    if text.strip() and not len(placed):
        raise GrammarLensError(
            f"{_name(tokenizer)} gives no token of {text[:60]!r} a place in the text: its offsets are "
            "empty. Load a fast tokenizer, from a tokenizer.json"
        )
    backwards = (end < begin).any() or (np.diff(begin[placed]) < 0).any()
    if backwards or end.max(initial=0) > len(text):
        raise GrammarLensError(
            f"{_name(tokenizer)} gives tokens of {text[:60]!r} offsets that run backwards or beyond "
            "it, so that words cannot be found: use another version of the tokenizer"
        )


def _check_bos(ids: Int[np.ndarray, "..."], tokenizer: Any) -> None:
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
        raise GrammarLensError(
            f"{_name(tokenizer)} begins a text with two {tokenizer.bos_token!r}: its add_bos_token "
            "and its template both add one, so drop one of them"
        )


def _without_blanks(text: str) -> str:
    """A text as tokenizers that normalise it may give it back, without its white space."""
    text = text.replace(METASPACE, " ")
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _name(tokenizer: Any) -> str:
    source = str(getattr(tokenizer, "name_or_path", "") or "")
    named = f" of {source}" if source else ""
    return (
        f"the tokenizer {type(tokenizer).__name__}{named} (transformers {version('transformers')})"
    )
