"""Every setting of a run as an option: its name, type, default and help, once for all commands.

Commands name the settings they take (`takes`); `config_fields` turns what was given into keyword arguments
of `steps.Config`. The defaults and the known values stand here because `steps` is slow to import; a test
holds them to those of `steps.Config` and of the modules that use them.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from grammar_lens.cli.completion import (
    UPOS,
    Complete,
    labels_of_run,
    one_of,
    run_directories,
    some_of,
)

SCORES = (
    *("correlation", "cohens_d", "welch_t", "eta_squared", "probeless", "probeless_sd", "entropy"),
    *("auroc", "probe_weight", "logit_contrast", "attribution", "attribution_contrast"),
    *("integrated_gradients", "frequency"),
)
RULES = ("top_k", "fdr", "permutation", "frequency")
SIGNS = ("absolute", "positive", "negative")
VALUES = ("zero", "mean", "resample", "resample_within")
WHERE = ("every", "scored")
CONTEXTS = ("sentence", "document")
SITES = ("neuron", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
LABELS = ("upos", "xpos", "deprel", "feats:Number", "feats:Tense", "feats:VerbForm")

WORDS = "Model and words"
CHOICE = "Choosing neurons"
PROBE = "Probe"
LESIONS = "Lesions"
EXAMPLES = "Examples"
MACHINE = "Machine"
OUTPUT = "Output"


POSITIONS = {"word": ("word",), "next": ("next",), "both": ("word", "next")}


def listed(text: str) -> tuple[str, ...]:
    """The entries of an option that takes several, by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def as_given(_option: str, value: Any) -> Any:
    return value


def or_none(_option: str, value: Any) -> Any:
    """None for the 0 or nothing that leaves a choice to the program."""
    return value or None


def by_commas(_option: str, value: str) -> tuple[str, ...]:
    return listed(value)


def several(_option: str, value: list[str]) -> tuple[str, ...]:
    return tuple(value)


def numbers(option: str, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in listed(value))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers separated by commas, got {value!r}", param_hint=option
        ) from None


def positions(option: str, value: str) -> tuple[str, ...]:
    if value not in POSITIONS:
        raise typer.BadParameter(
            f"expected one of {', '.join(POSITIONS)}, got {value!r}", param_hint=option
        )
    return POSITIONS[value]


def unless_minus_one(_option: str, value: int) -> int | None:
    return None if value == -1 else value


@dataclass(frozen=True)
class Setting:
    """An option that becomes a field of `steps.Config`, by its own name or that of `field`."""

    panel: str
    default: Any
    help: str
    kind: Any = str
    read: Callable[[str, Any], Any] = as_given
    field: str | None = None
    flag: str | None = None
    complete: Complete | None = None

    def parameter(self, name: str, *, as_the_run: bool) -> inspect.Parameter:
        """The parameter of a command; `as_the_run` leaves what is not given as the run has it."""
        flag = self.flag or f"--{name.replace('_', '-')}"
        # a switch that is off by default has no opposite, unless a run may have it on
        opposite = f"/--no-{flag.removeprefix('--')}" if as_the_run and self.kind is bool else ""
        annotation = Annotated[
            self.kind,
            typer.Option(
                f"{flag}{opposite}",
                help=self.help,
                rich_help_panel=self.panel,
                autocompletion=self.complete,
                metavar="" if self.kind is bool else None,
            ),
        ]
        default = None if as_the_run else self.default
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )


SETTINGS: dict[str, Setting] = {
    "model": Setting(
        WORDS, "reference-9m", "reference-9m (embedded), a local folder, or a Hugging Face id."
    ),
    "train": Setting(
        WORDS,
        "embedded:train",
        "Words to choose neurons on: FILE.conllu, FOLDER:split, UD_English-EWT:train, or "
        "hf:dataset@revision:config:split.",
    ),
    "fresh": Setting(WORDS, "embedded:test", "Other words to test on; named like --train."),
    "label": Setting(WORDS, "upos", "upos, xpos, deprel or feats:NAME.", complete=one_of(LABELS)),
    "labels": Setting(
        WORDS,
        "",
        "Values to study, by commas; by default all that occur.",
        read=by_commas,
        complete=some_of(UPOS),
    ),
    "position": Setting(
        WORDS,
        "both",
        "Where words are read: word (at its last token), next (at the token before it), both.",
        read=positions,
        field="positions",
        complete=one_of(tuple(POSITIONS)),
    ),
    "site": Setting(
        WORDS,
        ["neuron"],
        f"Sites to collect beside neuron: {', '.join(SITES[1:])}; may be given several times.",
        kind=list[str],
        read=several,
        field="sites",
        complete=one_of(SITES),
    ),
    "min_words": Setting(
        WORDS,
        0,
        "Leave out values with fewer training words; 0: rare ones are an error.",
        kind=int,
        read=or_none,
    ),
    "context": Setting(
        WORDS,
        "sentence",
        "What is read before a word: sentence (its own alone) or document (those before it too).",
        complete=one_of(CONTEXTS),
    ),
    "window": Setting(
        WORDS,
        512,
        "Tokens of a document that are read together; for --context document.",
        kind=int,
    ),
    "words_column": Setting(WORDS, "", "hf: column of words.", read=or_none),
    "label_column": Setting(WORDS, "", "hf: column of labels.", read=or_none),
    "score": Setting(
        CHOICE,
        "",
        f"How neurons are scored: {', '.join(SCORES)} (docs/scores.md); by default correlation at "
        "word and attribution_contrast at next.",
        complete=one_of(SCORES),
    ),
    "attribution": Setting(
        CHOICE,
        "own",
        "Attributions of the word to come alone (own) or of later words too (all).",
        complete=one_of(("own", "all")),
    ),
    "attribution_words": Setting(
        CHOICE,
        20_000,
        "Training words that integrated gradients are made of, at most.",
        kind=int,
    ),
    "replicates": Setting(
        CHOICE, 100, "Exchanges of tags between sentences, for nulls; 0: none.", kind=int
    ),
    "sample": Setting(
        CHOICE,
        0,
        "Words of each label kept whole, for auroc; 0: as the score needs.",
        kind=int,
        read=or_none,
    ),
    "rule": Setting(
        CHOICE, "top_k", f"How neurons are chosen: {', '.join(RULES)}.", complete=one_of(RULES)
    ),
    "alpha": Setting(CHOICE, 0.05, "Error rate of --rule fdr and permutation.", kind=float),
    "sign": Setting(
        CHOICE,
        "absolute",
        "Rank by absolute, positive or negative score.",
        complete=one_of(SIGNS),
    ),
    "top_k": Setting(CHOICE, 100, "Key neurons per label.", kind=int),
    "probe_k": Setting(PROBE, 10, "Key neurons per label that the probe reads.", kind=int),
    "max_train_words": Setting(PROBE, 50_000, "Words the probe is fitted on, at most.", kind=int),
    "lesion": Setting(
        LESIONS,
        "mean",
        "Value of a cut neuron: mean, zero, resample (another word's), resample_within (one of the "
        "same label's); none: skip.",
        complete=one_of((*VALUES, "none")),
    ),
    "lesion_labels": Setting(
        LESIONS,
        "",
        "Labels whose neurons are cut, by commas; by default eight.",
        read=by_commas,
        complete=some_of(UPOS),
    ),
    "dose": Setting(LESIONS, 1.0, "1 cuts, 0 does nothing, below 0 amplifies.", kind=float),
    "lesion_at": Setting(
        LESIONS,
        "every",
        "Cut at every token (every), or for each word at the one before it (scored).",
        complete=one_of(WHERE),
    ),
    "shams": Setting(LESIONS, 20, "Sham replicates; p cannot go below 1/(1+shams).", kind=int),
    "values": Setting(
        LESIONS,
        "zero,resample",
        "Further values, by commas: do the lesions agree in sign?",
        read=by_commas,
        complete=some_of(VALUES),
    ),
    "doses": Setting(
        LESIONS, "0.25,0.5,0.75", "Further doses, by commas: the dose-response.", read=numbers
    ),
    "other_shams": Setting(
        LESIONS, 0, "Shams of the further values and doses, and of --sufficiency.", kind=int
    ),
    "damage_matched": Setting(
        LESIONS,
        0,
        "Shams that grow until they do as much damage; -1: as many as --shams, where those write "
        "less than the real sets.",
        kind=int,
        read=unless_minus_one,
    ),
    "sufficiency": Setting(LESIONS, False, "Also cut all neurons but a label's own.", kind=bool),
    "max_fresh_sentences": Setting(
        LESIONS, 1000, "At most so many fresh sentences are lesioned.", kind=int
    ),
    "example_neurons": Setting(
        EXAMPLES, 10, "Key neurons of each label that examples are collected of.", kind=int
    ),
    "example_words": Setting(
        EXAMPLES, 20_000, "Training words that are looked through, at most.", kind=int
    ),
    "examples_each": Setting(
        EXAMPLES, 5, "Words where a neuron is most active, and least, to keep.", kind=int
    ),
    "seed": Setting(MACHINE, 0, "Seed of shams, random neurons and samples.", kind=int),
    "device": Setting(
        MACHINE,
        "",
        "cpu, cuda, cuda:1; by default a GPU if any.",
        read=or_none,
        complete=one_of(("cpu", "cuda", "cuda:0", "mps")),
    ),
    "dtype": Setting(
        MACHINE,
        "",
        "float32, bfloat16, float16 or auto.",
        read=or_none,
        complete=one_of(("float32", "bfloat16", "float16", "auto")),
    ),
    "token_budget": Setting(
        MACHINE,
        0,
        "Tokens in one forward pass; 0: what suits the device.",
        kind=int,
        read=or_none,
    ),
    "device_map": Setting(
        MACHINE,
        "",
        "auto: spread a model larger than one GPU over all there are.",
        read=or_none,
        complete=one_of(("auto",)),
    ),
    "checkpoint_every": Setting(
        MACHINE,
        0,
        "Batches between checkpoints of a pass, for --resume; 0: as often as costs little.",
        kind=int,
        read=or_none,
    ),
    "out": Setting(
        OUTPUT,
        Path("runs/latest"),
        "The run directory to make.",
        kind=Path,
        complete=run_directories,
    ),
    "neurons_from": Setting(
        CHOICE,
        "",
        "Take the key neurons from a file instead: a table with label, layer and index (CSV, Parquet), "
        "JSON, or masks (.npy, .safetensors).",
        read=or_none,
        flag="--from",
    ),
}
"""All settings by the name of their option, in the order of `--help`."""


def config_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `steps.Config`; a setting that is None is left as the run has it.

    Raises typer.BadParameter for a value that is none of the option's.
    """
    fields = {}
    for name, value in given.items():
        if value is not None:
            setting = SETTINGS[name]
            option = setting.flag or f"--{name.replace('_', '-')}"
            fields[setting.field or name] = setting.read(option, value)
    return fields


RunArgument = Annotated[
    Path,
    typer.Argument(help="A run directory.", metavar="RUN", autocompletion=run_directories),
]
RunOption = Annotated[
    Path, typer.Option(help="The run with the key neurons.", autocompletion=run_directories)
]
LabelOfRun = Annotated[
    str, typer.Option(help="The label whose neurons are cut.", autocompletion=labels_of_run)
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Complete an existing run.", rich_help_panel=OUTPUT, metavar=""),
]
