"""Memory plans against the memory that runs then use."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import start
from small_runs import write_beginnings
from typed import present

from grammar_lens.corpus.alignment import TokenBatch
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.battery import run_battery
from grammar_lens.model import forward
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.loading import load_shape, locate
from grammar_lens.passes.memory import free_memory, peak_host
from grammar_lens.passes.stream import stream
from grammar_lens.probing.layer_probing import LayerProbing
from grammar_lens.runs.forecast import (
    _random_lesions,
    duration,
    forecast,
    of_session,
    size,
    sizes_for,
)
from grammar_lens.runs.memory_plan import (
    HEAD_BLOCK,
    HEAD_CHUNK,
    BatchSize,
    LayerSize,
    ModelSize,
    ReadingSize,
    Sizes,
    memory_plan,
    n_lesions,
    remedies,
    seconds_in_all,
)
from grammar_lens.runs.session import Session
from grammar_lens.runs.settings import Config
from grammar_lens.runs.steps import collection
from grammar_lens.selectivity.attribution import head
from grammar_lens.selectivity.attribution.first_order import attribute_own
from grammar_lens.selectivity.collect_plan import CollectPlan, CollectSpec, SiteReaders

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
M_MMAP_THRESHOLD = -3
"""mallopt(3): the size from which memory is mapped and given back when it is freed."""
MODEL = ModelSize("m", 10**9, 2 * 10**9, 16, 2048, 8192, 32, 8, 64, 128256, 2)
READING = ReadingSize(16, 8192, 17, 10**5, replicates=100, controls=True)
SIZES = Sizes(
    MODEL,
    {"word neuron": READING, "next neuron": READING},
    BatchSize(100, 40, 3000),
    4096,
    fused=True,
    on_gpu=True,
    attributed_replicates=100,
)


def silent(_text: str) -> None: ...


def bench_of(**settings: Any) -> Session:
    return Session(Config(train="embedded:test", show_progress=False, **settings), silent)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Sources of a few sentences: what is needed is told by rule, however many there are."""
    folder = tmp_path_factory.mktemp("few")
    embedded = files("grammar_lens") / "embedded" / "treebank"
    for split, n in (("train", 150), ("test", 60)):
        blocks = (embedded / f"handmade-{split}.conllu").read_text("utf-8").split("\n\n")
        usual = [b for b in blocks if not re.search("\t(X|SYM|INTJ)\t", b)][:n]
        (folder / f"few-{split}.conllu").write_text("\n\n".join(usual) + "\n\n", "utf-8")
    return {"train": f"{folder}:train", "fresh": f"{folder}:test"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Llama-3-8B's config and the embedded model's tokenizer, without weights."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA), "utf-8")
    for path in Path(locate("reference-9m")).glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"replicates": 0},
        {"replicates": 20},
        {"replicates": 25, "sample": 7, "positions": ("next",)},
        {
            "replicates": 0,
            "sample": 5000,
            "positions": ("word",),
            "sites": ("neuron", "resid_post"),
        },
    ],
    ids=["plain", "replicates", "sample", "sites"],
)
def test_statistics_are_counted_exactly(settings: Mapping[str, Any]) -> None:
    session = bench_of(**settings)
    sizes, batches = sizes_for(session)
    plan, job = memory_plan(sizes), collection(session)
    pieces = [piece for tap in job.taps for piece in tap.reader.state()]
    there = sum(t.numel() * t.element_size() for piece in pieces for t in piece.values())
    told = dict(plan.statistics)
    tables = told.pop("tables")
    assert sum(told.values()) == there
    corpus = session.train
    words = corpus.alignment.n_words * len(job.taps[0:1]) * len(sizes.readings)
    assert tables == words * (2 * settings["replicates"] + 16 * len(corpus.labels))
    assert [b.token_ids.shape for b in batches] == [b.token_ids.shape for b in job.batches]
    assert sizes.batch.tokens == max(b.token_ids.numel() for b in job.batches)
    assert plan.parameters == 9_179_392 * 4


