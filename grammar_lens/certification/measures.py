"""Error rates over planted worlds, their confidence bounds, and the limits they must keep."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from rich.table import Table
from scipy import stats

from grammar_lens.certification.world_result import DefaultStudy, WorldResult
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError

ALPHA = 0.05
FULL_STRENGTH = 0.1
"""Nats that cutting a planted set must cost its own tag."""


@dataclass(frozen=True)
class Measure:
    """A rate, `hits` of `count`, and its limit.

    `sense` is "at least" (the rate itself must reach the limit), "at most" (the rate must not be
    significantly above it: one-sided binomial test at .05), or "" where nothing is required.
    """

    name: str
    of: str
    hits: int
    count: int
    sense: str = ""
    limit: float = 0.0

    @property
    def rate(self) -> float:
        """NaN where there was nothing to count."""
        return self.hits / self.count if self.count else float("nan")

    @property
    def lower(self) -> float:
        """One-sided 95 % lower bound. Source: Clopper & Pearson (1934)."""
        if not self.count:
            return 0.0
        test = stats.binomtest(self.hits, self.count, alternative="greater")
        return float(test.proportion_ci(1 - ALPHA).low)

    @property
    def upper(self) -> float:
        """One-sided 95 % upper bound."""
        if not self.count:
            return 1.0
        test = stats.binomtest(self.hits, self.count, alternative="less")
        return float(test.proportion_ci(1 - ALPHA).high)

    @property
    def excess_p(self) -> float:
        """p of so many hits or more if the rate were the limit."""
        if not self.count:
            return 1.0
        return float(
            stats.binomtest(self.hits, self.count, self.limit, alternative="greater").pvalue
        )

    @property
    def passed(self) -> bool | None:
        """None where nothing is required; what must reach a limit and has no counts fails."""
        if self.sense == "at least":
            return self.count > 0 and self.rate >= self.limit
        return self.excess_p >= ALPHA if self.sense == "at most" else None

    def to_json(self) -> dict[str, Any]:
        """`bound` is on the side that matters: upper for what must be small, else lower."""
        data: dict[str, Any] = {
            "of": self.of,
            "rate": self.rate if self.count else None,
            "bound": self.upper if self.sense == "at most" else self.lower,
            "lower": self.lower,
            "upper": self.upper,
            "hits": self.hits,
            "count": self.count,
        }
        if self.sense:
            data |= {"required": f"{self.sense} {self.limit:g}", "passed": self.passed}
        if self.sense == "at most":
            data["p_above_limit"] = self.excess_p
        return data


@dataclass(frozen=True)
class Certification(Shown):
    """All worlds, and what follows from them."""

    worlds: tuple[WorldResult, ...]
    shams: int
    seed: int
    processes: int
    seconds: float

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Every rate that is required or reported."""
        return (*_required(self.worlds), *_reported(self.worlds))

    def measure(self, name: str, of: str) -> Measure:
        """One of them. Raises GrammarLensError if there is none of that name."""
        for measure in self.measures:
            if (measure.name, measure.of) == (name, of):
                return measure
        raise GrammarLensError(f"there is no measure {name!r} of {of!r}")

    @property
    def passed(self) -> bool:
        """Whether every measure that has a limit keeps it."""
        return all(m.passed is not False for m in self.measures)

    def to_frame(self) -> pd.DataFrame:
        """A row per world."""
        return pd.DataFrame([asdict(w) for w in self.worlds])

    def to_json(self) -> dict[str, Any]:
        """The numbers that matter by name, then all measures."""
        neither = _of(self.worlds, "null", "decoy")
        both = "null and decoy worlds"
        return {
            "passed": self.passed,
            "power": self.measure("power of p", "true worlds").to_json(),
            "recall": self.measure("recall", "planted neurons").to_json(),
            "precision": self.measure("precision", "chosen neurons").to_json(),
            "false_positive_rate": _p_small(neither, both, "at most").to_json(),
            "crossed_false_positive_rate": _any_crossed(neither, both, "at most").to_json(),
            "measures": [{"name": m.name, **m.to_json()} for m in self.measures],
            "worlds": pd.Series([w.kind for w in self.worlds]).value_counts(sort=False).to_dict(),
            "n_parameters": max(w.n_parameters for w in self.worlds),
            "fresh_words": max(w.n_words for w in self.worlds),
            "shams": self.shams,
            "seed": self.seed,
            "processes": self.processes,
            "seconds": self.seconds,
        }

    def table(self) -> Table:
        """The measures for a terminal."""
        table = Table("", "of", "rate", "95 % bounds", "required", "", title=self._in_one_line())
        for m in self.measures:
            rate = f"{m.hits:,} of {m.count:,}" + (f" = {m.rate:.3f}" if m.count else "")
            required = f"{m.sense} {m.limit:g}" if m.sense else ""
            verdict = {True: "[green]pass", False: "[red]FAIL", None: "[dim]reported"}[m.passed]
            bounds = f"{m.lower:.3f} to {m.upper:.3f}" if m.count else ""
            table.add_row(m.name, m.of, rate, bounds, required, verdict)
        return table

    def _in_one_line(self) -> str:
        outcome = "passed" if self.passed else "FAILED"
        return (
            f"certification {outcome}: {len(self.worlds)} worlds, {self.shams} shams each, "
            f"{self.seconds:,.0f} s"
        )

    def __repr__(self) -> str:
        failed = [f"{m.name} of {m.of} {m.rate:.3f}" for m in self.measures if m.passed is False]
        return f"Certification of {len(self.worlds)} worlds: {', '.join(failed) or 'passed'}"

    def _tables(self) -> list[pd.DataFrame]:
        verdicts = {True: "pass", False: "FAIL", None: "reported"}
        rows = [
            (
                m.name,
                m.of,
                f"{m.hits:,} of {m.count:,}",
                f"{m.sense} {m.limit:g}" if m.sense else "",
                verdicts[m.passed],
            )
            for m in self.measures
        ]
        columns = pd.Index(["rate", "of", "found", "required", "verdict"])
        return [pd.DataFrame(rows, columns=columns)]


