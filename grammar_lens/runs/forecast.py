"""Forecast of a run before it starts: memory from sizes, batches, and times from a short probe."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from grammar_lens.corpus.alignment import TokenBatch, token_batches
from grammar_lens.corpus.corpus import TOKEN_BUDGET, Corpus, default_budget
from grammar_lens.lesions.battery import STACK, run_battery
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.lesions.prepared import LESION_TAGS
from grammar_lens.model.about import describe, device_of, site_width, sizes_of
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.loading import has_weights, load_shape
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.passes.distributed import Shard
from grammar_lens.passes.memory import free_memory
from grammar_lens.passes.stream import stream
from grammar_lens.passes.workers import n_workers
from grammar_lens.runs.memory_plan import (
    USABLE,
    BatchSize,
    LayerSize,
    MemoryPlan,
    ModelSize,
    ReadingSize,
    Sizes,
    memory_plan,
    n_lesions,
    remedies,
    seconds_in_all,
)
from grammar_lens.runs.session import Say, Session
from grammar_lens.runs.settings import Config
from grammar_lens.runs.steps import collection, other_ablations, wanted_of
from grammar_lens.selectivity.attribution.attribute import drawn_words
from grammar_lens.selectivity.attribution.first_order import attribute_own
from grammar_lens.selectivity.collect_plan import CollectPlan, CollectSpec, SiteReaders
from grammar_lens.selectivity.registry import SCORES

ATTRIBUTE_ALL = 1.0
"""A backward pass per label of `--attribution all`, in forward passes (benchmarks/README.md: 15.75
for 15.5 labels, with the forward pass)."""
DTYPES = {8: "float64", 4: "float32", 2: "bfloat16"}


@dataclass(frozen=True)
class PassSize:
    """The batches of a pass, and its tokens without and with padding."""

    batches: int
    tokens: int
    padded: int


@dataclass(frozen=True)
class Expected:
    """Expected duration of a pass, and the basis of the estimate."""

    seconds: float
    measured: bool
    how: str


@dataclass(frozen=True)
class Forecast:
    """Memory, batches and time that a run needs, and the memory available.

    `free` is what the device has for this process, None where it is not looked at; `times` are
    empty without weights, and where the run would not fit.
    """

    model: dict[str, object]
    dtype: str
    device: str
    token_budget: int
    memory: MemoryPlan
    free: int | None
    fits: bool | None
    remedies: list[tuple[str, int]]
    passes: dict[str, PassSize]
    lesions: int
    times: dict[str, Expected]

    def short(self) -> list[str]:
        """Parameters, statistics, and the peak against the free memory."""
        m, stored = self.memory, sum(self.memory.statistics.values())
        where = "on the device" if self.on_gpu else "in memory"
        parameters = (
            f"{self.model['n_parameters']:,} parameters ({size(m.parameters)}, {self.dtype})"
        )
        available = "" if self.free is None else f" of {size(self.free)} free"
        host = f", {size(m.host_peak)} on the host" if self.on_gpu else ""
        return [
            f"plan: {parameters}, statistics {size(stored)}",
            f"plan: expected peak {size(m.peak)}{available} {where} ({self.device}){host}",
            *([f"plan: WARNING, this does not fit: {self.advice()}"] if self.fits is False else []),
        ]

    @property
    def on_gpu(self) -> bool:
        return not self.device.startswith("cpu")

    def advice(self) -> str:
        """Remedies where a run does not fit."""
        if not self.remedies:
            return "use a device with more memory"
        free = self.free or 0
        options = [f"{option} ({size(peak)})" for option, peak in self.remedies]
        enough = any(peak <= USABLE * free for _, peak in self.remedies)
        return f"{'try' if enough else 'try several of'} {', '.join(options)}"

    def lines(self) -> list[str]:
        """Everything, for the terminal."""
        m = self.memory
        lines = [
            f"{self.model['name']}: {self.model['n_parameters']:,} parameters in {self.dtype}, "
            f"{self.model['n_layers']} layers of {self.model['d_mlp']} neurons, on {self.device}",
            "",
            f"{'parameters':24}{size(m.parameters):>12}",
            *(f"{'statistics, ' + name:24}{size(n):>12}" for name, n in m.statistics.items() if n),
        ]
        for name, needs in m.passes.items():
            parts = {
                "statistics": needs.statistics,
                "activations": needs.activations,
                "kept until a batch ends": needs.held,
                "head": needs.head,
                "untrained twin": needs.twin,
            }
            listed = ", ".join(f"{part} {size(n)}" for part, n in parts.items() if n)
            lines.append(f"{name + ' pass, at once':24}{size(needs.total):>12}  {listed}")
        lines.append(f"{'nulls, on the host':24}{size(m.host_after):>12}")
        free = "not looked at" if self.free is None else f"{size(self.free)} free"
        lines.append(f"{'expected peak':24}{size(m.peak):>12}  {free}")
        if self.on_gpu:
            lines.append(f"{'expected on the host':24}{size(m.host_peak):>12}")
        if self.fits is not None:
            lines += ["", "it fits" if self.fits else f"WARNING: it does not fit: {self.advice()}"]
        lines.append("")
        for name, p in self.passes.items():
            also = f", {self.lesions:,} lesions" if name == "lesion" else ""
            lines.append(
                f"{name:12} {p.batches:,} batches, {p.tokens:,} tokens ({p.padded:,} with padding){also}"
            )
        lines.append("")
        for name, expected in self.times.items():
            kind = "measured" if expected.measured else "estimated"
            lines.append(f"{name:12} about {duration(expected.seconds)} ({kind}: {expected.how})")
        if not self.times:
            lines.append("times: not measured, as there are no weights or no room for them")
        return lines


def forecast(
    config: Config, say: Say, *, meta: bool = False, memory_gib: int | float = 0
) -> Forecast:
    """Loads model and words and says what a run with these settings will need.

    With `meta`, and for a folder without weights, the model is made from config.json alone, nothing
    is timed, and what there is is `memory_gib` or unknown.
    """
    meta = meta or not has_weights(config.model)
    on_cpu = (config.device or "").startswith("cpu")
    session = Session(config, say)
    if meta:
        kind = "cpu" if on_cpu else "cuda"
        budget = config.token_budget or TOKEN_BUDGET[kind]
        session = Session(replace(config, token_budget=budget), say)
        session.model = load_shape(
            config.model, dtype=config.dtype, device=kind, revision=config.revision
        )
    session.check()
    free = int(memory_gib * 2**30) or None
    expected = of_session(session, free, whole=True)
    if not meta and expected.fits is not False:
        expected = replace(expected, times=_times(session, expected))
    return expected


def of_session(session: Session, free: int | None = None, *, whole: bool = False) -> Forecast:
    """The forecast of a run whose model is loaded, without times; `whole` looks at held-out words too."""
    model, c = session.model, session.config
    sizes, batches = sizes_for(session)
    if whole and device_of(model).type != "meta":
        in_steps = sizes.model.in_steps or fast_path(model) is None
        sizes = replace(sizes, model=replace(sizes.model, in_steps=in_steps))
    memory = memory_plan(sizes)
    if free is None and device_of(model).type != "meta":
        free = free_memory(_devices(model))
    fits = memory.fits(free)
    dtype = DTYPES[sizes.model.itemsize]
    passes = {"collect": _pass_size(batches)}
    lesions = 0
    if whole:
        if sizes.attribution:
            passes["attribution"] = _pass_size(_attributed(session, sizes.token_budget))
        if sizes.lesions:
            fresh = session.lesioned
            passes["lesion"] = _pass_size(fresh.batches(max(1, sizes.token_budget // STACK)))
            lesions = _n_lesions(c, fresh)
    return Forecast(
        model=describe(model),
        dtype=dtype,
        device=_device_name(model, c),
        token_budget=sizes.token_budget,
        memory=memory,
        free=free,
        fits=fits,
        remedies=remedies(sizes, dtype, free) if fits is False and free else [],
        passes=passes,
        lesions=lesions,
        times={},
    )


def sizes_for(session: Session) -> tuple[Sizes, list[TokenBatch]]:
    """Sizes that decide the memory of a run, and the batches of its collecting pass."""
    model, c, corpus = session.model, session.config, session.train
    wanted, alignment = wanted_of(c), session.train.alignment
    about = describe(model)
    on_gpu = device_of(model).type == "cuda" or (
        device_of(model).type == "meta" and not (c.device or "").startswith("cpu")
    )
    budget = c.token_budget or default_budget(model)
    codes = {position: corpus.read(position) for position in wanted.positions}
    readings = {}
    for position in wanted.positions:
        counts = np.bincount(codes[position][codes[position] >= 0], minlength=len(corpus.labels))
        for site in wanted.sites:
            readings[f"{position} {site}"] = ReadingSize(
                n_layers=int(model.cfg.n_layers),
                n_units=site_width(model, site),
                n_labels=len(corpus.labels),
                n_words=alignment.n_words,
                replicates=wanted.replicates,
                controls=wanted.controls,
                sampled=int(np.minimum(counts, wanted.sample).sum()),
            )
    read = np.any([position_codes >= 0 for position_codes in codes.values()], axis=0)
    rows = np.unique(alignment.row[read])
    batches = token_batches(alignment, budget, rows=rows)
    in_row = np.bincount(alignment.row[read], minlength=len(alignment.token_ids))
    largest = max((b.token_ids.shape for b in batches), key=lambda x: x.numel(), default=(1, 1))
    most = max((int(in_row[b.rows].sum()) for b in batches), default=0)
    at_next = SCORES[c.score_at("next")] if "next" in c.positions else None
    own = at_next is not None and at_next.is_first_order and c.attribution == "own"
    sizes = Sizes(
        model=ModelSize(
            name=str(about["name"]),
            n_parameters=int(about["n_parameters"]),
            n_layers=int(about["n_layers"]),
            d_model=int(about["d_model"]),
            d_mlp=int(about["d_mlp"]),
            in_steps=len(_devices(model)) > 1,
            **sizes_of(model),
        ),
        readings=readings,
        batch=BatchSize(*largest, words=most),
        token_budget=budget,
        stack=STACK,
        fused=on_gpu,
        on_gpu=on_gpu,
        n_nulls=sum(SCORES[x].class_means_suffice for x in dict.fromkeys(wanted.nulls or ())),
        attribution=at_next is not None and at_next.at_next_only,
        attributed_replicates=c.replicates if own else 0,
        layers=_layer_size(session),
        lesions=c.value != "none",
        workers=1 if on_gpu else n_workers("cpu"),
        n_devices=len(_devices(model)),
    )
    return sizes, batches


def _layer_size(session: Session) -> LayerSize | None:
    """Sizes of the probes on whole layers; None where there are none."""
    c, corpus = session.config, session.train
    if c.layer_words == 0:
        return None
    words = max(int((corpus.read(position) >= 0).sum()) for position in c.positions)
    return LayerSize(
        n_positions=len(c.positions),
        n_layers=int(session.model.cfg.n_layers) + 1,
        n_units=int(session.model.cfg.d_model),
        n_labels=len(corpus.labels),
        n_words=min(words, c.layer_words),
        twin=c.untrained and len(_devices(session.model)) == 1,
    )


def _devices(model: object) -> list[torch.device]:
    """The devices that the model's weights are on."""
    parameters = getattr(model, "original_model", model).parameters()  # pyright: ignore[reportAttributeAccessIssue]
    return sorted({p.device for p in parameters}, key=str)


