"""Lesion losses and attributions against plain transformers with PyTorch hooks and arithmetic of their own.

Nothing of the package computes the expected numbers but the tokens of the words.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, prepare
from grammar_lens.model.about import Model

QUIET: dict[str, Any] = {"show_progress": False}
TAGS = ("NOUN", "VERB", "PRON", "DET")


class ByHand:
    """The tag loss of every readable word, one sentence at a time."""

    def __init__(self, model: Any, train: Corpus, corpus: Corpus) -> None:
        self.model, self.corpus = model, corpus
        counts = np.zeros((model.config.vocab_size, len(train.labels)))
        for word, label in enumerate(train.classes):
            if label >= 0 and train.alignment.aligned("next")[word]:
                counts[train.alignment.first_token[word], label] += 1
        prior = counts.sum(0) / counts.sum()
        share = (counts + prior) / (counts.sum(1, keepdims=True) + 1)
        self.share = torch.from_numpy(share)

    def losses(self) -> tuple[Tensor, np.ndarray]:
        found, labels = [], []
        a = self.corpus.alignment
        for row, ids in enumerate(a.token_ids):
            logits = self.model(torch.from_numpy(ids)[None]).logits[0].double()
            p = logits.softmax(1) @ self.share
            for word in np.flatnonzero((a.row == row) & (self.corpus.read("next") >= 0)):
                label = int(self.corpus.classes[word])
                found.append(-p[a.first[word] - 1, label].log())
                labels.append(label)
        return torch.stack(found), np.array(labels)

    @contextmanager
    def changed(self, change: Callable[[int, Tensor], Tensor]):
        """Every neuron's activation [row time neuron] passed through `change`, but at BOS."""

        def hook(layer: int):
            def edit(_module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                first, rest = inputs[0][:, :1], inputs[0][:, 1:]
                return (torch.cat([first, change(layer, rest)], 1),)

            return edit

        layers = self.model.model.layers
        handles = [m.mlp.down_proj.register_forward_pre_hook(hook(i)) for i, m in enumerate(layers)]
        yield
        for handle in handles:
            handle.remove()


@pytest.fixture
def corpora(tiny: Model, bank: Treebank) -> tuple[Corpus, Corpus]:
    train = prepare(tiny, bank["train"], labels=TAGS)
    return train, prepare(tiny, bank["test"], labels=TAGS)


@pytest.fixture
def by_hand(tiny_hf: Callable[[], Any], corpora: tuple[Corpus, Corpus]) -> ByHand:
    return ByHand(tiny_hf(), *corpora)


def test_the_lesion_matrix(tiny: Model, corpora: tuple[Corpus, Corpus], by_hand: ByHand) -> None:
    train, fresh = corpora
    moments = gl.collect(tiny, train, position="next", **QUIET)
    keys = gl.select(gl.score(moments["neuron"], "correlation"), k=6)
    lexicon = fit_lexicon(tiny, train)
    study = gl.lesion_study(tiny, fresh, keys, lexicon=lexicon, shams=0, damage_matched=0, **QUIET)
    with torch.no_grad():
        intact, labels = by_hand.losses()
        for i, tag in enumerate(study.labels):
            lesioned = {(n.layer, n.index): float(n.mean) for n in _neurons(keys[tag])}

            def cut(layer: int, a: Tensor, targets: dict = lesioned) -> Tensor:
                a = a.clone()
                for (at, index), value in targets.items():
                    if at == layer:
                        a[..., index] = value
                return a

            with by_hand.changed(cut):
                change = (by_hand.losses()[0] - intact).numpy()
            want = [change[labels == train.labels.index(x)].mean() for x in study.labels]
            np.testing.assert_allclose(study.matrix[i], want, rtol=0, atol=2e-6)
    assert np.abs(study.matrix).max() > 1e-4


def _neurons(neurons: Any) -> list[Any]:
    rows = neurons.to_frame()[["layer", "index"]].assign(mean=neurons.mean)
    return list(rows.itertuples(index=False))


def test_first_order_attributions(
    tiny: Model, corpora: tuple[Corpus, Corpus], by_hand: ByHand
) -> None:
    """ "all" is the derivative of the mean tag loss with respect to the dose of each neuron's lesion."""
    train, fresh = corpora
    moments = gl.collect(tiny, train, position="next", **QUIET)["neuron"]
    made = gl.attribute(
        tiny, fresh, kind="all", moments=moments, lexicon=fit_lexicon(tiny, train), **QUIET
    )
    mean = torch.from_numpy(moments.pooled()[0]).float()
    dose = torch.zeros_like(mean, requires_grad=True)
    with by_hand.changed(lambda layer, a: a + dose[layer] * (mean[layer] - a)):
        losses, labels = by_hand.losses()
        for label in np.unique(labels):
            (slope,) = torch.autograd.grad(losses[labels == label].mean(), dose, retain_graph=True)
            got = made.mean[fresh.labels.index(train.labels[label])]
            np.testing.assert_allclose(got, slope.numpy(), rtol=0, atol=2e-6)
            assert slope.abs().max() > 1e-4
