"""Narrower types than the checker sees: results that must be there, rows of tables."""

from collections.abc import Iterator
from typing import Any, TypeVar

import pandas as pd

from grammar_lens.lesions.outcomes import Condition
from grammar_lens.neurons.neurons import Neurons

T = TypeVar("T")


def present(value: T | None) -> T:
    """A value that may be None elsewhere, and must not be here."""
    assert value is not None
    return value


def neurons_of(condition: Condition) -> Neurons:
    """The neurons of a condition that is no lesion of directions."""
    assert isinstance(condition.neurons, Neurons)
    return condition.neurons


def named_rows(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, whose names depend on the table."""
    return iter(frame.itertuples())
