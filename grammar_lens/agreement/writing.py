"""Generator of the minimal pairs: words are put into frames, each in both numbers.

Every frame gives a pair whose noun is singular and one whose noun is plural, with the same words
otherwise, so the good word of the one is the bad word of the other: a model that merely prefers "is"
to "are" gets half of them right. The paradigms named `_attractor` and `_control` have the same
frames, and the noun between subject and verb in the other or in the same number.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from grammar_lens.agreement import vocabulary as words
from grammar_lens.agreement.pairs import NUMBERS, MinimalPair

N_FRAMES = 40
"""Frames of a paradigm; each gives a pair of either number."""
Item = TypeVar("Item")
Frame = Callable[[int, int], str]
"""A sentence with the place of the word in question in braces, given the number of the noun that
decides and that of the attractor; 0 is singular, 1 plural."""


def write_pairs(seed: int = 0) -> tuple[MinimalPair, ...]:
    """Eighty pairs for each of ten paradigms.

    The file of the package is `pairs_to_csv(write_pairs())`.
    """
    # random() is all that is used: Python promises that its numbers never change
    rng = random.Random(seed)
    makers = (_subject_verb, _phrase, _object_relative, _subject_relative, _question)
    made = [pair for maker in makers for pair in _agreement(maker, rng)]
    for name, looks in (("determiner_noun", False), ("determiner_adjective_noun", True)):
        made += _determiner(name, looks, rng)
    return tuple(made)


def _agreement(
    maker: Callable[[random.Random], Iterator[tuple[Frame, words.Verb]]],
    rng: random.Random,
) -> list[MinimalPair]:
    """Pairs whose verb must agree, with an attractor of the other and of the same number if any."""
    name = maker.__name__.removeprefix("_")
    frames = _first(maker(rng))
    kinds = [("none", name)]
    if maker in (_phrase, _object_relative, _subject_relative):
        kinds = [("other", f"{name}_attractor"), ("same", f"{name}_control")]
    return [
        _pair(paradigm, number, attractor, frame(number, beside), verb)
        for attractor, paradigm in kinds
        for frame, verb in frames
        for number in (0, 1)
        for beside in [1 - number if attractor == "other" else number]
    ]


def _pair(
    paradigm: str, number: int, attractor: str, sentence: str, forms: tuple[str, str]
) -> MinimalPair:
    good, bad = forms[number], forms[1 - number]
    return MinimalPair(
        *(paradigm, NUMBERS[number], attractor),
        *(sentence.format(good), sentence.format(bad), good, bad),
    )


def _subject_verb(rng: random.Random) -> Iterator[tuple[Frame, words.Verb]]:
    people, things = _dealt(words.PEOPLE, rng), _dealt(words.THINGS, rng)
    person_does, thing_does = _dealt(words.PERSON_DOES, rng), _dealt(words.THING_DOES, rng)
    while True:
        for nouns, predicates in ((people, person_does), (things, thing_does)):
            noun, (verb, rest) = next(nouns), next(predicates)
            yield (lambda n, _, noun=noun, rest=rest: f"The {noun[n]} {{}} {rest}."), verb


def _phrase(rng: random.Random) -> Iterator[tuple[Frame, words.Verb]]:
    people, things = _dealt(words.PERSON_BESIDE, rng), _dealt(words.THING_BESIDE, rng)
    person_does, thing_does = _dealt(words.PERSON_DOES, rng), _dealt(words.THING_DOES, rng)
    while True:
        for heads, predicates in ((people, person_does), (things, thing_does)):
            (head, phrase), (verb, rest) = next(heads), next(predicates)
            before, _, after = phrase.partition("{")
            nouns = words.noun(head), words.noun(after.rstrip("}"))

            def frame(n: int, m: int, nouns=nouns, before=before, rest=rest) -> str:
                return f"The {nouns[0][n]} {before}{nouns[1][m]} {{}} {rest}."

            yield frame, verb


def _object_relative(rng: random.Random) -> Iterator[tuple[Frame, words.Verb]]:
    agents = _dealt(words.PEOPLE, rng)
    people, things = _dealt(words.PEOPLE, rng), _dealt(words.THINGS, rng)
    to_person, to_thing = _dealt(words.DID_TO_PERSON, rng), _dealt(words.DID_TO_THING, rng)
    person_does, thing_does = _dealt(words.PERSON_DOES, rng), _dealt(words.THING_DOES, rng)
    kinds = ((people, to_person, person_does), (things, to_thing, thing_does))
    while True:
        for heads, did, predicates in kinds:
            head, agent, past, (verb, rest) = next(heads), next(agents), next(did), next(predicates)

            def frame(n: int, m: int, head=head, agent=agent, past=past, rest=rest) -> str:
                return f"The {head[n]} that the {agent[m]} {past} {{}} {rest}."

            yield frame, verb


def _subject_relative(rng: random.Random) -> Iterator[tuple[Frame, words.Verb]]:
    heads, predicates = _dealt(words.PEOPLE, rng), _dealt(words.PERSON_DOES, rng)
    people, things = _dealt(words.PEOPLE, rng), _dealt(words.THINGS, rng)
    to_person, to_thing = _dealt(words.DID_TO_PERSON, rng), _dealt(words.DID_TO_THING, rng)
    while True:
        for objects, did in ((people, to_person), (things, to_thing)):
            head, thing, past, (verb, rest) = (
                next(heads),
                next(objects),
                next(did),
                next(predicates),
            )

            def frame(n: int, m: int, head=head, thing=thing, past=past, rest=rest) -> str:
                return f"The {head[n]} that {past} the {thing[m]} {{}} {rest}."

            yield frame, verb


def _question(rng: random.Random) -> Iterator[tuple[Frame, words.Verb]]:
    people, things = _dealt(words.PEOPLE, rng), _dealt(words.THINGS, rng)
    of_people, of_things = _dealt(words.PERSON_QUESTION, rng), _dealt(words.THING_QUESTION, rng)
    while True:
        for nouns, questions in ((people, of_people), (things, of_things)):
            noun, (asked, verb, rest) = next(nouns), next(questions)

            def frame(n: int, _: int, noun=noun, asked=asked, rest=rest) -> str:
                return f"{asked} {{}} the {noun[n]} {rest}".rstrip() + "?"

            yield frame, verb


def _determiner(name: str, looks: bool, rng: random.Random) -> Iterator[MinimalPair]:
    """Pairs whose noun must agree with its determiner, which an adjective may stand between."""
    for frame, noun in _first(_determined(looks, rng)):
        for number in (0, 1):
            yield _pair(name, number, "none", frame(number, number), noun)


def _determined(looks: bool, rng: random.Random) -> Iterator[tuple[Frame, words.Noun]]:
    determiners = _dealt(words.DETERMINERS, rng)
    seen, met = _dealt(words.SEEN, rng), _dealt(words.MET, rng)
    thing_said, person_said = (
        _dealt(words.THING_SENTENCES, rng),
        _dealt(words.PERSON_SENTENCES, rng),
    )
    thing_looks, person_looks = _dealt(words.THING_LOOKS, rng), _dealt(words.PERSON_LOOKS, rng)
    kinds = ((seen, thing_said, thing_looks), (met, person_said, person_looks))
    while True:
        for nouns, sentences, adjectives in kinds:
            noun, sentence, determiner = next(nouns), next(sentences), next(determiners)
            adjective = f" {next(adjectives)}" if looks else ""

            def frame(n: int, _: int, s=sentence, d=determiner, a=adjective) -> str:
                return s.format(f"{d[n]}{a} {{}}")

            yield frame, noun


def _dealt(items: Sequence[Item], rng: random.Random) -> Iterator[Item]:
    """The items in random order, over and over, so that none is used more than once more than others."""
    while True:
        yield from sorted(items, key=lambda _: rng.random())


def _first(
    frames: Iterator[tuple[Frame, tuple[str, str]]],
) -> list[tuple[Frame, tuple[str, str]]]:
    """The first frames that are all different and in which no word but function words comes twice."""
    kept: dict[str, tuple[Frame, tuple[str, str]]] = {}
    for frame, forms in frames:
        said = f"{frame(0, 0)} {frame(1, 1)}".format(*forms, *forms)
        both = {frame(n, n).format(forms[n]) for n in (0, 1)}
        if not any(_repeats(sentence) for sentence in both):
            kept.setdefault(said, (frame, forms))
        if len(kept) == N_FRAMES:
            break
    return list(kept.values())


def _repeats(sentence: str) -> bool:
    """Whether a word other than "the" or "that" stands twice in a sentence."""
    said = sentence.lower().rstrip(".?").split()
    content = [word for word in said if word not in ("the", "that", "of", "with", "to", "a")]
    return len(set(content)) < len(content)
