"""The settings of a run, and what can be told of them before any work."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grammar_lens.corpus.corpus import CONTEXTS, LEAST_WINDOW, WINDOW
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.outcomes import VALUES, WHERE, Ablation
from grammar_lens.neurons.selection import RULES
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.selectivity.permutation_null import MIN_REPLICATES
from grammar_lens.selectivity.registry import SCORES
from grammar_lens.selectivity.result import SIGNS

DEFAULT_SCORES = {"word": "correlation", "next": "attribution_contrast"}
"""What is read from a neuron is a matter of its activation; what the model loses without it, of its
effect on the prediction, which only `next` has."""

NOT_STORED = ("out", "device", "device_map", "checkpoint_every", "show_progress")


@dataclass(frozen=True)
class Config:
    """The settings of a run; all but those in `NOT_STORED` decide its numbers."""

    model: str = "reference-9m"
    train: str = "embedded:train"
    fresh: str = "embedded:test"
    label: str = "upos"
    labels: tuple[str, ...] = ()
    positions: tuple[str, ...] = ("word", "next")
    sites: tuple[str, ...] = ("neuron",)
    min_words: int | None = None
    score: str = ""
    """One score for all positions; none: what suits each (`DEFAULT_SCORES`)."""
    attribution: str = "own"
    rule: str = "top_k"
    alpha: float = 0.05
    sign: str = "absolute"
    top_k: int = 100
    neurons_from: str | None = None
    """A file of neurons that are studied in place of a choice of our own (see `gl.read_neurons`)."""
    replicates: int = 100
    sample: int | None = None
    """Words of each label whose activations are kept; by default 100 if the score needs them."""
    attribution_words: int = 20_000
    example_neurons: int = 10
    """Key neurons of each label that examples are shown of; 0 for none."""
    example_words: int = 20_000
    examples_each: int = 5
    probe_k: int = 10
    lesion: str = "mean"
    lesion_labels: tuple[str, ...] = ()
    dose: float = 1.0
    lesion_at: str = "every"
    shams: int = 20
    values: tuple[str, ...] = ("zero", "resample")
    """Further values that the same neurons are cut to."""
    doses: tuple[float, ...] = (0.25, 0.5, 0.75)
    other_shams: int = 0
    """Shams of the further values and doses, and of sufficiency."""
    damage_matched: int | None = 0
    """Shams that grow until they do as much damage; None: as many as shams, where these write less."""
    sufficiency: bool = False
    max_fresh_sentences: int = 1000
    max_train_words: int = 50_000
    seed: int = 0
    dtype: str | None = None
    token_budget: int | None = None
    words_column: str | None = None
    label_column: str | None = None
    context: str = "sentence"
    """What is read before a word: its sentence alone, or the document before it too."""
    window: int = WINDOW
    """Tokens of a document that are read together."""
    out: Path = field(default=Path("runs/latest"))
    device: str | None = None
    device_map: str | None = None
    """How a model larger than one GPU is spread over several ("auto")."""
    checkpoint_every: int | None = None
    """Batches between two checkpoints of a pass; by default as often as costs next to nothing."""
    show_progress: bool = True

    def score_at(self, position: str) -> str:
        """The score used at a position; attributions are of predictions, so only `next` has them."""
        chosen = self.score or DEFAULT_SCORES[position]
        needs = SCORES[chosen].needs
        at_next_only = needs in ("attribution", "integrated_gradients")
        return DEFAULT_SCORES[position] if at_next_only and position != "next" else chosen

    def other_ablations(self) -> list[Ablation]:
        """The further lesions of the same neurons: other doses, other values."""
        doses = [Ablation(self.lesion, dose, self.lesion_at) for dose in self.doses]
        return doses + [Ablation(value, self.dose, self.lesion_at) for value in self.values]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Steps that `run` does not do with these settings."""
        without = {"examples": self.example_neurons == 0, "lesion": self.lesion == "none"}
        return tuple(step for step, left in without.items() if left)

    def for_examples(self) -> dict[str, Any]:
        """The settings of `study.examples_at`."""
        return {
            "max_words": self.example_words,
            "each": self.examples_each,
            "seed": self.seed,
            "token_budget": self.token_budget,
            "show_progress": self.show_progress,
        }

    def stored(self) -> dict[str, Any]:
        """The settings stored in run.json, which a resumed run must match."""
        kept = asdict(self)
        for name in NOT_STORED:
            del kept[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @classmethod
    def of(cls, run: StoredRun, **changes: Any) -> "Config":
        """The settings of a stored run, some of them changed."""
        return cls.parse(run.config, out=run.path, **changes)

    @classmethod
    def parse(cls, stored: Mapping[str, Any], **changes: Any) -> "Config":
        """Settings from what `stored` gave, some of them changed."""
        kept = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**{**kept, **changes})


