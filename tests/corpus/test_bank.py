"""Words, sentences and treebanks, and the CoNLL-U files they are read from."""

import copy
import os
import pickle
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar_lens.corpus.bank import Sentence, Treebank, Word
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.corpus.spacing import divide, find_in_order, join
from grammar_lens.errors import GrammarLensError

DOGS = """\
# newdoc id = kennel
# sent_id = kennel-1
# text = The dogs don't bark.
1	The	the	DET	DT	Definite=Def|PronType=Art	2	det	_	_
2	dogs	dog	NOUN	NNS	Number=Plur	5	nsubj	_	_
3-4	don't	_	_	_	_	_	_	_	_
3	do	do	AUX	VBP	_	5	aux	_	_
4	n't	not	PART	RB	_	5	advmod	_	_
4.1	ever	_	_	_	_	_	_	_	_
5	bark	bark	VERB	VB	_	0	root	_	SpaceAfter=No
6	.	.	PUNCT	.	_	5	punct	_	_

"""
ZUM = """\
# sent_id = b
1-2	Zum	_	_	_	_	_	_	_	_
1	zu	zu	ADP	_	_	3	case	_	_
2	dem	der	DET	_	Number=Sing	3	det	_	_
3	Hund	Hund	_	_	Number=Sing	0	_	_	_
"""


@pytest.fixture
def dogs(tmp_path: Path) -> Treebank:
    return load(tmp_path, DOGS + ZUM)


def load(tmp_path: Path, content: str | bytes, name: str = "file.conllu") -> Treebank:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_treebank(path)


def line(number: str, form: str, misc: str = "_", upos: str = "X", feats: str = "_") -> str:
    return f"{number}\t{form}\t_\t{upos}\t_\t{feats}\t_\t_\t_\t{misc}\n"


def own_text(sentence: Sentence) -> list[str | None]:
    return [None if w.span is None else sentence.text[slice(*w.span)] for w in sentence.words]


def bank(*texts: str, splits: dict[str, tuple[int, int]] | None = None) -> Treebank:
    sentences = [
        Sentence(str(n), text, (Word(text, (0, len(text)), {"upos": "X"}),), None, f"f:{n}")
        for n, text in enumerate(texts)
    ]
    return Treebank("made", tuple(sentences), splits or {})


# Reading ------------------------------------------------------------------------------------


def test_words_have_the_characters_and_labels_of_the_file(dogs: Treebank) -> None:
    first, second = dogs
    assert first.text == "The dogs don't bark."
    assert own_text(first) == ["The", "dogs", "do", "n't", "bark", "."]
    assert [w.label("upos") for w in first.words] == ["DET", "NOUN", "AUX", "PART", "VERB", "PUNCT"]
    assert dict(first.words[1].labels) == {
        "upos": "NOUN",
        "xpos": "NNS",
        "deprel": "nsubj",
        "feats:Number": "Plur",
    }
    assert (first.id, first.document, first.source) == ("kennel-1", "kennel", "file.conllu:1")
    assert (second.id, second.document, second.source) == ("b", "kennel", "file.conllu:13")


def test_parts_that_do_not_make_their_token_have_no_span(dogs: Treebank) -> None:
    sentence = dogs.sentences[1]
    assert sentence.text == "Zum Hund"
    assert [w.form for w in sentence.words] == ["zu", "dem", "Hund"]
    assert own_text(sentence) == [None, None, "Hund"]
    assert sentence.words[2].label("upos") is None
    assert sentence.words[2].label("deprel") is None


def test_line_ends_byte_order_mark_and_comments_alone_do_no_harm(tmp_path: Path) -> None:
    content = "\ufeff# a file\r\n\r\n\r\n" + DOGS.replace("\n", "\r\n") + "# the end\r\n"
    (sentence,) = load(tmp_path, content)
    assert sentence.text == "The dogs don't bark."
    assert sentence.source == "file.conllu:4"


def test_sentences_without_ids_are_numbered_and_a_bare_newdoc_ends_a_document(
    tmp_path: Path,
) -> None:
    read = load(tmp_path, DOGS + "# newdoc\n" + line("1", "Hi") + "\n" + line("1", "Ho"))
    assert [(s.id, s.document) for s in read] == [
        ("kennel-1", "kennel"),
        ("file-2", "file:13"),
        ("file-3", "file:13"),
    ]
    assert read.documents().tolist() == [0, 1, 1]


