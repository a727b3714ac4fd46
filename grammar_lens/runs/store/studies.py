"""Stored studies: the results of one step with some settings, in a folder with a record that is checked.

`RUN/studies/STEP/NAME/` holds the files of a step and `made.json`: settings, seed, versions, the keys
of the studies it was made from, and the SHA-256 of every file. The name is the beginning of the key,
which is a digest of all of these but the files, unless another name was asked for.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grammar_lens.errors import DamagedError, GrammarLensError
from grammar_lens.files import file_digest, read_sealed, to_json
from grammar_lens.runs.settings import EXAMPLES, LESIONS, OPTIONS, PHENOMENA, WORDS

STUDIES = "studies"
MADE = "made.json"
SCHEMA = 1
STEPS = {
    "collect": "moments.safetensors",
    "score": "scores.safetensors",
    "select": "key_neurons.csv",
    "examples": "examples.json",
    "course": "time_course.json",
    "layers": "layers.json",
    "probe": "probe.json",
    "lesion": "lesion_matrix.json",
    "phenomena": "phenomena.json",
    "report": "report.html",
}
"""The steps in their order, each with the file that says it is done."""
MADE_FROM = {
    "collect": (),
    "score": ("collect",),
    "select": ("score",),
    "examples": ("select",),
    "course": ("select",),
    "layers": ("collect",),  # of the words alone, whichever neurons are chosen
    "probe": ("select",),
    "lesion": ("select",),
    "phenomena": ("select",),
    "report": tuple(step for step in STEPS if step != "report"),
}
"""The steps whose results each step reads; the report reads those that there are."""


def _in(*panels: str) -> tuple[str, ...]:
    return tuple(name for name, (_, option) in OPTIONS.items() if option.panel in panels)


OWN = {
    "collect": (*_in(WORDS), "score", "replicates", "sample", "seed", "dtype", "token_budget"),
    "score": ("score", "attribution", "attribution_words"),
    "select": ("rule", "alpha", "sign", "top_k", "massive", "neurons_from"),
    "examples": _in(EXAMPLES),
    "course": (),
    "layers": ("layer_words", "untrained", "seed"),
    "probe": ("probe_k", "max_train_words", "seed"),
    "lesion": (*_in(LESIONS), "seed"),
    "phenomena": (*_in(PHENOMENA), "seed"),
    "report": (),
}
"""The settings that decide a step's results, beside those of the steps it is made from."""


@dataclass(frozen=True)
class Study:
    """The results of one step, by its folder and what `made.json` says."""

    path: Path
    made: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def step(self) -> str:
        return self.made["step"]

    @property
    def key(self) -> str:
        return self.made["key"]

    @property
    def made_from(self) -> Mapping[str, str]:
        """The key of the study of each step that this one was made from."""
        return self.made["made_from"]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.made["settings"]

    @property
    def files(self) -> Mapping[str, str]:
        """The SHA-256 of every file."""
        return self.made["files"]

    @property
    def run(self) -> Path:
        return self.path.parents[2]

    def verified(self, name: str, *, current: bool = False) -> Path:
        """The path of a file that is as it was stored, also at its place in the run if it is `current`.

        Raises GrammarLensError where it is not.
        """
        path, shown = self.path / name, self.run / name
        also = current and shown.exists() and not (path.exists() and shown.samefile(path))
        for copy in (path, shown) if also else (path,):
            found = file_digest(copy) if copy.is_file() else "missing"
            if found != self.files[name]:
                raise damaged(
                    copy,
                    f"SHA-256 {found[:12]}, stored with {self.files[name][:12]}",
                    self.step,
                    self.run,
                )
        return path

    def verify(self, *, current: bool = False) -> None:
        """Raises GrammarLensError for a file that is not as it was stored."""
        for name in self.files:
            self.verified(name, current=current)


def read_study(folder: Path) -> Study:
    """The study of a folder. Raises GrammarLensError where its record is damaged."""
    step, run = folder.parent.name, folder.parents[2]
    with explained(folder / MADE, step, run):
        made = read_sealed(folder / MADE)
        study = Study(folder, made)
        whole = (
            study.step == step
            and all(isinstance(x, str) for x in (study.key, *study.made_from.values()))
            and all(isinstance(x, str) for x in study.files.values())
            and isinstance(study.settings, Mapping)
        )
        if not whole or made["schema"] != SCHEMA:
            raise DamagedError(folder / MADE, "the record of another step or version")
    return study


def studies_of(run: Path, step: str) -> list[Study]:
    """All readable studies of a step, by name; those with a damaged record are left out."""
    found = []
    for path in sorted((run / STUDIES / step).glob(f"*/{MADE}")):
        if not path.parent.name.startswith("."):
            try:
                found.append(read_study(path.parent))
            except GrammarLensError:
                continue
    return found


def own_settings(step: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a step, of those that run.json has."""
    return {name: to_json(stored.get(name)) for name in OWN[step]}


def key_of(
    step: str,
    settings: Mapping[str, Any],
    made_from: Mapping[str, str],
    versions: Mapping[str, str],
    inputs: Mapping[str, Any],
) -> str:
    """The digest of everything that decides a study's results; `inputs` are digests of what it reads."""
    text = json.dumps(to_json([step, settings, made_from, versions, inputs]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(path: Path, why: str, step: str, run: Path) -> GrammarLensError:
    """The error of a stored file that cannot be used, with the command that makes it anew."""
    return GrammarLensError(f"{path} is damaged ({why}): make it anew with {remedy(step, run)}")


def remedy(step: str, run: Path) -> str:
    """The command that makes a step's results anew."""
    if step == "collect":
        return f"`grammar-lens run --resume --out {run}` and the settings it was made with"
    return f"`grammar-lens {step} {run}`"


@contextmanager
def explained(path: Path, step: str, run: Path) -> Iterator[None]:
    """Turns whatever reading a stored file raises into one line."""
    try:
        yield
    except DamagedError as error:
        raise damaged(path, error.why, step, run) from error
    except GrammarLensError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        reason = " ".join(str(error).split())[:120]
        raise damaged(path, f"{type(error).__name__}: {reason}", step, run) from error
