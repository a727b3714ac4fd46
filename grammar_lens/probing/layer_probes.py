"""Probes on the residual stream of every layer, by passes of their own."""

from collections.abc import Sequence
from typing import Any

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus, fit_lexicon, fresh_corpus, prepare
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import LAYER_WORDS, POSITIONS, SEED
from grammar_lens.model.about import Model
from grammar_lens.model.untrained import require_twin, twin_in_place
from grammar_lens.passes.shared import Reading, Request, read_one
from grammar_lens.passes.stream import Tap
from grammar_lens.probing.layer_probing import LayerProbing
from grammar_lens.probing.layer_results import LayerProbe, LayerProbes


def layer_probes(
    model: Model,
    train: Treebank | Corpus,
    fresh: Treebank | Corpus,
    *,
    label: str = "upos",
    labels: Sequence[str] | None = None,
    position: str | Sequence[str] = POSITIONS,
    max_words: int = LAYER_WORDS,
    lexicon: Lexicon | None = None,
    untrained: bool = True,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> LayerProbes:
    """Accuracy of a linear probe on the residual stream of every layer, for held-out words.

    The probe is a linear discriminant with shrunk covariance (`probing.discriminant`), fitted on
    `max_words` training words and judged on as many of `fresh`, of whole sentences that `seed` draws.
    At `next` the model's own P(label | context) is found by the `lexicon`, by default that of all
    training words. With `untrained` the same is done for a twin with random weights: what it reaches
    takes no training. Four passes in all, without the twin two.
    Raises GrammarLensError where no twin can be made (see `untrained_twin`), where no word can be
    read, and for training words of one label.
    """
    if untrained:
        require_twin(model)
    corpus = prepare(model, train, label=label, labels=labels)
    new, _ = fresh_corpus(model, fresh, corpus)
    positions = (position,) if isinstance(position, str) else tuple(position)
    if "next" in positions and lexicon is None:
        lexicon = fit_lexicon(model, corpus)

    shared: dict[str, Any] = {"max_words": max_words, "seed": seed}
    passes: dict[str, Any] = {"token_budget": token_budget, "show_progress": show_progress}
    reading = layer_reading(model, corpus, new, positions, lexicon=lexicon, **shared)
    trained = read_one(model, reading, "layers", **passes)
    if not untrained:
        return LayerProbes(trained, {})
    return LayerProbes(trained, untrained_probes(model, corpus, new, positions, **shared, **passes))


def layer_reading(
    model: Model,
    train: Corpus,
    fresh: Corpus,
    positions: Sequence[str],
    *,
    max_words: int = LAYER_WORDS,
    lexicon: Lexicon | None = None,
    seed: int = SEED,
) -> Reading[dict[str, LayerProbe]]:
    """The model's part of `layer_probes`, by position, in passes that others share.

    Without a `lexicon` the model's own prediction is not looked at.
    """
    probing = LayerProbing(
        model, train, fresh, positions, max_words=max_words, lexicon=lexicon, seed=seed
    )

    def fresh_taps() -> list[Tap]:
        probing.fit()
        return probing.fresh_taps

    requests = [Request(train, lambda: probing.train_taps), Request(fresh, fresh_taps)]
    return Reading(requests, probing.result)


def untrained_probes(
    model: Model,
    train: Corpus,
    fresh: Corpus,
    positions: Sequence[str],
    *,
    max_words: int = LAYER_WORDS,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> dict[str, LayerProbe]:
    """The same probes on the model's untrained twin, which is read twice, by position."""
    with twin_in_place(model, seed) as twin:
        reading = layer_reading(twin, train, fresh, positions, max_words=max_words, seed=seed)
        return read_one(
            twin, reading, "untrained", token_budget=token_budget, show_progress=show_progress
        )
