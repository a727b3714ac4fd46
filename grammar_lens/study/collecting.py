"""One forward pass over the words: moments, and what rides along for nulls, controls and samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grammar_lens.activations import stream
from grammar_lens.alignment import token_batches
from grammar_lens.evidence import Evidence
from grammar_lens.model import Model
from grammar_lens.moments import Moments
from grammar_lens.progress import track
from grammar_lens.study.corpus import (
    Corpus,
    CorpusError,
    default_budget,
    prepare,
    relabelled,
    warned,
)
from grammar_lens.study.reading import Plan, Reading, Wanted
from grammar_lens.treebank import Treebank


@dataclass(frozen=True)
class Collected:
    """What one pass found, by position and site.

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
            raise CorpusError(f"site {site!r} was not collected: there is {', '.join(sites)}")
        return sites[site]

    def __getitem__(self, site: str) -> Moments:
        return self.evidence(site).moments

    def _sites(self, position: str) -> dict[str, Evidence]:
        if position not in self.by_position:
            raise CorpusError(
                f"nothing was read at {position!r}: there is {', '.join(self.by_position)}"
            )
        return self.by_position[position]

    def _only(self) -> str:
        if len(self.by_position) != 1:
            raise CorpusError(
                f"words were read at {' and '.join(self.by_position)}: say which, with .at(position)"
            )
        return next(iter(self.by_position))

    def __repr__(self) -> str:
        sites = (e for there in self.by_position.values() for e in there.values())
        return "\n".join(repr(e.moments) for e in sites)


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
    seed: int = 0,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> Collected:
    """Moments of every unit at every layer for every label, from one forward pass over the words.

    `position` is "word" (at the word's last token), "next" (at the token before its first), or both.
    The first word of a sentence is not read at "next": only BOS stands before it. In the same pass:
    `replicates` of exchanged labels (0, or 20 and more), for the `nulls` of these scores, by default all that
    class means decide; a `sample` of so many words of
    each label with all their activations, for `auroc` and `probe_weight`; with `controls` the
    contrasts within word forms and at equal frequency. `seed` draws halves, replicates and sample.
    Raises CorpusError when a label keeps fewer than 2 readable words.
    """
    corpus = prepare(model, bank, label=label, labels=labels)
    wanted = Wanted(
        tuple(sites), _positions(position), replicates, sample, controls, seed, nulls=nulls
    )
    return _read(model, [corpus], wanted, token_budget, show_progress)[0]


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
    seed: int = 0,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> dict[str, Collected]:
    """What `collect` gives, for several labels (`("upos", "deprel", "feats:Number")`) from one pass.

    Values with fewer than `min_words` words are left out.
    """
    if not labels:
        raise CorpusError(
            "no label was named: expected one or more of upos, xpos, deprel, feats:NAME"
        )
    first = prepare(model, bank, label=labels[0], min_words=min_words)
    corpora = [first if x == first.label else relabelled(first, x, min_words) for x in labels]
    wanted = Wanted(
        tuple(sites), _positions(position), replicates, sample, controls, seed, nulls=nulls
    )
    found = _read(model, corpora, wanted, token_budget, show_progress)
    return dict(zip(labels, found, strict=True))


def _positions(position: str | Sequence[str]) -> tuple[str, ...]:
    return (position,) if isinstance(position, str) else tuple(position)


def _read(
    model: Model,
    corpora: Sequence[Corpus],
    wanted: Wanted,
    token_budget: int | None,
    show_progress: bool,
) -> list[Collected]:
    """One pass for all corpora, which are the same words under different labels."""
    plans = [[Plan(c, where, wanted) for where in wanted.positions] for c in corpora]
    readings = [[[Reading(model, plan, s) for s in wanted.sites] for plan in p] for p in plans]
    taps = [tap for p in readings for sites in p for reading in sites for tap in reading.taps]
    alignment = corpora[0].alignment
    read = np.any([tap.wanted for tap in taps], axis=0)
    batches = token_batches(
        alignment,
        token_budget or default_budget(model),
        sentences=np.unique(alignment.sentence[read]),
    )
    n_tokens = sum(batch.n_tokens for batch in batches)
    with track("collecting", n_tokens, unit="tokens", show=show_progress) as step:
        stream(model, alignment, batches, taps, progress=step, warn=warned)
    return [
        Collected(
            by_position={
                where: {s: r.evidence() for s, r in zip(wanted.sites, sites, strict=True)}
                for where, sites in zip(wanted.positions, of_corpus, strict=True)
            },
            n_tokens=n_tokens,
        )
        for of_corpus in readings
    ]
