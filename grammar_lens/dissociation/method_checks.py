"""Check several methods' predictions against true lesions of single neurons and of groups."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from grammar_lens.corpus.bank import Treebank
from grammar_lens.corpus.corpus import Corpus
from grammar_lens.corpus.lexicon import Lexicon
from grammar_lens.defaults import SEED
from grammar_lens.dissociation.calibration import MethodCalibration, method_calibration
from grammar_lens.dissociation.checks import effects_of, own_rises
from grammar_lens.errors import require_at_least, require_between
from grammar_lens.lesions.outcomes import Ablation, Condition
from grammar_lens.lesions.prepared import ready
from grammar_lens.model.about import Model
from grammar_lens.model.weights import output_norms
from grammar_lens.neurons.neurons import KeyNeurons, all_neurons
from grammar_lens.selectivity.evidence import Attribution

ACTIVATION = "activation"
"""The method that knows no loss: mean absolute activation times the norm of the outgoing weight."""
Group = tuple[str, int, Int[np.ndarray, " _"]]
"""The kind of a group of neurons, the number of its sample, and the neurons by their place in the model."""


def calibrate_methods(
    model: Model,
    fresh: Treebank | Corpus,
    keys: KeyNeurons,
    predictions: Mapping[str, Attribution],
    *,
    lexicon: Treebank | Corpus | Lexicon,
    value: str = "mean",
    where: str = "every",
    sizes: Sequence[int] = (1, 10, 100),
    n_groups: int = 100,
    n_top: int = 5,
    samples: int = 5,
    labels: Sequence[str] | None = None,
    max_sentences: int | None = 50,
    seed: int = SEED,
    token_budget: int | None = None,
    show_progress: bool = True,
) -> MethodCalibration:
    """Predictions of several methods against the true effects of the same lesions, on held-out words.

    Beside the `predictions`, attributions of any kind by name, stands "activation": the mean absolute
    activation times the norm of the outgoing weight, the same for every label. Cut are `n_groups` random
    groups of each of the `sizes`, and single neurons: each method's `n_top` strongest for every label.
    All are dealt to `samples` disjoint samples. The prediction for a group is the sum over its neurons.
    Attributions of the very words that are lesioned tell how good a method is apart from chance in words.
    Raises GrammarLensError for attributions of other labels or sizes, and groups that the model has too few
    neurons for.
    """
    rng = np.random.default_rng([seed, 13])
    battery, cut, _ = ready(
        model, fresh, keys, lexicon, labels, max_sentences, seed, token_budget, show_progress
    )
    everything = all_neurons(keys)
    require_at_least("samples", samples, 1)
    require_at_least("n_groups", n_groups, 3 * samples)
    for size in sizes:
        require_between("size of a group", size, 1, len(everything))
    effects = {name: effects_of(made, keys, cut) for name, made in predictions.items()}
    assert keys.units is not None
    output = (keys.units.mean_abs * output_norms(model)).ravel()
    effects[ACTIVATION] = np.tile(output, (len(cut), 1))
    groups = list(_random_groups(len(everything), sizes, n_groups, samples, rng))
    groups += _strong_neurons(effects, n_top, samples, groups)
    conditions = [
        Condition(f"{n}", 1, everything.take(units), Ablation(value, 1.0, where))
        for n, (_, _, units) in enumerate(groups)
    ]
    outcomes = battery.run(conditions, codes=battery.studied, what="groups of neurons")
    kinds = np.array([kind for kind, _, _ in groups])
    members = {_kind(size): kinds == _kind(size) for size in sizes}
    if 1 in sizes and n_top:
        members[STRONG] = (kinds == STRONG) | (kinds == _kind(1))
    predicted = {
        name: np.stack([values[:, units].sum(1) for _, _, units in groups], 1)
        for name, values in effects.items()
    }
    sample = np.array([number for _, number, _ in groups])
    return method_calibration(cut, predicted, own_rises(outcomes, cut), members, sample)


STRONG = "1, strong ones too"
"""The lesions of single neurons, random ones and those that some method ranks first."""


def _kind(size: int) -> str:
    return f"{size} random"


def _random_groups(
    n_units: int, sizes: Sequence[int], n_groups: int, samples: int, rng: np.random.Generator
) -> Iterator[Group]:
    """Random groups of every size, disjoint as far as the model has neurons for them."""
    for size in sizes:
        n_decks = -(-n_groups * size // n_units)
        deck = np.concatenate([rng.permutation(n_units) for _ in range(n_decks)])
        for i in range(n_groups):
            yield _kind(size), i % samples, np.unique(deck[i * size : (i + 1) * size])


def _strong_neurons(
    effects: Mapping[str, Float[np.ndarray, "label unit"]],
    n_top: int,
    samples: int,
    groups: Sequence[Group],
) -> list[Group]:
    """The neurons that some method ranks first for some label, but for those that are cut already."""
    known = {int(units[0]) for *_, units in groups if len(units) == 1}
    strong = []
    for values in effects.values():
        for row in values:
            for rank, unit in enumerate(np.argsort(-row, kind="stable")[:n_top].tolist()):
                if unit not in known:
                    known.add(unit)
                    strong.append((STRONG, rank % samples, np.array([unit])))
    return strong