def _device_name(model: object, c: Config) -> str:
    devices = _devices(model)
    if devices[0].type == "meta":
        return "cpu" if (c.device or "").startswith("cpu") else "a GPU to come"
    return ", ".join(map(str, devices))


def _pass_size(batches: Sequence[TokenBatch]) -> PassSize:
    return PassSize(
        len(batches),
        sum(b.n_tokens for b in batches),
        sum(b.token_ids.numel() for b in batches),
    )


def _attributed(session: Session, budget: int) -> list[TokenBatch]:
    c, alignment = session.config, session.train.alignment
    words = drawn_words(session.train, c.attribution_words, c.seed)
    rows = np.unique(alignment.row[words.read("next") >= 0])
    return token_batches(alignment, budget, rows=rows)


def _n_lesions(c: Config, fresh: Corpus) -> int:
    main = Ablation(c.value, c.dose, c.lesion_at)
    return n_lesions(
        len(_cut(c, fresh)),
        shams=c.shams,
        n_others=len([m for m in dict.fromkeys(other_ablations(c)) if m != main]),
        other_shams=c.other_shams,
        damage_matched=c.damage_matched or 0,
        sufficiency=c.sufficiency,
    )


def _cut(c: Config, fresh: Corpus) -> list[str]:
    """The labels that will be cut, if all of them have key neurons."""
    if c.lesion_labels:
        return list(c.lesion_labels)
    codes = fresh.read("next")
    counts = np.bincount(codes[codes >= 0], minlength=len(fresh.labels))
    present = [x for x, n in zip(fresh.labels, counts, strict=True) if n]
    usual = [x for x in LESION_TAGS if x in present]
    if fresh.label == "upos" and len(usual) > 1:
        return usual
    return present[: len(LESION_TAGS)]


