"""What the quick fit of probes gains over scikit-learn's pipeline, along k and for several scores.

    python benchmarks/probes.py
    python benchmarks/probes.py --scores correlation --ks 1,10,100 --rounds 3

One thread, interleaved rounds, the fastest counts. Both ways fit the same probes, on the activations
of the union of every label's k best neurons at the word, and answer for all held-out words:

  naive  make_pipeline(StandardScaler(), LogisticRegression()) on the chosen columns
  fit    probing.fit on scaled features; the scale of all units, found once, is told apart

Both must be right on as many held-out words to 0.003, or the program ends with an error. That the
objective is the least one is tested (tests/probing/test_fitting.py).
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
from words import load

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.model.about import model_name
from grammar_lens.passes.shared import features, read_one
from grammar_lens.probing.fitting import fit, scale

POSITION = "word"
SAME = 0.003
"""Accuracies of both ways agree to this share of the held-out words."""


@dataclass(frozen=True)
class Config(measure.Flags):
    """The flags."""

    train: Annotated[str, Option(help="Words the probes are fitted on.")] = "embedded:train"
    fresh: Annotated[str, Option(help="Words they are judged on.")] = "embedded:test"
    scores: Annotated[str, Option(help="Scores that choose neurons.")] = "correlation,entropy"
    ks: Annotated[str, Option(help="Neurons per label.")] = "1,2,5,10,20,50,100"
    rounds: Annotated[int, Option(help="Rounds; 3 or more to report.")] = 1


class Setting:
    """Activations of training and held-out words, and the columns of every probe by its name."""

    def __init__(self, config: Config) -> None:
        self.model, train, fresh = load(config, config.fresh)
        moments = gl.collect(self.model, train, position=POSITION, show_progress=False)["neuron"]
        sets = {
            f"{name} {k}": gl.select(gl.score(moments, name), k).union()
            for name in listed(config.scores)
            for k in map(int, listed(config.ks))
        }
        addresses = np.unique(np.concatenate(list(sets.values())), axis=0)
        self.columns = {
            name: np.flatnonzero((addresses[:, None] == rows).all(2).any(1))
            for name, rows in sets.items()
        }
        self.train, self.classes = self._read(train, addresses)
        self.fresh, self.gold = self._read(fresh, addresses)
        self.features = scale(self.train, self.fresh)

    def _read(self, corpus: Corpus, addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = corpus.read(POSITION)
        words = np.flatnonzero(codes >= 0)
        reading = features(corpus, words, addresses, POSITION)
        return read_one(self.model, reading, "", show_progress=False), codes[words]

    def naive(self, name: str) -> float:
        """Accuracy by scikit-learn's pipeline."""
        columns = self.columns[name]
        # 100 steps, the default, are too few for many columns and end in a warning
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(self.train[:, columns], self.classes)
        return float((probe.predict(self.fresh[:, columns]) == self.gold).mean())

    def quick(self, name: str) -> float:
        """Accuracy by `probing.fit`."""
        units = self.features.units(self.columns[name])
        predicted = fit(units.train, self.classes).predict(units.fresh)
        return float((predicted == self.gold).mean())


def main(config: Config) -> None:
    """Checks that both ways agree, times them, prints and writes."""
    measure.positive(config, "rounds")
    measure.one_thread()
    setting = Setting(config)
    ways: dict[str, Callable[[], object]] = {"scale": partial(scale, setting.train, setting.fresh)}
    rows: dict[str, dict[str, float]] = {}
    for name, columns in setting.columns.items():
        accuracies = {"naive_right": setting.naive(name), "right": setting.quick(name)}
        difference = abs(accuracies["naive_right"] - accuracies["right"])
        measure.require_same(f"accuracies of {name}", difference, SAME)
        rows[name] = {"columns": len(columns), **accuracies}
        ways |= {f"naive {name}": partial(setting.naive, name)}
        ways |= {f"fit {name}": partial(setting.quick, name)}
    timings = measure.interleaved(ways, config.rounds)
    for name, row in rows.items():
        naive, ours = timings[f"naive {name}"], timings[f"fit {name}"]
        row |= {"naive_cpu_seconds": min(naive.cpu), "fit_cpu_seconds": min(ours.cpu)}
        row["ratio"] = measure.compare(naive, ours)["ratio"]
    measure.show(
        f"{model_name(setting.model)}, {len(setting.classes):,} training and {len(setting.gold):,} held-out words; "
        f"one thread, fastest of {config.rounds} rounds",
        "score and k",
        rows,
        {
            "columns": "{columns}",
            "naive CPU s": "{naive_cpu_seconds:.2f}",
            "fit CPU s": "{fit_cpu_seconds:.2f}",
            "naive / fit": "{ratio:.1f}",
            "naive right": "{naive_right:.4f}",
            "right": "{right:.4f}",
        },
    )
    once = min(timings["scale"].cpu)
    print(f"scaling {setting.train.shape[1]:,} units once: {once:.2f} s")
    model = model_name(setting.model)
    measure.save("probes", config, model=model, probes=rows, scale_cpu_seconds=once)


if __name__ == "__main__":
    start_page(main, Config, __doc__)
