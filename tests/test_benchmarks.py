"""The GPU benchmark runs through on the CPU at small sizes; the others are timed, not tested."""

import json
import math
from pathlib import Path

import pytest
from scripts import ROOT, run_script


@pytest.mark.shared
def test_the_benchmark_at_the_shape_of_llama_3_runs_small_on_the_cpu(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shape.json"
    flags = {
        **{"device": "cpu", "layers": 2, "d_model": 64, "d_mlp": 160, "heads": 4, "kv_heads": 2},
        **{"sentences": 20, "lesion_sentences": 5, "lesions": 3, "rounds": 1, "slow_rounds": 1},
        "tokenizer": shared_data / "tokenizers" / "llama3",
        "treebank": f"{shared_data}/treebanks/UD_English-EWT:dev",
        "out": out,
    }
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert run_script(monkeypatch, "benchmarks/llama3_8b_shape.py", flags) in (0, None)
    found = json.loads(out.read_text())
    ways = {"bare", "layers", "collect", "plan", "pass", "found", "plain", "features", "opening"}
    ways |= {"head", "own", "clean", "battery"}
    assert set(found["rows"]) == ways
    assert {name for ratio in found["ratios"] for name in ratio.split(" / ")} == (
        ways - {"battery"} | {"a lesion"}
    )
    assert set(found["goals"]) <= set(found["ratios"])
    numbers = [n for ratio in found["ratios"].values() for n in ratio.values()]
    numbers += [row["wall_seconds"] for row in found["rows"].values()]
    assert all(math.isfinite(n) and n > 0 for n in numbers)
    assert found["bare_layers_agree"]
    assert max(found["largest_differences"].values()) < 1e-4