def _times(session: Session, expected: Forecast) -> dict[str, Expected]:
    """Expected time of each pass, from a few of its batches."""
    times = {"collect": _collecting_time(session)}
    if "attribution" in expected.passes:
        times["attribution"] = _attribution_time(session, expected, times["collect"])
    if "lesion" in expected.passes:
        times["lesion"] = _lesion_time(session, expected)
    return times


def _collecting_time(session: Session) -> Expected:
    """From a long, a middle and a short batch, after an untimed one."""
    job = collection(session)
    n = len(job.batches)
    # the last batch is seldom full
    some = [job.batches[i] for i in (0, n // 2, max(0, n - 2))]
    clock = _Clock()
    stream(
        session.model,
        job.alignment,
        [some[0], *some],
        job.taps,
        progress=clock,
        shard=Shard(),
    )
    timed = [
        (b.token_ids.shape[1], s / b.token_ids.numel())
        for b, s in zip(some, clock.after_first, strict=True)
    ]
    shapes = [(b.token_ids.shape[1], b.token_ids.numel()) for b in job.batches]
    return Expected(seconds_in_all(timed, shapes), True, "3 of its batches, by length")


def _attribution_time(session: Session, expected: Forecast, collecting: Expected) -> Expected:
    """From one batch of middle length, after an untimed one."""
    c, corpus, model = session.config, session.train, session.model
    needs = SCORES[c.score_at("next")].needs
    if needs == "integrated_gradients":
        return Expected(float("nan"), False, "integrated gradients are not planned for")
    if c.attribution == "all":
        factor = 1 + ATTRIBUTE_ALL * len(corpus.labels)
        how = f"{factor:g} x collecting, a backward pass per label"
        return Expected(factor * collecting.seconds, False, how)
    wanted = CollectSpec(("neuron",), ("next",), c.replicates, 0, False, c.seed, min_words=0)
    reading = SiteReaders(model, CollectPlan(corpus, "next", wanted), "neuron")
    batches = _attributed(session, expected.token_budget)
    middle = batches[len(batches) // 2]
    clock = _Clock()
    attribute_own(
        model,
        corpus.alignment,
        [middle, middle],
        reading.plan.codes,
        session.lexicon,
        np.zeros((model.cfg.n_layers, site_width(model, "neuron"))),
        [(tap.codes, tap.reader) for tap in reading.taps],
        progress=clock,
        relevance=needs == "relevance",
    )
    (seconds,) = clock.after_first
    padded = expected.passes["attribution"].padded
    return Expected(seconds * padded / middle.token_ids.numel(), True, "1 of its batches")


def _lesion_time(session: Session, expected: Forecast) -> Expected:
    """From a battery of random neurons on one batch, with and without its lesions."""
    c, fresh = session.config, session.lesioned
    codes = fresh.read("next")
    batches = fresh.batches(max(1, expected.token_budget // STACK))
    middle = batches[len(batches) // 2]
    classes = np.where(np.isin(fresh.alignment.row, middle.rows), codes, -1)
    shared = np.isin(codes, [fresh.labels.index(x) for x in _cut(c, fresh)])
    conditions = _random_lesions(session, 2 * STACK)

    def seconds(conditions: Sequence[Condition]) -> float:
        begin = time.perf_counter()
        run_battery(
            session.model,
            fresh.alignment,
            classes,
            session.lexicon,
            conditions,
            shared=shared,
            token_budget=expected.token_budget,
        )
        return time.perf_counter() - begin

    seconds(conditions)
    without, with_them = seconds([]), seconds(conditions)
    each = max(0.0, with_them - without) / len(conditions) / middle.n_tokens
    tokens = expected.passes["lesion"].tokens
    # the main lesions are measured on all sentences, everything else on some
    main = len(_cut(c, fresh))
    share = 1.0 if c.sham_sentences is None else min(1.0, c.sham_sentences / len(fresh.bank))
    passes = main + share * (expected.lesions - main)
    at_least = ", the least with damage-matched shams" if c.damage_matched != 0 else ""
    how = f"{len(conditions)} random lesions of 1 batch, times {expected.lesions:,}{at_least}"
    return Expected(each * tokens * passes, True, how)


def _random_lesions(session: Session, n: int) -> list[Condition]:
    c, model = session.config, session.model
    n_layers, width = int(model.cfg.n_layers), site_width(model, "neuron")
    rng, made = np.random.default_rng(0), []
    value = "mean" if c.value.startswith("resample") else c.value
    for _ in range(n):
        # as many in every layer, so that every lesion begins at the lowest
        layer, index = np.divmod(np.sort(rng.permutation(n_layers * width)[: c.top_k]), width)
        layer[0] = 0
        none = np.zeros(len(layer))
        neurons = Neurons("random", "neuron", layer, index, none, mean=none)
        made.append(Condition("random", 1, neurons, Ablation(value, c.dose, c.lesion_at)))
    return made


class _Clock:
    """Notes when each batch was done."""

    def __init__(self) -> None:
        self._at: list[float] = []

    def __call__(self, _tokens: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._at.append(time.perf_counter())

    @property
    def after_first(self) -> list[float]:
        """Seconds of every batch but the first."""
        return np.diff(self._at).tolist()


def size(n: int) -> str:
    """Bytes for the eye."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if n >= 2**power:
            return f"{n / 2**power:.1f} {unit}"
    return f"{n / 1024:.0f} KiB"


def duration(seconds: int | float) -> str:
    """Seconds for the eye."""
    if not np.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
