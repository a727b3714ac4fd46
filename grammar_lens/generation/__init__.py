"""Text that a model writes with and without a lesion, and the tags of its words."""

from grammar_lens.generation.comparison import Comparison, compare_tags
from grammar_lens.generation.find_words import find_words
from grammar_lens.generation.shares import count_tags, tag_shares
from grammar_lens.generation.tagging import TaggedWord, Tagger
from grammar_lens.generation.text_tables import side_by_side, tag_table, told
from grammar_lens.generation.writing import Written, write_on

__all__ = [
    "Comparison",
    "TaggedWord",
    "Tagger",
    "Written",
    "compare_tags",
    "count_tags",
    "find_words",
    "side_by_side",
    "tag_shares",
    "tag_table",
    "told",
    "write_on",
]
