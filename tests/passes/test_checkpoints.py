"""A pass that is stopped goes on as if it had not been, and nothing else is taken for it."""

import json
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changed_runs import change_record
from processes import Running, command
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import grammar_lens as gl
from grammar_lens.cli.app import app
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import prepare
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.passes.checkpoints import Checkpoints, open_checkpoint
from grammar_lens.selectivity.collect_plan import CollectSpec
from grammar_lens.selectivity.collecting import Collection

LABELS = ("ADJ", "NOUN", "PRON", "PUNCT", "VERB")


@pytest.fixture
def collection(tiny: Model, bank: Treebank) -> Callable[..., Collection]:
    """A pass with everything that can ride along in it, over many small batches."""

    def make(**changes: Any) -> Collection:
        wanted = {
            "sites": ("neuron", "resid_post"),
            "positions": ("word", "next"),
            "replicates": 20,
            "sample": 3,
            "controls": True,
            "seed": 0,
        }
        budget = changes.pop("token_budget", 40)
        corpus = prepare(tiny, bank, labels=LABELS)
        return Collection(tiny, [corpus], CollectSpec(**{**wanted, **changes}), budget)

    return make


def states(collection: Collection) -> list[torch.Tensor]:
    """Everything that the pass has collected, as copies."""
    readers = [tap.reader for tap in collection.taps]
    return [t.clone() for r in readers for piece in r.state() for _, t in sorted(piece.items())]


def assert_bitwise(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other) > 20
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5))


class Stopped(Exception):
    """Stands for a kill."""


def read_until(collection: Collection, keeper: Checkpoints, batches: int) -> None:
    """Reads some batches and stops in the middle of the next."""
    after = keeper.after

    def counted(done: int, *rest: Any) -> None:
        after(done, *rest)
        if done == batches:
            raise Stopped

    keeper.after = counted  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Stopped):
        collection.read(False, keeper)


@pytest.mark.parametrize(("every", "stop"), [(1, 1), (1, 7), (3, 7), (5, 4)])
def test_going_on_is_bitwise_the_whole(
    collection: Callable[..., Collection], tmp_path: Path, every: int, stop: int
) -> None:
    whole = collection()
    whole.read(False)
    assert len(whole.batches) > 8
    path = tmp_path / "pass.safetensors"
    read_until(collection(), Checkpoints(path, every), stop)
    assert path.is_file() == (stop >= every)
    again = collection()
    again.read(False, Checkpoints(path, every))
    assert_bitwise(states(again), states(whole))


