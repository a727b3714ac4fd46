"""Exit of a command on an error: one line with the cause and the remedy, and an exit code."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from grammar_lens.errors import GrammarLensError

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
SECONDS_TO_SPEAK = 10.0


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input becomes one line on stderr and exit code 2; errors of other kinds pass through."""
    try:
        yield
    except BrokenPipeError:
        # the reader of the output has closed the pipe (`| head`)
        raise
    except (GrammarLensError, OSError) as error:
        if is_other_process():
            # if all have it, the main process says so, and this one is stopped meanwhile
            time.sleep(SECONDS_TO_SPEAK)
        say_error(_message(error))
        raise typer.Exit(BAD_INPUT) from None


def say_error(text: str) -> None:
    """Prints an error in one line on stderr."""
    typer.echo(f"error: {' '.join(text.splitlines())}", err=True)


def is_other_process() -> bool:
    """Whether torchrun has started this process beside a main one, which speaks."""
    return os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1"


def _message(error: Exception) -> str:
    """An error's message; the system's with the file first and without its number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
