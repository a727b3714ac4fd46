"""Words of free text, as Universal Dependencies would find them in English."""

import re

from grammar_lens.corpus.alignment import Span

_APOSTROPHE = "['\u2019]"
_WORD = re.compile(
    rf"""
    (?:Mr|Mrs|Ms|Dr|St)\.                       # titles keep their dot
    | \d+(?:[.,:]\d+)*\w*                       # 3,000 and 10:30 and 9th are one word
    | o{_APOSTROPHE}clock
    | (?:\w(?!n{_APOSTROPHE}t\b))*\w(?=n{_APOSTROPHE}t\b)   # do|n't
    | n{_APOSTROPHE}t\b
    | {_APOSTROPHE}(?:s|m|re|ve|ll|d)\b         # she|'s
    | \w+
    | ([^\w\s])\1*                              # ... and -- are one word
    """,
    re.VERBOSE | re.IGNORECASE,
)


def find_words(text: str) -> list[Span]:
    """The [start, end) of every word of a text, in order.

    A word is a run of letters and digits; anything else but white space is a word by itself, repeated
    signs together. As in UD English, n't, 's, 'm, 're, 've, 'll and 'd are words, parts of hyphenated
    words and the hyphens too, and Mr., Mrs., Ms., Dr., St. and numbers such as 3,000 are whole.
    Languages that write without spaces are not served.
    """
    return [match.span() for match in _WORD.finditer(text)]
