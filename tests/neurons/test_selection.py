"""Key neurons are exactly the best ones by the rule, whatever the ties."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typed import present

from grammar_lens.corpus.origin import Origin
from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.neurons import KeyNeurons, Neurons, all_neurons
from grammar_lens.neurons.selection import select
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.selectivity.permutation_null import Null
from grammar_lens.selectivity.result import Scores

ORIGIN = Origin("a-model", "a-bank", "upos", "next", "neuron")
LABELS = ("NOUN", "VERB")


def scores_of(values: np.ndarray, labels: tuple[str, ...] = LABELS) -> Scores:
    """Scores with these values; a unit's mean is its number, so that it can be recognised."""
    shape = values.shape[1:]
    mean = np.arange(np.prod(shape), dtype=float).reshape(shape)
    units = UnitStatistics(mean, np.abs(mean), np.zeros(shape))
    count = np.full(len(labels), 10.0)
    return Scores("correlation", labels, count, values, values, None, units, ORIGIN)


def small_scores(seed: int = 0) -> Scores:
    return scores_of(np.random.default_rng(seed).normal(size=(2, 3, 5)))


def noise(rng: np.random.Generator, planted: float) -> Scores:
    """Correlations of two labels with noise, 2 layers of 100; 20 neurons of VERB are planted."""
    values = rng.normal(size=(2, 2, 100))
    values[1, 1, :20] += planted
    return scores_of(values)


def by_brute_force(values: np.ndarray, k: int, sign: str, per_layer: bool) -> list[tuple[int, int]]:
    """Every unit with its worth, sorted by worth and then by address."""
    worth = {"absolute": abs, "positive": lambda x: x, "negative": lambda x: -x}[sign]
    units = [
        (-worth(values[layer, index]), layer, index)
        for layer in range(values.shape[0])
        for index in range(values.shape[1])
        if worth(values[layer, index]) > 0
    ]
    if per_layer:
        kept = [sorted(u for u in units if u[1] == la)[:k] for la in range(values.shape[0])]
        units = [u for layer in kept for u in layer]
    else:
        units = sorted(units)[:k]
    return [(layer, index) for _, layer, index in sorted(units)]


class TestSelect:
    @given(
        st.integers(0, 10**6),
        st.sampled_from(["absolute", "positive", "negative"]),
        st.booleans(),
        st.data(),
    )
    @settings(max_examples=200, deadline=None)
    def test_the_best_by_brute_force(self, seed, sign, per_layer, data) -> None:
        """Scores from -3 to 3 in whole numbers: most are tied, and many are 0."""
        values = np.random.default_rng(seed).integers(-3, 4, (2, 3, 7)).astype(float)
        k = data.draw(st.integers(1, 7 if per_layer else 21))
        keys = select(scores_of(values), k, sign=sign, per_layer=per_layer)
        for i, label in enumerate(LABELS):
            chosen = keys[label]
            assert list(chosen) == by_brute_force(values[i], k, sign, per_layer)
            np.testing.assert_array_equal(chosen.score, values[i, chosen.layer, chosen.index])
            np.testing.assert_array_equal(chosen.mean, chosen.layer * 7 + chosen.index)

    def test_the_planted_neurons_are_found(self) -> None:
        keys = select(noise(np.random.default_rng(1), planted=8.0), k=20)
        assert set(keys["VERB"]) == {(1, index) for index in range(20)}

    @pytest.mark.parametrize("planted", [8.0, 0.0])
    def test_two_halves_agree_only_on_what_is_planted(self, planted: float) -> None:
        """A top k always names k neurons; that they are noise shows in held-out data.

        Criterion: the overlap of two halves of the data is within what the hypergeometric
        distribution gives 99.9 % of the time.
        """
        rng = np.random.default_rng(2)
        halves = [select(noise(rng, planted), k=20) for _ in range(2)]
        chance = stats.hypergeom(200, 20, 20).isf(0.001)
        for label in LABELS:
            shared = len(set(halves[0][label]) & set(halves[1][label]))
            found = planted > 0 and label == "VERB"
            assert (shared > chance) == found

    def test_a_unit_that_never_varies_is_never_chosen(self) -> None:
        values = np.zeros((2, 3, 5))
        values[0, 1, 4] = -0.5
        keys = select(scores_of(values), k=15)
        assert list(keys["NOUN"]) == [(1, 4)]
        assert len(keys["VERB"]) == 0
        assert keys.k == 1
        assert keys.to_frame().label.tolist() == ["NOUN"]
        assert "NOUN 1, VERB 0" in repr(keys)

    def test_a_rule_says_what_was_done(self) -> None:
        keys = select(small_scores(), 2, sign="negative", per_layer=True)
        assert keys.rule == "top 2 per layer, negative, no null"
        assert (keys.method, keys.n_units, keys.n_layers) == ("correlation", 5, 3)
        assert select(small_scores()).rule == "top 100, absolute, no null"
        assert keys.origin == ORIGIN
        assert "a-model by correlation (top 2 per layer, negative, no null) on a-bank" in repr(keys)

    @pytest.mark.parametrize("k", [0, -1, 16])
    def test_k_over_all_layers_is_bounded(self, k: int) -> None:
        message = f"k is {k}, expected 1 to 15: 3 layers of 5 units"
        with pytest.raises(GrammarLensError, match=message):
            select(small_scores(), k)

    @pytest.mark.parametrize("k", [0, 6])
    def test_k_per_layer_is_bounded(self, k: int) -> None:
        message = f"k is {k}, expected 1 to 5: each layer has 5 units"
        with pytest.raises(GrammarLensError, match=message):
            select(small_scores(), k, per_layer=True)

    def test_k_may_be_everything(self) -> None:
        assert len(select(small_scores(), 15)["NOUN"]) == 15
        assert len(select(small_scores(), 5, per_layer=True)["NOUN"]) == 15

    def test_unknown_sign(self) -> None:
        message = "sign is 'both', expected one of absolute, positive, negative"
        with pytest.raises(GrammarLensError, match=message):
            select(small_scores(), 3, sign="both")


