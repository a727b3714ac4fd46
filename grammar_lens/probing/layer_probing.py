"""Linear probes on the whole residual stream of every layer, from streamed sums.

Training words are read once for the sums that a shrinkage linear discriminant needs, held-out words
once for its log posteriors: nothing of the size of words times units is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grammar_lens.corpus.corpus import Corpus, sampled
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import LAYER_WORDS, POSITIONS, SEED
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, model_name
from grammar_lens.passes.covariance import CovarianceAccumulator
from grammar_lens.passes.readers import LinearReader, Reader
from grammar_lens.passes.stream import HEAD_INPUT, Tap
from grammar_lens.probing.baselines import control_labels, majority_accuracy, word_baseline_accuracy
from grammar_lens.probing.discriminant import Discriminant, discriminant, within_classes
from grammar_lens.probing.layer_results import EMBEDDING, LayerProbe
from grammar_lens.probing.prediction import (
    bootstrap_intervals,
    calibrated_losses,
    halves,
    lookup_losses,
    losses_of,
)
from grammar_lens.probing.probe_words import ProbeWords
from grammar_lens.probing.tag_losses import tag_loss_reader


class LayerProbing:
    """Probes on the residual stream, for passes that others may share.

    Read `train_taps` over the training corpus, call `fit`, read `fresh_taps` over the held-out one,
    and take `result`. Without a `lexicon` the model's own prediction is not looked at.
    """

    def __init__(
        self,
        model: Model,
        train: Corpus,
        fresh: Corpus,
        positions: Sequence[str] = POSITIONS,
        *,
        max_words: int = LAYER_WORDS,
        lexicon: Lexicon | None = None,
        seed: int = SEED,
    ) -> None:
        corpora = [_drawn(corpus, positions, max_words, seed) for corpus in (train, fresh)]
        self._at = [
            _AtPosition(
                model,
                *(corpus.words(position) for corpus in corpora),
                lexicon=lexicon if position == "next" else None,
                seed=seed,
            )
            for position in positions
        ]

    @property
    def train_taps(self) -> list[Tap]:
        """Readers of the training words."""
        return [tap for at in self._at for tap in at.train_taps]

    def fit(self) -> None:
        """Fits the probes of every layer, and lets go of the sums."""
        for at in self._at:
            at.fit()

    @property
    def fresh_taps(self) -> list[Tap]:
        """Readers of the held-out words, once the probes are fitted."""
        return [tap for at in self._at for tap in at.fresh_taps]

    def result(self) -> dict[str, LayerProbe]:
        """The probes' results by position."""
        return {at.train.position: at.result() for at in self._at}


@dataclass(frozen=True)
class _Words:
    """The words of a corpus that are read at one position, as rows."""

    corpus: Corpus
    position: str
    word: Int[np.ndarray, " row"]
    """The number of each row's word in the corpus."""

    @property
    def of_probe(self) -> ProbeWords:
        """Their classes and keys, without features."""
        keys = self.corpus.word_types(self.position)
        return ProbeWords(
            np.zeros((len(self.word), 0)),
            self.corpus.classes[self.word],
            tuple(keys[i] for i in self.word),
            self.corpus.alignment.sentence[self.word],
        )

    def tap(self, site: str, reader: Reader, layers: Sequence[int] | None = None) -> Tap:
        """A tap that gives the reader these words by their rows."""
        n_words = len(self.corpus.classes)
        return Tap.of_rows(site, self.position, self.word, n_words, reader, layers)


@dataclass(frozen=True)
class _Drawn:
    """A corpus and the sentences of it that are used."""

    corpus: Corpus
    of_drawn: Bool[np.ndarray, " word"]

    def words(self, position: str) -> _Words:
        """The words read at a position. Raises GrammarLensError without any."""
        word = np.flatnonzero((self.corpus.read(position) >= 0) & self.of_drawn)
        if not len(word):
            raise GrammarLensError(
                f"no word of {self.corpus.bank.name} can be read at {position!r}: probes of layers "
                "need sentences of two words or more"
            )
        return _Words(self.corpus, position, word)


def _drawn(corpus: Corpus, positions: Sequence[str], most: int, seed: int) -> _Drawn:
    """Sentences that have at most so many words, the same at all positions."""
    codes = np.max([corpus.read(position) for position in positions], axis=0)
    rng, setting = np.random.default_rng([seed, 8]), "max_words (--layer-words)"
    some = sampled(corpus, codes, most, rng, setting=setting) >= 0
    sentence = corpus.alignment.sentence
    return _Drawn(corpus, np.isin(sentence, np.unique(sentence[some])))