@pytest.mark.parametrize("positions", [("word",), ("word", "next")])
def test_sums_of_layers_are_counted_exactly(positions: tuple[str, ...]) -> None:
    session = bench_of(positions=positions, layer_words=500, fresh="embedded:train")
    layers = sizes_for(session)[0].layers
    assert layers is not None
    probing = LayerProbing(session.model, session.train, session.fresh[0], positions)
    pieces = [piece for tap in probing.train_taps for piece in tap.reader.state()]
    assert layers.sums == sum(t.numel() * t.element_size() for p in pieces for t in p.values())
    assert (layers.n_words, layers.twin) == (500, True)
    assert sizes_for(bench_of(layer_words=0))[0].layers is None
    assert not present(sizes_for(bench_of(untrained=False))[0].layers).twin


def test_statistics_without_contrasts_are_counted_exactly() -> None:
    from grammar_lens.selectivity.collecting import Collection

    session = bench_of()
    wanted = CollectSpec(("neuron",), ("next",), 20, 3, False, 0)
    job = Collection(session.model, [session.train], wanted, 512)
    reading = next(iter(sizes_for(session)[0].readings.values()))
    n = sum(len(p["read"]) for tap in job.taps for p in tap.reader.state() if "read" in p)
    reading = replace(reading, replicates=20, controls=False, sampled=n)
    pieces = [piece for tap in job.taps for piece in tap.reader.state()]
    there = sum(t.numel() * t.element_size() for piece in pieces for t in piece.values())
    assert reading.moments + reading.exchanged + reading.contrasts + reading.sample == there


def print_peaks(passes: Sequence[tuple[str, int, int]], few: dict[str, Any]) -> None:
    """Prints the memory that every pass was planned to need and the memory it needs, in MiB."""
    import gc
    from ctypes import CDLL

    # what is freed is given back, as GPUs do; glibc would keep some
    libc = CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 65536)
    found = []
    for what, budget, n in passes:
        config = Config(token_budget=budget, replicates=n, min_words=9, show_progress=False, **few)
        session = Session(config, silent)
        sizes, batches = sizes_for(session)
        plan = memory_plan(sizes)
        if what == "nulls":
            told = plan.passes["collect"].statistics + plan.passes["collect"].held + plan.host_after
        else:
            told = plan.passes[what].total - plan.passes[what].twin
        _ = session.lexicon, fast_path(session.model), session.lesioned
        gc.collect()
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = peak_host()
        run_pass(what, session, budget, batches)
        found.append({"told": told / 2**20, "measured": peak_host() - before})
    print(json.dumps(found), flush=True)


