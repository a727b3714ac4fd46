"""What the quick fit of probes gains over scikit-learn's pipeline, along k and for several scores.

    python benchmarks/probes.py
    python benchmarks/probes.py --scores correlation --ks 1,10,100 --rounds 3

One thread, interleaved rounds, the fastest counts. Both ways fit the same probes, on the activations
of the union of every label's k best neurons (or as many random ones) at the word, and answer for all
held-out words:

  naive  make_pipeline(StandardScaler(), LogisticRegression()) on the chosen columns
  fit    probing.fit on scaled features; the scale of all units, found once, is a row of its own
  both   the same with the labels of a control task fitted side by side

Both must be right on as many held-out words to 0.003, and the objective must lie within 1e-4 of that of
scikit-learn's LogisticRegression(tol=1e-8), or the program ends with an error. --exact-up-to leaves
probes of more columns out of the second check, which takes minutes for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import measure
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer import Option
from words import with_every_tag

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, default_budget, fresh_corpus
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.model.about import model_name
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.probing.fitting import Probe, fit, fit_each, scale

POSITION = "word"
SAME = 0.003
"""Accuracies of both ways agree to this share of the held-out words."""
GAP = 1e-4
"""The objective is at most this share above the least one."""
RANDOM = "random"
WAYS = ("naive", "fit", "both")


@dataclass(frozen=True)
class Config(measure.Flags):
    """The flags."""

    train: Annotated[str, Option(help="Words the probes are fitted on.")] = "embedded:train"
    fresh: Annotated[str, Option(help="Words they are judged on.")] = "embedded:test"
    scores: Annotated[str, Option(help="Scores that choose neurons, or random.")] = (
        f"correlation,entropy,{RANDOM}"
    )
    ks: Annotated[str, Option(help="Neurons per label.")] = "1,2,5,10,20,50,100"
    rounds: Annotated[int, Option(help="Rounds; 3 or more to report.")] = 1
    exact_up_to: Annotated[int, Option(help="Columns up to which the minimum is checked.")] = 200
    out: measure.OutFlag = measure.FOLDER / "probes.json"


class Setting:
    """Activations of training and held-out words, and the columns of every probe."""

    def __init__(self, config: Config) -> None:
        self.model = gl.load_model(config.model, device="cpu")
        train = with_every_tag(self.model, config.train)
        fresh, _ = fresh_corpus(self.model, load_treebank(config.fresh, label="upos"), train)
        names = [name.strip() for name in config.scores.split(",")]
        self.ks = [int(k) for k in config.ks.split(",")]
        self.sets = self._choose(train, names)
        addresses = np.unique(np.concatenate(list(self.sets.values())), axis=0)
        self.columns = {
            which: np.flatnonzero((addresses[:, None] == rows).all(2).any(1))
            for which, rows in self.sets.items()
        }
        self.train, self.classes = self._read(train, addresses)
        self.fresh, self.gold = self._read(fresh, addresses)
        self.features = scale(self.train, self.fresh)
        shares = np.bincount(self.classes) / len(self.classes)
        self.control = np.random.default_rng(0).choice(len(shares), len(self.classes), p=shares)

    def _choose(self, corpus: Corpus, names: list[str]) -> dict[tuple[str, int], np.ndarray]:
        """Addresses by score and k; random ones are as many as the first score's."""
        moments = gl.collect(self.model, corpus, position=POSITION, show_progress=False)["neuron"]
        sets = {}
        for name in names:
            if name != RANDOM:
                scores = gl.score(moments, name)
                sets |= {(name, k): gl.select(scores, k).union() for k in self.ks}
        n_layers, n_units = moments.mean.shape[1:]
        drawn = np.random.default_rng(0).permutation(n_layers * n_units)
        if RANDOM in names:
            for k in self.ks:
                size = len(sets[names[0], k]) if sets else k * len(corpus.labels)
                flat = np.sort(drawn[:size])
                sets[RANDOM, k] = np.stack([flat // n_units, flat % n_units], 1)
        return sets

    def _read(self, corpus: Corpus, addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = corpus.read(POSITION)
        words = np.flatnonzero(codes >= 0)
        row = np.full(len(codes), -1)
        row[words] = np.arange(len(words))
        reader = FeatureReader(len(words), addresses)
        tap = Tap("neuron", POSITION, codes >= 0, row, reader, layers=reader.layers)
        batches = corpus.batches(default_budget(self.model))
        stream(self.model, corpus.alignment, batches, [tap])
        return reader.values, codes[words]

    def naive(self, which: tuple[str, int]) -> float:
        """Accuracy by scikit-learn's pipeline."""
        columns = self.columns[which]
        # 100 steps, the default, are too few for many columns and end in a warning
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(self.train[:, columns], self.classes)
        return float((probe.predict(self.fresh[:, columns]) == self.gold).mean())

    def quick(self, which: tuple[str, int]) -> float:
        """Accuracy by `probing.fit`."""
        units = self.features.units(self.columns[which])
        predicted = fit(units.train, self.classes).predict(units.fresh)
        return float((predicted == self.gold).mean())

    def both(self, which: tuple[str, int]) -> list[Probe]:
        """Probes of the real and of random labels by `probing.fit_each`."""
        units = self.features.units(self.columns[which])
        return fit_each(units.train, [self.classes, self.control])

    def gap(self, which: tuple[str, int]) -> float:
        """Share by which the objective of `probing.fit` exceeds the least one."""
        x = self.features.units(self.columns[which]).train
        best = LogisticRegression(tol=1e-8, max_iter=5000).fit(x.astype(float), self.classes)
        least = Probe(np.asarray(best.coef_), np.asarray(best.intercept_), best.classes_)
        return self._objective(fit(x, self.classes), x) / self._objective(least, x) - 1

    def _objective(self, probe: Probe, x: np.ndarray) -> float:
        log_p = probe.log_probability(x.astype(float))
        place = np.searchsorted(probe.classes, self.classes)
        n = len(self.classes)
        penalty = (probe.weight.astype(float) ** 2).sum() / (2 * n)
        return float(penalty - log_p[place, np.arange(n)].mean())


def main(config: Config) -> None:
    """Checks that both ways agree, times them, prints and writes."""
    measure.positive(config, "rounds")
    measure.one_thread()
    setting = Setting(config)
    right = {which: (setting.naive(which), setting.quick(which)) for which in setting.sets}
    difference = max(abs(a - b) for a, b in right.values())
    measure.require_same("accuracies", difference, SAME)
    exact = [which for which in setting.sets if len(setting.columns[which]) <= config.exact_up_to]
    gaps = {which: setting.gap(which) for which in exact}
    for gap in gaps.values():
        measure.require_same("objectives", gap, GAP)
    ways: dict[str, Callable[[], object]] = {"scale": partial(scale, setting.train, setting.fresh)}
    for which in setting.sets:
        name = " ".join(map(str, which))
        ways |= {f"naive {name}": partial(setting.naive, which)}
        ways |= {f"fit {name}": partial(setting.quick, which)}
        ways |= {f"both {name}": partial(setting.both, which)}
    rows = {name: timing.row() for name, timing in measure.interleaved(ways, config.rounds).items()}
    lines = {}
    for which, (naive_accuracy, accuracy) in right.items():
        name = " ".join(map(str, which))
        line = {"score": which[0], "k": which[1], "columns": len(setting.columns[which])}
        line |= {f"{x}_cpu_seconds": rows[f"{x} {name}"]["cpu_seconds"] for x in WAYS}
        line["ratio"] = line["naive_cpu_seconds"] / line["fit_cpu_seconds"]
        line |= {"naive_accuracy": naive_accuracy, "accuracy": accuracy, "gap": gaps.get(which)}
        lines[name] = line
    measure.show(
        f"{model_name(setting.model)}, {len(setting.classes):,} training and {len(setting.gold):,} held-out words; "
        f"one thread, fastest of {config.rounds} rounds",
        "score and k",
        lines,
        {
            "columns": "{columns}",
            **{f"{x} CPU s": f"{{{x}_cpu_seconds:.2f}}" for x in WAYS},
            "naive / fit": "{ratio:.1f}",
            "naive right": "{naive_accuracy:.4f}",
            "right": "{accuracy:.4f}",
            "gap": "{gap:.0e}",
        },
    )
    once = rows["scale"]["cpu_seconds"]
    totals = {}
    for most in sorted({10, 20, max(setting.ks)}):
        some = [line for line in lines.values() if line["k"] <= most]
        quick = sum(line["fit_cpu_seconds"] for line in some)
        totals[most] = sum(line["naive_cpu_seconds"] for line in some) / max(quick, 1e-9)
        print(f"naive / fit, all probes up to k = {most}: {totals[most]:.2f}")
    print(f"scaling {setting.train.shape[1]:,} units once: {once:.2f} s")
    print(f"same answers: accuracies differ by {difference:.4f} at most (allowed {SAME:g})")
    measure.save(
        "probes",
        config,
        model=model_name(setting.model),
        rows=rows,
        probes=list(lines.values()),
        scale_cpu_seconds=once,
        naive_to_fit_up_to_k=totals,
        largest_difference_of_accuracies=difference,
    )


if __name__ == "__main__":
    start_page(main, Config, __doc__)
