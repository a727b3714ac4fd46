"""The full lesion study: are a tag's key neurons what the model needs for that tag, whatever the check?

    python experiments/lesion_study.py --config experiments/configs/quick.toml
    python experiments/lesion_study.py --config experiments/configs/ewt.toml --shams 19
    python experiments/lesion_study.py --config experiments/configs/ewt.toml --resume

The keys of a configuration file are the flags below; a flag on the command line beats the file.

For every score of --scores: the key neurons are chosen on --train alone. On --fresh they are cut against
matched and damage-matched shams, with other values and doses and at the scored token alone, and
everything else is cut but them. Single neurons are cut to see what attributions are worth, and each tag's
neurons are cut, found again and cut again. On every treebank of --domains the main lesion is repeated.
Of these parts each is stored when it is done, and --resume continues with the rest.

Claim: cutting a tag's neurons hurts that tag more than others, and more than cutting sets of shams
does; neurons chosen by attribution show it more clearly than neurons chosen by correlation.
Run time: quick.toml 5 CPU minutes on one core of a busy machine, ewt.toml 9 hours (extrapolated): use
a GPU, or --max-sentences 200.
Expected result: docs/lesions.md ("Results"). The shams of quick.toml do little damage (from .08 and .14 of
the real sets'), and its two damage-matched ones cannot settle it.

Writes studies.csv (a row per score and domain), ablations.csv (per score, domain and ablation of the
lesion), matrix.csv (and lesion and label), values.csv, doses.csv, sufficiency.csv, pairs.csv (a row per
crossed pair), calibration.csv, redundancy.csv, key_neurons.csv, verdicts.md, lesion_study.html and
run.json; in a folder per score and part, what the part found (of the losses word by word those of the
intact model and the real lesions).
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from common import ConfigFlag, CutFlag, Experiment, Flags, LabelFlag, OutFlag, treebanks
from typer import Option

import grammar_lens as gl
from grammar_lens.cli.options import listed
from grammar_lens.cli.scripts import start_page
from grammar_lens.corpus.corpus import Corpus, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.defaults import VALUES, WHERE
from grammar_lens.dissociation.result import LesionStudy
from grammar_lens.dissociation.tables import BY, stacked, study_tables
from grammar_lens.errors import GrammarLensError, require_at_least, require_one_of
from grammar_lens.files import read_json, write_json, write_text
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
from grammar_lens.runs.store.provenance import refuse_other_results
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
READ = {CALIBRATION: read_calibration, REDUNDANCY: read_redundancy}
TOP, TENTH = 20, 10
"""Key neurons cut one by one for every label, too; of random ones the largest tenth is compared."""


@dataclass(frozen=True)
class Config(Flags):
    """The flags, which are the keys of a configuration file."""

    config: ConfigFlag = None
    domains: Annotated[str, Option(help="Further fresh treebanks, separated by commas.")] = ""
    label: LabelFlag = "upos"
    min_words: Annotated[int, Option(help="Leave out values with fewer words.")] = 2
    cut: CutFlag = ""
    scores: Annotated[str, Option(help="Scores that choose, with commas.")] = (
        "attribution_contrast,correlation"
    )
    k: Annotated[int, Option(help="Key neurons per value.")] = 100
    values: Annotated[str, Option(help="Values of cut neurons; the first is the main one.")] = (
        "mean,zero,resample,resample_within"
    )
    doses: Annotated[str, Option(help="Doses; the first is the main one.")] = "1,0.25,0.5,0.75,-1,2"
    where: Annotated[str, Option(help="Places; the first is the main one.")] = "every,scored"
    shams: Annotated[int, Option(help="Shams of the main lesion.")] = 100
    other_shams: Annotated[int, Option(help="Shams of each other ablation.")] = 10
    damage_matched: Annotated[int, Option(help="Shams that do as much damage.")] = 20
    sufficiency: Annotated[bool, Option(help="Cut everything but a label's neurons.")] = True
    domain_shams: Annotated[int, Option(help="Shams on each further treebank.")] = 19
    single_neurons: Annotated[int, Option(help="Random neurons cut one by one; 0: none.")] = 200
    rounds: Annotated[int, Option(help="Rounds of cut and find again; 0: skip them.")] = 3
    round_words: Annotated[int, Option(help="Training words to find again on.")] = 10_000
    check_sentences: Annotated[int, Option(help="Held-out sentences of these two.")] = 200
    max_sentences: Annotated[int, Option(help="Sentences per fresh bank; 0: all.")] = 0
    token_budget: Annotated[int, Option(help="Tokens in one pass; 0: the device's.")] = 0
    out: OutFlag = Path("results") / NAME
    resume: Annotated[bool, Option(help="Resume an interrupted study.")] = False

    @property
    def passes(self) -> dict[str, Any]:
        """The settings of every function that reads words."""
        return {"seed": self.seed, "token_budget": self.token_budget or None}

    @property
    def ablations(self) -> list[Ablation]:
        """The main lesion's, and one for each other value, dose and place."""
        main = Ablation(listed(self.values)[0], float(listed(self.doses)[0]), listed(self.where)[0])
        return [
            main,
            *(replace(main, value=x) for x in listed(self.values)[1:]),
            *(replace(main, dose=float(x)) for x in listed(self.doses)[1:]),
            *(replace(main, where=x) for x in listed(self.where)[1:]),
        ]

    @property
    def sources(self) -> dict[str, str]:
        """The fresh treebanks by the name of their part."""
        domains = enumerate(listed(self.domains), 1)
        return {MAIN: self.fresh, **{f"domain-{n}": source for n, source in domains}}

    @property
    def parts(self) -> list[str]:
        """The parts of every score: its study, its checks, then the domains."""
        main, *domains = self.sources
        checks = {CALIBRATION: self.single_neurons, REDUNDANCY: self.rounds}
        return [main, *(name for name, size in checks.items() if size), *domains]

    def check(self) -> None:
        """Raises GrammarLensError for settings that would fail when hours are spent."""
        known = [x for x, score in SCORES.items() if score.needs in ("moments", "attribution")]
        for name, names in (("scores", known), ("values", VALUES), ("where", WHERE)):
            for given in listed(getattr(self, name)) or ("",):
                require_one_of(name, given, names)
        require_at_least("rounds", self.rounds or 2, 2)
        require_at_least("single_neurons", self.single_neurons or 3, 3)
        try:
            _ = self.ablations
        except (ValueError, IndexError):
            expected = "expected numbers separated by commas"
            raise GrammarLensError(f"doses is {self.doses!r}, {expected}") from None


