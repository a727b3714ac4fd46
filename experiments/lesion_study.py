"""The full lesion study: are a tag's key neurons what the model needs for that tag, whatever the check?

    python experiments/lesion_study.py --config experiments/configs/quick.toml
    python experiments/lesion_study.py --config experiments/configs/ewt.toml --shams 19
    python experiments/lesion_study.py --config experiments/configs/ewt.toml --resume

The keys of a configuration file are the flags below; a flag on the command line beats the file. In
IPython `main(Config(**read_config(Path("experiments/configs/quick.toml"))))` gives the table.

For every score of --scores: the key neurons are chosen on --train alone. On --fresh they are cut
against matched and damage-matched shams, with other values and doses and at the scored token alone, and
everything else is cut but them. Single neurons are cut to see what attributions are worth, and each
tag's neurons are cut, found again and cut again. On every domain of --domains the main lesion is
repeated. Of these parts each is stored when it is done, and --resume goes on with the rest.

Claim: cutting a tag's neurons hurts that tag more than others, and more than cutting sets of shams
does; neurons chosen by attribution show it more clearly than neurons chosen by correlation.
Run time: quick.toml 5 CPU minutes on one core of a busy machine. ewt.toml reads 160 million tokens times
lesions, at 5,000 a second on such a core 9 hours (extrapolated): use a GPU, or --max-sentences 200.
Expected result, quick.toml (nats): neurons chosen by attribution_contrast cost their own tag +.273 and
other tags -.002, 24 of 28 pairs dissociate doubly, 20 of them by AUROC; chosen by correlation +.161 and
+.028, and no pair; p = .05 for both, the least that 19 shams can give. Those shams do little damage
(from .08 and .14 of the real sets'), and the two damage-matched ones of quick.toml cannot settle it.

Writes studies.csv (a row per score and domain), ablations.csv (per score, domain and ablation of the
lesion), matrix.csv (and lesion and label), values.csv, doses.csv, sufficiency.csv, pairs.csv (a row per
crossed pair), calibration.csv, redundancy.csv, key_neurons.csv, verdicts.md, lesion_study.html and
run.json; in a folder per score and part, what the part found (of the losses word by word those of the
intact model and the real lesions).
"""

import difflib
import html
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import typer

import grammar_lens as gl
from grammar_lens import figures
from grammar_lens.cli.errors import INTERRUPTED, one_line_errors
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import VALUES, WHERE
from grammar_lens.dissociation.calibration import Calibration
from grammar_lens.dissociation.pairs import CrossedPair
from grammar_lens.dissociation.redundancy import Redundancy, Round
from grammar_lens.dissociation.result import LesionStudy, value_ladder
from grammar_lens.dissociation.verdicts import least
from grammar_lens.errors import GrammarLensError, NotMeasuredError
from grammar_lens.files import make_folder, read_json, to_json, write_json, write_text
from grammar_lens.lesions.outcomes import Ablation, Outcomes
from grammar_lens.model.about import Model, describe
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.runs.session import read_source
from grammar_lens.runs.store.arrays import (
    read_attributions,
    read_evidence,
    save_attributions,
    save_collected,
)
from grammar_lens.runs.store.provenance import (
    experiment_record,
    refuse_other_results,
    treebank_record,
)
from grammar_lens.runs.store.results import outcome_table, read_study, save_study
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

NAME = "lesion_study"
MAIN, CALIBRATION, REDUNDANCY = "fresh", "calibration", "redundancy"
"""The parts of every score beside its further domains."""
CHECK = "check"
"""The few fresh sentences of the calibration and the rounds."""
RESULT = "result.json"
"""What a part leaves in its folder when it is done."""
TOP = 20
"""Key neurons of every label that are cut one by one, too."""
TENTH = 10
"""Of the random neurons the largest tenth by effect and by attribution is compared."""
FLAGS_ONLY = ("config", "resume")
"""Flags that a configuration file may not set."""
SEVERAL = ("domains", "cut", "scores", "values", "doses")
"""Flags of several entries by commas, which a file may give as a list."""
MAY_DIFFER = (*FLAGS_ONLY, "device", "out")
"""Flags that a study may be resumed with another value of."""


