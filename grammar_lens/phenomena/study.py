"""The study of phenomena: find each one's neurons on some minimal pairs, cut them, test on others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from grammar_lens.defaults import ALPHA, FOLDS, MASSIVE, SEED, SHAM_PAIRS, SHAMS, TOP_K
from grammar_lens.dissociation.changes import Changes
from grammar_lens.dissociation.matrices import diagonal_score, diagonal_scores
from grammar_lens.dissociation.pairs import crossed_pairs
from grammar_lens.dissociation.resampling import effect_intervals
from grammar_lens.dissociation.shams import output_matched_shams
from grammar_lens.dissociation.verdicts import ENOUGH
from grammar_lens.errors import GrammarLensError, require_at_least, require_one_of
from grammar_lens.lesions.holm import holm
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.lesions.prepared import LESION_TAGS
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons
from grammar_lens.neurons.overlap import overlap, reliability
from grammar_lens.neurons.same_model import require_same_model
from grammar_lens.phenomena.battery import LogOdds, PairLesion, lesioned_log_odds
from grammar_lens.phenomena.damage_matched import GrowingPairShams
from grammar_lens.phenomena.effects import Falls, GrownFalls, effects
from grammar_lens.phenomena.fold_shams import shams_of_folds
from grammar_lens.phenomena.folds import folds_of, groups_of
from grammar_lens.phenomena.localise import Choice, localise, terms_of
from grammar_lens.phenomena.pairs import MinimalPair, Pairs
from grammar_lens.phenomena.result import PhenomenaStudy
from grammar_lens.phenomena.scoring import PairScores, PreparedPairs
from grammar_lens.progress import track

N_BOOTSTRAP = 1000


def phenomena_study(
    model: Model,
    pairs: Sequence[MinimalPair],
    keys: KeyNeurons,
    *,
    tags: Sequence[str] | None = None,
    k: int = TOP_K,
    alpha: float = ALPHA,
    massive: float | None = MASSIVE,
    at: str = "token",
    folds: int = FOLDS,
    shams: int = SHAMS,
    sham_pairs: int | None = SHAM_PAIRS,
    damage_matched: int | None = None,
    value: str = "mean",
    dose: float = 1.0,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
    allow_other_model: bool = False,
) -> PhenomenaStudy:
    """Cuts each phenomenon's neurons, and each tag's, and measures the preference for good sentences.

    `keys` are the tags' key neurons; `tags` says which are cut, by default the eight of a lesion study,
    none for (). Their unit statistics are the means of mean lesions. A phenomenon's `k` neurons are those
    whose lesion lowers the log odds of its pairs most, to first order, beyond that of phenomena of other
    terms, with q of at most `alpha` when signs are flipped. `at` is where these log odds are attributed:
    at the first "token" that differs, or over the whole "sentence", for phenomena whose evidence comes
    after the difference ("What does the man ..."). They are chosen outside each of `folds` folds
    and cut at the pairs inside, so no pair is used for both. Each of `shams` replaces all key neurons by
    others of like output in the same layers, and is made at `sham_pairs` pairs of each phenomenon (None:
    all). `damage_matched` is the number of shams that grow until they change the log odds as much (see
    `GrowingPairShams`), and then decide; None makes as many as there are shams where those carry less than
    nine tenths of the real sets' output, for phenomena and tags apart. `value` is "mean" or "zero".
    Raises GrammarLensError for pairs that cannot be scored or are too few, and for key neurons of a
    model with other weights, unless `allow_other_model`.
    """
    require_same_model(model, keys, allow_other_model=allow_other_model)
    require_at_least("shams", shams, 0)
    require_at_least("damage_matched", damage_matched or 0, 0)
    require_one_of("lesion value", value, ("mean", "zero"))
    require_one_of("at", at, ("sentence", "token"))
    if sham_pairs is not None:
        require_at_least("sham_pairs", sham_pairs, 1)
    cut = keys.only(_tags(keys, tags))
    prepared = PreparedPairs(model, pairs)
    names = prepared.phenomena
    if both := [name for name in names if name in cut]:
        raise GrammarLensError(
            f"{both[0]!r} is both a phenomenon and a tag: rename the file of pairs"
        )
    rng = np.random.default_rng([seed, 19])
    groups = groups_of(prepared.pairs)
    fold = folds_of(prepared.pairs, groups, folds, rng)
    with track("localising", prepared.n_read(at), unit="tokens", show=show_progress) as step:
        sets, whole = localise(
            model,
            prepared,
            groups,
            fold,
            keys,
            Choice(k, alpha, massive, at),
            seed=seed,
            token_budget=token_budget,
            progress=step,
        )
    sampled = _sample(prepared.column, sham_pairs, rng)
    plan = _Plan(model, prepared, sets, cut, fold, sampled, Ablation(value, float(dose)))
    plan.draw(shams, rng)
    with track("lesioning pairs", plan.total, unit="tokens", show=show_progress) as step:
        intact = prepared.score(model, token_budget, step)
        own, of_tags = plan.measure(token_budget, step)
    shams_of = {"token_budget": token_budget, "show_progress": show_progress}
    grown, grown_tags = plan.grow(own, of_tags, damage_matched, rng, **shams_of)
    column = prepared.column
    shared = {"phenomena": names, "column": column}
    on_own = effects(names, falls=own, grown=grown, **plan.sizes_of_own(), **shared)
    deciding = own if grown is None else replace(own, shams=grown.shams)
    everywhere, sample = _changes(names, column, groups, deciding)
    accuracy_fall = intact.by_phenomenon(intact.right) - on_own.accuracy
    dominance, specificity = effect_intervals(everywhere, rng, N_BOOTSTRAP)
    return PhenomenaStudy(
        phenomena=names,
        terms=terms_of(prepared.pairs),
        n_pairs=np.bincount(column),
        n_sham_pairs=np.bincount(column[sampled], minlength=len(names)),
        folds=folds,
        k=k,
        ablation=plan.ablation,
        intact=intact.to_frame(),
        own=on_own,
        tags=effects(cut.labels, falls=of_tags, grown=grown_tags, **plan.sizes_of_tags(), **shared)
        if len(cut)
        else None,
        s_star=diagonal_score(sample.matrix()),
        s_star_sham=diagonal_scores(sample.sham_matrices()),
        crossed_pairs=crossed_pairs(everywhere, sample, accuracy_fall, rng, N_BOOTSTRAP),
        dominance_interval=dominance,
        specificity_interval=specificity,
        keys=whole,
        overlap=_overlap(whole, cut),
        reliability=reliability(*sets).to_frame().reset_index() if folds == 2 else pd.DataFrame(),
        notes=(*(pairs.notes if isinstance(pairs, Pairs) else ()), *prepared.left_out),
        origin=whole.origin,
        pairs=_pair_table(intact, fold, {**_by_name(names, own), **_by_name(cut.labels, of_tags)}),
    )


def _tags(keys: KeyNeurons, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The labels to cut: those asked for, or the usual ones that have key neurons."""
    present = [label for label in keys if len(keys[label])]
    if wanted is None:
        usual = [label for label in LESION_TAGS if label in present]
        return tuple(usual or present[: len(LESION_TAGS)])
    for label in wanted:
        if label not in present:
            raise GrammarLensError(
                f"{label!r} has no key neurons: there are {', '.join(present) or 'none'}"
            )
    return tuple(wanted)


