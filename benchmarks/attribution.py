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
import torch
from typer import Option
from words import about, hugging_face, with_every_tag

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import default_budget, fresh_corpus
from grammar_lens.corpus.origin import Origin
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.model.about import model_name
from grammar_lens.passes.moments import MomentAccumulator, Moments
from grammar_lens.selectivity.attribution.first_order import attribute_all, attribute_own
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
    out: measure.OutFlag = measure.FOLDER / "attribution.json"


class Setting:
    """The models, the words, and the ways to go through them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.model = gl.load_model(config.model, device="cpu")
        self.bare_model = hugging_face(config.model)
        train = with_every_tag(self.model, config.train)
        fresh = load_treebank(config.treebank, label="upos")
        self.corpus, _ = fresh_corpus(self.model, fresh, train, config.sentences)
        self.alignment = self.corpus.alignment
        self.budget = default_budget(self.model)
        self.batches = self.corpus.batches(self.budget)
        self.lexicon = gl.fit_lexicon(self.model, train)
        codes = self.corpus.read("next")
        self.codes = np.where((codes >= 0) & (self.lexicon.prior[codes] > 0), codes, -1)
        self.reference = np.zeros((self.model.cfg.n_layers, self.model.cfg.d_mlp))

    @property
    def n_backward(self) -> float:
        """Labels in a batch, on average: the backward passes that `all` needs."""
        places = [b.locate(self.alignment, "next", self.codes >= 0)[0] for b in self.batches]
        n_labels = [len(np.unique(self.codes[words])) for words in places]
        weight = [b.token_ids.numel() for b in self.batches]
        return float(np.average(n_labels, weights=weight))

    @torch.no_grad()
    def bare(self) -> None:
        """One forward pass of the model as it comes."""
        for batch in self.batches:
            _, where = batch.locate(self.alignment, "next", self.codes >= 0)
            hidden = self.bare_model.model(batch.token_ids, use_cache=False).last_hidden_state
            self.bare_model.lm_head(hidden.flatten(0, 1)[torch.from_numpy(where)])

    def own(self) -> Moments:
        """Moments of every word's own contributions."""
        reader = self._reader()
        attribute_own(
            self.model,
            self.alignment,
            self.batches,
            self.codes,
            self.lexicon,
            self.reference,
            [(self.codes, reader)],
        )
        return reader.moments(Origin("", "", "upos", "next", "neuron"))

    def all(self) -> np.ndarray:
        """Sums of the contributions at all positions."""
        return attribute_all(
            self.model,
            self.alignment,
            self.batches,
            self.codes,
            len(self.lexicon.labels),
            self.lexicon,
            self.reference,
        )[0]

    def integrated(self, *, reuse: bool) -> Moments:
        """Moments of integrated gradients of a few sentences."""
        reader = self._reader()
        integrated_gradients(
            self.model,
            self.alignment,
            self.codes,
            [(self.codes, reader)],
            steps=self.config.steps,
            reuse=reuse,
            token_budget=self.budget,
            rows=np.arange(min(self.config.ig_sentences, len(self.corpus.bank))),
        )
        return reader.moments(Origin("", "", "upos", "next", "neuron"))

    def _reader(self) -> MomentAccumulator:
        shape = self.reference.shape
        return MomentAccumulator(self.lexicon.labels, *shape, torch.device("cpu"))


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
    bare = rows["bare"]["cpu_seconds"]
    for name in ("bare", "own", "all"):
        rows[name]["bare_passes"] = rows[name]["cpu_seconds"] / bare
    saved = rows["plain"]["cpu_seconds"] / rows["reused"]["cpu_seconds"]
    n_words = {name: int((setting.codes >= 0).sum()) for name in ("bare", "own", "all")}
    n_words |= {name: int(fast.count.sum()) for name in ("reused", "plain")}
    for name, row in rows.items():
        row |= {"words": n_words[name], "speed": n_words[name] / row["cpu_seconds"]}
    more = {"bare passes": "{bare_passes:.2f}", "words / CPU s": "{speed:.0f}"}
    measure.show(
        f"{model_name(setting.model)} on {n_words['bare']:,} words of {setting.corpus.bank.name}; "
        f"integrated gradients of {n_words['plain']:,} in {config.steps} steps; "
        f"one thread, fastest of {config.rounds} rounds",
        "way",
        rows,
        {"words": "{words:,}", **measure.TIMES, **more},
    )
    labels = setting.n_backward
    print(f"both ways of integrated gradients: {difference:.1e} of the largest (allowed {SAME:g})")
    print(measure.target("own / bare", rows["own"]["bare_passes"], OWN))
    print(
        measure.target(
            f"all / bare, {labels:.1f} labels", rows["all"]["bare_passes"], 1 + 2 * labels
        )
    )
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
