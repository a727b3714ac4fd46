"""What a lesion costs: a battery that reads the intact model once, beside one hooked pass per lesion.

    python benchmarks/lesions.py
    python benchmarks/lesions.py --treebank ../shared/data/treebanks/UD_English-EWT:dev --sentences 200

One thread, interleaved rounds, the fastest counts, the same sentences for all:

  clean     the intact model on all batches with its head, nothing read off
  battery   run_battery: all lesions and the intact model
  naive     for the intact model and each lesion: `with lesion(...)`, `model(tokens)`, the losses
  lean      the same with the head at the scored positions only

The lesions are of random neurons in all layers. Shams are scored at the words of the studied tags, as in
a study. Cost is per condition (a lesion, or the intact model) and in clean forward passes. All ways must
give the same losses to 3e-5 nats, or the program ends with an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import measure
import numpy as np
import torch
from typer import Option
from words import about, load, random_lesions

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.corpus.lexicon import DeviceLexicon, split_losses
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.outcomes import Outcomes
from grammar_lens.lesions.prepared import LESION_TAGS
from grammar_lens.model.about import model_name
from grammar_lens.model.forward import next_token_logits

SAME = 3e-5
"""Losses (nats) of both ways agree to this: the bare layers may multiply by another library than the
bridge, and stacked rows are added up in another order: 2e-6 of a loss of some 10 nats."""


@dataclass(frozen=True)
class Config(measure.Flags):
    """The flags."""

    treebank: Annotated[str, Option(help="Words that are lesioned.")] = "embedded:test"
    train: Annotated[str, Option(help="Words of the lexicon.")] = "embedded:train"
    k: Annotated[int, Option(help="Neurons of a lesion.")] = 100
    shams: Annotated[int, Option(help="Sham lesions per tag.")] = 2
    sentences: Annotated[int, Option(help="Sentences lesioned, at most.")] = 60


class Setting:
    """The model, the words, the lesions, and the ways to go through them."""

    def __init__(self, config: Config) -> None:
        self.model, train, self.corpus = load(config, config.treebank, config.sentences)
        self.alignment = self.corpus.alignment
        self.batches = self.corpus.batches(default_budget(self.model))
        self.lexicon = gl.fit_lexicon(self.model, train)
        codes = self.corpus.read("next")
        self.codes = np.where(self.lexicon.prior[codes] > 0, codes, -1)
        tags = [tag for tag in LESION_TAGS if tag in self.lexicon.labels]
        self.shared = np.isin(self.codes, [self.lexicon.labels.index(tag) for tag in tags])
        shape = (self.model.cfg.n_layers, self.model.cfg.d_mlp)
        n_lesions = len(tags) * (1 + config.shams)
        self.conditions = random_lesions(tags, n_lesions, config.k, *shape)

    def battery(self) -> Outcomes:
        """All lesions as rows of one forward pass."""
        return run_battery(
            self.model,
            self.alignment,
            self.codes,
            self.lexicon,
            self.conditions,
            shared=self.shared,
            token_budget=default_budget(self.model),
        )

    @torch.no_grad()
    def clean(self) -> None:
        """One forward pass with the head, nothing more."""
        for batch in self.batches:
            self.model(batch.token_ids)

    def in_turn(self, lean: bool) -> np.ndarray:
        """Tag losses [condition, word], the intact model first, from one pass per condition."""
        rows = [self._losses(lean)]
        for condition in self.conditions:
            with gl.lesion(self.model, condition.neurons):
                rows.append(self._losses(lean))
        return np.stack(rows)

    @torch.no_grad()
    def _logits(self, lean: bool) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for batch in self.batches:
            words, where = batch.locate(self.alignment, "next", self.codes >= 0)
            at = torch.from_numpy(where)
            if lean:
                yield words, next_token_logits(self.model, batch.token_ids, at)
            else:
                yield words, self.model(batch.token_ids).flatten(0, 1)[at]

    def _losses(self, lean: bool) -> np.ndarray:
        losses = np.zeros(len(self.codes))
        tables = None
        for words, logits in self._logits(lean):
            tables = tables or DeviceLexicon.of(self.lexicon, logits.shape[1], logits.device)
            gold = torch.from_numpy(self.alignment.first_token[words])
            label = torch.from_numpy(self.codes[words])
            losses[words] = split_losses(logits, gold, label, tables).tag_loss.numpy()
        return losses[self.codes >= 0]


def main(config: Config) -> None:
    """Checks that both ways agree, times them, prints and writes."""
    measure.positive(config, "k", "sentences", "rounds")
    measure.one_thread()
    setting = Setting(config)
    got = setting.battery().tag_loss
    difference = float(np.nanmax(np.abs(got - setting.in_turn(lean=False))))
    measure.require_same("the losses", difference, SAME)
    ways = {
        "clean": setting.clean,
        "battery": setting.battery,
        "naive": lambda: setting.in_turn(lean=False),
        "lean": lambda: setting.in_turn(lean=True),
    }
    timings = measure.interleaved(ways, config.rounds)
    rows = {name: timing.row() for name, timing in timings.items()}
    n = len(setting.conditions) + 1
    for name, row in rows.items():
        row["conditions"] = 1 if name == "clean" else n
        passes = measure.compare(timings[name], timings["clean"])["ratio"]
        row["clean_passes_per_condition"] = passes / row["conditions"]
    faster = {
        way: measure.compare(timings[way], timings["battery"])["ratio"] for way in ("naive", "lean")
    }
    per_condition = {"clean passes per condition": "{clean_passes_per_condition:.2f}"}
    measure.show(
        f"{model_name(setting.model)} on {len(setting.corpus.bank)} sentences of {setting.corpus.bank.name}, "
        f"{n - 1} lesions of {config.k} neurons; one thread, fastest of {config.rounds} rounds",
        "way",
        rows,
        {"conditions": "{conditions}", **measure.TIMES, **per_condition},
    )
    print(f"same losses: largest difference {difference:.1e} nats (allowed {SAME:g})")
    cost = rows["battery"]["clean_passes_per_condition"]
    print(measure.target("naive / battery", faster["naive"], 2.0, at_least=True))
    print(measure.target("cost of a lesion in clean passes", cost, 0.75))
    print(f"lean / battery: {faster['lean']:.2f}")
    measure.save(
        "lesions",
        config,
        **about(setting.model, setting.corpus),
        rows=rows,
        times_faster_than=faster,
        largest_difference_of_losses=difference,
    )


if __name__ == "__main__":
    start_page(main, Config, __doc__)
