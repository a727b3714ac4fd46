"""What a lesion costs: many at once as rows of one forward pass, beside one pass per lesion.

    python benchmarks/lesions.py
    python benchmarks/lesions.py --treebank ../shared/data/treebanks/UD_English-EWT:dev --sentences 200

One thread, interleaved rounds, the fastest counts, the same batches for all:

  clean     one forward pass with the head at the scored positions, nothing read off
  battery   run_battery: all lesions and the intact model, stacked as rows
  in turn   for the intact model and each lesion: `with lesion(...)`, a forward pass, the losses

Cost is per condition (a lesion, or the intact model) and in clean forward passes. Both ways must give
the same losses to 1e-5 nats, or the program ends with an error.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from measure import FOLDER, interleaved, machine, one_thread, positive, show

import grammar_lens as gl
from grammar_lens.cli import start_page
from grammar_lens.dissociation import sham_sets
from grammar_lens.lesions import run_battery
from grammar_lens.lexicon import DeviceLexicon, split_losses
from grammar_lens.model import REFERENCE_MODEL, model_name, next_token_logits, output_norms
from grammar_lens.outcomes import Condition, Outcomes
from grammar_lens.run import library_versions, make_folder, write_json
from grammar_lens.steps import read_source
from grammar_lens.study import LESION_STACK, LESION_TAGS, default_budget, fresh_corpus, prepare

SAME = 1e-5
"""Losses (nats) of both ways agree to this: stacking rows changes float32 sums in the last digits."""


@dataclass(frozen=True)
class Config:
    """The flags."""

    treebank: Annotated[str, typer.Option(help="Words that are lesioned.")] = "embedded:test"
    train: Annotated[str, typer.Option(help="Words to choose neurons on.")] = "embedded:train"
    model: Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")] = (
        REFERENCE_MODEL
    )
    k: Annotated[int, typer.Option(help="Key neurons per tag.")] = 100
    shams: Annotated[int, typer.Option(help="Sham lesions per tag.")] = 2
    sentences: Annotated[int, typer.Option(help="Sentences lesioned, at most.")] = 60
    rounds: Annotated[int, typer.Option(help="Rounds; 3 or more to report.")] = 3
    out: Annotated[Path, typer.Option(help="JSON file.")] = FOLDER / "lesions.json"


class Setting:
    """The model, the words, the lesions, and the ways to go through them."""

    def __init__(self, config: Config) -> None:
        self.model = gl.load_model(config.model, device="cpu")
        bank = read_source(config.train, "upos")
        train = prepare(self.model, bank, labels=bank.require_label("upos")[0])
        fresh = read_source(config.treebank, "upos")
        self.corpus, _ = fresh_corpus(self.model, fresh, train, config.sentences)
        self.alignment = self.corpus.alignment
        self.batches = self.corpus.batches(default_budget(self.model) // LESION_STACK)
        self.lexicon = gl.fit_lexicon(self.model, train)
        codes = self.corpus.read("next")
        self.codes = np.where(self.lexicon.prior[codes] > 0, codes, -1)
        moments = gl.collect(self.model, train, show_progress=False)["neuron"]
        keys = gl.select(gl.score(moments), config.k)
        keys = keys.only([tag for tag in LESION_TAGS if tag in keys])
        output = moments.mean_abs * output_norms(self.model)
        rng = np.random.default_rng(0)
        self.conditions = [Condition(tag, 0, keys[tag]) for tag in keys]
        self.conditions += sham_sets(keys, output, config.shams, rng, moments.units())

    def battery(self) -> Outcomes:
        """All lesions as rows of one forward pass."""
        return run_battery(
            self.model,
            self.alignment,
            self.batches,
            self.codes,
            self.lexicon,
            self.conditions,
            token_budget=default_budget(self.model),
        )

    def clean(self) -> None:
        """One forward pass with the head, nothing more."""
        for _ in self._logits():
            pass

    def in_turn(self) -> np.ndarray:
        """Tag losses [condition, word], the intact model first, from one pass per condition."""
        rows = [self._losses()]
        for condition in self.conditions:
            with gl.lesion(self.model, condition.neurons):
                rows.append(self._losses())
        return np.stack(rows)

    def _logits(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for batch in self.batches:
            words, where = batch.locate(self.alignment, "next", self.codes >= 0)
            if len(words):
                yield words, next_token_logits(self.model, batch.token_ids, torch.from_numpy(where))

    def _losses(self) -> np.ndarray:
        losses = np.zeros(len(self.codes))
        tables = None
        for words, logits in self._logits():
            tables = tables or DeviceLexicon.of(self.lexicon, logits.shape[1], logits.device)
            gold = torch.from_numpy(self.alignment.first_token[words])
            label = torch.from_numpy(self.codes[words])
            losses[words] = split_losses(logits, gold, label, tables).tag_loss.numpy()
        return losses[self.codes >= 0]


def main(config: Config) -> None:
    """Checks that both ways agree, times them, prints and writes."""
    positive(config, "k", "sentences", "rounds")
    one_thread()
    here = Setting(config)
    difference = float(np.abs(here.battery().tag_loss - here.in_turn()).max())
    if not difference <= SAME:
        raise SystemExit(f"error: the losses differ by {difference:.1e}, allowed {SAME:g}")
    ways = {"clean": here.clean, "battery": here.battery, "in turn": here.in_turn}
    timings = interleaved(ways, config.rounds)
    rows = {name: timing.row() for name, timing in timings.items()}
    n = len(here.conditions) + 1
    clean = rows["clean"]["cpu_seconds"]
    for name, row in rows.items():
        row["conditions"] = 1 if name == "clean" else n
        row["clean_passes_per_condition"] = row["cpu_seconds"] / row["conditions"] / clean
    ratio = rows["battery"]["cpu_seconds"] / rows["in turn"]["cpu_seconds"]
    show(
        f"{model_name(here.model)} on {len(here.corpus.bank)} sentences of {here.corpus.bank.name}, "
        f"{n - 1} lesions of {config.k} neurons; one thread, fastest of {config.rounds} rounds",
        ("way", "conditions", "CPU s", "slowest", "wall s", "clean passes per condition"),
        [
            (
                name,
                str(row["conditions"]),
                f"{row['cpu_seconds']:.2f}",
                f"{row['cpu_seconds_slowest']:.2f}",
                f"{row['wall_seconds']:.2f}",
                f"{row['clean_passes_per_condition']:.2f}",
            )
            for name, row in rows.items()
        ],
    )
    print(f"same losses: largest difference {difference:.1e} nats (allowed {SAME:g})")
    print(f"battery / in turn: {ratio:.2f}")
    make_folder(config.out.parent)
    write_json(
        config.out,
        {
            "benchmark": "lesions",
            "config": asdict(config),
            "machine": machine(),
            "versions": library_versions(),
            "model": model_name(here.model),
            "treebank": here.corpus.bank.name,
            "sentences": len(here.corpus.bank),
            "tokens": here.alignment.n_tokens,
            "rows": rows,
            "battery_to_in_turn": ratio,
            "largest_difference_of_losses": difference,
        },
    )


if __name__ == "__main__":
    start_page(main, Config, __doc__)
