"""The full lesion study: are a tag's key neurons what the model needs for that tag, whatever the check?

    python experiments/lesion_study.py --config experiments/configs/quick.toml
    python experiments/lesion_study.py --config experiments/configs/ewt.toml --shams 19
    python experiments/lesion_study.py --config experiments/configs/ewt.toml --resume

The keys of a configuration file are the flags below; a flag on the command line beats the file. In
IPython `main(Config(shams=19, max_sentences=60))` gives the table.

For every score of --scores: the key neurons are chosen on --train alone. On --fresh they are cut
against matched and damage-matched shams, with other values and doses and at the scored token alone, and
everything else is cut but them. Single neurons are cut to see what attributions are worth, and each
tag's neurons are cut, found again and cut again. On every domain of --domains the main lesion is
repeated. Of these parts each is stored when it is done, and --resume continues with the rest.

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

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from common import (
    FRESH,
    MODEL,
    TRAIN,
    ConfigFlag,
    DeviceFlag,
    DtypeFlag,
    FreshFlag,
    LabelFlag,
    ModelFlag,
    OutFlag,
    TrainFlag,
    treebanks,
)

import grammar_lens as gl
from grammar_lens.cli.errors import INTERRUPTED
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.defaults import VALUES, WHERE
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.tables import BY, stacked, study_tables
from grammar_lens.errors import GrammarLensError, require_at_least, require_one_of
from grammar_lens.files import make_folder, read_json, to_json, write_json, write_text
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model, describe
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.report.several_studies import Found, page_of_studies, verdict_table
from grammar_lens.runs.store.arrays import (
    read_attributions,
    read_evidence,
    save_attributions,
    save_collected,
)
from grammar_lens.runs.store.provenance import experiment_record, refuse_other_results
from grammar_lens.runs.store.results import (
    outcome_table,
    read_calibration,
    read_redundancy,
    read_study,
    save_study,
)
from grammar_lens.selectivity.evidence import Evidence
from grammar_lens.selectivity.registry import SCORES

NAME = "lesion_study"
MAIN, CALIBRATION, REDUNDANCY = "fresh", "calibration", "redundancy"
"""The parts of every score beside its further domains."""
CHECK = "check"
"""The few held-out sentences of the calibration and the rounds."""
RESULT = "result.json"
"""What a part leaves in its folder when it is done."""
TOP = 20
"""Key neurons of every label that are cut one by one, too."""
TENTH = 10
"""Of the random neurons the largest tenth by effect and by attribution is compared."""
MAY_DIFFER = ("config", "resume", "device", "out")
"""Flags that a study may be resumed with another value of."""


@dataclass(frozen=True)
class Config:
    """The flags, which are the keys of a configuration file."""

    config: ConfigFlag = None
    model: ModelFlag = MODEL
    train: TrainFlag = TRAIN
    fresh: FreshFlag = FRESH
    domains: Annotated[str, typer.Option(help="Further fresh treebanks, separated by commas.")] = ""
    label: LabelFlag = "upos"
    min_words: Annotated[int, typer.Option(help="Leave out values with fewer words.")] = 2
    cut: Annotated[str, typer.Option(help="Values whose neurons are cut; by default eight.")] = ""
    scores: Annotated[
        str, typer.Option(help="Scores to choose neurons by, separated by commas.")
    ] = "attribution_contrast,correlation"
    k: Annotated[int, typer.Option(help="Key neurons per value.")] = 100
    value: Annotated[str, typer.Option(help="Value of a cut neuron in the main lesion.")] = "mean"
    dose: Annotated[float, typer.Option(help="Dose of the main lesion.")] = 1.0
    where: Annotated[str, typer.Option(help="The main lesion at every token, or scored.")] = "every"
    shams: Annotated[int, typer.Option(help="Shams of the main lesion.")] = 100
    values: Annotated[str, typer.Option(help="Other values, separated by commas.")] = (
        "zero,resample,resample_within"
    )
    doses: Annotated[
        str,
        typer.Option(
            help="Other doses, separated by commas; below 0 amplifies, above 1 overshoots."
        ),
    ] = "0.25,0.5,0.75,-1,2"
    other_where: Annotated[str, typer.Option(help="Other place to cut; empty: none.")] = "scored"
    other_shams: Annotated[int, typer.Option(help="Shams of each other ablation.")] = 10
    damage_matched: Annotated[int, typer.Option(help="Shams that do as much damage.")] = 20
    sufficiency: Annotated[bool, typer.Option(help="Cut everything but a label's neurons.")] = True
    domain_shams: Annotated[int, typer.Option(help="Shams on each further treebank.")] = 19
    single_neurons: Annotated[
        int, typer.Option(help="Random neurons cut one by one for the calibration; 0: skip it.")
    ] = 200
    rounds: Annotated[int, typer.Option(help="Rounds of cut and find again; 0: skip them.")] = 3
    round_words: Annotated[int, typer.Option(help="Training words to find again on.")] = 10_000
    check_sentences: Annotated[
        int, typer.Option(help="Held-out sentences of the calibration and the rounds, at most.")
    ] = 200
    max_sentences: Annotated[int, typer.Option(help="Sentences per fresh bank; 0: all.")] = 0
    seed: Annotated[int, typer.Option(help="Seed of shams, donors and samples.")] = 0
    token_budget: Annotated[int, typer.Option(help="Tokens in one pass; 0: the device's.")] = 0
    dtype: DtypeFlag = ""
    device: DeviceFlag = ""
    out: OutFlag = Path("results") / NAME
    resume: Annotated[bool, typer.Option(help="Resume an interrupted study.")] = False

    @property
    def passes(self) -> dict[str, Any]:
        """The settings of every function that reads words."""
        return {"seed": self.seed, "token_budget": self.token_budget or None}

    @property
    def ablations(self) -> list[Ablation]:
        """The ablation of the main lesion, and the others. Raises GrammarLensError for unknown ones."""
        main = Ablation(self.value, self.dose, self.where)
        try:
            doses = [replace(main, dose=float(x)) for x in listed(self.doses)]
        except ValueError:
            raise GrammarLensError(
                f"doses is {self.doses!r}, expected numbers separated by commas"
            ) from None
        values = [replace(main, value=x) for x in listed(self.values)]
        places = [replace(main, where=x) for x in listed(self.other_where)]
        ablations = [main, *values, *doses, *places]
        for ablation in ablations:
            require_one_of("value", ablation.value, VALUES)
            require_one_of("where", ablation.where, WHERE)
        return ablations

    @property
    def sources(self) -> dict[str, str]:
        """The fresh treebanks by the name of their part."""
        return {
            MAIN: self.fresh,
            **{f"domain-{n}": source for n, source in enumerate(listed(self.domains), 1)},
        }

    @property
    def parts(self) -> list[str]:
        """The parts of every score: its study, its checks, then the domains."""
        main, *domains = self.sources
        checks = {CALIBRATION: self.single_neurons, REDUNDANCY: self.rounds}
        return [main, *(name for name, size in checks.items() if size), *domains]

    def check(self) -> None:
        """Raises GrammarLensError for settings that would fail when hours are spent."""
        known = [x for x, score in SCORES.items() if score.needs in ("moments", "attribution")]
        for score in listed(self.scores) or ("",):
            require_one_of("scores", score, known)
        require_at_least("rounds", self.rounds or 2, 2)
        require_at_least("single_neurons", self.single_neurons or 3, 3)
        _ = self.ablations


@dataclass(frozen=True)
class Bench:
    """The model and the words of a study; treebanks and values to cut by the name of their part."""

    config: Config
    model: Model
    train: Corpus
    fresh: dict[str, Corpus]
    cut: dict[str, tuple[str, ...] | None]
    lexicon: Lexicon


def main(config: Config) -> pd.DataFrame:
    """Runs the study, writes its folder, and gives the table of scores and domains."""
    begin = time.perf_counter()
    config.check()
    refuse_other_results(config.out, NAME)
    bench = loaded(config)
    record = opened(bench)
    evidence = gathered(bench)
    keys = {name: gl.select(gl.score(evidence, name), config.k) for name in listed(config.scores)}
    results: dict[str, dict[str, Found]] = {score: {} for score in keys}
    parts = [(score, part) for score in keys for part in config.parts]
    for number, (score, part) in enumerate(parts, 1):
        description = f"part {number} of {len(parts)}: {score}, {part}"
        folder = config.out / score / part
        if (folder / RESULT).is_file():
            print(f"{description} (done before)", flush=True)
        else:
            print(description, flush=True)
            make_folder(folder)
            start = time.perf_counter()
            measure(bench, part, keys[score], evidence, folder)
            record["seconds"][f"{score}/{part}"] = round(time.perf_counter() - start, 1)
            write_json(config.out / "run.json", record)
        read = {CALIBRATION: read_calibration, REDUNDANCY: read_redundancy}.get(part, read_study)
        results[score][part] = read(read_json(folder / RESULT))

    tables = made_tables(results)
    tables["key_neurons"] = pd.concat([k.to_frame().assign(by=by) for by, k in keys.items()])
    for name, table in tables.items():
        write_text(config.out / f"{name}.csv", table.to_csv(index=False))
    write_text(config.out / "verdicts.md", verdict_table(results))
    write_text(config.out / f"{NAME}.html", page_of_studies(NAME, results))
    write_json(config.out / "run.json", {**record, "finished": True})
    print(f"{time.perf_counter() - begin:.0f} s; figures and numbers in {config.out}")
    return tables["studies"]


def loaded(config: Config) -> Bench:
    """The model and the words; what can be known to fail fails here."""
    model = gl.load_model(config.model, dtype=config.dtype or None, device=config.device or None)
    bank = load_treebank(config.train, label=config.label)
    train = prepare(model, bank, label=config.label, min_words=config.min_words)
    for label in listed(config.cut):
        require_one_of("cut", label, train.labels)
    fresh, cut = {}, {}
    for part, source in config.sources.items():
        corpus, dropped = fresh_corpus(
            model, load_treebank(source, label=config.label), train, config.max_sentences or None
        )
        fresh[part] = corpus
        if part == MAIN:
            fresh[CHECK] = fresh_corpus(model, corpus.bank, train, config.check_sentences)[0]
        print(f"{source}: {len(corpus.bank):,} sentences ({dropped:,} stand in the training data)")
    for part, corpus in fresh.items():
        present = {train.labels[i] for i in corpus.read("next") if i >= 0}
        cut[part] = tuple(x for x in listed(config.cut) if x in present) or None
        if config.cut and len(cut[part] or ()) < 2:
            raise GrammarLensError(
                f"{corpus.bank.name} has words of {len(cut[part] or ())} of the values to cut, "
                "needs 2 or more"
            )
    return Bench(config, model, train, fresh, cut, gl.fit_lexicon(model, train))


def opened(bench: Bench) -> dict[str, Any]:
    """The record of a new study, or of the one to resume.

    Raises GrammarLensError for a study begun before, unless it is to be resumed with the same settings and
    words.
    """
    config, path = bench.config, bench.config.out / "run.json"
    banks = {part: corpus.bank for part, corpus in bench.fresh.items()}
    record = experiment_record(NAME, config) | {
        "model": describe(bench.model),
        "treebank": treebanks(train=bench.train.bank, **banks),
        "seed": config.seed,
        "seconds": {},
        "finished": False,
    }
    if path.is_file():
        stored, now = read_json(path), to_json(record)
        if not config.resume:
            raise GrammarLensError(
                f"{config.out} holds a study already: add --resume to continue it, or choose "
                "another --out"
            )
        for name in set(now["config"]).difference(MAY_DIFFER):
            if (before := stored["config"].get(name)) != (value := now["config"][name]):
                raise GrammarLensError(
                    f"{config.out} was begun with {name} {before!r}, not {value!r}: choose another --out"
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


def gathered(bench: Bench) -> Evidence:
    """Moments and attributions of the training words, kept for a study that is resumed."""
    out, passes = bench.config.out, bench.config.passes
    moments, attributions = out / "moments.safetensors", out / "attributions.safetensors"
    if not moments.is_file():
        print("collecting", flush=True)
        save_collected(moments, gl.collect(bench.model, bench.train, **passes))
    evidence = read_evidence(moments).evidence()
    if not attributions.is_file():
        print("attributing", flush=True)
        words = {"moments": evidence.moments, "lexicon": bench.lexicon}
        effects = gl.attribute(bench.model, bench.train, **words, **passes)
        save_attributions(attributions, {"attribution": effects})
    return replace(evidence, attribution=read_attributions(attributions)["attribution"])


def measure(bench: Bench, part: str, keys: KeyNeurons, evidence: Evidence, folder: Path) -> None:
    """One part of a score, stored; what a study's battery had finished before is not done again."""
    c, model = bench.config, bench.model
    words = CHECK if part in (CALIBRATION, REDUNDANCY) else part
    fresh = bench.fresh[words]
    shared = {"value": c.value, "labels": bench.cut[words], **c.passes}
    if part == CALIBRATION:
        assert evidence.attribution is not None
        found = gl.calibrate(
            model,
            fresh,
            keys,
            evidence.attribution,
            lexicon=bench.lexicon,
            where=c.where,
            n_random=c.single_neurons,
            n_top=min(TOP, c.k),
            k=max(1, c.single_neurons // TENTH),
            **shared,
        )
        write_json(folder / RESULT, found)
    elif part == REDUNDANCY:
        found = gl.find_again(
            model,
            bench.train,
            fresh,
            keys,
            moments=evidence.moments,
            rounds=c.rounds,
            max_train_words=c.round_words,
            **shared,
        )
        write_json(folder / RESULT, found)
    else:
        further: dict[str, Any] = {"shams": c.domain_shams}
        if part == MAIN:
            further = {
                "shams": c.shams,
                "others": c.ablations[1:],
                "other_shams": c.other_shams,
                "damage_matched": c.damage_matched,
                "sufficiency": c.sufficiency,
            }
        study = gl.lesion_study(
            model,
            fresh,
            keys,
            lexicon=bench.lexicon,
            dose=c.dose,
            where=c.where,
            folder=folder / "battery",
            **further,
            **shared,
        )
        assert study.outcomes is not None
        save_study(folder, RESULT, study, outcome_table(study.outcomes.real(), fresh.forms))
        shutil.rmtree(folder / "battery", ignore_errors=True)


def made_tables(results: Mapping[str, Mapping[str, Found]]) -> dict[str, pd.DataFrame]:
    """Every table of the results, with score and domain as the first columns."""
    every = {(score, part): r for score, parts in results.items() for part, r in parts.items()}
    studies = {key: r for key, r in every.items() if isinstance(r, LesionStudy)}
    checks = {
        name: {(by, CHECK): r.to_frame() for (by, part), r in every.items() if part == name}
        for name in (CALIBRATION, REDUNDANCY)
    }
    of_checks = {name: stacked(tables, *BY) for name, tables in checks.items()}
    return study_tables(studies, MAIN) | of_checks


def to_the_end(config: Config) -> None:
    """Runs the study; Ctrl-C ends it and says how to resume."""
    try:
        main(config)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept: run again with --resume", err=True)
        raise typer.Exit(INTERRUPTED) from None


if __name__ == "__main__":
    start_page(to_the_end, Config, __doc__)
