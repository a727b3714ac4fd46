"""Runtime checks of types and shapes at a fraction of the time that the import hook of jaxtyping takes.

The hook wraps every function in `jaxtyped`, which binds the arguments anew at each call. Shapes need
that; functions without an array in their signature are checked by the type checker alone. Functions
inside functions, which are made anew each time the outer one runs, are checked the first time. What
a test calls more often than fifty times, as the inner loop of a fit, is then checked every fiftieth.
"""

import typing
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""The check of types: an int is taken for a float, as the language and pyright take it."""

_JAXTYPED = jaxtyping.jaxtyped
_MADE: set[Any] = set()
"""Code of the inner functions that were made before."""
_OFTEN = 50
_CALLS: Counter[int] = Counter()
"""How often each function of arrays was called in this test, by the hash of its code."""


def begin_test() -> None:
    """Count calls from zero, so that every test has its first ones checked."""
    _CALLS.clear()


def _needs_shapes(hint: Any) -> bool:
    """Whether a type holds an array, or a name that only jaxtyping looks up with patience."""
    if isinstance(hint, str | typing.ForwardRef):
        return True
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    inner = hint if isinstance(hint, list) else typing.get_args(hint)
    return any(_needs_shapes(x) for x in inner)


def _checked(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`jaxtyped` for classes and for functions of arrays, the type checker for other functions."""

    def decorate(target: Any) -> Any:
        hints = getattr(target, "__annotations__", {}).values()
        if isinstance(target, type):
            return _JAXTYPED(target, typechecker=typechecker)
        if any(map(_needs_shapes, hints)):
            return _often_unchecked(target, _JAXTYPED(target, typechecker=typechecker))
        if "<locals>" in target.__qualname__:
            if target.__code__ in _MADE:
                return target
            _MADE.add(target.__code__)
        return typechecker(target)

    return decorate


def _often_unchecked(plain: Callable[..., Any], checks: Callable[..., Any]) -> Callable[..., Any]:
    code = hash(plain.__code__)  # what is made anew each time the outer one runs counts on

    @wraps(plain)
    def call(*given: Any, **options: Any) -> Any:
        _CALLS[code] = n = _CALLS[code] + 1
        return (checks if n <= _OFTEN or n % _OFTEN == 0 else plain)(*given, **options)

    return call


# what the import hook puts before every function and class that it loads from now on
jaxtyping.jaxtyped = _checked
