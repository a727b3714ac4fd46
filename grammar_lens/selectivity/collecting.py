"""One forward pass over the words: moments, and the sums that nulls, controls and samples need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grammar_lens.corpus.alignment import token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, default_budget, prepare, relabelled, warned
from grammar_lens.defaults import SEED
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.model.about import Model
from grammar_lens.passes.batches import Keeper
from grammar_lens.passes.checkpoints import pass_identity
from grammar_lens.passes.distributed import Shard
from grammar_lens.passes.moments import Moments
from grammar_lens.passes.stream import stream
from grammar_lens.progress import track
from grammar_lens.selectivity.collect_plan import CollectPlan, CollectSpec, SiteReaders
from grammar_lens.selectivity.evidence import Evidence


@dataclass(frozen=True)
class Collected(Shown):
    """Results of one pass, by position and site.

    `collected["neuron"]` are the moments where words were read at one position,
    `collected.at("word")["neuron"]` where they were read at several. `evidence` has the rest.
    """

    by_position: dict[str, dict[str, Evidence]]
    n_tokens: int

    def at(self, position: str) -> dict[str, Moments]:
        """Moments by site at one position."""
        return {site: e.moments for site, e in self._sites(position).items()}

    def evidence(self, site: str = "neuron", position: str | None = None) -> Evidence:
        """Everything that was collected at one site and position."""
        sites = self._sites(position or self._only())
        if site not in sites:
            raise GrammarLensError(f"site {site!r} was not collected: there is {', '.join(sites)}")
        return sites[site]

    def to_frame(self) -> pd.DataFrame:
        """The rows of `Moments.to_frame` of every position and site, which are the first columns."""
        return pd.concat(
            [
                evidence.moments.to_frame().assign(position=position, site=site)
                for position, sites in self.by_position.items()
                for site, evidence in sites.items()
            ],
            ignore_index=True,
        ).pipe(lambda table: table[["position", "site", *table.columns.drop(["position", "site"])]])

    def __getitem__(self, site: str) -> Moments:
        return self.evidence(site).moments

    def _ipython_key_completions_(self) -> list[str]:
        if len(self.by_position) != 1:
            return []  # a site alone would not say where
        return list(self._sites(self._only()))

    def _sites(self, position: str) -> dict[str, Evidence]:
        if position not in self.by_position:
            raise GrammarLensError(
                f"nothing was read at {position!r}: there is {', '.join(self.by_position)}"
            )
        return self.by_position[position]

    def _only(self) -> str:
        if len(self.by_position) != 1:
            raise GrammarLensError(
                f"words were read at {' and '.join(self.by_position)}: say which, with .at(position)"
            )
        return next(iter(self.by_position))

    def __repr__(self) -> str:
        sites = (e for by_site in self.by_position.values() for e in by_site.values())
        return "\n".join(repr(e.moments) for e in sites)

    def _title(self) -> str:
        return f"{self.n_tokens:,} tokens were read once"

    def _tables(self) -> list[pd.DataFrame]:
        evidence = [e for by_site in self.by_position.values() for e in by_site.values()]
        return [pd.DataFrame({"": [repr(e) for e in evidence]})]


def collect(
    model: Model,
    bank: Treebank | Corpus,
    *,
    sites: Sequence[str] = ("neuron",),
    position: str | Sequence[str] = "next",
    label: str = "upos",
    labels: Sequence[str] | None = None,
    replicates: int = 0,
    nulls: Sequence[str] | None = None,
    sample: int = 0,
    controls: bool = False,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    keeper: Keeper | None = None,
) -> Collected:
    """Moments of every unit at every layer for every label, from one forward pass over the words.

    `position` is "word" (at the word's last token), "next" (at the token before its first), or both.
    The first word of a sentence is not read at "next": only BOS stands before it. In the same pass:
    `replicates` of exchanged labels (0, or 20 and more), for the `nulls` of these scores, by default all that
    class means decide; a `sample` of so many words of
    each label with all their activations, for `auroc` and `probe_weight`; with `controls` the
    contrasts within word forms and at equal frequency. `seed` draws halves, replicates and sample.
    With a `keeper` (`gl.checkpoints.Checkpoints(path)`) the pass can be stopped and resumed.
    In a process group of torch.distributed every process reads its share and gets the whole.
    Raises GrammarLensError when a label keeps fewer than 2 readable words.
    """
    corpus = prepare(model, bank, label=label, labels=labels)
    wanted = CollectSpec(
        tuple(sites), _positions(position), replicates, sample, controls, seed, nulls=nulls
    )
    collection = Collection(model, [corpus], wanted, token_budget)
    collection.read(show_progress, keeper)
    return collection.results()[0]


def collect_labels(
    model: Model,
    bank: Treebank | Corpus,
    labels: Sequence[str],
    *,
    min_words: int | None = None,
    sites: Sequence[str] = ("neuron",),
    position: str | Sequence[str] = "next",
    replicates: int = 0,
    nulls: Sequence[str] | None = None,
    sample: int = 0,
    controls: bool = False,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> dict[str, Collected]:
    """Results of `collect` for several labels (`("upos", "deprel", "feats:Number")`) in one pass.

    Values with fewer than `min_words` words are left out.
    """
    if not labels:
        raise GrammarLensError(
            "no label was named: expected one or more of upos, xpos, deprel, feats:NAME"
        )
    first = prepare(model, bank, label=labels[0], min_words=min_words)
    corpora = [first if x == first.label else relabelled(first, x, min_words) for x in labels]
    wanted = CollectSpec(
        tuple(sites), _positions(position), replicates, sample, controls, seed, nulls=nulls
    )
    collection = Collection(model, corpora, wanted, token_budget)
    collection.read(show_progress)
    return dict(zip(labels, collection.results(), strict=True))


def _positions(position: str | Sequence[str]) -> tuple[str, ...]:
    return (position,) if isinstance(position, str) else tuple(position)


class Collection:
    """One pass for all corpora, which are the same words under different labels.

    It can be read whole, or a shard of it, and then be given what several shards have found.
    """

    def __init__(
        self,
        model: Model,
        corpora: Sequence[Corpus],
        wanted: CollectSpec,
        token_budget: int | None,
    ) -> None:
        self._model, self._corpora, self._wanted = model, corpora, wanted
        plans = [[CollectPlan(c, where, wanted) for where in wanted.positions] for c in corpora]
        self._readings = [
            [[SiteReaders(model, plan, site) for site in wanted.sites] for plan in of_corpus]
            for of_corpus in plans
        ]
        every = [r for of_corpus in self._readings for sites in of_corpus for r in sites]
        self.taps = [tap for reading in every for tap in reading.taps]
        self.alignment = corpora[0].alignment
        self._budget = token_budget or default_budget(model)
        rows = np.unique(self.alignment.row[np.any([tap.wanted for tap in self.taps], axis=0)])
        self.batches = token_batches(self.alignment, self._budget, rows=rows)
        self.n_tokens = sum(batch.n_tokens for batch in self.batches)

    def read(
        self,
        show_progress: bool,
        keeper: Keeper | None = None,
        shard: Shard | None = None,
        also: Mapping[str, object] | None = None,
    ) -> None:
        """Reads all batches, or those of a shard; `also` is kept beside what the pass is of."""
        each = self.alignment.words_per_token
        with track(
            "collecting", self.n_tokens, unit="words", each=each, show=show_progress
        ) as step:
            stream(
                self._model,
                self.alignment,
                self.batches,
                self.taps,
                progress=step,
                warn=warned,
                keeper=keeper,
                about=None if keeper is None else {**self.about(shard), **(also or {})},
                shard=shard,
            )

    def about(self, shard: Shard | None = None) -> dict[str, object]:
        """Identity of this pass: all that its numbers depend on, and this process's share of it."""
        w, first = self._wanted, self._corpora[0]
        settings = {name: getattr(w, name) for name in ("replicates", "sample", "controls", "seed")}
        return {
            **pass_identity("collect", self._model, first, self._budget, self.batches, shard),
            "sites": list(w.sites),
            "positions": list(w.positions),
            "labels": {c.label: list(c.labels) for c in self._corpora},
            **settings,
        }

    def results(self) -> list[Collected]:
        """Results of the pass for every corpus."""
        return [
            Collected(
                by_position={
                    where: {s: r.evidence() for s, r in zip(self._wanted.sites, sites, strict=True)}
                    for where, sites in zip(self._wanted.positions, of_corpus, strict=True)
                },
                n_tokens=self.n_tokens,
            )
            for of_corpus in self._readings
        ]
