"""A treebank aligned to one model: the words that all passes read."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.alignment import Alignment, TokenBatch, align, token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.lexicon import Lexicon, build_lexicon
from grammar_lens.corpus.origin import Origin
from grammar_lens.corpus.windows import align_windows
from grammar_lens.defaults import CONTEXTS, LEAST_WINDOW, POSITIONS, WINDOW
from grammar_lens.display import Shown
from grammar_lens.errors import (
    GrammarLensError,
    counted,
    expected_one_of,
    require_at_least,
    require_one_of,
)
from grammar_lens.model.about import Model, context_length, device_of, model_name, vocabulary_size

TOKEN_BUDGET = {"cpu": 1024, "cuda": 4096}
"""Tokens in one forward pass, padding counted; on a CPU larger ones fall out of its caches."""


@dataclass(frozen=True)
class Corpus(Shown):
    """A treebank aligned to one model, with its words as classes of one label.

    `classes` is the number of each word's label in `labels`, -1 where it has none of them. With the
    `context` "document", consecutive sentences are read together in windows of `window` tokens.
    """

    bank: Treebank
    label: str
    labels: tuple[str, ...]
    alignment: Alignment
    classes: Int[np.ndarray, " word"]
    model: str
    context: str = "sentence"
    window: int = WINDOW

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """The form of every word."""
        return tuple(w.form for s in self.bank.sentences for w in s.words)

    @cached_property
    def folded(self) -> tuple[str, ...]:
        """The form of every word in lower case: what counts as one word type."""
        return tuple(form.lower() for form in self.forms)

    def word_types(self, position: str) -> tuple[str, ...]:
        """The word type that a lookup table would know of every word: itself, at `next` the one before.

        At `next` the word itself has not been read yet. The first word of all has "" there.
        """
        return self.folded if position == "word" else ("", *self.folded[:-1])

    def covariates(self, position: str) -> Float[np.ndarray, "two word"]:
        """Log frequency, in this corpus, of the token at which each word is read, and its place.

        The place is in the sentence, also where the model reads a whole window. 0 for words that
        are not read.
        """
        ids = self.alignment.token_ids
        flat = np.concatenate([*ids, np.zeros(0, np.int64)])
        start = self.alignment.token_start[self.alignment.row]
        read = self.alignment.readable(position)
        token = flat[np.where(read, start + self.alignment.time(position), 0)]
        frequency = np.log(np.bincount(flat)[token])
        place = np.where(read, self.alignment.place(position), 0)
        return np.where(read, np.stack([frequency, place.astype(float)]), 0.0)

    def read(self, position: str) -> Int[np.ndarray, " word"]:
        """The class of every word that is read at `position`, -1 for all others."""
        return np.where(self.alignment.readable(position), self.classes, -1)

    def skipped(self, position: str) -> dict[str, int]:
        """Words that are not read at `position`, counted once each, by reason."""
        counts = self.alignment.skipped(position)
        aligned = self.alignment.aligned(position)
        first = int((aligned & ~self.alignment.readable(position)).sum())
        if first:
            counts[f"first of its {'window' if self.context == 'document' else 'sentence'}"] = first
        for reason, code in self.left_out_masks.items():
            n = int((code & self.alignment.readable(position)).sum())
            if n:
                counts[reason] = n
        return counts

    @cached_property
    def left_out_masks(self) -> dict[str, np.ndarray]:
        missing = np.array(
            [w.label(self.label) is None for s in self.bank.sentences for w in s.words], bool
        )
        masks = {
            "label missing": missing,
            "label not studied": (self.classes < 0) & ~missing,
        }
        return {reason: mask for reason, mask in masks.items() if mask.any()}

    def origin(self, position: str, site: str, weights: str = "") -> Origin:
        """Origin of what is read of these words, in a model whose weights have this fingerprint."""
        return Origin(self.model, self.bank.name, self.label, position, site, weights)

    def batches(self, token_budget: int) -> list[TokenBatch]:
        return token_batches(self.alignment, token_budget)

    def __repr__(self) -> str:
        known = int((self.classes >= 0).sum())
        return (
            f"Corpus of {self.bank.name} for {self.model}: {known:,} words with one of "
            f"{len(self.labels)} values of {self.label}, context {self.context!r}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        n = len(self.labels)
        read = {p: np.bincount(r[r >= 0], minlength=n) for p in POSITIONS for r in [self.read(p)]}
        words = np.bincount(self.classes[self.classes >= 0], minlength=n)
        columns = {f"read at {position!r}": count for position, count in read.items()}
        return [pd.DataFrame({"label": self.labels, "words": words, **columns})]


def prepare(
    model: Model,
    bank: Treebank | Corpus,
    *,
    label: str = "upos",
    labels: Sequence[str] | None = None,
    minimum: int = 2,
    min_words: int | None = None,
    context: str = "sentence",
    window: int = WINDOW,
) -> Corpus:
    """A treebank aligned to the model once, to be given to several of the functions below.

    `labels` are the values studied, by default all that occur, or all with at least `min_words`
    words; words of other values are left out. By default every sentence is read alone; with the
    `context` "document" the model reads windows of up to `window` tokens (BOS counted, and no more
    than its own context) of consecutive sentences of the same document, and words keep their
    sentence as the unit of statistics. Held-out words follow the training words in this.
    Raises GrammarLensError for values with fewer than `minimum` words, for a corpus that was prepared for
    another model or in a smaller context, for an unknown context and a window below 16.
    """
    if isinstance(bank, Corpus):
        _require_model(bank, model)
        if context != "sentence" and (context, window) != (bank.context, bank.window):
            raise GrammarLensError(
                f"{bank.bank.name} was prepared with the context {bank.context!r} and windows of "
                f"{bank.window}, not with {context!r} and {window}: prepare its treebank again"
            )
        return bank
    chosen = studied_labels(bank, label, labels, min_words, minimum)
    return aligned(model, bank, label, chosen, context, window)


def studied_labels(
    bank: Treebank,
    label: str,
    labels: Sequence[str] | None,
    min_words: int | None,
    minimum: int = 2,
) -> tuple[str, ...]:
    """The values of a label to study, as `prepare` chooses them."""
    present, few = bank.require_label(label, minimum)
    if labels is None and min_words is not None:
        labels, _ = bank.require_label(label, max(minimum, min_words))
    if labels is None:
        if few:
            listed = ", ".join(f"{x!r} has {counted(n, 'word')}" for x, n in few.items())
            raise GrammarLensError(
                f"{label}: {listed} in {bank.name}, needs at least {minimum}: use a larger treebank or "
                f"leave rare values out (--min-words, or --labels {','.join(present)})"
            )
        labels = present
    absent = [x for x in labels if x not in present]
    if absent:
        counts = ", ".join(f"{x!r} has {few.get(x, 0)}" for x in absent)
        raise GrammarLensError(
            f"{label}: labels with fewer than {minimum} words in {bank.name}: {counts}; "
            f"{expected_one_of(absent[0], present)}"
        )
    return tuple(labels)


def _require_model(corpus: Corpus, model: Model) -> None:
    if corpus.model != model_name(model):
        raise GrammarLensError(
            f"{corpus.bank.name} was prepared for {corpus.model}, not for {model_name(model)}: "
            "prepare it again with this model"
        )


def aligned(
    model: Model,
    bank: Treebank,
    label: str,
    labels: tuple[str, ...],
    context: str = "sentence",
    window: int = WINDOW,
) -> Corpus:
    """A treebank aligned to the model, with words as classes of these labels."""
    _check_context(context, window)
    texts = [s.text for s in bank.sentences]
    spans = [[w.span for w in s.words] for s in bank.sentences]
    most = context_length(model)
    if context == "document":
        alignment = align_windows(
            texts,
            spans,
            [s.gap for s in bank.sentences],
            bank.documents(),
            model.tokenizer,
            window=window,
            max_length=most,
        )
    else:
        alignment = align(texts, spans, model.tokenizer, max_length=most)
    _check_tokens(model, alignment)
    classes = _classes(bank, label, labels)
    return Corpus(bank, label, labels, alignment, classes, model_name(model), context, window)


def _check_tokens(model: Model, alignment: Alignment) -> None:
    """Raises GrammarLensError for tokens that the model has no embedding of."""
    rows = vocabulary_size(model)
    largest = max((int(ids.max(initial=-1)) for ids in alignment.token_ids), default=-1)
    if largest >= rows:
        raise GrammarLensError(
            f"the tokenizer makes token {largest} of these words, and {model_name(model)} embeds "
            f"{rows} tokens: give the model's own tokenizer, or resize_token_embeddings"
        )


def _check_context(context: str, window: int) -> None:
    require_one_of("context", context, CONTEXTS)
    require_at_least("window", window, LEAST_WINDOW, "tokens")


def relabelled(corpus: Corpus, label: str, min_words: int | None = None) -> Corpus:
    """The same aligned words with another label's values as their classes."""
    labels = studied_labels(corpus.bank, label, None, min_words)
    return replace(corpus, label=label, labels=labels, classes=_classes(corpus.bank, label, labels))