@dataclass(frozen=True)
class Setting:
    """The model and the words of a study; fresh words and values to cut by the name of their part."""

    config: Config
    model: Model
    train: Corpus
    fresh: dict[str, Corpus]
    cut: dict[str, tuple[str, ...] | None]
    lexicon: Lexicon


def main(config: Config) -> pd.DataFrame:
    """Runs the study, writes its folder, and gives the table of scores and domains."""
    config.check()
    refuse_other_results(config.out, NAME)
    setting = load(config)
    experiment = Experiment(NAME, config)
    banks = {part: corpus.bank for part, corpus in setting.fresh.items()}
    about = {"model": describe(setting.model)}
    about |= {"treebank": treebanks(train=setting.train.bank, **banks)}
    experiment.begin(about)
    evidence = gather(setting)
    keys = {name: gl.select(gl.score(evidence, name), config.k) for name in listed(config.scores)}
    parts = [(score, part) for score in keys for part in config.parts]
    results: dict[str, dict[str, Found]] = {score: {} for score in keys}
    for number, (score, part) in enumerate(parts, 1):
        print(f"part {number} of {len(parts)}: {score}, {part}", end="", flush=True)
        work = partial(measure, setting, part, keys[score], evidence)
        folder = experiment.part(f"{score}/{part}", RESULT, work)
        results[score][part] = READ.get(part, read_study)(read_json(folder / RESULT))

    tables = tabulate(results)
    tables["key_neurons"] = pd.concat([k.to_frame().assign(by=by) for by, k in keys.items()])
    write_text(config.out / "verdicts.md", verdict_table(results))
    write_text(config.out / f"{NAME}.html", page_of_studies(NAME, results))
    experiment.finish(about, tables)
    return tables["studies"]


