"""Scripts whose flags are the fields of a dataclass."""

import inspect
from collections.abc import Callable
from typing import Any

import typer

from grammar_lens.cli.errors import one_line_errors


def start_page(main: Callable[[Any], object], config_class: type, text: str | None) -> None:
    """Runs a script's `main` with a config whose fields are the flags; `text`, to its first line, is the help.

    Bad input is one line and exit code 2.
    """

    def command(**flags: Any) -> None:
        with one_line_errors():
            main(config_class(**flags))

    command.__signature__ = inspect.signature(config_class)  # pyright: ignore[reportFunctionMemberAccess]
    page = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    page.command(help=(text or "").partition("\n")[0])(command)
    page()
