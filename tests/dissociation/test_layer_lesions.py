"""Lesions of one layer cost what the same lesions cost by hand, and random directions vary alike."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typed import named_rows

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, fresh_corpus, prepare
from grammar_lens.dissociation.layer_lesions import (
    DIRECTION,
    NEURONS,
    LayerLesions,
    lesions_by_layer,
    like_variance,
)
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.directions import directions
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons

LABELS = ("NOUN", "VERB", "PRON")
QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="module")
def corpora(reference: Model, bank: Treebank) -> tuple[Corpus, Corpus]:
    train = prepare(reference, bank["train"])
    return train, fresh_corpus(reference, bank["test"], train)[0]


@pytest.fixture(scope="module")
def keys(reference: Model, corpora: tuple[Corpus, Corpus]) -> KeyNeurons:
    return gl.select(gl.score(gl.collect(reference, corpora[0], **QUIET)["neuron"]), k=60)


@pytest.fixture(scope="module")
def found(reference: Model, corpora: tuple[Corpus, Corpus], keys: KeyNeurons) -> LayerLesions:
    settings: dict[str, Any] = {"labels": LABELS, "shams": 2, "sentences": None}
    return lesions_by_layer(reference, *corpora, keys, **settings, **QUIET)


def tag_losses(model: Model, train: Corpus, fresh: Corpus) -> dict[str, list[float]]:
    """-log P(label | context) of the words of each label, by plain forward passes."""
    table = torch.from_numpy(fit_lexicon(model, train).probability)
    losses: dict[str, list[float]] = {label: [] for label in LABELS}
    for word in np.flatnonzero(fresh.read("next") >= 0):
        label = fresh.labels[fresh.classes[word]]
        if label in losses:
            ids = torch.from_numpy(fresh.alignment.token_ids[fresh.alignment.row[word]])[None]
            with torch.no_grad():
                logits = model(ids)[0, fresh.alignment.first[word] - 1]
            share = logits.double().softmax(0) @ table
            losses[label].append(-float(share[fresh.classes[word]].log()))
    return losses


def test_both_lesions_cost_what_they_cost_by_hand(
    reference: Model, corpora: tuple[Corpus, Corpus], keys: KeyNeurons, found: LayerLesions
) -> None:
    train, fresh = corpora
    intact = tag_losses(reference, train, fresh)
    stream = gl.collect(reference, train, sites=("resid_post",), **QUIET)["resid_post"]
    layer, label = 7, "NOUN"
    mean = stream.pooled()[0][layer]
    vector = stream.mean[stream.labels.index(label), layer] - mean
    in_layer = keys[label].in_layer(layer)
    assert len(in_layer)
    lesions = {
        NEURONS: gl.lesion(reference, in_layer, value="mean"),
        DIRECTION: gl.lesion(
            reference, directions("x", vector[None], layer=layer, mean=mean), value="mean"
        ),
    }
    for kind, lesion in lesions.items():
        with lesion:
            cut = tag_losses(reference, train, fresh)
        rise = {x: np.mean(cut[x]) - np.mean(intact[x]) for x in LABELS}
        (row,) = (
            row
            for row in named_rows(found.table)
            if (row.layer, row.lesion, row.label) == (layer, kind, label)
        )
        assert row.own == pytest.approx(rise[label], abs=2e-5)
        assert row.other == pytest.approx(np.mean([rise["VERB"], rise["PRON"]]), abs=2e-5)
        assert abs(row.own) > 1e-3


def test_the_table_has_both_lesions_of_every_layer_and_label(
    keys: KeyNeurons, found: LayerLesions
) -> None:
    table = found.table
    assert len(table) == 8 * 2 * 3
    for row in table.to_dict("records"):
        n = len(keys[row["label"]].in_layer(row["layer"])) if row["lesion"] == NEURONS else 1
        assert row["units"] == n
        assert np.isfinite([row["own"], row["sham_own"], row["sham_other"]]).all() == (n > 0)
    means = found.by_layer()
    assert len(means) == 16
    assert means.units[means.lesion == DIRECTION].eq(3).all()
    assert "direction cost most in layer" in repr(found)


def test_some_sentences_and_no_shams(
    reference: Model, corpora: tuple[Corpus, Corpus], keys: KeyNeurons, found: LayerLesions
) -> None:
    few = lesions_by_layer(reference, *corpora, keys, labels=LABELS, shams=0, sentences=2, **QUIET)
    assert (few.n_sentences, found.n_sentences) == (2, 5)
    assert few.n_words < found.n_words
    assert few.table.sham_own.isna().all()


def test_labels_without_key_neurons_are_refused(
    reference: Model, corpora: tuple[Corpus, Corpus], keys: KeyNeurons
) -> None:
    with pytest.raises(GrammarLensError, match="'X' has no key neurons"):
        lesions_by_layer(reference, *corpora, keys, labels=("NOUN", "X"), **QUIET)


@given(st.integers(0, 10**6), st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_random_directions_vary_as_much_as_the_given_one(seed: int, power: float) -> None:
    """Also along a direction of much more, or much less, variance than most."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(1e-2, 1e2, 24)
    mixing = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    covariance = mixing @ np.diag(scale**2) @ mixing.T
    vector = mixing @ (rng.normal(size=24) * scale**power)
    drawn = like_variance(vector, covariance, np.linalg.eigh(covariance), 3, rng)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    unit = vector / np.linalg.norm(vector)
    variance = np.einsum("ni,ij,nj->n", drawn, covariance, drawn)
    np.testing.assert_allclose(variance, unit @ covariance @ unit, rtol=1e-6)
    assert np.abs(drawn @ drawn.T - np.eye(3)).max() < 1 - 1e-6
