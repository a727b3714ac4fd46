"""The steps of a run on its directory: what the commands do, one after the other or one by one.

Each step reads what earlier steps stored and stores its own result, so a run that was stopped goes
on where it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from grammar_lens.lesions import VALUES
from grammar_lens.model import Model, describe, hook_name, load_model, model_name
from grammar_lens.report import write_figures, write_report
from grammar_lens.run import (
    STEPS,
    Run,
    RunError,
    open_run,
    outcome_table,
    refuse_directory,
    save_keys,
    save_moments,
    save_probes,
    save_scores,
    save_study,
    update_record,
    write_file,
    write_json,
)
from grammar_lens.selection import SIGNS, select
from grammar_lens.selectivity import SCORES, score
from grammar_lens.study import (
    Collected,
    Corpus,
    collect,
    fit_lexicon,
    fresh_corpus,
    lesion_study,
    prepare,
    probe,
    require_fresh,
)
from grammar_lens.treebank import Treebank, load_treebank

Say = Callable[[str], None]


@dataclass(frozen=True)
class Config:
    """The settings of a run; all but `out`, `device` and `show_progress` decide its numbers."""

    model: str = "reference-9m"
    train: str = "embedded:train"
    fresh: str = "embedded:test"
    label: str = "upos"
    labels: tuple[str, ...] = ()
    positions: tuple[str, ...] = ("word", "next")
    sites: tuple[str, ...] = ("neuron",)
    score: str = "correlation"
    sign: str = "absolute"
    top_k: int = 100
    probe_k: int = 10
    lesion: str = "mean"
    lesion_labels: tuple[str, ...] = ()
    dose: float = 1.0
    shams: int = 20
    max_fresh_sentences: int = 1000
    max_train_words: int = 50_000
    seed: int = 0
    dtype: str | None = None
    token_budget: int | None = None
    words_column: str | None = None
    label_column: str | None = None
    out: Path = field(default=Path("runs/latest"))
    device: str | None = None
    show_progress: bool = True

    def stored(self) -> dict[str, Any]:
        """What run.json keeps and a resumed run must agree with."""
        kept = asdict(self)
        for name in ("out", "device", "show_progress"):
            del kept[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @classmethod
    def of(cls, run: Run, **changes: Any) -> "Config":
        """The settings of a stored run, some of them changed."""
        stored = {k: tuple(v) if isinstance(v, list) else v for k, v in run.config.items()}
        return cls(**{**stored, "out": run.path, **changes})


class Workbench:
    """What the steps work on: the run, and the model and words, each loaded when first needed."""

    def __init__(self, config: Config, say: Say) -> None:
        self.config = config
        self.say = say

    @cached_property
    def model(self) -> Model:
        c = self.config
        return load_model(c.model, dtype=c.dtype, device=c.device)

    @cached_property
    def train_bank(self) -> Treebank:
        return self._bank(self.config.train)

    @cached_property
    def fresh_bank(self) -> Treebank:
        return self._bank(self.config.fresh)

    @cached_property
    def train(self) -> Corpus:
        c = self.config
        return prepare(self.model, self.train_bank, label=c.label, labels=c.labels or None)

    @cached_property
    def fresh(self) -> tuple[Corpus, int]:
        """Fresh words, and how many sentences were dropped because training has them too."""
        return fresh_corpus(self.model, self.fresh_bank, self.train)

    def _bank(self, source: str) -> Treebank:
        c = self.config
        bank = read_source(source, c.label, c.words_column, c.label_column)
        for note in bank.notes:
            self.say(f"{bank.name}: {note}")
        return bank

    def check(self) -> None:
        """Raises for everything that can be known to fail before the first forward pass."""
        c = self.config
        _one_of("score", c.score, tuple(SCORES))
        _one_of("sign", c.sign, SIGNS)
        _one_of("lesion", c.lesion, (*VALUES, "none"))
        for name in ("top_k", "probe_k", "token_budget", "max_fresh_sentences", "max_train_words"):
            given = getattr(c, name)
            if given is not None and given < 1:
                raise RunError(f"--{name.replace('_', '-')} is {given}, expected 1 or more")
        if c.shams < 0:
            raise RunError(f"--shams is {c.shams}, expected 0 or more")
        self.train_bank.require_label(c.label)
        self.fresh_bank.require_label(c.label)
        require_fresh(self.fresh_bank, self.train_bank)
        for site in ("neuron", *c.sites):
            hook_name(self.model, site, 0)
        there = self.model.cfg.n_layers * self.model.cfg.d_mlp
        if c.top_k > there:
            raise RunError(
                f"--top-k is {c.top_k}, expected 1 to {there}: {model_name(self.model)} has "
                f"{self.model.cfg.n_layers} layers of {self.model.cfg.d_mlp} neurons"
            )
        _ = self.train

    def record_sources(self, run: Run) -> None:
        """Notes in run.json which model and words these are; words that changed are an error."""
        about = {}
        for role, bank in (("train", self.train_bank), ("fresh", self.fresh_bank)):
            about[role] = {"name": bank.name, "sentences": len(bank), "words": bank.n_words}
            about[role]["fingerprint"] = bank.fingerprint()
            old = run.record.get("treebank", {}).get(role, about[role])
            if old["fingerprint"] != about[role]["fingerprint"]:
                raise RunError(
                    f"the {role} data {bank.name} has changed since {run.path} was made (it had "
                    f"{old['words']:,} words and fingerprint {old['fingerprint'][:12]}, now "
                    f"{bank.n_words:,} and {about[role]['fingerprint'][:12]}): choose another --out"
                )
        update_record(run, model=describe(self.model), treebank=about)


def _one_of(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise RunError(f"--{name} is {given!r}, expected one of {', '.join(known)}")


def read_source(
    source: str, label: str, words_column: str | None = None, label_column: str | None = None
) -> Treebank:
    """The treebank that a --train or --fresh option names; "embedded:test" is the handmade one."""
    name, _, split = source.partition(":")
    if name == "embedded" and not Path(source).exists():
        bank = load_treebank(label=label)
        return bank[split] if split else bank
    columns = {"words_column": words_column, "label_column": label_column}
    return load_treebank(source, label=label, **{k: v for k, v in columns.items() if v})


def run_all(config: Config, *, resume: bool, say: Say) -> Run:
    """The whole road; steps whose results are there already are passed over.

    Everything that can be checked without a forward pass is checked before the directory is made.
    """
    refuse_directory(config.out, resume=resume)
    bench = Workbench(config, say)
    bench.check()
    run = open_run(config.out, config.stored(), resume=resume)
    bench.record_sources(run)
    for step, work in _WORK.items():
        if run.has(step) and step != "report":
            say(f"{step}: done before, kept")
        elif step != "lesion" or config.lesion != "none":
            with _timed(run, step):
                work(bench, run)
    return run


def run_step(step: str, config: Config, run: Run | None, say: Say) -> Run:
    """One step, in a new directory when `run` is None; later steps' results are removed.

    They would no longer be of the results that the directory then has.
    """
    bench = Workbench(config, say)
    if run is None:
        refuse_directory(config.out, resume=False)
        bench.check()
        run = open_run(config.out, config.stored(), resume=False)
        bench.record_sources(run)
    elif step in ("probe", "lesion"):
        bench.check()
        bench.record_sources(run)
    names = list(STEPS)
    # the probe and the lesions both read the key neurons and not each other
    outdated = [step, "report"] if step in ("probe", "lesion") else names[names.index(step) :]
    for later in outdated:
        (run.path / STEPS[later]).unlink(missing_ok=True)
    update_record(run, config=config.stored())
    with _timed(run, step):
        _WORK[step](bench, run)
    return run


@contextmanager
def _timed(run: Run, step: str) -> Iterator[None]:
    """Notes in run.json how long a step took."""
    begin = time.perf_counter()
    yield
    update_record(run, timings={step: round(time.perf_counter() - begin, 3)})


def run_collect(bench: Workbench, run: Run) -> None:
    """Moments of all units at every position and site from one pass over the training words."""
    c = bench.config
    corpus = bench.train
    begin = time.perf_counter()
    collected = collect(
        bench.model,
        corpus,
        sites=c.sites if "neuron" in c.sites else ("neuron", *c.sites),
        position=c.positions,
        token_budget=c.token_budget,
        show_progress=c.show_progress,
    )
    seconds = time.perf_counter() - begin
    save_moments(run, collected)
    main = run.main_position
    update_record(
        run,
        collect={
            "words": collected.at(main)["neuron"].n_words,
            "tokens": collected.n_tokens,
            "seconds": round(seconds, 3),
        },
        alignment={
            "words": corpus.alignment.n_words,
            "aligned": int(corpus.alignment.aligned(main).sum()),
            "skipped": corpus.alignment.skipped(main),
            "not_read": {p: corpus.skipped(p) for p in c.positions},
        },
    )


def run_score(bench: Workbench, run: Run) -> None:
    """Scores of every neuron for every label, at each position."""
    c = bench.config
    moments = run.moments
    save_scores(run, {p: score(moments.at(p)["neuron"], c.score) for p in moments.by_position})


def run_select(bench: Workbench, run: Run) -> None:
    """The key neurons of every label, at each position."""
    c = bench.config
    save_keys(run, {p: select(run.scores_at(p), c.top_k, sign=c.sign) for p in run.positions})


def run_probe(bench: Workbench, run: Run) -> None:
    """How well the key neurons tell the label of fresh words, with all baselines."""
    c = bench.config
    fresh, dropped = bench.fresh
    probes = {}
    for position in run.positions:
        probes[position] = probe(
            bench.model,
            bench.train,
            fresh,
            run.keys_at(position),
            position=position,
            k=min(c.probe_k, c.top_k),
            max_train_words=c.max_train_words,
            seed=c.seed,
            token_budget=c.token_budget,
            show_progress=c.show_progress,
            dropped_duplicates=dropped,
        )
    save_probes(run, probes)


def run_lesion(bench: Workbench, run: Run) -> None:
    """The lesion study of the key neurons against matched shams."""
    c = bench.config
    fresh, _ = bench.fresh
    corpus = fresh
    if len(fresh.bank) > c.max_fresh_sentences:
        few = fresh.bank.head(c.max_fresh_sentences, seed=c.seed)
        bench.say(
            f"lesion: {len(few):,} of {len(fresh.bank):,} fresh sentences, drawn with seed {c.seed} "
            "(--max-fresh-sentences)"
        )
        corpus, _ = fresh_corpus(bench.model, few, bench.train)
    study = lesion_study(
        bench.model,
        corpus,
        run.keys_at(run.main_position),
        lexicon=fit_lexicon(bench.model, bench.train),
        value=c.lesion,
        dose=c.dose,
        shams=c.shams,
        labels=c.lesion_labels or None,
        seed=c.seed,
        token_budget=c.token_budget,
        show_progress=c.show_progress,
    )
    assert study.outcomes is not None
    save_study(run, study, outcome_table(study.outcomes, corpus.forms))


def run_report(bench: Workbench, run: Run) -> None:
    """summary.json, figures/ and report.html from what is there."""
    write_json(run.path / "summary.json", summarise(run))
    write_figures(run, run.path / "figures")
    write_file(run.path / STEPS["report"], lambda path: write_report(run, path))


_WORK: Mapping[str, Callable[[Workbench, Run], None]] = {
    "collect": run_collect,
    "score": run_score,
    "select": run_select,
    "probe": run_probe,
    "lesion": run_lesion,
    "report": run_report,
}


def summarise(run: Run) -> dict[str, Any]:
    """The numbers of summary.json, schema 1; parts whose step is not done are left out."""
    record = run.record
    summary: dict[str, Any] = {"schema": 1, "model": record.get("model")}
    if "treebank" in record:
        summary["treebank"] = {role: t["name"] for role, t in record["treebank"].items()}
        summary["treebank"]["label"] = run.config["label"]
    if run.has("collect"):
        moments: Collected = run.moments
        labels = moments.at(run.main_position)["neuron"].labels
        summary["treebank"]["labels"] = list(labels)
        summary["alignment"] = record["alignment"]
        summary["collect"] = record["collect"]
    if run.has("probe"):
        summary["probe"] = _probe_summary(run.probe)
        if len(run.positions) > 1:
            summary["probe_next"] = _probe_summary(run.probe_at("next"))
    study = run.study
    if study is not None:
        summary["lesion"] = {
            "value": study.value,
            "dose": study.dose,
            "k": study.k,
            "position": study.origin.position,
            "labels": list(study.labels),
            "matrix": study.matrix,
            "sham_mean": study.sham_mean,
            "n_shams": study.n_shams,
            "diagonal_mean": study.diagonal_mean,
            "off_diagonal_mean": study.off_diagonal_mean,
            "p_value": study.p_value,
            "crossed_pairs": [[p.first, p.second, p.confirmed] for p in study.crossed_pairs],
            "base_tag_loss": study.base_tag_loss,
            "tag_entropy": study.tag_entropy,
            "identity_error": study.identity_error,
            "words": int(study.n_words.sum()),
            "verdict": study.verdict(),
        }
    return summary


def _probe_summary(probe: Any) -> dict[str, Any]:
    names = (
        *("position", "k", "n_neurons", "accuracy", "random_accuracy", "majority_accuracy"),
        *("word_baseline_accuracy", "control_accuracy", "selectivity", "macro_f1"),
        *("layer", "layer_accuracy", "unseen_accuracy", "n_train_words", "n_fresh_words"),
        "dropped_duplicates",
    )
    return {name: getattr(probe, name) for name in names}
