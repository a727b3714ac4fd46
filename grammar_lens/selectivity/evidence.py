"""Evidence on the units at one site and position: moments, a sample, nulls, attributions.

Every score draws on one of these; which of them there are decides which scores can be computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grammar_lens.corpus.origin import Origin
from grammar_lens.display import Shown
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.contrasts import Adjusted
from grammar_lens.selectivity.permutation_null import Null


@dataclass(frozen=True)
class Sample(Shown):
    """Activations of every unit at some words, as many of each label as there are or were asked for.

    `word` numbers them in the corpus; `count` is how many words of each label the corpus has, so that
    a balanced sample can stand for an unbalanced corpus.
    """

    labels: tuple[str, ...]
    classes: Int[np.ndarray, " word"]
    word: Int[np.ndarray, " word"]
    values: Float[np.ndarray, "word layer unit"]
    count: Float[np.ndarray, " label"]
    origin: Origin

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"Sample of {len(self.classes):,} words of {o.treebank}, {len(self.labels)} values of "
            f"{o.label}, read at {o.position!r} in {o.model}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        drawn = np.bincount(self.classes, minlength=len(self.labels))
        words = self.count.astype(np.int64)
        return [pd.DataFrame({"label": self.labels, "drawn": drawn, "words": words})]


@dataclass(frozen=True)
class Attribution(Shown):
    """First-order effect of each unit on each label's words: `mean[label, layer, unit]`.

    For `kind` "own" and "all" it is the expected rise of the label's tag loss, in nats per word, when
    the unit is set to its `reference` ("zero" or "mean"): positive means that the label needs the
    unit; with `relevance` relevance propagation stands in for the gradient. For "integrated_gradients" it is the unit's share of the gold token's probability (or its
    logarithm). `frequency` is the share of the label's words at which the unit stood among the
    `top_share` largest of that word; None where it was not counted. `halves` are those of two halves of
    the sentences, `nulls` the scores' nulls by name. `completeness` is how far
    integrated gradients miss the difference of outputs that they should sum to, relative to it.
    """

    kind: str
    reference: str
    labels: tuple[str, ...]
    count: Float[np.ndarray, " label"]
    mean: Float[np.ndarray, "label layer unit"]
    origin: Origin
    frequency: Float[np.ndarray, "label layer unit"] | None = None
    top_share: float | None = None
    completeness: float | None = None
    relevance: bool = False
    halves: tuple["Attribution", "Attribution"] | None = None
    nulls: Mapping[str, Null] = field(default_factory=dict)

    def __repr__(self) -> str:
        o = self.origin
        return (
            f"Attribution ({self.kind}{', relevance' * self.relevance}, reference {self.reference}) of "
            f"{o.model} over "
            f"{int(self.count.sum()):,} words of {o.treebank}, {len(self.labels)} values of {o.label}"
        )

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """A row per label and unit, the largest size first: words, mean, and frequency if measured.

        `top` takes the first of each label.
        """
        n_units = self.mean.shape[2]
        frames = []
        for i, label in enumerate(self.labels):
            mean = self.mean[i].ravel()
            order = np.argsort(-np.abs(mean), kind="stable")[:top]
            columns = {"label": label, "layer": order // n_units, "index": order % n_units}
            columns |= {"words": int(self.count[i]), "mean": mean[order]}
            if self.frequency is not None:
                columns["frequency"] = self.frequency[i].ravel()[order]
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _tables(self) -> list[pd.DataFrame]:
        flat = self.mean.reshape(len(self.labels), -1)
        largest = flat.argmax(1)
        units = [f"{i // self.mean.shape[2]}.{i % self.mean.shape[2]}" for i in largest]
        table = {"label": self.labels, "words": self.count.astype(np.int64), "largest": units}
        table["mean"] = np.take_along_axis(flat, largest[:, None], 1)[:, 0]
        return [pd.DataFrame(table)]


@dataclass(frozen=True)
class Evidence(Shown):
    """Everything known of the units at one site and position, as far as it was collected.

    `halves` are the moments of two halves of the sentences, for reliability; `nulls` has a null by
    name of score. `output_contrast[label, layer, unit]` is what a unit's outgoing weight does to the
    logits of the label's words against the rest (see `model.output_contrast`).
    """

    moments: Moments
    halves: tuple[Moments, Moments] | None = None
    sample: Sample | None = None
    nulls: Mapping[str, Null] = field(default_factory=dict)
    adjusted: Adjusted | None = None
    attribution: Attribution | None = None
    integrated_gradients: Attribution | None = None
    output_contrast: Float[np.ndarray, "label layer unit"] | None = None
    relevance: Attribution | None = None

    def null(self, method: str) -> Null | None:
        """The null of a score; None where no replicates were collected for it."""
        return self._nulls().get(method)

    def _nulls(self) -> dict[str, Null]:
        """The nulls of all scores, those of attributions and of relevance among them."""
        made = [part.nulls for part in (self.attribution, self.relevance) if part is not None]
        every = dict(self.nulls)
        for nulls in made:
            for name, null in nulls.items():
                every.setdefault(name, null)
        return every

    def split(self) -> "tuple[Evidence, Evidence] | None":
        """Evidence of two halves of the sentences, without labels too rare in one of them.

        None where nothing was halved. A sample is not: what rests on one has no reliability.
        """
        if self.halves is None:
            return None
        first, second = self.halves
        enough = np.minimum(first.count, second.count) >= MIN_HALF
        labels = [x for x, is_kept in zip(self.moments.labels, enough, strict=True) if is_kept]
        if len(labels) < 2:
            return None
        return self._half(0, labels), self._half(1, labels)

    def _half(self, i: int, labels: list[str]) -> "Evidence":
        assert self.halves is not None
        return Evidence(
            self.halves[i].only(labels),
            attribution=_half_attribution(self.attribution, i, labels),
            relevance=_half_attribution(self.relevance, i, labels),
            integrated_gradients=_half_attribution(self.integrated_gradients, i, labels),
        )

    def __repr__(self) -> str:
        nulls = self._nulls()
        parts = {
            "two halves": self.halves,
            "a sample": self.sample,
            f"nulls of {', '.join(nulls)}": nulls or None,
            "contrasts with words held constant": self.adjusted,
            "attributions": self.attribution,
            "relevance": self.relevance,
            "integrated gradients": self.integrated_gradients,
            "output contrasts": self.output_contrast,
        }
        beside = ", ".join(name for name, part in parts.items() if part is not None)
        return f"Evidence: {self.moments!r}; with {beside or 'nothing else'}"

    def _tables(self) -> list[pd.DataFrame]:
        words = self.moments.count.astype(np.int64)
        return [pd.DataFrame({"label": self.moments.labels, "words": words})]


MIN_HALF = 2
"""Words that a label needs in each half to be scored there."""


def _half_attribution(whole: Attribution | None, i: int, labels: list[str]) -> Attribution | None:
    if whole is None or whole.halves is None:
        return None
    half = whole.halves[i]
    rows = [half.labels.index(x) for x in labels]
    return replace(
        half,
        labels=tuple(labels),
        count=half.count[rows],
        mean=half.mean[rows],
        frequency=None if half.frequency is None else half.frequency[rows],
    )
