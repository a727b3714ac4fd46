"""The lesion study: each label's key neurons cut, every label's loss measured, against shams."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from grammar_lens.directions import Directions
from grammar_lens.dissociation import (
    EVERYTHING,
    LesionStudy,
    StudyError,
    dissociation,
    matched_keys,
)
from grammar_lens.lesions import Donors, record_donors, run_battery
from grammar_lens.lexicon import Lexicon
from grammar_lens.model import Model, output_norms
from grammar_lens.outcomes import Condition, Manner, Outcomes
from grammar_lens.progress import track
from grammar_lens.selection import KeyNeurons, Neurons, all_neurons
from grammar_lens.study.corpus import (
    Corpus,
    aligned,
    default_budget,
    fewer,
    fit_lexicon,
    fresh_corpus,
    prepare,
)
from grammar_lens.study.damage import grown_shams
from grammar_lens.treebank import Treebank

LESION_TAGS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "AUX")
"""The tags of a lesion study by default; of another label, the most frequent values."""
WELL_MATCHED = 0.9
"""Shams with less than this share of the real sets' output call for damage-matched ones."""


def lesion_study(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    *,
    lexicon: Treebank | Corpus | Lexicon,
    value: str = "mean",
    dose: float = 1.0,
    where: str = "every",
    shams: int = 20,
    others: Sequence[Manner] = (),
    other_shams: int = 10,
    damage_matched: int | None = 0,
    sufficiency: bool = False,
    labels: Sequence[str] | None = None,
    max_sentences: int | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    folder: Path | None = None,
    show_progress: bool = True,
) -> LesionStudy:
    """Cuts each label's key neurons and measures the loss of every label's words, against shams.

    `lexicon` is the training data (or the lexicon made from it). `labels` are those whose neurons
    are cut, by default the eight large open and closed classes, or the most frequent values.
    At most `max_sentences` fresh sentences, drawn with a fixed seed. `others` are further manners of
    the same lesions (values, doses), with the first `other_shams` of the shams. `damage_matched` is the number of
    shams that grow until they do as much damage; None makes as many as there are shams where those carry
    less than nine tenths of the real sets' output. `sufficiency` also cuts all neurons but a label's own.
    With a `folder`, an interrupted study goes on where it stopped.
    Raises StudyError for labels without key neurons or without fresh words, and when a layer has
    too few other neurons for a sham.
    """
    rng = np.random.default_rng(seed)
    _check(keys, shams, other_shams, damage_matched)
    units = keys.units
    assert units is not None
    corpus, tables = materials(model, fresh, keys, lexicon, max_sentences)
    codes, skipped = scored_classes(corpus, tables)
    cut = lesioned_labels(corpus, keys, codes, tables, labels)
    sets = keys.only(cut)
    output = units.mean_abs * output_norms(model)
    drawn = matched_keys(sets, output, shams, rng, units)
    manner = Manner(value, float(dose), where)
    budget = token_budget or default_budget(model)
    shared = np.isin(codes, [tables.labels.index(label) for label in cut])
    battery = Battery(
        model, corpus, codes, shared, tables, keys.origin.position, seed, budget, show_progress
    )
    conditions = _conditions(sets, drawn, manner)
    for other in dict.fromkeys(others):
        if other != manner:
            conditions += _conditions(sets, drawn[:other_shams], other)
    if damage_matched is None:
        damage_matched = shams if _least_output(sets, drawn, output) < WELL_MATCHED else 0
    if damage_matched:
        conditions += grown_shams(battery, sets, manner, damage_matched, rng)
    if sufficiency:
        conditions += _rests(sets, drawn[:other_shams], manner)
    return dissociation(
        battery.run(conditions, folder=folder),
        sets,
        output,
        tag_entropy=tables.entropy,
        skipped=skipped,
        fresh=corpus.bank.name,
        rng=rng,
    )


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
    """Where the words were read whose means a mean lesion takes, and where donors are."""
    seed: int
    token_budget: int
    show_progress: bool

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
        total = alignment.n_tokens * (len(conditions) + 1)
        with track(what, total, unit="tokens", show=self.show_progress) as step:
            return run_battery(
                self.model,
                alignment,
                self.codes if codes is None else codes,
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
        """What the resampled units do at other fresh words; None where no lesion resamples."""
        sets = [c.neurons for c in conditions if c.manner.value.startswith("resample")]
        if not sets:
            return None
        classes = _numbered(self.corpus, self.lexicon, self.position)
        return recorded(
            self.model,
            self.corpus,
            classes,
            sets,
            self.position,
            1000,
            self.seed,
            self.token_budget,
        )


def donors(
    model: Model,
    bank: Treebank | Corpus,
    units: Neurons | Directions | Sequence[Neurons | Directions],
    *,
    position: str = "next",
    label: str = "upos",
    n_words: int = 1000,
    seed: int = 0,
) -> Donors:
    """What the units do at random words of the intact model, for `gl.lesion(value="resample")`."""
    corpus = prepare(model, bank, label=label, minimum=1)
    sets = [units] if isinstance(units, Neurons | Directions) else list(units)
    classes = corpus.read(position)
    return recorded(model, corpus, classes, sets, position, n_words, seed, default_budget(model))


def recorded(
    model: Model,
    corpus: Corpus,
    classes: Int[np.ndarray, " word"],
    sets: Sequence[Neurons | Directions],
    position: str,
    n_words: int,
    seed: int,
    token_budget: int,
) -> Donors:
    """The activations of some sets at random words of a corpus, of those with a class."""
    return record_donors(
        model,
        corpus.alignment,
        classes,
        sets,
        position=position,
        rng=np.random.default_rng([seed, 7]),
        n_words=n_words,
        token_budget=token_budget,
    )


def _check(keys: KeyNeurons, shams: int, other_shams: int, damage_matched: int | None) -> None:
    for name, n in (
        ("shams", shams),
        ("other_shams", other_shams),
        ("damage_matched", damage_matched or 0),
    ):
        if n < 0:
            raise StudyError(f"{name} is {n}, expected 0 or more")
    if keys.origin.site != "neuron":
        raise StudyError(
            f"a lesion study cuts neurons, and these are units of {keys.origin.site!r}: shams are "
            "matched by ||w_out||, which only neurons have"
        )
    if keys.units is None:
        raise StudyError("these key neurons carry no unit statistics: choose them with gl.select")


def materials(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    lexicon: Treebank | Corpus | Lexicon,
    max_sentences: int | None,
) -> tuple[Corpus, Lexicon]:
    """The fresh words and the lexicon."""
    if not isinstance(lexicon, Lexicon):
        train = prepare(model, lexicon, label=keys.origin.label, minimum=1)
        corpus, _ = fresh_corpus(model, fresh, train, max_sentences)
        return corpus, fit_lexicon(model, train)
    if isinstance(fresh, Corpus):
        return fewer(model, fresh, max_sentences), lexicon
    bank = fresh if max_sentences is None else fresh.head(max_sentences, seed=0)
    return aligned(model, bank, keys.origin.label, lexicon.labels), lexicon


def _conditions(sets: KeyNeurons, drawn: Sequence[KeyNeurons], manner: Manner) -> list[Condition]:
    """The lesions of every label in one manner, and their shams."""
    return [
        Condition(label, replicate, keys[label], manner)
        for replicate, keys in enumerate([sets, *drawn])
        for label in sets
    ]


def _rests(sets: KeyNeurons, drawn: Sequence[KeyNeurons], manner: Manner) -> list[Condition]:
    """Lesions of all neurons but one label's, of all but its shams, and of all."""
    everything = all_neurons(sets)
    conditions = [Condition(EVERYTHING, 0, everything, manner, "rest")]
    for replicate, keys in enumerate([sets, *drawn]):
        conditions += [
            Condition(label, replicate, everything.without(keys[label]), manner, "rest")
            for label in sets
        ]
    return conditions


def _least_output(
    sets: KeyNeurons, drawn: Sequence[KeyNeurons], output: Float[np.ndarray, "layer unit"]
) -> float:
    """The smallest share of a real set's expected output that its shams have, mean over them."""

    def total(neurons: Neurons) -> float:
        return float(output[neurons.layer, neurons.index].sum())

    shares = [
        np.mean([total(sham[label]) for sham in drawn]) / total(sets[label])
        for label in sets
        if drawn and total(sets[label]) > 0
    ]
    return float(min(shares, default=1.0))


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