def run_pass(what: str, session: Session, budget: int, batches: Sequence[TokenBatch]) -> None:
    """The first batches of a pass."""
    if what in ("collect", "nulls"):
        job = collection(session)
        job.batches = job.batches[:2]
        job.read(False)
        if what == "nulls":
            job.results()
    elif what == "layers":
        probing = LayerProbing(
            session.model, session.train, session.fresh[0], lexicon=session.lexicon
        )
        for corpus, fit in ((session.train, False), (session.fresh[0], True)):
            if fit:
                probing.fit()
            taps = probing.fresh_taps if fit else probing.train_taps
            stream(session.model, corpus.alignment, corpus.batches(budget)[:1], taps)
    elif what == "attribution":
        spec = CollectSpec(
            ("neuron",), ("next",), session.config.replicates, 0, False, 0, min_words=0
        )
        reading = SiteReaders(session.model, CollectPlan(session.train, "next", spec), "neuron")
        attribute_own(
            session.model,
            session.train.alignment,
            batches[:1],
            reading.plan.codes,
            session.lexicon,
            np.zeros((8, 896)),
            [(tap.codes, tap.reader) for tap in reading.taps],
        )
    else:
        codes = session.lesioned.read("next")
        first = session.lesioned.batches(budget // 8)[0]
        codes[~np.isin(session.lesioned.alignment.row, first.rows)] = -1
        run_battery(
            session.model,
            session.lesioned.alignment,
            codes,
            session.lexicon,
            _random_lesions(session, 8),
            token_budget=budget,
        )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_a_pass_is_within_a_factor_of_two(tmp_path: Path) -> None:
    write_beginnings(tmp_path, train=300, test=240)
    few = {"train": f"{tmp_path}:train", "fresh": f"{tmp_path}:test"}
    passes = [
        ("collect", 2048, 0),
        ("collect", 1024, 50),
        ("nulls", 1024, 20),
        ("attribution", 1024, 20),
        ("layers", 4096, 0),
        ("lesion", 4096, 0),
    ]
    running = start(print_peaks, passes, few, folder=tmp_path)
    assert running.ended(300) == 0, running.stderr
    for each, found in zip(passes, json.loads(running.stdout), strict=True):
        assert found["measured"] > 50, f"{each}: too little to be told from what else moves"
        assert 0.5 < found["told"] / found["measured"] < 2, (each, found)


class TestLlama:
    def test_a_folder_without_weights_is_enough(self, llama: Path, few: dict[str, Any]) -> None:
        found = forecast(Config(model=str(llama), sites=("neuron",), **few), silent)
        assert found.model["n_parameters"] == 8_030_261_248
        assert found.memory.parameters == 2 * 8_030_261_248
        assert (found.dtype, found.token_budget) == ("bfloat16", 4096)
        assert (found.free, found.fits, found.times) == (None, None, {})
        units = 32 * 14336
        session = Session(Config(train=few["train"]), silent)
        labels = len(session.train.labels)
        # two positions, four parts, three numbers; exchanged sums in float32
        assert found.memory.statistics["moments"] == pytest.approx(
            2 * 8 * units * labels * 4 * 3, rel=0.01
        )
        assert found.memory.statistics["exchanged"] == pytest.approx(
            2 * 4 * units * labels * 100, rel=0.01
        )
        assert "no weights" in "\n".join(found.lines())

    def test_float32_on_a_cpu(self, llama: Path, few: dict[str, Any]) -> None:
        found = forecast(Config(model=str(llama), device="cpu", **few), silent)
        assert (found.dtype, found.token_budget, found.device) == ("float32", 1024, "cpu")
        assert found.memory.parameters == 4 * 8_030_261_248

    def test_what_does_not_fit_is_told_with_what_would(
        self, llama: Path, few: dict[str, Any]
    ) -> None:
        config = Config(model=str(llama), **few)
        found = forecast(config, silent, memory_gib=40)
        assert found.fits is False
        assert {x.split()[0] for x, _ in found.remedies} >= {"--token-budget", "--device-map"}
        assert "WARNING, this does not fit: try --token-budget" in "\n".join(found.short())
        assert forecast(config, silent, memory_gib=200).fits is True
        hopeless = forecast(config, silent, memory_gib=2)
        assert "try several of" in hopeless.advice()

    def test_without_a_tokenizer(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(LLAMA), "utf-8")
        with pytest.raises(GrammarLensError, match="has no tokenizer"):
            load_shape(tmp_path)


class TestArithmetic:
    def test_chunks_are_those_of_attribution(self) -> None:
        assert HEAD_CHUNK == head.HEAD_CHUNK
        assert HEAD_BLOCK == forward.HEAD_BLOCK

    def test_every_remedy_makes_it_smaller(self) -> None:
        wide = replace(MODEL, itemsize=4, parameter_bytes=4 * 10**9)
        sizes = replace(SIZES, model=wide)
        now = memory_plan(sizes)
        free = int(now.peak * 0.8)
        assert now.fits(free) is False
        assert now.fits(2 * now.peak) is True
        assert now.fits(None) is None
        found = remedies(sizes, "float32", free)
        names = {option.split()[0] for option, _ in found}
        assert names >= {"--token-budget", "--device-map", "--dtype"}
        assert all(peak < now.peak for _, peak in found)
        fit = [peak <= 0.95 * free for _, peak in found]
        assert fit == sorted(fit, reverse=True)

    def test_without_attribution_the_statistics_decide(self) -> None:
        collected = replace(SIZES, attribution=False)
        options = {option for option, _ in remedies(collected, "bfloat16", 1)}
        assert {"--replicates 20", "--replicates 0", "--position next"} <= options

    def test_two_devices_share_parameters_and_statistics(self) -> None:
        alone = memory_plan(replace(SIZES, attribution=False, lesions=False))
        shared = memory_plan(replace(SIZES, attribution=False, lesions=False, n_devices=2))
        collect = alone.passes["collect"]
        halved = alone.parameters + collect.statistics + collect.held
        assert alone.peak - shared.peak == halved // 2

    def test_a_twin_takes_the_models_place_on_a_gpu_and_stands_beside_it_on_a_cpu(self) -> None:
        layers = LayerSize(2, 17, 2048, 17, 20_000, True)
        for on_gpu in (True, False):
            sizes = replace(SIZES, layers=layers, on_gpu=on_gpu)
            needs = memory_plan(sizes).passes["layers"]
            assert needs.twin == (0 if on_gpu else MODEL.parameter_bytes)
            assert needs.total > layers.sums > 2 * 17 * 4 * 2048**2
        wide = replace(SIZES, layers=replace(layers, n_units=16384), attribution=False)
        assert "--layer-words 0" in {option for option, _ in remedies(wide, "bfloat16", 1)}
        few = {"next neuron": replace(READING, replicates=0, controls=False)}
        host = replace(SIZES, readings=few, layers=layers, on_gpu=False, attribution=False)
        assert "--no-untrained" in {option for option, _ in remedies(host, "bfloat16", 1)}

    def test_attention_in_steps_grows_with_the_square(self) -> None:
        batch = BatchSize(2, 2000, 3000)
        plain = replace(SIZES, batch=batch)
        steps = replace(plain, model=replace(MODEL, in_steps=True))
        a, b = memory_plan(plain).passes["collect"], memory_plan(steps).passes["collect"]
        assert b.activations - a.activations > 2 * 32 * 2000**2 * 4

    def test_a_batch_within_a_budget(self) -> None:
        assert BatchSize(100, 40, 3000).within(2000) == BatchSize(50, 40, 1500)
        assert BatchSize(3, 40, 100).within(10) == BatchSize(1, 40, 34)

    def test_lesions_are_counted_as_a_study_makes_them(self) -> None:
        some: dict[str, Any] = {"shams": 20, "n_others": 5, "other_shams": 0}
        assert n_lesions(8, **some, damage_matched=0, sufficiency=False) == 8 * 21 + 40
        some = {"shams": 3, "n_others": 1, "other_shams": 2}
        assert n_lesions(2, **some, damage_matched=4, sufficiency=True) == 8 + 6 + 8 + 7

    def test_times_between_and_beyond_what_was_timed(self) -> None:
        timed = [(100, 1e-3), (20, 2e-3)]
        assert seconds_in_all(timed, [(100, 1000), (60, 1000)]) == pytest.approx(1 + 1.5)
        assert seconds_in_all(timed, [(500, 1000), (5, 1000)]) == pytest.approx(1 + 2)

    def test_sizes_and_times_for_the_eye(self) -> None:
        assert [size(n) for n in (2**31, 3 * 2**20, 2048)] == ["2.0 GiB", "3.0 MiB", "2 KiB"]
        assert [duration(s) for s in (2, 90, 7200)] == ["2.0 s", "1.5 min", "2.0 h"]
        assert duration(float("nan")) == "unknown"


def test_times_are_said_to_be_measured_or_not(few: dict[str, Any]) -> None:
    quick: dict[str, Any] = {**few, "replicates": 0, "shams": 1, "show_progress": False}
    found = forecast(Config(**quick), silent)
    assert set(found.times) == set(found.passes) == {"collect", "attribution", "lesion"}
    assert all(x.measured and 0 < x.seconds < 3600 for x in found.times.values())
    both = forecast(Config(**quick, attribution="all", values=("none",)), silent)
    assert not both.times["attribution"].measured
    assert both.times["attribution"].seconds > both.times["collect"].seconds
    words = forecast(Config(**quick, positions=("word",), values=("none",)), silent)
    assert set(words.times) == {"collect"}
    ig = forecast(Config(**quick, score="integrated_gradients", values=("none",)), silent)
    assert "(estimated" in "\n".join(ig.lines())


def test_where_it_does_not_fit_nothing_is_timed(few: dict[str, Any]) -> None:
    found = forecast(Config(**few), silent, memory_gib=0.05)
    assert (found.fits, found.times) == (False, {})
    assert "WARNING: it does not fit" in "\n".join(found.lines())


def test_the_short_form_costs_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    session = bench_of()
    _ = session.train
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    lines = of_session(session).short()
    assert len(lines) == 2
    assert "9,179,392 parameters (35.0 MiB, float32)" in lines[0]
    assert "expected peak" in lines[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_the_host_has() -> None:
    free = free_memory([torch.device("cpu")])
    assert free is not None
    assert 2**26 < free < 2**46
