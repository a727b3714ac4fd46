"""One setting as an option, and how what is typed becomes what `steps.Config` has."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from grammar_lens.cli.completing import Complete

POSITIONS = {"word": ("word",), "next": ("next",), "both": ("word", "next")}


def listed(text: str) -> tuple[str, ...]:
    """The entries of an option that takes several, by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def as_given(_option: str, value: Any) -> Any:
    return value


def or_none(_option: str, value: Any) -> Any:
    """None for the 0 or nothing that leaves a choice to the program."""
    return value or None


def by_commas(_option: str, value: str) -> tuple[str, ...]:
    return listed(value)


def several(_option: str, value: list[str]) -> tuple[str, ...]:
    return tuple(value)


def numbers(option: str, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in listed(value))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers separated by commas, got {value!r}", param_hint=option
        ) from None


def positions(option: str, value: str) -> tuple[str, ...]:
    if value not in POSITIONS:
        raise typer.BadParameter(
            f"expected one of {', '.join(POSITIONS)}, got {value!r}", param_hint=option
        )
    return POSITIONS[value]


def unless_minus_one(_option: str, value: int) -> int | None:
    return None if value == -1 else value


@dataclass(frozen=True)
class Setting:
    """An option that becomes a field of `steps.Config`, by its own name or that of `field`."""

    panel: str
    default: Any
    help: str
    kind: Any = str
    read: Callable[[str, Any], Any] = as_given
    field: str | None = None
    flag: str | None = None
    complete: Complete | None = None

    def parameter(self, name: str, *, as_the_run: bool) -> inspect.Parameter:
        """The parameter of a command; `as_the_run` leaves what is not given as the run has it."""
        flag = self.flag or f"--{name.replace('_', '-')}"
        # a switch that is off by default has no opposite, unless a run may have it on
        opposite = f"/--no-{flag.removeprefix('--')}" if as_the_run and self.kind is bool else ""
        annotation = Annotated[
            self.kind,
            typer.Option(
                f"{flag}{opposite}",
                help=self.help,
                rich_help_panel=self.panel,
                autocompletion=self.complete,
                metavar="" if self.kind is bool else None,
            ),
        ]
        default = None if as_the_run else self.default
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
