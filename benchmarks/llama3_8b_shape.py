"""What everything costs at the shape of Llama 3 8B on a GPU, in forward passes of the same model.

    python benchmarks/llama3_8b_shape.py
    python benchmarks/llama3_8b_shape.py --minutes 5 --sentences 1000
    python benchmarks/llama3_8b_shape.py --device cpu --layers 2 --d-model 64 --d-mlp 160 --heads 4 \\
        --kv-heads 2 --sentences 20 --rounds 1

The weights are random and made on the device (16 GB in bfloat16, none of it on disk); the tokenizer is
the real one, so sentences have their real lengths. Wall seconds with the device synchronised, in
interleaved rounds after an untimed one; the fastest counts. New rounds are started only while there
is time (--minutes), and what was measured is written in any case.

moments, over the same length-sorted batches:

  bare      Hugging Face's own model (sdpa, no LM head), activations thrown away
  layers    the layers of the model that is collected from, without hooks
  collect   gl.collect: means, variances and firing counts of every neuron and of resid_post, by tag
  plan, pass, found   its three parts: what is decided before, the pass, what is made of it on the host
  plain     `collect` reduced by PyTorch's own operations where it has the Triton kernels otherwise
  features  chosen neurons' activations at every word to the host, as a probe needs them
  opening   what every pass first spends on making sure that the bare layers are the same model

attribution, over the same batches:

  head      `bare` with the head at the scored words
  own       attribute_own into moments: one forward and one backward pass

lesions, over fewer sentences:

  clean     Hugging Face's own model with the head at the scored words
  battery   run_battery: the intact model and all lesions, each of neurons in all layers and scored at all words

The moments of the neurons of `features` must be those that float64 arithmetic in two passes gives for
these activations, and `plain` must agree with `collect`, or the program ends with an error (after writing).
Goals: collect / layers and pass / layers at most 1.05, collect / bare at most 1.12, own / head at most
2.2, a lesion of the battery / clean at most 0.85. `opening`, `plan` and `found` cost the same whatever
the corpus, so they weigh less on a larger one (--treebank ../shared/data/treebanks/UD_English-EWT:train).
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
from measure import OutFlag, Timing, compare, interleaved, positive, save, show, spread
from typer import Option
from words import POSITION, own_attribution, random_lesions, readable, run_body, run_with_head

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.alignment import TokenBatch, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.outcomes import Outcomes
from grammar_lens.model.about import Model
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.passes import moments as moments_module
from grammar_lens.passes.moments import Moments
from grammar_lens.passes.reduction import PLAIN
from grammar_lens.passes.shared import features, read_one
from grammar_lens.selectivity.collect_plan import CollectSpec
from grammar_lens.selectivity.collecting import Collection

DATA = "../shared/data"
GOALS = {
    "collect / layers": 1.05,
    "pass / layers": 1.05,
    "collect / bare": 1.12,
    "own / head": 2.2,
    "a lesion / clean": 0.85,
}
SITES = ("neuron", "resid_post")
UNREAD = ("opening", "plan", "found")
"""Ways that read no words."""
SAME = 1e-4
"""Means in standard deviations, and squared deviations relative, agree to this."""


@dataclass(frozen=True)
class Config(OutFlag):
    """The flags."""

    treebank: Annotated[str, Option(help="As --train of grammar-lens.")] = (
        f"{DATA}/treebanks/UD_English-EWT:dev"
    )
    tokenizer: Annotated[Path, Option(help="Folder of the tokenizer.")] = Path(
        f"{DATA}/tokenizers/llama3"
    )
    device: Annotated[str, Option(help="cuda, or cpu at small sizes.")] = "cuda"
    dtype: Annotated[str, Option(help="Of weights and activations.")] = "bfloat16"
    layers: Annotated[int, Option(help="Layers.")] = 32
    d_model: Annotated[int, Option(help="Width of the residual stream.")] = 4096
    d_mlp: Annotated[int, Option(help="Neurons of a layer.")] = 14_336
    heads: Annotated[int, Option(help="Attention heads.")] = 32
    kv_heads: Annotated[int, Option(help="Heads of keys and values.")] = 8
    sentences: Annotated[int, Option(help="Sentences, at most.")] = 100_000
    lesion_sentences: Annotated[int, Option(help="Of these, for lesions.")] = 400
    lesions: Annotated[int, Option(help="Lesions of the battery.")] = 16
    k: Annotated[int, Option(help="Neurons of a lesion; 10 times as many features.")] = 100
    token_budget: Annotated[int, Option(help="Tokens in one batch.")] = 4096
    rounds: Annotated[int, Option(help="Rounds of moments; 7 or more to report.")] = 7
    slow_rounds: Annotated[int, Option(help="Of attribution and lesions, at most.")] = 3
    minutes: Annotated[float, Option(help="After these no round is started.")] = 8.0


def make_models(config: Config) -> tuple[Model, Any]:
    """The hooked model, and Hugging Face's own around the same weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer, local_files_only=True)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    make, dtype = AutoModelForCausalLM.from_config, getattr(torch, config.dtype)
    torch.manual_seed(0)
    with torch.device(config.device):
        inner = make(copy.deepcopy(shape), dtype=dtype, attn_implementation="eager").eval()
    with torch.device("meta"):
        own: Any = make(shape, dtype=dtype, attn_implementation="sdpa").eval()
    own.load_state_dict(inner.state_dict(), assign=True)
    own.model.rotary_emb = copy.deepcopy(inner.model.rotary_emb)  # its buffer is in no state dict
    own.requires_grad_(False)
    return gl.load_model(inner, tokenizer=tokenizer, device=config.device), own


