"""Compare texts written with and without a lesion, and the tags of their words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from grammar_lens.defaults import SEED
from grammar_lens.display import Shown
from grammar_lens.generation.shares import count_tags, tag_shares
from grammar_lens.generation.tagging import Tagger
from grammar_lens.generation.writing import Written
from grammar_lens.probing.evaluation import ProbeResult


@dataclass(frozen=True)
class Comparison(Shown):
    """Texts by prompt and sample, intact and under the lesion, and the tags of their words.

    `tags` is the table of `tag_shares`. The tags are a probe's, right as often as `probe` says on
    held-out words. `unread` counts the words of both that it could not read.
    """

    prompts: tuple[str, ...]
    intact: tuple[tuple[str, ...], ...]
    lesioned: tuple[tuple[str, ...], ...]
    label: str
    n_neurons: int
    value: str
    dose: float
    temperature: float
    seed: int
    tags: pd.DataFrame
    unread: int
    probe: ProbeResult

    @property
    def n_samples(self) -> int:
        return len(self.intact[0])

    @property
    def lesion_name(self) -> str:
        return f"{self.n_neurons} {self.label} neurons, {self.value}, dose {self.dose:g}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        low_high = self.probe.accuracy_interval
        return {
            "lesion": {
                "label": self.label,
                "n_neurons": self.n_neurons,
                "value": self.value,
                "dose": self.dose,
            },
            "temperature": self.temperature,
            "seed": self.seed,
            "texts": [
                {"prompt": prompt, "intact": list(intact), "lesioned": list(lesioned)}
                for prompt, intact, lesioned in zip(
                    self.prompts, self.intact, self.lesioned, strict=True
                )
            ],
            "tags": self.tags.to_dict("records"),
            "words": {
                "intact": int(self.tags.n_intact.sum()),
                "lesioned": int(self.tags.n_lesioned.sum()),
                "unread": self.unread,
            },
            "tagger": {
                "accuracy": self.probe.accuracy,
                "accuracy_interval": None if low_high is None else list(low_high),
                "fresh": self.probe.fresh,
                "n_fresh_words": self.probe.n_fresh_words,
            },
        }

    def __repr__(self) -> str:
        words = f"{self.tags.n_intact.sum():,} and {self.tags.n_lesioned.sum():,} words"
        return (
            f"Comparison of texts with and without a lesion ({self.lesion_name}): "
            f"{len(self.prompts)} prompts, {self.n_samples} samples of each, {words} tagged"
        )

    def _tables(self) -> list[pd.DataFrame]:
        rows = [
            (prompt, intact[0], lesioned[0])
            for prompt, intact, lesioned in zip(
                self.prompts, self.intact, self.lesioned, strict=True
            )
        ]
        texts = pd.DataFrame(rows, columns=pd.Index(["prompt", "intact", "under the lesion"]))
        return [texts, self.tags]


def compare_tags(
    tagger: Tagger,
    intact: Sequence[Sequence[Written]],
    lesioned: Sequence[Sequence[Written]],
    *,
    seed: int = SEED,
) -> tuple[pd.DataFrame, int]:
    """The table of `tag_shares` of texts by prompt and sample, and how many words were not read."""
    prompt = np.repeat(np.arange(len(intact)), [len(samples) for samples in intact])
    counts, unread = [], 0
    for texts in (intact, lesioned):
        flat = [written for samples in texts for written in samples]
        counted, missing = count_tags(
            flat, tagger.tag([written.text for written in flat]), tagger.probe.labels
        )
        counts.append(counted)
        unread += missing
    rng = np.random.default_rng(seed)
    return tag_shares(counts[0], counts[1], tagger.probe.labels, prompt, rng), unread