def test_what_is_finished_is_not_read_again(
    collection: Callable[..., Collection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Checkpoints(tmp_path / "pass.safetensors", 2)
    read_until(collection(), keeper, 5)
    again = collection()
    located: list[int] = []
    batch_type = type(again.batches[0])
    locate = batch_type.locate
    monkeypatch.setattr(
        batch_type,
        "locate",
        lambda self, *a, **k: (located.append(id(self)), locate(self, *a, **k))[1],
    )
    again.read(False, Checkpoints(tmp_path / "pass.safetensors", 2))
    assert set(located) == {id(batch) for batch in again.batches[4:]}


def test_the_budget_is_kept(
    collection: Callable[..., Collection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass whose batches had to be halved goes on with halves."""
    from grammar_lens.passes import stream

    read = stream._read

    def short(model: Any, forward: Any, alignment: Any, batch: Any, *rest: Any) -> None:
        read(model, forward, alignment, batch, *rest)
        if batch.token_ids.numel() > 20 and len(batch.lengths) > 1:
            raise MemoryError

    path = tmp_path / "pass.safetensors"
    whole = collection()
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        patch.setattr(stream, "_read", short)
        whole.read(False)
        read_until(collection(), Checkpoints(path, 1), 9)
    with open_checkpoint(path) as kept:
        assert kept.budget is not None
        assert kept.budget <= 20
    again = collection()
    again.read(
        False, Checkpoints(path, 1)
    )  # there is enough memory now, and the pieces are the same
    assert_bitwise(states(again), states(whole))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, "seed: it was 0, now 1"),
        ({"sites": ("neuron",)}, r"sites: it was \['neuron', 'resid_post'\], now \['neuron'\]"),
        ({"replicates": 0}, "replicates: it was 20, now 0"),
        ({"token_budget": 50}, "token budget: it was 40, now 50"),
    ],
)
def test_other_options_are_refused(
    collection: Callable[..., Collection], tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = tmp_path / "pass.safetensors"
    read_until(collection(), Checkpoints(path, 1), 2)
    with pytest.raises(GrammarLensError, match=told) as caught:
        collection(**changes).read(False, Checkpoints(path, 1))
    assert str(path) in str(caught.value)


def test_another_model_is_refused(
    collection: Callable[..., Collection],
    make_tiny: Callable[[], Model],
    bank: Treebank,
    tmp_path: Path,
) -> None:
    """Also one that differs in a single weight."""
    path = tmp_path / "pass.safetensors"
    first = collection()
    read_until(first, Checkpoints(path, 1), 2)
    other = make_tiny()
    weight = other.original_model.get_input_embeddings().weight
    weight.data[5, 3] += 1e-3
    wanted = CollectSpec(("neuron", "resid_post"), ("word", "next"), 20, 3, True, 0)
    again = Collection(other, [prepare(other, bank, labels=LABELS)], wanted, 40)
    with pytest.raises(GrammarLensError, match=r"weights: it was '[0-9a-f]{16}', now"):
        again.read(False, Checkpoints(path, 1))


def test_other_words_are_refused(
    collection: Callable[..., Collection], tiny: Model, bank: Treebank, tmp_path: Path
) -> None:
    path = tmp_path / "pass.safetensors"
    read_until(collection(), Checkpoints(path, 1), 2)
    fewer = Treebank(bank.name, bank.sentences[:-1])
    wanted = CollectSpec(("neuron", "resid_post"), ("word", "next"), 20, 3, True, 0)
    again = Collection(tiny, [prepare(tiny, fewer, labels=LABELS)], wanted, 40)
    with pytest.raises(GrammarLensError, match="words: it was"):
        again.read(False, Checkpoints(path, 1))


@pytest.mark.parametrize("where", [0.3, 0.6, 0.95])
def test_a_damaged_file_is_named(
    collection: Callable[..., Collection], tmp_path: Path, where: float
) -> None:
    """One bit of the numbers turned over: the file opens as ever, its checksum does not agree."""
    path = tmp_path / "pass.safetensors"
    read_until(collection(), Checkpoints(path, 1), 2)
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    data[begin + int(where * (len(data) - begin))] ^= 1
    path.write_bytes(data)
    with pytest.raises(GrammarLensError, match=r"pass\.safetensors is damaged \(checksum"):
        collection().read(False, Checkpoints(path, 1))


@pytest.mark.parametrize("keep", [0, 5, 2000])
def test_a_cut_off_file_is_named(
    collection: Callable[..., Collection], tmp_path: Path, keep: int
) -> None:
    path = tmp_path / "pass.safetensors"
    read_until(collection(), Checkpoints(path, 1), 2)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(GrammarLensError, match=r"pass\.safetensors is damaged"):
        collection().read(False, Checkpoints(path, 1))


def test_a_changed_position_is_damage(
    collection: Callable[..., Collection], tmp_path: Path
) -> None:
    """The checksum is over what the pass is and how far it was, too."""
    path = tmp_path / "pass.safetensors"
    read_until(collection(), Checkpoints(path, 1), 2)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata["pass"] = metadata["pass"].replace('"done": 2', '"done": 3')
    save_file(load_file(path), path, metadata)
    with pytest.raises(GrammarLensError, match="checksum"):
        collection().read(False, Checkpoints(path, 1))


def test_a_file_of_something_else_is_refused(
    collection: Callable[..., Collection], tmp_path: Path
) -> None:
    path = tmp_path / "pass.safetensors"
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(GrammarLensError, match=r"damaged \(no 'pass'"):
        collection().read(False, Checkpoints(path, 1))


def test_a_full_disk_is_told(
    collection: Callable[..., Collection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the checkpoint before, and no file of another name."""
    from grammar_lens.passes import checkpoints

    path = tmp_path / "pass.safetensors"
    read_until(collection(), Checkpoints(path, 1), 2)
    before = path.read_bytes()

    def full(_tensors: Any, part: Path, _about: Any) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(GrammarLensError, match=r"cannot write .*pass.safetensors: No space left"):
        collection().read(False, Checkpoints(path, 1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_by_default_a_checkpoint_costs_a_twentieth_of_the_time(tmp_path: Path) -> None:
    """Time is made: batches of 10 s, files that take 4 s to write."""
    from grammar_lens.passes import checkpoints

    now = [0.0]
    written: list[float] = []
    keeper = Checkpoints(tmp_path / "pass.safetensors")
    patch = pytest.MonkeyPatch()
    patch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    patch.setattr(
        checkpoints,
        "write_checkpoint",
        lambda *_: (written.append(now[0]), now.__setitem__(0, now[0] + 4.0)),
    )
    try:
        keeper.begin({}, [])
        for done in range(1, 31):
            now[0] += 10
            keeper.after(done, None, [], done == 30)
    finally:
        patch.undo()
    assert written[0] == 30
    assert np.diff(written).min() >= 80
    assert len(written) == 4


# Real processes, really killed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def words(bank: Treebank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CoNLL-U file: the small treebank many times over, in other orders."""
    rng = random.Random(0)
    lines = []
    for _ in range(8):
        for sentence in rng.sample(bank.sentences, len(bank)):
            for n, word in enumerate(sentence.words, 1):
                lines.append(f"{n}\t{word.form}\t_\t{word.label('upos')}\t_\t_\t_\t_\t_\t_")
            lines.append("")
    path = tmp_path_factory.mktemp("words") / "words.conllu"
    path.write_text("\n".join([*lines, ""]), "utf-8")
    return path


def collect(out: Path, words: Path, *more: str) -> list[str]:
    return [
        *("collect", str(out), "--train", str(words), "--position", "next", "--device", "cpu"),
        *("--replicates", "20", "--sample", "2", "--token-budget", "100", *more),
    ]


def call(arguments: list[str]) -> str:
    """Runs a command in this process, which is not killed; what it says on stderr."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that are killed
    done = CliRunner().invoke(app, arguments)
    torch.set_num_threads(threads)
    assert done.exit_code == 0, done.stderr
    return done.stderr


def kill(folder: Path, arguments: list[str], wait: Callable[[Running], object]) -> bool:
    """Starts a command and kills it after a wait; whether it was still running."""
    running = command(*arguments, "--quiet", folder=folder)
    wait(running)
    return running.kill() == -signal.SIGKILL


def assert_same_moments(one: Path, other: Path) -> None:
    """To the last bit; and nothing is left of the interruptions."""
    ours, theirs = (load_file(run / "moments.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert torch.equal(ours[name].nan_to_num(0.5), values.nan_to_num(0.5)), name
    assert not (one / "unfinished").exists()
    counts = [
        json.loads((run / "run.json").read_text())["collect"]["words"] for run in (one, other)
    ]
    assert counts[0] == counts[1]


@pytest.fixture(scope="module")
def whole(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    call(collect(out, words))
    return out


def test_a_killed_process_goes_on(words: Path, whole: Path, tmp_path: Path) -> None:
    """Killed twice within the pass, the second time after it was resumed from the first."""
    stopped = tmp_path / "stopped"
    often, rng = ("--checkpoint-every", "1"), random.Random(1)
    kept = stopped / "unfinished" / "collect.1of1.safetensors"
    for resume in ([], ["--resume"]):
        before = kept.stat().st_mtime_ns if kept.exists() else 0

        def newer(running: Running, before: int = before) -> None:
            running.until(lambda: kept.exists() and kept.stat().st_mtime_ns > before)
            time.sleep(rng.uniform(0, 0.2))

        assert kill(tmp_path, collect(stopped, words, *often, *resume), newer)
    call(collect(stopped, words, "--resume"))
    assert_same_moments(stopped, whole)


@pytest.mark.slow
def test_fifty_random_kills(words: Path, whole: Path, tmp_path: Path) -> None:
    """At any moment from the start of the command to the end; every one is resumed and compared."""
    begin = time.monotonic()
    assert command(*collect(tmp_path / "timed", words), folder=tmp_path).ended(300) == 0
    took, rng, killed = time.monotonic() - begin, random.Random(2), 0
    for i in range(200):
        stopped = tmp_path / f"stopped{i}"
        arguments = collect(stopped, words, "--checkpoint-every", "1")
        if not kill(tmp_path, arguments, lambda _: time.sleep(rng.uniform(0, 1.05) * took)):
            continue
        killed += 1
        call(collect(stopped, words, "--resume"))
        assert_same_moments(stopped, whole)
        if killed == 50:
            break
    assert killed == 50


def test_a_run_that_was_done_with_another_model_is_refused(whole: Path, tmp_path: Path) -> None:
    """The record knows the weights, so that a step never mixes two models."""
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    change_record(out, lambda record: record["model"].update(weights="0" * 64))
    failed = CliRunner().invoke(app, ["score", str(out), "--quiet"])
    assert failed.exit_code == 2
    assert "reference-9m" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_gl_collect_takes_a_keeper(tiny: Model, bank: Treebank, tmp_path: Path) -> None:
    path = tmp_path / "pass.safetensors"
    found = gl.collect(tiny, bank, labels=LABELS, keeper=Checkpoints(path, 1), show_progress=False)
    with open_checkpoint(path) as kept:
        assert kept.done > 0
        kept.verify()
    again = gl.collect(tiny, bank, labels=LABELS, keeper=Checkpoints(path, 1), show_progress=False)
    np.testing.assert_array_equal(again["neuron"].mean, found["neuron"].mean)


def test_what_a_kill_leaves_behind_is_removed(words: Path, whole: Path, tmp_path: Path) -> None:
    """Killed while a checkpoint was written, and after the step was stored but before that was told."""
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    left = out / "unfinished"
    left.mkdir()
    (left / ".collect.1of1.safetensors.123.tmp").write_bytes(b"half")
    (left / ".tmpAbCdEf").write_bytes(b"half, by safetensors")
    (left / "collect.1of1.safetensors").write_bytes(b"whole")
    assert "collect: done before" in call(collect(out, words, "--resume"))
    assert not left.exists()
