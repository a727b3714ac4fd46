"""An interrupted battery goes on where it stopped, and never with another one's numbers."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lesion_bench import ARRAYS, WAYS, conditions, draw, go

from grammar_lens.corpus.alignment import Alignment
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.lesions import battery as lesion_battery
from grammar_lens.lesions.battery import run_battery
from grammar_lens.lesions.outcomes import Ablation, Condition, Outcomes
from grammar_lens.model.about import Model

BUDGET = 200
"""Tokens: a batch for every sentence."""


@pytest.fixture(scope="session")
def corpus(tiny: Model, bank: Treebank) -> Corpus:
    return prepare(tiny, Treebank("five", bank.sentences[13:]))


@pytest.fixture(autouse=True)
def by_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    go("fast", monkeypatch)


class Asked:
    """A battery's arguments, of which a test changes one; counts the batches it runs."""

    def __init__(self, model: Model, corpus: Corpus, folder: Path | None) -> None:
        self.model, self.folder = model, folder
        self.alignment: Alignment = corpus.alignment
        self.classes = corpus.read("next")
        self.lexicon: Lexicon = fit_lexicon(model, corpus)
        self.conditions = conditions()
        self.options: dict[str, Any] = {"token_budget": BUDGET}

    def run(self, progress: Callable[[int], None] | None = None) -> Outcomes:
        return run_battery(
            self.model,
            self.alignment,
            self.classes,
            self.lexicon,
            self.conditions,
            folder=self.folder,
            progress=progress,
            **self.options,
        )


