"""Attributions over a corpus: the effect of each neuron on the losses of each label's words."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.corpus.alignment import token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, default_budget, fit_lexicon, prepare, sampled, warned
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import SEED
from grammar_lens.errors import GrammarLensError, require_one_of
from grammar_lens.model.about import Model, device_of, fingerprint
from grammar_lens.model.relevance_pass import require_relevance
from grammar_lens.passes.batches import Keeper
from grammar_lens.passes.checkpoints import pass_identity
from grammar_lens.passes.moments import Moments
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.progress import Advance, track
from grammar_lens.selectivity.attribution.first_order import attribute_all, attribute_own
from grammar_lens.selectivity.attribution.integrated import integrated_gradients
from grammar_lens.selectivity.attribution.top_share import TopShareReader
from grammar_lens.selectivity.collect_plan import CollectPlan, CollectSpec, SiteReaders
from grammar_lens.selectivity.evidence import Attribution, Evidence
from grammar_lens.selectivity.permutation_null import Null
from grammar_lens.selectivity.registry import SCORES

KINDS = ("own", "all", "integrated_gradients")
REFERENCES = ("mean", "zero")
TOP_BY = ("value", "size")


def attribute(
    model: Model,
    bank: Treebank | Corpus,
    *,
    kind: str = "own",
    relevance: bool = False,
    reference: str = "mean",
    moments: Moments | None = None,
    lexicon: Lexicon | None = None,
    label: str = "upos",
    labels: Sequence[str] | None = None,
    replicates: int = 0,
    steps: int = 20,
    target: str = "probability",
    joint: bool = False,
    top_share: float = 0.05,
    top_by: str = "value",
    top_per_layer: bool = False,
    max_words: int | None = None,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    keeper: Keeper | None = None,
) -> Attribution:
    """Effect of every neuron on the prediction of each label's words, at the token before the word.

    `kind` "own" is the first-order effect of a lesion on the word predicted at the same position,
    from one backward pass for all labels; "all" counts later words as well, from one backward pass
    per label; both are the expected rise of the tag loss in nats when a neuron is set to its
    `reference`, its mean over these words (from `moments` at "next", or collected first) or zero.
    With `relevance` both take relevance propagation for the gradient, at the same cost: norm scales,
    attention patterns and act(x)/x are held constant, and of gate * up each factor gets half (RelP,
    arXiv 2508.21258; models with RMSNorm and a gated MLP).
    "integrated_gradients" is the neuron's share of the gold token's probability (`target`
    "probability") or its logarithm, by `steps` midpoints from 0 to its value, with the share of words at
    which it is among the `top_share` largest attributions of all neurons, or of its layer's
    (`top_per_layer`), by "value" or by "size" (`top_by`).
    `lexicon` is by default that of the same words. `replicates` of exchanged labels give a null ("own"
    only). At most `max_words` words, whole sentences drawn with `seed`. A `keeper` is that of `collect` ("own" only).
    Raises GrammarLensError for an unknown kind, reference or `top_by`, for replicates or relevance that a kind
    cannot have, and for relevance of a model that it has no rules for.
    """
    require_one_of("kind", kind, KINDS)
    require_one_of("reference", reference, REFERENCES)
    require_one_of("top_by", top_by, TOP_BY)
    if replicates and kind != "own":
        raise GrammarLensError(
            f"replicates of exchanged labels need contributions word by word, which {kind!r} "
            "does not give: use kind 'own', or replicates=0"
        )
    if relevance:
        if kind == "integrated_gradients":
            raise GrammarLensError(
                "relevance takes the place of a gradient at the activations themselves, and "
                "'integrated_gradients' has none there: use kind 'own' or 'all'"
            )
        require_relevance(model)
    corpus = prepare(model, bank, label=label, labels=labels)
    tables = fit_lexicon(model, corpus) if lexicon is None else lexicon
    if max_words is not None:
        corpus = drawn_words(corpus, max_words, seed)
    budget = token_budget or default_budget(model)
    job = _Job(model, corpus, budget, show_progress, relevance)
    if kind == "integrated_gradients":
        ranked = {
            "share": top_share,
            "absolute": top_by == "size",
            "per_layer": top_per_layer,
        }
        return job.integrated(seed, steps, target, joint, ranked)
    values = None
    if reference == "mean":
        values = (moments or job.moments(seed)).pooled()[0]
    if kind == "own":
        return job.own(reference, values, tables, replicates, seed, keeper)
    return job.all(reference, values, tables, seed)


def drawn_words(corpus: Corpus, max_words: int, seed: int) -> Corpus:
    """The corpus with at most so many words at `next`, in whole sentences; no others have a class."""
    rng, setting = np.random.default_rng([seed, 3]), "max_words (--attribution-words)"
    few = sampled(corpus, corpus.read("next"), max_words, rng, setting=setting)
    return replace(corpus, classes=np.where(few >= 0, corpus.classes, -1))


class _Job:
    """The words, and how they are passed through the model."""

    def __init__(
        self, model: Model, corpus: Corpus, budget: int, show_progress: bool, relevance: bool
    ) -> None:
        self.model, self.corpus = model, corpus
        self.budget, self.show_progress = budget, show_progress
        self.relevance = relevance

    def _track(self, what: str, n_tokens: int) -> AbstractContextManager[Advance]:
        each = self.corpus.alignment.words_per_token
        return track(what, n_tokens, unit="words", each=each, show=self.show_progress)

    def _plan(self, seed: int, replicates: int = 0) -> CollectPlan:
        wanted = CollectSpec(("neuron",), ("next",), replicates, 0, False, seed, min_words=0)
        return CollectPlan(self.corpus, "next", wanted)

    def moments(self, seed: int) -> Moments:
        """Moments of the words; unlike in `collect`, a label may have a single word or none."""
        reading = SiteReaders(self.model, self._plan(seed), "neuron")
        batches = self._batches(np.unique(self.corpus.alignment.row[reading.plan.codes >= 0]))
        with self._track("collecting", sum(b.n_tokens for b in batches)) as step:
            stream(
                self.model, self.corpus.alignment, batches, reading.taps, progress=step, warn=warned
            )
        return reading.halves[0] + reading.halves[1]

    def own(
        self,
        reference: str,
        values: Float[np.ndarray, "layer unit"] | None,
        tables: Lexicon,
        replicates: int,
        seed: int,
        keeper: Keeper | None,
    ) -> Attribution:
        plan = self._plan(seed, replicates)
        reading = SiteReaders(self.model, plan, "neuron")
        classes = _in_lexicon(self.corpus, plan.codes, tables)
        batches = self._batches(np.unique(self.corpus.alignment.row[plan.codes >= 0]))
        with self._track("attributing", sum(b.n_tokens for b in batches)) as step:
            attribute_own(
                self.model,
                self.corpus.alignment,
                batches,
                classes,
                tables,
                values,
                _bare(reading.taps),
                progress=step,
                warn=warned,
                keeper=keeper,
                about=None
                if keeper is None
                else self._about(values, tables, replicates, seed, batches),
                relevance=self.relevance,
            )
        first, second = (self._own(reference, moments) for moments in reading.halves)
        whole = self._own(reference, reading.halves[0] + reading.halves[1])
        found = reading.replicates()
        nulls = {} if found is None else _nulls(found, whole)
        return replace(whole, halves=(first, second), nulls=nulls)

    def _own(self, reference: str, moments: Moments) -> Attribution:
        return replace(_of_moments("own", reference, moments), relevance=self.relevance)

    def _about(
        self,
        reference: Float[np.ndarray, "layer unit"] | None,
        tables: Lexicon,
        replicates: int,
        seed: int,
        batches: list,
    ) -> dict[str, object]:
        digest = hashlib.sha256(tables.probability.tobytes())
        digest.update(b"zero" if reference is None else reference.tobytes())
        return {
            **pass_identity("attribution", self.model, self.corpus, self.budget, batches),
            "labels": list(self.corpus.labels),
            "replicates": replicates,
            "seed": seed,
            "relevance": self.relevance,
            "reference_and_lexicon": digest.hexdigest()[:16],
        }

    def all(
        self,
        reference: str,
        values: Float[np.ndarray, "layer unit"] | None,
        tables: Lexicon,
        seed: int,
    ) -> Attribution:
        plan = self._plan(seed)
        classes = _in_lexicon(self.corpus, plan.codes, tables)
        row = self.corpus.alignment.row
        sums, counts = [], []
        for half in (0, 1):
            of_half = np.where(plan.part == half, classes, -1)
            batches = self._batches(np.unique(row[of_half >= 0]))
            n_tokens = sum(b.n_tokens for b in batches)
            with self._track("attributing", n_tokens) as step:
                total, count = attribute_all(
                    self.model,
                    self.corpus.alignment,
                    batches,
                    of_half,
                    len(tables.labels),
                    tables,
                    values,
                    progress=step,
                    warn=warned,
                    relevance=self.relevance,
                )
            rows = [tables.labels.index(x) for x in self.corpus.labels]
            sums.append(total[rows])
            counts.append(count[rows])
        halves = [self._mean(reference, s, n) for s, n in zip(sums, counts, strict=True)]
        whole = self._mean(reference, sums[0] + sums[1], counts[0] + counts[1])
        return replace(whole, halves=(halves[0], halves[1]))

    def _mean(
        self,
        reference: str,
        total: Float[np.ndarray, "label layer unit"],
        count: Float[np.ndarray, " label"],
    ) -> Attribution:
        mean = total / np.maximum(count, 1)[:, None, None]
        origin = self.corpus.origin("next", "neuron", fingerprint(self.model))
        labels = self.corpus.labels
        return Attribution("all", reference, labels, count, mean, origin, relevance=self.relevance)

    def integrated(
        self, seed: int, steps: int, target: str, joint: bool, ranked: Mapping[str, Any]
    ) -> Attribution:
        """Integrated gradients; `ranked` are the options of the `TopShareReader`."""
        plan = self._plan(seed)
        reading = SiteReaders(self.model, plan, "neuron")
        n = len(self.corpus.labels)
        shape = (self.model.cfg.n_layers, self.model.cfg.d_mlp)
        top_shares = TopShareReader(2 * n, *shape, device=device_of(self.model), **ranked)
        top_share = ranked["share"]
        codes = np.where(plan.codes >= 0, plan.codes + n * plan.part, -1)
        rows = np.unique(self.corpus.alignment.row[plan.codes >= 0])
        n_tokens = sum(b.n_tokens for b in self._batches(rows))
        with self._track("integrating", n_tokens) as step:
            completeness = integrated_gradients(
                self.model,
                self.corpus.alignment,
                plan.codes,
                [*_bare(reading.taps), (codes, top_shares)],
                steps=steps,
                target=target,
                joint=joint,
                token_budget=self.budget,
                rows=rows,
                progress=step,
                warn=warned,
            )
        times = top_shares.frequency()
        halves = [
            _of_moments("integrated_gradients", "zero", m, times[i * n : (i + 1) * n], top_share)
            for i, m in enumerate(reading.halves)
        ]
        both = reading.halves[0] + reading.halves[1]
        whole = _of_moments("integrated_gradients", "zero", both, times[:n] + times[n:], top_share)
        return replace(
            whole, halves=(halves[0], halves[1]), completeness=float(completeness.overall)
        )

    def _batches(self, rows: Int[np.ndarray, " chosen"]) -> list:
        return token_batches(self.corpus.alignment, self.budget, rows=rows)


def _bare(taps: Sequence[Tap]) -> list:
    """Codes and readers alone: attributions are made of words at `next` and of neurons only."""
    return [(tap.codes, tap.reader) for tap in taps]


def _in_lexicon(
    corpus: Corpus, codes: Int[np.ndarray, " word"], tables: Lexicon
) -> Int[np.ndarray, " word"]:
    """Classes of the words in the lexicon's numbering."""
    unknown = [x for x in corpus.labels if x not in tables.labels]
    if unknown:
        raise GrammarLensError(
            f"the lexicon does not know {', '.join(unknown)}: make it from words that have them "
            "(gl.fit_lexicon), or leave them out (--labels)"
        )
    number = np.array([tables.labels.index(x) for x in corpus.labels])
    return np.where(codes >= 0, number[codes], -1)


def _of_moments(
    kind: str,
    reference: str,
    moments: Moments,
    times: Float[np.ndarray, "label layer unit"] | None = None,
    top_share: float | None = None,
) -> Attribution:
    """Mean attribution of every label from the moments of its words' contributions."""
    count = np.maximum(moments.count, 1)[:, None, None]
    return Attribution(
        kind=kind,
        reference=reference,
        labels=moments.labels,
        count=moments.count,
        mean=moments.mean,
        origin=moments.origin,
        frequency=None if times is None else times / count,
        top_share=top_share,
    )


def _nulls(replicates: object, whole: Attribution) -> dict[str, Null]:
    """Nulls of the scores that are made of mean contributions."""
    needs = "relevance" if whole.relevance else "attribution"

    def scorer(name: str):
        compute = SCORES[name].compute

        def values(m: Moments) -> Float[np.ndarray, "label layer unit"]:
            now = replace(whole, mean=m.mean, count=m.count)
            return compute(replace(Evidence(m), **{needs: now}))[0]

        return values

    return {
        name: replicates.null(name, scorer(name), two_sided=method.best == "far")  # pyright: ignore
        for name, method in SCORES.items()
        if method.needs == needs
    }