def null_of(values: np.ndarray, n: int = 40, seed: int = 0, **changed: Any) -> Null:
    """A null of these scores with `n` replicates of normal noise of sd 0.1 around 0."""
    exchanged = np.random.default_rng(seed).normal(scale=0.1, size=(n, *values.shape))
    # a data set among n + 1 in standard deviations, and how many are at or above each step
    every = np.concatenate([values[None], exchanged])
    z = np.abs(np.asarray(stats.zscore(every, axis=0, ddof=1)))[1:]
    steps = (z * (10_000 * np.sqrt(n + 1) / n)).astype(int).clip(0, 9_999)
    fields = {
        "method": "correlation",
        "labels": LABELS,
        "count": np.full(2, 50.0),
        "observed": values,
        "mean": exchanged.mean(0),
        "sd": exchanged.std(0, ddof=1),
        "maximum": z.max((1, 2, 3)),
        "tail": np.stack(
            [
                np.bincount(steps[:, i].ravel(), minlength=10_000)[::-1].cumsum()[::-1]
                for i in range(len(values))
            ]
        ),
        "strength": np.zeros((n, 2, values.shape[1])),
        "shams": np.zeros((0, *values.shape), np.float32),
        "two_sided": True,
        "neutral": 0.0,
        "n_left_out_words": 0,
        "n_left_out_sentences": 0,
        "origin": ORIGIN,
    }
    return Null(**(fields | changed))  # type: ignore[arg-type]


def with_null(planted: float, seed: int = 0) -> Scores:
    """Noise like the null's, with units 1.0 to 1.3 of VERB planted, two of them negative."""
    values = np.random.default_rng(100 + seed).normal(scale=0.1, size=(2, 2, 30))
    values[1, 1, :4] += planted * np.array([1, 1, -1, -1.5])
    return replace(scores_of(values), null=null_of(values, seed=seed))


