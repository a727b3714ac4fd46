"""The road from a model and a treebank to moments, probes and lesion studies.

These functions take a model and words, run forward passes, and hand arrays to the modules that do
the arithmetic.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from grammar_lens import probing
from grammar_lens.activations import FeatureReader, Tap, stream
from grammar_lens.alignment import Alignment, TokenBatch, align, token_batches
from grammar_lens.dissociation import LesionStudy, StudyError, dissociation, sham_sets
from grammar_lens.lesions import run_battery
from grammar_lens.lexicon import Lexicon, build_lexicon
from grammar_lens.model import (
    Model,
    context_length,
    device_of,
    model_name,
    output_norms,
    site_width,
    vocabulary_size,
)
from grammar_lens.moments import MomentAccumulator, Moments, Origin
from grammar_lens.outcomes import Condition
from grammar_lens.probing import ProbeResult
from grammar_lens.progress import track
from grammar_lens.selection import KeyNeurons
from grammar_lens.treebank import Treebank

TOKEN_BUDGET = {"cpu": 1024, "cuda": 4096}
"""Tokens in one forward pass, padding counted; on a CPU larger ones fall out of its caches."""
LESION_STACK = 2
"""Conditions that a full batch of a lesion battery leaves room for in one forward pass."""
LESION_TAGS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "AUX")
"""The tags of a lesion study by default; of another label, the most frequent values."""


class CorpusError(ValueError):
    """Words that cannot be studied."""


@dataclass(frozen=True)
class Corpus:
    """A treebank aligned to one model, with its words as classes of one label.

    `classes` is the number of each word's label in `labels`, -1 where it has none of them.
    """

    bank: Treebank
    label: str
    labels: tuple[str, ...]
    alignment: Alignment
    classes: Int[np.ndarray, " word"]
    model: str

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """The form of every word."""
        return tuple(w.form for s in self.bank.sentences for w in s.words)

    def read(self, position: str) -> Int[np.ndarray, " word"]:
        """The class of every word that is read at `position`, -1 for all others."""
        return np.where(self.alignment.readable(position), self.classes, -1)

    def skipped(self, position: str) -> dict[str, int]:
        """Words that are not read at `position`, counted once each, by reason."""
        counts = self.alignment.skipped(position)
        aligned = self.alignment.aligned(position)
        first = int((aligned & ~self.alignment.readable(position)).sum())
        if first:
            counts["first of its sentence"] = first
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

    def origin(self, position: str, site: str) -> Origin:
        return Origin(self.model, self.bank.name, self.label, position, site)

    def batches(self, token_budget: int) -> list[TokenBatch]:
        return token_batches(self.alignment, token_budget)


@dataclass(frozen=True)
class Collected:
    """Moments by site, `collected["neuron"]`; of several positions, `collected.at("word")["neuron"]`."""

    by_position: dict[str, dict[str, Moments]]
    n_tokens: int

    def at(self, position: str) -> dict[str, Moments]:
        """Moments by site at one position."""
        if position not in self.by_position:
            raise CorpusError(
                f"nothing was read at {position!r}: there is {', '.join(self.by_position)}"
            )
        return self.by_position[position]

    def __getitem__(self, site: str) -> Moments:
        sites = self._only()
        if site not in sites:
            raise CorpusError(f"site {site!r} was not collected: there is {', '.join(sites)}")
        return sites[site]

    def _only(self) -> dict[str, Moments]:
        if len(self.by_position) != 1:
            raise CorpusError(
                f"words were read at {' and '.join(self.by_position)}: say which, with .at(position)"
            )
        return next(iter(self.by_position.values()))

    def __repr__(self) -> str:
        return "\n".join(repr(m) for sites in self.by_position.values() for m in sites.values())


def prepare(
    model: Model,
    bank: Treebank | Corpus,
    *,
    label: str = "upos",
    labels: Sequence[str] | None = None,
    minimum: int = 2,
) -> Corpus:
    """A treebank aligned to the model once, to be given to several of the functions below.

    `labels` are the values studied, by default all that occur; words of other values are left out.
    Raises CorpusError for values with fewer than `minimum` words, and for a corpus that was
    prepared for another model.
    """
    if isinstance(bank, Corpus):
        _require_model(bank, model)
        return bank
    present, few = bank.require_label(label, minimum)
    if labels is None:
        if few:
            listed = ", ".join(f"{x!r} has {n} word{'s' * (n != 1)}" for x, n in few.items())
            raise CorpusError(
                f"{label}: {listed} in {bank.name}, needs at least {minimum}: use a larger treebank or "
                f"name the labels to study (--labels {','.join(present)})"
            )
        labels = present
    absent = [f"{x!r} has {few.get(x, 0)}" for x in labels if x not in present]
    if absent:
        raise CorpusError(
            f"{label}: labels with fewer than {minimum} words in {bank.name}: {', '.join(absent)}; there "
            f"are {', '.join(present)}"
        )
    return _aligned(model, bank, label, tuple(labels))


def _require_model(corpus: Corpus, model: Model) -> None:
    if corpus.model != model_name(model):
        raise CorpusError(
            f"{corpus.bank.name} was prepared for {corpus.model}, not for {model_name(model)}: "
            "prepare it again with this model"
        )


def _aligned(model: Model, bank: Treebank, label: str, labels: tuple[str, ...]) -> Corpus:
    alignment = align(
        [s.text for s in bank.sentences],
        [[w.span for w in s.words] for s in bank.sentences],
        model.tokenizer,
        max_length=context_length(model),
    )
    number = {value: i for i, value in enumerate(labels)}
    found = (w.label(label) for s in bank.sentences for w in s.words)
    classes = np.array([number.get(v, -1) if v is not None else -1 for v in found], np.int64)
    return Corpus(bank, label, labels, alignment, classes, model_name(model))


def collect(
    model: Model,
    bank: Treebank | Corpus,
    *,
    sites: Sequence[str] = ("neuron",),
    position: str | Sequence[str] = "next",
    label: str = "upos",
    labels: Sequence[str] | None = None,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> Collected:
    """Moments of every unit at every layer for every label, from one forward pass over the words.

    `position` is "word" (at the word's last token), "next" (at the token before its first), or both.
    The first word of a sentence is not read at "next": only BOS stands before it.
    Raises CorpusError when a label keeps fewer than 2 readable words.
    """
    corpus = prepare(model, bank, label=label, labels=labels)
    positions = (position,) if isinstance(position, str) else tuple(position)
    readers = {}
    taps = []
    for where in positions:
        codes = corpus.read(where)
        _require_words(corpus, codes, where)
        for site in sites:
            reader = MomentAccumulator(
                corpus.labels, model.cfg.n_layers, site_width(model, site), device_of(model)
            )
            readers[where, site] = reader
            taps.append(Tap(site, where, codes >= 0, codes, reader))
    with track("collecting", corpus.alignment.n_tokens, unit="tokens", show=show_progress) as step:
        stream(
            model,
            corpus.alignment,
            corpus.batches(token_budget or default_budget(model)),
            taps,
            progress=step,
            warn=_warn,
        )
    return Collected(
        by_position={
            where: {
                site: readers[where, site].moments(corpus.origin(where, site)) for site in sites
            }
            for where in positions
        },
        n_tokens=corpus.alignment.n_tokens,
    )


def default_budget(model: Model) -> int:
    """The tokens in one forward pass that were fastest on this kind of device."""
    return TOKEN_BUDGET.get(device_of(model).type, TOKEN_BUDGET["cpu"])


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _require_words(corpus: Corpus, codes: Int[np.ndarray, " word"], position: str) -> None:
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    few = [f"{x!r} has {n}" for x, n in zip(corpus.labels, counts, strict=True) if n < 2]
    if few:
        raise CorpusError(
            f"labels with fewer than 2 words that can be read at {position!r} in "
            f"{corpus.bank.name}: {', '.join(few)}; use a larger treebank or leave them out (--labels)"
        )


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

    Raises CorpusError when none is left, as when both are the same data.
    """
    kept, dropped = bank.without(train)
    if len(kept) == 0:
        raise CorpusError(
            f"every sentence of {bank.name} also stands in the training data {train.name}: fresh "
            "data (--fresh) must be other sentences than those the neurons are chosen on (--train)"
        )
    return kept, dropped


def fresh_corpus(
    model: Model, bank: Treebank | Corpus, train: Corpus, max_sentences: int | None = None
) -> tuple[Corpus, int]:
    """Fresh words with the training labels, without sentences that stand in the training data.

    Returns how many sentences were dropped as duplicates beside it.
    Raises CorpusError when nothing is left.
    """
    if isinstance(bank, Corpus):
        _require_model(bank, model)
        if (bank.label, bank.labels) != (train.label, train.labels):
            raise CorpusError(
                f"{bank.bank.name} was prepared with other labels ({bank.label}: "
                f"{', '.join(bank.labels)}) than the training data {train.bank.name} "
                f"({train.label}: {', '.join(train.labels)}): give the treebank instead"
            )
        return bank, 0
    kept, dropped = require_fresh(bank, train.bank)
    if max_sentences is not None:
        kept = kept.head(max_sentences, seed=0)
    return _aligned(model, kept, train.label, train.labels), dropped


def probe(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    position: str = "word",
    k: int | None = None,
    n_random: int = 3,
    max_train_words: int = 50_000,
    seed: int = 0,
    token_budget: int | None = None,
    show_progress: bool = True,
    dropped_duplicates: int = 0,
) -> ProbeResult:
    """How well the key neurons tell the label of fresh words, beside every baseline.

    `k` takes the first k of every label. Training sentences are drawn at random up to
    `max_train_words` words, for the probe and all its baselines alike. Sentences of `fresh` that also stand in
    `train` are dropped and counted (`dropped_duplicates` adds those a caller has dropped).
    """
    rng = np.random.default_rng(seed)
    corpus = prepare(model, train, label=keys.origin.label, labels=keys.labels)
    new, dropped = fresh_corpus(model, fresh, corpus)
    chosen = keys.top(k).union() if k is not None else keys.union()
    addresses, columns = _probe_columns(keys, chosen, n_random, rng)
    sampled = _sample(corpus, corpus.read(position), max_train_words, rng)
    train_words = _probe_words(
        model, corpus, sampled, position, addresses, keys.origin.site, token_budget, show_progress
    )
    fresh_words = _probe_words(
        model, new, new.read(position), position, addresses, keys.origin.site, token_budget, False
    )
    return probing.evaluate(
        train_words,
        fresh_words,
        columns,
        corpus.labels,
        k=k if k is not None else keys.k,
        rng=rng,
        dropped_duplicates=dropped + dropped_duplicates,
        fresh_name=new.bank.name,
        origin=corpus.origin(position, keys.origin.site),
    )


def _probe_columns(
    keys: KeyNeurons, chosen: Int[np.ndarray, "neuron two"], n_random: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "column two"], probing.Columns]:
    """All addresses that the probe and its baselines read, and which columns belong to which."""
    draws = [probing.random_neurons(chosen, keys.n_units, rng) for _ in range(n_random)]
    layers = np.unique(chosen[:, 0])
    told = np.zeros(len(layers)) if keys.units is None else keys.units.eta_squared[layers].mean(1)
    best = int(layers[told.argmax()])
    layer = np.stack([np.full(keys.n_units, best), np.arange(keys.n_units)], 1)
    parts = [chosen, *draws, layer]
    addresses, where = np.unique(np.concatenate(parts), axis=0, return_inverse=True)
    ends = np.cumsum([len(p) for p in parts])[:-1]
    key, *random, whole = np.split(where.ravel(), ends)
    return addresses, probing.Columns(key, tuple(random), whole, best)


