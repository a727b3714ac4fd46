"""Probes find what is planted, nothing where nothing is, and every baseline is the one it says."""

from collections import Counter
from dataclasses import MISSING, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from typed import present

from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.neurons import random_neurons
from grammar_lens.probing.baselines import (
    bootstrap_interval,
    control_labels,
    majority_accuracy,
    word_baseline_accuracy,
)
from grammar_lens.probing.evaluation import ProbeResult, evaluate
from grammar_lens.probing.fitting import accuracy, predict
from grammar_lens.probing.probe_words import Columns, ProbeWords

ORIGIN = Origin("a-model", "a-bank", "upos", "word", "neuron")
LABELS = ("NOUN", "VERB", "ADJ")
SHARE = [0.6, 0.25, 0.15]
KEY, RANDOM, LAYER = np.arange(6), (np.arange(6, 12), np.arange(8, 14)), np.arange(20)
COLUMNS = Columns(KEY, RANDOM, LAYER, layer_number=2)


def words(seed: int, n: int, *, planted: float, n_types: int = 400) -> ProbeWords:
    """Words of 20 units; the first six are raised by `planted` sd, two at each label."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, n, p=SHARE)
    features = rng.normal(size=(n, 20)).astype(np.float32) * 3 + 50
    for label in range(3):
        features[np.ix_(classes == label, [2 * label, 2 * label + 1])] += planted * 3
    return ProbeWords(features, classes, tuple(f"w{i}" for i in rng.integers(0, n_types, n)))


def result(train: ProbeWords, fresh: ProbeWords, columns: Columns = COLUMNS) -> ProbeResult:
    return evaluate(
        train,
        fresh,
        columns,
        LABELS,
        k=2,
        rng=np.random.default_rng(0),
        dropped_duplicates=3,
        fresh_name="a-bank:test",
        origin=ORIGIN,
    )


@pytest.fixture(scope="module")
def planted() -> tuple[ProbeWords, ProbeWords, ProbeResult]:
    train, fresh = words(1, 2000, planted=4.0), words(2, 1000, planted=4.0)
    return train, fresh, result(train, fresh)


@pytest.fixture(scope="module")
def noise() -> tuple[ProbeWords, ProbeWords, ProbeResult]:
    train, fresh = words(3, 2000, planted=0.0), words(4, 1000, planted=0.0)
    return train, fresh, result(train, fresh)


def error(level: float, n: int) -> float:
    """Four binomial standard errors of an accuracy."""
    return 4 * np.sqrt(level * (1 - level) / n)


class TestPlanted:
    def test_what_is_planted_is_read(self, planted) -> None:
        """Two units at each label, 4 sd: an ideal classifier errs in about 0.3 % of the words."""
        got = planted[2]
        assert got.accuracy > 0.98
        assert got.layer_accuracy > 0.97, "the layer holds the key neurons too"
        assert got.macro_f1 > 0.97

    def test_its_controls_stay_at_their_level(self, planted) -> None:
        got = planted[2]
        for level in got.random_accuracies:
            assert abs(level - got.majority_accuracy) < error(0.6, 1000)
        assert got.selectivity > 0.3
        assert got.selectivity == got.accuracy - got.control_accuracy

    def test_nothing_planted_nothing_is_read(self, noise) -> None:
        """Criterion: no accuracy leaves the majority's level by 4 binomial standard errors."""
        got = noise[2]
        for level in (got.accuracy, got.layer_accuracy, *got.random_accuracies):
            assert abs(level - got.majority_accuracy) < error(0.6, 1000)
        assert abs(got.selectivity) < 0.1

    def test_units_that_name_the_word_are_not_selective(self) -> None:
        """A probe that can look words up learns random labels as well: selectivity is near 0."""
        rng = np.random.default_rng(5)
        label_of = rng.choice(3, 20, p=SHARE)

        def by_name(n: int) -> ProbeWords:
            types = rng.integers(0, 20, n)
            features = np.eye(20)[types] + rng.normal(size=(n, 20)) * 0.05
            return ProbeWords(features, label_of[types], tuple(f"w{t}" for t in types))

        columns = Columns(np.arange(20), (np.arange(20),), np.arange(4), 0)
        got = result(by_name(800), by_name(400), columns)
        assert got.accuracy > 0.99
        assert got.control_accuracy > 0.99
        assert got.word_baseline_accuracy == 1


