"""Plan of a collecting pass: word weights fixed beforehand, readers, and their results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from grammar_lens.corpus.corpus import Corpus
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model, device_of, fingerprint, site_width
from grammar_lens.passes.moments import MomentAccumulator, Moments
from grammar_lens.passes.readers import Reader, SampleReader
from grammar_lens.passes.stream import Tap
from grammar_lens.passes.sums import SumAccumulator, label_rows, weight_rows
from grammar_lens.selectivity.contrasts import (
    Adjusted,
    Contrast,
    adjusted,
    holding_constant,
    within_type,
)
from grammar_lens.selectivity.evidence import Evidence, Sample
from grammar_lens.selectivity.permutation_null import Null, Permutation, Replicates, permute_tags
from grammar_lens.selectivity.registry import SCORES


@dataclass(frozen=True)
class CollectSpec:
    """Specification of a collecting pass."""

    sites: tuple[str, ...]
    positions: tuple[str, ...]
    replicates: int
    sample: int
    controls: bool
    seed: int
    min_words: int = 2
    """Words that every label must have; 0 where only some of the words are read."""
    nulls: Sequence[str] | None = None
    """Scores that get a null from the replicates; by default all that class means decide."""


@dataclass(frozen=True)
class CollectPlan:
    """Word-level decisions at one position, made before the pass and shared by all sites."""

    corpus: Corpus
    position: str
    wanted: CollectSpec

    @cached_property
    def codes(self) -> Int[np.ndarray, " word"]:
        codes = self.corpus.read(self.position)
        _require_words(self.corpus, codes, self.position, self.wanted.min_words)
        return codes

    def _rng(self, use: int) -> np.random.Generator:
        """A generator of its own for every use, so that one option does not change another's draws."""
        return np.random.default_rng([self.wanted.seed, use])

    @cached_property
    def permutation(self) -> Permutation | None:
        n = self.wanted.replicates
        sentence = self.corpus.alignment.sentence
        return permute_tags(self.codes, sentence, n, self._rng(0)) if n else None

    @cached_property
    def part(self) -> Int[np.ndarray, " word"]:
        """The half of the corpus that each word's sentence is in, plus 2 for words without an exchange."""
        half = self._rng(1).permutation(len(self.corpus.bank)) % 2
        part = half[self.corpus.alignment.sentence]
        return part if self.permutation is None else part + 2 * ~self.permutation.taking_part

    @property
    def n_parts(self) -> int:
        return 2 if self.permutation is None else 4

    @cached_property
    def sampled(self) -> Int[np.ndarray, " sample"]:
        """Numbers of the words whose activations are kept: the same number of every label, if there are."""
        rng, chosen = self._rng(2), [np.zeros(0, np.int64)]
        for label in range(len(self.corpus.labels)):
            words = np.flatnonzero(self.codes == label)
            chosen.append(rng.permutation(words)[: self.wanted.sample])
        return np.sort(np.concatenate(chosen))

    @cached_property
    def contrasts(self) -> tuple[Contrast, Contrast] | None:
        if not self.wanted.controls:
            return None
        n = len(self.corpus.labels)
        _, form = np.unique(np.array(self.corpus.word_types(self.position)), return_inverse=True)
        covariates = self.corpus.covariates(self.position)
        return within_type(self.codes, form, n), holding_constant(self.codes, covariates, n)


