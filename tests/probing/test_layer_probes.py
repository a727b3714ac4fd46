"""Probes of layers agree with scikit-learn on kept activations, and find what was planted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from typed import present

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, fresh_corpus, prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.loading import load_model
from grammar_lens.passes.readers import SampleReader
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.probing.layer_probes import layer_probes
from grammar_lens.probing.layer_probing import LayerProbing
from grammar_lens.probing.layer_results import LayerProbes

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def corpora(reference: Model, bank: Treebank) -> tuple[Corpus, Corpus]:
    train = prepare(reference, bank["train"])
    return train, fresh_corpus(reference, bank["test"], train)[0]


@pytest.fixture(scope="module")
def found(reference: Model, corpora: tuple[Corpus, Corpus]) -> LayerProbes:
    return layer_probes(reference, *corpora, **QUIET)


def activations(model: Model, corpus: Corpus, position: str) -> tuple[np.ndarray, np.ndarray]:
    """Every word's residual stream, the embedding first, and its class: [word, layer, unit]."""
    codes = corpus.read(position)
    word = np.flatnonzero(codes >= 0)
    row = np.full(len(codes), -1)
    row[word] = np.arange(len(word))
    first, after = (SampleReader(len(word), n, model.cfg.d_model) for n in (1, model.cfg.n_layers))
    taps = [
        Tap("resid_pre", position, codes >= 0, row, first, [0]),
        Tap("resid_post", position, codes >= 0, row, after),
    ]
    stream(model, corpus.alignment, corpus.batches(300), taps)
    return np.concatenate([first.values, after.values], 1).astype(np.float64), codes[word]


@pytest.mark.parametrize("position", ["word", "next"])
def test_accuracies_are_scikit_learns(
    reference: Model, corpora: tuple[Corpus, Corpus], found: LayerProbes, position: str
) -> None:
    (train, classes), (fresh, expected) = (activations(reference, c, position) for c in corpora)
    probe = found[position]
    assert (probe.n_train_words, probe.n_fresh_words) == (len(train), len(fresh))
    for layer in range(reference.cfg.n_layers + 1):
        x, y = train[:, layer], fresh[:, layer]
        within = np.zeros_like(x)
        for c in np.unique(classes):
            within[classes == c] = x[classes == c] - x[classes == c].mean(0)
        sd = np.sqrt((within**2).mean(0))
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=probe.shrinkage[layer])
        told = theirs.fit(x / sd, classes).predict_log_proba(y / sd)
        assert probe.accuracy[layer] == pytest.approx((told.argmax(1) == expected).mean())
        loss = -told[np.arange(len(expected)), expected].mean()
        # float32 activations and sums
        assert probe.raw_cross_entropy[layer] == pytest.approx(loss, rel=1e-3)


def test_the_models_own_loss_is_that_of_its_logits(
    reference: Model, corpora: tuple[Corpus, Corpus], found: LayerProbes
) -> None:
    train, fresh = corpora
    lexicon = torch.from_numpy(fit_lexicon(reference, train).probability)
    losses = []
    for word in np.flatnonzero(fresh.read("next") >= 0):
        ids = fresh.alignment.token_ids[fresh.alignment.row[word]]
        with torch.no_grad():
            logits = reference.original_model(torch.from_numpy(ids)[None]).logits[0]
        p = logits[fresh.alignment.first[word] - 1].double().softmax(0) @ lexicon
        losses.append(-float(p[fresh.classes[word]].log()))
    assert found["next"].model_cross_entropy == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["word"].model_cross_entropy is None


def test_the_table_has_a_row_for_every_layer_and_position(found: LayerProbes) -> None:
    table = found.to_frame()
    assert table.layer.tolist() == [*range(-1, 8)] * 2
    assert table.position.tolist() == ["word"] * 9 + ["next"] * 9
    assert {"information", "untrained_accuracy", "raw_cross_entropy"} <= {*table.columns}
    assert not table.information.notna().any()
    assert (table.low <= table.accuracy).all()
    assert (table.accuracy <= table.high).all()
    assert "untrained twin" in repr(found)


