"""Job arrays: every job collects a share of the words into a file, and one command puts them together."""

import json
import time
from pathlib import Path

from grammar_lens.checkpoints import Checkpoints, load_shards, opened
from grammar_lens.distributed import Shard
from grammar_lens.run import SHARDS, Run, RunError, open_run, to_json
from grammar_lens.steps.bench import Say, Workbench
from grammar_lens.steps.road import outdate, timed
from grammar_lens.steps.settings import Config
from grammar_lens.steps.work import collection, save_collection


def merge_shards(path: Path, say: Say) -> Run:
    """Makes a run directory's moments of the shards that jobs of a job array have collected.

    Raises CheckpointError for shards that are damaged or not of one pass, RunError where one is missing.
    """
    shards = found_shards(path)
    with opened(shards[0]) as first:
        about, stored = dict(first.about), json.loads(str(first.about["config"]))
    config = Config.parse(stored, out=path)
    for shard, number in zip(shards, range(len(shards)), strict=True):
        with opened(shard) as kept:
            kept.require({**about, "share": str(Shard(number, len(shards)))})
    bench = Workbench(config, say)
    bench.check()
    run = open_run(config.out, config.stored(), resume=(path / "run.json").is_file())
    bench.record_sources(run)
    begin = time.perf_counter()
    job = collection(bench)
    load_shards(shards, [tap.reader for tap in job.taps])
    outdate(run, "collect")
    with timed(run, "collect"):
        save_collection(bench, run, job, time.perf_counter() - begin)()
    run.reload("collect")
    return run


def collect_shard(config: Config, shard: Shard, say: Say) -> Path:
    """Collects one share of the training words into a file of the run directory, for `merge_shards`.

    The same call goes on with a share that was stopped.
    """
    bench = Workbench(config, say)
    bench.check()
    path = config.out / SHARDS / f"collect.{shard}.safetensors"
    keeper = Checkpoints(path, every=config.checkpoint_every, whole=True)
    job = collection(bench)
    job.read(config.show_progress, keeper, shard, {"config": json.dumps(to_json(config.stored()))})
    return path


def found_shards(path: Path) -> list[Path]:
    """The files of all shards, in order. Raises RunError where one is missing, naming it."""
    there = sorted((path / SHARDS).glob("collect.*of*.safetensors"))
    if not there:
        raise RunError(
            f"{path} has no shards: make them with `grammar-lens collect {path} --shard 1/N` and so on"
        )
    totals = {p.name.split(".")[1].partition("of")[2] for p in there}
    if len(totals) > 1:
        raise RunError(
            f"{path / SHARDS} has shards of {' and '.join(sorted(totals))}: remove those of the other division"
        )
    n = int(totals.pop())
    wanted = [path / SHARDS / f"collect.{Shard(i, n)}.safetensors" for i in range(n)]
    missing = [p.name for p in wanted if p not in there]
    if missing:
        raise RunError(
            f"{path / SHARDS} lacks {', '.join(missing)}: run those jobs (--shard), then merge again"
        )
    return wanted