def load(config: Config) -> Setting:
    """The model and the words; what can be known to fail fails here."""
    model = config.load_model()
    bank = load_treebank(config.train, label=config.label)
    train = prepare(model, bank, label=config.label, min_words=config.min_words)
    for label in listed(config.cut):
        require_one_of("cut", label, train.labels)
    fresh, cut = {}, {}
    for part, source in config.sources.items():
        held_out, most = load_treebank(source, label=config.label), config.max_sentences or None
        fresh[part], dropped = fresh_corpus(model, held_out, train, most)
        n = len(fresh[part].bank)
        print(f"{source}: {n:,} sentences ({dropped:,} stand in the training data)")
    fresh[CHECK] = fresh_corpus(model, fresh[MAIN].bank, train, config.check_sentences)[0]
    for part, corpus in fresh.items():
        present = {train.labels[i] for i in corpus.read("next") if i >= 0}
        cut[part] = tuple(x for x in listed(config.cut) if x in present) or None
        if config.cut:
            values = f"the number of values to cut that {corpus.bank.name} has words of"
            require_at_least(values, len(cut[part] or ()), 2)
    return Setting(config, model, train, fresh, cut, gl.fit_lexicon(model, train))


def gather(setting: Setting) -> Evidence:
    """Moments and attributions of the training words, kept for a study that is resumed."""
    model, train, passes = setting.model, setting.train, setting.config.passes
    out = setting.config.out
    moments, attributions = out / "moments.safetensors", out / "attributions.safetensors"
    if not moments.is_file():
        print("collecting", flush=True)
        save_collected(moments, gl.collect(model, train, **passes))
    evidence = read_evidence(moments).evidence()
    if not attributions.is_file():
        print("attributing", flush=True)
        words = {"moments": evidence.moments, "lexicon": setting.lexicon}
        effects = gl.attribute(model, train, **words, **passes)
        save_attributions(attributions, {"attribution": effects})
    return replace(evidence, attribution=read_attributions(attributions)["attribution"])


def measure(s: Setting, part: str, keys: KeyNeurons, evidence: Evidence, folder: Path) -> None:
    """One part of a score, stored; what a study's battery had finished before is not done again."""
    c, main, words = s.config, s.config.ablations[0], CHECK if part in READ else part
    fresh, shared = s.fresh[words], {"value": main.value, "labels": s.cut[words], **c.passes}
    if part == CALIBRATION:
        assert evidence.attribution is not None
        sizes = {"n_top": min(TOP, c.k), "k": max(1, c.single_neurons // TENTH)}
        shared |= {"lexicon": s.lexicon, "where": main.where, "n_random": c.single_neurons}
        found = gl.calibrate(s.model, fresh, keys, evidence.attribution, **sizes, **shared)
        write_json(folder / RESULT, found)
    elif part == REDUNDANCY:
        shared |= {"moments": evidence.moments, "max_train_words": c.round_words}
        found = gl.find_again(s.model, s.train, fresh, keys, rounds=c.rounds, **shared)
        write_json(folder / RESULT, found)
    else:
        shared |= {"lexicon": s.lexicon, "dose": main.dose, "where": main.where}
        shared |= {"shams": c.domain_shams, "folder": folder / "battery"}
        if part == MAIN:
            shared |= {"shams": c.shams, "others": c.ablations[1:], "other_shams": c.other_shams}
            shared |= {"damage_matched": c.damage_matched, "sufficiency": c.sufficiency}
        study = gl.lesion_study(s.model, fresh, keys, **shared)
        assert study.outcomes is not None
        save_study(folder, RESULT, study, outcome_table(study.outcomes.real(), fresh.forms))
        shutil.rmtree(folder / "battery", ignore_errors=True)


def tabulate(results: Mapping[str, Mapping[str, Found]]) -> dict[str, pd.DataFrame]:
    """Every table of the results, with score and domain as the first columns."""
    every = {(score, part): r for score, parts in results.items() for part, r in parts.items()}
    studies = {key: r for key, r in every.items() if isinstance(r, LesionStudy)}
    tables = study_tables(studies, MAIN)
    for name in READ:
        of_score = {(by, CHECK): r.to_frame() for (by, part), r in every.items() if part == name}
        tables[name] = stacked(of_score, *BY)
    return tables


if __name__ == "__main__":
    start_page(main, Config, __doc__)
