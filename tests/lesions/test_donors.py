"""Donors have what units do at other words, and a word never gets its own."""

import numpy as np
import pytest
from lesion_bench import draw, units
from rounding import model_error
from scipy import stats

import grammar_lens.lesions.battery as lesion_battery
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.directions import Directions, directions
from grammar_lens.lesions.donors import Donors, record_donors
from grammar_lens.lesions.prepared import donors
from grammar_lens.model.about import Model, hook_name
from grammar_lens.model.forward import final_hidden, hooked
from grammar_lens.neurons.neurons import Neurons

SETS = (
    draw(np.random.default_rng(0), 5, [0, 1]),
    units((1, 7), (1, 0), (0, 47)),
    draw(np.random.default_rng(1), 3, [1], "resid_post"),
    directions("plane", np.eye(32)[:2], layer=0, site="attn_out"),
)


@pytest.fixture(scope="session")
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, bank, minimum=1)


def record(
    model: Model, corpus: Corpus, *, position: str = "next", n_words: int = 40, seed: int = 0
) -> Donors:
    return record_donors(
        model,
        corpus.alignment,
        corpus.read(position),
        SETS,
        position=position,
        seed=seed,
        n_words=n_words,
        per_label=6,
        token_budget=100,
    )


@pytest.mark.parametrize("position", ["next", "word"])
def test_values_are_the_activations(tiny: Model, corpus: Corpus, position: str):
    found = record(tiny, corpus, position=position)
    times = corpus.alignment.time(position)
    for units_of in SETS:
        layers = [units_of.layer] if isinstance(units_of, Directions) else np.unique(units_of.layer)
        for layer in map(int, layers):
            index = (
                np.arange(32)
                if isinstance(units_of, Directions)
                else units_of.in_layer(layer).index
            )
            got = found.of(units_of.site, layer, index)
            for row in range(0, len(found), 7):
                word = found.word[row]
                want = read_directly(tiny, corpus, units_of.site, layer, word, int(times[word]))
                # a batch of one sentence is another product
                within = model_error(tiny, want)
                np.testing.assert_allclose(got[row], want[index], rtol=0, atol=within)


def read_directly(
    model: Model, corpus: Corpus, site: str, layer: int, word: int, time: int
) -> np.ndarray:
    import torch

    ids = corpus.alignment.token_ids[corpus.alignment.sentence[word]]
    seen: list[np.ndarray] = []
    hook = (hook_name(model, site, layer), lambda x, **_: seen.append(x[0, time].numpy().copy()))
    with hooked(model, [hook]):
        final_hidden(model, torch.from_numpy(ids)[None])
    return seen[0]


def test_a_random_sample_and_some_of_every_label(tiny: Model, corpus: Corpus):
    found = record(tiny, corpus)
    codes = corpus.read("next")
    assert found.n_any == 40
    assert len(set(found.word.tolist())) == len(found) > 40
    np.testing.assert_array_equal(found.label, codes[found.word])
    assert (found.label >= 0).all()
    there = np.bincount(codes[codes >= 0])
    have = np.bincount(found.label, minlength=len(there))
    assert (have >= np.minimum(there, 6)).all()
    few = np.bincount(found.label[:40], minlength=len(there)) < 6
    assert (have[few] == np.minimum(there, 6)[few]).all(), "no more than are needed"
    same, other = record(tiny, corpus), record(tiny, corpus, seed=1)
    assert same.word.tolist() == found.word.tolist()
    assert other.word.tolist() != found.word.tolist()
    whole = record(tiny, corpus, n_words=10_000)
    assert len(whole) == whole.n_any == (codes >= 0).sum()


def test_units_that_were_not_recorded(tiny: Model, corpus: Corpus):
    found = record(tiny, corpus)
    for site, layer, index, named in (
        ("neuron", 1, [7, 30, 47], "1.30"),
        ("resid_pre", 0, [3], "0.3"),
        ("resid_post", 0, [3], "0.3"),
    ):
        assert 30 not in found.addresses["neuron", 1]
        assert 47 not in found.addresses["neuron", 1]
        message = (
            f"unit {named} at '{site}' was not recorded at other words: record the donors with"
        )
        with pytest.raises(GrammarLensError, match=message):
            found.of(site, layer, np.array(index))
    assert found.of("neuron", 1, np.array([7, 0, 7])).shape == (len(found), 3)


@pytest.mark.parametrize(("n", "n_words"), [(0, 50), (1, 50), (5, 1)])
def test_too_few_words_to_resample_from(tiny: Model, corpus: Corpus, n: int, n_words: int):
    codes = corpus.read("next")
    codes[np.flatnonzero(codes >= 0)[n:]] = -1
    with pytest.raises(
        GrammarLensError, match=f"{min(n, n_words)} words to resample from, needs at lea"
    ):
        record_donors(
            tiny,
            corpus.alignment,
            codes,
            SETS,
            position="next",
            seed=0,
            n_words=n_words,
        )