class Setting:
    """The models, the words, and the ways to go through them."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, torch.device(config.device)
        self.model, self.bare_model = make_models(config)
        fast = fast_path(self.model)
        if fast is None:
            print("the bare layers do not agree with the bridge: all goes through the bridge")
        self.has_layers = fast is not None
        self.layers: Any = self.bare_model.model if fast is None else fast.body
        bank = load_treebank(config.treebank, label="upos").sample(config.sentences, seed=0)
        self.corpus = readable(self.model, bank)
        self.alignment, self.codes = self.corpus.alignment, self.corpus.read(POSITION)
        self.few = np.where(self.alignment.sentence < config.lesion_sentences, self.codes, -1)
        self.batches, self.few_batches = self._batches(self.codes), self._batches(self.few)
        self.lexicon = gl.fit_lexicon(self.model, self.corpus)
        shape = (config.layers, config.d_mlp)
        n_units = config.layers * config.d_mlp
        chosen = np.random.default_rng(0).permutation(n_units)[: 10 * config.k]
        self.addresses = np.stack(np.unravel_index(np.sort(chosen), shape), 1)
        self.conditions = random_lesions(self.corpus.labels, config.lesions, config.k, *shape)
        self.collection: Collection | None = None
        self.peak_gib: dict[str, float] = {}

    def _batches(self, codes: np.ndarray) -> list[TokenBatch]:
        rows = np.unique(self.alignment.row[codes >= 0])
        return token_batches(self.alignment, self.config.token_budget, rows=rows)

    def collect(self) -> Moments:
        return gl.collect(
            self.model,
            self.corpus,
            sites=SITES,
            position=POSITION,
            token_budget=self.config.token_budget,
            show_progress=False,
        )["neuron"]

    def plain(self) -> Moments:
        with patch.object(moments_module, "reduction_for", lambda _: PLAIN):
            return self.collect()

    def plan(self) -> None:
        wanted = CollectSpec(SITES, (POSITION,), replicates=0, sample=0, controls=False, seed=0)
        self.collection = Collection(self.model, [self.corpus], wanted, self.config.token_budget)

    def pass_alone(self) -> None:
        assert self.collection is not None
        self.collection.read(False)

    def found(self) -> None:
        assert self.collection is not None
        self.collection.results()
        self.collection = None

    def features(self) -> np.ndarray:
        """Activations [word, address]."""
        words, budget = np.flatnonzero(self.codes >= 0), self.config.token_budget
        reading = features(self.corpus, words, self.addresses, POSITION)
        return read_one(self.model, reading, "", token_budget=budget, show_progress=False)

    def battery(self) -> Outcomes:
        return run_battery(
            self.model,
            self.alignment,
            self.few,
            self.lexicon,
            self.conditions,
            token_budget=default_budget(self.model),
        )

    def groups(self) -> dict[str, dict[str, Callable[[], object]]]:
        """Everything that is timed, by what is compared with what."""
        words, bare = (self.alignment, self.batches), self.bare_model
        few = (self.alignment, self.few_batches, self.few >= 0)
        return {
            "moments": {
                "bare": lambda: run_body(bare.model, self.batches),
                "layers": lambda: run_body(self.layers, self.batches),
                "collect": self.collect,
                "plan": self.plan,
                "pass": self.pass_alone,
                "found": self.found,
                "plain": self.plain,
                "features": self.features,
                "opening": lambda: fast_path(self.model),
            },
            "attribution": {
                "head": lambda: run_with_head(bare, *words, self.codes >= 0),
                "own": lambda: own_attribution(self.model, *words, self.codes, self.lexicon),
            },
            "lesions": {"clean": lambda: run_with_head(bare, *few), "battery": self.battery},
        }

    def on_device(self, name: str, way: Callable[[], object]) -> Callable[[], object]:
        """The way until the device has done it, with the most memory it took there."""
        if self.device.type != "cuda":
            return way

        def watched() -> None:
            torch.cuda.reset_peak_memory_stats(self.device)
            way()
            torch.cuda.synchronize(self.device)
            self.peak_gib[name] = torch.cuda.max_memory_allocated(self.device) / 2**30

        return watched


def check(setting: Setting) -> dict[str, float]:
    """Largest differences of moments from two passes in float64, and from PyTorch's operations.

    Means are in standard deviations of all words together: the few words of a rare tag may be equal.
    """
    collected, plain, x = setting.collect(), setting.plain(), setting.features().astype(float)
    sd = np.sqrt(collected.pooled()[1] / collected.n_words) + 1e-30
    codes, units = setting.codes[setting.codes >= 0], tuple(setting.addresses.T)
    worst = {
        "plain_mean_in_sd": float((np.abs(collected.mean - plain.mean) / sd).max()),
        "plain_fired": float(np.abs(collected.fired - plain.fired).max()),
        "mean_in_sd": 0.0,
        "m2_relative": 0.0,
    }
    for label in range(len(collected.labels)):
        of_label = x[codes == label]
        mean = np.abs(collected.mean[label][units] - of_label.mean(0)) / sd[units]
        m2 = len(of_label) * of_label.var(0)
        least = len(of_label) * sd[units] ** 2 / 100
        relative = np.abs(collected.m2[label][units] - m2) / np.maximum(m2, least)
        worst["mean_in_sd"] = max(worst["mean_in_sd"], float(mean.max()))
        worst["m2_relative"] = max(worst["m2_relative"], float(relative.max()))
    return worst


def main(config: Config) -> None:
    """Checks, times group by group while there is time, prints and writes."""
    names = ("layers", "sentences", "lesion_sentences", "lesions", "k", "rounds", "slow_rounds")
    positive(config, *names)
    until = time.monotonic() + 60 * config.minutes
    setting = Setting(config)
    worst = check(setting)
    print(f"moments: largest differences {worst}")
    timings: dict[str, Timing] = {}
    for group, ways in setting.groups().items():
        if timings and time.monotonic() > until:
            print(f"{group}: not measured, {config.minutes:g} minutes were over")
            continue
        most = config.rounds if group == "moments" else config.slow_rounds
        watched = {name: setting.on_device(name, way) for name, way in ways.items()}
        new = interleaved(watched, most, until=until)
        timings |= new
        report(setting, group, new)
        write(setting, timings, worst)
    if max(worst.values()) > SAME:
        raise SystemExit(f"error: the moments differ by more than {SAME:g}: {worst}")


def rows_of(setting: Setting, timings: dict[str, Timing]) -> dict[str, dict[str, float | None]]:
    """What was measured of every way; no tokens of a way that reads none."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, timing in timings.items():
        peak = setting.peak_gib.get(name)
        rows[name] = {**timing.row(), "rounds": len(timing.wall), "peak_gpu_gib": peak}
        if name not in UNREAD:
            lesions = name in ("clean", "battery")
            tokens = sum(b.n_tokens for b in (setting.few_batches if lesions else setting.batches))
            rows[name] |= {"tokens": tokens, "tokens_per_second": tokens / min(timing.wall)}
    return rows


