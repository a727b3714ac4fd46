"""`experiments/rank_the_rankers.py` at toy size: its tables, intervals and samples."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rank_the_rankers
from scipy import stats
from small_runs import write_beginnings
from typed import named_rows

from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.probing.leaderboard import agreement_of_samples, leaderboard, leaderboard_markdown

SCORES = ("correlation", "eta_squared", "auroc", "logit_contrast", "attribution", "frequency")
AT_WORD = SCORES[:4]
KS = (2, 4)


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> dict[str, Any]:
    """A random model of two layers of 48 neurons and the beginning of the embedded treebank."""
    folder = tmp_path_factory.mktemp("rankers")
    tiny_hf().save_pretrained(folder / "tiny")
    tiny_tokenizer.save_pretrained(folder / "tiny")
    write_beginnings(folder, train=90, test=30)
    return {
        "model": str(folder / "tiny"),
        "train": f"{folder}:train",
        "fresh": f"{folder}:test",
        "min_words": 60,
        "scores": ",".join(SCORES),
        "ks": ",".join(map(str, KS)),
        "seeds": 3,
        "sample": 15,
        "integrated_words": 60,
        "probe_words": 300,
    }


@pytest.fixture(scope="module")
def results(settings: dict[str, Any], tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("results") / "deep"
    rank_the_rankers.main(rank_the_rankers.Config(**settings, out=out))
    return out


@pytest.fixture(scope="module")
def board(results: Path) -> pd.DataFrame:
    return pd.read_csv(results / "leaderboard.csv")


@pytest.fixture(scope="module")
def rounds(results: Path) -> pd.DataFrame:
    return pd.read_csv(results / "rounds.csv")


def test_a_row_for_every_position_score_and_k(board: pd.DataFrame, rounds: pd.DataFrame):
    wanted = {("word", s, k) for s in (*AT_WORD, "random") for k in KS}
    wanted |= {("next", s, k) for s in (*SCORES, "random") for k in KS}
    rows = list(zip(board.position, board.score, board.k, strict=True))
    assert len(rows) == len(set(rows))
    assert set(rows) == wanted
    each = rounds.groupby(["position", "score", "k"]).seed
    assert set(each.groups) == wanted
    assert (each.nunique() == 3).all()
    for column in ("accuracy", "ambiguous_accuracy", "unseen_accuracy", "macro_f1"):
        assert rounds[column].dropna().between(0, 1).all()
    # positions, then k, then the best first
    for _, part in board.groupby(["position", "k"]):
        assert (part.accuracy.diff().dropna() <= 0).all()
    assert list(dict.fromkeys(board.position)) == ["word", "next"]


def test_intervals_are_of_the_rounds(board: pd.DataFrame, rounds: pd.DataFrame):
    for row in named_rows(board):
        mine = rounds[
            (rounds.position == row.position) & (rounds.score == row.score) & (rounds.k == row.k)
        ]
        values = mine.accuracy.to_numpy()
        assert len(values) == 3
        assert row.accuracy == pytest.approx(values.mean())
        error = stats.sem(values)
        low, high = (
            stats.t.interval(0.95, 2, loc=values.mean(), scale=error) if error else 2 * (values[0],)
        )
        assert (row.accuracy_low, row.accuracy_high) == pytest.approx((low, high))
        assert row.macro_f1 == pytest.approx(mine.macro_f1.mean())
        assert row.n_neurons == pytest.approx(mine.n_neurons.mean())


def test_every_score_is_judged_by_as_many_neurons(board: pd.DataFrame, results: Path):
    labels = json.loads((results / "run.json").read_text("utf-8"))["labels"]
    assert len(labels) > 3
    many = board[~board.score.isin(["eta_squared", "frequency"])]
    assert (many.n_neurons == many.k * len(labels)).all()
    # labels whose neurons are all the same, or that few neurons serve, may have fewer in all
    assert (board.n_neurons <= board.k * len(labels)).all()


def test_agreement_stands_beside_chance(board: pd.DataFrame):
    chosen = board.loc[board.score != "random"]
    assert chosen.agreement.between(0, 1).all()
    assert chosen.chance_agreement.between(0, 1).all()
    assert board[board.score == "random"].agreement.isna().all()
    weights = chosen.loc[chosen.score == "logit_contrast"]
    trained = chosen.loc[chosen.score == "correlation"]
    # the model's weights are the same whatever the sample; only the lexicon differs
    assert weights.agreement.mean() > 2 * weights.chance_agreement.mean()
    assert (trained.agreement > trained.chance_agreement).all()


def test_the_record_and_the_table(board: pd.DataFrame, results: Path, settings: dict[str, Any]):
    record = json.loads((results / "run.json").read_text("utf-8"))
    assert record["config"]["train"] == settings["train"]
    banks = record["treebank"]
    assert banks["train"]["fingerprint"] != banks["fresh"]["fingerprint"]
    assert record["model"]["d_mlp"] == 48
    lines = (results / "leaderboard.md").read_text("utf-8").splitlines()
    titles = [x for x in lines if x.startswith("### ")]
    assert [x.split(",")[0] for x in titles] == ["### `word`"] * 2 + ["### `next`"] * 2
    rows = [x for x in lines if x.startswith("| ") and not x.startswith("| score")]
    assert len(rows) == len(board)
    first, cells = board.iloc[0], [x.strip() for x in rows[0].split("|")[1:-1]]
    assert cells[0] == first.score
    assert cells[1] == (
        f"{first.accuracy:.3f} ({first.accuracy_low:.3f} to {first.accuracy_high:.3f})"
    )


@pytest.fixture(scope="module")
def whole(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank, labels=("DET", "NOUN", "VERB"))


@pytest.mark.parametrize(
    ("seeds", "sentences", "size"), [(3, 0, 6), (4, 0, 4), (2, 5, 5), (1, 0, 18)]
)
def test_samples_are_disjoint(whole: Corpus, seeds: int, sentences: int, size: int):
    config = rank_the_rankers.Config(seeds=seeds, sentences=sentences)
    drawn = []
    for part in rank_the_rankers.disjoint_samples(whole, config):
        read = part.classes >= 0
        np.testing.assert_array_equal(part.classes[read], whole.classes[read])
        mine = set(part.alignment.sentence[read].tolist())
        # a drawn sentence is read whole
        there = np.isin(whole.alignment.sentence, list(mine))
        np.testing.assert_array_equal(read, there & (whole.classes >= 0))
        drawn.append(mine)
    assert [len(d) for d in drawn] == [size] * seeds
    assert len(set().union(*drawn)) == size * seeds, "no sentence twice"
    again = [
        set(p.alignment.sentence[p.classes >= 0])
        for p in rank_the_rankers.disjoint_samples(whole, config)
    ]
    assert again == drawn


def _keys(*units: int) -> KeyNeurons:
    index = np.array(units, np.int64)
    one = Neurons("A", "neuron", np.zeros(len(units), np.int64), index, np.ones(len(units)))
    origin = Origin("m", "b", "upos", "word", "neuron")
    return KeyNeurons({"A": one, "B": replace(one, name="B")}, "x", "hand", 50, 1, None, origin)


def test_agreement_of_choices_made_by_hand():
    """Three samples: the first two share 1 of their 2 best and 3 of 4, the third shares nothing."""
    choices = {
        (0, "word"): {"x": _keys(1, 2, 3, 4)},
        (1, "word"): {"x": _keys(1, 3, 4, 9)},
        (2, "word"): {"x": _keys(20, 21, 22, 23)},
    }
    table = agreement_of_samples(choices, [2, 4]).set_index("k")
    assert table.agreement[2] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert table.agreement[4] == pytest.approx((3 / 4 + 0 + 0) / 3)
    # hypergeometric: k * k / 50 shared, as a share of k
    assert table.chance_agreement[2] == pytest.approx(2 / 50)
    assert table.chance_agreement[4] == pytest.approx(4 / 50)


def test_an_unknown_score(tmp_path: Path):
    with pytest.raises(GrammarLensError, match=r"'magic'.*correlation, cohens_d"):
        rank_the_rankers.main(
            rank_the_rankers.Config(scores="correlation, magic", out=tmp_path / "out")
        )


def test_bad_input_is_one_line(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def told(*flags: object) -> str:
        monkeypatch.setattr("sys.argv", ["rank_the_rankers.py", *map(str, flags)])
        with pytest.raises(SystemExit) as stopped:
            start_page(rank_the_rankers.main, rank_the_rankers.Config, None)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    given = {**settings, "train": "nowhere.conllu", "out": tmp_path / "out"}
    flags = [x for k, v in given.items() for x in (f"--{k.replace('_', '-')}", v)]
    assert told(*flags).startswith("error: no treebank at 'nowhere.conllu'")
    assert "--scores" in told("--scores", "magic", "--out", tmp_path / "out")


def test_one_sample_has_no_interval():
    one = {"position": "word", "score": "x", "k": 2, "n_neurons": 4.0, "seconds": 0.1}
    one |= {"accuracy": 0.5, "ambiguous_accuracy": 0.4, "unseen_accuracy": 0.3, "macro_f1": 0.2}
    agreed = agreement_of_samples({(0, "word"): {"x": _keys(1, 2)}}, [2])
    board = leaderboard(pd.DataFrame([one]), agreed)
    assert board.accuracy_low[0] == -np.inf
    assert board.accuracy_high[0] == np.inf
    assert np.isnan(board.agreement[0])
    assert "| x | 0.500 (-inf to inf) | 0.400 | 0.300 | 0.200 |  |" in leaderboard_markdown(board)