def test_gaps_to_the_next_sentence(tmp_path: Path) -> None:
    """SpaceAfter=No of the last token, also of a multiword one; a paragraph begins a line."""
    blocks = [
        line("1", "Hi") + line("2", "!", "SpaceAfter=No"),
        line("1-2", "don't", "SpaceAfter=No") + line("1", "do") + line("2", "n't"),
        line("1", "no", "SpaceAfter=No") + line("2", "space"),
        "# newpar\n" + line("1", "Ho", "SpaceAfter=No"),
        "# newpar id = p2\n" + line("1", "He"),
        line("1", "Ha"),
    ]
    read = load(tmp_path, "\n".join(blocks))
    assert [s.gap for s in read] == ["", "", "\n", "\n", " ", " "]
    assert read.documents().tolist() == [0] * 6


def test_documents_are_runs_of_one_file(tmp_path: Path) -> None:
    """Without document marks a file is one document; a new document need not have an id."""
    hi = line("1", "Hi")
    (tmp_path / "a-ud-train.conllu").write_text(f"{hi}\n{hi}\n# newdoc\n{hi}\n# newdoc\n{hi}")
    (tmp_path / "a-ud-dev.conllu").write_text(f"{hi}\n{hi}\n# newdoc id = x\n{hi}\n{hi}")
    read = load_treebank(tmp_path)
    assert read.documents().tolist() == [0, 0, 1, 2, 3, 3, 4, 4]
    assert read["dev"].documents().tolist() == [0, 0, 1, 1]
    assert [s.document is None for s in read] == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert Treebank("none", ()).documents().tolist() == []


def test_spaces_that_only_text_knows_are_taken_from_it_and_noted(tmp_path: Path) -> None:
    read = load(
        tmp_path, "# text = 10\u00a0000  euros \n" + line("1", "10\u00a0000") + line("2", "euros")
    )
    assert read.sentences[0].text == "10\u00a0000  euros"
    assert own_text(read.sentences[0]) == ["10\u00a0000", "euros"]
    assert read.notes == (
        "spacing: taken from # text, which differs from SpaceAfter, in 1 of 1 sentences of "
        "file.conllu",
    )


def test_a_file_that_says_nothing_of_spaces_is_noted(tmp_path: Path) -> None:
    read = load(tmp_path, line("1", "Hi") + line("2", "!"))
    assert read.sentences[0].text == "Hi !"
    assert read.notes == ("spacing: single spaces assumed in file.conllu",)


def test_forms_may_hold_line_separators_that_are_not_line_ends(tmp_path: Path) -> None:
    read = load(tmp_path, line("1", "a\u2028b\x85c", "SpaceAfter=No") + line("2", "_"))
    assert own_text(read.sentences[0]) == ["a\u2028b\x85c", "_"]


SYMBOLS = st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r")
FORMS = st.text(SYMBOLS, min_size=1, max_size=5).filter(lambda form: "  " not in form)
TOKENS = st.lists(
    st.tuples(st.lists(FORMS, min_size=1, max_size=3), st.booleans(), st.booleans()),
    min_size=1,
    max_size=6,
)


@given(tokens=TOKENS, with_text=st.booleans())
def test_every_span_is_its_form_and_the_text_is_rebuilt(
    tokens: list[tuple[list[str], bool, bool]], with_text: bool, tmp_path_factory
) -> None:
    """A token is its parts, whether they concatenate to it, and whether a space follows."""
    content, text, expected, number = "", "", [], 0
    for parts, whole, space in tokens:
        form = "".join(parts) if whole or len(parts) == 1 else "".join(parts) + "!"
        misc = "_" if space else "SpaceAfter=No"
        if len(parts) > 1:
            content += line(f"{number + 1}-{number + len(parts)}", form, misc)
        for part in parts:
            number += 1
            content += line(str(number), part, misc)
            expected.append(part if form == "".join(parts) else None)
        text += form + (" " if space else "")
    if "  " in content:  # parts may meet in two spaces, which a column must not hold
        return
    if with_text and text.strip():
        content = f"# text = {text}\n{content}"
    (sentence,) = load(tmp_path_factory.mktemp("given"), content)
    assert sentence.text == (text[:-1] if tokens[-1][2] else text)
    assert own_text(sentence) == expected


