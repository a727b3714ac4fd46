"""Sentences with labelled words, from CoNLL-U files, UD, Hugging Face datasets or the package.

`load_treebank` reads, `Treebank` holds, `TreebankError` says what is wrong with the input.
"""

from grammar_lens.treebank.bank import Sentence, Treebank, TreebankError, Word
from grammar_lens.treebank.sources import load_treebank

__all__ = ["Sentence", "Treebank", "TreebankError", "Word", "load_treebank"]
