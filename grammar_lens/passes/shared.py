"""Shared passes: what several parts of a study read of the same corpus is read at once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from grammar_lens.corpus.alignment import token_batches
from grammar_lens.corpus.corpus import Corpus, default_budget, warned
from grammar_lens.model.about import Model
from grammar_lens.passes.batches import Keeper
from grammar_lens.passes.checkpoints import pass_identity
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


def read_together(
    model: Model,
    readings: Sequence[Reading[object]],
    what: str,
    *,
    token_budget: int | None = None,
    show_progress: bool = True,
    keepers: Keepers | None = None,
    about: Mapping[str, object] | None = None,
) -> None:
    """Makes one pass over every corpus that the readings name, each in the order of every reading.

    Sentences without a word that anybody wants are not read. `what` names the work while it lasts.
    With `keepers` a pass that was stopped can be resumed, if it is still of what `about` and the taps
    say.
    """
    budget = token_budget or default_budget(model)
    corpora: list[tuple[Corpus, list[Request]]] = []
    for request in (request for reading in readings for request in reading.requests):
        for corpus, requests in corpora:
            if corpus.alignment is request.corpus.alignment:
                requests.append(request)
                break
        else:
            corpora.append((request.corpus, [request]))
    # a corpus that some reading names second may need a pass before it
    corpora.sort(key=lambda found: max(_place(readings, request) for request in found[1]))
    for number, (corpus, requests) in enumerate(corpora):
        taps = [tap for request in requests for tap in request.taps()]
        keeper = None if keepers is None else keepers(number)
        _read(model, corpus, taps, what, budget, show_progress, keeper, about or {})


def _place(readings: Sequence[Reading[object]], request: Request) -> int:
    """The number of corpora that a request's own reading names before it."""
    for reading in readings:
        for i, own in enumerate(reading.requests):
            if own is request:
                before = {id(r.corpus.alignment) for r in reading.requests[:i]}
                return len(before - {id(request.corpus.alignment)})
    raise AssertionError("a request is of some reading")


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
    about: Mapping[str, object],
) -> None:
    alignment = corpus.alignment
    rows = [(tap.alignment or alignment).row[tap.wanted] for tap in taps]
    needed = np.unique(np.concatenate([*rows, np.zeros(0, np.int64)]))
    if not len(needed):
        return
    batches = token_batches(alignment, budget, rows=needed)
    if keeper is not None:
        identity = pass_identity(what, model, corpus, budget, batches)
        about = {**identity, "taps": _digest(taps), **about}
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
