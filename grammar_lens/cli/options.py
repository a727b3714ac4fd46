"""Options of the commands: parameters made of the fields of `Config`, and arguments that commands share."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import typer

from grammar_lens.cli.completion import labels_of_run, one_of, run_directories, some_of
from grammar_lens.runs.settings import DEFAULTS, OPTIONS, OUTPUT, Config, check_settings, flag_of


def listed(text: str) -> tuple[str, ...]:
    """The entries of an option that takes several, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def in_panels(*panels: str) -> tuple[str, ...]:
    """The settings of some panels of `--help`, in its order."""
    return tuple(name for name, (_, option) in OPTIONS.items() if option.panel in panels)


def parameter(name: str, *, as_the_run: bool) -> inspect.Parameter:
    """The parameter of a command for a setting; with `as_the_run` the run's is its default."""
    option, (kind, several) = OPTIONS[name][1], _kind(name)
    known = tuple(filter(None, (*option.choices, option.every, *option.complete)))
    complete = run_directories if kind is Path else (some_of if several else one_of)(known)
    # a switch that is off by default has no opposite, unless a run may have it on
    has_opposite = kind is bool and (as_the_run or DEFAULTS[name])
    opposite = f"/--no-{flag_of(name)[2:]}" if has_opposite else ""
    metavar = f"<{kind.__name__},...>" if several else "" if kind is bool else None
    default = None if as_the_run else _shown(name)
    annotation = Annotated[
        list[str] if several else kind,
        typer.Option(
            f"{flag_of(name)}{opposite}",
            help=option.help,
            rich_help_panel=option.panel,
            autocompletion=complete,
            metavar=metavar,
        ),
    ]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _kind(name: str) -> tuple[Any, bool]:
    """The type of a setting, or of its entries, and whether it has several."""
    kind = OPTIONS[name][0]
    if get_origin(kind) is UnionType:
        kind = get_args(kind)[0]
    return (get_args(kind)[0], True) if get_origin(kind) is tuple else (kind, False)


def _shown(name: str) -> Any:
    """A setting's default as it is written on the command line."""
    default, (kind, _) = DEFAULTS[name], _kind(name)
    if isinstance(default, tuple):
        return [",".join(f"{x:g}" if kind is float else str(x) for x in default)] if default else []
    return _none_of(name) if default is None else default


def _none_of(name: str) -> Any:
    """The text or number that stands for None on the command line."""
    return "" if _kind(name)[0] is str else OPTIONS[name][1].none


def config_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `Config`; a setting that is None is left as the run has it.

    Raises typer.BadParameter for entries that are no numbers.
    """
    return {name: _read(name, value) for name, value in given.items() if value is not None}


def _read(name: str, value: Any) -> Any:
    (kind, several), option = _kind(name), OPTIONS[name][1]
    if several:
        entries = dict.fromkeys(listed(",".join(value)))
        if option.every in entries:
            return option.choices
        try:
            return tuple(kind(entry) for entry in entries)
        except ValueError:
            raise typer.BadParameter(
                f"expected numbers separated by commas, got {','.join(value)!r}",
                param_hint=flag_of(name),
            ) from None
    optional = type(None) in get_args(OPTIONS[name][0])
    return None if optional and value == _none_of(name) else value


def config_of(settings: Mapping[str, Any], **more: Any) -> Config:
    """The checked settings of a command that makes a run, or resumes one.

    Those that are None are the run's where it exists, and the defaults otherwise. Raises GrammarLensError.
    """
    config = Config(**config_fields(settings), **more)
    if None in settings.values() and (config.out / "run.json").is_file():
        from grammar_lens.runs.store.stored import StoredRun

        changes = config_fields(settings) | more
        changes.pop("out", None)
        config = Config.of(StoredRun(config.out), **changes)
    check_settings(config)
    return config


def with_out(settings: Mapping[str, Any], run: Path | None) -> dict[str, Any]:
    """The settings of a command, with the run directory that was given as its argument.

    Raises typer.BadParameter where --out names another.
    """
    if run is None:
        return dict(settings)
    out = settings.get("out")
    if out not in (None, run, DEFAULTS["out"]):
        raise typer.BadParameter(f"RUN is {run} and --out is {out}: give one of the two")
    return {**settings, "out": run}


RunArgument = Annotated[
    Path,
    typer.Argument(help="A run directory.", metavar="RUN", autocompletion=run_directories),
]
NewRunArgument = Annotated[
    Path,
    typer.Argument(
        help="A run directory, made if need be.",
        metavar="RUN",
        autocompletion=run_directories,
    ),
]
OutArgument = Annotated[
    Path | None,
    typer.Argument(
        help="The run directory to make; the same as --out.",
        metavar="[RUN]",
        show_default=False,
        autocompletion=run_directories,
    ),
]
LabelOfRun = Annotated[
    str, typer.Option(help="The label whose neurons are cut.", autocompletion=labels_of_run)
]
NameOption = Annotated[
    str | None,
    typer.Option(
        help="Name of these results among those of other settings (`grammar-lens runs RUN`).",
        rich_help_panel=OUTPUT,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Complete an existing run, with its settings.",
        rich_help_panel=OUTPUT,
        metavar="",
    ),
]