class TestRulesWithANull:
    """Error rates on data are in test_exchange; here is what the rules make of a null."""

    @pytest.mark.parametrize("rule", ["fdr", "permutation"])
    def test_exactly_the_planted_neurons(self, rule: str) -> None:
        keys = select(with_null(3.0), rule=rule)
        assert next(iter(keys["VERB"])) == (1, 3), "the strongest first"
        assert set(keys["VERB"]) == {(1, index) for index in range(4)}
        assert len(keys["NOUN"]) == 0

    @pytest.mark.parametrize("rule", ["fdr", "permutation"])
    def test_nothing_planted_nothing_found(self, rule: str) -> None:
        """Criterion: at 5 % a label, 34 of 400 is a chance of 2 in 1,000 (binomial)."""
        found = [select(with_null(0.0, seed), rule=rule) for seed in range(200)]
        assert sum(len(keys[label]) > 0 for keys in found for label in keys) < 34

    @pytest.mark.parametrize("rule", ["fdr", "permutation"])
    def test_they_are_ranked_signed_and_cut_as_by_top_k(self, rule: str) -> None:
        scores = with_null(3.0)
        assert set(select(scores, rule=rule, sign="positive")["VERB"]) == {(1, 0), (1, 1)}
        negative = select(scores, rule=rule, sign="negative")
        assert list(negative["VERB"]) == [(1, 3), (1, 2)]
        assert negative.rule == f"{rule} at 0.05, negative"
        cut = select(scores, 2, rule=rule, per_layer=True)
        assert len(cut["VERB"]) == 2
        assert cut.rule == f"{rule} at 0.05, top 2 per layer, absolute"
        assert select(scores, 2, rule=rule, alpha=0.1).rule == f"{rule} at 0.1, top 2, absolute"

    def test_q_values_come_with_the_neurons_under_any_rule(self) -> None:
        scores = with_null(3.0)
        assert scores.null is not None
        q = scores.null.q()
        for rule in ("top_k", "fdr", "permutation"):
            verbs = select(scores, 7, rule=rule, alpha=0.05)["VERB"]
            np.testing.assert_array_equal(verbs.q, q[1, verbs.layer, verbs.index])
            assert present(verbs.top(2).q).tolist() == present(verbs.q)[:2].tolist()
        assert (present(select(scores, rule="fdr")["VERB"].q) <= 0.05).all()
        assert select(scores, 7, alpha=1.0).to_frame().q.notna().all()
        assert select(replace(scores, null=None), 7)["VERB"].q is None

    def test_rank_alone_chooses_none_that_fails_its_null(self) -> None:
        scores = with_null(3.0)
        keys = select(scores, 7)
        assert set(keys["VERB"]) == {(1, index) for index in range(4)}
        assert len(keys["NOUN"]) == 0
        assert keys.rule == "top 7, absolute, q at most 0.05"
        lifted = select(scores, 7, alpha=1.0)
        assert [len(lifted[label]) for label in lifted] == [7, 7]
        assert lifted.rule == "top 7, absolute, any q"
        without = select(replace(scores, null=None), 7)
        assert list(without["NOUN"]) == list(lifted["NOUN"])
        assert without.rule == "top 7, absolute, no null"

    def test_labels_with_too_few_words_for_a_null_get_none(self) -> None:
        scores = with_null(3.0)
        null = null_of(scores.values, count=np.array([50.0, 9.0]))
        assert len(select(replace(scores, null=null), 7)["VERB"]) == 0

    def test_a_null_may_be_given_apart(self) -> None:
        scores = with_null(3.0)
        apart = select(replace(scores, null=None), rule="fdr", null=scores.null)
        assert list(apart["VERB"]) == list(select(scores, rule="fdr")["VERB"])

    def test_other_words_scores_rank_and_the_nulls_own_decide(self) -> None:
        """The null's statistic is on words with an exchange; the score is on all words."""
        scores = with_null(3.0)
        flipped = replace(scores, values=np.where(scores.values == 0, 0, 1 / scores.values))
        assert set(select(flipped, rule="permutation")["VERB"]) == {(1, i) for i in range(4)}

    def test_a_null_of_other_scores(self) -> None:
        scores = with_null(3.0)
        changed: dict[str, Any]
        for changed, told in (
            ({"method": "cohens_d"}, "the null is of 'cohens_d' for NOUN, VERB"),
            ({"labels": ("X", "VERB")}, "the null is of 'correlation' for X, VERB"),
        ):
            other = null_of(scores.values, **changed)
            message = f"{told} and the scores are 'correlation' for NOUN, VERB: use the null of"
            with pytest.raises(GrammarLensError, match=message):
                select(scores, null=other)

    @pytest.mark.parametrize("rule", ["fdr", "permutation"])
    def test_rules_without_a_null(self, rule: str) -> None:
        message = (
            f"the rule '{rule}' needs a null for 'correlation', and there is none: collect with "
            r"replicates \(replicates=100\), .* or choose by rank \(rule 'top_k'\)"
        )
        with pytest.raises(GrammarLensError, match=message):
            select(small_scores(), rule=rule)

    def test_alpha_is_a_share(self) -> None:
        for alpha in (0.0, 1.0, -0.1, 5.0):
            with pytest.raises(GrammarLensError, match=f"alpha is {alpha}"):
                select(with_null(3.0), rule="fdr", alpha=alpha)

    def test_too_few_replicates_for_alpha(self) -> None:
        message = "40 replicates cannot resolve a p of 0.01: at least 99 are needed"
        with pytest.raises(GrammarLensError, match=message):
            select(with_null(3.0), rule="permutation", alpha=0.01)

    def test_unknown_rules(self) -> None:
        message = "rule is 'best', expected one of top_k, fdr, permutation, frequency"
        with pytest.raises(GrammarLensError, match=message):
            select(small_scores(), rule="best")