@given(
    forms=st.lists(st.text(st.sampled_from("ab"), min_size=1, max_size=3), min_size=1, max_size=6),
    gaps=st.lists(st.sampled_from(["", " ", "  ", "\u00a0", "\t"]), min_size=6, max_size=6),
)
def test_forms_are_found_whatever_the_white_space(forms: list[str], gaps: list[str]) -> None:
    text = "".join(form + gap for form, gap in zip(forms, gaps, strict=False))
    spans = find_in_order(forms, text)
    assert spans is not None
    assert [text[slice(*span)] for span in spans] == forms
    assert find_in_order([*forms, "c"], text) is None
    assert find_in_order(forms, text + "c") is None
    assert find_in_order(forms, "c" + text) is None


def test_joining_and_dividing() -> None:
    assert join(["a", "b"], [True, True]) == ("a b", [(0, 1), (2, 3)])
    assert join(["a", "b"], [False, False]) == ("ab", [(0, 1), (1, 2)])
    assert divide("don't", ["do", "n't"], (3, 8)) == [(3, 5), (5, 8)]
    assert divide("zum", ["zu", "dem"], (0, 3)) == [None, None]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "sentences", "words", "without_span"),
    [
        ("UD_English-EWT:dev", (), 25_147, 0),
        ("UD_English-EWT:test", (), 25_094, 0),
        pytest.param("UD_English-EWT", (12_544, 2_001, 2_077), 254_818, 0, marks=pytest.mark.slow),
        ("UD_English-Pronouns", (285,), 1_705, 0),
        ("UD_French-Sequoia", (2_231, 412, 456), 70_545, 3_904),
        ("UD_German-GSD", (799, 977), 28_979, 876),
        ("UD_Chinese-GSDSimp", (500, 500), 24_675, 0),
    ],
)
def test_real_treebanks_load_and_every_span_is_its_form(
    treebanks: Path, name: str, sentences: tuple[int, ...], words: int, without_span: int
) -> None:
    """Counts are those of each treebank's own stats.xml, as far as the files are there."""
    read = load_treebank(treebanks / name)
    assert tuple(end - start for start, end in read.splits.values()) == sentences
    assert read.n_words == words
    pairs = [(w.form, text) for s in read for w, text in zip(s.words, own_text(s), strict=True)]
    assert sum(text is None for _, text in pairs) == without_span
    assert all(text in (form, None) for form, text in pairs)
    assert len(read.label_counts("upos")) >= 13
    # Words share their labels: some two thousand mappings for a quarter of a million words.
    assert len({id(w.labels) for s in read for w in s.words}) < 6_000


# Errors of files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            DOGS + line("1", "a").replace("\t_\n", "\n"),
            "file.conllu:13: expected 10 columns separated by tabs, found 9 in '1",
        ),
        ("just text\n", "file.conllu:1: expected 10 columns separated by tabs, found 1"),
        (line("1", ""), "file.conllu:1: a column is empty: write _"),
        (line("1", "a", "Gloss=b  c"), "file.conllu:1: two spaces in a row inside a column"),
        ("", "file.conllu has no sentences: expected a CoNLL-U file with words"),
        ("# only a comment\n\n", "file.conllu has no sentences"),
        (line("1", "a") + line("3", "b"), "file.conllu:2: expected word id 2, found 3"),
        (line("0", "a"), "file.conllu:1: expected word id 1, found 0"),
        (line("_", "a"), "file.conllu:1: a line without an id: number the words"),
        (line("1", "a") + line("x", "b"), "file.conllu:2: .*'x' is not a valid ID"),
        (line("1", "a") + line("3-2", "b"), "file.conllu:2: .*'3-2' is not a valid ID"),
        (line("1-1", "a") + line("1", "a"), "file.conllu:1: multiword token 1-1 cannot follow"),
        (line("2-3", "ab") + line("1", "a"), "file.conllu:1: multiword token 2-3 cannot follow"),
        (
            line("1-3", "abc") + line("1", "a") + line("2-3", "bc"),
            "file.conllu:3: multiword token 2-3 cannot follow word 1",
        ),
        (
            line("1-2", "ab") + line("1", "a"),
            "file.conllu:1: the multiword token that ends at 2 has words up to 1 only",
        ),
        (
            "# text = a c\n" + line("1", "a") + line("2", "b"),
            "file.conllu:1: the words make 'a b', but # text is 'a c': correct",
        ),
        (
            line("1", "a", feats="Number"),
            "file.conllu:1: a feature without a value in .*'Number'.*: write Name=Value",
        ),
        (
            b"\xef\xbb\xbf# caf\xc3\xa9\n1\tcaf\xe9\n",
            "file.conllu:2: not UTF-8, byte 0xe9 at offset 16: save the file as UTF-8",
        ),
        (b"\x1f\x8b\x08\x00", "file.conllu is a gzip file: unpack it first, with gunzip"),
    ],
)
def test_what_is_not_conllu_is_refused_with_file_and_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(GrammarLensError, match=message):
        load(tmp_path, content)


