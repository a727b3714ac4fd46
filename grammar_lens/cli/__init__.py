"""The command `grammar-lens`: parses, calls, prints. Heavy imports wait until a command runs."""

import io
import sys

from grammar_lens.cli import (  # noqa: F401  # each registers its commands
    inspect_commands,
    run_commands,
    system_commands,
)
from grammar_lens.cli.app import app
from grammar_lens.cli.errors import BAD_INPUT, INTERRUPTED, one_line_errors
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page

__all__ = ["BAD_INPUT", "INTERRUPTED", "app", "listed", "main", "one_line_errors", "start_page"]


def main() -> None:
    """The entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # a terminal that lacks a sign shows another instead of ending the command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="grammar-lens")
