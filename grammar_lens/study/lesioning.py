"""The lesion study: each label's key neurons cut, every label's loss measured, against shams."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from grammar_lens.dissociation import LesionStudy, StudyError, dissociation, sham_sets
from grammar_lens.lesions import run_battery
from grammar_lens.lexicon import Lexicon
from grammar_lens.model import Model, output_norms
from grammar_lens.outcomes import Condition, Manner
from grammar_lens.progress import track
from grammar_lens.selection import KeyNeurons
from grammar_lens.study.corpus import (
    Corpus,
    aligned,
    default_budget,
    fit_lexicon,
    fresh_corpus,
    prepare,
)
from grammar_lens.treebank import Treebank

LESION_STACK = 2
"""Conditions that a full batch of a lesion battery leaves room for in one forward pass."""
LESION_TAGS = ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "AUX")
"""The tags of a lesion study by default; of another label, the most frequent values."""


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
            corpus = aligned(model, bank, keys.origin.label, lexicon.labels)
    else:
        train = prepare(model, lexicon, label=keys.origin.label, minimum=1)
        tables = fit_lexicon(model, train)
        corpus, _ = fresh_corpus(model, fresh, train, max_sentences)
    codes, skipped = _scored(corpus, tables)
    cut = _lesioned_labels(corpus, keys, codes, tables, labels)
    sets = keys.only(cut)
    output = keys.units.mean_abs * output_norms(model)
    manner = Manner(value, dose)
    conditions = [Condition(label, 0, sets[label]) for label in cut]
    conditions += sham_sets(sets, output, shams, rng, keys.units)
    conditions = [replace(c, manner=manner) for c in conditions]
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