def from_file(context: typer.Context, value: Path | None) -> Path | None:
    """Makes the settings of a file the defaults of all other flags."""
    if value is not None:
        with one_line_errors():
            context.default_map = {**(context.default_map or {}), **read_config(value)}
    return value


@dataclass(frozen=True)
class Config:
    """The flags, which are the keys of a configuration file."""

    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file with these settings.", is_eager=True, callback=from_file),
    ] = None
    model: Annotated[str, typer.Option(help="reference-9m, a folder, or a hub id.")] = (
        "reference-9m"
    )
    train: Annotated[str, typer.Option(help="Words to choose neurons on.")] = "embedded:train"
    fresh: Annotated[str, typer.Option(help="Other words to test on.")] = "embedded:test"
    domains: Annotated[str, typer.Option(help="Further fresh treebanks, by commas.")] = ""
    label: Annotated[str, typer.Option(help="upos, xpos, deprel or feats:NAME.")] = "upos"
    min_words: Annotated[int, typer.Option(help="Leave out values with fewer words.")] = 2
    cut: Annotated[
        str, typer.Option(help="Values whose neurons are cut, by commas; by default eight.")
    ] = ""
    scores: Annotated[str, typer.Option(help="Scores to choose neurons by, by commas.")] = (
        "attribution_contrast,correlation"
    )
    k: Annotated[int, typer.Option(help="Key neurons per value.")] = 100
    value: Annotated[str, typer.Option(help="Value of a cut neuron in the main lesion.")] = "mean"
    dose: Annotated[float, typer.Option(help="Dose of the main lesion.")] = 1.0
    where: Annotated[str, typer.Option(help="The main lesion at every token, or scored.")] = "every"
    shams: Annotated[int, typer.Option(help="Shams of the main lesion.")] = 100
    values: Annotated[str, typer.Option(help="Other values, by commas.")] = (
        "zero,resample,resample_within"
    )
    doses: Annotated[
        str, typer.Option(help="Other doses, by commas; below 0 amplifies, above 1 overshoots.")
    ] = "0.25,0.5,0.75,-1,2"
    other_where: Annotated[str, typer.Option(help="The other place to cut at; empty: none.")] = (
        "scored"
    )
    other_shams: Annotated[int, typer.Option(help="Shams of each other ablation.")] = 10
    damage_matched: Annotated[
        int, typer.Option(help="Shams that grow until they do as much damage; 0: none.")
    ] = 20
    sufficiency: Annotated[bool, typer.Option(help="Cut everything but a label's neurons.")] = True
    domain_shams: Annotated[int, typer.Option(help="Shams on each further treebank.")] = 19
    single_neurons: Annotated[
        int, typer.Option(help="Random neurons cut one by one for the calibration; 0: skip it.")
    ] = 200
    rounds: Annotated[int, typer.Option(help="Rounds of cut and find again; 0: skip them.")] = 3
    round_words: Annotated[int, typer.Option(help="Training words to find again on.")] = 10_000
    check_sentences: Annotated[
        int, typer.Option(help="Fresh sentences of the calibration and the rounds, at most.")
    ] = 200
    max_sentences: Annotated[
        int, typer.Option(help="Sentences of each fresh treebank, at most; 0: all.")
    ] = 0
    seed: Annotated[int, typer.Option(help="Seed of shams, donors and samples.")] = 0
    token_budget: Annotated[int, typer.Option(help="Tokens in one pass; 0: the device's.")] = 0
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = ""
    device: Annotated[str, typer.Option(help="cpu, cuda; a GPU if there is one.")] = ""
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results") / NAME
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted study.")] = False

    @property
    def passes(self) -> dict[str, Any]:
        """What every function that reads words is told."""
        return {"seed": self.seed, "token_budget": self.token_budget or None}

    @property
    def main(self) -> Ablation:
        """The ablation of the lesion that everything else is compared with."""
        return Ablation(self.value, self.dose, self.where)

    @property
    def others(self) -> list[Ablation]:
        """The further ablations of the lesion."""
        try:
            doses = [float(x) for x in listed(self.doses)]
        except ValueError:
            raise GrammarLensError(
                f"--doses is {self.doses!r}, expected numbers by commas"
            ) from None
        return [
            *(replace(self.main, value=x) for x in listed(self.values)),
            *(replace(self.main, dose=x) for x in doses),
            *(replace(self.main, where=x) for x in listed(self.other_where)),
        ]


