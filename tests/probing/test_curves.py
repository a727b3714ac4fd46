"""Accuracy along k and over layers, code length, and taking turns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from grammar_lens.errors import GrammarLensError
from grammar_lens.probing import code_length
from grammar_lens.probing.code_length import online_code_length, uniform_code_length
from grammar_lens.probing.curves import curve, fewest_enough, per_layer, round_robin
from grammar_lens.probing.fitting import fit, predict, standardise
from grammar_lens.probing.probe_words import ProbeWords

KS = (1, 2, 4)
PLANTED = [np.arange(k) for k in KS]
NOISE = [np.arange(10, 10 + k) for k in KS]
COLUMNS = [
    *("score", "k", "n_neurons", "accuracy", "control_accuracy", "random_accuracy"),
    *("unseen_accuracy", "ambiguous_accuracy", "macro_f1"),
]


def words(seed: int, n: int, planted: float = 1.5) -> ProbeWords:
    """Four labels; unit i < 4 is raised at label i, sixteen units are noise."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    features = rng.normal(size=(n, 20))
    features[np.arange(n), classes] += planted * 2
    return ProbeWords(features, classes, tuple(f"w{i}" for i in rng.integers(0, 300, n)))


Both = tuple[ProbeWords, ProbeWords]


@pytest.fixture(scope="module")
def both() -> Both:
    return words(1, 2000), words(2, 1000)


class TestCurve:
    def test_planted_neurons_raise_it_and_others_do_not(self, both: Both) -> None:
        draws = [NOISE, [columns + 4 for columns in NOISE]]
        rng = np.random.default_rng(0)
        got = curve(both[0], both[1], {"good": PLANTED, "bad": NOISE}, KS, rng=rng, random=draws)
        frame = got.to_frame()
        assert list(frame) == COLUMNS
        good = frame[frame.score == "good"].accuracy.to_numpy()
        assert (np.diff(good) > 0.05).all()
        assert good[-1] > 0.85
        error = 4 * np.sqrt(0.24 / 1000)
        noise = frame[frame.score != "good"]
        assert (np.abs(noise.accuracy - got.majority_accuracy) < error).all()
        assert (np.abs(frame.control_accuracy - 0.4) < 0.15).all()
        assert "ProbeCurve of good, bad, random at k = 1, 2, 4 on 1,000 held-out words" in repr(got)

    def test_every_number_is_of_its_columns(self, both: Both) -> None:
        train, fresh = both
        rng = np.random.default_rng(0)
        got = curve(train, fresh, {"good": PLANTED}, KS, rng=rng, random=[NOISE, PLANTED])
        points = {(p.score, p.k): p for p in got.points}
        known = set(train.key)
        unseen = np.array([key not in known for key in fresh.key])
        for k, columns, noise in zip(KS, PLANTED, NOISE, strict=True):
            right, f1 = {}, 0.0
            for name, which in (("good", columns), ("noise", noise)):
                predicted = predict(
                    train.features[:, which], train.classes, fresh.features[:, which]
                )
                right[name] = predicted == fresh.classes
                if name == "good":
                    f1 = f1_score(fresh.classes, predicted, average="macro")
            point, random = points["good", k], points["random", k]
            assert point.n_neurons == k
            assert point.accuracy == right["good"].mean()
            assert point.macro_f1 == pytest.approx(f1)
            expected = (right["good"].mean() + right["noise"].mean()) / 2
            assert point.random_accuracy == random.accuracy == pytest.approx(expected)
            assert point.unseen_accuracy == (right["good"][unseen].mean() if unseen.any() else None)

    def test_what_is_not_there_is_missing(self, both: Both) -> None:
        """No draws, no unseen form, no ambiguous form."""
        train, fresh = (ProbeWords(w.features, w.classes, ("the",) * len(w.key)) for w in both)
        train = ProbeWords(train.features, np.append([1], np.zeros(1999, int)), train.key)
        got = curve(train, fresh, {"good": PLANTED}, KS, rng=np.random.default_rng(0))
        frame = got.to_frame()
        missing = ["random_accuracy", "unseen_accuracy", "ambiguous_accuracy"]
        assert frame[missing].isna().to_numpy().all()
        assert frame.drop(columns=missing).notna().to_numpy().all()
        assert got.points[0].random_accuracy is None

    def test_nothing_ranked_nothing_drawn(self, both: Both) -> None:
        got = curve(both[0], both[1], {}, KS, rng=np.random.default_rng(0))
        assert got.points == ()
        assert list(got.to_frame()) == COLUMNS

    @pytest.mark.parametrize(
        ("rankings", "random", "message"),
        [
            ({"a": PLANTED[:2]}, [], "ranking 'a' has 2 sets of columns for 3 values of k: give"),
            ({}, [PLANTED[:1]], "ranking 'random' has 1 sets of columns for 3 values of k"),
            (
                {"a": [np.zeros(3, int)] * 3},
                [],
                "ranking 'a' at k = 1 repeats 2 columns: give each",
            ),
            ({"random": PLANTED}, [PLANTED], "a ranking is called 'random', which names the draws"),
        ],
    )
    def test_rankings_that_do_not_fit_are_refused(
        self, both: Both, rankings, random, message
    ) -> None:
        with pytest.raises(GrammarLensError, match=message):
            curve(both[0], both[1], rankings, KS, rng=np.random.default_rng(0), random=random)

    def test_words_that_cannot_be_probed_are_refused(self, both: Both) -> None:
        train, fresh = both
        one = ProbeWords(train.features, train.classes * 0, train.key)
        with pytest.raises(GrammarLensError, match="all training words have one label"):
            curve(one, fresh, {}, KS, rng=np.random.default_rng(0))