def _required(worlds: Iterable[WorldResult]) -> list[Measure]:
    true = _of(worlds, "true")
    costs = [cost for w in true for cost in w.costs]
    full = sum(cost >= FULL_STRENGTH for cost in costs)
    n_found = sum(w.n_found for w in true)
    measures = [
        Measure("full strength", "planted sets", full, len(costs), "at least", 1.0),
        Measure("recall", "planted neurons", n_found, _sum(true, "n_planted"), "at least", 0.99),
        Measure("precision", "chosen neurons", n_found, _sum(true, "n_chosen"), "at least", 0.99),
        _rate("power of p", "true worlds", true, lambda w: w.p <= ALPHA, "at least", 0.95),
    ]
    for kind in ("null", "decoy"):
        some = _of(worlds, kind)
        measures.append(_p_small(some, f"{kind} worlds", "at most"))
        measures.append(_any_crossed(some, f"{kind} worlds", "at most"))
    return measures


def _reported(worlds: Iterable[WorldResult]) -> list[Measure]:
    true = _of(worlds, "true")
    crossed, pairs = _sum(true, "n_true_crossed"), _sum(true, "n_true_pairs")
    by_correlation = _sum(true, "n_found_by_correlation")
    asked = [w for w in true if w.n_found_by_relevance is not None]
    by_relevance = _sum(asked, "n_found_by_relevance")
    decoys = _sum(true, "n_decoys_by_correlation")
    measures = [
        Measure("power of crossed pairs", "true pairs", crossed, pairs),
        Measure(
            "recall of correlation", "planted neurons", by_correlation, _sum(true, "n_planted")
        ),
        Measure("recall of relevance", "planted neurons", by_relevance, _sum(asked, "n_planted")),
        Measure("decoys chosen by correlation", "chosen neurons", decoys, _sum(true, "n_chosen")),
    ]
    for name in ("null", "decoy"):
        # true effects, though none was planted: of all background neurons attribution takes those
        # whose codes happen to favour a tag, and their lesions bear it out on held-out words
        some = [w for w in _of(worlds, name) if w.p_chosen is not None]
        of = f"{name} worlds, sets by attribution"
        measures.append(_rate("p at most .05", of, some, lambda w: (w.p_chosen or 1.0) <= ALPHA))
        measures.append(
            _rate("any crossed pair", of, some, lambda w: (w.n_crossed_chosen or 0) > 0)
        )
    for name in ("true", "null", "decoy"):
        # what a user's study says, also where nothing was planted
        of = f"{name} worlds, sets by the default rule"
        for by, studies in (
            (of, [w.by_default for w in _of(worlds, name)]),
            (f"{of} with relevance", [w.by_relevance for w in _of(worlds, name)]),
        ):
            measures += _of_studies(by, [s for s in studies if s is not None])
    for strength in sorted({w.strength for w in _of(worlds, "weak")}, reverse=True):
        some = [w for w in _of(worlds, "weak") if w.strength == strength]
        of = f"strength {strength:g}"
        n_found, planted = _sum(some, "n_found"), _sum(some, "n_planted")
        measures.append(Measure("recall", of, n_found, planted))
        measures.append(_rate("power of p", of, some, lambda w: w.p <= ALPHA))
    for even, where in ((True, "a code"), (False, "another tag")):
        some = [w for w in _of(worlds, "elsewhere") if (w.number % 2 == 0) == even]
        measures.append(_p_small(some, f"writing to {where}"))
        measures.append(_any_crossed(some, f"writing to {where}"))
    return [m for m in measures if m.count]


def _of_studies(of: str, studies: list[DefaultStudy]) -> list[Measure]:
    """Findings of studies of neurons chosen by the default rule."""
    counts = {
        "enough tags for a study": sum(s.p is not None for s in studies),
        "p at most .05": sum(s.p is not None and s.p <= ALPHA for s in studies),
        "any crossed pair": sum(s.n_crossed > 0 for s in studies),
        "verdict: selective": sum(s.is_selective for s in studies),
    }
    return [Measure(what, of, number, len(studies)) for what, number in counts.items()]


def _of(worlds: Iterable[WorldResult], *kinds: str) -> list[WorldResult]:
    return [w for w in worlds if w.kind in kinds]


def _sum(worlds: list[WorldResult], name: str) -> int:
    return sum(getattr(w, name) for w in worlds)


def _p_small(worlds: list[WorldResult], of: str, sense: str = "") -> Measure:
    return _rate("p at most .05", of, worlds, lambda w: w.p <= ALPHA, sense, ALPHA)


def _any_crossed(worlds: list[WorldResult], of: str, sense: str = "") -> Measure:
    return _rate("any crossed pair", of, worlds, lambda w: w.n_crossed > 0, sense, ALPHA)


def _rate(
    name: str,
    of: str,
    worlds: list[WorldResult],
    holds: Callable[[WorldResult], bool],
    sense: str = "",
    limit: float = 0.0,
) -> Measure:
    return Measure(name, of, sum(holds(w) for w in worlds), len(worlds), sense, limit)