def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path, monkeypatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (tmp_path / "a.conllu").touch()
    with pytest.raises(GrammarLensError, match=r"cannot read .*a.conllu: Permission denied"):
        load_treebank(tmp_path / "a.conllu")


# Treebanks ----------------------------------------------------------------------------------


def test_splits_are_parts_in_order_and_an_unknown_one_lists_them() -> None:
    whole = bank(*"abcde", splits={"train": (0, 3), "test": (3, 5)})
    assert [s.text for s in whole["test"]] == ["d", "e"]
    assert whole["test"].name == "made:test"
    assert (len(whole["train"]), whole["train"].n_words, whole["train"].splits) == (3, 3, {})
    with pytest.raises(GrammarLensError, match=r"'dev'.*train, test"):
        whole["dev"]
    with pytest.raises(GrammarLensError, match="its splits are none"):
        whole["test"]["test"]


def test_labels_are_counted_and_named(dogs: Treebank) -> None:
    assert dogs.label_counts("feats:Number") == {"Sing": 2, "Plur": 1}
    assert list(dogs.label_counts("upos")) == ["DET", "ADP", "AUX", "NOUN", "PART", "PUNCT", "VERB"]
    assert dogs.label_names() == (
        "upos",
        "xpos",
        "deprel",
        "feats:Definite",
        "feats:Number",
        "feats:PronType",
    )


@pytest.mark.parametrize("name", ["pos", "feats", "feats:", "lemma", "feats:A=B", ""])
def test_unknown_label_names_are_refused(dogs: Treebank, name: str) -> None:
    expected = "expected upos, xpos, deprel, or a feature such as feats:Number"
    with pytest.raises(GrammarLensError, match=expected):
        dogs.label_counts(name)
    with pytest.raises(GrammarLensError, match=expected):
        load_treebank(label=name)


def test_a_required_label_gives_its_values_and_drops_the_rare(dogs: Treebank) -> None:
    assert dogs.require_label("feats:Number") == (("Sing",), {"Plur": 1})
    assert dogs.require_label("feats:Number", 1) == (("Plur", "Sing"), {})
    with pytest.raises(
        GrammarLensError,
        match=r"'feats:Mood'.*upos, xpos, deprel",
    ):
        dogs.require_label("feats:Mood")
    with pytest.raises(
        GrammarLensError,
        match=r"'feats:Number'.*has 3.*1.*2",
    ):
        dogs.require_label("feats:Number", 3)


def test_fingerprints_see_texts_spans_labels_and_order_and_nothing_else() -> None:
    def one(text: str, span: tuple[int, int] | None, labels: dict[str, str]) -> Treebank:
        sentence = Sentence("id", text, (Word("w", span, labels),), None, "f")
        return Treebank("n", (sentence,))

    base = one("ab", (0, 1), {"upos": "X", "xpos": "Y"})
    others = [
        one("ac", (0, 1), {"upos": "X", "xpos": "Y"}),
        one("ab", (0, 2), {"upos": "X", "xpos": "Y"}),
        one("ab", None, {"upos": "X", "xpos": "Y"}),
        one("ab", (0, 1), {"upos": "X", "xpos": "Z"}),
        one("ab", (0, 1), {"upos": "X"}),
        Treebank("n", base.sentences * 2),
        Treebank("n", ()),
    ]
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == 8
    assert base.fingerprint() == one("ab", (0, 1), {"xpos": "Y", "upos": "X"}).fingerprint()
    assert bank("a", "b").fingerprint() != bank("b", "a").fingerprint()
    renamed = Treebank("other", base.sentences, {"train": (0, 1)}, ("note",))
    moved = [replace(s, document="d", gap="\n", source="g:7") for s in base]
    assert Treebank("n", tuple(moved)).fingerprint() == base.fingerprint()
    assert renamed.fingerprint() == base.fingerprint()


def test_a_fingerprint_stays_what_it_was(dogs: Treebank) -> None:
    """Golden: runs on disk hold such numbers, so a change of the recipe must be deliberate."""
    assert dogs.fingerprint() == (
        "ff24a047dd6943e2c03a5d27a5f94478699dbd334f20ad0b36e9db0916095c9c"
    )


