"""Positions of words in the text of their sentence."""

from collections.abc import Sequence
from itertools import pairwise

Span = tuple[int, int]


def join(forms: Sequence[str], space_after: Sequence[bool]) -> tuple[str, list[Span]]:
    """The text made of the forms, a single space after those marked, and the span of each.

    No space follows the last form.
    """
    pieces: list[str] = []
    spans: list[Span] = []
    position = 0
    for form, space in zip(forms, space_after, strict=True):
        pieces.append(form + " " if space else form)
        spans.append((position, position + len(form)))
        position += len(pieces[-1])
    return "".join(pieces)[: spans[-1][1]], spans


def find_in_order(forms: Sequence[str], text: str) -> list[Span] | None:
    """Spans of the forms in the text, in order, nothing but white space around; else None."""
    spans: list[Span] = []
    position = 0
    for form in forms:
        while not text.startswith(form, position):
            if not text[position : position + 1].isspace():
                return None
            position += 1
        spans.append((position, position + len(form)))
        position += len(form)
    return spans if not text[position:].strip() else None


def divide(form: str, parts: Sequence[str], span: Span) -> list[Span | None]:
    """Sub-spans of a multiword token's words if their forms concatenate to it, else None each.

    don't = do + n't has two, zum = zu + dem none.
    """
    if "".join(parts) != form:
        return [None] * len(parts)
    ends = [span[0]]
    for part in parts:
        ends.append(ends[-1] + len(part))
    return list(pairwise(ends))
