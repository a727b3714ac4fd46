"""BLiMP by name, from a local server that stands in for the public one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import Server, serving

from grammar_lens.corpus.downloads import blob_id
from grammar_lens.errors import GrammarLensError
from grammar_lens.phenomena import blimp
from grammar_lens.phenomena.blimp import BLOB_IDS, COMMIT, LICENCE, UIDS
from grammar_lens.phenomena.pairs import load_pairs


def page(bad: str = "It was slept.", uid: str = "passive_1") -> bytes:
    row = {"sentence_good": "It was left.", "sentence_bad": bad, "UID": uid}
    return json.dumps(row).encode()


def address(uid: str) -> str:
    return f"/{COMMIT}/data/{uid}.jsonl"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A mirror of two paradigms, one of them with a known blob id."""
    monkeypatch.setattr(blimp, "BLOB_IDS", {"passive_1": blob_id(page())})
    with serving(
        {address("passive_1"): page(), address("transitive"): page(uid="transitive")}
    ) as made:
        monkeypatch.setenv("GRAMMAR_LENS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("GRAMMAR_LENS_BLIMP_URL", f"http://127.0.0.1:{made.server_port}/")
        yield made


def test_a_paradigm_is_fetched_once_at_its_commit_and_its_licence_named(server: Server) -> None:
    for _ in range(2):
        pairs = load_pairs("blimp:passive_1")
        assert [(p.phenomenon, p.bad) for p in pairs] == [("passive_1", "It was slept.")]
        assert pairs.notes == (LICENCE,)
    assert server.requests == [address("passive_1")]
    assert "CC BY" in LICENCE


def test_an_unknown_file_is_called_unverified_and_then_enforced(server: Server) -> None:
    with pytest.warns(UserWarning, match=f"no checksum is known for commit {COMMIT[:8]}"):
        first = load_pairs("blimp:transitive")
    assert "unverified" in first.notes[1]
    assert (
        load_pairs("blimp:transitive").notes[1].endswith("equal to its first, unverified download")
    )


def test_a_changed_file_is_refused(server: Server) -> None:
    server.pages[address("passive_1")] = page("It was forged.")
    with pytest.raises(
        GrammarLensError, match=r"has git blob id .*, expected .* of commit d07303a7"
    ):
        load_pairs("blimp:passive_1")


def test_unknown_paradigms_and_what_is_not_there(server: Server) -> None:
    with pytest.raises(
        GrammarLensError, match="no paradigm 'pasive_1': did you mean passive_1 or pass"
    ):
        load_pairs("blimp:pasive_1")
    with pytest.raises(
        GrammarLensError, match="no paradigm 'q': such as blimp:passive_1, or blimp:all"
    ):
        load_pairs("blimp:q")
    with pytest.raises(
        GrammarLensError, match=r"wh_island.jsonl is not there: download the paradigm"
    ):
        load_pairs("blimp:wh_island")


def test_no_connection_is_said_in_one_line(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(GrammarLensError, match=r"cannot fetch http.*passive_1.jsonl") as caught:
        load_pairs("blimp:passive_1")
    assert "\n" not in str(caught.value)


def test_the_names_are_those_of_the_benchmark(shared_data: Path) -> None:
    assert len(UIDS) == len(set(UIDS)) == 67
    assert set(BLOB_IDS) <= set(UIDS)
    for path in (shared_data / "blimp").glob("*.jsonl"):
        assert blob_id(path.read_bytes()) == BLOB_IDS[path.stem]
        assert load_pairs(path).phenomena == (path.stem,)