def ratios_of(setting: Setting, timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """Every ratio whose two ways have been timed."""
    pairs = [
        *(("layers", "bare"), ("collect", "layers"), ("pass", "layers"), ("collect", "bare")),
        *(("pass", "bare"), ("plan", "layers"), ("found", "layers"), ("plain", "layers")),
        *(("plain", "collect"), ("features", "layers"), ("opening", "layers"), ("own", "head")),
    ]
    ratios = {
        f"{a} / {b}": compare(timings[a], timings[b], "wall") for a, b in pairs if b in timings
    }
    if "battery" in timings:
        whole = compare(timings["battery"], timings["clean"], "wall")
        n = len(setting.conditions) + 1
        ratios["a lesion / clean"] = {name: ratio / n for name, ratio in whole.items()}
    return ratios


def write(setting: Setting, timings: dict[str, Timing], worst: dict[str, float]) -> None:
    config = setting.config
    like = torch.zeros(1, 1, dtype=getattr(torch, config.dtype), device=setting.device)
    save(
        "llama3_8b_shape",
        config,
        gpu=torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else None,
        reduction=type(moments_module.reduction_for(like)).__name__,
        treebank=setting.corpus.bank.name,
        sentences=len(setting.corpus.bank),
        rows=rows_of(setting, timings),
        ratios=ratios_of(setting, timings),
        goals=GOALS,
        bare_layers_agree=setting.has_layers,
        largest_differences=worst,
    )


def report(setting: Setting, group: str, timings: dict[str, Timing]) -> None:
    config, bank = setting.config, setting.corpus.bank
    show(
        f"{group}: {config.layers} layers, d_model {config.d_model}, d_mlp {config.d_mlp}, {config.dtype}, on "
        f"{config.device}; {len(bank):,} sentences of {bank.name}",
        "way",
        rows_of(setting, timings),
        {
            "rounds": "{rounds}",
            "wall s": "{wall_seconds:.3f}",
            "slowest": "{wall_seconds_slowest:.3f}",
            "tokens": "{tokens:,}",
            "tokens/s": "{tokens_per_second:,.0f}",
            "peak GPU GiB": "{peak_gpu_gib:.1f}",
        },
    )
    for name, of in ratios_of(setting, timings).items():
        print(spread(name, of, GOALS.get(name)))


if __name__ == "__main__":
    start_page(main, Config, __doc__)
