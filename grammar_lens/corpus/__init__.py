"""Sentences with labelled words, from CoNLL-U files, UD, Hugging Face datasets or the package.

`load_treebank` reads, `Treebank` holds, `GrammarLensError` says what is wrong with the input.
"""
