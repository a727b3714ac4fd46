"""Minimal pairs: the project's file of number agreement, and how files of pairs are read."""

import csv
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.phenomena.pairs import MinimalPair, Pairs, load_pairs

EMBEDDED = files("grammar_lens") / "embedded" / "minimal_pairs.csv"


class AgreementPair(NamedTuple):
    """A row of the project's file."""

    phenomenon: str
    term: str
    number: str
    attractor: str
    good: str
    bad: str
    good_word: str
    bad_word: str


PAIRS = [AgreementPair(**row) for row in csv.DictReader(EMBEDDED.read_text("utf-8").splitlines())]
PARADIGMS = tuple(dict.fromkeys(p.phenomenon for p in PAIRS))
NUMBERS = ("singular", "plural")


def of(phenomenon: str) -> list[AgreementPair]:
    return [p for p in PAIRS if p.phenomenon == phenomenon]


def is_plural(noun: str) -> bool:
    """Number by the ending alone: a second opinion on what the generator says."""
    return noun in ("men", "women", "children") or noun.endswith("s")


def words(text: str) -> list[str]:
    return text.rstrip(".?").split()


class TestTheFile:
    def test_it_is_large_and_balanced(self) -> None:
        assert len(PAIRS) == 800
        assert len(PARADIGMS) == 10
        for name in PARADIGMS:
            assert Counter(p.number for p in of(name)) == {"singular": 40, "plural": 40}
            assert len({p.attractor for p in of(name)}) == 1
            # so preferring one word to another gains nothing
            good, bad = ([getattr(p, x) for p in of(name)] for x in ("good_word", "bad_word"))
            assert Counter(good) == Counter(bad)

    def test_no_sentence_stands_twice_and_none_on_both_sides(self) -> None:
        good, bad = Counter(p.good for p in PAIRS), Counter(p.bad for p in PAIRS)
        assert max(good.values()) == max(bad.values()) == 1
        assert not set(good) & set(bad)

    @pytest.mark.parametrize("name", PARADIGMS)
    def test_number_by_the_endings(self, name: str) -> None:
        """The verb has an s where the noun that decides has none, the noun one after these or those."""
        for pair in of(name):
            said = words(pair.good)
            where = said.index(pair.good_word)
            assert words(pair.bad)[where] == pair.bad_word
            assert where > 0, "a model without BOS gives the first word no probability"
            if name.startswith("determiner"):
                determiner = next(x for x in said if x in ("this", "that", "these", "those"))
                plural = determiner in ("these", "those")
                assert 1 <= where - said.index(determiner) <= 2
                assert is_plural(pair.good_word) == plural
                assert is_plural(pair.bad_word) != plural
            else:
                head = said[where + 2] if name == "question" else said[1]
                plural = is_plural(head)
                assert pair.good_word.endswith("s") != plural
                assert pair.bad_word.endswith("s") == plural
            assert NUMBERS[plural] == pair.number
            between = {"none": None, "same": plural, "other": not plural}[pair.attractor]
            if between is not None:
                nouns = [x for x in said[2:where] if said[said.index(x) - 1] == "the"]
                assert [is_plural(x) for x in nouns] == [between]

    def test_controls_are_the_same_sentences_but_for_the_attractor(self) -> None:
        for name in ("phrase", "object_relative", "subject_relative"):
            both = zip(of(f"{name}_attractor"), of(f"{name}_control"), strict=True)
            for attractor, control in both:
                a, c = words(attractor.good), words(control.good)
                assert sum(x != y for x, y in zip(a, c, strict=True)) == 1
                assert (attractor.good_word, attractor.number) == (
                    control.good_word,
                    control.number,
                )

    def test_words_are_varied_and_known_to_the_embedded_model(self, reference: Model) -> None:
        for name in PARADIGMS:
            assert len({frozenset((p.good_word, p.bad_word)) for p in of(name)}) >= 4
            content = Counter(w for p in of(name) for w in words(p.good) if w.islower())
            rare = [w for w in content if content[w] <= 4]
            assert len(rare) >= 25, (name, len(rare))
        differing = {w for p in PAIRS for w in (p.good_word, p.bad_word)}
        ids = reference.tokenizer([f" {w}" for w in differing], add_special_tokens=False).input_ids
        assert [len(row) for row in ids] == [1] * len(differing)


