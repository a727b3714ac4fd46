"""One neuron: a table of its scores at every position, and its examples."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from grammar_lens.errors import require_neuron
from grammar_lens.neurons.examples import Example, NeuronExamples
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.view_html import neuron_html, shortened
from grammar_lens.passes.moments import Moments
from grammar_lens.selectivity.result import Scores

COLUMNS = ("score", "rank", "cohens_d", "mean", "sd", "fires", "count")
_SHOWN = 3
"""Labels, words and tokens that a line of text names."""


@dataclass(frozen=True)
class NeuronView:
    """One neuron of a run.

    `tables[position]` has a row per label: `score` by the method of that position, `rank` among the
    label's key neurons (from 1, NaN for none), `cohens_d` of the label against the rest, `mean`,
    `sd` and `fires`, the share of the label's words where it fires, over `count` words.
    `examples[position]` are words and direct effects; positions without them are left out.
    """

    model: str
    treebank: str
    site: str
    layer: int
    index: int
    methods: dict[str, str]
    tables: dict[str, pd.DataFrame]
    examples: dict[str, NeuronExamples]

    @property
    def name(self) -> str:
        """The address, "layer.index"."""
        return f"{self.layer}.{self.index}"

    def to_frame(self) -> pd.DataFrame:
        """A row per position and label; `contrast` is the direct effect on the label's logits."""
        frames = []
        for position, table in self.tables.items():
            examples = self.examples.get(position)
            contrast = np.nan if examples is None else _by_label(examples, table["label"])
            frames.append(table.assign(contrast=contrast, position=position))
        frame = pd.concat(frames, ignore_index=True)
        return frame.reindex(columns=["position", "label", *COLUMNS, "contrast"])

    def __repr__(self) -> str:
        lines = [f"Neuron {self.name} of {self.model} on {self.treebank}"]
        for position, table in self.tables.items():
            lines.append(f"{position}: {self.methods[position]} {_strongest(table)}")
            examples = self.examples.get(position)
            if examples is not None:
                lines += [
                    f"  top     {_words(examples.top)}",
                    f"  bottom  {_words(examples.bottom)}",
                ]
        for examples in list(self.examples.values())[:1]:
            tokens = [
                " ".join(repr(shortened(e.token)) for e in effects[:_SHOWN])
                for effects in (examples.promoted, examples.suppressed)
            ]
            lines.append(f"promotes {tokens[0]}; suppresses {tokens[1]}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        title = f"Neuron {self.name} of {self.model} on {self.treebank}"
        return neuron_html(title, self.methods, self.tables, self.examples)


def _by_label(examples: NeuronExamples, labels: pd.Series) -> list[float]:
    known = dict(zip(examples.labels, examples.contrast.tolist(), strict=True))
    return [known.get(label, np.nan) for label in labels]


def _strongest(table: pd.DataFrame) -> str:
    """The labels that the neuron's score is furthest from the others' for, with its ranks."""
    away = (table["score"] - table["score"].median()).abs()
    rows = table.loc[away.sort_values(ascending=False, kind="stable").index[:_SHOWN]]
    return ", ".join(
        f"{row['label']} {row['score']:+.3g}"
        + ("" if np.isnan(row["rank"]) else f" (key neuron {row['rank']:.0f})")
        for _, row in rows.iterrows()
    )


def _words(examples: tuple[Example, ...]) -> str:
    return ", ".join(f"{shortened(e.word)} {e.label} {e.value:+.3g}" for e in examples[:_SHOWN])


def scores_of(
    layer: int, index: int, scores: Scores, moments: Moments, keys: KeyNeurons
) -> pd.DataFrame:
    """One of `NeuronView.tables`. Raises GrammarLensError for a neuron that does not exist."""
    require_neuron(layer, index, *scores.values.shape[1:], model=scores.origin.model)
    rank = [
        next((i for i, at in enumerate(keys[x], 1) if at == (layer, index)), np.nan)
        if x in keys
        else np.nan
        for x in scores.labels
    ]
    rows = [moments.labels.index(label) for label in scores.labels]
    count = moments.count[rows]
    return pd.DataFrame(
        {
            "label": scores.labels,
            "score": scores.values[:, layer, index],
            "rank": np.array(rank, float),
            "cohens_d": scores.effect[:, layer, index],
            "mean": moments.mean[rows, layer, index],
            "sd": np.sqrt(moments.m2[rows, layer, index] / np.maximum(count - 1, 1)),
            "fires": moments.fired[rows, layer, index] / np.maximum(count, 1),
            "count": count.astype(np.int64),
        }
    )