@dataclass(frozen=True)
class Bench:
    """The model and the words of a study; treebanks by the name of their part."""

    config: Config
    model: Model
    train: Corpus
    fresh: dict[str, Corpus]
    lexicon: Lexicon

    def cut(self, domain: str) -> tuple[str, ...] | None:
        """The values to cut that a treebank has words of; None for the usual ones."""
        wanted = listed(self.config.cut)
        if not wanted:
            return None
        there = set(self.fresh[domain].read("next").tolist())
        found = tuple(x for x in wanted if self.train.labels.index(x) in there)
        if len(found) < 2:
            name = self.fresh[domain].bank.name
            raise GrammarLensError(
                f"{name} has words of {len(found)} of the values to cut, needs 2 or more"
            )
        return found


Part = tuple[str, str, Callable[[Path], None]]
"""A score, the name of a part, and the work that leaves its result in a folder."""


def main(config: Config) -> pd.DataFrame:
    """Runs the study, writes its folder, and gives the table of scores and domains."""
    begin = time.perf_counter()
    refuse_other_results(config.out, NAME)
    session = loaded(config)
    record = opened(session)
    evidence = gathered(session)
    keys = {name: gl.select(gl.score(evidence, name), config.k) for name in listed(config.scores)}
    parts = list(planned(session, evidence, keys))
    for number, (score, part, work) in enumerate(parts, 1):
        told = f"part {number} of {len(parts)}: {score}, {part}"
        folder = config.out / score / part
        if (folder / RESULT).is_file():
            print(f"{told} (done before)", flush=True)
            continue
        print(told, flush=True)
        make_folder(folder)
        start = time.perf_counter()
        work(folder)
        record["seconds"][f"{score}/{part}"] = round(time.perf_counter() - start, 1)
        write_json(config.out / "run.json", record)
    chosen = pd.concat([mine.to_frame().assign(by=name) for name, mine in keys.items()])
    write_text(config.out / "key_neurons.csv", chosen.to_csv(index=False))
    studies = write_tables(config, [read_found(config, name) for name in keys])
    write_json(config.out / "run.json", {**record, "finished": True})
    print(f"{time.perf_counter() - begin:.0f} s; figures and numbers in {config.out}")
    return studies


def check(config: Config) -> None:
    """Raises GrammarLensError for settings that would fail when hours are spent."""
    known = [x for x, score in SCORES.items() if score.needs in ("moments", "attribution")]
    ablations = (config.main, *config.others)
    allowed = (
        ("scores", listed(config.scores), known),
        ("value", [m.value for m in ablations], VALUES),
        ("where", [m.where for m in ablations], WHERE),
    )
    for name, given, choices in allowed:
        for one in given:
            if one not in choices:
                raise GrammarLensError(f"{name}: {one!r} is not one of {', '.join(choices)}")
    if not listed(config.scores):
        raise GrammarLensError("scores: none is named, expected one or more")
    for name, least_number in (("rounds", 2), ("single_neurons", 3)):
        if 0 < (number := getattr(config, name)) < least_number:
            raise GrammarLensError(
                f"{name} is {number}, expected 0 (skip it) or {least_number} and more"
            )


def loaded(config: Config) -> Bench:
    """The model and the words; what can be known to fail fails here."""
    check(config)
    model = gl.load_model(config.model, dtype=config.dtype or None, device=config.device or None)
    bank = read_source(config.train, config.label)
    train = prepare(model, bank, label=config.label, min_words=config.min_words)
    for label in listed(config.cut):
        if label not in train.labels:
            raise GrammarLensError(
                f"--cut has {label!r}: {bank.name} has {', '.join(train.labels)}"
            )
    fresh = {}
    for part, source in {MAIN: config.fresh, **domain_parts(config)}.items():
        corpus, dropped = fresh_corpus(
            model, read_source(source, config.label), train, config.max_sentences or None
        )
        fresh[part] = corpus
        if part == MAIN:
            fresh[CHECK] = fresh_corpus(model, corpus.bank, train, config.check_sentences)[0]
        print(f"{source}: {len(corpus.bank):,} sentences ({dropped:,} stand in the training data)")
    session = Bench(config, model, train, fresh, gl.fit_lexicon(model, train))
    for part in fresh:
        _ = session.cut(part)
    return session


