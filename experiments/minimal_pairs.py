"""Write the minimal pairs of number agreement that come with the package: eighty for each of ten paradigms.

Every frame gives a pair whose noun is singular and one whose noun is plural, with the same words
otherwise, so the good word of the one is the bad word of the other: a model that merely prefers "is"
to "are" gets half of them right. The paradigms named `_attractor` and `_control` have the same
frames, and the noun between subject and verb in the other or in the same number. Words are dealt at
random, none more than once more often than others; they are in configs/minimal_pairs.toml.

    python experiments/minimal_pairs.py                 # writes grammar_lens/embedded/minimal_pairs.csv
    python experiments/minimal_pairs.py --seed 1 --out other.csv
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from typer import Option

from grammar_lens.cli.config_file import read_toml
from grammar_lens.cli.scripts import start_page
from grammar_lens.files import write_text

ROOT = Path(__file__).parents[1]
NUMBERS = ("singular", "plural")
COLUMNS = ["phenomenon", "term", "number", "attractor", "good", "bad", "good_word", "bad_word"]
N_FRAMES = 40
"""Frames of a paradigm; each gives a pair of either number."""
FUNCTION_WORDS = ("the", "that", "of", "with", "to", "a")
IRREGULAR = {"man": "men", "woman": "women", "child": "children"}
WORDS = read_toml(ROOT / "experiments" / "configs" / "minimal_pairs.toml")


@dataclass(frozen=True)
class Config:
    """The flags."""

    seed: Annotated[int, Option(help="Seed of the words; the package's are those of 0.")] = 0
    out: Annotated[Path, Option(help="The file.")] = (
        ROOT / "grammar_lens" / "embedded" / "minimal_pairs.csv"
    )


@dataclass(frozen=True)
class Frame:
    """A sentence with places for the word that agrees, the head of either number, and a noun beside."""

    text: str
    forms: Sequence[str]
    head: Sequence[str]
    beside: Sequence[str] = ("", "")

    def sentence(self, number: int, beside: int, word: str) -> str:
        """0 is singular, 1 plural."""
        text = self.text.format(head=self.head[number], beside=self.beside[beside], word=word)
        return text.replace(" ?", "?")

    def repeats(self) -> bool:
        """Whether a word other than a function word stands twice in a sentence."""
        said = (self.sentence(number, number, self.forms[number]) for number in (0, 1))
        words = (sentence.lower().rstrip(".?").split() for sentence in said)
        content = [[word for word in each if word not in FUNCTION_WORDS] for each in words]
        return any(len(set(each)) < len(each) for each in content)


def write_pairs(seed: int = 0) -> pd.DataFrame:
    """Eighty minimal pairs for each of ten paradigms, which differ in one word.

    `number` is that of the noun that decides the agreement. `attractor` is the number of a noun
    between it and the verb, beside its own: "other", "same", or "none" where there is no such noun.
    """
    # random() is all that is used: Python promises that its numbers never change
    rng = random.Random(seed)
    rows = []
    for frames in (subject_verb, phrase, object_relative, subject_relative, question, *DETERMINED):
        name = frames.__name__
        term = f"{'determiner_noun' if frames in DETERMINED else 'subject_verb'}_agreement"
        chosen = _first(frames(rng))
        kinds = [("none", name)]
        if chosen[0].beside != ("", ""):
            kinds = [("other", f"{name}_attractor"), ("same", f"{name}_control")]
        for attractor, phenomenon in kinds:
            for frame in chosen:
                for number in (0, 1):
                    beside = 1 - number if attractor == "other" else number
                    good, bad = frame.forms[number], frame.forms[1 - number]
                    said = (frame.sentence(number, beside, word) for word in (good, bad))
                    rows.append((phenomenon, term, NUMBERS[number], attractor, *said, good, bad))
    return pd.DataFrame(rows, columns=COLUMNS)


def subject_verb(rng: random.Random) -> Iterator[Frame]:
    kinds = _kinds(rng, "people things", "person_does thing_does")
    for noun, predicate in kinds:
        verb, rest = predicate.split(" ", 1)
        yield Frame(f"The {{head}} {{word}} {rest}.", verb.split("/"), _noun(noun))


def phrase(rng: random.Random) -> Iterator[Frame]:
    for headed, predicate in _kinds(rng, "person_beside thing_beside", "person_does thing_does"):
        (head, after), (verb, rest) = headed.split(" ", 1), predicate.split(" ", 1)
        before, _, beside = after.rstrip("}").partition("{")
        text = f"The {{head}} {before}{{beside}} {{word}} {rest}."
        yield Frame(text, verb.split("/"), _noun(head), _noun(beside))


def object_relative(rng: random.Random) -> Iterator[Frame]:
    columns = ("people things", "people", "did_to_person did_to_thing", "person_does thing_does")
    for head, agent, past, predicate in _kinds(rng, *columns):
        verb, rest = predicate.split(" ", 1)
        text = f"The {{head}} that the {{beside}} {past} {{word}} {rest}."
        yield Frame(text, verb.split("/"), _noun(head), _noun(agent))


def subject_relative(rng: random.Random) -> Iterator[Frame]:
    columns = ("people", "people things", "did_to_person did_to_thing", "person_does")
    for head, other, past, predicate in _kinds(rng, *columns):
        verb, rest = predicate.split(" ", 1)
        text = f"The {{head}} that {past} the {{beside}} {{word}} {rest}."
        yield Frame(text, verb.split("/"), _noun(head), _noun(other))


def question(rng: random.Random) -> Iterator[Frame]:
    for noun, asked in _kinds(rng, "people things", "person_question thing_question"):
        verb = next(word for word in asked.split() if "/" in word)
        before, rest = asked.split(verb)
        yield Frame(f"{before}{{word}} the {{head}}{rest}?", verb.split("/"), _noun(noun))


def determiner_noun(rng: random.Random, *looks: str) -> Iterator[Frame]:
    """Pairs whose noun must agree with its determiner, which an adjective may stand between."""
    columns = ("seen met", "thing_sentences person_sentences", "determiners", *looks)
    for noun, sentence, determiner, *adjectives in _kinds(rng, *columns):
        noun_phrase = " ".join(["{head}", *adjectives, "{word}"])
        yield Frame(sentence.format(noun_phrase), _noun(noun), determiner.split("/"))


def determiner_adjective_noun(rng: random.Random) -> Iterator[Frame]:
    return determiner_noun(rng, "thing_looks person_looks")


DETERMINED = (determiner_noun, determiner_adjective_noun)


def _kinds(rng: random.Random, *columns: str) -> Iterator[tuple[str, ...]]:
    """A word or phrase from a list of each column, for people and for things in turn."""
    decks = [[_dealt(name, rng) for name in column.split()] for column in columns]
    while True:
        for kind in (0, 1):
            yield tuple(next(deck[kind % len(deck)]) for deck in decks)


def _dealt(name: str, rng: random.Random) -> Iterator[str]:
    """The words of a list in random order, over and over."""
    words = WORDS[name]
    words = words.split() if isinstance(words, str) else words
    while True:
        yield from sorted(words, key=lambda _: rng.random())


def _first(frames: Iterator[Frame]) -> list[Frame]:
    """The first frames that are all different and in which no word but function words comes twice."""
    chosen: dict[tuple[str, str], Frame] = {}
    while len(chosen) < N_FRAMES:
        frame = next(frames)
        said = (frame.sentence(0, 0, frame.forms[0]), frame.sentence(1, 1, frame.forms[1]))
        if not frame.repeats():
            chosen.setdefault(said, frame)
    return list(chosen.values())


def _noun(word: str) -> tuple[str, str]:
    """A noun in both numbers."""
    if word in IRREGULAR:
        return word, IRREGULAR[word]
    if word.endswith("y") and word[-2] not in "aeiou":
        return word, f"{word[:-1]}ies"
    return word, f"{word}es" if word.endswith(("ch", "sh", "x", "s")) else f"{word}s"


def main(config: Config) -> None:
    """Writes the file."""
    write_text(config.out, write_pairs(config.seed).to_csv(index=False))


if __name__ == "__main__":
    start_page(main, Config, __doc__)