# The draw -----------------------------------------------------------------------------------


def made(label: list[int], n_any: int) -> Donors:
    n = len(label)
    return Donors(np.arange(10, 10 + n), np.array(label), n_any, {}, {})


def test_never_the_word_itself():
    found = made([0, 0, 1], 2)
    word = np.tile(found.word, 200)
    label = np.tile(found.label, 200)
    for within in (False, True):
        chosen = found.choose(word, label, np.random.default_rng(0), within=within)
        assert (found.word[chosen] != word).all()
    assert set(found.choose(word, label, np.random.default_rng(0), within=False)) == {0, 1}


def test_the_draw_is_uniform():
    """Chi-squared, at a chance of 1 in 1,000."""
    found = made([0] * 20 + [1] * 5, 20)
    none = np.full(20_000, -1)
    chosen = found.choose(none, none, np.random.default_rng(1), within=False)
    assert stats.chisquare(np.bincount(chosen, minlength=20)).pvalue > 1e-3
    assert chosen.max() == 19, "those that were added for their label are not among any"
    same = found.choose(none, np.full(20_000, 1), np.random.default_rng(1), within=True)
    assert stats.chisquare(np.bincount(same, minlength=25)[20:]).pvalue > 1e-3
    assert same.min() == 20


def test_within_a_label():
    found = made([0, 0, 0, 1, 2, 2], 6)
    word = np.array([10, 11, 13, 99, 99, 99, -1, 14])
    label = np.array([0, 0, 1, 1, 2, 7, -1, 2])
    seen = [set() for _ in word]
    for seed in range(200):
        chosen = found.choose(word, label, np.random.default_rng(seed), within=True)
        for place, donor in enumerate(chosen.tolist()):
            seen[place].add(donor)
    assert seen[0] == {1, 2}
    assert seen[1] == {0, 2}
    assert seen[2] == {0, 1, 2, 4, 5}, "no other word has the label: any but the word itself"
    assert seen[3] == {3}
    assert seen[4] == {4, 5}
    assert seen[5] == seen[6] == {0, 1, 2, 3, 4, 5}, "a label without donors, a token without word"
    assert seen[7] == {5}


def test_every_token_of_a_corpus_has_its_donor(tiny: Model, corpus: Corpus):
    """The draw knows no lesion and no batch, only the seed."""
    found, codes = record(tiny, corpus), corpus.read("next")
    alignment = corpus.alignment
    begin = np.cumsum([0, *map(len, alignment.token_ids)])[:-1]
    words = np.flatnonzero(codes >= 0)
    place = begin[alignment.sentence[words]] + alignment.time("next")[words]
    drawn = {}
    for value in ("resample", "resample_within"):
        for seed in range(2):
            drawn[value, seed] = lesion_battery._assigned(alignment, codes, found, value, seed)
            again = lesion_battery._assigned(alignment, codes, found, value, seed)
            np.testing.assert_array_equal(drawn[value, seed], again)
            assert drawn[value, seed].shape == (alignment.n_tokens,)
            assert (found.word[drawn[value, seed][place]] != words).all()
    within = found.label[drawn["resample_within", 0][place]] == codes[words]
    alone = np.bincount(codes[words])[codes[words]] == 1
    assert within[~alone].all()
    assert not within[alone].any()
    assert (found.label[drawn["resample", 0][place]] == codes[words]).mean() < 0.5
    pairs = list(drawn.values())
    for i, one in enumerate(pairs):
        for other in pairs[:i]:
            assert (one != other).mean() > 0.5


def test_donors_for_a_lesion_by_hand(tiny: Model, bank: Treebank):
    one, some = SETS[0], SETS[:2]
    assert isinstance(one, Neurons)
    found = donors(tiny, bank, one, n_words=20, seed=3)
    assert found.n_any == 20
    several = donors(tiny, bank, some, n_words=20, seed=3)
    assert several.word.tolist() == found.word.tolist()
    for layer in (0, 1):
        index = one.in_layer(layer).index
        np.testing.assert_array_equal(
            found.of("neuron", layer, index), several.of("neuron", layer, index)
        )
    assert donors(tiny, bank, one, n_words=20, seed=4).word.tolist() != found.word.tolist()
    index = one.in_layer(1).index
    other = donors(tiny, bank, one, position="word", n_words=20, seed=3)
    assert not np.array_equal(other.of("neuron", 1, index), found.of("neuron", 1, index))