def _sample(
    column: Int[np.ndarray, " pair"], most: int | None, rng: np.random.Generator
) -> Bool[np.ndarray, " pair"]:
    """At most so many random pairs of each phenomenon."""
    if most is None:
        return np.ones(len(column), bool)
    sampled = np.zeros(len(column), bool)
    for i in range(int(column.max()) + 1):
        sampled[rng.permutation(np.flatnonzero(column == i))[:most]] = True
    return sampled


@dataclass
class _Plan:
    """The lesions to be made in each fold, and the pairs they are scored at."""

    model: Model
    prepared: PreparedPairs
    sets: list[KeyNeurons]
    """The neurons of the phenomena that were chosen outside each fold."""
    cut: KeyNeurons
    """The tags' neurons, the same in every fold."""
    fold: Int[np.ndarray, " pair"]
    sampled: Bool[np.ndarray, " pair"]
    ablation: Ablation

    def draw(self, n_shams: int, rng: np.random.Generator) -> None:
        """Draws the shams of each fold's sets, and of the tags'."""
        units = self.cut.units
        assert units is not None
        self.output = units.mean_abs * output_norms(self.model)
        draw = (self.output, n_shams, rng, units)
        self.shams = shams_of_folds(self.sets, *draw)
        self.tag_shams = output_matched_shams(self.cut, *draw)
        self.n_shams = n_shams

    @property
    def total(self) -> int:
        """Tokens times lesions, the intact model's among them."""
        length = np.array([len(ids) for ids in self.prepared.alignment.token_ids]).reshape(-1, 2)
        n = len(self.sets[0]) + len(self.cut)
        own, sampled = int(length.sum()), int(length[self.sampled].sum())
        return own * (n + 2) + (sampled * (n * self.n_shams + 1) if self.n_shams else 0)

    def measure(self, token_budget: int | None, step: object) -> tuple[Falls, Falls]:
        """Effects of the phenomena's and of the tags' lesions on every pair."""
        n_own, n_tags = len(self.sets[0]), len(self.cut)
        n, n_pairs = n_own + n_tags, len(self.fold)
        fall, token, right, token_right = (np.zeros((n, n_pairs)) for _ in range(4))
        shams = np.zeros((self.n_shams, n, n_pairs))
        for f, sets in enumerate(self.sets):
            here = self.fold == f
            real = [PairLesion(s, here) for s in (*sets.values(), *self.cut.values())]
            found = self._run(real, token_budget, step)
            for out, values in ((fall, found.whole), (token, found.token)):
                out[:, here] = values[0, here] - values[1:, here]
            right[:, here] = found.whole[1:, here] > 0
            token_right[:, here] = found.token[1:, here] > 0
            at = here & self.sampled
            if not (self.n_shams and at.any()):
                continue
            lesions = [
                PairLesion(s, at)
                for own, tags in zip(self.shams[f], self.tag_shams, strict=True)
                for s in (*own.values(), *tags.values())
            ]
            found = self._run(lesions, token_budget, step)
            change = found.whole[0, at] - found.whole[1:, at]
            shams[:, :, at] = change.reshape(self.n_shams, n, -1)
        made = (
            Falls(
                fall[part],
                token[part],
                right[part],
                token_right[part],
                self.sampled,
                shams[:, part],
            )
            for part in (slice(0, n_own), slice(n_own, n))
        )
        own, tags = made
        return own, tags

    def grow(
        self,
        own: Falls,
        of_tags: Falls,
        wanted: int | None,
        rng: np.random.Generator,
        *,
        token_budget: int | None,
        show_progress: bool,
    ) -> tuple[GrownFalls | None, GrownFalls | None]:
        """Damage-matched shams of the phenomena's and of the tags' lesions, where they are needed."""
        tags = [self.cut] * len(self.sets) if len(self.cut) else []
        studies = ((self.sets, own, self.sizes_of_own()), (tags, of_tags, self.sizes_of_tags()))
        made = []
        for sets, falls, sizes in studies:
            weak = bool((sizes["output_ratio"] < ENOUGH).any())
            n = (self.n_shams if weak else 0) if wanted is None else wanted
            growing = (
                GrowingPairShams(
                    self.model,
                    self.prepared,
                    sets,
                    self.fold,
                    self.sampled,
                    self.ablation,
                    n,
                    rng,
                    token_budget=token_budget,
                    show_progress=show_progress,
                )
                if n and sets
                else None
            )
            made.append(growing and growing.falls(falls.whole))
        return made[0], made[1]

    def _run(self, lesions: list[PairLesion], token_budget: int | None, step: object) -> LogOdds:
        options = {"token_budget": token_budget, "progress": step}
        return lesioned_log_odds(self.model, self.prepared, lesions, self.ablation, **options)  # pyright: ignore[reportArgumentType]

    def sizes_of_own(self) -> dict[str, Float[np.ndarray, " lesion"]]:
        """Mean number of neurons of each phenomenon's sets, and their shams' share of their output."""
        return _sizes(self.sets, self.shams, self.output)

    def sizes_of_tags(self) -> dict[str, Float[np.ndarray, " lesion"]]:
        """The same of the tags' sets."""
        return _sizes([self.cut], [self.tag_shams], self.output)


