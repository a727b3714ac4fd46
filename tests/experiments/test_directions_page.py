"""`experiments/directions.py` at toy size: its tables."""

from pathlib import Path

import directions
import pandas as pd
from small_runs import write_beginnings


def test_the_page(tiny_folder: Path, tmp_path: Path) -> None:
    write_beginnings(tmp_path, train=60, test=10)
    config = directions.Config(
        model=str(tiny_folder),
        train=f"{tmp_path}:train",
        fresh=f"{tmp_path}:test",
        cut="NOUN,VERB,DET",
        k=8,
        replicates=0,
        layers="0,1",
        doses="0.5,1",
        out=tmp_path / "out",
    )
    summary = directions.main(config)
    assert summary["layer"].tolist() == [-1, 0, 0, 1, 1]
    assert summary["labels"].iloc[0] >= 1, "neurons reach half of their own cost"
    doses = pd.read_csv(tmp_path / "out" / "doses.csv")
    assert len(doses) == 3 * 5 * 2
    budget = pd.read_csv(tmp_path / "out" / "budget.csv")
    full = doses[(doses["dose"] == 1) & (doses["lesion"] == "key neurons")].set_index("label")
    for row in budget.to_dict("records"):
        assert abs(row["budget"] - full.loc[row["label"], "own"] / 2) < 1e-9
