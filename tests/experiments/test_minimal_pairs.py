"""The script that writes the minimal pairs of the package."""

from importlib.resources import files

from minimal_pairs import as_csv, write_pairs

from grammar_lens.phenomena.pairs import load_pairs


def test_the_file_of_the_package_is_what_it_writes() -> None:
    stored = (files("grammar_lens") / "embedded" / "minimal_pairs.csv").read_bytes()
    assert stored == as_csv(write_pairs()).encode("utf-8")


def test_another_seed_writes_other_pairs() -> None:
    pairs, other = load_pairs(), write_pairs(seed=1)
    assert len(other) == len(pairs)
    assert {p.good for p in other} != {p.good for p in pairs}