def _sizes(
    sets: Sequence[KeyNeurons],
    shams: Sequence[Sequence[KeyNeurons]],
    output: Float[np.ndarray, "layer unit"],
) -> dict[str, Float[np.ndarray, " lesion"]]:
    """Mean number of neurons of each set over the folds, and the expected output of its shams in all of
    them over its own; 1 without shams or output."""

    def total(of: KeyNeurons) -> Float[np.ndarray, " lesion"]:
        return np.array([float(output[s.layer, s.index].sum()) for s in of.values()])

    n = np.mean([[len(s) for s in keys.values()] for keys in sets], axis=0)
    real = np.sum([total(keys) for keys in sets], axis=0)
    sham = np.sum([np.mean([total(x) for x in of], axis=0) for of in shams if of], axis=0)
    ratio = np.divide(sham, real, out=np.ones(len(real)), where=(real > 0) & bool(shams[0]))
    return {"n_neurons": n, "output_ratio": ratio}


def _changes(
    names: tuple[str, ...],
    column: Int[np.ndarray, " pair"],
    groups: Int[np.ndarray, " pair"],
    falls: Falls,
) -> tuple[Changes, Changes]:
    """The falls as a lesion study's changes of loss: at all pairs, and at those of the shams."""
    every = Changes(
        labels=names,
        place=np.arange(len(column)),
        column=column,
        sentence=groups,
        real=falls.whole,
        sham=falls.shams,
    )
    at = np.flatnonzero(falls.sampled)
    sample = replace(
        every,
        place=at,
        column=column[at],
        sentence=groups[at],
        real=falls.whole[:, at],
        sham=falls.shams[:, :, at],
    )
    return every, sample