class TestFields:
    def test_they_are_of_one_piece(self, planted) -> None:
        train, fresh, got = planted
        predicted = predict(train.features[:, KEY], train.classes, fresh.features[:, KEY])
        np.testing.assert_array_equal(got.confusion, confusion_matrix(fresh.classes, predicted))
        np.testing.assert_array_equal(got.confusion.sum(1), got.per_label.n_words)
        np.testing.assert_array_equal(got.confusion.sum(1), np.bincount(fresh.classes))
        assert got.accuracy == pytest.approx(np.trace(got.confusion) / got.confusion.sum())
        assert got.accuracy == pytest.approx(accuracy_score(fresh.classes, predicted))
        recall = np.diag(got.confusion) / got.confusion.sum(1)
        precision = np.diag(got.confusion) / got.confusion.sum(0)
        np.testing.assert_allclose(got.per_label.recall, recall)
        np.testing.assert_allclose(got.per_label.precision, precision)
        assert got.macro_f1 == pytest.approx(f1_score(fresh.classes, predicted, average="macro"))
        assert got.random_accuracy == pytest.approx(np.mean(got.random_accuracies))
        assert (got.n_train_words, got.n_fresh_words) == (2000, 1000)
        assert (got.n_neurons, got.k, got.layer, got.dropped_duplicates) == (6, 2, 2, 3)
        assert (got.labels, got.position, got.fresh) == (LABELS, "word", "a-bank:test")
        assert got.to_frame().index.tolist() == list(LABELS)

    def test_each_accuracy_is_of_its_columns(self, planted) -> None:
        train, fresh, got = planted

        def of(columns: np.ndarray) -> float:
            parts = train.features[:, columns], train.classes, fresh.features[:, columns]
            return accuracy(*parts, fresh.classes)

        assert got.accuracy == of(KEY)
        assert got.random_accuracies == (of(RANDOM[0]), of(RANDOM[1]))
        assert got.layer_accuracy == of(LAYER)

    def test_unseen_words_are_counted_and_judged_apart(self, planted) -> None:
        train, fresh, _ = planted
        keys = tuple(f"new{i}" if i < 50 else key for i, key in enumerate(fresh.key))
        known = set(train.key)
        unseen = np.array([key not in known for key in keys])
        got = result(train, ProbeWords(fresh.features, fresh.classes, keys))
        predicted = predict(train.features[:, KEY], train.classes, fresh.features[:, KEY])
        assert got.n_unseen_words == unseen.sum() >= 50
        assert got.unseen_accuracy == (predicted == fresh.classes)[unseen].mean()

    def test_without_unseen_words_there_is_no_accuracy_on_them(self, planted) -> None:
        train, fresh, _ = planted
        got = result(train, ProbeWords(fresh.features, fresh.classes, ("w0",) * 1000))
        assert got.n_unseen_words == 0
        assert got.unseen_accuracy is None

    def test_a_label_without_fresh_words_is_not_averaged(self, planted) -> None:
        train, fresh, _ = planted
        kept = fresh.classes < 2
        key = tuple(np.array(fresh.key)[kept])
        got = result(train, ProbeWords(fresh.features[kept], fresh.classes[kept], key))
        assert got.per_label.n_words["ADJ"] == 0
        assert got.macro_f1 == pytest.approx(got.per_label.f1[["NOUN", "VERB"]].mean())
        assert got.confusion.shape == (3, 3)

    def test_ambiguous_words_are_judged_apart(self, planted) -> None:
        """Forms that training words have under two labels, each twice: `run` is, `dog` is not."""
        train, fresh, _ = planted
        rest = [f"a{i}" for i in range(1990)]
        new = ["run"] * 300 + ["dog"] * 300 + ["unheard"] * 400
        classes = np.concatenate([[0, 0, 1, 1, 1, 0, 0, 0, 0, 1], train.classes[10:]])
        key = tuple(["run"] * 5 + ["dog"] * 5 + rest)
        got = result(
            ProbeWords(train.features, classes, key),
            ProbeWords(fresh.features, fresh.classes, tuple(new)),
        )
        predicted = predict(train.features[:, KEY], classes, fresh.features[:, KEY])
        assert got.n_ambiguous_words == 300
        assert got.ambiguous_accuracy == (predicted == fresh.classes)[:300].mean()
        assert got.ambiguous_word_baseline_accuracy == (fresh.classes[:300] == 1).mean()

    def test_without_ambiguous_words_there_is_no_accuracy_on_them(self, planted) -> None:
        train, fresh, _ = planted
        got = result(train, ProbeWords(fresh.features, fresh.classes, ("unheard",) * 1000))
        assert got.n_ambiguous_words == 0
        assert got.ambiguous_accuracy is None
        assert got.ambiguous_word_baseline_accuracy is None

    def test_without_random_neurons_there_is_no_accuracy_of_them(self, planted) -> None:
        got = result(planted[0], planted[1], Columns(KEY, (), LAYER, 2))
        assert got.random_accuracy is None
        assert got.random_accuracies == ()
        assert "random neurons none" in repr(got)

    def test_a_result_of_before_lacks_what_is_new(self, planted) -> None:
        new = (f.name for f in fields(ProbeResult) if f.default is not MISSING)
        old = replace(planted[2], **dict.fromkeys(new))
        assert old.accuracy_interval is None
        assert old.compression is None
        assert repr(old) == repr(planted[2])

    def test_information_is_told_where_the_models_losses_are(self, planted) -> None:
        train, fresh, known = planted
        assert known.information_gained is None
        assert known.model_cross_entropy is None
        # the labels were drawn of the classes' densities: no probe predicts them better
        features = (fresh.features - 50) / 3
        raised = np.stack([features[:, [2 * i, 2 * i + 1]].sum(1) * 4 - 16 for i in range(3)], 1)
        log_joint = raised + np.log(SHARE)
        best = -(log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True))
        losses = best[np.arange(len(best)), fresh.classes]
        told = evaluate(
            train,
            fresh,
            COLUMNS,
            LABELS,
            k=2,
            rng=np.random.default_rng(0),
            dropped_duplicates=0,
            fresh_name="a-bank:test",
            origin=ORIGIN,
            model_losses=losses,
        )
        assert told.model_cross_entropy == pytest.approx(losses.mean())
        assert present(told.information_gained) == pytest.approx(1, abs=0.03)
        assert present(told.word_cross_entropy) == pytest.approx(stats.entropy(SHARE), abs=0.05)
        worse = replace(told, model_cross_entropy=told.word_cross_entropy)
        assert worse.information_gained is None

    def test_without_a_cause_nothing_is_gained(self, noise) -> None:
        *_, found = noise
        gained = replace(found, model_cross_entropy=0.0).information_gained
        assert present(gained) == pytest.approx(0, abs=0.02)

    def test_the_best_layer_is_the_one_that_held_out_words_choose(self, planted) -> None:
        """Layer 7 holds the key neurons, the others noise; held-out words have no say."""
        train, fresh, _ = planted
        layers = {4: np.arange(6, 12), 7: np.arange(6), 9: np.arange(12, 20)}
        shuffled = ProbeWords(fresh.features[::-1].copy(), fresh.classes, fresh.key)
        for new in (fresh, shuffled):
            got = result(train, new, Columns(KEY, RANDOM, np.arange(3), 1, layers))
            assert got.layer == 7
            assert got.layer_accuracy == got.accuracy

    def test_it_tells_what_it_found_beside_every_baseline(self, planted) -> None:
        got = planted[2]
        for name in ("accuracy", "random_accuracy", "majority_accuracy", "control_accuracy"):
            assert f"{getattr(got, name):.3f}" in repr(got)
        assert "on a-bank:test, position 'word', 6 neurons" in repr(got)
        assert "precision" in got._repr_html_()


