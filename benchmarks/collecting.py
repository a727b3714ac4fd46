"""What collecting costs beside the bare forward pass, and beside the usual TransformerLens way.

    python benchmarks/collecting.py
    python benchmarks/collecting.py --treebank ../shared/data/treebanks/UD_English-EWT:dev

One thread, interleaved rounds, the fastest counts. All but the usual way run over the very same
length-sorted batches:

  bare      the Hugging Face model (sdpa attention, no LM head), activations thrown away
  bridge    the same through TransformerLens' bridge (eager attention), no hooks
  collect   gl.collect: per-tag moments of every neuron of every layer, from one pass
  +resid    the same and every dimension of resid_post
  usual     run_with_cache a sentence at a time, rows copied to NumPy, then np.corrcoef per neuron
            and tag; timed on a sample and EXTRAPOLATED to the whole
  filtered  the same by someone who caches the neurons' hooks only (names_filter)

Peak memory is that of a process of its own per way; "extra" is what the pass adds to what was loaded
before (the process of `bare` holds two models). The usual way keeps every row until the end, so its
peak is the sample's plus, computed, the rows that the sample leaves out. That both ways find
the same correlations is checked on a small whole corpus, where nothing is extrapolated.
Goals, in CPU seconds: collect / bare at most 1.4; usual / collect at least 10.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from measure import (
    FOLDER,
    Timing,
    forget_peak,
    interleaved,
    machine,
    one_thread,
    peak_memory,
    positive,
    show,
    target,
)

import grammar_lens as gl
from grammar_lens.cli import start_page
from grammar_lens.model import REFERENCE_MODEL, Model, forward_body, hook_name, model_name
from grammar_lens.run import library_versions, make_folder, write_json
from grammar_lens.steps import read_source
from grammar_lens.study import Corpus, prepare

POSITION = "next"
USUAL = ("usual", "filtered")
MOST_TO_BARE, LEAST_TO_USUAL = 1.4, 10.0
SAME = 1e-4
"""Correlations of both ways agree to this: padding changes float32 sums in the last digits."""


@dataclass(frozen=True)
class Config:
    """The flags."""

    treebank: Annotated[str, typer.Option(help="As --train of grammar-lens.")] = "embedded:train"
    model: Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")] = (
        REFERENCE_MODEL
    )
    rounds: Annotated[int, typer.Option(help="Rounds; 3 or more to report.")] = 5
    token_budget: Annotated[int, typer.Option(help="Tokens in one batch.")] = 1024
    usual_sentences: Annotated[int, typer.Option(help="Sentences the usual way is timed on.")] = 100
    usual_pairs: Annotated[int, typer.Option(help="Neuron-tag pairs it is timed on.")] = 2000
    check_sentences: Annotated[int, typer.Option(help="Size of the corpus both ways finish.")] = 60
    out: Annotated[Path, typer.Option(help="JSON file.")] = FOLDER / "collecting.json"
    only: Annotated[str, typer.Option(hidden=True)] = ""


class Setting:
    """The model and the words, with every way to go through them."""

    def __init__(self, config: Config, bank: gl.Treebank | None = None) -> None:
        self.config = config
        self.model: Model = gl.load_model(config.model, device="cpu")
        bank = bank or read_source(config.treebank, "upos")
        self.corpus = _readable(self.model, bank)
        self.batches = self.corpus.batches(config.token_budget)

    @cached_property
    def bare_model(self) -> torch.nn.Module:
        """The Hugging Face model as its users load it, without its head."""
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        name = self.config.model
        embedded = name == REFERENCE_MODEL and not Path(name).is_dir()
        where = str(files("grammar_lens") / "embedded" / name) if embedded else name
        loaded = AutoModelForCausalLM.from_pretrained(
            where, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True
        )
        return loaded.eval().base_model

    @torch.no_grad()
    def bare(self) -> None:
        for batch in self.batches:
            self.bare_model(batch.token_ids, use_cache=False)

    def bridge(self) -> None:
        for batch in self.batches:
            forward_body(self.model, batch.token_ids)

    def collect(self, sites: Sequence[str] = ("neuron",)) -> gl.Moments:
        return gl.collect(
            self.model,
            self.corpus,
            sites=sites,
            position=POSITION,
            token_budget=self.config.token_budget,
            show_progress=False,
        )["neuron"]

    def align(self) -> None:
        prepare(self.model, self.corpus.bank, labels=self.corpus.labels)

    @cached_property
    def sample(self) -> np.ndarray:
        """Sentences for the usual way, evenly spread over the lengths."""
        lengths = np.array([len(ids) for ids in self.corpus.alignment.token_ids])
        order = np.argsort(lengths, kind="stable")
        n = min(self.config.usual_sentences, len(order))
        return order[np.linspace(0, len(order) - 1, n).round().astype(int)]

    def usual_activations(
        self, sentences: np.ndarray, *, filtered: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Neurons [word, layer * neuron] and tags [word] of some sentences, one after the other."""
        alignment, codes = self.corpus.alignment, self.corpus.read(POSITION)
        names = [hook_name(self.model, "neuron", la) for la in range(self.model.cfg.n_layers)]
        rows, tags = [], []
        for sentence in sentences:
            ids = torch.from_numpy(alignment.token_ids[sentence])[None]
            with torch.no_grad():
                _, cache = self.model.run_with_cache(ids, names_filter=names if filtered else None)
            start, end = alignment.sentence_start[sentence : sentence + 2]
            words = np.arange(start, end)[codes[start:end] >= 0]
            where = alignment.time(POSITION)[words]
            rows.append(np.concatenate([cache[x][0].numpy()[where] for x in names], axis=1))
            tags.append(codes[words])
        return np.concatenate(rows), np.concatenate(tags)

    def pairs(self, n: int) -> np.ndarray:
        """Random (neuron, tag) pairs, neurons numbered through all layers."""
        rng = np.random.default_rng(0)
        n_neurons = self.model.cfg.n_layers * self.model.cfg.d_mlp
        return np.stack(
            [rng.integers(n_neurons, size=n), rng.integers(len(self.corpus.labels), size=n)], 1
        )