def _overlap(own: KeyNeurons, tags: KeyNeurons) -> pd.DataFrame:
    """A row per phenomenon and tag: neurons shared, expected by chance, p and p after Holm."""
    found = overlap(replace(own, sets={**own.sets, **tags.sets}))
    rows = [
        {
            "phenomenon": name,
            "tag": tag,
            "n": len(own[name]),
            "n_tag": len(tags[tag]),
            "shared": int(found.shared[i, j]),
            "expected": float(found.expected[i, j]),
            "p": float(found.p_value[i, j]),
        }
        for i, name in enumerate(own)
        for j, tag in enumerate(tags, len(own))
    ]
    table = pd.DataFrame(rows)
    return table.assign(holm=holm(table["p"].to_numpy())) if len(table) else table


def _by_name(names: Sequence[str], falls: Falls) -> dict[str, Float[np.ndarray, " pair"]]:
    return dict(zip(names, falls.whole, strict=True))


def _pair_table(
    intact: PairScores, fold: Int[np.ndarray, " pair"], falls: dict[str, Float[np.ndarray, " pair"]]
) -> pd.DataFrame:
    """A row per pair: its sentences, fold, scores intact, and the fall of its log odds by lesion."""
    table = intact.pair_frame().assign(fold=fold)
    return pd.concat(
        [table, pd.DataFrame({f"fall_{name}": x for name, x in falls.items()})], axis=1
    )
