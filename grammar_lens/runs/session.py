"""The model, the words, the key neurons and the donors of one run, each loaded when first needed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import (
    Corpus,
    fit_lexicon,
    fresh_corpus,
    prepare,
    require_fresh,
    some_sentences,
    studied_labels,
)
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.corpus.sources import load_treebank
from grammar_lens.errors import GrammarLensError, require_one_of
from grammar_lens.lesions.donors import Donors
from grammar_lens.lesions.prepared import donors
from grammar_lens.model.about import Model, describe, fingerprint, hook_name
from grammar_lens.model.fast_path_check import fast_path
from grammar_lens.model.loading import load_model
from grammar_lens.model.relevance_pass import require_relevance
from grammar_lens.model.untrained import require_twin
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.passes import distributed
from grammar_lens.passes.batches import Keeper
from grammar_lens.passes.checkpoints import Checkpoints
from grammar_lens.phenomena.pairs import Pairs, load_pairs
from grammar_lens.progress import waiting
from grammar_lens.runs.settings import Config, check_settings, check_top_k
from grammar_lens.runs.store.directory import update_record
from grammar_lens.runs.store.stored import StoredRun
from grammar_lens.selectivity.registry import SCORES

Say = Callable[[str], None]


def _silent(_text: str) -> None:
    pass


KEPT = {"collect": "collect", "score": "attribution", "lesion": "lesions"}
"""Name of the folder that holds checkpoints of interrupted steps."""
READING = "reading"
"""Name of the passes that several steps share, in timings and among checkpoints."""


class Session:
    """The shared state of commands, steps, IPython and explorer; parts load when first needed."""

    def __init__(self, config: Config, say: Say = _silent) -> None:
        self.config = config
        self.say = say

    @classmethod
    def of(cls, run: StoredRun, *, model: Model | None = None, **changes: Any) -> "Session":
        """A session on a stored run, silent, with `model` where it is loaded already."""
        session = cls(Config.of(run, show_progress=False, **changes))
        if model is not None:
            session.model = model
        return session

    @property
    def unfinished(self) -> Path:
        """Folder of the checkpoints of an interrupted step."""
        return self.config.out / "unfinished"

    def keeper(self, step: str) -> Checkpoints:
        """Keeps this process's share of a step's pass."""
        name = f"{KEPT[step]}.{distributed.world()}.safetensors"
        return Checkpoints(self.unfinished / name, every=self.config.checkpoint_every)

    def keepers_of_reading(self, run: StoredRun, steps: Sequence[str]) -> Callable[[int], Keeper]:
        """Checkpoints of the passes that some steps share, by number.

        The name holds what they depend on, so that other neurons or settings start afresh.
        """
        text = json.dumps([list(steps), self.config.stored()], sort_keys=True)
        digest = hashlib.sha256(text.encode())
        digest.update(run.require("select").read_bytes())
        name = f"{READING}-{digest.hexdigest()[:12]}"

        def keeper(number: int) -> Keeper:
            file = f"{name}.{number}.{distributed.world()}.safetensors"
            return Checkpoints(self.unfinished / file, every=self.config.checkpoint_every)

        return keeper

    def clear(self, step: str) -> None:
        """Removes checkpoints of a finished step, and files that a kill has left half-written."""
        stored = KEPT.get(step, step)
        for path in (*self.unfinished.glob(f"{stored}*"), *self.unfinished.glob(".*")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.unfinished.rmdir()

    @cached_property
    def model(self) -> Model:
        c = self.config
        device = c.device
        if device is None and distributed.world().of > 1 and torch.cuda.is_available():
            device = str(distributed.local_device())
        with waiting(f"Loading {c.model}", show=c.show_progress):
            model = load_model(
                c.model, dtype=c.dtype, device=device, device_map=c.device_map, revision=c.revision
            )
            quick = fast_path(model)
        if quick is None:
            self.say(
                f"{c.model} runs through its hooks, which takes two to three times as long: its "
                "layers are not Llama's, stand on several devices, or differ from the bridge's when "
                "run alone."
            )
        return model

    @cached_property
    def weights(self) -> str:
        """A digest of the model's weights."""
        return fingerprint(self.model)

    @cached_property
    def train_bank(self) -> Treebank:
        return self._bank(self.config.train)

    @cached_property
    def fresh_bank(self) -> Treebank:
        return self._bank(self.config.fresh)

    @cached_property
    def train(self) -> Corpus:
        c, model, bank = self.config, self.model, self.train_bank
        with waiting(f"Finding the tokens of {c.train}", show=c.show_progress):
            return prepare(
                model,
                bank,
                label=c.label,
                labels=c.labels or None,
                min_words=c.min_words,
                context=c.context,
                window=c.window,
            )

    @cached_property
    def pairs(self) -> Pairs:
        """The minimal pairs of the study of phenomena."""
        c = self.config
        pairs = load_pairs(c.pairs, max_pairs=c.max_pairs, seed=c.seed)
        for note in pairs.notes:
            self.say(f"pairs: {note}")
        return pairs

    @cached_property
    def lexicon(self) -> Lexicon:
        """P(label | token) of the training words."""
        return fit_lexicon(self.model, self.train)

    @cached_property
    def fresh(self) -> tuple[Corpus, int]:
        """Held-out words, and how many sentences were dropped because training has them too."""
        c, train, bank = self.config, self.train, self.fresh_bank
        with waiting(f"Finding the tokens of {c.fresh}", show=c.show_progress):
            return fresh_corpus(self.model, bank, train)

    @cached_property
    def lesioned(self) -> Corpus:
        """The held-out words that lesions are measured on: all, or those of some sentences."""
        c, (fresh, _) = self.config, self.fresh
        if len(fresh.bank) <= c.max_fresh_sentences:
            return fresh
        few = some_sentences(fresh.bank, c.max_fresh_sentences, fresh.context, seed=c.seed)
        self.say(
            f"lesion: {len(few):,} of {len(fresh.bank):,} held-out sentences, drawn with seed {c.seed} "
            "(--max-fresh-sentences)"
        )
        return fresh_corpus(self.model, few, self.train)[0]

    @cached_property
    def has_twin(self) -> bool:
        """Whether an untrained twin of the model is to be read; says so where there can be none."""
        if self.config.untrained:
            try:
                require_twin(self.model)
            except GrammarLensError as error:
                self.say(f"layers: no untrained twin, as {error}")
                return False
        return self.config.untrained

    def donors(self, units: Neurons, position: str, *, seed: int | None = None) -> Donors:
        """Activations of some neurons at other training words, for a lesion that resamples them.

        The same for the same neurons and seed, by default the run's, whoever asks.
        """
        seed = self.config.seed if seed is None else seed
        return donors(self.model, self.train, units, position=position, seed=seed)

    def _bank(self, source: str) -> Treebank:
        c = self.config
        bank = load_treebank(
            source,
            label=c.label,
            words_column=c.words_column,
            label_column=c.label_column,
            skip_bad_sentences=c.skip_bad_sentences,
        )
        for note in bank.notes:
            self.say(f"{bank.name}: {note}")
        if c.context == "document" and all(s.document is None for s in bank):
            self.say(f"{bank.name}: no document boundaries, so all sentences are read as one")
        return bank

    def check(self) -> None:
        """Raises for everything that can be known to fail before the first forward pass."""
        c = self.config
        check_settings(c)
        for bank in (self.train_bank, self.fresh_bank):
            bank.require_label(c.label)
        require_fresh(self.fresh_bank, self.train_bank)
        studied = studied_labels(self.train_bank, c.label, c.labels or None, c.min_words)
        fresh = self.fresh_bank.label_counts(c.label)
        for label in c.lesion_labels:
            require_one_of("--lesion-labels", label, [x for x in studied if fresh.get(x)])
        for site in ("neuron", *c.sites):
            hook_name(self.model, site, 0)
        check_top_k(c, describe(self.model))
        if c.pairs:
            _ = self.pairs
        if "next" in c.positions and SCORES[c.score_at("next")].needs == "relevance":
            require_relevance(self.model)
        _ = self.train

    def record_sources(self, run: StoredRun) -> None:
        """Notes in run.json which model and words these are; words that changed are an error."""
        self.require_same_sources(run)
        model = {**describe(self.model), "weights": self.weights}
        if distributed.world().is_main:
            update_record(run, model=model, treebank=self._about_words())

    def require_same_sources(self, run: StoredRun) -> None:
        """Raises GrammarLensError where model or words are no longer those that the run was made with."""
        for role, about in self._about_words().items():
            old = run.record.get("treebank", {}).get(role, about)
            if old["fingerprint"] != about["fingerprint"]:
                raise GrammarLensError(
                    f"the {role} data {about['name']} has changed since {run.path} was made (it had "
                    f"{old['words']:,} words and fingerprint {old['fingerprint'][:12]}, now "
                    f"{about['words']:,} and {about['fingerprint'][:12]}): choose another --out"
                )
        old = run.record.get("model", {}).get("weights", self.weights)
        if old != self.weights:
            raise GrammarLensError(
                f"the model {self.config.model} has changed since {run.path} was made (its weights had the "
                f"fingerprint {old[:12]}, now {self.weights[:12]}): choose another --out"
            )

    def _about_words(self) -> dict[str, dict[str, Any]]:
        """Name, size and fingerprint of the training and the held-out data."""
        return {
            role: {
                "name": bank.name,
                "sentences": len(bank),
                "words": bank.n_words,
                "fingerprint": bank.fingerprint(),
            }
            for role, bank in (("train", self.train_bank), ("fresh", self.fresh_bank))
        }