class TestInterval:
    def test_it_covers_the_accuracy_of_all_words(self) -> None:
        """Words drawn apart: of 200 samples of 300, 95 % within four errors hold the true 0.8."""
        rng = np.random.default_rng(1)
        hits = 0
        for _ in range(200):
            right = rng.random(300) < 0.8
            low, high = bootstrap_interval(right, np.arange(300), rng, n_draws=200)
            hits += low <= 0.8 <= high
        assert abs(hits - 190) < 4 * np.sqrt(200 * 0.05 * 0.95)

    def test_whole_sentences_widen_it(self) -> None:
        """Ten words of a sentence that are right or wrong together count as one: sqrt(10) wider."""
        rng = np.random.default_rng(2)
        sentence = np.repeat(np.arange(200), 10)
        right = (rng.random(200) < 0.5)[sentence]
        apart, together = (
            np.ptp(bootstrap_interval(right, groups, rng)) for groups in (np.arange(2000), sentence)
        )
        assert together / apart == pytest.approx(np.sqrt(10), rel=0.15)
        # second opinion: the normal interval of 200 sentences
        assert together == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 200), rel=0.15)

    def test_a_long_sentence_counts_by_its_words(self) -> None:
        """If all words are right, so are those of any sentences drawn, however long."""
        sentence = np.repeat([0, 1, 2], [1, 5, 94])
        right = np.ones(100, bool)
        assert bootstrap_interval(right, sentence, np.random.default_rng(0)) == (1, 1)

    def test_sentences_reach_the_result(self, noise) -> None:
        """Sentences that are right or wrong as a whole: of 20 words, about sqrt(20) wider."""
        train, fresh, got = noise
        predicted = predict(train.features[:, KEY], train.classes, fresh.features[:, KEY])
        sentence = np.zeros(1000, np.int64)
        sentence[np.argsort(predicted == fresh.classes)] = np.arange(1000) // 20
        together = result(train, replace(fresh, sentence=sentence))
        low, high = present(got.accuracy_interval)
        assert low < got.accuracy < high
        assert together.accuracy == got.accuracy
        assert np.ptp(present(together.accuracy_interval)) > 3 * (high - low)


