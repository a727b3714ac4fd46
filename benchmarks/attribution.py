"""What attribution costs, in bare forward passes, and what reusing keys and values saves.

    python benchmarks/attribution.py
    python benchmarks/attribution.py --treebank ../shared/data/treebanks/UD_English-EWT:dev

One thread, interleaved rounds, the fastest counts, the same batches for all:

  bare      Hugging Face's own forward pass (sdpa) with the head at the scored positions
  own       attribute_own into the moments of each label: one forward and one backward pass
  all       attribute_all: one forward pass, and one backward pass per label
  reused    integrated_gradients of a few sentences, the scored token recomputed alone
  plain     the same with a forward pass of the whole prefix for every step

Both ways of integrated gradients must agree to 1e-5 of the largest, or the program ends with an error.
"""

from dataclasses import dataclass
from typing import Annotated

import measure
import numpy as np
from typer import Option
from words import (
    POSITION,
    about,
    hugging_face,
    load,
    own_attribution,
    read_attribution,
    run_with_head,
)

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.model.about import model_name
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.attribution.first_order import attribute_all
from grammar_lens.selectivity.attribution.integrated import integrated_gradients

SAME = 1e-5
"""Both ways of integrated gradients agree to this share of the largest: float32 rounding."""
OWN, REUSE = 3.5, 5.0
"""Goals: `own` in bare passes at most, `plain` in times of `reused` at least."""


@dataclass(frozen=True)
class Config(measure.Flags):
    """The flags."""

    treebank: Annotated[str, Option(help="Words that are attributed.")] = "embedded:test"
    train: Annotated[str, Option(help="Words of the lexicon.")] = "embedded:train"
    sentences: Annotated[int, Option(help="Sentences attributed, at most.")] = 60
    ig_sentences: Annotated[int, Option(help="Of these, for integrated gradients.")] = 3
    steps: Annotated[int, Option(help="Steps of integrated gradients.")] = 20


class Setting:
    """The models, the words, and the ways to go through them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.model, train, self.corpus = load(config, config.treebank, config.sentences)
        self.bare_model = hugging_face(config.model)
        self.alignment = self.corpus.alignment
        self.budget = default_budget(self.model)
        self.batches = self.corpus.batches(self.budget)
        self.lexicon = gl.fit_lexicon(self.model, train)
        codes = self.corpus.read(POSITION)
        self.codes = np.where((codes >= 0) & (self.lexicon.prior[codes] > 0), codes, -1)
        self.words = (self.model, self.alignment, self.batches, self.codes)

    @property
    def n_backward(self) -> float:
        """Labels in a batch, on average: the backward passes that `all` needs."""
        places = [b.locate(self.alignment, POSITION, self.codes >= 0)[0] for b in self.batches]
        n_labels = [len(np.unique(self.codes[words])) for words in places]
        weight = [b.token_ids.numel() for b in self.batches]
        return float(np.average(n_labels, weights=weight))

    def bare(self) -> None:
        """One forward pass of the model as it comes."""
        run_with_head(self.bare_model, self.alignment, self.batches, self.codes >= 0)

    def own(self) -> Moments:
        """Moments of every word's own contributions."""
        return own_attribution(*self.words, self.lexicon)

    def all(self) -> np.ndarray:
        """Sums of the contributions at all positions."""
        reference = np.zeros((self.model.cfg.n_layers, self.model.cfg.d_mlp))
        return attribute_all(*self.words, len(self.lexicon.labels), self.lexicon, reference)[0]

    def integrated(self, *, reuse: bool) -> Moments:
        """Moments of integrated gradients of a few sentences."""
        return read_attribution(
            self.model,
            self.lexicon,
            lambda reader: integrated_gradients(
                self.model,
                self.alignment,
                self.codes,
                [(self.codes, reader)],
                steps=self.config.steps,
                reuse=reuse,
                token_budget=self.budget,
                rows=np.arange(min(self.config.ig_sentences, len(self.corpus.bank))),
            ),
        )


def main(config: Config) -> None:
    """Checks that both ways agree, times all of them, prints and writes."""
    measure.positive(config, "sentences", "ig_sentences", "steps", "rounds")
    measure.one_thread()
    setting = Setting(config)
    fast, slow = setting.integrated(reuse=True), setting.integrated(reuse=False)
    difference = float(np.abs(fast.mean - slow.mean).max() / np.abs(slow.mean).max())
    measure.require_same("integrated gradients, relative to the largest,", difference, SAME)
    ways = {
        "bare": setting.bare,
        "own": setting.own,
        "all": setting.all,
        "reused": lambda: setting.integrated(reuse=True),
        "plain": lambda: setting.integrated(reuse=False),
    }
    timings = measure.interleaved(ways, config.rounds)
    rows = {name: timing.row() for name, timing in timings.items()}
    for name, row in rows.items():
        if name in ("reused", "plain"):
            row["words"] = int(fast.count.sum())
        else:
            row["words"] = int((setting.codes >= 0).sum())
            row["bare_passes"] = measure.compare(timings[name], timings["bare"])["ratio"]
        row["speed"] = row["words"] / row["cpu_seconds"]
    saved = measure.compare(timings["plain"], timings["reused"])["ratio"]
    more = {"bare passes": "{bare_passes:.2f}", "words / CPU s": "{speed:.0f}"}
    measure.show(
        f"{model_name(setting.model)} on {rows['bare']['words']:,} words of {setting.corpus.bank.name}; "
        f"integrated gradients of {rows['plain']['words']:,} in {config.steps} steps; "
        f"one thread, fastest of {config.rounds} rounds",
        "way",
        rows,
        {"words": "{words:,}", **measure.TIMES, **more},
    )
    labels = setting.n_backward
    print(f"both ways of integrated gradients: {difference:.1e} of the largest (allowed {SAME:g})")
    print(measure.target("own / bare", rows["own"]["bare_passes"], OWN))
    whole = rows["all"]["bare_passes"]
    print(measure.target(f"all / bare, {labels:.1f} labels", whole, 1 + 2 * labels))
    print(measure.target("plain / reused", saved, REUSE, at_least=True))
    measure.save(
        "attribution",
        config,
        **about(setting.model, setting.corpus),
        labels_per_batch=labels,
        rows=rows,
        plain_to_reused=saved,
        largest_relative_difference=difference,
    )


if __name__ == "__main__":
    start_page(main, Config, __doc__)