class TestFrequency:
    def test_it_takes_those_that_are_most_often_among_the_largest(self) -> None:
        values = np.abs(small_scores().values)
        scores = replace(scores_of(values), method="frequency", best="high")
        keys = select(scores, 3, rule="frequency")
        assert list(keys["NOUN"]) == by_brute_force(values[0], 3, "positive", False)
        assert keys.rule == "top 3, largest"

    def test_it_needs_its_own_score(self) -> None:
        with pytest.raises(GrammarLensError, match="these scores are 'correlation'"):
            select(small_scores(), 3, rule="frequency")


class TestNeurons:
    def test_parts_keep_their_rank_score_and_mean(self) -> None:
        neurons = select(small_scores(), 15)["VERB"]
        assert list(neurons.top(3)) == list(neurons)[:3]
        assert len(neurons.top(99)) == 15
        layer = neurons.in_layer(1)
        assert list(layer) == [address for address in neurons if address[0] == 1]
        assert present(layer.mean).tolist() == [5 + index for _, index in layer]
        assert (np.diff(np.abs(layer.score)) <= 0).all()
        assert (layer.name, layer.site) == ("VERB", "neuron")

    def test_without_others(self) -> None:
        keys = select(small_scores(3), 9)
        nouns, verbs = keys["NOUN"], keys["VERB"]
        rest = nouns.without(verbs)
        assert list(rest) == [at for at in nouns if at not in set(verbs)]
        assert 0 < len(rest) < 9
        assert rest.mean is not None
        assert rest.mean.tolist() == [layer * 5 + index for layer, index in rest]
        assert len(nouns.without(nouns)) == 0
        assert list(nouns.without(verbs.top(0))) == list(nouns)
        # the same address in reverse is another neuron
        turned = replace(verbs, layer=verbs.index % 3, index=verbs.layer)
        assert list(nouns.without(turned)) == [at for at in nouns if at not in set(turned)]

    def test_means_may_be_unknown(self) -> None:
        one = np.array([1])
        assert Neurons("x", "neuron", one, one, np.array([0.5])).top(1).mean is None

    def test_it_shows_the_first_five(self) -> None:
        neurons = select(small_scores(), 6)["NOUN"]
        layer, index = next(iter(neurons))
        text = repr(neurons)
        start = f"Neurons NOUN: 6 at 'neuron': {layer}.{index} ({neurons.score[0]:+.3f}), "
        assert text.startswith(start)
        assert text.endswith(", ...")
        assert len(re.findall(r"\d\.\d \(", text)) == 5
        assert neurons.to_frame().columns.tolist() == ["layer", "index", "score"]


