"""The embedded treebank and model are what their documents say, and what the project promised."""

import json
from collections import Counter, defaultdict
from importlib.resources import files

import pytest

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank

EMBEDDED = files("grammar_lens") / "embedded"


@pytest.fixture(scope="module")
def bank() -> Treebank:
    return gl.load_treebank()


def test_it_is_large_and_varied_enough(bank: Treebank) -> None:
    assert len(bank["train"]) >= 600
    assert len(bank["test"]) >= 300
    assert bank.n_words >= 8000
    genres = {str(s.document).rsplit("-", 1)[0] for s in bank.sentences}
    assert len(genres) >= 7
    counts = bank.label_counts("upos")
    assert len(counts) >= 15
    assert sorted(counts.values(), reverse=True)[11] >= 150
    assert min(len(s.words) for s in bank.sentences) < max(len(s.words) for s in bank.sentences) / 5


def test_forms_stand_under_several_tags(bank: Treebank) -> None:
    tags = defaultdict(set)
    for sentence in bank.sentences:
        for word in sentence.words:
            tags[word.form.lower()].add(word.label("upos"))
    assert sum(len(t) > 1 for t in tags.values()) >= 60
    assert {"NOUN", "VERB"} <= tags["run"]


def test_contractions_are_several_words(bank: Treebank) -> None:
    text = (EMBEDDED / "treebank" / "handmade-train.conllu").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
    joined = {row[1].lower() for row in rows if "-" in row[0]}
    assert {"don't", "gonna"} <= joined
    assert any(form.endswith("'s") for form in joined)


def test_no_sentence_is_shared_or_repeated(bank: Treebank) -> None:
    texts = Counter(" ".join(s.text.lower().split()) for s in bank.sentences)
    assert [t for t, n in texts.items() if n > 1] == []
    assert bank["test"].without(bank["train"])[1] == 0


def test_its_readme_states_the_counts(bank: Treebank) -> None:
    page = (EMBEDDED / "treebank" / "README.md").read_text("utf-8")
    assert f"{len(bank):,} sentences ({bank.n_words:,} words" in page
    for split in ("train", "test"):
        part = bank[split]
        documents = len({s.document for s in part.sentences})
        assert f"| {split} | {documents} | {len(part):,} | {part.n_words:,} |" in page
    train, test = (bank[s].label_counts("upos") for s in ("train", "test"))
    for tag, n in bank.label_counts("upos").items():
        assert f"| {tag} | {train.get(tag, 0):,} | {test.get(tag, 0):,} | {n:,} |" in page


def test_the_model_has_its_card_and_no_pickle() -> None:
    folder = EMBEDDED / "reference-9m"
    names = {p.name for p in folder.iterdir()}
    assert names >= {"README.md", "model.safetensors", "tokenizer.json", "config.json"}
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl"))]
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (8, 896)


def test_the_embedded_treebank_has_a_name() -> None:
    """The one that runs and reports write."""
    whole = gl.load_treebank()
    assert gl.load_treebank("embedded").fingerprint() == whole.fingerprint()
    assert gl.load_treebank("embedded:test").fingerprint() == whole["test"].fingerprint()
    with pytest.raises(gl.GrammarLensError):
        gl.load_treebank("embedded:nope")
