"""The base class of errors raised for bad input."""

import difflib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class GrammarLensError(ValueError):
    """Input that cannot be used; the message says what was expected, what came and what to do."""


class DamagedError(GrammarLensError):
    """A stored file that is not whole; `why` says in what way."""

    def __init__(self, path: object, why: object) -> None:
        self.why = " ".join(str(why).split())[:160]
        super().__init__(f"{path} is damaged ({self.why}): delete it and run again with --resume")


class NotMeasuredError(GrammarLensError):
    """A result that a run or study does not hold; the message says how to measure it."""


def require_one_of(name: str, given: object, known: Iterable[str]) -> None:
    """Raises GrammarLensError unless `given` is one of the known names."""
    known = tuple(known)
    if given not in known:
        raise GrammarLensError(f"{name} is {given!r}, {expected_one_of(given, known)}")


def require_at_least(name: str, given: int | float, least: int | float, noun: str = "") -> None:
    """Raises GrammarLensError for a number below `least`, and for NaN.

    `noun` is what is counted, in the number that `least` asks for: "tokens" for 8, "token" for 1.
    """
    if not given >= least:
        raise GrammarLensError(f"{name} is {_plain(given)}, {_or_more(least, noun)}")


def require_between(
    name: str, given: int | float, least: int | float, most: int | float, why: str = ""
) -> None:
    """Raises GrammarLensError for a number outside `least` to `most`, and for NaN.

    `why` says where the bounds come from, such as "gpt2 has 12 layers".
    """
    if not least <= given <= most:
        expected = f"expected {_plain(least)} to {_plain(most)}"
        raise GrammarLensError(f"{name} is {_plain(given)}, {expected}{why and f': {why}'}")


def require_layer(layer: int, n_layers: int, model: str = "the model") -> None:
    """Raises GrammarLensError for a layer that a model does not have."""
    if not 0 <= layer < n_layers:
        available = counted(n_layers, "layer")
        raise GrammarLensError(
            f"layer {layer} does not exist: {model} has {available}, numbered from 0"
        )


def require_neuron(
    layer: int,
    index: int,
    n_layers: int,
    n_units: int,
    *,
    model: str = "the model",
    noun: str = "neuron",
) -> None:
    """Raises GrammarLensError for a neuron, or another unit, that a model does not have."""
    if not (0 <= layer < n_layers and 0 <= index < n_units):
        available = f"{counted(n_layers, 'layer')} of {counted(n_units, noun)}"
        raise GrammarLensError(
            f"{noun} {layer}.{index} does not exist: {model} has {available}, numbered from 0"
        )


def expected_one_of(given: object, known: Iterable[str]) -> str:
    """The end of a message: the known names, and the nearest one if `given` may be its misspelling."""
    names = tuple(known)
    expected = (
        f"expected one of {', '.join(filter(None, names))}" if any(names) else "there are none"
    )
    near = nearest(given, names)
    return expected if near is None else f"{expected}; did you mean {near!r}?"


def nearest(given: object, known: Iterable[str]) -> str | None:
    """The known name that `given` is most likely a misspelling of, whatever its case."""
    by_lower_case = {name.casefold(): name for name in known if name}
    matches = difflib.get_close_matches(str(given).casefold(), by_lower_case, 1)
    return by_lower_case[matches[0]] if matches else None


@contextmanager
def readable(what: object, remedy: str) -> Iterator[None]:
    """Turns whatever reading a file raises into one GrammarLensError: "WHAT cannot be read (why): REMEDY".

    A file of unknown origin makes the libraries that read it fail in any way, running out of memory too.
    """
    try:
        yield
    except GrammarLensError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        name = type(error).__name__
        raise GrammarLensError(
            f"{what} cannot be read ({name}{reason and f': {reason}'}): {remedy}"
        ) from error


def unprintable(text: str) -> bool:
    """Whether a text has control characters, line ends or half characters, which tables cannot hold."""
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun or phrase: "1 word", "1,049 words", "2 words share a token".

    `many` is the phrase for numbers other than 1, by default `one` with an s.
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def _or_more(least: int | float, noun: str) -> str:
    return " ".join(filter(None, ("expected", _plain(least), noun, "or more")))


def _plain(number: int | float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