def _sample(
    corpus: Corpus, codes: Int[np.ndarray, " word"], most: int, rng: np.random.Generator
) -> Int[np.ndarray, " word"]:
    """The codes of whole sentences drawn at random, up to `most` words; the others become -1.

    Whole sentences, so that the sentences without a drawn word need not be read.
    """
    if int((codes >= 0).sum()) <= most:
        return codes
    words = np.bincount(corpus.alignment.sentence[codes >= 0], minlength=len(corpus.bank))
    order = rng.permutation(len(corpus.bank))
    drawn = order[np.cumsum(words[order]) <= most]
    return np.where(np.isin(corpus.alignment.sentence, drawn), codes, -1)


def _probe_words(
    model: Model,
    corpus: Corpus,
    codes: Int[np.ndarray, " word"],
    position: str,
    addresses: Int[np.ndarray, "column two"],
    site: str,
    token_budget: int | None,
    show_progress: bool,
) -> probing.ProbeWords:
    """Activations of the addresses at every word with a code."""
    words = np.flatnonzero(codes >= 0)
    row = np.full(len(codes), -1)
    row[words] = np.arange(len(words))
    reader = FeatureReader(len(words), addresses)
    tap = Tap(site, position, codes >= 0, row, reader, layers=reader.layers)
    needed = np.unique(corpus.alignment.sentence[words])
    budget = token_budget or default_budget(model)
    batches = token_batches(corpus.alignment, budget, sentences=needed)
    n_tokens = sum(b.n_tokens for b in batches)
    with track("reading", n_tokens, unit="tokens", show=show_progress) as step:
        stream(model, corpus.alignment, batches, [tap], progress=step, warn=_warn)
    # a lookup table would know the word itself, or, before it is read, the word before it
    known = words if position == "word" else words - 1
    return probing.ProbeWords(
        reader.values, codes[words], tuple(corpus.forms[i].lower() for i in known)
    )


