"""Probes on the activations of key neurons, with their baselines."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, fresh_corpus, prepare, sampled
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import MAX_TRAIN_WORDS, SEED
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of
from grammar_lens.neurons.neurons import KeyNeurons, random_neurons
from grammar_lens.neurons.same_model import require_same_model
from grammar_lens.passes.shared import Reading, Request, features, read_one
from grammar_lens.passes.stream import HEAD_INPUT, Tap
from grammar_lens.probing.curves import CLASSIFIERS, ProbeCurve, curve, per_layer, round_robin
from grammar_lens.probing.evaluation import ProbeResult, evaluate
from grammar_lens.probing.fitting import Device
from grammar_lens.probing.probe_words import Columns, ProbeWords
from grammar_lens.probing.tag_losses import tag_loss_reader


def probe(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    position: str = "word",
    k: int | None = None,
    n_random: int = 3,
    max_train_words: int = MAX_TRAIN_WORDS,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    dropped_duplicates: int = 0,
    allow_other_model: bool = False,
) -> ProbeResult:
    """Accuracy of a probe on the key neurons for held-out words, beside every baseline.

    `k` takes the first k of every label. Training sentences are drawn at random up to
    `max_train_words` words, for the probe and all its baselines alike. Sentences of `fresh` that are also in
    `train` are dropped and counted (`dropped_duplicates` adds those a caller has dropped).
    Raises GrammarLensError for key neurons of a model with other weights, unless `allow_other_model`.
    """
    require_same_model(model, keys, allow_other_model=allow_other_model)
    corpus = prepare(model, train, label=keys.origin.label, labels=keys.labels)
    new, dropped = fresh_corpus(model, fresh, corpus)
    reading = probe_reading(
        corpus,
        new,
        keys,
        position=position,
        k=k,
        n_random=n_random,
        max_train_words=max_train_words,
        seed=seed,
        dropped_duplicates=dropped + dropped_duplicates,
        predicted_by=(model, fit_lexicon(model, corpus)) if position == "next" else None,
        device=device_of(model),
        show_progress=show_progress,
    )
    return read_one(
        model, reading, "reading", token_budget=token_budget, show_progress=show_progress
    )


def probe_reading(
    corpus: Corpus,
    fresh: Corpus,
    keys: KeyNeurons,
    *,
    position: str = "word",
    k: int | None = None,
    n_random: int = 3,
    max_train_words: int = MAX_TRAIN_WORDS,
    seed: int = SEED,
    dropped_duplicates: int = 0,
    predicted_by: tuple[Model, Lexicon] | None = None,
    device: Device = "cpu",
    show_progress: bool = False,
) -> Reading[ProbeResult]:
    """`probe` as part of passes that others share, fitted on `device`.

    With `predicted_by` the model's own prediction of the labels is measured too, at `next`.
    """
    rng = np.random.default_rng(seed)
    chosen = keys.top(k).union() if k is not None else keys.union()
    addresses, columns = _probe_columns(keys, chosen, n_random, rng)
    site = keys.origin.site
    words = TrainAndFresh(corpus, fresh, addresses, position, site, max_train_words, rng)

    losses, requests = None, words.requests
    at = np.flatnonzero(fresh.read(position) >= 0)
    if predicted_by is not None and position == "next" and len(at):
        losses = tag_loss_reader(predicted_by[0], fresh, at, predicted_by[1])
    if losses is not None:
        tap = Tap.of_rows(HEAD_INPUT, position, at, len(fresh.classes), losses)
        requests = [*requests, Request(fresh, lambda: [tap])]

    def finish() -> ProbeResult:
        return evaluate(
            *words.read(),
            columns,
            corpus.labels,
            k=k if k is not None else keys.k,
            rng=rng,
            dropped_duplicates=dropped_duplicates,
            fresh_name=fresh.bank.name,
            origin=corpus.origin(position, site),
            addresses=addresses,
            model_losses=None if losses is None else losses.values,
            device=device,
            show_progress=show_progress,
        )

    return Reading(requests, finish)


def _probe_columns(
    keys: KeyNeurons, chosen: Int[np.ndarray, "neuron two"], n_random: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "column two"], Columns]:
    """All addresses that the probe and its baselines read, and which columns belong to which."""
    draws = [random_neurons(chosen, keys.n_units, rng) for _ in range(n_random)]
    # where nothing was chosen, any layer may be the best
    layers = np.unique(chosen[:, 0]) if len(chosen) else np.arange(keys.n_layers)
    explained = (
        np.zeros(len(layers)) if keys.units is None else keys.units.eta_squared[layers].mean(1)
    )
    best = int(layers[explained.argmax()])
    layer = np.stack([np.full(keys.n_units, best), np.arange(keys.n_units)], 1)
    addresses, (key, *random, whole) = _columns([chosen, *draws, layer])
    return addresses, Columns(key, tuple(random), whole, best)


def probe_curve(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    rankings: Mapping[str, KeyNeurons],
    *,
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    position: str = "word",
    same_number: bool = False,
    n_random: int = 2,
    control: bool = True,
    max_train_words: int = 20_000,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    allow_other_model: bool = False,
) -> ProbeCurve:
    """Accuracy on held-out words against k for several rankings at once, read in one pass.

    At each k a ranking gives the first k of every label, so rankings whose labels share neurons have
    fewer. With `same_number` the labels take turns until there are k times as many distinct neurons
    as labels. Random neurons are drawn from the layers of the first ranking's.
    Raises GrammarLensError for rankings of other labels or another site than the first, and of a model
    with other weights, unless `allow_other_model`.
    """
    first = _require_alike(rankings)
    for keys in rankings.values():
        require_same_model(model, keys, allow_other_model=allow_other_model)
    corpus = prepare(model, train, label=first.origin.label, labels=first.labels)
    new, _ = fresh_corpus(model, fresh, corpus)
    reading = curve_reading(
        corpus,
        new,
        rankings,
        ks=ks,
        position=position,
        same_number=same_number,
        n_random=n_random,
        control=control,
        max_train_words=max_train_words,
        seed=seed,
        device=device_of(model),
        show_progress=show_progress,
    )
    return read_one(
        model, reading, "reading", token_budget=token_budget, show_progress=show_progress
    )


def curve_reading(
    corpus: Corpus,
    fresh: Corpus,
    rankings: Mapping[str, KeyNeurons],
    *,
    ks: Sequence[int] = (1, 2, 5, 10, 20),
    position: str = "word",
    same_number: bool = False,
    n_random: int = 2,
    control: bool = True,
    max_train_words: int = 20_000,
    seed: int = SEED,
    device: Device = "cpu",
    show_progress: bool = False,
) -> Reading[ProbeCurve]:
    """`probe_curve` as part of passes that others share, fitted on `device`."""
    first = _require_alike(rankings)
    rng = np.random.default_rng(seed)
    sets = {name: [_chosen(keys, k, same_number) for k in ks] for name, keys in rankings.items()}
    draws = [
        [random_neurons(chosen, first.n_units, rng) for chosen in next(iter(sets.values()))]
        for _ in range(n_random)
    ]
    every = [chosen for ranking in (*sets.values(), *draws) for chosen in ranking]
    addresses, columns = _columns(every)
    rows = [columns[i : i + len(ks)] for i in range(0, len(columns), len(ks))]
    site = first.origin.site
    words = TrainAndFresh(corpus, fresh, addresses, position, site, max_train_words, rng)

    def finish() -> ProbeCurve:
        by_ranking = dict(zip(sets, rows, strict=False))
        return curve(
            *words.read(),
            by_ranking,
            ks,
            rng=rng,
            random=rows[len(sets) :],
            control=control,
            device=device,
            show_progress=show_progress,
        )

    return Reading(words.requests, finish)


def probe_layers(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    position: str = "word",
    classifiers: Sequence[str] = ("logistic",),
    n_random: int = 3,
    max_train_words: int = 20_000,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> pd.DataFrame:
    """Accuracy of each layer's key neurons alone (choose them with `per_layer=True`).

    A row per classifier ("logistic", "svm") and layer: classifier, layer, n_neurons, accuracy,
    random_accuracy (the mean of `n_random` draws of as many neurons of the layer, NaN without any),
    control_accuracy, majority_accuracy.
    Raises GrammarLensError for an unknown classifier.
    """
    unknown = [x for x in classifiers if x not in CLASSIFIERS]
    if unknown or not classifiers:
        raise GrammarLensError(
            f"classifiers are {', '.join(map(repr, classifiers)) or 'none'}, expected some of "
            f"{', '.join(CLASSIFIERS)}"
        )
    rng = np.random.default_rng(seed)
    corpus = prepare(model, train, label=keys.origin.label, labels=keys.labels)
    new, _ = fresh_corpus(model, fresh, corpus)
    sets = [keys.union()]
    sets += [random_neurons(sets[0], keys.n_units, rng) for _ in range(n_random)]
    addresses, columns = _columns(sets)
    both = TrainAndFresh(corpus, new, addresses, position, keys.origin.site, max_train_words, rng)
    words = read_one(
        model,
        Reading(both.requests, both.read),
        "reading",
        token_budget=token_budget,
        show_progress=show_progress,
    )
    by_layer = [
        {la: column[chosen[:, 0] == la] for la in range(keys.n_layers)}
        for chosen, column in zip(sets, columns, strict=True)
    ]
    tables = []
    for name in classifiers:
        fit = CLASSIFIERS[name]
        # every classifier and draw has the same control task
        first, *draws = (
            per_layer(*words, c, rng=np.random.default_rng([seed, 4]), classifier=fit)
            for c in by_layer
        )
        random = np.mean([d.accuracy for d in draws], axis=0) if draws else np.nan
        first.insert(0, "classifier", name)
        first.insert(4, "random_accuracy", random)
        tables.append(first)
    return pd.concat(tables, ignore_index=True)


def _require_alike(rankings: Mapping[str, KeyNeurons]) -> KeyNeurons:
    """The first ranking, if all are of the same labels and site."""
    if not rankings:
        raise GrammarLensError("no ranking was given: expected key neurons by name")
    first = next(iter(rankings.values()))
    for name, keys in rankings.items():
        if (keys.labels, keys.origin.site) != (first.labels, first.origin.site):
            raise GrammarLensError(
                f"ranking {name!r} is of {', '.join(keys.labels)} at {keys.origin.site!r}, the first of "
                f"{', '.join(first.labels)} at {first.origin.site!r}: compare rankings of the same labels"
            )
    return first


def _chosen(keys: KeyNeurons, k: int, same_number: bool) -> Int[np.ndarray, "neuron two"]:
    """The distinct neurons that a ranking gives at k."""
    if not same_number:
        return keys.top(k).union()
    flat = [keys[label].layer * keys.n_units + keys[label].index for label in keys]
    chosen = np.sort(round_robin(flat, k * len(keys)))
    return np.stack([chosen // keys.n_units, chosen % keys.n_units], 1)


def _columns(
    parts: Sequence[Int[np.ndarray, "_ two"]],
) -> tuple[Int[np.ndarray, "column two"], list[Int[np.ndarray, " _"]]]:
    """All addresses once, and the columns of each part."""
    addresses, where = np.unique(np.concatenate(parts), axis=0, return_inverse=True)
    ends = np.cumsum([len(p) for p in parts])[:-1]
    return addresses, np.split(where.ravel(), ends)


class WordReading:
    """Activations of the addresses at every word of a corpus with a code, in a pass to come."""

    def __init__(
        self,
        corpus: Corpus,
        codes: Int[np.ndarray, " word"],
        position: str,
        addresses: Int[np.ndarray, "column two"],
        site: str,
    ) -> None:
        self._corpus, self._codes, self._position = corpus, codes, position
        self._words = np.flatnonzero(codes >= 0)
        self._features = features(corpus, self._words, addresses, position, site)
        (self.request,) = self._features.requests

    def read(self) -> ProbeWords:
        """The words, after the pass."""
        types = self._corpus.word_types(self._position)
        return ProbeWords(
            self._features.finish(),
            self._codes[self._words],
            tuple(types[i] for i in self._words),
            self._corpus.alignment.sentence[self._words],
        )


class TrainAndFresh:
    """Activations of the addresses at training words, drawn by sentence, and at held-out words."""

    def __init__(
        self,
        corpus: Corpus,
        fresh: Corpus,
        addresses: Int[np.ndarray, "column two"],
        position: str,
        site: str,
        max_train_words: int,
        rng: np.random.Generator,
    ) -> None:
        drawn = sampled(
            corpus, corpus.read(position), max_train_words, rng, setting="max_train_words"
        )
        self._readings = [
            WordReading(of, codes, position, addresses, site)
            for of, codes in ((corpus, drawn), (fresh, fresh.read(position)))
        ]
        self.requests = [reading.request for reading in self._readings]

    def read(self) -> tuple[ProbeWords, ProbeWords]:
        """Training and held-out words, after the passes; what was read is kept no longer here."""
        train, fresh = (reading.read() for reading in self._readings)
        self._readings.clear()
        return train, fresh


def probe_words(
    model: Model,
    corpus: Corpus,
    codes: Int[np.ndarray, " word"],
    position: str,
    addresses: Int[np.ndarray, "column two"],
    site: str,
    token_budget: int | None,
    show_progress: bool,
) -> ProbeWords:
    """Activations of the addresses at every word with a code."""
    words = WordReading(corpus, codes, position, addresses, site)
    return read_one(
        model,
        Reading([words.request], words.read),
        "reading",
        token_budget=token_budget,
        show_progress=show_progress,
    )
