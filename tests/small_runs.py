"""Beginnings of the embedded treebank, and the command line in this process."""

from importlib.resources import files
from pathlib import Path

from typer.testing import CliRunner

from grammar_lens.cli.app import app
from grammar_lens.phenomena.pairs import Pairs, load_pairs


def write_beginnings(folder: Path, **sentences: int) -> None:
    """Writes the first sentences of each split into a folder: `few-train.conllu` for train=70."""
    embedded = files("grammar_lens") / "embedded" / "treebank"
    for split, n in sentences.items():
        blocks = (embedded / f"handmade-{split}.conllu").read_text("utf-8").split("\n\n")
        (folder / f"few-{split}.conllu").write_text("\n\n".join(blocks[:n]) + "\n\n", "utf-8")


def write_pairs(path: Path, each: int = 24) -> None:
    """Writes a CSV file of minimal pairs of two of the project's phenomena."""
    chosen = ("subject_verb", "determiner_noun")
    pairs = [p for p in load_pairs(max_pairs=each) if p.phenomenon in chosen]
    Pairs(tuple(pairs)).to_csv(path)


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and messages of a command; what it does not catch is raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
