"""The experiment with phenomena of grammar."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import phenomena
import pytest


def test_it_writes_its_folder(
    tmp_path: Path, tiny_hf: Callable[[], Any], tiny_tokenizer: Any, capsys: Any
) -> None:
    tiny_hf().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    embedded = files("grammar_lens") / "embedded" / "treebank" / "handmade-train.conllu"
    few = "\n\n".join(embedded.read_text("utf-8").split("\n\n")[:40]) + "\n\n"
    (tmp_path / "few.conllu").write_text(few, "utf-8")
    config = phenomena.Config(
        model=str(tmp_path / "tiny"), train=str(tmp_path / "few.conllu"), cut="NOUN,VERB",
        max_pairs=24, k=3, shams=2, sham_pairs=3, out=tmp_path / "out",
    )  # fmt: skip
    table = phenomena.main(config)
    assert set(table.lesion) == {*table.phenomenon, "NOUN", "VERB"}
    assert len(table) == (10 + 2) * 10
    assert table.p.between(1 / 3, 1).all()
    assert {p.name for p in config.out.iterdir()} == {
        *("phenomena.csv", "intact.csv", "shams.csv", "overlap.csv", "pairs.csv", "run.json"),
        "phenomena.html",
    }
    assert len((config.out / "pairs.csv").read_text("utf-8").splitlines()) == 1 + 240
    assert len((config.out / "overlap.csv").read_text("utf-8").splitlines()) == 1 + 20
    assert "cells pass .05" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(ValueError, match="holds something else: choose another --out"):
        phenomena.main(replace(config, out=tmp_path / "mine"))
