"""Tag distribution of generated text, with and without a lesion."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.generation.tagging import TaggedWord
from grammar_lens.generation.writing import Written

N_DRAWS = 1000


def count_tags(
    written: Sequence[Written], tagged: Sequence[Sequence[TaggedWord]], tags: Sequence[str]
) -> tuple[Int[np.ndarray, "sample tag"], int]:
    """Words of each tag in every continuation, and how many words could not be read.

    Words that begin in the prompt are not counted, nor a last word that may be unfinished.
    """
    counts = np.zeros((len(written), len(tags)), np.int64)
    unread = 0
    for row, (text, words) in enumerate(zip(written, tagged, strict=True)):
        for word in words:
            unfinished = not text.ended and word.end == len(text.text)
            if word.start < text.begin or unfinished:
                continue
            if word.tag is None:
                unread += 1
            else:
                counts[row, tags.index(word.tag)] += 1
    return counts, unread


def tag_shares(
    intact: Int[np.ndarray, "sample tag"],
    lesioned: Int[np.ndarray, "sample tag"],
    tags: Sequence[str],
    prompt: Int[np.ndarray, " sample"],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """A row per tag: share of all words intact and lesioned, difference, and its 95 % interval.

    low and high are the percentile bootstrap's over samples (Efron & Tibshirani 1993, ch. 13), drawn
    within each prompt, the intact and the lesioned sample of the same random numbers together. They
    are NaN where a prompt has a single sample, and each is of its tag alone. Shares of no words are NaN.
    """
    table = pd.DataFrame(
        {
            "tag": list(tags),
            "n_intact": intact.sum(0),
            "n_lesioned": lesioned.sum(0),
            "intact": _share(intact.sum(0)),
            "lesioned": _share(lesioned.sum(0)),
        }
    )
    table["difference"] = table.lesioned - table.intact
    table["low"], table["high"] = _interval(intact, lesioned, prompt, rng)
    return table.sort_values("n_intact", ascending=False, kind="stable", ignore_index=True)


def _interval(
    intact: Int[np.ndarray, "sample tag"],
    lesioned: Int[np.ndarray, "sample tag"],
    prompt: Int[np.ndarray, " sample"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " tag"], Float[np.ndarray, " tag"]]:
    groups = [np.flatnonzero(prompt == p) for p in np.unique(prompt)]
    none = np.full(intact.shape[1], np.nan)
    if min(map(len, groups)) < 2 or not intact.any() or not lesioned.any():
        return none, none
    # how often each sample is drawn, [draw, sample]
    times = np.zeros((N_DRAWS, len(prompt)), np.int64)
    for group in groups:
        times[:, group] = rng.multinomial(len(group), [1 / len(group)] * len(group), N_DRAWS)
    differences = _share(times @ lesioned) - _share(times @ intact)
    # draws of continuations without a single word have no shares
    low, high = np.nanquantile(differences, [0.025, 0.975], axis=0)
    return low, high


def _share(counts: Int[np.ndarray, "... tag"]) -> Float[np.ndarray, "... tag"]:
    total = counts.sum(-1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)
