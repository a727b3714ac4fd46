"""Donor activations at other words: the values that a resampling lesion puts in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from grammar_lens.corpus.alignment import Alignment, token_batches
from grammar_lens.display import Shown
from grammar_lens.errors import GrammarLensError
from grammar_lens.lesions.directions import Directions
from grammar_lens.model.about import Model, site_width
from grammar_lens.neurons.neurons import Neurons
from grammar_lens.passes.readers import FeatureReader
from grammar_lens.passes.stream import Tap, stream


@dataclass(frozen=True)
class Donors(Shown):
    """Activations of some units at some words of the intact model.

    The first `n_any` words are a random sample of all words; those after them see to it that each
    label has a few, for resampling within a label. `word` numbers the words of the corpus.
    """

    word: Int[np.ndarray, " donor"]
    label: Int[np.ndarray, " donor"]
    n_any: int
    addresses: dict[tuple[str, int], Int[np.ndarray, "..."]]
    """The units recorded at a site of a layer, sorted."""
    values: dict[tuple[str, int], Float[np.ndarray, "..."]]
    """Their activations, [donor, unit]."""
    position: str = "next"
    """Position at which words are read."""

    def __len__(self) -> int:
        return len(self.word)

    def of(
        self, site: str, layer: int, index: Int[np.ndarray, " unit"]
    ) -> Float[np.ndarray, "donor unit"]:
        """The activations of some units. Raises GrammarLensError for units that were not recorded."""
        known = self.addresses.get((site, layer), np.zeros(0, np.int64))
        missing = index[~np.isin(index, known)]
        if len(missing):
            raise GrammarLensError(
                f"unit {layer}.{missing[0]} at {site!r} was not recorded at other words: record the "
                "donors with all units that are lesioned"
            )
        return self.values[site, layer][:, np.searchsorted(known, index)]

    def choose(
        self,
        word: Int[np.ndarray, " place"],
        label: Int[np.ndarray, " place"],
        rng: np.random.Generator,
        *,
        within: bool,
    ) -> Int[np.ndarray, " place"]:
        """A random donor for every place, never the word that is read there.

        `word` and `label` are -1 where no word is read. With `within`, the donor has the label of
        the word; where none is read, or no other word has that label, it is any.
        """
        chosen = rng.integers(self.n_any, size=len(word))
        same = self.word[chosen] == word
        # the next of a random order is as random
        chosen[same] = (chosen[same] + 1) % self.n_any
        if not within:
            return chosen
        for code in np.unique(label[label >= 0]):
            candidates = np.flatnonzero(self.label == code)
            receivers = np.flatnonzero(label == code)
            drawn = rng.integers(max(len(candidates), 1), size=len(receivers))
            if len(candidates):
                again = self.word[candidates[drawn]] == word[receivers]
                drawn[again] = (drawn[again] + 1) % len(candidates)
                fit = self.word[candidates[drawn]] != word[receivers]
                chosen[receivers[fit]] = candidates[drawn[fit]]
        return chosen

    def __repr__(self) -> str:
        units = sum(len(a) for a in self.addresses.values())
        return (
            f"Donors: {units:,} units recorded at {len(self):,} words, {self.n_any:,} of them drawn "
            f"from all, read at {self.position!r}"
        )

    def _tables(self) -> list[pd.DataFrame]:
        rows = [(site, layer, len(a)) for (site, layer), a in self.addresses.items()]
        columns = pd.Index(["site", "layer", "units"])
        return [pd.DataFrame(rows, columns=columns)]


def record_donors(
    model: Model,
    alignment: Alignment,
    classes: Int[np.ndarray, " all_words"],
    sets: Sequence[Neurons | Directions],
    *,
    position: str,
    seed: int,
    n_words: int = 1000,
    per_label: int = 20,
    token_budget: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> Donors:
    """Activations of all units of the sets at `n_words` random words, and at some of each label.

    A word is taken when its class is not negative; the same seed draws the same words for whoever asks.
    Raises GrammarLensError with fewer than two words.
    """
    pool = np.random.default_rng([seed, 7]).permutation(np.flatnonzero(classes >= 0))
    if min(len(pool), n_words) < 2:
        raise GrammarLensError(
            f"{min(len(pool), n_words)} words to resample from, needs at least 2: use more sentences"
        )
    anyone, rest = pool[:n_words], pool[n_words:]
    have = np.bincount(classes[anyone], minlength=int(classes.max()) + 1)
    extra = [
        rest[classes[rest] == code][: max(0, per_label - have[code])] for code in range(len(have))
    ]
    words = np.concatenate([anyone, *extra])
    addresses = _addresses(model, sets)
    readers = {
        site: FeatureReader(len(words), np.array(pairs))
        for site, pairs in _by_site(addresses).items()
    }
    taps = [
        Tap.of_rows(site, position, words, len(classes), reader, reader.layers)
        for site, reader in readers.items()
    ]
    rows = np.unique(alignment.row[words])
    batches = token_batches(alignment, token_budget, rows=rows)
    stream(model, alignment, batches, taps, progress=progress)
    return Donors(
        word=words,
        label=classes[words],
        n_any=len(anyone),
        addresses=addresses,
        values=_split(addresses, readers),
        position=position,
    )


def _addresses(
    model: Model, sets: Sequence[Neurons | Directions]
) -> dict[tuple[str, int], Int[np.ndarray, "..."]]:
    """Every unit of the sets once, by site and layer; a set of directions needs all dimensions."""
    addresses: dict[tuple[str, int], Bool[np.ndarray, "..."]] = {}
    for units in sets:
        width = site_width(model, units.site)
        layers = [units.layer] if isinstance(units, Directions) else np.unique(units.layer).tolist()
        for layer in layers:
            mask = addresses.setdefault((units.site, layer), np.zeros(width, bool))
            if isinstance(units, Directions):
                mask[:] = True
            else:
                mask[units.index[units.layer == layer]] = True
    return {at: np.flatnonzero(addresses[at]) for at in sorted(addresses)}


def _by_site(
    addresses: dict[tuple[str, int], Int[np.ndarray, "..."]],
) -> dict[str, list[tuple[int, int]]]:
    sites: dict[str, list[tuple[int, int]]] = {}
    for (site, layer), index in addresses.items():
        sites.setdefault(site, []).extend((layer, unit) for unit in index.tolist())
    return sites


def _split(
    addresses: dict[tuple[str, int], Int[np.ndarray, "..."]], readers: dict[str, FeatureReader]
) -> dict[tuple[str, int], Float[np.ndarray, "..."]]:
    values, begin = {}, dict.fromkeys(readers, 0)
    for (site, layer), index in addresses.items():
        end = begin[site] + len(index)
        values[site, layer] = readers[site].values[:, begin[site] : end]
        begin[site] = end
    return values
