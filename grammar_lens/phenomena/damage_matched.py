"""Damage-matched shams of pairs: random sets that change the log odds as much as the real lesions."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from grammar_lens.dissociation.grown_shams import (
    AIM,
    CORRECTIONS,
    GROUPS,
    NEAR,
    NEAR_ENOUGH,
    ROUNDS,
    START,
    nearest_size,
    next_size,
    search_sizes,
    units_taken,
)
from grammar_lens.dissociation.shams import growing_sham
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.model.about import Model
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.phenomena.battery import PairLesion, lesioned_log_odds
from grammar_lens.phenomena.effects import GrownFalls
from grammar_lens.phenomena.fold_shams import of_all_folds
from grammar_lens.phenomena.scoring import PreparedPairs
from grammar_lens.progress import track

Sizes = Mapping[str, int]


class GrowingPairShams:
    """Random sets of neurons for every lesion that grow until they change as much as it does.

    Damage is the mean |change of the log odds| over the sampled pairs of all phenomena: lesions raise the
    log odds of some pairs, so that signed changes would cancel. All shams of a lesion have one size, at
    which they change on average a tenth more than it does. It is found with `GROUPS` shams, each at
    its own part of the pairs, and mended where all shams at all sampled pairs miss it, at most twice. Where no real
    set has a unit of massive activations, the shams take none.
    A sham takes its neurons in one order in all folds, so that its sets there differ as little as the real
    ones or less: unrelated sets would make its mean over the folds vary too little.
    """

    def __init__(
        self,
        model: Model,
        prepared: PreparedPairs,
        sets: Sequence[KeyNeurons],
        fold: Int[np.ndarray, " pair"],
        sampled: Bool[np.ndarray, " pair"],
        ablation: Ablation,
        n_replicates: int,
        rng: np.random.Generator,
        *,
        token_budget: int | None = None,
        show_progress: bool = True,
    ) -> None:
        """`sets` are those cut at the pairs of each fold."""
        self._model, self._prepared, self._ablation = model, prepared, ablation
        self._sets, self._fold, self._sampled, self._n = sets, fold, sampled, n_replicates
        self._labels = sets[0].labels
        self._token_budget, self._show = token_budget, show_progress
        self._length = (
            np.array([len(x) for x in prepared.alignment.token_ids]).reshape(-1, 2).sum(1)
        )
        self._taken = units_taken(of_all_folds(sets))
        # orders of all units are large, so that they are drawn again from their seeds
        self._seeds = rng.integers(2**63, size=(len(self._labels), n_replicates))
        self._groups = self._grouped(rng)

    def falls(self, real: Float[np.ndarray, "lesion pair"]) -> GrownFalls:
        """The falls under all shams; `real` are those of the lesions themselves."""
        damage = dict(
            zip(self._labels, np.abs(real[:, self._sampled]).mean(1).tolist(), strict=True)
        )
        target = {label: AIM * x for label, x in damage.items()}
        n_units = self._sets[0].n_layers * self._sets[0].n_units
        most = dict.fromkeys(self._labels, n_units - len(self._taken))
        first = {x: max(1, START * max(len(keys[x]) for keys in self._sets)) for x in self._labels}
        sizes = search_sizes(self._in_groups, target, first, most, ROUNDS, NEAR)
        whole = [self._sampled] * self._n
        shams = np.zeros((self._n, len(self._labels), len(self._fold)))
        tried: dict[str, dict[int, float]] = {label: {} for label in sizes}
        for _ in range(1 + CORRECTIONS):
            made = self._changes(sizes, whole, "lesioning pairs, damage-matched shams")
            for i, (label, now) in enumerate(_damage(made, tuple(sizes)).items()):
                tried[label][sizes[label]] = now
                if nearest_size(tried[label], target[label]) == sizes[label]:
                    shams[:, self._labels.index(label)] = made[:, i]
            better = {x: next_size(tried[x], target[x], 1, most[x], NEAR_ENOUGH) for x in tried}
            sizes = {label: size for label, size in better.items() if size}
            if not sizes:
                break
        best = {x: nearest_size(tried[x], target[x]) for x in tried}
        done = {x: tried[x][best[x]] for x in tried}
        ratio = [done[x] / damage[x] if damage[x] > 0 else np.nan for x in self._labels]
        # an empty set has empty shams
        size = np.array([best[x] if self._has(x) else 0 for x in self._labels], np.int64)
        return GrownFalls(np.nan_to_num(shams), np.array(ratio), size)

    def _has(self, label: str) -> bool:
        """Whether a label has neurons in any fold."""
        return any(len(keys[label]) for keys in self._sets)

    def _grouped(self, rng: np.random.Generator) -> list[Bool[np.ndarray, " pair"]]:
        """Parts of the sampled pairs with pairs of every phenomenon; a sham is tried on each."""
        sampled = np.flatnonzero(self._sampled)
        order = np.lexsort((rng.random(len(sampled)), self._prepared.column[sampled]))
        n = max(1, min(GROUPS, self._n, len(sampled)))
        groups = []
        for g in range(n):
            part = np.zeros(len(self._sampled), bool)
            part[sampled[order[g::n]]] = True
            groups.append(part)
        return groups

    def _in_groups(self, sizes: dict[str, int], which: str) -> dict[str, float]:
        """Mean damage at all sampled pairs, of one sham at each part of them."""
        return _damage(
            self._changes(sizes, self._groups, f"matching damage ({which})"), tuple(sizes)
        )

    def _changes(
        self, sizes: Sizes, places: Sequence[Bool[np.ndarray, " pair"]], what: str
    ) -> Float[np.ndarray, "replicate lesion pair"]:
        """Falls of the log odds under one sham of each label and place, NaN at other pairs."""
        out = np.full((len(places), len(sizes), len(self._fold)), np.nan)
        parts = {place.tobytes(): place for place in places}
        each = [(f, key, at & (self._fold == f)) for key, at in parts.items() for f in self._folds]
        jobs = [(f, key, at) for f, key, at in each if at.any()]
        total = sum(self._length[at].sum() * (1 + len(sizes) * len(places)) for _, _, at in jobs)
        with track(what, int(total), unit="tokens", show=self._show) as step:
            for f, key, at in jobs:
                replicates = [r for r, place in enumerate(places) if place.tobytes() == key]
                cells = [(r, i, x) for r in replicates for i, x in enumerate(sizes)]
                lesions = [PairLesion(self._sham(f, x, r, sizes[x]), at) for r, _, x in cells]
                found = lesioned_log_odds(
                    self._model,
                    self._prepared,
                    lesions,
                    self._ablation,
                    token_budget=self._token_budget,
                    progress=step,
                ).whole
                for row, (r, i, _) in enumerate(cells, 1):
                    out[r, i, at] = found[0, at] - found[row, at]
        return out

    @property
    def _folds(self) -> range:
        return range(len(self._sets))

    def _sham(self, fold: int, label: str, replicate: int, size: int) -> Neurons:
        """The first neurons of a growing sham; none where the real set is empty."""
        keys = self._sets[fold]
        units, real = keys.units, keys[label]
        assert units is not None
        rng = np.random.default_rng(int(self._seeds[self._labels.index(label), replicate]))
        order = growing_sham(real, self._taken, keys.n_layers, keys.n_units, units.mean, rng)
        return order.top(size if len(real) else 0)


def _damage(
    changes: Float[np.ndarray, "replicate lesion pair"], labels: tuple[str, ...]
) -> dict[str, float]:
    """Mean |change| of each label over its shams and the pairs at which these were scored."""
    mean = np.nanmean(np.abs(changes), axis=(0, 2))
    return dict(zip(labels, mean.tolist(), strict=True))
