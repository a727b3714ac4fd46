"""Storing results of steps beside earlier ones, and pointing to those that are current.

A study is written to a folder under another name and renamed, then run.json points to it, then its
files are linked at their places in the run directory: a process killed in between leaves what was
there, or what the next writer puts right.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from grammar_lens.errors import GrammarLensError
from grammar_lens.files import file_digest, make_folder, to_json, write_file, write_sealed
from grammar_lens.phenomena.pairs import load_pairs
from grammar_lens.runs.settings import Config
from grammar_lens.runs.store.directory import update_record
from grammar_lens.runs.store.provenance import checkout_commit, library_versions
from grammar_lens.runs.store.stored import (
    ATTRIBUTIONS,
    CONTROLS,
    CURVES,
    FITTED,
    LAYER_LESIONS,
    LAYERS,
    OUTCOMES,
    SUMMARY,
    StoredRun,
)
from grammar_lens.runs.store.studies import (
    MADE,
    MADE_FROM,
    SCHEMA,
    STEPS,
    STUDIES,
    Study,
    key_of,
    own_settings,
    read_study,
    studies_of,
)

Save = Callable[[Path], Mapping[str, Any] | None]
"""Writes the files of a step into a folder; returns what its record is to say beside the settings."""
BARE = {
    "score": (ATTRIBUTIONS,),
    "select": (CONTROLS,),
    "probe": (CURVES, FITTED),
    "lesion": (OUTCOMES, LAYER_LESIONS),
    "report": (SUMMARY, LAYERS),
}
"""Files of a step in runs of earlier versions, beside the one that says it is done."""
FIGURES = "figures"
SHORT = 8
"""Characters of a key that make a name."""


def store(
    run: StoredRun, step: str, config: Config, save: Save, *, name: str | None = None
) -> None:
    """Stores what a step has found, and makes it current; earlier results stay beside it.

    Raises GrammarLensError when the disk cannot take it, and for a `name` that another study has.
    """
    made = _record(run, step, config)
    folder = run.path / STUDIES / step / _name(run, step, made["key"], name)
    part = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part)
    try:
        about = save(part) or {}
        _seal(part, {**made, "about": about})
        if folder.exists():  # damaged, or a report, which is made anew from what there is
            shutil.rmtree(folder)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _point(run, read_study(folder), config)


def take(run: StoredRun, step: str, config: Config, *, name: str | None = None) -> bool:
    """Makes a stored study with these very settings current again, if there is one and it is whole."""
    if not all(run.has(before) for before in MADE_FROM[step]):
        return False
    key = _record(run, step, config)["key"]
    for study in studies_of(run.path, step):
        if study.key == key and (name is None or study.name == name):
            try:
                study.verify()
            except GrammarLensError:
                return False
            _point(run, study, config)
            return True
    return False


def is_of(run: StoredRun, step: str, config: Config) -> bool:
    """Whether the current results of a step are whole, and of these settings."""
    try:
        if not run.has(step):
            return False
        study = run.study_of(step)
        if study is None:
            return True  # a run of an earlier version
        study.verify(current=True)
    except GrammarLensError:
        return False
    if step == "phenomena" and study.made["inputs"].get("pairs") != _pairs_digest(config):
        return False
    # results made before a setting existed are not known to be of any value of it
    return own_settings(step, config.stored()) == study.settings


def drop_damaged(run: StoredRun, step: str) -> None:
    """Forgets current results of a step that are not whole, before the step is done anew."""
    try:
        study = run.study_of(step)
        if study is not None:
            study.verify(current=True)
    except GrammarLensError:
        run.record["studies"].pop(step)
        update_record(run)
        run.reload(step)


def made_about(run: StoredRun, step: str) -> Mapping[str, Any]:
    """Entries of the record of a step's current results beside its settings."""
    study = run.study_of(step)
    return {} if study is None else study.made.get("about", {})


def begin(run: StoredRun) -> None:
    """Puts in order what a killed process may have left; gives bare results of earlier versions records."""
    for part in (run.path / STUDIES).glob("*/.*.tmp"):
        shutil.rmtree(part, ignore_errors=True)
    if not run.has_studies:
        _adopt(run)
    mirror(run)


def mirror(run: StoredRun, new: Collection[str] = ()) -> None:
    """Links the files of current results at their places; removes those of results that are not.

    Those stay in `studies/`. A step whose last file was deleted counts as not done, and is linked
    again only if it is `new`.
    """
    for step in STEPS:
        try:
            study = run.study_of(step)
            current = study if study is not None and run.belongs(study) else None
        except GrammarLensError:  # damaged: said when it is read
            continue
        if current is not None and not (run.path / STEPS[step]).exists() and step not in new:
            continue
        wanted = set() if current is None else set(current.files)
        every = {name for other in studies_of(run.path, step) for name in other.files}
        for name in every - wanted:
            (run.path / name).unlink(missing_ok=True)
        # the file that says that the step is done comes last
        for name in sorted(wanted, key=lambda name: name == STEPS[step]):
            assert current is not None
            if (current.path / name).is_file():
                link(current.path / name, run.path / name)
    with suppress(OSError):
        (run.path / FIGURES).rmdir()


def prune(run: StoredRun) -> list[Study]:
    """Deletes the studies that are not current; returns them."""
    gone = [study for study in all_studies(run) if not is_current(run, study)]
    for study in gone:
        shutil.rmtree(study.path)
    return gone