def _classes(bank: Treebank, label: str, labels: tuple[str, ...]) -> Int[np.ndarray, " word"]:
    number = {value: i for i, value in enumerate(labels)}
    classes = (w.label(label) for s in bank.sentences for w in s.words)
    return np.array([number.get(v, -1) if v is not None else -1 for v in classes], np.int64)


def fit_lexicon(
    model: Model,
    bank: Treebank | Corpus,
    *,
    label: str = "upos",
    labels: Sequence[str] | None = None,
    smoothing: float = 1.0,
) -> Lexicon:
    """P(label | first token of a word), counted on training words with the model's tokenizer."""
    corpus = prepare(model, bank, label=label, labels=labels, minimum=1)
    usable = corpus.alignment.aligned("next") & (corpus.classes >= 0)
    return build_lexicon(
        corpus.alignment.first_token[usable],
        corpus.classes[usable],
        corpus.labels,
        vocabulary_size(model),
        smoothing=smoothing,
    )


def require_fresh(bank: Treebank, train: Treebank) -> tuple[Treebank, int]:
    """The sentences of `bank` that do not stand in `train`, and how many do.

    Raises GrammarLensError when none is left, as when both are the same data.
    """
    held_out, dropped = bank.without(train)
    if len(held_out) == 0:
        raise GrammarLensError(
            f"every sentence of {bank.name} also stands in the training data {train.name}: fresh "
            "data (--fresh) must be other sentences than those the neurons are chosen on (--train)"
        )
    return held_out, dropped


