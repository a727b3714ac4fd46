"""Shared passes: what several parts of a study read of the same corpus is read at once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.corpus.alignment import token_batches
from grammar_lens.corpus.corpus import Corpus, default_budget, warned
from grammar_lens.model.about import Model
from grammar_lens.passes.batches import Keeper
from grammar_lens.passes.checkpoints import pass_identity
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.progress import track

Result_co = TypeVar("Result_co", covariant=True)
Keepers = Callable[[int], Keeper]
"""Number of a pass -> where it keeps what it has read."""


@dataclass(frozen=True)
class Request:
    """Taps on one corpus, made when its pass begins: they may depend on passes before it."""

    corpus: Corpus
    taps: Callable[[], Sequence[Tap]]


@dataclass(frozen=True)
class Reading(Generic[Result_co]):
    """One result: what has to be read for it, corpus by corpus in that order, and how it is finished."""

    requests: Sequence[Request]
    finish: Callable[[], Result_co]


def features(
    corpus: Corpus,
    words: Int[np.ndarray, " word"],
    addresses: Int[np.ndarray, "column two"],
    position: str,
    site: str = "neuron",
) -> Reading[Float[np.ndarray, "word column"]]:
    """Activations of the addresses at some words of a corpus, given by their numbers."""
    reader = FeatureReader(len(words), addresses)
    tap = Tap.of_rows(site, position, words, len(corpus.classes), reader, reader.layers)
    return Reading([Request(corpus, lambda: [tap])], lambda: reader.values)


@dataclass
class _CorpusPass:
    """The pass over one corpus; `place` is the largest number of passes that a reading needs before."""

    corpus: Corpus
    requests: list[Request] = field(default_factory=list)
    place: int = 0


def read_together(
    model: Model,
    readings: Sequence[Reading[object]],
    what: str,
    *,
    token_budget: int | None = None,
    show_progress: bool = True,
    keepers: Keepers | None = None,
) -> None:
    """Makes one pass over every corpus that the readings name, each in the order of every reading.

    Sentences without a word that anybody wants are not read. `what` names the work while it lasts.
    With `keepers` a pass that was stopped can be resumed, if it is still of what the taps say.
    """
    budget = token_budget or default_budget(model)
    passes: dict[int, _CorpusPass] = {}
    for reading in readings:
        before: dict[int, int] = {}
        for request in reading.requests:
            which = id(request.corpus.alignment)
            one = passes.setdefault(which, _CorpusPass(request.corpus))
            one.requests.append(request)
            one.place = max(one.place, before.setdefault(which, len(before)))
    for number, one in enumerate(sorted(passes.values(), key=lambda x: x.place)):
        taps = [tap for request in one.requests for tap in request.taps()]
        keeper = None if keepers is None else keepers(number)
        _read(model, one.corpus, taps, what, budget, show_progress, keeper)


def read_one(
    model: Model,
    reading: Reading[Result_co],
    what: str,
    *,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> Result_co:
    """The result of one reading, from passes of its own."""
    read_together(model, [reading], what, token_budget=token_budget, show_progress=show_progress)
    return reading.finish()


def _read(
    model: Model,
    corpus: Corpus,
    taps: Sequence[Tap],
    what: str,
    budget: int,
    show_progress: bool,
    keeper: Keeper | None,
) -> None:
    alignment = corpus.alignment
    rows = [(tap.alignment or alignment).row[tap.wanted] for tap in taps]
    needed = np.unique(np.concatenate([*rows, np.zeros(0, np.int64)]))
    if not len(needed):
        return
    batches = token_batches(alignment, budget, rows=needed)
    about = None
    if keeper is not None:
        about = {**pass_identity(what, model, corpus, budget, batches), "taps": _digest(taps)}
    n_tokens, each = sum(batch.n_tokens for batch in batches), alignment.words_per_token
    with track(what, n_tokens, unit="words", each=each, show=show_progress) as step:
        stream(
            model,
            alignment,
            batches,
            taps,
            progress=step,
            warn=warned,
            keeper=keeper,
            about=about,
        )


def _digest(taps: Sequence[Tap]) -> str:
    """A digest of what is read where, and by what kind of reader."""
    digest = hashlib.sha256()
    for tap in taps:
        layers = None if tap.layers is None else list(tap.layers)
        about = (tap.site, tap.position, tap.offset, layers, type(tap.reader).__name__)
        digest.update(repr(about).encode())
        digest.update(np.packbits(tap.wanted).tobytes())
        digest.update(np.ascontiguousarray(tap.codes).tobytes())
    return digest.hexdigest()[:16]
