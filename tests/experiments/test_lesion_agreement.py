"""The experiment with lesions and number agreement."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import lesion_agreement
import pytest

from grammar_lens.agreement.pairs import pairs_to_csv, read_pairs
from grammar_lens.cli.options import listed


def test_it_writes_its_folder(
    tmp_path: Path, tiny_hf: Callable[[], Any], tiny_tokenizer: Any, capsys: Any
) -> None:
    tiny_hf().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    embedded = files("grammar_lens") / "embedded" / "treebank" / "handmade-train.conllu"
    few = "\n\n".join(embedded.read_text("utf-8").split("\n\n")[:40]) + "\n\n"
    (tmp_path / "few.conllu").write_text(few, "utf-8")
    (tmp_path / "pairs.csv").write_text(pairs_to_csv(read_pairs()[::20]), "utf-8")
    config = lesion_agreement.Config(
        model=str(tmp_path / "tiny"), train=str(tmp_path / "few.conllu"), cut="NOUN,VERB",
        pairs=str(tmp_path / "pairs.csv"), k=3, shams=2, out=tmp_path / "out",
    )  # fmt: skip
    table = lesion_agreement.main(config)
    assert set(table.lesion) == set(listed(config.cut))
    assert len(table) == 2 * 10
    assert table.p.between(1 / 3, 1).all()
    names = {p.name for p in config.out.iterdir()}
    assert names == {
        *("agreement.csv", "intact.csv", "shams.csv", "pairs.csv", "run.json"),
        "lesion_agreement.html",
    }
    assert len((config.out / "pairs.csv").read_text("utf-8").splitlines()) == 1 + 3 * 40
    assert "cells pass .05" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(ValueError, match="holds something else: choose another --out"):
        lesion_agreement.main(replace(config, out=tmp_path / "mine"))