def domain_parts(config: Config) -> dict[str, str]:
    """The sources of the further domains by the names of their parts."""
    return {f"domain-{n}": source for n, source in enumerate(listed(config.domains), 1)}


def opened(session: Bench) -> dict[str, Any]:
    """The record of a new study, or of the one to go on with.

    Raises GrammarLensError for a study begun before, unless it is to be resumed with the same settings and
    words.
    """
    config = session.config
    record = experiment_record(NAME, config) | {
        "model": describe(session.model),
        "treebank": {
            "train": treebank_record(session.train.bank),
            **{part: treebank_record(corpus.bank) for part, corpus in session.fresh.items()},
        },
        "seed": config.seed,
        "seconds": {},
        "finished": False,
    }
    path = config.out / "run.json"
    if path.is_file():
        stored, now = read_json(path), to_json(record)
        if not config.resume:
            raise GrammarLensError(
                f"{config.out} holds a study already: add --resume to go on with it, or choose "
                "another --out"
            )
        for name in [x for x in now["config"] if x not in MAY_DIFFER]:
            if stored["config"].get(name) != now["config"][name]:
                raise GrammarLensError(
                    f"{config.out} was begun with {name} {stored['config'].get(name)!r}, not "
                    f"{now['config'][name]!r}: choose another --out"
                )
        for name in ("model", "treebank"):
            if stored[name] != now[name]:
                raise GrammarLensError(
                    f"{config.out} was begun with another {name}: choose another --out"
                )
        record["seconds"] = stored["seconds"]
    make_folder(config.out)
    write_json(path, record)
    return record


def gathered(session: Bench) -> Evidence:
    """Moments and attributions of the training words, kept for a study that is resumed."""
    out = session.config.out
    moments, attributions = out / "moments.safetensors", out / "attributions.safetensors"
    if not moments.is_file():
        print("collecting", flush=True)
        save_collected(moments, gl.collect(session.model, session.train, **session.config.passes))
    evidence = read_evidence(moments).evidence()
    if not attributions.is_file():
        print("attributing", flush=True)
        found = gl.attribute(
            session.model,
            session.train,
            moments=evidence.moments,
            lexicon=session.lexicon,
            **session.config.passes,
        )
        save_attributions(attributions, {"attribution": found})
    return replace(evidence, attribution=read_attributions(attributions)["attribution"])


def planned(session: Bench, evidence: Evidence, keys: Mapping[str, KeyNeurons]) -> Iterator[Part]:
    """Everything to do, in order: for every score its study, its checks, then the domains."""
    c = session.config
    further = {
        "others": c.others,
        "other_shams": c.other_shams,
        "damage_matched": c.damage_matched,
        "sufficiency": c.sufficiency,
    }
    for score, mine in keys.items():
        yield score, MAIN, partial(study, session, mine, MAIN, shams=c.shams, **further)
        if c.single_neurons:
            yield score, CALIBRATION, partial(calibrate, session, mine, evidence)
        if c.rounds:
            yield score, REDUNDANCY, partial(find_again, session, mine, evidence)
        for domain in domain_parts(c):
            yield score, domain, partial(study, session, mine, domain, shams=c.domain_shams)


def study(session: Bench, keys: KeyNeurons, domain: str, folder: Path, **settings: Any) -> None:
    """One lesion study, stored; what its battery had finished before is not done again."""
    config, corpus = session.config, session.fresh[domain]
    found = gl.lesion_study(
        session.model,
        corpus,
        keys,
        lexicon=session.lexicon,
        labels=session.cut(domain),
        value=config.value,
        dose=config.dose,
        where=config.where,
        folder=folder / "battery",
        **config.passes,
        **settings,
    )
    assert found.outcomes is not None
    save_study(folder, RESULT, found, outcome_table(real_lesions(found.outcomes), corpus.forms))
    shutil.rmtree(folder / "battery", ignore_errors=True)


