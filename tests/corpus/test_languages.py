"""Other languages run end to end: alignment, nulls, attributions, probe, lesions, report."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grammar_lens.cli.app import app

LESS = (
    *("--replicates", "20", "--min-words", "10", "--max-fresh-sentences", "20", "--quiet"),
    *("--shams", "3", "--lesion-labels", "NOUN,VERB", "--top-k", "20", "--probe-k", "5"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UD_French-Sequoia", "UD_German-GSD", "UD_Chinese-GSDSimp"])
def test_a_treebank_of_another_language(name: str, shared_data: Path, tmp_path: Path) -> None:
    bank = shared_data / "treebanks" / name
    if not bank.is_dir():
        pytest.skip(f"no {name} at {bank.parent}")
    out = tmp_path / "run"
    given = ["run", "--train", f"{bank}:dev", "--fresh", f"{bank}:test", "--out", str(out), *LESS]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "summary.json").read_text("utf-8"))
    assert found["alignment"]["aligned"] > 0.9 * found["alignment"]["words"]
    # a model of English tells words of other languages little better than chance, but it does
    assert found["probe"]["accuracy"] > found["probe"]["majority_accuracy"] + 0.2
    assert found["selection"]["word"]["sham_localiser"]["sham_by_permutation"] < 1
    assert (out / "report.html").is_file()