class TestReading:
    def test_without_a_source_the_projects_pairs(self) -> None:
        pairs = load_pairs()
        assert [(p.phenomenon, p.term, p.good, p.bad) for p in pairs] == [
            (row.phenomenon, row.term, row.good, row.bad) for row in PAIRS
        ]
        assert pairs.phenomena == PARADIGMS
        assert "800 of 10 phenomena; subject_verb 80, " in repr(pairs)
        assert "<table" in pairs._repr_html_()

    def test_json_lines_in_the_form_of_blimp(self, tmp_path: Path) -> None:
        rows = [
            {
                "sentence_good": "He is.",
                "sentence_bad": "He are.",
                "UID": "be",
                "linguistics_term": "t",
            },
            {"sentence_good": "I am.", "sentence_bad": "I is.", "field": "syntax"},
        ]
        path = tmp_path / "mine.jsonl"
        path.write_text("\n\n".join(map(json.dumps, rows)), "utf-8")
        assert load_pairs(path).pairs == (
            MinimalPair("be", "He is.", "He are.", "t"),
            MinimalPair("mine", "I am.", "I is."),
        )

    def test_a_table_of_two_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.csv"
        path.write_text('good,bad\n"He, he is.",He are.\n\nI am.,I is.\n', "utf-8-sig")
        assert load_pairs(str(path)).pairs == (
            MinimalPair("mine", "He, he is.", "He are."),
            MinimalPair("mine", "I am.", "I is."),
        )

    def test_a_table_with_names_and_other_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.csv"
        path.write_text("bad,note,term,good,phenomenon\nHe are.,x,t,He is.,be\n", "utf-8")
        assert load_pairs(path).pairs == (MinimalPair("be", "He is.", "He are.", "t"),)

    def test_a_folder_and_several_sources(self, tmp_path: Path) -> None:
        for name in ("b", "a"):
            (tmp_path / f"{name}.csv").write_text(f"good,bad\n{name} is.,{name} are.\n", "utf-8")
        (tmp_path / "readme.txt").touch()
        assert load_pairs(tmp_path).phenomena == ("a", "b")
        both = load_pairs([tmp_path / "b.csv", "embedded"])
        assert both.phenomena == ("b", *PARADIGMS)
        with pytest.raises(
            GrammarLensError, match=r"'a' comes from both .*: give each phenomenon once"
        ):
            load_pairs([tmp_path, tmp_path / "a.csv"])

    def test_at_most_so_many_of_each_the_same_whatever_stands_beside(self) -> None:
        few = load_pairs(max_pairs=7)
        assert Counter(p.phenomenon for p in few) == dict.fromkeys(PARADIGMS, 7)
        alone = Pairs(tuple(p for p in load_pairs() if p.phenomenon == "question")).sample(7)
        assert alone.pairs == tuple(p for p in few if p.phenomenon == "question")
        assert load_pairs(max_pairs=7, seed=1).pairs != few.pairs
        assert load_pairs(max_pairs=100).pairs == load_pairs().pairs
        with pytest.raises(GrammarLensError, match="max_pairs is 0, expected 1"):
            load_pairs(max_pairs=0)

    def test_identical_sentences_of_blimp_are_left_out_and_counted(self, tmp_path: Path) -> None:
        row = {"sentence_good": "It was left.", "sentence_bad": "It was left.", "UID": "passive_1"}
        other = {**row, "sentence_bad": "It was slept."}
        path = tmp_path / "passive_1.jsonl"
        path.write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n", "utf-8")
        pairs = load_pairs(path)
        assert [p.bad for p in pairs] == ["It was slept."]
        assert pairs.notes == ("passive_1: 1 pair of identical sentences left out",)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "x.csv",
                "",
                ":1: there is no column 'good', expected the columns good and bad: there are none",
            ),
            ("x.csv", "good,evil\na,b\n", ":1: there is no column 'bad', .* there are good, evil"),
            ("x.csv", "good,bad\n", ": there is no pair in it"),
            ("x.csv", "good,bad\nHe is.\n", ":2: 1 columns, expected 2"),
            ("x.csv", "good,bad\nHe is., \n", ":2: the bad sentence is empty"),
            (
                "x.csv",
                "good,bad\na,b\nHe is.,He is.\n",
                ":3: the two sentences are the same, 'He is.'",
            ),
            ("x.csv", 'good,bad\n"He" is.,b\n', ":2: this line is no CSV"),
            ("x.jsonl", '{"sentence_good": "a", \n', ":1: this line is no JSON"),
            (
                "x.jsonl",
                "[]",
                ":1: expected a JSON object with texts sentence_good and sentence_bad",
            ),
            (
                "x.jsonl",
                '\n{"sentence_good": "a", "sentence_bad": 3}',
                ":2: expected a JSON object",
            ),
            (
                "x.jsonl",
                '{"sentence_good": "a", "sentence_bad": "a"}',
                ":1: the two sentences are the same",
            ),
        ],
    )
    def test_bad_files(self, tmp_path: Path, name: str, text: str, message: str) -> None:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        with pytest.raises(GrammarLensError, match=message) as caught:
            load_pairs(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_what_is_no_source(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_bytes("jardín".encode("latin-1"))
        with pytest.raises(GrammarLensError, match=r"pairs\.csv is not UTF-8"):
            load_pairs(path)
        with pytest.raises(
            GrammarLensError, match=r"no minimal pairs at 'none\.csv': expected FILE"
        ):
            load_pairs("none.csv")
        with pytest.raises(GrammarLensError, match="no source of minimal pairs was given"):
            load_pairs([])
        (tmp_path / "empty").mkdir()
        with pytest.raises(GrammarLensError, match=r"empty has no \.jsonl and no \.csv file"):
            load_pairs(tmp_path / "empty")