def test_a_head_is_a_seeded_subset_in_corpus_order() -> None:
    whole = bank(*"abcdefghij", splits={"train": (0, 6), "test": (6, 10)})
    assert whole.head(4).sentences == whole.sentences[:4]
    assert whole.head(10) is whole
    with pytest.raises(GrammarLensError, match="1 sentence or more"):
        whole.head(0)
    part = whole.sample(4, seed=1)
    texts = [s.text for s in part]
    assert len(texts) == 4
    assert texts == sorted(texts)
    assert part == whole.sample(4, seed=1)
    assert len({tuple(s.text for s in whole.sample(4, seed=seed)) for seed in range(9)}) > 1
    assert [s.text for s in part["train"]] + [s.text for s in part["test"]] == texts
    assert all(s.text < "g" for s in part["train"])
    assert whole.sample(10, seed=1) is whole
    with pytest.raises(GrammarLensError, match="expected 1 sentence or more, got 0"):
        whole.sample(0, seed=1)


def told(lengths: str) -> Treebank:
    """Documents of so many sentences, whose texts are a1, a2, b1 ..."""
    texts = [
        (f"{d}{i + 1}", d) for d, n in zip("abcdef", lengths, strict=False) for i in range(int(n))
    ]
    sentences = [
        replace(s, document=d)
        for s, (_, d) in zip(bank(*(t for t, _ in texts)), texts, strict=True)
    ]
    return Treebank("told", tuple(sentences), {"train": (0, 3), "test": (3, len(sentences))})


def test_a_sample_documents_keeps_what_stands_before() -> None:
    whole = told("23421")
    seen = set()
    for seed in range(40):
        part = whole.sample_documents(6, seed=seed)
        texts = [s.text for s in part]
        seen.add(tuple(texts))
        assert len(texts) == 6
        assert texts == sorted(texts)
        assert part == whole.sample_documents(6, seed=seed)
        assert [s.text for s in part["train"]] + [s.text for s in part["test"]] == texts
        sizes = {d: sum(s.document == d for s in part) for d in "abcde"}
        assert all(f"{d}{i + 1}" in texts for d, n in sizes.items() for i in range(n)), (
            "its beginning"
        )
        cut = [d for d, n in sizes.items() if 0 < n < sum(s.document == d for s in whole)]
        assert len(cut) <= 1
    assert len(seen) > 5
    assert whole.sample_documents(12, seed=1) is whole
    one = told("9")
    assert [s.text for s in one.sample_documents(2, seed=3)] == ["a1", "a2"]
    with pytest.raises(GrammarLensError, match="expected 1 sentence or more, got 0"):
        whole.sample_documents(0, seed=1)


def test_every_document_is_as_likely_in_a_head() -> None:
    """1,500 draws of one document of three: each 500 times, sd 18; three of them within 5 sd."""
    whole = told("222")
    drawn = [whole.sample_documents(2, seed=seed).sentences[0].text for seed in range(1500)]
    assert all(abs(drawn.count(text) - 500) < 90 for text in ("a1", "b1", "c1"))


def test_sentences_do_not_run_into_each_other_where_one_is_dropped() -> None:
    sentences = bank(*"abcdef").sentences
    gaps = ["", " ", "\n", "", "\n", ""]
    whole = Treebank("g", tuple(replace(s, gap=g) for s, g in zip(sentences, gaps, strict=True)))
    assert [s.gap for s in whole.without(bank("b", "e"))[0]] == [" ", "\n", "\n", ""]
    assert [s.gap for s in whole.without(bank("a", "f"))[0]] == [" ", "\n", "", "\n"]
    assert whole.without(bank("z"))[0].sentences == whole.sentences


def test_every_sentence_is_as_likely_in_a_head() -> None:
    """4,000 draws of 2 of 5: each sentence 1,600 times, sd 31; five of them within 5 sd."""
    whole = bank(*"abcde")
    drawn = [s.text for seed in range(4000) for s in whole.sample(2, seed=seed)]
    assert all(abs(drawn.count(text) - 1600) < 155 for text in "abcde")


