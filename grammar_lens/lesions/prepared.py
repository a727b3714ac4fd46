"""Preparation of a lesion study: scored words, the labels to cut, batteries over a corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import (
    Corpus,
    aligned,
    default_budget,
    fewer,
    fit_lexicon,
    fresh_corpus,
    prepare,
)
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.directions import Directions
from grammar_lens.lesions.donors import Donors, record_donors
from grammar_lens.lesions.outcomes import Condition, Outcomes
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.progress import track

LESION_TAGS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "AUX")
"""The tags of a lesion study by default; of another label, the most frequent values."""


@dataclass(frozen=True)
class Battery:
    """A corpus made ready for batteries of lesions.

    `codes` has the class of every scored word, -1 for the others; `shared` marks the words of the
    labels studied, at which shams are scored too.
    """

    model: Model
    corpus: Corpus
    codes: Int[np.ndarray, " word"]
    shared: Bool[np.ndarray, " word"]
    lexicon: Lexicon
    position: str
    """Position at which the means of mean lesions and the donors of resampling lesions are read."""
    seed: int
    token_budget: int
    show_progress: bool

    @property
    def studied(self) -> Int[np.ndarray, " word"]:
        """The classes of the scored words of the labels studied, -1 for the others."""
        return np.where(self.shared, self.codes, -1)

    def sentences(self, n: int, rng: np.random.Generator) -> Bool[np.ndarray, " word"]:
        """The words of `n` random sentences that have words of the labels studied.

        Sentences of one row of the batches come together, as few rows as hold so many.
        """
        alignment = self.corpus.alignment
        rows = rng.permutation(np.unique(alignment.row[self.shared]))
        drawn = alignment.sentences_of(rows)
        chosen = drawn[np.isin(drawn, alignment.sentence[self.shared])][:n]
        return np.isin(alignment.sentence, chosen)

    def sham_words(self, n: int | None) -> Bool[np.ndarray, " word"] | None:
        """The words of the `n` sentences that shams are measured on; None where these are all.

        They depend on the seed alone, so that every study of a corpus has the same.
        """
        every = len(np.unique(self.corpus.alignment.sentence[self.shared]))
        if n is None or n >= every:
            return None
        # a generator of its own: the draws of shams do not depend on how many sentences they are read at
        return self.sentences(n, np.random.default_rng([self.seed, 11]))

    def codes_at(self, words: Bool[np.ndarray, " word"] | None) -> Int[np.ndarray, " word"]:
        """The classes of the scored words among some, -1 for the others; of all for None."""
        return self.codes if words is None else np.where(words, self.codes, -1)

    def sham_codes(self, n: int | None) -> Int[np.ndarray, " word"]:
        """The classes of the studied words in those sentences, -1 for the others."""
        words = self.sham_words(n)
        return self.studied if words is None else np.where(words, self.studied, -1)

    def run(
        self,
        conditions: Sequence[Condition],
        *,
        folder: Path | None = None,
        codes: Int[np.ndarray, " word"] | None = None,
        what: str = "lesioning",
    ) -> Outcomes:
        """The outcomes of some lesions, at all scored words or at those that `codes` leaves."""
        alignment = self.corpus.alignment
        codes = self.codes if codes is None else codes
        read = np.unique(alignment.row[codes >= 0]).tolist()
        total = sum(len(alignment.token_ids[row]) for row in read) * (len(conditions) + 1)
        each = alignment.words_per_token
        with track(what, total, unit="words", each=each, show=self.show_progress) as step:
            return run_battery(
                self.model,
                alignment,
                codes,
                self.lexicon,
                conditions,
                shared=self.shared,
                donors=self._donors(conditions),
                seed=self.seed,
                token_budget=self.token_budget,
                folder=folder,
                progress=step,
            )

    def _donors(self, conditions: Sequence[Condition]) -> Donors | None:
        """Activations of resampled units at other held-out words; None where no lesion resamples."""
        sets = [c.neurons for c in conditions if c.ablation.value.startswith("resample")]
        if not sets:
            return None
        classes = _numbered(self.corpus, self.lexicon, self.position)
        return record_donors(
            self.model,
            self.corpus.alignment,
            classes,
            sets,
            position=self.position,
            seed=self.seed,
            token_budget=self.token_budget,
        )


def ready(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    lexicon: Treebank | Corpus | Lexicon,
    labels: Sequence[str] | None,
    max_sentences: int | None,
    seed: int,
    token_budget: int | None,
    show_progress: bool,
) -> tuple[Battery, tuple[str, ...], dict[str, int]]:
    """A battery on some held-out sentences, the labels studied, and the words that are not scored."""
    corpus, tables = materials(model, fresh, keys, lexicon, max_sentences)
    codes, skipped = scored_classes(corpus, tables)
    cut = lesioned_labels(corpus, keys, codes, tables, labels)
    shared = np.isin(codes, [tables.labels.index(label) for label in cut])
    budget = token_budget or default_budget(model)
    where = keys.origin.position
    made = Battery(model, corpus, codes, shared, tables, where, seed, budget, show_progress)
    return made, cut, skipped


def donors(
    model: Model,
    bank: Treebank | Corpus,
    units: Neurons | Directions | Sequence[Neurons | Directions],
    *,
    position: str = "next",
    label: str = "upos",
    n_words: int = 1000,
    seed: int = SEED,
) -> Donors:
    """Activations at random words of the intact model, for `gl.lesion(value="resample")`."""
    corpus = prepare(model, bank, label=label, minimum=1)
    sets = [units] if isinstance(units, Neurons | Directions) else list(units)
    return record_donors(
        model,
        corpus.alignment,
        corpus.read(position),
        sets,
        position=position,
        seed=seed,
        n_words=n_words,
        token_budget=default_budget(model),
    )


def materials(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    lexicon: Treebank | Corpus | Lexicon,
    max_sentences: int | None,
) -> tuple[Corpus, Lexicon]:
    """The held-out words and the lexicon."""
    if not isinstance(lexicon, Lexicon):
        train = prepare(model, lexicon, label=keys.origin.label, minimum=1)
        corpus, _ = fresh_corpus(model, fresh, train, max_sentences)
        return corpus, fit_lexicon(model, train)
    if isinstance(fresh, Corpus):
        return fewer(model, fresh, max_sentences), lexicon
    bank = fresh if max_sentences is None else fresh.sample(max_sentences, seed=0)
    return aligned(model, bank, keys.origin.label, lexicon.labels), lexicon


def scored_classes(
    corpus: Corpus, tables: Lexicon
) -> tuple[Int[np.ndarray, " word"], dict[str, int]]:
    """Classes of the words whose prediction is scored, in the lexicon's numbering, and the rest."""
    codes = _numbered(corpus, tables, "next")
    skipped = corpus.skipped("next")
    unknown = (codes >= 0) & (tables.prior[codes] == 0)
    if unknown.any():
        skipped["label unknown to the lexicon"] = int(unknown.sum())
    return np.where(unknown, -1, codes), skipped


