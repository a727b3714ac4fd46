"""What collecting costs beside the bare forward pass, and beside the usual TransformerLens way.

    python benchmarks/collecting.py
    python benchmarks/collecting.py --treebank ../shared/data/treebanks/UD_English-EWT:dev

One thread, interleaved rounds, the fastest counts. All but the last four run over the very same
length-sorted batches; what is collected is per-tag means, variances and firing counts of every neuron
and of every dimension of resid_post in every layer:

  bare      the Hugging Face model loaded afresh (sdpa, no LM head), activations thrown away
  layers    the same through the layers of the model that is collected from, without hooks
  bridge    the same through TransformerLens' bridge (eager attention), no hooks
  pass      the pass of `collect` alone: what is decided of words before it and made of it later left out
  collect   gl.collect as it is called, given aligned words
  neurons   gl.collect of the neurons alone
  align     tokenising and aligning, once per treebank and model; in none of the ratios but its own
  copied    PyTorch's hooks copy the words' rows to the host, NumPy makes the statistics of them
  nnsight   nnsight's traces, sums per tag batch by batch (if it is installed: see peers.py)
  usual     run_with_cache a sentence at a time, rows copied to NumPy, then np.corrcoef per unit
            and tag; timed on a sample and EXTRAPOLATED to the whole
  filtered  the same by someone who caches the two sites' hooks only (names_filter)

Peak memory is that of a process of its own per way; "extra" is what the pass adds to what was loaded
before. The usual way keeps every row until the end, so its peak is the sample's plus, computed, the
rows that the sample leaves out. That both ways find the same correlations is checked on a small whole
corpus, where nothing is extrapolated.
Goals, in CPU seconds: collect / layers at most 1.10; collect / bare at most 1.25; usual / collect at
least 15. In memory: what collect adds at most a tenth of what the usual way adds.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any

import measure
import numpy as np
import torch
from peers import SITES, Peers, correlations, has_nnsight
from typer import Option
from words import POSITION, hugging_face, readable, run_body

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.alignment import token_batches
from grammar_lens.corpus.corpus import prepare
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.model.about import Model, model_name
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.forward import final_hidden
from grammar_lens.passes.memory import peak_host
from grammar_lens.selectivity.collect_plan import CollectSpec
from grammar_lens.selectivity.collecting import Collected, Collection

EXTRAPOLATED = ("usual", "filtered")
USUAL, EXTRA = 15.0, 0.1
COMPARED = {
    "layers": ("bare", "pass", "neurons", "collect"),
    "bare": ("bridge", "neurons", "collect", "copied"),
    "bridge": ("collect",),
    "collect": ("align", "copied", "nnsight"),
}
"""Ways by what they are compared with round by round."""
GOALS = {"collect / layers": 1.10, "collect / bare": 1.25}
SAME = 1e-4
"""Correlations of both ways agree to this: padding changes float32 sums in the last digits."""


@dataclass(frozen=True)
class Config(measure.Flags):
    """The flags."""

    treebank: Annotated[str, Option(help="As --train of grammar-lens.")] = "embedded:train"
    rounds: Annotated[int, Option(help="Rounds; 7 or more to report.")] = 7
    token_budget: Annotated[int, Option(help="Tokens in one batch.")] = 2048
    usual_sentences: Annotated[int, Option(help="Sentences the usual way is timed on.")] = 100
    usual_pairs: Annotated[int, Option(help="Unit-tag pairs it is timed on.")] = 2000
    check_sentences: Annotated[int, Option(help="Size of the corpus both ways finish.")] = 60
    only: Annotated[str, Option(hidden=True)] = ""


class Setting:
    """The model and the words, with every way to go through them."""

    def __init__(self, config: Config, bank: gl.Treebank | None = None) -> None:
        self.config = config
        self.model: Model = gl.load_model(config.model, device="cpu")
        bank = bank or load_treebank(config.treebank, label="upos")
        self.corpus = readable(self.model, bank)
        alignment = self.corpus.alignment
        self.rows = np.unique(alignment.row[self.corpus.read(POSITION) >= 0])
        self.batches = token_batches(alignment, config.token_budget, rows=self.rows)
        self.n_tokens = sum(batch.n_tokens for batch in self.batches)

    @cached_property
    def fresh(self) -> torch.nn.Module:
        """The Hugging Face model as its users load it, without its head."""
        return hugging_face(self.config.model).base_model

    @cached_property
    def own_layers(self) -> torch.nn.Module:
        """The layers of the model that is collected from."""
        fast = fast_path(self.model)
        if fast is None:
            raise SystemExit(f"error: {model_name(self.model)} has no bare layers to compare with")
        return fast.body

    @cached_property
    def peers(self) -> Peers:
        return Peers(self.model, self.fresh, self.corpus, self.batches)

    @torch.no_grad()
    def bridge(self) -> None:
        for batch in self.batches:
            final_hidden(self.model, batch.token_ids)

    def collect(self, sites: Sequence[str] = SITES) -> Collected:
        return gl.collect(
            self.model,
            self.corpus,
            sites=sites,
            position=POSITION,
            token_budget=self.config.token_budget,
            show_progress=False,
        )

    def collection(self) -> Collection:
        wanted = CollectSpec(SITES, (POSITION,), replicates=0, sample=0, controls=False, seed=0)
        return Collection(self.model, [self.corpus], wanted, self.config.token_budget)

    def align(self) -> None:
        prepare(self.model, self.corpus.bank, labels=self.corpus.labels)

    @cached_property
    def sample(self) -> np.ndarray:
        """Sentences for the usual way, evenly spread over the lengths."""
        lengths = np.array([len(self.corpus.alignment.token_ids[row]) for row in self.rows])
        order = self.rows[np.argsort(lengths, kind="stable")]
        n = min(self.config.usual_sentences, len(order))
        return order[np.linspace(0, len(order) - 1, n).round().astype(int)]


def main(config: Config) -> None:
    """Measures memory, checks the correlations, times all ways, prints and writes."""
    measure.positive(config, "rounds", "usual_sentences", "usual_pairs", "check_sentences")
    measure.one_thread()
    setting = Setting(config)
    if config.only:
        print(json.dumps(memory(setting, config.only)))
        return
    peaks = {name: measure.in_own_process(__file__, config, name) for name in single()}
    difference = check(config)
    timings = time_all(setting)
    rows = table(setting, timings, peaks)
    ratios = {
        f"{above} / {below}": measure.compare(timings[above], timings[below])
        for below, others in COMPARED.items()
        for above in others
        if above in timings
    }
    report(setting, rows, ratios)
    n_pairs = f"{config.usual_pairs:,} pairs; allowed {SAME:g}"
    print(f"same correlations: largest difference {difference:.1e} ({n_pairs})")
    measure.save(
        "collecting",
        config,
        model=model_name(setting.model),
        treebank=setting.corpus.bank.name,
        sentences=len(setting.rows),
        tokens=setting.n_tokens,
        labels=setting.corpus.labels,
        rows=rows,
        ratios=ratios,
        largest_difference_of_correlations=difference,
    )


def time_all(setting: Setting) -> dict[str, measure.Timing]:
    """All ways in the same rounds; the usual way in its two parts, on samples."""
    peers, ready = setting.peers, [setting.collection() for _ in range(setting.config.rounds + 1)]
    x, tags = peers.usual(setting.sample)
    n_words = int((peers.codes >= 0).sum())
    # a correlation's cost depends on the number of words: the sample's rows are repeated up to it
    pairs = peers.pairs(setting.config.usual_pairs)
    units, columns = np.unique(pairs[:, 0], return_inverse=True)
    long_x = np.resize(x[:, units], (n_words, len(units)))
    long_tags = np.resize(tags, n_words)
    own_columns = np.stack([columns.ravel(), pairs[:, 1]], 1)
    del x
    _ = setting.fresh, setting.own_layers
    ways: dict[str, Callable[[], object]] = {
        **{name: partial(_SINGLE[name], setting) for name in single()},
        "pass": lambda: ready.pop().read(False),
        "align": setting.align,
        "correlations": lambda: _corrcoefs(long_x, long_tags, own_columns),
    }
    return measure.interleaved(ways, setting.config.rounds)


def _corrcoefs(x: np.ndarray, tags: np.ndarray, pairs: np.ndarray) -> None:
    """`correlations` whatever comes out: repeated rows may lack a rare tag."""
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations(x, tags, pairs)


def table(
    setting: Setting, timings: dict[str, measure.Timing], peaks: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """The rows: seconds, tokens per second and memory of each way, the usual one scaled up."""
    n_columns, codes = setting.peers.n_columns, setting.peers.codes
    shares = {
        "sentences": len(setting.sample) / len(setting.rows),
        "pairs": setting.config.usual_pairs / (n_columns * len(setting.corpus.labels)),
    }
    rows: dict[str, dict[str, Any]] = {name: t.row() for name, t in timings.items()}
    one_by_one = rows.pop("correlations")
    for name in EXTRAPOLATED:
        passes = rows[name]
        rows[name] = {
            key: passes[key] / shares["sentences"] + one_by_one[key] / shares["pairs"]
            for key in passes
        }
        rows[name] |= {
            "extrapolated_from": shares,
            "activations_cpu_seconds_measured": passes["cpu_seconds"],
            "correlations_cpu_seconds_measured": one_by_one["cpu_seconds"],
        }
    left_out = (codes >= 0) & ~np.isin(setting.corpus.alignment.row, setting.sample)
    kept_mib = 4 * int(left_out.sum()) * n_columns / 2**20
    for name, row in rows.items():
        row["tokens_per_cpu_second"] = setting.n_tokens / row["cpu_seconds"]
        if name in peaks:
            row |= {**peaks[name], "peak_mib_measured": peaks[name]["peak_mib"]}
            row["peak_mib"] += kept_mib if name in EXTRAPOLATED else 0
            row["extra_mib"] = row["peak_mib"] - row["loaded_mib"]
    return rows


def report(
    setting: Setting, rows: dict[str, dict[str, Any]], ratios: dict[str, dict[str, float]]
) -> None:
    config, shares = setting.config, rows["usual"]["extrapolated_from"]
    for row in rows.values():
        for below in ("layers", "bare"):
            row[f"to_{below}"] = row["cpu_seconds"] / rows[below]["cpu_seconds"]
    more = {"tokens/s": "tokens_per_cpu_second", "peak MiB": "peak_mib", "extra": "extra_mib"}
    measure.show(
        f"{model_name(setting.model)} on {setting.corpus.bank.name}: {len(setting.rows):,} sentences, "
        f"{setting.n_tokens:,} tokens; one thread, fastest of {config.rounds} rounds",
        "way",
        {f"{x} (extrapolated)" if x in EXTRAPOLATED else x: row for x, row in rows.items()},
        {
            **measure.TIMES,
            "/ layers": "{to_layers:.2f}",
            "/ bare": "{to_bare:.2f}",
            **{title: f"{{{key}:,.0f}}" for title, key in more.items()},
        },
    )
    print(
        f"usual and filtered: EXTRAPOLATED from {len(setting.sample)} sentences ({shares['sentences']:.2%}) "
        f"and {config.usual_pairs:,} of the (unit, tag) pairs ({shares['pairs']:.2%}); "
        "their memory: the sample's plus the rows left out"
    )
    if not has_nnsight():
        print("nnsight: not installed, left out (see peers.py)")
    for name, of in ratios.items():
        print(measure.spread(name, of, GOALS.get(name)))
    collect = rows["collect"]
    usual, filtered = (rows[x]["cpu_seconds"] / collect["cpu_seconds"] for x in EXTRAPOLATED)
    extra = collect["extra_mib"] / rows["usual"]["extra_mib"]
    print(measure.target("usual / collect", usual, USUAL, at_least=True))
    print(f"filtered / collect: {filtered:.2f}")
    print(measure.target("extra memory, collect / usual", extra, EXTRA))


def check(config: Config) -> float:
    """Largest difference between the correlations of both ways on one small whole corpus.

    Ends the program if they differ by more than rounding.
    """
    bank = gl.load_treebank()["train"]
    few = gl.Treebank(f"{bank.name}, first sentences", bank.sentences[: config.check_sentences])
    setting = Setting(config, few)
    pairs = setting.peers.pairs(config.usual_pairs)
    expected = correlations(*setting.peers.usual(setting.rows), pairs)
    evidence = setting.collect()
    scores = [gl.score(evidence[site], "correlation").values for site in SITES]
    measured = np.concatenate([s.reshape(len(setting.corpus.labels), -1) for s in scores], axis=1)
    difference = float(np.abs(expected - measured[pairs[:, 1], pairs[:, 0]]).max())
    measure.require_same("the correlations", difference, SAME)
    return difference


_SINGLE: dict[str, Callable[[Setting], object]] = {
    "bare": lambda s: run_body(s.fresh, s.batches),
    "layers": lambda s: run_body(s.own_layers, s.batches),
    "bridge": lambda s: s.bridge(),
    "collect": lambda s: s.collect(),
    "neurons": lambda s: s.collect(("neuron",)),
    "copied": lambda s: s.peers.copied(),
    "nnsight": lambda s: s.peers.nnsight(),
    "usual": lambda s: s.peers.usual(s.sample),
    "filtered": lambda s: s.peers.usual(s.sample, filtered=True),
}
"""Every way whose memory is measured alone."""


def single() -> list[str]:
    """The ways of `_SINGLE` that can be gone here."""
    return [name for name in _SINGLE if name != "nnsight" or has_nnsight()]


def memory(setting: Setting, name: str) -> dict[str, float]:
    """Resident memory of this process with everything loaded, and at most during one pass, in MiB."""
    _ = setting.fresh, setting.own_layers
    measure.forget_peak()
    loaded = peak_host()
    _SINGLE[name](setting)
    return {"loaded_mib": loaded, "peak_mib": peak_host()}


if __name__ == "__main__":
    start_page(main, Config, __doc__)