def test_sentences_of_another_treebank_are_dropped_and_counted() -> None:
    whole = bank(*"abcabc", splits={"train": (0, 3), "test": (3, 6)})
    rest, dropped = whole.without(bank("b", "z"))
    assert [s.text for s in rest] == list("acac")
    assert dropped == 2
    assert rest.splits == {"train": (0, 2), "test": (2, 4)}
    nothing, dropped = whole.without(whole)
    assert (len(nothing), dropped) == (0, 6)


def test_a_treebank_shows_itself(dogs: Treebank) -> None:
    assert repr(dogs) == "<Treebank file: 2 sentences, 9 words>"
    whole = Treebank("<b>", dogs.sentences, {"train": (0, 1)}, ("<i>",))
    assert repr(whole) == "<Treebank <b>: 2 sentences (train 1), 9 words>"
    shown = whole._repr_html_()
    assert "&lt;b&gt;:train" in shown
    assert "&lt;i&gt;" in shown
    assert "<b>" not in shown
    assert "labels: none" in Treebank("empty", ())._repr_html_()


def test_words_are_read_only_and_can_be_copied(dogs: Treebank) -> None:
    word = dogs.sentences[0].words[0]
    with pytest.raises(TypeError):
        word.labels["upos"] = "X"  # type: ignore[index]
    assert pickle.loads(pickle.dumps(dogs)) == dogs
    assert copy.deepcopy(dogs) == dogs


def test_fingerprints_do_not_depend_on_the_process(tmp_path: Path, dogs: Treebank) -> None:
    code = (
        "import sys; from grammar_lens.corpus.sources import load_treebank;"
        "print(load_treebank(sys.argv[1]).fingerprint())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file.conllu")]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()}
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert out.stdout.strip() == dogs.fingerprint()


# Sentences that are wrong, words that are withheld, Unicode forms ------------------------------


def rows(*forms: str, text: str | None = None) -> str:
    """A sentence of CoNLL-U."""
    lines = [f"{n}\t{form}\t_\tNOUN\t_\t_\t_\t_\t_\t_\n" for n, form in enumerate(forms, 1)]
    return (f"# text = {text}\n" if text else "") + "".join(lines) + "\n"


def test_bad_sentences_are_skipped_and_counted_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "file.conllu"
    bad = "# newdoc id = second\n" + rows("walk", "home", text="walk away")
    path.write_text(rows("One") + bad + rows("Two") + "1\tshort\n\n")
    with pytest.raises(GrammarLensError, match=r"file.conllu:3: the words make 'walk home'"):
        load_treebank(path)
    bank = load_treebank(path, skip_bad_sentences=True)
    assert [s.text for s in bank] == ["One", "Two"]
    assert [s.document for s in bank] == [None, "second"], "a bad sentence can begin a document"
    note = bank.notes[-1]
    assert note.startswith("2 sentences of file.conllu skipped, the first for: ")
    assert "file.conllu:3: the words make 'walk home'" in note
    path.write_text("1\tshort\n\n")
    with pytest.raises(GrammarLensError, match=r"no sentences: .*All 1 were skipped, the first"):
        load_treebank(path, skip_bad_sentences=True)


def test_a_treebank_without_its_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GrammarLensError, match=r"has _ for 3 of 5 words: .*Its README says where"):
        load(tmp_path, rows("_", "_", "_") + rows("two", "words"))
    # an underscore can be a word
    assert load(tmp_path, rows("a", "_", "b") + rows("_", "c")).n_words == 5


@pytest.mark.parametrize(("of_text", "of_words"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_words_in_another_unicode_form_than_the_text(
    tmp_path: Path, of_text: Literal["NFC", "NFD"], of_words: Literal["NFC", "NFD"]
) -> None:
    def form(which: Literal["NFC", "NFD"], text: str) -> str:
        return unicodedata.normalize(which, text)

    content = rows(*(form(of_words, w) for w in ("déjà", "là")), text=form(of_text, "déjà  là"))
    multiword = (
        f"# text = {form(of_text, 'été-là')}\n"
        f"1-2\t{form(of_words, 'été-là')}\t_\t_\t_\t_\t_\t_\t_\t_\n"
        f"1\t{form(of_words, 'été')}\t_\tNOUN\t_\t_\t_\t_\t_\t_\n"
        f"2\t{form(of_words, '-là')}\t_\tADV\t_\t_\t_\t_\t_\t_\n\n"
    )
    bank = load(tmp_path, content + multiword)
    found = [s.text[slice(*w.span)] for s in bank for w in s.words if w.span]
    assert found == [form(of_text, w) for w in ("déjà", "là", "été", "-là")]