def test_information_is_between_the_word_before_and_the_model(found: LayerProbes) -> None:
    """A model that is worse than the word before, as with so few words, has no scale for it."""
    probe = found["next"]
    assert present(probe.model_cross_entropy) > probe.word_cross_entropy
    assert np.isnan(probe.information).all()
    better = replace(probe, model_cross_entropy=probe.word_cross_entropy - 0.5)
    np.testing.assert_allclose(
        better.information, (probe.word_cross_entropy - probe.cross_entropy) / 0.5
    )
    assert np.isnan(found["word"].information).all()


def test_a_share_of_the_words_is_whole_sentences_of_the_seed(
    reference: Model, corpora: tuple[Corpus, Corpus]
) -> None:
    words = [
        LayerProbing(reference, *corpora, max_words=50, seed=seed).train_taps for seed in (0, 0, 1)
    ]
    first, again, other = ([tap.wanted for tap in taps] for taps in words)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    train = corpora[0]
    at_word = first[0]
    assert 25 < at_word.sum() <= 50
    sentence = train.alignment.sentence
    whole = np.isin(sentence, sentence[at_word]) & (train.read("word") >= 0)
    np.testing.assert_array_equal(at_word, whole)
    at_next = next(tap for tap in words[0] if tap.position == "next").wanted
    assert set(sentence[at_next]) == set(sentence[at_word])


def test_a_layer_in_which_the_label_was_planted_is_found(
    tiny_hf: Callable, tiny_tokenizer: Any, bank: Treebank
) -> None:
    """After the first layer alone, every word has a direction of its label added."""
    model = load_model(tiny_hf(), tokenizer=tiny_tokenizer)
    train = prepare(model, bank["train"])
    fresh, _ = fresh_corpus(model, bank["test"], train)
    probing = LayerProbing(model, train, fresh, ["word"])
    directions = np.random.default_rng(0).normal(size=(len(train.labels), 32)) * 30
    _read_planted(model, train, probing.train_taps, directions)
    probing.fit()
    _read_planted(model, fresh, probing.fresh_taps, directions)
    accuracy = probing.result()["word"].accuracy
    assert accuracy[1] > 0.97 > max(accuracy[0], accuracy[2])


def _read_planted(model: Model, corpus: Corpus, taps: list[Tap], directions: np.ndarray) -> None:
    for tap in taps:
        if tap.site == "resid_post":
            _plant(tap, corpus, directions)
    stream(model, corpus.alignment, corpus.batches(300), taps)


def _plant(tap: Tap, corpus: Corpus, directions: np.ndarray) -> None:
    """Adds to what a reader gets of the first layer."""
    add, word = tap.reader.add, np.flatnonzero(tap.wanted)

    def planted(layer: int, seen: Any, words: Any) -> Any:
        extra = torch.from_numpy(directions[corpus.classes[word[words.numpy()]]]).float()
        more = seen.values() + (extra if layer == 0 else 0)
        return add(layer, replace(seen, flat=more, where=None), words)

    tap.reader.add = planted  # pyright: ignore[reportAttributeAccessIssue]


def test_labels_without_a_cause_are_told_as_seldom_as_the_most_frequent(
    reference: Model, corpora: tuple[Corpus, Corpus]
) -> None:
    """The twin of the planted test: labels drawn at random, of two equally frequent values."""
    rng = np.random.default_rng(3)
    train, fresh = (
        replace(c, labels=("A", "B"), classes=rng.integers(0, 2, len(c.classes))) for c in corpora
    )
    found = layer_probes(reference, train, fresh, position="word", untrained=False, **QUIET)
    probe = found["word"]
    # 45 words: 3 standard errors of a half are .22
    assert np.abs(probe.accuracy - 0.5).max() < 0.22
    assert probe.cross_entropy.min() > 0.9 * np.log(2)


def test_words_that_cannot_be_read_are_refused(
    reference: Model, write: Callable[..., Treebank]
) -> None:
    train = prepare(reference, write("Go VERB\nSleep NOUN\nRun VERB\nHere NOUN"))
    with pytest.raises(GrammarLensError, match="can be read at 'next'"):
        LayerProbing(reference, train, train)


def test_one_label_alone_is_refused(reference: Model, corpora: tuple[Corpus, Corpus]) -> None:
    train = corpora[0]
    one = replace(train, classes=np.where(train.classes == 3, 3, -1))
    with pytest.raises(GrammarLensError, match="two labels or more"):
        LayerProbing(reference, one, one, ["word"])
