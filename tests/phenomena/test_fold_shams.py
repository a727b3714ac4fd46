"""Shams of sets chosen anew in every fold: what the sets of two folds share, their shams share."""

import numpy as np
from test_phenomena_study import pairs_of, world

from grammar_lens.corpus.origin import Origin
from grammar_lens.lesions.outcomes import Ablation
from grammar_lens.neurons.neurons import KeyNeurons, Neurons
from grammar_lens.passes.moments import UnitStatistics
from grammar_lens.phenomena.damage_matched import GrowingPairShams
from grammar_lens.phenomena.fold_shams import shams_of_folds
from grammar_lens.phenomena.scoring import PreparedPairs


def keys_of(index: dict[str, list[int]], n_units: int = 200) -> KeyNeurons:
    """Key neurons in one layer."""
    sets = {}
    for name, units in index.items():
        n = len(units)
        at = np.array(units, np.int64)
        sets[name] = Neurons(name, "neuron", np.zeros(n, int), at, np.ones(n), np.zeros(n))
    shape = 1, n_units
    units = UnitStatistics(np.zeros(shape), np.ones(shape), np.zeros(shape))
    origin = Origin("m", "none", "upos", "next", "neuron")
    return KeyNeurons(sets, "planted", "by hand", n_units, 1, units, origin)


def test_shams_of_two_folds_share_what_the_sets_share() -> None:
    first = keys_of({"a": [0, 1, 2, 3], "b": [3, 4]})
    second = keys_of({"a": [2, 3, 5, 6], "b": []})
    assert first.units is not None
    rng = np.random.default_rng(0)
    made = shams_of_folds([first, second], np.ones((1, 200)), 30, rng, first.units)
    assert [len(of_fold) for of_fold in made] == [30, 30]
    for one, other in zip(*made, strict=True):
        assert [len(one["a"]), len(one["b"]), len(other["a"]), len(other["b"])] == [4, 2, 4, 0]
        assert len(set(one["a"]) & set(other["a"])) == 2
        assert len(set(one["a"]) & set(one["b"])) == 1
        assert one["b"].index[0] in other["a"].index
        for sham in (one, other):
            # no neuron that is key in either fold
            assert min([x.index.min(initial=99) for x in sham.values()]) > 6


def test_a_growing_sham_of_one_set_is_the_same_in_all_folds(tiny_hf, tiny_tokenizer) -> None:
    """The same pair in both folds falls alike under the sham of a set that both have, as a tag's."""
    model, keys = world(tiny_hf, tiny_tokenizer, spread=0.05)
    pairs = [pair for pair in pairs_of(10) for _ in range(2)]
    prepared = PreparedPairs(model, pairs)
    n = len(pairs)
    cut = keys.only(["NOUN"])
    shams = GrowingPairShams(
        *(
            model,
            prepared,
            [cut, cut],
            np.arange(n) % 2,
            np.ones(n, bool),
            Ablation("mean", 1.0),
            5,
        ),
        np.random.default_rng(0),
        show_progress=False,
    ).falls(np.full((1, n), 0.05))
    assert np.abs(shams.shams).max(2).min() > 0
    np.testing.assert_array_equal(shams.shams[:, :, 0::2], shams.shams[:, :, 1::2])