class TestPerLayer:
    def test_the_layer_with_what_is_planted_stands_out(self, both: Both) -> None:
        train, fresh = both
        layers = {2: np.arange(10, 14), 5: np.arange(4), 6: np.zeros(0, int)}
        frame = per_layer(train, fresh, layers, rng=np.random.default_rng(0)).set_index("layer")
        assert frame.n_neurons.tolist() == [4, 4, 0]
        expected = predict(train.features[:, :4], train.classes, fresh.features[:, :4])
        assert frame.accuracy[5] == (expected == fresh.classes).mean() > 0.85
        assert abs(frame.accuracy[2] - frame.majority_accuracy[2]) < 4 * np.sqrt(0.24 / 1000)
        assert frame.accuracy[6] == frame.majority_accuracy[6]
        assert (frame.control_accuracy < 0.55).all()


class TestFewestEnough:
    def test_the_smallest_that_gains_enough(self) -> None:
        sizes, reached = [1, 5, 20, 100], [0.4, 0.77, 0.80, 0.79]
        assert fewest_enough(sizes, reached, 0.4, 0.95) == 20
        assert fewest_enough(sizes, reached, 0.4, 0.9) == 5
        assert fewest_enough(sizes, reached, 0.4, 0.0) == 1
        assert fewest_enough(sizes[::-1], reached[::-1], 0.4, 0.9) == 5, "in any order"

    def test_nothing_gained(self) -> None:
        assert fewest_enough([1, 5], [0.3, 0.35], 0.4) == 5

    @pytest.mark.parametrize(("sizes", "reached"), [([], []), ([1, 2], [0.5])])
    def test_other_numbers_of_sizes_and_accuracies(
        self, sizes: list[int], reached: list[float]
    ) -> None:
        with pytest.raises(GrammarLensError, match="expected one accuracy for each size"):
            fewest_enough(sizes, reached, 0.4)


