"""Output of a command: results on stdout; notes, warnings and progress on stderr."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import typer

from grammar_lens.cli.errors import is_other_process
from grammar_lens.errors import GrammarLensError

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Console:
    """Output of a command at its verbosity; of several processes only one writes."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    config_file: Path | None = None
    """The file that settings were read from, besides the command line."""

    @property
    def shows_progress(self) -> bool:
        return not self.quiet and not self.as_json

    def note(self, text: str) -> None:
        """Shows progress on stderr."""
        if self.shows_progress:
            typer.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Says on stderr what only --verbose asks for."""
        if self.verbose and not is_other_process():
            typer.echo(text, err=True)

    def result(self, *shown: Any, data: Callable[[], Any]) -> None:
        """Prints a result: texts, and what rich can show; with --json what `data` returns."""
        if is_other_process():
            return
        if self.as_json:
            from grammar_lens.files import to_json

            typer.echo(json.dumps(to_json(data()), indent=1, allow_nan=False))
            return
        from rich.console import Console as RichConsole
        from rich.text import Text

        terminal = RichConsole()
        for part in shown:
            if isinstance(part, str) and not terminal.is_terminal:
                typer.echo(part)
            else:
                # a terminal would break a long line within words
                terminal.print(Text(part) if isinstance(part, str) else part)

    def ask(self, shown: Any, question: str) -> bool:
        """Shows on stderr what is at stake, and asks. Raises GrammarLensError where nobody answers."""
        from rich.console import Console as RichConsole

        RichConsole(stderr=True).print(shown)
        try:
            return typer.confirm(question, err=True)
        except typer.Abort:
            typer.echo(err=True)
            raise GrammarLensError("nobody answered: give --yes to do it without asking") from None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Says warnings in a line each; those of other libraries, and log messages, with --verbose only."""
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        root = logging.getLogger()
        level = root.level
        with warnings.catch_warnings():
            warnings.showwarning = self._warn
            if self.verbose:
                root.addHandler(handler)
                root.setLevel(logging.INFO)
                logging.getLogger("grammar_lens").setLevel(logging.DEBUG)
            try:
                yield
            finally:
                root.removeHandler(handler)
                root.setLevel(level)

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        in_package = Path(filename).is_relative_to(PACKAGE)
        if (in_package or self.verbose) and not is_other_process():
            where = "" if in_package else f"{filename}:{lineno}: {category.__name__}: "
            typer.echo(f"warning: {where}{message}", err=True)
