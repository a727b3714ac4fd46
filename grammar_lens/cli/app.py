"""The group of commands and their shared options, errors, exit codes and examples."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from grammar_lens import __version__
from grammar_lens.cli.config_file import read_config_file
from grammar_lens.cli.console import Console
from grammar_lens.cli.errors import BAD_INPUT, FAILED, INTERRUPTED, one_line_errors, say_error
from grammar_lens.cli.options import RunArgument, parameter
from grammar_lens.errors import GrammarLensError
from grammar_lens.runs.settings import OUTPUT, RENAMED, flag_of
from grammar_lens.runs.store.location import find_run

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The usage errors of click; typer may have its own copy of click."""


def _shared(
    config: Annotated[
        Path | None,
        typer.Option(
            help="Settings from a TOML file: keys are option names, in a table [COMMAND] for that "
            "command alone; options given here beat it.",
            metavar="FILE.toml",
            rich_help_panel=OUTPUT,
            is_eager=True,
            callback=read_config_file,
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="No progress and no notes.", rich_help_panel=OUTPUT, metavar=""
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            help="Also versions, devices, batches, the warnings of libraries, and where an unexpected "
            "error came from.",
            rich_help_panel=OUTPUT,
            metavar="",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the result as JSON, nothing else.",
            rich_help_panel=OUTPUT,
            metavar="",
        ),
    ] = False,
) -> None:
    """The options that every command has; --json, the last, only those that print a result."""


STUDY = "A study"
STEPS = "Its steps, one by one"
LOOKING = "Looking at runs"
ITSELF = "The program itself"
PANELS = (STUDY, STEPS, LOOKING, ITSELF)
"""The groups of commands in the order of `--help`."""


class _Commands(typer.core.TyperGroup):
    """Names the fault of a command line in a line; shows the help where there is no command."""

    def list_commands(self, ctx: Any) -> list[str]:
        panel = {name: getattr(c, "rich_help_panel", "") for name, c in self.commands.items()}
        return sorted(super().list_commands(ctx), key=lambda name: PANELS.index(panel[name]))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        asked = args if args or ctx.resilient_parsing else ["--help"]
        return super().parse_args(ctx, asked)

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        try:
            code = super().main(*args, standalone_mode=False, **more)
        except UsageError as error:
            if not standalone_mode:
                raise
            say_error(_message(error))
            code = BAD_INPUT
        except typer.Abort:
            code = FAILED
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _message(error: Any) -> str:
    """A usage error with the command whose help says more."""
    message = error.format_message().rstrip(". ")
    if getattr(error, "option_name", "") == "--run":
        message = "--run is gone: the run directory is the first argument, RUN"
    name = RENAMED.get(getattr(error, "option_name", "").removeprefix("--"), "")
    if name and any(p.name == name for p in error.ctx.command.params):
        message = f"{error.option_name} is now {flag_of(name)}, whose first entry is the main one"
    if hasattr(error.__cause__, "errors"):  # pydantic's, which do not say what came
        message += f", got {error.__cause__.errors()[0]['input']!r}"
    ctx = getattr(error, "ctx", None)
    message += _suggestion(message, ctx)
    return f"{message} (see `{ctx.command_path} --help`)" if ctx else message


def _suggestion(message: str, ctx: Any) -> str:
    """Names what a command takes, where it was given more than that."""
    if ctx is not None and message.startswith("Got unexpected extra argument"):
        taken = [p.metavar or p.name.upper() for p in ctx.command.params if _is_argument(p)]
        options = {x for p in ctx.command.params for x in p.opts}
        hint = "; a text is given with --prompt" if "--prompt" in options else ""
        return f": {ctx.info_name} takes {' and '.join(taken) or 'options only'}{hint}"
    return ""


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


app = typer.Typer(
    cls=_Commands,
    pretty_exceptions_enable=False,
    help="Lesion studies of language models: which neurons carry each part of speech, and do they "
    "matter.",
    epilog="A first study: `grammar-lens run runs/demo`, then `grammar-lens serve runs/demo`.\n\n"
    f"Exit codes: 0 done; {FAILED} an unexpected error, or a limit of `certify` that is not held; "
    f"{BAD_INPUT} bad input, with one line that says what to do; {INTERRUPTED} stopped by Ctrl-C.",
)


def _say_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"grammar-lens {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _group(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version; `info` has those of the libraries too.",
            metavar="",
            is_eager=True,
            callback=_say_version,
        ),
    ] = False,
) -> None:
    pass


_CONTEXT = inspect.Parameter(
    "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
)


def command(
    *,
    panel: str,
    examples: Sequence[str],
    settings: Sequence[str] = (),
    of_a_run: bool = False,
    prints_json: bool = True,
    kept: str = "nothing of it is kept",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command: a function of a `Console`, its own options, and the settings it names.

    The settings come as `**settings`; `of_a_run` leaves those not given as the run has them. `kept`
    says what is left when the command is stopped.
    """

    def register(body: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in _parameters(body)[1:] if p.kind is not p.VAR_KEYWORD]
        chosen = [parameter(name, as_the_run=of_a_run) for name in settings]
        of_runs = [p.name for p in own if p.annotation is RunArgument]
        shared = _parameters(_shared)[: None if prints_json else -1]

        @functools.wraps(body)
        def called(ctx: Any, **given: Any) -> None:  # typer's own kind of click's Context
            common = {p.name: given.pop(p.name) for p in shared}
            if given.get("resume"):
                _leave_open(ctx, given, settings)
            console = Console(config_file=common.pop("config"), **common)
            with console.listening(), _ended(console, kept):
                _require_text(given)
                for name in of_runs:
                    find_run(given[name])
                body(console, **given)

        called.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
            [_CONTEXT, *(p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *chosen, *shared))]
        )
        text = inspect.cleandoc(body.__doc__ or "")
        if of_a_run:
            text += "\n\nSettings that are not given stay as the run has them."
        epilog = "\n\n".join(["Examples:", *map(_literal, examples)])
        app.command(
            name=body.__name__.replace("_", "-"), help=text, rich_help_panel=panel, epilog=epilog
        )(called)
        return body

    return register


def _leave_open(ctx: Any, given: dict[str, Any], settings: Sequence[str]) -> None:
    """Sets to None what was given neither on the command line nor in a file: a resumed run has it."""
    for name in settings:
        if name != "out" and ctx.get_parameter_source(name).name == "DEFAULT":
            given[name] = None


def _require_text(given: dict[str, Any]) -> None:
    """Raises GrammarLensError for an option or argument whose bytes are not UTF-8."""
    for name, value in given.items():
        for entry in value if isinstance(value, list) else (value,):
            if isinstance(entry, str | Path) and any("\ud800" <= c <= "\udfff" for c in str(entry)):
                raise GrammarLensError(f"{name} is {str(entry)!r}, which is no UTF-8 text")


def _parameters(body: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(body).parameters.values())


def _literal(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")


@contextmanager
def _ended(console: Console, kept: str) -> Iterator[None]:
    """Turns whatever a command may raise into one line and an exit code."""
    try:
        with one_line_errors():
            yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; {kept}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (UsageError, typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        if console.verbose:
            raise
        first_line = str(error).partition("\n")[0]
        say_error(
            f"unexpected {type(error).__name__}: {first_line} (this is a fault of grammar-lens or a library: "
            "run again with --verbose to see where, and report it)"
        )
        raise typer.Exit(FAILED) from None