class _AtPosition:
    """The probes at one position: before the training pass, between the passes, and after."""

    def __init__(
        self, model: Model, train: _Words, fresh: _Words, *, lexicon: Lexicon | None, seed: int
    ) -> None:
        self.train, self.fresh = train, fresh
        self._name, self._n_layers = model_name(model), int(model.cfg.n_layers)
        self._rng = np.random.default_rng([seed, 9])
        self._n_labels = len(train.corpus.labels)
        self._words = (train.of_probe, fresh.of_probe)
        self._control = control_labels(*self._words, self._n_labels, self._rng)
        classes = np.stack([self._words[0].classes, self._control[0]])
        if len(np.unique(classes[0])) < 2:
            raise GrammarLensError(
                "all training words have one label: a probe needs two labels or more"
            )
        sizes = (int(model.cfg.d_model), device_of(model))
        self._sums = [
            CovarianceAccumulator(classes, self._n_labels, n, *sizes) for n in (1, self._n_layers)
        ]
        self.train_taps = _residual_taps(train, self._sums)
        self._own = None
        if lexicon is not None:
            self._own = tag_loss_reader(model, fresh.corpus, fresh.word, lexicon)

    def fit(self) -> None:
        """The probes and those of the control task, from the sums; these are then let go."""
        layers = [state for sums in self._sums for state in sums.state()]
        n = self._n_labels
        self._sums.clear()
        self.train_taps = []
        fits: list[tuple[Discriminant, Discriminant]] = []
        while layers:
            state = layers.pop(0)
            count, mean, within = (state[x].double() for x in ("count", "mean", "within"))
            real, other = (count[:n], mean[:n]), (count[n:], mean[n:])
            control = within_classes(within, *real, *other)
            fits.append((discriminant(*real, within), discriminant(*other, control)))
        self._shrinkage = np.array([real.shrinkage for real, _ in fits])
        functions = [_function(pair) for pair in fits]
        self._readers = [
            LinearReader(len(self.fresh.word), some) for some in (functions[:1], functions[1:])
        ]
        self.fresh_taps = _residual_taps(self.fresh, self._readers)
        if self._own is not None:
            self.fresh_taps.append(self.fresh.tap(HEAD_INPUT, self._own))

    def result(self) -> LayerProbe:
        """Accuracies and losses on the held-out words."""
        train, fresh = self._words
        n, classes = self._n_labels, fresh.classes
        logits = np.concatenate([reader.values for reader in self._readers], 1)
        right = logits[:, :, :n].argmax(2) == classes[:, None]
        control = logits[:, :, n:].argmax(2) == self._control[1][:, None]
        fold = halves(fresh.groups, self._rng)
        every = [logits[:, layer, :n].astype(np.float64) for layer in range(self._n_layers + 1)]
        low, high = bootstrap_intervals(right.astype(float), fresh.groups, self._rng)
        before = lookup_losses(train.key, train.classes, fresh.key, classes, n)
        corpus = self.fresh.corpus
        origin = self.train.corpus.origin(self.train.position, "resid_post")
        return LayerProbe(
            labels=corpus.labels,
            layers=np.arange(EMBEDDING, self._n_layers),
            accuracy=right.mean(0),
            low=low,
            high=high,
            control_accuracy=control.mean(0),
            cross_entropy=np.array([calibrated_losses(x, classes, fold).mean() for x in every]),
            raw_cross_entropy=np.array([losses_of(x, classes).mean() for x in every]),
            shrinkage=self._shrinkage,
            majority_accuracy=majority_accuracy(train.classes, classes),
            word_baseline_accuracy=word_baseline_accuracy(train, fresh),
            word_cross_entropy=float(before.mean()),
            model_cross_entropy=None if self._own is None else float(self._own.values.mean()),
            n_train_words=len(train.classes),
            n_fresh_words=len(classes),
            n_fresh_sentences=len(np.unique(fresh.groups)),
            origin=replace(origin, model=self._name),
        )


def _residual_taps(words: _Words, readers: Sequence[Reader]) -> list[Tap]:
    """Taps of the embedding and of the residual stream after every layer."""
    embedding, after = readers
    return [words.tap("resid_pre", embedding, [0]), words.tap("resid_post", after)]


def _function(pair: tuple[Discriminant, Discriminant]) -> tuple[Tensor, Tensor, Tensor]:
    """Both probes of a layer as one linear function of its activations less their mean."""
    real, control = pair
    return (
        real.centre,
        torch.cat([real.weight, control.weight]),
        torch.cat([real.bias, control.bias]),
    )
