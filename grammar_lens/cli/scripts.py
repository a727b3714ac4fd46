"""Scripts whose flags are the fields of a dataclass."""

import inspect
from collections.abc import Callable
from typing import Any

import typer

from grammar_lens.cli.errors import INTERRUPTED, one_line_errors


def start_page(main: Callable[[Any], object], config_class: type, text: str | None) -> None:
    """Runs a script's `main` with a config whose fields are the flags; `text`, to its first line, is the help.

    Bad input is one line and exit code 2; Ctrl-C is one line and exit code 130.
    """
    parameters = inspect.signature(config_class)

    def command(**flags: Any) -> None:
        with one_line_errors():
            try:
                main(config_class(**flags))
            except KeyboardInterrupt:
                more = ": run again with --resume" if "resume" in parameters.parameters else ""
                typer.echo(f"stopped{more}", err=True)
                raise typer.Exit(INTERRUPTED) from None

    command.__signature__ = parameters  # pyright: ignore[reportFunctionMemberAccess]
    page = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    page.command(help=(text or "").partition("\n")[0])(command)
    page()