def fresh_corpus(
    model: Model, bank: Treebank | Corpus, train: Corpus, max_sentences: int | None = None
) -> tuple[Corpus, int]:
    """Held-out words with the training labels, without sentences that stand in the training data.

    They are read in the training words' context, unless they come as a corpus. Returns how many sentences were dropped as duplicates beside it.
    Raises GrammarLensError when nothing is left.
    """
    if isinstance(bank, Corpus):
        _require_model(bank, model)
        if (bank.label, bank.labels) != (train.label, train.labels):
            raise GrammarLensError(
                f"{bank.bank.name} was prepared with other labels ({bank.label}: "
                f"{', '.join(bank.labels)}) than the training data {train.bank.name} "
                f"({train.label}: {', '.join(train.labels)}): give the treebank instead"
            )
        return fewer(model, bank, max_sentences), 0
    held_out, dropped = require_fresh(bank, train.bank)
    if max_sentences is not None:
        held_out = some_sentences(held_out, max_sentences, train.context, seed=0)
    made = aligned(model, held_out, train.label, train.labels, train.context, train.window)
    return made, dropped


def fewer(model: Model, corpus: Corpus, max_sentences: int | None) -> Corpus:
    """The corpus, or at most `max_sentences` of its sentences, drawn with a fixed seed."""
    if max_sentences is None or len(corpus.bank) <= max_sentences:
        return corpus
    few = some_sentences(corpus.bank, max_sentences, corpus.context, seed=0)
    return aligned(model, few, corpus.label, corpus.labels, corpus.context, corpus.window)


def some_sentences(bank: Treebank, most: int, context: str, *, seed: int) -> Treebank:
    """At most so many sentences at random; of whole documents if they are read in their documents."""
    if context == "document":
        return bank.sample_documents(most, seed=seed)
    return bank.sample(most, seed=seed)


def sampled(
    corpus: Corpus,
    codes: Int[np.ndarray, " word"],
    most: int,
    rng: np.random.Generator,
    *,
    setting: str = "max_words",
) -> Int[np.ndarray, " word"]:
    """The codes of whole sentences drawn at random, up to `most` words; the others become -1.

    Whole sentences, and those of a window together, so that what has no drawn word need not be read.
    Raises GrammarLensError, naming the `setting`, where the sentences drawn first have more words.
    """
    if int((codes >= 0).sum()) <= most:
        return codes
    sentence = corpus.alignment.sentence
    words = np.bincount(sentence[codes >= 0], minlength=len(corpus.bank))
    order = corpus.alignment.sentences_of(rng.permutation(len(corpus.alignment.token_ids)))
    drawn = order[np.cumsum(words[order]) <= most]
    if not words[drawn].any():
        first = next(n for n in words[order].tolist() if n)
        raise GrammarLensError(
            f"{setting} is {most:,}, but the first sentence drawn from {corpus.bank.name} has "
            f"{counted(first, 'word')}, and whole sentences are read: raise {setting}"
        )
    return np.where(np.isin(sentence, drawn), codes, -1)


def sampled_words(corpus: Corpus, position: str, most: int, seed: int) -> Int[np.ndarray, " word"]:
    """Numbers of up to `most` words that can be read at a position, in whole sentences drawn at random.

    Raises GrammarLensError where there is none.
    """
    rng = np.random.default_rng(seed)
    words = np.flatnonzero(sampled(corpus, corpus.read(position), most, rng) >= 0)
    if not len(words):
        raise GrammarLensError(
            f"no word of {corpus.bank.name} to read at {position!r} among whole sentences of up to "
            f"{most} words: use a larger treebank or raise max_words"
        )
    return words


def default_budget(model: Model) -> int:
    """The tokens in one forward pass that were fastest on this kind of device."""
    return TOKEN_BUDGET.get(device_of(model).type, TOKEN_BUDGET["cpu"])


def warned(text: str) -> None:
    """Tells the caller of something that went on all the same."""
    warnings.warn(text, RuntimeWarning, stacklevel=2)
