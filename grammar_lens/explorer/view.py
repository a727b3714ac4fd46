"""The state of the page as its address holds it, so that a link opens the same view."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from grammar_lens.errors import GrammarLensError, expected_one_of
from grammar_lens.explorer.explored_run import MOST_TOKENS, VALUES, ExploredRun

Number = TypeVar("Number", int, float)

WHICH = {"first": "first k", "chosen": "the one chosen", "picked": "picked"}
PROMPT = "The old man"
TEXT = "The old man sat down, and the children ran to the river."
LONGEST = 20_000
"""Characters of a prompt or a text."""
LARGEST_SEED = 2**31 - 1
MOST_TEMPERATURE = 5


@dataclass(frozen=True)
class View:
    """Settings of all controls of the page."""

    position: str
    score: str
    tag: str
    neuron: str
    k: int
    which: str = "first"
    picked: str = ""
    value: str = VALUES[0]
    dose: float = 1.0
    text: str = TEXT
    prompt: str = PROMPT
    tokens: int = 40
    temperature: float = 0.0
    seed: int = 0


def default_view(session: ExploredRun, position: str | None = None) -> View:
    """The view of a link that says nothing: the run's own score, and VERB where it has verbs."""
    position = position or session.run.main_position
    labels, score = session.labels(position), session.methods(position)[0]
    tag = "VERB" if "VERB" in labels else labels[0]
    return _with_first(session, View(position, score, tag, neuron="", k=1))


def view_of(session: ExploredRun, link: object) -> tuple[View, list[str]]:
    """The view that an address's fragment names, and what of it this run does not have.

    What is left out, unknown or out of range stays as in the default view.
    """
    given = _fields(link)
    faults: list[str] = []

    def take(view: View, name: str, read: Callable[[str], Any]) -> View:
        if name not in given:
            return view
        try:
            return replace(view, **{name: read(given[name])})
        except GrammarLensError as error:
            faults.append(f"{name} {given[name][:40]!r} ({error})")
            return view

    view = take(default_view(session), "position", _one_of(session.positions))
    view = default_view(session, view.position)
    view = take(view, "score", _one_of(session.methods(view.position)))
    view = take(view, "tag", _one_of(session.labels(view.position)))
    view = _with_first(session, view)
    most = session.most(view.position, view.score, view.tag)

    def neuron(text: str) -> str:
        layer, index = session.address(view.position, text)
        return f"{layer}.{index}"

    readers: dict[str, Callable[[str], Any]] = {
        "neuron": neuron,
        "k": _whole(1, most),
        "which": _one_of(tuple(WHICH)),
        "picked": lambda text: text[:LONGEST],
        "value": _one_of(VALUES),
        "dose": lambda text: round(4 * _number(-1, 2)(text)) / 4,
        "text": lambda text: text[:LONGEST],
        "prompt": lambda text: text[:LONGEST],
        "tokens": _whole(1, MOST_TOKENS),
        "temperature": _number(0, MOST_TEMPERATURE),
        "seed": _whole(0, LARGEST_SEED),
    }
    for name, read in readers.items():
        view = take(view, name, read)
    return view, faults


def _fields(link: object) -> dict[str, str]:
    """Names and values in a fragment such as "#tag=VERB&k=10"; nothing for what is none."""
    if not isinstance(link, str):
        return {}
    try:
        return dict(parse_qsl(link.lstrip("#"), keep_blank_values=True, max_num_fields=100))
    except ValueError:
        return {}


def _with_first(session: ExploredRun, view: View) -> View:
    """The view with the first neuron of its tag, and with all of the tag's key neurons."""
    try:
        ((layer, index),) = session.first(view.position, view.score, view.tag, 1)
    except GrammarLensError:  # the list of key neurons says so
        return replace(view, neuron="", k=1)
    k = session.most(view.position, view.score, view.tag)
    return replace(view, neuron=f"{layer}.{index}", k=k)


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise GrammarLensError(expected_one_of(text, choices))
        return text

    return read


def _number(least: float | int, most: float | int) -> Callable[[str], float]:
    return lambda text: _within(float, text, least, most)


def _whole(least: int, most: int) -> Callable[[str], int]:
    return lambda text: _within(int, text, least, most)


def _within(
    kind: Callable[[str], Number], text: str, least: float | int, most: float | int
) -> Number:
    with suppress(ValueError):  # also what is no number, and int() of too many digits
        number = kind(text)
        if math.isfinite(number) and least <= number <= most:
            return number
    raise GrammarLensError(f"expected a number from {least:g} to {most:.10g}")