def usual_correlations(x: np.ndarray, tags: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """np.corrcoef of each pair's neuron with "the word has this tag"."""
    return np.array([np.corrcoef(x[:, unit], tags == tag)[0, 1] for unit, tag in pairs])


def main(config: Config) -> None:
    """Measures memory, checks the correlations, times all ways, prints and writes."""
    positive(config, "rounds", "usual_sentences", "usual_pairs", "check_sentences")
    one_thread()
    here = Setting(config)
    if config.only:
        print(json.dumps(memory(here, config.only)))
        return
    peaks = {name: _memory_alone(config, name) for name in _SINGLE}
    difference = check(config)
    timings = time_all(here)
    rows = table(here, timings, peaks)
    ratios = {
        "bridge_to_bare": _ratio(rows, "bridge", "bare"),
        "collect_to_bare": _ratio(rows, "collect", "bare"),
        "collect_to_bridge": _ratio(rows, "collect", "bridge"),
        "collect_resid_to_bare": _ratio(rows, "+resid", "bare"),
        "collect_resid_to_bridge": _ratio(rows, "+resid", "bridge"),
        "usual_to_collect": _ratio(rows, "usual", "collect"),
        "filtered_to_collect": _ratio(rows, "filtered", "collect"),
    }
    report(here, rows, ratios, difference)
    make_folder(config.out.parent)
    write_json(
        config.out,
        {
            "benchmark": "collecting",
            "config": asdict(config),
            "machine": machine(),
            "versions": library_versions(),
            "model": model_name(here.model),
            "treebank": here.corpus.bank.name,
            "sentences": len(here.corpus.bank),
            "tokens": here.corpus.alignment.n_tokens,
            "labels": here.corpus.labels,
            "rows": rows,
            "ratios": ratios,
            "largest_difference_of_correlations": difference,
        },
    )


def time_all(here: Setting) -> dict[str, Timing]:
    """All ways in the same rounds; the usual way in its two parts, on samples."""
    x, tags = here.usual_activations(here.sample)
    n_words = int((here.corpus.read(POSITION) >= 0).sum())
    # a correlation's cost depends on the number of words: the sample's rows are repeated up to it
    pairs = here.pairs(here.config.usual_pairs)
    units, columns = np.unique(pairs[:, 0], return_inverse=True)
    long_x = np.resize(x[:, units], (n_words, len(units)))
    long_tags = np.resize(tags, n_words)
    own_columns = np.stack([columns.ravel(), pairs[:, 1]], 1)
    del x
    _ = here.bare_model
    ways: dict[str, Callable[[], object]] = {
        "bare": here.bare,
        "bridge": here.bridge,
        "collect": here.collect,
        "+resid": partial(here.collect, ("neuron", "resid_post")),
        "align": here.align,
        "usual": lambda: here.usual_activations(here.sample),
        "filtered": lambda: here.usual_activations(here.sample, filtered=True),
        "correlations": lambda: _corrcoefs(long_x, long_tags, own_columns),
    }
    return interleaved(ways, here.config.rounds)


def _corrcoefs(x: np.ndarray, tags: np.ndarray, pairs: np.ndarray) -> None:
    """`usual_correlations` whatever comes out: repeated rows may lack a rare tag."""
    with np.errstate(invalid="ignore", divide="ignore"):
        usual_correlations(x, tags, pairs)


def table(
    here: Setting, timings: dict[str, Timing], peaks: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """The rows: seconds, tokens per second and peak memory of each way, the usual one scaled up."""
    n_pairs = here.model.cfg.n_layers * here.model.cfg.d_mlp * len(here.corpus.labels)
    shares = {
        "sentences": len(here.sample) / len(here.corpus.bank),
        "pairs": here.config.usual_pairs / n_pairs,
    }
    rows: dict[str, dict[str, Any]] = {name: t.row() for name, t in timings.items()}
    correlations = rows.pop("correlations")
    for name in USUAL:
        passes = rows[name]
        rows[name] = {
            key: passes[key] / shares["sentences"] + correlations[key] / shares["pairs"]
            for key in passes
        }
        rows[name] |= {
            "extrapolated_from": shares,
            "activations_cpu_seconds_measured": passes["cpu_seconds"],
            "correlations_cpu_seconds_measured": correlations["cpu_seconds"],
        }
    alignment, codes = here.corpus.alignment, here.corpus.read(POSITION)
    left_out = int((codes >= 0).sum()) - int(
        (codes[np.isin(alignment.sentence, here.sample)] >= 0).sum()
    )
    kept_mib = 4 * left_out * here.model.cfg.n_layers * here.model.cfg.d_mlp / 2**20
    for name, row in rows.items():
        row["tokens_per_cpu_second"] = alignment.n_tokens / row["cpu_seconds"]
        if name in peaks:
            row |= peaks[name]
            row["peak_mib_measured"] = peaks[name]["peak_mib"]
            row["peak_mib"] += kept_mib if name in USUAL else 0
    return rows


def report(
    here: Setting, rows: dict[str, dict[str, Any]], ratios: dict[str, float], difference: float
) -> None:
    corpus, config = here.corpus, here.config
    shares = rows["usual"]["extrapolated_from"]
    bare, bridge = rows["bare"]["cpu_seconds"], rows["bridge"]["cpu_seconds"]
    show(
        f"{model_name(here.model)} on {corpus.bank.name}: {len(corpus.bank):,} sentences, "
        f"{corpus.alignment.n_tokens:,} tokens; one thread, fastest of {config.rounds} rounds",
        (
            "way",
            "CPU s",
            "slowest",
            "wall s",
            "/ bare",
            "/ bridge",
            "tokens/s",
            "peak MiB",
            "extra",
        ),
        [
            (
                f"{name} (extrapolated)" if name in USUAL else name,
                f"{row['cpu_seconds']:.2f}",
                f"{row['cpu_seconds_slowest']:.2f}",
                f"{row['wall_seconds']:.2f}",
                f"{row['cpu_seconds'] / bare:.2f}",
                f"{row['cpu_seconds'] / bridge:.2f}",
                f"{row['tokens_per_cpu_second']:,.0f}",
                f"{row['peak_mib']:,.0f}" if "peak_mib" in row else "",
                f"{row['peak_mib'] - row['loaded_mib']:,.0f}" if "peak_mib" in row else "",
            )
            for name, row in rows.items()
        ],
    )
    print(
        f"usual and filtered: EXTRAPOLATED from {len(here.sample)} sentences ({shares['sentences']:.2%}) and "
        f"{config.usual_pairs:,} of the (neuron, tag) pairs ({shares['pairs']:.2%}); "
        "their memory: the sample's plus the rows left out"
    )
    print("align: tokenising and aligning, once per treebank and model, not part of the ratios")
    print(
        f"same correlations: largest difference {difference:.1e} on all of "
        f"{config.check_sentences} sentences ({config.usual_pairs:,} pairs; allowed {SAME:g})"
    )
    print(target("collect / bare", ratios["collect_to_bare"], MOST_TO_BARE))
    print(target("usual / collect", ratios["usual_to_collect"], LEAST_TO_USUAL, at_least=True))
    print(f"filtered / collect: {ratios['filtered_to_collect']:.2f}")


def check(config: Config) -> float:
    """Largest difference between the correlations of both ways on one small whole corpus.

    Ends the program if they differ by more than rounding.
    """
    bank = gl.load_treebank()["train"]
    few = gl.Treebank(f"{bank.name}, first sentences", bank.sentences[: config.check_sentences])
    here = Setting(config, few)
    x, tags = here.usual_activations(np.arange(len(few)))
    pairs = here.pairs(config.usual_pairs)
    usual = usual_correlations(x, tags, pairs)
    ours = gl.score(here.collect(), "correlation").values.reshape(len(here.corpus.labels), -1)
    difference = float(np.abs(usual - ours[pairs[:, 1], pairs[:, 0]]).max())
    if not difference <= SAME:
        raise SystemExit(f"error: the correlations differ by {difference:.1e}, allowed {SAME:g}")
    return difference


_SINGLE: dict[str, Callable[[Setting], object]] = {
    "bare": lambda here: here.bare(),
    "bridge": lambda here: here.bridge(),
    "collect": lambda here: here.collect(),
    "+resid": lambda here: here.collect(("neuron", "resid_post")),
    "usual": lambda here: here.usual_activations(here.sample),
    "filtered": lambda here: here.usual_activations(here.sample, filtered=True),
}


def memory(here: Setting, name: str) -> dict[str, float]:
    """Resident memory of this process with everything loaded, and at most during one pass, in MiB."""
    if name == "bare":
        _ = here.bare_model
    forget_peak()
    loaded = peak_memory()
    _SINGLE[name](here)
    return {"loaded_mib": loaded, "peak_mib": peak_memory()}


def _memory_alone(config: Config, name: str) -> dict[str, float]:
    """`memory` of one way in a process of its own."""
    flags = (
        f"--treebank={config.treebank}",
        f"--model={config.model}",
        f"--token-budget={config.token_budget}",
        f"--usual-sentences={config.usual_sentences}",
    )
    done = subprocess.run(
        [sys.executable, __file__, *flags, f"--only={name}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _readable(model: Model, bank: gl.Treebank) -> Corpus:
    """The corpus with those tags that at least 2 of its words can be read for."""
    corpus = prepare(model, bank, labels=bank.require_label("upos")[0])
    codes = corpus.read(POSITION)
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    kept = [label for label, n in zip(corpus.labels, counts, strict=True) if n >= 2]
    return prepare(model, bank, labels=kept)


def _ratio(rows: dict[str, dict[str, Any]], above: str, below: str) -> float:
    return rows[above]["cpu_seconds"] / rows[below]["cpu_seconds"]


if __name__ == "__main__":
    start_page(main, Config, __doc__)
