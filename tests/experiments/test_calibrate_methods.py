"""`experiments/calibrate_methods.py` at toy size: its tables and the methods in them."""

import json
from pathlib import Path

import calibrate_methods
import pandas as pd
import pytest
from small_runs import write_beginnings

METHODS = ["relevance, own", "attribution, own", "integrated gradients", "activation"]


@pytest.mark.parametrize("value", ["mean", "zero"])
def test_the_page(tiny_folder: Path, tmp_path: Path, value: str) -> None:
    write_beginnings(tmp_path, train=60, test=8)
    config = calibrate_methods.Config(
        model=str(tiny_folder),
        train=f"{tmp_path}:train",
        fresh=f"{tmp_path}:test",
        value=value,
        sizes="1,8",
        groups=9,
        samples=3,
        top=1,
        steps=2,
        later_words=False,
        out=tmp_path / "out",
    )
    table = calibrate_methods.main(config)
    assert table["method"].tolist() == METHODS * 3
    assert table["lesions"].unique().tolist() == ["1 random", "8 random", "1, strong ones too"]
    assert (table["rank"].abs() <= 1).all()
    assert (table["rank_low"] <= table["rank"]).all()
    by_method = table[table["lesions"] == "1 random"].set_index("method")["rank"]
    assert by_method["attribution, own"] > 0.3 > by_method["activation"]
    gain = pd.read_csv(tmp_path / "out" / "relevance_gain.csv").set_index("lesions")
    assert gain.loc["1 random", "rank"] == pytest.approx(
        by_method["relevance, own"] - by_method["attribution, own"]
    )
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["words"] > 0
    assert about["verdict"].startswith("Of 4 methods")