@pytest.fixture
def asked(tiny: Model, corpus: Corpus, tmp_path: Path) -> Asked:
    return Asked(tiny, corpus, tmp_path / "battery")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first sentence of every batch that is run."""
    seen: list[int] = []
    whole = lesion_battery._Worker._whole

    def counting(self: Any, batch: Any, *lesions: Any) -> None:
        seen.append(int(batch.rows[0]))
        whole(self, batch, *lesions)

    monkeypatch.setattr(lesion_battery._Worker, "_whole", counting)
    return seen


class Stop(BaseException):
    """As if the process were interrupted."""


def stopping(after: int) -> Callable[[int], None]:
    told: list[int] = []

    def progress(tokens: int) -> None:
        told.append(tokens)
        if len(told) == after:
            raise Stop

    return progress


def assert_equal(got: Outcomes, want: Outcomes) -> None:
    for name in (*ARRAYS, "top_label", "word", "label", "sentence", "shared"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    assert got.seen_mass == want.seen_mass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_and_called_again(
    asked: Asked, batches: list[int], after: int, way: str, monkeypatch: pytest.MonkeyPatch
):
    go(way, monkeypatch)
    folder, asked.folder = asked.folder, None
    done: list[int] = []
    want = asked.run(done.append)
    n = len(batches)
    assert n > 3
    asked.folder = folder
    with pytest.raises(Stop):
        asked.run(stopping(after))
    assert len(batches) == n + after
    told: list[int] = []
    got = asked.run(told.append)
    assert len(batches) == 2 * n, "no batch is run twice"
    assert told == done
    assert_equal(got, want)
    assert_equal(asked.run(), want)
    assert len(batches) == 2 * n, "a finished battery is not run at all"


def test_nothing_is_pickled(asked: Asked):
    asked.run()
    assert asked.folder is not None
    files = {path.name for path in asked.folder.iterdir()}
    assert files == {f"{name}.npy" for name in (*ARRAYS, "top_label", "seen_mass")} | {"done.json"}
    for path in asked.folder.glob("*.npy"):
        assert np.load(path, allow_pickle=False).size


def other_lesion(asked: Asked) -> None:
    one = asked.conditions[0]
    units = replace(one.neurons, index=one.neurons.index[::-1].copy())  # type: ignore[union-attr]
    asked.conditions[0] = replace(one, neurons=units)


def other_means(asked: Asked) -> None:
    one = asked.conditions[2]
    asked.conditions[2] = replace(one, neurons=replace(one.neurons, mean=np.ones(6)))


def other_ablation(asked: Asked) -> None:
    asked.conditions[1] = replace(asked.conditions[1], ablation=Ablation("mean", 0.5))


def fewer_lesions(asked: Asked) -> None:
    asked.conditions.pop()


def one_more_lesion(asked: Asked) -> None:
    asked.conditions.append(Condition("X", 1, draw(np.random.default_rng(0), 2, [1])))


def other_seed(asked: Asked) -> None:
    asked.options["seed"] = 1


def other_words(asked: Asked) -> None:
    asked.classes = np.where(np.arange(len(asked.classes)) % 7 == 3, -1, asked.classes)


def other_shared(asked: Asked) -> None:
    asked.options["shared"] = np.arange(len(asked.classes)) % 2 == 0


def other_lexicon(asked: Asked) -> None:
    asked.lexicon = replace(asked.lexicon, probability=asked.lexicon.probability[:, ::-1].copy())


def other_mass(asked: Asked) -> None:
    asked.lexicon = replace(asked.lexicon, seen=~asked.lexicon.seen)


def other_tokens(asked: Asked) -> None:
    ids = [row.copy() for row in asked.alignment.token_ids]
    ids[0][3] += 1
    asked.alignment = replace(asked.alignment, token_ids=tuple(ids))


def other_places(asked: Asked) -> None:
    """The same words and tokens, but one word begins a token later."""
    first = asked.alignment.first.copy()
    first[4] += 1
    asked.alignment = replace(asked.alignment, first=first)


OTHERS = [
    other_lesion,
    other_means,
    other_ablation,
    fewer_lesions,
    one_more_lesion,
    other_seed,
    other_words,
    other_shared,
    other_lexicon,
    other_mass,
    other_tokens,
    other_places,
]


@pytest.mark.parametrize("change", OTHERS, ids=lambda f: f.__name__)
def test_another_battery_starts_afresh(
    asked: Asked, batches: list[int], change: Callable[[Asked], None]
):
    with pytest.raises(Stop):
        asked.run(stopping(2))
    change(asked)
    batches.clear()
    got = asked.run()
    n = len(batches)
    asked.folder = None
    batches.clear()
    assert_equal(got, asked.run())
    assert n == len(batches), "all of it was run"


def spoil_note(folder: Path) -> None:
    (folder / "done.json").write_text('{"key": "')


def strange_note(folder: Path) -> None:
    (folder / "done.json").write_text("[1, 2]")


def note_without_batches(folder: Path) -> None:
    note = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps({"key": note["key"]}))


def bytes_in_note(folder: Path) -> None:
    (folder / "done.json").write_bytes(b"\xff\xfe\x00")


def no_note(folder: Path) -> None:
    (folder / "done.json").unlink()


def no_array(folder: Path) -> None:
    (folder / "tag_loss.npy").unlink()


def cut_array(folder: Path) -> None:
    """NumPy would fill up a file that is too short with zeros."""
    path = folder / "nll.npy"
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    path = folder / "top_label.npy"
    path.write_bytes(path.read_bytes()[:30])


def empty_array(folder: Path) -> None:
    (folder / "seen_mass.npy").write_bytes(b"")


def other_shape(folder: Path) -> None:
    np.save(folder / "nll.npy", np.zeros((2, 3)))


def other_type(folder: Path) -> None:
    path = folder / "tag_probability.npy"
    np.save(path, np.load(path).astype(np.float64))


DAMAGE = [
    spoil_note,
    strange_note,
    note_without_batches,
    bytes_in_note,
    no_note,
    no_array,
    cut_array,
    cut_header,
    empty_array,
    other_shape,
    other_type,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_a_damaged_folder_starts_afresh(
    asked: Asked, batches: list[int], damage: Callable[[Path], None]
):
    asked.run()
    n = len(batches)
    folder, asked.folder = asked.folder, None
    want = asked.run()  # in memory: what is damaged cannot change it
    assert folder is not None
    asked.folder = folder
    damage(folder)
    assert_equal(asked.run(), want)
    assert len(batches) == 3 * n


CHILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np
import conftest
from lesion_bench import conditions, draw
from grammar_lens.lesions.battery import run_battery
from grammar_lens.model.loading import load_model
from grammar_lens.corpus.corpus import fit_lexicon, prepare
from grammar_lens.lesions.outcomes import Condition

model = load_model()
corpus = prepare(model, conftest.written(conftest.TRAIN))
def progress(_):
    print("batch", flush=True)
    time.sleep({pause})
got = run_battery(
    model, corpus.alignment, corpus.read("next"), fit_lexicon(model, corpus),
    conditions(), token_budget=200, folder=Path({folder!r}), progress=progress)
np.save({out!r}, np.concatenate([got.nll, got.tag_loss, got.lexical_loss, got.top_label]))
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path):
    """Processes that are killed, not asked to stop, until one is let through."""

    def start(name: str, pause: float) -> subprocess.Popen[str]:
        code = CHILD.format(
            tests=str(Path(__file__).parents[1]),
            folder=str(tmp_path / name),
            out=str(tmp_path / f"{name}.npy"),
            pause=pause,
        )
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env
        )

    whole = start("whole", 0)
    n_batches = (whole.communicate()[0] or "").count("batch")
    assert whole.returncode == 0
    rng = np.random.default_rng(0)
    finished: list[int] = []
    for _ in range(4):
        child = start("killed", 0.05)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.2)))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        note = json.loads((tmp_path / "killed" / "done.json").read_text())
        finished.append(len(note["batches"]))
    assert 0 < finished[0] < n_batches, "the first was killed on its way"
    assert finished == sorted(finished)
    last = start("killed", 0)
    last.communicate()
    assert last.returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "whole.npy"))


FULL = """
import sys
from pathlib import Path
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.store import Store

folder, rows = Path(sys.argv[1]), int(sys.argv[2])
try:
    store = Store(rows, 1000, 4, [0], folder=folder, key="k")
    for row in range(rows):
        store.nll[row] = store.lexical_loss[row] = store.tag_loss[row] = row
    store.finish(0)
except GrammarLensError as error:
    sys.exit(f"refused: {error}")
print("stored", Store(rows, 1000, 4, [0], folder=folder, key="k").finished)
"""


@pytest.mark.parametrize(("rows", "fits"), [(10, True), (100, False)])
def test_a_full_disk_is_told_before_anything_is_lesioned(tmp_path: Path, rows: int, fits: bool):
    """A disk of 1.4 MB; the losses of 100 lesions take 2.6 MB, and used to end with SIGBUS."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1400k tmpfs {disk}"
    try:
        subprocess.run([*alone, mount], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("cannot mount a small disk here")
    work = shlex.join([sys.executable, "-c", FULL, str(disk / "run" / "unfinished"), str(rows)])
    command = [*alone, f"{mount} && {work}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if fits:
        assert (done.returncode, done.stdout) == (0, "stored {0}\n")
    else:
        assert done.returncode == 1
        assert "refused: cannot write" in done.stderr
        assert "No space left" in done.stderr
