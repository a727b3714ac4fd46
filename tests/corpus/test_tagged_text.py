"""Files of tagged words: one a line, or word/TAG."""

from pathlib import Path

import pytest

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.errors import GrammarLensError


def load(folder: Path, content: str, label: str = "upos") -> Treebank:
    path = folder / "words.txt"
    path.write_text(content, encoding="utf-8")
    return load_treebank(f"tags:{path}", label=label)


SAME = {
    "columns": "Dogs NOUN\nrun  VERB\n\n\n1/2 NUM\t\nof\tADP\nit PRON",
    "tabs": "Dogs\tNOUN\r\nrun\tVERB\r\n\r\n1/2\tNUM\r\nof\tADP\r\nit\tPRON\r\n",
    "running text": "Dogs/NOUN run/VERB\n\n1\\/2/NUM of/ADP it/PRON\n",
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_words_in_every_way_of_writing(tmp_path: Path, kind: str) -> None:
    bank = load(tmp_path, SAME[kind])
    assert [s.text for s in bank] == ["Dogs run", "1/2 of it"]
    assert [[w.label("upos") for w in s.words] for s in bank] == [
        ["NOUN", "VERB"],
        ["NUM", "ADP", "PRON"],
    ]
    for sentence in bank:
        assert [sentence.text[slice(*w.span)] for w in sentence.words if w.span] == [
            w.form for w in sentence.words
        ]
    assert bank.name == "words"
    assert bank.notes == ("spacing: single spaces assumed in words.txt",)


def test_tags_of_another_set_are_xpos(tmp_path: Path) -> None:
    bank = load(tmp_path, "Dogs/NNS run/VBP", "xpos")
    assert bank.label_names() == ("xpos",)
    assert bank.label_counts("xpos") == {"NNS": 1, "VBP": 1}
    with pytest.raises(GrammarLensError, match=r"label is 'deprel'.*use upos or xpos"):
        load(tmp_path, "Dogs/NNS", "deprel")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no words: expected lines of"),
        ("Dogs NOUN\nrun VERB now\n", r"words.txt:2: expected a word and its tag, found 3 columns"),
        ("Dogs NOUN\nrun\n", r"words.txt:2: expected a word and its tag, found 1 columns"),
        ("a/X b/Y\n\nc d/Y\n", r"words.txt:3: expected word/TAG, found 'c'"),
        ("a/X /Y\n", r"words.txt:1: expected word/TAG, found '/Y'"),
        ("a/X b/\n", r"words.txt:1: expected word/TAG, found 'b/'"),
    ],
)
def test_lines_that_are_neither(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(GrammarLensError, match=message):
        load(tmp_path, content)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GrammarLensError, match=r"cannot read .*none.txt"):
        load_treebank(f"tags:{tmp_path / 'none.txt'}")