class TestBaselines:
    def test_the_majority_is_the_training_words_majority(self) -> None:
        assert majority_accuracy(np.array([0, 1, 1]), np.array([0, 0, 0, 1])) == 0.25

    def test_the_word_alone_by_hand(self) -> None:
        """run: mostly VERB; dog: NOUN; cat was never seen, so the majority, NOUN, is the answer."""
        train = ProbeWords(
            np.zeros((6, 1)),
            np.array([0, 1, 1, 0, 0, 0]),
            ("run", "run", "run", "dog", "dog", "dog"),
        )
        fresh = ProbeWords(
            np.zeros((5, 1)), np.array([1, 1, 0, 1, 0]), ("run", "run", "dog", "cat", "cat")
        )
        # all but the fourth, cat as a VERB
        assert word_baseline_accuracy(train, fresh) == 4 / 5

    @given(st.integers(0, 10**6))
    @settings(max_examples=30, deadline=None)
    def test_control_labels_are_constant_for_every_word_type(self, seed) -> None:
        """Also for types of the held-out words alone, and between training and held-out words."""
        train, fresh = words(seed, 60, planted=0, n_types=30), words(seed + 1, 40, planted=0)
        parts = control_labels(train, fresh, 3, np.random.default_rng(seed))
        drawn: dict[str, set[int]] = {}
        for labels, some in zip(parts, (train, fresh), strict=True):
            assert len(labels) == len(some.key)
            for key, label in zip(some.key, labels.tolist(), strict=True):
                drawn.setdefault(key, set()).add(label)
        assert all(len(labels) == 1 for labels in drawn.values())
        again = control_labels(train, fresh, 3, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(again))

    def test_control_labels_are_as_frequent_as_the_labels(self) -> None:
        n = 6000
        some = ProbeWords(
            np.zeros((n, 1)),
            np.repeat([0, 1, 2], [3600, 1500, 900]),
            tuple(f"w{i}" for i in range(n)),
        )
        labels, _ = control_labels(some, some, 3, np.random.default_rng(1))
        p = stats.chisquare(np.bincount(labels), np.array(SHARE) * n).pvalue
        assert p > 0.01
        # and they do not follow the true labels
        table = np.bincount(3 * some.classes + labels, minlength=9).reshape(3, 3)
        test: Any = stats.chi2_contingency(table)
        assert test.pvalue > 0.01

    def test_a_control_task_of_one_label_is_answered_with_it(self, planted) -> None:
        """Few word types may all draw the same label, on which nothing can be fitted."""
        train, fresh, _ = planted
        one = [ProbeWords(w.features, w.classes, ("the",) * len(w.key)) for w in (train, fresh)]
        assert result(one[0], one[1]).control_accuracy == 1


