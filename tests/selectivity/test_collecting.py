"""One pass gives moments, nulls, controls and a sample as they would be from the activations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from typed import present

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, prepare
from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.neurons.selection import select
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.collect_plan import CollectPlan, CollectSpec
from grammar_lens.selectivity.collecting import Collected, collect, collect_labels
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.permutation_null import MIN_WORDS, Null
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.scoring import score

QUIET: dict[str, Any] = {"show_progress": False}
EXTRAS: dict[str, Any] = {"replicates": 25, "sample": 7, "controls": True}
ORIGIN = Origin("m", "b", "upos", "next", "neuron")


@pytest.fixture(scope="module")
def large(bank: Treebank) -> Treebank:
    """The small treebank four times, with tags exchanged within sentences, and a label `xpos`."""
    rng = np.random.default_rng(0)
    sentences = []
    for i in range(4):
        for s in bank:
            words = list(s.words)
            where = rng.permutation(len(words))
            labels = (
                [dict(words[j].labels) for j in where] if i else [dict(w.labels) for w in words]
            )
            marked = [
                replace(w, labels={**old, "xpos": "long" if len(w.form) > 3 else "short"})
                for w, old in zip(words, labels, strict=True)
            ]
            sentences.append(replace(s, id=f"{i}-{s.id}", words=tuple(marked)))
    # two sentences whose lengths no other has, which no exchange can reach
    first = sentences[0]
    alone = [replace(first, id=f"short-{n}", words=first.words[:n]) for n in (3, 4)]
    return Treebank("large", (*sentences, *alone))


@pytest.fixture(scope="module")
def corpus(tiny: Model, large: Treebank) -> Corpus:
    return prepare(tiny, large)


@pytest.fixture(scope="module")
def everything(tiny: Model, corpus: Corpus) -> Collected:
    return collect(tiny, corpus, position=("word", "next"), **EXTRAS, **QUIET)


@pytest.fixture(scope="module")
def activations(tiny: Model, corpus: Corpus) -> dict[str, np.ndarray]:
    """All neurons at all words that are read, [word, layer, unit], by `run_with_cache`, one by one.

    Words that are not read are NaN.
    """
    alignment = corpus.alignment
    found = {where: np.full((alignment.n_words, 2, 48), np.nan) for where in ("word", "next")}
    for i, ids in enumerate(alignment.token_ids):
        with torch.no_grad():
            _, cache = tiny.run_with_cache(torch.from_numpy(ids)[None])
        x = np.stack([cache[f"blocks.{la}.mlp.hook_post"][0].numpy() for la in range(2)], 1)
        for where, values in found.items():
            here = np.flatnonzero((alignment.sentence == i) & alignment.readable(where))
            values[here] = x[alignment.time(where)[here]]
    return found


def plan(corpus: Corpus, position: str, seed: int = 0) -> CollectPlan:
    return CollectPlan(corpus, position, CollectSpec(("neuron",), (position,), 25, 7, True, seed))


def direct(values: np.ndarray, classes: np.ndarray, labels: tuple[str, ...]) -> Moments:
    """Moments in float64, first the means and then the deviations, of words of class 0 or more."""
    values, classes = values[classes >= 0], classes[classes >= 0]
    count = np.bincount(classes, minlength=len(labels)).astype(float)
    mean, m2 = np.zeros((2, len(labels), *values.shape[1:]))
    for i in np.flatnonzero(count):
        mean[i] = values[classes == i].mean(0)
        m2[i] = ((values[classes == i] - mean[i]) ** 2).sum(0)
    return Moments(labels, count, mean, m2, np.zeros_like(mean), np.abs(values).mean(0), ORIGIN)


def assert_same(got: Moments, want: Moments) -> None:
    """Equal counts, and the rest to float32: batches centred in other groups round differently."""
    np.testing.assert_array_equal(got.count, want.count)
    spread = np.sqrt(want.pooled()[1] / want.n_words)
    assert (np.abs(got.mean - want.mean) <= 1e-5 * spread).all()
    assert (np.abs(got.m2 - want.m2) <= 1e-5 * spread**2 * want.n_words).all()
    np.testing.assert_allclose(got.mean_abs, want.mean_abs, rtol=1e-5)


def assert_equal(got: object, want: object) -> None:
    """The same dataclass to the last bit."""
    assert type(got) is type(want)
    for name, value in vars(want).items():
        np.testing.assert_array_equal(getattr(got, name), value, err_msg=name)


positions = pytest.mark.parametrize("position", ["word", "next"])


# Moments and halves -----------------------------------------------------------------------------


@positions
def test_moments_are_those_of_the_activations(
    everything: Collected, corpus: Corpus, activations: dict[str, np.ndarray], position: str
):
    want = direct(activations[position], corpus.read(position), corpus.labels)
    assert_same(everything.at(position)["neuron"], want)


@positions
def test_what_rides_along_does_not_change_the_moments(
    tiny: Model, corpus: Corpus, everything: Collected, position: str
):
    plain = collect(tiny, corpus, position=position, **QUIET)["neuron"]
    rich = everything.at(position)["neuron"]
    assert_same(rich, plain)
    np.testing.assert_array_equal(rich.fired, plain.fired)
    assert (rich.labels, rich.origin) == (plain.labels, plain.origin)


@positions
def test_halves_are_of_other_sentences_and_add_up(
    corpus: Corpus,
    everything: Collected,
    activations: dict[str, np.ndarray],
    position: str,
):
    evidence = everything.evidence("neuron", position)
    assert evidence.halves is not None
    first, second = evidence.halves
    assert_equal(first + second, evidence.moments)
    part = plan(corpus, position).part % 2
    codes = corpus.read(position)
    for half, moments in enumerate(evidence.halves):
        want = direct(activations[position], np.where(part == half, codes, -1), corpus.labels)
        assert_same(moments, replace(want, mean_abs=evidence.moments.mean_abs))
    sentence = corpus.alignment.sentence
    ones = np.array([set(part[sentence == i]) for i in range(len(corpus.bank))])
    assert sum(s == {0} for s in ones) == sum(s == {1} for s in ones) == len(corpus.bank) // 2


def test_a_pass_without_replicates_has_the_same_halves(
    tiny: Model, corpus: Corpus, everything: Collected
):
    plain = collect(tiny, corpus, **QUIET).evidence()
    rich = everything.evidence("neuron", "next")
    assert plain.halves is not None
    assert rich.halves is not None
    for half, other in zip(plain.halves, rich.halves, strict=True):
        assert_same(half, other)
    assert (plain.nulls, plain.sample, plain.adjusted) == ({}, None, None)


# What rides along -------------------------------------------------------------------------------


@positions
def test_a_null_is_that_of_the_activations(
    everything: Collected, corpus: Corpus, activations: dict[str, np.ndarray], position: str
):
    """The null from sums on the device against scores of the activations, replicate by replicate."""
    exchanged = plan(corpus, position).permutation
    assert exchanged is not None
    evidence = everything.evidence("neuron", position)
    assert set(evidence.nulls) == {n for n, m in SCORES.items() if m.class_means_suffice}
    codes = np.where(exchanged.taking_part, corpus.read(position), -1)
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    assert (counts >= MIN_WORDS).sum() > 3
    moments = [
        direct(activations[position], c.astype(int), corpus.labels)
        for c in (codes, *exchanged.codes)
    ]
    for name in ("correlation", "cohens_d", "eta_squared"):
        null = evidence.nulls[name]
        everyone = np.stack([SCORES[name].compute(Evidence(m))[0] for m in moments])
        np.testing.assert_array_equal(null.count, counts)
        np.testing.assert_allclose(null.observed, everyone[0], atol=1e-5)
        np.testing.assert_allclose(null.mean, everyone[1:].mean(0), atol=1e-5)
        np.testing.assert_allclose(null.sd, everyone[1:].std(0, ddof=1), atol=1e-5)
        np.testing.assert_allclose(null.shams, everyone[1:6], atol=1e-5)
        assert null.n_left_out_words == exchanged.n_left_out_words > 0
        assert null.origin == evidence.moments.origin
        assert score(evidence, name).null is null


def test_only_the_nulls_that_were_asked_for(tiny: Model, corpus: Corpus, everything: Collected):
    found = collect(tiny, corpus, replicates=25, nulls=("cohens_d",), **QUIET).evidence()
    assert set(found.nulls) == {"cohens_d"}
    assert_equal(found.nulls["cohens_d"], everything.evidence("neuron", "next").nulls["cohens_d"])
    assert found.null("correlation") is None


@positions
def test_a_sample_is_of_activations(
    everything: Collected, corpus: Corpus, activations: dict[str, np.ndarray], position: str
):
    sample = everything.evidence("neuron", position).sample
    assert sample is not None
    codes = corpus.read(position)
    np.testing.assert_array_equal(sample.classes, codes[sample.word])
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    np.testing.assert_array_equal(np.bincount(sample.classes), np.minimum(counts, 7))
    np.testing.assert_array_equal(sample.count, counts)
    assert len(set(sample.word.tolist())) == len(sample.word)
    # batched float32 products against single ones
    np.testing.assert_allclose(
        sample.values, activations[position][sample.word], rtol=1e-4, atol=1e-5
    )
    assert score(everything.evidence("neuron", position), "auroc").values.shape == (12, 2, 48)


@positions
@pytest.mark.parametrize("label", ["NOUN", "PUNCT"])
def test_contrasts_are_regressions_on_the_activations(
    everything: Collected,
    corpus: Corpus,
    activations: dict[str, np.ndarray],
    position: str,
    label: str,
):
    """Reference: statsmodels OLS; at `next` the form is that of the word before."""
    adjusted = everything.evidence("neuron", position).adjusted
    assert adjusted is not None
    i, codes = corpus.labels.index(label), corpus.read(position)
    read = codes >= 0
    forms = [w.form.lower() for s in corpus.bank for w in s.words]
    before = ["", *forms[:-1]]
    form = np.array(forms if position == "word" else before)[read]
    dummies = (form[:, None] == np.unique(form)).astype(float)
    has = (codes[read] == i).astype(float)
    n = len(has) - 2
    for unit in ((0, 3), (1, 17), (1, 47)):
        x = activations[position][read][:, unit[0], unit[1]]
        sd = np.sqrt(sum(((x[has == k] - x[has == k].mean()) ** 2).sum() for k in (0, 1)) / n)
        for others, got in (
            (dummies, adjusted.within_type),
            (sm.add_constant(corpus.covariates(position)[:, read].T), adjusted.guarded),
        ):
            want = sm.OLS(x, np.column_stack([has, others])).fit().params[0] / sd
            assert abs(got[i][unit] - want) < 1e-4
    assert adjusted.n_forms[i] > 2
    assert adjusted.labels == corpus.labels


@pytest.mark.parametrize("alone", list(EXTRAS))
def test_options_do_not_change_one_another(
    tiny: Model, corpus: Corpus, everything: Collected, alone: str
):
    found = collect(tiny, corpus, **{alone: EXTRAS[alone]}, **QUIET).evidence()
    together = everything.evidence("neuron", "next")
    assert (found.sample is None, found.adjusted is None) == (
        alone != "sample",
        alone != "controls",
    )
    if alone == "replicates":
        # `fired` and `mean_abs` are none of a null's, so all of it must be equal
        for name, null in together.nulls.items():
            assert_equal(found.nulls[name], null)
    elif alone == "sample":
        assert_equal(found.sample, together.sample)
    else:
        for name, value in vars(together.adjusted).items():
            if name != "labels":  # sd comes from moments that were centred in other groups
                np.testing.assert_allclose(
                    getattr(found.adjusted, name), value, rtol=1e-5, atol=1e-6, err_msg=name
                )


def test_the_seed_draws_everything(tiny: Model, corpus: Corpus, everything: Collected):
    same, other = (
        collect(tiny, corpus, **EXTRAS, seed=seed, **QUIET).evidence() for seed in (0, 1)
    )
    before = everything.evidence("neuron", "next")
    assert before.halves is not None
    assert other.halves is not None
    assert before.sample is not None
    assert other.sample is not None
    assert_equal(same.sample, before.sample)
    assert_equal(same.nulls["correlation"], before.nulls["correlation"])
    assert (other.sample.word != before.sample.word).any()
    assert (other.nulls["correlation"].sd != before.nulls["correlation"].sd).any()
    assert (other.halves[0].mean != before.halves[0].mean).any()
    assert_same(other.moments, before.moments)


def test_the_rules_run_on_what_was_collected(tiny: Model, bank: Treebank, large: Treebank):
    """Labels with few words are named by the rules that need a null, and not by `top_k`."""
    evidence = collect(tiny, bank, position="word", replicates=20, **QUIET).evidence()
    few = evidence.nulls["correlation"].count < MIN_WORDS
    assert few.any()
    top = select(score(evidence), 5, alpha=1)
    q = evidence.nulls["correlation"].q()
    for i, label in enumerate(top):
        assert len(top[label]) == 5
        np.testing.assert_array_equal(top[label].q, q[i, top[label].layer, top[label].index])
        assert np.isnan(present(top[label].q)).all() == few[i]
    with pytest.raises(GrammarLensError, match="labels with too few words for an exchange null"):
        select(score(evidence), rule="fdr")
    # the length of the form is in its embedding, which a random model passes on
    lengths = collect(tiny, large, label="xpos", position="word", replicates=40, **QUIET).evidence()
    for rule in ("fdr", "permutation"):
        assert len(select(score(lengths), rule=rule)["long"]) > 0


def test_what_is_read_again_for_want_of_memory_counts_once(
    tiny: Model, corpus: Corpus, everything: Collected
):
    """Layer 1 fails on large batches, after layer 0 was handed over to all readers."""

    def fails(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] * inputs[0].shape[1] > 100:
            raise MemoryError

    handle = tiny.original_model.model.layers[1].register_forward_pre_hook(fails)
    try:
        with pytest.warns(RuntimeWarning, match="out of memory"):
            got = collect(tiny, corpus, token_budget=300, **EXTRAS, **QUIET).evidence()
    finally:
        handle.remove()
    want = everything.evidence("neuron", "next")
    assert_same(got.moments, want.moments)
    assert got.sample is not None
    assert want.sample is not None
    np.testing.assert_allclose(got.sample.values, want.sample.values, rtol=1e-4, atol=1e-5)
    assert got.adjusted is not None
    assert want.adjusted is not None
    np.testing.assert_allclose(got.adjusted.guarded, want.adjusted.guarded, atol=1e-4)
    _assert_near(got.nulls["cohens_d"], want.nulls["cohens_d"])


def _assert_near(got: Null, want: Null) -> None:
    for name in ("observed", "mean", "sd", "strength", "shams"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-4)
    np.testing.assert_allclose(got.maximum, want.maximum, rtol=1e-3)


# Several positions, sites and labels ------------------------------------------------------------


@positions
def test_two_positions_in_one_pass_are_two_passes(
    tiny: Model, corpus: Corpus, everything: Collected, position: str
):
    alone = collect(tiny, corpus, position=position, **EXTRAS, **QUIET).evidence()
    together = everything.evidence("neuron", position)
    assert_equal(alone.moments, together.moments)
    assert_equal(alone.sample, together.sample)
    assert_equal(alone.adjusted, together.adjusted)
    assert_equal(alone.nulls["cohens_d"], together.nulls["cohens_d"])


def test_sites_share_their_words(tiny: Model, corpus: Corpus, everything: Collected):
    """All sites have the same replicates, halves and sample: their numbers can be compared."""
    found = collect(tiny, corpus, sites=("resid_post", "neuron"), **EXTRAS, **QUIET)
    assert_equal(found.evidence("neuron").sample, everything.evidence("neuron", "next").sample)
    residual, neuron = found.evidence("resid_post"), found.evidence("neuron")
    assert residual.sample is not None
    assert neuron.sample is not None
    np.testing.assert_array_equal(residual.sample.word, neuron.sample.word)
    assert residual.sample.values.shape[1:] == (2, 32)
    assert residual.nulls["correlation"].origin.site == "resid_post"


def test_two_labels_from_one_pass_are_two_passes(tiny: Model, large: Treebank):
    both = collect_labels(tiny, large, ("upos", "xpos"), **EXTRAS, **QUIET)
    assert list(both) == ["upos", "xpos"]
    for label in both:
        alone = collect(tiny, large, label=label, **EXTRAS, **QUIET).evidence()
        together = both[label].evidence()
        assert together.moments.origin.label == label
        assert_equal(together.moments, alone.moments)
        assert_equal(together.sample, alone.sample)
        assert_equal(together.adjusted, alone.adjusted)
        assert_equal(together.nulls["eta_squared"], alone.nulls["eta_squared"])
    assert both["xpos"]["neuron"].labels == ("long", "short")


def test_a_prepared_corpus_keeps_its_own_label_apart(tiny: Model, corpus: Corpus, large: Treebank):
    """A corpus of `upos` is asked for `xpos` first: neither may pass for the other."""
    found = collect_labels(tiny, corpus, ("xpos", "upos"), **QUIET)
    assert found["xpos"]["neuron"].labels == ("long", "short")
    assert found["upos"]["neuron"].labels == corpus.labels
    want = collect(tiny, large, label="xpos", **QUIET)["neuron"]
    assert_equal(found["xpos"]["neuron"], want)


def test_rare_values_are_left_out(tiny: Model, large: Treebank):
    counts = large.label_counts("upos")
    few = sorted(counts.values())[len(counts) // 2]
    found = collect_labels(tiny, large, ("xpos", "upos"), min_words=few, **QUIET)["upos"]["neuron"]
    assert set(found.labels) == {x for x, n in counts.items() if n >= few} != set(counts)
    chosen = prepare(tiny, large, min_words=few)
    assert chosen.labels == found.labels
    assert chosen.skipped("word")["label not studied"] > 0
    # labels that are named win over the number of words
    named = prepare(tiny, large, labels=("PART", "NOUN"), min_words=few)
    assert named.labels == ("PART", "NOUN")


# What cannot be collected -----------------------------------------------------------------------


def test_requests_that_cannot_be_met(
    tiny: Model, corpus: Corpus, bank: Treebank, write: Callable[..., Treebank]
):
    with pytest.raises(GrammarLensError, match="no label was named"):
        collect_labels(tiny, corpus, (), **QUIET)
    with pytest.raises(GrammarLensError, match="no word of large has the label 'deprel'"):
        collect_labels(tiny, corpus, ("upos", "deprel"), **QUIET)
    with pytest.raises(GrammarLensError, match=r"'before'.*word, next"):
        collect(tiny, corpus, position="before", **QUIET)
    with pytest.raises(GrammarLensError, match="replicates is 5, expected at least 20"):
        collect(tiny, corpus, replicates=5, **QUIET)
    two = write("The DET|dog NOUN|sleeps VERB\nThe DET|dog NOUN|the DET|dog NOUN|sleeps VERB")
    with pytest.raises(GrammarLensError, match="no two sentences have the same number of words"):
        collect(tiny, two, position="word", replicates=20, **QUIET)
    both = collect(tiny, bank["train"], position=("word", "next"), **QUIET)
    with pytest.raises(GrammarLensError, match=r"words were read at word and next: say which"):
        both.evidence()
    with pytest.raises(GrammarLensError, match="site 'mlp_out' was not collected"):
        both.evidence("mlp_out", "word")
    with pytest.raises(GrammarLensError, match=r"'before'.*word, next"):
        both.evidence("neuron", "before")


# Covariates -------------------------------------------------------------------------------------


@positions
def test_covariates_are_those_of_the_token_that_is_read(corpus: Corpus, position: str):
    """Reference: token by token, with a dictionary."""
    alignment = corpus.alignment
    times: dict[int, int] = {}
    for ids in alignment.token_ids:
        for token in ids.tolist():
            times[token] = times.get(token, 0) + 1
    frequency, place = corpus.covariates(position)
    for word in range(alignment.n_words):
        if not alignment.readable(position)[word]:
            assert frequency[word] == place[word] == 0
            continue
        time = alignment.last[word] if position == "word" else alignment.first[word] - 1
        token = int(alignment.token_ids[alignment.sentence[word]][time])
        assert place[word] == time
        assert frequency[word] == pytest.approx(np.log(times[token]), rel=1e-12)


def test_keys_are_of_the_word_or_the_one_before(tiny: Model, bank: Treebank):
    corpus = prepare(tiny, bank)
    assert corpus.word_types("word")[:4] == ("the", "old", "dog", "sleeps")
    assert corpus.word_types("next")[:4] == ("", "the", "old", "dog")
    assert len(corpus.word_types("next")) == len(corpus.word_types("word")) == bank.n_words
