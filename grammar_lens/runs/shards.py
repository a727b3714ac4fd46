"""Job arrays: every job collects a share of the words into a file, and one command merges them."""

import json
import time
from pathlib import Path

from grammar_lens.errors import GrammarLensError
from grammar_lens.files import to_json
from grammar_lens.passes.checkpoints import Checkpoints, load_shards, open_checkpoint
from grammar_lens.passes.distributed import Shard
from grammar_lens.runs.pipeline import timed
from grammar_lens.runs.session import Say, Session
from grammar_lens.runs.settings import Config
from grammar_lens.runs.steps import collection, save_collection
from grammar_lens.runs.store.directory import LOCK, open_run, writing
from grammar_lens.runs.store.stored import SHARDS, StoredRun
from grammar_lens.runs.store.storing import begin, store


def merge_shards(path: Path, say: Say) -> StoredRun:
    """Makes a run directory's moments of the shards that jobs of a job array have collected.

    Raises GrammarLensError for shards that are damaged or not of one pass, and where one is missing.
    """
    shards = found_shards(path)
    with open_checkpoint(shards[0]) as first:
        about, stored = dict(first.about), json.loads(str(first.about["config"]))
    config = Config.parse(stored, out=path)
    for shard, number in zip(shards, range(len(shards)), strict=True):
        with open_checkpoint(shard) as checkpoint:
            checkpoint.require({**about, "share": str(Shard(number, len(shards)))})
    session = Session(config, say)
    with writing(path):
        session.check()
        run = open_run(config.out, config.stored(), resume=(path / "run.json").is_file())
        session.record_sources(run)
        started = time.perf_counter()
        job = collection(session)
        load_shards(shards, [tap.reader for tap in job.taps])
        begin(run)
        with timed(run, "collect"):
            save = save_collection(session, run, job, time.perf_counter() - started)
            store(run, "collect", config, save)
            session.clear("collect")
        run.reload("collect")
    return run


def collect_shard(config: Config, shard: Shard, say: Say) -> Path:
    """Collects one share of the training words into a file of the run directory, for `merge_shards`.

    The same call resumes a shard that was stopped.
    """
    session = Session(config, say)
    path = config.out / SHARDS / f"collect.{shard}.safetensors"
    with writing(path.parent, f".{shard}{LOCK}"):  # each job has its own file
        session.check()
        keeper = Checkpoints(path, every=config.checkpoint_every, whole=True)
        job = collection(session)
        about = {"config": json.dumps(to_json(config.stored()))}
        job.read(config.show_progress, keeper, shard, about)
    return path


def found_shards(path: Path) -> list[Path]:
    """The files of all shards, in order. Raises GrammarLensError where one is missing, naming it."""
    files = sorted((path / SHARDS).glob("collect.*of*.safetensors"))
    if not files:
        raise GrammarLensError(
            f"{path} has no shards: make them with `grammar-lens collect {path} --shard 1/N` and so on"
        )
    totals = {p.name.split(".")[1].partition("of")[2] for p in files}
    if len(totals) > 1:
        raise GrammarLensError(
            f"{path / SHARDS} has shards of {' and '.join(sorted(totals))}: remove those of the other division"
        )
    n = int(totals.pop())
    wanted = [path / SHARDS / f"collect.{Shard(i, n)}.safetensors" for i in range(n)]
    missing = [p.name for p in wanted if p not in files]
    if missing:
        raise GrammarLensError(
            f"{path / SHARDS} lacks {', '.join(missing)}: run those jobs (--shard), then merge again"
        )
    return wanted
