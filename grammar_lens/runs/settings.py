"""The settings of a run: each field says how it is asked for, its default and the values it may have.

The command line, configuration files, run.json and the checks before a run read the fields of `Config`.
Nothing heavy is imported.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import ceil
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from grammar_lens import defaults
from grammar_lens.errors import (
    GrammarLensError,
    nearest,
    require_at_least,
    require_between,
    require_one_of,
)
from grammar_lens.selectivity.registry import SCORES

DEFAULT_SCORES = {"word": "correlation", "next": "attribution_contrast"}
"""What is read from a neuron is a matter of its activation; what the model loses without it, of its
effect on the prediction, which only `next` has."""
NOT_STORED = ("out", "device", "device_map", "checkpoint_every", "show_progress")

WORDS = "Model and words"
CHOICE = "Choosing neurons"
PROBE = "Probe"
LESIONS = "Lesions"
PHENOMENA = "Minimal pairs"
EXAMPLES = "Examples"
MACHINE = "Machine"
OUTPUT = "Output"

UPOS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
LABELS = ("upos", "xpos", "deprel", "feats:Number", "feats:Tense", "feats:VerbForm")


@dataclass(frozen=True)
class Option:
    """The way a setting is asked for: its panel and text in `--help`, and the values it may have.

    `choices` are all the values there are, `complete` some that the shell offers; numbers lie between
    `least` and `most`. The option has the field's name unless `flag` is given. `none` is what stands
    for None on the command line, `every` for all choices together. `was` is the flag of earlier versions.
    """

    panel: str
    help: str
    choices: tuple[str, ...] = ()
    complete: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    flag: str = ""
    none: int = 0
    every: str = ""
    was: str = ""


@dataclass(frozen=True)
class Config:
    """The settings of a run; all but those in `NOT_STORED` decide its numbers."""

    model: Annotated[
        str,
        Option(
            WORDS,
            "reference-9m (embedded), a local folder, FILE.gguf, smollm2-135m, or a Hugging Face id; "
            "untrained: before it gives the same model with random weights.",
        ),
    ] = "reference-9m"
    train: Annotated[
        str,
        Option(
            WORDS,
            "Words to choose neurons on: FILE.conllu, FOLDER:split, UD_English-EWT:train, or "
            "hf:dataset@revision:config:split.",
        ),
    ] = "embedded:train"
    fresh: Annotated[str, Option(WORDS, "Other words to test on; named like --train.")] = (
        "embedded:test"
    )
    label: Annotated[str, Option(WORDS, "upos, xpos, deprel or feats:NAME.", complete=LABELS)] = (
        "upos"
    )
    labels: Annotated[
        tuple[str, ...],
        Option(
            WORDS, "Values to study, separated by commas; by default all that occur.", complete=UPOS
        ),
    ] = ()
    positions: Annotated[
        tuple[str, ...],
        Option(
            WORDS,
            "Where words are read: word (at its last token), next (at the token before it), both.",
            defaults.POSITIONS,
            flag="position",
            every="both",
        ),
    ] = defaults.POSITIONS
    sites: Annotated[
        tuple[str, ...],
        Option(
            WORDS,
            f"Sites to collect beside neuron, with commas: {', '.join([*defaults.SITES][1:])}.",
            tuple(defaults.SITES),
            flag="site",
        ),
    ] = ("neuron", "resid_post")
    min_words: Annotated[
        int | None,
        Option(
            WORDS, "Leave out values with fewer training words; 0: rare ones are an error.", least=1
        ),
    ] = None
    context: Annotated[
        str,
        Option(
            WORDS,
            "What is read before a word: sentence (its own alone) or document (those before it too).",
            defaults.CONTEXTS,
        ),
    ] = "sentence"
    window: Annotated[
        int,
        Option(
            WORDS,
            "Tokens of a document that are read together; for --context document.",
            least=defaults.LEAST_WINDOW,
        ),
    ] = defaults.WINDOW
    revision: Annotated[
        str | None, Option(WORDS, "Branch, tag or commit of a model on the Hugging Face hub.")
    ] = None
    skip_bad_sentences: Annotated[
        bool, Option(WORDS, "Skip and count sentences of a CoNLL-U file that cannot be read.")
    ] = False
    words_column: Annotated[str | None, Option(WORDS, "hf: column of words.")] = None
    label_column: Annotated[str | None, Option(WORDS, "hf: column of labels.")] = None
    score: Annotated[
        str,
        Option(
            CHOICE,
            f"How neurons are scored: {', '.join(SCORES)} (docs/scores.md); by default correlation "
            "at word and attribution_contrast at next.",
            ("", *SCORES),
        ),
    ] = ""
    attribution: Annotated[
        str,
        Option(
            CHOICE,
            "Attributions and relevance of the word to come alone (own) or of later words too (all).",
            ("own", "all"),
        ),
    ] = "own"
    attribution_words: Annotated[
        int,
        Option(
            CHOICE,
            "Training words that attributions are made of, at most; whole sentences are drawn.",
            least=1,
        ),
    ] = defaults.ATTRIBUTION_WORDS
    replicates: Annotated[
        int, Option(CHOICE, "Exchanges of tags between sentences, for nulls; 0: none.", least=0)
    ] = 100
    sample: Annotated[
        int | None,
        Option(
            CHOICE, "Words of each label kept whole, for auroc; 0: as the score needs.", least=1
        ),
    ] = None
    rule: Annotated[
        str, Option(CHOICE, f"How neurons are chosen: {', '.join(defaults.RULES)}.", defaults.RULES)
    ] = "top_k"
    alpha: Annotated[
        float,
        Option(
            CHOICE,
            "Error rate of --rule fdr and permutation; q-value within the label that --rule top_k "
            "allows at most (1: any).",
        ),
    ] = defaults.ALPHA
    sign: Annotated[
        str, Option(CHOICE, "Rank by absolute, positive or negative score.", defaults.SIGNS)
    ] = "absolute"
    top_k: Annotated[int, Option(CHOICE, "Key neurons per label.", least=1)] = defaults.TOP_K
    massive: Annotated[
        float,
        Option(
            CHOICE,
            "Attributions and relevance choose no unit whose mean absolute activation is over so many times the "
            "median of its layer; 0: any unit.",
            least=0,
        ),
    ] = defaults.MASSIVE
    neurons_from: Annotated[
        str | None,
        Option(
            CHOICE,
            "Take the key neurons from a file instead: a table with label, layer and index (CSV, "
            "Parquet), JSON, or masks (.npy, .safetensors).",
            flag="from",
        ),
    ] = None
    probe_k: Annotated[
        int, Option(PROBE, "Key neurons per label that the probe reads.", least=1)
    ] = 10
    max_train_words: Annotated[
        int, Option(PROBE, "Words the probe is fitted on, at most.", least=1)
    ] = defaults.MAX_TRAIN_WORDS
    layer_words: Annotated[
        int,
        Option(
            PROBE,
            "Words that the probes of whole layers are fitted on, and as many they are tested on, at "
            "most; 0: no such probes.",
            least=0,
        ),
    ] = defaults.LAYER_WORDS
    untrained: Annotated[
        bool,
        Option(PROBE, "Probe the layers of an untrained twin too, with random weights: the floor."),
    ] = True
    values: Annotated[
        tuple[str, ...],
        Option(
            LESIONS,
            "Values of a cut neuron, with commas: mean, zero, resample (another word's value), "
            "resample_within (one of the same label's). The first is the main one, the others show "
            "whether lesions agree in sign; none: no lesions.",
            (*defaults.VALUES, "none"),
            was="lesion",
        ),
    ] = ("mean", "zero", "resample")
    doses: Annotated[
        tuple[float, ...],
        Option(
            LESIONS,
            "Doses, with commas: 1 cuts, 0 does nothing, below 0 amplifies. The first is the main one, "
            "the others give the dose-response.",
            least=-100,
            most=100,
            was="dose",
        ),
    ] = (1.0, 0.25, 0.5, 0.75)
    lesion_labels: Annotated[
        tuple[str, ...],
        Option(
            LESIONS,
            "Labels whose neurons are cut, separated by commas; by default eight.",
            complete=UPOS,
        ),
    ] = ()
    lesion_at: Annotated[
        str,
        Option(
            LESIONS,
            "Cut at every token (every), or for each word at the one before it (scored).",
            defaults.WHERE,
        ),
    ] = "every"
    shams: Annotated[
        int, Option(LESIONS, "Sham replicates; p cannot go below 1/(1+shams).", least=0)
    ] = defaults.SHAMS
    other_shams: Annotated[
        int,
        Option(LESIONS, "Shams of the further values and doses, and of --sufficiency.", least=0),
    ] = defaults.OTHER_SHAMS
    damage_matched: Annotated[
        int | None,
        Option(
            LESIONS,
            "Shams that grow until they do as much damage; -1: as many as --shams, where those "
            "write less than nine tenths of the real sets' output.",
            least=0,
            none=-1,
        ),
    ] = None
    sham_sentences: Annotated[
        int | None,
        Option(
            LESIONS,
            "Sentences at which real and sham lesions are compared, and other values and doses "
            "measured; 0: all.",
            least=1,
        ),
    ] = defaults.SHAM_SENTENCES
    sufficiency: Annotated[bool, Option(LESIONS, "Also cut all neurons but a label's own.")] = False
    by_layer: Annotated[
        bool,
        Option(
            LESIONS,
            "Also cut each layer's key neurons alone, and each label's direction in the residual "
            "stream after it, at --sham-sentences.",
        ),
    ] = False
    curves: Annotated[
        bool,
        Option(
            LESIONS,
            "Also cut each label's first k neurons, and all but these, for several k, at "
            "--sham-sentences: about as many lesions as 17 shams.",
        ),
    ] = False
    curve_ks: Annotated[
        tuple[int, ...],
        Option(LESIONS, "Neurons per label of --curves, with commas.", least=1),
    ] = defaults.CURVE_KS
    max_fresh_sentences: Annotated[
        int, Option(LESIONS, "At most so many held-out sentences are lesioned.", least=1)
    ] = 1000
    pairs: Annotated[
        tuple[str, ...],
        Option(
            PHENOMENA,
            "Sources of minimal pairs, with commas or several times: FILE.jsonl (as BLiMP), FILE.csv (good, "
            "bad), a folder, blimp:UID, blimp:all, embedded; by default none, so no study of phenomena.",
            complete=("embedded", "blimp:"),
        ),
    ] = ()
    max_pairs: Annotated[
        int | None,
        Option(PHENOMENA, "Pairs of each phenomenon, drawn with --seed, at most; 0: all.", least=1),
    ] = 200
    pairs_at: Annotated[
        str,
        Option(
            PHENOMENA,
            "Where a phenomenon's log odds are attributed: at the first differing token, or over the "
            "whole sentence.",
            ("token", "sentence"),
        ),
    ] = "token"
    pair_tags: Annotated[
        tuple[str, ...],
        Option(
            PHENOMENA,
            "Tags whose key neurons are cut at minimal pairs, separated by commas; by default eight; "
            "none: no tag's.",
            complete=("none", *UPOS),
        ),
    ] = ()
    folds: Annotated[
        int,
        Option(
            PHENOMENA,
            "Folds of the pairs: those outside choose neurons, that inside tests.",
            least=2,
        ),
    ] = defaults.FOLDS
    pair_shams: Annotated[
        int, Option(PHENOMENA, "Sham replicates of the lesions at minimal pairs.", least=0)
    ] = defaults.SHAMS
    sham_pairs: Annotated[
        int | None,
        Option(PHENOMENA, "Pairs of each phenomenon at which shams are made; 0: all.", least=1),
    ] = defaults.SHAM_PAIRS
    example_neurons: Annotated[
        int,
        Option(
            EXAMPLES,
            "Key neurons of each label that examples are collected of; 0: no examples.",
            least=0,
        ),
    ] = 10
    example_words: Annotated[
        int, Option(EXAMPLES, "Training words that are looked through, at most.", least=1)
    ] = defaults.EXAMPLE_WORDS
    examples_each: Annotated[
        int, Option(EXAMPLES, "Words where a neuron is most active, and least, to keep.", least=1)
    ] = defaults.EXAMPLES_EACH
    seed: Annotated[int, Option(MACHINE, "Seed of shams, random neurons and samples.", least=0)] = (
        defaults.SEED
    )
    device: Annotated[
        str | None,
        Option(
            MACHINE,
            "cpu, cuda, cuda:1; by default a GPU if any.",
            complete=("cpu", "cuda", "cuda:0", "mps"),
        ),
    ] = None
    dtype: Annotated[
        str | None,
        Option(
            MACHINE,
            "float32, bfloat16, float16 or auto.",
            ("float32", "bfloat16", "float16", "auto"),
        ),
    ] = None
    token_budget: Annotated[
        int | None,
        Option(MACHINE, "Tokens in one forward pass; 0: what suits the device.", least=1),
    ] = None
    device_map: Annotated[
        str | None,
        Option(
            MACHINE,
            "auto: spread a model larger than one GPU over all there are.",
            complete=("auto",),
        ),
    ] = None
    checkpoint_every: Annotated[
        int | None,
        Option(
            MACHINE,
            "Batches between checkpoints of a pass, for --resume; 0: as often as costs little.",
            least=1,
        ),
    ] = None
    out: Annotated[Path, Option(OUTPUT, "The run directory to make.")] = Path("runs/latest")
    show_progress: bool = True

    @property
    def value(self) -> str:
        """Value that a cut neuron has in the main lesion; "none" for no lesions."""
        return self.values[0]

    @property
    def dose(self) -> float:
        """The dose of the main lesion."""
        return self.doses[0]

    def score_at(self, position: str) -> str:
        """The score used at a position; attributions are of predictions, so only `next` has them."""
        chosen = self.score or DEFAULT_SCORES[position]
        usual = SCORES[chosen].at_next_only and position != "next"
        return DEFAULT_SCORES[position] if usual else chosen

    @property
    def left_out(self) -> tuple[str, ...]:
        """Steps that `run` does not do with these settings."""
        without = {
            "examples": self.example_neurons == 0,
            "layers": self.layer_words == 0,
            "lesion": self.value == "none",
            "phenomena": not self.pairs,
        }
        return tuple(step for step, left in without.items() if left)

    def for_examples(self) -> dict[str, Any]:
        """The settings of `find_examples.examples_reading`."""
        return {"max_words": self.example_words, "each": self.examples_each, "seed": self.seed}

    def stored(self) -> dict[str, Any]:
        """The settings that run.json keeps and a resumed run must agree with."""
        values = {k: v for k, v in asdict(self).items() if k not in NOT_STORED}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def of(cls, run: Any, step: str | None = None, **changes: Any) -> "Config":
        """The settings of a stored run, or those a step was last done with, some of them changed."""
        stored = run.config if step is None else run.config_of(step)
        return cls.parse(stored, out=run.path, **changes)

    @classmethod
    def parse(cls, stored: Mapping[str, Any], **changes: Any) -> "Config":
        """Settings from what `stored` gave, some of them changed."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in renamed(stored).items()}
        unknown = [name for name in values if name not in DEFAULTS]
        if unknown:
            raise GrammarLensError(
                f"the stored settings have {unknown[0]!r}, which this version does not know: use the "
                "version that made the run, or make it anew"
            )
        return cls(**{**values, **changes})