def all_studies(run: StoredRun) -> list[Study]:
    """Every stored study, in the order of the steps."""
    return [study for step in STEPS for study in studies_of(run.path, step)]


def is_current(run: StoredRun, study: Study) -> bool:
    """Whether these are the results that the run shows."""
    now = run.study_of(study.step)
    return now is not None and now.path == study.path and run.belongs(study)


def _record(
    run: StoredRun, step: str, config: Config, versions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    settings = own_settings(step, config.stored())
    made_from = {}
    for before in MADE_FROM[step]:
        study = run.study_of(before) if run.has(before) else None
        if study is not None:
            made_from[before] = study.key
    versions, inputs = versions or library_versions(), _inputs(run, step, config)
    return {
        "schema": SCHEMA,
        "step": step,
        "key": key_of(step, settings, made_from, versions, inputs),
        "settings": settings,
        "seed": config.seed,
        "versions": versions,
        "commit": checkout_commit(),
        "inputs": inputs,
        "made_from": made_from,
    }


def _inputs(run: StoredRun, step: str, config: Config) -> dict[str, Any]:
    """Digests of the model, the words and the file of neurons that a step reads."""
    banks = run.record.get("treebank", {})
    inputs = {role: bank["fingerprint"] for role, bank in banks.items()}
    inputs["model"] = run.record.get("model", {}).get("weights")
    if step == "select" and config.neurons_from is not None:
        inputs["neurons"] = file_digest(Path(config.neurons_from))
    if step == "phenomena":
        inputs["pairs"] = _pairs_digest(config)
    return inputs


def _pairs_digest(config: Config) -> str:
    """A digest of the minimal pairs that the settings name; empty without any."""
    if not config.pairs:
        return ""
    pairs = load_pairs(config.pairs, max_pairs=config.max_pairs, seed=config.seed)
    return hashlib.sha256(json.dumps(to_json(pairs.pairs)).encode()).hexdigest()


def _name(run: StoredRun, step: str, key: str, name: str | None) -> str:
    """The name of a study's folder. Raises GrammarLensError for one that is no name, or is taken."""
    if name is None:
        same = [study.name for study in studies_of(run.path, step) if study.key == key]
        return same[0] if same else key[:SHORT]
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise GrammarLensError(
            f"--name is {name!r}, expected letters, digits, '-', '_' and '.', such as seed-9"
        )
    taken = [s for s in studies_of(run.path, step) if s.name == name and s.key != key]
    if taken:
        raise GrammarLensError(
            f"{run.path} has other {step} results by the name {name!r}: choose another --name"
        )
    return name


def _seal(folder: Path, made: Mapping[str, Any]) -> None:
    """Writes the record of a study, with the digests of its files."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MADE)
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_sealed(folder / MADE, {**made, "files": files, "stored": now})


def _point(run: StoredRun, study: Study, config: Config) -> None:
    """Makes a study current."""
    step, stored = study.step, config.stored()
    # the seed in run.json is that of the run; a step's own stands with the step
    settings = {name: stored[name] for name in study.settings if name != "seed"}
    settings |= {name: v for name, v in stored.items() if name not in run.record["config"]}
    entry = {"name": study.name, "key": study.key}
    if "seed" in study.settings:
        entry["seed"] = study.settings["seed"]
    before = {other for other in STEPS if _belongs(run, other)}
    update_record(run, studies={step: entry}, config=settings)
    run.reload(step)
    mirror(run, {step, *(other for other in STEPS if other not in before and _belongs(run, other))})


def _belongs(run: StoredRun, step: str) -> bool:
    """Whether the current study of a step was made from the current results."""
    try:
        study = run.study_of(step)
        return study is not None and run.belongs(study)
    except GrammarLensError:
        return False


def _adopt(run: StoredRun) -> None:
    """Gives the results of a run of an earlier version records, from its settings."""
    config = Config.of(run)
    update_record(run, studies={})
    run.reload("collect")
    for step in STEPS:
        bare = [run.path / name for name in (*BARE.get(step, ()), STEPS[step])]
        bare += [*(run.path / FIGURES).glob("*")] if step == "report" else []
        if not (run.path / STEPS[step]).is_file():
            continue
        if step == "probe" and not (run.path / FITTED).is_file():
            continue  # made before probes were kept: not whole, so that the step is done anew
        made = _record(run, step, config, run.record.get("versions"))
        folder = run.path / STUDIES / step / made["key"][:SHORT]
        shutil.rmtree(folder, ignore_errors=True)
        for path in filter(Path.is_file, bare):
            link(path, folder / path.relative_to(run.path))
        about = {"attributions": run.record.get("attributions")} if step == "score" else {}
        _seal(folder, {**made, "about": about})
        update_record(run, studies={step: {"name": folder.name, "key": made["key"]}})
        run.reload(step)


def link(source: Path, target: Path) -> None:
    """The same file at another place, without a copy where the file system can do that."""
    if target.exists() and target.samefile(source):
        return
    make_folder(target.parent)
    part = target.with_name(f".{target.name}.link.tmp")
    try:
        part.unlink(missing_ok=True)
        os.link(source, part)
        os.replace(part, target)
    except OSError:
        part.unlink(missing_ok=True)
        write_file(target, lambda copy: shutil.copyfile(source, copy))