class TestRandomNeurons:
    @given(
        st.sets(st.tuples(st.integers(0, 3), st.integers(0, 11)), min_size=1),
        st.integers(0, 1000),
    )
    @settings(max_examples=100, deadline=None)
    def test_as_many_per_layer_and_others_where_they_suffice(self, chosen, seed) -> None:
        addresses = np.array(sorted(chosen), np.int64)
        drawn = random_neurons(addresses, 12, np.random.default_rng(seed))
        rows = [tuple(row) for row in drawn.tolist()]
        assert len(set(rows)) == len(rows)
        assert all(0 <= index < 12 for _, index in rows)
        per_layer = Counter(layer for layer, _ in chosen)
        assert Counter(layer for layer, _ in rows) == per_layer
        for layer, index in rows:
            if per_layer[layer] <= 6:
                assert (layer, index) not in chosen

    def test_every_other_neuron_has_its_chance(self) -> None:
        rng = np.random.default_rng(2)
        chosen = np.array([[1, 0], [1, 5]])
        drawn = Counter(
            index for _ in range(500) for _, index in random_neurons(chosen, 8, rng).tolist()
        )
        assert set(drawn) == {1, 2, 3, 4, 6, 7}
        assert stats.chisquare(list(drawn.values())).pvalue > 0.01

    def test_nothing_chosen_nothing_drawn(self) -> None:
        nothing = np.zeros((0, 2), np.int64)
        assert random_neurons(nothing, 8, np.random.default_rng(0)).shape == (0, 2)


class TestErrors:
    def test_other_units(self, planted) -> None:
        train, fresh, _ = planted
        fewer = replace(fresh, features=fresh.features[:, :19])
        with pytest.raises(GrammarLensError, match="have 20 units and held-out words 19"):
            result(train, fewer)

    @pytest.mark.parametrize(("empty", "name"), [(0, "training"), (1, "fresh")])
    def test_no_words(self, planted, empty: int, name: str) -> None:
        parts = list(planted[:2])
        parts[empty] = ProbeWords(np.zeros((0, 20)), np.zeros(0, np.int64), ())
        with pytest.raises(GrammarLensError, match=f"no {name} word could be read"):
            result(parts[0], parts[1])

    def test_one_label(self, planted) -> None:
        train, fresh, _ = planted
        same = ProbeWords(train.features, np.zeros_like(train.classes), train.key)
        with pytest.raises(GrammarLensError, match="all training words have one label"):
            result(same, fresh)

    def test_no_key_neurons(self, planted) -> None:
        train, fresh, _ = planted
        nothing = np.zeros(0, np.int64)
        columns = Columns(nothing, (nothing,), LAYER, 0)
        with pytest.raises(GrammarLensError, match="there are no key neurons to probe"):
            result(train, fresh, columns)