class TestRoundRobin:
    def test_by_hand(self) -> None:
        """A gives 7, B has 7 already taken and gives 1, A 8, B 9; then only A has any left."""
        sets = [np.array([7, 8, 1, 3, 4]), np.array([7, 1, 9])]
        assert round_robin(sets, 5).tolist() == [7, 1, 8, 9, 3]
        assert round_robin(sets, 99).tolist() == [7, 1, 8, 9, 3, 4]
        assert round_robin(sets, 0).tolist() == []
        assert round_robin([], 3).tolist() == []

    @given(
        st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), max_size=5),
        st.integers(0, 40),
    )
    @settings(max_examples=100, deadline=None)
    def test_they_are_distinct_nested_and_as_many_as_there_are(self, sets, n) -> None:
        ranked = [np.array(s, np.int64) for s in sets]
        got = round_robin(ranked, n).tolist()
        assert len(set(got)) == len(got) == min(n, len(set().union(*sets)))
        assert round_robin(ranked, n + 3).tolist()[: len(got)] == got
        # no set is passed over: what a set ranks before one of its chosen is chosen as well
        if n < len(set().union(*sets)):
            turns = [sum(x in got for x in s) for s in sets if not set(s) <= set(got)]
            assert not turns or min(turns) >= n // len(sets) - 1


class TestCodeLength:
    def test_it_is_the_sum_over_portions(self, monkeypatch) -> None:
        """By hand with two portions: the first uniform, the second by the probe fitted on the first."""
        monkeypatch.setattr(code_length, "PORTIONS", (0.25, 1.0))
        train = words(1, 200)
        features = standardise(train.features, train.features).train
        order = np.random.default_rng(3).permutation(200)
        rng = np.random.default_rng(3)
        got = online_code_length(features, train.classes, np.arange(200), 4, rng)
        place = np.argsort(order)
        first, second = place[:50], place[50:]
        p = np.exp(fit(features[first], train.classes[first]).log_probability(features[second]))
        mixed = (50 * p[train.classes[second], np.arange(150)] + 1) / 54
        assert got == pytest.approx(100 - np.log2(mixed).sum())

    def test_what_is_planted_compresses_and_noise_does_not(self) -> None:
        """Noise costs at least the entropy of the labels, 1.85 bits, and little more than 2."""
        costs = {}
        for planted in (0.0, 1.5):
            train = words(5, 3000, planted)
            features = standardise(train.features, train.features).train
            bits = online_code_length(
                features, train.classes, np.arange(3000), 4, np.random.default_rng(0)
            )
            costs[planted] = bits / 3000
        assert costs[1.5] < 0.8
        assert 1.8 < costs[0.0] < 2.1
        assert uniform_code_length(3000, 4) == 6000

    def test_a_label_not_seen_yet_has_a_finite_cost(self) -> None:
        classes = np.repeat([0, 1, 2], [90, 5, 5])
        features = np.random.default_rng(0).normal(size=(100, 3))
        bits = online_code_length(features, classes, np.arange(100), 3, np.random.default_rng(0))
        assert 0 < bits < 200

    def test_portions_end_where_sentences_end(self) -> None:
        sentence = np.repeat([4, 2, 9, 1], [1, 5, 3, 1])
        assert code_length.portion_ends(sentence).tolist() == [1, 6, 10]
        ends = code_length.portion_ends(np.arange(10_000))
        assert ends.tolist() == [10, 20, 40, 80, 160, 320, 625, 1250, 2500, 5000, 10_000]

    def test_sentences_come_whole_and_in_random_order(self, monkeypatch) -> None:
        """Sentences of one label each: the first portion is one, so the next can know one label."""
        known = []
        real = fit

        def watched(features, classes, **options):
            known.append(classes)
            return real(features, classes, **options)

        monkeypatch.setattr(code_length, "fit", watched)
        sentence, rng = np.repeat(np.arange(20), 10), np.random.default_rng(1)
        firsts = set()
        for _ in range(20):
            known.clear()
            online_code_length(rng.normal(size=(200, 2)), sentence % 4, sentence, 4, rng)
            first = min(known, key=len)  # the longest fits are begun first
            assert len(first) == 10
            assert len(set(first.tolist())) == 1
            firsts.add(int(first[0]))
        assert len(firsts) > 1
