"""Text that a model writes with and without a lesion, and the tags of its words."""

from grammar_lens.generation.comparison import Comparison, compare_tags
from grammar_lens.generation.tagging import Tagger
from grammar_lens.generation.writing import write_on

__all__ = ["Comparison", "Tagger", "compare_tags", "write_on"]