def _numbered(corpus: Corpus, tables: Lexicon, position: str) -> Int[np.ndarray, " word"]:
    """The class of every word read there, in the lexicon's numbering; -1 for labels it lacks."""
    number = np.array([tables.labels.index(x) if x in tables.labels else -1 for x in corpus.labels])
    codes = corpus.read(position)
    return np.where(codes >= 0, number[codes], -1)


def lesioned_labels(
    corpus: Corpus,
    keys: KeyNeurons,
    codes: Int[np.ndarray, " word"],
    tables: Lexicon,
    wanted: Sequence[str] | None,
) -> tuple[str, ...]:
    """The labels to cut: those asked for, or the usual ones that held-out words have."""
    counts = np.bincount(codes[codes >= 0], minlength=len(tables.labels))
    n_words = dict(zip(tables.labels, counts.tolist(), strict=True))
    if wanted is not None:
        for label in wanted:
            if label not in keys or len(keys[label]) == 0:
                raise GrammarLensError(f"{label!r} has no key neurons: there are {', '.join(keys)}")
            if not n_words.get(label):
                raise GrammarLensError(
                    f"no scored word of {corpus.bank.name} is {label!r}: leave it out or use other "
                    "held-out data"
                )
        chosen = tuple(wanted)
    else:
        present = [x for x in keys if n_words.get(x) and len(keys[x])]
        usual = [x for x in LESION_TAGS if x in present]
        chosen = tuple(
            usual
            if corpus.label == "upos" and len(usual) > 1
            else sorted(present, key=lambda x: -n_words[x])[: len(LESION_TAGS)]
        )
    if len(chosen) < 2:
        raise GrammarLensError(f"a lesion study compares two labels or more, got {list(chosen)}")
    return chosen
