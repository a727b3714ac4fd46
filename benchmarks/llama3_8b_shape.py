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
  clean all the same with the head at every token
  battery   run_battery: the intact model and all lesions, each of neurons in all layers and scored at all words

The moments of some neurons must be those that float64 arithmetic in two passes gives for activations
taken from Hugging Face's own model, or the program ends with an error (after writing).
Goals: collect / layers and pass / layers at most 1.05, collect / bare at most 1.12, own / head at most
2.2, a lesion of the battery / clean at most 0.85. `opening`, `plan` and `found` cost the same whatever
the corpus, so they weigh less on a larger one (--treebank ../shared/data/treebanks/UD_English-EWT:train).
"""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
from measure import FOLDER, Timing, compare, positive, save, show, target
from typer import Option
from words import POSITION, random_lesions, readable

import grammar_lens as gl
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.alignment import TokenBatch, token_batches
from grammar_lens.corpus.corpus import default_budget
from grammar_lens.corpus.origin import Origin
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.lesions.battery import run_battery
from grammar_lens.model.about import Model
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.passes import moments as moments_module
from grammar_lens.passes.moments import MomentAccumulator, Moments
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.reduction import PLAIN
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.selectivity.attribution.first_order import attribute_own
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
CHECKED = 16
"""Neurons of each of three layers whose moments are checked."""
SAME = 1e-4
"""Means in standard deviations, and squared deviations relative, agree to this."""


@dataclass(frozen=True)
class Config:
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
    out: Annotated[Path, Option(help="JSON file.")] = FOLDER / "llama3_8b_shape.json"


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
        self.model, self.own_model = make_models(config)
        fast = fast_path(self.model)
        if fast is None:
            print(
                "the bare layers do not agree with the bridge: everything goes through the bridge"
            )
        self.has_layers = fast is not None
        self.own_layers: Any = self.own_model.model if fast is None else fast.body
        self.collection: Collection | None = None
        bank = load_treebank(config.treebank, label="upos").sample(config.sentences, seed=0)
        self.corpus = readable(self.model, bank)
        self.alignment, self.codes = self.corpus.alignment, self.corpus.read(POSITION)
        self.batches = self._batches(self.codes)
        self.lexicon = gl.fit_lexicon(self.model, self.corpus)
        self.few = self.codes.copy()
        self.few[self.alignment.sentence >= config.lesion_sentences] = -1
        self.few_batches = self._batches(self.few)
        rng = np.random.default_rng(0)
        self.shape = (config.layers, config.d_mlp)
        n_features = min(10 * config.k, config.layers * config.d_mlp)
        chosen = rng.choice(config.layers * config.d_mlp, n_features, replace=False)
        self.features = np.stack(np.unravel_index(np.sort(chosen), self.shape), 1)
        self.conditions = random_lesions(self.corpus.labels, config.lesions, config.k, *self.shape)

    def _batches(self, codes: np.ndarray) -> list[TokenBatch]:
        rows = np.unique(self.alignment.row[codes >= 0])
        return token_batches(self.alignment, self.config.token_budget, rows=rows)

    @torch.no_grad()
    def run(self, body: Any) -> None:
        for batch in self.batches:
            body(batch.token_ids.to(self.device), use_cache=False)

    @torch.no_grad()
    def with_head(self, batches: list[TokenBatch], codes: np.ndarray, *, every: bool) -> None:
        for batch in batches:
            _, where = batch.locate(self.alignment, POSITION, codes >= 0)
            hidden = self.own_model.model(batch.token_ids.to(self.device), use_cache=False)
            hidden = hidden.last_hidden_state.flatten(0, 1)
            at = torch.from_numpy(where).to(self.device)
            self.own_model.lm_head(hidden if every else hidden.index_select(0, at))

    def collect(self) -> Moments:
        return gl.collect(
            self.model,
            self.corpus,
            sites=SITES,
            position=POSITION,
            token_budget=self.config.token_budget,
            show_progress=False,
        )["neuron"]

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

    def plain(self) -> Moments:
        with patch.object(moments_module, "reduction_for", lambda _: PLAIN):
            return self.collect()

    def probe_features(self) -> np.ndarray:
        wanted = self.codes >= 0
        reader = FeatureReader(len(self.codes), self.features)
        numbers = np.arange(len(self.codes))
        tap = Tap("neuron", POSITION, wanted, numbers, reader, reader.layers)
        stream(self.model, self.alignment, self.batches, [tap])
        return reader.values

    def own(self) -> Moments:
        reader = MomentAccumulator(self.lexicon.labels, *self.shape, self.device)
        attribute_own(
            self.model,
            self.alignment,
            self.batches,
            self.codes,
            self.lexicon,
            np.zeros(self.shape),
            [(self.codes, reader)],
        )
        return reader.moments(Origin("", "", "upos", POSITION, "neuron"))

    def battery(self) -> None:
        run_battery(
            self.model,
            self.alignment,
            self.few,
            self.lexicon,
            self.conditions,
            token_budget=default_budget(self.model),
        )

    def groups(self) -> dict[str, dict[str, Callable[[], object]]]:
        """Everything that is timed, by what is compared with what."""
        return {
            "moments": {
                "bare": lambda: self.run(self.own_model.model),
                "layers": lambda: self.run(self.own_layers),
                "collect": self.collect,
                "plan": self.plan,
                "pass": self.pass_alone,
                "found": self.found,
                "plain": self.plain,
                "features": self.probe_features,
                "opening": lambda: fast_path(self.model),
            },
            "attribution": {
                "head": lambda: self.with_head(self.batches, self.codes, every=False),
                "own": self.own,
            },
            "lesions": {
                "clean": lambda: self.with_head(self.few_batches, self.few, every=False),
                "clean all": lambda: self.with_head(self.few_batches, self.few, every=True),
                "battery": self.battery,
            },
        }


@dataclass
class Clock:
    """Rounds until time is up, with the device waited for and its memory watched."""

    device: torch.device
    until: float
    peak: dict[str, float] = field(default_factory=dict)

    def rounds(self, ways: Mapping[str, Callable[[], object]], most: int) -> dict[str, Timing]:
        """Times every way once per round; the untimed round counts where there is time for no other."""
        taken = [self._round(ways, watch=True)]
        while len(taken) <= most:
            if len(taken) > 1 and time.monotonic() + sum(taken[-1].values()) > self.until:
                break
            if time.monotonic() > self.until:
                break
            taken.append(self._round(ways, watch=False))
        counted = taken[1:] or taken
        return {x: Timing((), tuple(seconds[x] for seconds in counted)) for x in ways}

    def _round(self, ways: Mapping[str, Callable[[], object]], *, watch: bool) -> dict[str, float]:
        seconds = {}
        for name, way in ways.items():
            self._wait()
            if watch and self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            begin = time.perf_counter()
            way()
            self._wait()
            seconds[name] = time.perf_counter() - begin
            if watch and self.device.type == "cuda":
                self.peak[name] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def check(setting: Setting) -> dict[str, float]:
    """Largest differences of some neurons' moments from two passes in float64."""
    layers = sorted({0, setting.config.layers // 2, setting.config.layers - 1})
    units = np.linspace(0, setting.config.d_mlp - 1, CHECKED).astype(int)
    x, fires = _taken(setting, layers, units)
    plain, collected = setting.plain(), setting.collect()
    wanted = setting.codes >= 0
    # of all words together: the few words of a rare tag may be equal
    sd = np.sqrt(collected.pooled()[1] / collected.n_words) + 1e-30
    rows = np.array(layers)[:, None]
    near = sd[rows, units]
    worst = {"mean_in_sd": 0.0, "m2_relative": 0.0, "fired": 0.0}
    for label in range(len(setting.corpus.labels)):
        of_label = wanted & (setting.codes == label)
        at = (label, rows, units)
        mean = x[of_label].mean(0)
        m2 = ((x[of_label] - mean) ** 2).sum(0)
        measured = {
            "mean_in_sd": np.abs(collected.mean[at] - mean) / near,
            "m2_relative": np.abs(collected.m2[at] - m2)
            / np.maximum(m2, of_label.sum() * near**2 / 100),
            "fired": np.abs(collected.fired[at] - fires[of_label].sum(0)),
        }
        worst = {name: max(worst[name], float(value.max())) for name, value in measured.items()}
    worst["plain_mean_in_sd"] = float((np.abs(collected.mean - plain.mean) / sd).max())
    return worst


@torch.no_grad()
def _taken(setting: Setting, layers: list[int], units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations [word, layer, unit] of Hugging Face's own model, and whether the gate is positive."""
    shape = (len(setting.codes), len(layers), len(units))
    x, fires = np.zeros(shape), np.zeros(shape, bool)
    chosen = torch.from_numpy(units).to(setting.device)
    words, at = np.zeros(0, int), torch.zeros(0, dtype=torch.int64)

    def rows(values: torch.Tensor) -> np.ndarray:
        return values.flatten(0, 1)[at][:, chosen].double().cpu().numpy()

    def activation(i: int, args: tuple[Any, ...]) -> None:
        x[words, i] = rows(args[0])

    def gate(i: int, out: torch.Tensor) -> None:
        fires[words, i] = rows(out) > 0

    with ExitStack() as stack:
        for i, layer in enumerate(layers):
            mlp = setting.own_model.model.layers[layer].mlp
            for handle in (
                mlp.down_proj.register_forward_pre_hook(lambda _m, args, i=i: activation(i, args)),
                mlp.gate_proj.register_forward_hook(lambda _m, _a, out, i=i: gate(i, out)),
            ):
                stack.callback(handle.remove)
        for batch in setting.batches:
            words, where = batch.locate(setting.alignment, POSITION, setting.codes >= 0)
            at = torch.from_numpy(where).to(setting.device)
            setting.own_model.model(batch.token_ids.to(setting.device), use_cache=False)
    return x, fires


def ratios_of(timings: dict[str, Timing], n_conditions: int) -> dict[str, dict[str, float]]:
    """Every ratio whose two ways have been timed."""
    pairs = [
        *(("layers", "bare"), ("collect", "layers"), ("pass", "layers"), ("collect", "bare")),
        *(("pass", "bare"), ("plan", "layers"), ("found", "layers"), ("plain", "layers")),
        *(("plain", "collect"), ("features", "layers"), ("opening", "layers"), ("own", "head")),
    ]
    ratios = {
        f"{a} / {b}": compare(timings[a], timings[b], "wall") for a, b in pairs if b in timings
    }
    for clean in ("clean", "clean all"):
        if clean in timings:
            whole = compare(timings["battery"], timings[clean], "wall")
            ratios[f"a lesion / {clean}"] = {k: v / n_conditions for k, v in whole.items()}
    return ratios


def main(config: Config) -> None:
    """Checks, times group by group while there is time, prints and writes."""
    names = ("layers", "sentences", "lesion_sentences", "lesions", "k", "rounds", "slow_rounds")
    positive(config, *names)
    begin = time.monotonic()
    setting = Setting(config)
    clock = Clock(setting.device, begin + 60 * config.minutes)
    worst = check(setting)
    print(f"moments of {CHECKED} neurons in three layers: largest differences {worst}")
    timings: dict[str, Timing] = {}
    for group, ways in setting.groups().items():
        if timings and time.monotonic() > clock.until:
            print(f"{group}: not measured, {config.minutes:g} minutes were over")
            continue
        most = config.rounds if group == "moments" else config.slow_rounds
        timings |= clock.rounds(ways, most)
        write(setting, timings, clock, worst, time.monotonic() - begin)
    report(setting, timings, clock)
    if max(worst["mean_in_sd"], worst["m2_relative"], worst["plain_mean_in_sd"]) > SAME:
        raise SystemExit(f"error: the moments differ by more than {SAME:g}: {worst}")


def n_tokens(setting: Setting, way: str) -> int:
    """Tokens of one pass."""
    lesions = way in ("clean", "clean all", "battery")
    return sum(batch.n_tokens for batch in (setting.few_batches if lesions else setting.batches))


def rows_of(
    setting: Setting, timings: dict[str, Timing], clock: Clock
) -> dict[str, dict[str, float | None]]:
    """What was measured of every way; no tokens of a way that reads none."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, timing in timings.items():
        row = {**timing.row(), "rounds": len(timing.wall), "peak_gpu_gib": clock.peak.get(name)}
        if name not in UNREAD:
            row["tokens"] = n_tokens(setting, name)
            row["tokens_per_second"] = row["tokens"] / min(timing.wall)
        rows[name] = row
    return rows


def write(
    setting: Setting, timings: dict[str, Timing], clock: Clock, worst: dict[str, float], took: float
) -> None:
    config = setting.config
    like = torch.zeros(1, 1, dtype=getattr(torch, config.dtype), device=setting.device)
    save(
        "llama3_8b_shape",
        config,
        gpu=torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else None,
        reduction=type(moments_module.reduction_for(like)).__name__,
        treebank=setting.corpus.bank.name,
        sentences=len(setting.corpus.bank),
        rows=rows_of(setting, timings, clock),
        ratios=ratios_of(timings, len(setting.conditions) + 1),
        goals=GOALS,
        bare_layers_agree=setting.has_layers,
        largest_differences=worst,
        seconds_in_all=took,
    )


def report(setting: Setting, timings: dict[str, Timing], clock: Clock) -> None:
    config = setting.config
    show(
        f"{config.layers} layers, d_model {config.d_model}, d_mlp {config.d_mlp}, {config.dtype}, on "
        f"{config.device}; {len(setting.corpus.bank):,} sentences of {setting.corpus.bank.name}",
        "way",
        rows_of(setting, timings, clock),
        {
            "rounds": "{rounds}",
            "wall s": "{wall_seconds:.3f}",
            "slowest": "{wall_seconds_slowest:.3f}",
            "tokens": "{tokens:,}",
            "tokens/s": "{tokens_per_second:,.0f}",
            "peak GPU GiB": "{peak_gpu_gib:.1f}",
        },
    )
    for name, of in ratios_of(timings, len(setting.conditions) + 1).items():
        ratio, goal = of["ratio"], GOALS.get(name)
        line = f"{name}: {ratio:.3f}" if goal is None else target(name, ratio, goal)
        spread = f"round by round {of['median']:.3f} ({of['lowest']:.3f} to {of['highest']:.3f})"
        print(f"{line}; {spread}")
    print(f"a lesion: of {len(setting.conditions)} and the intact model, each {config.k} neurons")


if __name__ == "__main__":
    start_page(main, Config, __doc__)
