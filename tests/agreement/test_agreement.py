"""Minimal pairs of number agreement: the file, the scores, and what lesions do to them."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rounding import model_error
from tokenizers import processors

import grammar_lens as gl
from grammar_lens.agreement.lesioning import AgreementStudy, agreement_study
from grammar_lens.agreement.pairs import ATTRACTORS, NUMBERS, MinimalPair, pairs_to_csv, read_pairs
from grammar_lens.agreement.scoring import PairScores, score_pairs
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons

ROOT = Path(__file__).parents[2]
PAIRS = read_pairs()
PARADIGMS = tuple(dict.fromkeys(p.paradigm for p in PAIRS))


def of(paradigm: str) -> list[MinimalPair]:
    return [p for p in PAIRS if p.paradigm == paradigm]


def is_plural(noun: str) -> bool:
    """Number by the ending alone: a second opinion on what the generator says."""
    return noun in ("men", "women", "children") or noun.endswith("s")


def words(text: str) -> list[str]:
    return text.rstrip(".?").split()


class TestTheFile:
    def test_it_is_large_and_balanced(self) -> None:
        assert len(PAIRS) == 800
        assert len(PARADIGMS) == 10
        for name in PARADIGMS:
            assert Counter(p.number for p in of(name)) == {"singular": 40, "plural": 40}
            assert len({p.attractor for p in of(name)}) == 1
            # so preferring one word to another gains nothing
            good, bad = ([getattr(p, x) for p in of(name)] for x in ("good_word", "bad_word"))
            assert Counter(good) == Counter(bad)

    def test_no_sentence_stands_twice_and_none_on_both_sides(self) -> None:
        good, bad = Counter(p.good for p in PAIRS), Counter(p.bad for p in PAIRS)
        assert max(good.values()) == max(bad.values()) == 1
        assert not set(good) & set(bad)

    @pytest.mark.parametrize("name", PARADIGMS)
    def test_number_by_the_endings(self, name: str) -> None:
        """The verb has an s where the noun that decides has none, the noun one after these or those."""
        for pair in of(name):
            said = words(pair.good)
            where = said.index(pair.good_word)
            assert words(pair.bad)[where] == pair.bad_word
            assert where > 0, "a model without BOS gives the first word no probability"
            if name.startswith("determiner"):
                determiner = next(x for x in said if x in ("this", "that", "these", "those"))
                plural = determiner in ("these", "those")
                assert 1 <= where - said.index(determiner) <= 2
                assert is_plural(pair.good_word) == plural
                assert is_plural(pair.bad_word) != plural
            else:
                head = said[where + 2] if name == "question" else said[1]
                plural = is_plural(head)
                assert pair.good_word.endswith("s") != plural
                assert pair.bad_word.endswith("s") == plural
            assert NUMBERS[plural] == pair.number
            between = {"none": None, "same": plural, "other": not plural}[pair.attractor]
            if between is not None:
                nouns = [x for x in said[2:where] if said[said.index(x) - 1] == "the"]
                assert [is_plural(x) for x in nouns] == [between]

    def test_controls_are_the_same_sentences_but_for_the_attractor(self) -> None:
        for name in ("phrase", "object_relative", "subject_relative"):
            both = zip(of(f"{name}_attractor"), of(f"{name}_control"), strict=True)
            for attractor, control in both:
                a, c = words(attractor.good), words(control.good)
                assert sum(x != y for x, y in zip(a, c, strict=True)) == 1
                assert (attractor.good_word, attractor.number) == (
                    control.good_word,
                    control.number,
                )

    def test_words_are_varied_and_known_to_the_embedded_model(self, reference: Model) -> None:
        for name in PARADIGMS:
            assert len({frozenset((p.good_word, p.bad_word)) for p in of(name)}) >= 4
            content = Counter(w for p in of(name) for w in words(p.good) if w.islower())
            rare = [w for w in content if content[w] <= 4]
            assert len(rare) >= 25, (name, len(rare))
        differing = {w for p in PAIRS for w in (p.good_word, p.bad_word)}
        ids = reference.tokenizer([f" {w}" for w in differing], add_special_tokens=False).input_ids
        assert [len(row) for row in ids] == [1] * len(differing)


class TestReading:
    HEADER = "paradigm,number,attractor,good,bad,good_word,bad_word\n"

    def test_what_is_written_is_read_back(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text(pairs_to_csv(PAIRS[:5]), "utf-8")
        assert read_pairs(path) == PAIRS[:5]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("good,bad\n", ":1: the columns are good, bad, expected paradigm, number"),
            ("", ":1: the columns are none, expected"),
            (HEADER, ": no pair stands after the header"),
            (f"{HEADER}x,singular\n", ":2: 2 columns, expected 7"),
            (
                f"{HEADER}x,dual,none,He is.,He are.,is,are\n",
                ":2: number is 'dual', expected one of ",
            ),
            (
                f"{HEADER}x,plural,near,He is.,He are.,is,are\n",
                ":2: attractor is 'near', expected ",
            ),
            (f"{HEADER}x,plural,none,He is., ,is,are\n", ":2: bad is empty"),
            (
                f"{HEADER}x,plural,none,He is.,We are.,is,are\n",
                ":2: 'He is.' and 'We are.' must differ",
            ),
            (
                f"{HEADER}x,plural,none,He is.,He is now.,is,are\n",
                "must differ in exactly one word",
            ),
            (f"{HEADER}x,plural,none,He is.,He is.,is,are\n", "must differ in exactly one word"),
            (
                f"{HEADER}x,plural,none,He is.,He are.,are,is\n",
                "differ in 'is' and 'are', and the columns say 'are' and 'is'",
            ),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, told: str) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text(text, "utf-8")
        with pytest.raises(GrammarLensError) as caught:
            read_pairs(path)
        assert str(caught.value).startswith(str(path))
        assert told in str(caught.value)

    def test_not_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_bytes("jardín".encode("latin-1"))
        with pytest.raises(GrammarLensError, match=r"pairs\.csv is not UTF-8"):
            read_pairs(path)


def naive(model: Model, text: str) -> float:
    """log p of a sentence, one at a time, in float64 NumPy."""
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids)[0].double().numpy()
    most = logits.max(1, keepdims=True)
    log_p = logits - most - np.log(np.exp(logits - most).sum(1, keepdims=True))
    return float(sum(log_p[i, ids[0, i + 1]] for i in range(ids.shape[1] - 1)))


class TestScores:
    SOME = PAIRS[::97]

    def test_they_are_those_of_one_sentence_at_a_time(self, tiny: Model) -> None:
        for budget in (None, 30, 1):
            told = []
            scores = score_pairs(tiny, self.SOME, token_budget=budget, progress=told.append)
            assert scores.good.dtype == np.float64
            # float32 forward passes of other widths round differently, by 1e-6 of a logit of 10
            for got, texts in (
                (scores.good, [p.good for p in self.SOME]),
                (scores.bad, [p.bad for p in self.SOME]),
            ):
                np.testing.assert_allclose(got, [naive(tiny, t) for t in texts], atol=1e-3)
            lengths = tiny.tokenizer([t for p in self.SOME for t in (p.good, p.bad)]).input_ids
            assert sum(told) == sum(map(len, lengths))

    def test_twice_the_same_pair_gives_the_same_number(self, tiny: Model) -> None:
        pair = replace(PAIRS[0], bad=PAIRS[0].good)
        scores = score_pairs(tiny, [pair, PAIRS[1]])
        assert scores.log_odds[0] == 0
        assert not scores.right[0], "a tie is not right"

    def test_the_embedded_model_agrees_and_attractors_mislead_it(self, reference: Model) -> None:
        names = ("subject_verb", "phrase_attractor", "phrase_control")
        kept = [p for name in names for p in of(name)[:40]]
        table = score_pairs(reference, kept).to_frame().set_index("paradigm")
        assert table.accuracy["subject_verb"] > 0.95
        assert table.log_odds["phrase_attractor"] < table.log_odds["phrase_control"] - 0.4

    def test_the_table(self) -> None:
        number = ("singular", "plural", "singular", "plural")
        pairs = tuple(replace(PAIRS[0], paradigm="a", number=n) for n in number)
        other = replace(PAIRS[0], paradigm="b")
        scores = PairScores((*pairs, other), np.array([-1.0, -2, -3, -4, -5]), np.full(5, -2.5))
        table = scores.to_frame().set_index("paradigm")
        assert list(table.index) == ["a", "b"]
        assert (table.accuracy["a"], table.singular["a"], table.plural["a"]) == (0.5, 0.5, 0.5)
        assert np.isnan(table.plural["b"])
        assert table.log_odds["a"] == pytest.approx(0)
        # Wilson's interval, by its formula, for 2 of 4
        z = 1.959964
        half = z / (1 + z**2 / 4) * np.sqrt(0.25 / 4 + z**2 / 64)
        assert (table.low["a"], table.high["a"]) == pytest.approx(
            (0.5 - half, 0.5 + half), abs=1e-6
        )
        assert "0.400 right; a 0.50, b 0.00" in repr(scores)
        assert "<table" in scores._repr_html_()

    def test_errors(self, tiny: Model, tiny_hf: Callable[[], Any], tiny_tokenizer: Any) -> None:
        with pytest.raises(GrammarLensError, match="there are no minimal pairs to score"):
            score_pairs(tiny, [])
        long = replace(PAIRS[0], good="the " * 200 + "is.", bad="the " * 200 + "are.")
        with pytest.raises(
            GrammarLensError, match=r"tokens, and .* reads 128: use shorter sentences"
        ):
            score_pairs(tiny, [long])
        bare = copy.deepcopy(tiny_tokenizer)
        bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        without = load_model(tiny_hf(), tokenizer=bare)
        first = replace(PAIRS[0], good="is it.", bad="are it.", good_word="is", bad_word="are")
        with pytest.raises(
            GrammarLensError, match=r"'is it\.' and its twin part at the first token"
        ):
            score_pairs(without, [first])
        got = score_pairs(without, PAIRS[:2])
        np.testing.assert_allclose(got.good, [naive(without, p.good) for p in PAIRS[:2]], atol=1e-3)


def key_sets(sets: dict[str, list[int]], layer: int = 1) -> KeyNeurons:
    origin = Origin("tiny", "none", "upos", "next", "neuron")
    neurons = {
        label: Neurons(
            label, "neuron", np.full(len(index), layer), np.array(index), np.ones(len(index))
        )
        for label, index in sets.items()
    }
    return KeyNeurons(neurons, "planted", "by hand", 48, 2, None, origin)


def single_tokens(tokenizer: Any) -> list[str]:
    """Words that are one token after a blank."""
    found = [w for w in ("a", "the", "to", "do", "old", "an", "in", "ed") if w]
    return [w for w in found if len(tokenizer(f" {w}", add_special_tokens=False).input_ids) == 1]


@pytest.fixture
def planted(tiny_hf: Callable[[], Any], tiny_tokenizer: Any) -> tuple[Model, list[MinimalPair]]:
    """A model that agrees by two neurons alone, 1.3 after one noun and 1.4 after the other."""
    nouns_verbs = single_tokens(tiny_tokenizer)[:4]
    ids = [tiny_tokenizer(f" {w}", add_special_tokens=False).input_ids[0] for w in nouns_verbs]
    hf = tiny_hf()
    body = hf.model
    with torch.no_grad():
        for layer in body.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            layer.post_attention_layernorm.weight.fill_(1)
        body.norm.weight.fill_(1)
        # the four words have a direction each, in the embedding and in the head
        rows = torch.eye(32)[:4] * 4
        body.embed_tokens.weight[ids] = rows
        hf.lm_head.weight[ids] = rows
        mlp = body.layers[1].mlp
        for unit, noun, good, bad in ((3, 0, 2, 3), (4, 1, 3, 2)):
            mlp.gate_proj.weight[unit] = torch.eye(32)[noun] * 4
            mlp.up_proj.weight[unit] = torch.eye(32)[noun]
            mlp.down_proj.weight[good, unit] = 1
            mlp.down_proj.weight[bad, unit] = -1
    one, two, v1, v2 = nouns_verbs
    pairs = [
        MinimalPair("x", "singular", "none", f"He {one} {v1}.", f"He {one} {v2}.", v1, v2),
        MinimalPair("x", "plural", "none", f"He {two} {v2}.", f"He {two} {v1}.", v2, v1),
    ]
    return load_model(hf, tokenizer=tiny_tokenizer), pairs


class TestLesions:
    def test_cutting_what_was_planted_ends_agreement_and_cutting_others_does_nothing(
        self, planted: tuple[Model, list[MinimalPair]]
    ) -> None:
        model, pairs = planted
        keys = key_sets({"PLANTED": [3, 4], "OTHER": [5, 6], "HALF": [3]})
        shams = [key_sets({"PLANTED": [7, 8], "OTHER": [9, 10], "HALF": [11]}) for _ in range(3)]
        study = agreement_study(model, keys, pairs, shams=shams, value="zero", show_progress=False)
        assert study.intact.log_odds.min() > 1
        intact = study.intact.log_odds.mean()
        # what is left is a preference for one verb, whichever noun it follows
        within = model_error(model, study.intact.log_odds)
        assert study.lesioned["PLANTED"].log_odds.mean() == pytest.approx(0, abs=within)
        assert study.accuracy[0, 0] == 0.5
        assert study.change[0, 0] == pytest.approx(-intact, abs=within)
        assert study.change[1, 0] == 0
        assert study.change[2, 0] == pytest.approx(-intact / 2, rel=0.2)
        assert study.accuracy[1, 0] == 1
        assert (study.sham_change == 0).all()
        np.testing.assert_array_equal(study.p_value[:, 0], [0.25, 1, 0.25])
        assert study.p_family[0, 0] == 0.25
        assert study.p_family[1, 0] == 1

        cut = agreement_study(model, keys, pairs, value="zero", dose=0.5, show_progress=False)
        assert -intact < cut.change[0, 0] < 0
        assert cut.n_shams == 0
        assert np.isnan(cut.p_value).all()
        assert np.isnan(cut.holm).all()
        assert np.isnan(cut.p_family).all()
        assert cut.to_frame().sham_change.isna().all()
        assert len(cut.sham_frame()) == 0

    def test_nothing_remains_of_a_lesion(self, planted: tuple[Model, list[MinimalPair]]) -> None:
        model, pairs = planted
        before = score_pairs(model, pairs)
        with gl.lesion(model, key_sets({"A": [3, 4]})["A"], value="zero"):
            during = score_pairs(model, pairs)
        assert not np.array_equal(before.good, during.good)
        assert np.array_equal(before.good, score_pairs(model, pairs).good)

    def test_shams_must_be_replicates_of_the_sets(self, tiny: Model) -> None:
        keys = key_sets({"A": [1, 2], "B": [3]})
        for sets in ({"A": [1, 2]}, {"A": [4], "B": [5]}):
            with pytest.raises(GrammarLensError, match=r"sham 1 has sets of \{.*'A': 2, 'B': 1\}"):
                agreement_study(tiny, keys, PAIRS[:2], shams=[key_sets(sets)])
        with pytest.raises(GrammarLensError, match="no label whose neurons could be cut"):
            agreement_study(tiny, key_sets({}), PAIRS[:2])


def a_study(change: np.ndarray, sham: np.ndarray) -> AgreementStudy:
    """A study with these changes; what the p-values do not read is left at zero."""
    n_labels, n_paradigms = change.shape
    pairs = tuple(replace(PAIRS[0], paradigm=f"p{j}") for j in range(n_paradigms))
    scores = PairScores(pairs, np.zeros(n_paradigms), np.ones(n_paradigms))
    labels = tuple(f"L{i}" for i in range(n_labels))
    zero = np.zeros(change.shape)
    return AgreementStudy(
        labels=labels,
        paradigms=scores.paradigms,
        value="mean",
        dose=1.0,
        intact=scores,
        lesioned=dict.fromkeys(labels, scores),
        accuracy=zero,
        change=change,
        good_change=zero,
        sham_accuracy=np.zeros(sham.shape),
        sham_change=sham,
    )


class TestPValues:
    def test_a_planted_cell_is_found_and_no_other(self) -> None:
        rng = np.random.default_rng(0)
        sham = rng.normal(size=(99, 4, 5)) * np.arange(1, 6)
        change = rng.normal(size=(4, 5)) * 0.1
        change[2, 3] = -40
        study = a_study(change, sham)
        assert study.p_value[2, 3] == 0.01
        assert study.p_family[2, 3] == 0.01
        assert study.holm[2, 3] == pytest.approx(0.2)
        others = np.delete(study.p_family.ravel(), 13)
        assert others.min() > 0.2
        table = study.to_frame()
        row = table[(table.lesion == "L2") & (table.paradigm == "p3")].iloc[0]
        assert (row.p, row.p_family, row.change) == (0.01, 0.01, -40)
        assert row.sham_change == pytest.approx(sham[:, 2, 3].mean())
        shams = study.sham_frame()
        cell = shams[(shams.lesion == "L2") & (shams.paradigm == "p3")]
        np.testing.assert_array_equal(cell.change, sham[:, 2, 3])
        assert "99 shams" in repr(study)
        assert "L2 -7.92" in repr(study)
        assert "<table" in study._repr_html_()

    def test_p_by_hand(self) -> None:
        sham = np.array([-1.0, -2.0, 0.5]).reshape(3, 1, 1)
        assert a_study(np.array([[-1.0]]), sham).p_value[0, 0] == 3 / 4
        assert a_study(np.array([[-2.5]]), sham).p_value[0, 0] == 1 / 4

    def test_holm_is_that_of_the_definition(self) -> None:
        sham = np.random.default_rng(1).normal(size=(19, 2, 3))
        study = a_study(np.array([[-3.0, 0, 1], [-0.5, -3, 0.2]]), sham)
        p = study.p_value.ravel()
        order = np.argsort(p)
        stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
        expected = np.empty(len(p))
        expected[order] = np.minimum(stepped, 1)
        np.testing.assert_allclose(study.holm.ravel(), expected)

    def test_where_nothing_is_planted_the_family_is_wrong_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(2)
        n, wrong = 400, 0
        for _ in range(n):
            # cells that depend on each other and differ in spread, as lesions' do
            worlds = rng.normal(size=(20, 3, 4)) * np.arange(1, 5) + rng.normal(size=(20, 1, 1))
            wrong += (a_study(worlds[0], worlds[1:]).p_family <= 0.05).any()
        # 20 of 400 expected; 34 is 3 binomial standard errors above
        assert 3 <= wrong <= 34


def test_attractor_names_are_those_of_the_file() -> None:
    assert {p.attractor for p in PAIRS} == set(ATTRACTORS)
