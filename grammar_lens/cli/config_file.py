"""Settings from a TOML file (`--config FILE.toml`); options on the command line override them."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import typer

from grammar_lens.errors import GrammarLensError, expected_one_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

from grammar_lens.runs.settings import RENAMED, flag_of

NOT_IN_A_FILE = ("config", "help", "install-completion", "show-completion")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "text"}


def read_config_file(ctx: Any, path: Path | None) -> Path | None:
    """Makes the file's settings the defaults of `ctx`'s command, and returns the path.

    Keys at the top are for every command that has such an option, those of a table named like a
    command for that command alone. Raises typer.BadParameter naming file, line and key.
    """
    if path is None or ctx.resilient_parsing:
        return path
    try:
        ctx.default_map = settings_of(path, ctx)
    except GrammarLensError as error:
        raise typer.BadParameter(str(error), param_hint="--config") from None
    return path


def settings_of(path: Path, ctx: Any) -> dict[str, Any]:
    """The file's settings for one command, by the names of its parameters."""
    text = _read(path)
    options = {name: dict(_options(c)) for name, c in _commands(ctx).items()}
    anywhere = {name: option for taken in options.values() for name, option in taken.items()}
    accepted = options[ctx.command.name or ""]
    settings: dict[str, Any] = {}
    tables = []
    for key, value in _parsed(path, text).items():
        if isinstance(value, dict):
            tables.append((key, value))
            continue
        name = _known(path, text, "", key, anywhere, accepted)
        checked = _typed(_where(path, text, "", key), name, value, anywhere[name][1])
        if name in accepted:
            settings[accepted[name][0]] = checked
    for table, entries in tables:
        if table not in options:
            _refuse(_where(path, text, table, ""), f"[{table}] is no command", table, options)
        for key, value in entries.items():
            name = _known(path, text, table, key, options[table], options[table])
            checked = _typed(_where(path, text, table, key), name, value, options[table][name][1])
            if table == ctx.command.name:
                settings[accepted[name][0]] = checked
    return settings


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise GrammarLensError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise GrammarLensError(f"{path} is not UTF-8 text ({error})") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file. Raises GrammarLensError for one that cannot be read."""
    return _parsed(path, _read(path))


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and thousands of digits
        raise GrammarLensError(f"{path} is no TOML: {error}") from None


def _commands(ctx: Any) -> Mapping[str, Any]:
    return ctx.find_root().command.commands  # pyright: ignore[reportAttributeAccessIssue]


def _options(command: Any) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Each option's name, with the name of its parameter and its type."""
    parameters = inspect.signature(command.callback).parameters
    for param in command.params:
        if param.param_type_name == "option":
            name = param.opts[0].removeprefix("--")
            if name not in NOT_IN_A_FILE:
                kind = get_args(parameters[param.name].annotation)[0]
                yield name, (param.name, get_args(kind)[0] if isinstance(kind, UnionType) else kind)


def _known(
    path: Path,
    text: str,
    table: str,
    key: str,
    options: Mapping[str, Any],
    taken: Mapping[str, Any],
) -> str:
    """The option that a key names, with dashes or underscores; `taken` are those of its command."""
    name = key.replace("_", "-")
    new = flag_of(RENAMED[name])[2:] if name in RENAMED and name not in taken else ""
    if new in taken:
        raise GrammarLensError(
            f"{_where(path, text, table, key)}: {name!r} is now {new!r}, whose first entry is the "
            "main one; one for `generate` goes into the table [generate]"
        )
    if name not in options:
        of = f"`grammar-lens {table}`" if table else "any command"
        _refuse(_where(path, text, table, key), f"{key!r} is no option of {of}", name, options)
    return name


def _refuse(where: str, what: str, given: str, known: Mapping[str, Any]) -> None:
    raise GrammarLensError(f"{where}: {what}: {expected_one_of(given, sorted(known))}")


def _typed(where: str, name: str, value: Any, kind: Any) -> Any:
    """A value as the option takes it."""
    if get_origin(kind) is list:
        entries = value if isinstance(value, list) else [value]
        if all(_is(entry, str) or _is(entry, float) for entry in entries):
            return [str(entry) for entry in entries]
        raise GrammarLensError(f"{where}: {name} is {value!r}, expected a list of texts or numbers")
    if not _is(value, kind):
        raise GrammarLensError(f"{where}: {name} is {value!r}, expected {KINDS[kind]}")
    return value


def _is(value: Any, kind: type) -> bool:
    """Whether a TOML value is of an option's type; true is no number, and a number no text."""
    if isinstance(value, bool):
        return kind is bool
    accepted: dict[type, tuple[type, ...]] = {float: (int, float), Path: (str,)}
    return isinstance(value, accepted.get(kind, (kind,)))


def _where(path: Path, text: str, table: str, key: str) -> str:
    """The file and, where it is known, the line of a key, or of a table without one."""
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*[\"']?([\w-]+)[\"']?\s*\]", line)
        if header:
            inside = header[1]
            if inside == table and not key:
                return f"{path}:{number}"
        elif key and inside == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return f"{path}:{number}"
    return str(path)
