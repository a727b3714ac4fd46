"""Several real processes give what one gives, and one that dies stops them all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed_worker import everything
from processes import command, group, start
from rounding import float32_error

from grammar_lens.corpus.bank import Treebank
from grammar_lens.errors import GrammarLensError
from grammar_lens.passes import distributed
from grammar_lens.passes.distributed import Shard

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_shards() -> None:
    assert Shard.parse("2/8") == Shard(1, 8)
    assert str(Shard(1, 8)) == "2of8"
    assert Shard().is_main
    assert not Shard(1, 2).is_main


@pytest.mark.parametrize("text", ["", "2", "2/", "/8", "a/b", "2-8", "-1/3"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(GrammarLensError, match="expected I/N such as 2/8"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["0/8", "9/8"])
def test_shards_that_do_not_exist(text: str) -> None:
    with pytest.raises(GrammarLensError, match="does not exist: expected I/N with I from 1 to N"):
        Shard.parse(text)


def test_alone_without_a_process_group() -> None:
    assert distributed.world() == Shard(0, 1)
    assert distributed.agreed([3, 4]) == [3, 4]
    distributed.barrier()
    with distributed.started() as here:
        assert here == Shard(0, 1)


@pytest.fixture(scope="module")
def folder(
    tiny_hf: Callable[[], Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model on disk."""
    path = tmp_path_factory.mktemp("model")
    tiny_hf().save_pretrained(path)
    tiny_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def words(bank: Treebank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.conllu"
    write_conllu(path, bank, 3)
    return path


def write_conllu(path: Path, bank: Treebank, times: int) -> None:
    lines = []
    for _ in range(times):
        for sentence in bank:
            for n, word in enumerate(sentence.words, 1):
                lines.append(f"{n}\t{word.form}\t_\t{word.label('upos')}\t_\t_\t_\t_\t_\t_")
            lines.append("")
    path.write_text("\n".join([*lines, ""]), "utf-8")


@pytest.fixture(scope="module")
def alone(folder: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("alone") / "out.npz"
    running = start(everything, folder, words, out, folder=out.parent)
    assert running.ended(300) == 0, running.stderr
    return np.load(out)


@pytest.mark.parametrize(
    "n", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_processes_agree_with_one(
    n: int, alone: Any, folder: Path, words: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    together = [
        start(everything, folder, words, out, folder=tmp_path, environment=one) for one in group(n)
    ]
    for running in together:
        assert running.ended(300) == 0, running.stderr
    got = np.load(out)
    assert set(got) == set(alone)
    for name in alone:
        one, other = alone[name], got[name]
        part = name.rpartition(".")[2]
        if part in ("count", "fired") or name in (
            "sample",
            "features",
            "nll",
            "top_label",
            "tag_probability",
            *(x for x in alone if x.startswith("examples")),
        ):
            np.testing.assert_array_equal(other, one, err_msg=name)  # no sum crosses batches
        elif part == "mean":
            if name == "null.mean":  # correlations from float32 sums over words
                within = float32_error(1.0, int(alone["word.neuron.count"].sum()))
                np.testing.assert_allclose(other, one, rtol=0, atol=within, err_msg=name)
                continue
            count = np.maximum(alone[name.replace(".mean", ".count")], 1)[:, None, None]
            sd = np.sqrt(alone[name.replace(".mean", ".m2")] / count)
            assert (np.abs(other - one) <= 1e-10 * np.maximum(sd, 1e-30) + 1e-15).all(), name
        else:
            scale = np.abs(one).max()
            np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-12 * scale, err_msg=name)


# Killed processes -----------------------------------------------------------------------------


@pytest.fixture
def collect(bank: Treebank, tmp_path: Path) -> tuple[str, ...]:
    """A command that is long under way and stores how far it is."""
    many = tmp_path / "many.conllu"
    write_conllu(many, bank, 16)
    return (
        *("collect", str(tmp_path / "run"), "--train", str(many), "--replicates", "20"),
        *("--token-budget", "60", "--checkpoint-every", "2", "--quiet"),
    )


@pytest.fixture
def started() -> Iterator[Callable[..., Any]]:
    """Starts `grammar-lens ARGUMENTS` in two processes; kills what is left at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        process = subprocess.Popen(
            [sys.executable, *torchrun, "-m", "grammar_lens", *arguments],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize("rank", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_a_process_that_is_killed_stops_all(
    rank: str, started: Callable[..., Any], collect: tuple[str, ...], tmp_path: Path
) -> None:
    """With exit code 1, soon, a word on how to resume, and a checkpoint to resume from; whichever it is."""
    out = tmp_path / "run"
    kept = [out / "unfinished" / f"collect.{i}of2.safetensors" for i in (1, 2)]
    run = started(*collect)
    end = time.monotonic() + 120
    while not all(path.exists() for path in kept):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)
    ranks = {
        p.environ()["RANK"]: p
        for p in psutil.Process(run.pid).children(recursive=True)
        if "RANK" in p.environ()
    }
    ranks[rank].send_signal(signal.SIGKILL)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "run again with --resume" in told
    assert "SIGKILL" in told
    main, other = (
        command(*collect, "--resume", folder=tmp_path, environment=one) for one in group(2)
    )
    assert main.ended() == 0, main.stderr
    assert other.ended() == 0, other.stderr
    assert main.stdout.count("Moments of") == 4, "two sites, two positions"
    assert other.stdout == "", "the main process alone prints"
    assert (out / "moments.safetensors").is_file()
    assert not (out / "unfinished").exists()


def test_bad_input_is_told_once(words: Path, tmp_path: Path) -> None:
    options = ("run", "--train", words, "--label", "nonsense", "--out", tmp_path / "run")
    main, other = (command(*options, folder=tmp_path, environment=one) for one in group(2))
    assert main.ended() == 2
    assert main.stderr.startswith("error: unknown label 'nonsense'")
    # the other waits, for torchrun stops it when the main one ends
    assert other.kill() == -signal.SIGKILL
    assert other.stderr == ""
    assert not (tmp_path / "run").exists()
