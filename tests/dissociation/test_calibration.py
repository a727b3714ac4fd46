"""Attributions against true lesions of single neurons, and lesions repeated."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

import grammar_lens as gl
from grammar_lens.corpus.bank import Treebank
from grammar_lens.dissociation.calibration import (
    Calibration,
    MethodCalibration,
    calibration,
    method_calibration,
    t_interval,
)
from grammar_lens.dissociation.checks import own_rises
from grammar_lens.dissociation.redundancy import Round, redundancy
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import Condition
from grammar_lens.lesions.prepared import ready
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import all_neurons
from grammar_lens.selectivity.evidence import Attribution

LABELS = ("NOUN", "VERB", "ADJ")


def calibrated(
    predicted: np.ndarray, measured: np.ndarray, random: np.ndarray, k: int = 5
) -> Calibration:
    labels = LABELS[: len(predicted)]
    rng = np.random.default_rng(0)
    return calibration(labels, predicted, measured, random, k=k, rng=rng, n_bootstrap=500)


def lesions(strength: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """100 neurons, 60 of them drawn at random: true effects are attributions and noise."""
    rng = np.random.default_rng(seed)
    predicted = rng.normal(size=(3, 100))
    measured = strength * predicted + rng.normal(size=(3, 100))
    return predicted, measured, np.arange(100) < 60


class TestCalibration:
    def test_it_agrees_with_scipy(self) -> None:
        predicted, measured, random = lesions(1.0)
        predicted = np.round(predicted, 1)  # with ties
        got = calibrated(predicted, measured, random)
        for i in range(3):
            some = stats.spearmanr(predicted[i, :60], measured[i, :60])[0]
            every = stats.spearmanr(predicted[i], measured[i])[0]
            assert got.correlation[i] == pytest.approx(some, rel=1e-9)
            assert got.correlation_all[i] == pytest.approx(every, rel=1e-9)
            line: Any = stats.linregress(predicted[i, :60], measured[i, :60])
            assert got.slope[i] == pytest.approx(line.slope, rel=1e-9)
            line = stats.linregress(predicted[i], measured[i])
            assert got.slope_all[i] == pytest.approx(line.slope, rel=1e-9)
        assert (got.n_random, got.n_all, got.k) == (60, 100, 5)

    def test_recall_by_hand(self) -> None:
        """Truly largest of the random draw: 3, 1, 0; by attribution 3, 2, 1. Of all: 5, 4, 3 both."""
        measured = np.array([[2.0, 4, 1, 6, 10, 12]])
        predicted = np.array([[-1.0, 2, 3, 4, 8, 9]])
        random = np.array([True, True, True, True, False, False])
        got = calibrated(predicted, measured, random, k=3)
        assert got.recall.tolist() == [2 / 3]
        assert got.recall_all.tolist() == [1.0]
        assert got.sign.tolist() == [1.0]
        assert got.chance == 3 / 4
        falls = calibrated(predicted, -measured, random, k=3)
        assert falls.sign.tolist() == [0.0]
        assert falls.recall_all.tolist() == [0.0]

    def test_the_interval_is_fishers(self) -> None:
        """Of normal variables: the bootstrap interval is near the textbook one (scipy's of Pearson)."""
        rng = np.random.default_rng(3)
        x = rng.normal(size=(1, 400))
        y = x + rng.normal(size=(1, 400))
        got = calibrated(x, y, np.ones(400, bool))
        interval = stats.pearsonr(stats.rankdata(x[0]), stats.rankdata(y[0])).confidence_interval()
        assert got.low[0] == pytest.approx(interval.low, abs=0.02)
        assert got.high[0] == pytest.approx(interval.high, abs=0.02)

    def test_nothing_planted_is_nothing_found(self) -> None:
        got = calibrated(*lesions(0.0, seed=1))
        assert ((got.low < 0) & (got.high > 0)).all()
        assert (np.abs(got.slope) < 3 / math.sqrt(60)).all()
        assert got.recall.max() <= 0.4

    def test_neurons_chosen_by_attribution_do_not_flatter(self) -> None:
        """No true relation but that the 40 chosen ones are large in both: only `..._all` sees it."""
        predicted, measured, random = lesions(0.0, seed=1)
        predicted[:, 60:] += 10
        measured[:, 60:] += 10
        got = calibrated(predicted, measured, random)
        assert (got.correlation_all > 0.6).all()
        assert (np.abs(got.correlation) < 0.3).all()

    def test_what_does_not_vary_is_unknown(self) -> None:
        predicted, measured, random = lesions(1.0)
        predicted[0] = 1.0
        got = calibrated(predicted, measured, random)
        for name in ("correlation", "low", "high", "slope", "slope_all", "correlation_all"):
            assert np.isnan(getattr(got, name)).tolist() == [True, False, False], name

    def test_frame_and_words(self) -> None:
        got = calibrated(*lesions(2.0))
        frame = got.to_frame().set_index("label")
        assert frame.loc["VERB", "correlation"] == got.correlation[1]
        assert frame.loc["ADJ", "recall_all"] == got.recall_all[2]
        assert (frame["chance"] == 5 / 60).all()
        assert repr(got) == (
            "Calibration: Over 60 neurons drawn at random, attribution and true lesion correlate by "
            f"rank at {got.correlation.mean():.2f} in the mean over 3 tags, and "
            f"{got.recall.mean():.0%} of the 5 largest effects are among the 5 largest attributions "
            "(8% by chance)."
        )

    def test_errors(self) -> None:
        predicted, measured, random = lesions(1.0)
        with pytest.raises(
            GrammarLensError, match="2 of 100 neurons were drawn at random, needs at le"
        ):
            calibrated(predicted, measured, np.arange(100) < 2)
        for k in (0, 61):
            with pytest.raises(GrammarLensError, match=rf"{k}.*expected 1.*to 60,"):
                calibrated(predicted, measured, random, k=k)
        measured[1, 70] = np.nan
        with pytest.raises(GrammarLensError, match="not finite: leave those neurons out"):
            calibrated(predicted, measured, random)


def rounds() -> list[Round]:
    again = np.array([np.nan, np.nan])
    return [
        Round(10, np.array([0.4, 0.2]), again),
        Round(20, np.array([0.5, 0.6]), np.array([0.75, 0.5])),
        Round(30, np.array([0.45, 0.8]), np.array([0.25, 1.0])),
    ]


class TestRedundancy:
    def test_by_hand(self) -> None:
        got = redundancy(LABELS[:2], rounds())
        np.testing.assert_allclose(got.gain, [[0.4, 0.2], [0.1, 0.4], [-0.05, 0.2]])
        frame = got.to_frame().set_index(["label", "round"])
        assert len(frame) == 6
        assert frame.loc[("VERB", 2)].tolist() == pytest.approx([20, 0.6, 0.4, 0.5])
        assert frame.loc[("NOUN", 3)].tolist() == pytest.approx([30, 0.45, -0.05, 0.25])
        assert np.isnan(frame.loc[("NOUN", 1), "found_again"])
        assert repr(got) == (
            "Redundancy: Cut again and again, a tag's neurons cost its own loss 0.300 (k = 10), "
            "0.550 (k = 20), 0.625 (k = 30) nats; a later round adds 0.163 in the mean, the first "
            "cost 0.300."
        )

    def test_errors(self) -> None:
        one, two, three = rounds()
        with pytest.raises(GrammarLensError, match="1 round of lesions given, expected 2 or more"):
            redundancy(LABELS[:2], [one])
        with pytest.raises(GrammarLensError, match=r"rounds cut \[10, 30, 20\] neurons"):
            redundancy(LABELS[:2], [one, three, two])
        with pytest.raises(GrammarLensError, match=r"round 2.*\[0.5, nan\].*expected 2"):
            redundancy(LABELS[:2], [one, Round(20, np.array([0.5, np.nan]), two.found_again)])
        with pytest.raises(
            GrammarLensError, match=r"round 1 has the losses .*, expected 3 finite ones"
        ):
            redundancy(LABELS, [one, two])


class TestMethodCalibration:
    def made(self, noise: float = 0.5) -> tuple[MethodCalibration, np.ndarray, np.ndarray]:
        """120 lesions in 4 samples: "good" is the truth and noise, "bad" is noise."""
        rng = np.random.default_rng(0)
        measured = rng.normal(size=(3, 120))
        good = 2 * measured + noise * rng.normal(size=measured.shape)
        predicted = {"good": good, "bad": rng.normal(size=measured.shape)}
        kinds = {"1 random": np.arange(120) < 60, "10 random": np.arange(120) >= 60}
        got = method_calibration(LABELS, predicted, measured, kinds, np.arange(120) % 4)
        return got, good, measured

    def test_it_agrees_with_scipy(self) -> None:
        got, good, measured = self.made()
        assert got.n_lesions.tolist() == [[15] * 4] * 2
        for s in range(4):
            at = np.arange(60)[np.arange(60) % 4 == s]
            pairs = [(good[i, at], measured[i, at]) for i in range(3)]
            rank = sum(float(stats.spearmanr(*pair)[0]) for pair in pairs) / 3  # pyright: ignore
            linear = sum(float(stats.pearsonr(*pair)[0]) for pair in pairs) / 3  # pyright: ignore
            assert got.rank[0, 0, s] == pytest.approx(rank, rel=1e-9)
            assert got.linear[0, 0, s] == pytest.approx(linear, rel=1e-9)
            # a tenth of 15 lesions is 2 of them
            both = [len({*a.argsort()[-2:]} & {*b.argsort()[-2:]}) / 2 for a, b in pairs]
            assert got.recall[0, 0, s] == pytest.approx(np.mean(both))

    def test_intervals_and_differences(self) -> None:
        got, *_ = self.made()
        frame = got.to_frame()
        good, bad = (frame[frame["method"] == x].set_index("lesions") for x in ("good", "bad"))
        values = got.rank[1, 1]
        interval: Any = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
        row: Any = bad.loc["10 random"]
        assert row["rank_low"] == pytest.approx(interval[0])
        assert row["rank_high"] == pytest.approx(interval[1])
        assert row["rank_low"] < 0 < row["rank_high"], "nothing is planted there"
        gain = got.difference("good", "bad").set_index("lesions")
        assert (gain["rank_low"] > 0).all()
        assert gain.loc["1 random", "linear"] == pytest.approx(
            good.loc["1 random", "linear"] - bad.loc["1 random", "linear"]
        )
        assert "good for 1 random" in repr(got)

    def test_one_sample_has_no_interval(self) -> None:
        mean, low, high = t_interval(np.array([0.3]))
        assert mean == 0.3
        assert np.isnan([low, high]).all()

    def test_too_few_lesions(self) -> None:
        values = np.ones((1, 4))
        with pytest.raises(GrammarLensError, match="b has 2 lesions in sample 0, expected 3"):
            method_calibration(
                ("A",), {"m": values}, values, {"b": np.arange(4) < 2}, np.zeros(4, int)
            )


class TestCalibrateMethods:
    def test_the_truth_is_best(self, tiny: Model, bank: Treebank) -> None:
        """Attributions that are the true effects of single neurons, and the same upside down."""
        labels = ("DET", "NOUN", "PRON", "VERB")
        quiet: dict[str, Any] = {"show_progress": False}
        moments = gl.collect(tiny, bank["train"], labels=labels, **quiet)["neuron"]
        keys = gl.select(gl.score(moments), k=5)
        battery, cut, _ = ready(
            tiny, bank["test"], keys, bank["train"], labels, None, 0, None, False
        )
        every = all_neurons(keys)
        cuts = [Condition(f"{n}", 1, every.take(np.array([n]))) for n in range(len(every))]
        outcomes = battery.run(cuts, codes=battery.studied)
        effects = own_rises(outcomes, cut).reshape(len(cut), 2, 48)
        true = Attribution("own", "mean", cut, np.ones(len(cut)), effects, keys.origin)
        methods = {"true": true, "false": replace(true, mean=-effects)}
        got = gl.calibrate_methods(
            tiny,
            bank["test"],
            keys,
            methods,
            lexicon=bank["train"],
            labels=labels,
            sizes=(1, 8),
            n_groups=40,
            n_top=2,
            samples=4,
            **quiet,
        )
        assert got.methods == ("true", "false", "activation")
        assert got.groups == ("1 random", "8 random", "1, strong ones too")
        np.testing.assert_allclose(got.rank[0, 0], 1, atol=0.05)
        np.testing.assert_allclose(got.rank[1], -got.rank[0], atol=1e-9)
        assert got.rank[0, 1].mean() > 0.8, "effects nearly add up"
        assert got.linear[0, 2].min() > 0.99
        assert got.recall[0, 2].mean() > 0.9 > got.recall[1, 2].mean()
        assert np.abs(got.rank[2, 0]).max() < 0.99
        assert (got.n_lesions[2] >= got.n_lesions[0]).all()
        assert got.n_lesions[0].tolist() == [10] * 4

    def test_errors(self, tiny: Model, bank: Treebank) -> None:
        moments = gl.collect(tiny, bank["train"], show_progress=False)["neuron"]
        keys = gl.select(gl.score(moments), k=5)
        given: dict[str, Any] = {"lexicon": bank["train"], "show_progress": False}
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"n_groups": 4}, "n_groups is 4, expected 15"),
            ({"samples": 0}, "samples is 0, expected 1"),
            ({"sizes": (97,)}, "size of a group is 97, expected 1 to 96"),
        ]
        for bad, message in wrong:
            with pytest.raises(GrammarLensError, match=message):
                gl.calibrate_methods(tiny, bank["test"], keys, {}, **given, **bad)