class TestKeyNeurons:
    def test_the_union_has_every_neuron_once_in_order(self) -> None:
        keys = select(small_scores(3), 6)
        expected = sorted({*keys["NOUN"], *keys["VERB"]})
        assert [tuple(row) for row in keys.union().tolist()] == expected
        assert len(expected) < 12, "the two sets share some, or this tests nothing"

    def test_units_key_to_more_than_half_of_the_labels_are_told(self) -> None:
        one, other = np.array([0, 1]), np.array([0, 2])
        sets = {
            label: Neurons(label, "neuron", layer, np.array([3, 4]), np.ones(2))
            for label, layer in (("A", one), ("B", one), ("C", other), ("D", other))
        }
        keys = KeyNeurons(sets, "correlation", "none", 5, 3, None, ORIGIN)
        assert keys.unspecific().tolist() == [[0, 3]], "1.4 and 2.4 are key to half of them"
        assert keys.n_labels()[1, 4] == 2

    def test_an_empty_choice_has_an_empty_union(self) -> None:
        keys = KeyNeurons({}, "correlation", "none", 5, 3, None, ORIGIN)
        assert keys.union().shape == (0, 2)
        assert keys.k == 0

    def test_all_neurons_of_some_layers(self) -> None:
        keys = select(small_scores(), 2)
        whole = all_neurons(keys)
        assert list(whole) == [(layer, index) for layer in range(3) for index in range(5)]
        assert whole.mean is not None
        assert whole.mean.tolist() == list(range(15))
        assert (whole.name, whole.site, whole.score.any()) == ("all", "neuron", False)
        some = all_neurons(keys, [2, 0, 2])
        assert list(some) == [(layer, index) for layer in (0, 2) for index in range(5)]
        assert some.name == "layers 0, 2"
        assert len(all_neurons(keys, [])) == 0
        assert all_neurons(replace(keys, units=None)).mean is None
        assert len(whole.without(keys["NOUN"])) == 13

    @pytest.mark.parametrize("layer", [3, -1])
    def test_layers_that_are_not_there(self, layer: int) -> None:
        message = f"layer {layer} does not exist: a-model has 3 layers"
        with pytest.raises(GrammarLensError, match=message):
            all_neurons(select(small_scores(), 2), [0, layer])

    def test_it_is_a_mapping(self) -> None:
        keys = select(small_scores(), 4)
        assert dict(keys) == keys.sets
        assert keys.labels == LABELS
        assert (len(keys), keys.k, keys.top(2).k) == (2, 4, 2)
        assert list(keys.top(2)["NOUN"]) == list(keys["NOUN"])[:2]
        assert keys.only(["VERB"]).labels == ("VERB",)

    def test_unknown_label(self) -> None:
        keys = select(small_scores(), 4)
        for get in (lambda: keys["X"], lambda: keys.only(["X"])):
            with pytest.raises(GrammarLensError, match=r"'X'.*NOUN, VERB"):
                get()

    def test_the_frame_is_the_table_of_a_run(self) -> None:
        keys = select(small_scores(), 4)
        frame = keys.to_frame()
        assert list(frame.columns) == ["label", "layer", "index", "score", "q", "rank"]
        assert frame["rank"].tolist() == [1, 2, 3, 4] * 2
        assert frame.q.isna().all()
        verbs = frame[frame.label == "VERB"]
        assert list(zip(verbs.layer, verbs["index"], strict=True)) == list(keys["VERB"])
        assert "VERB" in keys._repr_html_()


class TestMassiveActivations:
    """A unit whose activations dwarf its layer's is not chosen by attributions, whatever its score."""

    @staticmethod
    def scores(method: str) -> Scores:
        values = np.zeros((2, 2, 50))
        values[:, 1, 7], values[0, 0, 3], values[1, 1, 9] = 5.0, 1.0, 2.0
        mean_abs = np.ones((2, 50))
        mean_abs[1, 7], mean_abs[1, 9] = 101.0, 99.0
        units = UnitStatistics(np.zeros((2, 50)), mean_abs, np.zeros((2, 50)))
        count = np.array([9.0, 9.0])
        return Scores(method, ("A", "B"), count, values, values, None, units, ORIGIN, "high")

    def test_attributions_leave_it_out_and_say_so(self) -> None:
        keys = select(self.scores("attribution_contrast"), k=3)
        assert [list(keys[x]) for x in "AB"] == [[(0, 3)], [(1, 9)]]
        assert keys.rule == "top 3, largest, no null, 1 massive left out"

    def test_unless_it_is_asked_for(self) -> None:
        keys = select(self.scores("attribution_contrast"), k=3, massive=None)
        assert [list(keys[x]) for x in "AB"] == [[(1, 7), (0, 3)], [(1, 7), (1, 9)]]
        assert list(select(self.scores("attribution"), k=3, massive=98.0)["B"]) == []

    def test_other_scores_take_it(self) -> None:
        assert list(select(self.scores("correlation"), k=1)["A"]) == [(1, 7)]
