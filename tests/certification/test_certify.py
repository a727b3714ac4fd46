"""Certification passes where the chain works, and fails where it is broken."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pytest
from processes import CONTEXT
from rich.console import Console
from statsmodels.stats.proportion import proportion_confint

from grammar_lens.certification import world_result
from grammar_lens.certification.certify import _one_thread, certify
from grammar_lens.certification.measures import Certification, Measure
from grammar_lens.certification.planted.chain import TAGS
from grammar_lens.certification.planted.world import plant
from grammar_lens.certification.world_result import WorldResult, run_world
from grammar_lens.errors import GrammarLensError
from grammar_lens.neurons.neurons import KeyNeurons

SHORT: dict[str, Any] = {"train_words": 4000, "fresh_words": 1000}
"""Fewer held-out words than in the command: the everyday tests have half a minute for all worlds."""


@pytest.fixture(scope="module")
def short() -> Certification:
    """Two true worlds, two null and a decoy one: everything that is required."""
    return certify(5, shams=19, reported=False, processes=1, show_progress=False, **SHORT)


def result(kind: str, number: int = 0, p: float = 1.0, crossed: int = 0) -> WorldResult:
    """A world that went as it should, but for what is given."""
    planted = 20 if kind in ("true", "weak") else 0
    return WorldResult(
        kind=kind,
        number=number,
        strength=0.5,
        path="none",
        studied="random",
        n_planted=planted,
        n_chosen=planted,
        n_found=planted,
        n_found_by_correlation=0,
        n_found_by_relevance=None,
        n_decoys_by_correlation=planted,
        costs=(0.2,) * 6 if planted else (),
        p=p,
        n_crossed=crossed,
        n_true_pairs=15 if planted else 0,
        n_true_crossed=crossed if planted else 0,
        p_chosen=None,
        n_crossed_chosen=None,
        by_default=None,
        by_relevance=None,
        n_parameters=62_640,
        n_words=2000,
        seconds=1.0,
    )


def of(*worlds: WorldResult) -> Certification:
    return Certification(worlds, 19, 0, 1, 1.0)


def good(n: int = 80) -> list[WorldResult]:
    true = [result("true", i, p=0.025, crossed=9) for i in range(n)]
    null = [result("null", i, p=0.025 if i < n // 20 else 0.5) for i in range(n)]
    return [*true, *null, *(result("decoy", i) for i in range(n // 2))]


class TestMeasures:
    @pytest.mark.parametrize(("hits", "count"), [(80, 80), (78, 80), (4, 80), (0, 40), (1, 3)])
    def test_bounds_agree_with_statsmodels(self, hits: int, count: int) -> None:
        """Two-sided 90 % Clopper-Pearson limits are the one-sided ones of 95 %."""
        measure = Measure("power", "worlds", hits, count)
        low, high = proportion_confint(hits, count, alpha=0.1, method="beta")
        assert measure.lower == pytest.approx(np.nan_to_num(low), abs=1e-6)
        # all hits or none: the bound on the other side is still at 5 % on one side
        assert measure.upper == pytest.approx(1.0 if np.isnan(high) else high, abs=1e-6)

    def test_all_of_80_bounds_the_power_above_95_percent(self) -> None:
        assert Measure("power", "worlds", 80, 80).lower == pytest.approx(0.05 ** (1 / 80))
        assert Measure("power", "worlds", 80, 80).lower > 0.95

    def test_nothing_counted(self) -> None:
        required = Measure("power", "worlds", 0, 0, "at least", 0.95)
        assert required.passed is False
        assert (required.lower, required.upper) == (0.0, 1.0)
        assert Measure("errors", "worlds", 0, 0, "at most", 0.05).passed is True
        assert required.to_json()["rate"] is None

    def test_the_bound_is_on_the_side_that_matters(self) -> None:
        power = Measure("power", "worlds", 78, 80, "at least", 0.95)
        errors = Measure("errors", "worlds", 4, 80, "at most", 0.05)
        assert power.to_json()["bound"] == power.lower
        assert errors.to_json()["bound"] == errors.upper


class TestLimits:
    def test_good_worlds_pass(self) -> None:
        assert of(*good()).passed

    @pytest.mark.parametrize(
        ("kind", "n", "change", "failed"),
        [
            ("true", 5, {"p": 0.5}, "power of p of true worlds 0.938"),
            ("true", 20, {"n_found": 16}, "recall of planted neurons"),
            ("true", 20, {"n_found": 18, "n_chosen": 19}, "precision of chosen neurons"),
            ("true", 1, {"costs": (0.09,) * 6}, "full strength of planted sets"),
            ("null", 9, {"p": 0.05}, "p at most .05 of null worlds 0.113"),
            ("null", 9, {"n_crossed": 1}, "any crossed pair of null worlds"),
            ("decoy", 6, {"p": 0.05}, "p at most .05 of decoy worlds"),
            ("decoy", 6, {"n_crossed": 2}, "any crossed pair of decoy worlds"),
        ],
    )
    def test_each_limit_can_fail(
        self, kind: str, n: int, change: dict[str, Any], failed: str
    ) -> None:
        worlds = [
            replace(w, **change) if w.kind == kind and w.number < n else w
            for w in (replace(w, p=1.0) if w.kind == "null" else w for w in good())
        ]
        assert not of(*worlds).passed
        assert failed in repr(of(*worlds))

    def test_as_many_errors_as_chance_gives_are_let_through(self) -> None:
        """Seven of 80 are not significantly more than 5 %, nine are: binom.sf(8, 80, .05) = .022."""
        null = [result("null", i, p=0.05 if i < 7 else 0.5) for i in range(80)]
        assert of(*null).measure("p at most .05", "null worlds").passed
        null[7:9] = [result("null", i, p=0.05) for i in (7, 8)]
        assert not of(*null).measure("p at most .05", "null worlds").passed

    def test_weak_worlds_are_reported_only(self) -> None:
        certification = of(*good(), result("weak", 0, p=0.9), result("elsewhere", 0, p=0.025))
        assert certification.passed
        assert certification.measure("power of p", "strength 0.5").rate == 0.0
        assert certification.measure("p at most .05", "writing to a code").rate == 1.0
        with pytest.raises(GrammarLensError, match=r"no measure 'recall' of 'strength 0\.25'"):
            certification.measure("recall", "strength 0.25")


class TestResult:
    def test_json_has_what_matters_with_bound_and_count(self) -> None:
        found = json.loads(json.dumps(of(*good()).to_json()))
        for name in ("power", "recall", "precision", "false_positive_rate"):
            assert {"rate", "bound", "count", "hits", "passed"} <= set(found[name])
        assert found["power"]["count"] == 80
        assert found["recall"]["count"] == 1600
        assert found["false_positive_rate"]["hits"] == 4
        assert found["false_positive_rate"]["count"] == 120
        assert found["worlds"] == {"true": 80, "null": 80, "decoy": 40}

    def test_table_and_frame(self) -> None:
        console = Console(width=160, record=True, file=None, quiet=True)
        text = "\n".join(str(cell) for c in of(*good()).table().columns for cell in c.cells)
        console.print(text)
        assert "80 of 80 = 1.000" in text
        assert "FAIL" not in text
        assert "at least 0.99" in text
        assert of(*good()).to_frame()["p"].shape == (200,)


class TestShort:
    def test_the_chain_passes(self, short: Certification) -> None:
        assert short.passed, repr(short)
        assert [w.kind for w in short.worlds] == ["true"] * 2 + ["null"] * 2 + ["decoy"]
        assert short.measure("power of p", "true worlds").count == 2
        assert short.measure("power of crossed pairs", "true pairs").rate > 0.25
        assert all(w.n_true_pairs > 10 for w in short.worlds if w.kind == "true")

    def test_correlation_picks_decoys(self, short: Certification) -> None:
        assert short.measure("decoys chosen by correlation", "chosen neurons").rate > 0.9
        assert short.measure("recall of correlation", "planted neurons").rate < 0.1
        decoy = [w for w in short.worlds if w.kind == "decoy"]
        assert all(w.n_decoys_by_correlation > 10 and w.p == 1.0 for w in decoy)

    def test_processes_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Little text, in forks of a server that has imported the package."""
        monkeypatch.setattr(sys.modules[certify.__module__], "get_context", lambda _: CONTEXT)
        little = {"shams": 19, "reported": False, "train_words": 600, "fresh_words": 400}
        two = certify(5, processes=2, show_progress=False, **little)
        assert [(w.kind, w.number) for w in two.worlds] == [
            *(("true", 0), ("true", 1), ("null", 0), ("null", 1), ("decoy", 0))
        ]
        with _one_thread():
            for i in (1, 4):
                alone = run_world(two.worlds[i].kind, two.worlds[i].number, **little)
                assert replace(alone, seconds=0.0) == replace(two.worlds[i], seconds=0.0)

    def test_swapped_keys_lose_power_and_recall(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every tag gets the neurons of the next: cuts are as large, and hit the wrong tag."""
        choose = world_result.choose

        def swapped(world: object, moments: object, method: str) -> KeyNeurons:
            keys = choose(world, moments, method)  # pyright: ignore[reportArgumentType]
            sets = {tag: keys[other] for tag, other in zip(TAGS, (*TAGS[1:], TAGS[0]), strict=True)}
            return replace(keys, sets=sets)

        monkeypatch.setattr(world_result, "choose", swapped)
        broken = of(run_world("true", 0, shams=19, **SHORT))
        assert broken.measure("power of p", "true worlds").rate == 0.0
        assert broken.measure("recall", "planted neurons").rate < 0.2
        assert not broken.passed

    def test_planted_effects_in_null_worlds_are_noticed(self) -> None:
        """True worlds that claim to be null: their sets, given as random ones, have effects."""
        claimed = [replace(plant("true", i, **SHORT), kind="null") for i in (0, 1)]
        broken = of(
            *(world_result.judge(w, shams=19, seed=1, reported=w.number == 0) for w in claimed)
        )
        assert [w.p_chosen for w in broken.worlds] == [0.05, None]
        for name in ("p at most .05", "any crossed pair"):
            measure = broken.measure(name, "null worlds")
            assert measure.rate == 1.0
            assert measure.passed is False
        # a user's study finds them, too, by either score
        for score in ("", " with relevance"):
            of_score = f"null worlds, sets by the default rule{score}"
            assert broken.measure("p at most .05", of_score).rate == 1.0

    def test_relevance_is_held_to_the_same_worlds(self) -> None:
        """It finds what is planted; the verdict is counted beside, where there is something to find and not."""
        worlds = [run_world(kind, 0, **SHORT) for kind in ("true", "null")]
        found = of(*worlds)
        assert found.measure("recall of relevance", "planted neurons").rate > 0.95
        for kind, score in product(("true", "null"), ("", " with relevance")):
            of_score = f"{kind} worlds, sets by the default rule{score}"
            # no other neuron of these worlds does such damage, so that no sham can match it
            assert found.measure("verdict: selective", of_score).hits == 0
            assert found.measure("verdict: selective", of_score).count == 1

    def test_which_worlds_are_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The number and kind of worlds; their contents are tested elsewhere."""
        asked: list[tuple[str, int]] = []

        def run(kind: str, number: int, **_: object) -> WorldResult:
            asked.append((kind, number))
            return result(kind, number)

        monkeypatch.setattr(import_module(certify.__module__), "run_world", run)
        found = certify(200, processes=1, show_progress=False)
        kinds = [kind for kind, _ in asked]
        assert [kinds.count(k) for k in ("true", "null", "decoy", "weak", "elsewhere")] == [
            *(80, 80, 40, 20, 20)
        ]
        assert len(set(asked)) == len(asked) == len(found.worlds)


class TestBadInput:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ({"n_worlds": 4}, "worlds is 4, expected at least 5: 2 true, 2 null"),
            ({"shams": 18}, "shams is 18, expected at least 19: with fewer no p is as small"),
            ({"processes": 0}, "processes is 0, expected 1 or more"),
            ({"seed": -1}, "seed is -1, expected 0 or more"),
        ],
    )
    def test_it_is_refused(self, flags: dict[str, int], message: str) -> None:
        with pytest.raises(GrammarLensError, match=message):
            certify(**flags)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_two_hundred_worlds_pass() -> None:
    """About ten minutes on two cores."""
    found = certify(200, reported=False, show_progress=False)
    assert found.passed, repr(found)
    assert len(found.worlds) == 200
    assert max(w.n_parameters for w in found.worlds) < 100_000