def lesion_study(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    lexicon: Treebank | Corpus | Lexicon,
    value: str = "mean",
    dose: float = 1.0,
    shams: int = 20,
    labels: Sequence[str] | None = None,
    max_sentences: int | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> LesionStudy:
    """Cuts each label's key neurons and measures the loss of every label's words, against shams.

    `lexicon` is the training data (or the lexicon made from it). `labels` are those whose neurons
    are cut, by default the eight large open and closed classes, or the most frequent values.
    At most `max_sentences` fresh sentences, drawn with a fixed seed.
    Raises StudyError for labels without key neurons or without fresh words, and when a layer has
    too few other neurons for a sham.
    """
    rng = np.random.default_rng(seed)
    if shams < 0:
        raise StudyError(f"shams is {shams}, expected 0 or more")
    if keys.origin.site != "neuron":
        raise StudyError(
            f"a lesion study cuts neurons, and these are units of {keys.origin.site!r}: shams are "
            "matched by ||w_out||, which only neurons have"
        )
    if keys.units is None:
        raise StudyError("these key neurons carry no unit statistics: choose them with gl.select")
    if isinstance(lexicon, Lexicon):
        tables = lexicon
        if isinstance(fresh, Corpus):
            corpus = fresh
        else:
            bank = fresh if max_sentences is None else fresh.head(max_sentences, seed=0)
            corpus = _aligned(model, bank, keys.origin.label, lexicon.labels)
    else:
        train = prepare(model, lexicon, label=keys.origin.label, minimum=1)
        tables = fit_lexicon(model, train)
        corpus, _ = fresh_corpus(model, fresh, train, max_sentences)
    codes, skipped = _scored(corpus, tables)
    cut = _lesioned_labels(corpus, keys, codes, tables, labels)
    sets = keys.only(cut)
    output = keys.units.mean_abs * output_norms(model)
    conditions = [Condition(label, 0, sets[label]) for label in cut]
    conditions += sham_sets(sets, output, shams, rng, keys.units)
    total = corpus.alignment.n_tokens * (len(conditions) + 1)
    budget = token_budget or default_budget(model)
    with track("lesioning", total, unit="tokens", show=show_progress) as step:
        outcomes = run_battery(
            model,
            corpus.alignment,
            corpus.batches(max(1, budget // LESION_STACK)),
            codes,
            tables,
            conditions,
            value=value,
            dose=dose,
            token_budget=budget,
            progress=step,
        )
    return dissociation(
        outcomes,
        sets,
        output,
        value=value,
        dose=dose,
        tag_entropy=tables.entropy,
        skipped=skipped,
        fresh=corpus.bank.name,
        rng=rng,
    )


def _scored(corpus: Corpus, tables: Lexicon) -> tuple[Int[np.ndarray, " word"], dict[str, int]]:
    """Classes of the words whose prediction is scored, in the lexicon's numbering, and the rest."""
    number = np.array([tables.labels.index(x) if x in tables.labels else -1 for x in corpus.labels])
    codes = corpus.read("next")
    codes = np.where(codes >= 0, number[codes], -1)
    skipped = corpus.skipped("next")
    unknown = (codes >= 0) & (tables.prior[codes] == 0)
    if unknown.any():
        skipped["label unknown to the lexicon"] = int(unknown.sum())
    return np.where(unknown, -1, codes), skipped


def _lesioned_labels(
    corpus: Corpus,
    keys: KeyNeurons,
    codes: Int[np.ndarray, " word"],
    tables: Lexicon,
    wanted: Sequence[str] | None,
) -> tuple[str, ...]:
    """The labels to cut: those asked for, or the usual ones that fresh words have."""
    counts = np.bincount(codes[codes >= 0], minlength=len(tables.labels))
    n_words = dict(zip(tables.labels, counts.tolist(), strict=True))
    if wanted is not None:
        for label in wanted:
            if label not in keys or len(keys[label]) == 0:
                raise StudyError(f"{label!r} has no key neurons: there are {', '.join(keys)}")
            if not n_words.get(label):
                raise StudyError(
                    f"no scored word of {corpus.bank.name} is {label!r}: leave it out or use other "
                    "fresh data"
                )
        chosen = tuple(wanted)
    else:
        there = [x for x in keys if n_words.get(x) and len(keys[x])]
        usual = [x for x in LESION_TAGS if x in there]
        chosen = tuple(
            usual
            if corpus.label == "upos" and len(usual) > 1
            else sorted(there, key=lambda x: -n_words[x])[: len(LESION_TAGS)]
        )
    if len(chosen) < 2:
        raise StudyError(f"a lesion study compares two labels or more, got {list(chosen)}")
    return chosen