class SiteReaders:
    """The readers of one site at one position, and what they have found after the pass."""

    def __init__(self, model: Model, plan: CollectPlan, site: str) -> None:
        self.plan, self.site, self._model = plan, site, model
        self.taps: list[Tap] = []
        shape = (model.cfg.n_layers, site_width(model, site))
        device, n = device_of(model), len(plan.corpus.labels)
        numbers, read = np.arange(len(plan.codes)), plan.codes >= 0
        groups = [f"{part} {x}" for part in range(plan.n_parts) for x in plan.corpus.labels]
        self._moments = MomentAccumulator(groups, *shape, device)
        self._tap(read, plan.codes + plan.part * n, self._moments)
        if plan.permutation is not None:
            rows = label_rows(plan.permutation.codes, n, device)
            self._permuted = SumAccumulator(rows, len(plan.permutation.codes) * n, *shape, device)
            self._tap(plan.permutation.taking_part, numbers, self._permuted)
        if plan.contrasts is not None:
            weight = np.concatenate([c.weight for c in plan.contrasts])
            self._contrasted = SumAccumulator(
                weight_rows(weight, device), len(weight), *shape, device
            )
            self._tap((weight != 0).any(0), numbers, self._contrasted)
        if plan.wanted.sample:
            self._sampled = SampleReader(len(plan.sampled), *shape)
            self.taps.append(
                Tap.of_rows(site, plan.position, plan.sampled, len(read), self._sampled)
            )

    def _tap(
        self, wanted: Bool[np.ndarray, " word"], codes: Int[np.ndarray, " word"], reader: Reader
    ) -> None:
        codes = np.where(wanted, codes, -1)
        self.taps.append(Tap(self.site, self.plan.position, wanted, codes, reader))

    @cached_property
    def _parts(self) -> tuple[Moments, ...]:
        """Moments of both halves, of the words that take part in an exchange and of the others."""
        origin = self.plan.corpus.origin(self.plan.position, self.site, fingerprint(self._model))
        parts = self._moments.moments(origin).parts(self.plan.n_parts)
        return tuple(replace(m, labels=self.plan.corpus.labels) for m in parts)

    @cached_property
    def halves(self) -> tuple[Moments, Moments]:
        """Moments of two halves of the sentences."""
        first, second, *left_out = self._parts
        if not left_out:
            return first, second
        return first + left_out[0], second + left_out[1]

    def replicates(self) -> Replicates | None:
        """The permutation replicates; None where none were asked for."""
        if self.plan.permutation is None:
            return None
        observed = self._parts[0] + self._parts[1]
        n = len(self.plan.permutation.codes)
        return Replicates(
            observed,
            _ReplicateMeans(self._permuted, n, observed.count),
            self.plan.permutation.n_left_out_words,
            self.plan.permutation.n_left_out_sentences,
        )

    def evidence(self) -> Evidence:
        """Everything that was found, with the nulls of all scores that class means decide."""
        moments, replicates = self.halves[0] + self.halves[1], self.replicates()
        return Evidence(
            moments=moments,
            halves=self.halves,
            sample=self._sample(moments) if self.plan.wanted.sample else None,
            nulls={} if replicates is None else _nulls(replicates, self.plan.wanted.nulls),
            adjusted=self._adjusted(moments),
        )

    def _adjusted(self, moments: Moments) -> Adjusted | None:
        if self.plan.contrasts is None:
            return None
        within, guard = self.plan.contrasts
        sums = self._contrasted.sums().reshape(2, *moments.mean.shape)
        return adjusted(moments, within, guard, sums)

    def _sample(self, moments: Moments) -> Sample:
        chosen = self.plan.sampled
        return Sample(
            labels=moments.labels,
            classes=self.plan.codes[chosen],
            word=chosen,
            values=self._sampled.values,
            count=moments.count,
            origin=moments.origin,
        )


@dataclass(frozen=True)
class _ReplicateMeans:
    """Class means of every replicate, made when they are asked for: all at once are large."""

    permuted: SumAccumulator
    n: int
    count: Float[np.ndarray, " label"]
    """Words of every label: an exchange moves whole sequences, so every replicate has as many."""

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Float[np.ndarray, "label layer unit"]:
        n_labels = len(self.count)
        means = self.permuted.sums(slice(i * n_labels, (i + 1) * n_labels))
        means /= np.maximum(self.count, 1)[:, None, None]
        return means


def _nulls(replicates: Replicates, names: Sequence[str] | None) -> dict[str, Null]:
    return {
        name: replicates.null(
            name,
            lambda m, compute=method.compute: compute(Evidence(m))[0],
            two_sided=method.best == "far",
            neutral=method.neutral,
        )
        for name, method in SCORES.items()
        if method.class_means_suffice and (names is None or name in names)
    }


def _require_words(
    corpus: Corpus, codes: Int[np.ndarray, " word"], position: str, minimum: int
) -> None:
    counts = np.bincount(codes[codes >= 0], minlength=len(corpus.labels))
    few = [f"{x!r} has {n}" for x, n in zip(corpus.labels, counts, strict=True) if n < minimum]
    if few:
        raise GrammarLensError(
            f"labels with fewer than {minimum} words that can be read at {position!r} in "
            f"{corpus.bank.name}: {', '.join(few)}; use a larger treebank or leave them out (--labels)"
        )
