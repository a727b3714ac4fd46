"""The road from a model and a treebank to moments, probes and lesion studies, at toy size."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from typed import neurons_of, present

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, prepare
from grammar_lens.corpus.lexicon import build_lexicon
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.study import lesion_study
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.neurons.selection import select
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.probing.probes import probe, probe_layers
from grammar_lens.selectivity.collecting import Collected, collect
from grammar_lens.selectivity.scoring import score

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(scope="session")
def train(reference: Model, bank: Treebank) -> Corpus:
    return prepare(reference, bank["train"])


@pytest.fixture(scope="session")
def collected(reference: Model, train: Corpus) -> Collected:
    return collect(reference, train, sites=("neuron", "resid_post"), **QUIET)


@pytest.fixture(scope="session")
def keys(collected: Collected) -> KeyNeurons:
    return select(score(collected["neuron"]), k=5)


@pytest.fixture(scope="session")
def study(reference: Model, bank: Treebank, keys: KeyNeurons) -> LesionStudy:
    return lesion_study(
        reference, bank["test"], keys, lexicon=bank["train"], shams=3, labels=TAGS, **QUIET
    )


TAGS = ("NOUN", "VERB", "PRON")


# Collecting ---------------------------------------------------------------------------------


def test_the_first_word_of_a_sentence_is_not_read_at_next(
    reference: Model, bank: Treebank, train: Corpus, collected: Collected
):
    firsts = train.alignment.row_start[:-1]
    assert (train.read("next")[firsts] == -1).all()
    assert (train.read("word")[firsts] >= 0).all()
    assert train.skipped("next")["first of its sentence"] == len(bank["train"]) == 13
    # n't begins within a token of its verb: don + 't
    words = [w for s in bank["train"] for w in s.words[1:] if w.form != "n't"]
    labels = [w.label("upos") for w in words]
    want = {label: labels.count(label) for label in set(labels)}
    counts = dict(zip(collected["neuron"].labels, collected["neuron"].count, strict=True))
    assert counts == want


def test_every_word_is_read_or_skipped_for_one_reason(reference: Model, bank: Treebank):
    corpus = prepare(reference, bank, labels=("NOUN", "VERB"))
    for position in ("word", "next"):
        read = int((corpus.read(position) >= 0).sum())
        skipped = corpus.skipped(position)
        assert read + sum(skipped.values()) == bank.n_words
        assert skipped["label not studied"] > 50


def test_words_without_a_label_are_counted(reference: Model, bank: Treebank):
    sentences = tuple(
        replace(
            s, words=tuple(replace(w, labels={}) if i == 1 else w for i, w in enumerate(s.words))
        )
        for s in bank
    )
    corpus = prepare(reference, Treebank("holes", sentences))
    readable = corpus.alignment.readable("word")
    missing = int(readable[corpus.alignment.row_start[:-1] + 1].sum())
    assert corpus.skipped("word")["label missing"] == missing > 10, "each skipped word counts once"
    assert (corpus.read("word") >= 0).sum() == readable.sum() - missing


def test_two_positions_in_one_pass_equal_two_passes(reference: Model, train: Corpus):
    both = collect(reference, train, position=("word", "next"), **QUIET)
    for position in ("word", "next"):
        alone = collect(reference, train, position=position, **QUIET)["neuron"]
        together = both.at(position)["neuron"]
        for field in ("count", "mean", "m2", "fired", "mean_abs"):
            np.testing.assert_array_equal(getattr(together, field), getattr(alone, field))
        assert together.origin == alone.origin
        assert together.origin.position == position
    assert both.at("word")["neuron"].n_words > both.at("next")["neuron"].n_words


def test_what_was_collected(collected: Collected, train: Corpus):
    assert set(collected.at("next")) == {"neuron", "resid_post"}
    assert collected.n_tokens == train.alignment.n_tokens
    assert collected["neuron"].mean.shape == (len(train.labels), 8, 896)
    assert collected["resid_post"].mean.shape == (len(train.labels), 8, 256)
    origin = collected["neuron"].origin
    assert (origin.model, origin.treebank, origin.label, origin.position, origin.site) == (
        "reference-9m",
        "small:train",
        "upos",
        "next",
        "neuron",
    )
    assert repr(collected).count("Moments of 8 x") == 2
    with pytest.raises(GrammarLensError, match="nothing was read at 'word'"):
        collected.at("word")
    with pytest.raises(GrammarLensError, match=r"'mlp_out'.*neuron, resid_po"):
        collected["mlp_out"]
    double = Collected({"word": {}, "next": {}}, 0)
    with pytest.raises(GrammarLensError, match="words were read at word and next"):
        double["neuron"]


def test_a_treebank_and_its_corpus_give_the_same(
    reference: Model, bank: Treebank, collected: Collected
):
    again = collect(reference, bank["train"], token_budget=70, **QUIET)["neuron"]
    spread = np.sqrt(again.pooled()[1] / again.n_words)
    assert (np.abs(again.mean - collected["neuron"].mean) <= 1e-4 * spread).all()


# Labels -------------------------------------------------------------------------------------


def test_labels_that_are_too_rare(reference: Model, bank: Treebank, write: Callable[..., Treebank]):
    extra = write("Oh INTJ|-, PUNCT|the DET|dog NOUN|sleeps VERB|-. PUNCT")
    rare = Treebank("rare", (*bank.sentences, *extra.sentences))
    with pytest.raises(
        GrammarLensError, match=r"'INTJ' has 1 word in rare, needs at least 2: .*--labels"
    ):
        prepare(reference, rare)
    with pytest.raises(GrammarLensError, match="'INTJ' has 1"):
        collect(reference, rare, **QUIET)
    # two words, both at the beginning, are enough to be heard and not to be predicted
    twice = Treebank("twice", (*rare.sentences, replace(extra.sentences[0], id="again")))
    assert collect(reference, twice, position="word", **QUIET)["neuron"].n_words > 0
    with pytest.raises(
        GrammarLensError,
        match=r"than 2.*'next'.*'INTJ'.*has 0",
    ):
        collect(reference, twice, **QUIET)
    with pytest.raises(GrammarLensError, match=r"than 2.*'SYM'.*has 0.*ADJ"):
        collect(reference, bank, labels=("NOUN", "SYM"), **QUIET)


def test_a_label_that_no_word_has(reference: Model, bank: Treebank):
    with pytest.raises(GrammarLensError, match="no word of small has the label 'deprel'"):
        collect(reference, bank, label="deprel", **QUIET)
    with pytest.raises(GrammarLensError, match="unknown label 'color'"):
        collect(reference, bank, label="color", **QUIET)
    with pytest.raises(GrammarLensError, match="did you mean 'upos'"):
        collect(reference, bank, label="upps", **QUIET)


# The probe ----------------------------------------------------------------------------------


def test_probe_reads_what_it_says(reference: Model, bank: Treebank, keys: KeyNeurons):
    result = probe(reference, bank["train"], bank["test"], keys, n_random=2, **QUIET)
    assert result.labels == keys.labels
    train, fresh = prepare(reference, bank["train"]), prepare(reference, bank["test"])
    assert result.n_train_words == train.alignment.readable("word").sum()
    assert result.n_fresh_words == fresh.alignment.readable("word").sum()
    assert result.n_neurons == len(keys.union())
    assert result.position == "word"
    assert result.fresh == "small:test"
    assert result.dropped_duplicates == 0
    assert len(result.random_accuracies) == 2
    assert result.confusion.sum() == result.n_fresh_words
    assert np.trace(result.confusion) == round(result.accuracy * result.n_fresh_words)
    assert result.accuracy > result.majority_accuracy


def test_probe_is_the_same_every_time(reference: Model, bank: Treebank, keys: KeyNeurons):
    few = {"n_random": 1, "k": 2, "max_train_words": 60, **QUIET}
    one, same, other = (
        probe(reference, bank["train"], bank["test"], keys, seed=seed, **few) for seed in (4, 4, 5)
    )
    assert one.accuracy == same.accuracy
    assert one.random_accuracies == same.random_accuracies
    assert one.n_train_words == same.n_train_words <= 60
    assert one.k == 2
    assert other.n_train_words <= 60
    assert repr(one) != repr(other), "other sentences and other random neurons"


def test_probe_predicts_at_next(reference: Model, bank: Treebank, keys: KeyNeurons):
    result = probe(
        reference, bank["train"], bank["test"], keys, position="next", n_random=1, **QUIET
    )
    n_contracted = sum(w.form == "n't" for s in bank["test"] for w in s.words)
    assert result.n_fresh_words == bank["test"].n_words - len(bank["test"]) - n_contracted


@pytest.mark.parametrize("position", ["word", "next"])
def test_what_a_lookup_would_know(
    reference: Model, bank: Treebank, keys: KeyNeurons, position: str
):
    """The word itself once it is read, the word before it when it is to be predicted."""
    tables: dict[str, list[str]] = {}

    def words(split: str) -> list[tuple[str, str]]:
        corpus = prepare(reference, bank[split])
        read = iter(corpus.read(position) >= 0)
        rows = []
        for sentence in bank[split]:
            before = ""
            for word in sentence.words:
                if next(read):
                    known = word.form if position == "word" else before
                    rows.append((known.lower(), str(word.label("upos"))))
                before = word.form
        return rows

    def commonest(tags: list[str]) -> str:
        """Of equally common ones the first met, as Counter has it."""
        return max(dict.fromkeys(tags), key=tags.count)

    for form, tag in words("train"):
        tables.setdefault(form, []).append(tag)
    majority = max(sorted(keys.labels), key=[tag for _, tag in words("train")].count)
    answers = [
        (commonest(tables[form]) if form in tables else majority) == tag
        for form, tag in words("test")
    ]
    result = probe(
        reference, bank["train"], bank["test"], keys, position=position, n_random=1, **QUIET
    )
    assert result.word_baseline_accuracy == pytest.approx(np.mean(answers))


def test_probe_drops_sentences_that_stand_in_the_training_data(
    reference: Model, bank: Treebank, keys: KeyNeurons
):
    mixed = Treebank("mixed", (*bank["train"].sentences[:3], *bank["test"].sentences))
    options: dict[str, Any] = {"n_random": 1, **QUIET}
    clean = probe(reference, bank["train"], bank["test"], keys, **options)
    result = probe(reference, bank["train"], mixed, keys, dropped_duplicates=2, **options)
    assert result.dropped_duplicates == 3 + 2
    assert result.n_fresh_words == clean.n_fresh_words
    assert result.accuracy == clean.accuracy


def test_probe_features_are_the_activations(reference: Model, train: Corpus):
    """`FeatureReader` sees at each word what `collect` takes the mean of."""
    codes = train.read("next")
    words = np.flatnonzero(codes >= 0)
    row = np.full(len(codes), -1)
    row[words] = np.arange(len(words))
    addresses = np.array([[0, 5], [3, 800], [7, 1]])
    reader = FeatureReader(len(words), addresses)
    tap = Tap("neuron", "next", codes >= 0, row, reader, layers=reader.layers)
    stream(reference, train.alignment, train.batches(4096), [tap])
    want = collect(reference, train, **QUIET)["neuron"].pooled()[0]
    got = reader.values.astype(float).mean(0)
    np.testing.assert_allclose(got, want[addresses[:, 0], addresses[:, 1]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("what", ["probe", "lesion_study"])
def test_fresh_data_must_be_fresh(reference: Model, bank: Treebank, keys: KeyNeurons, what: str):
    message = r"every sentence of small:train also stands in the training data small:train"
    same = bank["train"]
    ways = {
        "probe": lambda: probe(reference, same, same, keys, **QUIET),
        "lesion_study": lambda: lesion_study(reference, same, keys, lexicon=same, **QUIET),
    }
    with pytest.raises(GrammarLensError, match=message):
        ways[what]()


# The lesion study ---------------------------------------------------------------------------


def test_lesion_study_adds_up(
    reference: Model, bank: Treebank, keys: KeyNeurons, study: LesionStudy
):
    assert study.labels == TAGS
    assert study.n_shams == 3
    assert study.matrix.shape == (3, 3)
    assert study.sham.shape == (3, 3, 3)
    assert study.identity_error < 1e-10
    words = [w.label("upos") for s in bank["test"] for w in s.words[1:]]
    assert study.n_words.tolist() == [words.count(tag) for tag in TAGS]
    outcomes = study.outcomes
    assert outcomes is not None
    for i, tag in enumerate(TAGS):
        change = outcomes.tag_loss[outcomes.row(tag, 0)] - outcomes.tag_loss[0]
        for j, other in enumerate(TAGS):
            mine = outcomes.label == outcomes.labels.index(other)
            assert study.matrix[i, j] == pytest.approx(change[mine].mean(), abs=1e-12)
    assert np.abs(study.matrix).max() > 0
    scored = sum(study.skipped.values()) + len(outcomes.word)
    assert scored == bank["test"].n_words


def test_shams_are_other_neurons_of_the_same_layers(keys: KeyNeurons, study: LesionStudy):
    assert study.outcomes is not None
    union = {address for tag in TAGS for address in keys[tag]}
    for condition in study.outcomes.conditions:
        real = keys[condition.label]
        cut = neurons_of(condition)
        if condition.replicate == 0:
            assert list(cut) == list(real)
        else:
            assert cut.layer.tolist() == real.layer.tolist()
            assert not union & set(cut)
            mean = present(keys.units).mean[cut.layer, cut.index]
            np.testing.assert_array_equal(present(cut.mean), mean)


def test_lesion_study_is_the_same_whatever_the_budget_and_lexicon(
    reference: Model, bank: Treebank, keys: KeyNeurons, study: LesionStudy
):
    lexicon = fit_lexicon(reference, bank["train"])
    again = lesion_study(
        reference,
        bank["test"],
        keys,
        lexicon=lexicon,
        shams=3,
        labels=TAGS,
        token_budget=90,
        **QUIET,
    )
    # float32 logits from products of another shape
    np.testing.assert_allclose(again.matrix, study.matrix, atol=1e-5)
    np.testing.assert_allclose(again.sham, study.sham, atol=1e-5)
    assert again.tag_entropy == study.tag_entropy == lexicon.entropy


def test_labels_are_matched_by_name(
    reference: Model, bank: Treebank, keys: KeyNeurons, study: LesionStudy
):
    """A fresh corpus may number its labels in another way than the lexicon."""
    lexicon = fit_lexicon(reference, bank["train"])
    fresh = prepare(reference, bank["test"], labels=TAGS[::-1])
    again = lesion_study(reference, fresh, keys, lexicon=lexicon, shams=0, labels=TAGS, **QUIET)
    np.testing.assert_array_equal(again.n_words, study.n_words)
    np.testing.assert_allclose(again.matrix, study.matrix, atol=1e-5)


def test_dose_0_and_no_shams(reference: Model, bank: Treebank, keys: KeyNeurons):
    nothing = lesion_study(
        reference, bank["test"], keys, lexicon=bank["train"], shams=0, dose=0.0, **QUIET
    )
    assert not nothing.matrix.any()
    assert not nothing.nll_matrix.any()
    assert nothing.p_value is None
    assert nothing.labels == ("NOUN", "VERB", "ADJ", "ADV", "PRON", "DET", "ADP", "AUX")


def test_a_sample_of_fresh_sentences(reference: Model, bank: Treebank, keys: KeyNeurons):
    options: dict[str, Any] = {"shams": 0, "labels": ("NOUN", "VERB"), "max_sentences": 2, **QUIET}
    for lexicon in (bank["train"], fit_lexicon(reference, bank["train"])):
        result = lesion_study(reference, bank["test"], keys, lexicon=lexicon, **options)
        assert result.outcomes is not None
        assert len(np.unique(result.outcomes.sentence)) == 2


def test_neurons_without_outgoing_weight_damage_nothing(
    make_tiny: Callable[[], Any], bank: Treebank
):
    """The whole road on a model whose key neurons write nothing: a lesion of them is no lesion."""
    model = make_tiny()
    found = score(collect(model, bank["train"], **QUIET)["neuron"])
    chosen = select(found, k=4)
    with torch.no_grad():
        for layer, unit in chosen.union():
            down = model.original_model.model.layers[layer].mlp.down_proj
            down.weight[:, unit] = 0
    assert (output_norms(model)[tuple(chosen.union().T)] == 0).all()
    options = {"lexicon": bank["train"], "allow_other_model": True, **QUIET}
    result = lesion_study(model, bank["test"], chosen, shams=0, labels=TAGS, **options)
    # stacked rows are other matrix products, which may round differently
    assert np.abs(result.matrix).max() < 1e-6
    with pytest.raises(GrammarLensError, match=r"layer \d has too few other neurons to match"):
        lesion_study(model, bank["test"], chosen, shams=1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shams": -1}, "shams is -1, expected 0 or more"),
        ({"labels": ("NOUN", "SYM")}, "'SYM'.*: there are ADJ, ADP"),
        ({"labels": ("NOUN",)}, r"compares two labels or more, got \['NOUN'\]"),
    ],
)
def test_lesion_studies_that_cannot_be_made(
    reference: Model, bank: Treebank, keys: KeyNeurons, options: dict[str, Any], message: str
):
    with pytest.raises(GrammarLensError, match=message):
        lesion_study(reference, bank["test"], keys, lexicon=bank["train"], **options, **QUIET)


def test_key_neurons_that_cannot_be_studied(reference: Model, bank: Treebank, keys: KeyNeurons):
    with pytest.raises(
        GrammarLensError, match=r"carry no unit statistics: choose them with gl.select"
    ):
        lesion_study(
            reference, bank["test"], replace(keys, units=None), lexicon=bank["train"], **QUIET
        )
    empty: Neurons = keys["VERB"].top(0)
    hollow = replace(keys, sets={**keys.sets, "VERB": empty})
    with pytest.raises(GrammarLensError, match="'VERB' has no key neurons"):
        lesion_study(
            reference, bank["test"], hollow, lexicon=bank["train"], labels=("VERB", "NOUN"), **QUIET
        )


def test_labels_that_fresh_words_lack(
    reference: Model, keys: KeyNeurons, bank: Treebank, write: Callable[..., Treebank]
):
    fresh = write("My PRON|new ADJ|dog NOUN|sleeps VERB|-. PUNCT", "poor")
    with pytest.raises(GrammarLensError, match="no scored word of poor is 'ADP'"):
        lesion_study(reference, fresh, keys, lexicon=bank["train"], labels=("NOUN", "ADP"), **QUIET)
    result = lesion_study(reference, fresh, keys, lexicon=bank["train"], shams=0, **QUIET)
    assert result.labels == ("NOUN", "VERB", "ADJ")


def test_words_whose_label_the_lexicon_does_not_know(
    reference: Model, bank: Treebank, keys: KeyNeurons, write: Callable[..., Treebank]
):
    """Their tag loss would be infinite: they are skipped and counted."""
    train = prepare(reference, bank["train"])
    usable = train.alignment.aligned("next")
    first_token, classes = train.alignment.first_token[usable], train.classes[usable]
    lexicon = build_lexicon(first_token, classes, (*train.labels, "SYM"), 8192)
    fresh = write("My PRON|new ADJ|dog NOUN|costs VERB|much ADV|& SYM|sleeps VERB|-. PUNCT")
    result = lesion_study(reference, fresh, keys, lexicon=lexicon, shams=0, **QUIET)
    assert result.skipped["label unknown to the lexicon"] == 1
    assert np.isfinite(present(result.outcomes).nll).all()
    assert np.isfinite(present(result.outcomes).tag_loss).all()


def test_progress_is_quiet_unless_shown(
    reference: Model, bank: Treebank, capsys: pytest.CaptureFixture[str]
):
    collect(reference, bank, **QUIET)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_probe_layers(reference: Model, bank: Treebank, collected: Collected):
    every = select(score(collected["neuron"]), k=4, per_layer=True)
    given: dict[str, Any] = {"classifiers": ("logistic", "svm"), "n_random": 2, **QUIET}
    table = probe_layers(reference, bank["train"], bank["test"], every, **given)
    assert table.classifier.tolist() == ["logistic"] * 8 + ["svm"] * 8
    assert table.layer.tolist() == [*range(8)] * 2
    for layer, n in zip(table.layer, table.n_neurons, strict=True):
        assert n == (every.union()[:, 0] == layer).sum()
    shares = table.filter(like="accuracy")
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    alone = probe_layers(reference, bank["train"], bank["test"], every, n_random=0, **QUIET)
    assert alone.random_accuracy.isna().all()
    first = table[table.classifier == "logistic"]
    np.testing.assert_array_equal(alone.accuracy, first.accuracy)


@pytest.mark.parametrize("classifiers", [(), ("forest",)])
def test_classifiers_that_there_are_not(
    reference: Model, bank: Treebank, keys: KeyNeurons, classifiers: tuple[str, ...]
):
    with pytest.raises(GrammarLensError, match="expected some of logistic, svm"):
        probe_layers(reference, bank["train"], bank["test"], keys, classifiers=classifiers)
