"""Scores of minimal pairs, against plain transformers, one sentence at a time."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers, processors

from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.phenomena.pairs import MinimalPair, load_pairs
from grammar_lens.phenomena.scoring import PairScores, PreparedPairs, score_pairs

PAIRS = load_pairs().pairs
SOME = PAIRS[::97]


def naive(model: Any, tokenizer: Any, text: str) -> np.ndarray:
    """log p of every token of a sentence but the first, in float64, by plain transformers."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        log_p = model(ids).logits[0, :-1].double().log_softmax(-1)
    return log_p.gather(1, ids[0, 1:, None])[:, 0].numpy()


def test_they_are_those_of_one_sentence_at_a_time(
    tiny: Model, tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    plain = tiny_hf()
    one = {t: naive(plain, tiny_tokenizer, t) for p in SOME for t in (p.good, p.bad)}
    for budget in (None, 30, 1):
        told: list[int] = []
        scores = score_pairs(tiny, SOME, token_budget=budget, progress=told.append)
        assert scores.good.dtype == np.float64
        # float32 forward passes of other widths round differently, by 1e-6 of a logit of 10
        np.testing.assert_allclose(scores.good, [one[p.good].sum() for p in SOME], atol=1e-3)
        np.testing.assert_allclose(scores.bad, [one[p.bad].sum() for p in SOME], atol=1e-3)
        lengths = tiny_tokenizer([t for p in SOME for t in (p.good, p.bad)]).input_ids
        assert sum(told) == sum(map(len, lengths))
    for i, pair in enumerate(SOME):
        good, bad = (tiny_tokenizer(t).input_ids for t in (pair.good, pair.bad))
        part = next(t for t in range(len(good)) if good[t] != bad[t])
        assert scores.token_good[i] == pytest.approx(one[pair.good][part - 1], abs=1e-4)
        assert scores.token_bad[i] == pytest.approx(one[pair.bad][part - 1], abs=1e-4)
    # what stands before the difference is alike, so the odds need only the rest
    assert scores.log_odds[0] == pytest.approx(
        (one[SOME[0].good].sum() - one[SOME[0].bad].sum()), abs=1e-3
    )


def test_the_embedded_model_agrees_and_attractors_mislead_it(reference: Model) -> None:
    names = ("subject_verb", "phrase_attractor", "phrase_control")
    kept = [p for name in names for p in [q for q in PAIRS if q.phenomenon == name][:40]]
    table = score_pairs(reference, kept).to_frame().set_index("phenomenon")
    assert table.accuracy["subject_verb"] > 0.95
    assert table.log_odds["phrase_attractor"] < table.log_odds["phrase_control"] - 0.4


def test_the_table() -> None:
    pairs = (*(MinimalPair("a", "g", "b", "t") for _ in range(4)), MinimalPair("b", "g", "b"))
    token = np.array([-1.0, -3, -3, -3, -1])
    scores = PairScores(
        pairs, np.array([-1.0, -2, -3, -4, -5]), np.full(5, -2.5), token, np.full(5, -2.0)
    )
    table = scores.to_frame().set_index("phenomenon")
    assert list(table.index) == ["a", "b"]
    assert list(table.term) == ["t", ""]
    assert (table.accuracy["a"], table.token_accuracy["a"]) == (0.5, 0.25)
    assert (table.accuracy["b"], table.token_accuracy["b"]) == (0, 1)
    assert table.log_odds["a"] == pytest.approx(0)
    assert table.token_log_odds["a"] == pytest.approx(-0.5)
    # Wilson's interval, by its formula, for 2 of 4
    z = 1.959964
    half = z / (1 + z**2 / 4) * np.sqrt(0.25 / 4 + z**2 / 64)
    assert (table.low["a"], table.high["a"]) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert "0.400 right; a 0.50, b 0.00" in repr(scores)
    assert "<table" in scores._repr_html_()
    none = np.zeros(1)
    tie = PairScores(pairs[:1], none, none, none, none)
    assert not tie.right[0]


def test_pairs_that_cannot_be_scored(tiny: Model) -> None:
    with pytest.raises(GrammarLensError, match="there are no minimal pairs to score"):
        score_pairs(tiny, [])
    long = MinimalPair("x", "the " * 200 + "is.", "the " * 200 + "are.")
    with pytest.raises(GrammarLensError, match=r"tokens, and .* reads 128: use shorter sentences"):
        score_pairs(tiny, [long])
    with pytest.raises(GrammarLensError, match=r"'He </s> is\.' holds a control token"):
        score_pairs(tiny, [MinimalPair("x", "He </s> is.", "He </s> are.")])
    with pytest.raises(
        GrammarLensError, match="x: 'He is' and 'He is in' differ in that one goes on"
    ):
        score_pairs(tiny, [MinimalPair("x", "He is", "He is in")])


def test_a_difference_that_the_tokenizer_hides_is_an_error(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    lower = copy.deepcopy(tiny_tokenizer)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    model = load_model(tiny_hf(), tokenizer=lower)
    with pytest.raises(
        GrammarLensError, match=r"case: 'He is\.' and 'HE is\.' are the same tokens to .* hides"
    ):
        score_pairs(model, [MinimalPair("case", "He is.", "HE is.")])


def test_without_bos_pairs_that_part_at_the_first_token_are_left_out(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    bare = copy.deepcopy(tiny_tokenizer)
    bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    without = load_model(tiny_hf(), tokenizer=bare)
    plain = tiny_hf()
    first = MinimalPair("subject_verb", "is it.", "are it.")
    got = score_pairs(without, [PAIRS[0], first, PAIRS[1]])
    assert got.pairs == PAIRS[:2]
    assert got.left_out == (
        "subject_verb: 1 pair left out, as they part at the first token and no BOS is read",
    )
    expected = [naive(plain, bare, p.good).sum() for p in PAIRS[:2]]
    np.testing.assert_allclose(got.good, expected, atol=1e-3)
    with pytest.raises(GrammarLensError, match="all pairs of subject_verb part at the first token"):
        PreparedPairs(without, [first])