def check_settings(c: Config) -> None:
    """Raises GrammarLensError for settings that no model and no words could go with."""
    _one_of("score", c.score, ("", *SCORES))
    _one_of("attribution", c.attribution, ("own", "all"))
    _one_of("rule", c.rule, RULES)
    _one_of("sign", c.sign, SIGNS)
    _one_of("lesion", c.lesion, (*VALUES, "none"))
    _one_of("lesion-at", c.lesion_at, WHERE)
    _one_of("context", c.context, CONTEXTS)
    if c.window < LEAST_WINDOW:
        raise GrammarLensError(f"--window is {c.window}, expected {LEAST_WINDOW} tokens or more")
    for value in c.values:
        _one_of("values", value, VALUES)
    _check_choice(c)
    for name in (
        *("top_k", "probe_k", "token_budget", "max_fresh_sentences", "max_train_words"),
        *("sample", "attribution_words", "min_words", "checkpoint_every"),
        *("example_words", "examples_each"),
    ):
        given = getattr(c, name)
        if given is not None and given < 1:
            raise GrammarLensError(f"--{name.replace('_', '-')} is {given}, expected 1 or more")
    for name in ("shams", "other_shams", "damage_matched", "example_neurons"):
        given = getattr(c, name)
        if given is not None and given < 0:
            raise GrammarLensError(f"--{name.replace('_', '-')} is {given}, expected 0 or more")
    if c.other_shams > c.shams:
        raise GrammarLensError(
            f"--other-shams is {c.other_shams} and --shams {c.shams}: the further values and doses "
            "have some of the same shams, so give no more of them"
        )
    if not all(math.isfinite(dose) for dose in (c.dose, *c.doses)):
        raise GrammarLensError(f"doses are {c.dose}, {c.doses}, expected finite numbers")


def check_top_k(c: Config, model: Mapping[str, Any]) -> None:
    """Raises GrammarLensError for more key neurons than the model, as run.json describes it, has."""
    there = model["n_layers"] * model["d_mlp"]
    if c.top_k > there:
        raise GrammarLensError(
            f"--top-k is {c.top_k}, expected 1 to {there}: {model['name']} has "
            f"{model['n_layers']} layers of {model['d_mlp']} neurons"
        )


def _check_choice(c: Config) -> None:
    """Raises GrammarLensError for a rule that the settings cannot follow."""
    scores = {p: c.score_at(p) for p in c.positions}
    if c.rule == "frequency" and any(s != "frequency" for s in scores.values()):
        raise GrammarLensError(
            "--rule frequency goes with --score frequency --position next: it counts how often a neuron "
            "is among the largest integrated gradients, which only 'next' has"
        )
    if c.rule in ("fdr", "permutation"):
        nulls = {"attribution", "attribution_contrast"} if c.attribution == "own" else set()
        nulls |= {name for name, m in SCORES.items() if m.class_means_suffice}
        without = [s for s in scores.values() if s not in nulls]
        if without:
            raise GrammarLensError(
                f"--rule {c.rule} needs a null, and {without[0]!r} has none: use --rule top_k, or a "
                f"score that has one ({', '.join(sorted(nulls))})"
            )
        if not c.replicates:
            raise GrammarLensError(f"--rule {c.rule} needs a null: give --replicates 100")
    if c.replicates and c.replicates < MIN_REPLICATES:
        raise GrammarLensError(
            f"--replicates is {c.replicates}, expected 0 for no null or at least {MIN_REPLICATES}"
        )


def _one_of(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise GrammarLensError(f"--{name} is {given!r}, expected one of {', '.join(known)}")
