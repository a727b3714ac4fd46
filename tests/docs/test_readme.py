"""The code in README.md runs as it stands and prints what README.md says it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from layers import LAYERS

README = Path(__file__).parents[2] / "README.md"
NUMBER = re.compile(r"[-+]?\d+\.\d+")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_ten_lines_print_what_is_shown() -> None:
    (code,), (shown,) = blocks("python"), blocks("text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(code, str(README), "exec"), {})
    ours, theirs = printed.getvalue().split(), shown.split()
    assert len(ours) == len(theirs)
    for ours_word, their_word in zip(ours, theirs, strict=True):
        if NUMBER.search(their_word):
            a, b = (float(m.group()) for m in map(NUMBER.search, (ours_word, their_word)) if m)
            # another processor rounds otherwise: a probe may move by a word in a hundred
            assert a == pytest.approx(b, abs=0.01)
        else:
            assert ours_word == their_word


def test_every_command_it_names_exists() -> None:
    from typer.main import get_command

    from grammar_lens.cli.app import app

    known = set(get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    named = set(re.findall(r"grammar-lens ([a-z]+(?:-[a-z]+)*)", README.read_text("utf-8")))
    assert named
    assert named <= known


def test_its_table_of_rooms_is_the_law_of_layers() -> None:
    rows = re.findall(r"^\| ((?:`[a-z_]+(?:\.py|/)`,? ?)+) \|", README.read_text("utf-8"), re.M)
    named = [name for row in rows for name in re.findall(r"`([a-z_]+)(?:\.py|/)`", row)]
    assert named == list(reversed(LAYERS))