OPTIONS: dict[str, tuple[Any, Option]] = {
    name: get_args(kind)
    for name, kind in get_type_hints(Config, include_extras=True).items()
    if name != "show_progress"
}
"""The type and the option of every field, in the order of `--help`."""
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Config)}
RENAMED = {option.was: name for name, (_, option) in OPTIONS.items() if option.was}
"""Settings of earlier versions, each now the first entry of another."""


def flag_of(name: str) -> str:
    """The option that sets a field, such as "--top-k"."""
    return f"--{(OPTIONS[name][1].flag or name).replace('_', '-')}"


def renamed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings by their present names: `lesion` and `dose` now lead `values` and `doses`."""
    values = dict(stored)
    for old, new in RENAMED.items():
        if old in values:
            first = values.pop(old)
            values[new] = [first] if first == "none" else [first, *values.get(new, ())]
    return values


def check_settings(c: Config) -> None:
    """Raises GrammarLensError for settings that no model and no words could go with."""
    for name, (_, option) in OPTIONS.items():
        flag, given = flag_of(name), getattr(c, name)
        entries = given if isinstance(given, tuple) else (given,)
        if not entries and DEFAULTS[name]:
            usual = ",".join(map(str, DEFAULTS[name]))
            raise GrammarLensError(f"{flag} is empty, expected one entry or more, such as {usual}")
        for entry in entries:
            if entry is None:
                continue
            if option.choices:
                require_one_of(flag, entry, option.choices)
            if option.most is not None and option.least is not None:
                require_between(flag, entry, option.least, option.most)
            elif option.least is not None:
                require_at_least(flag, entry, option.least)
    _check_choice(c)
    if "none" in c.values and len(c.values) > 1:
        raise GrammarLensError(f"--values is {','.join(c.values)}: none goes with no other value")
    if len(c.lesion_labels) == 1:
        raise GrammarLensError(
            f"--lesion-labels is {c.lesion_labels[0]}, expected two labels or more: a lesion study "
            "compares them"
        )
    if c.other_shams > c.shams:
        raise GrammarLensError(
            f"--other-shams is {c.other_shams} and --shams {c.shams}: the further values and doses "
            "have some of the same shams, so give no more of them"
        )
    _check_paths(c)


def check_top_k(c: Config, model: Mapping[str, Any]) -> None:
    """Raises GrammarLensError for more key neurons than the model, as run.json describes it, has."""
    sizes = f"{model['name']} has {model['n_layers']} layers of {model['d_mlp']} neurons"
    require_between("--top-k", c.top_k, 1, model["n_layers"] * model["d_mlp"], sizes)


def _check_paths(c: Config) -> None:
    """Raises GrammarLensError for a model or words that name a place on this machine where nothing is."""
    if c.model.startswith((".", "/", "~")) and not Path(c.model).expanduser().exists():
        raise GrammarLensError(
            f"--model is {c.model!r}, and there is no such file or folder: expected FILE.gguf, a folder "
            "with config.json and safetensors weights, or a Hugging Face id"
        )
    for flag, source in (("--train", c.train), ("--fresh", c.fresh)):
        elsewhere = source.startswith(("hf:", "UD_", "embedded"))
        source = source.removeprefix("tags:")
        name, colon, split = source.partition(":")
        near = nearest(name, ("embedded",))
        folder = source.rpartition(":")[0] or source
        if not (elsewhere or Path(source).exists() or Path(folder).exists()):
            raise GrammarLensError(
                f"{flag} is {source!r}, and there is no such file: expected FILE.conllu, a folder of "
                "such files, FOLDER:split, UD_NAME:split, hf:dataset:split or embedded:split"
                + (f"; did you mean 'embedded{colon}{split}'?" if near else "")
            )


def _check_choice(c: Config) -> None:
    """Raises GrammarLensError for a rule that the settings cannot follow."""
    by_null = c.rule in ("fdr", "permutation")
    if not (0 < c.alpha < 1 or (c.alpha == 1 and not by_null)):
        raise GrammarLensError(f"--alpha is {c.alpha:g}, expected a number between 0 and 1")
    least = defaults.MIN_REPLICATES
    if c.replicates and c.replicates < least:
        raise GrammarLensError(
            f"--replicates is {c.replicates}, expected 0 for no null or at least {least}"
        )
    scores = [c.score_at(position) for position in c.positions]
    one_sided = [s for s in scores if SCORES[s].best != "far"]
    if c.sign == "negative" and one_sided:
        raise GrammarLensError(
            f"--sign negative has no meaning for the score {one_sided[0]!r}, which is strong where it "
            f"is {SCORES[one_sided[0]].best}: use --sign absolute"
        )
    if c.rule == "frequency" and any(s != "frequency" for s in scores):
        raise GrammarLensError(
            "--rule frequency goes with --score frequency --position next: it counts how often a neuron "
            "is among the largest integrated gradients, which only 'next' has"
        )
    if not by_null:
        return
    by_word = c.attribution == "own"
    nulls = {
        name
        for name, method in SCORES.items()
        if method.class_means_suffice or (method.is_first_order and by_word)
    }
    without = [s for s in scores if s not in nulls]
    if without:
        raise GrammarLensError(
            f"--rule {c.rule} needs a null, and {without[0]!r} has none: use --rule top_k, or a "
            f"score that has one ({', '.join(sorted(nulls))})"
        )
    # 1 / 0.05 is 20, but 1 / 0.1 - 1 need not be 9 in floating point
    needed = max(least, ceil(1 / c.alpha - 1e-9) - 1) if c.rule == "permutation" else least
    if c.replicates < needed:
        raise GrammarLensError(
            f"--rule {c.rule} at --alpha {c.alpha:g} needs a null: give --replicates {max(needed, 100)}"
        )
