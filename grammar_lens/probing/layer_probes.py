"""Probes on the residual stream of every layer, by passes of their own."""

from collections.abc import Sequence

import numpy as np

from grammar_lens.corpus.alignment import token_batches
from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import (
    Corpus,
    default_budget,
    fit_lexicon,
    fresh_corpus,
    prepare,
    warned,
)
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import LAYER_WORDS, POSITIONS, SEED
from grammar_lens.model.about import Model
from grammar_lens.model.untrained import require_twin, untrained_twin
from grammar_lens.passes.stream import Tap, stream
from grammar_lens.probing.layer_probing import LayerProbing
from grammar_lens.probing.layer_results import LayerProbe, LayerProbes
from grammar_lens.progress import track


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

    def read(which: Model, own: Lexicon | None) -> dict[str, LayerProbe]:
        probing = LayerProbing(
            which, corpus, new, positions, max_words=max_words, lexicon=own, seed=seed
        )
        _stream(which, corpus, probing.train_taps, token_budget, show_progress)
        probing.fit()
        _stream(which, new, probing.fresh_taps, token_budget, show_progress)
        return probing.result()

    trained = read(model, lexicon)
    return LayerProbes(trained, read(untrained_twin(model, seed), None) if untrained else {})


def _stream(
    model: Model, corpus: Corpus, taps: Sequence[Tap], token_budget: int | None, show: bool
) -> None:
    """Reads the sentences that the taps want."""
    alignment = corpus.alignment
    rows = np.unique(alignment.row[np.any([tap.wanted for tap in taps], axis=0)])
    batches = token_batches(alignment, token_budget or default_budget(model), rows=rows)
    n_tokens = sum(batch.n_tokens for batch in batches)
    each = alignment.words_per_token
    with track("layers", n_tokens, unit="words", each=each, show=show) as step:
        stream(model, alignment, batches, taps, progress=step, warn=warned)
