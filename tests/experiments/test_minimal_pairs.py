"""The script that writes the minimal pairs of the package."""

from importlib.resources import files

from minimal_pairs import write_pairs

from grammar_lens.agreement.pairs import pairs_to_csv, read_pairs


def test_the_file_of_the_package_is_what_it_writes() -> None:
    stored = (files("grammar_lens") / "embedded" / "minimal_pairs.csv").read_bytes()
    assert stored == pairs_to_csv(write_pairs()).encode("utf-8")


def test_another_seed_writes_other_pairs() -> None:
    pairs, other = read_pairs(), write_pairs(seed=1)
    assert len(other) == len(pairs)
    assert {p.good for p in other} != {p.good for p in pairs}
