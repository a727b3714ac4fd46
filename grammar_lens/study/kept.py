"""What a pass over a corpus is of: what a checkpoint must agree with to be gone on with."""

import hashlib
from collections.abc import Sequence

from grammar_lens import distributed
from grammar_lens.alignment import TokenBatch
from grammar_lens.distributed import Shard
from grammar_lens.model import Model, fingerprint
from grammar_lens.study.corpus import Corpus


def about_pass(
    what: str,
    model: Model,
    corpus: Corpus,
    token_budget: int,
    batches: Sequence[TokenBatch],
    shard: Shard | None = None,
) -> dict[str, object]:
    """Model, words, tokens and share of a pass, by name and by fingerprint."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(f"{tuple(batch.token_ids.shape)}".encode())
        digest.update(batch.token_ids.numpy().tobytes())
    return {
        "pass": what,
        "model": corpus.model,
        "weights": fingerprint(model)[:16],
        "treebank": corpus.bank.name,
        "words": corpus.bank.fingerprint()[:16],
        "label": corpus.label,
        "context": corpus.context,
        "window": corpus.window,
        "token_budget": token_budget,
        "tokens": digest.hexdigest()[:16],
        "share": str(shard or distributed.world()),
    }