def real_lesions(outcomes: Outcomes) -> Outcomes:
    """The outcomes without those of the shams, whose words would fill gigabytes."""
    rows = [0, *(i for i, c in enumerate(outcomes.conditions, 1) if c.replicate == 0)]
    return replace(
        outcomes,
        conditions=tuple(outcomes.conditions[row - 1] for row in rows[1:]),
        nll=outcomes.nll[rows],
        tag_loss=outcomes.tag_loss[rows],
        lexical_loss=outcomes.lexical_loss[rows],
        top_label=outcomes.top_label[rows],
        probed=tuple(rows.index(row) for row in outcomes.probed),
    )


def calibrate(session: Bench, keys: KeyNeurons, evidence: Evidence, folder: Path) -> None:
    """Attributions against true lesions of single neurons, stored."""
    c = session.config
    assert evidence.attribution is not None
    found = gl.calibrate(
        session.model,
        session.fresh[CHECK],
        keys,
        evidence.attribution,
        lexicon=session.lexicon,
        value=c.value,
        where=c.where,
        n_random=c.single_neurons,
        n_top=min(TOP, c.k),
        k=max(1, c.single_neurons // TENTH),
        labels=session.cut(CHECK),
        **c.passes,
    )
    write_json(folder / RESULT, found)


def find_again(session: Bench, keys: KeyNeurons, evidence: Evidence, folder: Path) -> None:
    """The neurons cut, found again and cut again, stored."""
    c = session.config
    found = gl.find_again(
        session.model,
        session.train,
        session.fresh[CHECK],
        keys,
        moments=evidence.moments,
        rounds=c.rounds,
        value=c.value,
        labels=session.cut(CHECK),
        max_train_words=c.round_words,
        **c.passes,
    )
    write_json(folder / RESULT, found)


@dataclass(frozen=True)
class Found:
    """What was found for one score, read back from its folders."""

    score: str
    studies: dict[str, LesionStudy]
    calibration: Calibration | None
    redundancy: Redundancy | None


def read_found(config: Config, score: str) -> Found:
    """The stored parts of one score."""
    stored = {
        path.parent.name: read_json(path) for path in (config.out / score).glob(f"*/{RESULT}")
    }
    studies = {part: read_study(stored[part]) for part in (MAIN, *domain_parts(config))}
    single, again = stored.get(CALIBRATION), stored.get(REDUNDANCY)
    rounds = [Round(**_arrays(stage)) for stage in again["rounds"]] if again else []
    return Found(
        score,
        studies,
        Calibration(**_arrays(single)) if single else None,
        Redundancy(tuple(again["labels"]), tuple(rounds)) if again else None,
    )


def _arrays(data: Mapping[str, Any]) -> dict[str, Any]:
    """Stored fields, with lists of numbers as arrays again."""
    return {
        name: tuple(value)
        if name == "labels"
        else np.array(value, np.float64)
        if isinstance(value, list)
        else value
        for name, value in data.items()
    }


def write_tables(config: Config, found: list[Found]) -> pd.DataFrame:
    """Writes every table, the verdicts and the page of figures; gives the table of studies."""
    every = [(f.score, domain, s) for f in found for domain, s in f.studies.items()]
    whole = [(score, domain, s) for score, domain, s in every if domain == MAIN]
    tables = {
        "studies": pd.DataFrame([study_row(*one) for one in every]),
        "ablations": stacked(every, ablation_table),
        "matrix": stacked(every, matrix_table),
        "pairs": stacked(every, pair_table),
        "values": stacked(whole, value_ladder),
        "doses": stacked(whole, dose_table),
        "sufficiency": stacked(whole, lambda s: s.rest.to_frame() if s.rest else pd.DataFrame()),
        "calibration": stacked([(f.score, CHECK, f.calibration) for f in found], as_frame),
        "redundancy": stacked([(f.score, CHECK, f.redundancy) for f in found], as_frame),
    }
    for name, table in tables.items():
        write_text(config.out / f"{name}.csv", table.to_csv(index=False))
    write_text(config.out / "verdicts.md", verdicts(found))
    write_text(config.out / f"{NAME}.html", page(found))
    return tables["studies"]


def stacked(
    parts: Sequence[tuple[str, str, Any]], table: Callable[[Any], pd.DataFrame]
) -> pd.DataFrame:
    """The tables of several parts as one, with score and domain first."""
    frames = []
    for score, domain, result in parts:
        frame = table(result)
        frame.insert(0, "score", score)
        frame.insert(1, "domain", domain)
        frames.append(frame)
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else frames[0]


def study_row(score: str, domain: str, s: LesionStudy) -> dict[str, Any]:
    """The numbers of one study; those that were not measured are missing."""
    matched, doses, rest = s.matched, s.doses, s.rest
    agree = s.sign_agreement if len(s.ladder) > 1 else None
    return {
        "score": score,
        "domain": domain,
        "fresh": s.fresh,
        "labels": " ".join(s.labels),
        "words": int(s.n_words.sum()),
        "k": s.k,
        **summary(s),
        "base_tag_loss": s.base_tag_loss,
        "tag_entropy": s.tag_entropy,
        "matched_shams": matched and matched.n_shams,
        "matched_p": matched and matched.p_value,
        "matched_damage_ratio": matched and least(matched.damage_ratio),
        "matched_pairs": matched and len(matched.crossed_pairs),
        "matched_confirmed": matched and sum(pair.confirmed for pair in matched.crossed_pairs),
        "rising": doses and named(s, doses.rising),
        "monotone": doses and named(s, doses.monotone),
        "slope_p": doses and doses.sham_p,
        "same_sign": None if agree is None else named(s, agree),
        "sufficiency_p": rest and rest.p_value,
        "identity_error": s.identity_error,
    }


def summary(s: LesionStudy) -> dict[str, Any]:
    """What can be said of every ablation of a lesion."""
    shams = replace(s, matrix=s.sham_mean)
    return {
        "diagonal": s.diagonal_mean,
        "off_diagonal": s.off_diagonal_mean,
        "sham_diagonal": shams.diagonal_mean,
        "sham_off_diagonal": shams.off_diagonal_mean,
        "S": s.dominance,
        "S_star": s.s_star,
        "shams": s.n_shams,
        "p": s.p_value,
        "pairs": len(s.crossed_pairs),
        "confirmed": sum(pair.confirmed for pair in s.crossed_pairs),
        "output_ratio": least(s.output_ratio),
        "damage_ratio": least(s.damage_ratio),
    }


def named(s: LesionStudy, which: Iterable[object]) -> str:
    """The labels that are marked."""
    return " ".join(label for label, is_one in zip(s.labels, which, strict=True) if is_one)


def ablation_table(s: LesionStudy) -> pd.DataFrame:
    """A row per ablation of the lesion, the main one first."""
    return pd.DataFrame([{**asdict(x.ablation), **summary(x)} for x in (s, *s.others)])


def matrix_table(s: LesionStudy) -> pd.DataFrame:
    """A row per ablation, lesion and label."""
    frames = []
    for one in (s, *s.others):
        frame = one.to_frame()
        for column, (name, value) in enumerate(asdict(one.ablation).items()):
            frame.insert(column, name, value)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def pair_table(s: LesionStudy) -> pd.DataFrame:
    """A row per crossed pair of the main lesion, against either kind of shams."""
    kinds = {
        "matched": s.crossed_pairs,
        "damage_matched": s.matched.crossed_pairs if s.matched else (),
    }
    rows = [{"shams": kind, **asdict(p)} for kind, pairs in kinds.items() for p in pairs]
    return pd.DataFrame(rows, columns=["shams", *(field.name for field in fields(CrossedPair))])


def dose_table(s: LesionStudy) -> pd.DataFrame:
    """A row per label and dose, with the label's trend."""
    if s.doses is None:
        return pd.DataFrame()
    return s.doses.to_frame().merge(s.doses.trend_frame(), on="label")


def as_frame(result: Calibration | Redundancy | None) -> pd.DataFrame:
    """A row per label (and round); none for what was not done."""
    return pd.DataFrame() if result is None else result.to_frame()


def sentences(found: Found) -> dict[str, str]:
    """What every part of a score says in words."""
    told = {f"{s.fresh} ({part})": s.verdict() for part, s in found.studies.items()}
    checks = {CALIBRATION: found.calibration, REDUNDANCY: found.redundancy}
    return told | {name: check.verdict() for name, check in checks.items() if check is not None}


def verdicts(found: list[Found]) -> str:
    """The sentences of all scores side by side, as a table in Markdown."""
    told = [sentences(f) for f in found]
    lines = [["", *(f.score for f in found)], ["---"] * (len(found) + 1)]
    lines += [[name, *(t[name] for t in told)] for name in told[0]]
    rows = ("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return "# What the lesion studies say\n\n" + "\n".join(rows) + "\n"


DRAWN: Mapping[str, Callable[[LesionStudy], go.Figure]] = {
    "matrix": figures.lesion_matrix,
    "null": figures.lesion_null,
    "damage-matched": figures.damage_matched,
    "doses": figures.dose_response,
    "values": figures.value_ladder,
    "auroc": figures.bias_and_auroc,
    "sufficiency": figures.sufficiency,
}


def page(found: list[Found]) -> str:
    """One HTML page: for every score its verdicts and figures; opens without a network."""
    body = []
    for f in found:
        body.append(f"<h1>{html.escape(figures.score_name(f.score))}</h1>")
        for part, s in f.studies.items():
            body.append(f"<h2>{html.escape(s.fresh)}</h2><p>{html.escape(s.verdict())}</p>")
            for name, draw in DRAWN.items():
                try:
                    figure = draw(s)
                except NotMeasuredError:
                    continue
                body.append(embedded(figure, f"{f.score}-{part}-{name}"))
        if f.calibration is not None:
            body.append(f"<p>{html.escape(f.calibration.verdict())}</p>")
            body.append(embedded(figures.calibration(f.calibration), f"{f.score}-{CALIBRATION}"))
        if f.redundancy is not None:
            body.append(f"<p>{html.escape(f.redundancy.verdict())}</p>")
            body.append(embedded(figures.redundancy(f.redundancy), f"{f.score}-{REDUNDANCY}"))
    style = "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;line-height:1.5}"
    head = f"<meta charset='utf-8'><title>{NAME}</title><style>{style}</style>"
    script = f"<script>{figures.plotly_js()}</script>"
    return f"<!doctype html><html lang='en'><head>{head}{script}</head><body>{''.join(body)}</body></html>"


def embedded(figure: go.Figure, name: str) -> str:
    """A figure as a part of a page that has plotly."""
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name)


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by flag.

    Raises GrammarLensError with the file's name and line for what is no TOML, no flag, or no value of the
    flag's type.
    """
    try:
        text = path.read_text("utf-8")
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GrammarLensError(f"{path} is no TOML: {error}") from None
    types = {name: t for name, t in get_type_hints(Config).items() if name not in FLAGS_ONLY}
    settings = {}
    for name, value in found.items():
        line = re.search(rf"^[\s\[\"']*{re.escape(name)}\b", text, re.MULTILINE)
        where = f"{path}:{text.count(chr(10), 0, line.end()) + 1}" if line else str(path)
        if name not in types:
            near = difflib.get_close_matches(name, types, 1)
            guess = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(types)}"
            raise GrammarLensError(f"{where}: {name!r} is no setting: {guess}")
        settings[name] = _typed(name, value, types[name], where)
    return settings


def _typed(name: str, value: Any, kind: type, where: str) -> Any:
    """A value of a file as the flag has it."""
    if (
        isinstance(value, list)
        and name in SEVERAL
        and all(type(x) in (str, int, float) for x in value)
    ):
        return ",".join(str(x) for x in value)
    if type(value) is kind:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")
    more = " or a list" if name in SEVERAL else ""
    raise GrammarLensError(f"{where}: {name} is {value!r}, expected {wanted}{more}")


def to_the_end(config: Config) -> None:
    """Runs the study; Ctrl-C ends it with a word on how to go on."""
    try:
        main(config)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept: run again with --resume", err=True)
        raise typer.Exit(INTERRUPTED) from None


if __name__ == "__main__":
    start_page(to_the_end, Config, __doc__)
