"""The script that writes the minimal pairs of the package."""

from importlib.resources import files
from pathlib import Path

from minimal_pairs import Config, main, write_pairs

from grammar_lens.phenomena.pairs import load_pairs


def test_the_file_of_the_package_is_what_it_writes(tmp_path: Path) -> None:
    stored = (files("grammar_lens") / "embedded" / "minimal_pairs.csv").read_bytes()
    main(Config(out=tmp_path / "pairs.csv"))
    assert stored == (tmp_path / "pairs.csv").read_bytes()


def test_another_seed_writes_other_pairs() -> None:
    pairs, other = load_pairs(), write_pairs(seed=1)
    assert len(other) == len(pairs)
    assert set(other["good"]) != {p.good for p in pairs}
